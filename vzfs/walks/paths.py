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

    *seen* counts those, from the innermost, that were seen to move. *turns* are the ordinals,
    ascending, at which the reader would first do what it was not seen to do.
    """

    __slots__ = ("_steps", "loops", "seen", "size", "turns")

    def __init__(self, loops: Sequence[Loop], seen: int, turns: Sequence[int] = ()) -> None:
        self.loops = tuple(loops)
        self.seen = seen
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


def box_of(moved: Sequence[Loop], at: Coords, shape: Coords, before: Path | None = None) -> Box:
    """Return the path of a reader that was seen to move in the loops *moved*, innermost first.

    The outermost of them goes on to the edge of the grid, and then come the axes that have stood
    still, at *at*, in the order that the seen ones suggest: in F order if they ascend, else in C
    order. What the path *before* had it do outside of the inner loops, it still does.

    The reader may be trusted to go on along a line; not to begin a third one as it began the
    second, let alone with an axis that has not moved.
    """
    outermost = moved[-1]
    axes = [loop.axis for loop in moved]
    still = [axis for axis in range(len(shape)) if axis not in axes]
    if (axes != sorted(axes) or len(axes) == 1) and min(axes) > 0:
        # C order: outward from the axis left of the outermost, then those that were left out.
        still.sort(key=lambda axis: (axis > outermost.axis, -axis))
    direction = 1 if outermost.step > 0 else -1
    outer = {outermost.axis: to_the_edge(outermost.axis, outermost.first, outermost.step, shape)}
    outer.update((axis, to_the_edge(axis, at[axis], direction, shape)) for axis in still)
    seen = len(moved)
    is_known = False
    if isinstance(before, Box):
        known = {loop.axis: loop for loop in before.loops}
        order = [loop.axis for loop in before.loops if loop.axis in still]
        for axis, loop in outer.items():
            old = known[axis]
            index, rest = divmod(at[axis] - old.first, old.step)
            if not rest and 0 <= index < old.length and (axis in still or old.step == loop.step):
                outer[axis] = old
                is_known = is_known or (
                    axis == outermost.axis and before.seen > before.loops.index(old)
                )
        outer = {axis: outer[axis] for axis in (outermost.axis, *order)}
        seen = max(seen, before.seen if set(axes) == set(list(known)[: len(axes)]) else 0)
    loops = (*moved[:-1], *outer.values())
    turns = []
    weight = 1
    for level, loop in enumerate(loops, 1):
        if level == len(moved) > 1 and outermost.length == 2 < loop.length and not is_known:
            turns.append(weight * 2)
        if level > seen and loop.length > 1:
            turns.append(weight)
        weight *= loop.length
    return Box(loops, seen, turns)
