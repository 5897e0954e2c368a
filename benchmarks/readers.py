"""One client that is measured: a process that reads once and prints what it took, as JSON.

    python -m benchmarks.readers '{"contestant": "icechunk", "task": "scan", ...}'

A *contestant* is a way to the data; local copies and mounts of any kind are folders, and read alike:

    folder      a store in a folder, by zarr's LocalStore or TensorStore's file driver
    icechunk    the official library, from the server
    manifest    VirtualiZarr's ManifestStore over kerchunk references
    kerchunk    fsspec's ReferenceFileSystem over the same references
    netcdf      the sources themselves in a folder, through xarray
    obstore     the chunks' bytes alone, by ranged GETs from a loop, 64 at a time

An *engine* is the library that reads a store: `zarr` by its defaults, `zarr1` with one chunk at a
time (as zarr 2 reads, or GDAL), `zarr32` with 32 chunks and threads at a time, `tensorstore` by its
defaults, `tensorstore1` with one read at a time, `xarray`; `h5netcdf` and `netcdf4` for netCDF.

Seconds count from after the imports: *open* to an open store, *first* to the first value, and *task*
is the task alone, after that. *crc* is of all that the task read, so that wrong bytes are noticed.
*rss* is the peak in bytes, *cpu* the processor time of open, first value and task.
"""

import asyncio
import contextlib
import importlib
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.workloads import ARRAYS, OISST_NAMES, OISST_PIXEL, STRIDED, random_chunks

RAW_GETS: Final = 64
FILE_READERS: Final = 4
"""Threads that read chunk files as bytes."""

_NETCDF: Final[dict[str, Any]] = {"chunks": None, "mask_and_scale": False}
"""Without xarray's arithmetic, which takes longer than all else and is everybody's alike."""
_XARRAY: Final[dict[str, Any]] = _NETCDF | {"consolidated": False}

MODULES: Final = {
    "folder": (),
    "netcdf": (),
    "icechunk": ("icechunk", "benchmarks.data"),
    "manifest": (
        "virtualizarr.parsers",
        "obspec_utils.registry",
        "obstore.store",
    ),
    "kerchunk": ("fsspec.implementations.reference", "fsspec.implementations.http", "zarr.storage"),
    "obstore": ("obstore.store",),
    "zarr": ("zarr", "zarr.storage"),
    "tensorstore": ("tensorstore",),
    "xarray": ("xarray", "zarr.storage"),
    "h5netcdf": ("xarray", "h5netcdf"),
    "netcdf4": ("xarray", "netCDF4"),
    "bytes": (),
}
"""What a contestant or an engine imports, which is not measured."""
LATER: Final = ("dask.array",)
"""What xarray imports with the first store that it opens, where it is installed."""


class Spec(NamedTuple):
    """What to read and how; see above. *where* is a folder, *url* a server's, both if needed."""

    contestant: str
    engine: str
    workload: str
    task: str
    where: str = ""
    url: str = ""
    references: str = ""


class Reading(NamedTuple):
    """What it took; see above."""

    open: float
    first: float
    task: float
    cpu: float
    rss: int
    bytes: int
    crc: int


type Task = Callable[[], Iterable[np.ndarray[Any, Any] | bytes]]


def read(spec: Spec) -> Reading:
    """Read once."""
    library = spec.engine if spec.engine in MODULES else spec.engine.rstrip("0123456789")
    for name in (*MODULES[spec.contestant], *MODULES[library]):
        importlib.import_module(name)
    if "xarray" in MODULES[library]:
        for name in LATER:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    cpu, begin = time.process_time(), time.perf_counter()
    if spec.engine == "bytes":
        first, task = (_get_ranges if spec.contestant == "obstore" else _read_files)(spec)
    elif spec.engine in {"h5netcdf", "netcdf4"}:
        first, task = _open_netcdf(spec)
    elif spec.engine == "xarray":
        first, task = _open_xarray(spec)
    elif spec.engine.startswith("tensorstore"):
        first, task = _open_tensorstore(spec)
    else:
        first, task = _open_zarr(spec)
    opened = time.perf_counter()
    first()
    reached = time.perf_counter()
    parts = list(task())
    ended = time.perf_counter()
    cpu = time.process_time() - cpu
    rss = _peak()
    crc = size = 0
    for part in parts:
        flat = memoryview(np.ascontiguousarray(part)).cast("B") if len(part) else b""
        crc, size = zlib.crc32(flat, crc), size + len(flat)
    return Reading(opened - begin, reached - begin, ended - reached, cpu, rss, size, crc)


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# -- stores ------------------------------------------------------------------------------------


