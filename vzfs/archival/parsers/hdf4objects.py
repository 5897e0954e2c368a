"""The objects of an HDF4 file: where their bytes lie, and its groups and tables of records.

A file is a list of descriptors: what is there (a tag), which one (a reference), and where. What has no
place of its own says in a header how it lies instead: in linked blocks, compressed, or in chunks.
Everything is big-endian. Every length is checked before it is used.
"""

import dataclasses
import struct
from typing import BinaryIO, Final

import numpy as np

from vzfs.archival.building import Unpresentable

MAX_OBJECTS: Final = 2**20
MAX_GATHERED: Final = 2**24
"""Bytes of an object in linked blocks that are gathered."""
MAX_NDIM: Final = 32

NUMBER_TYPE, DIMENSIONS, DATA, GROUP_OF_DATA = 106, 701, 702, 720
TABLE, TABLE_DATA, GROUP, CHUNK = 1962, 1963, 1965, 61
_NULL, _LINKED, _COMPRESSED = 1, 20, 40
_SPECIAL: Final = 0x4000
_BLOCKS, _EXTERNAL, _COMP, _CHUNKED = 1, 2, 3, 5
_NOTHING, _DEFLATE = 0, 4
_CODERS: Final = {1: "RLE", 2: "N-bit", 3: "skipping Huffman", 5: "szip"}
_MAGIC: Final = b"\x0e\x03\x13\x01"

_TYPES: Final = {
    3: "u1", 4: "S1", 5: "f4", 6: "f8", 20: "i1", 21: "u1", 22: "i2", 23: "u2", 24: "i4",
    25: "u4", 26: "i8", 27: "u8",
}  # fmt: skip
_NATIVE, _LITTLE = 0x1000, 0x4000

