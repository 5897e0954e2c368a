"""A mount against a model: steps of every kind in any order, and after each what may be read is known.

The model is naive: which version of each object is there, which lie its server tells, which versions
this mount may have pinned, which bytes a cache may have. From that it says which bytes a read may
give and which errnos have a cause. Bytes that no version allows, an errno without a cause, ENOENT
for a name of the snapshot, and an operation beyond its deadline break it; and once everything is
mended, every chunk must be right again.

`python -m tests.stress.machine` runs it for a while, with one seed after another.
"""

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import zarr
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests import servers
from tests.mount.conftest import Mount, why_not
from tests.mount.outcomes import errno_name, errno_of, read, wait_until
from tests.mount.repositories import Ref, add_native, add_virtual, create, pattern
from tests.servers import Fault, ObjectServer
from tests.stress import harm
from tests.stress.lying import DAY, ERRNOS
from tests.stress.stories import CHUNKS, LIE, LIES, STORIES
from tests.stress.world import isolate

LENGTH: Final = 10_000
DEADLINE: Final = 1.5
SLACK: Final = 6.0
"""Seconds by which a busy machine may be late."""
REMEMBERED: Final = 1.5
"""Seconds in which a failure may be given again: half a second, and what a busy machine adds."""
HOSTS: Final = ("web", "bucket")
KINDS: Final = ("etag", "date", "none")
OBJECTS: Final = tuple(f"{host}-{kind}" for host in HOSTS for kind in KINDS)
TRUE: Final = {name: pattern(CHUNKS * LENGTH, n) for n, name in enumerate(OBJECTS)}
OTHER: Final = {name: pattern(CHUNKS * LENGTH, 100 + n) for n, name in enumerate(OBJECTS)}
NATIVE: Final = pattern(2 * LENGTH, 999)

COSTS: Final = {**ERRNOS, LIE: frozenset({"ESTALE"})}
SILENT: Final = frozenset({"reset", "stall", "stall-in-body", "cut"})
CHANGED: Final = frozenset({"ESTALE", "EIO"})

_READ: Final = """
import errno, os, sys
try:
    with open(sys.argv[1], "rb", buffering=0) as file:
        data = b""
        while more := file.read(1 << 20):
            data += more
    sys.stdout.buffer.write(b"=" + data)
except OSError as error:
    print(errno.errorcode[error.errno], end="")
"""


class Chunk(NamedTuple):
    """The chunk *n* of the object (and array) *name*."""

    name: str
    n: int

    def bytes_of(self, tag: str) -> bytes:
        """Return its bytes in the version that a server calls *tag*."""
        whole = TRUE[self.name] if tag.endswith("old") else OTHER[self.name]
        return whole[self.n * LENGTH : (self.n + 1) * LENGTH]


EVERY: Final = tuple(Chunk(name, n) for name in OBJECTS for n in range(CHUNKS))


WHICH: Final = st.integers(0, 1)
PLACES: Final = st.tuples(WHICH, st.integers(0, CHUNKS - 1))
type Place = tuple[int, int]
"""A chunk of one of the two objects that an example is about."""


def may_be(name: str, tag: str) -> bool:
    """Whether refs to an object allow the version that a server calls *tag*."""
    kind = name.partition("-")[2]
    return tag in {"etag": {"old"}, "date": {"old", "lie-old"}}.get(kind, {tag})


