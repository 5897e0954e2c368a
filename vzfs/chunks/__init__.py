"""Chunks: from a chunk ref to bytes, through caches, of one version, with few requests."""

from vzfs.chunks.ahead import ReadAhead
from vzfs.chunks.chunks import Chunks, ChunksStatistics, read_alike

__all__ = ["Chunks", "ChunksStatistics", "ReadAhead", "read_alike"]
