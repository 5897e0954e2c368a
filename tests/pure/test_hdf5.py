"""HDF5 and netCDF4 made with h5py: what each of their features becomes, and what it costs."""

import ctypes
import io
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numcodecs
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from tests import archives
from vzfs.archival.building import Unpresentable
from vzfs.archival.hdf5 import chunks, walk
from vzfs.archival.hdf5.filters import Filter, codecs, encoded
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References


def made(write: Callable[[h5py.File], object], **options: object) -> bytes:
    """Return the file that *write* writes."""
    data = io.BytesIO()
    with h5py.File(data, "w", **options) as file:
        write(file)
    return data.getvalue()


def kinds(references: References, path: str) -> list[ChunkKind]:
    manifest = references.manifests[path.encode()]
    return [manifest.ref(row).kind for row in range(len(manifest))]


def check(data: bytes, *names: str) -> References:
    """Check that each dataset called so is there, and equal to what h5py reads."""
    references = archives.parsed(data)
    group = archives.opened(references, data)
    with h5py.File(io.BytesIO(data), "r") as file:
        for name in names:
            expected = file[name][()]
            found = group[name][...]
            assert archives.digest(found) == archives.digest(expected), name
            assert np.shape(found) == np.shape(expected), name
    return references


# -- links -------------------------------------------------------------------------------------


def test_links_lead_where_they_lead_within_the_file() -> None:
    """Hard and soft links show their object; what is broken, outside, or leads in circles is named."""

    def write(file: h5py.File) -> None:
        values = file.create_dataset("a/x", data=np.arange(3))
        file["hard"] = values
        file["soft"] = h5py.SoftLink("/a/x")
        file["a/up"] = h5py.SoftLink("./b/../x")
        file["a/relative"] = h5py.SoftLink("x")
        file["group"] = h5py.SoftLink("a")
        file["a/cycle"] = file["/"]
        file["broken"] = h5py.SoftLink("/nowhere")
        file["through"] = h5py.SoftLink("/a/x/y")
        file["one"] = h5py.SoftLink("two")
        file["two"] = h5py.SoftLink("one")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
        file["by way of"] = h5py.SoftLink("/outside/x")

    data = made(write)
    references = check(data, "a/x", "hard", "soft", "a/relative", "group/x")
    left_out = archives.omitted(references)
    assert left_out.keys() == {
        "/a/cycle", "/a/up", "/broken", "/through", "/one", "/two", "/outside", "/by way of",
        "/group/cycle", "/group/up",
    }  # fmt: skip
    assert "not there" in left_out["/broken"]
    assert "circle" in left_out["/one"]
    assert (
        left_out["/outside"] == left_out["/by way of"] == "it is a link into another file, other.h5"
    )


