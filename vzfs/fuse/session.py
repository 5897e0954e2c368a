"""One connection to the kernel: requests are read, answered or waited for, and interrupted.

Most requests are answered from memory, in the loop that reads them. What has to wait for something
gets a task, at most `MAX_REQUESTS` at a time; further ones stand in line, so that the loop goes on
and hears of interrupts. One loop reads one descriptor: an INTERRUPT is never read before the request
that it is about, and one whose request is not known is about one that was answered.

A request is given up, with EINTR, when the thread that waits for it was killed, because the kernel
lets go of a thread no earlier (but for buffered reads, of which it lets go by itself). A signal that
a program handles is another matter: no program expects that a file's read was interrupted. The
kernel interrupts a request once, at the first signal, so those that were are looked at until they end.
"""

import collections
import dataclasses
import errno
import functools
import logging
import os
import re
import select
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from vzfs.errors import ErrorKind, MountError
from vzfs.fuse import mounting, protocol
from vzfs.fuse.protocol import Feature, Opcode

logger = logging.getLogger("vzfs.fuse")

MAX_REQUESTS: Final = 500
"""Requests waited for at a time. Reads that wait for a dead server must leave room for those that
need none."""
MAX_BACKGROUND: Final = 400
"""Buffered reads that the kernel lets wait at a time: fewer than `MAX_REQUESTS`, and far more than
its default of 12, which one server that stalls would use up for everybody."""
MAX_READAHEAD: Final = 16 * 2**20
"""Bytes that the kernel may be told to read ahead; what it does is for `mounting` to say."""
BATCH: Final = 16
"""Requests answered before other tasks get their turn."""
KILL_CHECK: Final = 0.25
"""Seconds after which a request that was interrupted is looked at again: was who waits for it killed?"""
MAX_DROPPING: Final = 8
"""Threads that take pages from the kernel at a time; it may make one wait for a read."""
INIT_WITHIN: Final = 10
"""Seconds in which the kernel, having mounted, must say its first word; it does at once."""

WANTED: Final = (
    Feature.ASYNC_READ
    | Feature.DO_READDIRPLUS
    | Feature.READDIRPLUS_AUTO
    | Feature.PARALLEL_DIROPS
    | Feature.MAX_PAGES
    | Feature.INIT_EXT
    | Feature.DIRECT_IO_ALLOW_MMAP
)
"""What is asked of the kernel. Not ASYNC_DIO: who reads with O_DIRECT would wait where not even
SIGKILL reaches."""

