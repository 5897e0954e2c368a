"""The FUSE adapter without a kernel: every outcome of a handler is a reply."""

import errno
import logging
import os

import pyfuse3
import pytest

from tests.io.test_filesystem import (
    DAMAGE,
    ENCODINGS,
    GRID,
    SPLIT,
    FakeRepository,
    array,
    filesystem,
    inline,
)
from vzfs.errors import ErrorKind, FormatError, SourceError
from vzfs.fuse import ERRNO, Operations, Ownership, options


@pytest.fixture(name="operations")
def _operations() -> Operations:
    return Operations(filesystem(FakeRepository({})), Ownership(1, 2))


async def errno_of(operations: Operations, failure: Exception) -> int:
    async def fail(*_: object) -> bytes:
        raise failure

    operations._filesystem.read = fail
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.read(1, 0, 10)
    return caught.value.errno


@pytest.mark.parametrize("kind", ErrorKind)
async def test_every_kind_of_error_becomes_its_errno(
    kind: ErrorKind, operations: Operations
) -> None:
    """Each kind has the errno of the table, and EIO if it has none there."""
    assert await errno_of(operations, SourceError(kind, "x")) == ERRNO.get(kind, errno.EIO)


async def test_a_bug_becomes_eio_and_a_traceback(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody expected fails one request, and does not leave the handler."""
    assert await errno_of(operations, ZeroDivisionError("boom")) == errno.EIO
    assert await errno_of(operations, ExceptionGroup("g", [KeyError()])) == errno.EIO
    assert "ZeroDivisionError: boom" in caplog.text


async def test_only_absent_names_are_enoent() -> None:
    """No error but that of an absent name becomes ENOENT."""
    assert [kind for kind, code in ERRNO.items() if code == errno.ENOENT] == [
        ErrorKind.NO_SUCH_NAME
    ]


async def test_one_trouble_is_one_line(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """The same failure of the same thing is logged once; another thing's is logged too."""
    caplog.set_level(logging.WARNING)
    for where in ("a", "a", "b", "a"):
        await errno_of(operations, FormatError(ErrorKind.CORRUPT_METADATA, "damage", where=where))
    assert [r.getMessage().count("damage") for r in caplog.records] == [1, 1]


async def test_an_absent_name_is_remembered_by_the_kernel(operations: Operations) -> None:
    """A lookup of a name that the snapshot does not have answers with no inode, for good."""
    entry = await operations.lookup(1, b"nope", None)
    assert entry.st_ino == 0
    assert entry.entry_timeout > 10**8


def test_a_source_adds_no_options() -> None:
    """A comma in the name of a source stays in the name."""
    chosen = options("s3://b/a,allow_other\\", allow_other=False)
    assert "fsname=s3://b/a\\,allow_other\\\\" in chosen
    assert "allow_other" not in chosen
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= chosen


async def test_what_is_not_certain_is_not_kept() -> None:
    """Of a name that a damaged manifest may hold the kernel keeps neither entry, nor size, nor pages."""
    repository = FakeRepository({"good": inline([0]), "bad": DAMAGE})
    operations = Operations(
        filesystem(repository, array(GRID, ENCODINGS[1], SPLIT)), Ownership(1, 2)
    )
    folder = (await operations.lookup(1, b"a", None)).st_ino
    for name, is_certain in ((b"c.0.0", True), (b"c.3.1", False)):
        entry = await operations.lookup(folder, name, None)
        opened = await operations.open(entry.st_ino, os.O_RDONLY, None)
        assert (entry.entry_timeout > 0, entry.attr_timeout > 0) == (is_certain, is_certain)
        assert (opened.keep_cache, opened.direct_io) == (is_certain, not is_certain)
        again = await operations.getattr(entry.st_ino, None)
        assert (again.attr_timeout > 0) == is_certain


async def test_nothing_is_opened_for_writing(operations: Operations) -> None:
    """A handler refuses what the read-only superblock would have refused."""
    inode = (await operations.lookup(1, b"zarr.json", None)).st_ino
    for flags in (os.O_WRONLY, os.O_RDWR):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.open(inode, flags, None)
        assert caught.value.errno == errno.EROFS


async def test_what_was_read_is_known_until_the_kernel_forgets_it(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When rules change, the kernel drops the pages of files that read otherwise now, and of no others."""
    dropped: list[int] = []

    async def answer(*_: object) -> bytes:
        return b"x"

    async def reads_as_under(before: object, inode: int) -> bool:
        return inode == 3

    def drop(inode: int) -> None:
        dropped.append(inode)
        raise FileNotFoundError

    monkeypatch.setattr(pyfuse3, "invalidate_inode", drop)
    operations._filesystem.read = answer
    operations._filesystem.reads_as_under = reads_as_under
    operations._filesystem.adopt = lambda access: None
    for inode in (2, 3, 4, 5):
        await operations.read(inode, 0, 10)
    await operations.forget([(4, 1)])
    assert await operations.adopt(None) == 2
    assert sorted(dropped) == [2, 5]


async def test_a_handle_of_unbuffered_reads_lives_as_long_as_it_is_open(
    operations: Operations,
) -> None:
    """Handles that remember who opened them are distinct, mean their inode, and leave nothing when closed."""
    inode = (await operations.lookup(1, b"zarr.json", None)).st_ino
    plain = await operations.open(inode, os.O_RDONLY, None)
    direct = [await operations.open(inode, os.O_RDONLY | os.O_DIRECT, None) for _ in range(2)]
    handles = [opened.fh for opened in (plain, *direct)]
    assert len(set(handles)) == 3
    expected = bytes(await operations.read(plain.fh, 0, 5))
    assert [bytes(await operations.read(handle, 0, 5)) for handle in handles] == [expected] * 3
    for handle in handles:
        await operations.release(handle)
    assert operations._opened == {}


async def test_being_offline_is_one_line_for_everything(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """However many things a mount does not have offline, its log says so once."""
    caplog.set_level(logging.WARNING)
    for where in ("a", "b", "c"):
        await errno_of(operations, SourceError(ErrorKind.OFFLINE, "not here", where=where))
    assert len(caplog.records) == 1
