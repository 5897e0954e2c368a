"""Keeping something that expires: new in time, got once for all who wait, and never asked for in a storm.

A `Lease` is given a function that gets the thing, in a thread, for that reads files, runs programs
and asks servers. Whoever comes while it is current pays nothing.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from vzfs.errors import ErrorKind, SourceError
from vzfs.flights import Flights

MAX_MARGIN: Final = 300.0
"""Seconds before its end in which a grant is renewed; of a shorter life, a quarter."""

THREADS: Final = 2
"""Attempts of one lease at a time: one that hangs and was given up, and another."""

FORGET_EACH: Final = 60.0
"""Seconds between two doubts that make a lease get anew what was refused to it."""

FORGET_WINDOW: Final = 5.0
"""Seconds after a doubt in which other requests that were under way may be tried again too."""

_log = logging.getLogger("vzfs.source")


class Grant[V](NamedTuple):
    """What was got, and the time in seconds since the epoch at which it ends, if that is known."""

    value: V
    expires: float | None = None

    def __repr__(self) -> str:
        return f"Grant(..., expires={self.expires})"


class Terms(NamedTuple):
    """How a lease behaves. *name* says in a sentence what is leased; times are in seconds.

    *interval* is how long a grant that tells no end counts as current. *patience* is how long one
    attempt may take, None being as long as whoever waits. After a failure nobody tries for *pause*;
    those who come get the grant before, if it *outlives* failures and has not ended, or the error.
    """

    name: str
    interval: float
    patience: float | None
    pause: float
    outlives: bool


class Lease[V]:
    """One thing that is leased. Its methods are for the tasks of one trio loop."""

    def __init__(
        self,
        terms: Terms,
        get: Callable[[], Grant[V]],
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._get = get
        self._limiter = trio.CapacityLimiter(THREADS)
        self._clock = clock
        self._steady = steady
        self._flights: Flights[None, V] = Flights()
        self._grant: Grant[V] | None = None
        self._due_at_clock = 0.0
        self._due_at_steady = 0.0
        self._is_doubted = False
        self._doubted_at: float | None = None
        self._failure: SourceError | None = None
        self._again_at = 0.0

    async def get(self) -> V:
        """Return what is leased. Raises SourceError if it cannot be had."""
        grant = self._grant
        if grant is not None and not self._is_doubted and not self._is_due(grant):
            return grant.value
        usable = grant if self._terms.outlives and self._is_valid(grant) else None
        if self._failure is not None and self._steady() < self._again_at:
            if usable is not None:
                return usable.value
            raise _copy(self._failure)
        if usable is not None and not self._is_doubted and len(self._flights):
            return usable.value
        return await self._flights.join(None, self._renew)

    def doubt(self) -> bool:
        """Take note that what is leased was refused. Return whether another attempt makes sense.

        It does once in a while only: most refusals are not about credentials.
        """
        now = self._steady()
        if self._doubted_at is not None:
            if now < self._doubted_at + FORGET_WINDOW:
                return True
            if now < self._doubted_at + FORGET_EACH:
                return False
        self._doubted_at = now
        self._is_doubted = True
        return True

    def _is_due(self, grant: Grant[V]) -> bool:
        if grant.expires is not None:
            return self._clock() >= self._due_at_clock
        return self._steady() >= self._due_at_steady

    def _is_valid(self, grant: Grant[V] | None) -> bool:
        return grant is not None and (grant.expires is None or self._clock() < grant.expires)

    async def _renew(self) -> V:
        grant: Grant[V] | None = None
        problem: SourceError | None = None
        terms = self._terms
        limit = float("inf") if terms.patience is None else terms.patience
        with trio.move_on_after(limit):
            try:
                grant = await trio.to_thread.run_sync(
                    self._get, abandon_on_cancel=True, limiter=self._limiter
                )
            except SourceError as error:
                problem = _copy(error)
        if grant is not None and not self._is_valid(grant):
            grant = None
            problem = SourceError(
                ErrorKind.SOURCE_DENIED,
                f"{terms.name} come expired",
                advice="renew them where they come from, and check the clock of this machine",
            )
        if grant is not None:
            return self._take(grant)
        return self._fail(
            problem
            or SourceError(
                ErrorKind.SOURCE_UNREACHABLE,
                f"{terms.name} do not come within {limit:g} s",
                advice="check what gives them out, or read public data with --anonymous",
            )
        )

    def _take(self, grant: Grant[V]) -> V:
        self._grant = grant
        self._failure = None
        self._is_doubted = False
        self._due_at_steady = self._steady() + self._terms.interval
        if grant.expires is not None:
            life = grant.expires - self._clock()
            self._due_at_clock = grant.expires - min(MAX_MARGIN, life / 4)
        return grant.value

    def _fail(self, problem: SourceError) -> V:
        """Keep to what there is, if it is still good, or raise *problem*."""
        is_news = self._failure is None
        self._failure = problem
        self._again_at = self._steady() + self._terms.pause
        self._is_doubted = False
        grant = self._grant
        if grant is not None and self._terms.outlives and self._is_valid(grant):
            if is_news:
                _log.warning(
                    "%s cannot be renewed, and those at hand are used on: %s",
                    self._terms.name,
                    problem,
                )
            return grant.value
        self._grant = None
        raise _copy(problem)


def _copy(error: SourceError) -> SourceError:
    """Return *error* without where it was raised, and what was handled there."""
    return SourceError(error.kind, error.what, where=error.where, advice=error.advice)
