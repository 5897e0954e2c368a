"""What people and supervisors see of a running mount: log lines, readiness, statistics.

And what nobody is to see: its memory.
"""

import ctypes
import dataclasses
import logging
import logging.handlers
import os
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from vzfs.errors import ConfigError, ErrorKind

MAX_LOG: Final = 10 * 2**20
"""Bytes of a log file before it is rotated away; one older file is kept."""


_PR_SET_DUMPABLE: Final = 4
"""Of prctl(2)."""


class HasStatistics(Protocol):
    """Whatever can say how it is doing."""

    def statistics(self) -> object:
        """Return a frozen dataclass of counts."""


def set_up_logging(log_file: Path | None, verbosity: int) -> None:
    """Send log lines to *log_file*, or to standard error. Raises ConfigError."""
    handler: logging.Handler
    if log_file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handler = logging.handlers.RotatingFileHandler(
                log_file,
                maxBytes=MAX_LOG,
                backupCount=1,
                encoding="utf-8",
                errors="backslashreplace",
            )
        except OSError as error:
            raise unwritable(log_file, error) from None
    # The journal puts the time before each line by itself.
    time = "" if log_file is None and is_journal(sys.stderr.fileno()) else "%(asctime)s "
    handler.setFormatter(_OneLine(time + "%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    level = (logging.INFO, logging.DEBUG)[min(verbosity, 1)]
    logging.getLogger("vzfs").setLevel(level)


def unwritable(log_file: Path, error: OSError) -> ConfigError:
    """Return the error for a log file that cannot be opened."""
    return ConfigError(
        ErrorKind.BAD_CONFIG,
        f"the log file cannot be written: {error.strerror}",
        where=str(log_file),
        advice="name another with --log-file",
    )


class _OneLine(logging.Formatter):
    """A record is one line, whatever a hostile repository wrote into its names; only a bug has a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info:
            return text
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def default_log_file(mountpoint: Path, environ: Mapping[str, str]) -> Path | None:
    """Return where a background mount logs by default: a file named for its mountpoint.

    None means standard error, which under systemd is the journal.
    """
    if is_journal(2):
        return None
    name = str(mountpoint).strip("/").replace("-", "--").replace("/", "-") + ".log"
    state = environ.get("XDG_STATE_HOME") or environ.get("HOME", "") + "/.local/state"
    folder = Path(state) if state.startswith("/") and environ.get("HOME") else Path("/var/log")
    return folder / "vzfs" / name


def forbid_core_dumps() -> None:
    """Keep the memory of this process, which holds credentials, from core dumps and from debuggers.

    The limit alone does not do it: it does not hold where a program collects the dumps.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        logging.getLogger("vzfs").warning(
            "core dumps cannot be ruled out: %s", os.strerror(ctypes.get_errno())
        )


def is_journal(descriptor: int) -> bool:
    """Whether *descriptor* is connected to the systemd journal."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def notify(message: str) -> None:
    """Tell the service manager *message* (`READY=1`, `STOPPING=1`), if there is one.

    The protocol is sd_notify(3)'s: one datagram to the socket that NOTIFY_SOCKET names.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
        try:
            peer.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            peer.sendall(message.encode())
        except OSError as error:
            logging.getLogger("vzfs").warning("the service manager cannot be told: %s", error)


def describe(parts: Mapping[str, HasStatistics]) -> str:
    """Return the statistics of *parts* that are not 0 in one line: `chunks.reads=3 ...`."""
    return " ".join(
        f"{name}.{field}={value}"
        for name, part in parts.items()
        for field, value in _fields(part.statistics())
        if value
    )


def _fields(statistics: object) -> list[tuple[str, object]]:
    assert dataclasses.is_dataclass(statistics)  # noqa: S101 -- what HasStatistics promises
    return [(f.name, getattr(statistics, f.name)) for f in dataclasses.fields(statistics)]
