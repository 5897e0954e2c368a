"""Writing behind readers' backs: bounded, together, and in nobody's way."""

import os
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.io.cachebench import DATA, KEY, Bench, content, key
from vzfs.cache import DiskCache, disk, unwritten, writer
from vzfs.cache.segment import SMALL

SHELF = "a shelf"


async def test_what_is_stored_is_served_before_it_is_written(bench: Bench) -> None:
    """What is stored is there at once, on disk after `written`, and counted as unwritten in between."""
    cache = bench.cache()
    large = key(1, SMALL + 1)
    assert cache.store(KEY, DATA, shelf=SHELF)
    assert cache.store(large, content(large), shelf=SHELF)
    assert not bench.folder.exists()
    assert cache.statistics().unwritten == KEY.length + large.length
    for of, data in ((KEY, DATA), (large, content(large))):
        assert cache.peek(of, SHELF) == data
        assert await cache.get(of, SHELF) == data
        assert await cache.has(of, SHELF)
    await cache.written()
    assert cache.statistics().unwritten == 0
    assert cache.statistics().writes == 2
    assert await bench.cache().get(KEY, SHELF) == DATA
    assert await bench.cache().get(large, SHELF) == content(large)


@pytest.mark.parametrize("length", [12, SMALL + 1])
async def test_a_writable_buffer_may_change_after_it_was_stored(bench: Bench, length: int) -> None:
    """What is written is what the buffer held when it was stored."""
    cache = bench.cache()
    of = key(1, length)
    buffer = bytearray(content(of))
    assert cache.store(of, memoryview(buffer), shelf=SHELF)
    buffer[:] = bytes(length)
    assert cache.peek(of, SHELF) == content(of)
    await cache.written()
    assert await bench.cache().get(of, SHELF) == content(of)


