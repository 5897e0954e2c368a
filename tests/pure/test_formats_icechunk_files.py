"""Repo info, snapshots and manifests, from files made byte by byte."""

import json
import struct
import time

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.pure import craft
from tests.pure.craft import Fixed, Table, chunk_ref, u8, u32, u64
from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.icechunk.extents import overlap
from vzfs.formats.icechunk.ids import encode_id
from vzfs.formats.icechunk.manifest import decode_manifest
from vzfs.formats.icechunk.repo_info import Availability, decode_repo_info
from vzfs.formats.icechunk.snapshot import decode_snapshot
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.snapshot import Array, Extents, WantedArray

ZARR = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 6],
    "data_type": "int8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2]}},
    "chunk_key_encoding": {"name": "default"},
    "fill_value": 0,
    "codecs": [],
}
DOCUMENT = json.dumps(ZARR).encode()
GRID = ChunkGrid((4, 3))
WHOLE = Extents(((0, 4), (0, 3)))
VIRTUAL = {"location": "s3://b/k", "offset": u64(1), "length": u64(2)}


def decode(data: bytes, *extents: Extents, grid: ChunkGrid = GRID) -> Manifest:
    found = decode_manifest(data, {craft.NODE: WantedArray(grid, extents or (WHOLE,))})
    return found[craft.NODE]


def rows(manifest: Manifest) -> list[tuple[int, ChunkRef]]:
    return [(int(flat), manifest.ref(i)) for i, flat in enumerate(manifest.index)]


# -- manifests


def test_each_kind_of_ref_reads_as_itself() -> None:
    """Inline bytes, a native chunk and a virtual one each become their ref, sorted by chunk."""
    manifest = decode(
        craft.manifest(
            [
                chunk_ref(0, 0, inline=b"abc"),
                chunk_ref(0, 2, chunk_id=Fixed(craft.ID), offset=u64(5), length=u64(6)),
                chunk_ref(1, 0, inline=b""),
                chunk_ref(3, 1, **VIRTUAL, checksum_etag="tag"),
                chunk_ref(3, 2, **VIRTUAL, checksum_last_modified=u32(7)),
            ]
        )
    )
    native = "chunks/" + encode_id(craft.ID)
    assert rows(manifest) == [
        (0, ChunkRef(ChunkKind.INLINE, 3, inline=b"abc")),
        (2, ChunkRef(ChunkKind.NATIVE, 6, native, 5)),
        (3, ChunkRef(ChunkKind.INLINE, 0)),
        (10, ChunkRef(ChunkKind.VIRTUAL, 2, "s3://b/k", 1, ETag("tag"))),
        (11, ChunkRef(ChunkKind.VIRTUAL, 2, "s3://b/k", 1, LastModified(7))),
    ]
    assert len(manifest.locations) == 2
    assert not manifest.offset.flags.writeable


def test_columns_are_as_narrow_as_their_values() -> None:
    """A column that says the same of every row takes no memory, and others what their values need."""
    refs = [
        chunk_ref(0, c, location="s3://b/k", offset=u64(c * 300), length=u64(7)) for c in (0, 1)
    ]
    manifest = decode(craft.manifest(refs))
    assert manifest.index == range(2)
    assert manifest.offset.tolist() == [0, 300]
    assert manifest.offset.dtype == np.uint16
    for column in (manifest.kind, manifest.location, manifest.length, manifest.checksum):
        assert column.strides == (0,)
        assert column.dtype == np.uint8
    assert len(decode(craft.manifest([])).kind) == 0


def test_no_modification_time_is_no_checksum() -> None:
    """A last-modified of 0 is none."""
    data = craft.manifest([chunk_ref(0, 0, **VIRTUAL, checksum_last_modified=u32(0))])
    assert decode(data).ref(0).checksum is None


