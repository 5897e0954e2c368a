"""FlatBuffers, read with every offset checked: tables, vectors, strings, structs.

A buffer is a graph of tables linked by offsets, and nothing keeps a hostile one from pointing to
the same vector a million times, to make work or memory that its size does not suggest. So a
`Buffer` keeps accounts: what is read out of it as strings, byte vectors and vector elements may not
exceed *twice* its own length altogether, which no buffer without such tricks comes near. Strings
are read once each.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from vzfs.errors import FormatError
from vzfs.formats.icechunk.envelope import corrupt

_U8: Final = struct.Struct("<B").unpack_from
_U16: Final = struct.Struct("<H").unpack_from
_U32: Final = struct.Struct("<I").unpack_from
_I32: Final = struct.Struct("<i").unpack_from
_U64: Final = struct.Struct("<Q").unpack_from

_IDENTIFIER: Final = b"Ichk"


class Buffer:
    """The bytes that tables point into, and what has been read out of them so far."""

    __slots__ = ("_budget", "_strings", "data", "size")

    def __init__(self, data: memoryview) -> None:
        self.data: Final = data
        self.size: Final = len(data)
        self._budget = 2 * len(data)
        self._strings: dict[int, str] = {}

    def root(self) -> "Table":
        """Return the root table. Raises FormatError if the buffer is not Icechunk's."""
        if self.size < 8 or bytes(self.data[4:8]) != _IDENTIFIER:
            raise corrupt("the payload is not one of Icechunk's flatbuffers")
        return Table(self, self.follow(0))

    def charge(self, nbytes: int) -> None:
        """Enter *nbytes* in the accounts. Raises FormatError where they no longer add up."""
        self._budget -= nbytes
        if self._budget < 0:
            raise corrupt("parts of the file overlap: it claims more content than it has bytes")

    def follow(self, position: int) -> int:
        """Return the position that the offset at *position* points to."""
        if position < 0 or position + 4 > self.size:
            raise _outside()
        target = position + int(_U32(self.data, position)[0])
        if target + 4 > self.size:
            raise _outside()
        return target

    def vector(self, position: int, width: int) -> tuple[int, int]:
        """Return (first byte, count) of the vector at *position* with elements of *width* bytes."""
        count: int = _U32(self.data, position)[0]
        if position + 4 + width * count > self.size:
            raise _outside()
        self.charge(4 + width * count)
        return position + 4, count

    def string(self, position: int) -> str:
        """Return the string at *position*."""
        text = self._strings.get(position)
        if text is None:
            start, count = self.vector(position, 1)
            try:
                text = str(self.data[start : start + count], "utf-8")
            except UnicodeDecodeError:
                raise corrupt("a string of the file is not UTF-8") from None
            self._strings[position] = text
        return text


