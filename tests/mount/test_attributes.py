"""What a mount says of its files besides their bytes, on the samples that come with the project."""

import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import icechunk
import pytest

from tests import demo
from tests.mount.conftest import Mount
from tests.mount.outcomes import errno_of, read, xattrs

CHUNKS = {f"tos/c/{t}/{y}/{x}" for t in range(3) for y in range(2) for x in range(2)}
CHUNKS |= {"nav_lat/c/0/0", "nav_lon/c/0/0", "time/c/0", "time/c/1", "time/c/2"}
DOCUMENTS = {f"{node}zarr.json" for node in ("", "tos/", "nav_lat/", "nav_lon/", "time/")}


@pytest.fixture(scope="session", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the demo's archive and repository."""
    return demo.build(tmp_path_factory.mktemp("demo"))


@pytest.fixture(name="mounted")
def _mounted(built: tuple[Path, Path], mount: Callable[..., Mount]) -> Path:
    archive, repository = built
    return mount(repository, "--allow", str(archive)).path


def paths_below(root: Path) -> list[Path]:
    return [root, *root.rglob("*")]


def written_at(repository: Path) -> datetime:
    opened = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repository)))
    return next(iter(opened.ancestry(branch="main"))).written_at


def test_the_names_are_those_of_the_hierarchy(mounted: Path) -> None:
    """Documents and chunks are there under their keys, and nothing else is."""
    files = {str(p.relative_to(mounted)) for p in paths_below(mounted) if p.is_file()}
    assert files == CHUNKS | DOCUMENTS


def test_times_are_the_snapshots(mounted: Path, built: tuple[Path, Path]) -> None:
    """Every path was last modified, changed and read when the snapshot was written."""
    expected = written_at(built[1]).timestamp()
    for path in paths_below(mounted):
        found = path.stat()
        for time in (found.st_mtime, found.st_ctime, found.st_atime):
            assert time == pytest.approx(expected, abs=1e-3)


def test_modes_owners_and_links(built: tuple[Path, Path], mount: Callable[..., Mount]) -> None:
    """Directories are 0555 and files 0444 less the umask, of whom was asked for, with one link."""
    archive, repository = built
    options = ["--allow", str(archive), "--umask", "027", "--uid", "1234", "--gid", "4321"]
    given, usual = mount(repository, *options).path, mount(repository).path
    for root, umask, owner in (
        (given, 0o027, (1234, 4321)),
        (usual, 0o022, (os.getuid(), os.getgid())),
    ):
        for path in paths_below(root):
            found = path.lstat()
            mode = stat.S_IFDIR | 0o555 if path.is_dir() else stat.S_IFREG | 0o444
            assert found.st_mode == mode & ~umask
            assert (found.st_uid, found.st_gid) == owner
            assert found.st_nlink == 1


def test_sizes_are_exact_before_and_after_reading(mounted: Path) -> None:
    """The size of a file is the number of its bytes, also where nothing was read; a directory has none."""
    sizes = {p: p.stat().st_size for p in paths_below(mounted)}
    for path, size in sizes.items():
        assert size == (len(path.read_bytes()) if path.is_file() else 0)
        assert path.stat().st_size == size


def test_inode_numbers_are_distinct_and_stay(mounted: Path) -> None:
    """Each path has an inode number of its own, the same however often it is asked for."""
    first = [p.stat().st_ino for p in paths_below(mounted)]
    assert len(set(first)) == len(first)
    assert [p.stat().st_ino for p in paths_below(mounted)] == first


