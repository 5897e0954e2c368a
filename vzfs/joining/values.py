"""Values of small arrays, decoded by what Python and zstandard decode, and written as one plain chunk.

Codecs that need more are not decoded here: `Undecodable` says so, and whoever asks decides.
Lengths are bounded before anything is allocated.
"""

import contextlib
import math
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
import zstandard

from vzfs.joining.described import changed, grid_of
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.references import ManifestBuilder
from vzfs.model.snapshot import Array
from vzfs.views.codecs import Codec, normalize
from vzfs.views.fillvalues import read_fill_value
from vzfs.views.metadata import ArrayMetadata
from vzfs.views.v3 import plain_codecs

type Read = Callable[[ChunkRef], Awaitable[bytes | memoryview]]
"""Gets the bytes of a chunk that is not inline."""
type Values = np.ndarray[Any, np.dtype[Any]]

MAX_NBYTES: Final = 16 * 2**20
"""Bytes of an array that is read and written anew as a whole."""
MAX_CHUNKS: Final = 65_536
"""Chunks of an array that is."""
_SLACK: Final = 64
"""Bytes that checksums add to a chunk."""
_MAX_WINDOW: Final = 2**27


class Undecodable(Exception):
    """Why an array is not decoded here, for people."""


def check(metadata: ArrayMetadata) -> list[Codec]:
    """Return the codecs of an array that can be decoded here, in the order of decoding. Raises Undecodable."""
    if metadata.data_type.numpy is None:
        raise Undecodable("its elements have no fixed size")
    codecs = normalize(metadata.codecs, metadata.data_type)
    if codecs[0].name != "bytes":
        raise Undecodable(f"the codec {codecs[0].name[:40]!r} is not decoded here")
    for codec in codecs[1:]:
        if codec.name not in _DECODERS:
            raise Undecodable(f"the codec {codec.name[:40]!r} is not decoded here")
    if read_fill_value(metadata.fill_value, metadata.data_type) is None:
        raise Undecodable("its fill value is none of its data type")
    return list(reversed(codecs))


def nbytes_of(metadata: ArrayMetadata) -> int:
    """Return how many bytes the values of an array have; 0 if they vary."""
    return math.prod(metadata.shape) * metadata.data_type.itemsize


async def values_of(
    array: Array, metadata: ArrayMetadata, manifest: Manifest, read: Read
) -> Values:
    """Return all values of an array, little-endian. Raises Undecodable, and what *read* raises."""
    codecs = check(metadata)
    dtype = metadata.data_type.numpy
    assert dtype is not None  # noqa: S101 -- checked
    if max(nbytes_of(metadata), metadata.nbytes) > MAX_NBYTES or array.grid.size > MAX_CHUNKS:
        raise Undecodable(f"it has more than {MAX_NBYTES} bytes, or {MAX_CHUNKS} chunks")
    fill = read_fill_value(metadata.fill_value, metadata.data_type)
    values = np.full(tuple(metadata.shape), fill, dtype)
    for row, flat in enumerate(manifest.indices(0, len(manifest)).tolist()):
        chunk = decoded(await bytes_of(manifest.ref(row), read), metadata, codecs)
        begin = [c * n for c, n in zip(array.grid.unravel(flat), metadata.chunk_shape, strict=True)]
        target = tuple(
            slice(b, min(b + n, s))
            for b, n, s in zip(begin, metadata.chunk_shape, metadata.shape, strict=True)
        )
        values[target] = chunk[tuple(slice(t.stop - t.start) for t in target)]
    return values


async def bytes_of(ref: ChunkRef, read: Read) -> bytes | memoryview:
    """Return the bytes of a chunk as they are stored."""
    return ref.inline if ref.kind is ChunkKind.INLINE else await read(ref)


def decoded(data: bytes | memoryview, metadata: ArrayMetadata, codecs: list[Codec]) -> Values:
    """Return the values of a chunk. Raises Undecodable if its bytes are not what its codecs make."""
    limit = metadata.nbytes + _SLACK
    try:
        for codec in codecs[:-1]:
            data = _DECODERS[codec.name](bytes(data), codec, limit)
    except (ValueError, zlib.error, zstandard.ZstdError) as error:
        raise Undecodable(f"a chunk is not what its codecs make: {error}") from None
    if len(data) != metadata.nbytes:
        raise Undecodable(
            f"a chunk has {len(data)} bytes when it is decoded, not {metadata.nbytes}"
        )
    endian = codecs[-1].configuration.get("endian")
    order = metadata.data_type.ordered("big" if endian == "big" else "little")
    chunk = np.frombuffer(data, order).reshape(metadata.chunk_shape)
    return chunk.astype(order.newbyteorder("<"), copy=False)


def rewritten(
    path: str, metadata: ArrayMetadata, values: Values, where: str, **fields: object
) -> tuple[Array, Manifest]:
    """Return the array at *path* with *values* as one chunk of plain numbers, inline.

    *fields* of its document are others than *metadata* says.
    """
    chunk_shape = [max(n, 1) for n in values.shape]
    array = changed(
        path,
        metadata,
        where,
        shape=list(values.shape),
        chunk_grid=grid_of(chunk_shape),
        codecs=[codec.words for codec in plain_codecs(metadata.data_type)],
        **fields,
    )
    builder = ManifestBuilder()
    if values.size:
        data = np.ascontiguousarray(values).tobytes()
        builder.add(0, ChunkRef(ChunkKind.INLINE, len(data), inline=data))
    return array, builder.build()


# -- codecs ----------------------------------------------------------------------------------------


def _inflated(data: bytes, codec: Codec, limit: int) -> bytes:
    stream = zlib.decompressobj(31 if codec.name == "gzip" else 15)
    made = stream.decompress(data, limit)
    if not stream.eof:
        raise ValueError("a stream ends too early, or is too long")
    return made


def _unzstd(data: bytes, codec: Codec, limit: int) -> bytes:
    with contextlib.closing(
        zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(data)
    ) as stream:
        return stream.read(limit)


def _unshuffled(data: bytes, codec: Codec, limit: int) -> bytes:
    size = codec.configuration.get("elementsize", 4)
    if type(size) is not int or not 0 < size <= max(len(data), 1):
        raise ValueError("an element is larger than what was shuffled")
    whole = len(data) - len(data) % size
    made = np.frombuffer(data, np.uint8, whole).reshape(size, -1).T
    return made.tobytes() + data[whole:]


def _without_sum(data: bytes, codec: Codec, limit: int) -> bytes:
    if len(data) < 4 or codec.configuration.get("location", "end") != "end":
        raise ValueError("there is no checksum at the end")
    return data[:-4]


_DECODERS: Final[dict[str, Callable[[bytes, Codec, int], bytes]]] = {
    "gzip": _inflated,
    "numcodecs.zlib": _inflated,
    "zstd": _unzstd,
    "numcodecs.shuffle": _unshuffled,
    "numcodecs.fletcher32": _without_sum,
    "crc32c": _without_sum,
}
"""Of stored bytes, a codec and the most bytes that may come of them, what it made them of.

Checksums over bytes are left out and not verified: versions and lengths of what is read are."""
