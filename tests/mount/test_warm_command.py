"""`vzfs warm` as a person or a batch job runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.mount.conftest import Mount
from tests.mount.repositories import Ref, pattern, write_virtual
from tests.servers import ObjectServer

DATA = pattern(64_000)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Warm:
    """Two arrays over an object each, and a cache."""

    def __init__(self, folder: Path, server: ObjectServer) -> None:
        self.server = server
        self._seen = 0
        self.cache = folder / "cache"
        for name in ("one", "two"):
            server.put(f"archive/{name}", DATA)
        arrays = {
            name: [Ref(f"s3://archive/{name}", i * 1000, 1000) for i in range(64)]
            for name in ("one", "two")
        }
        self.repository = write_virtual(folder / "r", arrays, containers=["s3://archive/"])
        self.options = [
            *("--endpoint", server.url, "--allow-http", "--anonymous", "--region", "us-east-1"),
            *("--allow", "s3://archive/"),
        ]

    def __call__(self, *words: str | Path, status: int = 0) -> Any:
        """Run the command and return what it says in JSON."""
        result = subprocess.run(
            [sys.executable, "-m", "vzfs", "warm", *map(str, words), "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=ENVIRONMENT,
        )
        assert result.returncode == status, result.stderr
        return json.loads(result.stdout) if result.stdout else result.stderr

    def of_repository(self, *words: str, status: int = 0) -> Any:
        where = ["--cache-dir", str(self.cache), *self.options]
        return self(self.repository, *words, *where, status=status)

    def gets(self) -> int:
        """Return how many GETs of sources there were since this was asked last."""
        before, self._seen = self._seen, len(self.server.requests)
        return sum(r.method == "GET" for r in self.server.requests[before:])


@pytest.fixture(name="warm")
def _warm(tmp_path: Path) -> Iterator[Warm]:
    with ObjectServer() as server:
        yield Warm(tmp_path, server)


def test_a_warmed_cache_serves_a_mount(warm: Warm, mount: Callable[..., Mount]) -> None:
    """What was warmed by source or by mountpoint is read without a GET, also by a mount that was there before."""
    said = warm.of_repository("one[0:16000, ...]", "one[15500:32000]")
    assert (said["chunks"], said["fetched"]) == (33, 32_000)
    assert warm.gets() <= 2
    mounted = mount(warm.repository, *warm.options, cache=warm.cache)
    said = warm(mounted.path)
    assert (said["chunks"], said["fetched"], said["cached"]) == (128, 96_000, 32_000)
    assert warm.gets() <= 4
    for name in ("one", "two"):
        keys = [mounted.path / f"{name}/c/{i}" for i in range(64)]
        assert b"".join(key.read_bytes() for key in keys) == DATA
    assert warm.gets() == 0


def test_what_cannot_be_had_ends_with_10(warm: Warm) -> None:
    """Chunks of a vanished object are counted, named and an exit code; the others are warmed."""
    warm.server.delete("archive/two")
    said = warm.of_repository(status=10)
    assert (said["fetched"], said["failed"]) == (64_000, 64)
    assert said["failures"][0]["array"] == "/two"
    assert "no such array" in warm.of_repository("three", status=2)


def test_the_work_is_shared_by_a_cluster(warm: Warm) -> None:
    """The workers of a Dask cluster fill one cache, each object by one of them."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, env={"PYTHONPATH": str(ROOT)}
    ) as cluster:
        said = warm.of_repository("--dask", cluster.scheduler_address)
    assert (said["chunks"], said["fetched"], said["failed"]) == (128, 128_000, 0)
    assert warm.gets() <= 4
    assert warm.of_repository()["cached"] == 128_000
