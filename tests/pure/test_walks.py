"""Walks through chunk grids are recognized from touches alone, and foretold in batches."""

import itertools
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.readers import (
    Coords,
    at_once,
    blocks,
    c_order,
    f_order,
    follow,
    in_flight,
    jumps,
    nested,
    workers,
)
from vzfs.walks import MAX_WALKS, Walks, walks
from vzfs.walks.fitting import fit

LIMIT = 128
BEHIND = 16
"""Chunks that may be waited for behind the front of an orderly reader's walk."""
seeds = pytest.mark.parametrize("seed", range(1))

SCANS = {
    "one axis": ((4096,), c_order(4096), 0.98),
    "C order": ((16, 16, 16), c_order(16, 16, 16), 0.98),
    "F order": ((16, 16, 16), f_order(16, 16, 16), 0.98),
    "the middle axis first": ((16, 16, 16), nested(*[range(16)] * 3, order=(1, 2, 0)), 0.95),
    "descending": ((4096,), c_order(4096)[::-1], 0.98),
    "descending in C order": ((64, 64), c_order(64, 64)[::-1], 0.98),
    "four axes": ((10, 4, 8, 12), c_order(10, 4, 8, 12), 0.98),
}


@seeds
@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize(("shape", "order", "coverage"), SCANS.values(), ids=SCANS)
def test_scans_are_foretold(
    shape: Coords, order: list[Coords], coverage: float, count: int, seed: int
) -> None:
    """A whole array is foretold almost from its third chunk on, in few batches and none in vain."""
    outcome = follow(Walks(shape), in_flight(order, count, random.Random(seed)), LIMIT)

    assert outcome.coverage >= coverage
    assert outcome.in_vain == 0
    assert outcome.too_late <= 10
    assert 60 <= outcome.batches <= 100


@seeds
@pytest.mark.parametrize(("shape", "order"), [scan[:2] for scan in SCANS.values()], ids=list(SCANS))
def test_scans_of_many_requests_are_foretold(shape: Coords, order: list[Coords], seed: int) -> None:
    """With 32 requests in flight, in whatever order they come, a scan is foretold all the same."""
    outcome = follow(Walks(shape), in_flight(order, 32, random.Random(seed)), LIMIT)

    assert outcome.coverage >= 0.88
    assert outcome.in_vain == 0
    assert outcome.batches <= 200


LINES = {
    "every tenth of one axis": ((4096,), jumps((4096,), 0, 10), 0.95),
    "every tenth, across the edges": ((64, 64), jumps((64, 64), 3, 10), 0.85),
    "a diagonal": ((400, 400), jumps((400, 400), 0, 401), 0.9),
    "a time series": ((365, 4, 8), nested(range(365), [2], [3]), 0.95),
    "a time series, backwards": ((365, 4, 8), nested(range(364, -1, -1), [2], [3]), 0.95),
    "part of a time series": ((730, 4, 8), nested(range(100, 730, 2), [2], [3]), 0.95),
}


@seeds
@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize(("shape", "order", "coverage"), LINES.values(), ids=LINES)
def test_lines_are_foretold(
    shape: Coords, order: list[Coords], coverage: float, count: int, seed: int
) -> None:
    """Lines in constant steps are foretold; at the edge of the grid a turn is only tried."""
    outcome = follow(Walks(shape), in_flight(order, count, random.Random(seed)), LIMIT)

    assert outcome.coverage >= coverage
    assert outcome.in_vain <= 12


BOXES = {
    "two by three, of all times": ((365, 4, 8), nested(range(365), [1, 2], [2, 3, 4]), 64),
    "two by two, of all times": ((365, 4, 8), nested(range(365), [1, 2], [2, 3]), 16),
    "strided": ((365, 4, 8), nested(range(0, 365, 3), [0, 2], [1, 3, 5]), 16),
    "C order": ((64, 64), nested(range(10, 50), range(20, 40)), 2 * LIMIT + 64),
    "F order": ((64, 64), nested(range(10, 50), range(20, 40), order=(0, 1)), 2 * LIMIT + 64),
    "four time series": ((365, 4, 8), nested(range(365), [1, 2], [3, 4], order=(0, 1, 2)), 4 * LIMIT),
}  # fmt: skip


@seeds
@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize(("shape", "order", "in_vain"), BOXES.values(), ids=BOXES)
def test_bounds_are_learned(
    shape: Coords, order: list[Coords], in_vain: int, count: int, seed: int
) -> None:
    """The bounds of a sub-box are learned at its first turns; a window is lost there and at the end."""
    outcome = follow(Walks(shape), in_flight(order, count, random.Random(seed)), LIMIT)

    assert outcome.coverage >= 0.95
    assert outcome.in_vain <= in_vain


