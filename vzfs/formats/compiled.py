"""Compiled manifests: the columns of a manifest file as they were decoded once, for memory to be mapped to.

| bytes | |
|---|---|
| 8 | magic: `VZFSMANI` |
| 4 | format version |
| 4 | length of the map |
| n | msgpack list: for each array its id, its number of rows, and where its columns and texts are |
| the rest | columns and texts, each at a multiple of 8 |

A column is a list: `[first, step]` counts up from the first row, `[value]` is the same in every row,
and `[width, place, 0]` lies at a place, as little-endian integers of so many bytes. Nothing is
copied: a manifest's columns are parts of what was decoded, which may be a file that is mapped.

This is what a cache holds, which has a checksum of its own. So what is checked here is what a
manifest has to be, whatever wrote it: nothing reaches outside the file, the grid, or a table.
"""

import codecs
import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgpack  # type: ignore[import-untyped]
import numpy as np

from vzfs.errors import ErrorKind, FormatError
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    Manifest,
    Narrow,
    StringTable,
)
from vzfs.model.snapshot import WantedArray

FORMAT_VERSION: Final = 1
"""Part of what is compiled, and of what it is called."""

_MAGIC: Final = b"VZFSMANI"
_PREFIX: Final = struct.Struct("<8sII")
_ALIGNMENT: Final = 8
_MAX_ROWS: Final = 2**27
"""Chunk refs of a manifest file: more than fit into one."""
_WIDTHS: Final = frozenset({1, 2, 4, 8})
_SAMPLE: Final = 2**20
"""Bytes of text that are looked at together."""

type _Spec = list[int]
"""What the map says of a column."""


def wanted_digest(wanted: Mapping[bytes, WantedArray]) -> str:
    """Return a name for what is *wanted* of a manifest file.

    It stays the same while an array grows along its first dimension, where its regions do.
    """
    asked = sorted(
        (
            node,
            array.grid.shape[1:],
            sorted(
                tuple(
                    (min(low, size), min(high, size))
                    for (low, high), size in zip(extents.ranges, array.grid.shape, strict=True)
                )
                for extents in array.extents
            ),
        )
        for node, array in wanted.items()
    )
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).hexdigest()


# -- encoding ----------------------------------------------------------------------------------


