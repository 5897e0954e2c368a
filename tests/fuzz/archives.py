"""Targets of what comes of files of archives: references, and the header of netCDF classic."""

import io
import random
import struct
from collections.abc import Iterable

import numpy as np

from tests.fuzz import mutations
from vzfs.archival.building import ArrayDescription, HierarchyBuilder, Unpresentable
from vzfs.archival.parsers import netcdf3
from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.references import decode_references, encode_references
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References
from vzfs.model.snapshot import Array

SIZE = 10_000


def references(data: bytes) -> None:
    """Decode *data*; every chunk is inline or lies in the file, and what came out goes in again."""
    found = decode_references(data, SIZE)
    look(found, SIZE)
    again = decode_references(encode_references(found), SIZE)
    assert again.nodes == found.nodes
    assert again.omissions == found.omissions


def reference_seeds() -> Iterable[bytes]:
    """Give sound references."""
    to = HierarchyBuilder("file")
    yield bytes(encode_references(to.build()))
    to.group("/g", {"a": [1, "b"]})
    described = ArrayDescription(
        shape=[4, 6],
        chunk_shape=[2, 3],
        data_type="int16",
        fill_value=0,
        codecs=[{"name": "bytes", "configuration": {"endian": "big"}}],
        dimension_names=["y", "x"],
    )
    array = to.array("/g/x", described)
    array.run(np.array([0, 1, 3]), np.array([0, 12, 9000]), np.array([12, 12, 12]))
    array.inline((1, 0), b"abcdefghijkl")
    to.array("/y", described).run(np.arange(4), 100 * np.arange(4), np.full(4, 12))
    to.omit("/z", "a reason")
    yield bytes(encode_references(to.build()))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Damage the head of references, and give it the length that it should have."""
    if not rng.randrange(3) or len(data) < 16:
        return mutations.havoc(rng, data)
    end = 16 + struct.unpack_from("<I", data, 12)[0]
    packed = mutations.msgpack_value(rng, data[16:end])
    head = data[:12] + struct.pack("<I", len(packed)) + packed
    return head + bytes(-len(head) % 8) + data[end + -end % 8 :]


def classic(data: bytes) -> None:
    """Parse *data* as netCDF; every chunk lies within it."""
    to = HierarchyBuilder("file")
    try:
        netcdf3.parse(io.BytesIO(data), len(data), to)
    except Unpresentable as reason:
        raise FormatError(ErrorKind.UNSUPPORTED_FORMAT, str(reason)[:300]) from None
    found = to.build()
    look(found, len(data))
    assert decode_references(encode_references(found), len(data)).nodes == found.nodes


def classic_seeds() -> Iterable[bytes]:
    """Give sound headers of every version, of a record variable and a fixed one with an attribute."""
    for version, number, offset in ((1, ">I", ">I"), (2, ">I", ">Q"), (5, ">Q", ">Q")):

        def words(*numbers: int, form: str = number) -> bytes:
            return b"".join(struct.pack(form, n) for n in numbers)

        def tag(value: int) -> bytes:
            return struct.pack(">I", value)

        name = words(1) + b"%s\0\0\0"
        dimensions = tag(10) + words(2) + name % b"t" + words(0) + name % b"x" + words(3)
        attribute = tag(12) + words(1) + name % b"a" + tag(5) + words(1) + bytes(4)
        none = tag(0) + words(0)
        variables = tag(11) + words(2)
        variables += name % b"v" + words(2, 0, 1) + attribute + tag(3) + words(8)
        variables += struct.pack(offset, 300)
        variables += name % b"w" + words(1, 1) + none + tag(6) + words(24)
        variables += struct.pack(offset, 400)
        head = b"CDF" + bytes([version]) + words(4) + dimensions + none + variables
        yield head.ljust(500, b"\1")


def look(found: References, size: int) -> None:
    """Look at what was found: every chunk is in its grid, and inline or within *size* bytes."""
    for node in found.nodes:
        if not isinstance(node, Array):
            continue
        manifest = found.manifests[node.id]
        for row in range(min(len(manifest), 100)):
            ref = manifest.ref(row)
            assert node.grid.contains(node.grid.unravel(manifest.index[row]))
            assert ref.kind is ChunkKind.INLINE or ref.offset + ref.length <= size
