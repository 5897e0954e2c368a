"""What views say of arrays, document by document: as Zarr v3, and as Zarr v2."""

import base64
import json
import math
import struct
from typing import Any

import pytest

from tests.pure.viewing import (
    BIG,
    FLETCHER,
    LITTLE,
    LZ4,
    PLAIN,
    ZLIB,
    ZSTD,
    array_document,
    codec,
    group_document,
    numcodec,
    present,
    shown,
    shuffle,
)
from vzfs.model.chunkgrid import ChunkKeyEncoding, KeyStyle
from vzfs.model.snapshot import Snapshot
from vzfs.views.forms import MAX_BLOCK, Decoded, Framed
from vzfs.views.presentation import Presentation
from vzfs.views.view import ALL, View

RAW3 = codec("raw_bytes", length_bytes=3)
STRUCT = codec("struct", fields=[{"name": "a", "data_type": "int32"}, {"name": "b", "data_type": "float64"}])  # fmt: skip
TIME = codec("numpy.datetime64", unit="s", scale_factor=25)
JPEG = codec("imagecodecs_jpeg")
SHARDING = codec(
    "sharding_indexed",
    chunk_shape=[2],
    codecs=[LITTLE, numcodec("zstd", level=1)],
    index_codecs=[LITTLE, codec("crc32c")],
)


def nan(number: float) -> str:
    """Say a number as xarray says `_FillValue`."""
    return base64.b64encode(struct.pack("<d", number)).decode()


# -- the same everywhere ---------------------------------------------------------------------------


def test_the_stored_view_is_the_repository() -> None:
    """The stored view gives the very nodes of the snapshot, readable or not, and changes nothing."""
    documents = {"/a": array_document(codecs=[LITTLE, JPEG]), "/b": b"no JSON, array", "/g": b"{"}
    presentation = present(documents, "stored-v3")

    assert len(presentation) == 4
    for n, node in enumerate(presentation.snapshot.nodes):
        assert presentation.node(n) is node is presentation.stored(n)
        assert presentation.path(n) == node.path
        assert presentation.is_shown(n)
        assert presentation.form(n) is None
        assert presentation.remark(n) == ""


@pytest.mark.parametrize("view", ALL, ids=str)
def test_a_root_that_is_missing_is_an_empty_one(view: View) -> None:
    """A snapshot without nodes has a root without documents in every view."""
    empty = Snapshot(id="S", written_at=0, message="", metadata={}, nodes=())
    presentation = Presentation(empty, view)

    assert len(presentation) == 1
    assert presentation.path(0) == "/"
    assert dict(presentation.node(0).documents) == {}
    assert presentation.is_shown(0)


@pytest.mark.parametrize("view", ALL, ids=str)
def test_a_shown_array_keeps_what_leads_to_its_chunks(view: View) -> None:
    """Whatever a view says, an array has its id, grid and manifests, and is made once."""
    presentation = present({"/a": array_document((4, 6), (2, 3))}, str(view))
    node, stored = presentation.node(1), presentation.stored(1)

    assert (node.id, node.grid, node.manifests) == (stored.id, stored.grid, stored.manifests)
    assert node.path == "/a"
    assert node.problem == ""
    assert presentation.node(1) is node
    style = KeyStyle.V2 if view.zarr_format == 2 else KeyStyle.DEFAULT
    assert node.key_encoding == ChunkKeyEncoding(style, "/")


# -- portable --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codecs",
    [
        [LITTLE],
        [LITTLE, codec("zstd", level=0, checksum=False)],
        [codec("transpose", order=[0]), BIG, codec("gzip", level=1), {"name": "crc32c"}],
        [LITTLE, codec("blosc", cname="lz4", clevel=5, shuffle="shuffle", typesize=2, blocksize=0)],
    ],
)
def test_core_codecs_are_left_as_they_are(codecs: list) -> None:
    """A document in the core vocabulary is shown byte for byte."""
    presentation = present({"/a": array_document(codecs=codecs)}, "portable-v3")

    assert presentation.node(1) is presentation.stored(1)
    assert presentation.form(1) is None
    assert presentation.remark(1) == ""


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (numcodec("zstd", level=7), codec("zstd", level=7, checksum=False)),
        (numcodec("zstd", level=None), codec("zstd", level=0, checksum=False)),
        (numcodec("gzip", level=-1), codec("gzip", level=5)),
        (codec("imagecodecs_zstd"), codec("zstd", level=0, checksum=False)),
        (numcodec("imagecodecs_zstd", level=3), codec("zstd", level=3, checksum=False)),
        (numcodec("crc32c", location="end"), {"name": "crc32c"}),
        (
            numcodec("blosc", cname="zlib", clevel=3, shuffle=2),
            codec("blosc", cname="zlib", clevel=3, shuffle="bitshuffle", typesize=2, blocksize=0),
        ),
        (
            numcodec("blosc", cname="lz4", clevel=5, shuffle=-1, blocksize=0, typesize=1),
            codec("blosc", cname="lz4", clevel=5, shuffle="bitshuffle", typesize=1, blocksize=0),
        ),
        ("gzip", codec("gzip", level=5)),
        ({"name": "zstd"}, codec("zstd", level=0, checksum=False)),
    ],
)
def test_codecs_are_said_by_their_core_names(stored: object, said: object) -> None:
    """A codec of the core under another name, or not fully said, gets its name; chunks stay as they are."""
    presentation = present({"/a": array_document(codecs=[LITTLE, stored])}, "portable-v3")

    assert shown(presentation, "/a")["codecs"] == [LITTLE, said]
    assert presentation.form(1) is None
    assert presentation.remark(1) == ""


