"""Every call ends in time: dead ports, stalled servers, retries, cancellation, many waiting."""

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from tests.conformance import authorized, plain_environment, whole
from tests.servers import ObjectServer, reset, stall, stall_in_body, status
from vzfs.access import Access, AuthorizedRange, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import parse_prefix
from vzfs.source import Haste, Places, Source, Timing, Urgency

KEY = "bucket/data/object"
DATA = bytes(range(200))
HTTP_AND_S3 = pytest.mark.parametrize("scheme", ["http", "s3"])
SOON = 8.0
"""Seconds that nothing here takes, unless a bound on time does not hold."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Run a server with one object."""
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        server.put(KEY, DATA)
        yield server


def part(endpoint: str, scheme: str) -> AuthorizedRange:
    url = f"{endpoint}/{KEY}" if scheme == "http" else f"s3://{KEY}"
    store = StoreOptions(endpoint=endpoint, anonymous=True, allow_http=True)
    return authorized(url, 10, 20, store=store)


def make(limit: int = 8, **timing: float) -> Source:
    attempts = int(timing.pop("attempts", 2))
    return Source(Timing(attempts=attempts, backoff=0.001, **timing), places=Places(limit))


async def refusal(source: Source, wanted: AuthorizedRange) -> SourceError:
    with trio.fail_after(SOON), pytest.raises(SourceError) as caught:
        await source.fetch(wanted)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    with trio.fail_after(SOON):
        while not condition():  # noqa: ASYNC110 -- what is awaited happens in other threads
            await trio.sleep(0.005)


