"""Log lines, and where they go."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vzfs import observe
from vzfs.cache import MemoryCache
from vzfs.errors import ConfigError
from vzfs.observe import default_log_file, describe, is_journal, notify, set_up_logging


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Leave the loggers as they were."""
    root, ours = logging.getLogger(), logging.getLogger("vzfs")
    kept = root.handlers[:], root.level, ours.level
    yield
    for handler in root.handlers:
        if handler not in kept[0]:
            handler.close()
    root.handlers[:], root.level, ours.level = kept


def test_standard_error_may_be_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd names the socket that it listens to; no other descriptor is taken for it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(ours.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")

        assert is_journal(ours.fileno())
        assert not is_journal(theirs.fileno())
        monkeypatch.setattr(observe, "is_journal", lambda _: True)
        assert default_log_file(Path("/mnt/a"), {"HOME": "/home/me"}) is None


def test_each_mountpoint_has_a_log_of_its_own() -> None:
    """A background mount logs at home, or in /var/log, under the name of its mountpoint."""
    home = {"HOME": "/home/me"}
    folder = Path("/home/me/.local/state/vzfs")

    assert default_log_file(Path("/mnt/a"), home) == folder / "mnt-a.log"
    assert default_log_file(Path("/mnt-a"), home) == folder / "mnt--a.log"
    assert default_log_file(Path("/a"), {**home, "XDG_STATE_HOME": "/s"}) == Path("/s/vzfs/a.log")
    assert default_log_file(Path("/a"), {}) == Path("/var/log/vzfs/a.log")


def test_a_record_is_one_line(tmp_path: Path) -> None:
    """Whatever stands in a name, it cannot end a line of the log or begin another."""
    log = tmp_path / "folder" / "log"
    set_up_logging(log, 0)
    logging.getLogger("vzfs.test").warning("bad %s", "name\nERROR forged\r\x1b[31m\u2028")

    (line,) = log.read_text().splitlines()
    assert line.endswith(r"WARNING vzfs.test: bad name\x0aERROR forged\x0d\x1b[31m\x2028")


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A folder in place of the log file is an error that says which."""
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        set_up_logging(tmp_path, 0)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_abstract: bool
) -> None:
    """A notification is one datagram to the socket that NOTIFY_SOCKET names, in the file system or not."""
    name = f"\0vzfs-test-{os.getpid()}" if is_abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        notify("READY=1")

        assert manager.recv(100) == b"READY=1"


def test_statistics_are_one_line_of_what_is_not_zero() -> None:
    """Rooms and their counts are named; what never happened is left out."""
    memory = MemoryCache(1000)
    memory.get("nothing")

    assert describe({"memory": memory}) == "memory.misses=1"
