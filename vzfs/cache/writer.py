"""Writing behind the readers' backs: what is stored waits a moment for its like, and goes to disk together.

Nobody waits for it but who wants to, and no read does: it has threads of its own. What cannot be
written is forgotten.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import trio

from vzfs.cache.entry import EntryKey, encode_entry, encode_record, entry_digest, record_digest
from vzfs.cache.guard import Guard
from vzfs.cache.library import Library
from vzfs.cache.segment import RECORDS, SEGMENTS, Item, shelf_path
from vzfs.cache.singles import Singles
from vzfs.cache.unwritten import Data, Unwritten

logger = logging.getLogger("vzfs.cache")

LINGER: Final = 0.5
"""Seconds that the first of what is stored waits for more, so that little files are few."""
ENOUGH: Final = 4 * 2**20
"""Bytes waiting to be written that wait for no more."""


class Writer:
    """Writes what is *unwritten*, and says *has_written* of each number of bytes."""

    def __init__(
        self,
        guard: Guard,
        library: Library,
        singles: Singles,
        has_written: Callable[[int], None],
    ) -> None:
        self.unwritten = Unwritten()
        self.is_running = False
        self.entries = 0
        """Entries written so far."""
        self._guard = guard
        self._library = library
        self._singles = singles
        self._has_written = has_written
        self._draining = trio.Lock()

    async def run(self) -> None:
        """Write what is stored soon, until cancelled."""
        self.is_running = True
        try:
            while True:
                while not self.unwritten:
                    await self.unwritten.has_changed.wait()
                with trio.move_on_after(LINGER):
                    while self.unwritten.waiting < ENOUGH:
                        await self.unwritten.has_changed.wait()
                await self._drain()
        finally:
            self.is_running = False

    async def written(self) -> None:
        """Wait until nothing waits to be written."""
        while self.unwritten:
            await self._drain()

    async def write(self, shelf: str, entries: dict[EntryKey, Data]) -> None:
        """Write *entries* to a *shelf*, where there is one, or to a file each."""
        if not shelf:
            for key, data in entries.items():
                self._count(await self._singles.write(key, data), 1)
            return

        def items() -> Iterator[Item]:
            for key, data in entries.items():
                yield entry_digest(key), encode_entry(key, data)

        size = sum(key.length for key in entries)
        written = await self._library.write(shelf_path(SEGMENTS, shelf), size, items)
        self._count(written, len(entries))

    async def _drain(self) -> None:
        """Write all that waits to be written."""
        async with self._draining:
            batch = self.unwritten.take()
            try:
                async with trio.open_nursery() as nursery:
                    for shelf, records in batch.records.items():
                        nursery.start_soon(self._write_records, shelf, records)
                    for shelf, entries in batch.entries.items():
                        for part in self._parts(shelf, entries):
                            nursery.start_soon(self._write_entries, shelf, part)
            finally:  # whoever was cancelled
                for entries in batch.entries.values():
                    self.unwritten.done(entries)
                for records in batch.records.values():
                    self.unwritten.done_records(records)

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
            await self.write(shelf, entries)
            self.unwritten.done(entries)
            if shelf:
                await self._library.tidy(shelf_path(SEGMENTS, shelf))
        except Exception:
            # Nobody waits for this task, and a cache must not end a mount.
            logger.exception("a chunk was not cached: this is a bug in vzfs, please report it")
        finally:
            self.unwritten.done(entries)

    async def _write_records(self, shelf: str, records: dict[str, str]) -> None:
        path = shelf_path(RECORDS, shelf)
        try:
            news = {
                location: version
                for location, version in records.items()
                if await self._library.version(location) != version
            }

            def items() -> Iterator[Item]:
                for location, version in news.items():
                    yield record_digest(location), [encode_record(location, version)]

            # That a disk has room for a record says little, so a full one is tried with an entry.
            if news and not self._guard.is_full:
                size = sum(len(location) + len(version) for location, version in news.items())
                self._has_written(await self._library.write(path, size, items))
                self.unwritten.done_records(records)
                await self._library.tidy(path)
        except Exception:
            # As above.
            logger.exception("a version was not recorded: this is a bug in vzfs, please report it")
        finally:
            self.unwritten.done_records(records)

    def _count(self, size: int, entries: int) -> None:
        if size:
            self.entries += entries
            self._has_written(size)
