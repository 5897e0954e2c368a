"""HDF4: an array for each scientific data set, and one of structures for each table.

The file is read here, from the format's specification. Chunks are those of the file, whole or deflated;
a data set without chunks is cut if it is not compressed. What lies scattered in blocks is gathered and
kept, if it is small. Images, other compressions and data in other files are left out by name.
"""

import dataclasses
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np

from vzfs.archival.building import (
    ArrayBuilder,
    ArrayDescription,
    HierarchyBuilder,
    Unpresentable,
    plain,
)
from vzfs.archival.parsers.axes import Axes
from vzfs.archival.parsers.hdf4objects import (
    DATA,
    DIMENSIONS,
    GROUP,
    GROUP_OF_DATA,
    MAX_NDIM,
    NUMBER_TYPE,
    TABLE,
    TABLE_DATA,
    Chunks,
    Group,
    Key,
    Objects,
    Place,
    Table,
    number_type,
)
from vzfs.archival.words import (
    FILL_ATTRIBUTE,
    bytes_codec,
    data_type,
    fill_attribute,
    fill_value,
    pieces,
)

MAX_FIELDS: Final = 1000
_ZLIB: Final = {"name": "numcodecs.zlib", "configuration": {"level": 6}}
_IMAGES: Final = {202: "8-bit image", 302: "image", 306: "image"}
_VARIABLE, _ATTRIBUTE, _FILE = "Var0.0", "Attr0.0", "CDF0.0"
_DIMENSION: Final = ("Dim0.0", "UDim0.0")
_OWN: Final = (
    "Attr0.0", "DimVal0.0", "DimVal0.1", "_HDF_CHK_TBL_", "RIATTR0.0", "RI0.0", "SDSVar", "CoordVar",
)  # fmt: skip
"""What the kinds of tables begin with that are no data of their own."""


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Say what the HDF4 *file* holds. Raises Unpresentable if it is none."""
    _Parser(Objects(file, size), to).parse()


@dataclasses.dataclass(frozen=True, slots=True)
class _DataSet:
    """A data set: the parts of it that are needed, and what is said of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: Key | None
    attributes: Mapping[str, Any]
    axes: Sequence[str]


