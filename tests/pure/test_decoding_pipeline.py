"""One chunk through zarr's codecs: what comes out is plain, little-endian, in C order, or an error."""

import io
import itertools
import json
import sys
import zlib

import h5py
import numpy as np
import pytest
from numcodecs.fletcher32 import Fletcher32
from zarr.registry import _codec_registries

from tests.io.decodings import (
    BIG,
    FLETCHER32,
    LITTLE,
    ZLIB,
    Form,
    form,
    plain,
    shuffle,
    stored,
)
from vzfs.decoding.installed import _NEEDS, _ZARR
from vzfs.decoding.pipeline import NoCodecError, Pipeline

pytestmark = pytest.mark.filterwarnings(
    "ignore::zarr.errors.ZarrUserWarning", "ignore:.*does not have a Zarr V3 spec"
)

NUMBERS = np.arange(24).reshape(2, 3, 4)
GZIP = {"name": "gzip", "configuration": {"level": 1}}
BLOSC = {
    "name": "blosc",
    "configuration": {
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "shuffle",
        "typesize": 4,
        "blocksize": 0,
    },
}
CRC32C = {"name": "crc32c"}
SHARDS = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [1, 3, 2],
        "codecs": [LITTLE, GZIP],
        "index_codecs": [LITTLE, CRC32C],
        "index_location": "end",
    },
}


def decode(chunk: bytes, of: Form) -> bytes:
    out = bytearray(of.nbytes)
    Pipeline(of.spec).decode(memoryview(chunk), memoryview(out))
    return bytes(out)


@pytest.mark.parametrize(
    "values",
    [
        *(NUMBERS.astype(code) for code in "?bBhHiIlLefdFD"),
        NUMBERS.astype("datetime64[ns]"),
        NUMBERS.astype("timedelta64[s]"),
        NUMBERS.astype("S5"),
        NUMBERS.astype("U5"),
        np.array([(1, 2.5, b"ab"), (3, -1, b"c")], [("a", "<u2"), ("b", "<f8"), ("c", "S3")]),
        np.array(7.5),
        NUMBERS.astype("V6"),
    ],
    ids=lambda values: f"{values.dtype}, {values.ndim}-d",
)
@pytest.mark.parametrize("endian", [LITTLE, BIG], ids=["little", "big"])
def test_every_type_of_fixed_size_becomes_little_endian(values: np.ndarray, endian: dict) -> None:
    """Whatever the type and the order of its bytes in store, the result is that of numpy in little-endian."""
    chunk, of = stored(values, [endian, GZIP])

    assert decode(chunk, of) == plain(values)


@pytest.mark.parametrize(
    "codecs",
    [
        [LITTLE],
        [LITTLE, {"name": "zstd", "configuration": {"level": 1, "checksum": True}}],
        [LITTLE, BLOSC],
        [LITTLE, GZIP, CRC32C],
        [LITTLE, shuffle(4), ZLIB, FLETCHER32],
        [LITTLE, FLETCHER32, shuffle(4), ZLIB],
        [LITTLE, {"name": "numcodecs.lz4", "configuration": {}}],
        [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, BIG, GZIP],
        [{"name": "numcodecs.fixedscaleoffset", "configuration": {"offset": 1, "scale": 10, "dtype": "<i4", "astype": "<i2"}}, LITTLE],
        [{"name": "numcodecs.delta", "configuration": {"dtype": "<i4"}}, LITTLE, ZLIB],
        [SHARDS],
        [{"name": "transpose", "configuration": {"order": [0, 1, 2]}}, SHARDS, GZIP],
    ],
    ids=lambda codecs: "+".join(codec["name"] for codec in codecs),
)  # fmt: skip
def test_codecs_are_undone_in_order(codecs: list) -> None:
    """What zarr encoded with a chain of codecs is decoded, shards and other orders of axes included."""
    values = NUMBERS.astype("i4")
    chunk, of = stored(values, codecs)

    assert decode(chunk, of) == plain(values)


