"""Compiled manifests: what was encoded is decoded, and nothing else is a manifest."""

import contextlib
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import FormatError
from vzfs.formats.compiled import decode_compiled, encode_compiled, wanted_digest
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    ChunkRef,
    Manifest,
    StringTable,
    ascending,
    narrow,
)
from vzfs.model.snapshot import Extents, WantedArray

NODE = b"12345678"
WANTED = {NODE: WantedArray(ChunkGrid((2**40,)), [Extents(((0, 2**40),))])}


def manifest(refs: dict[int, ChunkRef]) -> Manifest:
    """Return the columns of *refs*, by their flat indices."""
    order = sorted(refs)
    rows = [refs[flat] for flat in order]
    inline = b"".join(bytes(ref.inline) for ref in rows)
    locations = list(dict.fromkeys(ref.location for ref in rows if not ref.inline))
    distinct = list(dict.fromkeys(ref.checksum for ref in rows if ref.checksum))
    checksums = ChecksumTable.of(distinct)
    numbers = {checksum: i for i, checksum in enumerate(checksums, start=1)}
    starts = np.cumsum([0, *(len(ref.inline) for ref in rows)])
    offsets = [
        int(start) if ref.kind is ChunkKind.INLINE else ref.offset
        for ref, start in zip(rows, starts, strict=False)
    ]
    places = [0 if ref.inline else locations.index(ref.location) for ref in rows]
    return Manifest(
        index=ascending(np.array(order, np.int64)),
        kind=narrow(np.array([ref.kind for ref in rows], np.int64)),
        location=narrow(np.array(places, np.int64)),
        offset=narrow(np.array(offsets, np.int64)),
        length=narrow(np.array([ref.length for ref in rows], np.int64)),
        checksum=narrow(np.array([numbers.get(ref.checksum, 0) for ref in rows], np.int64)),
        locations=StringTable.of(locations),
        checksums=checksums,
        inline=inline,
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
virtual = st.builds(
    ChunkRef,
    st.sampled_from([ChunkKind.NATIVE, ChunkKind.VIRTUAL]),
    st.integers(0, 2**62 - 1) | st.integers(0, 300),
    texts,
    st.integers(0, 2**62) | st.integers(0, 70_000),
    st.none() | texts.map(ETag) | st.integers(1, 2**32 - 1).map(LastModified),
    st.just(b""),
)
inline = st.binary(min_size=1, max_size=9).map(
    lambda data: ChunkRef(ChunkKind.INLINE, len(data), inline=data)
)
flats = st.integers(0, 40) | st.integers(0, 2**40 - 1)
many_refs = st.dictionaries(flats, virtual | inline, max_size=30)


def refs_of(found: Manifest) -> dict[int, ChunkRef]:
    return {int(flat): found.ref(row) for row, flat in enumerate(found.index)}


@given(many_refs, st.integers(0, 7))
def test_what_was_compiled_is_decoded(refs: dict[int, ChunkRef], shift: int) -> None:
    """Refs of every kind come back, wherever in memory the bytes lie."""
    data = bytes(shift) + bytes(encode_compiled({NODE: manifest(refs)}))
    found = decode_compiled(memoryview(data)[shift:], WANTED)[NODE]
    assert refs_of(found) == refs
    assert [found.length_at(row) for row in range(len(found))] == [
        refs[flat].length for flat in sorted(refs)
    ]
    for column in (found.kind, found.location, found.offset, found.length, found.checksum):
        assert not column.flags.writeable


@given(st.lists(many_refs, max_size=4))
def test_arrays_of_a_file_are_kept_together(files: list[dict[int, ChunkRef]]) -> None:
    """Each array of a file has its own refs, and each that was asked for is there."""
    nodes = [bytes([i]) * 8 for i in range(len(files))]
    data = encode_compiled(dict(zip(nodes, map(manifest, files), strict=True)))
    wanted = dict.fromkeys(nodes, WANTED[NODE])
    found = decode_compiled(data, wanted)
    assert [refs_of(found[node]) for node in nodes] == files
    with pytest.raises(FormatError, match="other arrays"):
        decode_compiled(data, wanted | {b"another.": WANTED[NODE]})


def test_columns_are_parts_of_what_was_decoded() -> None:
    """Decoding copies no column: a million refs take no memory of their own."""
    count = 1_000_000
    refs = Manifest(
        index=range(count),
        kind=narrow(np.full(count, ChunkKind.VIRTUAL)),
        location=narrow(np.arange(count) // 1000),
        offset=narrow(np.arange(count) * 5000),
        length=narrow(np.full(count, 5000)),
        checksum=narrow(np.ones(count, np.int64)),
        locations=StringTable.of([f"s3://b/{i}" for i in range(1000)]),
        checksums=ChecksumTable.of([LastModified(7)]),
        inline=b"",
    )
    data = encode_compiled({NODE: refs})
    # Two bytes for the object, eight for the offset, and what is the same for all takes none.
    assert len(data) < 10.1 * count
    found = decode_compiled(data, WANTED)[NODE]
    assert found.ref(999_999) == refs.ref(999_999)
    assert np.shares_memory(found.offset, np.frombuffer(data, np.uint8))


def sound() -> bytes:
    refs = {
        3: ChunkRef(ChunkKind.VIRTUAL, 5, "s3://b/é", 300, ETag("e")),
        9: ChunkRef(ChunkKind.NATIVE, 70_000, "chunks/A", 1),
        10: ChunkRef(ChunkKind.INLINE, 3, inline=b"abc"),
        20: ChunkRef(ChunkKind.VIRTUAL, 5, "s3://b/k", 2**40, LastModified(7)),
    }
    return bytes(encode_compiled({NODE: manifest(refs)}))


def test_every_beginning_is_refused() -> None:
    """What is cut short anywhere is no manifest."""
    data = sound()
    refs_of(decode_compiled(data, WANTED)[NODE])
    for length in range(len(data) - 8):
        with pytest.raises(FormatError):
            decode_compiled(data[:length], WANTED)


def test_every_changed_byte_is_refused_or_harmless() -> None:
    """A manifest with a changed byte is refused, or all that it says can be looked at."""
    data = sound()
    for at in range(len(data)):
        for change in (1, 128, 255):
            changed = bytearray(data)
            changed[at] ^= change
            with contextlib.suppress(FormatError):
                found = decode_compiled(bytes(changed), WANTED)[NODE]
                for row, flat in enumerate(found.indices(0, min(len(found), 100)).tolist()):
                    ref = found.ref(row)
                    assert flat < 2**40
                    assert 0 <= ref.range.offset <= ref.range.end < 2**63
                    assert ref.kind is not ChunkKind.INLINE or len(ref.inline) == ref.length


def remade(change) -> bytes:
    """Return a sound file with its map changed."""
    data = sound()
    length = struct.unpack_from("<I", data, 12)[0]
    arrays = msgpack.unpackb(data[16 : 16 + length])
    change(arrays)
    packed = msgpack.packb(arrays)
    head = data[:12] + struct.pack("<I", len(packed)) + packed
    body = 16 + length + -(16 + length) % 8
    return head + bytes(-len(head) % 8) + data[body:]


ROWS, INDEX, KIND, LOCATION, OFFSET, LENGTH, CHECKSUM, LOCATIONS, ETAGS, DATES, INLINE = range(
    1, 12
)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (0, b"another.", "map"),
        (0, 2**60, "map"),
        (ROWS, 2**40, "too many rows"),
        (ROWS, -1, "too many rows"),
        (ROWS, "4", "map"),
        (INDEX, [5, 0], "not ascend"),
        (INDEX, [-1, 1], "not ascend"),
        (INDEX, [2**40 - 3, 1], "outside its grid"),
        (INDEX, [7], "not ascend"),
        (KIND, [3], "no kind"),
        (KIND, [1, 2**40, 0], "outside it"),
        (KIND, [1, -8, 0], "outside it"),
        (KIND, [3, 0, 0], "no width"),
        (KIND, [[2]], "map"),
        (LOCATION, [3], "location"),
        (OFFSET, [2**63 - 1], "beyond any object"),
        (OFFSET, [2**64 - 1], "beyond any object"),
        (KIND, [0], "lie outside it"),
        (CHECKSUM, [3], "checksum"),
        (LOCATIONS, [2**40, [0], [0, 0]], "too many texts"),
        (LOCATIONS, [1, [0, 30], [0, 20]], "text reaches outside"),
        (LOCATIONS, [3, [0], [0, 0]], None),
        (ETAGS, [0, [0], [0, 0]], "checksum"),
        (DATES, [1, [2**32]], "date"),
        (DATES, [2**40, [1]], "too many dates"),
        (INLINE, [0, 2], "lie outside it"),
        (INLINE, [0], "map"),
    ],
)  # fmt: skip
def test_a_map_that_says_too_much_is_refused(field: int, value: object, words: str | None) -> None:
    """Rows, columns and texts that are not there, or lead nowhere, are refused, whoever wrote them."""
    data = remade(lambda arrays: arrays[0].__setitem__(field, value))
    if words is None:
        assert decode_compiled(data, WANTED)[NODE].ref(0).location == ""
        return
    with pytest.raises(FormatError, match=words) as caught:
        decode_compiled(data, WANTED)
    assert "compiled manifest is damaged" in caught.value.what


