"""DMR++ documents: variables are where the document says, or are left out by name."""

import base64
import io
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.pure.hierarchies import LOCATION, arrays, document, omitted, parsed
from vzfs.archival.building import Unpresentable
from vzfs.archival.parsers import dmrppxml
from vzfs.archival.parsers.dmrpp import parse
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References
from vzfs.model.snapshot import Array

VALUES = np.arange(60, dtype="<f4").reshape(6, 10)


def written(*variables: str, version: str = ' dmrpp:version="3.21"', head: str = "") -> bytes:
    """Return a document of *variables*."""
    return (
        f'<?xml version="1.0"?>{head}<Dataset xmlns="http://xml.opendap.org/ns/DAP/4.0#" '
        'xmlns:dmrpp="http://xml.opendap.org/dap/dmrpp/1.0.0#" name="file" '
        f'dmrpp:href="OPeNDAP_DMRpp_DATA_ACCESS_URL"{version}>{"".join(variables)}</Dataset>'
    ).encode()


def variable(inner: str, kind: str = "Float32", dims: tuple[int, ...] = (6, 10)) -> str:
    """Return a variable `v` with *inner* elements."""
    sizes = "".join(f'<Dim size="{n}"/>' for n in dims)
    return f'<{kind} name="v">{sizes}{inner}</{kind}>'


def chunks(inner: str, **attributes: str) -> str:
    """Return the element about chunks."""
    said = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f"<dmrpp:chunks {said}>{inner}</dmrpp:chunks>"


def chunk(offset: int, length: int, position: str = "", more: str = "") -> str:
    """Return the element about a chunk."""
    where = f' chunkPositionInArray="{position}"' if position else ""
    return f'<dmrpp:chunk offset="{offset}" nBytes="{length}"{where}{more}/>'


SIZES = "<dmrpp:chunkDimensionSizes>4 10</dmrpp:chunkDimensionSizes>"


def read(text: bytes, data: bytes = b"") -> tuple[References, dict[str, np.ndarray]]:
    """Return what a document is said to hold, and the values of its arrays, with *data* beside it."""
    references = parsed(parse, io.BytesIO(text))
    return references, arrays(references, {LOCATION: data})