def _store(spec: Spec) -> Any:  # noqa: ANN401 -- libraries are imported late
    """Open a store for zarr."""
    if spec.contestant == "icechunk":
        from benchmarks.data import open_session

        return open_session(spec.url, spec.workload).store
    if spec.contestant == "manifest":
        from obspec_utils.registry import ObjectStoreRegistry
        from obstore.store import HTTPStore, LocalStore
        from virtualizarr.parsers import KerchunkJSONParser

        http = HTTPStore.from_url(spec.url, client_options={"allow_http": True})
        registry = ObjectStoreRegistry({"file://": LocalStore(), spec.url: http})
        return KerchunkJSONParser()(f"file://{spec.references}", registry)
    if spec.contestant == "kerchunk":
        from fsspec.implementations.reference import ReferenceFileSystem
        from zarr.storage import FsspecStore

        files = ReferenceFileSystem(
            spec.references,
            remote_protocol="http",
            remote_options={"asynchronous": True},
            asynchronous=True,
        )
        return FsspecStore(files, read_only=True)
    from zarr.storage import LocalStore as Folder

    return Folder(spec.where, read_only=True)


# -- engines: each returns what reads the first value, and the task ----------------------------


def _open_zarr(spec: Spec) -> tuple[Callable[[], object], Task]:
    import zarr

    width = spec.engine.removeprefix("zarr")
    if width:
        zarr.config.set({"async.concurrency": int(width), "threading.max_workers": int(width)})
    array = zarr.open_array(_store(spec), path="a", mode="r")
    workload = ARRAYS[spec.workload]

    def task() -> Iterable[np.ndarray[Any, Any]]:
        if spec.task == "scan":
            yield np.asarray(array[...])
        elif spec.task == "strided":
            yield np.asarray(array[:STRIDED, 3, workload.chunk[2] * 4])
        else:
            places = random_chunks(workload) * np.array(workload.chunk)
            yield np.asarray(array.vindex[tuple(places.T)])

    return lambda: array[0, 0, 0], task


def _open_tensorstore(spec: Spec) -> tuple[Callable[[], object], Task]:
    import tensorstore

    width = spec.engine.removeprefix("tensorstore")
    context = {"file_io_concurrency": {"limit": int(width)}} if width else {}
    array = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{spec.where}/a/"},
            "context": context,
        },
        read=True,
    ).result()
    workload = ARRAYS[spec.workload]

    def task() -> Iterable[np.ndarray[Any, Any]]:
        if spec.task == "scan":
            yield array.read().result()
        elif spec.task == "strided":
            yield array[:STRIDED, 3, workload.chunk[2] * 4].read().result()
        else:
            places = random_chunks(workload) * np.array(workload.chunk)
            yield array.vindex[tuple(places.T)].read().result()

    return lambda: array[0, 0, 0].read().result(), task


def _open_xarray(spec: Spec) -> tuple[Callable[[], object], Task]:
    import xarray as xr

    dataset = xr.open_zarr(_store(spec), **_XARRAY)
    pixel = dataset["sst"].isel(OISST_PIXEL)

    def task() -> Iterable[np.ndarray[Any, Any]]:
        for name in OISST_NAMES if spec.task == "scan" else ():
            yield dataset[name].values
        if spec.task == "pixel":
            yield pixel.values

    return lambda: pixel[0].values, task


def _open_netcdf(spec: Spec) -> tuple[Callable[[], object], Task]:
    import xarray as xr

    files = sorted(Path(spec.where).glob("*.nc"))
    datasets = [xr.open_dataset(path, engine=spec.engine, **_NETCDF) for path in files]

    pixels = [dataset["sst"].isel(OISST_PIXEL) for dataset in datasets]

    def task() -> Iterable[np.ndarray[Any, Any]]:
        for name in OISST_NAMES if spec.task == "scan" else ():
            for dataset in datasets:
                yield dataset[name].values
        if spec.task == "pixel":
            yield np.concatenate([pixel.values for pixel in pixels])

    return lambda: pixels[0].values, task


def _read_files(spec: Spec) -> tuple[Callable[[], object], Task]:
    """Read every chunk of `a` as a file."""
    workload = ARRAYS[spec.workload]
    folder = Path(spec.where) / "a" / "c"
    paths = [str(folder.joinpath(*map(str, place))) for place in np.ndindex(workload.grid)]

    def content(path: str) -> bytes:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- measured
            return file.readall()

    def task() -> Iterable[bytes]:
        with ThreadPoolExecutor(FILE_READERS) as readers:
            return list(readers.map(content, paths))

    return lambda: content(paths[0]), task


def _get_ranges(spec: Spec) -> tuple[Callable[[], object], Task]:
    """Get the bytes of every chunk of `a` from its source."""
    import obstore
    from obstore.store import HTTPStore

    workload = ARRAYS[spec.workload]
    refs = json.loads(Path(spec.references).read_text())["refs"]
    store = HTTPStore.from_url(spec.url, client_options={"allow_http": True})
    places = [refs[f"a/{'.'.join(map(str, place))}"] for place in np.ndindex(workload.grid)]

    async def get(place: tuple[str, int, int], free: asyncio.Semaphore) -> bytes:
        url, offset, length = place
        async with free:
            path = url.removeprefix(spec.url).lstrip("/")
            return bytes(await obstore.get_range_async(store, path, start=offset, length=length))

    async def get_all() -> list[bytes]:
        free = asyncio.Semaphore(RAW_GETS)
        return await asyncio.gather(*(get(place, free) for place in places))

    return lambda: None, lambda: asyncio.run(get_all())


if __name__ == "__main__":
    print(json.dumps(read(Spec(**json.loads(sys.argv[1])))._asdict()))
