"""Chunks: from a chunk ref to bytes, through caches, of one version, with few requests."""

from vzfs.chunks.ahead import ReadAhead, near
from vzfs.chunks.chunks import Chunks
from vzfs.chunks.pins import read_alike
from vzfs.chunks.statistics import ChunksStatistics

__all__ = ["Chunks", "ChunksStatistics", "ReadAhead", "near", "read_alike"]
