"""Which requests are made for the pieces that are wanted."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.model.location import ByteRange
from vzfs.plan import (
    BLOCK,
    GAP_SHARE,
    LARGEST_GAP,
    LONGEST_SPAN,
    MIN_PART,
    SHARD_BLOCK,
    WHOLE_LIMIT,
    block_of,
    gaps,
    parts,
    pieces,
    spans,
)

KIB, MIB = 2**10, 2**20


@given(
    st.integers(1, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 10**7),
    st.sampled_from([0, BLOCK, SHARD_BLOCK]),
)
def test_pieces_are_adjacent_aligned_and_hold_what_is_read(
    length: int, offset: int, size: int, block: int
) -> None:
    """The pieces of a read follow each other, begin at multiples of their length, and hold its bytes."""
    found = pieces(length, offset, size, block)
    wanted = range(offset, min(offset + size, length))
    if not wanted:
        assert found == []
        return
    assert found[0].offset <= wanted.start
    assert found[-1].end >= wanted.stop
    assert all(a.end == b.offset for a, b in pairwise(found))
    assert found[-1].end <= length
    if block:
        assert all(piece.offset % block == 0 and piece.length <= block for piece in found)
        assert len(found) <= size // block + 2
    else:
        assert found == [ByteRange(0, length)]


@pytest.mark.parametrize(
    ("length", "is_shard", "block"),
    [
        (1, False, 0),
        (WHOLE_LIMIT, False, 0),
        (WHOLE_LIMIT + 1, False, BLOCK),
        (SHARD_BLOCK, True, 0),
        (SHARD_BLOCK + 1, True, SHARD_BLOCK),
        (10 * WHOLE_LIMIT, True, SHARD_BLOCK),
    ],
)
def test_what_is_small_comes_whole(length: int, *, is_shard: bool, block: int) -> None:
    """A chunk up to 16 MiB is one piece, a larger one has blocks, and a shard small ones."""
    assert block_of(length, is_shard=is_shard) == block


@given(st.integers(1, WHOLE_LIMIT), st.floats(1e5, 1e11))
def test_parts_are_the_piece_and_none_is_small(length: int, bandwidth: float) -> None:
    """The parts of a piece follow each other, are all of it, and are of a size worth a request."""
    found = parts(length, bandwidth)
    assert found[0].offset == 0
    assert found[-1].end == length
    assert all(a.end == b.offset for a, b in pairwise(found))
    assert len(found) == 1 or min(part.length for part in found) >= MIN_PART
    assert max(p.length for p in found) - min(p.length for p in found) <= 1


def test_a_slow_connection_is_one_of_many() -> None:
    """At 90 MB/s a piece of 8 MiB comes in parts of about 1 MiB; at 2 GB/s at once."""
    assert len(parts(8 * MIB, 90e6)) in {7, 8}
    assert len(parts(8 * MIB, 2e9)) == 1


@given(
    st.lists(st.tuples(st.integers(0, 50 * MIB), st.integers(1, 5 * MIB)), max_size=40),
    st.floats(1e-5, 10),
    st.floats(1e4, 1e11),
)
def test_spans_have_every_range_once_and_little_else(
    ranges: list[tuple[int, int]], latency: float, bandwidth: float
) -> None:
    """Each range is in one request, none of which is too long or has too much that nobody wants."""
    wanted = [ByteRange(offset, length) for offset, length in ranges]
    groups = list(spans(wanted, latency, bandwidth))
    assert sorted(i for group in groups for i in group) == list(range(len(wanted)))
    for group in groups:
        members = [wanted[i] for i in group]
        assert members == sorted(members, key=lambda r: r.offset)
        length = max(r.end for r in members) - members[0].offset
        assert len(group) == 1 or length <= LONGEST_SPAN
        assert gaps(members) * GAP_SHARE <= length
        ends = accumulate((r.end for r in members), max)
        assert all(b.offset - end <= LARGEST_GAP for end, b in zip(ends, members[1:], strict=False))


def test_neighbours_come_by_one_request_and_strangers_by_their_own() -> None:
    """Adjacent chunks share requests of some latencies' length; what lies every tenth place does not."""
    adjacent = [ByteRange(i * 40 * KIB, 40 * KIB) for i in range(1000)]
    assert [len(group) for group in spans(adjacent[:64], 0.025, 90e6)] == [64]
    assert [len(group) for group in spans(adjacent[:64] * 2, 0.025, 90e6)] == [128]
    assert len(list(spans(adjacent, 0.025, 90e6))) == 13
    assert len(list(spans(adjacent, 0.0003, 1e9))) == 40
    assert len(list(spans(adjacent, 0.2, 90e6))) == 5
    assert [len(group) for group in spans(adjacent[:64:10], 0.025, 90e6)] == [1] * 7


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), max_size=10))
def test_gaps_are_the_bytes_that_no_range_has(ranges: list[tuple[int, int]]) -> None:
    """What lies between the first and the last byte and in no range is counted once."""
    wanted = sorted((ByteRange(*r) for r in ranges), key=lambda r: r.offset)
    held = {i for r in wanted for i in range(r.offset, r.end)}
    assert gaps(wanted) == (max(held) + 1 - min(held) - len(held) if held else 0)
