"""What a request costs through FUSE: ours, empty and whole, beside pyfuse3 and C, both empty.

    python -m benchmarks.fuse_floor [ROUNDS]

An empty file system has files of 64 KiB and of 1 MiB under every number and gives zeros. "whole" is
all of vzfs but the sources: a repository of virtual chunks, mounted in full, whose bytes are in the
daemon's memory. The same client asks each in turn, ROUNDS times (default 5), for names and pages
that the kernel does not have: looking names up, opening and closing, reading files whole. Prints
medians, the processor time of the daemon, and the ratios to C.

pyfuse3 is there with `uv sync --group bench`; C where `cc`, pkg-config and libfuse3-dev are.
"""

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from vzfs import fuse
from vzfs.fuse import protocol
from vzfs.fuse.protocol import Attributes, Feature, Opcode, Opening
from vzfs.fuse.session import Answer

HERE = Path(__file__).parent
SMALL, LARGE = 2**16, 2**20
NAMES = 2000
"""Names looked up, and files opened and closed."""
FILES = 1000
"""Files of 64 KiB that each client reads."""
CLIENTS = 4
LARGE_FILES = 150
FOREVER = 3600
ZEROS = memoryview(bytes(LARGE))


def size_of(inode: int) -> int:
    """Return the bytes of a file of an empty file system."""
    return LARGE if inode & 1 else SMALL


def inode_of(name: bytes) -> int:
    """Return the inode of a name of an empty file system, 0 for none."""
    return 2 + 2 * int(name[1:]) + (name[:1] == b"m") if name[:1] in {b"f", b"m"} else 0


# -- file systems ------------------------------------------------------------------------------


class Empty:
    """Our session with nothing behind it."""

    def __init__(self) -> None:
        self.file = Attributes(0o100444, 0, 0, 0, 4096)
        self.folder = Attributes(0o040555, 0, 0, 0, 4096)

    def answer(self, opcode: int, inode: int, message: bytes, thread: int) -> Answer:
        """Answer at once."""
        if opcode == Opcode.READ:
            offset, size = protocol.span(message)
            return ZEROS[offset : min(offset + size, size_of(inode))]
        if opcode == Opcode.OPEN:
            return protocol.open_reply(Opening.KEEP_CACHE)
        if opcode == Opcode.RELEASE:
            return b""
        if opcode == Opcode.LOOKUP:
            found = inode_of(protocol.name(message))
            if not found:
                return protocol.absent_reply(FOREVER)
            return protocol.entry_reply(found, size_of(found), self.file, FOREVER)
        if opcode == Opcode.GETATTR:
            is_root = inode == protocol.ROOT
            size, of = (0, self.folder) if is_root else (size_of(inode), self.file)
            return protocol.attr_reply(inode, size, of, FOREVER)
        return 38  # ENOSYS

    def agreed(self, features: Feature) -> None:
        """Whatever it is, it is enough."""

    def forget(self, inode: int) -> None:
        """Nothing is kept."""

    def drained(self) -> None:
        """Nothing is counted."""


def serve_ours(mountpoint: str) -> None:
    """Mount `Empty` until it is unmounted."""
    session = fuse.mount(Empty(), mountpoint, fuse.options("empty", allow_other=False))
    serve(session)


def serve(session: fuse.Session) -> None:
    """Say that the mount is there, and serve it."""
    print("ready", flush=True)
    try:
        trio.run(session.serve)
    finally:
        session.close()


