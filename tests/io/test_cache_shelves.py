"""Small entries on shelves: many in a file, found in memory, read without a thread."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.io.cachebench import Bench, content, fail, key
from vzfs.cache import DiskCache, EntryKey, library
from vzfs.cache import shelves as shelves_module
from vzfs.cache.folder import TOUCH_AFTER
from vzfs.cache.library import LOOK_AGAIN_AFTER
from vzfs.cache.segment import SMALL
from vzfs.cache.shelves import FEW

SHELF = "a shelf"


async def store(cache: DiskCache, numbers: range, length: int = 3000, shelf: str = SHELF) -> None:
    """Store entries in one go, and wait until they are written."""
    for number in numbers:
        assert cache.store(key(number, length), content(key(number, length)), shelf=shelf)
    await cache.written()


def open_files(bench: Bench) -> list[str]:
    """Return which files of the cache this process has open."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return [name for name in names if name.startswith(str(bench.folder))]


async def found(cache: DiskCache, numbers: range, length: int = 3000) -> list[int]:
    """Return which entries are there; what is there must be right."""
    there = []
    for number in numbers:
        data = await cache.get(key(number, length), SHELF)
        assert data in (None, content(key(number, length)))
        there += [number] if data is not None else []
    return there


async def test_entries_stored_together_share_a_file(bench: Bench) -> None:
    """What is stored on a shelf at one time lies in one file, and comes back from it, also after a restart."""
    cache = bench.cache()
    await store(cache, range(100))
    assert len(bench.segments()) == 1
    for one in (cache, bench.cache()):
        assert await found(one, range(101)) == list(range(100))


async def test_shelves_do_not_mix(bench: Bench) -> None:
    """An entry is looked for on its own shelf and nowhere else."""
    cache = bench.cache()
    await store(cache, range(3))
    assert await cache.get(key(1, 3000), "another shelf") is None
    assert not await cache.has(key(1, 3000), "another shelf")
    assert await cache.has(key(1, 3000), SHELF)
    assert not await cache.has(key(5, 3000), SHELF)


async def test_large_entries_have_a_file_each_whatever_their_shelf(bench: Bench) -> None:
    """Entries of more than 256 KiB, and those without a shelf, lie in files named by themselves."""
    cache = bench.cache()
    large = key(1, SMALL + 1)
    await cache.put(large, content(large), SHELF)
    await cache.put(key(2), content(key(2)))
    await cache.put(key(3, SMALL), content(key(3, SMALL)), SHELF)
    assert bench.path(large).exists()
    assert bench.path(key(2)).exists()
    assert len(bench.segments()) == 1
    for of in (large, key(3, SMALL)):
        assert await bench.cache().get(of, SHELF) == content(of)


async def test_an_entry_on_a_shelf_may_be_empty(bench: Bench) -> None:
    """No bytes at all are bytes like any other."""
    cache = bench.cache()
    await store(cache, range(3), 0)
    assert await bench.cache().get(key(1, 0), SHELF) == b""


async def test_the_last_put_on_a_shelf_counts(bench: Bench) -> None:
    """Bytes put again under a key replace those before, also for whoever comes later."""
    cache = bench.cache()
    for turn in range(2 * FEW):
        await cache.put(key(1), bytes([turn]) * 12, SHELF)
        assert await cache.get(key(1), SHELF) == bytes([turn]) * 12
    assert await bench.cache().get(key(1), SHELF) == bytes([turn]) * 12


