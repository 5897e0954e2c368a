"""What a confined process gives up before it sees a byte that somebody else wrote.

It dumps no core, writes no file, gains no privilege and opens no socket. The last is a filter of
system calls, where the kernel and the machine are such as are known here; whatever else a process
of this user may do it still may. It heeds no signal that is meant for the daemon.

A process that is asked to can moreover open no file but what is installed (`see_only_installed`),
where the kernel has Landlock: a file that names others, as HDF5 files may, leads nowhere then.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from typing import Final

import vzfs

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

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The system calls of Landlock, on every machine."""
_PATH_BENEATH: Final = 1
_FILE_RIGHTS: Final = 2**13 - 1
"""All that the first version of Landlock can refuse: reading, writing, executing, making, removing."""
_READ: Final = 0b1100
"""To read files, and the names in folders."""
_RULE: Final = struct.Struct("=Qi")
_SYSTEM: Final = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/sys/devices/system", "/dev/null", "/dev/urandom",
)  # fmt: skip
"""Where a system has its libraries, and what they ask of it."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> None:
    """Give up what needs no file."""
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


def see_only_installed() -> bool:
    """Give up opening files that are not installed. Returns whether this kernel can see to that.

    Installed is what lies on the import path, below the prefixes of Python, and where the system has
    its libraries; but not all that there is, or that this user has, if Python was started there. What
    is open stays open. Comes after `confine`.
    """
    places = {*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix, *_SYSTEM}
    places |= set(os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    places -= {"", "/", os.path.expanduser("~")}  # noqa: PTH111 -- pathlib is not needed here
    return _see_only({*places, *vzfs.__path__})


def _see_only(places: Iterable[str]) -> bool:
    libc = ctypes.CDLL(None)
    handled = _FILE_RIGHTS.to_bytes(8, sys.byteorder)
    rules = libc.syscall(_CREATE_RULESET, handled, len(handled), 0)
    if rules < 0:
        return False
    try:
        for place in places:
            with contextlib.suppress(OSError):
                _permit(libc, rules, place)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _permit(libc: ctypes.CDLL, rules: int, place: str) -> None:
    """Let *place*, and all below it, be read. Raises OSError if it is not there."""
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        # Names are in folders only, and the kernel refuses a rule that says otherwise.
        rights = _READ if os.path.isdir(place) else _READ & ~0b1000  # noqa: PTH112 -- pathlib is not needed here
        libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, _RULE.pack(rights, descriptor), 0)
    finally:
        os.close(descriptor)
