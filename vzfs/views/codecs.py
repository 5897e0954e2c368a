"""The vocabulary of codecs: which names mean the same bytes, and which readers know them.

A codec is a name and a configuration, hostile or not. What is not understood stays as it is, under
its own name; nothing here raises.
"""

import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from vzfs.views.datatypes import DataType, named, simple_dtype
from vzfs.views.forms import MAX_TYPESIZE

type Configuration = Mapping[str, Any]
type Check = Callable[[Any], bool]

CORE: Final = frozenset(
    {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"}
)
"""The codecs that the Zarr v3 core specifies, and its sister documents: every reader has them."""

VARIABLE: Final = frozenset({"vlen-utf8", "vlen-bytes"})
"""Codecs for elements of variable size, which can be said in no other way."""

ARRAY_CODECS: Final = frozenset(
    {"transpose", "cast_value", "scale_offset"}
    | {f"numcodecs.{id_}" for id_ in ("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize")}
    | {"imagecodecs_delta", "imagecodecs_floatpred"}
)  # fmt: skip
"""Codecs that make an array of an array."""

BYTES_CODECS: Final = frozenset({"bytes", "sharding_indexed"}) | VARIABLE
"""Codecs that make bytes of an array."""

DECODABLE: Final = (
    CORE
    | {"cast_value", "scale_offset"}
    | {
        f"numcodecs.{id_}"
        for id_ in (
            "adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta",
            "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits",
            "quantize", "shuffle", "zlib", "zstd",
        )
    }
)  # fmt: skip
"""What zarr and numcodecs decode by themselves into elements of a fixed size."""

MAX_SHARDING: Final = 4
"""How deep shards can lie in shards."""

_CNAMES: Final = frozenset({"lz4", "lz4hc", "blosclz", "snappy", "zlib", "zstd"})
_SHUFFLES: Final = ("noshuffle", "shuffle", "bitshuffle")
_CONFIGURED: Final = frozenset({"bytes", "crc32c"}) | VARIABLE
"""Codecs whose configuration may be left out."""


_NOTHING: Final[Configuration] = types.MappingProxyType({})


class Codec(NamedTuple):
    """A codec: *stored* is how the document says it, None if it does not say it so."""

    name: str
    configuration: Configuration = _NOTHING
    stored: object = None

    @property
    def words(self) -> object:
        """What a Zarr v3 document says: *stored*, if every reader takes that."""
        if isinstance(self.stored, dict) and (
            "configuration" in self.stored or self.name in _CONFIGURED
        ):
            return self.stored
        if self.name in _CONFIGURED and not self.configuration:
            return {"name": self.name}
        return {"name": self.name, "configuration": dict(self.configuration)}


def read_codecs(words: object) -> tuple[Codec, ...] | None:
    """Return the codecs that a document lists as *words*, or None if that is no list of codecs."""
    if not isinstance(words, list):
        return None
    found = []
    for item in words:
        parts = named(item)
        if parts is None:
            return None
        found.append(Codec(*parts, item))
    return tuple(found)


# -- the same bytes by the most common name --------------------------------------------------------


def normalize(codecs: Sequence[Codec], data_type: DataType, depth: int = 0) -> tuple[Codec, ...]:
    """Return *codecs* by their most common names: bytes are what they were, whichever are read.

    A shuffle of single bytes does nothing, and goes.
    """
    renamed = (_normal(codec, data_type, depth) for codec in codecs)
    return tuple(codec for codec in renamed if not _does_nothing(codec))


def _does_nothing(codec: Codec) -> bool:
    return codec.name == "numcodecs.shuffle" and codec.configuration.get("elementsize") == 1


def _normal(codec: Codec, data_type: DataType, depth: int) -> Codec:
    name, configuration, _ = codec
    if name.startswith("numcodecs.imagecodecs_"):
        name = name.removeprefix("numcodecs.")
    rename = _RENAMED.get(name)
    if rename is not None:
        return rename(configuration, data_type.itemsize) or codec
    match name:
        case "sharding_indexed" if depth < MAX_SHARDING:
            return _normal_sharding(codec, data_type, depth)
        case "gzip" | "zstd" if not configuration:
            return Codec(name, {"level": 5} if name == "gzip" else {"level": 0, "checksum": False})
        case "numcodecs.shuffle" if configuration.get("elementsize") is None and data_type.itemsize:
            return Codec(name, {**configuration, "elementsize": data_type.itemsize})
    return codec


def _normal_sharding(codec: Codec, data_type: DataType, depth: int) -> Codec:
    changed = dict(codec.configuration)
    for key in ("codecs", "index_codecs"):
        inner = read_codecs(codec.configuration.get(key))
        if inner is None:
            return codec
        changed[key] = [
            c.words for c in normalize(inner, data_type if key == "codecs" else _INDEX, depth + 1)
        ]
    return codec if changed == codec.configuration else Codec(codec.name, changed)


_INDEX: Final = DataType("uint64", simple_dtype("uint64"), is_common=True)
"""The data type of the index of a shard."""


def _level(value: object, low: int, high: int, default: int) -> int:
    """Return a level of compression, which does not matter for decompression, as readers take it."""
    return value if type(value) is int and low <= value <= high else default


def _zstd(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"level", "checksum"}:
        return None
    level = _level(configuration.get("level"), -131072, 22, 0)
    return Codec("zstd", {"level": level, "checksum": configuration.get("checksum") is True})


def _gzip(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"level"}:
        return None
    return Codec("gzip", {"level": _level(configuration.get("level"), 0, 9, 5)})


def _zlib(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"level", "raw"} or configuration.get("raw"):
        return None
    return Codec("numcodecs.zlib", {"level": _level(configuration.get("level"), 0, 9, 1)})


def _crc32c(configuration: Configuration, itemsize: int) -> Codec | None:
    return Codec("crc32c") if dict(configuration) == {"location": "end"} else None


def _endian(configuration: Configuration, itemsize: int) -> Codec | None:
    return Codec("bytes", configuration)


def _blosc(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"cname", "clevel", "shuffle", "blocksize", "typesize"}:
        return None
    cname, shuffle = configuration.get("cname", "lz4"), configuration.get("shuffle", 1)
    if cname not in _CNAMES or type(shuffle) is not int or shuffle not in (-1, 0, 1, 2):
        return None
    typesize = configuration.get("typesize") or itemsize
    if type(typesize) is not int or not 0 < typesize <= MAX_TYPESIZE:
        typesize = 1
    if shuffle == -1:
        shuffle = 2 if typesize == 1 else 1
    blocksize = configuration.get("blocksize", 0)
    return Codec(
        "blosc",
        {
            "cname": cname,
            "clevel": _level(configuration.get("clevel"), 0, 9, 5),
            "shuffle": _SHUFFLES[shuffle],
            "typesize": typesize,
            "blocksize": _level(blocksize, 0, 2**31 - 1, 0),
        },
    )


_RENAMED: Final[Mapping[str, Callable[[Configuration, int], Codec | None]]] = {
    "endian": _endian,
    "numcodecs.blosc": _blosc,
    "numcodecs.crc32c": _crc32c,
    "numcodecs.gzip": _gzip,
    "numcodecs.zstd": _zstd,
    "imagecodecs_deflate": _zlib,
    "imagecodecs_gzip": _gzip,
    "imagecodecs_zlib": _zlib,
    "imagecodecs_zlibng": _zlib,
    "imagecodecs_zopfli": _zlib,
    "imagecodecs_zstd": _zstd,
}
"""Codecs that are known by another name too. Levels and the like only say how bytes were made."""


# -- whether common readers take what is written ---------------------------------------------------


def names(codecs: Sequence[Codec], depth: int = 0) -> frozenset[str]:
    """Return the names of *codecs*, and of those inside shards."""
    found = set()
    for name, configuration, _ in codecs:
        found.add(name)
        if name == "sharding_indexed":
            for key in ("codecs", "index_codecs"):
                inner = read_codecs(configuration.get(key))
                if inner is None or depth >= MAX_SHARDING:
                    found.add("a malformed sharding_indexed")
                else:
                    found |= names(inner, depth + 1)
    return frozenset(found)


def are_common(
    codecs: Sequence[Codec], data_type: DataType, chunk_shape: Sequence[int], depth: int = 0
) -> bool:
    """Whether zarr-python opens an array with *codecs*: one that it refuses keeps it from a whole group."""
    stage = 0
    for codec in codecs:
        name = codec.name
        follows = 0 if name in ARRAY_CODECS else 1 if name in BYTES_CODECS else 2
        if follows < stage or (follows != 0 and follows == stage == 1) or (stage == 0 and follows == 2):  # fmt: skip
            return False
        stage = max(stage, follows)
        if name == "sharding_indexed":
            if not _is_common_sharding(codec.configuration, data_type, chunk_shape, depth):
                return False
        elif name == "transpose":
            if _permutation(codec, len(chunk_shape)) is None:
                return False
        elif not _is_configured(codec):
            return False
        if name in ("numcodecs.packbits", "numcodecs.pcodec", "numcodecs.zfpy"):
            return False
        if name in BYTES_CODECS and name != "sharding_indexed" and not _suits(codec, data_type):
            return False
    return stage > 0


def _suits(codec: Codec, data_type: DataType) -> bool:
    """Whether the codec makes bytes of such elements."""
    if codec.name != "bytes":
        return data_type.object_codec == codec.name
    return bool(data_type.itemsize) and (
        not data_type.has_order or codec.configuration.get("endian") in ("little", "big")
    )


def _is_configured(codec: Codec) -> bool:
    allowed = _CONFIGURATIONS.get(codec.name)
    return allowed is not None and all(
        key in allowed and allowed[key](value) for key, value in codec.configuration.items()
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
        and are_common(index, _INDEX, [1] * (len(chunk_shape) + 1), depth + 1)
    )


def _permutation(codec: Codec, ndim: int) -> tuple[int, ...] | None:
    order = codec.configuration.get("order")
    if not isinstance(order, list) or not all(type(axis) is int for axis in order):
        return None
    return tuple(order) if sorted(order) == list(range(ndim)) else None


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


_SMALL: Final = _whole(-(2**31), 2**31 - 1)
_DTYPES: Final = {"dtype": _is_dtype, "astype": _is_dtype}
_CONFIGURATIONS: Final[Mapping[str, Mapping[str, Check]]] = {
    "bytes": {"endian": _one_of("little", "big", None)},
    "blosc": {
        "cname": _one_of(*_CNAMES),
        "clevel": _whole(0, 9),
        "shuffle": _one_of(*_SHUFFLES),
        "typesize": _whole(1, MAX_TYPESIZE),
        "blocksize": _whole(0, 2**31 - 1),
    },
    "crc32c": {},
    "gzip": {"level": _whole(0, 9)},
    "zstd": {"level": _whole(-131072, 22), "checksum": _is_bool},
    "vlen-utf8": {},
    "vlen-bytes": {},
    "numcodecs.adler32": {"location": _one_of("start", "end")},
    "numcodecs.astype": {"encode_dtype": _is_dtype, "decode_dtype": _is_dtype},
    "numcodecs.bitround": {"keepbits": _SMALL},
    "numcodecs.blosc": {
        "cname": _one_of(*_CNAMES),
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


# -- in the words of Zarr v2 -----------------------------------------------------------------------

COMPRESSORS: Final = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
"""The ids of Zarr v2 codecs that compress and nothing else."""


def v2_words(codec: Codec, data_type: DataType) -> dict[str, object] | None:
    """Return the same codec as a Zarr v2 document has it, or None if it has no name there."""
    name, configuration, _ = codec
    match name:
        case "gzip" | "zstd":
            level = _level(configuration.get("level"), -131072, 22, 5 if name == "gzip" else 0)
            checksum = {"checksum": True} if configuration.get("checksum") is True else {}
            return {"id": name, "level": level, **checksum}
        case "blosc":
            shuffle = configuration.get("shuffle", "noshuffle")
            if configuration.get("cname") not in _CNAMES or shuffle not in _SHUFFLES:
                return None
            return {
                "id": "blosc",
                "cname": configuration["cname"],
                "clevel": _level(configuration.get("clevel"), 0, 9, 5),
                "shuffle": _SHUFFLES.index(shuffle),
                "blocksize": _level(configuration.get("blocksize"), 0, 2**31 - 1, 0),
            }
        case "crc32c":
            return {"id": "crc32c", "location": "end"}
        case "vlen-utf8" | "vlen-bytes":
            return {"id": name}
    if name.startswith("imagecodecs_"):
        return {**configuration, "id": name}
    if name not in _CONFIGURATIONS or not _is_configured(codec):
        return None
    return {"id": name.removeprefix("numcodecs."), **_with_types(name, configuration, data_type)}


def _with_types(name: str, configuration: Configuration, data_type: DataType) -> Configuration:
    """Return *configuration* with the data types that Zarr v3 leaves to be inferred, as Zarr v2 spells them."""
    spelled = {
        key: value if (dtype := simple_dtype(value)) is None else dtype.str
        for key, value in configuration.items()
        if value is not None or key not in ("dtype", "decode_dtype")
    }
    wanted = {
        "numcodecs.fixedscaleoffset": "dtype",
        "numcodecs.quantize": "dtype",
        "numcodecs.delta": "dtype",
        "numcodecs.astype": "decode_dtype",
    }.get(name)
    if wanted is not None and wanted not in spelled and data_type.numpy is not None:
        spelled[wanted] = data_type.numpy.str
    return spelled


def memory_order(codecs: Sequence[Codec], ndim: int) -> str | None:
    """Return the order, `C` or `F`, in which *codecs*, which all transpose, lay out a chunk; None if it is neither."""
    order = tuple(range(ndim))
    for codec in codecs:
        permutation = _permutation(codec, ndim)
        if permutation is None:
            return None
        order = tuple(order[axis] for axis in permutation)
    if order == tuple(range(ndim)):
        return "C"
    return "F" if order == tuple(reversed(range(ndim))) else None
