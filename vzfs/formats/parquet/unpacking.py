"""How the pages of a Parquet file are compressed: not at all, or by gzip, Snappy or Zstandard.

A page says how long it is unpacked. It is that, or refused; nothing longer is ever made of it.
"""

import zlib
from typing import Final

import zstandard

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.parquet.thrift import corrupt

_NAMES: Final = {3: "LZO", 4: "Brotli", 5: "LZ4", 7: "LZ4_RAW"}
_ANY_WRAPPER: Final = 32 + zlib.MAX_WBITS
"""Of zlib: gzip's header or its own."""


def unpack(codec: int, packed: memoryview, length: int) -> memoryview:
    """Return the *length* bytes that *packed* stands for. Raises FormatError."""
    try:
        match codec:
            case 0:
                data: bytes | bytearray | memoryview = packed
            case 1:
                data = _snappy(bytes(packed), length)
            case 2:
                data = _gzip(packed, length)
            case 6:
                data = _zstd(packed, length)
            case _:
                raise FormatError(
                    ErrorKind.UNSUPPORTED_FORMAT,
                    f"the Parquet file is compressed by {_NAMES.get(codec, f'method {codec}')}",
                    advice="write it with compression zstd, snappy or gzip, or with none",
                )
    except (zlib.error, zstandard.ZstdError) as error:
        raise corrupt(f"a page cannot be unpacked ({error})") from None
    if len(data) != length:
        raise corrupt("a page does not have the length that it says")
    return memoryview(data)


def _gzip(packed: memoryview, length: int) -> bytes:
    unpacker = zlib.decompressobj(_ANY_WRAPPER)
    return unpacker.decompress(packed, length + 1)


def _zstd(packed: memoryview, length: int) -> bytes:
    # What the frame says is allocated at once.
    if zstandard.frame_content_size(packed) not in {-1, length}:
        raise corrupt("a page does not have the length that it says")
    if not length:
        return b""
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=length)


def _snappy(packed: bytes, length: int) -> bytearray:
    """Unpack Snappy's raw format: literals, and copies of what is there already."""
    said, at = _varint(packed)
    if said != length:
        raise corrupt("a page does not have the length that it says")
    out = bytearray()
    end = len(packed)
    while at < end:
        tag = packed[at]
        at += 1
        if not tag & 3:
            count = (tag >> 2) + 1
            if count > 60:
                width = count - 60
                count = int.from_bytes(packed[at : at + width], "little") + 1
                at += width
            if at + count > end:
                raise corrupt("a page ends early")
            out += packed[at : at + count]
            at += count
        else:
            if tag & 3 == 1:
                count, width = 4 + (tag >> 2 & 7), 1
                back = tag >> 5 << 8
            else:
                count, width = (tag >> 2) + 1, 2 if tag & 3 == 2 else 4
                back = 0
            back |= int.from_bytes(packed[at : at + width], "little")
            at += width
            start = len(out) - back
            if not back or start < 0 or at > end:
                raise corrupt("a page copies what it does not have")
            piece = out[start : start + count]
            # A copy may reach into what it makes: then it repeats.
            out += piece if back >= count else (piece * (count // back + 1))[:count]
        if len(out) > length:
            raise corrupt("a page does not have the length that it says")
    return out


def _varint(data: bytes) -> tuple[int, int]:
    value = 0
    for at in range(min(len(data), 5)):
        value |= (data[at] & 127) << 7 * at
        if data[at] < 128:
            return value, at + 1
    raise corrupt("a page ends early")
