"""Between `Source` and the modules that talk to a store: what a reply says, and how a talk fails.

Modules that talk (`http`, `s3`, `local`) block; they run in threads and may run many times at once.
They raise `SourceError` for what will not pass, and `Transient` around the SourceError to raise if
it does not.
"""

import threading
import time
from typing import Literal, NamedTuple, Protocol

from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.source.fetcher import Fetched, SourceStatistics


class Transient(Exception):
    """A failure that may pass: *error* says what it is, *after* how many seconds the server asks to wait."""

    def __init__(self, error: SourceError, after: float = 0.0) -> None:
        super().__init__(error, after)
        self.error = error
        self.after = after


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


class Wire(Protocol):
    """A protocol spoken by servers. *until* is on the clock of `time.monotonic`."""

    def get(
        self, wanted: AuthorizedRange, precondition: Precondition, until: float
    ) -> tuple[Seen, bytes]:
        """Return the exact bytes of *wanted*. Raises PreconditionFailed, Transient, SourceError."""

    def head(self, wanted: AuthorizedRange, until: float) -> Seen:
        """Return what the server says of the object. Raises Transient, SourceError."""

    def list(self, below: AuthorizedPrefix, until: float) -> list[str]:
        """Return the keys below a prefix, relative to it. Raises Transient, SourceError."""


class Backend(Protocol):
    """Objects of some schemes, read by blocking. *until* is on the clock of `time.monotonic`."""

    def fetch(self, wanted: AuthorizedRange, pinned: str | None, until: float) -> Fetched:
        """Do what `Fetcher.fetch` does, once. Raises Transient, SourceError."""

    def version(self, wanted: AuthorizedRange, until: float) -> str:
        """Do what `Fetcher.version` does, once. Raises Transient, SourceError."""

    def list(self, below: AuthorizedPrefix, until: float) -> list[str]:
        """Do what `Fetcher.list` does, once. Raises Transient, SourceError."""


class Tally:
    """Counts from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(SourceStatistics.__dataclass_fields__, 0)

    def add(
        self,
        what: Literal["gets", "heads", "lists", "retries", "bytes_read", "errors"],
        count: int = 1,
    ) -> None:
        """Count *count* more of *what*."""
        with self._lock:
            self._counts[what] += count

    def statistics(self) -> SourceStatistics:
        """Return the counts."""
        with self._lock:
            return SourceStatistics(**self._counts)


def remaining(until: float, where: str) -> float:
    """Return the seconds left, more than 0. Raises SourceError (`SOURCE_TIMEOUT`) if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise SourceError(ErrorKind.SOURCE_TIMEOUT, "out of the time budget", where=where)
    return left
