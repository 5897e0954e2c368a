"""The way to a server: names, addresses, encryption and proxies."""

import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trustme

from tests.io.wires import Peer, Wire, reply
from tests.servers import ObjectServer, Proxy
from vzfs.errors import ErrorKind, SourceError
from vzfs.source import transport
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Client, Request, Response, Trouble
from vzfs.source.fetcher import Timing

NOTHING = reach_of([], [])
LOOPBACK = reach_of(["127.0.0.1"], [])
PATIENT = Timing(connect=30, stall=30)


class Names(trio.abc.HostnameResolver):
    """A resolver that gives each name the next of its answers, or the last one again."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(rows) for name, rows in answers.items()}
        self.asked: list[str] = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        rows = self.answers.get(name)
        if rows is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        row = rows.pop(0) if len(rows) > 1 else rows[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in row
        ]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


def names(**answers: list[list[str]]) -> Names:
    """Let the run of this test resolve names so."""
    resolver = Names(**answers)
    trio.socket.set_custom_hostname_resolver(resolver)
    return resolver


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(PATIENT)
    yield client
    await client.aclose()
    assert client.statistics().active == 0


@pytest.fixture(scope="module")
def certificates() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(certificates: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ca.pem"
    certificates.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def server_context(certificates: trustme.CA, *issued_to: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificates.issue_cert(*issued_to).configure_cert(context)
    return context


async def ask(
    client: Client, url: str, reach: Reach = LOOPBACK, limit: int = 1 << 24, **headers: str
) -> tuple[Response, bytes]:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    wanted = Request("GET", scheme, authority, slash + path or "/", headers)
    with trio.fail_after(30):
        with await client.send(wanted, reach) as response:
            return response, await response.read(limit)


async def trouble(client: Client, url: str, reach: Reach = LOOPBACK) -> Trouble:
    with pytest.raises(Trouble) as caught:
        await ask(client, url, reach)
    return caught.value


# -- names and addresses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "169.254.169.254", "::"]
)
async def test_a_name_that_leads_to_this_machine_is_refused(client: Client, address: str) -> None:
    """A name that resolves into a refused range gives an error that says how to permit it, and no connection."""
    resolver = names(rebind_example=[[address]])
    async with Wire(reply(b"secret")).serve() as wire:
        problem = await trouble(
            client, f"http://rebind.example:{wire.port}/", reach_of(["rebind.example"], [])
        )

    assert (problem.kind, problem.passes) == (ErrorKind.ADDRESS_REFUSED, False)
    assert "[[bucket]]" in problem.advice
    assert resolver.asked == ["rebind.example"]
    assert wire.connections == 0


async def test_names_are_resolved_by_the_system(client: Client) -> None:
    """The system's own answer for a name is checked as well: `localhost` is refused unless it is named."""
    async with Wire(reply(b"x")).serve() as wire:
        problem = await trouble(client, f"http://localhost:{wire.port}/", LOOPBACK)
        assert problem.kind is ErrorKind.ADDRESS_REFUSED
        assert wire.connections == 0
        _, body = await ask(client, f"http://localhost:{wire.port}/", reach_of(["localhost"], []))

    assert body == b"x"


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
async def test_other_notations_of_an_address_are_names(client: Client, host: str) -> None:
    """An address in a notation that only resolvers read is refused as what it means."""
    async with Wire(reply(b"x")).serve() as wire:
        problem = await trouble(client, f"http://{host}:{wire.port}/", reach_of([host], []))

    assert problem.kind is ErrorKind.ADDRESS_REFUSED
    assert wire.connections == 0


