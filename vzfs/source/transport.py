"""The way to servers: names are resolved, addresses checked, connections made and encrypted.

The addresses that are connected to are those that were checked: a name is resolved once for each
connection, so that a resolver that changes its mind gains nothing. Proxies are the user's choice:
their own addresses are not checked.
"""

import base64
import http
import itertools
import socket
import ssl
import urllib.parse
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

import trio

from vzfs.errors import ErrorKind
from vzfs.source import addresses, network
from vzfs.source.addresses import Reach
from vzfs.source.fetcher import Timing
from vzfs.source.messages import Head, Malformed
from vzfs.source.streams import Broken, Plain, Stream, Tls, Trouble, Watch, malformed, receive_head

STAGGER: Final = 0.25
"""Seconds before the next address is tried, while the one before has not answered (RFC 8305)."""

MAX_ADDRESSES: Final = 16
"""Addresses of one name that are tried."""

_HEAD_PIECE: Final = 4096
_PORTS: Final = {"http": 80, "https": 443}


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
