"""Small integers of fixed width, as Parquet has them for nulls and dictionaries: runs, and packed bits."""

import numpy as np
import numpy.typing as npt

from vzfs.formats.parquet.thrift import corrupt

type Integers = npt.NDArray[np.int32]


def decode_runs(data: memoryview, width: int, count: int) -> Integers:
    """Return the first *count* integers of *width* bits (at most 31) in *data*, which is runs of them.

    A run is one value repeated, or groups of eight that are packed bit by bit. Raises FormatError
    if there are fewer.
    """
    out = np.zeros(count, np.int32)
    if not width:
        return out
    weights = np.left_shift(1, np.arange(width), dtype=np.int64).astype(np.int32)
    nbytes = -(-width // 8)
    at = filled = 0
    while filled < count:
        header, at = _header(data, at)
        length = (header >> 1) * 8 if header & 1 else header >> 1
        take = min(length, count - filled)
        if not take:
            raise corrupt("a run of a page is empty")
        if header & 1:
            needed = -(-take * width // 8)
            if at + needed > len(data):
                raise corrupt("a page ends early")
            packed = np.frombuffer(data, np.uint8, needed, at)
            bits = np.unpackbits(packed, count=take * width, bitorder="little")
            if width == 1:
                out[filled : filled + take] = bits
            else:
                out[filled : filled + take] = bits.reshape(take, width) @ weights
            at += (header >> 1) * width
        else:
            if at + nbytes > len(data):
                raise corrupt("a page ends early")
            value = int.from_bytes(data[at : at + nbytes], "little")
            if value >> width:
                raise corrupt("a number of a page has more bits than it may")
            out[filled : filled + take] = value
            at += nbytes
        filled += take
    return out


def _header(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 35:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
    raise corrupt("a page ends early")
