"""Which version of an object was seen, and whether it is the one that was referred to. Pure.

Entity tags are compared on their opaque value: stores and repositories differ in quotes. A strong
tag or a date goes into the request as a precondition, and whatever the server made of that, the
reply is compared too. A weak tag never matches under If-Match (RFC 9110, 13.1.1), so there the
reply alone decides.
"""

import functools
import re
from typing import Final, NamedTuple

from vzfs.access import AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified
from vzfs.model.moment import format_time
from vzfs.source.wire import Precondition, Seen

MAX_ETAG_LENGTH: Final = 1024
"""Characters. Stores use some 20 to 70."""

LAST_DATE: Final = 253_402_300_799
"""9999-12-31T23:59:59Z: the last moment that an HTTP date can name."""


class Tag(NamedTuple):
    """What an entity tag says: its *opaque* value, and the same in quotes."""

    opaque: str
    quoted: str
    is_weak: bool


NO_PRECONDITION: Final = Precondition()

_SENDABLE = re.compile(r"[\x21\x23-\x7e]+\Z")


def precondition(checksum: Checksum | None, pinned: str | None = None) -> Precondition:
    """Return what to ask of the server, where it can be said in a header.

    Where the reference names no version, the *pinned* one is asked for, if it is a strong tag.
    """
    if checksum is None:
        if pinned is None or not pinned.startswith('"'):
            return NO_PRECONDITION
        checksum = ETag(pinned)
    if isinstance(checksum, ETag):
        tag = checksum.opaque
        if not checksum.is_weak and len(tag) <= MAX_ETAG_LENGTH and _SENDABLE.match(tag):
            return Precondition(if_match=f'"{tag}"')
    elif 0 <= checksum.seconds <= LAST_DATE:
        return Precondition(if_unmodified_since=checksum.seconds)
    return NO_PRECONDITION


def verify(wanted: AuthorizedRange, seen: Seen, pinned: str | None = None) -> str:
    """Return the version *seen*, if it is what *wanted* refers to, and the *pinned* one.

    Raises SourceError: `SOURCE_CHANGED` for another version, `SOURCE_MISMATCH` if the reply does
    not tell.
    """
    checksum = wanted.checksum
    found = None if seen.etag is None else tag_of(seen.etag)
    if checksum is None:
        pass
    elif isinstance(checksum, ETag):
        if found is None:
            raise _untold("an ETag, which the reference names", wanted)
        if found.opaque != checksum.opaque or (found.is_weak and not checksum.is_weak):
            raise changed(f"etag {checksum.value!r}", f"{seen.etag!r}", str(wanted.location))
    else:
        if seen.modified is None:
            raise _untold("a Last-Modified date, which the reference names", wanted)
        if seen.modified > checksum.seconds:
            raise changed(*dates(checksum.seconds, seen.modified), str(wanted.location))
    if found is not None and not found.is_weak:
        version = found.quoted
    elif found is None and seen.modified is None:
        raise _untold("an ETag or a Last-Modified date, so bytes of two versions could mix", wanted)
    else:
        # A weak tag does not pin the bytes alone, so the rest that is known joins it.
        tag = "" if found is None else f"W/{found.quoted}"
        parts = (tag, seen.modified, seen.size)
        version = " ".join("?" if part is None else str(part) for part in parts).strip()
    if pinned is not None and version != pinned:
        raise changed(f"version {pinned}", version, str(wanted.location))
    return version


def checksum_of(seen: Seen) -> Checksum:
    """Return what a reference to the version *seen*, which `verify` took, would record of it."""
    if seen.etag is not None:
        return ETag(seen.etag)
    if seen.modified is None:
        raise ValueError("a reply that tells no version is verified by nobody")
    return LastModified(seen.modified)


@functools.lru_cache(1024)
def tag_of(etag: str) -> Tag:
    """Read the value of an ETag header."""
    tag = ETag(etag)
    return Tag(tag.opaque, f'"{tag.opaque}"', tag.is_weak)


def dates(expected: int, found: int) -> tuple[str, str]:
    """Say which date an object should not be younger than, and which it has; both in seconds."""
    return (
        f"unmodified since {format_time(expected * 10**9)}",
        f"modified at {format_time(found * 10**9)}",
    )


def changed(expected: str, found: str, where: str) -> SourceError:
    """Return the error for an object that is another version than *expected*."""
    return SourceError(
        ErrorKind.SOURCE_CHANGED,
        f"the object has changed: expected {expected[:200]}, found {found[:200]}",
        where=where,
        advice="the repository must be written anew for it, or the old object restored",
    )


def _untold(what: str, wanted: AuthorizedRange) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_MISMATCH,
        f"the reply does not have {what}",
        where=str(wanted.location),
        advice="this server cannot say which version of the object it serves",
    )
