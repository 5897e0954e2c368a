"""What is known of the chunks of an array, summed up in the cells of a drawing. Pure.

A `Plane` says which chunks are drawn: those along at most two axes, at one place of each other axis
or at all of them. A `ChunkMap` counts them in cells, of which each stands for as many chunks as it
takes for the drawing to have a size to look at. So memory is that of the drawing, however many
chunks there are.
"""

import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.chunkgrid import ChunkGrid

type Ints = npt.NDArray[np.int64]


class State(enum.IntEnum):
    """What is known of a chunk that is there."""

    UNASKED = 0
    INLINE = 1
    NATIVE = 2
    NATIVE_CACHED = 3
    VIRTUAL = 4
    VIRTUAL_CACHED = 5
    STALE = 6


class Look(NamedTuple):
    """How a state is shown: in words, by a letter where there are no colours, and as red, green, blue."""

    words: str
    letter: str
    colour: tuple[int, int, int]


# Colours that people and terminals who know few of them can tell apart, lighter for what is cached.
LOOKS: Final = {
    State.UNASKED: Look("there, not asked of what kind", "?", (150, 150, 150)),
    State.INLINE: Look("inline", "i", (240, 228, 66)),
    State.NATIVE: Look("native", "n", (0, 130, 60)),
    State.NATIVE_CACHED: Look("native, cached", "N", (80, 230, 120)),
    State.VIRTUAL: Look("virtual", "v", (20, 80, 200)),
    State.VIRTUAL_CACHED: Look("virtual, cached", "V", (110, 200, 250)),
    State.STALE: Look("stale", "!", (210, 0, 140)),
}
MISSING: Final = Look("missing", "\N{MIDDLE DOT}", (70, 70, 70))


