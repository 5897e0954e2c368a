"""The walks through one array: touches come in, chunks to get ahead go out."""

import dataclasses
import itertools
from collections.abc import Iterable
from operator import ne
from typing import Final

from vzfs.model.chunkgrid import ChunkGrid
from vzfs.walks.fitting import Fit, fit, path_of, progression
from vzfs.walks.paths import Coords, Path, Touch
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


ORDERLY: Final = 2
"""Places out of order up to which a reader's first two strays say that it turned."""


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
        self._strays: dict[int, Touch] = {}  # by flat index, oldest first
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
        return walk.get_ahead(limit, touched) if walk is not None and limit > 0 else []

    def waste(self, coords: Coords) -> None:
        """Note that a chunk got ahead was dropped before anybody read it.

        Its walk's window halves; a walk with no more than the first window is forgotten.
        """
        walk = self._asked.pop(coords, None)
        if walk is not None:
            walk.wasted()
            if walk.window < FIRST_WINDOW:
                self._forget(walk)

    # -- walks that are known ------------------------------------------------------------------

    def _followed(self, coords: Coords) -> Walk | None:
        """Return the walk that the chunk just touched is of."""
        walk = self._asked.pop(coords, None)
        was_asked = walk is not None
        if walk is None:
            walk = next((w for w in reversed(self._walks) if w.is_near(coords)), None)
            if walk is None:
                return None
        walk.follow(coords, self._time, was_asked=was_asked)
        if len(walk.skipped) >= MIN_SKIPPED:
            self._tighten(walk)
        self._put_last(walk)
        return walk

    def _tighten(self, walk: Walk) -> None:
        """Have a walk that passes chunks over take a path without them, if there is one.

        Chunks that are absent from the array are passed over as well.
        """
        skipped = list(walk.skipped)
        walk.skipped.clear()
        fitted = self._fit(walk.recent, walk.path)
        if (
            fitted is not None
            and fitted.holes <= _allowance(walk)
            and fitted.lag <= walk.lag + 2
            and all(fitted.box.ordinal(coords) is None for coords in skipped)
        ):
            walk.take(fitted.box)

    def _put_last(self, walk: Walk) -> None:
        walks = self._walks
        if walk is not walks[-1]:
            walks.remove(walk)
            walks.append(walk)

    def _forget(self, walk: Walk) -> None:
        walk.forget()
        self._walks.remove(walk)

    def _fit(self, touched: Iterable[Touch], before: Path | None = None) -> Fit | None:
        return fit([coords for _, coords in touched], self._grid.shape, before)

    # -- strays --------------------------------------------------------------------------------

    def _recognized(self, coords: Coords) -> Walk | None:
        """Return the walk that a stray makes: one that took another path, or a new one."""
        flat = self._grid.ravel(coords)
        self._strays.pop(flat, None)  # the page cache may have lost it since
        touch = self._time, coords
        walk = self._corrected(touch) or self._seeded(touch, flat)
        if walk is None:
            self._strays[flat] = touch
            if len(self._strays) > MAX_STRAYS:
                del self._strays[next(iter(self._strays))]
            return None
        for _, touched in walk.recent:
            self._strays.pop(self._grid.ravel(touched), None)
        self._put_last(walk)
        for other in self._walks[:-1]:
            if all(walk.is_near(touched) for _, touched in list(other.recent)[-LATE:]):
                walk.absorb(other)
                self._walks.remove(other)
        return walk

    def _corrected(self, touch: Touch) -> Walk | None:
        """Return the walk that goes otherwise than was thought.

        One stray says little. Two beside one another along an axis are fitted together with what
        a walk touched last, and the path must explain all as densely as the walk's own touches come.
        Either the strays are what the reader did since it left the path, or they are what its
        path left out.
        """
        if not self._walks:
            return None
        now, coords = touch
        late = itertools.islice(reversed(self._strays.values()), MAX_BESIDE)
        beside = [stray for stray in late if sum(map(ne, stray[1], coords)) == 1]
        if not beside:
            return None
        beside.reverse()
        for walk in reversed(self._walks):
            if now - walk.time > STALE:
                break
            fitted = self._refined(walk, [*beside, touch]) or self._turned(walk, [*beside, touch])
            if fitted is not None:
                walk.take(fitted.box)
                return walk
        return None

    def _refined(self, walk: Walk, strays: list[Touch]) -> Fit | None:
        """Return a fit in which *strays* are what the walk's path left out on its axes."""
        own = self._fit(walk.recent)
        touched = sorted([*walk.recent, *strays])
        fitted = self._fit(touched, walk.path)
        if own is None or fitted is None or _axes(own) != _axes(fitted):
            return None
        if fitted.holes > _allowance(walk):
            return None
        walk.recent.extend(strays)
        return fitted

    def _turned(self, walk: Walk, strays: list[Touch]) -> Fit | None:
        """Return a fit in which *strays* are what the reader did since it left the path."""
        enough = 2 if walk.lag <= ORDERLY else 3
        while len(strays) >= enough:
            since = sum(touch > strays[0] for touch in walk.recent)
            if since <= min(2 * (len(strays) - 1), len(walk.recent) // 2):
                break
            strays = strays[1:]
        else:
            return None
        fitted = self._fit(sorted([*walk.recent, *strays]), walk.path)
        if fitted is None or fitted.holes > _allowance(walk) or fitted.lag > walk.lag + 2:
            return None
        walk.recent.extend(strays)
        walk.window = min(walk.window, FIRST_WINDOW)
        return fitted

    def _seeded(self, touch: Touch, flat: int) -> Walk | None:
        """Return a new walk, if strays and the chunk just touched are a progression."""
        grid, strays = self._grid, self._strays
        if flat == 1 and touch[0] == 2 and 0 in strays:
            members = [0]  # who begins with the very first two chunks goes on
        else:
            members = progression(flat, touch, strays, grid)
        if not members:
            return None
        first = strays[members[0]]
        touched = [*(stray for stray in strays.values() if stray >= first), touch]
        fitted = self._fit(touched)
        if fitted is not None and _is_filled(fitted, len(touched)):
            walk = Walk(fitted.box, touched, self._asked)
        else:
            touched = [*(strays[member] for member in members), touch]
            path = path_of([*members, flat], [coords for _, coords in touched], grid)
            walk = Walk(path, touched, self._asked)
        if len(self._walks) == MAX_WALKS:
            self._forget(self._walks[0])
        self._walks.append(walk)
        return walk


def _allowance(walk: Walk) -> int:
    """Return how many holes a walk's touches may have, coming as little in order as they do."""
    return 2 * walk.lag + 2 + len(walk.recent) // 8


def _axes(fitted: Fit) -> set[int]:
    return {loop.axis for loop in fitted.moved}


def _is_filled(fitted: Fit, count: int) -> bool:
    """Whether *count* touches fill a box so densely that they are one reader's."""
    return fitted.holes <= (count // 2 if count < 8 else 2 * count)
