"""FlexBuffers: values that describe themselves, as spec 2 stores metadata and configuration.

A buffer ends with its root value, that value's type and its width. A type byte holds the type above
and, in the lowest two bits, the logarithm of a width: that of the elements, for what lies behind an
offset. Offsets count backwards, so there are no cycles, but a value may be pointed to again and
again; a document of a hundred bytes could unfold to billions of values. Values, and characters of
distinct strings, are therefore counted against the length of the buffer.
"""

import enum
import struct
from typing import Final

from vzfs.errors import FormatError
from vzfs.formats.icechunk.envelope import corrupt

MAX_KEY: Final = 32 * 1024
"""Bytes of a key, which may be the prefix of a container: four times as many as a location has
characters."""

MAX_DEPTH: Final = 100
"""Levels of nesting: JSON libraries stop at about as many, and Python's stack has room for them."""


class _Kind(enum.IntEnum):
    """Types of values. What is typed or fixed is a run of them, in the order INT, UINT, FLOAT."""

    NULL = 0
    INT = 1
    UINT = 2
    FLOAT = 3
    KEY = 4
    STRING = 5
    INDIRECT_INT = 6
    INDIRECT_UINT = 7
    INDIRECT_FLOAT = 8
    MAP = 9
    VECTOR = 10
    TYPED_INT = 11
    TYPED_STRING = 15
    FIXED_INT_2 = 16
    FIXED_FLOAT_4 = 24
    BLOB = 25
    BOOL = 26
    TYPED_BOOL = 36


_SCALARS: Final = frozenset({_Kind.NULL, _Kind.INT, _Kind.UINT, _Kind.FLOAT, _Kind.BOOL})
_CONTAINERS: Final = frozenset({*range(_Kind.MAP, _Kind.FIXED_FLOAT_4 + 1), _Kind.TYPED_BOOL})
_uint: Final = int.from_bytes
_FLOATS: Final = {2: struct.Struct("<e"), 4: struct.Struct("<f"), 8: struct.Struct("<d")}


def decode_flexbuffer(data: bytes) -> object:
    """Return the value in *data*: None, bool, int, float, str, bytes, list or dict with str keys.

    Raises FormatError.
    """
    if len(data) < 3:
        raise corrupt("a FlexBuffers value is shorter than any can be")
    width = data[-1]
    if width not in {1, 2, 4, 8}:
        raise corrupt(f"a FlexBuffers value has a root of {width} bytes")
    reader = _Reader(data)
    return reader.value(len(data) - 2 - width, width, data[-2], 0)


