"""What a file of the cache is: a head, a table of contents, and entries one behind another. Pure.

| bytes | |
|---|---|
| 8 | magic: `VZFSSEGM` |
| 4 | format version |
| 4 | length of the map |
| 4 | number of entries |
| n | msgpack map: the owner, for people; the shelf, by its name |
| 32 for each entry | digest (the first 16 bytes), offset in the file, size; the latter two in 8 bytes each |
| 8 | checksum of everything before |
| the rest | the entries, as `entry` has them |

Integers are little-endian. Small entries that are used together lie in the segments of one *shelf*;
its name is in theirs, so that a listing finds them. A large entry has a file of its own, named by
its own digest: a segment of one entry. A segment never changes. Of two entries of one digest the one
in the later segment counts, and the stamp in their names says which that is.

The table says where an entry lies, and nothing else: what it is, it proves itself. So a wrong table
costs a fetch.
"""

import dataclasses
import functools
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import msgpack  # type: ignore[import-untyped]
import numpy as np

from vzfs.cache.entry import (
    CHECK,
    FORMAT_VERSION,
    MAX_HEADER,
    EntryKey,
    checksum,
    damaged,
    digest,
    encoded,
    entry_digest,
)
from vzfs.model.manifest import Column

SEGMENTS: Final = f"v{FORMAT_VERSION}/segments"
"""The subfolder of small entries."""
ENTRIES: Final = f"v{FORMAT_VERSION}/entries"
"""The subfolder of entries with a file of their own."""
RECORDS: Final = f"v{FORMAT_VERSION}/records"
"""The subfolder of version records."""
OLDER: Final = ("v1", "v1/versions")
"""The subfolders of formats that are not read: what lies there is evicted with the rest."""

SMALL: Final = 256 * 2**10
"""Bytes of data. Entries up to this size share segments: read on the event loop they cost it 50 us,
where a thread takes 100 us to be asked."""
MAX_ENTRIES: Final = 2**17
"""Entries of a segment, so that a table has at most 4 MiB."""
MAX_HEAD: Final = 2 * MAX_HEADER
"""Bytes before the data of a file with one entry: head, table, and the entry's header."""
FIRST: Final = 16 * 2**10
"""Bytes of a segment that are read to get to know it: head and table of up to 500 entries."""
MAX_OWNER: Final = 8192
"""Characters of an owner's name that are kept."""

_MAGIC: Final = b"VZFSSEGM"
_PREFIX: Final = struct.Struct("<8sIII")
_COLUMNS: Final = ("high", "low", "offset", "size")
_ROW: Final = np.dtype([(name, "<u8") for name in _COLUMNS])

type Item = tuple[bytes, Sequence[bytes | memoryview]]
"""The digest of an entry and its bytes, in parts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a segment says it holds: equal columns with a row for each entry.

    An entry's digest begins with *high* and *low*; it lies at *offset* with *size* bytes. *head* is
    the size of head and table.
    """

    owner: str
    shelf: str
    high: Column[np.uint64]
    low: Column[np.uint64]
    offset: Column[np.uint64]
    size: Column[np.uint64]
    head: int

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.high)


def halves(of: bytes) -> tuple[int, int]:
    """Return the two numbers that stand for a digest in a table."""
    return int.from_bytes(of[:8], "little"), int.from_bytes(of[8:16], "little")


# -- names -------------------------------------------------------------------------------------


def entry_name(key: EntryKey) -> str:
    """Return the path in a cache folder of *key*'s own file."""
    name = entry_digest(key).hex()
    return f"{ENTRIES}/{name[:2]}/{name[2:]}"


@functools.lru_cache(1024)
def shelf_path(subfolder: str, shelf: str) -> str:
    """Return the path of *shelf*: that of its segments, without the stamp that each has."""
    name = digest(b"shelf", encoded(shelf))[:20].hex()
    return f"{subfolder}/{name[:3]}/{name[3:]}"


def segment_name(path: str, stamp: int, salt: str) -> str:
    """Return the path of a segment on the shelf at *path*. Those of later *stamp* sort behind."""
    return f"{path}-{min(stamp, 2**64 - 1):016x}{salt}"


