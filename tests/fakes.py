"""Stand-ins that pass the same conformance suites as what they stand in for."""

import dataclasses
import struct
from collections import deque
from typing import NamedTuple

import trio

from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import parse_location
from vzfs.source import Fetched, SourceStatistics
from vzfs.source.remote import check
from vzfs.source.versions import verify
from vzfs.source.wire import Seen


class Fetch(NamedTuple):
    """One call of `FakeSource.fetch`. *length* is None for a whole object."""

    url: str
    offset: int
    length: int | None


class FakeSource:
    """A `Fetcher` over objects in memory: no threads and no time but what a test asks for.

    Objects are named by URL. *fetched* lists every fetch in order. `fail` scripts failures,
    `hold` makes fetches of an object wait, and *seconds* is how long each takes on trio's clock.
    """

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.fetched: list[Fetch] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._objects: dict[str, tuple[bytes, Seen]] = {}
        self._failures: dict[str, deque[ErrorKind | None]] = {}
        self._gates: dict[str, trio.Event] = {}
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
        """Let the next fetches of *url* raise these kinds of SourceError, one each; None lets one pass."""
        self._failures.setdefault(str(parse_location(url)), deque()).extend(kinds)

    def hold(self, url: str) -> trio.Event:
        """Let fetches of *url* wait until the returned event is set."""
        return self._gates.setdefault(str(parse_location(url)), trio.Event())

    async def fetch(self, wanted: AuthorizedRange, pinned: str | None = None) -> Fetched:
        """Do what `Fetcher.fetch` says."""
        url, span = str(wanted.location), wanted.range
        self.fetched.append(Fetch(url, span.offset if span else 0, span.length if span else None))
        self._count("gets")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._wait(url)
            return self._fetch(wanted, pinned)
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

    async def list(self, below: AuthorizedPrefix) -> list[str]:
        """Do what `Fetcher.list` says."""
        self._count("lists")
        await trio.lowlevel.checkpoint()
        places = (parse_location(url) for url in self._objects)
        prefix = below.prefix
        covered = (p for p in places if prefix.covers(p) and p.key != prefix.key)
        return [prefix.relative(place) for place in covered]

    def statistics(self) -> SourceStatistics:
        """Return what was done so far."""
        return self._statistics

    def _fetch(self, wanted: AuthorizedRange, pinned: str | None) -> Fetched:
        check(wanted)
        where = str(wanted.location)
        script = self._failures.get(where)
        kind = script.popleft() if script else None
        if kind is not None:
            raise SourceError(kind, "the script of the test says so", where=where)
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

    async def _wait(self, url: str) -> None:
        await trio.sleep(self.seconds)
        gate = self._gates.get(url)
        if gate is not None:
            await gate.wait()

    def _count(self, what: str, count: int = 1) -> None:
        now = getattr(self._statistics, what)
        self._statistics = dataclasses.replace(self._statistics, **{what: now + count})


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
