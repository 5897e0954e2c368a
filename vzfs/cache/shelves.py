"""What is known of shelves: their segments, which entries lie where, and the files held open.

It belongs to one event loop and never waits. It is bounded in rows and in descriptors; what it
forgets is read again from the folder. What another process adds to a shelf is seen when the shelf is
looked at again, and what another process deletes when it is not there to be read.
"""

import bisect
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from vzfs.cache.segment import Contents, halves
from vzfs.model.manifest import Column

MAX_ROWS: Final = 2**19
"""Rows of all shelves together, at most 32 MiB of memory: tables of 16 GiB in entries of 32 KiB."""
_ROWS_OF_A_SHELF: Final = 16
"""Rows that it counts as to know of a shelf at all."""
MAX_DESCRIPTORS: Final = 256
"""Files held open, where the process may have four times as many."""
FEW: Final = 8
"""Segments of like size on a shelf that are too many: they become one."""
_LIKE: Final = 3
"""Powers of two in which sizes count as alike: so a byte is written again each time its segment has
grown to the eightfold."""


class Descriptor:
    """An open file, closed when nobody refers to it: a thread may read longer than anybody waits.

    Nothing but a `Segment` may refer to it for long, and no result of a thread directly: those live
    until the next garbage collection.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class Segment:
    """A segment as it was found: its path *name*, what it holds, its *size*, and when it was used last.

    *used_at* is in seconds since the epoch. *is_read* since it was last asked whether anybody reads it.
    """

    __slots__ = ("contents", "descriptor", "is_read", "name", "size", "used_at")

    def __init__(
        self,
        name: str,
        contents: Contents,
        size: int,
        used_at: float,
        descriptor: Descriptor | None = None,
    ) -> None:
        self.name = name
        self.contents = contents
        self.size = size
        self.used_at = used_at
        self.descriptor = descriptor
        self.is_read = True


class Table:
    """The rows of several *segments*, sorted by *high*, those of later segments behind: equal columns.

    Entries are found in views of the columns, which give a number in a third of the time that numpy takes.
    """

    __slots__ = (
        "_highs", "_lows", "_numbers", "_offsets", "_sizes", "high", "low", "number", "offset",
        "segments",
    )  # fmt: skip

    def __init__(self, segments: Sequence[Segment]) -> None:
        tables = [segment.contents for segment in segments]
        none = [np.empty(0, np.uint64)]
        high = np.concatenate([t.high for t in tables] or none)
        order = np.argsort(high, kind="stable")
        numbers = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
        self.segments: Final = segments
        self.high: Final[Column[np.uint64]] = high[order]
        self.low: Final[Column[np.uint64]] = np.concatenate([t.low for t in tables] or none)[order]
        self.offset: Final[Column[np.uint64]] = np.concatenate([t.offset for t in tables] or none)[
            order
        ]
        self.number: Final[Column[np.int64]] = numbers[order]
        size = np.concatenate([t.size for t in tables] or none)[order]
        self._highs, self._lows = memoryview(self.high), memoryview(self.low)
        self._offsets, self._sizes = memoryview(self.offset), memoryview(size)
        self._numbers = memoryview(self.number)

    def find(self, digest: bytes) -> tuple[Segment, int, int] | None:
        """Return segment, offset and size of the last entry of *digest*."""
        high, low = halves(digest)
        highs = self._highs
        at = bisect.bisect_right(highs, high) - 1
        while at >= 0 and highs[at] == high:
            if self._lows[at] == low:
                return self.segments[self._numbers[at]], self._offsets[at], self._sizes[at]
            at -= 1
        return None

    def rows(self, segment: Segment) -> Iterator[tuple[bytes, int, int]]:
        """Yield digest, offset and size of those entries of *segment* that count, by offset."""
        counts = np.ones(len(self.high), bool)
        counts[:-1] = (self.high[:-1] != self.high[1:]) | (self.low[:-1] != self.low[1:])
        at = np.flatnonzero(counts & (self.number == self.segments.index(segment)))
        for row in at[np.argsort(self.offset[at])]:
            digest = self.high[row].tobytes() + self.low[row].tobytes()
            yield digest, self._offsets[row], self._sizes[row]


class Shelf:
    """The segments of one shelf, by name. *looked_at* is when they were listed."""

    def __init__(self, path: str, looked_at: float) -> None:
        self.path: Final = path
        self.looked_at = looked_at
        self.segments: dict[str, Segment] = {}
        self._table: Table | None = None

    @property
    def weight(self) -> int:
        """The number of rows that it counts as."""
        return _ROWS_OF_A_SHELF + sum(len(s.contents) for s in self.segments.values())

    def add(self, segments: Iterable[Segment]) -> None:
        """Know *segments* too."""
        self.segments |= {segment.name: segment for segment in segments}
        self._table = None

    def drop(self, names: Iterable[str]) -> None:
        """Forget the segments *names*, where they are known."""
        for name in names:
            self.segments.pop(name, None)
        self._table = None

    def table(self) -> Table:
        """Return the table of all segments."""
        if self._table is None:
            self._table = Table([self.segments[name] for name in sorted(self.segments)])
        return self._table

    def find(self, digest: bytes) -> tuple[Segment, int, int] | None:
        """Return segment, offset and size of the last entry of *digest*."""
        return self.table().find(digest)

    def alike(self, owner: str, max_bytes: int) -> list[Segment]:
        """Return segments of *owner*, alike in size, that should be one of at most *max_bytes*; [] if none."""
        classes: dict[int, list[Segment]] = {}
        for segment in self.segments.values():
            if segment.contents.owner == owner:
                classes.setdefault(segment.size.bit_length() // _LIKE, []).append(segment)
        for found in classes.values():
            if len(found) >= FEW and sum(s.size for s in found) <= max_bytes:
                return sorted(found, key=lambda s: s.name)
        return []


class Shelves:
    """The shelves and descriptors used last, within their bounds. Shelves are named by their path."""

    def __init__(self) -> None:
        self._shelves: OrderedDict[str, Shelf] = OrderedDict()
        self._weights: dict[str, int] = {}
        self._weight = 0
        self._open: OrderedDict[Segment, None] = OrderedDict()
        may_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_open = MAX_DESCRIPTORS if may_open < 0 else min(MAX_DESCRIPTORS, may_open // 4)

    def __iter__(self) -> Iterator[Shelf]:
        """Yield what is known."""
        return iter(list(self._shelves.values()))

    def get(self, path: str) -> Shelf | None:
        """Return the shelf at *path*, if it is known, as used last."""
        shelf = self._shelves.get(path)
        if shelf is not None:
            self._shelves.move_to_end(path)
        return shelf

    def put(self, shelf: Shelf) -> None:
        """Know *shelf*, or what has become of it; forget what was used longest ago instead."""
        self._shelves[shelf.path] = shelf
        self._shelves.move_to_end(shelf.path)
        weight = shelf.weight
        self._weight += weight - self._weights.get(shelf.path, 0)
        self._weights[shelf.path] = weight
        while self._weight > MAX_ROWS and len(self._shelves) > 1:
            path, _ = self._shelves.popitem(last=False)
            self._weight -= self._weights.pop(path)
        for segment in shelf.segments.values():
            if segment.descriptor is not None and segment not in self._open:
                self.read(segment)

    def read(self, segment: Segment) -> None:
        """Count the open *segment* as read now, and close what was read longest ago beyond the bound."""
        segment.is_read = True
        self._open[segment] = None
        self._open.move_to_end(segment)
        while len(self._open) > self._max_open:
            self._open.popitem(last=False)[0].descriptor = None

    def open_segments(self) -> list[Segment]:
        """Return the segments held open."""
        return list(self._open)

    def close(self, segments: Iterable[Segment]) -> list[Descriptor]:
        """Hold *segments* open no longer; return their descriptors, to let go of where one may wait."""
        closed = []
        for segment in segments:
            self._open.pop(segment, None)
            if segment.descriptor is not None:
                closed.append(segment.descriptor)
                segment.descriptor = None
        return closed

    def clear(self) -> list[Descriptor]:
        """Forget everything; return what was open, to let go of where one may wait."""
        self._shelves.clear()
        self._weights.clear()
        self._weight = 0
        return self.close(self.open_segments())
