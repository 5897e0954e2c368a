"""What the targets start from: the files of real repositories, and the layers inside them.

The repositories are those of `tests/data` and of the folder of real data, if it is there; files are
known by their place. `tests.pure.craft` adds what every machine has.
"""

import functools
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack

from tests.fuzz.mutations import unpacked
from tests.pure import craft
from tests.pure.craft import Fixed, Table, Vector
from vzfs.errors import FormatError
from vzfs.formats.icechunk.envelope import HEADER_LENGTH
from vzfs.formats.icechunk.flatbuffer import Buffer
from vzfs.formats.icechunk.flatbuffer import Table as FlatTable
from vzfs.formats.icechunk.ids import encode_id
from vzfs.formats.icechunk.snapshot import decode_snapshot
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.snapshot import Array, Extents, WantedArray

ROOT = Path(__file__).parents[2]
REGRESSIONS = Path(__file__).parent / "regressions"

MAX_SEED = 2**16
"""Bytes. A larger file finds nothing that a smaller does not, slowly."""


def folders() -> Sequence[Path]:
    """Return the folders of real files that are there."""
    named = os.environ.get("VZFS_TEST_DATA")
    real = Path(named) if named else ROOT.parent / "shared" / "data"
    return [folder for folder in (ROOT / "tests" / "data", real) if folder.is_dir()]


@functools.cache
def files(pattern: str) -> Sequence[bytes]:
    """Return the distinct real files whose paths match *pattern*, smallest first."""
    found = {
        path.read_bytes()
        for folder in folders()
        for path in folder.rglob(pattern)
        if path.is_file() and path.stat().st_size <= MAX_SEED
    }
    return sorted(found, key=lambda data: (len(data), data))


def regressions(target: str) -> Sequence[bytes]:
    """Return the inputs that once broke *target*."""
    return [path.read_bytes() for path in sorted(REGRESSIONS.glob(f"{target}-*"))]


def plain(data: bytes) -> bytes:
    """Return a metadata file with its payload unpacked, so that what is changed in it is what is decoded."""
    payload = unpacked(data)
    return data if payload is None else data[: HEADER_LENGTH - 1] + b"\0" + payload


# -- files of repositories -----------------------------------------------------------------------


def repos() -> Iterator[bytes]:
    """Yield repo info files."""
    yield craft.repo([-1, 0, 1], {"main": 2, "old": 0})
    yield craft.repo([-1], {"main": 0}, availability=2, reason="moved", spec_version=1)
    yield from map(
        plain, (*files("repo"), *(f for f in files("overwritten/*") if f[37:38] == b"\6"))
    )


DOCUMENT = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 6],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 2]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes"}],
    "attributes": {},
}


def snapshots() -> Iterator[bytes]:
    """Yield snapshot files."""
    document = json.dumps(DOCUMENT).encode()
    nodes = [
        craft.group("/"),
        craft.array("/a", document, [2, 3], [[(0, 1), (0, 3)], [(1, 2), (0, 3)]]),
        craft.group("/g"),
        craft.array("/g/b", document, [2, 3], [[(0, 2), (0, 3)]], node=b"another!"),
    ]
    yield craft.snapshot(nodes)
    yield craft.snapshot(
        [craft.group("/")], spec=1, metadata={"a": msgpack.packb({"b": [1, None]})}
    )
    yield from map(plain, files("snapshots/*"))


def long_paths() -> bytes:
    """Return a snapshot that has the same very long path twice."""
    path = "/" + "x" * 10_000
    return craft.snapshot([craft.group("/"), craft.group(path), craft.group(path)])


class Question(NamedTuple):
    """A manifest file, and what is asked of it: one array."""

    node: bytes
    wanted: WantedArray
    file: bytes


_QUESTION = struct.Struct("<8sBB")


def pack_question(question: Question) -> bytes:
    """Write *question* as one input: node id, rank, number of regions; shape; regions; the file."""
    grid, extents = question.wanted.grid, question.wanted.extents
    numbers = [
        *grid.shape,
        *(bound for e in extents for low_high in e.ranges for bound in low_high),
    ]
    head = _QUESTION.pack(question.node, len(grid.shape), len(extents))
    return head + struct.pack(f"<{len(numbers)}Q", *numbers) + question.file


def unpack_question(data: bytes) -> Question:
    """Read any bytes as a question."""
    data = data.ljust(_QUESTION.size, b"\0")
    node, rank, regions = _QUESTION.unpack_from(data)
    rank, regions = rank % 5, regions % 4
    body = data[_QUESTION.size :]
    size = 8 * rank * (1 + 2 * regions)
    numbers = list(struct.unpack(f"<{size // 8}Q", body[:size].ljust(size, b"\1")))
    # As a snapshot gives them: lengths of 63 bits, bounds of 32.
    shape = tuple(n % 2**63 for n in numbers[:rank])
    bounds = [
        sorted((a % 2**32, b % 2**32))
        for a, b in zip(numbers[rank::2], numbers[rank + 1 :: 2], strict=True)
    ]
    extents = [
        Extents(tuple((low, high) for low, high in bounds[rank * i : rank * (i + 1)]))
        for i in range(regions)
    ]
    return Question(node, WantedArray(ChunkGrid(shape), extents), body[size:])


