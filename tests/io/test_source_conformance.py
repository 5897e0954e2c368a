"""Every fetcher passes the same suite: the fake, local files, HTTP, and S3 on two servers."""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import FetcherSuite, World, plain_environment
from tests.fakes import FakeSource
from tests.servers import ObjectServer
from vzfs.access import StoreOptions
from vzfs.model.location import path_to_url
from vzfs.source import Places, Source, Timing, fetcher, openat

TIMING = Timing(deadline=20, backoff=0.01)
FIRST_SECOND = 1_700_000_000


class FakeWorld(World):
    def __init__(self) -> None:
        self.root = "s3://bucket/data"
        self.fake = self.fetcher = FakeSource()

    def put(self, key: str, data: bytes) -> None:
        self.fake.put(self.url(key), data)

    def etag(self, key: str) -> str:
        return self.fake.seen(self.url(key)).etag or ""

    def modified(self, key: str) -> int:
        return self.fake.seen(self.url(key)).modified or 0


class LocalWorld(World):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = path_to_url(folder)
        self.fetcher = Source(TIMING, places=Places(8))
        self.written = 0

    def put(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.written += 1
        moment = (FIRST_SECOND + self.written) * 10**9 + 123_456_789
        os.utime(path, ns=(moment, moment))

    def etag(self, key: str) -> str:
        # The oracle: what icechunk records for a file is what obstore says of it.
        import obstore
        from obstore.store import LocalStore

        return obstore.head(LocalStore(self.folder), key)["e_tag"] or ""

    def modified(self, key: str) -> int:
        return int((self.folder / key).stat().st_mtime)


class ServerWorld(World):
    """Objects of an `ObjectServer`."""

    def __init__(self, server: ObjectServer) -> None:
        self.server = server
        self.fetcher = Source(TIMING, places=Places(8))

    def put(self, key: str, data: bytes) -> None:
        self.server.put(f"bucket/data/{key}", data)

    def etag(self, key: str) -> str:
        stored = self.server.find(f"bucket/data/{key}")
        assert stored is not None
        return stored.etag or ""

    def modified(self, key: str) -> int:
        stored = self.server.find(f"bucket/data/{key}")
        assert stored is not None
        return stored.last_modified or 0


class HttpWorld(ServerWorld):
    lists = False

    def __init__(self, server: ObjectServer) -> None:
        super().__init__(server)
        self.root = f"{server.url}/bucket/data"


class S3World(ServerWorld):
    def __init__(self, server: ObjectServer) -> None:
        super().__init__(server)
        self.root = "s3://bucket/data"
        self.store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)


class MotoWorld(World):
    def __init__(self, client: Any, endpoint: str, bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self.root = f"s3://{bucket}/data"
        self.store = StoreOptions(endpoint=endpoint, allow_http=True, region="us-east-1")
        self.fetcher = Source(TIMING, places=Places(8))

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"data/{key}", Body=data)

    def head(self, key: str) -> Any:
        return self.client.head_object(Bucket=self.bucket, Key=f"data/{key}")

    def etag(self, key: str) -> str:
        return str(self.head(key)["ETag"])

    def modified(self, key: str) -> int:
        return int(self.head(key)["LastModified"].timestamp())


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Run moto's S3 server."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["fake", "local", "local-walk", "http", "s3", "moto"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """Give each world in turn."""
    plain_environment(monkeypatch)
    kind: str = request.param
    if kind == "fake":
        yield FakeWorld()
    elif kind.startswith("local"):
        if kind == "local-walk":
            monkeypatch.setattr(openat, "has_openat2", lambda: False)
        yield LocalWorld(tmp_path)
    elif kind == "moto":
        yield _moto(request.getfixturevalue("moto_endpoint"), monkeypatch)
    else:
        with ObjectServer() as server:
            yield HttpWorld(server) if kind == "http" else S3World(server)


def _moto(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> MotoWorld:
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    reset = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    return MotoWorld(client, endpoint, "bucket")


class TestFetchers(FetcherSuite):
    """The suite, over every world."""

    async def test_bounded_listing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listing without end is given up, and not kept in memory."""
        if not world.lists or isinstance(world, FakeWorld):
            pytest.skip("this fetcher does not list what others wrote")
        from vzfs.errors import ErrorKind, SourceError
        from vzfs.source import local, source

        assert fetcher.MAX_LISTED == local.MAX_LISTED == source.MAX_LISTED
        monkeypatch.setattr(local, "MAX_LISTED", 101)
        monkeypatch.setattr(source, "MAX_LISTED", 101)
        for i in range(102):
            world.put(f"refs/{i}", b"")
        with pytest.raises(SourceError) as caught:
            await world.fetcher.objects(world.below("refs"))
        assert caught.value.kind is ErrorKind.CANNOT_LIST
