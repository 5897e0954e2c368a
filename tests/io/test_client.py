"""HTTP/1.1 exchanges: what is sent, what replies count, and which connections are used again."""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.io.wires import Peer, Wire, reply
from vzfs.errors import ErrorKind
from vzfs.source import client as client_module
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Client, Request, Response, Trouble
from vzfs.source.fetcher import Timing
from vzfs.source.messages import MAX_HEAD, MAX_HEADERS

LOOPBACK = reach_of(["127.0.0.1"], [])
PATIENT = Timing(connect=30, stall=30)
HASTY = Timing(connect=30, stall=0.05)


def request(wire: Wire, target: str = "/k", method: str = "GET", **headers: str) -> Request:
    return Request(method, "http", wire.authority, target, headers)


async def ask(
    client: Client, wanted: Request, limit: int = 1 << 20, reach: Reach = LOOPBACK
) -> tuple[Response, bytes]:
    """Return the reply to *wanted* and its body."""
    with await client.send(wanted, reach) as response:
        return response, await response.read(limit)


async def trouble(client: Client, wanted: Request, limit: int = 1 << 20) -> Trouble:
    """Return the trouble that comes of *wanted*, in bounded time."""
    with trio.fail_after(20), pytest.raises(Trouble) as caught:
        await ask(client, wanted, limit)
    assert client.statistics().active == 0
    return caught.value


@pytest.fixture
async def client():
    client = Client(PATIENT)
    yield client
    await client.aclose()
    statistics = client.statistics()
    assert (statistics.active, statistics.idle) == (0, 0)


# -- requests ----------------------------------------------------------------------------------


async def test_a_request_is_sent_as_it_is_given(client: Client) -> None:
    """Target and headers go out byte for byte, with Host and nothing else."""
    async with Wire(reply(b"hello")).serve() as wire:
        response, body = await ask(
            client, request(wire, "/a%20b//../c?x=%2F", Range="bytes=0-4", If_Match='"\xe9"')
        )

    assert (response.status, body, response.length, response.received) == (200, b"hello", 5, 5)
    assert wire.heads == [
        b"GET /a%20b//../c?x=%2F HTTP/1.1\r\nHost: " + wire.authority.encode()
        + b'\r\nRange: bytes=0-4\r\nIf_Match: "\xe9"\r\n\r\n'
    ]  # fmt: skip


async def test_a_body_is_sent_with_its_length(client: Client) -> None:
    """A request with a body announces its length; so does an empty one, where a method expects one."""
    async with Wire(reply(b""), reply(b"")).serve() as wire:
        await ask(client, request(wire, method="POST")._replace(body=b"a=b"))
        await ask(client, request(wire, method="PUT"))

    assert wire.heads[0].endswith(b"Content-Length: 3\r\n\r\na=b")
    assert wire.heads[1].endswith(b"Content-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "change",
    [
        {"target": "/a b"}, {"target": "/a\r\nX: y"}, {"target": "/\n"}, {"target": "/\0"}, {"target": "/é"},
        {"target": "a"}, {"target": "http://other/"}, {"target": "/a#b"}, {"target": ""},
        {"method": "GET /x"}, {"method": "get"}, {"method": ""}, {"method": "GET\r\n"},
        {"authority": "a b"}, {"authority": "a\r\nX: y"}, {"authority": "user@host"}, {"authority": "a/b"},
        {"headers": {"X": "a\r\nY: b"}}, {"headers": {"X": "a\nb"}}, {"headers": {"X": "a\rb"}},
        {"headers": {"X": "a\0"}}, {"headers": {"X": "€"}}, {"headers": {"X": "a\x7f"}},
        {"headers": {"X: y": "a"}}, {"headers": {"X\r\nY": "a"}}, {"headers": {"": "a"}}, {"headers": {"É": "a"}},
        {"headers": {"host": "b"}}, {"headers": {"Transfer-Encoding": "chunked"}}, {"headers": {"Content-Length": "1"}},
        {"headers": {"connection": "x"}}, {"headers": {"Proxy-Authorization": "x"}}, {"headers": {"Expect": "x"}},
    ],
)  # fmt: skip
async def test_what_would_break_out_of_a_head_is_refused(change: dict[str, object]) -> None:
    """No target, header or host can begin another line or take the client's own headers' place."""
    wanted = Request("GET", "http", "example.org", "/k", {"X": "y"})._replace(**change)

    with pytest.raises(ValueError, match=r"malformed|may not have"):
        await Client(PATIENT).send(wanted, LOOPBACK)


