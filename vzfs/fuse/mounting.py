"""The mount itself: its descriptor from fusermount3, its options, its end, and its read-ahead.

`fusermount3` may mount for whom the kernel would not let, and hands the descriptor over a socket.
"""

import array
import contextlib
import logging
import os
import select
import socket
import subprocess
from pathlib import Path
from typing import Final

from vzfs.errors import ErrorKind, MountError

logger = logging.getLogger("vzfs.fuse")

HELPER: Final = "fusermount3"
READ_AHEAD: Final = 1024
"""KiB that the kernel asks for at a time where a file is read in order: the most that it puts into one
request. Its default of 128 makes eight requests of one."""
BDI: Final = Path("/sys/class/bdi")
"""Where the kernel has how far it reads ahead on each mount; only root may change it."""
_ADVICE: Final = (
    "it takes /dev/fuse, fusermount3 (package fuse3), and, for --allow-other and --group, "
    "user_allow_other in /etc/fuse.conf"
)


def options(source: str, *, allow_other: bool) -> list[str]:
    """Return the options of a mount of *source*, in ASCII; the mount table shows it.

    `ro` makes the kernel refuse what would change anything, and spares a GETATTR after each read.
    """
    chosen = ["ro", "nosuid", "nodev", "noatime", "default_permissions", "subtype=vzfs"]
    # fusermount3 splits options at commas and takes a backslash for an escape.
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    chosen.append(f"fsname={name}")
    if allow_other:
        chosen.append("allow_other")
    return chosen


def attach(mountpoint: str, chosen: list[str]) -> int:
    """Mount, and return the descriptor that requests come from, which does not block.

    Raises MountError where the kernel or fusermount3 refuses.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            helper = subprocess.Popen(
                [HELPER, "-o", ",".join(chosen), "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise _refused(mountpoint, f"{HELPER}: {error.strerror}") from None
        theirs.close()
        with helper:
            descriptor = _receive(ours)
            said = helper.stderr.read(4096) if helper.stderr else b""
        if helper.returncode or descriptor is None:
            if descriptor is not None:
                os.close(descriptor)
            lines = [line.strip() for line in said.decode("utf-8", "replace").split("\n")]
            reason = next(filter(None, reversed(lines)), f"{HELPER} gave no reason")
            raise _refused(mountpoint, reason)
    os.set_blocking(descriptor, False)
    return descriptor


def _receive(ours: socket.socket) -> int | None:
    """Wait for a descriptor, or for the other end to be closed without one."""
    item = array.array("i")
    _, found, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(item.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in found:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            item.frombytes(data[: item.itemsize])
    return item[0] if item else None


def _refused(mountpoint: str, reason: str) -> MountError:
    return MountError(
        ErrorKind.FUSE_UNAVAILABLE,
        f"the kernel does not mount here: {reason}",
        where=mountpoint,
        advice=_ADVICE,
    )


def detach(mountpoint: str, descriptor: int) -> None:
    """Give the descriptor back and unmount, lazily if somebody still uses the mount.

    What was unmounted already is left alone: another mount may be at its place.
    """
    waiting = select.poll()
    waiting.register(descriptor, 0)
    is_over = any(events & select.POLLERR for _, events in waiting.poll(0))
    os.close(descriptor)
    if is_over:
        return
    with contextlib.suppress(OSError):
        subprocess.run(
            [HELPER, "-u", "-q", "-z", "--", mountpoint],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )


def read_further_ahead(device: str) -> None:
    """Have the kernel read `READ_AHEAD` ahead on the mount with the number *device*."""
    limit = BDI / device / "read_ahead_kb"
    try:
        limit.write_text(str(READ_AHEAD))
    except OSError as error:
        logger.debug(
            "files below 1 MiB are read in steps of 128 KiB, not of %d, which takes a fifth more "
            "processor time, since the kernel's read-ahead cannot be raised: %s [%s]: mount as root",
            READ_AHEAD,
            error.strerror,
            limit,
        )
