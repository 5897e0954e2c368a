"""Archival files: what netCDF, HDF5, TIFF, GRIB and other files hold, as hierarchies of chunk refs.

A file is parsed in a process of its own, with limits, by a parser that gets a file to read and gives
`References`: for each array its metadata in the words of Zarr v3, and where in the file its chunks
lie. What cannot be presented exactly is left out by name with its reason; never is a chunk missing
that the file has.
"""
