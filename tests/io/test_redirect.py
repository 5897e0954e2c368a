"""Where a redirect says that a repository lies."""

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.conformance import plain_environment
from tests.servers import ObjectServer, redirect
from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import parse_location
from vzfs.source import Timing
from vzfs.source.client import Client
from vzfs.source.redirect import MAX_HOPS, Target, follow, read_target

WHERE = "https://example.org/repo"


@pytest.mark.parametrize(
    ("url", "prefix", "region", "endpoint"),
    [
        ("s3://bucket/some/repo?region=eu-west-1", "s3://bucket/some/repo/", "eu-west-1", None),
        ("s3://bucket", "s3://bucket/", None, None),
        ("gs://bucket/repo", "gs://bucket/repo/", None, None),
        ("gcs://bucket/repo", "gs://bucket/repo/", None, None),
        ("tigris://bucket/repo", "tigris://bucket/repo/", None, None),
        (
            "r2://bucket/repo?account_id=abc123",
            "s3://bucket/repo/",
            "auto",
            "https://abc123.r2.cloudflarestorage.com",
        ),
        ("https+icechunk://host.example/repo", "https://host.example/repo/", None, None),
        ("http+ic://host.example/repo", "http://host.example/repo/", None, None),
    ],
)
def test_storages_that_a_redirect_can_name(
    url: str, prefix: str, region: str | None, endpoint: str | None
) -> None:
    """A redirect names a storage and how it is reached, and no credentials are ever sent there."""
    target = read_target(url, WHERE)
    assert str(target.prefix) == prefix
    assert (target.store.region, target.store.endpoint) == (region, endpoint)
    assert target.store.anonymous


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "az://container/repo",
        "ftp://host/repo",
        "memory:///repo",
        "s3://bucket/repo?endpoint=https://evil.example",
        "s3://bucket/repo?region=a&region=b",
        "s3://bucket/repo?region=evil.example/",
        "s3://bucket/repo?region=",
        "r2://bucket/repo",
        "r2://bucket/repo?account_id=evil.example%2F",
        "r2://bucket/repo?account_id=evil.example",
        "gs://bucket/repo?region=x",
        "s3:///repo",
        "s3://user:hush@bucket/repo",
        "https+icechunk://host.example/repo?token=hush",
        "s3://bucket/repo#part",
    ],
)
def test_storages_that_a_redirect_cannot_name(url: str) -> None:
    """What could mean another place, or is more than a place, is refused, and not repeated."""
    with pytest.raises(SourceError) as caught:
        read_target(url, WHERE)
    assert caught.value.kind is ErrorKind.SOURCE_DENIED
    assert caught.value.where == WHERE
    assert "hush" not in str(caught.value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(Timing(connect=2, stall=2))
    yield client
    await client.aclose()


async def ask(client: Client, server: ObjectServer, path: str = "repo") -> Target:
    with trio.fail_after(10):
        return await follow(client, parse_location(f"{server.url}/{path}"), StoreOptions())


async def test_a_redirect_is_followed_to_a_storage(server: ObjectServer, client: Client) -> None:
    """Redirects between web servers are followed to the first that names a storage."""
    server.fault("repo", redirect("/other"))
    server.fault("other", redirect("s3://bucket/repo?region=eu-west-1", 308))
    target = await ask(client, server)
    assert str(target.prefix) == "s3://bucket/repo/"
    assert [r.key for r in server.requests] == ["repo", "other"]
    assert all("authorization" not in r.headers for r in server.requests)


async def test_redirects_to_a_storage_end(server: ObjectServer, client: Client) -> None:
    """A chain of redirects that leads to no storage ends."""
    server.fault("repo", redirect("/repo"), times=100)
    with pytest.raises(SourceError) as caught:
        await ask(client, server)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert server.count() == MAX_HOPS


async def test_what_is_no_redirect_is_an_error(server: ObjectServer, client: Client) -> None:
    """A server that does not redirect is an error that says so."""
    server.put("repo", b"here")
    with pytest.raises(SourceError) as caught:
        await ask(client, server)
    assert "does not redirect" in caught.value.what


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_hop_to_this_machine_is_refused(
    server: ObjectServer, client: Client, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a stranger's redirect leads to this machine, no connection is made."""
    with ObjectServer() as inner:
        server.fault("repo", redirect(f"http://{host}:{inner.port}/secret"))
        with pytest.raises(SourceError) as caught:
            await ask(client, server)
        assert caught.value.kind is ErrorKind.ADDRESS_REFUSED
        assert inner.count() == 0
        assert not inner.clients
