"""Objects behind servers: one engine for whatever speaks HTTP, told apart by dialects.

A fetch is one GET with a precondition, and the reply compared. Some servers compare an entity tag
with their own without its quotes and so refuse every precondition: after a 412, one HEAD tells the
object's tag, and if it is the wanted one, that authority gets no preconditions any more and its
replies decide.

Nothing is followed by itself: a redirect of a web server only to what the same authorized prefix
covers, and one of an object store never.
"""

import contextlib
import urllib.parse
from collections.abc import Mapping
from typing import Final, NamedTuple

import trio

import vzfs
from vzfs.access import AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import Location, Prefix, parse_location
from vzfs.model.moment import http_date
from vzfs.source import listing, replies, versions
from vzfs.source.addresses import Reach
from vzfs.source.client import Client, Request, Response, Trouble
from vzfs.source.dialect import REDIRECTS, Dialect, Page, folder
from vzfs.source.egress import Egress
from vzfs.source.fetcher import MAX_FETCH, Fetched, Sink, Stat
from vzfs.source.hosts import Meter
from vzfs.source.wire import Precondition, PreconditionFailed, Seen, Tally, Transient

MAX_OFFSET: Final = 2**63 - 1
"""The largest offset that clients and servers agree on."""
MAX_TURNS: Final = 6
"""Requests for one attempt: redirects, a region learnt, credentials read anew."""

_MAX_WAYS: Final = 4096
"""Objects of which it is remembered how they are asked for."""

_AT_ONCE: Final = 2**15
"""Bytes of a listing that are parsed on the event loop; a page of a thousand objects takes some 40 ms."""

WEB: Final = frozenset({"http", "https"})
_UNKNOWN_USER: Final = frozenset({401, 403})
_NO_HEAD: Final = frozenset({405, 501})
_STANDARD: Final = {"accept-encoding": "identity", "user-agent": f"vzfs/{vzfs.__version__}"}


