"""What a mount costs: to start, to walk, and to read, against a local copy and the official library.

    python -m benchmarks.first_mount [ROUNDS]

Builds one array of 4096 virtual chunks of 40 KB in four local files, and measures in turn, ROUNDS
times (default 5): the time to a mount that answers; `find` with `stat` of every chunk; reading
every chunk file cold, again (page cache), and after a restart (disk cache); the same for a plain
copy of the same files; and reading the array with zarr-python through the mount, from the copy, and
through icechunk. Prints medians and ratios.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import icechunk
import numpy as np
import zarr

icechunk.set_logs_filter("error")

CHUNKS = 4096
LENGTH = 40_000
FILES = 4


def build(folder: Path) -> None:
    """Write the sources, the repository over them, and a plain copy of what a mount shows."""
    sources = folder / "sources"
    sources.mkdir()
    data = np.random.default_rng(0).integers(0, 255, (FILES, CHUNKS // FILES * LENGTH), "u1")
    for number in range(FILES):
        (sources / f"{number}.bin").write_bytes(data[number].tobytes())
    config = icechunk.RepositoryConfig.default()
    prefix = f"file://{sources}/"
    store = icechunk.local_filesystem_store(str(sources))
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    storage = icechunk.local_filesystem_storage(str(folder / "repository"))
    repository = icechunk.Repository.create(storage, config=config)
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    size = CHUNKS * LENGTH
    root.create_array("a", shape=(size,), chunks=(LENGTH,), dtype="u1", compressors=None)
    per_file = CHUNKS // FILES
    session.store.set_virtual_refs(
        "/a",
        [
            icechunk.VirtualChunkSpec(
                [n], f"{prefix}{n // per_file}.bin", n % per_file * LENGTH, LENGTH
            )
            for n in range(CHUNKS)
        ],
    )
    session.commit("chunks")
    copy = folder / "copy" / "a" / "c"
    copy.mkdir(parents=True)
    flat = data.reshape(CHUNKS, LENGTH)
    for n in range(CHUNKS):
        (copy / str(n)).write_bytes(flat[n].tobytes())


def mount(folder: Path, *options: str) -> None:
    """Mount the repository in the background, as a user does."""
    words = [sys.executable, "-m", "vzfs", "mount", str(folder / "repository"), str(folder / "mnt")]
    log = ["--log-file", str(folder / "log"), "--cache-dir", str(folder / "cache")]
    allow = ["--allow", str(folder / "sources")]
    subprocess.run([*words, *log, *allow, *options], check=True, stdout=subprocess.DEVNULL)


def umount(folder: Path) -> None:
    """End the mount."""
    words = [sys.executable, "-m", "vzfs", "umount", str(folder / "mnt")]
    subprocess.run(words, check=True)


def walk(root: Path) -> None:
    """Stat every file, as find does."""
    subprocess.run(
        ["find", str(root), "-type", "f", "-size", "+1"], check=True, stdout=subprocess.DEVNULL
    )


def read_files(root: Path) -> None:
    """Read every chunk file once, one after the other."""
    for n in range(CHUNKS):
        with (root / "a" / "c" / str(n)).open("rb", buffering=0) as file:
            file.read()


def read_zarr(root: Path) -> None:
    """Read the array with zarr-python's defaults."""
    zarr.open_array(root / "a", mode="r")[...]


def read_icechunk(folder: Path) -> None:
    """Read the array through the official library."""
    storage = icechunk.local_filesystem_storage(str(folder / "repository"))
    credentials = icechunk.containers_credentials(
        {f"file://{folder / 'sources'}/": icechunk.credentials.LocalFileSystemAccess}
    )
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=credentials)
    store = repository.readonly_session("main").store
    zarr.open_array(store, path="a", mode="r")[...]


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each measurement, interleaved."""
    found: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], None]) -> None:
        begin = time.perf_counter()
        work()
        found[name].append(time.perf_counter() - begin)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        mounted, copy = folder / "mnt", folder / "copy"
        mounted.mkdir()
        try:
            for _ in range(rounds):
                shutil.rmtree(folder / "cache", ignore_errors=True)
                timed("mount", lambda: mount(folder))
                if not (copy / "a" / "zarr.json").exists():
                    shutil.copy(mounted / "a" / "zarr.json", copy / "a" / "zarr.json")
                timed("walk, mount", lambda: walk(mounted))
                timed("walk, copy", lambda: walk(copy))
                timed("files cold, mount", lambda: read_files(mounted))
                timed("files page cache, mount", lambda: read_files(mounted))
                timed("files, copy", lambda: read_files(copy))
                timed("umount", lambda: umount(folder))
                mount(folder)
                timed("files from disk cache, mount", lambda: read_files(mounted))
                umount(folder)
                mount(folder, "--no-cache")
                timed("zarr cold, mount", lambda: read_zarr(mounted))
                timed("zarr page cache, mount", lambda: read_zarr(mounted))
                timed("zarr, copy", lambda: read_zarr(copy))
                timed("zarr, icechunk", lambda: read_icechunk(folder))
                umount(folder)
        finally:
            if os.path.ismount(mounted):
                subprocess.run(["fusermount3", "-uz", str(mounted)], check=False)
    return found


def main() -> None:
    """Measure and print a table in Markdown."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found = measure(rounds)
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}")
    print(f"{CHUNKS} chunks of {LENGTH} bytes, medians of {rounds} (min to max)\n")
    print("| what | seconds | ratio to |\n|---|---|---|")
    for name, seconds in found.items():
        kind = name.split(" ")[0].rstrip(",")
        floor = f"{kind}, copy"
        ratio = f"{median[name] / median[floor]:.2f} {floor}" if floor in median else ""
        if name.startswith("zarr") and "mount" in name:
            ratio += f", {median[name] / median['zarr, icechunk']:.2f} zarr, icechunk"
        print(
            f"| {name} | {median[name]:.3f} ({min(seconds):.3f} to {max(seconds):.3f}) | {ratio} |"
        )


if __name__ == "__main__":
    main()
