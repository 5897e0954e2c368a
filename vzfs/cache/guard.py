"""What stands between the cache and its disk: threads, patience, and what a failure means.

A disk that fails turns the cache off: one warning, then silence, and after a while one operation
tries the folder before anything else uses it again. A disk that is full only stops the writing:
after a while one write is let through. A disk that does not answer counts as failed, so that a
reader waits for it once and not for ever.

Reads and writes have threads of their own: however slowly a disk takes what is written, a read does
not wait for a thread. State belongs to the event loop: the threads get values and return values, so
that an abandoned one changes nothing here.
"""

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from vzfs.cache.folder import CacheFolder
from vzfs.cache.health import Health, means_full
from vzfs.cache.segment import ENTRIES
from vzfs.errors import FormatError

logger = logging.getLogger("vzfs.cache")

PATIENT_SIZE: Final = 16 * 2**20
"""Bytes that are read or written within the patience; more may take as much longer."""
SWEEP_PATIENCE: Final = 30
"""Times the patience that one step of an eviction pass may take: nobody waits for it, and a folder
may be large."""
MAX_READING: Final = 64
"""Reads at a time where the limiter allows any number."""
MAX_WRITING: Final = 2
"""Writes at a time, beside one step of a pass: enough for the disk, and few to hand the
interpreter's lock to."""
MAKE_ROOM_SHARE: Final = 10
"""One part in 10 is evicted when the disk says it is full: it may mean inodes or a quota, which are
not measured."""


class Guard:
    """Calls of *folder* in threads, those of reads bounded by *limiter*.

    *patience* is in seconds. *make_room* evicts, for a write of so many bytes, one part in so many.
    """

    def __init__(
        self,
        folder: CacheFolder,
        limiter: trio.CapacityLimiter,
        health: Health,
        patience: float,
        make_room: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._limiter = limiter
        self._health = health
        self._patience = patience
        self._make_room = make_room
        self._writers = trio.CapacityLimiter(MAX_WRITING + 1)
        # Who waits for a thread of a limiter runs out of patience there too: so no more wait than
        # there are threads.
        self._reading = trio.Semaphore(max(int(min(limiter.total_tokens, MAX_READING)), 1))
        self._writing = trio.Semaphore(MAX_WRITING)
        self.corrupt = 0

    @property
    def is_full(self) -> bool:
        """Whether the disk was full, and is not written to."""
        return self._health.is_full

    async def reading[T](self, where: str, load: Callable[[], Awaitable[T | None]]) -> T | None:
        """Return what *load* returns, None for every trouble. *where* says what is read, for people."""
        async with self._reading:
            if not await self.is_usable():
                return None
            try:
                return await load()
            except FormatError as damage:
                self.say_damaged(where, damage)
            except OSError as problem:
                self._health.turn_off(problem)
            return None

    async def writing[*Ts, T](self, size: int, save: Callable[[*Ts], T], *args: *Ts) -> T | None:
        """Return what *save*, called in a thread, returns of writing about *size* bytes; None for every trouble."""
        async with self._writing:
            if not await self.is_usable():
                return None
            is_trial = self._health.claim_trial()
            if self._health.is_full and not is_trial:
                return None
            try:
                saved = await self._save_making_room(is_trial, size, save, *args)
            except OSError as problem:
                if means_full(problem):
                    self._health.say_full(problem)
                else:
                    self._health.turn_off(problem)
                return None
        if saved is not None:
            self._health.start_writing()
        return saved

    async def call[*Ts, T](self, function: Callable[[*Ts], T], *args: *Ts, size: int = 0) -> T:
        """Call *function*, which reads *size* bytes. Raises OSError, also if it takes longer than patience lasts."""
        return await self._call(self._limiter, self._patience_for(size), function, *args)

    async def sweep[*Ts, T](self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call one step of a pass, small so that it can be left. Raises OSError as `call` does."""
        patience = SWEEP_PATIENCE * self._patience
        return await self._call(self._writers, patience, function, *args)

    async def is_usable(self) -> bool:
        """Whether the cache is on; turns it on again if it is time to and the folder works."""
        if self._health.is_off and self._health.claim_probe():
            try:
                await self.call(self._folder.probe, ENTRIES)
            except OSError as problem:
                # A full disk can still be read.
                if not means_full(problem):
                    logger.debug("the disk cache stays off: %s [%s]", problem, self._folder.path)
                    return False
            self._health.turn_on()
        return not self._health.is_off

    def say_damaged(self, where: str, damage: FormatError) -> None:
        """Count and tell that something was damaged, and is deleted."""
        self.corrupt += 1
        logger.warning(
            "a cache entry was damaged and is deleted: %s [%s in %s]: "
            "nothing is lost; check the disk if this repeats",
            damage.what,
            where,
            self._folder.path,
        )

    def _patience_for(self, size: int) -> float:
        """Return how many seconds reading or writing *size* bytes may take."""
        return self._patience * max(1, size / PATIENT_SIZE)

    async def _save_making_room[*Ts, T](
        self, is_trial: bool, size: int, save: Callable[[*Ts], T], *args: *Ts
    ) -> T | None:
        """Call *save*; if the disk is full, once more after making room. Raises OSError."""
        try:
            return await self._call(self._writers, self._patience_for(size), save, *args)
        except OSError as problem:
            if not means_full(problem):
                raise
            if self._health.is_full and not is_trial:
                # Another write has found the disk full, and is making room.
                return None
        self._health.stop_writing()
        await self._make_room(size, MAKE_ROOM_SHARE)
        return await self._call(self._writers, self._patience_for(size), save, *args)

    async def _call[*Ts, T](
        self,
        limiter: trio.CapacityLimiter,
        patience: float,
        function: Callable[[*Ts], T],
        *args: *Ts,
    ) -> T:
        try:
            with trio.fail_after(patience):
                return await trio.to_thread.run_sync(
                    function, *args, limiter=limiter, abandon_on_cancel=True
                )
        except trio.TooSlowError:
            what = f"No answer within {patience:g} seconds"
            raise TimeoutError(errno.ETIMEDOUT, what) from None
        except (RuntimeError, MemoryError) as problem:
            # The process has no thread or memory left, which is no reason for a read to fail here.
            raise OSError(errno.ENOMEM, f"No thread or memory for it: {problem}") from problem
