"""What to ask a source for, so that reading chunks costs few requests and little in vain. Pure.

A chunk up to `WHOLE_LIMIT` is one *piece*: it is got whole at its first read, since the kernel asks
in steps and a reader wants all of it. A larger one (an array in one piece, say) has pieces of
`BLOCK`, and a shard of `SHARD_BLOCK`, so that reading a part of it costs a part of it. The same
bytes are always in the same piece, in memory and in the caches too.

Pieces are got by requests. Those that lie near each other in one object come by one (`spans`). A
large piece comes by several at once (`parts`), where one connection would take long.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from vzfs.model.location import ByteRange

WHOLE_LIMIT: Final = 16 * 2**20
"""Bytes up to which a chunk is got whole: what readers hold in memory several times anyway."""
BLOCK: Final = 4 * 2**20
"""Bytes of a piece of a larger chunk: at 90 MB/s a connection, about two first-byte latencies of 20
ms."""
SHARD_BLOCK: Final = 256 * 2**10
"""Bytes of a piece of a shard, whose inner chunks are tens to hundreds of KiB."""

SHORTEST_SPAN: Final = 2**20
LONGEST_SPAN: Final = 8 * 2**20
"""Bytes of a request for several pieces: the first of them should not wait long for the last."""
SPAN_LATENCIES: Final = 1.5
"""How long its body should take, in latencies of its host: so few requests are under way at a time
that each costs little, and enough that their waiting overlaps."""
LARGEST_GAP: Final = 256 * 2**10
"""Bytes between two pieces that are got in vain rather than asking twice."""
GAP_LATENCIES: Final = 1 / 32
"""How long it should take to get them in vain."""
GAP_SHARE: Final = 16
"""Of how many bytes one may be got in vain."""

MIN_PART: Final = 2**20
"""Bytes of a part of a piece: less costs more in requests than it gains."""
PART_SECONDS: Final = 0.012
"""How long the body of a part should take. Half of a first-byte latency of object stores: what else
a piece takes is then mostly waiting that nobody can shorten."""


def pieces(length: int, offset: int, size: int, block: int = 0) -> list[ByteRange]:
    """Return the pieces of a chunk of *length* bytes that hold its bytes [offset, offset + size).

    The pieces are adjacent and ascending. *block* is their length, 0 for one that holds all.
    """
    end = min(offset + size, length)
    if end <= offset:
        return []
    if not block:
        return [ByteRange(0, length)]
    starts = range(offset - offset % block, end, block)
    return [ByteRange(start, min(block, length - start)) for start in starts]


def block_of(length: int, *, is_shard: bool = False) -> int:
    """Return the length of the pieces of a chunk of *length* bytes, 0 if it is one piece."""
    if is_shard:
        return SHARD_BLOCK if length > SHARD_BLOCK else 0
    return BLOCK if length > WHOLE_LIMIT else 0


def parts(length: int, bandwidth: float) -> list[ByteRange]:
    """Return how a piece of *length* bytes is shared among requests that are made at once.

    *bandwidth* is what one connection gives, in bytes/s. Parts are of about equal length.
    """
    count = max(int(length // max(bandwidth * PART_SECONDS, MIN_PART)), 1)
    bounds = [length * i // count for i in range(count + 1)]
    return [ByteRange(low, high - low) for low, high in itertools.pairwise(bounds)]


def spans(ranges: Sequence[ByteRange], latency: float, bandwidth: float) -> Iterator[list[int]]:
    """Yield which of *ranges*, all of one object, come by one request each: their numbers, by offset.

    *latency*, in seconds to the first byte, and *bandwidth*, in bytes/s of one connection, are what
    their host was seen to give. A request for several has of `GAP_SHARE` bytes at most one that
    nobody wants.
    """
    meanwhile = latency * bandwidth
    longest = min(max(SPAN_LATENCIES * meanwhile, SHORTEST_SPAN), LONGEST_SPAN)
    largest = min(GAP_LATENCIES * meanwhile, LARGEST_GAP)
    order = sorted(range(len(ranges)), key=lambda i: ranges[i].offset)
    group: list[int] = []
    start = end = in_vain = 0
    for i in order:
        piece = ranges[i]
        gap = max(piece.offset - end, 0)
        length = max(piece.end, end) - start
        if group and (gap > largest or length > longest or (in_vain + gap) * GAP_SHARE > length):
            yield group
            group = []
        if not group:
            start, end, in_vain, gap = piece.offset, piece.offset, 0, 0
        group.append(i)
        end = max(end, piece.end)
        in_vain += gap
    if group:
        yield group


def gaps(ranges: Sequence[ByteRange]) -> int:
    """Return how many bytes between the first and the last of *ranges*, sorted by offset, are in none."""
    found = 0
    end = ranges[0].offset if ranges else 0
    for piece in ranges:
        found += max(piece.offset - end, 0)
        end = max(end, piece.end)
    return found
