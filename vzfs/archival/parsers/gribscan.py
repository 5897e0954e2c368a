"""Where the messages of a GRIB file lie, of both editions, whatever is between them.

Every message is found by itself, and every field in a message of edition 2 that has several. What
begins like a message and is none is a `Broken` one: nothing is passed over in silence.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

MAX_MESSAGES: Final = 2**20
MAX_FIELDS: Final = 4096
"""Fields of one message."""
MAX_HEADER: Final = 2**22
"""Bytes of one of the sections before the values, without a bitmap."""
GRID_DIGEST: Final = 16
"""Bytes at the end of what decides how values are unpacked that stand for the grid."""

_MAGIC, _END = b"GRIB", b"7777"
_WINDOW: Final = 2**18
_LARGE: Final = 0x800000
"""Set in the length of a message of edition 1 that is counted in units of 120 bytes."""
_SAME, _NONE = 254, 255
"""A bitmap that is the one before, and none."""
_COMPLEX: Final = (2, 3)
"""Ways to pack values that have ways to say that one is missing."""
_AT_ONCE: Final = (0, 1, 2, 5, 6, 7, 15, 40, 44, 48)
"""Products that are of one moment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field: *header* is a message that says all of it but its values.

    The message lies at *offset* and has *length* bytes. Fields with the same *identity* differ in
    their *moment* (year, month, day, hour, minute and second) and their values, and in nothing else;
    *packing* is what decides how values are unpacked. Where a message has several fields, *parts*
    are where in the file the sections of this one lie, without the first and the last, in order.
    """

    offset: int
    length: int
    header: bytes
    identity: bytes
    packing: bytes
    moment: tuple[int, ...]
    number: int = 0
    parts: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """What begins at *offset* like a message, and why it is none."""

    offset: int
    reason: str


class _NoMessage(Exception):
    """Why no message begins here."""


def scan(file: BinaryIO, size: int) -> Iterator[Field | Broken]:
    """Yield all fields of *file*, of *size* bytes, and what only begins like one, in order."""
    reader = _Reader(file, size)
    offset = found = 0
    while (offset := reader.find(offset)) >= 0 and found < MAX_MESSAGES:
        found += 1
        try:
            fields = reader.message(offset)
        except _NoMessage as why:
            yield Broken(offset, str(why))
            offset += len(_MAGIC)
            continue
        yield from fields
        offset += fields[0].length
    if offset >= 0:
        yield Broken(offset, f"the file has more than {MAX_MESSAGES} messages")


def composed(file: BinaryIO, field: Field) -> bytes:
    """Return the message of one *field* of several, with nothing but what belongs to it."""
    file.seek(field.offset)
    head = file.read(16)
    body = []
    for offset, length in field.parts:
        file.seek(offset)
        body.append(file.read(length))
    return _message(head, b"".join(body))


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def find(self, offset: int) -> int:
        """Return where the next message may begin, -1 if nowhere."""
        while offset < self._size:
            self._file.seek(offset)
            window = self._file.read(_WINDOW)
            at = window.find(_MAGIC)
            if at >= 0:
                return offset + at
            if len(window) <= len(_MAGIC):
                break
            offset += len(window) - len(_MAGIC) + 1
        return -1

    def message(self, offset: int) -> list[Field]:
        """Return the fields of the message at *offset*."""
        head = self._read(offset, min(16, self._size - offset))
        if len(head) < 16:
            raise _NoMessage("the file ends in the middle of it")
        match head[7]:
            case 1:
                return [self._first(offset, head)]
            case 2:
                return self._second(offset, head)
        raise _NoMessage(f"it is of edition {head[7]}")

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise _NoMessage("the file ends in the middle of it")
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise _NoMessage("the file ends in the middle of it")
        return data

    def _check_end(self, offset: int, length: int) -> None:
        if self._read(offset + length - len(_END), len(_END)) != _END:
            raise _NoMessage("it does not end where it says")

    # -- edition 1 ---------------------------------------------------------------------------------

    def _first(self, offset: int, head: bytes) -> Field:
        said = int.from_bytes(head[4:7])
        at = offset + 8
        product = self._section(at)
        flags = product[7] if len(product) > 7 else 0
        at += len(product)
        grid = self._section(at) if flags & 0x80 else b""
        at += len(grid)
        bitmap = int.from_bytes(self._read(at, 3)) if flags & 0x40 else 0
        binary = self._read(at + bitmap, 12)
        length = said
        if said & _LARGE and int.from_bytes(binary[:3]) < 120:
            length = (said & (_LARGE - 1)) * 120 - int.from_bytes(binary[:3]) + 4
        if length < at - offset + bitmap + len(_END):
            raise _NoMessage("it is shorter than its sections")
        self._check_end(offset, length)
        # A bitmap is there, but says nothing; of the values there are a few bytes.
        kept = self._read(at, min(bitmap, 6))
        kept = len(kept).to_bytes(3) + kept[3:] if kept else b""
        values = self._read(at + bitmap, min(64, offset + length - len(_END) - at - bitmap))
        values = len(values).to_bytes(3) + values[3:]
        body = product + grid + kept + values + _END
        header = _MAGIC + (8 + len(body)).to_bytes(3) + b"\1" + body
        if len(product) < 28 or len(values) < 11:
            raise _NoMessage("it has a section of a length that cannot be")
        century, *moment = product[24], *product[12:17]
        moment[0] += 100 * (century - 1)
        # The flags of the packing, the bits of a value, and what further flags there may be.
        packing = bytes([1, values[3] >> 4, values[10], bool(kept)])
        packing += values[13:14] if values[3] & 0x50 else b""
        identity = product[:12] + product[17:24] + product[25:] + grid + packing
        return Field(offset, length, header, identity, packing + _digest(grid), (*moment, 0))

    def _section(self, at: int) -> bytes:
        length = int.from_bytes(self._read(at, 3))
        if not 8 <= length <= MAX_HEADER:
            raise _NoMessage("it has a section of a length that cannot be")
        return self._read(at, length)

    # -- edition 2 ---------------------------------------------------------------------------------

    def _second(self, offset: int, head: bytes) -> list[Field]:
        length = int.from_bytes(head[8:16])
        if length < 16 + len(_END):
            raise _NoMessage("it is shorter than its sections")
        self._check_end(offset, length)
        found: list[dict[int, tuple[int, int]]] = []
        known: dict[int, tuple[int, int]] = {}
        bitmap: tuple[int, int] | None = None
        at, end = offset + 16, offset + length - len(_END)
        while at < end:
            size, number = struct.unpack(">IB", self._read(at, 5))
            if not 5 <= size <= end - at or not 1 <= number <= 7 or len(found) >= MAX_FIELDS:
                raise _NoMessage("it has a section of a length that cannot be")
            known[number] = (at, size)
            if number == 6:
                bitmap = self._bitmap(at, size, bitmap)
                known[6] = bitmap if bitmap is not None else (at, size)
            if number == 7:
                found.append(dict(known))
            at += size
        if not found or any(not {1, 3, 4, 5, 6} <= sections.keys() for sections in found):
            raise _NoMessage("it has not the sections of a message")
        return [
            self._field(offset, length, head, sections, number, is_one=len(found) == 1)
            for number, sections in enumerate(found)
        ]

    def _field(
        self,
        offset: int,
        length: int,
        head: bytes,
        sections: dict[int, tuple[int, int]],
        number: int,
        *,
        is_one: bool,
    ) -> Field:
        bodies = self._bodies(sections)
        origin, product, packed = bodies[1], bodies[4], bodies[5]
        if len(origin) < 21 or len(product) < 9 or len(packed) < 11 or len(bodies[6]) < 6:
            raise _NoMessage("it has a section of a length that cannot be")
        has_bitmap = bodies[6][5] != _NONE
        packing = b"\2" + packed[9:11] + packed[19:21].ljust(2, b"\0") + bytes([has_bitmap])
        if int.from_bytes(packed[9:11]) in _COMPLEX:
            packing += packed[22:23] + packed[47:48]
        # The end of an interval is said by its date, so that there the date is part of what it is.
        dated = origin[12:19] if int.from_bytes(product[7:9]) not in _AT_ONCE else b""
        parts = (head[6:7], origin[:12], dated, origin[19:], bodies.get(2, b""), bodies[3], product)
        identity = b"".join(len(part).to_bytes(4) + part for part in (*parts, packing))
        return Field(
            offset=offset,
            length=length,
            header=_message(head, b"".join(bodies[key] for key in sorted(bodies))),
            identity=identity,
            packing=packing + _digest(bodies[3]),
            moment=(int.from_bytes(origin[12:14]), *origin[14:19]),
            number=number,
            parts=() if is_one else tuple(sections[key] for key in sorted(sections)),
        )

    def _bitmap(self, at: int, size: int, known: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return where the bitmap lies that counts from here on: a section may say that it is the one before."""
        indicator = self._read(at + 5, 1)[0] if size > 5 else _NONE
        if indicator == _SAME:
            if known is None:
                raise _NoMessage("it refers to a bitmap before it that is not there")
            return known
        return (at, size)

    def _bodies(self, sections: dict[int, tuple[int, int]]) -> dict[int, bytes]:
        """Return the *sections* of a field by their numbers, without its bitmap and its values."""
        found = {}
        for number, (at, size) in sections.items():
            if number == 7:
                found[number] = struct.pack(">IB", 5, 7)
            elif number == 6:
                found[number] = struct.pack(">IB", 6, 6) + self._read(at + 5, 1)
            elif size > MAX_HEADER:
                raise _NoMessage("it has a section of a length that cannot be")
            else:
                found[number] = self._read(at, size)
        return found


def _message(head: bytes, body: bytes) -> bytes:
    """Return the message of edition 2 with the sections *body*."""
    length = len(head) + len(body) + len(_END)
    return head[:8] + length.to_bytes(8) + body + _END


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=GRID_DIGEST).digest()