class Stage:
    """What all examples share: the server, the repository, and a disk for the cache."""

    def __init__(self, folder: Path, *, is_isolated: bool) -> None:
        self.folder = folder
        self.server = ObjectServer()
        self.disk = folder / "disk"
        self.disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(self.disk)]
        self.harms = {**harm.GENTLE, **harm.HARD}
        made = is_isolated and subprocess.run(words, check=False, capture_output=True)
        self.has_disk = bool(made) and made.returncode == 0
        if self.has_disk:
            self.harms |= harm.OF_A_DISK
        self.prefixes = {"web": f"{self.server.url}/web/", "bucket": "s3://bucket/"}
        self.numbers = itertools.count()
        self.config = folder / "config.toml"
        self.repository = folder / "repository"
        repository = create(self.repository, containers=list(self.prefixes.values()))
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        for name in OBJECTS:
            host, _, kind = name.partition("-")
            etag = self.put(name, "old")
            checksum = {"etag": etag, "date": DAY, "none": None}[kind]
            location = f"{self.prefixes[host]}{name}"
            add_virtual(
                session,
                root,
                name,
                [Ref(location, n * LENGTH, LENGTH, checksum) for n in range(CHUNKS)],
            )
        add_native(root, "native", np.frombuffer(NATIVE, "u1"), (LENGTH,))
        session.commit("all")

    def put(self, name: str, tag: str) -> str:
        """Put a version of an object; return its etag."""
        data = TRUE[name] if tag == "old" else OTHER[name]
        day = DAY if tag == "old" else DAY + 86400
        etag = self.server.put(self.key(name), data, last_modified=day).etag
        assert etag
        return etag

    @staticmethod
    def key(name: str) -> str:
        return f"{name.partition('-')[0]}/{name}"

    def allow(self, hosts: set[str]) -> None:
        """Write a configuration that allows *hosts* and nothing else."""
        lines = []
        for host, prefix in self.prefixes.items():
            lines += ["[[bucket]]", f'nickname = "{host}"', f'prefix = "{prefix}"']
            if host == "bucket":
                lines += [
                    f'endpoint = "{self.server.url}"',
                    "anonymous = true",
                    "allow-http = true",
                ]
            if host in hosts:
                lines += ["[[policy]]", f'bucket = "{host}"']
        self.config.write_text("\n".join(lines) + "\n")

    def close(self) -> None:
        self.server.close()
        if self.has_disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)


