"""The vocabulary of codecs: which names mean the same bytes, and which readers know them.

A codec is a name and a configuration, hostile or not. What is not understood stays as it is, under
its own name; nothing here raises.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from vzfs.views.datatypes import DataType, named, simple_dtype
from vzfs.views.forms import MAX_TYPESIZE

type Configuration = Mapping[str, Any]

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

CNAMES: Final = frozenset({"lz4", "lz4hc", "blosclz", "snappy", "zlib", "zstd"})
SHUFFLES: Final = ("noshuffle", "shuffle", "bitshuffle")
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
            c.words for c in normalize(inner, data_type if key == "codecs" else INDEX, depth + 1)
        ]
    return codec if changed == codec.configuration else Codec(codec.name, changed)


INDEX: Final = DataType("uint64", simple_dtype("uint64"), is_common=True)
"""The data type of the index of a shard."""


def level(value: object, low: int, high: int, default: int) -> int:
    """Return a level of compression, which does not matter for decompression, as readers take it."""
    return value if type(value) is int and low <= value <= high else default


def _zstd(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"level", "checksum"}:
        return None
    effort = level(configuration.get("level"), -131072, 22, 0)
    return Codec("zstd", {"level": effort, "checksum": configuration.get("checksum") is True})


def _gzip(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"level"}:
        return None
    return Codec("gzip", {"level": level(configuration.get("level"), 0, 9, 5)})


def _zlib(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"level", "raw"} or configuration.get("raw"):
        return None
    return Codec("numcodecs.zlib", {"level": level(configuration.get("level"), 0, 9, 1)})


def _crc32c(configuration: Configuration, itemsize: int) -> Codec | None:
    return Codec("crc32c") if dict(configuration) == {"location": "end"} else None


def _grib(configuration: Configuration, itemsize: int) -> Codec | None:
    return Codec("grib", configuration)


def _endian(configuration: Configuration, itemsize: int) -> Codec | None:
    return Codec("bytes", configuration)


def _blosc(configuration: Configuration, itemsize: int) -> Codec | None:
    if not configuration.keys() <= {"cname", "clevel", "shuffle", "blocksize", "typesize"}:
        return None
    cname, shuffle = configuration.get("cname", "lz4"), configuration.get("shuffle", 1)
    if (
        not isinstance(cname, str)
        or cname not in CNAMES
        or type(shuffle) is not int
        or shuffle not in (-1, 0, 1, 2)
    ):
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
            "clevel": level(configuration.get("clevel"), 0, 9, 5),
            "shuffle": SHUFFLES[shuffle],
            "typesize": typesize,
            "blocksize": level(blocksize, 0, 2**31 - 1, 0),
        },
    )


_RENAMED: Final[Mapping[str, Callable[[Configuration, int], Codec | None]]] = {
    "endian": _endian,
    "numcodecs.blosc": _blosc,
    "numcodecs.crc32c": _crc32c,
    "numcodecs.grib": _grib,
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


# -- what a list of codecs has ---------------------------------------------------------------------


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


def is_chain(codecs: Sequence[Codec], data_type: DataType) -> bool:
    """Whether *codecs* are in their order, and the one that makes bytes makes them of such elements."""
    serializers = [at for at, codec in enumerate(codecs) if codec.name in BYTES_CODECS]
    if len(serializers) != 1:
        return False
    (at,) = serializers
    return (
        all(codec.name in ARRAY_CODECS for codec in codecs[:at])
        and not any(codec.name in ARRAY_CODECS for codec in codecs[at:])
        and _suits(codecs[at], data_type)
    )


def _suits(codec: Codec, data_type: DataType) -> bool:
    match codec.name:
        case "sharding_indexed":
            return True
        case "bytes":
            return bool(data_type.itemsize) and (
                not data_type.has_order or codec.configuration.get("endian") in ("little", "big")
            )
    return data_type.object_codec == codec.name


def permutation(codec: Codec, ndim: int) -> tuple[int, ...] | None:
    """Return the order of axes in which the codec transposes an array of *ndim*, None if it is none."""
    order = codec.configuration.get("order")
    if not isinstance(order, list) or not all(type(axis) is int for axis in order):
        return None
    return tuple(order) if sorted(order) == list(range(ndim)) else None
