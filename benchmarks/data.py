"""The data of the benchmarks, built once from a seed.

    python -m benchmarks.data [NAME ...]      (default: all but the ten millions)

Everything lies below VZFS_BENCH_DATA (default: ~/.cache/vzfs-bench); some 8 GB in all:

    source/NAME/           the objects that an archive would hold, all last modified at `MODIFIED`
    repo/NAME/             an icechunk repository of virtual chunks of s3://source/NAME/...
    local/NAME/            the same store as plain Zarr
    references/NAME.json   the same as kerchunk references, to http objects below `URL`
    built/NAME             is there once NAME is complete, and says by which version of this module

The first two are what the server serves, as the buckets `source` and `repo`.
"""

import datetime
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.serving import Network, Server, compiled
from benchmarks.workloads import (
    ARRAYS,
    META,
    META_FILES,
    META_LENGTH,
    META_SPLIT,
    NAMES,
    OISST_DAYS,
    OISST_NAMES,
    OISST_SHAPE,
    SEED,
    SHARD,
    Workload,
)

VERSION: Final = "4"
MODIFIED: Final = 1_700_000_000
"""When every source was last modified: 2023-11-14T22:13:20Z."""
URL: Final = "http://SERVER"
"""Stands for the server's address in references, as its port is another each time."""
PREFIX: Final = "s3://source/"
REGION: Final = "us-east-1"


def root() -> Path:
    """Return the folder of all data."""
    default = Path.home() / ".cache" / "vzfs-bench"
    return Path(os.environ.get("VZFS_BENCH_DATA") or default).absolute()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ensure(*names: str, say: Callable[[str], object] = _say) -> Path:
    """Build what is not there yet of *names*, and return the folder of all data."""
    base = root()
    for name in names:
        mark = base / "built" / name
        if mark.exists() and mark.read_text() == VERSION:
            continue
        say(f"building {name} below {base}")
        begin = time.perf_counter()
        for kind in ("source", "repo", "local"):
            shutil.rmtree(base / kind / name, ignore_errors=True)
            (base / kind / name).mkdir(parents=True)
        (base / "references").mkdir(exist_ok=True)
        if name == "oisst":
            _build_oisst(base)
        elif name in META:
            _build_meta(base, name)
        elif name == "shards":
            _build_shards(base, ARRAYS[name])
        else:
            _build_array(base, ARRAYS[name])
        if name not in META:
            _copy(base, name)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(VERSION)
        say(f"built {name} in {time.perf_counter() - begin:.0f} s")
    return base


# -- icechunk ----------------------------------------------------------------------------------


def open_session(url: str, name: str) -> Any:  # noqa: ANN401 -- icechunk is imported late
    """Open a repository that a server at *url* serves, as the official library does."""
    import icechunk

    icechunk.set_logs_filter("error")
    reach: dict[str, Any] = {
        "region": REGION,
        "endpoint_url": url,
        "allow_http": True,
        "force_path_style": True,
        "anonymous": True,
    }
    storage = icechunk.s3_storage(bucket="repo", prefix=name, **reach)
    config = icechunk.RepositoryConfig.default()
    store = icechunk.s3_store(s3_compatible=True, **reach)
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(PREFIX, store))
    credentials = icechunk.containers_credentials({PREFIX: icechunk.s3_credentials(anonymous=True)})
    repository = icechunk.Repository.open(
        storage, config, authorize_virtual_chunk_access=credentials
    )
    return repository.readonly_session("main")


def _create(base: Path, name: str, **options: Any) -> Any:  # noqa: ANN401 -- as above
    """Create a repository with a container for the sources; returns a session to write to."""
    import icechunk

    icechunk.set_logs_filter("error")
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(PREFIX, icechunk.s3_store(region=REGION))
    )
    for key, value in options.items():
        setattr(config, key, value)
    storage = icechunk.local_filesystem_storage(str(base / "repo" / name))
    return icechunk.Repository.create(storage, config).writable_session("main")


def _write(base: Path, name: str, dataset: Any, *, references: bool = True) -> None:  # noqa: ANN401
    """Write a virtual dataset as a repository and as kerchunk references."""
    session = _create(base, name)
    when = datetime.datetime.fromtimestamp(MODIFIED, datetime.UTC)
    dataset.vz.to_icechunk(session.store, last_updated_at=when)
    session.commit(name)
    if references:
        found = json.dumps(dataset.vz.to_kerchunk(format="dict"))
        (base / "references" / f"{name}.json").write_text(found.replace(PREFIX, f"{URL}/source/"))


