"""The files of the disk cache: names, heads, and tables of contents."""

import struct

import hypothesis
import numpy as np
import pytest
import xxhash
from hypothesis import strategies as st

from vzfs.cache.entry import EntryKey, check_entry, encode_entry, entry_digest
from vzfs.cache.segment import (
    MAX_HEAD,
    MAX_OWNER,
    SEGMENTS,
    Contents,
    decode_contents,
    encode_segment,
    entry_name,
    halves,
    head_size,
    only_entry,
    segment_name,
    shelf_path,
    stamp_of,
)
from vzfs.cache.shelves import Table
from vzfs.errors import FormatError

PATH = shelf_path(SEGMENTS, "a shelf")
KEYS = [EntryKey("s3://b/k", "v", offset, 5) for offset in range(3)]

texts = st.text(st.characters(exclude_categories=()), max_size=40)


def segment(owner: str = "s3://repo", path: str = PATH, keys: list[EntryKey] = KEYS) -> bytes:
    items = [
        (entry_digest(key), encode_entry(key, bytes([key.offset % 256]) * key.length))
        for key in keys
    ]
    return b"".join(encode_segment(owner, path, items))


def contents(blob: bytes, path: str = PATH) -> Contents:
    """Read what *blob* holds as whoever opens a segment does."""
    return decode_contents(blob[: head_size(blob[:200])], path, len(blob))


@hypothesis.given(
    texts, st.lists(st.tuples(texts, st.integers(0, 2**40), st.integers(0, 50)), max_size=20)
)
def test_every_entry_is_found_by_its_table(owner: str, rows: list[tuple[str, int, int]]) -> None:
    """Where the table says that an entry lies, there it is; the owner is kept as it was."""
    keys = list({EntryKey(place, "v", offset, length) for place, offset, length in rows})
    blob = segment(owner, PATH, keys)
    found = contents(blob)
    assert (found.owner, found.shelf, len(found)) == (owner, PATH.rpartition("/")[2], len(keys))
    for row, key in enumerate(keys):
        assert (int(found.high[row]), int(found.low[row])) == halves(entry_digest(key))
        offset, size = int(found.offset[row]), int(found.size[row])
        entry = blob[offset : offset + size]
        header = entry[: size - key.length]
        check_entry(key, header, entry[len(header) :])


def test_no_changed_byte_of_a_head_is_accepted() -> None:
    """Whichever bit of head and table is another, the segment is refused."""
    blob = segment()
    for position in range(contents(blob).head):
        for bit in range(8):
            changed = bytearray(blob)
            changed[position] ^= 1 << bit
            with pytest.raises(FormatError):
                contents(bytes(changed))


def test_no_other_length_of_a_segment_is_accepted() -> None:
    """A segment cut short anywhere, or continued, is refused, its table alone being read."""
    blob = segment()
    for cut in [*(blob[:n] for n in range(len(blob))), blob + b"\0"]:
        with pytest.raises(FormatError):
            contents(cut)


def test_a_segment_of_another_shelf_is_refused() -> None:
    """A segment says on which shelf it stands, and is believed on no other."""
    with pytest.raises(FormatError):
        contents(segment(), shelf_path(SEGMENTS, "another shelf"))


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", 0), ("offset", 2**63), ("offset", 2**64 - 1), ("size", 2**63), ("size", 2**64 - 1)],
)
def test_a_table_that_points_outside_is_refused(column: str, value: int) -> None:
    """Offsets and sizes beyond the file, whose sum overflows even, are damage."""
    blob = bytearray(segment())
    head = contents(bytes(blob)).head
    rows = np.frombuffer(blob, "<u8", 12, head - 8 - 96).reshape(3, 4)
    rows[1, {"offset": 2, "size": 3}[column]] = value
    blob[head - 8 : head] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(blob[: head - 8])))
    with pytest.raises(FormatError):
        contents(bytes(blob))


def test_a_head_cannot_ask_for_much() -> None:
    """The numbers at the beginning of a file make nobody read more than a bounded head."""
    for length, count in [(2**32 - 1, 0), (0, 2**32 - 1)]:
        with pytest.raises(FormatError):
            head_size(struct.pack("<8sIII", b"VZFSSEGM", 2, length, count))
    with pytest.raises(FormatError):
        head_size(struct.pack("<8sIII", b"VZFSSEGM", 3, 10, 1))


def test_an_owner_of_any_length_leaves_a_file_readable() -> None:
    """An owner's name is cut where it is too long, so that the head stays within its bound."""
    key = EntryKey("\U0001f30a" * 16_000, "", 0, 1)
    name = entry_name(key)
    parts = encode_segment(
        "\U0001f30a" * 2**16, name, [(entry_digest(key), encode_entry(key, b"x"))]
    )
    before = b"".join(parts[:-1])
    assert len(before) <= MAX_HEAD
    assert len(decode_contents(before, name, len(before) + 1).owner) == MAX_OWNER
    check_entry(key, only_entry(key, name, before), b"x")


def test_a_file_of_one_entry_has_no_other() -> None:
    """What stands between head and data of a file with one entry is that entry's header."""
    name = entry_name(KEYS[0])
    for blob in (segment(path=name), segment(path=name, keys=[])):
        with pytest.raises(FormatError):
            only_entry(KEYS[0], name, blob[: len(blob) - KEYS[0].length])


def test_names_are_stable() -> None:
    """Names do not depend on the process, so that other processes and later ones find the files."""
    assert (
        entry_name(EntryKey("s3://b/k", "v", 1, 2))
        == "v2/entries/b4/8e862af6a2684acd46804ca1c49a4d8a4250129c9499c9d92e560df2746252"
    )
    assert (
        shelf_path("v2/segments", "shelf")
        == "v2/segments/9d4/a2919f1bc0a710a06dfb5116ceb30656f82ec"
    )


def test_later_segments_sort_behind() -> None:
    """A segment's name says which shelf it stands on, and when it was added."""
    names = [
        segment_name(PATH, stamp, salt) for stamp, salt in [(1, "ffffffff"), (2**60, "00000000")]
    ]
    assert names == sorted(names)
    assert [stamp_of(name) for name in names] == [1, 2**60]
    assert all(name.startswith(f"{PATH}-") for name in names)


class Fake:
    """A segment as tables see it."""

    def __init__(self, keys: list[EntryKey]) -> None:
        self.contents = contents(segment(keys=keys))


def test_of_two_entries_the_one_in_the_later_segment_counts() -> None:
    """A table of several segments finds what was added last, and passes over what that replaced."""
    first, second = Fake(KEYS), Fake(KEYS[1:2])
    table = Table([first, second])
    assert [table.find(entry_digest(key))[0] for key in KEYS] == [first, second, first]
    assert table.find(entry_digest(EntryKey("x", "v", 0, 1))) is None
    assert Table([]).find(entry_digest(KEYS[0])) is None
    kept = [digest for digest, _, _ in table.rows(first)]
    assert kept == [entry_digest(KEYS[n])[:16] for n in (0, 2)]
    assert [digest for digest, _, _ in table.rows(second)] == [entry_digest(KEYS[1])[:16]]
