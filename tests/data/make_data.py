"""Cut the samples of this folder out of the NEMO files of iris-sample-data.

    python tests/data/make_data.py .../sample_data/NEMO/*.nc

Each is a monthly mean of sea surface temperature over the North Atlantic, in four chunks,
compressed as the whole file is. The temperatures are the original ones; the middle of the month is
written in the standard calendar (the model's months have 30 days), so that every reader can decode
it.
"""

import datetime
import sys
from pathlib import Path

import h5py

ROWS, COLUMNS = slice(180, 290), slice(205, 301)
CHUNKS = (1, 55, 48)
ATTRIBUTES = ("standard_name", "long_name", "units", "_FillValue")


def cut(path: Path, folder: Path) -> None:
    """Write the window of the file at *path* into *folder*."""
    with h5py.File(path) as whole, h5py.File(folder / f"tos_{path.name[8:14]}.nc", "w") as part:
        part.attrs["title"] = "Sea surface temperature of the North Atlantic, monthly mean"
        part.attrs["source"] = f"a window of {path.name} of SciTools/iris-sample-data"
        window = whole["tos"][:, ROWS, COLUMNS]
        for name, length in (("y", window.shape[1]), ("x", window.shape[2])):
            scale = part.create_dataset(name, shape=(length,), dtype=">f4")
            # netCDF's word for a dimension without coordinates.
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{length:10d}")
        middle = datetime.datetime.strptime(path.name[8:14], "%Y%m").replace(day=16)
        days = (middle - datetime.datetime(2015, 1, 1)).days
        time = part.create_dataset("time", data=[float(days)], chunks=CHUNKS[:1])
        time.attrs["standard_name"] = "time"
        time.attrs["units"] = "days since 2015-01-01"
        time.make_scale("time")
        for name in ("nav_lat", "nav_lon"):
            values = whole[name][ROWS, COLUMNS]
            add(part, name, whole[name], values, values.shape, "y", "x")
        add(part, "tos", whole["tos"], window, CHUNKS, "time", "y", "x")
        part["tos"].attrs["coordinates"] = "nav_lat nav_lon"


def add(part: h5py.File, name: str, old: h5py.Dataset, values, chunks, *dimensions: str) -> None:
    """Write a variable like *old* with other *values*."""
    options = {"chunks": chunks, "compression": "gzip", "fillvalue": old.fillvalue}
    new = part.create_dataset(name, data=values, **options)
    new.attrs.update({key: old.attrs[key] for key in ATTRIBUTES if key in old.attrs})
    for axis, dimension in enumerate(dimensions):
        new.dims[axis].attach_scale(part[dimension])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        cut(Path(argument), Path(__file__).parent)
