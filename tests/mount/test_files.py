"""Files of archives, mounted as they are."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from tests.conftest import ROOT
from tests.mount.conftest import Mount, MountFailedError

type Mounting = Callable[..., Mount]


def vzfs(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "vzfs", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def write_day(
    path: Path, day: int, *, units: str = "days since 2026-01-01", fill: int = -999
) -> Path:
    """Write one day of a field, as archives have them: packed, deflated and shuffled."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time")
        file.createDimension("lat", 6)
        file.createDimension("lon", 8)
        for name, values in (("lat", np.arange(6) * 10.0), ("lon", np.arange(8) * 20.0)):
            file.createVariable(name, "f4", (name,))[:] = values
        time = file.createVariable("time", "f8", ("time",))
        time.units = units
        time[:] = [day]
        sst = file.createVariable(
            "sst", "i2", ("time", "lat", "lon"), zlib=True, shuffle=True, fill_value=fill
        )
        sst.scale_factor, sst.add_offset, sst.units = 0.01, 0.0, "Celsius"
        sst[:] = np.random.default_rng(day).uniform(-2, 30, (1, 6, 8))
    return path


@pytest.fixture(name="days")
def _days(tmp_path: Path) -> Path:
    """Return a folder with three days, and something else."""
    folder = tmp_path / "obs"
    (folder / "more").mkdir(parents=True)
    for day in range(3):
        write_day(folder / f"day{day}.nc", day)
    write_day(folder / "more" / "day1.nc", 7)
    (folder / "README").write_text("what this is")
    (folder / ".hidden.nc").write_bytes(b"nothing")
    return folder


def groups(mounted: Mount) -> list[str]:
    return sorted(path.name for path in mounted.path.iterdir() if path.is_dir())


def original(path: Path) -> xr.Dataset:
    return xr.open_dataset(path, engine="netcdf4").load()


def test_a_file_is_mounted_as_it_is(days: Path, mount: Mounting) -> None:
    """The arrays of a file are at the root, equal to what netCDF reads, and say where each chunk lies in it."""
    mounted = mount(days / "day0.nc")
    assert groups(mounted) == ["lat", "lon", "sst", "time"]
    shown = xr.open_zarr(mounted.path, consolidated=False)
    xr.testing.assert_identical(shown.load().drop_attrs(), original(days / "day0.nc").drop_attrs())
    assert shown.sst.attrs == {"units": "Celsius"}
    chunk = mounted.path / "sst/c/0/0/0"
    said = {name: os.getxattr(chunk, f"user.vzfs.{name}").decode() for name in ("source", "offset")}
    assert said["source"] == (days / "day0.nc").as_uri()
    length = chunk.stat().st_size
    content = (days / "day0.nc").read_bytes()
    assert chunk.read_bytes() == content[int(said["offset"]) :][:length]
    assert (mounted.path / ".vzfs/view/decoded-v2/sst/.zarray").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (["{}/**/day1.nc"], ["more_day1", "obs_day1"]),
        (["{}"], ["day0", "day1", "day2"]),
        (["{}/day2.nc", "{}/more/day1.nc"], ["day1", "day2"]),
        (["@{}/list"], ["day0", "day1"]),
    ],
    ids=["pattern", "folder", "several", "list"],
)
def test_several_files_are_a_group_each(
    days: Path, tmp_path: Path, source: list[str], expected: list[str]
) -> None:
    """A pattern, a folder, several files and a list are mounted with a group for each file, named like it."""
    (days / "list").write_text(f"# two of them\nday0.nc\n{days / 'more/day1.nc'}\n")
    place = tmp_path / "mnt"
    place.mkdir()
    named = [text.format(days) for text in source]
    result = vzfs("mount", *named, place, "--no-cache", "--log-file", tmp_path / "log")
    assert result.returncode == 0, result.stderr
    try:
        found = sorted(path.name for path in place.iterdir() if path.is_dir())
        assert found == expected
        assert (place / expected[0] / "sst/c/0/0/0").stat().st_size > 0
        assert "note" not in result.stdout
        if source[0].startswith("@"):
            # What is mounted is found again by its options.
            verified = vzfs("verify", place, "--json")
            assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        assert vzfs("umount", place).returncode == 0


def test_files_are_put_end_to_end(days: Path, mount: Mounting, tmp_path: Path) -> None:
    """--concat makes one hierarchy of files, equal to what xarray makes of them; what differs is refused with its place."""
    mounted = mount(f"{days}/*.nc", "--concat", "time")
    shown = xr.open_zarr(mounted.path, consolidated=False).load()
    expected = xr.concat(
        [original(days / f"day{i}.nc") for i in range(3)], "time", data_vars="minimal"
    )
    xr.testing.assert_equal(shown, expected)
    write_day(days / "day3.nc", 3, fill=-1)
    with pytest.raises(MountFailedError) as failed:
        mount(f"{days}/*.nc", "--concat", "time")
    assert "day3.nc" in failed.value.args[0]["error"]
    with pytest.raises(MountFailedError) as failed:
        mount(f"{days}/day[01].nc", "--concat", "height")
    assert "height" in failed.value.args[0]["error"]


