"""Objects of plain HTTP(S) servers.

Requests carry no credentials. A redirect is followed here, by hand, and only to what the authorized
prefix covers. A reply counts if it is 206 with exactly the range that was asked for, or 200 for a
whole object; its body is read in bounded pieces and must have exactly the announced length. Servers
have no common way to list.
"""

import contextlib
import email.utils
import http.client
import ssl
import threading
import urllib.parse
from collections.abc import Mapping
from typing import Final

import urllib3
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError
from urllib3.exceptions import TimeoutError as Urllib3Timeout

import vzfs
from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import Location, parse_location
from vzfs.source import network, replies
from vzfs.source.fetcher import Timing
from vzfs.source.wire import Precondition, PreconditionFailed, Seen, Tally, Transient, remaining

MAX_REDIRECTS: Final = 5
MAX_DRAINED: Final = 64 * 1024
"""Bytes of an unwanted body that are read to keep its connection; for more, a new one is
cheaper."""

CONNECTIONS: Final = 128
"""Connections kept to one host: more than fetches run at once."""

HOSTS: Final = 64
"""Hosts whose connections are kept."""

_PIECE: Final = 1 << 18
"""Bytes asked for at once. 16 MiB bodies come at 280 MB/s in pieces of 1 MiB, at 1200 in these, 550
in 64 KiB."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NO_HEAD: Final = frozenset({405, 501})
_NOBODY: Final[Mapping[str, str]] = {}


class Http:
    """A `Wire` for `http:` and `https:` locations. Safe to use from many threads at once."""

    def __init__(self, timing: Timing, tally: Tally) -> None:
        self._timing = timing
        self._tally = tally
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._trust: ssl.SSLContext | None = None

    def get(
        self, wanted: AuthorizedRange, precondition: Precondition, until: float
    ) -> tuple[Seen, bytes]:
        """Return the exact bytes of *wanted*. Raises PreconditionFailed, Transient, SourceError."""
        headers = {}
        if wanted.range is not None:
            headers["Range"] = f"bytes={wanted.range.offset}-{wanted.range.end - 1}"
        if precondition.if_match is not None:
            headers["If-Match"] = precondition.if_match
        if precondition.if_unmodified_since is not None:
            date = email.utils.formatdate(precondition.if_unmodified_since, usegmt=True)
            headers["If-Unmodified-Since"] = date
        response = self._ask("GET", wanted, headers, until)
        try:
            replies.judge(response, wanted)
            seen, length = replies.describe(response, wanted)
        except (PreconditionFailed, SourceError, Transient):
            _finish(response)
            raise
        with contextlib.closing(response):
            return seen, self._read(response, wanted, length, until)

    def head(self, wanted: AuthorizedRange, until: float) -> Seen:
        """Return what the server says of the object. Raises Transient, SourceError."""
        response = self._ask("HEAD", wanted, _NOBODY, until)
        if response.status in _NO_HEAD:
            _finish(response)
            response = self._ask("GET", wanted, {"Range": "bytes=0-0"}, until)
        try:
            replies.judge(response, wanted)
            return replies.seen(response, replies.size(response))
        except PreconditionFailed:
            raise replies.mismatch(
                "the server answers 412 to an unconditional request", wanted
            ) from None
        finally:
            _finish(response)

    def list(self, below: AuthorizedPrefix, until: float) -> list[str]:
        """Raise SourceError: HTTP has no listings."""
        raise SourceError(
            ErrorKind.CANNOT_LIST,
            "names on an HTTP server cannot be listed",
            where=str(below.prefix),
            advice="name a branch, a tag or a snapshot exactly",
        )

    # -- asking --------------------------------------------------------------------------------

    def _ask(
        self, method: str, wanted: AuthorizedRange, headers: Mapping[str, str], until: float
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and follow its redirects as far as they are authorized."""
        place = wanted.location
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, place, headers, until)
            if response.status not in _REDIRECTS:
                return response
            target = response.headers.get("Location", "")
            _finish(response)
            if not target:
                raise replies.mismatch(f"a redirect ({response.status}) to nowhere", wanted)
            place = _redirected(wanted, place, target)
        raise replies.mismatch(f"more than {MAX_REDIRECTS} redirects", wanted)

    def _send(
        self, method: str, place: Location, headers: Mapping[str, str], until: float
    ) -> urllib3.BaseHTTPResponse:
        where = str(place)
        left = remaining(until, where)
        self._tally.add("heads" if method == "HEAD" else "gets")
        try:
            return self._pool(place).request(
                method,
                where,
                headers={
                    "Accept-Encoding": "identity",
                    "User-Agent": f"vzfs/{vzfs.__version__}",
                    **headers,
                },
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(
                    connect=min(self._timing.connect, left), read=min(self._timing.stall, left)
                ),
            )
        except (HTTPError, OSError, ValueError) as problem:
            raise _unreachable(problem, where) from None

    def _pool(self, place: Location) -> urllib3.PoolManager:
        """Return the connections to use: direct ones, or those through a proxy."""
        server = (place.scheme, place.authority)
        with self._lock:
            pool = self._pools.get(server)
            if pool is None:
                proxy = network.proxy_for(*server)
                pool = self._managers.get(proxy)
                if pool is None:
                    pool = self._managers[proxy] = self._connect(proxy)
                self._pools[server] = pool
        return pool

    def _connect(self, proxy: str | None) -> urllib3.PoolManager:
        if self._trust is None:
            self._trust = _trust()
        if proxy is None:
            return urllib3.PoolManager(
                num_pools=HOSTS, maxsize=CONNECTIONS, ssl_context=self._trust
            )
        parts = urllib.parse.urlsplit(proxy)
        headers = None
        if parts.username is not None:
            login = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
            headers = urllib3.make_headers(proxy_basic_auth=login)
        return urllib3.ProxyManager(
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
            num_pools=HOSTS,
            maxsize=CONNECTIONS,
            proxy_headers=headers,
            proxy_ssl_context=self._trust,
            ssl_context=self._trust,
        )

    # -- the reply -----------------------------------------------------------------------------

    def _read(
        self, response: urllib3.BaseHTTPResponse, wanted: AuthorizedRange, length: int, until: float
    ) -> bytes:
        """Read a body of exactly *length* bytes, or of at most *length* for a whole object."""
        where = str(wanted.location)
        pieces = []
        size = 0
        short = False
        try:
            # One byte more than may come tells an overlong body from a right one.
            while piece := response.read1(min(_PIECE, length + 1 - size)):
                pieces.append(piece)
                size += len(piece)
                if size > length:
                    raise replies.mismatch(f"more than the {length} bytes that may come", wanted)
                remaining(until, where)
        except (HTTPError, OSError, ValueError) as problem:
            short = _is_short(problem)
            if not short:
                raise _unreachable(problem, where) from None
        finally:
            self._tally.add("bytes_read", size)
        if short or (wanted.range is not None and size != length):
            raise Transient(replies.mismatch(f"the body ends early, after {size} bytes", wanted))
        return b"".join(pieces)


