"""Sizes, ages and blocks of lines as a person at a terminal reads them."""

import io
import sys

import pytest

from vzfs.cli import terminal
from vzfs.cli.stat import lines
from vzfs.cli.terminal import PATIENCE, Bar, age, rounded_size, size

DAY = 86400


@pytest.mark.parametrize(
    ("number", "rounded", "exact"),
    [
        (0, "0 bytes", "0 bytes"),
        (1, "1 byte", "1 byte"),
        (1023, "1023 bytes", "1023 bytes"),
        (1024, "1.0 KiB", "1024 bytes (1.0 KiB)"),
        (5 * 2**20 + 2**19, "5.5 MiB", "5767168 bytes (5.5 MiB)"),
        (2**60, "1048576.0 TiB", f"{2**60} bytes (1048576.0 TiB)"),
    ],
)
def test_sizes_are_for_people_and_exact(number: int, rounded: str, exact: str) -> None:
    """A size is rounded in powers of 1024, beside the exact number where that differs."""
    assert rounded_size(number) == rounded
    assert size(number) == exact


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "just now"),
        (59.9, "just now"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (DAY * 1.9, "1 day ago"),
        (DAY * 30, "30 days ago"),
        (DAY * 31, "1 month ago"),
        (DAY * 800, "2 years ago"),
        (-7200, "in 2 hours"),
    ],
)
def test_ages_are_whole_units(seconds: float, expected: str) -> None:
    """How long ago something was is said in whole units of the largest size."""
    assert age(seconds) == expected


def test_a_block_has_what_is_known_in_words() -> None:
    """Numbers of bytes and times are said for people beside what they are; a time that is none stays as it is."""
    report = {
        "type": "chunk",
        "size": 2048,
        "written_at": "2026-01-02T00:00:00Z",
        "attributes": {
            "kind": "virtual",
            "offset": 4096,
            "last_modified": "2026-01-01T00:00:00Z",
            "odd": "x",
        },
    }
    now = 1_767_398_400 * 10**9  # 2026-01-03
    assert lines(report, now) == [
        ("type", "chunk, 2048 bytes (2.0 KiB)"),
        ("kind", "virtual"),
        ("offset", "4096 bytes (4.0 KiB)"),
        ("last_modified", "2026-01-01T00:00:00Z (2 days ago)"),
        ("odd", "x"),
        ("written", "2026-01-02T00:00:00Z (1 day ago)"),
    ]
    report["attributes"] = {"last_modified": "yesterday"}
    report["type"] = "directory"
    assert lines(report, now)[:2] == [("type", "directory"), ("last_modified", "yesterday")]


class Terminal(io.StringIO):
    """What a terminal is written."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_seen_by_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar appears when something takes its time, says how far it is, and goes; elsewhere there is none."""
    now = 0.0
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    for stderr, expected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stderr)
        now = 0.0
        with Bar("looking for chunks") as bar:
            bar.show(1)
            now = PATIENCE / 2
            bar.show(2, 10)
            assert stderr.getvalue() == ""
            now = PATIENCE
            bar.show(3, 10)
        assert ("looking for chunks" in stderr.getvalue()) == expected
        assert ("3/10" in stderr.getvalue()) == expected
