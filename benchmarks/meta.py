"""Millions of refs: how soon a mount shows them, and what it takes to look at all of them.

    python -m benchmarks.meta [NAME ...]      (default: all of `META`)

*first* is from the start of the process to the end of the first `ls -U | head` of a directory of
chunks, by a mount whose cache folder is empty; *compiled* the same by a second mount with that
folder. What takes long (find, touch, icechunk's listing) is done once.
"""

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import data, mounted, report
from benchmarks.serving import Network, Server, compiled
from benchmarks.workloads import META

WITHIN: Final = 900
"""Seconds that one look may take."""
FEW: Final = "big8"
"""A repository of 64 refs, whose mount is start-up and little else."""
COLUMNS: Final = ("refs", "what", "value")

type Values = dict[tuple[str, str], float]
"""Medians by workload and what they are."""


def measure(base: Path, server: Server, project: Path, names: list[str], repeat: int) -> Values:
    """Return what was measured, in seconds, bytes or pieces, as the names say."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="vzfs-bench-") as scratch:
        for number in range(repeat):
            with mounted.vzfs(project, server.url, f"s3://repo/{FEW}", None) as mount:
                found[FEW, "mount s"].append(mount.seconds)
            for name in names:
                _look_at(name, base, server, project, Path(scratch), found, is_first=number == 0)
    return {key: statistics.median(values) for key, values in found.items()}


def _look_at(
    name: str,
    base: Path,
    server: Server,
    project: Path,
    scratch: Path,
    found: dict[tuple[str, str], list[float]],
    *,
    is_first: bool,
) -> None:
    """Measure one workload once; *is_first*: also what takes long."""

    def note(what: str, value: float) -> None:
        found[name, what].append(value)

    cache = Path(tempfile.mkdtemp(dir=scratch))
    url, source = server.url, f"s3://repo/{name}"
    with mounted.vzfs(project, url, source, cache) as mount:
        note("first ls s", mount.seconds + _begin_listing(mount))
        if is_first:
            # No manifest was needed so far; now they are all loaded, and compiled for who comes next.
            stats = _run_looker("stat", str(mount.path / "v" / "c"), name)
            note("stat/s, manifests loaded meanwhile", stats["count"] / stats["seconds"])
            note("daemon peak MB, manifests loaded", mount.usage().rss / 2**20)
    with mounted.vzfs(project, url, source, cache) as mount:
        note("compiled ls s", mount.seconds + _begin_listing(mount))
        if is_first:
            _look_around(name, mount, note)
    with mounted.vzfs(project, url, str(base / "repo" / name), cache):
        pass  # a local repository has a cache of its own kind: compiled by now
    with mounted.vzfs(project, url, str(base / "repo" / name), cache) as mount:
        note("compiled local mount s", mount.seconds)
    if is_first and name == "meta1m":
        with mounted.vzfs(project, url, source, cache) as mount:
            _find(name, mount, note)
        listed = _run_looker("prefix", url, name)
        note("icechunk list_prefix s", listed["seconds"] * np.prod(META[name]) / listed["count"])
        note("icechunk list_prefix listed", listed["count"])
    shutil.rmtree(cache)


def _look_around(name: str, mount: mounted.Mounted, note: Callable[[str, float], None]) -> None:
    """Look at everything in a mount that has just begun."""
    chunks, count = mount.path / "v" / "c", int(np.prod(META[name]))
    stats = _run_looker("stat", str(chunks), name)
    note("stat/s", stats["count"] / stats["seconds"])
    if len(META[name]) > 1:
        leaf = chunks.joinpath(*["1"] * (len(META[name]) - 1))
        note("ls of a leaf s", _ls(leaf))
        note("touch all s", _run_looker("touch", str(chunks), name)["seconds"])
        note("daemon own bytes/ref, all touched", own_memory(mount.pid) / count)
    note("daemon peak MB, all touched", mount.usage().rss / 2**20)


def _find(name: str, mount: mounted.Mounted, note: Callable[[str, float], None]) -> None:
    """Walk a mount that has just begun, twice."""
    chunks, count = mount.path / "v" / "c", int(np.prod(META[name]))
    for again in ("first", "second"):
        begin = time.perf_counter()
        files = int(_run(["sh", "-c", f"find '{chunks}' -type f | wc -l"]))
        note(f"find -type f, {again} s", time.perf_counter() - begin)
        if files != count:
            raise RuntimeError(f"find saw {files} of {count} chunks of {name}")
    note("daemon peak MB, after find", mount.usage().rss / 2**20)


def own_memory(pid: int) -> int:
    """Return the bytes of memory that a process has for itself: not those of mapped files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(n) * 1024 for n in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+)", status, re.M))


def _begin_listing(mount: mounted.Mounted) -> float:
    """List the chunks of `v`, up to the first hundred names of a directory; returns the seconds."""
    begin = time.perf_counter()
    names = _run(["sh", "-c", f"ls -U '{mount.path}/v/c' | head -n 100"])
    if not names:
        raise RuntimeError(f"{mount.path}/v/c is empty")
    return time.perf_counter() - begin


def _ls(path: Path) -> float:
    begin = time.perf_counter()
    _run(["ls", "-U", str(path)])
    return time.perf_counter() - begin


def _run_looker(*words: str) -> dict[str, float]:
    said: dict[str, float] = json.loads(_run([sys.executable, "-m", "benchmarks.lookers", *words]))
    return said


def _run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=WITHIN, check=False)
    if done.returncode:
        raise RuntimeError(f"{words} failed: {done.stderr[-2000:]}")
    return done.stdout


def rows(values: Values) -> list[list[str]]:
    """Return the table of what was measured, as `COLUMNS` has it."""
    return [
        [name, what, f"{value:,.3f}".rstrip("0").rstrip(".")]
        for (name, what), value in values.items()
    ]


def main() -> None:
    """Measure and print."""
    mounted.end_cleanly_when_told()
    names = sys.argv[1:] or list(META)
    base = data.ensure(FEW, *names)
    with compiled() as program, Server(program, base, Network(20, 10, 90e6), 3600 * 6) as server:
        values = measure(base, server, Path(__file__).parent.parent, names, 1)
    report.show("Metadata", COLUMNS, rows(values))


if __name__ == "__main__":
    main()
