"""What a source of bytes is to the rest of the house: the `Fetcher` protocol and its values.

A `Fetcher` takes proofs of authorization (`AuthorizedRange`, `AuthorizedPrefix`) and nothing else.
It gives exactly the bytes that were asked for, of one version of the object, or raises
`SourceError`: it never returns fewer or other bytes. Calls are concurrent, cancellable and bounded
in time.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.model.location import Checksum

MAX_FETCH: Final = 2**30
"""Bytes of one fetch. Chunks larger than some MiB are read in blocks; this bounds what a hostile
length can cost."""

MAX_LISTED: Final = 1_000_000
"""Objects and folders of one listing: some 300 MB. Refs and snapshots of a repository are fewer by far."""


class Fetched(NamedTuple):
    """The bytes that were asked for, and the *version* of the object that they belong to.

    *data* is the buffer of the sink if there was one, and else read-only. *version* is opaque: equal
    versions of one location mean the same object, as far as its store can tell.
    """

    data: bytes | memoryview
    version: str


class Stat(NamedTuple):
    """What is known of an object without reading it: its *length* in bytes, and which version it is.

    *checksum* is None where a listing does not tell. *modified* is when it was, in seconds since the
    Unix epoch, as far as the store says so.
    """

    length: int
    checksum: Checksum | None
    modified: int | None = None


class Listed(NamedTuple):
    """An object in a listing: its *key*, relative to the prefix, its *length* in bytes, and its version.

    *checksum* is None where the listing does not tell. A key that ends in a slash is a folder. Of
    what is there and cannot be looked at (a link that is not followed), the *length* is None.
    """

    key: str
    length: int | None = 0
    checksum: Checksum | None = None

    @property
    def is_folder(self) -> bool:
        """Whether this stands for whatever lies below the key."""
        return self.key.endswith("/")


class Urgency(enum.IntEnum):
    """Who waits for a fetch. What is less urgent waits while more urgent fetches do."""

    DEMAND = 0
    """Somebody."""
    AHEAD = 1
    """Nobody yet."""


class Haste:
    """How urgent a fetch is, where that may change while it waits: somebody comes who wants it."""

    __slots__ = ("_hearing", "urgency")

    def __init__(self, urgency: Urgency) -> None:
        self.urgency = urgency
        self._hearing: list[Callable[[], object]] = []

    def hurry(self) -> None:
        """Say that somebody waits for it now."""
        if self.urgency is not Urgency.DEMAND:
            self.urgency = Urgency.DEMAND
            for hear in tuple(self._hearing):
                hear()

    @contextlib.contextmanager
    def heard_by(self, hear: Callable[[], object]) -> Iterator[None]:
        """Call *hear* if it becomes urgent in this block."""
        self._hearing.append(hear)
        try:
            yield
        finally:
            self._hearing.remove(hear)


type Pressing = Urgency | Haste
"""How urgent a fetch is, for good or for now."""


def urgency_of(pressing: Pressing) -> Urgency:
    """Return how urgent it is now."""
    return pressing.urgency if isinstance(pressing, Haste) else pressing


class Sink(Protocol):
    """Where the bytes of a fetch go as they come. Its methods are called on the event loop."""

    def begin(self, version: str) -> memoryview:
        """Return the buffer to read into, writable, and of exactly the length of the range.

        The head of a reply was verified, the object has this *version*, and its bytes are about to
        come. Called once for each attempt, of which there may be two at once. A SourceError that it
        raises, as about another version than before, ends the fetch.
        """

    def came(self, count: int) -> None:
        """Take note that the first *count* bytes of the range are in the buffer.

        Counts grow within an attempt, and begin anew with the next one.
        """


class Pace(NamedTuple):
    """What a host was lately seen to do.

    *latency* is in seconds to the first byte of a reply, *bandwidth* in bytes per second of a body
    on one connection.
    """

    latency: float
    bandwidth: float


DEFAULT_PACE: Final = Pace(0.03, 80e6)
"""Of a host of which nothing is known: an object store in the same region."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a source may take. Seconds, but for *attempts*."""

    deadline: float = 60.0
    """For a whole fetch, with every retry and every wait: readers that get no errno by then look
    hung."""

    connect: float = 10.0
    """For a connection with its TLS handshake. Three lost SYNs take 7 s to be repeated."""

    stall: float = 20.0
    """Without a byte from the server. Cold tiers of object stores take several seconds to the
    first."""

    attempts: int = 5
    """Requests for one fetch that fail in a way that may pass."""

    backoff: float = 0.2
    """Before the second attempt; doubled each time, less up to a half at random. Five attempts wait
    3 s at most."""

    hedge: float = 0.5
    """Before which nothing is raced by a second request, however soon the others came."""


@dataclasses.dataclass(frozen=True, slots=True)
class SourceStatistics:
    """What a source has done so far: requests (or file accesses) by kind, bytes and failures.

    A request that is tried again counts in its kind and in *retries*; one that was made beside a
    stalled one in its kind and in *hedges*. *errors* are the calls that raised. The connections that
    are *active* and *idle* are those of the moment.
    """

    gets: int = 0
    heads: int = 0
    lists: int = 0
    retries: int = 0
    hedges: int = 0
    bytes_read: int = 0
    errors: int = 0
    active: int = 0
    idle: int = 0


class Fetcher(Protocol):
    """Reads objects. Every method raises SourceError and nothing else."""

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Pressing = Urgency.DEMAND,
    ) -> Fetched:
        """Return the bytes of *wanted*: the exact range, or the whole object up to its `max_length`.

        The object must have the checksum that *wanted* names, and the version *pinned* if given;
        else SourceError (`SOURCE_CHANGED`). A missing object is `SOURCE_VANISHED`.

        The bytes of a range are read into the *sink*, if there is one; a whole object has none. Once
        the call is over, nothing writes to the sink's buffer any more.
        """

    async def version(self, wanted: AuthorizedRange) -> str:
        """Return the version that the object has now, checked as `fetch` does. Costs one HEAD or fstat.

        An object that is known to end before the range of *wanted* does is `SOURCE_MISMATCH`.
        """

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Return the length of the object, whatever range of it is *wanted*, and its version. Costs one HEAD or fstat.

        Its checksum is compared as `fetch` does. A missing object is `SOURCE_VANISHED`, one that may
        not be read `SOURCE_DENIED`.
        """

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        """Return the objects below a prefix, in no particular order: at every depth, or of one level.

        Of one level they are the objects right below the prefix, and the folders, once each. An
        object whose key ends in a slash stands for a folder and is none of them. A missing folder
        has none. Each page of a listing has the time of a fetch. Raises SourceError (`CANNOT_LIST`)
        where there is no way to list, or more than `MAX_LISTED`.
        """

    def pace(self, wanted: AuthorizedRange) -> Pace:
        """Return how fast the host of *wanted* is, as far as it is known. Costs nothing."""

    def statistics(self) -> SourceStatistics:
        """Return what was done so far."""
