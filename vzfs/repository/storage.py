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
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from vzfs.access import Access, AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.cache import DiskCache, EntryKey
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source import (
    DEFAULT_PACE,
    Fetched,
    Fetcher,
    Pace,
    Pressing,
    Sink,
    SourceStatistics,
    Urgency,
)

AWAY: Final = frozenset({ErrorKind.OFFLINE, ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_TIMEOUT})
"""Kinds of errors that say nothing of an object, only that nobody could be asked."""
USE_AGAIN_AFTER: Final = 3600.0
"""Seconds after which what a mount has read of its repository counts as used again: the cache gives
up first what was used longest ago, and chunks without their manifest are of no use."""
MAX_USED: Final = 10_000
"""Objects, read last, that count so: who follows a branch reads ever more."""

_IMMUTABLE: Final = ("snapshots/", "manifests/", "transactions/")
"""Where a repository keeps what it never changes, since each file has an id of its own."""
_COMPILED: Final = "manifests/"
"""What is kept as it was decoded (`compiled`), and not as it was fetched."""
_REFUSALS: Final = frozenset({ErrorKind.SOURCE_VANISHED, ErrorKind.SOURCE_DENIED})
"""Answers that are remembered too: a bucket that may not be listed denies what it does not have."""
_RECORD: Final = re.compile(r"(\d+) (?:(sha256 [0-9a-f]{64}) (\d+)|([a-z-]+))\Z")


class Storage:
    """Reads the objects of one repository, each whole and bounded."""

    def __init__(self, fetcher: Fetcher, access: Access) -> None:
        self._fetcher = fetcher
        self._access = access

    async def get(self, key: str, max_length: int) -> bytes | None:
        """Return the object *key*, or None if the storage says that there is none."""
        try:
            fetched = await self._fetcher.fetch(self._access.repository_object(key, max_length))
        except SourceError as error:
            if error.kind is ErrorKind.SOURCE_VANISHED:
                return None
            raise
        return bytes(fetched.data)

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
        """Return the keys below *key*, relative to it.

        Raises SourceError with the kind CANNOT_LIST where the storage cannot enumerate.
        """
        return await self._fetcher.list(self._access.repository_prefix(key))


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

    async def list(self, below: AuthorizedPrefix) -> list[str]:
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
        if wanted.range is not None:
            return await self._fetcher.fetch(wanted, pinned, sink=sink, urgency=urgency)
        name = name_of("object", wanted.location, wanted.store)
        may_change = not self._root.relative(wanted.location).startswith(_IMMUTABLE)
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
        if not self._root.relative(wanted.location).startswith(_COMPILED):
            await self._keep(name, bytes(fetched.data))
        return fetched

    async def version(self, wanted: AuthorizedRange) -> str:
        """Return the version that an object has now. Raises SourceError."""
        return await self._fetcher.version(wanted)

    async def list(self, below: AuthorizedPrefix) -> list[str]:
        """Return the keys below a prefix, as they were seen last if offline. Raises SourceError."""
        prefix = below.prefix
        place = Location(prefix.scheme, prefix.authority, prefix.key)
        name = name_of("listing", place, below.store)
        try:
            keys = await self._fetcher.list(below)
        except SourceError as error:
            if error.kind not in AWAY or not self._is_offline:
                raise
            data = await self._recall(name, place, may_change=True)
            if data is None:
                raise
            return list(map(str, json.loads(data)))
        await self._keep(name, json.dumps(sorted(keys)).encode())
        return keys

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
            seen = int(record[1])
            self.as_of = seen if self.as_of is None else min(seen, self.as_of)
        if data is None:
            raise SourceError(
                ErrorKind(record[4]),
                "the storage did not give this when it was asked last",
                where=str(place),
            )
        return data


def _digest(data: bytes | memoryview) -> str:
    return "sha256 " + hashlib.sha256(data).hexdigest()


def name_of(kind: str, place: Location, store: StoreOptions) -> str:
    """Return the name of something remembered, which is the name of no chunk: it begins with no scheme.

    One container name means different ones at different endpoints and accounts.
    """
    at = f" at {store.endpoint}" if store.endpoint else ""
    return f"{kind} {place}{at}" + (f" of {store.account}" if store.account else "")