def test_refs_outside_extents_and_grid_are_left_out() -> None:
    """A manifest may hold refs outside the extents, or the grid, of an array; they are not its."""
    refs = [chunk_ref(r, c, **VIRTUAL) for r in range(6) for c in range(5)]
    manifest = decode(craft.manifest(refs), Extents(((1, 9), (1, 2))), Extents(((0, 1), (2, 9))))
    assert list(manifest.index) == [2, 4, 7, 10]
    assert decode(craft.manifest(refs), Extents(((2, 2), (0, 3)))).index == range(0)


def test_huge_coordinates_do_not_wrap_into_the_grid() -> None:
    """A coordinate far outside a large grid names no chunk inside it."""
    grid = ChunkGrid((2**31 - 1, 2**32))
    last = 2**31 - 2, 2**32 - 1
    refs = [chunk_ref(2**32 - 1, 2**32 - 1, **VIRTUAL), chunk_ref(*last, **VIRTUAL)]
    found = decode(craft.manifest(refs), Extents(((0, 2**32), (0, 2**32))), grid=grid)
    assert list(found.index) == [grid.ravel(last)]


def test_arrays_of_one_manifest_are_told_apart() -> None:
    """A manifest may hold several arrays, of any rank; each wanted one gets its own refs only."""
    nodes = [bytes([i] * 8) for i in range(4)]
    data = craft.manifest_of(
        [
            (nodes[0], [chunk_ref(location="s3://b/0", length=u64(1))]),
            (nodes[1], [chunk_ref(1, inline=b"one"), chunk_ref(2, location="s3://b/1")]),
            (nodes[2], [chunk_ref(9, 9, 9, inline=b"unwanted")]),
        ]
    )
    found = decode_manifest(
        data,
        {
            nodes[3]: WantedArray(GRID, (WHOLE,)),
            nodes[1]: WantedArray(ChunkGrid((5,)), (Extents(((0, 5),)),)),
            nodes[0]: WantedArray(ChunkGrid(()), (Extents(()),)),
        },
    )
    assert len(found[nodes[3]]) == 0
    assert rows(found[nodes[0]]) == [(0, ChunkRef(ChunkKind.VIRTUAL, 1, "s3://b/0"))]
    assert rows(found[nodes[1]]) == [
        (1, ChunkRef(ChunkKind.INLINE, 3, inline=b"one")),
        (2, ChunkRef(ChunkKind.VIRTUAL, 0, "s3://b/1")),
    ]
    assert list(found[nodes[1]].locations) == ["s3://b/1"]


def test_manifest_without_what_is_wanted_is_empty() -> None:
    """An array that the file does not know has no refs in it, and nothing asked is nothing given."""
    wanted = {craft.NODE: WantedArray(GRID, (WHOLE,))}
    assert len(decode_manifest(craft.manifest_of([]), wanted)[craft.NODE]) == 0
    one = craft.manifest([chunk_ref(0, 0, **VIRTUAL)])
    assert len(decode_manifest(one, {craft.NODE: WantedArray(GRID, ())})[craft.NODE]) == 0
    assert decode_manifest(one, {}) == {}


def test_unsorted_refs_are_sorted() -> None:
    """Refs that a writer left unsorted are found all the same."""
    refs = [chunk_ref(r, c, inline=bytes([r, c])) for r in (3, 0, 2) for c in (2, 0)]
    manifest = decode(craft.manifest(refs))
    assert list(manifest.index) == [0, 2, 6, 8, 9, 11]
    assert [manifest.ref(i).inline for i in (0, 5)] == [b"\0\0", b"\3\2"]


def packed_locations(texts: list[str]) -> tuple[bytes, list[bytes]]:
    samples = [f"s3://bucket/some/long/prefix/{i:05d}.nc".encode() for i in range(2000)]
    dictionary = zstandard.train_dictionary(1024, samples)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    return dictionary.as_bytes(), [compressor.compress(t.encode()) for t in texts]


