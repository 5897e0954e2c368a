"""What a file of the disk cache is: its name, and the bytes that prove what it holds. Pure.

An entry is a header and then the chunk's bytes; a version record is a header alone:

| bytes | header |
|---|---|
| 8 | magic: `VZFSCHNK` for an entry, `VZFSVERS` for a version record |
| 4 | format version |
| 4 | length of the map |
| n | msgpack map: the whole identity, and for an entry the CRC-32 of the data |
| 4 | CRC-32 of everything before |

Integers are little-endian. There is one way to write a header, so an entry is checked by writing
the header that it must have and comparing all of it: a field of a file is never believed, not even
as a length. Names are digests of the same identity. Nothing but location, version, offset and
length is stored with the data.
"""

import dataclasses
import hashlib
import struct
import zlib
from collections.abc import Mapping
from typing import Final

import msgpack  # type: ignore[import-untyped]

from vzfs.errors import ErrorKind, FormatError

FORMAT_VERSION: Final = 1
"""Part of every name and header: versions of this program that differ in it share a folder in
peace."""

ENTRIES: Final = f"v{FORMAT_VERSION}"
"""The subfolder of the entries; they lie one level deeper, in 256 shards."""
RECORDS: Final = f"v{FORMAT_VERSION}/versions"
"""The subfolder of the version records, sharded in the same way."""

MAX_HEADER: Final = 64 * 2**10
"""Bytes. A location has at most 8192 characters, an etag a few dozen."""
_MAX_IDENTITY: Final = 16_000
"""Characters of location and version together: at most 64 000 bytes of UTF-8, which fit into
`MAX_HEADER`."""

_ENTRY_MAGIC: Final = b"VZFSCHNK"
_RECORD_MAGIC: Final = b"VZFSVERS"
_PREFIX: Final = struct.Struct("<8sII")
_CRC: Final = struct.Struct("<I")


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


def entry_name(key: EntryKey) -> str:
    """Return the path of *key*'s entry in a cache folder."""
    digest = _digest("entry", key.location, key.version, str(key.offset), str(key.length))
    return f"{ENTRIES}/{digest[:2]}/{digest[2:]}"


def record_name(location: str) -> str:
    """Return the path in a cache folder of the record that says the last version of *location*."""
    digest = _digest("record", location)
    return f"{RECORDS}/{digest[:2]}/{digest[2:]}"


def encode_entry(key: EntryKey, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """Return the header and the data that together are the entry of a storable *key*.

    Raises ValueError if *data* are not *key.length* bytes.
    """
    if memoryview(data).nbytes != key.length:
        raise ValueError(f"{memoryview(data).nbytes} bytes are not the {key.length} of {key}")
    return _entry_header(key, zlib.crc32(data)), data


def check_entry(key: EntryKey, header: bytes, data: bytes) -> None:
    """Prove that *header* and *data* are the entry of *key*. Raises FormatError."""
    if len(data) == key.length and header == _entry_header(key, zlib.crc32(data)):
        return
    if not _has_sound_frame(header, _ENTRY_MAGIC):
        raise _damaged("its header is damaged")
    raise _damaged("its data are damaged, or it is of another chunk")


def encode_record(location: str, version: str) -> bytes:
    """Return the record that *version* is the last one verified of *location*."""
    return _frame(_RECORD_MAGIC, {"location": location, "version": version})


def decode_record(location: str, record: bytes) -> str:
    """Return the version that *record* says of *location*. Raises FormatError."""
    if not _has_sound_frame(record, _RECORD_MAGIC):
        raise _damaged("it is damaged")
    try:
        fields = msgpack.unpackb(
            record[_PREFIX.size : -_CRC.size], unicode_errors="surrogatepass", max_map_len=2
        )
        version = fields["version"]
    except (ValueError, TypeError, LookupError, msgpack.UnpackException):
        raise _damaged("it is not a version record") from None
    if not isinstance(version, str) or record != encode_record(location, version):
        raise _damaged("it is of another object")
    return version


def _digest(*parts: str) -> str:
    """Return 64 hexadecimal digits: of each part its length and then itself, so that no two lists agree."""
    digest = hashlib.blake2b(str(FORMAT_VERSION).encode(), digest_size=32)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _entry_header(key: EntryKey, crc: int) -> bytes:
    return _frame(_ENTRY_MAGIC, {**dataclasses.asdict(key), "crc32": crc})


def _frame(magic: bytes, fields: Mapping[str, object]) -> bytes:
    packed: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    framed = _PREFIX.pack(magic, FORMAT_VERSION, len(packed)) + packed
    return framed + _CRC.pack(zlib.crc32(framed))


def _has_sound_frame(header: bytes, magic: bytes) -> bool:
    length = len(header) - _PREFIX.size - _CRC.size
    return (
        0 <= length <= MAX_HEADER
        and header.startswith(_PREFIX.pack(magic, FORMAT_VERSION, length))
        and header.endswith(_CRC.pack(zlib.crc32(header[: -_CRC.size])))
    )


def _damaged(what: str) -> FormatError:
    return FormatError(ErrorKind.CORRUPT_METADATA, what)
