"""Walking the cache folder: what it holds, how old it is, and deleting what goes.

Each step is a call that may block and raises OSError, for a few of the folder's *places*: the
folders in which files lie, so that nobody waits for a walk through all of them. Nothing is followed
out of the cache folder, and only files with the names that the cache gives are touched.
"""

import contextlib
import dataclasses
import os
import re
import stat
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from vzfs.cache.eviction import Cut, Survey
from vzfs.cache.folder import TOUCH_AFTER, CacheFolder, absent_is_fine, directory
from vzfs.cache.segment import ENTRIES, OLDER, SEGMENTS

ABANDONED_AFTER: Final = 3600
"""Seconds. No write of a chunk takes an hour: a temporary file this old has lost its writer."""

EVICTED: Final = (ENTRIES, SEGMENTS, *OLDER)
"""The subfolders whose files share the limit, the oldest going first."""

_SHARD = re.compile(r"[0-9a-f]{2,3}\Z")
_STORED = re.compile(r"(?:[0-9a-f]{62}|[0-9a-f]{37}-[0-9a-f]{24})\Z")
_UNFINISHED = re.compile(r"tmp-[0-9a-f]{16}\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class Evicted:
    """What was deleted: files, their bytes, and the bytes that went of those used just at the cut.

    What another process deletes at the same time counts as gone, but not as deleted here.
    """

    files: int
    size: int
    at: int


def places(folder: CacheFolder, subfolder: str) -> list[str]:
    """Return the paths of the folders that hold files of *subfolder*: itself and its shards."""
    names: list[str] = []
    with (
        absent_is_fine(),
        folder.opened() as fd,
        directory(subfolder, fd) as place,
        os.scandir(place) as found,
    ):
        names = [e.name for e in found if _SHARD.match(e.name) and e.is_dir(follow_symlinks=False)]
    return [subfolder, *(f"{subfolder}/{name}" for name in sorted(names))]


def survey(folder: CacheFolder, among: Sequence[str], moment: int) -> Survey:
    """Measure the stored files directly in the places *among*, at *moment* in nanoseconds since the epoch.

    Deletes the temporary files of writers that did not live to finish them, and gives files from the
    future (a clock was wrong) the time of this moment: as they are they would never be the oldest.
    """
    used_at, sizes, others = array("q"), array("q"), 0
    for place in among:
        with absent_is_fine(), folder.opened() as fd, directory(place, fd) as within:
            for name, status in files(within):
                is_unfinished = _UNFINISHED.match(name)
                if not is_unfinished and not _STORED.match(name):
                    continue
                if status.st_mtime_ns - moment > TOUCH_AFTER * 10**9:
                    with contextlib.suppress(OSError):
                        os.utime(name, ns=(moment, moment), dir_fd=within, follow_symlinks=False)
                used = _used_at(status, moment)
                if not is_unfinished:
                    used_at.append(used)
                    sizes.append(size_of(status))
                elif moment - used <= ABANDONED_AFTER * 10**9:
                    others += size_of(status)
                else:
                    with absent_is_fine():
                        os.unlink(name, dir_fd=within)
    return Survey(np.array(used_at, np.int64), np.array(sizes, np.int64), others)


def evict(folder: CacheFolder, among: Sequence[str], cut: Cut, moment: int) -> Evicted:
    """Delete the stored files directly in the places *among* that *cut* says.

    Their ages are taken at *moment*, as before.
    """
    count = freed = freed_at = 0
    for place in among:
        with absent_is_fine(), folder.opened() as fd, directory(place, fd) as within:
            for name, status in list(files(within)):
                if not _STORED.match(name):
                    continue
                used, size = _used_at(status, moment), size_of(status)
                if used == cut.before and freed_at < cut.at:
                    freed_at += size
                elif used >= cut.before:
                    continue
                with absent_is_fine():
                    os.unlink(name, dir_fd=within)
                    count += 1
                    freed += size
    return Evicted(count, freed, freed_at)


def stored(
    folder: CacheFolder, place: str, *, unfinished: bool = False
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of the stored files directly in *place*, and of *unfinished* ones if asked for."""
    with absent_is_fine(), folder.opened() as fd, directory(place, fd) as within:
        for name, status in files(within):
            if _STORED.match(name) or (unfinished and _UNFINISHED.match(name)):
                yield f"{place}/{name}", status


def files(place: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the regular files of a directory that others delete from at the same time."""
    with os.scandir(place) as found:
        for entry in found:
            with absent_is_fine():
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield entry.name, status


def size_of(status: os.stat_result) -> int:
    """Return what a file takes: of its length and its blocks the larger, as some count late or compress."""
    return max(status.st_size, status.st_blocks * 512)


def _used_at(status: os.stat_result, moment: int) -> int:
    """Return when a file was used last, in nanoseconds since the epoch: neither before it nor after *moment*."""
    return max(min(status.st_mtime_ns, moment), 0)
