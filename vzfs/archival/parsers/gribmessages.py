"""What eccodes and gribberish say of one GRIB message. It runs in a process that may die of it.

Questions and answers are bytes: a letter and a message, and JSON or numbers.
"""

import functools
import json
import math
from typing import Any, Final

import numpy as np

from vzfs.archival.building import Unpresentable

HEADER, COUNT, COMPARE, LOCATED, COMPARE_COORDINATES = b"HCVLP"

_MISSING: Final = 1.7e308
"""What eccodes is to put in the place of missing values: a number that no message can have."""
_NONE: Final = 2147483647
"""What eccodes says for a number of points in a row that a message has not."""
_DEGREES: Final = 1e-6
"""How far coordinates that are computed in two ways may be apart,"""
_FIRST: Final = 1e-3
"""and how far the first from what the message says of it."""

_KEYS: Final = (
    "edition", "paramId", "shortName", "cfVarName", "name", "cfName", "units", "centre", "dataType",
    "typeOfLevel", "level", "topLevel", "bottomLevel", "stepType", "startStep", "endStep", "number",
    "gridType", "packingType", "Ni", "Nj", "scanningMode",
    "jPointsAreConsecutive", "alternativeRowScanning", "productDefinitionTemplateNumber",
    "expver",
)  # fmt: skip
_OF_EDITION: Final = {
    1: ("table2Version", "indicatorOfParameter"),
    2: ("discipline", "parameterCategory", "parameterNumber", "localTablesVersion"),
}
"""What says which parameter it is where it has no name."""
_OF_PRODUCT: Final = {
    **dict.fromkeys((2, 3, 4, 12, 13, 14), ("derivedForecast",)),
    **dict.fromkeys(
        (5, 9), ("probabilityType", "scaledValueOfLowerLimit", "scaledValueOfUpperLimit")
    ),
    **dict.fromkeys((6, 10), ("percentileValue",)),
    **dict.fromkeys((40, 41, 42, 43), ("constituentType",)),
    **dict.fromkeys((44, 45, 46, 47, 48), ("aerosolType",)),
    **dict.fromkeys((99, 100), ("waveDirectionNumber", "waveFrequencyNumber")),
    **dict.fromkeys((103, 104), ("wavePeriodNumber",)),
}
"""What some products have beside."""
_OF_GRID: Final = (
    "Nx", "Ny", "LaDInDegrees", "LoVInDegrees", "DxInMetres", "DyInMetres", "Latin1InDegrees",
    "Latin2InDegrees", "latitudeOfSouthernPoleInDegrees", "longitudeOfSouthernPoleInDegrees",
    "angleOfRotationInDegrees", "iDirectionIncrementInDegrees", "jDirectionIncrementInDegrees",
    "latitudeOfFirstGridPointInDegrees", "longitudeOfFirstGridPointInDegrees",
    "latitudeOfLastGridPointInDegrees", "longitudeOfLastGridPointInDegrees", "N",
    "orientationOfTheGridInDegrees", "projectionCentreFlag", "shapeOfTheEarth", "radius", "J",
    "K", "M",
)  # fmt: skip
_WASHINGTON: Final = 7
_RECTANGULAR: Final = ("regular_ll", "regular_gg")
_TEXTS: Final = frozenset({"startStep", "endStep"})


@functools.cache
def prepare() -> None:
    """Have what is installed loaded before the first process is forked. Raises Unpresentable."""
    try:
        import eccodes  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        raise Unpresentable("it takes a package to be read: pip install 'vzfs[grib]'") from None
    for sample in ("GRIB1", "GRIB2"):
        handle = eccodes.codes_grib_new_from_samples(sample)
        try:
            _said(handle, _KEYS)
            # Other centres have tables of their own.
            eccodes.codes_set(handle, "centre", _WASHINGTON)
            _said(handle, _KEYS)
        finally:
            eccodes.codes_release(handle)
    try:
        import gribberish  # type: ignore[import-untyped]  # noqa: F401 -- it has no types
    except ImportError:
        return


def answer(question: bytes) -> bytes:
    """Answer one question. Raises whatever the libraries raise."""
    kind, message = question[0], question[1:]
    return json.dumps(_ANSWERS[kind](message)).encode()


def _header(message: bytes) -> dict[str, Any]:
    """Return what is said of a field."""
    found = _keys(message, _KEYS)
    more = _OF_EDITION.get(found.get("edition", 0), ())
    more += _OF_PRODUCT.get(found.get("productDefinitionTemplateNumber", -1), ())
    found |= _keys(message, more)
    return {key: value for key, value in found.items() if (key, value) not in _ABSENT}