def serve_whole(mountpoint: str, repository: str) -> None:
    """Mount a repository with all its bytes in memory until it is unmounted."""
    from vzfs.cache import MemoryCache
    from vzfs.chunks import Chunks, ReadAhead
    from vzfs.config import Flags, load
    from vzfs.filesystem import Filesystem, Reading, settle
    from vzfs.mount import open_source

    async def main() -> None:
        allowed = str(Path(repository).with_name("sources"))
        opened = await open_source(load(repository, Flags(allow=[allowed]), {"HOME": mountpoint}))
        chunks = Chunks(opened.source, opened.access, MemoryCache(2**31), None)
        ahead = ReadAhead(chunks, 2**26)
        filesystem = Filesystem(opened.checkout, Reading(opened.access, chunks, ahead))
        operations = fuse.Operations(filesystem, fuse.Ownership(os.getuid(), os.getgid()))
        async with trio.open_nursery() as nursery:
            await nursery.start(opened.source.run)
            await nursery.start(chunks.run)
            for array, count in (("f", NAMES), ("m", LARGE_FILES)):
                folder = (await settle(filesystem.lookup, protocol.ROOT, array)).inode
                for n in range(min(count, DISTINCT)):
                    found = await settle(filesystem.lookup, folder, f"c.{n}")
                    await filesystem.read(found.inode, 0, found.size)
            session = fuse.mount(operations, mountpoint, fuse.options("whole", allow_other=False))
            print("ready", flush=True)
            try:
                await session.serve()
            finally:
                session.close()
            nursery.cancel_scope.cancel()

    trio.run(main)


