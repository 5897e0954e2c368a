"""Opening files beneath a directory that must not be left.

`openat2` lets the kernel refuse every path that leaves the directory, by `..` or by a link, with no
moment in between in which a link could be swapped. Where it is missing (Linux before 5.6, some
sandboxes), the path is walked component by component and links are not followed at all.
"""

import ctypes
import errno
import functools
import os
import stat
from typing import Final

_SYSCALL_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_CACHED: Final = 0x20
_AT_FDCWD: Final = -100
_MACHINES: Final = frozenset({"x86_64", "aarch64"})
_RACES: Final = 16
"""Tries against renames that go on while the kernel resolves `..` (it says EAGAIN)."""

READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Never wait for the writer of a FIFO, never take a terminal."""

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
PLACE: Final = os.O_PATH | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(
    folder: int, path: str, flags: int, *, links: bool = True, cached: bool = False
) -> int:
    """Open *path*, relative to the directory *folder*, without leaving it. Return a descriptor.

    With *links* False no link is followed, wherever it leads. With *cached* no name is looked up
    that the kernel does not know, nor any mount entered: EAGAIN and EXDEV. Raises OSError: EXDEV or
    ELOOP for a path that leads out, or through a link that is not followed.
    """
    if has_openat2():
        resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | (0 if links else _RESOLVE_NO_SYMLINKS)
        if cached:
            resolve |= _RESOLVE_CACHED | _RESOLVE_NO_XDEV
        return _openat2(folder, path or ".", flags, resolve)
    if cached:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
    return walk_beneath(folder, path, flags)


def open_cached(path: str, flags: int) -> int:
    """Open an absolute *path* if the kernel knows every name in it. Raises OSError."""
    if not has_openat2():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
    return _openat2(_AT_FDCWD, path, flags, _RESOLVE_CACHED)


def walk_beneath(folder: int, path: str, flags: int) -> int:
    """Open *path* below *folder* component by component, following no link. Raises OSError."""
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} for part in parts):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    here = os.open(".", PLACE | os.O_DIRECTORY, dir_fd=folder)
    try:
        for part in parts[:-1]:
            below = _step(here, part, PLACE | os.O_DIRECTORY)
            os.close(here)
            here = below
        return _step(here, parts[-1] if parts else ".", flags)
    finally:
        os.close(here)


def _step(here: int, name: str, flags: int) -> int:
    if flags & os.O_PATH and stat.S_ISLNK(
        os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
    ):
        # O_PATH with O_NOFOLLOW opens the link itself.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


@functools.cache
def has_openat2() -> bool:
    """Whether the kernel has `openat2` and lets this process use it."""
    if os.uname().machine not in _MACHINES:
        return False
    root = os.open("/", PLACE | os.O_DIRECTORY)
    try:
        os.close(_openat2(root, ".", PLACE, _RESOLVE_BENEATH))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(_OpenHow),
        ctypes.c_size_t,
    )
    libc.syscall.restype = ctypes.c_long
    return libc


def _openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve)
    name = os.fsencode(path)
    code = errno.EAGAIN
    for _ in range(_RACES):
        descriptor: int = _libc().syscall(
            _SYSCALL_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how)
        )
        if descriptor >= 0:
            return descriptor
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR} or resolve & _RESOLVE_CACHED:
            break
    raise OSError(code, os.strerror(code), path)
