"""The envelope of every Icechunk metadata file: a 39-byte header, and a payload that may be compressed.

The header is the magic (12 bytes), the writer's name (24, padded with spaces), then one byte each
for spec version, file type and compression. The spec version counts for this file alone: migrated
repositories mix them. The frames of zstd carry no content size, so what a payload unpacks to is
bounded while it is unpacked.
"""

import dataclasses
import enum
from typing import Final

import zstandard

from vzfs.errors import ErrorKind, FormatError

MAGIC: Final = "ICE🧊CHUNK".encode()
HEADER_LENGTH: Final = 39

MAX_PAYLOAD: Final = 2**31
"""Bytes. Flatbuffers are linked by signed 32-bit offsets: no writer makes a larger one."""

MAX_EXPANSION: Final = 1000
"""How many bytes one compressed byte may unpack to. A million virtual refs unpack 15-fold and very
regular files 20-fold; only repeated inline chunks of some kilobytes reach hundreds."""

ALWAYS_ALLOWED: Final = 2**24
"""Bytes that a payload may unpack to whatever its ratio: small files of zeros are harmless."""

_FEED: Final = 1024
"""Compressed bytes per step. One step unpacks to at most 32 MiB (a block of four bytes makes
128 KiB), so a bomb is noticed soon after it passes the limit."""

_MAX_FRAMES: Final = 1000
"""Writers make one frame; a payload of a million tiny ones is an attack."""

_ADVICE: Final = "a newer vzfs may read it"


class FileType(enum.IntEnum):
    """What an Icechunk metadata file says it is."""

    SNAPSHOT = 1
    MANIFEST = 2
    ATTRIBUTES = 3
    TRANSACTION_LOG = 4
    CHUNK = 5
    REPO_INFO = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Envelope:
    """An opened metadata file: *spec_version* is 1 or 2; *payload* is unpacked and read-only."""

    spec_version: int
    writer: str
    payload: memoryview


def corrupt(what: str, advice: str = "") -> FormatError:
    """Return the error that says that a file contradicts its own format."""
    return FormatError(ErrorKind.CORRUPT_METADATA, what, advice=advice)


def unsupported(what: str, advice: str = _ADVICE) -> FormatError:
    """Return the error that says that a file is of a kind unknown here."""
    return FormatError(ErrorKind.UNSUPPORTED_FORMAT, what, advice=advice)


def open_envelope(
    data: bytes | memoryview, expected: FileType, *, max_payload: int = MAX_PAYLOAD
) -> Envelope:
    """Check the header of *data* and unpack the payload, to at most *max_payload* bytes.

    Raises FormatError: CORRUPT_METADATA for what is no such file or is damaged, UNSUPPORTED_FORMAT
    for an unknown spec version, file type or compression.
    """
    view = memoryview(data).toreadonly().cast("B")
    if len(view) < HEADER_LENGTH or view[: len(MAGIC)] != MAGIC:
        raise corrupt("the file is not an Icechunk metadata file: its first bytes are wrong")
    writer = str(view[12:36], "utf-8", "replace").rstrip(" \0")
    spec_version, file_type, compression = view[36:HEADER_LENGTH]
    if spec_version not in {1, 2}:
        raise unsupported(
            f"the file follows Icechunk spec version {spec_version} (written by {writer!r}); "
            "versions 1 and 2 are known"
        )
    if file_type != expected:
        wanted = expected.name.lower().replace("_", " ")
        if file_type in FileType:
            found = FileType(file_type).name.lower().replace("_", " ")
            raise corrupt(f"the file should be an Icechunk {wanted} and is a {found}")
        raise unsupported(f"the file should be an Icechunk {wanted} and is of type {file_type}")
    payload = view[HEADER_LENGTH:]
    limit = min(max_payload, MAX_PAYLOAD)
    if compression == 0:
        if len(payload) > limit:
            raise corrupt(f"the payload is larger than {limit} bytes")
    elif compression == 1:
        payload = _unpack(payload, min(limit, ALWAYS_ALLOWED + MAX_EXPANSION * len(payload)))
    else:
        raise unsupported(f"the file is compressed by method {compression}, which is unknown")
    return Envelope(spec_version, writer, payload)


def _unpack(packed: memoryview, limit: int) -> memoryview:
    """Unpack all zstd frames of *packed*, to at most *limit* bytes."""
    decompressor = zstandard.ZstdDecompressor()
    unpacked = bytearray()
    position = frames = 0
    try:
        while position < len(packed):
            frames += 1
            if frames > _MAX_FRAMES:
                raise corrupt(f"the payload has more than {_MAX_FRAMES} compressed frames")
            frame = decompressor.decompressobj()
            while not frame.eof:
                piece = packed[position : position + _FEED]
                if not piece:
                    raise corrupt("the file is truncated: its compressed payload ends early")
                unpacked += frame.decompress(piece)
                position += len(piece)
                if len(unpacked) > limit:
                    raise corrupt(
                        f"the payload unpacks to more than {limit} bytes",
                        "this file is made to exhaust memory, or is damaged",
                    )
            position -= len(frame.unused_data)
    except zstandard.ZstdError as error:
        raise corrupt(f"the compressed payload is damaged ({error})") from None
    return memoryview(unpacked).toreadonly()