def stamp_of(name: str) -> int:
    """Return the stamp of a segment."""
    return int(name.rpartition("-")[2][:16], 16)


# -- encoding and decoding ---------------------------------------------------------------------


def encode_segment(owner: str, path: str, items: Iterable[Item]) -> list[bytes | memoryview]:
    """Return the parts of the segment of *owner* at *path* that holds *items*, at most `MAX_ENTRIES`."""
    parts: list[bytes | memoryview] = []
    digests, sizes = bytearray(), []
    for name, entry in items:
        digests += name[:16]
        sizes.append(sum(map(len, entry)))
        parts += entry
    fields = {"owner": owner[:MAX_OWNER], "shelf": path.rpartition("/")[2]}
    packed: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    rows = np.empty(len(sizes), _ROW)
    rows["high"], rows["low"] = np.frombuffer(digests, "<u8").reshape(-1, 2).T
    rows["size"] = sizes
    head = _PREFIX.size + len(packed) + rows.nbytes + CHECK.size
    rows["offset"] = head + np.cumsum([0, *sizes[:-1]]) if sizes else head
    framed = _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(packed), len(rows)) + packed + rows.tobytes()
    return [framed + CHECK.pack(checksum(framed)), *parts]


def head_size(first: bytes) -> int:
    """Return the size of head and table, which the *first* bytes of a segment say. Raises FormatError."""
    if len(first) < _PREFIX.size:
        raise damaged("it is cut short")
    magic, version, length, count = _PREFIX.unpack_from(first)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise damaged("it is none of the cache's files")
    if length > MAX_HEADER or count > MAX_ENTRIES:
        raise damaged("its head is damaged")
    return int(_PREFIX.size + length + count * _ROW.itemsize + CHECK.size)


def decode_owner(first: bytes) -> tuple[str, int]:
    """Return the owner of a segment and its number of entries, which its *first* bytes say.

    For people: no checksum is looked at. Raises FormatError.
    """
    head_size(first)
    length, count = _PREFIX.unpack_from(first)[2:]
    return _fields(first[_PREFIX.size : _PREFIX.size + length])["owner"], count


def decode_contents(head: bytes, path: str, file_size: int) -> Contents:
    """Return what the segment at *path* holds, of which *head* are the first bytes, all of `head_size`.

    Raises FormatError, also if the file of *file_size* bytes cannot hold what the table says.
    """
    end = head_size(head)
    if len(head) < end or CHECK.unpack_from(head, end - CHECK.size)[0] != checksum(
        memoryview(head)[: end - CHECK.size]
    ):
        raise damaged("its head is damaged")
    length, count = _PREFIX.unpack_from(head)[2:]
    fields = _fields(head[_PREFIX.size : _PREFIX.size + length])
    if fields["shelf"] != path.rpartition("/")[2]:
        raise damaged("it is of another shelf")
    rows = np.frombuffer(head, _ROW, count, _PREFIX.size + length)
    high, low, offset, size = (rows[name].astype(np.uint64) for name in _COLUMNS)
    # In this order no sum can overflow.
    if (size > file_size).any() or (offset > file_size).any() or (offset < end).any():
        raise damaged("it is cut short")
    if int((offset + size).max(initial=end)) != file_size:
        raise damaged("its length is wrong")
    return Contents(fields["owner"], fields["shelf"], high, low, offset, size, end)


def _fields(packed: bytes) -> dict[str, str]:
    try:
        fields = msgpack.unpackb(packed, unicode_errors="surrogatepass", max_map_len=2)
    except (ValueError, TypeError, msgpack.UnpackException):
        fields = None
    if (
        not isinstance(fields, dict)
        or fields.keys() != {"owner", "shelf"}
        or not all(isinstance(value, str) for value in fields.values())
    ):
        raise damaged("its head is damaged")
    return fields


def only_entry(key: EntryKey, name: str, before: bytes) -> bytes:
    """Return the header of *key*'s entry in its own file *name*; *before* are the bytes before the data.

    Raises FormatError.
    """
    contents = decode_contents(before, name, len(before) + key.length)
    if len(contents) != 1 or int(contents.offset[0]) != contents.head:
        raise damaged("it is not of one entry")
    return before[contents.head :]
