"""Plain Zarr in a ZIP file: parts of it are chunks, few requests find them, and what cannot be presented is named."""

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import trio
import zarr

from tests.fakes import FakeSource
from tests.io.shown import STORED, arrays_of, digests, files_of, refs_of, truth
from tests.pure.viewing import array_document, group_document
from vzfs.access import Access
from vzfs.cache import DiskCache
from vzfs.errors import ErrorKind, FormatError, RepositoryError, SourceError, VzfsError
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChunkKind
from vzfs.model.snapshot import RefSpec
from vzfs.repository import check_out
from vzfs.repository import zarrzip as module
from vzfs.repository.storage import NoSource, Remembered, Storage
from vzfs.repository.zarrstore import open_zarr_zip
from vzfs.source import Fetcher, Places, Source, Timing
from vzfs.views.view import View, ViewName

PLACE = "s3://bucket/store.zip"
SMALL = array_document((4, 6), (2, 2))


def access_to(place: str) -> Access:
    return Access(parse_prefix(place)).with_containers(None)


async def opened(source: Fetcher, place: str = PLACE) -> module.ZippedRepository:
    return await open_zarr_zip(Storage(source, access_to(place)))


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def hierarchy(*, chunk: bytes = b"12345678") -> dict[str, bytes]:
    return {
        "zarr.json": group_document({"title": "x"}),
        "a/zarr.json": SMALL,
        **{f"a/c/{i}/{j}": chunk for i in range(2) for j in range(3)},
        "g/zarr.json": group_document(),
        "g/b/zarr.json": array_document((2000,), (2,)),
        **{f"g/b/c/{i}": chunk[:4] for i in range(0, 1000, 2)},
        "g/b/c/x": b"no chunk",
        "g/b/c/5000": b"no chunk either",
    }


@pytest.fixture
def source() -> FakeSource:
    """Give a source with a hierarchy in a ZIP file."""
    source = FakeSource()
    source.put(PLACE, zipped(hierarchy()))
    return source


async def test_headers_are_of_the_version_that_was_opened(source: FakeSource) -> None:
    """In a file that is written anew, as it was but for its version, nothing is looked for any more."""
    checkout = await check_out(await opened(source), RefSpec())
    source.put(PLACE, zipped(hierarchy()))
    refs = checkout.refs(next(n for n in checkout.snapshot.nodes if n.path == "/a"))
    await refs.load(())
    with pytest.raises(SourceError) as caught:
        refs.find((0, 0))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_paths_of_folders_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few long names, deep in folders, are as many long paths: they are refused before all are made."""
    monkeypatch.setattr(module, "MAX_NAMES", 20_000)
    source = FakeSource()
    name = "n" * 1000 + "/a" * 100 + "/x"
    source.put(PLACE, zipped({"zarr.json": group_document(), name: b""}))
    with pytest.raises(FormatError, match="characters of their paths"):
        await opened(source)
    source.put(PLACE, zipped({"zarr.json": group_document(), "n" * 1000 + "/x": b""}))
    assert await opened(source)


async def test_a_real_file(data: Path) -> None:
    """The real ZIP file is shown as it is known to be, and so is one that is compressed."""
    path = data / "zarr" / "zarrs_zip_v3.zip"
    source = Source(Timing(), places=Places(64))
    for view in (STORED, View(ViewName.PORTABLE)):
        files = await files_of(await opened(source, str(path)), source, access_to(str(path)), view)
        found = digests(data, arrays_of(files))
        assert found == truth(data, "zarr/zarrs_zip_v3.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zarr_format", [2, 3])
async def test_what_zarr_python_writes(tmp_path: Path, method: int, zarr_format: int) -> None:
    """A hierarchy that zarr-python wrote into a ZIP file, of either version, compressed or not, equals what it reads."""
    path = tmp_path / "store.zip"
    store = zarr.storage.ZipStore(path, mode="w", compression=method)
    expected = {}
    with warnings.catch_warnings(action="ignore"):
        root = zarr.create_group(store, zarr_format=zarr_format)
        for name, shape, chunks in (("x", (7,), (3,)), ("g/y z", (20, 30), (7, 11))):
            values = np.arange(np.prod(shape), dtype="<f4").reshape(shape)
            root.create_array(name, data=values, chunks=chunks, compressors="auto")
            expected[name] = values
        store.close()
    source = Source(Timing(), places=Places(64))
    repository = await opened(source, str(path))
    assert repository.format == f"Zarr v{zarr_format} in a ZIP file"
    found = arrays_of(await files_of(repository, source, access_to(str(path))))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


async def test_chunks_are_parts_of_the_file(source: FakeSource) -> None:
    """A chunk that is stored as it is, is a range of the file, in the version in which it was opened."""
    repository = await opened(source)
    checkout = await check_out(repository, RefSpec())
    assert [node.path for node in checkout.snapshot.nodes] == ["/", "/a", "/g", "/g/b"]
    refs = await refs_of(checkout, "/a")
    assert refs.keys() == {(i, j) for i in range(2) for j in range(3)}
    assert {(ref.kind, ref.length, ref.location) for ref in refs.values()} == {
        (ChunkKind.NATIVE, 8, "")
    }
    assert (await source.fetch(access_to(PLACE).authorize(refs[1, 2]))).data == b"12345678"
    source.put(PLACE, zipped(hierarchy()))
    with pytest.raises(SourceError) as caught:
        await source.fetch(access_to(PLACE).authorize(refs[1, 2]))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_little_of_the_file_is_read(source: FakeSource) -> None:
    """To open a file, its end is read once, and each document; a chunk costs one request for its neighbours too."""
    padding = {f"other/{i}": bytes(100_000) for i in range(20)}
    source.put(PLACE, zipped({**padding, **hierarchy()}))
    repository = await opened(source)
    assert source.statistics().gets == 1 + 4
    assert source.statistics().bytes_read < 150_000
    checkout = await check_out(repository, RefSpec())
    refs = checkout.refs(checkout.snapshot.nodes[3])
    before = source.statistics().gets
    await refs.load((500,))
    assert refs.find((500,)) is not None
    assert refs.find((501,)) is None
    assert source.statistics().gets - before == 1
    assert list(await refs_of(checkout, "/g/b")) == [(i,) for i in range(0, 1000, 2)]


async def test_compressed_chunks(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that the ZIP file compresses are held in memory if they are small, else their array is left out by name."""
    files = hierarchy()
    source.put(PLACE, zipped(files, zipfile.ZIP_DEFLATED))
    repository = await opened(source)
    assert repository.omissions == ()
    shown = await files_of(repository, source, access_to(PLACE))
    assert shown == {name: data for name, data in files.items() if b"no chunk" not in data}
    kinds = {
        ref.kind for ref in (await refs_of(await check_out(repository, RefSpec()), "/a")).values()
    }
    assert kinds == {ChunkKind.INLINE}
    for name in ("MAX_INLINED", "MAX_INLINED_TOGETHER"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 1999 if name == "MAX_INLINED" else 2047)
            repository = await opened(source)
        assert [omission.path for omission in repository.omissions] == ["/g/b"]
        assert "zip -0" in repository.omissions[0].reason
        assert [n.path for n in repository._snapshot.nodes] == ["/", "/a", "/g"]


