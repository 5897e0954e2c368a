"""An array in a view: its documents, and the form of its chunks, from its stored document alone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from vzfs.model.chunkgrid import ChunkKeyEncoding, KeyStyle
from vzfs.model.snapshot import Array, Node
from vzfs.views import netcdf, v2, v3
from vzfs.views.codecs import DECODABLE, Codec, is_chain, names, normalize
from vzfs.views.datatypes import v3_words
from vzfs.views.fillvalues import read_fill_value, v2_fill_value
from vzfs.views.forms import Decoded, Form
from vzfs.views.metadata import ArrayMetadata, Unsaid, canonical, read_v3_array
from vzfs.views.view import View, ViewName

MAX_DECODED: Final = 2**30
"""Bytes of a decoded chunk."""


class Shown(NamedTuple):
    """What is shown of a node.

    *is_sound* says that it may stand in consolidated metadata: common readers open it, or would at
    least open what is beside it.
    """

    node: Node
    is_shown: bool = True
    form: Form | None = None
    remark: str = ""
    is_sound: bool = True


class Asked(NamedTuple):
    """How an array is to be shown.

    *decodable* are the names of codecs that can be decoded. *is_complete* if none of its chunks is
    missing.
    """

    view: View
    decodable: AbstractSet[str]
    is_complete: bool


def show_array(node: Array, asked: Asked) -> Shown:
    """Return *node* as it is *asked* for."""
    view = asked.view
    try:
        metadata = _read(node)
    except Unsaid as why:
        is_kept = view.zarr_format == 3 and view.name is not ViewName.DECODED
        return Shown(node, is_kept, None, str(why), is_sound=False)
    try:
        match view.name:
            case ViewName.STORED:
                return _stored(node, metadata, asked)
            case ViewName.PORTABLE:
                return _portable(node, metadata, asked)
            case ViewName.DECODED:
                return _decoded(node, metadata, asked)
    except Unsaid as why:
        return Shown(node, is_shown=False, remark=str(why), is_sound=False)


def _read(node: Array) -> ArrayMetadata:
    if node.problem:
        raise Unsaid(node.problem)
    return read_v3_array(node.documents.get(v3.DOCUMENT, b""))


def _stored(node: Array, metadata: ArrayMetadata, asked: Asked) -> Shown:
    if v2.ARRAY in node.originals:
        return _original(node, metadata)
    return _in_v2(node, metadata, normalize(metadata.codecs, metadata.data_type), None, asked)


def _original(node: Array, metadata: ArrayMetadata, remark: str = "") -> Shown:
    """Return an array of Zarr v2 byte for byte, with the keys that its document names."""
    documents, separator, is_strict = v2.original_array(node.originals)
    is_sound = is_strict and v3.is_common(metadata, metadata.codecs)
    encoding = ChunkKeyEncoding(KeyStyle.V2, separator)
    node = dataclasses.replace(node, documents=documents, key_encoding=encoding)
    return Shown(node, remark=remark, is_sound=is_sound)


def _portable(node: Array, metadata: ArrayMetadata, asked: Asked) -> Shown:
    form: Form | None
    try:
        codecs, form = v3.portable_codecs(metadata)
    except Unsaid as why:
        if asked.view.zarr_format == 3:
            is_sound = v3.is_common(metadata, metadata.codecs) and all(
                codec.words == codec.stored for codec in metadata.codecs
            )
            documents = v3.array_documents(metadata, metadata.fields["codecs"], node.documents)
            return Shown(_with(node, documents), remark=str(why), is_sound=is_sound)
        if v2.ARRAY in node.originals:
            return _original(node, metadata, str(why))
        codecs, form = normalize(metadata.codecs, metadata.data_type), None
        return _in_v2(node, metadata, codecs, form, asked, str(why))
    if asked.view.zarr_format == 2:
        return _in_v2(node, metadata, codecs, form, asked)
    return _in_v3(node, metadata, codecs, form)


def _decoded(node: Array, metadata: ArrayMetadata, asked: Asked) -> Shown:
    codecs: Sequence[Codec] = normalize(metadata.codecs, metadata.data_type)
    form = None
    kept = netcdf.kept(metadata) if asked.view.zarr_format == 2 else metadata.chunk_shape
    if kept != metadata.chunk_shape or not _is_plain(codecs, metadata):
        form = _form(codecs, metadata, kept, asked.decodable)
        codecs = v3.plain_codecs(metadata.data_type)
    if asked.view.zarr_format == 2:
        netcdf.check(metadata)
        return _in_v2(node, metadata._replace(chunk_shape=kept), codecs, form, asked)
    return _in_v3(node, metadata, codecs, form)


def _is_plain(codecs: Sequence[Codec], metadata: ArrayMetadata) -> bool:
    """Whether chunks are plain little-endian bytes as they are."""
    if len(codecs) != 1 or codecs[0].name != "bytes":
        return False
    endian = codecs[0].configuration.get("endian")
    data_type = metadata.data_type
    return endian == "little" or (data_type.numpy is not None and not data_type.has_order)


def _form(
    codecs: Sequence[Codec],
    metadata: ArrayMetadata,
    kept: Sequence[int],
    decodable: AbstractSet[str],
) -> Decoded:
    dtype = metadata.data_type.numpy
    if dtype is None:
        raise Unsaid("its data type is of variable size, or not known")
    used = names(codecs)
    unknown = sorted(used - decodable)
    if unknown:
        raise Unsaid(f"{', '.join(name[:40] for name in unknown[:6])} cannot be decoded here")
    if used <= DECODABLE and not is_chain(codecs, metadata.data_type):
        raise Unsaid("its codecs do not follow each other so")
    if metadata.nbytes > MAX_DECODED:
        raise Unsaid(f"its chunks have more than {MAX_DECODED} bytes when they are decoded")
    fill_value = read_fill_value(metadata.fill_value, metadata.data_type)
    if fill_value is None:
        raise Unsaid("its fill value is none of its data type")
    spec: dict[str, object] = {
        "shape": metadata.chunk_shape,
        "data_type": v3_words(dtype),
        "codecs": [codec.words for codec in codecs],
        "fill_value": v2_fill_value(fill_value, "little"),
    }
    if kept != metadata.chunk_shape:
        spec["kept"] = kept
    return Decoded(math.prod(kept) * dtype.itemsize, canonical(spec))


def _in_v3(
    node: Array, metadata: ArrayMetadata, codecs: Sequence[Codec], form: Form | None
) -> Shown:
    documents = v3.array_documents(metadata, [c.words for c in codecs], node.documents)
    is_sound = v3.is_common(metadata, codecs)
    return Shown(_with(node, documents), form=form, is_sound=is_sound)


def _with(node: Array, documents: Mapping[str, bytes]) -> Array:
    if documents is node.documents:
        return node
    return dataclasses.replace(node, documents=documents)


def _in_v2(
    node: Array,
    metadata: ArrayMetadata,
    codecs: Sequence[Codec],
    form: Form | None,
    asked: Asked,
    remark: str = "",
) -> Shown:
    encoding = ChunkKeyEncoding(KeyStyle.V2, node.key_encoding.separator)
    documents = v2.array_documents(
        metadata, codecs, encoding.separator, is_complete=asked.is_complete
    )
    node = dataclasses.replace(node, documents=documents, key_encoding=encoding)
    return Shown(node, form=form, remark=remark, is_sound=v2.is_common(codecs))
