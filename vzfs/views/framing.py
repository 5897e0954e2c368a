"""Which codecs can be said as one Blosc block around the bytes as they are.

After `bytes`, in this order, each of them at most once: a shuffle, a compressor with streams that
Blosc has too, and a Fletcher checksum, which is cut off. Where nothing compresses, the block is one
that Blosc calls not compressed.
"""

from collections.abc import Sequence

from vzfs.views.codecs import Codec
from vzfs.views.forms import MAX_BLOCK, MAX_TYPESIZE, Framed
from vzfs.views.metadata import ArrayMetadata, Unsaid

_LZ4_LENGTH = 4
"""Bytes before the stream of LZ4 in which numcodecs says how long the chunk is."""
_CHECKSUM = 4

MIN_LZ4 = 2**14
"""Bytes of a chunk from which on a stream of LZ4 is framed. One as long as its chunk has no frame, and
of small chunks too many are."""

_STREAMS = {
    "numcodecs.zlib": ("zlib", frozenset({"level"})),
    "numcodecs.lz4": ("lz4", frozenset({"acceleration"})),
    "zstd": ("zstd", frozenset({"level", "checksum"})),
}
"""Codecs by what Blosc calls their streams, with all that their configuration may say."""


def frame_codecs(
    metadata: ArrayMetadata, codecs: Sequence[Codec]
) -> tuple[Framed, tuple[Codec, ...]]:
    """Return the form of the chunks of an array with these normalized *codecs*, and the codecs it then has.

    Raises Unsaid, which says why not.
    """
    count = next((i for i, codec in enumerate(codecs) if codec.name != "transpose"), len(codecs))
    if count == len(codecs) or codecs[count].name != "bytes":
        raise Unsaid(f"{_unusual(codecs)} cannot be said in core codecs")
    kept, tail = tuple(codecs[: count + 1]), list(codecs[count + 1 :])
    typesize, skip, cut, cname = 1, 0, 0, ""
    if tail and tail[0].name == "numcodecs.shuffle":
        typesize = tail.pop(0).configuration.get("elementsize")  # type: ignore[assignment]
    if tail and tail[0].name in _STREAMS:
        compressor = tail.pop(0)
        cname, allowed = _STREAMS[compressor.name]
        skip = _LZ4_LENGTH if cname == "lz4" else 0
        if not compressor.configuration.keys() <= allowed:
            raise Unsaid(f"{compressor.name} has a configuration that is not known")
    if tail and tail[0].name == "numcodecs.fletcher32":
        tail.pop(0)
        cut = _CHECKSUM
    if tail:
        raise Unsaid(f"{_unusual(codecs)} cannot be said in core codecs")
    nbytes = metadata.nbytes
    if not nbytes:
        raise Unsaid("the size of its elements is not known")
    if nbytes > MAX_BLOCK:
        raise Unsaid(f"its chunks are larger than a block of Blosc, which has {MAX_BLOCK} bytes")
    if cname == "lz4" and nbytes < MIN_LZ4:
        raise Unsaid("its chunks are too small for Blosc to tell their streams of LZ4 from them")
    if type(typesize) is not int or not 0 < typesize <= MAX_TYPESIZE or nbytes % typesize:
        raise Unsaid("it is shuffled by elements that Blosc cannot have")
    form = Framed(
        nbytes=nbytes,
        cname=cname or "zlib",
        typesize=typesize,
        is_shuffled=typesize > 1,
        skip=skip,
        cut=cut,
        is_raw=not cname,
    )
    return form, (*kept, _blosc(form))


def _blosc(form: Framed) -> Codec:
    return Codec(
        "blosc",
        {
            "cname": form.cname,
            "clevel": 5,
            "shuffle": "shuffle" if form.is_shuffled else "noshuffle",
            "typesize": form.typesize,
            "blocksize": 0,
        },
    )


def _unusual(codecs: Sequence[Codec]) -> str:
    """Name *codecs* for people, shortly."""
    return ", ".join(codec.name[:40] for codec in codecs[:6])
