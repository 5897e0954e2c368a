"""A configuration that is read again counts at once, for bytes that somebody holds already too."""

import mmap
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import READY_WITHIN, Mount
from tests.mount.outcomes import errno_name, read, wait_until
from tests.mount.repositories import Ref, create, pattern, write_virtual
from tests.servers import ObjectServer, stall
from vzfs import mounttable

LENGTH = 10_000
DATA = pattern(LENGTH)
REFUSED = "reading here is not allowed"


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        for name in ("x", "y"):
            server.put(f"{name}/data", DATA)
        yield server


@pytest.fixture(name="repository")
def _repository(tmp_path: Path, server: ObjectServer) -> Path:
    """Write a repository with two chunks of the array `x` below one prefix, and `y` below another."""
    refs = {
        name: [Ref(f"{server.url}/{name}/data", 0, LENGTH), Ref(f"{server.url}/{name}/data", 0, 9)]
        for name in ("x", "y")
    }
    containers = [f"{server.url}/{name}/" for name in refs]
    return write_virtual(tmp_path / "repository", refs, containers=containers)


@pytest.fixture(name="allow")
def _allow(tmp_path: Path, server: ObjectServer) -> Callable[..., Path]:
    """Give a function that writes a configuration which allows what it is told, and nothing else."""

    def write(*names: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(
            "".join(
                f'[[bucket]]\nnickname = "{name}"\nprefix = "{server.url}/{name}/"\n'
                f'[[policy]]\nbucket = "{name}"\n'
                for name in names
            )
        )
        return path

    return write


def reload(mounted: Mount) -> str:
    """Have a daemon read its configuration again; return what it says of it."""
    said = len(reports(mounted))
    os.kill(mounted.pid, signal.SIGHUP)
    wait_until(lambda: len(reports(mounted)) > said, "the configuration is read again")
    return reports(mounted)[-1]


def reports(mounted: Mount) -> list[str]:
    return [line for line in mounted.log() if " vzfs.mount: the configuration " in line]


def test_a_withdrawn_policy_closes_at_once(
    repository: Path,
    allow: Callable[..., Path],
    server: ObjectServer,
    tmp_path: Path,
    mount: Callable[..., Mount],
) -> None:
    """After SIGHUP what no policy allows any more is EACCES, though caches, kernel and open files have its bytes."""
    config = allow("x", "y")
    mounted = mount(repository, "--config", str(config), cache=tmp_path / "cache")
    mounted.expect_log(REFUSED)
    path = mounted.path / "x/c/0"
    assert read(path) == DATA
    with path.open("rb") as file, mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ):
        assert os.pread(file.fileno(), 10, 0) == DATA[:10]
        assert read(mounted.path / "y/c/0") == DATA
        server.forget_requests()
        allow("y")
        said = reload(mounted)
        assert f"closed {server.url}/x/" in said
        assert said.endswith("drop: 1")
        with pytest.raises(PermissionError):
            os.pread(file.fileno(), 10, 0)
        assert read(path) == "EACCES"
        assert read(path, 9000, 10) == "EACCES"
        assert read(mounted.path / "y/c/0") == DATA
    assert server.requests == []


def test_mapped_pages_of_a_withdrawn_policy_are_gone(
    repository: Path, allow: Callable[..., Path], mount: Callable[..., Mount]
) -> None:
    """A process that has a file mapped gets SIGBUS instead of bytes that it may not read any more."""
    mounted = mount(repository, "--config", str(allow("x")))
    mounted.expect_log(REFUSED)
    code = (
        "import mmap, os, sys\n"
        "m = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n"
        "print(m[0], flush=True)\nsys.stdin.readline()\nprint(m[0], flush=True)"
    )
    words = [sys.executable, "-c", code, str(mounted.path / "x/c/0")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **pipes) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert int(reader.stdout.readline()) == DATA[0]
        allow()
        reload(mounted)
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        assert reader.stdout.read() == b""
        assert reader.wait() == -signal.SIGBUS


