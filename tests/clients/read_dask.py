"""dask.array.from_zarr."""

import warnings

import answers
import canonical
import dask
import dask.array

warnings.simplefilter("ignore")


def read(folder, name):
    return canonical.content(dask.array.from_zarr(f"{folder}/{name}").compute())


answers.run(f"dask {dask.__version__}", read)
