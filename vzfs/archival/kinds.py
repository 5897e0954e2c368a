"""Which kind of file bytes are, by what they begin with, and what has to be installed to parse it. Pure."""

import enum
import re
from typing import Final, NamedTuple

NAMES: Final = re.compile(
    r"\.(?:nc[34]?|cdf|netcdf|h[45]|hdf[45]?|he[45]|grb[12]?|grib[12]?|gb2|g?tiff?|fits?|fts|dmrpp)\Z",
    re.IGNORECASE,
)
"""What the names of such files end with, by which they are found in a folder."""
HEAD: Final = 64 * 2**10
"""Bytes of the beginning of a file that say of which kind it is."""


class Kind(enum.StrEnum):
    """A kind of file. The module of its parser in `parsers` is called like it; ZIP has none, as it is for Zarr."""

    HDF5 = "hdf5"
    NETCDF3 = "netcdf3"
    GRIB = "grib"
    TIFF = "tiff"
    FITS = "fits"
    HDF4 = "hdf4"
    DMRPP = "dmrpp"
    ZIP = "zip"

    @property
    def called(self) -> str:
        """What people call it."""
        return _NEEDS[self].title


class Needs(NamedTuple):
    """What the parser of a kind needs: *modules*, which the *extra* of this package brings.

    *version* is that of the parser itself: another number where it would make other references of
    the same file. *packages* are those whose versions count too.
    """

    title: str
    version: int = 1
    modules: tuple[str, ...] = ()
    extra: str = ""
    packages: tuple[str, ...] = ()


_NEEDS: Final = {
    Kind.HDF5: Needs("HDF5 or netCDF4", 1, ("h5py",), "hdf5", ("h5py", "hdf5plugin")),
    Kind.NETCDF3: Needs("netCDF classic"),
    Kind.GRIB: Needs("GRIB", 1, ("eccodes",), "grib", ("eccodes", "gribberish")),
    Kind.TIFF: Needs("TIFF", 1, (), "tiff", ("imagecodecs",)),
    Kind.FITS: Needs("FITS"),
    Kind.HDF4: Needs("HDF4"),
    Kind.DMRPP: Needs("DMR++"),
    Kind.ZIP: Needs("ZIP"),
}

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_MAGIC: Final = (
    (_HDF5, Kind.HDF5),
    *((b"CDF" + bytes([version]), Kind.NETCDF3) for version in (1, 2, 5)),
    (b"GRIB", Kind.GRIB),
    *((magic, Kind.TIFF) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"SIMPLE  =", Kind.FITS),
    (b"\x0e\x03\x13\x01", Kind.HDF4),
    *((magic, Kind.ZIP) for magic in (b"PK\3\4", b"PK\5\6")),
)
_XML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_GRIB: Final = re.compile(rb"GRIB(?:...[\x01\x02])", re.DOTALL)
"""Bulletins begin with a heading of their own."""
_BULLETIN: Final = 4096


def needs(kind: Kind) -> Needs:
    """Return what the parser of *kind* needs."""
    return _NEEDS[kind]


def sniff(head: bytes, name: str) -> Kind | None:
    """Return the kind of a file that begins with *head* and is called *name*, None if it is not known.

    An HDF5 file may have something else before it, of 512 bytes or a power of 2 times that.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _XML.match(head):
        return Kind.DMRPP if b"dmrpp" in head or name.lower().endswith(".dmrpp") else None
    place = 512
    while place < len(head):
        if head.startswith(_HDF5, place):
            return Kind.HDF5
        place *= 2
    return Kind.GRIB if _GRIB.search(head[:_BULLETIN]) else None
