"""The chunk refs of one array, over all its manifests.

An array's manifests cover disjoint regions of its grid. Each loads when a name in its region is first asked for.
While one cannot be loaded, what it may hold is unknown: `find`, `has_any` and `children` then raise why, and never
guess "absent". After `load` the answers come from memory, without a checkpoint.
"""

import heapq
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import numpy as np
import trio

from vzfs.errors import VzfsError
from vzfs.model.manifest import ChunkRef, Manifest
from vzfs.model.snapshot import Array

RETRY_AFTER: Final = 5.0
"""Seconds for which a manifest that could not be loaded is not tried again."""
_ROWS: Final = 4096
"""Rows turned into Python objects at a time while listing."""

type Child = tuple[int, int]
"""A coordinate, and the chunk's length in bytes where the child is a chunk (else 0)."""


class _Failure:
    __slots__ = ("error", "until")

    def __init__(self, error: VzfsError) -> None:
        self.error = error
        self.until = trio.current_time() + RETRY_AFTER


class ArrayRefs:
    """Names of one array's chunks -> chunk refs."""

    def __init__(self, array: Array, load: Callable[[str], Awaitable[Manifest]]) -> None:
        self.array: Final = array
        self._load = load
        self._parts: list[Manifest | _Failure | None] = [None] * len(array.manifests)
        ranges = [m.extents.ranges for m in array.manifests]
        shape = (len(ranges), len(array.grid.shape), 2)
        self._extents = np.array(ranges, np.int64).reshape(shape)

    async def load(self, prefix: tuple[int, ...]) -> None:
        """Load every manifest that may hold a chunk whose coordinates begin with *prefix*."""
        now = trio.current_time()
        missing = [
            i
            for i in self._meeting(prefix)
            if (part := self._parts[i]) is None
            or (isinstance(part, _Failure) and part.until <= now)
        ]
        if not missing:
            return
        async with trio.open_nursery() as nursery:
            for i in missing:
                nursery.start_soon(self._load_part, i)

    async def _load_part(self, i: int) -> None:
        try:
            self._parts[i] = await self._load(self.array.manifests[i].id)
        except VzfsError as error:
            self._parts[i] = _Failure(error)

    def find(self, coords: tuple[int, ...]) -> ChunkRef | None:
        """Return the ref of the chunk at *coords*, or None if the snapshot has none there.

        Raises the VzfsError for which the manifest that would know could not be loaded.
        """
        flat = self.array.grid.ravel(coords)
        for part in self._loaded(coords):
            if (row := part.row(flat)) is not None:
                return part.ref(row)
        return None

    def has_any(self, prefix: tuple[int, ...]) -> bool:
        """Whether a chunk's coordinates begin with *prefix*. Raises as `find` does."""
        low, high = self.array.grid.span(prefix)
        parts = [self._parts[i] for i in self._meeting(prefix)]
        if any(isinstance(part, Manifest) and part.has_any(low, high) for part in parts):
            return True
        _raise_first_failure(parts)
        return False

    def children(self, prefix: tuple[int, ...], first: int = 0) -> Iterator[Child]:
        """Yield the next coordinates below *prefix*, from *first* on, ascending, each once.

        Memory does not grow with their number. Raises as `find` does.
        """
        strides = self.array.grid.strides
        low, high = self.array.grid.span(prefix)
        stride = strides[len(prefix)]
        runs = [_children_of(part, low, high, stride, first) for part in self._loaded(prefix)]
        previous = -1
        for child in heapq.merge(*runs):
            if child[0] != previous:
                previous = child[0]
                yield child

    def all_chunks(self, first: int = 0) -> Iterator[Child]:
        """Yield flat index and length of every chunk from the index *first* on. Raises as `find` does."""
        runs = [_leaves(part, 0, self.array.grid.size, first) for part in self._loaded(())]
        return heapq.merge(*runs)

    def count(self) -> int:
        """Return the number of chunks in all loaded manifests. Raises as `find` does."""
        return sum(len(part) for part in self.manifests())

    def manifests(self) -> list[Manifest]:
        """Return the distinct manifests of the array. Raises as `find` does."""
        return self._loaded(())

    def _meeting(self, prefix: tuple[int, ...]) -> list[int]:
        head = self._extents[:, : len(prefix)]
        point = np.array(prefix, np.int64)
        meets = ((head[:, :, 0] <= point) & (point < head[:, :, 1])).all(axis=1)
        found: list[int] = np.flatnonzero(meets).tolist()
        return found

    def _loaded(self, prefix: tuple[int, ...]) -> list[Manifest]:
        parts = [self._parts[i] for i in self._meeting(prefix)]
        _raise_first_failure(parts)
        # One file may speak for several regions of an array; its rows are counted once.
        return list({id(part): part for part in parts if isinstance(part, Manifest)}.values())


def _raise_first_failure(parts: list[Manifest | _Failure | None]) -> None:
    for part in parts:
        if isinstance(part, _Failure):
            raise part.error.with_traceback(None)
        if part is None:
            raise RuntimeError("a manifest was asked before it was loaded")


def _children_of(part: Manifest, low: int, high: int, stride: int, first: int) -> Iterator[Child]:
    if stride == 1:
        yield from _leaves(part, low, high, first)
        return
    row, end = part.first(low + first * stride), part.first(high)
    while row < end:
        coordinate = (int(part.index[row]) - low) // stride
        yield coordinate, 0
        row = part.first(low + (coordinate + 1) * stride)


def _leaves(part: Manifest, low: int, high: int, first: int) -> Iterator[Child]:
    row, end = part.first(low + first), part.first(high)
    while row < end:
        rows = slice(row, min(row + _ROWS, end))
        yield from zip((part.index[rows] - low).tolist(), part.length[rows].tolist(), strict=True)
        row = rows.stop
