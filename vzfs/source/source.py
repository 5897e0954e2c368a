"""The `Fetcher` over real stores: dispatch by scheme, retries, races, and one time budget for everything.

Servers are talked to on the event loop, local files are read in threads; both have the places that
the composition root owns. A caller that is cancelled goes at once, and so does its connection;
a thread that is left behind keeps its place until it ends.
"""

import dataclasses
import functools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from vzfs.access import AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source import remote
from vzfs.source.azure import Azure
from vzfs.source.client import Client
from vzfs.source.credentials import Keyring
from vzfs.source.dialect import Dialect
from vzfs.source.egress import Egress
from vzfs.source.fetcher import (
    MAX_LISTED,
    Fetched,
    Listed,
    Pace,
    Pressing,
    Sink,
    SourceStatistics,
    Stat,
    Timing,
    Urgency,
    urgency_of,
)
from vzfs.source.gcs import Gcs
from vzfs.source.hedge import Race, Racer
from vzfs.source.hosts import Host, HostPlaces, Meter, Places, ThreadLimiter
from vzfs.source.http import Http
from vzfs.source.local import LocalFiles
from vzfs.source.redirect import Target, follow
from vzfs.source.remote import Remote
from vzfs.source.s3 import S3
from vzfs.source.wire import Tally, Transient, too_many

DEFAULT_TIMING: Final = Timing()
LOCAL_PACE: Final = Pace(0.0002, 1e9)
"""Of files of which none was read yet."""

LEAST_PAGE: Final = 100
"""Objects that a page counts for at least, so that not even a listing without any goes on for ever."""

_ANSWERS: Final = frozenset(
    {
        ErrorKind.SOURCE_VANISHED,
        ErrorKind.SOURCE_CHANGED,
        ErrorKind.SOURCE_MISMATCH,
        ErrorKind.SOURCE_DENIED,
    }
)
"""What only a server that is there can have said."""