def test_a_shuffle_of_single_bytes_is_not_said() -> None:
    """Shuffling single bytes does nothing, so it is left out wherever it stands."""
    codecs = [PLAIN, shuffle(1), ZSTD]
    presentation = present({"/a": array_document(data_type="int8", codecs=codecs)}, "portable-v3")

    assert shown(presentation, "/a")["codecs"] == [PLAIN, codec("zstd", level=3, checksum=False)]


def test_codecs_inside_shards_are_renamed_too() -> None:
    """Inner chunks are not touched, and their codecs said by their core names."""
    presentation = present({"/a": array_document(codecs=[SHARDING])}, "portable-v3")
    inner = shown(presentation, "/a")["codecs"][0]["configuration"]

    assert inner["codecs"] == [LITTLE, codec("zstd", level=1, checksum=False)]
    assert inner["index_codecs"] == [LITTLE, codec("crc32c")]
    assert presentation.form(1) is None


@pytest.mark.parametrize(
    ("tail", "form"),
    [
        ([shuffle(2), ZLIB], Framed(32_768, "zlib", 2, is_shuffled=True)),
        ([ZLIB], Framed(32_768, "zlib", 1, is_shuffled=False)),
        ([numcodec("shuffle"), ZLIB], Framed(32_768, "zlib", 2, is_shuffled=True)),
        ([codec("imagecodecs_deflate", raw=False)], Framed(32_768, "zlib", 1, is_shuffled=False)),
        ([shuffle(4), ZSTD], Framed(32_768, "zstd", 4, is_shuffled=True)),
        ([LZ4], Framed(32_768, "lz4", 1, is_shuffled=False, skip=4)),
        ([shuffle(2), ZLIB, FLETCHER], Framed(32_768, "zlib", 2, is_shuffled=True, cut=4)),
        ([ZSTD, FLETCHER], Framed(32_768, "zstd", 1, is_shuffled=False, cut=4)),
        ([FLETCHER], Framed(32_768, "zlib", 1, is_shuffled=False, cut=4, is_raw=True)),
        ([shuffle(2)], Framed(32_768, "zlib", 2, is_shuffled=True, is_raw=True)),
    ],
)
def test_streams_of_other_codecs_are_framed_as_blosc(tail: list, form: Framed) -> None:
    """Where Blosc has the same stream, chunks are framed, and the document says blosc in both versions."""
    document = array_document((16_384,), codecs=[BIG, *tail], attributes={"units": "K"})
    v3, v2 = (present({"/a": document}, f"portable-{version}") for version in ("v3", "v2"))
    blosc = {"cname": form.cname, "clevel": 5, "blocksize": 0}
    word = "shuffle" if form.is_shuffled else "noshuffle"

    assert v3.form(1) == v2.form(1) == form
    assert shown(v3, "/a")["codecs"] == [BIG, codec("blosc", **blosc, shuffle=word, typesize=form.typesize)]  # fmt: skip
    assert shown(v2, "/a", ".zarray")["filters"] is None
    assert shown(v2, "/a", ".zarray")["compressor"] == {"id": "blosc", **blosc, "shuffle": int(form.is_shuffled)}  # fmt: skip
    assert shown(v3, "/a")["attributes"] == {"units": "K"}


