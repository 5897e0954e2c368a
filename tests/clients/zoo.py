"""Arrays of every codec and data type that virtual and native repositories have, a few numbers each.

Written by zarr-python; chunks that it cannot write itself are encoded here, as HDF5 writes them. Each
group holds arrays that readers tend to know or not to know together, since some of them open a group
as a whole. All name their dimensions.
"""

import json
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

GRID = (np.arange(12 * 10).reshape(12, 10) ** 2 % 1009 - 500).astype("f4") / 8
CHUNKS = (5, 4)
"""Chunks do not divide the shape: each side ends with a chunk that is larger than what is left."""

FLETCHER32 = {"name": "numcodecs.fletcher32", "configuration": {}}


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _shuffle(size: int) -> dict[str, Any]:
    return _named("numcodecs.shuffle", elementsize=size)


ZLIB = _named("numcodecs.zlib", level=5)


def write(store: Any, group: str) -> dict[str, np.ndarray]:
    """Write the groups of the zoo below *group*; return all values by path."""
    made: dict[str, np.ndarray] = {}

    def add(name: str, values: np.ndarray, chunks: Any = None, **options: Any) -> zarr.Array:
        options.setdefault("compressors", None)
        path = f"{group}/{name}"
        names = [f"d{length}" for length in values.shape]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # codecs and data types outside the specification
            array = zarr.create_array(
                store,
                name=path,
                shape=values.shape,
                dtype=options.pop("dtype", values.dtype),
                chunks=chunks or tuple(min(5, n) or 1 for n in values.shape),
                dimension_names=names,
                **options,
            )
        made[path] = values
        return array

    def native(name: str, values: np.ndarray, chunks: Any = None, **options: Any) -> None:
        """Add an array that zarr-python writes."""
        add(name, values, chunks, **options)[...] = values

    def foreign(
        name: str, values: np.ndarray, codecs: list[dict[str, Any]], encode: Callable[..., bytes]
    ) -> None:
        """Add an array of one chunk with *codecs* after bytes, whose chunk *encode* makes."""
        add(name, values, values.shape)
        key = f"{group}/{name}/zarr.json"
        prototype = default_buffer_prototype()
        document = json.loads(sync(store.get(key, prototype)).to_bytes())
        endian = "big" if values.dtype.byteorder == ">" else "little"
        document["codecs"] = [_named("bytes", endian=endian), *codecs]
        sync(store.set(key, prototype.buffer.from_bytes(json.dumps(document).encode())))
        chunk = f"{group}/{name}/{'/'.join(['c', *'0' * values.ndim])}"
        sync(store.set(chunk, prototype.buffer.from_bytes(encode(values))))

    for part in (
        "core",
        "deflate",
        "empty",
        "fletcher",
        "keys",
        "odd",
        "others",
        "rare",
        "shards",
        "text",
        "types",
        "wide",
    ):
        zarr.create_group(store, path=f"{group}/{part}", attributes={"part": part})

    # -- codecs of the specification
    native("core/plain", GRID, CHUNKS)
    native("core/plain_big", GRID, CHUNKS, serializer=BytesCodec(endian="big"))
    native("core/gzip", GRID, CHUNKS, compressors=GzipCodec(level=5))
    native("core/zstd", GRID, CHUNKS, compressors=ZstdCodec(level=3))
    native("core/blosc", GRID, CHUNKS, compressors=BloscCodec(cname="lz4", shuffle="shuffle"))
    some = GRID.copy()
    some[5:] = -7
    native("core/some_missing", some, CHUNKS, fill_value=-7.0)
    native("core/all_missing", np.full_like(GRID, -7), CHUNKS, fill_value=-7.0)
    native("core/transpose", GRID, CHUNKS, filters=TransposeCodec(order=(1, 0)))
    native("core/scalar", np.float64(2.5).reshape(()), ())
    native("rare/crc32c", GRID, CHUNKS, compressors=Crc32cCodec())
    native("shards/sharded", GRID, CHUNKS, shards=(10, 8), compressors=ZstdCodec(level=3))

    # -- what VirtualiZarr says of netCDF4 and HDF5 files
    for name, values in {
        "zlib": GRID,
        "zlib_int": (GRID * 8).astype("i2"),
        "zlib_big": GRID.astype(">f8"),
        "zlib_scalar": np.int32(77).reshape(()),
        "zlib_equal": _of_equal_length(),
        "zlib_incompressible": np.random.default_rng(5).integers(0, 2**32, (12, 10), "u4"),
    }.items():
        foreign(f"deflate/{name}", values, [ZLIB], lambda v: zlib.compress(v.tobytes(), 5))
    for name, values in {
        "shuffle_zlib": GRID,
        "shuffle_zlib_long": GRID.astype("f8"),
        "shuffle_zlib_big": (GRID * 8).astype(">i4"),
        "shuffle_zlib_byte": (GRID * 8).astype("i2").astype("u1"),
    }.items():
        size = values.itemsize
        foreign(f"deflate/{name}", values, [_shuffle(size), ZLIB], _shuffled(size, zlib.compress))
    sum_of = numcodecs.Fletcher32().encode
    foreign(
        "fletcher/shuffle_zlib_fletcher32",
        GRID,
        [_shuffle(4), ZLIB, FLETCHER32],
        lambda v: bytes(sum_of(np.frombuffer(_shuffled(4, zlib.compress)(v), "u1"))),
    )
    foreign("fletcher/fletcher32", GRID, [FLETCHER32], lambda v: bytes(sum_of(v)))
    foreign(
        "fletcher/fletcher32_shuffle_zlib",  # as libnetcdf 4.10 writes; zarr-python refuses it
        GRID,
        [FLETCHER32, _shuffle(4), ZLIB],
        lambda v: _shuffled(4, zlib.compress)(np.frombuffer(sum_of(v), "u1")),
    )
    foreign(
        "others/zstd",
        GRID,
        [_named("numcodecs.zstd", level=3)],
        lambda v: numcodecs.Zstd(3).encode(v.tobytes()),
    )
    foreign(
        "others/shuffle_zstd",
        GRID,
        [_shuffle(4), _named("numcodecs.zstd", level=3)],
        _shuffled(4, numcodecs.Zstd(3).encode),
    )
    foreign(
        "others/blosc",
        GRID,
        [_named("numcodecs.blosc", cname="zstd", clevel=5, shuffle=1, blocksize=0)],
        lambda v: numcodecs.Blosc("zstd", 5, 1).encode(v),
    )
    foreign(
        "others/lz4_small",
        GRID,
        [_named("numcodecs.lz4", acceleration=1)],
        lambda v: numcodecs.LZ4(1).encode(v.tobytes()),
    )
    foreign(
        "others/lz4",
        np.tile(GRID, (8, 6)),
        [_named("numcodecs.lz4", acceleration=1)],
        lambda v: numcodecs.LZ4(1).encode(v.tobytes()),
    )
    foreign(
        "others/shuffle_lz4",
        np.tile(GRID, (8, 6)),  # smaller chunks of LZ4 have no frame
        [_shuffle(4), _named("numcodecs.lz4", acceleration=1)],
        _shuffled(4, numcodecs.LZ4(1).encode),
    )
    foreign(
        "others/gzip",
        GRID,
        [_named("numcodecs.gzip", level=5)],
        lambda v: numcodecs.GZip(5).encode(v.tobytes()),
    )
    foreign("others/shuffle", GRID, [_shuffle(4)], _shuffled(4, bytes))
    foreign(
        "rare/bz2",
        GRID,
        [_named("numcodecs.bz2", level=5)],
        lambda v: numcodecs.BZ2(5).encode(v.tobytes()),
    )
    foreign(
        "rare/lzma",
        GRID,
        [_named("numcodecs.lzma", format=1, check=-1, preset=None, filters=None)],
        lambda v: numcodecs.LZMA().encode(v.tobytes()),
    )

    # -- data types
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        native(f"types/{dtype}", (np.abs(GRID) * 8 % 100).astype(dtype), CHUNKS)
    native("types/special", np.array([np.nan, np.inf, -np.inf, -0.0, 1e-310], "f8"))
    native("odd/bool", GRID > 0, CHUNKS)
    native("odd/half", GRID.astype("f2"), CHUNKS)
    native("empty/empty", np.empty((0, 3), "f4"), (1, 3))
    native("empty/beside", GRID, CHUNKS)
    for dtype in ("c8", "c16", "datetime64[s]", "S7", "U5"):
        native(f"text/{dtype[:3]}", np.arange(6).astype("i8").astype(dtype))
    native("text/vlen", np.array(["", "a", "zwölf", "日本"], dtype=np.dtypes.StringDType()))
    compound = np.zeros(6, [("n", "<i4"), ("x", "<f8")])
    compound["n"], compound["x"] = range(6), np.linspace(0, 1, 6)
    native("text/compound", compound)

    # -- chunks that are longer than their array, as unlimited dimensions have them
    native("wide/plain", GRID, (512, 4))
    native("wide/gzip", GRID, (512, 16), compressors=GzipCodec(level=5))
    native("wide/beside", GRID, CHUNKS)

    # -- chunk keys
    for style, separator in [("default", "/"), ("default", "."), ("v2", "/"), ("v2", ".")]:
        name = f"keys/{style}_{'slash' if separator == '/' else 'dot'}"
        native(name, GRID, CHUNKS)
        key = f"{group}/{name}/zarr.json"
        prototype = default_buffer_prototype()
        document = json.loads(sync(store.get(key, prototype)).to_bytes())
        document["chunk_key_encoding"] = _named(style, separator=separator)
        sync(store.set(key, prototype.buffer.from_bytes(json.dumps(document).encode())))
    return made


def _shuffled(size: int, compress: Callable[[bytes], Any]) -> Callable[[np.ndarray], bytes]:
    """Return what shuffles the bytes of elements of *size*, and compresses that."""

    def encode(values: np.ndarray) -> bytes:
        columns = np.frombuffer(values.tobytes(), "u1").reshape(-1, size)
        return bytes(compress(columns.T.tobytes()))

    return encode


def _of_equal_length() -> np.ndarray:
    """Return numbers that zlib compresses to as many bytes as they have."""
    chance = np.random.default_rng(1)
    noise, zeros = chance.integers(0, 256, 2048, "u1"), np.zeros(2048, "u1")
    for length in range(2048):
        values = np.concatenate([noise, zeros[:length]])
        if len(zlib.compress(values.tobytes(), 5)) == values.nbytes:
            return values
    raise AssertionError("none found")
