"""A reverse proxy that can lie about the server behind it.

Every request goes to one server, with its head as it came (the Host header too, so that signatures
stay valid), unless a test said how to spoil it: `liar.fault(status(503), times=2)` spoils the next
two GETs or HEADs. A fault works before the request goes on, instead of it, or on its reply. Every
request is written down before it is answered.

    with Liar(store.url) as liar:
        liar.fault(cut(3))
        ...                             # endpoint liar.url in the place of store.url
        assert liar.count("GET") == 2

With a *context* the liar speaks TLS, whatever the server behind it speaks. Replies are taken whole
before they are given on, so it is for small objects. It listens on 127.0.0.1 only; its threads are
daemons, and `close` ends every connection, stalled ones too.
"""

import contextlib
import dataclasses
import http.client
import itertools
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final, NamedTuple, Never, Self

IDLE_SECONDS: Final = 60.0
FAREWELL_SECONDS: Final = 1.0
MAX_HEAD: Final = 1 << 16
_NO_BODY: Final = frozenset({204, 304})

type Headers = list[tuple[str, str]]
type Signer = Callable[[str, str, Headers], Headers]


class Request(NamedTuple):
    """A request as it came in: *target* undecoded, header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def key(self) -> str:
        """The decoded path without its first slash and without the query."""
        return urllib.parse.unquote(self.target.partition("?")[0]).removeprefix("/")


class Reply(NamedTuple):
    """A reply on its way. *length* is what Content-Length says; None leaves it out."""

    status: int
    headers: Headers
    body: bytes
    length: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """How one request or reply is spoiled. The functions below make the usual ones.

    *answer* replies in the place of the server, and *raw* with these bytes. *gate* is waited for
    before the reply, *body_gate* in the middle of its body. *drop* are request headers that do not
    reach the server, *retarget* changes what it is asked for. *edit* changes the reply, of which *cut* bytes of the body are sent before the
    connection ends (with a reset, if *reset*; over TLS without a farewell, if *torn*); *reset* alone
    sends nothing. *surplus* comes behind
    the end of the reply. *plain* and *context* are of a new connection: no TLS, or another one.
    """

    answer: Reply | None = None
    raw: bytes | None = None
    gate: threading.Event | None = None
    body_gate: threading.Event | None = None
    drop: frozenset[str] = frozenset()
    retarget: Callable[[str], str] | None = None
    edit: Callable[[Reply], Reply] | None = None
    cut: int | None = None
    reset: bool = False
    torn: bool = False
    chunked: bool = False
    surplus: bytes = b""
    plain: bool = False
    context: ssl.SSLContext | None = None
    methods: frozenset[str] = frozenset({"GET", "HEAD"})

    @property
    def is_of_connections(self) -> bool:
        """Whether it spoils a connection rather than a request."""
        return self.plain or self.context is not None


# -- the usual faults ------------------------------------------------------------------------------


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Answer with *code* in the place of the server."""
    return Fault(answer=Reply(code, list((headers or {}).items()), body, len(body)))


def garbage(data: bytes = b"\x16\x03\x01 this is no HTTP \xff\r\n\r\n") -> Fault:
    """Answer with bytes that are not HTTP, and close."""
    return Fault(raw=data)


def reset() -> Fault:
    """Reset the connection in the place of an answer."""
    return Fault(reset=True)


def reset_in_body(sent: int = 3) -> Fault:
    """Send the head and *sent* bytes of the body, and reset the connection."""
    return Fault(cut=sent, reset=True)


def cut(sent: int = 3) -> Fault:
    """Announce the whole body, send *sent* bytes of it, and close."""
    return Fault(cut=sent)


def cut_chunked(sent: int = 3) -> Fault:
    """Send *sent* bytes of the body as one chunk, and close before the last chunk."""
    return Fault(cut=sent, chunked=True)


def shortened(missing: int = 3) -> Fault:
    """Announce and send *missing* bytes fewer than the range has."""
    return Fault(edit=lambda r: _with_body(r, r.body[:-missing]))


def overlong(extra: int = 7) -> Fault:
    """Announce and send *extra* bytes more than the range has."""
    return Fault(edit=lambda r: _with_body(r, r.body + b"+" * extra))


def overlong_chunked(extra: int = 7) -> Fault:
    """Send *extra* bytes more than the range has, in chunks, announcing nothing."""
    return Fault(edit=lambda r: _with_body(r, r.body + b"+" * extra), chunked=True)


def chunked() -> Fault:
    """Send the right body in chunks, which is no lie."""
    return Fault(chunked=True)


def torn(sent: int = 3) -> Fault:
    """Do as `cut` does, and over TLS end without the word that says it is the end."""
    return Fault(cut=sent, torn=True)


