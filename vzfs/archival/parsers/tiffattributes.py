"""What the tags of a TIFF directory say beside its pixels, as attributes."""

import math
from typing import Any, Final

import numpy as np

from vzfs.archival.parsers.tifftags import Directory
from vzfs.archival.words import FILL_ATTRIBUTE, fill_attribute

MAX_ATTRIBUTES: Final = 2**20
"""Bytes of all attributes of a directory, about; a longer one is left out."""

_TEXTS: Final = {
    269: "DocumentName", 270: "ImageDescription", 271: "Make", 272: "Model", 285: "PageName",
    305: "Software", 306: "DateTime", 315: "Artist", 316: "HostComputer", 33432: "Copyright",
    34737: "GeoAsciiParams", 42112: "GDAL_METADATA", 42113: "GDAL_NODATA",
}  # fmt: skip
_NUMBERS: Final = {
    254: "NewSubfileType", 282: "XResolution", 283: "YResolution", 296: "ResolutionUnit",
    297: "PageNumber", 320: "ColorMap", 338: "ExtraSamples", 33550: "ModelPixelScale",
    33922: "ModelTiepoint", 34264: "ModelTransformation", 34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams", 50844: "RPCCoefficient",
}  # fmt: skip
_PHOTOMETRIC, _NODATA = 262, 42113
_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_PROJECTED, _GEODETIC, _USER_DEFINED = 3072, 2048, 32767
_PIXEL_IS, _POINT = 1025, 2
_NAMES: Final = (
    "MinIsWhite", "MinIsBlack", "RGB", "Palette", "Mask", "CMYK", "YCbCr", "", "CIELab",
)  # fmt: skip


def attributes_of(
    directory: Directory, dtype: np.dtype[Any], missing: float | int | None
) -> tuple[dict[str, object], list[str]]:
    """Return the attributes of the array of *directory*, and what was too long to be one."""
    found: dict[str, object] = {}
    problems = []
    room = MAX_ATTRIBUTES
    for number in (*_TEXTS, *_NUMBERS):
        tag = directory.tags.get(number)
        name = _TEXTS.get(number) or _NUMBERS[number]
        if tag is None:
            continue
        room -= tag.count * tag.dtype.itemsize
        if room < 0:
            problems.append(f"its attribute {name} is left out: it has {tag.count} values")
            continue
        found[name] = directory.text(number) if number in _TEXTS else _plain(directory, number)
    photometric = directory.whole(_PHOTOMETRIC, 1)
    if photometric < len(_NAMES) and _NAMES[photometric]:
        found["PhotometricInterpretation"] = _NAMES[photometric]
    transform = _transform(directory)
    if transform is not None:
        found["GeoTransform"] = " ".join(repr(number) for number in transform)
    code = _epsg(directory)
    if code:
        found["crs"] = f"EPSG:{code}"
    if missing is not None:
        found[FILL_ATTRIBUTE] = fill_attribute(missing, dtype)
    return found, problems


def missing_value(directory: Directory, dtype: np.dtype[Any]) -> float | int | None:
    """Return what stands for missing data, None if nothing does or its elements have no such value."""
    text = directory.text(_NODATA).strip() if _NODATA in directory.tags else ""
    if not text or len(text) > 400 or dtype.kind == "c":
        return None
    try:
        number: float | int = float(text)
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                made = dtype.type(number)
            return number if math.isfinite(made) or not math.isfinite(number) else None
        number = int(text) if text.lstrip("+-").isdigit() else int(number)
    except (ValueError, OverflowError):
        return None
    limits = np.iinfo(dtype)
    return number if limits.min <= number <= limits.max and number == float(text) else None


def _plain(directory: Directory, number: int) -> object:
    values = directory.values(number)
    if values.dtype.kind not in "iuf":
        return values.tobytes()
    return values.tolist() if values.size != 1 else values.tolist()[0]


def _transform(directory: Directory) -> list[float] | None:
    """Return the six numbers that GDAL takes to get from pixels to coordinates."""
    matrix = directory.values(_TRANSFORMATION)
    scale, tie = directory.values(_SCALE), directory.values(_TIEPOINT)
    if any(values.dtype.kind != "f" for values in (matrix, scale, tie) if values.size):
        return None
    if matrix.size == 16:
        a, b, _, c, d, e, _, f = matrix.tolist()[:8]
        found = [c, a, b, f, d, e]
    elif scale.size >= 2 and tie.size == 6:
        i, j, _, x, y, _ = tie.tolist()
        across, down = scale.tolist()[:2]
        found = [x - i * across, across, 0.0, y + j * down, 0.0, -down]
    else:
        return None
    if _geo_key(directory, _PIXEL_IS) == _POINT:
        # The coordinates are those of the middle of a pixel, not of its corner.
        found[0] -= (found[1] + found[2]) / 2
        found[3] -= (found[4] + found[5]) / 2
    return found if all(math.isfinite(number) for number in found) else None


def _epsg(directory: Directory) -> int:
    """Return the code of the coordinate system, if that is all that is said of it."""
    code = _geo_key(directory, _PROJECTED) or _geo_key(directory, _GEODETIC)
    return code if 0 < code < _USER_DEFINED else 0


def _geo_key(directory: Directory, wanted: int) -> int:
    """Return the number that a key of the coordinate system has, 0 if it has none of its own."""
    keys = directory.values(_KEYS)
    if keys.dtype.kind != "u" or keys.size < 4:
        return 0
    for key, place, _, value in keys[4 : keys.size // 4 * 4].reshape(-1, 4).tolist():
        if key == wanted and place == 0:
            return int(value)
    return 0
