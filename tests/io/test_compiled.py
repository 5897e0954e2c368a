"""Compiled manifests in the disk cache: what a second mount finds there, and what it does without."""

import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.io.cachebench import Bench
from tests.io.test_filesystem import DAMAGE, ENCODINGS, FakeRepository, array, inline
from vzfs import mounttable
from vzfs.access import Access, StoreOptions
from vzfs.cache import SMALL, DiskCache, EntryKey
from vzfs.errors import ErrorKind, SourceError, VzfsError
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import LastModified, parse_prefix
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    ChunkRef,
    Manifest,
    StringTable,
    narrow,
)
from vzfs.model.snapshot import Array, Group, RefSpec, Snapshot
from vzfs.repository import Checkout, Compiled, compiled

ROOT = "s3://b/repository"
LARGE = 100_000
GRID = ChunkGrid((2, LARGE))
PARTS = {"small": ((0, 1), (0, LARGE)), "large": ((1, 2), (0, LARGE))}
ARRAY = array(GRID, ENCODINGS[0], PARTS)


def large(seed: int = 0) -> Manifest:
    """Return a manifest of a hundred thousand refs, more than lies on a shelf."""
    rng = np.random.default_rng(seed)
    return Manifest(
        index=range(LARGE, 2 * LARGE),
        kind=narrow(np.full(LARGE, ChunkKind.VIRTUAL)),
        location=narrow(np.arange(LARGE) // 1000),
        offset=narrow(rng.integers(0, 2**30, LARGE)),
        length=narrow(rng.integers(1, 2**15, LARGE)),
        checksum=narrow(np.ones(LARGE, np.int64)),
        locations=StringTable.of([f"s3://archive/{i:03}.nc" for i in range(LARGE // 1000)]),
        checksums=ChecksumTable.of([LastModified(1_700_000_000)]),
        inline=b"",
    )


def files() -> dict[str, Manifest | VzfsError]:
    return {"small": inline([0, 1, 5]), "large": large()}


class Mount:
    """A checkout of a repository that counts what it is asked for, and what it has compiled."""

    def __init__(
        self,
        repository: FakeRepository,
        kept: Compiled | None,
        node: Array,
        disk: DiskCache | None = None,
    ) -> None:
        root = Group(path="/", documents={"zarr.json": b"{}"})
        nodes = (root, node)
        snapshot = Snapshot(id="S", written_at=0, message="", metadata={}, nodes=nodes)
        self.repository = repository
        self.compiled = kept
        self.disk = disk
        self.refs = Checkout(repository, snapshot, RefSpec(), kept).refs(node)

    async def look(self) -> list[ChunkRef | None]:
        """Return refs of both manifests."""
        found = []
        for coords in ((0, 0), (0, 5), (0, 6), (1, 0), (1, 77_777), (1, LARGE - 1)):
            await self.refs.load(coords)
            found.append(self.refs.find(coords))
        return found


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache")


@pytest.fixture(name="expected")
async def _expected() -> list[ChunkRef | None]:
    return await Mount(FakeRepository(files()), None, ARRAY).look()


@asynccontextmanager
async def mounted(
    bench: Bench,
    given: dict[str, Manifest | VzfsError] | None = None,
    *,
    root: str = ROOT,
    store: StoreOptions | None = None,
    node: Array = ARRAY,
    max_bytes: int = 2**30,
) -> AsyncIterator[Mount]:
    """Give a mount; behind it, wait until all that it keeps is on disk."""
    disk = bench.cache(max_bytes)
    access = Access(parse_prefix(root), store=store or StoreOptions())
    kept = Compiled(disk, access)
    async with trio.open_nursery() as nursery:
        await nursery.start(disk.run)
        await nursery.start(kept.run)
        yield Mount(FakeRepository(files() if given is None else given), kept, node, disk)
        await on_disk(disk, kept)
        nursery.cancel_scope.cancel()


async def on_disk(disk: DiskCache, kept: Compiled) -> None:
    await kept.written()
    await disk.written()


OFFLINE = SourceError(ErrorKind.OFFLINE, "nobody is asked")
NOTHING: dict[str, Manifest | VzfsError] = {"small": OFFLINE, "large": OFFLINE}


async def test_a_second_mount_fetches_and_decodes_no_manifest(
    bench: Bench, expected: list[ChunkRef | None]
) -> None:
    """Manifests that one mount has loaded are there for the next without a request, also offline."""
    async with mounted(bench) as first:
        assert await first.look() == expected
        assert first.repository.loads == ["small", "large"]
    async with mounted(bench, NOTHING) as second:
        assert await second.look() == expected
        assert second.repository.loads == []
        statistics = second.compiled.statistics()
        assert (statistics.loaded, statistics.kept) == (2, 0)
        assert statistics.mapped > SMALL


async def test_what_was_not_loaded_is_not_kept(bench: Bench) -> None:
    """Manifests are kept, and found, one by one, as names ask for them."""
    async with mounted(bench) as first:
        await first.refs.load((0,))
    async with mounted(bench) as second:
        await second.look()
        assert second.repository.loads == ["large"]


async def test_mounts_share_what_one_has_compiled(
    bench: Bench, expected: list[ChunkRef | None]
) -> None:
    """What one mount keeps, another that is there already finds, while both serve."""
    async with mounted(bench) as first, mounted(bench, NOTHING) as second:
        await first.look()
        await on_disk(first.disk, first.compiled)
        assert await second.look() == expected


async def test_once_it_is_kept_a_large_manifest_is_mapped(
    bench: Bench, expected: list[ChunkRef | None]
) -> None:
    """The mount that decoded a large manifest goes on with what is mapped, and lets go of the rest."""
    given = files()
    async with mounted(bench, given) as first:
        assert await first.look() == expected
        decoded = given.pop("large")
        await first.compiled.written()
        assert first.compiled.statistics().mapped > SMALL
        part = first.refs.manifests()[1]
        assert part is not decoded
        assert not part.offset.flags.owndata
        assert await first.look() == expected
        assert not [o for o in gc.get_referrers(decoded) if isinstance(o, dict | list)]


@pytest.mark.parametrize(
    "other",
    [
        {"root": "s3://b/other"},
        {"root": "s3://other/repository"},
        {"store": StoreOptions(endpoint="https://elsewhere.example/")},
        {"node": array(ChunkGrid((2, LARGE + 1)), ENCODINGS[0], PARTS)},
        {"node": array(GRID, ENCODINGS[0], {**PARTS, "large": ((1, 2), (0, LARGE - 1))})},
    ],
    ids=["path", "bucket", "endpoint", "grid", "region"],
)
async def test_what_is_kept_of_something_else_is_not_found(bench: Bench, other: dict) -> None:
    """Another repository, another store, another grid or another region has compiled manifests of its own."""
    async with mounted(bench) as first:
        await first.look()
    async with mounted(bench, **other) as second:
        await second.refs.load(())
        assert "large" in second.repository.loads


async def test_an_array_that_grew_keeps_its_manifests(
    bench: Bench, expected: list[ChunkRef | None]
) -> None:
    """Chunks appended along the first dimension leave what is kept of the others as it is."""
    async with mounted(bench) as first:
        await first.look()
    grown = {**PARTS, "new": ((2, 3), (0, LARGE))}
    node = array(ChunkGrid((3, LARGE)), ENCODINGS[0], grown)
    async with mounted(bench, {**files(), "new": inline([])}, node=node) as second:
        assert await second.look() == expected
        await second.refs.load(())
        assert second.repository.loads == ["new"]


def entries(bench: Bench) -> list[Path]:
    """Return what is kept: the file of the large manifest, and the shelf of the small one."""
    return [*bench.folder.glob("v2/entries/*/*"), *bench.segments()]


def flip(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: os.urandom(len(data)),
    ],
    ids=["changed", "shorter", "longer", "empty", "half", "random"],
)
async def test_damaged_files_are_replaced(
    bench: Bench, damage: Callable[[bytes], bytes], expected: list[ChunkRef | None]
) -> None:
    """A compiled manifest that is not whole is told of, decoded again, and whole for the next mount."""
    async with mounted(bench) as first:
        await first.look()
    assert len(entries(bench)) == 2
    for path in entries(bench):
        damaged = damage(path.read_bytes())
        path.unlink()
        path.write_bytes(damaged)
    async with mounted(bench) as second:
        assert await second.look() == expected
        assert sorted(second.repository.loads) == ["large", "small"]
    async with mounted(bench, NOTHING) as third:
        assert await third.look() == expected


async def test_a_foreign_file_is_not_used(bench: Bench, expected: list[ChunkRef | None]) -> None:
    """A file under another's name is none, though it is sound; nor is a link."""
    async with mounted(bench) as first:
        await first.look()
    (own,) = bench.folder.glob("v2/entries/*/*")
    other = Bench(bench.folder.parent / "other")
    async with mounted(other, {**files(), "large": large(1)}, root="s3://b/other") as foreign:
        await foreign.look()
    (stranger,) = other.folder.glob("v2/entries/*/*")
    own.unlink()
    own.write_bytes(stranger.read_bytes())
    async with mounted(bench) as second:
        assert await second.look() == expected
        assert second.repository.loads == ["large"]
    own.unlink()
    own.symlink_to(stranger)
    async with mounted(bench) as third:
        assert await third.look() == expected
        assert third.repository.loads == ["large"]


async def test_a_sound_file_with_an_impossible_manifest_is_not_used(
    bench: Bench,
    expected: list[ChunkRef | None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What leads nowhere is not used, though its checksums are right; it is told and replaced."""
    encode = compiled.encode_compiled
    monkeypatch.setattr(
        compiled, "encode_compiled", lambda file: memoryview(bytes(encode(file))[::-1])
    )
    async with mounted(bench) as first:
        assert await first.look() == expected
    monkeypatch.undo()
    async with mounted(bench) as second:
        assert await second.look() == expected
        assert second.repository.loads == ["small", "large"]
    assert "a compiled manifest is not used" in caplog.text
    async with mounted(bench, NOTHING) as third:
        assert await third.look() == expected


async def test_what_cannot_be_loaded_is_not_kept(bench: Bench) -> None:
    """A manifest that is damaged, or out of reach, leaves nothing behind."""
    async with mounted(bench, {"small": DAMAGE, "large": OFFLINE}) as first:
        await first.refs.load(())
        assert first.compiled.statistics().kept == 0
    assert entries(bench) == []


async def test_troubles_of_the_disk_are_no_errors(
    bench: Bench, expected: list[ChunkRef | None]
) -> None:
    """A folder that cannot be used, or has no room, means that manifests are decoded, and nothing else."""
    async with mounted(bench, max_bytes=SMALL) as first:
        assert await first.look() == expected
    async with mounted(bench) as second:
        await second.look()
        assert second.repository.loads == ["large"]
    bench.folder.chmod(0o777)
    try:
        async with mounted(bench) as third:
            assert await third.look() == expected
            assert third.repository.loads == ["small", "large"]
    finally:
        bench.folder.chmod(0o700)
    file = bench.folder.parent / "file"
    file.write_bytes(b"")
    async with mounted(Bench(file)) as fourth:
        assert await fourth.look() == expected


async def test_on_a_network_filesystem_nothing_is_mapped(
    bench: Bench, expected: list[ChunkRef | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another machine could take a file away under a mapping, it is read into memory."""
    async with mounted(bench) as first:
        await first.look()
    share = mounttable.Mounted("/", "nfs4", "server:/", "0:1")
    monkeypatch.setattr(mounttable, "containing", lambda path: share)
    async with mounted(bench, NOTHING) as second:
        assert await second.look() == expected
        base = second.refs.manifests()[1].offset.base
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(memoryview(base).obj, bytes)


async def test_descriptors_for_mappings_are_bounded(
    bench: Bench, expected: list[ChunkRef | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a number of files, which hold a descriptor each, compiled manifests are read into memory."""
    async with mounted(bench) as first:
        await first.look()
    monkeypatch.setattr(compiled, "MAX_MAPPED", 0)
    async with mounted(bench, NOTHING) as second:
        assert await second.look() == expected
        assert second.compiled.statistics().mapped == 0


async def test_what_is_used_is_not_the_first_to_be_evicted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount marks what it has compiled as used from time to time, as long as it lives."""
    async with mounted(bench) as first:
        await first.look()
    (own,) = bench.folder.glob("v2/entries/*/*")
    bench.now.time += 3600
    monkeypatch.setattr(compiled, "USE_AGAIN_AFTER", 0.01)
    async with mounted(bench, NOTHING) as second:
        await second.look()
        os.utime(own, (0, 0))
        used = trio.Event()
        mapped = second.disk.mapped

        async def watched(key: EntryKey) -> object:
            try:
                return await mapped(key)
            finally:
                used.set()

        monkeypatch.setattr(second.disk, "mapped", watched)
        with trio.fail_after(10):
            await used.wait()
    assert own.stat().st_mtime == bench.now.time


async def test_an_evicted_file_stays_mapped(bench: Bench, expected: list[ChunkRef | None]) -> None:
    """What is deleted from the cache, by an eviction or by hand, is served as long as it is mapped."""
    async with mounted(bench) as first:
        await first.look()
    async with mounted(bench, NOTHING) as second:
        assert await second.look() == expected
        for path in entries(bench):
            path.unlink()
        assert await second.look() == expected
