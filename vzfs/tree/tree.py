"""What a snapshot looks like as a directory: names to entries and back.

An entry is a place in the tree: a node's directory, one of its documents, a directory of chunk
keys, or a chunk. The tree decides which names *can* exist; whether a chunk or a directory of keys
does exist is for the manifests to say, so `lookup` answers with an entry that the caller checks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final, Protocol

from vzfs.errors import ErrorKind, FormatError, NameProblem
from vzfs.model.chunkgrid import KeyStyle, parse_coordinate
from vzfs.model.snapshot import Array, Group, Node, Snapshot


class Nodes(Protocol):
    """The nodes of a snapshot as somebody shows them, numbered in the order of their paths; 0 is the root."""

    def __len__(self) -> int: ...

    def path(self, number: int) -> str:
        """Return the absolute path of a node."""

    def stored(self, number: int) -> Node:
        """Return a node as the repository has it."""

    def node(self, number: int) -> Node:
        """Return a node as it is shown: its documents and keys may be others, its grid is the same."""

    def is_shown(self, number: int) -> bool:
        """Whether a node is shown at all; a group always is."""


class AsStored:
    """The nodes of a snapshot as the repository has them."""

    def __init__(self, snapshot: Snapshot) -> None:
        nodes = list(snapshot.nodes)
        if not nodes or nodes[0].path != "/":
            # The first snapshot of a repository has no nodes at all; it is an empty directory.
            nodes.insert(0, Group(path="/", documents={}))
        self._nodes = tuple(nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def path(self, number: int) -> str:
        """Return the absolute path of a node."""
        return self._nodes[number].path

    def stored(self, number: int) -> Node:
        """Return a node."""
        return self._nodes[number]

    def node(self, number: int) -> Node:
        """Return a node."""
        return self._nodes[number]

    def is_shown(self, number: int) -> bool:
        """Whether a node is shown, as all are."""
        return 0 <= number < len(self._nodes)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeDir:
    """The directory of the node with number *node*."""

    node: int


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """The metadata document with number *ordinal* of a node."""

    node: int
    ordinal: int


@dataclasses.dataclass(frozen=True, slots=True)
class KeyDir:
    """A directory of chunk keys: `c` has the *prefix* (), `c/0` has (0,)."""

    node: int
    prefix: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """The file of the chunk at *coords*."""

    node: int
    coords: tuple[int, ...]


type Entry = NodeDir | Document | KeyDir | Chunk


class Tree:
    """The names of *nodes*."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes: Final = nodes
        self._all_children: list[dict[str, int]] = [{} for _ in range(len(nodes))]
        self._children: list[dict[str, int] | None] = [None] * len(nodes)
        self._parents = [0] * len(nodes)
        numbers = {nodes.path(number): number for number in range(len(nodes))}
        for path, number in numbers.items():
            if number == 0:
                continue
            parent, _, name = path.rpartition("/")
            if (parent or "/") not in numbers:
                raise FormatError(
                    ErrorKind.CORRUPT_METADATA, "a node has no parent in the snapshot", where=path
                )
            self._all_children[numbers[parent or "/"]][name] = number
            self._parents[number] = numbers[parent or "/"]

    def node(self, number: int) -> Node:
        """Return a node as it is shown."""
        return self.nodes.node(number)

    def array(self, number: int) -> Array:
        """Return the array with that number, whose chunks can be named.

        Raises FormatError if its grid or its keys are of a kind that vzfs does not know.
        """
        node = self.nodes.node(number)
        if not isinstance(node, Array):
            raise NameProblem(ErrorKind.BUG, "a group has no chunks", where=node.path)
        if node.problem:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                f"the chunks of this array cannot be named: {node.problem}",
                where=node.path,
                advice="a newer vzfs may know it",
            )
        return node

    def children(self, number: int) -> Mapping[str, int]:
        """Return the child nodes of a node that are shown: name -> number."""
        found = self._children[number]
        if found is None:
            every, is_shown = self._all_children[number], self.nodes.is_shown
            found = self._children[number] = {n: c for n, c in every.items() if is_shown(c)}
        return found

    def all_children(self, number: int) -> Mapping[str, int]:
        """Return the child nodes of a node, shown or not: name -> number."""
        return self._all_children[number]

    def parent(self, number: int) -> int:
        """Return the node that a node is in; the root is in itself."""
        return self._parents[number]

    def document(self, entry: Document) -> bytes:
        """Return the bytes of a metadata document."""
        documents = self.nodes.node(entry.node).documents
        return documents[list(documents)[entry.ordinal]]

    def path(self, entry: Entry) -> str:
        """Return the path of *entry* below the root: "/" for the root itself."""
        path = self.nodes.path(entry.node)
        folder = path.rstrip("/")
        match entry:
            case NodeDir():
                return path
            case Document(number, ordinal):
                return f"{folder}/{list(self.nodes.node(number).documents)[ordinal]}"
            case KeyDir(number, prefix):
                is_default = self.array(number).key_encoding.style is KeyStyle.DEFAULT
                return "/".join([folder, *(["c"] if is_default else []), *map(str, prefix)])
            case Chunk(number, coords):
                return f"{folder}/{self.array(number).key_encoding.encode(coords)}"

    def lookup(self, parent: Entry, name: str) -> Entry | None:
        """Return the entry that *name* can be in *parent*, or None if it can be none."""
        match parent:
            case NodeDir(node):
                found = self.nodes.node(node)
                if name in found.documents:
                    return Document(node, list(found.documents).index(name))
                child = self._all_children[node].get(name)
                if child is not None and self.nodes.is_shown(child):
                    return NodeDir(child)
                return self._first_key(node, name) if isinstance(found, Array) else None
            case KeyDir(node, prefix):
                return self._next_key(node, prefix, name)
            case _:
                raise NameProblem(ErrorKind.NOT_A_DIRECTORY, "this is a file", where=name)

    def _first_key(self, number: int, name: str) -> Entry | None:
        """Resolve a name in the array's own directory."""
        array = self.array(number)
        encoding, grid = array.key_encoding, array.grid
        if encoding.separator == "/":
            if encoding.style is KeyStyle.V2 and grid.shape:
                return self._next_key(number, (), name)
            if encoding.style is KeyStyle.DEFAULT and grid.shape:
                return KeyDir(number, ()) if name == "c" else None
        coords = encoding.decode(name, len(grid.shape))
        return Chunk(number, coords) if coords is not None and grid.contains(coords) else None

    def _next_key(self, number: int, prefix: tuple[int, ...], name: str) -> Entry | None:
        coordinate = parse_coordinate(name)
        if coordinate is None:
            return None
        coords, grid = (*prefix, coordinate), self.array(number).grid
        if not grid.contains(coords):
            return None
        return (Chunk if len(coords) == len(grid.shape) else KeyDir)(number, coords)
