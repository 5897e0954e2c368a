"""Local files: nothing outside the authorized root, nothing but regular files, no mixed versions."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.conformance import authorized, keys_of, whole
from vzfs.access import Access, AuthorizedRange
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import parse_prefix, path_to_url
from vzfs.source import Places, Source, Timing, local, openat

SECRET = b"what nobody authorized"


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Open files in both ways: as new kernels can, and as old ones must."""
    if request.param == "walk":
        monkeypatch.setattr(openat, "has_openat2", lambda: False)
    elif not openat.has_openat2():
        pytest.skip("this kernel has no openat2")
    return str(request.param)


@pytest.fixture
def source() -> Source:
    """Give a source that does not wait long."""
    return Source(Timing(deadline=10, attempts=2, backoff=0.01), places=Places(4))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give an authorized folder with a file, and a secret beside it."""
    (tmp_path / "secret").write_bytes(SECRET)
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(b"0123456789")
    return folder


def at(root: Path | str, path: str, length: int = 4, offset: int = 0) -> AuthorizedRange:
    url = path_to_url(root)
    return authorized(f"{url}/{path}" if path else url, offset, length, root=url)


async def refusal(source: Source, wanted: AuthorizedRange) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await source.fetch(wanted)
    with pytest.raises(SourceError):
        await source.version(wanted)
    return caught.value


def _absolute(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")


def _relative(root: Path) -> None:
    (root / "link").symlink_to("../secret")


def _folder(root: Path) -> None:
    (root / "dir").symlink_to("..")
    (root / "link").symlink_to("dir/secret")


def _loop(root: Path) -> None:
    (root / "link").symlink_to("link")


def _magic(root: Path) -> None:
    (root / "link").symlink_to(f"/proc/self/root{root.parent}/secret")


@pytest.mark.parametrize("make", [_absolute, _relative, _folder, _loop, _magic])
async def test_links_out(
    way: str, source: Source, root: Path, make: Callable[[Path], None]
) -> None:
    """A link that leads out of the root is denied, and the error says that it is a link."""
    make(root)
    error = await refusal(source, at(root, "link"))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "link" in error.what


async def test_linked_folder(way: str, source: Source, root: Path) -> None:
    """A path through a linked folder that lies outside is denied."""
    (root / "dir").symlink_to(root.parent)
    assert (await refusal(source, at(root, "dir/secret"))).kind is ErrorKind.SOURCE_DENIED


async def test_links_inside(source: Source, root: Path) -> None:
    """A link that stays beneath the root is followed where the kernel can check it."""
    if not openat.has_openat2():
        pytest.skip("this kernel has no openat2")
    (root / "link").symlink_to("sub/file")
    (root / "dir").symlink_to("sub")
    assert (await source.fetch(at(root, "link"))).data == b"0123"
    assert (await source.fetch(at(root, "dir/file"))).data == b"0123"


async def test_links_without_openat2(
    source: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without openat2 no link is followed, inside or not, as the last component or before it."""
    monkeypatch.setattr(openat, "has_openat2", lambda: False)
    (root / "link").symlink_to("sub/file")
    (root / "dir").symlink_to("sub")
    for path in ("link", "dir/file"):
        assert (await refusal(source, at(root, path))).kind is ErrorKind.SOURCE_DENIED


@pytest.mark.parametrize("path", ["root/etc/hostname", "cwd/pyproject.toml", "fd/0"])
async def test_magic_links(way: str, source: Source, path: str) -> None:
    """The kernel's magic links, which lead anywhere, are not followed."""
    wanted = authorized(f"file:///proc/self/{path}", 0, 1, root="file:///proc/self")
    assert (await refusal(source, wanted)).kind is ErrorKind.SOURCE_DENIED


@pytest.mark.parametrize("path", ["../secret", "%2e%2e/secret", "sub/../../secret", "/../secret"])
def test_dots_are_resolved_before_authorization(root: Path, path: str) -> None:
    """A path with `..`, encoded or not, is authorized as the place that it means."""
    with pytest.raises(AccessDenied):
        at(root, path)


async def test_dots_in_repository_keys(way: str, source: Source, root: Path) -> None:
    """A key of the repository itself with `..` is refused too."""
    error = await refusal(source, whole(path_to_url(root), "sub/../../secret"))
    assert error.kind is ErrorKind.BAD_LOCATION


