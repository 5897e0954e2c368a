"""The disk cache within its limit, and several users of one folder."""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from tests.conftest import ROOT
from tests.io.cachebench import DATA, KEY, Bench, content, fill, key, present, within_limit
from vzfs.cache import EntryKey
from vzfs.cache.folder import TOUCH_AFTER
from vzfs.cache.sweep import ABANDONED_AFTER

# -- eviction ------------------------------------------------------------------------------------


async def test_a_pass_deletes_what_was_used_longest_ago(bench: Bench) -> None:
    """A pass leaves nine tenths of the limit, the entries put or read last."""
    cache = bench.cache(max_bytes=100_000)
    await fill(bench, cache, 40)
    bench.now.time += TOUCH_AFTER
    assert await cache.get(key(3, 3000)) is not None
    await cache.evict()
    kept = await present(cache, 40)
    assert 3 in kept
    others = [number for number in kept if number != 3]
    assert others == list(range(40))[-len(others) :]
    assert 80_000 < bench.size() <= 90_000
    statistics = cache.statistics()
    assert statistics.evicted_files == 40 - len(kept)
    assert statistics.evicted_bytes >= 3000 * statistics.evicted_files


async def test_a_pass_over_a_folder_within_its_limit_deletes_nothing(bench: Bench) -> None:
    """What fits stays, and a folder that is not there is no trouble."""
    cache = bench.cache(max_bytes=1_000_000)
    await cache.evict()
    await fill(bench, cache, 20)
    await cache.evict()
    assert await present(cache, 20) == list(range(20))
    assert cache.statistics().evicted_files == 0


async def test_a_time_in_the_future_does_not_keep_an_entry(bench: Bench) -> None:
    """An entry that a wrong clock dated years ahead is from a pass or a hit on no younger than that moment."""
    cache = bench.cache(max_bytes=16_384)
    ahead = bench.now.time + 10**9
    for number in (0, 1):
        await cache.put(key(number, 3000), bytes(3000))
        os.utime(bench.path(key(number, 3000)), (ahead, ahead))
    assert await cache.get(key(0, 3000)) is not None
    assert bench.path(key(0, 3000)).stat().st_mtime == bench.now.time
    await cache.evict()
    assert bench.path(key(1, 3000)).stat().st_mtime == bench.now.time
    for number in (2, 3):
        bench.now.time += 1
        await cache.put(key(number, 3000), bytes(3000))
    await cache.evict()
    assert await present(cache, 4) in ([0, 2, 3], [1, 2, 3])


async def test_a_pass_does_not_leave_the_folder(
    bench: Bench, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    """A link in the place of the entries' subfolder leads no pass to files elsewhere."""
    cache = bench.cache(max_bytes=1)
    await bench.cache().put(KEY, DATA)
    (bench.folder / "v2").rename(tmp_path / "outside")
    (bench.folder / "v2").symlink_to(tmp_path / "outside")
    await cache.evict()
    assert bench.path().exists()
    assert len(told()) == 1


async def test_a_pass_deletes_only_what_is_its_own(bench: Bench, tmp_path: Path) -> None:
    """Files of other names, links and what they point to, and young temporary files stay."""
    cache = bench.cache(max_bytes=1)
    await bench.cache().put(KEY, DATA)
    shard = bench.path().parent
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ("0" * 62)).write_bytes(b"x")
    stays = [
        shard / "notes.txt",
        shard / ("A" * 62),
        shard / ("0" * 63),
        bench.folder / "v2" / ("0" * 61),
        bench.folder / "manifests",
        shard / "tmp-0123456789abcdef",
    ]
    for path in stays:
        path.write_bytes(b"x")
    links = [shard / ("1" * 62), bench.folder / "v2" / ("ff" if shard.name != "ff" else "fe")]
    links[0].symlink_to(outside / ("0" * 62))
    links[1].symlink_to(outside)
    os.utime(stays[-1], (bench.now.time - ABANDONED_AFTER,) * 2)
    await cache.evict()
    assert not bench.path().exists()
    assert all(path.exists() for path in [*stays, *links, outside / ("0" * 62)])


