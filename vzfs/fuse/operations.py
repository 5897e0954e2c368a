"""What the mount answers: requests become calls of `Filesystem`, and every outcome becomes a reply.

An answer is bytes or an errno, and nothing else leaves `Operations.answer`: a `VzfsError` becomes the
errno of the one table below, anything unexpected becomes EIO and a traceback in the log. Names are
bytes here, UTF-8 whatever the locale, and `str` (surrogateescape) everywhere above.

A request names its inode, so that a handle means nothing and needs no table. What the kernel keeps
of files that may no longer be read is known, so that it can be taken from it.
"""

import dataclasses
import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from time import time_ns
from typing import Final, NamedTuple

import trio

from vzfs.access import Access
from vzfs.errors import ErrorKind, VzfsError
from vzfs.filesystem import (
    CACHED,
    FOREVER,
    MAX_NAME,
    Filesystem,
    NotLoaded,
    settle,
)
from vzfs.fuse import listing, protocol
from vzfs.fuse.listing import Form, Habit
from vzfs.fuse.protocol import Attributes, Feature, Opcode, Opening
from vzfs.fuse.session import Answer, Eventual, Later

logger = logging.getLogger("vzfs.fuse")

BLOCK_SIZE: Final = 128 * 1024
REPEAT_AFTER: Final = 60.0
"""Seconds in which one and the same failure is logged once."""
MAX_REPORTED: Final = 10_000
MAX_KINDS: Final = 1024
"""Snapshots of which is remembered what their files have in common."""
LARGE: Final = 2**20
"""Bytes from which a chunk is read past the page cache: the kernel asks for 1 MiB at a time and makes no
pages. At 8 MiB that takes 4 ms of processor time, of daemon and reader together, and through the
page cache 11 ms, or 9 ms if root has it read 1 MiB ahead; reading it again takes 3 ms from the daemon's
memory and 4 ms from the page cache."""
MAX_LISTED: Final = 2**20
"""Bytes of a listing sent at a time, however many are asked for."""

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


class _Kinds(NamedTuple):
    """What all files, all directories, and the root have in common."""

    file: Attributes
    dir: Attributes
    root: Attributes

    @classmethod
    def of(cls, ownership: Ownership, time: int) -> "_Kinds":
        """Say it of what was written at *time* (nanoseconds)."""

        def kind(mode: int) -> Attributes:
            return Attributes(mode, ownership.uid, ownership.gid, time, BLOCK_SIZE)

        folder = kind(stat.S_IFDIR | 0o555 & ~ownership.umask)
        root = folder
        if ownership.root_mode is not None:
            root = kind(stat.S_IFDIR | ownership.root_mode)
        return cls(kind(stat.S_IFREG | 0o444 & ~ownership.umask), folder, root)


type Handler = Callable[[int, bytes, int], Eventual]
"""Answers a request about an inode, as a message, of a thread."""