@pytest.mark.parametrize("size", [8, 10])
def test_texts_that_are_not_utf8_are_refused(size: int) -> None:
    """A text that is cut within a character is refused, at the end of all texts and between two."""

    def change(arrays: list) -> None:
        # The first location is s3://b/é, whose last two bytes are one character.
        place = arrays[0][LOCATIONS][2][0]
        arrays[0][LOCATIONS] = [3, [5, 1], [place, size]]

    with pytest.raises(FormatError, match="not UTF-8"):
        decode_compiled(remade(change), WANTED)


def test_a_map_that_lacks_something_is_refused() -> None:
    """A map without an array, or without one of its columns, is refused."""
    for change in (list.clear, lambda arrays: arrays[0].pop()):
        with pytest.raises(FormatError):
            decode_compiled(remade(change), WANTED)


def test_what_is_wanted_has_a_name() -> None:
    """The name stays while an array grows along its first dimension, and changes with all that counts."""
    grid = ChunkGrid((10, 4))
    region = Extents(((0, 10), (0, 4)))
    name = wanted_digest({NODE: WantedArray(grid, [region])})
    grown = ChunkGrid((20, 4))
    assert wanted_digest({NODE: WantedArray(grown, [region])}) == name
    assert wanted_digest({NODE: WantedArray(grid, [Extents(((0, 99), (0, 4)))])}) == name
    others = [
        {NODE: WantedArray(grown, [Extents(((0, 20), (0, 4)))])},
        {NODE: WantedArray(ChunkGrid((10, 5)), [region])},
        {NODE: WantedArray(grid, [region, Extents(((3, 4), (0, 4)))])},
        {NODE: WantedArray(grid, [])},
        {b"87654321": WantedArray(grid, [region])},
        {NODE: WantedArray(grid, [region]), b"87654321": WantedArray(grid, [region])},
        {},
    ]
    assert len({name, *map(wanted_digest, others)}) == 8