def test_inner_chunks_that_are_missing_hold_the_fill_value() -> None:
    """A shard without one inner chunk or with none has the fill value there."""
    fields = {"shape": [4], "data_type": "int16", "fill_value": 258, "codecs": [
        {"name": "sharding_indexed", "configuration": {
            "chunk_shape": [2], "codecs": [LITTLE], "index_codecs": [LITTLE]}}]}  # fmt: skip
    index = np.array([0, 4, 2**64 - 1, 2**64 - 1], "<u8").tobytes()
    of = Form(8, json.dumps(fields).encode(), "")

    assert decode(b"\1\0\2\0" + index, of) == b"\1\0\2\0\2\1\2\1"


@pytest.mark.parametrize("kept", [[2, 3, 4], [1, 3, 4], [2, 1, 3], [1, 1, 1]])
def test_what_is_kept_begins_where_the_chunk_does(kept: list[int]) -> None:
    """Of a chunk that is to be cut, as much of each axis is given as is kept, and the rest is decoded too."""
    chunk, whole = stored(NUMBERS, [LITTLE, ZLIB])
    spec = json.dumps({**json.loads(whole.spec), "kept": kept}).encode()
    part = NUMBERS[tuple(map(slice, kept))]

    assert decode(chunk, Form(part.nbytes, spec, "")) == plain(part)
    assert Pipeline(spec).whole_nbytes == NUMBERS.nbytes
    with pytest.raises(ValueError, match="zlib"):
        decode(b"nonsense", Form(part.nbytes, spec, ""))


# -- a checksum before the shuffle -------------------------------------------------------------


def shuffled(data: bytes, size: int) -> bytes:
    """Shuffle as HDF5 does: whole elements only, and the rest as it is behind them."""
    whole = len(data) - len(data) % size
    return np.frombuffer(data[:whole], np.uint8).reshape(-1, size).T.tobytes() + data[whole:]


@pytest.mark.parametrize("code", ["i2", "f4", "f8", "S3", "c16"])
def test_a_checksum_before_the_shuffle_is_left_behind_the_elements(code: str) -> None:
    """HDF5 shuffles whole elements and leaves the rest, which is where a checksum is: it is found there."""
    values = np.arange(35).astype(code)
    summed = bytes(Fletcher32().encode(plain(values)))
    chunk = zlib.compress(shuffled(summed, values.itemsize))
    kind = stored(values, [LITTLE])[1]
    fields = json.loads(kind.spec)
    fields["codecs"] = [LITTLE, FLETCHER32, shuffle(values.itemsize), ZLIB]
    of = Form(values.nbytes, json.dumps(fields).encode(), "")

    assert decode(chunk, of) == plain(values)


def test_a_chunk_that_hdf5_wrote_is_decoded() -> None:
    """HDF5 itself, told to sum before it shuffles, writes what is decoded."""
    values = np.linspace(0, 1, 50)
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((50,))
        plan.set_fletcher32()
        plan.set_shuffle()
        plan.set_deflate(4)
        space = h5py.h5s.create_simple((50,))
        dataset = h5py.h5d.create(h5.id, b"x", h5py.h5t.IEEE_F64LE, space, plan)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        _, chunk = dataset.read_direct_chunk((0,))
    of = form([50], "float64", [LITTLE, FLETCHER32, shuffle(8), ZLIB])

    assert decode(chunk, of) == plain(values)


def test_a_wrong_checksum_is_found() -> None:
    """A chunk whose checksum lies behind its shuffled elements and is wrong is refused."""
    summed = bytearray(Fletcher32().encode(plain(np.arange(9.0))))
    summed[-1] ^= 1
    of = form([9], "float64", [LITTLE, FLETCHER32, shuffle(8), ZLIB])

    with pytest.raises(ValueError, match=r"\Anumcodecs.fletcher32: "):
        decode(zlib.compress(shuffled(bytes(summed), 8)), of)


