"""One stress run: readers over servers that lie, neighbours that share the cache, and what came of it.

The first mount has the readers; its neighbours, over the same cache folder, have one each. Readers
are killed and replaced, the cache is damaged, and now and then a server answers nobody. Then
everything is mended, every chunk must be right, and what the mounts hold on to is counted.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.mount.conftest import Mount
from tests.mount.outcomes import read, wait_until
from tests.stress import harm
from tests.stress.verdict import Failed, Verdict, judge
from tests.stress.world import Chunk, Size, World
from vzfs.cache.shelves import MAX_DESCRIPTORS

MEMORY_SHARE: Final = 16
"""One part in so many of all bytes is what each mount may keep in memory."""
CACHE_SHARE: Final = 4
"""One part in so many is what the cache that they share may hold."""
BASE: Final = 48 * 2**20
"""Bytes that a daemon may grow by beyond its chunks: what was not yet imported, replies that the
kernel has not taken, chunks on their way to the disk, and what the allocator does not give back."""
HEALING: Final = 40.0
"""Seconds: a server that answered nobody is left alone for half a minute at most, then tried."""
SLACK: Final = 5.0
"""Seconds by which a busy machine may be late."""
LEAVING: Final = re.compile(r" \((?P<kind>[a-z-]+)\)$")
_READER: Final = Path(__file__).with_name("reader.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything; *deadline* is that of the mounts, in seconds."""

    seconds: float
    seed: int
    readers: int
    neighbours: int
    size: Size
    deadline: float = 5.0
    outage: float = 3.0
    is_isolated: bool = False

    @property
    def memory(self) -> int:
        """Bytes for `--memory`."""
        return self.size.total // MEMORY_SHARE

    @property
    def cache(self) -> int:
        """Bytes for `--cache-size`."""
        return self.size.total // CACHE_SHARE


@dataclasses.dataclass(frozen=True)
class Held:
    """What a daemon holds on to. Memory is in bytes, and the most that there ever was."""

    descriptors: int
    peak: int

    @classmethod
    def of(cls, pid: int) -> "Held":
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
        assert found is not None
        try:
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except PermissionError:
            descriptors = -1  # only root may look into a daemon that has secrets
        return cls(descriptors, int(found[1]) * 1024)


