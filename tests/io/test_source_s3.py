"""S3 alone: whose endpoint, whose credentials, which style, proxies, private certificates."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.conformance import authorized, keys_of, plain_environment
from tests.servers import Fault, ObjectServer, Proxy, redirect, reset, status, truncate
from vzfs.access import Access, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import parse_prefix
from vzfs.source import Places, Source, Timing

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
    return Source(timing, places=Places(8))


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
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = await refusal(source, StoreOptions(endpoint=server.url, allow_http=True))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "no AWS credentials" in error.what
    assert "--anonymous" in error.advice
    assert server.count() == 0


async def test_plain_http(server: ObjectServer, source: Source) -> None:
    """Without allow_http nothing is sent in the clear."""
    error = await refusal(source, StoreOptions(endpoint=server.url, anonymous=True))
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


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_of_a_store_are_not_followed(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where an endpoint redirects to is neither asked nor shown a signature."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    store = StoreOptions(endpoint=server.url, allow_http=True)
    with ObjectServer() as other:
        other.put(KEY, DATA)
        server.fault(KEY, redirect(f"{other.url}/{KEY}", code))
        error = await refusal(source, store)
        assert error.kind is ErrorKind.SOURCE_MISMATCH
        assert other.count() == 0
        assert server.count() == 1


async def test_listing_tries_again(server: ObjectServer, source: Source) -> None:
    """A listing that fails in a way that may pass is made again."""
    server.fault("bucket", status(503))
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    below = Access(parse_prefix("s3://bucket"), store).repository_prefix("data")
    assert await keys_of(source, below) == ["object"]
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
        await keys_of(source, below)
    assert caught.value.kind is kind
    assert "hush" not in str(caught.value)


async def test_listing_of_odd_keys(server: ObjectServer, source: Source) -> None:
    """A listing is whole, whatever its keys are; what can be read of it is decided when it is read."""
    names = ["/odd", "a b", "a&b<c>", "ä", "x\ty", "%2e"]
    for name in names:
        server.put(f"bucket/data/{name}", b"")
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    below = Access(parse_prefix("s3://bucket"), store).repository_prefix("data")
    assert await keys_of(source, below) == sorted([*names, "object"])


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
        direct = Source(Timing(deadline=20), places=Places(1))
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


async def test_a_server_that_is_not_there_is_named(source: Source, server: ObjectServer) -> None:
    """Where the location does not say which server was asked, the error does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        error = await refusal(
            source, StoreOptions(endpoint=endpoint, allow_http=True, anonymous=True)
        )
    assert endpoint in error.what


async def test_options_of_another_policy_have_a_reach_of_their_own(
    server: ObjectServer, source: Source
) -> None:
    """One object that two policies reach by endpoints of their own is asked for at each, within what each names."""
    for endpoint in (server.url, server.url.replace("127.0.0.1", "localhost"), server.url):
        store = StoreOptions(endpoint=endpoint, allow_http=True, anonymous=True)
        assert await fetch(source, store) == DATA[10:30]
    assert [request.headers["host"] for request in server.requests] == [
        f"{host}:{server.url.rpartition(':')[2]}"
        for host in ("127.0.0.1", "localhost", "127.0.0.1")
    ]


async def test_troubles_name_the_server(server: ObjectServer, source: Source) -> None:
    """What goes wrong before a reply or within its body is said with the server that was asked."""
    store = StoreOptions(endpoint=server.url, allow_http=True, anonymous=True)
    for fault in (reset(), truncate()):
        server.fault(KEY, fault, times=2)
        assert f"({server.url})" in (await refusal(source, store)).what
