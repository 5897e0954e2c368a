"""How many requests chunks cost, and how soon a reader has what it asked for."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes import FakeSource
from tests.io.test_chunks import Reader, ref
from vzfs.cache import MemoryCache
from vzfs.chunks.chunks import MAX_CONSUMED
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import ByteRange, ETag
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.source import Fetched, Pace, Sink, Urgency
from vzfs.source.fetcher import urgency_of

URL = "s3://b/data/x"
KIB, MIB = 2**10, 2**20
DATA = bytes(range(251)) * (9 * MIB // 251)


@pytest.fixture(name="source")
def _source() -> FakeSource:
    source = FakeSource()
    source.put(URL, DATA)
    return source


@pytest.fixture(name="reader")
async def _reader(source: FakeSource, nursery: trio.Nursery) -> Reader:
    reader = Reader(source, None)
    await nursery.start(reader.chunks.run)
    return reader


def ahead(reader: Reader, *refs: ChunkRef) -> list[int]:
    wanted = [(each, [ByteRange(0, each.length)], "") for each in refs]
    return [number for number, _ in reader.chunks.ahead(wanted)]


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


# -- large pieces ------------------------------------------------------------------------------


async def test_a_large_chunk_comes_in_parts_at_once(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """At 90 MB/s a connection a chunk of 8 MiB is asked for in parts of 1 MiB, all at the same time."""
    source.speed = Pace(0.02, 80e6)
    source.seconds = 1.0
    assert await reader.read(ref(100, 8 * MIB)) == DATA[100 : 100 + 8 * MIB]
    assert source.most_in_flight == len(source.fetched) == 8
    assert [f.length for f in source.fetched] == [MIB] * 8


async def test_a_reader_has_its_part_before_the_rest_has_come(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """The beginning of a chunk is handed out while its end is still on its way."""
    source.speed = Pace(0.02, 1e12)
    gate = source.hold(URL, after=256 * KIB)
    assert await reader.read(ref(0, 4 * MIB), 0, 128 * KIB) == DATA[: 128 * KIB]
    assert reader.chunks.peek(ref(0, 4 * MIB), 128 * KIB, 128 * KIB) == DATA[128 * KIB : 256 * KIB]
    assert reader.chunks.peek(ref(0, 4 * MIB), 256 * KIB, 1) is None
    gate.set()
    assert await reader.read(ref(0, 4 * MIB), 3 * MIB, MIB) == DATA[3 * MIB : 4 * MIB]
    assert len(source.fetched) == 1


async def test_parts_of_two_versions_do_not_meet(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """If an object is replaced between two parts of one chunk, the read fails."""
    source.speed = Pace(0.02, 80e6)
    versions = iter(['"old"', '"new"'] * 2)

    async def changing(
        wanted: object, pinned: str | None, *, sink: Sink, urgency: Urgency
    ) -> Fetched:
        version = next(versions)
        await trio.lowlevel.checkpoint()
        buffer = sink.begin(version)
        sink.came(len(buffer))
        return Fetched(buffer, version)

    source.fetch = changing
    for wanted in (ref(0, 2 * MIB), ChunkRef(ChunkKind.NATIVE, 2 * MIB, "chunks/A")):
        with pytest.raises(SourceError) as caught:
            await reader.read(wanted)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_one_part_that_fails_ends_the_others(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """A chunk whose part fails is not waited for any longer, and the next read asks anew."""
    source.speed = Pace(0.02, 80e6)
    gate = source.hold(URL)
    source.fail(URL, None, ErrorKind.SOURCE_VANISHED)

    async def let_go() -> None:
        await settle()
        gate.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        with pytest.raises(SourceError):
            await reader.read(ref(0, 4 * MIB))
    assert source.in_flight == 0
    await trio.sleep(1)
    assert await reader.read(ref(0, 4 * MIB)) == DATA[: 4 * MIB]


# -- ahead of readers --------------------------------------------------------------------------


async def test_neighbours_ahead_come_by_one_request(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """Adjacent chunks that are read ahead cost one request up to its limit, each its own memory entry."""
    wanted = [ref(i * 40 * KIB, 40 * KIB) for i in range(64)]
    assert ahead(reader, *wanted) == list(range(64))
    await settle()
    for each in wanted:
        assert reader.chunks.peek(each, 0, each.length) == DATA[each.offset :][: each.length]
    assert [(f.offset, f.length) for f in source.fetched] == [(0, 64 * 40 * KIB)]
    assert source.urgencies == [Urgency.AHEAD]
    assert ahead(reader, *wanted) == []

    source.speed = Pace(0.0, 1e9)
    ahead(reader, *(ref(5 * MIB + i * 60 * KIB, 60 * KIB) for i in range(-34, 34)))
    await settle()
    assert len(source.fetched) == 1 + 4


async def test_who_comes_for_what_is_read_ahead_hurries_its_request_alone(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """A request that was sent for ahead becomes urgent when somebody waits for a part of it; the others stay as they are."""
    source.speed = Pace(0.0, 1e9)
    gate = source.hold(URL)
    ahead(reader, *(ref(i * MIB, 40 * KIB) for i in range(3)))
    await settle()

    async def read() -> None:
        assert await reader.read(ref(MIB, 40 * KIB), 5, 9) == DATA[MIB + 5 :][:9]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await settle()
        now = {
            f.offset: urgency_of(p) for f, p in zip(source.fetched, source.pressing, strict=True)
        }
        gate.set()
    assert now == {0: Urgency.AHEAD, MIB: Urgency.DEMAND, 2 * MIB: Urgency.AHEAD}
    assert source.urgencies == [Urgency.AHEAD] * 3


async def test_order_gaps_and_overlaps_do_not_matter(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """Pieces ahead in any order, of overlapping or the same bytes, are each what their ref says."""
    wanted = [ref(200 * KIB, 30 * KIB), ref(0, 100 * KIB), ref(50 * KIB, 10 * KIB), ref(0, 100 * KIB), ref(101 * KIB, 99 * KIB)]  # fmt: skip
    assert ahead(reader, *wanted) == [0, 1, 2, 4]
    await settle()
    for each in wanted:
        assert reader.chunks.peek(each, 0, each.length) == DATA[each.offset :][: each.length]
    assert len(source.fetched) == 1
    assert reader.chunks.statistics().in_vain == KIB


async def test_a_reader_joins_what_is_on_its_way_ahead(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """Who asks for a chunk that is being read ahead waits for that request and makes none."""
    gate = source.hold(URL, after=80 * KIB)
    wanted = [ref(i * 40 * KIB, 40 * KIB) for i in range(3)]
    ahead(reader, *wanted)
    await settle()
    assert await reader.read(wanted[1]) == DATA[40 * KIB : 80 * KIB]
    gate.set()
    assert await reader.read(wanted[2]) == DATA[80 * KIB : 120 * KIB]
    assert len(source.fetched) == 1


async def test_a_reader_asks_alone_where_the_request_for_several_fails(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """One chunk beyond the end of its object does not cost its neighbours their read."""
    end = len(DATA)
    good, bad = ref(end - 20 * KIB, 20 * KIB), ref(end, 20 * KIB)
    ahead(reader, good, bad)
    assert await reader.read(good) == DATA[-20 * KIB :]
    with pytest.raises(SourceError) as caught:
        await reader.read(bad)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH


async def test_what_fails_ahead_fails_those_who_wait_for_it_at_once(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """A host that does not answer is not waited for twice by one read, nor remembered where nobody asked."""
    gate = source.hold(URL)
    source.fail(URL, ErrorKind.SOURCE_TIMEOUT)
    wanted = [ref(i * 40 * KIB, 40 * KIB) for i in range(3)]
    ahead(reader, *wanted)
    await settle()

    async def let_go() -> None:
        await settle()
        gate.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        with pytest.raises(SourceError):
            await reader.read(wanted[0])
    assert len(source.fetched) == 1
    assert await reader.read(wanted[1]) == DATA[40 * KIB : 80 * KIB]


async def test_nothing_that_is_not_allowed_is_read_ahead(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """Read-ahead asks policy as a read does, and is given up when a policy goes."""
    assert ahead(reader, ChunkRef(ChunkKind.VIRTUAL, 10, "s3://other/x")) == []
    gate = source.hold(URL)
    ahead(reader, ref(0, 10))
    await settle()
    assert source.in_flight == 1
    reader.chunks.adopt(reader.chunks._access.with_policies([]))
    await settle()
    assert source.in_flight == 0
    gate.set()
    with pytest.raises(AccessDenied):
        reader.chunks.peek(ref(0, 10), 0, 10)


async def test_an_object_without_a_version_is_pinned_by_what_is_read_ahead(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """Bytes that were got ahead of one version are not followed by bytes of another."""
    ahead(reader, ref(0, 10), ref(10, 10))
    await settle()
    source.put(URL, DATA[::-1])
    assert await reader.read(ref(0, 10)) == DATA[:10]
    with pytest.raises(SourceError) as caught:
        await reader.read(ref(1000, 10))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_the_wrong_version_ahead_is_an_error_for_who_reads(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """A ref whose etag is not the object's fails alike, read ahead or not."""
    wrong = ref(0, 10, ETag('"another"'))
    ahead(reader, wrong)
    await settle()
    with pytest.raises(SourceError) as caught:
        await reader.read(wrong)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


