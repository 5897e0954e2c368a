"""Objects behind a server: how a fetch makes sure of the version, whatever protocol is spoken.

One GET with a precondition, and the reply compared. Some servers compare an entity tag with their
own without its quotes and so refuse every precondition: after a 412, one HEAD tells the object's
tag, and if it is the wanted one, that authority gets no preconditions any more and its replies
decide.
"""

from typing import Final

from vzfs.access import AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source import versions
from vzfs.source.fetcher import MAX_FETCH, Fetched
from vzfs.source.wire import Precondition, PreconditionFailed, Seen, Wire

MAX_OFFSET: Final = 2**63 - 1
"""The largest offset that clients and servers agree on."""


class Remote:
    """The objects that a `Wire` reaches. Safe to use from many threads at once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._refusing: set[tuple[str, str, StoreOptions]] = set()

    def fetch(self, wanted: AuthorizedRange, pinned: str | None, until: float) -> Fetched:
        """Return the bytes of *wanted*. Raises Transient, SourceError."""
        check(wanted)
        if wanted.range is not None and not wanted.range.length:
            return Fetched(b"", versions.verify(wanted, self._wire.head(wanted, until), pinned))
        try:
            seen, data = self._get(wanted, pinned, until)
        except PreconditionFailed:
            raise SourceError(
                ErrorKind.SOURCE_MISMATCH,
                "the server says that a precondition failed, and none was asked for",
                where=str(wanted.location),
            ) from None
        return Fetched(data, versions.verify(wanted, seen, pinned))

    def version(self, wanted: AuthorizedRange, until: float) -> str:
        """Return the version that the object has now. Raises Transient, SourceError."""
        check(wanted)
        return versions.verify(wanted, self._wire.head(wanted, until))

    def list(self, below: AuthorizedPrefix, until: float) -> list[str]:
        """Return the keys below a prefix. Raises Transient, SourceError."""
        if below.prefix.key:
            _check_key(below.prefix)
        return self._wire.list(below, until)

    def _get(self, wanted: AuthorizedRange, pinned: str | None, until: float) -> tuple[Seen, bytes]:
        authority = (wanted.location.scheme, wanted.location.authority, wanted.store)
        condition = versions.precondition(wanted.checksum, pinned)
        if condition == Precondition() or authority in self._refusing:
            return self._wire.get(wanted, Precondition(), until)
        try:
            return self._wire.get(wanted, condition, until)
        except PreconditionFailed:
            versions.verify(wanted, self._wire.head(wanted, until), pinned)
            self._refusing.add(authority)
            return self._wire.get(wanted, Precondition(), until)


def check(wanted: AuthorizedRange) -> None:
    """Raise SourceError for what cannot be asked for verbatim, or should not be."""
    _check_key(wanted.location)
    span = wanted.range
    if span is None:
        return
    if span.offset < 0 or not 0 <= span.length <= MAX_FETCH or span.end > MAX_OFFSET:
        raise SourceError(
            ErrorKind.SOURCE_MISMATCH,
            f"{span.length} bytes from {span.offset} on are no range that can be fetched at once",
            where=str(wanted.location),
        )


def _check_key(place: Location | Prefix) -> None:
    if not Location(place.scheme, place.authority, place.key).is_verbatim:
        raise SourceError(
            ErrorKind.BAD_LOCATION,
            "the key has an empty, '.' or '..' segment, or a control character, which no client "
            "can ask for verbatim",
            where=str(place),
        )
