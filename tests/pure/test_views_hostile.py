"""Documents that somebody made to break a view: each is shown as stored, or left out, and nothing raises."""

import copy
import json
import warnings
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pure import viewing
from tests.pure.viewing import (
    BIG,
    FLETCHER,
    LITTLE,
    ZLIB,
    array_document,
    codec,
    group_document,
    numcodec,
    shuffle,
)
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding
from vzfs.model.snapshot import Array, Group, Snapshot
from vzfs.views.forms import Decoded, Framed
from vzfs.views.presentation import Presentation
from vzfs.views.view import ALL, ViewName

STRUCT = codec("struct", fields=[{"name": "a", "data_type": "int32"}, ["b", "float64"]])
WHOLE = [
    array_document((4, 6), (2, 3), codecs=[codec("transpose", order=[1, 0]), BIG, shuffle(2), ZLIB, FLETCHER]),
    array_document(data_type="float32", codecs=[LITTLE, numcodec("blosc", cname="lz4", clevel=5, shuffle=1)],
                   fill_value="NaN", dimension_names=["x"], attributes={"_FillValue": "AAAAAAAA+H8="}),
    array_document(data_type=STRUCT, codecs=[LITTLE, ZLIB], fill_value={"a": 1}),
    array_document(data_type=codec("numpy.datetime64", unit="ns", scale_factor=1), fill_value="NaT"),
    array_document(data_type=codec("fixed_length_utf32", length_bytes=8), fill_value="ab"),
    array_document(codecs=[codec("sharding_indexed", chunk_shape=[2], index_codecs=[LITTLE, codec("crc32c")],
                                 codecs=[numcodec("delta", dtype="<i2"), LITTLE, numcodec("zstd", level=1)])]),
    array_document(data_type="complex64", fill_value=[0, "NaN"], attributes={"_FillValue": ["AAAAAAAA+H8=", 1]}),
    group_document({"a": [1, {"b": None}]}, consolidated_metadata={"kind": "inline", "metadata": {}}),
]  # fmt: skip

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 1e308, "", "NaN", "0x", "AAAA", "int16", "bytes", "zstd", "r8", "\ud800"])
    | st.sampled_from([LITTLE, ZLIB, STRUCT]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "configuration", "fields", "codecs", "id"]) | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def look_at_everything(*documents: bytes) -> None:
    """Show *documents* as arrays and as groups in every view, and check what holds of all."""
    nodes: list[Array | Group] = [Group(path="/", documents={"zarr.json": documents[0]})]
    for i, document in enumerate(documents):
        made = viewing.make_node(f"/{i:03}a", document)
        if isinstance(made, Group):
            made = Array(
                path=made.path,
                documents=made.documents,
                id=b"x",
                grid=ChunkGrid((1,)),
                key_encoding=ChunkKeyEncoding(),
                manifests=(),
            )
        nodes += [made, Group(path=f"/{i:03}g", documents={"zarr.json": document})]
    snapshot = Snapshot(id="S", written_at=0, message="", metadata={}, nodes=tuple(nodes))
    for view in ALL:
        presentation = Presentation(snapshot, view)
        for n in range(len(presentation)):
            node, form = presentation.node(n), presentation.form(n)
            assert isinstance(presentation.remark(n), str)
            contents = dict(node.documents)
            assert len(contents) == len(node.documents)
            if not presentation.is_shown(n):
                assert presentation.remark(n)
                continue
            if contents.items() <= presentation.stored(n).documents.items():
                assert view.zarr_format == 3
                assert form is None or view.name is not ViewName.STORED
            elif view.zarr_format == 2:
                assert all(json.loads(c, parse_constant=lambda w: 1 / 0) for c in contents.values() if c != b"{}")  # fmt: skip
            if isinstance(form, Framed):
                assert form.size(100) > 100 - 8
            if isinstance(form, Decoded):
                assert 0 < form.nbytes <= 2**30
                assert json.loads(form.spec)


def changed(document: bytes, data: st.DataObject) -> bytes:
    """Put anything in some places of a document."""
    fields = json.loads(document)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = fields
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            if data.draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = copy.deepcopy(data.draw(junk))
            break
    return json.dumps(fields).encode()


