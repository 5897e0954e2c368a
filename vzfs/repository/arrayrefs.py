"""The chunk refs of one array, over all its manifests.

An array's manifests cover disjoint regions of its grid. Each loads when a name in its region is
first asked for. While one cannot be loaded, what it may hold is unknown: `find`, `has_any` and
`children` then raise why, and never guess "absent". After `load` the answers come from memory,
without a checkpoint.
"""

import functools
import heapq
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import numpy as np
import trio

from vzfs.errors import VzfsError
from vzfs.model.manifest import ChunkRef, Manifest
from vzfs.model.snapshot import Array

RETRY_AFTER: Final = 5.0
"""Seconds for which a manifest that could not be loaded is not tried again."""
MAX_LOADS: Final = 8
"""Manifests of one array that load at a time; each is held whole while it is decoded."""
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
        self._loading = trio.Semaphore(MAX_LOADS)
        self._extents = np.array(ranges, np.int64).reshape(shape)

    async def load(self, prefix: tuple[int, ...]) -> None:
        """Load every manifest that may hold a chunk whose coordinates begin with *prefix*."""
        missing = [i for i in self._meeting(prefix) if self._is_due(i)]
        if len(missing) == 1:
            await self._load_part(missing[0])
        elif missing:
            async with trio.open_nursery() as nursery:
                for i in missing:
                    nursery.start_soon(self._load_part, i)
        if missing:
            self._keep_failures(prefix)

    def is_loaded(self, prefix: tuple[int, ...]) -> bool:
        """Whether `load` has nothing to do for *prefix*, as at first after it has returned."""
        return not any(map(self._is_due, self._meeting(prefix)))

    def _keep_failures(self, prefix: tuple[int, ...]) -> None:
        """Have failures count from now, so that who has waited for all finds none to be tried again."""
        for i in self._meeting(prefix):
            part = self._parts[i]
            if isinstance(part, _Failure):
                part.until = trio.current_time() + RETRY_AFTER

    def _is_due(self, i: int) -> bool:
        part = self._parts[i]
        return part is None or (isinstance(part, _Failure) and part.until <= trio.current_time())

    async def _load_part(self, i: int) -> None:
        async with self._loading:
            try:
                self._parts[i] = await self._load(self.array.manifests[i].id)
            except VzfsError as error:
                self._parts[i] = _Failure(error)

    async def has_any(self, prefix: tuple[int, ...]) -> bool:
        """Whether a chunk's coordinates begin with *prefix*.

        Loads no more manifests than it takes to know. Raises the VzfsError for which one that would
        know could not be loaded.
        """
        low, high = self.array.grid.span(prefix)
        meeting = self._meeting(prefix)
        has_loaded = False
        for i in sorted(meeting, key=self._is_due):
            if self._is_due(i):
                await self._load_part(i)
                has_loaded = True
            part = self._parts[i]
            if isinstance(part, Manifest) and part.has_any(low, high):
                return True
        if has_loaded:
            self._keep_failures(prefix)
        _raise_first_failure([self._parts[i] for i in meeting])
        return False

    def known_any(self, prefix: tuple[int, ...]) -> bool | None:
        """Answer as `has_any` does, from what is loaded; None where that does not say."""
        low, high = self.array.grid.span(prefix)
        meeting = self._meeting(prefix)
        parts = [self._parts[i] for i in meeting]
        if any(isinstance(part, Manifest) and part.has_any(low, high) for part in parts):
            return True
        if any(map(self._is_due, meeting)):
            return None
        _raise_first_failure(parts)
        return False

    def find(self, coords: tuple[int, ...]) -> ChunkRef | None:
        """Return the ref of the chunk at *coords*, or None if the snapshot has none there.

        Raises the VzfsError for which the manifest that would know could not be loaded.
        """
        flat = self.array.grid.ravel(coords)
        parts = [self._parts[i] for i in self._meeting(coords)]
        for part in parts:
            if isinstance(part, Manifest) and (row := part.row(flat)) is not None:
                return part.ref(row)
        _raise_first_failure(parts)
        return None

    def children(self, prefix: tuple[int, ...], first: int = 0) -> Iterator[Child]:
        """Yield the next coordinates below *prefix*, from *first* on, ascending, each once.

        Memory does not grow with their number, nor the time to the first with that of the
        manifests. Raises as `find` does.
        """
        axis = len(prefix)
        low, high = self.array.grid.span(prefix)
        stride = self.array.grid.strides[axis]
        runs = [
            (span, functools.partial(_children_of, part, low, high, stride, first))
            for span, part in self._spans(prefix, axis)
            if span[1] > first
        ]
        previous = -1
        for child in _in_turn(runs):
            if child[0] != previous:
                previous = child[0]
                yield child

    def all_chunks(self, first: int = 0) -> Iterator[Child]:
        """Yield flat index and length of every chunk from the index *first* on. Raises as `find` does."""
        size = self.array.grid.size
        stride = self.array.grid.strides[0] if self.array.grid.shape else 1
        runs = [
            (span, functools.partial(_leaves, part, 0, size, first))
            for span, part in self._spans((), 0)
            if span[1] * stride > first
        ]
        return _in_turn(runs)

    def _spans(self, prefix: tuple[int, ...], axis: int) -> list[tuple[tuple[int, int], Manifest]]:
        """Return the distinct manifests that may hold chunks below *prefix*, each with where it begins and ends.

        One file may speak for several regions of an array; its rows are counted once.
        """
        meeting = self._meeting(prefix)
        _raise_first_failure([self._parts[i] for i in meeting])
        found: dict[int, tuple[tuple[int, int], Manifest]] = {}
        is_scalar = not self.array.grid.shape
        spans = [(0, 1)] * len(meeting) if is_scalar else self._extents[meeting, axis].tolist()
        for i, (low, high) in zip(meeting, spans, strict=True):
            part = self._parts[i]
            if isinstance(part, Manifest):
                known = found.get(id(part), ((low, high), part))[0]
                found[id(part)] = (min(known[0], low), max(known[1], high)), part
        return sorted(found.values(), key=lambda item: item[0])

    def manifests(self) -> list[Manifest]:
        """Return the distinct manifests of the array. Raises as `find` does."""
        return [part for _, part in self._spans((), 0)]

    def _meeting(self, prefix: tuple[int, ...]) -> list[int]:
        head = self._extents[:, : len(prefix)]
        point = np.array(prefix, np.int64)
        meets = ((head[:, :, 0] <= point) & (point < head[:, :, 1])).all(axis=1)
        found: list[int] = np.flatnonzero(meets).tolist()
        return found


def _in_turn(
    runs: Sequence[tuple[tuple[int, int], Callable[[], Iterator[Child]]]],
) -> Iterator[Child]:
    """Merge *runs*, sorted by where they begin; none is begun before its turn comes."""
    begun: list[Callable[[], Iterator[Child]]] = []
    end = 0
    for (low, high), run in runs:
        if begun and low >= end:
            yield from heapq.merge(*(start() for start in begun))
            begun = []
        begun.append(run)
        end = max(end, high)
    yield from heapq.merge(*(start() for start in begun))


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
