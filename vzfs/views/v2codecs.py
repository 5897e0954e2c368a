"""Codecs in the words of Zarr v2, where they have ids, and the data types of values are said."""

from collections.abc import Sequence
from typing import Final

from vzfs.views.acceptance import is_configured
from vzfs.views.codecs import CNAMES, SHUFFLES, Codec, Configuration, level, permutation
from vzfs.views.datatypes import DataType, simple_dtype

COMPRESSORS: Final = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
"""The ids of Zarr v2 codecs that compress and nothing else."""


def codec_words(codec: Codec, data_type: DataType) -> dict[str, object] | None:
    """Return the same codec as a Zarr v2 document has it, or None if it has no name there."""
    name, configuration, _ = codec
    match name:
        case "gzip" | "zstd":
            effort = level(configuration.get("level"), -131072, 22, 5 if name == "gzip" else 0)
            checksum = {"checksum": True} if configuration.get("checksum") is True else {}
            return {"id": name, "level": effort, **checksum}
        case "blosc":
            shuffle = configuration.get("shuffle", "noshuffle")
            cname = configuration.get("cname")
            if not isinstance(cname, str) or cname not in CNAMES or shuffle not in SHUFFLES:
                return None
            return {
                "id": "blosc",
                "cname": cname,
                "clevel": level(configuration.get("clevel"), 0, 9, 5),
                "shuffle": SHUFFLES.index(shuffle),
                "blocksize": level(configuration.get("blocksize"), 0, 2**31 - 1, 0),
            }
        case "numcodecs.zlib" if is_configured(codec):
            # Some readers end where there is no level.
            return {"id": "zlib", "level": level(configuration.get("level"), -1, 9, 1)}
        case "crc32c":
            return {"id": "crc32c", "location": "end"}
        case "vlen-utf8" | "vlen-bytes":
            return {"id": name}
    if name.startswith("imagecodecs_"):
        return {**configuration, "id": name}
    spelled = _with_types(name, configuration, data_type) if is_configured(codec) else None
    return None if spelled is None else {"id": name.removeprefix("numcodecs."), **spelled}


_TYPED: Final = {
    "numcodecs.astype": "decode_dtype",
    "numcodecs.delta": "dtype",
    "numcodecs.fixedscaleoffset": "dtype",
    "numcodecs.quantize": "dtype",
}
"""Where codecs say the data type of what they are given, which Zarr v3 leaves to be inferred."""


def _with_types(
    name: str, configuration: Configuration, data_type: DataType
) -> Configuration | None:
    """Return *configuration* with all data types, as Zarr v2 spells them; None if numcodecs refuses one."""
    types = {key: simple_dtype(value) for key, value in configuration.items()}
    spelled = {
        key: value if (dtype := types[key]) is None else dtype.str
        for key, value in configuration.items()
        if value is not None
    }
    if (wanted := _TYPED.get(name)) is not None:
        dtype = types.get(wanted) or data_type.numpy
        if dtype is None or (name == "numcodecs.quantize" and dtype.kind != "f"):
            return None
        spelled[wanted] = dtype.str
    return spelled


def memory_order(codecs: Sequence[Codec], ndim: int) -> str | None:
    """Return the order, `C` or `F`, in which *codecs*, which all transpose, lay out a chunk; None if it is neither."""
    order = tuple(range(ndim))
    for codec in codecs:
        axes = permutation(codec, ndim)
        if axes is None:
            return None
        order = tuple(order[axis] for axis in axes)
    if order == tuple(range(ndim)):
        return "C"
    return "F" if order == tuple(reversed(range(ndim))) else None