def serve_pyfuse3(mountpoint: str) -> None:
    """Mount an empty file system of pyfuse3 over trio until it is unmounted."""
    import errno

    import pyfuse3

    def entry(inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino, found.st_nlink = inode, 1
        found.entry_timeout = found.attr_timeout = FOREVER
        is_root = inode == protocol.ROOT
        found.st_mode, found.st_size = (0o040555, 0) if is_root else (0o100444, size_of(inode))
        return found

    class Operations(pyfuse3.Operations):
        enable_writeback_cache = False

        async def lookup(self, parent, name, ctx):  # noqa: ANN001, ANN202
            found = inode_of(name)
            if not found:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return entry(found)

        async def getattr(self, inode, ctx):  # noqa: ANN001, ANN202
            return entry(inode)

        async def open(self, inode, flags, ctx):  # noqa: ANN001, ANN202
            return pyfuse3.FileInfo(fh=inode, keep_cache=True)

        async def read(self, fh, off, size):  # noqa: ANN001, ANN202
            return ZEROS[off : min(off + size, size_of(fh))]

        async def release(self, fh):  # noqa: ANN001, ANN202
            pass

        async def flush(self, fh):  # noqa: ANN001, ANN202
            raise pyfuse3.FUSEError(errno.ENOSYS)

    pyfuse3.init(Operations(), mountpoint, {"ro", "fsname=empty"})
    print("ready", flush=True)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


DISTINCT = 8
"""Pieces of the source that the chunks of the repository are: so few that they stay in the processor's
cache, as the zeros of the empty ones do. It is the code that is measured, and not the memory."""


def build(folder: str) -> None:
    """Write a repository whose arrays `f` and `m` have chunks of 64 KiB and of 1 MiB."""
    import icechunk
    import numpy as np
    import zarr

    sources = Path(folder) / "sources"
    sources.mkdir()
    (sources / "x").write_bytes(np.random.default_rng(0).bytes(DISTINCT * LARGE))
    prefix = f"{sources.as_uri()}/"
    config = icechunk.RepositoryConfig.default()
    store = icechunk.local_filesystem_store(str(sources))
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    icechunk.set_logs_filter("error")
    storage = icechunk.local_filesystem_storage(f"{folder}/repository")
    session = icechunk.Repository.create(storage, config=config).writable_session("main")
    root = zarr.group(session.store)
    for array, size, count in (
        ("f", SMALL, NAMES + (1 + CLIENTS) * FILES),
        ("m", LARGE, LARGE_FILES),
    ):
        root.create_array(
            array,
            shape=(count,),
            chunks=(1,),
            dtype="u1",
            compressors=None,
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        places = (np.arange(count, dtype=np.uint64) % DISTINCT) * size
        lengths = np.full(count, size, np.uint64)
        session.store.set_virtual_refs_arr(
            f"/{array}", (count,), [prefix + "x"] * count, places, lengths
        )
    session.commit("written")


# -- the client --------------------------------------------------------------------------------


def read_files(paths: Iterable[str], size: int) -> None:
    """Read files whole, one after the other."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        left = size
        while left:
            left -= len(os.read(descriptor, left))
        os.close(descriptor)


def in_parallel(parts: Iterable[list[str]]) -> None:
    """Read the files of each part in a process of its own."""
    children = []
    for part in parts:
        child = os.fork()
        if child == 0:
            try:
                read_files(part, SMALL)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def busy(process: int) -> float:
    """Return the seconds of processor time that the threads of a process have taken."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def ask(small: str, large: str, daemon: int) -> dict[str, float]:
    """Measure one mount: microseconds for each, and files a second of several clients."""
    found: dict[str, float] = {}

    def measure(name: str, count: int, do: Callable[[], object]) -> float:
        before, began = busy(daemon), time.perf_counter()
        do()
        took = time.perf_counter() - began
        found[f"{name}, us"] = took / count * 1e6
        found[f"{name}, daemon's processor, us"] = (busy(daemon) - before) / count * 1e6
        return count / took

    paths = [small.format(n) for n in range(NAMES + (1 + CLIENTS) * FILES)]
    first, one, many = paths[:NAMES], paths[NAMES : NAMES + FILES], paths[NAMES + FILES :]
    measure("lookup", NAMES, lambda: [os.stat(path) for path in first])  # noqa: PTH116 -- bare
    measure("open + close", NAMES, lambda: [os.close(os.open(p, os.O_RDONLY)) for p in first])
    measure("64 KiB file, 1 client", FILES, lambda: read_files(one, SMALL))
    parts = [many[n::CLIENTS] for n in range(CLIENTS)]
    rate = measure(f"64 KiB file, {CLIENTS} clients", len(many), lambda: in_parallel(parts))
    found[f"64 KiB files/s, {CLIENTS} clients"] = rate
    paths = [large.format(n) for n in range(LARGE_FILES)]
    measure("1 MiB file", LARGE_FILES, lambda: read_files(paths, LARGE))
    return found


# -- all of it ---------------------------------------------------------------------------------


def compile_c(folder: Path) -> str | None:
    """Compile the file system in C, if this machine can."""
    if not shutil.which("cc") or not shutil.which("pkg-config"):
        return None
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    )
    if flags.returncode:
        return None
    program = str(folder / "empty")
    subprocess.run(
        ["cc", "-O2", str(HERE / "empty.c"), "-o", program, *flags.stdout.split()], check=True
    )
    return program


def main() -> None:
    """Measure every file system in turn, and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="fuse-floor-") as name:
        folder = Path(name)
        python = [sys.executable, "-m", "benchmarks.fuse_floor"]
        ways = {"ours, empty": [*python, "serve_ours"]}
        # In a process of its own, since one with threads should not fork.
        subprocess.run([*python, "build", name], check=True)
        ways["ours, whole"] = [*python, "serve_whole", f"{name}/repository"]
        if importlib.util.find_spec("pyfuse3"):
            ways["pyfuse3, empty"] = [*python, "serve_pyfuse3"]
        program = compile_c(folder)
        if program is not None:
            ways["C, empty"] = [program]
        taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, words in ways.items():
                taken[way].append(measure_way(folder / "mnt", words))
    print(f"| what | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    for row in taken["ours, empty"][0]:
        values = {way: statistics.median(found[row] for found in taken[way]) for way in ways}
        base = values.get("C, empty", 0)
        cells = [f"{v:.1f}" + (f" (x{v / base:.2f})" if base else "") for v in values.values()]
        print(f"| {row} | {' | '.join(cells)} |")


def measure_way(mountpoint: Path, words: list[str]) -> dict[str, float]:
    """Mount, ask, and unmount."""
    mountpoint.mkdir(exist_ok=True)
    words = [*words[:4], str(mountpoint), *words[4:]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    with process:
        try:
            if not process.stdout or process.stdout.readline() != b"ready\n":
                sys.exit(f"no mount: {words}")
            is_whole = "serve_whole" in words
            small, large = ("f/c.{}", "m/c.{}") if is_whole else ("f{}", "m{}")
            return ask(f"{mountpoint}/{small}", f"{mountpoint}/{large}", process.pid)
        finally:
            subprocess.run(["fusermount3", "-uz", str(mountpoint)], check=False)
            process.wait()


PARTS = {part.__name__: part for part in (build, serve_ours, serve_whole, serve_pyfuse3)}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in PARTS:
        PARTS[sys.argv[1]](*sys.argv[2:])
    else:
        main()
