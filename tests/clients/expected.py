"""What is expected of every reader, as rules: what it knows, and what it is known to do wrong.

The rules are about what a reader is shown, so they hold whichever view shows it. `predict` gives
what comes of an array; anything else fails the matrix. A reader's own bug is recorded with the
bytes it concerns, which vzfs cannot help; any other wrong value fails, whatever this table says.

`must_be_right` is apart from that, and is about what is stored: what the views are for.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.clients.matrix import Found

NUMBERS = frozenset(
    {*(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)), "float32", "float64"}
)
SIMPLE = NUMBERS | {"bool", "float16"}
COMPLEX = frozenset({"complex64", "complex128"})
ALL = SIMPLE | COMPLEX | {"datetime64", "timedelta64", "bytes", "text", "struct", "string"}


class Shown(NamedTuple):
    """An array as its documents say it. *codecs* are all names, those in shards too."""

    path: str
    zarr_format: int
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    is_big: bool
    is_transposed: bool
    codecs: tuple[str, ...]
    dimensions: tuple[str, ...] | None
    fill_value: Any
    says_null_dimensions: bool = False
    coordinates: tuple[str, ...] = ()  # the names of arrays that say where its values lie

    @property
    def is_empty(self) -> bool:
        return 0 in self.shape

    @property
    def is_wide(self) -> bool:
        """Whether a chunk is longer than the array."""
        return any(c > n for c, n in zip(self.chunks, self.shape, strict=True))


def shown_v3(path: str, document: Mapping[str, Any]) -> Shown:
    """Read a `zarr.json`."""
    codecs = list(_flat(document["codecs"]))
    names = document.get("dimension_names")
    endian = next(
        (
            c["configuration"].get("endian")
            for c in codecs
            if "endian" in c.get("configuration", {})
        ),
        None,
    )
    return Shown(
        path,
        3,
        tuple(document["shape"]),
        tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
        _v3_dtype(document["data_type"]),
        endian == "big",
        any(codec["name"] == "transpose" for codec in codecs),
        tuple(codec["name"] for codec in codecs),
        None if names is None or None in names else tuple(names),
        document.get("fill_value"),
        "dimension_names" in document and names is None,
    )


def _flat(codecs: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for codec in codecs:
        codec = {"name": codec} if isinstance(codec, str) else codec
        yield codec
        inner = codec.get("configuration", {}).get("codecs")
        if codec["name"] == "sharding_indexed":
            yield from _flat(inner)


def _v3_dtype(said: Any) -> str:
    name = said if isinstance(said, str) else said["name"]
    known = {
        "null_terminated_bytes": "bytes",
        "fixed_length_utf32": "text",
        "numpy.datetime64": "datetime64",
        "numpy.timedelta64": "timedelta64",
        "structured": "struct",
    }
    return known.get(name, name)


def shown_v2(path: str, array: Mapping[str, Any], attributes: Mapping[str, Any]) -> Shown:
    """Read a `.zarray` and its `.zattrs`."""
    said = array["dtype"]
    codecs = [
        *(array.get("filters") or []),
        *([array["compressor"]] if array["compressor"] else []),
    ]
    names = attributes.get("_ARRAY_DIMENSIONS")
    if isinstance(said, list):
        dtype = "struct"
    else:
        kind = np.dtype(said)
        dtype = {"S": "bytes", "U": "text", "O": "string", "M": "datetime64"}.get(
            kind.kind, kind.name
        )
    return Shown(
        path,
        2,
        tuple(array["shape"]),
        tuple(array["chunks"]),
        dtype,
        isinstance(said, str) and said.startswith(">"),
        array["order"] == "F",
        tuple(codec["id"] for codec in codecs),
        None if names is None else tuple(names),
        array["fill_value"],
        coordinates=tuple(str(attributes.get("coordinates", "")).split()),
    )


@dataclasses.dataclass(frozen=True)
class Knows:
    """What a reader knows: codecs of Zarr v3, codecs of v2, and data types.

    Then whether it reads arrays without axes, those without elements, and filters of v2.
    """

    v3: Collection[str] = ()
    v2: Collection[str] = ()
    types: Collection[str] = SIMPLE
    scalars: bool = True
    empty: bool = True
    filters: bool = True


CORE = frozenset({"bytes", "gzip", "zstd", "blosc"})
REST = frozenset({"crc32c", "transpose", "sharding_indexed"})
NUMCODECS = frozenset(
    f"numcodecs.{name}"
    for name in (
        *("zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "blosc", "shuffle", "fletcher32", "delta"),
        *("crc32", "crc32c", "adler32", "bitround", "fixedscaleoffset", "quantize", "packbits"),
    )
)
V2 = frozenset(name.removeprefix("numcodecs.") for name in NUMCODECS)
TEXT = frozenset({"vlen-utf8", "vlen-bytes"})

PYTHON = Knows(CORE | REST | NUMCODECS | TEXT, V2 | TEXT, ALL)

KNOWS = {
    "zarr": PYTHON,
    "zarr2": dataclasses.replace(PYTHON, v3=(), v2=(V2 | TEXT) - {"crc32c"}),
    "zarrs": PYTHON,
    "dask": PYTHON,
    "xarray": PYTHON,
    "tensorstore": Knows(
        CORE | REST, {"zlib", "gzip", "bz2", "zstd", "blosc"}, SIMPLE | COMPLEX, filters=False
    ),
    "zarrista": Knows(
        CORE | REST | TEXT | {"numcodecs.shuffle"},
        {"gzip", "zstd", "blosc", "shuffle", "vlen-utf8", "vlen-bytes"},
        SIMPLE | COMPLEX | {"string", "datetime64", "timedelta64"},
    ),
    "z5py": Knows(
        CORE | {"sharding_indexed"},
        {"gzip", "bz2", "zlib", "zstd", "blosc"},
        NUMBERS,
        scalars=False,
        filters=False,
    ),
    "gdal36": Knows(
        (), {"zlib", "gzip", "lzma", "lz4", "zstd", "blosc", "delta"}, SIMPLE | COMPLEX, empty=False
    ),
    "gdal312": Knows(
        CORE | {"transpose"},
        {"zlib", "gzip", "lzma", "zstd", "blosc", "shuffle", "delta"},
        SIMPLE | COMPLEX,
        empty=False,
    ),
    "ncdump": Knows((), (), NUMBERS),
    "ncks": Knows((), (), NUMBERS),
    "cdo": Knows((), (), NUMBERS),
    "netcdf4": Knows((), {"zlib", "shuffle", "fletcher32", "zstd", "blosc", "bz2"}, NUMBERS),
    "zarrita": Knows(
        CORE
        | REST
        | {f"numcodecs.{n}" for n in ("zlib", "shuffle", "zstd", "blosc", "lz4", "gzip", "delta")},
        {"zlib", "gzip", "lz4", "zstd", "blosc", "shuffle", "delta"},
        NUMBERS | {"bool"},
        empty=False,
    ),
    "zarrjs": Knows(
        (), {"zlib", "gzip", "blosc"}, NUMBERS - {"int64", "uint64"} | {"bool"}, scalars=False
    ),
}


class Prediction(NamedTuple):
    """What may come of reading an array; *bug* says which bug of the reader it is, if it is one."""

    found: frozenset[Found]
    bug: str = ""


RIGHT = Prediction(frozenset({Found.RIGHT}))
ERROR = Prediction(frozenset({Found.ERROR}))
LEFT_OUT = Prediction(frozenset({Found.LEFT_OUT}))


def _bug(what: str, *found: Found) -> Prediction:
    return Prediction(frozenset(found), what)


UNSIZED = frozenset({"tiff_zstd/0"})
"""Arrays whose streams of zstd do not say how long their content is, which some decoders need."""

BAD = (Found.WRONG, Found.CRASH, Found.ERROR)

BUGS = {
    "uncompressed": "netCDF-C 4.9 gives compressed bytes as data, or crashes",
    "scalars": "netCDF-C 4.9 crashes on arrays without dimensions",
    "coordinates": "CDO reads some coordinates without dimensions at once, on which netCDF-C 4.9 crashes",
    "types": "netCDF-C 4.9 crashes on groups with data types that it does not know",
    "big": "netCDF-C 4.9 ignores big-endian data types",
    "z5-big": "z5 ignores the byte order of Zarr v3",
    "f-order": "netCDF-C ignores the order F",
    "characters": "TensorStore 0.1.86 gives text of no characters with numpy 2.5",
    "filters": "zarr.js ignores filters",
}
"""The readers' own bugs that the matrix meets, by a short name."""

