"""What tests of the disk cache work with: a folder, clocks, faulty system calls."""

import contextlib
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import trio

from vzfs.cache import DiskCache, EntryKey
from vzfs.cache.segment import entry_name

KEY = EntryKey("s3://bucket/data.nc", "etag abc", 4096, 12)
DATA = b"twelve bytes"
LARGE = 2**30


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.time = 1_750_000_000.0

    def __call__(self) -> float:
        return self.time


class Bench:
    """Caches on one folder, and the two clocks they go by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = Clock()
        self.monotonic = Clock()

    def cache(self, max_bytes: int = LARGE, patience: float = 30) -> DiskCache:
        return DiskCache(
            self.folder,
            max_bytes=max_bytes,
            limiter=trio.CapacityLimiter(4),
            now=self.now,
            monotonic=self.monotonic,
            patience=patience,
        )

    def path(self, key: EntryKey = KEY) -> Path:
        return self.folder / entry_name(key)

    def segments(self) -> list[Path]:
        """Return the files of the shelves, the oldest first where there is one shelf."""
        return sorted(path for path in self.folder.glob("v2/segments/*/*-*") if path.is_file())

    def records(self) -> list[Path]:
        """Return the files of the version records, the oldest first where there is one shelf."""
        return sorted(path for path in self.folder.glob("v2/records/*/*-*") if path.is_file())

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def size(self) -> int:
        """Measure what the folder holds, which somebody may be deleting from."""
        total = 0
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                total += max(status.st_size, status.st_blocks * 512)
        return total


class Faulty:
    """The module `os` with some functions replaced."""

    def __init__(self, **replaced: Callable[..., object]) -> None:
        self._replaced = replaced

    def __getattr__(self, name: str) -> object:
        return self._replaced.get(name) or getattr(os, name)


def written(path: Path) -> tuple[int, int, int]:
    """Say which file *path* is and when it was written and changed: the same as long as nobody touches it."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


async def within_limit(bench: Bench, limit: int) -> None:
    """Wait until the folder holds no more than *limit* bytes; fail if that takes too long."""
    with trio.fail_after(30):
        while bench.size() > limit:  # noqa: ASYNC110 -- there is no event: the folder is what is asked
            await trio.sleep(0.01)


def remount(mountpoint: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(mountpoint)], check=True)


def fail(number: int) -> Callable[..., object]:
    def call(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return call


def key(number: int, length: int = 12) -> EntryKey:
    return EntryKey("s3://bucket/data.nc", "etag abc", number * 1000, length)


def content(of: EntryKey) -> bytes:
    return random.Random(repr(of)).randbytes(of.length)


async def fill(bench: Bench, cache: DiskCache, count: int, length: int = 3000) -> None:
    """Put *count* entries, one second apart."""
    for number in range(count):
        bench.now.time += 1
        await cache.put(key(number, length), content(key(number, length)))


async def present(cache: DiskCache, count: int, length: int = 3000) -> list[int]:
    return [n for n in range(count) if await cache.get(key(n, length)) is not None]
