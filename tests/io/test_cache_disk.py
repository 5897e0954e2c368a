"""The disk cache: what was put or nothing, from a folder that is shared, limited, and may fail."""

import contextlib
import errno
import json
import logging
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.conftest import ROOT
from vzfs.cache import DiskCache, EntryKey
from vzfs.cache import folder as folder_module
from vzfs.cache.entry import entry_name, record_name
from vzfs.cache.folder import ABANDONED_AFTER, TOUCH_AFTER
from vzfs.cache.health import RETRY_AFTER

KEY = EntryKey("s3://bucket/data.nc", "etag abc", 4096, 12)
DATA = b"twelve bytes"
LARGE = 2**30
NOBODY = 65534


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.time = 1_750_000_000.0

    def __call__(self) -> float:
        return self.time


class Bench:
    """Caches on one folder, and the two clocks they go by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = Clock()
        self.monotonic = Clock()

    def cache(self, max_bytes: int = LARGE, patience: float = 30) -> DiskCache:
        return DiskCache(
            self.folder,
            max_bytes=max_bytes,
            limiter=trio.CapacityLimiter(4),
            now=self.now,
            monotonic=self.monotonic,
            patience=patience,
        )

    def path(self, key: EntryKey = KEY) -> Path:
        return self.folder / entry_name(key)

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def size(self) -> int:
        """Measure what the folder holds, which somebody may be deleting from."""
        total = 0
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                total += max(status.st_size, status.st_blocks * 512)
        return total


class Faulty:
    """The module `os` with some functions replaced."""

    def __init__(self, **replaced: Callable[..., object]) -> None:
        self._replaced = replaced

    def __getattr__(self, name: str) -> object:
        return self._replaced.get(name) or getattr(os, name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache")


@pytest.fixture
def break_os(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that replaces system calls of the cache, or none of them."""

    def replace(**replaced: Callable[..., object]) -> None:
        monkeypatch.setattr(folder_module, "os", Faulty(**replaced))

    return replace


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Give a filesystem of 256 KiB, or skip."""
    mountpoint = tmp_path / "tmpfs"
    mountpoint.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(mountpoint)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(command, check=False).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Give a function that takes what was logged since the last call; a warning never taken fails the test."""
    caplog.set_level(logging.INFO, logger="vzfs.cache")

    def take() -> list[str]:
        lines = [
            f"{r.levelname} {r.getMessage()}" for r in caplog.records if r.name == "vzfs.cache"
        ]
        caplog.clear()
        return lines

    yield take
    assert [line for line in take() if not line.startswith("INFO")] == []


