"""The disk cache: chunks that outlive the process, in a folder that mounts and machines share.

It promises never to fail a read and never to answer with other bytes than were put: entries prove
themselves (`entry`), appear whole (`folder`), and nothing is locked or scanned before the first
read. Several processes share a folder without knowing of each other; the worst that a race costs is
a fetch.

A disk that fails turns the cache off: one warning, then silence, and after a while one operation
tries the folder before anything else uses it again. A disk that is full only stops the writing:
after a while one write is let through. A disk that does not answer counts as failed, so that a
reader waits for it once and not for ever.

State belongs to the event loop: the worker threads get values and return values, so that an
abandoned one changes nothing here. Everything between two `await`s is atomic.
"""

import contextlib
import dataclasses
import errno
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import trio

from vzfs.cache.entry import (
    ENTRIES,
    MAX_HEADER,
    RECORDS,
    EntryKey,
    check_entry,
    decode_record,
    encode_entry,
    encode_record,
    entry_name,
    has_room_for,
    record_name,
)
from vzfs.cache.eviction import RECORD_SHARE, TRIGGER_SHARE, Cut, Survey, choose, excess
from vzfs.cache.folder import CacheFolder
from vzfs.cache.health import Health, means_full
from vzfs.errors import FormatError

logger = logging.getLogger("vzfs.cache")

PATIENCE: Final = 10.0
"""Seconds that one operation may take: a chunk of 16 MiB at under 2 MB/s. A source is faster than
that."""
PASS_PATIENCE: Final = 30
"""Times the patience that one step of an eviction pass may take: nobody waits for it, and a shard
may be large."""
MAKE_ROOM_SHARE: Final = 10
"""One part in 10 is evicted when the disk says it is full: it may mean inodes or a quota, which are
not measured."""
MAX_READING: Final = 64
"""Reads at a time where the limiter allows any number."""


@dataclasses.dataclass(frozen=True, slots=True)
class DiskCacheStatistics:
    """What the disk cache did so far; *is_off* (failed) and *is_full* (not written to) are of the moment.

    A miss is every read not answered, also for being off; *errors* are operations that the disk
    failed.
    """

    hits: int
    misses: int
    bytes_read: int
    writes: int
    bytes_written: int
    corrupt: int
    evicted_entries: int
    evicted_bytes: int
    errors: int
    is_off: bool
    is_full: bool


