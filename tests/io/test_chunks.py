"""Reading chunks: one fetch, one version, no failure that looks like data."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy, AuthorizedRange, StoreOptions
from vzfs.cache import Buffers, DiskCache, EntryKey, MemoryCache, disk, unwritten
from vzfs.cache.writer import Writer
from vzfs.chunks import Chunks
from vzfs.chunks.chunks import REMEMBER_FAILURE
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import ByteRange, Checksum, ETag, LastModified, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer
from vzfs.plan import BLOCK, WHOLE_LIMIT, block_of
from vzfs.source import Fetched, Pace, Sink, Urgency

URL = "s3://b/data/x"
DATA = bytes(range(256)) * 4
MIB = 2**20


def ref(offset: int, length: int, checksum: Checksum | None = None) -> ChunkRef:
    return ChunkRef(ChunkKind.VIRTUAL, length, URL, offset, checksum)


class Reader:
    """One mount's chunks over a source and perhaps a shared cache folder."""

    def __init__(
        self, source: FakeSource, folder: Path | None, endpoint: str | None = None
    ) -> None:
        prefix = parse_prefix("s3://b/data/")
        access = Access(
            parse_prefix("s3://repos/mine"),
            policies=[AccessPolicy(prefix, StoreOptions(endpoint=endpoint))],
            containers=[VirtualChunkContainer("s3://b/data/")],
        )
        self.disk = None
        if folder is not None:
            self.disk = DiskCache(folder, max_bytes=2**30, limiter=trio.CapacityLimiter(4))
        self.chunks = Chunks(source, access, MemoryCache(64 * MIB), self.disk)

    async def read(self, wanted: ChunkRef, offset: int = 0, size: int = 2**40) -> bytes:
        return bytes(await self.chunks.read(wanted, offset, size, block=block_of(wanted.length)))

    async def written(self) -> None:
        """Wait until what was fetched is on disk."""
        with trio.fail_after(10):
            await self.disk.written()


@pytest.fixture(name="source")
def _source() -> FakeSource:
    source = FakeSource()
    source.put(URL, DATA)
    return source


@pytest.fixture(name="new_reader")
def _new_reader(source: FakeSource, nursery: trio.Nursery) -> Callable[..., object]:
    async def make(folder: Path | None = None, endpoint: str | None = None) -> Reader:
        reader = Reader(source, folder, endpoint)
        await nursery.start(reader.chunks.run)
        if reader.disk is not None:
            await nursery.start(reader.disk.run)
        return reader

    return make


CHECKSUMS = {
    "etag": lambda source: ETag(source.seen(URL).etag),
    "last-modified": lambda source: LastModified(1_700_000_100),
    "none": lambda source: None,
}


async def test_a_chunk_is_fetched_whole_once(source: FakeSource, new_reader: Callable) -> None:
    """Reading a chunk in small steps costs one fetch of exactly its bytes."""
    reader = await new_reader()
    steps = [await reader.read(ref(10, 100), offset, 30) for offset in range(0, 120, 30)]

    assert b"".join(steps) == DATA[10:110]
    assert [(f.offset, f.length) for f in source.fetched] == [(10, 100)]


async def test_memory_is_used_again_without_collecting_garbage(
    source: FakeSource, nursery: trio.Nursery
) -> None:
    """What nobody reads any more and no cache holds is held by nothing else, not even by a cycle."""

    class Counted(Buffers):
        def most(self) -> int:
            return len(self._kept)

    buffers, cached, count = Counted(), 4, 24
    source.put(URL, bytes(count * MIB))
    access = Access(
        parse_prefix("s3://repos/mine"),
        policies=[AccessPolicy(parse_prefix("s3://b/data/"), StoreOptions())],
        containers=[VirtualChunkContainer("s3://b/data/")],
    )
    chunks = Chunks(source, access, MemoryCache((cached + 1) * MIB), None, buffers)
    await nursery.start(chunks.run)
    gc.disable()
    try:
        for number in range(count):
            await chunks.read(ref(number * MIB, MIB), 0, MIB)
    finally:
        gc.enable()
    assert buffers.most() <= cached + 2