class Source:
    """Reads files, and objects of web servers, S3, Google Cloud Storage and Azure, as authorized.

    *places* bound the requests and threads in use; one bucket or server gets a part of them, so
    that a dead one leaves the others alone. *egress* bounds the bytes that servers send. Where
    `run` runs, fetches that stall are raced by a second request.
    """

    def __init__(
        self,
        timing: Timing = DEFAULT_TIMING,
        *,
        places: Places,
        egress: Egress | None = None,
    ) -> None:
        self._timing = timing
        self._places = places
        self._hosts: dict[tuple[str, str, str | None, str | None], Host] = {}
        self._tally = Tally()
        self._client = Client(timing)
        self._racer = Racer(self._tally, timing.hedge)
        keyring = Keyring()
        web, s3, azure = Http(keyring), S3(keyring), Azure(keyring)
        dialects: dict[str, Dialect] = {
            "http": web,
            "https": web,
            "s3": s3,
            "tigris": s3,
            "gs": Gcs(keyring),
            "az": azure,
            "abfs": azure,
        }
        self._schemes = frozenset(dialects)
        self._remote = Remote(self._client, dialects, self._tally, egress or Egress())
        self._files = _Threads(LocalFiles(), HostPlaces(places), timing, self._tally)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Race what stalls, until cancelled; then close the connections that are idle."""
        try:
            await self._racer.run(task_status=task_status)
        finally:
            with trio.CancelScope(shield=True):
                await self._client.aclose()

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Pressing = Urgency.DEMAND,
    ) -> Fetched:
        """Return the bytes of *wanted*, of the *pinned* version if given. Raises SourceError."""
        place, span = wanted.location, wanted.range
        if span is None and sink is not None:
            raise ValueError("a whole object, of any length, is not read into a sink")
        host = self._host(place, wanted.store)
        if host is None:
            return await self._persist(
                place, None, lambda: self._files.fetch(wanted, pinned, sink, urgency)
            )
        fetch = self._remote.fetch
        return await self._persist(
            place,
            host,
            lambda: fetch(wanted, pinned, sink, host.meter),
            urgency,
            None if span is None else span.length,
        )

    async def version(self, wanted: AuthorizedRange) -> str:
        """Return the version that the object has now. Raises SourceError."""
        host = self._host(wanted.location, wanted.store)
        backend = self._files if host is None else self._remote
        return await self._persist(wanted.location, host, lambda: backend.version(wanted))

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Return length and version of the object. Raises SourceError."""
        host = self._host(wanted.location, wanted.store)
        backend = self._files if host is None else self._remote
        return await self._persist(wanted.location, host, lambda: backend.stat(wanted))

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        """Return the objects below a prefix, at every depth or of one level. Raises SourceError."""
        prefix = below.prefix
        host = self._host(prefix, below.store)
        if host is None:
            return await self._persist(prefix, None, lambda: self._files.objects(below, deep=deep))
        found: dict[str, Listed] = {}
        listed = 0
        after = ""
        while True:
            page = functools.partial(self._remote.page, below, after, deep=deep)
            objects, after = await self._persist(prefix, host, page)
            # A folder goes on from page to page.
            found.update((o.key, o) for o in objects)
            # Pages that have nothing new come to an end too.
            listed += max(len(objects), LEAST_PAGE)
            if listed > MAX_LISTED:
                self._tally.add("errors")
                raise too_many(prefix)
            if not after:
                return list(found.values())

    async def follow(self, start: Location, store: StoreOptions) -> Target:
        """Return the storage that the web server at *start* redirects to. Raises SourceError.

        The target is a stranger's proposal; whether it may be read is for the caller to ask.
        """
        return await self._persist(start, None, lambda: follow(self._client, start, store))

    def pace(self, wanted: AuthorizedRange) -> Pace:
        """Return how fast the host of *wanted* is, as far as it is known."""
        host = self._host(wanted.location, wanted.store)
        return self._files.meter.pace if host is None else host.meter.pace

    def statistics(self) -> SourceStatistics:
        """Return what was done so far."""
        client = self._client.statistics()
        return dataclasses.replace(self._tally.statistics(), active=client.active, idle=client.idle)

    # -- where ---------------------------------------------------------------------------------

    def _host(self, place: Location | Prefix, store: StoreOptions) -> Host | None:
        """Return who answers for *place*: a web server, or a bucket at its endpoint or account; None for files.

        Raises SourceError for a scheme that cannot be read.
        """
        key = (place.scheme, place.authority, store.endpoint, store.account)
        host = self._hosts.get(key)
        if host is not None or place.scheme == "file":
            return host
        if place.scheme not in self._schemes:
            self._tally.add("errors")
            raise SourceError(
                ErrorKind.BAD_LOCATION,
                f"{place.scheme}: locations cannot be read",
                where=str(place),
                advice=f"supported are {', '.join(sorted({*self._schemes, 'file'}))}",
            )
        host = self._hosts[key] = Host(f"{place.scheme}://{place.authority}", self._places)
        return host

    # -- attempts ------------------------------------------------------------------------------

    async def _persist[T](
        self,
        place: Location | Prefix,
        host: Host | None,
        work: Callable[[], Awaitable[T]],
        urgency: Pressing = Urgency.DEMAND,
        length: int | None = None,
    ) -> T:
        """Do *work*, again as long as it fails in ways that may pass and time is left.

        What fetches so many bytes as *length* from a *host* is raced if it stalls.
        """
        timing = self._timing
        last: SourceError | None = None
        race: Race[T] | None = None
        attempt = 1
        is_trial = False
        try:
            if host is not None:
                is_trial = host.admit(place)
            began = trio.current_time()
            with trio.CancelScope(deadline=began + timing.deadline) as budget:
                if host is not None and length is not None:
                    race = Race(budget, lambda: self._placed(host, urgency, work, length))
                while True:
                    try:
                        if host is None:
                            return await work()
                        return await self._placed(host, urgency, work, length, race)
                    except Transient as transient:
                        last = transient.error
                        pause = max(self._pause(attempt), transient.after)
                        is_last = attempt >= timing.attempts or (is_trial and transient.is_silent)
                    if is_last or trio.current_time() + pause >= budget.deadline:
                        raise _after(last, attempt)
                    self._tally.add("retries")
                    attempt += 1
                    await trio.sleep(pause)
            if race is not None and race.result is not None:
                return race.result[0]
            if host is not None and host.gave_nothing_since(began):
                host.was_silent(began)
            raise _too_late(place, timing.deadline, last)
        except SourceError:
            self._tally.add("errors")
            raise
        finally:
            if is_trial and host is not None:
                host.tried()

    async def _placed[T](
        self,
        host: Host,
        pressing: Pressing,
        work: Callable[[], Awaitable[T]],
        length: int | None,
        race: Race[T] | None = None,
    ) -> T:
        """Make one attempt, as soon as there is a place for it, and take note whether it was answered."""
        taken = (urgency_of(pressing),) * 2
        if not host.places.take(taken[0]):
            taken = await host.places.wait(pressing)
        began = trio.current_time()
        host.asked(began)
        try:
            if race is None or length is None:
                result = await work()
            else:
                tail = host.latencies.tail(length)
                result = await self._racer.first(race, began, tail, work)
        except Transient as failure:
            if failure.is_silent:
                host.was_silent(began)
            else:
                host.answered()
            raise
        except SourceError as failure:
            if failure.kind in _ANSWERS:
                host.answered()
            raise
        finally:
            host.places.release(*taken)
        took = host.answered() - began
        if length is not None:
            host.latencies.add(length, took)
        return result

    def _pause(self, attempt: int) -> float:
        """Return how long to wait after an attempt, in seconds, with jitter against herds."""
        return self._timing.backoff * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret


