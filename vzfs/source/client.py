"""HTTP/1.1 exchanges with servers, over connections that are kept.

The client sends a request and gives the reply, whatever its status: it follows no redirect, tries
nothing again that the server has answered, and knows nothing of stores. A connection is used again
only if its exchange ended exactly where both sides agree that it ends; else it is closed at once.
Replies are bounded in head, body and framing. A server is given `Timing.connect` for a connection
and `Timing.stall` for each byte; how long an exchange may take in all is the caller's cancel scope
to say.

Nothing runs in the background: a connection that idles too long is closed when a later exchange
comes by, or at `aclose`.
"""

import contextlib
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Final, NamedTuple, Self

import trio

from vzfs.errors import ErrorKind
from vzfs.source import streams, transport
from vzfs.source.addresses import Reach
from vzfs.source.fetcher import Timing
from vzfs.source.messages import Chunks, Head, Malformed, write_head
from vzfs.source.streams import PIECE, Broken, Stalled, Stream, Trouble, Watch
from vzfs.source.transport import Route, Trust

__all__ = ["Client", "ClientStatistics", "Reach", "Request", "Response", "Trouble"]

IDLE_SECONDS: Final = 20.0
"""A connection idles no longer: servers and firewalls drop them without a word, some after 30 s."""

MAX_IDLE_PER_ROUTE: Final = 128
MAX_IDLE: Final = 512
"""Connections that idle at once, to one server and to all."""

MAX_DISCARDED: Final = 64 * 1024
"""Bytes of an unwanted body that are read to keep its connection; for more, a new one is cheaper."""

DISCARD_SECONDS: Final = 1.0
"""For those bytes to come."""

MAX_INFORMATIONAL: Final = 8
"""Replies 1xx before the one that counts."""

_SAFE: Final = frozenset({"GET", "HEAD"})

_FIRST_PIECE: Final = 1 << 16
"""Bytes received at first: a head, and the body if it is small."""

_BODY_PIECE: Final = 1 << 20
"""Bytes of a body received at once. 16 MiB come at 1200 MB/s in these, at 500 in pieces of 256 KiB:
their memory is given back to the system and faulted in again each time."""


_STEP: Final = 1 << 16
"""Bytes of a body that come between two words about it: half of what the kernel asks for at once."""


class Request(NamedTuple):
    """What to ask of whom. *target* is path and query exactly as they are sent; Host is *authority*."""

    method: str
    scheme: str
    authority: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    def __repr__(self) -> str:
        """Leave out the query and the headers, which hold signatures and tokens."""
        path = self.target.partition("?")[0]
        return f"<Request {self.method} {self.scheme}://{self.authority}{path}>"


class ClientStatistics(NamedTuple):
    """Connections *opened* so far, exchanges that *reused* one, and how many are *active* or *idle*."""

    opened: int
    reused: int
    active: int
    idle: int


