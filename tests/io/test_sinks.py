"""Bodies that are read in place: into the buffer they are for, and nowhere else."""

import itertools
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.conformance import Basin, authorized, plain_environment
from tests.io.wires import Peer, Wire, reply
from vzfs.access import AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.source import DEFAULT_PACE, Places, Source, Timing
from vzfs.source.addresses import reach_of
from vzfs.source.client import Client, Request, Response, Trouble

LOOPBACK = reach_of(["127.0.0.1"], [])
DATA = bytes(range(256)) * 1600  # 400 KiB
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNENDING = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(Timing(connect=30, stall=30))
    yield client
    await client.aclose()
    assert client.statistics().active == 0


async def pour(client: Client, wire: Wire, size: int, scheme: str = "http") -> "Poured":
    """Ask *wire* for a body and read it into a buffer of *size* bytes, with a margin around it."""
    poured = Poured(size)
    request = Request("GET", scheme, wire.authority, "/k", {})
    with trio.fail_after(20):
        with await client.send(request, LOOPBACK) as poured.response:
            try:
                await poured.response.read_into(poured.buffer, poured.counts.append)
            except Trouble as trouble:
                poured.trouble = trouble
    assert poured.around == bytes(8)
    return poured


class Poured:
    """A body as it came: *counts* are what was told of it, *trouble* is how it ended, if it did."""

    def __init__(self, size: int) -> None:
        self._room = bytearray(size + 8)
        self.buffer = memoryview(self._room)[4 : size + 4]
        self.counts: list[int] = []
        self.response: Response
        self.trouble: Trouble | None = None

    @property
    def around(self) -> bytes:
        return bytes(self._room[:4] + self._room[-4:])


def in_chunks(data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def finish(whole: bytes, peer: Peer) -> None:
    """Send *whole* and end the connection."""
    await peer.send(whole)
    await peer.stream.aclose()


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, len(DATA)])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_bodies_of_every_size(client: Client, size: int, is_chunked: bool) -> None:
    """A body comes whole into its buffer, with counts that grow to its size, and the connection is used again."""
    data = DATA[:size]
    whole = CHUNKED + in_chunks(data, 50_000) if is_chunked else reply(data)
    async with Wire(whole, whole).serve() as wire:
        for _ in range(2):
            poured = await pour(client, wire, size)
            assert poured.trouble is None
            assert poured.buffer == data
            assert poured.response.received == size
            assert poured.counts == sorted(set(poured.counts))
            assert poured.counts[-1] == size

    assert wire.connections == 1


async def test_counts_come_while_the_body_does(client: Client) -> None:
    """What has come is told before the rest comes, in steps that are not small."""
    counts: list[int] = []
    for begin, give in (
        (reply(DATA)[: -len(DATA)], lambda piece: piece),
        (CHUNKED, lambda piece: b"%x\r\n%s\r\n" % (len(piece), piece)),
    ):
        told = trio.Event()

        async def slowly(peer: Peer, begin=begin, give=give, told=told) -> None:
            await peer.send(begin)
            for at in range(0, 200_000, 1000):
                await peer.send(give(DATA[at : at + 1000]))
            with trio.fail_after(20):
                await told.wait()
            rest = give(DATA[200_000:])
            await peer.send(rest + (b"0\r\n\r\n" if begin is CHUNKED else b""))

        def came(count: int, told=told) -> None:
            counts.append(count)
            if count >= 100_000:
                told.set()

        counts.clear()
        async with Wire(slowly).serve() as wire:
            request = Request("GET", "http", wire.authority, "/k", {})
            with await client.send(request, LOOPBACK) as response:
                await response.read_into(memoryview(bytearray(len(DATA))), came)
        assert counts[-1] == len(DATA)
        steps = [after - before for before, after in itertools.pairwise(counts)]
        assert min(steps[:-1]) >= 65536


@pytest.mark.parametrize("size", [5, 400_000])
async def test_a_body_that_ends_with_the_connection(client: Client, size: int) -> None:
    """A body without length ends with its connection, which is not used again; a longer or shorter one is refused."""
    data = DATA[:size]
    for sent, is_right in ((data, True), (data + b"+", False), (data[:-1], False)):
        async with Wire(lambda peer, sent=sent: finish(UNENDING + sent, peer)).serve() as wire:
            poured = await pour(client, wire, size)
            assert (poured.trouble is None) is is_right
            assert not poured.response.is_consumed
            if is_right:
                assert poured.buffer == data


