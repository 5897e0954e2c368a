"""Real mounts in processes of their own.

A mount is always ended, even after a failure, and fails its test if its log has a warning that
the test did not announce, or if its daemon does not leave cleanly.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vzfs import mounttable

READY_WITHIN = 90


def why_not() -> str:
    """Say why mounts cannot be made here, or ""."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs /dev/fuse"
    return "" if shutil.which("fusermount3") else "needs fusermount3 (package fuse3)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and skip all with a printed reason where FUSE is missing."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if why_not():
                item.add_marker(pytest.mark.skip(reason=why_not()))


class Mount:
    """A mounted repository: *path* is its directory, *pid* its daemon.

    Its root shows what is stored, byte for byte, unless another view is asked for.
    """

    def __init__(self, folder: Path, source: str | Path, *options: str) -> None:
        self.path = folder / "mnt"
        self.path.mkdir(parents=True)
        self.log_file = folder / "log"
        self._earlier: list[str] = []
        self._turned_over = 0
        self._announced: list[re.Pattern[str]] = []
        reading, writing = os.pipe()
        words = [sys.executable, "-m", "vzfs", "mount", str(source), str(self.path), *options]
        if "--view" not in options:
            words += ["--view", "stored"]
        self._process = subprocess.Popen(
            [*words, "-v", "--log-file", str(self.log_file), "--announce-fd", str(writing)],
            pass_fds=[writing],
            stderr=subprocess.PIPE,
        )
        try:
            self._wait(reading, writing)
        except BaseException:
            self.tear_down()
            raise

    def _wait(self, reading: int, writing: int) -> None:
        """Wait until the daemon says what became of the mount."""
        os.close(writing)
        with os.fdopen(reading) as said:
            line = said.readline()
        self.outcome: dict[str, str] = json.loads(line) if line else {}
        if "mounted" not in self.outcome:
            assert self._process.stderr is not None
            stderr = self._process.communicate(timeout=READY_WITHIN)[1].decode()
            raise MountFailedError(self.outcome, stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> list[str]:
        """Return the lines logged so far, also those of files before this one."""
        before = self.log_file.with_name(self.log_file.name + ".1")
        if before.exists() and before.stat().st_ino != self._turned_over:
            self._turned_over = before.stat().st_ino
            self._earlier += before.read_text().splitlines()
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [*self._earlier, *lines]

    def warnings(self) -> list[str]:
        """Return the lines logged so far that are warnings or worse."""
        return [line for line in self.log() if re.search(r" (WARNING|ERROR|CRITICAL) ", line)]

    def expect_log(self, pattern: str) -> None:
        """Announce warnings in which *pattern* is found; at least one must be there at the end."""
        self._announced.append(re.compile(pattern))

    def kill(self) -> None:
        """End the daemon as a crash would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End the mount as a service manager would, and check how it was."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                code = self._process.wait(timeout=20)
            finally:
                self.tear_down()
            assert code == 0, f"the daemon left with {code}: {self.log()[-5:]}"
            assert mounttable.topmost(self.path) is None
        self.tear_down()
        for pattern in self._announced:
            assert any(pattern.search(w) for w in self.warnings()), f"never logged: {pattern}"
        surprising = [w for w in self.warnings() if not any(p.search(w) for p in self._announced)]
        assert surprising == []

    def tear_down(self) -> None:
        """Leave neither mount nor daemon behind."""
        if mounttable.topmost(self.path) is not None:
            subprocess.run(["fusermount3", "-uz", str(self.path)], check=False)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


class MountFailedError(Exception):
    """`vzfs mount` said why it cannot mount."""


@pytest.fixture(name="mount")
def _mount(tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    """Mount a source; options are those of `vzfs mount`. All mounts are ended with the test."""
    mounts: list[Mount] = []
    numbers = itertools.count()

    def make(source: str | Path, *options: str, cache: Path | None = None) -> Mount:
        folder = tmp_path / f"mount{next(numbers)}"
        kept = ["--cache-dir", str(cache)] if cache else ["--no-cache"]
        made = Mount(folder, source, *kept, *options)
        mounts.append(made)
        return made

    try:
        yield make
        for made in mounts:
            made.end()
    finally:
        for made in mounts:
            made.tear_down()
