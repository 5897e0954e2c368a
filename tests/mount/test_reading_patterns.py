"""Many small chunks cost few requests where that is possible, and never more than one each.

Small versions of what `benchmarks` times: whole requests and bytes are counted, not seconds.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import icechunk
import pytest
import zarr

from tests.mount.archive import Archive
from tests.mount.conftest import Mount
from tests.mount.outcomes import read
from tests.mount.repositories import create, pattern
from tests.servers import ObjectServer

GRID = (20, 20)
SMALL = 4096
COUNT = math.prod(GRID)
DATA = pattern(COUNT * SMALL)

type Coordinates = tuple[int, int]


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture(name="archive")
def _archive(tmp_path: Path, server: ObjectServer) -> Archive:
    return Archive("s3", tmp_path / "archive", server)


def write_grid(folder: Path, archive: Archive, *names: str) -> Path:
    """Write arrays of `GRID` chunks each, which lie in the order of C in a source for each array."""
    repository = create(folder / "repository", containers=[archive.prefix])
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    for name in names:
        location = archive.write(name, DATA)
        root.create_array(
            name, shape=(GRID[0], GRID[1] * SMALL), chunks=(1, SMALL), dtype="u1", compressors=None
        )
        session.store.set_virtual_refs(
            f"/{name}",
            [
                icechunk.VirtualChunkSpec(
                    list(divmod(n, GRID[1])),
                    location,
                    n * SMALL,
                    SMALL,
                    archive.checksum(name, "etag"),
                )
                for n in range(COUNT)
            ],
        )
    session.commit("chunks")
    return folder / "repository"


IN_ORDER: Sequence[Coordinates] = [divmod(n, GRID[1]) for n in range(COUNT)]


def reads_right(mounted: Mount, name: str, places: Sequence[Coordinates]) -> None:
    """Read chunks one after the other, and compare every byte."""
    for row, column in places:
        begin = (row * GRID[1] + column) * SMALL
        found = read(mounted.path / name / "c" / str(row) / str(column))
        assert found == DATA[begin : begin + SMALL]


def bytes_asked(server: ObjectServer) -> int:
    """Return the bytes of all ranges that were asked for."""
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", r.headers["range"]) for r in server.requests]
    return sum(int(m[2]) + 1 - int(m[1]) for m in ranges if m)


def test_a_scan_of_small_chunks_costs_few_gets(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Chunks that are read in the order they lie in come by few GETs, with at most a tenth too many bytes, none twice."""
    mounted = mount(write_grid(tmp_path, archive, "a"), *archive.options)
    reads_right(mounted, "a", IN_ORDER)
    assert server.count() == server.count("GET")
    assert server.count() <= COUNT // 8
    assert len(DATA) <= bytes_asked(server) <= 1.1 * len(DATA)


def test_a_scan_of_several_arrays_in_step_costs_few_gets(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Arrays that are read chunk by chunk in turns, as variables of one dataset are, come by few GETs too."""
    mounted = mount(write_grid(tmp_path, archive, "a", "b"), *archive.options)
    for place in IN_ORDER:
        reads_right(mounted, "a", [place])
        reads_right(mounted, "b", [place])
    assert server.count() <= 2 * COUNT // 8
    assert bytes_asked(server) <= 1.1 * 2 * len(DATA)


def test_random_chunks_cost_one_get_each(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Nothing is read ahead of random reads: one GET of one chunk for each, and in vain at most one in twenty."""
    mounted = mount(write_grid(tmp_path, archive, "a"), *archive.options)
    places = random.Random(4).sample(IN_ORDER, 100)
    reads_right(mounted, "a", places)
    assert server.count() <= 105
    assert bytes_asked(server) <= 105 * SMALL


@pytest.mark.parametrize("step", [1, 3])
def test_a_strided_walk_costs_one_get_a_chunk_at_most(
    step: int, archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A walk down columns costs no more GETs than it has chunks, but for one in twenty that end in vain."""
    mounted = mount(write_grid(tmp_path, archive, "a"), *archive.options)
    columns = range(0, GRID[1], step)
    places = [(row, column) for column in columns for row in range(GRID[0])]
    reads_right(mounted, "a", places)
    assert server.count() <= 1.05 * len(places)


@pytest.mark.parametrize("name", ["scan", "random"])
def test_what_was_read_costs_nothing_again(
    name: str, archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Chunks that were read cost no request by the same mount, and none by a new one with the same cache."""
    places = IN_ORDER if name == "scan" else random.Random(5).sample(IN_ORDER, 100)
    path, cache = write_grid(tmp_path, archive, "a"), tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    reads_right(first, "a", places)
    server.forget_requests()
    reads_right(first, "a", places)
    assert server.count() == 0
    first.end()
    second = mount(path, *archive.options, cache=cache)
    reads_right(second, "a", places)
    assert server.count() == 0


def test_a_scan_takes_bounded_memory(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Reading ten times what may be kept in memory takes little more of it than that."""
    megabyte = 2**20
    data = pattern(160 * megabyte)
    location = archive.write("big", data)
    repository = create(tmp_path / "repository", containers=[archive.prefix])
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    root.create_array(
        "a", shape=(160 * megabyte,), chunks=(megabyte,), dtype="u1", compressors=None
    )
    refs = [icechunk.VirtualChunkSpec([n], location, n * megabyte, megabyte) for n in range(160)]
    session.store.set_virtual_refs("/a", refs)
    session.commit("chunks")
    mounted = mount(tmp_path / "repository", "--memory=16M", *archive.options)
    before = peak_memory(mounted.pid)
    for n in range(160):
        found = read(mounted.path / "a" / "c" / str(n))
        assert found == data[n * megabyte : (n + 1) * megabyte]
    assert peak_memory(mounted.pid) - before <= 80 * megabyte


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    assert found
    return int(found[1]) * 1024