def manifests() -> Iterator[bytes]:
    """Yield manifest files with what their snapshots ask of them."""
    refs = [
        craft.chunk_ref(0, 0, inline=b"bytes"),
        craft.chunk_ref(0, 1, chunk_id=Fixed(craft.ID), offset=craft.u64(0), length=craft.u64(9)),
        craft.chunk_ref(
            1,
            0,
            location="s3://testbucket/key",
            offset=craft.u64(5),
            length=craft.u64(7),
            checksum_etag='"e"',
        ),
        craft.chunk_ref(
            1, 2, location="vcc://vcc/key", length=craft.u64(7), checksum_last_modified=craft.u32(9)
        ),
    ]
    wanted = WantedArray(ChunkGrid((2, 3)), [Extents(((0, 2), (0, 3)))])
    yield pack_question(Question(craft.NODE, wanted, craft.manifest(refs)))
    for data, asked in _asked().values():
        yield from (
            pack_question(Question(node, wanted, plain(data))) for node, wanted in asked[:3]
        )


def _asked() -> dict[bytes, tuple[bytes, list[tuple[bytes, WantedArray]]]]:
    """Return the real manifests by their ids, with the arrays that real snapshots want of them."""
    found = {}
    for data in files("manifests/*"):
        id_ = _root(data).fixed(0, 12) or b""
        found[encode_id(id_)] = data, []
    for data in files("snapshots/*"):
        for node in decode_snapshot(data).nodes:
            if isinstance(node, Array):
                for ref in node.manifests:
                    if ref.id in found:
                        found[ref.id][1].append((node.id, WantedArray(node.grid, [ref.extents])))
    return found


def checkouts() -> Iterator[bytes]:
    """Yield a snapshot and one of its manifests, the length of the first before both."""
    manifest = craft.manifest(
        [craft.chunk_ref(i, j, inline=b"x") for i in range(2) for j in range(3)]
    )
    document = json.dumps(DOCUMENT).encode()
    nodes = [
        craft.group("/"),
        craft.array("/a", document, [2, 3], [[(0, 1), (0, 3)], [(1, 2), (0, 3)]]),
    ]
    yield pair(craft.snapshot(nodes), manifest)
    known = {encode_id(_root(data).fixed(0, 12) or b""): data for data in files("manifests/*")}
    for data in files("snapshots/*"):
        used = dict.fromkeys(
            ref.id
            for node in decode_snapshot(data).nodes
            if isinstance(node, Array)
            for ref in node.manifests
        )
        yield from (pair(plain(data), plain(known[id_])) for id_ in list(used)[:2] if id_ in known)


def pair(first: bytes, second: bytes) -> bytes:
    """Return two files as one input."""
    return struct.pack("<I", len(first)) + first + second


def unpair(data: bytes) -> tuple[bytes, bytes]:
    """Read any bytes as two files."""
    length = int.from_bytes(data[:4], "little")
    return data[4 : 4 + length], data[4 + length :]


def _root(data: bytes) -> FlatTable:
    return Buffer(memoryview(unpacked(data) or b"")).root()


# -- layers --------------------------------------------------------------------------------------


def metadata(spec_version: int) -> Iterator[bytes]:
    """Yield the metadata values of real files: MessagePack in spec 1, FlexBuffers since."""
    for data in (*files("snapshots/*"), *files("repo")):
        if (spec_version == 1) != (data[36] == 1):
            continue
        try:
            root = _root(data)
            field = 6 if data[37] == craft.REPO else 5
            yield from (blob for item in root.tables(field) if (blob := item.blob(1)))
            if data[37] == craft.REPO:
                yield from filter(None, [root.blob(9)])
                for snapshot in root.tables(4):
                    yield from (blob for item in snapshot.tables(4) if (blob := item.blob(1)))
        except FormatError:
            continue


def flatbuffers() -> Iterator[bytes]:
    """Yield payloads of all kinds of metadata files."""
    yield craft.flatbuffer(
        Table({0: craft.u8(1), 1: "text", 2: b"\0\1", 3: Vector(["a", "b"]), 4: Table({})})
    )
    for pattern in ("repo", "snapshots/*", "manifests/*"):
        yield from (payload for data in files(pattern) if (payload := unpacked(data)))


def documents() -> Iterator[bytes]:
    """Yield Zarr documents."""
    yield json.dumps(DOCUMENT).encode()
    grid = {
        "name": "rectilinear",
        "configuration": {"kind": "inline", "chunk_shapes": [[[2, 2]], [1, 2, 3]]},
    }
    struct_type = {"name": "struct", "configuration": {"fields": [["a", "int8"], ["b", "float64"]]}}
    yield json.dumps(DOCUMENT | {"chunk_grid": grid, "data_type": struct_type}).encode()
    yield json.dumps(DOCUMENT | {"chunk_key_encoding": "v2", "data_type": "r16"}).encode()
    yield from files("zarr.json")
