"""Read-ahead: the next bytes are there before they are asked for, and nothing is got for who jumps."""

import contextlib
import dataclasses
import random
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy
from vzfs.cache import EntryKey, MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.chunks.ahead import LONGEST_STRIDE, UNREAD_AFTER
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import Array, VirtualChunkContainer
from vzfs.plan import BLOCK, SHARD_BLOCK
from vzfs.source import Pace, Urgency

KIB, MIB = 2**10, 2**20
FOLDER = "s3://b/data/"


class Refs:
    """The refs of one array whose chunks of *length* bytes lie one after another in objects of *each*."""

    def __init__(
        self, shape: tuple[int, ...], length: int, each: int = 2**40, index: str | None = None
    ) -> None:
        self.array = Array(path="/a", documents={}, id=b"%d" % id(self), grid=ChunkGrid(shape, length), key_encoding=ChunkKeyEncoding(), manifests=(), shard_index=index)  # fmt: skip
        self.length = length
        self.each = each
        self.loaded = True
        self.absent: set[tuple[int, ...]] = set()

    def is_loaded(self, prefix: tuple[int, ...]) -> bool:
        return self.loaded

    def find(self, coords: tuple[int, ...]) -> ChunkRef | None:
        if coords in self.absent:
            return None
        flat = self.array.grid.ravel(coords)
        url = f"{FOLDER}{self.array.id.decode()}-{flat // self.each}"
        return ChunkRef(ChunkKind.VIRTUAL, self.length, url, flat % self.each * self.length)