def _copy(base: Path, name: str) -> None:
    """Write the plain copy of a store: every key of it, as the official library reads it."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    async def copy(store: Any, target: Path) -> None:  # noqa: ANN401 -- as above
        keys = [key async for key in store.list_prefix("")]
        for key in keys:
            found = await store.get(key, default_buffer_prototype())
            path = target / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.to_bytes())

    with compiled() as program, Server(program, base, Network(), 3600) as server:
        sync(copy(open_session(server.url, name).store, base / "local" / name))


def _finish(path: Path) -> None:
    """Give a source its date, which its etag depends on."""
    os.utime(path, (MODIFIED, MODIFIED))


# -- workloads ---------------------------------------------------------------------------------


def _virtual(
    workload: Workload,
    locations: list[str],
    offsets: list[int],
    lengths: list[int],
    codecs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Make a dataset of one virtual array `a` of chunks in C order."""
    import xarray as xr
    from virtualizarr.manifests import ChunkManifest, ManifestArray
    from virtualizarr.manifests.utils import create_v3_array_metadata

    names = ("t", "y", "x")
    metadata = create_v3_array_metadata(
        shape=workload.shape,
        data_type=np.dtype(workload.dtype),
        chunk_shape=workload.chunk,
        codecs=codecs,
        fill_value=0,
        dimension_names=names,
    )
    manifest = ChunkManifest.from_arrays(
        paths=np.array(locations, dtype=np.dtypes.StringDType()).reshape(workload.grid),
        offsets=np.array(offsets, dtype="u8").reshape(workload.grid),
        lengths=np.array(lengths, dtype="u8").reshape(workload.grid),
    )
    return xr.Dataset({"a": (names, ManifestArray(metadata, manifest))})


def _noise(random: np.random.Generator, workload: Workload) -> np.ndarray[Any, Any]:
    """Return one chunk of values: smooth, with noise that compresses to 20 to 60 KB of 64."""
    bits = int(random.integers(4, 15))
    size = int(np.prod(workload.chunk))
    return random.integers(0, 1 << bits, size, "i2").reshape(workload.chunk)