def written(path: Path) -> tuple[int, int, int]:
    """Say which file *path* is and when it was written and changed: the same as long as nobody touches it."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


async def within_limit(bench: Bench, limit: int) -> None:
    """Wait until the folder holds no more than *limit* bytes; fail if that takes too long."""
    with trio.fail_after(30):
        while bench.size() > limit:  # noqa: ASYNC110 -- there is no event: the folder is what is asked
            await trio.sleep(0.01)


def remount(mountpoint: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(mountpoint)], check=True)


def fail(number: int) -> Callable[..., object]:
    def call(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return call


def key(number: int, length: int = 12) -> EntryKey:
    return EntryKey("s3://bucket/data.nc", "etag abc", number * 1000, length)


def content(of: EntryKey) -> bytes:
    return random.Random(repr(of)).randbytes(of.length)


async def fill(bench: Bench, cache: DiskCache, count: int, length: int = 3000) -> None:
    """Put *count* entries, one second apart."""
    for number in range(count):
        bench.now.time += 1
        await cache.put(key(number, length), content(key(number, length)))


async def present(cache: DiskCache, count: int, length: int = 3000) -> list[int]:
    return [n for n in range(count) if await cache.get(key(n, length)) is not None]


# -- what a cache does ---------------------------------------------------------------------------


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
    """Remembering what is on disk already leaves the file as it is."""
    cache = bench.cache()
    await cache.remember_version("s3://b/k", "etag 1")
    before = written(bench.folder / record_name("s3://b/k"))
    await cache.remember_version("s3://b/k", "etag 1")
    assert written(bench.folder / record_name("s3://b/k")) == before


async def test_a_damaged_version_is_none(bench: Bench, told: Callable[[], list[str]]) -> None:
    """Whichever byte of a record is changed: no version, the file deleted, one warning."""
    cache = bench.cache()
    await cache.remember_version("s3://b/k", "etag 1")
    path = bench.folder / record_name("s3://b/k")
    blob = path.read_bytes()
    for position in range(len(blob)):
        path.write_bytes(blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :])
        assert await cache.last_version("s3://b/k") is None
        assert not path.exists()
        assert len(told()) == 1


async def test_a_damaged_version_is_replaced(bench: Bench) -> None:
    """Remembering a version where the record is damaged stores it anew."""
    cache = bench.cache()
    await cache.remember_version("s3://b/k", "etag 1")
    (bench.folder / record_name("s3://b/k")).write_bytes(b"?")
    await cache.remember_version("s3://b/k", "etag 1")
    assert await cache.last_version("s3://b/k") == "etag 1"


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


# -- eviction ------------------------------------------------------------------------------------


async def test_a_pass_deletes_what_was_used_longest_ago(bench: Bench) -> None:
    """A pass leaves nine tenths of the limit, the entries put or read last."""
    cache = bench.cache(max_bytes=100_000)
    await fill(bench, cache, 40)
    bench.now.time += TOUCH_AFTER
    assert await cache.get(key(3, 3000)) is not None
    await cache.evict()
    kept = await present(cache, 40)
    assert 3 in kept
    others = [number for number in kept if number != 3]
    assert others == list(range(40))[-len(others) :]
    assert 80_000 < bench.size() <= 90_000
    statistics = cache.statistics()
    assert statistics.evicted_entries == 40 - len(kept)
    assert statistics.evicted_bytes >= 3000 * statistics.evicted_entries


async def test_a_pass_over_a_folder_within_its_limit_deletes_nothing(bench: Bench) -> None:
    """What fits stays, and a folder that is not there is no trouble."""
    cache = bench.cache(max_bytes=1_000_000)
    await cache.evict()
    await fill(bench, cache, 20)
    await cache.evict()
    assert await present(cache, 20) == list(range(20))
    assert cache.statistics().evicted_entries == 0


async def test_a_time_in_the_future_does_not_keep_an_entry(bench: Bench) -> None:
    """An entry that another machine's clock dated years ahead is no younger than one of this moment."""
    cache = bench.cache(max_bytes=8192)
    await cache.put(key(0, 3000), bytes(3000))
    ahead = bench.now.time + 10**9
    os.utime(bench.path(key(0, 3000)), (ahead, ahead))
    assert await cache.get(key(0, 3000)) is not None
    assert bench.path(key(0, 3000)).stat().st_mtime == bench.now.time
    os.utime(bench.path(key(0, 3000)), (ahead, ahead))
    bench.now.time += 1
    await cache.put(key(1, 3000), bytes(3000))
    await cache.put(key(2, 3000), bytes(3000))
    await cache.evict()
    assert bench.size() <= 8192


