"""Units of time axes, "days since 1981-01-01", and exact conversion from one to another. Pure."""

import re
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

_UNITS: Final = {
    name: microseconds
    for names, microseconds in (
        (("microsecond", "microseconds", "microsec", "microsecs"), 1),
        (("millisecond", "milliseconds", "millisec", "millisecs", "msec", "ms"), 1000),
        (("second", "seconds", "sec", "secs", "s"), 10**6),
        (("minute", "minutes", "min", "mins"), 60 * 10**6),
        (("hour", "hours", "hr", "hrs", "h"), 3600 * 10**6),
        (("day", "days", "d"), 86400 * 10**6),
    )
    for name in names
}
"""Microseconds. A month and a year are of no one length."""
_SINCE: Final = re.compile(
    r"\s*([A-Za-z]+)\s+since\s+([+-]?\d{1,5})-(\d{1,2})-(\d{1,2})"
    r"(?:[ T]+(\d{1,2})(?::(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,6})\d*)?)?)?)?"
    r"\s*(?:Z|UTC|GMT|([+-])(\d{1,2}):?(\d{2})?)?\s*\Z"
)
_DAY: Final = 86400 * 10**6
_LONG: Final = (0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335)
_SHORT: Final = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_GREGORIAN: Final = (1582, 10, 15)
_ALIASES: Final = {
    "gregorian": "standard",
    "365_day": "noleap",
    "366_day": "all_leap",
}


class TimeUnits(NamedTuple):
    """Values count *step* microseconds each, from *epoch*, in microseconds of the *calendar*'s own time line."""

    step: int
    epoch: int
    calendar: str

    def moment(self, value: float) -> Fraction:
        """Return the moment that *value*, which is finite, stands for, in microseconds."""
        return Fraction(value) * self.step + self.epoch


class InexactError(Exception):
    """Values cannot be said exactly in other units."""


def calendar_of(name: object) -> str:
    """Return the name that calendars of this name have in common; none is the standard one."""
    text = name.lower() if isinstance(name, str) else "standard" if name is None else repr(name)
    return _ALIASES.get(text, text)


def parse_units(units: object, calendar: object = None) -> TimeUnits | None:
    """Return what *units* such as "days since 1981-01-01" say, None if that is not certain."""
    found = _SINCE.match(units) if isinstance(units, str) and len(units) < 200 else None
    step = found and _UNITS.get(found[1].lower())
    if not found or not step:
        return None
    name = calendar_of(calendar)
    year, month, day = int(found[2]), int(found[3]), int(found[4])
    days = _days(name, year, month, day)
    if days is None:
        return None
    hour, minute, second = (int(found[i] or 0) for i in (5, 6, 7))
    if hour > 23 or minute > 59 or second > 59:
        return None
    clock = (hour * 3600 + minute * 60 + second) * 10**6 + int((found[8] or "0").ljust(6, "0"))
    zone = (int(found[10] or 0) * 60 + int(found[11] or 0)) * 60 * 10**6
    return TimeUnits(step, days * _DAY + clock - (zone if found[9] != "-" else -zone), name)


def _days(calendar: str, year: int, month: int, day: int) -> int | None:
    """Return the number of a day, counted in its *calendar*; None where there is no such day."""
    if not 1 <= month <= 12 or day < 1:
        return None
    if calendar == "360_day":
        return (year * 12 + month - 1) * 30 + day - 1 if day <= 30 else None
    if calendar in {"noleap", "all_leap"}:
        starts, length = (_SHORT, 365) if calendar == "noleap" else (_LONG, 366)
        is_there = day <= (*starts[1:], length)[month - 1] - starts[month - 1]
        return year * length + starts[month - 1] + day - 1 if is_there else None
    if calendar == "standard":
        # Before, it is Julian, and ten days are missing.
        if (year, month, day) < _GREGORIAN:
            return None
    elif calendar not in {"proleptic_gregorian", "julian"}:
        return None
    is_leap = year % 4 == 0 and (calendar == "julian" or year % 100 != 0 or year % 400 == 0)
    starts = _LONG if is_leap else _SHORT
    if day > (*starts[1:], 365 + is_leap)[month - 1] - starts[month - 1]:
        return None
    before = year - 1
    leaps = before // 4 - (0 if calendar == "julian" else before // 100 - before // 400)
    return before * 365 + leaps + starts[month - 1] + day - 1


def converted(
    values: np.ndarray[Any, np.dtype[Any]],
    origin: TimeUnits,
    target: TimeUnits,
    missing: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return *values* in the units *target*, of the same data type; what is *missing* stays as it is.

    Raises InexactError where one cannot be said exactly so.
    """
    if origin.calendar != target.calendar:
        raise InexactError(f"the calendars are {origin.calendar} and {target.calendar}")
    if (origin.step, origin.epoch) == (target.step, target.epoch):
        return values
    if values.dtype.kind not in "iuf":
        raise InexactError("they are no numbers")
    scale = Fraction(origin.step, target.step)
    shift = Fraction(origin.epoch - target.epoch, target.step)
    made = values.copy()
    flat, kept = made.reshape(-1), missing.reshape(-1)
    for i in np.flatnonzero(~kept).tolist():
        flat[i] = _exact(Fraction(flat[i].item()) * scale + shift, flat.dtype)
    return made


def _exact(value: Fraction, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401 -- an element
    if dtype.kind == "f":
        made = dtype.type(float(value))
        if np.isfinite(made) and Fraction(float(made)) == value:
            return made
    elif value.denominator == 1:
        bounds = np.iinfo(dtype)
        if bounds.min <= value.numerator <= bounds.max:
            return value.numerator
    raise InexactError(f"{float(value)!r} is no {dtype.name}")
