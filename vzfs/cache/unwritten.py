"""What waits to be written: bounded, grouped by shelf, and served from here until it is on disk.

It belongs to one event loop. Who adds does not wait; who wants to add more than there is room for
may wait for `has_changed`. Everything is taken at once by whoever writes, and given back done.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

import trio

from vzfs.cache.entry import EntryKey, record_shelf

MAX_UNWRITTEN: Final = 192 * 2**20
"""Bytes, held in memory beside what other caches hold."""
RESERVED: Final = 3
"""One part in so many is left, by those who can wait, to those who cannot."""
_OF_A_RECORD: Final = 500
"""Bytes that a version record counts as."""

type Data = bytes | memoryview


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What is to be written now: entries by shelf, "" for those with a file each, and records by shelf."""

    entries: dict[str, dict[EntryKey, Data]]
    records: dict[str, dict[str, str]]


class Unwritten:
    """Entries and version records on their way to the disk."""

    def __init__(self) -> None:
        self.size = 0
        self.waiting = 0
        """Bytes that nobody has taken."""
        self.has_changed = trio.Event()
        """Set, and replaced, when there is more or less than before."""
        self._entries: dict[EntryKey, Data] = {}
        self._records: dict[str, str] = {}
        self._next = Batch({}, {})
        self._expected = 0

    def __bool__(self) -> bool:
        """Return whether anything is not written."""
        return bool(self._entries or self._records)

    def __contains__(self, key: EntryKey) -> bool:
        """Return whether the bytes of *key* are here."""
        return bool(self._entries) and key in self._entries

    def get(self, key: EntryKey) -> Data | None:
        """Return the bytes of *key*, if they are not written."""
        return self._entries.get(key) if self._entries else None

    def version(self, location: str) -> str | None:
        """Return the version to be remembered of *location*, if it is not written."""
        return self._records.get(location)

    def has_room(self, size: int) -> bool:
        """Whether *size* bytes may be added; always, if there is nothing."""
        return not self._entries or self.size + size <= MAX_UNWRITTEN

    def has_room_beside(self, size: int) -> bool:
        """Whether who can wait may add *size* bytes: there is room when all that is expected has come."""
        is_empty = not self._entries and not self._expected
        most = MAX_UNWRITTEN - MAX_UNWRITTEN // RESERVED
        return is_empty or self.size + self._expected + size <= most

    @contextlib.contextmanager
    def expecting(self, size: int) -> Iterator[None]:
        """Count *size* bytes that are on their way here, in the block."""
        self._expected += size
        try:
            yield
        finally:
            self._expected -= size
            self._changed()

    def add(self, key: EntryKey, data: Data, shelf: str) -> None:
        """Have *data* written as the bytes of *key*."""
        self._entries[key] = data
        self._next.entries.setdefault(shelf, {})[key] = data
        self._count(key.length)

    def remember(self, location: str, version: str) -> None:
        """Have *version* written as the last one of *location*."""
        if location not in self._records:
            self.size += _OF_A_RECORD
        self._records[location] = version
        self._next.records.setdefault(record_shelf(location), {})[location] = version
        self._changed()

    def take(self) -> Batch:
        """Return what nobody has taken, to write it."""
        batch, self._next = self._next, Batch({}, {})
        self.waiting = 0
        return batch

    def done(self, entries: dict[EntryKey, Data]) -> None:
        """Forget *entries*, which are on disk or cannot be."""
        for key, data in entries.items():
            if self._entries.get(key) is data:
                del self._entries[key]
                self.size -= key.length
        self._changed()

    def done_records(self, records: dict[str, str]) -> None:
        """Forget *records*, which are on disk or cannot be."""
        for location, version in records.items():
            if self._records.get(location) is version:
                del self._records[location]
                self.size -= _OF_A_RECORD
        self._changed()

    def _count(self, size: int) -> None:
        self.size += size
        self.waiting += size
        self._changed()

    def _changed(self) -> None:
        self.has_changed.set()
        self.has_changed = trio.Event()
