"""Files that are read at once: only what the kernel has in memory, of local disks, and checked as in threads."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.conformance import Basin, authorized
from vzfs.access import AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import ETag, path_to_url
from vzfs.source import Places, Source, local, nowait, openat

DATA = bytes(range(256)) * 1200


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file on a disk where files can be read at once, or skip."""
    with Path(nowait._MOUNTS).open() as mounts:
        if not openat.has_openat2() or not nowait.is_local_disk(tmp_path.stat().st_dev, mounts):
            pytest.skip("the folder for temporary files is not on a local disk")
    path = tmp_path / "data" / "object"
    path.parent.mkdir()
    path.write_bytes(DATA)
    age(path)
    return path


def age(path: Path) -> None:
    """Let *path* be written a while ago and read since, so that a read does not write that down."""
    now = time.time()
    # Setting the times is itself a change, of now.
    os.utime(path, (now + 60, now - 3600), follow_symlinks=False)


def rewrite(path: Path) -> None:
    path.write_bytes(DATA[::-1])


def learn(files: local.LocalFiles, path: Path) -> None:
    files._disks.learn(path.stat().st_dev)


@pytest.fixture(autouse=True)
def _quiet_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look a name up again that others made the kernel unsure of for a moment."""
    openat2 = openat._openat2

    def again(*args: object) -> int:
        for _ in range(1000):
            with contextlib.suppress(BlockingIOError):
                return openat2(*args)
        return openat2(*args)

    monkeypatch.setattr(openat, "_openat2", again)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Give a list of what was done in threads."""
    done: list[object] = []
    run = trio.to_thread.run_sync

    async def counted(work: Callable[..., object], *args: object, **options: object) -> object:
        done.append(work)
        return await run(work, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    return done


@pytest.fixture
def source() -> Source:
    return Source(places=Places(8))


def part(path: Path, offset: int = 7, length: int = 40_000, **options: object) -> AuthorizedRange:
    root = str(options.pop("root", path_to_url(path.parent)))
    return authorized(path_to_url(path), offset, length, root=root, **options)


async def test_what_is_in_memory_is_read_at_once(
    source: Source, file: Path, threads: list[object]
) -> None:
    """After a first read, which finds out about the disk, what the kernel has in memory takes no thread."""
    first = await source.fetch(part(file))
    assert len(threads) == 1
    for length in (1, 40_000, nowait.MOST):
        basin = Basin(DATA[7 : 7 + length])
        fetched = await source.fetch(part(file, length=length), first.version, sink=basin)
        assert fetched.data is basin.buffer
        assert fetched.version == first.version
        assert basin.counts == [[length]]
        plain = await source.fetch(part(file, length=length))
        assert plain.data == DATA[7 : 7 + length]
    assert len(threads) == 1
    assert source.statistics().gets == 7


async def test_many_bytes_are_read_in_a_thread(
    source: Source, file: Path, threads: list[object]
) -> None:
    """Reading many bytes would hold up everybody else."""
    for _ in range(2):
        assert len((await source.fetch(part(file, length=nowait.MOST + 1))).data) == nowait.MOST + 1
    assert len(threads) == 2


@pytest.mark.parametrize("has_some", [False, True])
async def test_what_is_not_in_memory_is_read_in_a_thread(
    source: Source,
    file: Path,
    threads: list[object],
    monkeypatch: pytest.MonkeyPatch,
    has_some: bool,
) -> None:
    """Bytes that the kernel would have to read, all or the last of them, are waited for in a thread."""
    await source.fetch(part(file))
    asked: list[int] = []

    def preadv(opened: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        asked.append(flags)
        if not has_some:
            raise BlockingIOError
        return len(buffers[0]) - 1

    monkeypatch.setattr(os, "preadv", preadv)
    before = len(threads)
    assert (await source.fetch(part(file))).data == DATA[7:40_007]
    assert len(threads) == before + 1
    assert asked == [os.RWF_NOWAIT]


async def test_a_read_that_would_be_written_down_takes_a_thread(
    source: Source, file: Path, threads: list[object]
) -> None:
    """Where the file system would note the time of access, which can wait for its journal, a thread reads."""
    await source.fetch(part(file))
    now = time.time()
    os.utime(file, (now - 9, now - 5))
    before = len(threads)
    assert (await source.fetch(part(file))).data == DATA[7:40_007]
    assert len(threads) == before + 1


@pytest.mark.parametrize(
    ("accessed", "written", "altered", "is_read"),
    [
        (60, 3600, 3600, True),
        (60, 30, 3600, False),
        (60, 3600, 30, False),
        (23 * 3600, 30 * 3600, 30 * 3600, False),
    ],
)
def test_when_an_access_is_written_down(
    file: Path, accessed: int, written: int, altered: int, is_read: bool
) -> None:
    """An access is noted after a change of the file or of what is said of it, and once a day; times are seconds ago."""
    now = time.time()
    found = os.stat_result([0] * 7 + [now - accessed, now - written, now - altered])
    with file.open("rb") as opened:
        if is_read:
            assert nowait.read(opened.fileno(), found, 3, 5) == DATA[3:8]
        else:
            with pytest.raises(BlockingIOError):
                nowait.read(opened.fileno(), found, 3, 5)


def test_nothing_is_looked_up_that_the_kernel_does_not_know(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, every name is looked up in the kernel's cache only, and below the root no mount is entered."""
    resolved: list[int] = []
    openat2 = openat._openat2

    def recorded(folder: int, path: str, flags: int, resolve: int) -> int:
        resolved.append(resolve)
        return openat2(folder, path, flags, resolve)

    files = local.LocalFiles()
    learn(files, file)
    monkeypatch.setattr(openat, "_openat2", recorded)
    assert files.glance(part(file), None) is not None
    cached, within = openat._RESOLVE_CACHED, openat._RESOLVE_NO_XDEV | openat._RESOLVE_BENEATH
    assert [resolve & cached for resolve in resolved] == [cached] * 2
    assert resolved[1] & within == within


def test_only_regular_files_are_read_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no regular file is not even tried."""
    files = local.LocalFiles()
    learn(files, file)
    monkeypatch.setattr(nowait, "read", lambda *_: pytest.fail("it was tried"))
    assert files.glance(part(file.parent, 0, 10), None) is None


async def test_another_filesystem_below_takes_a_thread(
    source: Source, file: Path, threads: list[object], tmpfs: Path
) -> None:
    """What is mounted below the root may be served by anybody, and is not entered at once."""
    other = tmpfs / "object"
    other.write_bytes(DATA[:50_000])
    age(other)
    root = path_to_url(tmpfs.parent)
    await source.fetch(part(file, root=root))
    before = len(threads)
    await source.fetch(part(file, root=root))
    assert len(threads) == before
    for _ in range(2):
        assert (await source.fetch(part(other, root=root))).data == DATA[7:40_007]
        assert (await source.fetch(part(other))).data == DATA[7:40_007]
    assert len(threads) == before + 4


async def test_versions_are_checked(source: Source, file: Path) -> None:
    """A file that was replaced or altered is not the one that was pinned or recorded, at once or not."""
    first = await source.fetch(part(file))
    await source.fetch(part(file), first.version)
    rewrite(file)
    for wanted, pinned in (
        (part(file), first.version),
        (part(file, checksum=ETag('"another"')), None),
    ):
        with pytest.raises(SourceError) as caught:
            await source.fetch(wanted, pinned)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert (await source.fetch(part(file))).data == DATA[::-1][7:40_007]


async def test_a_file_that_changes_meanwhile_is_read_again(
    source: Source, file: Path, monkeypatch: pytest.MonkeyPatch, threads: list[object]
) -> None:
    """Bytes that were read at once while somebody wrote are not given."""
    await source.fetch(part(file))
    read = nowait.read

    def meanwhile(*args: object) -> memoryview:
        data = read(*args)
        rewrite(file)
        return data

    monkeypatch.setattr(nowait, "read", meanwhile)
    before = len(threads)
    assert (await source.fetch(part(file))).data == DATA[::-1][7:40_007]
    assert len(threads) == before + 1


async def test_nothing_else_is_read_at_once(source: Source, file: Path) -> None:
    """Links that lead out, folders, pipes, missing files and ranges beyond the end give what threads say of them."""
    await source.fetch(part(file))
    secret = file.parent.parent / "secret"
    secret.write_bytes(DATA)
    age(secret)
    (file.parent / "link").symlink_to(secret)
    (file.parent / "folder").mkdir()
    os.mkfifo(file.parent / "pipe")
    files = local.LocalFiles()
    learn(files, file)
    assert files.glance(part(file), None) is not None
    for name, kind in (
        ("link", ErrorKind.SOURCE_DENIED),
        ("folder", ErrorKind.SOURCE_MISMATCH),
        ("pipe", ErrorKind.SOURCE_MISMATCH),
        ("missing", ErrorKind.SOURCE_VANISHED),
    ):
        wanted = part(file.parent / name)
        assert files.glance(wanted, None) is None
        with trio.fail_after(5), pytest.raises(SourceError) as caught:
            await source.fetch(wanted)
        assert caught.value.kind is kind
    assert files.glance(part(file, offset=len(DATA) - 5, length=6), None) is None
    assert files.glance(part(file), "another version") is None


async def test_links_within_the_root_are_followed(source: Source, file: Path) -> None:
    """A link that stays beneath the root leads to its file, at once too; where the user named a file, none is followed."""
    link = file.parent / "link"
    link.symlink_to(file.name)
    age(link)
    files = local.LocalFiles()
    learn(files, file)
    await source.fetch(part(link))
    read = files.glance(part(link), None)
    assert read is not None
    assert read.data == DATA[7:40_007]
    assert files.glance(part(link, root=path_to_url(link)), None) is None


def test_without_the_kernels_help_nothing_is_read_at_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names cannot be looked up without waiting, or a disk not be asked for, threads read."""
    files = local.LocalFiles()
    assert files.glance(part(file), None) is None
    learn(files, file)
    assert files.glance(part(file), None) is not None
    with monkeypatch.context() as patch:
        patch.setattr(openat, "has_openat2", lambda: False)
        assert files.glance(part(file), None) is None
    with monkeypatch.context() as patch:
        patch.setattr(nowait, "_statx", lambda: None)
        assert files.glance(part(file), None) is None
    with monkeypatch.context() as patch:
        later = time.monotonic() + nowait.KNOWN_FOR + 1
        patch.setattr(nowait.time, "monotonic", lambda: later)
        assert files.glance(part(file), None) is None


DISK = os.makedev(254, 1)


@pytest.mark.parametrize(
    ("lines", "is_local"),
    [
        (["28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw"], True),
        (["28 1 254:1 / /a rw,noatime - xfs /dev/vda1 rw"], True),
        (["28 1 254:1 / / rw - ext4 /dev/vda1 rw"], False),
        (["28 1 254:1 / / rw,relatime - fuseblk /dev/vda1 rw"], False),
        (["28 1 254:1 / / rw,relatime - btrfs /dev/vda1 rw"], False),
        (["28 1 254:11 / / rw,relatime - ext4 /dev/vda1 rw"], False),
        (
            [
                "28 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw",
                "29 1 254:1 / /b rw - ext4 /dev/vda1 rw",
            ],
            False,
        ),
        (["nonsense", "28 1 254:1", ""], False),
        ([], False),
    ],
)
def test_local_disks_are_told_from_others(lines: list[str], is_local: bool) -> None:
    """A disk is local if it is mounted as one of few kinds, everywhere, and notes no access at each read."""
    assert nowait.is_local_disk(DISK, iter(lines)) is is_local
