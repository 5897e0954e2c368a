"""HDF4 files: data sets and tables as they lie there, and everything else by name."""

import ctypes
import importlib.util
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyhdf.HDF import HC, HDF
from pyhdf.SD import SD, SDC
from pyhdf.VS import *  # noqa: F403 -- its methods need the names of the module

from tests.pure.hierarchies import LOCATION, arrays, digest, document, omitted, parsed, truth_of
from vzfs.archival.building import Unpresentable
from vzfs.archival.parsers.hdf4 import parse
from vzfs.model.references import References

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 spec")

TYPES = {
    "i1": SDC.INT8, "u1": SDC.UINT8, "i2": SDC.INT16, "u2": SDC.UINT16, "i4": SDC.INT32,
    "u4": SDC.UINT32, "f4": SDC.FLOAT32, "f8": SDC.FLOAT64,
}  # fmt: skip
VALUES = (np.arange(60).reshape(6, 10) * 3 - 7).astype("i2")

type Make = Callable[[SD], None]


@pytest.fixture(name="written")
def _written(tmp_path: Path) -> Callable[[Make], bytes]:
    def write(make: Make) -> bytes:
        path = tmp_path / "file.hdf"
        file = SD(str(path), SDC.WRITE | SDC.CREATE | SDC.TRUNC)
        make(file)
        file.end()
        return path.read_bytes()

    return write


class _Chunk(ctypes.Structure):
    """How the library wants to be told of chunks: their lengths, how they are compressed, and how much."""

    _fields_ = (
        ("lengths", ctypes.c_int32 * 32),
        ("compression", ctypes.c_int32),
        ("model", ctypes.c_int32),
        ("level", ctypes.c_int32),
        ("rest", ctypes.c_int32 * 8),
    )


def set_chunks(part: object, lengths: tuple[int, ...], *, deflated: bool) -> None:
    """Have a new data set stored in chunks, which pyhdf itself cannot say."""
    spec = importlib.util.find_spec("pyhdf")
    assert spec is not None
    assert spec.origin is not None
    [library] = Path(spec.origin).parent.parent.joinpath("pyhdf.libs").glob("libmfhdf*")
    chunk = _Chunk(compression=SDC.COMP_DEFLATE if deflated else 0, level=5)
    chunk.lengths[: len(lengths)] = lengths
    assert ctypes.CDLL(str(library)).SDsetchunk(part._id, chunk, 3 if deflated else 1) == 0


def read(file: bytes) -> tuple[References, dict[str, np.ndarray]]:
    """Return what *file* is said to hold, and the values of its arrays."""
    references = parsed(parse, io.BytesIO(file))
    return references, arrays(references, {LOCATION: file})


def test_the_real_file_is_what_its_truth_says(data: Path) -> None:
    """Each data set of the real file has the values that are known of it; those without data are there too."""
    [(path, truth)] = truth_of(data, "hdf4").items()
    references, found = read((data / path).read_bytes())

    assert found.keys() == {f"/{name}" for name in truth["arrays"]}
    for name, known in truth["arrays"].items():
        if "sha256" in known:
            assert digest(found[f"/{name}"]) == (known["shape"], known["dtype"], known["sha256"])
        else:
            assert found[f"/{name}"].size == 0
    assert omitted(references) == {}
    assert document(references, "/")["attributes"]["Satellite"] == "Terra"


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("how", ["plain", "deflated", "chunked", "both"])
def test_data_sets_are_those_of_pyhdf(
    code: str, how: str, written: Callable[[Make], bytes]
) -> None:
    """Whole or in chunks, as they are or deflated, of every type: values are those that were written."""
    values = np.abs(VALUES).astype(code)

    def make(file: SD) -> None:
        part = file.create("values", TYPES[code], values.shape)
        if how == "deflated":
            part.setcompress(SDC.COMP_DEFLATE, 5)
        elif how != "plain":
            set_chunks(part, (4, 3), deflated=how == "both")
        part[:] = values
        part.endaccess()

    references, found = read(written(make))
    np.testing.assert_array_equal(found["/values"], values)
    assert found["/values"].dtype == np.dtype(code)
    assert omitted(references) == {}


def test_what_is_said_of_data_becomes_attributes(written: Callable[[Make], bytes]) -> None:
    """Attributes, names of dimensions and missing values are said as the file says them."""

    def make(file: SD) -> None:
        part = file.create("a/b", SDC.INT16, VALUES.shape)
        part.units = "K"
        part.valid_range = (0, 100)
        part.setfillvalue(-7)
        for number, name in enumerate(("row", "column")):
            part.dim(number).setname(name)
        part[:] = VALUES
        part.endaccess()
        file.title = "of the file"

    references, found = read(written(make))
    words = document(references, "/a_b")
    assert words["attributes"]["units"] == "K"
    assert words["attributes"]["valid_range"] == [0, 100]
    assert words["attributes"]["_FillValue"] == -7
    assert words["dimension_names"] == ["row", "column"]
    assert words["fill_value"] == -7
    assert document(references, "/")["attributes"] == {"title": "of the file"}
    np.testing.assert_array_equal(found["/a_b"], VALUES)


