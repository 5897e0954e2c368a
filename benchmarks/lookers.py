"""One look at the names of a store: a process that looks and prints what it took, as JSON.

    python -m benchmarks.lookers stat PATH NAME       10,000 chunks at random, one after the other
    python -m benchmarks.lookers touch PATH NAME      one chunk of every leaf directory: all refs are near one
    python -m benchmarks.lookers prefix URL NAME      icechunk's list_prefix of everything, for a bounded time

PATH is the directory of the chunks of `v`, NAME the workload. `seconds` are those of the look alone,
`count` says how many names were looked at.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from typing import Final

import numpy as np

from benchmarks.data import open_session
from benchmarks.workloads import META, SEED

STATS: Final = 10_000
LISTING_WITHIN: Final = 150.0
"""Seconds after which a listing by icechunk is given up, and what it would have taken is scaled."""


def stat(path: str, name: str) -> tuple[float, int]:
    """Stat chunks at random; the first is not counted, as whatever is loaded for it is loaded once."""
    random = np.random.default_rng(SEED)
    places = np.stack([random.integers(0, size, STATS) for size in META[name]], axis=1).tolist()
    paths = [f"{path}/{'/'.join(map(str, place))}" for place in places]
    os.stat(paths[0])  # noqa: PTH116 -- without an object for each
    begin = time.perf_counter()
    for one in paths[1:]:
        os.stat(one)  # noqa: PTH116 -- as above
    return time.perf_counter() - begin, STATS - 1


def touch(path: str, name: str) -> tuple[float, int]:
    """Stat the first chunk of every directory of chunks."""
    begin, count = time.perf_counter(), 0
    for place in itertools.product(*map(range, META[name][:-1])):
        os.stat(f"{path}/{'/'.join(map(str, place))}/0")  # noqa: PTH116 -- as above
        count += 1
    return time.perf_counter() - begin, count


def prefix(url: str, name: str) -> tuple[float, int]:
    """List the store as the official library does, until all is listed or the time is up."""
    store = open_session(url, name).store

    async def walk() -> tuple[float, int]:
        count, begin = 0, time.perf_counter()
        async for _ in store.list_prefix(""):
            count += 1
            if time.perf_counter() - begin > LISTING_WITHIN:
                break
        return time.perf_counter() - begin, count

    return asyncio.run(walk())


if __name__ == "__main__":
    look = {"stat": stat, "touch": touch, "prefix": prefix}[sys.argv[1]]
    seconds, count = look(*sys.argv[2:])
    print(json.dumps({"seconds": seconds, "count": count}))
