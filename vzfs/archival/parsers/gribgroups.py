"""The fields of a GRIB file as variables: which belong together, along which axes, by which names. Pure.

Fields of one parameter, kind of level, kind of step and grid are one variable. Its axes are `time` and
`step`, and `number` and the kind of level where they differ. Where that leaves two fields in one place,
whatever else tells them apart makes variables of them; and what nothing tells apart, or leaves most
places empty, is a list along an axis of its own.
"""

import dataclasses
import datetime
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

type Keys = Mapping[str, Any]

SPARSE: Final = 2
"""How many times as many places as fields a variable may have."""

_STEP: Final = re.compile(r"(-?[0-9]{1,9})(s|m|h|3h|6h|12h|D|)\Z")
_HOURS: Final = {"s": 1 / 3600, "m": 1 / 60, "h": 1, "": 1, "3h": 3, "6h": 6, "12h": 12, "D": 24}
_APART: Final = (
    "length", "bottomLevel", "percentileValue", "productDefinitionTemplateNumber",
    "probabilityType", "scaledValueOfLowerLimit", "scaledValueOfUpperLimit", "derivedForecast",
    "constituentType", "aerosolType", "waveDirectionNumber", "waveFrequencyNumber",
    "wavePeriodNumber", "dataType", "expver", "edition",
)  # fmt: skip
"""What may tell apart fields that are otherwise at the same place, the likeliest first."""
_AXES: Final = ("time", "number", "step", "level")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """A field by its *index* in the file, what is said of it, and where it belongs.

    *time* are seconds since 1970, *step* hours from there; None where that makes no sense.
    """

    index: int
    keys: Keys
    time: int | None
    step: float | None

    @property
    def number(self) -> int | None:
        """The member of an ensemble."""
        number = self.keys.get("number")
        return number if isinstance(number, int) else None

    @property
    def level(self) -> float | int | None:
        """The level, in the units that its kind has."""
        level = self.keys.get("level")
        return level if isinstance(level, int | float) else None

    def at(self, axis: str) -> float | int | None:
        """Return where it is along *axis*."""
        return getattr(self, axis)  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True, slots=True)
class Variable:
    """A variable: its *name*, its axes with their values, and the field at each place, by its coordinates."""

    name: str
    axes: tuple[tuple[str, tuple[float | int, ...]], ...]
    fields: Mapping[tuple[int, ...], Placed]
    is_list: bool = False

    @property
    def first(self) -> Placed:
        """The first of its fields in the file."""
        return min(self.fields.values(), key=lambda field: field.index)


def placed(index: int, keys: Keys, moment: Sequence[int]) -> Placed:
    """Return the field of which *keys* are said: year, month and so on are its *moment*."""
    start, end = _hours(keys.get("startStep")), _hours(keys.get("endStep"))
    if start is not None and end is not None:
        keys = {**keys, "length": round(end - start, 6)}
    try:
        time = int(datetime.datetime(*moment, tzinfo=datetime.UTC).timestamp())  # type: ignore[arg-type, misc]
    except ValueError:
        return Placed(index, keys, None, end)
    return Placed(index, keys, time, end)


def _hours(text: object) -> float | None:
    match = _STEP.match(text) if isinstance(text, str) else None
    return None if match is None else int(match[1]) * _HOURS[match[2]]


def variables(fields: Iterable[Placed], grid_of: Mapping[int, str]) -> list[Variable]:
    """Return the variables that *fields* make, in the order of the file; *grid_of* names the grid of each."""
    families: dict[tuple[object, ...], list[Placed]] = {}
    for field in fields:
        said = field.keys
        family = (
            _name(said), _parameter(said), said.get("typeOfLevel"), said.get("stepType"),
            grid_of[field.index],
        )  # fmt: skip
        families.setdefault(family, []).append(field)
    names = _distinct(list(families))
    found: list[Variable] = []
    taken: set[str] = set()
    for fields_of_one, name in zip(families.values(), names, strict=True):
        for suffix, members in _apart(fields_of_one, list(_APART)):
            unique = _unused(name + suffix, taken)
            taken.add(unique)
            found.append(_variable(unique, members))
    return found


