"""What the replies of servers say: nothing counts but what was asked for, exactly. Pure.

A status, the range, the length and the encoding are judged before a byte of the body is read. Where
that was asked is written down for errors only.
"""

import datetime
import functools
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, Protocol

from vzfs.access import AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.model.moment import parse_http_date
from vzfs.source.versions import LAST_DATE, MAX_ETAG_LENGTH, tag_of
from vzfs.source.wire import PreconditionFailed, Seen, Transient

PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another attempt may not meet again."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z")
_SIZE = re.compile(r"\d{1,19}\Z")
_DELAY = re.compile(r"\d{1,6}\Z")


class Head(Protocol):
    """The head of a reply. Names of headers are in lower case; *length* is that of the body, if told."""

    @property
    def status(self) -> int: ...  # noqa: D102

    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def length(self) -> int | None: ...  # noqa: D102


def judge(head: Head, place: Location | Prefix) -> None:
    """Raise for every status that does not announce the object, or the list, that was asked for."""
    status = head.status
    if status in {200, 206}:
        return
    if status == 412:
        raise PreconditionFailed
    where = str(place)
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
            ErrorKind.SOURCE_DENIED, said, where=where, advice="check credentials and permissions"
        )
    if status in PASSING:
        error = SourceError(ErrorKind.SOURCE_UNREACHABLE, said, where=where)
        raise Transient(error, _delay(head.headers.get("retry-after", "")))
    if status == 416:
        raise mismatch("the object ends before the range does", where)
    raise mismatch(said, where)


def describe(head: Head, wanted: AuthorizedRange) -> tuple[Seen, int]:
    """Return the version that a reply names, and how many bytes its body must have, or may have."""
    headers, length, span = head.headers, head.length, wanted.range
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() not in {"", "identity"}:
        raise _unlike(f"the bytes come encoded as {encoding.strip().lower()[:40]!r}", wanted)
    if length is None and "chunked" not in headers.get("transfer-encoding", "").lower():
        raise _unlike("the server does not say how long its reply is", wanted)
    if span is None:
        if head.status != HTTPStatus.OK:
            raise _unlike("a part of the object comes for the whole", wanted)
        if length is not None and length > wanted.max_length:
            raise _unlike(f"{length} bytes, of at most {wanted.max_length}", wanted)
        return seen(head, length), wanted.max_length
    if head.status == HTTPStatus.OK:
        # A server that ignores ranges still serves the one that is its whole object.
        if span.offset or length != span.length:
            raise _unlike("the server ignores the range and sends the whole object", wanted)
        return seen(head, length), span.length
    said = headers.get("content-range", "")
    match = _CONTENT_RANGE.match(said)
    if not match:
        raise _unlike("a part of the object comes without saying which", wanted)
    first, last, total = match.groups()
    size = None if total == "*" else int(total)
    end = span.end
    if int(first) != span.offset or int(last) != end - 1 or (size is not None and size < end):
        raise _unlike(f"Content-Range is {said!r}", wanted)
    if length is not None and length != span.length:
        raise _unlike(f"Content-Length is {length}, of {span.length}", wanted)
    return seen(head, size), span.length


def seen(head: Head, size: int | None) -> Seen:
    """Return the version that a reply names, for an object of *size* bytes."""
    etag = head.headers.get("etag")
    if etag is not None and (len(etag) > MAX_ETAG_LENGTH or not tag_of(etag).opaque):
        etag = None
    date = head.headers.get("last-modified")
    return Seen(etag, None if date is None else seconds_of(date), size)


def size(head: Head) -> int | None:
    """Return the size of the object that the reply to a HEAD, or one byte of a GET, tells.

    What comes encoded has another length than the object.
    """
    if head.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        return None
    total = _CONTENT_RANGE.match(head.headers.get("content-range", ""))
    if total is None:
        return head.length
    return int(total[3]) if _SIZE.match(total[3]) else None


def mismatch(what: str, where: str) -> SourceError:
    """Return the error for a reply that is not what was asked for."""
    return SourceError(ErrorKind.SOURCE_MISMATCH, what, where=where)


def _unlike(what: str, wanted: AuthorizedRange) -> SourceError:
    return mismatch(what, str(wanted.location))


@functools.lru_cache(1024)
def seconds_of(date: str) -> int | None:
    """Read an HTTP date as seconds since the Unix epoch; None if there is none in it."""
    try:
        moment = parse_http_date(date)
        if moment is None:
            # The forms of old, and worse.
            import email.utils

            moment = email.utils.parsedate_to_datetime(date)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        seconds = int(moment.timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
    # A zone may lead out of the years that there are.
    return seconds if 0 <= seconds <= LAST_DATE else None


def _delay(retry_after: str) -> float:
    """Return how many seconds a server asks to wait, in either form of the header; 0 if it does not."""
    if _DELAY.match(retry_after):
        return float(retry_after)
    at = seconds_of(retry_after) if retry_after else None
    return 0.0 if at is None else max(at - time.time(), 0.0)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
