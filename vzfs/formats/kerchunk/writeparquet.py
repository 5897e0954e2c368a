"""One Parquet file of references, as bytes: the columns path, offset, size and raw, in one row group.

It is of the first version of the format, which every reader has: pages are compressed by Zstandard,
*path* is a dictionary, and nulls say where there is neither an object nor bytes. Columns that would
be null alone are left out, as kerchunk leaves them out: of a null path pandas 3 over pyarrow makes
NaN, which fsspec takes for a path.
"""

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

_MAGIC: Final = b"PAR1"
_INT64, _BYTE_ARRAY = 2, 6
_REQUIRED, _OPTIONAL = 0, 1
_UTF8: Final = 0
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_ZSTD: Final = 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_MAX_PAGE: Final = 2**31 - 1

# Types of the compact protocol of Thrift.
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12

type _Field = tuple[int, int, object]
"""Number, type and value of a member of a struct; of a list the value is (type, values)."""


class _Column(NamedTuple):
    name: str
    type: int
    is_optional: bool
    is_text: bool
    pandas: tuple[str, str]


_COLUMNS: Final = {
    column.name: column
    for column in (
        _Column("path", _BYTE_ARRAY, is_optional=True, is_text=True, pandas=("unicode", "object")),
        _Column("offset", _INT64, is_optional=False, is_text=False, pandas=("int64", "int64")),
        _Column("size", _INT64, is_optional=False, is_text=False, pandas=("int64", "int64")),
        _Column("raw", _BYTE_ARRAY, is_optional=True, is_text=False, pandas=("bytes", "object")),
    )
}


class TooLargeError(ValueError):
    """A page has more bytes than a page can have."""


class Rows(NamedTuple):
    """Refs: *path* numbers *paths*, and is -1 where there is no object; *raw* are bytes given instead."""

    path: npt.NDArray[np.int64]
    paths: Sequence[str]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    raw: Sequence[bytes | None]


def parquet_file(rows: Rows) -> bytes:
    """Return the file. Raises TooLargeError if a column has more than 2 GiB."""
    count = len(rows.path)
    file = bytearray(_MAGIC)
    has_path = rows.path >= 0
    has_raw = np.fromiter((raw is not None for raw in rows.raw), bool, count)
    chunks: dict[str, bytes] = {}
    if has_path.any():
        dictionary = _strings([path.encode() for path in rows.paths])
        data = _levels(has_path) + _indices(rows.path[has_path], len(rows.paths))
        chunks["path"] = _column(file, "path", count, data, dictionary, len(rows.paths))
        for name, column in (("offset", rows.offset), ("size", rows.size)):
            chunks[name] = _column(file, name, count, column.astype("<i8").tobytes())
    if has_raw.any() or not chunks:
        data = _levels(has_raw) + _strings([raw for raw in rows.raw if raw is not None])
        chunks["raw"] = _column(file, "raw", count, data)
    total = len(file) - len(_MAGIC)
    group = _struct((1, _LIST, (_STRUCT, [*chunks.values()])), (2, _I64, total), (3, _I64, count))
    root = _struct((4, _BINARY, b"schema"), (5, _I32, len(chunks)))
    footer = _struct(
        (1, _I32, 1),
        (2, _LIST, (_STRUCT, [root, *(_element(_COLUMNS[name]) for name in chunks)])),
        (3, _I64, count),
        (4, _LIST, (_STRUCT, [group])),
        (5, _LIST, (_STRUCT, [_struct((1, _BINARY, b"pandas"), (2, _BINARY, _pandas(chunks)))])),
        (6, _BINARY, b"vzfs"),
    )
    file += footer + struct.pack("<I", len(footer)) + _MAGIC
    return bytes(file)


def _element(column: _Column) -> bytes:
    """Return what the schema says of a column."""
    repetition = _OPTIONAL if column.is_optional else _REQUIRED
    more: list[_Field] = [(6, _I32, _UTF8)] if column.is_text else []
    name = column.name.encode()
    return _struct((1, _I32, column.type), (3, _I32, repetition), (4, _BINARY, name), *more)


