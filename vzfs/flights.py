"""Single flight: of several tasks that want the same thing at the same time, one goes and gets it."""

from collections.abc import Awaitable, Callable

import trio


class _Flight[V]:
    """One lead under way: its landing, and what came of it."""

    __slots__ = ("error", "is_abandoned", "landed", "value")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.value: V | None = None
        self.error: Exception | None = None
        self.is_abandoned = True


class Flights[K, V]:
    """What is being got at the moment, by key. Nothing is kept after landing."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def __len__(self) -> int:
        """Return how many leads are under way."""
        return len(self._flights)

    async def join(self, key: K, lead: Callable[[], Awaitable[V]]) -> V:
        """Return what *lead* returns, or raise what it raises, calling it once for all who wait.

        If the task that leads is cancelled, one of those who wait leads in its place.
        """
        while True:
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, lead)
            await flight.landed.wait()
            if flight.error is not None:
                raise flight.error
            if not flight.is_abandoned:
                return flight.value  # type: ignore[return-value]  # set when not abandoned

    async def _lead(self, key: K, lead: Callable[[], Awaitable[V]]) -> V:
        flight = self._flights[key] = _Flight[V]()
        try:
            flight.value = await lead()
            flight.is_abandoned = False
        except Exception as error:
            flight.error = error
            raise
        else:
            return flight.value
        finally:
            del self._flights[key]
            flight.landed.set()
