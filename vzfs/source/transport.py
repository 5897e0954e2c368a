"""Byte streams to servers: names are resolved, addresses checked, connections made and encrypted.

The addresses that are connected to are those that were checked: a name is resolved once for each
connection, so that a resolver that changes its mind gains nothing. A `Stream` belongs to one task
at a time, waits a bounded time for each byte, and tells an end that the peer meant from a broken
connection. Proxies are the user's choice: their own addresses are not checked.
"""

import base64
import contextlib
import http
import itertools
import select
import socket
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple, Protocol

import trio

from vzfs.errors import ErrorKind
from vzfs.source import addresses, network
from vzfs.source.addresses import Reach
from vzfs.source.fetcher import Timing
from vzfs.source.messages import MAX_HEAD, Head, Malformed

PIECE: Final = 1 << 18
"""Bytes received at once that have to be decrypted or parsed: other tasks wait some 0.2 ms."""

STAGGER: Final = 0.25
"""Seconds before the next address is tried, while the one before has not answered (RFC 8305)."""

MAX_ADDRESSES: Final = 16
"""Addresses of one name that are tried."""

_BURST: Final = 4
"""Pieces that are received before other tasks have their turn, though more are there."""

_LOOKS: Final = 8
"""Looks at the waiting streams in the time that one may take: a stall is seen an eighth late."""

_RECORD: Final = 1 << 14
"""Bytes of the longest record of TLS."""

_HEAD_PIECE: Final = 4096
_EMPTY_LINE: Final = b"\r\n\r\n"
_PORTS: Final = {"http": 80, "https": 443}
_TLS_FAILS: Final = "the TLS connection fails"


class Trouble(Exception):
    """Why there is no reply: *kind*, *what* and *advice* as in `VzfsError`. *passes* if it may pass.

    Neither has anything secret in it, nor text of the server's.
    """

    def __init__(self, kind: ErrorKind, what: str, advice: str = "", *, passes: bool) -> None:
        super().__init__(kind, what, advice, passes)
        self.kind = kind
        self.what = what
        self.advice = advice
        self.passes = passes


class Broken(Trouble):
    """The connection is lost."""

    def __init__(self, what: str = "the connection broke") -> None:
        super().__init__(ErrorKind.SOURCE_UNREACHABLE, what, passes=True)


class Stalled(Trouble):
    """No byte moved for as long as a server may be silent."""

    def __init__(self, seconds: float) -> None:
        what = f"the server sends nothing for {seconds:g} s"
        super().__init__(ErrorKind.SOURCE_UNREACHABLE, what, passes=True)


class Stream(Protocol):
    """Bytes to and from a server, for one task at a time.

    `send` and `receive` raise Broken, and Stalled after some *patience* in which no byte moved, in
    seconds.
    """

    patience: float

    async def send(self, data: bytes) -> None:
        """Send all of *data*."""

    async def receive(self, limit: int) -> bytes:
        """Return the next bytes, from 1 to *limit*, or none at the end that the peer meant."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Receive the next bytes into *buffer*, and return how many: 0 at the end that the peer meant."""

    def is_quiet(self) -> bool:
        """Whether the peer has neither sent more nor closed."""

    def close(self) -> None:
        """Close at once, without a word. A task that waits for the stream gets Broken."""


class Watch:
    """Ends the waits of streams for which no byte moves for *patience* seconds, or a little more.

    A cancel scope around each wait would cost as much as the wait. So one task looks after all of
    them now and then, and is there only while a stream waits.
    """

    def __init__(self, patience: float) -> None:
        self.patience: Final = patience
        self._since: dict[Plain, float] = {}
        self._is_looking = False

    def begin(self, stream: "Plain") -> None:
        """Say that *stream* waits from now on."""
        self._since[stream] = trio.current_time()
        if not self._is_looking:
            self._is_looking = True
            trio.lowlevel.spawn_system_task(self._look)

    def end(self, stream: "Plain") -> None:
        """Say that *stream* does not wait any more."""
        del self._since[stream]

    async def _look(self) -> None:
        try:
            while self._since:
                await trio.sleep(self.patience / _LOOKS)
                before = trio.current_time() - self.patience
                for stream in [one for one, since in self._since.items() if since <= before]:
                    stream.stall()
        finally:
            self._is_looking = False