class Mount:
    """What a mount has between FUSE and its source, and readers that behave as the kernel does."""

    def __init__(
        self, memory: int = 64 * MIB, budget: int = 16 * MIB, disk: "Shelf | None" = None
    ) -> None:
        self.source = FakeSource(seconds=0.03)
        self.source.speed = Pace(0.03, 1e12)
        access = Access(parse_prefix("s3://r/r"), policies=[AccessPolicy(parse_prefix(FOLDER))], containers=[VirtualChunkContainer(FOLDER)])  # fmt: skip
        self.chunks = Chunks(self.source, access, MemoryCache(memory), disk)
        self.ahead = ReadAhead(self.chunks, budget)

    def store(self, refs: Refs) -> None:
        size = refs.array.grid.size
        for number in range(-(-size // refs.each)):
            data = bytes(refs.length * min(refs.each, size - number * refs.each))
            self.source.put(f"{FOLDER}{refs.array.id.decode()}-{number}", data)

    async def read(
        self, refs: Refs, coords: tuple[int, ...], offset: int = 0, size: int = 2**40
    ) -> None:
        ref = refs.find(coords)
        block = self.ahead.block(refs, coords, ref, offset)
        size = min(size, ref.length - offset)
        data = self.chunks.peek(ref, offset, size, block=block)
        self.ahead.follow(refs, coords, ref, offset, size, block)
        if data is None:
            self.ahead.was_awaited(refs)
            data = await self.chunks.read(ref, offset, size, block=block)
        assert len(data) == size

    async def scan(
        self, refs: Refs, order: Sequence[tuple[int, ...]], in_flight: int = 6, pause: float = 0.001
    ) -> float:
        """Read chunks in *order*, and return how long it took."""
        rest = iter(order)
        began = trio.current_time()

        async def work() -> None:
            for coords in rest:
                await self.read(refs, coords)
                await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(work)
        return trio.current_time() - began

    @property
    def demanded(self) -> int:
        return self.source.urgencies.count(Urgency.DEMAND)


@pytest.fixture(name="mount")
async def _mount(nursery: trio.Nursery) -> Mount:
    mount = Mount()
    await nursery.start(mount.chunks.run)
    return mount


def c_order(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    grid = ChunkGrid(shape)
    return [grid.unravel(i) for i in range(grid.size)]


# -- from chunk to chunk -----------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 6, 32])
async def test_a_scan_costs_few_requests_and_little_waiting(
    mount: Mount, in_flight: int, autojump_clock: MockClock
) -> None:
    """Of a thousand small chunks read in order nearly all are there when they are asked for."""
    refs = Refs((1000,), 40 * KIB)
    mount.store(refs)
    took = await mount.scan(refs, c_order((1000,)), in_flight)
    assert mount.demanded <= in_flight + 6
    assert len(mount.source.fetched) <= 60
    assert sum(f.length for f in mount.source.fetched) <= 1000 * refs.length * 1.02
    assert took <= 1000 * 0.001 / in_flight + 0.6


async def test_chunks_of_many_objects_are_read_ahead_too(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """A walk over chunks that lie in objects of their own costs one request each, many at a time."""
    refs = Refs((100, 1, 1), 600 * KIB, each=1)
    mount.store(refs)
    took = await mount.scan(refs, c_order((100, 1, 1)), 1, pause=0.005)
    assert len(mount.source.fetched) == 100
    assert took <= 100 * 0.005 + 10 * 0.03


async def test_strides_are_followed_and_what_lies_between_is_not_got(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Every tenth chunk costs one request, and is there in time."""
    refs = Refs((2000,), 40 * KIB)
    mount.store(refs)
    took = await mount.scan(refs, [(i,) for i in range(0, 2000, 10)])
    assert sum(f.length for f in mount.source.fetched) == 200 * refs.length
    assert took <= 0.4


async def test_who_reads_here_and_there_gets_what_it_asks_for(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Random access costs one request a chunk."""
    refs = Refs((4096,), 40 * KIB)
    mount.store(refs)
    order = [(i,) for i in random.Random(1).sample(range(4096), 400)]
    await mount.scan(refs, order)
    assert len(mount.source.fetched) == mount.demanded == 400


async def test_arrays_that_are_read_in_step_share_the_budget(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Four arrays read by turns are each read ahead, and together keep to the budget."""
    mount = Mount(budget=8 * MIB)
    await nursery.start(mount.chunks.run)
    arrays = [Refs((200,), 100 * KIB) for _ in range(4)]
    for refs in arrays:
        mount.store(refs)
    for i in range(200):
        for refs in arrays:
            await mount.read(refs, (i,))
            assert mount.ahead.statistics().unread <= 8 * MIB
    assert mount.demanded <= 4 * 8


async def test_one_variable_after_another_is_read_ahead_from_its_first_chunk(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Once an array was walked through, one of the same grid is taken to be, if it is begun at its beginning."""
    first, second, other = (Refs((31, 1, 1), 600 * KIB, each=1) for _ in range(3))
    for refs in (first, second, other):
        mount.store(refs)
    await mount.scan(first, c_order((31, 1, 1)))
    before = mount.demanded
    await mount.read(second, (0, 0, 0))
    assert mount.ahead.statistics().unread >= 6 * 600 * KIB
    await mount.scan(second, c_order((31, 1, 1))[1:])
    assert mount.demanded == before + 1
    sent = mount.ahead.statistics().sent
    await mount.read(other, (7, 0, 0))
    assert mount.ahead.statistics().sent == sent


async def test_what_nobody_reads_makes_way(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What was got for a reader who left is dropped when another needs the room, and not before."""
    mount = Mount(budget=2 * MIB)
    await nursery.start(mount.chunks.run)
    left, stays = Refs((1000,), 100 * KIB), Refs((1000,), 100 * KIB)
    mount.store(left)
    mount.store(stays)
    await mount.scan(left, c_order((40,)))
    unread = mount.ahead.statistics().unread
    assert unread > MIB
    await trio.sleep(UNREAD_AFTER)
    await mount.scan(stays, c_order((200,)))
    statistics = mount.ahead.statistics()
    assert statistics.dropped >= 5
    assert statistics.unread <= 2 * MIB
    assert statistics.read >= 150


async def test_read_ahead_ends_where_nothing_is_known(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Chunks that do not exist are passed over, and regions whose manifest is not loaded left alone."""
    refs = Refs((300,), 40 * KIB)
    mount.store(refs)
    refs.absent = {(i,) for i in range(300) if i % 3 == 1}
    await mount.scan(refs, [c for c in c_order((300,)) if c not in refs.absent], 2)
    assert len(mount.source.fetched) <= 220
    unknown = Refs((300,), 40 * KIB)
    mount.store(unknown)
    unknown.loaded = False
    before = len(mount.source.fetched)
    await mount.scan(unknown, c_order((50,)))
    assert len(mount.source.fetched) - before == 50


async def test_trouble_ahead_is_nobodys_until_it_is_read(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Objects that are missing fail the reads of their own chunks, once each, and no other read."""
    refs = Refs((60,), 40 * KIB, each=1)
    mount.store(refs)
    for i in range(20, 30):
        mount.source.delete(f"{FOLDER}{refs.array.id.decode()}-{i}")
    failed = []
    for coords in c_order((60,)):
        try:
            await mount.read(refs, coords)
        except SourceError as error:
            failed.append((coords[0], error.kind))
    assert failed == [(i, ErrorKind.SOURCE_VANISHED) for i in range(20, 30)]


# -- what the disk cache has -------------------------------------------------------------------


class NativeRefs(Refs):
    """Refs of chunks of the repository's own, an object each, whose version is known without asking."""

    def find(self, coords: tuple[int, ...]) -> ChunkRef | None:
        return ChunkRef(ChunkKind.NATIVE, self.length, f"chunks/{self.array.grid.ravel(coords)}")


class Shelf:
    """A disk cache that has everything *at hand* but some objects; *looks* counts what it was asked for."""

    def __init__(self, missing: Callable[[int], bool]) -> None:
        self.missing = missing
        self.looks = 0

    def holds(self, key: EntryKey, shelf: str) -> bool:
        self.looks += 1
        return not self.missing(int(key.location.rpartition("/")[2]))

    def peek(self, key: EntryKey, shelf: str) -> bytes | None:
        has = not self.missing(int(key.location.rpartition("/")[2]))
        return bytes(key.length) if has else None

    async def get(self, key: EntryKey, shelf: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.peek(key, shelf)

    def has_room(self, size: int) -> bool:
        return True

    async def wait_for_room(self, size: int) -> None:
        await trio.lowlevel.checkpoint()

    def expecting(self, size: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def store(self, key: EntryKey, data: bytes, *, shelf: str, record: str | None) -> bool:
        return False


async def scan_from(shelf: Shelf, nursery: trio.Nursery, order: Sequence[tuple[int, ...]]) -> Mount:
    """Read chunks in *order* in a mount whose disk cache is *shelf*."""
    mount = Mount(disk=shelf)
    await nursery.start(mount.chunks.run)
    refs = NativeRefs((1000,), 40 * KIB)
    for number in range(1000):
        mount.source.put(f"s3://r/r/chunks/{number}", bytes(refs.length))
    for coords in order:
        await mount.read(refs, coords)
    return mount


async def test_what_the_disk_cache_has_is_looked_at_in_samples(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who scans what the disk cache has costs it few looks at what comes next, and the source nothing."""
    shelf = Shelf(lambda number: False)
    mount = await scan_from(shelf, nursery, c_order((1000,)))
    assert mount.source.fetched == []
    assert shelf.looks < 100


@pytest.mark.parametrize(
    ("missing", "few"),
    [
        (lambda number: number >= 500, 4),
        (lambda number: number < 500, 10),
        (lambda number: number % 7 == 3, 20),
        (lambda number: number in range(333, 340), 7),
    ],
    ids=["the end", "the beginning", "here and there", "a few in the midst"],
)
async def test_what_the_disk_cache_lacks_is_got_ahead(
    missing: Callable[[int], bool], few: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What the disk cache has not is got ahead as without it, but for what a sample does not show at first."""
    mount = await scan_from(Shelf(missing), nursery, c_order((1000,)))
    assert len(mount.source.fetched) == sum(map(missing, range(1000)))
    assert mount.demanded <= few


# -- on through one chunk ----------------------------------------------------------------------


@pytest.mark.parametrize("first", [MIB, MIB - 48], ids=["aligned", "into a buffer of Python"])
async def test_reading_on_through_a_large_chunk_reaches_further_each_time(
    first: int, mount: Mount, autojump_clock: MockClock
) -> None:
    """What is read on through comes in fewer and fewer, larger requests, up to a bound, wherever reads end."""
    refs = Refs((1,), 100 * MIB, each=1)
    mount.store(refs)
    await mount.read(refs, (0,), 0, first)
    for offset in range(first, 100 * MIB, MIB):
        await mount.read(refs, (0,), offset, MIB)
        assert sum(f.length for f in mount.source.fetched) <= offset + MIB + LONGEST_STRIDE + BLOCK
    assert sum(f.length for f in mount.source.fetched) == 100 * MIB
    assert mount.demanded <= 3


async def test_a_jump_in_a_large_chunk_ends_reading_ahead(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Reads here and there in a large chunk cost the blocks that they touch."""
    refs = Refs((1,), 400 * MIB, each=1)
    mount.source.put(f"{FOLDER}{refs.array.id.decode()}-0", bytes(400 * MIB))
    for block in (50, 3, 90, 20, 70):
        await mount.read(refs, (0,), block * BLOCK + 5, 1000)
    assert sorted(f.offset for f in mount.source.fetched) == [
        b * BLOCK for b in (3, 20, 50, 70, 90)
    ]


async def test_of_a_shard_its_index_and_what_is_wanted_is_got(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Who looks into a shard's index first gets ranges of it, of a size with what it reads."""
    refs = Refs((10,), 12 * MIB, index="end")
    mount.store(refs)
    rng = random.Random(2)
    for i in range(10):
        await mount.read(refs, (i,), 12 * MIB - 20_000, 20_000)
        for _ in range(3):
            await mount.read(refs, (i,), rng.randrange(1, 40) * 300_000, 30_000)
    assert sum(f.length for f in mount.source.fetched) <= 10 * 4 * 2 * SHARD_BLOCK


async def test_a_shard_that_is_read_from_its_beginning_comes_whole(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Who reads a shard without its index wants all of it; with the index in front that is not known."""
    refs = Refs((10,), 12 * MIB, index="end")
    mount.store(refs)
    await mount.read(refs, (3,), 0, 128 * KIB)
    assert [f.length for f in mount.source.fetched][:1] == [12 * MIB]
    mount.source.fetched.clear()
    front = Refs((10,), 12 * MIB, index="start")
    mount.store(front)
    await mount.read(front, (3,), 0, 5000)
    await trio.testing.wait_all_tasks_blocked()
    assert sum(f.length for f in mount.source.fetched) <= 3 * SHARD_BLOCK


async def test_an_array_may_have_another_shape_in_another_snapshot(
    mount: Mount, autojump_clock: MockClock
) -> None:
    """Snapshots in which one array differs in its grid are read in turn, each ahead of its own reader."""
    several = [Refs((40,), 40 * KIB), Refs((60,), 40 * KIB), Refs((5, 8), 40 * KIB)]
    for refs in several:
        mount.store(refs)
    location = {id(refs): refs.array.id.decode() for refs in several}

    for refs in several:
        at = location[id(refs)]
        refs.array = dataclasses.replace(refs.array, id=b"one")

        def find(coords: tuple[int, ...], refs: Refs = refs, at: str = at) -> ChunkRef:
            flat = refs.array.grid.ravel(coords)
            url = f"{FOLDER}{at}-0"
            return ChunkRef(ChunkKind.VIRTUAL, refs.length, url, flat * refs.length)

        refs.find = find
    for i in range(40):
        for refs in several:
            await mount.read(refs, refs.array.grid.unravel(i))
            await trio.sleep(0.01)
    assert mount.demanded <= 30
