"""The `Fetcher` over real stores: dispatch by scheme, retries, and one time budget for everything.

Stores are talked to by blocking calls in threads, under a limiter that the composition root owns. A
caller that is cancelled goes at once; its thread is left behind, counts against the limiter until
it ends, and ends within the time budget or the stall limit of its request.
"""

import random
import time
from collections.abc import Callable
from typing import Final

import trio

from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source.fetcher import Fetched, SourceStatistics, Timing
from vzfs.source.http import Http
from vzfs.source.local import LocalFiles
from vzfs.source.remote import Remote
from vzfs.source.s3 import S3
from vzfs.source.wire import Backend, Tally, Transient

DEFAULT_TIMING: Final = Timing()
HOST_SHARE: Final = 4
"""One part in so many of all requests under way is the most that one host gets."""


class Source:
    """Reads files, S3 objects and HTTP objects, as authorized.

    *limiter* bounds the threads in use; one bucket or server gets a part of them, so that a dead
    one leaves the others alone.
    """

    def __init__(self, timing: Timing = DEFAULT_TIMING, *, limiter: trio.CapacityLimiter) -> None:
        self._timing = timing
        self._limiter = limiter
        self._hosts: dict[tuple[str, str], _HostLimiter] = {}
        self._tally = Tally()
        http = Remote(Http(timing, self._tally))
        self._backends: dict[str, Backend] = {
            "file": LocalFiles(self._tally),
            "http": http,
            "https": http,
            "s3": Remote(S3(timing, self._tally)),
        }

    async def fetch(self, wanted: AuthorizedRange, pinned: str | None = None) -> Fetched:
        """Return the bytes of *wanted*, of the *pinned* version if given. Raises SourceError."""
        backend = self._backend(wanted.location)
        return await self._persist(
            wanted.location, lambda until: backend.fetch(wanted, pinned, until)
        )

    async def version(self, wanted: AuthorizedRange) -> str:
        """Return the version that the object has now. Raises SourceError."""
        backend = self._backend(wanted.location)
        return await self._persist(wanted.location, lambda until: backend.version(wanted, until))

    async def list(self, below: AuthorizedPrefix) -> list[str]:
        """Return the keys below a prefix, relative to it. Raises SourceError."""
        backend = self._backend(below.prefix)
        return await self._persist(below.prefix, lambda until: backend.list(below, until))

    def statistics(self) -> SourceStatistics:
        """Return what was done so far."""
        return self._tally.statistics()

    def _backend(self, place: Location | Prefix) -> Backend:
        backend = self._backends.get(place.scheme)
        if backend is None:
            self._tally.add("errors")
            raise SourceError(
                ErrorKind.BAD_LOCATION,
                f"{place.scheme}: locations are not supported yet",
                where=str(place),
                advice=f"supported are {', '.join(sorted(self._backends))}",
            )
        return backend

    async def _persist[T](self, place: Location | Prefix, work: Callable[[float], T]) -> T:
        """Do *work* in a thread, again as long as it fails in ways that may pass and time is left."""
        host = (place.scheme, place.authority)
        limiter = self._hosts.get(host)
        if limiter is None:
            limiter = self._hosts[host] = _HostLimiter(self._limiter)
        try:
            return await self._attempts(str(place), work, limiter)
        except SourceError:
            self._tally.add("errors")
            raise

    async def _attempts[T](
        self, where: str, work: Callable[[float], T], limiter: "_HostLimiter"
    ) -> T:
        timing = self._timing
        until = time.monotonic() + timing.deadline
        last: SourceError | None = None
        attempt = 1
        with trio.move_on_after(timing.deadline):
            while True:
                try:
                    return await trio.to_thread.run_sync(
                        work,
                        until,
                        limiter=limiter,  # type: ignore[arg-type]  # any two such methods will do
                        abandon_on_cancel=True,
                    )
                except Transient as transient:
                    last = transient.error
                    pause = max(self._pause(attempt), transient.after)
                if attempt >= timing.attempts or time.monotonic() + pause >= until:
                    raise _after(last, attempt)
                self._tally.add("retries")
                attempt += 1
                await trio.sleep(pause)
        raise SourceError(
            ErrorKind.SOURCE_TIMEOUT,
            f"no answer within {timing.deadline:g} s"
            + (f"; before that, {last.what}" if last else ""),
            where=where,
            advice="the server is slow or cannot be reached; try again later",
        )

    def _pause(self, attempt: int) -> float:
        """Return how long to wait after an attempt, in seconds, with jitter against herds."""
        return self._timing.backoff * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret


class _HostLimiter:
    """What `trio.to_thread.run_sync` takes for a limiter: a place at one host, and then one of all."""

    def __init__(self, overall: trio.CapacityLimiter) -> None:
        self._overall = overall
        self._own = trio.CapacityLimiter(max(overall.total_tokens // HOST_SHARE, 1))

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a place."""
        await self._own.acquire_on_behalf_of(borrower)
        try:
            await self._overall.acquire_on_behalf_of(borrower)
        except BaseException:
            self._own.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a place back."""
        self._overall.release_on_behalf_of(borrower)
        self._own.release_on_behalf_of(borrower)


def _after(error: SourceError, attempts: int) -> SourceError:
    """Add to *error* how often it was tried."""
    if attempts == 1:
        return error
    return SourceError(
        error.kind,
        f"{error.what}, {attempts} times in a row",
        where=error.where,
        advice=error.advice or "try again later",
    )