class Plain:
    """A TCP connection, not encrypted."""

    __slots__ = ("_burst", "_is_stalled", "_poll", "_socket", "_watch", "patience")

    def __init__(self, connected: socket.socket, watch: Watch) -> None:
        self.patience = watch.patience
        self._watch = watch
        self._socket = connected
        self._burst = 0
        self._is_stalled = False
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    async def send(self, data: bytes) -> None:
        """Do as `Stream.send`."""
        while True:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                raise Broken from None
            if sent == len(data):
                break
            data = data[sent:]
            await self._wait(trio.lowlevel.wait_writable)
        # When the processor is what is short, the reply has come by our next turn, and looking is
        # a third of the cost of waiting. When it is not, a look in vain does not matter.
        await trio.lowlevel.checkpoint()
        self._burst = 1

    async def receive(self, limit: int) -> bytes:
        """Do as `Stream.receive`."""
        while True:
            if self._burst:
                self._burst -= 1
                try:
                    return self._socket.recv(limit)
                except BlockingIOError:
                    pass
                except OSError:
                    raise Broken from None
            await self._wait(trio.lowlevel.wait_readable)
            self._burst = _BURST

    async def receive_into(self, buffer: memoryview) -> int:
        """Do as `Stream.receive_into`."""
        while True:
            if self._burst:
                self._burst -= 1
                try:
                    return self._socket.recv_into(buffer)
                except BlockingIOError:
                    pass
                except OSError:
                    raise Broken from None
            await self._wait(trio.lowlevel.wait_readable)
            self._burst = _BURST

    async def _wait(self, until_ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._is_stalled = False
        self._watch.begin(self)
        try:
            await until_ready(self._socket)
        except (trio.ClosedResourceError, OSError, ValueError):
            raise (Stalled(self.patience) if self._is_stalled else Broken()) from None
        finally:
            self._watch.end(self)

    def stall(self) -> None:
        """Have the task that waits for the stream get Stalled."""
        self._is_stalled = True
        trio.lowlevel.notify_closing(self._socket)

    def is_quiet(self) -> bool:
        """Do as `Stream.is_quiet`."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Do as `Stream.close`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class Tls:
    """A stream inside of another, encrypted."""

    __slots__ = ("_incoming", "_inner", "_outgoing", "_tls", "patience")

    def __init__(self, inner: Stream, context: ssl.SSLContext, host: str) -> None:
        self.patience = inner.patience
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def shake_hands(self) -> None:
        """Agree on keys, and check whose certificate it is. Raises Trouble."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLCertVerificationError:
                with contextlib.suppress(Trouble):
                    await self._flush()
                raise Trouble(
                    ErrorKind.SOURCE_UNREACHABLE,
                    "the server's certificate is not trusted",
                    "name the certificates of a private authority in SSL_CERT_FILE",
                    passes=False,
                ) from None
            except ssl.SSLError:
                raise Broken(_TLS_FAILS) from None
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        """Do as `Stream.send`."""
        try:
            self._tls.write(data)
        except ssl.SSLError:
            raise Broken(_TLS_FAILS) from None
        await self._flush()

    async def receive(self, limit: int) -> bytes:
        """Do as `Stream.receive`. Only a farewell of the peer is an end."""
        read, pending, incoming = self._tls.read, self._tls.pending, self._incoming
        pieces: list[bytes] = []
        while True:
            try:
                while limit:
                    # A record at a time is decrypted; none are no bytes, but for the farewell.
                    piece = read(min(limit, _RECORD))
                    if not piece:
                        return b"".join(pieces)
                    pieces.append(piece)
                    limit -= len(piece)
                    if not incoming.pending and not pending():
                        break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                raise Broken(_TLS_FAILS) from None
            await self._flush()
            if pieces:
                return b"".join(pieces)
            await self._fill()

    async def receive_into(self, buffer: memoryview) -> int:
        """Do as `Stream.receive_into`. Only a farewell of the peer is an end."""
        read, pending, incoming = self._tls.read, self._tls.pending, self._incoming
        come, size = 0, len(buffer)
        while True:
            try:
                while come < size:
                    # A record at a time is decrypted; none are no bytes, but for the farewell.
                    count = int(read(size - come, buffer[come:]))  # typed as if without a buffer
                    if not count:
                        return come
                    come += count
                    if not incoming.pending and not pending():
                        break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                raise Broken(_TLS_FAILS) from None
            await self._flush()
            if come:
                return come
            await self._fill()

    def is_quiet(self) -> bool:
        """Do as `Stream.is_quiet`."""
        return not self._incoming.pending and not self._tls.pending() and self._inner.is_quiet()

    def close(self) -> None:
        """Do as `Stream.close`."""
        self._inner.close()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._inner.send(self._outgoing.read())

    async def _fill(self) -> None:
        data = await self._inner.receive(PIECE)
        if not data:
            raise Broken("the TLS connection ends without a farewell")
        self._incoming.write(data)


# -- heads -------------------------------------------------------------------------------------


async def receive_head(stream: Stream, size: int, data: bytes = b"") -> tuple[bytes, int]:
    """Receive the head of a reply, *size* bytes at a time, of which *data* has come already.

    Return what has come, and where in it the head ends. Raises Trouble.
    """
    if not data:
        data = await stream.receive(size)
        if not data:
            raise Broken("the server closes the connection without a reply")
    end = data.find(_EMPTY_LINE)
    if end < 0:
        data, end = await _rest_of_head(stream, size, data)
    end += len(_EMPTY_LINE)
    if end > MAX_HEAD:
        raise malformed("its head is too long")
    return data, end


async def _rest_of_head(stream: Stream, size: int, data: bytes) -> tuple[bytes, int]:
    until = trio.current_time() + 2 * stream.patience
    received = bytearray(data)
    searched = 0
    while True:
        # What cannot become a head is not waited for.
        if not received.startswith(b"HTTP/"[: len(received)]):
            raise malformed("it is not HTTP")
        if received.find(b"\n\n", searched) >= 0:
            raise malformed("a line of its head does not end in CRLF")
        if len(received) > MAX_HEAD:
            raise malformed("its head is too long")
        if trio.current_time() > until:
            raise Stalled(stream.patience)
        searched = max(0, len(received) - len(_EMPTY_LINE) + 1)
        piece = await stream.receive(size)
        if not piece:
            raise Trouble(
                ErrorKind.SOURCE_MISMATCH, "the head of the reply ends early", passes=True
            )
        received += piece
        end = received.find(_EMPTY_LINE, searched)
        if end >= 0:
            return bytes(received), end


def malformed(reason: str) -> Trouble:
    """Return the trouble with a reply that is not HTTP as it ought to be."""
    return Trouble(ErrorKind.SOURCE_MISMATCH, f"the reply is malformed: {reason}", passes=False)


# -- routes ------------------------------------------------------------------------------------


class Proxy(NamedTuple):
    """A server that passes requests on. *login* is the Proxy-Authorization, "" for none."""

    scheme: str
    host: str
    port: int
    login: str

    def __repr__(self) -> str:
        """Name the server only."""
        return f"<Proxy {self.scheme}://{self.host}:{self.port}>"


class Route(NamedTuple):
    """The way to a server: directly, or through a *proxy*."""

    scheme: str
    host: str
    port: int
    reach: Reach
    proxy: Proxy | None


def route_to(scheme: str, authority: str, reach: Reach) -> Route:
    """Return the way to a server, as the environment has it.

    Raises ValueError for a malformed authority, and SourceError for a proxy that cannot be used.
    """
    host, port = addresses.split_authority(authority)
    url = network.proxy_for(scheme, authority)
    return Route(scheme, host, port or _PORTS[scheme], reach, _proxy(url) if url else None)


def _proxy(url: str) -> Proxy:
    parts = urllib.parse.urlsplit(url)
    login = ""
    if parts.username is not None:
        pair = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        login = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme], login)


