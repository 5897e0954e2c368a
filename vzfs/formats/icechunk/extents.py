"""Whether the manifests of an array keep apart: each chunk belongs to one of them at most.

Writers split a grid along whole dimensions, so the regions fall apart when they are sorted along
one dimension after another. What does not fall apart so is compared pair by pair, up to a limit on
the work.
"""

import itertools
from collections.abc import Sequence
from typing import Final

from vzfs.model.regions import Ranges, separate
from vzfs.model.snapshot import Extents

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
        parts = separate([region[axis] for region in group])
        fruitless = fruitless + 1 if len(parts) == 1 else 0
        pending.extend(([group[i] for i in part], (axis + 1) % ndim, fruitless) for part in parts)
    return False


def _any_meet(group: list[Ranges]) -> bool:
    return any(
        all(x[0] < y[1] and y[0] < x[1] for x, y in zip(a, b, strict=True))
        for a, b in itertools.combinations(group, 2)
    )
