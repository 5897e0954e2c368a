"""A second request for a fetch that takes longer than nearly all do; the one that is first wins.

One in twenty fetches may have a second request, so that a server that is slow altogether is not
asked for twice as much. Fetches run in their callers' tasks; only a second request has a task of
its own, in the background that `run` gives. Without it nothing is raced.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

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
        self._watched: set[_Race[Any]] = set()
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

    async def first[T](self, tail: float, work: Callable[[], Awaitable[T]]) -> T:
        """Do *work*, and once more beside it if it takes much longer than *tail* seconds."""
        self._saved = min(self._saved + SHARE, SAVED)
        if self._background is None:
            return await work()
        race = _Race(work, trio.current_time() + max(SLACK * tail, self._soonest))
        self._watched.add(race)
        self._is_busy.set()
        try:
            with race.first:
                try:
                    return await work()
                except Transient as failure:
                    if not race.is_raced:
                        raise
                    race.failure = failure
                    self._watched.discard(race)
                    await race.done.wait()
            if race.result is not None:
                return race.result.value
            assert race.failure is not None  # noqa: S101 -- else the first would have returned
            raise race.failure
        finally:
            self._watched.discard(race)
            if race.is_raced:
                # Who has the outcome may hand on what both were reading into.
                race.second.cancel()
                with trio.CancelScope(shield=True):
                    await race.done.wait()

    def _start_due(self) -> None:
        now = trio.current_time()
        for race in [race for race in self._watched if race.at <= now]:
            if self._saved < 1 or self._background is None:
                return
            self._watched.discard(race)
            self._saved -= 1
            self._tally.add("hedges")
            race.is_raced = True
            self._background.start_soon(race.run)


class _Result[T](NamedTuple):
    """What the second request gave."""

    value: T


class _Race[T]:
    """One fetch: *first* is its caller's attempt, *second* the one beside it, due at *at*."""

    def __init__(self, work: Callable[[], Awaitable[T]], at: float) -> None:
        self.at = at
        self.first = trio.CancelScope()
        self.second = trio.CancelScope()
        self.done = trio.Event()
        self.is_raced = False
        self.result: _Result[T] | None = None
        self.failure: Transient | None = None
        self._work = work

    async def run(self) -> None:
        """Do the work a second time; whoever waits for the first is then told."""
        try:
            with self.second:
                self.result = _Result(await self._work())
                self.first.cancel()
        except (SourceError, Transient) as failure:
            # The first one's outcome counts, whatever this one met.
            logger.debug("a second request failed too: %s", failure)
        except Exception:
            # Nobody waits for this task alone, and it must not end a mount.
            logger.exception("a second request failed: this is a bug in vzfs, please report it")
        finally:
            self.done.set()