@seeds
@pytest.mark.parametrize(("shape", "order", "in_vain"), BOXES.values(), ids=BOXES)
def test_bounds_are_learned_from_many_requests(
    shape: Coords, order: list[Coords], in_vain: int, seed: int
) -> None:
    """With 32 requests in flight a sub-box is foretold in large part, and little of the rest is got."""
    outcome = follow(Walks(shape), in_flight(order, 32, random.Random(seed)), LIMIT)

    assert outcome.coverage >= 0.65
    assert outcome.waste <= 0.8


@seeds
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize(
    ("shape", "block", "coverage"), [((64, 64), (8, 8), 0.88), ((16, 16, 16), (4, 4, 4), 0.85)]
)
def test_blocks_are_alike(
    shape: Coords, block: Coords, coverage: float, *, descending: bool, seed: int
) -> None:
    """Two workers who take block after block show once how large a block is."""
    tasks = blocks(shape, block, descending=descending)

    outcome = follow(Walks(shape), workers(tasks, 2, random.Random(seed)), LIMIT)

    assert outcome.coverage >= coverage
    assert outcome.in_vain == 0
    assert outcome.too_late <= 0.3 * outcome.touched


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_short_lines_cost_little(length: int) -> None:
    """Of a line of a few chunks at most four are got in vain, and none before the third is touched."""
    outcome = follow(Walks((64, 64)), nested([5], range(10, 10 + length)), LIMIT)

    assert outcome.in_vain <= (4 if length > 2 else 0)


@pytest.mark.parametrize("count", [1, 6, 32])
@pytest.mark.parametrize("shape", [(4096,), (16, 16, 16), (64, 64)], ids=str)
def test_random_access_triggers_nothing(shape: Coords, count: int) -> None:
    """Of 30 readers who touch 400 random chunks each, at most one touch in 1000 gets one in vain."""
    chunks = c_order(*shape)
    in_vain = 0
    for seed in range(30):
        chance = random.Random(seed)
        wanted = chance.sample(chunks, 400)
        in_vain += follow(Walks(shape), in_flight(wanted, count, chance), LIMIT).in_vain

    assert in_vain <= 12


@seeds
def test_strangers_do_not_disturb_a_scan(seed: int) -> None:
    """A scan is foretold as well, few windows ahead, while somebody else reads at random."""
    chance = random.Random(seed)
    scan, wanted = c_order(16, 16, 16), chance.sample(c_order(16, 16, 16), 1000)

    outcome = follow(
        Walks((16, 16, 16)), at_once(in_flight(scan, 6, chance), wanted, chance=chance), LIMIT
    )

    # What the stranger read first is hidden from the scan, and the other way round.
    assert outcome.foretold >= 0.97 * (4096 - 1000)
    assert outcome.most_outstanding <= 5 * LIMIT


@seeds
@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("shape", [(4096,), (64, 64)], ids=str)
def test_two_readers_are_two_walks(shape: Coords, count: int, seed: int) -> None:
    """Two readers at different places of one array are foretold both."""
    chance = random.Random(seed)
    readers = [in_flight(c_order(*shape)[start:][:1280], count, chance) for start in (0, 2560)]

    outcome = follow(Walks(shape), at_once(*readers, chance=chance), LIMIT)

    assert outcome.coverage >= 0.94
    assert outcome.in_vain <= 5 * LIMIT


@seeds
@pytest.mark.parametrize("count", [1, 6])
def test_absent_chunks_do_not_stop_a_walk(count: int, seed: int) -> None:
    """A scan of an array of which a third is absent goes on being foretold."""
    chance = random.Random(seed)
    present = [coords for coords in c_order(64, 64) if chance.random() > 1 / 3]

    outcome = follow(Walks((64, 64)), in_flight(present, count, chance), LIMIT)

    assert outcome.coverage >= 0.85


@pytest.mark.parametrize("shape", [(4100,), (410, 1, 10), (64, 64)], ids=str)
def test_picking_here_and_there_in_order_is_no_walk(shape: Coords) -> None:
    """Of who reads every tenth chunk on average, ascending, by chance, one touch in 30 gets one in vain."""
    chunks, in_vain = c_order(*shape), 0
    for seed in range(10):
        chance = random.Random(seed)
        wanted = sorted(chance.sample(chunks, 400))
        in_vain += follow(Walks(shape), in_flight(wanted, 6, chance), LIMIT).in_vain

    assert in_vain <= 4000 / 30


