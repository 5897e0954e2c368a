"""What opening a dataset asks for one after another is there before: small manifests, coordinates."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest
import trio

from tests.fakes import FakeSource
from tests.io.test_filesystem import FakeRepository, array, inline
from vzfs.access import Access, AccessPolicy, AuthorizedRange
from vzfs.cache import MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.errors import (
    AccessDenied,
    ErrorKind,
    FormatError,
    NameProblem,
    RepositoryError,
    SourceError,
)
from vzfs.filesystem import Filesystem, Reading, settle
from vzfs.hierarchy import MAX_COMPANION, hierarchy
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChecksumTable, ChunkKind, Manifest, StringTable
from vzfs.model.snapshot import Array, Group, RefSpec, Snapshot, VirtualChunkContainer
from vzfs.repository import Checkout
from vzfs.repository.icechunk import IcechunkV1
from vzfs.repository.repository import MAX_PRELOADED, MAX_PRELOADED_REFS
from vzfs.repository.storage import Storage
from vzfs.views.view import View, ViewName

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
    files = Filesystem(found, Reading(access, chunks, ReadAhead(chunks, 2**20)))

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


async def test_a_ref_that_is_not_there_costs_no_reading_of_the_others() -> None:
    """In a repository of spec 1, where each ref is an object, one that is absent is found to be so in three requests."""
    asked = []

    class Stored:
        async def get(self, key: str, max_length: int) -> bytes | None:
            asked.append(key)
            return None

        async def names(self, key: str) -> list[str]:
            asked.append(key)
            deleted = ["tag.gone/ref.json", "tag.gone/ref.json.deleted"]
            return [*deleted, *(f"tag.t{i}/ref.json" for i in range(100)), "branch.b/ref.json"]

    with pytest.raises(RepositoryError) as caught:
        await IcechunkV1(Stored(), ()).resolve(RefSpec(tag="none"))
    assert caught.value.kind is ErrorKind.REF_NOT_FOUND
    assert "t0, t1, t10" in caught.value.advice
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (None, ErrorKind.REF_NOT_FOUND),
        (ErrorKind.SOURCE_UNREACHABLE, None),
        (ErrorKind.SOURCE_DENIED, None),
        (ErrorKind.OFFLINE, None),
    ],
)
async def test_a_snapshot_that_is_not_there_is_no_ref(
    trouble: ErrorKind | None, said: ErrorKind | None
) -> None:
    """In a repository of spec 1 an id without a file is one of no snapshot, and only if the storage says that there is none."""
    id_, other = "0123456789ABCDEFGHJK", "ABCDEFGHJK0123456789"
    source = FakeSource()
    source.put(f"s3://r/r/snapshots/{other}", b"a snapshot")
    if trouble is not None:

        async def refuse(wanted: AuthorizedRange) -> str:
            raise SourceError(trouble, "not now", where=str(wanted.location))

        source.version = refuse
    repository = IcechunkV1(Storage(source, Access(parse_prefix("s3://r/r"))), ())
    assert await repository.resolve(RefSpec(snapshot=other.lower())) == other
    if said is None:
        assert await repository.resolve(RefSpec(snapshot=id_)) == id_
    else:
        with pytest.raises(RepositoryError) as caught:
            await repository.resolve(RefSpec(snapshot=id_))
        assert caught.value.kind is said
        assert id_ in str(caught.value)
    assert source.fetched == []


def deflated(separator: str) -> Array:
    """Return an array of two chunks that are framed in the portable view."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2],
        "data_type": "int32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "numcodecs.zlib", "configuration": {"level": 1}},
        ],
        "attributes": {},
    }
    return dataclasses.replace(
        array(ChunkGrid((2,)), ChunkKeyEncoding(separator=separator), {"a": ((0, 2),)}),
        documents={"zarr.json": json.dumps(document).encode()},
        grid=ChunkGrid((2,), max_chunk_nbytes=4),
    )