@pytest.mark.parametrize("algorithm", [0, 1, None])
def test_compressed_locations_are_read_by_their_presence(algorithm: int | None) -> None:
    """Locations packed with the dictionary are unpacked, whatever the algorithm field says."""
    texts = ["s3://bucket/some/long/prefix/00001.nc", "s3://x/y", "s3://x/y"]
    dictionary, packed = packed_locations(texts)
    fields = {"dictionary": dictionary} | (
        {} if algorithm is None else {"algorithm": u8(algorithm)}
    )
    refs = [chunk_ref(0, i, compressed_location=p, length=u64(1)) for i, p in enumerate(packed)]
    manifest = decode(craft.manifest(refs, **fields))
    assert [manifest.ref(i).location for i in range(3)] == texts


def test_location_packed_without_a_dictionary_is_read() -> None:
    """A manifest with packed locations need not have a dictionary."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"s3://b/k")
    manifest = decode(craft.manifest([chunk_ref(0, 0, compressed_location=frame)]))
    assert manifest.ref(0).location == "s3://b/k"


@pytest.mark.parametrize("content_size", [True, False])
@pytest.mark.parametrize("size", [8193, 2**27])
def test_location_bomb_is_refused(content_size: bool, size: int) -> None:
    """A packed location may not be longer than locations are."""
    frame = zstandard.ZstdCompressor(write_content_size=content_size).compress(b"s" * size)
    with pytest.raises(FormatError):
        decode(craft.manifest([chunk_ref(0, 0, compressed_location=frame)]))


@pytest.mark.parametrize(
    ("refs", "words"),
    [
        ([chunk_ref(0, 0)], "no kind"),
        ([chunk_ref(0, 0, inline=b"", **VIRTUAL)], "or several"),
        ([chunk_ref(0, 0, chunk_id=Fixed(craft.ID), **VIRTUAL)], "or several"),
        ([chunk_ref(0, 0, compressed_location=b"", **VIRTUAL)], "or several"),
        ([chunk_ref(0, **VIRTUAL)], "number of coordinates"),
        ([chunk_ref(0, 0, 0, **VIRTUAL)], "number of coordinates"),
        ([Table({5: "s3://b/k"})], "no coordinates"),
        ([chunk_ref(0, 0, **VIRTUAL), chunk_ref(0, 0, inline=b"")], "two refs for one chunk"),
        (
            [chunk_ref(1, 0, **VIRTUAL), chunk_ref(0, 0, **VIRTUAL), chunk_ref(1, 0, **VIRTUAL)],
            "two refs for one chunk",
        ),
        ([chunk_ref(0, 0, location="x", offset=u64(2**63))], "beyond any object"),
        (
            [chunk_ref(0, 0, location="x", offset=u64(2**62), length=u64(2**62))],
            "beyond any object",
        ),
        ([chunk_ref(0, 0, location="x", length=u64(2**64 - 1))], "beyond any object"),
        ([chunk_ref(0, 0, location="\udcff")], "not UTF-8"),
        ([chunk_ref(0, 0, location="x", checksum_etag="\udcff")], "not UTF-8"),
        (
            [chunk_ref(0, 0, location="a\udcc3"), chunk_ref(0, 1, location="\udca9b")],
            "not UTF-8",
        ),
        ([chunk_ref(0, 0, compressed_location=b"no frame")], "damaged"),
        ([chunk_ref(0, 0, compressed_location=b"")], "damaged"),
    ],
)
def test_refs_that_contradict_the_format_are_corrupt(refs: list[Table], words: str) -> None:
    """A ref without a kind or with two, twice for a chunk, or out of bounds makes the manifest corrupt."""
    with pytest.raises(FormatError, match=words):
        decode(craft.manifest(refs))


def test_largest_range_is_read() -> None:
    """An offset and a length may reach up to the last byte that 63 bits can name."""
    fields = {"location": "x", "offset": u64(2**63 - 2), "length": u64(1)}
    ref = decode(craft.manifest([chunk_ref(0, 0, **fields)])).ref(0)
    assert ref.range.end == 2**63 - 1


def test_array_listed_twice_is_corrupt() -> None:
    """Two lists of refs for one array are ambiguous."""
    with pytest.raises(FormatError, match="twice"):
        decode(craft.manifest_of([(craft.NODE, []), (craft.NODE, [])]))


def test_unknown_location_compression_is_unsupported() -> None:
    """A method of compression from the future is named as such."""
    _, packed = packed_locations(["s3://b/k"])
    data = craft.manifest([chunk_ref(0, 0, compressed_location=packed[0])], algorithm=u8(2))
    with pytest.raises(FormatError) as caught:
        decode(data)
    assert caught.value.kind is ErrorKind.UNSUPPORTED_FORMAT


def test_manifest_must_be_the_one_that_was_asked_for() -> None:
    """A manifest file with another id than its name is refused."""
    wanted = {craft.NODE: WantedArray(GRID, (WHOLE,))}
    data = craft.manifest([])
    assert decode_manifest(data, wanted, expected_id=encode_id(craft.ID))
    with pytest.raises(FormatError, match="should be 00000000000000000000 and is"):
        decode_manifest(data, wanted, expected_id="0" * 20)


@pytest.mark.parametrize(
    ("grid", "extents"),
    [
        (ChunkGrid((2**32, 2**32)), (Extents(((0, 1), (0, 1))),)),
        (GRID, (WHOLE,) * 17),
        (GRID, (Extents(((0, 1),)),)),
    ],
)
def test_impossible_wishes_are_refused(grid: ChunkGrid, extents: tuple[Extents, ...]) -> None:
    """A grid beyond 63 bits, very many regions, or regions of another rank cannot be decoded."""
    with pytest.raises(FormatError):
        decode(craft.manifest([]), *extents, grid=grid)


def test_refs_shared_between_arrays_are_counted() -> None:
    """Many arrays that all point to one long list of refs are refused, not decoded."""
    shared = [chunk_ref(0, 0, **VIRTUAL)] * 20_000
    vector = craft.Vector(shared)
    nodes = [struct.pack("<Q", i) for i in range(500)]
    tables = [Table({0: Fixed(node), 1: vector}) for node in nodes]
    root = Table({0: Fixed(craft.ID), 1: craft.Vector(tables)})
    data = craft.wrap(craft.flatbuffer(root), craft.MANIFEST)
    with pytest.raises(FormatError, match="more refs than fit"):
        decode_manifest(data, {node: WantedArray(GRID, (WHOLE,)) for node in nodes})


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 5), st.integers(0, 4)),
        st.one_of(
            st.builds(lambda b: {"inline": b}, st.binary(max_size=9)),
            st.builds(lambda b: {"chunk_id": Fixed(b)}, st.binary(min_size=12, max_size=12)),
            st.builds(
                lambda text, tag: {"location": text} | ({"checksum_etag": tag} if tag else {}),
                st.text(max_size=12),
                st.none() | st.text(max_size=3),
            ),
        ),
    ),
    st.lists(st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * 2), max_size=3),
)
def test_columns_hold_what_a_reader_of_single_refs_would_find(refs, regions) -> None:
    """Decoding by column gives, ref by ref, what was written, filtered by extents and grid."""
    data = craft.manifest([chunk_ref(*coords, **fields) for coords, fields in refs.items()])
    extents = tuple(Extents(r) for r in regions)
    wanted = {craft.NODE: WantedArray(GRID, extents)}
    manifest = decode_manifest(data, wanted)[craft.NODE]
    expected = {
        GRID.ravel(coords): fields
        for coords, fields in refs.items()
        if GRID.contains(coords)
        and any(
            all(low <= c < high for c, (low, high) in zip(coords, e.ranges, strict=True))
            for e in extents
        )
    }
    assert list(manifest.index) == sorted(expected)
    for flat, ref in rows(manifest):
        fields = expected[flat]
        match ref.kind:
            case ChunkKind.INLINE:
                assert ref.inline == fields["inline"]
            case ChunkKind.NATIVE:
                assert ref.location == "chunks/" + encode_id(fields["chunk_id"].data)
            case ChunkKind.VIRTUAL:
                assert ref.location == fields["location"]
                tag = fields.get("checksum_etag")
                assert ref.checksum == (None if tag is None else ETag(tag))


# -- snapshots


def test_snapshot_has_its_nodes_sorted_with_their_documents() -> None:
    """Nodes come sorted by the bytes of their paths, with the document byte for byte."""
    snapshot = decode_snapshot(
        craft.snapshot(
            [
                craft.array("/é", DOCUMENT, [4, 3], [[(0, 4), (0, 3)]]),
                craft.group("/a", b"not even JSON"),
                craft.group("/"),
                craft.group("/a/b"),
                craft.group("/a-b"),
            ]
        )
    )
    assert [n.path for n in snapshot.nodes] == ["/", "/a", "/a-b", "/a/b", "/é"]
    assert snapshot.nodes[1].documents == {"zarr.json": b"not even JSON"}
    assert (snapshot.message, snapshot.written_at) == ("message", 1_000_000_000)
    assert (snapshot.id, snapshot.parent) == (encode_id(craft.ID), None)
    array = snapshot.nodes[4]
    assert isinstance(array, Array)
    assert (array.grid.shape, array.id, array.problem) == ((4, 3), craft.NODE, "")
    assert array.manifests[0].extents == WHOLE


@pytest.mark.parametrize(
    ("spec", "value"), [(1, b"\x82\xa1a\x01\xa1b\xc0"), (2, b"a\0b\0\2\5\4\2\1\2\1\0\4\0\4\x24\1")]
)
def test_metadata_is_read_as_its_spec_version_writes_it(spec: int, value: bytes) -> None:
    """Metadata is MessagePack in spec 1 and FlexBuffers in spec 2."""
    data = craft.snapshot([], spec=spec, metadata={"m": value})
    assert decode_snapshot(data).metadata == {"m": {"a": 1, "b": None}}
    with pytest.raises(FormatError):
        decode_snapshot(craft.snapshot([], spec=3 - spec, metadata={"m": value}))


@pytest.mark.parametrize(
    "path",
    ["", "a", "/a/", "//", "/a//b", "/.", "/..", "/a/../b", "/a\0b", "relative/a", "/\udcff"],
)
def test_paths_that_are_not_canonical_are_corrupt(path: str) -> None:
    """Node paths are absolute, with plain segments only."""
    with pytest.raises(FormatError):
        decode_snapshot(craft.snapshot([craft.group("/"), craft.group(path)]))


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["/", "/a", "/a"], "two nodes"),
        (["/", "/x/y"], "not in a group"),
        (["/a"], "not in a group"),
        (["/", "/zarr.json"], "named like"),
    ],
)
def test_names_that_collide_are_corrupt(paths: list[str], words: str) -> None:
    """Two nodes at one path, a node without a group above it, a node named like a document: corrupt."""
    with pytest.raises(FormatError, match=words):
        decode_snapshot(craft.snapshot([craft.group(path) for path in paths]))


def test_node_below_an_array_is_corrupt() -> None:
    """An array has no nodes below it."""
    nodes = [craft.group("/"), craft.array("/a", DOCUMENT, [4, 3], []), craft.group("/a/b")]
    with pytest.raises(FormatError, match="not in a group"):
        decode_snapshot(craft.snapshot(nodes))


def only_array(data: bytes) -> Array:
    node = decode_snapshot(data).nodes[0]
    assert isinstance(node, Array)
    return node


@pytest.mark.parametrize(
    ("document", "manifests", "words", "shape", "kept"),
    [
        (b"{", [[(0, 4), (0, 3)]], "not JSON", (4, 3), 1),
        (DOCUMENT, [[(0, 4)]], "number of dimensions", (4, 3), 0),
        (DOCUMENT, [[(0, 4), (0, 2)], [(3, 4), (1, 3)]], "same chunks", (4, 3), 2),
        (DOCUMENT, [[(0, 4), (0, 2)], [(0, 4), (2, 3)]], "", (4, 3), 2),
    ],
)
def test_what_concerns_one_array_is_its_problem(document, manifests, words, shape, kept) -> None:
    """An unreadable document or contradicting manifests are a problem of one array, not of all."""
    array = only_array(craft.snapshot([craft.array("/", document, [4, 3], manifests)]))
    assert words in array.problem
    assert bool(words) == bool(array.problem)
    assert (array.grid.shape, len(array.manifests)) == (shape, kept)
    assert array.documents == {"zarr.json": document}


A, B, C = bytes(12), b"b" * 12, b"c" * 12


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize(
    ("counts", "full"),
    [
        ([(A, 8), (B, 12), (C, 4)], [A, B, C]),
        ([(A, 7), (B, 13), (C, 2**32 - 1)], []),
        ([(A, 0), (C, 4)], [C]),
        ([(A, 8), (A, 8), (C, 4), (C, 3), (C, 4)], [A]),
        ([], []),
    ],
)
def test_a_file_with_a_ref_for_every_chunk_is_full(
    spec: int, counts: list[tuple[bytes, int]], full: list[bytes]
) -> None:
    """A manifest file is full if it counts as many refs as there are chunks in all its regions, of all arrays."""
    halves = [[(0, 4), (0, 2)], [(0, 4), (2, 3)]]
    arrays = [
        craft.array("/a", DOCUMENT, [4, 3], halves, files=[A, B]),
        craft.array("/b", DOCUMENT, [4, 3], halves, bytes(8), files=[B, C]),
    ]
    data = craft.snapshot([craft.group("/"), *arrays], spec=spec, counts=counts)
    assert decode_snapshot(data).full == {encode_id(id_) for id_ in full}


def test_unknown_kind_of_node_is_unsupported() -> None:
    """A node that is neither an array nor a group may be read by a newer version."""
    node = craft.group("/")
    node.fields[3] = u8(3)
    with pytest.raises(FormatError) as caught:
        decode_snapshot(craft.snapshot([node]))
    assert caught.value.kind is ErrorKind.UNSUPPORTED_FORMAT


boxes = st.lists(
    st.tuples(*[st.tuples(st.integers(0, 8), st.integers(0, 8))] * 2).map(
        lambda ranges: Extents(tuple((min(r), max(r)) for r in ranges))
    ),
    max_size=8,
)


@given(boxes)
def test_overlap_of_extents_is_that_of_their_chunks(regions: list[Extents]) -> None:
    """Regions overlap exactly if some chunk lies in two of them."""
    cells = [{(r, c) for r in range(*e.ranges[0]) for c in range(*e.ranges[1])} for e in regions]
    assert overlap(regions) == (sum(map(len, cells)) > len(set().union(*cells)))


def test_many_regions_of_a_regular_split_do_not_overlap() -> None:
    """Ten thousand regions of a split along two dimensions are told apart, quickly."""
    regions = [
        Extents(((a, a + 1), (10 * b, 10 * b + 10), (0, 5))) for a in range(100) for b in range(100)
    ]
    started = time.monotonic()
    assert not overlap(regions)
    assert overlap([*regions, Extents(((99, 100), (999, 1000), (4, 5)))])
    assert time.monotonic() - started < 2


def test_ten_thousand_arrays_decode_within_a_second() -> None:
    """A snapshot of ten thousand arrays is decoded in about a second at most."""
    extents = [[(0, 4), (0, 3)]]
    arrays = [
        craft.array(f"/a{i}", DOCUMENT, [4, 3], extents, struct.pack("<Q", i))
        for i in range(10_000)
    ]
    data = craft.snapshot([craft.group("/"), *arrays])
    started = time.process_time()
    assert len(decode_snapshot(data).nodes) == 10_001
    assert time.process_time() - started < 3


def test_two_arrays_with_one_id_are_refused() -> None:
    """An id names one array: manifests could not tell two apart, and would give one the other's bytes."""
    arrays = [craft.array(path, DOCUMENT, [4, 3], []) for path in ("/a", "/b")]
    with pytest.raises(FormatError, match="the id of another"):
        decode_snapshot(craft.snapshot([craft.group("/"), *arrays]))


