"""TIFF files: every strip and tile is where its array says, or the array is left out by name."""

import base64
import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.pure.hierarchies import LOCATION, arrays, digest, document, omitted, parsed, truth_of
from vzfs.archival.building import Unpresentable
from vzfs.archival.parsers.tiff import parse
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References
from vzfs.model.snapshot import Array

pytestmark = pytest.mark.filterwarnings(
    "ignore::zarr.errors.ZarrUserWarning", "ignore:.*does not have a Zarr V3 spec"
)

LARGEST = 2**25
"""Bytes of an array that is compared here: decoding the largest real one takes seconds."""
RANDOM = np.random.default_rng(7)
IMAGE = RANDOM.integers(0, 250, (37, 50, 3), np.uint8)
FLOATS = RANDOM.normal(size=(37, 50)).astype("f4")


def written(values: np.ndarray, **options: object) -> bytes:
    """Return a TIFF file of *values*."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def made(*entries: tuple[int, int, object], data: bytes = b"", following: int = 0) -> bytes:
    """Return a little-endian TIFF file of one directory with *entries*: tag, type and values; *data* lie at 8."""
    codes = {1: "B", 2: "s", 3: "H", 4: "I", 11: "f", 12: "d"}
    at = 8 + len(data) + len(data) % 2
    body = data.ljust(at - 8, b"\0")
    table, extra = b"", b""
    behind = at + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        values = values if isinstance(values, list) else [values]
        packed = b"".join(struct.pack("<" + codes[kind], v) for v in values)
        if len(packed) > 4:
            place = struct.pack("<I", behind + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        table += struct.pack("<HHI", tag, kind, len(values)) + place
    head = struct.pack("<2sHI", b"II", 42, at)
    return (
        head + body + struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + extra
    )


GRAY = [(256, 4, 4), (257, 4, 2), (258, 3, 8), (262, 3, 1), (273, 4, 8), (278, 4, 2), (279, 4, 8)]


def read(file: bytes) -> tuple[References, dict[str, np.ndarray]]:
    """Return what *file* is said to hold, and the values of its arrays."""
    references = parsed(parse, io.BytesIO(file))
    return references, arrays(references, {LOCATION: file})


CASES = {
    "strips": (IMAGE, {"rowsperstrip": 8}),
    "strips, big-endian": (IMAGE.astype("u2") * 256, {"photometric": "rgb", "rowsperstrip": 8, "byteorder": ">"}),
    "bigtiff": (FLOATS, {"rowsperstrip": 8, "bigtiff": True, "byteorder": ">"}),
    "one strip": (FLOATS, {}),
    "planes": (IMAGE.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb", "rowsperstrip": 8}),
    "planes, deflated": (IMAGE.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb", "rowsperstrip": 8, "compression": "deflate"}),
    "tiles": (IMAGE, {"tile": (16, 32), "compression": "deflate"}),
    "tiles in planes": (IMAGE.transpose(2, 0, 1), {"tile": (16, 32), "planarconfig": "separate", "photometric": "rgb"}),
    "tiles, plain": (FLOATS, {"tile": (16, 16)}),
    "deflate": (FLOATS, {"rowsperstrip": 8, "compression": "deflate"}),
    "zstd": (FLOATS, {"rowsperstrip": 8, "compression": "zstd"}),
    "lzma": (FLOATS, {"rowsperstrip": 8, "compression": "lzma"}),
    "lzw": (IMAGE, {"rowsperstrip": 8, "compression": "lzw"}),
    "packbits": (IMAGE, {"rowsperstrip": 8, "compression": "packbits"}),
    "horizontal": (IMAGE.astype("u2") * 200, {"photometric": "rgb", "rowsperstrip": 8, "compression": "lzw", "predictor": 2}),
    "horizontal, big-endian": (IMAGE.astype("i4") * 99991, {"photometric": "rgb", "rowsperstrip": 8, "compression": "zstd", "predictor": 2, "byteorder": ">"}),
    "horizontal, planes": (IMAGE.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb", "rowsperstrip": 8, "compression": "deflate", "predictor": 2}),
    "floating": (FLOATS, {"rowsperstrip": 8, "compression": "deflate", "predictor": 3}),
    "floating, big-endian": (FLOATS.astype("f8"), {"rowsperstrip": 8, "compression": "deflate", "predictor": 3, "byteorder": ">"}),
    "floating, pixels": (np.stack([FLOATS] * 3, -1), {"tile": (16, 16), "photometric": "rgb", "compression": "lzw", "predictor": 3}),
    "webp": (IMAGE, {"tile": (16, 16), "compression": "webp", "compressionargs": {"lossless": True}}),
    "webp, strips": (IMAGE, {"rowsperstrip": 8, "compression": "webp", "compressionargs": {"lossless": True}}),
    "jpeg2000": (IMAGE, {"tile": (32, 32), "compression": "jpeg2000", "compressionargs": {"reversible": True}}),
    "jpeg2000, 16 bits": (IMAGE[..., 0].astype("u2") * 99, {"rowsperstrip": 16, "compression": "jpeg2000", "compressionargs": {"reversible": True}}),
    "lerc": (FLOATS, {"tile": (16, 16), "compression": "lerc"}),
    "lerc in zstd, strips": (FLOATS, {"rowsperstrip": 8, "compression": "lerc", "compressionargs": {"compression": "zstd"}}),
    "jpeg": (IMAGE, {"tile": (16, 16), "compression": "jpeg"}),
    "jpeg, gray": (IMAGE[..., 0], {"tile": (16, 16), "compression": "jpeg"}),
    "jpeg, rgb": (IMAGE, {"rowsperstrip": 37, "compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}}),
    "complex": (FLOATS * 1j, {"rowsperstrip": 8}),
    "half": (FLOATS.astype("f2"), {"rowsperstrip": 8, "compression": "deflate"}),
    "signed": (FLOATS.astype("i8"), {"rowsperstrip": 8, "compression": "deflate"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_array_is_what_tifffile_reads(case: str) -> None:
    """Whatever the layout, the compression, the predictor and the order of bytes, values are those of tifffile."""
    values, options = CASES[case]
    file = written(values, **options)
    with tifffile.TiffFile(io.BytesIO(file)) as known:
        truth = known.pages[0].asarray()

    references, found = read(file)

    assert omitted(references) == {}
    np.testing.assert_array_equal(found["/0"], truth)
    assert found["/0"].dtype == truth.dtype.newbyteorder("=")


def test_every_real_file_is_what_its_truth_says(data: Path) -> None:
    """Each array of each real file has the values that are known of it, and none is missing."""
    for path, truth in truth_of(data, "tiff").items():
        content = (data / path).read_bytes()
        references = parsed(parse, io.BytesIO(content))
        found = arrays(references, {LOCATION: content}, LARGEST)
        expected = {
            f"/{name}": (known["shape"], known["dtype"], known["sha256"])
            for name, known in truth["ifds"].items()
        }
        assert found.keys() <= expected.keys()
        assert {name: digest(values) for name, values in found.items()} == {
            name: expected[name] for name in found
        }, path
        shapes = {name: document(references, name)["shape"] for name in expected}
        assert shapes == {name: shape for name, (shape, *_) in expected.items()}
        assert omitted(references) == {}


@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
def test_a_short_last_strip_is_padded_and_kept(compression: str | None) -> None:
    """The last strip alone is kept in the references if it is short; all others are where the file has them."""
    references, _ = read(written(IMAGE, rowsperstrip=8, compression=compression))

    [array] = [node for node in references.nodes if isinstance(node, Array)]
    manifest = references.manifests[array.id]
    kinds = [manifest.ref(row).kind for row in range(len(manifest))]
    assert kinds == [ChunkKind.VIRTUAL] * 4 + [ChunkKind.INLINE]


def test_long_strips_without_compression_are_divided() -> None:
    """Where a short last strip is too long to keep, and where strips are huge, chunks are divisors of strips."""
    wide = np.arange(70 * 4096, dtype="f4").reshape(70, 4096)
    references, found = read(written(wide, rowsperstrip=28))
    np.testing.assert_array_equal(found["/0"], wide)
    assert document(references, "/0")["chunk_grid"]["configuration"]["chunk_shape"] == [14, 4096]

    large = np.zeros((2048, 2048), "f4")
    large[1000, 1000] = 1
    references, found = read(written(large, rowsperstrip=2048))
    np.testing.assert_array_equal(found["/0"], large)
    assert document(references, "/0")["chunk_grid"]["configuration"]["chunk_shape"] == [1024, 2048]


def test_a_short_last_strip_of_jpeg_is_left_out() -> None:
    """JPEG would lose something if it were compressed again, so the array is named and not shown."""
    references, found = read(written(IMAGE, rowsperstrip=16, compression="jpeg"))

    assert found == {}
    assert "would lose something" in omitted(references)["/0"]


def test_pages_have_axes_of_their_own_length() -> None:
    """Directories are arrays by their numbers; axes of the same length have one name, others another."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for values in (FLOATS, FLOATS + 1, FLOATS[::2, ::2].copy(), IMAGE):
            writer.write(values, metadata=None)
    references, found = read(file.getvalue())

    names = {path: document(references, path)["dimension_names"] for path in found}
    assert names == {
        "/0": ["y", "x"],
        "/1": ["y", "x"],
        "/2": ["y_2", "x_2"],
        "/3": ["y", "x", "band"],
    }


