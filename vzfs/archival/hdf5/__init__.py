"""HDF5 and netCDF4 over h5py, object by object: each failure costs that object alone.

| module | owns |
|---|---|
| `walk` | names to objects: links of all sorts, cycles, bounds |
| `elements` | data types to numpy's, where the bytes in the file are such elements |
| `filters` | the filter pipeline in the words of Zarr |
| `chunks` | where the values of a dataset lie, or the values themselves |
| `dimensions` | what dimensions are called |
| `attributes` | attributes as JSON |

All of it runs in a process of its own, and nothing follows a link or a name into another file.
"""