# -- whom to trust -----------------------------------------------------------------------------


class Trust:
    """Whose certificates are trusted: the system's authorities, and those the environment names."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return the settings of TLS, read from files once. Raises SourceError (`BAD_CONFIG`)."""
        if self._context is None:
            self._context = await trio.to_thread.run_sync(_load_trust)
        return self._context


def _load_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in network.ca_bundles():
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as problem:
            raise network.unusable(path, problem.strerror or "unreadable") from None
    return context


# -- connecting --------------------------------------------------------------------------------


async def connect(route: Route, timing: Timing, trust: Trust, watch: Watch) -> Stream:
    """Return a stream to the server of *route*, encrypted as its scheme says.

    With a proxy and plain HTTP, it is a stream to the proxy. Raises Trouble.
    """
    stream: Stream | None = None
    try:
        with trio.move_on_after(timing.connect):
            proxy = route.proxy
            if proxy is None:
                stream = await _dial(route.host, route.port, route.reach, watch)
            else:
                _check_unresolved(route)
                stream = await _dial(proxy.host, proxy.port, None, watch)
                if proxy.scheme == "https":
                    stream = await _encrypted(stream, trust, proxy.host)
                if route.scheme == "https":
                    await _tunnel(stream, route, proxy)
            if route.scheme == "https":
                stream = await _encrypted(stream, trust, route.host)
            return stream
    except BaseException:
        if stream is not None:
            stream.close()
        raise
    if stream is not None:
        stream.close()
    raise Trouble(
        ErrorKind.SOURCE_UNREACHABLE,
        f"the server cannot be connected to in {timing.connect:g} s",
        passes=True,
    )


async def _encrypted(inner: Stream, trust: Trust, host: str) -> Tls:
    stream = Tls(inner, await trust.context(), host)
    await stream.shake_hands()
    return stream


