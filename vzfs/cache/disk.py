"""The disk cache: chunks that outlive the process, in a folder that mounts and machines share.

It promises never to fail a read and never to answer with other bytes than were put: entries prove
themselves (`entry`), files appear whole (`folder`), and nothing is locked or scanned before the
first read. Several processes share a folder without knowing of each other; the worst that a race
costs is a fetch. What becomes of failures, `guard` says.

Small entries that are used together lie on *shelves*, many in a file (`library`); the others, and
those that nobody named a shelf for, have a file each. What is to be written waits a moment for its
like (`unwritten`), and is served from memory until it is on disk.

Everything between two `await`s is atomic.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from vzfs.cache.buffers import Buffers
from vzfs.cache.entry import EntryKey, check_entry, entry_digest, has_room_for
from vzfs.cache.folder import CacheFolder
from vzfs.cache.guard import Guard
from vzfs.cache.health import Health
from vzfs.cache.library import Library
from vzfs.cache.passes import Passes
from vzfs.cache.segment import SEGMENTS, SMALL, shelf_path
from vzfs.cache.singles import Singles
from vzfs.cache.tally import Tally
from vzfs.cache.tally import add as add_tally
from vzfs.cache.unwritten import Data
from vzfs.cache.writer import Writer
from vzfs.errors import FormatError

logger = logging.getLogger("vzfs.cache")

PATIENCE: Final = 10.0
"""Seconds that one operation may take: a chunk of 16 MiB at under 2 MB/s. A source is faster than
that."""
MAX_DELAY: Final = 1.0
"""Seconds that somebody waits for the disk to catch up; then what is got is served but not cached."""
TELL_EVERY: Final = 300.0
"""Seconds between two times that the counts of a running cache are added to its owner's."""
SEGMENT_SHARE: Final = 32
"""A segment has at most one part in 32 of the limit, since it is evicted whole."""


@dataclasses.dataclass(frozen=True, slots=True)
class DiskCacheStatistics:
    """What the disk cache did so far; *unwritten* (bytes), *is_off* (failed) and *is_full* (not written to) are of the moment.

    A miss is every read not answered, also for being off. *at_once* are the hits that waited for
    nothing; *passed_over* is what was not stored because too much was waiting to be written;
    *errors* are operations that the disk failed.
    """

    hits: int
    at_once: int
    misses: int
    bytes_read: int
    writes: int
    bytes_written: int
    unwritten: int
    passed_over: int
    corrupt: int
    evicted_files: int
    evicted_bytes: int
    errors: int
    is_off: bool
    is_full: bool


