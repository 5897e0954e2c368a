"""What a cached thing is: its identity, its digest, and the bytes that prove what it holds. Pure.

An entry is a header and then the chunk's bytes; a version record is a header alone:

| bytes | header |
|---|---|
| 8 | magic: `VZFSCHNK` for an entry, `VZFSVERS` for a version record |
| 4 | format version |
| 4 | length of the identity |
| 8, 8 | the identity: offset and length, 0 in a record, |
| 4, 4 | how many bytes location and version have, |
| n | and location and version themselves, in UTF-8 |
| 8 | checksum of the data |
| 8 | checksum of everything before |

Integers are little-endian, checksums XXH3 with 64 bits: they find accidents at the speed of memory.
There is one way to write a header, so an entry is checked by writing the header that it must have
and comparing all of it: a field of a file is never believed, not even as a length. Files and shelves
are named by digests of the same identities. Where entries and records lie, `segment` says.
"""

import dataclasses
import functools
import hashlib
import struct
from typing import Final

import xxhash

from vzfs.errors import ErrorKind, FormatError

FORMAT_VERSION: Final = 2
"""Part of every name and header: versions of this program that differ in it share a folder in
peace."""

MAX_HEADER: Final = 64 * 2**10
"""Bytes. A location has at most 8192 characters, an etag a few dozen."""
_MAX_IDENTITY: Final = 16_000
"""Characters of location and version together: at most 64 000 bytes of UTF-8, which fit into
`MAX_HEADER`."""

_FEW: Final = 64
"""Objects whose names are kept as bytes: entries of the same few are looked for again and again."""
_ENTRY_MAGIC: Final = b"VZFSCHNK"
_RECORD_MAGIC: Final = b"VZFSVERS"
_PREFIX: Final = struct.Struct("<8sII")
_IDENTITY: Final = struct.Struct("<QQII")
CHECK: Final = struct.Struct("<Q")
"""How a checksum is written."""
checksum: Final = xxhash.xxh3_64_intdigest


@dataclasses.dataclass(frozen=True, slots=True)
class EntryKey:
    """The identity of cached bytes: *length* bytes from *offset* of one version of one object."""

    location: str
    version: str
    offset: int
    length: int

    @property
    def is_storable(self) -> bool:
        """Whether an entry can say all of this within the bounds of a header."""
        return (
            has_room_for(self.location, self.version)
            and 0 <= self.offset < 2**63
            and 0 <= self.length < 2**63
        )


def has_room_for(location: str, version: str) -> bool:
    """Whether a header holds both texts."""
    return len(location) + len(version) <= _MAX_IDENTITY


def entry_digest(key: EntryKey) -> bytes:
    """Return 32 bytes that stand for *key*."""
    return digest(b"entry", _identity(key.location, key.version, key.offset, key.length))


def record_digest(location: str) -> bytes:
    """Return 32 bytes that stand for the record of *location*."""
    return digest(b"record", encoded(location))


def record_shelf(location: str) -> str:
    """Return the shelf of the record of *location*: objects beside each other have it in common."""
    return location.rpartition("/")[0]


def encode_entry(key: EntryKey, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """Return the header and the data that together are the entry of a storable *key*.

    Raises ValueError if *data* are not *key.length* bytes.
    """
    if memoryview(data).nbytes != key.length:
        raise ValueError(f"{memoryview(data).nbytes} bytes are not the {key.length} of {key}")
    return _entry_header(key, checksum(data)), data


def check_entry(key: EntryKey, header: bytes | memoryview, data: bytes | memoryview) -> None:
    """Prove that *header* and *data* are the entry of *key*. Raises FormatError."""
    if len(data) == key.length and header == _entry_header(key, checksum(data)):
        return
    if not _is_sound(bytes(header), _ENTRY_MAGIC):
        raise damaged("its header is damaged")
    raise damaged("its data are damaged, or it is of another chunk")


def encode_record(location: str, version: str) -> bytes:
    """Return the record that *version* is the last one verified of *location*."""
    return _header(_RECORD_MAGIC, _identity(location, version, 0, 0), 0)


def decode_record(location: str, record: bytes) -> str:
    """Return the version that *record* says of *location*. Raises FormatError."""
    if not _is_sound(record, _RECORD_MAGIC):
        raise damaged("it is damaged")
    _, _, before, length = _IDENTITY.unpack_from(record, _PREFIX.size)
    begin = _PREFIX.size + _IDENTITY.size + before
    try:
        version = record[begin : begin + length].decode("utf-8", "surrogatepass")
    except ValueError:
        raise damaged("it is not a version record") from None
    if record != encode_record(location, version):
        raise damaged("it is of another object")
    return version


def digest(kind: bytes, what: bytes) -> bytes:
    """Return 32 bytes that stand for *what*, among those of its *kind*."""
    return hashlib.blake2b(what, digest_size=32, person=kind).digest()


def encoded(text: str) -> bytes:
    """Return the UTF-8 of any text, even with half a character in it."""
    return text.encode("utf-8", "surrogatepass")


def damaged(what: str) -> FormatError:
    """Return the error that a cached thing is not what it has to be."""
    return FormatError(ErrorKind.CORRUPT_METADATA, what)


def _identity(location: str, version: str, offset: int, length: int) -> bytes:
    before, behind, texts = _texts(location, version)
    return _IDENTITY.pack(offset, length, before, behind) + texts


@functools.lru_cache(_FEW)
def _texts(location: str, version: str) -> tuple[int, int, bytes]:
    """Return the bytes of both texts, and how many are of each."""
    place, of = encoded(location), encoded(version)
    return len(place), len(of), place + of


def _entry_header(key: EntryKey, data_checksum: int) -> bytes:
    identity = _identity(key.location, key.version, key.offset, key.length)
    return _header(_ENTRY_MAGIC, identity, data_checksum)


def _header(magic: bytes, identity: bytes, data_checksum: int) -> bytes:
    framed = _PREFIX.pack(magic, FORMAT_VERSION, len(identity)) + identity
    framed += CHECK.pack(data_checksum)
    return framed + CHECK.pack(checksum(framed))


def _is_sound(header: bytes, magic: bytes) -> bool:
    length = len(header) - _PREFIX.size - 2 * CHECK.size
    return (
        _IDENTITY.size <= length <= MAX_HEADER
        and header.startswith(_PREFIX.pack(magic, FORMAT_VERSION, length))
        and header.endswith(CHECK.pack(checksum(header[: -CHECK.size])))
    )
