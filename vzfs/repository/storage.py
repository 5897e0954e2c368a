"""The repository's own storage: whole metadata objects and listings, within its prefix.

What was read of it is remembered in the disk cache, so that a repository can be opened while its
storage is out of reach (`Remembered`). The storage is asked first wherever it may be asked; what is
remembered counts only while it does not answer, and then only if it is what its digest says.
Manifests are kept as they were decoded, which is for `compiled`.
"""

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import trio

from vzfs.access import Access, AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.cache import DiskCache, EntryKey
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified, Location, Prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.repository.lengths import Lengths
from vzfs.source import (
    DEFAULT_PACE,
    Fetched,
    Fetcher,
    Listed,
    Pace,
    Pressing,
    Sink,
    SourceStatistics,
    Stat,
    Urgency,
)

AWAY: Final = frozenset({ErrorKind.OFFLINE, ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_TIMEOUT})
"""Kinds of errors that say nothing of an object, only that nobody could be asked."""
USE_AGAIN_AFTER: Final = 3600.0
"""Seconds after which what a mount has read of its repository counts as used again: the cache gives
up first what was used longest ago, and chunks without their manifest are of no use."""
MAX_USED: Final = 10_000
"""Objects, read last, that count so: who follows a branch reads ever more."""

_IMMUTABLE: Final = re.compile(r"(?:snapshots|manifests|transactions)/[0-9A-Z]+\Z")
"""What a repository never changes, since each such file has an id of its own."""
_COMPILED: Final = re.compile(r"manifests/[0-9A-Z]+\Z")
"""What is kept as it was decoded (`compiled`), and not as it was fetched."""
_REFUSALS: Final = frozenset(
    {ErrorKind.SOURCE_VANISHED, ErrorKind.SOURCE_DENIED, ErrorKind.CANNOT_LIST}
)
"""Answers that are remembered too: a bucket that may not be listed denies what it does not have."""
_STAT: Final = re.compile(
    r"(\d+) (\d{1,19}) (\d{0,12}) (?:(?=date \d+\Z)|(?=etag ))(etag|date) (.+)\Z"
)
_RECORD: Final = re.compile(r"(\d+) (?:(sha256 [0-9a-f]{64}) (\d+)|([a-z-]+))\Z")


class Storage:
    """Reads the objects of one repository, each whole and bounded."""

    def __init__(self, fetcher: Fetcher, access: Access) -> None:
        self._fetcher = fetcher
        self._access = access

    def lengths(self) -> Lengths:
        """Return what says how long the objects are that references lead to, which declare no containers."""
        return Lengths(self._fetcher, self._access.with_containers(None))

    async def get(
        self, key: str, max_length: int, checksum: Checksum | None = None
    ) -> bytes | None:
        """Return the object *key*, or None if the storage says that there is none.

        If there is a *checksum*, another version of it raises SourceError.
        """
        wanted = self._access.repository_object(key, max_length, checksum)
        try:
            fetched = await self._fetcher.fetch(wanted)
        except SourceError as error:
            if error.kind is ErrorKind.SOURCE_VANISHED:
                return None
            raise
        return bytes(fetched.data)

    async def part(self, key: str, offset: int, length: int, checksum: Checksum | None) -> bytes:
        """Return *length* bytes of the object *key* from *offset* on, in this version. Raises SourceError."""
        ref = ChunkRef(ChunkKind.NATIVE, length, key, offset, checksum)
        return bytes((await self._fetcher.fetch(self._access.authorize(ref))).data)

    async def lacks(self, key: str) -> bool:
        """Whether the storage says that there is no object *key*, without its bytes.

        False where it cannot be asked or does not say: who reads the object finds out.
        """
        try:
            await self._fetcher.version(self._access.repository_object(key, 1))
        except SourceError as error:
            return error.kind is ErrorKind.SOURCE_VANISHED
        return False

    def place(self, key: str) -> str:
        """Return where the object *key* lies, for people."""
        return str(self._access.repository.join(key))

    async def names(self, key: str) -> list[str]:
        """Return the keys below *key*, relative to it. Raises as `objects` does."""
        return [listed.key for listed in await self.objects(key)]

    async def objects(self, key: str, *, deep: bool = True) -> Sequence[Listed]:
        """Return the objects below *key*, at every depth, or the objects and folders of one level.

        Raises SourceError with the kind CANNOT_LIST where the storage cannot enumerate.
        """
        return await self._fetcher.objects(self._access.repository_prefix(key), deep=deep)

    async def stat(self, key: str) -> Stat | None:
        """Return length and version of the object *key*, or None if the storage says that there is none."""
        try:
            return await self._fetcher.stat(self._access.repository_object(key, 0))
        except SourceError as error:
            if error.kind is ErrorKind.SOURCE_VANISHED:
                return None
            raise


