"""What a decoder process gives up before it sees a byte that somebody else wrote.

It dumps no core, writes no file, gains no privilege and opens no socket. The last is a filter of
system calls, where the kernel and the machine are such as are known here; whatever else a process
of this user may do it still may. It heeds no signal that is meant for the daemon.
"""

import ctypes
import platform
import resource
import signal
import struct
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2

_MACHINES: Final = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Of each machine what the kernel calls it, and the number of socket(2)."""
_IO_URING_SETUP: Final = 425
_FOREIGN: Final = 0x40000000
"""Numbers from here on are calls of another kind (x32), which would get past a filter of numbers."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _MACHINE = 0, 4
"""Where the number of a call is, and whose it is, in what a filter looks at."""
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050001
"""The call fails with EPERM."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> None:
    """Give up what a decoder does not need."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    instructions = offline(platform.machine())
    if instructions:
        program = _Program(len(instructions) // _INSTRUCTION.size, instructions)
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def offline(machine: str) -> bytes:
    """Return the filter that refuses whatever makes a socket, b"" for a machine that is not known."""
    if machine not in _MACHINES:
        return b""
    name, socket = _MACHINES[machine]
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD, 0, 0, _MACHINE),
            (_IF_EQUAL, 0, 4, name),
            (_LOAD, 0, 0, _NUMBER),
            (_IF_AT_LEAST, 2, 0, _FOREIGN),
            (_IF_EQUAL, 1, 0, socket),
            (_IF_EQUAL, 0, 1, _IO_URING_SETUP),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
