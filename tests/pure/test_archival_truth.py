"""Real files of archives whose values are known: every array is equal to them, or left out by name."""

import io
import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from tests import archives

NETCDF3 = [
    "CRM032_test1.nc", "SMALL_total_column_co2.nc", "bad_cdf5_begin.nc",
    "derived_cdf5_rotPole_precipitation.nc", "eraint_uvz.nc", "example_1.nc",
    "ref_nccopy3_subset.nc", "ref_nctest_classic.nc", "rotPole_landAreaFraction.nc",
    "space_weather.nc", "tiny.nc", "ubyte.nc",
]  # fmt: skip


def hidden(content: bytes) -> set[str]:
    """Return the datasets that are dimensions of netCDF without values."""
    mark = b"This is a netCDF dimension but not a netCDF variable"
    found: set[str] = set()

    def visit(name: str, item: h5py.HLObject) -> None:
        if np.bytes_(item.attrs.get("NAME", b"")).startswith(mark):
            found.add(name)

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return found


def judge(data: Path, name: str, kind: str) -> tuple[int, set[str]]:
    """Return how many arrays of a file are equal to its truth, and which are left out; fail for any other.

    A dimension without values is as it should be if it is not shown.
    """
    truth = json.loads((data / "truth.json").read_text())[name].get("arrays", {})
    content = (data / name).read_bytes()
    references = archives.parsed(content, kind)
    have = set(archives.arrays(references))
    left_out = {path.strip("/") for path in archives.omitted(references)}
    without_values = hidden(content) & truth.keys() if kind == "hdf5" else set()
    expected = truth.keys() - without_values
    assert expected - have - left_out == set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = archives.opened(references, content)
        for path in have & truth.keys():
            assert list(np.shape(group[path])) == truth[path]["shape"], path
            assert archives.digest(group[path][...]) == truth[path]["sha256"], path
    return len(have & truth.keys()) + len(without_values), left_out & expected


LEFT_OUT = {
    "references.hdf5": {
        "chunked_ref_dataset", "chunked_regionref_dataset", "ref_dataset", "regionref_dataset",
    },
    "test_scalar_empty_datasets_latest.hdf5": {
        f"empty_{kind}"
        for kind in ("float_32", "float_64", "string", *(f"{s}int_{n}" for s in ("", "u") for n in (8, 16, 32, 64)))
    },
    "test_vlen_datasets_latest.hdf5": {
        f"vlen_{kind}{end}"
        for kind in ("float32_data", "float64_data", "issue_247", *(f"{s}int{n}_data" for s in ("", "u") for n in (8, 16, 32, 64)))
        for end in ("", "_chunked")
    },
}  # fmt: skip
"""What Zarr has no data type for, or what has no values."""


def test_every_array_of_real_hdf5_files_is_exact_or_named(data: Path) -> None:
    """Each array of each file equals what h5py reads, or is left out as it must be; nothing is lost in silence."""
    known = json.loads((data / "virtualizarr-2.8-results.json").read_text())
    count = theirs = 0
    for path in sorted((data / "archival" / "hdf5").iterdir()):
        name = f"archival/hdf5/{path.name}"
        equal, left_out = judge(data, name, "hdf5")
        assert left_out == LEFT_OUT.get(path.name, set()), name
        count += equal
        attempts = known[name]["detail"]["attempts"]
        direct = max((a.get("direct", {}).get("ok", 0) for a in attempts), default=0)
        assert equal >= direct, name
        theirs += direct
    assert count > theirs > 1000


@pytest.mark.parametrize("name", NETCDF3)
def test_every_array_of_real_netcdf3_files_is_exact_or_named(data: Path, name: str) -> None:
    """Each variable equals what netCDF reads; those whose values are not in the file are left out."""
    _, left_out = judge(data, f"archival/netcdf3/{name}", "netcdf3")
    assert left_out == set()


@pytest.mark.parametrize(
    "name",
    [
        "SMALL_total_column_co2.nc4.k3", "dataset_3d.nc", "hybrid_height.nc", "lfric_soil_temperature.nc", "nemo_1m_20150101-20150201_grid-T.nc",
        "tmean_1910_1910.nc", "tmmx_20190121.nc", "vlstr_type.nc",
    ],
)  # fmt: skip
def test_xarray_sees_what_it_sees_in_the_file(data: Path, name: str) -> None:
    """Dimensions, coordinates, masked and scaled values and attributes are those that xarray gives of the file."""
    path = data / "archival" / "hdf5" / name
    content = path.read_bytes()
    store = archives.memory(archives.parsed(content), content)
    with (
        xr.open_dataset(path, engine="h5netcdf") as expected,
        xr.open_zarr(store, consolidated=False, zarr_format=3) as found,
    ):
        assert set(found.variables) == set(expected.variables)
        for each in expected.variables:
            xr.testing.assert_equal(found[each].variable, expected[each].variable)
            assert found[each].attrs.keys() == expected[each].attrs.keys()
        assert found.attrs.keys() == expected.attrs.keys()


def test_variables_that_begin_beyond_the_end_are_left_out(data: Path) -> None:
    """A file whose header leads beyond its end shows no fill values in their place."""
    content = (data / "archival" / "netcdf3" / "bad_cdf5_begin.nc").read_bytes()
    references = archives.parsed(content, "netcdf3")
    assert archives.arrays(references) == []
    assert set(archives.omitted(references)) == {"/var_big", "/var_small"}
    assert all("the file at 220" in reason for reason in archives.omitted(references).values())
