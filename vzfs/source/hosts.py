"""What is known of each server: how many requests it may have, whether it answers, and how fast.

A server that gave no answer several times in a row is left alone for a while: readers get an error
at once instead of after a minute, and one of them after each while tries it again. Any answer, an
error too, shows that it is there.

Requests that somebody waits for go before those that read ahead, and these never take all places:
a point read finds one at once, however much is being read ahead.
"""

import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final

import trio

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.fetcher import DEFAULT_PACE, Haste, Pace, Pressing, Urgency, urgency_of

HOST_SHARE: Final = 4
"""One part in so many of all requests under way is the most that one host gets."""
AHEAD_SHARE: Final = 0.75
"""Of the places of a host, and of all, that reading ahead may take."""
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
_LATE: Final = 15
"""Samples that a pace is the median of."""
_BULK: Final = 128 * 1024
"""Bytes of a body that tell a bandwidth; smaller ones come at once."""


class Host:
    """One server. *overall* are the places for requests to all servers together."""

    def __init__(self, name: str, overall: "Places") -> None:
        self.name: Final = name
        self.places: Final = HostPlaces(overall)
        self.latencies: Final = Latencies()
        self.meter: Final = Meter()
        self._silent = 0
        self._silent_at = self._asked_at = self._answered_at = -math.inf
        self._pause = FIRST_PAUSE
        self._again_at = -math.inf
        self._is_tried = False

    @property
    def is_dead(self) -> bool:
        """Whether the server counts as dead."""
        return self._silent >= SILENT_LIMIT

    def admit(self, place: object) -> bool:
        """Let a fetch from *place* begin; True if it is the one that tries a dead host. Raises SourceError (`OFFLINE`)."""
        if not self.is_dead:
            return False
        left = self._again_at - trio.current_time()
        if left > 0 or self._is_tried:
            raise SourceError(
                ErrorKind.OFFLINE,
                f"{self.name} is not asked now: it did not answer {self._silent} times in a row",
                where=str(place),
                advice=f"it is tried again every {LONGEST_PAUSE:g} s or sooner; check the network",
            )
        self._is_tried = True
        return True

    def asked(self, now: float) -> None:
        """Say that an attempt begins *now*."""
        self._asked_at = now

    def gave_nothing_since(self, began: float) -> bool:
        """Whether somebody asked since *began*, and nobody got an answer."""
        return self._answered_at < began <= self._asked_at

    def answered(self) -> float:
        """Say that the server answered something, and return the time."""
        self._answered_at = trio.current_time()
        self._silent = 0
        self._pause = FIRST_PAUSE
        return self._answered_at

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