@pytest.mark.parametrize("order", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_of_mixed_answers_only_the_permitted_are_used(
    client: Client, order: list[str]
) -> None:
    """Where a name has refused addresses and others, only the others are connected to."""
    names(mixed_example=[order])
    right, wrong = Wire(reply(b"right")), Wire(reply(b"wrong"))
    async with right.serve(host="127.0.0.2"), wrong.serve(port=right.port):
        _, body = await ask(
            client, f"http://mixed.example:{right.port}/", reach_of([], ["127.0.0.2/32"])
        )

    assert body == b"right"
    assert wrong.connections == 0


async def test_a_refused_address_is_not_fallen_back_to(client: Client) -> None:
    """Where the permitted address of a name does not answer, the refused one is still not connected to."""
    names(mixed_example=[["127.0.0.2", "127.0.0.1"]])
    async with Wire(reply(b"secret")).serve() as wire:
        problem = await trouble(
            client, f"http://mixed.example:{wire.port}/", reach_of([], ["127.0.0.2/32"])
        )

    assert problem.kind is ErrorKind.SOURCE_UNREACHABLE
    assert wire.connections == 0


async def test_a_resolver_that_changes_its_mind_gains_nothing(client: Client) -> None:
    """A name is resolved once for a connection, to the addresses that are checked; its next answer is checked as well."""
    resolver = names(rebind_example=[["127.0.0.2"], ["127.0.0.1"]])
    right, wrong = Wire(reply(b"right", "Connection: close")), Wire(reply(b"wrong"))
    reach = reach_of(["rebind.example"], ["127.0.0.2/32"])
    async with right.serve(host="127.0.0.2"), wrong.serve(port=right.port):
        url = f"http://rebind.example:{right.port}/"
        assert (await ask(client, url, reach))[1] == b"right"
        assert resolver.asked == ["rebind.example"]
        assert (await trouble(client, url, reach)).kind is ErrorKind.ADDRESS_REFUSED

    assert len(resolver.asked) == 2
    assert wrong.connections == 0


async def test_the_address_that_was_connected_to_is_checked(client: Client) -> None:
    """Where the kernel connects to another address than it was told, that one is checked too, before a byte is sent."""
    async with Wire(reply(b"secret")).serve() as wire:
        problem = await trouble(client, f"http://0.0.0.0:{wire.port}/", reach_of(["0.0.0.0"], []))

    assert problem.kind is ErrorKind.ADDRESS_REFUSED
    assert wire.heads == []


@pytest.mark.parametrize("host", ["nowhere.example", "a" * 64 + ".example"])
async def test_a_name_that_does_not_exist(client: Client, host: str) -> None:
    """A name that cannot be resolved may come to exist."""
    names()
    problem = await trouble(client, f"http://{host}/")

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_UNREACHABLE, True)
    assert (problem.what, problem.advice) == (
        "the server's name cannot be resolved",
        "check how it is written",
    )


# -- connecting --------------------------------------------------------------------------------


@contextlib.contextmanager
def deaf(host: str, port: int = 0) -> Iterator[int]:
    """Give a port on which connecting neither succeeds nor fails."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_server_that_does_not_accept_is_given_up() -> None:
    """Connecting ends after the connect time."""
    client = Client(Timing(connect=0.1))
    with deaf("127.0.0.1") as port:
        start = time.monotonic()
        problem = await trouble(client, f"http://127.0.0.1:{port}/")

    assert time.monotonic() - start < 10
    assert (problem.what, problem.passes) == ("the server cannot be connected to in 0.1 s", True)
    await client.aclose()


async def test_a_handshake_counts_as_connecting(certificates: trustme.CA) -> None:
    """A server that accepts and does not shake hands is given up after the connect time."""
    client = Client(Timing(connect=0.1, stall=30))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        problem = await trouble(client, f"https://127.0.0.1:{listener.getsockname()[1]}/")

    assert "cannot be connected to in 0.1 s" in problem.what
    await client.aclose()


async def test_a_closed_port_may_open(client: Client) -> None:
    """A refused connection may pass."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problem = await trouble(client, f"http://127.0.0.1:{port}/")

    assert (problem.kind, problem.what, problem.passes) == (
        ErrorKind.SOURCE_UNREACHABLE, "the server cannot be connected to", True,
    )  # fmt: skip


async def test_a_dead_address_gives_way_to_the_next(client: Client) -> None:
    """Where an address fails or does not answer, the next one is tried without waiting for it."""
    names(many_example=[["127.0.0.4", "127.0.0.3", "127.0.0.2"]])
    reach = reach_of([], ["127.0.0.0/8"])
    async with Wire(reply(b"alive")).serve(host="127.0.0.2") as wire:
        with deaf("127.0.0.3", wire.port):
            _, body = await ask(client, f"http://many.example:{wire.port}/", reach)

    assert body == b"alive"


async def test_the_loser_of_a_race_is_closed(client: Client) -> None:
    """Where two addresses answer, one connection is kept and no other left open."""
    names(many_example=[["127.0.0.3", "127.0.0.2"]])
    reach = reach_of([], ["127.0.0.0/8"])
    one, two = Wire(reply(b"x")), Wire(reply(b"x"))
    async with one.serve(host="127.0.0.2"), two.serve(host="127.0.0.3", port=one.port):
        await ask(client, f"http://many.example:{one.port}/", reach)

    assert (one.connections, two.connections) == (0, 1)


