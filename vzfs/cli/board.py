"""How far a command is: a bar with rate and estimate on a terminal, a line now and then anywhere else."""

import time
from typing import Final, NamedTuple

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from vzfs.cli.terminal import PATIENCE

REFRESH: Final = 0.2
"""Seconds between two looks at how far it is, for the bar."""
SILENCE: Final = 10.0
"""Seconds between two lines where there is no terminal."""


class _Stage(NamedTuple):
    what: str
    done: int
    total: int
    since: float


class Board:
    """Hears what is being done, from any thread, and shows it."""

    def __init__(self) -> None:
        self._stage: _Stage | None = None

    def heard(self, what: str, done: int, total: int) -> None:
        """Take note that so much of *what* is done, of so much."""
        before = self._stage
        is_same = before is not None and before.what == what and before.done <= done
        since = before.since if is_same and before is not None else time.monotonic()
        self._stage = _Stage(what, done, total, since)

    def line(self) -> str:
        """Say how far it is, how fast it goes, and how long it may take."""
        if self._stage is None:
            return "starting"
        what, done, total, since = self._stage
        line = f"{what}: {done} of {total}"
        seconds = time.monotonic() - since
        if not done or done >= total or seconds <= 0:
            return line
        return f"{line}, {done / seconds:.1f} a second, about {(total - done) * seconds / done:.0f} s left"

    async def show(self, console: Console) -> None:
        """Show it until cancelled."""
        if not console.is_terminal:
            while True:
                await trio.sleep(SILENCE)
                console.print(self.line(), markup=False, highlight=False)
        await trio.sleep(PATIENCE)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Bars(
            *columns, console=console, transient=True, auto_refresh=False, get_time=time.monotonic
        ) as bars:
            task = bars.add_task("starting", total=None, rate="")
            shown = ""
            while True:
                stage = self._stage
                if stage is not None:
                    if stage.what != shown:
                        bars.reset(task, description=stage.what)
                        shown = stage.what
                    seconds = max(time.monotonic() - stage.since, REFRESH)
                    rate = f"{stage.done / seconds:.1f}/s" if stage.done else ""
                    bars.update(task, completed=stage.done, total=stage.total, rate=rate)
                bars.refresh()
                await trio.sleep(REFRESH)
