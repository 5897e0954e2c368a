"""Columns of chunk refs, moved, divided and put together; whole columns at a time. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from vzfs.model.location import Checksum, ETag
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    Column,
    Manifest,
    StringTable,
    ascending,
    narrow,
)

MAX_ROWS: Final = 200_000_000
"""Refs of one array."""

type Integers = Column[np.int64]


class Merger:
    """Puts the refs of several manifests of one array into one. No index may come twice."""

    def __init__(self) -> None:
        self._columns: list[tuple[Integers, ...]] = []
        self._locations: dict[str, int] = {}
        self._checksums: dict[Checksum, int] = {}
        self._inline: list[memoryview] = []
        self._inlined = 0

    def add(
        self,
        manifest: Manifest,
        index: Integers,
        *,
        rows: Integers | None = None,
        skip: Integers | None = None,
        length: int | None = None,
    ) -> None:
        """Add refs of *manifest* as the chunks with the flat indices *index*.

        They are all of them, or those that *rows* names, one or more times; of each then *skip*
        bytes are left out at the beginning, and *length* bytes taken.
        """
        if not len(manifest):
            return
        kind, location, offset, lengths, checksum = (
            (column if rows is None else column[rows]).astype(np.int64)
            for column in (
                manifest.kind,
                manifest.location,
                manifest.offset,
                manifest.length,
                manifest.checksum,
            )
        )
        if skip is not None:
            offset = offset + skip
        if length is not None:
            lengths = np.full(len(index), length, np.int64)
        is_inline = kind == ChunkKind.INLINE
        if len(manifest.locations):
            numbers = [
                self._locations.setdefault(x, len(self._locations)) for x in manifest.locations
            ]
            location = np.where(is_inline, 0, np.array(numbers)[np.where(is_inline, 0, location)])
        if len(manifest.checksums):
            numbers = [
                self._checksums.setdefault(x, len(self._checksums)) for x in manifest.checksums
            ]
            checksum = np.array([0, *(1 + number for number in numbers)])[checksum]
        if len(manifest.inline):
            offset = np.where(is_inline, offset + self._inlined, offset)
            self._inline.append(manifest.inline)
            self._inlined += len(manifest.inline)
        self._columns.append((index, kind, location, offset, lengths, checksum))

    def build(self) -> Manifest:
        """Return the manifest of all that was added."""
        empty = (np.empty(0, np.int64),) * 6
        parts = zip(*(self._columns or [empty]), strict=True)
        index, kind, location, offset, length, checksum = (np.concatenate(part) for part in parts)
        if np.any(np.diff(index) <= 0):
            order = np.argsort(index, kind="stable")
            index, kind, location, offset, length, checksum = (
                column[order] for column in (index, kind, location, offset, length, checksum)
            )
        known = sorted(self._checksums, key=lambda c: not isinstance(c, ETag))
        renumbered = np.zeros(len(known) + 1, np.int64)
        for number, value in enumerate(known, 1):
            renumbered[self._checksums[value] + 1] = number
        return Manifest(
            index=ascending(index),
            kind=narrow(kind),
            location=narrow(location),
            offset=narrow(offset),
            length=narrow(length),
            checksum=narrow(renumbered[checksum]),
            locations=StringTable.of(list(self._locations)),
            checksums=ChecksumTable.of(known),
            inline=b"".join(self._inline),
        )


def moved(index: Integers, grid: Sequence[int], axis: int, start: int, count: int) -> Integers:
    """Return where chunks of a *grid* are in one with *count* chunks along *axis*, if they begin at *start* there."""
    inner = math.prod(grid[axis + 1 :])
    outer, rest = np.divmod(index, grid[axis] * inner)
    return outer * (count * inner) + rest + start * inner


def divided(
    manifest: Manifest, extent: int, chunk: int, part: int, inner: int, row: int
) -> tuple[Integers, Integers, Integers] | None:
    """Divide chunks of *chunk* rows, of which an array has *extent*, into chunks of *part* rows.

    A row has *row* bytes, and *inner* chunks lie beside each other along the other axes. Returns flat
    indices, rows of *manifest*, and bytes to skip; None if a chunk is not as long as its rows are.
    """
    index = manifest.indices(0, len(manifest))
    if np.any(manifest.length != chunk * row):
        return None
    pieces = chunk // part
    rows = np.repeat(np.arange(len(index)), pieces)
    number = np.tile(np.arange(pieces), len(index))
    outer, rest = np.divmod(np.repeat(index, pieces), inner)
    begin = outer * pieces + number
    # Behind the end of the array is what chunks are padded with.
    is_there = begin * part < extent
    flat = begin * inner + rest
    order = np.argsort(flat[is_there], kind="stable")
    return flat[is_there][order], rows[is_there][order], (number * (part * row))[is_there][order]
