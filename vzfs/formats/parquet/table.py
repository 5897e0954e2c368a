"""The columns of a Parquet file that are asked for: integers, and bytes as numbers of distinct values.

Row groups, data pages of versions 1 and 2, required and optional columns; plain values and
dictionaries. Nested columns are passed over; one that is asked for and nested is refused, like
encodings that no writer of references uses.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.parquet.levels import decode_runs
from vzfs.formats.parquet.thrift import Fields, corrupt, decode_struct
from vzfs.formats.parquet.unpacking import unpack

MAX_ROWS: Final = 2**22
"""Rows that are read of a file: some hundred MB of columns."""
MAX_FOOTER: Final = 2**24
MAX_UNPACKED: Final = 2**29
"""Bytes of all pages of a file, unpacked."""
MAX_PAGES: Final = 10_000
"""Pages of a file: writers make them of thousands of rows."""

_MAGIC: Final = b"PAR1"
_ENCRYPTED: Final = b"PARE"
_INTEGERS: Final = {1: "<i4", 2: "<i8"}
"""Parquet's physical types INT32 and INT64."""
_BYTE_ARRAY: Final = 6
_REQUIRED, _OPTIONAL = 0, 1
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = 0, 1, 2, 3
_PLAIN: Final = 0
_BY_DICTIONARY: Final = frozenset({2, 8})
_RLE: Final = 3
_ENCODINGS: Final = {
    4: "BIT_PACKED",
    5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY",
    7: "DELTA_BYTE_ARRAY",
    9: "BYTE_STREAM_SPLIT",
}


class Texts(NamedTuple):
    """A column of bytes: for each row the number of one of the distinct *values*, -1 for null."""

    codes: npt.NDArray[np.int32]
    values: Sequence[bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """What was read of a file that has *rows* rows.

    *integers* have a value for each row that was read, 0 for null, which *nulls* tell; a column that
    the file does not have is in none of the mappings.
    """

    rows: int
    integers: Mapping[str, npt.NDArray[np.int64]]
    nulls: Mapping[str, npt.NDArray[np.bool_]]
    texts: Mapping[str, Texts]


class _Column(NamedTuple):
    type: int | None
    is_optional: bool


def read_table(
    data: bytes | memoryview,
    *,
    integers: Collection[str],
    texts: Collection[str],
    max_rows: int = MAX_ROWS,
) -> Table:
    """Read the columns named *integers* and *texts*, and of each the first *max_rows* rows at most.

    Raises FormatError: CORRUPT_METADATA for a file that is damaged, UNSUPPORTED_FORMAT for one that
    uses what is not known here.
    """
    view = memoryview(data).toreadonly().cast("B")
    footer = _footer(view)
    columns = _schema(footer)
    rows = _count(footer.get(3), "rows")
    wanted = min(rows, max_rows, MAX_ROWS)
    budget = _Budget()
    numbers, nulls, strings = {}, {}, {}
    for name in (*integers, *texts):
        column = columns.get(name)
        if column is None:
            continue
        if column.type is None:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT, f"the Parquet column {name!r} is nested"
            )
        chunks = _chunks(footer, name, wanted)
        if name in integers:
            numbers[name], nulls[name] = _read_integers(view, name, column, chunks, budget)
            found = len(numbers[name])
        else:
            strings[name] = _read_texts(view, name, column, chunks, budget)
            found = len(strings[name].codes)
        if found != wanted:
            raise corrupt(f"the column {name!r} has {found} rows instead of {wanted}")
    return Table(rows, numbers, nulls, strings)


class _Budget:
    """How many pages a file may still have, and what they may unpack to, in bytes."""

    def __init__(self) -> None:
        self._left = MAX_UNPACKED
        self._pages = MAX_PAGES

    def take(self, length: int) -> None:
        self._left -= length
        self._pages -= 1
        if self._pages < 0:
            raise corrupt(f"it has more than {MAX_PAGES} pages")
        if self._left < 0:
            raise corrupt(f"its pages unpack to more than {MAX_UNPACKED} bytes")


# -- the footer ----------------------------------------------------------------------------------


def _footer(view: memoryview) -> Fields:
    first, last = bytes(view[:4]), bytes(view[-4:])
    if len(view) < 12 or first not in {_MAGIC, _ENCRYPTED}:
        raise corrupt("its first bytes are not those of Parquet")
    if _ENCRYPTED in {first, last}:
        raise FormatError(ErrorKind.UNSUPPORTED_FORMAT, "the Parquet file is encrypted")
    length = int.from_bytes(view[-8:-4], "little")
    if last != _MAGIC or length > len(view) - 12:
        raise corrupt("it is truncated, or no Parquet file")
    if length > MAX_FOOTER:
        raise corrupt(f"its footer has more than {MAX_FOOTER} bytes")
    return decode_struct(view[len(view) - 8 - length : -8])[0]


