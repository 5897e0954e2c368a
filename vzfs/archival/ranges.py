"""The file that a parser reads: seekable, read-only, and got piece by piece from whoever may read it.

A parser jumps about and reads a few bytes here and there; so it gets blocks, ever more of them in one
request as long as it goes forward, and keeps those that it used last.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from vzfs.archival.wire import MAX_ASKED

BLOCK: Final = 256 * 2**10
"""Bytes that are asked for at least, but at the end of the file."""
MOST_AHEAD: Final = 16
"""Blocks of one request."""
KEPT: Final = 256
"""Blocks that are kept: 64 MiB."""
DIRECT: Final = 4 * BLOCK
"""Bytes of a read from which on it is not kept: it is data, not metadata."""


class RangeFile(io.RawIOBase):
    """A file of *size* bytes, of which *ask* gives the range at an offset, of a length, exactly."""

    def __init__(self, size: int, ask: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size = size
        self._ask = ask
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._behind = -1
        self._ahead = 1

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether one can go about in it."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("there is nothing before the beginning of a file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 -- whatever has a buffer
        """Fill *buffer*, or as much of it as the file still has; return how much."""
        into = memoryview(buffer).cast("B")
        length = max(min(len(into), self._size - self._position), 0)
        done = 0
        while done < length:
            part = self._part(self._position + done, length - done)
            into[done : done + len(part)] = part
            done += len(part)
        self._position += length
        return length

    def _part(self, offset: int, length: int) -> memoryview:
        """Return at most *length* bytes at *offset*, and at least one."""
        number, start = divmod(offset, BLOCK)
        block = self._blocks.get(number)
        if block is None and length >= DIRECT:
            return memoryview(self._ask(offset, min(length, MAX_ASKED)))
        if block is None:
            block = self._get(number)
        self._blocks.move_to_end(number)
        return memoryview(block)[start : start + length]

    def _get(self, number: int) -> bytes:
        """Get a block, and some behind it if those before it were got last."""
        self._ahead = min(2 * self._ahead, MOST_AHEAD) if number == self._behind else 1
        offset = number * BLOCK
        data = self._ask(offset, min(self._ahead * BLOCK, self._size - offset))
        self._behind = number + self._ahead
        for at in range(0, len(data), BLOCK):
            self._blocks[number + at // BLOCK] = data[at : at + BLOCK]
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)
        return self._blocks[number]
