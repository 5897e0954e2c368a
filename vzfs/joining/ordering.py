"""In which order files follow each other: by the values of their coordinate, or else as given. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from vzfs.joining.pieces import Piece
from vzfs.joining.refusal import JoinError
from vzfs.joining.times import TimeUnits, parse_units
from vzfs.joining.values import Values
from vzfs.views.fillvalues import read_attribute
from vzfs.views.metadata import ArrayMetadata

_BOUNDS = ("bounds", "climatology")


class Order(NamedTuple):
    """The *numbers* of files as they follow each other, and the *basis* of that, for people.

    *is_sorted* says that values decided, and that none comes twice.
    """

    numbers: Sequence[int]
    basis: str
    is_sorted: bool = False


class _Course(NamedTuple):
    """The values of one file: where they begin and end, and whether they ascend (1), descend (-1) or are one (0)."""

    low: Fraction | int
    high: Fraction | int
    direction: int


def as_given(count: int, why: str) -> Order:
    """Return the order in which files were given, and *why* it is that."""
    return Order(range(count), f"as given: {why}")


def order_of(
    path: str, pieces: Sequence[Piece], values: Sequence[Values], times: Sequence[TimeUnits] | None
) -> Order:
    """Return the order by *values* of the coordinate *path*, in the units *times*.

    Raises JoinError where files overlap, or repeat each other.
    """
    courses: dict[int, _Course] = {}
    for i, (piece, found) in enumerate(zip(pieces, values, strict=True)):
        if found.size:
            course = _course(
                found, missing_in(found, piece.metadata), None if times is None else times[i]
            )
            if course is None:
                return as_given(
                    len(pieces), f"the values of {path} are in no order in {piece.where}"
                )
            courses[i] = course
    directions = {course.direction for course in courses.values()} - {0}
    if len(directions) > 1:
        return as_given(
            len(pieces), f"the values of {path} ascend in some files, and not in others"
        )
    descends = directions == {-1}
    numbers = sorted(courses, key=lambda i: courses[i].low, reverse=descends)
    for one, two in itertools.pairwise(numbers):
        before, after = (two, one) if descends else (one, two)
        if courses[before].high >= courses[after].low:
            raise JoinError(
                f"the values of {path} in {pieces[two].where} overlap those in {pieces[one].where}, "
                "or repeat them",
                where=pieces[two].where,
                advice="leave one of the files out",
            )
    empty = [i for i in range(len(pieces)) if i not in courses]
    return Order([*numbers, *empty], f"by the values of {path}", is_sorted=True)


def _course(values: Values, missing: Values, time: TimeUnits | None) -> _Course | None:
    if values.ndim != 1 or values.dtype.kind not in "iufMm" or missing.any():
        return None
    numbers = values.view("<i8") if values.dtype.kind in "Mm" else values
    steps = (numbers[1:] > numbers[:-1]).astype(int) - (numbers[1:] < numbers[:-1])
    if len(steps) and (steps[0] == 0 or np.any(steps != steps[0])):
        return None
    ends = [numbers[0].item(), numbers[-1].item()]
    low, high = (
        time.moment(v) if time is not None else Fraction(v) for v in (min(ends), max(ends))
    )
    return _Course(low, high, int(steps[0]) if len(steps) else 0)


def missing_in(values: Values, metadata: ArrayMetadata) -> Values:
    """Return which of *values* stand for none: not numbers, or what attributes say."""
    missing = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        missing |= ~np.isfinite(values)
    elif values.dtype.kind in "Mm":
        missing |= np.isnat(values)
    for name in ("_FillValue", "missing_value"):
        value = read_attribute(metadata.attributes.get(name), metadata.data_type)
        if value is not None:
            missing |= values == value
    return missing


def check_unique(path: str, values: Values, missing: Values) -> None:
    """Raise JoinError if a value comes twice."""
    known = np.sort(values[~missing])
    twice = known[1:][known[1:] == known[:-1]]
    if len(twice):
        raise JoinError(
            f"the value {twice[0]} of {path} comes more than once",
            advice="leave out the file that repeats another",
        )


# -- units of time ---------------------------------------------------------------------------------


def times_of(
    pieces: Mapping[str, Sequence[Piece]], along: Sequence[str]
) -> dict[str, Sequence[TimeUnits]]:
    """Return the units of the arrays *along* that count time in all files, one for each file.

    The bounds of a coordinate have its units, where they say none of their own. Raises JoinError
    for different calendars.
    """
    found: dict[str, Sequence[TimeUnits]] = {}
    for path in along:
        units = [
            parse_units(p.metadata.attributes.get("units"), p.metadata.attributes.get("calendar"))
            for p in pieces[path]
        ]
        known = [u for u in units if u is not None]
        if len(known) < len(units):
            continue
        for one, piece in zip(known, pieces[path], strict=True):
            if one.calendar != known[0].calendar:
                raise JoinError(
                    f"{path} counts in the calendar {known[0].calendar} in "
                    f"{pieces[path][0].where} and {one.calendar} in {piece.where}",
                    where=piece.where,
                )
        found[path] = known
    for path, counted in list(found.items()):
        for bounds in _bounds_of(path, pieces[path]):
            if bounds in along and not any(
                "units" in p.metadata.attributes for p in pieces[bounds]
            ):
                found[bounds] = counted
    return found


def _bounds_of(path: str, pieces: Sequence[Piece]) -> set[str]:
    folder = path.rpartition("/")[0]
    names = {p.metadata.attributes.get(name) for p in pieces for name in _BOUNDS}
    return {f"{folder}/{name}" for name in names if isinstance(name, str)}