class DiskCache:
    """Cached chunks in *folder*, *max_bytes* in all.

    *limiter* bounds the threads that wait for the disk. *now* is the time of day, which the
    folder's users compare; *monotonic* measures how long the cache stays off. *patience* is in
    seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        limiter: trio.CapacityLimiter,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self._folder = CacheFolder(folder, now)
        self._max_bytes = max_bytes
        self._limiter = limiter
        self._now = now
        self._health = Health(self._folder.path, monotonic)
        self._patience = patience
        # Who waits for a thread of the limiter runs out of patience there too: so no more wait than
        # there are threads, and writers, which nobody waits for, leave half of them to readers.
        readers = max(int(min(limiter.total_tokens, MAX_READING)), 1)
        self._reading = trio.Semaphore(readers)
        self._writing = trio.Semaphore(max(readers // 2, 1))
        self._evicting = trio.Lock()
        self._due = trio.Event()
        # The first write makes a pass due: what other processes left is not known before one.
        self._since_pass = max_bytes
        self._hits = self._misses = self._bytes_read = 0
        self._writes = self._bytes_written = 0
        self._corrupt = 0
        self._evicted_entries = self._evicted_bytes = 0

    def statistics(self) -> DiskCacheStatistics:
        """Return the counts so far."""
        return DiskCacheStatistics(
            hits=self._hits,
            misses=self._misses,
            bytes_read=self._bytes_read,
            writes=self._writes,
            bytes_written=self._bytes_written,
            corrupt=self._corrupt,
            evicted_entries=self._evicted_entries,
            evicted_bytes=self._evicted_bytes,
            errors=self._health.errors,
            is_off=self._health.is_off,
            is_full=self._health.is_full,
        )

    # -- entries -------------------------------------------------------------------------------

    async def get(self, key: EntryKey, shelf: str = "") -> bytes | memoryview | None:
        """Return the bytes of *key*, or None for every reason not to have them. Never raises."""
        data = self.peek(key)
        if data is None and key.is_storable:
            where = f"{key.location} {key.offset}+{key.length}"
            data = await self._read(where, self._load, key)
        if data is None:
            self._misses += 1
        else:
            self._hits += 1
            self._bytes_read += len(data)
        return data

    def peek(self, key: EntryKey, shelf: str = "") -> bytes | None:
        return getattr(self, "_unwritten", {}).get(key)

    def store(
        self, key: EntryKey, data: bytes | memoryview, *, shelf: str = "", record: str | None = None
    ) -> bool:
        self._unwritten = getattr(self, "_unwritten", {})
        self._records = getattr(self, "_records", {})
        self._unwritten[key] = data
        self._records[key] = record
        return True

    async def written(self) -> None:
        for key, data in list(getattr(self, "_unwritten", {}).items()):
            if self._records[key]:
                await self.remember_version(self._records[key], key.version)
            await self.put(key, data)
            del self._unwritten[key]

    async def wait_for_room(self, size: int) -> None:
        pass

    async def has(self, key: EntryKey, shelf: str = "") -> bool:
        """Whether there is an entry for *key*, unread and unverified. Counts as no use. Never raises."""
        if not key.is_storable:
            return False
        return bool(await self._read(key.location, self._find, key))

    async def put(self, key: EntryKey, data: bytes | memoryview) -> None:
        """Store *data* as the bytes of *key*, if the disk is willing. Never raises.

        A read-only view must be of bytes that do not change any more; any other is copied.
        """
        view = memoryview(data)
        if view.nbytes != key.length:
            logger.error("not cached: %d bytes are not what %s says", view.nbytes, key)
            return
        if not key.is_storable or view.nbytes > self._max_bytes:
            return
        is_plain = view.readonly and view.ndim == 1 and view.c_contiguous
        stable = data if is_plain else bytes(view)
        written = await self._write(view.nbytes, self._save, key, stable)
        if written:
            self._writes += 1
            self._bytes_written += written
            self._health.start_writing()

    # -- version records -----------------------------------------------------------------------

    async def last_version(self, location: str) -> str | None:
        """Return the version remembered last for the object at *location*. Never raises."""
        if not has_room_for(location, ""):
            return None
        return await self._read(location, self._load_version, location)

    async def remember_version(self, location: str, version: str) -> None:
        """Remember that *version* is the last one verified of the object at *location*. Never raises."""
        # That a disk has room for a record says little, so a full one is tried with an entry.
        if has_room_for(location, version) and not self._health.is_full:
            await self._write(MAX_HEADER, self._save_version, location, version)

    # -- eviction ------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the folder within its limit, until cancelled. Sleeps while nothing is written."""
        task_status.started()
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self.evict()

    async def evict(self) -> None:
        """Make one pass over the folder: delete what was used longest ago if it holds too much. Never raises."""
        if await self._is_usable():
            try:
                await self._evict()
            except OSError as problem:
                self._health.turn_off(problem)
            except Exception:
                # Nobody waits for a pass, and a cache must not end a mount.
                logger.exception("nothing was evicted: this is a bug in vzfs, please report it")

    async def _evict(self, room: int = 0, share: int = 0) -> None:
        """Make one pass, for a write of *room* bytes; where *share* is not 0, free one part in *share* at least."""
        async with self._evicting:
            self._since_pass = 0
            moment = int(self._now() * 10**9)
            records = await self._survey(RECORDS, moment)
            surplus = records.total - self._max_bytes // RECORD_SHARE
            kept = records.total - await self._delete(RECORDS, records, surplus, moment)
            entries = await self._survey(ENTRIES, moment)
            total = entries.total + kept
            need = excess(total, self._max_bytes)
            if total:
                need = max(need, room - await self._sweep(self._folder.room))
            if share:
                need = max(need, room + total // share)
            await self._delete(ENTRIES, entries, need, moment)

    async def _survey(self, subfolder: str, moment: int) -> Survey:
        places = await self._sweep(self._folder.places, subfolder)
        return Survey.joined(
            [await self._sweep(self._folder.survey, place, moment) for place in places]
        )

    async def _delete(self, subfolder: str, survey: Survey, need: int, moment: int) -> int:
        """Delete *need* bytes of *survey*, those used longest ago; return how many were deleted."""
        deleted = 0
        if need <= 0:
            return deleted
        cut = choose(survey, need)
        for place in await self._sweep(self._folder.places, subfolder):
            evicted = await self._sweep(self._folder.evict, place, cut, moment)
            cut = Cut(cut.before, cut.at - evicted.at)
            self._evicted_entries += evicted.entries
            self._evicted_bytes += evicted.size
            deleted += evicted.size
        return deleted

    async def _sweep[*Ts, T](self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call one step of a pass, small so that it can be left, in a thread."""
        return await self._call(PASS_PATIENCE * self._patience, function, *args)

    # -- the disk and its troubles -------------------------------------------------------------

    async def _read[A, T](self, where: str, load: Callable[[A], T | None], what: A) -> T | None:
        async with self._reading:
            if not await self._is_usable():
                return None
            try:
                return await self._call(self._patience, load, what)
            except FormatError as damage:
                self._corrupt += 1
                logger.warning(
                    "a cache entry was damaged and is deleted: %s [%s in %s]: "
                    "nothing is lost; check the disk if this repeats",
                    damage.what,
                    where,
                    self._folder.path,
                )
            except OSError as problem:
                self._health.turn_off(problem)
            return None

    async def _write[*Ts](self, size: int, save: Callable[[*Ts], int], *args: *Ts) -> int:
        """Return how many bytes *save* wrote of about *size*; 0 also for every trouble."""
        async with self._writing:
            if not await self._is_usable():
                return 0
            is_trial = self._health.claim_trial()
            if self._health.is_full and not is_trial:
                return 0
            try:
                written = await self._save_making_room(is_trial, size, save, *args)
            except OSError as problem:
                if means_full(problem):
                    self._health.say_full(problem)
                else:
                    self._health.turn_off(problem)
                return 0
        self._since_pass += written
        if written and self._since_pass >= self._max_bytes // TRIGGER_SHARE:
            self._due.set()
        return written

    async def _save_making_room[*Ts](
        self, is_trial: bool, size: int, save: Callable[[*Ts], int], *args: *Ts
    ) -> int:
        """Call *save*; if the disk is full, once more after making room. Raises OSError."""
        try:
            return await self._call(self._patience, save, *args)
        except OSError as problem:
            if not means_full(problem):
                raise
            if self._health.is_full and not is_trial:
                # Another write has found the disk full, and is making room.
                return 0
        self._health.stop_writing()
        await self._evict(size, MAKE_ROOM_SHARE)
        return await self._call(self._patience, save, *args)

    async def _call[*Ts, T](self, patience: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call *function* in a thread. Raises OSError, also if it takes longer than *patience* seconds."""
        try:
            with trio.fail_after(patience):
                return await trio.to_thread.run_sync(
                    function, *args, limiter=self._limiter, abandon_on_cancel=True
                )
        except trio.TooSlowError:
            what = f"No answer within {patience:g} seconds"
            raise TimeoutError(errno.ETIMEDOUT, what) from None
        except (RuntimeError, MemoryError) as problem:
            # The process has no thread or memory left, which is no reason for a read to fail here.
            raise OSError(errno.ENOMEM, f"No thread or memory for it: {problem}") from problem

    async def _is_usable(self) -> bool:
        """Whether the cache is on; turns it on again if it is time to and the folder works."""
        if self._health.is_off and self._health.claim_probe():
            try:
                await self._call(self._patience, self._folder.probe, ENTRIES)
            except OSError as problem:
                # A full disk can still be read.
                if not means_full(problem):
                    logger.debug("the disk cache stays off: %s [%s]", problem, self._folder.path)
                    return False
            self._health.turn_on()
        return not self._health.is_off

    # -- in the worker threads -----------------------------------------------------------------

    def _load(self, key: EntryKey) -> bytes | None:
        name = entry_name(key)
        with self._removing_damaged(name):
            found = self._folder.read(name, key.length, MAX_HEADER)
            if found is None:
                return None
            check_entry(key, *found)
            return found[1]

    def _find(self, key: EntryKey) -> bool:
        return self._folder.has(entry_name(key), key.length, MAX_HEADER)

    def _load_version(self, location: str) -> str | None:
        name = record_name(location)
        with self._removing_damaged(name):
            found = self._folder.read(name, 0, MAX_HEADER)
            return None if found is None else decode_record(location, found[0])

    @contextlib.contextmanager
    def _removing_damaged(self, name: str) -> Iterator[None]:
        try:
            yield
        except FormatError:
            # Left in place it would be found again; what cannot be deleted is replaced by the next
            # write.
            with contextlib.suppress(OSError):
                self._folder.remove(name)
            raise

    def _save(self, key: EntryKey, data: bytes | memoryview) -> int:
        header, data = encode_entry(key, data)
        size = len(header) + key.length
        if size > self._max_bytes:
            return 0
        self._folder.write(entry_name(key), header, data)
        return size

    def _save_version(self, location: str, version: str) -> int:
        with contextlib.suppress(FormatError):
            if self._load_version(location) == version:
                return 0
        record = encode_record(location, version)
        self._folder.write(record_name(location), record)
        return len(record)
