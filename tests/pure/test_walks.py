"""Walks through chunk grids are recognized from touches alone, and foretold in batches."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.readers import Coords, at_once, c_order, f_order, follow, in_flight, jumps, nested
from vzfs.walks import MAX_WALKS, Walks

LIMIT = 128
SEEDS = range(3)

SCANS = {
    "one axis": ((4096,), c_order(4096)),
    "C order": ((16, 16, 16), c_order(16, 16, 16)),
    "F order": ((16, 16, 16), f_order(16, 16, 16)),
    "the middle axis first": ((16, 16, 16), nested(*[range(16)] * 3, order=(1, 2, 0))),
    "descending": ((4096,), c_order(4096)[::-1]),
    "descending in C order": ((64, 64), c_order(64, 64)[::-1]),
    "four axes": ((10, 4, 8, 12), c_order(10, 4, 8, 12)),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("count", "coverage"), [(1, 0.99), (2, 0.99), (6, 0.99), (32, 0.85)])
@pytest.mark.parametrize(("shape", "order"), SCANS.values(), ids=SCANS)
def test_scans_are_foretold(
    shape: Coords, order: list[Coords], count: int, coverage: float, seed: int
) -> None:
    """A whole array is foretold from its third chunk on, and nothing is got in vain."""
    outcome = follow(Walks(shape), in_flight(order, count, random.Random(seed)), LIMIT)

    assert outcome.coverage >= coverage
    assert outcome.in_vain == 0
    assert outcome.batches <= (100 if count < 32 else 200)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_strided_selections_are_foretold(count: int, seed: int) -> None:
    """Every tenth of 4096 chunks is foretold, and nothing between them is got."""
    outcome = follow(Walks((4096,)), in_flight(jumps((4096,), 0, 10), count, random.Random(seed)))

    assert outcome.coverage >= 0.95
    assert outcome.in_vain == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_time_series_are_foretold(count: int, seed: int) -> None:
    """A line through the slowest axis is foretold; at its end little is got in vain."""
    series = nested(range(365), [2], [3])

    outcome = follow(Walks((365, 4, 8)), in_flight(series, count, random.Random(seed)))

    assert outcome.coverage >= 0.95
    assert outcome.in_vain <= 4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("count", "in_vain"), [(1, 20), (2, 40), (6, 64), (32, LIMIT)])
def test_slabs_are_learned(count: int, in_vain: int, seed: int) -> None:
    """The bounds of a sub-box are learned at its first turns, and kept from there on."""
    slab = nested(range(365), [1, 2], [2, 3, 4])

    outcome = follow(Walks((365, 4, 8)), in_flight(slab, count, random.Random(seed)), LIMIT)

    assert outcome.coverage >= 0.95
    assert outcome.in_vain <= in_vain


@pytest.mark.parametrize("count", [1, 6, 32])
@pytest.mark.parametrize("shape", [(4096,), (16, 16, 16), (64, 64)], ids=str)
def test_random_access_triggers_nothing(shape: Coords, count: int) -> None:
    """Of 100 readers who touch 400 random chunks each, at most one touch in 1000 gets one in vain."""
    chunks = c_order(*shape)
    in_vain = 0
    for seed in range(100):
        chance = random.Random(seed)
        wanted = chance.sample(chunks, 400)
        in_vain += follow(Walks(shape), in_flight(wanted, count, chance), LIMIT).in_vain

    assert in_vain <= 40


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 2, 6])
def test_two_readers_are_two_walks(count: int, seed: int) -> None:
    """Two readers at different places of one array are foretold both."""
    chance = random.Random(seed)
    readers = [in_flight(c_order(4096)[i:][:1500], count, chance) for i in (0, 2000)]

    outcome = follow(Walks((4096,)), at_once(*readers, chance=chance), LIMIT)

    assert outcome.coverage >= 0.98
    assert outcome.in_vain <= 4 * LIMIT


def test_two_chunks_begin_a_scan() -> None:
    """Who begins with the first two chunks of the array is taken to go on; elsewhere it takes three."""
    first, elsewhere = Walks((64, 64)), Walks((64, 64))

    assert [bool(first.touch(c, LIMIT)) for c in [(0, 0), (0, 1)]] == [False, True]
    assert [bool(elsewhere.touch(c, LIMIT)) for c in [(3, 0), (3, 1), (3, 2)]] == [
        False,
        False,
        True,
    ]


def test_a_limit_of_0_switches_off() -> None:
    """With a limit of 0 nothing is asked for; with a larger one later, what is ahead then."""
    walks = Walks((4096,))

    assert not any(walks.touch((i,), 0) for i in range(100))
    assert walks.touch((100,), LIMIT) == [(101,)]


def test_waste_shrinks_the_window_and_ends_the_walk() -> None:
    """Chunks dropped unread halve the window, and in the end the walk is forgotten."""
    walks = Walks((4096,))
    ahead = [c for i in range(100) for c in walks.touch((i,), LIMIT)]
    (window,) = walks.statistics().windows

    walks.waste(ahead[-1])
    assert walks.statistics().windows == (window // 2,)

    for coords in reversed(ahead[-10:-1]):
        walks.waste(coords)
    assert walks.statistics().windows == ()
    assert walks.statistics().outstanding == 0


shapes = st.lists(st.integers(1, 12), max_size=4).map(tuple)


@given(st.data(), shapes, st.integers(0, 20))
def test_whatever_is_touched(data: st.DataObject, shape: Coords, limit: int) -> None:
    """What is asked for lies in the grid and keeps to the limit, and the walks are few."""
    chunks = list(itertools.product(*map(range, shape)))
    walks = Walks(shape)
    place = 0
    for move in data.draw(st.lists(st.integers(-20, 20) | st.sampled_from([1, 1, 1, -1, 5]))):
        place = (place + move) % len(chunks)

        batch = walks.touch(chunks[place], limit)

        assert len(batch) <= limit
        assert set(batch) <= set(chunks) - {chunks[place]}
        assert len(set(batch)) == len(batch)
        statistics = walks.statistics()
        assert len(statistics.windows) <= MAX_WALKS
        assert all(window <= max(limit, 2) for window in statistics.windows)
