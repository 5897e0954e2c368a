"""Real readers, given what a view shows: every value is the stored one, to the bit."""

import json

import numcodecs
import numpy as np
import pytest

from tests.pure import viewing
from tests.pure.viewing import BIG, FLETCHER, LITTLE, LZ4, PLAIN, ZLIB, ZSTD, Stored, codec, shuffle
from vzfs.errors import FormatError

RNG = np.random.default_rng(20)

DTYPES = ["int16", "float32", "float64", "uint8"]
TAILS = {
    "zlib": [ZLIB],
    "zstd": [ZSTD],
    "lz4": [LZ4],
    "zlib-fletcher32": [ZLIB, FLETCHER],
    "zstd-fletcher32": [ZSTD, FLETCHER],
    "lz4-fletcher32": [LZ4, FLETCHER],
    "fletcher32": [FLETCHER],
    "nothing": [],
}


def extents(tail: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give shape and chunk shape: LZ4 is framed in larger chunks alone."""
    return ((300, 70), (250, 70)) if "lz4" in tail else ((11, 7), (5, 7))


def smooth(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Make values that compress."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def noise(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Make values that do not compress, and are never NaN of several kinds."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(RNG.bytes(int(np.prod(shape)) * size), f"u{size}").view(dtype).reshape(shape)  # fmt: skip


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("is_shuffled", [True, False], ids=["shuffled", "straight"])
@pytest.mark.parametrize("serializer", [LITTLE, BIG], ids=["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [smooth, noise])
def test_portable_chunks_are_read_as_stored_ones(make, dtype, serializer, is_shuffled, tail) -> None:  # fmt: skip
    """zarr-python and TensorStore read reframed chunks, ragged ones too, as zarr-python reads the stored."""
    size = np.dtype(dtype).itemsize
    codecs = [serializer, *([shuffle(size)] if is_shuffled else []), *TAILS[tail]]
    shape, chunks = extents(tail)
    stored = Stored.of(make(dtype, shape), codecs, chunks=chunks)
    files = stored.files("portable-v3")

    assert viewing.same(viewing.read_zarr(stored.files("stored-v3")), stored.values)
    assert viewing.same(viewing.read_zarr(files), stored.values)
    assert viewing.same(viewing.read_tensorstore(files, "zarr3"), stored.values)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("is_shuffled", [True, False], ids=["shuffled", "straight"])
@pytest.mark.parametrize("serializer", [LITTLE, BIG], ids=["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_portable_v2_chunks_are_read_as_stored_ones(dtype, serializer, is_shuffled, tail) -> None:
    """The same as Zarr v2: zarr-python and TensorStore read what it shows, and zarr-python its stored form."""
    size = np.dtype(dtype).itemsize
    codecs = [serializer, *([shuffle(size)] if is_shuffled else []), *TAILS[tail]]
    shape, chunks = extents(tail)
    stored = Stored.of(smooth(dtype, shape), codecs, chunks=chunks, separator=".")
    files = stored.files("portable-v2")

    assert viewing.same(viewing.read_zarr(stored.files("stored-v2")), stored.values)
    assert viewing.same(viewing.read_zarr(files), stored.values)
    assert viewing.same(viewing.read_tensorstore(files, "zarr"), stored.values)


@pytest.mark.parametrize(
    ("view", "dtype"),
    [
        *((view, dtype) for view in ("decoded-v3", "decoded-v2") for dtype in [*DTYPES, "int64"]),
        *(("decoded-v3", dtype) for dtype in ("bool", "float16", "complex64")),
    ],
)
@pytest.mark.parametrize("shape", [(), (11, 7), (2, 9)])
def test_decoded_chunks_need_no_codec(view: str, dtype: str, shape: tuple[int, ...]) -> None:
    """zarr-python and TensorStore read the plain bytes of chunks of any rank as the values."""
    values = smooth(dtype, shape)
    fill = {"bool": False, "complex64": [0.0, 0.0]}.get(dtype, 0)
    chunks = (5, 7)[: len(shape)]
    codecs = [LITTLE if values.itemsize > 1 else PLAIN, numcodecs_bz2()]
    stored = Stored.of(values, codecs, chunks=chunks, fill_value=fill)
    files = stored.files(view)

    assert viewing.same(viewing.read_zarr(files), values)
    driver = "zarr3" if view.endswith("3") else "zarr"
    assert viewing.same(viewing.read_tensorstore(files, driver), values)


def numcodecs_bz2() -> dict:
    return viewing.numcodec("bz2", level=1)


def test_a_stream_of_lz4_as_long_as_its_chunk_has_no_frame() -> None:
    """Nothing can follow a stream of LZ4, so such a chunk is an error, and never wrong bytes."""
    chunk = viewing.array_document((16_384,), data_type="int8", codecs=[PLAIN, LZ4])
    small = viewing.array_document((16_383,), data_type="int8", codecs=[PLAIN, LZ4])
    presentation = viewing.present({"/chunk": chunk, "/small": small}, "portable-v3")
    form = presentation.form(1)

    assert form.frame(16_383 + 4).inner == (4, 16_383)
    with pytest.raises(FormatError, match="cannot be framed as Blosc"):
        form.frame(16_384 + 4)
    assert form.size(16_384 + 4) == 16_384 + 24
    assert presentation.form(2) is None
    assert "LZ4" in presentation.remark(2)


def streams(cname: str) -> tuple[np.ndarray, bytes]:
    """Find a chunk whose stream is exactly as long as the chunk itself."""
    rng = np.random.default_rng(7)
    for n in range(40, 120):
        for k in range(n):
            raw = rng.bytes(k) + bytes(max(n - k - 7, 0)) + rng.bytes(min(n - k, 7))
            stream = encoders[cname](raw)
            if len(stream) == n == len(raw):
                return np.frombuffer(raw, "u1"), stream
    raise AssertionError(cname)


encoders = {
    "zlib": lambda raw: bytes(numcodecs.Zlib(5).encode(raw)),
    "zstd": lambda raw: bytes(numcodecs.Zstd(3).encode(raw)),
}


@pytest.mark.parametrize("view", ["portable-v3", "portable-v2"])
@pytest.mark.parametrize("cname", encoders)
def test_a_stream_as_long_as_its_chunk_is_not_taken_for_the_chunk(view: str, cname: str) -> None:
    """Blosc takes a block of the chunk's length for one that is not compressed; the frame avoids that."""
    values, stream = streams(cname)
    wide = values.reshape(-1)
    tail = [ZLIB] if cname == "zlib" else [ZSTD, FLETCHER]
    stored = Stored.of(wide, [PLAIN, *tail])
    assert len(stored.chunks[0,]) == len(wide) + (0 if cname == "zlib" else 4)
    files = stored.files(view)

    assert stream in b"".join(files.values())
    assert viewing.same(viewing.read_zarr(files), values)
    driver = "zarr3" if view.endswith("3") else "zarr"
    assert viewing.same(viewing.read_tensorstore(files, driver), values)


@pytest.mark.parametrize(
    "words",
    [
        viewing.numcodec("zstd", level=3, checksum=True),
        viewing.numcodec("gzip", level=1),
        viewing.numcodec("blosc", cname="lz4", clevel=5, shuffle=1, blocksize=0),
        viewing.numcodec("blosc", cname="zlib", clevel=5, shuffle=2, blocksize=0),
        viewing.numcodec("crc32c", location="end"),
        codec("imagecodecs_deflate", level=6),
        codec("imagecodecs_zstd"),
    ],
    ids=["zstd", "gzip", "blosc", "blosc bits", "crc32c", "deflate", "imagecodecs zstd"],
)
@pytest.mark.parametrize("view", ["portable-v3", "portable-v2"])
def test_renamed_codecs_read_the_same_bytes(view: str, words: dict) -> None:
    """A codec said by its core name decodes what the other name stood for."""
    stored = Stored.of(smooth("int32", (30,)), [LITTLE, words], chunks=(8,))
    files = stored.files(view)

    assert viewing.same(viewing.read_zarr(files), stored.values)
    if view == "portable-v3":
        assert viewing.same(viewing.read_tensorstore(files, "zarr3"), stored.values)


@pytest.mark.parametrize("view", ["stored-v2", "portable-v2", "decoded-v2"])
@pytest.mark.parametrize("separator", ["/", "."])
def test_transposed_chunks_are_fortran_order_in_v2(view: str, separator: str) -> None:
    """Reversed axes are order F of Zarr v2, and chunk keys have the array's own separator."""
    codecs = [codec("transpose", order=[2, 1, 0]), BIG, shuffle(4), ZLIB]
    stored = Stored.of(smooth("int32", (3, 4, 5)), codecs, chunks=(2, 2, 5), separator=separator)
    files = stored.files(view)

    assert f"a/1{separator}0{separator}0" in files
    assert viewing.same(viewing.read_zarr(files), stored.values)


@pytest.mark.parametrize("view", ["stored-v2", "portable-v2"])
def test_filters_on_values_are_filters_in_v2(view: str) -> None:
    """What numcodecs does to values before they are bytes is done in Zarr v2 too, with its data types said."""
    values = smooth("float64", (20,))
    scaled = viewing.numcodec("fixedscaleoffset", offset=3, scale=10, dtype="<f8", astype="<i2")
    for whole, said in (
        (scaled, {key: scaled["configuration"][key] for key in ("offset", "scale", "astype")}),
        (viewing.numcodec("delta", dtype="float64"), {"dtype": "float64"}),
    ):
        stored = Stored.of(values, [whole, LITTLE, ZSTD], chunks=(8,))
        document = Stored.of(values, [LITTLE], chunks=(8,)).document
        fields = {**json.loads(document), "codecs": [codec(whole["name"], **said), LITTLE, ZSTD]}
        stored.document = json.dumps(fields).encode()
        files = stored.files(view)

        assert json.loads(files["a/.zarray"])["filters"][0]["dtype"] == "<f8"
        assert viewing.same(viewing.read_zarr(files), values)
