"""Decoder processes: started when they are needed, ended when nobody needs them or one misbehaves.

A process is used for one chunk at a time, and by whoever has waited longest. It is ended by SIGKILL:
it has nothing to save. One that crashed, hung, made no sense, or was left in the middle of a chunk is
ended too, and the next chunk gets another.
"""

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio

from vzfs.cache import Buffers
from vzfs.confined.process import death, end, start
from vzfs.decoding.installed import package_of
from vzfs.decoding.wire import DEADLINE, MAX_REPLY, Outcome, Reply, Request
from vzfs.errors import ErrorKind, FormatError

type Decode = Callable[[bytes, bytes | memoryview, int], Awaitable[memoryview]]
"""Of a spec, a stored chunk and the length of the decoded one, the decoded one. Raises FormatError."""

IDLE: Final = 60.0
"""Seconds after which a process that nobody used is ended."""
MAX_WORKERS: Final = 2
MAX_KEPT: Final = 64 * 2**20
"""Bytes that a file in memory keeps between two chunks."""
_SLICE: Final = 8 * 2**20
"""Bytes that are copied between two turns of the event loop: about a millisecond."""


class Worker:
    """One process that runs. *is_sound* until something shows that it is not fit for another chunk."""

    def __init__(
        self, process: trio.Process, peer: trio.socket.SocketType, given: int, made: int
    ) -> None:
        self.process: Final = process
        self.is_sound = False
        self.idle_since = 0.0
        self._peer = peer
        self._given = given
        self._made = made

    @classmethod
    async def start(cls) -> "Worker":
        """Start a process and wait until it is ready. Raises FormatError if that does not come to be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            files = [os.memfd_create(name) for name in ("vzfs-stored", "vzfs-decoded")]
            for descriptor in files:
                failed.callback(os.close, descriptor)
            with theirs:
                process = await start("vzfs.decoding.worker", [theirs.fileno(), *files])
            failed.pop_all()
        worker = cls(process, trio.socket.from_stdlib_socket(ours), *files)
        try:
            reply = await worker._reply(DEADLINE)
            worker.is_sound = reply.outcome is Outcome.DONE
        finally:
            if not worker.is_sound:
                await worker.end()
        if not worker.is_sound:
            raise _trouble(f"no decoder could be started: {reply.text}")
        return worker

    async def decode(
        self, spec: bytes, chunk: bytes | memoryview, into: memoryview, deadline: float
    ) -> None:
        """Decode *chunk*, filling *into*. Raises FormatError."""
        self.is_sound = False
        nbytes = len(into)
        try:
            await _write(self._given, chunk, spec)
            _size(self._made, nbytes)
            await self._peer.send(Request(len(chunk), len(spec), nbytes).encode())
            reply = await self._reply(deadline)
            if reply.outcome is Outcome.DONE:
                await _read(self._made, into)
            for descriptor, length in ((self._given, len(chunk)), (self._made, nbytes)):
                if length > MAX_KEPT:
                    os.ftruncate(descriptor, 0)
        except (BrokenPipeError, ConnectionResetError):
            raise await self._crashed() from None
        except OSError as error:
            raise _trouble(f"the chunk could not be decoded: {error}") from None
        self.is_sound = not reply.is_last
        match reply.outcome:
            case Outcome.WRONG:
                raise _trouble(f"the chunk cannot be decoded: {reply.text}")
            case Outcome.NO_CODEC:
                package = package_of(reply.text)
                raise FormatError(
                    ErrorKind.UNSUPPORTED_FORMAT,
                    f"no package that is installed decodes {reply.text!r}",
                    advice=f"pip install {package!r}" if package else "install one that does",
                )
            case Outcome.TOO_LARGE:
                raise _trouble("decoding the chunk takes more memory than a chunk of its size may")

    async def _reply(self, deadline: float) -> Reply:
        try:
            with trio.fail_after(deadline):
                message = await self._peer.recv(MAX_REPLY)
        except trio.TooSlowError:
            raise _trouble(f"decoding took longer than {deadline:g} seconds") from None
        if not message:
            raise await self._crashed()
        try:
            return Reply.decode(message)
        except ValueError as error:
            raise _trouble(f"the chunk could not be decoded: {error}") from None

    async def _crashed(self) -> FormatError:
        """Return the error that the process does not talk any more, and why if it says so in time."""
        reason = await death(self.process)
        return _trouble(f"the process that decoded the chunk died ({reason})")

    async def end(self) -> None:
        """End the process, and wait until it has."""
        self.is_sound = False
        self._peer.close()
        for descriptor in (self._given, self._made):
            os.close(descriptor)
        await end(self.process)


class Workers:
    """At most *count* processes, while `run` runs. *idle* and *deadline* are in seconds."""

    def __init__(
        self,
        buffers: Buffers,
        *,
        count: int | None = None,
        idle: float = IDLE,
        deadline: float = DEADLINE,
    ) -> None:
        cores = len(os.sched_getaffinity(0))
        self._places = trio.CapacityLimiter(count or min(MAX_WORKERS, cores))
        self._buffers = buffers
        self._idle_for = idle
        self._deadline = deadline
        self._idle: list[Worker] = []
        self._has_idle = trio.Event()
        self._all: set[Worker] = set()
        self.restarted = 0
        self.seconds = 0.0

    @property
    def processes(self) -> list[int]:
        """The ids of the processes that run."""
        return [worker.process.pid for worker in self._all]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End processes that nobody uses, until cancelled; then end all."""
        try:
            task_status.started()
            while True:
                await self._has_idle.wait()
                if not self._idle:
                    self._has_idle = trio.Event()
                    continue
                oldest = self._idle[0]
                await trio.sleep_until(oldest.idle_since + self._idle_for)
                if self._idle and self._idle[0] is oldest and self._is_due(oldest):
                    self._idle.remove(oldest)
                    await self._end(oldest)
        finally:
            for worker in list(self._all):
                await self._end(worker)

    def _is_due(self, worker: Worker) -> bool:
        return worker.idle_since + self._idle_for <= trio.current_time()

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[Decode]:
        """Wait for a place, and give the function that decodes while one has it."""
        async with self._places:
            yield self._decode

    async def _decode(self, spec: bytes, chunk: bytes | memoryview, nbytes: int) -> memoryview:
        """Return *chunk* decoded, which is *nbytes* long. Raises FormatError."""
        worker = await self._worker()
        into = self._buffers.take(nbytes)
        began = trio.current_time()
        try:
            await worker.decode(spec, chunk, into, self._deadline)
        finally:
            self.seconds += trio.current_time() - began
            if worker.is_sound:
                worker.idle_since = trio.current_time()
                self._idle.append(worker)
                self._has_idle.set()
            else:
                self.restarted += 1
                await self._end(worker)
        return into.toreadonly()

    async def _worker(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            self.restarted += 1
            await self._end(worker)
        worker = await Worker.start()
        self._all.add(worker)
        return worker

    async def _end(self, worker: Worker) -> None:
        if worker in self._all:
            self._all.remove(worker)
            await worker.end()


def _trouble(what: str) -> FormatError:
    return FormatError(ErrorKind.NOT_DECODED, what)


def _size(descriptor: int, length: int) -> None:
    """Have a file in memory hold *length* bytes."""
    if os.fstat(descriptor).st_size < length:
        os.ftruncate(descriptor, length)


async def _write(descriptor: int, *parts: bytes | memoryview) -> None:
    offset = 0
    _size(descriptor, sum(map(len, parts)))
    for part in parts:
        view = memoryview(part)
        while view:
            count = os.pwrite(descriptor, view[:_SLICE], offset)
            view, offset = view[count:], offset + count
            if view:
                await trio.lowlevel.checkpoint()


async def _read(descriptor: int, into: memoryview) -> None:
    """Fill *into* from the beginning of a file. Raises OSError if that is shorter."""
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done : done + _SLICE]], done)
        if not count:
            raise OSError("its result is too short")
        done += count
        if done < len(into):
            await trio.lowlevel.checkpoint()