@pytest.mark.parametrize(
    ("codecs", "remark"),
    [
        ([LITTLE, FLETCHER, shuffle(2), ZLIB], "numcodecs.fletcher32"),
        ([LITTLE, JPEG], "imagecodecs_jpeg"),
        ([LITTLE, ZLIB, codec("crc32c")], "numcodecs.zlib"),
        ([numcodec("delta", dtype="<i2"), LITTLE, ZLIB], "numcodecs.delta"),
        ([LITTLE, codec("imagecodecs_deflate", raw=True)], "imagecodecs_deflate"),
        ([LITTLE, numcodec("crc32c", location="start")], "numcodecs.crc32c"),
        ([LITTLE, numcodec("crc32c")], "numcodecs.crc32c"),
        ([LITTLE, numcodec("zstd", dictionary="x")], "numcodecs.zstd"),
        ([LITTLE, shuffle(256), ZLIB], "shuffled by elements"),
        ([LITTLE, shuffle(3), ZLIB], "shuffled by elements"),
        ([LITTLE, numcodec("shuffle", elementsize="2"), ZLIB], "shuffled by elements"),
        ([LITTLE, numcodec("zlib", level=1, dictionary="x")], "configuration"),
        ([LITTLE, LZ4], "too small"),
    ],
)
def test_what_the_core_cannot_say_stays_as_stored(codecs: list, remark: str) -> None:
    """An array that cannot be said in core codecs is shown byte for byte, and a remark says why."""
    presentation = present({"/a": array_document(codecs=codecs)}, "portable-v3")

    assert presentation.node(1) is presentation.stored(1)
    assert presentation.form(1) is None
    assert remark in presentation.remark(1)


def test_a_chunk_beyond_one_block_of_blosc_stays_as_stored() -> None:
    """A chunk of the largest block is framed, and one of a byte more is not."""
    documents = {
        f"/{n}": array_document((n,), data_type="int8", codecs=[PLAIN, ZLIB])
        for n in (MAX_BLOCK, MAX_BLOCK + 1)
    }
    presentation = present(documents, "portable-v3")

    assert isinstance(presentation.form(1), Framed)
    assert presentation.form(2) is None
    assert str(MAX_BLOCK) in presentation.remark(2)


@pytest.mark.parametrize("view", ["portable-v3", "decoded-v3"])
def test_the_rest_of_a_document_is_kept(view: str) -> None:
    """Attributes, dimension names, fill value, and fields that need not be understood, are kept."""
    document = array_document(
        codecs=[LITTLE, ZLIB],
        fill_value=-1,
        dimension_names=["x"],
        attributes={"deep": [{"a": 1e300, "é": None}], "big": 10**30},
        extension={"must_understand": False, "of": "mine"},
    )
    changed = shown(present({"/a": document}, view), "/a")

    assert {**json.loads(document), "codecs": 0} == {**changed, "codecs": 0}
    assert changed["codecs"] != json.loads(document)["codecs"]


# -- decoded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_type", "fill_value", "itemsize", "plain"),
    [
        ("bool", True, 1, PLAIN),
        ("int8", -1, 1, PLAIN),
        ("uint64", 2**63, 8, LITTLE),
        ("float16", 0.5, 2, LITTLE),
        ("float32", "NaN", 4, LITTLE),
        ("complex128", [0.0, "-Infinity"], 16, LITTLE),
        (codec("fixed_length_utf32", length_bytes=8), "ab", 8, LITTLE),
        (codec("null_terminated_bytes", length_bytes=5), "YWI=", 5, PLAIN),
        (RAW3, "YWJj", 3, PLAIN),
        (TIME, -(2**63), 8, LITTLE),
        (STRUCT, base64.b64encode(bytes(12)).decode(), 12, LITTLE),
    ],
)
def test_decoded_arrays_have_plain_bytes(data_type, fill_value, itemsize, plain) -> None:
    """Every data type of fixed size is decoded to little-endian bytes, and the form says all that takes."""
    codecs = [BIG if plain is LITTLE else PLAIN, numcodec("bz2", level=1)]
    document = array_document((5, 3), (2, 3), data_type, codecs, fill_value)
    presentation = present({"/a": document}, "decoded-v3")
    form = presentation.form(1)

    assert shown(presentation, "/a")["codecs"] == [plain]
    assert isinstance(form, Decoded)
    assert form.nbytes == 6 * itemsize
    assert json.loads(form.spec) == {
        "shape": [2, 3],
        "data_type": data_type,
        "codecs": codecs,
        "fill_value": fill_value,
    }


@pytest.mark.parametrize(
    ("data_type", "codecs"),
    [
        ("int16", [LITTLE]),
        ("int8", [PLAIN]),
        ("int8", [BIG]),
        ("int8", [PLAIN, shuffle(1)]),
        (RAW3, [PLAIN]),
        ("bfloat16", [LITTLE]),
    ],
)
def test_what_is_plain_already_needs_no_form(data_type: object, codecs: list) -> None:
    """An array of plain little-endian bytes is shown as it lies there, even if its type is not known."""
    fill_value = 0 if data_type is not RAW3 else "AAAA"
    document = array_document(data_type=data_type, codecs=codecs, fill_value=fill_value)
    presentation = present({"/a": document}, "decoded-v3")

    assert presentation.form(1) is None
    assert presentation.is_shown(1)


