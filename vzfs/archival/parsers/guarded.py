"""A process of its own for code that may end the process that runs it, as libraries for hostile files do.

It is forked, so that it costs little and has what is in memory; whoever dies in it costs one piece
of work, and the next piece gets another process.
"""

import contextlib
import ctypes
import faulthandler
import os
import signal
import struct
import warnings
from collections.abc import Callable
from typing import Final

from vzfs.archival.building import Unpresentable

MAX_DEATHS: Final = 16
"""Processes that may die for one file."""

_PR_SET_PDEATHSIG: Final = 1
_HEAD: Final = struct.Struct("<BQ")
_DONE, _RAISED, _MEMORY = range(3)


class Failed(Exception):
    """A piece of work was not done, and why: it raised, or the process died of it."""


class Guard:
    """Does *work* on pieces of bytes, one at a time, in another process. A context manager."""

    def __init__(self, work: Callable[[bytes], bytes]) -> None:
        self._work = work
        self._pid = 0
        self._to = self._from = -1
        self._deaths = 0

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, data: bytes) -> bytes:
        """Return what *work* makes of *data*. Raises Failed, or Unpresentable after too many deaths."""
        if not self._pid:
            self._start()
        try:
            _write(self._to, _HEAD.pack(0, len(data)), data)
            outcome, length = _HEAD.unpack(_read(self._from, _HEAD.size))
            made = _read(self._from, length)
        except (EOFError, OSError):
            raise self._died() from None
        match outcome:
            case 0:
                return made
            case 1:
                raise Failed(made.decode(errors="replace"))
        raise Failed("it takes more memory than a file may")

    def _start(self) -> None:
        if self._deaths > MAX_DEATHS:
            raise Unpresentable("the library that reads it died too often")
        (theirs, self._to), (self._from, ours) = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # Threads that other libraries have are of no use to the work.
            warnings.simplefilter("ignore", DeprecationWarning)
            parent, self._pid = os.getpid(), os.fork()
        if self._pid:
            os.close(theirs)
            os.close(ours)
            return
        try:
            os.close(self._to)
            os.close(self._from)
            # How it dies is told by who started it.
            faulthandler.disable()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                _serve(self._work, theirs, ours)
        finally:
            os._exit(0)

    def _died(self) -> Failed:
        status = self._end()
        self._deaths += 1
        reason = f"exit code {status}"
        with contextlib.suppress(ValueError):
            reason = signal.Signals(-status).name
        return Failed(f"the library that reads it died of it ({reason})")

    def _end(self) -> int:
        """End the process; return its exit code, negative for a signal."""
        if not self._pid:
            return 0
        os.close(self._to)
        os.close(self._from)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)


def _serve(work: Callable[[bytes], bytes], given: int, made: int) -> None:
    # What libraries print is for nobody, nor is what Python says of a process that ends.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
    with contextlib.suppress(EOFError, OSError):
        while True:
            _, length = _HEAD.unpack(_read(given, _HEAD.size))
            data = _read(given, length)
            try:
                outcome, answer = _DONE, work(data)
            except MemoryError:
                outcome, answer = _MEMORY, b""
            except BaseException as error:  # noqa: BLE001 -- libraries in other languages raise whatever they like
                outcome, answer = _RAISED, (str(error) or type(error).__name__)[:500].encode()
            _write(made, _HEAD.pack(outcome, len(answer)), answer)


def _write(descriptor: int, *parts: bytes) -> None:
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(descriptor, min(length, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
