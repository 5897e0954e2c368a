"""The cache folder: the system calls of the disk cache, each of which may block or raise OSError.

Every operation opens the folder anew, looks at whom it belongs to, and works below that descriptor.
So a folder that was removed, replaced or opened to others is noticed at once, and nothing is held
that keeps a disk from being unmounted.

Files appear whole, by rename, and are never changed after that; only their times are. They are not
flushed to the device: what a power failure tears is found by its checksum, and every write would
wait for the disk. The last use of an entry is its modification time, because access times are often
not kept.
"""

import contextlib
import dataclasses
import errno
import os
import re
import secrets
import stat
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from vzfs.cache.eviction import Cut, Survey
from vzfs.errors import ErrorKind, FormatError

TOUCH_AFTER: Final = 600
"""Seconds. The order of eviction needs no finer clock, and a hot entry then costs one metadata
write in ten minutes."""
ABANDONED_AFTER: Final = 3600
"""Seconds. No write of a chunk takes an hour: a temporary file this old has lost its writer."""
FREE_SHARE: Final = 0.05
"""The part of the filesystem that the cache leaves to others: filesystems get slow and systems fail
when full."""
FREE_ENOUGH: Final = 10 * 2**30
"""Bytes. Of a large disk the cache does not leave more than this."""

_TEMPORARY: Final = "tmp-"
_PROBE_SIZE: Final = 4096
_SHARD = re.compile(r"[0-9a-f]{2}\Z")
_STORED = re.compile(r"[0-9a-f]{62}\Z")
_UNFINISHED = re.compile(r"tmp-[0-9a-f]{16}\Z")
_ABSENT: Final = frozenset({errno.ENOENT, errno.ESTALE})
"""Not there; on NFS also: removed by another machine in the meantime."""


