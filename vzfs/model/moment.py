"""Moments: nanoseconds since the Unix epoch, and how people read them."""

import datetime


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