class Response:
    """A reply to *request*: *status*, *headers* with lower-case names, and *length* as Content-Length says.

    Values of a header that comes more than once are joined by commas. *received* counts the bytes
    of the body that have come so far, of which *came_along* came with the head; *waited* are the
    seconds until anything came. The body can be read once. On leaving its context, the connection
    is kept if the body was consumed, and else closed.
    """

    __slots__ = ("_client", "_connection", "_data", "_end", "_head", "_stream", "came_along", "headers", "is_consumed", "length", "persists", "received", "request", "status", "waited")  # fmt: skip

    def __init__(
        self,
        client: "Client",
        connection: "_Connection",
        request: Request,
        head: Head,
        data: bytes,
        end: int,
        waited: float,
    ) -> None:
        self._client = client
        self._connection = connection
        self._stream = connection.stream
        self.request = request
        self._head = head
        self._data = data
        self._end = end
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        self.length = head.length
        self.persists = head.persists
        self.waited = waited
        self.received = 0
        self.came_along = len(data) - end
        self.is_consumed = (head.is_bodiless or head.length == 0) and len(data) == end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client._leave(self._connection, is_kept=self.is_consumed and self.persists)

    @property
    def is_all_there(self) -> bool:
        """Whether the whole body came with the head."""
        return self.length is not None and self.came_along >= self.length

    async def read(self, limit: int) -> bytes:
        """Return the whole body, of at most *limit* bytes. Raises Trouble.

        A body with neither length nor chunks ends with the connection, and unless that is encrypted
        the end of a whole one looks like that of a broken one: compare with what is known.
        """
        data, end = self._data, self._end
        self._data, self._end = b"", 0
        head = self._head
        if head.chunks is not None:
            return await self._read_chunks(head.chunks, data[end:], limit)
        due = 0 if head.is_bodiless else head.length
        if due is None:
            return await self._read_to_the_end(data[end:], limit)
        if due > limit:
            raise _too_long(limit)
        come = len(data) - end
        if come >= due:
            self.received = due
            self.is_consumed = come == due
            return data[end : end + due]
        self.received = come
        pieces: list[bytes | memoryview] = [memoryview(data)[end:]]
        receive = self._stream.receive
        while come < due:
            piece = await receive(min(due - come, _BODY_PIECE))
            if not piece:
                raise _ends_early(come)
            pieces.append(piece)
            come += len(piece)
            self.received = come
        self.is_consumed = True
        return b"".join(pieces)

    async def read_into(self, buffer: memoryview, came: Callable[[int], None]) -> None:
        """Read the body, which must be as long as *buffer*, into it. Raises Trouble.

        *came* is told now and then, and at the end, how many bytes of it have come.
        """
        data, end = self._data, self._end
        self._data, self._end = b"", 0
        head, due = self._head, len(buffer)
        if head.chunks is not None:
            return await self._read_chunks_into(head.chunks, data[end:], buffer, came)
        length = 0 if head.is_bodiless else head.length
        if length is not None and length != due:
            raise Trouble(
                ErrorKind.SOURCE_MISMATCH, f"a body of {length} bytes, not {due}", passes=False
            )
        come = min(len(data) - end, due)
        buffer[:come] = memoryview(data)[end : end + come]
        is_exact = come == len(data) - end
        self.received = come
        if come < due:
            told = 0

            def progress(count: int) -> None:
                nonlocal told
                self.received = come + count
                if self.received - told >= _STEP and self.received < due:
                    told = self.received
                    came(told)

            await self._stream.fill(buffer[come:], progress)
            if self.received < due:
                raise _ends_early(self.received)
        came(due)
        if length is None:
            is_exact = is_exact and not await self._stream.receive(1)
            if not is_exact:
                raise _too_long(due)
        self.is_consumed = is_exact and length is not None
        return None

    async def _read_chunks_into(
        self, chunks: Chunks, data: bytes, buffer: memoryview, came: Callable[[int], None]
    ) -> None:
        due, come, told = len(buffer), 0, 0
        while True:
            for piece in _fed(chunks, data):
                if come + len(piece) > due:
                    raise _too_long(due)
                buffer[come : come + len(piece)] = piece
                come += len(piece)
            self.received = come
            if chunks.is_complete:
                break
            if come - told >= _STEP:
                came(come)
                told = come
            data = await self._stream.receive(PIECE)
            if not data:
                raise _ends_early(come)
        if come < due:
            raise _ends_early(come)
        came(come)
        self.is_consumed = not chunks.has_excess

    async def _read_chunks(self, chunks: Chunks, data: bytes, limit: int) -> bytes:
        pieces: list[bytes] = []
        while True:
            new = _fed(chunks, data)
            pieces += new
            self.received += sum(map(len, new))
            if self.received > limit:
                raise _too_long(limit)
            if chunks.is_complete:
                self.is_consumed = not chunks.has_excess
                return b"".join(pieces)
            data = await self._stream.receive(PIECE)
            if not data:
                raise _ends_early(self.received)

    async def _read_to_the_end(self, data: bytes, limit: int) -> bytes:
        pieces = [data]
        self.received = len(data)
        while self.received <= limit:
            data = await self._stream.receive(PIECE)
            if not data:
                return b"".join(pieces)
            pieces.append(data)
            self.received += len(data)
        raise _too_long(limit)

    async def discard(self) -> None:
        """Read what is left of the body, if that is little and comes soon, to keep the connection."""
        if self.persists and not self.is_consumed:
            with trio.move_on_after(DISCARD_SECONDS), contextlib.suppress(Trouble):
                await self.read(MAX_DISCARDED)


