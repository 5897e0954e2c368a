"""netCDF classic: CDF-1, with 64-bit offsets (CDF-2), and with 64-bit data (CDF-5).

The header is read here, from the format's specification: it is a list of dimensions, one of
attributes, and one of variables, each with the place where it begins. Everything is big-endian. A
fixed variable lies in one piece. Records lie one behind the other, each with the part of every record
variable: so a record is a chunk, but for a record variable that is alone, whose records follow each
other without a gap and which is cut like a fixed one. A few kilobytes that are scattered, such as the
times of all records, are inlined.

A variable that the file ends before is left out, never shown as fill values.
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from vzfs.archival.building import (
    ArrayDescription,
    HierarchyBuilder,
    Unpresentable,
    name_problem,
)
from vzfs.archival.words import (
    FILL_ATTRIBUTE,
    bytes_codec,
    data_type,
    fill_attribute,
    fill_value,
    pieces,
)

MAX_HEADER: Final = 64 * 2**20
"""Bytes of a header. Real ones have some kilobytes; a hostile one claims anything."""
MAX_ITEMS: Final = 100_000
"""Dimensions, attributes or variables in one list."""
MAX_NDIM: Final = 64
MAX_RECORDS: Final = 2**23
"""Chunks of one record variable."""
MAX_INLINE: Final = 64 * 2**10
"""Bytes of a record variable that is inlined,"""
MAX_GATHERED: Final = 8 * 2**20
"""and of the file that have to be read for it."""

_STREAMING: Final = {False: 2**32 - 1, True: 2**64 - 1}
"""What stands for the number of records while they are written, which then follows from the file's size."""
_DIMENSION, _VARIABLE, _ATTRIBUTE = 10, 11, 12
_TYPES: Final = {
    1: ">i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8",
    7: ">u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8",
}  # fmt: skip
_CLASSIC: Final = 6
"""The last type that CDF-1 and CDF-2 have."""
_PAD: Final = 4


class _Dimension(NamedTuple):
    name: str
    length: int
    is_record: bool


class _Variable(NamedTuple):
    """A variable; *nbytes* of one record, or of all if it has none, as they follow from shape and type."""

    name: str
    dimensions: tuple[_Dimension, ...]
    attributes: Mapping[str, np.ndarray[Any, Any]]
    dtype: np.dtype[Any]
    begin: int

    @property
    def is_record(self) -> bool:
        return bool(self.dimensions) and self.dimensions[0].is_record

    @property
    def fixed(self) -> tuple[int, ...]:
        return tuple(d.length for d in self.dimensions[self.is_record :])

    @property
    def nbytes(self) -> int:
        return math.prod(self.fixed) * self.dtype.itemsize


