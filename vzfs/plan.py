"""What to ask a source for, so that reading chunks costs few requests and little in vain. Pure.

A chunk up to `WHOLE_LIMIT` is one *piece*: it is got whole at its first read, since the kernel asks
in steps and a reader wants all of it. A larger one (an array in one piece, say) has pieces of
`BLOCK`, and a shard of `SHARD_BLOCK`, so that reading a part of it costs a part of it. The same
bytes are always in the same piece, in memory and in the caches too.

Pieces are got by requests. Those that lie near each other in one object come by one (`spans`). A
large piece comes by several at once (`parts`), where one connection would take long.
"""

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

MAX_SPAN: Final = 4 * 2**20
"""Bytes of a request for several pieces: the first of them should not wait long for the last."""
MAX_GAP: Final = 64 * 2**10
"""Bytes between two pieces that are got in vain rather than asking twice."""
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
    return [ByteRange(low, high - low) for low, high in zip(bounds, bounds[1:], strict=False)]


def spans(ranges: Sequence[ByteRange]) -> Iterator[list[int]]:
    """Yield which of *ranges*, all of one object, come by one request each: their numbers, by offset.

    A request has at most `MAX_SPAN` bytes, unless one range alone is larger, and of `GAP_SHARE`
    bytes at most one that nobody wants.
    """
    order = sorted(range(len(ranges)), key=lambda i: ranges[i].offset)
    group: list[int] = []
    start = end = in_vain = 0
    for i in order:
        piece = ranges[i]
        gap = max(piece.offset - end, 0)
        is_near = (
            gap <= MAX_GAP
            and max(piece.end, end) - start <= MAX_SPAN
            and (in_vain + gap) * GAP_SHARE <= max(piece.end, end) - start
        )
        if group and not is_near:
            yield group
            group = []
        if not group:
            start, end, in_vain, gap = piece.offset, piece.offset, 0, 0
        group.append(i)
        end = max(end, piece.end)
        in_vain += gap
    if group:
        yield group
