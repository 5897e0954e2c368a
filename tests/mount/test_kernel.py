"""What the kernel asks the daemon, and what it does by itself: requests are counted."""

import ctypes
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount
from tests.mount.outcomes import wait_until, walk
from tests.mount.repositories import Ref, add_native, create, pattern, write_virtual

SMALL, LARGE = 2**16, 5 * 2**20 + 12345
CHUNKS = 3000
"""Chunks in one directory: more than fit into a few pages of a listing."""


class Tree:
    """A mount with a directory of many chunks, small chunks, and large ones."""

    def __init__(self, folder: Path, mount: Callable[..., Mount], *, has_large: bool) -> None:
        self.source = folder / "archive" / "x"
        self.source.parent.mkdir()
        self.data = pattern(2 * LARGE)
        self.source.write_bytes(self.data)
        prefix = f"{self.source.parent.as_uri()}/"
        url = self.source.as_uri()
        arrays = {"small": [Ref(url, n * SMALL, SMALL) for n in range(8)]}
        if has_large:
            arrays["large"] = [Ref(url, n * LARGE, LARGE) for n in range(2)]
        path = write_virtual(folder / "repository", arrays, containers=[prefix])
        self.mount = mount(path, "--allow", prefix)
        self.path = self.mount.path

    def requests(self) -> int:
        """Return how many requests the daemon has had."""
        lines = len(self.mount.log())
        os.kill(self.mount.pid, signal.SIGUSR1)
        wait_until(lambda: "fuse.requests=" in "".join(self.mount.log()[lines:]), "it is logged")
        (count,) = re.findall(r"fuse\.requests=(\d+)", "".join(self.mount.log()[lines:]))
        return int(count)


@pytest.fixture(name="many")
def _many(tmp_path: Path, mount: Callable[..., Mount]) -> Path:
    """Give a directory of `CHUNKS` chunks."""
    path = tmp_path / "repository"
    session = create(path, inline=512).writable_session("main")
    add_native(zarr.group(session.store), "a", np.ones(CHUNKS, dtype="u1"), (1,))
    session.commit("many")
    return mount(path).path / "a/c"


def test_what_the_kernel_has_costs_no_request(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """Names, attributes, pages and listings that the kernel has seen once are asked for no more, nor are OPEN and RELEASE."""
    tree = Tree(tmp_path, mount, has_large=False)

    def use() -> None:
        for n in range(8):
            part = tree.data[n * SMALL : (n + 1) * SMALL]
            descriptor = os.open(tree.path / f"small/c/{n}", os.O_RDONLY)
            try:
                assert os.read(descriptor, SMALL) == part
            finally:
                os.close(descriptor)
        assert walk(tree.path / "small/c") == [str(n) for n in range(8)]
        assert not (tree.path / "small/c/8").exists()

    use()
    first = tree.requests()
    use()
    assert tree.requests() == first


def test_a_large_chunk_is_read_a_mebibyte_at_a_time(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A large chunk costs little more than one request for each MiB, and all its bytes are right."""
    tree = Tree(tmp_path, mount, has_large=True)
    file = tree.path / "large/c/1"
    assert file.stat().st_size == LARGE
    before = tree.requests()
    descriptor = os.open(file, os.O_RDONLY)
    buffer = bytearray(LARGE)
    try:
        assert os.preadv(descriptor, [buffer], 0) == LARGE
    finally:
        os.close(descriptor)
    assert buffer == tree.data[LARGE:]
    # OPEN, RELEASE, and a buffer that begins within a page.
    assert tree.requests() - before <= 2 * (LARGE // 2**20 + 1) + 2


def test_large_chunks_are_read_by_any_means(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """A large chunk can be read whole, in odd parts and beyond its end, copied, and mapped shared and private."""
    tree = Tree(tmp_path, mount, has_large=True)
    file, data = tree.path / "large/c/0", tree.data[:LARGE]
    assert file.read_bytes() == data
    with file.open("rb", buffering=0) as opened:
        for offset, size in (
            (1, 10),
            (2**20 - 3, 7),
            (LARGE - 5, 100),
            (LARGE, 10),
            (LARGE + 9, 1),
        ):
            assert os.pread(opened.fileno(), size, offset) == data[offset : offset + size]
        assert opened.seek(0, os.SEEK_HOLE) == LARGE
        assert opened.seek(5, os.SEEK_DATA) == 5
        os.fsync(opened.fileno())
    shutil.copy(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    for mode in ("r", "c"):
        assert np.memmap(file, "u1", mode=mode).tobytes() == data
    assert file.read_bytes() == data


def test_a_long_listing_is_whole_and_served_again_by_the_kernel(
    many: Path,
) -> None:
    """A listing of many pages has every name once, a second time, and with attributes."""
    expected = sorted(str(n) for n in range(CHUNKS))
    for _ in range(2):
        assert walk(many) == expected
    with os.scandir(many) as listing:
        found = {entry.name: (entry.is_file(), entry.stat().st_size) for entry in listing}
    assert found == dict.fromkeys(expected, (True, 1))
    with os.scandir(many) as listing:
        assert {entry.inode() for entry in listing} == {
            (many / name).stat().st_ino for name in expected
        }


class Dirent(ctypes.Structure):
    """What readdir(3) gives."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


def test_a_listing_resumes_where_it_was_left(many: Path) -> None:
    """Positions from telldir(3) mean the same place later, to other readers, and beyond the end nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(Dirent)
    libc.readdir.argtypes = libc.telldir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

    def names(folder: int) -> list[str]:
        found = []
        while line := libc.readdir(folder):
            found.append(line.contents.d_name.decode())
        return found

    first = libc.opendir(os.fsencode(many))
    places = []
    for _ in range(CHUNKS):
        places.append(libc.telldir(first))
        assert libc.readdir(first)
    for skip in (CHUNKS - 1, 1500, 0, 7):
        second = libc.opendir(os.fsencode(many))
        for folder in (first, second):
            libc.seekdir(folder, places[skip])
            rest = names(folder)
            assert len(rest) == CHUNKS - skip
            assert len(set(rest)) == len(rest)
        libc.closedir(second)
    for beyond in (2**50, 2**63 - 1):
        libc.seekdir(first, beyond)
        assert names(first) == []
    libc.closedir(first)
