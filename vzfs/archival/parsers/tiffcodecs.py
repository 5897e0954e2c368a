"""How the strips and tiles of a TIFF file are compressed, in codecs that readers of Zarr have.

A last strip with fewer rows than the others is no chunk of a regular grid. What keeps every bit when
it is compressed again is therefore padded here, with rows of zeros behind a predictor that works row
by row, so that the strip's own rows stay as they are.
"""

import base64
import dataclasses
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import zstandard

from vzfs.archival.building import Unpresentable

type Words = Mapping[str, object]
type Expand = Callable[[bytes, int], bytes]
"""Of a compressed chunk and the bytes that it should have, what it has: one byte more if it has more."""
type Compress = Callable[[bytes], bytes]

INSTALL: Final = "pip install 'vzfs[tiff]'"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How chunks are stored, as the tags say it: *shape* is that of a whole chunk."""

    compression: int
    predictor: int
    photometric: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    sample_axis: int | None
    has_extra_samples: bool
    tables: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, slots=True)
class Encoding:
    """The *codecs* of an array, and what makes and unmakes its chunks here.

    *compress* is None where it would lose something. *is_checked* says that what a chunk decodes to
    is known from the tags alone, so that none has to be decoded to know that they are right.
    """

    codecs: list[Words]
    expand: Expand
    compress: Compress | None
    is_plain: bool = False
    is_checked: bool = True


def encoding_of(stored: Stored, first: bytes) -> Encoding:
    """Return how chunks are encoded; *first* is the beginning of one. Raises Unpresentable."""
    made = _NAMES.get(stored.compression)
    if made is None:
        raise Unpresentable(
            f"its compression {stored.compression} is none that readers of Zarr have"
        )
    if made in _IMAGES:
        return _IMAGES[made](stored, first)
    compressed = _STREAMS[made]
    codecs = [*_predictor(stored), _to_bytes(stored)]
    if compressed.words:
        codecs.append(compressed.words)
    return Encoding(codecs, compressed.expand, compressed.compress, is_plain=made == "none")


def codec(name: str, **configuration: object) -> Words:
    """Return the words for a codec."""
    return {"name": name, "configuration": configuration}


def _to_bytes(stored: Stored) -> Words:
    if stored.dtype.itemsize == 1:
        return {"name": "bytes"}
    # The predictor for floating-point numbers has an order of bytes of its own.
    is_big = stored.dtype.byteorder == ">" and stored.predictor != _FLOATING
    return codec("bytes", endian="big" if is_big else "little")


_HORIZONTAL, _FLOATING = 2, 3


def _predictor(stored: Stored) -> list[Words]:
    axis = -2 if stored.sample_axis == 2 else -1
    match stored.predictor, stored.dtype.kind:
        case 1, _:
            return []
        case 2, "i" | "u" | "f":
            return [codec("imagecodecs_delta", axis=axis)]
        case 3, "f":
            shape, dtype = list(stored.shape), stored.dtype.newbyteorder("<").str
            return [codec("imagecodecs_floatpred", shape=shape, dtype=dtype, axis=axis)]
    raise Unpresentable(f"its predictor {stored.predictor} does not go with its elements")


# -- streams of bytes ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Stream:
    words: Words | None
    expand: Expand
    compress: Compress


def _inflated(data: bytes, length: int) -> bytes:
    return zlib.decompressobj().decompress(data, length + 1)


def _unzstd(data: bytes, length: int) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read(length + 1)


def _unlzma(data: bytes, length: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=2**28).decompress(data, length + 1)


def imagecodecs() -> Any:  # noqa: ANN401 -- a module without types
    """Return the module. Raises Unpresentable if it is not installed."""
    try:
        import imagecodecs as module  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise Unpresentable(f"it takes a package to be read: {INSTALL}") from None
    return module


_STREAMS: Final = {
    "none": _Stream(None, lambda data, length: data[: length + 1], lambda data: data),
    "deflate": _Stream(codec("numcodecs.zlib", level=6), _inflated, lambda data: zlib.compress(data, 6)),
    "zstd": _Stream(
        codec("zstd", level=9, checksum=False),
        _unzstd,
        lambda data: zstandard.ZstdCompressor(9).compress(data),
    ),
    "lzma": _Stream(codec("numcodecs.lzma", format=lzma.FORMAT_XZ), _unlzma, lzma.compress),
    "lzw": _Stream(
        codec("imagecodecs_lzw"),
        lambda data, length: imagecodecs().lzw_decode(data, out=length + 1),
        lambda data: imagecodecs().lzw_encode(data),
    ),
    "packbits": _Stream(
        codec("imagecodecs_packbits"),
        lambda data, length: imagecodecs().packbits_decode(data, out=length + 1),
        lambda data: imagecodecs().packbits_encode(data),
    ),
}  # fmt: skip

_NAMES: Final = {
    1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32773: "packbits", 32946: "deflate",
    34712: "jpeg2k", 34887: "lerc", 34925: "lzma", 34926: "zstd", 50000: "zstd", 50001: "webp",
}  # fmt: skip


# -- images within the image -----------------------------------------------------------------------


def _image(
    stored: Stored,
    words: list[Words],
    decode: Callable[[bytes], np.ndarray],
    encode: Callable[[np.ndarray], bytes] | None,
) -> Encoding:
    if stored.predictor != 1:
        raise Unpresentable("it has a predictor, which its compression does not take")
    shape, dtype = stored.shape, stored.dtype.newbyteorder("<")
    columns = shape[1:] if stored.sample_axis != 0 else shape[2:]

    def expand(data: bytes, length: int) -> bytes:
        made = decode(data)
        if made.dtype != dtype or made.shape[1:] not in (columns, _without_one(columns)):
            raise Unpresentable(
                f"a chunk of it has {made.dtype} {made.shape}, and not {dtype} {shape} as its tags say"
            )
        return np.ascontiguousarray(made).tobytes()

    def compress(data: bytes) -> bytes:
        values = np.frombuffer(data, dtype).reshape(-1, *columns)
        again = encode(values) if encode is not None else b""
        if expand(again, len(data)) != data:
            raise Unpresentable("its last strip has fewer rows, and cannot be compressed as it was")
        return again

    chain: list[Words] = [
        {"name": "bytes"} if dtype.itemsize == 1 else codec("bytes", endian="little")
    ]
    lossless = compress if encode is not None else None
    return Encoding([*chain, *words], expand, lossless, is_checked=False)


def _without_one(columns: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an image with one sample for each pixel."""
    return columns[:-1] if columns[-1] == 1 else columns


