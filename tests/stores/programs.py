"""Programs that serve tests: started, waited for until they say that they listen, and ended.

A program ends with the test process, however that ends, and nothing waits longer than a bound.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Never, Self

import pytest

READY_WITHIN: Final = 60.0
"""Seconds for a program to listen. The slowest takes three, when nothing else runs."""

ENDED_WITHIN: Final = 5.0
KEPT_LINES: Final = 50


class NotStartedError(Exception):
    """A program ended, or said nothing of listening in time."""


def lacking(what: str) -> Never:
    """Skip the test with a reason; in CI, where everything is installed, fail it."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def find(name: str, package: str) -> str:
    """Return the path of a program, or skip."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    return found or lacking(f"needs {name} (Debian's package {package})")


def free_port() -> int:
    """Return a port on which nobody listens at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Program:
    """A running program. *match* is where its output says that it is ready."""

    def __init__(
        self,
        words: Sequence[str],
        ready: str,
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._pattern = re.compile(ready)
        self._said = threading.Event()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.match: re.Match[str] | None = None
        leash = shutil.which("setpriv")
        self._process = subprocess.Popen(
            [*([leash, "--pdeathsig", "KILL", "--"] if leash else []), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._said.wait(READY_WITHIN)
        if self.match is None:
            self.close()
            raise NotStartedError(f"{words[0]} does not listen: {' | '.join(self._lines)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def output(self) -> list[str]:
        """What the program printed last."""
        return list(self._lines)

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        try:
            self._process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(ENDED_WITHIN)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            for line in self._process.stdout or ():
                self._lines.append(line.rstrip())
                if self.match is None:
                    self.match = self._pattern.search(line)
                if self.match is not None:
                    self._said.set()
        self._said.set()
