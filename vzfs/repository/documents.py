"""Zarr documents, as they lie in folders, to the nodes of a snapshot: of Zarr v2, v3, or both.

A folder with documents is a node, and so is every folder above one. What a document says in a way
that cannot be shown leaves out its node alone, by name and with the reason; so does a place that no
path can name. Documents of Zarr v2 are kept beside what they say in Zarr v3.
"""

import dataclasses
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from vzfs.formats.zarr import MAX_DOCUMENT, parse_array_document
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.references import Omission, array_id
from vzfs.model.snapshot import Array, Group, ManifestRef, Node
from vzfs.views.fromv2 import array_from_v2, group_from_v2
from vzfs.views.metadata import Unsaid

MAX_DEPTH: Final = 32
"""Folders within each other."""
MAX_PATH: Final = 4096
"""Bytes of a path."""
MAX_NODES: Final = 2**19
"""Nodes from which on no group is added for its path alone."""

_V3: Final = "zarr.json"
_ARRAY: Final = ".zarray"
_GROUP: Final = ".zgroup"
_ATTRIBUTES: Final = ".zattrs"
_CONSOLIDATED: Final = ".zmetadata"
_RESERVED: Final = frozenset({_V3, _ARRAY, _GROUP, _ATTRIBUTES, _CONSOLIDATED})

_EMPTY_GROUP: Final = {_V3: group_from_v2(None)}

type Folders = Mapping[str, Mapping[str, bytes | None]]
"""Documents by folder, relative to the root ("" is the root itself), and by name; None where a
document is there and cannot be had."""
type ManifestRefs = Callable[[str, ChunkGrid], Sequence[ManifestRef]]
"""Says for the path of an array and its grid which manifests it has. Raises Unsaid."""


class StoredKeys(NamedTuple):
    """An array, and how its chunk keys are written where it was found."""

    array: Array
    encoding: ChunkKeyEncoding


@dataclasses.dataclass(frozen=True, slots=True)
class Nodes:
    """*nodes* sorted as a snapshot has them, *arrays* by their folders, and what is left out.

    *left_out* are the folders of those nodes.
    """

    nodes: tuple[Node, ...]
    arrays: Mapping[str, StoredKeys]
    omissions: Sequence[Omission]
    left_out: frozenset[str]


def read_nodes(folders: Folders, manifests: ManifestRefs) -> Nodes:
    """Return the nodes of a hierarchy whose documents are *folders*. Nothing raises."""
    reader = _Reader(folders, manifests)
    for folder in sorted(folders, key=lambda name: name.encode("utf-8", "backslashreplace")):
        reader.read(folder)
    return reader.nodes()


