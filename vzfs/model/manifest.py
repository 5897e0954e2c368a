"""Columnar manifests: where each chunk's bytes are, one row for each chunk that exists.

A manifest is a set of parallel read-only columns, sorted by flat chunk index without repetition, so
that a `bisect` finds a chunk and two bound any run of them (a directory of `/`-separated keys).
Columns are as narrow as their values allow (`narrow`), and one that says the same of every row
takes no memory. Nothing here knows which format the rows came from.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vzfs.model.chunkref import ChunkKind, ChunkRef
from vzfs.model.location import Checksum, ETag, LastModified

__all__ = [
    "MAX_FLAT_INDEX",
    "ChecksumTable",
    "ChunkKind",
    "ChunkRef",
    "Column",
    "Manifest",
    "Narrow",
    "StringTable",
    "ascending",
    "narrow",
]  # fmt: skip

type Column[T: np.generic] = npt.NDArray[T]

type Narrow = npt.NDArray[np.unsignedinteger]
"""Unsigned integers of any width. What is calculated with them may not fit into it: widen first."""

MAX_FLAT_INDEX: Final = 2**63 - 1
"""The largest flat index that a column holds."""

_DECODED: Final = 256
"""Strings of a table that are kept as they were last given out."""
_FEW_ROWS: Final = 64
"""Chunks of a directory up to which it is listed together with those behind it."""
_ROWS: Final = 4096
"""Rows that are looked at together."""


_KINDS: Final = tuple(ChunkKind)


def narrow(column: npt.NDArray[np.integer]) -> Narrow:
    """Return *column*, whose values are not negative, read-only and in as few bytes as hold them.

    It may be *column* itself, and is never a part of a larger array.
    """
    low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
    dtype = np.min_scalar_type(high)
    if low == high:
        return np.broadcast_to(dtype.type(low), column.shape)
    narrowed = column.astype(dtype, copy=column.base is not None)
    narrowed.flags.writeable = False
    return narrowed


def ascending(column: npt.NDArray[np.integer]) -> Narrow | range:
    """Return *column*, which ascends, as a `range` if its values lie equally far apart; else narrow."""
    if len(column) < 2:
        return range(int(column[0]), int(column[0]) + 1) if len(column) else range(0)
    first, last = int(column[0]), int(column[-1])
    step = int(column[1]) - first
    if step > 0 and last - first == step * (len(column) - 1) and np.all(np.diff(column) == step):
        return range(first, last + 1, step)
    return narrow(column)


def _values(column: Narrow) -> memoryview:
    """Return the values of *column*, each of which numpy would take several times as long to give."""
    if column.flags.aligned:
        return memoryview(column)
    code: Any = column.dtype.char
    return memoryview(column.view(np.uint8)).cast(code)


class StringTable:
    """Interned strings: one buffer of UTF-8, and n + 1 `ascending` offsets into it."""

    __slots__ = ("_at", "_decoded", "data", "offsets")

    def __init__(self, offsets: Narrow | range, data: bytes | memoryview) -> None:
        self.offsets: Final = offsets
        self.data: Final = memoryview(data)
        self._at = offsets if isinstance(offsets, range) else _values(offsets)
        self._decoded: dict[int, str] = {}

    @classmethod
    def of(cls, strings: Sequence[str]) -> "StringTable":
        """Build a table of *strings*."""
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        return cls(ascending(offsets), b"".join(encoded))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        """Return the string with number *i*."""
        found = self._decoded.get(i)
        if found is None:
            if len(self._decoded) >= _DECODED:
                self._decoded.clear()
            text = self.data[self._at[i] : self._at[i + 1]]
            found = self._decoded[i] = str(text, "utf-8", "surrogateescape")
        return found

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class ChecksumTable:
    """Interned checksums: first all *etags*, then all *dates*, in seconds since the Unix epoch."""

    __slots__ = ("_dates", "_made", "dates", "etags")

    def __init__(self, etags: StringTable, dates: Narrow) -> None:
        self.etags: Final = etags
        self.dates: Final = dates
        self._dates = _values(dates)
        self._made: dict[int, Checksum] = {}

    @classmethod
    def of(cls, checksums: Sequence[Checksum]) -> "ChecksumTable":
        """Build a table of *checksums*, whose etags come first."""
        etags = [c.value for c in checksums if isinstance(c, ETag)]
        dates = [c.seconds for c in checksums if isinstance(c, LastModified)]
        return cls(StringTable.of(etags), narrow(np.array(dates, np.int64)))

    def __len__(self) -> int:
        return len(self.etags) + len(self.dates)

    def __getitem__(self, i: int) -> Checksum:
        """Return the checksum with number *i*."""
        found = self._made.get(i)
        if found is None:
            if len(self._made) >= _DECODED:
                self._made.clear()
            date = i - len(self.etags)
            found = ETag(self.etags[i]) if date < 0 else LastModified(self._dates[date])
            self._made[i] = found
        return found

    def __iter__(self) -> Iterator[Checksum]:
        return (self[i] for i in range(len(self)))


class Manifest:
    """The chunk refs of one array that one manifest file holds, as columns of equal length.

    | column | meaning |
    |---|---|
    | index | flat chunk index, strictly `ascending`: a `range` where no chunk is missing |
    | kind | a `ChunkKind` |
    | location | row of *locations*: the object; unused for inline chunks |
    | offset, length | bytes in the object, or in *inline* for inline chunks |
    | checksum | row of *checksums* + 1; 0 for none |
    """

    __slots__ = (
        "_checksum",
        "_index",
        "_kind",
        "_length",
        "_location",
        "_offset",
        "checksum",
        "checksums",
        "index",
        "inline",
        "kind",
        "length",
        "location",
        "locations",
        "offset",
    )

    def __init__(
        self,
        *,
        index: Narrow | range,
        kind: Narrow,
        location: Narrow,
        offset: Narrow,
        length: Narrow,
        checksum: Narrow,
        locations: StringTable,
        checksums: ChecksumTable,
        inline: bytes | memoryview,
    ) -> None:
        self.index: Final = index
        self.kind: Final = kind
        self.location: Final = location
        self.offset: Final = offset
        self.length: Final = length
        self.checksum: Final = checksum
        self.locations: Final = locations
        self.checksums: Final = checksums
        self.inline: Final = memoryview(inline)
        self._index = index if isinstance(index, range) else _values(index)
        self._kind = _values(kind)
        self._location = _values(location)
        self._offset = _values(offset)
        self._length = _values(length)
        self._checksum = _values(checksum)

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.index)

    def row(self, flat: int) -> int | None:
        """Return the row of the chunk with index *flat*, or None if there is no such chunk."""
        index = self._index
        if type(index) is range:
            return index.index(flat) if flat in index else None
        row = bisect.bisect_left(index, flat)
        return row if row < len(index) and index[row] == flat else None

    def first(self, flat: int) -> int:
        """Return the first row whose index is at least *flat*."""
        index = self._index
        if type(index) is range:
            return min(max((flat - index.start + index.step - 1) // index.step, 0), len(index))
        return bisect.bisect_left(index, flat)

    def has_any(self, low: int, high: int) -> bool:
        """Whether a chunk has an index in [low, high)."""
        row = self.first(low)
        return row < len(self._index) and self._index[row] < high

    def length_at(self, row: int) -> int:
        """Return the length of the chunk in *row*, in bytes."""
        return self._length[row]

    def ref(self, row: int) -> ChunkRef:
        """Return the chunk ref in *row*."""
        kind = _KINDS[self._kind[row]]
        offset, length = self._offset[row], self._length[row]
        if kind is ChunkKind.INLINE:
            return ChunkRef(kind, length, inline=self.inline[offset : offset + length])
        checksum = self._checksum[row]
        return ChunkRef(
            kind,
            length,
            self.locations[self._location[row]],
            offset,
            self.checksums[checksum - 1] if checksum else None,
        )

    # -- many at a time ------------------------------------------------------------------------

    def indices(self, low: int, high: int) -> Column[np.int64]:
        """Return the flat indices of the rows [low, high)."""
        part = self.index[low:high]
        if isinstance(part, range):
            return np.arange(part.start, part.stop, part.step, dtype=np.int64)
        return part.astype(np.int64)

    def chunks(self, low: int, high: int, count: int) -> tuple[Column[np.int64], Column[np.int64]]:
        """Return flat indices and lengths of the first *count* chunks with an index in [low, high)."""
        row = self.first(low)
        end = min(self.first(high), row + count)
        return self.indices(row, end), self.length[row:end].astype(np.int64)

    def heads(self, low: int, high: int, stride: int, count: int) -> Column[np.int64]:
        """Return the first *count* of the n for which a chunk has an index in [low + n * stride, low + (n + 1) * stride).

        *high* bounds the indices.
        """
        found: list[int] = []
        row, end = self.first(low), self.first(high)
        while row < end and len(found) < count:
            head = (self._index[row] - low) // stride
            found.append(head)
            beyond = self.first(low + (head + 1) * stride)
            if beyond - row < _FEW_ROWS:
                # Where directories have few chunks, many are looked at together.
                block = (self.indices(row, min(row + _ROWS, end)) - low) // stride
                found += block[np.flatnonzero(np.diff(block)) + 1].tolist()
                beyond = self.first(low + (found[-1] + 1) * stride)
            row = beyond
        return np.array(found[:count], np.int64)