def test_directories_below_another_are_shown() -> None:
    """What a directory has below it, as pyramids of OME-TIFF, is named after it."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(FLOATS, subifds=2, metadata=None)
        writer.write(FLOATS[::2, ::2].copy(), subfiletype=1, metadata=None)
        writer.write(FLOATS[::4, ::4].copy(), subfiletype=1, metadata=None)
    _, found = read(file.getvalue())

    assert sorted(found) == ["/0", "/0.0", "/0.1"]
    np.testing.assert_array_equal(found["/0.1"], FLOATS[::4, ::4])


def test_tiles_that_are_not_there_hold_what_gdal_gives() -> None:
    """A tile without a place is missing: it holds what stands for missing data, or zero."""
    tile = np.arange(256, dtype="i2").tobytes()
    entries = [
        (256, 4, 32), (257, 4, 16), (258, 3, 16), (262, 3, 1), (322, 4, 16), (323, 4, 16),
        (324, 4, [0, 8]), (325, 4, [0, 512]), (339, 3, 2),
    ]  # fmt: skip
    for nodata, fill in ((b"", 0), (b"-9999\0", -9999), (b"1e9\0", 0)):
        more = [(42113, 2, [bytes([c]) for c in nodata])] if nodata else []
        references, found = read(made(*entries, *more, data=tile))
        assert (found["/0"][:, :16] == fill).all()
        assert found["/0"][0, 16:].tolist() == list(range(16))
        marked = document(references, "/0")["attributes"].get("_FillValue")
        assert marked == (fill or None)


def test_what_tags_say_of_places_becomes_attributes(data: Path) -> None:
    """Georeferencing is said as GDAL says it, with the raw keys, and missing data as xarray says it."""
    folder = data / "archival" / "tiff"
    references, _ = read((folder / "cog_nodata_nan.tif").read_bytes())
    attributes = document(references, "/0")["attributes"]
    assert attributes["crs"] == "EPSG:32610"
    assert attributes["GeoTransform"].split()[1:3] == ["200.0", "0.0"]
    assert attributes["ModelPixelScale"] == [200.0, 200.0, 0.0]
    assert attributes["GDAL_NODATA"] == "0"
    assert base64.b64decode(attributes["_FillValue"]) == struct.pack("<d", 0.0)


def test_a_point_is_the_middle_of_its_pixel() -> None:
    """Where coordinates are those of points, the transformation begins half a pixel before the first."""
    geo = [(33550, 12, [2.0, 4.0, 0.0]), (33922, 12, [0.0, 0.0, 0.0, 100.0, 50.0, 0.0])]
    for kind, corner in ((1, "100.0 2.0 0.0 50.0 0.0 -4.0"), (2, "99.0 2.0 0.0 52.0 0.0 -4.0")):
        keys = (34735, 3, [1, 1, 0, 1, 1025, 0, 1, kind])
        references, _ = read(made(*GRAY, *geo, keys, data=bytes(8)))
        assert document(references, "/0")["attributes"]["GeoTransform"] == corner


REFUSED = {
    "1 bit": ([(258, 3, 1)], "1 bits"),
    "12 bits": ([(258, 3, 12)], "12 bits"),
    "several widths": ([(258, 3, [5, 6, 5]), (277, 3, 3)], "several types"),
    "complex whole numbers": ([(258, 3, 32), (339, 3, 5)], "complex whole numbers"),
    "an unknown compression": ([(259, 3, 4)], "compression 4"),
    "reversed bits": ([(266, 3, 2)], "reverse order"),
    "subsampled colours": ([(262, 3, 6), (277, 3, 3)], "fewer pixels"),
    "depth": ([(32997, 4, 3)], "three dimensions"),
    "an unknown predictor": ([(259, 3, 5), (317, 3, 34892)], "predictor"),
    "a predictor of another type": ([(259, 3, 5), (317, 3, 3)], "predictor"),
    "no width": ([(256, 4, 0)], "does not say a size"),
    "beyond the end": ([(273, 4, 2**30)], "ends before"),
    "too short": ([(279, 4, 7)], "less than its tags say"),
    "too few strips": ([(278, 4, 1)], "where all"),
    "no deflate": ([(259, 3, 8), (257, 4, 3), (273, 4, [8, 9]), (279, 4, [1, 8])], "cannot be decoded"),
    "text for a width": ([(256, 2, [b"4"])], "no whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_said_is_left_out_with_its_reason(case: str) -> None:
    """A directory that no chunks can be given for exactly is left out by name; the file is not lost."""
    changed, reason = REFUSED[case]
    entries = {entry[0]: entry for entry in [*GRAY, *changed]}
    references, found = read(made(*(entries[tag] for tag in sorted(entries)), data=bytes(8)))

    assert found == {}
    assert reason in omitted(references)["/0"]


def test_a_chunk_that_is_not_what_the_tags_say_is_found_out() -> None:
    """Where the tags do not say what a chunk decodes to, the first is decoded to know."""
    image = imagecodecs.jpeg2k_encode(np.zeros((2, 4), np.uint16), level=0)
    entries = {entry[0]: entry for entry in GRAY}
    entries[259], entries[279] = (259, 3, 34712), (279, 4, len(image))
    references, found = read(made(*(entries[tag] for tag in sorted(entries)), data=image))

    assert found == {}
    assert "uint16" in omitted(references)["/0"]


def test_a_bomb_is_not_expanded() -> None:
    """A last strip that decodes to far more than it should is found out without being decoded whole."""
    bomb = zlib.compress(bytes(2**24))
    entries = {entry[0]: entry for entry in GRAY}
    entries |= {
        259: (259, 3, 8),
        257: (257, 4, 3),
        273: (273, 4, [8, 8]),
        279: (279, 4, [8, len(bomb)]),
    }
    references, found = read(made(*(entries[tag] for tag in sorted(entries)), data=bomb))

    assert found == {}
    assert "more than its tags say" in omitted(references)["/0"]


@pytest.mark.parametrize(
    "file",
    [b"", b"II", b"II*\0", b"MM\0*\0\0\0\x08", b"II*\0\0\0\0\0", b"II*\0\x08\0\0\0\xff\xff", b"II+\0" + bytes(12)],
)  # fmt: skip
def test_no_tiff_is_refused(file: bytes) -> None:
    """What has no directory that can be read is no TIFF file."""
    with pytest.raises(Unpresentable):
        read(file)


def test_directories_in_a_circle_end() -> None:
    """A chain of directories that bites its tail gives each once, and says so."""
    references, found = read(made(*GRAY, data=bytes(8), following=16))

    assert list(found) == ["/0"]
    assert "circle" in omitted(references)["/1"]