def test_snapshot_must_be_the_one_that_was_asked_for() -> None:
    """A snapshot file with another id than its name is refused."""
    data = craft.snapshot([craft.group("/")])
    assert decode_snapshot(data, expected_id=encode_id(craft.ID)).nodes
    with pytest.raises(FormatError, match="should be"):
        decode_snapshot(data, expected_id="0" * 20)


@pytest.mark.parametrize("field", ["location", "checksum_etag", "compressed_location"])
def test_endless_texts_in_a_manifest_are_refused_at_once(field: str) -> None:
    """A location or an etag of megabytes, which packs to nothing, costs no time."""
    texts = {"location": "s3://b/x", field: "x" * 8_000_000}
    if field == "compressed_location":
        texts = {field: b"x" * 8_000_000}
    refs = [chunk_ref(0, i, **texts) for i in range(3)]
    started = time.process_time()
    with pytest.raises(FormatError, match="longer than"):
        decode(craft.manifest(refs))
    assert time.process_time() - started < 2


def test_document_shared_by_thousands_of_nodes_is_refused() -> None:
    """Thousands of nodes may not all point to one large document."""
    document = b" " * 100_000
    nodes = [craft.group("/"), *(craft.group(f"/{i}", document) for i in range(2000))]
    with pytest.raises(FormatError, match="overlap"):
        decode_snapshot(craft.snapshot(nodes))