@pytest.mark.parametrize("path", ["../secret", "sub/../../secret", "/etc/hostname"])
def test_the_kernel_refuses_dots(way: str, root: Path, path: str) -> None:
    """Whatever was checked before, opening a path that leaves the folder fails."""
    folder = os.open(root, openat.FOLDER)
    try:
        with pytest.raises(OSError, match=r"cross-device|Too many levels"):
            openat.open_beneath(folder, path, openat.READ)
    finally:
        os.close(folder)


async def test_root_through_a_link(way: str, source: Source, root: Path) -> None:
    """The root itself may be reached through links: the user named it."""
    (root.parent / "alias").symlink_to("root")
    (root.parent / "deep").symlink_to("alias/sub")
    assert (await source.fetch(at(root.parent / "alias", "sub/file"))).data == b"0123"
    assert (await source.fetch(at(root.parent / "deep", "file"))).data == b"0123"


async def test_root_is_the_file(way: str, source: Source, root: Path) -> None:
    """A prefix that names one file authorizes that file, if it is no link."""
    assert (await source.fetch(at(root / "sub" / "file", ""))).data == b"0123"
    (root / "link").symlink_to("sub/file")
    assert (await refusal(source, at(root / "link", ""))).kind is ErrorKind.SOURCE_DENIED


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


@pytest.mark.parametrize("make", [_fifo, _socket, Path.mkdir])
async def test_irregular_files(
    way: str, source: Source, root: Path, make: Callable[[Path], None]
) -> None:
    """What is no regular file is refused at once: nobody waits for the writer of a FIFO."""
    make(root / "odd")
    with trio.fail_after(5):
        error = await refusal(source, at(root, "odd"))
    assert error.kind is ErrorKind.SOURCE_MISMATCH


async def test_devices(way: str, source: Source) -> None:
    """A device is refused: reading /dev/zero is not reading a file."""
    wanted = authorized("file:///dev/zero", 0, 4, root="file:///dev")
    assert (await refusal(source, wanted)).kind is ErrorKind.SOURCE_MISMATCH


async def test_path_through_a_file(way: str, source: Source, root: Path) -> None:
    """A path that goes through a file names nothing, and so does one that is too long."""
    for path in ("sub/file/more", "x" * 300):
        error = await refusal(source, at(root, path))
        assert error.kind is ErrorKind.SOURCE_VANISHED


async def test_missing_root(way: str, source: Source, root: Path) -> None:
    """A file below a root that is not there has vanished."""
    error = await refusal(source, at(root / "gone", "file"))
    assert error.kind is ErrorKind.SOURCE_VANISHED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_unreadable(way: str, source: Source, root: Path) -> None:
    """A file without read permission is denied."""
    (root / "sub" / "file").chmod(0)
    assert (await refusal(source, at(root, "sub/file"))).kind is ErrorKind.SOURCE_DENIED


@pytest.mark.parametrize(
    ("code", "kind", "tries"),
    [
        (13, ErrorKind.SOURCE_DENIED, 1),
        (1, ErrorKind.SOURCE_DENIED, 1),
        (5, ErrorKind.SOURCE_UNREACHABLE, 2),
        (24, ErrorKind.SOURCE_UNREACHABLE, 2),
        (116, ErrorKind.SOURCE_UNREACHABLE, 2),
    ],
)
async def test_errno(
    source: Source,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: ErrorKind,
    tries: int,
) -> None:
    """Denials are final; an I/O error, a stale NFS handle or a full table of files is tried again."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(openat, "open_beneath", fail)
    with pytest.raises(SourceError) as caught:
        await source.fetch(at(root, "sub/file"))
    assert caught.value.kind is kind
    assert source.statistics().gets == tries


async def test_names_that_are_not_utf8(way: str, source: Source, tmp_path: Path) -> None:
    """A file name of arbitrary bytes is read as it is, and listed."""
    folder = tmp_path / os.fsdecode(b"b\xff\xfe")
    folder.mkdir()
    (folder / os.fsdecode(b"n\x80")).write_bytes(b"0123456789")
    wanted = at(folder, "n%80", 3)
    assert (await source.fetch(wanted)).data == b"012"
    below = Access(parse_prefix(str(tmp_path))).repository_prefix("")
    assert await keys_of(source, below) == [os.fsdecode(b"b\xff\xfe/n\x80")]


@pytest.mark.parametrize("data", [b"9876543210", b"987", b"98765432109876"])
async def test_written_while_read(
    source: Source, root: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """A file that is written to while it is read gives an error, not a mix."""
    read = local._read

    def read_and_write(file: int, offset: int, length: int) -> bytes:
        result = read(file, offset, length)
        (root / "sub" / "file").write_bytes(data)
        os.utime(root / "sub" / "file", ns=(1, 1))
        return result

    monkeypatch.setattr(local, "_read", read_and_write)
    with pytest.raises(SourceError) as caught:
        await source.fetch(at(root, "sub/file"))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_replaced_while_read(
    source: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced by rename while it is read gives the old bytes, and the old version."""
    path = root / "sub" / "file"
    before = await source.version(at(root, "sub/file"))
    read = local._read

    def replace_and_read(file: int, offset: int, length: int) -> bytes:
        (root / "new").write_bytes(b"abcdefghij!")
        (root / "new").rename(path)
        return read(file, offset, length)

    monkeypatch.setattr(local, "_read", replace_and_read)
    fetched = await source.fetch(at(root, "sub/file"))
    assert fetched == (b"0123", before)
    monkeypatch.undo()
    assert (await source.fetch(at(root, "sub/file"))).data == b"abcd"


