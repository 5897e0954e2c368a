"""An emulator of Google Cloud Storage's XML interface, as far as a reader sees it.

It answers GET and HEAD of objects with one range, strong etags (the MD5, as of objects uploaded
whole), dates, generations and preconditions; `ListObjectsV2` with `encoding-type=url`; it asks for
a bearer token in private buckets, and for `x-goog-user-project` where the requester pays. An object
stored with `Content-Encoding: gzip` is unpacked for a client that does not accept gzip, and then no
range counts ("decompressive transcoding"). Objects are in memory; the listener is on 127.0.0.1.
"""

import contextlib
import dataclasses
import email.utils
import gzip
import hashlib
import http.server
import re
import socket
import threading
import time
import urllib.parse
import xml.sax.saxutils
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Self

from tests.stores.store import BUCKET, Store
from vzfs.access import StoreOptions

TOKEN: Final = "ya29.the-token-of-the-tests"
PROJECT: Final = "project-that-pays"
PAID: Final = "paid"
"""The bucket whose requesters pay."""

PUBLIC: Final = "public"
"""The bucket that anybody may read."""

IDLE_SECONDS: Final = 60.0
MAX_KEYS: Final = 1000
_FIRST_SECOND: Final = 1_700_000_000
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)\Z")


@dataclasses.dataclass(frozen=True)
class Stored:
    """An object. Its *generation* is its number among all that were written."""

    data: bytes
    generation: int
    encoding: str | None = None

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'

    @property
    def modified(self) -> int:
        return _FIRST_SECOND + self.generation


class Problem(NamedTuple):
    """A reply that is an error, in the words of the XML interface."""

    status: int
    code: str
    message: str


_DENIED: Final = Problem(
    403, "AccessDenied", "Anonymous caller does not have storage.objects.get access."
)
_NO_TOKEN: Final = Problem(401, "AuthenticationRequired", "Authentication required.")
_NO_PROJECT: Final = Problem(
    400, "UserProjectMissing", "Bucket is a requester pays bucket but no user project provided."
)
_OTHER_PROJECT: Final = Problem(403, "UserProjectAccessDenied", "No access to the user project.")
_NO_BUCKET: Final = Problem(404, "NoSuchBucket", "The specified bucket does not exist.")
_NO_KEY: Final = Problem(404, "NoSuchKey", "The specified key does not exist.")
_FAILED: Final = Problem(412, "PreconditionFailed", "At least one condition did not hold.")
_NO_RANGE: Final = Problem(416, "InvalidRange", "The requested range cannot be satisfied.")