class Places:
    """As many places as *total*. Those who wait get them by urgency, and then in their order.

    Of what is not the most urgent, only a part of the places is taken at a time. A place that is
    given back belongs to the next who waits at once, so that nobody overtakes.
    """

    def __init__(self, total: int) -> None:
        self.total: Final = total
        self._free = total
        self._free_ahead = max(int(total * AHEAD_SHARE), 1)
        self._waiting: dict[Urgency, OrderedDict[trio.lowlevel.Task, list[Urgency]]] = {
            urgency: OrderedDict() for urgency in Urgency
        }

    @property
    def free(self) -> int:
        """How many places nobody has."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    def take(self, urgency: Urgency) -> bool:
        """Take a place if there is one; whether there was. Where one is free, nobody waits who could have it."""
        if urgency is not Urgency.DEMAND:
            if self._free <= 0 or self._free_ahead <= 0:
                return False
            self._free_ahead -= 1
        elif self._free <= 0:
            return False
        self._free -= 1
        return True

    async def wait(self, pressing: Pressing) -> Urgency:
        """Take a place, where `take` found none, as soon as it is this task's turn.

        Whoever becomes more urgent meanwhile goes behind those who are so already. Returns with which
        urgency the place was taken.
        """
        task = trio.lowlevel.current_task()
        taken: list[Urgency] = []
        self._waiting[urgency_of(pressing)][task] = taken

        def abort(_: object) -> trio.lowlevel.Abort:
            for queue in self._waiting.values():
                queue.pop(task, None)
            return trio.lowlevel.Abort.SUCCEEDED

        def hurry() -> None:
            if task not in self._waiting[Urgency.AHEAD]:
                return  # its turn has come
            del self._waiting[Urgency.AHEAD][task]
            if self.take(Urgency.DEMAND):
                taken.append(Urgency.DEMAND)
                trio.lowlevel.reschedule(task)
            else:
                self._waiting[Urgency.DEMAND][task] = taken

        with pressing.heard_by(hurry) if isinstance(pressing, Haste) else contextlib.nullcontext():
            await trio.lowlevel.wait_task_rescheduled(abort)
        return taken[0]

    def release(self, urgency: Urgency) -> None:
        """Give a place back that was taken with the same *urgency*."""
        self._free += 1
        if urgency is not Urgency.DEMAND:
            self._free_ahead += 1
        for waiting, queue in self._waiting.items():
            while queue and self.take(waiting):
                task, taken = queue.popitem(last=False)
                taken.append(waiting)
                trio.lowlevel.reschedule(task)


class HostPlaces:
    """The places at one host, each of which is one of the *overall* ones too."""

    def __init__(self, overall: Places) -> None:
        self._overall = overall
        self._own = Places(max(overall.total // HOST_SHARE, 1))

    def take(self, urgency: Urgency) -> bool:
        """Take a place if there is one; whether there was."""
        if not self._own.take(urgency):
            return False
        if self._overall.take(urgency):
            return True
        self._own.release(urgency)
        return False

    async def wait(self, pressing: Pressing) -> tuple[Urgency, Urgency]:
        """Take a place, where `take` found none, as soon as it is this task's turn, as `Places.wait` does.

        Returns with which urgency the place was taken at this host, and of all.
        """
        own = urgency_of(pressing)
        if not self._own.take(own):
            own = await self._own.wait(pressing)
        try:
            overall = urgency_of(pressing)
            if not self._overall.take(overall):
                overall = await self._overall.wait(pressing)
        except BaseException:
            self._own.release(own)
            raise
        return own, overall

    def release(self, own: Urgency, overall: Urgency | None = None) -> None:
        """Give a place back that was taken with the same urgencies at this host, and of all."""
        self._overall.release(own if overall is None else overall)
        self._own.release(own)


class ThreadLimiter:
    """What `trio.to_thread.run_sync` takes for a limiter: a place of *places* for one thread."""

    __slots__ = ("_places", "_pressing", "_taken")

    def __init__(self, places: HostPlaces, pressing: Pressing) -> None:
        self._places = places
        self._pressing = pressing
        self._taken = (urgency_of(pressing),) * 2

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Take a place, and wait for it if need be."""
        self._taken = (urgency_of(self._pressing),) * 2
        if not self._places.take(self._taken[0]):
            self._taken = await self._places.wait(self._pressing)

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a place back."""
        self._places.release(*self._taken)


class Meter:
    """How fast a host was lately: medians, so that a stall or a stale connection changes little."""

    def __init__(self, default: Pace = DEFAULT_PACE) -> None:
        self._latencies: deque[float] = deque(maxlen=_LATE)
        self._bandwidths: deque[float] = deque(maxlen=_LATE)
        self._default = default
        self._pace: Pace | None = default

    @property
    def pace(self) -> Pace:
        """The pace of late, where nothing was seen yet the default."""
        if self._pace is None:
            latency, bandwidth = self._default
            if self._latencies:
                latency = _median(self._latencies)
            if self._bandwidths:
                bandwidth = _median(self._bandwidths)
            self._pace = Pace(latency, bandwidth)
        return self._pace

    def waited(self, seconds: float) -> None:
        """Count the *seconds* to the first byte of a reply."""
        self._latencies.append(seconds)
        self._pace = None

    def came(self, count: int, seconds: float) -> None:
        """Count the *seconds* in which *count* bytes of a body came, if they tell something."""
        if count >= _BULK and seconds > 0:
            self._bandwidths.append(count / seconds)
            self._pace = None


def _median(values: Iterable[float]) -> float:
    """Return the median, the upper of two in the middle."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


class Latencies:
    """How long fetches took lately, apart by their size: each class goes to four times the one before."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}

    def add(self, size: int, seconds: float) -> None:
        """Count a fetch of *size* bytes."""
        number = size.bit_length() // 2
        found = self._classes.get(number)
        if found is None:
            found = self._classes[number] = _Class()
        found.add(seconds)

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
