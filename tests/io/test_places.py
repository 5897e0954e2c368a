"""Places for requests: who gets them, in which order, and that none is lost."""

import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from vzfs.source.fetcher import DEFAULT_PACE, Haste, Pace, Pressing, Urgency, urgency_of
from vzfs.source.hosts import HostPlaces, Meter, Places

DEMAND, AHEAD = Urgency.DEMAND, Urgency.AHEAD


async def occupy(places: Places | HostPlaces, pressing: Pressing) -> tuple[Urgency, ...]:
    """Take a place, and return with what it is to be released."""
    urgency = urgency_of(pressing)
    if places.take(urgency):
        return (urgency,)
    taken = await places.wait(pressing)
    return taken if isinstance(taken, tuple) else (taken,)


class Crowd:
    """Those who take places of *places*, and keep them until told. *order* has who got one, in turn."""

    def __init__(self, places: Places | HostPlaces, nursery: trio.Nursery) -> None:
        self.places = places
        self.nursery = nursery
        self.order: list[str] = []
        self.scopes: dict[str, trio.CancelScope] = {}
        self.leave: dict[str, trio.Event] = {}

    async def come(self, name: str, urgency: Pressing) -> None:
        """Let *name* ask for a place, and wait until it has one or waits for it."""
        self.leave[name] = trio.Event()
        self.scopes[name] = trio.CancelScope()
        self.nursery.start_soon(self._stay, name, urgency)
        await trio.testing.wait_all_tasks_blocked()

    async def go(self, name: str) -> None:
        """Let *name* give its place back."""
        self.leave[name].set()
        await trio.testing.wait_all_tasks_blocked()

    async def _stay(self, name: str, urgency: Pressing) -> None:
        with self.scopes[name]:
            taken = await occupy(self.places, urgency)
            try:
                self.order.append(name)
                await self.leave[name].wait()
            finally:
                self.places.release(*taken)


@pytest.fixture
def crowd_of(nursery: trio.Nursery):
    return lambda total: Crowd(Places(total), nursery)


async def test_those_who_wait_come_in_their_order(crowd_of) -> None:
    """Places that become free go to those who wait, first come, first served."""
    crowd = crowd_of(1)
    for name in "abcd":
        await crowd.come(name, DEMAND)
    for name in "abcd":
        assert crowd.order[-1] == name
        await crowd.go(name)
    assert crowd.places.free == 1


async def test_demand_goes_first(crowd_of) -> None:
    """What somebody waits for gets a place before what reads ahead, however long that has waited."""
    crowd = crowd_of(1)
    await crowd.come("first", DEMAND)
    await crowd.come("ahead", AHEAD)
    await crowd.come("demand", DEMAND)
    await crowd.go("first")
    assert crowd.order == ["first", "demand"]
    await crowd.go("demand")
    assert crowd.order == ["first", "demand", "ahead"]


async def test_reading_ahead_leaves_places(crowd_of) -> None:
    """Reading ahead takes three quarters of the places, so that a point read finds one at once."""
    crowd = crowd_of(8)
    for index in range(20):
        await crowd.come(f"ahead {index}", AHEAD)
    assert len(crowd.order) == 6
    assert (crowd.places.free, crowd.places.waiting) == (2, 14)
    await crowd.come("demand", DEMAND)
    assert crowd.order[-1] == "demand"


async def test_reading_ahead_gets_what_demand_leaves(crowd_of) -> None:
    """Reading ahead goes on beside demand that does not need every place, and is not starved."""
    crowd = crowd_of(4)
    await crowd.come("demand", DEMAND)
    for index in range(4):
        await crowd.come(f"ahead {index}", AHEAD)
    assert crowd.order == ["demand", "ahead 0", "ahead 1", "ahead 2"]
    await crowd.go("ahead 1")
    assert crowd.order[-1] == "ahead 3"


async def test_one_place_serves_both(crowd_of) -> None:
    """Where there is one place, reading ahead may have it."""
    crowd = crowd_of(1)
    await crowd.come("ahead", AHEAD)
    assert crowd.order == ["ahead"]


async def test_what_somebody_comes_for_goes_with_demand(crowd_of) -> None:
    """What is read ahead and then waited for goes behind the demand that is there, and before all that is read ahead."""
    crowd = crowd_of(1)
    await crowd.come("first", DEMAND)
    pressing = Haste(AHEAD)
    for name, urgency in {"ahead": AHEAD, "hurried": pressing, "demand": DEMAND}.items():
        await crowd.come(name, urgency)
    pressing.hurry()
    await crowd.come("late demand", DEMAND)
    for name in ("first", "demand", "hurried", "late demand"):
        await crowd.go(name)
    assert crowd.order == ["first", "demand", "hurried", "late demand", "ahead"]


async def test_what_somebody_comes_for_takes_a_place_that_is_kept_for_demand(crowd_of) -> None:
    """A place that reading ahead leaves is had by what was read ahead as soon as it is waited for."""
    crowd = crowd_of(4)
    pressing = Haste(AHEAD)
    for index in range(4):
        await crowd.come(f"ahead {index}", AHEAD)
    await crowd.come("hurried", pressing)
    pressing.hurry()
    await trio.testing.wait_all_tasks_blocked()
    assert crowd.order == ["ahead 0", "ahead 1", "ahead 2", "hurried"]
    await crowd.go("hurried")
    assert (crowd.places.free, crowd.places.waiting) == (1, 1)
    await crowd.go("ahead 0")
    assert crowd.order[-1] == "ahead 3"


