"""Consolidated metadata: what they have, where they are cut, and that readers take them."""

import json
import math
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import xarray
import zarr

from tests.pure import viewing
from tests.pure.viewing import (
    FLETCHER,
    LITTLE,
    ZLIB,
    array_document,
    codec,
    group_document,
    present,
    shown,
    shuffle,
)
from vzfs.formats.zarr import MAX_DOCUMENT
from vzfs.views import consolidated
from vzfs.views.consolidated import Recent

V3 = ["portable-v3", "decoded-v3"]
V2 = ["stored-v2", "portable-v2", "decoded-v2"]

TREE = {
    "/": group_document({"title": "all"}),
    "/a": array_document(codecs=[LITTLE, shuffle(2), ZLIB]),
    "/g": group_document({"title": "g"}),
    "/g-": array_document(),
    "/g/b": array_document(codecs=[LITTLE, ZLIB]),
    "/g/h": group_document(),
    "/g/h/c é": array_document(),
    "/h": group_document(),
    "/h/d": array_document(),
}

UNKNOWN = {
    "a codec": array_document(codecs=[codec("acme"), LITTLE]),
    "a codec of another package": array_document(codecs=[LITTLE, codec("imagecodecs_of_another")]),
    "a data type": array_document(data_type="bfloat16"),
    "another spelling of a data type": array_document(data_type="r16", codecs=[codec("bytes")]),
    "NaN in JSON": array_document(attributes={"x": math.nan}),
    "a grid": array_document(chunk_grid=codec("rectilinear", kind="inline", chunk_shapes=[[4]])),
    "keys": array_document(chunk_key_encoding=codec("suffix", suffix=".x")),
    "a field": array_document(secret={"must_understand": True}),
    "a fill value": array_document(fill_value="x"),
    "a configuration": array_document(codecs=[LITTLE, codec("gzip", level=99)]),
    "a shard": array_document(codecs=[codec("sharding_indexed", chunk_shape=[3], codecs=[LITTLE], index_codecs=[LITTLE])]),
    "damage": b'{"node_type": "array"',
    "a group that is none": group_document(secret=1),
}  # fmt: skip
"""Nodes that keep zarr-python from the whole group if they are in consolidated metadata."""


def refuse(word: str) -> None:
    """Do as a strict parser of JSON does."""
    raise ValueError(word)


def files_of(documents: Mapping[str, bytes], view: str, **options) -> dict[str, bytes]:
    presentation = present(documents, view, **options)
    return {
        f"{presentation.path(n)}/{name}".lstrip("/"): content
        for n in range(len(presentation))
        if presentation.is_shown(n)
        for name, content in presentation.node(n).documents.items()
    }


@pytest.mark.parametrize("view", V3)
def test_a_group_has_the_documents_of_all_nodes_below_it(view: str) -> None:
    """In every group's document are those of its nodes by relative paths, as they are shown there."""
    presentation = present(TREE, view)
    for path in ("/", "/g", "/g/h", "/h"):
        found = shown(presentation, path)["consolidated_metadata"]
        prefix = path.rstrip("/") + "/"
        below = [p for p in TREE if p.startswith(prefix) and p != path]

        assert (found["kind"], found["must_understand"]) == ("inline", False)
        assert sorted(found["metadata"]) == sorted(p.removeprefix(prefix) for p in below)
        for p in below:
            alone = shown(presentation, p)
            alone.pop("consolidated_metadata", None)
            assert found["metadata"][p.removeprefix(prefix)] == alone
    assert shown(presentation, "/")["attributes"] == {"title": "all"}


@pytest.mark.parametrize("view", V2)
def test_the_root_has_all_documents_in_zarr_v2(view: str) -> None:
    """`.zmetadata` has every document of every node by its key, and only the root has it."""
    presentation = present(TREE, view)
    found = shown(presentation, "/", ".zmetadata")
    every = files_of(TREE, view)
    every.pop(".zmetadata")

    assert found["zarr_consolidated_format"] == 1
    assert found["metadata"] == {name: json.loads(content) for name, content in every.items()}
    assert not any(name.endswith("/.zmetadata") for name in every)