# -- repo info


def test_repo_info_resolves_refs_and_parents() -> None:
    """Branches and parents, indices in the file, are snapshot ids in the model."""
    info = decode_repo_info(craft.repo([-1, 0, 1], {"main": 2, "a/b !": 0}))
    ids = [encode_id(bytes([i] * 12)) for i in range(3)]
    assert info.branches == {"main": ids[2], "a/b !": ids[0]}
    assert [s.parent for s in info.snapshots] == [None, ids[0], ids[1]]
    assert [s.written_at for s in info.snapshots] == [0, 1000, 2000]
    assert (info.spec_version, info.availability) == (2, Availability.ONLINE)
    assert (info.containers, info.metadata, info.deleted_tags) == ((), {}, frozenset())


@pytest.mark.parametrize("value", [1, 2])
def test_limited_availability_comes_with_its_reason(value: int) -> None:
    """A repository that its owner took offline, or made read-only, says so and why."""
    info = decode_repo_info(craft.repo([-1], {"main": 0}, availability=value, reason="moving"))
    assert (info.availability, info.availability_reason) == (Availability(value), "moving")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (craft.repo([-1], {"main": 1}), ErrorKind.CORRUPT_METADATA),
        (craft.repo([-2], {"main": 0}), ErrorKind.CORRUPT_METADATA),
        (craft.repo([1], {"main": 0}), ErrorKind.CORRUPT_METADATA),
        (craft.repo([0], {"main": 0}), ErrorKind.CORRUPT_METADATA),
        (craft.repo([-1, 3, 1, 2], {"main": 0}), ErrorKind.CORRUPT_METADATA),
        (craft.repo([-1], {}, config=b"\xff\xff\xff"), ErrorKind.CORRUPT_METADATA),
        (craft.repo([-1], {}, config=b"\x05\x04\x01"), ErrorKind.CORRUPT_METADATA),
        (craft.repo([-1], {}, availability=3), ErrorKind.UNSUPPORTED_FORMAT),
        (craft.repo([-1], {}, spec_version=3), ErrorKind.UNSUPPORTED_FORMAT),
    ],
    ids=["ref", "parent -2", "parent", "own parent", "cycle", "noise", "number", "status", "spec"],
)
def test_impossible_repo_info_is_refused(data: bytes, kind: ErrorKind) -> None:
    """Refs and parents outside the list, cycles, unknown states and versions are refused."""
    with pytest.raises(FormatError) as caught:
        decode_repo_info(data)
    assert caught.value.kind is kind
