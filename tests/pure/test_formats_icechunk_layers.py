"""The layers that Icechunk's files share: envelope, flatbuffers, FlexBuffers, MessagePack, ids."""

import contextlib
import struct
import tracemalloc

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.pure import craft
from tests.pure.craft import Fixed, Structs, Table, Vector, flatbuffer, u8, u64
from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.icechunk.columns import Memory, Tables
from vzfs.formats.icechunk.config import MAX_CONFIG_SIZE, decode_config
from vzfs.formats.icechunk.envelope import FileType, open_envelope
from vzfs.formats.icechunk.flatbuffer import Buffer
from vzfs.formats.icechunk.flexbuffer import MAX_DEPTH, decode_flexbuffer
from vzfs.formats.icechunk.ids import decode_id, encode_id, encode_ids
from vzfs.formats.icechunk.metadata import (
    MAX_METADATA,
    MAX_MSGPACK,
    Allowance,
    decode_metadata,
    decode_msgpack,
)
from vzfs.formats.icechunk.refs import decode_ref
from vzfs.model.snapshot import VirtualChunkContainer


def zstd(payload: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(payload)


# -- envelope


@pytest.mark.parametrize("compression", [0, 1])
def test_envelope_gives_version_writer_and_payload(compression: int) -> None:
    """An envelope opens to its spec version, its writer's name and its unpacked payload."""
    data = craft.wrap(b"payload" * 1000, craft.MANIFEST, spec=1, compression=compression)
    envelope = open_envelope(data, FileType.MANIFEST)
    assert (envelope.spec_version, envelope.writer) == (1, "test")
    assert envelope.payload == b"payload" * 1000
    assert envelope.payload.readonly


def test_envelope_reads_frames_one_after_another() -> None:
    """A payload of several compressed frames is their contents, one behind the other."""
    data = craft.wrap(zstd(b"one ") + zstd(b"") + zstd(b"two"), craft.REPO, compression=0)
    packed = data[:38] + b"\x01" + data[39:]
    assert open_envelope(packed, FileType.REPO_INFO).payload == b"one two"


@pytest.mark.parametrize(
    ("at", "value", "kind", "words"),
    [
        (0, 0, ErrorKind.CORRUPT_METADATA, "not an Icechunk metadata file"),
        (36, 3, ErrorKind.UNSUPPORTED_FORMAT, "spec version 3 (written by 'test')"),
        (36, 0, ErrorKind.UNSUPPORTED_FORMAT, "spec version 0"),
        (37, 2, ErrorKind.CORRUPT_METADATA, "should be an Icechunk repo info and is a manifest"),
        (37, 99, ErrorKind.UNSUPPORTED_FORMAT, "is of type 99"),
        (38, 2, ErrorKind.UNSUPPORTED_FORMAT, "method 2"),
    ],
)
def test_envelope_says_what_it_does_not_know(at, value, kind, words) -> None:
    """A header of another file, version, type or compression is named, with advice where it helps."""
    data = bytearray(craft.wrap(b"", craft.REPO))
    data[at] = value
    with pytest.raises(FormatError) as caught:
        open_envelope(bytes(data), FileType.REPO_INFO)
    assert caught.value.kind is kind
    assert words in caught.value.what
    if kind is ErrorKind.UNSUPPORTED_FORMAT:
        assert "newer vzfs" in caught.value.advice


@pytest.mark.parametrize("keep", [0, 12, 38, 40, 60])
def test_truncated_envelope_is_corrupt(keep: int) -> None:
    """A file that ends inside its header or its compressed payload is corrupt."""
    data = craft.wrap(np.random.default_rng(0).bytes(4000), craft.REPO, compression=1)[:keep]
    with pytest.raises(FormatError) as caught:
        open_envelope(data, FileType.REPO_INFO)
    assert caught.value.kind is ErrorKind.CORRUPT_METADATA


@pytest.mark.parametrize("tail", [b"garbage behind the frame", b"\0"])
def test_bytes_behind_the_last_frame_are_corrupt(tail: bytes) -> None:
    """What follows the compressed payload must be a frame too."""
    with pytest.raises(FormatError):
        open_envelope(craft.wrap(b"x", craft.REPO, compression=1) + tail, FileType.REPO_INFO)


def test_zstd_bomb_stops_at_the_limit() -> None:
    """A small payload that unpacks to gigabytes is refused before much memory is used."""
    bomb = zstandard.ZstdCompressor(level=1).compressobj()
    packed = b"".join(bomb.compress(bytes(2**24)) for _ in range(64)) + bomb.flush()
    assert len(packed) < 2**20
    data = craft.wrap(b"", craft.MANIFEST)[:38] + b"\x01" + packed
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            open_envelope(data, FileType.MANIFEST)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "unpacks to more than" in caught.value.what
    assert peak < 2**28


def test_limit_of_the_caller_counts() -> None:
    """A payload may not unpack to more than the caller allows, packed or not."""
    for compression in (0, 1):
        data = craft.wrap(bytes(5000), craft.MANIFEST, compression=compression)
        with pytest.raises(FormatError, match="than 4999 bytes"):
            open_envelope(data, FileType.MANIFEST, max_payload=4999)
        assert len(open_envelope(data, FileType.MANIFEST, max_payload=5000).payload) == 5000


def test_thousands_of_empty_frames_are_refused() -> None:
    """A payload may not be made of thousands of tiny frames."""
    data = craft.wrap(zstd(b"") * 2000, craft.REPO)
    with pytest.raises(FormatError, match="frames"):
        open_envelope(data[:38] + b"\x01" + data[39:], FileType.REPO_INFO)


# -- flatbuffers


def root_of(table: Table):
    return Buffer(memoryview(flatbuffer(table))).root()


def test_table_gives_its_fields_and_defaults() -> None:
    """Fields read as what was written, absent ones as their defaults."""
    table = root_of(
        Table(
            {
                0: u8(7),
                1: craft.u32(2**32 - 1),
                2: craft.i32(-5),
                3: u64(2**64 - 1),
                4: Fixed(b"twelve bytes"),
                5: "naïve",
                6: b"\0\1",
                7: Table({0: u8(1)}),
                8: Vector([Table({0: u8(i)}) for i in range(3)]),
                9: Vector(["a", "b"]),
                10: Structs(struct.pack("<IIII", 1, 2, 3, 4), 2),
            }
        )
    )
    assert (table.u8(0), table.u32(1), table.i32(2)) == (7, 2**32 - 1, -5)
    assert (table.u64(3), table.fixed(4, 12)) == (2**64 - 1, b"twelve bytes")
    assert (table.string(5), table.blob(6)) == ("naïve", b"\0\1")
    assert table.required_table(7).u8(0) == 1
    assert [t.u8(0) for t in table.tables(8)] == [0, 1, 2]
    assert table.required_strings(9) == ["a", "b"]
    assert table.structs(10, struct.Struct("<II")) == [(1, 2), (3, 4)]
    assert (table.u8(50, default=9), table.u64(50), table.string(50)) == (9, 0, None)
    assert (table.table(50), table.fixed(50, 4), list(table.tables(50))) == (None, None, [])


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("required_string", ()),
        ("required_blob", ()),
        ("required_table", ()),
        ("required_tables", ()),
        ("required_strings", ()),
        ("required_fixed", (4,)),
        ("required_vector", (4,)),
    ],
)
def test_absent_required_field_is_corrupt(method: str, arguments: tuple[int, ...]) -> None:
    """A field that the schema requires and the table lacks is corrupt metadata."""
    with pytest.raises(FormatError, match="required field 0"):
        getattr(root_of(Table({})), method)(0, *arguments)


