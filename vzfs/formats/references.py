"""`References` as bytes: what a process that parses hands over, and what a cache keeps of it.

| bytes | |
|---|---|
| 8 | magic: `VZFSREFS` |
| 4 | format version |
| 4 | length of the head |
| n | msgpack list: nodes, omissions |
| the rest | the manifests, compiled, at a multiple of 8 |

A node is `[path, is an array, documents, originals]`, an omission `[path, reason]`. Grids and keys are
not written: they follow from the documents. Whoever decodes believes nothing: a file may have been
made by a process that parsed a hostile one.
"""

import json
import struct
from collections.abc import Mapping
from typing import Final, NoReturn

import msgpack  # type: ignore[import-untyped]
import numpy as np

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.compiled import decode_compiled, encode_compiled
from vzfs.formats.zarr import MAX_DOCUMENT, parse_array_document
from vzfs.model.manifest import ChunkKind, Manifest
from vzfs.model.references import Omission, References, array_id, whole
from vzfs.model.snapshot import Array, Group, Node, WantedArray

FORMAT_VERSION: Final = 2
"""Part of what is encoded, and of what it is called."""

_MAGIC: Final = b"VZFSREFS"
_PREFIX: Final = struct.Struct("<8sII")
_ALIGNMENT: Final = 8
_DOCUMENT: Final = "zarr.json"
_ORIGINALS: Final = frozenset({".zarray", ".zattrs", ".zgroup"})
_TEXT: Final = "surrogateescape"
"""How text is encoded: a name may have bytes that are no UTF-8."""


def encode_references(references: References) -> memoryview:
    """Return *references* as `decode_references` reads them. Their parts may have 4 GiB."""
    nodes = [
        [node.path, isinstance(node, Array), dict(node.documents), dict(node.originals)]
        for node in references.nodes
    ]
    omissions = [[o.path, o.reason, o.is_loss] for o in references.omissions]
    head: bytes = msgpack.packb([nodes, omissions], unicode_errors=_TEXT)
    start = _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(head)) + head
    start += bytes(-len(start) % _ALIGNMENT)
    return memoryview(b"".join([start, encode_compiled(references.manifests)]))


def decode_references(data: bytes | memoryview, size: int | None = None) -> References:
    """Return the references that *data* are; columns are parts of *data*.

    With *size*, every chunk lies in this data or within so many bytes of one object. Raises
    FormatError if anything is not as it must be.
    """
    view = memoryview(data).toreadonly().cast("B")
    if len(view) < _PREFIX.size:
        _refuse("they are cut short")
    magic, version, length = _PREFIX.unpack_from(view)
    if magic != _MAGIC or version != FORMAT_VERSION or length > len(view) - _PREFIX.size:
        _refuse("they are none")
    end = _PREFIX.size + length
    try:
        nodes, omissions = msgpack.unpackb(view[_PREFIX.size : end], unicode_errors=_TEXT)
        found = tuple(_node(*node) for node in nodes)
        left_out = tuple(_omission(*omission) for omission in omissions)
    except (ValueError, TypeError, LookupError, RecursionError, msgpack.UnpackException) as error:
        _refuse(f"their head is damaged ({type(error).__name__})")
    _check_hierarchy(found)
    wanted = {
        node.id: WantedArray(node.grid, [ref.extents for ref in node.manifests])
        for node in found
        if isinstance(node, Array)
    }
    manifests = decode_compiled(view[end + -end % _ALIGNMENT :], wanted)
    if size is not None:
        for manifest in manifests.values():
            _check_inside(manifest, size)
    return References(found, manifests, left_out)


def _node(path: object, is_array: object, documents: object, originals: object) -> Node:
    if not isinstance(path, str) or not isinstance(is_array, bool):
        raise TypeError
    _check_path(path)
    shown, kept = _documents(documents), _documents(originals)
    if shown.keys() != {_DOCUMENT} or not kept.keys() <= _ORIGINALS:
        _refuse(f"{path[:80]!r} has other documents than a node has")
    _check_json(shown[_DOCUMENT], "array" if is_array else "group")
    if not is_array:
        return Group(path=path, documents=shown, originals=kept)
    layout = parse_array_document(shown[_DOCUMENT])
    if layout.problem:
        _refuse(layout.problem)
    return Array(
        path=path,
        documents=shown,
        originals=kept,
        id=array_id(path),
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=whole(path, layout.grid),
        shard_index=layout.shard_index,
    )


def _omission(path: object, reason: object, is_loss: object) -> Omission:
    if not isinstance(path, str) or not isinstance(reason, str) or not isinstance(is_loss, bool):
        raise TypeError
    return Omission(path, reason, is_loss)


def _documents(value: object) -> Mapping[str, bytes]:
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(document, bytes) and len(document) <= MAX_DOCUMENT
        for name, document in value.items()
    ):
        raise TypeError
    return value


def _check_json(document: bytes, node_type: str) -> None:
    """Raise FormatError unless *document* is strict JSON of such a node."""
    fields = json.loads(document, parse_constant=_not_json)
    if not isinstance(fields, dict) or fields.get("node_type") != node_type:
        _refuse(f"a document is not that of an {node_type}")


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check_path(path: str) -> None:
    """Raise FormatError unless *path* is absolute and canonical."""
    if path == "/":
        return
    head, *segments = path.split("/")
    if head or not segments or "\0" in path or not {"", ".", ".."}.isdisjoint(segments):
        _refuse(f"the path {path[:80]!r} is not canonical")


def _check_hierarchy(nodes: tuple[Node, ...]) -> None:
    """Raise FormatError unless *nodes* are sorted, each once, in groups, below a root."""
    groups: set[str] = set()
    previous: bytes | None = None
    for node in nodes:
        path, here = node.path, array_id(node.path)
        if previous is not None and here <= previous:
            _refuse(f"the node {path[:80]!r} is not in its place")
        previous = here
        if path != "/":
            parent, _, name = path.rpartition("/")
            if (parent or "/") not in groups or name == _DOCUMENT:
                _refuse(f"the node {path[:80]!r} is in no group, or named like a document")
        if isinstance(node, Group):
            groups.add(path)


def _check_inside(manifest: Manifest, size: int) -> None:
    """Raise FormatError unless every chunk is inline, or within *size* bytes."""
    kinds = manifest.kind
    if np.any(kinds == ChunkKind.NATIVE):
        _refuse("a chunk lies in no file")
    rows = kinds == ChunkKind.VIRTUAL
    ends = manifest.offset[rows].astype(np.uint64) + manifest.length[rows].astype(np.uint64)
    if int(ends.max(initial=0)) > size:
        _refuse(f"a chunk ends at {int(ends.max())}, and the file at {size}")


def _refuse(what: str) -> NoReturn:
    raise FormatError(ErrorKind.CORRUPT_METADATA, f"these references are damaged: {what}")