async def test_an_unknown_compression(source: FakeSource) -> None:
    """An array of which the ZIP file compresses a chunk by another method is left out by name."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in hierarchy().items():
            method = zipfile.ZIP_BZIP2 if name == "a/c/0/0" else zipfile.ZIP_STORED
            archive.writestr(name, data, method)
    source.put(PLACE, target.getvalue())
    repository = await opened(source)
    assert [o.path for o in repository.omissions] == ["/a"]
    assert "method 12" in repository.omissions[0].reason


async def test_a_folder_around_everything(source: FakeSource) -> None:
    """A ZIP file with one folder at its root is what that folder is."""
    source.put(PLACE, zipped({f"data.zarr/{k}": v for k, v in hierarchy().items()}))
    repository = await opened(source)
    assert [n.path for n in repository._snapshot.nodes] == ["/", "/a", "/g", "/g/b"]
    assert len(await refs_of(await check_out(repository, RefSpec()), "/a")) == 6


async def test_one_array(source: FakeSource) -> None:
    """A ZIP file may have one array at its root, of Zarr v2 with its own keys too."""
    zarray = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<i2", "fill_value": 0, "order": "C", "filters": None, "compressor": None}  # fmt: skip
    source.put(PLACE, zipped({".zarray": json.dumps(zarray).encode(), "0": b"abcd", "1": b"efgh"}))
    files = await files_of(await opened(source), source, access_to(PLACE))
    assert {files["c/0"], files["c/1"]} == {b"abcd", b"efgh"}


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (zipped({"x/data.nc": b"1"}), RepositoryError, "no Zarr hierarchy"),
        (zipped({}), RepositoryError, "no Zarr hierarchy"),
        (b"no zip", FormatError, "missing"),
        (b"", FormatError, "missing"),
        (zipped(hierarchy())[:-5], FormatError, "missing"),
    ],
)
async def test_what_is_no_hierarchy(
    source: FakeSource, content: bytes, error: type[VzfsError], reason: str
) -> None:
    """A ZIP file without Zarr, and what is no ZIP file, is refused by what it is, and where."""
    source.put(PLACE, content)
    with pytest.raises(error, match=reason) as caught:
        await opened(source)
    assert caught.value.where == PLACE


async def test_a_chunk_that_is_not_where_it_should_be(source: FakeSource) -> None:
    """Where a chunk's own header contradicts the directory its region is unknown, and other regions are not."""
    content = bytearray(zipped(hierarchy()))
    at = content.index(b"g/b/c/2")
    content[at : at + 7] = b"g/b/c/3"
    source.put(PLACE, bytes(content))
    checkout = await check_out(await opened(source), RefSpec())
    refs = checkout.refs(checkout.snapshot.nodes[3])
    await refs.load(())
    with pytest.raises(FormatError) as caught:
        refs.find((0,))
    assert caught.value.where == f"{PLACE}/g/b/c/2"
    assert refs.find((500,)) is not None


async def test_a_document_that_is_damaged(source: FakeSource) -> None:
    """A node whose document is not what its checksum says is left out with the reason."""
    content = bytearray(zipped(hierarchy()))
    at = content.index(SMALL)
    content[at + 5] ^= 1
    source.put(PLACE, bytes(content))
    repository = await opened(source)
    assert [o.path for o in repository.omissions] == ["/a"]


async def test_it_is_opened_offline(source: FakeSource, tmp_path: Path) -> None:
    """What a mount has read of a ZIP file another finds in the cache."""
    disk = DiskCache(tmp_path / "cache", max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    prefix = parse_prefix(PLACE)
    online = await check_out(await opened(Remembered(source, disk, prefix)), RefSpec())
    refs = await refs_of(online, "/a")
    away = Remembered(NoSource(), disk, prefix, is_offline=True)
    offline = await check_out(await opened(away), RefSpec())
    assert offline.snapshot == online.snapshot
    assert await refs_of(offline, "/a") == refs
