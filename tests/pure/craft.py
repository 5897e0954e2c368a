"""Icechunk files made byte by byte, for what no writer makes: hostile, damaged, and of the future.

A flatbuffer is described by nested values: `Table({field: value})`, `Vector([...])`, `str`,
`bytes`, and numbers as (struct format, number). The same object used twice is written once and
pointed to twice.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import zstandard

from vzfs.formats.icechunk.envelope import MAGIC

SNAPSHOT, MANIFEST, REPO = 1, 2, 6


@dataclass(eq=False)
class Table:
    """A table: values by field number."""

    fields: dict[int, object]


@dataclass(eq=False)
class Vector:
    """A vector of tables or strings."""

    items: list


@dataclass(eq=False)
class Structs:
    """A vector of *count* structs, as bytes."""

    data: bytes
    count: int


@dataclass(frozen=True)
class Fixed:
    """A struct inside its table."""

    data: bytes


def u8(value: int) -> tuple[str, int]:
    return "<B", value


def u32(value: int) -> tuple[str, int]:
    return "<I", value


def i32(value: int) -> tuple[str, int]:
    return "<i", value


def u64(value: int) -> tuple[str, int]:
    return "<Q", value


@dataclass
class _Writer:
    data: bytearray = field(default_factory=lambda: bytearray(b"\0\0\0\0Ichk"))
    places: dict[int, int] = field(default_factory=dict)

    def write(self, root: object) -> bytes:
        links = [(0, root)]
        while links:
            deeper: list[tuple[int, object]] = []
            for _, node in links:
                if id(node) not in self.places:
                    self.places[id(node)] = self._emit(node, deeper)
            for at, node in links:
                struct.pack_into("<I", self.data, at, self.places[id(node)] - at)
            links = deeper
        return bytes(self.data)

    def _emit(self, node: object, links: list[tuple[int, object]]) -> int:
        self.data += bytes(-len(self.data) % 8)
        match node:
            case Table():
                return self._table(node, links)
            case Vector():
                place = len(self.data)
                self.data += struct.pack("<I", len(node.items))
                for item in node.items:
                    links.append((len(self.data), item))
                    self.data += bytes(4)
                return place
            case Structs():
                content, count = node.data, node.count
            case str():
                content, count = node.encode("utf-8", "surrogateescape"), None
            case bytes():
                content, count = node, None
        place = len(self.data)
        self.data += struct.pack("<I", len(content) if count is None else count) + content
        return place

    def _table(self, node: Table, links: list[tuple[int, object]]) -> int:
        entries = [0] * (max(node.fields, default=-1) + 1)
        body = bytearray(4)
        inner = []
        for number, value in node.fields.items():
            entries[number] = len(body)
            match value:
                case (str() as layout, int() as scalar):
                    body += struct.pack(layout, scalar)
                case Fixed():
                    body += value.data
                case _:
                    inner.append((len(body), value))
                    body += bytes(4)
        vtable = struct.pack(f"<HH{len(entries)}H", 4 + 2 * len(entries), len(body), *entries)
        struct.pack_into("<i", body, 0, len(vtable))
        self.data += vtable
        place = len(self.data)
        self.data += body
        links.extend((place + offset, value) for offset, value in inner)
        return place


def flatbuffer(root: Table) -> bytes:
    """Return the bytes of a flatbuffer with Icechunk's identifier."""
    return _Writer().write(root)


def wrap(payload: bytes, file_type: int, *, spec: int = 2, compression: int = 0) -> bytes:
    """Return *payload* in an envelope, packed if *compression* is 1."""
    if compression == 1:
        payload = zstandard.ZstdCompressor(write_content_size=False).compress(payload)
    return MAGIC + b"test".ljust(24) + bytes([spec, file_type, compression]) + payload


