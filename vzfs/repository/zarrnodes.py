"""The nodes of a plain Zarr hierarchy: how they are found, and what they become.

Consolidated metadata says all by one document. Without it, groups are listed one level after
another; an array is never looked into, so that its chunks cost nothing here. Where there are no
listings either, only an array at the root can be found. What cannot be presented is left out, with
the reason.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import trio

from vzfs.errors import ErrorKind, FormatError, RepositoryError, SourceError
from vzfs.formats import consolidated
from vzfs.formats.zarr import MAX_DOCUMENT, parse_array_document
from vzfs.model.chunkgrid import ChunkKeyEncoding, KeyStyle
from vzfs.model.references import Omission, array_id, whole
from vzfs.model.snapshot import Array, Group, Node
from vzfs.repository.lengths import ask_each
from vzfs.source import Listed
from vzfs.views.fromv2 import array_from_v2, group_from_v2
from vzfs.views.metadata import Unsaid

MAX_NODES: Final = 100_000
"""Folders that are looked at. Ten thousand take some seconds from an object store."""
MAX_METADATA: Final = 2**28
"""Bytes of all documents together."""
MAX_DEPTH: Final = 64
"""Groups within each other. Links of folders may make more of them than there are."""
MAX_PATH: Final = 4096
"""Characters of a path: what Linux takes of one in bytes."""

V3: Final = "zarr.json"
ARRAY: Final = ".zarray"
GROUP: Final = ".zgroup"
ATTRIBUTES: Final = ".zattrs"

_RESERVED: Final = frozenset({V3, ARRAY, GROUP, ATTRIBUTES, consolidated.KEY})
_SKIPPED: Final = frozenset(
    {
        ErrorKind.SOURCE_DENIED,
        ErrorKind.BAD_LOCATION,
        ErrorKind.SOURCE_MISMATCH,
        ErrorKind.CORRUPT_METADATA,
        ErrorKind.UNSUPPORTED_FORMAT,
    }
)
"""What ails one document, and will not pass."""
_UNLISTED: Final = frozenset({ErrorKind.CANNOT_LIST, ErrorKind.SOURCE_DENIED})

type Documents = Mapping[str, bytes]
"""The metadata documents of a node, by their names."""


class Store(Protocol):
    """Where a hierarchy lies: objects by keys."""

    async def get(self, key: str, max_length: int) -> bytes | None:
        """Return an object, None if there is none."""

    async def objects(self, key: str, *, deep: bool = True) -> Sequence[Listed]:
        """Return what lies below *key*."""

    def place(self, key: str) -> str:
        """Return where *key* is, for people."""


@dataclasses.dataclass(frozen=True, slots=True)
class Hierarchy:
    """What was found: *nodes* sorted by path, and by the ids of the arrays how their keys are written.

    *state* is a digest of all documents, *version* that of Zarr of the root. *is_listed* says whether
    the store lists, and *root* is the key of a document at the root.
    """

    nodes: tuple[Node, ...]
    encodings: Mapping[bytes, ChunkKeyEncoding]
    omissions: tuple[Omission, ...]
    state: str
    version: Literal[2, 3]
    is_listed: bool = False
    root: str = V3


async def find_hierarchy(store: Store) -> Hierarchy | None:
    """Find all nodes, None if there is no Zarr hierarchy.

    Raises SourceError, RepositoryError, and FormatError where the root is not understood and all there is.
    """
    names = (V3, consolidated.KEY, GROUP, ARRAY, ATTRIBUTES)
    root, refused = await _documents(store, "", names)
    if consolidated.KEY in root and consolidated.is_of_kerchunk(root[consolidated.KEY]):
        return None
    kind = _kind(root)
    if kind is None and consolidated.KEY not in root:
        if refused and not root:
            raise next(iter(refused.values()))
        return None
    omissions: list[Omission] = []
    below = await trio.to_thread.run_sync(_consolidated, root) if kind != "array" else {}
    if below is None and kind is None:
        return None
    # Where no names are needed, a folder that nobody has tells whether there are listings.
    level, unlisted = await _listing(store, "" if below is None else V3)
    if below is not None:
        found: dict[str, Documents] = {**below, "": {**below.get("", {}), **root}}
    elif level is not None:
        found = await _walk(store, root, level, omissions)
    else:
        assert unlisted is not None  # noqa: S101 -- there is no listing
        raise RepositoryError(
            ErrorKind.CANNOT_LIST,
            f"the group has no consolidated metadata, and its members cannot be listed ({unlisted.what})",
            where=store.place(""),
            advice="have its owner write it (zarr.consolidate_metadata), or mount one array",
        )
    if len(found) > MAX_NODES:
        raise _too_much(store, f"more than {MAX_NODES} nodes")
    if ATTRIBUTES in refused and V3 not in root and ATTRIBUTES not in found[""]:
        error = refused[ATTRIBUTES]
        # Where nothing is listed, what is not there may be denied as well.
        is_loss = level is not None or error.kind is not ErrorKind.SOURCE_DENIED
        omissions.append(Omission(f"/{ATTRIBUTES}", error.what, is_loss))
    found[""] = {n: d for n, d in found[""].items() if n != consolidated.KEY}
    hierarchy = await trio.to_thread.run_sync(build, found, omissions)
    key = V3 if V3 in root else next(iter(root))
    left_out = {omission.path: omission.reason for omission in hierarchy.omissions}
    if "/" in left_out and len(hierarchy.nodes) == 1:
        raise FormatError(ErrorKind.CORRUPT_METADATA, left_out["/"], where=store.place(key))
    return dataclasses.replace(hierarchy, is_listed=level is not None, root=key)


async def _listing(store: Store, key: str) -> tuple[Sequence[Listed] | None, SourceError | None]:
    """List a folder: what lies there, or why that is not told."""
    try:
        return await store.objects(key, deep=False), None
    except SourceError as error:
        if error.kind not in _UNLISTED:
            raise
        return None, error


async def _documents(
    store: Store, path: str, names: Sequence[str] = (V3, GROUP, ARRAY, ATTRIBUTES)
) -> tuple[dict[str, bytes], Mapping[str, SourceError | FormatError]]:
    """Return those documents of a node that are there, and what was refused of them."""
    refused: dict[str, SourceError | FormatError] = {}

    async def get(name: str) -> bytes | None:
        most = MAX_DOCUMENT if path else consolidated.MAX_CONSOLIDATED
        try:
            return await store.get(_join(path, name), most)
        except (SourceError, FormatError) as error:
            if error.kind not in _SKIPPED:
                raise
            refused[name] = error
            return None

    found = await ask_each(names, get)
    documents = {name: found[name] for name in names}
    there = {name: data for name, data in documents.items() if data is not None}
    return there, refused


async def _walk(
    store: Store, root: Documents, listed: Sequence[Listed], omissions: list[Omission]
) -> dict[str, Documents]:
    """Find the nodes below the *root*, of which this is *listed*, one level after another."""
    found: dict[str, Documents] = {"": root}
    size = sum(map(len, root.values()))

    async def documents_of(
        path: str,
    ) -> tuple[dict[str, bytes], Mapping[str, SourceError | FormatError]]:
        nonlocal size
        there, refused = await _documents(store, path)
        size += sum(map(len, there.values()))
        if size > MAX_METADATA:
            raise _too_much(store, f"more than {MAX_METADATA} bytes of metadata")
        return there, refused

    looked_at = 0
    level: dict[str, Sequence[Listed]] = {"": listed}
    for depth in itertools.count():
        if not level:
            break
        children = []
        for path, members in level.items():
            for member in members:
                name = member.key.removesuffix("/")
                if member.is_folder and name not in _RESERVED:
                    children.append(_join(path, name))
                elif member.length is None:
                    reason = "it is a link that leads out of the hierarchy, or nowhere"
                    omissions.append(omission(_join(path, name), reason))
        looked_at += len(children)
        if looked_at > MAX_NODES:
            raise _too_much(store, f"more than {MAX_NODES} folders")
        groups = []
        documents = await ask_each(children, documents_of)
        for path, (there, refused) in documents.items():
            if refused:
                omissions.append(omission(path, next(iter(refused.values())).what))
            elif _kind(there) is not None:
                found[path] = there
                groups += [path] if _kind(there) == "group" else []
        if depth == MAX_DEPTH:
            reason = f"what lies within it is deeper than {MAX_DEPTH} groups"
            omissions += [omission(path, reason) for path in groups]
            break
        level = await ask_each(groups, functools.partial(store.objects, deep=False))
    return found


def _consolidated(root: Documents) -> dict[str, Documents] | None:
    """Return the documents that the *root*'s consolidated metadata has, None if it has none."""
    if V3 in root:
        return _copied(consolidated.documents_of_v3(root[V3]))
    return _copied(consolidated.documents_of_v2(root.get(consolidated.KEY, b"")))