def _schema(footer: Fields) -> Mapping[str, _Column]:
    """Return the columns at the top by their names; a nested one has no type."""
    elements = _structs(footer.get(2), "schema")
    found: dict[str, _Column] = {}
    at = 1
    while at < len(elements):
        element = elements[at]
        name = element.get(4)
        if not isinstance(name, bytes):
            raise corrupt("a column has no name")
        at += 1
        has_children = bool(element.get(5))
        # Children follow their parent, and theirs follow them.
        below = _integer(element.get(5) or 0)
        while below > 0 and at < len(elements):
            below += _integer(elements[at].get(5) or 0) - 1
            at += 1
        repetition = _integer(element.get(3, _REQUIRED))
        is_flat = not has_children and repetition in {_REQUIRED, _OPTIONAL}
        kind = _integer(element.get(1, -1)) if is_flat else None
        found[name.decode("utf-8", "replace")] = _Column(kind, repetition == _OPTIONAL)
    return found


class _Chunk(NamedTuple):
    """The part of a column in one row group: its *codec*, and of how many rows *wanted* are read."""

    start: int
    end: int
    codec: int
    rows: int
    wanted: int


def _chunks(footer: Fields, name: str, wanted: int) -> Iterator[_Chunk]:
    for group in _structs(footer.get(4, []), "row groups"):
        rows = _count(group.get(3), "rows")
        if wanted <= 0:
            return
        for column in _structs(group.get(1), "columns"):
            meta = column.get(3)
            if not isinstance(meta, dict):
                raise corrupt("a column has no description")
            if meta.get(3) != [name.encode()]:
                continue
            if column.get(1) is not None:
                raise FormatError(
                    ErrorKind.UNSUPPORTED_FORMAT, "the Parquet file keeps columns in other files"
                )
            yield _chunk(meta, rows, min(rows, wanted))
            break
        wanted -= rows


def _chunk(meta: Fields, rows: int, wanted: int) -> _Chunk:
    if _count(meta.get(5), "values") != rows:
        raise corrupt("a column has not one value for each row")
    start = _count(meta.get(9), "page offset")
    dictionary = _integer(meta.get(11) or 0)
    if 0 < dictionary < start:
        start = dictionary
    return _Chunk(
        start, start + _count(meta.get(7), "length"), _count(meta.get(4), "codec"), rows, wanted
    )


# -- columns -------------------------------------------------------------------------------------


