"""The benchmarks: vzfs against its peers on the same data, in one go.

    python -m benchmarks.run [--only small,big8] [--repeat 5] [--lat 20,10] [--quick]

`--only` names workloads, or contests of them (small:random, small:scan:zarr1), or `floor`.
Contestants of a contest take turns, round by round, so that what else the machine does falls on
all. Prints tables, then the targets; a run of everything writes them into `RESULTS.md`. See README.md.
"""

import argparse
import datetime
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import data, meta, mounted, report, targets
from benchmarks.contests import CONTESTS, Contest, Course, Sample, compete, needed, warm
from benchmarks.meta import FEW, Values
from benchmarks.report import Results
from benchmarks.serving import Network, Server, compiled
from benchmarks.workloads import META

HERE: Final = Path(__file__).parent
RATE: Final = 90e6
"""Bytes a second that a connection to a store far away gets."""
LONGEST: Final = 6 * 3600
"""Seconds after which a server ends in any case."""
FLOOR_WITHIN: Final = 1800
"""Seconds that `fuse_floor` may take."""
QUICK: Final = frozenset({"local", "vzfs", "icechunk", "obstore"})
"""Who takes part in a quick run, by the engines of default."""


def main() -> int:
    """Measure, print and write. Returns the exit code."""
    given = _arguments()
    mounted.end_cleanly_when_told()
    chosen = [contest for contest in CONTESTS if _is_wanted(contest, given)]
    names = [n for n in META if n in given.only or (not given.only and not given.quick)]
    workloads = dict.fromkeys(contest.workload for contest in chosen)
    base = data.ensure(*workloads, *([FEW, *names] if names else []))
    lat, jitter = map(float, given.lat.split(","))
    networks = [Network(lat, jitter, given.rate)]
    if not given.quick and not given.far_only:
        networks.append(Network())
    samples: list[Sample] = []
    begin = time.perf_counter()
    with compiled() as program:
        for network in networks:
            contests = [c for c in chosen if network.latency or not c.is_far_only]
            samples += _race(given, program, base, network, contests)
        values: Values = {}
        if names:
            with Server(program, base, networks[0], LONGEST) as server:
                values = meta.measure(base, server, given.project, names, given.repeat)
    floor = _floor(given.project) if "floor" in given.only or not given.only else None
    results = Results(samples, functools.cache(lambda contest: needed(base, contest)))
    run = targets.Run(results, str(networks[0]), str(Network()), values, floor)
    found = targets.judge(run)
    for at, contest in results.contests():
        report.show(f"{contest}, {at}", report.COLUMNS, report.table(results, at, contest))
    if values:
        report.show("Metadata", meta.COLUMNS, meta.rows(values))
    report.show("Targets", targets.COLUMNS, found)
    print(f"{time.perf_counter() - begin:.0f} s; {report.machine()}")
    if given.save:
        given.save.write_text(json.dumps([sample._asdict() for sample in samples]))
    if given.results:
        report.write_section(given.results, _section(given, run, found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", default="", help="workloads, or contests such as small:random")
    parser.add_argument("--contestants", default="", help="who takes part (default: all)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--lat", default="20,10", help="ms to the first byte, and more by chance")
    parser.add_argument("--rate", type=float, default=RATE, help="bytes/s of a connection")
    parser.add_argument("--far-only", action="store_true", help="leave out the store at 0 ms")
    parser.add_argument(
        "--quick", action="store_true", help="one round, far only, against local and icechunk"
    )
    parser.add_argument(
        "--project", type=Path, default=HERE.parent, help="the checkout of vzfs to measure"
    )
    parser.add_argument("--save", type=Path, help="also write all samples to this file, as JSON")
    parser.add_argument(
        "--results", type=Path, help="write a section of this file (of everything: RESULTS.md)"
    )
    given = parser.parse_args()
    given.project = given.project.absolute()
    given.only = set(filter(None, given.only.split(",")))
    given.contestants = set(filter(None, given.contestants.split(",")))
    if given.quick:
        given.repeat = 1
    if not (given.quick or given.only or given.contestants or given.far_only):
        given.results = given.results or HERE / "RESULTS.md"
    return given


def _is_wanted(contest: Contest, given: argparse.Namespace) -> bool:
    names = {contest.workload, f"{contest.workload}:{contest.task}"}
    names.add(f"{contest.workload}:{contest.task}:{contest.engine}")
    if given.only and not names & given.only:
        return False
    if not given.quick or f"{contest.workload}:{contest.task}:{contest.engine}" in given.only:
        return True
    return contest.engine in {"zarr", "xarray", "bytes"} and contest.task != "files"


def _race(
    given: argparse.Namespace, program: Path, base: Path, network: Network, contests: list[Contest]
) -> list[Sample]:
    """Hold all rounds of contests at one network."""
    samples: list[Sample] = []
    with (
        tempfile.TemporaryDirectory(prefix="vzfs-bench-") as scratch,
        Server(program, base, network, LONGEST) as server,
    ):
        course = Course(base, server, str(network), given.project, Path(scratch))
        for contest in contests:
            who = [c for c in contest.contestants if not given.quick or c in QUICK]
            who = [c for c in who if not given.contestants or c in given.contestants]
            warm(base, contest.workload)
            for number in range(given.repeat):
                # Whoever is first finds the machine in the state that another contest left.
                for contestant in who[number % len(who) :] + who[: number % len(who)]:
                    samples += compete(course, contest, contestant)
                print(f"{network}: {contest}: round {number + 1}", file=sys.stderr, flush=True)
            _compare([s for s in samples if s.contest == contest])
    return samples


def _compare(samples: list[Sample]) -> None:
    """Make sure that all contestants read the same. Raises ValueError."""
    read = {(s.reading.bytes, s.reading.crc): s.contestant for s in samples}
    if len(read) > 1:
        raise ValueError(f"{samples[0].contest}: different values were read by {read}")


def _floor(project: Path) -> float | None:
    """Return our rate of small files over that of a file system in C, if that can be measured here."""
    if not (project / "benchmarks" / "fuse_floor.py").exists():
        return None
    words = [str(project / ".venv" / "bin" / "python"), "-m", "benchmarks.fuse_floor"]
    done = subprocess.run(
        words, cwd=project, capture_output=True, text=True, timeout=FLOOR_WITHIN, check=True
    )
    print(done.stdout)
    return targets.floor(done.stdout)


def _command(given: argparse.Namespace) -> str:
    """Return what was asked for, without where it was kept."""
    words = ["python -m benchmarks.run", f"--repeat {given.repeat}"]
    words += ["--far-only"] if given.far_only else []
    words += [
        f"--{name} {','.join(sorted(chosen))}"
        for name, chosen in (("only", given.only), ("contestants", given.contestants))
        if chosen
    ]
    return " ".join(words)


def _section(given: argparse.Namespace, run: targets.Run, found: list[list[str]]) -> str:
    today = datetime.datetime.now(datetime.UTC).strftime("%-d %B %Y")
    parts = [
        f"## vzfs and its peers ({today})\n",
        f"`{_command(given)}`: medians of {given.repeat} "
        f"interleaved rounds; ratios are of seconds. {report.machine()}.\n",
        "### Targets\n",
        report.markdown(targets.COLUMNS, found),
    ]
    for at, contest in run.results.contests():
        parts += [f"### {contest}, {at}\n"]
        parts += [report.markdown(report.COLUMNS, report.table(run.results, at, contest))]
    if run.values:
        parts += ["### Metadata\n", report.markdown(meta.COLUMNS, meta.rows(run.values))]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