def test_decoding_is_asked_for_in_words_that_zarr_knows() -> None:
    """Codecs are named by what they are, and data types as zarr-python spells them."""
    document = array_document(
        data_type="r24", codecs=[PLAIN, codec("imagecodecs_deflate")], fill_value=[1, 2, 3]
    )
    form = present({"/a": document}, "decoded-v3").form(1)

    assert isinstance(form, Decoded)
    spec = json.loads(form.spec)
    assert spec["data_type"] == RAW3
    assert spec["fill_value"] == base64.b64encode(b"\1\2\3").decode()
    assert spec["codecs"] == [PLAIN, numcodec("zlib", level=1)]


def test_shards_are_decoded_whole() -> None:
    """A shard is decoded to the plain bytes of all its chunks, and its document says no shards."""
    for view, name in ("decoded-v3", "zarr.json"), ("decoded-v2", ".zarray"):
        presentation = present({"/a": array_document((8,), (4,), codecs=[SHARDING])}, view)
        form = presentation.form(1)

        assert isinstance(form, Decoded)
        assert form.nbytes == 8
        assert "sharding" not in json.dumps(shown(presentation, "/a", name))


@pytest.mark.parametrize("view", ["decoded-v3", "decoded-v2"])
@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"codecs": [LITTLE, JPEG]}, "imagecodecs_jpeg cannot be decoded"),
        ({"codecs": [LITTLE, numcodec("zfpy")]}, "numcodecs.zfpy cannot be decoded"),
        ({"codecs": [codec("sharding_indexed", chunk_shape=[2], codecs=[LITTLE, JPEG], index_codecs=[LITTLE])]}, "imagecodecs_jpeg"),
        ({"codecs": [codec("sharding_indexed", codecs=3)]}, "malformed"),
        ({"data_type": "string", "codecs": [codec("vlen-utf8")], "fill_value": ""}, "variable size"),
        ({"data_type": "bfloat16", "codecs": [BIG]}, "not known"),
        ({"shape": [2**30 + 1], "chunks": [2**30 + 1], "data_type": "int8", "codecs": [PLAIN, ZLIB]}, "more than"),
        ({"codecs": [LITTLE, ZLIB], "fill_value": "x"}, "fill value"),
        ({"codecs": [ZLIB]}, "follow each other"),
        ({"codecs": [ZLIB, LITTLE]}, "follow each other"),
        ({"codecs": [LITTLE, LITTLE]}, "follow each other"),
        ({"codecs": [LITTLE, codec("transpose", order=[0])]}, "follow each other"),
        ({"codecs": [codec("vlen-utf8"), ZLIB]}, "vlen-utf8"),
        ({"codecs": [{"name": "bytes"}, ZLIB]}, "follow each other"),
        ({"codecs": [LITTLE, ZLIB], "secret": 1}, "unknown field 'secret'"),
        ({"codecs": [LITTLE, ZLIB], "storage_transformers": [{"name": "x"}]}, "storage transformers"),
        ({"codecs": [LITTLE, ZLIB], "chunk_grid": codec("rectilinear", kind="inline", chunk_shapes=[[1, 3]])}, "regular"),
        ({"codecs": [LITTLE, ZLIB], "chunk_key_encoding": codec("suffix")}, "chunk key encoding"),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_left_out(view: str, changes: dict, remark: str) -> None:
    """An array that this view cannot say is not in it, and a remark says why."""
    presentation = present({"/a": array_document(**changes)}, view)

    assert not presentation.is_shown(1)
    assert remark in presentation.remark(1)
    assert presentation.form(1) is None


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        *(({"data_type": t, "fill_value": f}, "crashes on groups with such a data type") for t, f in (
            ("bool", False), ("float16", 0), ("complex64", [0, 0]), (STRUCT, 0), (TIME, 0), (RAW3, "AAAA"),
            (codec("fixed_length_utf32", length_bytes=4), ""), (codec("null_terminated_bytes", length_bytes=1), ""))),
        ({"shape": [0, 3], "chunks": [1, 3]}, "an array of no elements"),
    ],
)  # fmt: skip
def test_what_keeps_netcdf_from_a_group_is_left_out(changes: dict, remark: str) -> None:
    """Decoded in Zarr v2, an array is left out that netCDF-C 4.9 would not open its group for, and a remark says so."""
    documents = {"/a": array_document(**changes)}

    presentation = present(documents, "decoded-v2")
    assert not presentation.is_shown(1)
    assert remark in presentation.remark(1)
    assert "decoded-v3 has it, and portable-v2" in presentation.remark(1)
    for view in ("decoded-v3", "portable-v2", "stored-v2"):
        assert present(documents, view).is_shown(1)


