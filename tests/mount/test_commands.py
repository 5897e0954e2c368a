"""The commands as a person types them: what they print, how they end, and what they leave behind."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.outcomes import read, wait_until
from tests.mount.repositories import (
    Ref,
    add_native,
    add_virtual,
    create,
    open_for_writing,
    pattern,
)
from tests.servers import ObjectServer, stall
from vzfs import mounttable

DATA = pattern(3000)


def vzfs(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "vzfs", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def fails(result: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """Check that a command failed with *code* and one line that says all of *said*."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("vzfs: ")
    for text in said:
        assert text in result.stderr


class Home:
    """A repository, a directory to mount it on, and a home directory for what commands write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.mountpoint = folder / "mnt"
        self.mountpoint.mkdir()
        (folder / "archive").mkdir()
        self.source = folder / "archive/source"
        self.source.write_bytes(DATA)
        self.archive = f"{self.source.parent.as_uri()}/"
        repository = create(self.repository, containers=[self.archive], inline=16)
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        add_native(root, "native", np.frombuffer(DATA, "u1"), (1000,))
        add_native(root, "group/inline", np.arange(1, 11, dtype="u1"), (5,))
        session.commit("first, with native chunks")
        session = repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        add_virtual(session, root, "virtual", [Ref(self.source.as_uri(), 0, 1000)])
        self.snapshot = session.commit("second, with virtual chunks")
        repository.create_tag("v1", snapshot_id=self.snapshot)
        repository.create_branch("feature [red]x[/]", snapshot_id=self.snapshot)

    def mount(
        self, *options: str | Path, source: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return vzfs(
            *("mount", source or self.repository, self.mountpoint, "--no-cache", *options),
            HOME=str(self.folder),
            XDG_STATE_HOME=str(self.folder / "state"),
        )

    def daemons(self) -> list[int]:
        """Return the processes that were started for this mountpoint."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(self.mountpoint) in words and b"--announce-fd" in words:
                found.append(int(folder.name))
        return found

    def is_mounted(self) -> bool:
        return mounttable.topmost(self.mountpoint) is not None


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    try:
        yield home
    finally:
        while home.is_mounted():
            subprocess.run(["fusermount3", "-uz", str(home.mountpoint)], check=True)
        wait_until(lambda: home.daemons() == [], "no daemon is left behind")


# -- mount and umount --------------------------------------------------------------------------


def test_mount_returns_when_the_mount_answers_and_umount_ends_it(home: Home) -> None:
    """`vzfs mount` says in one line what is mounted where and leaves a daemon; `vzfs umount` ends mount and daemon."""
    result = home.mount()
    assert result.returncode == 0, result
    assert read(home.mountpoint / "native/c/0") == DATA[:1000]
    first = result.stdout.splitlines()[0]
    assert all(text in first for text in (str(home.mountpoint), home.snapshot, "main"))
    assert "Traceback" not in result.stderr
    assert len(home.daemons()) == 1
    ended = vzfs("umount", home.mountpoint)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not home.is_mounted()
    assert list(home.mountpoint.iterdir()) == []
    wait_until(lambda: home.daemons() == [], "the daemon ends")


def test_the_daemon_holds_on_to_nothing_of_its_caller(home: Home) -> None:
    """The daemon has a session of its own, works in /, and keeps neither the terminal nor the pipe of its caller."""
    assert home.mount().returncode == 0
    (daemon,) = home.daemons()
    assert os.getsid(daemon) != os.getsid(0)
    assert Path(f"/proc/{daemon}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{daemon}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{daemon}/fd/1").readlink() == Path("/dev/null")


def test_relative_paths_and_links_are_understood(home: Home) -> None:
    """Source and mountpoint may be relative paths, and the mountpoint may be reached through a link."""
    (home.folder / "link").symlink_to(home.folder)
    words = [sys.executable, "-m", "vzfs"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HOME": str(home.folder),
        "XDG_STATE_HOME": str(home.folder / "state"),
    }
    for arguments in (["mount", "--no-cache", "repository", "link/mnt"], ["umount", "link/mnt"]):
        subprocess.run(
            [*words, *arguments], cwd=home.folder, env=environment, check=True, capture_output=True
        )
        assert home.is_mounted() == (arguments[0] == "mount")


