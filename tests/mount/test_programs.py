"""Ordinary programs on a mount: they work, they agree with each other, and nothing can be changed."""

import ctypes
import errno
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount
from tests.mount.outcomes import errno_of, read, walk, xattrs
from tests.mount.repositories import Ref, add_native, add_virtual, create, pattern

LENGTH = 1000
SOURCE = pattern(5 * LENGTH)
ETAG = '"some-etag"'
DAY = 1_700_000_000


class Tree:
    """A mount with native, inline and virtual chunks, and what each of its files holds."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.source = self.archive / "source"
        self.source.write_bytes(SOURCE)
        os.utime(self.source, (DAY, DAY))
        self.repository = folder / "repository"
        self.prefix = f"{self.archive.as_uri()}/"
        repository = create(self.repository, containers=[self.prefix], inline=16)
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        url = self.source.as_uri()
        refs = [Ref(url, n * LENGTH, LENGTH - n, DAY) for n in range(4)]
        add_virtual(session, root, "virtual", [*refs, Ref("s3://elsewhere/x", 7, 9, ETAG)])
        add_native(root, "deep/er/native", np.frombuffer(SOURCE, "u1"), (LENGTH,))
        add_native(root, "inline", np.arange(10, dtype="u1"), (5,))
        add_native(root, "with space", np.arange(16, dtype="u1").reshape(4, 4), (2, 2))
        self.snapshot = session.commit("tree")
        self.written_at = next(iter(repository.ancestry(branch="main"))).written_at
        self.mount = Mount(
            folder / "mount", self.repository, "--no-cache", "--allow", str(self.archive)
        )
        self.path = self.mount.path


DENIED = "virtual/c/4"
"""The one chunk whose source is not allowed."""


@pytest.fixture(scope="module", name="tree")
def _tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("tree"))
    try:
        yield tree
        if tree.mount.warnings():
            tree.mount.expect_log("elsewhere")
        tree.mount.end()
    finally:
        tree.mount.tear_down()


def run(*words: str | Path) -> str:
    """Run a program that must succeed and say nothing on standard error; return its output."""
    result = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


def contents(root: Path) -> dict[str, bytes]:
    """Return every readable file below *root*."""
    return {
        name: (root / name).read_bytes()
        for name in walk(root)
        if (root / name).is_file() and name != DENIED
    }


# -- programs ----------------------------------------------------------------------------------


def test_copies_by_cp_rsync_and_tar_are_alike(tree: Tree, tmp_path: Path) -> None:
    """`cp -r`, `rsync -a` and `tar` make the same copy, file by file the bytes that the mount serves."""
    expected = contents(tree.path)
    assert len(expected) > 15
    run("rsync", "-a", f"--exclude=/{DENIED}", f"{tree.path}/", tmp_path / "rsync")
    (tmp_path / "cp").mkdir()
    for name in ("deep", "inline", "with space"):
        run("cp", "-r", tree.path / name, tmp_path / "cp")
    run("tar", "-C", tree.path, f"--exclude=./{DENIED}", "-cf", tmp_path / "all.tar", ".")
    with tarfile.open(tmp_path / "all.tar") as archive:
        archive.extractall(tmp_path / "tar", filter="data")
    assert contents(tmp_path / "rsync") == expected
    assert contents(tmp_path / "tar") == expected
    copied = contents(tmp_path / "cp")
    assert copied == {k: v for k, v in expected.items() if k.split("/")[0] in copied_roots(copied)}
    assert walk(tmp_path / "rsync") == [n for n in walk(tree.path) if n != DENIED]


def copied_roots(copied: dict[str, bytes]) -> set[str]:
    assert {name.split("/")[0] for name in copied} == {"deep", "inline", "with space"}
    return {name.split("/")[0] for name in copied}


def test_a_second_rsync_copies_nothing(tree: Tree, tmp_path: Path) -> None:
    """Sizes and times stay, so `rsync -a` of an unchanged mount transfers nothing the second time."""
    words = ["rsync", "-a", "-i", f"--exclude=/{DENIED}", f"{tree.path}/", str(tmp_path / "copy")]
    assert run(*words) != ""
    assert run(*words) == ""


def test_programs_that_only_look_agree(tree: Tree) -> None:
    """`find`, `ls -laR`, `stat` and `du` agree about names, kinds, sizes and times."""
    names = walk(tree.path)
    found = run("find", tree.path, "-mindepth", "1", "-printf", r"%P\t%y\t%s\t%m\n")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in found.splitlines()}
    assert sorted(rows) == names
    for name, (kind, size, mode) in rows.items():
        about = (tree.path / name).stat()
        assert kind == ("d" if stat.S_ISDIR(about.st_mode) else "f")
        assert mode == ("555" if kind == "d" else "444")
        assert int(size) == about.st_size
        assert run("stat", "-c", "%s %Y", tree.path / name) == f"{size} {int(about.st_mtime)}\n"
    listed = run("ls", "-laR", tree.path)
    assert sum(line.startswith("-r--r--r--") for line in listed.splitlines()) == sum(
        row[0] == "f" for row in rows.values()
    )
    total = int(run("du", "-sb", tree.path).split()[0])
    assert total == sum(int(row[1]) for row in rows.values())


def test_programs_that_read_agree(tree: Tree) -> None:
    """`cat`, `md5sum`, `dd` at an offset, `head` and mmap see the same bytes of a chunk."""
    file = tree.path / "virtual/c/2"
    expected = SOURCE[2 * LENGTH : 3 * LENGTH - 2]
    assert read(file) == expected
    assert subprocess.run(["cat", file], capture_output=True, check=True).stdout == expected
    assert run("md5sum", file).split()[0] == hashlib.md5(expected).hexdigest()
    words = ["dd", f"if={file}", "bs=100", "skip=3", "count=2", "status=none"]
    assert subprocess.run(words, capture_output=True, check=True).stdout == expected[300:500]
    head = subprocess.run(["head", "-c", "10", file], capture_output=True, check=True).stdout
    assert head == expected[:10]
    assert bytes(np.memmap(file, dtype="u1", mode="r")) == expected
    tail = subprocess.run(["tail", "-c", "10", file], capture_output=True, check=True).stdout
    assert tail == expected[-10:]


def test_reads_around_the_end_of_a_file(tree: Tree) -> None:
    """A read that begins before the end is short, one at or behind the end gives no bytes."""
    descriptor = os.open(tree.path / "virtual/c/0", os.O_RDONLY)
    try:
        assert os.pread(descriptor, 100, LENGTH - 10) == SOURCE[LENGTH - 10 : LENGTH]
        assert os.pread(descriptor, 100, LENGTH) == b""
        assert os.pread(descriptor, 100, 10 * LENGTH) == b""
        assert os.lseek(descriptor, -5, os.SEEK_END) == LENGTH - 5
        assert os.read(descriptor, 100) == SOURCE[LENGTH - 5 : LENGTH]
    finally:
        os.close(descriptor)


def test_a_copy_of_a_failing_chunk_says_so(tree: Tree, tmp_path: Path) -> None:
    """`cp` of a chunk that may not be read fails with "Permission denied", and not with a file of zeros."""
    words = ["cp", str(tree.path / DENIED), str(tmp_path / "copy")]
    result = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert result.returncode != 0
    assert "Permission denied" in result.stderr
    assert not (tmp_path / "copy").exists() or (tmp_path / "copy").stat().st_size == 0


def test_stat_says_what_the_snapshot_says(tree: Tree) -> None:
    """Times are the snapshot's, owner and group the mounting user's, modes read-only, inode numbers distinct."""
    inodes = set()
    for name in ["", *walk(tree.path)]:
        about = (tree.path / name).stat()
        assert about.st_mtime == pytest.approx(tree.written_at.timestamp(), abs=1e-3)
        assert about.st_mtime_ns == about.st_ctime_ns == about.st_atime_ns
        assert (about.st_uid, about.st_gid) == (os.getuid(), os.getgid())
        assert stat.S_IMODE(about.st_mode) == (0o555 if stat.S_ISDIR(about.st_mode) else 0o444)
        inodes.add(about.st_ino)
    assert len(inodes) == len(walk(tree.path)) + 1


def test_dot_and_dot_dot_lead_where_they_should(tree: Tree) -> None:
    """`.` and `..` inside the mount name the same directories as full paths."""
    deep = tree.path / "deep/er/native/c"
    assert (deep / "..").samefile(tree.path / "deep/er/native")
    assert (deep / "../../..").samefile(tree.path / "deep")
    assert (deep / ".").samefile(deep)
    descriptor = os.open(deep, os.O_RDONLY)
    try:
        inner = os.open("../zarr.json", os.O_RDONLY, dir_fd=descriptor)
        os.close(inner)
    finally:
        os.close(descriptor)


def test_statfs_is_read_only_and_has_nothing_free(tree: Tree) -> None:
    """`df` and statvfs show a read-only file system with names up to 255 bytes and no free space."""
    about = os.statvfs(tree.path)
    assert about.f_namemax == 255
    assert about.f_flag & os.ST_RDONLY
    assert about.f_flag & os.ST_NOSUID
    assert (about.f_bfree, about.f_bavail, about.f_ffree) == (0, 0, 0)
    assert about.f_blocks > 0
    assert about.f_files >= 5
    assert run("df", "--output=fstype", tree.path).split()[1] == "fuse.vzfs"


# -- errors ------------------------------------------------------------------------------------


def test_each_mistake_has_its_own_errno(tree: Tree) -> None:
    """Unknown names give ENOENT, ways through a file ENOTDIR, long names ENAMETOOLONG, reading a directory EISDIR."""
    path = tree.path
    assert errno_of(os.stat, path / "nope") == "ENOENT"
    assert errno_of(os.open, path / "nope", os.O_RDONLY) == "ENOENT"
    assert errno_of(os.stat, path / "virtual/c/5") == "ENOENT"
    assert errno_of(os.stat, path / "virtual/c/-1") == "ENOENT"
    assert errno_of(os.stat, path / "virtual/c/00") == "ENOENT"
    assert errno_of(os.stat, path / "virtual/0") == "ENOENT"
    assert errno_of(os.stat, path / "virtual/.zarray") == "ENOENT"
    assert errno_of(os.stat, path / "zarr.json/x") == "ENOTDIR"
    assert errno_of(os.stat, path / "virtual/c/0/x") == "ENOTDIR"
    assert errno_of(os.listdir, path / "virtual/c/0") == "ENOTDIR"
    assert errno_of(os.stat, path / ("n" * 256)) == "ENAMETOOLONG"
    assert errno_of(os.stat, path / ("é" * 128)) == "ENAMETOOLONG"
    assert errno_of(os.stat, path / ("n" * 255)) == "ENOENT"
    descriptor = os.open(path / "virtual", os.O_RDONLY)
    try:
        assert errno_of(os.read, descriptor, 10) == "EISDIR"
    finally:
        os.close(descriptor)
    assert errno_of(os.getxattr, path / "zarr.json", "user.vzfs.nope") == "ENODATA"
    assert errno_of(os.getxattr, path / "zarr.json", "user.other") == "ENODATA"
    assert errno_of(os.getxattr, path / "zarr.json", "security.selinux") in {"ENODATA", "ENOTSUP"}
    assert errno_of(os.getxattr, path / "nope", "user.vzfs.snapshot") == "ENOENT"
    assert errno_of(os.readlink, path / "zarr.json") == "EINVAL"


def mknod(path: Path) -> None:
    os.mknod(path, stat.S_IFREG | 0o600)


def bind_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            # A short way there: the names of sockets have at most 107 bytes.
            peer.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


MUTATIONS: dict[str, Callable[[Path, Path], object]] = {
    "create": lambda _, new: os.open(new, os.O_WRONLY | os.O_CREAT),
    "create exclusively": lambda _, new: os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL),
    "open to write": lambda old, _: os.open(old, os.O_WRONLY),
    "open to read and write": lambda old, _: os.open(old, os.O_RDWR),
    "open to append": lambda old, _: os.open(old, os.O_WRONLY | os.O_APPEND),
    "open and truncate": lambda old, _: os.open(old, os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda old, _: os.truncate(old, 0),
    "mkdir": lambda _, new: new.mkdir(),
    "mknod": lambda _, new: mknod(new),
    "mkfifo": lambda _, new: os.mkfifo(new),
    "bind": lambda _, new: bind_socket(new),
    "unlink": lambda old, _: old.unlink(),
    "rmdir": lambda old, _: old.parent.rmdir(),
    "rename": lambda old, new: old.rename(new),
    "rename a directory": lambda old, new: old.parent.rename(new),
    "replace": lambda old, new: old.replace(new),
    "symlink": lambda old, new: new.symlink_to(old),
    "link": lambda old, new: os.link(old, new),
    "chmod": lambda old, _: old.chmod(0o644),
    "chown": lambda old, _: os.chown(old, 1, 1),
    "utime": lambda old, _: os.utime(old),
    "setxattr": lambda old, _: os.setxattr(old, "user.new", b"x"),
    "setxattr of ours": lambda old, _: os.setxattr(old, "user.vzfs.snapshot", b"x"),
    "removexattr": lambda old, _: os.removexattr(old, "user.vzfs.snapshot"),
}


@pytest.mark.parametrize("old", ["zarr.json", "virtual/c/0", "with space/c/0/1"])
def test_whatever_would_change_something_is_refused(old: str, tree: Tree) -> None:
    """Every call that would change a document, a chunk or a directory gives EROFS, and nothing changes."""
    before = contents(tree.path)
    file = tree.path / old
    new = file.parent / "new"
    found = {name: errno_of(call, file, new) for name, call in MUTATIONS.items()}
    if old == "zarr.json":
        # Its directory is the mountpoint itself, which the kernel protects before it asks.
        assert {found.pop("rmdir"), found.pop("rename a directory")} <= {"EBUSY", "EXDEV", "EROFS"}
    assert found == dict.fromkeys(found, "EROFS")
    assert contents(tree.path) == before
    assert not new.exists()


def test_a_shared_writable_mapping_is_refused(tree: Tree) -> None:
    """A mapping for writing needs a writable file, and there is none: a private mapping changes nothing."""
    array = np.memmap(tree.path / "virtual/c/0", dtype="u1", mode="c")
    array[:] = 0
    assert read(tree.path / "virtual/c/0") == SOURCE[:LENGTH]


# -- extended attributes -----------------------------------------------------------------------


def test_extended_attributes_say_where_bytes_come_from(tree: Tree) -> None:
    """Root, nodes, documents and virtual, native and inline chunks have the attributes that are promised, all and only."""
    node = {
        "snapshot": tree.snapshot,
        "repository": f"{tree.repository.as_uri()}/",
        "branch": "main",
        "view": "stored-v3",
    }
    of_array = node | {"form": "stored"}
    for name in ("", "zarr.json", "virtual", "virtual/zarr.json", "virtual/c", "deep/er"):
        found = dict(xattrs(tree.path / name))
        assert found.pop("format").startswith("icechunk")
        assert found == (of_array if name.startswith("virtual") else node), name
    virtual = dict(xattrs(tree.path / "virtual/c/2"))
    assert read(tree.path / "virtual/c/2") == SOURCE[2 * LENGTH : 3 * LENGTH - 2]
    assert dict(xattrs(tree.path / "virtual/c/2"))["cached"] == "yes"
    assert virtual.pop("cached") in {"yes", "no"}
    assert virtual.pop("format")
    assert virtual == of_array | {
        "kind": "virtual",
        "source": tree.source.as_uri(),
        "offset": str(2 * LENGTH),
        "length": str(LENGTH - 2),
        "last_modified": "2023-11-14T22:13:20Z",
        "container": tree.prefix,
    }
    denied = xattrs(tree.path / DENIED)
    assert denied["source"] == "s3://elsewhere/x"
    assert denied["etag"] == ETAG
    assert (denied["offset"], denied["length"], denied["cached"]) == ("7", "9", "no")
    assert "container" not in denied
    native = xattrs(tree.path / "deep/er/native/c/1")
    assert native["kind"] == "native"
    assert native["source"].startswith(f"{tree.repository.as_uri()}/chunks/")
    assert native["length"] == str(LENGTH)
    assert native.keys().isdisjoint({"container", "etag", "last_modified"})
    inline = xattrs(tree.path / "inline/c/1")
    assert (inline["kind"], inline["length"], inline["cached"]) == ("inline", "5", "yes")
    assert inline.keys().isdisjoint({"source", "offset", "container", "etag", "last_modified"})


def test_getfattr_shows_them_all(tree: Tree) -> None:
    """`getfattr -d` prints the attributes of a chunk as text."""
    words = ["getfattr", "--absolute-names", "-d", str(tree.path / "virtual/c/1")]
    lines = run(*words).splitlines()
    assert f'user.vzfs.source="{tree.source.as_uri()}"' in lines
    assert f'user.vzfs.length="{LENGTH - 1}"' in lines


def test_a_buffer_too_small_for_an_attribute_is_erange(tree: Tree) -> None:
    """A getxattr with too small a buffer gives ERANGE, and with none the size, as everywhere on Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(tree.path / "zarr.json")
    name = b"user.vzfs.snapshot"
    assert libc.getxattr(path, name, None, 0) == len(tree.snapshot)
    buffer = ctypes.create_string_buffer(5)
    assert libc.getxattr(path, name, buffer, 5) == -1
    assert ctypes.get_errno() == errno.ERANGE


