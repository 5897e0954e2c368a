"""Other snapshots by path, and a root that follows its branch."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import zarr

from tests.mount.archive import Archive
from tests.mount.conftest import Mount
from tests.mount.outcomes import errno_of, wait_until, xattrs
from tests.mount.repositories import Ref, add_virtual, create, open_for_writing, pattern
from tests.servers import ObjectServer


class History(NamedTuple):
    """A repository whose array `a` is 0, then 1, then 2 everywhere; *snapshots* oldest first."""

    path: Path
    snapshots: list[str]


def commit(path: Path, value: int, *more: str, branch: str = "main") -> str:
    """Set `a` to *value*, and make the arrays *more*."""
    session = open_for_writing(path).writable_session(branch)
    root = zarr.open_group(session.store, mode="a")
    if "a" not in root:
        root.create_array("a", shape=(8,), chunks=(2,), dtype="i4", compressors=None, fill_value=-1)
    root["a"][...] = value
    for name in more:
        root.create_array(name, shape=(1,), chunks=(1,), dtype="i4", compressors=None)
    root.attrs["value"] = value
    return str(session.commit(f"a is {value}"))


@pytest.fixture(name="history", params=[1, 2])
def _history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    path = tmp_path / "repository"
    create(path, spec=request.param)
    snapshots = [commit(path, value) for value in range(3)]
    repository = open_for_writing(path)
    repository.create_tag("first", snapshot_id=snapshots[0])
    repository.create_branch("side", snapshot_id=snapshots[1])
    return History(path, snapshots)


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


def names(folder: Path) -> list[str]:
    """Return the names in a directory, sorted."""
    return sorted(path.name for path in folder.iterdir())


def values(path: Path) -> set[int]:
    """Return the values of `a` below *path*, read by zarr."""
    return set(np.unique(np.asarray(zarr.open_array(path / "a", mode="r"))).tolist())


def test_every_ref_is_a_directory(history: History, mount: Callable[..., Mount]) -> None:
    """Branches, tags, snapshots and times below `.vzfs` are whole hierarchies of that moment."""
    root = mount(history.path).path
    assert values(root) == {2}
    assert values(root / ".vzfs/branch/main") == {2}
    assert values(root / ".vzfs/branch/side") == {1}
    assert values(root / ".vzfs/tag/first") == {0}
    for value, snapshot in enumerate(history.snapshots):
        assert values(root / f".vzfs/snapshot/{snapshot}") == {value}
    assert xattrs(root / ".vzfs/tag/first/a/c/0")["tag"] == "first"
    assert xattrs(root / ".vzfs/tag/first")["snapshot"] == history.snapshots[0]
    written = {i.id: i.written_at for i in open_for_writing(history.path).ancestry(branch="main")}
    for value, snapshot in enumerate(history.snapshots):
        moment = written[snapshot].isoformat().replace("+00:00", "Z")
        assert values(root / f".vzfs/at/{moment}") == {value}
        assert (root / f".vzfs/snapshot/{snapshot}").stat().st_mtime == pytest.approx(
            written[snapshot].timestamp(), abs=1e-3
        )


def test_refs_are_listed(history: History, mount: Callable[..., Mount]) -> None:
    """The control directory is not listed, and lists what it has: views, branches, tags, snapshots and times."""
    root = mount(history.path).path
    assert names(root) == ["a", "zarr.json"]
    control = root / ".vzfs"
    assert names(control) == ["at", "branch", "snapshot", "tag", "view"]
    assert names(control / "branch") == ["main", "side"]
    assert "first" in names(control / "tag")
    assert set(history.snapshots) <= set(names(control / "snapshot"))
    times = names(control / "at")
    assert {value for t in times for value in values_if_any(control / "at" / t)} == {0, 1, 2}
    found = subprocess.run(["find", control, "-maxdepth", "2"], capture_output=True, check=True)
    assert f"{control}/tag/first" in found.stdout.decode().splitlines()


def test_looking_at_all_snapshots_opens_none(history: History, mount: Callable[..., Mount]) -> None:
    """`ls -l` of all snapshots has their times without opening one, whatever the attributes that it asks for."""
    mounted = mount(history.path)
    folder = mounted.path / ".vzfs/snapshot"
    done = subprocess.run(
        ["ls", "-l", "--time-style=+%s", folder], capture_output=True, text=True, check=True
    )
    found = {line.split()[-1]: int(line.split()[-2]) for line in done.stdout.splitlines()[1:]}
    ancestry = open_for_writing(history.path).ancestry(branch="main")
    assert found == {i.id: int(i.written_at.timestamp()) for i in ancestry}
    assert done.stderr == ""
    mounted.end()
    assert "filesystem.opened=1 " in mounted.log()[-1]


def values_if_any(path: Path) -> set[int]:
    return values(path) if (path / "a").exists() else set()


def test_a_ref_name_is_one_component(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """A slash in the name of a ref is %2F in its path, a percent sign %25, and a space is a space."""
    path = tmp_path / "repository"
    create(path, spec=2)
    snapshot = commit(path, 7)
    name = "a b/c%2Fd"
    open_for_writing(path).create_tag(name, snapshot_id=snapshot)
    root = mount(path).path
    assert names(root / ".vzfs/tag") == ["a b%2Fc%252Fd"]
    assert values(root / ".vzfs/tag/a b%2Fc%252Fd") == {7}
    assert errno_of(os.stat, root / ".vzfs/tag/a b%2fc%252Fd") == "ENOENT"
    assert errno_of(os.stat, root / ".vzfs/tag/a b") == "ENOENT"


def test_what_is_no_ref_is_absent(history: History, mount: Callable[..., Mount]) -> None:
    """Names of no branch, tag, snapshot, time, view or directory are ENOENT, and none is logged as trouble."""
    root = mount(history.path).path
    for name in (
        "branch/x",
        "tag/x",
        "snapshot/0000",
        "snapshot/00000000000000000000",
        "at/yesterday",
        "at/1999-01-01",
        "view/x",
        "y",
    ):
        assert errno_of(os.stat, root / ".vzfs" / name) == "ENOENT"
    assert errno_of(os.stat, root / "a/.vzfs") == "ENOENT"


def test_a_branch_by_path_is_what_it_is_now(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """`.vzfs/branch/NAME` shows a new snapshot once there is one, and who holds the old one open reads it on."""
    path = tmp_path / "repository"
    create(path, spec=2)
    commit(path, 0)
    root = mount(path).path
    branch = root / ".vzfs/branch/main"
    assert values(branch) == {0}
    before = os.open(branch / "a", os.O_RDONLY)
    try:
        commit(path, 1, "b")
        wait_until(lambda: values(branch) == {1}, "the new snapshot is shown")
        assert (branch / "b/zarr.json").exists()
        assert values(root) == {0}
        chunk = os.open("c/3", os.O_RDONLY, dir_fd=before)
        assert os.pread(chunk, 8, 0) == bytes(8)
        os.close(chunk)
    finally:
        os.close(before)


def test_a_node_called_so_moves_the_control_directory(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A repository that has a node `.vzfs` at its root keeps it, and refs are below `.vzfs-control`."""
    path = tmp_path / "repository"
    create(path)
    session = open_for_writing(path).writable_session("main")
    root = zarr.group(session.store)
    root.create_array(".vzfs", shape=(1,), chunks=(1,), dtype="i4", compressors=None)[...] = 5
    session.commit("an odd name")
    mounted = mount(path).path
    assert np.asarray(zarr.open_array(mounted / ".vzfs", mode="r")).tolist() == [5]
    assert names(mounted / ".vzfs-control/branch") == ["main"]


