"""Hierarchies of references that are known whole: the builders of manifests and of files."""

import json
import math

import numpy as np
import pytest

from vzfs.archival.building import ArrayDescription, HierarchyBuilder, Unpresentable, plain
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import EMPTY, ManifestBuilder
from vzfs.model.snapshot import Array

REFS = {
    7: ChunkRef(ChunkKind.VIRTUAL, 10, "s3://b/x", 100, LastModified(5)),
    0: ChunkRef(ChunkKind.VIRTUAL, 20, "s3://b/y", 0, ETag("a")),
    3: ChunkRef(ChunkKind.INLINE, 3, inline=b"abc"),
    4: ChunkRef(ChunkKind.NATIVE, 2**40, "c/4", 0, None),
    9: ChunkRef(ChunkKind.VIRTUAL, 10, "s3://b/x", 110, ETag("b")),
}


def test_a_manifest_gives_back_what_was_added() -> None:
    """A manifest has every ref that was added, in the order of the indices, and no other."""
    builder = ManifestBuilder()
    for flat, ref in REFS.items():
        builder.add(flat, ref)
    manifest = builder.build()
    assert list(manifest.index) == sorted(REFS)
    for flat, ref in REFS.items():
        row = manifest.row(flat)
        assert row is not None
        assert manifest.ref(row)._replace(inline=bytes(manifest.ref(row).inline)) == ref
    assert manifest.row(1) is None


def test_the_last_of_equal_indices_counts() -> None:
    """Where a chunk is named twice, the later ref is the one that counts."""
    builder = ManifestBuilder()
    for length in (1, 2, 3):
        builder.add(5, ChunkRef(ChunkKind.VIRTUAL, length, "s3://b/x"))
    manifest = builder.build()
    assert len(manifest) == 1
    assert manifest.length_at(0) == 3


def test_an_empty_manifest() -> None:
    """An array may have no chunk at all."""
    assert len(EMPTY) == 0
    assert EMPTY.row(0) is None


def test_a_hierarchy_has_the_groups_above_its_arrays() -> None:
    """Arrays have their parents, sorted by path, and refs into the file with its version."""
    builder = HierarchyBuilder("s3://b/f.nc", ETag("v"))
    array = builder.array(
        "/a/b/x",
        ArrayDescription(
            shape=[4, 6],
            chunk_shape=[2, 3],
            data_type="int16",
            fill_value=0,
            codecs=[{"name": "bytes", "configuration": {"endian": "little"}}],
            attributes={"units": "K", "odd": np.float32("nan")},
            dimension_names=["y", "x"],
        ),
    )
    array.virtual((1, 0), 100, 12)
    array.inline((0, 1), b"x" * 12)
    builder.omit("/a/y", "it is\nszip")
    found = builder.build()
    assert [node.path for node in found.nodes] == ["/", "/a", "/a/b", "/a/b/x"]
    x = found.nodes[-1]
    assert isinstance(x, Array)
    assert json.loads(x.documents["zarr.json"])["attributes"] == {"units": "K", "odd": "NaN"}
    manifest = found.manifests[x.id]
    assert list(manifest.index) == [1, 2]
    assert manifest.ref(1) == ChunkRef(ChunkKind.VIRTUAL, 12, "s3://b/f.nc", 100, ETag("v"))
    assert [(o.path, o.reason) for o in found.omissions] == [("/a/y", "it is szip")]


def test_a_place_that_is_not_known_is_no_chunk() -> None:
    """A chunk whose place in the file a library does not know makes the array unpresentable, never a missing chunk."""
    builder = HierarchyBuilder("s3://b/f.nc")
    array = builder.array(
        "/x",
        ArrayDescription(
            shape=[1], chunk_shape=[1], data_type="int8", fill_value=0, codecs=[{"name": "bytes"}]
        ),
    )
    with pytest.raises(Unpresentable):
        array.virtual((0,), -1, 1)
    builder.drop("/x", "its place is not known")
    found = builder.build()
    assert [node.path for node in found.nodes] == ["/"]
    assert found.manifests == {}
    assert found.omissions[0].path == "/x"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.int16(3), 3),
        (np.array([1.5, math.inf]), [1.5, "Infinity"]),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "café"),
        (1 + 2j, [1.0, 2.0]),
        (np.array((1, b"x"), [("a", "i2"), ("b", "S1")])[()], {"a": 1, "b": "x"}),
        (np.array(["a", "b"], object), ["a", "b"]),
        (np.datetime64("2001-01-01"), "2001-01-01"),
        ("bad \udce9", "bad é"),
    ],
)
def test_attributes_are_plain_json(value: object, said: object) -> None:
    """Whatever a file has as an attribute is said in strict JSON."""
    assert plain(value) == said
    json.dumps(plain(value), allow_nan=False).encode()


def test_attributes_without_a_value() -> None:
    """What has no value in JSON is refused rather than spelt."""
    with pytest.raises(Unpresentable):
        plain(object())


@pytest.mark.parametrize(
    "path", ["//x", "x", "/a//x", "/a/../x", "/zarr.json", "/a/zarr.json/x", "/"]
)
def test_a_path_that_is_none_is_refused(path: str) -> None:
    """Every parser gets a reason for a path that no directory can have."""
    described = ArrayDescription(
        shape=[1], chunk_shape=[1], data_type="int8", fill_value=0, codecs=[{"name": "bytes"}]
    )
    with pytest.raises(Unpresentable):
        HierarchyBuilder("s3://b/x").array(path, described)


def test_a_group_and_an_array_do_not_share_a_path() -> None:
    """Nothing is below an array, and what is a group stays one."""
    described = ArrayDescription(
        shape=[1], chunk_shape=[1], data_type="int8", fill_value=0, codecs=[{"name": "bytes"}]
    )
    builder = HierarchyBuilder("s3://b/x")
    builder.array("/x", described)
    builder.group("/g", {"a": 1})
    with pytest.raises(Unpresentable):
        builder.array("/x/y", described)
    with pytest.raises(Unpresentable):
        builder.array("/g", described)
    assert [node.path for node in builder.build().nodes] == ["/", "/g", "/x"]
