"""Manifests as columns: how narrow they are, and what is found in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.model.location import ETag
from vzfs.model.manifest import (
    MAX_FLAT_INDEX,
    ChecksumTable,
    ChunkKind,
    ChunkRef,
    Manifest,
    StringTable,
    ascending,
    narrow,
)

values = st.integers(0, 2**63 - 1) | st.integers(0, 300)
flats = st.sets(st.integers(0, 200) | st.integers(MAX_FLAT_INDEX - 5, MAX_FLAT_INDEX))


def virtual(index: list[int]) -> Manifest:
    """Return a manifest in which the chunk with index f has f % 7 bytes at f."""
    column = np.array(sorted(index), np.int64)
    return Manifest(
        index=ascending(column),
        kind=narrow(np.full(len(column), ChunkKind.VIRTUAL)),
        location=narrow(column % 3),
        offset=narrow(column // 2),
        length=narrow(column % 7),
        checksum=narrow(column % 2),
        locations=StringTable.of(["a", "", "ccc"]),
        checksums=ChecksumTable.of([ETag("e")]),
        inline=b"",
    )


@given(st.lists(values))
def test_narrow_columns_hold_the_same_values(column: list[int]) -> None:
    """A column narrowed is equal, read-only, and in the smallest type; of one value it takes no memory."""
    found = narrow(np.array(column, np.int64))
    assert found.tolist() == column
    assert not found.flags.writeable
    assert found.dtype == np.min_scalar_type(max(column, default=0))
    assert found.strides == (0,) or len(set(column)) > 1


@given(
    st.sets(values) | st.builds(range, values, values, st.integers(1, 2**40)).map(lambda r: r[:9])
)
def test_equal_steps_are_a_range(column: set[int] | range) -> None:
    """Ascending values equally far apart become a range, others stay a column."""
    found = ascending(np.array(sorted(column), np.int64))
    assert list(found) == sorted(column)
    steps = set(np.diff(np.array(sorted(column), np.int64)).tolist())
    assert isinstance(found, range) == (len(steps) <= 1)


@given(flats, flats)
def test_rows_are_found_as_in_a_list(present: set[int], asked: set[int]) -> None:
    """Rows, refs, lengths and runs of a manifest are those of a list of its indices."""
    manifest = virtual(list(present))
    index = sorted(present)
    assert manifest.indices(0, len(manifest)).tolist() == index
    for flat in present | asked:
        row = manifest.row(flat)
        assert row == (index.index(flat) if flat in present else None)
        assert manifest.first(flat) == sum(f < flat for f in index)
        assert manifest.has_any(flat, flat + 3) == any(flat <= f < flat + 3 for f in index)
        if row is not None:
            checksum = ETag("e") if flat % 2 else None
            location = ["a", "", "ccc"][flat % 3]
            expected = ChunkRef(ChunkKind.VIRTUAL, flat % 7, location, flat // 2, checksum)
            assert manifest.ref(row) == expected
            assert manifest.length_at(row) == flat % 7
            # A ref can be asked for again, and has plain integers.
            assert {type(manifest.ref(row).offset), type(manifest.ref(row).length)} == {int}


@given(flats, st.integers(0, 100), st.integers(0, 200), st.integers(1, 20), st.integers(1, 9))
def test_runs_are_listed_as_from_a_list(
    present: set[int], low: int, size: int, count: int, stride: int
) -> None:
    """The chunks between two indices, and what directories they lie in, come in order, so many at a time."""
    manifest = virtual(list(present))
    high = low + size
    inside = [f for f in sorted(present) if low <= f < high]
    indices, lengths = manifest.chunks(low, high, count)
    assert indices.tolist() == inside[:count]
    assert lengths.tolist() == [f % 7 for f in inside[:count]]
    heads = sorted({(f - low) // stride for f in inside})
    assert manifest.heads(low, high, stride, count).tolist() == heads[:count]


@pytest.mark.parametrize("is_dense", [True, False])
def test_directories_of_many_rows_are_listed(is_dense: bool) -> None:
    """Directories with fewer and with more chunks than are looked at together are all there."""
    index = np.arange(0, 3_000_000, 1 if is_dense else 3)
    manifest = virtual(index if is_dense else [*index.tolist(), 1])
    for stride in (10, 5000, 1_000_000):
        heads = manifest.heads(0, 3_000_000, stride, 3_000_000)
        assert heads.tolist() == list(range(3_000_000 // stride))


def test_a_string_table_forgets_and_decodes_again() -> None:
    """However many strings of a table are asked for, each is right, and few are kept."""
    strings = [f"s3://bucket/é{i}" for i in range(1000)]
    table = StringTable.of(strings)
    for _ in range(2):
        assert list(table) == strings
    assert len(table._decoded) < 300
    with pytest.raises(IndexError):
        table[1000]