@pytest.mark.parametrize("codecs", [[LITTLE], [LITTLE, ZLIB]], ids=["plain", "deflated"])
def test_no_chunk_is_longer_than_its_array_where_netcdf_reads(codecs: list) -> None:
    """Decoded in Zarr v2, a chunk is cut to its array, which netCDF-C 4.9 opens no group without."""
    document = array_document((3, 9), (512, 4), codecs=codecs)
    presentation = present({"/a": document}, "decoded-v2")
    form = presentation.form(1)

    assert shown(presentation, "/a", ".zarray")["chunks"] == [3, 4]
    assert isinstance(form, Decoded)
    assert form.nbytes == 3 * 4 * 2
    spec = json.loads(form.spec)
    assert (spec["shape"], spec["kept"], spec["codecs"]) == ([512, 4], [3, 4], codecs)
    whole = present({"/a": document}, "decoded-v3")
    assert shown(whole, "/a")["chunk_grid"]["configuration"]["chunk_shape"] == [512, 4]


def test_more_can_be_decoded_where_more_is_installed() -> None:
    """Whoever presents says which codecs can be decoded."""
    document = array_document(codecs=[LITTLE, JPEG])
    presentation = present({"/a": document}, "decoded-v3", decodable={"bytes", "imagecodecs_jpeg"})

    assert presentation.is_shown(1)
    assert isinstance(presentation.form(1), Decoded)


# -- Zarr v2 ---------------------------------------------------------------------------------------


def zarray(document: bytes, view: str = "stored-v2") -> dict[str, Any]:
    return shown(present({"/a": document}, view), "/a", ".zarray")


@pytest.mark.parametrize(
    ("data_type", "codecs", "dtype"),
    [
        ("bool", [PLAIN], "|b1"),
        ("uint8", [BIG], "|u1"),
        ("int16", [LITTLE], "<i2"),
        ("float64", [BIG], ">f8"),
        ("complex64", [LITTLE], "<c8"),
        ("r24", [PLAIN], "|V3"),
        (RAW3, [PLAIN], "|V3"),
        (codec("null_terminated_bytes", length_bytes=5), [PLAIN], "|S5"),
        (codec("fixed_length_utf32", length_bytes=8), [BIG], ">U2"),
        (TIME, [LITTLE], "<M8[25s]"),
        (codec("numpy.timedelta64", unit="μs", scale_factor=1), [BIG], ">m8[us]"),
        (codec("numpy.datetime64", unit="generic", scale_factor=1), [LITTLE], "<M8"),
        (STRUCT, [BIG], [["a", ">i4"], ["b", ">f8"]]),
        (codec("structured", fields=[["a", "int32"], ["n", STRUCT]]), [LITTLE], [["a", "<i4"], ["n", [["a", "<i4"], ["b", "<f8"]]]]),
    ],
)  # fmt: skip
def test_data_types_in_zarr_v2(data_type: object, codecs: list, dtype: object) -> None:
    """A data type of Zarr v2 says the order of bytes, which in Zarr v3 a codec says."""
    assert zarray(array_document(data_type=data_type, codecs=codecs, fill_value=None))["dtype"] == dtype  # fmt: skip


@pytest.mark.parametrize(
    ("codecs", "filters", "compressor"),
    [
        ([LITTLE], None, None),
        ([LITTLE, shuffle(2), ZLIB], [{"id": "shuffle", "elementsize": 2}], {"id": "zlib", "level": 5}),
        ([LITTLE, numcodec("shuffle"), ZLIB], [{"id": "shuffle", "elementsize": 2}], {"id": "zlib", "level": 5}),
        ([LITTLE, ZLIB, FLETCHER], [{"id": "zlib", "level": 5}, {"id": "fletcher32"}], None),
        ([LITTLE, codec("gzip", level=2)], None, {"id": "gzip", "level": 2}),
        ([LITTLE, codec("zstd", level=2, checksum=False)], None, {"id": "zstd", "level": 2}),
        ([LITTLE, codec("zstd", level=2, checksum=True)], None, {"id": "zstd", "level": 2, "checksum": True}),
        ([LITTLE, codec("imagecodecs_zstd")], None, {"id": "zstd", "level": 0}),
        ([LITTLE, codec("crc32c")], [{"id": "crc32c", "location": "end"}], None),
        ([LITTLE, codec("blosc", cname="zstd", clevel=1, shuffle="bitshuffle", typesize=2, blocksize=0)], None,
         {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 2, "blocksize": 0}),
        ([LITTLE, codec("imagecodecs_lzw")], None, {"id": "imagecodecs_lzw"}),
        ([numcodec("delta", dtype="int16", astype="int32"), LITTLE], [{"id": "delta", "dtype": "<i2", "astype": "<i4"}], None),
    ],
)  # fmt: skip
def test_codecs_in_zarr_v2(codecs: list, filters: object, compressor: object) -> None:
    """The last codec is the compressor if it compresses, and all others are filters in their order."""
    document = zarray(array_document(codecs=codecs))

    assert document["filters"] == filters
    assert document["compressor"] == compressor


