"""Without a network a mount shows what was seen last, serves what was verified, and says so."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount, MountFailedError
from tests.mount.outcomes import cached_chunks, read, wait_until, walk, xattrs
from tests.mount.repositories import (
    Ref,
    add_native,
    add_virtual,
    create,
    open_for_writing,
    pattern,
)
from tests.servers import ObjectServer

LENGTH = 1000
DATA = pattern(4 * LENGTH)
S3 = ["--allow-http", "--anonymous", "--region", "us-east-1"]


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[ObjectServer]:
    with ObjectServer(tmp_path / "served") as server:
        server.put("archive/x", DATA)
        yield server


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Remote:
    """A repository on a server, and how to mount it."""

    def __init__(self, server: ObjectServer, folder: Path, spec: int) -> None:
        self.folder = folder / "served" / "b" / "repository"
        self.source = "s3://b/repository"
        self.words = ["--endpoint", server.url, *S3, "--allow", "s3://archive/", "--deadline", "5"]
        repository = create(self.folder, containers=["s3://archive/"], spec=spec)
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        add_native(root, "native", np.frombuffer(DATA, "u1"), (LENGTH,))
        etag = server.put("archive/x", DATA).etag
        for name, checksum in (("etag", etag), ("none", None)):
            refs = [Ref("s3://archive/x", n * LENGTH, LENGTH, checksum) for n in range(4)]
            add_virtual(session, root, name, refs)
        session.commit("native and virtual chunks")

    def commit(self, name: str) -> None:
        session = open_for_writing(self.folder).writable_session("main")
        zarr.open_group(session.store, mode="a").create_group(name)
        session.commit(name)


@pytest.fixture(name="remote", params=[1, 2])
def _remote(request: pytest.FixtureRequest, server: ObjectServer, tmp_path: Path) -> Remote:
    return Remote(server, tmp_path, request.param)


def chunk(n: int) -> bytes:
    return DATA[n * LENGTH : (n + 1) * LENGTH]


def fill(remote: Remote, cache: Path, mount: Callable[..., Mount]) -> Mount:
    """Mount, read the first chunk of each array, and wait until the cache has them."""
    first = mount(remote.source, *remote.words, cache=cache)
    for name in ("native", "etag", "none"):
        assert read(first.path / name / "c/0") == chunk(0)
    wait_until(lambda: cached_chunks(cache, LENGTH) >= 3, "the chunks are cached")
    first.end()
    return first


def test_an_offline_mount_serves_what_the_cache_has_and_asks_nobody(
    remote: Remote, cache: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """With --offline names and cached chunks of an earlier mount are there, all else is EIO at once, and no request is made."""
    first = fill(remote, cache, mount)
    server.forget_requests()
    mounted = mount(remote.source, *remote.words, "--offline", cache=cache)
    mounted.expect_log("not in the cache")
    assert mounted.outcome["mounted"].split()[-1] == first.outcome["mounted"].split()[-1]
    assert any("offline: " in note and "as of 20" in note for note in mounted.outcome["notes"])
    assert len(walk(mounted.path)) == 22
    for name in ("native", "etag", "none"):
        assert read(mounted.path / name / "c/0") == chunk(0)
        began = time.monotonic()
        assert read(mounted.path / name / "c/1") == "EIO"
        assert time.monotonic() - began < 1
    assert len(mounted.warnings()) == 1
    assert server.requests == []


def test_a_second_mount_fetches_no_manifest(
    remote: Remote, cache: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """What a manifest says is in the cache once a mount has needed it; without a cache it is fetched each time."""

    def manifests(where: Path | None) -> int:
        server.forget_requests()
        mounted = mount(remote.source, *remote.words, cache=where)
        assert len(walk(mounted.path)) == 22
        for name in ("native", "etag", "none"):
            assert read(mounted.path / name / "c/3") == chunk(3)
        mounted.end()
        return sum("/manifests/" in request.target for request in server.requests)

    counts = [manifests(where) for where in (cache, cache, None, None)]
    assert counts == [counts[0], 0, counts[0], counts[0]]
    assert counts[0] > 0


def test_an_offline_mount_shows_the_branch_as_it_was_seen_last(
    remote: Remote, cache: Path, mount: Callable[..., Mount]
) -> None:
    """What was committed since is not shown offline; the next mount that may ask shows it, and then offline too."""
    fill(remote, cache, mount)
    remote.commit("later")
    for words, is_there in ((["--offline"], False), ([], True), (["--offline"], True)):
        mounted = mount(remote.source, *remote.words, *words, cache=cache)
        assert ("later" in walk(mounted.path)) == is_there


def test_a_mount_that_may_ask_does_not_take_the_cache_for_the_branch(
    remote: Remote, cache: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Without --offline a repository whose storage is away is not mounted as it was."""
    fill(remote, cache, mount)
    server.close()
    with pytest.raises(MountFailedError) as caught:
        mount(remote.source, *remote.words, cache=cache)
    assert caught.value.args[0]["exit"] == 5


def test_while_a_source_is_away_the_version_last_verified_is_served(
    tmp_path: Path, cache: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A mount whose sources are away gives their cached chunks with one warning, and fails for others."""
    remote = Remote(server, tmp_path, 2)
    fill(remote, cache, mount)
    local = tmp_path / "local"
    shutil.copytree(remote.folder, local)
    mounted = mount(local, *remote.words, cache=cache)
    mounted.expect_log("versions last verified are served")
    mounted.expect_log("read /.*reach|read /.*refuse|read /.*answer|read /.*connect")
    server.close()
    assert read(mounted.path / "etag/c/0") == chunk(0)
    assert read(mounted.path / "none/c/0") == chunk(0)
    assert read(mounted.path / "none/c/1") in {"EIO", "ETIMEDOUT"}
    served = [line for line in mounted.warnings() if "last verified" in line]
    assert len(served) == 1


def test_a_live_mount_loads_manifests_from_the_cache_while_its_storage_is_away(
    remote: Remote, cache: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """What never changes is taken from the cache when the storage cannot be reached."""
    fill(remote, cache, mount)
    mounted = mount(remote.source, *remote.words, cache=cache)
    server.close()
    assert read(mounted.path / "etag/c/0") == chunk(0)
    assert xattrs(mounted.path / "etag/c/1")["offset"] == str(LENGTH)


@pytest.mark.parametrize(("words", "code"), [(["--no-cache"], 2), ([], 5)])
def test_offline_needs_a_cache_that_knows_the_repository(
    words: list[str],
    code: int,
    remote: Remote,
    cache: Path,
    mount: Callable[..., Mount],
    server: ObjectServer,
) -> None:
    """--offline without a cache is an error of usage, and with an empty one the mount fails and says why."""
    with pytest.raises(MountFailedError) as caught:
        mount(remote.source, *remote.words, *words, "--offline", cache=None if words else cache)
    assert caught.value.args[0]["exit"] == code
    assert "offline" in caught.value.args[0]["error"]
    assert server.requests == []
