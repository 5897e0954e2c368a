"""How fast the disk cache writes and reads, beside plain files, in one process and in several.

    python -m benchmarks.disk_cache [--only small|large|shared] [--entries 100000] [--large 64] [--rounds 3]

Small entries have 32 KiB, a thousand of them on a shelf, as neighbouring chunks of an array have; large
ones 8 MiB. Each figure is the median of several rounds, in microseconds of wall and of processor time for
one small entry, and in GB/s for large ones. *warm*: the page cache has the files. *cold*: it was told to
forget them. *plain*: the same loop over plain files, written by rename and read whole, which is what the
disk and Python cost without a cache. *known*: shelves were opened before; *fresh*: a new process's cache.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from vzfs.cache import DiskCache, EntryKey

SMALL = 32 * 2**10
LARGE = 8 * 2**20
ON_SHELF = 1000
LIMIT = 40 * 2**30

type Shelved = tuple[EntryKey, str]


def entries(count: int, length: int) -> list[Shelved]:
    """Return keys and shelves of *count* entries that lie behind one another in one object."""
    place, version = (
        "s3://some-bucket/some/folder/file.nc",
        'etag "0123456789abcdef0123456789abcdef"',
    )
    return [
        (EntryKey(place, version, n * length, length), f"{place} {version} {n // ON_SHELF}")
        for n in range(count)
    ]


def new_cache(folder: Path) -> DiskCache:
    """Return a cache as a mount has it."""
    return DiskCache(folder, max_bytes=LIMIT, limiter=trio.CapacityLimiter(8), owner="s3://repo/")


def forget(folder: Path) -> None:
    """Have the page cache forget the files of *folder*."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


class Stopwatch:
    """Wall and processor seconds of what is done within it."""

    def __enter__(self) -> "Stopwatch":
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._began[0]
        self.cpu = time.process_time() - self._began[1]


def report(what: str, count: int, length: int, watches: Sequence[Stopwatch]) -> None:
    """Print the medians of some rounds, for each of *count* entries."""
    wall = statistics.median(w.wall for w in watches)
    cpu = statistics.median(w.cpu for w in watches)
    rate = count * length / wall / 1e9
    print(
        f"{what:44} {wall / count * 1e6:9.1f} us {cpu / count * 1e6:9.1f} us cpu {rate:7.2f} GB/s",
        flush=True,
    )


# -- plain files ---------------------------------------------------------------------------------


def plain_name(folder: Path, number: int) -> str:
    """Return the path of a plain file, of which a folder has a thousand."""
    return f"{folder}/{number // ON_SHELF}/{number}"


def write_plain(folder: Path, numbers: Sequence[int], data: bytes) -> None:
    """Write plain files as anybody would who wants them whole."""
    for number in numbers:
        name = plain_name(folder, number)
        if number % ON_SHELF == 0:
            os.makedirs(os.path.dirname(name), exist_ok=True)  # noqa: PTH103, PTH120 -- as fast as can be
        fd = os.open(f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, data)
        os.close(fd)
        os.rename(f"{name}.tmp", name)  # noqa: PTH104 -- as fast as can be


def read_plain(folder: Path, numbers: Sequence[int], length: int) -> None:
    """Read plain files whole, keeping the last one as whoever uses it does."""
    for number in numbers:
        fd = os.open(plain_name(folder, number), os.O_RDONLY)
        data = os.read(fd, length)
        if len(data) != length:
            raise SystemExit("a plain file is short")
        os.close(fd)


# -- the cache -----------------------------------------------------------------------------------


async def write(cache: DiskCache, keys: Sequence[Shelved], data: bytes) -> None:
    """Store entries, waiting for room as a reader of a source does."""
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        for key, shelf in keys:
            await cache.wait_for_room(key.length)
            while not cache.store(key, data, shelf=shelf):
                await cache.wait_for_room(key.length)
            await trio.lowlevel.cancel_shielded_checkpoint()
        await cache.written()
        nursery.cancel_scope.cancel()


async def read(cache: DiskCache, keys: Sequence[Shelved], in_flight: int = 1) -> None:
    """Read entries with some tasks; all must be there."""
    rest = iter(keys)

    async def go() -> None:
        for key, shelf in rest:
            data = cache.peek(key, shelf)
            if data is None:
                data = await cache.get(key, shelf)
            if data is None or len(data) != key.length:
                raise SystemExit(f"{key} is not there")

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(go)


def timed(work: Callable[[], Awaitable[None]]) -> Stopwatch:
    """Run *work* and say how long it took."""

    async def run() -> Stopwatch:
        with Stopwatch() as watch:
            await work()
        return watch

    return trio.run(run)


