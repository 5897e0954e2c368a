"""Who is killed while a source keeps them waiting is gone at once, and holds nobody else up."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mount
from tests.mount.outcomes import PATIENCE, errno_of, read, wait_until
from tests.mount.repositories import Ref, pattern, write_virtual
from tests.servers import ObjectServer, stall

LENGTH = 2**19
"""Bytes of a chunk that is read through the page cache."""
DATA = pattern(LENGTH)
STALLED = 16
"""Sources that never answer: more than the reads that the kernel by default lets wait at a time."""
AT_ONCE = 2.0
"""Seconds within which a killed process is gone, far below the deadline."""
DEADLINE = 60

READERS = {
    "read": "os.pread(os.open(path, os.O_RDONLY), 10, 0)",
    "random": "f = os.open(path, os.O_RDONLY);"
    "os.posix_fadvise(f, 0, 0, os.POSIX_FADV_RANDOM); os.pread(f, 10, 0)",
    "mmap": "mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)[0]",
    "direct": "os.preadv(os.open(path, os.O_RDONLY | os.O_DIRECT), [mmap.mmap(-1, 4096)], 0)",
}
"""Ways to read a file: through the page cache with and without reading ahead, mapped, and past it."""
NEEDS_MANIFEST = {
    "lookup": "os.stat(path)",
    "list": "os.listdir(os.path.dirname(os.path.dirname(path)))",
}
"""What has to wait for a manifest."""


@pytest.fixture(name="gate")
def _gate() -> Iterator[threading.Event]:
    """Give the gate behind which servers stall; it is open in the end, whatever happened."""
    gate = threading.Event()
    try:
        yield gate
    finally:
        gate.set()


@pytest.fixture(name="server")
def _server(gate: threading.Event, tmp_path: Path) -> Iterator[ObjectServer]:
    with ObjectServer(tmp_path / "served") as server:
        for n in range(STALLED):
            server.put(f"b/x{n}", DATA)
        server.put("b/good", DATA)
        yield server
        gate.set()


@pytest.fixture(name="start")
def _start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Give a function that starts a program with *path*, and returns when it is about to do *what*."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path, what: str, before: str = "") -> subprocess.Popen[bytes]:
        code = f"import mmap, os, signal, sys; path = sys.argv[1]; {before}\n"
        words = [sys.executable, "-c", f"{code}print('go', flush=True)\n{what}", str(path)]
        reader = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        started.append(reader)
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"go\n"
        return reader

    try:
        yield start
    finally:
        for reader in started:
            reader.kill()
        for reader in started:
            reader.wait()
            assert reader.stdout is not None
            reader.stdout.close()


@pytest.fixture(name="mounted")
def _mounted(tmp_path: Path, server: ObjectServer, mount: Callable[..., Mount]) -> Mount:
    names = [*(f"x{n}" for n in range(STALLED)), "good"]
    prefix = f"{server.url}/b/"
    arrays = {name: [Ref(prefix + name, 0, LENGTH)] for name in names}
    path = write_virtual(tmp_path / "repository", arrays, containers=[prefix])
    return mount(path, "--allow", prefix, "--deadline", str(DEADLINE))


def waits_for_pages(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process is in a read through the page cache, and not before it."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


def waits_in_kernel(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process waits for pages, or for the answer to a request, be it to open a file."""
    wait = Path(f"/proc/{process.pid}/wchan").read_text()
    return waits_for_pages(process) or "request_wait_answer" in wait