_ABSENT: Final = (("Ni", _NONE), ("Nj", _NONE))


def _keys(message: bytes, keys: tuple[str, ...]) -> dict[str, Any]:
    import eccodes

    handle = eccodes.codes_new_from_message(message)
    try:
        return _said(handle, keys)
    finally:
        eccodes.codes_release(handle)


def _said(handle: Any, keys: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401 -- eccodes has no types
    found = {}
    for key in keys:
        value = _one(handle, key, str if key in _TEXTS else None)
        if value is not None:
            found[key] = value
    return found


def _one(handle: Any, key: str, kind: type | None) -> Any:  # noqa: ANN401 -- eccodes has no types
    import eccodes

    try:
        if eccodes.codes_is_missing(handle, key):
            return None
        value = eccodes.codes_get(handle, key, kind)
    except eccodes.CodesInternalError:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _array(message: bytes, key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    import eccodes

    handle = eccodes.codes_new_from_message(message)
    try:
        if key == "values":
            eccodes.codes_set(handle, "missingValue", _MISSING)
        return np.asarray(eccodes.codes_get_array(handle, key), "<f8")
    finally:
        eccodes.codes_release(handle)


def _count(message: bytes) -> int:
    """Return how many values the message has; they are decoded to know."""
    return len(_array(message, "values"))


def _compare(message: bytes) -> tuple[int, bool]:
    """Return how many values there are, and whether gribberish decodes the very ones that eccodes does."""
    import gribberish

    values = _array(message, "values")
    theirs = np.asarray(gribberish.parse_grib_array(message, 0, False, False)).reshape(-1)
    if theirs.dtype != np.float64 or theirs.shape != values.shape:
        return len(values), False
    values[values == _MISSING] = np.nan
    return len(values), bool(np.array_equal(theirs, values, equal_nan=True))


def _located(message: bytes) -> dict[str, Any]:
    """Return what is `said` of a grid, and the `rows` and `columns` of one that has nothing else.

    Those are their latitudes and longitudes. A `problem` says why what eccodes computes are not the
    coordinates of the values in their order.
    """
    said = _keys(message, (*_KEYS, *_OF_GRID))
    found: dict[str, Any] = {"said": {key: said[key] for key in _OF_GRID if key in said}}
    kind = str(said.get("gridType", ""))
    if said.get("alternativeRowScanning"):
        return {**found, "problem": "rows of the grid go to and fro, and coordinates do not"}
    is_swapped = bool(said.get("jPointsAreConsecutive"))
    for name, key, first in (
        ("rows", "latitudes", "latitudeOfFirstGridPointInDegrees"),
        ("columns", "longitudes", "longitudeOfFirstGridPointInDegrees"),
    ):
        values = _array(message, key)
        known = said.get(first)
        # Of rotated grids that is in other coordinates, and reduced ones may begin with empty rows.
        is_said = known is not None and not kind.startswith(("reduced", "rotated"))
        if is_said and not _apart(values[:1], known) < _FIRST:
            return {**found, "problem": "eccodes computes coordinates in another order than that of values"}  # fmt: skip
        if kind in _RECTANGULAR and values.size == said.get("Ni", 0) * said.get("Nj", 0):
            shape = (said["Ni"], said["Nj"]) if is_swapped else (said["Nj"], said["Ni"])
            grid = values.reshape(shape)
            lines = grid if (name == "rows") is is_swapped else grid.T
            if bool((lines == lines[0]).all()):
                found[name] = lines[0].tolist()
    return found


def _have_same_coordinates(message: bytes) -> bool:
    """Whether gribberish has the latitudes and longitudes of the message that eccodes has."""
    import gribberish

    theirs = gribberish.parse_grib_message_metadata(message, 0).latlng(False, False)
    return all(
        np.size(mine) == (known := _array(message, key)).size
        and bool(_apart(np.ravel(mine), known) < _DEGREES)
        for mine, key in zip(theirs, ("latitudes", "longitudes"), strict=True)
    )


def _apart(one: Any, other: Any) -> float:  # noqa: ANN401 -- numbers or arrays
    """Return how far angles are apart at most, in degrees."""
    return float(np.max(np.abs((np.asarray(one) - other + 180) % 360 - 180)))


_ANSWERS: Final = {
    HEADER: _header,
    COUNT: _count,
    COMPARE: _compare,
    LOCATED: _located,
    COMPARE_COORDINATES: _have_same_coordinates,
}
