"""How many bytes may still be fetched from servers: a limit before the bill, for crawlers and mistakes.

A range is paid for before it is asked for, and what did not come is given back; so the limit is
never passed by more than the metadata objects under way, whose size is not known beforehand.
"""

import time
from collections.abc import Callable
from typing import Final, Self

from vzfs.errors import ErrorKind, SourceError

DAY: Final = 86400


class Egress:
    """At most *limit* bytes, in all or for each day (UTC); None is without limit.

    *now* is the time of day in seconds since the Unix epoch.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        is_daily: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._limit = limit
        self._is_daily = is_daily
        self._now = now
        self._spent = 0
        self._day = self._today()

    def spending(self, place: object, expected: int) -> "Spending":
        """Set *expected* bytes aside for a request at *place*, a context that counts what has come.

        Raises SourceError (`EGRESS_SPENT`) if there are not so many left.
        """
        if self._limit is None:
            return _FREE
        if self._is_daily:
            day = self._today()
            if day != self._day:
                self._day, self._spent = day, 0
        if self._spent + max(expected, 1) > self._limit:
            raise SourceError(
                ErrorKind.EGRESS_SPENT,
                f"the limit of {self._limit} bytes to fetch{' a day' if self._is_daily else ''} is "
                "reached",
                where=str(place),
                advice="wait until the day is over (UTC), or mount with a higher --max-egress"
                if self._is_daily
                else "mount with a higher --max-egress",
            )
        self._spent += expected
        return Spending(self, self._day, expected)

    def _settle(self, day: int, difference: int) -> None:
        if self._day == day:
            self._spent += difference

    def _today(self) -> int:
        return int(self._now() // DAY) if self._is_daily else 0


class Spending:
    """Bytes that are set aside until the context is left; then those that *came* count."""

    __slots__ = ("_day", "_egress", "_expected", "came")

    def __init__(self, egress: Egress | None, day: int, expected: int) -> None:
        self._egress = egress
        self._day = day
        self._expected = expected
        self.came = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._egress is not None:
            self._egress._settle(self._day, self.came - self._expected)


_FREE: Final = Spending(None, 0, 0)
"""Where there is no limit, nobody reads what came."""