class Machine(RuleBasedStateMachine):
    """The mount, and what the model knows of it."""

    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        self.rng = Random(0)
        self.mounted: Mount | None = None
        self.mends: list[harm.Mend] = []
        self.opened: list[tuple[int, Chunk]] = []
        self.there: dict[str, str | None] = dict.fromkeys(OBJECTS, "old")
        self.lies: dict[str, str] = {}
        self.gates: dict[str, threading.Event] = {}
        self.allowed = set(HOSTS)
        self.cached: dict[Chunk, set[str]] = {chunk: set() for chunk in EVERY}

    @initialize(focus=st.lists(st.sampled_from(OBJECTS), min_size=2, max_size=2, unique=True))
    def begin(self, focus: list[str]) -> None:
        """Choose the objects that an example is about: of few, so that its steps meet."""
        stage, self.focus = self.stage, focus
        harm.remove(stage.disk / "cache", self.rng)
        for name in OBJECTS:
            stage.put(name, "old")
        stage.server.clear_faults()
        stage.server.forget_requests()
        stage.allow(self.allowed)
        self._mount()

    def _mount(self) -> None:
        stage = self.stage
        self.pins: dict[str, set[str | None]] = {name: {None} for name in OBJECTS}
        self.failed: dict[Chunk, tuple[float, str]] = {}
        self.dark: dict[str, tuple[float, float]] = {}
        self.mounted = Mount(
            stage.folder / f"mount{next(stage.numbers)}",
            stage.repository,
            *("--config", str(stage.config), "--cache-dir", str(stage.disk / "cache")),
            *("--cache-size", "100000", "--memory", "15000", "--deadline", str(DEADLINE)),
        )

    @property
    def mount(self) -> Mount:
        assert self.mounted is not None
        return self.mounted

    # -- the model -----------------------------------------------------------------------------

    def told(self, name: str) -> str | None:
        """Return what the server calls the version that is there, None if nothing is."""
        there = self.there[name]
        return f"lie-{there}" if there and self.lies.get(name) == LIE else there

    def right(self, chunk: Chunk) -> set[str]:
        """Return the versions whose bytes a read may give now."""
        pins, tag = self.pins[chunk.name], self.told(chunk.name)
        # Only while the source cannot tell do the caches' versions count for a new mount.
        kept = self.cached[chunk] if None not in pins or self.causes(chunk) else set()
        if chunk.name.endswith(("-etag", "-date")):
            kept = self.cached[chunk]
        found = {t for t in kept | ({tag} if tag else set()) if may_be(chunk.name, t)}
        return found if None in pins or chunk.name.endswith("-etag") else found & pins  # type: ignore[operator]

    def causes(self, chunk: Chunk) -> set[str]:
        """Return the errnos that have a cause now."""
        name, now = chunk.name, time.monotonic()
        found: set[str] = set()
        if name in self.lies and self.lies[name] != LIE:
            found |= COSTS[self.lies[name]]
        tag = self.told(name)
        pins = self.pins[name] - {None} if not name.endswith("-etag") else set()
        if tag is None or not may_be(name, tag) or pins - {tag}:
            found |= CHANGED
        when, what = self.failed.get(chunk, (0.0, ""))
        if now < when + REMEMBERED:
            found.add(what)
        first, last = self.dark.get(name.partition("-")[0], (0.0, 0.0))
        if last and now < self._bright_at(first, last):
            found.add("EIO")
        return found

    @staticmethod
    def _bright_at(first: float, last: float) -> float:
        """Return when a host that was dark is asked again at the latest: pauses double with each trial."""
        return last + 2 * (last - first) + 2 * DEADLINE + 2

    def check(self, chunk: Chunk, offset: int, found: bytes | str, began: float) -> None:
        """Hold what a read gave against the model, and learn from it."""
        name, now = chunk.name, time.monotonic()
        host = name.partition("-")[0]
        assert now - began < 2 * DEADLINE + SLACK, f"a read took {now - began:.1f} s"
        if host not in self.allowed:
            assert found == "EACCES", f"{chunk} gives {found!r:.60} without permission"
            return
        if self.lies.get(name) in SILENT:
            self.dark[host] = (self.dark.get(host, (began, 0.0))[0], now)
        if isinstance(found, str):
            assert found in self.causes_at(chunk, began), (
                f"{found} of {chunk} has no cause: {self.state(name)}"
            )
            self.failed[chunk] = (now, found)
            tag = self.told(name)
            if None in self.pins[name] and tag:
                # A question for the version may have been answered before the read failed.
                self.pins[name].add(tag)
            return
        tags = {
            tag
            for tag in self.right(chunk)
            if chunk.bytes_of(tag)[offset : offset + len(found)] == found
        }
        assert tags, f"wrong bytes of {chunk} at {offset}: {self.state(name)}"
        self.pins[name] = set(tags)
        self.cached[chunk] |= tags

    def causes_at(self, chunk: Chunk, began: float) -> set[str]:
        """Return the errnos that had a cause since *began*."""
        when, what = self.failed.get(chunk, (0.0, ""))
        return self.causes(chunk) | ({what} if began < when + REMEMBERED else set())

    def state(self, name: str) -> str:
        return (
            f"there {self.there[name]}, lie {self.lies.get(name)!r}, pins {self.pins[name]}, "
            f"cached {[self.cached[c] for c in EVERY if c.name == name]}, "
            f"log {self.mount.log()[-4:]}"
        )

    def chunk(self, place: Place) -> Chunk:
        return Chunk(self.focus[place[0]], place[1])

    # -- reading -------------------------------------------------------------------------------

    def path(self, chunk: Chunk) -> Path:
        return self.mount.path / chunk.name / "c" / str(chunk.n)

    @rule(place=PLACES, drops=st.booleans())
    def read_whole(self, place: Place, drops: bool) -> None:
        self._read(self.chunk(place), 0, LENGTH, drops=drops)

    @rule(
        place=PLACES,
        offset=st.integers(0, LENGTH - 1),
        size=st.integers(1, LENGTH),
        drops=st.booleans(),
    )
    def read_part(self, place: Place, offset: int, size: int, drops: bool) -> None:
        self._read(self.chunk(place), offset, min(size, LENGTH - offset), drops=drops)

    def _read(self, chunk: Chunk, offset: int = 0, size: int = LENGTH, *, drops: bool) -> None:
        """Read through a descriptor of its own, and not what the kernel keeps if it *drops* that."""
        began = time.monotonic()
        if drops:
            self._drop(chunk)
        found = read(self.path(chunk), offset, size)
        assert isinstance(found, str) or len(found) == size, f"{len(found)} bytes of {chunk}"
        self.check(chunk, offset, found, began)

    def _drop(self, chunk: Chunk) -> None:
        with self.path(chunk).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @rule(place=PLACES, is_direct=st.booleans())
    def open(self, place: Place, is_direct: bool) -> None:
        chunk = self.chunk(place)
        flags = os.O_RDONLY | (os.O_DIRECT if is_direct else 0)
        self.opened.append((os.open(self.path(chunk), flags), chunk))

    @rule(which=st.integers(0, 5), drops=st.booleans())
    def read_open(self, which: int, drops: bool) -> None:
        if not self.opened:
            return
        fd, chunk = self.opened[which % len(self.opened)]
        if drops:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.monotonic()
        found: bytes | str
        try:
            found = os.pread(fd, LENGTH, 0)
            assert len(found) == LENGTH
        except OSError as error:
            found = errno_name(error)
        self.check(chunk, 0, found, began)

    @rule(place=PLACES)
    def read_at_once(self, place: Place) -> None:
        chunk = self.chunk(place)
        words = [sys.executable, "-ISc", _READ, str(self.path(chunk))]
        began = time.monotonic()
        readers = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(3)]
        outputs = [reader.communicate()[0] for reader in readers]
        for output in outputs:
            found = output[1:] if output.startswith(b"=") else output.decode()
            self.check(chunk, 0, found, began)

    @rule(n=st.integers(0, 1))
    def read_native(self, n: int) -> None:
        found = read(self.mount.path / "native/c" / str(n))
        assert found == NATIVE[n * LENGTH : (n + 1) * LENGTH]

    @rule(name=st.sampled_from(OBJECTS))
    def look(self, name: str) -> None:
        folder = self.mount.path / name
        assert sorted(p.name for p in folder.iterdir()) == ["c", "zarr.json"]
        assert sorted(p.name for p in (folder / "c").iterdir()) == [str(n) for n in range(CHUNKS)]
        assert [(folder / "c" / str(n)).stat().st_size for n in range(CHUNKS)] == [LENGTH] * CHUNKS
        assert errno_of(os.stat, folder / "c" / str(CHUNKS)) == "ENOENT"

    # -- sources -------------------------------------------------------------------------------

    # What changes is read at once, for little would be if chance had to choose that.

    @rule(place=PLACES, there=st.sampled_from(["new", "new", None, "old"]))
    def change(self, place: Place, there: str | None) -> None:
        name = self.chunk(place).name
        if there:
            self.stage.put(name, there)
        elif self.there[name]:
            self.stage.server.delete(self.stage.key(name))
        self.there[name] = there
        if name in self.lies:
            self._tell(name, self.lies[name])
        self._read(self.chunk(place), drops=True)

    @rule(place=PLACES, lie=st.sampled_from(LIES))
    def lie(self, place: Place, lie: str) -> None:
        self._tell(self.chunk(place).name, lie)
        self._read(self.chunk(place), drops=True)

    @rule(which=WHICH)
    def be_honest(self, which: int) -> None:
        self._tell(self.focus[which], "")

    def _tell(self, name: str, lie: str) -> None:
        server = self.stage.server
        self.gates.pop(name, threading.Event()).set()
        self.lies.pop(name, None)
        if lie:
            self.lies[name] = lie
        # The server forgets all lies at once, so those about other objects are told again.
        server.clear_faults()
        for other, kind in self.lies.items():
            server.fault(self.stage.key(other), self._fault(other, kind), 9999)

    def _fault(self, name: str, lie: str) -> Fault:
        if lie in {"stall", "stall-in-body"}:
            gate = self.gates.setdefault(name, threading.Event())
            return servers.stall(gate) if lie == "stall" else servers.stall_in_body(gate)
        if lie.isdigit():
            return servers.status(int(lie))
        make: dict[str, Callable[[], Fault]] = {
            "reset": servers.reset,
            "cut": lambda: servers.truncate(100),
            "short": servers.short,
            "overlong": servers.overlong,
            "overlong-chunked": lambda: servers.overlong(chunked=True),
            "wrong-range": servers.wrong_range,
            "whole-object": servers.whole_object,
            "no-version": servers.no_validators,
            LIE: lambda: servers.other_etag(f'"lie-{self.there[name]}"'),
        }
        return make[lie]()

    # -- the cache, the daemon, permission -----------------------------------------------------

    @rule(what=st.sampled_from(sorted({**harm.GENTLE, **harm.HARD, **harm.OF_A_DISK})))
    def harm_cache(self, what: str) -> None:
        do = self.stage.harms.get(what)
        if do is not None and not self.mends:
            self.mends.append(do(self.stage.disk / "cache", self.rng))
        for name in self.focus:
            self._read_all(name, drops=True)

    @rule()
    def mend_cache(self) -> None:
        for mend in self.mends:
            mend()
        self.mends.clear()

    @rule()
    def crash(self) -> None:
        self.mount.kill()
        for fd, _ in self.opened:
            assert errno_of(os.pread, fd, 1, 0) in {"ENOTCONN", "ECONNABORTED", ""}
        self._close()
        self.mount.tear_down()
        self._mount()

    @rule()
    def restart(self) -> None:
        self._close()
        self._end()
        self._mount()

    def _close(self) -> None:
        for fd, _ in self.opened:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.opened.clear()

    def _end(self) -> None:
        log = self.mount.log()
        bugs = [line for line in log if "bug in vzfs" in line or "Traceback" in line]
        assert not bugs, log[log.index(bugs[0]) :][:30]
        if self.mount.warnings():
            self.mount.expect_log("")
        self.mount.end()

    @rule(which=WHICH)
    def withdraw(self, which: int) -> None:
        name = self.focus[which]
        self._reload(self.allowed - {name.partition("-")[0]})
        self._read_all(name, drops=False)

    def _read_all(self, name: str, *, drops: bool) -> None:
        for n in range(CHUNKS):
            self._read(Chunk(name, n), drops=drops)

    @rule()
    def grant(self) -> None:
        self._reload(set(HOSTS))

    def _reload(self, allowed: set[str]) -> None:
        def reports() -> int:
            return sum(" vzfs.mount: the configuration was read" in s for s in self.mount.log())

        self.allowed = allowed
        self.stage.allow(allowed)
        before = reports()
        os.kill(self.mount.pid, signal.SIGHUP)
        wait_until(lambda: reports() > before, "the configuration is read again")

    # -- the end -------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Mend everything: then every chunk is right, in this mount if it can be, else in a new one."""
        if self.mounted is None:
            return
        try:
            self.mend_cache()
            for name in OBJECTS:
                self._tell(name, "")
                self.stage.put(name, "old")
                self.there[name] = "old"
            self._reload(set(HOSTS))
            self._heals()
            self.restart()
            self._heals()
            self._close()
            self._end()
        finally:
            self._close()
            for gate in self.gates.values():
                gate.set()
            self.mount.tear_down()

    def _heals(self) -> None:
        spans = [self._bright_at(*span) for span in self.dark.values()]
        until = max([time.monotonic() + REMEMBERED + DEADLINE + SLACK, *spans])
        for chunk in EVERY:
            while True:
                began = time.monotonic()
                found = read(self.path(chunk))
                self.check(chunk, 0, found, began)
                if isinstance(found, bytes):
                    break
                if self.pins[chunk.name] - {None, "old"}:
                    break  # what this mount has pinned is not there any more, and will not be
                assert time.monotonic() < until, f"{chunk} does not heal: {self.state(chunk.name)}"
                time.sleep(0.1)


