"""Tables of what was measured: on a terminal, and in `RESULTS.md`.

Medians, with the least and the most, and ratios to others in the same run. A ratio to local or to
icechunk is of seconds: below 1 is quicker.
"""

import importlib.metadata
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.contests import Contest, Sample

BEGIN: Final = "<!-- benchmarks.run: begin -->"
END: Final = "<!-- benchmarks.run: end -->"
PACKAGES: Final = (
    "icechunk",
    "zarr",
    "virtualizarr",
    "kerchunk",
    "obstore",
    "tensorstore",
    "xarray",
)
COLUMNS: Final = (
    "who",
    "open s",
    "first s",
    "task s",
    "min-max",
    "x local",
    "x icechunk",
    "GETs",
    "MB got",
    "over-read",
    "in flight",
    "reader cpu s",
    "daemon cpu s",
    "reader MB",
    "daemon MB",
)


class Key(NamedTuple):
    """What is repeated: a contestant in a contest."""

    network: str
    contest: Contest
    contestant: str
    phase: str


class Results:
    """All samples of a run."""

    def __init__(self, samples: Iterable[Sample], needed: Callable[[Contest], int | None]) -> None:
        self._samples: dict[Key, list[Sample]] = defaultdict(list)
        self._needed = needed
        for s in samples:
            self._samples[Key(s.network, s.contest, s.contestant, s.phase)].append(s)

    def contests(self) -> list[tuple[str, Contest]]:
        """Return each contest that took place, with its network."""
        return list(dict.fromkeys((key.network, key.contest) for key in self._samples))

    def of(self, network: str, contest: Contest) -> list[Key]:
        """Return who took part in a contest."""
        return [k for k in self._samples if (k.network, k.contest) == (network, contest)]

    def samples(self, key: Key) -> Sequence[Sample]:
        """Return the samples of one contestant, if any."""
        return self._samples.get(key, ())

    def median(self, key: Key, value: Callable[[Sample], float]) -> float | None:
        """Return the median of a value, None if there is no sample."""
        found = [value(sample) for sample in self.samples(key)]
        return statistics.median(found) if found else None

    def over_read(self, key: Key) -> float | None:
        """Return the share of bytes that were sent beyond those needed, None where that is unknown."""
        needed = self._needed(key.contest)
        sent = self.median(key, lambda s: s.bytes)
        return None if not needed or not sent else sent / needed - 1


def task(sample: Sample) -> float:
    """Return the seconds of the task, from the beginning where opening is part of it."""
    reading = sample.reading
    return reading.first + reading.task if sample.contest.task == "files" else reading.task


def table(results: Results, network: str, contest: Contest) -> list[list[str]]:
    """Return the rows of one contest, as `COLUMNS` has them."""
    keys = results.of(network, contest)
    rows = []
    for key in keys:
        others = {k.contestant: results.median(k, task) for k in keys if k.phase == "cold"}
        mine = results.median(key, task) or 0
        found = results.samples(key)

        def show(value: Callable[[Sample], float], form: str = "{:.2f}", key: Key = key) -> str:
            median = results.median(key, value)
            return "" if median is None else form.format(median)

        def ratio(other: str, mine: float = mine, others: dict[str, float | None] = others) -> str:
            base = others.get(other)
            return f"{mine / base:.2f}" if base else ""

        over = results.over_read(key)
        rows.append(
            [
                f"{key.contestant} {key.phase}"
                if key.contestant.startswith("vzfs")
                else key.contestant,
                show(lambda s: s.reading.open, "{:.3f}"),
                show(lambda s: s.reading.first, "{:.3f}"),
                f"{mine:.3f}",
                f"{min(map(task, found)):.2f}-{max(map(task, found)):.2f}",
                ratio("local"),
                ratio("icechunk"),
                show(lambda s: s.gets, "{:.0f}"),
                show(lambda s: s.bytes / 1e6, "{:.0f}"),
                "" if over is None else f"{over:.0%}",
                show(lambda s: s.most, "{:.0f}"),
                show(lambda s: s.reading.cpu),
                show(lambda s: s.cpu),
                show(lambda s: s.reading.rss / 2**20, "{:.0f}"),
                show(lambda s: s.rss / 2**20, "{:.0f}"),
            ]
        )
    return rows


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*row)
    width = None if os.isatty(1) else 170
    Console(width=width).print(made)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> str:
    """Say what this was measured on, and against what."""
    (model,) = {
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    } or {"unknown processor"}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}; {versions}"
    )


def write_section(file: Path, text: str) -> None:
    """Replace the section of *file* that is written by this program, or append it."""
    whole = file.read_text() if file.exists() else "# Results\n"
    before, _, rest = whole.partition(BEGIN)
    after = rest.partition(END)[2].strip()
    section = f"{before.rstrip()}\n\n{BEGIN}\n{text.strip()}\n{END}\n"
    file.write_text(section + (f"\n{after}\n" if after else ""))
