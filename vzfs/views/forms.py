"""Forms: how the bytes of a stored chunk become those of the file that is shown.

`Framed` puts one Blosc block around the stored bytes. A Blosc buffer of one block that is not split
holds exactly one zlib, LZ4 or Zstandard stream of the shuffled chunk, which are the very bytes that
HDF5 and TIFF files have; so nothing is read or decompressed to know the frame, or the file's size.
`Decoded` stands for plain bytes, whose number is known beforehand.
"""

import dataclasses
import functools
import hashlib
import struct
from typing import Final, NamedTuple

import numpy as np

from vzfs.errors import ErrorKind, FormatError
from vzfs.model.location import ByteRange
from vzfs.model.manifest import Column

MAX_BLOCK: Final = (2**31 - 1 - 255 * 4) // 3
"""Bytes of a decoded chunk that is one Blosc block: C-Blosc takes no larger one."""

MAX_TYPESIZE: Final = 255
"""Bytes of an element that Blosc can shuffle."""

_MAX_FRAMED: Final = 2**31 - 1
_HEADER: Final = struct.Struct("<BBBBiiiii")
_VERSION, _CODEC_VERSION = 2, 1
_SHUFFLED, _NOT_SPLIT = 0x01, 0x10
_FORMATS: Final = {"lz4": 1, "zlib": 3, "zstd": 4}
_PADS: Final = {
    "zlib": b"\0",
    # A frame that Zstandard skips, with no bytes in it.
    "zstd": struct.pack("<II", 0x184D2A50, 0),
    "lz4": b"",
}
"""What may follow a stream without changing what it decodes to; nothing may follow one of LZ4."""
_LARGEST: Final = 2**62
"""Bytes beyond which no size is said, so that it stays one of 64 bits."""


class Frame(NamedTuple):
    """The file of one chunk: *head*, the *inner* bytes of the stored chunk, and *tail*."""

    head: bytes
    inner: ByteRange
    tail: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Framed:
    """One Blosc block around the stored bytes of each chunk.

    *nbytes* are those of a decoded chunk, at most `MAX_BLOCK`. *cname* says what the stored bytes
    are: a stream of `zlib`, `lz4` or `zstd`, or with *is_raw* the (shuffled) chunk itself. *typesize*
    is how many bytes wide the elements are that were shuffled, if *is_shuffled*. *skip* bytes at the
    beginning of a stored chunk and *cut* at its end do not belong to the stream.
    """

    nbytes: int
    cname: str
    typesize: int
    is_shuffled: bool
    skip: int = 0
    cut: int = 0
    is_raw: bool = False

    def size(self, length: int) -> int:
        """Return the size of the file, for a stored chunk of *length* bytes."""
        inner = min(max(length - self.skip - self.cut, 0), _LARGEST)
        return _HEADER.size + inner + len(self._tail(inner))

    def sizes(self, lengths: Column[np.int64]) -> Column[np.int64]:
        """Return `size` of each of *lengths*."""
        inner = np.clip(lengths, self.skip + self.cut, _LARGEST + self.skip + self.cut)
        inner = inner - (self.skip + self.cut)
        sizes: Column[np.int64] = inner + _HEADER.size
        sizes[inner == self.nbytes] += len(self._tail(self.nbytes))
        return sizes

    def frame(self, length: int) -> Frame:
        """Return what lies around a stored chunk of *length* bytes.

        Raises FormatError where this one chunk cannot be said so.
        """
        inner = length - self.skip - self.cut
        if inner < 1 or (self.is_raw and inner != self.nbytes):
            raise FormatError(
                ErrorKind.CORRUPT_METADATA,
                f"a chunk of {length} bytes cannot be what its codecs say",
            )
        tail = self._tail(inner)
        nbytes = _HEADER.size + inner + len(tail)
        if (inner == self.nbytes and not tail and not self.is_raw) or nbytes > _MAX_FRAMED:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                f"a chunk of {length} bytes cannot be framed as Blosc",
                advice="read it in the stored or in the decoded view",
            )
        head = _HEADER.pack(
            _VERSION,
            _CODEC_VERSION,
            (_SHUFFLED if self.is_shuffled else 0) | _NOT_SPLIT | _FORMATS[self.cname] << 5,
            self.typesize,
            self.nbytes,
            self.nbytes,
            nbytes,
            _HEADER.size - 4,
            inner + len(tail),
        )
        return Frame(head, ByteRange(self.skip, inner), tail)

    def _tail(self, inner: int) -> bytes:
        """Return what follows *inner* bytes: a block as long as what it decodes to counts as not compressed."""
        return _PADS[self.cname] if inner == self.nbytes and not self.is_raw else b""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Chunks as plain little-endian bytes in C order, *nbytes* each.

    *spec* is canonical JSON of what decoding needs: `shape` of a chunk, `data_type`, `codecs` and
    `fill_value`, in the words of Zarr v3; and how much is `kept` from the beginning of each axis, if
    that is not all.
    """

    nbytes: int
    spec: bytes

    @functools.cached_property
    def digest(self) -> str:
        """A name for *spec* in keys of caches, in hexadecimal digits."""
        return hashlib.sha256(self.spec).hexdigest()

    def size(self, length: int) -> int:
        """Return the size of the file, whatever the *length* of the stored chunk."""
        return self.nbytes

    def sizes(self, lengths: Column[np.int64]) -> Column[np.int64]:
        """Return `size` of each of *lengths*."""
        return np.full(len(lengths), self.nbytes, np.int64)


type Form = Framed | Decoded
