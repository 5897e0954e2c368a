"""The documents of Zarr v2 in the words of Zarr v3, for readers who see the same values.

Chunk keys are the default ones of Zarr v3, whatever they are in the source: keys are virtual. xarray
takes the fill value of Zarr v2 for the mark of missing values, and in Zarr v3 the attribute
`_FillValue` in words of its own; so that is added. Documents are hostile: what cannot be said raises
`Unsaid`.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from vzfs.views.datatypes import DataType, Endian, read_data_type, read_v2_data_type
from vzfs.views.fillvalues import (
    ATTRIBUTE,
    Scalar,
    read_attribute,
    read_v2_fill_value,
    v3_fill_value,
    xarray_words,
)
from vzfs.views.fromv2codecs import OBJECT_CODECS, read_filters, v3_codecs
from vzfs.views.metadata import Unsaid, dump, lengths, load
from vzfs.views.v2 import DIMENSIONS

_MISSING: Final = "missing_value"
_NCZARR: Final = ("_nczarr_array", "_NCZARR_ARRAY")
"""Where netCDF-C says the names of dimensions, with their groups."""


def array_from_v2(zarray: bytes, zattrs: bytes | None) -> bytes:
    """Return the `zarr.json` of an array with these documents. Raises Unsaid with the reason."""
    fields = _load(zarray, ".zarray")
    attributes = _attributes(zattrs)
    _check_version(fields)
    shape = lengths(fields.get("shape"), "shape", 0)
    # Zarr's own readers take a length of 0, which was written for empty arrays, for 1.
    chunks = [max(length, 1) for length in lengths(fields.get("chunks"), "chunk shape", 0)]
    if len(chunks) != len(shape):
        raise Unsaid("its shape and its chunks differ in dimensions")
    filters = read_filters(fields.get("filters"), fields.get("compressor"))
    data_type, endian = _data_type(fields.get("dtype"), filters)
    axes = len(shape) if _order(fields) == "F" else 0
    codecs = v3_codecs(filters, data_type, endian, axes)
    names = _dimension_names(fields, attributes, len(shape))
    fill_value = _missing(fields.get("fill_value"), attributes, data_type, endian)
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type.words,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": [_strict(codec.words) for codec in codecs],
        "attributes": _strict(attributes),
    }
    if names is not None:
        document["dimension_names"] = names
    return dump(document)


def group_from_v2(zattrs: bytes | None) -> bytes:
    """Return the `zarr.json` of a group with these attributes. Raises Unsaid with the reason."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": _strict(_attributes(zattrs))}
    return dump(document)


def _load(document: bytes, name: str) -> dict[str, Any]:
    try:
        return load(document)[0]
    except Unsaid as why:
        raise Unsaid(f"{name}: {why}") from None


def _attributes(zattrs: bytes | None) -> dict[str, Any]:
    return {} if zattrs is None else _load(zattrs, ".zattrs")


def _check_version(fields: Mapping[str, Any]) -> None:
    version = fields.get("zarr_format")
    if type(version) is not int or version != 2:
        raise Unsaid("its document does not describe a Zarr v2 array")


def _order(fields: Mapping[str, Any]) -> Literal["C", "F"]:
    match fields.get("order"):
        case "C":
            return "C"
        case "F":
            return "F"
    raise Unsaid("its order of elements is neither C nor F")


def _data_type(words: object, filters: Sequence[Mapping[str, Any]]) -> tuple[DataType, Endian]:
    if words == "|O":
        name = OBJECT_CODECS.get(filters[0]["id"]) if filters else None
        if name is None:
            raise Unsaid(
                "Zarr v3 has no name for its objects, which no filter makes bytes of first"
            )
        return read_data_type(name), "little"
    found = read_v2_data_type(words)
    if found is None:
        raise Unsaid(f"Zarr v3 has no name for its data type {_cut(words)}")
    return found


def _cut(words: object) -> str:
    return json.dumps(words)[:40]


# -- dimensions ------------------------------------------------------------------------------------