def _fed(chunks: Chunks, data: bytes) -> list[bytes]:
    try:
        return chunks.feed(data)
    except Malformed as problem:
        raise streams.malformed(str(problem)) from None


def _too_long(limit: int) -> Trouble:
    return Trouble(
        ErrorKind.SOURCE_MISMATCH, f"more than the {limit} bytes that may come", passes=False
    )


def _ends_early(come: int) -> Trouble:
    return Trouble(
        ErrorKind.SOURCE_MISMATCH, f"the body ends early, after {come} bytes", passes=True
    )


class _Server:
    """A server as its exchanges share it.

    *before* and *login* are what a proxy for plain requests needs. *exchanges* counts those under
    way, also while they have no connection yet.
    """

    __slots__ = ("before", "exchanges", "idle", "login", "route")

    def __init__(self, route: Route, authority: str) -> None:
        self.route = route
        self.idle: list[_Connection] = []
        self.exchanges = 0
        is_forwarded = route.proxy is not None and route.scheme == "http"
        self.before = f"http://{authority}" if is_forwarded else ""
        self.login = route.proxy.login if route.proxy is not None and is_forwarded else ""


class _Connection:
    """A stream to *server*. *since* is when it last became idle."""

    __slots__ = ("server", "since", "stream")

    def __init__(self, stream: Stream, server: _Server) -> None:
        self.stream = stream
        self.server = server
        self.since = 0.0