# -- many at once ------------------------------------------------------------------------------


def test_many_readers_and_lookers_at_once(tree: Tree, tmp_path: Path) -> None:
    """Eight programs that copy the whole tree at the same time all get the same copy."""
    expected = contents(tree.path)
    copies = [
        subprocess.Popen(
            ["rsync", "-a", f"--exclude=/{DENIED}", f"{tree.path}/", str(tmp_path / str(n))]
        )
        for n in range(8)
    ]
    assert [copy.wait(timeout=60) for copy in copies] == [0] * 8
    for n in range(8):
        assert contents(tmp_path / str(n)) == expected
        shutil.rmtree(tmp_path / str(n))


def test_a_directory_of_many_chunks_is_listed_whole(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A listing longer than one reply of the kernel's has every name once, also when it is interrupted and read again."""
    path = tmp_path / "repository"
    session = create(path, inline=512).writable_session("main")
    root = zarr.group(session.store)
    add_native(root, "a", np.arange(5000, dtype="u1"), (1,))
    session.commit("many")
    mounted = mount(path)
    folder = mounted.path / "a/c"
    with os.scandir(folder) as listing:
        for _ in range(10):
            next(listing)
    expected = sorted(str(n) for n in range(5000))
    # A fill value of 0 is not written.
    expected = [name for name in expected if int(name) % 256]
    assert walk(folder) == expected
    assert walk(folder) == expected
    assert (folder / "4999").read_bytes() == bytes([4999 % 256])
