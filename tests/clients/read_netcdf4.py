"""netCDF4, whose wheel brings netCDF-C with the filters of NCZarr; values as stored."""

import functools

import answers
import canonical
import netCDF4


@functools.cache
def dataset_at(folder):
    dataset = netCDF4.Dataset(f"file://{folder}#mode=zarr,file")
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)
    return dataset


def read(folder, name):
    variables = dataset_at(folder).variables
    if name not in variables:
        raise answers.NotShownError(name)
    return canonical.content(variables[name][...])


answers.run(f"netCDF4 {netCDF4.__version__}, netCDF-C {netCDF4.__netcdf4libversion__}", read)