def surplus(data: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n+++") -> Fault:
    """Send *data* behind the end of a right reply, as if it answered the next request."""
    return Fault(surplus=data)


def stall(gate: threading.Event) -> Fault:
    """Answer only when *gate* is set."""
    return Fault(gate=gate)


def stall_in_body(gate: threading.Event) -> Fault:
    """Send the head and half of the body, and the rest when *gate* is set."""
    return Fault(body_gate=gate)


def whole_object() -> Fault:
    """Have the server not see the range: 200 and every byte."""
    return Fault(drop=frozenset({"range", "x-ms-range"}))


def first_bytes(length: int) -> Fault:
    """Have the server not see the range, and send the first *length* bytes as if they were all."""
    return dataclasses.replace(whole_object(), edit=lambda r: _with_body(r, r.body[:length]))


def no_preconditions() -> Fault:
    """Have the server not see preconditions."""
    return Fault(drop=frozenset({"if-match", "if-unmodified-since"}))


def small_pages(parameter: str, size: int) -> Fault:
    """Have the server list *size* names at a time, as its query's *parameter* has it."""

    def retarget(target: str) -> str:
        path, _, query = target.partition("?")
        kept = [p for p in query.split("&") if p and not p.startswith(f"{parameter}=")]
        return f"{path}?{'&'.join([*kept, f'{parameter}={size}'])}"

    return Fault(retarget=retarget)


def reply_header(name: str, value: str | Callable[[str], str] | None) -> Fault:
    """Give a header of the reply another *value*, made of its own or not; None takes it out."""

    def edit(reply: Reply) -> Reply:
        old = next((v for n, v in reply.headers if n.lower() == name.lower()), "")
        kept = [pair for pair in reply.headers if pair[0].lower() != name.lower()]
        new = value(old) if callable(value) else value
        return reply._replace(headers=kept if new is None else [*kept, (name, new)])

    return Fault(edit=edit)


def changing_etag() -> Fault:
    """Give every reply an etag that none had before."""
    numbers = itertools.count(1)
    return reply_header("ETag", lambda _: f'"changed-{next(numbers)}"')


def both(first: Fault, second: Fault) -> Fault:
    """Spoil a request in two ways: *second* adds to *first*, and edits what that left."""
    edits = [fault.edit for fault in (first, second) if fault.edit is not None]

    def edit(reply: Reply) -> Reply:
        for change in edits:
            reply = change(reply)
        return reply

    standard = Fault()
    added = {
        field.name: getattr(second, field.name)
        for field in dataclasses.fields(Fault)
        if getattr(second, field.name) != getattr(standard, field.name)
    }
    drop = first.drop | second.drop
    return dataclasses.replace(first, **{**added, "drop": drop, "edit": edit if edits else None})


def plain_text() -> Fault:
    """Speak plain HTTP on a TLS port, once a client greets."""
    return Fault(plain=True)


def certificate(context: ssl.SSLContext) -> Fault:
    """Show the certificate of *context* on the next connection."""
    return Fault(context=context)


def _with_body(reply: Reply, body: bytes) -> Reply:
    if reply.length is None:
        return reply._replace(body=body)
    # The reply to a HEAD has a length and no body.
    return reply._replace(body=body, length=reply.length + len(body) - len(reply.body))


# -- the proxy -------------------------------------------------------------------------------------


class Liar:
    """A proxy before the server at *target*, an `http:` or `https:` URL.

    *sign* makes the headers of a request anew where a fault takes signed ones out: it gets method,
    target and headers, and returns headers. *trust* is for a server that speaks TLS.
    """

    def __init__(
        self,
        target: str,
        *,
        context: ssl.SSLContext | None = None,
        trust: ssl.SSLContext | None = None,
        sign: Signer | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        parts = urllib.parse.urlsplit(target)
        self._behind = (parts.hostname or "", parts.port or 80, parts.scheme == "https")
        self._context, self._trust, self._sign = context, trust, sign
        self._lock = threading.Lock()
        self._faults: deque[Fault] = deque()
        self._requests: list[Request] = []
        self._connections: set[socket.socket] = set()
        self._accepted = 0
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.authority = f"{host}:{self.port}"
        self.url = f"{'https' if context else 'http'}://{self.authority}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._closing.set()
        with contextlib.suppress(OSError):
            # Closing alone would leave a thread in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    # -- what a test says and asks -----------------------------------------------------------------

    def fault(self, fault: Fault, times: int = 1) -> None:
        """Spoil the next *times* requests (or connections), after those already said."""
        with self._lock:
            self._faults.extend([fault] * times)

    def clear_faults(self) -> None:
        """Be honest from now on."""
        with self._lock:
            self._faults.clear()

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections there were so far."""
        with self._lock:
            return self._accepted

    def forget_requests(self) -> None:
        """Count from nothing again."""
        with self._lock:
            self._requests.clear()
            self._accepted = 0

    def count(self, method: str | None = None) -> int:
        """Return how many requests there were, of *method* if given."""
        return sum(method is None or r.method == method for r in self.requests)

    # -- connections -------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _take(self, *, of_connections: bool, method: str = "") -> Fault:
        if not self._faults or self._faults[0].is_of_connections != of_connections:
            return Fault()
        if not of_connections and method not in self._faults[0].methods:
            return Fault()
        return self._faults.popleft()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._accepted += 1
            self._connections.add(connection)
            fault = self._take(of_connections=True)
        connection.settimeout(IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talking = connection
        try:
            if fault.plain:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            context = fault.context or self._context
            if context is not None:
                talking = context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections.add(talking)
            with talking.makefile("rb") as incoming:
                while self._exchange(talking, incoming):
                    pass
            if isinstance(talking, ssl.SSLSocket):
                # An end that TLS vouches for: what is cut was cut by the server, not on the way.
                talking.settimeout(FAREWELL_SECONDS)
                talking.unwrap()
        except (OSError, ValueError, http.client.HTTPException):
            pass  # a client that goes away, or distrusts our certificate, is no error here
        finally:
            with self._lock:
                self._connections -= {connection, talking}
            talking.close()

    def _exchange(self, talking: socket.socket, incoming: BinaryIO) -> bool:
        """Answer one request. Returns whether the connection is good for another."""
        line = incoming.readline(MAX_HEAD).decode("latin-1").split()
        if len(line) != 3:
            return False
        method, target, _ = line
        headers = _read_headers(incoming)
        lower = {name.lower(): value for name, value in headers}
        body = incoming.read(int(lower.get("content-length", 0)))
        with self._lock:
            self._requests.append(Request(method, target, lower))
            fault = self._take(of_connections=False, method=method)
        if fault.gate is not None:
            self._wait(fault.gate)
        if fault.reset and fault.cut is None:
            _reset(talking)
        if fault.raw is not None:
            talking.sendall(fault.raw)
            return False
        reply = fault.answer or self._ask(method, target, headers, body, fault)
        if fault.edit is not None:
            reply = fault.edit(reply)
        return self._send(talking, method, reply, fault) and "close" not in lower.get(
            "connection", ""
        )

    def _ask(self, method: str, target: str, headers: Headers, body: bytes, fault: Fault) -> Reply:
        """Return what the server behind says."""
        asked = fault.retarget(target) if fault.retarget is not None else target
        kept = [(n, v) for n, v in headers if n.lower() not in fault.drop]
        if self._sign is not None and (asked, kept) != (target, headers):
            kept = self._sign(method, asked, kept)
        host, port, is_tls = self._behind
        server: http.client.HTTPConnection
        if is_tls:
            server = http.client.HTTPSConnection(host, port, timeout=30, context=self._trust)
        else:
            server = http.client.HTTPConnection(host, port, timeout=30)
        with contextlib.closing(server):
            server.putrequest(method, asked, skip_host=True, skip_accept_encoding=True)
            for name, value in kept:
                if name.lower() != "connection":
                    server.putheader(name, value)
            server.putheader("Connection", "close")
            server.endheaders(body or None)
            got = server.getresponse()
            data = got.read()
            named = [
                (n, v)
                for n, v in got.getheaders()
                if n.lower() not in {"content-length", "transfer-encoding", "connection"}
            ]
            told = got.getheader("Content-Length")
            length = len(data) if method != "HEAD" else int(told) if told else None
            return Reply(got.status, named, data, length)

    def _send(self, talking: socket.socket, method: str, reply: Reply, fault: Fault) -> bool:
        """Send a reply as *fault* has it. Returns whether the connection is good for another."""
        phrase = http.client.responses.get(reply.status, "Unknown")
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{n}: {v}" for n, v in reply.headers)]
        is_chunked = fault.chunked and method != "HEAD"
        if is_chunked:
            lines.append("Transfer-Encoding: chunked")
        elif reply.length is not None and reply.status not in _NO_BODY:
            lines.append(f"Content-Length: {reply.length}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if method == "HEAD":
            talking.sendall(head)
            return True
        body = reply.body if fault.cut is None else reply.body[: fault.cut]
        if is_chunked:
            end = b"0\r\n\r\n" if fault.cut is None else b""
            body = b"%x\r\n%s\r\n" % (len(body), body) + end
        if fault.body_gate is not None:
            half = len(body) // 2
            talking.sendall(head + body[:half])
            self._wait(fault.body_gate)
            talking.sendall(body[half:])
            return True
        talking.sendall(head + body + fault.surplus)
        if fault.reset:
            _reset(talking)
        if fault.torn:
            raise ConnectionAbortedError
        return fault.cut is None

    def _wait(self, gate: threading.Event) -> None:
        """Wait until *gate* is set, the liar closes, or patience ends."""
        until = time.monotonic() + IDLE_SECONDS
        while not gate.wait(0.02) and not self._closing.is_set():
            if time.monotonic() > until:
                break


def _read_headers(incoming: BinaryIO) -> Headers:
    headers = []
    while (line := incoming.readline(MAX_HEAD).decode("latin-1")).strip():
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    return headers


def _reset(talking: socket.socket) -> Never:
    """End the connection with a reset."""
    talking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError
