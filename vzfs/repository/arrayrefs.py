"""The chunk refs of one array, over all its manifests.

An array's manifests cover disjoint regions of its grid. Each loads when a name in its region is
first asked for. While one cannot be loaded, what it may hold is unknown: `find`, `length_of`,
`has_any` and listings then raise why, and never guess "absent". After `load` the answers come from
memory, without a checkpoint.

Of a manifest that is full, by the snapshot's count, the names are known before it is loaded: that
there is something below a prefix, and which coordinates come next. That a chunk is there, and where,
is for the manifest alone to say.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence, Set
from typing import Final, NamedTuple

import numpy as np
import trio

from vzfs.errors import VzfsError
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.manifest import ChunkRef, Column, Manifest
from vzfs.model.regions import Ranges, Regions, separate
from vzfs.model.snapshot import Array, Extents

RETRY_AFTER: Final = 5.0
"""Seconds for which a manifest that could not be loaded is not tried again."""
MAX_LOADS: Final = 8
"""Manifests of one array that load at a time; each is held whole while it is decoded."""
_FIRST_PAGE: Final = 64
"""Children listed before it is known whether more are wanted: a few microseconds."""
_PAGE: Final = 4096
"""Children turned into Python objects at a time while listing."""

type Child = tuple[int, int]
"""A coordinate, and the chunk's length in bytes where the child is a chunk (else 0)."""
type Children = tuple[Column[np.int64], Column[np.int64]]
"""Ascending coordinates, and as many lengths."""

_NO_CHILDREN: Final = (np.empty(0, np.int64), np.empty(0, np.int64))


class _Failure:
    __slots__ = ("error", "until")

    def __init__(self, error: VzfsError) -> None:
        self.error = error
        self.until = trio.current_time() + RETRY_AFTER


class _Below(NamedTuple):
    """What is listed: child n is what has flat indices in [low + n * stride, low + (n + 1) * stride)."""

    low: int
    high: int
    stride: int


class _Run(NamedTuple):
    """A manifest that may hold children from *low* to *high* of what is listed.

    None is in the place of one that is not loaded and has all of them.
    """

    low: int
    high: int
    part: Manifest | None


