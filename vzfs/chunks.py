"""Chunk reads: authorize, join the same read in flight or lead it, look in the caches, get it.

Each source byte of a cold chunk is got once: readers of the same piece share one flight, and what
was got is kept in memory and on disk. The version of a source object that this mount saw first is
pinned for its life and is part of the name under which bytes are cached, so bytes of two versions
never mix. A failure is remembered for an instant, because the kernel asks twice (read-ahead, then
the read itself).

Policy is asked before any cache is, and bytes that were under way when it changed are handed out
only if it still allows them. While a source is away, the version that it was last verified to have
is served from the disk cache, and counts until the source says otherwise.

Everything between two `await`s is atomic; the tables here are touched only from the event loop.
"""

import dataclasses
import logging
from typing import Final

import trio

from vzfs.access import Access, AuthorizedRange
from vzfs.cache import DiskCache, EntryKey, MemoryCache
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.flights import Flights
from vzfs.model.location import Checksum, ETag, LastModified, Location
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.plan import pieces
from vzfs.repository.storage import AWAY
from vzfs.source import Fetched, Fetcher

logger = logging.getLogger("vzfs.chunks")

REMEMBER_FAILURE: Final = 0.5
"""Seconds. Longer than the kernel needs to ask again, shorter than a person needs to retry."""
MAX_FAILURES: Final = 10_000
SHELF: Final = 64 * 2**20
"""Bytes of one object whose pieces lie together in the disk cache."""

REPEAT_AFTER: Final = 60.0
"""Seconds in which it is said once of one host that it is away."""
_NAME_THEIR_HOST: Final = frozenset({"file", "http", "https"})

