"""The mount outlives its troubles: what cannot be served fails in bounded time, and the rest is served."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from tests.mount.archive import LENGTH, OLD, Archive
from tests.mount.conftest import Mount, MountFailedError
from tests.mount.outcomes import cached_chunks, errno_of, read, wait_until, walk, xattrs
from tests.mount.repositories import (
    Ref,
    add_native,
    create,
    open_for_writing,
    pattern,
    write_virtual,
)
from tests.servers import (
    ObjectServer,
    overlong,
    reset,
    short,
    stall,
    stall_in_body,
    status,
    truncate,
    wrong_range,
)

FAILED = {"EIO", "ETIMEDOUT"}


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture(name="archive", params=["http", "s3"])
def _archive(request: pytest.FixtureRequest, tmp_path: Path, server: ObjectServer) -> Archive:
    return Archive(request.param, tmp_path / "archive", server)


def write_repository(folder: Path, archive: Archive, names: tuple[str, ...] = ("x",)) -> Path:
    """Write one array of four chunks for each source."""
    arrays = {}
    for name in names:
        location = archive.write(name)
        arrays[name] = [Ref(location, n * LENGTH, LENGTH) for n in range(4)]
    return write_virtual(folder / "repository", arrays, containers=[archive.prefix])


def chunk(n: int) -> bytes:
    return OLD[n * LENGTH : (n + 1) * LENGTH]


def write_two_commits(path: Path, spec: int) -> tuple[Path, Path]:
    """Write the arrays `old` and `new` in a commit each; return the manifest of each."""
    repository = create(path, spec=spec)
    manifests: list[Path] = []
    for name in ("old", "new"):
        session = repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        add_native(root, name, np.frombuffer(OLD, "u1"), (LENGTH,))
        session.commit(name)
        now = set((path / "manifests").iterdir())
        manifests += now - set(manifests)
    assert len(manifests) == 2
    return manifests[0], manifests[1]


# -- the repository itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "damage"),
    [(1, "middle"), *((2, d) for d in ("head", "middle", "end", "truncated", "empty", "gone"))],
)
def test_what_a_corrupt_manifest_may_hold_exists_and_cannot_be_read(
    spec: int, damage: str, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """The names in a corrupt manifest's extents are there, as the snapshot counts them, and READ gives EIO; other arrays are readable."""
    path = tmp_path / "repository"
    _, manifest = write_two_commits(path, spec)
    harm(manifest, damage)
    mounted = mount(path)
    mounted.expect_log(manifest.name)
    for n in range(4):
        new = mounted.path / "new/c" / str(n)
        assert new.stat().st_size >= 1
        assert read(new) == "EIO"
        assert read(mounted.path / "old/c" / str(n)) == chunk(n)
    assert errno_of(os.stat, mounted.path / "new/c/4") == "ENOENT"
    assert sorted(p.name for p in (mounted.path / "new/c").iterdir()) == ["0", "1", "2", "3"]
    assert (mounted.path / "new/zarr.json").read_bytes()
    assert xattrs(mounted.path / "new")["format"]


