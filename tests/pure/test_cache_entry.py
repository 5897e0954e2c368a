"""The entries of the disk cache: digests, headers, and what makes them proof."""

import struct

import hypothesis
import pytest
import xxhash
from hypothesis import strategies as st

from vzfs.cache.entry import (
    MAX_HEADER,
    EntryKey,
    check_entry,
    decode_record,
    encode_entry,
    encode_record,
    entry_digest,
    record_digest,
    record_shelf,
)
from vzfs.errors import ErrorKind, FormatError

KEY = EntryKey("s3://bucket/a b/ü.nc", 'etag "abc"', 4096, 12)
DATA = b"twelve bytes"

texts = st.text(st.characters(exclude_categories=()), max_size=40)
keys = st.builds(EntryKey, texts, texts, st.integers(0, 2**63 - 1), st.integers(0, 64))


def join(key: EntryKey, data: bytes) -> bytes:
    return b"".join(encode_entry(key, data))


def frame(magic: bytes, identity: bytes, data_checksum: int = 0) -> bytes:
    """Give *identity* the frame of a header."""
    framed = struct.pack("<8sII", magic, 2, len(identity)) + identity
    framed += struct.pack("<Q", data_checksum)
    return framed + struct.pack("<Q", xxhash.xxh3_64_intdigest(framed))


def check(key: EntryKey, blob: bytes, length: int) -> None:
    """Check *blob* as whoever reads an entry of *length* bytes of data does: header first."""
    split = len(blob) - length
    if split < 0:
        raise FormatError(ErrorKind.CORRUPT_METADATA, "cut short")
    check_entry(key, blob[:split], blob[split:])


@hypothesis.given(keys, st.data())
def test_an_entry_proves_itself(key: EntryKey, draw: st.DataObject) -> None:
    """What was encoded for a key is accepted for that key, whatever its texts are."""
    data = draw.draw(st.binary(min_size=key.length, max_size=key.length))
    header, body = encode_entry(key, data)
    check_entry(key, header, bytes(body))
    assert len(header) <= MAX_HEADER


@pytest.mark.parametrize("position", range(len(join(KEY, DATA))))
def test_no_changed_byte_is_accepted(position: int) -> None:
    """Whichever bit of whichever byte of an entry is another, it is refused."""
    blob = join(KEY, DATA)
    for bit in range(8):
        changed = bytearray(blob)
        changed[position] ^= 1 << bit
        with pytest.raises(FormatError):
            check(KEY, bytes(changed), KEY.length)


def test_no_other_length_is_accepted() -> None:
    """An entry cut short anywhere, or continued, is refused."""
    blob = join(KEY, DATA)
    for cut in [*(blob[:n] for n in range(len(blob))), blob + b"\0"]:
        with pytest.raises(FormatError):
            check(KEY, cut, KEY.length)


@pytest.mark.parametrize(
    "other",
    [
        EntryKey(KEY.location + "x", KEY.version, KEY.offset, KEY.length),
        EntryKey(KEY.location, KEY.version + "x", KEY.offset, KEY.length),
        EntryKey(KEY.location, KEY.version, KEY.offset + 1, KEY.length),
        EntryKey(KEY.location, KEY.version, KEY.offset, KEY.length - 1),
    ],
)
def test_an_entry_of_another_key_is_refused(other: EntryKey) -> None:
    """Every part of the key counts, in the header as in the digest."""
    with pytest.raises(FormatError):
        check(other, join(KEY, DATA), other.length)
    assert entry_digest(other) != entry_digest(KEY)


def test_data_of_the_wrong_length_make_no_entry() -> None:
    """Bytes that are not as many as the key says cannot be encoded."""
    with pytest.raises(ValueError, match="11 bytes"):
        encode_entry(KEY, DATA[1:])


@hypothesis.given(keys, keys)
def test_digests_tell_keys_apart(one: EntryKey, other: EntryKey) -> None:
    """Two keys have the same digest only if they are the same key."""
    assert (entry_digest(one) == entry_digest(other)) == (one == other)