type Place = tuple[Location, str, str]
"""Where an object is: one location means different objects at different endpoints and accounts."""
type Piece = tuple[Place, int, int, Checksum | None]
"""What identifies bytes within one mount: object, offset, length, and the version asked for."""
type Object = tuple[Place, Checksum | None]
"""A source object as one kind of ref sees it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChunksStatistics:
    """What reading chunks has cost so far; *in_flight* is of the moment."""

    reads: int
    from_memory: int
    from_disk: int
    fetched: int
    failed: int
    in_flight: int


class _Pin:
    """The version of an object that this mount shows.

    *is_seen* if a server said it to this mount, not only the cache's record of an earlier one;
    *is_served* once bytes of it were handed out, *is_recorded* once the cache knows the version.
    *trouble* is why no server could be asked about the cache's record, until somebody was told.
    """

    __slots__ = ("is_recorded", "is_seen", "is_served", "trouble", "version")

    def __init__(self, version: str, *, is_seen: bool, trouble: SourceError | None = None) -> None:
        self.version = version
        self.is_seen = is_seen
        self.is_served = False
        self.is_recorded = not is_seen
        self.trouble = trouble


class _Reading:
    """A read under way, and what ends it should policy change."""

    __slots__ = ("ref", "scope")

    def __init__(self, ref: ChunkRef) -> None:
        self.ref = ref
        self.scope = trio.CancelScope()


class Chunks:
    """Reads chunks for everybody who shares this mount."""

    def __init__(
        self, fetcher: Fetcher, access: Access, memory: MemoryCache, disk: DiskCache | None
    ) -> None:
        self._fetcher = fetcher
        self._access = access
        self._memory = memory
        self._disk = disk
        self._reading: set[_Reading] = set()
        self._said_away: dict[tuple[str, str], float] = {}
        self._flights: Flights[Piece, bytes] = Flights()
        self._pins: dict[Object, _Pin] = {}
        self._pinning: Flights[Object, _Pin | None] = Flights()
        self._outdated: set[Object] = set()
        self._failures: dict[Piece, tuple[float, SourceError]] = {}
        self._counts = dict.fromkeys(("reads", "from_memory", "from_disk", "fetched", "failed"), 0)

    def statistics(self) -> ChunksStatistics:
        """Return the counts so far."""
        return ChunksStatistics(**self._counts, in_flight=len(self._flights))

    async def read(self, ref: ChunkRef, offset: int, size: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + size) of a chunk, fewer at its end.

        Raises AccessDenied where the location is not allowed, SourceError where the source fails.
        """
        self._counts["reads"] += 1
        if ref.kind is ChunkKind.INLINE:
            return ref.inline[offset : offset + size]
        while True:
            whole = self._access.authorize(ref)
            reading = _Reading(ref)
            self._reading.add(reading)
            try:
                with reading.scope:
                    data = await self._parts(whole, ref, offset, size)
                    if not reading.scope.cancel_called:
                        return data
            finally:
                self._reading.remove(reading)

    def adopt(self, access: Access) -> None:
        """Let *access* decide from now on; a read under way that it decides otherwise begins anew."""
        before, self._access = self._access, access
        for reading in self._reading:
            if not read_alike(reading.ref, before, access):
                reading.scope.cancel()

    async def _parts(
        self, whole: AuthorizedRange, ref: ChunkRef, offset: int, size: int
    ) -> bytes | memoryview:
        parts = []
        for piece in pieces(ref.length, offset, size):
            data = memoryview(await self._piece(whole.part(piece), ref.kind))
            low = max(offset - piece.offset, 0)
            parts.append(data[low : offset + size - piece.offset])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def is_cached(self, ref: ChunkRef) -> bool:
        """Whether the beginning of a chunk would be served without a request to its source."""
        if ref.kind is ChunkKind.INLINE or ref.length == 0:
            return True
        whole = self._access.authorize(ref)
        wanted = whole.part(pieces(ref.length, 0, 1)[0])
        if self._memory.get(_identity(wanted)) is not None:
            return True
        if self._disk is None:
            return False
        version = _fixed_version(wanted, ref.kind)
        if version is None:
            pin = self._pins.get(_object(wanted))
            version = pin.version if pin else await self._disk.last_version(_record(wanted))
        return version is not None and await self._disk.has(*_entry(wanted, version))

    # -- one piece -----------------------------------------------------------------------------

    async def _piece(self, wanted: AuthorizedRange, kind: ChunkKind) -> bytes:
        identity = _identity(wanted)
        data = self._memory.get(identity)
        if data is not None:
            self._counts["from_memory"] += 1
            return data
        failure = self._failures.get(identity)
        if failure is not None and failure[0] > trio.current_time():
            raise _bare(failure[1])
        return await self._flights.join(identity, lambda: self._lead(identity, wanted, kind))

    async def _lead(self, identity: Piece, wanted: AuthorizedRange, kind: ChunkKind) -> bytes:
        try:
            version = _fixed_version(wanted, kind)
            if version is not None:
                data = await self._get_fixed(wanted, version)
            else:
                data = await self._get_pinned(wanted)
        except SourceError as error:
            self._counts["failed"] += 1
            if len(self._failures) >= MAX_FAILURES:
                self._failures.clear()
            self._failures[identity] = (trio.current_time() + REMEMBER_FAILURE, _bare(error))
            raise
        self._memory.put(identity, data)
        return data

    async def _get_fixed(self, wanted: AuthorizedRange, version: str) -> bytes:
        """Get bytes whose version the ref itself names."""
        entry = _entry(wanted, version)
        data = await self._from_disk(entry)
        if data is None:
            data = (await self._fetch(wanted, None)).data
            self._store(entry, data)
        return data

    async def _get_pinned(self, wanted: AuthorizedRange) -> bytes:
        """Get bytes of the version that this mount has pinned, pinning it if it is the first.

        Another task may pin, or give up a pin, at each `await`; what was got under a pin that is no
        longer the object's is got again.
        """
        key = _object(wanted)
        while True:
            pin = await self._pinned(wanted)
            if pin is not None:
                data = await self._from_disk(_entry(wanted, pin.version))
                if self._pins.get(key) is not pin:
                    continue
                if data is not None:
                    pin.is_served, pin.trouble = True, None
                    return data
                if pin.trouble is not None:
                    # It has just been waited for; the next read asks again.
                    trouble, pin.trouble = pin.trouble, None
                    raise trouble
            try:
                fetched = await self._fetch(wanted, None if pin is None else pin.version)
            except SourceError as error:
                if error.kind is ErrorKind.SOURCE_CHANGED and pin and self._gives_way(key, pin):
                    continue
                raise
            pin = self._pins.setdefault(key, _Pin(fetched.version, is_seen=True))
            if pin.version != fetched.version:
                raise _changed(wanted, pin.version, fetched.version)
            pin.is_seen = pin.is_served = True
            record = None if pin.is_recorded else _record(wanted)
            pin.is_recorded = True
            self._store(_entry(wanted, pin.version), fetched.data, record)
            return fetched.data

    def _gives_way(self, key: Object, pin: _Pin) -> bool:
        """Whether *pin*, of which the source says that it is no longer current, binds nobody any more.

        A version known only from an earlier mount binds nobody before bytes of it are served in
        this one.
        """
        if self._pins.get(key) is not pin:
            return True
        if pin.is_seen or pin.is_served:
            return False
        del self._pins[key]
        self._outdated.add(key)
        return True

    async def _pinned(self, wanted: AuthorizedRange) -> _Pin | None:
        """Return the pinned version of an object, if this mount or the cache knows one."""
        key = _object(wanted)
        pin = self._pins.get(key)
        if pin is not None or self._disk is None or key in self._outdated:
            return pin
        return await self._pinning.join(key, lambda: self._pin_from_cache(wanted))

    async def _pin_from_cache(self, wanted: AuthorizedRange) -> _Pin | None:
        assert self._disk is not None  # noqa: S101 -- checked by the caller
        version = await self._disk.last_version(_record(wanted))
        if version is None:
            return None
        is_seen, trouble = wanted.checksum is None, None
        if is_seen:
            # Nothing but the source can say whether what is cached is still current.
            try:
                version = await self._fetcher.version(wanted)
            except SourceError as error:
                if error.kind not in AWAY:
                    raise
                is_seen, trouble = False, _bare(error)
                self._say_away(wanted.location, error)
        pin = _Pin(version, is_seen=is_seen, trouble=trouble)
        return self._pins.setdefault(_object(wanted), pin)

    def _say_away(self, place: Location, error: SourceError) -> None:
        """Warn that what is cached counts as current, once for a host; who mounts offline knows."""
        host, now = (place.scheme, place.authority), trio.current_time()
        if error.kind is ErrorKind.OFFLINE:
            return
        if self._said_away.get(host, -REPEAT_AFTER) + REPEAT_AFTER <= now:
            self._said_away[host] = now
            logger.warning(
                "a source is away, and the versions last verified are served from the cache: %s",
                error,
            )

    async def _fetch(self, wanted: AuthorizedRange, pinned: str | None) -> Fetched:
        if self._disk is not None:
            await self._disk.wait_for_room(wanted.max_length)
        fetched = await self._fetcher.fetch(wanted, pinned)
        self._counts["fetched"] += 1
        return fetched

    # -- the disk cache ------------------------------------------------------------------------

    async def _from_disk(self, entry: tuple[EntryKey, str]) -> bytes | None:
        data = None if self._disk is None else await self._disk.get(*entry)
        if data is not None:
            self._counts["from_disk"] += 1
        return None if data is None else bytes(data)

    def _store(self, entry: tuple[EntryKey, str], data: bytes, record: str | None = None) -> None:
        """Have *data* written; until it is, it is served from the disk cache's memory."""
        if self._disk is not None:
            self._disk.store(entry[0], data, shelf=entry[1], record=record)


