"""Whether the manifests of an array keep apart: each chunk belongs to one of them at most.

Writers split a grid along whole dimensions, so the regions fall apart when they are sorted along
one dimension after another. What does not fall apart so is compared pair by pair, up to a limit on
the work.
"""

import itertools
from collections.abc import Sequence
from typing import Final

from vzfs.model.snapshot import Extents

type _Ranges = tuple[tuple[int, int], ...]

_ENTANGLED: Final = 200
"""Regions that no dimension separates are compared pair by pair up to this many."""

_PATIENCE: Final = 16
"""How often a region is sorted, beyond four times along each dimension, before giving up."""


def overlap(regions: Sequence[Extents]) -> bool:
    """Whether two *regions* of one grid share a chunk, or are too entangled to tell."""
    solid = [r.ranges for r in regions if all(low < high for low, high in r.ranges)]
    if len(solid) < 2:
        return False
    ndim = len(solid[0])
    patience = (4 * ndim + _PATIENCE) * len(solid)
    pending = [(solid, 0, 0)]
    while pending:
        group, axis, fruitless = pending.pop()
        if len(group) < 2:
            continue
        patience -= len(group)
        if patience < 0:
            return True
        if fruitless == ndim:
            if len(group) > _ENTANGLED or _any_meet(group):
                return True
            continue
        parts = _separate(group, axis)
        fruitless = fruitless + 1 if len(parts) == 1 else 0
        pending.extend((part, (axis + 1) % ndim, fruitless) for part in parts)
    return False


def _separate(group: list[_Ranges], axis: int) -> list[list[_Ranges]]:
    """Part *group* where no region reaches across along *axis*."""
    parts: list[list[_Ranges]] = []
    reached = -1
    for region in sorted(group, key=lambda r: r[axis]):
        low, high = region[axis]
        if low >= reached:
            parts.append([])
        parts[-1].append(region)
        reached = max(reached, high)
    return parts


def _any_meet(group: list[_Ranges]) -> bool:
    return any(
        all(x[0] < y[1] and y[0] < x[1] for x, y in zip(a, b, strict=True))
        for a, b in itertools.combinations(group, 2)
    )
