"""The shelves in the folder: finding an entry, reading it, adding segments, and keeping them few.

To open a shelf is one call in a thread, which lists its segments and reads their tables. After that
an entry is found in memory, and read on the event loop if its pages are in the page cache; else in a
thread. A segment that was read is held open for a while, so that a file that another process
deletes keeps its room on the disk for a minute or two.

Everything between two `await`s is atomic.
"""

import contextlib
import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from vzfs.cache.entry import MAX_HEADER, damaged, decode_record, record_digest, record_shelf
from vzfs.cache.folder import TOUCH_AFTER, CacheFolder
from vzfs.cache.guard import Guard
from vzfs.cache.segment import (
    FIRST,
    MAX_ENTRIES,
    RECORDS,
    SMALL,
    Item,
    decode_contents,
    encode_segment,
    head_size,
    segment_name,
    shelf_path,
    stamp_of,
)
from vzfs.cache.shelves import Descriptor, Segment, Shelf, Shelves, Table
from vzfs.errors import FormatError
from vzfs.flights import Flights

LOOK_AGAIN_AFTER: Final = 5.0
"""Seconds after which a shelf is listed again when it does not have an entry: so soon one sees what
another process has written."""
LET_GO_AFTER: Final = 60.0
"""Seconds after which a segment that nobody reads is closed."""
MAX_SEGMENT: Final = 16 * 2**20
"""Bytes of a segment, which are evicted together."""
_ATTEMPTS: Final = 3
"""Times to look for an entry whose segment vanishes: others may join segments at the same time."""

type Check[T] = Callable[[bytes | memoryview], T]
"""Makes an entry's bytes a value, or raises FormatError."""