def _bare(error: SourceError) -> SourceError:
    """Return *error* to keep: what was raised holds on to the frames it came through, and to their bytes."""
    return SourceError(error.kind, error.what, where=error.where, advice=error.advice)


def _identity(wanted: AuthorizedRange) -> Piece:
    span = wanted.range
    assert span is not None  # noqa: S101 -- chunks always have a range
    return _place(wanted), span.offset, span.length, wanted.checksum


def _object(wanted: AuthorizedRange) -> Object:
    return _place(wanted), wanted.checksum


def _place(wanted: AuthorizedRange) -> Place:
    if wanted.location.scheme in _NAME_THEIR_HOST:
        return wanted.location, "", ""
    return wanted.location, wanted.store.endpoint or "", wanted.store.account or ""


def read_alike(ref: ChunkRef, before: Access, after: Access) -> bool:
    """Whether a chunk may be read under *after*, at the same place as under *before*."""
    if ref.kind is ChunkKind.INLINE:
        return True
    try:
        return _place(before.authorize(ref)) == _place(after.authorize(ref))
    except AccessDenied:
        return False


def _fixed_version(wanted: AuthorizedRange, kind: ChunkKind) -> str | None:
    """Return the version that the ref itself fixes: a strong etag, or that chunk files never change."""
    if kind is ChunkKind.NATIVE:
        return "native"
    if isinstance(wanted.checksum, ETag) and not wanted.checksum.is_weak:
        return f"etag {wanted.checksum.opaque}"
    return None


def _record(wanted: AuthorizedRange) -> str:
    """Return the name under which the cache remembers an object's version.

    A version was verified against one checksum, so it counts for refs with that checksum only; and
    one bucket name means different buckets at different endpoints.
    """
    checksum = wanted.checksum
    location, endpoint, account = _place(wanted)
    place = (f" at {endpoint}" if endpoint else "") + (f" of {account}" if account else "")
    bound = ""
    if isinstance(checksum, LastModified):
        bound = f" unmodified since {checksum.seconds}"
    elif checksum is not None and checksum.is_weak:
        bound = f" tagged {checksum.value}"
    return str(location) + place + bound


def _entry(wanted: AuthorizedRange, version: str) -> tuple[EntryKey, str]:
    """Return the key of bytes in the disk cache, and the shelf where they lie."""
    _, offset, length, _ = _identity(wanted)
    record = _record(wanted)
    return EntryKey(record, version, offset, length), f"{record} {version} {offset // SHELF}"


def _changed(wanted: AuthorizedRange, expected: str, found: str) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_CHANGED,
        f"the source object changed under this mount: expected version {expected}, found {found}",
        where=str(wanted.location),
        advice="restore it, or commit new references to it and mount again",
    )