@pytest.mark.parametrize("size", [-1, 10**9, 1.5, True, "4", None])
def test_an_element_size_that_makes_no_sense_is_refused(size: object) -> None:
    """A size of elements that is no number, negative or larger than the chunk raises, and no memory is taken."""
    of = form([9], "float64", [LITTLE, {**shuffle(8), "configuration": {"elementsize": size}}])

    if size is None:
        assert decode(bytes(72), of) == bytes(72)
    else:
        with pytest.raises(ValueError, match=r"\Anumcodecs.shuffle: "):
            decode(bytes(72), of)


# -- hostile -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        form([2], "float64", [], nbytes=16).spec,
        form([2], "float64", ["bytes", {}], nbytes=16).spec,
        form([2], "float64", [{"name": 7}], nbytes=16).spec,
        form([2], "float64", [{**LITTLE, "configuration": {"evil": 1}}], nbytes=16).spec,
        form([2], "float64", [GZIP], nbytes=16).spec,
        form([2], "float64", [LITTLE, LITTLE], nbytes=16).spec,
        form([-2], "float64", [LITTLE], nbytes=16).spec,
        form([2], "nonsense", [LITTLE], nbytes=16).spec,
        form([2], "string", [{"name": "vlen-utf8"}], "", nbytes=16).spec,
        form([2], "float64", [LITTLE], "nonsense", nbytes=16).spec,
        *(
            json.dumps({**json.loads(form([2], "float64", [LITTLE]).spec), "kept": kept}).encode()
            for kept in ([], [0], [3], [True], [1, 1], 1, "2", [1.0])
        ),
        form([2], "float64", [{"name": "transpose", "configuration": {"order": [5]}}, LITTLE]).spec,
    ],
    ids=itertools.count(),
)
def test_a_spec_that_makes_no_sense_is_refused(spec: bytes) -> None:
    """A spec that is no JSON, or lacks something, or asks for what cannot be, raises."""
    with pytest.raises(Exception):  # noqa: B017, PT011 -- the contract is that anything is raised
        Pipeline(spec)


@pytest.mark.parametrize("chunk", [b"", bytes(8), bytes(24)], ids=["empty", "short", "long"])
def test_a_chunk_of_another_length_is_refused(chunk: bytes) -> None:
    """Bytes that are not as many as the chunk has raise, and are neither padded nor cut."""
    with pytest.raises(ValueError, match="bytes: "):
        decode(chunk, form([2], "float64", [LITTLE]))


@pytest.mark.parametrize("size", [8, 24])
def test_compressed_bytes_of_another_length_are_refused(size: int) -> None:
    """What decompresses to fewer or more bytes than the chunk has raises."""
    with pytest.raises(ValueError, match="bytes: "):
        decode(zlib.compress(bytes(size)), form([2], "float64", [LITTLE, ZLIB]))


def test_damaged_bytes_name_the_codec() -> None:
    """An error says which codec found it."""
    with pytest.raises(ValueError, match=r"\Anumcodecs.zlib: "):
        decode(b"nonsense", form([2], "float64", [LITTLE, ZLIB]))


@pytest.mark.parametrize(
    "codecs",
    [
        [LITTLE, "imagecodecs_nothing"],
        [LITTLE, {"name": "imagecodecs_nothing"}],
        [{**SHARDS, "configuration": {**SHARDS["configuration"], "codecs": [LITTLE, "imagecodecs_nothing"]}}],
    ],
)  # fmt: skip
def test_a_codec_that_is_not_there_is_named(codecs: list) -> None:
    """A codec that no package has raises with its name, also within shards."""
    with pytest.raises(NoCodecError, match=r"\Aimagecodecs_nothing\Z"):
        Pipeline(form([2, 3, 4], "float64", codecs).spec)


def test_what_zarr_registers_is_what_is_listed() -> None:
    """The list of zarr's codecs, which is made without importing it, is that of the zarr here."""
    registered = {name for name, known in _codec_registries.items() if any(
        codec.startswith("zarr.codecs.") for codec in known)}  # fmt: skip

    assert registered - {"vlen-utf8", "vlen-bytes"} == _ZARR
    assert _NEEDS.keys() <= _ZARR
    assert "zarr" in sys.modules
