"""The memory cache: the buffers used last, up to a number of bytes.

It belongs to one event loop and never waits. What it counts is what it makes the process hold: each
buffer whole, and what it costs to know of it.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from vzfs.cache.buffers import SLACK

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
        self._buffers: OrderedDict[Hashable, bytes | memoryview] = OrderedDict()
        self._held = 0
        self._hits = 0
        self._misses = 0
        self._evicted = 0

    def __len__(self) -> int:
        """Return the number of buffers held."""
        return len(self._buffers)

    def __contains__(self, key: Hashable) -> bool:
        """Whether a buffer is held under *key*. Counts as no use."""
        return key in self._buffers

    def get(self, key: Hashable) -> bytes | memoryview | None:
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

        A view of a part of a larger buffer is copied: held as it is, it would keep all of it alive.
        """
        self.discard(key)
        size = memoryview(data).nbytes
        if size + OVERHEAD > self._max_bytes:
            return
        is_all = isinstance(data, bytes) or (
            data.readonly and memoryview(data.obj).nbytes * (SLACK - 1) <= size * SLACK
        )
        held = self._buffers[key] = data if is_all else bytes(data)
        self._held += _cost(held)
        while self._held > self._max_bytes and self._buffers:
            _, oldest = self._buffers.popitem(last=False)
            self._held -= _cost(oldest)
            self._evicted += 1

    def discard(self, key: Hashable) -> None:
        """Forget *key*, if it is there."""
        data = self._buffers.pop(key, None)
        if data is not None:
            self._held -= _cost(data)

    def statistics(self) -> MemoryCacheStatistics:
        """Return the counts so far."""
        return MemoryCacheStatistics(
            self._hits, self._misses, self._evicted, len(self._buffers), self._held
        )


def _cost(data: bytes | memoryview) -> int:
    """Return what holding *data* costs: the buffer whole into which it looks."""
    size = len(data) if isinstance(data, bytes) else memoryview(data.obj).nbytes
    return size + OVERHEAD
