"""Snapshots: the whole hierarchy at one moment, as nodes sorted by path.

A node carries its metadata documents byte for byte as the repository has them; what the design
needs to know of an array (its grid, its chunk keys, which manifests cover what) is beside them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding

DEFAULT_BRANCH: Final = "main"


@dataclasses.dataclass(frozen=True, slots=True)
class Extents:
    """A region of a chunk grid: a half-open range of coordinates along each dimension."""

    ranges: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ManifestRef:
    """A manifest file and the region of an array's grid for which it speaks."""

    id: str
    extents: Extents


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group: *path* is absolute and canonical ("/" is the root).

    *documents* are those of Zarr v3. *originals* are those of Zarr v2 (`.zgroup`, `.zattrs`), where
    that is what was found, byte for byte.
    """

    path: str
    documents: Mapping[str, bytes]
    originals: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array: its documents, its chunk grid and keys, and the manifests that hold its refs.

    *documents* and *originals* (`.zarray`, `.zattrs`) are as in a group. *id* names the array inside manifests. *problem* says why its chunks cannot be named (an
    unknown chunk grid or key encoding); the documents are served all the same. *shard_index* is
    where a chunk has the index of its inner chunks, None if it has none or is compressed as a whole.
    """

    path: str
    documents: Mapping[str, bytes]
    id: bytes
    grid: ChunkGrid
    key_encoding: ChunkKeyEncoding
    manifests: tuple[ManifestRef, ...]
    problem: str = ""
    shard_index: Literal["start", "end"] | None = None
    originals: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


type Node = Group | Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One immutable state of a hierarchy.

    *nodes* are sorted by the UTF-8 bytes of their paths and have no path twice. *written_at* is in
    nanoseconds since the Unix epoch. *parent* is the id of the snapshot before, if the file says
    it. *full* are the ids of the manifest files that have a ref for every chunk of the regions for
    which they speak, by the snapshot's own count: enough to name what is there, and no more.
    """

    id: str
    written_at: int
    message: str
    metadata: Mapping[str, object]
    nodes: tuple[Node, ...]
    parent: str | None = None
    full: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One line of a history: a snapshot without its nodes."""

    id: str
    parent: str | None
    written_at: int
    message: str
    metadata: Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class VirtualChunkContainer:
    """A prefix below which a repository declares that its virtual chunks lie.

    *url_prefix* is what the repository wrote. *name* resolves relative locations
    (`vcc://NAME/rest`). *endpoint* and *anonymous* say what store the writer used; they are shown
    to the user, never used.
    """

    url_prefix: str
    name: str | None = None
    endpoint: str | None = None
    anonymous: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RefSpec:
    """Which snapshot the user asks for: at most one of *branch*, *tag* and *snapshot*.

    None of them means the branch `main`. *snapshot* is an id or a unique beginning of one. *as_of*,
    in nanoseconds since the Unix epoch, asks for the last snapshot of the branch written by then.
    """

    branch: str | None = None
    tag: str | None = None
    snapshot: str | None = None
    as_of: int | None = None

    def __str__(self) -> str:
        """Say it as a user would."""
        if self.tag is not None:
            return f"tag {self.tag}"
        if self.snapshot is not None:
            return f"snapshot {self.snapshot}"
        return f"branch {self.branch or DEFAULT_BRANCH}"


@dataclasses.dataclass(frozen=True, slots=True)
class WantedArray:
    """What is asked of a manifest file about one array: its refs in any of *extents*, inside *grid*."""

    grid: ChunkGrid
    extents: Sequence[Extents]
