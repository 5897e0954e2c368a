"""Loopback servers for tests: one object server, plain HTTP and path-style S3 at once, and a proxy.

`ObjectServer` serves objects named `bucket/key`, from memory and from a directory, to any client
that asks for `/bucket/key`: HTTP clients see a web server, S3 clients an endpoint
(`s3://bucket/key` with path-style requests; signatures are not checked). It knows HEAD, GET, one
range, If-Match, If-Unmodified-Since and ListObjectsV2. It writes down every request, so that tests
can count them, and it misbehaves as told: `server.fault("bucket/key", status(503), times=2)`.

    with ObjectServer() as server:
        server.put("bucket/key", b"bytes")
        ...                                     # http: server.url + "/bucket/key"; s3: endpoint server.url
        assert server.count("GET", "bucket/key") == 1

Servers listen on 127.0.0.1 only, on a free port; their threads are daemons, and `close` ends every
connection, so a stalled one cannot keep a test process alive.
"""

import contextlib
import dataclasses
import email.utils
import hashlib
import http.client
import http.server
import os
import re
import socket
import ssl
import struct
import threading
import time
import types
import urllib.parse
import xml.sax.saxutils
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

KEEP: Final = "keep"
IDLE_SECONDS: Final = 60.0
MAX_KEYS: Final = 1000
_DAY: Final = 1_700_000_000
"""When objects were last modified, unless a test says otherwise: 2023-11-14T22:13:20Z."""


class Request(NamedTuple):
    """One request as it came in. *target* is undecoded; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def key(self) -> str:
        """The decoded path without its first slash and without the query."""
        return urllib.parse.unquote(self.target.partition("?")[0]).removeprefix("/")

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


@dataclasses.dataclass(frozen=True)
class Stored:
    """An object: its bytes (or the file that has them), and what the server says of its version.

    *etag* is sent as it is, quotes included; None sends none. So with *last_modified*, in seconds.
    """

    data: bytes | Path
    etag: str | None
    last_modified: int | None

    @property
    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size

    def read(self, start: int, end: int) -> bytes:
        if isinstance(self.data, bytes):
            return self.data[start:end]
        with self.data.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclasses.dataclass(frozen=True)
class Fault:
    """How one reply is wrong. The functions below make the usual ones; `dataclasses.replace` mixes."""

    status: int | None = None
    headers: Mapping[str, str] = types.MappingProxyType({})
    body: bytes = b""
    reset: bool = False
    cut: int | None = None
    extra: int = 0
    chunked: bool = False
    ignore_range: bool = False
    ignore_conditions: bool = False
    shift: int = 0
    etag: str | None = KEEP
    last_modified: int | Literal["keep"] | None = KEEP
    gate: threading.Event | None = None
    body_gate: threading.Event | None = None
    methods: frozenset[str] = frozenset({"GET", "HEAD"})


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Answer with *code* and nothing else."""
    return Fault(status=code, headers=headers or {}, body=body)


def redirect(url: str, code: int = 302) -> Fault:
    """Answer with a redirect to *url*."""
    return Fault(status=code, headers={"Location": url})


def reset() -> Fault:
    """Reset the connection instead of answering."""
    return Fault(reset=True)


def truncate(sent: int = 1) -> Fault:
    """Announce the whole body, send *sent* bytes of it and close."""
    return Fault(cut=sent)


def overlong(extra: int = 7, *, chunked: bool = False) -> Fault:
    """Send (and announce, unless *chunked*) *extra* bytes more than the range has."""
    return Fault(extra=extra, chunked=chunked)


def short(missing: int = 3) -> Fault:
    """Announce and send *missing* bytes fewer than the range has."""
    return Fault(extra=-missing)


def whole_object() -> Fault:
    """Ignore the range: 200 and every byte."""
    return Fault(ignore_range=True)


def wrong_range(shift: int = 1) -> Fault:
    """Answer 206 with bytes, and a Content-Range, that start *shift* bytes further on."""
    return Fault(shift=shift)


