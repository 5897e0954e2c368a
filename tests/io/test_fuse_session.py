"""A connection to the kernel, with a kernel that is played by the test."""

import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
import trio

from tests.fakes import fuse_request
from vzfs.errors import MountError
from vzfs.fuse import session as sessions
from vzfs.fuse.protocol import Feature, Opcode
from vzfs.fuse.session import Eventual, Later, Session

NOW, LATER = Opcode.LOOKUP, Opcode.READ
"""What `FakeHandler` answers at once, and what it lets wait."""
THREAD = 77


class FakeHandler:
    """Answers with the request's inode, some at once and others when `gate` opens."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.forgotten: list[tuple[int, int]] = []
        self.rounds = 0

    def answer(self, opcode: int, inode: int, message: bytes, thread: int) -> Eventual:
        if opcode == NOW:
            return str(inode).encode()

        async def wait() -> bytes | int:
            self.begun.append(inode)
            try:
                await self.gate.wait()
            except trio.Cancelled:
                self.cancelled.append(inode)
                raise
            return errno.EIO if inode == 13 else memoryview(str(inode).encode())

        return Later(wait)

    def agreed(self, features: Feature) -> None:
        self.features = features

    def forget(self, inode: int, count: int) -> None:
        self.forgotten.append((inode, count))

    def drained(self) -> None:
        self.rounds += 1


class FakeKernel:
    """The other end of a session."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours

    def ask(
        self, opcode: int, unique: int, inode: int = 1, body: bytes = b"", thread: int = THREAD
    ) -> None:
        self._socket.send(fuse_request(opcode, inode, body, unique=unique, thread=thread))

    def interrupt(self, unique: int) -> None:
        self.ask(Opcode.INTERRUPT, unique | 1, body=struct.pack("=Q", unique))

    def reply(self) -> tuple[int, bytes | int]:
        """Return number and content of the next reply; a content that is a number is an errno."""
        message = self._socket.recv(2**20)
        length, error, unique = struct.unpack_from("=IiQ", message)
        assert length == len(message)
        return unique, -error if error else message[16:]

    def is_silent(self) -> bool:
        return not select.select([self._socket], [], [], 0)[0]


@pytest.fixture(name="handler")
def _handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture(name="ends")
def _ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with_ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with with_ends[0], with_ends[1]:
        with_ends[0].settimeout(10)
        os.set_blocking(with_ends[1].fileno(), False)
        yield with_ends


@pytest.fixture(name="kernel")
def _kernel(ends: tuple[socket.socket, socket.socket]) -> FakeKernel:
    return FakeKernel(ends[0])


@pytest.fixture(name="session")
def _session(ends: tuple[socket.socket, socket.socket], handler: FakeHandler) -> Session:
    return Session(ends[1].fileno(), handler)


@pytest.fixture(name="killed")
def _killed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Give the set of threads that count as killed."""
    killed: set[int] = set()
    monkeypatch.setattr(sessions, "_is_killed", killed.__contains__)
    return killed


async def settled() -> None:
    """Let everything happen that can."""
    await trio.testing.wait_all_tasks_blocked()


# -- the beginning -----------------------------------------------------------------------------


def say_init(kernel: FakeKernel, major: int, minor: int, features: int) -> None:
    low, high = features & 0xFFFF_FFFF, features >> 32
    kernel.ask(Opcode.INIT, 2, 0, struct.pack("=IIIII44x", major, minor, 2**17, low, high))


def test_the_beginning_asks_for_what_the_kernel_has(
    session: Session, kernel: FakeKernel, handler: FakeHandler
) -> None:
    """Of what is wanted is asked for what the kernel offers, and nothing else."""
    offered = Feature.ASYNC_READ | Feature.MAX_PAGES | Feature.INIT_EXT | 1 << 16 | 1 << 15
    say_init(kernel, 7, 45, offered)
    session.agree()
    unique, reply = kernel.reply()
    assert isinstance(reply, bytes)
    fields = struct.unpack("=IIIIHHIIHHI28x", reply)
    assert unique == 2
    assert fields[0] == 7
    assert fields[3] == Feature.ASYNC_READ | Feature.MAX_PAGES | Feature.INIT_EXT
    assert fields[4:9] == (400, 400, 4096, 1, 256)
    assert handler.features == fields[3]


def test_what_is_offered_beyond_the_first_word_is_taken(
    session: Session, kernel: FakeKernel, handler: FakeHandler
) -> None:
    """A kernel that maps files which are read directly is known for it."""
    say_init(kernel, 7, 45, Feature.INIT_EXT | Feature.DIRECT_IO_ALLOW_MMAP)
    session.agree()
    _, reply = kernel.reply()
    assert isinstance(reply, bytes)
    assert struct.unpack("=IIIIHHIIHHI28x", reply)[10] == Feature.DIRECT_IO_ALLOW_MMAP >> 32
    assert Feature.DIRECT_IO_ALLOW_MMAP in handler.features


def test_a_kernel_that_is_too_old_is_refused(session: Session, kernel: FakeKernel) -> None:
    """A kernel without what is needed is told so, and the error says which it takes."""
    say_init(kernel, 7, 30, 0)
    with pytest.raises(MountError, match=r"7\.30"):
        session.agree()
    assert kernel.reply() == (2, errno.EPROTO)


def test_a_newer_kernel_asks_again(session: Session, kernel: FakeKernel) -> None:
    """A kernel of a later major version hears which one is spoken here, and speaks it."""
    say_init(kernel, 8, 0, 0)
    say_init(kernel, 7, 45, 0)
    session.agree()
    _, first = kernel.reply()
    assert isinstance(first, bytes)
    assert struct.unpack_from("=I", first) == (7,)
    assert kernel.reply()[0] == 2


def test_a_silent_kernel_is_not_waited_for_for_ever(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that mounted and says nothing is an error."""
    monkeypatch.setattr(sessions, "INIT_WITHIN", 0.01)
    with pytest.raises(MountError):
        session.agree()