class Plane(NamedTuple):
    """The chunks of *grid* that are drawn.

    *axes* are those that are drawn, at most two, the one that goes down first; *at* has for each
    axis the one coordinate that counts, None for all of them.
    """

    grid: ChunkGrid
    axes: tuple[int, ...]
    at: tuple[int | None, ...]

    @property
    def extents(self) -> tuple[int, int]:
        """How many chunks go down and across; one axis goes across."""
        counts = [self.grid.shape[axis] for axis in self.axes]
        down, across = [1, 1, *counts][-2:]
        return down, across

    @property
    def depth(self) -> int:
        """How many chunks lie behind one another at each place."""
        counts = zip(self.grid.shape, self.at, strict=True)
        behind = (n for axis, (n, at) in enumerate(counts) if at is None and axis not in self.axes)
        return math.prod(behind)

    @property
    def size(self) -> int:
        """How many chunks are drawn, there or not."""
        return math.prod(self.extents) * self.depth

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes along which several chunks are drawn together."""
        return tuple(
            axis
            for axis, at in enumerate(self.at)
            if at is None and axis not in self.axes and self.grid.shape[axis] != 1
        )

    def places(self, flats: Ints) -> tuple[Ints, Ints]:
        """Return how far down and across chunks lie, by their flat indices."""
        zeros = np.zeros_like(flats)
        along = [flats // self.grid.strides[a] % self.grid.shape[a] for a in self.axes]
        down, across = [zeros, zeros, *along][-2:]
        return down, across


def choose(grid: ChunkGrid, axes: Sequence[int] | None, at: Sequence[int | None] | None) -> Plane:
    """Return the plane that *axes*, and *at* for the axes that are not drawn, ask for.

    Without *axes* the last axes are drawn; without *at* too, the last two along which there is more
    than one chunk, for what lies along the others is drawn together. Raises ConfigError.
    """
    ndim = len(grid.shape)
    if axes is None:
        drawn = _usual(grid) if at is None else tuple(range(len(at), ndim))
        if len(drawn) > 2 or (at is not None and len(at) > ndim):
            raise _wrong(
                f"--at names {_places(len(at or ()))}, and the grid has {ndim} axes",
                f"name {max(ndim - 2, 0)} or {max(ndim - 1, 0)}, separated by commas",
            )
    else:
        drawn = tuple(axis + ndim if axis < 0 else axis for axis in axes)
        if len(set(drawn)) != len(drawn) or len(drawn) > 2 or not _are_within(drawn, ndim):
            raise _wrong(
                f"--axes={','.join(map(str, axes))} are not one or two different axes of {ndim}",
                "axes are numbered from 0",
            )
    others = [axis for axis in range(ndim) if axis not in drawn]
    if at is not None and len(at) != len(others):
        raise _wrong(
            f"--at names {_places(len(at))}, and {len(others)} axes are not drawn",
            "write a chunk's coordinate for each of them, or * for all, separated by commas",
        )
    fixed: list[int | None] = [None] * ndim
    for axis, place in zip(others, at or [None] * len(others), strict=True):
        if place is not None and not 0 <= place < grid.shape[axis]:
            raise _wrong(
                f"there is no chunk {place} along axis {axis}",
                f"there are {grid.shape[axis]}, numbered from 0",
            )
        fixed[axis] = place
    return Plane(grid, drawn, tuple(fixed))


def _usual(grid: ChunkGrid) -> tuple[int, ...]:
    several = [axis for axis, count in enumerate(grid.shape) if count > 1]
    return tuple((several or list(range(len(grid.shape))))[-2:])


def _are_within(axes: Sequence[int], ndim: int) -> bool:
    return all(0 <= axis < ndim for axis in axes)


def _places(count: int) -> str:
    return "one place" if count == 1 else f"{count} places"


def _wrong(what: str, advice: str) -> ConfigError:
    return ConfigError(ErrorKind.BAD_USAGE, what, advice=advice)


@dataclasses.dataclass(frozen=True)
class ChunkMap:
    """Chunks of a plane counted by state in *cells*; each stands for *down* by *across* places.

    `counts[state]` is a matrix of cells. What is there and was never put elsewhere is UNASKED.
    """

    plane: Plane
    down: int
    across: int
    counts: npt.NDArray[np.int64]

    @classmethod
    def fit(cls, plane: Plane, rows: int, columns: int) -> "ChunkMap":
        """Return an empty map of at most so many cells down and across."""
        height, width = plane.extents
        down, across = _per_cell(height, rows), _per_cell(width, columns)
        shape = (len(State), -(-height // down), -(-width // across))
        return cls(plane, down, across, np.zeros(shape, np.int64))

    @property
    def totals(self) -> Ints:
        """How many chunks each cell stands for, there or not."""
        height, width = self.plane.extents
        down = np.diff(np.append(np.arange(0, height, self.down), height))
        across = np.diff(np.append(np.arange(0, width, self.across), width))
        totals: Ints = np.multiply.outer(down, across) * self.plane.depth
        return totals

    @property
    def present(self) -> Ints:
        """How many chunks of each cell are there."""
        present: Ints = self.counts.sum(axis=0)
        return present

    @property
    def per_cell(self) -> int:
        """How many chunks a cell stands for; those at the edges may stand for fewer."""
        height, width = self.plane.extents
        return min(self.down, height) * min(self.across, width) * self.plane.depth

    def add(self, flats: Ints) -> None:
        """Count chunks that are there, by their flat indices."""
        np.add.at(self.counts[State.UNASKED], self._cells(flats), 1)

    def tell(self, flats: Ints, states: Ints) -> None:
        """Say what chunks that were counted are."""
        cells = self._cells(flats)
        np.subtract.at(self.counts[State.UNASKED], cells, 1)
        np.add.at(self.counts, (states, *cells), 1)

    def _cells(self, flats: Ints) -> tuple[Ints, Ints]:
        down, across = self.plane.places(flats)
        return down // self.down, across // self.across

    @property
    def dominant(self) -> Ints:
        """The state to show of each cell: stale if any chunk is, else what most that were asked are."""
        asked = self.counts[State.UNASKED + 1 :]
        most: Ints = np.where(asked.any(axis=0), asked.argmax(axis=0) + 1, State.UNASKED)
        return np.where(self.counts[State.STALE] > 0, State.STALE, most)

    def sums(self) -> dict[State, int]:
        """Return how many chunks are in each state."""
        return {state: int(self.counts[state].sum()) for state in State}

    @property
    def missing(self) -> int:
        """How many chunks are not there."""
        return self.plane.size - int(self.counts.sum())


def _per_cell(extent: int, cells: int) -> int:
    """Return how many places a cell stands for, a round number of them."""
    least = -(-extent // max(cells, 1))
    return next(number for number in _round_numbers() if number >= least)


def _round_numbers() -> Iterator[int]:
    """Yield numbers that are easy to count by, none a third larger than the last but the first few."""
    yield from range(1, 7)
    power = 1
    while True:
        yield from (power * number for number in (8, 10, 12, 15, 20, 25, 30, 40, 50, 60))
        power *= 10


class Sample:
    """At most *limit* of any number of flat indices, without regard to where they lie.

    Chosen are those whose hash is smallest: the same ones in whatever order they come, and in no
    step with the grid.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Ints] = []
        self._count = 0

    def add(self, flats: Ints) -> None:
        """Offer more."""
        self._kept.append(flats)
        self._count += len(flats)
        if self._count > 2 * self._limit:
            self._kept = [self._smallest()]
            self._count = len(self._kept[0])

    def chosen(self) -> Ints:
        """Return those that are chosen, ascending."""
        return np.sort(self._smallest())

    def _smallest(self) -> Ints:
        flats = np.concatenate([*self._kept, np.empty(0, np.int64)])
        if len(flats) <= self._limit:
            return flats
        return flats[np.argpartition(_hashed(flats), self._limit)[: self._limit]]


def _hashed(flats: Ints) -> npt.NDArray[np.uint64]:
    """Mix the bits of integers, so that neighbours are far from each other."""
    mixed = flats.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
