"""How much may be under way at a time, in bytes; who comes first goes first."""

import contextlib
from collections import deque
from collections.abc import AsyncIterator

import trio


class Room:
    """Room for *size* bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @contextlib.asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Wait for room for *size* bytes, and have it. Who asks for more than there is has it alone."""
        size = min(size, self._size)
        await self._enter(size)
        try:
            yield
        finally:
            self._leave(size)

    async def _enter(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        waiting = size, trio.Event()
        self._waiting.append(waiting)
        try:
            await waiting[1].wait()
        except trio.Cancelled:
            if waiting[1].is_set():
                self._leave(size)
            else:
                self._waiting.remove(waiting)
                self._let_in()
            raise

    def _leave(self, size: int) -> None:
        self._free += size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, entered = self._waiting.popleft()
            self._free -= size
            entered.set()
