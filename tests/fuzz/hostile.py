"""Inputs of about a mebibyte that are made to cost time or memory: what no mutation finds in time.

Each is given with its target. All are bounded by what `contract` allows, and by the memory that
stands beside them.
"""

import functools
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


HOSTILE = list(_found())
