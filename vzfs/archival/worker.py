"""One process that parses: files come one after another, and references go.

It trusts nothing that it reads, and may be killed at any moment. It has no socket but the one to the
daemon, no file but what is installed, and as much memory and time as the daemon allows for each file.
It ends when the daemon does.
"""

import importlib
import resource
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Final

from vzfs.archival.wire import (
    HEAD,
    MAX_BODY,
    MAX_MADE,
    RANGE,
    WAITING,
    Job,
    Outcome,
    Said,
    failure,
    message,
)
from vzfs.confined.confinement import confine, see_only_installed

PATIENCE: Final = 10.0
"""Seconds that the daemon has to end a process before it ends itself."""
STARTING: Final = 60
"""Seconds that a process may take to be ready."""
GROWN: Final = 2**29
"""Bytes that a process may have kept to itself before another takes its place."""

_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = resource.getpagesize()


def main() -> None:
    """Serve the socket whose descriptor is the last argument."""
    signal.alarm(STARTING)
    confine()
    see_only_installed()
    warnings.simplefilter("ignore")
    # Nothing of what others wrote is imported before the process is confined.
    importlib.import_module("vzfs.archival.building")
    with socket.socket(fileno=int(sys.argv[-1])) as daemon:
        signal.alarm(0)
        _Worker(daemon).serve()


class _Gone(BaseException):
    """The daemon does not talk any more; no parser catches this."""


class _Worker:
    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._base = _address_space()

    def serve(self) -> None:
        """Parse what comes until nothing comes any more."""
        self._daemon.sendall(message(Said.READY))
        is_last = False
        while not is_last:
            try:
                job = Job.decode(self._receive(Said.PARSE, MAX_BODY))
                said, body, is_last = self._answer(job)
            except _Gone:
                return
            is_last = is_last or _address_space() > self._base + GROWN
            self._daemon.sendall(HEAD.pack(said, is_last, len(body)))
            self._daemon.sendall(body)

    def _answer(self, job: Job) -> tuple[Said, bytes | memoryview, bool]:
        """Parse one file. What failed in an unknown way leaves a process that is not used again."""
        from vzfs.archival.building import Unpresentable

        unlimited = _limit(job)
        try:
            return Said.MADE, self._parse(job), False
        except Unpresentable as reason:
            return Said.FAILED, failure(Outcome.UNPRESENTABLE, str(reason)), False
        except ModuleNotFoundError as missing:
            return Said.FAILED, failure(Outcome.NO_LIBRARY, missing.name or str(missing)), True
        except MemoryError:
            return Said.FAILED, failure(Outcome.TOO_LARGE, ""), True
        except _Gone:
            raise
        except BaseException as error:  # noqa: BLE001 -- parsers in other languages raise whatever they like
            return Said.FAILED, failure(Outcome.WRONG, f"{type(error).__name__}: {error}"), True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, unlimited)

    def _parse(self, job: Job) -> memoryview:
        from vzfs.archival.building import HierarchyBuilder, Unpresentable
        from vzfs.archival.ranges import RangeFile
        from vzfs.formats.references import encode_references

        parser = importlib.import_module(f"vzfs.archival.parsers.{job.kind}")
        to = HierarchyBuilder("")
        with RangeFile(job.size, self._ask) as file:
            parser.parse(file, job.size, to)
        made = encode_references(to.build())
        if len(made) > MAX_MADE:
            raise Unpresentable(f"its references take more than {MAX_MADE} bytes")
        return made

    def _ask(self, offset: int, length: int) -> bytes:
        self._daemon.sendall(message(Said.WANTS, RANGE.pack(offset, length)))
        return self._receive(Said.BYTES, length)

    def _receive(self, expected: Said, most: int) -> bytes:
        said, _, length = HEAD.unpack(self._exactly(HEAD.size))
        if said != expected or length > most:
            raise _Gone
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self._daemon.recv_into(view)
            if not count:
                raise _Gone
            view = view[count:]
        return bytes(data)


def _limit(job: Job) -> tuple[int, int]:
    """Bound memory and time from here on; return the bounds of memory that counted before."""
    signal.setitimer(signal.ITIMER_REAL, WAITING * job.seconds + PATIENCE)
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + job.memory
    if before[1] != resource.RLIM_INFINITY:
        most = min(most, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + job.seconds + PATIENCE)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        seconds = min(seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    return before


def _address_space() -> int:
    return int(_STATM.read_bytes().split()[0]) * _PAGE
