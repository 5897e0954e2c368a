"""FUSE: requests become calls of `Filesystem`, and every outcome becomes a reply.

The only user of pyfuse3. An exception that left a handler would end the mount, so each handler
is wrapped by `_total`: a `VzfsError` becomes the errno of the one table below, anything else
becomes EIO and a traceback in the log. Names are bytes here, UTF-8 whatever
the locale, and `str` (surrogateescape) everywhere above.
"""

import contextlib
import dataclasses
import errno
import functools
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Concatenate, Final, NoReturn

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FUSEError,
    InodeT,
    RequestContext,
    XAttrNameT,
)

from vzfs.errors import ErrorKind, MountError, VzfsError
from vzfs.filesystem import MAX_NAME, Attrs, Filesystem

logger = logging.getLogger("vzfs.fuse")

FOREVER: Final = 10.0 * 365 * 86400
"""Seconds that the kernel may keep what it was told: a mount shows one snapshot for its whole
life."""
BLOCK_SIZE: Final = 128 * 1024
MAX_REQUESTS: Final = 500
"""Requests answered at a time. Reads that wait for a dead server must leave room for those that
need none."""
REPEAT_AFTER: Final = 60.0
"""Seconds in which one and the same failure is logged once."""
MAX_REPORTED: Final = 10_000

ERRNO: Final = {
    ErrorKind.NO_SUCH_NAME: errno.ENOENT,
    ErrorKind.NOT_A_DIRECTORY: errno.ENOTDIR,
    ErrorKind.IS_A_DIRECTORY: errno.EISDIR,
    ErrorKind.NAME_TOO_LONG: errno.ENAMETOOLONG,
    ErrorKind.NO_SUCH_ATTRIBUTE: errno.ENODATA,
    ErrorKind.READ_ONLY: errno.EROFS,
    ErrorKind.STALE_INODE: errno.ESTALE,
    ErrorKind.NO_CONTAINER: errno.EACCES,
    ErrorKind.NOT_ALLOWED: errno.EACCES,
    ErrorKind.BAD_LOCATION: errno.EACCES,
    ErrorKind.SOURCE_DENIED: errno.EACCES,
    ErrorKind.SOURCE_CHANGED: errno.ESTALE,
    ErrorKind.SOURCE_VANISHED: errno.ESTALE,
    ErrorKind.SOURCE_TIMEOUT: errno.ETIMEDOUT,
}
"""Which errno a kind of error is; every kind that is not here is EIO."""

