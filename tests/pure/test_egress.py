"""How many bytes a mount may fetch."""

import contextlib

import pytest

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.egress import DAY, Egress

WHERE = "s3://bucket/object"


def fetch(egress: Egress, expected: int, came: int | None = None) -> bool:
    """Whether so many bytes may be fetched."""
    try:
        with egress.spending(WHERE, expected) as spending:
            spending.came += expected if came is None else came
    except SourceError as refusal:
        return (refusal.kind, refusal.where) != (ErrorKind.EGRESS_SPENT, WHERE)
    return True


def test_the_refusal_says_what_to_do() -> None:
    """Who has spent the limit is told which option it was."""
    with pytest.raises(SourceError) as caught, Egress(0).spending(WHERE, 1):
        pass
    assert "--max-egress" in caught.value.advice


def test_without_a_limit_any_number_of_bytes_may_come() -> None:
    """Without a limit nothing is refused."""
    egress = Egress()
    assert all(fetch(egress, 2**40) for _ in range(10))


def test_the_limit_is_not_passed() -> None:
    """What would pass the limit is refused before it is asked for, and smaller things still fit."""
    egress = Egress(100)
    assert fetch(egress, 60)
    assert not fetch(egress, 41)
    assert fetch(egress, 40)
    assert not fetch(egress, 0)


def test_what_did_not_come_is_given_back() -> None:
    """A request that failed costs what came of it, and no more."""
    egress = Egress(100)
    with contextlib.suppress(ValueError), egress.spending(WHERE, 80) as spending:
        spending.came += 10
        raise ValueError
    assert fetch(egress, 90)
    assert not fetch(egress, 1)


def test_requests_under_way_count() -> None:
    """Bytes that are on their way are set aside, so that requests at the same time do not pass the limit."""
    egress = Egress(100)
    with egress.spending(WHERE, 70):
        assert not fetch(egress, 40)
    assert fetch(egress, 40)


def test_objects_of_unknown_size_count_when_they_came() -> None:
    """A whole object is let through while anything is left, and then counts with its size."""
    egress = Egress(100)
    assert fetch(egress, 0, came=250)
    assert not fetch(egress, 0)


def test_a_daily_limit_begins_anew_each_day() -> None:
    """A limit for each day is whole again when the day in UTC is over; what began before does not count."""
    moment = 10.0 * DAY
    egress = Egress(100, is_daily=True, now=lambda: moment)
    assert fetch(egress, 100)
    moment += DAY - 1
    assert not fetch(egress, 1)
    moment += 1
    with egress.spending(WHERE, 30) as spending:
        moment += DAY
        assert fetch(egress, 100)
        spending.came += 30
    assert not fetch(egress, 1)
