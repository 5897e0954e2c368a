"""Which codecs this installation can decode, found out without importing any of them.

zarr and numcodecs are an optional extra. What they register themselves is listed here, as they say
it nowhere but in their code; other packages declare theirs as entry points.
"""

import functools
import hashlib
import importlib.util
import re
from typing import Final, NamedTuple

from vzfs.errors import ConfigError, ErrorKind

OLDEST: Final = (3, 4)
"""The first version of zarr whose codecs are used as here."""

_ZARR: Final = frozenset(
    {
        "blosc",
        "bytes",
        "cast_value",
        "crc32c",
        "endian",
        "gzip",
        "scale_offset",
        "sharding_indexed",
        "transpose",
        "zstd",
        *(
            f"numcodecs.{name}"
            for name in (
                "adler32",
                "astype",
                "bitround",
                "blosc",
                "bz2",
                "crc32",
                "crc32c",
                "delta",
                "fixedscaleoffset",
                "fletcher32",
                "gzip",
                "jenkins_lookup3",
                "lz4",
                "lzma",
                "packbits",
                "pcodec",
                "quantize",
                "shuffle",
                "zfpy",
                "zlib",
                "zstd",
            )
        ),
    }
)
"""What zarr registers for types of fixed size."""
_NEEDS: Final = {
    "cast_value": ("cast_value_rs", "cast-value-rs"),
    "numcodecs.crc32c": ("google_crc32c", "numcodecs[crc32c]"),
    "numcodecs.pcodec": ("pcodec", "numcodecs[pcodec]"),
    "numcodecs.zfpy": ("zfpy", "numcodecs[zfpy]"),
}
"""Module and package without which zarr has a codec by name alone."""
TIFF: Final = frozenset({"ChunkyCodec", "HorizontalDeltaCodec"})
"""What virtual_tiff registers when it is imported."""
IMAGES: Final = frozenset(
    f"imagecodecs_{name}"
    for name in (
        "delta",
        "floatpred",
        "jpeg",
        "jpeg2k",
        "jpegls",
        "jpegxl",
        "jpegxr",
        "lerc",
        "lzw",
        "packbits",
        "png",
        "webp",
    )
)
"""What is made of imagecodecs here."""
GRIB: Final = "grib"
"""Messages of GRIB, as kerchunk names their codec; it is made of eccodes here."""
_PACKAGES: Final = {
    "gribberish": "gribberish",
    "grib": "eccodes",
    "imagecodecs_": "imagecodecs",
    "virtual_tiff.": "virtual-tiff",
    "any-numcodecs.": "zarr-any-numcodecs",
    "omfiles.": "omfiles",
    "n5_default": "zarr-n5",
}
"""The package that has the codecs whose names begin so."""
_GROUP: Final = "zarr.codecs"
_NUMBERS: Final = re.compile(r"([0-9]+)\.([0-9]+)")


class Installed(NamedTuple):
    """The names of the codecs, and a tag that changes with the version of whatever decodes."""

    names: frozenset[str]
    tag: str


def can_decode() -> frozenset[str]:
    """Return the names of the codecs that can be decoded. Raises ConfigError without zarr."""
    return installed().names


def installed() -> Installed:
    """Return what is installed. Raises ConfigError without zarr."""
    found = _look()
    if isinstance(found, str):
        raise ConfigError(ErrorKind.BAD_CONFIG, found, advice="pip install 'vzfs[decoded]'")
    return found


@functools.cache
def _look() -> Installed | str:
    """Return what is installed, or what is wrong with it."""
    versions = {"zarr": _version("zarr"), "numcodecs": _version("numcodecs")}
    numbers = _NUMBERS.match(versions["zarr"])
    if numbers is None or not versions["numcodecs"]:
        return "the decoded view needs zarr"
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        return f"the decoded view needs zarr {OLDEST[0]}.{OLDEST[1]}, not {versions['zarr']}"
    names = {name for name in _ZARR if name not in _NEEDS or _has(_NEEDS[name][0])}
    if _has("virtual_tiff"):
        names |= TIFF
        versions["virtual-tiff"] = _version("virtual-tiff")
    if _has("imagecodecs"):
        names |= IMAGES
        versions["imagecodecs"] = _version("imagecodecs")
    if _has("eccodes"):
        names.add(GRIB)
        versions["eccodes"] = _version("eccodes")
    from importlib.metadata import entry_points

    for entry in entry_points():
        if entry.group == _GROUP:
            names.add(entry.name)
        elif entry.group.startswith(f"{_GROUP}."):
            names.add(entry.group.removeprefix(f"{_GROUP}."))
        else:
            continue
        if entry.dist is not None:
            versions[entry.dist.name] = entry.dist.version
    said = " ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return Installed(frozenset(names), hashlib.blake2b(said.encode(), digest_size=8).hexdigest())


def package_of(codec: str) -> str:
    """Return the package that is known to have *codec*, "" if none is."""
    if codec in _NEEDS:
        return _NEEDS[codec][1]
    if codec in TIFF:
        return "virtual-tiff"
    for beginning, package in _PACKAGES.items():
        if codec.startswith(beginning):
            return package
    return ""


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str:
    # A mount that decodes nothing does not wait for this module.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