class ArrayRefs:
    """Names of one array's chunks -> chunk refs."""

    def __init__(
        self,
        array: Array,
        load: Callable[[str], Awaitable[Manifest]],
        full: Set[str] = frozenset(),
    ) -> None:
        self.array: Final = array
        self._load = load
        self._parts: list[Manifest | _Failure | None] = [None] * len(array.manifests)
        self._missing = len(self._parts)
        self._sole: Manifest | None = None
        self._strides: Final = array.grid.strides
        self._ravel: Final = array.grid.ravel
        self._ranges: Final = [_inside(array.grid, m.extents) for m in array.manifests]
        self._regions: Final = Regions(self._ranges)
        self._full: Final = [m.id in full for m in array.manifests]
        self._loading = trio.Semaphore(MAX_LOADS)

    # -- loading -------------------------------------------------------------------------------

    def is_loaded(self, prefix: tuple[int, ...]) -> bool:
        """Whether `load` would have nothing to do."""
        return not self._missing or not any(map(self._is_due, self._meeting(prefix)))

    async def load(self, prefix: tuple[int, ...]) -> None:
        """Load every manifest that may hold a chunk whose coordinates begin with *prefix*."""
        if self._missing:
            await self._load_parts(prefix, [i for i in self._meeting(prefix) if self._is_due(i)])

    def has_names(self, prefix: tuple[int, ...]) -> bool:
        """Whether `load_names` would have nothing to do."""
        return not self._missing or not any(map(self._is_nameless, self._meeting(prefix)))

    async def load_names(self, prefix: tuple[int, ...]) -> None:
        """Load the manifests that it takes to know which coordinates come next behind *prefix*."""
        if self._missing:
            due = [i for i in self._meeting(prefix) if self._is_nameless(i)]
            await self._load_parts(prefix, due)

    async def _load_parts(self, prefix: tuple[int, ...], due: Sequence[int]) -> None:
        if len(due) == 1:
            await self._load_part(due[0])
        elif due:
            async with trio.open_nursery() as nursery:
                for i in due:
                    nursery.start_soon(self._load_part, i)
        if due:
            self._keep_failures(prefix)

    def _keep_failures(self, prefix: tuple[int, ...]) -> None:
        """Have failures count from now, so that who has waited for all finds none to be tried again."""
        for i in self._meeting(prefix):
            part = self._parts[i]
            if isinstance(part, _Failure):
                part.until = trio.current_time() + RETRY_AFTER

    def _is_due(self, i: int) -> bool:
        part = self._parts[i]
        return part is None or (isinstance(part, _Failure) and part.until <= trio.current_time())

    def _is_nameless(self, i: int) -> bool:
        return not self._full[i] and self._is_due(i)

    def _is_full(self, i: int) -> bool:
        """Whether a manifest is not loaded, and has every chunk of its region."""
        return self._full[i] and not isinstance(self._parts[i], Manifest)

    async def _load_part(self, i: int) -> None:
        async with self._loading:
            try:
                part = await self._load(self.array.manifests[i].id)
            except VzfsError as error:
                self._parts[i] = _Failure(error)
                return
        if not isinstance(self._parts[i], Manifest):
            self._missing -= 1
        self._parts[i] = part
        if len(self._parts) == 1:
            self._sole = part

    def replace(self, manifest_id: str, manifest: Manifest) -> None:
        """Answer from *manifest*, which has the same refs as the one of that id that was loaded."""
        for i, part in enumerate(self._parts):
            if isinstance(part, Manifest) and self.array.manifests[i].id == manifest_id:
                self._parts[i] = manifest
                self._sole = manifest if self._sole is part else self._sole

    def _meeting(self, prefix: tuple[int, ...]) -> Sequence[int]:
        """Return the numbers of the manifests that may hold chunks below *prefix*."""
        if len(prefix) < len(self._strides):
            return list(self._regions.meeting(prefix))
        i = self._regions.at(prefix)
        return () if i is None else (i,)

    # -- one chunk -----------------------------------------------------------------------------

    def find(self, coords: tuple[int, ...]) -> ChunkRef | None:
        """Return the ref of the chunk at *coords*, or None if the snapshot has none there.

        Raises the VzfsError for which the manifest that would know could not be loaded.
        """
        part = self._sole or self._part_at(coords)
        if part is None:
            return None
        row = part.row(self._ravel(coords))
        return None if row is None else part.ref(row)

    def length_of(self, coords: tuple[int, ...]) -> int | None:
        """Return the length of the chunk at *coords* in bytes, or None. Raises as `find` does."""
        part = self._sole or self._part_at(coords)
        if part is None:
            return None
        row = part.row(self._ravel(coords))
        return None if row is None else part.length_at(row)

    def _part_at(self, coords: tuple[int, ...]) -> Manifest | None:
        i = self._regions.at(coords)
        return None if i is None else _loaded(self._parts[i])

    # -- directories ---------------------------------------------------------------------------

    async def has_any(self, prefix: tuple[int, ...]) -> bool:
        """Whether a chunk's coordinates begin with *prefix*.

        Loads no more manifests than it takes to know. Raises the VzfsError for which one that would
        know could not be loaded.
        """
        low, high = self.array.grid.span(prefix)
        if self._sole is not None:
            return self._sole.has_any(low, high)
        meeting = self._meeting(prefix)
        if any(map(self._is_full, meeting)):
            return True
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
        for i in meeting:
            _loaded(self._parts[i])
        return False

    def known_any(self, prefix: tuple[int, ...]) -> bool | None:
        """Answer as `has_any` does, without loading anything; None where what is known does not say."""
        low, high = self.array.grid.span(prefix)
        if self._sole is not None:
            return self._sole.has_any(low, high)
        meeting = self._meeting(prefix)
        parts = [self._parts[i] for i in meeting]
        if any(isinstance(part, Manifest) and part.has_any(low, high) for part in parts):
            return True
        if any(map(self._is_full, meeting)):
            return True
        if any(map(self._is_due, meeting)):
            return None
        for part in parts:
            _loaded(part)
        return False

    def children_arrays(self, prefix: tuple[int, ...], first: int, count: int) -> Children:
        """Return the next coordinates below *prefix*, from *first* on, and the lengths of chunks (else 0).

        They are at most *count*, and as many if there are as many. What is loaded are all manifests
        that it takes, or, where the coordinates are not chunks, their names. Raises as `find` does.
        """
        return self._listed(prefix, first, count, of_names=not self._is_leaf(prefix))

    def names_arrays(self, prefix: tuple[int, ...], first: int, count: int) -> Column[np.int64]:
        """Return the next coordinates as `children_arrays` does; their names are loaded. Raises as `find` does."""
        return self._listed(prefix, first, count, of_names=True)[0]

    def _listed(
        self, prefix: tuple[int, ...], first: int, count: int, *, of_names: bool
    ) -> Children:
        axis = len(prefix)
        below = _Below(*self.array.grid.span(prefix), self._strides[axis])
        return _listed(self._runs(prefix, axis, of_names=of_names), below, first, count)

    def _is_leaf(self, prefix: tuple[int, ...]) -> bool:
        """Whether what comes next behind *prefix* are chunks."""
        return len(prefix) + 1 >= len(self._strides)

    def children(self, prefix: tuple[int, ...], first: int = 0) -> Iterator[Child]:
        """Yield the next coordinates below *prefix*, from *first* on, ascending, each once.

        Memory does not grow with their number, nor the time to the first with that of the
        manifests. What is loaded is as for `children_arrays`. Raises as `find` does.
        """
        axis = len(prefix)
        below = _Below(*self.array.grid.span(prefix), self._strides[axis])
        runs = self._runs(prefix, axis, of_names=not self._is_leaf(prefix))
        return _one_by_one(runs, below, first)

    def all_chunks_arrays(self, first: int, count: int) -> Children:
        """Return flat indices, from *first* on, and lengths, as `children_arrays` does."""
        return _listed(self._all_runs(), _Below(0, self.array.grid.size, 1), first, count)

    def all_chunks(self, first: int = 0) -> Iterator[Child]:
        """Yield flat index and length of every chunk from the index *first* on. Raises as `find` does."""
        return _one_by_one(self._all_runs(), _Below(0, self.array.grid.size, 1), first)

    def manifests(self) -> list[Manifest]:
        """Return the distinct manifests of the array. Raises as `find` does."""
        return [run.part for run in self._runs((), 0) if run.part is not None]

    async def is_complete(self) -> bool:
        """Whether the snapshot has every chunk of the grid. Raises as `find` does."""
        await self.load(())
        return sum(len(part.index) for part in self.manifests()) == self.array.grid.size

    def _all_runs(self) -> list[_Run]:
        stride = self._strides[0] if self._strides and self._sole is None else 1
        return [_Run(low * stride, high * stride, part) for low, high, part in self._runs((), 0)]

    def _runs(self, prefix: tuple[int, ...], axis: int, *, of_names: bool = False) -> list[_Run]:
        """Return the distinct manifests that may hold chunks below *prefix*, and where along *axis*; sorted.

        One file may speak for several regions of an array; its rows are counted once. *of_names*:
        names are enough, so that those that are full need not be loaded.
        """
        if self._sole is not None:
            return [_Run(0, self.array.grid.size, self._sole)]
        found: dict[int, _Run] = {}
        full: list[tuple[int, int]] = []
        for i in self._meeting(prefix):
            if of_names and self._is_full(i):
                full.append(self._ranges[i][axis])
                continue
            part = _loaded(self._parts[i])
            low, high = self._ranges[i][axis] if self._strides else (0, 1)
            known = found.get(id(part), _Run(low, high, part))
            found[id(part)] = _Run(min(known.low, low), max(known.high, high), part)
        runs = [*found.values(), *(_Run(low, high, None) for low, high in _joined(full))]
        return sorted(runs, key=lambda run: run.low)


