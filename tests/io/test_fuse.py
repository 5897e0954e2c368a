"""What the mount answers, without a kernel: every outcome of a request is a reply."""

import errno
import functools
import itertools
import logging
import os
import struct
from collections.abc import Iterator

import pytest

from tests.fakes import fuse_request
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
from vzfs.filesystem import Attrs
from vzfs.fuse import ERRNO, Operations, Ownership, options
from vzfs.fuse.listing import PROBE
from vzfs.fuse.operations import MAX_KINDS
from vzfs.fuse.protocol import Feature, Opcode, Opening
from vzfs.fuse.session import Answer, Later
from vzfs.hierarchy import Child
from vzfs.model.chunkgrid import ChunkGrid

ENTRY = struct.Struct("=QQQQ")


@pytest.fixture(name="operations")
def _operations() -> Operations:
    return Operations(filesystem(FakeRepository({})), Ownership(1, 2))


async def ask(operations: Operations, opcode: int, inode: int, body: bytes = b"") -> Answer:
    """Have a request answered, waiting if it takes that."""
    answer = operations.answer(opcode, inode, fuse_request(opcode, inode, body), 0)
    return await answer.wait() if isinstance(answer, Later) else answer


async def lookup(operations: Operations, parent: int, name: bytes) -> tuple[int, int, int]:
    """Return the inode of a name, and for how long its entry and its attributes may be kept."""
    answer = await ask(operations, Opcode.LOOKUP, parent, name + b"\0")
    assert isinstance(answer, bytes)
    inode, _, entry_valid, attr_valid = ENTRY.unpack_from(answer)
    return inode, entry_valid, attr_valid


def reading(offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0)


def opening(flags: int) -> bytes:
    return struct.pack("=II", flags, 0)


async def errno_of(operations: Operations, failure: Exception) -> Answer:
    async def fail(*_: object, **__: object) -> bytes:
        raise failure

    def miss(*_: object) -> None:
        return None

    operations._filesystem.read_now = miss
    operations._filesystem.read = fail
    return await ask(operations, Opcode.READ, 1, reading(0, 10))


@pytest.mark.parametrize("kind", ErrorKind)
async def test_every_kind_of_error_becomes_its_errno(
    kind: ErrorKind, operations: Operations
) -> None:
    """Each kind has the errno of the table, and EIO if it has none there."""
    assert await errno_of(operations, SourceError(kind, "x")) == ERRNO.get(kind, errno.EIO)


