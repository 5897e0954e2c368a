"""Files that can be read without waiting, on the event loop: those that the kernel has in memory.

A read in a thread costs several times what reading costs. Here nothing may wait for a disk, a server
or another process, so nothing is done that could. Names are found in the kernel's cache of names
(RESOLVE_CACHED), with no mount entered below the root; the file lies on a local disk of a kind whose
files open without a request to anybody, which a thread has found out before; reading it will not
write down when that was; and its bytes come from the page cache (RWF_NOWAIT). What is not at hand
raises OSError, and is for a thread to read.
"""

import ctypes
import errno
import functools
import os
import struct
import time
from collections.abc import Iterable
from typing import Final

from vzfs.source import openat

MOST: Final = 1 << 18
"""Bytes read at once: other tasks wait some 50 us for them to be copied."""

KINDS: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs"})
"""Kinds of file systems on local disks. Others may ask servers or programs, ourselves among them."""

KNOWN_FOR: Final = 60.0
"""Seconds for which it counts what was found out about a disk."""

_SEEN_LATELY: Final = 20 * 3600.0
"""Seconds. With `relatime`, a read writes the time of access down once a day and after a change."""

_MOUNTS: Final = "/proc/self/mountinfo"
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_SIZE: Final = 256
_STATX_DEVICE: Final = 136


class Disks:
    """Which disks hold files that can be read without waiting. Safe to use from many threads."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def learn(self, device: int) -> None:
        """Find out about the disk of a file that was opened, which may take a while."""
        now = time.monotonic()
        if self._until.get(device, 0.0) > now or not os.major(device):
            return
        try:
            with open(_MOUNTS, encoding="utf-8", errors="replace") as mounts:  # noqa: PTH123 -- no path
                is_local = is_local_disk(device, mounts)
        except OSError:
            is_local = False
        if is_local:
            self._until[device] = now + KNOWN_FOR
        else:
            self._until.pop(device, None)

    def open(self, folder: str, path: str, *, links: bool) -> int:
        """Open the file *path* beneath *folder*, as `openat.open_beneath` does. Raises OSError."""
        top = openat.open_cached(folder, openat.PLACE | os.O_DIRECTORY)
        try:
            if self._until.get(device_of(top), 0.0) <= time.monotonic():
                raise _would_wait()
            return openat.open_beneath(top, path, openat.READ, links=links, cached=True)
        finally:
            os.close(top)


def read(file: int, found: os.stat_result, offset: int, length: int) -> memoryview:
    """Return *length* bytes of *file*, of which *found* was said just before. Raises OSError."""
    accessed = found.st_atime
    is_noted = accessed > found.st_mtime and accessed > found.st_ctime
    if not is_noted or accessed < time.time() - _SEEN_LATELY:
        raise _would_wait()
    buffer = memoryview(bytearray(length))
    if os.preadv(file, [buffer], offset, os.RWF_NOWAIT) != length:
        raise _would_wait()
    return buffer.toreadonly()


def is_local_disk(device: int, mounts: Iterable[str]) -> bool:
    """Whether *mounts*, lines of mountinfo, have *device* for a local disk, wherever it is mounted. Pure."""
    name = f"{os.major(device)}:{os.minor(device)}"
    kinds = set()
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 5 and fields[2] == name:
            options = fields[5].split(",")
            is_quiet = "relatime" in options or "noatime" in options
            kinds.add(after.split(" ")[0] if is_quiet else "")
    return bool(kinds) and kinds <= KINDS


def device_of(place: int) -> int:
    """Return the device that *place*, a descriptor, is on, without asking whoever serves it. Raises OSError."""
    statx = _statx()
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    if statx is None or statx(place, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0, answer):
        raise _would_wait()
    return os.makedev(*struct.unpack_from("=II", answer, _STATX_DEVICE))


@functools.cache
def _statx() -> "ctypes._NamedFuncPointer | None":
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return None
    statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    return statx


def _would_wait() -> OSError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
