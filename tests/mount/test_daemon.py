"""The daemon behind a mount: who may look in, how much it keeps, what it tells when asked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount
from tests.mount.outcomes import errno_of, read, wait_until
from tests.mount.repositories import Ref, add_native, create, pattern, write_virtual

NOBODY = 65534
LENGTH = 10_000
COUNT = 40


@pytest.fixture(name="open_folder")
def _open_folder() -> Iterator[Path]:
    """Give a folder that every user can walk into."""
    folder = Path(tempfile.mkdtemp(prefix="vzfs-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become another user")
def test_other_users_see_a_mount_only_if_it_is_for_them(open_folder: Path, tmp_path: Path) -> None:
    """A mount is its user's alone, root included, unless --allow-other makes it everybody's."""
    session = create(tmp_path / "repository").writable_session("main")
    add_native(zarr.group(session.store), "a", np.arange(4, dtype="u1"), (4,))
    session.commit("one chunk")
    for number, options in enumerate(([], ["--allow-other"])):
        folder = open_folder / str(number)
        mounted = Mount(folder, tmp_path / "repository", "--no-cache", *options)
        try:
            other = subprocess.run(
                ["cat", mounted.path / "a/c/0"], capture_output=True, check=False, user=NOBODY
            )
            assert other.stdout == (b"\0\1\2\3" if options else b"")
            assert (b"Permission denied" in other.stderr) == (not options)
            mounted.end()
        finally:
            mounted.tear_down()


def test_the_cache_keeps_to_its_size(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """Reading more than --cache-size leaves at most that on disk, and every read right."""
    data = pattern(COUNT * LENGTH)
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "x").write_bytes(data)
    refs = [Ref(f"file://{archive}/x", n * LENGTH, LENGTH) for n in range(COUNT)]
    path = write_virtual(tmp_path / "repository", {"a": refs}, containers=[f"file://{archive}/"])
    cache, limit = tmp_path / "cache", COUNT * LENGTH // 4
    mounted = mount(path, "--allow", str(archive), "--cache-size", str(limit), cache=cache)
    for n in range(COUNT):
        assert read(mounted.path / "a/c" / str(n)) == data[n * LENGTH : (n + 1) * LENGTH]

    def kept() -> int:
        return sum(p.stat().st_size for p in cache.rglob("*") if p.is_file())

    wait_until(lambda: 0 < kept() <= limit, "the cache is within its limit")
    for n in reversed(range(COUNT)):
        assert read(mounted.path / "a/c" / str(n)) == data[n * LENGTH : (n + 1) * LENGTH]


def test_what_a_mount_cached_is_shown_and_cleared(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """`vzfs cache` says how much a mount has cached and read again, and clears it under the mount."""
    data = pattern(COUNT * LENGTH)
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "x").write_bytes(data)
    refs = [Ref(f"file://{archive}/x", n * LENGTH, LENGTH) for n in range(COUNT)]
    path = write_virtual(tmp_path / "repository", {"a": refs}, containers=[f"file://{archive}/"])
    cache = tmp_path / "cache"

    def command(*words: str) -> str:
        line = [sys.executable, "-m", "vzfs", "cache", *words, "--cache-dir", str(cache)]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    def chunks(mounted: Mount) -> list[bytes]:
        return [(mounted.path / "a/c" / str(n)).read_bytes() for n in range(COUNT)]

    expected = [data[n * LENGTH : (n + 1) * LENGTH] for n in range(COUNT)]
    first = mount(path, "--allow", str(archive), cache=cache)
    assert chunks(first) == expected
    first.end()
    second = mount(path, "--allow", str(archive), cache=cache)
    assert chunks(second) == expected
    second.end()
    (row,) = json.loads(command("status", "--json"))["repositories"]
    assert row["repository"] == f"{path.as_uri()}/"
    assert row["entries"] >= COUNT
    assert row["hits"] >= COUNT
    third = mount(path, "--allow", str(archive), cache=cache)
    assert command("clear", "--yes").startswith("deleted ")
    assert chunks(third) == expected


def test_a_daemon_says_how_it_is_doing(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """SIGUSR1 writes the statistics into the log, and the mount goes on."""
    create(tmp_path / "repository")
    mounted = mount(tmp_path / "repository")
    os.kill(mounted.pid, signal.SIGUSR1)

    wait_until(lambda: any("source.gets=" in line for line in mounted.log()), "it is logged")
    assert list(mounted.path.iterdir()) == []


def test_a_daemon_killed_while_it_reads_is_honest_about_it(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A reader whose daemon dies gets an error and no data, and the next mount reads on."""
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "x").write_bytes(pattern(LENGTH))
    refs = [Ref(f"file://{archive}/x", 0, LENGTH)]
    path = write_virtual(tmp_path / "repository", {"a": refs}, containers=[f"file://{archive}/"])
    mounted = mount(path, "--allow", str(archive))
    chunk = mounted.path / "a/c/0"
    os.kill(mounted.pid, signal.SIGSTOP)
    words = [sys.executable, "-c", "import sys; open(sys.argv[1], 'rb').read()", str(chunk)]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as reader:
        mounted.kill()
        assert reader.stderr is not None
        assert b"OSError" in reader.stderr.read()
    assert errno_of(os.open, chunk, os.O_RDONLY) == "ENOTCONN"
    mounted.tear_down()

    again = mount(path, "--allow", str(archive))
    assert read(again.path / "a/c/0") == pattern(LENGTH)
