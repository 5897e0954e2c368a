"""Decoded chunks: decoded once, by processes that may die, for those who may read them."""

import contextlib
import gzip
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trio

from tests.conftest import ROOT
from tests.fakes import FakeSource
from tests.io.decodings import LITTLE, ZLIB, Form, form, plain, stored
from vzfs.access import Access, AccessPolicy, Relocation, StoreOptions
from vzfs.cache import Buffers, DiskCache, MemoryCache
from vzfs.chunks import Chunks
from vzfs.confined.confinement import offline
from vzfs.confined.process import ENVIRONMENT, HANDED_ON
from vzfs.decoding import decoder as decoder_module
from vzfs.decoding.decoder import Decoder
from vzfs.decoding.wire import MAX_NBYTES, MAX_SPEC, Outcome, Reply
from vzfs.decoding.workers import Worker
from vzfs.errors import AccessDenied, ErrorKind, FormatError, SourceError
from vzfs.model.location import Checksum, ETag, LastModified, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer

URL = "s3://b/data/x"
MIB = 2**20
VALUES = np.arange(1000.0)
CHUNK, FORM = stored(VALUES, [LITTLE, ZLIB])
PLAIN = plain(VALUES)
POLICY = AccessPolicy(parse_prefix("s3://b/data/"), StoreOptions())


def ref(
    chunk: bytes = CHUNK, *, url: str = URL, offset: int = 0, checksum: Checksum | None = None
) -> ChunkRef:
    return ChunkRef(ChunkKind.VIRTUAL, len(chunk), url, offset, checksum)


class Mount:
    """One mount's decoder over a source and perhaps a shared cache folder."""

    def __init__(
        self, source: FakeSource, folder: Path | None, memory: int = 64 * MIB, **options: float
    ) -> None:
        self.access = Access(
            parse_prefix("s3://repos/mine"),
            policies=[POLICY],
            containers=[VirtualChunkContainer("s3://b/data/")],
        )
        self.disk = None
        if folder is not None:
            self.disk = DiskCache(folder, max_bytes=2**30, limiter=trio.CapacityLimiter(4))
        self.memory, buffers = MemoryCache(memory), Buffers()
        self.chunks = Chunks(source, self.access, self.memory, self.disk, buffers)
        self.decoder = Decoder(self.chunks, self.memory, self.disk, buffers, **options)

    async def read(
        self, of: ChunkRef, how: Form = FORM, offset: int = 0, size: int = 2**40
    ) -> bytes:
        return bytes(await self.decoder.read(of, how, offset, size, near="a"))

    def peek(self, of: ChunkRef, how: Form = FORM) -> bytes | None:
        data = self.decoder.peek(of, how, 0, 2**40, near="a")
        return None if data is None else bytes(data)

    @property
    def processes(self) -> list[int]:
        return self.decoder._workers.processes

    def counts(self, *names: str) -> list[int]:
        statistics = self.decoder.statistics()
        return [getattr(statistics, name) for name in names]


@pytest.fixture(name="source")
def _source() -> FakeSource:
    source = FakeSource()
    source.put(URL, CHUNK)
    return source


@pytest.fixture(name="new_mount")
def _new_mount(source: FakeSource, nursery: trio.Nursery) -> Callable[..., object]:
    async def make(folder: Path | None = None, **options: float) -> Mount:
        mount = Mount(source, folder, **options)
        await nursery.start(mount.chunks.run)
        await nursery.start(mount.decoder.run)
        if mount.disk is not None:
            await nursery.start(mount.disk.run)
        return mount

    return make


@contextlib.asynccontextmanager
async def stopped(mount: Mount):
    """Have the only decoder process of *mount* stand still, so that what it is given is under way."""
    warm, how = stored(np.zeros(3), [LITTLE])
    await mount.read(ChunkRef(ChunkKind.INLINE, len(warm), inline=warm), how)
    [process] = mount.processes
    os.kill(process, signal.SIGSTOP)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


