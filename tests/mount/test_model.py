"""A small sample, the same at every run, of the model that `make stress` holds a mount against for minutes."""

import subprocess
import sys
from pathlib import Path

from tests.stress.stories import STORIES

ROOT = Path(__file__).parents[2]


def test_steps_of_every_kind_leave_a_mount_as_a_naive_model_has_it() -> None:
    """Reads, changed sources, lies, cache loss, kill -9 and policies in any order give right bytes or an errno with a cause, and heal."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.stress.machine", "--examples", "1", "--steps", "12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines() == list(STORIES)