# -- bodies ------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1 << 18, (1 << 20) + 17])
async def test_bodies_of_every_size(client: Client, size: int) -> None:
    """A body comes whole, whatever its size, and its connection is used again."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with Wire(reply(data), reply(data)).serve() as wire:
        for _ in range(2):
            response, body = await ask(client, request(wire), size)
            assert body == data
            assert response.received == size

    assert wire.connections == 1


async def test_a_body_that_comes_byte_by_byte(client: Client) -> None:
    """Heads, bodies and chunks are the same in whatever pieces they come."""
    wires = [
        reply(b"hello", "ETag: x"),
        CHUNKED + b"3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n",
    ]

    async def drip(whole: bytes, peer: Peer) -> None:
        for index in range(len(whole)):
            await peer.send(whole[index : index + 1])
            await trio.testing.wait_all_tasks_blocked()

    async with Wire(*(partial(drip, whole) for whole in wires)).serve() as wire:
        for _ in wires:
            response, body = await ask(client, request(wire))
            assert body == b"hello"
            assert "trailer" not in response.headers

    assert wire.connections == 1


async def test_a_body_in_chunks(client: Client) -> None:
    """A body in chunks has no length beforehand, and its connection is used again."""
    big = b"x" * 300_000
    whole = CHUNKED + b"%x\r\n%b\r\n1\r\ny\r\n0\r\n\r\n" % (len(big), big)
    async with Wire(whole, whole).serve() as wire:
        for _ in range(2):
            response, body = await ask(client, request(wire))
            assert body == big + b"y"
            assert response.length is None

    assert wire.connections == 1


async def test_a_body_that_ends_with_the_connection(client: Client) -> None:
    """Without length and chunks, a body ends with the connection."""

    async def answer(peer: Peer) -> None:
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await peer.cut()

    async with Wire(answer).serve() as wire:
        response, body = await ask(client, request(wire))

    assert (response.length, body) == (None, b"hello")
    assert client.statistics().idle == 0


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")],
)
async def test_replies_without_a_body(client: Client, method: str, status: str) -> None:
    """Replies to HEAD, 204 and 304 have no body, whatever length they announce."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n".encode()
    async with Wire(head, head).serve() as wire:
        for _ in range(2):
            response, body = await ask(client, request(wire, method=method))
            assert (response.length, body) == (5, b"")

    assert wire.connections == 1


@pytest.mark.parametrize("whole", [reply(b"hello!"), CHUNKED + b"6\r\nhello!\r\n0\r\n\r\n"])
async def test_a_body_over_the_limit_is_refused(client: Client, whole: bytes) -> None:
    """A body longer than the caller's limit is refused, and its connection closed."""
    async with Wire(whole).serve() as wire:
        problem = await trouble(client, request(wire), 5)

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_MISMATCH, False)
    assert "more than the 5 bytes" in problem.what


