"""Kinds of files, ranges of a file, and values in the words of Zarr and xarray."""

import base64
import io
import math
import random
import struct

import numpy as np
import pytest
from xarray.backends.zarr import FillValueCoder
from zarr.core.dtype import get_data_type_from_native_dtype

from vzfs.archival.building import Unpresentable
from vzfs.archival.kinds import Kind, sniff
from vzfs.archival.ranges import BLOCK, DIRECT, KEPT, MOST_AHEAD, RangeFile
from vzfs.archival.wire import MAX_ASKED
from vzfs.archival.words import (
    PIECE,
    bytes_codec,
    data_type,
    endian,
    fill_attribute,
    fill_value,
    pieces,
)

HDF5 = b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (HDF5 + b"x", "a", Kind.HDF5),
        (bytes(512) + HDF5, "a", Kind.HDF5),
        (b"MATLAB 7.3".ljust(2048) + HDF5, "a", Kind.HDF5),
        (bytes(513) + HDF5, "a", None),
        (bytes(768) + HDF5, "a", None),
        (b"CDF\1xxxx", "a", Kind.NETCDF3),
        (b"CDF\2xxxx", "a", Kind.NETCDF3),
        (b"CDF\5xxxx", "a", Kind.NETCDF3),
        (b"CDF\3xxxx", "a", None),
        (b"GRIB\0\0\0\2", "a", Kind.GRIB),
        (b"\x01\r\r\n001\r\r\nHTXX GRIB\0\0\0\1", "a", Kind.GRIB),
        (b"II*\0", "a", Kind.TIFF),
        (b"MM\0*", "a", Kind.TIFF),
        (b"II+\0", "a", Kind.TIFF),
        (b"MM\0+", "a", Kind.TIFF),
        (b"SIMPLE  =                    T", "a", Kind.FITS),
        (b"\x0e\x03\x13\x01", "a", Kind.HDF4),
        (b'<?xml version="1.0"?>\n<Dataset xmlns:dmrpp="http', "a.dmrpp", Kind.DMRPP),
        (b"\xef\xbb\xbf <Dataset>", "a.dmrpp", Kind.DMRPP),
        (b"PK\3\4", "a.zip", Kind.ZIP),
        (b"PK\5\6", "a.zip", Kind.ZIP),
        (b"<html>", "a.html", None),
        (b"", "a.nc", None),
    ],
)
def test_a_file_is_known_by_its_beginning(head: bytes, name: str, kind: Kind | None) -> None:
    """What a file is follows from its bytes; its name is asked where many formats begin alike."""
    assert sniff(head, name) is kind


