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
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from vzfs.cache import sweep
from vzfs.cache.entry import (
    EntryKey,
    check_entry,
    decode_record,
    encode_entry,
    encode_record,
    entry_digest,
    has_room_for,
    record_digest,
    record_shelf,
)
from vzfs.cache.eviction import RECORD_SHARE, TRIGGER_SHARE, Cut, Survey, choose, excess
from vzfs.cache.folder import CacheFolder
from vzfs.cache.guard import Guard
from vzfs.cache.health import Health
from vzfs.cache.library import Library
from vzfs.cache.segment import (
    ENTRIES,
    MAX_HEAD,
    OLDER,
    RECORDS,
    SEGMENTS,
    SMALL,
    Item,
    encode_segment,
    entry_name,
    only_entry,
    shelf_path,
)
from vzfs.cache.unwritten import Batch, Data, Unwritten
from vzfs.errors import FormatError

logger = logging.getLogger("vzfs.cache")

PATIENCE: Final = 10.0
"""Seconds that one operation may take: a chunk of 16 MiB at under 2 MB/s. A source is faster than
that."""
LINGER: Final = 0.5
"""Seconds that the first of what is stored waits for more, so that little files are few."""
ENOUGH: Final = 4 * 2**20
"""Bytes waiting to be written that wait for no more."""
MAX_DELAY: Final = 1.0
"""Seconds that somebody waits for the disk to catch up; then what is got is served but not cached."""
SEGMENT_SHARE: Final = 32
"""A segment has at most one part in 32 of the limit, since it is evicted whole."""
PLACES_AT_ONCE: Final = 64
"""Folders that one step of a pass walks through."""


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
    *monotonic* measures how long the cache stays off. *patience* is in seconds.
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
    ) -> None:
        self._folder = CacheFolder(folder, now)
        self._max_bytes = max_bytes
        self._owner = owner
        self._now = now
        self._health = Health(self._folder.path, monotonic)
        self._guard = Guard(self._folder, limiter, self._health, patience, self._make_room)
        self._library = Library(
            self._folder, self._guard, owner, max_bytes // SEGMENT_SHARE, now, monotonic
        )
        self._unwritten = Unwritten()
        self._draining = trio.Lock()
        self._is_running = False
        self._evicting = trio.Lock()
        self._due = trio.Event()
        # The first write makes a pass due: what other processes left is not known before one.
        self._since_pass = max_bytes
        self._hits = self._at_once = self._misses = self._bytes_read = 0
        self._writes = self._bytes_written = self._passed_over = 0
        self._evicted_files = self._evicted_bytes = 0

    def statistics(self) -> DiskCacheStatistics:
        """Return the counts so far."""
        return DiskCacheStatistics(
            hits=self._hits,
            at_once=self._at_once,
            misses=self._misses,
            bytes_read=self._bytes_read,
            writes=self._writes,
            bytes_written=self._bytes_written,
            unwritten=self._unwritten.size,
            passed_over=self._passed_over,
            corrupt=self._guard.corrupt,
            evicted_files=self._evicted_files,
            evicted_bytes=self._evicted_bytes,
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

    async def get(self, key: EntryKey, shelf: str = "") -> Data | None:
        """Return the bytes of *key*, or None for every reason not to have them. Never raises."""
        data = self.peek(key, shelf)
        if data is not None or not key.is_storable:
            self._misses += data is None
            return data
        where = f"{key.location} {key.offset}+{key.length}"
        if _is_shelved(key, shelf):
            path = shelf_path(SEGMENTS, shelf)
            data = await self._guard.reading(
                where,
                lambda: self._library.read(
                    path, entry_digest(key), key.length, lambda entry: _data_of(key, entry)
                ),
            )
        else:
            data = await self._guard.reading(where, lambda: self._guard.call(self._load, key))
        if data is None:
            self._misses += 1
        else:
            self._hits += 1
            self._bytes_read += key.length
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
            found = self._guard.reading(key.location, lambda: self._guard.call(self._find, key))
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
        if self._may_store(key, data):
            entries = {key: _stable(data)}
            if _is_shelved(key, shelf):
                await self._write_on_shelf(shelf, entries)
                await self._library.tidy(shelf_path(SEGMENTS, shelf))
            else:
                await self._write_files(entries)

    async def written(self) -> None:
        """Wait until nothing waits to be written."""
        while self._unwritten:
            await self._drain()

    async def wait_for_room(self, size: int) -> None:
        """Let a disk that is slower than a source catch up, so that *size* bytes more are cached too."""
        with trio.move_on_after(MAX_DELAY):
            while not self._unwritten.has_room(size):
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
        return await self._recorded(location) if version is None else version

    async def _recorded(self, location: str) -> str | None:
        """Return the version that is on disk."""
        if not has_room_for(location, ""):
            return None
        path = shelf_path(RECORDS, record_shelf(location))
        return await self._guard.reading(
            location,
            lambda: self._library.read(
                path,
                record_digest(location),
                0,
                lambda record: decode_record(location, bytes(record)),
            ),
        )

    async def remember_version(self, location: str, version: str) -> None:
        """Remember that *version* is the last one verified of the object at *location*. Never raises.

        It is written soon where the cache runs, else at once.
        """
        # That a disk has room for a record says little, so a full one is tried with an entry.
        if has_room_for(location, version) and not self._health.is_full:
            self._unwritten.remember(location, version)
            if not self._is_running:
                await self.written()

    # -- running -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is stored and keep the folder within its limit, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_behind)
            nursery.start_soon(self._evict_when_due)
            nursery.start_soon(self._library.run)
            task_status.started()
            self._is_running = True
            try:
                await trio.sleep_forever()
            finally:
                self._is_running = False

    async def _write_behind(self) -> None:
        while True:
            while not self._unwritten:
                await self._unwritten.has_changed.wait()
            with trio.move_on_after(LINGER):
                while self._unwritten.waiting < ENOUGH:
                    await self._unwritten.has_changed.wait()
            await self._drain()

    async def _drain(self) -> None:
        """Write all that waits to be written."""
        async with self._draining:
            batch = self._unwritten.take()
            try:
                async with trio.open_nursery() as nursery:
                    for shelf, records in batch.records.items():
                        nursery.start_soon(self._write_records, shelf, records)
                    for shelf, entries in batch.entries.items():
                        for part in self._parts(shelf, entries):
                            nursery.start_soon(self._write_entries, shelf, part)
            finally:
                self._give_up(batch)

    def _give_up(self, batch: Batch) -> None:
        """Forget what was not written of *batch*, whoever was cancelled."""
        for entries in batch.entries.values():
            self._unwritten.done(entries)
        for records in batch.records.values():
            self._unwritten.done_records(records)

    def _parts(self, shelf: str, entries: dict[EntryKey, Data]) -> Iterator[dict[EntryKey, Data]]:
        """Yield *entries* in parts that have room in a file."""
        part: dict[EntryKey, Data] = {}
        size = 0
        for key, data in entries.items():
            if part and (not shelf or size + key.length > self._library.max_segment):
                yield part
                part, size = {}, 0
            part[key] = data
            size += key.length
        yield part

    async def _write_entries(self, shelf: str, entries: dict[EntryKey, Data]) -> None:
        try:
            if shelf:
                await self._write_on_shelf(shelf, entries)
                self._unwritten.done(entries)
                await self._library.tidy(shelf_path(SEGMENTS, shelf))
            else:
                await self._write_files(entries)
        except Exception:
            # Nobody waits for this task, and a cache must not end a mount.
            logger.exception("a chunk was not cached: this is a bug in vzfs, please report it")
        finally:
            self._unwritten.done(entries)

    async def _write_on_shelf(self, shelf: str, entries: dict[EntryKey, Data]) -> None:
        def items() -> Iterator[Item]:
            for key, data in entries.items():
                yield entry_digest(key), encode_entry(key, data)

        size = sum(key.length for key in entries)
        written = await self._library.write(shelf_path(SEGMENTS, shelf), size, items)
        self._count_written(written, len(entries))

    async def _write_files(self, entries: dict[EntryKey, Data]) -> None:
        for key, data in entries.items():
            written = await self._guard.writing(key.length, self._save, key, data)
            self._count_written(written or 0, 1)

    async def _write_records(self, shelf: str, records: dict[str, str]) -> None:
        path = shelf_path(RECORDS, shelf)
        try:
            news = {
                location: version
                for location, version in records.items()
                if await self._recorded(location) != version
            }

            def items() -> Iterator[Item]:
                for location, version in news.items():
                    yield record_digest(location), [encode_record(location, version)]

            if news:
                size = sum(len(location) + len(version) for location, version in news.items())
                self._since_pass += await self._library.write(path, size, items)
                self._unwritten.done_records(records)
                await self._library.tidy(path)
        except Exception:
            # As above.
            logger.exception("a version was not recorded: this is a bug in vzfs, please report it")
        finally:
            self._unwritten.done_records(records)

    def _count_written(self, size: int, entries: int) -> None:
        if size:
            self._health.start_writing()
            self._writes += entries
            self._bytes_written += size
            self._since_pass += size
            if self._since_pass >= self._max_bytes // TRIGGER_SHARE:
                self._due.set()

    # -- eviction ------------------------------------------------------------------------------

    async def evict(self) -> None:
        """Make one pass over the folder: delete what was used longest ago if it holds too much. Never raises."""
        if await self._guard.is_usable():
            try:
                await self._evict()
            except OSError as problem:
                self._health.turn_off(problem)
            except Exception:
                # Nobody waits for a pass, and a cache must not end a mount.
                logger.exception("nothing was evicted: this is a bug in vzfs, please report it")

    async def _evict_when_due(self) -> None:
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self.evict()

    async def _make_room(self, size: int, share: int) -> None:
        await self._evict(size, share)

    async def _evict(self, room: int = 0, share: int = 0) -> None:
        """Make one pass, for a write of *room* bytes; where *share* is not 0, free one part in *share* at least."""
        async with self._evicting:
            self._since_pass = 0
            moment = int(self._now() * 10**9)
            before = self._evicted_files
            places = await self._places(RECORDS)
            records = await self._survey(places, moment)
            surplus = records.total - self._max_bytes // RECORD_SHARE
            kept = records.total - await self._delete(places, records, surplus, moment)
            places = await self._places(ENTRIES, SEGMENTS, *OLDER)
            entries = await self._survey(places, moment)
            total = entries.total + kept
            need = excess(total, self._max_bytes)
            if total:
                need = max(need, room - await self._guard.sweep(self._folder.room))
            if share:
                need = max(need, room + total // share)
            await self._delete(places, entries, need, moment)
            if self._evicted_files > before:
                # A file that is held open keeps its room on the disk.
                await self._guard.sweep(self._library.clear().clear)

    async def _places(self, *subfolders: str) -> list[str]:
        found = [await self._guard.sweep(sweep.places, self._folder, s) for s in subfolders]
        return list(itertools.chain.from_iterable(found))

    async def _survey(self, places: Sequence[str], moment: int) -> Survey:
        steps = itertools.batched(places, PLACES_AT_ONCE)
        return Survey.joined(
            [await self._guard.sweep(sweep.survey, self._folder, step, moment) for step in steps]
        )

    async def _delete(self, places: Sequence[str], survey: Survey, need: int, moment: int) -> int:
        """Delete *need* bytes of *survey*, those used longest ago; return how many were deleted."""
        deleted = 0
        if need <= 0:
            return deleted
        cut = choose(survey, need)
        for step in itertools.batched(places, PLACES_AT_ONCE):
            evicted = await self._guard.sweep(sweep.evict, self._folder, step, cut, moment)
            cut = Cut(cut.before, cut.at - evicted.at)
            self._evicted_files += evicted.files
            self._evicted_bytes += evicted.size
            deleted += evicted.size
        return deleted

    # -- in the threads ------------------------------------------------------------------------

    def _load(self, key: EntryKey) -> bytes | None:
        name = entry_name(key)
        try:
            found = self._folder.read(name, key.length, MAX_HEAD)
            if found is None:
                return None
            before, data = found
            check_entry(key, only_entry(key, name, before), data)
        except FormatError:
            # Left in place it would be found again; what cannot be deleted is replaced by the next
            # write.
            with contextlib.suppress(OSError):
                self._folder.remove(name)
            raise
        return data

    def _find(self, key: EntryKey) -> bool:
        return self._folder.has(entry_name(key), key.length, MAX_HEAD)

    def _save(self, key: EntryKey, data: Data) -> int:
        name = entry_name(key)
        parts = encode_segment(self._owner, name, [(entry_digest(key), encode_entry(key, data))])
        size = sum(map(len, parts))
        if size > self._max_bytes:
            return 0
        self._folder.write(name, *parts)
        return size


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