class _Reader:
    """One decoding: the bytes, and how many more values they may yield."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)
        self._budget = 2 * len(data) + 16
        self._strings: dict[tuple[int, int], str] = {}
        self._keys: dict[int, str] = {}

    def value(self, position: int, width: int, packed: int, depth: int) -> object:
        """Return the value of type *packed* whose slot of *width* bytes is at *position*."""
        self._charge(1)
        kind, child = packed >> 2, 1 << (packed & 3)
        if kind in _SCALARS:
            return self._scalar(kind, position, width)
        target = self._target(position, width)
        if kind in _CONTAINERS:
            if depth >= MAX_DEPTH:
                raise corrupt(f"a FlexBuffers value is nested deeper than {MAX_DEPTH} levels")
            return self._container(kind, target, child, depth)
        match kind:
            case _Kind.KEY:
                return self._key(target)
            case _Kind.STRING:
                size = self._size_of(target, child)
                return self._text(target, target + size)
            case _Kind.INDIRECT_INT:
                return self._int(target, child)
            case _Kind.INDIRECT_UINT:
                return self._uint(target, child)
            case _Kind.INDIRECT_FLOAT:
                return self._float(target, child)
            case _Kind.BLOB:
                size = self._size_of(target, child)
                self._charge(size)
                return self._data[target : target + size]
        raise corrupt(f"a FlexBuffers value has the unknown type {kind}")

    def _scalar(self, kind: int, position: int, width: int) -> object:
        match kind:
            case _Kind.NULL:
                return None
            case _Kind.INT:
                return self._int(position, width)
            case _Kind.UINT:
                return self._uint(position, width)
            case _Kind.FLOAT:
                return self._float(position, width)
        return self._uint(position, width) != 0

    def _container(self, kind: int, target: int, child: int, depth: int) -> object:
        match kind:
            case _Kind.VECTOR:
                count = self._count(target, child, child + 1)
                return self._elements(target, child, count, depth)
            case _Kind.MAP:
                return self._map(target, child, depth)
            case _Kind.TYPED_BOOL:
                count = self._count(target, child, child)
                return self._typed(target, child, count, _Kind.BOOL, depth)
            case _Kind.TYPED_STRING:
                # It does not say how wide its strings' lengths are; writers have given it up.
                raise corrupt("a FlexBuffers vector of strings does not say how to read them")
            case _ if kind < _Kind.TYPED_STRING:
                count = self._count(target, child, child)
                return self._typed(target, child, count, kind - _Kind.TYPED_INT + 1, depth)
        count, element = divmod(kind - _Kind.FIXED_INT_2, 3)
        return self._typed(target, child, count + 2, element + 1, depth)

    def _map(self, target: int, width: int, depth: int) -> dict[str, object]:
        count = self._count(target, width, width + 1)
        prefix = target - 3 * width
        keys = self._target(prefix, width)
        key_width = self._uint(prefix + width, width)
        if key_width not in {1, 2, 4, 8}:
            raise corrupt(f"a FlexBuffers map has keys of {key_width} bytes")
        if self._count(keys, key_width, key_width) != count:
            raise corrupt("a FlexBuffers map has more keys than values, or fewer")
        names = [self._key(self._target(keys + i * key_width, key_width)) for i in range(count)]
        return dict(zip(names, self._elements(target, width, count, depth), strict=True))

    def _elements(self, target: int, width: int, count: int, depth: int) -> list[object]:
        types = target + count * width
        return [
            self.value(target + i * width, width, self._data[types + i], depth + 1)
            for i in range(count)
        ]

    def _typed(self, target: int, width: int, count: int, element: int, depth: int) -> list[object]:
        packed = element << 2
        return [self.value(target + i * width, width, packed, depth + 1) for i in range(count)]

    def _count(self, target: int, width: int, element: int) -> int:
        """Return the size of the vector at *target*, all of whose elements lie in the buffer."""
        count = self._uint(target - width, width)
        if target + count * element > len(self._data):
            raise _outside()
        self._charge(count)
        return count

    def _size_of(self, target: int, width: int) -> int:
        """Return the length of the string or blob at *target*, which lies in the buffer."""
        size = self._uint(target - width, width)
        if target + size > len(self._data):
            raise _outside()
        return size

    def _target(self, position: int, width: int) -> int:
        target = position - self._uint(position, width)
        if target < 0:
            raise _outside()
        return target

    def _key(self, start: int) -> str:
        key = self._keys.get(start)
        if key is None:
            end = self._data.find(b"\0", start, start + MAX_KEY + 1)
            if end < 0:
                raise corrupt(f"a FlexBuffers key does not end within {MAX_KEY} bytes")
            key = self._keys[start] = self._text(start, end)
        return key

    def _text(self, start: int, end: int) -> str:
        text = self._strings.get((start, end))
        if text is None:
            self._charge(end - start)
            try:
                text = str(self._data[start:end], "utf-8")
            except UnicodeDecodeError:
                raise corrupt("a FlexBuffers string is not UTF-8") from None
            self._strings[start, end] = text
        return text

    def _int(self, position: int, width: int) -> int:
        return int.from_bytes(self._bytes(position, width), "little", signed=True)

    def _uint(self, position: int, width: int) -> int:
        # The most frequent step of all, so the check of `_bytes` is repeated here.
        end = position + width
        if position < 0 or end > self._size:
            raise _outside()
        return self._data[position] if width == 1 else _uint(self._data[position:end], "little")

    def _float(self, position: int, width: int) -> float:
        raw = self._bytes(position, width)
        if width not in _FLOATS:
            raise corrupt("a FlexBuffers float has one byte")
        number: float = _FLOATS[width].unpack(raw)[0]
        return number

    def _bytes(self, position: int, width: int) -> bytes:
        if position < 0 or position + width > len(self._data):
            raise _outside()
        return self._data[position : position + width]

    def _charge(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise corrupt("parts of a FlexBuffers value overlap: it claims more than it has bytes")


def _outside() -> FormatError:
    return corrupt("an offset of a FlexBuffers value points outside it")