_SILENT: Final = frozenset(
    {
        ErrorKind.NO_SUCH_NAME,
        ErrorKind.NOT_A_DIRECTORY,
        ErrorKind.IS_A_DIRECTORY,
        ErrorKind.NAME_TOO_LONG,
        ErrorKind.NO_SUCH_ATTRIBUTE,
        ErrorKind.READ_ONLY,
    }
)
"""Kinds that are ordinary answers, not troubles."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ownership:
    """Whose files the mount shows, and which permissions *umask* takes away."""

    uid: int
    gid: int
    umask: int = 0o022


type Handler[**P, R] = Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]


def _total[**P, R](handler: Handler[P, R]) -> Handler[P, R]:
    """Make every outcome of *handler* a reply."""

    @functools.wraps(handler)
    async def wrapped(self: "Operations", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except VzfsError as error:
            self.report(handler.__name__, args[0], error)
            raise FUSEError(ERRNO.get(error.kind, errno.EIO)) from None
        except Exception:
            logger.exception("%s failed: this is a bug in vzfs, please report it", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return wrapped  # type: ignore[return-value]  # what functools.wraps returns is such a function


class Operations(pyfuse3.Operations):
    """One `Filesystem` as pyfuse3 handlers."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: Filesystem, ownership: Ownership) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._ownership = ownership
        self._reported: dict[tuple[ErrorKind, str], float] = {}
        self._entry = self._template()

    # -- answering -----------------------------------------------------------------------------

    def _template(self) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_uid, entry.st_gid = self._ownership.uid, self._ownership.gid
        entry.st_nlink = 1
        entry.st_blksize = BLOCK_SIZE
        when = self._filesystem.snapshot.written_at
        entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = when
        return entry

    def _answer(self, attrs: Attrs, entry: EntryAttributes) -> EntryAttributes:
        """Write *attrs* into *entry*."""
        entry.st_ino = InodeT(attrs.inode)
        permissions = stat.S_IFDIR | 0o555 if attrs.is_dir else stat.S_IFREG | 0o444
        entry.st_mode = pyfuse3.ModeT(permissions & ~self._ownership.umask)
        entry.st_size = attrs.size
        entry.st_blocks = -(-attrs.size // 512)
        entry.entry_timeout = entry.attr_timeout = FOREVER if attrs.is_certain else 0
        return entry

    def report(self, operation: str, inode: object, error: VzfsError) -> None:
        """Log one line for a trouble, and nothing for its repetition within a minute.

        What is not allowed repeats for every chunk of a prefix; one line names the prefix.
        """
        if error.kind in _SILENT:
            return
        path = self._filesystem.path(inode) if isinstance(inode, int) else ""
        cause = (error.kind, error.advice if error.kind is ErrorKind.NOT_ALLOWED else error.where)
        now = trio.current_time()
        if self._reported.get(cause, -REPEAT_AFTER) + REPEAT_AFTER > now:
            logger.debug("%s %s: %s (%s)", operation, path, error, error.kind)
            return
        if len(self._reported) >= MAX_REPORTED:
            self._reported.clear()
        self._reported[cause] = now
        logger.warning("%s %s: %s (%s)", operation, path, error, error.kind)

    # -- names ---------------------------------------------------------------------------------

    @_total
    async def lookup(
        self, parent_inode: InodeT, name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        try:
            attrs = await self._filesystem.lookup(parent_inode, _decode(name))
        except VzfsError as error:
            if error.kind is not ErrorKind.NO_SUCH_NAME:
                raise
            # An entry without an inode: the kernel remembers that the name does not exist.
            absent = self._template()
            absent.st_ino = InodeT(0)
            absent.entry_timeout = FOREVER
            return absent
        return self._answer(attrs, self._template())

    @_total
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._answer(await self._filesystem.attrs(inode), self._template())

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Do nothing: numbers are computed, so there is nothing to give back."""

    # -- listings ------------------------------------------------------------------------------

    @_total
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    @_total
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        entry = self._entry
        for name, attrs, position in await self._filesystem.children(fh, start_id):
            encoded = _encode(name)
            if not pyfuse3.readdir_reply(token, encoded, self._answer(attrs, entry), position):
                return

    # -- bytes ---------------------------------------------------------------------------------

    @_total
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise FUSEError(errno.EROFS)
        attrs = await self._filesystem.open(inode)
        return FileInfo(
            fh=FileHandleT(inode), keep_cache=attrs.is_certain, direct_io=not attrs.is_certain
        )

    @_total
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # any buffer will do
        return await self._filesystem.read(fh, off, size)

    # -- provenance and totals -----------------------------------------------------------------

    @_total
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        return _encode(await self._filesystem.xattr(inode, _decode(name)))

    @_total
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(_encode(name)) for name in await self._filesystem.xattrs(inode)]

    @_total
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        totals = self._filesystem.totals()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_SIZE
        data.f_blocks = -(-totals.size // BLOCK_SIZE)
        data.f_files = totals.files
        data.f_bfree = data.f_bavail = data.f_ffree = data.f_favail = 0
        data.f_namemax = MAX_NAME
        return data

    # -- what does nothing, and what is refused ------------------------------------------------

    async def flush(self, fh: FileHandleT) -> NoReturn:
        """Have the kernel never ask again: nothing is ever written."""
        raise FUSEError(errno.ENOSYS)

    async def release(self, fh: FileHandleT) -> None:
        """Do nothing: a handle has no state."""

    async def releasedir(self, fh: FileHandleT) -> None:
        """Do nothing: a handle has no state."""

    async def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    write = fsync = fsyncdir = setxattr = removexattr = create = _refuse


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def options(source: str, *, allow_other: bool) -> set[str]:
    """Return the FUSE options of a mount of *source*, in ASCII; the mount table shows it.

    `ro` makes the kernel refuse what would change anything, and spares a GETATTR after each read.
    """
    chosen = {"ro", "nosuid", "nodev", "noatime", "default_permissions", "subtype=vzfs"}
    # libfuse splits options at commas and takes a backslash for an escape.
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    chosen.add(f"fsname={name}")
    if allow_other:
        chosen.add("allow_other")
    return chosen


def init(operations: Operations, mountpoint: str, chosen: set[str]) -> None:
    """Mount. Raises MountError where the kernel or fusermount3 refuses."""
    with tempfile.TemporaryFile() as said:
        try:
            with _stderr_into(said.fileno()):
                pyfuse3.init(operations, mountpoint, chosen)
        except RuntimeError as error:
            said.seek(0)
            lines = said.read(4096).decode("utf-8", "replace").split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), str(error))
            raise MountError(
                ErrorKind.FUSE_UNAVAILABLE,
                f"the kernel does not mount here: {reason}",
                where=mountpoint,
                advice="it takes /dev/fuse, fusermount3 (package fuse3), and, for --allow-other, "
                "user_allow_other in /etc/fuse.conf",
            ) from None


@contextlib.contextmanager
def _stderr_into(descriptor: int) -> Iterator[None]:
    """Collect what libfuse and fusermount3 say: they write their reasons to standard error only."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


async def serve() -> None:
    """Answer requests until the file system is unmounted or `stop` is called."""
    await pyfuse3.main(max_tasks=MAX_REQUESTS)


def stop() -> None:
    """Have `serve` return."""
    pyfuse3.terminate()


def close() -> None:
    """Unmount, lazily if somebody still uses the mount, and give everything back."""
    pyfuse3.close(unmount=True)