class Library:
    """Shelves of *folder*, named by their paths; what is added is of *owner*.

    *now* is the time of day, *monotonic* measures how old a listing is. A segment has at most
    *max_segment* bytes.
    """

    def __init__(
        self,
        folder: CacheFolder,
        guard: Guard,
        owner: str,
        max_segment: int,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._guard = guard
        self._owner = owner
        self._now = now
        self._monotonic = monotonic
        self.max_segment: Final = min(max_segment, MAX_SEGMENT)
        self._shelves = Shelves()
        self._looking: Flights[str, Shelf] = Flights()
        self._buffer = memoryview(bytearray(SMALL + MAX_HEADER))
        self._stamp = 0

    # -- reading -------------------------------------------------------------------------------

    def knows(self, path: str, digest: bytes) -> bool:
        """Whether the entry of *digest* can be read without looking for it, as far as is known."""
        shelf = self._shelves.get(path)
        found = shelf.find(digest) if shelf else None
        return found is not None and found[0].descriptor is not None

    def at_once(self, path: str, digest: bytes, length: int) -> memoryview | None:
        """Return the entry of *digest*, if it is found and read without waiting; valid until the next call.

        *length* is that of its data. Raises FormatError and OSError.
        """
        shelf = self._shelves.get(path)
        found = shelf.find(digest) if shelf else None
        if found is None:
            return None
        segment, offset, size = found
        if segment.descriptor is None or self._is_due(segment):
            return None
        buffer = self._buffer[: _checked(size, length)]
        if not self._folder.read_at_once(segment.descriptor, offset, buffer):
            return None
        self._shelves.read(segment)
        return buffer

    async def read[T](self, path: str, digest: bytes, length: int, check: Check[T]) -> T | None:
        """Return what *check* makes of the entry of *digest*, None if there is none.

        Raises OSError, and FormatError if it was damaged: then its segment is deleted.
        """
        for _ in range(_ATTEMPTS):
            shelf = await self._shelf(path, digest)
            found = shelf.find(digest)
            if found is None:
                return None
            segment, offset, size = found
            try:
                entry = self.at_once(path, digest, length)
                if entry is not None:
                    return check(entry)
                _checked(size, length)
                loaded = await self._guard.call(
                    self._load, segment, offset, size, self._is_due(segment)
                )
                if loaded is not None:
                    again, data = loaded
                    segment.used_at = again.used_at
                    segment.descriptor = segment.descriptor or again.descriptor
                    again.descriptor = None
                    self._shelves.read(segment)
                    return check(data)
            except FormatError:
                if segment.name not in shelf.segments:
                    continue  # another reader has found it, and told
                self._forget(shelf, [segment])
                with contextlib.suppress(OSError):
                    await self._guard.call(self._folder.remove, segment.name)
                raise
            self._forget(shelf, [segment])
            shelf.looked_at = -math.inf
        return None

    async def version(self, location: str) -> str | None:
        """Return the version that is recorded of the object at *location*, None for every trouble."""
        path = shelf_path(RECORDS, record_shelf(location))
        return await self._guard.reading(
            location,
            lambda: self.read(
                path,
                record_digest(location),
                0,
                lambda record: decode_record(location, bytes(record)),
            ),
        )

    async def has(self, path: str, digest: bytes) -> bool:
        """Whether there is an entry of *digest*. Raises OSError."""
        return (await self._shelf(path, digest)).find(digest) is not None

    # -- writing -------------------------------------------------------------------------------

    async def write(self, path: str, size: int, items: Callable[[], Iterable[Item]]) -> int:
        """Add a segment of about *size* bytes with *items*, made in a thread; return its size, 0 for every trouble."""
        shelf = self._shelves.get(path)
        # Behind all that is known, also where a clock was wrong.
        newest = max(map(stamp_of, shelf.segments), default=0) if shelf else 0
        now = int(self._now() * 10**9)
        name = self._new_name(path, max(self._stamp + 1, newest + 1, now))
        saved = await self._guard.writing(size, self._save, name, path, items)
        if saved is None:
            return 0
        written, segment = saved
        shelf = self._shelves.get(path)
        if shelf is not None and segment is not None:
            shelf.add([segment])
            self._shelves.put(shelf)
        elif segment is not None:
            segment.descriptor = None
        return written

    async def tidy(self, path: str) -> None:
        """Make one segment of those on the shelf at *path* that are alike, if they are too many."""
        if self._guard.is_full:
            return
        with contextlib.suppress(OSError):  # which whoever writes next will meet
            shelf = self._shelves.get(path) or await self._look(path)
            if not shelf.alike(self._owner, self.max_segment):
                return
            await self._look(path)
            segments = shelf.alike(self._owner, self.max_segment)
            if segments:
                # Behind what it is made of, and before whatever is written next.
                name = self._new_name(shelf.path, stamp_of(segments[-1].name) + 1)
                joined = await self._guard.sweep(
                    self._join, name, shelf.path, segments, shelf.table()
                )
                gone = self._forget(shelf, segments)
                if joined is not None:
                    shelf.add([joined])
                    self._shelves.put(shelf)
                await self._guard.sweep(gone.clear)

    def _new_name(self, path: str, stamp: int) -> str:
        self._stamp = max(self._stamp, stamp)
        return segment_name(path, stamp, secrets.token_hex(4))

    # -- what is known -------------------------------------------------------------------------

    async def run(self) -> None:
        """Let go of what nobody reads or what was deleted, until cancelled."""
        while True:
            await trio.sleep(LET_GO_AFTER)
            await self.let_go()

    async def let_go(self) -> None:
        """Close the segments that nobody has read since this was called before, and those that were deleted."""
        held = self._shelves.open_segments()
        if not held:
            return
        closed = self._shelves.close(s for s in held if not s.is_read)
        for segment in held:
            segment.is_read = False
        with contextlib.suppress(OSError):  # which whoever reads next will meet
            deleted = await self._guard.sweep(self._let_go, closed, held)
            for shelf in self._shelves:
                self._forget(shelf, [s for s in deleted if s.name in shelf.segments])

    def clear(self) -> list[Descriptor]:
        """Forget everything; return what was open, to let go of where one may wait."""
        return self._shelves.clear()

    def _forget(self, shelf: Shelf, segments: Sequence[Segment]) -> list[Descriptor]:
        if not segments:
            return []
        shelf.drop([segment.name for segment in segments])
        if self._shelves.get(shelf.path) is shelf:
            self._shelves.put(shelf)
        return self._shelves.close(segments)

    def lacks(self, path: str, digest: bytes) -> bool:
        """Whether there was no entry of *digest* a moment ago."""
        shelf = self._shelves.get(path)
        return (
            shelf is not None
            and shelf.looked_at + LOOK_AGAIN_AFTER > self._monotonic()
            and not shelf.find(digest)
        )

    async def _shelf(self, path: str, digest: bytes) -> Shelf:
        """Return the shelf at *path*, as it was a moment ago if it lacks *digest*. Raises OSError."""
        shelf = self._shelves.get(path)
        if shelf is None or (
            shelf.looked_at + LOOK_AGAIN_AFTER <= self._monotonic() and not shelf.find(digest)
        ):
            return await self._looking.join(path, lambda: self._look(path))
        return shelf

    async def _look(self, path: str) -> Shelf:
        shelf = self._shelves.get(path) or Shelf(path, -math.inf)
        before, moment = frozenset(shelf.segments), self._monotonic()
        names, found, damages = await self._guard.call(self._list, path, before)
        for name, damage in damages:
            self._guard.say_damaged(name, damage)
        shelf.drop(before.difference(names))
        shelf.add(segment for segment in found if segment.name not in shelf.segments)
        shelf.looked_at = moment
        self._shelves.put(shelf)
        return shelf

    def _is_due(self, segment: Segment) -> bool:
        """Whether *segment* should be marked as used, which may have to wait for the disk."""
        return abs(self._now() - segment.used_at) > TOUCH_AFTER

    # -- in the threads ------------------------------------------------------------------------

    def _load(
        self, segment: Segment, offset: int, size: int, is_due: bool
    ) -> tuple[Segment, bytes] | None:
        """Return an entry, and its *segment* as it is now: opened if need be, and marked as used if that *is_due*.

        None if it is gone.
        """
        descriptor, used_at, new = segment.descriptor, segment.used_at, None
        if descriptor is None:
            opened = self._folder.open(segment.name, 0)
            if opened is None:
                return None
            descriptor, used_at = opened.descriptor, opened.used_at
            new = descriptor
        if is_due:
            self._folder.mark_used(descriptor)
            used_at = self._now()
        data = self._folder.read_at(descriptor, offset, size)
        return Segment(segment.name, segment.contents, segment.size, used_at, new), data

    def _list(
        self, path: str, known: frozenset[str]
    ) -> tuple[list[str], list[Segment], list[tuple[str, FormatError]]]:
        """Return the names of a shelf's segments, those that are not *known*, and what was damaged and is deleted."""
        names, opened, wrong = self._folder.look(path, known, FIRST)
        segments = []
        damages = [(name, damaged("it is no file")) for name in wrong]
        for one in opened:
            try:
                head, need = one.first, head_size(one.first)
                if need > len(head):
                    head = self._folder.read_at(one.descriptor, 0, need)
                contents = decode_contents(head, path, one.size)
            except FormatError as damage:
                damages.append((one.name, damage))
            else:
                segments.append(Segment(one.name, contents, one.size, one.used_at, one.descriptor))
        for name, _ in damages:
            # What cannot be deleted is found again.
            with contextlib.suppress(OSError):
                self._folder.remove(name)
        return names, segments, damages

    def _save(
        self, name: str, path: str, items: Callable[[], Iterable[Item]]
    ) -> tuple[int, Segment | None]:
        """Write a segment; return its size, and itself if nobody has deleted it meanwhile."""
        parts = encode_segment(self._owner, path, items())
        size = sum(map(len, parts))
        self._folder.write(name, *parts)
        opened = self._folder.open(name, 0)
        if opened is None:
            return size, None
        contents = decode_contents(bytes(parts[0]), path, size)
        return size, Segment(name, contents, size, opened.used_at, opened.descriptor)

    def _join(
        self, name: str, path: str, segments: Sequence[Segment], table: Table
    ) -> Segment | None:
        """Write what counts of *segments* as one segment, and delete them."""
        items: list[Item] = []
        for segment in segments:
            opened = self._folder.open(segment.name, 0)
            if opened is None:
                continue
            with contextlib.suppress(FormatError):  # what is damaged is not worth keeping
                data = memoryview(self._folder.read_at(opened.descriptor, 0, segment.size))
                items += [
                    (digest, [data[offset : offset + size]])
                    for digest, offset, size in table.rows(segment)
                ]
        joined = self._save(name, path, lambda: items[:MAX_ENTRIES])[1] if items else None
        for segment in segments:
            self._folder.remove(segment.name)
        return joined

    def _let_go(self, closed: list[Descriptor], held: Sequence[Segment]) -> list[Segment]:
        """Let go of what is *closed*; return which of the segments *held* open were deleted."""
        closed.clear()
        open_ = [(segment, segment.descriptor) for segment in held]
        return [s for s, descriptor in open_ if descriptor and self._folder.is_deleted(descriptor)]


def _checked(size: int, length: int) -> int:
    """Return the *size* of an entry with *length* bytes of data, if it can be that. Raises FormatError."""
    if not 0 < size - length <= MAX_HEADER:
        raise damaged("its size is wrong")
    return size
