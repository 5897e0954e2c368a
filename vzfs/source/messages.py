"""The bytes of HTTP/1.1 messages. Pure: no sockets, no clock.

Heads of requests are written so that nothing in them can begin another line. Heads of replies are
read strictly: where a body could be taken to end in two ways, neither is taken. llhttp judges names,
values and chunks; what RFC 9112 leaves to clients is judged here.
"""

import functools
import re
from collections.abc import Mapping
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD: Final = 64 * 1024
"""Bytes of the head of a reply. Stores send less than 2 KiB."""

MAX_HEADERS: Final = 100

MAX_FRAMING: Final = 64 * 1024
"""Bytes of chunk sizes, extensions and trailers, besides eight for each byte of the body: chunks of
one byte are allowed."""

_OWNED: Final = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that say where messages end and to whom they go: not a caller's to set."""

_BODILESS: Final = frozenset({204, 304})
_VERSIONS: Final = (b"HTTP/1.1 ", b"HTTP/1.0 ")


class Malformed(Exception):
    """The reply is not HTTP as it ought to be; says in what way."""


def write_head(
    method: str,
    target: str,
    host: str,
    headers: Mapping[str, str],
    *,
    before: str = "",
    login: str = "",
    length: int | None = None,
) -> bytes:
    """Return the head of a request for *target* (a path, after *before* if a proxy is to pass it on).

    *login* is for the proxy, *length* that of the body. Raises ValueError for characters that a head
    cannot have where they are, and for headers that are not the caller's to set.
    """
    if (
        not _is_method(method)
        or not target.startswith("/")
        or not _is_visible(target)
        or not _is_host(host)
        or not _are_names(tuple(headers))
        or not _are_values("".join(headers.values()))
    ):
        # What was to be sent is not said: it may hold a signature or a password.
        raise ValueError("the head of a request has characters or headers that it may not have")
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    size = "" if length is None else f"Content-Length: {length}\r\n"
    login = f"Proxy-Authorization: {login}\r\n" if login else ""
    return (
        f"{method} {before}{target} HTTP/1.1\r\nHost: {host}\r\n{login}{size}{lines}\r\n"
    ).encode("latin-1")


@functools.lru_cache(16)
def _is_method(method: str) -> bool:
    return re.fullmatch(r"[A-Z]+", method) is not None


@functools.lru_cache(256)
def _is_host(host: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]+", host) is not None


@functools.lru_cache(256)
def _are_names(names: tuple[str, ...]) -> bool:
    return _OWNED.isdisjoint(name.lower() for name in names) and all(
        re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) for name in names
    )


def _are_values(values: str) -> bool:
    if values.isascii() and values.isprintable():
        return True
    return re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", values) is not None


def _is_visible(target: str) -> bool:
    return target.isascii() and target.isprintable() and " " not in target and "#" not in target


class _Sink:
    """What the parser tells. It is not asked for headers, which it checks but gives more slowly."""

    __slots__ = ("has_excess", "is_complete", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_complete = False
        self.has_excess = False

    def on_message_begin(self) -> None:
        self.has_excess = self.is_complete

    def on_body(self, piece: bytes) -> None:
        if not self.is_complete:  # else it is the body of a reply that nobody asked for
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_complete = True


class Head:
    """The head of a reply: *status*, and *headers* with lower-case names.

    The values of a header that comes more than once are joined by commas. *length* is what
    Content-Length announces, also where no body follows. The body has no bytes if *is_bodiless*,
    and comes in *chunks* if they are not None; without either and without *length* it ends with the
    connection. *persists* says that the connection may be used again.
    """

    __slots__ = ("chunks", "headers", "is_bodiless", "length", "persists", "status")

    def __init__(self, head: bytes, method: str) -> None:
        """Read *head*, with its empty line, of a reply to *method*. Raises Malformed."""
        if not head.startswith(_VERSIONS):
            raise Malformed("it is not HTTP/1.1")
        if head.count(b"\r\n") - 2 > MAX_HEADERS:
            raise Malformed(f"it has more than {MAX_HEADERS} headers")
        sink = _Sink()
        parser = HttpResponseParser(sink)
        try:
            parser.feed_data(head)
        except HttpParserUpgrade:
            raise Malformed("it switches protocols") from None
        except HttpParserError:
            raise Malformed("its head is malformed") from None
        status = self.status = parser.get_status_code()
        # llhttp is strict: every line ends in CRLF, has a name and a colon, and continues no other.
        headers: dict[str, str] = {}
        self.headers = headers
        for line in head[:-4].decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            name = name.lower()
            value = value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        if coding is not None and (
            length is not None or coding.lower() != "chunked" or head.startswith(_VERSIONS[1])
        ):
            raise Malformed("where its body ends is not clear")
        if length is not None and not length.isdecimal():
            raise Malformed("its Content-Length is no length")
        self.length = None if length is None else int(length)
        self.is_bodiless = method == "HEAD" or status in _BODILESS or status < 200
        self.chunks = None if coding is None or self.is_bodiless else Chunks(parser, sink)
        connection = headers.get("connection", "").lower()
        if head.startswith(_VERSIONS[0]):
            self.persists = "close" not in connection
        else:
            self.persists = "keep-alive" in connection and "close" not in connection


class Chunks:
    """A body in chunks."""

    __slots__ = ("_framing", "_parser", "_sink")

    def __init__(self, parser: HttpResponseParser, sink: _Sink) -> None:
        self._parser = parser
        self._sink = sink
        self._framing = 0

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk and the trailers have come."""
        return self._sink.is_complete

    @property
    def has_excess(self) -> bool:
        """Whether something came after the last chunk."""
        return self._sink.has_excess

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces of the body in the next bytes of the connection. Raises Malformed."""
        sink = self._sink
        sink.pieces = []
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            if not sink.is_complete:
                raise Malformed("its chunks are malformed") from None
        # Each byte of the body pays for eight of framing, as chunks of one byte have some six.
        self._framing += len(data) - 9 * sum(map(len, sink.pieces))
        if self._framing > MAX_FRAMING:
            raise Malformed("its chunks have little in them")
        return sink.pieces