def test_field_that_reaches_out_of_its_table_is_corrupt() -> None:
    """A field must lie inside its table, as wide as it is read."""
    with pytest.raises(FormatError, match="outside"):
        root_of(Table({0: u8(1)})).u64(0)


def test_string_that_is_not_utf8_is_corrupt() -> None:
    """Strings are UTF-8."""
    with pytest.raises(FormatError, match="UTF-8"):
        root_of(Table({0: "\udcff"})).string(0)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_format_error(noise: bytes) -> None:
    """Reading any field of any bytes gives a value or FormatError."""
    try:
        table = Buffer(memoryview(b"\x08\0\0\0Ichk" + noise)).root()
    except FormatError:
        return
    for field in range(12):
        for read in (table.u8, table.u64, table.string, table.blob, table.table):
            with contextlib.suppress(FormatError):
                read(field)
        with contextlib.suppress(FormatError):
            list(table.tables(field))


def test_content_that_is_pointed_to_again_and_again_is_corrupt() -> None:
    """A buffer may not claim, by sharing, many times the content that it has bytes for."""
    shared = bytes(100_000)
    table = root_of(Table({0: Vector([Table({0: shared}) for _ in range(1000)])}))
    with pytest.raises(FormatError, match="overlap"):
        [t.blob(0) for t in table.tables(0)]


