"""Whether common readers take codecs as a document says them.

zarr-python reads all of a group's consolidated metadata at once, and one configuration that it
refuses keeps it from the whole group. So what is not surely taken counts as refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vzfs.views.codecs import (
    CNAMES,
    INDEX,
    MAX_SHARDING,
    SHUFFLES,
    Codec,
    Configuration,
    is_chain,
    permutation,
    read_codecs,
)
from vzfs.views.datatypes import DataType, simple_dtype
from vzfs.views.forms import MAX_TYPESIZE

type Check = Callable[[Any], bool]


def are_common(
    codecs: Sequence[Codec], data_type: DataType, chunk_shape: Sequence[int], depth: int = 0
) -> bool:
    """Whether zarr-python opens an array with *codecs*: one that it refuses keeps it from a whole group."""
    return is_chain(codecs, data_type) and all(
        _is_common(codec, data_type, chunk_shape, depth) for codec in codecs
    )


def _is_common(codec: Codec, data_type: DataType, chunk_shape: Sequence[int], depth: int) -> bool:
    match codec.name:
        case "sharding_indexed":
            return _is_common_sharding(codec.configuration, data_type, chunk_shape, depth)
        case "transpose":
            return permutation(codec, len(chunk_shape)) is not None
        case "numcodecs.packbits" if data_type.words != "bool":
            return False
    return is_configured(codec)


def is_configured(codec: Codec) -> bool:
    """Whether the codec is a known one, and its configuration such as zarr-python and numcodecs read."""
    allowed = _CONFIGURATIONS.get(codec.name)
    return (
        allowed is not None
        and codec.configuration.keys() >= _REQUIRED.get(codec.name, frozenset())
        and all(key in allowed and allowed[key](v) for key, v in codec.configuration.items())
    )


def _is_common_sharding(
    configuration: Configuration, data_type: DataType, chunk_shape: Sequence[int], depth: int
) -> bool:
    if not configuration.keys() <= {"chunk_shape", "codecs", "index_codecs", "index_location"}:
        return False
    inner_shape = configuration.get("chunk_shape")
    inner = read_codecs(configuration.get("codecs"))
    index = read_codecs(configuration.get("index_codecs"))
    return (
        depth < MAX_SHARDING
        and inner is not None
        and index is not None
        and all(codec.words == codec.stored for codec in (*inner, *index))
        and isinstance(inner_shape, list)
        and len(inner_shape) == len(chunk_shape)
        and all(
            type(n) is int and n > 0 and whole % n == 0
            for n, whole in zip(inner_shape, chunk_shape, strict=True)
        )
        and configuration.get("index_location", "end") in ("start", "end")
        and are_common(inner, data_type, inner_shape, depth + 1)
        and are_common(index, INDEX, [1] * (len(chunk_shape) + 1), depth + 1)
    )


def _one_of(*values: object) -> Check:
    return lambda value: isinstance(value, str | None) and value in values


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_dtype(value: object) -> bool:
    return value is None or simple_dtype(value) is not None


def _is_some_dtype(value: object) -> bool:
    return simple_dtype(value) is not None


_SMALL: Final = _whole(-(2**31), 2**31 - 1)
_DTYPES: Final = {"dtype": _is_dtype, "astype": _is_dtype}
_CONFIGURATIONS: Final[Mapping[str, Mapping[str, Check]]] = {
    "bytes": {"endian": _one_of("little", "big", None)},
    "blosc": {
        "cname": _one_of(*CNAMES),
        "clevel": _whole(0, 9),
        "shuffle": _one_of(*SHUFFLES),
        "typesize": _whole(1, MAX_TYPESIZE),
        "blocksize": _whole(0, 2**31 - 1),
    },
    "crc32c": {},
    "gzip": {"level": _whole(0, 9)},
    "zstd": {"level": _whole(-131072, 22), "checksum": _is_bool},
    "vlen-utf8": {},
    "vlen-bytes": {},
    "numcodecs.adler32": {"location": _one_of("start", "end")},
    "numcodecs.astype": {"encode_dtype": _is_some_dtype, "decode_dtype": _is_dtype},
    "numcodecs.bitround": {"keepbits": _SMALL},
    "numcodecs.blosc": {
        "cname": _one_of(*CNAMES),
        "clevel": _whole(0, 9),
        "shuffle": _whole(-1, 2),
        "typesize": _whole(1, MAX_TYPESIZE),
        "blocksize": _whole(0, 2**31 - 1),
    },
    "numcodecs.bz2": {"level": _SMALL},
    "numcodecs.crc32": {"location": _one_of("start", "end")},
    "numcodecs.crc32c": {"location": _one_of("start", "end")},
    "numcodecs.delta": _DTYPES,
    "numcodecs.fixedscaleoffset": {**_DTYPES, "offset": _is_number, "scale": _is_number},
    "numcodecs.fletcher32": {},
    "numcodecs.gzip": {"level": _SMALL},
    "numcodecs.jenkins_lookup3": {"initval": _whole(0, 2**32 - 1)},
    "numcodecs.lz4": {"acceleration": _SMALL},
    "numcodecs.lzma": {
        "format": _SMALL,
        "check": _SMALL,
        "preset": lambda value: value is None or _SMALL(value),
        "filters": lambda value: value is None,
    },
    "numcodecs.packbits": {},
    "numcodecs.quantize": {**_DTYPES, "digits": _SMALL},
    "numcodecs.shuffle": {"elementsize": _whole(1, 2**31 - 1)},
    "numcodecs.zlib": {"level": _SMALL},
    "numcodecs.zstd": {"level": _SMALL, "checksum": _is_bool},
}
"""What a configuration may have where zarr-python reads it."""

_REQUIRED: Final = {
    "numcodecs.astype": frozenset({"encode_dtype"}),
    "numcodecs.bitround": frozenset({"keepbits"}),
    "numcodecs.fixedscaleoffset": frozenset({"offset", "scale"}),
    "numcodecs.quantize": frozenset({"digits"}),
}
"""What a configuration must have."""
