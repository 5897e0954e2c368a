"""What is known of servers: places, silence, and how long nearly all fetches take."""

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.hedge import SAVED, Race, Racer
from vzfs.source.hosts import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SILENT_LIMIT,
    Host,
    Latencies,
    Places,
)
from vzfs.source.wire import Tally, Transient

WHERE = "https://host/object"


@pytest.fixture
def host() -> Host:
    return Host("https://host", Places(8))


def kill(host: Host) -> None:
    for _ in range(SILENT_LIMIT):
        host.was_silent(trio.current_time())


def is_admitted(host: Host) -> bool:
    try:
        host.admit(WHERE)
    except SourceError as refusal:
        return (refusal.kind, refusal.where) != (ErrorKind.OFFLINE, WHERE)
    return True


async def test_a_silent_host_fails_at_once(host: Host, autojump_clock: object) -> None:
    """A host that did not answer several times in a row is not asked, and after a while by one fetch."""
    for _ in range(SILENT_LIMIT - 1):
        host.was_silent(trio.current_time())
        assert is_admitted(host)
    host.was_silent(trio.current_time())
    assert not is_admitted(host)
    await trio.sleep(FIRST_PAUSE)
    assert host.admit(WHERE)
    assert not is_admitted(host)


async def test_an_answer_heals_a_host(host: Host, autojump_clock: object) -> None:
    """Whatever a host answers, it is asked by everybody again."""
    kill(host)
    await trio.sleep(FIRST_PAUSE)
    assert host.admit(WHERE)
    host.answered()
    host.tried()
    assert host.admit(WHERE) is False


async def test_answers_between_silences_keep_a_host(host: Host) -> None:
    """Only attempts in a row count."""
    for _ in range(10 * SILENT_LIMIT):
        host.was_silent(trio.current_time())
        host.answered()
        assert is_admitted(host)


async def test_pauses_double_to_a_bound(host: Host, autojump_clock: object) -> None:
    """A host that stays silent is tried after pauses that double, and never more than half a minute."""
    kill(host)
    pauses = []
    for _ in range(10):
        began = trio.current_time()
        while not is_admitted(host):  # noqa: ASYNC110 -- time is what is awaited
            await trio.sleep(FIRST_PAUSE)
        pauses.append(trio.current_time() - began)
        host.was_silent(trio.current_time())
        host.tried()
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


async def test_a_trial_that_is_given_up_makes_room_for_another(
    host: Host, autojump_clock: object
) -> None:
    """A fetch that was to try a dead host and was cancelled lets another one try, after a pause."""
    kill(host)
    await trio.sleep(FIRST_PAUSE)
    assert host.admit(WHERE)
    host.tried()
    assert not is_admitted(host)
    await trio.sleep(2 * FIRST_PAUSE)
    assert is_admitted(host)


def test_tail_latency() -> None:
    """The tail is what 95 in 100 of the last fetches of about that size stay below; unknown at first."""
    latencies = Latencies()
    for i in range(15):
        latencies.add(1000, 1.0)
        assert latencies.tail(1000) == math.inf, i
    for i in range(65):
        latencies.add(1000, i / 100)
    assert latencies.tail(1000) == 0.61
    assert latencies.tail(10**6) == math.inf


# -- races -------------------------------------------------------------------------------------


class Attempts:
    """Work of which each attempt ends as scripted: after *seconds*, with a value or an error."""

    def __init__(self, *script: tuple[float, object]) -> None:
        self.script = list(script)
        self.begun = 0
        self.under_way = 0

    async def __call__(self) -> object:
        seconds, outcome = self.script[self.begun]
        self.begun += 1
        self.under_way += 1
        try:
            await trio.sleep(seconds)
        finally:
            self.under_way -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def first(racer: Racer, tail: float, work: Callable[[], Awaitable[object]]) -> object:
    """Do *work* as a fetch does: the first request here, the second beside it."""
    with trio.CancelScope() as scope:
        race = Race(scope, work)
        return await racer.first(race, trio.current_time(), tail, work)
    assert race.result is not None
    return race.result[0]