async def test_a_pass_deletes_only_what_is_its_own(bench: Bench, tmp_path: Path) -> None:
    """Files of other names, links and what they point to, and young temporary files stay."""
    cache = bench.cache(max_bytes=1)
    await bench.cache().put(KEY, DATA)
    shard = bench.path().parent
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ("0" * 62)).write_bytes(b"x")
    stays = [
        shard / "notes.txt",
        shard / ("A" * 62),
        shard / ("0" * 63),
        bench.folder / "v1" / ("0" * 61),
        bench.folder / "manifests",
        shard / "tmp-0123456789abcdef",
    ]
    for path in stays:
        path.write_bytes(b"x")
    links = [shard / ("1" * 62), bench.folder / "v1" / ("ff" if shard.name != "ff" else "fe")]
    links[0].symlink_to(outside / ("0" * 62))
    links[1].symlink_to(outside)
    os.utime(stays[-1], (bench.now.time - ABANDONED_AFTER,) * 2)
    await cache.evict()
    assert not bench.path().exists()
    assert all(path.exists() for path in [*stays, *links, outside / ("0" * 62)])


async def test_abandoned_temporary_files_are_deleted(bench: Bench) -> None:
    """A temporary file over an hour old has lost its writer, and a pass deletes it."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    left = [
        bench.path().parent / "tmp-0123456789abcdef",
        bench.folder / "v1" / "tmp-0123456789abcdef",
    ]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (bench.now.time - ABANDONED_AFTER - 1,) * 2)
    await cache.evict()
    assert not any(path.exists() for path in left)
    assert await cache.get(KEY) == DATA


async def test_the_limit_is_kept_while_a_cache_runs(bench: Bench) -> None:
    """Passes are made as bytes are written: the limit holds without anybody asking."""
    cache = bench.cache(max_bytes=100_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        for number in range(100):
            bench.now.time += 1
            await cache.put(key(number, 3000), bytes(3000))
        await within_limit(bench, 100_000)
        nursery.cancel_scope.cancel()
    assert cache.statistics().evicted_entries > 70
    assert await cache.get(key(99, 3000)) is not None


async def test_a_running_cache_makes_a_pass_after_its_first_write(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """What an earlier process left beyond the limit goes soon, and nothing happens before a write."""
    await fill(bench, bench.cache(), 40)
    scans: list[object] = []
    break_os(scandir=lambda place: (scans.append(place), os.scandir(place))[1])
    cache = bench.cache(max_bytes=100_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        assert await cache.get(key(39, 3000)) is not None
        await trio.testing.wait_all_tasks_blocked()
        assert scans == []
        await cache.put(KEY, DATA)
        await within_limit(bench, 100_000)
        nursery.cancel_scope.cancel()
    assert await cache.get(KEY) == DATA


async def test_files_that_vanish_do_not_stop_a_pass(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Where another process deletes the same files first, a pass goes on and does not count them."""
    cache = bench.cache(max_bytes=50_000)
    await fill(bench, cache, 40)

    def lose(path: str, **how: int) -> None:
        os.unlink(path, **how)
        os.unlink(path, **how)

    break_os(unlink=lose)
    await cache.evict()
    assert bench.size() <= 50_000
    assert cache.statistics().evicted_entries == 0


# -- sharing -------------------------------------------------------------------------------------