@given(st.sampled_from(WHOLE), st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_documents_with_anything_in_any_place(document: bytes, data: st.DataObject) -> None:
    """Whatever stands wherever in a document, every view says something of it."""
    look_at_everything(changed(document, data))


@given(st.sampled_from(WHOLE), st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_consolidated_is_opened(document: bytes, data: st.DataObject) -> None:
    """Whatever stands in a document, if it is in consolidated metadata, zarr-python opens the group by them."""
    documents = {"/a": changed(document, data)}
    for view in ALL[1:]:
        files = viewing.present(documents, str(view)).node(0).documents
        with warnings.catch_warnings(action="ignore"):
            group = zarr.open_group(viewing.memory_store(files), mode="r")
        if group.metadata.consolidated_metadata is not None:
            assert len(group.metadata.consolidated_metadata.metadata) <= 1


@given(st.sampled_from(WHOLE), st.data())
@settings(max_examples=100)
def test_documents_with_damaged_bytes(document: bytes, data: st.DataObject) -> None:
    """Whichever bytes of a document are changed or cut off, every view says something of it."""
    damaged = bytearray(document)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    look_at_everything(bytes(damaged))


def deep(levels: int, innermost: str = "0") -> str:
    return "[" * levels + innermost + "]" * levels


def nested(make: Any, levels: int) -> Any:
    """Nest what *make* makes within itself."""
    found: Any = "int16"
    for _ in range(levels):
        found = make(found)
    return found


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"zarr_format": 3',
        array_document().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + array_document(),
        array_document().replace(b"int16", b"\\ud800"),
        array_document().replace(b'"fill_value": 0', b'"fill_value": 1e999'),
        array_document().replace(b'"fill_value": 0', b'"fill_value": ' + b"9" * 5000),
        array_document().replace(b'"fill_value": 0', b'"fill_value": ' + b"9" * 4000),
        array_document().replace(b'"fill_value": 0', b'"fill_value": NaN'),
        array_document().replace(b'"attributes": {}', b'"attributes": ' + deep(100_000).encode()),
        array_document().replace(b'"attributes": {}', b'"attributes": ' + deep(900).encode()),
        group_document().replace(b'"attributes": {}', b'"attributes": {"a":' + deep(900).encode() + b"}"),
        array_document(data_type=nested(lambda t: codec("struct", fields=[["a", t]]), 15)),
        array_document(data_type=codec("struct", fields=[["a", "int8"], ["a", "int8"]])),
        array_document(data_type=codec("struct", fields=[[f"f{i}", "int8"] for i in range(5000)])),
        array_document(data_type=codec("raw_bytes", length_bytes=2**31 - 1), fill_value=""),
        array_document(data_type=codec("fixed_length_utf32", length_bytes=2**40), fill_value=""),
        array_document(data_type="r99999999999", fill_value=[]),
        array_document(data_type="r8", fill_value=[256]),
        array_document(data_type="r8", fill_value=[2**70]),
        array_document(data_type=codec("numpy.datetime64", unit="s", scale_factor=2**40)),
        array_document(data_type="float32", fill_value="0x" + "f" * 100_000),
        array_document(data_type="float32", fill_value=10**4000),
        array_document(data_type="int16", fill_value=1e308),
        array_document(shape=[2**63 - 1] * 8, codecs=[LITTLE, ZLIB]),
        array_document(shape=[0], chunks=[1], codecs=[LITTLE, ZLIB]),
        array_document(shape=[1] * 65),
        array_document(shape=[True]),
        array_document(codecs=[LITTLE, ZLIB] * 1000),
        array_document(codecs=[codec("transpose", order=[10**30]), LITTLE]),
        array_document(codecs=[LITTLE, numcodec("delta", dtype="(1000000000,)f8")]),
        array_document(codecs=[LITTLE, numcodec("zlib", level=10**400)]),
        array_document(codecs=[nested(lambda c: codec("sharding_indexed", chunk_shape=[2], codecs=[c], index_codecs=[c]), 12)]),
        array_document(attributes={"_FillValue": "A" * 100_000}),
        array_document(attributes={"_FillValue": {}}),
        array_document(data_type="float32", attributes={"_FillValue": [["AAAAAAAA+H8="]]}),
    ],
)  # fmt: skip
def test_documents_made_to_break_a_view(document: bytes) -> None:
    """Numbers, depths, lengths and encodings of any size lead to a remark, and to no more work than to read them."""
    look_at_everything(document)


def test_a_fill_value_takes_no_more_than_its_element() -> None:
    """An element is bounded before its fill value is made, so that no document allocates much."""
    for length in (2**16, 2**16 + 1):
        document = array_document(
            data_type=codec("raw_bytes", length_bytes=length), codecs=[codec("bytes"), ZLIB]
        )
        presentation = viewing.present({"/a": document}, "stored-v2")

        assert presentation.is_shown(1) == (length == 2**16)


def test_sizes_of_hostile_lengths_stay_in_64_bits() -> None:
    """A length that no file has gives a size that a file can have."""
    document = array_document(codecs=[LITTLE, ZLIB])
    form = viewing.present({"/a": document}, "portable-v3").form(1)
    lengths = np.array([0, 2**62, 2**63 - 1], np.int64)

    assert isinstance(form, Framed)
    assert form.sizes(lengths).min() > 0
    assert form.sizes(lengths).tolist() == [form.size(int(n)) for n in lengths]