def test_where_one_text_ends_and_the_next_begins_is_part_of_a_digest() -> None:
    """Moving a character from location to version gives another digest."""
    assert entry_digest(EntryKey("ab", "c", 0, 1)) != entry_digest(EntryKey("a", "bc", 0, 1))


def test_digests_are_stable() -> None:
    """Digests do not depend on the process, so that other processes and later ones find the entries."""
    assert entry_digest(EntryKey("s3://b/k", "v", 1, 2)).hex() == (
        "b48e862af6a2684acd46804ca1c49a4d8a4250129c9499c9d92e560df2746252"
    )
    assert record_digest("s3://b/k").hex() == (
        "bf92159cd1dbe7b48b59cf7f5b41157d7bfab658165931554efd67c8ccb462c6"
    )


def test_objects_beside_each_other_have_their_records_on_one_shelf() -> None:
    """The records of what lies in one folder of a bucket are found together."""
    assert record_shelf("s3://b/d/x.nc") == record_shelf("s3://b/d/y.nc") == "s3://b/d"


def test_an_entry_holds_nothing_but_its_identity_and_data() -> None:
    """A header is magic, version and length, the four parts of the key, the checksum of the data, and its own."""
    header, data = encode_entry(EntryKey("s3://b/k", "v", 1, 2), b"xy")
    assert data == b"xy"
    identity = struct.pack("<QQII", 1, 2, 8, 1) + b"s3://b/kv"
    assert header == frame(b"VZFSCHNK", identity, xxhash.xxh3_64_intdigest(b"xy"))


@pytest.mark.parametrize(
    ("key", "is_storable"),
    [
        (EntryKey("l", "v", 2**63 - 1, 2**63 - 1), True),
        (EntryKey("l", "v", 2**63, 1), False),
        (EntryKey("l", "v", 0, 2**63), False),
        (EntryKey("l", "v", -1, 1), False),
        (EntryKey("l", "v", 0, -1), False),
        (EntryKey("l" * 8000, "v" * 8000, 0, 1), True),
        (EntryKey("l" * 8000, "v" * 8001, 0, 1), False),
    ],
)
def test_keys_that_no_header_holds_are_known(key: EntryKey, is_storable: bool) -> None:
    """Numbers beyond 63 bits and texts beyond the bound make a key that is not stored."""
    assert key.is_storable is is_storable


def test_the_largest_identity_fits_into_a_header() -> None:
    """The bound on characters keeps the bound on bytes, even if each character takes four."""
    key = EntryKey("\U0001f30a" * 16_000, "", 2**63 - 1, 0)
    assert key.is_storable
    assert len(encode_entry(key, b"")[0]) <= MAX_HEADER


# -- version records ---------------------------------------------------------------------------


@hypothesis.given(texts, texts)
def test_a_record_says_its_version(location: str, version: str) -> None:
    """Any version comes back as it was, for its own location and for no other."""
    record = encode_record(location, version)
    assert decode_record(location, record) == version
    with pytest.raises(FormatError):
        decode_record(location + "x", record)


def test_no_changed_byte_of_a_record_is_accepted() -> None:
    """Whichever bit of a record is another, wherever it is cut: it is refused."""
    record = encode_record("s3://b/k", "etag abc")
    for position in range(len(record)):
        with pytest.raises(FormatError):
            decode_record("s3://b/k", record[:position])
        for bit in range(8):
            changed = bytearray(record)
            changed[position] ^= 1 << bit
            with pytest.raises(FormatError):
                decode_record("s3://b/k", bytes(changed))


@hypothesis.given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(blob: bytes) -> None:
    """Bytes that are no record raise FormatError and nothing else, framed as one or not."""
    for record in (blob, frame(b"VZFSVERS", blob)):
        with pytest.raises(FormatError):
            decode_record("s3://b/k", record)


def test_an_entry_is_no_record() -> None:
    """The two kinds of file do not pass for each other."""
    header, _ = encode_entry(EntryKey("s3://b/k", "v", 0, 0), b"")
    with pytest.raises(FormatError):
        decode_record("s3://b/k", header)
    with pytest.raises(FormatError):
        check_entry(EntryKey("s3://b/k", "v", 0, 0), encode_record("s3://b/k", "v"), b"")