def test_the_difference_of_two_tags_is_what_differs(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Reading two snapshots, as `diff -r` does, gets bytes that both refer to once."""
    archive = Archive("http", tmp_path / "archive", server)
    data = pattern(4000)
    location = archive.write("x", data)
    refs = [Ref(location, 1000 * i, 1000, archive.checksum("x", "etag")) for i in range(4)]
    path = tmp_path / "repository"
    repository = create(path, containers=[archive.prefix])
    for tag, order in (("one", refs), ("two", [refs[0], refs[1], refs[2], refs[0]])):
        session = repository.writable_session("main")
        root = zarr.group(session.store, overwrite=True)
        add_virtual(session, root, "a", order)
        repository.create_tag(tag, snapshot_id=session.commit(tag))
    root = mount(path, *archive.options, cache=tmp_path / "cache").path
    one, two = root / ".vzfs/tag/one", root / ".vzfs/tag/two"
    found = subprocess.run(["diff", "-rq", one, two], capture_output=True, check=False)
    lines = found.stdout.decode().splitlines()
    assert found.returncode == 1
    assert [line for line in lines if "/c/" in line] == [
        f"Files {one}/a/c/3 and {two}/a/c/3 differ"
    ]
    assert server.count("GET") <= 4


# -- following ---------------------------------------------------------------------------------


def test_the_root_follows_its_branch(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """With --follow the root shows a new snapshot, new names and new lists; what is open stays as it was."""
    path = tmp_path / "repository"
    create(path)
    first = commit(path, 0)
    root = mount(path, "--follow=1").path
    assert values(root) == {0}
    assert errno_of(os.stat, root / "b") == "ENOENT"
    assert names(root) == ["a", "zarr.json"]
    held = os.open(root / "a", os.O_RDONLY)
    opened = os.open(root / "a/c/0", os.O_RDONLY)
    try:
        second = commit(path, 1, "b")
        wait_until(lambda: values(root) == {1}, "the root moves")
        assert xattrs(root)["snapshot"] == second
        assert (root / "b/zarr.json").exists()
        wait_until(lambda: "b" in names(root), "the list is new")
        assert values(root / f".vzfs/snapshot/{first}") == {0}
        assert os.pread(opened, 8, 0) == bytes(8)
        late = os.open("c/2", os.O_RDONLY, dir_fd=held)
        assert os.pread(late, 8, 0) == bytes(8)
        os.close(late)
    finally:
        os.close(opened)
        os.close(held)


def test_readers_under_constant_commits_see_whole_snapshots(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Who reads through a directory that it holds open sees one snapshot, however often the root moves."""
    path = tmp_path / "repository"
    create(path)
    commit(path, 0)
    mounted = mount(path, "--follow=1")
    root = mounted.path
    seen: set[int] = set()
    is_over = threading.Event()

    def write() -> None:
        for value in range(1, 8):
            commit(path, value)
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        deadline = time.monotonic() + 60
        while (not is_over.is_set() or 7 not in seen) and time.monotonic() < deadline:
            folder = os.open(root / "a", os.O_RDONLY)
            try:
                found = set()
                for chunk in range(4):
                    file = os.open(f"c/{chunk}", os.O_RDONLY, dir_fd=folder)
                    found |= set(np.frombuffer(os.pread(file, 100, 0), "<i4").tolist())
                    os.close(file)
            finally:
                os.close(folder)
            assert len(found) == 1
            seen |= found
    finally:
        writer.join()
    assert 7 in seen


def test_a_branch_that_goes_away_leaves_what_is_shown(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A branch that is deleted while it is followed is told of once, and the last snapshot stays readable."""
    path = tmp_path / "repository"
    create(path)
    commit(path, 3)
    repository = open_for_writing(path)
    repository.create_branch("side", snapshot_id=repository.lookup_branch("main"))
    mounted = mount(path, "--branch", "side", "--follow=1")
    mounted.expect_log("the branch cannot be followed for now")
    repository.delete_branch("side")
    wait_until(lambda: len(mounted.warnings()) == 1, "it is told")
    assert values(mounted.path) == {3}


# -- without the storage -----------------------------------------------------------------------


def test_offline_refs_are_what_was_seen_last(
    history: History, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Offline, refs lead to the snapshots that they did; what was never seen is an error, and not absent."""
    cache = tmp_path / "cache"
    first = mount(history.path, cache=cache)
    assert values(first.path / ".vzfs/tag/first") == {0}
    assert values(first.path / ".vzfs/branch/main") == {2}
    seen = names(first.path / ".vzfs/tag")
    assert errno_of(os.stat, first.path / ".vzfs/tag/none") == "ENOENT"
    first.end()
    commit(history.path, 9)
    second = mount(history.path, "--offline", cache=cache)
    second.expect_log("asks nobody")
    control = second.path / ".vzfs"
    assert values(control / "tag/first") == {0}
    assert values(control / "branch/main") == values(second.path) == {2}
    assert names(control / "tag") == seen
    assert errno_of(os.stat, control / "tag/none") == "ENOENT"
    assert errno_of(os.listdir, control / "branch/side") == "EIO"
