"""Data types: from the words of Zarr v3 and v2 to numpy's, and back.

A data type is what a document says, hostile or not; nothing here raises for it. What is not known
has no numpy data type.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

type Endian = Literal["little", "big"]

MAX_FIELDS: Final = 1024
"""Fields of a structure, with those of structures in it."""
_MAX_DEPTH: Final = 8
_MAX_TEXT: Final = 2**20
_MAX_ITEM: Final = 2**16
"""Bytes of an element that is text, and of any other. A document says a whole element as fill value."""

_NAMES: Final = {
    "bool": "|b1",
    **{f"{sign}int{8 * n}": f"<{kind}{n}" for sign, kind in (("", "i"), ("u", "u")) for n in (1, 2, 4, 8)},
    **{f"float{8 * n}": f"<f{n}" for n in (2, 4, 8)},
    "complex64": "<c8",
    "complex128": "<c16",
}  # fmt: skip
_LENGTHS: Final = {"raw_bytes": "V", "null_terminated_bytes": "S", "fixed_length_utf32": "U"}
_TIMES: Final = {"numpy.datetime64": "M8", "numpy.timedelta64": "m8"}
_VARIABLE: Final = {"string": "vlen-utf8", "variable_length_bytes": "vlen-bytes"}
_RAW_BITS: Final = re.compile(r"r([1-9][0-9]{0,9})\Z")
_UNIT: Final = re.compile(r"(?:Y|M|W|D|h|m|s|ms|us|μs|ns|ps|fs|as|generic)\Z")
_V2_NAME: Final = re.compile(
    r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|[SUV][1-9][0-9]{0,6}|[mM]8(?:\[[0-9]{0,10}[A-Za-zμ]{1,7}\])?)\Z"
)
_SIMPLE: Final = re.compile(r"[<>|=]?[biufc](?:1|2|4|8|16)\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class DataType:
    """A data type: *words* is what the document says of it.

    *numpy* is the same in little-endian order, None if it is unknown or has no fixed size.
    *is_common* says whether the readers that the views are for take the words. *object_codec* is the
    codec that turns elements of variable size into bytes.
    """

    words: object
    numpy: np.dtype[Any] | None = None
    is_common: bool = False
    object_codec: str = ""

    @property
    def itemsize(self) -> int:
        """Bytes of an element; 0 if they vary or are not known."""
        return 0 if self.numpy is None else self.numpy.itemsize

    @property
    def has_order(self) -> bool:
        """Whether the order of bytes matters."""
        return self.numpy is not None and self.numpy.newbyteorder(">") != self.numpy

    def ordered(self, endian: Endian) -> np.dtype[Any]:
        """Return the numpy data type with that order of bytes; there has to be one."""
        if self.numpy is None:
            raise ValueError("the data type has no fixed size")
        return self.numpy.newbyteorder(">") if endian == "big" else self.numpy


def read_data_type(words: object) -> DataType:
    """Return the data type that a Zarr v3 document describes by *words*."""
    if isinstance(words, str):
        simple = _BY_NAME.get(words)
        if simple is not None:
            return simple
    try:
        found = _fixed(words, 0, [MAX_FIELDS])
    # numpy says in several ways that it cannot make a data type.
    except (ValueError, TypeError, OverflowError, MemoryError, KeyError):
        found = None
    if found is None or not 0 < found.itemsize <= (_MAX_TEXT if found.kind in "SU" else _MAX_ITEM):
        return DataType(words)
    return DataType(words, found, is_common=_is_common(words))


def named(words: object) -> tuple[str, Mapping[str, Any]] | None:
    """Return name and configuration of an extension point, which may be a bare name; None if it is malformed."""
    if isinstance(words, str):
        return words, {}
    if isinstance(words, dict):
        name, configuration = words.get("name"), words.get("configuration", {})
        if isinstance(name, str) and isinstance(configuration, dict):
            return name, configuration
    return None


def _fixed(words: object, depth: int, budget: list[int]) -> np.dtype[Any] | None:
    parts = named(words)
    if parts is None:
        return None
    name, configuration = parts
    if name in _NAMES and not configuration:
        return np.dtype(_NAMES[name])
    if (raw := _RAW_BITS.match(name)) is not None and not configuration:
        bits = int(raw[1])
        return np.dtype(f"V{bits // 8}") if bits % 8 == 0 and bits <= 8 * _MAX_ITEM else None
    if name in _LENGTHS:
        return _of_length(_LENGTHS[name], configuration)
    if name in _TIMES:
        return _time(_TIMES[name], configuration)
    if name in ("struct", "structured") and depth < _MAX_DEPTH:
        return _structure(configuration, depth, budget)
    return None


def _of_length(kind: str, configuration: Mapping[str, Any]) -> np.dtype[Any] | None:
    length = configuration.get("length_bytes")
    if configuration.keys() != {"length_bytes"} or type(length) is not int:
        return None
    if not 0 < length <= _MAX_TEXT or (kind == "U" and length % 4):
        return None
    return np.dtype(f"<U{length // 4}" if kind == "U" else f"{kind}{length}")


def _time(kind: str, configuration: Mapping[str, Any]) -> np.dtype[Any] | None:
    unit, factor = configuration.get("unit"), configuration.get("scale_factor", 1)
    if not isinstance(unit, str) or not _UNIT.match(unit) or not configuration.keys() <= {"unit", "scale_factor"}:  # fmt: skip
        return None
    if type(factor) is not int or not 0 < factor < 2**31:
        return None
    if unit == "generic":
        return np.dtype(f"<{kind}") if factor == 1 else None
    return np.dtype(f"<{kind}[{factor}{unit.replace('μ', 'u')}]")


def _structure(
    configuration: Mapping[str, Any], depth: int, budget: list[int]
) -> np.dtype[Any] | None:
    members = configuration.get("fields")
    if not isinstance(members, list) or not members or configuration.keys() != {"fields"}:
        return None
    budget[0] -= len(members)
    if budget[0] < 0:
        return None
    fields = []
    for member in members:
        match member:
            case {"name": str(name), "data_type": words} | [str(name), words]:
                field = _fixed(words, depth + 1, budget)
            case _:
                return None
        if field is None or not name:
            return None
        fields.append((name, field))
    return np.dtype(fields)


def _is_common(words: object) -> bool:
    """Whether zarr-python takes *words*, which have been understood: it takes one spelling alone."""
    match words:
        case str():
            return words in _BY_NAME
        case {"name": name, "configuration": {"fields": list(members)}}:
            return all(
                _is_common(m["data_type"] if isinstance(m, dict) else m[1]) for m in members
            ) and name in ("struct", "structured")
        case {"name": name, "configuration": dict(configuration)}:
            return name in _LENGTHS or (name in _TIMES and "scale_factor" in configuration)
    return False


def read_v2_data_type(words: object) -> tuple[DataType, Endian] | None:
    """Return the data type of fixed size that a Zarr v2 document describes by *words*, and its order of bytes.

    None if it is not known, or if its fields differ in their order, which Zarr v3 cannot say.
    """
    orders: set[str] = set()
    try:
        dtype = _v2_fixed(words, 0, [MAX_FIELDS], orders)
    except (ValueError, TypeError, OverflowError, MemoryError, KeyError):
        return None
    if dtype is None or len(orders) > 1:
        return None
    found = read_data_type(v3_words(dtype))
    return None if found.numpy is None else (found, "big" if ">" in orders else "little")


def _v2_fixed(
    words: object, depth: int, budget: list[int], orders: set[str]
) -> np.dtype[Any] | None:
    """Return the data type in little-endian order, and add to *orders* those that its parts have."""
    if isinstance(words, str) and _V2_NAME.match(words):
        dtype = np.dtype("<" + words[1:])
        if dtype.newbyteorder(">") != dtype:
            orders.add(words[0])
        return None if "|" in orders else dtype
    if not isinstance(words, list) or not words or depth >= _MAX_DEPTH:
        return None
    budget[0] -= len(words)
    if budget[0] < 0:
        return None
    fields = []
    for member in words:
        match member:
            case [str(name), field_words] if name:
                field = _v2_fixed(field_words, depth + 1, budget, orders)
            case _:
                return None
        if field is None:
            return None
        fields.append((name, field))
    return np.dtype(fields)


def v2_words(dtype: np.dtype[Any]) -> object:
    """Return what a Zarr v2 document calls *dtype*: `<i2`, or a list of fields."""
    if dtype.names is None:
        return dtype.str
    return [[name, v2_words(dtype[name])] for name in dtype.names]


def v3_words(dtype: np.dtype[Any]) -> object:
    """Return what a Zarr v3 document calls *dtype*, as zarr-python spells it."""
    size: dict[str, object] = {"length_bytes": dtype.itemsize}
    match dtype.kind:
        case "V" if dtype.names is not None:
            fields = [{"name": name, "data_type": v3_words(dtype[name])} for name in dtype.names]
            return {"name": "struct", "configuration": {"fields": fields}}
        case "V":
            return {"name": "raw_bytes", "configuration": size}
        case "S":
            return {"name": "null_terminated_bytes", "configuration": size}
        case "U":
            return {"name": "fixed_length_utf32", "configuration": size}
        case "M" | "m":
            name = "numpy.datetime64" if dtype.kind == "M" else "numpy.timedelta64"
            unit, factor = np.datetime_data(dtype)
            return {"name": name, "configuration": {"unit": unit, "scale_factor": factor}}
    return dtype.name


def simple_dtype(name: object) -> np.dtype[Any] | None:
    """Return the number type that a configuration of numcodecs calls *name*: `<f4`, `float32`; else None."""
    if not isinstance(name, str):
        return None
    if name in _NAMES:
        return np.dtype(_NAMES[name])
    try:
        return np.dtype(name) if _SIMPLE.match(name) else None
    except TypeError:
        return None


_BY_NAME: Final = {
    **{name: DataType(name, np.dtype(code), is_common=True) for name, code in _NAMES.items()},
    **{name: DataType(name, is_common=True, object_codec=codec) for name, codec in _VARIABLE.items()},
}  # fmt: skip