async def test_files_of_earlier_formats_are_evicted_with_the_rest(bench: Bench) -> None:
    """What a version of this program with another format left counts, and goes when it is the oldest."""
    cache = bench.cache(max_bytes=100_000)
    left = [
        bench.folder / "v1/00" / ("0" * 62),
        bench.folder / "v1/versions/ff" / ("f" * 62),
    ]
    await fill(bench, cache, 20)
    for path in left:
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(20_000))
        os.utime(path, (bench.now.time - 1000,) * 2)
    await cache.evict()
    assert not any(path.exists() for path in left)
    assert await present(cache, 20) == list(range(20))


async def test_abandoned_temporary_files_are_deleted(bench: Bench) -> None:
    """A temporary file over an hour old has lost its writer, and a pass deletes it."""
    cache = bench.cache()
    await cache.put(KEY, DATA)
    left = [
        bench.path().parent / "tmp-0123456789abcdef",
        bench.folder / "v2/entries/tmp-0123456789abcdef",
    ]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (bench.now.time - ABANDONED_AFTER - 1,) * 2)
    await cache.evict()
    assert not any(path.exists() for path in left)
    assert await cache.get(KEY) == DATA


async def test_the_limit_is_kept_while_a_cache_runs(bench: Bench) -> None:
    """Passes are made as bytes are written: the limit holds without anybody asking."""
    cache = bench.cache(max_bytes=100_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        for number in range(100):
            bench.now.time += 1
            await cache.put(key(number, 3000), bytes(3000))
        await within_limit(bench, 100_000)
        nursery.cancel_scope.cancel()
    assert cache.statistics().evicted_files > 70
    assert await cache.get(key(99, 3000)) is not None


async def test_a_running_cache_makes_a_pass_after_its_first_write(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """What an earlier process left beyond the limit goes soon, and nothing happens before a write."""
    await fill(bench, bench.cache(), 40)
    scans: list[object] = []
    break_os(scandir=lambda place: (scans.append(place), os.scandir(place))[1])
    cache = bench.cache(max_bytes=100_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        assert await cache.get(key(39, 3000)) is not None
        await trio.testing.wait_all_tasks_blocked()
        assert scans == []
        await cache.put(KEY, DATA)
        await within_limit(bench, 100_000)
        nursery.cancel_scope.cancel()
    assert await cache.get(KEY) == DATA


async def test_files_that_vanish_do_not_stop_a_pass(
    bench: Bench, break_os: Callable[..., None]
) -> None:
    """Where another process deletes the same files first, a pass goes on and does not count them."""
    cache = bench.cache(max_bytes=50_000)
    await fill(bench, cache, 40)

    def lose(path: str, **how: int) -> None:
        os.unlink(path, **how)
        os.unlink(path, **how)

    break_os(unlink=lose)
    await cache.evict()
    assert bench.size() <= 50_000
    assert cache.statistics().evicted_files == 0


# -- sharing -------------------------------------------------------------------------------------

CHURN = """
import json, random, sys, dataclasses, time
from pathlib import Path
import trio
from vzfs.cache import DiskCache, EntryKey

async def main(folder, seed):
    cache = DiskCache(Path(folder), max_bytes=300_000, limiter=trio.CapacityLimiter(4), patience=60)
    draw = random.Random(seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        for step in range(400):
            number = draw.randrange(60)
            key = EntryKey("s3://bucket/shared", "etag", number, 5000 + 200 * number)
            expected = random.Random(number).randbytes(key.length)
            shelf = f"shelf {number % 4}" if number % 2 else ""
            found = await cache.get(key, shelf)
            assert found is None or found == expected, number
            if found is None:
                await cache.put(key, expected, shelf)
            small = EntryKey("s3://bucket/small", "etag", draw.randrange(300), 100)
            found = await cache.get(small, "small")
            assert found is None or found == random.Random(small.offset).randbytes(100), small
            if found is None:
                cache.store(small, random.Random(small.offset).randbytes(100), shelf="small")
                if not step % 5:
                    await cache.written()
            await cache.remember_version(f"s3://bucket/{number % 7}", f"etag {seed}")
            version = await cache.last_version(f"s3://bucket/{number % 7}")
            assert version is None or version.startswith("etag "), version
        nursery.cancel_scope.cancel()
    await cache.evict()
    print(json.dumps(dataclasses.asdict(cache.statistics())))

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


def start(program: str, *words: object) -> list[str]:
    return [sys.executable, "-W", "error", "-c", program, *map(str, words)]


async def test_processes_share_a_folder_under_eviction(bench: Bench) -> None:
    """Processes that read, write and evict in one folder get right bytes or none, and meet no trouble."""
    outputs: list[bytes] = []

    async def churn(seed: int) -> None:
        done = await trio.run_process(
            start(CHURN, bench.folder, seed), capture_stdout=True, capture_stderr=True, cwd=ROOT
        )
        assert done.stderr == b""
        outputs.append(done.stdout)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for seed in range(3):
                nursery.start_soon(churn, seed)
    for output in outputs:
        statistics = json.loads(output)
        assert statistics["hits"] > 0
        assert statistics["writes"] > 0
        assert (statistics["corrupt"], statistics["errors"], statistics["is_off"]) == (0, 0, False)
    assert sum(json.loads(output)["evicted_files"] for output in outputs) > 0
    await bench.cache(max_bytes=300_000).evict()
    assert bench.size() <= 300_000
    assert not [path for path in bench.files() if path.name.startswith("tmp-")]


async def test_two_caches_of_one_process_share_a_folder(bench: Bench) -> None:
    """Two mounts of one process read what either wrote, while both evict."""
    caches = [bench.cache(max_bytes=60_000), bench.cache(max_bytes=60_000)]
    seen = 0

    async def churn(seed: int) -> None:
        nonlocal seen
        draw = random.Random(seed)
        for step in range(150):
            bench.now.time += 1
            of = key(draw.randrange(25), 3000)
            writer, reader = draw.sample(caches, 2)
            await writer.put(of, content(of))
            found = await reader.get(of)
            assert found is None or found == content(of)
            seen += found is not None
            if step % 10 == 0:
                await draw.choice(caches).evict()

    async with trio.open_nursery() as nursery:
        for seed in range(3):
            nursery.start_soon(churn, seed)
    assert seen > 300
    assert all(cache.statistics().corrupt == cache.statistics().errors == 0 for cache in caches)
    await caches[0].evict()
    assert bench.size() <= 60_000


DIES = """
import os, signal, sys
from pathlib import Path
import trio
from vzfs.cache import DiskCache, EntryKey

real = os.writev
def die_in_the_middle(fd, parts):
    if sum(map(len, parts)) <= 100_000:
        return real(fd, parts)
    real(fd, [parts[0], parts[-1][:1000]])
    os.kill(os.getpid(), signal.SIGKILL)
os.writev = die_in_the_middle

async def main(folder):
    cache = DiskCache(Path(folder), max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    await cache.put(EntryKey("s3://bucket/small", "etag", 0, 10), bytes(10))
    await cache.put(EntryKey("s3://bucket/large", "etag", 0, 1_000_000), bytes(1_000_000))

trio.run(main, sys.argv[1])
"""


async def test_a_killed_writer_leaves_a_usable_cache(bench: Bench) -> None:
    """Killed in the middle of a write, a process leaves whole entries and a temporary file that a pass deletes."""
    done = await trio.run_process(start(DIES, bench.folder), check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    (left,) = [path for path in bench.files() if path.name.startswith("tmp-")]
    assert 0 < left.stat().st_size < 1_000_000
    cache = bench.cache()
    large = EntryKey("s3://bucket/large", "etag", 0, 1_000_000)
    assert await cache.get(EntryKey("s3://bucket/small", "etag", 0, 10)) == bytes(10)
    assert await cache.get(large) is None
    await cache.put(large, bytes(1_000_000))
    assert await cache.get(large) == bytes(1_000_000)
    bench.now.time = left.stat().st_mtime + ABANDONED_AFTER + 1
    await cache.evict()
    assert not left.exists()
    assert await cache.get(large) == bytes(1_000_000)
