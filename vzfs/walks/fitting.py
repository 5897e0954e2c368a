"""From touches to a path: progressions that chance would hardly make, and the boxes touches fill."""

import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from vzfs.model.chunkgrid import ChunkGrid
from vzfs.walks.paths import Box, Coords, Jump, Loop, Path, Touch, box_of

CHANCE: Final = 2e-5
"""How often a touch of a random reader may seem to belong to a progression."""
LEAST_SIZE: Final = 1024
"""Chunks. A smaller grid counts as so large: little can be got in vain there, and chance would
explain all."""
MAX_PARTNERS: Final = 32
"""With how many late strays a touch is tried as the next of a progression."""
MAX_PERMUTED: Final = 3
"""Up to how many moving axes every order is tried; beyond that, C order and F order."""


class Fit(NamedTuple):
    """The box that some touches fill best, and how well.

    *moved* are the loops that were seen to move, innermost first; *lag* is by how many places a touch
    came behind another.
    """

    box: Box
    moved: list[Loop]
    lag: int


class _Axis(NamedTuple):
    """The lattice of the touches' coordinates along one axis, and each one's index in it."""

    axis: int
    low: int
    step: int
    length: int
    indices: list[int]


def progression(flat: int, touch: Touch, strays: dict[int, Touch], grid: ChunkGrid) -> list[int]:
    """Return the strays that form a progression with *flat*, just touched, the oldest first.

    Empty if there is none that chance would not make as well. How likely that is depends on how
    many chunks are in step, in how many touches, in how large a grid, and on how plain the step is.
    """
    now, coords = touch
    size = max(grid.size, LEAST_SIZE)
    best: list[int] = []
    for other in itertools.islice(reversed(strays.keys()), MAX_PARTNERS):
        step = flat - other
        if other - step not in strays and flat + step not in strays:
            continue
        run = [*_run(flat, -step, strays), *_run(flat, step, strays)]
        if len(run) <= len(best):
            continue
        age = now - min(strays[member][0] for member in run) + 1
        ways = (len(run) + 1) * _plainness(coords, strays[other][1], step)
        if ways * (age / size) ** len(run) <= CHANCE:
            best = run
    return sorted(best, key=strays.__getitem__)


def _run(flat: int, step: int, strays: dict[int, Touch]) -> list[int]:
    """Return the unbroken run of strays beside *flat* in one direction."""
    run = []
    while (flat := flat + step) in strays:
        run.append(flat)
    return run


def _plainness(coords: Coords, other: Coords, step: int) -> int:
    """Return about how many steps are as plain as that from *other* to *coords*."""
    moves = [abs(a - b) for a, b in zip(coords, other, strict=True) if a != b]
    return len(coords) * (moves[0] if len(moves) == 1 else abs(step))


def path_of(members: Sequence[int], touched: Sequence[Coords], grid: ChunkGrid) -> Path:
    """Return the path of a progression: a line along an axis where it is one, else a jump.

    *members* are its flat indices and *touched* its coordinates, in the order of time.
    """
    fitted = fit(touched, grid.shape, max_holes=0)
    if fitted is not None:
        return fitted.box
    rises = members[-1] > members[0]
    ordered = sorted(members, reverse=not rises)
    return Jump(grid, ordered[0], ordered[1] - ordered[0])


def fit(
    touched: Sequence[Coords], shape: Coords, max_holes: int, before: Path | None = None
) -> Fit | None:
    """Return the box with the order of axes that explains best what was *touched*, in order of time.

    None if nothing moved, or if between the first and the last more than *max_holes* were left out. The best order is that in which the touches
    lie closest together, and came with the fewest steps back. *before* is the path that the reader
    was thought to be on.
    """
    moving = [
        _lattice(axis, column)
        for axis, column in enumerate(zip(*touched, strict=True))
        if min(column) != max(column)
    ]
    if not moving:
        return None
    moving.reverse()  # C order comes first and wins ties
    orders: list[tuple[_Axis, ...]]
    if len(moving) <= MAX_PERMUTED:
        orders = list(itertools.permutations(moving))
    else:
        orders = [tuple(moving), tuple(reversed(moving))]
    most = len(set(touched)) + max_holes
    tried = [_arranged(order, len(touched)) for order in orders if _least_span(order) <= most]
    best = min(tried, key=lambda arrangement: arrangement.cost, default=None)
    if best is None or best.span > most:
        return None
    box = box_of(best.loops, touched[-1], shape, before)
    return Fit(box, best.loops, max(lags(best.ordinals)))


def _least_span(order: tuple[_Axis, ...]) -> int:
    """Return how far apart in this order the outermost axis alone puts the first and the last."""
    outermost = order[-1].length
    return (outermost - 2) * math.prod(axis.length for axis in order[:-1]) + 2


def _lattice(axis: int, column: tuple[int, ...]) -> _Axis:
    low = min(column)
    step = math.gcd(*(c - low for c in column))
    indices = [(c - low) // step for c in column]
    return _Axis(axis, low, step, max(indices) + 1, indices)


class _Arrangement(NamedTuple):
    """The axes in one order: the loops, the touches' ordinals, and how many places these span.

    *cost* says how badly the order explains the touches.
    """

    loops: list[Loop]
    ordinals: list[int]
    span: int
    cost: int


def _arranged(order: tuple[_Axis, ...], count: int) -> _Arrangement:
    # An axis goes the way it mostly went while those outside of it stood still.
    votes = dict.fromkeys((axis.axis for axis in order), 0)
    for i in range(1, count):
        for axis in reversed(order):
            move = axis.indices[i] - axis.indices[i - 1]
            if move:
                votes[axis.axis] += 1 if move > 0 else -1
                break
    loops = []
    ordinals = [0] * count
    weight = 1
    for number, low, step, length, indices in order:
        if votes[number] >= 0:
            loops.append(Loop(number, low, step, length))
            for i, index in enumerate(indices):
                ordinals[i] += index * weight
        else:
            loops.append(Loop(number, low + (length - 1) * step, -step, length))
            for i, index in enumerate(indices):
                ordinals[i] += (length - 1 - index) * weight
        weight *= length
    span = max(ordinals) - min(ordinals) + 1
    return _Arrangement(loops, ordinals, span, span + sum(lags(ordinals)))


def lags(ordinals: Sequence[int]) -> list[int]:
    """Return by how many places each touch came behind the furthest before it."""
    return [f - o for f, o in zip(itertools.accumulate(ordinals, max), ordinals, strict=True)]
