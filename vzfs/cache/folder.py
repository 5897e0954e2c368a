"""The cache folder: the system calls of the disk cache, each of which may block or raise OSError.

Every operation that names a file opens the folder anew, looks at whom it belongs to, and works below
that descriptor. So a folder that was removed, replaced or opened to others is noticed at once. A
file that is open already is another matter: it was this user's when it was opened, and nobody else
can change it.

Files appear whole, by rename, and are never changed after that; only their times are. They are not
flushed to the device: what a power failure tears is found by its checksum, and every write would
wait for the disk. The last use of a file is its modification time, because access times are often
not kept.
"""

import contextlib
import dataclasses
import errno
import mmap
import os
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from vzfs import mounttable
from vzfs.cache.shelves import Descriptor
from vzfs.errors import ErrorKind, FormatError

TOUCH_AFTER: Final = 600
"""Seconds. The order of eviction needs no finer clock, and a hot file then costs one metadata
write in ten minutes."""
FREE_SHARE: Final = 0.05
"""The part of the filesystem that the cache leaves to others: filesystems get slow and systems fail
when full."""
FREE_ENOUGH: Final = 10 * 2**30
"""Bytes. Of a large disk the cache does not leave more than this."""

TEMPORARY: Final = "tmp-"
"""How the names of files begin that are being written."""
_PROBE_SIZE: Final = 4096
_AT_ONCE: Final = 1000
"""Buffers that one call writes: systems take 1024."""
_STEP: Final = 2**20
"""Bytes that are read at a time of a file that is to be mapped."""
_LOCAL: Final = frozenset(
    {"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
)
"""Filesystems that are of this machine alone."""
_ABSENT: Final = frozenset({errno.ENOENT, errno.ESTALE})
"""Not there; on NFS also: removed by another machine in the meantime."""
_NOT_HERE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What a filesystem says that cannot read without waiting."""


class UnsafeFolderError(PermissionError):
    """Others could put what they like into the cache."""


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A file that was opened: its path *name*, its *first* bytes, its *size*, and when it was used last.

    *used_at* is in seconds since the epoch.
    """

    name: str
    first: bytes
    size: int
    used_at: float
    descriptor: Descriptor


class CacheFolder:
    """Stored files below *path*, named `SUBFOLDER/xx/yyyy...`, with modes 0700 and 0600."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path: Final = path.absolute()
        self._now = now
        self._can_read_at_once = hasattr(os, "RWF_NOWAIT")

    def read(
        self,
        name: str,
        length: int,
        max_before: int,
        take: Callable[[int], memoryview] | None = None,
    ) -> tuple[bytes, bytes | memoryview] | None:
        """Return the file *name* as its last *length* bytes and those before, or None if there is none.

        Marks it as used. *take* gives a buffer for the last bytes. Raises FormatError if it cannot be
        such a file, before reading it.
        """
        opened = self._sized(name, length, max_before)
        if opened is None:
            return None
        fd, before = opened.descriptor.fd, opened.size - length
        head = _read_exactly(fd, before, 0)
        if take is None:
            data: bytes | memoryview = _read_exactly(fd, length, before)
        else:
            buffer = take(length)
            _read_into(fd, buffer, before)
            data = buffer.toreadonly()
        self._mark_soon(opened)
        return head, data

    def map(
        self, name: str, length: int, max_before: int
    ) -> tuple[bytes, bytes | memoryview] | None:
        """Do as `read` does, with the *length* bytes in memory that is shared with all who map them.

        A page that cannot be read ends the process where a read would fail. So the file is read once,
        and mapped only where no other machine can take it away.
        """
        mounted = mounttable.containing(self.path)
        if mounted is None or mounted.fstype not in _LOCAL:
            return self.read(name, length, max_before)
        opened = self._sized(name, length, max_before)
        if opened is None:
            return None
        fd, buffer = opened.descriptor.fd, bytearray(_STEP)
        for offset in range(0, opened.size, _STEP):
            if os.preadv(fd, [buffer], offset) < min(_STEP, opened.size - offset):
                raise _damaged("it is cut short")
        flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
        try:
            view = memoryview(mmap.mmap(fd, opened.size, flags, mmap.PROT_READ))
        except (OSError, ValueError):
            return self.read(name, length, max_before)  # which says what is wrong, if anything is
        self._mark_soon(opened)
        return bytes(view[: opened.size - length]), view[opened.size - length :]

    def open(self, name: str, first: int) -> Opened | None:
        """Open the file *name* and read its *first* bytes; None if there is none.

        Raises FormatError if it is no file.
        """
        try:
            with self.opened() as folder:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = Descriptor(os.open(name, flags, dir_fd=folder))
            status = os.fstat(descriptor.fd)
            if not stat.S_ISREG(status.st_mode):
                raise _damaged("it is no file")
            begin = os.pread(descriptor.fd, first, 0) if first else b""
        except OSError as problem:
            if problem.errno == errno.ELOOP:
                raise _damaged("it is a link") from None
            if problem.errno in _ABSENT:
                return None
            raise
        return Opened(name, begin, status.st_size, status.st_mtime, descriptor)

    def read_at(self, descriptor: Descriptor, offset: int, size: int) -> bytes:
        """Return *size* bytes of an open file. Raises FormatError if it ends before."""
        return _read_exactly(descriptor.fd, size, offset)

    def read_at_once(self, descriptor: Descriptor, offset: int, buffer: memoryview) -> bool:
        """Fill *buffer* from an open file, if that needs no waiting for the disk."""
        if not self._can_read_at_once:
            return False
        try:
            return os.preadv(descriptor.fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno not in _NOT_HERE:
                raise
            self._can_read_at_once = False
            return False

    def mark_used(self, descriptor: Descriptor) -> None:
        """Set the time of last use. A file that cannot be marked is as good as any other."""
        now = self._now()
        with contextlib.suppress(OSError):
            os.utime(descriptor.fd, (now, now))

    def is_deleted(self, descriptor: Descriptor) -> bool:
        """Whether an open file has no name any more."""
        return os.fstat(descriptor.fd).st_nlink == 0

    def look(
        self, path: str, known: Collection[str], first: int
    ) -> tuple[list[str], list[Opened], list[str]]:
        """Return the names of all files `PATH-...`, those opened that are not *known*, and what is no file.

        Of each opened file the *first* bytes are read.
        """
        place, _, beginning = path.rpartition("/")
        names: list[str] = []
        with (
            absent_is_fine(),
            self.opened() as folder,
            directory(place, folder) as fd,
            os.scandir(fd) as found,
        ):
            names = [f"{place}/{e.name}" for e in found if e.name.startswith(f"{beginning}-")]
        opened, wrong = [], []
        for name in names:
            if name not in known:
                try:
                    segment = self.open(name, first)
                except FormatError:
                    wrong.append(name)
                else:
                    opened += [segment] if segment else []
        return names, opened, wrong

    def has(self, name: str, length: int, max_before: int) -> bool:
        """Whether there is a file *name* of a size that *length* bytes and those before can have."""
        try:
            with self.opened() as folder:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as problem:
            if problem.errno in _ABSENT:
                return False
            raise
        return stat.S_ISREG(status.st_mode) and 0 < status.st_size - length <= max_before

    def write(self, name: str, *buffers: bytes | memoryview) -> None:
        """Store *buffers* as the file *name*, in place of what was there."""
        try:
            self._write(name, buffers)
        except FileNotFoundError:
            # Somebody removes the folder, or a part of it, at the same time: begin with a new one.
            self._write(name, buffers)

    def remove(self, name: str) -> None:
        """Delete the file *name*, if it is there."""
        with absent_is_fine(), self.opened() as folder:
            os.unlink(name, dir_fd=folder)

    def remove_unused(self, name: str, used_at: int) -> bool:
        """Delete the file *name* if it was used last at *used_at* (ns); return whether it was there for that."""
        try:
            with self.opened() as folder:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if status.st_mtime_ns != used_at:
                    return False
                os.unlink(name, dir_fd=folder)
        except OSError as problem:
            if problem.errno in _ABSENT:
                return False
            raise
        return True

    def probe(self, subfolder: str) -> None:
        """Prove that the folder can be written and read, and flushed to its device."""
        content = secrets.token_bytes(_PROBE_SIZE)
        with self.opened(create=True) as folder:
            name = f"{subfolder}/{TEMPORARY}{secrets.token_hex(8)}"
            try:
                with _created(name, folder) as fd:
                    _write_all(fd, [content])
                    os.fsync(fd)
                with _descriptor(name, folder) as fd:
                    if _read_exactly(fd, _PROBE_SIZE, 0) != content:
                        raise OSError(errno.EIO, "What was written reads differently")
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)

    def room(self) -> int:
        """Return how many bytes may be written; below zero if others need some of what is used."""
        try:
            with self.opened() as folder:
                return self._room(folder)
        except FileNotFoundError:
            return sys.maxsize  # nothing is used, so nothing has to go

    # -- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def opened(self, *, create: bool = False) -> Iterator[int]:
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

    def _sized(self, name: str, length: int, max_before: int) -> Opened | None:
        """Open the file *name*. Raises FormatError if it has no room for *length* bytes and some before."""
        opened = self.open(name, 0)
        if opened is not None and not 0 < opened.size - length <= max_before:
            raise _damaged("its size is wrong")
        return opened

    def _mark_soon(self, opened: Opened) -> None:
        """Mark a file as used if it was not lately."""
        if abs(self._now() - opened.used_at) > TOUCH_AFTER:
            self.mark_used(opened.descriptor)

    def _write(self, name: str, buffers: Sequence[bytes | memoryview]) -> None:
        temporary = f"{name.rpartition('/')[0]}/{TEMPORARY}{secrets.token_hex(8)}"
        with self.opened(create=True) as folder:
            if sum(map(len, buffers)) > self._room(folder):
                raise OSError(errno.ENOSPC, "The disk is full but for the part left to others")
            try:
                with _created(temporary, folder) as fd:
                    _write_all(fd, buffers)
                    now = self._now()
                    with contextlib.suppress(OSError):
                        os.utime(fd, (now, now))
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

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
def directory(name: str, folder: int) -> Iterator[int]:
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


def _read_into(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill *buffer* from *offset* on. Raises FormatError if the file ends before."""
    while buffer:
        count = os.preadv(fd, [buffer], offset)
        if not count:
            raise _damaged("it is cut short")
        buffer, offset = buffer[count:], offset + count


def _read_exactly(fd: int, length: int, offset: int) -> bytes:
    """Return *length* bytes from *offset*. Raises FormatError if the file ends before."""
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    missing = length - len(data)
    while missing:
        part = os.pread(fd, missing, offset + length - missing)
        if not part:
            raise _damaged("it is cut short")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _write_all(fd: int, buffers: Sequence[bytes | memoryview]) -> None:
    for begin in range(0, len(buffers), _AT_ONCE):
        rest = [memoryview(buffer).cast("B") for buffer in buffers[begin : begin + _AT_ONCE]]
        while rest:
            written = os.writev(fd, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]


@contextlib.contextmanager
def absent_is_fine() -> Iterator[None]:
    """Go on where something is not there, or not there any more."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in _ABSENT:
            raise


def _damaged(what: str) -> FormatError:
    return FormatError(ErrorKind.CORRUPT_METADATA, what)
