"""HTTP alone: redirects, encodings, framing, proxies, private certificates."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme

from tests.conformance import authorized, plain_environment, whole
from tests.servers import Fault, ObjectServer, Proxy, overlong, redirect, status, whole_object
from vzfs.errors import ErrorKind, SourceError
from vzfs.source import Places, Source, Timing

KEY = "pub/data/object"
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
    return Source(Timing(deadline=20, attempts=2, backoff=0.001), places=Places(8))


async def refusal(source: Source, url: str, root: str = "") -> SourceError:
    with pytest.raises(SourceError) as caught:
        await source.fetch(authorized(url, 10, 20, root=root))
    return caught.value


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target", ["/pub/data/moved", "moved", "./x/../moved", "//{}/pub/data/moved"]
)
async def test_redirect_inside(
    server: ObjectServer, source: Source, code: int, target: str
) -> None:
    """A redirect to a place that is authorized too is followed, for GET and HEAD."""
    server.put("pub/data/moved", DATA[::-1])
    server.fault(KEY, redirect(target.format(server.authority), code), times=2)
    wanted = authorized(f"{server.url}/{KEY}", 10, 20)
    fetched = await source.fetch(wanted)
    assert fetched.data == DATA[::-1][10:30]
    assert await source.version(wanted) == fetched.version
    assert all(r.headers["range"] == "bytes=10-29" for r in server.requests if r.method == "GET")


@pytest.mark.parametrize(
    "target",
    [
        "{}/pub/other/object",
        "{}/pub/data2/object",
        "{}/pub/data/../other/object",
        "{}/pub/data/%2e%2e/other/object",
        "{}/pub/data/object2?sig=hush",
        "{}/pub/data/object2#part",
        "http://user:hush@127.0.0.1/pub/data/object2",
        "https://127.0.0.1:1/pub/data/object2",
        "http://localhost:1/pub/data/object2",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "//[/x",
    ],
)
async def test_redirect_outside(server: ObjectServer, source: Source, target: str) -> None:
    """A redirect that leaves what is authorized, or cannot be read in one way, is denied unread."""
    with ObjectServer() as other:
        server.put("pub/other/object", b"secret" * 20)
        server.put("pub/data2/object", b"secret" * 20)
        server.put("pub/data/object2", b"secret" * 20)
        server.fault(KEY, redirect(target.format(server.url)))
        error = await refusal(source, f"{server.url}/{KEY}")
        assert error.kind is ErrorKind.SOURCE_DENIED
        assert "hush" not in str(error)
        assert server.count() == 1
        assert other.count() == 0


async def test_redirect_to_another_port(server: ObjectServer, source: Source) -> None:
    """Another port is another server, and not authorized."""
    with ObjectServer() as other:
        other.put(KEY, DATA)
        server.fault(KEY, redirect(f"{other.url}/{KEY}"))
        error = await refusal(source, f"{server.url}/{KEY}")
        assert error.kind is ErrorKind.SOURCE_DENIED
        assert other.count() == 0


async def test_redirects_end(server: ObjectServer, source: Source) -> None:
    """Redirects are followed five times; a loop of them ends."""
    server.fault(KEY, redirect(f"/{KEY}"), times=5)
    assert (await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))).data == DATA[10:30]
    server.forget_requests()
    server.fault(KEY, redirect(f"/{KEY}"), times=20)
    assert (await refusal(source, f"{server.url}/{KEY}")).kind is ErrorKind.SOURCE_MISMATCH
    assert server.count() == 6
    server.clear_faults()
    server.fault(KEY, status(302))
    assert (await refusal(source, f"{server.url}/{KEY}")).kind is ErrorKind.SOURCE_MISMATCH


async def test_what_is_sent(server: ObjectServer, source: Source) -> None:
    """A request asks for the bytes as they are, and carries nothing that identifies the user."""
    await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))
    (request,) = server.requests
    assert set(request.headers) == {"host", "range", "accept-encoding", "user-agent"}
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["gzip", "br", "aws-chunked", "identity, gzip"])
async def test_encoded_bodies(server: ObjectServer, source: Source, encoding: str) -> None:
    """A body in a content encoding is refused: its ranges are not those of the object."""
    server.fault(KEY, Fault(headers={"Content-Encoding": encoding}))
    assert (await refusal(source, f"{server.url}/{KEY}")).kind is ErrorKind.SOURCE_MISMATCH


async def test_range_that_is_the_whole_object(server: ObjectServer, source: Source) -> None:
    """From a server that ignores ranges, the range that is the whole object can be read."""
    server.fault(KEY, Fault(ignore_range=True), times=2)
    wanted = authorized(f"{server.url}/{KEY}", 0, len(DATA))
    assert (await source.fetch(wanted)).data == DATA
    with pytest.raises(SourceError):
        await source.fetch(authorized(f"{server.url}/{KEY}", 0, len(DATA) - 1))


async def test_chunked_bodies(server: ObjectServer, source: Source) -> None:
    """A body in chunks, without an announced length, is read if it has the right length."""
    server.fault(KEY, overlong(0, chunked=True), times=2)
    assert (await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))).data == DATA[10:30]
    assert (await source.fetch(whole(server.url, KEY))).data == DATA
    server.fault(KEY, overlong(1, chunked=True))
    with pytest.raises(SourceError) as caught:
        await source.fetch(whole(server.url, KEY, len(DATA)))
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH


@pytest.mark.parametrize("code", [405, 501])
async def test_server_without_head(server: ObjectServer, source: Source, code: int) -> None:
    """Where HEAD is not served, one byte tells the version."""
    server.fault(KEY, Fault(status=code, methods=frozenset({"HEAD"})))
    wanted = authorized(f"{server.url}/{KEY}", 10, 20)
    version = await source.version(wanted)
    assert server.requests[-1].headers["range"] == "bytes=0-0"
    assert version == (await source.fetch(wanted)).version


async def test_connections_are_kept(server: ObjectServer, source: Source) -> None:
    """A connection survives a fetch, a small error reply and a HEAD."""
    wanted = authorized(f"{server.url}/{KEY}", 10, 20)
    await source.fetch(wanted)
    ports = set(server.clients)
    server.fault(KEY, status(404, body=b"no such object"))
    await refusal(source, f"{server.url}/{KEY}")
    await source.version(wanted)
    await source.fetch(wanted)
    assert set(server.clients) == ports
    assert len(ports) == 1


async def test_retry_after(server: ObjectServer, source: Source) -> None:
    """A server that asks for a longer wait than there is time gets no second request."""
    server.fault(KEY, status(503, {"Retry-After": "3600"}))
    with trio.fail_after(10):
        error = await refusal(source, f"{server.url}/{KEY}")
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE
    assert server.count() == 1


# -- proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("with_scheme", [True, False])
async def test_proxy(
    server: ObjectServer,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    with_scheme: bool,
) -> None:
    """Requests go through the proxy that the environment names."""
    with Proxy() as proxy:
        monkeypatch.setenv(name, proxy.url if with_scheme else proxy.url.removeprefix("http://"))
        fetched = await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))
        assert fetched.data == DATA[10:30]
        assert proxy.seen == [f"GET {server.url}/{KEY}"]


async def test_no_proxy(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers in NO_PROXY are reached directly."""
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "example.org,127.0.0.1")
        await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))
        assert proxy.seen == []