async def test_an_endless_body_stops_at_the_limit(client: Client) -> None:
    """A body without an end is read up to the limit only, in chunks or not."""

    async def pour(start: bytes, piece: bytes, peer: Peer) -> None:
        await peer.send(start)
        while True:
            await peer.send(piece * 1000)

    endless = [
        partial(pour, b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        partial(pour, CHUNKED, b"3\r\nxyz\r\n"),
        partial(pour, b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", b"x"),
    ]
    async with Wire(*endless).serve() as wire:
        for _ in endless:
            problem = await trouble(client, request(wire), 10_000)
            assert "more than the 10000 bytes" in problem.what


async def test_framing_without_content_is_refused(client: Client) -> None:
    """Chunk extensions and trailers cost a bounded number of bytes, for a body however small."""

    async def pour(start: bytes, piece: bytes, peer: Peer) -> None:
        await peer.send(CHUNKED + start)
        while True:
            await peer.send(piece * 1000)

    endless = [
        partial(pour, b"5;", b"a=b;"),
        partial(pour, b"", b"1;a=bcdefghijklmnopqrstuvwxyz\r\nx\r\n"),
        partial(pour, b"0\r\n", b"X: y\r\n"),
        partial(pour, b"0\r\nX: ", b"y"),
    ]
    async with Wire(*endless).serve() as wire:
        for _ in endless:
            problem = await trouble(client, request(wire), 1 << 30)
            assert problem.kind is ErrorKind.SOURCE_MISMATCH
            assert not problem.passes


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n",
        CHUNKED + b"6\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED,
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
async def test_a_reply_that_ends_early_may_pass(client: Client, whole: bytes) -> None:
    """A reply that ends before its end is no reply; the next attempt may be better."""

    async def answer(peer: Peer) -> None:
        await peer.send(whole)
        await peer.cut()

    async with Wire(answer).serve() as wire:
        problem = await trouble(client, request(wire))

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_MISMATCH, True)
    assert "early" in problem.what


# -- heads -------------------------------------------------------------------------------------


async def test_headers_are_found_by_their_lower_case_names(client: Client) -> None:
    """Header names are in lower case, values without the blanks around them, and repeated ones joined."""
    whole = reply(b"", 'ETag:   "a"  ', "X-Two: 1", "x-two: 2", "Empty:", "Latin: \xe9")
    async with Wire(whole).serve() as wire:
        response, _ = await ask(client, request(wire))

    assert dict(response.headers) == {
        "content-length": "0", "etag": '"a"', "x-two": "1, 2", "empty": "", "latin": "\xe9",
    }  # fmt: skip


HOSTILE = {
    "both-framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
    "both-framings-turned": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length-list": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
    "length-sign": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "length-hex": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "length-negative": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "length-huge": b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nhello",
    "length-empty": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
    "other-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "two-codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "switching-bare": b"HTTP/1.1 101 Switching\r\n\r\n",
    "http-0.9": b"hello",
    "http-0.9-version": b"HTTP/0.9 200 OK\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\n\r\n",
    "blank-first": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bare-lf-inside": b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 5\r\n\r\nhello",
    "bare-cr-inside": b"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 5\r\n\r\nhello",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "blank-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "no-name": b"HTTP/1.1 200 OK\r\n: 5\r\n\r\nhello",
    "no-colon": b"HTTP/1.1 200 OK\r\nhello\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "control": b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "status-short": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status-long": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status-word": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "too-many-headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "too-long": b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n",
    "endless": b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD,
    "too-many-announcements": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9 + reply(b""),
    "bad-chunk-size": CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n",
    "huge-chunk-size": CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "negative-chunk-size": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk-without-end": CHUNKED + b"5\r\nhelloworld\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("whole", HOSTILE.values(), ids=HOSTILE)
async def test_malformed_replies_are_refused(client: Client, whole: bytes) -> None:
    """A reply that could be read in two ways, or is too long in its head, is refused for good; the connection stays open meanwhile."""

    async def answer(peer: Peer) -> None:
        await peer.send(whole)
        await peer.until_closed()

    async with Wire(answer).serve() as wire:
        problem = await trouble(client, request(wire))

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_MISMATCH, False)
    assert "hello" not in problem.what


async def test_announcements_before_the_reply_are_skipped(client: Client) -> None:
    """Some informational replies may come before the one that counts."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with Wire(early + reply(b"hello"), reply(b"again")).serve() as wire:
        response, body = await ask(client, request(wire))
        assert (response.status, body) == (200, b"hello")
        assert "link" not in response.headers
        assert (await ask(client, request(wire)))[1] == b"again"

    assert wire.connections == 1


TEMPLATES = [
    reply(b"hello", 'ETag: "a"', "Connection: keep-alive", status="206 Partial Content"),
    CHUNKED + b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello",
]
PARTS = [b"\r\n", b"\n", b"\r", b" ", b"\0", b":", b"0", b"9", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n", b"HTTP/1.1 ", b"\xff"]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a reply in which some places are cut, doubled or overwritten."""
    whole = draw(st.sampled_from(TEMPLATES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(whole)))
        end = draw(st.integers(start, min(len(whole), start + 20)))
        part = draw(st.one_of(st.just(b""), st.sampled_from(PARTS), st.binary(max_size=4)))
        whole = whole[:start] + part + whole[end:]
    return whole


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_any_reply_is_a_response_or_a_trouble(whole: bytes) -> None:
    """Whatever bytes a server sends, there is a reply within the limit or a Trouble, in bounded time."""

    async def answer(peer: Peer) -> None:
        await peer.send(whole)
        await peer.cut()

    async def main() -> None:
        client = Client(PATIENT)
        async with Wire(answer, answer).serve() as wire:
            with trio.fail_after(20):
                try:
                    response, body = await ask(client, request(wire), 64)
                except Trouble:
                    pass
                else:
                    assert 200 <= response.status <= 999
                    assert len(body) <= 64
        statistics = client.statistics()
        assert statistics.active == 0
        await client.aclose()

    trio.run(main)


# -- connections -------------------------------------------------------------------------------


async def test_connections_are_used_again(client: Client) -> None:
    """Exchanges one after another share a connection, and at the same time have one each."""
    async with Wire(*[reply(b"x")] * 20).serve() as wire:
        for _ in range(3):
            await ask(client, request(wire))
        assert wire.connections == 1
        with (
            await client.send(request(wire), LOOPBACK) as first,
            await client.send(request(wire), LOOPBACK) as second,
        ):
            await first.read(9)
            await second.read(9)
        assert wire.connections == 2
        assert client.statistics() == (2, 3, 0, 2)


async def test_another_reach_has_its_own_connections(client: Client) -> None:
    """A connection that one reach permits is not used by an exchange with another."""
    other = reach_of(["127.0.0.1"], ["10.0.0.0/8"])
    async with Wire(reply(b"x"), reply(b"x")).serve() as wire:
        await ask(client, request(wire))
        await ask(client, request(wire), reach=other)
        with pytest.raises(Trouble) as caught:
            await ask(client, request(wire), reach=reach_of([], []))

    assert caught.value.kind is ErrorKind.ADDRESS_REFUSED
    assert wire.connections == 2


@pytest.mark.parametrize(
    "whole",
    [
        reply(b"hello", "Connection: close"),
        reply(b"hello", "Connection: foo, Close"),
        reply(b"hello") + b"x",
        reply(b"hello") + reply(b"bogus"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\nx",
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + reply(b"bogus"),
    ],
)
async def test_a_connection_that_may_not_be_used_again_is_closed(
    client: Client, whole: bytes
) -> None:
    """After `close`, HTTP/1.0, or bytes beyond the reply, a connection is closed; nothing beyond a reply is taken for the next one."""
    async with Wire(whole, reply(b"right")).serve() as wire:
        assert (await ask(client, request(wire)))[1] == b"hello"
        assert client.statistics().idle == 0
        assert (await ask(client, request(wire)))[1] == b"right"

    assert wire.connections == 2


async def test_a_body_after_the_reply_to_head_ends_the_connection(client: Client) -> None:
    """A server that sends a body where there is none loses its connection, whether it is read or not."""
    async with Wire(reply(b"hello"), reply(b"hello")).serve() as wire:
        with await client.send(request(wire, method="HEAD"), LOOPBACK):
            pass
        assert client.statistics().idle == 0
        assert (await ask(client, request(wire, method="HEAD")))[1] == b""
        assert client.statistics().idle == 0


async def test_bytes_that_come_later_end_a_connection(client: Client) -> None:
    """An idle connection on which bytes come is not used again."""

    async def answer(peer: Peer) -> None:
        await peer.send(reply(b"hello"))
        await more.wait()
        await peer.send(reply(b"bogus"))
        sent.set()

    more, sent = trio.Event(), trio.Event()
    async with Wire(answer, reply(b"right")).serve() as wire:
        assert (await ask(client, request(wire)))[1] == b"hello"
        more.set()
        await sent.wait()
        assert (await ask(client, request(wire)))[1] == b"right"

    assert wire.connections == 2


async def test_http_1_0_may_persist(client: Client) -> None:
    """A server of HTTP/1.0 keeps a connection if it says so."""
    whole = b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello"
    async with Wire(whole, whole).serve() as wire:
        await ask(client, request(wire))
        await ask(client, request(wire))

    assert wire.connections == 1


@pytest.mark.parametrize("end", [Peer.cut, Peer.reset])
async def test_a_dead_idle_connection_is_replaced(
    client: Client, end: Callable[[Peer], Awaitable[None]]
) -> None:
    """A kept connection that the server has closed meanwhile costs nothing but a new one."""

    async def answer(peer: Peer) -> None:
        await peer.send(reply(b"first"))
        await gone.wait()
        await end(peer)
        closed.set()

    gone, closed = trio.Event(), trio.Event()
    async with Wire(answer, reply(b"second")).serve() as wire:
        await ask(client, request(wire))
        gone.set()
        await closed.wait()
        assert (await ask(client, request(wire)))[1] == b"second"

    assert len(wire.heads) == 2


@pytest.mark.parametrize("end", [Peer.cut, Peer.reset])
async def test_a_kept_connection_that_breaks_is_tried_once_more(
    client: Client, end: Callable[[Peer], Awaitable[None]]
) -> None:
    """A kept connection that ends instead of replying is replaced, once, and a new one is not."""
    async with Wire(reply(b"first"), end, reply(b"second"), end, end).serve() as wire:
        await ask(client, request(wire))
        assert (await ask(client, request(wire)))[1] == b"second"
        problem = await trouble(client, request(wire))

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_UNREACHABLE, True)
    assert len(wire.heads) == 5


async def test_a_reply_that_has_begun_is_not_asked_for_again(client: Client) -> None:
    """Once a byte of the reply has come, a broken connection is the caller's to judge."""

    async def answer(peer: Peer) -> None:
        await peer.send(b"HTTP")
        await peer.cut()

    async with Wire(reply(b"first"), answer, reply(b"second")).serve() as wire:
        await ask(client, request(wire))
        problem = await trouble(client, request(wire))

    assert problem.passes
    assert len(wire.heads) == 2


async def test_what_may_change_something_is_sent_once(client: Client) -> None:
    """A request with another method than GET and HEAD gets a connection of its own and is never sent twice."""
    async with Wire(reply(b"first"), Peer.cut, reply(b"third")).serve() as wire:
        await ask(client, request(wire))
        await trouble(client, request(wire, method="POST"))

    assert len(wire.heads) == 2


async def test_an_unread_body_closes_its_connection(client: Client) -> None:
    """A connection with a body left in it is closed at once, also after an error of the caller's."""
    async with Wire(reply(b"x" * 100), reply(b"y" * 100), reply(b"z")).serve() as wire:
        with await client.send(request(wire), LOOPBACK):
            pass
        assert client.statistics() == (1, 0, 0, 0)
        with pytest.raises(KeyError), await client.send(request(wire), LOOPBACK):
            raise KeyError
        assert client.statistics() == (2, 0, 0, 0)
        assert (await ask(client, request(wire)))[1] == b"z"


async def test_a_little_body_is_discarded_and_a_long_one_closed(client: Client) -> None:
    """`discard` keeps the connection if little is left, and closes it otherwise."""
    small, large = reply(b"x" * 1000), reply(b"x" * 70_000)
    chunks = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    async with Wire(small, chunks, large, small).serve() as wire:
        for idle in (1, 1, 0, 1):
            with await client.send(request(wire), LOOPBACK) as response:
                await response.discard()
            assert client.statistics().idle == idle

    assert wire.connections == 2


async def test_discarding_does_not_wait_long(
    client: Client, autojump_clock: trio.testing.MockClock
) -> None:
    """A body that does not come is discarded within a second."""

    async def answer(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhel")
        await peer.until_closed()

    async with Wire(answer).serve() as wire:
        with await client.send(request(wire), LOOPBACK) as response:
            start = trio.current_time()
            await response.discard()
            assert trio.current_time() - start <= 1
        assert client.statistics().idle == 0


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"]
)
async def test_a_cancelled_exchange_closes_its_connection(client: Client, start: bytes) -> None:
    """Whoever is cancelled in an exchange leaves no connection behind, wherever the reply stands."""

    async def answer(peer: Peer) -> None:
        await peer.send(start)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await peer.until_closed()
        seen.set()

    seen = trio.Event()
    async with Wire(answer).serve() as wire:
        with trio.CancelScope() as scope:
            await ask(client, request(wire))
        assert scope.cancelled_caught
        assert client.statistics() == (1, 0, 0, 0)
        await seen.wait()


async def test_idle_connections_are_closed_in_time(mock_clock: trio.testing.MockClock) -> None:
    """A connection that has idled too long is not used again, and is closed when another server is asked."""
    client = Client(PATIENT)
    async with (
        Wire(*[reply(b"x")] * 3).serve() as one,
        Wire(reply(b"y"), reply(b"y")).serve() as two,
    ):
        await ask(client, request(one))
        mock_clock.jump(client_module.IDLE_SECONDS - 1)
        await ask(client, request(one))
        assert one.connections == 1
        mock_clock.jump(client_module.IDLE_SECONDS + 1)
        await ask(client, request(two))
        assert client.statistics().idle == 1
        await ask(client, request(one))
        assert one.connections == 2
        await client.aclose()


async def test_a_connection_that_idled_too_long_is_not_used(
    mock_clock: trio.testing.MockClock,
) -> None:
    """Between two looks at all connections, each one's own time counts."""
    client = Client(PATIENT)
    async with (
        Wire(reply(b"x"), reply(b"x")).serve() as one,
        Wire(reply(b"y"), reply(b"y")).serve() as two,
    ):
        await ask(client, request(one))
        mock_clock.jump(client_module.IDLE_SECONDS - 5)
        await ask(client, request(two))
        mock_clock.jump(6)
        await ask(client, request(one))
        mock_clock.jump(client_module.IDLE_SECONDS - 5)
        await ask(client, request(two))
        assert two.connections == 2
        await client.aclose()


async def test_idle_connections_are_few(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many idle connections the one that has idled longest is closed; one server has a limit of its own."""
    monkeypatch.setattr(client_module, "MAX_IDLE", 3)
    monkeypatch.setattr(client_module, "MAX_IDLE_PER_ROUTE", 2)
    async with Wire(*[reply(b"x")] * 9).serve() as one, Wire(*[reply(b"y")] * 9).serve() as two:
        for wire in (one, two):
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    response = stack.enter_context(await client.send(request(wire), LOOPBACK))
                    await response.read(9)
            assert client.statistics().idle == (2 if wire is one else 3)
        assert client.statistics() == (6, 0, 0, 3)
        with await client.send(request(two), LOOPBACK) as response:
            assert client.statistics().idle == 2
            await response.read(9)
        assert client.statistics().reused == 1


async def test_many_exchanges_leave_nothing_behind(client: Client) -> None:
    """After many exchanges at once, some cancelled and some broken, no connection is in use."""
    replies = [
        reply(b"x" * 5000),
        Peer.reset,
        reply(b"y", "Connection: close"),
        CHUNKED + b"1\r\nz\r\n0\r\n\r\n",
    ] * 25

    async def one(wire: Wire, number: int) -> None:
        with trio.move_on_after(0 if number % 7 == 0 else 20), contextlib.suppress(Trouble):
            await ask(client, request(wire))

    async with Wire(*replies).serve() as wire:
        async with trio.open_nursery() as nursery:
            for number in range(90):
                nursery.start_soon(one, wire, number)
        assert client.statistics().active == 0


async def test_a_closed_client_sends_nothing(client: Client) -> None:
    """After `aclose` no connection is left, exchanges under way break, and later ones are errors."""

    async def answer(peer: Peer) -> None:
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        await peer.until_closed()

    async with Wire(reply(b"x"), answer).serve() as wire:
        await ask(client, request(wire))
        assert (await trouble(client, request(wire, method="POST"))).passes
        with pytest.raises(trio.ClosedResourceError):
            await ask(client, request(wire))


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        CHUNKED + b"9\r\nhel",
    ],
)
async def test_a_silent_server_is_given_up(start: bytes) -> None:
    """A server that sends nothing for the stall time is given up, before the reply or in it."""

    async def answer(peer: Peer) -> None:
        await peer.send(start)
        await peer.until_closed()

    client = Client(HASTY)
    async with Wire(answer).serve() as wire:
        problem = await trouble(client, request(wire))

    assert (problem.kind, problem.passes) == (ErrorKind.SOURCE_UNREACHABLE, True)
    assert problem.what == "the server sends nothing for 0.05 s"
    await client.aclose()


async def test_a_trickling_head_is_given_up(mock_clock: trio.testing.MockClock) -> None:
    """A head that comes a byte at a time must be complete in a few stall times."""
    client = Client(Timing(stall=10))
    start = trio.current_time()

    async def answer(peer: Peer) -> None:
        for byte in reply(b"hello"):
            await peer.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked(0.001)
            mock_clock.jump(9)

    async with Wire(answer).serve() as wire:
        problem = await trouble_without_clock(client, request(wire))

    assert problem.passes
    assert trio.current_time() - start <= 40
    await client.aclose()


async def trouble_without_clock(client: Client, wanted: Request) -> Trouble:
    with pytest.raises(Trouble) as caught:
        await ask(client, wanted)
    return caught.value


async def test_a_silent_server_takes_its_idle_connections_along() -> None:
    """After a kept connection has stalled, the others to the same server are not tried."""

    async def first(peer: Peer) -> None:
        await peer.send(reply(b"x"))

    client = Client(HASTY)
    async with Wire(first, first, Peer.until_closed, reply(b"y")).serve() as wire:
        with (
            await client.send(request(wire), LOOPBACK) as one,
            await client.send(request(wire), LOOPBACK) as two,
        ):
            await one.read(9)
            await two.read(9)
        await trouble(client, request(wire))
        assert client.statistics() == (2, 1, 0, 0)
    await client.aclose()


# -- secrets -----------------------------------------------------------------------------------


async def test_troubles_tell_no_secrets(client: Client) -> None:
    """No trouble names the request's headers or the reply's text."""

    async def answer(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 s3cret\r\ns3cret\r\n\r\n")
        await peer.cut()

    async with Wire(answer, Peer.reset).serve() as wire:
        for _ in range(2):
            problem = await trouble(client, request(wire, "/s3cret", Authorization="s3cret"))
            assert "s3cret" not in repr(problem) + str(problem)