@pytest.mark.parametrize(
    ("whole", "passes"),
    [
        (reply(DATA[:9]), False),
        (reply(DATA[:11]), False),
        (CHUNKED + in_chunks(DATA[:9], 4), True),
        (CHUNKED + in_chunks(DATA[:11], 4), False),
        (CHUNKED + in_chunks(DATA[:11], 400), False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + DATA[:9], True),
        (CHUNKED + b"a\r\n012345678", True),
        (CHUNKED + b"a\r\n0123456789\r\n", True),
        (CHUNKED + b"a\r\n0123456789XX", False),
    ],
)
async def test_a_body_of_another_length(client: Client, whole: bytes, passes: bool) -> None:
    """A body that is not as long as its buffer, or ends early, is refused, and no byte goes beyond the buffer."""
    async with Wire(lambda peer: finish(whole, peer)).serve() as wire:
        poured = await pour(client, wire, 10)

    assert poured.trouble is not None
    assert poured.trouble.kind is ErrorKind.SOURCE_MISMATCH
    assert poured.trouble.passes is passes
    assert client.statistics().idle == 0


async def test_surplus_ends_the_connection(client: Client) -> None:
    """Bytes behind the body go nowhere, and their connection is not used again."""
    async with Wire(reply(b"hello") + b"more", reply(b"hello")).serve() as wire:
        for _ in range(2):
            poured = await pour(client, wire, 5)
            assert poured.buffer == b"hello"

    assert wire.connections == 2


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("size", [1, 16384, 16385, len(DATA)])
async def test_an_encrypted_body(client: Client, context: ssl.SSLContext, size: int) -> None:
    """What comes encrypted is decrypted into the buffer; the connection is used again."""
    async with Wire(reply(DATA[:size]), reply(DATA[:size])).serve(context) as wire:
        for _ in range(2):
            poured = await pour(client, wire, size, "https")
            assert poured.buffer == DATA[:size]
            assert poured.counts[-1] == size

    assert wire.connections == 1


@pytest.mark.parametrize(("is_meant", "passes"), [(True, True), (False, True)])
async def test_an_encrypted_body_that_ends_early(
    client: Client, context: ssl.SSLContext, is_meant: bool, passes: bool
) -> None:
    """An encrypted body that ends early is a trouble that may pass, with a farewell or without."""

    async def end(peer: Peer) -> None:
        await peer.send(reply(DATA)[:300_000])
        if is_meant:
            with trio.move_on_after(0.05):
                await peer.stream.unwrap()
        await peer.cut()

    async with Wire(end).serve(context) as wire:
        poured = await pour(client, wire, len(DATA), "https")

    assert poured.trouble is not None
    assert poured.trouble.passes is passes
    assert poured.trouble.kind is (
        ErrorKind.SOURCE_MISMATCH if is_meant else ErrorKind.SOURCE_UNREACHABLE
    )


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_a_body_that_trickles_does_not_stall(
    context: ssl.SSLContext, mock_clock: trio.testing.MockClock, is_encrypted: bool
) -> None:
    """Bytes too few to wake anybody for still count as a sign of life."""
    client = Client(Timing(connect=30, stall=20))

    async def trickle(peer: Peer) -> None:
        whole, at = reply(DATA), len(reply(DATA)) - len(DATA) + 100
        await peer.send(whole[:at])
        for _ in range(8):
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(15)
            await peer.send(whole[at : at + 100])
            at += 100
        await peer.send(whole[at:])

    async with Wire(trickle).serve(context if is_encrypted else None) as wire:
        poured = Poured(len(DATA))
        scheme = "https" if is_encrypted else "http"
        request = Request("GET", scheme, wire.authority, "/k", {})
        with await client.send(request, LOOPBACK) as response:
            await response.read_into(poured.buffer, poured.counts.append)
    assert poured.buffer == DATA
    assert trio.current_time() >= 120
    await client.aclose()


async def test_a_body_that_stalls_is_given_up(mock_clock: trio.testing.MockClock) -> None:
    """A body of which nothing comes any more is given up, after the stall limit or at most two of it and a bit."""
    client = Client(Timing(connect=30, stall=20))

    async def stall(peer: Peer) -> None:
        await peer.send(reply(DATA)[:1000])
        for _ in range(9):
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(5)
        await peer.until_closed()

    async with Wire(stall).serve() as wire:
        request = Request("GET", "http", wire.authority, "/k", {})
        with (
            await client.send(request, LOOPBACK) as response,
            pytest.raises(Trouble, match="nothing for 20 s"),
        ):
            await response.read_into(memoryview(bytearray(len(DATA))), int)
    assert 20 <= trio.current_time() <= 45
    await client.aclose()


async def test_a_kept_connection_hears_every_byte(client: Client) -> None:
    """After a large body, a connection that the peer closes or writes to is seen to be of no more use, and heads are heard at once."""
    async with Wire(reply(DATA), reply(b"y"), reply(DATA), *[reply(b"y")] * 2).serve() as wire:
        assert (await pour(client, wire, len(DATA))).buffer == DATA
        assert (await pour(client, wire, 1)).buffer == b"y"
        assert wire.connections == 1

        async def add(peer: Peer) -> None:
            await peer.send(reply(DATA))
            await peer.send(b"!")

        wire.replies[0] = add
        assert (await pour(client, wire, len(DATA))).buffer == DATA
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await pour(client, wire, 1)).buffer == b"y"
        assert wire.connections == 2