# -- who gives up ------------------------------------------------------------------------------


async def test_what_nobody_waits_for_any_more_is_given_up(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """When the last reader of a chunk on its way is gone, so is its request; while one waits, it stays."""
    source.hold(URL)
    scopes = [trio.CancelScope(), trio.CancelScope()]

    async def read(scope: trio.CancelScope) -> None:
        with scope:
            await reader.read(ref(0, 10))

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(read, scope)
        await settle()
        assert source.in_flight == 1
        scopes[0].cancel()
        await settle()
        assert source.in_flight == 1
        scopes[1].cancel()
        await settle()
        assert source.in_flight == 0
    assert reader.chunks.statistics().in_flight == 0


async def test_peeking_never_asks_anybody(
    source: FakeSource, reader: Reader, autojump_clock: MockClock
) -> None:
    """What is neither in memory nor has come is not there to peek at, and no request is made for it."""
    wanted = ref(0, 1000)
    assert reader.chunks.peek(wanted, 0, 10) is None
    assert source.fetched == []
    await reader.read(wanted, 0, 1)
    assert reader.chunks.peek(wanted, 990, 100) == DATA[990:1000]
    assert reader.chunks.peek(wanted, 1000, 100) == b""
    inline = ChunkRef(ChunkKind.INLINE, 3, inline=b"abc")
    assert reader.chunks.peek(inline, 1, 5) == b"bc"
    with pytest.raises(AccessDenied):
        reader.chunks.peek(ChunkRef(ChunkKind.VIRTUAL, 10, "s3://other/x"), 0, 1)


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_disk", [False, True])
async def test_few_large_chunks_stay_in_memory_after_they_were_read(
    source: FakeSource, nursery: trio.Nursery, tmp_path: Path, *, has_disk: bool
) -> None:
    """Large chunks that the disk cache has make way once read to their end; without one, memory is all there is."""
    big = bytes(20 * 8 * MIB)
    source.put(URL, big)
    source.speed = Pace(0.02, 1e12)
    reader = Reader(source, tmp_path if has_disk else None)
    reader.chunks._memory = MemoryCache(1024 * MIB)
    await nursery.start(reader.chunks.run)
    if reader.disk is not None:
        await nursery.start(reader.disk.run)
    for i in range(20):
        wanted = ref(i * 8 * MIB, 8 * MIB)
        await reader.read(wanted, 0, MIB)
        await reader.chunks.read(wanted, 7 * MIB, MIB)
        assert reader.chunks.peek(wanted, 7 * MIB, MIB) is not None
    held = reader.chunks._memory.statistics().bytes_held
    if has_disk:
        assert held <= MAX_CONSUMED + 10 * MIB
    else:
        assert held >= len(big)