def test_columns_agree_with_tables_read_one_by_one() -> None:
    """Reading many tables by column gives what reading each of them gives."""
    tables = [
        Table({0: u8(i % 256), 2: u64(i**5)} if i % 3 else {1: f"s{i % 7}" * (i % 5)})
        for i in range(500)
    ]
    buffer = Buffer(memoryview(flatbuffer(Table({0: Vector(tables)}))))
    start, count = buffer.root().required_vector(0, 4)
    memory = Memory(buffer)
    positions = memory.follow(start + 4 * np.arange(count))
    columns = Tables(memory, positions, (1, 4, 8))
    one_by_one = list(buffer.root().tables(0))
    assert columns.words(2).tolist() == [t.u64(2) for t in one_by_one]
    assert columns.has(1).tolist() == [t.string(1) is not None for t in one_by_one]
    rows = columns.has(0)
    assert columns.integers(0, rows, 1).tolist() == [i % 256 for i in range(500) if i % 3]
    starts, lengths, codes = memory.distinct(columns.vectors(1, columns.has(1)), 1000)
    texts = [bytes(memory.cut(starts[i : i + 1], lengths[i : i + 1])) for i in range(len(starts))]
    assert len(set(texts)) == len(texts)
    expected = [t.string(1) for t in one_by_one if t.string(1) is not None]
    assert [texts[c].decode() for c in codes] == expected


@given(st.lists(st.binary(max_size=40), max_size=60), st.booleans())
def test_distinct_vectors_are_told_apart_even_if_hashes_collide(blobs, collide) -> None:
    """Each vector is represented by one with the same bytes, whatever the hash says of it."""
    buffer = Buffer(memoryview(flatbuffer(Table({0: Vector([Table({0: b}) for b in blobs])}))))
    start, count = buffer.root().required_vector(0, 4)
    memory = Memory(buffer)
    if collide:
        memory._hash = lambda starts, lengths: np.zeros(len(starts), np.uint64)  # type: ignore[method-assign]
    tables = Tables(memory, memory.follow(start + 4 * np.arange(count)), (4,))
    starts, lengths, codes = memory.distinct(tables.vectors(0, np.ones(count, np.bool_)), 1000)
    assert len(starts) == len(set(blobs))
    assert [bytes(memory.cut(starts[[c]], lengths[[c]])) for c in codes] == blobs


# -- ids


def test_known_id_has_its_known_text() -> None:
    """The id of the initial snapshot reads as the specification writes it."""
    raw = bytes.fromhex("0b1cc8d6787580f0e33a6534")
    assert encode_id(raw) == "1CECHNKREP0F1RSTCMT0"
    assert decode_id("1CECHNKREP0F1RSTCMT0") == raw


