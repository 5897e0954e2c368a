"""Fixtures that every tier shares."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder of real repositories with known answers, or skip."""
    named = os.environ.get("VZFS_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "truth.json").exists():
        pytest.skip("needs the real data: set VZFS_TEST_DATA to their folder")
    return folder
