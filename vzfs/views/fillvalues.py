"""Fill values: what missing chunks hold, and what xarray takes for missing data, in other words.

A Zarr v3 document says a `fill_value` in words of its own for each data type, and xarray's
attribute `_FillValue` in others (base64 of a little-endian double). In Zarr v2 one value stands for
both, and JSON has no word for what is not finite.
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from vzfs.views.datatypes import DataType, Endian

ATTRIBUTE: Final = "_FillValue"

_WORDS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MAX_DEPTH: Final = 8
_MAX_DIGITS: Final = 400
"""Characters of a number that is said as text."""
_ZEROS: Final[Mapping[str, object]] = {"b": False, "i": 0, "u": 0, "f": 0, "c": [0, 0], "S": "", "U": "", "V": ""}  # fmt: skip

type Scalar = np.ndarray[tuple[()], np.dtype[Any]]


class _Unknown(Exception):
    """The words are not those of a value of the data type."""


def read_fill_value(words: object, data_type: DataType) -> Scalar | None:
    """Return the value that a Zarr v3 document says by *words*, None if it is none of the type."""
    return None if data_type.numpy is None else _attempt(words, data_type.numpy)


def read_attribute(words: object, data_type: DataType) -> Scalar | None:
    """Return the value that `_FillValue` says by *words*, in xarray's way or plainly; None if it says none."""
    if data_type.numpy is None:
        return None
    match data_type.numpy.kind:
        case "f":
            words = _double(words)
        case "c" if isinstance(words, list):
            words = [_double(part) for part in words]
    return _attempt(words, data_type.numpy)


def read_v2_fill_value(words: object, data_type: DataType, endian: Endian) -> Scalar | None:
    """Return the value that a Zarr v2 document says by *words*, None if it is none of the type.

    Numbers are taken as zarr-python takes them: as text too, and a truth value for 0 or 1. null is
    what zarr-python puts where a chunk is missing: zero, or no time.
    """
    dtype = data_type.numpy
    if dtype is None:
        return None
    if words is None:
        return _attempt(_ZEROS.get(dtype.kind, "NaT"), dtype) if dtype.names is None else np.zeros((), dtype)  # fmt: skip
    try:
        match dtype.kind, words:
            case "b", int():
                return np.array(bool(words), dtype)
            case (("i" | "u"), (bool() | str())):
                words = int(words) if len(str(words)) <= _MAX_DIGITS else words
            case "f", _:
                return _v2_float(words, dtype)
            case "c", [real, imag]:
                part = np.dtype(f"<f{dtype.itemsize // 2}")
                value = np.zeros((), dtype)
                value.real, value.imag = _v2_float(real, part), _v2_float(imag, part)
                return value
            case "S", str():
                return np.array(base64.b64decode(words, validate=True), dtype)
            case "U", str():
                return np.array(words, dtype)
            case "V", str() if dtype.names is not None:
                packed = _bytes(base64.b64decode(words, validate=True), dtype)
                return packed.view(dtype.newbyteorder(">")).astype(dtype) if endian == "big" else packed  # fmt: skip
    except (_Unknown, ValueError, TypeError, OverflowError):
        return None
    return _attempt(words, dtype)


def v3_fill_value(value: Scalar) -> object:
    """Return what a Zarr v3 document says for *value*."""
    if value.dtype.names is not None:
        return {name: v3_fill_value(np.asarray(value[name])) for name in value.dtype.names}
    return v2_fill_value(value, "little")


def xarray_words(value: Scalar) -> object:
    """Return what xarray takes for `_FillValue` in Zarr v3, or None if it has no words for it there."""
    match value.dtype.kind:
        case "b" | "i" | "u":
            return value.item()
        case "f":
            return _packed(float(value))
        case "c":
            return [_packed(float(value.real)), _packed(float(value.imag))]
    return None


def _packed(number: float) -> str:
    return base64.b64encode(struct.pack("<d", number)).decode()


def v2_fill_value(value: Scalar, endian: Endian) -> object:
    """Return what a Zarr v2 document says for *value*, of an array in that order of bytes."""
    match value.dtype.kind:
        case "f":
            return _spell(float(value))
        case "c":
            return [_spell(float(value.real)), _spell(float(value.imag))]
        case "M" | "m":
            return int(value.view("<i8"))
        case "S":
            return base64.b64encode(value.item()).decode()
        case "V":
            dtype = value.dtype.newbyteorder(">") if endian == "big" else value.dtype
            return base64.b64encode(value.astype(dtype).tobytes()).decode()
        case "U":
            return str(value)
    return value.item()


