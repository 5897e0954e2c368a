"""What opening a dataset asks for one after another is there before: small manifests, coordinates."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import trio

from tests.fakes import FakeSource
from tests.io.test_filesystem import FakeRepository, array
from vzfs.access import Access, AccessPolicy
from vzfs.cache import MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.errors import ErrorKind, FormatError
from vzfs.filesystem import MAX_COMPANION, Filesystem
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChecksumTable, ChunkKind, Manifest, StringTable
from vzfs.model.snapshot import Array, Group, RefSpec, Snapshot, VirtualChunkContainer
from vzfs.repository import Checkout
from vzfs.repository.repository import MAX_PRELOADED, MAX_PRELOADED_REFS

PREFIX = "s3://b/data/"


def virtual(name: str, count: int, length: int) -> Manifest:
    """Return a manifest of *count* chunks of *length* bytes, one behind the other in the object *name*."""
    return Manifest(
        index=np.arange(count, dtype=np.int64),
        kind=np.full(count, ChunkKind.VIRTUAL, np.uint8),
        location=np.zeros(count, np.uint32),
        offset=np.arange(count, dtype=np.int64) * length,
        length=np.full(count, length, np.int64),
        checksum=np.zeros(count, np.uint32),
        locations=StringTable.of([PREFIX + name]),
        checksums=ChecksumTable.of([]),
        inline=b"",
    )


def named(name: str, count: int = 1) -> Array:
    made = array(ChunkGrid((count,)), ChunkKeyEncoding(), {name: ((0, count),)})
    return dataclasses.replace(made, path=f"/{name}", id=name.encode())


class Repository(FakeRepository):
    """A repository whose arrays have a manifest each."""

    async def manifest(self, manifest_id: str, wanted: Mapping[bytes, object]) -> object:
        self.loads.append(manifest_id)
        await trio.lowlevel.checkpoint()
        found = self.files[manifest_id]
        if isinstance(found, Exception):
            raise found
        return dict.fromkeys(wanted, found)


def checkout(repository: Repository, *arrays: Array) -> Checkout:
    nodes = (Group(path="/", documents={}), *sorted(arrays, key=lambda a: a.path))
    return Checkout(
        repository, Snapshot(id="S", written_at=0, message="", metadata={}, nodes=nodes), RefSpec()
    )


async def test_small_manifests_are_there_before_anybody_asks() -> None:
    """The manifests of small arrays are loaded ahead, few of them and no large ones, and a broken one spoils nothing."""
    files = {f"x{i:02}": virtual("x", 1, 10) for i in range(MAX_PRELOADED + 10)}
    broken = FormatError(ErrorKind.CORRUPT_METADATA, "damaged")
    repository = Repository({**files, "big": virtual("big", 1, 10), "bad": broken})
    arrays = [named("bad"), *map(named, files), named("big", MAX_PRELOADED_REFS + 1)]
    found = checkout(repository, *arrays)
    await found.preload()
    assert len(repository.loads) == len(set(repository.loads)) == MAX_PRELOADED
    assert "big" not in repository.loads
    loaded = [a for a in arrays if a.path[1:] in repository.loads and a.path != "/bad"]
    assert all(found.refs(a).find((0,)) is not None for a in loaded)
    assert len(repository.loads) == MAX_PRELOADED
    with pytest.raises(FormatError):
        found.refs(arrays[0]).find((0,))


async def test_who_reads_one_coordinate_has_its_neighbours_too(nursery: trio.Nursery) -> None:
    """Reading the only chunk of one array has the small only chunks of the arrays beside it fetched, once."""
    sizes = {"lat": 100, "lon": 200, "mask": MAX_COMPANION + 1, "sst": 100, "time": 300}
    arrays = [named(name, 8 if name == "sst" else 1) for name in sizes]
    repository = Repository({name: virtual(name, 8, size) for name, size in sizes.items()})
    source = FakeSource()
    for name, size in sizes.items():
        source.put(PREFIX + name, bytes(8 * size))
    access = Access(
        parse_prefix("s3://r/r"),
        policies=[AccessPolicy(parse_prefix(PREFIX))],
        containers=[VirtualChunkContainer(PREFIX)],
    )
    chunks = Chunks(source, access, MemoryCache(2**20), None)
    await nursery.start(chunks.run)
    found = checkout(repository, *arrays)
    await found.preload()
    files = Filesystem(found, access, chunks, ReadAhead(chunks, 2**20))

    async def read(name: str) -> None:
        inode = 1
        for part in (name, "c", "0"):
            inode = files.lookup(inode, part).inode
        if files.read_now(inode, 0, 1000) is None:
            await files.read(inode, 0, 1000)

    await read("sst")
    assert [f.url for f in source.fetched] == [f"{PREFIX}sst"]
    await read("lat")
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(f.url.rpartition("/")[2] for f in source.fetched[1:]) == ["lat", "lon", "time"]
    for name in ("lon", "time", "lat"):
        await read(name)
    assert len(source.fetched) == 4
