"""What was aimed at, and whether it was met, judged by the medians of one run.

Each entry of `TARGETS` is one row. Ratios are of medians in the same run; what was not measured in
this run says so.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from benchmarks.contests import CONTESTS, Contest, Sample
from benchmarks.meta import FEW, Values
from benchmarks.report import Key, Results, task
from benchmarks.workloads import RANDOM

COLUMNS: Final = ("workload", "what", "target", "measured", "met")


class Run(NamedTuple):
    """One run: its results, with the names of its two networks, what `meta` found, and the floor.

    *floor* is our rate of small files over that of a file system in C, None if not measured.
    """

    results: Results
    far: str
    near: str
    values: Values
    floor: float | None

    def of(
        self,
        contest: Contest,
        who: str,
        phase: str = "cold",
        value: Callable[[Sample], float] = task,
        *,
        is_near: bool = False,
    ) -> float | None:
        """Return the median of a value, None if that was not measured."""
        key = Key(self.near if is_near else self.far, contest, who, phase)
        return self.results.median(key, value)


class Target(NamedTuple):
    """A bound for what *measure* finds, and whose it is; at most or at least."""

    workload: str
    what: str
    is_at_most: bool
    bound: float
    measure: Callable[[Run], tuple[float, str] | None]
    form: str = "{:.2f}"


def judge(run: Run) -> list[list[str]]:
    """Return the rows of the table of targets, as `COLUMNS` has them."""
    rows = []
    for target in TARGETS:
        found = target.measure(run)
        sign = "<=" if target.is_at_most else ">="
        goal = f"{sign} {target.form.format(target.bound)}"
        if found is None:
            rows.append([target.workload, target.what, goal, "not measured", ""])
            continue
        value, where = found
        is_met = value <= target.bound if target.is_at_most else value >= target.bound
        shown = target.form.format(value) + (f" ({where})" if where else "")
        rows.append([target.workload, target.what, goal, shown, "met" if is_met else "MISSED"])
    return rows


def floor(table: str) -> float | None:
    """Take from the table that `fuse_floor` prints how our small files compare with those in C."""
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    header = next((row for row in rows if "ours, whole" in row), None)
    for row in rows:
        if header and len(row) == len(header) and row[1].startswith("64 KiB files/s"):
            found = re.search(r"\(x([\d.]+)\)", row[header.index("ours, whole")])
            return float(found[1]) if found else None
    return None


def _contest(workload: str, what: str, engine: str) -> Contest:
    (found,) = (c for c in CONTESTS if (c.workload, c.task, c.engine) == (workload, what, engine))
    return found


def _first(sample: Sample) -> float:
    return sample.reading.first


def _ratio(
    mine: Contest,
    other: str,
    *,
    phase: str = "cold",
    theirs: Contest | None = None,
    value: Callable[[Sample], float] = task,
    is_speed: bool = False,
    is_near: bool = False,
) -> Callable[[Run], tuple[float, str] | None]:
    """Return what measures vzfs' seconds over another's; the other way round if *is_speed*."""

    def measure(run: Run) -> tuple[float, str] | None:
        ours = run.of(mine, "vzfs", phase, value, is_near=is_near)
        base = run.of(theirs or mine, other, value=value, is_near=is_near)
        if not ours or not base:
            return None
        return (base / ours if is_speed else ours / base), ""

    return measure


def _of_views(phase: str) -> Callable[[Run], tuple[float, str] | None]:
    """Return what measures the portable view's seconds over the stored one's."""

    def measure(run: Run) -> tuple[float, str] | None:
        ours, base = (
            run.of(_OISST, "vzfs", phase, task),
            run.of(_OISST, "vzfs:stored", phase, task),
        )
        return None if not ours or not base else (ours / base, "")

    return measure


def _worst(
    measures: list[tuple[str, Callable[[Run], tuple[float, str] | None]]], *, is_least: bool
) -> Callable[[Run], tuple[float, str] | None]:
    """Return what finds the worst of several, and names it."""

    def measure(run: Run) -> tuple[float, str] | None:
        found = [(m[0], name) for name, one in measures if (m := one(run)) is not None]
        return (min if is_least else max)(found, default=None)

    return measure


def _value(
    contest: Contest, value: Callable[[Sample], float], phase: str = "cold"
) -> Callable[[Run], tuple[float, str] | None]:
    def measure(run: Run) -> tuple[float, str] | None:
        found = run.of(contest, "vzfs", phase, value)
        return None if found is None else (found, "")

    return measure


def _over_read(contest: Contest) -> Callable[[Run], tuple[float, str] | None]:
    def measure(run: Run) -> tuple[float, str] | None:
        found = run.results.over_read(Key(run.far, contest, "vzfs", "cold"))
        return None if found is None else (found, "")

    return measure


def _gets(sample: Sample) -> float:
    return sample.gets


def _with(who: str) -> Iterator[Contest]:
    return (
        contest
        for contest in CONTESTS
        if who in contest.contestants and "vzfs" in contest.contestants
    )


_SCAN = _contest("small", "scan", "zarr")
_OISST = _contest("oisst", "scan", "xarray")
_FILES = _contest("oisst", "files", "xarray")
_RANDOM = _contest("small", "random", "zarr")
_RANDOM_32 = _contest("small", "random", "zarr32")
_BYTES = _contest("small", "bytes", "bytes")
_BIG_8 = _contest("big8", "scan", "zarr")
_BIG_16 = _contest("big16", "scan", "zarr")
_LESS, _MORE = True, False


def _one_at_a_time(engine: str) -> Target:
    measure = _ratio(_contest("small", "scan", engine), "local")
    return Target("small scan", f"{engine}: time / the same on local disk", _LESS, 1.5, measure)


def _peer(contest: Contest, peer: str, bound: float) -> Target:
    name = f"{contest.workload} {contest.task}"
    measure = _ratio(contest, peer, is_speed=True)
    return Target(name, f"times as fast as {peer}", _MORE, bound, measure)


def _to_local(contest: Contest, bound: float) -> Target:
    name = f"{contest.workload} {contest.task}"
    return Target(name, "time / local disk", _LESS, bound, _ratio(contest, "local"))


def _everywhere(phase: str, what: str, bound: float) -> Iterator[Target]:
    """Yield the targets for what was read before: as fast as the local disk, and without a GET."""
    ratios = [(str(c), _ratio(c, "local", phase=phase)) for c in _with("local")]
    gets = [(str(c), _value(c, _gets, phase)) for c in _with("local")]
    yield Target(
        "every workload", f"{what}: time / local disk", _LESS, bound, _worst(ratios, is_least=False)
    )
    yield Target(
        "every workload", f"{what}: GETs", _LESS, 0, _worst(gets, is_least=False), "{:.0f}"
    )


def _found(name: str, what: str) -> Callable[[Run], tuple[float, str] | None]:
    def measure(run: Run) -> tuple[float, str] | None:
        value = run.values.get((name, what))
        return None if value is None else (value, "")

    return measure


def _beyond_start(name: str) -> Callable[[Run], tuple[float, str] | None]:
    """Return what finds the time to a first listing beyond that to a mount of next to nothing."""

    def measure(run: Run) -> tuple[float, str] | None:
        whole, start = run.values.get((name, "compiled ls s")), run.values.get((FEW, "mount s"))
        return None if whole is None or start is None else (whole - start, "")

    return measure


def _find_to_icechunk(run: Run) -> tuple[float, str] | None:
    ours = run.values.get(("meta1m", "find -type f, first s"))
    theirs = run.values.get(("meta1m", "icechunk list_prefix s"))
    return None if not ours or theirs is None else (theirs / ours, "")


def _meta() -> Iterator[Target]:
    """Yield the targets for millions of refs."""
    for name, bound in (("meta1m", 3), ("meta10m", 25), ("meta1ms", 2), ("meta10ms", 2)):
        yield Target(name, "start to first ls, s", _LESS, bound, _found(name, "first ls s"))
    for name in ("meta1m", "meta10m", "meta1ms", "meta10ms"):
        what = "compiled: ls beyond start-up, s"
        yield Target(name, what, _LESS, 0.5, _beyond_start(name))
    for name in ("meta1m", "meta10m"):
        measure = _found(name, "compiled local mount s")
        yield Target(name, "compiled, local: start to mount, s", _LESS, 0.4, measure)
    measure = _found("meta10m", "daemon own bytes/ref, all touched")
    yield Target("meta10m", "daemon's own memory, bytes a ref", _LESS, 30, measure, "{:.0f}")
    yield Target("meta1m", "find: times as fast as list_prefix", _MORE, 15, _find_to_icechunk)


TARGETS: Final = (
    _peer(_OISST, "icechunk", 1.3),
    _to_local(_OISST, 1.15),
    Target(
        "oisst scan",
        "first value: times as soon as icechunk's",
        _MORE,
        4,
        _ratio(_OISST, "icechunk", value=_first, is_speed=True),
    ),
    _peer(_SCAN, "icechunk", 3),
    _peer(_SCAN, "manifest", 3),
    _peer(_SCAN, "kerchunk", 3),
    _to_local(_SCAN, 1.15),
    Target("small scan", "GETs", _LESS, 120, _value(_SCAN, _gets), "{:.0f}"),
    Target("small scan", "over-read", _LESS, 0.10, _over_read(_SCAN), "{:.0%}"),
    _one_at_a_time("zarr1"),
    _one_at_a_time("tensorstore1"),
    _peer(_contest("small", "strided", "zarr"), "icechunk", 2),
    Target("small random", "6 in flight: time / icechunk", _LESS, 1.4, _ratio(_RANDOM, "icechunk")),
    Target(
        "small random",
        "32 workers: time / icechunk",
        _LESS,
        0.45,
        _ratio(_RANDOM_32, "icechunk", theirs=_RANDOM),
    ),
    Target("small random", "GETs a chunk", _LESS, 1.05, _value(_RANDOM, lambda s: s.gets / RANDOM)),
    _peer(_BIG_8, "icechunk", 2.2),
    _to_local(_BIG_8, 2.5),
    _peer(_BIG_16, "icechunk", 0.85),
    *_everywhere("page", "page-cache warm", 1.1),
    *_everywhere("disk", "restart-warm", 1.3),
    Target(
        "every workload",
        "0 ms, cold: icechunk's time / ours",
        _MORE,
        0.95,
        _worst(
            [
                (str(c), _ratio(c, "icechunk", is_speed=True, is_near=True))
                for c in _with("icechunk")
            ],
            is_least=True,
        ),
    ),
    *(
        Target(
            "oisst files",
            f"{what}: times as soon as {peer}",
            _MORE,
            bound,
            _ratio(_FILES, peer, value=value, is_speed=True),
        )
        for peer in ("rclone+h5netcdf", "rclone+netcdf4")
        for what, value, bound in (("first value", _first, 100), ("last value", task, 8))
    ),
    *(
        Target("oisst scan", f"portable / stored view: {phase}", _LESS, 1.05, _of_views(phase))
        for phase in ("cold", "page", "disk")
    ),
    _peer(_BYTES, "obstore", 2.5),
    Target(
        "64 KiB files",
        "4 clients: files/s over C's on libfuse",
        _MORE,
        0.8,
        lambda run: None if run.floor is None else (run.floor, ""),
    ),
    *_meta(),
)
