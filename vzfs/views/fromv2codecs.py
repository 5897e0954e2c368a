"""Filters and compressor of Zarr v2 as the codecs of Zarr v3 that make the same bytes.

A filter of Zarr v2 takes bytes for numbers by itself, wherever it stands. In Zarr v3 those that work
on numbers come first, one codec makes bytes of their result, and the rest works on bytes. What fits
no such order raises `Unsaid`. A filter that nobody here knows keeps its id and its configuration.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from vzfs.views.codecs import ARRAY_CODECS, DECODABLE, VARIABLE, Codec, normalize
from vzfs.views.datatypes import DataType, Endian, simple_dtype
from vzfs.views.metadata import Unsaid

MAX_CODECS: Final = 64

OBJECT_CODECS: Final[Mapping[str, str]] = {"vlen-utf8": "string", "vlen-bytes": "variable_length_bytes"}  # fmt: skip
"""The filters that make bytes of objects and that Zarr v3 has too, with the data types they are for."""

_UNSAYABLE: Final = frozenset(
    {"categorize", "json", "json2", "msgpack", "msgpack2", "pickle", "vlen-array"}
)
"""Filters for objects that Zarr v3 has no data types for. Unpickling runs whatever the bytes say."""

_SERIALIZERS: Final = frozenset({"grib", "pcodec", "zfpy"})
"""Filters that make bytes of numbers, and stand for the codec `bytes`."""


def read_filters(filters: object, compressor: object) -> tuple[Mapping[str, Any], ...]:
    """Return the codecs of a Zarr v2 document in the order in which they encode. Raises Unsaid."""
    if filters is None:
        filters = []
    if not isinstance(filters, list) or len(filters) > MAX_CODECS:
        raise Unsaid("it has a malformed list of filters")
    found = [*filters, compressor] if compressor is not None else filters
    for words in found:
        if not isinstance(words, dict) or not isinstance(words.get("id"), str) or not words["id"]:
            raise Unsaid("it has a filter or compressor without an id")
        if words["id"] in _UNSAYABLE:
            raise Unsaid(f"Zarr v3 has no name for what the filter {words['id']} makes")
    return tuple(found)


def v3_codecs(
    filters: Sequence[Mapping[str, Any]], data_type: DataType, endian: Endian, axes: int
) -> tuple[Codec, ...]:
    """Return the codecs for *filters* of an array of *data_type*; *axes* are how many to reverse, if more than one.

    Raises Unsaid.
    """
    codecs = []
    if axes > 1:
        codecs.append(Codec("transpose", {"order": list(reversed(range(axes)))}))
    if data_type.object_codec:
        # It is the first filter, or there would be no such data type.
        codecs.append(Codec(data_type.object_codec))
        return (*codecs, *_of_bytes(filters[1:], data_type))
    at = 1 + max((i for i, words in enumerate(filters) if _makes_numbers(words["id"])), default=-1)
    stage = data_type.ordered(endian)
    for words in filters[:at]:
        codec, stage = _of_numbers(words, stage)
        codecs.append(codec)
    if at < len(filters) and filters[at]["id"] in _SERIALIZERS:
        if stage.newbyteorder("<") != stage:
            raise Unsaid(f"Zarr v3 has no order of bytes for what {filters[at]['id']} makes")
        codecs.append(_named(filters[at]))
        at += 1
    else:
        codecs.append(_to_bytes(stage))
    return (*codecs, *_of_bytes(filters[at:], data_type))


def _makes_numbers(id_: str) -> bool:
    return f"numcodecs.{id_}" in ARRAY_CODECS or id_ in ARRAY_CODECS


def _named(words: Mapping[str, Any]) -> Codec:
    """Return the codec with its id and what is said in its configuration; null says nothing."""
    id_ = words["id"]
    name = id_ if id_.startswith("imagecodecs_") else f"numcodecs.{id_}"
    said = {key: value for key, value in words.items() if key != "id" and value is not None}
    return Codec(name, said)


def _to_bytes(stage: np.dtype[Any]) -> Codec:
    if stage.newbyteorder(">") == stage.newbyteorder("<"):
        return Codec("bytes")
    return Codec("bytes", {"endian": "little" if stage.newbyteorder("<") == stage else "big"})


# -- filters that make bytes of bytes --------------------------------------------------------------


def _of_bytes(filters: Sequence[Mapping[str, Any]], data_type: DataType) -> tuple[Codec, ...]:
    codecs = []
    for words in filters:
        id_ = words["id"]
        if id_ in VARIABLE or id_ in _SERIALIZERS or _makes_numbers(id_):
            raise Unsaid(f"Zarr v3 has no filter {id_[:40]} behind one that makes bytes")
        codec = _named(words)
        if id_ == "shuffle":
            # Zarr v3 takes the size of the data type where none is said.
            codec = Codec(codec.name, {"elementsize": 4, **codec.configuration})
        codecs.append(codec)
    return normalize(codecs, data_type)


# -- filters that make numbers of numbers ----------------------------------------------------------

_GIVEN: Final = {
    "astype": "decode_dtype",
    "delta": "dtype",
    "fixedscaleoffset": "dtype",
    "quantize": "dtype",
}
_MADE: Final = {"astype": "encode_dtype", "delta": "astype", "fixedscaleoffset": "astype"}
"""Where a filter says the data type of what it is given, and of what it makes of it."""
_REQUIRED: Final = {
    "astype": ("encode_dtype", "decode_dtype"),
    "bitround": ("keepbits",),
    "delta": ("dtype",),
    "fixedscaleoffset": ("offset", "scale", "dtype"),
    "quantize": ("digits", "dtype"),
}


def _of_numbers(words: Mapping[str, Any], stage: np.dtype[Any]) -> tuple[Codec, np.dtype[Any]]:
    """Return the codec for a filter that is given numbers of the type *stage*, and the type that it makes.

    In Zarr v3 the order of bytes is said by the codec `bytes` alone.
    """
    id_ = words["id"]
    codec = _named(words)
    if f"numcodecs.{id_}" in DECODABLE - ARRAY_CODECS or id_ in _SERIALIZERS:
        raise Unsaid(f"Zarr v3 has no filter {id_} before one that makes numbers")
    if not _makes_numbers(id_) or id_.startswith("imagecodecs_"):
        return codec, stage
    configuration = dict(codec.configuration)
    missing = [key for key in _REQUIRED.get(id_, ()) if key not in configuration]
    if missing:
        raise Unsaid(f"its filter {id_} does not say {missing[0]}")
    types = {key: _dtype(configuration, key) for key in ("dtype", "astype", "encode_dtype", "decode_dtype")}  # fmt: skip
    if id_ in _GIVEN and types[_GIVEN[id_]] != stage:
        raise Unsaid(f"its filter {id_} takes bytes for numbers of another type than they are")
    if id_ == "quantize" and types["astype"] not in (None, stage):
        raise Unsaid("Zarr v3 cannot say that quantized numbers are of another type")
    if id_ == "packbits" and stage != np.dtype(bool):
        raise Unsaid("Zarr v3 packs the bits of truth values alone")
    if id_ == "bitround" and stage.kind != "f":
        raise Unsaid("bits are rounded of numbers that are no floating-point numbers")
    made = np.dtype(np.uint8) if id_ == "packbits" else types.get(_MADE.get(id_, "")) or stage
    spelled = {key: dtype.newbyteorder("<").str for key, dtype in types.items() if dtype is not None}  # fmt: skip
    return Codec(codec.name, {**configuration, **spelled}), made


def _dtype(configuration: Mapping[str, Any], key: str) -> np.dtype[Any] | None:
    if key not in configuration:
        return None
    dtype = simple_dtype(configuration[key])
    if dtype is None:
        raise Unsaid("a filter is for a data type that is none of numbers")
    return dtype