def _copied(documents: Mapping[str, Documents] | None) -> dict[str, Documents] | None:
    return None if documents is None else dict(documents)


def _kind(documents: Documents) -> Literal["group", "array"] | None:
    """Return what a node is; that of Zarr v3 counts where there are documents of both."""
    if V3 in documents:
        try:
            fields = json.loads(documents[V3])
        except (ValueError, RecursionError):
            fields = None
        is_v3 = isinstance(fields, dict) and fields.get("zarr_format") == 3
        kind = fields.get("node_type") if is_v3 else None
        # What is no document of a group is left out as an array, with the reason.
        return "group" if kind == "group" else "array"
    if ARRAY in documents:
        return "array"
    return "group" if GROUP in documents else None


def _too_much(store: Store, what: str) -> RepositoryError:
    return RepositoryError(
        ErrorKind.CANNOT_LIST,
        f"the hierarchy has {what}",
        where=store.place(""),
        advice="have its owner write consolidated metadata (zarr.consolidate_metadata), or mount a group of it",
    )


def omission(path: str, reason: str) -> Omission:
    """Return that the node at *path*, relative to the root, is left out, in words that can be written down."""
    shown = f"/{path[:MAX_PATH]}".encode("utf-8", "backslashreplace").decode()
    return Omission(shown, " ".join(reason.split())[:500])


