"""Paths inside mounts: what their extended attributes say, and why a path says nothing."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vzfs import mounttable
from vzfs.errors import AccessDenied, ErrorKind, MountError, NameProblem, SourceError, VzfsError
from vzfs.mounttable import Mounted

PREFIX: Final = "user.vzfs."
"""What the names of our extended attributes begin with."""


def mount_of(path: str) -> tuple[Mounted, os.stat_result]:
    """Return the mount that *path* lies in, and what it says of the path itself.

    Raises NameProblem if nothing is there, MountError if it is in no mount of vzfs, and as `telling`
    does.
    """
    with telling(path):
        status = os.stat(path)  # noqa: PTH116 -- a path that cannot be normalized is as it is
        mounted = mounttable.containing(Path(path))
    if mounted is None or mounted.fstype != mounttable.FSTYPE:
        raise MountError(
            ErrorKind.NOT_MOUNTED,
            "this path is in no vzfs mount",
            where=path,
            advice="`findmnt -t fuse.vzfs` lists them",
        )
    return mounted, status


def attributes_of(path: str) -> dict[str, str]:
    """Return all that the mount says of *path*, by names without their common prefix."""
    with telling(path):
        found = {name: attribute(path, name) for name in names(path)}
    return {name.removeprefix(PREFIX): text for name, text in found.items() if text is not None}


def names(path: str) -> list[str]:
    """Return the whole names of our attributes that *path* has. Raises OSError."""
    return [name for name in os.listxattr(path) if name.startswith(PREFIX)]


def attribute(path: str, name: str) -> str | None:
    """Return one extended attribute by its whole name, None if there is none. Raises OSError."""
    try:
        return os.fsdecode(os.getxattr(path, name))
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


@contextlib.contextmanager
def telling(path: str) -> Iterator[None]:
    """Make of what the kernel or a mount says of *path* an error of one line."""
    try:
        yield
    except OSError as error:
        raise _said(path, error) from None


def _said(path: str, error: OSError) -> VzfsError:
    reason = error.strerror or "no reason is given"
    match error.errno:
        case errno.ENOENT:
            return NameProblem(
                ErrorKind.NO_SUCH_NAME,
                "there is no such path",
                where=path,
                advice="in a mount, a chunk without a file holds the fill value",
            )
        case errno.ENOTDIR:
            return NameProblem(
                ErrorKind.NOT_A_DIRECTORY, "the path leads through a file", where=path
            )
        case errno.ENAMETOOLONG:
            return NameProblem(
                ErrorKind.NAME_TOO_LONG, "a name in the path is too long", where=path
            )
        case errno.ENOTCONN:
            return MountError(
                ErrorKind.BAD_MOUNTPOINT,
                "the daemon of the mount has died",
                where=path,
                advice="remove the mount with: vzfs umount --lazy MOUNTPOINT",
            )
        case errno.EACCES | errno.EPERM:
            return AccessDenied(
                ErrorKind.SOURCE_DENIED,
                "you may not look at this path",
                where=path,
                advice="a mount is of the user who made it, unless it is shared",
            )
        case errno.ETIMEDOUT:
            kind = ErrorKind.SOURCE_TIMEOUT
        case _:
            kind = ErrorKind.SOURCE_UNREACHABLE
    return SourceError(
        kind,
        f"the mount cannot say what is here ({reason})",
        where=path,
        advice="its log says why",
    )
