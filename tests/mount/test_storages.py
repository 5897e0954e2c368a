"""Where repositories live: a folder, a file: URL, S3, and plain HTTP, which cannot list."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount, MountFailedError
from tests.mount.repositories import add_native, create
from tests.servers import ObjectServer, status
from vzfs import mounttable

VALUES = np.arange(1000, dtype="i4").reshape(10, 100)
S3 = ["--allow-http", "--anonymous", "--region", "us-east-1"]


@pytest.fixture(scope="module", name="folder", params=[1, 2])
def _folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository of either spec with a branch, a tag and two snapshots of `main`."""
    folder = tmp_path_factory.mktemp(f"spec{request.param}")
    repository = create(folder / "bucket" / "repo", spec=request.param)
    for factor in (1, 2):
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        if factor == 2:
            del root["a"]
        add_native(root, "a", VALUES * factor, (3, 50))
        snapshot = session.commit(f"times {factor}")
        if factor == 1:
            repository.create_tag("v 1", snapshot)
            repository.create_branch("dev", snapshot)
    return folder


@pytest.fixture(name="server")
def _server(folder: Path) -> Iterator[ObjectServer]:
    with ObjectServer(folder) as server:
        yield server


@pytest.fixture(name="place", params=["path", "file", "s3", "http"])
def _place(request: pytest.FixtureRequest, folder: Path, server: ObjectServer) -> list[str]:
    """Name the repository as a command line does."""
    return {
        "path": [str(folder / "bucket" / "repo")],
        "file": [f"file://{folder}/bucket/repo/"],
        "s3": ["s3://bucket/repo", "--endpoint", server.url, *S3],
        "http": [f"{server.url}/bucket/repo"],
    }[request.param]


def vzfs(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vzfs", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_repository_is_read_wherever_it_lives(
    place: list[str], mount: Callable[..., Mount]
) -> None:
    """Branches and tags of a repository of either spec are mounted from a folder, S3 and HTTP."""
    source, *options = place
    for ref, factor in (("--branch=main", 2), ("--branch=dev", 1), ("--tag=v 1", 1)):
        mounted = mount(source, *options, ref)

        assert sorted(p.name for p in mounted.path.iterdir()) == ["a", "zarr.json"]
        array = zarr.open_array(mounted.path / "a", mode="r")
        np.testing.assert_array_equal(array[...], VALUES * factor)


def test_refs_are_listed_where_the_storage_can(place: list[str], folder: Path) -> None:
    """`vzfs refs` lists branches and tags; over plain HTTP spec 1 says that it cannot, in one line."""
    found = vzfs("refs", "--json", *place)
    if place[0].startswith("http") and (folder / "bucket" / "repo" / "refs").exists():
        assert found.returncode == 5
        assert "cannot be listed" in found.stderr
        assert len(found.stderr.splitlines()) == 1
        return
    refs = json.loads(found.stdout)
    assert sorted(refs["branches"]) == ["dev", "main"]
    assert sorted(refs["tags"]) == ["v 1"]


def test_a_missing_ref_is_named_with_what_there_is(place: list[str]) -> None:
    """A branch that does not exist ends with one line, exit code 3, and the known names where they can be listed."""
    found = vzfs("info", *place, "--branch", "nope")

    assert found.returncode == 3
    assert "there is no branch 'nope'" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_place_without_a_repository_is_said_so(
    server: ObjectServer, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """An empty folder, an empty prefix and a web server without it are no repositories: exit code 3."""
    for source, *options in (
        [str(tmp_path)],
        [f"{server.url}/bucket/none"],
        ["s3://bucket/none", "--endpoint", server.url, *S3],
    ):
        with pytest.raises(MountFailedError) as caught:
            mount(source, *options)
        assert caught.value.args[0]["exit"] == 3
        assert "no Icechunk repository" in caught.value.args[0]["error"]


def test_a_bucket_that_denies_what_it_lacks_is_read_all_the_same(
    folder: Path, server: ObjectServer, mount: Callable[..., Mount]
) -> None:
    """Where listing is forbidden S3 answers 403 for an absent object; a spec 1 repository still opens."""
    if not (folder / "bucket" / "repo" / "refs").exists():
        pytest.skip("spec 2 repositories have the object that is asked for first")
    for key in ("bucket/repo/repo", "bucket/repo/config.yaml"):
        server.fault(key, status(403), times=10)

    assert (mount("s3://bucket/repo", "--endpoint", server.url, *S3).path / "a/zarr.json").exists()


def test_no_credentials_go_out_unless_they_are_meant_to(
    folder: Path, server: ObjectServer, mount: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --anonymous, and over HTTP, requests carry no authorization, whatever the environment has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    for source, *options in (
        ["s3://bucket/repo", "--endpoint", server.url, *S3],
        [f"{server.url}/bucket/repo"],
    ):
        mounted = mount(source, *options)
        assert (mounted.path / "a/c/0/0").read_bytes()
    assert server.requests
    assert not [r for r in server.requests if "authorization" in r.headers]

    mounted = mount("s3://bucket/repo", "--endpoint", server.url, "--allow-http", "--region", "r")
    assert [r for r in server.requests if "AKIDEXAMPLE" in r.headers.get("authorization", "")]
    assert "hush" not in mounted.log_file.read_text()


def test_a_deleted_tag_is_gone(tmp_path: Path, folder: Path) -> None:
    """A tag that was deleted is neither listed nor mounted, in either spec."""
    spec = 1 if (folder / "bucket" / "repo" / "refs").exists() else 2
    repository = create(tmp_path / "repo", spec=spec)
    snapshot = repository.lookup_branch("main")
    for name in ("kept", "gone"):
        repository.create_tag(name, snapshot)
    repository.delete_tag("gone")

    refs = json.loads(vzfs("refs", "--json", str(tmp_path / "repo")).stdout)
    assert list(refs["tags"]) == ["kept"]
    found = vzfs("info", str(tmp_path / "repo"), "--tag", "gone")
    assert found.returncode == 3
    assert "there is no tag 'gone'" in found.stderr


@pytest.mark.parametrize("name", ["café 東京", "a,allow_other", "back\\slash", "#?%20"])
def test_a_source_may_have_any_name(name: str, tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """A repository in a folder of any name is mounted, and the mount table has one line for it."""
    folder = tmp_path / "sources" / name
    folder.mkdir(parents=True)
    session = create(folder / "repo").writable_session("main")
    add_native(zarr.group(session.store), "a", VALUES, (5, 50))
    session.commit("any name")
    mounted = mount(folder / "repo")

    found = mounttable.topmost(mounted.path)
    assert found is not None
    assert found.fstype == "fuse.vzfs"
    assert mounted.path.stat().st_uid == os.getuid()
    np.testing.assert_array_equal(zarr.open_array(mounted.path / "a", mode="r")[...], VALUES)


def test_a_snapshot_in_place_of_another_is_refused(tmp_path: Path) -> None:
    """A snapshot file that says it is another one is damage, and is not shown for the one asked for."""
    path = tmp_path / "repo"
    repository = create(path)
    session = repository.writable_session("main")
    add_native(zarr.group(session.store), "a", VALUES, (5, 50))
    tip = session.commit("one")
    other = next(s.id for s in repository.ancestry(branch="main") if s.id != tip)
    (path / "snapshots" / tip).write_bytes((path / "snapshots" / other).read_bytes())

    found = vzfs("info", str(path))
    assert found.returncode == 6
    assert f"the snapshot should be {tip} and is {other}" in found.stderr
