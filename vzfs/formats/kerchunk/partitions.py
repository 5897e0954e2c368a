"""References in Parquet: one file of documents, and for each array a table for every so many chunks.

Row r of the partition p speaks for the chunk with the flat index p * record_size + r. Such a run of
chunks is no box of the grid, but falls into a few: each is a region for which the partition speaks.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.kerchunk.jsonfile import DOCUMENTS, Documents, document, parted
from vzfs.formats.kerchunk.locations import location_of, unreadable
from vzfs.formats.kerchunk.rows import (
    MAX_END,
    UNKNOWN,
    WHOLE,
    Columns,
    Draft,
    draft,
    picked,
    unpacked,
)
from vzfs.formats.kerchunk.scanning import Scanner, corrupt, text_of
from vzfs.formats.parquet.table import MAX_ROWS, Table, Texts, read_table
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import Prefix
from vzfs.model.snapshot import Extents

MAX_METADATA: Final = 2**28
"""Bytes of `.zmetadata`."""
MAX_PARTITION: Final = 2**29
"""Bytes of a partition."""

_MAX_RECORD: Final = 2**31


class ReferenceSet(NamedTuple):
    """What `.zmetadata` says: the *documents*, and how many rows a partition has.

    *others* are the keys in it that are no documents.
    """

    documents: Documents
    record_size: int
    others: Sequence[str]


def decode_metadata(data: bytes, limit: int = MAX_METADATA) -> ReferenceSet | None:
    """Read `.zmetadata`; None if it belongs to no set of references. Raises FormatError."""
    scanner = Scanner(text_of(data, limit))
    if scanner.peek() != "{":
        return None
    documents: dict[str, dict[str, bytes | None]] = {}
    others: list[str] = []
    record_size: object = None
    for member in scanner.members():
        if member == "metadata" and scanner.peek() == "{":
            for key in scanner.members():
                start = scanner.at
                value = scanner.value()
                folder, name = parted(key)
                if name not in DOCUMENTS:
                    others.append(key)
                    continue
                text = value if isinstance(value, str) else scanner.text[start : scanner.at]
                document(documents, folder, name, text.encode("utf-8", "replace"))
        elif member == "record_size":
            record_size = scanner.value()
        else:
            scanner.value()
    scanner.finish()
    if record_size is None:
        return None
    if type(record_size) is not int or not 0 < record_size < _MAX_RECORD:
        raise corrupt("the record size of the references is no number of rows")
    return ReferenceSet(documents, record_size, others)


def count_partitions(grid: ChunkGrid, record_size: int) -> int:
    """Return how many partitions the references of an array are in."""
    return -(-grid.size // record_size)


def regions(grid: ChunkGrid, record_size: int, partition: int) -> Sequence[Extents]:
    """Return the disjoint regions of *grid* that a partition speaks for, in the order of its rows."""
    low = partition * record_size
    return [Extents(box) for box in _boxes(grid, (), low, min(low + record_size, grid.size))]


type _Box = tuple[tuple[int, int], ...]


def _boxes(grid: ChunkGrid, head: _Box, low: int, high: int) -> Iterator[_Box]:
    """Yield the boxes that make up the flat indices [low, high) of what lies below *head*."""
    axis = len(head)
    if low >= high:
        return
    if axis == len(grid.shape):
        yield head
        return
    stride = grid.strides[axis]
    first, before = divmod(low, stride)
    last, beyond = divmod(high, stride)
    if first == last:
        yield from _boxes(grid, (*head, (first, first + 1)), before, beyond)
        return
    if before:
        yield from _boxes(grid, (*head, (first, first + 1)), before, stride)
        first += 1
    if first < last:
        rest = tuple((0, count) for count in grid.shape[axis + 1 :])
        yield (*head, (first, last), *rest)
    if beyond:
        yield from _boxes(grid, (*head, (last, last + 1)), 0, beyond)


def decode_partition(
    data: bytes, partition: int, record_size: int, grid: ChunkGrid, folder: Prefix
) -> Draft:
    """Read a partition of the references of an array with this *grid*. Raises FormatError.

    Relative locations are in *folder*.
    """
    first = partition * record_size
    expected = min(record_size, grid.size - first)
    if expected > MAX_ROWS:
        raise FormatError(
            ErrorKind.UNSUPPORTED_FORMAT,
            f"a partition of the references has more than {MAX_ROWS} rows",
            advice="write it with a smaller record size",
        )
    table = read_table(data, integers=("offset", "size"), texts=("path", "raw"), max_rows=expected)
    if table.rows > record_size or table.rows < expected:
        # Then rows are not the chunks that they seem to be.
        raise corrupt(
            f"a partition of the references has {table.rows} rows, and the record size is {record_size}"
        )
    return _drafted(table, first, expected, grid, folder)


def _drafted(table: Table, first: int, rows: int, grid: ChunkGrid, folder: Prefix) -> Draft:
    nothing = Texts(np.full(rows, -1, np.int32), ())
    zeros, none = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    path, raw = (table.texts.get(name, nothing) for name in ("path", "raw"))
    offset, size = (table.integers.get(name, zeros) for name in ("offset", "size"))
    is_null = table.nulls.get("offset", none) | table.nulls.get("size", none)
    given = [unpacked(value) for value in raw.values]
    locations = [_location(value, folder) for value in path.values]
    malformed = len(locations)
    locations.append(unreadable("the reference is malformed: its offset or size is none"))

    is_inline = raw.codes >= 0
    is_virtual = ~is_inline & (path.codes >= 0)
    is_whole = is_virtual & ~is_null & (offset == 0) & (size == 0)
    is_bad = is_virtual & ~is_whole
    is_bad &= is_null | (offset < 0) | (size <= 0) | (offset > MAX_END - np.maximum(size, 0))
    # Bytes that could not be decoded count as a reference that nobody can read.
    decodes = np.array([data is not None for data in given], np.bool_)
    if not decodes.all():
        is_bad |= is_inline & ~decodes[np.maximum(raw.codes, 0)]
        is_inline &= ~is_bad
    lengths = np.array([len(data or b"") for data in given] or [0], np.int64)
    starts = np.cumsum(lengths) - lengths
    code = np.maximum(raw.codes, 0)

    columns = Columns(
        location=np.where(is_inline, -1, np.where(is_bad, malformed, path.codes)),
        offset=np.where(is_inline, starts[code], np.where(is_whole | is_bad, 0, offset)),
        length=np.where(
            is_inline, lengths[code], np.where(is_bad, UNKNOWN, np.where(is_whole, WHOLE, size))
        ),
    )
    there = np.flatnonzero(is_inline | is_virtual | is_bad)
    inline = b"".join(data or b"" for data in given)
    return draft(first + there, picked(columns, there), locations, inline, grid)


def _location(value: bytes, folder: Prefix) -> str:
    try:
        text = str(value, "utf-8")
    except UnicodeDecodeError:
        return unreadable("the reference names a location that is not UTF-8")
    return location_of(text, folder) if text else unreadable("the reference names no object")
