"""A process for code that may end it: whoever dies in it costs one piece of work."""

import os
import signal
from pathlib import Path

import pytest

from vzfs.archival.building import Unpresentable
from vzfs.archival.parsers.guarded import MAX_DEATHS, Failed, Guard


def work(data: bytes) -> bytes:
    """Do what *data* say."""
    match data:
        case b"abort":
            os.abort()
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"exit":
            os._exit(3)
        case b"raise":
            raise ValueError("the reason")
        case b"interrupt":
            raise KeyboardInterrupt
        case b"memory":
            raise MemoryError
        case b"print":
            os.write(2, b"noise")
        case b"pid":
            return str(os.getpid()).encode()
    return data[::-1]


def test_work_is_done_elsewhere() -> None:
    """What the work gives comes back, whatever its length, and it is done in one other process."""
    with Guard(work) as guard:
        assert guard(b"abc") == b"cba"
        assert guard(bytes(range(256)) * 10_000) == (bytes(range(256)) * 10_000)[::-1]
        assert guard(b"") == b""
        assert guard(b"pid") == guard(b"pid") != str(os.getpid()).encode()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (b"abort", "SIGABRT"),
        (b"killed", "SIGKILL"),
        (b"exit", "exit code 3"),
        (b"raise", "the reason"),
        (b"interrupt", "KeyboardInterrupt"),
        (b"memory", "memory"),
    ],
)
def test_a_failure_costs_one_piece_of_work(how: bytes, reason: str) -> None:
    """Whether work raises or the process dies of it, the reason is said, and the next piece is done."""
    with Guard(work) as guard:
        with pytest.raises(Failed, match=reason):
            guard(how)
        assert guard(b"abc") == b"cba"


def test_what_libraries_print_is_for_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing that the work writes to standard error gets out."""
    with Guard(work) as guard:
        guard(b"print")
    assert capfd.readouterr().err == ""


def test_deaths_are_bounded() -> None:
    """After too many deaths the whole is given up."""
    with Guard(work) as guard:
        for _ in range(MAX_DEATHS + 1):
            with pytest.raises(Failed):
                guard(b"killed")
        with pytest.raises(Unpresentable, match="too often"):
            guard(b"abc")


def test_no_process_is_left() -> None:
    """The process ends with the guard."""
    with Guard(work) as guard:
        pid = int(guard(b"pid"))
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