CHURN = """
import json, random, sys, dataclasses, time
from pathlib import Path
import trio
from vzfs.cache import DiskCache, EntryKey

async def main(folder, seed):
    cache = DiskCache(Path(folder), max_bytes=300_000, limiter=trio.CapacityLimiter(4), patience=60)
    draw = random.Random(seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        for step in range(400):
            number = draw.randrange(60)
            key = EntryKey("s3://bucket/shared", "etag", number, 5000 + 200 * number)
            expected = random.Random(number).randbytes(key.length)
            found = await cache.get(key)
            assert found is None or found == expected, number
            if found is None:
                await cache.put(key, expected)
            await cache.remember_version(f"s3://bucket/{number % 7}", f"etag {seed}")
            version = await cache.last_version(f"s3://bucket/{number % 7}")
            assert version is None or version.startswith("etag "), version
        nursery.cancel_scope.cancel()
    await cache.evict()
    print(json.dumps(dataclasses.asdict(cache.statistics())))

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


def start(program: str, *words: object) -> list[str]:
    return [sys.executable, "-W", "error", "-c", program, *map(str, words)]


async def test_processes_share_a_folder_under_eviction(bench: Bench) -> None:
    """Processes that read, write and evict in one folder get right bytes or none, and meet no trouble."""
    outputs: list[bytes] = []

    async def churn(seed: int) -> None:
        done = await trio.run_process(
            start(CHURN, bench.folder, seed), capture_stdout=True, capture_stderr=True, cwd=ROOT
        )
        assert done.stderr == b""
        outputs.append(done.stdout)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for seed in range(3):
                nursery.start_soon(churn, seed)
    for output in outputs:
        statistics = json.loads(output)
        assert statistics["hits"] > 0
        assert statistics["writes"] > 0
        assert (statistics["corrupt"], statistics["errors"], statistics["is_off"]) == (0, 0, False)
    assert sum(json.loads(output)["evicted_entries"] for output in outputs) > 0
    await bench.cache(max_bytes=300_000).evict()
    assert bench.size() <= 300_000
    assert not [path for path in bench.files() if path.name.startswith("tmp-")]


async def test_two_caches_of_one_process_share_a_folder(bench: Bench) -> None:
    """Two mounts of one process read what either wrote, while both evict."""
    caches = [bench.cache(max_bytes=60_000), bench.cache(max_bytes=60_000)]
    seen = 0

    async def churn(seed: int) -> None:
        nonlocal seen
        draw = random.Random(seed)
        for step in range(150):
            bench.now.time += 1
            of = key(draw.randrange(25), 3000)
            writer, reader = draw.sample(caches, 2)
            await writer.put(of, content(of))
            found = await reader.get(of)
            assert found is None or found == content(of)
            seen += found is not None
            if step % 10 == 0:
                await draw.choice(caches).evict()

    async with trio.open_nursery() as nursery:
        for seed in range(3):
            nursery.start_soon(churn, seed)
    assert seen > 300
    assert all(cache.statistics().corrupt == cache.statistics().errors == 0 for cache in caches)
    await caches[0].evict()
    assert bench.size() <= 60_000


DIES = """
import os, signal, sys
from pathlib import Path
import trio
from vzfs.cache import DiskCache, EntryKey

