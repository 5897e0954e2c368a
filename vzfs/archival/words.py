"""Values and types of archives in the words of Zarr v3, as zarr-python and xarray take them. Pure.

A data type is numpy's, in whatever order of bytes. What an array holds where nothing was written is
its `fill_value`, which says every value to the bit. What a file's attribute `_FillValue` says is what
xarray takes for missing, and is said in xarray's own words.
"""

import base64
import functools
import itertools
import math
import struct
from typing import Any, Final

import numpy as np

from vzfs.archival.building import Unpresentable
from vzfs.views.datatypes import v3_words

FILL_ATTRIBUTE: Final = "_FillValue"
PIECE: Final = 16 * 2**20
"""Bytes that the chunks of an array get at most, where the file has it in one piece that can be cut."""
_LEAST_PIECE: Final = 2**20
"""Bytes below which no chunk is cut, as its fetch would be mostly latency."""
_TRIED: Final = 2**14
"""Divisors that are looked for."""


def data_type(dtype: np.dtype[Any]) -> object:
    """Return what a document calls *dtype*. Raises Unpresentable where Zarr has no such type."""
    if not _is_known(dtype):
        raise Unpresentable(f"Zarr has no data type for {dtype}")
    return v3_words(dtype)


def _is_known(dtype: np.dtype[Any]) -> bool:
    if dtype.names is not None:
        return all(_is_known(dtype[name]) for name in dtype.names)
    if dtype.subdtype is not None or not dtype.itemsize:
        return False
    match dtype.kind:
        case "f":
            return dtype.itemsize in {2, 4, 8}
        case "c":
            return dtype.itemsize in {8, 16}
        case kind:
            return kind in "biuSUVMm"


def endian(dtype: np.dtype[Any]) -> str | None:
    """Return "big" or "little", None if *dtype* has no order of bytes. Raises Unpresentable if it has both."""
    if dtype.names is not None:
        orders = {endian(dtype[name]) for name in dtype.names} - {None}
        if len(orders) > 1:
            raise Unpresentable("the fields of its elements differ in their order of bytes")
        return orders.pop() if orders else None
    if dtype == dtype.newbyteorder():
        return None
    return "big" if dtype == dtype.newbyteorder(">") else "little"


def bytes_codec(dtype: np.dtype[Any]) -> dict[str, object]:
    """Return the codec that makes bytes of elements of *dtype*, in its order. Raises Unpresentable."""
    order = endian(dtype)
    if order is None and (dtype.itemsize == 1 or dtype.names is None):
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": order or "little"}}


def fill_value(value: object, dtype: np.dtype[Any]) -> object:
    """Return what a document says for *value* of *dtype*, to the bit; for None: for zero."""
    array = np.zeros((), dtype) if value is None else np.asarray(value, dtype)
    return _fill(array.astype(dtype.newbyteorder("<")))


def _fill(value: np.ndarray[Any, Any]) -> object:
    dtype = value.dtype
    if dtype.names is not None:
        return {name: _fill(np.asarray(value[name])) for name in dtype.names}
    match dtype.kind:
        case "f":
            return _float(value)
        case "c":
            return [_float(np.asarray(value.real)), _float(np.asarray(value.imag))]
        case "M" | "m":
            return int(value.view("<i8"))
        case "S":
            return base64.b64encode(value.item()).decode()
        case "V":
            return base64.b64encode(value.tobytes()).decode()
        case "U":
            return str(value)
    return value.item()


def _float(value: np.ndarray[Any, Any]) -> object:
    number = float(value)
    if math.isfinite(number):
        return number
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    ordinary = np.array(math.nan, value.dtype)
    if value.tobytes() == ordinary.tobytes():
        return "NaN"
    return f"0x{int.from_bytes(value.tobytes(), 'little'):0{2 * value.dtype.itemsize}x}"


def fill_attribute(value: object, dtype: np.dtype[Any]) -> object | None:
    """Return the attribute `_FillValue` of an array of *dtype*, as xarray reads it from Zarr v3.

    None if no element can equal *value*, so that it marks nothing (NaN among integers, or a number
    that the type has not), or if xarray opens no array that says it: of bytes or structures.
    """
    array = np.asarray(value)
    if array.size != 1 or dtype.names is not None:
        return None
    scalar = array.reshape(())[()]
    try:
        with np.errstate(all="ignore"):
            cast = np.asarray(scalar).astype(dtype)
    except (ValueError, TypeError, OverflowError):
        return None
    match dtype.kind:
        case "f":
            return _double(float(cast))
        case "c":
            return [_double(float(cast.real)), _double(float(cast.imag))]
        case "b" | "i" | "u":
            is_same = array.dtype.kind in "biuf" and bool(scalar == cast[()])
            return cast.item() if is_same else None
        case "U":
            return str(cast)
    return None


def _double(number: float) -> str:
    return base64.b64encode(struct.pack("<d", number)).decode()


@functools.lru_cache(1024)
def pieces(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the shape of the chunks into which an array that lies in one piece, in C order, is cut.

    They are all of one size, and each lies in one piece: some of the last dimensions whole, an even
    part of the one before, and one of each before that. An array that cannot be cut so is one chunk.
    """
    chunk = [max(n, 1) for n in shape]
    if math.prod(shape) * itemsize <= PIECE:
        return tuple(chunk)
    for axis, length in enumerate(chunk):
        row = math.prod(chunk[axis + 1 :]) * itemsize
        if row <= PIECE:
            chunk[axis] = length // _parts(length, length * row)
            break
        chunk[axis] = 1
    return tuple(chunk)


def _parts(length: int, nbytes: int) -> int:
    """Return into how many even parts *length* is cut, which are *nbytes* in all.

    They are as large as may be, or else as little larger as can be.
    """
    fitting = -(-nbytes // PIECE)
    most = min(nbytes // _LEAST_PIECE, fitting + _TRIED)
    fewer = range(fitting - 1, max(fitting - _TRIED, 1), -1)
    for parts in itertools.chain(range(fitting, most + 1), fewer):
        if length % parts == 0:
            return parts
    return 1
