"""Stand-ins that pass the same conformance suites as what they stand in for."""

import dataclasses
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import trio

from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, parse_location, parse_prefix
from vzfs.source import (
    DEFAULT_PACE,
    Fetched,
    Haste,
    Listed,
    Pace,
    Pressing,
    Sink,
    SourceStatistics,
    Stat,
    Urgency,
)
from vzfs.source.dialect import Page, folder
from vzfs.source.listing import relative
from vzfs.source.remote import WEB, begun, check
from vzfs.source.versions import checksum_of, verify
from vzfs.source.wire import Seen


class Fetch(NamedTuple):
    """One call of `FakeSource.fetch`. *length* is None for a whole object."""

    url: str
    offset: int
    length: int | None


class FakeSource:
    """A `Fetcher` over objects in memory: no threads and no time but what a test asks for.

    Objects are named by URL. *fetched* lists every fetch in order, and *urgencies* how urgent each
    was at first, of what *pressing* says how urgent it is now; *asked* every object whose length was
    asked for, and *listed* every prefix. `fail` scripts failures, `hold` makes fetches of an object wait, before their first byte or
    in the midst, and *seconds* is how long each takes on trio's clock. Every host has the *speed*.
    """

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.fetched: list[Fetch] = []
        self.asked: list[str] = []
        self.listed: list[str] = []
        self.urgencies: list[Urgency] = []
        self.pressing: list[Pressing] = []
        self.speed = DEFAULT_PACE
        self.in_flight = 0
        self.most_in_flight = 0
        self._objects: dict[str, tuple[bytes, Seen]] = {}
        self._failures: dict[str, deque[ErrorKind | None]] = {}
        self._gates: dict[str, tuple[int, trio.Event]] = {}
        self._repeats: dict[str, int] = {}
        self._puts = 0
        self._statistics = SourceStatistics()

    def put(
        self, url: str, data: bytes, *, etag: str | None = "", last_modified: int = 1_700_000_000
    ) -> None:
        """Store an object, with an etag that no other has unless given (None for none at all)."""
        self._puts += 1
        if etag == "":
            etag = f'"fake-{self._puts}"'
        self._objects[str(parse_location(url))] = (data, Seen(etag, last_modified, len(data)))

    def delete(self, url: str) -> None:
        del self._objects[str(parse_location(url))]

    def seen(self, url: str) -> Seen:
        """Return what a server would say of the object's version."""
        return self._objects[str(parse_location(url))][1]

    def fail(self, url: str, *kinds: ErrorKind | None) -> None:
        """Let the next fetches and stats of *url* (listings, if it ends in a slash) raise these kinds of SourceError, one each; None lets one pass."""
        place = parse_prefix(url) if url.endswith("/") else parse_location(url)
        self._failures.setdefault(str(place), deque()).extend(kinds)

    def hold(self, url: str, after: int = 0) -> trio.Event:
        """Let fetches of *url* wait until the returned event is set; into a sink, *after* so many bytes."""
        return self._gates.setdefault(str(parse_location(url)), (after, trio.Event()))[1]

    def repeat(self, url: str, times: int = 1) -> None:
        """Let the next fetch of *url* into a sink take so many attempts more, each but the last half done."""
        self._repeats[str(parse_location(url))] = times

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Pressing = Urgency.DEMAND,
    ) -> Fetched:
        """Do what `Fetcher.fetch` says."""
        url, span = str(wanted.location), wanted.range
        if span is None and sink is not None:
            raise ValueError("a whole object is not read into a sink")
        self.fetched.append(Fetch(url, span.offset if span else 0, span.length if span else None))
        self.urgencies.append(Urgency.AHEAD if isinstance(urgency, Haste) else urgency)
        self.pressing.append(urgency)
        self._count("gets")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        after, gate = self._gates.get(url, (0, None))
        try:
            await trio.sleep(self.seconds)
            if gate is not None and (not after or sink is None):
                await gate.wait()
            fetched = self._fetch(wanted, pinned)
            if sink is None:
                return fetched
            size, buffer = len(fetched.data), None
            for _ in range(self._repeats.pop(url, 0)):
                _give(sink, fetched, size // 2)
            if gate is not None and after:
                buffer = _give(sink, fetched, after)
                await gate.wait()
            return fetched._replace(data=_give(sink, fetched, size, buffer))
        except SourceError:
            self._count("errors")
            raise
        finally:
            self.in_flight -= 1

    async def version(self, wanted: AuthorizedRange) -> str:
        """Do what `Fetcher.version` says."""
        self._count("heads")
        await trio.lowlevel.checkpoint()
        try:
            return self._version(wanted)
        except SourceError:
            self._count("errors")
            raise

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Do what `Fetcher.stat` says."""
        self._count("heads")
        self.asked.append(str(wanted.location))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await trio.sleep(self.seconds)
            check(wanted)
            self._heed_script(str(wanted.location))
            data, seen = self._find(wanted)
            verify(wanted, seen)
            return Stat(len(data), checksum_of(seen), seen.modified)
        except SourceError:
            self._count("errors")
            raise
        finally:
            self.in_flight -= 1

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        """Do what `Fetcher.objects` says."""
        self._count("lists")
        self.listed.append(str(below.prefix))
        await trio.lowlevel.checkpoint()
        prefix = below.prefix
        self._heed_script(str(prefix))
        if prefix.scheme in WEB:
            raise SourceError(ErrorKind.CANNOT_LIST, "this has no listings", where=str(prefix))
        start = folder(prefix)
        objects = [
            Listed(place.key, len(data), checksum_of(seen))
            for place, (data, seen) in self._places()
            if prefix.covers(place)
        ]
        return relative(Page(objects, ""), start, deep=deep).objects

    def _places(self) -> Iterator[tuple[Location, tuple[bytes, Seen]]]:
        return ((parse_location(url), found) for url, found in self._objects.items())

    def pace(self, wanted: AuthorizedRange) -> Pace:
        """Return the *speed*."""
        return self.speed

    def statistics(self) -> SourceStatistics:
        """Return what was done so far."""
        return self._statistics

    def _fetch(self, wanted: AuthorizedRange, pinned: str | None) -> Fetched:
        check(wanted)
        where = str(wanted.location)
        self._heed_script(where)
        data, seen = self._find(wanted)
        version = verify(wanted, seen, pinned)
        span = wanted.range
        offset, end = (span.offset, span.end) if span else (0, len(data))
        if end > len(data):
            raise _too_short(end, len(data), where)
        if end - offset > wanted.max_length:
            raise SourceError(
                ErrorKind.SOURCE_MISMATCH, f"{offset} to {end} of {len(data)} bytes", where=where
            )
        self._count("bytes_read", end - offset)
        return Fetched(data[offset:end], version)

    def _heed_script(self, where: str) -> None:
        script = self._failures.get(where)
        kind = script.popleft() if script else None
        if kind is not None:
            raise SourceError(kind, "the script of the test says so", where=where)

    def _version(self, wanted: AuthorizedRange) -> str:
        check(wanted)
        data, seen = self._find(wanted)
        version = verify(wanted, seen)
        if wanted.range is not None and wanted.range.end > len(data):
            raise _too_short(wanted.range.end, len(data), str(wanted.location))
        return version

    def _find(self, wanted: AuthorizedRange) -> tuple[bytes, Seen]:
        try:
            return self._objects[str(wanted.location)]
        except KeyError:
            raise SourceError(
                ErrorKind.SOURCE_VANISHED, "there is no such object", where=str(wanted.location)
            ) from None

    def _count(self, what: str, count: int = 1) -> None:
        now = getattr(self._statistics, what)
        self._statistics = dataclasses.replace(self._statistics, **{what: now + count})


def _give(sink: Sink, fetched: Fetched, count: int, buffer: memoryview | None = None) -> memoryview:
    """Give the first *count* bytes to *sink*, into its *buffer* if the attempt has begun already."""
    if buffer is None:
        buffer = begun(sink, fetched.version, len(fetched.data))
    buffer[:count] = fetched.data[:count]
    sink.came(count)
    return buffer


def _too_short(end: int, size: int, where: str) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_MISMATCH, f"the object ends at {size}, before {end}", where=where
    )


def fuse_request(
    opcode: int, inode: int, body: bytes = b"", *, unique: int = 1, thread: int = 0
) -> bytes:
    """Return a request as the kernel sends it."""
    length = 40 + len(body)
    return struct.pack("=IIQQIIIHH", length, opcode, unique, inode, 0, 0, thread, 0, 0) + body