real = os.write
def die_in_the_middle(fd, data):
    if len(data) <= 100_000:
        return real(fd, data)
    real(fd, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = die_in_the_middle

async def main(folder):
    cache = DiskCache(Path(folder), max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    await cache.put(EntryKey("s3://bucket/small", "etag", 0, 10), bytes(10))
    await cache.put(EntryKey("s3://bucket/large", "etag", 0, 1_000_000), bytes(1_000_000))

trio.run(main, sys.argv[1])
"""


async def test_a_killed_writer_leaves_a_usable_cache(bench: Bench) -> None:
    """Killed in the middle of a write, a process leaves whole entries and a temporary file that a pass deletes."""
    done = await trio.run_process(start(DIES, bench.folder), check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    (left,) = [path for path in bench.files() if path.name.startswith("tmp-")]
    assert 0 < left.stat().st_size < 1_000_000
    cache = bench.cache()
    large = EntryKey("s3://bucket/large", "etag", 0, 1_000_000)
    assert await cache.get(EntryKey("s3://bucket/small", "etag", 0, 10)) == bytes(10)
    assert await cache.get(large) is None
    await cache.put(large, bytes(1_000_000))
    assert await cache.get(large) == bytes(1_000_000)
    bench.now.time = left.stat().st_mtime + ABANDONED_AFTER + 1
    await cache.evict()
    assert not left.exists()
    assert await cache.get(large) == bytes(1_000_000)


# -- a disk that is full -------------------------------------------------------------------------


async def test_a_small_disk_is_a_small_cache(bench: Bench, tmpfs: Path) -> None:
    """Where the disk is smaller than the limit, the oldest entries make room, and nothing is said."""
    bench.folder = tmpfs / "cache"
    cache = bench.cache()
    await fill(bench, cache, 200)
    assert await cache.get(key(199, 3000)) == content(key(199, 3000))
    assert cache.statistics().writes == 200
    assert cache.statistics().evicted_entries > 100
    assert not cache.statistics().is_full


async def test_a_disk_that_others_fill_stops_the_writing_only(
    bench: Bench, tmpfs: Path, told: Callable[[], list[str]]
) -> None:
    """A full disk costs one warning and no read; when there is room again, writing goes on."""
    bench.folder = tmpfs / "cache"
    cache = bench.cache()
    filler = tmpfs / "filler"
    filler.write_bytes(bytes(250 * 1024))
    for number in range(5):
        await cache.put(key(number, 3000), bytes(3000))
        bench.monotonic.time += RETRY_AFTER + 1
        assert await cache.get(key(number, 3000)) is None
    (line,) = told()
    assert line.startswith("WARNING nothing more is written to the disk cache")
    assert str(bench.folder) in line
    assert cache.statistics().is_full
    assert not cache.statistics().is_off
    filler.unlink()
    bench.monotonic.time += RETRY_AFTER + 1
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    assert not cache.statistics().is_full
    (line,) = told()
    assert line.startswith("INFO the disk cache is written to again")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_makes_room_once_and_is_left_alone(
    bench: Bench, break_os: Callable[..., None], told: Callable[[], list[str]], number: int
) -> None:
    """No room: the oldest go; still none: one warning, nothing is written for a while, and hits go on."""
    cache = bench.cache()
    await fill(bench, cache, 40)
    tries: list[int] = []

    def write(*_: object) -> int:
        tries.append(1)
        raise OSError(number, os.strerror(number))

    break_os(write=write)
    for _ in range(5):
        await cache.put(KEY, DATA)
        await cache.remember_version(KEY.location, KEY.version)
    assert len(tries) == 2
    assert len(told()) == 1
    assert await present(cache, 40) == list(range(5, 40))
    bench.monotonic.time += RETRY_AFTER
    await cache.put(KEY, DATA)
    assert len(tries) == 4
    assert told() == []
    assert not [path for path in bench.files() if path.name.startswith("tmp-")]
    break_os()
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) is None
    bench.monotonic.time += RETRY_AFTER
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    assert [line.split()[0] for line in told()] == ["INFO"]


async def test_room_made_in_time_is_not_worth_a_word(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Where deleting the oldest entries is enough, the write succeeds and nothing is said."""
    cache = bench.cache()
    await fill(bench, cache, 40)

    def write(fd: int, data: memoryview) -> int:
        if not cache.statistics().evicted_entries:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    break_os(write=write)
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    assert not cache.statistics().is_full


async def test_a_part_of_the_disk_is_left_to_others(
    bench: Bench, break_os: Callable[..., None], told: Callable[[], list[str]]
) -> None:
    """With less than a twentieth of the filesystem free nothing is written, and of one's own the oldest goes."""
    cache = bench.cache()
    await fill(bench, cache, 10)
    free = SimpleNamespace(f_blocks=10_000, f_frsize=1000, f_bavail=450)
    break_os(fstatvfs=lambda _: free)
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) is None
    assert await present(cache, 10) == []
    assert [line.split()[0] for line in told()] == ["WARNING"]
    free.f_bavail = 501
    bench.monotonic.time += RETRY_AFTER
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    told()


async def test_a_filesystem_that_does_not_count_is_not_full(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Where the filesystem reports no size at all, only its errors say that it is full."""
    break_os(fstatvfs=lambda _: SimpleNamespace(f_blocks=0, f_frsize=0, f_bavail=0))
    cache = bench.cache()
    await cache.put(KEY, DATA)
    await cache.evict()
    assert await cache.get(KEY) == DATA


# -- a disk that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open", "read", "fstat"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
async def test_a_disk_that_fails_to_read_turns_the_cache_off(
    bench: Bench,
    break_os: Callable[..., None],
    told: Callable[[], list[str]],
    call: str,
    number: int,
) -> None:
    """One warning, then misses without touching the disk; probed after a while, and back when it works."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    break_os(**{call: fail(number)})
    for _ in range(3):
        assert await cache.get(KEY) is None
        await cache.put(KEY, DATA)
        assert await cache.last_version(KEY.location) is None
        await cache.evict()
    (line,) = told()
    assert line.startswith("WARNING the disk cache is off")
    assert os.strerror(number) in line
    assert str(bench.folder) in line
    assert (cache.statistics().is_off, cache.statistics().errors) == (True, 1)
    break_os()
    assert await cache.get(KEY) is None
    bench.monotonic.time += RETRY_AFTER
    assert await cache.get(KEY) == DATA
    assert not cache.statistics().is_off
    (line,) = told()
    assert line.startswith("INFO the disk cache is on again")
    assert not [path for path in bench.files() if path.name.startswith("tmp-")]


@pytest.mark.parametrize("call", ["write", "open", "replace", "close_written"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
async def test_a_disk_that_fails_to_write_turns_the_cache_off(
    bench: Bench,
    break_os: Callable[..., None],
    told: Callable[[], list[str]],
    call: str,
    number: int,
) -> None:
    """Failing at any step of a write: one warning, no trace, quiet while it lasts, and back when it works."""

    def open_(path: str, flags: int, *rest: int, **how: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return os.open(path, flags, *rest, **how)

    def close(fd: int) -> None:
        is_written = Path(f"/proc/self/fd/{fd}").readlink().name.startswith("tmp-")
        os.close(fd)
        if is_written:
            raise OSError(number, os.strerror(number))

    broken = {
        "write": {"write": fail(number)},
        "open": {"open": open_},
        "replace": {"replace": fail(number)},
        "close_written": {"close": close},
    }[call]
    cache = bench.cache()
    await cache.put(KEY, DATA)
    break_os(**broken)
    await cache.put(key(7), DATA)
    assert cache.statistics().is_off
    assert [line.split()[0] for line in told()] == ["WARNING"]
    if call != "replace":  # which a probe does not try
        bench.monotonic.time += RETRY_AFTER
        await cache.put(key(7), DATA)
        assert told() == []
    break_os()
    bench.monotonic.time += RETRY_AFTER
    await cache.put(key(7), DATA)
    assert await cache.get(key(7)) == DATA
    assert await cache.get(KEY) == DATA
    assert [line.split()[0] for line in told()] == ["INFO"]
    assert not [path for path in bench.files() if path.name.startswith("tmp-")]


async def test_a_read_only_disk_turns_the_cache_off(
    bench: Bench, tmpfs: Path, told: Callable[[], list[str]]
) -> None:
    """A filesystem that turned read-only costs one warning, and is used again when it is writable."""
    bench.folder = tmpfs / "cache"
    cache = bench.cache()
    await cache.put(KEY, DATA)
    remount(tmpfs, "ro")
    assert await cache.get(KEY) == DATA
    await cache.put(key(7), DATA)
    assert await cache.get(key(7)) is None
    (line,) = told()
    assert "Read-only file system" in line
    assert "make it writable" in line
    bench.monotonic.time += RETRY_AFTER
    await cache.put(key(7), DATA)
    assert cache.statistics().is_off
    remount(tmpfs, "rw")
    bench.monotonic.time += RETRY_AFTER
    await cache.put(key(7), DATA)
    assert await cache.get(key(7)) == DATA
    assert [line.split()[0] for line in told()] == ["INFO"]


async def test_a_removed_folder_is_made_anew(bench: Bench) -> None:
    """Somebody who deletes the cache loses what it held, and no more."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    shutil.rmtree(bench.folder)
    assert await cache.get(KEY) is None
    await cache.evict()
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o700


async def test_a_folder_removed_during_a_write_is_made_anew(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Even between the writing and the naming of an entry the folder may go."""
    cache = bench.cache()
    removals = iter([True])

    def replace(*names: str, **how: int) -> None:
        if next(removals, False):
            shutil.rmtree(bench.folder)
        os.replace(*names, **how)  # noqa: PTH105 -- Path has no descriptors

    break_os(replace=replace)
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA


async def test_a_folder_that_is_a_file_turns_the_cache_off(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """What cannot be a folder is a trouble like any other."""
    bench.folder.write_bytes(b"")
    cache = bench.cache()
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) is None
    (line,) = told()
    assert "Not a directory" in line


@pytest.mark.parametrize("how", ["another owner", "writable", "link to writable"])
async def test_a_folder_that_others_control_is_refused(
    bench: Bench,
    break_os: Callable[..., None],
    told: Callable[[], list[str]],
    tmp_path: Path,
    how: str,
) -> None:
    """Nothing is read from or written to a folder that another user owns or may write to."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    if how == "another owner":
        break_os(geteuid=lambda: os.geteuid() + 1)
    elif how == "writable":
        bench.folder.chmod(0o770)
    else:
        bench.folder.chmod(0o702)
        bench.folder.rename(tmp_path / "elsewhere")
        bench.folder.symlink_to(tmp_path / "elsewhere")
    before = bench.files()
    assert await cache.get(KEY) is None
    await cache.put(key(7), DATA)
    bench.monotonic.time += RETRY_AFTER
    await cache.put(key(7), DATA)
    assert bench.files() == before
    (line,) = told()
    assert "chmod 700" in line
    break_os()
    bench.folder.chmod(0o700)
    bench.monotonic.time += RETRY_AFTER
    assert await cache.get(KEY) == DATA
    told()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to give a folder away")
async def test_a_folder_of_somebody_else_is_refused_even_to_root(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """Being able to write to somebody's folder is not enough to trust it."""
    bench.folder.mkdir(mode=0o700)
    os.chown(bench.folder, NOBODY, NOBODY)
    await bench.cache().put(KEY, DATA)
    assert bench.files() == []
    (line,) = told()
    assert "belongs to another user" in line


async def test_a_link_to_a_folder_of_ones_own_is_followed(bench: Bench, tmp_path: Path) -> None:
    """The cache may lie elsewhere, where the user says so with a link."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    bench.folder.symlink_to(tmp_path / "elsewhere")
    cache = bench.cache()
    await cache.put(KEY, DATA)
    assert await cache.get(KEY) == DATA


async def test_a_disk_that_does_not_answer_turns_the_cache_off(
    bench: Bench, break_os: Callable[..., None], told: Callable[[], list[str]]
) -> None:
    """A hanging disk holds up a read for as long as patience lasts, once, and is used again when it answers."""
    await bench.cache().put(KEY, DATA)
    cache = bench.cache(patience=0.2)
    answers = threading.Event()

    def read(fd: int, length: int) -> bytes:
        answers.wait(60)
        return os.read(fd, length)

    break_os(read=read)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(cache.get, KEY)
        assert cache.statistics().misses == 20
        (line,) = told()
        assert "No answer within 0.2 seconds" in line
        bench.monotonic.time += RETRY_AFTER
        assert await cache.get(KEY) is None
        assert told() == []
    finally:
        answers.set()
    cache = bench.cache()
    assert await cache.get(KEY) == DATA


async def test_a_process_without_threads_to_spare_reads_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, told: Callable[[], list[str]]
) -> None:
    """That no thread can be started is a miss and a warning, not the end of the mount."""
    cache = bench.cache()
    await cache.put(KEY, DATA)

    async def run_sync(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        assert await cache.get(KEY) is None
    (line,) = told()
    assert "No thread or memory for it" in line
    bench.monotonic.time += RETRY_AFTER
    assert await cache.get(KEY) == DATA
    told()