def seconds_until_gone(process: subprocess.Popen[bytes], number: signal.Signals) -> float:
    began = time.monotonic()
    process.send_signal(number)
    process.wait(timeout=PATIENCE)
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", READERS)
def test_a_killed_reader_is_gone_at_once(
    how: str,
    number: signal.Signals,
    mounted: Mount,
    server: ObjectServer,
    gate: threading.Event,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Who is killed while a source stalls is gone within a second, however they read, and not at the deadline."""
    server.fault("b/x0", stall(gate), 99)
    # Python has a handler of its own for SIGINT, which other programs have not.
    default = "signal.signal(signal.SIGINT, signal.SIG_DFL)"
    reader = start(mounted.path / "x0/c/0", READERS[how], default)
    wait_until(lambda: server.count(key="b/x0") > 0, "the source is asked")
    wait_until(lambda: waits_in_kernel(reader), "the reader waits")
    assert seconds_until_gone(reader, number) < AT_ONCE
    assert reader.returncode == -number
    assert read(mounted.path / "good/c/0") == DATA
    gate.set()


@pytest.mark.parametrize("what", NEEDS_MANIFEST)
def test_who_is_killed_while_a_manifest_is_read_is_gone_at_once(
    what: str,
    tmp_path: Path,
    server: ObjectServer,
    mount: Callable[..., Mount],
    gate: threading.Event,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Looking a name up and listing a directory, which wait for a manifest, are given up when killed."""
    prefix = f"{server.url}/b/"
    path = write_virtual(
        tmp_path / "served" / "r", {"a": [Ref(prefix + "good", 0, LENGTH)]}, containers=[prefix]
    )
    mounted = mount(f"{server.url}/r", "--deadline", str(DEADLINE))
    (manifest,) = (path / "manifests").iterdir()
    server.fault(f"r/manifests/{manifest.name}", stall(gate), 99)
    looking = start(mounted.path / "a/c/0", NEEDS_MANIFEST[what])
    wait_until(lambda: server.count(key=f"r/manifests/{manifest.name}") > 0, "it waits")
    assert seconds_until_gone(looking, signal.SIGKILL) < AT_ONCE
    gate.set()


@pytest.mark.parametrize("how", ["read", "direct"])
def test_a_handled_signal_waits_for_the_deadline_at_most(
    how: str,
    tmp_path: Path,
    server: ObjectServer,
    mount: Callable[..., Mount],
    gate: threading.Event,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """A signal that a program handles reaches it when its read has ended, at the deadline."""
    prefix = f"{server.url}/b/"
    path = write_virtual(
        tmp_path / "repository", {"a": [Ref(prefix + "x0", 0, LENGTH)]}, containers=[prefix]
    )
    mounted = mount(path, "--allow", prefix, "--deadline", "2")
    mounted.expect_log("no answer|stall")
    server.fault("b/x0", stall(gate), 99)
    reader = start(mounted.path / "a/c/0", READERS[how])
    began = time.monotonic()
    wait_until(lambda: server.count(key="b/x0") > 0, "the source is asked")
    wait_until(lambda: waits_in_kernel(reader), "the reader waits")
    reader.send_signal(signal.SIGINT)
    reader.wait(timeout=PATIENCE)
    assert 1 < time.monotonic() - began < 6
    gate.set()


def test_other_readers_of_what_a_killed_one_wanted_get_it(
    mounted: Mount,
    server: ObjectServer,
    gate: threading.Event,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Killing one of two readers of a chunk, whoever came first, leaves the other its bytes, for one GET more at most."""
    server.fault("b/x0", stall(gate), 99)
    path = mounted.path / "x0/c/0"
    first = start(path, READERS["direct"])
    wait_until(lambda: server.count(key="b/x0") > 0, "the source is asked")
    second = start(path, f"assert len({READERS['read']}) == 10")
    wait_until(lambda: waits_for_pages(second), "the second reader waits")
    assert seconds_until_gone(first, signal.SIGKILL) < AT_ONCE
    gate.set()
    assert second.wait(timeout=PATIENCE) == 0
    assert server.count("GET", "b/x0") <= 2


def test_readers_that_stall_leave_room_for_others(
    mounted: Mount,
    server: ObjectServer,
    gate: threading.Event,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """More readers of stalled sources than the kernel by default lets wait do not hold up a reader of another."""
    for n in range(STALLED):
        server.fault(f"b/x{n}", stall(gate), 99)
    readers = [start(mounted.path / f"x{n}/c/0", READERS["read"]) for n in range(STALLED)]
    wait_until(lambda: all(map(waits_for_pages, readers)), "all readers wait")
    other = start(mounted.path / "good/c/0", READERS["read"])
    assert other.wait(timeout=PATIENCE) == 0
    gate.set()


def test_a_mount_with_killed_readers_unmounts(
    mounted: Mount,
    server: ObjectServer,
    gate: threading.Event,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """When readers of a stalled source were killed, the mount is not in use, and can be unmounted."""
    server.fault("b/x0", stall(gate), 99)
    readers = [start(mounted.path / "x0/c/0", READERS[how]) for how in ("read", "direct")]
    wait_until(lambda: all(map(waits_in_kernel, readers)), "both readers wait")
    for reader in readers:
        assert seconds_until_gone(reader, signal.SIGKILL) < AT_ONCE

    def unmounts() -> bool:
        words = [sys.executable, "-m", "vzfs", "umount", str(mounted.path)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    wait_until(unmounts, "it unmounts")
    assert errno_of(os.stat, mounted.path / "good") == "ENOENT"
    gate.set()
    wait_until(lambda: mounted._process.poll() == 0, "the daemon leaves")