class Gcs(Store):
    """The emulator, and the objects of all its buckets: `bucket` is private."""

    name = "gcs"
    scheme = "gs"

    def __init__(self) -> None:
        self.environment = {"GOOGLE_OAUTH_ACCESS_TOKEN": TOKEN}
        self._lock = threading.Lock()
        self._written = 0
        self._buckets: dict[str, dict[str, Stored]] = {BUCKET: {}, PAID: {}, PUBLIC: {}}
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def put(
        self, key: str, data: bytes, *, bucket: str = BUCKET, encoding: str | None = None
    ) -> None:
        with self._lock:
            self._written += 1
            self._buckets[bucket][key] = Stored(data, self._written, encoding)

    def delete(self, key: str) -> None:
        with self._lock:
            del self._buckets[BUCKET][key]

    def etag(self, key: str) -> str:
        return self._stored(key).etag

    def modified(self, key: str) -> int:
        return self._stored(key).modified

    def options(self, endpoint: str) -> StoreOptions:
        return StoreOptions(endpoint=endpoint, allow_http=endpoint.startswith("http:"))

    def find(self, bucket: str, key: str) -> Stored | None:
        """Return an object, if the bucket has it."""
        with self._lock:
            return self._buckets[bucket].get(key)

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of a bucket in the order of their bytes."""
        with self._lock:
            return sorted(self._buckets[bucket], key=str.encode)

    def has_bucket(self, bucket: str) -> bool:
        """Whether there is a bucket of this name."""
        return bucket in self._buckets

    def _stored(self, key: str) -> Stored:
        stored = self.find(BUCKET, key)
        assert stored is not None
        return stored


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, store: Gcs) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def process_request(self, request: socket.socket, client_address: object) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is no error here."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_SECONDS
    server: _Server

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        bucket, _, key = path.removeprefix("/").partition("/")
        said = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        problem = self.refusal(urllib.parse.unquote(bucket))
        if problem is not None:
            self.complain(problem)
        elif key:
            self.object(self.server.store.find(bucket, urllib.parse.unquote(key)))
        else:
            self.list(bucket, said)

    def refusal(self, bucket: str) -> Problem | None:
        """Say why nothing of *bucket* is for this client."""
        if not self.server.store.has_bucket(bucket):
            return _NO_BUCKET
        authorization = self.headers.get("Authorization")
        if authorization is not None and authorization != f"Bearer {TOKEN}":
            return _NO_TOKEN
        if authorization is None and bucket != PUBLIC:
            return _DENIED
        project = self.headers.get("x-goog-user-project")
        if project is None:
            return _NO_PROJECT if bucket == PAID else None
        return None if project == PROJECT else _OTHER_PROJECT

    def object(self, stored: Stored | None) -> None:
        if stored is None:
            self.complain(_NO_KEY)
            return
        if not self.conditions_hold(stored):
            self.complain(_FAILED)
            return
        headers = {
            "ETag": stored.etag,
            "Last-Modified": email.utils.formatdate(stored.modified, usegmt=True),
            "Content-Type": "application/octet-stream",
            "x-goog-generation": str(stored.generation),
            "x-goog-metageneration": "1",
            "x-goog-stored-content-length": str(len(stored.data)),
            "x-goog-stored-content-encoding": stored.encoding or "identity",
        }
        if stored.encoding is not None:
            accepted = self.headers.get("Accept-Encoding", "")
            if "gzip" not in accepted:
                unpacked = gzip.decompress(stored.data)
                headers["Warning"] = "214 UploadServer gunzipped"
                self.reply(200, headers, unpacked)
                return
            headers["Content-Encoding"] = stored.encoding
        headers["Accept-Ranges"] = "bytes"
        size = len(stored.data)
        span = _span(self.headers.get("Range", ""), size)
        if span is None:
            self.reply(200, headers, stored.data)
        elif span[0] >= span[1]:
            self.complain(_NO_RANGE, {"Content-Range": f"bytes */{size}"})
        else:
            start, end = span
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self.reply(206, headers, stored.data[start:end])

    def conditions_hold(self, stored: Stored) -> bool:
        """Whether the preconditions of the request hold, as RFC 9110 orders and compares them."""
        wanted = self.headers.get("If-Match")
        if wanted is not None:
            return wanted.strip() == "*" or stored.etag in [t.strip() for t in wanted.split(",")]
        since = self.headers.get("If-Unmodified-Since")
        if since is None:
            return True
        return stored.modified <= email.utils.parsedate_to_datetime(since).timestamp()

    def list(self, bucket: str, said: Mapping[str, str]) -> None:
        """Answer `ListObjectsV2`."""
        prefix, delimiter = said.get("prefix", ""), said.get("delimiter", "")
        after = said.get("continuation-token") or said.get("start-after", "")
        limit = min(int(said.get("max-keys", MAX_KEYS)), MAX_KEYS)
        is_encoded = said.get("encoding-type") == "url"

        def text(value: str) -> str:
            quoted = urllib.parse.quote(value, safe="/") if is_encoded else value
            return xml.sax.saxutils.escape(quoted)

        found = [
            key
            for key in self.server.store.keys(bucket)
            if key.startswith(prefix) and key.encode() > after.encode()
        ]
        # A folder counts once, and a page ends behind all that is in it.
        entries: dict[str, str] = {}
        last = ""
        for key in found:
            head, slash, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            entry = f"{prefix}{head}{slash}" if slash else key
            if entry not in entries and len(entries) == limit:
                break
            entries[entry] = last = key
        has_more = bool(found) and last != found[-1]
        parts = [
            f"<Name>{bucket}</Name><Prefix>{text(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>",
            f"<IsTruncated>{str(has_more).lower()}</IsTruncated>",
            "<EncodingType>url</EncodingType>" if is_encoded else "",
        ]
        if has_more:
            # The token is opaque and, unlike keys, never percent-encoded.
            token = xml.sax.saxutils.escape(last)
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        for entry, key in entries.items():
            if entry != key:
                parts.append(f"<CommonPrefixes><Prefix>{text(entry)}</Prefix></CommonPrefixes>")
                continue
            stored = self.server.store.find(bucket, key)
            if stored is not None:
                date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.modified))
                parts.append(
                    f"<Contents><Key>{text(key)}</Key><LastModified>{date}</LastModified>"
                    f"<ETag>{xml.sax.saxutils.escape(stored.etag)}</ETag>"
                    f"<Size>{len(stored.data)}</Size></Contents>"
                )
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<ListBucketResult xmlns="{namespace}">{"".join(parts)}</ListBucketResult>'
        self.reply(200, {"Content-Type": "application/xml; charset=UTF-8"}, body.encode())

    def complain(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        body = (
            f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{problem.code}</Code>"
            f"<Message>{problem.message}</Message></Error>"
        )
        given = {"Content-Type": "application/xml; charset=UTF-8", **(headers or {})}
        self.reply(problem.status, given, body.encode())

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _span(text: str, size: int) -> tuple[int, int] | None:
    """Return start and end of the one range that a header asks for; None for none."""
    asked = _RANGE.match(text)
    if asked is None or asked[1] == asked[2] == "":
        return None
    if not asked[1]:
        return max(size - int(asked[2]), 0), size
    return int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size


@contextlib.contextmanager
def serve() -> Iterator[Gcs]:
    """Run the emulator while the context lasts."""
    with Gcs() as store:
        yield store