async def test_of_two_winners_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two addresses answer in the same instant, one connection is kept and the other closed."""
    pairs = [socket.socketpair(), socket.socketpair()]
    connected = [pair[0] for pair in pairs]
    left = iter(connected)

    async def attempt(place: object) -> socket.socket:
        mine = next(left)
        await both.wait()
        return mine

    async def release() -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert both.statistics().tasks_waiting == 2
        both.set()

    both = trio.Event()
    monkeypatch.setattr(transport, "_attempt", attempt)
    monkeypatch.setattr(transport, "STAGGER", 0)
    places = [transport._Place(4, ("a",)), transport._Place(4, ("b",))]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        won = await transport._race(places)

    assert won.fileno() >= 0
    assert sorted(one.fileno() >= 0 for one in connected) == [False, True]
    for one in [won, *(pair[1] for pair in pairs)]:
        one.close()


def test_families_take_turns() -> None:
    """Addresses of the two families are tried in turn, each once."""
    places = [
        transport._Place(family, (name,))
        for family, name in [(6, "a"), (6, "b"), (4, "c"), (6, "b"), (4, "d"), (6, "e")]
    ]

    assert [place.sockaddr[0] for place in transport._in_turn(places)] == ["a", "c", "b", "d", "e"]
    assert transport._in_turn([]) == []


async def test_a_name_without_addresses(client: Client) -> None:
    """A name that exists and has no address cannot be connected to."""
    names(empty_example=[[]])

    assert (await trouble(client, "http://empty.example/")).passes


# -- TLS ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_encrypted_exchanges(
    client: Client, certificates: trustme.CA, version: ssl.TLSVersion
) -> None:
    """Bodies come whole over TLS, whatever their size, and connections are used again."""
    bodies = [b"x", b"y" * 16384, b"z" * 3_000_000]
    context = server_context(certificates, "127.0.0.1")
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with Wire(*map(reply, bodies)).serve(context) as wire:
        for body in bodies:
            assert (await ask(client, f"https://{wire.authority}/"))[1] == body

    assert wire.connections == 1


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_for_another_name_is_refused(
    client: Client, certificates: trustme.CA
) -> None:
    """A certificate counts for the names in it only."""
    async with Wire(reply(b"x")).serve(
        server_context(certificates, "other.example", "127.0.0.2")
    ) as wire:
        problem = await trouble(
            client,
            f"https://{wire.authority}/",
        )

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_UNREACHABLE, False)
    assert problem.what == "the server's certificate is not trusted"
    assert wire.heads == []


async def test_a_certificate_of_a_stranger_is_refused(
    client: Client, certificates: trustme.CA
) -> None:
    """Only authorities of the system, and those that the environment names, are trusted."""
    async with Wire(reply(b"x")).serve(server_context(certificates, "127.0.0.1")) as wire:
        problem = await trouble(client, f"https://{wire.authority}/")

    assert not problem.passes
    assert "SSL_CERT_FILE" in problem.advice
    assert wire.heads == []


async def test_only_current_versions_of_tls_are_spoken() -> None:
    """TLS is 1.2 or later, with names and certificates checked."""
    context = await transport.Trust().context()

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_server_without_tls_is_no_server_of_https(client: Client) -> None:
    """Plain HTTP on a port of `https:` fails as TLS."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        problem = await trouble(
            client, f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        )
        nursery.cancel_scope.cancel()

    assert (problem.what, problem.passes) == ("the TLS connection fails", True)