@pytest.fixture(name="described", scope="module")
def _described(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, Path]:
    """Give an HDF5 file, what a document says of it, and where it is."""
    path = tmp_path_factory.mktemp("dmrpp") / "file.h5"
    options = {"chunks": (4, 10), "shuffle": True, "compression": "gzip", "fletcher32": True}
    filters = {
        "plain": "", "deflated": "deflate", "shuffled": "shuffle deflate",
        "checked": "shuffle deflate fletcher32",
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        file["contiguous"] = VALUES
        for name, said in filters.items():
            kept = {
                "shuffle": "shuffle" in said, "fletcher32": "fletcher" in said,
                "compression": "gzip" if said else None,
            }  # fmt: skip
            file.create_dataset(name, data=VALUES, **{**options, **kept})
        file["group/big"] = VALUES.astype(">i2")
    parts = ['<Dimension name="y" size="6"/><Dimension name="x" size="10"/>']
    dims = '<Dim name="/y"/><Dim name="/x"/>'
    with h5py.File(path) as file:
        for name, said in filters.items():
            stored = file[name].id
            found = [stored.get_chunk_info(i) for i in range(stored.get_num_chunks())]
            listed = "".join(
                chunk(c.byte_offset, c.size, "[" + ",".join(map(str, c.chunk_offset)) + "]")
                for c in found
            )
            more = {"compressionType": said, "deflateLevel": "4"} if said else {}
            about = chunks(SIZES + listed, byteOrder="LE", fillValue="0", **more)
            parts.append(f'<Float32 name="{name}">{dims}{about}</Float32>')
        whole = chunk(file["contiguous"].id.get_offset(), VALUES.nbytes)
        parts.append(f'<Float32 name="contiguous">{dims}{chunks(whole, byteOrder="LE")}</Float32>')
        big = chunk(file["group/big"].id.get_offset(), VALUES.size * 2)
        inner = f'<Int16 name="big">{dims}{chunks(big, byteOrder="BE")}</Int16>'
        parts.append(f'<Group name="group">{inner}</Group>')
    return written(*parts), path.read_bytes(), path


def test_a_document_stands_for_its_file(described: tuple[bytes, bytes, Path]) -> None:
    """Variables in one piece and in chunks, filtered or not, of both orders, are what h5py reads."""
    text, data, path = described
    references, found = read(text, data)

    assert omitted(references) == {}
    with h5py.File(path) as file:
        for name, values in found.items():
            np.testing.assert_array_equal(values, file[name][...])
    assert len(found) == 6
    assert document(references, "/shuffled")["dimension_names"] == ["y", "x"]


def test_what_is_said_of_data_becomes_attributes() -> None:
    """Attributes are of their types; those of the file are the root's; what made the document says nothing."""
    texts = (
        '<Attribute name="units" type="String"><Value>K</Value></Attribute>'
        '<Attribute name="valid" type="Int16"><Value>1</Value><Value>-2</Value></Attribute>'
        '<Attribute name="scale" type="Float64"><Value value="0.5"/></Attribute>'
        '<Attribute name="_FillValue" type="Float32"><Value>-9.</Value></Attribute>'
    )
    root = (
        '<Attribute name="HDF5_GLOBAL" type="Container"><Attribute name="title" type="String">'
        "<Value>t</Value></Attribute></Attribute>"
        '<Attribute name="build_dmrpp_metadata" type="Container"/>'
    )
    whole = variable(texts + chunk(0, VALUES.nbytes))
    references, _ = read(written(whole, root), VALUES.tobytes())

    attributes = document(references, "/v")["attributes"]
    assert attributes.pop("_FillValue") == base64.b64encode(np.float64(-9).tobytes()).decode()
    assert attributes == {"units": "K", "valid": [1, -2], "scale": 0.5}
    assert document(references, "/")["attributes"] == {"title": "t"}


def test_data_in_the_document_are_kept() -> None:
    """Small data that the document has in itself are inlined, also where they are compressed."""
    compact = base64.b64encode(VALUES.tobytes()).decode()
    missing = base64.b64encode(zlib.compress(VALUES.tobytes())).decode()
    for inner in (
        f"<dmrpp:compact>{compact}</dmrpp:compact>",
        f"<dmrpp:missingdata>\n{missing[:30]}\n  {missing[30:]}</dmrpp:missingdata>",
        f"{chunks('', fillValue='0')}<dmrpp:compact>{compact}</dmrpp:compact>",
    ):
        references, found = read(written(variable(inner)))
        np.testing.assert_array_equal(found["/v"], VALUES)
        assert omitted(references) == {}


def test_texts_are_those_of_the_document() -> None:
    """Texts of one length lie in the file; those of any length are in the document, repeated or packed."""
    fixed = '<dmrpp:FixedLengthStringArray string_length="4" pad="null"/>' + chunk(2, 8)
    references, found = read(written(variable(fixed, "String", (2,))), b"xxab\0\0cdef")
    assert found["/v"].tolist() == [b"ab", b"cdef"]

    packed = base64.b64encode(zlib.compress(b"long text")).decode()
    inner = f'<dmrpp:vlsa><v>a</v><v c="2">é</v><v s="9">{packed}</v></dmrpp:vlsa>'
    references = parsed(parse, io.BytesIO(written(variable(inner, "String", (4,)))))
    [node] = [node for node in references.nodes if isinstance(node, Array)]
    ref = references.manifests[node.id].ref(0)
    assert ref.kind is ChunkKind.INLINE
    from numcodecs import VLenUTF8

    assert VLenUTF8().decode(bytes(ref.inline)).tolist() == ["a", "é", "é", "long text"]


def test_chunks_that_are_not_listed_hold_the_fill_value() -> None:
    """A chunk that the document does not list is missing, and holds what the document says."""
    listed = chunk(0, 160, "[0,0]")
    text = written(variable(chunks(SIZES + listed, fillValue="-7")))
    _, found = read(text, VALUES.tobytes())
    np.testing.assert_array_equal(found["/v"][:4], VALUES[:4])
    assert (found["/v"][4:] == -7).all()


def test_older_documents_shuffle_first() -> None:
    """A document without a version names filters in any order: what was shuffled was so before it was deflated."""
    stored = zlib.compress(VALUES.reshape(-1).view("u1").reshape(-1, 4).T.tobytes())
    said = chunks(
        "<dmrpp:chunkDimensionSizes>6 10</dmrpp:chunkDimensionSizes>"
        + chunk(0, len(stored), "[0,0]"),
        compressionType="deflate shuffle",
    )
    _, found = read(written(variable(said), version=""), stored)
    np.testing.assert_array_equal(found["/v"], VALUES)


REFUSED = {
    "no place": ("", "does not say where its data are"),
    "another file": (chunk(0, 240, more=' href="s3://secret/x"'), "in other files"),
    "a filter mask": (chunk(0, 240, more=' fm="1"'), "not filtered as the others"),
    "blocks": (chunks('<dmrpp:block offset="0" nBytes="9"/>'), "scattered"),
    "an unknown filter": (chunks(chunk(0, 240), compressionType="szip"), "szip"),
    "an unknown order": (chunks(chunk(0, 240), byteOrder="PDP"), "order of bytes"),
    "too short": (chunk(0, 239), "239 bytes"),
    "no fill value": (chunks(SIZES + chunk(0, 160, "[0,0]")), "does not say what they hold"),
    "a fill value of another type": (chunks(SIZES, fillValue="x"), "does not say what they hold"),
    "no position": (chunks(SIZES + chunk(0, 160)), "where a chunk of it belongs"),
    "beside the grid": (chunks(SIZES + chunk(0, 160, "[2,0]")), "beside the grid"),
    "beyond the grid": (chunks(SIZES + chunk(0, 160, "[8,0]")), "beside the grid"),
    "no size": (chunks("<dmrpp:chunkDimensionSizes>0 10</dmrpp:chunkDimensionSizes>"), "no size"),
    "no number": (chunk(0, 240).replace('"0"', '"-1"'), "no number"),
    "a huge number": (chunk(0, 240).replace('"240"', f'"{10**30}"'), "no number"),
    "no base64": ("<dmrpp:compact>&lt;</dmrpp:compact>", "no base64"),
    "too few bytes": ("<dmrpp:compact>AAAA</dmrpp:compact>", "3 bytes in the document"),
    "a bomb": (
        f"<dmrpp:missingdata>{base64.b64encode(zlib.compress(bytes(10**6))).decode()}</dmrpp:missingdata>",
        "another number of bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_said_is_left_out_with_its_reason(case: str) -> None:
    """A variable whose chunks are not known exactly is named; those beside it are shown."""
    inner, reason = REFUSED[case]
    good = '<Byte name="good"><Dim size="3"/>' + chunk(0, 3) + "</Byte>"
    references, found = read(written(variable(inner), good), b"abc")

    assert found.keys() == {"/good"}
    assert reason in omitted(references)["/v"]


def test_other_types_are_named() -> None:
    """Structures and the like are left out by name, wherever they are."""
    inner = '<Group name="g"><Structure name="s"/><String name="t"/></Group><Enum name="e"/>'
    references, found = read(written(inner))
    assert found == {}
    assert omitted(references).keys() == {"/g/s", "/g/t", "/e"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<a",
        b"<Other/>",
        written(head='<!DOCTYPE x [<!ENTITY a "b">]>'),
        written(head='<!DOCTYPE x SYSTEM "file:///etc/passwd">'),
        written("&undefined;"),
        written("<a>" * 100 + "</a>" * 100),
    ],
)
def test_no_document_is_refused(text: bytes) -> None:
    """What is no XML, has another root, or declares a document type or entities is refused."""
    with pytest.raises(Unpresentable):
        read(text)


def test_documents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that is too long, or has too many elements or too much text, is refused."""
    text = written(variable("x" * 100))
    for name, value in (("MAX_DOCUMENT", 100), ("MAX_ELEMENTS", 2), ("MAX_TEXT", 50)):
        with monkeypatch.context() as patch:
            patch.setattr(dmrppxml, name, value)
            with pytest.raises(Unpresentable):
                read(text)