async def test_what_cannot_be_an_entry_is_not_taken(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """Data of another length than the key's, and entries beyond the limit, are refused."""
    cache = bench.cache(max_bytes=1000)
    assert not cache.store(key(1, 1001), bytes(1001), shelf=SHELF)
    assert told() == []
    assert not cache.store(key(1, 10), bytes(11), shelf=SHELF)
    assert len(told()) == 1
    assert cache.statistics().unwritten == 0


async def test_little_waits_for_more(
    bench: Bench, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running cache waits a moment before it writes a little, and for nothing once it is much."""
    monkeypatch.setattr(writer, "LINGER", 3600)
    monkeypatch.setattr(writer, "ENOUGH", 30_000)
    cache = bench.cache()
    await nursery.start(cache.run)
    for number in range(9):
        cache.store(key(number, 3000), content(key(number, 3000)), shelf=SHELF)
        await trio.testing.wait_all_tasks_blocked()
    assert bench.segments() == []
    cache.store(key(9, 3000), content(key(9, 3000)), shelf=SHELF)
    with trio.fail_after(20):
        while cache.statistics().unwritten:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(bench.segments()) == 1
    assert cache.statistics().writes == 10


async def test_a_moment_passes(
    bench: Bench, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nothing else joins is written after a moment."""
    monkeypatch.setattr(writer, "LINGER", 0.001)
    cache = bench.cache()
    await nursery.start(cache.run)
    cache.store(KEY, DATA, shelf=SHELF)
    with trio.fail_after(20):
        while cache.statistics().unwritten:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(bench.segments()) == 1


async def test_each_shelf_gets_a_file_of_its_own(bench: Bench) -> None:
    """What is written at one time makes one file for each shelf, and several where one would be too large."""
    cache = bench.cache(max_bytes=32 * 40_000)
    for number in range(30):
        of = key(number, 3000)
        cache.store(of, content(of), shelf=f"shelf {number % 2}")
    await cache.written()
    sizes = [path.stat().st_size for path in bench.segments()]
    assert len(sizes) == 4
    assert max(sizes) <= 45_000
    for number in range(30):
        of = key(number, 3000)
        assert await bench.cache().get(of, f"shelf {number % 2}") == content(of)


async def test_what_waits_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nothing is taken; who waits for room waits for a moment, or until there is some."""
    monkeypatch.setattr(unwritten, "MAX_UNWRITTEN", 10_000)
    monkeypatch.setattr(disk, "MAX_DELAY", 0.001)
    cache = bench.cache()
    taken = [
        cache.store(key(number, 3000), content(key(number, 3000)), shelf=SHELF)
        for number in range(5)
    ]
    assert taken == [True, True, True, False, False]
    assert cache.statistics().passed_over == 2
    await cache.wait_for_room(3000)
    assert not cache.store(key(4, 3000), content(key(4, 3000)), shelf=SHELF)
    monkeypatch.setattr(disk, "MAX_DELAY", 3600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.wait_for_room, 3000)
        await trio.testing.wait_all_tasks_blocked()
        await cache.written()
    assert cache.store(key(4, 3000), content(key(4, 3000)), shelf=SHELF)
    assert cache.store(key(4, 3000), content(key(4, 3000)), shelf=SHELF)
    assert cache.statistics().unwritten == 3000


async def test_who_can_wait_leaves_room_for_who_cannot(
    bench: Bench, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way counts as if it were here, and a third of the room is for what nobody can delay."""
    monkeypatch.setattr(unwritten, "MAX_UNWRITTEN", 12_000)
    monkeypatch.setattr(disk, "MAX_DELAY", 3600)
    cache = bench.cache()
    has_room = trio.Event()

    async def wait() -> None:
        await cache.wait_for_room(3000)
        has_room.set()

    with cache.expecting(3000):
        assert cache.has_room(5000)
        assert not cache.has_room(5001)
        with cache.expecting(3000):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not has_room.is_set()
        with trio.fail_after(10):
            await has_room.wait()
        taken = [cache.store(key(n, 3000), content(key(n, 3000)), shelf=SHELF) for n in range(5)]
        assert taken == [True, True, True, True, False]
        assert not cache.has_room(0)
    await cache.written()
    assert cache.has_room(8000)


async def test_an_entry_larger_than_the_bound_is_taken_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing waits there is room for anything, so that nothing is too large for ever."""
    monkeypatch.setattr(unwritten, "MAX_UNWRITTEN", 100)
    cache = bench.cache()
    await cache.wait_for_room(3000)
    assert cache.store(key(1, 3000), content(key(1, 3000)), shelf=SHELF)
    await cache.written()
    assert await cache.get(key(1, 3000), SHELF) == content(key(1, 3000))


async def test_a_disk_that_takes_nothing_delays_no_read(
    bench: Bench, nursery: trio.Nursery, break_os: Callable[..., None]
) -> None:
    """While every thread that writes hangs, entries are read, at once or in threads, and stored for later."""
    small, large = key(1, 3000), key(2, SMALL + 1)
    for of in (small, large):
        await bench.cache().put(of, content(of), SHELF)
    goes_on, hanging = threading.Event(), []

    def writev(fd: int, parts: list[memoryview]) -> int:
        hanging.append(fd)
        goes_on.wait(60)
        return os.writev(fd, parts)

    break_os(writev=writev)
    cache = bench.cache()
    await nursery.start(cache.run)
    try:
        for number in range(10, 20):
            of = key(number, SMALL + 1)
            assert cache.store(of, content(of))
        with trio.fail_after(20):
            while len(hanging) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            for _ in range(3):
                for of in (small, large):
                    assert await cache.get(of, SHELF) == content(of)
                assert cache.peek(small, SHELF) == content(small)
                assert await cache.last_version("s3://b/k") is None
            assert cache.peek(key(19, SMALL + 1)) == content(key(19, SMALL + 1))
        assert cache.statistics().unwritten == 10 * (SMALL + 1)
        assert len(hanging) == 2
    finally:
        goes_on.set()
    await cache.written()
    assert cache.statistics().writes == 10


async def test_versions_are_written_with_their_chunks(bench: Bench) -> None:
    """The versions of many objects, stored with their first chunks, are there at once and cost few files."""
    cache = bench.cache()
    for number in range(500):
        of = key(number)
        record = f"s3://bucket/folder/{number}"
        assert cache.store(of, content(of), shelf=SHELF, record=record)
        assert await cache.last_version(record) == of.version
    await cache.written()
    assert len(bench.records()) == 1
    later = bench.cache()
    for number in range(500):
        assert await later.last_version(f"s3://bucket/folder/{number}") == KEY.version


async def test_a_bug_in_writing_ends_nothing(
    bench: Bench,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], list[str]],
) -> None:
    """An error nobody thought of costs what was to be written, and a line in the log."""
    cache = bench.cache()
    await nursery.start(cache.run)

    async def fail(*_: object) -> int:
        raise OverflowError

    with monkeypatch.context() as patch:
        patch.setattr(cache._library, "write", fail)
        cache.store(KEY, DATA, shelf=SHELF, record="s3://b/k")
        await cache.written()
    assert cache.statistics().unwritten == 0
    assert [line.split(":")[0] for line in sorted(told())] == [
        "ERROR a chunk was not cached",
        "ERROR a version was not recorded",
    ]
    cache.store(KEY, DATA, shelf=SHELF)
    await cache.written()
    assert await bench.cache().get(KEY, SHELF) == DATA


async def test_a_cancelled_writer_forgets_what_it_held(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Ending a cache while it writes to a disk that hangs takes no time, and leaves nothing waiting."""
    goes_on, hanging = threading.Event(), []

    def writev(fd: int, parts: list[memoryview]) -> int:
        hanging.append(fd)
        goes_on.wait(60)
        return os.writev(fd, parts)

    break_os(writev=writev)
    cache = bench.cache()
    cache.store(KEY, DATA, shelf=SHELF, record="s3://b/k")
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cache.written)
                while len(hanging) < 2:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
        assert cache.statistics().unwritten == 0
    finally:
        goes_on.set()
    await cache.put(key(7), content(key(7)), SHELF)
    assert await cache.get(key(7), SHELF) == content(key(7))


async def test_a_version_remembered_while_another_is_written_wins(bench: Bench) -> None:
    """Of two versions of one object remembered at one time, the later one stays."""
    cache: DiskCache = bench.cache()
    cache.store(KEY, DATA, shelf=SHELF, record="s3://b/k")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.written)
        await trio.testing.wait_all_tasks_blocked()
        await cache.remember_version("s3://b/k", "etag later")
    assert await cache.last_version("s3://b/k") == "etag later"
    assert await bench.cache().last_version("s3://b/k") == "etag later"