class Operations:
    """One `Filesystem` as answers to requests."""

    def __init__(self, filesystem: Filesystem, ownership: Ownership) -> None:
        self._filesystem = filesystem
        self._reported: dict[tuple[ErrorKind, str], float] = {}
        self._kept: dict[int, int] = {}
        self._round = 0
        self._habit = Habit()
        self._can_map_direct = False
        self._may_be_large = filesystem.max_chunk_nbytes >= LARGE
        self._ownership = ownership
        self._kinds: dict[int, _Kinds] = {}
        self._handlers: dict[int, Handler] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.RELEASE: self._release,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._release,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.STATFS: self._statfs,
        }

    # -- any request ---------------------------------------------------------------------------

    def answer(self, opcode: int, inode: int, message: bytes, thread: int) -> Eventual:
        """Answer a request at once, or return what has to be waited for. Raises nothing."""
        handler = self._handlers.get(opcode)
        if handler is None:
            return _REFUSED.get(opcode, errno.ENOSYS)
        try:
            return handler(inode, message, thread)
        except NotLoaded:
            ask = functools.partial(handler, inode, message, thread)
            return self._later(opcode, inode, functools.partial(_again, ask))
        except Exception as error:  # noqa: BLE001 -- what is unexpected is reported
            return self._failure(opcode, inode, error)

    def _later(self, opcode: int, inode: int, ask: Callable[[], Awaitable[Answer]]) -> Later:
        """Return what has to be waited for; it raises nothing either."""

        async def wait() -> Answer:
            try:
                return await ask()
            except Exception as error:  # noqa: BLE001 -- what is unexpected is reported
                return self._failure(opcode, inode, error)

        return Later(wait)

    def _failure(self, opcode: int, inode: int, error: Exception) -> int:
        """Report why a request failed, and return its errno."""
        operation = Opcode(opcode).name.lower()
        if isinstance(error, VzfsError):
            self.report(operation, inode, error)
            return ERRNO.get(error.kind, errno.EIO)
        if isinstance(error, protocol.MalformedError):
            logger.error("the kernel made no sense: %s: %s", operation, error)
        else:
            logger.error(
                "%s failed: this is a bug in vzfs, please report it", operation, exc_info=error
            )
        return errno.EIO

    def report(self, operation: str, inode: int, error: VzfsError) -> None:
        """Log one line for a trouble, and nothing for its repetition within a minute.

        What is not allowed repeats for every chunk of a prefix; one line names the prefix. Being
        offline repeats for everything.
        """
        if error.kind in _SILENT:
            return
        path = self._filesystem.path(inode)
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

    def _kinds_of(self, inode: int) -> "_Kinds":
        """Return what all files, and all directories, of an inode's snapshot have in common."""
        time = self._filesystem.written_at(inode)
        if time is None:
            # What comes and goes is new whenever it is looked at, so that the kernel lists it again.
            return _Kinds.of(self._ownership, time_ns())
        found = self._kinds.get(time)
        if found is None:
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            found = self._kinds[time] = _Kinds.of(self._ownership, time)
        return found

    def _attributes(self, inode: int, *, is_dir: bool) -> Attributes:
        kinds = self._kinds_of(inode)
        if not is_dir:
            return kinds.file
        return kinds.root if inode == protocol.ROOT else kinds.dir

    def _lookup(self, inode: int, message: bytes, thread: int) -> Answer:
        del thread
        lasts = self._filesystem.lasts(inode)
        try:
            attrs = self._filesystem.lookup(inode, _decode(protocol.name(message)))
        except VzfsError as error:
            if error.kind is not ErrorKind.NO_SUCH_NAME:
                raise
            # The kernel remembers that the name does not exist.
            return protocol.absent_reply(lasts)
        self._habit.looked_up()
        found, is_dir, size, is_certain = attrs
        self._filesystem.looked_up(found)
        of = self._attributes(found, is_dir=is_dir)
        return protocol.entry_reply(found, size, of, lasts if is_certain else 0)

    def _getattr(self, inode: int, message: bytes, thread: int) -> Answer:
        del message, thread
        attrs = self._filesystem.attrs(inode)
        valid = self._filesystem.attrs_last(inode) if attrs.is_certain else 0
        of = self._attributes(inode, is_dir=attrs.is_dir)
        return protocol.attr_reply(inode, attrs.size, of, valid)

    # -- listings ------------------------------------------------------------------------------

    def _opendir(self, inode: int, message: bytes, thread: int) -> Answer:
        del inode, message, thread
        # The kernel never asks again, and keeps listings. One that ends is certain: one for which a
        # manifest is missing fails.
        return errno.ENOSYS

    def _readdir(self, inode: int, message: bytes, thread: int) -> Answer:
        del thread
        return self._list(inode, protocol.span(message), is_plus=False)

    def _readdirplus(self, inode: int, message: bytes, thread: int) -> Answer:
        del thread
        return self._list(inode, protocol.span(message), is_plus=True)

    def _list(self, inode: int, span: protocol.Span, *, is_plus: bool) -> Answer:
        room = min(span.size, MAX_LISTED)
        # Further on the kernel asks where names are looked up.
        is_wanted = is_plus and (span.offset > 0 or self._habit.looks_up)
        count = room // protocol.DIRENT_SIZE + 1
        run = self._filesystem.run(inode, span.offset, count, with_sizes=is_wanted)
        if run is None:
            return self._list_children(inode, span.offset, room, is_plus=is_plus)
        of = self._attributes(run.inode, is_dir=run.is_dir)
        form = Form.PLAIN
        if is_plus:
            # Directories are looked into.
            form = Form.PLUS if is_wanted or run.is_dir else Form.PLUS_NAMES
            if not span.offset and not run.is_dir:
                self._habit.begins()
        found, count = listing.lines(run, form, room, of, FOREVER)
        if form is Form.PLUS_NAMES:
            self._habit.gave_names(count)
        elif form is Form.PLUS:
            self._filesystem.looked_up(inode, count)
        return found if found or not len(run.numbers) else errno.EINVAL

    def _list_children(self, inode: int, after: int, room: int, *, is_plus: bool) -> Answer:
        lines: list[bytes] = []
        given: list[int] = []
        lasts = self._filesystem.lasts(inode)
        for name, attrs, position in self._filesystem.children(inode, after):
            found, is_dir, size, is_certain = attrs
            of = self._attributes(found or inode, is_dir=is_dir)
            number = found or protocol.UNKNOWN_INODE
            line = protocol.dirent(number, position, _kind(of), _encode(name))
            if is_plus and found:
                line = protocol.entry_reply(found, size, of, lasts if is_certain else 0) + line
            elif is_plus:
                line = protocol.NAME_ONLY + line
            room -= len(line)
            if room < 0:
                # An empty answer would say that there are no more.
                if not lines:
                    return errno.EINVAL
                break
            lines.append(line)
            if is_plus and found:
                given.append(found)
        # All are of one hierarchy, and none was given if a listing broke off.
        if given:
            self._filesystem.looked_up(given[0], len(given))
        return b"".join(lines)

    # -- bytes ---------------------------------------------------------------------------------

    def agreed(self, features: Feature) -> None:
        """Hear what the kernel can."""
        self._can_map_direct = Feature.DIRECT_IO_ALLOW_MMAP in features

    def _open(self, inode: int, message: bytes, thread: int) -> Answer:
        del thread
        if protocol.open_flags(message) & os.O_ACCMODE != os.O_RDONLY:
            return errno.EROFS
        if not (self._may_be_large and self._can_map_direct):
            # The kernel never asks again, and opens and closes by itself: all is read through the
            # page cache, and kept. Of a size that is not certain it keeps nothing, not even for one
            # read beyond it.
            return errno.ENOSYS
        attrs = self._filesystem.open(inode)
        is_direct = attrs.size >= LARGE or not attrs.is_certain
        return protocol.open_reply(Opening.DIRECT_IO if is_direct else Opening.KEEP_CACHE)

    def _read(self, inode: int, message: bytes, thread: int) -> Eventual:
        span = protocol.span(message)
        data = self._filesystem.read_now(inode, *span)
        if data is None:
            ask = functools.partial(self._read_later, inode, span, thread)
            return self._later(Opcode.READ, inode, ask)
        self._kept[inode] = self._round
        return data

    async def _read_later(self, inode: int, span: protocol.Span, thread: int) -> Answer:
        data = await self._filesystem.read(inode, *span)
        # The reply is on its way before anybody else runs, so it is known before it is kept.
        self._kept[inode] = self._round
        return data

    def _release(self, inode: int, message: bytes, thread: int) -> Answer:
        del inode, message, thread
        return b""

    # -- what the kernel keeps -----------------------------------------------------------------

    def drained(self) -> None:
        """Hear that everything that the kernel has had to say was read."""
        self._round += 1

    def forget(self, inode: int, count: int) -> None:
        """Hear that the kernel gave an inode back, given *count* times, and with it its pages.

        It may say so after it has looked the inode up and read it again, but not after all that it
        had to say was read. So what was read since then is not taken for forgotten.
        """
        if self._kept.get(inode, self._round) < self._round:
            del self._kept[inode]
        self._filesystem.forgotten(inode, count)

    async def adopt(self, access: Access) -> list[int]:
        """Let *access* decide from now on; return the files whose pages the kernel has to drop.

        A file that is read already gives its next bytes, and its mapped pages, by *access* too.
        """
        before = self._filesystem.adopt(access)
        outdated = []
        for inode in list(self._kept):
            if not await self._filesystem.reads_as_under(before, inode):
                outdated.append(inode)
            await trio.lowlevel.checkpoint()
        return outdated

    # -- provenance and totals -----------------------------------------------------------------

    def _getxattr(self, inode: int, message: bytes, thread: int) -> Eventual:
        del thread
        size = protocol.xattr_size(message)
        name = _decode(protocol.xattr_name(message))
        if name == CACHED:
            return self._later(Opcode.GETXATTR, inode, functools.partial(self._cached, inode, size))
        return _sized(_encode(self._filesystem.xattr(inode, name)), size)

    async def _cached(self, inode: int, size: int) -> Answer:
        return _sized(_encode(await self._filesystem.cached(inode)), size)

    def _listxattr(self, inode: int, message: bytes, thread: int) -> Answer:
        del thread
        names = self._filesystem.xattrs(inode)
        return _sized(
            b"".join(_encode(name) + b"\0" for name in names), protocol.xattr_size(message)
        )

    def _statfs(self, inode: int, message: bytes, thread: int) -> Answer:
        del inode, message, thread
        totals = self._filesystem.totals()
        blocks = -(-totals.size // BLOCK_SIZE)
        return protocol.statfs_reply(blocks, totals.files, BLOCK_SIZE, MAX_NAME)


async def _again(ask: Callable[[], Eventual]) -> Answer:
    """Answer a request for which something has to be loaded first."""
    answer = await settle(ask)
    return await answer.wait() if isinstance(answer, Later) else answer


_REFUSED: Final[dict[int, int]] = dict.fromkeys(
    (
        int(Opcode.SETATTR),
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.WRITE,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.CREATE,
        Opcode.TMPFILE,
        Opcode.FALLOCATE,
        Opcode.COPY_FILE_RANGE,
    ),
    errno.EROFS,
) | {Opcode.IOCTL: errno.ENOTTY, Opcode.READLINK: errno.EINVAL}
"""What is refused, with why. All else that has no handler is ENOSYS, which has the kernel never ask
again, and do without: FLUSH and FSYNC succeed, seeking for holes finds none."""


def _sized(value: bytes, size: int) -> Answer:
    """Answer with an attribute, or with its size where nothing but that is asked for."""
    if size == 0:
        return protocol.xattr_size_reply(len(value))
    return value if len(value) <= size else errno.ERANGE


def _kind(of: Attributes) -> int:
    """Return `d_type`."""
    return stat.S_IFMT(of.mode) >> 12


def _what_repeats(error: VzfsError) -> str:
    """Return what two errors of one kind have in common when they are the same trouble."""
    if error.kind in {ErrorKind.OFFLINE, ErrorKind.EGRESS_SPENT}:
        return ""
    return error.advice if error.kind is ErrorKind.NOT_ALLOWED else error.where


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