class NoSource:
    """The `Fetcher` of a mount that is to ask nobody."""

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Pressing = Urgency.DEMAND,
    ) -> Fetched:
        """Raise SourceError (`OFFLINE`)."""
        _refuse(wanted.location)

    async def version(self, wanted: AuthorizedRange) -> str:
        """Raise SourceError (`OFFLINE`)."""
        _refuse(wanted.location)

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Raise SourceError (`OFFLINE`)."""
        _refuse(wanted.location)

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        """Raise SourceError (`OFFLINE`)."""
        _refuse(below.prefix)

    def pace(self, wanted: AuthorizedRange) -> Pace:
        """Return what counts for a host of which nothing is known."""
        return DEFAULT_PACE

    def statistics(self) -> SourceStatistics:
        """Return that nothing was done."""
        return SourceStatistics()


def _refuse(place: Location | Prefix) -> NoReturn:
    raise SourceError(
        ErrorKind.OFFLINE,
        "this is not in the cache, and --offline asks nobody",
        where=str(place),
        advice="mount without --offline",
    )


class Remembered:
    """The `Fetcher` of a repository's metadata, which remembers in *disk* what *fetcher* gave.

    While the storage is away, what never changes is given from there; with *is_offline* the refs
    too, as they were seen last. *now* is the time of day.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        disk: DiskCache,
        root: Prefix,
        *,
        is_offline: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._fetcher = fetcher
        self._disk = disk
        self._root = root
        self._is_offline = is_offline
        self._now = now
        self._used: OrderedDict[str, EntryKey] = OrderedDict()
        self.as_of: int | None = None
        """When that which may have changed since was seen, in seconds since the epoch; None if
        nothing was given from the cache that may have."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what was read from being the first that the cache gives up, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(USE_AGAIN_AFTER)
            for entry in list(self._used.values()):
                await self._disk.get(entry)

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Pressing = Urgency.DEMAND,
    ) -> Fetched:
        """Return an object, from the cache if its storage is away. Raises SourceError."""
        if sink is not None:
            return await self._fetcher.fetch(wanted, pinned, sink=sink, urgency=urgency)
        kind = (
            "object"
            if wanted.range is None
            else f"part {wanted.range.offset} {wanted.range.length}"
        )
        if wanted.checksum is not None:
            # What was seen last may be another version.
            kind += f" {_word(wanted.checksum)}"
        name = name_of(kind, wanted.location, wanted.store)
        key = self._root.relative(wanted.location)
        may_change = _IMMUTABLE.match(key) is None
        try:
            fetched = await self._fetcher.fetch(wanted, pinned, urgency=urgency)
        except SourceError as error:
            if error.kind in _REFUSALS and not await self._would_lose(name, error.kind):
                await self._remember(name, error.kind)
            if error.kind not in AWAY or (may_change and not self._is_offline):
                raise
            data = await self._recall(name, wanted.location, may_change=may_change)
            if data is None or len(data) > wanted.max_length:
                raise
            return Fetched(data, "remembered")
        if _COMPILED.match(key) is None:
            await self._keep(name, bytes(fetched.data))
        return fetched

    async def version(self, wanted: AuthorizedRange) -> str:
        """Return the version that an object has now. Raises SourceError."""
        return await self._fetcher.version(wanted)

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        """Return length and version of an object, as they were seen last if offline. Raises SourceError."""
        name = name_of("stat", wanted.location, wanted.store)
        try:
            found = await self._fetcher.stat(wanted)
        except SourceError as error:
            if error.kind in _REFUSALS and not await self._would_lose(name, error.kind):
                await self._remember(name, error.kind)
            if error.kind not in AWAY or not self._is_offline:
                raise
            record = _STAT.match(await self._disk.last_version(name) or "")
            if record is None:
                # What is recalled is a refusal then, or nothing.
                await self._recall(name, wanted.location, may_change=True)
                raise
            self._seen(int(record[1]))
            modified = int(record[3]) if record[3] else None
            return Stat(int(record[2]), _checksum(record[4], record[5]), modified)
        date = "" if found.modified is None else found.modified
        await self._remember(name, f"{found.length} {date} {_word(found.checksum)}")
        return found

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        """Return what lies below a prefix, as it was seen last if offline. Raises SourceError."""
        prefix = below.prefix
        place = Location(prefix.scheme, prefix.authority, prefix.key)
        name = name_of("objects" if deep else "level", place, below.store)
        try:
            found = await self._fetcher.objects(below, deep=deep)
        except SourceError as error:
            if error.kind in _REFUSALS and not await self._would_lose(name, error.kind):
                await self._remember(name, error.kind)
            if error.kind not in AWAY or not self._is_offline:
                raise
            data = await self._recall(name, place, may_change=True)
            if data is None:
                raise
            return await trio.to_thread.run_sync(_decoded, data)
        await self._keep(name, await trio.to_thread.run_sync(_encoded, found))
        return found

    def pace(self, wanted: AuthorizedRange) -> Pace:
        """Return how fast the host of *wanted* is."""
        return self._fetcher.pace(wanted)

    def statistics(self) -> SourceStatistics:
        """Return what was done so far."""
        return self._fetcher.statistics()

    # -- the cache -----------------------------------------------------------------------------

    async def _keep(self, name: str, data: bytes) -> None:
        digest = await trio.to_thread.run_sync(_digest, data)
        entry = EntryKey(name, digest, 0, len(data))
        self._use(name, entry)
        if await self._disk.get(entry) is None:
            await self._disk.put(entry, data)
        await self._remember(name, f"{digest} {len(data)}")

    def _use(self, name: str, entry: EntryKey) -> None:
        """Take note of what *name* is now: of what it was before, and of what is long ago, no use is made."""
        self._used[name] = entry
        self._used.move_to_end(name)
        if len(self._used) > MAX_USED:
            self._used.popitem(last=False)

    def _seen(self, moment: int) -> None:
        """Take note that something is given as it was at a *moment*."""
        self.as_of = moment if self.as_of is None else min(moment, self.as_of)

    async def _remember(self, name: str, what: str) -> None:
        await self._disk.remember_version(name, f"{int(self._now())} {what}")

    async def _would_lose(self, name: str, kind: ErrorKind) -> bool:
        """Whether a denial, which may be for want of credentials, would replace what was given once."""
        if kind is not ErrorKind.SOURCE_DENIED:
            return False
        return await self._disk.last_version(name) is not None

    async def _recall(self, name: str, place: Location, *, may_change: bool) -> bytes | None:
        """Return what was remembered, or None. Raises SourceError if that was a refusal."""
        record = _RECORD.match(await self._disk.last_version(name) or "")
        if record is None:
            return None
        data = None
        if record[4] is None:
            entry = EntryKey(name, record[2], 0, int(record[3]))
            found = await self._disk.get(entry)
            if found is None or await trio.to_thread.run_sync(_digest, found) != record[2]:
                return None
            data = bytes(found)
            self._use(name, entry)
        elif record[4] not in _REFUSALS:
            return None
        if may_change:
            self._seen(int(record[1]))
        if data is None:
            raise SourceError(
                ErrorKind(record[4]),
                "the storage did not give this when it was asked last",
                where=str(place),
            )
        return data


def _word(checksum: Checksum | None) -> str:
    match checksum:
        case ETag(value):
            return f"etag {value}"
        case LastModified(seconds):
            return f"date {seconds}"
    return ""


def _checksum(kind: str, value: str) -> Checksum:
    return ETag(value) if kind == "etag" else LastModified(int(value))


def _encoded(objects: Sequence[Listed]) -> bytes:
    """Return a listing as it is remembered: a line for each object."""
    rows = sorted([o.key, o.length, *_word(o.checksum).split(" ", 1)] for o in objects)
    return json.dumps(rows, separators=(",", ":")).encode()


def _decoded(data: bytes) -> list[Listed]:
    rows = json.loads(data)
    return [
        Listed(key, length, _checksum(kind, *value) if value else None)
        for key, length, kind, *value in rows
    ]


def _digest(data: bytes | memoryview) -> str:
    return "sha256 " + hashlib.sha256(data).hexdigest()


def name_of(kind: str, place: Location, store: StoreOptions) -> str:
    """Return the name of something remembered, which is the name of no chunk: it begins with no scheme.

    One container name means different ones at different endpoints and accounts.
    """
    at = f" at {store.endpoint}" if store.endpoint else ""
    return f"{kind} {place}{at}" + (f" of {store.account}" if store.account else "")
