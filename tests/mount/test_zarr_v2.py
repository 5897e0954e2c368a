"""A real mount of a hierarchy that is Zarr v2: byte for byte in one view, with the same values in all."""

import json
from collections.abc import Iterator
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray
import zarr

from tests.mount.conftest import Mount
from vzfs.views.view import ALL

pytestmark = [pytest.mark.mount, pytest.mark.filterwarnings("ignore::UserWarning")]

VALUES = (np.arange(35) % 6).reshape(7, 5)


@pytest.fixture(scope="module", name="store")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a hierarchy of arrays with keys, filters, orders and fill values of several kinds."""
    path = tmp_path_factory.mktemp("v2") / "store.zarr"
    root = zarr.create_group(path, zarr_format=2, attributes={"title": "found"})
    kinds = {
        "dots": {"dtype": "<i2", "compressors": numcodecs.Zlib(1), "filters": [numcodecs.Shuffle(2)]},
        "slashes": {"dtype": ">f8", "chunk_key_encoding": {"name": "v2", "separator": "/"}, "fill_value": 2},
        "group/fortran": {"dtype": "<f4", "order": "F", "compressors": numcodecs.Blosc("lz4")},
        "group/scaled": {"dtype": "<f8", "filters": [numcodecs.FixedScaleOffset(1, 2, "<f8", "<i2")], "compressors": None},
        "group/text": {"dtype": "|S3", "fill_value": b"x"},
    }  # fmt: skip
    for name, options in kinds.items():
        array = root.create_array(
            name, shape=VALUES.shape, chunks=(4, 3), attributes={"_ARRAY_DIMENSIONS": ["y", "x"]}, **options
        )  # fmt: skip
        array[...] = VALUES.astype(options["dtype"])
        # A chunk is missing, and its values are those of its absence.
        key = "1/1" if name == "slashes" else "1.1"
        (path / name / key).unlink()
    return path


@pytest.fixture(scope="module", name="mounted")
def _mounted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    mounted = Mount(tmp_path_factory.mktemp("mounted"), store, "--no-cache")
    try:
        yield mounted
        mounted.end()
    finally:
        mounted.tear_down()


def test_the_stored_view_of_zarr_v2_is_what_was_found(store: Path, mounted: Mount) -> None:
    """Every file of the source is there by its name, with its bytes, and no other but the consolidated documents."""
    view = mounted.path / ".vzfs" / "view" / "stored-v2"
    found = {file.relative_to(view) for file in view.rglob("*") if file.is_file()}
    expected = {file.relative_to(store) for file in store.rglob("*") if file.is_file()}

    assert found - expected <= {Path(".zmetadata")}
    assert found >= expected
    for name in expected:
        assert (view / name).read_bytes() == (store / name).read_bytes()
    assert json.loads((view / ".zmetadata").read_bytes())["metadata"].keys() == {
        str(name) for name in expected if name.name.startswith(".z")
    }


@pytest.mark.parametrize("view", [*map(str, ALL)])
def test_every_view_of_zarr_v2_has_its_values(store: Path, mounted: Mount, view: str) -> None:
    """From the source and from every view zarr-python and xarray read the same, missing chunks too."""
    place = mounted.path / ".vzfs" / "view" / view
    source, shown = (zarr.open_group(path, mode="r") for path in (store, place))

    names = ["dots", "slashes", "group/fortran", "group/scaled", "group/text"]
    if view == "decoded-v2":  # which is for readers who know numbers alone
        names.remove("group/text")
        assert "text" not in shown["group"]
    for name in names:
        expected, found = (np.asarray(group[name][...]) for group in (source, shown))
        assert found.dtype.newbyteorder("<") == expected.dtype.newbyteorder("<")
        assert np.array_equal(found, expected)
    with (
        xarray.open_zarr(store, consolidated=False, chunks=None) as expected,
        xarray.open_zarr(place, consolidated=False, chunks=None) as found,
    ):
        xarray.testing.assert_equal(found, expected)
        assert found.attrs == {"title": "found"}
