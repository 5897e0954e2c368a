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
from typing import Final

import trio

from vzfs.access import Access
from vzfs.errors import ErrorKind, VzfsError
from vzfs.filesystem import CACHED, MAX_NAME, Attrs, Filesystem, NotLoaded, settle
from vzfs.fuse import listing, protocol
from vzfs.fuse.listing import Form, Habit
from vzfs.fuse.protocol import Attributes, Feature, Opcode, Opening
from vzfs.fuse.session import Answer, Eventual, Later

logger = logging.getLogger("vzfs.fuse")

FOREVER: Final = 10 * 365 * 86400
"""Seconds that the kernel may keep what it was told: a mount shows one snapshot for its whole
life."""
BLOCK_SIZE: Final = 128 * 1024
REPEAT_AFTER: Final = 60.0
"""Seconds in which one and the same failure is logged once."""
MAX_REPORTED: Final = 10_000
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
        time = filesystem.snapshot.written_at

        def kind(mode: int) -> Attributes:
            return Attributes(mode, ownership.uid, ownership.gid, time, BLOCK_SIZE)

        self._file = kind(stat.S_IFREG | 0o444 & ~ownership.umask)
        self._dir = kind(stat.S_IFDIR | 0o555 & ~ownership.umask)
        self._root = self._dir
        if ownership.root_mode is not None:
            self._root = kind(stat.S_IFDIR | ownership.root_mode)
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

    def _attributes(self, attrs: Attrs) -> Attributes:
        if not attrs.is_dir:
            return self._file
        return self._root if attrs.inode == protocol.ROOT else self._dir

    def _lookup(self, inode: int, message: bytes, thread: int) -> Answer:
        del thread
        try:
            attrs = self._filesystem.lookup(inode, _decode(protocol.name(message)))
        except VzfsError as error:
            if error.kind is not ErrorKind.NO_SUCH_NAME:
                raise
            # The kernel remembers that the name does not exist.
            return protocol.absent_reply(FOREVER)
        self._habit.looked_up()
        valid = FOREVER if attrs.is_certain else 0
        return protocol.entry_reply(attrs.inode, attrs.size, self._attributes(attrs), valid)

    def _getattr(self, inode: int, message: bytes, thread: int) -> Answer:
        del message, thread
        attrs = self._filesystem.attrs(inode)
        valid = FOREVER if attrs.is_certain else 0
        return protocol.attr_reply(inode, attrs.size, self._attributes(attrs), valid)

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
        run = self._filesystem.run(inode, span.offset, room // protocol.DIRENT_SIZE + 1)
        if run is None:
            return self._list_children(inode, span.offset, room, is_plus=is_plus)
        of = self._dir if run.is_dir else self._file
        form = Form.PLAIN
        if is_plus:
            # Directories are looked into, and further on the kernel asks where names are looked up.
            is_wanted = span.offset or run.is_dir or self._habit.looks_up()
            form = Form.PLUS if is_wanted else Form.PLUS_NAMES
        found = listing.lines(run, form, room, of, FOREVER)
        if form is Form.PLUS_NAMES:
            self._habit.gave_names(len(found) // listing.MAX_LINE)
        return found if found or not len(run.numbers) else errno.EINVAL

    def _list_children(self, inode: int, after: int, room: int, *, is_plus: bool) -> Answer:
        lines: list[bytes] = []
        for name, attrs, position in self._filesystem.children(inode, after):
            of = self._attributes(attrs)
            line = protocol.dirent(attrs.inode, position, _kind(of), _encode(name))
            if is_plus:
                valid = FOREVER if attrs.is_certain else 0
                line = protocol.entry_reply(attrs.inode, attrs.size, of, valid) + line
            room -= len(line)
            if room < 0:
                # An empty answer would say that there are no more.
                return b"".join(lines) if lines else errno.EINVAL
            lines.append(line)
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

    def forget(self, inode: int) -> None:
        """Hear that the kernel forgot an inode, and with it its pages.

        It may say so after it has looked the inode up and read it again, but not after all that it
        had to say was read. So what was read since then is not taken for forgotten.
        """
        if self._kept.get(inode, self._round) < self._round:
            del self._kept[inode]

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