async def test_a_known_entry_needs_no_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a shelf was opened, `peek` gives what it has from the page cache at once, and None for what it lacks."""
    await store(bench.cache(), range(20))
    cache = bench.cache()
    assert cache.peek(key(3, 3000), SHELF) is None
    assert await cache.get(key(3, 3000), SHELF) == content(key(3, 3000))
    hops: list[object] = []
    monkeypatch.setattr(trio.to_thread, "run_sync", hops.append)
    for number in range(20):
        assert cache.peek(key(number, 3000), SHELF) == content(key(number, 3000))
        assert await cache.get(key(number, 3000), SHELF) == content(key(number, 3000))
    assert cache.peek(key(20, 3000), SHELF) is None
    assert await cache.get(key(20, 3000), SHELF) is None
    assert hops == []
    statistics = cache.statistics()
    assert (statistics.hits, statistics.at_once, statistics.misses) == (41, 40, 1)


async def test_what_was_not_there_a_moment_ago_is_not_waited_for(bench: Bench) -> None:
    """Of a shelf that was just looked at, what it lacks is known without a checkpoint, for a moment."""
    cache = bench.cache()
    await store(cache, range(3))
    assert await found(cache, range(3, 5)) == []
    misses = cache.statistics().misses
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await found(cache, range(10)) == [0, 1, 2]
    assert not scope.cancelled_caught
    assert cache.statistics().misses == misses + 7
    bench.monotonic.time += LOOK_AGAIN_AFTER
    with trio.CancelScope() as scope:
        scope.cancel()
        await found(cache, range(10))
    assert scope.cancelled_caught


async def test_what_is_not_in_the_page_cache_is_read_in_a_thread(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Where reading would wait for the disk, `peek` gives nothing and `get` waits."""
    cache = bench.cache()
    await store(cache, range(3))
    await cache.get(key(0, 3000), SHELF)
    break_os(preadv=fail(errno.EAGAIN))
    assert cache.peek(key(1, 3000), SHELF) is None
    assert await cache.get(key(1, 3000), SHELF) == content(key(1, 3000))


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
async def test_a_filesystem_that_always_waits_is_read_in_threads(
    bench: Bench, break_os: Callable[..., None], number: int
) -> None:
    """Where the filesystem cannot read without waiting, it is asked once, and nothing is in trouble."""
    tries: list[object] = []

    def preadv(*args: object) -> int:
        tries.append(args)
        raise OSError(number, os.strerror(number))

    cache = bench.cache()
    await store(cache, range(3))
    break_os(preadv=preadv)
    assert await found(cache, range(3)) == [0, 1, 2]
    assert len(tries) == 1
    assert cache.peek(key(1, 3000), SHELF) is None


