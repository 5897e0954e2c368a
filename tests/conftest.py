"""Fixtures that every tier shares."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

REPOSITORIES = [
    "access-om2",
    "derived__expired-v2.1",
    "derived__features-v2",
    "derived__virt-file-v1",
    "derived__virt-file-v2",
    "derived__virt-percent-v2",
    "derived__virt-vcc-v2",
    "expire-repo-v1-by-1.1.21",
    "expire-repo-v2-by-working-copy",
    "split-repo-v1",
    "split-repo-v2",
    "test-repo-v1",
    "test-repo-v2",
    "test-repo-v2-migrated",
]
"""The real repositories whose truth is known, by the names of their truth files."""


def pytest_configure() -> None:
    """Let programs that tests start be interrupted, where a shell in the background had it ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder of real repositories with known answers, or skip."""
    named = os.environ.get("VZFS_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "truth.json").exists():
        pytest.skip("needs the real data: set VZFS_TEST_DATA to their folder")
    return folder
