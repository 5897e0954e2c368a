"""What is known of each server: how many requests it may have, whether it answers, and how soon.

A server that gave no answer several times in a row is left alone for a while: readers get an error
at once instead of after a minute, and one of them after each while tries it again. Any answer, an
error too, shows that it is there.
"""

import math
from collections import deque
from typing import Final

import trio

from vzfs.errors import ErrorKind, SourceError

HOST_SHARE: Final = 4
"""One part in so many of all requests under way is the most that one host gets."""
SILENT_LIMIT: Final = 5
"""Attempts in a row without an answer, after which a host counts as dead: those of one fetch."""
FIRST_PAUSE: Final = 0.5
"""Seconds that a dead host is left alone at first; doubled each time."""
LONGEST_PAUSE: Final = 30.0
"""Seconds: what a person who has mended a network will wait for."""

_SAMPLES: Final = 64
_ENOUGH: Final = 16
_RECKON: Final = 8
"""Samples between two reckonings of a tail."""


class Host:
    """One server. *overall* bounds the requests to all servers together."""

    def __init__(self, name: str, overall: trio.CapacityLimiter) -> None:
        self.name: Final = name
        self.slots: Final = HostLimiter(overall)
        self.latencies: Final = Latencies()
        self._silent = 0
        self._silent_at = self._asked_at = self._answered_at = -math.inf
        self._pause = FIRST_PAUSE
        self._again_at = -math.inf
        self._is_tried = False

    @property
    def is_dead(self) -> bool:
        """Whether the server counts as dead."""
        return self._silent >= SILENT_LIMIT

    def admit(self, where: str) -> bool:
        """Let a fetch begin; True if it is the one that tries a dead host. Raises SourceError (`OFFLINE`)."""
        if not self.is_dead:
            return False
        left = self._again_at - trio.current_time()
        if left > 0 or self._is_tried:
            raise SourceError(
                ErrorKind.OFFLINE,
                f"{self.name} is not asked now: it did not answer {self._silent} times in a row",
                where=where,
                advice=f"it is tried again every {LONGEST_PAUSE:g} s or sooner; check the network",
            )
        self._is_tried = True
        return True

    def asked(self) -> None:
        """Say that an attempt begins."""
        self._asked_at = trio.current_time()

    def gave_nothing_since(self, began: float) -> bool:
        """Whether somebody asked since *began*, and nobody got an answer."""
        return self._answered_at < began <= self._asked_at

    def answered(self) -> None:
        """Say that the server answered something."""
        self._answered_at = trio.current_time()
        self._silent = 0
        self._pause = FIRST_PAUSE

    def was_silent(self, began: float) -> None:
        """Say that the attempt that *began* then got no answer.

        Of attempts that overlap one counts: what breaks many connections at once is one event.
        """
        if began < self._silent_at:
            return
        self._silent_at = trio.current_time()
        self._silent += 1
        if self._silent == SILENT_LIMIT:
            self._leave_alone()

    def tried(self) -> None:
        """Say that the fetch that tried a dead host is over, however it ended."""
        self._is_tried = False
        if self.is_dead:
            self._leave_alone()

    def _leave_alone(self) -> None:
        self._again_at = trio.current_time() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


class HostLimiter:
    """What takes a place at one host, and then one of all; `trio.to_thread.run_sync` takes it for a limiter."""

    def __init__(self, overall: trio.CapacityLimiter) -> None:
        self._overall = overall
        self._own = trio.CapacityLimiter(max(overall.total_tokens // HOST_SHARE, 1))

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a place."""
        await self._own.acquire_on_behalf_of(borrower)
        try:
            await self._overall.acquire_on_behalf_of(borrower)
        except BaseException:
            self._own.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a place back."""
        self._overall.release_on_behalf_of(borrower)
        self._own.release_on_behalf_of(borrower)


class Latencies:
    """How long fetches took lately, apart by their size: each class goes to four times the one before."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}

    def add(self, size: int, seconds: float) -> None:
        """Count a fetch of *size* bytes."""
        self._classes.setdefault(size.bit_length() // 2, _Class()).add(seconds)

    def tail(self, size: int) -> float:
        """Return how many seconds nearly all fetches of about *size* bytes take; inf if too few are known."""
        found = self._classes.get(size.bit_length() // 2)
        return math.inf if found is None else found.tail


class _Class:
    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._unreckoned = 0
        self.tail = math.inf

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)
        self._unreckoned += 1
        if self._unreckoned >= _RECKON and len(self._samples) >= _ENOUGH:
            self._unreckoned = 0
            self.tail = sorted(self._samples)[len(self._samples) * 95 // 100]
