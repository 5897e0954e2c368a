"""What netCDF-C 4.9 takes of an array without codecs, as decoded chunks in Zarr v2 are.

It opens a group as a whole. One array that it does not take keeps it from all that are beside it: it
refuses the group, or crashes. So that view, which is there for readers without codecs, has no such
array; the others do.
"""

from collections.abc import Sequence
from typing import Final

from vzfs.views.metadata import ArrayMetadata, Unsaid

_NUMBERS: Final = frozenset("iuf")
_ELSEWHERE: Final = "decoded-v3 has it, and portable-v2 if Zarr v2 can say it"


def check(metadata: ArrayMetadata) -> None:
    """Raise Unsaid for an array that keeps netCDF-C 4.9 from its group.

    It knows integers and numbers of 4 and 8 bytes, and crashes on other data types. It refuses
    arrays without elements. Of arrays without axes it crashes on reading them alone, so they stay.
    """
    dtype = metadata.data_type.numpy
    if dtype is None or dtype.kind not in _NUMBERS or (dtype.kind, dtype.itemsize) == ("f", 2):
        raise Unsaid(f"netCDF-C 4.9 crashes on groups with such a data type: {_ELSEWHERE}")
    if 0 in metadata.shape:
        raise Unsaid(f"netCDF-C 4.9 opens no group with an array of no elements: {_ELSEWHERE}")


def kept(metadata: ArrayMetadata) -> Sequence[int]:
    """Return how much of a chunk is within the array where there is but one along an axis, else its length.

    netCDF-C 4.9 opens no group with a chunk that is longer than its array.
    """
    pairs = zip(metadata.chunk_shape, metadata.shape, strict=True)
    return [min(chunk, max(length, 1)) for chunk, length in pairs]
