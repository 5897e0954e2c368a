"""What a person at a terminal sees: whole lines, tables, sizes, and that something takes its time."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PATIENCE: Final = 2.0
"""Seconds before a terminal sees a bar: what is done sooner needs none."""

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_SPANS: Final = (
    (365.25 * 86400, "year"),
    (30.4375 * 86400, "month"),
    (86400.0, "day"),
    (3600.0, "hour"),
    (60.0, "minute"),
)


def waiting(message: str) -> AbstractContextManager[object]:
    """Show *message* while a terminal waits; nothing where there is none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(message)


def console() -> "Console":
    """Return what prints tables to a terminal's width, and whole lines to anything else."""
    from rich.console import Console

    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 4096)


def plain(text: str) -> str:
    """Return foreign *text* without control characters and with rich's markup escaped."""
    from rich.markup import escape

    return escape(printable(text))


def printable(text: str) -> str:
    """Return foreign *text* without what a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def rounded_size(size: int) -> str:
    """Write a number of bytes for people."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return "1 byte" if size == 1 else f"{size} bytes"
    return f"{value:.1f} {_UNITS[unit]}"


def size(size: int) -> str:
    """Write a number of bytes exactly, and for people where that is something else."""
    return f"{size} bytes ({rounded_size(size)})" if size >= 1024 else rounded_size(size)


def age(seconds: float) -> str:
    """Say how long ago something was, in whole units of the largest size."""
    for span, unit in _SPANS:
        count = int(abs(seconds) / span)
        if count:
            words = f"{count} {unit}{'s' if count > 1 else ''}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "just now"


class Bar:
    """A bar on a terminal, from `PATIENCE` on; nothing where there is no terminal."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._begin = time.monotonic()
        self._bar: Progress | None = None
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int | None = None) -> None:
        """Say that so many are *done*, of so many in all if that is known."""
        if self._bar is None:
            if not self._is_terminal or time.monotonic() < self._begin + PATIENCE:
                return
            self._bar = self._started()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _started(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task(self._words, total=None)
        bar.start()
        return bar