def _dimension_names(
    fields: Mapping[str, Any], attributes: dict[str, Any], ndim: int
) -> Sequence[str] | None:
    """Return the names of dimensions, and take them out of the *attributes*; None if there are none."""
    found = attributes.get(DIMENSIONS)
    if _are_names(found, ndim):
        del attributes[DIMENSIONS]
        return found
    for words in (*map(attributes.get, _NCZARR), *map(fields.get, _NCZARR)):
        if isinstance(words, dict):
            for key in ("dimension_references", "dimrefs"):
                if _are_names(words.get(key), ndim):
                    return [name.rpartition("/")[2] for name in words[key]]
    return None


def _are_names(value: object, ndim: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == ndim
        and all(isinstance(name, str) for name in value)
    )


# -- missing chunks and missing values -------------------------------------------------------------


def _missing(
    words: object, attributes: dict[str, Any], data_type: DataType, endian: Endian
) -> object:
    """Return the fill value in the words of Zarr v3, and have the *attributes* say what is missing data.

    A `_FillValue` that xarray has no words for, so that it would open nothing, becomes `missing_value`,
    which it takes as it is. A `missing_value` of NaN, which marks what is marked without it, goes.
    """
    declared = attributes.pop(ATTRIBUTE, None)
    if _is_nan(attributes.get(_MISSING)):
        del attributes[_MISSING]
    said: object = None
    fill_value: object
    if data_type.object_codec:
        fill_value = _object_fill_value(words, data_type)
        verbatim = declared
        if words is not None and data_type.object_codec == "vlen-utf8":
            verbatim = fill_value
    else:
        value = read_v2_fill_value(words, data_type, endian)
        if value is None:
            raise Unsaid(f"its fill value {_cut(words)} is none of its data type")
        fill_value = v3_fill_value(value)
        if words is None:
            said, verbatim = _declared(declared, data_type), declared
        else:
            value = _signed(value, attributes)
            said, verbatim = xarray_words(value), str(value) if value.dtype.kind == "U" else None
    if said is not None:
        attributes[ATTRIBUTE] = said
    elif verbatim is not None and not _is_nan(verbatim) and _MISSING not in attributes:
        attributes[_MISSING] = verbatim
    return fill_value


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _declared(words: object, data_type: DataType) -> object:
    """Return what xarray is to take for a `_FillValue` attribute, or None if that cannot be said so."""
    kind = data_type.numpy.kind if data_type.numpy is not None else ""
    if isinstance(words, list) and len(words) == 1:
        words = words[0]
    value = read_attribute(words, data_type)
    if value is not None:
        return xarray_words(value)
    match kind, words:
        # It may be that of integers which an attribute declares to be unsigned.
        case (("i" | "u"), int()) if not isinstance(words, bool):
            return words
        case "b", (0 | 1):
            return bool(words)
    return None


def _signed(value: Scalar, attributes: Mapping[str, Any]) -> Scalar:
    """Return a fill value as the attribute `_Unsigned` says it, if it says that integers have a sign."""
    if value.dtype.kind == "u" and attributes.get("_Unsigned") == "false":
        return value.view(f"<i{value.dtype.itemsize}")
    return value


def _object_fill_value(words: object, data_type: DataType) -> str:
    """Return what stands for text or bytes that are missing: nothing, where it is not said or a number."""
    if isinstance(words, str):
        if data_type.object_codec == "vlen-bytes":
            _check_base64(words)
        return words
    if words is None or (isinstance(words, int | float) and data_type.object_codec == "vlen-bytes"):
        return ""
    if isinstance(words, int | float):
        return str(words)
    raise Unsaid("its fill value is none of its data type")


def _check_base64(words: str) -> None:
    try:
        base64.b64decode(words, validate=True)
    except ValueError:
        raise Unsaid("its fill value is not base64") from None


# -- strict JSON -----------------------------------------------------------------------------------


def _strict(value: Any) -> Any:  # noqa: ANN401 -- any JSON
    """Return *value* with the words of Zarr v3 for the numbers that JSON has not. It is not nested deeply."""
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case list():
            return [_strict(item) for item in value]
        case dict():
            return {key: _strict(item) for key, item in value.items()}
    return value
