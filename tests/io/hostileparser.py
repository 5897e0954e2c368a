"""A process that parses as badly as the file tells it to: what `Process.start` starts in tests of limits."""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vzfs.archival import worker
from vzfs.archival.building import ArrayDescription, HierarchyBuilder, Unpresentable


class PanicException(BaseException):
    """What libraries in other languages raise."""


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Do what the file says."""
    match file.read(size)[4:].decode():
        case "allocate":
            bytearray(17 * 2**30)
        case "abort":
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "panic":
            raise PanicException("a slice is out of range")
        case "raise":
            raise RuntimeError("line\n\x1b[31mbreak " + 1000 * "x")
        case "unpresentable":
            raise Unpresentable("there is nothing in it")
        case "library":
            raise ModuleNotFoundError("No module", name="eccodes")
        case "spin":
            while True:
                pass
        case "nonsense":
            os.write(int(sys.argv[-1]), b"\xff" * 100)
        case "too much":
            os.write(int(sys.argv[-1]), worker.HEAD.pack(4, 0, 2**40))
        case "outside":
            file.seek(0)
            file._ask(size, 1)  # type: ignore[attr-defined]
        case "lies":
            build(to).virtual((0,), size - 3, 4)
        case "network":
            socket.socket()
        case "files":
            Path("/etc/hostname").read_bytes()
        case "writing":
            Path("/dev/shm/vzfs-test").write_bytes(b"x")
        case _:
            build(to).virtual((0,), 0, 4)


def build(to: HierarchyBuilder):
    described = ArrayDescription(
        shape=[1],
        chunk_shape=[1],
        data_type="int32",
        fill_value=int(np.int32(0)),
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}],
    )
    return to.array("/x", described)


def main() -> None:
    """Parse with this module whatever is called netCDF."""
    sys.modules["vzfs.archival.parsers.netcdf3"] = sys.modules[__name__]
    worker.main()
