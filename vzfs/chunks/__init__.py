"""Chunks: from a chunk ref to bytes, through caches, of one version, with few requests."""

from vzfs.chunks.ahead import ReadAhead, near
from vzfs.chunks.chunks import Chunks, ChunksStatistics, read_alike

__all__ = ["Chunks", "ChunksStatistics", "ReadAhead", "near", "read_alike"]
