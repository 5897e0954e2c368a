"""Many files to references: at most so many at a time, and each failure by the name of its file."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import trio

from vzfs.errors import VzfsError
from vzfs.model.location import Location
from vzfs.model.references import References

type Parse = Callable[[Location], Awaitable[References]]
"""Makes references of a file. Raises VzfsError if that cannot be."""
type Heard = Callable[[str, int, int], object]
"""Is told what is being done, how much of it is done, and of how much."""

MAX_PARSED: Final = 32
"""Files that are parsed, or looked up in the cache, at a time."""
DOING: Final = "parsing files"


class Failure(NamedTuple):
    """A file that cannot be ingested, and why."""

    where: str
    error: VzfsError


class Parsed(NamedTuple):
    """What files hold, in the order in which they were given, and those that failed."""

    parts: Sequence[tuple[str, References]]
    failures: Sequence[Failure]


async def parse_files(
    files: Sequence[Location], parse: Parse, heard: Heard, *, at_a_time: int = MAX_PARSED
) -> Parsed:
    """Parse all *files*; one that fails does not end the others."""
    found: list[References | VzfsError | None] = [None] * len(files)
    remaining = iter(range(len(files)))
    done = 0

    async def work() -> None:
        nonlocal done
        for i in remaining:
            try:
                found[i] = await parse(files[i])
            except VzfsError as error:
                found[i] = error
            done += 1
            heard(DOING, done, len(files))

    heard(DOING, 0, len(files))
    async with trio.open_nursery() as nursery:
        for _ in range(min(at_a_time, len(files))):
            nursery.start_soon(work)
    named = [(str(file), made) for file, made in zip(files, found, strict=True)]
    return Parsed(
        [(where, made) for where, made in named if isinstance(made, References)],
        [Failure(where, made) for where, made in named if isinstance(made, VzfsError)],
    )
