"""Chunk grids and chunk key encodings: coordinates <-> flat indices <-> names in a store.

A flat index is the C-order position of a chunk in its grid. It is a Python integer of any size
here; a manifest's columns hold those below 2**63.
"""

import dataclasses
import enum
import functools
import itertools
import math
import operator
import re
from typing import Literal

_COORDINATE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")


@dataclasses.dataclass(frozen=True)
class ChunkGrid:
    """How an array's elements are cut into chunks.

    *shape* counts chunks along each dimension; () is a 0-d array, which has one chunk.
    *max_chunk_nbytes* bounds a chunk's decoded size in bytes, at least 1.
    """

    shape: tuple[int, ...]
    max_chunk_nbytes: int = 1

    @functools.cached_property
    def strides(self) -> tuple[int, ...]:
        """How far apart in flat indices two neighbours along each dimension lie."""
        if not self.shape:
            return ()
        tail = itertools.accumulate(reversed(self.shape[1:]), operator.mul, initial=1)
        return tuple(reversed(list(tail)))

    @functools.cached_property
    def size(self) -> int:
        """The number of chunks in the grid, present or not."""
        return math.prod(self.shape)

    def ravel(self, coords: tuple[int, ...]) -> int:
        """Return the flat index of the chunk at *coords*, which lie inside the grid."""
        return _dot(coords, self.strides)

    def unravel(self, flat: int) -> tuple[int, ...]:
        """Return the coordinates of the chunk with flat index *flat*."""
        coords = []
        for stride in self.strides:
            c, flat = divmod(flat, stride)
            coords.append(c)
        return tuple(coords)

    def contains(self, coords: tuple[int, ...]) -> bool:
        """Whether *coords*, or the first few of them, lie inside the grid."""
        return len(coords) <= len(self.shape) and all(
            c < n for c, n in zip(coords, self.shape, strict=False)
        )

    def span(self, prefix: tuple[int, ...]) -> tuple[int, int]:
        """Return the flat indices [low, high) of all chunks whose coordinates begin with *prefix*."""
        if not prefix:
            return 0, self.size
        stride = self.strides[len(prefix) - 1]
        low = _dot(prefix, self.strides[: len(prefix)])
        return low, low + stride


def _dot(coords: tuple[int, ...], strides: tuple[int, ...]) -> int:
    # Of integers it is one, whatever its annotation says, and exact.
    return math.sumprod(coords, strides)  # type: ignore[return-value]


class KeyStyle(enum.StrEnum):
    """The two chunk key encodings of Zarr v3."""

    DEFAULT = "default"
    V2 = "v2"


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkKeyEncoding:
    """How a chunk's coordinates are written in its key: `c/0/1`, `c.0.1`, `0/1` or `0.1`."""

    style: KeyStyle = KeyStyle.DEFAULT
    separator: Literal["/", "."] = "/"

    def encode(self, coords: tuple[int, ...]) -> str:
        """Return the key of the chunk at *coords*."""
        if self.style is KeyStyle.DEFAULT:
            return self.separator.join(["c", *map(str, coords)])
        return self.separator.join(map(str, coords)) if coords else "0"

    def decode(self, key: str, ndim: int) -> tuple[int, ...] | None:
        """Return the coordinates that *key* names, or None; exactly the inverse of `encode`."""
        parts = key.split(self.separator)
        if self.style is KeyStyle.DEFAULT:
            if parts[0] != "c":
                return None
            parts = parts[1:]
        elif ndim == 0:
            return () if key == "0" else None
        if len(parts) != ndim or not all(map(_COORDINATE.match, parts)):
            return None
        return tuple(map(int, parts))

    def depth(self, ndim: int) -> int:
        """Return how many directories lie between an array and its chunks."""
        if self.separator == ".":
            return 0
        return ndim if self.style is KeyStyle.DEFAULT else max(ndim - 1, 0)


def parse_coordinate(text: str) -> int | None:
    """Return the coordinate written as *text* (decimal, no leading zeros), or None."""
    return int(text) if _COORDINATE.match(text) else None
