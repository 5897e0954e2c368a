"""One decoder process: chunks come, are decoded one at a time, and go.

It trusts nothing that it is given, and may be killed at any moment. Its memory is bounded anew for
each chunk, by what the chunk may need; its time by an alarm, should the daemon not be there any more
to end it. It ends when the daemon does.
"""

import mmap
import os
import resource
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Final

from vzfs.confined.confinement import confine
from vzfs.decoding.wire import DEADLINE, MAX_NBYTES, MAX_REPLY, Outcome, Reply, Request

MAX_MEMORY: Final = 6 * MAX_NBYTES
"""Bytes of address space beyond what is there before the first chunk, whatever is asked for: the largest
chunk four times, and the files in which it comes and goes."""
LIBRARIES: Final = 512 * 2**20
"""Bytes of address space for finding the codecs of a spec: some import half of what is installed."""
SLACK: Final = 256 * 2**20
"""Bytes of address space for any chunk: some codecs load libraries when they are first used."""
COPIES: Final = 8
"""Times that a chunk may be in memory decoded, some of them in wider elements; twice as it was stored."""
GROWN: Final = 2**30
"""Bytes that a worker may have kept to itself before another takes its place."""
PATIENCE: Final = 10.0
"""Seconds that the daemon has to end a worker before it ends itself."""

_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = resource.getpagesize()


def main() -> None:
    """Serve the socket and the two files whose descriptors are the last three arguments."""
    peer, given, made = (int(word) for word in sys.argv[-3:])
    signal.alarm(int(DEADLINE + PATIENCE))
    confine()
    warnings.simplefilter("ignore")
    with socket.socket(fileno=peer) as daemon:
        worker = _Worker(given, made)
        try:
            # Here, as nothing of what others wrote is imported before the process is confined.
            import vzfs.decoding.pipeline  # noqa: F401
        except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon says it
            daemon.send(Reply(Outcome.WRONG, is_last=True, text=f"{error!r}").encode())
            return
        worker.begin()
        daemon.send(Reply(Outcome.DONE).encode())
        while message := daemon.recv(MAX_REPLY):
            reply = worker.answer(Request.decode(message))
            daemon.send(reply.encode())
            if reply.is_last:
                return


class _Worker:
    def __init__(self, given: int, made: int) -> None:
        self._given = _Mapped(given, mmap.PROT_READ)
        self._made = _Mapped(made, mmap.PROT_READ | mmap.PROT_WRITE)
        self._base = self._most = 0

    def begin(self) -> None:
        """Take what is in memory now for what a worker needs."""
        self._base = _address_space()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = self._base + MAX_MEMORY
        self._most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        signal.alarm(0)

    def answer(self, request: Request) -> Reply:
        """Decode one chunk."""
        signal.setitimer(signal.ITIMER_REAL, DEADLINE + PATIENCE)
        outcome, text = self._decode(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        has_grown = _address_space() > self._base + GROWN + request.chunk + request.nbytes
        return Reply(outcome, has_grown or outcome is Outcome.TOO_LARGE, text)

    def _decode(self, request: Request) -> tuple[Outcome, str]:
        from vzfs.decoding.pipeline import NoCodecError, pipeline_of

        resource.setrlimit(resource.RLIMIT_AS, (self._most, self._most))
        given = self._given.view(request.chunk + request.spec)
        made = self._made.view(request.nbytes)
        try:
            self._allow(LIBRARIES)
            pipeline = pipeline_of(bytes(given[request.chunk :]))
            if pipeline.nbytes != request.nbytes:
                return Outcome.WRONG, f"a chunk has {pipeline.nbytes} bytes, not {request.nbytes}"
            self._allow(SLACK + COPIES * pipeline.whole_nbytes + 2 * request.chunk)
            pipeline.decode(given[: request.chunk], made)
        except NoCodecError as missing:
            return Outcome.NO_CODEC, str(missing)
        except MemoryError:
            return Outcome.TOO_LARGE, ""
        except Exception as error:  # noqa: BLE001 -- codecs raise whatever they like
            return Outcome.WRONG, str(error) or type(error).__name__
        return Outcome.DONE, ""

    def _allow(self, more: int) -> None:
        """Let the process grow by *more* bytes from here on."""
        limit = min(_address_space() + more, self._most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, self._most))


class _Mapped:
    """A file in memory that grows."""

    def __init__(self, descriptor: int, protection: int) -> None:
        self._descriptor = descriptor
        self._protection = protection
        self._map: mmap.mmap | None = None
        self._size = 0

    def view(self, length: int) -> memoryview:
        """Return its first *length* bytes."""
        size = os.fstat(self._descriptor).st_size
        if self._map is None or self._size != size:
            self._map = None
            self._map = mmap.mmap(self._descriptor, size, mmap.MAP_SHARED, self._protection)
            self._size = size
        return memoryview(self._map)[:length]


def _address_space() -> int:
    return int(_STATM.read_bytes().split()[0]) * _PAGE
