"""What the replies of HTTP servers say: nothing counts but what was asked for, exactly. Pure.

A status, the range, the length and the encoding are judged before a byte of the body is read.
"""

import datetime
import email.utils
import re
from http import HTTPStatus
from typing import Final

import urllib3

from vzfs.access import AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.source.versions import MAX_ETAG_LENGTH
from vzfs.source.wire import PreconditionFailed, Seen, Transient

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z")
_SIZE = re.compile(r"\d{1,19}\Z")


def judge(response: urllib3.BaseHTTPResponse, wanted: AuthorizedRange) -> None:
    """Raise for every status that does not announce the object."""
    status, where = response.status, str(wanted.location)
    if status in {200, 206}:
        return
    if status == 412:
        raise PreconditionFailed
    said = f"the server answers {status} {_phrase(status)}".rstrip()
    if status in {404, 410}:
        raise SourceError(
            ErrorKind.SOURCE_VANISHED,
            f"the object does not exist: {said}",
            where=where,
            advice="it was moved or deleted since it was referred to",
        )
    if status in {401, 403, 407}:
        raise SourceError(
            ErrorKind.SOURCE_DENIED,
            said,
            where=where,
            advice="http: sources are read without credentials",
        )
    if status in _PASSING:
        wait = response.headers.get("Retry-After", "")
        after = float(wait) if re.fullmatch(r"\d{1,6}", wait) else 0.0
        raise Transient(SourceError(ErrorKind.SOURCE_UNREACHABLE, said, where=where), after)
    if status == 416:
        raise mismatch("the object ends before the range does", wanted)
    raise mismatch(said, wanted)


def describe(response: urllib3.BaseHTTPResponse, wanted: AuthorizedRange) -> tuple[Seen, int]:
    """Return the version that a reply names, and how many bytes its body must have, or may have."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise mismatch(f"the bytes come encoded as {encoding[:40]!r}", wanted)
    announced = response.headers.get("Content-Length")
    if announced is not None and not _SIZE.match(announced):
        raise mismatch("the Content-Length is not a number", wanted)
    length = None if announced is None else int(announced)
    if length is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
        raise mismatch("the server does not say how long its reply is", wanted)
    span = wanted.range
    if span is None:
        if response.status != HTTPStatus.OK:
            raise mismatch("a part of the object comes for the whole", wanted)
        if length is not None and length > wanted.max_length:
            raise mismatch(f"{length} bytes, of at most {wanted.max_length}", wanted)
        return seen(response, length), wanted.max_length
    if response.status == HTTPStatus.OK:
        # A server that ignores ranges still serves the one that is its whole object.
        if span.offset or length != span.length:
            raise mismatch("the server ignores the range and sends the whole object", wanted)
        return seen(response, length), span.length
    said = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.match(said)
    if not match:
        raise mismatch("a part of the object comes without saying which", wanted)
    first, last, total = int(match[1]), int(match[2]), match[3]
    if (first, last) != (span.offset, span.end - 1) or (total != "*" and int(total) < span.end):
        raise mismatch(f"Content-Range is {said!r}", wanted)
    if length is not None and length != span.length:
        raise mismatch(f"Content-Length is {length}, of {span.length}", wanted)
    return seen(response, None if total == "*" else int(total)), span.length


def seen(response: urllib3.BaseHTTPResponse, size: int | None) -> Seen:
    """Return the version that a reply names, for an object of *size* bytes."""
    etag = response.headers.get("ETag")
    if etag is not None and not 0 < len(etag) <= MAX_ETAG_LENGTH:
        etag = None
    return Seen(etag, _seconds(response.headers.get("Last-Modified")), size)


def _seconds(date: str | None) -> int | None:
    """Read an HTTP date as seconds since the Unix epoch; None if there is none in it."""
    try:
        moment = email.utils.parsedate_to_datetime(date or "")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return int(moment.timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def size(response: urllib3.BaseHTTPResponse) -> int | None:
    """Return the size of the object that the reply to a HEAD, or one byte of a GET, tells."""
    total = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    told = total[3] if total else response.headers.get("Content-Length", "")
    return int(told) if _SIZE.match(told) else None


def mismatch(what: str, wanted: AuthorizedRange) -> SourceError:
    """Return the error for a reply that is not what *wanted* asks for."""
    span = wanted.range
    asked = f" (asked for {span.length} bytes from {span.offset} on)" if span else ""
    return SourceError(ErrorKind.SOURCE_MISMATCH, f"{what}{asked}", where=str(wanted.location))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
