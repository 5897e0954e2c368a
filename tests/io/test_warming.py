"""Chunks get into the cache before anybody reads them: by few requests, each once."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy
from vzfs.cache import DiskCache, MemoryCache
from vzfs.chunks import Chunks
from vzfs.cli.warm import regions_of
from vzfs.errors import ConfigError, ErrorKind
from vzfs.formats.zarr import parse_array_document
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import ManifestBuilder, References, array_id, whole
from vzfs.model.snapshot import Array, RefSpec
from vzfs.repository import Checkout
from vzfs.repository.fixed import FixedRepository
from vzfs.warming import Share, Warming

LENGTH = 1000


def references() -> References:
    """Return `/a` of 8 x 4 chunks in two objects, and `/g/b` of one inline chunk and one that is not allowed."""
    nodes, manifests = [], {}
    for path, shape, chunks in (("/a", [16, 12], [2, 3]), ("/g/b", [2], [1])):
        document = json.dumps(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": shape,
                "data_type": "uint8",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
                "chunk_key_encoding": {"name": "default"},
                "fill_value": 0,
                "codecs": [{"name": "bytes"}],
            }
        ).encode()
        layout = parse_array_document(document)
        builder = ManifestBuilder()
        for flat in range(layout.grid.size):
            url = f"s3://b/data/{flat % 2}"
            ref = ChunkRef(ChunkKind.VIRTUAL, LENGTH, url, flat // 2 * LENGTH)
            if path == "/g/b":
                ref = (
                    ChunkRef(ChunkKind.VIRTUAL, 5, "s3://b/other/x")
                    if flat
                    else ChunkRef(ChunkKind.INLINE, 1, inline=b"x")
                )
            builder.add(flat, ref)
        name = array_id(path)
        nodes.append(
            Array(
                path=path,
                documents={"zarr.json": document},
                id=name,
                grid=layout.grid,
                key_encoding=layout.key_encoding,
                manifests=whole(path, layout.grid),
            )
        )
        manifests[name] = builder.build()
    return References(tuple(nodes), manifests)


class Warm:
    """A cache in *folder*, and what is asked of the source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = FakeSource()
        for number in range(2):
            self.source.put(f"s3://b/data/{number}", bytes(range(256)) * 63)
        repository = FixedRepository(
            references(), format="a fake", where="s3://b", state="ab", written_at=0
        )
        self.repository = repository
        self.access = Access(
            parse_prefix("s3://b/refs"),
            policies=[AccessPolicy(parse_prefix("s3://b/data/"))],
            containers=None,
        )

    @asynccontextmanager
    async def chunks(self) -> AsyncIterator[Chunks]:
        disk = DiskCache(self.folder, max_bytes=2**30, limiter=trio.CapacityLimiter(4))
        chunks = Chunks(self.source, self.access, MemoryCache(2**20), disk)
        async with trio.open_nursery() as nursery:
            await nursery.start(disk.run)
            await nursery.start(chunks.run)
            yield chunks
            await disk.written()
            nursery.cancel_scope.cancel()

    async def run(self, *arrays: str, share: Share | None = None) -> Warming:
        snapshot = await self.repository.snapshot("AB")
        checkout = Checkout(self.repository, snapshot, RefSpec())
        async with self.chunks() as chunks:
            warming = Warming(checkout, chunks, regions_of(snapshot, arrays), share or Share())
            self.failures = await warming.run()
        return warming


@pytest.fixture(name="warm")
def _warm(tmp_path: Path) -> Warm:
    return Warm(tmp_path / "cache")


async def test_all_of_an_array_comes_by_one_request_an_object(warm: Warm) -> None:
    """Neighbours in an object come together, and a second run asks for nothing but versions."""
    done = (await warm.run("a")).progress
    assert (done.total, done.chunks, done.fetched, done.failed) == (32, 32, 32 * LENGTH, 0)
    assert sorted(f.url for f in warm.source.fetched) == [
        "s3://b/data/0",
        "s3://b/data/1",
    ]
    warm.source.fetched.clear()
    again = (await warm.run("a")).progress
    assert (again.fetched, again.cached) == (0, 32 * LENGTH)
    assert warm.source.fetched == []
    assert warm.source.statistics().heads == 2


async def test_a_changed_object_is_fetched_again(warm: Warm) -> None:
    """What the cache has of another version does not count."""
    await warm.run("a")
    warm.source.put("s3://b/data/1", bytes(16 * LENGTH))
    assert (await warm.run("a")).progress.fetched == 16 * LENGTH


async def test_what_was_warmed_is_read_from_the_cache(warm: Warm) -> None:
    """A reader that comes later asks the source for no bytes."""
    await warm.run("a[0:2]")
    warm.source.fetched.clear()
    manifest = references().manifests[b"/a"]
    async with warm.chunks() as chunks:
        for flat in range(4):
            data = await chunks.read(manifest.ref(flat), 0, LENGTH)
            assert bytes(data) == (bytes(range(256)) * 63)[flat // 2 * LENGTH :][:LENGTH]
    assert warm.source.fetched == []


async def test_what_cannot_be_had_is_counted_and_named(warm: Warm) -> None:
    """A chunk that is not allowed costs itself; a chunk in the references needs nothing."""
    done = (await warm.run()).progress
    assert (done.total, done.failed) == (34, 1)
    assert [(f.path, f.chunks, f.error.kind) for f in warm.failures] == [
        ("/g/b", 1, ErrorKind.NOT_ALLOWED)
    ]


async def test_shares_are_the_whole(warm: Warm) -> None:
    """Parts of the work fetch each object once between them, and leave nothing out."""
    fetched = [(await warm.run("a", share=Share(n, 5))).progress.fetched for n in range(5)]
    assert sum(fetched) == 32 * LENGTH
    assert len(warm.source.fetched) == 2


@pytest.mark.parametrize(
    ("selection", "chunks"),
    [
        ("a", 32),
        ("/a/", 32),
        ("g", 2),
        ("/", 34),
        ("a[3]", 4),
        ("a[-1, -1]", 1),
        ("a[0:3]", 8),
        ("a[..., 0:4]", 16),
        ("a[::8, 5]", 2),
        ("a[4:4]", 0),
        ("a[:, :]", 32),
    ],
)
async def test_a_selection_means_the_chunks_of_its_elements(
    warm: Warm, selection: str, chunks: int
) -> None:
    """Elements are selected as numpy does, and every chunk that has one of them is meant, and no other."""
    snapshot = await warm.repository.snapshot("AB")
    assert sum(region.size() for region in regions_of(snapshot, [selection])) == chunks


@pytest.mark.parametrize(
    "selection",
    ["none", "g[0]", "a[16]", "a[0,0,0]", "a[x]", "a[]", "a[::0]", "a[...,...]", "a[::-1]"],
)
async def test_a_selection_that_means_nothing_is_refused(warm: Warm, selection: str) -> None:
    """An array that is not there, an index out of bounds or nonsense is an error of usage."""
    snapshot = await warm.repository.snapshot("AB")
    with pytest.raises(ConfigError):
        regions_of(snapshot, [selection])