class _Reader:
    def __init__(self, folders: Folders, manifests: ManifestRefs) -> None:
        self._folders = folders
        self._manifests = manifests
        self._nodes: dict[str, Node] = {}
        self._arrays: dict[str, StoredKeys] = {}
        self._omissions: list[Omission] = []
        self._left_out: set[str] = set()

    def nodes(self) -> Nodes:
        nodes = sorted(self._nodes.values(), key=lambda node: array_id(node.path))
        return Nodes(tuple(nodes), self._arrays, self._omissions, frozenset(self._left_out))

    def read(self, folder: str) -> None:
        """Read what is in *folder*, all folders above it having been read."""
        documents = self._folders[folder]
        if not documents.keys() & {_V3, _ARRAY, _GROUP}:
            return
        try:
            _check(folder)
            self._check_above(folder)
            node = self._node(folder, documents)
        except Unsaid as reason:
            path = "/" + folder.lstrip("/")[:MAX_PATH]
            path = path.encode("utf-8", "backslashreplace").decode()
            self._omissions.append(Omission(path, " ".join(str(reason).split())[:500]))
            self._left_out.add(folder)
            return
        self._add_above(folder)
        self._nodes[folder] = node

    def _check_above(self, folder: str) -> None:
        for above in _above(folder):
            if above in self._arrays:
                raise Unsaid(f"it lies within {'/' + above!a}, which is an array")
            if above not in self._nodes and len(self._nodes) >= MAX_NODES:
                raise Unsaid(f"{'/' + above!a} has no documents, and there are {MAX_NODES} nodes")

    def _add_above(self, folder: str) -> None:
        for above in _above(folder):
            if above not in self._nodes:
                self._nodes[above] = Group(path="/" + above, documents=_EMPTY_GROUP)

    def _node(self, folder: str, documents: Mapping[str, bytes | None]) -> Node:
        path = "/" + folder
        if _V3 in documents:
            document = _had(documents, _V3)
            if _node_type(document) == "group":
                return Group(path=path, documents={_V3: document})
            return self._array(folder, document, {}, None)
        names = [name for name in (_ARRAY, _GROUP, _ATTRIBUTES) if name in documents]
        if _ARRAY in documents:
            names = [name for name in names if name != _GROUP]
        originals = {name: _had(documents, name) for name in names}
        attributes = originals.get(_ATTRIBUTES)
        if _ARRAY in documents:
            document = array_from_v2(originals[_ARRAY], attributes)
            encoding = ChunkKeyEncoding(KeyStyle.V2, _separator(originals[_ARRAY]))
            return self._array(folder, document, originals, encoding)
        document = group_from_v2(attributes)
        return Group(path=path, documents={_V3: document}, originals=originals)

    def _array(
        self,
        folder: str,
        document: bytes,
        originals: Mapping[str, bytes],
        encoding: ChunkKeyEncoding | None,
    ) -> Array:
        layout = parse_array_document(document)
        if layout.problem:
            raise Unsaid(layout.problem)
        path = "/" + folder
        array = Array(
            path=path,
            documents={_V3: document},
            id=array_id(path),
            grid=layout.grid,
            key_encoding=layout.key_encoding,
            manifests=tuple(self._manifests(path, layout.grid)),
            shard_index=layout.shard_index,
            originals=originals,
        )
        self._arrays[folder] = StoredKeys(array, encoding or layout.key_encoding)
        return array


def _check(folder: str) -> None:
    """Raise Unsaid unless *folder* can be a path."""
    if not folder:
        return
    segments = folder.split("/")
    try:
        is_short = len(folder.encode()) <= MAX_PATH and len(segments) <= MAX_DEPTH
    except UnicodeEncodeError:
        raise Unsaid("its path is not UTF-8") from None
    if not is_short:
        raise Unsaid("its path is too long or too deep")
    if "\0" in folder or not {"", ".", ".."}.isdisjoint(segments):
        raise Unsaid("its path is not canonical")
    if not _RESERVED.isdisjoint(segments):
        raise Unsaid("it is named like a metadata document")


def _above(folder: str) -> Iterator[str]:
    """Yield the folders above *folder*, which is canonical, up to the root."""
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def _had(documents: Mapping[str, bytes | None], name: str) -> bytes:
    document = documents[name]
    if document is None:
        raise Unsaid(f"its {name} is not in the source itself")
    return document


def _fields(document: bytes, name: str) -> Mapping[str, object]:
    if len(document) > MAX_DOCUMENT:
        raise Unsaid(f"its {name} is larger than {MAX_DOCUMENT} bytes")
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        raise Unsaid(f"its {name} is not JSON") from None
    if not isinstance(fields, dict):
        raise Unsaid(f"its {name} is not a JSON object")
    return fields


def _node_type(document: bytes) -> object:
    return _fields(document, _V3).get("node_type")


def _separator(document: bytes) -> Literal["/", "."]:
    match _fields(document, _ARRAY).get("dimension_separator", "."):
        case "/":
            return "/"
        case ".":
            return "."
    raise Unsaid("the separator of its chunk keys is neither '/' nor '.'")
