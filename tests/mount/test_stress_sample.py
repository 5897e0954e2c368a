"""Some seconds of what `make stress` does for minutes, and that its judge is no fool."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.lying import CONNECTION, HEAD, Told
from tests.stress.verdict import Failed, Verdict
from tests.stress.world import Chunk

ROOT = Path(__file__).parents[2]
CHUNK = Chunk("web-none-0/c/1", "web/none-0", 1000, 1000)
DEADLINE = 5.0
OUTAGE = 3.0


def test_readers_over_lying_servers_get_right_bytes_or_errors_with_a_cause() -> None:
    """Under faults of every kind no byte is wrong, no errno without a cause, no read late, and nothing is left behind."""
    words = ["--small", "--seconds", "4", "--readers", "8", "--neighbours", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.stress", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "wrong bytes " in ended.stdout


def cause(outcome: str, lie: Told | None) -> str:
    """Judge a read of CHUNK from second 100 to 101, after at most one lie."""
    failed = Failed(100.0, 101.0, CHUNK, 0, 1000, outcome)
    return Verdict([lie] if lie else [], DEADLINE, OUTAGE).cause(failed)


@pytest.mark.parametrize("outcome", ["WRONG", "SHORT", "LISTING", "PRESENT", "ENOENT"])
def test_no_lie_excuses_wrong_bytes_and_names(outcome: str) -> None:
    """The judge excuses wrong bytes, short reads, other names and ENOENT by nothing."""
    assert cause(outcome, Told(100.5, 100.5, "404", "web", CHUNK.file, 1000)) == ""


@pytest.mark.parametrize(
    ("outcome", "lie", "expected"),
    [
        ("EIO", None, ""),
        ("EIO", Told(100.5, 100.5, "416", "web", CHUNK.file, 1000), "416"),
        ("EIO", Told(100.5, 100.5, "416", "web", CHUNK.file, HEAD), "416"),
        ("EIO", Told(95.0, 95.0, "416", "web", CHUNK.file, 1000), "416"),
        ("EIO", Told(93.0, 93.0, "416", "web", CHUNK.file, 1000), ""),
        ("EIO", Told(101.5, 101.5, "416", "web", CHUNK.file, 1000), ""),
        ("EIO", Told(100.5, 100.5, "416", "web", CHUNK.file, 2000), ""),
        ("EIO", Told(100.5, 100.5, "416", "web", "web/none-1", 1000), ""),
        ("EACCES", Told(100.5, 100.5, "416", "web", CHUNK.file, 1000), ""),
        ("EACCES", Told(100.5, 100.5, "403", "web", CHUNK.file, 1000), "403"),
        ("EIO", Told(100.5, 100.5, "surplus", "web", CHUNK.file, 1000), ""),
        ("EIO", Told(100.5, 100.5, "plain-text", "web", "", CONNECTION), "plain-text"),
        ("EIO", Told(100.5, 100.5, "plain-text", "safe", "", CONNECTION), ""),
        ("ETIMEDOUT", Told(99.0, 107.0, "stall", "web", "web/none-1", 0), "stall of others"),
        ("EIO", Told(99.0, 107.0, "stall", "web", "web/none-1", 0), ""),
        ("EIO", Told(90.0, 90.0, "outage", "web", "web/none-1", 0), "outage before"),
        ("EIO", Told(70.0, 70.0, "outage", "web", "web/none-1", 0), ""),
        ("ESTALE", Told(90.0, 90.0, "outage", "web", "web/none-1", 0), ""),
    ],
)
def test_a_lie_excuses_what_it_may_cost(outcome: str, lie: Told | None, expected: str) -> None:
    """The judge takes a lie for a cause only of its errnos, at its place, in its time."""
    assert cause(outcome, lie) == expected