def _build_array(base: Path, workload: Workload) -> None:
    import zstandard

    is_small = workload.name == "small"
    random = np.random.default_rng(SEED)
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
    locations, offsets, lengths = [], [], []
    per_file = -(-workload.chunks // workload.files)
    for number in range(workload.files):
        path = base / "source" / workload.name / f"{number}.bin"
        with path.open("wb") as file:
            file.write(bytes(4096))
            for _ in range(min(per_file, workload.chunks - number * per_file)):
                if is_small:
                    data = compressor.compress(_noise(random, workload).tobytes())
                else:
                    data = random.random(workload.chunk, "f4").tobytes()
                locations.append(f"{PREFIX}{workload.name}/{path.name}")
                offsets.append(file.tell())
                lengths.append(len(data))
                file.write(data)
        _finish(path)
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if is_small:
        codecs.append({"name": "zstd", "configuration": {"level": 1, "checksum": False}})
    _write(base, workload.name, _virtual(workload, locations, offsets, lengths, codecs))


def _build_shards(base: Path, workload: Workload) -> None:
    """Write a sharded array as Zarr; its shards are the sources."""
    import zarr

    random = np.random.default_rng(SEED)
    scratch = base / "source" / workload.name / "scratch"
    array = zarr.create_array(
        scratch,
        name="a",
        shape=workload.shape,
        chunks=workload.chunk,
        shards=SHARD,
        dtype=workload.dtype,
        fill_value=0,
        compressors=zarr.codecs.ZstdCodec(level=1),
        dimension_names=("t", "y", "x"),
    )
    for begin in range(0, workload.shape[0], SHARD[0]):
        rows = [
            np.concatenate([_noise(random, workload) for _ in range(workload.grid[2])], axis=2)
            for _ in range(SHARD[0])
        ]
        array[begin : begin + SHARD[0]] = np.concatenate(rows)
    session = _create(base, workload.name)
    store = session.store
    locations, lengths = [], []
    zarr.create_group(store)
    zarr.create_array(
        store,
        name="a",
        shape=workload.shape,
        chunks=workload.chunk,
        shards=SHARD,
        dtype=workload.dtype,
        fill_value=0,
        compressors=zarr.codecs.ZstdCodec(level=1),
        dimension_names=("t", "y", "x"),
    )
    for number in range(workload.files):
        path = scratch.parent / f"{number}.shard"
        (scratch / "a" / "c" / str(number) / "0" / "0").rename(path)
        _finish(path)
        locations.append(f"{PREFIX}{workload.name}/{path.name}")
        lengths.append(path.stat().st_size)
    shutil.rmtree(scratch)
    when = datetime.datetime.fromtimestamp(MODIFIED, datetime.UTC)
    store.set_virtual_refs_arr(
        "/a",
        (workload.files, 1, 1),
        locations,
        np.zeros(workload.files, "u8"),
        np.array(lengths, "u8"),
        checksum=when,
    )
    session.commit(workload.name)


def _build_oisst(base: Path) -> None:
    """Write daily files like those of OISST: four variables of int16, shuffled and deflated."""
    import netCDF4
    import virtualizarr
    import xarray as xr
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import HDFParser

    random = np.random.default_rng(SEED)
    rows, columns = OISST_SHAPE[2:]
    cells = (rows // 40, columns // 40)
    is_land = np.kron(random.random(cells) < 0.35, np.ones((40, 40), bool))
    is_open = np.kron(random.random(cells) < 0.9, np.ones((40, 40), bool))
    warmth = np.cos(np.linspace(-np.pi / 2, np.pi / 2, rows))[:, None] * 2500
    about: dict[str, Any] = {"sst": (warmth, 8, is_land), "anom": (0, 60, is_land)}
    about |= {"err": (20, 5, is_land), "ice": (50, 20, is_open)}
    registry = ObjectStoreRegistry({"file://": LocalStore()})
    days = []
    for day in range(OISST_DAYS):
        path = base / "source" / "oisst" / f"oisst-202601{day + 1:02d}.nc"
        with netCDF4.Dataset(path, "w") as file:
            for name, size in zip(("time", "zlev", "lat", "lon"), OISST_SHAPE, strict=True):
                file.createDimension(name, None if name == "time" else size)
                variable = file.createVariable(name, "f4", (name,))
                variable[:] = np.arange(size) * 0.25 if size > 1 else [day if name == "time" else 0]
            file["time"].units = "days since 2026-01-01 12:00:00"
            for name in OISST_NAMES:
                variable = file.createVariable(
                    name,
                    "i2",
                    ("time", "zlev", "lat", "lon"),
                    zlib=True,
                    shuffle=True,
                    complevel=4,
                    chunksizes=OISST_SHAPE,
                    fill_value=-999,
                )
                variable.scale_factor, variable.add_offset = np.float32(0.01), np.float32(0)
                variable.set_auto_maskandscale(False)
                mean, spread, is_missing = about[name]
                field = mean + random.normal(0, spread, (rows, columns))
                variable[0, 0] = np.where(is_missing, -999, field).astype("i2")
        _finish(path)
        virtual = virtualizarr.open_virtual_dataset(
            f"file://{path}",
            registry=registry,
            parser=HDFParser(),
            loadable_variables=["time", "zlev", "lat", "lon"],
            decode_times=True,
        )
        days.append(virtual.vz.rename_paths(f"{PREFIX}oisst/{path.name}"))
    joined = xr.concat(
        days, dim="time", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    for name in joined.coords:
        joined[name].encoding["_FillValue"] = None  # as in the files
    _write(base, "oisst", joined)


def _build_meta(base: Path, name: str) -> None:
    """Write millions of refs to chunks that are not there: nobody reads them."""
    import icechunk
    import zarr

    grid = META[name]
    options: dict[str, Any] = {}
    if name in META_SPLIT:
        condition = icechunk.ManifestSplitCondition.AnyArray()
        dimension = icechunk.ManifestSplitDimCondition.Axis(0)
        splitting = icechunk.ManifestSplittingConfig.from_dict(
            {condition: {dimension: META_SPLIT[name]}}
        )
        options["manifest"] = icechunk.ManifestConfig(splitting=splitting)
    session = _create(base, name, **options)
    zarr.create_group(session.store)
    zarr.create_array(
        session.store,
        name="v",
        shape=tuple(100 * g for g in grid),
        chunks=(100,) * len(grid),
        dtype="i2",
        fill_value=0,
        compressors=None,
    )
    count = int(np.prod(grid))
    places = np.arange(count, dtype="u8")
    files = [f"{PREFIX}{name}/{n}.bin" for n in range(META_FILES)]
    session.store.set_virtual_refs_arr(
        "/v",
        grid,
        [files[n] for n in (places % META_FILES).tolist()],
        places // META_FILES * META_LENGTH,
        np.full(count, META_LENGTH, "u8"),
        checksum=datetime.datetime.fromtimestamp(MODIFIED, datetime.UTC),
    )
    session.commit(name)


if __name__ == "__main__":
    ensure(*(sys.argv[1:] or [name for name in NAMES if "10m" not in name]))