type Answer = bytes | memoryview | int
"""The content of a reply, or the errno in its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """What has to be waited for to have an answer. Nothing is begun before *wait* is called."""

    wait: Callable[[], Awaitable[Answer]]


type Eventual = Answer | Later


class Handler(Protocol):
    """What a file system says to requests."""

    def answer(self, opcode: int, inode: int, message: bytes, thread: int) -> Eventual:
        """Answer a request at once, or return what has to be waited for. Raises nothing.

        An answer that was waited for is sent before anybody else runs.
        """

    def agreed(self, features: Feature) -> None:
        """Hear what was agreed upon with the kernel, before the first request."""

    def forget(self, inode: int, count: int) -> None:
        """Hear that the kernel gave an inode back, which it was given *count* times."""

    def drained(self) -> None:
        """Hear that everything that the kernel has had to say was read."""


@dataclasses.dataclass(frozen=True, slots=True)
class SessionStatistics:
    """What the kernel asked so far, and how many requests had to be waited for or were given up.

    *waiting* is of the moment.
    """

    requests: int
    waited: int
    given_up: int
    waiting: int


class _Waiting:
    """A request that is waited for, or stands in line for it."""

    __slots__ = ("is_running", "later", "scope", "thread", "unique")

    def __init__(self, unique: int, thread: int, later: Later) -> None:
        self.unique = unique
        self.thread = thread
        self.later = later
        self.scope = trio.CancelScope()
        self.is_running = False


class Session:
    """The requests of one mount, from its first to its last."""

    def __init__(self, descriptor: int, handler: Handler, mountpoint: str = "") -> None:
        self._descriptor = descriptor
        self._handler = handler
        self._mountpoint = mountpoint
        self._reading = trio.CancelScope()
        self._waiting: dict[int, _Waiting] = {}
        self._line: collections.deque[_Waiting] = collections.deque()
        self._running = 0
        self._requests = self._waited = self._given_up = 0
        self._interrupted: set[_Waiting] = set()
        self._has_interrupted = trio.Event()

    def agree(self) -> None:
        """Read the kernel's INIT, which is there once it has mounted, and answer it.

        Raises MountError if the kernel is too old.
        """
        while True:
            message = self._first()
            head = protocol.header(message)
            kernel = protocol.init(message)
            if kernel.major <= protocol.MAJOR:
                break
            # It asks again, in our version.
            self._send(head.unique, protocol.init_reply(Feature(0), 0, 0))
        if (kernel.major, kernel.minor) < (protocol.MAJOR, protocol.MINOR):
            self._send(head.unique, errno.EPROTO)
            raise MountError(
                ErrorKind.FUSE_UNAVAILABLE,
                f"the kernel speaks FUSE {kernel.major}.{kernel.minor}, and it takes "
                f"{protocol.MAJOR}.{protocol.MINOR}",
                advice="Linux 5.4 and later speak it",
            )
        features = WANTED & kernel.features
        self._handler.agreed(features)
        self._send(head.unique, protocol.init_reply(features, MAX_READAHEAD, MAX_BACKGROUND))

    def _first(self) -> bytes:
        """Wait for a request where there is no event loop to wait with."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        if not waiting.poll(INIT_WITHIN * 1000):
            raise MountError(
                ErrorKind.FUSE_UNAVAILABLE,
                "the kernel has mounted, and does not begin to ask",
                where=self._mountpoint,
            )
        return os.read(self._descriptor, protocol.MIN_BUFFER)

    async def serve(self) -> None:
        """Answer requests until the file system is unmounted or `stop` is called.

        After `stop` what is waited for is still answered; unmounted, nobody waits.
        """
        async with trio.open_nursery() as watching:
            watching.start_soon(self._watch)
            async with trio.open_nursery() as nursery:
                with self._reading:
                    await self._read(nursery)
                    nursery.cancel_scope.cancel()
            watching.cancel_scope.cancel()

    def stop(self) -> None:
        """Have `serve` return once what is waited for is answered."""
        self._reading.cancel()

    def close(self) -> None:
        """Unmount, lazily if somebody still uses the mount, and give everything back."""
        mounting.detach(self._mountpoint, self._descriptor)

    def statistics(self) -> SessionStatistics:
        """Return the counts so far."""
        return SessionStatistics(self._requests, self._waited, self._given_up, len(self._waiting))

    # -- reading -------------------------------------------------------------------------------

    async def _read(self, nursery: trio.Nursery) -> None:
        """Read requests, and answer those that can be at once, until unmounted."""
        read, descriptor, handler = os.read, self._descriptor, self._handler
        count = 0
        while True:
            try:
                message = read(descriptor, protocol.MIN_BUFFER)
            except BlockingIOError:
                handler.drained()
                count = 0
                await trio.lowlevel.wait_readable(descriptor)
                continue
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in {errno.ENOENT, errno.EINTR}:
                    continue  # who asked has just gone
                raise
            self._take(message, nursery)
            count += 1
            if count == BATCH:
                count = 0
                await trio.lowlevel.checkpoint()

    def _take(self, message: bytes, nursery: trio.Nursery) -> None:
        """Answer a request, or have it waited for."""
        try:
            _, opcode, unique, inode, _, _, thread, _, _ = protocol.header(message)
            if opcode in _WITHOUT_REPLY:
                self._hear(opcode, inode, message)
                return
        except protocol.MalformedError as error:
            # Without a header there is nobody to answer.
            logger.error("the kernel made no sense: %s", error)  # noqa: TRY400 -- no bug of ours
            return
        self._requests += 1
        answer = self._handler.answer(opcode, inode, message, thread)
        if not isinstance(answer, Later):
            self._send(unique, answer)
            return
        self._waited += 1
        waiting = self._waiting[unique] = _Waiting(unique, thread, answer)
        if self._running < MAX_REQUESTS:
            self._running += 1
            nursery.start_soon(self._wait, waiting)
        else:
            self._line.append(waiting)

    def _hear(self, opcode: int, inode: int, message: bytes) -> None:
        """Heed what is not to be answered."""
        if opcode == Opcode.INTERRUPT:
            waiting = self._waiting.get(protocol.interrupted(message))
            if waiting is not None:
                self._interrupted.add(waiting)
                self._has_interrupted.set()
                self._look_at(waiting)
            return
        for forgotten, count in protocol.forgotten(opcode, inode, message):
            self._handler.forget(forgotten, count)

    # -- waiting -------------------------------------------------------------------------------

    async def _wait(self, waiting: _Waiting) -> None:
        """Wait for one request after the other, as long as any stand in line."""
        try:
            while True:
                waiting.is_running = True
                answer: Answer = errno.EINTR
                with waiting.scope:
                    answer = await waiting.later.wait()
                self._end(waiting, answer)
                if not self._line:
                    return
                waiting = self._line.popleft()
        finally:
            self._running -= 1

    def _end(self, waiting: _Waiting, answer: Answer) -> None:
        self._send(waiting.unique, answer)
        del self._waiting[waiting.unique]
        self._interrupted.discard(waiting)

    async def _watch(self) -> None:
        """Look at those who were interrupted, until cancelled. Sleeps while nobody was."""
        while True:
            await self._has_interrupted.wait()
            await trio.sleep(KILL_CHECK)
            for waiting in list(self._interrupted):
                self._look_at(waiting)
            if not self._interrupted:
                self._has_interrupted = trio.Event()

    def _look_at(self, waiting: _Waiting) -> None:
        """Give a request up if who waits for it was killed. Of who is out of sight nothing is known."""
        if waiting.scope.cancel_called or not waiting.thread or not _is_killed(waiting.thread):
            return
        self._given_up += 1
        if waiting.is_running:
            waiting.scope.cancel()
        else:
            self._line.remove(waiting)
            self._end(waiting, errno.EINTR)

    # -- answering -----------------------------------------------------------------------------

    def _send(self, unique: int, answer: Answer) -> None:
        """Answer a request. Nobody may wait for it: who did was killed, or the mount is gone."""
        try:
            if isinstance(answer, int):
                os.write(
                    self._descriptor, protocol.reply_header(protocol.REPLY_SIZE, -answer, unique)
                )
            else:
                size = protocol.REPLY_SIZE + len(answer)
                os.writev(self._descriptor, [protocol.reply_header(size, 0, unique), answer])
        except OSError as error:
            if error.errno not in _TOO_LATE:
                logger.exception("a reply was refused: this is a bug in vzfs, please report it")

    # -- notices -------------------------------------------------------------------------------

    async def drop_pages(self, inodes: Sequence[int]) -> None:
        """Have the kernel drop what it keeps of files. Waits for reads of them that are under way."""
        limiter = trio.CapacityLimiter(MAX_DROPPING)
        async with trio.open_nursery() as nursery:
            for first in range(min(MAX_DROPPING, len(inodes))):
                drop = functools.partial(self._drop, inodes[first::MAX_DROPPING])
                nursery.start_soon(
                    functools.partial(
                        trio.to_thread.run_sync, drop, limiter=limiter, abandon_on_cancel=True
                    )
                )

    def _drop(self, inodes: Sequence[int]) -> None:
        for inode in inodes:
            self._notify([protocol.inval_inode_notice(inode)])

    async def forget_names(self, names: Sequence[tuple[int, bytes]]) -> None:
        """Have the kernel forget names, by directory, and what is below them as far as nobody uses it.

        It may have to wait for who is in the directory, who may wait for an answer: so this is done
        in a thread.
        """

        def forget() -> None:
            for parent, name in names:
                self._notify([protocol.inval_entry_notice(parent, name)])

        await trio.to_thread.run_sync(forget, abandon_on_cancel=True)

    def _notify(self, parts: Sequence[bytes | memoryview]) -> None:
        try:
            os.writev(self._descriptor, parts)
        except OSError as error:
            # The kernel may have forgotten the inode or the name meanwhile, or be in it.
            if error.errno not in _TOO_LATE:
                raise


_WITHOUT_REPLY: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
_TOO_LATE: Final = frozenset({errno.ENOENT, errno.ENODEV})
_KILLED: Final = 1 << (signal.SIGKILL - 1)
_PENDING = re.compile(rb"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", re.MULTILINE)


def _is_killed(thread: int) -> bool:
    """Whether a thread is to end as soon as the kernel lets go of it.

    A signal that ends a process, whichever it was, is a pending SIGKILL in each of its threads.
    """
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return False
    return any(int(mask, 16) & _KILLED for mask in _PENDING.findall(status))
