"""netCDF classic from its bytes: layouts that the real files do not have, and headers that lie."""

import struct

import numpy as np
import pytest

from tests import archives
from vzfs.archival.building import Unpresentable
from vzfs.model.manifest import ChunkKind

TYPES = {"i1": 1, "S1": 2, "i2": 3, "i4": 4, "f4": 5, "f8": 6}


class Header:
    """Writes a header of CDF-1, CDF-2 or CDF-5."""

    def __init__(self, version: int, records: int) -> None:
        self.version = version
        self.data = b"CDF" + bytes([version]) + self.count(records)

    def count(self, number: int) -> bytes:
        return struct.pack(">Q" if self.version == 5 else ">I", number)

    def name(self, text: bytes) -> bytes:
        return self.count(len(text)) + text + bytes(-len(text) % 4)

    def list(self, tag: int, items: list[bytes]) -> bytes:
        return struct.pack(">I", tag if items else 0) + self.count(len(items)) + b"".join(items)

    def attribute(self, name: str, dtype: str, values: bytes) -> bytes:
        size = np.dtype(dtype).itemsize
        kind = struct.pack(">I", TYPES[dtype])
        padding = bytes(-len(values) % 4)
        return self.name(name.encode()) + kind + self.count(len(values) // size) + values + padding


def file(
    variables: list[tuple[str, str, list[int]]],
    lengths: list[int],
    body: bytes,
    *,
    records: int = 0,
    version: int = 1,
    begins: list[int] | None = None,
    attributes: dict[str, tuple[str, bytes]] | None = None,
) -> bytes:
    """Return a file of *variables* (name, type, numbers of dimensions), which begin at *begins* in *body*."""
    header = Header(version, records)
    dimensions = [header.name(f"d{i}".encode()) + header.count(n) for i, n in enumerate(lengths)]
    given = [header.attribute(n, *value) for n, value in (attributes or {}).items()]
    start = header.data + header.list(10, dimensions) + header.list(12, [])

    def said(at: int) -> bytes:
        items = [
            header.name(name.encode())
            + header.count(len(dims))
            + b"".join(map(header.count, dims))
            + header.list(12, given)
            + struct.pack(">I", TYPES[dtype])
            + header.count(0)
            + struct.pack(">I" if version == 1 else ">Q", at + begin)
            for (name, dtype, dims), begin in zip(variables, begins or [0] * len(variables), strict=True)
        ]  # fmt: skip
        return start + header.list(11, items)

    return said(len(said(0))) + body


def values(data: bytes, name: str) -> np.ndarray:
    return np.asarray(archives.opened(archives.parsed(data, "netcdf3"), data)[name][...])


@pytest.mark.parametrize("version", [1, 2, 5])
def test_a_record_variable_that_is_alone_has_no_padding(version: int) -> None:
    """Records of three bytes follow each other without a gap where there is one record variable."""
    body = np.arange(12, dtype=">i1").tobytes()
    made = file([("x", "i1", [0, 1])], [0, 3], body, records=4, version=version)
    assert values(made, "x").tolist() == np.arange(12).reshape(4, 3).tolist()


def test_records_of_several_variables_are_padded() -> None:
    """Each variable's part of a record ends at a multiple of four bytes."""
    body = b"".join(bytes([i, i + 1, i + 2, 99]) + struct.pack(">h", i) + b"zz" for i in range(5))
    made = file([("x", "i1", [0, 1]), ("y", "i2", [0])], [0, 3], body, records=5, begins=[0, 4])
    assert values(made, "x").tolist() == [[i, i + 1, i + 2] for i in range(5)]
    assert values(made, "y").tolist() == list(range(5))


def test_few_scattered_values_are_inlined_and_many_are_not() -> None:
    """Small record variables are one chunk that is given; of large ones each record is a chunk in the file."""
    count, width = 10, 20_000
    row = np.arange(width, dtype=">i4")
    body = b"".join(row.tobytes() + struct.pack(">i", i) for i in range(count))
    made = file([("x", "i4", [0, 1]), ("t", "i4", [0])], [0, width], body, records=count, begins=[0, 4 * width])  # fmt: skip
    references = archives.parsed(made, "netcdf3")
    assert len(references.manifests[b"/x"]) == count
    assert len(references.manifests[b"/t"]) == 1
    assert references.manifests[b"/t"].ref(0).kind is ChunkKind.INLINE
    assert values(made, "t").tolist() == list(range(count))
    assert values(made, "x")[7].tolist() == row.tolist()


def test_what_is_still_written_has_as_many_records_as_the_file_holds() -> None:
    """Where the number of records is not yet known, whole records count."""
    body = np.arange(10, dtype=">i4").tobytes() + b"ab"
    made = file([("x", "i4", [0])], [0], body, records=2**32 - 1)
    assert values(made, "x").tolist() == list(range(10))


def test_a_variable_that_is_cut_short_is_left_out() -> None:
    """Values beyond the end of the file are no fill values: the variable is named, the others are there."""
    body = np.arange(8, dtype=">i4").tobytes()
    made = file([("x", "i4", [0]), ("y", "i4", [0])], [4], body[:-1], begins=[0, 16])
    references = archives.parsed(made, "netcdf3")
    assert archives.arrays(references) == ["x"]
    assert "and the file at" in archives.omitted(references)["/y"]


def test_attributes_are_what_netcdf_gives() -> None:
    """Text is text, one number is a number, and a fill value that no integer has marks nothing."""
    made = file(
        [("x", "i2", [0])],
        [2],
        b"\0\1\0\2",
        attributes={
            "_FillValue": ("f8", struct.pack(">d", float("nan"))),
            "units": ("S1", b"m s-1\0"),
            "scale_factor": ("f4", struct.pack(">f", 0.5)),
            "range": ("i2", struct.pack(">2h", -1, 7)),
            "none": ("f4", b""),
        },
    )
    assert archives.attributes(archives.parsed(made, "netcdf3"), "/x") == {
        "units": "m s-1",
        "scale_factor": 0.5,
        "range": [-1, 7],
        "none": [],
    }


def test_there_may_be_no_values() -> None:
    """A variable without records is an empty array, and a scalar is one value."""
    made = file([("x", "i4", [0]), ("y", "f4", [])], [0], struct.pack(">f", 2.5), records=0)
    assert values(made, "x").shape == (0,)
    assert values(made, "y")[()] == 2.5


def test_names_that_no_directory_can_have_are_left_out() -> None:
    """A variable is named by one part of a path, once."""
    names = ["a/b", "/c", "..", "zarr.json", "", "x", "x"]
    made = file([(name, "i1", [0]) for name in names], [4], bytes(4))
    references = archives.parsed(made, "netcdf3")
    assert archives.arrays(references) == ["x"]
    assert archives.omitted(references).keys() == {"/a/b", "//c", "/..", "/zarr.json", "/", "/x"}


DAMAGED = {
    "cut short": b"CDF\1\0\0\0\0\0\0\0\x0a",
    "too many": b"CDF\1" + struct.pack(">III", 0, 10, 2**31),
    "another list": b"CDF\1" + struct.pack(">III", 0, 11, 1),
    "a name of 4 GiB": b"CDF\1" + struct.pack(">IIII", 0, 10, 1, 2**32 - 1),
    "another version": b"CDF\3" + bytes(100),
    "a dimension that is none": file([("x", "i4", [3])], [4], b""),
    "records inside": file([("x", "i4", [0, 1])], [2, 0], b""),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_header_that_lies_is_refused(what: str) -> None:
    """A header that cannot be read as a whole costs the file, before anything is allocated for it."""
    with pytest.raises(Unpresentable):
        archives.parsed(DAMAGED[what], "netcdf3")