def other_etag(etag: str | None) -> Fault:
    """Ignore preconditions, and send *etag* in the place of the object's own."""
    return Fault(etag=etag, ignore_conditions=True)


def no_validators() -> Fault:
    """Send neither ETag nor Last-Modified."""
    return Fault(etag=None, last_modified=None)


def stall(gate: threading.Event) -> Fault:
    """Answer only when *gate* is set."""
    return Fault(gate=gate)


def stall_in_body(gate: threading.Event) -> Fault:
    """Send the head and half of the body, and the rest when *gate* is set."""
    return Fault(body_gate=gate)


class _Server(http.server.ThreadingHTTPServer):
    """A threaded server that knows its connections and can end them all."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, handler: type, owner: object, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.owner = owner
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.clients: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._context = context
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        with self._lock:
            self.connections.add(request)
            self.clients.append(client_address)
        super().process_request(request, client_address)

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE_SECONDS)
        with self._context.wrap_socket(request, server_side=True) as wrapped:
            with self._lock:
                self.connections.add(wrapped)
            try:
                super().finish_request(wrapped, client_address)
            finally:
                with self._lock:
                    self.connections.discard(wrapped)

    def shutdown_request(self, request: socket.socket) -> None:
        with self._lock:
            self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away (or distrusts our certificate) is no error here."""

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join(5)
        with self._lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class ObjectServer:
    """Objects over HTTP and path-style S3, with a log of requests and faults on demand.

    *root* is a directory whose files are served as objects `bucket/key`; objects that were `put`
    hide them. With *context*, TLS. *host* is the name that `url` gives to clients (it must mean
    127.0.0.1).
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._objects: dict[str, Stored] = {}
        self._faults: dict[str, deque[Fault]] = {}
        self._root = root
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._server = _Server(_ObjectHandler, self, context)
        self.port: int = self._server.server_address[1]
        self.authority = f"{host}:{self.port}"
        self.url = f"{'https' if context else 'http'}://{self.authority}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end every connection, stalled ones too."""
        self._server.close()

    # -- objects -------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes,
        *,
        etag: str | None = "",
        last_modified: int | None = _DAY,
    ) -> Stored:
        """Store an object. Its etag is the quoted MD5 of *data*, as S3's is, unless given."""
        if etag == "":
            etag = f'"{hashlib.md5(data).hexdigest()}"'
        stored = Stored(data, etag, last_modified)
        with self._lock:
            self._objects[key] = stored
        return stored

    def delete(self, key: str) -> None:
        with self._lock:
            del self._objects[key]

    def find(self, key: str) -> Stored | None:
        """Return the object named *key*."""
        with self._lock:
            stored = self._objects.get(key)
        if stored is not None or self._root is None:
            return stored
        if any(part in {"", ".", ".."} for part in key.split("/")):
            return None
        path = self._root / key
        if not path.is_file():
            return None
        found = path.stat()
        return Stored(path, f'"{found.st_mtime_ns:x}-{found.st_size:x}"', int(found.st_mtime))

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Return the keys in *bucket* that start with *prefix*, sorted as S3 sorts them."""
        with self._lock:
            names = set(self._objects)
        if self._root is not None:
            for folder, _, files in os.walk(self._root / bucket):
                names |= {(Path(folder) / f).relative_to(self._root).as_posix() for f in files}
        whole = f"{bucket}/"
        keys = (n.removeprefix(whole) for n in names if n.startswith(whole))
        return sorted((k for k in keys if k.startswith(prefix)), key=str.encode)

    # -- faults and the log --------------------------------------------------------------------

    def fault(self, key: str, fault: Fault, times: int = 1) -> None:
        """Let the next *times* requests for *key* fail in this way, after those already said."""
        with self._lock:
            self._faults.setdefault(key, deque()).extend([fault] * times)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def clients(self) -> list[tuple[str, int]]:
        """The address of each connection so far, in order of arrival."""
        return list(self._server.clients)

    def forget_requests(self) -> None:
        with self._lock:
            self._requests.clear()

    def count(self, method: str | None = None, key: str | None = None) -> int:
        """Return how many requests there were, of *method* and for *key* if given."""
        return sum(
            (method is None or r.method == method) and (key is None or r.key == key)
            for r in self.requests
        )

    def take(self, request: Request) -> Fault:
        """Write down *request* and return how to answer it."""
        with self._lock:
            self._requests.append(request)
            queue = self._faults.get(request.key)
            if queue and request.method in queue[0].methods:
                return queue.popleft()
        return Fault()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_SECONDS
    server: _Server

    def log_message(self, *_: object) -> None:
        """Keep quiet: the log is `ObjectServer.requests`."""

    def wait(self, gate: threading.Event) -> None:
        """Wait until *gate* is set, the server closes, or patience ends."""
        until = time.monotonic() + IDLE_SECONDS
        while not gate.wait(0.02) and not self.server.closing.is_set():
            if time.monotonic() > until:
                break

    def reset_connection(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.close()


_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


class _ObjectHandler(_Handler):
    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        owner = self.server.owner
        assert isinstance(owner, ObjectServer)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, types.MappingProxyType(headers))
        fault = owner.take(request)
        if fault.gate is not None:
            self.wait(fault.gate)
        if fault.reset:
            self.reset_connection()
        elif fault.status is not None:
            self.reply(fault.status, fault.headers, fault.body)
        elif "list-type" in request.query:
            self.list(owner, request)
        else:
            self.object(owner.find(request.key), request, fault)

    def reply(self, code: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def object(self, stored: Stored | None, request: Request, fault: Fault) -> None:
        if stored is None:
            self.reply(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        etag = stored.etag if fault.etag == KEEP else fault.etag
        date = stored.last_modified if fault.last_modified == KEEP else fault.last_modified
        if not fault.ignore_conditions and not _holds(request.headers, etag, date):
            self.reply(412, {"ETag": etag} if etag else {})
            return
        size = stored.size
        headers = {"Accept-Ranges": "bytes", **fault.headers}
        if etag is not None:
            headers["ETag"] = etag
        if date is not None:
            headers["Last-Modified"] = email.utils.formatdate(date, usegmt=True)
        start, end, code = 0, size, 200
        asked = _RANGE.match(request.headers.get("range", ""))
        if asked and not fault.ignore_range:
            start = int(asked[1])
            end = min(size, int(asked[2]) + 1) if asked[2] else size
            if start >= end:
                self.reply(416, {"Content-Range": f"bytes */{size}"})
                return
            start, end, code = start + fault.shift, end + fault.shift, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.body(code, headers, stored, start, end, fault)

    def body(
        self, code: int, headers: dict[str, str], stored: Stored, start: int, end: int, fault: Fault
    ) -> None:
        length = end - start + fault.extra
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        data = stored.read(start, end)[: max(length, 0)] + b"+" * fault.extra
        if fault.chunked:
            self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n")
            return
        if fault.cut is not None:
            self.close_connection = True
            data = data[: fault.cut]
        half = len(data) // 2 if fault.body_gate else len(data)
        self.wfile.write(data[:half])
        if fault.body_gate is not None:
            self.wfile.flush()
            self.wait(fault.body_gate)
            self.wfile.write(data[half:])

    def list(self, owner: ObjectServer, request: Request) -> None:
        """Answer ListObjectsV2: prefix, delimiter, max-keys, start-after, continuation-token."""
        query = request.query
        bucket, prefix = request.key.removesuffix("/"), query.get("prefix", "")
        delimiter = query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        limit = min(int(query.get("max-keys", MAX_KEYS)), MAX_KEYS)
        entries: list[str] = []
        folders: list[str] = []
        last = ""
        truncated = False
        for key in owner.keys(bucket, prefix):
            if after and key <= after:
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            folder = prefix + head + delimiter
            if found and folders and folders[-1] == folder:
                last = key
                continue
            if len(entries) + len(folders) == limit:
                truncated = True
                break
            if found:
                folders.append(folder)
            else:
                entries.append(self.entry(owner, bucket, key))
            last = key
        token = f"<NextContinuationToken>{_xml(last)}</NextContinuationToken>" if truncated else ""
        common = "".join(
            f"<CommonPrefixes><Prefix>{_xml(f)}</Prefix></CommonPrefixes>" for f in folders
        )
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{_xml(prefix)}</Prefix>"
            f"<KeyCount>{len(entries) + len(folders)}</KeyCount><MaxKeys>{limit}</MaxKeys>"
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{token}{''.join(entries)}{common}"
            "</ListBucketResult>"
        )
        self.reply(200, {"Content-Type": "application/xml"}, body.encode())

    @staticmethod
    def entry(owner: ObjectServer, bucket: str, key: str) -> str:
        stored = owner.find(f"{bucket}/{key}")
        assert stored is not None
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.last_modified or 0))
        return (
            f"<Contents><Key>{_xml(key)}</Key><LastModified>{date}</LastModified>"
            f"<ETag>{_xml(stored.etag or '')}</ETag><Size>{stored.size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


def _xml(text: str) -> str:
    return xml.sax.saxutils.escape(text)


def _holds(headers: Mapping[str, str], etag: str | None, date: int | None) -> bool:
    """Whether the preconditions of a request hold, as RFC 9110 compares them."""
    wanted = headers.get("if-match")
    if wanted is not None:
        tags = [tag.strip() for tag in wanted.split(",")]
        return "*" in tags or (etag in tags and not (etag or "").startswith("W/"))
    since = headers.get("if-unmodified-since")
    if since is not None and date is not None:
        return date <= email.utils.parsedate_to_datetime(since).timestamp()
    return True


class Proxy:
    """A forwarding proxy for `http:` requests and CONNECT tunnels. *seen* has what it was asked for.

    With *allow*, only authorities for which it answers True are served; others get 403. *reroute*
    says which authority really stands behind another, as a resolver of names would.
    """

    def __init__(self, allow: Callable[[str], bool] = lambda authority: True) -> None:
        self.seen: list[str] = []
        self.allow = allow
        self.reroute: dict[str, str] = {}
        self.headers: list[Mapping[str, str]] = []
        self._server = _Server(_ProxyHandler, self, None)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()


class _ProxyHandler(_Handler):
    @property
    def proxy(self) -> Proxy:
        assert isinstance(self.server.owner, Proxy)
        return self.server.owner

    def admit(self, authority: str) -> bool:
        proxy = self.proxy
        proxy.seen.append(f"{self.command} {self.path}")
        proxy.headers.append({name.lower(): value for name, value in self.headers.items()})
        if not proxy.allow(authority):
            self.send_error(403)
            return False
        return True

    def do_HEAD(self) -> None:
        self.forward()

    def do_GET(self) -> None:
        self.forward()

    def forward(self) -> None:
        target = urllib.parse.urlsplit(self.path)
        if not self.admit(target.netloc):
            return
        hop = {"proxy-connection", "connection", "keep-alive", "proxy-authorization"}
        headers = {n: v for n, v in self.headers.items() if n.lower() not in hop}
        path = target._replace(scheme="", netloc="").geturl()
        authority = self.proxy.reroute.get(target.netloc, target.netloc)
        upstream = http.client.HTTPConnection(authority, timeout=IDLE_SECONDS)
        with contextlib.closing(upstream):
            upstream.request(self.command, path, headers=headers)
            reply = upstream.getresponse()
            body = reply.read()
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in hop | {"transfer-encoding", "date", "server"}:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def do_CONNECT(self) -> None:
        if not self.admit(self.path):
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=IDLE_SECONDS) as upstream:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            self.close_connection = True
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join(IDLE_SECONDS)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until *source* ends, and say so to *sink*."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
