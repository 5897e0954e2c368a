"""Who reads what against whom, and one such reading.

A *contest* is a task on a workload by one engine; its contestants take turns. vzfs reads three
times in a row: *cold* through a new mount with an empty cache folder, *page* again through the same
mount, where the kernel has the pages, and *disk* through a new mount with the cache folder that the
first one left. vzfs shows the portable view, as it does unasked, and `vzfs:NAME` that of another name. The others read once, which is called
cold too.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import mounted
from benchmarks.data import URL
from benchmarks.readers import Reading, Spec
from benchmarks.serving import Server
from benchmarks.workloads import ARRAYS, OISST_NAMES, STRIDED, random_chunks

READ_WITHIN: Final = 600
"""Seconds that one reading may take."""


class Contest(NamedTuple):
    """What is read, and by whom. *is_far_only*: where nothing but latency would be seen of it."""

    workload: str
    task: str
    engine: str
    contestants: tuple[str, ...]
    is_far_only: bool = False

    def __str__(self) -> str:
        """Name it."""
        return f"{self.workload} {self.task}, {self.engine}"


STORES: Final = ("local", "vzfs", "icechunk", "manifest", "kerchunk")
FOLDERS: Final = ("local", "vzfs")
NETCDF: Final = ("rclone+h5netcdf", "rclone+netcdf4")

CONTESTS: Final = (
    Contest("oisst", "scan", "xarray", (*STORES, "vzfs:stored", "vzfs:decoded")),
    Contest("oisst", "pixel", "xarray", (*STORES, "vzfs:stored", "vzfs:decoded")),
    Contest("oisst", "files", "xarray", ("vzfs", *NETCDF), is_far_only=True),
    Contest("small", "scan", "zarr", STORES),
    Contest("small", "strided", "zarr", STORES),
    Contest("small", "random", "zarr", STORES),
    Contest("small", "random", "zarr32", FOLDERS, is_far_only=True),
    Contest("small", "scan", "zarr1", FOLDERS, is_far_only=True),
    Contest("small", "scan", "tensorstore1", FOLDERS, is_far_only=True),
    Contest("small", "scan", "tensorstore", FOLDERS, is_far_only=True),
    Contest("small", "bytes", "bytes", (*FOLDERS, "obstore"), is_far_only=True),
    *(Contest(f"big{mib}", "scan", "zarr", STORES) for mib in (4, 8, 16)),
    Contest("big8", "scan", "tensorstore", FOLDERS, is_far_only=True),
    Contest("big8", "bytes", "bytes", (*FOLDERS, "obstore"), is_far_only=True),
    Contest("big16", "bytes", "bytes", (*FOLDERS, "obstore"), is_far_only=True),
    Contest("shards", "scan", "zarr", ("local", "vzfs", "icechunk")),
    Contest("shards", "random", "zarr", ("local", "vzfs", "icechunk")),
)


class Sample(NamedTuple):
    """One reading, and what it cost others: requests for sources, and the daemon of a mount.

    *bytes* are those of sources that were sent; *cpu* is the daemon's during the reading, *rss* its
    most since it began. *mount* is in seconds.
    """

    network: str
    contest: Contest
    contestant: str
    phase: str
    reading: Reading
    gets: int
    heads: int
    bytes: int
    most: int
    mount: float = 0
    cpu: float = 0
    rss: int = 0


class Course(NamedTuple):
    """Where contests take place: the data, its server, and the checkout of vzfs that is measured."""

    base: Path
    server: Server
    network: str
    project: Path
    scratch: Path


def compete(course: Course, contest: Contest, contestant: str) -> Iterator[Sample]:
    """Have one contestant read; vzfs gives three samples. Raises CalledProcessError."""
    if _is_vzfs(contestant):
        yield from _by_mount(course, contest, contestant)
    elif contestant in NETCDF:
        with tempfile.TemporaryDirectory(dir=course.scratch) as cache:
            source = f"source/{contest.workload}"
            with mounted.rclone(course.server.url, source, Path(cache)) as mount:
                engine = contestant.removeprefix("rclone+")
                yield _sample(course, contest, contestant, "cold", mount, engine)
    else:
        yield _sample(course, contest, contestant, "cold")


def _is_vzfs(contestant: str) -> bool:
    return contestant.partition(":")[0] == "vzfs"


def _by_mount(course: Course, contest: Contest, contestant: str) -> Iterator[Sample]:
    view = contestant.partition(":")[2] or "portable"
    options = ("--view", view)
    source = f"s3://repo/{contest.workload}"
    cache = Path(tempfile.mkdtemp(dir=course.scratch))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, cache, ignore_errors=True)
        with mounted.vzfs(course.project, course.server.url, source, cache, *options) as mount:
            yield _sample(course, contest, contestant, "cold", mount)
            if contest.task == "files":
                return  # which is about opening
            yield _sample(course, contest, contestant, "page", mount)
        with mounted.vzfs(course.project, course.server.url, source, cache, *options) as mount:
            yield _sample(course, contest, contestant, "disk", mount)


def _sample(
    course: Course,
    contest: Contest,
    contestant: str,
    phase: str,
    mount: mounted.Mounted | None = None,
    engine: str | None = None,
) -> Sample:
    """Read once in a process of its own."""
    kinds = {"local": "folder"} | dict.fromkeys(NETCDF, "netcdf")
    kind = "folder" if _is_vzfs(contestant) else kinds.get(contestant, contestant)
    where = mount.path if mount else course.base / "local" / contest.workload
    spec = Spec(
        contestant=kind,
        engine=engine or contest.engine,
        workload=contest.workload,
        task="scan" if contest.task == "files" else contest.task,
        where=str(where),
        url=course.server.url,
        references=str(_references(course, contest.workload)),
    )
    before = mount.usage() if mount else None
    course.server.reset()
    reading = read(spec)
    traffic = course.server.reset()
    asked = traffic.of("source")
    used = mount.usage() if mount else None
    return Sample(
        course.network,
        contest,
        contestant,
        phase,
        reading,
        asked.gets,
        asked.heads,
        asked.bytes,
        traffic.most,
        mount.seconds if mount else 0,
        used.cpu - before.cpu if used and before else 0,
        used.rss if used else 0,
    )


def read(spec: Spec) -> Reading:
    """Have a process read. Raises CalledProcessError, with what it said."""
    words = [sys.executable, "-m", "benchmarks.readers", json.dumps(spec._asdict())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=READ_WITHIN, check=False)
    if done.returncode:
        raise RuntimeError(f"{spec} failed: {done.stderr[-2000:]}")
    return Reading(**json.loads(done.stdout.splitlines()[-1]))


def _references(course: Course, workload: str) -> Path:
    """Return the references to the sources where they are now."""
    made = course.scratch / f"{workload}.json"
    origin = course.base / "references" / made.name
    if not made.exists() and origin.exists():
        made.write_text(origin.read_text().replace(URL, course.server.url))
    return made


def needed(base: Path, contest: Contest) -> int | None:
    """Return the bytes of sources that a contest cannot do without; None where chunks are read in part."""
    local = base / "local" / contest.workload
    if contest.workload == "oisst":
        names = OISST_NAMES if contest.task != "pixel" else OISST_NAMES[:1]
        return sum(_size(local / n / "c") for n in names)
    folder = local / "a" / "c"
    if contest.task in {"scan", "bytes"}:
        return _size(folder)
    if contest.workload == "shards":
        return None
    if contest.task == "strided":
        chunks = [(n, 0, 4) for n in range(STRIDED)]
    else:
        chunks = [tuple(place) for place in random_chunks(ARRAYS[contest.workload]).tolist()]
    return sum(folder.joinpath(*map(str, place)).stat().st_size for place in chunks)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def warm(base: Path, workload: str) -> None:
    """Have the kernel keep the files of a workload: no contest is about the disk below."""
    for kind in ("source", "repo", "local"):
        for path in (base / kind / workload).rglob("*"):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(2**20):
                        pass