class Client:
    """Exchanges with servers, many at a time, all in one trio run.

    Proxies and certificates are those of the environment when a server is first asked.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._servers: dict[tuple[str, str, Reach], _Server] = {}
        self._busy: set[_Connection] = set()
        self._trust = Trust()
        self._watch = Watch(timing.stall)
        self._idle = 0
        self._swept = 0.0
        self._opened = 0
        self._reused = 0
        self._is_closed = False

    async def send(self, request: Request, reach: Reach) -> Response:
        """Send *request* to its server, if its address lies within *reach*, and return the reply.

        The reply is a context to be left. Raises ValueError for a request that cannot be written
        down, Trouble, and SourceError (`BAD_CONFIG`) for a proxy or certificates that cannot be
        used.
        """
        method, body = request.method, request.body
        server = self._server(request, reach)
        head = write_head(
            method,
            request.target,
            request.authority,
            request.headers,
            before=server.before,
            login=server.login,
            length=len(body) if body or method not in _SAFE else None,
        )
        said = head + body if body else head
        if self._is_closed:
            raise trio.ClosedResourceError("the client is closed")
        server.exchanges += 1
        connection = None
        try:
            # What may change something is not sent twice, so not on a connection that may be dead.
            connection = self._take(server) if method in _SAFE else None
            data = b""
            began = trio.current_time()
            if connection is not None:
                try:
                    data = await _ask(connection.stream, said)
                except Stalled:
                    self._forget(server)  # they are likely as dead
                    raise
                except Broken:
                    self._close(connection)
                    connection = None
            if connection is None:
                connection = await self._open(server)
                began = trio.current_time()
                data = await _ask(connection.stream, said)
            waited = trio.current_time() - began
            reply, data, end = await _hear(connection, method, data)
            return Response(self, connection, request, reply, data, end, waited)
        except BaseException:
            server.exchanges -= 1
            if connection is not None:
                self._close(connection)
            raise

    def statistics(self) -> ClientStatistics:
        """Return counts and gauges."""
        return ClientStatistics(self._opened, self._reused, len(self._busy), self._idle)

    async def aclose(self) -> None:
        """Close every connection. Exchanges under way break; later ones raise ClosedResourceError."""
        self._is_closed = True
        for server in self._servers.values():
            self._forget(server)
        for connection in self._busy:
            connection.stream.close()
        await trio.lowlevel.checkpoint()

    # -- connections ---------------------------------------------------------------------------

    def _server(self, request: Request, reach: Reach) -> _Server:
        key = (request.scheme, request.authority, reach)
        server = self._servers.get(key)
        if server is None:
            route = transport.route_to(*key)
            server = self._servers[key] = _Server(route, request.authority)
        return server

    def _take(self, server: _Server) -> _Connection | None:
        """Return an idle connection that seems alive, the one used last."""
        now = trio.current_time()
        if now > self._swept + IDLE_SECONDS:
            self._sweep(now)
        while server.idle:
            connection = server.idle.pop()
            self._idle -= 1
            if now <= connection.since + IDLE_SECONDS and connection.stream.is_quiet():
                self._reused += 1
                self._busy.add(connection)
                return connection
            connection.stream.close()
        return None

    async def _open(self, server: _Server) -> _Connection:
        stream = await transport.connect(server.route, self._timing, self._trust, self._watch)
        connection = _Connection(stream, server)
        self._opened += 1
        self._busy.add(connection)
        return connection

    def _leave(self, connection: _Connection, *, is_kept: bool) -> None:
        """End an exchange."""
        connection.server.exchanges -= 1
        if is_kept:
            self._keep(connection)
        else:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._busy.discard(connection)
        connection.stream.close()

    def _keep(self, connection: _Connection) -> None:
        """Let *connection* idle, in the place of the one that has idled longest if there are many."""
        server = connection.server
        if self._is_closed or len(server.idle) >= MAX_IDLE_PER_ROUTE:
            self._close(connection)
            return
        if self._idle >= MAX_IDLE:
            servers = (server for server in self._servers.values() if server.idle)
            oldest = min(servers, key=lambda server: server.idle[0].since)
            oldest.idle.pop(0).stream.close()
            self._idle -= 1
        self._busy.discard(connection)
        connection.since = trio.current_time()
        server.idle.append(connection)
        self._idle += 1

    def _forget(self, server: _Server) -> None:
        """Close the idle connections to *server*."""
        for connection in server.idle:
            connection.stream.close()
        self._idle -= len(server.idle)
        server.idle.clear()

    def _sweep(self, now: float) -> None:
        """Close what has idled too long, and forget servers without connections."""
        self._swept = now
        for key, server in list(self._servers.items()):
            while server.idle and now > server.idle[0].since + IDLE_SECONDS:
                server.idle.pop(0).stream.close()
                self._idle -= 1
            if not server.idle and not server.exchanges:
                del self._servers[key]


async def _ask(stream: Stream, said: bytes) -> bytes:
    """Send what is to be *said*, and return the first bytes of the reply."""
    await stream.send(said)
    data = await stream.receive(_FIRST_PIECE)
    if not data:
        raise Broken("the server closes the connection without a reply")
    return data


async def _hear(connection: _Connection, method: str, data: bytes) -> tuple[Head, bytes, int]:
    """Return the head of the reply that begins with *data*, what has come, and where in it the head ends."""
    for _ in range(MAX_INFORMATIONAL + 1):
        data, end = await streams.receive_head(connection.stream, _FIRST_PIECE, data)
        try:
            head = Head(data[:end], method)
        except Malformed as problem:
            raise streams.malformed(str(problem)) from None
        if head.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and connection.server.before:
            raise transport.refused_by_proxy(head.status)
        if head.status >= 200:
            return head, data, end
        data = data[end:]
    raise streams.malformed("no reply comes after its announcements")
