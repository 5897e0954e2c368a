"""Processes that parse: each does so for one file at a time, and is ended where it misbehaves.

Whatever becomes of a process, what is raised is one error that says why.
"""

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from vzfs.archival.kinds import Kind, needs
from vzfs.archival.wire import (
    HEAD,
    MAX_ASKED,
    MAX_BODY,
    MAX_MADE,
    RANGE,
    WAITING,
    Job,
    Outcome,
    Said,
    message,
    read_failure,
)
from vzfs.archival.worker import STARTING
from vzfs.confined.process import death, end, start
from vzfs.errors import ErrorKind, FormatError

type Give = Callable[[int, int], Awaitable[bytes | memoryview]]
"""Gives the range of the file at an offset, of a length. What it raises ends the parsing."""

_STEP: Final = 2**20
"""Bytes that are received at a time, so that no memory is taken for what does not come."""


class Process:
    """One process that runs. *is_sound* until something shows that it is not fit for another file."""

    def __init__(self, process: trio.Process, peer: trio.SocketStream) -> None:
        self.process: Final = process
        self.is_sound = False
        self._peer = peer

    @classmethod
    async def start(cls) -> "Process":
        """Start a process and wait until it is ready. Raises FormatError if that does not come to be."""
        try:
            ours, theirs = socket.socketpair()
            with contextlib.ExitStack() as failed:
                failed.callback(ours.close)
                with theirs:
                    process = await start("vzfs.archival.worker", [theirs.fileno()])
                failed.pop_all()
        except OSError as problem:
            # There are too many processes or open files, or too little memory.
            raise trouble(f"no process that parses files could be started ({problem})") from None
        started = cls(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        try:
            with trio.move_on_after(STARTING):
                with contextlib.suppress(trio.BrokenResourceError):
                    said, _, _ = await started._head()
                    started.is_sound = said is Said.READY
        finally:
            if not started.is_sound:
                await started.end()
        if not started.is_sound:
            raise trouble("no process that parses files could be started")
        return started

    async def parse(self, job: Job, give: Give) -> bytearray:
        """Return what the process made of a file, not decoded. Raises FormatError, and what *give* raises."""
        self.is_sound = False
        try:
            with trio.fail_after(WAITING * job.seconds):
                return await self._talk(job, give)
        except trio.TooSlowError:
            raise trouble(f"parsing it took longer than {job.seconds:g} seconds") from None
        except (ValueError, struct.error) as problem:
            raise trouble(f"what parsed it made no sense ({problem})") from None
        except trio.BrokenResourceError:
            reason = await death(self.process)
            raise trouble(f"the process that parsed it died ({reason})") from None

    async def _talk(self, job: Job, give: Give) -> bytearray:
        told = message(Said.PARSE, job.encode())
        data: bytes | memoryview = b""
        left = job.seconds
        while True:
            began = trio.current_time()
            with trio.fail_after(max(left, 0)):
                await self._peer.send_all(told)
                await self._peer.send_all(data)
                said, is_last, length = await self._head()
                body = await self._body(length, MAX_MADE if said is Said.MADE else MAX_BODY)
            left -= trio.current_time() - began
            match said:
                case Said.WANTS:
                    offset, asked = RANGE.unpack(body)
                    if not 0 < asked <= MAX_ASKED or offset + asked > job.size:
                        raise ValueError("it wants more than there is")
                    data = await give(offset, asked)
                    told = HEAD.pack(Said.BYTES, 0, len(data))
                case Said.MADE:
                    self.is_sound = not is_last
                    return body
                case Said.FAILED:
                    outcome, reason = read_failure(bytes(body))
                    self.is_sound = not is_last
                    raise _failed(job, outcome, reason)
                case _:
                    raise ValueError("it says what only the daemon says")

    async def _head(self) -> tuple[Said, bool, int]:
        try:
            said, is_last, length = HEAD.unpack(await self._body(HEAD.size, HEAD.size))
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError from None
        return Said(said), bool(is_last), length

    async def _body(self, length: int, most: int) -> bytearray:
        if length > most:
            raise ValueError("it says too much")
        body = bytearray()
        while len(body) < length:
            data = await self._peer.receive_some(min(length - len(body), _STEP))
            if not data:
                raise trio.BrokenResourceError
            body += data
        return body

    async def end(self) -> None:
        """End the process, and wait until it has."""
        self.is_sound = False
        self._peer.socket.close()
        await end(self.process)


def trouble(what: str) -> FormatError:
    """Return the error that a file could not be parsed."""
    return FormatError(ErrorKind.NOT_PARSED, what)


def _failed(job: Job, outcome: Outcome, reason: str) -> FormatError:
    kind = Kind(job.kind)
    match outcome:
        case Outcome.UNPRESENTABLE:
            return FormatError(
                ErrorKind.UNSUPPORTED_FORMAT, f"nothing of it can be shown: {reason}"
            )
        case Outcome.NO_LIBRARY:
            return no_library(kind, reason)
        case Outcome.TOO_LARGE:
            return trouble(f"parsing it takes more than {job.memory} bytes of memory")
    return trouble(f"it cannot be parsed as {kind.called}: {reason}")


def no_library(kind: Kind, module: str) -> FormatError:
    """Return the error that *module*, which parses files of *kind*, is not installed."""
    extra = needs(kind).extra
    return FormatError(
        ErrorKind.UNSUPPORTED_FORMAT,
        f"it is {kind.called}, and {module} is not installed",
        advice=f"pip install 'vzfs[{extra}]'" if extra else f"install {module}",
    )