def test_strings_are_objects_in_zarr_v2() -> None:
    """Elements of variable size are objects, whose codec is the first filter; they are never decoded."""
    document = array_document(data_type="string", codecs=[codec("vlen-utf8"), ZSTD], fill_value="?")

    for view in ("stored-v2", "portable-v2"):
        array = zarray(document, view)
        assert array["dtype"] == "|O"
        assert array["filters"] == [{"id": "vlen-utf8"}]
        assert array["compressor"]["id"] == "zstd"
        assert array["fill_value"] == "?"


@pytest.mark.parametrize(
    ("order", "said"), [([0, 1, 2], "C"), ([2, 1, 0], "F"), ([1, 0, 2], None), ([0, 1], None)]
)
def test_orders_of_axes_in_zarr_v2(order: list[int], said: str | None) -> None:
    """Axes that are reversed are order F, and other orders have no words."""
    document = array_document((2, 3, 4), codecs=[codec("transpose", order=order), LITTLE])
    presentation = present({"/a": document}, "stored-v2")

    assert presentation.is_shown(1) == (said is not None)
    if said:
        assert zarray(document)["order"] == said


@pytest.mark.parametrize("view", ["stored-v2", "portable-v2"])
@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"codecs": [SHARDING]}, "shards"),
        ({"data_type": "bfloat16"}, "data type"),
        ({"codecs": [codec("HorizontalDeltaCodec"), LITTLE]}, "HorizontalDeltaCodec"),
        ({"codecs": [LITTLE, codec("acme", level=1)]}, "acme"),
        ({"codecs": [LITTLE, numcodec("bz2", speed=1)]}, "bz2"),
        ({"codecs": [numcodec("bitround", keepbits=2), codec("transpose", order=[0]), LITTLE]}, "transpose"),
        ({"codecs": [numcodec("bitround", keepbits=2), BIG]}, "byte order"),
        ({"codecs": [numcodec("quantize", digits=2), LITTLE]}, "quantize"),
        ({"codecs": [numcodec("bitround"), LITTLE]}, "bitround"),
        ({"codecs": [{"name": "bytes"}]}, "order of bytes"),
        ({"codecs": []}, "malformed list of codecs"),
        ({"chunk_grid": codec("rectilinear", kind="inline", chunk_shapes=[[1, 3]])}, "regular"),
        ({"dimension_names": ["x", "y"]}, "dimension names"),
    ],
)  # fmt: skip
def test_what_zarr_v2_has_no_words_for_is_left_out(view: str, changes: dict, remark: str) -> None:
    """An array that Zarr v2 cannot say is not in its views, and a remark says why."""
    presentation = present({"/a": array_document(**changes)}, view)

    assert not presentation.is_shown(1)
    assert remark in presentation.remark(1)


def test_a_portable_array_of_zarr_v2_may_be_as_stored() -> None:
    """What cannot be framed keeps its filters in Zarr v2, with the remark that Zarr v3 has."""
    presentation = present(
        {"/a": array_document(codecs=[LITTLE, FLETCHER, shuffle(2), ZLIB])}, "portable-v2"
    )

    assert "fletcher32" in presentation.remark(1)
    assert [f["id"] for f in shown(presentation, "/a", ".zarray")["filters"]] == ["fletcher32", "shuffle"]  # fmt: skip


@pytest.mark.parametrize(
    ("data_type", "stored", "said"),
    [
        ("int16", 0, None),
        ("int16", -5, -5),
        ("bool", False, None),
        ("bool", True, True),
        ("float32", 0.0, None),
        ("float32", -0.0, -0.0),
        ("float32", "NaN", "NaN"),
        ("float64", "-Infinity", "-Infinity"),
        ("float32", "0x7fc00000", "NaN"),
        ("float64", "0x3ff8000000000000", 1.5),
        ("float16", 1e9, None),
        ("complex64", [0.0, 0.0], None),
        ("complex64", ["NaN", 1], ["NaN", 1.0]),
        (TIME, "NaT", -(2**63)),
        (TIME, 7, 7),
        ("r24", [0, 0, 0], None),
        ("r24", [1, 2, 3], base64.b64encode(b"\1\2\3").decode()),
        (RAW3, "AQ==", base64.b64encode(b"\1\0\0").decode()),
        (codec("null_terminated_bytes", length_bytes=5), "YWI=", "YWI="),
        (codec("null_terminated_bytes", length_bytes=5), "", None),
        (codec("fixed_length_utf32", length_bytes=8), "ab", "ab"),
        (codec("fixed_length_utf32", length_bytes=8), "", None),
        (STRUCT, {"a": 1}, base64.b64encode(struct.pack(">id", 1, 0)).decode()),
        ("int16", 2**20, None),
        ("int16", "1", None),
        ("int16", None, None),
        ("int16", True, None),
        ("int16", 3.0, 3),
    ],
)  # fmt: skip
def test_fill_values_in_zarr_v2(data_type: object, stored: object, said: object) -> None:
    """A fill value is said in the words of Zarr v2, and null where it is zero or none of its type."""
    document = array_document(data_type=data_type, codecs=[BIG], fill_value=stored)
    found = zarray(document)["fill_value"]

    assert found == said
    assert type(found) is type(said)
    assert not isinstance(said, float) or math.copysign(1, found) == math.copysign(1, said)


