"""Columnar manifests: where each chunk's bytes are, one row for each chunk that exists.

A manifest is a set of parallel read-only columns, sorted by flat chunk index without repetition, so
that one `searchsorted` finds a chunk and two bound any run of them (a directory of `/`-separated
keys). Nothing here knows which format the rows came from.
"""

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vzfs.model.location import ByteRange, Checksum

type Column[T: np.generic] = npt.NDArray[T]

MAX_FLAT_INDEX: Final = 2**63 - 1
"""The largest flat index that a column holds."""


class ChunkKind(enum.IntEnum):
    """Where a chunk's bytes lie: in the manifest, in the repository, or in somebody's object."""

    INLINE = 0
    NATIVE = 1
    VIRTUAL = 2


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkRef:
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


class StringTable:
    """Interned strings: one buffer of UTF-8 and n + 1 ascending offsets into it."""

    __slots__ = ("_data", "_offsets")

    def __init__(self, offsets: Column[np.int64], data: bytes | memoryview) -> None:
        self._offsets = offsets
        self._data = memoryview(data)

    @classmethod
    def of(cls, strings: Sequence[str]) -> "StringTable":
        """Build a table of *strings*."""
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        return cls(offsets, b"".join(encoded))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> str:
        """Return the string with number *i*."""
        low, high = int(self._offsets[i]), int(self._offsets[i + 1])
        return str(self._data[low:high], "utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """The chunk refs of one array that one manifest file holds, as columns of equal length.

    | column | meaning |
    |---|---|
    | index | flat chunk index, strictly ascending |
    | kind | a `ChunkKind` |
    | location | row of *locations*: the object; unused for inline chunks |
    | offset, length | bytes in the object, or in *inline* for inline chunks |
    | checksum | row of *checksums* + 1; 0 for none |
    """

    index: Column[np.int64]
    kind: Column[np.uint8]
    location: Column[np.uint32]
    offset: Column[np.int64]
    length: Column[np.int64]
    checksum: Column[np.uint32]
    locations: StringTable
    checksums: Sequence[Checksum]
    inline: bytes | memoryview

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.index)

    def row(self, flat: int) -> int | None:
        """Return the row of the chunk with index *flat*, or None if there is no such chunk."""
        row = self.first(flat)
        return row if row < len(self.index) and self.index[row] == flat else None

    def first(self, flat: int) -> int:
        """Return the first row whose index is at least *flat*."""
        return int(self.index.searchsorted(min(flat, MAX_FLAT_INDEX)))

    def has_any(self, low: int, high: int) -> bool:
        """Whether a chunk has an index in [low, high)."""
        row = self.first(low)
        return row < len(self.index) and int(self.index[row]) < high

    def ref(self, row: int) -> ChunkRef:
        """Return the chunk ref in *row*."""
        kind = ChunkKind(int(self.kind[row]))
        offset, length = int(self.offset[row]), int(self.length[row])
        if kind is ChunkKind.INLINE:
            return ChunkRef(kind, length, inline=memoryview(self.inline)[offset : offset + length])
        checksum = int(self.checksum[row])
        return ChunkRef(
            kind,
            length,
            self.locations[int(self.location[row])],
            offset,
            self.checksums[checksum - 1] if checksum else None,
        )
