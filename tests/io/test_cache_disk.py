"""The disk cache: what was put or nothing, whatever becomes of the files."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.io.cachebench import (
    DATA,
    KEY,
    Bench,
    content,
    fail,
    key,
    written,
)
from vzfs.cache import EntryKey
from vzfs.cache.folder import TOUCH_AFTER


async def test_what_was_put_is_there(bench: Bench) -> None:
    """An entry comes back as it was put, and no other key gives it."""
    cache = bench.cache()
    assert await cache.get(KEY) is None
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    assert await cache.get(EntryKey(KEY.location, "etag def", KEY.offset, KEY.length)) is None


async def test_the_last_put_counts(bench: Bench) -> None:
    """Bytes put again under a key replace those before."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    await cache.put(KEY, DATA[::-1])
    assert await cache.get(KEY) == DATA[::-1]


@pytest.mark.parametrize(
    "data",
    [memoryview(DATA), memoryview(bytearray(DATA)), memoryview(b"-" + DATA)[1:], bytearray(DATA)],
)
async def test_any_buffer_can_be_put(bench: Bench, data: memoryview) -> None:
    """Views, writable or not, store the bytes they show."""
    cache = bench.cache()
    await cache.put(KEY, data)
    assert await cache.get(KEY) == DATA


async def test_a_writable_buffer_may_change_after_it_was_put(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """What is stored is what the buffer held when it was put, even if its owner goes on with it."""
    buffer = bytearray(DATA)

    def writev(fd: int, parts: list[memoryview]) -> int:
        buffer[:] = b"x" * len(DATA)
        return os.writev(fd, parts)

    break_os(writev=writev)
    cache = bench.cache()
    await cache.put(KEY, memoryview(buffer))
    assert await cache.get(KEY) == DATA


async def test_an_entry_may_be_empty_or_large(bench: Bench) -> None:
    """Neither no bytes nor many of them are special."""
    cache = bench.cache()
    for length in (0, 1, 5_000_000):
        await cache.put(key(1, length), content(key(1, length)))
        assert await cache.get(key(1, length)) == content(key(1, length))


async def test_a_restart_keeps_entries(bench: Bench) -> None:
    """A cache made later on the same folder has what an earlier one stored."""
    await bench.cache().put(KEY, DATA)
    assert await bench.cache().get(KEY) == DATA


async def test_nothing_is_scanned_before_it_is_time_to_evict(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Making a cache touches nothing, and reading and writing list no folder."""
    scans: list[object] = []
    break_os(scandir=lambda place: (scans.append(place), os.scandir(place))[1])
    cache = bench.cache()
    assert not bench.folder.exists()
    assert await cache.get(KEY) is None
    assert not bench.folder.exists()
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    assert scans == []
    await cache.evict()
    assert scans != []


async def test_others_can_read_nothing(bench: Bench) -> None:
    """Folders have mode 0700 and files 0600, whatever the umask allows."""
    before = os.umask(0)
    try:
        await bench.cache().put(KEY, DATA)
        await bench.cache().remember_version(KEY.location, "etag abc")
    finally:
        os.umask(before)
    paths = [bench.folder, *bench.folder.rglob("*")]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in bench.files()} == {0o600}


async def test_a_hit_rewrites_nothing_and_is_marked_now_and_then(bench: Bench) -> None:
    """A hit leaves the file as it is, but for its time if that is older than some minutes."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    before = written(bench.path())
    bench.now.time += TOUCH_AFTER
    assert await cache.get(KEY) == DATA
    assert written(bench.path()) == before
    bench.now.time += 1
    assert await cache.get(KEY) == DATA
    after = written(bench.path())
    assert after[0] == before[0]
    assert (after[1] - before[1]) == (TOUCH_AFTER + 1) * 10**9
    assert cache.statistics().writes == 1


async def test_a_hit_that_cannot_be_marked_is_a_hit(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """That the time of use cannot be set costs nothing."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    bench.now.time += 2 * TOUCH_AFTER
    break_os(utime=fail(errno.EROFS))
    assert await cache.get(KEY) == DATA


async def test_what_cannot_be_an_entry_is_not_stored(bench: Bench) -> None:
    """An entry beyond the limit, and a key beyond what a header holds, are misses and no trouble."""
    cache = bench.cache(max_bytes=1000)
    beyond = [
        key(1, 1001),
        key(1, 1000),
        EntryKey("x" * 20_000, "v", 0, 4),
        EntryKey("x", "v", 2**63, 4),
    ]
    for one in beyond:
        await cache.put(one, bytes(one.length))
        assert await cache.get(one) is None
    assert not bench.folder.exists()
    await cache.remember_version("x" * 20_000, "v")
    assert await cache.last_version("x" * 20_000) is None


async def test_data_of_the_wrong_length_are_not_stored(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """A caller that puts other than the key says is told so in the log, and nothing is stored."""
    cache = bench.cache()
    await cache.put(KEY, DATA + b"!")
    (line,) = told()
    assert line.startswith("ERROR not cached: 13 bytes")
    assert await cache.get(KEY) is None


async def test_a_cancelled_call_leaves_the_cache_usable(bench: Bench) -> None:
    """Whoever stops waiting for the disk harms nobody else."""
    cache = bench.cache()
    with trio.CancelScope() as scope:
        scope.cancel()
        await cache.put(KEY, DATA)
    with trio.CancelScope() as scope:
        scope.cancel()
        await cache.get(KEY)
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA


async def test_statistics_count(bench: Bench) -> None:
    """Hits, misses, writes and bytes are counted."""
    cache = bench.cache()
    await cache.get(KEY)
    await cache.put(KEY, DATA)
    await cache.get(KEY)
    await cache.get(KEY)
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.bytes_read) == (2, 1, 24)
    assert (statistics.writes, statistics.bytes_written) == (1, bench.path().stat().st_size)
    assert (statistics.corrupt, statistics.errors, statistics.is_off, statistics.is_full) == (
        (0, 0, False, False)
    )


# -- damage --------------------------------------------------------------------------------------


async def test_a_changed_byte_is_a_miss(bench: Bench, told: Callable[[], list[str]]) -> None:
    """Whichever byte of an entry is changed: no bytes, the file deleted, one warning."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    blob = bench.path().read_bytes()
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 0x40
        bench.path().write_bytes(changed)
        assert await cache.get(KEY) is None
        assert not bench.path().exists()
        (line,) = told()
        assert line.startswith("WARNING a cache entry was damaged")
        assert KEY.location in line
    assert cache.statistics().corrupt == len(blob)
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA


async def test_an_entry_cut_short_or_continued_is_a_miss(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """Wherever an entry ends too early, or if it goes on: no bytes, the file deleted, one warning."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    blob = bench.path().read_bytes()
    for changed in [*(blob[:end] for end in range(len(blob))), blob + b"\0", blob + bytes(2**17)]:
        bench.path().write_bytes(changed)
        assert await cache.get(KEY) is None
        assert not bench.path().exists()
        assert len(told()) == 1


async def test_an_entry_under_the_name_of_another_is_a_miss(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """A sound entry that somebody renamed is not believed."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    bench.path(key(9)).parent.mkdir(exist_ok=True)
    bench.path().rename(bench.path(key(9)))
    assert await cache.get(key(9)) is None
    assert not bench.path(key(9)).exists()
    assert len(told()) == 1


async def test_a_link_in_the_place_of_an_entry_is_not_followed(
    bench: Bench, told: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Even a link to a sound entry is deleted, and what it points to stays."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    bench.path().rename(tmp_path / "elsewhere")
    bench.path().symlink_to(tmp_path / "elsewhere")
    assert await cache.get(KEY) is None
    assert len(told()) == 1
    assert not bench.path().is_symlink()
    assert (tmp_path / "elsewhere").exists()


async def test_a_pipe_in_the_place_of_an_entry_keeps_nobody_waiting(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """What is no regular file is damage like any other."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    bench.path().unlink()
    os.mkfifo(bench.path())
    assert await cache.get(KEY) is None
    assert len(told()) == 1
    assert not bench.path().exists()


class Machine(RuleBasedStateMachine):
    """A disk cache against a dict and the order in which its keys were used."""

    LIMIT = 40_000
    numbers = st.integers(0, 12)
    lengths = st.sampled_from([0, 1, 3000, 9000])

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.bench = Bench(Path(self.scratch.name) / "cache")
        self.cache = self.bench.cache(self.LIMIT)
        self.model: dict[EntryKey, bytes] = {}

    def teardown(self) -> None:
        self.scratch.cleanup()

    def use(self, of: EntryKey, data: bytes) -> None:
        self.model.pop(of, None)
        self.model[of] = data

    @rule(number=numbers, length=lengths, salt=st.integers(0, 255))
    def put(self, number: int, length: int, salt: int) -> None:
        self.bench.now.time += 2 * TOUCH_AFTER
        data = bytes([salt]) * length
        trio.run(self.cache.put, key(number, length), data)
        self.use(key(number, length), data)

    @rule(number=numbers, length=lengths)
    def get(self, number: int, length: int) -> None:
        self.bench.now.time += 2 * TOUCH_AFTER
        of = key(number, length)
        assert trio.run(self.cache.get, of) == self.model.get(of)
        if of in self.model:
            self.use(of, self.model[of])

    @rule()
    def restart(self) -> None:
        self.cache = self.bench.cache(self.LIMIT)

    @rule()
    def evict(self) -> None:
        is_over = self.bench.size() > self.LIMIT * 95 // 100
        trio.run(self.cache.evict)
        kept = [of for of in self.model if self.bench.path(of).exists()]
        assert kept == list(self.model)[len(self.model) - len(kept) :]
        assert self.bench.size() <= self.LIMIT * (90 if is_over else 95) // 100
        assert is_over or len(kept) == len(self.model)
        self.model = {of: self.model[of] for of in kept}

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        of = data.draw(st.sampled_from(sorted(self.model, key=repr)))
        path = self.bench.path(of)
        blob = bytearray(path.read_bytes())
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(blob)
        assert trio.run(self.cache.get, of) is None
        assert not path.exists()
        del self.model[of]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        of = data.draw(st.sampled_from(sorted(self.model, key=repr)))
        self.bench.path(of).unlink()
        del self.model[of]


def test_it_behaves_as_a_dict_that_forgets_the_oldest(told: Callable[[], list[str]]) -> None:
    """Any sequence of puts, gets, restarts, passes and damage gives what a dict gives, within the limit."""
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
    assert all(line.startswith("WARNING a cache entry was damaged") for line in told())


# -- versions ------------------------------------------------------------------------------------


async def test_the_last_version_is_remembered(bench: Bench) -> None:
    """The version remembered last comes back, also after a restart, for its own location."""
    cache = bench.cache()
    assert await cache.last_version("s3://b/k") is None
    await cache.remember_version("s3://b/k", "etag 1")
    await cache.remember_version("s3://b/k", "etag 2")
    assert await bench.cache().last_version("s3://b/k") == "etag 2"
    assert await cache.last_version("s3://b/l") is None


async def test_a_version_remembered_again_is_not_written_again(bench: Bench) -> None:
    """Remembering what is on disk already writes nothing."""
    cache = bench.cache()
    await cache.remember_version("s3://b/k", "etag 1")
    before = [written(path) for path in bench.records()]
    await cache.remember_version("s3://b/k", "etag 1")
    assert [written(path) for path in bench.records()] == before


async def test_versions_of_objects_beside_each_other_share_few_files(bench: Bench) -> None:
    """However often the versions of a folder's objects are remembered, they lie in a handful of files."""
    cache = bench.cache()
    for turn in range(3):
        for number in range(30):
            await cache.remember_version(f"s3://b/folder/{number}", f"etag {turn}")
    assert len(bench.records()) < 16
    for one in (cache, bench.cache()):
        found = [await one.last_version(f"s3://b/folder/{number}") for number in range(30)]
        assert found == ["etag 2"] * 30


async def test_a_damaged_version_is_none(bench: Bench, told: Callable[[], list[str]]) -> None:
    """Whichever byte of a file of records is changed: no version, the file deleted, one warning."""
    await bench.cache().remember_version("s3://b/k", "etag 1")
    (path,) = bench.records()
    blob = path.read_bytes()
    for position in range(len(blob)):
        path.write_bytes(blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :])
        assert await bench.cache().last_version("s3://b/k") is None
        assert not path.exists()
        assert len(told()) == 1


async def test_a_damaged_version_is_replaced(bench: Bench, told: Callable[[], list[str]]) -> None:
    """Remembering a version where the record is damaged stores it anew."""
    await bench.cache().remember_version("s3://b/k", "etag 1")
    (path,) = bench.records()
    path.write_bytes(b"?")
    cache = bench.cache()
    await cache.remember_version("s3://b/k", "etag 1")
    assert await cache.last_version("s3://b/k") == "etag 1"
    assert len(told()) == 1


async def test_versions_have_a_share_of_the_limit(bench: Bench) -> None:
    """However many objects are read, their records take a sixteenth of the limit, the oldest going first."""
    cache = bench.cache(max_bytes=2**20)
    for number in range(100):
        bench.now.time += 1
        await cache.remember_version(f"s3://b/{number}", "etag 1")
    await cache.put(KEY, DATA)
    await cache.evict()
    assert bench.size() - bench.path().stat().st_blocks * 512 <= 2**20 // 16
    assert await cache.last_version("s3://b/99") == "etag 1"
    assert await cache.get(KEY) == DATA