def small(folder: Path, count: int, rounds: int) -> None:
    """Measure small entries."""
    data = random.Random(1).randbytes(SMALL)
    keys = entries(count, SMALL)
    mixed = random.Random(2).sample(range(count), count)
    plain, cached = folder / "plain", folder / "cache"
    with Stopwatch() as watch:
        write_plain(plain, range(count), data)
    report("write, plain", count, SMALL, [watch])
    report("write, cache", count, SMALL, [timed(lambda: write(new_cache(cached), keys, data))])
    orders: dict[str, Sequence[int]] = {"in order": range(count), "at random": mixed}
    for order, numbers in orders.items():
        wanted = [keys[n] for n in numbers]
        watches: dict[str, list[Stopwatch]] = {}
        known = new_cache(cached)
        trio.run(read, known, wanted)
        for _ in range(rounds):
            with Stopwatch() as watch:
                read_plain(plain, numbers, SMALL)
            watches.setdefault("plain", []).append(watch)
            watches.setdefault("cache, known", []).append(timed(lambda: read(known, wanted)))  # noqa: B023
            watches.setdefault("cache, fresh", []).append(
                timed(lambda: read(new_cache(cached), wanted))  # noqa: B023
            )
        for what, found in watches.items():
            report(f"read {order}, warm, {what}", count, SMALL, found)
        part = numbers[: count // 10] if order == "at random" else numbers
        wanted = [keys[n] for n in part]
        forget(folder)
        with Stopwatch() as watch:
            read_plain(plain, part, SMALL)
        report(f"read {order}, cold, plain", len(part), SMALL, [watch])
        for in_flight in (1, 6):
            forget(folder)
            watch = timed(lambda: read(new_cache(cached), wanted, in_flight))  # noqa: B023
            report(f"read {order}, cold, cache, {in_flight} in flight", len(part), SMALL, [watch])


def large(folder: Path, count: int, rounds: int) -> None:
    """Measure large entries."""
    data = random.Random(1).randbytes(LARGE)
    keys = entries(count, LARGE)
    plain, cached = folder / "plain", folder / "cache"
    with Stopwatch() as watch:
        write_plain(plain, range(count), data)
    report("write, plain", count, LARGE, [watch])
    report("write, cache", count, LARGE, [timed(lambda: write(new_cache(cached), keys, data))])
    for heat in ("warm", "cold"):
        watches: dict[str, list[Stopwatch]] = {}
        for _ in range(rounds):
            if heat == "cold":
                forget(folder)
            with Stopwatch() as watch:
                read_plain(plain, range(count), LARGE)
            watches.setdefault("plain", []).append(watch)
            for in_flight in (1, 2):
                if heat == "cold":
                    forget(folder)
                watches.setdefault(f"cache, {in_flight} in flight", []).append(
                    timed(lambda: read(new_cache(cached), keys, in_flight))  # noqa: B023
                )
        for what, found in watches.items():
            report(f"read, {heat}, {what}", count, LARGE, found)


# -- several processes ---------------------------------------------------------------------------


def shared(folder: Path, count: int, processes: int) -> None:
    """Measure *processes* that read and write one folder: each stores a part, then all read all."""
    for number in (1, processes):
        where = folder / f"of{number}"
        for what in ("store", "read"):
            words = [
                sys.executable,
                "-m",
                "benchmarks.disk_cache",
                "--part",
                what,
                "--folder",
                str(where),
            ]
            words += ["--entries", str(count), "--processes", str(number)]
            with Stopwatch() as watch:
                running = [subprocess.Popen([*words, "--number", str(n)]) for n in range(number)]
                if any(process.wait() for process in running):
                    raise SystemExit("a process failed")
            done = count if what == "store" else count * number
            rate = done * SMALL / watch.wall / 1e9
            print(
                f"{what}, processes: {number:2} {watch.wall / done * 1e6:32.1f} us {rate:24.2f} GB/s",
                flush=True,
            )


def part(folder: Path, count: int, processes: int, number: int, what: str) -> None:
    """Be one of several processes."""
    keys = entries(count, SMALL)
    cache = new_cache(folder)
    if what == "store":
        trio.run(write, cache, keys[number::processes], random.Random(1).randbytes(SMALL))
    else:
        trio.run(read, cache, keys)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/vzfs-disk-cache"))  # noqa: S108
    parser.add_argument("--only", choices=["small", "large", "shared"])
    parser.add_argument("--part", choices=["store", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        part(given.folder, given.entries, given.processes, given.number, given.part)
        return
    if given.folder.exists():
        raise SystemExit(f"{given.folder} exists")
    try:
        for what, measure, size in (
            ("small", lambda where: small(where, given.entries, given.rounds), SMALL),
            ("large", lambda where: large(where, given.large, given.rounds), LARGE),
            ("shared", lambda where: shared(where, given.entries // 4, given.processes), SMALL),
        ):
            if given.only not in (None, what):
                continue
            print(f"-- {what} entries of {size >> 10} KiB")
            measure(given.folder / what)
            shutil.rmtree(given.folder / what)
    finally:
        shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
