"""FUSE: requests become calls of `Filesystem`, and every outcome becomes a reply.

The only user of pyfuse3. An exception that left a handler would end the mount, so each handler
is wrapped by `_total`: a `VzfsError` becomes the errno of the one table below, anything else
becomes EIO and a traceback in the log. Names are bytes here, UTF-8 whatever
the locale, and `str` (surrogateescape) everywhere above.

Two things that the kernel leaves to file systems are seen to here. A request that waits for a
source is given up when the process that waits for its answer was killed, because the kernel lets go
of a process no earlier (but for buffered reads, of which it lets go by itself). And what the kernel
keeps of files that may no longer be read is taken from it.
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import logging
import os
import re
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, NamedTuple, NoReturn

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

from vzfs.access import Access
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
MAX_BACKGROUND: Final = 400
"""Buffered reads that the kernel lets wait at a time: fewer than `MAX_REQUESTS`, and far more than
its default of 12, which one server that stalls would use up for everybody."""
CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
"""Where the kernel lets the owner of a connection set that, once `fusectl` is mounted there."""
KILL_CHECK: Final = 0.25
"""Seconds after which a request that waits is looked at again: was who waits for it killed?"""
MAX_DROPPING: Final = 8
"""Threads that take pages from the kernel at a time; it may make one wait for a read."""
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
    ErrorKind.ADDRESS_REFUSED: errno.EACCES,
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
    """Whose files the mount shows, and which permissions *umask* takes away.

    *root_mode* are the permissions of the root directory in their place.
    """

    uid: int
    gid: int
    umask: int = 0o022
    root_mode: int | None = None


type Handler[**P, R] = Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]


def _total[**P, R](handler: Handler[P, R]) -> Handler[P, R]:
    """Make every outcome of *handler* a reply."""

    @functools.wraps(handler)
    async def wrapped(self: "Operations", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with self.waits.of(self.caller(args)):
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


_KILLED: Final = 1 << (signal.SIGKILL - 1)
_PENDING = re.compile(rb"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", re.MULTILINE)


class _Waits:
    """The requests that are being answered, and the threads that wait for the answers.

    The kernel tells by FUSE_INTERRUPT that somebody who waits was killed, which pyfuse3 does not
    hear. So those who wait for long are looked at.
    """

    def __init__(self) -> None:
        self._waiting: dict[trio.CancelScope, int] = {}
        self._are_some = trio.Event()

    @contextlib.contextmanager
    def of(self, thread: int) -> Iterator[None]:
        """Give up what is inside, with EINTR, once *thread* was killed; 0 is nobody known."""
        if not thread:
            yield
            return
        with trio.CancelScope() as scope:
            self._waiting[scope] = thread
            self._are_some.set()
            try:
                yield
            finally:
                del self._waiting[scope]
        if scope.cancelled_caught:
            raise FUSEError(errno.EINTR)

    async def watch(self) -> None:
        """Look at those who wait, until cancelled. Sleeps while nobody does."""
        while True:
            await self._are_some.wait()
            await trio.sleep(KILL_CHECK)
            killed = {thread for thread in set(self._waiting.values()) if _is_killed(thread)}
            for scope, thread in self._waiting.items():
                if thread in killed:
                    scope.cancel()
            if not self._waiting:
                self._are_some = trio.Event()


def _is_killed(thread: int) -> bool:
    """Whether a thread is to end as soon as the kernel lets go of it.

    A signal that ends a process, whichever it was, is a pending SIGKILL in each of its threads.
    """
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return False
    return any(int(mask, 16) & _KILLED for mask in _PENDING.findall(status))


class _Open(NamedTuple):
    """A handle whose reads the kernel waits for as it does for any request, and who opened it."""

    inode: int
    thread: int


_HANDLES: Final = 2**63
"""Handles from here on are in a table; those below are inode numbers."""


class Operations(pyfuse3.Operations):
    """One `Filesystem` as pyfuse3 handlers."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: Filesystem, ownership: Ownership) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._ownership = ownership
        self.waits: Final = _Waits()
        self._reported: dict[tuple[ErrorKind, str], float] = {}
        self._opened: dict[int, _Open] = {}
        self._handles = itertools.count(_HANDLES)
        self._kept: set[int] = set()
        self._entry = self._template()

    # -- handles -------------------------------------------------------------------------------

    def inode(self, number: int) -> int:
        """Return the inode number that a handle, or an inode number, means."""
        opened = self._opened.get(number)
        return number if opened is None else opened.inode

    def caller(self, args: Sequence[object]) -> int:
        """Return the thread that waits for the answer to a request, 0 if it is not known.

        Of who reads pyfuse3 says nothing: it is taken for the thread that opened.
        """
        if isinstance(args[-1], RequestContext):
            return args[-1].pid
        opened = self._opened.get(args[0]) if isinstance(args[0], int) else None
        return 0 if opened is None else opened.thread

    def _handle(self, inode: int, ctx: RequestContext) -> FileHandleT:
        """Return a handle that remembers who opened it."""
        handle = next(self._handles)
        self._opened[handle] = _Open(inode, self.caller([ctx]))
        return FileHandleT(handle)

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
        permissions &= ~self._ownership.umask
        if attrs.inode == pyfuse3.ROOT_INODE and self._ownership.root_mode is not None:
            permissions = stat.S_IFDIR | self._ownership.root_mode
        entry.st_mode = pyfuse3.ModeT(permissions)
        entry.st_size = attrs.size
        entry.st_blocks = -(-attrs.size // 512)
        entry.entry_timeout = entry.attr_timeout = FOREVER if attrs.is_certain else 0
        return entry

    def report(self, operation: str, inode: object, error: VzfsError) -> None:
        """Log one line for a trouble, and nothing for its repetition within a minute.

        What is not allowed repeats for every chunk of a prefix; one line names the prefix. Being
        offline repeats for everything.
        """
        if error.kind in _SILENT:
            return
        path = self._filesystem.path(self.inode(inode)) if isinstance(inode, int) else ""
        cause = (error.kind, _what_repeats(error))
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
        """Forget that the kernel keeps pages of these: it keeps none of what it forgets."""
        self._kept.difference_update(inode for inode, _ in inode_list)

    # -- listings ------------------------------------------------------------------------------

    @_total
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return self._handle(inode, ctx)

    @_total
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        entry = self._entry
        for name, attrs, position in await self._filesystem.children(self.inode(fh), start_id):
            encoded = _encode(name)
            if not pyfuse3.readdir_reply(token, encoded, self._answer(attrs, entry), position):
                return

    # -- bytes ---------------------------------------------------------------------------------

    @_total
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise FUSEError(errno.EROFS)
        attrs = await self._filesystem.open(inode)
        is_buffered = attrs.is_certain and not flags & os.O_DIRECT
        return FileInfo(
            fh=FileHandleT(inode) if is_buffered else self._handle(inode, ctx),
            keep_cache=attrs.is_certain,
            direct_io=not attrs.is_certain,
        )

    @_total
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # any buffer will do
        inode = self.inode(fh)
        data = await self._filesystem.read(inode, off, size)
        # The reply is on its way before anybody else runs, so it is known before it is kept.
        self._kept.add(inode)
        return data

    # -- other rules ---------------------------------------------------------------------------

    async def adopt(self, access: Access) -> int:
        """Let *access* decide from now on; return of how many files the kernel had to drop pages.

        A file that is read already gives its next bytes, and its mapped pages, by *access* too.
        """
        before = self._filesystem.adopt(access)
        outdated = []
        for inode in list(self._kept):
            if not await self._filesystem.reads_as_under(before, inode):
                outdated.append(InodeT(inode))
            await trio.lowlevel.checkpoint()
        limiter = trio.CapacityLimiter(MAX_DROPPING)
        async with trio.open_nursery() as nursery:
            for first in range(min(MAX_DROPPING, len(outdated))):
                part = outdated[first::MAX_DROPPING]
                nursery.start_soon(
                    functools.partial(
                        trio.to_thread.run_sync,
                        _drop,
                        part,
                        limiter=limiter,
                        abandon_on_cancel=True,
                    )
                )
        return len(outdated)

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
        """Forget who opened it."""
        self._opened.pop(fh, None)

    releasedir = release

    async def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    write = fsync = fsyncdir = setxattr = removexattr = create = _refuse


def _what_repeats(error: VzfsError) -> str:
    """Return what two errors of one kind have in common when they are the same trouble."""
    if error.kind in {ErrorKind.OFFLINE, ErrorKind.EGRESS_SPENT}:
        return ""
    return error.advice if error.kind is ErrorKind.NOT_ALLOWED else error.where


def _drop(inodes: Iterable[InodeT]) -> None:
    """Have the kernel drop what it keeps of files. Waits for reads of them that are under way."""
    for inode in inodes:
        # The kernel may have forgotten it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            pyfuse3.invalidate_inode(inode)


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


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of pyfuse3's is not that a reply came too late: who waited is gone, or the mount."""
    return "fuse_reply_" not in record.msg or record.args != (os.strerror(errno.ENOENT),)


def init(operations: Operations, mountpoint: str, chosen: set[str]) -> None:
    """Mount. Raises MountError where the kernel or fusermount3 refuses."""
    logging.getLogger("pyfuse3").addFilter(_is_news)
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
                advice="it takes /dev/fuse, fusermount3 (package fuse3), and, for --allow-other "
                "and --group, user_allow_other in /etc/fuse.conf",
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


async def serve(operations: Operations) -> None:
    """Answer requests until the file system is unmounted or `stop` is called."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operations.waits.watch)
        await pyfuse3.main(max_tasks=MAX_REQUESTS)
        nursery.cancel_scope.cancel()


def make_room(device: str) -> None:
    """Have the kernel let `MAX_BACKGROUND` reads of the mount with the number *device* wait at a time."""
    limit = CONNECTIONS / device.partition(":")[2] / "max_background"
    try:
        limit.write_text(str(MAX_BACKGROUND))
    except OSError as error:
        logger.info(
            "a source that stalls for a dozen readers may hold up all others, since the kernel's "
            "limit cannot be raised: %s [%s]: mount fusectl at %s",
            error.strerror,
            limit,
            CONNECTIONS,
        )


def stop() -> None:
    """Have `serve` return."""
    pyfuse3.terminate()


def close() -> None:
    """Unmount, lazily if somebody still uses the mount, and give everything back."""
    pyfuse3.close(unmount=True)