async def test_who_waits_for_a_chunk_does_not_wait_for_the_disk(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """What is read ahead waits for a slow disk only until somebody wants it."""
    reader = await new_reader(tmp_path)

    async def wait_for_room(size: int) -> None:
        await trio.sleep_forever()

    reader.disk.wait_for_room = wait_for_room
    reader.chunks.ahead([(ref(10, 100), [ByteRange(0, 100)], "")])
    await trio.testing.wait_all_tasks_blocked()
    assert source.fetched == []
    with trio.fail_after(10):
        assert await reader.read(ref(10, 100)) == DATA[10:110]
    assert len(source.fetched) == 1


async def test_what_is_read_ahead_waits_for_what_is_on_its_way_to_the_disk(
    source: FakeSource, new_reader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes under way are given their room on disk beforehand, so that nothing is got twice for want of it."""
    monkeypatch.setattr(unwritten, "MAX_UNWRITTEN", 4 * MIB)
    monkeypatch.setattr(disk, "MAX_DELAY", 3600)
    source.put(URL, bytes(100 * MIB))
    reader = await new_reader(tmp_path)
    checksum = ETag(source.seen(URL).etag)
    gate = source.hold(URL)
    several = [ref(n * 10 * MIB, MIB, checksum) for n in range(6)]
    reader.chunks.ahead([(each, [ByteRange(0, MIB)], "") for each in several])
    while reader.disk.statistics().misses < 6:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert len(source.fetched) == 2
    gate.set()
    with trio.fail_after(10):
        while reader.disk.statistics().writes < 6:
            await trio.lowlevel.checkpoint()
            await reader.disk.written()
    assert reader.disk.statistics().passed_over == 0


async def test_readers_of_one_chunk_share_its_fetch(
    source: FakeSource, new_reader: Callable
) -> None:
    """Ten tasks that want the same cold chunk cost one fetch."""
    reader = await new_reader()
    gate = source.hold(URL)
    found = []

    async def read() -> None:
        found.append(await reader.read(ref(0, 50)))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()

    assert found == [DATA[:50]] * 10
    assert len(source.fetched) == 1


async def test_a_cancelled_reader_does_not_take_the_others_along(
    source: FakeSource, new_reader: Callable
) -> None:
    """If the task that leads a fetch is cancelled, one that waits leads in its place."""
    reader = await new_reader()
    gate = source.hold(URL)
    found = []

    async def read() -> None:
        found.append(await reader.read(ref(0, 50)))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as leading:
            async with trio.open_nursery() as first:
                first.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                leading.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()

    assert found == [DATA[:50]]


@pytest.mark.parametrize("kind", CHECKSUMS)
async def test_a_second_mount_reads_from_the_shared_cache(
    kind: str, source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """What one mount fetched costs another none; without a checksum, one HEAD for each object."""
    wanted = [ref(0, 100, CHECKSUMS[kind](source)), ref(100, 100, CHECKSUMS[kind](source))]
    first = await new_reader(tmp_path)
    for each in wanted:
        await first.read(each)
    await first.written()
    second = await new_reader(tmp_path)

    assert [await second.read(each) for each in wanted] == [DATA[:100], DATA[100:200]]
    assert len(source.fetched) == 2
    assert source.statistics().heads == (1 if kind == "none" else 0)


@pytest.mark.parametrize("kind", CHECKSUMS)
async def test_bytes_of_two_versions_never_mix(
    kind: str, source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """After bytes of one version were served, another version fails the read, cached or not."""
    checksum = CHECKSUMS[kind](source)
    reader = await new_reader(tmp_path)
    await reader.read(ref(0, 100, checksum))
    source.put(URL, DATA[::-1])

    with pytest.raises(SourceError) as caught:
        await reader.read(ref(100, 100, checksum))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert await reader.read(ref(0, 100, checksum)) == DATA[:100]


async def test_a_new_mount_shows_the_new_version_where_the_ref_names_none(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """What an earlier mount cached of another version is not served by the next."""
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100))
    await first.written()
    source.put(URL, DATA[::-1])
    second = await new_reader(tmp_path)

    assert await second.read(ref(0, 100)) == DATA[::-1][:100]


async def test_a_version_remembered_by_the_cache_does_not_bind_before_it_is_served(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """An object replaced by one that is still old enough is readable in the next mount."""
    checksum = CHECKSUMS["last-modified"](source)
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100, checksum))
    await first.written()
    source.put(URL, DATA[::-1])
    second = await new_reader(tmp_path)

    assert await second.read(ref(100, 100, checksum)) == DATA[::-1][100:200]
    source.put(URL, DATA)
    with pytest.raises(SourceError):
        await second.read(ref(200, 100, checksum))


async def test_restoring_the_version_heals_the_read(
    source: FakeSource, new_reader: Callable, autojump_clock: trio.testing.MockClock
) -> None:
    """A failed read succeeds again when the object is what it was; nothing was remembered as absent."""
    reader = await new_reader()
    seen = source.seen(URL)
    await reader.read(ref(0, 100))
    source.delete(URL)
    with pytest.raises(SourceError) as caught:
        await reader.read(ref(100, 100))
    assert caught.value.kind is ErrorKind.SOURCE_VANISHED
    source.put(URL, DATA, etag=seen.etag)
    await trio.sleep(REMEMBER_FAILURE)

    assert await reader.read(ref(100, 100)) == DATA[100:200]


async def test_a_failure_is_remembered_for_an_instant(
    source: FakeSource, new_reader: Callable, autojump_clock: trio.testing.MockClock
) -> None:
    """The kernel's second question about a failed read costs no second request; a later one does."""
    reader = await new_reader()
    source.fail(URL, ErrorKind.SOURCE_UNREACHABLE, None)
    for _ in range(2):
        with pytest.raises(SourceError):
            await reader.read(ref(0, 100))
    assert len(source.fetched) == 1
    await trio.sleep(REMEMBER_FAILURE)

    assert await reader.read(ref(0, 100)) == DATA[:100]


async def test_what_is_not_allowed_is_never_fetched(
    source: FakeSource, new_reader: Callable
) -> None:
    """A refused location fails the read without a request."""
    reader = await new_reader()

    with pytest.raises(AccessDenied):
        await reader.read(ChunkRef(ChunkKind.VIRTUAL, 10, "s3://other/x"))
    assert source.fetched == []


async def test_inline_and_empty_chunks_cost_nothing(
    source: FakeSource, new_reader: Callable
) -> None:
    """A chunk in the manifest and a chunk of no bytes are answered without a request."""
    reader = await new_reader()

    assert await reader.read(ChunkRef(ChunkKind.INLINE, 3, inline=b"abc"), 1, 9) == b"bc"
    assert await reader.read(ref(0, 0)) == b""
    assert await reader.read(ref(0, 10), 10, 5) == b""
    assert source.fetched == []


async def test_a_large_chunk_is_fetched_in_blocks(source: FakeSource, new_reader: Callable) -> None:
    """Of a chunk over the limit only the blocks that a read touches are fetched, each once."""
    large = bytes(WHOLE_LIMIT // 2) + bytes([7]) * (WHOLE_LIMIT // 2) + b"end"
    source.put(URL, large)
    source.speed = Pace(0.0, 1e12)
    reader = await new_reader()
    wanted = ref(0, len(large))

    assert await reader.read(wanted, len(large) - 3, 100) == b"end"
    assert await reader.read(wanted, BLOCK - 2, 4) == large[BLOCK - 2 : BLOCK + 2]
    assert await reader.read(wanted, 0, 10) == large[:10]
    assert sorted(f.offset for f in source.fetched) == [0, BLOCK, len(large) - len(large) % BLOCK]


async def test_a_read_across_blocks_waits_once(
    source: FakeSource, new_reader: Callable, autojump_clock: trio.testing.MockClock
) -> None:
    """What a read needs of several blocks is sent for at the same time: small ones by one request, large ones by one each."""
    shard = bytes(range(256)) * 40_000
    source.put(URL, shard)
    source.seconds = 1.0
    source.speed = Pace(0.03, 90e6)
    reader = await new_reader()
    small = 2**18
    begin = trio.current_time()
    found = await reader.chunks.read(ref(0, len(shard)), small - 5, 10, block=small)
    assert bytes(found) == shard[small - 5 : small + 5]
    assert [f.length for f in source.fetched] == [2 * small]
    assert trio.current_time() - begin < 1.5
    begin = trio.current_time()
    await reader.chunks.read(ref(0, len(shard)), BLOCK - 5, 10, block=BLOCK)
    assert trio.current_time() - begin < 1.5


async def test_asking_whether_a_chunk_is_cached_costs_no_request(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """Provenance never touches a source, and tells what is cached from what is not."""
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100))
    await first.written()
    second = await new_reader(tmp_path)
    before = len(source.fetched), source.statistics().heads

    assert await first.chunks.is_cached(ref(0, 100))
    assert await second.chunks.is_cached(ref(0, 100))
    assert not await second.chunks.is_cached(ref(100, 100))
    assert (len(source.fetched), source.statistics().heads) == before


async def test_native_chunks_need_no_version(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """A chunk file of the repository never changes: it is fetched once for all mounts, without a HEAD."""
    source.put("s3://repos/mine/chunks/A", DATA)
    native = ChunkRef(ChunkKind.NATIVE, 20, "chunks/A", 5)
    first = await new_reader(tmp_path)
    await first.read(native)
    await first.written()
    second = await new_reader(tmp_path)

    assert await second.read(native) == DATA[5:25]
    assert (len(source.fetched), source.statistics().heads) == (1, 0)


async def test_giving_up_a_remembered_version_does_not_give_up_a_newer_one(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """A task that finds the cache's version outdated does not undo what another pinned meanwhile."""
    checksum = CHECKSUMS["last-modified"](source)
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100, checksum))
    await first.written()
    second = await new_reader(tmp_path)
    source.put(URL, DATA[::-1])
    gate = source.hold(URL)
    outcomes: list[bytes | SourceError] = []

    async def read(offset: int) -> None:
        try:
            outcomes.append(await second.read(ref(offset, 100, checksum)))
        except SourceError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, 100)
        nursery.start_soon(read, 200)
        await wait_until_held(source, 2)
        gate.set()
    assert sorted(outcomes, key=str) == sorted([DATA[::-1][100:200], DATA[::-1][200:300]], key=str)

    source.put(URL, DATA)
    await read(300)
    assert isinstance(outcomes[-1], SourceError)
    assert await second.read(ref(100, 100, checksum)) == DATA[::-1][100:200]


async def wait_until_held(source: FakeSource, count: int) -> None:
    with trio.fail_after(10):
        while source.in_flight < count:  # noqa: ASYNC110 -- threads of the cache come before
            await trio.sleep(0.001)


async def test_what_is_not_yet_on_disk_is_served_from_memory(
    source: FakeSource, new_reader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that the memory cache let go before it was written is not fetched again."""
    reader = await new_reader(tmp_path)
    reader.chunks._memory = MemoryCache(0)
    blocked = trio.Event()
    put = Writer.write

    async def slow(self: Writer, *args: object) -> None:
        await blocked.wait()
        await put(self, *args)

    monkeypatch.setattr(Writer, "write", slow)
    for _ in range(3):
        assert await reader.read(ref(0, 100)) == DATA[:100]
    assert len(source.fetched) == 1
    blocked.set()
    await reader.written()
    assert await reader.read(ref(0, 100)) == DATA[:100]
    assert len(source.fetched) == 1


async def test_a_cache_that_raises_ends_nothing(
    source: FakeSource,
    new_reader: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even a bug in the disk cache costs no read and does not end what serves the others."""
    reader = await new_reader(tmp_path)

    async def fail(self: Writer, *args: object) -> None:
        raise OverflowError

    monkeypatch.setattr(Writer, "write", fail)
    assert await reader.read(ref(0, 100)) == DATA[:100]
    await reader.written()
    assert await reader.read(ref(100, 100)) == DATA[100:200]
    await reader.written()
    assert "a chunk was not cached" in caplog.text


async def test_two_first_fetches_of_two_versions_are_not_both_served(
    source: FakeSource, new_reader: Callable
) -> None:
    """If an object is replaced while its first chunks are fetched, one version is served and no other."""
    reader = await new_reader()
    versions = iter(['"old"', '"new"'])

    async def racing(
        wanted: AuthorizedRange, pinned: str | None, *, sink: Sink, urgency: Urgency
    ) -> Fetched:
        version = next(versions)
        await both.arrive()
        buffer = sink.begin(version)
        sink.came(len(buffer))
        return Fetched(buffer, version)

    both = Meeting(2)
    source.fetch = racing
    outcomes: list[bytes | SourceError] = []

    async def read(offset: int) -> None:
        try:
            outcomes.append(await reader.read(ref(offset, 100)))
        except SourceError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, 0)
        nursery.start_soon(read, 100)
    assert sorted(isinstance(o, SourceError) for o in outcomes) == [False, True]


class Meeting:
    """Where tasks wait until all are there."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._complete = trio.Event()

    async def arrive(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


async def test_a_version_served_from_the_cache_binds_the_mount(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """After cached bytes of an earlier version were served, bytes of another are not."""
    checksum = CHECKSUMS["last-modified"](source)
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100, checksum))
    await first.written()
    source.put(URL, DATA[::-1])
    second = await new_reader(tmp_path)

    assert await second.read(ref(0, 100, checksum)) == DATA[:100]
    with pytest.raises(SourceError) as caught:
        await second.read(ref(100, 100, checksum))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_what_one_date_verified_says_nothing_to_another(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """Cached bytes are served to refs with the same last-modified date only, without asking the source."""
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100, LastModified(1_700_000_100)))
    await first.written()
    second = await new_reader(tmp_path)

    with pytest.raises(SourceError):
        await second.read(ref(0, 100, LastModified(1_600_000_000)))


async def test_one_name_at_two_endpoints_is_two_objects(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """What was cached of a bucket at one endpoint is not served for the bucket of that name at another."""
    for checksum in (LastModified(1_700_000_100), ETag(source.seen(URL).etag)):
        source.fetched.clear()
        for endpoint in (None, "https://one.example", "https://two.example"):
            reader = await new_reader(tmp_path, endpoint)
            await reader.read(ref(0, 100, checksum))
            await reader.written()

        assert len(source.fetched) == 3


async def test_a_disk_that_lags_behind_is_waited_for_and_then_passed_over(
    source: FakeSource,
    new_reader: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for the disk is bounded; a fetch waits a moment for room, and is served uncached if there is none."""
    monkeypatch.setattr(unwritten, "MAX_UNWRITTEN", 150)
    monkeypatch.setattr(disk, "MAX_DELAY", 0.01)
    reader = await new_reader(tmp_path)
    blocked = trio.Event()
    put = Writer.write

    async def slow(self: Writer, *args: object) -> None:
        await blocked.wait()
        await put(self, *args)

    monkeypatch.setattr(Writer, "write", slow)
    for offset in (0, 100, 200):
        assert await reader.read(ref(offset, 100)) == DATA[offset : offset + 100]
    assert reader.disk.statistics().unwritten == 100 + unwritten._OF_A_RECORD
    blocked.set()
    await reader.written()
    assert reader.disk.statistics().writes == 1


async def test_a_version_that_a_server_confirmed_binds_before_it_is_served(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """Once this mount's HEAD has found the cached version current, no other is fetched beside it."""
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100))
    await first.written()
    second = await new_reader(tmp_path)
    ask = source.version

    async def replaced_behind_it(wanted: AuthorizedRange) -> str:
        version = await ask(wanted)
        source.put(URL, DATA[::-1])
        return version

    source.version = replaced_behind_it
    with pytest.raises(SourceError) as caught:
        await second.read(ref(100, 100))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert await second.read(ref(0, 100)) == DATA[:100]


