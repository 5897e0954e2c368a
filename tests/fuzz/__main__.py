"""`python -m tests.fuzz [TARGET...]`: fuzz each target for a while, and say in a line how it went.

Needs atheris, which exists for Linux on x86-64. Inputs that found new paths stay in `.fuzz/corpus`
for the next run, and inputs that crash go to `.fuzz/crashes`; those that stay crashes once they are
mended belong into `tests/fuzz/regressions`. The exit code is 1 if there are any.
"""

import argparse
import concurrent.futures
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

FOLDER = corpus.ROOT / ".fuzz"

STARTING = 60
"""Seconds that a process may take beyond what it is to fuzz for: it imports, and reads its corpus."""

HANG = 20
"""Seconds after which one input counts as a hang."""

_PROGRESS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_EXECUTED = re.compile(r"number_of_executed_units: (\d+)|^#(\d+)\s", re.MULTILINE)


class Outcome(NamedTuple):
    """What came of one target. *crashes* are the files of inputs."""

    name: str
    executions: int
    seconds: float
    coverage: int
    features: int
    kept: int
    crashes: list[Path]
    ended: str

    def __str__(self) -> str:
        line = (
            f"{self.name:<12}{self.executions:>10} executions {self.executions / self.seconds:>7.0f}/s"
            f"{self.coverage:>7} edges{self.features:>7} features{self.kept:>6} inputs"
            f"{len(self.crashes):>4} crashes"
        )
        return "\n    ".join([line, *filter(None, [self.ended]), *map(str, self.crashes)])


def fuzz(name: str, seconds: int) -> Outcome:
    """Fuzz one target in a process of its own."""
    seeds, kept, crashes = (FOLDER / kind / name for kind in ("seeds", "corpus", "crashes"))
    for folder in (seeds, crashes):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (seeds, kept, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    for data in (*target.seeds(), *corpus.regressions(name)):
        if len(data) <= 2 * target.max_length:
            (seeds / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)
    command = [
        *(sys.executable, "-m", "tests.fuzz.coverage_guided", name, str(crashes)),
        *(str(kept), str(seeds), f"-max_total_time={seconds}", f"-timeout={HANG}"),
        *(f"-artifact_prefix={crashes}/process-", "-print_final_stats=1", "-reload=0"),
    ]
    started = time.monotonic()
    with (crashes / "log.txt").open("w+") as log:
        process = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            cwd=corpus.ROOT,
            timeout=seconds + STARTING,
            check=False,
        )
        log.seek(0)
        said = log.read()
    took = time.monotonic() - started
    coverage, features, inputs = map(int, (_PROGRESS.findall(said) or [(0, 0, 0)])[-1])
    executed = [int(a or b) for a, b in _EXECUTED.findall(said)]
    report = crashes / "crashes.json"
    names = json.loads(report.read_text()) if report.exists() else {}
    found = [*(crashes / n for n in names), *crashes.glob("process-*")]
    ended = (
        f"the process ended with {process.returncode}: {crashes}/log.txt"
        if process.returncode
        else ""
    )
    return Outcome(name, max(executed, default=0), took, coverage, features, inputs, found, ended)


def main() -> int:
    """Fuzz what the command line names, several at a time."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the decoders.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {' '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=30, help="for each target (default: 30)")
    parser.add_argument("--jobs", type=int, default=max(len(os.sched_getaffinity(0)) // 2, 1))
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"there is no target {min(unknown)!r}")
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris, which exists for Linux on x86-64", file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    failed = False
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(lambda name: fuzz(name, given.seconds), given.targets or TARGETS):
            print(outcome, flush=True)
            failed |= bool(outcome.crashes or outcome.ended)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
