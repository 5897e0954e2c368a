"""Pieces on their way: buffers that fill, and readers who wait for a part of them.

A reader goes on as soon as the bytes that it wants are there, while the rest still comes. What has
arrived is never changed: a second attempt at the same bytes writes the same bytes, because it is
refused if it is of another version.
"""

from collections.abc import Callable
from typing import Final

import trio

from vzfs.errors import SourceError

type Buffer = bytes | memoryview
"""Bytes that do not change any more."""


class AbandonedError(Exception):
    """Nobody gets this piece any more, and nothing is known of its source: ask again."""


class _Waiting:
    __slots__ = ("high", "low", "woken")

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high
        self.woken = trio.Event()


class Arrival:
    """One piece of *length* bytes on its way, into a buffer that *take* gives.

    *was_wanted* once anybody waited for it.
    """

    __slots__ = ("_buffer", "_data", "_error", "_parts", "_take", "_waiting", "length", "was_wanted")  # fmt: skip

    def __init__(self, length: int, take: Callable[[int], memoryview]) -> None:
        self.length: Final = length
        self._take = take
        self.was_wanted = False
        self._buffer: memoryview | None = None
        self._data: Buffer | None = None
        self._error: Exception | None = None
        self._parts: list[_Part] = []
        self._waiting: list[_Waiting] = []

    @property
    def readers(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes: it landed or failed."""
        return self._data is not None or self._error is not None

    # -- for who reads -------------------------------------------------------------------------

    def have(self, low: int, high: int) -> Buffer | None:
        """Return the bytes [low, high) if they have come."""
        if self._data is not None:
            return memoryview(self._data)[low:high]
        if self._buffer is None or self._error is not None:
            return None
        for part in self._parts:
            if (
                part.start < high
                and part.start + part.count < min(part.end, high)
                and part.end > low
            ):
                return None
        return self._buffer[low:high].toreadonly()

    async def reach(self, low: int, high: int) -> Buffer:
        """Wait for the bytes [low, high) and return them.

        Raises what `fail` was given: a SourceError of its own for each reader, or AbandonedError.
        """
        self.was_wanted = True
        waiting = _Waiting(low, high)
        while (data := self.have(low, high)) is None:
            if self._error is not None:
                raise self._error
            self._waiting.append(waiting)
            try:
                await waiting.woken.wait()
            finally:
                self._waiting.remove(waiting)
            waiting.woken = trio.Event()
        return data

    # -- for who gets --------------------------------------------------------------------------

    def part(self, start: int, length: int, admit: Callable[[str], None]) -> "_Part":
        """Return the sink for a request that gets *length* bytes from *start* on.

        *admit* is called with the version of each reply, and raises SourceError if it is a wrong
        one. The parts of an arrival are all made before the first byte comes, and cover it.
        """
        part = _Part(self, start, start + length, admit)
        self._parts.append(part)
        return part

    def begin_again(self) -> None:
        """Forget the parts; those that come next begin with no bytes."""
        self._parts.clear()

    def land(self, data: Buffer) -> None:
        """Have arrived, as *data*."""
        self._data = data
        self._buffer = None
        self._parts.clear()  # they refer to it, and so would keep its memory until garbage is collected
        self._wake()

    def landed(self) -> Buffer:
        """Return the whole piece, once its parts have all come."""
        if self._data is None:
            self.land(self.room().toreadonly())
        assert self._data is not None  # noqa: S101 -- it has just landed
        return self._data

    def fail(self, error: Exception) -> None:
        """Tell who waits that nothing more comes."""
        self._error = error
        self._parts.clear()  # as above
        self._wake()

    def room(self) -> memoryview:
        """Return the buffer that parts are read into."""
        if self._buffer is None:
            self._buffer = self._take(self.length)
        return self._buffer

    def progress(self) -> None:
        """Let go on who has what it waits for."""
        for waiting in self._waiting:
            if self.have(waiting.low, waiting.high) is not None:
                waiting.woken.set()

    def _wake(self) -> None:
        for waiting in self._waiting:
            waiting.woken.set()


class _Part:
    """A sink into a part of one arrival."""

    __slots__ = ("_admit", "_arrival", "count", "end", "start")

    def __init__(
        self, arrival: Arrival, start: int, end: int, admit: Callable[[str], None]
    ) -> None:
        self._arrival = arrival
        self._admit = admit
        self.start = start
        self.end = end
        self.count = 0

    def begin(self, version: str) -> memoryview:
        """Return where the bytes go. Raises SourceError for a version that is not admitted."""
        self._admit(version)
        return self._arrival.room()[self.start : self.end]

    def came(self, count: int) -> None:
        """Take note that the first *count* bytes are there."""
        if count > self.count:
            self.count = count
            self._arrival.progress()


class Span:
    """A sink for the bytes of several arrivals that lie near each other, as one request gets them.

    *places* are (offset in the span, arrival), ascending. Each lands as soon as it is complete, on
    bytes of its own: nothing keeps what nobody wanted. *land* is told.
    """

    def __init__(
        self,
        length: int,
        places: list[tuple[int, Arrival]],
        take: Callable[[int], memoryview],
        admit: Callable[[str], None],
        land: Callable[[Arrival], None],
    ) -> None:
        self._places = places
        self._take = take
        self._admit = admit
        self._land = land
        self._next = 0
        self._length = length
        self._buffer: memoryview | None = None

    def begin(self, version: str) -> memoryview:
        """Return where the bytes go. Raises SourceError for a version that is not admitted."""
        self._admit(version)
        if self._buffer is None:
            self._buffer = self._take(self._length)
        return self._buffer

    def came(self, count: int) -> None:
        """Land what is complete."""
        while self._next < len(self._places):
            start, arrival = self._places[self._next]
            end = start + arrival.length
            if end > count or self._buffer is None:
                return
            self._next += 1
            if not arrival.has_ended:
                arrival.land(bytes(self._buffer[start:end]))
                self._land(arrival)


def bare(error: SourceError) -> SourceError:
    """Return *error* to keep: what was raised holds on to the frames it came through, and to their bytes."""
    return SourceError(error.kind, error.what, where=error.where, advice=error.advice)