# -- requests ----------------------------------------------------------------------------------


async def test_answers_carry_the_numbers_of_their_requests(
    session: Session, kernel: FakeKernel, handler: FakeHandler, nursery: trio.Nursery
) -> None:
    """What is known is answered while others wait, whose answers come when they are there."""
    nursery.start_soon(session.serve)
    kernel.ask(LATER, 2, inode=5)
    kernel.ask(NOW, 4, inode=6)
    kernel.ask(LATER, 6, inode=13)
    await settled()
    assert kernel.reply() == (4, b"6")
    assert kernel.is_silent()
    handler.gate.set()
    await settled()
    assert {kernel.reply(), kernel.reply()} == {(2, b"5"), (6, errno.EIO)}
    session.stop()


async def test_what_makes_no_sense_is_passed_over(
    session: Session,
    kernel: FakeKernel,
    ends: tuple[socket.socket, socket.socket],
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A message that is no request is logged, and the next one is answered."""
    nursery.start_soon(session.serve)
    for wrong in (b"x", fuse_request(NOW, 1)[:-1] + b"", fuse_request(Opcode.INTERRUPT, 1, b"x")):
        ends[0].send(wrong)
    ends[0].send(fuse_request(Opcode.BATCH_FORGET, 1, struct.pack("=II", 99, 0)))
    kernel.ask(NOW, 4, inode=6)
    await settled()
    assert kernel.reply() == (4, b"6")
    assert len(caplog.records) == 4
    session.stop()


async def test_what_is_forgotten_is_heard_and_not_answered(
    session: Session, kernel: FakeKernel, handler: FakeHandler, nursery: trio.Nursery
) -> None:
    """FORGET and BATCH_FORGET name inodes and how often they were given, and nobody waits for an answer."""
    nursery.start_soon(session.serve)
    kernel.ask(Opcode.FORGET, 2, inode=5, body=struct.pack("=Q", 1))
    kernel.ask(Opcode.BATCH_FORGET, 4, 0, struct.pack("=IIQQQQ", 2, 0, 7, 1, 8, 1))
    await settled()
    assert handler.forgotten == [(5, 1), (7, 1), (8, 1)]
    assert handler.rounds > 0
    assert kernel.is_silent()
    session.stop()


async def test_other_tasks_get_their_turn_while_requests_pour_in(
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests that come without end do not keep what else there is to do from being done."""
    monkeypatch.setattr(sessions, "BATCH", 2)
    count = 8
    for unique in range(count):
        kernel.ask(NOW, 2 * unique)
    answered = []

    async def look() -> None:
        while handler.rounds == 0:
            answered.append(kernel.is_silent())
            await trio.lowlevel.checkpoint()

    nursery.start_soon(session.serve)
    nursery.start_soon(look)
    await settled()
    assert len(answered) >= count // sessions.BATCH
    session.stop()


async def test_only_so_many_requests_are_waited_for_at_a_time(
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests beyond the limit stand in line and lose nothing; those that need not wait are answered."""
    monkeypatch.setattr(sessions, "MAX_REQUESTS", 2)
    nursery.start_soon(session.serve)
    for n in range(5):
        kernel.ask(LATER, 2 * n, inode=n)
    kernel.ask(NOW, 20, inode=6)
    await settled()
    assert sorted(handler.begun) == [0, 1]
    assert kernel.reply() == (20, b"6")
    handler.gate.set()
    await settled()
    assert sorted(kernel.reply() for _ in range(5)) == [(2 * n, b"%d" % n) for n in range(5)]
    session.stop()


# -- interrupts --------------------------------------------------------------------------------


async def test_who_is_killed_is_answered_at_once(
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    killed: set[int],
) -> None:
    """A request whose thread was killed is given up when the kernel interrupts it; others go on."""
    nursery.start_soon(session.serve)
    kernel.ask(LATER, 2, inode=5, thread=5)
    kernel.ask(LATER, 4, inode=6, thread=6)
    await settled()
    killed.add(5)
    kernel.interrupt(2)
    await settled()
    assert kernel.reply() == (2, errno.EINTR)
    assert handler.cancelled == [5]
    handler.gate.set()
    await settled()
    assert kernel.reply() == (4, b"6")
    session.stop()


async def test_a_signal_that_is_handled_interrupts_nothing(
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    killed: set[int],
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Who was interrupted and lives gets the answer; who is killed later is given up soon after."""
    nursery.start_soon(session.serve)
    for thread in (5, 6):
        kernel.ask(LATER, 2 * thread, inode=thread, thread=thread)
        kernel.interrupt(2 * thread)
    await trio.sleep(10 * sessions.KILL_CHECK)
    assert kernel.is_silent()
    killed.add(5)
    await trio.sleep(2 * sessions.KILL_CHECK)
    assert kernel.reply() == (10, errno.EINTR)
    handler.gate.set()
    await trio.sleep(0.01)
    assert kernel.reply() == (12, b"6")
    session.stop()


async def test_an_interrupt_of_what_was_answered_is_ignored(
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    killed: set[int],
) -> None:
    """An interrupt that crosses its answer gets none, and harms no other request."""
    nursery.start_soon(session.serve)
    killed.add(THREAD)
    kernel.ask(NOW, 2, inode=5)
    kernel.interrupt(2)
    kernel.ask(LATER, 4, inode=6)
    await settled()
    assert kernel.reply() == (2, b"5")
    handler.gate.set()
    await settled()
    assert kernel.reply() == (4, b"6")
    assert kernel.is_silent()
    session.stop()


async def test_who_stands_in_line_is_answered_at_once_too(
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    killed: set[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who is killed before the request was begun is let go, and it is never begun."""
    monkeypatch.setattr(sessions, "MAX_REQUESTS", 1)
    nursery.start_soon(session.serve)
    kernel.ask(LATER, 2, inode=5, thread=5)
    kernel.ask(LATER, 4, inode=6, thread=6)
    await settled()
    killed.add(6)
    kernel.interrupt(4)
    await settled()
    assert kernel.reply() == (4, errno.EINTR)
    handler.gate.set()
    await settled()
    assert kernel.reply() == (2, b"5")
    assert handler.begun == [5]
    session.stop()


def test_a_thread_that_lives_is_not_killed() -> None:
    """Of this thread no kill is known, nor of one that does not exist."""
    assert not sessions._is_killed(os.getpid())
    assert not sessions._is_killed(2**22 + 1)


# -- the end -----------------------------------------------------------------------------------


async def test_what_is_waited_for_is_answered_after_the_end_was_told(
    session: Session, kernel: FakeKernel, handler: FakeHandler, nursery: trio.Nursery
) -> None:
    """After `stop` nothing new is begun, and what was begun is answered before `serve` returns."""
    has_ended = trio.Event()

    async def serve() -> None:
        await session.serve()
        has_ended.set()

    nursery.start_soon(serve)
    kernel.ask(LATER, 2, inode=5)
    await settled()
    session.stop()
    kernel.ask(LATER, 4, inode=6)
    await settled()
    assert not has_ended.is_set()
    handler.gate.set()
    await has_ended.wait()
    assert kernel.reply() == (2, b"5")
    assert handler.begun == [5]


@pytest.mark.parametrize("code", [errno.ENODEV])
async def test_nobody_waits_once_it_is_unmounted(
    code: int,
    session: Session,
    kernel: FakeKernel,
    handler: FakeHandler,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the kernel says that the mount is gone, what is waited for is given up and `serve` returns."""
    is_gone = False
    read: Callable[[int, int], bytes] = os.read

    def gone(descriptor: int, size: int) -> bytes:
        if is_gone:
            raise OSError(code, "gone")
        return read(descriptor, size)

    monkeypatch.setattr(sessions.os, "read", gone)
    nursery.start_soon(session.serve)
    kernel.ask(LATER, 2, inode=5)
    await settled()
    is_gone = True
    kernel.ask(NOW, 4)
    await settled()
    assert handler.cancelled == [5]


async def test_a_reply_that_comes_too_late_is_no_trouble(
    session: Session,
    kernel: FakeKernel,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The kernel says ENOENT to the answer of who is gone; another refusal is a bug, and logged."""
    codes = [errno.ENOENT, errno.ENODEV, errno.EINVAL]
    writev = os.writev

    def refuse(descriptor: int, parts: list[bytes]) -> int:
        if codes:
            code = codes.pop(0)
            raise OSError(code, os.strerror(code))
        return writev(descriptor, parts)

    monkeypatch.setattr(sessions.os, "writev", refuse)
    nursery.start_soon(session.serve)
    for unique in (2, 4, 6, 8):
        kernel.ask(NOW, unique, inode=6)
    await settled()
    assert kernel.reply() == (8, b"6")
    assert len(caplog.records) == 1
    session.stop()


# -- notices -----------------------------------------------------------------------------------


async def test_the_kernel_is_told_which_pages_to_drop(session: Session, kernel: FakeKernel) -> None:
    """One notice goes out for each file; one that the kernel has forgotten is no trouble."""
    await session.drop_pages(range(2, 22))
    notices = [kernel._socket.recv(100) for _ in range(20)]
    assert sorted(struct.unpack("=IiQQqq", notice)[3] for notice in notices) == list(range(2, 22))
    await session.drop_pages([])