@given(st.binary(min_size=12, max_size=12), st.binary(min_size=8, max_size=8))
def test_ids_survive_both_ways(object_id: bytes, node_id: bytes) -> None:
    """Ids of 12 bytes have 20 characters, ids of 8 have 13, and they read back as they were."""
    assert len(encode_id(object_id)) == 20
    assert len(encode_id(node_id)) == 13
    assert decode_id(encode_id(object_id)) == object_id
    assert decode_id(encode_id(node_id), 8) == node_id


@given(st.lists(st.binary(min_size=12, max_size=12), max_size=20))
def test_many_ids_are_encoded_as_one_is(ids: list[bytes]) -> None:
    """Encoding ids by column gives the text that encoding each gives."""
    rows = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 12)
    assert [bytes(row).decode() for row in encode_ids(rows)] == list(map(encode_id, ids))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1CECHNKREP0F1RSTCMT",
        "1CECHNKREP0F1RSTCMT00",
        "1cechnkrep0f1rstcmt0",
        "1CECHNKREP0F1RSTCMT1",
        "ICECHNKREP0F1RSTCMT0",
        "../../../../etc/pass",
        "1CECHNKREP0F1RSTCMTé",
    ],
)
def test_only_the_one_spelling_of_an_id_is_read(text: str) -> None:
    """Lower case, look-alike letters, wrong lengths, spare bits and path tricks are no ids."""
    with pytest.raises(FormatError):
        decode_id(text)


# -- FlexBuffers


def nested_vectors(levels: int) -> bytes:
    """Return a FlexBuffers vector in a vector in a vector..."""
    data = bytearray([1, 0, 0])
    target, packed = 1, 0b101000
    for _ in range(levels):
        data += bytes([1, len(data) + 1 - target, packed])
        target, packed = len(data) - 2, 0b101000
    data += bytes([len(data) - target, packed, 1])
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (bytes([0, 0, 1]), None),
        (bytes([0xFF, 4, 1]), -1),
        (bytes([0xFF, 8, 1]), 255),
        (struct.pack("<q", -(2**62)) + bytes([7, 8]), -(2**62)),
        (struct.pack("<d", 0.1) + bytes([15, 8]), 0.1),
        (struct.pack("<f", 1.5) + bytes([14, 4]), 1.5),
        (bytes([1, 104, 1]), True),
        (bytes([2]) + b"hi\0" + bytes([3, 20, 1]), "hi"),
        (b"key\0" + bytes([4, 16, 1]), "key"),
        (bytes([2]) + b"\xff\xfe" + bytes([2, 100, 1]), b"\xff\xfe"),
        (struct.pack("<i", -7) + bytes([4, 6 << 2 | 2, 1]), -7),
        (struct.pack("<H", 700) + bytes([2, 7 << 2 | 1, 1]), 700),
        (struct.pack("<d", 2.5) + bytes([8, 8 << 2 | 3, 1]), 2.5),
        (bytes([3, 1, 2, 0xFF, 3, 11 << 2, 1]), [1, 2, -1]),
        (bytes([2, 1, 255, 2, 12 << 2, 1]), [1, 255]),
        (struct.pack("<Iff", 2, 0.5, 2) + bytes([8, 13 << 2 | 2, 1]), [0.5, 2.0]),
        (b"a\0b\0" + bytes([2, 5, 4, 2, 14 << 2, 1]), ["a", "b"]),
        (bytes([2, 1, 0, 2, 36 << 2, 1]), [True, False]),
        (bytes([1, 2, 2, 16 << 2, 1]), [1, 2]),
        (bytes([1, 2, 3, 3, 20 << 2, 1]), [1, 2, 3]),
        (struct.pack("<ffff", 1, 2, 3, 4) + bytes([16, 24 << 2 | 2, 1]), [1, 2, 3, 4]),
        (b"a\0" + bytes([1, 3, 1, 1, 1, 7, 4, 2, 36, 1]), {"a": 7}),
    ],
)
def test_flexbuffers_of_each_type(data: bytes, value: object) -> None:
    """Every type of the format reads as the Python value it stands for."""
    found = decode_flexbuffer(data)
    assert found == value
    assert type(found) is type(value)