class Asked:
    """Gives ranges of *data*, and remembers which."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        assert 0 < length <= MAX_ASKED
        assert offset + length <= len(self.data)
        return self.data[offset : offset + length]


def test_a_file_of_ranges_reads_like_a_file() -> None:
    """Whatever is read, wherever, is what a file would give."""
    data = random.Random(1).randbytes(3 * BLOCK + 1234)
    one, other = RangeFile(len(data), Asked(data)), io.BytesIO(data)
    rng = random.Random(2)
    for _ in range(500):
        whence = rng.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
        offset = rng.randrange(2 * len(data)) - (len(data) if whence == io.SEEK_END else 0)
        offset = max(offset, 0) if whence == io.SEEK_CUR else offset
        if whence == io.SEEK_END and offset < -len(data):
            continue
        assert one.seek(offset, whence) == other.seek(offset, whence)
        length = rng.choice([0, 1, 100, BLOCK, DIRECT, 2 * len(data)])
        assert one.read(length) == other.read(length)
        assert one.tell() == other.tell()
    with pytest.raises(ValueError, match="before the beginning"):
        one.seek(-1)


def test_who_goes_forward_gets_ever_more_at_a_time() -> None:
    """Small reads from beginning to end take few requests, and no byte is asked for twice."""
    data = bytes(64 * BLOCK)
    asked = Asked(data)
    file = RangeFile(len(data), asked)
    while file.read(BLOCK // 2):
        pass
    assert [length // BLOCK for _, length in asked.ranges] == [1, 2, 4, 8, 16, 16, 16, 1]
    assert max(length for _, length in asked.ranges) == MOST_AHEAD * BLOCK


def test_who_jumps_about_gets_no_more_than_a_block() -> None:
    """Reads here and there take one block each, once, as long as it is kept."""
    data = bytes((KEPT + 50) * BLOCK)
    asked = Asked(data)
    file = RangeFile(len(data), asked)
    for _ in range(2):
        for number in range(0, 2 * (KEPT // 2), 2):
            file.seek(number * BLOCK)
            file.read(10)
    assert len(asked.ranges) == KEPT // 2
    assert {length for _, length in asked.ranges} == {BLOCK}


def test_large_reads_are_not_kept() -> None:
    """What is read in one large piece is asked for as it is, in ranges that are bounded."""
    data = bytes(MAX_ASKED + DIRECT)
    asked = Asked(data)
    file = RangeFile(len(data), asked)
    file.seek(5)
    assert len(file.read(len(data))) == len(data) - 5
    assert len(file.read(1)) == 0
    assert len(asked.ranges) <= 3 + len(data) // MAX_ASKED


VALUES = [
    np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.float16(1.5), np.float32(0.1),
    np.float64(-0.0), np.float32("inf"), np.float64("-inf"), np.float64("nan"),
    np.array(0x7FC00001, "<u4").view("<f4")[()], np.array(0xFFF8000000000000, "<u8").view("<f8")[()],
    np.complex64(1 + 2j), np.complex128(complex("nan")), np.bytes_(b"ab\xff"), np.void(b"\1\2\3"),
    np.datetime64("2020-01-01", "s"), np.str_("äb"),
    np.array([(1, 2.5, b"ab")], [("a", "<i2"), ("b", "<f4"), ("c", "S3")])[0],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=[str(i) for i in range(len(VALUES))])
@pytest.mark.parametrize("order", "<>")
def test_a_fill_value_is_said_to_the_bit(value: np.generic, order: str) -> None:
    """Zarr reads back every bit of a fill value, whatever the order of bytes in the file."""
    dtype = value.dtype
    words = fill_value(
        np.asarray(value).astype(dtype.newbyteorder(order)), dtype.newbyteorder(order)
    )
    back = get_data_type_from_native_dtype(dtype).from_json_scalar(words, zarr_format=3)
    assert np.asarray(back, dtype).tobytes() == np.asarray(value).tobytes()


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (np.array([-999], ">i2"), "i2", -999),
        (np.array([-999.0]), "i2", -999),
        (np.array([np.nan]), "i2", None),
        (np.array([0.5]), "i2", None),
        (np.array([1e20]), "i4", None),
        (np.array([-1]), "u1", None),
        (np.array([1, 2]), "i2", None),
        (np.array([1.5], ">f4"), "f4", 1.5),
        (np.array([7]), "f8", 7.0),
        (np.array([np.nan]), "f4", math.nan),
        (b"text", "i2", None),
        (np.array([b"a"]), "S1", None),
    ],
)
def test_a_fill_attribute_is_what_xarray_reads(
    value: object, dtype: str, expected: float | None
) -> None:
    """Xarray reads the value that marks missing data; a value that no element has marks nothing."""
    words = fill_attribute(value, np.dtype(dtype))
    if expected is None:
        assert words is None
    elif math.isnan(expected):
        assert math.isnan(FillValueCoder.decode(words, np.dtype(dtype)))
    else:
        assert FillValueCoder.decode(words, np.dtype(dtype)) == expected


def test_a_fill_attribute_of_complex_numbers_is_two() -> None:
    """Of a complex number both parts are said, as xarray says doubles."""
    words = fill_attribute(np.complex64(1 - 2j), np.dtype("c8"))
    assert words == [base64.b64encode(struct.pack("<d", x)).decode() for x in (1.0, -2.0)]


def test_types_that_zarr_has_not_are_refused() -> None:
    """What has no data type in Zarr, or elements of two orders of bytes, cannot be presented."""
    for dtype in (np.dtype("O"), np.dtype("g"), np.dtype(("i4", (2,))), np.dtype([("a", "O")])):
        with pytest.raises(Unpresentable):
            data_type(dtype)
    with pytest.raises(Unpresentable, match="order of bytes"):
        bytes_codec(np.dtype([("a", "<i4"), ("b", ">i4")]))


@pytest.mark.parametrize(
    ("dtype", "order"),
    [("<i4", "little"), (">f8", "big"), ("i1", None), ("S5", None), ("V3", None), (">U2", "big")],
)
def test_the_order_of_bytes_is_said_where_there_is_one(dtype: str, order: str | None) -> None:
    """The codec of bytes names the order of elements that have one."""
    assert endian(np.dtype(dtype)) == order
    assert bytes_codec(np.dtype(dtype)).get("configuration") == (order and {"endian": order})


@pytest.mark.parametrize(
    "shape",
    [
        (), (0,), (5,), (0, 7), (10, 0), (4_500_000_000,), (1_000_000_007,), (100, 200, 300),
        (31, 720, 1440), (2, 3, 5_000_001), (7919, 7907), (1, 1, 2**31), (2**40, 3), (3, 2**28),
    ],
)  # fmt: skip
def test_what_lies_in_one_piece_is_cut_evenly(shape: tuple[int, ...]) -> None:
    """Chunks are of one size, in one piece each, not larger than they need be, and not tiny."""
    chunk = pieces(shape, 4)
    assert all(n % c == 0 for n, c in zip(shape, chunk, strict=True))
    cut = [i for i, (n, c) in enumerate(zip(shape, chunk, strict=True)) if c != max(n, 1)]
    if cut:
        assert all(c == 1 for c in chunk[: cut[-1]])
        assert math.prod(chunk) * 4 >= 2**20
    if math.prod(shape) * 4 <= PIECE:
        assert not cut