def test_random_access_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strays are not held against every walk that chance has made, each time anew."""
    fitted = []
    monkeypatch.setattr(walks, "fit", lambda *args: fitted.append(args) or fit(*args))
    chosen = sorted(random.Random(5).sample(range(4100), 400))
    several = Walks((410, 10))
    for flat in chosen:
        several.touch(divmod(flat, 10), LIMIT)

    assert len(fitted) <= 2.5 * len(chosen)


def test_two_chunks_begin_a_scan() -> None:
    """Who begins with the first two chunks is taken to go on; elsewhere it takes four."""
    first, elsewhere = Walks((64, 64)), Walks((64, 64))

    assert [first.touch(c, LIMIT) for c in [(0, 0), (0, 1)]] == [[], [(0, 2), (0, 3)]]
    begun = [elsewhere.touch((3, i), LIMIT) for i in range(4)]
    assert begun == [[], [], [], [(3, 4), (3, 5)]]


def test_a_window_is_filled_when_half_of_it_is_used() -> None:
    """Windows double up to the limit, and are filled again in batches of half their size."""
    walks = Walks((4096,))
    sizes = [len(batch) for i in range(400) if (batch := walks.touch((i,), 32))]

    assert sizes[:5] == [2, 3, 6, 12, 24]
    assert set(sizes[6:]) == {16}


def test_a_limit_of_0_switches_off() -> None:
    """With a limit of 0 nothing is asked for; with a larger one later, what is ahead then."""
    walks = Walks((4096,))

    assert not any(walks.touch((i,), 0) for i in range(100))
    assert walks.touch((100,), LIMIT) == [(101,), (102,)]


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


def test_waste_of_what_nobody_asked_for_is_no_matter() -> None:
    """A chunk that was touched since, or never asked for, was not got in vain."""
    walks = Walks((4096,))
    for i in range(100):
        walks.touch((i,), LIMIT)
    before = walks.statistics()

    walks.waste((50,))
    walks.waste((4000,))

    assert walks.statistics() == before


def test_a_walk_left_off_goes_quiet() -> None:
    """After a jump nothing more is asked for along the walk that was left off."""
    walks = Walks((4096,))
    for i in range(100):
        walks.touch((i,), LIMIT)

    assert all(c >= (3000,) for i in range(3000, 3100) for c in walks.touch((i,), LIMIT))


def test_walks_are_few_and_the_oldest_goes() -> None:
    """Of more walks than are followed, that touched longest ago is forgotten."""
    walks = Walks((4096,))
    ahead = {
        start: [c for i in range(start, start + 17) for c in walks.touch((i,), LIMIT)]
        for start in range(0, 201 * (MAX_WALKS + 1), 201)
    }
    before = walks.statistics()
    assert len(before.windows) == MAX_WALKS

    walks.waste(ahead[0][-1])
    assert walks.statistics() == before
    walks.waste(ahead[201][-1])
    assert walks.statistics() != before


def test_a_scan_of_a_million_chunks_stays_small() -> None:
    """What is remembered of a walk does not grow with its length."""
    walks = Walks((1_000_000,))
    for i in range(2_000):
        walks.touch((i,), LIMIT)
    tracemalloc.start()
    try:
        for i in range(2_000, 30_000):
            walks.touch((i,), LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 200_000


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0, 3)], ids=str)
def test_where_there_is_nothing_ahead(shape: Coords) -> None:
    """Grids of one chunk, and of none, have no walks."""
    walks = Walks(shape)

    assert walks.touch((0,) * len(shape), LIMIT) == []
    assert walks.touch((0,) * len(shape), LIMIT) == []
    assert walks.statistics().windows == ()


shapes = st.lists(st.integers(1, 12), max_size=4).map(tuple)
moves = st.lists(st.one_of(st.integers(-20, 20), st.sampled_from([1, 1, 1, -1, 5])), max_size=60)


@given(shapes, moves, st.lists(st.integers(0, 20), min_size=1), st.randoms())
def test_whatever_is_touched(
    shape: Coords, moves: list[int], limits: list[int], chance: random.Random
) -> None:
    """What is asked for lies in the grid, is not asked for twice, and keeps to the limit."""
    chunks = list(itertools.product(*map(range, shape)))
    walks = Walks(shape)
    place, lately, unread = 0, list[Coords](), set[Coords]()
    for move, limit in zip(moves, itertools.cycle(limits), strict=False):
        place = (place + move) % len(chunks)
        lately.append(chunks[place])
        unread.discard(chunks[place])
        before = walks.statistics()

        batch = walks.touch(chunks[place], limit)

        statistics = walks.statistics()
        assert len(batch) <= limit
        assert len(set(batch)) == len(batch)
        assert set(batch) <= set(chunks) - set(lately)
        assert len(statistics.windows) <= MAX_WALKS
        assert statistics.outstanding <= before.outstanding + len(batch)
        unread.update(batch)
        assert statistics.outstanding <= len(unread)
        if unread and chance.random() < 0.1:
            dropped = chance.choice(sorted(unread))
            unread.remove(dropped)
            walks.waste(dropped)


@given(st.integers(1, 40), st.integers(1, 3), st.data())
def test_one_request_in_flight_keeps_to_the_limit(
    limit: int, axes: int, data: st.DataObject
) -> None:
    """Of an orderly reader's box none is asked for twice, nor more ahead of it than the limit."""
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(axes))
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    walks = Walks(shape)
    asked: set[Coords] = set()
    for coords in nested(*(range(low, high) for low, high in bounds)):
        asked.discard(coords)
        batch = walks.touch(coords, limit)
        assert not asked & set(batch)
        asked.update(batch)
        # What turns out to lie off the path is waited for no longer than the next few touches.
        assert walks.statistics().outstanding <= limit + BEHIND
