"""A second request for a fetch that takes longer than nearly all do; the one that is first wins.

One in twenty fetches may have a second request, so that a server that is slow altogether is not
asked for twice as much. Fetches run in their callers' tasks; only a second request has a task of
its own, in the background that `run` gives. Without it nothing is raced.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from vzfs.errors import SourceError
from vzfs.source.wire import Tally, Transient

logger = logging.getLogger("vzfs.source")

SLACK: Final = 2.0
"""Times the tail latency after which a fetch counts as stalled."""
SOONEST: Final = 0.5
"""Seconds before which nothing is raced: a second request costs the server as much as the first."""
SHARE: Final = 0.05
"""Second requests for each fetch."""
SAVED: Final = 10.0
"""Second requests that may be made at once."""
TICK: Final = 0.05
"""Seconds between two looks at what is under way."""


class Racer:
    """Races stalled fetches."""

    def __init__(self, tally: Tally, soonest: float = SOONEST) -> None:
        self._tally = tally
        self._soonest = soonest
        self._saved = SAVED
        self._background: trio.Nursery | None = None
        self._watched: set[Race[Any]] = set()
        self._is_busy = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch what is under way, until cancelled."""
        try:
            async with trio.open_nursery() as self._background:
                task_status.started()
                while True:
                    await self._is_busy.wait()
                    self._start_due()
                    if not self._watched:
                        self._is_busy = trio.Event()
                    await trio.sleep(TICK)
        finally:
            self._background = None

    async def first[T](
        self, race: "Race[T]", now: float, tail: float, work: Callable[[], Awaitable[T]]
    ) -> T:
        """Do *work*, and beside it the second request of *race* if it takes much longer than *tail* seconds.

        Where the second one wins, the scope of the race is cancelled and its result set.
        """
        self._saved = min(self._saved + SHARE, SAVED)
        if self._background is None:
            return await work()
        race.at = now + max(SLACK * tail, self._soonest)
        self._watched.add(race)
        if not self._is_busy.is_set():
            self._is_busy.set()
        try:
            return await work()
        except Transient:
            if race.second is not None:
                # It may still save the fetch; who waits is cancelled when it does.
                await race.done.wait()
            raise
        finally:
            self._watched.discard(race)
            if race.second is not None:
                # Who has the outcome may hand on what both were reading into.
                race.second.cancel()
                with trio.CancelScope(shield=True):
                    await race.done.wait()
                race.second = None

    def _start_due(self) -> None:
        now = trio.current_time()
        for race in [race for race in self._watched if race.at <= now]:
            if self._saved < 1 or self._background is None:
                return
            self._watched.discard(race)
            self._saved -= 1
            self._tally.add("hedges")
            race.second, race.done = trio.CancelScope(), trio.Event()
            self._background.start_soon(race.run, race.second, race.done)


class Race[T]:
    """One fetch, all of whose attempts may be raced within its *scope*, by *work*.

    *result* is what a second request gave that won. *second* is the scope of the one under way, and
    *done* is set when it is over; the first is to have a second beside it *at* some time.
    """

    __slots__ = ("_work", "at", "done", "result", "scope", "second")

    def __init__(self, scope: trio.CancelScope, work: Callable[[], Awaitable[T]]) -> None:
        self.scope = scope
        self.at = math.inf
        self.second: trio.CancelScope | None = None
        self.done: trio.Event
        self.result: tuple[T] | None = None
        self._work = work

    async def run(self, scope: trio.CancelScope, done: trio.Event) -> None:
        """Do the work a second time; whoever waits for the first is then told."""
        try:
            with scope:
                self.result = (await self._work(),)
                self.scope.cancel()
        except (SourceError, Transient) as failure:
            # The first one's outcome counts, whatever this one met.
            logger.debug("a second request failed too: %s", failure)
        except Exception:
            # Nobody waits for this task alone, and it must not end a mount.
            logger.exception("a second request failed: this is a bug in vzfs, please report it")
        finally:
            done.set()