class _Parser:
    def __init__(self, objects: Objects, to: HierarchyBuilder) -> None:
        self._objects = objects
        self._to = to
        self._axes = Axes()
        self._names: set[str] = set()

    def parse(self) -> None:
        """Add all data sets and tables."""
        shown: set[int] = set()
        for ref in self._objects.all(GROUP):
            try:
                group = self._objects.group(ref)
            except Unpresentable as why:
                self._to.omit(f"/group {ref}", f"it cannot be read: {why}")
                continue
            if group.kind == _VARIABLE:
                shown |= {r for tag, r in group.members if tag == GROUP_OF_DATA}
                self._guarded(group.name, ref, group)
            elif group.kind == _FILE:
                attributes, problems = self._attributes(group)
                self._to.group("/", {n: plain(v) for n, v in attributes.items()})
                for problem in problems:
                    self._to.omit("/", problem)
        for ref in self._objects.all(GROUP_OF_DATA):
            if ref not in shown:
                self._guarded(f"Data-Set-{ref}", ref, Group("", "", ((GROUP_OF_DATA, ref),)))
        for ref in self._objects.all(TABLE):
            self._table(ref)
        for tag, what in _IMAGES.items():
            for ref in self._objects.all(tag):
                self._to.omit(f"/{what} {ref}", f"it is an {what}, which is not shown")

    def _name(self, name: str, ref: int) -> str:
        name = name.replace("/", "_") or f"object {ref}"
        if name in self._names or name in (".", "..") or name.startswith("__"):
            name = f"{name.strip('.')}_{ref}"
        self._names.add(name)
        return name

    def _guarded(self, name: str, ref: int, group: Group) -> None:
        path = "/" + self._name(name, ref)
        try:
            self._add(path, self._data_set(path, group))
        except Unpresentable as why:
            self._to.drop(path, str(why))

    # -- data sets ---------------------------------------------------------------------------------

    def _data_set(self, path: str, group: Group) -> _DataSet:
        members: dict[int, int] = {}
        for tag, ref in group.members:
            members.setdefault(tag, ref)
        if DIMENSIONS not in members and GROUP_OF_DATA in members:
            inner = self._objects.data((GROUP_OF_DATA, members[GROUP_OF_DATA]))
            for tag, ref in struct.iter_unpack(">HH", inner[: len(inner) // 4 * 4]):
                members.setdefault(tag, ref)
        if DIMENSIONS not in members:
            raise Unpresentable("it does not say its dimensions")
        said = self._objects.data((DIMENSIONS, members[DIMENSIONS]))
        ndim = int.from_bytes(said[:2])
        if not 0 < ndim <= MAX_NDIM or len(said) < 6 + 4 * ndim:
            raise Unpresentable(f"it has {ndim} dimensions")
        shape = tuple(np.frombuffer(said[2 : 2 + 4 * ndim], ">u4").tolist())
        reference = int.from_bytes(said[4 + 4 * ndim : 6 + 4 * ndim])
        dtype = number_type(self._objects.data((NUMBER_TYPE, reference)))
        attributes, problems = self._attributes(group)
        for problem in problems:
            self._to.omit(path, problem)
        names = self._dimensions(group)
        axes = names if len(names) == ndim else [f"dim{i}" for i in range(ndim)]
        key = (DATA, members[DATA]) if DATA in members else None
        return _DataSet(shape, dtype, key, attributes, self._axes.names(axes, shape, path[1:]))

    def _dimensions(self, group: Group) -> list[str]:
        names = []
        for tag, ref in group.members:
            if tag == GROUP:
                inner = self._objects.group(ref)
                if inner.kind in _DIMENSION:
                    names.append(inner.name)
        return names

    def _attributes(self, group: Group) -> tuple[dict[str, Any], list[str]]:
        """Return the attributes of *group*, and what is wrong with others."""
        found: dict[str, Any] = {}
        problems = []
        for tag, ref in group.members:
            if tag != TABLE:
                continue
            try:
                table = self._objects.table(ref)
                if table.kind != _ATTRIBUTE or len(table.fields) != 1:
                    continue
                _, dtype, order = table.fields[0]
                data = self._objects.data((TABLE_DATA, ref))
                values = np.frombuffer(data[: table.count * order * dtype.itemsize], dtype)
            except (Unpresentable, ValueError) as why:
                problems.append(f"an attribute is left out: {why}")
                continue
            if dtype.kind == "S":
                found[table.name] = values.tobytes().rstrip(b"\0")
            else:
                found[table.name] = values[0] if values.size == 1 else values
        return found, problems

    def _add(self, path: str, data_set: _DataSet) -> None:
        objects, key = self._objects, data_set.data
        if key is not None and objects.is_chunked(key):
            self._add_chunks(path, data_set, objects.chunks(key))
            return
        empty = math.prod(data_set.shape) == 0
        if key is None or key not in objects:
            if not empty and FILL_ATTRIBUTE not in data_set.attributes:
                raise Unpresentable("it was never written, and does not say what it then holds")
            self._array(path, data_set, tuple(max(n, 1) for n in data_set.shape), [])
            return
        place = objects.place(key)
        nbytes = math.prod(data_set.shape) * data_set.dtype.itemsize
        whole = tuple(max(n, 1) for n in data_set.shape)
        if empty:
            self._array(path, data_set, whole, [])
        elif place.is_deflated or place.inline is not None:
            if place.inline is not None and not place.is_deflated and place.length != nbytes:
                raise Unpresentable(f"it has {place.length} bytes of data, not {nbytes}")
            array = self._array(path, data_set, whole, [_ZLIB] if place.is_deflated else [])
            _refer(array, (0,) * len(whole), place)
        elif place.length != nbytes:
            raise Unpresentable(f"it has {place.length} bytes of data, not {nbytes}")
        else:
            chunk = pieces(data_set.shape, data_set.dtype.itemsize)
            array = self._array(path, data_set, chunk, [])
            _cut(array, place.offset, nbytes, math.prod(chunk) * data_set.dtype.itemsize)

    def _add_chunks(self, path: str, data_set: _DataSet, chunks: Chunks) -> None:
        if len(chunks.shape) != len(data_set.shape):
            raise Unpresentable("its chunks have another number of dimensions")
        grid = [-(-n // edge) for n, edge in zip(data_set.shape, chunks.chunk_shape, strict=True)]
        nbytes = math.prod(chunks.chunk_shape) * data_set.dtype.itemsize
        fill: object = None
        if len(chunks.fill) == data_set.dtype.itemsize:
            fill = np.frombuffer(chunks.fill, data_set.dtype)[0]
        elif len(chunks.places) < math.prod(grid):
            raise Unpresentable("it lacks chunks, and does not say what they hold")
        codecs = [_ZLIB] if chunks.is_deflated else []
        array = self._array(path, data_set, chunks.chunk_shape, codecs, fill)
        for coords, place in chunks.places.items():
            if any(at >= count for at, count in zip(coords, grid, strict=True)):
                raise Unpresentable("it has chunks beyond its dimensions")
            if not chunks.is_deflated and place.length != nbytes:
                raise Unpresentable(f"a chunk of it has {place.length} bytes, not {nbytes}")
            _refer(array, coords, place)

    def _array(
        self,
        path: str,
        data_set: _DataSet,
        chunk_shape: Sequence[int],
        codecs: Sequence[Mapping[str, object]],
        fill: object = None,
    ) -> ArrayBuilder:
        attributes = dict(data_set.attributes)
        missing = attributes.pop(FILL_ATTRIBUTE, None)
        if missing is not None:
            marked = fill_attribute(missing, data_set.dtype)
            attributes |= {} if marked is None else {FILL_ATTRIBUTE: marked}
        if fill is None and isinstance(missing, np.generic):
            fill = missing
        return self._to.array(
            path,
            ArrayDescription(
                shape=data_set.shape,
                chunk_shape=chunk_shape,
                data_type=data_type(data_set.dtype),
                fill_value=fill_value(fill, data_set.dtype),
                codecs=[bytes_codec(data_set.dtype), *codecs],
                attributes=attributes,
                dimension_names=data_set.axes,
            ),
        )

    # -- tables ------------------------------------------------------------------------------------

    def _table(self, ref: int) -> None:
        """Add a table of records as an array of structures, unless it is part of something else."""
        path = f"/table {ref}"
        try:
            table = self._objects.table(ref)
            if table.kind.startswith(_OWN):
                return
            path = "/" + self._name(table.name or f"table {ref}", ref)
            self._add_table(path, table, ref)
        except Unpresentable as why:
            self._to.drop(path, str(why))

    def _add_table(self, path: str, table: Table, ref: int) -> None:
        dtype = _row(table)
        if dtype.itemsize != table.size:
            raise Unpresentable("its records are larger than their fields")
        nbytes = table.count * dtype.itemsize
        if not table.is_interlaced and len(table.fields) > 1 and table.count > 1:
            raise Unpresentable("its fields lie one behind the other, not its records")
        shape = (table.count,)
        attributes: dict[str, object] = {"class": table.kind} if table.kind else {}
        chunk = pieces(shape, dtype.itemsize)
        array = self._to.array(
            path,
            ArrayDescription(
                shape=shape,
                chunk_shape=chunk,
                data_type=data_type(dtype),
                fill_value=fill_value(None, dtype),
                codecs=[bytes_codec(dtype)],
                attributes=attributes,
                dimension_names=self._axes.names(["record"], shape, path[1:]),
            ),
        )
        if not nbytes:
            return
        place = self._objects.place((TABLE_DATA, ref))
        if place.is_deflated or place.length < nbytes:
            raise Unpresentable(f"it has {place.length} bytes of records, not {nbytes}")
        step = chunk[0] * dtype.itemsize
        if place.inline is None:
            _cut(array, place.offset, nbytes, step)
            return
        for number in range(nbytes // step):
            array.inline((number,), place.inline[number * step : (number + 1) * step])


def _row(table: Table) -> np.dtype[Any]:
    """Return the data type of a record: a field with several values is as many fields, and text is one."""
    fields: list[tuple[str, Any]] = []
    for name, dtype, order in table.fields:
        if dtype.kind == "S":
            fields.append((name, np.dtype(f"S{max(order, 1)}")))
        elif order == 1:
            fields.append((name, dtype))
        elif len(fields) + order <= MAX_FIELDS:
            fields += [(f"{name}[{i}]", dtype) for i in range(order)]
        else:
            raise Unpresentable(f"its field {name} has {order} values")
    if not fields:
        raise Unpresentable("it is a table without fields")
    try:
        return np.dtype(fields)
    except ValueError:
        raise Unpresentable("two of its fields have one name") from None


def _refer(array: ArrayBuilder, coords: Sequence[int], place: Place) -> None:
    if place.inline is None:
        array.virtual(coords, place.offset, place.length)
    else:
        array.inline(coords, place.inline)


def _cut(array: ArrayBuilder, offset: int, nbytes: int, step: int) -> None:
    """Add the chunks of *step* bytes of what lies in one piece."""
    numbers = np.arange(nbytes // step)
    array.run(numbers, offset + numbers * step, np.full(len(numbers), step))