async def _tunnel(stream: Stream, route: Route, proxy: Proxy) -> None:
    """Have *proxy* connect *stream* to the server."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    login = f"Proxy-Authorization: {proxy.login}\r\n" if proxy.login else ""
    place = f"{host}:{route.port}"
    await stream.send(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{login}\r\n".encode("latin-1"))
    data, end = await receive_head(stream, _HEAD_PIECE)
    try:
        head = Head(data[:end], "CONNECT")
    except Malformed as problem:
        raise malformed(str(problem)) from None
    if not 200 <= head.status < 300:
        raise refused_by_proxy(head.status)
    if len(data) > end:
        raise malformed("more comes than was asked for")


def refused_by_proxy(status: int) -> Trouble:
    """Return the trouble with a proxy that answers *status* itself."""
    if status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return Trouble(
            ErrorKind.SOURCE_UNREACHABLE,
            "the proxy asks for a name and a password",
            "write them into the proxy's URL in HTTP_PROXY or HTTPS_PROXY",
            passes=False,
        )
    return Trouble(
        ErrorKind.SOURCE_UNREACHABLE,
        f"the proxy does not let the request through ({status})",
        "ask who runs the proxy, or go past it with NO_PROXY",
        passes=status >= 500,
    )


class _Place(NamedTuple):
    family: int
    sockaddr: tuple[str | int | bytes, ...]


async def _dial(host: str, port: int, reach: Reach | None, watch: Watch) -> Plain:
    """Connect to one of the addresses of *host* within *reach*, or to any if that is None."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Trouble(
            ErrorKind.SOURCE_UNREACHABLE,
            "the server's name cannot be resolved",
            "check how it is written",
            passes=True,
        ) from None
    places = []
    refusals = []
    for family, _, _, _, sockaddr in found:
        why = None if reach is None else _refusal(sockaddr, host, reach)
        if why is None:
            places.append(_Place(family, sockaddr))
        else:
            refusals.append(why)
    if refusals and not places:
        raise _refused(refusals[0])
    connected = await _race(_in_turn(places)[:MAX_ADDRESSES])
    try:
        # What the kernel connected to may be another address than it was told: 0.0.0.0 is one.
        why = None if reach is None else _refusal(connected.getpeername(), host, reach)
    except OSError:
        connected.close()
        raise Broken from None
    if why is not None:
        connected.close()
        raise _refused(why)
    return Plain(connected, watch)


def _refusal(sockaddr: tuple[str | int | bytes, ...], host: str, reach: Reach) -> str | None:
    return addresses.refusal(ip_address(str(sockaddr[0])), host, reach)


def _check_unresolved(route: Route) -> None:
    """Raise Trouble if the host of *route*, which a proxy will resolve, is refused as it is written."""
    why = addresses.unresolved_refusal(route.host, route.reach)
    if why is not None:
        raise _refused(why)


def _refused(why: str) -> Trouble:
    return Trouble(
        ErrorKind.ADDRESS_REFUSED,
        f"the server's address is refused: {why}",
        "if that is meant, write the address in the place of the name, or name its network with"
        " addresses = [...] in the [[bucket]]",
        passes=False,
    )


def _in_turn(places: list[_Place]) -> list[_Place]:
    """Return *places* with the families in turn, beginning with the first one's (RFC 8305)."""
    places = list(dict.fromkeys(places))
    first = [place for place in places if place.family == places[0].family]
    other = [place for place in places if place.family != places[0].family]
    pairs = itertools.zip_longest(first, other)
    return [place for pair in pairs for place in pair if place is not None]


async def _race(places: Sequence[_Place]) -> socket.socket:
    """Connect to the first of *places* that answers, giving each a start before the next."""
    won: list[socket.socket] = []

    async def attempt(place: _Place, failed: trio.Event) -> None:
        try:
            connected = await _attempt(place)
        except OSError:
            failed.set()
            return
        won.append(connected)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for place in places:
                failed = trio.Event()
                nursery.start_soon(attempt, place, failed)
                with trio.move_on_after(STAGGER):
                    await failed.wait()
    except BaseException:
        for connected in won:
            connected.close()
        raise
    for connected in won[1:]:
        connected.close()
    if won:
        return won[0]
    raise Trouble(ErrorKind.SOURCE_UNREACHABLE, "the server cannot be connected to", passes=True)


async def _attempt(place: _Place) -> socket.socket:
    """Return a connection to *place*. Raises OSError."""
    connecting = socket.socket(place.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connecting.connect(place.sockaddr)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connecting)
            connecting.getpeername()  # fails if there is none
    except BaseException:
        connecting.close()
        raise
    return connecting