class Table:
    """One table: its fields by number, in the order in which the schema declares them.

    A field that is absent reads as its default. Every `required_` method raises FormatError
    instead.
    """

    __slots__ = ("_buffer", "_end", "_position", "_vtable", "_vtable_end")

    def __init__(self, buffer: Buffer, position: int) -> None:
        data, size = buffer.data, buffer.size
        if position < 0 or position + 4 > size:
            raise _outside()
        vtable = position - _I32(data, position)[0]
        if vtable < 0 or vtable + 4 > size:
            raise _outside()
        vtable_length = _U16(data, vtable)[0]
        self._end: Final = position + _U16(data, vtable + 2)[0]
        if vtable_length < 4 or vtable + vtable_length > size or self._end > size:
            raise _outside()
        self._buffer: Final = buffer
        self._position: Final = position
        self._vtable: Final = vtable
        self._vtable_end: Final = vtable + vtable_length

    def _find(self, field: int, width: int) -> int:
        """Return the position of *field*, which has *width* bytes in the table, or 0 if absent."""
        entry = self._vtable + 4 + 2 * field
        if entry + 2 > self._vtable_end:
            return 0
        offset = _U16(self._buffer.data, entry)[0]
        if not offset:
            return 0
        position: int = self._position + offset
        if offset < 4 or position + width > self._end:
            raise _outside()
        return position

    def u8(self, field: int, default: int = 0) -> int:
        """Return an unsigned byte."""
        position = self._find(field, 1)
        return int(_U8(self._buffer.data, position)[0]) if position else default

    def u32(self, field: int) -> int:
        """Return an unsigned 32-bit integer, 0 by default."""
        position = self._find(field, 4)
        return int(_U32(self._buffer.data, position)[0]) if position else 0

    def i32(self, field: int) -> int:
        """Return a signed 32-bit integer, 0 by default."""
        position = self._find(field, 4)
        return int(_I32(self._buffer.data, position)[0]) if position else 0

    def u64(self, field: int) -> int:
        """Return an unsigned 64-bit integer, 0 by default."""
        position = self._find(field, 8)
        return int(_U64(self._buffer.data, position)[0]) if position else 0

    def fixed(self, field: int, length: int) -> bytes | None:
        """Return the bytes of a struct of *length* bytes."""
        position = self._find(field, length)
        return bytes(self._buffer.data[position : position + length]) if position else None

    def required_fixed(self, field: int, length: int) -> bytes:
        """Return the bytes of a struct that must be there."""
        found = self.fixed(field, length)
        if found is None:
            raise _missing(field)
        return found

    def string(self, field: int) -> str | None:
        """Return a string."""
        position = self._find(field, 4)
        return self._buffer.string(self._buffer.follow(position)) if position else None

    def required_string(self, field: int) -> str:
        """Return a string that must be there."""
        found = self.string(field)
        if found is None:
            raise _missing(field)
        return found

    def blob(self, field: int) -> bytes | None:
        """Return a vector of bytes."""
        position = self._find(field, 4)
        if not position:
            return None
        start, count = self._buffer.vector(self._buffer.follow(position), 1)
        return bytes(self._buffer.data[start : start + count])

    def required_blob(self, field: int) -> bytes:
        """Return a vector of bytes that must be there."""
        found = self.blob(field)
        if found is None:
            raise _missing(field)
        return found

    def table(self, field: int) -> "Table | None":
        """Return a table."""
        position = self._find(field, 4)
        return Table(self._buffer, self._buffer.follow(position)) if position else None

    def required_table(self, field: int) -> "Table":
        """Return a table that must be there."""
        found = self.table(field)
        if found is None:
            raise _missing(field)
        return found

    def vector(self, field: int, width: int) -> tuple[int, int] | None:
        """Return (first byte, count) of a vector with elements of *width* bytes."""
        position = self._find(field, 4)
        return self._buffer.vector(self._buffer.follow(position), width) if position else None

    def required_vector(self, field: int, width: int) -> tuple[int, int]:
        """Return (first byte, count) of a vector that must be there."""
        found = self.vector(field, width)
        if found is None:
            raise _missing(field)
        return found

    def tables(self, field: int) -> Iterator["Table"]:
        """Iterate over a vector of tables, empty if absent."""
        start, count = self.vector(field, 4) or (0, 0)
        for position in range(start, start + 4 * count, 4):
            yield Table(self._buffer, self._buffer.follow(position))

    def required_tables(self, field: int) -> Iterator["Table"]:
        """Iterate over a vector of tables that must be there."""
        if not self._find(field, 4):
            raise _missing(field)
        return self.tables(field)

    def required_strings(self, field: int) -> Sequence[str]:
        """Return a vector of strings that must be there."""
        start, count = self.required_vector(field, 4)
        positions = range(start, start + 4 * count, 4)
        return [self._buffer.string(self._buffer.follow(p)) for p in positions]

    def structs(self, field: int, layout: struct.Struct) -> list[tuple[int, ...]] | None:
        """Return a vector of structs of integers, each unpacked by *layout*."""
        found = self.vector(field, layout.size)
        if found is None:
            return None
        start, count = found
        return list(layout.iter_unpack(self._buffer.data[start : start + layout.size * count]))


def _outside() -> FormatError:
    return corrupt("an offset of the file points outside it")


def _missing(field: int) -> FormatError:
    return corrupt(f"a table of the file lacks its required field {field}")