class Readers:
    """The reader processes of one mount, and what they wrote down."""

    def __init__(self, world: World, mounted: Mount, count: int, seed: int) -> None:
        self._folder = mounted.path.with_name("readers")
        self._folder.mkdir()
        self._stop = self._folder / "stop"
        self._plan = self._folder / "plan.json"
        names = sorted(c.path.rpartition("/")[2] for c in world.chunks[: _in_a_row(world)])
        plan = {
            "mount": str(mounted.path),
            "truth": str(world.truth),
            "stop": str(self._stop),
            "chunks": world.chunks,
            "names": sorted(names, key=int),
        }
        self._plan.write_text(json.dumps(plan))
        self._seed = seed
        self._started = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            self.start()

    def start(self) -> None:
        self._started += 1
        log = self._folder / f"{self._started}.log"
        words = [sys.executable, "-IS", str(_READER), str(self._plan)]
        self._processes.append(
            subprocess.Popen([*words, str(self._seed * 1000 + self._started), str(log)])
        )

    def kill(self, rng: Random) -> float:
        """Kill a reader, start another, and return how many seconds the first took to be gone."""
        killed = self._processes.pop(rng.randrange(len(self._processes)))
        began = time.monotonic()
        killed.kill()
        killed.wait()
        took = time.monotonic() - began
        self.start()
        return took

    def check(self) -> None:
        """Fail if a reader broke."""
        for process in self._processes:
            assert process.poll() is None, "a reader ended by itself"

    def stop(self, patience: float) -> None:
        """Have all end, and fail if one does not."""
        self._stop.touch()
        for process in self._processes:
            assert process.wait(patience) == 0

    def tear_down(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what was written down so far."""
        for log in self._folder.glob("*.log"):
            for line in log.read_text().splitlines():
                yield json.loads(line)

    def counts(self) -> tuple[int, int, float]:
        """Return operations, bytes, and the longest operation in seconds, of all readers so far."""
        reads = size = 0
        longest = 0.0
        for log in self._folder.glob("*.log"):
            last = [json.loads(line) for line in log.read_text().splitlines() if '"counts"' in line]
            if last:
                counts = last[-1]["counts"]
                reads, size = reads + counts["reads"], size + counts["bytes"]
                longest = max(longest, counts["longest"])
        return reads, size, longest


def _in_a_row(world: World) -> int:
    """Return how many chunks the first array has."""
    first = world.chunks[0].file
    return sum(chunk.file == first for chunk in world.chunks)


@dataclasses.dataclass
class Report:
    """What came of a run. *wrong* are the sentences of what must not be; none is success."""

    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def row(self, what: str, value: object) -> None:
        self.rows.append((what, str(value)))

    def demand(self, condition: bool, what: str) -> None:
        if not condition:
            self.wrong.append(what)

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.rows)
        table = [f"{what:<{width}}  {value}" for what, value in self.rows]
        return "\n".join([*table, *(f"WRONG: {what}" for what in self.wrong)])


class Run:
    """A run of *plan* in *folder*; *say* prints a line of progress."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.folder = folder
        self.say = say
        self.rng = Random(plan.seed)
        self.report = Report()
        self.done: Counter[str] = Counter()
        self.killed: list[float] = []
        self.unwritten = 0
        self._mends: list[tuple[float, harm.Mend]] = []

    def run(self) -> Report:
        """Do all of it. Raises AssertionError where nothing can be judged."""
        plan = self.plan
        with contextlib.ExitStack() as stack:
            world = World(self.folder, plan.size, plan.seed, is_isolated=plan.is_isolated)
            stack.callback(world.close)
            os.environ.update(world.environment)
            mounts = []
            for n in range(1 + plan.neighbours):
                mounts.append(self._mount(world, n))
                stack.callback(mounts[n].tear_down)
            before = self._warm_up(world, mounts)
            world.journal.is_honest = False
            began = time.monotonic()
            readers = []
            for n, mounted in enumerate(mounts):
                count = 1 if n else plan.readers
                readers.append(Readers(world, mounted, count, plan.seed * 100 + n))
                stack.callback(readers[n].tear_down)
            self._break_things(world, mounts, readers)
            for mend in [mend for _, mend in self._mends]:
                mend()
            for reader in readers:
                reader.stop(3 * plan.deadline + 2 * SLACK)
            world.journal.is_honest = True
            for server in world.servers:
                server.down(0)
            elapsed = time.monotonic() - began
            self._heal(world, mounts)
            self._judge(world, readers, elapsed)
            self._judge_daemons(world, mounts, before)
        return self.report

    def _mount(self, world: World, number: int) -> Mount:
        return Mount(
            self.folder / f"mount{number}",
            world.repository,
            *("--cache-dir", str(world.cache), "--cache-size", str(self.plan.cache)),
            *(
                "--memory",
                str(self.plan.memory),
                "--deadline",
                str(self.plan.deadline),
                *world.options,
            ),
        )

    def _warm_up(self, world: World, mounts: list[Mount]) -> list[Held]:
        """Read a chunk of each object, so that its true version is the one that each mount pins."""
        for mounted in mounts:
            for chunk in world.chunks:
                if chunk.path.endswith("/c/0"):
                    assert read(mounted.path / chunk.path) == _truth(world, chunk)
        return [Held.of(mounted.pid) for mounted in mounts]

    # -- trouble -------------------------------------------------------------------------------

    def _break_things(self, world: World, mounts: list[Mount], readers: list[Readers]) -> None:
        plan, rng = self.plan, self.rng
        began = time.monotonic()
        hard = {**harm.HARD, **(harm.OF_A_DISK if world.has_disk else {})}
        # Those that may turn the cache off come late, each once; the gentle ones all the time.
        events: list[tuple[float, Callable[[], None]]] = [
            (plan.seconds * (0.55 + 0.4 * n / len(hard)), self._harming(world, name, do))
            for n, (name, do) in enumerate(hard.items())
        ]
        gentle = list(harm.GENTLE.items())
        at = pause = min(4.0, plan.seconds / 6)
        while at < plan.seconds:
            name, do = gentle[len(events) % len(gentle)]
            events.append((at, self._harming(world, name, do)))
            events.append((at + pause / 3, lambda: self.killed.append(readers[0].kill(rng))))
            at += pause
        for n, server in enumerate(world.servers):
            if plan.seconds >= 30:
                events.append((plan.seconds * (0.2 + 0.25 * n), self._silencing(server)))
        events += [
            (second, lambda: self._progress(mounts, readers, began))
            for second in range(10, int(plan.seconds), 10)
        ]
        for at, do_event in sorted(events, key=lambda event: event[0]):
            while time.monotonic() < began + at:
                self._mend_due()
                time.sleep(0.05)
            do_event()
        while time.monotonic() < began + plan.seconds:
            self._mend_due()
            time.sleep(0.05)
        for reader in readers:
            reader.check()

    def _harming(self, world: World, name: str, do: harm.Harm) -> Callable[[], None]:
        def act() -> None:
            self.done[f"cache {name}"] += 1
            self._mends.append(
                (time.monotonic() + min(2.0, self.plan.seconds * 0.08), do(world.cache, self.rng))
            )

        return act

    def _silencing(self, server: Any) -> Callable[[], None]:
        def act() -> None:
            self.done[f"outage of {server.draw.host}"] += 1
            server.down(self.plan.outage)

        return act

    def _mend_due(self) -> None:
        now = time.monotonic()
        due = [pair for pair in self._mends if pair[0] <= now]
        self._mends = [pair for pair in self._mends if pair[0] > now]
        for _, mend in due:
            mend()

    def _progress(self, mounts: list[Mount], readers: list[Readers], began: float) -> None:
        counts = [reader.counts() for reader in readers]
        failed = sum("failed" in record for reader in readers for record in reader.records())
        gauges = statistics(mounts[0])
        self.unwritten = max(self.unwritten, gauges.get("disk.unwritten", 0))
        self.say(
            f"{time.monotonic() - began:5.0f} s  {sum(c[0] for c in counts):7} reads  "
            f"{sum(c[1] for c in counts) >> 20:6} MiB  {failed:5} failed  "
            f"longest {max(c[2] for c in counts):5.2f} s  "
            f"in flight {gauges.get('chunks.in_flight', 0):3}  "
            f"peak {Held.of(mounts[0].pid).peak >> 20:4} MiB"
        )

    def _heal(self, world: World, mounts: list[Mount]) -> None:
        """Read every chunk through the first mount, and one of each object through its neighbours."""
        began = time.monotonic()
        until = began + HEALING
        late = []
        for n, mounted in enumerate(mounts):
            for chunk in world.chunks:
                if n and not chunk.path.endswith("/c/0"):
                    continue
                true = _truth(world, chunk)
                while (found := read(mounted.path / chunk.path)) != true:
                    if isinstance(found, bytes):
                        self.report.wrong.append(f"wrong bytes after healing: {chunk.path}")
                        break
                    if time.monotonic() > until:
                        late.append(f"{chunk.path}: {found}")
                        break
                    time.sleep(0.1)
        self.report.row("healing: every chunk right after", f"{time.monotonic() - began:.1f} s")
        self.report.demand(not late, f"{len(late)} chunks do not heal: {late[:5]}")

    # -- judgement -----------------------------------------------------------------------------

    def _judge(self, world: World, readers: list[Readers], elapsed: float) -> None:
        plan, report = self.plan, self.report
        told = world.journal.read()
        failures = [
            Failed(began, ended, world.chunks[index], offset, size, outcome)
            for reader in readers
            for record in reader.records()
            if "failed" in record
            for began, ended, index, offset, size, outcome in [record["failed"]]
        ]
        counts = [reader.counts() for reader in readers]
        reads, longest = sum(c[0] for c in counts), max(c[2] for c in counts)
        report.row("seed, seconds, readers", f"{plan.seed}, {elapsed:.0f}, {plan.readers}")
        report.row("mounts over one cache", 1 + plan.neighbours)
        report.row("bytes of sources", f"{plan.size.total >> 20} MiB")
        report.row("operations", reads)
        report.row("bytes read and compared", f"{sum(c[1] for c in counts) >> 20} MiB")
        lies = Counter(lie.kind for lie in told)
        report.row("faults injected", sum(lies.values()))
        report.row("  by kind", ", ".join(f"{kind} {n}" for kind, n in sorted(lies.items())))
        report.row("caches harmed, outages", _listed(self.done))
        report.row("readers killed", len(self.killed))
        report.row("  gone within", f"{max(self.killed, default=0):.2f} s")
        explained, unexplained = judge(failures, Verdict(told, plan.deadline, plan.outage))
        errnos = Counter(failed.outcome for failed in failures)
        report.row("errors by errno", _listed(errnos))
        report.row("  by cause", _listed(Counter(f"{e} of {c}" for e, c in explained.elements())))
        wrong = [failed for failed in failures if failed.outcome in {"WRONG", "SHORT"}]
        report.row("wrong bytes", len(wrong))
        report.row("errors without a cause", len(unexplained))
        report.row("longest operation", f"{longest:.2f} s (deadline {plan.deadline:g} s)")
        report.demand(reads > 0, "nothing was read")
        report.demand(bool(lies), "nobody lied")
        for failed in unexplained[:10]:
            report.wrong.append(f"no cause: {failed}")
        report.demand(
            longest <= plan.deadline + SLACK, f"an operation took {longest:.1f} s, too long"
        )
        report.demand(
            max(self.killed, default=0) <= plan.deadline + SLACK, "a killed reader came back late"
        )

    def _judge_daemons(self, world: World, mounts: list[Mount], before: list[Held]) -> None:
        report = self.report
        for server in world.servers:
            server.hang_up()
        for n, mounted in enumerate(mounts):
            # The connections that were ended are noticed by the next read of each server.
            for chunk in world.spare[n]:
                assert read(mounted.path / chunk.path) == _truth(world, chunk)
            wait_until(lambda m=mounted: not busy(statistics(m)), "nothing is under way")
            gauges, after = statistics(mounted), Held.of(mounted.pid)
            fetches = 1 if n else self.plan.readers
            budget = before[n].peak + BASE + self.plan.memory + fetches * self.plan.size.length
            report.row(
                f"mount {n}: peak memory",
                f"{before[n].peak / 2**20:.1f} -> {after.peak / 2**20:.1f} MiB, "
                f"of {budget / 2**20:.1f}",
            )
            report.row(f"mount {n}: descriptors", f"{before[n].descriptors} -> {after.descriptors}")
            report.demand(after.peak <= budget, f"mount {n} used {after.peak >> 20} MiB")
            report.demand(
                after.descriptors <= before[n].descriptors + len(world.servers) + MAX_DESCRIPTORS,
                f"mount {n} has {after.descriptors} descriptors, {before[n].descriptors} before",
            )
            report.demand(not busy(gauges), f"mount {n} is still busy: {gauges}")
            lines = mounted.warnings()
            kinds = Counter(m["kind"] for line in mounted.log() if (m := LEAVING.search(line)))
            distinct = {re.sub(r"^\S+ \S+ ", "", line) for line in lines}
            report.row(f"mount {n}: failures logged", _listed(kinds))
            report.row(f"mount {n}: warnings", f"{len(lines)}, {len(distinct)} of them distinct")
            bugs = [line for line in mounted.log() if "bug in vzfs" in line or "Traceback" in line]
            report.demand(not bugs, f"mount {n} logged a bug: {bugs[:2]}")
            report.demand(
                len(lines) <= self._warnings_allowed(world),
                f"mount {n} logged {len(lines)} warnings",
            )
            if lines:
                mounted.expect_log("")
            mounted.end()
        report.row("statistics of mount 0", " ".join(f"{k}={v}" for k, v in gauges.items()))
        report.row("unwritten at most (seen)", f"{self.unwritten >> 20} MiB")
        report.row(
            "machine",
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}, "
            f"Python {platform.python_version()}",
        )

    def _warnings_allowed(self, world: World) -> int:
        """Return how many warnings there may be: one a minute for each object and kind, one for each damage."""
        objects = len({chunk.file for chunk in world.chunks})
        kinds = 8
        damaged = sum(self.done[f"cache {name}"] for name in harm.GENTLE) * harm.SOME
        return objects * kinds * (int(self.plan.seconds / 60) + 2) + damaged + 20


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {n}" for what, n in counts.most_common()) or "none"


def _truth(world: World, chunk: Chunk) -> bytes:
    with (world.truth / chunk.file).open("rb") as file:
        file.seek(chunk.offset)
        return file.read(chunk.length)


def statistics(mounted: Mount) -> dict[str, int]:
    """Ask a daemon for the counts of its rooms; those that are 0 are not told."""

    def told() -> list[str]:
        return [line for line in mounted.log() if re.search(r" vzfs\.mount: \w+\.\w+=", line)]

    before = len(told())
    os.kill(mounted.pid, signal.SIGUSR1)
    wait_until(lambda: len(told()) > before, "the statistics are logged")
    return {name: int(n) for name, n in re.findall(r"([\w.]+)=(\d+)\b", told()[-1])}


def busy(gauges: dict[str, int]) -> dict[str, int]:
    """Return the gauges that are 0 when nobody reads, and are not."""
    idle = ("chunks.in_flight", "disk.unwritten", "source.active")
    return {name: n for name, n in gauges.items() if name in idle and n}
