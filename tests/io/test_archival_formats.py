"""TIFF, GRIB, FITS, HDF4 and DMR++ in processes: parsed in one, and decoded in another, as a mount does it."""

import io
import json
from pathlib import Path

import eccodes
import h5py
import numpy as np
import pytest
import tifffile
import trio
from astropy.io import fits

from tests.io.parsings import Files
from tests.pure.hierarchies import digest, truth_of
from vzfs.decoding.installed import can_decode
from vzfs.decoding.workers import Worker
from vzfs.errors import FormatError
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References
from vzfs.model.snapshot import Array
from vzfs.views.arrays import Asked, show_array
from vzfs.views.forms import Decoded
from vzfs.views.view import View, ViewName

DEADLINE = 60.0
RGB = np.random.default_rng(3).integers(0, 200, (40, 48, 3), np.uint8)


async def shown(references: References, data: bytes, path: str) -> np.ndarray:
    """Return the array at *path*, its chunks decoded by a decoder process."""
    [node] = [n for n in references.nodes if n.path == path]
    assert isinstance(node, Array)
    view = show_array(node, Asked(View(ViewName.DECODED, 3), can_decode(), is_complete=True))
    assert view.is_shown, view.remark
    assert isinstance(view.form, Decoded)
    words = json.loads(view.node.documents["zarr.json"])
    chunk = words["chunk_grid"]["configuration"]["chunk_shape"]
    manifest = references.manifests[node.id]
    dtype = np.dtype(words["data_type"])
    whole = np.zeros([n * edge for n, edge in zip(node.grid.shape, chunk, strict=True)], dtype)
    worker = await Worker.start()
    try:
        for row in range(len(manifest)):
            ref = manifest.ref(row)
            stored = (
                ref.inline if ref.kind is ChunkKind.INLINE else data[ref.offset :][: ref.length]
            )
            into = memoryview(bytearray(view.form.nbytes))
            await worker.decode(view.form.spec, bytes(stored), into, DEADLINE)
            at = node.grid.unravel(manifest.index[row])
            where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, chunk, strict=True))
            whole[where] = np.frombuffer(into, dtype).reshape(chunk)
    finally:
        await worker.end()
    return whole[tuple(slice(0, n) for n in words["shape"])]


async def parse(name: str, data: bytes, beside: bytes | None = None) -> References:
    """Return what a file is parsed to, in a process, perhaps with the one beside it that it describes."""
    files = Files()
    if beside is not None:
        files.add(name.removesuffix(".dmrpp"), beside)
    async with files.parser() as parser:
        return await parser.parse(files.add(name, data))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": 2, "rowsperstrip": 16},
        {"compression": "jpeg", "rowsperstrip": 40},
        {"compression": "packbits", "rowsperstrip": 16},
    ],
    ids=lambda options: options["compression"],
)
async def test_tiff(options: dict) -> None:
    """Strips of a TIFF file, the short last one too, are decoded to what tifffile reads."""
    made = io.BytesIO()
    tifffile.imwrite(made, RGB, photometric="rgb", metadata=None, **options)
    with tifffile.TiffFile(io.BytesIO(made.getvalue())) as file:
        truth = file.pages[0].asarray()

    references = await parse("a.tif", made.getvalue())
    np.testing.assert_array_equal(await shown(references, made.getvalue(), "/0"), truth)


async def test_tiles_of_jpeg_with_tables_in_common(data: Path) -> None:
    """A real COG whose tiles are JPEG with tables beside them is decoded to its known values."""
    known = truth_of(data, "tiff")["archival/tiff/cog_rgb.tif"]["ifds"]["1"]
    content = (data / "archival/tiff/cog_rgb.tif").read_bytes()
    found = await shown(await parse("cog.tif", content), content, "/1")
    assert digest(found) == (known["shape"], known["dtype"], known["sha256"])


@pytest.mark.parametrize("sample", ["regular_ll_sfc_grib2", "reduced_gg_pl_32_grib1"])
async def test_grib(sample: str) -> None:
    """Messages are decoded to what eccodes gives, whichever library their codec stands for."""
    handle = eccodes.codes_grib_new_from_samples(sample)
    count = len(eccodes.codes_get_array(handle, "values"))
    eccodes.codes_set_values(handle, np.sin(np.arange(count)) * 300)
    content = eccodes.codes_get_message(handle)
    truth = eccodes.codes_get_array(handle, "values")
    eccodes.codes_release(handle)

    references = await parse("a.grib", content)
    [path] = [
        node.path
        for node in references.nodes
        if isinstance(node, Array) and b"GRIB_edition" in node.documents["zarr.json"]
    ]
    np.testing.assert_array_equal((await shown(references, content, path)).ravel(), truth)


async def test_a_message_that_kills_a_library_is_shown(data: Path) -> None:
    """A grid that one library ends its process of is parsed in seconds, and decoded by the other."""
    content = (data / "archival/grib/reduced_latlon_surface.grib2").read_bytes()
    truth = truth_of(data, "grib")["archival/grib/reduced_latlon_surface.grib2"]["messages"][0]
    with trio.fail_after(60):
        references = await parse("a.grib2", content)
    found = (await shown(references, content, "/swh")).ravel()
    assert (len(found), int(np.isnan(found).sum())) == (truth["shape"][0], truth["n_nan"])
    assert np.nanmax(found) == pytest.approx(truth["max"], rel=1e-6)


async def test_fits() -> None:
    """Big-endian images are decoded to little-endian ones."""
    values = np.arange(24, dtype="i2").reshape(4, 6)
    made = io.BytesIO()
    fits.PrimaryHDU(values).writeto(made)
    references = await parse("a.fits", made.getvalue())
    np.testing.assert_array_equal(await shown(references, made.getvalue(), "/PRIMARY"), values)


async def test_hdf4(data: Path) -> None:
    """Deflated chunks of a real HDF4 file are decoded to its known values."""
    [(name, truth)] = truth_of(data, "hdf4").items()
    content = (data / name).read_bytes()
    references = await parse("a.hdf", content)
    known = truth["arrays"]["CMG_night"]
    found = await shown(references, content, "/CMG_night")
    assert digest(found) == (known["shape"], known["dtype"], known["sha256"])


async def test_dmrpp(tmp_path: Path) -> None:
    """A document's refs lead into the file beside it; one that lead beyond its end are refused."""
    values = np.arange(20, dtype=">i4")
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["v"] = values
        offset = file["v"].id.get_offset()
    text = (
        '<Dataset xmlns="http://xml.opendap.org/ns/DAP/4.0#" dmrpp:version="3" '
        'xmlns:dmrpp="http://xml.opendap.org/dap/dmrpp/1.0.0#"><Int32 name="v"><Dim size="20"/>'
        '<dmrpp:chunks byteOrder="BE"><dmrpp:chunk offset="{}" nBytes="80"/></dmrpp:chunks>'
        "</Int32></Dataset>"
    )
    content = path.read_bytes()
    references = await parse("f.h5.dmrpp", text.format(offset).encode(), content)
    np.testing.assert_array_equal(await shown(references, content, "/v"), values)
    [manifest] = references.manifests.values()
    assert manifest.ref(0).location.endswith("/f.h5")

    with pytest.raises(FormatError):
        await parse("f.h5.dmrpp", text.format(10**6).encode(), content)