@pytest.mark.parametrize(
    ("data_type", "stored", "said"), [("int16", 0, 0), ("float32", 0.0, 0.0), ("bool", False, False), ("int16", 5, 5)]
)  # fmt: skip
def test_a_zero_is_said_where_chunks_may_be_missing(
    data_type: str, stored: object, said: object
) -> None:
    """Where a chunk may be missing, zero is said too: some readers take null for whatever is in memory."""
    document = array_document(data_type=data_type, codecs=[LITTLE], fill_value=stored)
    for view in ("stored-v2", "portable-v2", "decoded-v2"):
        if view == "decoded-v2" and data_type == "bool":
            continue
        presentation = present({"/a": document}, view, complete=frozenset())
        assert shown(presentation, "/a", ".zarray")["fill_value"] == said
    declared = array_document(
        data_type=data_type, codecs=[LITTLE], fill_value=0, attributes={"_FillValue": 7}
    )
    if data_type == "int16":
        presentation = present({"/a": declared}, "stored-v2", complete=frozenset())
        assert shown(presentation, "/a", ".zarray")["fill_value"] == 0
        assert shown(presentation, "/a", ".zattrs")["_FillValue"] == 7


def test_arrays_without_dimensions_have_a_separator_that_all_readers_take() -> None:
    """In Zarr v2 an array without dimensions has a dot for its separator, whatever its own is."""
    assert zarray(array_document((), ()))["dimension_separator"] == "."


@pytest.mark.parametrize("view", ["portable-v3", "decoded-v3"])
def test_dimension_names_of_null_are_not_said(view: str) -> None:
    """A document says nothing of dimension names rather than null, also where it is as stored otherwise."""
    for codecs in ([LITTLE], [LITTLE, codec("numcodecs.bz2", level=1)]):
        fields = json.loads(array_document(codecs=codecs))
        fields["dimension_names"] = None
        presentation = present({"/a": json.dumps(fields).encode()}, view)
        found = shown(presentation, "/a")
        assert "dimension_names" not in found
        assert found["shape"] == fields["shape"]


def test_zlib_has_a_level_in_zarr_v2() -> None:
    """A zlib codec without a level, which some readers end at, gets one."""
    document = array_document(codecs=[LITTLE, codec("numcodecs.zlib")])
    assert zarray(document)["compressor"] == {"id": "zlib", "level": 1}


@pytest.mark.parametrize(
    ("data_type", "fill_value", "declared", "attribute", "said"),
    [
        # the same value: it marks, and is what missing chunks hold
        ("float32", 9.5, nan(9.5), 9.5, 9.5),
        ("float32", "NaN", nan(math.nan), ..., "NaN"),
        ("int16", -1, -1, -1, -1),
        ("int16", 0, 0, 0, 0),
        # missing chunks are zero, and the attribute can say the rest
        ("float32", 0.0, nan(-9999), -9999.0, None),
        ("float32", 0.0, nan(math.nan), ..., None),
        ("int16", 0, -9999, -9999, None),
        # it cannot
        ("float32", 0.0, nan(math.inf), ..., "Infinity"),
        # one value for both: that which marks
        ("float32", "NaN", nan(-9999), -9999.0, -9999.0),
        ("int16", 5, -1, -1, -1),
        # plainly said, or not to be understood
        ("float32", 0.0, 3.5, 3.5, None),
        ("float32", 1.0, "NaN", ..., "NaN"),
        ("float32", 1.0, "what", ..., 1.0),
        ("int16", 1, "AAAA", ..., 1),
        ("uint8", 1, -1, -1, 1),
        ("int16", 1, 1e20, 1e20, 1),
        ("complex64", [0, 0], [nan(1), nan(2)], [1.0, 2.0], None),
        ("complex64", [0, 0], [nan(1), nan(math.nan)], ..., [1.0, "NaN"]),
        (codec("fixed_length_utf32", length_bytes=8), "", "ab", "ab", None),
        (codec("null_terminated_bytes", length_bytes=2), "", "YWI=", ..., "YWI="),
    ],
)  # fmt: skip
def test_missing_values_in_zarr_v2(data_type, fill_value, declared, attribute, said) -> None:
    """`_FillValue` is a number in Zarr v2, and the fill value, unless missing chunks are zero without it."""
    document = array_document(
        data_type=data_type,
        codecs=[LITTLE],
        fill_value=fill_value,
        attributes={"_FillValue": declared, "units": "K"},
    )
    presentation = present({"/a": document}, "stored-v2")
    attributes = shown(presentation, "/a", ".zattrs")

    assert attributes.pop("units") == "K"
    assert attributes == ({} if attribute is ... else {"_FillValue": attribute})
    assert shown(presentation, "/a", ".zarray")["fill_value"] == said


