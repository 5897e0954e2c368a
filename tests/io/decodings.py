"""What tests of decoding work with: arrays as zarr stores them, and the forms that decode their chunks."""

import asyncio
import hashlib
import json
from typing import NamedTuple

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
ZLIB = {"name": "numcodecs.zlib", "configuration": {"level": 1}}
FLETCHER32 = {"name": "numcodecs.fletcher32", "configuration": {}}


def shuffle(size: int) -> dict:
    return {"name": "numcodecs.shuffle", "configuration": {"elementsize": size}}


class Form(NamedTuple):
    """What `vzfs.views.forms.Decoded` says of an array's chunks."""

    nbytes: int
    spec: bytes
    digest: str


def form(shape: list, data_type: object, codecs: list, fill: object = 0, nbytes: int = 0) -> Form:
    """Return the form of chunks; *nbytes* if they are not of a numpy type of this name."""
    fields = {"shape": shape, "data_type": data_type, "codecs": codecs, "fill_value": fill}
    spec = json.dumps(fields, sort_keys=True).encode()
    size = nbytes or int(np.prod(shape)) * np.dtype(data_type).itemsize
    return Form(size, spec, hashlib.blake2b(spec, digest_size=16).hexdigest())


def stored(values: np.ndarray, codecs: list) -> tuple[bytes, Form]:
    """Return *values* as one chunk that zarr wrote, and its form."""
    store = MemoryStore()
    array = zarr.create(
        store=store,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        codecs=codecs,
        fill_value=None,
        config={"write_empty_chunks": True},
    )
    array[...] = values
    prototype = default_buffer_prototype()
    key = "c" + "/0" * values.ndim
    chunk = asyncio.run(store.get(key, prototype)).to_bytes()
    document = json.loads(asyncio.run(store.get("zarr.json", prototype)).to_bytes())
    return chunk, form(
        list(values.shape),
        document["data_type"],
        document["codecs"],
        document["fill_value"],
        values.nbytes,
    )


def plain(values: np.ndarray) -> bytes:
    """Return what a decoded chunk of *values* holds."""
    return values.astype(values.dtype.newbyteorder("<")).tobytes()
