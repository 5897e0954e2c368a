"""Thrift's compact protocol: the headers of Parquet files, as fields by their numbers.

What the fields mean is for `table`. The number of values, and how deeply they nest, are bounded: a
byte can stand for a structure that takes a hundred.
"""

import struct
from collections.abc import Mapping
from typing import Final

from vzfs.errors import ErrorKind, FormatError

MAX_DEPTH: Final = 16
MAX_VALUES: Final = 2**18
"""Values of one structure with all that it holds: thousands of columns and row groups."""

_DOUBLE: Final = struct.Struct("<d")

type Fields = Mapping[int, object]
"""A structure: integers, floats, bytes, booleans, lists and structures by their field numbers."""


def corrupt(what: str) -> FormatError:
    """Return the error that says that a file contradicts its own format."""
    return FormatError(ErrorKind.CORRUPT_METADATA, f"the Parquet file is damaged: {what}")


def decode_struct(data: memoryview, at: int = 0) -> tuple[Fields, int]:
    """Decode the structure that begins at *at*, and return it with where it ends. Raises FormatError."""
    decoder = _Decoder(data, at)
    return decoder.struct(0), decoder.at


class _Decoder:
    def __init__(self, data: memoryview, at: int) -> None:
        self.at = at
        self._data = data
        self._left = MAX_VALUES

    def struct(self, depth: int) -> dict[int, object]:
        if depth > MAX_DEPTH:
            raise corrupt("a header is nested too deeply")
        found: dict[int, object] = {}
        number = 0
        while (head := self._byte()) != 0:
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._signed()
            found[number] = kind == 1 if kind in {1, 2} else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> object:
        self._left -= 1
        if self._left < 0:
            raise corrupt("a header has too many values")
        match kind:
            case 1 | 2:  # Within a list, a boolean is a byte of its own.
                return self._byte() == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._signed()
            case 7:
                return _DOUBLE.unpack(self._bytes(8))[0]
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                return self._list(depth + 1)
            case 11:
                self._pass_map(depth + 1)
                return None
            case 12:
                return self.struct(depth + 1)
        raise corrupt(f"a header has a field of the unknown type {kind}")

    def _list(self, depth: int) -> list[object]:
        if depth > MAX_DEPTH:
            raise corrupt("a header is nested too deeply")
        head = self._byte()
        count = head >> 4
        if count == 15:
            count = self._unsigned()
        self._check_count(count)
        return [self._value(head & 15, depth) for _ in range(count)]

    def _pass_map(self, depth: int) -> None:
        """Pass over a map: Parquet's headers have none that is wanted."""
        count = self._unsigned()
        self._check_count(count)
        kinds = self._byte() if count else 0
        if depth > MAX_DEPTH:
            raise corrupt("a header is nested too deeply")
        for _ in range(count):
            self._value(kinds >> 4, depth)
            self._value(kinds & 15, depth)

    def _check_count(self, count: int) -> None:
        # Every value takes a byte at least.
        if count > len(self._data) - self.at:
            raise corrupt("a header ends early")

    def _byte(self) -> int:
        if self.at >= len(self._data):
            raise corrupt("a header ends early")
        self.at += 1
        return self._data[self.at - 1]

    def _bytes(self, length: int) -> bytes:
        if length > len(self._data) - self.at:
            raise corrupt("a header ends early")
        self.at += length
        return bytes(self._data[self.at - length : self.at])

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise corrupt("a header has a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