def test_a_read_under_way_when_its_policy_goes_gets_nothing(
    repository: Path,
    allow: Callable[..., Path],
    server: ObjectServer,
    mount: Callable[..., Mount],
) -> None:
    """A read that waits for its source when the policy is withdrawn fails with EACCES at once."""
    mounted = mount(repository, "--config", str(allow("x")), "--deadline", "60")
    mounted.expect_log(REFUSED)
    gate = threading.Event()
    server.fault("x/data", stall(gate), 9)
    code = "import os, sys\ntry:\n    open(sys.argv[1], 'rb').read()\nexcept OSError as e:\n    print(e.errno)"
    words = [sys.executable, "-c", code, str(mounted.path / "x/c/0")]
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE) as reader:
            wait_until(lambda: server.count(key="x/data") > 0, "the read is under way")
            allow()
            reload(mounted)
            assert reader.stdout is not None
            assert errno_name(OSError(int(reader.stdout.read()), "")) == "EACCES"
    finally:
        gate.set()


def test_a_new_policy_opens_at_once(
    repository: Path, allow: Callable[..., Path], mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """After SIGHUP what a new policy allows is readable, and what flags allow still is."""
    mounted = mount(repository, "--config", str(allow()), "--allow", f"{server.url}/y/")
    mounted.expect_log(REFUSED)
    assert read(mounted.path / "x/c/0") == "EACCES"
    allow("x")
    said = reload(mounted)
    assert f"opened {server.url}/x/" in said
    assert "closed" not in said
    assert read(mounted.path / "x/c/0") == DATA
    assert read(mounted.path / "y/c/0") == DATA
    assert "the same prefixes" in reload(mounted)


def test_a_configuration_that_cannot_be_read_changes_nothing(
    repository: Path, allow: Callable[..., Path], mount: Callable[..., Mount]
) -> None:
    """A damaged or missing file is one line in the log, and the policies stay; mended, it is read."""
    config = allow("x")
    mounted = mount(repository, "--config", str(config))
    mounted.expect_log("ERROR vzfs.mount: the configuration stays as it was: .*config.toml")
    config.write_text("[[policy]\n")
    assert "stays" in reload(mounted)
    config.unlink()
    assert "stays" in reload(mounted)
    assert len(mounted.warnings()) == 2
    assert read(mounted.path / "x/c/0") == DATA
    allow("x")
    assert "the same prefixes" in reload(mounted)


def test_relative_paths_mean_the_same_when_they_are_read_again(
    tmp_path: Path, mount: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source, file, prefixes and relocations that were said from a folder are found there by the daemon too."""
    monkeypatch.chdir(tmp_path)
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data").write_bytes(DATA)
    (tmp_path / "config.toml").write_text("")
    old = f"file://{tmp_path}/old/"
    write_virtual(tmp_path / "repository", {"x": [Ref(f"{old}data", 0, 9)]}, containers=[old])
    words = ["--config", "config.toml", "--allow", "new", "--map", f"{old}=new"]
    mounted = mount("repository", *words)
    assert "the same prefixes" in reload(mounted)
    assert read(mounted.path / "x/c/0") == DATA[:9]


def test_a_service_manager_hears_of_a_reload(
    tmp_path: Path, mount: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELOADING=1 comes with the time of the monotonic clock, and READY=1 when it is done."""
    create(tmp_path / "repository")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(READY_WITHIN)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        mounted = mount(tmp_path / "repository")
        assert manager.recv(4096).startswith(b"READY=1\n")
        reload(mounted)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(4096))
        assert manager.recv(4096) == b"READY=1"
        mounted.end()


def test_a_mount_in_a_terminal_ends_with_it(tmp_path: Path) -> None:
    """SIGHUP ends a mount that runs in the foreground of a terminal, and no other."""
    create(tmp_path / "repository")
    where = tmp_path / "mnt"
    where.mkdir()
    words = [sys.executable, "-m", "vzfs", "mount", "-f", "--no-cache"]
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [*words, str(tmp_path / "repository"), str(where)],
            stdin=theirs,
            stderr=subprocess.PIPE,
        ) as daemon:
            try:
                wait_until(lambda: mounttable.topmost(where) is not None, "it is mounted")
                assert daemon.stderr is not None
                while b" is mounted at " not in daemon.stderr.readline():
                    assert daemon.poll() is None
                daemon.send_signal(signal.SIGHUP)
                assert daemon.wait(timeout=20) == 0
            finally:
                if daemon.poll() is None:
                    daemon.kill()
                if mounttable.topmost(where) is not None:
                    subprocess.run(["fusermount3", "-uz", str(where)], check=False)
    finally:
        os.close(ours)
        os.close(theirs)