@pytest.mark.parametrize("view", [*V3, *V2])
def test_readers_open_a_hierarchy_by_one_document(view: str) -> None:
    """zarr-python opens every node from the root's document alone, and finds what is there without it."""
    whole = files_of(TREE, view)
    alone = {name: whole[name] for name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata") if name in whole}  # fmt: skip
    plain = files_of(TREE, view, consolidated=False)
    with warnings.catch_warnings(action="ignore"):
        root = zarr.open_group(viewing.memory_store(alone), mode="r", use_consolidated=True)
        other = zarr.open_group(viewing.memory_store(plain), mode="r", use_consolidated=False)
        found = {name: node.metadata.to_dict() for name, node in root.members(max_depth=None)}
        truth = {name: node.metadata.to_dict() for name, node in other.members(max_depth=None)}
    for node in found.values():
        node.pop("consolidated_metadata", None)

    assert found == truth
    assert found.keys() == {path[1:] for path in TREE if path != "/"}


@pytest.mark.parametrize("view", [*V3, *V2])
def test_consolidated_metadata_can_be_left_out(view: str) -> None:
    """With the option there are none at all."""
    files = files_of(TREE, view, consolidated=False)

    assert ".zmetadata" not in files
    assert not any(b"consolidated" in content for content in files.values())


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("view", V3)
def test_what_a_repository_has_consolidated_is_replaced(view: str, is_wanted: bool) -> None:
    """Consolidated metadata of the repository speak of stored chunks, so they are never shown."""
    stale = {"kind": "inline", "must_understand": False, "metadata": {"a": {"codecs": "stale"}}}
    for root in (
        group_document(consolidated_metadata=stale),
        group_document(consolidated_metadata=stale, secret=1),
        json.dumps({"consolidated_metadata": stale, "zarr_format": 2}).encode(),
        group_document(consolidated_metadata=stale, deep=json.loads("[" * 100 + "]" * 100)),
        group_document(consolidated_metadata=stale).decode().encode("utf-16"),
    ):
        files = files_of({"/": root, "/a": array_document()}, view, consolidated=is_wanted)

        assert b"stale" not in files["zarr.json"]
        assert json.loads(files["zarr.json"])


@pytest.mark.parametrize("name", UNKNOWN)
def test_one_unknown_node_cuts_the_groups_above_it(name: str) -> None:
    """Where a common reader may not know a node, the groups above it have none, and others keep theirs."""
    presentation = present({**TREE, "/g/x": UNKNOWN[name]}, "portable-v3")

    assert presentation.is_shown(viewing.number_of(presentation, "/g/x"))
    for path, has_any in {"/": False, "/g": False, "/g/h": True, "/h": True}.items():
        assert ("consolidated_metadata" in shown(presentation, path)) == has_any


@pytest.mark.parametrize("name", [name for name in UNKNOWN if name not in ("a grid", "keys")])
def test_the_unknown_nodes_are_unknown(name: str) -> None:
    """What is cut for would keep zarr-python, or a strict parser of JSON, from the whole group."""
    whole = {"/": group_document(), "/x": UNKNOWN[name]}
    members = {"x": UNKNOWN[name]}.items()
    document = consolidated.v3_document(whole["/"], members)
    assert document is not None
    with warnings.catch_warnings(action="ignore"):
        if name == "NaN in JSON":
            with pytest.raises(ValueError, match="NaN"):
                json.loads(document, parse_constant=refuse)
            return
        with pytest.raises(Exception) as error:  # noqa: PT011 - it has many
            zarr.open_group(viewing.memory_store({"zarr.json": document}), mode="r")
    assert error.value is not None


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("view", V2)
def test_an_unknown_node_does_not_break_zarr_v2(view: str, name: str) -> None:
    """What is left out is not in `.zmetadata` either, and what another package knows cuts it."""
    presentation = present({**TREE, "/g/x": UNKNOWN[name]}, view)
    number = viewing.number_of(presentation, "/g/x")
    is_cut = name == "a codec of another package" and view != "decoded-v2"

    assert (".zmetadata" in presentation.node(0).documents) != is_cut
    if not is_cut:
        found = shown(presentation, "/", ".zmetadata")["metadata"]
        assert any(key.startswith("g/x/") for key in found) == presentation.is_shown(number)


def test_what_numcodecs_knows_cuts_nothing() -> None:
    """An array that stays as stored with codecs that zarr-python has is in consolidated metadata."""
    document = array_document(codecs=[LITTLE, FLETCHER, shuffle(2), ZLIB])
    presentation = present({"/a": document}, "portable-v3")

    assert presentation.remark(1)
    assert "a" in shown(presentation, "/")["consolidated_metadata"]["metadata"]


def test_an_array_that_is_left_out_cuts_nothing() -> None:
    """What the decoded view leaves out is not in its consolidated metadata, which stay whole."""
    presentation = present({**TREE, "/g/x": UNKNOWN["a codec"]}, "decoded-v3")

    assert not presentation.is_shown(viewing.number_of(presentation, "/g/x"))
    assert "g/x" not in shown(presentation, "/")["consolidated_metadata"]["metadata"]
    assert "g/b" in shown(presentation, "/")["consolidated_metadata"]["metadata"]


@pytest.mark.parametrize("view", ["portable-v3", "portable-v2"])
def test_consolidated_metadata_have_a_limit(view: str) -> None:
    """A group of which they would be too large has none; smaller ones below it keep theirs."""
    half = "x" * (MAX_DOCUMENT // 2)
    tree = {**TREE, "/a": array_document(attributes={"x": half}), "/g/b": array_document(attributes={"x": half})}  # fmt: skip
    presentation = present(tree, view)
    root = presentation.node(0).documents

    assert ".zmetadata" not in root
    assert all(len(content) < MAX_DOCUMENT for content in root.values())
    assert b"consolidated" not in b"".join(root.values())
    if view == "portable-v3":
        assert "b" in shown(presentation, "/g")["consolidated_metadata"]["metadata"]


def test_documents_are_made_when_they_are_asked_for() -> None:
    """Looking at one node does not present others, and a group's names alone do not in Zarr v3."""
    presentation = present(TREE, "portable-v3")
    made: list[int] = []
    show = presentation._show
    presentation._show = lambda number: made.append(number) or show(number)  # type: ignore[method-assign]
    documents = presentation.node(0).documents

    assert list(documents) == ["zarr.json"]
    assert len(documents) == 1
    assert "zarr.json" in documents
    assert ".zmetadata" not in documents
    assert made == [0]
    assert documents["zarr.json"] is documents["zarr.json"]
    assert sorted(made) == [0, *range(1, 9)]


def test_few_large_documents_are_kept() -> None:
    """What was asked for longest ago is made anew; that a group has none is remembered."""
    recent = Recent(10)
    for number, document in enumerate([b"12345", None, b"67890", b"abcde"]):
        recent.keep(number, document)
        recent.get(1)

    assert [recent.get(n) for n in range(4)] == [
        (False, None), (True, None), (True, b"67890"), (True, b"abcde"),
    ]  # fmt: skip


@pytest.mark.parametrize("view", [*V3, *V2])
def test_xarray_opens_a_group_by_its_documents(view: str) -> None:
    """Variables of a group are what xarray finds, with names of dimensions and missing values, in every view."""
    values = np.array([1, -9, 3, 4], "float32")
    stored = viewing.Stored.of(
        values,
        [LITTLE, shuffle(4), ZLIB],
        fill_value=0.0,
        dimension_names=["x"],
        attributes={"_FillValue": "AAAAAAAAIsA=", "units": "K"},
    )
    files = stored.files(view)
    with warnings.catch_warnings(action="ignore"):
        dataset = xarray.open_dataset(viewing.memory_store(files), engine="zarr")

    assert dataset["a"].dims == ("x",)
    assert dataset["a"].attrs == {"units": "K"}
    assert dataset["a"].encoding["_FillValue"] == -9
    assert dataset["a"].dtype == "float32"
    np.testing.assert_array_equal(dataset["a"].to_numpy(), np.array([1, np.nan, 3, 4], "float32"))