class _Threads:
    """Files, which can only be waited for in threads. A thread has its place until it ends.

    What need not be waited for is read here and now.
    """

    def __init__(self, files: LocalFiles, places: HostPlaces, timing: Timing, tally: Tally) -> None:
        self._files = files
        self._tally = tally
        self._places = places
        self._timing = timing
        self.meter: Final = Meter(LOCAL_PACE)

    async def fetch(
        self, wanted: AuthorizedRange, pinned: str | None, sink: Sink | None, urgency: Pressing
    ) -> Fetched:
        """Do what `LocalFiles.fetch` does, at once where that needs no waiting, and give the bytes to *sink*."""
        self._tally.add("gets")
        read = self._files.glance(wanted, pinned)
        if read is None:
            read = await self._call(lambda until: self._files.fetch(wanted, pinned, until), urgency)
        else:
            await trio.lowlevel.checkpoint()
        data, version, waited, took = read
        self._tally.add("bytes_read", len(data))
        self.meter.waited(waited)
        self.meter.came(len(data), took)
        return Fetched(remote.into(sink, version, data), version)

    async def version(self, wanted: AuthorizedRange) -> str:
        """Do what `LocalFiles.version` does."""
        self._tally.add("heads")
        return await self._call(lambda until: self._files.version(wanted, until))

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Do what `LocalFiles.stat` does."""
        self._tally.add("heads")
        return await self._call(lambda until: self._files.stat(wanted, until))

    async def objects(self, below: AuthorizedPrefix, *, deep: bool) -> Sequence[Listed]:
        """Do what `LocalFiles.objects` does."""
        self._tally.add("lists")
        return await self._call(lambda until: self._files.objects(below, until, deep=deep))

    async def _call[T](self, work: Callable[[float], T], urgency: Pressing = Urgency.DEMAND) -> T:
        return await trio.to_thread.run_sync(
            work,
            time.monotonic() + self._timing.deadline,
            limiter=ThreadLimiter(self._places, urgency),  # type: ignore[arg-type]  # any two such methods will do
            abandon_on_cancel=True,
        )


def _too_late(place: Location | Prefix, deadline: float, last: SourceError | None) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_TIMEOUT,
        f"no answer within {deadline:g} s" + (f"; before that, {last.what}" if last else ""),
        where=str(place),
        advice="the server is slow or cannot be reached; try again later",
    )


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
