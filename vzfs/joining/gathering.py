"""Many small reads at a time, and no more than so many."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

MAX_AT_A_TIME: Final = 32
"""Things that are looked at together. What reads for them has limits of its own."""


async def each[T](
    items: Sequence[T],
    do: Callable[[T], Awaitable[None]],
    heard: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Do something with each of *items*; what the first failure raises is raised, and ends the others.

    *heard* is told how many are done, of how many.
    """
    done = 0
    failure: Exception | None = None
    remaining = iter(items)

    async def work(nursery: trio.Nursery) -> None:
        nonlocal done, failure
        for item in remaining:
            try:
                await do(item)
            except Exception as error:  # noqa: BLE001 -- raised again below, without a group around it
                failure = failure or error
                nursery.cancel_scope.cancel()
                return
            done += 1
            heard(done, len(items))

    async with trio.open_nursery() as nursery:
        for _ in range(min(MAX_AT_A_TIME, len(items))):
            nursery.start_soon(work, nursery)
    if failure is not None:
        raise failure