def test_many_paths_to_one_object_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file in which each group is in the one before twice has 2^n paths: some are shown, and it is said."""

    def write(file: h5py.File) -> None:
        here = file.create_group("g")
        for _ in range(40):
            inner = here.create_group("a")
            here["b"] = inner
            here = inner

    monkeypatch.setattr(walk, "MAX_OBJECTS", 500)
    references = archives.parsed(made(write))
    assert len(references.nodes) <= 501
    assert any(
        "more than 500 objects" in reason for reason in archives.omitted(references).values()
    )


def test_names_that_no_directory_can_have_are_left_out() -> None:
    """A dataset called like a document, or like the folder above, is named with its reason."""

    def write(file: h5py.File) -> None:
        for name in ("zarr.json", "..", 300 * "n", ".zarray", "fine"):
            space = h5s.create_simple((2,))
            h5d.create(file.id, name.encode(), h5t.NATIVE_INT32, space)

    references = archives.parsed(made(write))
    assert archives.arrays(references) == ["fine"]
    assert archives.omitted(references).keys() == {"/zarr.json", "/..", "/" + 300 * "n", "/.zarray"}


def test_a_name_that_is_no_utf8_is_kept() -> None:
    """Names may be any bytes."""

    def write(file: h5py.File) -> None:
        h5d.create(file.id, b"a\xff", h5t.NATIVE_INT32, h5s.create_simple((2,)))

    assert archives.arrays(archives.parsed(made(write))) == ["a\udcff"]


# -- elements ----------------------------------------------------------------------------------


def test_elements_of_all_sorts_are_exact() -> None:
    """Numbers in both orders, complex numbers, text, bytes, dates and structures are what h5py reads."""
    arrays = {
        "big": np.arange(5, dtype=">i4"), "half": np.arange(5, dtype=">f2"),
        "complex": np.arange(4, dtype="c8") * 1j, "big complex": np.arange(4, dtype=">c16"),
        "bytes": np.array([b"ab", b"", b"abcde"]), "scalar": np.float32(1.5),
        "opaque": np.array([b"\1\2\3", b"\0\0\7"], "V3"),
        "packed": np.array([(1, 2.5, b"xy")], [("a", "<i2"), ("b", "<f8"), ("c", "S2")]),
        "big packed": np.array([(1, 2.5)], [("a", ">i2"), ("b", ">f8")]),
        "padded": np.zeros(3, np.dtype([("a", "i1"), ("b", "<f8"), ("c", "i2")], align=True)),
        "mixed": np.array([(1, 2.5)], [("a", "<i4"), ("b", ">f8")]),
        "empty": np.zeros((0, 3), "i2"),
    }  # fmt: skip

    def write(file: h5py.File) -> None:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)

    references = check(made(write), *arrays)
    assert archives.omitted(references) == {}
    assert kinds(references, "/padded") == [ChunkKind.VIRTUAL]
    assert kinds(references, "/mixed") == [ChunkKind.INLINE]
    fields = archives.document(references, "/padded")["data_type"]["configuration"]["fields"]
    assert [field["name"] for field in fields] == ["a", "padding_1", "b", "c", "padding_18"]


def test_numbers_of_few_bits_are_converted() -> None:
    """Integers of 12 bits in two bytes are values as the library reads them, since their bytes are not."""

    def write(file: h5py.File) -> None:
        kind = h5t.STD_U16LE.copy()
        kind.set_precision(12)
        kind.set_offset(4)
        made = h5d.create(file.id, b"x", kind, h5s.create_simple((3,)))
        made.write(h5s.ALL, h5s.ALL, np.array([1, 2, 4095], "u2"))

    references = check(made(write), "x")
    assert kinds(references, "/x") == [ChunkKind.INLINE]


def test_arrays_as_elements_are_dimensions() -> None:
    """Elements that are arrays add dimensions at the end."""

    def write(file: h5py.File) -> None:
        plain = file.create_dataset("x", (5,), ("i4", (2, 3)))
        plain[...] = np.arange(30, dtype="i4").reshape(5, 2, 3)
        chunked = file.create_dataset("y", (6,), ("<f4", (4,)), chunks=(2,), compression="gzip")
        chunked[...] = np.arange(24, dtype="f4").reshape(6, 4)

    check(made(write), "x", "y")


def test_enumerations_say_what_their_values_mean() -> None:
    """An enumeration is its numbers, with the flags of CF, unless the file says them itself."""

    def write(file: h5py.File) -> None:
        kind = h5py.enum_dtype({"clear sky": 0, "cloud": 3}, basetype="u1")
        file.create_dataset("x", data=np.array([0, 3], "u1"), dtype=kind)
        file["x"].attrs["flag_meanings"] = "mine yours"

    references = check(made(write), "x")
    assert archives.attributes(references, "/x") == {
        "flag_values": [0, 3],
        "flag_meanings": "mine yours",
    }


def test_text_of_any_length_is_inlined_if_it_is_not_much() -> None:
    """Texts lie here and there in a file: few are given as they are, more are left out with the reason."""

    def write(file: h5py.File) -> None:
        text = h5py.string_dtype()
        file.create_dataset(
            "few", data=np.array([["ä", ""], ["x" * 1000, "b"]], object), dtype=text
        )
        file.create_dataset("unwritten", (3,), text)
        file.create_dataset("bytes", data=[b"\xff", b"a"], dtype=h5py.string_dtype("ascii"))
        file.create_dataset("many", data=["x" * 2**12] * 300, dtype=text)
        file.create_dataset("very many", (10**12,), text, chunks=(10,))[5] = "x"

    data = made(write)
    references = archives.parsed(data)
    group = archives.opened(references, data)
    assert group["few"][...].tolist() == [["ä", ""], ["x" * 1000, "b"]]
    assert group["unwritten"][...].tolist() == ["", "", ""]
    assert group["bytes"][...].tolist() == [b"\xff", b"a"]
    left_out = archives.omitted(references)
    assert left_out.keys() == {"/many", "/very many"}
    assert all("text of any length" in reason for reason in left_out.values())


def test_what_zarr_has_no_type_for_is_named() -> None:
    """References, lists, structures with arrays in them, and datasets without a space cost themselves alone."""

    def write(file: h5py.File) -> None:
        file.create_dataset("good", data=np.arange(3))
        file.create_dataset("reference", data=file["good"].ref, dtype=h5py.ref_dtype)
        file.create_dataset("list", (2,), h5py.vlen_dtype("i4"))
        file.create_dataset("nested", (2,), [("a", "i4", (3,))])
        file.create_dataset("text inside", (2,), [("a", h5py.string_dtype())])
        file.create_dataset("null", dtype="f4", shape=None)
        file.create_dataset("long double", (2,), np.longdouble)

    references = check(made(write), "good")
    assert archives.arrays(references) == ["good"]
    left_out = archives.omitted(references)
    assert left_out.keys() == {
        "/reference", "/list", "/nested", "/text inside", "/null", "/long double",
    }  # fmt: skip
    assert "null dataspace" in left_out["/null"]
    assert "the field a" in left_out["/nested"]


# -- layouts -----------------------------------------------------------------------------------


def layout(file: h5py.File, name: bytes, values: np.ndarray, kind: int) -> None:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_layout(kind)
    space = h5s.create_simple(values.shape)
    made = h5d.create(file.id, name, h5t.py_create(values.dtype), space, plist)
    made.write(h5s.ALL, h5s.ALL, values)


def test_compact_values_are_inlined() -> None:
    """Values in the header of their dataset, which no offset names, are given."""
    data = made(lambda file: layout(file, b"x", np.arange(50, dtype=">i4"), h5d.COMPACT))
    assert kinds(check(data, "x"), "/x") == [ChunkKind.INLINE]


def test_values_outside_the_file_are_named(tmp_path: Path) -> None:
    """Nothing is read of files that a file names: virtual datasets and external storage are left out."""
    (tmp_path / "secret").write_bytes(b"secrets of somebody")

    def write(file: h5py.File) -> None:
        file.create_dataset("external", (4,), "i4", external=[(str(tmp_path / "secret"), 0, 16)])
        source = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(4,))
        virtual = h5py.VirtualLayout(shape=(4,), dtype="i4")
        virtual[:] = source
        file.create_virtual_dataset("virtual", virtual)

    references = archives.parsed(made(write))
    assert archives.arrays(references) == []
    left_out = archives.omitted(references)
    assert "another file" in left_out["/external"]
    assert "virtual dataset" in left_out["/virtual"]


def test_what_was_never_written_is_the_fill_value() -> None:
    """Chunks that are not there read as the fill value of HDF5, whatever its type."""

    def write(file: h5py.File) -> None:
        file.create_dataset("x", (4, 4), ">i2", chunks=(2, 2), fillvalue=-5)[:2, :2] = 7
        file.create_dataset("y", (10,), "f4", fillvalue=np.nan)
        file.create_dataset("z", (3,), "S4", fillvalue=b"none")
        file.create_dataset("c", (3,), "c8", fillvalue=1 - 2j)
        kind = np.dtype([("a", "<i4"), ("b", "<f4")])
        file.create_dataset("s", (3,), kind, fillvalue=np.array((3, 0.5), kind)[()])
        padded = np.dtype([("a", "i1"), ("b", "<f8")], align=True)
        file.create_dataset("p", (3,), padded, fillvalue=np.array((3, 0.5), padded)[()])

    references = check(made(write), "x", "y", "z", "c", "s", "p")
    assert archives.omitted(references) == {}
    assert len(references.manifests[b"/x"]) == 1
    assert len(references.manifests[b"/y"]) == 0


def test_grids_may_be_larger_than_their_arrays() -> None:
    """Chunks that reach beyond the array, unlimited dimensions of no length, and shrunk arrays are exact."""

    def write(file: h5py.File) -> None:
        file.create_dataset("edge", data=np.arange(35).reshape(7, 5), chunks=(3, 4))
        file.create_dataset("none", (0, 4), "i4", chunks=(3, 4), maxshape=(None, 4))
        shrunk = file.create_dataset(
            "shrunk", data=np.arange(100), chunks=(10,), maxshape=(None,), compression="gzip"
        )
        shrunk.resize((33,))
        file.create_dataset("wide", data=np.arange(3), chunks=(10,), maxshape=(None,))

    references = check(made(write), "edge", "none", "shrunk", "wide")
    assert len(references.manifests[b"/shrunk"]) == 4


@pytest.mark.parametrize("before", [0, 1024])
@pytest.mark.parametrize("block", [0, 512, 4096])
def test_offsets_are_those_of_the_file(before: int, block: int) -> None:
    """A file may begin with something else, by its own account or not: chunks are found where they lie."""

    def write(file: h5py.File) -> None:
        file.create_dataset("c", data=np.arange(10), chunks=(5,))
        file.create_dataset("x", data=np.arange(10))

    options = {"userblock_size": block} if block else {}
    data = bytes(before) + made(write, **options)
    if before and block:
        with pytest.raises(Unpresentable, match="cannot be opened"):
            archives.parsed(data)
    else:
        check(data, "c", "x")


def test_a_library_that_leaves_the_beginning_out_is_corrected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a version of the library counts chunks from behind what precedes HDF5, that is added."""
    monkeypatch.setattr(chunks, "_leaves_block_out", lambda: True)
    data = made(
        lambda f: f.create_dataset("c", data=np.arange(10), chunks=(5,)), userblock_size=512
    )
    one = archives.parsed(data + bytes(512)).manifests[b"/c"].ref(0).offset
    monkeypatch.setattr(chunks, "_leaves_block_out", lambda: False)
    assert one == archives.parsed(data).manifests[b"/c"].ref(0).offset + 512