PROGRAMS = ("ncdump", "ncks", "cdo")


def predict(client: str, array: Shown, kin: Sequence[Shown]) -> Prediction:
    """Say what comes of reading *array*, which lies in a group with the arrays *kin*."""
    knows = KNOWS[client]
    if client in PROGRAMS:
        return _netcdf49(client, array, kin)
    if client == "netcdf4":
        return _netcdf410(knows, array, kin)
    if client == "xarray" and any(_is_nothing_for_xarray(other) for other in kin):
        return ERROR
    peculiar = _peculiar(client, knows, array)
    if peculiar is not None:
        return peculiar
    return RIGHT if _is_known(knows, array) else ERROR


def _is_nothing_for_xarray(array: Shown) -> bool:
    """Whether xarray cannot open the group of an array: it parses all, and wants names for axes."""
    return not _is_known(KNOWS["xarray"], array) or (array.dimensions is None and array.shape != ())


def _peculiar(client: str, knows: Knows, array: Shown) -> Prediction | None:
    """Say what a reader does by way of exception."""
    match client, array.zarr_format:
        case "z5py", 3 if array.is_big and not _is_palindrome(array) and _is_known(knows, array):
            # What has no chunks has its fill value, and that is right.
            return _bug(BUGS["z5-big"], Found.WRONG, Found.RIGHT)
        case "z5py", 2 if array.is_big or array.is_transposed:
            return ERROR
        case "tensorstore" | "gdal312", 3 if array.says_null_dimensions:
            return ERROR
        case "tensorstore", 2 if array.dtype == "bytes":
            if _is_known(knows, array._replace(dtype="uint8")):
                return _bug(BUGS["characters"], Found.WRONG, Found.ERROR)
            return ERROR
        case "zarrista", 2 if array.dtype == "datetime64":
            return ERROR
        case "zarrista", 2 if array.dtype in COMPLEX and array.fill_value is None:
            return ERROR
        case "gdal36" | "gdal312", 2 if array.dtype in COMPLEX and array.fill_value is not None:
            return ERROR
        case "zarr2", 2 if array.path in UNSIZED and "zstd" in array.codecs:
            return ERROR
        case "zarrs", 2 if array.is_big or array.is_transposed:
            return ERROR
        case "zarrjs", 2 if {"shuffle", "delta"} & set(array.codecs):
            others = tuple(name for name in array.codecs if name not in ("shuffle", "delta"))
            if _is_known(knows, array._replace(codecs=others)):
                return _bug(BUGS["filters"], Found.WRONG, Found.ERROR)
    return None