class DiskCache:
    """Cached chunks in *folder*, *max_bytes* in all.

    *limiter* bounds the threads that wait for the disk to read. *owner* is written into what is
    stored, for people: the repository. *now* is the time of day, which the folder's users compare;
    *monotonic* measures how long the cache stays off. *patience* is in seconds. *buffers* are what
    large entries are read into.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        limiter: trio.CapacityLimiter,
        owner: str = "",
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
        buffers: Buffers | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._owner = owner
        self._folder = CacheFolder(folder, now)
        self._health = Health(self._folder.path, monotonic)
        self._guard = Guard(
            self._folder,
            limiter,
            self._health,
            patience,
            lambda size, share: self._passes.make(size, share),
        )
        self._library = Library(
            self._folder, self._guard, owner, max_bytes // SEGMENT_SHARE, now, monotonic
        )
        self._singles = Singles(self._folder, self._guard, owner, max_bytes, buffers or Buffers())
        self._writer = Writer(self._guard, self._library, self._singles, self._count_written)
        self._unwritten = self._writer.unwritten
        self._passes = Passes(self._folder, self._guard, max_bytes, now, self._library.clear)
        self._hits = self._at_once = self._misses = self._bytes_read = 0
        self._bytes_written = self._passed_over = 0
        self._began = now()
        self._told = (0, 0, 0, 0)

    def statistics(self) -> DiskCacheStatistics:
        """Return the counts so far."""
        return DiskCacheStatistics(
            hits=self._hits,
            at_once=self._at_once,
            misses=self._misses,
            bytes_read=self._bytes_read,
            writes=self._writer.entries,
            bytes_written=self._bytes_written,
            unwritten=self._unwritten.size,
            passed_over=self._passed_over,
            corrupt=self._guard.corrupt,
            evicted_files=self._passes.files,
            evicted_bytes=self._passes.size,
            errors=self._health.errors,
            is_off=self._health.is_off,
            is_full=self._health.is_full,
        )

    # -- reading -------------------------------------------------------------------------------

    def peek(self, key: EntryKey, shelf: str = "") -> Data | None:
        """Return the bytes of *key* if they can be had at once: from memory, or from pages that the system has.

        None also says that one would have to wait. Never raises.
        """
        data = self._unwritten.get(key)
        if data is None and _is_shelved(key, shelf) and not self._health.is_off:
            # Whatever is wrong, `get` meets it again, and can do something about it.
            with contextlib.suppress(FormatError, OSError):
                entry = self._library.at_once(
                    shelf_path(SEGMENTS, shelf), entry_digest(key), key.length
                )
                data = None if entry is None else _data_of(key, entry)
        if data is not None:
            self._hits += 1
            self._at_once += 1
            self._bytes_read += key.length
        return data

    def holds(self, key: EntryKey, shelf: str = "") -> bool:
        """Whether `peek` is likely to find *key*. Counts as no use. Never raises."""
        if key in self._unwritten:
            return True
        if not _is_shelved(key, shelf) or self._health.is_off:
            return False
        return self._library.knows(shelf_path(SEGMENTS, shelf), entry_digest(key))

    async def get(self, key: EntryKey, shelf: str = "") -> Data | None:
        """Return the bytes of *key*, or None for every reason not to have them. Never raises.

        What is in memory, and what was not there a moment ago, is answered without a checkpoint.
        """
        data = self.peek(key, shelf)
        if data is not None or not key.is_storable:
            self._misses += data is None
            return data
        where = f"{key.location} {key.offset}+{key.length}"
        if _is_shelved(key, shelf):
            path, digest = shelf_path(SEGMENTS, shelf), entry_digest(key)
            if not self._health.is_off and self._library.lacks(path, digest):
                self._count_read(key, None)
                return None
            data = await self._guard.reading(
                where,
                lambda: self._library.read(
                    path, digest, key.length, lambda entry: _data_of(key, entry)
                ),
            )
        else:
            data = await self._guard.reading(where, lambda: self._singles.read(key))
        self._count_read(key, data)
        return data

    async def mapped(self, key: EntryKey) -> Data | None:
        """Do as `get` does for a *key* with a file of its own, in memory shared with all who have it mapped.

        The file keeps its room on the disk until nothing refers to the bytes any more.
        """
        data: Data | None = None
        if key.is_storable:
            where = f"{key.location} {key.offset}+{key.length}"
            data = await self._guard.reading(where, lambda: self._singles.map(key))
        self._count_read(key, data)
        return data

    async def has(self, key: EntryKey, shelf: str = "") -> bool:
        """Whether there is an entry for *key*, unread and unverified. Counts as no use. Never raises."""
        if key in self._unwritten:
            return True
        if not key.is_storable:
            return False
        if _is_shelved(key, shelf):
            path = shelf_path(SEGMENTS, shelf)
            found = self._guard.reading(
                key.location, lambda: self._library.has(path, entry_digest(key))
            )
        else:
            found = self._guard.reading(key.location, lambda: self._singles.has(key))
        return bool(await found)

    # -- writing -------------------------------------------------------------------------------

    def store(
        self, key: EntryKey, data: Data, *, shelf: str = "", record: str | None = None
    ) -> bool:
        """Have *data* written soon as the bytes of *key*; until it is, it is served from memory.

        Also have *key.version* remembered as that of *record*. A read-only view of more than `SMALL`
        bytes must be of bytes that do not change any more; any other is copied. Returns False where
        too much is waiting to be written. Never raises.
        """
        if not self._may_store(key, data) or key in self._unwritten:
            return key in self._unwritten
        if not self._unwritten.has_room(key.length):
            self._passed_over += 1
            return False
        if record is not None and has_room_for(record, key.version):
            self._unwritten.remember(record, key.version)
        is_on_shelf = _is_shelved(key, shelf)
        stable = bytes(data) if is_on_shelf else _stable(data)
        self._unwritten.add(key, stable, shelf if is_on_shelf else "")
        return True

    async def put(self, key: EntryKey, data: Data, shelf: str = "") -> None:
        """Store *data* as the bytes of *key*, if the disk is willing. Never raises.

        A read-only view must be of bytes that do not change any more; any other is copied.
        """
        if not self._may_store(key, data):
            return
        is_on_shelf = _is_shelved(key, shelf)
        await self._writer.write(shelf if is_on_shelf else "", {key: _stable(data)})
        if is_on_shelf:
            await self._library.tidy(shelf_path(SEGMENTS, shelf))

    async def written(self) -> None:
        """Wait until nothing waits to be written, the counts for `vzfs cache status` included."""
        await self._writer.written()
        await self._tell()

    def has_room(self, size: int) -> bool:
        """Whether *size* bytes may wait to be written beside all that is expected."""
        return self._unwritten.has_room_beside(size)

    def expecting(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Expect *size* bytes to be stored in the block: who can wait leaves them their room."""
        return self._unwritten.expecting(size)

    async def wait_for_room(self, size: int) -> None:
        """Let a disk that is slower than a source catch up, so that *size* bytes more are cached too."""
        with trio.move_on_after(MAX_DELAY):
            while not self.has_room(size):
                await self._unwritten.has_changed.wait()

    def _may_store(self, key: EntryKey, data: Data) -> bool:
        size = memoryview(data).nbytes
        if size != key.length:
            logger.error("not cached: %d bytes are not what %s says", size, key)
            return False
        return key.is_storable and size <= self._max_bytes

    # -- version records -----------------------------------------------------------------------

    async def last_version(self, location: str) -> str | None:
        """Return the version remembered last for the object at *location*. Never raises."""
        version = self._unwritten.version(location)
        if version is None and has_room_for(location, ""):
            version = await self._library.version(location)
        return version

    async def remember_version(self, location: str, version: str) -> None:
        """Remember that *version* is the last one verified of the object at *location*. Never raises.

        It is written soon where the cache runs, else at once.
        """
        if has_room_for(location, version):
            self._unwritten.remember(location, version)
            if not self._writer.is_running:
                await self.written()

    # -- running -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is stored and keep the folder within its limit, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writer.run)
            nursery.start_soon(self._library.run)
            nursery.start_soon(self._tell_now_and_then)
            task_status.started()
            while True:
                await self._passes.is_due()
                await self.evict()

    async def evict(self) -> None:
        """Make one pass over the folder: delete what was used longest ago if it holds too much. Never raises."""
        if await self._guard.is_usable():
            try:
                await self._passes.make()
            except OSError as problem:
                self._health.turn_off(problem)
            except Exception:
                # Nobody waits for a pass, and a cache must not end a mount.
                logger.exception("nothing was evicted: this is a bug in vzfs, please report it")

    def _count_read(self, key: EntryKey, data: Data | None) -> None:
        if data is None:
            self._misses += 1
        else:
            self._hits += 1
            self._bytes_read += key.length

    async def _tell_now_and_then(self) -> None:
        while True:
            await trio.sleep(TELL_EVERY)
            await self._tell()

    async def _tell(self) -> None:
        """Add what was not told before to the tally of the owner, if there is one."""
        counts = (self._hits, self._misses, self._bytes_read, self._bytes_written)
        news = [count - told for count, told in zip(counts, self._told, strict=True)]
        if self._owner and any(news[:2]) and not self._health.is_full:
            self._told = counts
            tally = Tally(self._owner, int(self._began), *news)
            await self._guard.writing(0, add_tally, self._folder, tally)

    def _count_written(self, size: int) -> None:
        self._bytes_written += size
        self._passes.count(size)


def _is_shelved(key: EntryKey, shelf: str) -> bool:
    """Whether *key* lies on *shelf*, and not in a file of its own."""
    return bool(shelf) and 0 <= key.length <= SMALL


def _data_of(key: EntryKey, entry: Data) -> bytes:
    """Return the data of an *entry*, if it is that of *key*. Raises FormatError."""
    view = memoryview(entry)
    header, data = view[: -key.length or None], view[len(view) - key.length :]
    check_entry(key, header, data)
    return bytes(data)


def _stable(data: Data) -> Data:
    """Return *data*, copied if their owner may still change them."""
    view = memoryview(data)
    return data if view.readonly and view.ndim == 1 and view.c_contiguous else bytes(view)
