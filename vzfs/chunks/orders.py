"""What is sent for: pieces, the proofs that they may be read, and those that are got together."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import trio

from vzfs.access import AuthorizedRange
from vzfs.cache import DiskCache
from vzfs.chunks.arrivals import Arrival
from vzfs.chunks.pins import Place, place_of
from vzfs.errors import SourceError
from vzfs.model.location import ByteRange, Checksum
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.source import Haste, Urgency

type Piece = tuple[Place, int, int, Checksum | None]
"""What identifies bytes within one mount: object, offset, length, and the version asked for."""


class Wanted(NamedTuple):
    """A piece and the proof that it may be read; *near* names what it lies with, if it is native."""

    identity: Piece
    proof: AuthorizedRange
    kind: ChunkKind
    near: str


class Order:
    """Pieces of one object that are got together. *was_sought* once the disk was asked for them.

    *urgency* is that with which they were sent for, and *haste* how urgent they are since.
    """

    __slots__ = ("arrivals", "haste", "scope", "urgency", "wanted", "was_sought")

    def __init__(
        self, wanted: Sequence[Wanted], arrivals: Sequence[Arrival], urgency: Urgency
    ) -> None:
        self.wanted = wanted
        self.arrivals = arrivals
        self.urgency = urgency
        self.haste = Haste(urgency)
        self.scope = trio.CancelScope()
        self.was_sought = False

    def has_readers(self) -> bool:
        """Whether anybody waits for any of it."""
        return any(arrival.readers for arrival in self.arrivals)

    def missing(self) -> list[tuple[Wanted, Arrival]]:
        """Return what has neither landed nor failed."""
        pairs = zip(self.wanted, self.arrivals, strict=True)
        return [(wanted, arrival) for wanted, arrival in pairs if not arrival.has_ended]


@contextlib.asynccontextmanager
async def room(
    disk: DiskCache | None, order: Order, missing: Sequence[tuple[Wanted, Arrival]]
) -> AsyncIterator[None]:
    """Have *missing*, which is of *order*, got in the block, when *disk* has room for it.

    Who waits for bytes does not wait for the disk; what it has no room for is not cached.
    """
    if disk is None:
        yield
        return
    size = sum(wanted.proof.max_length for wanted, _ in missing)
    if order.haste.urgency is Urgency.AHEAD:
        with trio.CancelScope() as scope, order.haste.heard_by(scope.cancel):
            await disk.wait_for_room(size)
    with disk.expecting(size):
        yield


def wanted_of(whole: AuthorizedRange, ref: ChunkRef, piece: ByteRange, near: str) -> Wanted:
    """Return a piece of the chunk of *ref*, whose proof is *whole*."""
    proof = whole if piece.length == ref.length else whole.part(piece)
    identity = place_of(proof), ref.offset + piece.offset, piece.length, proof.checksum
    return Wanted(identity, proof, ref.kind, near)


def range_of(wanted: Wanted) -> ByteRange:
    """Return which bytes of its object a piece is."""
    _, offset, length, _ = wanted.identity
    return ByteRange(offset, length)


async def all_of(calls: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Make *calls* at the same time. Raises the SourceError of the first that fails, and ends the others."""
    errors: list[SourceError] = []

    async def make(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except SourceError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(make, call)
    if errors:
        raise errors[0]
