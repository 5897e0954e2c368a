"""Between `Source` and the modules that talk to a store: what a reply says, and how a talk fails.

Modules that talk raise `SourceError` for what will not pass, and `Transient` around the SourceError
to raise if it does not.
"""

import time
from typing import Literal, NamedTuple

from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Prefix
from vzfs.source.fetcher import MAX_LISTED, SourceStatistics


class Transient(Exception):
    """A failure that may pass: *error* says what it is, *after* how many seconds the server asks to wait.

    *is_silent* if nobody answered: the host may be dead.
    """

    def __init__(self, error: SourceError, after: float = 0.0, *, is_silent: bool = False) -> None:
        super().__init__(error, after)
        self.error = error
        self.after = after
        self.is_silent = is_silent


class PreconditionFailed(Exception):
    """The server says that the object is not the version that the request named."""


class Seen(NamedTuple):
    """What a reply says of the object's version. *modified* is in seconds since the Unix epoch."""

    etag: str | None
    modified: int | None
    size: int | None


class Precondition(NamedTuple):
    """The object that a request is for: this etag (quoted), or unmodified since these seconds."""

    if_match: str | None = None
    if_unmodified_since: int | None = None


class Tally:
    """Counts of what was done. To be told on the event loop only."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(SourceStatistics.__dataclass_fields__, 0)

    def add(
        self,
        what: Literal["gets", "heads", "lists", "retries", "hedges", "bytes_read", "errors"],
        count: int = 1,
    ) -> None:
        """Count *count* more of *what*."""
        self._counts[what] += count

    def statistics(self) -> SourceStatistics:
        """Return the counts."""
        return SourceStatistics(**self._counts)


def too_many(place: Prefix) -> SourceError:
    """Return the error for a listing that is longer than is kept."""
    return SourceError(ErrorKind.CANNOT_LIST, f"more than {MAX_LISTED} names", where=str(place))


def remaining(until: float, where: str) -> float:
    """Return the seconds left, more than 0. Raises SourceError (`SOURCE_TIMEOUT`) if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise SourceError(ErrorKind.SOURCE_TIMEOUT, "out of the time budget", where=where)
    return left