class _Body:
    """What lies behind the map, as it grows."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.size = 0

    def column(self, column: Narrow | range) -> _Spec:
        """Add *column*; return what the map says of it."""
        if isinstance(column, range):
            return [column.start, column.step]
        if not len(column):
            return [0]
        if column.strides == (0,):
            return [int(column[0])]
        width = column.dtype.itemsize
        return [width, self.text(column.astype(f"<u{width}", copy=False).data.cast("B"))[0], 0]

    def text(self, text: bytes | memoryview) -> list[int]:
        """Add *text*; return its place and size."""
        place, size = self.size, len(text)
        padding = -size % _ALIGNMENT
        self.parts += [text, bytes(padding)]
        self.size += size + padding
        return [place, size]

    def strings(self, strings: StringTable) -> list[object]:
        """Add a table; return its number of strings, and what the map says of the rest."""
        return [len(strings), self.column(strings.offsets), self.text(strings.data)]


def encode_compiled(manifests: Mapping[bytes, Manifest]) -> memoryview:
    """Return the *manifests* of one file, by the ids of their arrays, as `decode_compiled` reads them."""
    body = _Body()
    arrays = [
        [
            node,
            len(found),
            *map(
                body.column,
                (
                    found.index,
                    found.kind,
                    found.location,
                    found.offset,
                    found.length,
                    found.checksum,
                ),
            ),
            body.strings(found.locations),
            body.strings(found.checksums.etags),
            [len(found.checksums.dates), body.column(found.checksums.dates)],
            body.text(found.inline),
        ]
        for node, found in manifests.items()
    ]
    packed: bytes = msgpack.packb(arrays)
    head = _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(packed)) + packed
    head += bytes(-len(head) % _ALIGNMENT)
    return memoryview(b"".join([head, *body.parts]))


# -- decoding ----------------------------------------------------------------------------------


def decode_compiled(
    data: bytes | memoryview, wanted: Mapping[bytes, WantedArray]
) -> dict[bytes, Manifest]:
    """Return the manifests of the *wanted* arrays, whose columns are parts of *data*.

    Raises FormatError if that is not what *data* are.
    """
    view = memoryview(data).toreadonly().cast("B")
    if len(view) < _PREFIX.size:
        raise _damaged("it is cut short")
    magic, version, length = _PREFIX.unpack_from(view)
    if magic != _MAGIC or version != FORMAT_VERSION or length > len(view) - _PREFIX.size:
        raise _damaged("it is no compiled manifest")
    end = _PREFIX.size + length
    try:
        arrays = msgpack.unpackb(view[_PREFIX.size : end])
        body = _Reader(view[end + -end % _ALIGNMENT :])
        found = {node: body.manifest(wanted[node], *rest) for node, *rest in arrays}
    except (ValueError, TypeError, LookupError, OverflowError, msgpack.UnpackException) as error:
        raise _damaged(f"its map is damaged ({type(error).__name__})") from None
    if found.keys() != wanted.keys():
        raise _damaged("it is of other arrays")
    return found


class _Reader:
    """The *body* of what was compiled: everything behind its map."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    def manifest(
        self,
        wanted: WantedArray,
        rows: int,
        index: _Spec,
        kind: _Spec,
        location: _Spec,
        offset: _Spec,
        length: _Spec,
        checksum: _Spec,
        locations: Sequence[object],
        etags: Sequence[object],
        dates: Sequence[object],
        inline: _Spec,
    ) -> Manifest:
        """Return the manifest of one array."""
        if not 0 <= rows <= min(_MAX_ROWS, wanted.grid.size):
            raise _damaged("it has too many rows")
        found = Manifest(
            index=self._ascending(index, rows, is_strict=True),
            kind=self._column(kind, rows),
            location=self._column(location, rows),
            offset=self._column(offset, rows),
            length=self._column(length, rows),
            checksum=self._column(checksum, rows),
            locations=self._strings(rows, *locations),
            checksums=ChecksumTable(self._strings(rows, *etags), self._dates(rows, *dates)),
            inline=self._text(*inline),
        )
        _check(found, wanted)
        return found

    def _column(self, spec: _Spec, rows: int) -> Narrow:
        if len(_spec(spec)) == 1:
            value = np.uint64(spec[0])
            return np.broadcast_to(value.astype(np.min_scalar_type(value)), (rows,))
        width, place, _ = spec
        if width not in _WIDTHS:
            raise _damaged("a column has no width")
        column = np.frombuffer(self._part(place, width * rows), f"<u{width}", rows)
        return column.astype(f"u{width}", copy=False)

    def _ascending(self, spec: _Spec, rows: int, *, is_strict: bool = False) -> Narrow | range:
        if len(_spec(spec)) == 2:
            start, step = spec
            if start < 0 or step < 1:
                raise _damaged("a column does not ascend")
            return range(start, start + step * rows, step)
        column = self._column(spec, rows)
        wrong = column[1:] <= column[:-1] if is_strict else column[1:] < column[:-1]
        if wrong.any():
            raise _damaged("a column does not ascend")
        return column

    def _strings(self, rows: int, count: object, offsets: object, text: object) -> StringTable:
        # Each is of some row.
        if not isinstance(count, int) or not 0 <= count <= rows:
            raise _damaged("it has too many texts")
        table = StringTable(self._ascending(_spec(offsets), count + 1), self._text(*_spec(text)))
        if int(table.offsets[-1]) > len(table.data):
            raise _damaged("a text reaches outside it")
        _check_utf8(table)
        return table

    def _dates(self, rows: int, count: object, spec: object) -> Narrow:
        if not isinstance(count, int) or not 0 <= count <= rows:
            raise _damaged("it has too many dates")
        dates = self._column(_spec(spec), count)
        if dates.max(initial=0) >= 2**32:
            raise _damaged("a date is in no calendar")
        return dates

    def _text(self, place: int, size: int) -> memoryview:
        return self._part(place, size)

    def _part(self, place: int, size: int) -> memoryview:
        if place < 0 or size < 0 or place + size > len(self._body):
            raise _damaged("a column reaches outside it")
        return self._body[place : place + size]


def _spec(value: object) -> _Spec:
    if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
        raise TypeError
    return value


def _check(found: Manifest, wanted: WantedArray) -> None:
    """Raise FormatError unless all that a row of *found* can lead to is there."""
    if not len(found):
        return
    if int(found.index[-1]) >= wanted.grid.size:
        raise _damaged("a chunk lies outside its grid")
    if int(found.kind.max()) >= len(ChunkKind):
        raise _damaged("a chunk has no kind")
    if int(found.checksum.max()) > len(found.checksums):
        raise _damaged("a checksum is none of its table")
    if int(found.offset.max()) + int(found.length.max()) >= 2**63:
        offset, length = found.offset.astype(np.uint64), found.length.astype(np.uint64)
        if np.any(offset >= 2**63) or np.any(length >= 2**63 - offset):
            raise _damaged("a chunk ends beyond any object")
    has_location = True
    if int(found.kind.min()) == ChunkKind.INLINE:
        inline = found.kind == ChunkKind.INLINE
        has_location = not inline.all()
        ends = found.offset[inline].astype(np.uint64) + found.length[inline].astype(np.uint64)
        if int(ends.max()) > len(found.inline):
            raise _damaged("the bytes of a chunk lie outside it")
    if int(found.location.max()) >= max(len(found.locations), not has_location):
        raise _damaged("a location is none of its table")


def _check_utf8(table: StringTable) -> None:
    """Raise FormatError unless each text of *table* is UTF-8."""
    text = np.frombuffer(table.data, np.int8)
    # Bytes of ASCII are not negative.
    if text.min(initial=0) >= 0:
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text), _SAMPLE):
            decoder.decode(table.data[start : start + _SAMPLE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _damaged("a text is not UTF-8") from None
    offsets = np.asarray(table.offsets)
    heads = text[offsets[offsets < len(text)]]
    # Text that is valid as a whole is valid in parts if none begins inside a character.
    if np.any(heads.view(np.uint8) & 0xC0 == 0x80):
        raise _damaged("a text is not UTF-8")


def _damaged(what: str) -> FormatError:
    return FormatError(ErrorKind.CORRUPT_METADATA, f"a compiled manifest is damaged: {what}")
