"""What was found as Zarr v2 is shown byte for byte in the stored view of Zarr v2, with its own keys."""

import json
from collections.abc import Mapping
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from tests.pure import viewing
from vzfs.formats.zarr import parse_array_document
from vzfs.model.snapshot import Array, Group, Node, Snapshot
from vzfs.views.fromv2 import array_from_v2, group_from_v2
from vzfs.views.presentation import Presentation
from vzfs.views.view import View

ZATTRS = b'{ "units":"K" , "_ARRAY_DIMENSIONS": ["x"],"list":[] }'


def zarray(**more: Any) -> bytes:
    """Make a document that nobody would write like this: only its bytes are the same."""
    fields = {
        "filters": None,
        "shape": [4],
        "zarr_format": 2,
        "chunks": [2],
        "order": "C",
        "fill_value": 7,
        "compressor": {"level": 1, "id": "zlib"},
        "dtype": "<i2",
    }
    return json.dumps({**fields, **more}, indent=3).encode()


def node(path: str, originals: Mapping[str, bytes]) -> Node:
    if ".zarray" not in originals:
        document = group_from_v2(originals.get(".zattrs"))
        return Group(path=path, documents={"zarr.json": document}, originals=originals)
    document = array_from_v2(originals[".zarray"], originals.get(".zattrs"))
    layout = parse_array_document(document)
    return Array(
        path=path,
        documents={"zarr.json": document},
        originals=originals,
        id=path.encode(),
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=(),
    )


def present(view: str, *nodes: Node, **root: bytes) -> Presentation:
    originals = {f".{name}": content for name, content in root.items()}
    snapshot = Snapshot(
        id="S", written_at=0, message="", metadata={}, nodes=(node("/", originals), *nodes)
    )
    return Presentation(snapshot, View.parse(view))


def documents(presentation: Presentation) -> dict[str, bytes]:
    return {
        f"{presentation.path(n).strip('/')}/{name}".lstrip("/"): content
        for n in range(len(presentation))
        if presentation.is_shown(n)
        for name, content in presentation.node(n).documents.items()
    }


def test_documents_are_shown_byte_for_byte() -> None:
    """Documents are those that were found, and none that were not, but for the one that says what a group is."""
    array = {".zarray": zarray(), ".zattrs": ZATTRS}
    group = {".zgroup": b'{"zarr_format":   2}'}
    found = documents(present("stored-v2", node("/a", array), node("/g", group), zattrs=b'{"a": 1}'))  # fmt: skip

    consolidated = json.loads(found.pop(".zmetadata"))["metadata"]

    assert found == {
        ".zgroup": b'{"zarr_format":2}',
        ".zattrs": b'{"a": 1}',
        "a/.zarray": array[".zarray"],
        "a/.zattrs": ZATTRS,
        "g/.zgroup": group[".zgroup"],
    }
    assert consolidated == {name: json.loads(content) for name, content in found.items()}


@pytest.mark.parametrize(
    ("said", "key"),
    [({}, "1.2"), ({"dimension_separator": "."}, "1.2"), ({"dimension_separator": "/"}, "1/2")],
)
def test_keys_are_those_of_the_document(said: dict[str, str], key: str) -> None:
    """Chunks have the names that the document gives them, which are with dots where it says nothing."""
    array = node("/a", {".zarray": zarray(shape=[4, 8], chunks=[2, 2], **said)})

    shown = present("stored-v2", array).node(1)

    assert isinstance(shown, Array)
    assert shown.key_encoding.encode((1, 2)) == key
    assert isinstance(array, Array)
    assert array.key_encoding.encode((1, 2)) == "c/1/2"


def test_an_unknown_separator_keeps_an_array_out() -> None:
    """An array whose document names a separator that nobody has is left out by name, of this view alone."""
    array = node("/a", {".zarray": zarray(dimension_separator="|")})
    presentation = present("stored-v2", array)

    assert not presentation.is_shown(1)
    assert "separator" in presentation.remark(1)
    assert present("stored-v3", array).is_shown(1)