async def test_opening_a_shelf_lists_one_folder(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Making a cache lists nothing; the first read of a shelf lists the folder that it lies in, and no other."""
    for shelf in ("x", "y", SHELF):
        await store(bench.cache(), range(5), shelf=shelf)
    scans: list[object] = []
    opens: list[object] = []

    def open_(path: str, *args: int, **how: int) -> int:
        opens.append(path)
        return os.open(path, *args, **how)

    break_os(scandir=lambda at: (scans.append(at), os.scandir(at))[1], open=open_)
    cache = bench.cache()
    assert (scans, opens) == ([], [])
    assert await found(cache, range(10)) == list(range(5))
    assert len(scans) == 1
    (segment,) = {path for path in opens if "/segments/" in str(path)}
    assert opens.count(segment) == 1


async def test_what_another_process_wrote_is_seen_soon(bench: Bench) -> None:
    """A shelf that lacks an entry is looked at again after some seconds, and not before."""
    one, other = bench.cache(), bench.cache()
    assert await found(one, range(3)) == []
    await store(other, range(3))
    assert await found(one, range(3)) == []
    bench.monotonic.time += LOOK_AGAIN_AFTER
    assert await found(one, range(3)) == [0, 1, 2]


async def test_readers_of_one_shelf_open_it_once(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Those who want entries of a shelf that is not known wait for one listing."""
    await store(bench.cache(), range(20))
    scans: list[object] = []
    break_os(scandir=lambda at: (scans.append(at), os.scandir(at))[1])
    cache = bench.cache()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(cache.get, key(number, 3000), SHELF)
    assert len(scans) == 1
    assert cache.statistics().hits == 20


async def test_descriptors_and_tables_are_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many shelves are read, few files are open and few tables held; all is read right again."""
    monkeypatch.setattr(shelves_module, "MAX_DESCRIPTORS", 4)
    monkeypatch.setattr(shelves_module, "MAX_ROWS", 100)
    cache = bench.cache()
    for shelf in range(20):
        await store(cache, range(5), 100, f"shelf {shelf}")
    before = len(open_files(bench))
    for _ in range(2):
        for shelf in range(20):
            for number in range(5):
                of = key(number, 100)
                assert await cache.get(of, f"shelf {shelf}") == content(of)
    assert len(open_files(bench)) <= before + 4
    assert sum(shelf.weight for shelf in cache._library._shelves) <= 100


async def test_a_segment_that_nobody_reads_is_closed(bench: Bench) -> None:
    """What was not read for a minute is not held open, and a read opens it again."""
    cache = bench.cache()
    await store(cache, range(3))
    for _ in range(2):
        assert await found(cache, range(3)) == [0, 1, 2]
        await cache._library.let_go()
        assert len(open_files(bench)) == 1
        await cache._library.let_go()
        assert open_files(bench) == []


async def test_a_segment_that_somebody_deleted_is_let_go(bench: Bench) -> None:
    """A file that another process has deleted gives its room back within a minute, read or not."""
    cache = bench.cache()
    await store(cache, range(3))
    assert await found(cache, range(3)) == [0, 1, 2]
    bench.segments()[0].unlink()
    assert any("(deleted)" in name for name in open_files(bench))
    await cache._library.let_go()
    assert not any("(deleted)" in name for name in open_files(bench))
    assert await found(cache, range(3)) == []


async def test_a_segment_is_marked_as_used_now_and_then(bench: Bench) -> None:
    """Reads of a segment set its time if that is older than some minutes, also those that wait for nothing else."""
    cache = bench.cache()
    await store(cache, range(3))
    await cache.get(key(0, 3000), SHELF)
    (path,) = bench.segments()
    before = path.stat().st_mtime
    bench.now.time += TOUCH_AFTER
    assert await cache.get(key(0, 3000), SHELF) is not None
    assert path.stat().st_mtime == before
    bench.now.time += 1
    assert cache.peek(key(0, 3000), SHELF) is None
    assert await cache.get(key(0, 3000), SHELF) is not None
    assert path.stat().st_mtime == bench.now.time
    assert cache.peek(key(0, 3000), SHELF) is not None


async def test_many_small_segments_become_few(bench: Bench) -> None:
    """What is written to a shelf bit by bit is joined, and nothing is lost of it."""
    cache, other = bench.cache(), bench.cache()
    assert await found(other, range(1)) == []
    for number in range(100):
        await store(cache, range(number, number + 1))
        bench.monotonic.time += LOOK_AGAIN_AFTER
        assert await found(other, range(number + 1)) == list(range(number + 1))
        assert await found(cache, range(number + 1)) == list(range(number + 1))
    assert len(bench.segments()) <= 2 * FEW
    assert await found(bench.cache(), range(100)) == list(range(100))


async def test_entries_put_twice_are_kept_once(bench: Bench) -> None:
    """Joining segments leaves out what was replaced."""
    cache = bench.cache()
    for _ in range(10 * FEW):
        await cache.put(key(1, 3000), content(key(1, 3000)), SHELF)
    assert bench.size() < 3 * FEW * 4096
    assert await bench.cache().get(key(1, 3000), SHELF) == content(key(1, 3000))


async def test_a_clock_that_was_wrong_does_not_keep_what_was_replaced(bench: Bench) -> None:
    """What is written last counts, also where what was written before is dated later."""
    bench.now.time += 10**9
    await bench.cache().remember_version("s3://b/k", "etag 1")
    bench.now.time -= 10**9
    await bench.cache().remember_version("s3://b/k", "etag 2")
    assert await bench.cache().last_version("s3://b/k") == "etag 2"


async def test_two_that_join_the_same_segments_lose_nothing(bench: Bench) -> None:
    """Several caches that write to one shelf bit by bit, and join it, have all of it in the end."""
    caches = [bench.cache(), bench.cache(), bench.cache()]

    async def write(which: int) -> None:
        for number in range(which, 60, 3):
            await store(caches[which], range(number, number + 1))
            bench.monotonic.time += LOOK_AGAIN_AFTER
            await found(caches[which], range(60))

    async with trio.open_nursery() as nursery:
        for which in range(3):
            nursery.start_soon(write, which)
    assert await found(bench.cache(), range(60)) == list(range(60))
    assert all(cache.statistics().corrupt == cache.statistics().errors == 0 for cache in caches)


async def test_a_removed_folder_costs_fetches_only(bench: Bench) -> None:
    """Somebody who deletes the cache under a reader loses what it held, and what is stored then is there."""
    cache = bench.cache()
    await store(cache, range(3))
    await found(cache, range(3))
    shutil.rmtree(bench.folder)
    assert await found(cache, range(3)) in ([], [0, 1, 2])
    await store(cache, range(3, 6))
    assert await found(bench.cache(), range(6)) == [3, 4, 5]


async def test_an_eviction_gives_the_room_of_open_segments_back(bench: Bench) -> None:
    """After a pass has deleted files, none of them is held open."""
    cache = bench.cache(max_bytes=100_000)
    for number in range(40):
        bench.now.time += 1
        await store(cache, range(number, number + 1))
        await found(cache, range(number + 1))
    await cache.evict()
    assert 0 < cache.statistics().evicted_files < 40
    assert bench.size() <= 90_000
    assert not any("(deleted)" in name for name in open_files(bench))
    kept = await found(cache, range(40))
    assert kept == list(range(40))[-len(kept) :]


# -- damage --------------------------------------------------------------------------------------


async def test_no_changed_byte_of_a_segment_is_served(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """Whichever byte is changed: what is served is right, the file is deleted when it is met, with one warning."""
    await store(bench.cache(), range(3), 40)
    (path,) = bench.segments()
    blob = path.read_bytes()
    for position in range(len(blob)):
        path.write_bytes(blob[:position] + bytes([blob[position] ^ 0x40]) + blob[position + 1 :])
        cache = bench.cache()
        there = await found(cache, range(3), 40)
        assert len(there) < 3
        assert not path.exists()
        assert cache.statistics().corrupt == 1
        (line,) = told()
        assert line.startswith("WARNING a cache entry was damaged")


async def test_damage_under_an_open_segment_is_found(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """Bytes that change after a shelf was opened are not served, at once or with waiting."""
    cache = bench.cache()
    await store(cache, range(3))
    assert await found(cache, range(3)) == [0, 1, 2]
    (path,) = bench.segments()
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert cache.peek(key(2, 3000), SHELF) is None
    assert told() == []
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(cache.get, key(2, 3000), SHELF)
    assert cache.statistics().misses == 5
    assert not path.exists()
    assert len(told()) == 1
    path.parent.mkdir(exist_ok=True)
    await store(cache, range(3))
    assert await found(cache, range(3)) == [0, 1, 2]
    bench.segments()[0].write_bytes(b"")
    assert await found(cache, range(3)) == []
    assert len(told()) == 1


@pytest.mark.parametrize("end", [0, 1, 19, 60, 200, -1])
async def test_a_segment_cut_short_is_deleted(
    bench: Bench, told: Callable[[], list[str]], end: int
) -> None:
    """Wherever a segment ends too early, nothing of it is served."""
    await store(bench.cache(), range(3))
    (path,) = bench.segments()
    path.write_bytes(path.read_bytes()[:end])
    assert await found(bench.cache(), range(3)) == []
    assert not path.exists()
    assert len(told()) == 1


async def test_a_segment_in_the_place_of_another_is_deleted(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """A sound segment of another shelf, a file of one entry, and a foreign file are not believed."""
    cache = bench.cache()
    await store(cache, range(3))
    (path,) = bench.segments()
    await store(cache, range(3), shelf="another")
    await cache.put(key(1), content(key(1)))
    (other,) = [found for found in bench.segments() if found != path]
    for source in (other, bench.path(key(1))):
        path.write_bytes(source.read_bytes())
        assert await found(bench.cache(), range(3)) == []
        assert not path.exists()
        assert len(told()) == 1


async def test_a_link_or_pipe_in_the_place_of_a_segment_is_deleted(
    bench: Bench, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    """What is no file is not followed, keeps nobody waiting, and goes."""
    await store(bench.cache(), range(3))
    (path,) = bench.segments()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert await found(bench.cache(), range(3)) == []
    assert not path.is_symlink()
    os.mkfifo(path)
    assert await found(bench.cache(), range(3)) == []
    assert not path.exists()
    assert len(told()) == 2
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("call", ["preadv", "pread"])
async def test_a_disk_that_fails_under_an_open_segment_turns_the_cache_off(
    bench: Bench, break_os: Callable[..., None], told: Callable[[], list[str]], call: str
) -> None:
    """An error of the disk is told once by whoever waits, and nothing is read after it."""
    cache = bench.cache()
    await store(cache, range(3))
    await found(cache, range(3))
    broken = {"preadv": fail(errno.EAGAIN)} | {call: fail(errno.EIO)}
    break_os(**broken)
    assert cache.peek(key(1, 3000), SHELF) is None
    assert await cache.get(key(1, 3000), SHELF) is None
    break_os()
    assert cache.statistics().is_off
    assert cache.peek(key(1, 3000), SHELF) is None
    assert [line.split()[0] for line in told()] == ["WARNING"]


# -- anything, in any order ----------------------------------------------------------------------


class Salts:
    """The module `secrets`, which gives the same salts each time from the beginning."""

    count = 0

    @classmethod
    def token_hex(cls, size: int) -> str:
        cls.count += 1
        return f"{cls.count:0{2 * size}x}"


SHELVES = ("", "one", "two")
"""On which shelf the entries of the machine lie, by their number."""


class Machine(RuleBasedStateMachine):
    """Two caches on one folder against a dict: what is served was stored, and nothing is lost without a cause."""

    LIMIT = 120_000
    numbers = st.integers(0, 15)
    lengths = st.sampled_from([0, 1, 3000, 9000])
    which = st.sampled_from([0, 1])

    def __init__(self) -> None:
        super().__init__()
        Salts.count = 0
        self.scratch = tempfile.TemporaryDirectory()
        self.bench = Bench(Path(self.scratch.name) / "cache")
        self.caches = [self.bench.cache(self.LIMIT), self.bench.cache(self.LIMIT)]
        self.stored: set[EntryKey] = set()
        self.may_lack = False
        self.unwritten: list[set[EntryKey]] = [set(), set()]

    def teardown(self) -> None:
        self.scratch.cleanup()

    def later(self) -> None:
        self.bench.now.time += 1
        self.bench.monotonic.time += LOOK_AGAIN_AFTER

    @rule(which=which, number=numbers, length=lengths)
    def store(self, which: int, number: int, length: int) -> None:
        self.later()
        of, shelf = key(number, length), SHELVES[number % 3]
        assert self.caches[which].store(of, content(of), shelf=shelf)
        self.unwritten[which].add(of)

    @rule(which=which, number=numbers, length=lengths)
    def put(self, which: int, number: int, length: int) -> None:
        self.later()
        of, shelf = key(number, length), SHELVES[number % 3]
        trio.run(self.caches[which].put, of, content(of), shelf)
        self.stored.add(of)

    @rule(which=which)
    def write(self, which: int) -> None:
        trio.run(self.caches[which].written)
        self.stored |= self.unwritten[which]
        self.unwritten[which].clear()

    @rule(which=which, number=numbers, length=lengths, peeks=st.booleans())
    def get(self, which: int, number: int, length: int, peeks: bool) -> None:
        self.later()
        of, shelf = key(number, length), SHELVES[number % 3]
        cache = self.caches[which]
        data = cache.peek(of, shelf) if peeks else trio.run(cache.get, of, shelf)
        if of in self.unwritten[which]:
            assert data == content(of)
        elif of not in self.stored:
            assert data is None
        elif data is None:
            assert peeks or self.may_lack
        else:
            assert data == content(of)

    @rule(which=which)
    def restart(self, which: int) -> None:
        self.caches[which] = self.bench.cache(self.LIMIT)
        self.unwritten[which].clear()

    @rule(which=which)
    def evict(self, which: int) -> None:
        self.later()
        trio.run(self.caches[which].evict)
        assert self.bench.size() <= self.LIMIT * 95 // 100
        self.may_lack |= self.caches[which].statistics().evicted_files > 0

    @precondition(lambda self: self.bench.files())
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "swap", "delete", "empty"]))
    def harm(self, data: st.DataObject, how: str) -> None:
        files = sorted(self.bench.files())
        path = data.draw(st.sampled_from(files))
        blob = bytearray(path.read_bytes())
        self.may_lack = True
        match how:
            case "flip" if blob:
                blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
                path.write_bytes(blob)
            case "cut":
                path.write_bytes(blob[: data.draw(st.integers(0, len(blob)))])
            case "swap":
                path.write_bytes(data.draw(st.sampled_from(files)).read_bytes())
            case "delete":
                path.unlink()
            case _:
                path.write_bytes(b"")


def test_two_caches_serve_what_was_stored_or_nothing(
    told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any sequence of stores, reads, restarts, passes and damage, by two users of one folder, gives right bytes."""
    monkeypatch.setattr(library, "secrets", Salts)
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
    assert all(line.startswith("WARNING a cache entry was damaged") for line in told())