def test_a_manifest_that_is_restored_heals(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """What a corrupt manifest held is listed and read without a new mount once the file is restored."""
    path = tmp_path / "repository"
    _, manifest = write_two_commits(path, 2)
    good = manifest.read_bytes()
    harm(manifest, "middle")
    mounted = mount(path)
    mounted.expect_log(manifest.name)
    new = [mounted.path / "new/c" / str(n) for n in range(4)]
    assert [read(file) for file in new] == ["EIO"] * 4
    manifest.write_bytes(good)
    wait_until(lambda: not isinstance(read(new[0]), str), "the manifest heals")
    assert [read(file) for file in new] == [chunk(n) for n in range(4)]
    assert [file.stat().st_size for file in new] == [LENGTH] * 4
    assert walk(mounted.path / "new/c") == ["0", "1", "2", "3"]


def harm(file: Path, damage: str) -> None:
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
        return
    if damage == "truncated":
        data = data[: len(data) * 2 // 3]
    elif damage == "empty":
        data = bytearray()
    else:
        place = {"head": 0, "middle": len(data) // 2, "end": len(data) - 8}[damage]
        for n in range(place, place + 8):
            data[n] ^= 0xFF
    file.write_bytes(data)


def test_another_manifest_in_the_place_of_one_is_refused(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A manifest file that is a sound copy of another one gives EIO for its arrays, never their absence."""
    path = tmp_path / "repository"
    old, new = write_two_commits(path, 2)
    shutil.copyfile(old, new)
    mounted = mount(path)
    mounted.expect_log(new.name)
    assert read(mounted.path / "new/c/0") == "EIO"
    assert read(mounted.path / "old/c/0") == chunk(0)


@pytest.mark.parametrize(
    ("what", "damage"),
    [("snapshots", d) for d in ("head", "truncated", "empty", "gone")]
    + [("repo", d) for d in ("truncated", "gone")],
)
def test_a_repository_that_cannot_be_opened_is_not_mounted(
    what: str, damage: str, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A damaged snapshot or repo file ends `vzfs mount` with one line that names it, and an exit code."""
    path = tmp_path / "repository"
    write_two_commits(path, 2)
    tip = open_for_writing(path).lookup_branch("main")
    harm(path / "snapshots" / tip if what == "snapshots" else path / "repo", damage)
    with pytest.raises(MountFailedError) as caught:
        mount(path)
    outcome = caught.value.args[0]
    assert outcome["exit"] in {3, 5, 6}
    assert "\n" not in outcome["error"]
    assert "Traceback" not in caught.value.args[1]
    named = tip if what == "snapshots" else str(path)
    assert named in outcome["error"]


@pytest.mark.parametrize("damage", ["gone", "truncated", "empty"])
def test_a_native_chunk_that_is_missing_or_short_is_an_error(
    damage: str, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A chunk file that the repository lost, or that is short, gives ESTALE or EIO, never absence or zeros."""
    path = tmp_path / "repository"
    write_two_commits(path, 2)
    for file in (path / "chunks").iterdir():
        harm(file, damage)
    mounted = mount(path)
    mounted.expect_log("does not exist|ends")
    for n in range(4):
        assert (mounted.path / "old/c" / str(n)).stat().st_size == LENGTH
        assert read(mounted.path / "old/c" / str(n)) in {"EIO", "ESTALE"}


# -- servers -----------------------------------------------------------------------------------


def test_a_dead_server_fails_reads_in_bounded_time_and_heals(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """While a server refuses connections, READ fails within the deadline, and everything else works."""
    mounted = mount(write_repository(tmp_path, archive), "--deadline", "2", *archive.options)
    mounted.expect_log("refused|reach|answer")
    assert read(mounted.path / "x/c/0") == chunk(0)
    server.close()
    began = time.monotonic()
    assert read(mounted.path / "x/c/1") in FAILED
    assert time.monotonic() - began < 8
    assert "x/c/1" in walk(mounted.path)
    assert (mounted.path / "x/c/1").stat().st_size == LENGTH
    assert read(mounted.path / "x/c/0") == chunk(0)


@pytest.mark.parametrize("make", [stall, stall_in_body])
def test_a_stalled_server_fails_reads_in_bounded_time_and_heals(
    make: Callable[[threading.Event], object],
    archive: Archive,
    tmp_path: Path,
    mount: Callable[..., Mount],
    server: ObjectServer,
) -> None:
    """A server that never answers, or stops halfway, costs a reader the deadline and nobody else anything."""
    path = write_repository(tmp_path, archive, ("x", "y"))
    mounted = mount(path, "--deadline", "2", *archive.options)
    mounted.expect_log("answer|stall|reach|within")
    gate = threading.Event()
    server.fault("b/x", make(gate), 99)
    began = time.monotonic()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; open(sys.argv[1], 'rb').read()",
            str(mounted.path / "x/c/0"),
        ],
        stderr=subprocess.DEVNULL,
    ) as stuck:
        wait_until(lambda: server.count(key="b/x") > 0, "the stalled read began")
        before = time.monotonic()
        assert read(mounted.path / "y/c/0") == chunk(0)
        assert "y/c/1" in walk(mounted.path)
        assert time.monotonic() - before < 2
        assert stuck.wait(timeout=20) != 0
    assert time.monotonic() - began < 10
    gate.set()
    server.clear_faults()
    wait_until(lambda: read(mounted.path / "x/c/0") == chunk(0), "the read heals")


FAULTS = {
    "500": status(500),
    "503": status(503),
    "429": status(429),
    "reset": reset(),
    "truncated": truncate(100),
    "short": short(),
    "overlong": overlong(),
    "chunked-overlong": overlong(chunked=True),
    "wrong-range": wrong_range(),
}


def test_a_fault_that_passes_costs_no_wrong_byte(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """One bad reply is retried, or fails the read once; the bytes that are served are the right ones."""
    path = write_repository(tmp_path, archive, tuple(FAULTS))
    mounted = mount(path, "--deadline", "10", *archive.options)
    for name, fault in FAULTS.items():
        server.fault(f"b/{name}", fault)
        file = mounted.path / name / "c/1"
        found = read(file)
        if found == "EIO":
            mounted.expect_log(f"b/{name}")
            wait_until(lambda f=file: read(f) == chunk(1), f"the read heals after {name}")
        else:
            assert found == chunk(1), name
    for name in ("500", "503", "429", "reset", "truncated"):
        assert server.count("GET", f"b/{name}") == 2, name


def test_a_fault_that_stays_fails_the_read_and_nothing_else(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A server that keeps answering wrongly gives EIO or ETIMEDOUT in bounded time, never other bytes."""
    path = write_repository(tmp_path, archive, ("good", *FAULTS))
    mounted = mount(path, "--deadline", "2", *archive.options)
    for name, fault in FAULTS.items():
        server.fault(f"b/{name}", fault, 999)
        mounted.expect_log(f"b/{name}")
    files = [mounted.path / name / "c/1" for name in FAULTS]
    began = time.monotonic()
    with ThreadPoolExecutor(len(files)) as readers:
        found = list(readers.map(read, files))
    assert set(found) <= FAILED, dict(zip(FAULTS, found, strict=True))
    assert time.monotonic() - began < 8
    assert read(mounted.path / "good/c/0") == chunk(0)


# -- the cache ---------------------------------------------------------------------------------


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("filled_by", ["the cache", "somebody else"])
def test_a_full_cache_disk_fails_no_read(
    filled_by: str,
    small_disk: Path,
    tmp_path: Path,
    mount: Callable[..., Mount],
    server: ObjectServer,
) -> None:
    """When the cache's disk is full, of its own chunks or of something else, reads go on, and the log is not flooded."""
    archive = Archive("http", tmp_path / "archive", server)
    size = 300_000
    data = pattern(8 * size)
    location = archive.write("big", data)
    refs = [Ref(location, n * size, size) for n in range(8)]
    path = write_virtual(tmp_path / "repository", {"a": refs}, containers=[archive.prefix])
    mounted = mount(path, *archive.options, cache=small_disk / "cache")
    if filled_by == "somebody else":
        assert errno_of((small_disk / "filler").write_bytes, bytes(2**21)) == "ENOSPC"
    for n in range(8):
        assert read(mounted.path / f"a/c/{n}") == data[n * size : (n + 1) * size]
    if filled_by == "somebody else":
        wait_until(lambda: len(mounted.warnings()) > 0, "the full disk is logged")
        mounted.expect_log(r"full|No space")
    assert len(mounted.warnings()) <= 1


def test_a_cache_folder_that_is_removed_fails_no_read(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A cache folder that somebody removes under the mount costs the cache, not a read."""
    archive = Archive("http", tmp_path / "archive", server)
    cache = tmp_path / "cache"
    mounted = mount(write_repository(tmp_path, archive), *archive.options, cache=cache)
    assert read(mounted.path / "x/c/0") == chunk(0)
    wait_until(lambda: cached_chunks(cache, LENGTH) == 1, "it is cached")
    while cache.exists():  # what the mount writes meanwhile is in the way
        shutil.rmtree(cache, ignore_errors=True)
    assert [read(mounted.path / f"x/c/{n}") for n in range(4)] == [chunk(n) for n in range(4)]
    if mounted.warnings():
        mounted.expect_log("cache")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "swapped", "grown"])
def test_corrupted_cache_entries_are_never_served(
    damage: str, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Whatever happens to the files of the cache, a mount serves the source's bytes."""
    archive = Archive("http", tmp_path / "archive", server)
    location = archive.write("x")
    arrays = {
        kind: [Ref(location, n * LENGTH, LENGTH, archive.checksum("x", kind)) for n in range(4)]
        for kind in ("etag", "last-modified", "none")
    }
    path = write_virtual(tmp_path / "repository", arrays, containers=[archive.prefix])
    cache = tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    for array in arrays:
        for n in range(4):
            assert read(first.path / array / "c" / str(n)) == chunk(n)
    wait_until(lambda: cached_chunks(cache, LENGTH) == 12, "all are cached")
    first.end()
    corrupt_all(cache, damage)
    second = mount(path, *archive.options, cache=cache)
    for array in arrays:
        for n in range(4):
            assert read(second.path / array / "c" / str(n)) == chunk(n)
    if second.warnings():
        second.expect_log("cache")


def corrupt_all(cache: Path, damage: str) -> None:
    """Damage every file below *cache* in one way."""
    files = sorted(p for p in cache.rglob("*") if p.is_file())
    contents = [p.read_bytes() for p in files]
    assert sum(map(len, contents)) >= 12 * LENGTH
    for index, (file, content) in enumerate(zip(files, contents, strict=True)):
        match damage:
            case "flipped":
                data = bytearray(content)
                data[-1 - len(data) // 4] ^= 1
            case "truncated":
                data = bytearray(content[: len(content) // 2])
            case "grown":
                data = bytearray(content + b"more")
            case "empty":
                data = bytearray()
            case _:
                data = bytearray(contents[index - 1])
        file.write_bytes(data)


def test_a_cache_folder_that_cannot_be_written_fails_no_mount_and_no_read(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A cache folder below a file, which nobody can make, costs the cache: the mount is made and reads."""
    archive = Archive("http", tmp_path / "archive", server)
    path = write_repository(tmp_path, archive)
    (tmp_path / "file").write_bytes(b"")
    mounted = mount(path, *archive.options, cache=tmp_path / "file/cache")
    assert read(mounted.path / "x/c/0") == chunk(0)
    mounted.expect_log("cache")


# -- signals -----------------------------------------------------------------------------------


def test_sigterm_while_a_read_waits_ends_the_mount(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """SIGTERM ends the mount within seconds though a read hangs on a stalled server; the reader gets an error."""
    archive = Archive("http", tmp_path / "archive", server)
    mounted = mount(write_repository(tmp_path, archive), *archive.options)
    gate = threading.Event()
    server.fault("b/x", stall(gate), 99)
    with subprocess.Popen(
        ["cat", str(mounted.path / "x/c/0")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reader:
        wait_until(lambda: server.count() > 0, "the read began")
        began = time.monotonic()
        mounted.end()
        assert time.monotonic() - began < 10
        output, _ = reader.communicate(timeout=20)
    assert output == b""
    assert reader.returncode != 0


def test_sigterm_while_a_file_is_open_ends_the_mount(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """SIGTERM ends the mount though a program has a file and a directory of it open."""
    archive = Archive("http", tmp_path / "archive", server)
    mounted = mount(write_repository(tmp_path, archive), *archive.options)
    file = os.open(mounted.path / "x/c/0", os.O_RDONLY)
    folder = os.open(mounted.path / "x/c", os.O_RDONLY)
    try:
        mounted.end()
        assert errno_of(os.pread, file, 10, 0) in {"ENOTCONN", "EIO", "ECONNABORTED"}
        assert list(mounted.path.iterdir()) == []
    finally:
        for descriptor in (file, folder):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def test_sigint_unmounts_too(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """SIGINT unmounts, as SIGTERM does."""
    path = tmp_path / "repository"
    create(path)
    mounted = mount(path)
    os.kill(mounted.pid, signal.SIGINT)
    wait_until(lambda: not os.path.ismount(mounted.path), "it unmounts")
    wait_until(lambda: has_left(mounted), "the daemon leaves")


def has_left(mounted: Mount) -> bool:
    return mounted._process.poll() == 0


def test_sigkill_is_honest_and_can_be_mended(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """After kill -9 every path gives ENOTCONN, `vzfs umount --lazy` clears it, and the place can be mounted again."""
    path = tmp_path / "repository"
    write_two_commits(path, 2)
    mounted = mount(path)
    assert read(mounted.path / "old/c/0") == chunk(0)
    mounted.kill()
    assert errno_of(os.listdir, mounted.path) == "ENOTCONN"
    assert errno_of(os.stat, mounted.path / "old/c/1") == "ENOTCONN"
    assert errno_of(os.open, mounted.path / "old/zarr.json", os.O_RDONLY) == "ENOTCONN"
    vzfs = [sys.executable, "-m", "vzfs"]
    refused = subprocess.run(
        [*vzfs, "mount", str(path), str(mounted.path), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 7
    assert "umount" in refused.stderr
    subprocess.run([*vzfs, "umount", "--lazy", str(mounted.path)], check=True)
    assert list(mounted.path.iterdir()) == []
    subprocess.run(
        [*vzfs, "mount", path, mounted.path, "--no-cache", "--log-file", tmp_path / "log"],
        check=True,
        capture_output=True,
    )
    try:
        assert read(mounted.path / "old/c/0") == chunk(0)
    finally:
        subprocess.run([*vzfs, "umount", str(mounted.path)], check=True)


def test_a_reader_that_is_killed_disturbs_nobody(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A program that dies while its read waits leaves the mount as it was."""
    archive = Archive("http", tmp_path / "archive", server)
    mounted = mount(write_repository(tmp_path, archive), *archive.options)
    gate = threading.Event()
    server.fault("b/x", stall(gate))
    with subprocess.Popen(["cat", str(mounted.path / "x/c/0")], stdout=subprocess.PIPE) as reader:
        wait_until(lambda: server.count() > 0, "the read began")
        reader.send_signal(signal.SIGKILL)
        gate.set()
        reader.wait(timeout=20)
    assert [read(mounted.path / f"x/c/{n}") for n in range(4)] == [chunk(n) for n in range(4)]


def test_a_garbage_collected_snapshot_keeps_failing_honestly(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A mount of a snapshot whose files are deleted under it fails reads, and never shows the chunks as absent."""
    path = tmp_path / "repository"
    write_two_commits(path, 2)
    mounted = mount(path)
    for folder in ("chunks", "manifests", "snapshots"):
        shutil.rmtree(path / folder)
    mounted.expect_log("")
    for array in ("old", "new"):
        assert (mounted.path / array / "c/0").stat().st_size >= 1
        assert read(mounted.path / array / "c/0") in {"EIO", "ESTALE"}
    assert (mounted.path / "old/zarr.json").read_bytes()


def test_a_mount_is_pinned_to_its_snapshot(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """A commit to the mounted branch changes nothing in the mount; a new mount shows it."""
    path = tmp_path / "repository"
    write_two_commits(path, 2)
    mounted = mount(path)
    session = open_for_writing(path).writable_session("main")
    root = zarr.open_group(session.store, mode="a")
    assert isinstance(session, icechunk.Session)
    root["old"][:] = 7
    add_native(root, "newest", np.zeros(10, "u1"), (10,))
    session.commit("later")
    assert read(mounted.path / "old/c/0") == chunk(0)
    assert not (mounted.path / "newest").exists()
    again = mount(path)
    assert read(again.path / "old/c/0") == bytes([7] * LENGTH)
    assert (again.path / "newest").is_dir()