def test_a_busy_mount_is_not_taken_away_unless_lazily(home: Home) -> None:
    """`vzfs umount` of a mount in use ends with exit code 8 and advice; --lazy detaches it, and open files go on."""
    assert home.mount().returncode == 0
    descriptor = os.open(home.mountpoint / "native/c/1", os.O_RDONLY)
    try:
        fails(vzfs("umount", home.mountpoint), 8, str(home.mountpoint), "--lazy")
        assert home.is_mounted()
        assert vzfs("umount", "--lazy", home.mountpoint).returncode == 0
        assert not home.is_mounted()
        assert os.pread(descriptor, 1000, 0) == DATA[1000:2000]
    finally:
        os.close(descriptor)
    wait_until(lambda: home.daemons() == [], "the daemon ends with its last file")


def test_umount_of_what_is_not_a_mount_of_vzfs_is_refused(home: Home) -> None:
    """`vzfs umount` of a plain directory, another file system or nothing ends with exit code 7."""
    fails(vzfs("umount", home.mountpoint), 7, str(home.mountpoint))
    fails(vzfs("umount", "/proc"), 7, "/proc")
    fails(vzfs("umount", home.folder / "nothing"), 7)
    assert Path("/proc/self").exists()


def test_a_mountpoint_that_will_not_do_is_refused(home: Home) -> None:
    """A mountpoint that is missing, a file, not empty or mounted already ends with exit code 7 and says what to do."""
    mountpoint = home.mountpoint
    (mountpoint / "file").write_bytes(b"")
    fails(home.mount(), 7, str(mountpoint), "empty")
    (mountpoint / "file").unlink()
    mountpoint.rmdir()
    fails(home.mount(), 7, str(mountpoint), "mkdir")
    mountpoint.write_bytes(b"")
    fails(home.mount(), 7, str(mountpoint), "directory")
    mountpoint.unlink()
    mountpoint.mkdir()
    assert home.daemons() == []
    assert home.mount().returncode == 0
    fails(home.mount(), 7, str(mountpoint), "umount")
    assert len(home.daemons()) == 1
    assert read(mountpoint / "native/c/0") == DATA[:1000]


def test_a_mount_that_never_comes_to_be_leaves_nothing_behind(home: Home) -> None:
    """A repository that cannot be opened ends `vzfs mount` with one line, its exit code, no mount and no daemon."""
    (home.folder / "empty").mkdir()
    fails(home.mount(source=home.folder / "empty"), 3, str(home.folder / "empty"))
    fails(home.mount(source=home.folder / "nothing"), 3, str(home.folder / "nothing"))
    fails(home.mount("--branch", "nope"), 3, "nope")
    assert not home.is_mounted()
    tip = home.repository / "snapshots" / home.snapshot
    tip.write_bytes(tip.read_bytes()[:50])
    fails(home.mount(), 6, home.snapshot)
    assert not home.is_mounted()
    wait_until(lambda: home.daemons() == [], "no daemon is left")


def test_a_server_that_is_not_there_ends_mount_in_bounded_time(home: Home) -> None:
    """A repository on a dead server ends `vzfs mount` with exit code 5 within the deadline."""
    url = "http://127.0.0.1:1/repository/"
    result = vzfs("mount", url, home.mountpoint, "--no-cache", "--deadline", "2")
    fails(result, 5, "127.0.0.1:1")
    assert not home.is_mounted()


def test_a_server_that_does_not_answer_ends_mount_in_bounded_time(home: Home) -> None:
    """A repository on a stalled server ends `vzfs mount` with exit code 5 about when the deadline says."""
    with ObjectServer() as server:
        gate = threading.Event()
        for key in ("repo", "refs/branch.main/ref.json", "config.yaml"):
            server.fault(f"b/{key}", stall(gate), 99)
        began = time.monotonic()
        words = ["mount", f"{server.url}/b/", home.mountpoint, "--no-cache", "--deadline", "1.5"]
        fails(vzfs(*words), 5, server.url)
        assert time.monotonic() - began < 8
    assert not home.is_mounted()


def test_an_interrupt_while_mounting_leaves_nothing_behind(home: Home) -> None:
    """Ctrl-C while the repository is being opened ends the command and its daemon, with nothing mounted."""
    with ObjectServer() as server:
        server.fault("b/repo", stall(threading.Event()), 99)
        words = ["mount", f"{server.url}/b/", str(home.mountpoint), "--no-cache"]
        with subprocess.Popen(
            [sys.executable, "-m", "vzfs", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(home.folder / "state")},
        ) as process:
            wait_until(lambda: server.count() > 0, "the repository is asked for")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=20)
        assert process.returncode != 0
        assert output == ""
        assert "Traceback" not in errors
        wait_until(lambda: home.daemons() == [], "the daemon ends")
    assert not home.is_mounted()


