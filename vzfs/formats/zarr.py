"""What must be known of an array's `zarr.json`: its chunk grid, its chunk keys, how large a chunk can be.

The document itself is opaque: it is served byte for byte, even if it is not JSON. So nothing here
raises for what a document says. An `ArrayLayout` whose *problem* is set tells why chunks of the
array cannot be named.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.manifest import MAX_FLAT_INDEX

MAX_DOCUMENT: Final = 2**24
"""Bytes of a document that is looked into. Parsed JSON takes twenty times its text in memory."""

MAX_NDIM: Final = 64
"""Dimensions: as many as numpy has."""

_MAX_LENGTH: Final = 2**63 - 1

_ITEM_SIZES: Final = {
    "bool": 1,
    **{
        f"{sign}int{bits}": max(bits // 8, 1)
        for sign in ("", "u")
        for bits in (2, 4, 8, 16, 32, 64)
    },
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
    "bfloat16": 2,
    "complex64": 8,
    "complex128": 16,
    "complex_bfloat16": 4,
    "complex_float16": 4,
    "complex_float32": 8,
    "complex_float64": 16,
    "numpy.datetime64": 8,
    "numpy.timedelta64": 8,
}
"""Bytes of one decoded element, by the data type's name. Types of variable length have none."""

_RAW_BITS = re.compile(r"r([1-9][0-9]{0,9})\Z")
_MINIFLOAT = re.compile(r"(complex_)?float[4-8]_e[0-9]+m[0-9]+[a-z0-9]*\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayLayout:
    """The lattice of an array's chunks, and how they are named.

    *problem* is "" or says why chunks cannot be named; *grid* is then the best that is known.
    *shard_index* says where a shard has its index, None if chunks are not shards that can be read in
    parts.
    """

    grid: ChunkGrid
    key_encoding: ChunkKeyEncoding
    problem: str = ""
    shard_index: Literal["start", "end"] | None = None


class _Problem(Exception):
    """The document does not say, in a way known here, how the array's chunks are named."""


def parse_array_document(document: bytes, num_chunks: Sequence[int] | None = None) -> ArrayLayout:
    """Read the layout of an array from its `zarr.json` (Zarr v3).

    *num_chunks* counts the chunks along each dimension as the repository knows them from elsewhere:
    it must have the same number of dimensions, and it stands in for a grid that cannot be read.
    """
    grid, encoding = ChunkGrid(_bounded(num_chunks or ())), ChunkKeyEncoding()
    shard_index = None
    try:
        fields = _load(document)
        encoding = _key_encoding(fields.get("chunk_key_encoding"))
        grid = _grid(fields)
        problem = _contradiction(grid, num_chunks)
        shard_index = _shard_index(fields.get("codecs"))
    except _Problem as found:
        problem = str(found)
    return ArrayLayout(grid, encoding, problem, shard_index)


def _contradiction(grid: ChunkGrid, num_chunks: Sequence[int] | None) -> str:
    """Say what keeps a grid that could be read from being used, "" if nothing does."""
    if num_chunks is not None and len(num_chunks) != len(grid.shape):
        return f"zarr.json has {len(grid.shape)} dimensions and the repository {len(num_chunks)}"
    if grid.size > MAX_FLAT_INDEX:
        return "the array has more chunks than 64 bits can count"
    return ""


def _bounded(counts: Sequence[int]) -> tuple[int, ...]:
    return tuple(counts) if len(counts) <= MAX_NDIM else ()


def _load(document: bytes) -> Mapping[str, object]:
    if len(document) > MAX_DOCUMENT:
        raise _Problem(f"zarr.json is larger than {MAX_DOCUMENT} bytes")
    try:
        fields = json.loads(document)
    # Numbers of more than 4300 digits are a ValueError too.
    except (ValueError, RecursionError):
        raise _Problem("zarr.json is not JSON") from None
    if not isinstance(fields, dict):
        raise _Problem("zarr.json is not a JSON object")
    if fields.get("zarr_format") != 3 or fields.get("node_type") != "array":
        raise _Problem("zarr.json does not describe a Zarr v3 array")
    return fields


def _named(value: object, what: str) -> tuple[str, Mapping[str, object]]:
    """Return name and configuration of an extension point, which may be a bare name."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict):
        name, configuration = value.get("name"), value.get("configuration", {})
        if isinstance(name, str) and isinstance(configuration, dict):
            return name, configuration
    raise _Problem(f"zarr.json has a malformed {what}")


def _key_encoding(value: object) -> ChunkKeyEncoding:
    name, configuration = _named(value, "chunk_key_encoding")
    default: Literal["/", "."]
    match name:
        case "default":
            style, default = KeyStyle.DEFAULT, "/"
        case "v2":
            style, default = KeyStyle.V2, "."
        case _:
            raise _Problem(f"the chunk key encoding {name[:40]!r} is unknown")
    match configuration.get("separator", default):
        case "/":
            return ChunkKeyEncoding(style, "/")
        case ".":
            return ChunkKeyEncoding(style, ".")
        case _:
            raise _Problem("the separator of chunk keys is neither '/' nor '.'")


def _shard_index(codecs: object) -> Literal["start", "end"] | None:
    """Return where chunks have the index of their inner chunks, if that is the last that is done to them."""
    if not isinstance(codecs, list) or not codecs:
        return None
    try:
        name, configuration = _named(codecs[-1], "codec")
    except _Problem:
        return None
    if name != "sharding_indexed":
        return None
    return "start" if configuration.get("index_location") == "start" else "end"


def _grid(fields: Mapping[str, object]) -> ChunkGrid:
    shape = _lengths(fields.get("shape"), "shape", 0)
    name, configuration = _named(fields.get("chunk_grid"), "chunk_grid")
    match name:
        case "regular":
            edges = _lengths(configuration.get("chunk_shape"), "chunk_shape", 1)
            _check_rank(edges, shape)
            counts = [-(-extent // edge) for extent, edge in zip(shape, edges, strict=True)]
        case "rectilinear":
            if configuration.get("kind") != "inline":
                raise _Problem("the rectilinear chunk grid is not of the kind 'inline'")
            dimensions = configuration.get("chunk_shapes")
            if not isinstance(dimensions, list):
                raise _Problem("zarr.json has a malformed chunk_shapes")
            _check_rank(dimensions, shape)
            pairs = [_rectilinear(d, e) for d, e in zip(dimensions, shape, strict=True)]
            counts = [count for count, _ in pairs]
            edges = [edge for _, edge in pairs]
        case _:
            raise _Problem(f"the chunk grid {name[:40]!r} is unknown")
    item = _item_size(fields.get("data_type"), 0)
    nbytes = math.prod(edges) * item if item else 1
    return ChunkGrid(tuple(counts), min(max(nbytes, 1), _MAX_LENGTH))


def _check_rank(dimensions: Sequence[object], shape: Sequence[int]) -> None:
    if len(dimensions) != len(shape):
        raise _Problem("the shape and the chunk grid of zarr.json differ in dimensions")


def _rectilinear(dimension: object, extent: int) -> tuple[int, int]:
    """Return how many chunks begin before *extent*, and the longest edge of the dimension.

    *dimension* is the one length of all chunks, or a list of lengths and of pairs [length,
    repetitions].
    """
    if not isinstance(dimension, list):
        edge = _length(dimension, "chunk_shapes", 1)
        return -(-extent // edge), edge
    count = longest = reached = 0
    for run in dimension:
        edge, repetitions = run if isinstance(run, list) and len(run) == 2 else (run, 1)
        edge = _length(edge, "chunk_shapes", 1)
        repetitions = _length(repetitions, "chunk_shapes", 1)
        count += min(repetitions, -(-max(extent - reached, 0) // edge))
        reached += edge * repetitions
        longest = max(longest, edge)
    if reached < extent or not longest:
        raise _Problem("the chunks of the rectilinear grid do not cover the array")
    return count, longest


def _lengths(value: object, what: str, least: int) -> Sequence[int]:
    if not isinstance(value, list):
        raise _Problem(f"zarr.json has a malformed {what}")
    if len(value) > MAX_NDIM:
        raise _Problem(f"the array has more than {MAX_NDIM} dimensions")
    return [_length(v, what, least) for v in value]


def _length(value: object, what: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_LENGTH:
        raise _Problem(f"zarr.json has a malformed {what}")
    return value


def _item_size(data_type: object, depth: int) -> int:
    """Return the bytes of one element, or 0 if they vary or the type is unknown."""
    try:
        name, configuration = _named(data_type, "data_type")
    except _Problem:
        return 0
    if (raw := _RAW_BITS.match(name)) is not None:
        return -(-int(raw[1]) // 8)
    if (small := _MINIFLOAT.match(name)) is not None:
        return 2 if small[1] else 1
    match configuration:
        case {"length_bytes": int(length)} if 0 < length <= _MAX_LENGTH:
            return length
        case {"fields": list(members)} if depth < 10:
            sizes = [_item_size(_member(member), depth + 1) for member in members]
            return sum(sizes) if all(sizes) else 0
    return _ITEM_SIZES.get(name, 0)


def _member(member: object) -> object:
    """Return the data type of a member of a structure: {"data_type": ...} or [name, type]."""
    match member:
        case {"data_type": data_type} | [_, data_type]:
            return data_type
    return None
