"""Which version of each source object this mount shows.

The version that is seen first is pinned for the mount's life, and is part of the name under which
bytes are cached, so that bytes of two versions never mix. The disk cache remembers what an earlier
mount saw; that binds nobody before bytes of it are served in this one. While a source is away, the
version that it was last verified to have counts until the source says otherwise.

Everything between two `await`s is atomic.
"""

import logging
from typing import Final

import trio

from vzfs.access import Access, AuthorizedRange
from vzfs.cache import DiskCache
from vzfs.chunks.arrivals import bare
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.flights import Flights
from vzfs.model.location import Checksum, ETag, LastModified, Location
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.repository.storage import AWAY
from vzfs.source import Fetcher

logger = logging.getLogger("vzfs.chunks")

REPEAT_AFTER: Final = 60.0
"""Seconds in which it is said once of one host that it is away."""
MAX_NAMES: Final = 100_000
"""Names of objects that are remembered: about 40 MB at worst."""
_NAME_THEIR_HOST: Final = frozenset({"file", "http", "https"})

type Place = tuple[Location, str, str]
"""Where an object is: one location means different objects at different endpoints and accounts."""
type Object = tuple[Place, Checksum | None]
"""A source object as one kind of ref sees it."""


class Pin:
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


class Pins:
    """The pinned version of every object of which bytes were asked for."""

    def __init__(self, fetcher: Fetcher, disk: DiskCache | None) -> None:
        self._fetcher = fetcher
        self._disk = disk
        self._pins: dict[Object, Pin] = {}
        self._pinning: Flights[Object, Pin | None] = Flights()
        self._outdated: set[Object] = set()
        self._names: dict[Object, str] = {}
        self._said_away: dict[tuple[str, str], float] = {}

    def known(self, key: Object) -> Pin | None:
        """Return the pin of an object, if this mount has one."""
        return self._pins.get(key)

    async def find(self, wanted: AuthorizedRange) -> Pin | None:
        """Return the pin of an object, if this mount or the cache knows a version. Raises SourceError."""
        key = object_of(wanted)
        pin = self._pins.get(key)
        if pin is not None or self._disk is None or key in self._outdated:
            return pin
        return await self._pinning.join(key, lambda: self._from_cache(wanted))

    def see(self, wanted: AuthorizedRange, version: str) -> Pin:
        """Take note that a server gives bytes of *version*, which are served from here on.

        Raises SourceError (`SOURCE_CHANGED`) if another version is pinned.
        """
        key = object_of(wanted)
        pin = self._pins.get(key)
        if pin is None:
            pin = self._pins[key] = Pin(version, is_seen=True)
        elif pin.version != version:
            raise _changed(wanted, pin.version, version)
        pin.is_seen = pin.is_served = True
        return pin

    def gives_way(self, key: Object, pin: Pin) -> bool:
        """Whether *pin*, of which the source says that it is no longer current, binds nobody any more."""
        if self._pins.get(key) is not pin:
            return True
        if pin.is_seen or pin.is_served:
            return False
        del self._pins[key]
        self._outdated.add(key)
        return True

    def name(self, wanted: AuthorizedRange) -> str:
        """Return the name of an object in the cache."""
        return self.name_of(object_of(wanted), wanted)

    def name_of(self, key: Object, wanted: AuthorizedRange) -> str:
        """Return the name in the cache of an object, which *wanted* is of and *key* tells from others."""
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            name = self._names[key] = _record(wanted)
        return name

    async def _from_cache(self, wanted: AuthorizedRange) -> Pin | None:
        assert self._disk is not None  # noqa: S101 -- checked by the caller
        version = await self._disk.last_version(self.name(wanted))
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
                is_seen, trouble = False, bare(error)
                self._say_away(wanted.location, error)
        pin = Pin(version, is_seen=is_seen, trouble=trouble)
        return self._pins.setdefault(object_of(wanted), pin)

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


class Standing:
    """The object of a chunk as this mount sees it, for who keeps what is made of chunks.

    What was made of one version may be handed out where the chunk itself may be: as long as that
    version is pinned, which it then stays.
    """

    __slots__ = ("_fixed", "_pins", "_proof", "name")

    def __init__(self, pins: Pins, proof: AuthorizedRange, kind: ChunkKind) -> None:
        self._pins = pins
        self._proof = proof
        self._fixed = fixed_version(proof, kind)
        self.name: Final = pins.name(proof)

    def version(self) -> str | None:
        """Return the version of which the mount has bytes, or None if it knows none."""
        if self._fixed is not None:
            return self._fixed
        pin = self._pins.known(object_of(self._proof))
        return None if pin is None else pin.version

    async def find(self) -> None:
        """Have the version known that the cache remembers, if the mount knows none. Raises SourceError."""
        if self._fixed is None:
            await self._pins.find(self._proof)

    def serve(self, version: str) -> bool:
        """Have what was made of *version* handed out, unless another is pinned: then return False."""
        if self._fixed is not None:
            return version == self._fixed
        pin = self._pins.known(object_of(self._proof))
        if pin is None or pin.version != version:
            return False
        pin.is_served, pin.trouble = True, None
        return True


def place_of(wanted: AuthorizedRange) -> Place:
    """Return what tells an object from all others."""
    if wanted.location.scheme in _NAME_THEIR_HOST:
        return wanted.location, "", ""
    return wanted.location, wanted.store.endpoint or "", wanted.store.account or ""


def object_of(wanted: AuthorizedRange) -> Object:
    """Return the object, as the ref sees it."""
    return place_of(wanted), wanted.checksum


def fixed_version(wanted: AuthorizedRange, kind: ChunkKind) -> str | None:
    """Return the version that the ref itself fixes: a strong etag, or that a repository's chunk files never change.

    The chunk files of a plain Zarr hierarchy may; their refs have a checksum.
    """
    if kind is ChunkKind.NATIVE and wanted.checksum is None:
        return "native"
    if isinstance(wanted.checksum, ETag) and not wanted.checksum.is_weak:
        return f"etag {wanted.checksum.opaque}"
    return None


def _record(wanted: AuthorizedRange) -> str:
    """Return the name under which the cache knows an object.

    A version was verified against one checksum, so it counts for refs with that checksum only; and
    one bucket name means different buckets at different endpoints.
    """
    checksum = wanted.checksum
    location, endpoint, account = place_of(wanted)
    place = (f" at {endpoint}" if endpoint else "") + (f" of {account}" if account else "")
    bound = ""
    if isinstance(checksum, LastModified):
        bound = f" unmodified since {checksum.seconds}"
    elif checksum is not None and checksum.is_weak:
        bound = f" tagged {checksum.value}"
    return str(location) + place + bound


def _changed(wanted: AuthorizedRange, expected: str, found: str) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_CHANGED,
        f"the source object changed under this mount: expected version {expected}, found {found}",
        where=str(wanted.location),
        advice="restore it, or commit new references to it and mount again",
    )


def read_alike(ref: ChunkRef, before: Access, after: Access) -> bool:
    """Whether a chunk may be read under *after*, at the same place as under *before*."""
    if ref.kind is ChunkKind.INLINE:
        return True
    try:
        return place_of(before.authorize(ref)) == place_of(after.authorize(ref))
    except AccessDenied:
        return False
