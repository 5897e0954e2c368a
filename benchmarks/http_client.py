"""What one fetch costs: the HTTP client of vzfs, beside obstore and urllib3 in threads.

    python -m benchmarks.http_client

Objects come from nginx on loopback. Each way is timed in a process of its own, in interleaved
rounds; printed are medians of requests per second and of the processor time of the client's process
alone, and how often the first way's that is. Buffers that are read into are used again.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
import trustme

from tests.conformance import authorized
from tests.stores import nginx

ROUNDS = 5
SIZES = {
    "32 KiB, 16 in flight": (32 * 1024, 16, 4000),
    "1 MiB, 16 in flight": (2**20, 16, 600),
    "16 MiB, 4 in flight": (2**24, 4, 60),
}
WAYS = ("vzfs", "vzfs, into a buffer", "client alone", "obstore", "urllib3")


def main() -> None:
    """Run every way in turn, and print a table."""
    with (
        tempfile.TemporaryDirectory() as folder,
        nginx.serve(Path(folder), trustme.CA()) as (store, _),
    ):
        print("| object | way | requests/s | processor time | ratio |\n|---|---|---|---|---|")
        for name, (size, parallel, count) in SIZES.items():
            store.put(f"object{size}", bytes(size))
            url = f"{store.url}/bucket/object{size}"
            taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(ROUNDS):
                for way in WAYS:
                    words = [sys.executable, "-m", "benchmarks.http_client", way, url]
                    numbers = list(map(str, (size, parallel, count)))
                    said = subprocess.run([*words, *numbers], capture_output=True, check=True)
                    seconds, busy = map(float, said.stdout.split())
                    taken[way].append((count / seconds, busy / count * 1e6))
            first = statistics.median(busy for _, busy in taken[WAYS[0]])
            for way in WAYS:
                rate, busy = (statistics.median(column) for column in zip(*taken[way], strict=True))
                print(f"| {name} | {way} | {rate:.0f} | {busy:.0f} us | {busy / first:.2f} |")


async def run(way: str, url: str, size: int, parallel: int, count: int) -> None:
    """Fetch *url* so many times, and print seconds and seconds of processor time."""
    left = count

    async def reader(fetch: Callable[[], Awaitable[object]]) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await fetch()

    async with trio.open_nursery() as background:
        fetch = await make(way, url, size, background)
        await fetch()
        began, busy = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as readers:
            for _ in range(parallel):
                readers.start_soon(reader, fetch)
        print(time.perf_counter() - began, time.process_time() - busy)
        background.cancel_scope.cancel()


async def make(
    way: str, url: str, size: int, background: trio.Nursery
) -> Callable[[], Awaitable[object]]:
    """Return what fetches the object once."""
    if way.startswith("vzfs"):
        from vzfs.source import Places, Source

        source = Source(places=Places(256))
        await background.start(source.run)
        wanted = authorized(url, 0, size)
        if way == "vzfs":
            return functools.partial(source.fetch, wanted)
        sinks: list[Buffer] = []

        async def pour() -> None:
            sink = sinks.pop() if sinks else Buffer(size)
            await source.fetch(wanted, sink=sink)
            sinks.append(sink)

        return pour
    if way == "client alone":
        return alone(url, size)
    if way == "obstore":
        import obstore
        from obstore.store import HTTPStore

        root, _, key = url.rpartition("/")
        store = HTTPStore(root, client_options={"allow_http": True})

        def get() -> None:
            obstore.get(store, key, options={"range": (0, size)}).bytes()
    else:
        import urllib3

        pool = urllib3.PoolManager(maxsize=128)

        def get() -> None:
            pool.request("GET", url, headers={"Range": f"bytes=0-{size - 1}"})

    return functools.partial(trio.to_thread.run_sync, get)


class Buffer:
    """A sink that takes whatever comes."""

    def __init__(self, size: int) -> None:
        self._buffer = memoryview(bytearray(size))

    def begin(self, version: str) -> memoryview:
        """Return the buffer."""
        return self._buffer

    def came(self, count: int) -> None:
        """Heed nothing."""


def alone(url: str, size: int) -> Callable[[], Awaitable[object]]:
    """Return what exchanges a request and its reply, and checks nothing."""
    from vzfs.source import Timing
    from vzfs.source.addresses import reach_of
    from vzfs.source.client import Client, Request

    client, reach = Client(Timing()), reach_of(["127.0.0.1"], [])
    authority, _, path = url.removeprefix("http://").partition("/")
    headers = {"range": f"bytes=0-{size - 1}"}
    request = Request("GET", "http", authority, f"/{path}", headers)
    buffers: list[memoryview] = []

    async def exchange() -> None:
        buffer = buffers.pop() if buffers else memoryview(bytearray(size))
        with await client.send(request, reach) as response:
            await response.read_into(buffer, int)
        buffers.append(buffer)

    return exchange


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        way, url, *numbers = sys.argv[1:]
        size, parallel, count = map(int, numbers)
        trio.run(run, way, url, size, parallel, count)
