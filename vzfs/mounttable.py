"""What is mounted where: the kernel's mount table, and what may become a mountpoint.

An autofs trigger is not a mount, and is never listed: that would set it off.
"""

import dataclasses
import errno
import os
import re
from pathlib import Path
from typing import Final

from vzfs.errors import ErrorKind, MountError

FSTYPE: Final = "fuse.vzfs"
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table."""

    mountpoint: str
    fstype: str
    source: str
    device: str


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a mountpoint without touching what is mounted there."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would touch a dead mount
    place = Path(os.path.realpath(absolute.parent)) / absolute.name
    # A mount of somebody else, or a dead one, does not even say that it is no link.
    return Path(os.path.realpath(place)) if os.path.islink(place) else place  # noqa: PTH114 -- see above


def parse(table: bytes) -> list[Mounted]:
    """Parse what `/proc/PID/mountinfo` says (proc_pid_mountinfo(5)), oldest mount first."""
    found = []
    for line in table.split(b"\n"):
        fields = os.fsdecode(line).split(" ")
        if "-" not in fields[6:]:
            continue
        after = fields.index("-", 6) + 1
        if len(fields) < after + 2:
            continue
        found.append(
            Mounted(_unescape(fields[4]), fields[after], _unescape(fields[after + 1]), fields[2])
        )
    return found


def topmost(mountpoint: Path) -> Mounted | None:
    """Return what is mounted at *mountpoint* on top of everything else there, if anything."""
    here = [m for m in parse(_MOUNTINFO.read_bytes()) if m.mountpoint == str(mountpoint)]
    return here[-1] if here else None


def containing(path: Path) -> Mounted | None:
    """Return the mount that *path* lies in, if the mount table has it."""
    within = Path(os.path.realpath(path))
    found = None
    for mounted in parse(_MOUNTINFO.read_bytes()):
        is_deeper = found is None or len(mounted.mountpoint) >= len(found.mountpoint)
        if is_deeper and within.is_relative_to(mounted.mountpoint):
            found = mounted
    return found


def check_mountpoint(mountpoint: Path) -> None:
    """Raise MountError unless *mountpoint* is an empty directory on which nothing is mounted."""
    mounted = topmost(mountpoint)
    if mounted is not None and mounted.fstype == FSTYPE and _is_dead(mountpoint):
        raise _dead(mountpoint)
    if mounted is not None and mounted.fstype != "autofs":
        raise _refusal(
            mountpoint,
            f"something is mounted here already ({mounted.source}, {mounted.fstype})",
            f"unmount it with: vzfs umount {mountpoint}"
            if mounted.fstype == FSTYPE
            else "choose another directory",
        )
    if mounted is not None:
        return
    try:
        with os.scandir(mountpoint) as listing:
            is_empty = next(listing, None) is None
    except NotADirectoryError:
        raise _refusal(
            mountpoint, "the mountpoint is not a directory", "name a directory"
        ) from None
    except FileNotFoundError:
        raise _refusal(
            mountpoint, "the mountpoint does not exist", f"create it with: mkdir -p {mountpoint}"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise _dead(mountpoint) from None
        raise _refusal(
            mountpoint, f"the mountpoint cannot be used: {error.strerror}", "choose another"
        ) from None
    if not is_empty:
        raise _refusal(
            mountpoint,
            "the mountpoint is not empty",
            "its files would be hidden while mounted; choose an empty directory",
        )


def _is_dead(mountpoint: Path) -> bool:
    try:
        # The kernel never answers this from what it remembers, as it may a stat.
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _dead(mountpoint: Path) -> MountError:
    return _refusal(
        mountpoint,
        "a mount whose daemon has died is here",
        f"remove it with: vzfs umount --lazy {mountpoint}",
    )


def _refusal(mountpoint: Path, what: str, advice: str) -> MountError:
    return MountError(ErrorKind.BAD_MOUNTPOINT, what, where=str(mountpoint), advice=advice)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