def _is_palindrome(array: Shown) -> bool:
    """Whether there is no byte order to get wrong."""
    return array.dtype in ("int8", "uint8", "bool")


def _is_known(knows: Knows, array: Shown) -> bool:
    codecs = knows.v3 if array.zarr_format == 3 else knows.v2
    return (
        array.dtype in knows.types
        and set(array.codecs) <= set(codecs)
        and (knows.scalars or array.shape != ())
        and (knows.empty or not array.is_empty)
        and (knows.filters or array.zarr_format == 3 or not _has_filters(array))
    )


def _has_filters(array: Shown) -> bool:
    return len(array.codecs) > 1 or "shuffle" in array.codecs or "fletcher32" in array.codecs


def _netcdf49(client: str, array: Shown, kin: Sequence[Shown]) -> Prediction:
    if any(other.dtype not in NUMBERS for other in kin):
        return _bug(BUGS["types"], *BAD, Found.RIGHT)
    if any(other.is_empty or other.is_wide for other in kin):
        return ERROR
    if array.shape == ():
        return _bug(BUGS["scalars"], *BAD)
    if array.codecs:
        return _bug(BUGS["uncompressed"], *BAD, Found.RIGHT)  # checksums go unnoticed
    if array.is_big and not _is_palindrome(array):
        return _bug(BUGS["big"], *BAD, Found.RIGHT)
    if array.is_transposed:
        return _bug(BUGS["f-order"], *BAD)
    if client == "cdo":
        named = {name for other in kin for name in other.coordinates}
        if any(other.shape == () and other.path.rpartition("/")[2] in named for other in kin):
            return _bug(BUGS["coordinates"], Found.CRASH, Found.ERROR, Found.RIGHT)
        return Prediction(frozenset({Found.RIGHT, Found.ERROR}))
    return RIGHT


def _netcdf410(knows: Knows, array: Shown, kin: Sequence[Shown]) -> Prediction:
    if any(other.dtype not in NUMBERS | {"bytes"} for other in kin) or array.shape == ():
        return ERROR
    if array.is_transposed:
        return _bug(BUGS["f-order"], Found.WRONG)
    if any(set(other.codecs) - set(knows.v2) for other in kin):
        return Prediction(frozenset({Found.RIGHT, Found.ERROR}))
    if array.path in UNSIZED and "zstd" in array.codecs:
        return ERROR
    return RIGHT if _is_known(knows, array) else ERROR


# -- what the views are for ------------------------------------------------------------------------

COMPRESSED = {"numcodecs.zlib", "numcodecs.zstd", "numcodecs.lz4", "imagecodecs_zstd", "zstd"}


def is_numeric(stored: Shown) -> bool:
    """Whether an array is of numbers that every reader has a type for."""
    return stored.dtype in NUMBERS


def is_expressible(stored: Shown) -> bool:
    """Whether `portable` must say an array in the core's words, Blosc among them."""
    codecs = [name for name in stored.codecs if name != "numcodecs.shuffle"]
    if codecs[-1:] == ["numcodecs.fletcher32"]:
        codecs.pop()
    head, tail = codecs[:1], codecs[1:]
    nbytes = int(np.prod(stored.chunks)) * np.dtype(stored.dtype).itemsize
    if tail == ["numcodecs.lz4"] and nbytes < 2**14:
        return False  # Blosc takes short streams of LZ4 for something else
    if head != ["bytes"] or len(tail) > 1:
        return False
    known = COMPRESSED | {"blosc", "gzip", "numcodecs.blosc", "numcodecs.gzip"}
    return set(tail) <= known if tail else len(stored.codecs) == 1


def must_be_right(client: str, view: str, stored: Shown) -> bool:
    """Whether it is a promise that *client* reads an array, which is *stored* so, in *view*."""
    if not is_numeric(stored) or stored.is_empty:
        return False
    if client in ("tensorstore", "zarrista", "gdal312", "zarrita"):
        if view.startswith("portable"):
            return is_expressible(stored)
        return view.startswith("decoded")
    if view == "decoded-v2" and client == "gdal36":
        return True
    # Whatever is beside it.
    return view == "decoded-v2" and client in ("ncdump", "ncks") and stored.shape != ()