async def test_cut_while_read(source: Source, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is cut off before the bytes are read gives an error, not fewer bytes."""
    read = local._read

    def cut_and_read(file: int, offset: int, length: int) -> bytes:
        os.truncate(root / "sub" / "file", 2)
        return read(file, offset, length)

    monkeypatch.setattr(local, "_read", cut_and_read)
    with pytest.raises(SourceError) as caught:
        await source.fetch(at(root, "sub/file"))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_listing_follows_only_what_stays(source: Source, root: Path) -> None:
    """A listing has files and links that stay beneath the root, and ends although links make a loop.

    Of links that lead out, or nowhere, it has the names, and no length.
    """
    if not openat.has_openat2():
        pytest.skip("this kernel has no openat2")
    (root / "loop").symlink_to(".")
    (root / "out").symlink_to("..")
    (root / "secret").symlink_to("../secret")
    (root / "dangling").symlink_to("nowhere")
    (root / "alias").symlink_to("sub")
    os.mkfifo(root / "fifo")
    below = Access(parse_prefix(str(root))).repository_prefix("")
    (root / "sub" / "up").symlink_to("../alias/file")
    found = {o.key: o.length for o in await source.objects(below)}
    files = dict.fromkeys(["alias/file", "alias/up", "sub/file", "sub/up"], 10)
    assert found == files | dict.fromkeys(["out", "secret", "dangling"])
    level = {o.key: o.length for o in await source.objects(below, deep=False)}
    assert level == {"alias/": 0, "sub/": 0} | dict.fromkeys(["out", "secret", "dangling"])
    beneath = Access(parse_prefix(str(root))).repository_prefix("alias")
    assert await keys_of(source, beneath) == ["file", "up"]


async def test_a_folder_that_leads_out_is_not_listed(source: Source, root: Path) -> None:
    """Names behind a link out of the root are denied, as what lies there is."""
    (root / "out").symlink_to("../secret", target_is_directory=True)
    below = Access(parse_prefix(str(root))).repository_prefix("out")
    with pytest.raises(SourceError) as caught:
        await source.objects(below)
    assert caught.value.kind is ErrorKind.SOURCE_DENIED


async def test_what_may_not_be_looked_at_is_not_left_out(source: Source, root: Path) -> None:
    """A folder in which names are read and nothing else is denied, rather than found empty."""
    folder = root / "closed"
    folder.mkdir()
    (folder / "0").write_bytes(b"x")
    folder.chmod(0o444)
    try:
        if os.access(folder / "0", os.R_OK):
            pytest.skip("this user may look at everything")
        with pytest.raises(SourceError) as caught:
            await source.objects(Access(parse_prefix(str(root))).repository_prefix("closed"))
        assert caught.value.kind is ErrorKind.SOURCE_DENIED
    finally:
        folder.chmod(0o755)


async def test_no_descriptor_is_left_open(source: Source, root: Path) -> None:
    """Fetches, listings and failures close what they open."""
    (root / "link").symlink_to("../secret")
    below = Access(parse_prefix(str(root))).repository_prefix("")
    await source.fetch(at(root, "sub/file"))
    before = _descriptors()
    for _ in range(20):
        await source.fetch(at(root, "sub/file"))
        await keys_of(source, below)
        await refusal(source, at(root, "link"))
        await refusal(source, at(root, "none"))
        await refusal(source, at(root, "sub"))
    assert _descriptors() <= before + 1


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