def _inside(grid: ChunkGrid, extents: Extents) -> Ranges:
    """Return what of a region is inside *grid*, which may have shrunk since; an empty one if nothing is."""
    ranges = zip(extents.ranges, grid.shape, strict=True)
    return tuple((low, min(high, n)) for (low, high), n in ranges)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *spans*, ascending, those that touch or overlap as one."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], high)
        else:
            joined.append((low, high))
    return joined


def _loaded(part: Manifest | _Failure | None) -> Manifest:
    if isinstance(part, Manifest):
        return part
    if isinstance(part, _Failure):
        raise part.error.with_traceback(None)
    raise RuntimeError("a manifest was asked before it was loaded")


def _one_by_one(runs: Sequence[_Run], below: _Below, first: int) -> Iterator[Child]:
    size = _FIRST_PAGE
    for together in _in_turn(runs, first):
        start: int | None = first
        while start is not None:
            coordinates, lengths = _merged(together, below, start, size)
            yield from zip(coordinates.tolist(), lengths.tolist(), strict=True)
            is_last = len(coordinates) < (size if len(together) == 1 else 1)
            start = None if is_last else int(coordinates[-1]) + 1
            size = _PAGE


def _listed(runs: Sequence[_Run], below: _Below, first: int, count: int) -> Children:
    """Return the next *count* children from *first* on."""
    if len(runs) == 1:
        return _next(runs[0], below, first, count)
    pages = [_NO_CHILDREN]
    for together in _in_turn(runs, first):
        start = first
        while count > 0 and len((page := _merged(together, below, start, count))[0]):
            pages.append(page)
            count -= len(page[0])
            start = int(page[0][-1]) + 1
        if count <= 0:
            break
    return np.concatenate([p[0] for p in pages]), np.concatenate([p[1] for p in pages])


