"""What a cached thing is: its identity, its digest, and the bytes that prove what it holds. Pure.

An entry is a header and then the chunk's bytes; a version record is a header alone:

| bytes | header |
|---|---|
| 8 | magic: `VZFSCHNK` for an entry, `VZFSVERS` for a version record |
| 4 | format version |
| 4 | length of the map |
| n | msgpack map: the whole identity, and for an entry the checksum of the data |
| 8 | checksum of everything before |

Integers are little-endian, checksums XXH3 with 64 bits: they find accidents at the speed of memory.
There is one way to write a header, so an entry is checked by writing the header that it must have
and comparing all of it: a field of a file is never believed, not even as a length. Files and shelves
are named by digests of the same identities. Where entries and records lie, `segment` says.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Mapping
from typing import Final

import msgpack  # type: ignore[import-untyped]
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

_ENTRY_MAGIC: Final = b"VZFSCHNK"
_RECORD_MAGIC: Final = b"VZFSVERS"
_PREFIX: Final = struct.Struct("<8sII")
checksum: Final = xxhash.xxh3_64_intdigest
CHECK: Final = struct.Struct("<Q")
"""How a checksum is written."""


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
    return digest("entry", key.location, key.version, str(key.offset), str(key.length))


def record_digest(location: str) -> bytes:
    """Return 32 bytes that stand for the record of *location*."""
    return digest("record", location)


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
    if not _has_sound_frame(bytes(header), _ENTRY_MAGIC):
        raise damaged("its header is damaged")
    raise damaged("its data are damaged, or it is of another chunk")


def encode_record(location: str, version: str) -> bytes:
    """Return the record that *version* is the last one verified of *location*."""
    return _frame(_RECORD_MAGIC, {"location": location, "version": version})


def decode_record(location: str, record: bytes) -> str:
    """Return the version that *record* says of *location*. Raises FormatError."""
    if not _has_sound_frame(record, _RECORD_MAGIC):
        raise damaged("it is damaged")
    try:
        fields = msgpack.unpackb(
            record[_PREFIX.size : -CHECK.size], unicode_errors="surrogatepass", max_map_len=2
        )
        version = fields["version"]
    except (ValueError, TypeError, LookupError, msgpack.UnpackException):
        raise damaged("it is not a version record") from None
    if not isinstance(version, str) or record != encode_record(location, version):
        raise damaged("it is of another object")
    return version


def digest(*parts: str) -> bytes:
    """Return 32 bytes: of each part its length and then itself, so that no two lists agree."""
    found = hashlib.blake2b(b"%d" % FORMAT_VERSION, digest_size=32)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "little"))
        found.update(encoded)
    return found.digest()


def damaged(what: str) -> FormatError:
    """Return the error that a cached thing is not what it has to be."""
    return FormatError(ErrorKind.CORRUPT_METADATA, what)


def _entry_header(key: EntryKey, data_checksum: int) -> bytes:
    fields = {
        "location": key.location,
        "version": key.version,
        "offset": key.offset,
        "length": key.length,
        "xxh3": data_checksum,
    }
    return _frame(_ENTRY_MAGIC, fields)


def _frame(magic: bytes, fields: Mapping[str, object]) -> bytes:
    packed: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    framed = _PREFIX.pack(magic, FORMAT_VERSION, len(packed)) + packed
    return framed + CHECK.pack(checksum(framed))


def _has_sound_frame(header: bytes, magic: bytes) -> bool:
    length = len(header) - _PREFIX.size - CHECK.size
    return (
        0 <= length <= MAX_HEADER
        and header.startswith(_PREFIX.pack(magic, FORMAT_VERSION, length))
        and header.endswith(CHECK.pack(checksum(header[: -CHECK.size])))
    )