def test_whatever_would_change_something_is_refused(mounted: Path) -> None:
    """Creating, writing, removing, renaming, linking and setting attributes give EROFS."""
    chunk, new = mounted / demo.CHUNK, mounted / "new"
    refused = {
        "create": errno_of(os.open, new, os.O_CREAT | os.O_WRONLY),
        "write": errno_of(os.open, chunk, os.O_WRONLY),
        "update": errno_of(os.open, chunk, os.O_RDWR),
        "truncate": errno_of(os.truncate, chunk, 0),
        "mkdir": errno_of(os.mkdir, new),
        "rmdir": errno_of(os.rmdir, mounted / "tos"),
        "unlink": errno_of(os.unlink, chunk),
        "rename": errno_of(os.rename, chunk, new),
        "symlink": errno_of(os.symlink, chunk, new),
        "link": errno_of(os.link, chunk, new),
        "mknod": errno_of(os.mkfifo, new),
        "chmod": errno_of(os.chmod, chunk, 0o600),
        "chown": errno_of(os.chown, chunk, 1, 1),
        "utime": errno_of(os.utime, chunk),
        "setxattr": errno_of(os.setxattr, chunk, "user.other", b"x"),
        "removexattr": errno_of(os.removexattr, chunk, "user.vzfs.kind"),
    }
    assert refused == dict.fromkeys(refused, "EROFS")


def test_names_that_are_not_there_have_their_own_errno(mounted: Path) -> None:
    """An absent name, a path through a file, a directory read as a file and a long name differ."""
    assert errno_of(os.stat, mounted / "tos/c/0/1/2") == "ENOENT"
    assert errno_of(os.stat, mounted / "tos/c/00/1/1") == "ENOENT"
    assert errno_of(os.stat, mounted / ".zgroup") == "ENOENT"
    assert errno_of(os.stat, mounted / demo.CHUNK / "more") == "ENOTDIR"
    assert errno_of((mounted / "tos").read_bytes) == "EISDIR"
    assert errno_of(os.stat, mounted / ("n" * 256)) == "ENAMETOOLONG"


def test_extended_attributes_say_where_bytes_come_from(
    mounted: Path, built: tuple[Path, Path]
) -> None:
    """A virtual chunk names its source, an inline one its kind, and every path its snapshot."""
    archive, repository = built
    about = {"repository": f"{repository.as_uri()}/", "format": "icechunk 2", "branch": "main"}
    for path in paths_below(mounted):
        assert xattrs(path).items() >= about.items()
        assert len(xattrs(path)["snapshot"]) == 20
    virtual = xattrs(mounted / demo.CHUNK)
    offset, length = int(virtual["offset"]), int(virtual["length"])
    source = archive / "tos_201501.nc"
    assert (virtual["kind"], virtual["source"]) == ("virtual", source.as_uri())
    assert virtual["cached"] == "no"
    data = source.read_bytes()[offset : offset + length]
    assert (mounted / demo.CHUNK).read_bytes() == data
    assert xattrs(mounted / demo.CHUNK)["cached"] == "yes"
    assert xattrs(mounted / "time/c/0").items() >= {"kind": "inline", "length": "8"}.items()
    assert errno_of(os.getxattr, mounted / demo.CHUNK, "user.vzfs.nonsense") == "ENODATA"
    assert errno_of(os.getxattr, mounted / demo.CHUNK, "security.selinux") == "ENODATA"


def test_a_tag_is_named_in_the_place_of_a_branch(
    built: tuple[Path, Path], mount: Callable[..., Mount]
) -> None:
    """A mount that was reached by a tag says so, and names no branch."""
    found = xattrs(mount(built[1], "--tag", "2015-q1").path)
    assert found["tag"] == "2015-q1"
    assert "branch" not in found


def test_free_space_is_none(mounted: Path) -> None:
    """`df` has the documents as what is there, and nothing free."""
    found = os.statvfs(mounted)
    assert (found.f_bfree, found.f_bavail, found.f_ffree) == (0, 0, 0)
    assert found.f_files == len(DOCUMENTS) * 2
    assert found.f_blocks >= 1
    assert found.f_namemax == 255
    assert found.f_flag & os.ST_RDONLY


def test_a_refusal_is_logged_once_for_its_prefix(
    built: tuple[Path, Path], mount: Callable[..., Mount]
) -> None:
    """However many chunks below a prefix are denied, the log says once what would allow it."""
    mounted = mount(built[1])
    mounted.expect_log(r"--allow file://.*/archive/ \(not-allowed\)")
    denied = [read(mounted.path / key) for key in sorted(CHUNKS) if not key.startswith("time")]
    assert denied == ["EACCES"] * 14
    assert len(mounted.warnings()) == 1