@pytest.mark.parametrize(
    "originals",
    [
        {".zarray": zarray(fill_value=float("nan"), dtype="<f4")},
        {".zarray": zarray(), ".zattrs": b'{"bad": NaN}'},
        {".zarray": zarray(compressor={"id": "mine"})},
        {".zarray": zarray(compressor={"id": "imagecodecs_jpeg"})},
    ],
)
def test_what_not_every_reader_takes_is_not_consolidated(originals: dict[str, bytes]) -> None:
    """An array that keeps a common reader from all others is shown, and there is no consolidated metadata then."""
    found = documents(present("stored-v2", node("/a", originals)))

    assert ".zmetadata" not in found
    assert {f"a/{name}": content for name, content in originals.items()}.items() <= found.items()


def test_a_root_that_not_every_reader_takes_is_not_consolidated() -> None:
    """Nor is there consolidated metadata where the root itself says what JSON has not."""
    found = documents(present("stored-v2", zattrs=b'{"bad": Infinity}', zgroup=b'{"zarr_format":2}'))  # fmt: skip

    assert found == {".zattrs": b'{"bad": Infinity}', ".zgroup": b'{"zarr_format":2}'}


def test_what_zarr_v3_has_no_words_for_is_kept_in_the_portable_view() -> None:
    """A filter that no reader of the portable view has is shown as it was found, with a remark, and so are orders of bytes that only Zarr v2 says."""
    delta = {"id": "delta", "dtype": ">i4", "astype": ">i2"}
    for change in ({"filters": [{"id": "mine"}]}, {"filters": [delta], "dtype": ">i4"}):
        array = {".zarray": zarray(**change), ".zattrs": ZATTRS}
        presentation = present("portable-v2", node("/a", array))

        assert documents(presentation)["a/.zarray"] == array[".zarray"]
        assert documents(presentation)["a/.zattrs"] == ZATTRS
        assert presentation.form(1) is None
        assert presentation.remark(1)


def test_other_views_are_made_of_the_converted_document() -> None:
    """The portable view of Zarr v2 shows what is converted: frames for what was deflated, say."""
    array = {".zarray": zarray(filters=[{"id": "shuffle", "elementsize": 2}]), ".zattrs": ZATTRS}
    presentation = present("portable-v2", node("/a", array))

    document = json.loads(documents(presentation)["a/.zarray"])

    assert document["compressor"]["id"] == "blosc"
    assert document["fill_value"] == 7
    assert presentation.form(1) is not None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">f8", "|S3", "<M8[s]"])
def test_values_are_read_from_the_stored_view(dtype: str, order: str) -> None:
    """What zarr-python reads of the stored view of Zarr v2, through consolidated metadata, is what was written."""
    values = (np.arange(12) % 5).astype(dtype).reshape(4, 3)
    store = zarr.storage.MemoryStore()
    zarr.create_group(store, zarr_format=2)
    written = zarr.create_array(
        store, name="a", shape=(4, 3), chunks=(3, 2), dtype=dtype, order=order, zarr_format=2,
        filters=[numcodecs.Shuffle(3)] if dtype == "|S3" else None, attributes={"units": "K"},
    )  # fmt: skip
    written[...] = values
    files = {name: content.to_bytes() for name, content in store._store_dict.items()}
    array = {n.removeprefix("a/"): c for n, c in files.items() if n.startswith("a/.z")}
    shown = present("stored-v2", node("/a", array), zgroup=files[".zgroup"])
    chunks = {n: c for n, c in files.items() if ".z" not in n}

    files = {**documents(shown), **chunks}
    opened = zarr.open_group(viewing.memory_store(files), mode="r", use_consolidated=True)

    assert viewing.same(np.asarray(opened["a"][...]), values)
    assert opened["a"].attrs["units"] == "K"
