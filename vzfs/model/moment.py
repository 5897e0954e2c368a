"""Moments: nanoseconds since the Unix epoch, and how people read them; and the dates of HTTP."""

import datetime
import re
import time
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_HTTP_DATE: Final = re.compile(
    rf"(?:{'|'.join(_DAYS)}), (\d\d) ({'|'.join(_MONTHS)}) (\d{{4}}) (\d\d):(\d\d):(\d\d) GMT\Z",
    re.ASCII,
)


def http_date(seconds: float) -> str:
    """Write a time since the Unix epoch as HTTP's dates are written."""
    at = time.gmtime(seconds)
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    clock = f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}"
    return f"{day}, {at.tm_mday:02d} {month} {at.tm_year:04d} {clock} GMT"


def parse_http_date(date: str) -> datetime.datetime | None:
    """Read a date as `http_date` writes it; None if it is written otherwise, or there is no such day."""
    found = _HTTP_DATE.match(date)
    if found is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    try:
        return datetime.datetime(
            int(year),
            _MONTHS.index(month) + 1,
            int(day),
            int(hour),
            int(minute),
            int(second),
            tzinfo=datetime.UTC,
        )
    except ValueError:
        return None


def format_time(nanoseconds: int) -> str:
    """Write a time since the Unix epoch as ISO 8601 in UTC, to the second."""
    moment = datetime.datetime.fromtimestamp(nanoseconds // 10**9, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def format_microseconds(nanoseconds: int) -> str:
    """Write the first microsecond that is not before a time since the Unix epoch, as ISO 8601 in UTC."""
    microseconds = -(-nanoseconds // 1000)
    moment = datetime.datetime.fromtimestamp(microseconds // 10**6, datetime.UTC)
    moment = moment.replace(microsecond=microseconds % 10**6)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
