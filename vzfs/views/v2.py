"""Arrays and groups as documents of Zarr v2: `.zarray`, `.zgroup` and `.zattrs`.

What Zarr v2 has no words for raises `Unsaid`: shards, irregular grids, orders of axes that are
neither C nor F, data types and codecs without a name there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from vzfs.views.codecs import ARRAY_CODECS, BYTES_CODECS, VARIABLE, Codec
from vzfs.views.datatypes import DataType, Endian, v2_words
from vzfs.views.fillvalues import (
    ATTRIBUTE,
    Scalar,
    is_same,
    is_zero,
    plain,
    read_attribute,
    read_fill_value,
    v2_fill_value,
)
from vzfs.views.metadata import ArrayMetadata, GroupMetadata, Unsaid, dump, load
from vzfs.views.v2codecs import COMPRESSORS, codec_words, memory_order

ARRAY: Final = ".zarray"
GROUP: Final = ".zgroup"
ATTRIBUTES: Final = ".zattrs"
CONSOLIDATED: Final = ".zmetadata"
NAMES: Final = frozenset({ARRAY, GROUP, ATTRIBUTES, CONSOLIDATED})
"""Names that no node can have where documents are those of Zarr v2."""

DIMENSIONS: Final = "_ARRAY_DIMENSIONS"
"""The attribute in which xarray and others look for the names of dimensions."""


def array_documents(
    metadata: ArrayMetadata,
    codecs: Sequence[Codec],
    separator: Literal["/", "."],
    *,
    is_complete: bool,
) -> Mapping[str, bytes]:
    """Return the documents of an array with these normalized *codecs*; *is_complete* if no chunk is missing.

    Raises Unsaid.
    """
    before, serializer, after = _split(codecs)
    if serializer.name == "sharding_indexed":
        raise Unsaid("Zarr v2 has no shards")
    endian = _endian(serializer, metadata.data_type)
    transposes = [codec for codec in before if codec.name == "transpose"]
    if list(before[: len(transposes)]) != transposes:
        raise Unsaid("Zarr v2 cannot transpose what has been through another codec")
    order = memory_order(transposes, len(metadata.shape))
    if order is None:
        raise Unsaid("Zarr v2 has no other orders of axes than C and F")
    filters = [*before[len(transposes) :], *after]
    if len(before) > len(transposes) and endian == "big":
        raise Unsaid("Zarr v2 has no byte order for what a filter makes")
    if serializer.name in VARIABLE:
        filters.insert(0, serializer)
    words = [_codec_words(codec, metadata.data_type) for codec in filters]
    compressor = words.pop() if words and _compresses(words[-1]) else None
    fill_value, attributes = _missing(metadata, endian, is_complete=is_complete)
    document = {
        "zarr_format": 2,
        "shape": metadata.shape,
        "chunks": metadata.chunk_shape,
        "dtype": _dtype(metadata.data_type, endian),
        "compressor": compressor,
        "fill_value": fill_value,
        "order": order,
        "filters": words or None,
        # Of an array without dimensions no key has a separator, and GDAL 3.6 ends at another.
        "dimension_separator": separator if metadata.shape else ".",
    }
    return {ARRAY: dump(document), ATTRIBUTES: dump(attributes)}


def group_documents(metadata: GroupMetadata | None) -> Mapping[str, bytes]:
    """Return the documents of a group, or those of one of which nothing is known."""
    attributes = {}
    if metadata is not None:
        attributes = _sayable(metadata.attributes, is_strict=metadata.is_strict)
    return {GROUP: dump({"zarr_format": 2}), ATTRIBUTES: dump(attributes)}


class Originals(NamedTuple):
    """The documents of a node as they were found. *is_strict* if every parser of JSON takes them.

    *separator* is the one that the keys of an array's chunks have.
    """

    documents: Mapping[str, bytes]
    separator: Literal["/", "."]
    is_strict: bool


def original_array(originals: Mapping[str, bytes]) -> Originals:
    """Return the documents of an array that was found in Zarr v2. Raises Unsaid."""
    fields, is_strict = load(originals[ARRAY])
    separator = fields.get("dimension_separator", ".")
    if separator not in ("/", "."):
        raise Unsaid("its separator of dimensions is neither '/' nor '.'")
    found = {name: originals[name] for name in (ARRAY, ATTRIBUTES) if name in originals}
    return Originals(found, separator, is_strict and _is_strict(found.get(ATTRIBUTES, b"{}")))


def original_group(originals: Mapping[str, bytes]) -> Originals:
    """Return the documents of a group that was found in Zarr v2, with one that says that it is a group."""
    made = group_documents(None)[GROUP]
    found = {name: originals[name] for name in (GROUP, ATTRIBUTES) if name in originals}
    documents = {GROUP: made, **found}
    return Originals(documents, ".", all(map(_is_strict, documents.values())))


def _is_strict(document: bytes) -> bool:
    try:
        return load(document)[1]
    except Unsaid:
        return False


def is_common(codecs: Sequence[Codec]) -> bool:
    """Whether zarr-python opens an array that could be said with these *codecs*."""
    return not any(codec.name.startswith("imagecodecs_") for codec in codecs)


def _split(codecs: Sequence[Codec]) -> tuple[Sequence[Codec], Codec, Sequence[Codec]]:
    """Return the codecs that make arrays, the one that makes bytes of them, and those behind it."""
    for at, codec in enumerate(codecs):
        if codec.name in BYTES_CODECS:
            return codecs[:at], codec, codecs[at + 1 :]
        if codec.name not in ARRAY_CODECS:
            raise Unsaid(f"Zarr v2 has no name for {codec.name[:40]}")
    raise Unsaid("no codec makes bytes of it")


def _endian(serializer: Codec, data_type: DataType) -> Endian:
    match serializer.configuration.get("endian"):
        case "big" if data_type.has_order:
            return "big"
        case "little" | "big":
            return "little"
        case None if not data_type.has_order or _is_structure(data_type):
            return "little"
    raise Unsaid("it does not say its order of bytes")


def _is_structure(data_type: DataType) -> bool:
    """Whether an order of bytes may be missing: zarr-python then takes little-endian."""
    return data_type.numpy is not None and data_type.numpy.names is not None


def _dtype(data_type: DataType, endian: Endian) -> object:
    if data_type.object_codec:
        return "|O"
    if data_type.numpy is None:
        raise Unsaid("Zarr v2 has no name for its data type")
    return v2_words(data_type.ordered(endian))


def _codec_words(codec: Codec, data_type: DataType) -> Mapping[str, object]:
    words = codec_words(codec, data_type)
    if words is None:
        raise Unsaid(f"Zarr v2 has no name for {codec.name[:40]}")
    return words


def _compresses(words: Mapping[str, object]) -> bool:
    id_ = str(words["id"])
    return id_ in COMPRESSORS or (id_.startswith("imagecodecs_") and id_ not in ARRAY_CODECS)


# -- missing chunks and missing values -------------------------------------------------------------


def _missing(
    metadata: ArrayMetadata, endian: Endian, *, is_complete: bool
) -> tuple[object, Mapping[str, object]]:
    """Return the fill value and the attributes of an array.

    For readers of Zarr v2 its fill value also is what marks missing values. So it is the attribute
    `_FillValue`, unless missing chunks are zero and the attribute can say it alone: then it is null,
    which marks nothing, if no chunk is missing. Some readers take null for whatever is in memory, so
    it is zero where chunks are missing. The attribute becomes a number, which is what netCDF takes.
    """
    attributes = _sayable(metadata.attributes, is_strict=metadata.is_strict)
    if metadata.dimension_names is not None and None not in metadata.dimension_names:
        attributes[DIMENSIONS] = metadata.dimension_names
    elif not metadata.shape:
        attributes[DIMENSIONS] = []
    data_type = metadata.data_type
    if data_type.object_codec:
        said = metadata.fill_value
        return (said if isinstance(said, str) and said else None), attributes
    stored = read_fill_value(metadata.fill_value, data_type)
    words = metadata.attributes.get(ATTRIBUTE)
    declared = None if words is None else read_attribute(words, data_type)
    if ATTRIBUTE in attributes:
        said = words if declared is None else plain(declared)
        if isinstance(said, str) and data_type.numpy is not None and data_type.numpy.kind != "U":
            said = None
        if said is None:
            del attributes[ATTRIBUTE]
        else:
            attributes[ATTRIBUTE] = said
    value = _fill_value(stored, declared, is_complete=is_complete)
    return None if value is None else v2_fill_value(value, endian), attributes


def _fill_value(
    stored: Scalar | None, declared: Scalar | None, *, is_complete: bool
) -> Scalar | None:
    if stored is None or declared is None:
        is_unsaid = stored is not None and is_zero(stored) and is_complete
        return None if is_unsaid else stored if declared is None else declared
    if is_same(stored, declared) or not is_zero(stored):
        return declared
    is_nan = declared.dtype.kind == "f" and math.isnan(declared)
    if not (is_nan or plain(declared) is not None):
        return declared
    return None if is_complete else stored


def _sayable(attributes: Mapping[str, object], *, is_strict: bool) -> dict[str, object]:
    """Return *attributes* without those that would keep netCDF-C from the whole hierarchy.

    It opens none with an empty list, ends in the middle of a list that begins with a number and goes
    on with text, and knows no numbers that JSON does not have.
    """
    return {
        name: value
        for name, value in attributes.items()
        if not (isinstance(value, list) and _is_odd(value)) and (is_strict or _is_finite(value))
    }


def _is_odd(values: Sequence[object]) -> bool:
    return not values or (
        isinstance(values[0], int | float) and any(isinstance(value, str) for value in values)
    )


def _is_finite(value: object) -> bool:
    pending = [value]
    while pending:
        match pending.pop():
            case float(number) if not math.isfinite(number):
                return False
            case list(items):
                pending.extend(items)
            case dict(items):
                pending.extend(items.values())
    return True
