"""Fixtures for tests that do input and output."""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.io.cachebench import Bench, Faulty
from tests.io.stores_fixtures import *  # noqa: F403 -- fixtures
from vzfs.cache import folder as folder_module
from vzfs.cache import sweep as sweep_module
from vzfs.source import Timing
from vzfs.source.client import Client


@pytest.fixture(autouse=True)
def _connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections that the sources of a test keep."""
    made: list[Client] = []
    begin = Client.__init__

    def register(client: Client, timing: Timing) -> None:
        begin(client, timing)
        made.append(client)

    monkeypatch.setattr(Client, "__init__", register)
    yield
    for client in made:
        trio.run(client.aclose)


@pytest.fixture
def bench(tmp_path: Path, told: Callable[[], list[str]]) -> Bench:
    """Give a folder for caches whose warnings a test has to take, or fails."""
    assert told() == []
    return Bench(tmp_path / "cache")


@pytest.fixture
def break_os(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that replaces system calls of the cache, or none of them."""

    def replace(**replaced: Callable[..., object]) -> None:
        for module in (folder_module, sweep_module):
            monkeypatch.setattr(module, "os", Faulty(**replaced))

    return replace


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Give a filesystem of 256 KiB, or skip."""
    mountpoint = tmp_path / "tmpfs"
    mountpoint.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(mountpoint)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(command, check=False).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Give a function that takes what was logged since the last call; a warning never taken fails the test."""
    caplog.set_level(logging.INFO, logger="vzfs.cache")

    def lines(records: list[logging.LogRecord]) -> list[str]:
        ours = (record for record in records if record.name == "vzfs.cache")
        return [f"{record.levelname} {record.getMessage()}" for record in ours]

    def take() -> list[str]:
        taken = lines(caplog.records)
        caplog.clear()
        return taken

    yield take
    left = lines(caplog.get_records("call"))
    assert [line for line in left if not line.startswith("INFO")] == []
