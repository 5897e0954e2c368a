"""Writes the repository that every client reads, and what is true of it.

    python -m tests.clients.corpus DATA FOLDER [GROUP...]

runs in the environment `archive`, which has VirtualiZarr with the codecs of TIFF. *DATA* is the
folder of real files with known answers. Into *FOLDER* come `archive`, copies of the files that are
referred to; `repository`; `truth.json`, for each array its stored document and the digest of its
values; and `values`, the numbers themselves. Each file is a group of the repository. With names of
groups, only those are written.

Nothing is true because it was written: the digests of files are those of *DATA*, which other
libraries took of them.
"""

import argparse
import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import icechunk
import zarr
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from virtual_tiff import VirtualTIFF
from virtualizarr import open_virtual_dataset
from virtualizarr.parsers import HDFParser
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from tests.clients import truths, zoo
from tests.clients.truths import Entry

HDF5 = {
    "basin_mask": "basin_mask.nc",  # shuffle and deflate, int8
    "blosc": "hdf5_compression_blosc_lz4_bitshuffle.h5",
    "chars": "nctest_netcdf4_classic.nc",  # no compression, text as S1
    "cloud_top": "20171025_2056.Cloud_Top_Height.nc",  # deflate, packed int16, scalars
    "compressed": "compressed.hdf5",  # deflate, shuffle, both
    "datatypes": "dataset_datatypes.hdf5",  # all numbers in both byte orders
    "fletcher32": "fletcher32_datasets_earliest.hdf5",
    "hybrid_height": "hybrid_height.nc",  # no compression, scalars
    "interops": "ref_tst_interops4.nc",  # big-endian
    "planet_scope": "PLANET_SCOPE_3D.nc",  # shuffle and deflate, float64
    "sigma0": "issue672.nc",  # shuffle and deflate, packed int16
    "tmmx": "tmmx_20190121.nc",  # shuffle and deflate, packed uint16; fill values
    "tower": "NEONDSTowerTemperatureData.hdf5",  # compound
    "unicode": "unicode.nc",  # deflate
    "vlstr": "vlstr_type.nc",  # strings of any length
    "zstd": "hdf5_compression_zstd.h5",
}
TIFF = {
    "tiff_deflate": "scene_band1.tif",
    "tiff_float_predictor": "predictor-3-gray-f32.tif",
    "tiff_half_predictor": "random-fp16-pred2.tiff",
    "tiff_lzw": "cog_nodata_nan.tif",
    "tiff_plain": "float_nan.tif",
    "tiff_predictor": "web.tif",  # deflate
    "tiff_zstd": "int16_zstd.tif",
}
ZARR = {
    "zarr_5d": "titiler_5d.zarr",
    "zarr_store": "titiler_store_v3.zarr",
    "zarr_types": "zarrita_v3.zarr",  # shards, text, big-endian, transposed
}
TABLES = "Domain_03/OSBS/min_30"
"""What is taken of the file of tables: it has sixteen that are alike."""


def write(data: Path, folder: Path, wanted: Iterable[str]) -> None:
    """Write the corpus of *data* to *folder*, which is made new."""
    truth = json.loads((data / "truth.json").read_text())
    digest = _truthlib(data).digest
    archive = folder / "archive"
    archive.mkdir(parents=True)
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(
            f"{archive.as_uri()}/", icechunk.local_filesystem_store(str(archive))
        )
    )
    repository = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(folder / "repository")),
        config=config,
        authorize_virtual_chunk_access={f"{archive.as_uri()}/": None},
    )
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="w")
    found: list[Entry] = []
    for group in sorted([*HDF5, *TIFF, *ZARR, "zoo"]):
        if wanted and group not in wanted:
            continue
        if group in HDF5:
            name = f"archival/hdf5/{HDF5[group]}"
            file = Path(shutil.copy(data / name, archive))
            found += _hdf5(session, group, file, truth[name]["arrays"], digest)
        elif group in TIFF:
            name = f"archival/tiff/{TIFF[group]}"
            file = Path(shutil.copy(data / name, archive))
            _virtual(session, group, file, VirtualTIFF(ifd=0))
            found.append(Entry(f"{group}/0", truth[name]["ifds"]["0"]["sha256"], None))
        elif group in ZARR:
            name = f"zarr/{ZARR[group]}"
            found += _zarr(session, group, data / name, truth[name]["arrays"])
        else:
            made = zoo.write(session.store, group)
            found += [Entry(p, digest(v)["sha256"], v) for p, v in made.items()]
    session.commit("the corpus")
    truths.write(folder, session.store, found, lambda values: digest(values)["sha256"])


def _hdf5(
    session: icechunk.Session, group: str, file: Path, truth: Any, digest: Callable[..., Any]
) -> Iterator[Entry]:
    """Refer to every group of a file that has datasets, and read them with h5py."""
    with h5py.File(file) as content:
        holders = {str(Path(path).parent) for path in truth}
        for holder in sorted(holders):
            if "tower" in group and not holder.startswith(TABLES):
                continue
            target = group if holder == "." else f"{group}/{holder}"
            names = _virtual(session, target, file, HDFParser(group=holder.removeprefix(".")))
            for name in names:
                path = name if holder == "." else f"{holder}/{name}"
                values = content[path][...]
                assert digest(values)["sha256"] == truth[path]["sha256"], path
                yield Entry(f"{target}/{name}", truth[path]["sha256"], values)


def _virtual(session: icechunk.Session, group: str, file: Path, parser: Any) -> list[str]:
    """Write references to *file* below *group*; return the names of its arrays."""
    registry = ObjectStoreRegistry({"file://": LocalStore()})
    dataset = open_virtual_dataset(
        file.as_uri(),
        registry=registry,
        parser=parser,
        loadable_variables=[],
        decode_times=False,
    )
    dataset.vz.to_icechunk(session.store, group=group)
    return [str(name) for name in dataset.variables]


def _zarr(session: icechunk.Session, group: str, store: Path, truth: Any) -> Iterator[Entry]:
    """Import a Zarr v3 hierarchy, key by key."""
    prototype = default_buffer_prototype()
    files = sorted(p for p in store.rglob("*") if p.is_file())
    for file in sorted(files, key=lambda file: file.name != "zarr.json"):  # arrays before chunks
        content = file.read_bytes()
        if file.name == "zarr.json":
            document = json.loads(content)
            document.pop("consolidated_metadata", None)
            content = json.dumps(document).encode()
        elif file.name.startswith("."):
            continue
        key = f"{group}/{file.relative_to(store)}"
        sync(session.store.set(key, prototype.buffer.from_bytes(content)))
    for path, said in truth.items():
        yield Entry(f"{group}/{path}", said["sha256"], None)


def _truthlib(data: Path) -> ModuleType:
    """Import the digests with which the truth was written."""
    spec = importlib.util.spec_from_file_location("truthlib", data / "truthlib.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write the corpus that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("groups", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    icechunk.set_logs_filter("error")
    write(arguments.data.resolve(), arguments.folder.resolve(), arguments.groups)


if __name__ == "__main__":
    main()
