"""One walk: a path, how far along it the reader is, and how far ahead chunks were asked for."""

from collections import deque
from collections.abc import Container, Iterable
from typing import Final

from vzfs.walks.paths import Coords, Path, Touch

FIRST_WINDOW: Final = 2
"""Chunks asked for when a walk is seeded: few touches speak for it yet."""
DOUBTFUL: Final = 3
"""Touches that chance puts in step now and then, where a reader picks many chunks that lie close
together. A walk of so many waits for one more; only who begins with the first two chunks of the grid
is taken at its word."""
PROBE: Final = 2
"""Chunks asked for beyond a turn that the reader was not seen to take."""
REACH: Final = 8
"""Places by which a touch may be further ahead, or behind, than the touches of a walk come out of
order, and still be of it."""
RECALL: Final = 32
"""Touches that a walk remembers, to be fitted again."""
LATE: Final = 8
"""Touches of whose places the front is the median, so that strangers who hit upon the path do not
move it."""

MAX_LAG: Final = 128
"""Places; four times the most requests that readers keep in flight."""

type Asked = dict[Coords, Walk]
"""The chunks that were asked for and neither touched nor passed since, with the walk they are of."""


class Walk:
    """A reader's walk along *path*, begun with what it *touched*, in the order of time.

    *window* is how many chunks it may be ahead, 0 before anything was asked for; *lag* by how many
    places touches have come behind the front; *recent* what was touched last, *skipped* what was
    asked for on this path and passed over last, and *refused* how often strays were found not to be
    of it since it was touched last.
    """

    __slots__ = (
        "_asked", "_asked_to", "_front", "_is_eager", "_late", "_outstanding", "_turn", "_whose",
        "lag", "path", "recent", "refused", "skipped", "window",
    )  # fmt: skip

    def __init__(self, path: Path, touched: Iterable[Touch], whose: Asked) -> None:
        self._whose = whose
        self._asked: deque[tuple[int, Coords]] = deque()  # touched ones stay until passed
        self._outstanding = 0
        self._is_eager = False
        self.window = 0
        self.recent = deque(touched, maxlen=RECALL)
        self.skipped: deque[Coords] = deque(maxlen=RECALL)
        self.take(path)

    # -- the path ------------------------------------------------------------------------------

    def take(self, path: Path) -> None:
        """Go on along another path, which holds what was touched last."""
        self.path = path
        self.refused = 0
        self.skipped.clear()
        ordinals = [o for _, coords in self.recent if (o := path.ordinal(coords)) is not None]
        self._late = deque(ordinals, maxlen=LATE)
        self._front = self.lag = 0
        for ordinal in ordinals:
            self._front = max(self._front, ordinal)
            self.lag = min(max(self.lag, self._front - ordinal), MAX_LAG)
        self._asked_to = self._front
        self._turn = 0
        self._pass_turns(self._front)
        asked, self._asked = self._asked, deque()
        self._adopt(asked, self)

    def absorb(self, other: "Walk") -> None:
        """Take over from a walk that turns out to be of the same reader."""
        self.window = max(self.window, other.window)
        self._adopt(other._asked, other)

    def _adopt(self, asked: Iterable[tuple[int, Coords]], owner: "Walk") -> None:
        """Keep of what *owner* asked for that which lies on this path; forget the rest."""
        kept = list(self._asked)
        for _, coords in asked:
            if self._whose.get(coords) is owner:
                owner._outstanding -= 1
                ordinal = self.path.ordinal(coords)
                if ordinal is None:
                    del self._whose[coords]
                else:
                    self._whose[coords] = self
                    self._outstanding += 1
                    kept.append((ordinal, coords))
        self._asked = deque(sorted(kept))

    def _pass_turns(self, ordinal: int) -> None:
        """Note that the reader came as far as *ordinal*, whatever turns it had to take."""
        turns = self.path.turns
        while self._turn < len(turns) and ordinal >= turns[self._turn]:
            self._turn += 1

    # -- the reader ----------------------------------------------------------------------------

    def is_near(self, coords: Coords) -> bool:
        """Whether this walk's reader may touch a chunk about now."""
        ordinal = self.path.ordinal(coords)
        reach = 2 * self.lag + REACH
        return (
            ordinal is not None
            and self._front - reach <= ordinal <= max(self._asked_to, self._front) + reach
        )

    def follow(self, coords: Coords, now: int, *, was_asked: bool) -> None:
        """Note that the reader touched a chunk of the path."""
        ordinal = self.path.ordinal(coords)
        assert ordinal is not None  # noqa: S101 -- what was asked for, or is near, is on the path
        self.recent.append((now, coords))
        self.refused = 0
        self._late.append(ordinal)
        self._front = front = sorted(self._late)[len(self._late) // 2]
        if was_asked:
            self._outstanding -= 1
            # A stranger seldom touches just what was asked for, so this is how the reader reads.
            self.lag = min(max(self.lag, front - ordinal), MAX_LAG)
        if self._turn < len(self.path.turns):
            self._pass_turns(ordinal if was_asked else front)
        asked, behind = self._asked, front - 2 * self.lag - LATE
        while asked and asked[0][0] < behind:
            _, passed = asked.popleft()
            if self._whose.get(passed) is self:
                del self._whose[passed]
                self._outstanding -= 1
                self.skipped.append(passed)

    @property
    def reached(self) -> int:
        """How far along its path the walk has come."""
        return max(self._late)

    @property
    def time(self) -> int:
        """When the walk was touched last."""
        return self.recent[-1][0]

    # -- what is ahead -------------------------------------------------------------------------

    def get_ahead(self, limit: int, touched: Container[Coords]) -> list[Coords]:
        """Return what to ask for now: nothing, or a batch of what comes next and was not *touched*."""
        if not self.window and self._is_doubtful():
            return []
        # What is behind the front is on its way to the reader.
        ahead = max(min(self._outstanding, self._asked_to - self._front), 0)
        if ahead > min(self.window, limit) // 2:
            return []
        path, turns = self.path, self.path.turns
        window = self.window if self._is_eager else self.window * 2 or FIRST_WINDOW
        window = min(window, limit)
        start = max(self._asked_to, self._front) + 1
        # The front is a cautious guess: some of what follows it may have been touched.
        end = min(start + window + 2 * self.lag + LATE, path.size)
        if self._turn < len(turns):
            end = min(end, turns[self._turn] + PROBE)
        batch: list[Coords] = []
        for ordinal, coords in enumerate(path.stretch(start, end), start):
            if len(batch) == window - ahead:
                break
            self._asked_to = ordinal
            if coords not in touched and coords not in self._whose:
                self._whose[coords] = self
                self._asked.append((ordinal, coords))
                batch.append(coords)
        if batch:
            self.window = window
            self._is_eager = False
            self._outstanding += len(batch)
        return batch

    def _is_doubtful(self) -> bool:
        """Whether chance may have put these touches in step: they are three, or leave much out."""
        count = len(self.recent)
        if count < DOUBTFUL:
            return False
        ordinals = [o for _, c in self.recent if (o := self.path.ordinal(c)) is not None]
        return count == DOUBTFUL or max(ordinals) - min(ordinals) >= 2 * count

    def wasted(self) -> None:
        """Note that a chunk asked for was dropped unread: be less eager."""
        self._outstanding -= 1
        self._is_eager = True
        self.window //= 2

    def forget(self) -> None:
        """Forget all that was asked for."""
        for _, coords in self._asked:
            if self._whose.get(coords) is self:
                del self._whose[coords]
        self._asked.clear()
        self._outstanding = 0
