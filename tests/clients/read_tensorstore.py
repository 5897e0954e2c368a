"""TensorStore, with the driver of the view's Zarr format."""

import importlib.metadata
import sys

import answers
import canonical
import tensorstore

DRIVER = {"2": "zarr", "3": "zarr3"}[sys.argv[2]]


def read(folder, name):
    store = {"driver": "file", "path": f"{folder}/{name}/"}
    array = tensorstore.open({"driver": DRIVER, "kvstore": store}, read=True).result()
    return canonical.content(array.read().result())


answers.run(f"tensorstore {importlib.metadata.version('tensorstore')}", read)