def test_what_cannot_be_shown_is_named(days: Path, mount: Mounting, tmp_path: Path) -> None:
    """A broken file, and a variable that Zarr has no words for, are left out by name with the reason: in a note, the log and vzfs info."""
    (days / "day4.nc").write_bytes((days / "day0.nc").read_bytes()[:2000])
    with netCDF4.Dataset(days / "day5.nc", "w") as file:
        file.createDimension("x", 2)
        kind = file.createVLType("i4", "list_of_ints")
        file.createVariable("lists", kind, ("x",))
        file.createVariable("plain", "i4", ("x",))[:] = [1, 2]
    mounted = mount(f"{days}/*.nc")
    mounted.expect_log("a file is left out.*day4.nc")
    assert groups(mounted) == ["day0", "day1", "day2", "day5"]
    assert groups_of(mounted, "day5") == ["plain"]
    assert any("/day5/lists" in line for line in mounted.log())
    assert "/day4" in mounted.outcome["notes"][0]
    found = {
        left["path"]: left["reason"]
        for left in json.loads(vzfs("info", f"{days}/*.nc", "--json").stdout)["left_out"]
    }
    assert "day4.nc" in found["/day4"]
    assert "lists of any length" in found["/day5/lists"]
    assert "left out: /day5/lists" in vzfs("info", f"{days}/*.nc").stdout


def groups_of(mounted: Mount, group: str) -> list[str]:
    return sorted(path.name for path in (mounted.path / group).iterdir() if path.is_dir())


def test_a_file_that_changes_is_never_mixed(days: Path, mount: Mounting, tmp_path: Path) -> None:
    """What changes after it was parsed fails to be read, cached or not; mounted again it is what it is now."""
    cache = tmp_path / "cache"
    mounted = mount(days / "day0.nc", cache=cache)
    write_day(days / "new.nc", 5)
    (days / "new.nc").replace(days / "day0.nc")
    mounted.expect_log("changed")
    with pytest.raises(OSError, match="Stale"):
        (mounted.path / "sst/c/0/0/0").read_bytes()
    again = mount(days / "day0.nc", cache=cache)
    shown = xr.open_zarr(again.path, consolidated=False)
    np.testing.assert_array_equal(shown.sst, original(days / "day0.nc").sst)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}/*.grib"], "no file is meant"),
        (["{}/README"], "of no kind that is known"),
        (["{}/none.nc"], "there is no"),
        (["@{}/none"], "cannot be read"),
        (["{}/day0.nc", "{}/day0.nc"], "twice"),
        (["{}/day0.nc", "--follow"], "no branch"),
        (["{}/day0.nc", "--tag", "v1"], "there is no tag"),
        (["{}/.hidden.nc"], "no kind"),
    ],
)
def test_what_is_not_there_is_one_clear_line(
    days: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    """A pattern that means nothing, a file of no known kind or none at all, and options that files have not, are one line that says so."""
    place = tmp_path / "mnt"
    place.mkdir()
    named = [word.format(days) for word in words if not word.startswith("-")]
    options = words[len(named) :] if "--tag" not in words else words[-2:]
    if "--tag" in words:
        named = named[:1]
    result = vzfs("mount", *named, place, *options, "--no-cache", "--log-file", tmp_path / "log")
    assert result.returncode not in {0, 1}
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


def test_a_link_that_was_named_is_followed(days: Path, mount: Mounting, tmp_path: Path) -> None:
    """Who names a link means what it leads to."""
    link = tmp_path / "link.nc"
    link.symlink_to(days / "day0.nc")
    mounted = mount(link)
    assert (mounted.path / "sst/c/0/0/0").stat().st_size > 0
    (mounted.path / "sst/c/0/0/0").read_bytes()


def test_of_real_files_every_array_is_equal(data: Path, tmp_path: Path) -> None:
    """Real files of each kind: mounted, and every array equal to what its own library reads, or left out by name."""
    from tests.formats.__main__ import everything
    from tests.formats.matrix import Outcome

    os.environ["VZFS_CACHE_DIR"] = str(tmp_path / "cache")
    try:
        found = list(everything(data, tmp_path, SAMPLE.__contains__))
    finally:
        del os.environ["VZFS_CACHE_DIR"]
    assert {row.file for row in found} == SAMPLE
    bad = [row for row in found if row.outcome in {Outcome.WRONG, Outcome.MISSING}]
    assert bad == []
    assert sum(row.outcome is Outcome.EQUAL for row in found) > 80


SAMPLE = {
    "archival/grib/example.grib",
    "archival/grib/reduced_gg.grib",
    "archival/hdf4/MOD14.hdf4",
    "archival/hdf5/hdf5_mali_chunk.h5",
    "archival/hdf5/hybrid_height.nc",
    "archival/hdf5/ref_tst_compounds.nc",
    "archival/netcdf3/rotPole_landAreaFraction.nc",
    "archival/netcdf3/ubyte.nc",
    "archival/tiff/cog_rgb.tif",
    "archival/tiff/predictor-3-gray-f32.tif",
    "archival/tiff/rgb1.tif",
    "zarr/zarrs_zip_v3.zip",
}
"""Files of every kind, among them such as other libraries fail at."""
