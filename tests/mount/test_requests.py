"""How many requests a read costs, and that looking around costs none."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.archive import LENGTH, OLD, Archive
from tests.mount.conftest import Mount
from tests.mount.outcomes import cached_chunks, read, wait_until
from tests.mount.repositories import Ref, add_native, create, pattern, write_virtual
from tests.servers import ObjectServer, stall
from vzfs.plan import BLOCK, WHOLE_LIMIT

READ = "import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())"
READ_PART = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
sys.stdout.buffer.write(os.pread(descriptor, int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture(name="archive")
def _archive(tmp_path: Path, server: ObjectServer) -> Archive:
    return Archive("http", tmp_path / "archive", server)


def write_repository(folder: Path, archive: Archive, kind: str) -> Path:
    """Write the array `a` of four chunks in one source, whose version is recorded in the way *kind*."""
    location = archive.write("x")
    checksum = archive.checksum("x", kind)
    refs = [Ref(location, n * LENGTH, LENGTH, checksum) for n in range(4)]
    return write_virtual(folder / "repository", {"a": refs}, containers=[archive.prefix])


def chunk(n: int) -> bytes:
    return OLD[n * LENGTH : (n + 1) * LENGTH]


def read_in_another_process(path: Path) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", READ, str(path)], check=True, capture_output=True
    ).stdout


def drop_pages(path: Path) -> None:
    """Have the kernel forget the pages of a file, so that the next read reaches the daemon."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [("http", "etag"), ("s3", "last-modified"), ("http", "none"), ("s3", "none")],
)
def test_a_cold_chunk_costs_one_get_and_a_warm_one_nothing(
    scheme: str, kind: str, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """One GET for a cold chunk; none for a second read, a second process, a second mount, a restart or a restart after kill -9."""
    archive = Archive(scheme, tmp_path / "archive", server)
    path = write_repository(tmp_path, archive, kind)
    cache = tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    assert server.requests == []
    assert read(first.path / "a/c/0") == chunk(0)
    assert [r.method for r in server.requests] == ["GET"]
    assert server.requests[0].headers["range"] == f"bytes=0-{LENGTH - 1}"
    assert read(first.path / "a/c/0") == chunk(0)
    drop_pages(first.path / "a/c/0")
    assert read(first.path / "a/c/0") == chunk(0)
    assert read_in_another_process(first.path / "a/c/0") == chunk(0)
    assert server.count() == 1
    wait_until(lambda: cached_chunks(cache, LENGTH) == 1, "the chunk is cached")
    heads = 1 if kind == "none" else 0
    second = mount(path, *archive.options, cache=cache)
    costs_at_most_heads(second, server, heads)
    first.kill()
    third = mount(path, *archive.options, cache=cache)
    costs_at_most_heads(third, server, heads)
    third.end()
    fourth = mount(path, *archive.options, cache=cache)
    costs_at_most_heads(fourth, server, heads)
    first.tear_down()


def costs_at_most_heads(mounted: Mount, server: ObjectServer, heads: int) -> None:
    """Read a cached chunk twice through a new mount: no GET, and at most *heads* HEADs."""
    server.forget_requests()
    for _ in range(2):
        assert read(mounted.path / "a/c/0") == chunk(0)
        drop_pages(mounted.path / "a/c/0")
    assert server.count("GET") == 0
    assert server.count("HEAD") <= heads
    assert server.count() == server.count("HEAD")


def test_a_mount_fetches_no_more_than_it_may(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """With --max-egress reads fail with EIO once the limit is reached, without a request and with one line in the log."""
    path = write_repository(tmp_path, archive, "etag")
    limit = f"--max-egress={2 * LENGTH}/day"
    mounted = mount(path, *archive.options, limit, cache=tmp_path / "cache")
    mounted.expect_log("--max-egress")
    got = [read(mounted.path / f"a/c/{n}") for n in range(4)]
    assert got == [chunk(0), chunk(1), "EIO", "EIO"]
    assert server.count() == 2
    drop_pages(mounted.path / "a/c/1")
    assert read(mounted.path / "a/c/1") == chunk(1)
    assert len(mounted.warnings()) == 1


def test_what_was_read_before_sigterm_is_cached(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A mount that is ended right after a chunk was read has it in its cache: a restart costs no GET."""
    archive = Archive("http", tmp_path / "archive", server)
    size = 16 * 2**20
    data = pattern(size)
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(archive.write("big", data), 0, size, archive.checksum("big", "etag"))]},
        containers=[archive.prefix],
    )
    cache = tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    assert read(first.path / "a/c/0") == data
    first.end()
    parts = server.count("GET")
    assert parts <= 16
    second = mount(path, *archive.options, cache=cache)
    assert read(second.path / "a/c/0") == data
    assert server.count("GET") == parts


def test_many_cached_chunks_of_one_object_cost_one_head(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Refs without a checksum cost at most one HEAD per object and mount, however many chunks are read."""
    path = write_repository(tmp_path, archive, "none")
    cache = tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    for n in range(4):
        assert read(first.path / f"a/c/{n}") == chunk(n)
    wait_until(lambda: cached_chunks(cache, LENGTH) == 4, "the chunks are cached")
    assert server.count("HEAD") == 0
    first.end()
    server.forget_requests()
    second = mount(path, *archive.options, cache=cache)
    assert [read(second.path / f"a/c/{n}") for n in range(4)] == [chunk(n) for n in range(4)]
    assert server.count("GET") == 0
    assert server.count() <= 1


@pytest.mark.parametrize("kind", ["etag", "last-modified"])
def test_cached_chunks_with_a_checksum_are_served_offline(
    kind: str, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """What is cached and carries a checksum is read without the server, in a new mount too."""
    archive = Archive("http", tmp_path / "archive", server)
    path = write_repository(tmp_path, archive, kind)
    cache = tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    assert read(first.path / "a/c/0") == chunk(0)
    wait_until(lambda: cached_chunks(cache, LENGTH) == 1, "the chunk is cached")
    first.end()
    server.close()
    second = mount(path, "--deadline", "2", *archive.options, cache=cache)
    assert read(second.path / "a/c/0") == chunk(0)


def test_the_cache_is_shared_by_repositories_with_the_same_sources(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A second repository that refers to the same bytes of the same version reads them from the cache."""
    location = archive.write("x")
    ref = Ref(location, 0, LENGTH, archive.checksum("x", "etag"))
    paths = [
        write_virtual(tmp_path / name, {name: [ref]}, containers=[archive.prefix])
        for name in ("one", "two")
    ]
    cache = tmp_path / "cache"
    one = mount(paths[0], *archive.options, cache=cache)
    assert read(one.path / "one/c/0") == chunk(0)
    wait_until(lambda: cached_chunks(cache, LENGTH) == 1, "the chunk is cached")
    two = mount(paths[1], *archive.options, cache=cache)
    assert read(two.path / "two/c/0") == chunk(0)
    assert server.count() == 1


def test_looking_around_costs_no_request_to_a_source(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """`find`, `ls -lR`, `du`, `stat` and `getfattr -d -R` over the whole tree make no request to a source.

    Nor does OPEN of a chunk, which succeeds from memory, or asking for chunks that the manifest lacks.
    """
    path = write_repository(tmp_path, archive, "none")
    mounted = mount(path, *archive.options)
    root = str(mounted.path)
    for words in (
        ["find", root, "-ls"],
        ["ls", "-lR", root],
        ["du", "-a", "--apparent-size", root],
        ["find", root, "-exec", "stat", "{}", "+"],
        ["getfattr", "-d", "-R", root],
    ):
        result = subprocess.run(words, check=True, capture_output=True, text=True)
        assert result.stderr.replace("getfattr: Removing leading '/'", "").count("\n") <= 1
        assert "c/0" in result.stdout or "c:" in result.stdout
    assert read(mounted.path / "a/zarr.json")
    for _ in range(3):
        os.close(os.open(mounted.path / "a/c/0", os.O_RDONLY))
    assert os.access(mounted.path / "a/c/0", os.R_OK)
    for n in range(4, 50):
        assert not (mounted.path / f"a/c/{n}").exists()
    assert server.clients == []


def test_eight_processes_reading_one_cold_chunk_at_once_cost_one_get(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Readers of the same cold chunk share one GET, whoever they are and whichever part they read."""
    part = 128 * 1024
    data = pattern(8 * part)
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(archive.write("big", data), 0, len(data))]},
        containers=[archive.prefix],
    )
    gate = threading.Event()
    server.fault("b/big", stall(gate))
    file = mount(path, *archive.options).path / "a/c/0"
    words = [sys.executable, "-c", READ_PART, str(file), str(part)]
    readers = [subprocess.Popen([*words, str(n * part)], stdout=subprocess.PIPE) for n in range(8)]
    try:
        wait_until(lambda: all(is_reading(r, file) for r in readers), "all have it open")
        gate.set()
        found = [r.communicate(timeout=20)[0] for r in readers]
    finally:
        gate.set()
        for reader in readers:
            reader.kill()
            reader.wait()
    assert b"".join(found) == data
    assert server.count("GET") == 1
    assert server.count() == 1


def is_reading(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Whether *process* has *path* open."""
    folder = Path(f"/proc/{process.pid}/fd")
    try:
        return any(fd.readlink() == path for fd in folder.iterdir())
    except OSError:
        return False


def test_different_chunks_are_fetched_once_each_however_often_they_are_read(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """No source byte is fetched twice: the ranges of all GETs are disjoint, and cover what was read."""
    mounted = mount(write_repository(tmp_path, archive, "none"), *archive.options)
    for _ in range(3):
        for n in range(4):
            assert read(mounted.path / f"a/c/{n}", 100, 300) == chunk(n)[100:400]
            drop_pages(mounted.path / f"a/c/{n}")
    assert_disjoint(server, 4 * LENGTH)


def fetched_ranges(server: ObjectServer) -> list[tuple[int, int]]:
    """Return the ranges [start, end) of all GETs so far, in order of place."""
    found = []
    for request in server.requests:
        assert request.method == "GET"
        start, end = request.headers["range"].removeprefix("bytes=").split("-")
        found.append((int(start), int(end) + 1))
    return sorted(found)


def fetched_size(server: ObjectServer) -> int:
    return sum(end - start for start, end in fetched_ranges(server))


def assert_disjoint(server: ObjectServer, size: int) -> None:
    ranges = fetched_ranges(server)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges)), ranges
    assert sum(end - start for start, end in ranges) <= size


def test_a_large_chunk_read_in_part_is_fetched_in_blocks_each_once(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Of a chunk beyond 20 MiB, only blocks around what is read are fetched, and each of them once."""
    size = 48 * 2**20
    data = pattern(size)
    location = archive.write("big", data)
    path = write_virtual(
        tmp_path / "repository", {"a": [Ref(location, 0, size)]}, containers=[archive.prefix]
    )
    mounted = mount(path, *archive.options)
    file = mounted.path / "a/c/0"
    end = size - 1000
    assert read(file, 5, 100) == data[5:105]
    assert read(file, end, 1000) == data[end:]
    wait_until(lambda: fetched_size(server) % BLOCK == 0, "the rest of the blocks comes")
    first = fetched_ranges(server)
    assert sum(end - start for start, end in first) < size
    assert_disjoint(server, size)
    drop_pages(file)
    assert read(file, 5, 100) == data[5:105]
    assert fetched_ranges(server) == first
    assert file.read_bytes() == data
    assert_disjoint(server, size)
    assert sum(end - start for start, end in fetched_ranges(server)) == size


def test_a_large_chunk_that_is_decoded_is_fetched_once(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A chunk beyond 16 MiB is fetched whole to be decoded, and no byte of it again by blocks, nor those of the next."""
    archive = Archive("http", tmp_path / "archive", server)
    size = WHOLE_LIMIT + 2**20
    numbers = np.frombuffer(pattern(3 * size), ">i2")
    location = archive.write("big", numbers.tobytes())
    refs = [Ref(location, n * size, size) for n in range(3)]
    path = write_virtual(
        tmp_path / "repository", {"a": refs}, containers=[archive.prefix], dtype=">i2"
    )
    mounted = mount(path, *archive.options, "--view", "decoded")
    for n in range(2):
        file = mounted.path / f"a/c/{n}"
        found = b"".join(read(file, offset, 2**20) for offset in range(0, size, 2**20))
        expected = numbers[n * size // 2 :][: size // 2]
        np.testing.assert_array_equal(np.frombuffer(found, "<i2"), expected)
    mounted.end()
    assert_disjoint(server, 2 * size)
    assert fetched_size(server) == 2 * size


def test_a_chunk_of_a_native_array_is_fetched_once_too(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A repository on a server is asked once for each manifest and native chunk, and not at all with a warm cache."""
    local = tmp_path / "local"
    repository = create(local)
    session = repository.writable_session("main")
    add_native(zarr.group(session.store), "a", np.frombuffer(OLD, "u1"), (LENGTH,))
    session.commit("native")
    for file in local.rglob("*"):
        if file.is_file():
            server.put(f"b/{file.relative_to(local)}", file.read_bytes())
    cache = tmp_path / "cache"
    url = f"{server.url}/b/"
    first = mount(url, cache=cache)
    for _ in range(2):
        assert [read(first.path / f"a/c/{n}") for n in range(4)] == [chunk(n) for n in range(4)]
    asked = [r.key for r in server.requests if r.key.startswith(("b/chunks/", "b/manifests/"))]
    assert len(asked) == len(set(asked))
    assert sum(key.startswith("b/chunks/") for key in asked) == 4
    wait_until(lambda: cached_chunks(cache, LENGTH) == 4, "the chunks are cached")
    first.end()
    server.forget_requests()
    second = mount(url, cache=cache)
    assert read(second.path / "a/c/3") == chunk(3)
    assert [r.key for r in server.requests if r.key.startswith("b/chunks/")] == []
