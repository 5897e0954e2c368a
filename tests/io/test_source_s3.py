"""S3 alone: whose endpoint, whose credentials, which style, proxies, private certificates."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme

from tests.conformance import authorized, plain_environment
from tests.servers import Fault, ObjectServer, Proxy, redirect, reset, status
from vzfs.access import Access, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import parse_prefix
from vzfs.source import Source, Timing

KEY = "bucket/data/object"
DATA = bytes(range(200))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Run a server with one object."""
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        server.put(KEY, DATA)
        yield server


@pytest.fixture
def source() -> Source:
    """Give a source that tries twice, fast."""
    timing = Timing(deadline=20, connect=2, attempts=2, backoff=0.001)
    return Source(timing, limiter=trio.CapacityLimiter(8))


async def fetch(source: Source, store: StoreOptions) -> bytes:
    return (await source.fetch(authorized(f"s3://{KEY}", 10, 20, store=store))).data


async def refusal(source: Source, store: StoreOptions) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await fetch(source, store)
    return caught.value


async def test_credentials_of_the_environment(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are signed with the environment's credentials, in the region of the options."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    store = StoreOptions(endpoint=server.url, allow_http=True, region="eu-north-1")
    assert await fetch(source, store) == DATA[10:30]
    signed = server.requests[0].headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    assert "/eu-north-1/s3/" in signed


async def test_anonymous(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An anonymous request is not signed, whatever credentials the environment has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    store = StoreOptions(endpoint=server.url, allow_http=True, anonymous=True)
    assert await fetch(source, store) == DATA[10:30]
    assert "authorization" not in server.requests[0].headers


async def test_no_credentials(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials the error says which are missing, and the object is not asked for."""
    with ObjectServer() as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url)
        error = await refusal(source, StoreOptions(endpoint=server.url, allow_http=True))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "AWS_ACCESS_KEY_ID" in error.advice
    assert server.count() == 0


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
async def test_endpoint_of_the_environment(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An endpoint in the environment is the user's own word."""
    monkeypatch.setenv(name, server.url)
    store = StoreOptions(anonymous=True, allow_http=True)
    assert await fetch(source, store) == DATA[10:30]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
async def test_endpoint_of_the_options_wins(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The endpoint that the user names for a place wins over the environment's."""
    with ObjectServer() as other:
        monkeypatch.setenv(name, other.url)
        store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
        assert await fetch(source, store) == DATA[10:30]
        assert other.count() == 0


async def test_plain_http(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without allow_http nothing is sent in the clear, wherever the endpoint comes from."""
    error = await refusal(source, StoreOptions(endpoint=server.url, anonymous=True))
    assert error.kind is ErrorKind.SOURCE_DENIED
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    error = await refusal(source, StoreOptions(anonymous=True))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "--allow-http" in error.advice
    assert server.count() == 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "foo bar",
        "http://",
        "ftp://host",
        "http://a b",
        "http://user:hush@host",
        "http://host?x",
        "http://[",
    ],
)
async def test_bad_endpoints(source: Source, server: ObjectServer, endpoint: str) -> None:
    """An endpoint that is no URL of a host is refused in words."""
    error = await refusal(source, StoreOptions(endpoint=endpoint, allow_http=True, anonymous=True))
    assert error.kind is ErrorKind.BAD_CONFIG
    assert "hush" not in str(error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_panic_is_an_error(
    source: Source, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint in the environment that makes the S3 client panic fails the fetch, not the process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "foo bar")
    error = await refusal(source, StoreOptions(anonymous=True))
    assert error.kind is ErrorKind.SOURCE_MISMATCH


async def test_virtual_hosts(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without path style the bucket is in the host name."""
    plain_environment(monkeypatch)
    with ObjectServer() as server, Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        proxy.reroute = {f"bucket.store.test:{server.port}": server.authority}
        server.put("data/object", DATA)
        store = StoreOptions(
            endpoint=f"http://store.test:{server.port}",
            path_style=False,
            anonymous=True,
            allow_http=True,
        )
        assert await fetch(source, store) == DATA[10:30]
        assert proxy.seen == [f"GET http://bucket.store.test:{server.port}/data/object"]


async def test_wrong_region(server: ObjectServer, source: Source) -> None:
    """A redirect to another region is an error that says to name the region."""
    server.fault(KEY, status(301))
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    error = await refusal(source, store)
    assert "region" in error.advice
    assert server.count() == 1


async def test_redirects_lose_the_signature(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the endpoint redirects to is not shown the signature, and still must have the version."""
    from vzfs.model.location import ETag

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    store = StoreOptions(endpoint=server.url, allow_http=True)
    stored = server.find(KEY)
    assert stored is not None
    assert stored.etag is not None
    with ObjectServer() as other:
        other.put(KEY, DATA[::-1])
        server.fault(KEY, redirect(f"{other.url}/{KEY}"), times=2)
        wanted = authorized(f"s3://{KEY}", 10, 20, checksum=ETag(stored.etag), store=store)
        with pytest.raises(SourceError) as caught:
            await source.fetch(wanted)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED
        assert other.count() > 0
        assert not any("authorization" in r.headers for r in other.requests)


async def test_listing_tries_again(server: ObjectServer, source: Source) -> None:
    """A listing that fails in a way that may pass is made again."""
    server.fault("bucket", status(503))
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    below = Access(parse_prefix("s3://bucket"), store).repository_prefix("data")
    assert await source.list(below) == ["object"]
    assert source.statistics().retries == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(401), ErrorKind.SOURCE_DENIED),
        (status(403), ErrorKind.SOURCE_DENIED),
        (status(404), ErrorKind.SOURCE_VANISHED),
        (status(503), ErrorKind.SOURCE_UNREACHABLE),
        (reset(), ErrorKind.SOURCE_UNREACHABLE),
        (status(412), ErrorKind.SOURCE_MISMATCH),
        (status(200, body=b"<no-list>hush"), ErrorKind.SOURCE_MISMATCH),
    ],
)
async def test_listing_that_fails(
    server: ObjectServer, source: Source, fault: Fault, kind: ErrorKind
) -> None:
    """A listing that fails is an error of its kind, never an empty or incomplete list."""
    server.fault("bucket", fault, times=9)
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    below = Access(parse_prefix("s3://bucket"), store).repository_prefix("data")
    with pytest.raises(SourceError) as caught:
        await source.list(below)
    assert caught.value.kind is kind
    assert "hush" not in str(caught.value)


async def test_listing_of_odd_keys(server: ObjectServer, source: Source) -> None:
    """A key that no client can ask for makes the listing an error, not an incomplete list."""
    server.put("bucket/data//odd", b"")
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    below = Access(parse_prefix("s3://bucket"), store).repository_prefix("data")
    with pytest.raises(SourceError) as caught:
        await source.list(below)
    assert caught.value.kind is ErrorKind.CANNOT_LIST


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_proxy(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Requests go through the proxy that the environment names, unless NO_PROXY says otherwise."""
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    with Proxy() as proxy:
        monkeypatch.setenv(name, proxy.url)
        assert await fetch(source, store) == DATA[10:30]
        assert proxy.seen == [f"GET {server.url}/{KEY}"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        direct = Source(Timing(deadline=20), limiter=trio.CapacityLimiter(1))
        assert await fetch(direct, store) == DATA[10:30]
        assert len(proxy.seen) == 1


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[ObjectServer, Path]]:
    """Run a server under a private authority, whose certificate is in a file."""
    plain_environment(monkeypatch)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ObjectServer(context=context) as server:
        server.put(KEY, DATA)
        yield server, tmp_path / "ca.pem"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_private_authority(
    tls: tuple[ObjectServer, Path], source: Source, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A private authority that the environment names is trusted, through a proxy too."""
    server, bundle = tls
    monkeypatch.setenv(name, str(bundle))
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        store = StoreOptions(endpoint=server.url, anonymous=True)
        assert await fetch(source, store) == DATA[10:30]
        assert proxy.seen == [f"CONNECT {server.authority}"]


async def test_untrusted(tls: tuple[ObjectServer, Path], source: Source) -> None:
    """A server with an unknown authority is not talked to, and the error says what to do. Once."""
    server, _ = tls
    error = await refusal(source, StoreOptions(endpoint=server.url, anonymous=True))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE
    assert "certificate" in error.what
    assert server.count() == 0
    assert source.statistics().gets == 1


@pytest.mark.parametrize("text", [None, "nothing"])
async def test_bad_bundle(
    tls: tuple[ObjectServer, Path],
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
) -> None:
    """A file of certificates that is missing or has none is an error of the configuration."""
    server, bundle = tls
    bundle.unlink()
    if text is not None:
        bundle.write_text(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    error = await refusal(source, StoreOptions(endpoint=server.url, anonymous=True))
    assert error.kind is ErrorKind.BAD_CONFIG