type Key = tuple[int, int]
"""Tag and reference of an object."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie in the file; *inline* are those that lie scattered there."""

    offset: int
    length: int
    is_deflated: bool = False
    inline: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of an array, by their coordinates; *fill* is what others hold."""

    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    places: dict[tuple[int, ...], Place]
    is_deflated: bool
    fill: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A group: what it has, and what it is called."""

    name: str
    kind: str
    members: tuple[Key, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table of *count* records, by fields: name, data type in the file's order, and how many there are."""

    name: str
    kind: str
    count: int
    size: int
    is_interlaced: bool
    fields: tuple[tuple[str, np.dtype[np.generic], int], ...]


class Objects:
    """The objects of *file*, of *size* bytes. Raises Unpresentable if it is no HDF4 file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._places: dict[Key, tuple[int, int, bool]] = {}
        if self.read(0, 4) != _MAGIC:
            raise Unpresentable("it does not begin as an HDF4 file does")
        at, seen = 4, set[int]()
        while at:
            if at in seen or len(self._places) > MAX_OBJECTS:
                raise Unpresentable("its list of objects is a circle, or too long")
            seen.add(at)
            count, following = struct.unpack(">HI", self.read(at, 6))
            for tag, ref, offset, length in struct.iter_unpack(
                ">HHII", self.read(at + 6, 12 * count)
            ):
                if tag != _NULL:
                    key = (tag & ~_SPECIAL, ref)
                    self._places.setdefault(key, (offset, length, bool(tag & _SPECIAL)))
            at = following

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset*. Raises Unpresentable if the file has them not."""
        if offset + length > self._size:
            raise Unpresentable("the file ends before what it refers to")
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise Unpresentable("the file ends before what it refers to")
        return data

    def all(self, tag: int) -> list[int]:
        """Return the references of the objects with this *tag*, in order."""
        return sorted(ref for known, ref in self._places if known == tag)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def data(self, key: Key) -> bytes:
        """Return the bytes of an object that is no large one."""
        place = self.place(key)
        if place.is_deflated or place.length > MAX_GATHERED:
            raise Unpresentable("it has a part that is compressed, or too large")
        return self.read(place.offset, place.length) if place.inline is None else place.inline

    def place(self, key: Key) -> Place:
        """Return where the bytes of an object lie. Raises Unpresentable where that is nowhere in this file."""
        if key not in self._places:
            raise Unpresentable("it refers to what the file does not have")
        offset, length, is_special = self._places[key]
        if not is_special:
            if offset + length > self._size:
                raise Unpresentable("the file ends before its data do")
            return Place(offset, length)
        match struct.unpack(">H", self.read(offset, 2))[0]:
            case 1:
                gathered = self._gathered(offset)
                return Place(0, len(gathered), inline=gathered)
            case 2:
                raise Unpresentable("its data are in another file")
            case 3:
                return self._compressed(offset)
            case kind:
                raise Unpresentable(f"its data lie in a way that is not known ({kind})")

    def is_chunked(self, key: Key) -> bool:
        """Whether an object lies in chunks."""
        if key not in self._places:
            return False
        offset, _, is_special = self._places[key]
        return is_special and struct.unpack(">H", self.read(offset, 2))[0] == _CHUNKED

    def chunks(self, key: Key) -> Chunks:
        """Return the chunks in which an object lies."""
        offset = self._places[key][0]
        (header,) = struct.unpack(">I", self.read(offset + 2, 4))
        if header > MAX_GATHERED:
            raise Unpresentable("it has a header of a length that cannot be")
        said = self.read(offset + 6, header)
        try:
            table, reference = struct.unpack_from(">HH", said, 17)
            (ndim,) = struct.unpack_from(">I", said, 25)
            if not 0 < ndim <= MAX_NDIM:
                raise Unpresentable(f"it has {ndim} dimensions")
            axes = [struct.unpack_from(">III", said, 29 + 12 * i) for i in range(ndim)]
            (length,) = struct.unpack_from(">I", said, 29 + 12 * ndim)
        except struct.error:
            raise Unpresentable("it has a header of a length that cannot be") from None
        fill = said[33 + 12 * ndim :][:length]
        shape, edges = tuple(axis[1] for axis in axes), tuple(axis[2] for axis in axes)
        if not all(edges):
            raise Unpresentable("its chunks have no size")
        places = self._chunk_places((table, reference), ndim)
        kinds = {place.is_deflated for place in places.values()}
        if len(kinds) > 1:
            raise Unpresentable("some of its chunks are compressed and some are not")
        return Chunks(shape, edges, places, kinds == {True}, fill)

    def _chunk_places(self, key: Key, ndim: int) -> dict[tuple[int, ...], Place]:
        table = self.table(key[1])
        row = struct.Struct(f">{ndim}IHH")
        data = self.data((TABLE_DATA, key[1]))
        if table.size != row.size or len(data) < table.count * row.size:
            raise Unpresentable("the table of its chunks makes no sense")
        places = {}
        for *coords, tag, ref in row.iter_unpack(data[: table.count * row.size]):
            places[tuple(coords)] = self.place((tag & ~_SPECIAL, ref))
        return places

    def _compressed(self, offset: int) -> Place:
        _, _, _, ref, _, coder = struct.unpack(">HHIHHH", self.read(offset, 14))
        if coder not in (_NOTHING, _DEFLATE):
            raise Unpresentable(f"it is compressed by {_CODERS.get(coder, 'an unknown method')}")
        place = self.place((_COMPRESSED, ref))
        return dataclasses.replace(place, is_deflated=coder == _DEFLATE)

    def _gathered(self, offset: int) -> bytes:
        """Return the bytes that lie in linked blocks, of which the header at *offset* says the first table."""
        _, length, _, _, following = struct.unpack(">HIIIH", self.read(offset, 16))
        if length > MAX_GATHERED:
            raise Unpresentable(
                "its data lie scattered in blocks, and are too large to be gathered"
            )
        parts, seen, missing = [], set[int](), length
        while following and missing > 0:
            if following in seen or (_LINKED, following) not in self._places:
                raise Unpresentable("its blocks form a circle, or are not there")
            seen.add(following)
            at, nbytes, _ = self._places[_LINKED, following]
            words = np.frombuffer(self.read(at, nbytes // 2 * 2), ">u2").tolist()
            following = words[0] if words else 0
            for ref in words[1:]:
                if not ref or missing <= 0:
                    break
                where = self._places.get((_LINKED, ref))
                if where is None or where[2]:
                    raise Unpresentable("its blocks form a circle, or are not there")
                part = self.read(where[0], min(where[1], missing))
                parts.append(part)
                missing -= len(part)
        if missing > 0:
            raise Unpresentable("its blocks have fewer bytes than it says")
        return b"".join(parts)

    # -- groups and tables -------------------------------------------------------------------------

    def group(self, ref: int) -> Group:
        """Return the group with this reference."""
        reader = _Words(self.data((GROUP, ref)))
        count = reader.short()
        tags, refs = reader.shorts(count), reader.shorts(count)
        name, kind = reader.text(), reader.text()
        return Group(name, kind, tuple(zip(tags, refs, strict=True)))

    def table(self, ref: int) -> Table:
        """Return what the table with this reference is made of."""
        reader = _Words(self.data((TABLE, ref)))
        interlace = reader.short()
        (count,) = struct.unpack(">I", reader.take(4))
        size, number = reader.short(), reader.short()
        types = reader.shorts(number)
        sizes, _, orders = reader.shorts(number), reader.shorts(number), reader.shorts(number)
        names = [reader.text() for _ in range(number)]
        name, kind = reader.text(), reader.text()
        fields = []
        for field, code, order, nbytes in zip(names, types, orders, sizes, strict=True):
            dtype = vdata_type(code)
            if dtype.itemsize * order != nbytes:
                raise Unpresentable("its fields have sizes that do not go with their types")
            fields.append((field, dtype, order))
        return Table(name, kind, count, size, interlace == 0, tuple(fields))


class _Words:
    """Reads one value after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        part = self._data[self._at : self._at + length]
        if len(part) != length:
            raise Unpresentable("an object of it ends too early")
        self._at += length
        return part

    def short(self) -> int:
        return int.from_bytes(self.take(2))

    def shorts(self, count: int) -> list[int]:
        return np.frombuffer(self.take(2 * count), ">u2").tolist()

    def text(self) -> str:
        data = self.take(self.short()).partition(b"\0")[0]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("latin-1")


def vdata_type(code: int) -> np.dtype[np.generic]:
    """Return the data type of a field."""
    if code & _NATIVE or code & ~_LITTLE not in _TYPES:
        raise Unpresentable(f"it has elements of the type {code}, which is not known")
    order = "<" if code & _LITTLE else ">"
    return np.dtype(_TYPES[code & ~_LITTLE]).newbyteorder(order)  # type: ignore[arg-type]


def number_type(said: bytes) -> np.dtype[np.generic]:
    """Return the data type that four bytes say: version, type, width in bits, and order of bytes."""
    if len(said) != 4 or said[1] not in _TYPES or said[3] not in (0, 1, 4):
        raise Unpresentable("it has elements of a type that is not known")
    dtype = np.dtype(_TYPES[said[1]])
    if dtype.itemsize * 8 != said[2]:
        raise Unpresentable("it has elements of a width that does not go with their type")
    return dtype.newbyteorder("<" if said[3] == 4 else ">")