# -- filters -----------------------------------------------------------------------------------


FILTERS = {
    "gzip": {"compression": "gzip"},
    "shuffle gzip": {"compression": "gzip", "shuffle": True},
    "gzip fletcher32": {"compression": "gzip", "fletcher32": True},
    "shuffle": {"shuffle": True},
    "zstd": hdf5plugin.Zstd(),
    "blosc": hdf5plugin.Blosc(cname="lz4", shuffle=1),
    "bzip2": hdf5plugin.BZip2(),
}
NO_CODEC = {
    "lzf": ({"compression": "lzf"}, "LZF"),
    "scaleoffset": ({"scaleoffset": 0}, "scaleoffset"),
    "lz4": (hdf5plugin.LZ4(), "LZ4"),
    "bitshuffle": (hdf5plugin.Bitshuffle(), "bitshuffle"),
    "blosc2": (hdf5plugin.Blosc2(), "Blosc2"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_codecs(name: str) -> None:
    """Chunks stay in the file where codecs of Zarr undo what filters did."""
    values = np.arange(7000, dtype=">i4").reshape(70, 100)
    data = made(lambda f: f.create_dataset("x", data=values, chunks=(30, 40), **FILTERS[name]))
    assert set(kinds(check(data, "x"), "/x")) == {ChunkKind.VIRTUAL}


@pytest.mark.parametrize("name", NO_CODEC)
def test_filters_that_no_codec_undoes_are_named_or_undone(name: str) -> None:
    """Few values are decoded and given; of more, the array is left out by the name of its filter."""
    options, called = NO_CODEC[name]

    def write(file: h5py.File) -> None:
        file.create_dataset("few", data=np.arange(1000, dtype=">i4"), chunks=(300,), **options)
        file.create_dataset("many", data=np.arange(300_000), chunks=(50_000,), **options)

    references = check(made(write), "few")
    assert kinds(references, "/few") == [ChunkKind.INLINE]
    assert archives.arrays(references) == ["few"]
    reason = archives.omitted(references)["/many"]
    assert called in reason
    assert "more than 1048576 bytes" in reason


def masked(masks: list[int], shuffle: bool, compressed: bool = True) -> bytes:
    """Return a file with chunks of which some went without filters."""

    def write(file: h5py.File) -> None:
        x = file.create_dataset(
            "x", (4 * len(masks),), "<i4", chunks=(4,), compression="gzip", shuffle=shuffle
        )
        for at, mask in enumerate(masks):
            chunk = np.arange(4 * at, 4 * at + 4, dtype="<i4").tobytes()
            last = 1 if shuffle else 0
            if shuffle and not mask & 1:
                chunk = numcodecs.Shuffle(4).encode(np.frombuffer(chunk, "u1")).tobytes()
            if not mask >> last & 1:
                chunk = zlib.compress(chunk)
            x.id.write_direct_chunk((4 * at,), chunk, mask)

    return made(write)


@pytest.mark.parametrize(
    ("masks", "shuffle", "inline"),
    [
        ([1, 1, 1], False, 0),
        ([0, 0, 1], False, 1),
        ([1, 1, 0], False, 1),
        ([3, 3, 3], True, 0),
        ([2, 2, 2], True, 0),
        ([0, 2, 3, 1], True, 3),
        ([1, 1, 1, 2], True, 1),
    ],
)
def test_masks_of_filters_are_heeded(masks: list[int], shuffle: bool, inline: int) -> None:
    """Chunks that went without some filter are exact: all alike in the file, the few others given."""
    references = check(masked(masks, shuffle), "x")
    assert kinds(references, "/x").count(ChunkKind.INLINE) == inline


def test_chunks_at_the_edge_may_be_bare() -> None:
    """A dataset may ask for its partial chunks to be stored without filters, which no mask says."""
    library = next(Path(h5py.__file__).parent.parent.glob("h5py.libs/libhdf5-*"), None)
    if library is None:
        pytest.skip("h5py has no library of its own here")
    hdf5 = ctypes.CDLL(str(library))
    hdf5.H5Pset_chunk_opts.argtypes = [ctypes.c_int64, ctypes.c_uint]

    def write(file: h5py.File) -> None:
        for name, values in {
            b"x": np.arange(70).reshape(7, 10),
            b"zeros": np.zeros((7, 10), int),
        }.items():
            plist = h5p.create(h5p.DATASET_CREATE)
            plist.set_chunk((4, 5))
            plist.set_shuffle()
            plist.set_deflate(5)
            assert hdf5.H5Pset_chunk_opts(plist.id, 2) >= 0
            x = h5d.create(file.id, name, h5t.STD_I64LE, h5s.create_simple((7, 10)), plist)
            x.write(h5s.ALL, h5s.ALL, values)

    references = check(made(write, libver="latest"), "x")
    assert kinds(references, "/x").count(ChunkKind.INLINE) == 2


def test_a_filter_without_a_codec_is_refused_and_others_are_said() -> None:
    """Filters are codecs in their order; an unknown one has no codec, and cannot be applied either."""
    said = codecs([Filter(2, (4,)), Filter(1, (9,)), Filter(3, ())], 4)
    assert [codec["name"] for codec in said] == [
        "numcodecs.shuffle", "numcodecs.zlib", "numcodecs.fletcher32",
    ]  # fmt: skip
    for used in (Filter(4, ()), Filter(12345, ())):
        with pytest.raises(Unpresentable, match=str(used.number)):
            codecs([used], 4)
    with pytest.raises(Unpresentable):
        encoded(b"abcd", [Filter(3, ())], 4)


@pytest.mark.parametrize(
    ("number", "decode"),
    [
        (32001, lambda data: numcodecs.Blosc().decode(data)),
        (32015, lambda data: numcodecs.Zstd().decode(data)),
        (307, lambda data: numcodecs.BZ2().decode(data)),
        (2, lambda data: numcodecs.Shuffle(4).decode(data)),
    ],
)
def test_a_bare_chunk_is_encoded_as_codecs_take_it(
    number: int, decode: Callable[[bytes], bytes]
) -> None:
    """What is encoded anew is what the codec of the filter decodes."""
    chunk = bytes(range(200)) * 4
    assert bytes(decode(encoded(chunk, [Filter(number, ())], 4))) == chunk


# -- names and attributes ----------------------------------------------------------------------


def test_dimensions_have_the_names_of_their_scales() -> None:
    """Scales name dimensions, labels where there is none, and dimensions without a name have one by length."""

    def write(file: h5py.File) -> None:
        file.create_dataset("t", data=np.arange(4)).make_scale("t")
        file.create_dataset("bnds", (2,), "f4").make_scale(
            "This is a netCDF dimension but not a netCDF variable         2"
        )
        x = file.create_dataset("x", data=np.zeros((4, 2)))
        x.dims[0].attach_scale(file["t"])
        x.dims[1].attach_scale(file["bnds"])
        y = file.create_dataset("g/y", data=np.zeros((4, 5, 4, 3)))
        y.dims[1].label = "label"
        file.create_dataset("g/z", data=np.zeros((3, 4)))
        file.create_dataset("phony_dim_0", data=np.arange(3)).make_scale("phony_dim_0")

    references = check(made(write), "t", "x", "g/y", "g/z")
    assert archives.omitted(references) == {"/bnds": "it is a dimension, without values"}
    assert not any(omission.is_loss for omission in references.omissions)
    assert archives.arrays(references) == ["g/y", "g/z", "phony_dim_0", "t", "x"]

    def names(path: str) -> list[str]:
        return list(archives.document(references, path)["dimension_names"])

    assert names("/t") == ["t"]
    assert names("/x") == ["t", "bnds"]
    assert names("/g/y") == ["phony_dim_1", "label", "phony_dim_2", "phony_dim_3"]
    assert names("/g/z") == ["phony_dim_3", "phony_dim_1"]
    assert archives.attributes(references, "/t") == {}


def test_attributes_are_json_or_named() -> None:
    """Values of all types are shown; what JSON has no word for is named, and costs no more than itself."""

    def write(file: h5py.File) -> None:
        file.attrs["_NCProperties"] = "version=2"
        x = file.create_dataset("x", data=np.zeros(3, ">i2"))
        x.attrs["_FillValue"] = np.array([-1], ">i2")
        x.attrs["scale"] = np.array([0.5], "f4")
        x.attrs["range"] = np.array([1, 2], "i8")
        x.attrs["nan"] = np.array([np.nan, np.inf])
        x.attrs["text"] = np.bytes_(b"caf\xe9")
        x.attrs["texts"] = ["a", "ä"]
        x.attrs["nothing"] = h5py.Empty("S1")
        x.attrs["no number"] = h5py.Empty("f4")
        x.attrs["complex"] = 1 + 2j
        x.attrs["yes"] = True
        x.attrs["to"] = x.ref
        x.attrs["part"] = x.regionref[:2]
        x.attrs["structure"] = np.array([(1, b"a")], [("n", "i4"), ("t", "S1")])
        x.attrs["CLASS"] = "IMAGE"
        dense = h5py.h5a.create(x.id, b"large", h5t.NATIVE_INT32, h5s.create_simple((2,)))
        dense.write(np.array([1, 2], "i4"))

    references = check(made(write), "x")
    assert archives.attributes(references, "/x") == {
        "_FillValue": -1, "scale": 0.5, "range": [1, 2], "nan": ["NaN", "Infinity"],
        "text": "café", "texts": ["a", "ä"], "nothing": "", "no number": None,
        "complex": [1.0, 2.0], "yes": True, "to": "/x", "structure": {"n": 1, "t": "a"},
        "CLASS": "IMAGE", "large": [1, 2],
    }  # fmt: skip
    assert archives.attributes(references, "/") == {}
    assert list(archives.omitted(references)) == ["/x"]
    assert "attribute part" in archives.omitted(references)["/x"]


def test_a_variable_that_netcdf_renamed_has_its_name() -> None:
    """NetCDF hides a variable that is called like another's dimension behind a prefix, which is not shown."""
    data = made(lambda file: file.create_dataset("_nc4_non_coord_x", data=np.arange(3)))
    assert archives.arrays(archives.parsed(data)) == ["x"]


# -- what it costs -----------------------------------------------------------------------------


def test_two_thousand_datasets_are_no_matter_of_minutes() -> None:
    """The time for a file grows with the number of its datasets, and not with its square."""

    def write(file: h5py.File) -> None:
        for number in range(2001):
            file.create_dataset(f"x{number}", (4_500_000_000,), "f4")

    data = made(write)
    began = time.process_time()
    references = archives.parsed(data)
    assert len(archives.arrays(references)) == 2001
    assert time.process_time() - began < 30
    assert not any(len(manifest) for manifest in references.manifests.values())


def test_forty_thousand_chunks_are_columns() -> None:
    """Chunks take some bytes each, and are complete."""

    def write(file: h5py.File) -> None:
        file.create_dataset("x", data=np.arange(40_000, dtype="i4"), chunks=(1,))

    data = made(write)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    references = archives.parsed(data)
    manifest = references.manifests[b"/x"]
    assert len(manifest) == 40_000
    assert isinstance(manifest.index, range)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    for flat in (0, 17, 39_999):
        ref = manifest.ref(flat)
        assert data[ref.offset : ref.offset + ref.length] == np.int32(flat).tobytes()


def test_damage_costs_what_it_hits_or_is_an_error() -> None:
    """Whatever byte of a file is changed, the parser gives references that lie within it, or a reason."""

    def write(file: h5py.File) -> None:
        file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
        file.create_dataset("y", data=np.arange(10)).attrs["a"] = "text"

    good = made(write)
    rng = np.random.default_rng(3)
    for _ in range(150):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        try:
            archives.parsed(bytes(data))
        except Unpresentable:
            continue