async def test_proxy_credentials(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy gets its credentials, the server does not."""
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:p%40ss@"))
        await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))
        assert proxy.headers[0]["proxy-authorization"] == "Basic dXNlcjpwQHNz"
        assert not any("authorization" in name for name in server.requests[0].headers)


async def test_unknown_proxy(
    server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of a kind that is not supported is an error, not a direct connection."""
    monkeypatch.setenv("http_proxy", "socks5://user:hush@127.0.0.1:1080")
    error = await refusal(source, f"{server.url}/{KEY}")
    assert error.kind is ErrorKind.BAD_CONFIG
    assert "hush" not in str(error)
    assert server.count() == 0


# -- certificates ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make a private certificate authority."""
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """Write its certificate to a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def tls_server(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Run a server with TLS under the private authority."""
    plain_environment(monkeypatch)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ObjectServer(context=context) as server:
        server.put(KEY, DATA)
        yield server


@pytest.mark.parametrize(
    "name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
async def test_private_authority(
    tls_server: ObjectServer,
    source: Source,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """A private authority that the environment names is trusted."""
    monkeypatch.setenv(name, str(bundle))
    wanted = authorized(f"{tls_server.url}/{KEY}", 10, 20)
    assert (await source.fetch(wanted)).data == DATA[10:30]


async def test_untrusted(tls_server: ObjectServer, source: Source) -> None:
    """A server with an unknown authority is not talked to, and the error says what to do. Once."""
    error = await refusal(source, f"{tls_server.url}/{KEY}")
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE
    assert "certificate" in error.what
    assert "SSL_CERT_FILE" in error.advice
    assert tls_server.count() == 0
    assert source.statistics().gets == 1


async def test_tunnel(
    tls_server: ObjectServer, source: Source, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https: goes through a proxy in a tunnel."""
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with Proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        wanted = authorized(f"{tls_server.url}/{KEY}", 10, 20)
        assert (await source.fetch(wanted)).data == DATA[10:30]
        assert proxy.seen == [f"CONNECT {tls_server.authority}"]


async def test_refused_tunnel(
    tls_server: ObjectServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that refuses is an unreachable source, and not gone around."""
    with Proxy(allow=lambda authority: False) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        error = await refusal(source, f"{tls_server.url}/{KEY}")
        assert error.kind is ErrorKind.SOURCE_UNREACHABLE
        assert tls_server.count() == 0


async def test_bad_bundle(
    tls_server: ObjectServer, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of certificates that is missing or has none is an error that names it."""
    for name in ("missing.pem", "empty.pem"):
        path = tmp_path / name
        if name == "empty.pem":
            path.write_text("nothing")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
        error = await refusal(source, f"{tls_server.url}/{KEY}")
        assert error.kind is ErrorKind.BAD_CONFIG
        assert error.where == str(path)


async def test_a_pinned_version_is_asked_for(server: ObjectServer, source: Source) -> None:
    """Where the reference names no version, the one that was pinned goes into the request."""
    wanted = authorized(f"{server.url}/{KEY}", 10, 20)
    pinned = (await source.fetch(wanted)).version
    await source.fetch(wanted, pinned)
    assert [r.headers.get("if-match") for r in server.requests] == [None, pinned]
    server.put(KEY, DATA[::-1])
    server.forget_requests()
    with pytest.raises(SourceError) as caught:
        await source.fetch(wanted, pinned)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert [r.method for r in server.requests] == ["GET", "HEAD"]


async def test_a_whole_object_of_the_right_length_is_not_its_later_part(
    server: ObjectServer, source: Source
) -> None:
    """A server that ignores ranges is believed for the range that is the whole object, and for no other."""
    server.put(KEY, DATA[:20])
    server.fault(KEY, whole_object(), times=10)
    assert (await source.fetch(authorized(f"{server.url}/{KEY}", 0, 20))).data == DATA[:20]
    with pytest.raises(SourceError) as caught:
        await source.fetch(authorized(f"{server.url}/{KEY}", 10, 20))
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
