"""ZIP files, by ranges: where the directory is, what members there are, and where their bytes begin. Pure.

Only the central directory counts; local headers are asked for one thing, how long they are, and must
agree with it in signature, name and method. ZIP64 is read. What is spread over several files,
encrypted, or not where the directory says, is refused, and every size and offset is checked
before anything is allocated for it.
"""

import struct
import zlib
from typing import Final, NamedTuple

from vzfs.errors import ErrorKind, FormatError

MAX_MEMBERS: Final = 1_000_000
"""Members of a file: some 400 MB of them at worst."""
MAX_DIRECTORY: Final = 2**28
"""Bytes of a central directory."""
MAX_DEPTH: Final = 128
"""Folders within each other."""

STORED: Final = 0
DEFLATED: Final = 8

_END: Final = struct.Struct("<4s4H2LH")
_END_SIGNATURE: Final = b"PK\x05\x06"
_LOCATOR: Final = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE: Final = b"PK\x06\x06"
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"

_MAX_COMMENT: Final = 2**16 - 1
TAIL: Final = _END.size + _MAX_COMMENT + _LOCATOR.size + _END64.size
"""Bytes at the end of a file in which the end of its directory is looked for."""

_FULL16: Final = 2**16 - 1
_FULL32: Final = 2**32 - 1
_ZIP64: Final = 1
_UTF8: Final = 1 << 11
_ENCRYPTED: Final = 1 | 1 << 6 | 1 << 13


class Directory(NamedTuple):
    """Where the central directory is, in bytes from the file's beginning, and how many *members* it has."""

    offset: int
    size: int
    members: int


class Member(NamedTuple):
    """A member: its *local* header is at this offset, its name has the bytes *raw*.

    *compressed* and *size* are its bytes in the file and what becomes of them, by this *method*.
    """

    raw: bytes
    local: int
    compressed: int
    size: int
    method: int
    crc: int

    @property
    def header(self) -> int:
        """How many bytes of the local header are looked at."""
        return _LOCAL.size + len(self.raw)


def find_directory(tail: bytes, file_size: int) -> Directory:
    """Find the directory by the last bytes of a file, `TAIL` of them or all. Raises FormatError."""
    start = file_size - len(tail)
    at = _find_end(tail)
    _, disk, first, here, count, size, offset, _ = _END.unpack_from(tail, at)
    limit = start + at
    locator = at - _LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == _LOCATOR_SIGNATURE:
        _, disk64, where, disks = _LOCATOR.unpack_from(tail, locator)
        if disk64 or disks > 1:
            raise _spanned()
        if not start <= where <= start + locator - _END64.size:
            raise _damaged("the end of its ZIP64 directory is not where it says")
        found = _END64.unpack_from(tail, where - start)
        if found[0] != _END64_SIGNATURE:
            raise _damaged("the end of its ZIP64 directory is not where it says")
        _, _, _, _, disk, first, here, count, size, offset = found
        limit = where
    if disk or first or here != count:
        raise _spanned()
    if offset + size > limit:
        raise _damaged("its directory reaches beyond its end")
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise _damaged(f"it has more than {MAX_MEMBERS} members")
    if count * _CENTRAL.size > size:
        raise _damaged("its directory is too short for its members")
    return Directory(offset, size, count)


def _find_end(tail: bytes) -> int:
    """Return where the end of the directory is in *tail*: the last that has the comment behind it."""
    at = len(tail) - _END.size
    while at >= 0:
        at = tail.rfind(_END_SIGNATURE, 0, at + 4)
        if at < 0:
            break
        comment = int.from_bytes(tail[at + 20 : at + 22], "little")
        if at + _END.size + comment == len(tail):
            return at
        at -= 1
    raise _damaged("the end of its directory is missing: the file is cut off, or is no ZIP file")