def test_flexbuffers_nested_too_deep_are_corrupt() -> None:
    """Nesting has a limit, well before Python's own."""
    assert decode_flexbuffer(nested_vectors(50)) is not None
    with pytest.raises(FormatError, match="deeper"):
        decode_flexbuffer(nested_vectors(5000))


def test_flexbuffers_that_unfold_without_end_are_corrupt() -> None:
    """A vector of vectors that are all the same one may not unfold to billions of values."""
    data = bytearray([10] + [0] * 10 + [0] * 10)
    target, packed = 1, 0
    for _ in range(8):
        count = len(data)
        slots = [count + 1 + i - target for i in range(10)]
        data += bytes([10, *slots]) + bytes([0b101000] * 10)
        target = count + 1
    data += bytes([len(data) - target, 0b101000, 1])
    assert packed == 0
    with pytest.raises(FormatError, match="overlap"):
        decode_flexbuffer(bytes(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_flexbuffer_or_a_format_error(noise: bytes) -> None:
    """Any bytes decode to a value or to FormatError."""
    with contextlib.suppress(FormatError):
        decode_flexbuffer(noise)


# -- MessagePack


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
)  # fmt: skip


@given(json_like)
def test_msgpack_values_read_back(value: object) -> None:
    """What MessagePack can say of JSON reads back as it was."""
    assert decode_msgpack(msgpack.packb(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\xa5hi",
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\x00\x0f\xff\xff" * 1000,
        b"\xdf\x00\x0f\xff\xff" * 1000,
        b"\x91" * 5000,
        b"\x81\x01\x02",
        b"\xa1\xff",
        b"\xd6\xff\0\0\0",
    ],
)
def test_malformed_msgpack_is_corrupt(data: bytes) -> None:
    """Truncated, over-long, too deep and impossible MessagePack is corrupt, and costs nothing."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            decode_msgpack(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize(
    "value",
    [b"\xc4\x01a", b"\xc7\x01\x05a", b"\xd6\xff\0\0\0\0", b"\x91" * 200 + b"\xc0"],
)
def test_metadata_is_what_json_can_say(value: bytes) -> None:
    """Bytes, extension types and unreadable nesting are no metadata."""
    items = root_of(Table({0: Vector([Table({0: "name", 1: value})])})).tables(0)
    with pytest.raises(FormatError):
        decode_metadata(items, Allowance(1))


@pytest.mark.parametrize(("spec_version", "limit"), [(1, MAX_MSGPACK), (2, MAX_METADATA)])
def test_metadata_of_a_file_has_a_limit(spec_version: int, limit: int) -> None:
    """The metadata values of one file together have at most so many bytes."""
    text = limit // 4 - 5
    if spec_version == 1:
        value = b"\xdb" + struct.pack(">I", text) + b"x" * text
    else:
        head = struct.pack("<I", text - 6) + b"x" * (text - 6)
        value = head + struct.pack("<I", text - 6) + bytes([5 << 2 | 2, 4])

    def items(count: int):
        # What is one object is written once and pointed to again, which is another crime.
        named = [Table({0: f"name {i}", 1: bytes(bytearray(value))}) for i in range(count)]
        return root_of(Table({0: Vector(named)})).tables(0)

    assert len(decode_metadata(items(4), Allowance(spec_version))) == 4
    with pytest.raises(FormatError, match="more metadata"):
        decode_metadata(items(5), Allowance(spec_version))


def test_metadata_may_be_nested_as_deep_as_the_limit_says() -> None:
    """A hundred levels of lists are read, and one more is refused."""
    for levels, is_read in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        items = root_of(
            Table({0: Vector([Table({0: "a", 1: b"\x91" * levels + b"\xc0"})])})
        ).tables(0)
        with contextlib.nullcontext() if is_read else pytest.raises(FormatError, match="deeper"):
            decode_metadata(items, Allowance(1))


# -- spec 1 entry points


def test_ref_file_names_a_snapshot() -> None:
    """A ref file gives the snapshot id in it."""
    assert decode_ref(b'{"snapshot":"VY76P925PRY57WFEK410"}') == "VY76P925PRY57WFEK410"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"snapshot": 1}',
        b'{"snapshot": "../../secret"}',
        b"[" * 4000,
        b" " * 5000 + b'{"snapshot":"VY76P925PRY57WFEK410"}',
    ],
)
def test_malformed_ref_file_is_corrupt(data: bytes) -> None:
    """What is not a small JSON object with a snapshot id is corrupt."""
    with pytest.raises(FormatError):
        decode_ref(data)


def test_config_declares_containers_whatever_their_store() -> None:
    """Containers are read with name, prefix, endpoint and anonymity, valid or not."""
    text = """
virtual_chunk_containers:
  s3:
    name: s3
    url_prefix: s3://testbucket
    store: !s3_compatible
      region: us-east-1
      endpoint_url: http://localhost:4200
      anonymous: true
  az: {name: az, url_prefix: az, store: !azure {}}
  file:///a/:
    name: null
    url_prefix: file:///a/
    store: !local_file_system /a/
  odd: 3
"""
    assert decode_config(text.encode()) == (
        VirtualChunkContainer("s3://testbucket", "s3", "http://localhost:4200", anonymous=True),
        VirtualChunkContainer("az", "az"),
        VirtualChunkContainer("file:///a/"),
        VirtualChunkContainer("odd"),
    )


@pytest.mark.parametrize("text", ["", "{}", "virtual_chunk_containers: null", "# nothing"])
def test_config_without_containers_declares_none(text: str) -> None:
    """A configuration need not declare containers."""
    assert decode_config(text.encode()) == ()


@pytest.mark.parametrize(
    "text",
    [
        "a: &anchor [1]\nb: *anchor",
        "a: &anchor 1",
        "[" * 1000,
        "{" * 1000,
        "- " * 1000 + "x",
        "3",
        "virtual_chunk_containers: [1]",
        "a: b: c",
        "--- 1\n--- 2",
        '"\\UFFFFFFFF"',
        'x: "\\uD800"',
        '"\\uD800": x',
        "[" + "[]," * 15_000 + "]",
        "%YAML " + "9" * 5000 + ".1\n---\n1",
        "\x00",
        " " * (MAX_CONFIG_SIZE + 1),
    ],
)
def test_hostile_or_malformed_config_is_corrupt(text: str) -> None:
    """Aliases, deep nesting, several documents and what is not YAML are refused."""
    with pytest.raises(FormatError):
        decode_config(text.encode())


def test_config_constructs_nothing() -> None:
    """A tag in the configuration names a kind of store and makes no object."""
    assert decode_config(b"x: !!python/object/apply:os.system ['false']\n") == ()


@given(st.text("-: !&*{}[],\n\t'\"|>%#?ab12\\xU", max_size=60))
def test_any_text_is_a_config_or_a_format_error(text: str) -> None:
    """Any text decodes to containers or to FormatError."""
    with contextlib.suppress(FormatError):
        decode_config(text.encode())


def test_flexbuffer_keys_end_soon() -> None:
    """A key that runs on for long is refused, as looking for its end costs as much for each key."""

    def key(length: int) -> bytes:
        text = b"x" * length + b"\0"
        return text + struct.pack("<I", len(text)) + bytes([4 << 2, 4])

    assert decode_flexbuffer(key(10_000)) == "x" * 10_000
    with pytest.raises(FormatError, match="does not end"):
        decode_flexbuffer(key(100_000))