class Remote:
    """Attempts for every scheme that *dialects* has."""

    def __init__(
        self, client: Client, dialects: Mapping[str, Dialect], tally: Tally, egress: Egress
    ) -> None:
        self._client = client
        self._dialects = dialects
        self._tally = tally
        self._egress = egress
        self._refusing: set[tuple[str, str, StoreOptions]] = set()
        self._reaches: dict[tuple[Prefix, StoreOptions], Reach] = {}
        self._ways: dict[Location, _Way] = {}

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None,
        sink: Sink | None = None,
        meter: Meter | None = None,
    ) -> Fetched:
        """Return the bytes of *wanted*, and tell *meter* how they came. Raises Transient, SourceError."""
        way = self._way(wanted)
        span = wanted.range
        if span is not None and not span.length:
            version = versions.verify(wanted, await self._head(wanted, way), pinned)
            return Fetched(into(sink, version, b""), version)
        condition = versions.precondition(wanted.checksum, pinned)
        authority = (wanted.location.scheme, wanted.location.authority, wanted.store)
        if self._refusing and authority in self._refusing:
            condition = versions.NO_PRECONDITION
        try:
            return await self._get(wanted, way, pinned, condition, sink, meter)
        except PreconditionFailed:
            if condition is versions.NO_PRECONDITION:
                raise _unasked(wanted.location) from None
        versions.verify(wanted, await self._head(wanted, way), pinned)
        self._refusing.add(authority)
        try:
            return await self._get(wanted, way, pinned, versions.NO_PRECONDITION, sink, meter)
        except PreconditionFailed:
            raise _unasked(wanted.location) from None

    async def version(self, wanted: AuthorizedRange) -> str:
        """Return the version that the object has now. Raises Transient, SourceError."""
        seen = await self._head(wanted, self._way(wanted))
        version = versions.verify(wanted, seen)
        if wanted.range is not None and seen.size is not None and seen.size < wanted.range.end:
            raise replies.mismatch(
                f"the object ends at {seen.size}, before {wanted.range.end}", str(wanted.location)
            )
        return version

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Return length and version of the object. Raises Transient, SourceError."""
        seen = await self._head(wanted, self._way(wanted))
        versions.verify(wanted, seen)
        if seen.size is None:
            raise replies.mismatch(
                "the server does not say how long the object is", str(wanted.location)
            )
        return Stat(seen.size, versions.checksum_of(seen), seen.modified)

    async def page(self, below: AuthorizedPrefix, after: str, *, deep: bool) -> Page:
        """Return a page of what lies below a prefix, by keys relative to it. Raises Transient, SourceError."""
        prefix = below.prefix
        if prefix.key:
            check_key(prefix)
        try:
            with (
                self._egress.spending(prefix, 0) as spending,
                await self._page(below, after, deep=deep) as response,
            ):
                replies.judge(response, prefix)
                try:
                    body = await response.read(listing.MAX_BODY)
                except Trouble as trouble:
                    raise _named(trouble, response.request, prefix) from None
                finally:
                    spending.came = response.received
        except PreconditionFailed:
            raise _unasked(prefix) from None
        except Trouble as trouble:
            raise _failed(trouble, prefix) from None
        read = self._dialects[prefix.scheme].page
        if len(body) <= _AT_ONCE:
            page = read(prefix, body)
        else:
            page = await trio.to_thread.run_sync(read, prefix, body)
        if page.after and page.after == after:
            raise replies.mismatch("the pages of the listing do not end", str(prefix))
        return listing.relative(page, folder(prefix), deep=deep)

    # -- requests ------------------------------------------------------------------------------

    async def _get(
        self,
        wanted: AuthorizedRange,
        way: "_Way",
        pinned: str | None,
        condition: Precondition,
        sink: Sink | None,
        meter: Meter | None,
    ) -> Fetched:
        headers = dict(_STANDARD)
        span = wanted.range
        if span is not None:
            headers["range"] = f"bytes={span.offset}-{span.end - 1}"
        if condition.if_match is not None:
            headers["if-match"] = condition.if_match
        if condition.if_unmodified_since is not None:
            date = http_date(condition.if_unmodified_since)
            headers["if-unmodified-since"] = date
        try:
            with (
                self._egress.spending(wanted.location, span.length if span else 0) as spending,
                await self._reply("GET", wanted, way, headers) as response,
            ):
                replies.judge(response, wanted.location)
                seen, limit = replies.describe(response, wanted)
                version = versions.verify(wanted, seen, pinned)
                if meter is not None:
                    meter.waited(response.waited)
                try:
                    if span is None or (sink is None and response.is_all_there):
                        return Fetched(await response.read(limit), version)
                    return Fetched(await _read(response, limit, version, sink, meter), version)
                except Trouble as trouble:
                    raise _named(trouble, response.request, wanted.location) from None
                finally:
                    spending.came = response.received
                    self._tally.add("bytes_read", response.received)
        except Trouble as trouble:
            raise _failed(trouble, wanted.location) from None

    async def _head(self, wanted: AuthorizedRange, way: "_Way") -> Seen:
        place = wanted.location
        try:
            with await self._reply("HEAD", wanted, way, _STANDARD) as response:
                if response.status not in _NO_HEAD:
                    replies.judge(response, place)
                    return replies.seen(response, replies.size(response))
            first = {**_STANDARD, "range": "bytes=0-0"}
            with await self._reply("GET", wanted, way, first) as response:
                replies.judge(response, place)
                seen = replies.seen(response, replies.size(response))
                await response.discard()
                return seen
        except PreconditionFailed:
            raise _unasked(place) from None
        except Trouble as trouble:
            raise _failed(trouble, place) from None

    async def _reply(
        self, method: str, wanted: AuthorizedRange, way: "_Way", headers: Mapping[str, str]
    ) -> Response:
        """Ask for an object, in as many turns as its store needs, and return the reply that counts."""
        place, store, dialect = wanted.location, wanted.store, way.dialect
        is_renewed = False
        for _ in range(MAX_TURNS):
            request = await dialect.request(method, place, store, headers)
            self._tally.add("heads" if method == "HEAD" else "gets")
            try:
                response = await self._client.send(request, way.reach)
                status = response.status
                if status < 300:
                    return response
                # Of any other reply the head says all.
                with contextlib.ExitStack() as stack:
                    stack.enter_context(response)
                    await response.discard()
                    if status in REDIRECTS and place.scheme in WEB:
                        target = response.headers.get("location", "")
                        place = redirected(wanted, place, target)
                    elif not is_renewed and _renews(dialect, response, place, store):
                        is_renewed = True
                    else:
                        refusal = dialect.refused(status, response.headers, str(place), store)
                        if refusal is not None:
                            raise refusal
                        stack.pop_all()
                        return response
            except Trouble as trouble:
                raise _named(trouble, request, place) from None
        raise replies.mismatch(f"no reply after {MAX_TURNS} requests", str(wanted.location))

    async def _page(self, below: AuthorizedPrefix, after: str, *, deep: bool) -> Response:
        """Ask for a page of a listing."""
        prefix, store = below.prefix, below.store
        dialect = self._dialects[prefix.scheme]
        reach = self._reach(dialect, prefix, store)
        is_renewed = False
        while True:
            request = await dialect.listing(prefix, store, after, deep=deep)
            self._tally.add("lists")
            try:
                response = await self._client.send(request, reach)
                if response.status < 300:
                    return response
                with contextlib.ExitStack() as stack:
                    stack.enter_context(response)
                    await response.discard()
                    if not is_renewed and _renews(dialect, response, prefix, store):
                        is_renewed = True
                        continue
                    refusal = dialect.refused(response.status, response.headers, str(prefix), store)
                    if refusal is not None:
                        raise refusal
                    stack.pop_all()
                    return response
            except Trouble as trouble:
                raise _named(trouble, request, prefix) from None

    def _way(self, wanted: AuthorizedRange) -> "_Way":
        """Return how the object of *wanted* is asked for. Raises SourceError for what is not asked for."""
        check_range(wanted)
        way = self._ways.get(wanted.location)
        # Policies hand out one and the same root and options, so nothing has to be compared.
        if way is None or way.root is not wanted.root or way.store is not wanted.store:
            check_key(wanted.location)
            dialect = self._dialects[wanted.location.scheme]
            reach = self._reach(dialect, wanted.root, wanted.store)
            if len(self._ways) >= _MAX_WAYS:
                self._ways.clear()
            way = self._ways[wanted.location] = _Way(wanted.root, wanted.store, dialect, reach)
        return way

    def _reach(self, dialect: Dialect, root: Prefix, store: StoreOptions) -> Reach:
        reach = self._reaches.get((root, store))
        if reach is None:
            reach = self._reaches[root, store] = dialect.reach(root, store)
        return reach


class _Way(NamedTuple):
    """What is the same for every request for one object below *root*, as *store* says."""

    root: Prefix
    store: StoreOptions
    dialect: Dialect
    reach: Reach


def _named(trouble: Trouble, request: Request, place: Location | Prefix) -> Trouble:
    """Say in *trouble* which server was asked, where the location of an object store does not."""
    if place.scheme in WEB:
        return trouble
    what = f"{trouble.what} ({request.scheme}://{request.authority})"
    return Trouble(trouble.kind, what, trouble.advice, passes=trouble.passes)


async def _read(
    response: Response, length: int, version: str, sink: Sink | None, meter: Meter | None
) -> memoryview:
    """Return the body, of *length* bytes and of an object of this *version*, in the buffer of *sink*."""
    buffer = memoryview(bytearray(length)) if sink is None else begun(sink, version, length)
    began = trio.current_time()
    await response.read_into(buffer, _nobody if sink is None else sink.came)
    if meter is not None:
        meter.came(length - response.came_along, trio.current_time() - began)
    return buffer.toreadonly() if sink is None else buffer


def begun(sink: Sink, version: str, length: int) -> memoryview:
    """Return the buffer of *sink* for an object of this *version*. Raises SourceError."""
    buffer = sink.begin(version)
    if buffer.nbytes != length or buffer.readonly:
        raise ValueError(f"a sink for {length} bytes gives {buffer.nbytes}, or may not be written")
    return buffer


def into(sink: Sink | None, version: str, data: bytes | memoryview) -> bytes | memoryview:
    """Give *data*, of an object of this *version*, to the *sink* if there is one. Raises SourceError."""
    if sink is None:
        return data
    buffer = begun(sink, version, len(data))
    buffer[:] = data
    sink.came(len(data))
    return buffer


def _nobody(count: int) -> None:
    """Heed no bytes that come."""


def _renews(
    dialect: Dialect, response: Response, place: Location | Prefix, store: StoreOptions
) -> bool:
    """Whether a refusal tells the dialect something with which another attempt makes sense."""
    status = response.status
    if status in REDIRECTS or status == 400:
        return dialect.learn(status, response.headers, place, store)
    return status in _UNKNOWN_USER and dialect.forget(store)


def check(wanted: AuthorizedRange) -> None:
    """Raise SourceError for what cannot be asked for verbatim, or should not be."""
    check_key(wanted.location)
    check_range(wanted)


def check_range(wanted: AuthorizedRange) -> None:
    """Raise SourceError for a range that cannot be fetched at once."""
    span = wanted.range
    if span is None:
        return
    if span.offset < 0 or not 0 <= span.length <= MAX_FETCH or span.end > MAX_OFFSET:
        raise replies.mismatch(
            f"{span.length} bytes from {span.offset} on are no range that can be fetched at once",
            str(wanted.location),
        )


def check_key(place: Location | Prefix) -> None:
    """Raise SourceError for a key that somebody on the way might alter."""
    if not Location(place.scheme, place.authority, place.key).is_verbatim:
        raise SourceError(
            ErrorKind.BAD_LOCATION,
            "the key has an empty, '.' or '..' segment, or a control character, which somebody on "
            "the way might alter",
            where=str(place),
        )


def redirected(wanted: AuthorizedRange, place: Location, target: str) -> Location:
    """Return where a redirect leads, if that is authorized as *wanted* is. Raises SourceError."""
    if not target:
        raise replies.mismatch("a redirect to nowhere", str(wanted.location))
    host = "an unreadable address"
    location = None
    with contextlib.suppress(AccessDenied, ValueError):
        url = urllib.parse.urljoin(str(place), target)
        parts = urllib.parse.urlsplit(url)
        host = f"{parts.scheme}://{parts.hostname}/"
        location = parse_location(url)
    if location is None or not location.is_verbatim or not wanted.root.covers(location):
        # Of the target only scheme and host are named: the rest may hold a signature.
        raise SourceError(
            ErrorKind.SOURCE_DENIED,
            f"the server redirects to {host[:200]}, outside of what is allowed",
            where=str(wanted.location),
            advice="allow the place it leads to, and point --map there, if you trust it",
        )
    return location


def _failed(trouble: Trouble, place: Location | Prefix) -> SourceError | Transient:
    error = SourceError(trouble.kind, trouble.what, where=str(place), advice=trouble.advice)
    if not trouble.passes:
        return error
    return Transient(error, is_silent=trouble.kind is ErrorKind.SOURCE_UNREACHABLE)


def _unasked(place: Location | Prefix) -> SourceError:
    what = "the server says that a precondition failed, and none was made"
    return replies.mismatch(what, str(place))
