"""Objects of S3 and what speaks like it, through obstore.

Stores are made from what the user says (`StoreOptions`) and from the environment: credentials come
from nowhere else. obstore neither retries here nor waits beyond the time budget, and its word for a
right reply is checked where it does not look: the length of the body, and whether there is a
version. Its messages hold the server's replies, which can hold signatures, so nothing of them but
status codes gets out.

obstore follows redirects by itself, without credentials and never from https: to http:. So the
endpoint that the user names (or AWS) is trusted to say where its objects are.
"""

import datetime
import re
import threading
import urllib.parse
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

from vzfs.access import AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.source import network
from vzfs.source.fetcher import MAX_LISTED, Timing
from vzfs.source.s3errors import mismatch, problems
from vzfs.source.versions import MAX_ETAG_LENGTH
from vzfs.source.wire import Precondition, PreconditionFailed, Seen, Tally, Transient, remaining

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

_HOST = re.compile(r"[A-Za-z0-9._\[\]:-]+\Z")


class S3:
    """A `Wire` for `s3:` locations. Safe to use from many threads at once."""

    def __init__(self, timing: Timing, tally: Tally) -> None:
        self._timing = timing
        self._tally = tally
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, StoreOptions], S3Store] = {}

    def get(
        self, wanted: AuthorizedRange, precondition: Precondition, until: float
    ) -> tuple[Seen, bytes]:
        """Return the exact bytes of *wanted*. Raises PreconditionFailed, Transient, SourceError."""
        where, key = str(wanted.location), wanted.location.key
        store = self._store(wanted.location.authority, wanted.store, where)
        remaining(until, where)
        self._tally.add("gets")
        with problems(where, key):
            result = obstore.get(store, key, options=_options(wanted, precondition))
            length = _length(result, wanted)
            data = self._read(result, length, until, where)
        expected = length if wanted.range is not None else result.meta["size"]
        if len(data) != expected:
            raise Transient(mismatch(f"the body ends after {len(data)} of {expected} bytes", where))
        return _seen(result.meta), data

    def head(self, wanted: AuthorizedRange, until: float) -> Seen:
        """Return what the server says of the object. Raises Transient, SourceError."""
        where, key = str(wanted.location), wanted.location.key
        store = self._store(wanted.location.authority, wanted.store, where)
        remaining(until, where)
        self._tally.add("heads")
        try:
            with problems(where, key):
                return _seen(obstore.head(store, key))
        except PreconditionFailed:
            raise mismatch("the server answers 412 to an unconditional request", where) from None

    def list(self, below: AuthorizedPrefix, until: float) -> list[str]:
        """Return the keys below a prefix, relative to it. Raises Transient, SourceError."""
        where = str(below.prefix)
        store = self._store(below.prefix.authority, below.store, where)
        self._tally.add("lists")
        try:
            with problems(where, None):
                return _names(store, below, until)
        except PreconditionFailed:
            raise mismatch("the server answers 412 to a listing", where) from None

    def _read(self, result: "obstore.GetResult", length: int, until: float, where: str) -> bytes:
        """Read a body, and not much more of it than *length* bytes."""
        size = 0
        pieces = []
        try:
            for piece in result.stream(min_chunk_size=length + 1):
                pieces.append(bytes(piece))
                size += len(piece)
                if size > length:
                    raise mismatch(f"more than the {length} bytes that may come", where)
                remaining(until, where)
        finally:
            self._tally.add("bytes_read", size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- stores --------------------------------------------------------------------------------

    def _store(self, bucket: str, options: StoreOptions, where: str) -> S3Store:
        with self._lock:
            store = self._stores.get((bucket, options))
            if store is None:
                store = self._stores[bucket, options] = self._make(bucket, options, where)
        return store

    def _make(self, bucket: str, options: StoreOptions, where: str) -> S3Store:
        timing = self._timing
        client: ClientConfig = {
            "connect_timeout": datetime.timedelta(seconds=timing.connect),
            "read_timeout": datetime.timedelta(seconds=timing.stall),
            "timeout": datetime.timedelta(seconds=timing.deadline),
        }
        if options.allow_http:
            client["allow_http"] = True
        bundles = network.read_bundles()
        if bundles:
            client["root_certificate"] = bundles
        config: S3Config = {}
        if options.region is not None:
            config["region"] = options.region
        if options.anonymous:
            config["skip_signature"] = True
        if options.path_style is not None:
            config["virtual_hosted_style_request"] = not options.path_style
        if options.endpoint is not None:
            # Both keys, so that AWS_ENDPOINT_URL_S3 in the environment does not win over the user's
            # option.
            endpoint = _endpoint(bucket, options, where)
            config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint
        try:
            with problems(where, None):
                return S3Store(
                    bucket,
                    config=config,
                    client_options=client,
                    retry_config={
                        "max_retries": 0,
                        "retry_timeout": datetime.timedelta(seconds=timing.deadline),
                    },
                )
        except (SourceError, Transient, PreconditionFailed):
            raise SourceError(
                ErrorKind.BAD_CONFIG,
                "the S3 client cannot be set up",
                where=where,
                advice="check the AWS_ variables and the files of certificates in the environment",
            ) from None


def _endpoint(bucket: str, options: StoreOptions, where: str) -> str:
    """Return the user's endpoint as obstore takes it: with the bucket in it, if hosts are virtual."""
    try:
        parts = urllib.parse.urlsplit(options.endpoint or "")
        usable = parts.scheme in {"http", "https"} and _HOST.match(parts.netloc)
    except ValueError:
        usable = None
    if not usable or parts.query or parts.fragment:
        raise SourceError(
            ErrorKind.BAD_CONFIG,
            "the endpoint is not an http: or https: URL of a host",
            where=where,
            advice="write it as https://HOST or http://HOST:PORT",
        )
    if parts.scheme == "http" and not options.allow_http:
        raise SourceError(
            ErrorKind.SOURCE_DENIED,
            "the endpoint is plain http:, which is not allowed",
            where=where,
            advice="allow it with --allow-http, or allow-http in its [[bucket]], if the network can be trusted",
        )
    if options.path_style is False and not parts.netloc.startswith(f"{bucket}."):
        parts = parts._replace(netloc=f"{bucket}.{parts.netloc}")
    return parts.geturl().removesuffix("/")


def _options(wanted: AuthorizedRange, precondition: Precondition) -> "obstore.GetOptions":
    options: obstore.GetOptions = {}
    if wanted.range is not None:
        options["range"] = (wanted.range.offset, wanted.range.end)
    if precondition.if_match is not None:
        options["if_match"] = precondition.if_match
    if precondition.if_unmodified_since is not None:
        seconds = precondition.if_unmodified_since
        options["if_unmodified_since"] = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return options


def _length(result: "obstore.GetResult", wanted: AuthorizedRange) -> int:
    """Return how many bytes the body must have, or for a whole object may have, before any is read."""
    where, span, size = str(wanted.location), wanted.range, result.meta["size"]
    if span is None:
        if size > wanted.max_length:
            raise mismatch(f"{size} bytes, of at most {wanted.max_length}", where)
        return wanted.max_length
    if result.range != (span.offset, span.end):
        start, end = result.range
        raise mismatch(
            f"bytes {start} to {end} come, of {span.offset} to {span.end} (exclusive)", where
        )
    return span.length


def _names(store: S3Store, below: AuthorizedPrefix, until: float) -> list[str]:
    where = str(below.prefix)
    parent = f"{below.prefix.key}/" if below.prefix.key else ""
    names: list[str] = []
    for batch in obstore.list(store, below.prefix.key or None, chunk_size=1000):
        remaining(until, where)
        keys = (entry["path"] for entry in batch)
        names += (key[len(parent) :] for key in keys if key.startswith(parent))
        if len(names) > MAX_LISTED:
            raise SourceError(ErrorKind.CANNOT_LIST, f"more than {MAX_LISTED} names", where=where)
    return names


def _seen(meta: "obstore.ObjectMeta") -> Seen:
    etag = meta["e_tag"]
    if etag is not None and not 0 < len(etag) <= MAX_ETAG_LENGTH:
        etag = None
    # obstore says 1970 where the reply has no date.
    modified = int(meta["last_modified"].timestamp()) or None
    return Seen(etag, modified, meta["size"])