# -- nodes -----------------------------------------------------------------------------------------


def build(documents: Mapping[str, Documents], omissions: Sequence[Omission]) -> Hierarchy:
    """Make nodes of *documents*, by paths relative to the root; *omissions* are those so far. Never raises."""
    omissions = list(omissions)
    nodes: dict[str, Node] = {}
    encodings: dict[bytes, ChunkKeyEncoding] = {}
    for path in sorted(documents):
        absolute = f"/{path}"
        try:
            _check_path(path)
            above = _above(path, nodes)
            node, encoding = _node(absolute, documents[path])
        except Unsaid as why:
            omissions.append(omission(path, str(why)))
            continue
        if above and len(nodes) > MAX_NODES:
            reason = f"the groups above it have no documents, and there are {MAX_NODES} nodes"
            omissions.append(omission(path, reason))
            continue
        for name in above:
            nodes[name] = Group(path=name, documents={V3: group_from_v2(None)})
        nodes[absolute] = node
        if isinstance(node, Array):
            encodings[node.id] = encoding
    if "/" not in nodes:
        nodes["/"] = Group(path="/", documents={V3: group_from_v2(None)})
    return Hierarchy(
        nodes=tuple(sorted(nodes.values(), key=lambda node: array_id(node.path))),
        encodings=encodings,
        omissions=tuple(omissions),
        state=_digest(documents),
        version=3 if V3 in documents[""] else 2,
    )


def _check_path(path: str) -> None:
    """Raise Unsaid for the path of a node that no directory can have."""
    segments = path.split("/") if path else []
    # Of a long path the groups above it alone would take its length squared.
    if len(path) > MAX_PATH or len(segments) > MAX_DEPTH + 1:
        raise Unsaid(
            f"its path is longer than {MAX_PATH} characters, or deeper than {MAX_DEPTH} groups"
        )
    if any(s in {"", ".", ".."} or "\0" in s for s in segments):
        raise Unsaid("its path is not canonical")
    if not _RESERVED.isdisjoint(segments):
        raise Unsaid("it is named like a metadata document")
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Unsaid("its path is no text") from None


def _above(path: str, nodes: Mapping[str, Node]) -> Sequence[str]:
    """Return the groups above *path* that have no documents. Raises Unsaid if an array is above."""
    missing = []
    parts = path.split("/")
    for i in range(len(parts)) if path else ():
        above = "/" + "/".join(parts[:i])
        if above not in nodes:
            missing.append(above)
        elif isinstance(nodes[above], Array):
            raise Unsaid("it lies within an array")
    if len(nodes) + len(missing) > 2 * MAX_NODES:
        raise Unsaid("there are too many groups without documents")
    return missing


def _node(path: str, documents: Documents) -> tuple[Node, ChunkKeyEncoding]:
    """Return the node that *documents* are of, and how its chunk keys are written. Raises Unsaid."""
    if V3 in documents:
        return _v3_node(path, documents[V3])
    attributes = documents.get(ATTRIBUTES)
    names = (ARRAY, ATTRIBUTES) if ARRAY in documents else (GROUP, ATTRIBUTES)
    originals = {name: documents[name] for name in names if name in documents}
    if ARRAY in documents:
        document = array_from_v2(documents[ARRAY], attributes)
        encoding = ChunkKeyEncoding(KeyStyle.V2, _separator(documents[ARRAY]))
        return _array(path, document, originals), encoding
    document = group_from_v2(attributes)
    return Group(path=path, documents={V3: document}, originals=originals), ChunkKeyEncoding()


def _v3_node(path: str, document: bytes) -> tuple[Node, ChunkKeyEncoding]:
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        raise Unsaid("its zarr.json is not JSON") from None
    if not isinstance(fields, dict) or fields.get("zarr_format") != 3:
        raise Unsaid("its zarr.json does not describe a node of Zarr v3")
    match fields.get("node_type"):
        case "group":
            return Group(path=path, documents={V3: document}), ChunkKeyEncoding()
        case "array":
            array = _array(path, document, {})
            return array, array.key_encoding
    raise Unsaid("its zarr.json describes neither a group nor an array")


def _array(path: str, document: bytes, originals: Documents) -> Array:
    layout = parse_array_document(document)
    return Array(
        path=path,
        documents={V3: document},
        originals=originals,
        id=array_id(path),
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=whole(path, layout.grid),
        problem=layout.problem,
        shard_index=layout.shard_index,
    )


def _separator(zarray: bytes) -> Literal["/", "."]:
    """Return what lies between the coordinates in the keys of a Zarr v2 array. Raises Unsaid."""
    match json.loads(zarray).get("dimension_separator", "."):
        case "/":
            return "/"
        case "." | None:
            return "."
    raise Unsaid("the separator of its chunk keys is neither '/' nor '.'")


def _digest(documents: Mapping[str, Documents]) -> str:
    found = hashlib.sha256()
    for path in sorted(documents):
        for name, data in sorted(documents[path].items()):
            head = f"{path}\0{name}\0{len(data)}\0"
            found.update(head.encode("utf-8", "surrogatepass") + data)
    return found.hexdigest()[:40]


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
