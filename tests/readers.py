"""Readers that walk through chunk grids, and what following them costs and gains.

An *order* lists the chunks that a reader wants. `in_flight` makes of it the order in which the
kernel asks for them. `follow` lets `Walks` see that, and counts.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from vzfs.walks import Walks

Coords = tuple[int, ...]
Axis = range | Sequence[int]


def nested(*axes: Axis, order: Sequence[int] | None = None) -> list[Coords]:
    """Walk through the product of *axes*; *order* names them from the innermost, C order unsaid."""
    order = range(len(axes) - 1, -1, -1) if order is None else order
    walked = itertools.product(*(axes[axis] for axis in reversed(order)))
    place = {axis: i for i, axis in enumerate(reversed(order))}
    return [tuple(step[place[axis]] for axis in range(len(axes))) for step in walked]


def c_order(*shape: int) -> list[Coords]:
    return nested(*map(range, shape))


def f_order(*shape: int) -> list[Coords]:
    return nested(*map(range, shape), order=range(len(shape)))


def jumps(shape: Sequence[int], start: int, step: int) -> list[Coords]:
    """Walk through every *step*-th chunk in C order."""
    return c_order(*shape)[start::step]


def blocks(shape: Sequence[int], block: Sequence[int], *, descending: bool) -> list[list[Coords]]:
    """Cut the grid into blocks, each walked in C order, the blocks in C order or the reverse."""
    starts = nested(*(range(0, n, b) for n, b in zip(shape, block, strict=True)))
    cut = [
        nested(*(range(s, min(s + b, n)) for s, b, n in zip(start, block, shape, strict=True)))
        for start in starts
    ]
    return cut[::-1] if descending else cut


def in_flight(order: Iterable[Coords], count: int, chance: random.Random) -> Iterator[Coords]:
    """Ask for *order* with *count* requests in flight, which reach the kernel in any order.

    Whenever one does, the next is sent, so requests are overtaken by others any number of times.
    """
    waiting = iter(order)
    pending = list(itertools.islice(waiting, count))
    while pending:
        i = chance.randrange(len(pending))
        pending[i], pending[-1] = pending[-1], pending[i]
        yield pending.pop()
        pending.extend(itertools.islice(waiting, 1))


def at_once(*readers: Iterable[Coords], chance: random.Random) -> Iterator[Coords]:
    """Let several readers take turns at random until all are done."""
    going = [iter(reader) for reader in readers]
    while going:
        reader = chance.choice(going)
        try:
            yield next(reader)
        except StopIteration:
            going.remove(reader)


def workers(tasks: Iterable[list[Coords]], count: int, chance: random.Random) -> Iterator[Coords]:
    """Let *count* threads do tasks, the next free one the next task, one request in flight each."""
    waiting = iter(tasks)
    going = [iter(task) for task in itertools.islice(waiting, count)]
    while going:
        i = chance.randrange(len(going))
        try:
            yield next(going[i])
        except StopIteration:
            following = next(waiting, None)
            if following is None:
                del going[i]
            else:
                going[i] = iter(following)


@dataclasses.dataclass
class Outcome:
    """What following a reader came to, in chunks."""

    touched: int = 0
    foretold: int = 0
    in_vain: int = 0
    batches: int = 0
    most_outstanding: int = 0
    too_late: int = 0  # asked for after somebody had touched it

    @property
    def coverage(self) -> float:
        """The share of touches that were foretold."""
        return self.foretold / self.touched

    @property
    def waste(self) -> float:
        """Chunks got in vain for each that was touched."""
        return self.in_vain / self.touched


def follow(walks: Walks, asked_for: Iterable[Coords], limit: int = 128) -> Outcome:
    """Let *walks* see what is asked for, each chunk once, as the page cache has it."""
    outcome = Outcome()
    got: set[Coords] = set()
    touched: set[Coords] = set()
    unread = 0
    for coords in asked_for:
        if coords in touched:
            continue
        touched.add(coords)
        if coords in got:
            outcome.foretold += 1
            unread -= 1
        batch = walks.touch(coords, limit)
        outcome.batches += bool(batch)
        for ahead in batch:
            outcome.too_late += ahead in touched
            unread += ahead not in touched
            got.add(ahead)
        outcome.most_outstanding = max(outcome.most_outstanding, unread)
    outcome.touched = len(touched)
    outcome.in_vain = len(got - touched)
    return outcome