class UnsafeFolderError(PermissionError):
    """Others could put what they like into the cache."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evicted:
    """What was deleted: files, their bytes, and the bytes that went of those used just at the cut.

    What another process deletes at the same time counts as gone, but not as deleted here.
    """

    entries: int
    size: int
    at: int


class CacheFolder:
    """Stored files below *path*, named `SUBFOLDER/xx/yyyy...`, with modes 0700 and 0600."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path: Final = path.absolute()
        self._now = now

    def read(self, name: str, length: int, max_header: int) -> tuple[bytes, bytes] | None:
        """Return the file *name* as header and the *length* bytes behind it, or None if there is none.

        Marks it as used. Raises FormatError if it cannot be such a file, before reading it.
        """
        try:
            with self._open() as folder, _descriptor(name, folder) as fd:
                status = os.fstat(fd)
                before = status.st_size - length
                if not stat.S_ISREG(status.st_mode) or not 0 < before <= max_header:
                    raise FormatError(ErrorKind.CORRUPT_METADATA, "its size is wrong")
                header, data = _read_exactly(fd, before), _read_exactly(fd, length)
                if abs(self._now() - status.st_mtime) > TOUCH_AFTER:
                    self._mark_used(fd)
                return header, data
        except OSError as problem:
            if problem.errno == errno.ELOOP:
                raise FormatError(ErrorKind.CORRUPT_METADATA, "it is a link") from None
            if problem.errno in _ABSENT:
                return None
            raise

    def has(self, name: str, length: int, max_header: int) -> bool:
        """Whether there is a file *name* of a size that a header and *length* bytes can have."""
        try:
            with self._open() as folder:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as problem:
            if problem.errno in _ABSENT:
                return False
            raise
        return stat.S_ISREG(status.st_mode) and 0 < status.st_size - length <= max_header

    def write(self, name: str, *buffers: bytes | memoryview) -> None:
        """Store *buffers* as the file *name*, in place of what was there."""
        try:
            self._write(name, buffers)
        except FileNotFoundError:
            # Somebody removes the folder, or a part of it, at the same time: begin with a new one.
            self._write(name, buffers)

    def remove(self, name: str) -> None:
        """Delete the file *name*, if it is there."""
        with _absent_is_fine(), self._open() as folder:
            os.unlink(name, dir_fd=folder)

    def probe(self, subfolder: str) -> None:
        """Prove that the folder can be written and read, and flushed to its device."""
        content = secrets.token_bytes(_PROBE_SIZE)
        with self._open(create=True) as folder:
            name = f"{subfolder}/{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                with _created(name, folder) as fd:
                    _write_all(fd, content)
                    os.fsync(fd)
                with _descriptor(name, folder) as fd:
                    if _read_exactly(fd, _PROBE_SIZE) != content:
                        raise OSError(errno.EIO, "What was written reads differently")
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)

    def room(self) -> int:
        """Return how many bytes may be written; below zero if others need some of what is used."""
        try:
            with self._open() as folder:
                return self._room(folder)
        except FileNotFoundError:
            return sys.maxsize  # nothing is used, so nothing has to go

    # -- for eviction --------------------------------------------------------------------------

    def places(self, subfolder: str) -> list[str]:
        """Return the paths of the folders that hold files of *subfolder*: itself and its shards."""
        names: list[str] = []
        with (
            _absent_is_fine(),
            self._open() as folder,
            _directory(subfolder, folder) as fd,
            os.scandir(fd) as found,
        ):
            names = [e.name for e in found if _SHARD.match(e.name) and _is_folder(e)]
        return [subfolder, *(f"{subfolder}/{name}" for name in sorted(names))]

    def survey(self, place: str, moment: int) -> Survey:
        """Measure the stored files directly in *place*, at *moment* in nanoseconds since the epoch.

        Deletes the temporary files of writers that did not live to finish them, and gives files
        from the future (a clock was wrong) the time of this moment: as they are they would never be
        the oldest.
        """
        used_at, sizes, others = array("q"), array("q"), 0
        with _absent_is_fine(), self._open() as folder, _directory(place, folder) as fd:
            for name, status in _files(fd):
                is_ours = _STORED.match(name) or _UNFINISHED.match(name)
                if is_ours and status.st_mtime_ns - moment > TOUCH_AFTER * 10**9:
                    with contextlib.suppress(OSError):
                        os.utime(name, ns=(moment, moment), dir_fd=fd, follow_symlinks=False)
                used = _used_at(status, moment)
                if _STORED.match(name):
                    used_at.append(used)
                    sizes.append(_size(status))
                elif not is_ours:
                    continue
                elif moment - used <= ABANDONED_AFTER * 10**9:
                    others += _size(status)
                else:
                    with _absent_is_fine():
                        os.unlink(name, dir_fd=fd)
        return Survey(np.array(used_at, np.int64), np.array(sizes, np.int64), others)

    def evict(self, place: str, cut: Cut, moment: int) -> Evicted:
        """Delete the stored files directly in *place* that *cut* says, their ages taken at *moment* as before."""
        count = freed = freed_at = 0
        with _absent_is_fine(), self._open() as folder, _directory(place, folder) as fd:
            for name, status in list(_files(fd)):
                if not _STORED.match(name):
                    continue
                used, size = _used_at(status, moment), _size(status)
                if used == cut.before and freed_at < cut.at:
                    freed_at += size
                elif used >= cut.before:
                    continue
                with _absent_is_fine():
                    os.unlink(name, dir_fd=fd)
                    count += 1
                    freed += size
        return Evicted(count, freed, freed_at)

    # -- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self, *, create: bool = False) -> Iterator[int]:
        """Give a descriptor of the folder. Raises UnsafeFolderError if it is not this user's alone to write."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags)
        except FileNotFoundError:
            if not create:
                raise
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, flags)
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid():
                raise UnsafeFolderError(errno.EPERM, "It belongs to another user")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UnsafeFolderError(errno.EPERM, "Other users may write to it")
            yield fd
        finally:
            os.close(fd)

    def _write(self, name: str, buffers: Sequence[bytes | memoryview]) -> None:
        temporary = f"{name.rpartition('/')[0]}/{_TEMPORARY}{secrets.token_hex(8)}"
        with self._open(create=True) as folder:
            if sum(memoryview(buffer).nbytes for buffer in buffers) > self._room(folder):
                raise OSError(errno.ENOSPC, "The disk is full but for the part left to others")
            try:
                with _created(temporary, folder) as fd:
                    for buffer in buffers:
                        _write_all(fd, buffer)
                    self._mark_used(fd)
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def _mark_used(self, fd: int) -> None:
        """Set the time of last use. An entry that cannot be marked is as good as any other."""
        now = self._now()
        with contextlib.suppress(OSError):
            os.utime(fd, (now, now))

    def _room(self, folder: int) -> int:
        status = os.fstatvfs(folder)
        if not status.f_blocks:
            return sys.maxsize  # a filesystem that does not count
        kept = min(int(status.f_blocks * status.f_frsize * FREE_SHARE), FREE_ENOUGH)
        return status.f_bavail * status.f_frsize - kept


@contextlib.contextmanager
def _descriptor(name: str, folder: int) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _directory(name: str, folder: int) -> Iterator[int]:
    """Give a descriptor of the subfolder *name*, reached without following a link."""
    with contextlib.ExitStack() as stack:
        for part in name.split("/"):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            folder = os.open(part, flags, dir_fd=folder)
            stack.callback(os.close, folder)
        yield folder


@contextlib.contextmanager
def _created(name: str, folder: int) -> Iterator[int]:
    """Give a descriptor of the new file *name*; raises what closing it has to say of what was written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    except FileNotFoundError:
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            with contextlib.suppress(FileExistsError):
                os.mkdir("/".join(parents[:depth]), 0o700, dir_fd=folder)
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_exactly(fd: int, length: int) -> bytes:
    """Return *length* bytes. Raises FormatError if the file ends before."""
    data = os.read(fd, length)
    if len(data) == length:
        return data
    parts = [data]
    missing = length - len(data)
    while missing:
        part = os.read(fd, missing)
        if not part:
            raise FormatError(ErrorKind.CORRUPT_METADATA, "it is cut short")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _write_all(fd: int, buffer: bytes | memoryview) -> None:
    rest = memoryview(buffer).cast("B")
    while rest:
        rest = rest[os.write(fd, rest) :]


def _files(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    """Give the regular files of a directory that others delete from at the same time."""
    with os.scandir(directory) as found:
        for entry in found:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as problem:
                if problem.errno not in _ABSENT:
                    raise
            else:
                if stat.S_ISREG(status.st_mode):
                    yield entry.name, status


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno not in _ABSENT:
            raise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _size(status: os.stat_result) -> int:
    """Return what a file takes: of its length and its blocks the larger, as some count late or compress."""
    return max(status.st_size, status.st_blocks * 512)


def _used_at(status: os.stat_result, moment: int) -> int:
    """Return when a file was used last, in nanoseconds since the epoch: neither before it nor after *moment*."""
    return max(min(status.st_mtime_ns, moment), 0)
