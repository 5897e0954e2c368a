"""The memory cache: the buffers used last, up to a number of bytes.

It belongs to one event loop and never waits. What it counts is what it makes the process hold: each
buffer whole, and what it costs to know of it.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

OVERHEAD: Final = 400
"""Bytes that a kept buffer costs besides its content: key, table row, object header. A bound on
many tiny ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryCacheStatistics:
    """What the memory cache did so far; *entries* and *bytes_held* are of the moment."""

    hits: int
    misses: int
    evicted: int
    entries: int
    bytes_held: int


class MemoryCache:
    """Buffers by key, least recently used first out, *max_bytes* in all."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffers: OrderedDict[Hashable, bytes] = OrderedDict()
        self._held = 0
        self._hits = 0
        self._misses = 0
        self._evicted = 0

    def __len__(self) -> int:
        """Return the number of buffers held."""
        return len(self._buffers)

    def get(self, key: Hashable) -> bytes | None:
        """Return the buffer put last under *key*, if it is still held."""
        data = self._buffers.get(key)
        if data is None:
            self._misses += 1
            return None
        self._hits += 1
        self._buffers.move_to_end(key)
        return data

    def put(self, key: Hashable, data: bytes | memoryview) -> None:
        """Hold *data* under *key*, in place of what was there. What is larger than the whole cache is not held.

        A view is copied: held as it is, it would keep alive the larger buffer that it looks into.
        """
        self.discard(key)
        if memoryview(data).nbytes + OVERHEAD > self._max_bytes:
            return
        self._buffers[key] = held = bytes(data)
        self._held += len(held) + OVERHEAD
        while self._held > self._max_bytes:
            _, oldest = self._buffers.popitem(last=False)
            self._held -= len(oldest) + OVERHEAD
            self._evicted += 1

    def discard(self, key: Hashable) -> None:
        """Forget *key*, if it is there."""
        data = self._buffers.pop(key, None)
        if data is not None:
            self._held -= len(data) + OVERHEAD

    def statistics(self) -> MemoryCacheStatistics:
        """Return the counts so far."""
        return MemoryCacheStatistics(
            self._hits, self._misses, self._evicted, len(self._buffers), self._held
        )
