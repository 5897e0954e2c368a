"""Chunk refs: where the bytes of one chunk are. Columns of them are manifests."""

import enum
from typing import NamedTuple

from vzfs.model.location import ByteRange, Checksum


class ChunkKind(enum.IntEnum):
    """Where a chunk's bytes lie: in the manifest, in the repository, or in somebody's object."""

    INLINE = 0
    NATIVE = 1
    VIRTUAL = 2


class ChunkRef(NamedTuple):
    """Where the bytes of one chunk are.

    *location* is "" for an inline chunk (its bytes are *inline*), a key in the repository's own
    storage for a native one, and the location exactly as the repository wrote it for a virtual one.
    """

    kind: ChunkKind
    length: int
    location: str = ""
    offset: int = 0
    checksum: Checksum | None = None
    inline: bytes | memoryview = b""

    @property
    def range(self) -> ByteRange:
        """The bytes of the object at *location* that are the chunk."""
        return ByteRange(self.offset, self.length)
