"""The disk cache on a disk that is full, read-only, removed, failing or hanging."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from tests.io.cachebench import (
    DATA,
    KEY,
    Bench,
    content,
    fail,
    fill,
    key,
    present,
    remount,
)
from vzfs.cache import EntryKey, guard
from vzfs.cache.health import RETRY_AFTER

NOBODY = 65534


# -- a disk that is full -------------------------------------------------------------------------


async def test_a_small_disk_is_a_small_cache(bench: Bench, tmpfs: Path) -> None:
    """Where the disk is smaller than the limit, the oldest entries make room, and nothing is said."""
    bench.folder = tmpfs / "cache"
    cache = bench.cache()
    await fill(bench, cache, 200)
    assert await cache.get(key(199, 3000)) == content(key(199, 3000))
    assert cache.statistics().writes == 200
    assert cache.statistics().evicted_files > 100
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

    def writev(*_: object) -> int:
        tries.append(1)
        raise OSError(number, os.strerror(number))

    break_os(writev=writev)
    for _ in range(5):
        await cache.put(KEY, DATA)
        await cache.remember_version(KEY.location, KEY.version)
    assert len(tries) == 2
    assert len(told()) == 1
    assert await present(cache, 40) == list(range(5, 40))
    bench.monotonic.time += RETRY_AFTER
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(cache.put, KEY, DATA)
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

    def writev(fd: int, parts: list[memoryview]) -> int:
        if not cache.statistics().evicted_files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.writev(fd, parts)

    break_os(writev=writev)
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


@pytest.mark.parametrize("call", ["open", "pread", "fstat"])
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


async def test_one_operation_probes_for_all(
    bench: Bench, break_os: Callable[..., None], told: Callable[[], list[str]]
) -> None:
    """When it is time to try a failed disk again, one reader does, and the others do not wait for it."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    break_os(pread=fail(errno.EIO))
    assert await cache.get(KEY) is None
    probes: list[int] = []

    def fsync(fd: int) -> None:
        probes.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    break_os(fsync=fsync)
    for count in (1, 2):
        bench.monotonic.time += RETRY_AFTER
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(cache.get, KEY)
        assert len(probes) == count
    assert len(told()) == 1


async def test_a_full_disk_is_good_enough_to_be_read(
    bench: Bench, break_os: Callable[..., None], told: Callable[[], list[str]]
) -> None:
    """A disk that failed and answers again with "no space left" is used for reading."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    break_os(pread=fail(errno.EIO))
    assert await cache.get(KEY) is None
    break_os(writev=fail(errno.ENOSPC))
    bench.monotonic.time += RETRY_AFTER
    assert await cache.get(KEY) == DATA
    assert [line.split()[0] for line in told()] == ["WARNING", "INFO"]


@pytest.mark.parametrize("call", ["writev", "open", "replace", "close_written"])
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
        "writev": {"writev": fail(number)},
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

    def pread(fd: int, length: int, offset: int) -> bytes:
        answers.wait(60)
        return os.pread(fd, length, offset)

    break_os(pread=pread)
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


async def test_a_large_entry_may_take_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is for 16 MiB, and grows with what is read, mapped or written beyond that."""
    monkeypatch.setattr(guard, "PATIENT_SIZE", 100_000)
    large = EntryKey("s3://bucket/large", "etag", 0, 300_000)
    cache = bench.cache(patience=20)
    limits: list[float] = []
    fail_after = trio.fail_after
    monkeypatch.setattr(
        trio, "fail_after", lambda seconds: limits.append(seconds) or fail_after(seconds)
    )
    await cache.put(large, bytes(large.length))
    assert await cache.mapped(large) == await cache.get(large) == bytes(large.length)
    await cache.put(KEY, DATA)
    assert limits == [60, 60, 60, 20]


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
