"""Daily files as of OISST, small: four variables of int16, packed, shuffled and deflated, a record to a file."""

import os
from pathlib import Path

import numpy as np

NAMES = ("sst", "anom", "err", "ice")
SHAPE = (1, 1, 72, 144)
EPOCH = "days since 1978-01-01 12:00:00"
MODIFIED = 1_700_000_000


def write_day(
    folder: Path, day: int, *, shape: tuple[int, ...] = SHAPE, units: str = EPOCH
) -> Path:
    """Write the file of a day, counted from 2026-01-01, and return its path."""
    import netCDF4

    random = np.random.default_rng(day)
    rows, columns = shape[2:]
    path = folder / f"oisst-avhrr-v02r01.{20260101 + day}.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.title = "daily optimum interpolation"
        file.history = f"written for day {day}"
        for name, size in zip(("time", "zlev", "lat", "lon"), shape, strict=True):
            file.createDimension(name, None if name == "time" else size)
            variable = file.createVariable(name, "f4", (name,))
            variable[:] = [17532 + day] if name == "time" else np.arange(size) * 0.25
        file["time"].units = units
        file["lat"].units = "degrees_north"
        for name in NAMES:
            variable = file.createVariable(
                name, "i2", ("time", "zlev", "lat", "lon"),
                zlib=True, shuffle=True, complevel=4, chunksizes=shape, fill_value=-999,
            )  # fmt: skip
            variable.scale_factor, variable.add_offset = np.float32(0.01), np.float32(0)
            variable.units = "percent" if name == "ice" else "Celsius"
            variable.set_auto_maskandscale(False)
            field = random.normal(1500, 300, (rows, columns)).astype("i2")
            variable[0, 0] = np.where(random.random((rows, columns)) < 0.3, -999, field)
    os.utime(path, (MODIFIED, MODIFIED))
    return path


def write_days(folder: Path, days: range) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [write_day(folder, day) for day in days]