async def test_what_came_from_the_cache_too_late_is_not_served(
    source: FakeSource, new_reader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached bytes of a version that another task gave up meanwhile are not mixed with the new one."""
    checksum = CHECKSUMS["last-modified"](source)
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100, checksum))
    await first.written()
    second = await new_reader(tmp_path)
    source.put(URL, DATA[::-1])
    get, found, go_on = DiskCache.get, trio.Event(), trio.Event()

    async def late(self: DiskCache, key: EntryKey, shelf: str = "") -> bytes | None:
        data = await get(self, key, shelf)
        if key.offset == 0:
            found.set()
            await go_on.wait()
        return data

    monkeypatch.setattr(DiskCache, "get", late)
    served: list[bytes] = []

    async def read() -> None:
        served.append(await second.read(ref(0, 100, checksum)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await found.wait()
        assert await second.read(ref(100, 100, checksum)) == DATA[::-1][100:200]
        go_on.set()
    assert served == [DATA[::-1][:100]]


# -- other rules, and sources that are away ----------------------------------------------------


def other_rules(reader: Reader, *policies: AccessPolicy) -> None:
    reader.chunks.adopt(reader.chunks._access.with_policies(policies))


async def test_a_withdrawn_policy_closes_every_cache(
    source: FakeSource, new_reader: Callable, tmp_path: Path
) -> None:
    """What is in memory and on disk is refused as soon as no policy allows it, and given again when one does."""
    reader = await new_reader(tmp_path)
    await reader.read(ref(0, 100))
    await reader.written()
    allowed = reader.chunks._access
    other_rules(reader)
    with pytest.raises(AccessDenied):
        await reader.read(ref(0, 100))
    reader.chunks.adopt(allowed)

    assert await reader.read(ref(0, 100)) == DATA[:100]
    assert len(source.fetched) == 1


@pytest.mark.parametrize("is_arrived", [False, True])
async def test_bytes_under_way_when_a_policy_goes_are_not_handed_out(
    is_arrived: bool, source: FakeSource, new_reader: Callable
) -> None:
    """A read that began under a policy fails if the policy goes, though its bytes may just have come."""
    reader = await new_reader()
    gate = source.hold(URL)
    outcomes: list[object] = []

    async def read() -> None:
        try:
            outcomes.append(await reader.read(ref(0, 100)))
        except AccessDenied as error:
            outcomes.append(error.kind)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            if is_arrived:
                gate.set()
            other_rules(reader)
    assert outcomes == [ErrorKind.NOT_ALLOWED] * 2
    assert len(reader.chunks._reading) == 0


async def test_a_policy_that_says_another_endpoint_means_another_object(
    source: FakeSource, new_reader: Callable
) -> None:
    """When a policy sends the same location elsewhere, nothing of the old place is served."""
    reader = await new_reader()
    await reader.read(ref(0, 100))
    prefix = parse_prefix("s3://b/data/")
    other_rules(reader, AccessPolicy(prefix, StoreOptions(endpoint="http://elsewhere")))
    source.put(URL, DATA[::-1])

    assert await reader.read(ref(0, 100)) == DATA[::-1][:100]


async def away(wanted: AuthorizedRange, *args: object, **kwargs: object) -> Fetched:
    raise SourceError(ErrorKind.SOURCE_UNREACHABLE, "away", where=str(wanted.location))


async def test_the_version_last_verified_is_served_while_its_source_is_away(
    source: FakeSource,
    new_reader: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cached bytes of a ref without checksum are given, with one warning; for others the source is asked once."""
    other = ChunkRef(ChunkKind.VIRTUAL, 10, URL + "-too")
    source.put(other.location, DATA)
    first = await new_reader(tmp_path)
    for each in (ref(0, 100), ref(100, 100), other):
        await first.read(each)
    await first.written()
    second = await new_reader(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(source, "version", away)
        patched.setattr(source, "fetch", away)
        assert await second.read(ref(0, 100)) == DATA[:100]
        assert await second.read(ref(100, 100)) == DATA[100:200]
        assert await second.read(other) == DATA[:10]
        with pytest.raises(SourceError) as caught:
            await second.read(ref(200, 100))
    assert caught.value.kind is ErrorKind.SOURCE_UNREACHABLE
    assert caplog.text.count("versions last verified are served") == 1


async def test_a_version_taken_from_the_cache_while_away_counts_until_the_source_speaks(
    source: FakeSource, new_reader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its source is back, an object of which nothing was served yet is read as it is now."""
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100))
    await first.written()
    source.put(URL, DATA[::-1])
    for serve_first in (True, False):
        second = await new_reader(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(source, "version", away)
            patched.setattr(source, "fetch", away)
            if serve_first:
                assert await second.read(ref(0, 100)) == DATA[:100]
            else:
                with pytest.raises(SourceError):
                    await second.read(ref(200, 100))
        if serve_first:
            with pytest.raises(SourceError) as caught:
                await second.read(ref(100, 100))
            assert caught.value.kind is ErrorKind.SOURCE_CHANGED
        else:
            assert await second.read(ref(100, 100)) == DATA[::-1][100:200]


async def test_a_source_that_is_away_is_waited_for_once_in_a_read(
    source: FakeSource, new_reader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read whose bytes are not cached does not wait for the version, and then for the bytes."""
    first = await new_reader(tmp_path)
    await first.read(ref(0, 100))
    await first.written()
    second = await new_reader(tmp_path)
    before = len(source.fetched)
    monkeypatch.setattr(source, "version", away)
    with pytest.raises(SourceError):
        await second.read(ref(200, 100))
    assert len(source.fetched) == before