def _redirected(wanted: AuthorizedRange, place: Location, target: str) -> Location:
    """Return where a redirect leads, if that is authorized as *wanted* is."""
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


def _unreachable(problem: Exception, where: str) -> SourceError | Transient:
    """Say why there is no reply. What may pass comes back as Transient."""
    reason = _reason(problem)
    if isinstance(problem, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(problem):
        return SourceError(
            ErrorKind.SOURCE_UNREACHABLE,
            "the server's certificate is not trusted",
            where=where,
            advice="name the certificates of a private authority in SSL_CERT_FILE",
        )
    advice = "check how it is written" if isinstance(problem, NameResolutionError) else ""
    return Transient(SourceError(ErrorKind.SOURCE_UNREACHABLE, reason, where=where, advice=advice))


def _is_short(problem: Exception) -> bool:
    """Whether a body ended before its announced length, or before its last chunk."""
    return any(isinstance(p, http.client.IncompleteRead) for p in (problem, *problem.args))


def _reason(problem: Exception) -> str:
    names = {
        "NameResolutionError": "the server's name cannot be resolved",
        "NewConnectionError": "the server cannot be connected to",
        "ProxyError": "the proxy does not let the request through",
        "SSLError": "the TLS connection fails",
        "ProtocolError": "the connection broke",
    }
    name = type(problem).__name__
    if name not in names and isinstance(problem, Urllib3Timeout):
        return "the server does not answer in time"
    return names.get(name, f"the request fails ({name})")


def _finish(response: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back if little is left in it; else close it."""
    left = getattr(response, "length_remaining", None)
    if left is not None and left <= MAX_DRAINED:
        response.drain_conn()
        response.release_conn()
    else:
        response.close()


def _trust() -> ssl.SSLContext:
    """Trust whom the system trusts, and whom the environment names."""
    context = ssl.create_default_context()
    for path in network.ca_bundles():
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as problem:
            raise network.unusable(path, problem.strerror or "unreadable") from None
    return context
