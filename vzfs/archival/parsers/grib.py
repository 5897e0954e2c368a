"""GRIB of both editions: a chunk for each field, a variable for fields that belong together.

Every message is found here, and eccodes says what it is. Chunks are messages as they lie in the file,
with the codec `gribberish` where that library decodes them to the very values that eccodes does, and
`grib`, kerchunk's name for eccodes itself, where it does not. Both give 64-bit numbers, NaN where a
value is missing, in the order in which a message has them. So whatever eccodes decodes is shown:
reduced grids and spectra as rows of numbers.

Which of the two it is, is tried out: on all messages of a small file, and in a large one on one of
each combination of what decides how a message is decoded. All that touches a message runs in a
process that may die of it, which costs that message alone.

A field of a message that has several is kept, as a message of its own. Latitude and longitude are
computed, as no message has them: kept where a grid has one for each row and column, and otherwise
made by the codec from a message when they are read.
"""

import contextlib
import dataclasses
import json
from typing import Any, BinaryIO, Final

import numpy as np

from vzfs.archival.building import ArrayDescription, HierarchyBuilder, Unpresentable
from vzfs.archival.parsers import gribmessages
from vzfs.archival.parsers.gribgroups import Keys, Placed, Variable, placed, variables
from vzfs.archival.parsers.gribscan import GRID_DIGEST, Broken, Field, composed, scan
from vzfs.archival.parsers.guarded import Failed, Guard

MAX_TRIED: Final = 2**22
"""Values of a file of which every message is tried."""
MAX_MESSAGE: Final = 2**28
"""Bytes of a message that is tried."""
MAX_FIELD: Final = 2**20
"""Bytes of a field, of a message with several, that is kept,"""
MAX_KEPT: Final = 2**25
"""and of all of a file."""