def tell(stage: Stage, focus: tuple[str, ...], steps: Sequence[tuple[Any, ...]]) -> None:
    """Take *steps*. Raises AssertionError where they break the model."""
    machine = type("Machine", (Machine,), {"stage": stage})()
    try:
        machine.begin(focus=list(focus))
        for name, *arguments in steps:
            getattr(machine, name)(*arguments)
    finally:
        machine.teardown()


def run(stage: Stage, examples: int, steps: int, seed: int | None) -> None:
    """Run *examples* of *steps* each; without a seed always the same. Raises what breaks the model."""
    machine = type("Machine", (Machine,), {"stage": stage})
    if seed is not None:
        machine = hypothesis.seed(seed)(machine)
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=seed is None,
            database=None,
            deadline=None,
            # Each example has a mount of its own: to make them smaller would take hours.
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.machine")
    parser.add_argument("--seconds", type=float, default=0, help="go on for so long")
    parser.add_argument("--seed", type=int, default=1, help="of the first turn (default: 1)")
    parser.add_argument("--examples", type=int, default=5, help="of a turn (default: 5)")
    parser.add_argument("--steps", type=int, default=20, help="of an example (default: 20)")
    given = parser.parse_args()
    if why_not():
        print(why_not(), file=sys.stderr)
        return 2
    # Who is told to end leaves no daemon behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_isolated = isolate()
    with tempfile.TemporaryDirectory(prefix="vzfs-model-", ignore_cleanup_errors=True) as folder:
        stage = Stage(Path(folder), is_isolated=is_isolated)
        with contextlib.closing(stage):
            for story, (focus, steps) in STORIES.items():
                print(story, flush=True)
                tell(stage, focus, steps)
            if not given.seconds:
                run(stage, given.examples, given.steps, None)
                return 0
            began = time.monotonic()
            for seed in itertools.count(given.seed):
                run(stage, given.examples, given.steps, seed)
                took = time.monotonic() - began
                print(f"{took:5.0f} s  seed {seed}: {given.examples} examples hold", flush=True)
                if took > given.seconds:
                    return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