def _in_turn(runs: Sequence[_Run], first: int) -> Iterator[Sequence[_Run]]:
    """Yield those manifests together whose children from *first* on may alternate, before those beyond."""
    if len(runs) == 1:
        yield runs
        return
    runs = [run for run in runs if run.high > first]
    for together in separate([(run.low, run.high) for run in runs]):
        yield [runs[i] for i in together]


def _merged(parts: Sequence[_Run], below: _Below, first: int, count: int) -> Children:
    """Return up to *count* of the next children of *parts* together, none only if there is none."""
    if len(parts) == 1:
        return _next(parts[0], below, first, count)
    # Beyond the last that a part gave, there may be more of it in between.
    each = max(count // len(parts), 1)
    pages = [_next(part, below, first, each) for part in parts]
    bound = min((int(page[0][-1]) for page in pages if len(page[0]) == each), default=None)
    coordinates = np.concatenate([page[0] for page in pages])
    lengths = np.concatenate([page[1] for page in pages])
    coordinates, rows = np.unique(coordinates, return_index=True)
    if bound is not None:
        coordinates = coordinates[: int(coordinates.searchsorted(bound, "right"))]
    coordinates = coordinates[:count]
    return coordinates, lengths[rows[: len(coordinates)]]


def _next(run: _Run, below: _Below, first: int, count: int) -> Children:
    """Return the next *count* children that *run* has, from *first* on."""
    part = run.part
    if part is None:
        first = max(first, run.low)
        names = np.arange(first, min(run.high, first + count), dtype=np.int64)
        return names, np.zeros(len(names), np.int64)
    start = below.low + first * below.stride
    if below.stride == 1:
        flats, lengths = part.chunks(start, below.high, count)
        return flats - below.low if below.low else flats, lengths
    heads = part.heads(start, below.high, below.stride, count) + first
    return heads, np.zeros(len(heads), np.int64)