def _jpeg(stored: Stored, first: bytes) -> Encoding:
    if stored.dtype != np.dtype("u1"):
        raise Unpresentable("it is JPEG of more than 8 bits")
    colors: dict[str, object] = {}
    if not stored.has_extra_samples:
        match stored.photometric:
            case 6:
                colors["colorspace_data"] = "RGB"
            case 2:
                colors["colorspace_data"] = "RGB"
                if first[6:10] != b"JFIF":
                    colors["colorspace_jpeg"] = "RGB"
            case 5:
                colors["colorspace_data"] = "CMYK"
            case 0 | 1:
                pass
            case other:
                raise Unpresentable(f"it is JPEG with the photometric interpretation {other}")
    if stored.sample_axis == 0:
        colors["colorspace_data"] = "GRAYSCALE"
    if stored.tables:
        colors["tables"] = base64.b64encode(stored.tables).decode()
    module = imagecodecs()

    def decode(data: bytes) -> np.ndarray:
        return np.asarray(
            module.jpeg8_decode(
                data,
                tables=stored.tables or None,
                colorspace=colors.get("colorspace_jpeg"),
                outcolorspace=colors.get("colorspace_data"),
            )
        )

    return _image(stored, [codec("imagecodecs_jpeg", **colors)], decode, None)


def _lerc(stored: Stored, first: bytes) -> Encoding:
    words: list[Words] = [codec("imagecodecs_lerc")]
    # Its parameters say the version, and what is around it: nothing, deflate or zstd.
    around = int(np.frombuffer(stored.tables, "<u4")[1]) if len(stored.tables) >= 8 else 0
    names = {0: "none", 1: "deflate", 2: "zstd"}
    if around not in names:
        raise Unpresentable("it is LERC within a compression that is not known")
    outer = _STREAMS[names[around]]
    if outer.words:
        words.append(outer.words)
    module = imagecodecs()
    most = 2 * stored.nbytes + 2**16

    def decode(data: bytes) -> np.ndarray:
        values, mask = module.lerc_decode(outer.expand(data, most), masks=True)
        if mask is not None and not np.all(mask):
            raise Unpresentable(
                "it is LERC with a mask of pixels, which readers of Zarr do not heed"
            )
        return np.asarray(values)

    return _image(stored, words, decode, lambda values: outer.compress(module.lerc_encode(values)))


def _jpeg2k(stored: Stored, first: bytes) -> Encoding:
    if stored.photometric == 6:
        raise Unpresentable("it is JPEG 2000 of other colours than RGB")
    module = imagecodecs()
    return _image(
        stored,
        [codec("imagecodecs_jpeg2k")],
        module.jpeg2k_decode,
        lambda values: module.jpeg2k_encode(values, level=0, reversible=True, codecformat="J2K"),
    )


def _webp(stored: Stored, first: bytes) -> Encoding:
    colors = {"hasalpha": stored.shape[-1] == 4}
    module = imagecodecs()
    return _image(
        stored,
        [codec("imagecodecs_webp", **colors)],
        lambda data: module.webp_decode(data, hasalpha=colors["hasalpha"]),
        lambda values: module.webp_encode(values, lossless=True, level=100),
    )


_IMAGES: Final = {"jpeg": _jpeg, "jpeg2k": _jpeg2k, "lerc": _lerc, "webp": _webp}
