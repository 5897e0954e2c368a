"""Arrays and groups as documents of Zarr v3."""

from collections.abc import Mapping, Sequence
from typing import Final

from vzfs.views.acceptance import are_common
from vzfs.views.codecs import CORE, VARIABLE, Codec, names, normalize
from vzfs.views.datatypes import DataType
from vzfs.views.fillvalues import read_fill_value
from vzfs.views.forms import Framed
from vzfs.views.framing import frame_codecs
from vzfs.views.metadata import CONSOLIDATED, ArrayMetadata, GroupMetadata, dump

DOCUMENT: Final = "zarr.json"


def portable_codecs(metadata: ArrayMetadata) -> tuple[tuple[Codec, ...], Framed | None]:
    """Return the codecs of an array in the core vocabulary, and the form that its chunks then have.

    Raises Unsaid if that cannot be.
    """
    codecs = normalize(metadata.codecs, metadata.data_type)
    if names(codecs) <= CORE | VARIABLE:
        return codecs, None
    form, framed = frame_codecs(metadata, codecs)
    return framed, form


def plain_codecs(data_type: DataType) -> tuple[Codec, ...]:
    """Return the codecs of an array whose chunks are plain little-endian bytes."""
    return (Codec("bytes", {"endian": "little"} if data_type.has_order else {}),)


def array_documents(
    metadata: ArrayMetadata, codecs: object, stored: Mapping[str, bytes]
) -> Mapping[str, bytes]:
    """Return the documents of an array with *codecs* in words: the *stored* ones where they say the same.

    `dimension_names` of null, which TensorStore and GDAL refuse, are left out, which means the same.
    """
    fields = dict(metadata.fields)
    has_null = fields.get("dimension_names", ()) is None
    if has_null:
        del fields["dimension_names"]
    if codecs == fields["codecs"] and not has_null:
        return stored
    return {**stored, DOCUMENT: dump({**fields, "codecs": codecs})}


def group_document(metadata: GroupMetadata | None, stored: bytes) -> bytes:
    """Return the document of a group without consolidated metadata, which would speak of stored chunks.

    Without *metadata*, where the *stored* document is not understood, it is shown unless it may have
    some; then it is that of a group of which nothing is known.
    """
    if metadata is None:
        may_have = b"\\u" in stored or CONSOLIDATED.encode() in stored
        return dump({"zarr_format": 3, "node_type": "group"}) if may_have else stored
    if metadata.is_whole:
        return stored
    return dump(metadata.fields)


def is_common(metadata: ArrayMetadata, codecs: Sequence[Codec]) -> bool:
    """Whether zarr-python opens the array with these *codecs*, and any parser of JSON takes its document."""
    fields = metadata.fields
    return (
        metadata.is_strict
        and _is_plain(fields.get("chunk_grid"), "chunk_shape")
        and _is_plain(fields.get("chunk_key_encoding"), "separator")
        and metadata.data_type.is_common
        and _has_fill_value(metadata)
        and are_common(codecs, metadata.data_type, metadata.chunk_shape)
    )


def _is_plain(words: object, field: str) -> bool:
    """Whether an extension point says nothing but *field*, and not by its name alone."""
    return isinstance(words, dict) and words.get("configuration", {}).keys() <= {field}


def _has_fill_value(metadata: ArrayMetadata) -> bool:
    if metadata.data_type.object_codec:
        return isinstance(metadata.fill_value, str)
    return read_fill_value(metadata.fill_value, metadata.data_type) is not None