@pytest.mark.parametrize(
    ("shape", "dimension_names", "said"),
    [
        ([4], ["x"], ["x"]),
        ([4], [None], None),
        ([4], None, None),
        ([], None, []),
        ([], [], []),
        ([2, 2], ["x", None], None),
    ],
)
def test_dimension_names_are_an_attribute_in_zarr_v2(shape, dimension_names, said) -> None:
    """The names of dimensions are where xarray looks for them, if all have one."""
    document = array_document(shape, dimension_names=dimension_names)
    attributes = shown(present({"/a": document}, "stored-v2"), "/a", ".zattrs")

    assert attributes == ({} if said is None else {"_ARRAY_DIMENSIONS": said})


def test_attributes_that_break_netcdf_are_left_out_in_zarr_v2() -> None:
    """An attribute that keeps netCDF-C from the whole hierarchy is left out of `.zattrs`; others stay."""
    good = {"one": 1, "text": ["a", 1], "numbers": [1, 2.5, None], "deep": {"x": []}, "é": "中"}
    bad = {"nan": [1, {"x": math.nan}], "inf": -math.inf, "empty": [], "mixed": [1, "a"], "true": [True, "a"]}  # fmt: skip
    documents = {"/": group_document(good | bad), "/a": array_document(attributes=good | bad)}
    presentation = present(documents, "stored-v2")

    assert shown(presentation, "/", ".zattrs") == good
    assert shown(presentation, "/a", ".zattrs") == good


@pytest.mark.parametrize("view", ["portable-v3", "stored-v2"])
def test_text_is_said_in_utf_8(view: str) -> None:
    """Text is written as it is, since netCDF-C does not know the escapes of JSON; what UTF-8 has not is escaped."""
    name = "zarr.json" if view == "portable-v3" else ".zattrs"
    for text, said in (("é中", '"é中"'.encode()), ("\ud800", b'"\\ud800"')):
        document = array_document(codecs=[LITTLE, ZLIB], attributes={"x": text})
        presentation = present({"/a": document}, view)

        assert said in presentation.node(1).documents[name]
        assert "x" in json.dumps(shown(presentation, "/a", name))


@pytest.mark.parametrize("view", ["stored-v2", "portable-v2", "decoded-v2"])
def test_groups_and_arrays_have_the_documents_of_zarr_v2_alone(view: str) -> None:
    """No document of Zarr v3 is beside those of Zarr v2, and attributes have one even if there are none."""
    presentation = present({"/g": group_document({"a": 1}), "/g/a": array_document()}, view)

    assert list(presentation.node(0).documents) == [".zgroup", ".zattrs", ".zmetadata"]
    assert list(presentation.node(1).documents) == [".zgroup", ".zattrs"]
    assert list(presentation.node(2).documents) == [".zarray", ".zattrs"]
    assert presentation.node(1).documents[".zgroup"] == b'{"zarr_format":2}'
    assert presentation.node(1).documents[".zattrs"] == b'{"a":1}'
    assert presentation.node(2).documents[".zattrs"] == b"{}"


@pytest.mark.parametrize("name", [".zarray", ".zgroup", ".zattrs", ".zmetadata"])
def test_a_node_named_like_a_document_is_left_out(name: str) -> None:
    """Where a name is a document's, no node can have it; what is below such a group goes with it."""
    documents = {f"/{name}": group_document(), f"/{name}/a": array_document(), "/b": array_document()}  # fmt: skip
    v2, v3 = present(documents, "decoded-v2"), present(documents, "decoded-v3")

    assert [v2.is_shown(n) for n in range(4)] == [True, False, False, True]
    assert "named like a document" in v2.remark(1)
    assert all(v3.is_shown(n) for n in range(4))
    assert f"{name}/a/.zarray" not in shown(v2, "/", ".zmetadata")["metadata"]
