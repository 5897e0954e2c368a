"""`vzfs verify` as a person or cron runs it: of a repository, and of what a mount shows."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.conftest import ROOT
from tests.mount.conftest import Mount
from tests.mount.outcomes import wait_until
from tests.mount.repositories import (
    Ref,
    add_native,
    add_virtual,
    create,
    open_for_writing,
    pattern,
    write_virtual,
)
from tests.servers import ObjectServer, stall
from vzfs import mounttable
from vzfs.access import Visibility
from vzfs.cli import running
from vzfs.errors import ErrorKind, MountError

DATA = pattern(3000)
NAMES = ("one", "two", "three")


def vzfs(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "vzfs", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


class Sources:
    """A repository over three files: each has 3 chunks of `/all`, and the first one of `/first`."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.files = {name: self.archive / name for name in NAMES}
        for file in self.files.values():
            file.write_bytes(DATA)
            os.utime(file, (1_600_000_000, 1_600_000_000))
        self.repository = folder / "repository"
        refs = [
            Ref(file.as_uri(), i * 1000, 1000, 1_700_000_000)
            for file in self.files.values()
            for i in range(3)
        ]
        repository = create(self.repository, containers=[f"{self.archive.as_uri()}/"])
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        add_virtual(session, root, "all", refs)
        add_virtual(session, root, "first", refs[:1])
        add_native(root, "native", np.frombuffer(DATA, "u1"), (1000,))
        self.snapshot = session.commit("sources")

    def verify(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return vzfs("verify", self.repository, "--allow", self.archive, *words)

    def found(self, *words: str | Path) -> tuple[int, Any]:
        """Return exit code and report."""
        result = self.verify("--json", *words)
        return result.returncode, json.loads(result.stdout)


@pytest.fixture(name="sources")
def _sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


def s3_options(server: ObjectServer) -> list[str]:
    return ["--endpoint", server.url, "--allow-http", "--anonymous", "--region", "us-east-1"]


# -- of a repository ---------------------------------------------------------------------------


def test_a_snapshot_whose_sources_are_all_there_is_well(sources: Sources) -> None:
    """`vzfs verify` of what is complete says so, counts what it looked at, and ends with 0; --quiet says nothing."""
    result = sources.verify()
    assert result.returncode == 0
    assert result.stderr == ""
    for text in (sources.snapshot, "3 native", "10 virtual", "source objects: 3", "all chunks"):
        assert text in result.stdout
    quiet = sources.verify("--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    code, found = sources.found()
    assert code == 0
    assert found["chunks"] == {"inline": 0, "native": 3, "virtual": 10}
    assert found["objects"] == 3
    assert found["lost"] == found["unreadable"] == []


def test_lost_sources_are_named_with_what_they_cost(sources: Sources) -> None:
    """Vanished, changed and shortened files end with 10, and are named with their reason and the chunks of each array."""
    sources.files["one"].unlink()
    sources.files["two"].write_bytes(DATA)
    with sources.files["three"].open("r+b") as file:
        file.truncate(2999)
    os.utime(sources.files["three"], (1_600_000_000, 1_600_000_000))
    code, found = sources.found()
    assert code == 10
    assert {loss["location"]: (loss["reason"], loss["chunks"]) for loss in found["lost"]} == {
        sources.files["one"].as_uri(): ("source-vanished", {"/all": 3, "/first": 1}),
        sources.files["two"].as_uri(): ("source-changed", {"/all": 3}),
        sources.files["three"].as_uri(): ("source-mismatch", {"/all": 3}),
    }
    arrays = {array["path"]: array["lost"] for array in found["arrays"]}
    assert arrays["/all"] == {"source-changed": 3, "source-mismatch": 3, "source-vanished": 3}
    assert arrays["/first"] == {"source-vanished": 1}
    assert arrays["/native"] == {}
    for words in ([], ["--quiet"]):
        text = sources.verify(*words)
        assert text.returncode == 10
        lines = [" ".join(line.split()) for line in text.stdout.splitlines()]
        assert "10 of 13 chunks cannot be had" in lines
        assert "/first 1 1 1 vanished" in lines
        assert any("/one 4 /all, /first " in li for li in lines)
        assert any(li.startswith("/all 9 9 ") and "3 too short" in li for li in lines)
        assert any(li.startswith(f"{sources.files['two'].as_uri()} 3 /all ") for li in lines)


def test_so_many_lost_objects_are_named_as_asked_for(sources: Sources) -> None:
    """--limit bounds how many lost objects the text names, the dearest first; JSON names all."""
    for file in sources.files.values():
        file.unlink()
    shown = sources.verify("--limit", "1").stdout
    assert sources.files["one"].as_uri() in shown
    assert sources.files["two"].as_uri() not in shown
    assert "and 2 objects more" in shown
    assert "lost object" not in sources.verify("-n", "0").stdout
    assert len(sources.found("--limit", "1")[1]["lost"]) == 3


def test_missing_permission_alone_ends_with_4(tmp_path: Path, server: ObjectServer) -> None:
    """What is not allowed is reported with the --allow that would permit it, and not asked for."""
    server.put("archive/x", DATA)
    refs = [Ref("s3://archive/x", 0, 1000)]
    path = write_virtual(tmp_path / "r", {"a": refs}, containers=["s3://archive/"])
    result = vzfs("verify", path, *s3_options(server))
    assert result.returncode == 4
    assert "1 not allowed" in result.stdout
    assert "--allow s3://archive/" in result.stdout
    assert server.requests == []
    allowed = vzfs("verify", path, "--allow", "s3://archive/", *s3_options(server))
    assert allowed.returncode == 0
    assert [request.method for request in server.requests] == ["HEAD"]


def test_a_server_that_is_not_there_ends_with_5(tmp_path: Path) -> None:
    """Places that cannot be reached are no losses for certain, and end with 5."""
    with ObjectServer() as gone:
        prefix = f"{gone.url}/data/"
    path = write_virtual(tmp_path / "r", {"a": [Ref(f"{prefix}x", 0, 10)]}, containers=[prefix])
    result = vzfs("verify", path, "--allow", prefix, "--deadline", "2", "--json")
    assert result.returncode == 5
    (loss,) = json.loads(result.stdout)["lost"]
    assert loss["reason"] in {"source-unreachable", "source-timeout"}


def test_lost_files_of_the_repository_itself_are_found(sources: Sources) -> None:
    """A missing chunk file and a damaged manifest of the repository are losses; the rest is verified."""
    chunk = next((sources.repository / "chunks").iterdir())
    chunk.unlink()
    code, found = sources.found()
    assert code == 10
    assert [(loss["location"], loss["chunks"]) for loss in found["lost"]] == [
        (f"chunks/{chunk.name}", {"/native": 1})
    ]
    for manifest in (sources.repository / "manifests").iterdir():
        manifest.write_bytes(bytes(100))
    code, found = sources.found()
    assert code == 10
    parts = {part["array"]: part for part in found["unreadable"]}
    assert {path: part["chunks_at_most"] for path, part in parts.items()} == {
        "/all": 9,
        "/first": 1,
        "/native": 3,
    }
    assert parts["/all"]["reason"] == "corrupt-metadata"
    assert "up to 9 chunks" in sources.verify().stdout


def test_an_older_snapshot_is_verified_as_it_was(sources: Sources) -> None:
    """Ref options choose the snapshot: what another one lost is not counted."""
    session = open_for_writing(sources.repository).writable_session("main")
    root = zarr.open_group(session.store, mode="a")
    add_virtual(session, root, "later", [Ref((sources.archive / "never").as_uri(), 0, 10)])
    session.commit("a ref to nothing")
    assert sources.found()[0] == 10
    code, found = sources.found("--snapshot", sources.snapshot)
    assert (code, found["snapshot"]) == (0, sources.snapshot)


def test_an_interrupt_ends_a_verification_at_once(tmp_path: Path, server: ObjectServer) -> None:
    """Ctrl-C ends a verification that waits for a server with exit code 130 and one line."""
    prefix = f"{server.url}/data/"
    gate = threading.Event()
    server.put("data/x", DATA)
    server.fault("data/x", stall(gate), times=100)
    path = write_virtual(tmp_path / "r", {"a": [Ref(f"{prefix}x", 0, 10)]}, containers=[prefix])
    process = subprocess.Popen(
        [sys.executable, "-m", "vzfs", "verify", str(path), "--allow", prefix],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: server.count() > 0, "the server is asked")
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
    finally:
        gate.set()
        process.kill()
        process.wait()
    assert (process.returncode, said, errors.strip()) == (130, "", "vzfs: interrupted")


# -- of a mount --------------------------------------------------------------------------------


def test_a_mount_is_verified_with_its_snapshot_and_its_options(
    sources: Sources, mount: Callable[..., Mount]
) -> None:
    """Of a MOUNTPOINT, the snapshot that it shows is verified, with the --allow and --map that it was mounted with."""
    moved = sources.archive.rename(sources.archive.with_name("moved"))
    relocation = f"{sources.archive}={moved}"
    mounted = mount(sources.repository, "--map", relocation, "--allow", str(moved))
    session = open_for_writing(sources.repository).writable_session("main")
    root = zarr.open_group(session.store, mode="a")
    add_virtual(session, root, "later", [Ref((sources.archive / "never").as_uri(), 0, 10)])
    session.commit("a ref to nothing, after the mount was made")
    well = vzfs("verify", mounted.path, "--json")
    assert well.returncode == 0, well
    assert json.loads(well.stdout)["snapshot"] == sources.snapshot
    (moved / "two").unlink()
    lost = vzfs("verify", mounted.path, "--json")
    assert lost.returncode == 10
    (loss,) = json.loads(lost.stdout)["lost"]
    assert loss["location"] == sources.files["two"].as_uri()
    assert loss["place"] == (moved / "two").as_uri()


def test_a_command_may_allow_more_than_a_mount(
    sources: Sources, mount: Callable[..., Mount]
) -> None:
    """Options given to `vzfs verify` add to those of the mount; another snapshot than its own is refused."""
    mounted = mount(sources.repository)
    assert vzfs("verify", mounted.path).returncode == 4
    assert vzfs("verify", mounted.path, "--allow", sources.archive).returncode == 0
    refused = vzfs("verify", mounted.path, "--branch", "main")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert str(sources.repository) in refused.stderr


def test_a_mount_made_with_relative_paths_is_verified_from_anywhere(
    sources: Sources, tmp_path: Path
) -> None:
    """Relative paths of `vzfs mount` mean the folder it was called in, wherever `vzfs verify` is called."""
    if os.geteuid() != 0:
        pytest.skip("only root is told where a mount in the foreground runs")
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    (tmp_path / "config.toml").write_text("deadline = 7\n")
    words = ["repository", "mnt", "--allow", "archive", "--config", "config.toml", "--no-cache"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vzfs", "mount", *words, "--foreground"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_until(lambda: (mountpoint / "zarr.json").exists(), "the mount answers")
        found = running.find(mountpoint)
        assert found.pid == process.pid
        assert found.repository == f"{sources.repository.as_uri()}/"
        assert found.snapshot == sources.snapshot
        assert found.given["allow"] == (str(sources.archive),)
        assert found.given["config"] == str(tmp_path / "config.toml")
        result = vzfs("verify", mountpoint, cwd=Path("/"))
        assert result.returncode == 0, result
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
            if mounttable.topmost(mountpoint) is not None:
                subprocess.run(["fusermount3", "-uz", str(mountpoint)], check=True)


def test_relative_options_of_an_unknown_folder_are_not_guessed(
    sources: Sources, mount: Callable[..., Mount]
) -> None:
    """Where the folder that relative options were meant in is not known, nothing is verified by a guess."""
    mounted = mount(sources.repository, "--map", "here=there")
    refused = vzfs("verify", mounted.path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"--snapshot {sources.snapshot}" in refused.stderr


@pytest.mark.parametrize(
    ("options", "visibility"),
    [([], Visibility.PRIVATE), (["--allow-other"], Visibility.PUBLIC)],
)
def test_a_mount_that_is_open_to_all_is_verified_as_such(
    sources: Sources, mount: Callable[..., Mount], options: list[str], visibility: Visibility
) -> None:
    """What a private policy allows is no permission in a mount for all users, and its loss is none of the mount's."""
    mounted = mount(sources.repository, "--allow", str(sources.archive), *options)
    assert running.find(mounted.path).visibility is visibility
    result = vzfs("verify", mounted.path)
    assert result.returncode == (0 if visibility is Visibility.PRIVATE else 4)


def test_the_options_of_another_users_mount_are_not_believed(
    sources: Sources, mount: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line of a stranger's daemon names no endpoints for us: what the mount shows is to be named instead."""
    mounted = mount(sources.repository)
    assert running.find(mounted.path).pid == mounted.pid
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(MountError) as refused:
        running.find(mounted.path)
    assert refused.value.kind is ErrorKind.NOT_MOUNTED
    assert f"--snapshot {sources.snapshot}" in refused.value.advice


def test_a_mount_whose_daemon_died_cannot_be_verified(
    sources: Sources, mount: Callable[..., Mount]
) -> None:
    """A dead mount, and a folder without a mount or a repository, are said to be so in one line."""
    mounted = mount(sources.repository)
    mounted.kill()
    dead = vzfs("verify", mounted.path)
    assert (dead.returncode, dead.stdout) == (7, "")
    assert "daemon has died" in dead.stderr
    assert dead.stderr.count("\n") == 1
    nothing = vzfs("verify", sources.archive)
    assert nothing.returncode == 3
    with pytest.raises(MountError) as refused:
        running.find(sources.archive)
    assert refused.value.kind is ErrorKind.NOT_MOUNTED
