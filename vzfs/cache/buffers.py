"""Memory for large pieces, used again and again.

Memory that is new to a process is given to it page by page, which takes several times as long as
filling it does. So large buffers are kept here, and one into which nobody looks any more is filled
again before another is made.
"""

import sys
import threading
from typing import Any, Final

import numpy as np

LARGE: Final = 2**20
"""Bytes from which on a buffer is worth keeping."""
SLACK: Final = 8
"""A buffer may be longer than what is put into it by one part in so many."""
MAX_IDLE: Final = 64 * 2**20
"""Bytes of buffers that wait for their next use."""

_ALONE: Final = 3
"""References to a buffer that only this module knows: the list's, the loop's and the call's."""


class Buffers:
    """Buffers for whoever asks, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[np.ndarray[Any, np.dtype[np.uint8]]] = []

    def take(self, size: int) -> memoryview:
        """Return a writable view of *size* bytes, whatever they are.

        Its memory is used again once neither it nor any view made of it exists.
        """
        if size < LARGE:
            return memoryview(bytearray(size))
        with self._lock:
            found = self._idle(size)
            if found is None:
                found = np.empty(size + size // SLACK // 2, np.uint8)
            self._kept.append(found)
        return memoryview(found)[:size]

    def _idle(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """Take out a buffer of about *size* that nobody uses; let go of what has waited longest."""
        kept, idle, best = [], 0, None
        for buffer in reversed(self._kept):
            # A view of a buffer refers to it.
            if sys.getrefcount(buffer) > _ALONE:
                kept.append(buffer)
            elif best is None and size <= len(buffer) <= size + size // SLACK:
                best = buffer
            elif idle + len(buffer) <= MAX_IDLE:
                idle += len(buffer)
                kept.append(buffer)
        kept.reverse()
        self._kept = kept
        return best
