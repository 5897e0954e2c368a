"""The walks through one array: touches come in, chunks to get ahead go out."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from operator import ne
from typing import Final

from vzfs.model.chunkgrid import ChunkGrid
from vzfs.walks.fitting import Fit, fit, lags, path_of, progression
from vzfs.walks.paths import Box, Coords, Jump, Path, Touch, box_like
from vzfs.walks.walk import FIRST_WINDOW, LATE, RECALL, Asked, Walk

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
MAX_CORRECTED: Final = 4
"""Walks, those touched last, that strays may be of."""
MAX_REFUSED: Final = 6
"""Strays, found not to be of a walk since it was touched last, after which it is asked of few more: at
random places there are always strays."""
SELDOM: Final = 4
"""Of so many strays such a walk is asked of one."""
MIN_SKIPPED: Final = 2
"""Chunks passed over at which a walk is fitted again."""
MANY: Final = 8
"""Strays that fill a box thinly and yet not by chance."""
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

        None of it is waited for already, for this or another walk, and none was touched lately; some
        may be absent from the array. At most *limit* chunks are waited for ahead of a walk, and 0
        asks for none.
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
        fitted = self._fit_again(walk, walk.recent)
        if (
            fitted is not None
            and fitted.lag <= walk.lag + ORDERLY
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

    def _fit_again(self, walk: Walk, touched: Iterable[Touch]) -> Fit | None:
        """Return the box that explains what was *touched* as densely as the walk's touches come."""
        max_holes = 2 * walk.lag + 2 + len(walk.recent) // 8
        return fit([coords for _, coords in touched], self._grid.shape, max_holes, walk.path)

    # -- strays --------------------------------------------------------------------------------

    def _recognized(self, coords: Coords) -> Walk | None:
        """Return the walk that a stray makes: one that took another path, or a new one."""
        flat = self._grid.ravel(coords)
        self._strays.pop(flat, None)  # the page cache may have lost it since
        touch = self._time, coords
        walk = self._jumped(touch, flat) or self._corrected(touch) or self._seeded(touch, flat)
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

    def _jumped(self, touch: Touch, flat: int) -> Walk | None:
        """Return the walk that goes on in its steps across the edge of the grid, where lines end."""
        ravel = self._grid.ravel
        for walk in self._latest():
            path = walk.path
            if not isinstance(path, Box) or path.seen > 1:
                continue
            axis, step = path.line
            step *= self._grid.strides[axis]
            places, rest = divmod(flat - ravel(walk.recent[-1][1]), step)
            if rest or not 0 < places <= 2 * walk.lag + 1:
                continue
            jump = Jump(self._grid, ravel(path.at(0)), step)
            touched = [*walk.recent, touch]
            if all(jump.ordinal(coords) is not None for _, coords in touched):
                walk.recent.append(touch)
                walk.take(jump)
                return walk
        return None

    def _latest(self) -> Iterator[Walk]:
        """Yield the walks that a stray may be of, that touched last first."""
        for walk in self._walks[: -MAX_CORRECTED - 1 : -1]:
            if self._time - walk.time > STALE:
                break
            yield walk

    def _corrected(self, touch: Touch) -> Walk | None:
        """Return the walk that goes otherwise than was thought.

        One stray says little. Two beside one another along an axis are fitted together with what
        a walk touched last, and the path must explain all as densely as the walk's own touches come.
        Either the strays are what the reader did since it left the path, or they are what its
        path left out.
        """
        if not self._walks:
            return None
        _, coords = touch
        late = itertools.islice(reversed(self._strays.values()), MAX_BESIDE)
        beside = [stray for stray in late if sum(map(ne, stray[1], coords)) == 1]
        if not beside:
            return None
        beside.reverse()
        for walk in self._latest():
            walk.refused += 1
            if walk.refused > MAX_REFUSED and walk.refused % SELDOM:
                continue
            fitted = self._refined(walk, [*beside, touch]) or self._turned(walk, [*beside, touch])
            if fitted is not None:
                walk.take(fitted.box)
                return walk
        return None

    def _refined(self, walk: Walk, strays: list[Touch]) -> Fit | None:
        """Return a fit in which *strays* are what the walk's path left out on its axes."""
        columns = zip(*(at for _, at in walk.recent), strict=True)
        for axis, column in enumerate(columns):
            if min(column) == max(column) and any(at[axis] != column[0] for _, at in strays):
                return None
        fitted = self._fit_again(walk, sorted([*walk.recent, *strays]))
        if fitted is None:
            return None
        places = [o for _, coords in walk.recent if (o := fitted.box.ordinal(coords)) is not None]
        if fitted.lag > max(lags(places)) + max(ORDERLY, RECALL // 2 - len(places)):
            return None
        walk.recent.extend(strays)
        return fitted

    def _turned(self, walk: Walk, strays: list[Touch]) -> Fit | None:
        """Return a fit in which *strays* are what the reader did since it left the path."""
        enough = 2 if walk.lag <= ORDERLY else 3
        while len(strays) >= enough:
            since = sum(touch > strays[0] for touch in walk.recent)
            if since <= min(2 * (len(strays) - 1), len(walk.recent) // 2, walk.lag):
                break
            strays = strays[1:]
        else:
            return None
        fitted = self._fit_again(walk, sorted([*walk.recent, *strays]))
        if fitted is None or fitted.lag > walk.lag + ORDERLY:
            return None
        if abs(fitted.moved[-1].step) > 1 and len(strays) == 2:
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
        path: Path
        max_holes = len(touched) // 2 if len(touched) < MANY else 2 * len(touched)
        if fitted := fit([coords for _, coords in touched], grid.shape, max_holes):
            path = fitted.box
        elif 2 * (len(members) + 1) < len(touched):
            # Among many strays that lie close together, some are always in step.
            return None
        else:
            touched = [*(strays[member] for member in members), touch]
            path = path_of([*members, flat], [coords for _, coords in touched], grid)
        if isinstance(path, Box):
            path = self._like_another(path, [coords for _, coords in touched]) or path
        walk = Walk(path, touched, self._asked)
        if len(self._walks) == MAX_WALKS:
            self._forget(self._walks[0])
        self._walks.append(walk)
        return walk

    def _like_another(self, box: Box, touched: list[Coords]) -> Box | None:
        """Return the largest box of the size of another walk's that begins with *touched*.

        The largest, because other walks may still be on their way through theirs.
        """
        alike = []
        for walk in self._walks:
            model = walk.path
            if isinstance(model, Box) and model.line == box.line:
                alike.append(box_like(model, walk.reached, touched, self._grid.shape))
        return max(filter(None, alike), key=lambda like: like.size, default=None)