async def race(work: Attempts, *, tail: float = 1.0) -> tuple[object, float]:
    """Return what a race gives, and how many seconds it took."""
    racer = Racer(Tally())
    async with trio.open_nursery() as nursery:
        await nursery.start(racer.run)
        began = trio.current_time()
        try:
            with trio.fail_after(10_000):
                result = await first(racer, tail, work)
        except (SourceError, Transient) as failure:
            result = failure
        took = trio.current_time() - began
        await trio.testing.wait_all_tasks_blocked()
        assert work.under_way == 0
        nursery.cancel_scope.cancel()
    return result, took


def failure() -> Transient:
    return Transient(SourceError(ErrorKind.SOURCE_UNREACHABLE, "broken"))


async def test_a_fetch_in_time_is_not_raced(autojump_clock: object) -> None:
    """A fetch that is about as fast as the others has no second request."""
    work = Attempts((1.9, "first"))
    assert await race(work) == ("first", 1.9)
    assert work.begun == 1


async def test_a_stalled_fetch_is_raced(autojump_clock: object) -> None:
    """A fetch that takes more than twice the tail has a second request beside it; the first reply wins."""
    result, took = await race(Attempts((60, "first"), (0.5, "second")))
    assert result == "second"
    assert 2.5 <= took < 2.7
    result, took = await race(Attempts((3, "first"), (60, "second")))
    assert (result, took) == ("first", 3)


async def test_the_loser_of_a_race_is_over_before_the_race_is(autojump_clock: object) -> None:
    """When a race has its outcome, no other request does anything any more: not even a last step."""
    steps = []

    async def work() -> str:
        if steps:
            try:
                await trio.sleep(60)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)
                steps.append("the second ends")
        steps.append("the first waits")
        await trio.sleep(5)
        return "first"

    racer = Racer(Tally())
    async with trio.open_nursery() as nursery:
        await nursery.start(racer.run)
        assert await first(racer, 1.0, work) == "first"
        assert steps == ["the first waits", "the second ends"]
        nursery.cancel_scope.cancel()


async def test_the_second_request_may_save_a_failing_first(autojump_clock: object) -> None:
    """A first request that fails while it is raced waits for the second."""
    assert (await race(Attempts((3, failure()), (5, "second"))))[0] == "second"


async def test_a_final_failure_ends_a_race(autojump_clock: object) -> None:
    """What would not pass, a missing object for one, is not waited upon."""
    gone = SourceError(ErrorKind.SOURCE_VANISHED, "gone")
    assert await race(Attempts((3, gone), (60, "second"))) == (gone, 3)


async def test_a_race_that_both_lose_ends_as_the_first_did(autojump_clock: object) -> None:
    """Where both requests fail, the first one's error is the outcome."""
    first, second = failure(), failure()
    assert (await race(Attempts((3, first), (5, second))))[0] is first
    assert (await race(Attempts((6, first), (1, second))))[0] is first


async def test_nothing_is_raced_before_enough_is_known(autojump_clock: object) -> None:
    """Without a tail latency a fetch is left to its time limits."""
    work = Attempts((1000, "first"))
    assert await race(work, tail=math.inf) == ("first", 1000)


async def test_races_are_few(autojump_clock: object) -> None:
    """A server that is slow altogether gets few second requests."""
    tally = Tally()
    racer = Racer(tally)
    work = Attempts(*[(10, "reply")] * 300)
    async with trio.open_nursery() as nursery:
        await nursery.start(racer.run)
        async with trio.open_nursery() as fetches:
            for _ in range(100):
                fetches.start_soon(first, racer, 1.0, work)
        nursery.cancel_scope.cancel()
    assert tally.statistics().hedges == SAVED


async def test_a_cancelled_fetch_leaves_no_request(autojump_clock: object) -> None:
    """Who gives up a fetch gives up its second request too."""
    racer = Racer(Tally())
    work = Attempts((60, "first"), (60, "second"))
    async with trio.open_nursery() as nursery:
        await nursery.start(racer.run)
        with trio.move_on_after(5):
            await first(racer, 1.0, work)
        await trio.testing.wait_all_tasks_blocked()
        assert (work.begun, work.under_way) == (2, 0)
        nursery.cancel_scope.cancel()