async def busy(mount: Mount) -> None:
    """Wait until a chunk was handed to a process."""
    with trio.fail_after(10):
        while not any(making.is_decoding for making in mount.decoder._making.values()):
            await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()


async def gone(process: int) -> None:
    """Wait until a process has ended; return at once if it has."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    with trio.fail_after(20):
        await trio.lowlevel.wait_readable(descriptor)
    os.close(descriptor)


# -- reading -----------------------------------------------------------------------------------


async def test_a_chunk_is_decoded_once(source: FakeSource, new_mount: Callable) -> None:
    """Readers of parts of one chunk, at the same time and later, cost one fetch and one decoding."""
    mount = await new_mount()
    found: dict[int, bytes] = {}

    async def read(offset: int) -> None:
        found[offset] = await mount.read(ref(), offset=offset, size=1000)

    async with trio.open_nursery() as readers:
        for offset in range(0, 9000, 1000):
            readers.start_soon(read, offset)
    assert b"".join(found[offset] for offset in sorted(found)) == PLAIN
    assert mount.peek(ref()) == await mount.read(ref()) == PLAIN

    assert len(source.fetched) == 1
    assert mount.counts("decoded", "failed", "restarted", "processes") == [1, 0, 0, 1]
    assert mount.counts("from_memory") == [2]
    assert mount.decoder.statistics().seconds > 0


async def test_every_kind_of_chunk_is_decoded(source: FakeSource, new_mount: Callable) -> None:
    """Virtual, native and inline chunks are decoded alike."""
    mount = await new_mount()
    source.put("s3://repos/mine/chunks/A", b"....." + CHUNK)

    assert await mount.read(ref()) == PLAIN
    assert await mount.read(ChunkRef(ChunkKind.NATIVE, len(CHUNK), "chunks/A", 5)) == PLAIN
    assert await mount.read(ChunkRef(ChunkKind.INLINE, len(CHUNK), inline=CHUNK)) == PLAIN


async def test_one_range_has_as_many_forms_as_arrays_decode_it(new_mount: Callable) -> None:
    """Chunks of two arrays that lie in the same bytes are decoded for each as it says."""
    mount = await new_mount()
    other = form([2000], "float32", [LITTLE, ZLIB])

    assert await mount.read(ref()) == PLAIN
    assert await mount.read(ref(), form([500], "complex128", [LITTLE, ZLIB], [0, 0])) == PLAIN
    assert await mount.read(ref(), other) == PLAIN
    assert mount.counts("decoded") == [3]


async def test_no_more_processes_than_allowed(source: FakeSource, new_mount: Callable) -> None:
    """Many chunks at the same time are decoded by as many processes as there may be, each in its turn."""
    mount = await new_mount(workers=1)
    chunks = [stored(np.full(50, n), [LITTLE]) for n in range(20)]
    source.put(URL, b"".join(chunk for chunk, _ in chunks))
    order: list[int] = []

    async def read(number: int) -> None:
        chunk, how = chunks[number]
        of = ref(chunk, offset=number * len(chunk))
        assert await mount.read(of, how) == plain(np.full(50, number))
        order.append(number)

    async with stopped(mount) as process, trio.open_nursery() as readers:
        for number in range(20):
            readers.start_soon(read, number)
            await trio.testing.wait_all_tasks_blocked()
        os.kill(process, signal.SIGCONT)

    assert order == list(range(20))
    assert mount.counts("decoded", "processes", "restarted") == [21, 1, 0]


async def test_what_is_under_way_is_bounded(
    source: FakeSource, new_mount: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that together are larger than what may be under way are not all fetched at the same time."""
    monkeypatch.setattr(decoder_module, "MAX_UNDER_WAY", 2 * (len(CHUNK) + len(PLAIN)))
    mount = await new_mount()
    source.put(URL, CHUNK * 6)
    gate = source.hold(URL)
    found = []

    async def read(number: int) -> None:
        found.append(await mount.read(ref(offset=number * len(CHUNK))))

    async with trio.open_nursery() as readers:
        for number in range(6):
            readers.start_soon(read, number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(source.fetched) == 2
        gate.set()

    assert found == [PLAIN] * 6


async def test_a_chunk_larger_than_the_memory_cache_is_decoded_once(new_mount: Callable) -> None:
    """A chunk that the memory cache does not hold is kept until its end was read."""
    mount = await new_mount(memory=1000)

    parts = [await mount.read(ref(), offset=offset, size=1000) for offset in range(0, 8000, 1000)]
    assert b"".join(parts) == PLAIN
    assert mount.counts("decoded") == [1]
    assert mount.peek(ref()) is None


async def test_a_chunk_of_which_a_part_was_read_is_let_go(new_mount: Callable) -> None:
    """A chunk that the memory cache does not hold is not kept for long for who has not read its end."""
    mount = await new_mount(memory=1000, idle=0)
    assert await mount.read(ref(), size=10) == PLAIN[:10]
    with trio.fail_after(10):
        while mount.peek(ref()) is not None:
            await trio.lowlevel.checkpoint()


async def test_large_chunks_are_decoded(source: FakeSource, new_mount: Callable) -> None:
    """Chunks of tens of MiB come whole, also after each other in one process, and with small ones between."""
    mount = await new_mount(workers=1)
    large = np.arange(9 * MIB, dtype="f8")
    chunk, how = stored(large, [LITTLE])
    source.put("s3://b/data/large", chunk + CHUNK)
    end = ref(url="s3://b/data/large", offset=len(chunk))

    assert await mount.read(ref(chunk, url="s3://b/data/large"), how) == chunk
    assert await mount.read(end) == PLAIN
    assert mount.counts("decoded", "restarted") == [2, 0]


# -- who may read ------------------------------------------------------------------------------


async def test_a_withdrawn_policy_counts_for_what_is_in_memory(
    new_mount: Callable, tmp_path: Path
) -> None:
    """What was decoded is not handed out once policy forbids the chunk, neither from memory nor from disk."""
    mount = await new_mount(tmp_path)
    assert await mount.read(ref()) == PLAIN

    mount.chunks.adopt(mount.access.with_policies([]))
    with pytest.raises(AccessDenied):
        await mount.read(ref())
    with pytest.raises(AccessDenied):
        mount.peek(ref())

    mount.chunks.adopt(mount.access)
    assert mount.peek(ref()) == PLAIN


async def test_a_policy_withdrawn_in_the_midst_counts(new_mount: Callable) -> None:
    """A reader for whom a chunk is being decoded when policy forbids it does not get it."""
    mount = await new_mount(workers=1)

    async def read() -> None:
        with pytest.raises(AccessDenied):
            await mount.read(ref())

    async with stopped(mount) as process, trio.open_nursery() as readers:
        readers.start_soon(read)
        await busy(mount)
        mount.chunks.adopt(mount.access.with_policies([]))
        os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize(
    "before", [stored(VALUES, [LITTLE, ZLIB])[0], b"no zlib"], ids=["decoded", "failed"]
)
async def test_a_chunk_that_moved_in_the_midst_is_read_where_it_is(
    before: bytes, source: FakeSource, new_mount: Callable
) -> None:
    """Where policy leads to another place while a chunk is decoded, the reader gets what is there."""
    mount = await new_mount(workers=1)
    chunk, how = stored(VALUES + 1, [LITTLE, ZLIB])
    source.put(URL, before.ljust(len(chunk), b"\0"))
    source.put("s3://copy/data/x", chunk)
    moved = Access(
        parse_prefix("s3://repos/mine"),
        policies=[AccessPolicy(parse_prefix("s3://copy/data/"), StoreOptions())],
        relocations=[Relocation(parse_prefix("s3://b/data/"), parse_prefix("s3://copy/data/"))],
        containers=[VirtualChunkContainer("s3://b/data/")],
    )
    found = []

    async def read() -> None:
        found.append(await mount.read(ref(chunk), how))

    async with stopped(mount) as process, trio.open_nursery() as readers:
        readers.start_soon(read)
        await busy(mount)
        mount.chunks.adopt(moved)
        os.kill(process, signal.SIGCONT)

    assert found == [plain(VALUES + 1)]


# -- giving up ---------------------------------------------------------------------------------


async def test_a_cancelled_reader_does_not_take_the_others_along(new_mount: Callable) -> None:
    """If one of two readers gives up in the midst of a decoding, the other gets the chunk."""
    mount = await new_mount(workers=1)
    found = []

    async def read() -> None:
        found.append(await mount.read(ref()))

    async with stopped(mount) as process, trio.open_nursery() as readers:
        with trio.CancelScope() as leading:
            async with trio.open_nursery() as first:
                first.start_soon(read)
                await busy(mount)
                readers.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                leading.cancel()
        os.kill(process, signal.SIGCONT)

    assert found == [PLAIN]
    assert mount.counts("decoded", "restarted") == [2, 0]


async def test_what_nobody_waits_for_is_finished_if_it_is_being_decoded(
    new_mount: Callable,
) -> None:
    """If all give up in the midst of a decoding, it is finished and kept."""
    mount = await new_mount(workers=1)

    async with stopped(mount) as process:
        async with trio.open_nursery() as readers:
            readers.start_soon(mount.read, ref())
            await busy(mount)
            readers.cancel_scope.cancel()
        os.kill(process, signal.SIGCONT)
        assert await mount.read(ref()) == PLAIN

    assert mount.counts("decoded", "restarted") == [2, 0]


async def test_what_nobody_waits_for_is_not_got(source: FakeSource, new_mount: Callable) -> None:
    """If all give up before a chunk has come, it is not decoded; who asks later gets it."""
    mount = await new_mount()
    gate = source.hold(URL)
    async with trio.open_nursery() as readers:
        readers.start_soon(mount.read, ref())
        await trio.testing.wait_all_tasks_blocked()
        readers.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert source.in_flight == 0
    assert not mount.decoder._making

    gate.set()
    assert await mount.read(ref()) == PLAIN
    assert mount.counts("decoded") == [1]


# -- what goes wrong ---------------------------------------------------------------------------


async def test_a_killed_process_fails_its_chunk_and_is_replaced(new_mount: Callable) -> None:
    """Who waits for a chunk whose process is killed is told what and where; the next chunk is decoded."""
    mount = await new_mount(workers=1)

    async def read() -> None:
        with pytest.raises(FormatError, match=r"died \(SIGKILL\) \[s3://b/data/x, bytes 0 to") as e:
            await mount.read(ref())
        assert e.value.kind is ErrorKind.NOT_DECODED

    async with stopped(mount) as process, trio.open_nursery() as readers:
        for _ in range(2):
            readers.start_soon(read)
        await busy(mount)
        os.kill(process, signal.SIGKILL)

    other, how = stored(VALUES[:500], [LITTLE])
    inline = ChunkRef(ChunkKind.INLINE, len(other), inline=other)
    assert await mount.read(inline, how) == other
    assert process not in mount.processes
    assert mount.counts("failed", "restarted", "processes") == [1, 1, 1]


async def test_a_process_that_died_in_its_sleep_is_replaced(new_mount: Callable) -> None:
    """A process that is killed while nobody uses it fails nobody."""
    mount = await new_mount(workers=1)
    async with stopped(mount) as process:
        os.kill(process, signal.SIGKILL)
        await gone(process)
        assert await mount.read(ref()) == PLAIN

    assert mount.counts("failed", "restarted") == [0, 1]


async def test_a_decoding_that_takes_too_long_is_ended(new_mount: Callable) -> None:
    """A process that is not done in time is killed, and its chunk fails."""
    mount = await new_mount(workers=1)
    async with stopped(mount) as process:
        mount.decoder._workers._deadline = 0.1
        with pytest.raises(FormatError, match=r"longer than 0\.1 seconds"):
            await mount.read(ref())

    await gone(process)
    assert mount.counts("failed", "restarted", "processes") == [1, 1, 0]


async def test_nobody_else_is_disturbed_by_a_bad_chunk(
    source: FakeSource, new_mount: Callable
) -> None:
    """While one chunk is not decoded in time, another process decodes others."""
    mount = await new_mount(workers=2)
    other, how = stored(VALUES[:500], [LITTLE])
    async with stopped(mount), trio.open_nursery() as readers:
        readers.start_soon(mount.read, ref())
        await busy(mount)
        inline = ChunkRef(ChunkKind.INLINE, len(other), inline=other)
        assert await mount.read(inline, how) == other
        readers.cancel_scope.cancel()


async def test_what_nobody_hears_of_is_logged(
    new_mount: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """If nobody waits any more for a chunk that fails, one line of the log names chunk and reason."""
    mount = await new_mount(workers=1)
    async with stopped(mount) as process:
        async with trio.open_nursery() as readers:
            readers.start_soon(mount.read, ref())
            await busy(mount)
            readers.cancel_scope.cancel()
        os.kill(process, signal.SIGKILL)
        with trio.fail_after(10):
            while mount.decoder._making:
                await trio.lowlevel.checkpoint()

    [record] = caplog.records
    assert "died (SIGKILL) [s3://b/data/x, bytes 0 to" in record.getMessage()


BOMB = gzip.compress(bytes(MIB)) * 2000
HOSTILE = {
    "bomb": (BOMB, form([2], "float64", [LITTLE, {"name": "gzip", "configuration": {"level": 5}}]), "more memory"),
    "wrong length": (CHUNK, FORM._replace(nbytes=len(PLAIN) + 1), "a chunk has 8000 bytes, not 8001"),
    "short": (CHUNK[:-20], FORM, "cannot be decoded: numcodecs.zlib: "),
    "no JSON": (CHUNK, FORM._replace(spec=b"{", digest="a"), "cannot be decoded: "),
    "no spec": (CHUNK, FORM._replace(spec=b"", digest="b"), "cannot be decoded: "),
    "deep": (CHUNK, FORM._replace(spec=b"[" * 60_000, digest="c"), "cannot be decoded: "),
    "large spec": (CHUNK, FORM._replace(spec=bytes(MAX_SPEC + 1), digest="d"), "is not decoded"),
    "large": (CHUNK, FORM._replace(nbytes=MAX_NBYTES + 1), "is not decoded"),
    "empty": (b"", form([2], "float64", [LITTLE, ZLIB]), "cannot be decoded: "),
    "huge shape": (CHUNK, form([2**62], "uint8", [LITTLE], nbytes=8000), "cannot be decoded: "),
    "words": (CHUNK, form([2], "\x1b[31m\nevil" * 1000, [LITTLE], nbytes=8000), "cannot be decoded: "),
}  # fmt: skip


async def test_a_hostile_chunk_is_an_error(source: FakeSource, new_mount: Callable) -> None:
    """Bombs, lies about lengths and specs without sense fail their chunk in one line, and no other."""
    mount = await new_mount(workers=1)
    for number, (which, (chunk, how, said)) in enumerate(HOSTILE.items()):
        url = f"s3://b/data/{number}"
        source.put(url, chunk + CHUNK)
        for _ in range(2):
            with pytest.raises(FormatError, match=said) as caught:
                await mount.read(ref(chunk, url=url), how)
            assert caught.value.kind is ErrorKind.NOT_DECODED, which
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 500
        assert await mount.read(ref(url=url, offset=len(chunk))) == PLAIN
        assert mount.counts("failed", "decoded") == [number + 1, number + 1]
    assert mount.counts("restarted") == [1]


async def test_a_failure_is_forgotten_after_a_while(
    new_mount: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that failed is decoded again when somebody asks later."""
    monkeypatch.setattr(decoder_module, "REMEMBER_FAILURE", 0)
    mount = await new_mount(workers=1)
    async with stopped(mount):
        mount.decoder._workers._deadline = 0.1
        with pytest.raises(FormatError):
            await mount.read(ref())

    mount.decoder._workers._deadline = 60
    assert await mount.read(ref()) == PLAIN


async def test_a_codec_that_is_not_there_is_named(new_mount: Callable) -> None:
    """A chunk whose codec no package has fails with the codec's name and the package to install."""
    mount = await new_mount()
    how = form([2], "float64", [LITTLE, {"name": "imagecodecs_apng", "configuration": {}}])

    with pytest.raises(FormatError, match=r"'imagecodecs_apng'.*: pip install 'imagecodecs'") as e:
        await mount.read(ref(), how)
    assert e.value.kind is ErrorKind.UNSUPPORTED_FORMAT


async def test_what_the_source_fails_is_told(source: FakeSource, new_mount: Callable) -> None:
    """An object that cannot be read fails as it does when its chunk is read as it is stored."""
    mount = await new_mount()
    source.delete(URL)

    with pytest.raises(SourceError) as caught:
        await mount.read(ref())
    assert caught.value.kind is ErrorKind.SOURCE_VANISHED


# -- the disk ----------------------------------------------------------------------------------

SMALL_AND_LARGE = [VALUES, np.random.default_rng(0).random(20 * 1024)]


@pytest.mark.parametrize("values", SMALL_AND_LARGE, ids=["small", "large"])
async def test_a_second_mount_decodes_nothing(
    values: np.ndarray, source: FakeSource, new_mount: Callable, tmp_path: Path
) -> None:
    """What one mount has decoded, another over the same cache reads, and fetches and starts nothing."""
    chunk, how = stored(values, [LITTLE, ZLIB])
    urls = [f"s3://b/data/{name}" for name in ("etag", "last-modified", "none")]
    for url in urls:
        source.put(url, chunk)
    source.put("s3://repos/mine/chunks/A", chunk)
    checksums = [ETag(source.seen(urls[0]).etag), LastModified(1_700_000_100), None]
    refs = [ref(chunk, url=url, checksum=c) for url, c in zip(urls, checksums, strict=True)]
    refs.append(ChunkRef(ChunkKind.NATIVE, len(chunk), "chunks/A"))
    refs.append(ChunkRef(ChunkKind.INLINE, len(chunk), inline=chunk))
    first = await new_mount(tmp_path)
    for of in refs:
        assert await first.read(of, how) == plain(values)
    with trio.fail_after(10):
        await first.disk.written()
    fetched = len(source.fetched)
    assert first.counts("decoded", "from_disk") == [5, 0]

    second = await new_mount(tmp_path)
    for of in refs:
        assert await second.read(of, how) == plain(values)
        assert await second.read(of, how) == plain(values)
    assert len(source.fetched) == fetched
    assert second.counts("decoded", "from_disk", "from_memory", "processes") == [0, 5, 5, 0]


async def test_what_the_system_has_in_memory_is_served_at_once(
    new_mount: Callable, tmp_path: Path
) -> None:
    """A decoded chunk whose version is known is peeked at in the disk cache."""
    mount = await new_mount(tmp_path)
    await mount.read(ref())
    for key in list(mount.memory._buffers):
        mount.memory.discard(key)

    assert mount.peek(ref()) == PLAIN
    assert mount.counts("decoded", "from_disk") == [1, 1]
    assert mount.peek(ref(checksum=LastModified(1_700_000_100))) is None


async def test_another_version_is_decoded_anew(
    source: FakeSource, new_mount: Callable, tmp_path: Path
) -> None:
    """What was made of one version of an object is not served for another."""
    how = form([1000], "float64", [LITTLE])
    source.put(URL, PLAIN)
    first = await new_mount(tmp_path)
    assert await first.read(ref(PLAIN), how) == PLAIN
    with trio.fail_after(10):
        await first.disk.written()
    source.put(URL, plain(VALUES + 1))

    second = await new_mount(tmp_path)
    assert await second.read(ref(PLAIN), how) == plain(VALUES + 1)
    assert await first.read(ref(PLAIN), how) == PLAIN
    assert second.counts("decoded", "from_disk") == [1, 0]


async def test_what_was_served_from_the_disk_stays_pinned(
    source: FakeSource, new_mount: Callable, tmp_path: Path
) -> None:
    """Once a chunk made of the version in the cache was handed out, no other version is read from the object."""
    source.put(URL, CHUNK * 2)
    dated = LastModified(1_700_000_100)
    first = await new_mount(tmp_path)
    assert await first.read(ref(checksum=dated)) == PLAIN
    with trio.fail_after(10):
        await first.disk.written()
    source.put(URL, CHUNK * 2)

    second = await new_mount(tmp_path)
    assert await second.read(ref(checksum=dated)) == PLAIN
    with pytest.raises(SourceError) as caught:
        await second.read(ref(offset=len(CHUNK), checksum=dated))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_other_codec_libraries_decode_anew(
    new_mount: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decoded by other versions of the libraries is not used."""
    first = await new_mount(tmp_path)
    assert await first.read(ref()) == PLAIN
    with trio.fail_after(10):
        await first.disk.written()
    now = decoder_module.installed()
    monkeypatch.setattr(decoder_module, "installed", lambda: now._replace(tag="other"))

    second = await new_mount(tmp_path)
    assert await second.read(ref()) == PLAIN
    assert second.counts("decoded", "from_disk") == [1, 0]


# -- processes ---------------------------------------------------------------------------------


async def test_processes_come_and_go_with_use(new_mount: Callable) -> None:
    """There is no process before the first chunk, nor after a time in which nobody used it; then another."""
    mount = await new_mount(idle=0)
    assert mount.counts("processes") == [0]
    assert await mount.read(ref()) == PLAIN
    with trio.fail_after(20):
        while mount.processes:
            await trio.lowlevel.checkpoint()
    other, how = stored(VALUES[:500], [LITTLE])
    assert await mount.read(ChunkRef(ChunkKind.INLINE, len(other), inline=other), how) == other
    assert mount.counts("restarted") == [0]


async def test_no_process_is_left_when_the_mount_ends(source: FakeSource) -> None:
    """When `run` is cancelled its processes have ended, the busy one too."""
    mount = Mount(source, None, workers=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(mount.chunks.run)
        await nursery.start(mount.decoder.run)
        async with stopped(mount):
            nursery.start_soon(mount.read, ref())
            await busy(mount)
            processes = mount.processes
            nursery.cancel_scope.cancel()

    assert len(processes) == 1
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert mount.processes == []


async def test_a_process_dies_with_its_daemon() -> None:
    """If the daemon is killed, a decoder process ends by itself."""
    program = (
        "import os, signal, trio\n"
        "from vzfs.decoding.workers import Worker\n"
        "async def main():\n"
        "    worker = await Worker.start()\n"
        "    print(worker.process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "trio.run(main)\n"
    )
    daemon = await trio.run_process(
        [sys.executable, "-c", program], check=False, capture_stdout=True
    )
    assert daemon.returncode == -signal.SIGKILL
    await gone(int(daemon.stdout))


async def test_a_process_is_confined(new_mount: Callable) -> None:
    """A decoder process has the files that it needs, no terminal, and limits."""
    mount = await new_mount()
    assert await mount.read(ref()) == PLAIN

    [process] = mount.processes
    limits = await trio.Path(f"/proc/{process}/limits").read_text()
    assert "Max core file size        0" in limits
    assert "Max file size             0" in limits
    assert "Max address space         unlimited" not in limits
    assert os.getsid(process) == process


async def test_a_process_that_cannot_start_says_why(
    new_mount: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the codecs cannot be imported in a decoder process, the error of the chunk says so."""
    without = [str(ROOT), *(entry for entry in sys.path if "site-packages" not in entry)]
    monkeypatch.setattr(sys, "path", without)
    mount = await new_mount()

    with pytest.raises(FormatError, match="no decoder could be started: ModuleNotFoundError"):
        await mount.read(ref())
    assert mount.counts("processes") == [0]


PLUGIN = """
import ctypes
import os
import pathlib
import socket
import tempfile

from zarr.abc.codec import BytesBytesCodec


class Plugin(BytesBytesCodec):
    def __init__(self, act="pass"):
        self.act = act

    @classmethod
    def from_dict(cls, data):
        return cls(**data.get("configuration", {}))

    def to_dict(self):
        return {"name": "vzfs-test", "configuration": {"act": self.act}}

    async def _decode_single(self, chunk, spec):
        getattr(self, self.act)()
        return chunk

    def compute_encoded_size(self, size, spec):
        return size

    def crash(self):
        ctypes.string_at(0)

    def leave(self):
        os._exit(7)

    def grow(self):
        held = []
        while True:
            held.append(bytearray(2**20))

    def call(self):
        socket.socket()

    def write(self):
        with tempfile.TemporaryFile(dir="/tmp") as file:
            file.write(b"x")
            file.flush()

    def see(self):
        raise ValueError(" ".join(sorted(os.environ)))
"""


@pytest.fixture(name="plugin")
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Form]:
    """Install a codec that does what its configuration says, and give the form of chunks with it."""
    folder = tmp_path / "site"
    about = folder / "vzfs_test-1.dist-info"
    about.mkdir(parents=True)
    (folder / "vzfs_test.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vzfs-test\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[zarr.codecs]\nvzfs-test = vzfs_test:Plugin\n")
    monkeypatch.syspath_prepend(folder)

    def with_act(act: str) -> Form:
        codec = {"name": "vzfs-test", "configuration": {"act": act}}
        return form([1000], "float64", [LITTLE, codec, ZLIB])

    return with_act


ACTS = {
    "crash": r"the process that decoded the chunk died \(SIGSEGV\)",
    "leave": r"the process that decoded the chunk died \(exit code 7\)",
    "grow": "more memory",
    "call": "vzfs-test: .*Operation not permitted",
    "write": "vzfs-test: .*File too large",
}


async def test_a_codec_does_no_harm(
    source: FakeSource, new_mount: Callable, plugin: Callable[[str], Form]
) -> None:
    """A codec that crashes, leaves, grows, opens a socket or writes a file fails its chunk alone.

    It is one that the daemon's import path has, and that can only be awaited.
    """
    assert offline(platform.machine())
    mount = await new_mount(workers=1)
    for act, said in ACTS.items():
        assert await mount.read(ref(), plugin("to_dict")) == PLAIN
        with pytest.raises(FormatError, match=said) as caught:
            await mount.read(ref(), plugin(act))
        assert caught.value.kind is ErrorKind.NOT_DECODED
    assert mount.counts("decoded", "failed", "restarted") == [1, 5, 3]


async def test_a_codec_sees_no_secrets(
    new_mount: Callable, plugin: Callable[[str], Form], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of a decoder process is made for it, and has nothing of the daemon's but paths."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    mount = await new_mount()

    with pytest.raises(FormatError, match="vzfs-test: ") as caught:
        await mount.read(ref(), plugin("see"))
    seen = caught.value.what.partition("vzfs-test: ")[2].split()
    assert {*seen} <= {*ENVIRONMENT, *HANDED_ON, "LC_CTYPE"}


LIES = {
    "nonsense": b"\xff\xff",
    "too short a result": Reply(Outcome.DONE).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_process_that_lies_is_not_believed(lie: str) -> None:
    """A reply that is none, a result that is too short, or silence is an error, and the process is not used again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    files = [os.memfd_create("a"), os.memfd_create("b")]

    async def wait() -> int:
        return 3

    process = SimpleNamespace(kill=lambda: None, wait=wait)
    worker = Worker(process, trio.socket.from_stdlib_socket(ours), *files)
    worker.is_sound = True
    into = memoryview(bytearray(8))

    async def answer() -> None:
        peer = trio.socket.from_stdlib_socket(theirs)
        await peer.recv(100)
        os.ftruncate(files[1], 4)
        if LIES[lie]:
            await peer.send(LIES[lie])
        peer.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(FormatError) as caught:
            await worker.decode(b"{}", b"chunk", into, 10)
    assert caught.value.kind is ErrorKind.NOT_DECODED
    assert not worker.is_sound
    await worker.end()