def test_chunks_that_were_not_written_hold_the_fill_value(written: Callable[[Make], bytes]) -> None:
    """A chunk that is not in the file is missing, and holds what the data set says."""

    def make(file: SD) -> None:
        part = file.create("values", SDC.INT16, (6, 10))
        part.setfillvalue(-300)
        set_chunks(part, (3, 10), deflated=True)
        part[0:3] = VALUES[:3]
        part.endaccess()

    _, found = read(written(make))
    np.testing.assert_array_equal(found["/values"][:3], VALUES[:3])
    assert (found["/values"][3:] == -300).all()


def test_records_that_were_appended_are_gathered(
    written: Callable[[Make], bytes], tmp_path: Path
) -> None:
    """Data that lie scattered in blocks are gathered from there."""

    def make(file: SD) -> None:
        parts = [file.create(name, SDC.INT16, (SDC.UNLIMITED, 10)) for name in "ab"]
        for row in range(6):
            for part in parts:
                part[row : row + 1] = VALUES[row : row + 1]
        for part in parts:
            part.endaccess()

    file = written(make)
    _, found = read(file)
    path = tmp_path / "again.hdf"
    path.write_bytes(file)
    truth = SD(str(path), SDC.READ)
    for name in "ab":
        np.testing.assert_array_equal(found[f"/{name}"], truth.select(name)[:])
    truth.end()


def test_other_compressions_are_left_out(written: Callable[[Make], bytes]) -> None:
    """A data set that no reader of Zarr can decompress is named; the others are shown."""

    def make(file: SD) -> None:
        for name, kind in (("rle", SDC.COMP_RLE), ("huffman", SDC.COMP_SKPHUFF), ("none", None)):
            part = file.create(name, SDC.INT16, VALUES.shape)
            if kind is not None:
                part.setcompress(kind, 2)
            part[:] = VALUES
            part.endaccess()

    references, found = read(written(make))
    assert found.keys() == {"/none"}
    assert "RLE" in omitted(references)["/rle"]
    assert "Huffman" in omitted(references)["/huffman"]


def test_data_that_were_never_written_are_not_made_up(written: Callable[[Make], bytes]) -> None:
    """A data set without data holds what it says it then holds, and is named if it does not say."""

    def make(file: SD) -> None:
        file.create("silent", SDC.INT16, (3,)).endaccess()
        part = file.create("said", SDC.INT16, (3,))
        part.setfillvalue(5)
        part.endaccess()

    references, found = read(written(make))
    assert found["/said"].tolist() == [5, 5, 5]
    assert "never written" in omitted(references)["/silent"]


def test_tables_are_arrays_of_structures(tmp_path: Path) -> None:
    """A record of a table is a structure; a field with several values is several fields."""
    path = tmp_path / "table.hdf"
    file = HDF(str(path), HC.WRITE | HC.CREATE)
    tables = file.vstart()
    table = tables.create(
        "stations", (("name", HC.CHAR8, 4), ("height", HC.FLOAT64, 1), ("pair", HC.INT16, 2))
    )
    table.write([["abcd", 1.5, [1, 2]], ["ef  ", -2.5, [3, 4]]])
    table.detach()
    tables.end()
    file.close()

    _, found = read(path.read_bytes())
    rows = found["/stations"]
    assert rows.dtype.names == ("name", "height", "pair[0]", "pair[1]")
    assert rows["name"].tolist() == [b"abcd", b"ef  "]
    assert rows["height"].tolist() == [1.5, -2.5]
    assert rows["pair[1]"].tolist() == [2, 4]


def test_a_file_that_ends_early_loses_what_it_lacks(written: Callable[[Make], bytes]) -> None:
    """A data set that the file ends before is named, and never shown as something else."""
    large = np.arange(100_000, dtype="i4")

    def make(file: SD) -> None:
        part = file.create("large", SDC.INT32, large.shape)
        part[:] = large
        part.endaccess()

    file = bytearray(written(make))
    at = file.index(large[:100].astype(">i4").tobytes())
    for found in range(4, len(file) - 12):
        if file[found : found + 8] == struct.pack(">II", at, large.nbytes):
            file[found : found + 4] = struct.pack(">I", len(file) - 10)
    references, found_arrays = read(bytes(file))
    assert found_arrays == {}
    assert "ends before" in omitted(references)["/large"]


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"\x0e\x03\x13\x01",
        b"\x0e\x03\x13\x01" + struct.pack(">HI", 0, 4),
        b"\x0e\x03\x13\x01" + struct.pack(">HI", 9999, 0),
        b"\x0e\x03\x13\x01" + struct.pack(">HI", 0, 2**31),
    ],
)
def test_no_hdf4_is_refused(file: bytes) -> None:
    """What has no list of objects that can be read is no HDF4 file."""
    with pytest.raises(Unpresentable):
        read(file)
