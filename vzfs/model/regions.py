"""Disjoint regions of a chunk grid: which of them holds a chunk, without looking at each.

Writers split a grid along whole dimensions, so regions fall apart when they are sorted along one
dimension after another. That is done once; a chunk is then found by a `bisect` for each dimension
that separates anything, and what no dimension separates is looked at one by one.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

type Ranges = tuple[tuple[int, int], ...]
"""A region: a half-open range of coordinates along each dimension."""

_TURNS: Final = 64
"""Levels of separation; a grid that is split along every dimension has one level for each."""


class _Split(NamedTuple):
    """Regions that keep apart along *axis*: where each part begins and ends, and what is in it."""

    axis: int
    lows: list[int]
    highs: list[int]
    parts: "list[_Split | list[int]]"


class Regions:
    """*ranges* of one grid that share no chunk, known by their numbers; empty ones hold nothing."""

    def __init__(self, ranges: Sequence[Ranges]) -> None:
        self._ranges: Final = ranges
        solid = [i for i, r in enumerate(ranges) if all(low < high for low, high in r)]
        self._root = self._split(solid, 0, 0, 0)

    def _split(
        self, numbers: list[int], axis: int, fruitless: int, turn: int
    ) -> _Split | list[int]:
        ndim = len(self._ranges[0]) if self._ranges else 0
        while len(numbers) > 1 and fruitless < ndim and turn < _TURNS:
            spans = [self._ranges[i][axis] for i in numbers]
            parts = separate(spans)
            after = (axis + 1) % ndim
            if len(parts) > 1:
                return _Split(
                    axis,
                    [min(spans[k][0] for k in part) for part in parts],
                    [max(spans[k][1] for k in part) for part in parts],
                    [self._split([numbers[k] for k in part], after, 0, turn + 1) for part in parts],
                )
            axis, fruitless = after, fruitless + 1
        return numbers

    def at(self, coords: tuple[int, ...]) -> int | None:
        """Return the number of the region that holds *coords*, or None."""
        found = self._root
        while type(found) is _Split:
            i = bisect.bisect_right(found.lows, coords[found.axis]) - 1
            if i < 0:
                return None
            found = found.parts[i]
        for number in found:
            for c, (low, high) in zip(coords, self._ranges[number], strict=True):
                if not low <= c < high:
                    break
            else:
                return number
        return None

    def meeting(self, prefix: tuple[int, ...]) -> Iterator[int]:
        """Yield the numbers of the regions that have room for coordinates beginning with *prefix*."""
        pending: list[_Split | list[int]] = [self._root]
        while pending:
            found = pending.pop()
            if type(found) is _Split:
                if found.axis >= len(prefix):
                    pending.extend(reversed(found.parts))
                elif (i := bisect.bisect_right(found.lows, prefix[found.axis]) - 1) >= 0:
                    pending.append(found.parts[i])
                continue
            for number in found:
                ranges = zip(prefix, self._ranges[number], strict=False)
                if all(low <= c < high for c, (low, high) in ranges):
                    yield number


def separate(spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the numbers of *spans*, parted wherever no span reaches across."""
    parts: list[list[int]] = []
    reached = -1
    for i in sorted(range(len(spans)), key=spans.__getitem__):
        low, high = spans[i]
        if low >= reached:
            parts.append([])
        parts[-1].append(i)
        reached = max(reached, high)
    return parts
