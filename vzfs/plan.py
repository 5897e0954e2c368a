"""Which bytes of a chunk to get for one read. Pure.

A chunk up to `WHOLE_LIMIT` is got whole at its first read, since the kernel asks in steps of
128 KiB and a reader wants all of it. A larger one (a shard, or an array in one piece) is got in
aligned blocks, so that reading a part of it costs a part of it.
"""

from typing import Final

from vzfs.model.location import ByteRange

WHOLE_LIMIT: Final = 16 * 2**20
"""Bytes up to which a chunk is got in one piece: what readers hold in memory several times
anyway."""
BLOCK: Final = 4 * 2**20
"""Bytes of a piece of a larger chunk: at 90 MB/s a connection, about two first-byte latencies of 20
ms."""


def pieces(length: int, offset: int, size: int) -> list[ByteRange]:
    """Return the pieces of a chunk of *length* bytes that hold its bytes [offset, offset + size).

    The pieces are adjacent and ascending; the same bytes are always in the same piece.
    """
    end = min(offset + size, length)
    if end <= offset:
        return []
    if length <= WHOLE_LIMIT:
        return [ByteRange(0, length)]
    starts = range(offset - offset % BLOCK, end, BLOCK)
    return [ByteRange(start, min(BLOCK, length - start)) for start in starts]
