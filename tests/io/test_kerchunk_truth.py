"""Real references of kerchunk, in JSON and Parquet, against what an independent reader found in them."""

import json
import sys
import warnings
from hashlib import sha256
from pathlib import Path

import fsspec
import numpy as np
import pytest
import trio
import zarr

from tests.io.kerchunking import open_path
from tests.pure.viewing import memory_store
from vzfs.errors import VzfsError

NAMES = [
    "basin_mask.json",
    "basin_mask_v0.json",
    "co2_netcdf3.json",
    "co2_templates_gen.json",
    "example_grib_msg0.json",
    "kerchunk_hrrr_wrfsubhf_tree.json",
    "lcmap_tiff.json",
    "nemo_concat.json",
    "nemo_concat.parq",
    "soi.parq",
    "titiler_reference.json",
    "xarray_data_0.json",
]
ABSENT = {
    "kerchunk_hrrr_wrfsubhf_tree.json": {
        "/dswrf/avg/surface/latitude",
        "/dswrf/avg/surface/longitude",
        "/dswrf/instant/surface/latitude",
        "/dswrf/instant/surface/longitude",
        "/u/instant/heightAboveGround/latitude",
        "/u/instant/heightAboveGround/longitude",
    },
    "xarray_data_0.json": {"/u10"},
}
"""Arrays whose objects are not there: each has a chunk, and reading it fails."""
STALE = {
    "example_grib_msg0.json": ("/z", "'0'"),
    "titiler_reference.json": ("/value", "'2.0.0'"),
}
"""Arrays with a reference outside of their grid."""


def digest(values: np.ndarray) -> str:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def test_every_file_with_known_truth_is_tested(data: Path) -> None:
    """The list of files here is that of the data."""
    known = json.loads((data / "truth.json").read_bytes())
    assert [f"kerchunk/{name}" for name in NAMES] == sorted(k for k in known if "kerchunk/" in k)


@pytest.mark.parametrize("name", NAMES)
async def test_real_references_hold_what_they_should(data: Path, name: str) -> None:
    """Every array has the values that are known of it, or a chunk of it cannot be read; none is missing."""
    truth = json.loads((data / "truth.json").read_bytes())[f"kerchunk/{name}"]
    opened = await open_path(data / "kerchunk" / name, data)
    files, failed = await opened.files()
    assert {path.lstrip("/") for path in opened.arrays} == truth["arrays"].keys()
    assert sorted(path.lstrip("/") for path in opened.groups) == sorted(truth["groups"])
    assert failed.keys() == ABSENT.get(name, set())
    group = zarr.open_group(memory_store(files), mode="r", use_consolidated=False)
    for path, known in truth["arrays"].items():
        array = opened.arrays[f"/{path}"]
        if f"/{path}" in failed:
            assert "error" in known
        elif b"numcodecs.grib" in array.documents["zarr.json"]:
            # No reader of Zarr v3 knows the codec; there is no chunk to decode either.
            assert await opened.refs(f"/{path}") == {}
            assert known["min"] == known["max"] == 0
        else:
            values = group[path][...]
            assert list(values.shape) == known["shape"]
            assert digest(values) == known["sha256"], path


@pytest.mark.parametrize("name", NAMES)
async def test_only_stale_references_are_left_out(data: Path, name: str) -> None:
    """What is not shown is what lies outside of a grid: one line for each array, which names the first key."""
    opened = await open_path(data / "kerchunk" / name, data)
    path, key = STALE.get(name, ("", ""))
    wanted = {path: [f"1 reference belongs ({key}) to no chunk of its grid"]} if path else {}
    assert opened.omissions == wanted


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".json")])
async def test_documents_are_kept_as_they_were(data: Path, name: str) -> None:
    """The documents of Zarr v2 are kept byte for byte."""
    said = json.loads((data / "kerchunk" / name).read_bytes())
    said = said.get("refs", said)
    opened = await open_path(data / "kerchunk" / name, data)
    for node in opened.checkout.snapshot.nodes:
        for document, content in node.originals.items():
            assert content.decode() == said[f"{node.path}/{document}".lstrip("/")]
        assert node.originals
    shown = {
        f"{node.path}/{document}".lstrip("/")
        for node in opened.checkout.snapshot.nodes
        for document in node.originals
    }
    assert shown == {key for key in said if key.rpartition("/")[2].startswith(".z")}


async def test_references_are_those_that_fsspec_finds_if_told_to_look(data: Path) -> None:
    """Expanded templates and generated keys lead where fsspec finds them; unasked it finds none of the latter."""
    name = "co2_templates_gen.json"
    opened = await open_path(data / "kerchunk" / name, data)
    said = json.loads((data / "kerchunk" / name).read_bytes())
    asked = fsspec.filesystem("reference", fo=said, simple_templates=False).references
    unasked = fsspec.filesystem("reference", fo=said).references
    assert not [key for key in unasked if key.startswith("tcco2/") and ".z" not in key]
    for path in opened.arrays:
        for coords, ref in (await opened.refs(path)).items():
            key = f"{path}/{'.'.join(map(str, coords))}".lstrip("/")
            assert asked[key] == [ref.location, ref.offset, ref.length]
    assert len(await opened.refs("/tcco2")) == 31


async def test_an_absent_object_is_no_absent_chunk(data: Path) -> None:
    """A chunk whose object is not there exists, and reading it fails."""
    opened = await open_path(data / "kerchunk/xarray_data_0.json", data)
    ref = await opened.find("/u10", (0, 0))
    assert ref is not None
    assert (ref.offset, ref.length) == (0, 1667)
    assert ref.location.endswith("/kerchunk/example.grb")
    with pytest.raises(VzfsError):
        await opened.read(ref)


@pytest.mark.parametrize(
    ("name", "to"), [("soi.parq", "x.json"), ("co2_templates_gen.json", "x.parq")]
)
async def test_exported_references_lead_where_they_led(
    data: Path, tmp_path: Path, name: str, to: str
) -> None:
    """References that were exported, in either form, are the same when they are opened again."""
    command = [
        sys.executable,
        "-m",
        "vzfs",
        "export",
        str(data / "kerchunk" / name),
        "--to",
        str(tmp_path / to),
    ]
    await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    before, after = await open_path(data / "kerchunk" / name), await open_path(tmp_path / to)
    assert before.arrays.keys() == after.arrays.keys()
    assert after.omissions == {}
    for path in before.arrays:
        assert await before.refs(path) == await after.refs(path)


async def test_what_others_drop_is_there(data: Path) -> None:
    """Nested groups and expanded templates, which VirtualiZarr drops, are shown."""
    parsers = pytest.importorskip("virtualizarr.parsers")
    stores = pytest.importorskip("obstore.store")
    registry = pytest.importorskip("obspec_utils.registry").ObjectStoreRegistry(
        {"file://": stores.LocalStore()}
    )

    def arrays(name: str) -> dict[str, list[str]]:
        url = (data / "kerchunk" / name).as_uri()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = parsers.KerchunkJSONParser(fs_root="file:///")(url=url, registry=registry)
        group = store._group
        return {
            array: [chunk["path"] for chunk in group.arrays[array].manifest.dict().values()]
            for array in group.arrays
        }

    assert arrays("kerchunk_hrrr_wrfsubhf_tree.json") == {}
    assert len((await open_path(data / "kerchunk/kerchunk_hrrr_wrfsubhf_tree.json")).arrays) == 21
    found = arrays("co2_templates_gen.json")
    assert found["tcco2"] == []
    assert all("%7B%7Bu%7D%7D" in path for path in found["latitude"])
