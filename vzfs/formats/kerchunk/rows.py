"""Refs gathered as columns, and the manifest that they make; chunk keys, many at a time, as flat indices.

A ref is some bytes of an object, a whole object of a length that is not known yet, bytes given with
it, or something that nobody can read. The last is a chunk that exists all the same.
"""

import base64
import binascii
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vzfs.formats.kerchunk.locations import unreadable
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    Column,
    Manifest,
    StringTable,
    ascending,
    narrow,
)

type Int64s = Column[np.int64]

WHOLE: Final = -1
"""The length of a ref that is a whole object."""
UNKNOWN: Final = -2
"""The length of a ref that nobody can read."""
MAX_END: Final = 2**63 - 1

_BASE64: Final = b"base64:"
_NEWLINE: Final = ord("\n")
_ZERO: Final = ord("0")
_DIGITS: Final = 18
"""Of a coordinate that is read together with others."""


class Draft(NamedTuple):
    """A manifest, of which the rows *whole* are objects whose lengths, 0 so far, are not known."""

    manifest: Manifest
    whole: Int64s


class Columns(NamedTuple):
    """Refs, one in each row: *location* is a number, -1 for bytes that were given.

    Those are *inline[offset : offset + length]*. A *length* may be `WHOLE` or `UNKNOWN`.
    """

    location: Int64s
    offset: Int64s
    length: Int64s


def draft(
    flat: Int64s,
    columns: Columns,
    locations: Sequence[str],
    inline: bytes | bytearray,
    grid: ChunkGrid,
) -> Draft:
    """Return the manifest of the refs *columns* at the flat indices *flat*, of equal ones the last.

    What nobody can read is as long as a chunk of *grid* can be: an empty file would be read as one.
    """
    # A stable sort keeps the order of equal indices.
    order = np.argsort(flat, kind="stable")
    flat = flat[order]
    if len(flat):
        keep = np.append(flat[1:] != flat[:-1], True)
        flat, order = flat[keep], order[keep]
    location, offset, length = (column[order] for column in columns)
    used, codes = np.unique(np.maximum(location, 0), return_inverse=True)
    is_inline = location < 0
    manifest = Manifest(
        index=ascending(flat),
        kind=narrow(np.where(is_inline, ChunkKind.INLINE, ChunkKind.VIRTUAL)),
        location=narrow(codes.reshape(-1)),
        offset=narrow(offset),
        length=narrow(np.maximum(np.where(length == UNKNOWN, grid.max_chunk_nbytes, length), 0)),
        checksum=narrow(np.zeros(len(flat), np.int64)),
        locations=StringTable.of([locations[i] for i in used] if not is_inline.all() else []),
        checksums=ChecksumTable.of([]),
        inline=bytes(inline),
    )
    return Draft(manifest, np.flatnonzero(length == WHOLE))


class Gathered:
    """Refs of the keys in one folder, as they come."""

    def __init__(self) -> None:
        self.names: Final[list[str]] = []
        self._location = array("q")
        self._offset = array("q")
        self._length = array("q")

    def add(self, name: str, location: int, offset: int, length: int) -> None:
        """Add the ref of the key that ends in *name*: see `Columns`."""
        self.names.append(name)
        self._location.append(location)
        self._offset.append(offset)
        self._length.append(length)

    def columns(self) -> Columns:
        """Return what was added."""
        parts = (self._location, self._offset, self._length)
        return Columns(*(np.frombuffer(part, np.int64) for part in parts))


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the rows of *parts* one after another."""
    return Columns(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def picked(columns: Columns, rows: Int64s) -> Columns:
    """Return *rows* of *columns*."""
    return Columns(*(column[rows] for column in columns))


def is_range(offset: object, length: object) -> bool:
    """Whether these are an offset and a length in bytes."""
    if type(offset) is not int or type(length) is not int:
        return False
    return offset >= 0 and length >= 0 and offset + length <= MAX_END


def malformed(what: object) -> str:
    """Return the location of a chunk whose reference is *what*, and no reference."""
    return unreadable(f"the reference is malformed: {str(what)[:200]!a}")


def unpacked(given: bytes) -> bytes | None:
    """Return the bytes that stand in a reference, None if they cannot be decoded."""
    if not given.startswith(_BASE64):
        return given
    try:
        # Like kerchunk's own readers, which pass over what is no digit.
        return base64.b64decode(given.removeprefix(_BASE64))
    except binascii.Error:
        return None


# -- chunk keys ----------------------------------------------------------------------------------


def flat_indices(keys: Sequence[str], grid: ChunkGrid, encoding: ChunkKeyEncoding) -> Int64s:
    """Return the flat index in *grid* of the chunk that each of *keys* names, -1 where it names none."""
    coordinates = _together(keys, len(grid.shape), encoding)
    if coordinates is not None:
        inside = (coordinates < np.array(grid.shape, np.int64)).all(axis=1)
        # Outside of the grid the sum may overflow, and does not count.
        return np.where(inside, coordinates @ np.array(grid.strides, np.int64), -1)
    found = np.full(len(keys), -1, np.int64)
    for i, key in enumerate(keys):
        coords = encoding.decode(key, len(grid.shape))
        if coords is not None and grid.contains(coords):
            found[i] = grid.ravel(coords)
    return found


def _together(
    keys: Sequence[str], ndim: int, encoding: ChunkKeyEncoding
) -> npt.NDArray[np.int64] | None:
    """Return the coordinates in *keys*, a row for each, if each has *ndim* of them, well written."""
    if not ndim or not keys:
        return None
    if encoding.style is KeyStyle.DEFAULT:
        head = "c" + encoding.separator
        if not all(key.startswith(head) for key in keys):
            return None
        keys = [key[2:] for key in keys]
    text = np.frombuffer(("\n".join(keys) + "\n").encode("utf-8", "replace"), np.uint8)
    is_mark = (text < _ZERO) | (text > _ZERO + 9)
    ends = np.flatnonzero(is_mark)
    if len(ends) != ndim * len(keys):
        return None
    marks = [ord(encoding.separator)] * (ndim - 1) + [_NEWLINE]
    if not (text[ends].reshape(-1, ndim) == marks).all():
        return None
    starts = np.append(0, ends[:-1] + 1)
    widths = ends - starts
    if widths.min() < 1 or widths.max() > _DIGITS:
        return None
    if ((text[starts] == _ZERO) & (widths > 1)).any():
        return None
    values = np.zeros(len(starts), np.int64)
    for place in range(int(widths.max())):
        rows = np.flatnonzero(widths > place)
        values[rows] = values[rows] * 10 + (text[starts[rows] + place] - _ZERO)
    return values.reshape(-1, ndim)
