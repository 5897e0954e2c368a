"""Eviction passes: keeping the folder within its limit while others read and write in it.

A pass measures the folder and deletes what was used longest ago, in steps that each may be waited
for. It is made when enough has been written, and when a disk says that it is full.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import trio

from vzfs.cache import sweep
from vzfs.cache.eviction import RECORD_SHARE, TRIGGER_SHARE, Cut, Survey, choose, excess
from vzfs.cache.folder import CacheFolder
from vzfs.cache.guard import Guard
from vzfs.cache.segment import RECORDS
from vzfs.cache.shelves import Descriptor

PLACES_AT_ONCE: Final = 64
"""Folders that one step of a pass walks through."""


class Passes:
    """Keeps *folder* within *max_bytes*. *forget* is asked for what is held open once files were deleted."""

    def __init__(
        self,
        folder: CacheFolder,
        guard: Guard,
        max_bytes: int,
        now: Callable[[], float],
        forget: Callable[[], list[Descriptor]],
    ) -> None:
        self.files = 0
        """Files deleted so far."""
        self.size = 0
        """Their bytes."""
        self._folder = folder
        self._guard = guard
        self._max_bytes = max_bytes
        self._now = now
        self._forget = forget
        self._evicting = trio.Lock()
        self._due = trio.Event()
        # The first write makes a pass due: what other processes left is not known before one.
        self._since = max_bytes

    def count(self, size: int) -> None:
        """Count *size* bytes written, which may make a pass due."""
        self._since += size
        if size and self._since >= self._max_bytes // TRIGGER_SHARE:
            self._due.set()

    async def is_due(self) -> None:
        """Wait until a pass is due."""
        await self._due.wait()
        self._due = trio.Event()

    async def make(self, room: int = 0, share: int = 0) -> None:
        """Make one pass, for a write of *room* bytes; where *share* is not 0, free one part in *share* at least.

        Raises OSError.
        """
        async with self._evicting:
            self._since = 0
            moment = int(self._now() * 10**9)
            before = self.files
            places = await self._places(RECORDS)
            records = await self._survey(places, moment)
            surplus = records.total - self._max_bytes // RECORD_SHARE
            kept = records.total - await self._delete(places, records, surplus, moment)
            places = await self._places(*sweep.EVICTED)
            entries = await self._survey(places, moment)
            total = entries.total + kept
            need = excess(total, self._max_bytes)
            if total:
                need = max(need, room - await self._guard.sweep(self._folder.room))
            if share:
                need = max(need, room + total // share)
            await self._delete(places, entries, need, moment)
            if self.files > before:
                # A file that is held open keeps its room on the disk.
                await self._guard.sweep(self._forget().clear)

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
            self.files += evicted.files
            self.size += evicted.size
            deleted += evicted.size
        return deleted