_ALLOWED: Final = frozenset(
    {"regular_ll", "rotated_ll", "regular_gg", "rotated_gg", "lambert", "polar_stereographic", "mercator"}
)  # fmt: skip
"""The grids that gribberish may be tried on: at others it takes any amount of memory."""
_TRIES: Final = 8
"""Messages that are decoded to know how many values such messages have, if those before are broken."""
_ATTRIBUTES: Final = (
    "edition", "centre", "paramId", "shortName", "name", "cfName", "cfVarName", "units", "dataType",
    "typeOfLevel", "stepType", "gridType", "packingType", "scanningMode", "Nx", "Ny",
    "latitudeOfFirstGridPointInDegrees", "longitudeOfFirstGridPointInDegrees",
    "latitudeOfLastGridPointInDegrees", "longitudeOfLastGridPointInDegrees",
    "iDirectionIncrementInDegrees", "jDirectionIncrementInDegrees", "LaDInDegrees", "LoVInDegrees",
    "DxInMetres", "DyInMetres", "Latin1InDegrees", "Latin2InDegrees", "orientationOfTheGridInDegrees",
    "projectionCentreFlag", "latitudeOfSouthernPoleInDegrees", "longitudeOfSouthernPoleInDegrees",
    "angleOfRotationInDegrees", "shapeOfTheEarth", "radius", "N", "J", "K", "M", "percentileValue",
)  # fmt: skip
_TIME: Final = {
    "standard_name": "forecast_reference_time", "long_name": "initial time of forecast",
    "units": "seconds since 1970-01-01T00:00:00", "calendar": "proleptic_gregorian",
}  # fmt: skip
_VALID: Final = {**_TIME, "standard_name": "time", "long_name": "time"}
_COORDINATES: Final[dict[str, dict[str, object]]] = {
    "time": dict(_TIME),
    "step": {
        "standard_name": "forecast_period",
        "long_name": "time since forecast_reference_time",
        "units": "hours",
    },
    "number": {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
}


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Say what the GRIB *file* holds. Raises Unpresentable if it has no message that can be read."""
    gribmessages.prepare()
    with Guard(gribmessages.answer) as ask:
        _Parser(file, size, to, ask).parse()


@dataclasses.dataclass(frozen=True, slots=True)
class _Grid:
    """A grid: its *axes*, and their lengths; *name* is "" for the first of a file."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    said: Keys
    coordinates: tuple[str, ...] = ()


class _Parser:
    def __init__(self, file: BinaryIO, size: int, to: HierarchyBuilder, ask: Guard) -> None:
        self._file = file
        self._size = size
        self._to = to
        self._ask = ask
        self._kept = 0
        self._fields: list[Field] = []
        self._grids: dict[tuple[bytes, int], _Grid] = {}
        self._rows: dict[tuple[tuple[float, ...], tuple[float, ...], bool], _Grid] = {}
        self._count = 0
        self._counts: dict[int, int] = {}
        self._codecs: dict[int, str] = {}
        self._axes: dict[tuple[str, tuple[object, ...]], str] = {}
        self._names: set[str] = set()

    def parse(self) -> None:
        """Find the fields, try them, and make arrays of them."""
        found = self._headers()
        self._try(found)
        usable = [field for field in found if field.index in self._counts]
        if not usable:
            raise Unpresentable("it has no message that can be read")
        grid_of = {field.index: self._grid(field).name for field in usable}
        made = variables(usable, grid_of)
        self._names = {variable.name for variable in made}
        for variable in made:
            self._add(variable)

    # -- what there is -----------------------------------------------------------------------------

    def _headers(self) -> list[Placed]:
        """Return the fields that eccodes knows; the others are left out by their places."""
        found = []
        known: dict[bytes, Keys] = {}
        for field in scan(self._file, self._size):
            if isinstance(field, Broken):
                self._to.omit(_label(field.offset), f"it is no message: {field.reason}")
                continue
            if field.identity not in known:
                try:
                    known[field.identity] = self._asked(gribmessages.HEADER, field.header)
                except Failed as why:
                    label = _label(field.offset, field.number)
                    self._to.omit(label, f"eccodes cannot read it: {why}")
                    continue
            found.append(placed(len(self._fields), known[field.identity], field.moment))
            self._fields.append(field)
        return found

    def _asked(self, question: int, message: bytes) -> Any:  # noqa: ANN401 -- whatever JSON has
        return json.loads(self._ask(bytes([question]) + message))

    def _message(self, index: int) -> bytes:
        """Return the message of a field. Raises Failed if it is too large to be tried."""
        field = self._fields[index]
        if field.length > MAX_MESSAGE:
            raise Failed(f"it has more than {MAX_MESSAGE} bytes")
        if field.parts:
            return composed(self._file, field)
        self._file.seek(field.offset)
        return self._file.read(field.length)

    # -- which codec -------------------------------------------------------------------------------

    def _try(self, fields: list[Placed]) -> None:
        """Find out how many values messages have, and by which codec they are decoded."""
        families: dict[bytes, list[Placed]] = {}
        for field in fields:
            families.setdefault(self._fields[field.index].packing, []).append(field)
        firsts = {kind: self._first(family) for kind, family in families.items()}
        total = sum(len(families[kind]) * count for kind, (count, _) in firsts.items())
        for kind, (count, codec) in firsts.items():
            if count:
                for field in families[kind]:
                    self._counts[field.index], self._codecs[field.index] = count, codec
                if total <= MAX_TRIED:
                    self._try_all(families[kind], count, codec)

    def _first(self, family: list[Placed]) -> tuple[int, str]:
        """Return the number of values of such messages, 0 if none can be decoded, and their codec."""
        keys, reason = family[0].keys, ""
        # One that is broken says nothing of the others.
        for field in family[:_TRIES]:
            try:
                message = self._message(field.index)
                if keys.get("gridType") in _ALLOWED and "Ni" in keys and "Nj" in keys:
                    try:
                        count, is_same = self._asked(gribmessages.COMPARE, message)
                        if count:
                            return count, "gribberish" if is_same else "grib"
                    except Failed:
                        pass
                count = self._asked(gribmessages.COUNT, message)
                if count:
                    return count, "grib"
                reason = "it has no values"
            except Failed as why:
                reason = str(why)
        for field in family:
            self._leave_out(field, reason)
        return 0, ""

    def _try_all(self, family: list[Placed], count: int, codec: str) -> None:
        """Try every message: leave out what cannot be decoded, and take eccodes where gribberish fails."""
        for field in family[1:]:
            try:
                message = self._message(field.index)
                found, is_same = count, False
                if codec == "gribberish":
                    try:
                        found, is_same = self._asked(gribmessages.COMPARE, message)
                    except Failed:
                        is_same = False
                if not is_same:
                    found = self._asked(gribmessages.COUNT, message)
                    self._codecs[field.index] = "grib"
                reason = "" if found == count else f"it has {found} values, not {count}"
            except Failed as why:
                reason = str(why)
            if reason:
                del self._counts[field.index]
                self._leave_out(field, reason)

    def _leave_out(self, field: Placed, reason: str) -> None:
        message = self._fields[field.index]
        name = field.keys.get("shortName", "")
        said = f"eccodes cannot decode it: {reason}"
        self._to.omit(_label(message.offset, message.number), f"{name}: {said}" if name else said)

    # -- grids -------------------------------------------------------------------------------------

    def _grid(self, field: Placed) -> _Grid:
        """Return the grid of a field, with its coordinates added when it is seen first."""
        packing = self._fields[field.index].packing
        key = (packing[-GRID_DIGEST:], self._counts[field.index])
        if key not in self._grids:
            self._grids[key] = self._new_grid(field)
        return self._grids[key]

    def _new_grid(self, field: Placed) -> _Grid:
        count = self._counts[field.index]
        across, down = field.keys.get("Ni"), field.keys.get("Nj")
        is_swapped = bool(field.keys.get("jPointsAreConsecutive"))
        shape: tuple[int, ...] = (count,)
        if isinstance(across, int) and isinstance(down, int) and across * down == count:
            shape = (across, down) if is_swapped else (down, across)
        found = self._coordinates_of(field)
        if "rows" in found and "columns" in found:
            known = (tuple(found["rows"]), tuple(found["columns"]), is_swapped)
            if known not in self._rows:
                self._rows[known] = self._with_rows(found, is_swapped=is_swapped)
            return self._rows[known]
        suffix = self._suffix()
        axes = (
            [f"{name}{suffix}" for name in ("y", "x")] if len(shape) == 2 else [f"values{suffix}"]
        )
        if is_swapped:
            axes.reverse()
        grid = _Grid(suffix, tuple(axes), shape, found["said"])
        if "problem" in found:
            self._to.omit(f"/latitude{suffix}", found["problem"])
            return grid
        return self._located(grid, field)

    def _coordinates_of(self, field: Placed) -> Keys:
        """Return what is said of the grid of *field*, as `gribmessages` has it."""
        try:
            with contextlib.suppress(Failed):
                return self._asked(gribmessages.LOCATED, self._fields[field.index].header)  # type: ignore[no-any-return]
            # Of some grids coordinates are computed from the whole message alone.
            return self._asked(gribmessages.LOCATED, self._message(field.index))  # type: ignore[no-any-return]
        except Failed as why:
            return {"said": {}, "problem": f"eccodes cannot compute it: {why}"}

    def _suffix(self) -> str:
        self._count += 1
        return f"_{self._count - 1}" if self._count > 1 else ""

    def _with_rows(self, found: Keys, *, is_swapped: bool) -> _Grid:
        """Return a grid whose coordinates are those of its rows and columns, and add them."""
        suffix = self._suffix()
        names = (f"latitude{suffix}", f"longitude{suffix}")
        values = (found["rows"], found["columns"])
        for name, which, numbers in zip(names, ("latitude", "longitude"), values, strict=True):
            self._inline(name, (name,), np.array(numbers, "<f8"), _COORDINATES[which])
        shape = (len(values[0]), len(values[1]))
        if is_swapped:
            return _Grid(suffix, names[::-1], shape[::-1], found["said"])
        return _Grid(suffix, names, shape, found["said"])

    def _located(self, grid: _Grid, field: Placed) -> _Grid:
        """Add latitude and longitude of every point of *grid*, and return it with their names."""
        codec = "grib"
        if self._codecs[field.index] == "gribberish":
            try:
                if self._asked(gribmessages.COMPARE_COORDINATES, self._message(field.index)):
                    codec = "gribberish"
            except Failed:
                codec = "grib"
        names = (f"latitude{grid.name}", f"longitude{grid.name}")
        for name in names:
            which = name.removesuffix(grid.name)
            described = ArrayDescription(
                shape=grid.shape,
                chunk_shape=grid.shape,
                data_type="float64",
                fill_value="NaN",
                codecs=[_words(codec, which)],
                attributes=_COORDINATES[which],
                dimension_names=grid.axes,
            )
            array = self._to.array(f"/{name}", described)
            self._refer(array, (0,) * len(grid.shape), self._fields[field.index])
        return dataclasses.replace(grid, coordinates=names)

    # -- arrays ------------------------------------------------------------------------------------

    def _add(self, variable: Variable) -> None:
        """Add the array of *variable*, and the coordinates of its axes."""
        first = variable.first
        grid = self._grid(first)
        path = (
            f"/{variable.name}{grid.name}" if variable.name in _COORDINATES else f"/{variable.name}"
        )
        codecs = {self._codecs[field.index] for field in variable.fields.values()}
        codec = "gribberish" if codecs == {"gribberish"} else "grib"
        axes = [self._axis(axis, values, variable) for axis, values in variable.axes]
        others = [*grid.coordinates, *self._times(variable, axes)]
        attributes = _attributes(variable, grid.said)
        if others:
            attributes["coordinates"] = " ".join(others)
        lengths = tuple(len(values) for _, values in variable.axes)
        described = ArrayDescription(
            shape=(*lengths, *grid.shape),
            chunk_shape=(*(1 for _ in lengths), *grid.shape),
            data_type="float64",
            fill_value="NaN",
            codecs=[_words(codec, "values")],
            attributes=attributes,
            dimension_names=(*axes, *grid.axes),
        )
        array = self._to.array(path, described)
        for where, field in variable.fields.items():
            self._refer(array, (*where, *(0 for _ in grid.shape)), self._fields[field.index])

    def _refer(self, array: Any, coords: tuple[int, ...], field: Field) -> None:  # noqa: ANN401
        """Add the chunk of a field: where it lies, or the field itself if its message has several."""
        if not field.parts:
            array.virtual(coords, field.offset, field.length)
            return
        message = composed(self._file, field) if field.length <= MAX_MESSAGE else b""
        self._kept += len(message)
        if not message or len(message) > MAX_FIELD or self._kept > MAX_KEPT:
            raise Unpresentable(
                "its message has several fields, and is too large for them to be kept"
            )
        array.inline(coords, message)

    def _axis(self, axis: str, values: tuple[float | int, ...], variable: Variable) -> str:
        """Return the name of an axis of *variable*, with its coordinates added when it is seen first."""
        base = axis
        attributes = dict(_COORDINATES.get(axis, {}))
        if axis == "level":
            base = str(variable.first.keys.get("typeOfLevel", "level"))
            attributes = {"long_name": base, **_LEVELS.get(base, {})}
        if axis == "message":
            return self._name_of(base, (variable.name,), ())
        return self._name_of(base, values, attributes)

    def _name_of(self, base: str, values: tuple[Any, ...], attributes: Any) -> str:  # noqa: ANN401
        known = self._axes.get((base, values))
        if known is not None:
            return known
        number = sum(1 for name, _ in self._axes if name == base)
        name = f"{base}_{number}" if number else base
        while name in self._names:
            name += "_"
        self._axes[base, values] = name
        if attributes != ():
            dtype = "<i8" if all(isinstance(v, int) for v in values) else "<f8"
            self._inline(name, (name,), np.array(values, dtype), attributes)
        return name

    def _times(self, variable: Variable, axes: list[str]) -> list[str]:
        """Add what says the times of *variable* beside its axes, and return the names of that."""
        if variable.is_list:
            return self._along(variable, axes[0])
        known = {axis: values for axis, values in variable.axes if axis in ("time", "step")}
        if len(known) != 2:
            return []
        at = [axis for axis, _ in variable.axes]
        names = (axes[at.index("time")], axes[at.index("step")])
        is_new = ("valid_time", names) not in self._axes
        name = self._name_of("valid_time", names, ())
        if is_new:
            steps = np.rint(np.array(known["step"]) * 3600)
            values = np.array(known["time"], "<i8")[:, None] + steps.astype("<i8")
            self._inline(name, names, values, dict(_VALID))
        return [name]

    def _along(self, variable: Variable, axis: str) -> list[str]:
        """Add the coordinates of fields that are a list, along its *axis*."""
        found = []
        fields = [variable.fields[i,] for i in range(len(variable.fields))]
        for kind in ("time", "step", "number", "level"):
            values = [field.at(kind) for field in fields]
            if None in values:
                continue
            dtype = "<i8" if all(isinstance(v, int) for v in values) else "<f8"
            name = f"{kind}_{axis}"
            self._inline(name, (axis,), np.array(values, dtype), _COORDINATES.get(kind, {}))
            found.append(name)
        return found

    def _inline(
        self,
        name: str,
        axes: tuple[str, ...],
        values: np.ndarray[Any, Any],
        attributes: Any,  # noqa: ANN401
    ) -> None:
        described = ArrayDescription(
            shape=values.shape,
            chunk_shape=tuple(max(length, 1) for length in values.shape),
            data_type=values.dtype.name,
            fill_value=0 if values.dtype.kind == "i" else "NaN",
            codecs=[{"name": "bytes", "configuration": {"endian": "little"}}],
            attributes=attributes,
            dimension_names=axes,
        )
        self._to.array(f"/{name}", described).inline((0,) * values.ndim, values.tobytes())


_LEVELS: Final[dict[str, dict[str, object]]] = {
    "isobaricInhPa": {
        "standard_name": "air_pressure", "long_name": "pressure", "units": "hPa", "positive": "down",
    },
    "isobaricInPa": {
        "standard_name": "air_pressure", "long_name": "pressure", "units": "Pa", "positive": "down",
    },
    "heightAboveGround": {"standard_name": "height", "units": "m", "positive": "up"},
    "heightAboveSea": {"standard_name": "altitude", "units": "m", "positive": "up"},
    "depthBelowLand": {"standard_name": "depth", "units": "m", "positive": "down"},
}  # fmt: skip


def _label(offset: int, number: int = 0) -> str:
    """Return what the message at *offset* is called where it is left out."""
    return f"/message at byte {offset}" + (f", field {number + 1}" if number else "")


def _words(codec: str, which: str) -> dict[str, object]:
    """Return the words for a codec that gives the values of a message, or one of its coordinates."""
    if codec == "gribberish":
        return {"name": codec, "configuration": {"var": which}}
    return {"name": codec, "configuration": {"var": which, "dtype": "float64"}}


def _attributes(variable: Variable, grid: Keys) -> dict[str, object]:
    keys = {**grid, **variable.first.keys}
    found: dict[str, object] = {
        f"GRIB_{key}": keys[key] for key in _ATTRIBUTES if keys.get(key) is not None
    }
    for attribute, key in (("long_name", "name"), ("units", "units"), ("standard_name", "cfName")):
        if keys.get(key) not in (None, "", "unknown", "~"):
            found[attribute] = keys[key]
    known = {axis for axis, _ in variable.axes}
    for axis in ("number", "level"):
        value = variable.first.at(axis)
        if axis not in known and value is not None and not variable.is_list:
            found[f"GRIB_{axis}"] = value
    return found