async def test_a_large_body_wakes_its_reader_seldom(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a body that comes in many pieces the reader is woken for some bytes together."""
    waits = 0
    wait = trio.lowlevel.wait_readable

    async def counted(fd: object) -> None:
        nonlocal waits
        if isinstance(fd, socket.socket) and fd.getpeername()[1] == wire.port:
            waits += 1
        await wait(fd)

    async def drip(peer: Peer) -> None:
        whole = reply(DATA)
        for at in range(0, len(whole), 4096):
            await peer.send(whole[at : at + 4096])
            await trio.testing.wait_all_tasks_blocked()

    monkeypatch.setattr(trio.lowlevel, "wait_readable", counted)
    async with Wire(drip).serve() as wire:
        assert (await pour(client, wire, len(DATA))).buffer == DATA
    assert waits <= len(DATA) // 16384


# -- fetches -----------------------------------------------------------------------------------


@pytest.fixture(name="source")
async def _source(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Source:
    plain_environment(monkeypatch)
    source = Source(Timing(deadline=20, attempts=3, backoff=0.001, hedge=0.02), places=Places(32))
    await nursery.start(source.run)
    return source


def part(wire: Wire, length: int = len(DATA)) -> AuthorizedRange:
    return authorized(f"http://{wire.authority}/k", 0, length)


def whole(data: bytes = DATA, etag: str = "a") -> bytes:
    return reply(data, f'ETag: "{etag}"')


async def tear(sent: bytes, peer: Peer) -> None:
    await peer.send(sent)
    await peer.reset()


async def test_the_pace_of_a_host_is_observed(source: Source) -> None:
    """Each reply tells how long its host takes to the first byte, and each large body how fast it sends."""
    async with Wire(whole(b"hello"), whole()).serve() as wire:
        assert source.pace(part(wire)) == DEFAULT_PACE
        await source.fetch(part(wire, 5))
        latency, bandwidth = source.pace(part(wire))
        assert latency != DEFAULT_PACE.latency
        assert bandwidth == DEFAULT_PACE.bandwidth
        await source.fetch(part(wire), sink=Basin(DATA))
        assert source.pace(part(wire)).bandwidth != bandwidth


async def test_each_attempt_begins_anew(source: Source) -> None:
    """An attempt that breaks is followed by one that tells the version again, and counts from the start."""
    half = whole()[:200_000]
    async with Wire(lambda peer: tear(half, peer), whole()).serve() as wire:
        basin = Basin(DATA)
        fetched = await source.fetch(part(wire), sink=basin)

    assert basin.buffer == DATA
    assert basin.versions == ['"a"', '"a"'] == [fetched.version] * 2
    assert basin.counts[1][-1] == len(DATA)
    assert source.statistics().retries == 1


async def test_a_version_that_changes_between_attempts(source: Source) -> None:
    """The sink hears of the other version before a byte of it is in the buffer, and ends the fetch."""

    class Strict(Basin):
        def begin(self, version: str) -> memoryview:
            if self.versions and version != self.versions[0]:
                raise SourceError(ErrorKind.SOURCE_CHANGED, "another")
            return super().begin(version)

    other = DATA[::-1]
    async with Wire(lambda peer: tear(whole()[:200_000], peer), whole(other, "b")).serve() as wire:
        basin = Strict(DATA)
        with pytest.raises(SourceError) as caught:
            await source.fetch(part(wire), sink=basin)

    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert not any(map(set(other[:4]).__contains__, basin.buffer[250_000:250_100]))
    assert len(wire.heads) == 2


async def test_a_race_fills_one_buffer(source: Source) -> None:
    """Of a fetch that is raced both attempts are told to the sink, and nobody writes once it is over."""
    resume = trio.Event()

    async def stall(peer: Peer) -> None:
        await peer.send(whole()[:100_000])
        await resume.wait()
        await peer.send(whole()[100_000:])

    async with Wire(*[whole()] * 16, stall, whole()).serve() as wire:
        for _ in range(16):
            await source.fetch(part(wire))
        basin = Basin(DATA)
        with trio.fail_after(10):
            fetched = await source.fetch(part(wire), sink=basin)
        assert fetched.data == DATA
        basin.buffer[:] = bytes(len(DATA))
        resume.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not any(basin.buffer)

    assert basin.versions == ['"a"', '"a"']
    assert basin.counts[1][-1] == len(DATA)
    assert source.statistics().hedges == 1