@pytest.mark.parametrize(
    "words",
    [
        ["--tag", "v1", "--branch", "main"],
        ["--tag", "v1", "--as-of", "2026-01-01"],
        ["--as-of", "yesterday"],
        ["--allow", "name=/archive"],
        ["--allow", "s3://"],
        ["--map", "s3://only-from"],
        ["--memory", "lots"],
        ["--deadline", "-1"],
        ["--umask", "9"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(words: list[str], tmp_path: Path) -> None:
    """Options that contradict each other or make no sense end with exit code 2 before anything is mounted."""
    result = vzfs("mount", tmp_path / "repository", tmp_path, *words)
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    assert mounttable.topmost(tmp_path) is None


def test_owner_group_and_umask_are_shown_as_asked(home: Home) -> None:
    """--uid, --gid and --umask say whose files are shown, and with which permissions."""
    assert home.mount("--uid", "1234", "--gid", "4321", "--umask", "027").returncode == 0
    for name in ("", "native", "native/c", "zarr.json", "native/c/0", "group/inline/c/1"):
        about = (home.mountpoint / name).stat()
        assert (about.st_uid, about.st_gid) == (1234, 4321)
        expected = 0o550 if stat.S_ISDIR(about.st_mode) else 0o440
        assert stat.S_IMODE(about.st_mode) == expected


def test_the_log_file_has_what_happened(home: Home) -> None:
    """--log-file gets one dated line for the mount and one for each trouble, readable by the owner only."""
    log = home.folder / "logs/vzfs.log"
    assert home.mount("--log-file", log).returncode == 0
    assert read(home.mountpoint / "virtual/c/0") == "EACCES"
    assert read(home.mountpoint / "virtual/c/0") == "EACCES"
    assert vzfs("umount", home.mountpoint).returncode == 0
    wait_until(lambda: "unmounted" in log.read_text(), "the end is logged")
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ vzfs", li) for li in lines)
    assert sum("WARNING" in line for line in lines) == 1
    assert any(f"--allow {home.archive}" in line for line in lines)
    assert stat.S_IMODE(log.stat().st_mode) & 0o077 == 0


def test_without_a_log_file_the_log_is_below_the_state_directory(home: Home) -> None:
    """A mount in the background logs to a file of its own below XDG_STATE_HOME."""
    assert home.mount().returncode == 0
    (log,) = (home.folder / "state/vzfs").iterdir()
    assert str(home.mountpoint) in log.read_text()


def test_a_log_file_that_cannot_be_written_is_refused(home: Home) -> None:
    """A log file below a file ends `vzfs mount` with exit code 2 and the name of the file."""
    (home.folder / "file").write_bytes(b"")
    fails(home.mount("--log-file", home.folder / "file/log"), 2, str(home.folder / "file/log"))
    assert not home.is_mounted()


def test_a_configuration_file_says_what_flags_say(home: Home) -> None:
    """What a file allows and maps is allowed and mapped; a misspelt key is refused with exit code 2."""
    config = home.folder / "config.toml"
    config.write_text(
        f'[[bucket]]\nnickname = "a"\nprefix = "{home.archive}"\n[[policy]]\nbucket = "a"\n'
    )
    assert home.mount("--config", config).returncode == 0
    assert read(home.mountpoint / "virtual/c/0") == DATA[:1000]
    assert vzfs("umount", home.mountpoint).returncode == 0
    config.write_text('[[alow]]\nprefix = "s3://b/"\n')
    fails(home.mount("--config", config), 2, str(config), "alow")


def test_a_foreground_mount_logs_to_the_terminal_and_ends_with_sigint(home: Home) -> None:
    """--foreground stays, logs to standard error, and Ctrl-C unmounts and ends it with exit code 0."""
    words = ["mount", str(home.repository), str(home.mountpoint), "--no-cache", "--foreground"]
    with subprocess.Popen(
        [sys.executable, "-m", "vzfs", *words], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert any(f"mounted at {home.mountpoint}" in line for line in process.stderr)
            assert read(home.mountpoint / "native/c/0") == DATA[:1000]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert not home.is_mounted()


# -- info, refs, log ---------------------------------------------------------------------------


@pytest.fixture(scope="module", name="shown")
def _shown(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("shown"))


def test_info_shows_arrays_chunks_and_what_may_be_read(shown: Home) -> None:
    """`vzfs info` names every array with its chunks by kind, and says which prefix must be allowed."""
    result = vzfs("info", shown.repository)
    assert result.returncode == 0
    assert result.stderr == ""
    for text in (shown.snapshot, "main", "native", "3 native", "2 inline", "1 virtual"):
        assert text in result.stdout
    assert f"--allow {shown.archive}" in result.stdout
    allowed = vzfs("info", shown.repository, "--allow", shown.source.parent)
    assert "--allow" not in allowed.stdout


def test_info_as_json_is_for_machines(shown: Home) -> None:
    """`vzfs info --json` has snapshot, nodes with shapes and counts, containers, and what is readable."""
    found = json.loads(vzfs("info", "--json", shown.repository).stdout)
    assert found["snapshot"] == shown.snapshot
    assert found["message"] == "second, with virtual chunks"
    nodes = {node["path"]: node for node in found["nodes"]}
    assert list(nodes) == ["/", "/group", "/group/inline", "/native", "/virtual"]
    assert nodes["/group"]["type"] == "group"
    assert nodes["/native"]["shape"] == [3000]
    assert nodes["/native"]["dtype"] == "uint8"
    assert nodes["/native"]["chunks"] == {"inline": 0, "native": 3, "virtual": 0}
    assert nodes["/group/inline"]["chunks"]["inline"] == 2
    assert nodes["/virtual"]["missing"] == 0
    (source,) = found["sources"]
    assert (source["prefix"], source["objects"], source["chunks"]) == (shown.archive, 1, 1)
    assert source["readable"] == 0
    (container,) = found["containers"]
    assert (container["url_prefix"], container["allowed"]) == (shown.archive, "no")
    words = ["info", "--json", shown.repository, "--allow", shown.source.parent]
    allowed = json.loads(vzfs(*words).stdout)
    assert allowed["sources"][0]["readable"] == 1
    assert allowed["containers"][0]["allowed"] == "yes"


def test_info_of_a_damaged_array_says_so_and_shows_the_others(tmp_path: Path) -> None:
    """An array whose manifest is damaged is marked, with the whole reason; the others are counted as ever."""
    path = tmp_path / "repository"
    repository = create(path)
    for name in ("good", "bad"):
        before = set((path / "manifests").iterdir()) if (path / "manifests").exists() else set()
        session = repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        add_native(root, name, np.arange(1, 11, dtype="u1"), (5,))
        session.commit(name)
        (manifest,) = set((path / "manifests").iterdir()) - before
    manifest.write_bytes(bytes(100))
    result = vzfs("info", path)
    (line,) = [li for li in result.stdout.splitlines() if "bad" in li and "NOT READABLE" in li]
    assert manifest.name in line
    assert "2 native" in result.stdout
    found = {n["path"]: n for n in json.loads(vzfs("info", "--json", path).stdout)["nodes"]}
    assert manifest.name in found["/bad"]["problem"]
    assert found["/good"]["chunks"]["native"] == 2


def test_refs_shows_branches_and_tags(shown: Home) -> None:
    """`vzfs refs` lists branches and tags with their snapshots, odd names as they are."""
    result = vzfs("refs", shown.repository)
    assert result.returncode == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert ["branch", "main", shown.snapshot] in rows
    assert ["tag", "v1", shown.snapshot] in rows
    assert ["branch", "feature [red]x[/]", shown.snapshot] in rows
    found = json.loads(vzfs("refs", "--json", shown.repository).stdout)
    assert found == {
        "branches": {"main": shown.snapshot, "feature [red]x[/]": shown.snapshot},
        "tags": {"v1": shown.snapshot},
    }


def test_log_shows_the_history_newest_first(shown: Home) -> None:
    """`vzfs log` lists the snapshots that led to a ref, newest first, as many as asked for."""
    ancestry = list(open_for_writing(shown.repository).ancestry(branch="main"))
    found = json.loads(vzfs("log", "--json", shown.repository).stdout)
    assert [entry["id"] for entry in found] == [snapshot.id for snapshot in ancestry]
    assert [entry["message"] for entry in found] == [snapshot.message for snapshot in ancestry]
    for entry, snapshot in zip(found, ancestry, strict=True):
        assert entry["written_at"].startswith(snapshot.written_at.strftime("%Y-%m-%dT%H:%M:%S"))
    result = vzfs("log", shown.repository, "-n", "1", "--tag", "v1")
    lines = [line for line in result.stdout.splitlines() if shown.snapshot in line]
    assert len(lines) == 1
    assert "second, with virtual chunks" in lines[0]
    assert ancestry[1].id not in result.stdout


def test_commands_on_nothing_fail_alike(tmp_path: Path) -> None:
    """`info`, `refs` and `log` of a folder without a repository end with exit code 3 and one line."""
    for command in ("info", "refs", "log"):
        fails(vzfs(command, tmp_path), 3, str(tmp_path))
