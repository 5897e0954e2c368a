"""Inputs of about a mebibyte that are made to cost time or memory: what no mutation finds in time.

Each is given with its target. All are bounded by what `contract` allows, and by the memory that
stands beside them.
"""

import functools
import gzip
import json
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import zstandard

from tests.fuzz import corpus
from tests.pure import craft
from tests.pure.craft import Fixed, Table, Vector
from vzfs.formats.icechunk.config import MAX_CONFIG_SIZE
from vzfs.formats.icechunk.refs import MAX_REF_SIZE
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.snapshot import Extents, WantedArray

SIZE = 2**20


class Hostile(NamedTuple):
    """An input for a target, and the bytes that may be held in memory for it, where that is the point."""

    target: str
    what: str
    make: Callable[[], bytes]
    memory: int | None = None

    def __str__(self) -> str:
        return f"{self.target}: {self.what}"


def bomb(payload: int, kind: int) -> bytes:
    """Return a metadata file that unpacks to so many zeros."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(payload >> 20)) + packer.flush()
    return craft.wrap(b"", kind)[:38] + b"\1" + packed


def nested_bomb() -> bytes:
    """Return a metadata file whose payload is frames in frames."""
    inner = bomb(2**28, craft.MANIFEST)[39:]
    return (
        craft.wrap(zstandard.ZstdCompressor().compress(inner), craft.MANIFEST)[:38]
        + b"\1"
        + inner * 100
    )


def asked(file: bytes, shape: tuple[int, ...] = (2**32, 2**20), regions: int = 1) -> bytes:
    """Return the question what *file* has of an array of *shape*."""
    extents = [Extents(tuple((0, min(n, 2**32 - 1)) for n in shape))] * regions
    return corpus.pack_question(
        corpus.Question(craft.NODE, WantedArray(ChunkGrid(shape), extents), file)
    )


def deep_paths() -> bytes:
    """Return a snapshot whose nodes lie one in another, as deep as the bytes go."""
    names = [f"/{'a/' * i}a" for i in range(700)]
    return craft.snapshot([craft.group("/"), *(craft.group(name) for name in names)])


def wide() -> bytes:
    """Return a snapshot of as many groups as fit."""
    return craft.snapshot(
        [craft.group("/"), *(craft.group(f"/{i:x}", b"") for i in range(SIZE // 56))]
    )


def entangled(count: int) -> bytes:
    """Return a snapshot with an array whose manifests no dimension separates."""
    document = json.dumps(corpus.DOCUMENT | {"shape": [2**31] * 2}).encode()
    extents = [[(i, i + count), (count - i, 2 * count - i)] for i in range(count)]
    return craft.snapshot([craft.group("/"), craft.array("/a", document, [2**30] * 2, extents)])


def staggered(count: int) -> bytes:
    """Return a snapshot with an array whose manifests peel off one by one."""
    document = json.dumps(corpus.DOCUMENT | {"shape": [2**31] * 2}).encode()
    extents = [
        [(i, i + 1), (0, 2**29)] if i % 2 else [(0, 2**29), (i, i + 1)] for i in range(count)
    ]
    return craft.snapshot([craft.group("/"), craft.array("/a", document, [2**30] * 2, extents)])


def shared_document(count: int) -> bytes:
    """Return a snapshot whose arrays all have the one large document."""
    document = json.dumps(corpus.DOCUMENT | {"attributes": {"x": "y" * 2**17}}).encode()
    nodes = [
        craft.array(f"/{i}", document, [2, 3], [], node=struct.pack("<Q", i)) for i in range(count)
    ]
    return craft.snapshot([craft.group("/"), *nodes])


def metadata_of(value: bytes, spec: int) -> bytes:
    """Return a snapshot with one metadata value."""
    return craft.snapshot([craft.group("/")], spec=spec, metadata={"a": value})


def flexbuffer_of_empty_maps() -> bytes:
    """Return a vector of vectors of the one empty vector: the most values for a byte."""
    data = bytearray([0, 0])
    empty, inner = 1, []
    for _ in range(SIZE // 500):
        start = len(data)
        if start + 250 - empty > 255:  # out of the reach of one byte: a new empty vector
            data += b"\0"
            empty = len(data)
            start = empty
        data += bytes([100])
        at = len(data)
        data += bytes([at + i - empty for i in range(100)]) + bytes([10 << 2] * 100)
        inner.append(at)
    data += bytes(-len(data) % 4) + struct.pack("<I", len(inner))
    at = len(data)
    data += b"".join(struct.pack("<I", at + 4 * i - target) for i, target in enumerate(inner))
    data += bytes([10 << 2] * len(inner))
    return bytes(data) + struct.pack("<I", len(data) - at) + bytes([10 << 2 | 2, 4])


def same_ref_again_and_again() -> bytes:
    """Return a manifest that points to one ref as often as it can."""
    return craft.manifest([craft.chunk_ref(0, 0, inline=b"x")] * (SIZE // 4))


def overlapping_texts() -> bytes:
    """Return a manifest whose locations are long parts of the same bytes."""
    place = "s3://testbucket/" + "x" * 30_000
    refs = [craft.chunk_ref(i, 0, location=place, length=craft.u64(1)) for i in range(SIZE // 100)]
    return craft.manifest(refs)


def distinct_texts(length: int) -> bytes:
    """Return a manifest of locations that differ at their very end."""
    count = SIZE // (length + 80)
    refs = [
        craft.chunk_ref(i, 0, location=f"s3://testbucket/{'x' * length}{i:06}", length=craft.u64(1))
        for i in range(count)
    ]
    return craft.manifest(refs)


def packed_texts() -> bytes:
    """Return a manifest whose locations each unpack to as much as is allowed."""

    def pack(i: int) -> bytes:
        return zstandard.ZstdCompressor(level=1).compress(f"s3://b/{i}".encode().ljust(8000, b"x"))

    refs = [
        craft.chunk_ref(i, 0, compressed_location=pack(i), length=craft.u64(1))
        for i in range(SIZE // 110)
    ]
    return craft.manifest(refs)


def many_vtables() -> bytes:
    """Return a manifest each of whose refs has a vtable of its own."""
    return craft.manifest([craft.chunk_ref(i, i, inline=b"") for i in range(SIZE // 60)])


def many_snapshots() -> bytes:
    """Return a repository with a long history, told backwards."""
    count = SIZE // 80
    tables = [
        Table(
            {
                0: Fixed(struct.pack("<QI", i, 0)),
                1: craft.i32(i + 1 if i + 1 < count else -1),
                2: craft.u64(i),
                3: "",
            }
        )
        for i in range(count)
    ]
    root = {
        0: craft.u8(2), 1: Vector([]), 2: Vector([Table({0: "main", 1: craft.u32(0)})]), 3: Vector([]),
        4: Vector(tables), 5: Table({0: craft.u8(0), 1: craft.u64(0)}), 7: Vector([]),
    }  # fmt: skip
    return craft.wrap(craft.flatbuffer(Table(root)), craft.REPO)


def rectilinear() -> bytes:
    """Return a document with a million runs of chunks."""
    runs = [[2**62, 2**62]] * (SIZE // 45)
    grid = {
        "name": "rectilinear",
        "configuration": {"kind": "inline", "chunk_shapes": [runs, [2**62]]},
    }
    return json.dumps(corpus.DOCUMENT | {"shape": [2**62, 1], "chunk_grid": grid}).encode()


def struct_type() -> bytes:
    """Return a document whose data type has all the members that fit, in structures in structures."""
    members: list[object] = ["r9999999999"] * (SIZE // 60)
    for _ in range(9):
        members = [{"name": "struct", "configuration": {"fields": [["a", m] for m in members]}}]
    return json.dumps(corpus.DOCUMENT | {"data_type": members[0]}).encode()


def _found() -> Iterator[Hostile]:
    for kind, target in (
        (craft.REPO, "repo"),
        (craft.SNAPSHOT, "snapshot"),
        (craft.MANIFEST, "envelope"),
    ):
        yield Hostile(target, "half a GiB of zeros", functools.partial(bomb, 2**29, kind), 2**28)
    yield Hostile("envelope", "frames in frames", nested_bomb, 2**27)
    yield Hostile(
        "envelope",
        "empty frames",
        lambda: (
            craft.wrap(b"", craft.MANIFEST)[:38] + b"\1" + zstandard.compress(b"") * (SIZE // 9)
        ),
    )
    yield Hostile("repo", "a long history", many_snapshots)
    yield Hostile("snapshot", "deep paths", deep_paths)
    yield Hostile("snapshot", "many groups", wide)
    yield Hostile("snapshot", "one document for all", functools.partial(shared_document, 3000))
    yield Hostile("snapshot", "entangled manifests", functools.partial(entangled, SIZE // 70))
    yield Hostile("snapshot", "staggered manifests", functools.partial(staggered, SIZE // 70))
    yield Hostile(
        "snapshot",
        "metadata of empty maps",
        lambda: metadata_of(b"\xdd" + struct.pack(">I", SIZE - 5) + b"\x80" * (SIZE - 5), 1),
    )
    yield Hostile(
        "snapshot", "metadata of vectors", lambda: metadata_of(flexbuffer_of_empty_maps(), 2)
    )
    yield Hostile("flexbuffer", "empty vectors", flexbuffer_of_empty_maps)
    yield Hostile(
        "flexbuffer",
        "small integers",
        lambda: (
            struct.pack("<I", SIZE) + bytes(SIZE) + struct.pack("<I", SIZE) + bytes([11 << 2, 4])
        ),
    )
    yield Hostile("msgpack", "nil", lambda: b"\xdd" + struct.pack(">I", SIZE) + b"\xc0" * SIZE)
    yield Hostile(
        "msgpack", "empty maps", lambda: b"\xdd" + struct.pack(">I", SIZE) + b"\x80" * SIZE
    )
    yield Hostile("msgpack", "arrays in arrays", lambda: b"\x91" * SIZE)
    yield Hostile("msgpack", "counts of 2^32", lambda: b"\xdd\xff\xff\xff\xff" * (SIZE // 5))
    yield Hostile("manifest", "one ref again and again", lambda: asked(same_ref_again_and_again()))
    yield Hostile("manifest", "overlapping locations", lambda: asked(overlapping_texts()))
    yield Hostile("manifest", "long distinct locations", lambda: asked(distinct_texts(8000)))
    yield Hostile("manifest", "short distinct locations", lambda: asked(distinct_texts(1)))
    yield Hostile("manifest", "packed locations", lambda: asked(packed_texts()), 2**29)
    yield Hostile("manifest", "many vtables", lambda: asked(many_vtables()))
    yield Hostile("zarr", "runs of chunks", rectilinear)
    yield Hostile("zarr", "members of a structure", struct_type)
    yield Hostile("zarr", "lists in lists", lambda: b"[" * SIZE)
    yield Hostile(
        "zarr", "a number of a million digits", lambda: b'{"shape": [' + b"9" * SIZE + b"]}"
    )
    yield Hostile(
        "zarr",
        "names of one letter",
        lambda: json.dumps({str(i): {} for i in range(SIZE // 12)}).encode(),
    )
    yield from _references()
    yield Hostile("ref", "lists in lists", lambda: b"[" * MAX_REF_SIZE)
    yield Hostile("config", "lists in lists", lambda: b"[" * MAX_CONFIG_SIZE)
    yield Hostile(
        "config",
        "entries",
        lambda: (
            b"virtual_chunk_containers:\n"
            + b"".join(
                b" a%d: {url_prefix: s3://b%d/}\n" % (i, i) for i in range(MAX_CONFIG_SIZE // 40)
            )
        ),
    )
    yield Hostile(
        "config", "empty lists", lambda: b"[" + b"[]," * (MAX_CONFIG_SIZE // 3 - 1) + b"]"
    )
    yield Hostile("config", "a long key", lambda: b"? " + b"a " * (MAX_CONFIG_SIZE // 2 - 2))
    yield Hostile(
        "config", "aliases", lambda: b"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\n"
    )
    yield Hostile("location", "dots and slashes", lambda: b"file:///" + b"../" * (SIZE // 3))
    yield Hostile("location", "escapes", lambda: b"s3://bucket/" + b"%41" * 2700)
    yield Hostile("cache", "a long record", lambda: b"VZFSVERS" + bytes(SIZE))


def _references() -> Iterator[Hostile]:
    """Yield references of kerchunk that cost what they can."""
    zeros = b'{"a": "' + bytes(2**26).replace(b"\0", b" ")
    yield Hostile("kerchunk", "blanks, by gzip", lambda: gzip.compress(zeros), 2**27)
    yield Hostile("kerchunk", "blanks, by zstd", lambda: zstandard.compress(zeros), 2**27)
    yield Hostile("kerchunk", "lists in lists", lambda: b'{"a": ' + b"[" * SIZE)
    yield Hostile("kerchunk", "a long number", lambda: b'{"a": ' + b"9" * SIZE + b"}")
    yield Hostile("kerchunk", "a long key", lambda: b'{"' + b"1/" * (SIZE // 2) + b'": 1}')
    yield Hostile("kerchunk", "keys of slashes", lambda: _flat(lambda i: "/" * (i % 90), "x"))
    yield Hostile("kerchunk", "folders", lambda: _flat(lambda i: f"{i:x}/0", "x"))
    yield Hostile(
        "kerchunk", "deep documents", lambda: _flat(lambda i: f"{i:x}/" * 30 + ".zgroup", "{}")
    )
    yield Hostile("kerchunk", "groups", lambda: _flat(lambda i: f"{i:x}/.zgroup", "{}"))
    yield Hostile("kerchunk", "locations", lambda: _flat(lambda i: f"a/{i}", ["{{u}}" * 9, 1, 2]))
    yield Hostile("kerchunk", "nearly references", lambda: b'{"refs": {"' + b"1/" * (SIZE // 2))
    entry = {"key": "a/{{i}}", "url": "{{u}}", "dimensions": {"i": {"stop": 1}}}
    for what, changes in (
        ("generated without end", {"dimensions": {"i": {"stop": 2**40}}}),
        ("generated of nothing", {"dimensions": {"i": {"stop": 2**40}, "j": []}}),
        (
            "generated by long templates",
            {"key": "a/{{i}}" * 1000, "dimensions": {"i": {"stop": 500}}},
        ),
        ("generated by calls", {"url": "{{f(c=" + "f(c=" * 30 + "u" + ")" * 31 + "}}"}),
    ):
        value = {"templates": {"u": "s3://b/x", "f": "{{c}}{{c}}"}, "gen": [{**entry, **changes}]}
        yield Hostile("kerchunk", what, functools.partial(_dump, value), 2**26)
    value = {"templates": {"u": "s3://b/x"}, "gen": [entry] * (SIZE // 80)}
    yield Hostile("kerchunk", "many entries", functools.partial(_dump, value))
    yield Hostile("partition", "small pages", lambda: parquet(page(b"\0\0\0\0"), SIZE // 16))
    yield Hostile("partition", "large claims", lambda: parquet(page(b"", 2**28), 100), 2**26)
    copies = b"\x80\x80\x80\x20\0x" + b"\x01\x01" * (SIZE // 2)
    yield Hostile("partition", "copies by Snappy", lambda: parquet(page(copies, 2**26), 1, 1))
    yield Hostile(
        "partition",
        "a footer of nothing",
        lambda: framed(b"\x19\xfc" + b"\xff\xff\x3f" + bytes(SIZE)),
    )
    yield Hostile("zmetadata", "arrays of many files", lambda: _dump(_many_files()))


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()


def _flat(key: Callable[[int], str], value: object) -> bytes:
    """Return references with keys of a kind, as many as make a mebibyte."""
    refs: dict[str, object] = {".zgroup": "{}"}
    length, i = 0, 0
    while length < SIZE:
        refs[key(i) + f"{i}" * (not key(i).endswith(("p", "0")))] = value
        length += len(key(i)) + len(json.dumps(value)) + 8
        i += 1
    return _dump(refs)


def _many_files() -> object:
    array = {"zarr_format": 2, "shape": [2**20] * 3, "chunks": [1] * 3, "dtype": "|u1", "order": "C",
             "fill_value": 0, "filters": None, "compressor": None}  # fmt: skip
    return {"metadata": {f"a{i}/.zarray": array for i in range(SIZE // 160)}, "record_size": 2**30}


def framed(footer: bytes) -> bytes:
    """Return a Parquet file of this footer alone."""
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def varint(value: int) -> bytes:
    value <<= 1  # zigzag
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def page(body: bytes, unpacked: int | None = None, rows: int = 1) -> bytes:
    """Return a data page of version 1 with plain values."""
    unpacked = len(body) if unpacked is None else unpacked
    head = b"\x15\0\x15" + varint(unpacked) + b"\x15" + varint(len(body))
    return head + b"\x2c\x15" + varint(rows) + b"\x15\0\x15\6\x15\6\0\0" + body


def parquet(one: bytes, pages: int, codec: int = 0) -> bytes:
    """Return a file with a required column `path` of so many pages, of a row each."""
    body = one * pages
    schema = b"\x19\x2c" + b"\x48\1s\x15\2\0" + b"\x15\x0c\x25\0\x18\4path\0"
    meta = (
        b"\x15\x0c\x19\x05\x19\x18\4path\x15" + varint(codec) + b"\x16" + varint(pages)
        + b"\x16\0\x16" + varint(len(body)) + b"\x26" + varint(4) + b"\0"
    )  # fmt: skip
    column = b"\x3c" + meta + b"\0"
    group = b"\x19\x1c" + column + b"\x16\0\x16" + varint(pages) + b"\0"
    footer = b"\x15\2" + schema + b"\x16" + varint(pages) + b"\x19\x1c" + group + b"\0"
    return b"PAR1" + body + framed(footer)[4:]


HOSTILE = list(_found())
