"""Snapshot files: the whole hierarchy at one moment, with the manifests that speak for each array.

What would make a path ambiguous is refused for the whole file (two nodes of one path, a node below
an array, a node named like a document). What concerns one array alone becomes its `problem`.
"""

import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from vzfs.formats.icechunk.envelope import FileType, corrupt, open_envelope, unsupported
from vzfs.formats.icechunk.extents import overlap
from vzfs.formats.icechunk.flatbuffer import Buffer, Table
from vzfs.formats.icechunk.ids import NODE_ID_LENGTH, OBJECT_ID_LENGTH, encode_id
from vzfs.formats.icechunk.metadata import Allowance, decode_metadata, nanoseconds
from vzfs.formats.zarr import parse_array_document
from vzfs.model.snapshot import Array, Extents, Group, ManifestRef, Node, Snapshot

DOCUMENT: Final = "zarr.json"

MAX_NODES: Final = 2**20
"""Groups and arrays of one snapshot: about a gigabyte, with the tree that is made of them."""

_RANGE: Final = struct.Struct("<II")
_SHAPE_V1: Final = struct.Struct("<QQ")
_FILE_V1: Final = struct.Struct(f"<{OBJECT_ID_LENGTH}B4xQI4x")
_ARRAY, _GROUP = 1, 2
"""The kinds of nodes: cases of a union, of which 0 is none."""


def decode_snapshot(data: bytes, *, expected_id: str | None = None) -> Snapshot:
    """Decode one file of `snapshots/`, which must say that it is *expected_id* where that is given.

    Raises FormatError.
    """
    envelope = open_envelope(data, FileType.SNAPSHOT)
    root = Buffer(envelope.payload).root()
    parent = root.fixed(1, OBJECT_ID_LENGTH)
    _, count = root.required_vector(2, 4)
    if count > MAX_NODES:
        raise unsupported(f"the snapshot has more than {MAX_NODES} nodes", "")
    volumes: Counter[str] = Counter()
    nodes = [_node(table, volumes) for table in root.required_tables(2)]
    nodes.sort(key=lambda node: node.path.encode())
    _check_hierarchy(nodes)
    id_ = encode_id(root.required_fixed(0, OBJECT_ID_LENGTH))
    if expected_id is not None and id_ != expected_id:
        raise corrupt(f"the snapshot should be {expected_id} and is {id_}")
    return Snapshot(
        id=id_,
        written_at=nanoseconds(root.u64(3)),
        message=root.required_string(4),
        metadata=decode_metadata(root.required_tables(5), Allowance(envelope.spec_version)),
        nodes=tuple(nodes),
        parent=None if parent is None else encode_id(parent),
        full=_full(root, volumes),
    )


def _full(root: Table, volumes: Counter[str]) -> frozenset[str]:
    """Return the files that count as many refs as there are chunks in the regions for which they speak.

    A file's count is of all its refs, of whatever array. So a file that speaks for *volumes* chunks,
    of whatever arrays, and has as many refs, lacks none of them. One that is counted in two ways
    says nothing.
    """
    counts: dict[str, int] = {}
    for id_, count in _counts(root):
        known = counts.setdefault(encode_id(id_), count)
        if known != count:
            counts[encode_id(id_)] = -1
    return frozenset(id_ for id_, volume in volumes.items() if counts.get(id_) == volume)


def _counts(root: Table) -> Iterator[tuple[bytes, int]]:
    """Yield the manifest files that the snapshot lists, and how many refs it says that each has."""
    for *id_, _, count in root.structs(6, _FILE_V1) or ():
        yield bytes(id_), count
    for table in root.tables(7):
        found = table.fixed(0, OBJECT_ID_LENGTH)
        if found is not None:
            yield found, table.u32(2)


def _node(table: Table, volumes: Counter[str]) -> Node:
    path = table.required_string(1)
    _check_path(path)
    documents = {DOCUMENT: table.required_blob(2)}
    kind = table.u8(3)
    if kind == _ARRAY:
        id_ = table.required_fixed(0, NODE_ID_LENGTH)
        return _array(id_, path, documents, table.required_table(4), volumes)
    if kind == _GROUP:
        return Group(path=path, documents=documents)
    if not kind:
        raise corrupt(f"the node {path[:80]!r} is neither an array nor a group")
    raise unsupported(f"the node {path[:80]!r} is of kind {kind}, which is unknown")


def _array(
    id_: bytes, path: str, documents: dict[str, bytes], table: Table, volumes: Counter[str]
) -> Array:
    num_chunks = _num_chunks(table)
    layout = parse_array_document(documents[DOCUMENT], num_chunks)
    manifests = tuple(_manifest_refs(table.required_tables(2)))
    for ref in manifests:
        volumes[ref.id] += math.prod(high - low for low, high in ref.extents.ranges)
    extents = [ref.extents for ref in manifests]
    ndim = len(layout.grid.shape)
    problem = layout.problem
    if any(len(e.ranges) != ndim for e in extents):
        manifests = ()
        problem = problem or "a manifest covers another number of dimensions than the array has"
    elif overlap(extents):
        problem = problem or "two manifests claim the same chunks"
    return Array(
        path=path,
        documents=documents,
        id=id_,
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=manifests,
        problem=problem,
        shard_index=layout.shard_index,
    )


def _num_chunks(table: Table) -> list[int]:
    """Return how many chunks the file itself counts along each dimension."""
    if table.vector(3, 4) is not None:
        return [dimension.u32(1) for dimension in table.tables(3)]
    shape = table.structs(0, _SHAPE_V1) or []
    return [-(-length // chunk) if chunk else 0 for length, chunk in shape]


def _manifest_refs(tables: Iterable[Table]) -> Iterable[ManifestRef]:
    for table in tables:
        ranges = table.structs(1, _RANGE)
        if ranges is None:
            raise corrupt("a reference to a manifest lacks its extents")
        if any(low > high for low, high in ranges):
            raise corrupt("the extents of a manifest end before they begin")
        extents = Extents(tuple((low, high) for low, high in ranges))
        yield ManifestRef(encode_id(table.required_fixed(0, OBJECT_ID_LENGTH)), extents)


def _check_path(path: str) -> None:
    """Raise FormatError unless *path* is absolute and canonical."""
    if path == "/":
        return
    head, *segments = path.split("/")
    if head or not segments or "\0" in path or not {"", ".", ".."}.isdisjoint(segments):
        raise corrupt(f"the node path {path[:80]!r} is not canonical")


def _check_hierarchy(nodes: Sequence[Node]) -> None:
    """Raise FormatError if names or ids of the sorted *nodes* collide, or a node has no group above it."""
    groups: set[str] = set()
    ids: set[bytes] = set()
    previous = ""
    for node in nodes:
        path = node.path
        if path == previous:
            raise corrupt(f"the snapshot has two nodes at {path[:80]!r}")
        previous = path
        parent, _, name = path.rpartition("/")
        if path != "/":
            if (parent or "/") not in groups:
                raise corrupt(f"the node {path[:80]!r} is not in a group of the snapshot")
            if name == DOCUMENT:
                raise corrupt(f"the node {path[:80]!r} is named like a metadata document")
        if isinstance(node, Group):
            groups.add(path)
        elif node.id in ids:
            raise corrupt(f"the array {path[:80]!r} has the id of another")
        else:
            ids.add(node.id)
