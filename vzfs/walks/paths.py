"""Paths through a chunk grid: boxes and jumps, and the ordinals of the chunks on them."""

from collections.abc import Iterator, Sequence
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

    @property
    def line(self) -> tuple[int, int]:
        """The axis and the step of the innermost loop."""
        return self.loops[0].axis, self.loops[0].step

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
        """Return the chunk at a place from 0 to before *size*."""
        coords = [0] * len(self._steps)
        for axis, first, step, length, _ in self._steps:
            ordinal, index = divmod(ordinal, length)
            coords[axis] = first + index * step
        return tuple(coords)

    def stretch(self, start: int, end: int) -> Iterator[Coords]:
        """Yield the chunks at the places from *start* to before *end*, in order."""
        axis, first, step, length = self.loops[0]
        while start < end:
            coords = list(self.at(start))
            index = start % length
            count = min(length - index, end - start)
            for coordinate in range(first + index * step, first + (index + count) * step, step):
                coords[axis] = coordinate
                yield tuple(coords)
            start += count


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

    def stretch(self, start: int, end: int) -> Iterator[Coords]:
        """Yield the chunks at the places from *start* to before *end*, in order."""
        for ordinal in range(start, end):
            yield self._grid.unravel(self._first + ordinal * self._step)


type Path = Box | Jump


def to_the_edge(axis: int, first: int, step: int, shape: Coords) -> Loop:
    """Return the loop from *first* that ends at the edge of the grid."""
    room = shape[axis] - 1 - first if step > 0 else first
    return Loop(axis, first, step, room // abs(step) + 1)


def box_of(moved: Sequence[Loop], at: Coords, shape: Coords, before: Path | None = None) -> Box:
    """Return the path of a reader that was seen to move in the loops *moved*, innermost first.

    The outermost of them goes on to the edge of the grid, and then come the axes that have stood
    still, at *at*, in the order that the seen ones suggest: in F order if they ascend, else in C
    order. What was seen of these axes on the path *before* still holds.
    """
    outermost = moved[-1]
    direction = 1 if outermost.step > 0 else -1
    still = _still([loop.axis for loop in moved], len(shape))
    last = to_the_edge(outermost.axis, outermost.first, outermost.step, shape)
    outer = [to_the_edge(axis, at[axis], direction, shape) for axis in still]
    # A line may be trusted to go on after two steps, a plane not after two lines.
    is_trusted = len(moved) == 1 or outermost.length > 2
    seen = len(moved)
    for known in before.loops[: before.seen] if isinstance(before, Box) else ():
        index, rest = divmod(at[known.axis] - known.first, known.step)
        if rest or not 0 <= index < known.length:
            continue
        if known.axis == last.axis and known.step == last.step:
            last, is_trusted = known, True
        elif known.axis in still:
            # It was seen to move, so it lies further in than those that never were.
            outer = [loop for loop in outer if loop.axis != known.axis]
            outer.insert(seen - len(moved), known)
            seen += 1
    loops = (*moved[:-1], last, *outer)
    turns = []
    weight = 1
    for level, loop in enumerate(loops, 1):
        if level == len(moved) and not is_trusted and loop.length > 2:
            turns.append(2 * weight)
        if level > seen and loop.length > 1:
            turns.append(weight)
        weight *= loop.length
    return Box(loops, seen, turns)


def _still(moved: Sequence[int], ndim: int) -> list[int]:
    """Return the axes that have not moved, in the order in which they may be expected to."""
    still = [axis for axis in range(ndim) if axis not in moved]
    is_f_order = min(moved) == 0 or (len(moved) > 1 and list(moved) == sorted(moved))
    if not is_f_order:
        # C order: outward from the axis left of the outermost, then those that were left out.
        still.sort(key=lambda axis: (axis > moved[-1], -axis))
    return still


def box_like(model: Box, reached: int, touched: Sequence[Coords], shape: Coords) -> Box | None:
    """Return the box as large as that walked along *model*, some boxes away, that *touched* begins.

    *reached* is how far along its path the model was walked. So who reads block after block need
    not show anew how large they are. None if what was touched is not the beginning of such a block.
    """
    loops = []
    weight = 1
    for level, (axis, first, step, length) in enumerate(model.loops, 1):
        at = touched[-1][axis]
        if level > model.seen:
            loops.append(Loop(axis, at, 1, 1))
            continue
        walked = length if level < model.seen else min(reached // weight + 1, length)
        weight *= length
        stride = walked * step
        first += (at - first) // stride * stride
        if not 0 <= first < shape[axis]:
            return None
        loop = to_the_edge(axis, first, step, shape)
        loops.append(loop._replace(length=min(loop.length, walked)))
    box = Box(loops, model.seen)
    ordinals = [box.ordinal(coords) for coords in touched]
    begins = None not in ordinals and 0 in ordinals and box.size > len(touched)
    return box if begins else None