async def test_a_place_just_given_stays_what_it_was_given_as(crowd_of) -> None:
    """Who becomes urgent after its turn has come gives back what it got."""
    crowd = crowd_of(4)
    pressing = Haste(AHEAD)
    for name, urgency in {"a": AHEAD, "b": AHEAD, "c": AHEAD, "hurried": pressing}.items():
        await crowd.come(name, urgency)
    crowd.leave["a"].set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()  # a goes, and the turn has come
    pressing.hurry()
    await crowd.come("d", AHEAD)
    # Tasks run in any order: its turn may have come just before it was pressed, or just after.
    assert crowd.order[:3] == ["a", "b", "c"]
    assert "hurried" in crowd.order
    for name in ("hurried", "b", "c", "d"):
        await crowd.go(name)
    assert crowd.places.free == 4
    for index in range(4):
        await crowd.come(f"ahead {index}", AHEAD)
    assert crowd.order[-1] == "ahead 2"


async def test_who_is_cancelled_while_waiting_takes_no_place(crowd_of) -> None:
    """Who gives up waiting is passed over."""
    crowd = crowd_of(1)
    for name in "abc":
        await crowd.come(name, DEMAND)
    crowd.scopes["b"].cancel()
    await crowd.go("a")
    assert crowd.order == ["a", "c"]
    await crowd.go("c")
    assert (crowd.places.free, crowd.places.waiting) == (1, 0)


async def test_who_is_cancelled_with_a_place_just_given_passes_it_on(crowd_of) -> None:
    """A place that was given to somebody who is cancelled before running goes to the next."""
    crowd = crowd_of(1)
    for name in "abc":
        await crowd.come(name, DEMAND)
    crowd.leave["a"].set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()  # a goes, and b's turn has not come
    assert crowd.order == ["a"]
    crowd.scopes["b"].cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert crowd.order[-1] == "c"
    await crowd.go("c")
    assert crowd.places.free == 1


async def test_a_host_has_a_part_of_all_places(nursery: trio.Nursery) -> None:
    """One host gets a quarter of all places; others find theirs, and none is lost."""
    overall = Places(16)
    one, other = HostPlaces(overall), HostPlaces(overall)
    crowd = Crowd(one, nursery)
    for index in range(10):
        await crowd.come(str(index), DEMAND)
    assert len(crowd.order) == 4
    assert other.take(DEMAND)
    other.release(DEMAND)
    for index in range(10):
        await crowd.go(str(index))
    assert overall.free == 16


async def test_who_waits_for_all_and_gives_up_gives_the_hosts_place_back() -> None:
    """A place at a host that was taken in vain, because all are taken, is free again."""
    overall = Places(4)
    for _ in range(4):
        assert overall.take(DEMAND)
    one = HostPlaces(overall)
    with trio.move_on_after(0):
        await occupy(one, DEMAND)
    overall.release(DEMAND)
    with trio.fail_after(1):
        await occupy(one, DEMAND)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32))
def test_places_are_neither_lost_nor_made(total: int, seed: int) -> None:
    """Whoever comes, goes and gives up: never are more places taken than there are, and in the end all are free."""
    rng = random.Random(seed)
    overall = Places(total)
    hosts = [HostPlaces(overall) for _ in range(2)]
    taken = {DEMAND: 0, AHEAD: 0}
    all_pressing: list[Haste] = []

    async def guest() -> None:
        pressing, host = Haste(rng.choice((DEMAND, AHEAD))), rng.choice(hosts)
        all_pressing.append(pressing)
        with trio.move_on_after(rng.choice((0.1, 1, 10))):
            await trio.sleep(rng.random() * 3)
            held = await occupy(host, pressing)
            urgency = held[-1]
            rng.choice(all_pressing).hurry()
            try:
                taken[urgency] += 1
                assert sum(taken.values()) <= total
                assert taken[AHEAD] <= max(total * 3 // 4, 1)
                await trio.sleep(rng.random())
            finally:
                taken[urgency] -= 1
                host.release(*held)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(guest)
        assert (overall.free, overall.waiting) == (total, 0)
        for host in hosts:
            assert host._own.free == host._own.total
            assert host._own._free_ahead == max(host._own.total * 3 // 4, 1)
        assert overall._free_ahead == max(total * 3 // 4, 1)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


# -- pace --------------------------------------------------------------------------------------


def test_a_pace_is_the_median_of_late() -> None:
    """Latency and bandwidth are medians of the last observations, so that a stall changes little."""
    meter = Meter()
    assert meter.pace == DEFAULT_PACE
    for seconds in (0.01, 0.02, 20.0):
        meter.waited(seconds)
    assert meter.pace == Pace(0.02, DEFAULT_PACE.bandwidth)
    for seconds in (0.1, 0.2, 0.4):
        meter.came(2**20, seconds)
    assert meter.pace == Pace(0.02, 2**20 / 0.2)
    for _ in range(15):
        meter.waited(0.5)
        meter.came(2**20, 1.0)
    assert meter.pace == Pace(0.5, 2**20)


def test_small_bodies_tell_no_bandwidth() -> None:
    """A body that comes at once, or in no time, tells nothing of bandwidth."""
    meter = Meter()
    meter.came(100_000, 0.001)
    meter.came(2**20, 0.0)
    assert meter.pace == DEFAULT_PACE