class _Header(NamedTuple):
    records: int | None
    attributes: Mapping[str, np.ndarray[Any, Any]]
    variables: list[_Variable]


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Build what the file holds. Raises Unpresentable if its header cannot be read."""
    try:
        header = _Reader(file, size).header()
    except (struct.error, EOFError):
        raise Unpresentable("its header is cut short") from None
    to.group("/", _attributes(header.attributes))
    recorded = [v for v in header.variables if v.is_record]
    if len(recorded) == 1:
        # Nothing is padded where there is nothing to align.
        stride = recorded[0].nbytes
    else:
        stride = sum(v.nbytes + -v.nbytes % _PAD for v in recorded)
    records = header.records
    if records is None:
        first = min((v.begin for v in recorded), default=size)
        records = max(size - first, 0) // stride if stride else 0
    seen = set()
    for variable in header.variables:
        path = f"/{variable.name}"
        problem = name_problem(variable.name)
        if problem or path in seen:
            to.omit(path, problem or "another variable has the same name")
            continue
        seen.add(path)
        try:
            _present(variable, records, stride, file, size, to)
        except Unpresentable as problem:
            to.drop(path, str(problem))


def _present(
    variable: _Variable,
    records: int,
    stride: int,
    file: BinaryIO,
    size: int,
    to: HierarchyBuilder,
) -> None:
    dtype, begin, nbytes = variable.dtype, variable.begin, variable.nbytes
    count = records if variable.is_record else 1
    shape = (count, *variable.fixed) if variable.is_record else variable.fixed
    is_in_one_piece = not variable.is_record or stride == nbytes
    is_inlined = not is_in_one_piece and count > 1 and _is_small(nbytes, stride, count)
    if is_inlined:
        chunk = shape
        end = begin + stride * (count - 1) + nbytes
    elif is_in_one_piece:
        chunk = pieces(shape, dtype.itemsize)
        end = begin + nbytes * count
    else:
        chunk = (1, *(max(n, 1) for n in variable.fixed))
        end = begin + stride * (count - 1) + nbytes if count else begin
        if count > MAX_RECORDS:
            raise Unpresentable(f"it has more than {MAX_RECORDS} records")
    is_empty = not math.prod(shape)
    if not is_empty and end > size:
        raise Unpresentable(f"its values end at {end}, and the file at {size}")
    array = to.array(
        f"/{variable.name}",
        ArrayDescription(
            shape=shape,
            chunk_shape=chunk,
            data_type=data_type(dtype),
            fill_value=fill_value(None, dtype),
            codecs=[bytes_codec(dtype)],
            attributes=_attributes(variable.attributes, dtype),
            dimension_names=[d.name for d in variable.dimensions],
        ),
    )
    if is_empty:
        return
    if is_inlined:
        array.inline((0,) * len(shape), _gathered(file, begin, stride, nbytes, count))
        return
    length = math.prod(chunk) * dtype.itemsize
    number = (nbytes * count) // length
    flat = np.arange(number, dtype=np.int64)
    step = length if is_in_one_piece else stride
    array.run(flat, begin + flat * step, np.full(number, length, np.int64))


def _is_small(nbytes: int, stride: int, count: int) -> bool:
    """Whether the records of a variable are better read now, all of them, than each by itself later."""
    return nbytes * count <= MAX_INLINE and stride * count <= MAX_GATHERED


def _gathered(file: BinaryIO, begin: int, stride: int, nbytes: int, count: int) -> bytes:
    parts = []
    for record in range(count):
        file.seek(begin + record * stride)
        parts.append(file.read(nbytes))
    return b"".join(parts)


def _attributes(
    found: Mapping[str, np.ndarray[Any, Any]], dtype: np.dtype[Any] | None = None
) -> dict[str, object]:
    """Return attributes as they are shown: characters are text, and one value is no list."""
    shown: dict[str, object] = {}
    for name, values in found.items():
        if name == FILL_ATTRIBUTE and dtype is not None:
            fill = fill_attribute(values, dtype)
            if fill is not None:
                shown[name] = fill
        elif values.dtype.kind == "S":
            shown[name] = values.tobytes().rstrip(b"\0")
        else:
            shown[name] = values[0] if len(values) == 1 else values
    return shown


class _Reader:
    """Reads a header from the beginning of a file. Raises Unpresentable, struct.error and EOFError."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = min(size, MAX_HEADER)
        magic = self._bytes(4)
        if magic[:3] != b"CDF" or magic[3] not in {1, 2, 5}:
            raise Unpresentable("it is not netCDF classic")
        self._version = magic[3]
        self._number = ">Q" if self._version == 5 else ">I"
        self._offset = ">I" if self._version == 1 else ">Q"
        self._dimensions: list[_Dimension] = []

    def header(self) -> _Header:
        """Return all that a header says."""
        records = self._count()
        self._dimensions = self._list(_DIMENSION, self._dimension)
        attributes = dict(self._list(_ATTRIBUTE, self._attribute))
        variables = self._list(_VARIABLE, self._variable)
        is_streaming = records == _STREAMING[self._version == 5]
        return _Header(None if is_streaming else records, attributes, variables)

    def _list[T](self, tag: int, item: Callable[[], T]) -> list[T]:
        found, count = self._int(">I"), self._count()
        if found not in {tag, 0} or (found == 0 and count) or count > MAX_ITEMS:
            raise Unpresentable("its header is damaged")
        return [item() for _ in range(count)]

    def _dimension(self) -> _Dimension:
        name, length = self._name(), self._count()
        return _Dimension(name, length, is_record=length == 0)

    def _attribute(self) -> tuple[str, np.ndarray[Any, Any]]:
        name, dtype, count = self._name(), self._type(), self._count()
        return name, np.frombuffer(self._padded(count * dtype.itemsize), dtype)

    def _variable(self) -> _Variable:
        name, count = self._name(), self._count()
        if count > MAX_NDIM:
            raise Unpresentable(f"a variable has more than {MAX_NDIM} dimensions")
        numbers = [self._count() for _ in range(count)]
        if any(number >= len(self._dimensions) for number in numbers):
            raise Unpresentable("a variable has a dimension that is none of the file")
        dimensions = tuple(self._dimensions[number] for number in numbers)
        if any(d.is_record for d in dimensions[1:]):
            raise Unpresentable("a variable has records, but not along its first dimension")
        attributes = dict(self._list(_ATTRIBUTE, self._attribute))
        dtype = self._type()
        # Its size in bytes, which need not fit where it stands, follows from the rest.
        self._count()
        return _Variable(name, dimensions, attributes, dtype, self._int(self._offset))

    def _type(self) -> np.dtype[Any]:
        number = self._int(">I")
        if number not in _TYPES or (number > _CLASSIC and self._version != 5):
            raise Unpresentable(f"its header has a data type {number}, which there is not")
        return np.dtype(_TYPES[number])

    def _name(self) -> str:
        # The library takes names for C strings.
        name, _, _ = self._padded(self._count()).partition(b"\0")
        return name.decode("utf-8", "surrogateescape")

    def _padded(self, length: int) -> bytes:
        data = self._bytes(length)
        self._bytes(-length % _PAD)
        return data

    def _count(self) -> int:
        return self._int(self._number)

    def _int(self, form: str) -> int:
        (number,) = struct.unpack(form, self._bytes(struct.calcsize(form)))
        return int(number)

    def _bytes(self, length: int) -> bytes:
        if length > self._left:
            raise EOFError
        self._left -= length
        data = self._file.read(length)
        if len(data) != length:
            raise EOFError
        return data
