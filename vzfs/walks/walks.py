"""The walks through one array: touches come in, chunks to get ahead go out."""

import dataclasses
import itertools
from operator import ne
from typing import Final

from vzfs.model.chunkgrid import ChunkGrid
from vzfs.walks.fitting import Fit, Stray, fit, path_of, progression
from vzfs.walks.paths import Coords
from vzfs.walks.walk import FIRST_WINDOW, LATE, Asked, Walk

MAX_WALKS: Final = 16
"""Walks through one array that are followed at once."""
MAX_STRAYS: Final = 64
"""Late touches that were on no walk's path."""
MAX_BESIDE: Final = 32
"""Late strays that may show, with the next, that a walk turned."""
MAX_TOUCHED: Final = 256
"""Late touches that are not asked for, whatever walk comes upon them."""
STALE: Final = 256
"""Touches of the array after which a walk that had none of them is not thought to turn."""


MIN_SKIPPED: Final = 2
"""Chunks passed over at which a walk is fitted again."""


@dataclasses.dataclass(frozen=True, slots=True)
class WalksStatistics:
    """The walks of the moment.

    *windows* has the window of each in chunks, beginning with the walk touched last; *outstanding*
    counts the chunks that were asked for and not touched yet.
    """

    windows: tuple[int, ...]
    outstanding: int


class Walks:
    """The walks through one array's chunk grid. Bounded in memory, whatever is touched."""

    def __init__(self, shape: Coords) -> None:
        self._grid = ChunkGrid(shape)
        self._walks: list[Walk] = []  # that touched last is last
        self._asked: Asked = {}
        self._strays: dict[int, Stray] = {}  # by flat index, oldest first
        self._touched: dict[Coords, None] = {}
        self._time = 0

    def statistics(self) -> WalksStatistics:
        """Return what walks there are."""
        return WalksStatistics(
            tuple(walk.window for walk in reversed(self._walks)), len(self._asked)
        )

    def touch(self, coords: Coords, limit: int) -> list[Coords]:
        """Note that the chunk at *coords* is being read; return what to get ahead now, in walk order.

        None of these was returned for the walk before, unless it was forgotten since, and none was
        touched lately. At most *limit* chunks are asked for ahead of a walk; 0 asks for none.
        """
        self._time += 1
        walk = self._followed(coords) or self._recognized(coords)
        touched = self._touched
        touched[coords] = None
        if len(touched) > MAX_TOUCHED:
            del touched[next(iter(touched))]
        if walk is None:
            return []
        walk.time = self._time
        return walk.get_ahead(limit, touched) if limit > 0 else []

    def waste(self, coords: Coords) -> None:
        """Note that a chunk got ahead was dropped before anybody read it.

        Its walk's window halves; a walk with no more than the first window is forgotten.
        """
        walk = self._asked.pop(coords, None)
        if walk is None:
            return
        walk.arrived()
        walk.window //= 2
        if walk.window < FIRST_WINDOW:
            self._forget(walk)

    def _forget(self, walk: Walk) -> None:
        walk.forget()
        self._walks.remove(walk)

    def _followed(self, coords: Coords) -> Walk | None:
        """Return the walk that the chunk just touched is of."""
        walk = self._asked.pop(coords, None)
        if walk is not None:
            walk.arrived()
        else:
            walk = next((w for w in reversed(self._walks) if w.is_near(coords)), None)
            if walk is None:
                return None
        walk.follow(coords)
        if len(walk.skipped) >= MIN_SKIPPED:
            self._tightened(walk)
        self._put_last(walk)
        return walk

    def _put_last(self, walk: Walk) -> None:
        walks = self._walks
        if walk is not walks[-1]:
            walks.remove(walk)
            walks.append(walk)

    def _tightened(self, walk: Walk) -> None:
        """Have a walk that passes chunks over take a path without them, if there is one.

        Chunks that are absent from the array are passed over as well.
        """
        skipped = list(walk.skipped)
        walk.skipped.clear()
        fitted = fit(list(walk.recent), self._grid.shape)
        if (
            fitted is not None
            and fitted.holes <= _allowance(walk, fitted)
            and all(fitted.box.ordinal(coords) is None for coords in skipped)
        ):
            walk.take(fitted.box)

    def _recognized(self, coords: Coords) -> Walk | None:
        """Return the walk that a stray makes: one that turned, or a new one."""
        flat = self._grid.ravel(coords)
        self._strays.pop(flat, None)  # the page cache may have lost it since
        walk = self._turned(coords) or self._seeded(coords, flat)
        if walk is None:
            self._strays[flat] = Stray(coords, self._time)
            if len(self._strays) > MAX_STRAYS:
                del self._strays[next(iter(self._strays))]
            return None
        for touched in walk.recent:
            self._strays.pop(self._grid.ravel(touched), None)
        for other in self._walks[:-1]:
            if all(walk.is_near(touched) for touched in list(other.recent)[-LATE:]):
                walk.absorb(other)
                self._walks.remove(other)
        return walk

    def _turned(self, coords: Coords) -> Walk | None:
        """Return the walk that went elsewhere than was thought.

        Two strays beside one another along an axis are fitted together with what the walk touched
        last; the path that explains them must have them come as closely after it as the touches of
        this walk come.
        """
        if not self._walks:
            return None
        late = itertools.islice(reversed(self._strays.values()), MAX_BESIDE)
        beside = [stray.coords for stray in late if sum(map(ne, stray.coords, coords)) == 1]
        if not beside:
            return None
        beside.reverse()
        for walk in reversed(self._walks):
            if self._time - walk.time > STALE:
                break
            touched = [*walk.recent, *beside, coords]
            fitted = fit(touched, self._grid.shape)
            if fitted is not None and fitted.holes <= _allowance(walk, fitted):
                walk.recent.extend((*beside, coords))
                walk.take(fitted.box)
                self._put_last(walk)
                return walk
        return None

    def _seeded(self, coords: Coords, flat: int) -> Walk | None:
        """Return a new walk, if strays and the chunk just touched are a progression."""
        grid, strays = self._grid, self._strays
        if flat == 1 and self._time == 2 and 0 in strays:
            members = [0]  # who begins with the very first two chunks goes on
        else:
            members = progression(flat, coords, self._time, strays, grid)
        if not members:
            return None
        since = strays[members[0]].time
        touched = [*(stray.coords for stray in strays.values() if stray.time >= since), coords]
        fitted = fit(touched, grid.shape)
        if fitted is not None and _is_filled(fitted):
            walk = Walk(fitted.box, touched, self._asked)
        else:
            touched = [*(strays[member].coords for member in members), coords]
            walk = Walk(path_of([*members, flat], touched, grid), touched, self._asked)
        if len(self._walks) == MAX_WALKS:
            self._forget(self._walks[0])
        self._walks.append(walk)
        return walk


def _allowance(walk: Walk, fitted: Fit) -> int:
    """Return how many holes a walk's touches may have, coming as little in order as they do."""
    return 2 * walk.lag + 2 + len(fitted.ordinals) // 4


def _is_filled(fitted: Fit) -> bool:
    """Whether touches fill a box so densely that they are one reader's."""
    count = len(fitted.ordinals)
    return fitted.holes <= (count // 2 if count < 8 else 2 * count)