@pytest.mark.usefixtures("trusted")
async def test_an_encrypted_body_ends_with_a_farewell_only(
    client: Client, certificates: trustme.CA
) -> None:
    """A body that ends with an encrypted connection needs its farewell; without, it is cut short."""

    async def end(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await peer.stream.unwrap()

    async def cut(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await peer.cut()

    async with Wire(end, cut).serve(server_context(certificates, "127.0.0.1")) as wire:
        assert (await ask(client, f"https://{wire.authority}/"))[1] == b"hello"
        problem = await trouble(client, f"https://{wire.authority}/")

    assert (problem.what, problem.passes) == ("the TLS connection ends without a farewell", True)


@pytest.mark.usefixtures("trusted")
async def test_a_forged_record_breaks_the_connection(
    client: Client, certificates: trustme.CA
) -> None:
    """Bytes that are not the peer's, within an encrypted connection, end it."""

    async def forge(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")
        await peer.socket.send_all(b"\x17\x03\x03\x00\x20" + b"forged" * 6)
        await peer.until_closed()

    async with Wire(forge).serve(server_context(certificates, "127.0.0.1")) as wire:
        problem = await trouble(client, f"https://{wire.authority}/")

    assert problem.what == "the TLS connection fails"


async def test_unusable_certificates_are_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of certificates that cannot be read is an error of the configuration that names it."""
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "none.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(SourceError) as caught:
        await ask(client, f"https://127.0.0.1:{listener.getsockname()[1]}/")

    assert caught.value.kind is ErrorKind.BAD_CONFIG
    assert "none.pem" in caught.value.where


# -- proxies -----------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy() as proxy:
        url = proxy.url.replace("http://", "http://user:p%40ss@")
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("https_proxy", url)
        yield proxy


PASSWORD = "Basic dXNlcjpwQHNz"


async def test_plain_requests_through_a_proxy(client: Client, proxy: Proxy) -> None:
    """A plain request goes to the proxy as a URL, with its password, which the server does not see; the proxy resolves the name."""
    resolver = names()
    with ObjectServer() as server:
        server.put("b/k", b"hello")
        proxy.reroute["far.example"] = server.authority
        for _ in range(2):
            assert (await ask(client, "http://far.example/b/k?x"))[1] == b"hello"
        assert server.requests[0].target == "/b/k?x"
        assert "proxy-authorization" not in server.requests[0].headers

    assert proxy.seen == ["GET http://far.example/b/k?x"] * 2
    assert proxy.headers[0]["proxy-authorization"] == PASSWORD
    assert proxy.headers[0]["host"] == "far.example"
    assert resolver.asked == []


@pytest.mark.usefixtures("trusted")
async def test_encrypted_requests_through_a_proxy(
    client: Client, proxy: Proxy, certificates: trustme.CA
) -> None:
    """An encrypted request goes through a tunnel, and the proxy's password stays with the proxy."""
    with ObjectServer(context=server_context(certificates, "127.0.0.1")) as server:
        server.put("b/k", b"hello")
        for _ in range(2):
            assert (await ask(client, f"{server.url}/b/k"))[1] == b"hello"
        assert "proxy-authorization" not in server.requests[0].headers

    assert proxy.seen == [f"CONNECT {server.authority}"]
    assert proxy.headers[0]["proxy-authorization"] == PASSWORD


@pytest.mark.usefixtures("trusted")
async def test_an_encrypted_proxy(
    client: Client, certificates: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may itself be spoken to over TLS, also for encrypted requests."""

    async def tunnel(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inner = trio.SSLStream(peer.stream, context, server_side=True, https_compatible=True)
        await inner.receive_some()
        await inner.send_all(reply(b"inner"))
        await inner.aclose()

    context = server_context(certificates, "127.0.0.1")
    async with Wire(reply(b"outer"), tunnel).serve(context) as wire:
        monkeypatch.setenv("http_proxy", f"https://{wire.authority}")
        monkeypatch.setenv("https_proxy", f"https://{wire.authority}")
        assert (await ask(client, "http://127.0.0.1/"))[1] == b"outer"
        assert (await ask(client, "https://127.0.0.1/"))[1] == b"inner"

    assert wire.heads[0].startswith(b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert wire.heads[1] == b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "localhost",
        "2130706433",
        "169.254.169.254",
        "metadata.google.internal",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_refused_addresses_are_refused_through_a_proxy(
    client: Client, proxy: Proxy, scheme: str, host: str
) -> None:
    """A proxy is not asked for a host that is refused as it is written."""
    assert (await trouble(client, f"{scheme}://{host}/", NOTHING)).kind is ErrorKind.ADDRESS_REFUSED
    assert proxy.seen == []


@pytest.mark.parametrize(
    ("answer", "what", "passes"),
    [
        (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "the proxy asks for a name and a password", False),
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "the proxy does not let the request through (403)", False),
        (b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", "the proxy does not let the request through (502)", True),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "its head is too long", False),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "more comes than was asked for", False),
        (b"SSH-2.0-x\r\n", "it is not HTTP", False),
    ],
)  # fmt: skip
async def test_proxies_that_refuse_a_tunnel(
    client: Client, monkeypatch: pytest.MonkeyPatch, answer: bytes, what: str, passes: bool
) -> None:
    """Whatever a proxy says instead of making a tunnel is an error, and nothing is sent to it then."""
    async with Wire(answer).serve() as wire:
        monkeypatch.setenv("https_proxy", f"http://user:s3cret@{wire.authority}")
        problem = await trouble(client, "https://far.example/")

    assert what in problem.what
    assert problem.passes == passes
    assert problem.kind in {ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_MISMATCH}
    assert "s3cret" not in str(problem)
    assert len(wire.heads) == 1


async def test_a_proxy_that_asks_for_a_password(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that wants a password for a plain request is not taken for the server."""
    async with Wire(reply(b"", status="407 No")).serve() as wire:
        monkeypatch.setenv("http_proxy", f"http://{wire.authority}")
        problem = await trouble(client, "http://far.example/")

    assert (problem.what, problem.passes) == ("the proxy asks for a name and a password", False)


def test_a_proxy_keeps_its_password_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of a proxy is in no representation."""
    monkeypatch.setenv("https_proxy", "http://user:s3cret@proxy.example:3128")
    route = transport.route_to("https", "far.example", NOTHING)

    assert route.proxy is not None
    assert "dXNlcjpzM2NyZXQ=" in route.proxy.login
    assert "proxy.example:3128" in repr(route)
    assert "s3cret" not in repr(route)
    assert "dXNl" not in repr(route)


async def test_a_proxy_of_another_kind_is_an_error(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is not of HTTP is an error of the configuration."""
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(SourceError) as caught:
        await ask(client, "http://far.example/")

    assert caught.value.kind is ErrorKind.BAD_CONFIG