async def test_a_bug_becomes_eio_and_a_traceback(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody expected fails one request, at once or later, and goes no further."""
    assert await errno_of(operations, ZeroDivisionError("boom")) == errno.EIO
    assert await errno_of(operations, ExceptionGroup("g", [KeyError()])) == errno.EIO
    assert "ZeroDivisionError: boom" in caplog.text

    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("bang")

    operations._filesystem.read_now = fail
    assert await ask(operations, Opcode.READ, 1, reading(0, 10)) == errno.EIO
    assert "ZeroDivisionError: bang" in caplog.text


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


async def test_being_offline_is_one_line_for_everything(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """However many things a mount does not have offline, its log says so once."""
    caplog.set_level(logging.WARNING)
    for where in ("a", "b", "c"):
        await errno_of(operations, SourceError(ErrorKind.OFFLINE, "not here", where=where))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("opcode", Opcode)
async def test_requests_too_short_for_what_they_ask_fail_alone(
    opcode: Opcode, operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """A request without its fields gets an answer like any other, and is no bug."""
    caplog.set_level(logging.WARNING)
    for body in (b"", b"\0", b"x"):
        answer = await ask(operations, opcode, 1, body)
        assert answer in {errno.EIO, errno.ENOSYS, errno.EROFS, errno.ENOTTY, errno.EINVAL} or (
            isinstance(answer, bytes)
        )
    assert "bug" not in caplog.text


async def test_what_is_not_known_is_refused_for_good(operations: Operations) -> None:
    """Requests of kinds without a meaning here are ENOSYS, so that the kernel does not ask again."""
    for opcode in (Opcode.FLUSH, Opcode.FSYNC, 46, 52, 4000):
        assert await ask(operations, opcode, 1) == errno.ENOSYS
    assert await ask(operations, Opcode.IOCTL, 1) == errno.ENOTTY


async def test_an_absent_name_is_remembered_by_the_kernel(operations: Operations) -> None:
    """A lookup of a name that the snapshot does not have answers with no inode, for good."""
    inode, valid, _ = await lookup(operations, 1, b"nope")
    assert inode == 0
    assert valid > 10**8


def test_a_source_adds_no_options() -> None:
    """A comma in the name of a source stays in the name."""
    chosen = options("s3://b/a,allow_other\\", allow_other=False)
    assert "fsname=s3://b/a\\,allow_other\\\\" in chosen
    assert "allow_other" not in chosen
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= set(chosen)


LARGE = ChunkGrid(GRID.shape, max_chunk_nbytes=2**20)
CAN_MAP = Feature.DIRECT_IO_ALLOW_MMAP


async def open_as(operations: Operations, inode: int) -> Opening | Answer:
    """Return how a file is to be read, or the errno."""
    opened = await ask(operations, Opcode.OPEN, inode, opening(os.O_RDONLY))
    return Opening(struct.unpack("=QII", opened)[1]) if isinstance(opened, bytes) else opened


async def test_what_is_not_certain_is_not_kept() -> None:
    """Of a name that a damaged manifest may hold the kernel keeps neither entry, nor size, nor pages."""
    repository = FakeRepository({"good": inline([0]), "bad": DAMAGE})
    operations = Operations(
        filesystem(repository, array(LARGE, ENCODINGS[1], SPLIT)), Ownership(1, 2)
    )
    operations.agreed(CAN_MAP)
    folder, _, _ = await lookup(operations, 1, b"a")
    for name, is_certain in ((b"c.0.0", True), (b"c.3.1", False)):
        inode, entry_valid, attr_valid = await lookup(operations, folder, name)
        assert (entry_valid > 0, attr_valid > 0) == (is_certain, is_certain)
        expected = Opening.KEEP_CACHE if is_certain else Opening.DIRECT_IO
        assert await open_as(operations, inode) == expected
        again = await ask(operations, Opcode.GETATTR, inode)
        assert isinstance(again, bytes)
        assert (struct.unpack_from("=Q", again)[0] > 0) == is_certain


@pytest.mark.parametrize(
    ("grid", "features"), [(GRID, CAN_MAP), (LARGE, Feature(0))], ids=["small", "old kernel"]
)
async def test_files_that_are_all_read_alike_are_opened_without_asking(
    grid: ChunkGrid, features: Feature
) -> None:
    """Where no chunk is large, or none could be mapped if it were read directly, OPEN is ENOSYS for good."""
    repository = FakeRepository({"good": inline([0]), "bad": DAMAGE})
    operations = Operations(
        filesystem(repository, array(grid, ENCODINGS[1], SPLIT)), Ownership(1, 2)
    )
    operations.agreed(features)
    folder, _, _ = await lookup(operations, 1, b"a")
    inode, _, _ = await lookup(operations, folder, b"c.0.0")
    assert await open_as(operations, inode) == errno.ENOSYS
    assert await ask(operations, Opcode.OPENDIR, folder, opening(os.O_RDONLY)) == errno.ENOSYS


async def test_large_files_are_read_past_the_page_cache() -> None:
    """From 1 MiB on a file is read directly, and below it through the page cache, which keeps it."""
    repository = FakeRepository({"good": inline([0]), "bad": inline([])})
    operations = Operations(
        filesystem(repository, array(LARGE, ENCODINGS[1], SPLIT)), Ownership(1, 2)
    )
    operations.agreed(CAN_MAP)
    for size, expected in ((2**20, Opening.DIRECT_IO), (2**20 - 1, Opening.KEEP_CACHE)):
        attrs = Attrs(9, is_dir=False, size=size)
        operations._filesystem.open = functools.partial(lambda a, _: a, attrs)
        assert await open_as(operations, 9) == expected


async def test_a_listing_of_chunks_makes_no_inodes() -> None:
    """At its beginning a listing of chunks has names alone; directories, and what is looked up, have attributes."""
    repository = FakeRepository({"good": inline([0, 1, 2, 3]), "bad": inline([4])})
    operations = Operations(
        filesystem(repository, array(GRID, ENCODINGS[0], SPLIT)), Ownership(1, 2)
    )
    folder, _, _ = await lookup(operations, (await lookup(operations, 1, b"a"))[0], b"c")
    row, _, _ = await lookup(operations, folder, b"1")
    for directory, offset, is_full in ((folder, 0, True), (row, 0, False), (row, 2**20 + 1, True)):
        plus = await ask(operations, Opcode.READDIRPLUS, directory, reading(offset, 4096))
        plain = await ask(operations, Opcode.READDIR, directory, reading(offset, 4096))
        assert isinstance(plus, bytes)
        assert isinstance(plain, bytes)
        size = 128 + 32
        lines = [plus[n : n + size] for n in range(0, len(plus), size)]
        assert lines
        assert b"".join(line[128:] for line in lines) == plain
        assert all((struct.unpack_from("=Q", line)[0] > 0) == is_full for line in lines)


def has_attributes(line: Answer) -> bool:
    assert isinstance(line, bytes)
    return bool(struct.unpack_from("=Q", line)[0])


async def test_who_looks_up_what_is_listed_gets_attributes_with_the_next_listing() -> None:
    """After a listing whose names were looked up the next ones have attributes, until one shows that nobody does any more."""
    flats = list(range(8))
    repository = FakeRepository({"good": inline(flats[:4]), "bad": inline(flats[4:])})
    operations = Operations(
        filesystem(repository, array(GRID, ENCODINGS[0], SPLIT)), Ownership(1, 2)
    )
    folder, _, _ = await lookup(operations, (await lookup(operations, 1, b"a"))[0], b"c")
    rows = [(await lookup(operations, folder, name))[0] for name in (b"0", b"1", b"2", b"3")]

    async def begin(row: int) -> bool:
        return has_attributes(await ask(operations, Opcode.READDIRPLUS, row, reading(0, 4096)))

    assert not await begin(rows[0])
    assert not await begin(rows[1])
    for name in (b"0", b"1"):
        await lookup(operations, rows[1], name)
    followed = [await begin(rows[2]) for _ in range(3 * PROBE)]
    assert followed == [True] * (PROBE - 1) + [False] * (2 * PROBE + 1)


async def test_names_of_chunks_take_no_manifest_until_their_sizes_are_wanted() -> None:
    """Whoever lists chunks of a full manifest and looks none up has it loaded not at all; `ls -l` has it loaded."""
    repository = FakeRepository({"good": inline([0, 1, 2, 3]), "bad": inline([4, 5, 6, 7])})
    shown = array(GRID, ENCODINGS[0], SPLIT)
    operations = Operations(
        filesystem(repository, shown, full=frozenset({"good", "bad"})), Ownership(1, 2)
    )
    folder, _, _ = await lookup(operations, (await lookup(operations, 1, b"a"))[0], b"c")
    row, _, _ = await lookup(operations, folder, b"3")
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        for directory in (folder, row):
            listed = await ask(operations, opcode, directory, reading(0, 4096))
            assert isinstance(listed, bytes)
            assert len(listed) // 32 in {4, 2, 20, 10}
    assert repository.loads == []
    sized = await ask(operations, Opcode.READDIRPLUS, row, reading(2**20 + 1, 4096))
    assert isinstance(sized, bytes)
    assert struct.unpack_from("=Q", sized, 40 + 8)[0] == 8
    assert repository.loads == ["bad"]


async def test_a_listing_that_has_no_room_for_a_line_does_not_end() -> None:
    """An empty answer means that there are no more lines, so where not one fits there is an error."""
    repository = FakeRepository({"good": inline([0]), "bad": inline([])})
    operations = Operations(
        filesystem(repository, array(GRID, ENCODINGS[0], SPLIT)), Ownership(1, 2)
    )
    a, _, _ = await lookup(operations, 1, b"a")
    keys, _, _ = await lookup(operations, a, b"c")
    for directory in (1, a, keys):
        for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
            assert await ask(operations, opcode, directory, reading(0, 24)) == errno.EINVAL
            for beyond in (2**40, 2**63 - 1):
                assert await ask(operations, opcode, directory, reading(beyond, 4096)) == b""


async def test_nothing_is_opened_for_writing(operations: Operations) -> None:
    """What the read-only superblock would have refused is refused."""
    inode, _, _ = await lookup(operations, 1, b"zarr.json")
    for flags in (os.O_WRONLY, os.O_RDWR):
        assert await ask(operations, Opcode.OPEN, inode, opening(flags)) == errno.EROFS
    assert await ask(operations, Opcode.UNLINK, 1, b"zarr.json\0") == errno.EROFS


async def test_what_was_read_is_known_until_the_kernel_forgets_it(operations: Operations) -> None:
    """When rules change, the kernel is to drop the pages of files that read otherwise now, and of no others."""

    async def reads_as_under(before: object, inode: int) -> bool:
        return inode == 3

    operations._filesystem.read_now = lambda *_: b"x"
    operations._filesystem.reads_as_under = reads_as_under
    operations._filesystem.adopt = lambda access: None
    for inode in (2, 3, 4, 5):
        await ask(operations, Opcode.READ, inode, reading(0, 10))
    operations.drained()
    operations.forget(4, 1)
    assert sorted(await operations.adopt(None)) == [2, 5]


async def test_a_late_forget_is_not_about_what_was_just_read(operations: Operations) -> None:
    """The kernel may say that it forgot an inode after it has looked it up and read it again."""

    async def reads_as_under(before: object, inode: int) -> bool:
        return False

    operations._filesystem.read_now = lambda *_: b"x"
    operations._filesystem.reads_as_under = reads_as_under
    operations._filesystem.adopt = lambda access: None
    await ask(operations, Opcode.READ, 2, reading(0, 10))
    operations.forget(2, 1)
    assert await operations.adopt(None) == [2]
    operations.drained()
    operations.forget(2, 1)
    assert await operations.adopt(None) == []


async def test_inodes_count_as_given_once_a_listing_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel gives back what it was given: lines for which there was room, and none of a listing that failed."""
    repository = FakeRepository({"good": inline([0, 1, 2, 3]), "bad": inline([4])})
    operations = Operations(
        filesystem(repository, array(GRID, ENCODINGS[0], SPLIT)), Ownership(1, 2)
    )
    given = []
    fs = operations._filesystem
    monkeypatch.setattr(fs, "looked_up", lambda inode, count=1: given.append((inode, count)))
    a, _, _ = await lookup(operations, 1, b"a")
    keys, _, _ = await lookup(operations, a, b"c")
    row, _, _ = await lookup(operations, keys, b"0")
    document, _, _ = await lookup(operations, 1, b"zarr.json")
    assert given == [(a, 1), (keys, 1), (row, 1), (document, 1)]
    assert (await lookup(operations, 1, b"none"))[0] == 0
    given.clear()
    await ask(operations, Opcode.READDIRPLUS, 1, reading(0, 4096))
    await ask(operations, Opcode.READDIRPLUS, 1, reading(0, 180))
    await ask(operations, Opcode.READDIR, 1, reading(0, 4096))
    await ask(operations, Opcode.READDIRPLUS, keys, reading(0, 4096))
    await ask(operations, Opcode.READDIRPLUS, row, reading(0, 4096))
    assert given == [(document, 2), (document, 1), (keys, 3)]
    given.clear()
    children = fs.children

    def broken(inode: int, after: int) -> Iterator[Child]:
        yield from itertools.islice(children(inode, after), 1)
        raise DAMAGE

    monkeypatch.setattr(fs, "children", broken)
    assert await ask(operations, Opcode.READDIRPLUS, 1, reading(0, 4096)) == errno.EIO
    assert not given


async def test_nothing_is_kept_longer_than_it_lasts(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For how long a directory's names last counts for those that are there, are not, and are listed."""
    for lasts in (0, 7):
        monkeypatch.setattr(operations._filesystem, "lasts", lambda _, lasts=lasts: lasts)
        monkeypatch.setattr(operations._filesystem, "attrs_last", lambda _, lasts=lasts: lasts)
        assert await lookup(operations, 1, b"nope") == (0, lasts, 0)
        assert (await lookup(operations, 1, b"zarr.json"))[1:] == (lasts, lasts)
        attributes = await ask(operations, Opcode.GETATTR, 1)
        lines = await ask(operations, Opcode.READDIRPLUS, 1, reading(0, 4096))
        assert isinstance(attributes, bytes)
        assert isinstance(lines, bytes)
        assert struct.unpack_from("=Q", attributes)[0] == lasts
        assert ENTRY.unpack_from(lines)[2:] == (lasts, lasts)


async def test_of_what_is_found_out_later_a_line_has_the_name_alone(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of a listing whose inode is not known yet has none, and counts as none given."""
    line = Child("main", Attrs(0, is_dir=True, size=0), 1)
    given = []
    monkeypatch.setattr(operations._filesystem, "children", lambda *_: iter([line]))
    monkeypatch.setattr(operations._filesystem, "looked_up", lambda *a: given.append(a))
    lines = await ask(operations, Opcode.READDIRPLUS, 1, reading(0, 4096))
    plain = await ask(operations, Opcode.READDIR, 1, reading(0, 4096))
    assert lines == bytes(128) + plain
    assert struct.unpack_from("=QQII", plain)[0] not in {0, 1}
    assert not given


async def test_what_the_kernel_gives_back_is_told(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each FORGET, of files that were read and of others, reaches the file system with its count."""
    given_back = []
    monkeypatch.setattr(operations._filesystem, "forgotten", lambda *a: given_back.append(a))
    operations.forget(5, 3)
    operations.forget(6, 1)
    assert given_back == [(5, 3), (6, 1)]


async def test_what_comes_and_goes_is_as_new_as_it_is_looked_at(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories of refs have another time whenever they are asked for, so that they are listed anew; few times are remembered."""
    times: list[int | None] = [None, None, *range(3 * MAX_KINDS)]
    rest = iter(times)
    monkeypatch.setattr(operations._filesystem, "written_at", lambda _: next(rest))
    first, second = (operations._kinds_of(9).dir for _ in range(2))
    assert first != second
    for _ in times[2:]:
        operations._kinds_of(9)
    assert len(operations._kinds) <= MAX_KINDS