def _read_integers(
    view: memoryview, name: str, column: _Column, chunks: Iterator[_Chunk], budget: _Budget
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    dtype = _INTEGERS.get(-1 if column.type is None else column.type)
    parts, masks = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for chunk in chunks:
        dictionary: npt.NDArray[np.int64] | None = None
        for page in _pages(view, column, chunk, budget):
            if page.kind == _DICTIONARY:
                dictionary = _plain_integers(page, _known(dtype, name))
                continue
            values = np.zeros(page.rows, np.int64)
            if page.present:
                plain = _known(dtype, name)
                if page.encoding == _PLAIN:
                    some = _plain_integers(page, plain)
                else:
                    some = _from_dictionary(page, dictionary)
                values[page.valid] = some
            parts.append(values)
            masks.append(~page.valid)
    return np.concatenate(parts), np.concatenate(masks)


def _known(dtype: str | None, name: str) -> str:
    if dtype is None:
        raise FormatError(
            ErrorKind.UNSUPPORTED_FORMAT, f"the Parquet column {name!r} is not one of integers"
        )
    return dtype


def _plain_integers(page: "_Page", dtype: str) -> npt.NDArray[np.int64]:
    width = int(dtype[-1])
    if page.present * width > len(page.values):
        raise corrupt("a page ends early")
    return np.frombuffer(page.values, dtype, page.present).astype(np.int64)


def _from_dictionary[T: np.generic](
    page: "_Page", dictionary: npt.NDArray[T] | None
) -> npt.NDArray[T]:
    if dictionary is None:
        raise corrupt("a page refers to a dictionary that is not there")
    width = page.values[0] if len(page.values) else 0
    if width > 31:
        raise corrupt("a dictionary is too large")
    numbers = decode_runs(page.values[1:], width, page.present)
    if len(numbers) and int(numbers.max()) >= len(dictionary):
        raise corrupt("a page refers to what its dictionary does not have")
    return dictionary[numbers]


def _read_texts(
    view: memoryview, name: str, column: _Column, chunks: Iterator[_Chunk], budget: _Budget
) -> Texts:
    seen: dict[bytes, int] = {}
    parts = [np.empty(0, np.int32)]
    for chunk in chunks:
        dictionary: npt.NDArray[np.int32] | None = None
        for page in _pages(view, column, chunk, budget):
            if page.present and column.type != _BYTE_ARRAY:
                raise FormatError(
                    ErrorKind.UNSUPPORTED_FORMAT, f"the Parquet column {name!r} is not one of bytes"
                )
            if page.kind == _DICTIONARY:
                dictionary = _plain_texts(page, seen)
                continue
            codes = np.full(page.rows, -1, np.int32)
            if page.present:
                is_plain = page.encoding == _PLAIN
                some = _plain_texts(page, seen) if is_plain else _from_dictionary(page, dictionary)
                codes[page.valid] = some
            parts.append(codes)
    return Texts(np.concatenate(parts), list(seen))


def _plain_texts(page: "_Page", seen: dict[bytes, int]) -> npt.NDArray[np.int32]:
    """Return the number in *seen* of each value, where those that are new are added."""
    data = bytes(page.values)
    codes = []
    at = 0
    end = len(data)
    for _ in range(page.present):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > end or start > end:
            raise corrupt("a page ends early")
        codes.append(seen.setdefault(data[start:at], len(seen)))
    return np.array(codes, np.int32)


# -- pages ---------------------------------------------------------------------------------------


class _Page(NamedTuple):
    """A page: of *rows* rows those that are *valid* have a value, *present* of them in *values*."""

    kind: int
    encoding: int
    rows: int
    valid: npt.NDArray[np.bool_]
    present: int
    values: memoryview


def _pages(view: memoryview, column: _Column, chunk: _Chunk, budget: _Budget) -> Iterator[_Page]:
    """Yield the pages of a column's *chunk*, the last cut to the rows that are wanted."""
    at, left = chunk.start, chunk.wanted
    end = min(chunk.end, len(view))
    while left > 0:
        if at >= end:
            raise corrupt("a column ends early")
        header, at = decode_struct(view[:end], at)
        packed, length = _count(header.get(3), "page length"), _count(header.get(2), "page length")
        if packed > end - at:
            raise corrupt("a page ends early")
        body = view[at : at + packed]
        at += packed
        kind = _integer(header.get(1))
        budget.take(length)
        if kind == _INDEX:
            continue
        if kind == _DICTIONARY:
            yield _dictionary_page(_part(header, 7), unpack(chunk.codec, body, length))
        elif kind in {_DATA, _DATA_V2}:
            if kind == _DATA:
                page = _page_v1(_part(header, 5), unpack(chunk.codec, body, length), column, left)
            else:
                page = _page_v2(_part(header, 8), body, length, column, left, chunk.codec)
            left -= page.rows
            yield page
        else:
            raise corrupt(f"a page is of the unknown kind {kind}")


def _part(header: Fields, number: int) -> Fields:
    part = header.get(number)
    if not isinstance(part, dict):
        raise corrupt("a page has no description")
    return part


def _dictionary_page(header: Fields, values: memoryview) -> _Page:
    count = _count(header.get(1), "values")
    # Texts take four bytes each, integers four or eight.
    if count * 4 > len(values):
        raise corrupt("a dictionary ends early")
    return _Page(_DICTIONARY, _PLAIN, count, np.empty(0, np.bool_), count, values)


def _page_v1(header: Fields, data: memoryview, column: _Column, left: int) -> _Page:
    levels = memoryview(b"")
    if column.is_optional:
        if header.get(3) != _RLE:
            raise _unknown_encoding(header.get(3))
        length = int.from_bytes(data[:4], "little")
        if length + 4 > len(data):
            raise corrupt("a page ends early")
        levels, data = data[4 : 4 + length], data[4 + length :]
    return _page(header.get(2), header.get(1), levels, data, column, left)


def _page_v2(
    header: Fields, body: memoryview, length: int, column: _Column, left: int, codec: int
) -> _Page:
    defined, repeated = _count(header.get(5), "levels"), _count(header.get(6), "levels")
    levels = defined + repeated
    if levels > min(len(body), length):
        raise corrupt("a page ends early")
    data = body[levels:]
    if header.get(7, True):
        data = unpack(codec, data, length - levels)
    return _page(header.get(4), header.get(1), body[repeated:levels], data, column, left)


def _page(
    encoding: object,
    count: object,
    levels: memoryview,
    data: memoryview,
    column: _Column,
    left: int,
) -> _Page:
    number = _count(encoding, "encoding")
    if number != _PLAIN and number not in _BY_DICTIONARY:
        raise _unknown_encoding(number)
    rows = _count(count, "values")
    if not rows:
        raise corrupt("a page is empty")
    rows = min(rows, left)
    if column.is_optional:
        valid = decode_runs(levels, 1, rows).astype(np.bool_)
    else:
        valid = np.ones(rows, np.bool_)
    return _Page(_DATA, number, rows, valid, int(valid.sum()), data)


def _unknown_encoding(number: object) -> FormatError:
    name = _ENCODINGS.get(number, f"number {number}") if isinstance(number, int) else "none"
    return FormatError(
        ErrorKind.UNSUPPORTED_FORMAT,
        f"the Parquet file uses the encoding {name}, which is unknown",
        advice="write it with plain values or dictionaries, as kerchunk does",
    )


# -- what headers say ----------------------------------------------------------------------------


def _structs(value: object, what: str) -> Sequence[Fields]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise corrupt(f"its footer has no {what}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise corrupt("a header has no number where one belongs")
    return value


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or value < 0:
        raise corrupt(f"it has a bad number of {what}")
    return value
