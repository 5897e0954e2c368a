"""The chunk caches: one in memory, one on disk. Nothing outside depends on what they hold.

A cache answers with exactly the bytes that were put under a key, or with None; it never fails a
read. `memory` is bounded and belongs to one mount. `disk` is the cache that mounts, processes and
machines share and that restarts do not empty. Below it lie, from the bytes up: `entry` and `segment`
(what a file is), `folder` and `sweep` (system calls), `health` and `guard` (a disk's troubles),
`shelves` (what is known) and `library` (shelves in the folder), `singles` (files of one entry),
`unwritten` and `writer`, `eviction` (arithmetic) and `passes`. `buffers` is memory for large pieces.
"""

from vzfs.cache.buffers import LARGE, Buffers
from vzfs.cache.disk import DiskCache, DiskCacheStatistics
from vzfs.cache.entry import EntryKey
from vzfs.cache.memory import MemoryCache, MemoryCacheStatistics
from vzfs.cache.segment import SMALL

__all__ = [
    "LARGE",
    "SMALL",
    "Buffers",
    "DiskCache",
    "DiskCacheStatistics",
    "EntryKey",
    "MemoryCache",
    "MemoryCacheStatistics",
]