def _pandas(names: Iterable[str]) -> bytes:
    """Return what pandas reads of the columns. Without it fastparquet takes integers for floating-point numbers."""
    columns = [
        {
            "field_name": name,
            "name": name,
            "pandas_type": said,
            "numpy_type": kind,
            "metadata": None,
        }
        for name in names
        for said, kind in [_COLUMNS[name].pandas]
    ]
    fields = {"index_columns": [], "column_indexes": [], "columns": columns}
    return json.dumps({**fields, "pandas_version": "2.0.0"}).encode()


# -- columns ---------------------------------------------------------------------------------------


def _column(
    file: bytearray,
    name: str,
    count: int,
    data: bytes,
    dictionary: bytes | None = None,
    distinct: int = 0,
) -> bytes:
    """Append the pages of a column to *file*, and return what the footer says of it."""
    start, unpacked = len(file), 0
    if dictionary is not None:
        header = _struct((1, _I32, distinct), (2, _I32, _PLAIN))
        unpacked += _page(file, _DICTIONARY_PAGE, 7, header, dictionary)
    at = len(file)
    encoding = _PLAIN if dictionary is None else _RLE_DICTIONARY
    header = _struct((1, _I32, count), (2, _I32, encoding), (3, _I32, _RLE), (4, _I32, _RLE))
    unpacked += _page(file, _DATA_PAGE, 5, header, data)
    encodings = [_PLAIN, _RLE] if dictionary is None else [_PLAIN, _RLE, _RLE_DICTIONARY]
    fields: list[_Field] = [
        (1, _I32, _COLUMNS[name].type),
        (2, _LIST, (_I32, encodings)),
        (3, _LIST, (_BINARY, [name.encode()])),
        (4, _I32, _ZSTD),
        (5, _I64, count),
        (6, _I64, unpacked),
        (7, _I64, len(file) - start),
        (9, _I64, at),
    ]
    if dictionary is not None:
        fields.append((11, _I64, start))
    return _struct((2, _I64, start), (3, _STRUCT, _struct(*fields)))


def _page(file: bytearray, kind: int, number: int, header: bytes, data: bytes) -> int:
    """Append a page, and return its size with its head before it was compressed."""
    if len(data) > _MAX_PAGE:
        raise TooLargeError("a column has more than 2 GiB")
    packed = zstandard.ZstdCompressor().compress(data)
    head = _struct(
        (1, _I32, kind), (2, _I32, len(data)), (3, _I32, len(packed)), (number, _STRUCT, header)
    )
    file += head + packed
    return len(head) + len(data)


def _strings(values: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _levels(is_there: npt.NDArray[np.bool_]) -> bytes:
    """Return the definition levels of values that are there or null."""
    packed = _packed(is_there.astype(np.uint8), 1)
    return struct.pack("<I", len(packed)) + packed


def _indices(numbers: npt.NDArray[np.int64], distinct: int) -> bytes:
    width = max(distinct - 1, 0).bit_length()
    return bytes([width]) + _packed(numbers, width)


def _packed(numbers: npt.NDArray[np.integer], width: int) -> bytes:
    """Return *numbers* of *width* bits, all in one run: repeated if they are the same, else bit by bit."""
    if not len(numbers):
        return b""
    first = int(numbers[0])
    if (numbers == first).all():
        return _varint(len(numbers) << 1) + first.to_bytes(-(-width // 8), "little")
    groups = -(-len(numbers) // 8)
    bits = np.zeros((8 * groups, width), np.uint8)
    for bit in range(width):
        bits[: len(numbers), bit] = numbers >> bit & 1
    return _varint(groups << 1 | 1) + np.packbits(bits.reshape(-1), bitorder="little").tobytes()


# -- Thrift ----------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _struct(*fields: _Field) -> bytes:
    out, last = bytearray(), 0
    for number, type_, value in fields:
        out.append((number - last) << 4 | type_)
        last = number
        out += _value(type_, value)
    out.append(0)
    return bytes(out)


def _value(type_: int, value: object) -> bytes:
    match type_, value:
        case ((5 | 6), int()):
            return _varint(2 * value if value >= 0 else -2 * value - 1)
        case 8, bytes():
            return _varint(len(value)) + value
        case 9, (int(inner), list(values)):
            head = bytes([len(values) << 4 | inner]) if len(values) < 15 else bytes([0xF0 | inner]) + _varint(len(values))  # fmt: skip
            return head + b"".join(_value(inner, item) for item in values)
        case 12, bytes():
            return value
    raise TypeError("no value of Thrift")
