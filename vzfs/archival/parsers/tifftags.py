"""Directories of a TIFF file: their tags, with every length checked before it is used. Both kinds, both orders.

A directory (IFD) is a table of tags; directories are chained, and a tag can point to directories of
its own. Nothing here knows what tags mean.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

import numpy as np

from vzfs.archival.building import Unpresentable

MAX_DIRECTORIES: Final = 16384
MAX_TAGS: Final = 4096
MAX_VALUES: Final = 2**24
"""Values of one tag: as many as an array can have tiles."""

_TYPES: Final = {
    1: "u1", 2: "S1", 3: "u2", 4: "u4", 5: "u4", 6: "i1", 7: "V1", 8: "i2", 9: "i4", 10: "i4",
    11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
"""numpy's names of the types of values; a rational number is two of them."""
_RATIONAL: Final = (5, 10)


@dataclasses.dataclass(frozen=True, slots=True)
class Tag:
    """Where the values of a tag lie, and what they are: *dtype* as in the file, *count* of them."""

    dtype: np.dtype[np.generic]
    count: int
    offset: int
    is_rational: bool


class Directory:
    """One directory. What it says is read when it is asked for; absent tags have the default."""

    def __init__(self, reader: "TagReader", tags: Mapping[int, Tag]) -> None:
        self.tags: Final = tags
        self._reader = reader

    def whole(self, tag: int, default: int) -> int:
        """Return the first value of *tag* as a whole number."""
        found = self.integers(tag)
        return default if not found.size else int(found[0])

    def integers(self, tag: int) -> np.ndarray:
        """Return the values of *tag*, none if there are none. Raises Unpresentable if they are no whole numbers."""
        values = self.values(tag)
        if values.dtype.kind not in "iu":
            raise Unpresentable(f"the tag {tag} has no whole numbers")
        return values

    def values(self, tag: int) -> np.ndarray:
        """Return the values of *tag* as the file has them: numbers, or bytes as `V1` and `S1`."""
        if tag not in self.tags:
            return np.empty(0, "u1")
        return self._reader.values(self.tags[tag])

    def raw(self, tag: int) -> bytes:
        """Return the bytes of *tag*."""
        return self.values(tag).tobytes()

    def text(self, tag: int) -> str:
        """Return the text of *tag*, "" if there is none."""
        return _text(self.raw(tag))


class TagReader:
    """Reads the directories of *file*, of *size* bytes. Raises Unpresentable if it is no TIFF."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        head = self.read(0, min(16, size))
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if not self.order or len(head) < 8:
            raise Unpresentable("it does not begin as a TIFF file does")
        (version,) = struct.unpack_from(self.order + "H", head, 2)
        self.is_big = version == 43
        if version not in (42, 43) or (self.is_big and len(head) < 16):
            raise Unpresentable("it does not begin as a TIFF file does")
        at, form = (8, "Q") if self.is_big else (4, "I")
        (self._first,) = struct.unpack_from(self.order + form, head, at)
        self._seen: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset*. Raises Unpresentable if the file has them not."""
        if offset < 0 or length < 0 or offset + length > self._size:
            raise Unpresentable("the file ends before what it refers to")
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise Unpresentable("the file ends before what it refers to")
        return data

    def directories(self) -> Iterator[Directory]:
        """Yield the chained directories. Raises Unpresentable where the chain breaks."""
        following = self._first
        while following:
            directory, following = self._directory(following)
            yield directory

    def below(self, directory: Directory, tag: int) -> Iterator[Directory]:
        """Yield the directories to which *tag* points, without those chained to them."""
        for offset in directory.integers(tag).tolist():
            yield self._directory(offset)[0]

    def values(self, tag: Tag) -> np.ndarray:
        """Return the values of *tag*."""
        count = tag.count * (2 if tag.is_rational else 1)
        data = self.read(tag.offset, count * tag.dtype.itemsize)
        values = np.frombuffer(data, tag.dtype)
        if not tag.is_rational:
            return values
        numerators, denominators = values.astype("f8").reshape(-1, 2).T
        with np.errstate(divide="ignore", invalid="ignore"):
            quotients: np.ndarray = numerators / denominators
        return quotients

    def _directory(self, offset: int) -> tuple[Directory, int]:
        if offset in self._seen or len(self._seen) >= MAX_DIRECTORIES:
            raise Unpresentable("its directories form a circle, or are too many")
        self._seen.add(offset)
        head, entry = (8, 20) if self.is_big else (2, 12)
        (count,) = struct.unpack(
            self.order + ("Q" if self.is_big else "H"), self.read(offset, head)
        )
        if count > MAX_TAGS:
            raise Unpresentable(f"a directory has more than {MAX_TAGS} tags")
        pointer = 8 if self.is_big else 4
        table = self.read(offset + head, count * entry + pointer)
        tags: dict[int, Tag] = {}
        for i in range(count):
            at = i * entry
            number, kind = struct.unpack_from(self.order + "HH", table, at)
            found = self._tag(kind, table[at + 4 : at + entry], offset + head + at + 4)
            if found is not None:
                tags.setdefault(number, found)
        (following,) = struct.unpack_from(
            self.order + ("Q" if self.is_big else "I"), table, count * entry
        )
        return Directory(self, tags), following

    def _tag(self, kind: int, rest: bytes, at: int) -> Tag | None:
        """Return the tag of this *kind*, whose count and values, or their place, *rest* says; it lies *at*."""
        if kind not in _TYPES:
            return None
        count, place = struct.unpack(self.order + ("QQ" if self.is_big else "II"), rest)
        width = len(rest) // 2
        dtype = np.dtype(_TYPES[kind]).newbyteorder(self.order)  # type: ignore[arg-type]
        is_rational = kind in _RATIONAL
        if count > MAX_VALUES:
            raise Unpresentable(f"a tag has more than {MAX_VALUES} values")
        nbytes = count * dtype.itemsize * (2 if is_rational else 1)
        return Tag(dtype, count, at + width if nbytes <= width else place, is_rational)


def _text(data: bytes) -> str:
    data = data.rstrip(b"\0")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