async def test_sizes_of_frames_are_those_of_all_who_say_sizes() -> None:
    """A framed chunk has one size, looked up or listed, and that of a whole chunk's frame while it is not known."""
    access = Access(parse_prefix("s3://r/r"))
    chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
    reading = Reading(access, chunks, ReadAhead(chunks, 2**20))
    for separator in ("/", "."):
        one, view = deflated(separator), View(ViewName.PORTABLE, 3)
        repository = FakeRepository({"a": virtual("a", 2, 12)})
        fs = Filesystem(checkout(repository, one), reading, view)
        folder, name = fs.lookup(1, "a").inode, "c.1"
        if separator == "/":
            folder, name = (await settle(fs.lookup, folder, "c")).inode, "1"
            assert (await settle(fs.run, folder, 0, 9)).sizes.tolist() == [36, 36]
        assert (await settle(fs.lookup, folder, name)).size == 36
        lines = {line.name: line.attrs for line in await settle(fs.children, folder, 0)}
        assert lines[name].size == 36
        damaged = FakeRepository({"a": FormatError(ErrorKind.CORRUPT_METADATA, "damage")})
        fs = Filesystem(checkout(damaged, one), reading, view)
        folder = fs.lookup(1, "a").inode
        if separator == "/":
            folder = (await settle(fs.lookup, folder, "c")).inode
        attrs = await settle(fs.lookup, folder, name)
        # A stream as long as what it decodes to has a byte behind it.
        assert (attrs.size, attrs.is_certain) == (24 + 4 + 1, False)


async def test_nothing_of_what_is_denied_is_read_not_even_its_frame() -> None:
    """A read of the frame alone, around a chunk that may not be read, is denied like any other."""
    one = deflated("/")
    repository = FakeRepository({"a": virtual("a", 2, 12)})
    view = View(ViewName.PORTABLE, 3)
    denied = Access(parse_prefix("s3://r/r"), containers=[VirtualChunkContainer(PREFIX)])
    policies = [AccessPolicy(parse_prefix(PREFIX))]
    for access, is_allowed in ((denied.with_policies(policies), True), (denied, False)):
        chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
        reading = Reading(access, chunks, ReadAhead(chunks, 2**20))
        fs = Filesystem(checkout(repository, one), reading, view)
        keys = (await settle(fs.lookup, fs.lookup(1, "a").inode, "c")).inode
        found = await settle(fs.lookup, keys, "1")
        assert found.size == 24 + 12
        if is_allowed:
            assert bytes(fs.read_now(found.inode, 0, 2)) == b"\2\1"
            assert fs.read_now(found.inode, 0, 25) is None
            continue
        for offset, size in ((0, 2), (0, 36), (36, 10)):
            with pytest.raises(AccessDenied):
                fs.read_now(found.inode, offset, size)


async def test_what_is_remembered_of_files_is_bounded(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files are looked up and read, few are remembered."""
    monkeypatch.setattr(hierarchy, "MAX_KNOWN", 3)
    access = Access(parse_prefix("s3://r/r"))
    chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
    reading = Reading(access, chunks, ReadAhead(chunks, 2**20))
    fs = Filesystem(checkout(FakeRepository({"a": inline(range(9))}), named("a", 9)), reading)
    keys = (await settle(fs.lookup, fs.lookup(1, "a").inode, "c")).inode
    for i in range(9):
        inode = (await settle(fs.lookup, keys, str(i))).inode
        assert fs.read_now(inode, 0, 100) == bytes([i]) * (i + 1)
        assert len(fs.root._known) <= 3
        assert len(fs.root._found) <= 3


async def test_a_name_that_a_view_leaves_out_is_absent() -> None:
    """An array that the view cannot say is found neither by its name nor in a listing."""
    access = Access(parse_prefix("s3://r/r"))
    chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
    reading = Reading(access, chunks, ReadAhead(chunks, 2**20))
    for view, is_there in ((View(), True), (View(ViewName.DECODED, 3), False)):
        fs = Filesystem(checkout(FakeRepository({}), named("a")), reading, view)
        assert ("a" in {line.name for line in fs.children(1, 0)}) == is_there
        if is_there:
            assert fs.lookup(1, "a").is_dir
            continue
        with pytest.raises(NameProblem) as caught:
            fs.lookup(1, "a")
        assert caught.value.kind is ErrorKind.NO_SUCH_NAME
