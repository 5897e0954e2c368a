"""The filters of an HDF5 dataset as codecs of Zarr, where there are such that undo exactly the same.

Each chunk says which filters it went without (its mask). An array of Zarr has one list of codecs, so a
chunk with another mask than most is encoded anew, without compressing it, where that can be done.
"""

import bz2
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import zstandard

from vzfs.archival.building import Unpresentable

_NAMES: Final = {
    4: "szip", 5: "nbit", 6: "scaleoffset", 305: "LZO", 32000: "LZF", 32004: "LZ4",
    32008: "bitshuffle", 32013: "ZFP", 32017: "SZ", 32018: "FCIDECOMP", 32019: "JPEG",
    32022: "BitGroom", 32023: "Granular BitRound", 32024: "SZ3", 32026: "Blosc2", 32028: "SPERR",
}  # fmt: skip
"""Filters that no codec of Zarr undoes."""
_CNAMES: Final = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
_SHUFFLES: Final = ("noshuffle", "shuffle", "bitshuffle")
_BLOSC_HEADER: Final = struct.Struct("<4B3I")
_BLOSC_COPIED: Final = 0x2


class Filter(NamedTuple):
    """A filter: its *number* in the registry of HDF5, and the *values* that it is set by."""

    number: int
    values: tuple[int, ...]


def codecs(filters: Sequence[Filter], itemsize: int) -> list[dict[str, object]]:
    """Return the codecs that do what *filters* do to elements of *itemsize* bytes. Raises Unpresentable."""
    return [_codec(used, itemsize) for used in filters]


def without(filters: Sequence[Filter], mask: int) -> list[Filter]:
    """Return the filters that a chunk with that *mask* went through."""
    return [used for bit, used in enumerate(filters) if not mask >> bit & 1]


def _codec(used: Filter, itemsize: int) -> dict[str, object]:
    match used.number:
        case 1:
            level = used.values[0] if used.values else 1
            return _said("numcodecs.zlib", level=level if 0 <= level <= 9 else 1)
        case 2:
            return _said("numcodecs.shuffle", elementsize=_element(used, itemsize))
        case 3:
            return _said("numcodecs.fletcher32")
        case 307:
            return _said("numcodecs.bz2", level=9)
        case 32001:
            return _blosc(used, itemsize)
        case 32015:
            return _said("zstd", level=3, checksum=False)
    known = _NAMES.get(used.number)
    name = f"{known} (HDF5 filter {used.number})" if known else f"the HDF5 filter {used.number}"
    raise Unpresentable(f"its chunks went through {name}, which no codec of Zarr undoes")


def _said(name: str, **configuration: object) -> dict[str, object]:
    return {"name": name, "configuration": configuration}


def _element(used: Filter, itemsize: int) -> int:
    return used.values[0] if used.values and used.values[0] > 0 else itemsize


def _blosc(used: Filter, itemsize: int) -> dict[str, object]:
    # What matters stands in each chunk; this is what the writer was asked for.
    values = dict(enumerate(used.values))
    size, shuffle, cname = values.get(2, itemsize), values.get(5, 1), values.get(6, 0)
    return _said(
        "blosc",
        cname=_CNAMES[cname] if cname < len(_CNAMES) else "blosclz",
        clevel=min(values.get(4, 5), 9),
        shuffle=_SHUFFLES[shuffle] if shuffle < len(_SHUFFLES) else "shuffle",
        typesize=size if 0 < size < 256 else 1,
        blocksize=0,
    )


def encoded(chunk: bytes, filters: Sequence[Filter], itemsize: int) -> bytes:
    """Return *chunk* as *filters* make it, not compressed to speak of. Raises Unpresentable."""
    for used in filters:
        chunk = _encode(chunk, used, itemsize)
    return chunk


def _encode(chunk: bytes, used: Filter, itemsize: int) -> bytes:
    match used.number:
        case 1:
            return zlib.compress(chunk)
        case 2:
            return _shuffled(chunk, _element(used, itemsize))
        case 307:
            return bz2.compress(chunk)
        case 32001:
            size = len(chunk)
            head = _BLOSC_HEADER.pack(
                2, 1, _BLOSC_COPIED, min(itemsize, 255), size, size, size + _BLOSC_HEADER.size
            )
            return head + chunk
        case 32015:
            return zstandard.compress(chunk)
    raise Unpresentable("some of its chunks went without a filter that others went through")


def _shuffled(chunk: bytes, size: int) -> bytes:
    whole = len(chunk) - len(chunk) % size
    columns = np.frombuffer(chunk[:whole], np.uint8).reshape(-1, size)
    return columns.T.tobytes() + chunk[whole:]
