"""References as bytes: what goes in comes out, and what a hostile process made is refused."""

import random
import struct

import msgpack
import numpy as np
import pytest

from vzfs.archival.building import ArrayDescription, HierarchyBuilder
from vzfs.errors import FormatError
from vzfs.formats.compiled import encode_compiled
from vzfs.formats.references import decode_references, encode_references
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import EMPTY, ManifestBuilder, References
from vzfs.model.snapshot import Array, Group

SIZE = 1000
DESCRIBED = ArrayDescription(
    shape=[4, 6],
    chunk_shape=[2, 3],
    data_type="int16",
    fill_value=0,
    codecs=[{"name": "bytes", "configuration": {"endian": "big"}}],
)


def made() -> References:
    to = HierarchyBuilder("s3://b/x", ETag("v"))
    to.group("/g\udcff", {"a": "\udcff", "n": float("nan")})
    array = to.array("/g\udcff/x", DESCRIBED)
    array.run(np.array([0, 1, 3]), np.array([0, 12, 988]), np.array([12, 12, 12]))
    array.inline((1, 0), b"abcdefghijkl")
    to.array("/empty", DESCRIBED)
    to.omit("/y", "a reason")
    return to.build()


def refs(references: References, path: bytes) -> list[tuple[int, ChunkRef]]:
    manifest = references.manifests[path]
    found = [(manifest.index[row], manifest.ref(row)) for row in range(len(manifest))]
    return [(flat, ref._replace(inline=bytes(ref.inline))) for flat, ref in found]


def test_references_are_what_they_were() -> None:
    """Nodes, refs and omissions come back as they were, names that are no UTF-8 too."""
    one = made()
    other = decode_references(encode_references(one), SIZE)
    assert other.nodes == one.nodes
    assert other.omissions == one.omissions
    assert other.manifests.keys() == one.manifests.keys()
    for path in one.manifests:
        assert refs(other, path) == refs(one, path)


def test_references_are_placed() -> None:
    """Refs can be led to another place, of another version; what is inline stays."""
    moved = made().placed("s3://c/y", LastModified(7))
    found = refs(moved, "/g\udcff/x".encode("utf-8", "surrogateescape"))
    assert found == [
        (0, ChunkRef(ChunkKind.VIRTUAL, 12, "s3://c/y", 0, LastModified(7))),
        (1, ChunkRef(ChunkKind.VIRTUAL, 12, "s3://c/y", 12, LastModified(7))),
        (2, ChunkRef(ChunkKind.INLINE, 12, inline=b"abcdefghijkl")),
        (3, ChunkRef(ChunkKind.VIRTUAL, 12, "s3://c/y", 988, LastModified(7))),
    ]
    assert len(moved.manifests[b"/empty"]) == 0


def test_a_builder_takes_columns_and_single_refs() -> None:
    """Refs that are added as columns and one by one are in one order, and the last of equal ones counts."""
    builder = ManifestBuilder()
    builder.add(5, ChunkRef(ChunkKind.VIRTUAL, 1, "s3://b/x", 50))
    builder.extend(
        np.array([5, 2]),
        np.array([1, 2]),
        np.array([3, 4]),
        location="s3://b/y",
        checksum=ETag("e"),
    )
    builder.add(2, ChunkRef(ChunkKind.INLINE, 2, inline=b"ab"))
    assert len(builder) == 4
    manifest = builder.build()
    assert list(manifest.index) == [2, 5]
    assert manifest.ref(0).kind is ChunkKind.INLINE
    assert manifest.ref(1) == ChunkRef(ChunkKind.VIRTUAL, 3, "s3://b/y", 1, ETag("e"))


def packed(nodes: object, omissions: object = (), manifests: bytes = b"") -> bytes:
    head = msgpack.packb([nodes, omissions], unicode_errors="surrogateescape")
    start = struct.pack("<8sII", b"VZFSREFS", 1, len(head)) + head
    return start + bytes(-len(start) % 8) + (manifests or encode_compiled({}))


GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
ROOT = ["/", False, {"zarr.json": GROUP}, {}]


def group(path: str) -> list[object]:
    return [path, False, {"zarr.json": GROUP}, {}]


def array(path: str, document: bytes = DESCRIBED.document()) -> list[object]:
    return [path, True, {"zarr.json": document}, {}]


def with_ref(ref: ChunkRef, flat: int = 0) -> bytes:
    builder = ManifestBuilder()
    builder.add(flat, ref)
    return packed([ROOT, array("/x")], (), bytes(encode_compiled({b"/x": builder.build()})))


HOSTILE = {
    "nothing": b"",
    "another magic": b"VZFSMANI" + bytes(50),
    "a long head": struct.pack("<8sII", b"VZFSREFS", 1, 2**32 - 1) + bytes(50),
    "no list": packed(7),
    "a path twice": packed([ROOT, group("/a"), group("/a")]),
    "out of order": packed([ROOT, group("/b"), group("/a")]),
    "no parent": packed([ROOT, group("/a/b")]),
    "below an array": packed([ROOT, array("/x"), group("/x/y")], (), bytes(encode_compiled({b"/x": EMPTY}))),
    "dots": packed([ROOT, group("/..")]),
    "no slash": packed([ROOT, group("a")]),
    "a double slash": packed([ROOT, group("//a")]),
    "like a document": packed([ROOT, group("/zarr.json")]),
    "other documents": packed([["/", False, {"x": GROUP}, {}]]),
    "an array as a group": packed([["/", False, {"zarr.json": DESCRIBED.document()}, {}]]),
    "no JSON": packed([["/", False, {"zarr.json": b"{"}, {}]]),
    "NaN in JSON": packed([["/", False, {"zarr.json": GROUP.replace(b"{}", b'{"a":NaN}')}, {}]]),
    "deep JSON": packed([["/", False, {"zarr.json": b"[" * 100_000}, {}]]),
    "a grid of 2**80": packed([ROOT, array("/x", DESCRIBED.document().replace(b"[4,6]", b"[%d,6]" % 2**62))]),
    "no manifest": packed([ROOT, array("/x")]),
    "a manifest of none": packed([ROOT], (), bytes(encode_compiled({b"/x": EMPTY}))),
    "an omission of numbers": packed([ROOT], [[1, 2]]),
    "beyond the file": with_ref(ChunkRef(ChunkKind.VIRTUAL, 12, "f", SIZE - 11)),
    "longer than the file": with_ref(ChunkRef(ChunkKind.VIRTUAL, 2**62, "f", 0)),
    "outside the grid": with_ref(ChunkRef(ChunkKind.VIRTUAL, 12, "f", 0), 4),
    "in the repository": with_ref(ChunkRef(ChunkKind.NATIVE, 12, "f", 0)),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_as_it_must_be_is_refused(what: str) -> None:
    """Paths, documents, grids, and the places of chunks are checked before anything is made of them."""
    with pytest.raises(FormatError):
        decode_references(HOSTILE[what], SIZE)


def test_damage_is_refused_or_harmless() -> None:
    """Whatever byte is changed, what comes out is whole, or an error of the format."""
    good = bytes(encode_references(made()))
    rng = random.Random(5)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = decode_references(bytes(data), SIZE)
        except FormatError:
            continue
        for node in found.nodes:
            assert isinstance(node, Group | Array)
        for manifest in found.manifests.values():
            for row in range(len(manifest)):
                ref = manifest.ref(row)
                assert ref.kind is ChunkKind.INLINE or ref.offset + ref.length <= SIZE
