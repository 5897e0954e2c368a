"""The demo: build a small repository of virtual chunks, mount it, and read it with ordinary tools.

    python -m tests.demo                   the whole story, in a temporary folder
    python -m tests.demo --build FOLDER    only the files and the repository, to try things by hand

The repository refers to the netCDF files of `tests/data`. No server, account or network is needed.
Temperatures and positions are compared with the files; a difference ends the demo with exit code 1.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import icechunk
import virtualizarr
import xarray as xr
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from virtualizarr.parsers import HDFParser

SAMPLES = Path(__file__).parent / "data"
CHUNK = "tos/c/0/1/1"
PATIENCE = 120


class DemoFailedError(Exception):
    """The demo did not show what it should."""


def build(folder: Path) -> tuple[Path, Path]:
    """Copy the samples to *folder*/archive and write *folder*/repository, which refers to them."""
    archive, repository = folder / "archive", folder / "repository"
    archive.mkdir(parents=True)
    files = [shutil.copy(path, archive) for path in sorted(SAMPLES.glob("tos_*.nc"))]

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    monthly = [
        virtualizarr.open_virtual_dataset(
            f"file://{file}",
            registry=registry,
            parser=HDFParser(drop_variables=["x", "y"]),  # dimensions without coordinates
            loadable_variables=["time"],
        )
        for file in files
    ]
    joined = xr.concat(
        monthly,
        dim="time",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
    )

    icechunk.set_logs_filter("error")  # it warns of concurrent commits to a folder
    config = icechunk.RepositoryConfig.default()
    store = icechunk.local_filesystem_store(str(archive))
    prefix = f"file://{archive}/"
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    written = icechunk.Repository.create(icechunk.local_filesystem_storage(str(repository)), config)
    session = written.writable_session("main")
    joined.vz.to_icechunk(session.store)
    written.create_tag("2015-q1", session.commit("January to March 2015, by reference"))
    return archive, repository


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="Demo of vzfs.")
    parser.add_argument("--build", metavar="FOLDER", type=Path, help="only write the repository")
    folder = parser.parse_args().build
    if folder is not None:
        archive, repository = build(folder.absolute())
        print(f"archive     {archive}\nrepository  {repository}")
        return 0
    if reason := why_not():
        print(f"The demo makes a real mount, and cannot: {reason}.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="vzfs-demo-") as temporary:
        # What the user's own configuration allows is no part of the story.
        os.environ["XDG_CONFIG_HOME"] = temporary
        os.environ.pop("VZFS_CONFIG", None)
        try:
            show(Path(temporary))
        except DemoFailedError as failure:
            print(f"\nThe demo failed: {failure}.", file=sys.stderr)
            return 1
    return 0


def why_not() -> str:
    """Say why nothing can be mounted here, or ""."""
    if not Path("/dev/fuse").exists():
        return "/dev/fuse is missing (modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened"
    return "" if shutil.which("fusermount3") else "fusermount3 is missing (Debian package fuse3)"


def show(folder: Path) -> None:
    """Tell the story in *folder*."""
    heading("Three netCDF files, and a repository that says where their chunks lie")
    archive, repository = build(folder)
    run("ls", "-l", "archive", cwd=folder)
    print()
    run("du", "-sh", "--apparent-size", "archive", "repository", cwd=folder)
    print()
    allowed = ["--allow", str(archive)]
    vzfs("info", repository, *allowed)

    heading("Nothing outside the repository is read unless you allow it")
    mountpoint = folder / "sst"
    mountpoint.mkdir()
    log = folder / "log"
    own = ["--log-file", log, "--cache-dir", folder / "cache"]
    try:
        vzfs("mount", repository, mountpoint, *own)
        print()
        refused(mountpoint / CHUNK, log)
        print()
        vzfs("umount", mountpoint)

        heading("Mount it, and look around")
        vzfs("mount", repository, mountpoint, *allowed, *own)
        print()
        run("ls", "-l", "sst", "sst/tos/c/0/1", cwd=folder)

        heading("Read it with xarray, and compare it with the files")
        read(mountpoint, archive)

        heading("Where do these bytes come from?")
        print("(as the repository has them: the default view puts a Blosc header in front)\n")
        explain(mountpoint / ".vzfs" / "view" / "stored-v3" / CHUNK)

        heading("Unmount")
        vzfs("umount", mountpoint)
        check(not os.path.ismount(mountpoint), "the mount is still there")
    finally:
        if os.path.ismount(mountpoint):
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)
    print("\nEverything was as it should be.")


def refused(chunk: Path, log: Path) -> None:
    """Show what reading without permission gives: an error, and a line in the log that helps."""
    size = chunk.stat().st_size
    print(f"$ stat -c %s {CHUNK}\n{size}\n\n$ cat {CHUNK}")
    try:
        chunk.read_bytes()
    except PermissionError as error:
        print(f"cat: {error.strerror}")
    else:
        raise DemoFailedError("a chunk was read that nobody allowed")
    said = [line for line in log.read_text().splitlines() if " WARNING " in line]
    check(bool(said), "the refusal is not in the log")
    print(f"\n$ tail -n 1 log\n{said[-1]}")


def read(mountpoint: Path, archive: Path) -> None:
    """Read the mount with xarray, and compare every value with what h5py reads from the files."""
    print('>>> ds = xr.open_zarr("sst")\n>>> ds.tos.mean(("y", "x")).values')
    with xr.open_zarr(mountpoint) as dataset:
        print(dataset.tos.mean(("y", "x")).values)
    compared = 0
    with xr.open_zarr(mountpoint, mask_and_scale=False) as raw:
        for month, path in enumerate(sorted(archive.glob("*.nc"))):
            with h5py.File(path) as file:
                for name, found in (
                    ("tos", raw.tos[month : month + 1].values),
                    ("nav_lat", raw.nav_lat.values),
                    ("nav_lon", raw.nav_lon.values),
                ):
                    expected = file[name][:]
                    same = found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
                    check(same, f"{name} differs from {path.name}")
                    compared += expected.size
    print(f"\n{compared:,} values compared with h5py: all equal, to the last bit")


def explain(chunk: Path) -> None:
    """Show the attributes of a chunk, and compare its bytes with the part of the file they name."""
    said = {name: os.getxattr(chunk, name).decode() for name in os.listxattr(chunk)}
    if shutil.which("getfattr"):
        run("getfattr", "-d", CHUNK, cwd=chunk.parents[len(Path(CHUNK).parts) - 1])
    else:
        print("(getfattr is not installed; Python reads the same)")
        print(*(f'{name}="{value}"' for name, value in said.items()), sep="\n")
    source = Path(said["user.vzfs.source"].removeprefix("file://"))
    offset, length = int(said["user.vzfs.offset"]), int(said["user.vzfs.length"])
    with source.open("rb") as file:
        file.seek(offset)
        check(file.read(length) == chunk.read_bytes(), "the chunk is not that part of the file")
    print(f"{CHUNK} is bytes {offset} to {offset + length - 1} of {source.name}: equal")


# -- telling -----------------------------------------------------------------------------------


def heading(text: str) -> None:
    """Begin a new part."""
    print(f"\n{text}\n{'-' * len(text)}\n", flush=True)


def vzfs(command: str, *arguments: object) -> None:
    """Run the real command line."""
    words = [command, *map(str, arguments)]
    print("$ vzfs", shlex.join(words), flush=True)
    _run([sys.executable, "-m", "vzfs", *words])


def run(*words: str, cwd: Path) -> None:
    """Run an ordinary program."""
    print("$", shlex.join(words), flush=True)
    _run([*words], cwd=cwd)


def _run(words: list[str], cwd: Path | None = None) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    code = subprocess.run(words, cwd=cwd, env=environment, timeout=PATIENCE, check=False).returncode
    check(code == 0, f"{words[0]} ended with {code}")


def check(is_right: bool, otherwise: str) -> None:
    """Fail the demo unless *is_right*."""
    if not is_right:
        raise DemoFailedError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