def _name(keys: Keys) -> str:
    """Return what cfgrib calls the parameter; where it has no name, its number."""
    for key in ("cfVarName", "shortName"):
        name = keys.get(key)
        if isinstance(name, str) and name not in ("", "unknown", "~"):
            return _UNSAFE.sub("_", name)
    return "p" + "_".join(str(number) for number in _parameter(keys))


def _parameter(keys: Keys) -> tuple[object, ...]:
    """Return the numbers by which a parameter is known."""
    if keys.get("paramId"):
        return (keys["paramId"],)
    wanted = (
        "discipline",
        "parameterCategory",
        "parameterNumber",
        "table2Version",
        "indicatorOfParameter",
    )
    return tuple(keys[key] for key in wanted if key in keys)


def _distinct(families: Sequence[tuple[object, ...]]) -> list[str]:
    """Return a name for each family: the parameter's, with as much more as tells it from the others."""
    by_name: dict[object, list[tuple[object, ...]]] = {}
    for family in families:
        by_name.setdefault(family[0], []).append(family)
    found = []
    for family in families:
        name = str(family[0])
        others = by_name[family[0]]
        for part in (2, 3, 1):
            if len({other[part] for other in others}) > 1:
                said = family[part]
                said = "_".join(map(str, said)) if isinstance(said, tuple) else str(said)
                name += "_" + _UNSAFE.sub("_", said)
        found.append(name)
    return found


def _unused(name: str, taken: set[str]) -> str:
    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}_{number}"
        if candidate not in taken:
            return candidate
    raise AssertionError


def _apart(fields: list[Placed], keys: list[str]) -> Iterator[tuple[str, list[Placed]]]:
    """Yield *fields* in parts of which no two are at the same place, as far as *keys* tell them apart."""
    if len({_place(field) for field in fields}) == len(fields):
        yield "", fields
        return
    for at, key in enumerate(keys):
        parts: dict[str, list[Placed]] = {}
        for field in fields:
            parts.setdefault(_text(field.keys.get(key)), []).append(field)
        if len(parts) == 1:
            continue
        for value, part in parts.items():
            for suffix, members in _apart(part, keys[at + 1 :]):
                yield f"_{key}_{_UNSAFE.sub('_', value)}{suffix}", members
        return
    yield "", fields


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _place(field: Placed) -> tuple[object, ...]:
    return tuple(field.at(axis) for axis in _AXES)


def _variable(name: str, fields: list[Placed]) -> Variable:
    """Return the variable of *fields*: a grid of them if it is full enough, or else a list."""
    axes = []
    for axis in _AXES:
        values = {field.at(axis) for field in fields}
        if values == {None} or (axis in ("number", "level") and len(values) == 1):
            continue
        if None in values:
            return _list(name, fields)
        axes.append((axis, tuple(sorted(v for v in values if v is not None))))
    places = math.prod(len(values) for _, values in axes)
    if places > SPARSE * len(fields):
        return _list(name, fields)
    index = {axis: {value: i for i, value in enumerate(values)} for axis, values in axes}
    found: dict[tuple[int, ...], Placed] = {}
    for field in fields:
        where = tuple(index[axis][field.at(axis)] for axis, _ in axes)  # type: ignore[index]
        if where in found:
            return _list(name, fields)
        found[where] = field
    return Variable(name, tuple(axes), found)


def _list(name: str, fields: list[Placed]) -> Variable:
    """Return a variable of *fields* one behind the other, as they are in the file."""
    ordered = sorted(fields, key=lambda field: field.index)
    axes = (("message", tuple(range(len(ordered)))),)
    return Variable(name, axes, {(i,): field for i, field in enumerate(ordered)}, is_list=True)