def unwrap(data: bytes) -> bytes:
    """Return the unpacked payload of a file that a writer made."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(data[39:])


ID = bytes(range(12))
NODE = bytes(range(8))


def chunk_ref(*coords: int, **fields: object) -> Table:
    """Return a chunk ref; *fields* are those of the schema."""
    numbers = {
        "inline": 1,
        "offset": 2,
        "length": 3,
        "chunk_id": 4,
        "location": 5,
        "checksum_etag": 6,
        "checksum_last_modified": 7,
        "compressed_location": 8,
    }
    index = Structs(struct.pack(f"<{len(coords)}I", *coords), len(coords))
    return Table({0: index} | {numbers[name]: value for name, value in fields.items()})


def manifest(refs: list[Table], *, node: bytes = NODE, **fields: object) -> bytes:
    """Return a manifest file with the *refs* of one array."""
    return manifest_of([(node, refs)], **fields)


def manifest_of(arrays: list[tuple[bytes, list[Table]]], **fields: object) -> bytes:
    """Return a manifest file with the refs of several arrays."""
    tables = [Table({0: Fixed(node), 1: Vector(refs)}) for node, refs in arrays]
    extra = {{"dictionary": 2, "algorithm": 3}[name]: value for name, value in fields.items()}
    return wrap(flatbuffer(Table({0: Fixed(ID), 1: Vector(tables)} | extra)), MANIFEST)


def group(path: str, document: bytes = b"{}") -> Table:
    """Return a group node."""
    return Table({0: Fixed(NODE), 1: path, 2: document, 3: u8(2), 4: Table({})})


def array(
    path: str,
    document: bytes,
    num_chunks: list[int],
    manifests: list[list[tuple[int, int]]],
    node: bytes = NODE,
    files: list[bytes] | None = None,
) -> Table:
    """Return an array node with one manifest for each of the extents in *manifests*, in those *files*."""
    refs = [
        Table(
            {
                0: Fixed(file),
                1: Structs(b"".join(struct.pack("<II", *r) for r in extents), len(extents)),
            }
        )
        for extents, file in zip(manifests, files or [ID] * len(manifests), strict=True)
    ]
    shape = [Table({0: u64(n), 1: u32(n)}) for n in num_chunks]
    data = Table({0: Structs(b"", 0), 2: Vector(refs), 3: Vector(shape)})
    return Table({0: Fixed(node), 1: path, 2: document, 3: u8(1), 4: data})


def snapshot(
    nodes: list[Table],
    *,
    spec: int = 2,
    metadata: dict[str, bytes] | None = None,
    counts: Sequence[tuple[bytes, int]] = (),
) -> bytes:
    """Return a snapshot file that *counts* the refs of manifest files, as its spec has it."""
    items = [Table({0: name, 1: value}) for name, value in (metadata or {}).items()]
    structs = b"".join(struct.pack("<12s4xQI4x", id_, 1, count) for id_, count in counts)
    tables = [Table({0: Fixed(id_), 1: u64(1), 2: u32(count)}) for id_, count in counts]
    root = Table(
        {
            0: Fixed(ID),
            2: Vector(nodes),
            3: u64(1_000_000),
            4: "message",
            5: Vector(items),
            6: Structs(structs, len(counts)) if spec == 1 else Structs(b"", 0),
        }
        | ({7: Vector(tables)} if spec == 2 else {})
    )
    return wrap(flatbuffer(root), SNAPSHOT, spec=spec)


def repo(
    parents: list[int],
    branches: dict[str, int],
    *,
    availability: int = 0,
    reason: str | None = None,
    config: bytes | None = None,
    spec_version: int = 2,
) -> bytes:
    """Return a repo info file whose snapshot number i has the id of twelve bytes i."""
    snapshots = [
        Table({0: Fixed(bytes([i] * 12)), 1: i32(parent), 2: u64(i), 3: f"snapshot {i}"})
        for i, parent in enumerate(parents)
    ]
    refs = [Table({0: name, 1: u32(i)}) for name, i in branches.items()]
    status = {0: u8(availability), 1: u64(0)} | ({} if reason is None else {2: reason})
    root = {
        0: u8(spec_version),
        1: Vector([]),
        2: Vector(refs),
        3: Vector([]),
        4: Vector(snapshots),
        5: Table(status),
        7: Vector([]),
    }
    if config is not None:
        root[9] = config
    return wrap(flatbuffer(Table(root)), REPO)