@HTTP_AND_S3
async def test_dead_port(server: ObjectServer, scheme: str) -> None:
    """A refused connection is tried a few times and reported soon."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        source = make(attempts=4)
        error = await refusal(source, part(endpoint, scheme))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE
    assert "connect" in error.what
    assert source.statistics().gets == 4


@HTTP_AND_S3
async def test_unknown_host(server: ObjectServer, scheme: str) -> None:
    """A name that does not resolve is a source that cannot be reached."""
    error = await refusal(make(), part("http://no-such-host.invalid", scheme))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE


@HTTP_AND_S3
@pytest.mark.parametrize("fault", [stall, stall_in_body])
async def test_stall(
    server: ObjectServer, scheme: str, fault: Callable[[threading.Event], object]
) -> None:
    """A server without a byte for the stall limit is asked again, and then given up."""
    gate = threading.Event()
    server.fault(KEY, fault(gate), times=9)
    source = make(stall=0.1, attempts=3)
    error = await refusal(source, part(server.url, scheme))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE
    assert source.statistics().gets == 3
    gate.set()


@HTTP_AND_S3
@pytest.mark.parametrize("fault", [stall, stall_in_body])
async def test_deadline(
    server: ObjectServer, scheme: str, fault: Callable[[threading.Event], object]
) -> None:
    """The deadline covers a fetch that is still waiting for its first attempt."""
    gate = threading.Event()
    server.fault(KEY, fault(gate))
    error = await refusal(make(deadline=0.2), part(server.url, scheme))
    assert error.kind in {ErrorKind.SOURCE_TIMEOUT, ErrorKind.SOURCE_UNREACHABLE}
    assert server.count() == 1
    gate.set()


async def test_deadline_covers_retries(server: ObjectServer) -> None:
    """Retries end with the time budget, however many attempts are left; the error says why they failed."""
    server.fault(KEY, status(503), times=10_000)
    source = make(deadline=0.3, attempts=10_000)
    started = time.monotonic()
    error = await refusal(source, part(server.url, "http"))
    assert error.kind in {ErrorKind.SOURCE_TIMEOUT, ErrorKind.SOURCE_UNREACHABLE}
    assert "503" in error.what
    assert time.monotonic() - started < SOON / 2
    assert server.count() >= 2


@HTTP_AND_S3
async def test_deadline_covers_the_queue(server: ObjectServer, scheme: str) -> None:
    """A fetch that gets no place in time fails as one that gets no answer does."""
    gate = threading.Event()
    server.fault(KEY, stall(gate), times=9)
    places = Places(1)
    timing = Timing(deadline=0.2, attempts=1)
    source = Source(timing, places=places)
    assert places.take(Urgency.DEMAND)
    error = await refusal(source, part(server.url, scheme))
    assert error.kind is ErrorKind.SOURCE_TIMEOUT
    assert server.count() == 0


@HTTP_AND_S3
async def test_cancellation(server: ObjectServer, scheme: str) -> None:
    """A cancelled fetch goes at once, and leaves neither a place taken nor a connection."""
    gate = threading.Event()
    server.fault(KEY, stall(gate))
    places = Places(1)
    source = Source(Timing(), places=places)
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.fetch, part(server.url, scheme))
            await until(lambda: server.count() == 1)
            nursery.cancel_scope.cancel()
    assert places.free == 1
    assert (await source.fetch(part(server.url, scheme))).data == DATA[10:30]
    assert len(set(server.clients)) == 2
    gate.set()


@HTTP_AND_S3
async def test_limiter(server: ObjectServer, scheme: str) -> None:
    """No more fetches run at once at one host than its part of the places."""
    gate = threading.Event()
    server.fault(KEY, stall(gate), times=6)
    source = make(limit=12)
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(source.fetch, part(server.url, scheme))
        await until(lambda: server.count() == 3)
        await trio.testing.wait_all_tasks_blocked()
        assert server.count() == 3
        gate.set()
    assert server.count() == 6


async def test_a_host_that_stalls_leaves_room_for_others(server: ObjectServer) -> None:
    """However many wait for one server, another is asked at once."""
    gate = threading.Event()
    server.fault(KEY, stall(gate), times=20)
    source = make(limit=8)
    with ObjectServer() as other:
        other.put(KEY, DATA)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(source.fetch, part(server.url, "http"))
            await until(lambda: server.count() == 2)
            assert (await source.fetch(part(other.url, "http"))).data == DATA[10:30]
            gate.set()
    assert server.count() == 20


async def test_reading_ahead_leaves_room_for_a_point_read(server: ObjectServer) -> None:
    """However much is read ahead from a server, what somebody waits for is asked for at once."""
    gate = threading.Event()
    server.put("bucket/data/other", DATA)
    server.fault(KEY, stall(gate), times=20)
    source = make(limit=16)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            ahead = functools.partial(source.fetch, urgency=Urgency.AHEAD)
            nursery.start_soon(ahead, part(server.url, "http"))
        await until(lambda: server.count() == 3)
        await trio.testing.wait_all_tasks_blocked()
        assert server.count() == 3
        wanted = authorized(f"{server.url}/bucket/data/other", 10, 20)
        with trio.fail_after(SOON):
            assert (await source.fetch(wanted)).data == DATA[10:30]
        gate.set()
    assert server.count() == 11


async def test_what_is_read_ahead_and_then_waited_for_is_asked_for_next(
    server: ObjectServer,
) -> None:
    """Of what waits to be read ahead, a server is asked first for what somebody comes for."""
    gate = threading.Event()
    keys = [f"bucket/data/{name}" for name in "xyz"]
    for key in keys:
        server.put(key, DATA)
    server.fault(KEY, stall(gate), times=1)
    source = make(limit=4)  # one place for a server
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.fetch, authorized(f"{server.url}/{KEY}", 10, 20))
        await until(lambda: server.count() == 1)
        hastes = [Haste(Urgency.AHEAD) for _ in keys]
        for key, haste in zip(keys, hastes, strict=True):
            wanted = authorized(f"{server.url}/{key}", 10, 20)
            nursery.start_soon(functools.partial(source.fetch, wanted, urgency=haste))
            await trio.testing.wait_all_tasks_blocked()
        hastes[2].hurry()
        gate.set()
    assert [r.key for r in server.requests][1:] == [keys[2], keys[0], keys[1]]


async def test_backoff(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts double, less up to a half at random."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(trio, "sleep", sleep)
    server.fault(KEY, reset(), times=4)
    source = Source(Timing(), places=Places(1))
    assert (await source.fetch(part(server.url, "http"))).data == DATA[10:30]
    assert len(pauses) == 4
    for pause, most in zip(pauses, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert most / 2 <= pause <= most


async def test_a_scheme_without_a_reader() -> None:
    """A scheme that cannot be read is an error that names those that can."""
    source = make()
    error = await refusal(source, whole("memory:///a", "b"))
    assert error.kind is ErrorKind.BAD_LOCATION
    assert "s3" in error.advice
    with pytest.raises(SourceError):
        await source.objects(Access(parse_prefix("memory:///a/b")).repository_prefix(""))
    assert source.statistics().errors == 2


async def test_a_deadline_without_an_answer_is_a_silence(server: ObjectServer) -> None:
    """A host from which nothing came within several deadlines counts as dead, however short those are."""
    gate = threading.Event()
    server.fault(KEY, stall(gate), times=99)
    source = make(deadline=0.05)
    kinds = [(await refusal(source, part(server.url, "http"))).kind for _ in range(6)]
    assert kinds == [ErrorKind.SOURCE_TIMEOUT] * 5 + [ErrorKind.OFFLINE]
    gate.set()


async def test_a_stalled_request_is_overtaken_by_a_second(server: ObjectServer) -> None:
    """A fetch that stalls far beyond what the others took is saved by a second request, long before the stall limit."""
    source = Source(Timing(stall=60, hedge=0.05), places=Places(8))
    wanted = part(server.url, "http")
    gate = threading.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        for _ in range(24):
            await source.fetch(wanted)
        server.fault(KEY, stall(gate))
        with trio.fail_after(SOON):
            assert (await source.fetch(wanted)).data == DATA[10:30]
        gate.set()
        nursery.cancel_scope.cancel()
    assert source.statistics().hedges == 1
    assert source.statistics().retries == 0
    assert server.count() == 26
