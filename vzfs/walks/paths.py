"""Paths through a chunk grid: boxes and jumps, and the ordinals of the chunks on them."""

from collections.abc import Sequence
from typing import NamedTuple

from vzfs.model.chunkgrid import ChunkGrid

type Coords = tuple[int, ...]
"""Where a chunk lies in its grid."""
type Touch = tuple[int, Coords]
"""A chunk that was touched, after when: the time counts the touches of the array."""


class Loop(NamedTuple):
    """One axis of a box: *length* coordinates from *first* in steps of *step*, also negative."""

    axis: int
    first: int
    step: int
    length: int


class Box:
    """Nested loops over all axes, innermost first.

    *turns* are the ordinals, ascending, at which the reader would first do what it was not seen to
    do.
    """

    __slots__ = ("_steps", "loops", "size", "turns")

    def __init__(self, loops: Sequence[Loop], turns: Sequence[int] = ()) -> None:
        self.loops = tuple(loops)
        self.turns = tuple(turns)
        steps = []
        weight = 1
        for loop in loops:
            steps.append((*loop, weight))
            weight *= loop.length
        self._steps = tuple(steps)
        self.size = weight

    def ordinal(self, coords: Coords) -> int | None:
        """Return the place of a chunk in the walk, or None if it is not on the path."""
        ordinal = 0
        for axis, first, step, length, weight in self._steps:
            index, rest = divmod(coords[axis] - first, step)
            if rest or not 0 <= index < length:
                return None
            ordinal += index * weight
        return ordinal

    def at(self, ordinal: int) -> Coords:
        """Return the chunk at a place from 0 to *size* - 1."""
        coords = [0] * len(self._steps)
        for axis, first, step, length, _ in self._steps:
            ordinal, index = divmod(ordinal, length)
            coords[axis] = first + index * step
        return tuple(coords)


class Jump:
    """Every *step*-th chunk in C order from the flat index *first* to the end of the grid."""

    __slots__ = ("_first", "_grid", "_step", "size")

    turns: tuple[int, ...] = ()

    def __init__(self, grid: ChunkGrid, first: int, step: int) -> None:
        self._grid = grid
        self._first = first
        self._step = step
        self.size = to_the_edge(0, first, step, (grid.size,)).length

    def ordinal(self, coords: Coords) -> int | None:
        """Return the place of a chunk in the walk, or None if it is not on the path."""
        ordinal, rest = divmod(self._grid.ravel(coords) - self._first, self._step)
        return None if rest or not 0 <= ordinal < self.size else ordinal

    def at(self, ordinal: int) -> Coords:
        """Return the chunk at a place from 0 to *size* - 1."""
        return self._grid.unravel(self._first + ordinal * self._step)


type Path = Box | Jump


def to_the_edge(axis: int, first: int, step: int, shape: Coords) -> Loop:
    """Return the loop from *first* that ends at the edge of the grid."""
    room = shape[axis] - 1 - first if step > 0 else first
    return Loop(axis, first, step, room // abs(step) + 1)


def box_of(moving: Sequence[Loop], at: Coords, shape: Coords) -> Box:
    """Return the path of a reader that was seen to move in the loops *moving*, innermost first.

    The outermost of them goes on to the edge of the grid, and then come the axes that have stood
    still, at *at*, in the order that the seen ones suggest: in F order if they ascend, else in C
    order. The reader was not seen to do any of that, but it may be trusted to go on along a line;
    not to begin a third one as it began the second, let alone with an axis that has not moved.
    """
    outermost = moving[-1]
    axes = [loop.axis for loop in moving]
    still = [axis for axis in range(len(shape)) if axis not in axes]
    if (axes != sorted(axes) or len(axes) == 1) and min(axes) > 0:
        # C order: outward from the axis left of the outermost, then those that were left out.
        still.sort(key=lambda axis: (axis > outermost.axis, -axis))
    direction = 1 if outermost.step > 0 else -1
    loops = (
        *moving[:-1],
        to_the_edge(outermost.axis, outermost.first, outermost.step, shape),
        *(to_the_edge(axis, at[axis], direction, shape) for axis in still),
    )
    turns = []
    weight = 1
    for level, loop in enumerate(loops, 1):
        if level == len(moving) > 1 and outermost.length == 2 < loop.length:
            turns.append(weight * 2)
        if level > len(moving) and loop.length > 1:
            turns.append(weight)
        weight *= loop.length
    return Box(loops, turns)
