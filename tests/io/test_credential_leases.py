"""Renewal of credentials: in time, once for all, and what failures mean."""

import logging
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.io.keyrings import Clock, alone, refusal  # noqa: F401 -- alone is a fixture
from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials.lease import Grant, Lease, Terms


def lease(clock: Clock, get: Callable[[], Grant[int]], *, outlives: bool = True) -> Lease[int]:
    terms = Terms("the credentials", interval=900, patience=5, pause=15, outlives=outlives)
    return Lease(terms, get, clock=lambda: clock.ahead, steady=lambda: clock.ahead)


@pytest.mark.parametrize(("life", "renewed_after"), [(3600, 3300), (400, 300), (40, 30)])
async def test_credentials_are_renewed_before_they_end(life: int, renewed_after: int) -> None:
    """Credentials are renewed five minutes, or a quarter of their life, before they end."""
    clock = Clock()
    gotten = []

    def get() -> Grant[int]:
        gotten.append(clock.ahead)
        return Grant(len(gotten), clock.ahead + life)

    it = lease(clock, get)
    assert await it.get() == 1
    clock.ahead = renewed_after - 1
    assert await it.get() == 1
    clock.ahead = renewed_after
    assert await it.get() == 2
    assert await it.get() == 2


async def test_many_readers_get_credentials_once() -> None:
    """Of many who need credentials at once one gets them, for all."""
    gate = threading.Event()
    gotten = []

    def get() -> Grant[int]:
        gotten.append(None)
        gate.wait(10)
        return Grant(len(gotten))

    it = lease(Clock(), get)
    values: list[int] = []

    async def read() -> None:
        values.append(await it.get())

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert values == [1] * 32


async def test_credentials_at_hand_are_used_while_others_come() -> None:
    """While one reader renews credentials the others use those at hand."""
    clock = Clock()
    gate = threading.Event()
    gate.set()
    gotten = []

    def get() -> Grant[int]:
        gotten.append(None)
        gate.wait(10)
        return Grant(len(gotten), clock.ahead + 3600)

    it = lease(clock, get)
    assert await it.get() == 1
    gate.clear()
    clock.ahead = 3500
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.get)
        await trio.testing.wait_all_tasks_blocked()
        assert await it.get() == 1
        gate.set()
    assert await it.get() == 2


async def test_a_failed_renewal_is_said_once_and_hurts_when_the_old_ones_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While credentials cannot be renewed the old ones serve until they end, with one warning."""
    clock = Clock()
    problem: list[SourceError] = []
    gotten = []

    def get() -> Grant[int]:
        gotten.append(None)
        if problem:
            raise problem[0]
        return Grant(len(gotten), clock.ahead + 3600)

    it = lease(clock, get)
    assert await it.get() == 1
    problem.append(SourceError(ErrorKind.SOURCE_UNREACHABLE, "nobody answers"))
    for moment in (3400, 3410, 3420, 3440):
        clock.ahead = moment
        assert await it.get() == 1
    assert len(gotten) == 4, "three attempts, none within 15 s of the one before"
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    clock.ahead = 3601
    error = await refusal(it.get())
    assert error.what == "nobody answers"
    attempts = len(gotten)
    assert await refusal(it.get()) is not error
    assert len(gotten) == attempts, "a failure is remembered"
    problem.clear()
    clock.ahead += 16
    assert await it.get() == attempts + 1


async def test_refused_credentials_are_got_anew_once_a_minute() -> None:
    """After a refusal credentials are got anew, but once a minute: most are not to blame."""
    clock = Clock()
    gotten = []

    def get() -> Grant[int]:
        gotten.append(None)
        return Grant(len(gotten), clock.ahead + 3600)

    it = lease(clock, get)
    assert await it.get() == 1
    assert it.doubt()
    assert await it.get() == 2
    clock.ahead = 4
    assert it.doubt(), "requests that were under way may be tried again"
    assert await it.get() == 2
    clock.ahead = 30
    assert not it.doubt()
    assert await it.get() == 2
    clock.ahead = 61
    assert it.doubt()
    assert await it.get() == 3


async def test_credentials_that_come_expired_are_refused() -> None:
    """Credentials whose end has passed when they come are not used."""
    error = await refusal(lease(Clock(), lambda: Grant(1, -1.0)).get())
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "clock" in error.advice


async def test_what_may_have_been_withdrawn_is_not_used_while_it_is_looked_at() -> None:
    """While a secret file is looked at again nobody uses what it had before."""
    clock = Clock()
    gate = threading.Event()
    gate.set()
    gotten = []

    def get() -> Grant[int]:
        gotten.append(None)
        gate.wait(10)
        return Grant(len(gotten))

    it = lease(clock, get, outlives=False)
    assert await it.get() == 1
    gate.clear()
    clock.ahead = 901
    values: list[int] = []

    async def read() -> None:
        values.append(await it.get())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert values == [2] * 4
