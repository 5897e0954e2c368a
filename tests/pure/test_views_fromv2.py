"""Documents of Zarr v2 in the words of Zarr v3: zarr-python and xarray read the same from both."""

import json
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.dtype import VariableLengthBytes
from zarr.storage import MemoryStore

from tests.pure import viewing
from vzfs.formats.zarr import parse_array_document
from vzfs.views.fromv2 import array_from_v2, group_from_v2
from vzfs.views.metadata import Unsaid, read_v3_array, read_v3_group

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::xarray.SerializationWarning"
)

ZLIB = {"id": "zlib", "level": 1}


def zarray(**more: Any) -> dict[str, Any]:
    fields = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [2],
        "dtype": "<i2",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
    }
    return {**fields, **more}


def said(attributes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Convert a document, and parse what comes of it as strictly as any reader may."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    zattrs = None if attributes is None else json.dumps(attributes).encode()
    document = array_from_v2(json.dumps(zarray(**more)).encode(), zattrs)
    assert not parse_array_document(document).problem
    assert read_v3_array(document).is_strict
    return json.loads(document, parse_constant=refuse)


def converted(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of an array at `a` as Zarr v3 has them."""
    fields = json.loads(files["a/.zarray"])
    separator, ndim = fields.get("dimension_separator", "."), len(fields["shape"])
    found = {"zarr.json": group_from_v2(files.get(".zattrs"))}
    found["a/zarr.json"] = array_from_v2(files["a/.zarray"], files.get("a/.zattrs"))
    for name, content in files.items():
        key = name.removeprefix("a/")
        if name.startswith("a/") and not key.startswith(".z"):
            found["/".join(["a/c", *(key.split(separator) if ndim else [])])] = content
    return found


def written(values: np.ndarray, **options: Any) -> dict[str, bytes]:
    """Return the files of an array at `a` that zarr-python writes as Zarr v2; the last chunk is missing."""
    store = MemoryStore()
    zarr.create_group(store, zarr_format=2)
    options.setdefault("chunks", tuple(max(n - 1, 1) for n in values.shape))
    options.setdefault("compressors", None)
    dtype = options.pop("dtype", values.dtype)
    array = zarr.create_array(
        store, name="a", shape=values.shape, dtype=dtype, zarr_format=2, **options
    )
    array[...] = values
    files = {name: bytes(content.to_bytes()) for name, content in store._store_dict.items()}
    if values.ndim:
        del files[max(name for name in files if not name.startswith(("a/.z", ".z")))]
    return files


def is_same(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind in "OT":
        return one.tolist() == other.tolist()
    return one.dtype.newbyteorder("<") == other.dtype.newbyteorder("<") and viewing.same(one, other)


def check(files: dict[str, bytes]) -> None:
    """Fail unless zarr-python reads the same from both."""
    assert is_same(viewing.read_zarr(converted(files)), viewing.read_zarr(files))


# -- values ----------------------------------------------------------------------------------------

NUMBERS = ["|b1", "|i1", "|u1"] + [f"{o}{t}" for t in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16") for o in "<>"]  # fmt: skip
OTHERS = ["|S5", "<U3", ">U3", "|V4", "<M8[ns]", ">M8[10s]", "<m8[s]"]
STRUCTURES = [
    [("a", "<i4"), ("b", "<f8")],
    [("a", ">i4"), ("b", ">f8"), ("c", "|S3")],
    [("x", [("u", "|u1"), ("v", "<f4")]), ("t", "<M8[s]")],
]


def some(dtype: Any, shape: tuple[int, ...] = (5, 4)) -> np.ndarray:
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if dtype.kind in "SU":
        return np.array(["", "abc", "ü" if dtype.kind == "U" else "u"] * count, dtype)[:count].reshape(shape)  # fmt: skip
    if dtype.kind == "V":
        content = (bytes(range(100)) * dtype.itemsize)[: count * dtype.itemsize]
        return np.frombuffer(content, dtype).reshape(shape)
    return (np.arange(count) % 7).astype(dtype).reshape(shape)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [*NUMBERS, *OTHERS, *STRUCTURES], ids=str)
def test_arrays_of_every_type_are_read_the_same(dtype: Any, order: str) -> None:
    """An array of any fixed type, in either order of bytes and of elements, is the same in Zarr v3."""
    check(written(some(dtype), order=order, filters=[numcodecs.Zlib(1)]))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("object_codec", ["vlen-utf8", "vlen-bytes"])
def test_text_of_any_length_is_read_the_same(object_codec: str, order: str) -> None:
    """Text and bytes of any length are so in Zarr v3, compressed or not."""
    values = np.array([["", "abc"], ["ü", "d"], ["e", "f"]], object)
    dtype: Any = str
    if object_codec == "vlen-bytes":
        values = np.array([[t.encode() for t in row] for row in values], object)
        dtype = VariableLengthBytes()
    for compressor in (None, numcodecs.Zstd()):
        check(written(values, dtype=dtype, order=order, compressors=compressor))


FILTERS: dict[str, tuple[str, list[Any]]] = {
    "delta": ("<i4", [numcodecs.Delta("<i4", "<i2")]),
    "delta of big-endian numbers": (">i4", [numcodecs.Delta(">i4")]),
    "delta to big-endian numbers": ("<i4", [numcodecs.Delta("<i4", ">i2")]),
    "scaled": ("<f8", [numcodecs.FixedScaleOffset(1, 10, "<f8", "<i2")]),
    "scaled twice": ("<f8", [numcodecs.FixedScaleOffset(1, 2, "<f8", "<f4"), numcodecs.Delta("<f4")]),
    "quantized": ("<f4", [numcodecs.Quantize(2, "<f4")]),
    "rounded": ("<f4", [numcodecs.BitRound(10)]),
    "packed": ("|b1", [numcodecs.PackBits()]),
    "cast": ("<i8", [numcodecs.AsType("<i2", "<i8"), numcodecs.Shuffle(2)]),
    "delta and shuffle": ("<i4", [numcodecs.Delta("<i4"), numcodecs.Shuffle(4), numcodecs.Zlib(1)]),
    "shuffle": ("<i8", [numcodecs.Shuffle(8)]),
    "shuffle of a quarter": ("<i8", [numcodecs.Shuffle()]),
    "checksums": ("<f8", [numcodecs.Fletcher32(), numcodecs.CRC32(), numcodecs.Adler32(), numcodecs.JenkinsLookup3()]),
    "checksum at the end": ("<f8", [numcodecs.CRC32(location="end")]),
}  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_read_the_same(name: str, order: str) -> None:
    """Filters of numbers come before those of bytes, in their order, in the order of elements that they saw."""
    dtype, filters = FILTERS[name]
    check(written(some(dtype), filters=filters, order=order, compressors=numcodecs.Zlib(1)))


COMPRESSORS = [
    numcodecs.Blosc("zstd", 3, 2), numcodecs.Blosc("lz4", 1, -1), numcodecs.BZ2(), numcodecs.GZip(),
    numcodecs.LZ4(), numcodecs.LZMA(), numcodecs.LZMA(3, filters=[{"id": 3, "dist": 4}, {"id": 33, "preset": 1}]),
    numcodecs.Zlib(), numcodecs.Zstd(3), numcodecs.Zstd(3, checksum=True),
]  # fmt: skip


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: json.dumps(c.get_config()))
def test_compressors_are_read_the_same(compressor: Any) -> None:
    """What is compressed by any of numcodecs' compressors is decompressed in Zarr v3."""
    check(written(some(">f8"), compressors=compressor))


def test_no_dimension_and_chunks_that_are_too_large() -> None:
    """An array without dimensions has one chunk, and chunks may be larger than their array."""
    check(written(np.array(7, "<i4")))
    check(written(some("<i2", (3, 2)), chunks=(5, 2)))
    assert said(shape=[0, 3], chunks=[0, 3])["chunk_grid"]["configuration"]["chunk_shape"] == [1, 3]


@pytest.mark.parametrize("separator", [".", "/"])
def test_keys_are_the_default_ones(separator: str) -> None:
    """Whatever the source separates keys by, the document says the default keys of Zarr v3."""
    encoding = said(dimension_separator=separator)["chunk_key_encoding"]

    assert encoding == {"name": "default", "configuration": {"separator": "/"}}


def test_common_codecs_have_their_common_names() -> None:
    """Codecs that every reader of Zarr v3 has are said by its names, not by those of numcodecs."""
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    names = [
        [codec["name"] for codec in said(compressor=compressor, filters=filters)["codecs"]]
        for compressor, filters in [
            (blosc, []),
            ({"id": "gzip", "level": 1}, None),
            ({"id": "zstd", "level": 1}, [{"id": "shuffle", "elementsize": 1}]),
            (None, [{"id": "crc32c", "location": "end"}]),
            ({"id": "imagecodecs_deflate"}, None),
            (ZLIB, None),
        ]
    ]

    assert names == [["bytes", n] for n in ("blosc", "gzip", "zstd", "crc32c", "numcodecs.zlib", "numcodecs.zlib")]  # fmt: skip


def test_unknown_filters_keep_their_ids() -> None:
    """A filter that nobody here knows keeps its id and configuration, where its readers find it."""
    codecs = said(filters=[{"id": "mine", "level": 3}], compressor={"id": "imagecodecs_jpeg"})["codecs"]  # fmt: skip

    assert codecs[1:] == [
        {"name": "numcodecs.mine", "configuration": {"level": 3}},
        {"name": "imagecodecs_jpeg", "configuration": {}},
    ]
    grib = {"id": "grib", "var": "u", "dtype": "float64"}
    assert said(dtype="<f8", filters=[grib])["codecs"] == [
        {"name": "numcodecs.grib", "configuration": {"var": "u", "dtype": "float64"}}
    ]


# -- missing chunks and missing values -------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "fill_values"),
    [
        ("|b1", [None, False, True, 1]),
        ("<i2", [None, 0, -5, 5.0, "7", True]),
        ("|u1", [None, 255]),
        (">u8", [None, 2**64 - 1]),
        ("<f4", [None, 0, 1.5, "NaN", "Infinity", "-Infinity", 1e20, 1e300, "1.5", float("nan")]),
        (">c8", [None, [1, 2.5], ["NaN", "-Infinity"]]),
        ("|S5", [None, "", "YWJj", "YWJjYWJj"]),
        ("<U3", [None, "", "ü", "abcdef"]),
        ("|V4", [None, "AQIDBA=="]),
        ("<M8[ns]", [None, 0, 5, -(2**63)]),
        (">m8[s]", [None, 7]),
        ([["a", "<i2"], ["b", "<f4"]], [None, "AQAAAIA/"]),
        ([["a", ">i2"], ["b", ">f4"]], [None, "AAE/gAAA"]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_missing_chunks_are_read_the_same(dtype: Any, fill_values: list[Any]) -> None:
    """The fill value is the one that zarr-python reads, also where it is not said."""
    for fill_value in fill_values:
        documents = {"a/.zarray": json.dumps(zarray(dtype=dtype, fill_value=fill_value)).encode()}
        check({".zgroup": b'{"zarr_format":2}', **documents})


def read_xarray(files: dict[str, bytes]) -> xarray.DataArray:
    store = viewing.memory_store(files)
    return xarray.open_zarr(store, consolidated=False, chunks=None)["a"].load()


@pytest.mark.parametrize(
    ("values", "fill_values", "declared"),
    [
        (np.array([0, 1, 5, 7], "<i2"), [None, 0, 5], [{}, {"_FillValue": 5.0}, {"_FillValue": [5]}, {"_FillValue": [0, 7]}, {"_FillValue": "x"}, {"scale_factor": 0.5}]),
        (np.array([0, 1, 255, 7], "|u1"), [None, 255], [{}, {"_Unsigned": "false"}, {"_FillValue": -1, "_Unsigned": "false"}]),
        (np.array([0, 1, -1, 7], "|i1"), [None, -1], [{}, {"_FillValue": -1, "_Unsigned": "true"}]),
        (np.array([0, np.nan, 5, 1e20], "<f4"), [None, 0, "NaN", 1e20, "Infinity"], [{}, {"_FillValue": 5}, {"missing_value": 5.0}, {"missing_value": float("nan")}]),
        (np.array([0, 1, 5, 7], ">f8"), [None, 5], [{}, {"_FillValue": float("nan")}]),
        (np.array([0, 1, 5, 7], "<c8"), [None, [5, 0]], [{}]),
        (np.array([0, 1, 1, 0], "|b1"), [None, False, True], [{}, {"_FillValue": 1}, {"_FillValue": 5}]),
        (np.array(["", "ab", "c", ""], "<U3"), [None, "", "ab"], [{}, {"_FillValue": "c"}]),
        (np.array([b"", b"ab", b"c", b""], "|S3"), [None], [{}]),
        (np.array([0, 1, 5, 7], "<M8[ns]"), [None, 5], [{}]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)  # fmt: skip
def test_missing_values_are_the_same_for_xarray(values, fill_values, declared) -> None:
    """Both are decoded the same by xarray, though in Zarr v3 the fill value marks nothing and `_FillValue` is in other words."""
    for fill_value in fill_values:
        for attributes in declared:
            fields = zarray(dtype=values.dtype.str, fill_value=fill_value)
            files = {
                ".zgroup": b'{"zarr_format":2}',
                "a/.zarray": json.dumps(fields).encode(),
                "a/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["x"], **attributes}).encode(),
                "a/0": values[:2].tobytes(),
                "a/1": values[2:].tobytes(),
            }
            expected, found = read_xarray(files), read_xarray(converted(files))
            assert is_same(found.values, expected.values), (fill_value, attributes)


def test_words_of_xarray_stay_as_they_are() -> None:
    """A `_FillValue` may be in the words that xarray has for Zarr v3, as references made of such arrays have it."""
    found = said({"_FillValue": "AAAAAAAAFEA="}, dtype="<f4", fill_value=None)["attributes"]

    assert found == {"_FillValue": "AAAAAAAAFEA="}


def test_text_of_any_length_is_missing_for_xarray() -> None:
    """Text that equals the fill value is missing for xarray from both."""
    for fill_value in (None, "", "ab"):
        files = written(np.array(["", "ab", "c", "d"], object), dtype=str)
        fields = json.loads(files["a/.zarray"]) | {"fill_value": fill_value}
        files["a/.zarray"] = json.dumps(fields).encode()
        files["a/.zattrs"] = b'{"_ARRAY_DIMENSIONS":["x"]}'

        expected, found = read_xarray(files), read_xarray(converted(files))

        assert str(found.values.tolist()) == str(expected.values.tolist())


# -- names and attributes --------------------------------------------------------------------------


def test_dimensions_have_names() -> None:
    """The names of dimensions come from the attribute of xarray, which goes, or from those of netCDF-C."""
    found = said({"_ARRAY_DIMENSIONS": ["time"], "units": "K"})
    assert found["dimension_names"] == ["time"]
    assert found["attributes"] == {"units": "K", "_FillValue": 0}

    assert said(_NCZARR_ARRAY={"dimrefs": ["/group/time"]})["dimension_names"] == ["time"]
    nczarr = {"dimension_references": ["/lat"]}
    assert said({"_nczarr_array": nczarr})["dimension_names"] == ["lat"]
    assert said(shape=[], chunks=[], attributes={"_ARRAY_DIMENSIONS": []})["dimension_names"] == []


@pytest.mark.parametrize("names", [["x", "y"], "x", [1], None, {}])
def test_names_that_do_not_fit_stay_an_attribute(names: Any) -> None:
    """What is not one text for each dimension names none, and stays as it is."""
    found = said({"_ARRAY_DIMENSIONS": names})

    assert "dimension_names" not in found
    assert found["attributes"]["_ARRAY_DIMENSIONS"] == names


def test_attributes_are_strict_json() -> None:
    """Numbers that JSON has not are the words of Zarr v3 for them, wherever they stand."""
    nan, inf = float("nan"), float("inf")
    attributes = {"valid": [-inf, {"a": inf}], "bad": nan, "text": "\ud800", "deep": [[[]]]}

    found = said({**attributes, "missing_value": nan}, fill_value=None)["attributes"]

    assert found == {**attributes, "valid": ["-Infinity", {"a": "Infinity"}], "bad": "NaN"}


def test_groups() -> None:
    """A group has its attributes, or none."""
    assert json.loads(group_from_v2(None))["attributes"] == {}
    document = group_from_v2(b'{"title": "x", "n": NaN}')
    assert read_v3_group(document).attributes == {"title": "x", "n": "NaN"}
    assert read_v3_group(document).is_strict


# -- hostile documents -----------------------------------------------------------------------------

REFUSED = {
    "is not JSON": b"{",
    "is not a JSON object": b"[]",
    "does not describe": zarray(zarr_format=3),
    "malformed shape": zarray(shape=[-1]),
    "malformed chunk shape": zarray(chunks=[True]),
    "differ in dimensions": zarray(chunks=[1, 1]),
    "neither C nor F": zarray(order="K"),
    "malformed list of filters": zarray(filters={"id": "zlib"}),
    "without an id": zarray(filters=[{"level": 1}]),
    'data type "<f16"': zarray(dtype="<f16"),
    'data type "|i2"': zarray(dtype="|i2"),
    'data type "int16"': zarray(dtype="int16"),
    'data type "|S0"': zarray(dtype="|S0"),
    'data type "|V9999999"': zarray(dtype="|V9999999"),
    'data type "<M8[7parsecs]"': zarray(dtype="<M8[7parsecs]"),
    "data type null": zarray(dtype=None),
    'data type [["a", "<i2"], ["b"': zarray(dtype=[["a", "<i2"], ["b", ">i2"]]),
    'data type [["a", "<i2", [2]]]': zarray(dtype=[["a", "<i2", [2]]]),
    'data type [["a", "<i2"], ["a", "<i2"]]': zarray(dtype=[["a", "<i2"], ["a", "<i2"]]),
    'data type [["0"': zarray(dtype=[[str(n), "|u1"] for n in range(2000)]),
    "for its objects": zarray(dtype="|O"),
    "what the filter json2 makes": zarray(dtype="|O", filters=[{"id": "json2"}]),
    "what the filter pickle makes": zarray(dtype="|O", filters=[{"id": "pickle"}]),
    "what the filter vlen-array makes": zarray(
        dtype="|O", filters=[{"id": "vlen-array", "dtype": "<i4"}]
    ),
    "filter vlen-utf8 behind": zarray(filters=[ZLIB, {"id": "vlen-utf8"}]),
    "takes bytes for numbers": zarray(filters=[{"id": "delta", "dtype": ">i2"}]),
    "does not say dtype": zarray(filters=[{"id": "delta"}]),
    "that is none of numbers": zarray(filters=[{"id": "delta", "dtype": "O"}]),
    "packs the bits": zarray(filters=[{"id": "packbits"}]),
    "bits are rounded": zarray(filters=[{"id": "bitround", "keepbits": 3}]),
    "quantized numbers": zarray(
        dtype="<f8", filters=[{"id": "quantize", "digits": 1, "dtype": "<f8", "astype": "<f4"}]
    ),
    "order of bytes for what zfpy makes": zarray(dtype=">f4", compressor={"id": "zfpy"}),
    "behind one that makes bytes": zarray(filters=[{"id": "zfpy"}, {"id": "grib"}]),
    "fill value 99999": zarray(fill_value=99999),
    "fill value 1.5": zarray(fill_value=1.5),
    'fill value "NaN"': zarray(fill_value="NaN"),
    'fill value "9': zarray(fill_value="9" * 500),
    'fill value "abc"': zarray(dtype="|S3", fill_value="abc"),
    'fill value "AAAA': zarray(dtype=[["a", "<i2"]], fill_value="AAAAAAAA"),
    "fill value {}": zarray(dtype="<f8", fill_value={}),
    "not base64": zarray(dtype="|O", filters=[{"id": "vlen-bytes"}], fill_value="x"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_said_is_refused_with_the_reason(reason: str) -> None:
    """A document that is malformed, or that Zarr v3 has no words for, is refused, and the reason says what it is."""
    document = REFUSED[reason]
    encoded = document if isinstance(document, bytes) else json.dumps(document).encode()

    with pytest.raises(Unsaid) as refused:
        array_from_v2(encoded, None)

    assert reason in str(refused.value)


def test_shuffle_before_delta_is_refused() -> None:
    """Numbers are not made of what a filter of bytes has made."""
    filters = [{"id": "shuffle", "elementsize": 2}, {"id": "delta", "dtype": "<i2"}]
    codecs = said(filters=[filters[1], filters[0]])["codecs"]
    assert [codec["name"] for codec in codecs] == ["numcodecs.delta", "bytes", "numcodecs.shuffle"]

    with pytest.raises(Unsaid, match="no filter shuffle before one that makes numbers"):
        said(filters=filters)


def test_a_compressor_whose_name_is_no_text_stays_as_it_is() -> None:
    """Blosc with a compressor that is a list is no known codec, in either version of Zarr, and breaks no view."""
    blosc = {"cname": ["lz4"], "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}
    codecs = said(compressor={"id": "blosc", "cname": ["lz4"]})["codecs"]
    assert codecs[1]["name"] == "numcodecs.blosc"

    for name, configuration in (("blosc", blosc), ("numcodecs.blosc", {**blosc, "shuffle": 1})):
        codecs = [viewing.LITTLE, viewing.codec(name, **configuration)]
        documents = {"/a": viewing.array_document(codecs=codecs)}
        for view in ("portable-v3", "portable-v2", "stored-v2", "decoded-v3"):
            presentation = viewing.present(documents, view)
            assert presentation.is_shown(1) is (view in {"portable-v3", "decoded-v3"})


@pytest.mark.parametrize("document", [b"[]", b"{", b"\xff", b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"])  # fmt: skip
def test_attributes_that_are_none_are_refused(document: bytes) -> None:
    """Attributes that are no JSON object, or nested too deeply, are refused, of groups as of arrays."""
    with pytest.raises(Unsaid, match=r"\.zattrs"):
        array_from_v2(json.dumps(zarray()).encode(), document)
    with pytest.raises(Unsaid, match=r"\.zattrs"):
        group_from_v2(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(sorted(zarray())), JSON, max_size=3),
    st.sampled_from(["<i2", ">f4", "|S3", "<U2", "|b1", "<M8[s]", "<c8", [["a", "<i2"]], "|O"]),
    st.lists(st.sampled_from(["delta", "shuffle", "zlib", "vlen-utf8", "astype", "grib", "x"]), max_size=3),
    JSON,
    st.dictionaries(st.sampled_from(["_FillValue", "missing_value", "_Unsigned", "_ARRAY_DIMENSIONS"]), JSON),
)  # fmt: skip
def test_whatever_a_document_says_is_said_strictly_or_refused(changed, dtype, ids, words, attributes) -> None:  # fmt: skip
    """Any document makes one of Zarr v3 that is understood and strict JSON, or is refused; nothing else is raised."""
    filters = [{"id": id_, "dtype": dtype if isinstance(dtype, str) else words} for id_ in ids]
    fields = {**zarray(dtype=dtype, filters=filters, fill_value=words), **changed}
    try:
        document = array_from_v2(json.dumps(fields).encode(), json.dumps(attributes).encode())
    except Unsaid:
        return
    assert read_v3_array(document).is_strict