def plain(value: Scalar) -> object:
    """Return *value* as an attribute that any reader of JSON takes, or None if there is no such."""
    match value.dtype.kind:
        case "f" if not math.isfinite(value):
            return None
        case "b" | "i" | "u" | "f" | "U":
            return value.item()
        case "c" if math.isfinite(value.real) and math.isfinite(value.imag):
            return [float(value.real), float(value.imag)]
    return None


def is_zero(value: Scalar) -> bool:
    """Whether all bytes of *value* are 0: what a missing chunk has where nothing is said."""
    return not any(value.tobytes())


def is_same(one: Scalar, other: Scalar) -> bool:
    """Whether the values are the same to the bit, or both not a number."""
    both = one.dtype.kind == "f" and math.isnan(one) and math.isnan(other)
    return both or one.tobytes() == other.tobytes()


def _spell(number: float) -> object:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _double(words: object) -> object:
    """Return the number in the base64 that xarray writes, or *words*, if they are not that."""
    if isinstance(words, str):
        try:
            packed = base64.b64decode(words, validate=True)
        except (binascii.Error, ValueError):
            return words
        if len(packed) == 8:
            number: float = struct.unpack("<d", packed)[0]
            return number
    return words


def _attempt(words: object, dtype: np.dtype[Any]) -> Scalar | None:
    try:
        return _scalar(words, dtype, 0)
    except (_Unknown, ValueError, TypeError, OverflowError, KeyError):
        return None


def _scalar(words: object, dtype: np.dtype[Any], depth: int) -> Scalar:
    match dtype.kind, words:
        case "b", bool():
            return np.array(words, dtype)
        case (("i" | "u"), (int() | float())) if (
            not isinstance(words, bool) and int(words) == words
        ):
            return np.array(int(words), dtype)
        case "f", _:
            return _float(words, dtype)
        case "c", [real, imag]:
            part = np.dtype(f"<f{dtype.itemsize // 2}")
            value = np.zeros((), dtype)
            value.real, value.imag = _float(real, part), _float(imag, part)
            return value
        case (("M" | "m"), "NaT"):
            return np.array(-(2**63), "<i8").view(dtype)
        case (("M" | "m"), int()) if not isinstance(words, bool):
            return np.array(words, "<i8").view(dtype)
        case "U", str() if len(words) <= dtype.itemsize // 4:
            return np.array(words, dtype)
        case (("S" | "V"), str()):
            return _bytes(base64.b64decode(words, validate=True), dtype)
        case "V", list() if dtype.names is None:
            return _bytes(bytes(words), dtype)
        case "V", dict() if dtype.names is not None and depth < _MAX_DEPTH:
            return _structure(words, dtype, depth)
    raise _Unknown


def _float(words: object, dtype: np.dtype[Any]) -> Scalar:
    if isinstance(words, str):
        if words in _WORDS:
            return np.array(_WORDS[words], dtype)
        if not words.startswith("0x") or len(words) != 2 + 2 * dtype.itemsize:
            raise _Unknown
        return np.array(int(words, 16), f"<u{dtype.itemsize}").view(dtype)
    if isinstance(words, bool) or not isinstance(words, int | float):
        raise _Unknown
    with np.errstate(over="ignore"):
        value = np.array(float(words), dtype)
    if math.isinf(value) and not math.isinf(words):
        raise _Unknown
    return value


def _v2_float(words: object, dtype: np.dtype[Any]) -> Scalar:
    """Return a number; what is too large is infinite, as it is for zarr-python."""
    if isinstance(words, str):
        if len(words) > _MAX_DIGITS:
            raise _Unknown
    elif not isinstance(words, int | float):
        raise _Unknown
    with np.errstate(over="ignore"):
        return np.array(float(words), dtype)


def _bytes(content: bytes, dtype: np.dtype[Any]) -> Scalar:
    is_exact = dtype.names is not None
    if len(content) > dtype.itemsize or (is_exact and len(content) != dtype.itemsize):
        raise _Unknown
    padded = np.frombuffer(content.ljust(dtype.itemsize, b"\0"), np.uint8)
    return padded.view(dtype).reshape(())


def _structure(words: Mapping[str, object], dtype: np.dtype[Any], depth: int) -> Scalar:
    value = np.zeros((), dtype)
    for name in dtype.names or ():
        if name in words:
            value[name] = _scalar(words[name], dtype[name], depth + 1)
    return value