def read_directory(data: bytes, directory: Directory) -> dict[str, Member]:
    """Return the members by their names, folders left out; of equal names the last. Raises FormatError."""
    members: dict[str, Member] = {}
    at = 0
    for _ in range(directory.members):
        if at + _CENTRAL.size > len(data):
            raise _damaged("its directory is cut off")
        found = _CENTRAL.unpack_from(data, at)
        flags, method, crc, compressed, size = found[3], found[4], *found[7:10]
        name_length, extra_length, comment_length, disk = found[10:14]
        local = found[16]
        if found[0] != _CENTRAL_SIGNATURE:
            raise _damaged("its directory has something else than members")
        at += _CENTRAL.size
        raw = data[at : at + name_length]
        extra = data[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if at > len(data):
            raise _damaged("its directory is cut off")
        size, compressed, local, disk = _full(extra, size, compressed, local, disk)
        name = _name(raw, flags)
        if flags & _ENCRYPTED:
            raise _refused("it is encrypted")
        if disk:
            raise _spanned()
        member = Member(raw, local, compressed, size, method, crc)
        if local + member.header + compressed > directory.offset:
            raise _damaged("a member reaches into its directory")
        if method == STORED and compressed != size:
            raise _damaged("a member that is not compressed has two sizes")
        if not name.endswith("/"):
            members[name] = member
    return members


def _full(extra: bytes, size: int, compressed: int, local: int, disk: int) -> tuple[int, ...]:
    """Return the four values, from the ZIP64 field of *extra* where they do not fit the header."""
    wanted = [size == _FULL32, compressed == _FULL32, local == _FULL32, disk == _FULL16]
    values = [size, compressed, local, disk]
    at = 0
    while any(wanted) and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == _ZIP64:
            field, within = extra[at : at + length], 0
            for i, width in enumerate((8, 8, 8, 4)):
                if wanted[i]:
                    if within + width > len(field):
                        raise _damaged("a member has a ZIP64 field that is too short")
                    values[i] = int.from_bytes(field[within : within + width], "little")
                    within += width
            return tuple(values)
        at += length
    return tuple(values)


def _name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise _damaged("the name of a member is not UTF-8") from None
    if not name or "\0" in name or name.count("/") > MAX_DEPTH:
        raise _damaged("a member has no proper name")
    return name


def data_offset(header: bytes, member: Member, directory: Directory) -> int:
    """Return where the bytes of *member* begin, by its local *header*. Raises FormatError."""
    if len(header) < member.header:
        raise _damaged("the header of a member is cut off")
    found = _LOCAL.unpack_from(header)
    signature, flags, method, name_length, extra_length = found[0], found[2], found[3], *found[9:11]
    if signature != _LOCAL_SIGNATURE or header[_LOCAL.size : member.header] != member.raw:
        raise _damaged("a member is not where the directory says")
    if name_length != len(member.raw) or method != member.method or flags & _ENCRYPTED:
        raise _damaged("the header of a member and the directory differ")
    offset: int = member.local + member.header + extra_length
    if offset + member.compressed > directory.offset:
        raise _damaged("a member reaches into its directory")
    return offset


def unpack(data: bytes, member: Member) -> bytes:
    """Return what the bytes *data* of a member become, exactly as long as it says. Raises FormatError."""
    if member.method == DEFLATED:
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One more than there should be shows that there are more.
            unpacked = decoder.decompress(data, member.size + 1)
        except zlib.error:
            raise _damaged("a member cannot be decompressed") from None
        if not decoder.eof and len(unpacked) <= member.size:
            raise _damaged("a member is cut off")
        data = unpacked
    elif member.method != STORED:
        raise _refused(f"a member is compressed by method {member.method}, which is not known")
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise _damaged("a member is not what its checksum says")
    return data


def _damaged(what: str) -> FormatError:
    return FormatError(ErrorKind.CORRUPT_METADATA, f"the ZIP file cannot be read: {what}")


def _refused(what: str) -> FormatError:
    return FormatError(ErrorKind.UNSUPPORTED_FORMAT, f"the ZIP file cannot be read: {what}")


def _spanned() -> FormatError:
    return _refused("it is one of several files that belong together")
