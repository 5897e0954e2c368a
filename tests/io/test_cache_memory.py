"""The memory cache: bounded, least recently used first out."""

from collections import OrderedDict

import hypothesis
import pytest
from hypothesis import strategies as st

from vzfs.cache import MemoryCache
from vzfs.cache.memory import OVERHEAD


def room_for(count: int, length: int) -> int:
    return count * (length + OVERHEAD)


def test_what_was_put_is_there() -> None:
    """A buffer comes back as it was put, the last one put under a key."""
    cache = MemoryCache(10_000)
    cache.put("a", b"one")
    cache.put("a", b"two")
    cache.put(("b", 1), b"")
    assert cache.get("a") == b"two"
    assert cache.get(("b", 1)) == b""
    assert cache.get("c") is None


def test_the_least_recently_used_goes_first() -> None:
    """Reading a buffer makes it the youngest; the oldest goes when there is no room."""
    cache = MemoryCache(room_for(3, 100))
    for key in "abc":
        cache.put(key, bytes(100))
    cache.get("a")
    cache.put("d", bytes(100))
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]


def test_what_is_larger_than_the_cache_is_not_held() -> None:
    """A buffer beyond the limit replaces nothing but the one under its own key."""
    cache = MemoryCache(room_for(2, 100))
    cache.put("a", bytes(100))
    cache.put("b", bytes(100))
    cache.put("b", bytes(10_000))
    assert cache.get("a") is not None
    assert cache.get("b") is None


def test_a_cache_of_no_bytes_holds_nothing() -> None:
    """A limit of 0 turns the cache off."""
    cache = MemoryCache(0)
    cache.put("a", b"")
    assert cache.get("a") is None


def test_tiny_buffers_count_what_they_cost() -> None:
    """A million empty buffers do not fit into a cache of a megabyte."""
    cache = MemoryCache(2**20)
    for key in range(10_000):
        cache.put(key, b"")
    assert len(cache) == 2**20 // OVERHEAD


def test_a_view_is_copied() -> None:
    """What a view looks into may change, and need not be kept alive."""
    cache = MemoryCache(10_000)
    buffer = bytearray(b"abcdef")
    cache.put("a", memoryview(buffer)[2:4])
    buffer[:] = b"xxxxxx"
    assert cache.get("a") == b"cd"


def test_bytes_are_not_copied() -> None:
    """Immutable bytes are held as they are."""
    cache = MemoryCache(10_000)
    data = bytes(1000)
    cache.put("a", data)
    assert cache.get("a") is data


def test_what_is_discarded_is_gone() -> None:
    """Discarding gives the room back, and does nothing for a key that is not there."""
    cache = MemoryCache(10_000)
    cache.put("a", b"one")
    cache.discard("a")
    cache.discard("a")
    assert cache.get("a") is None
    assert cache.statistics().bytes_held == 0


def test_statistics_count() -> None:
    """Hits, misses and evictions are counted; entries and bytes are those of the moment."""
    cache = MemoryCache(room_for(2, 10))
    for key in "abc":
        cache.put(key, bytes(10))
    cache.get("a")
    cache.get("b")
    cache.get("c")
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.evicted) == (2, 1, 1)
    assert (statistics.entries, statistics.bytes_held) == (2, room_for(2, 10))


steps = st.tuples(
    st.sampled_from(["put", "get", "discard"]), st.integers(0, 5), st.integers(0, 300)
)


@hypothesis.given(st.lists(steps, max_size=60), st.integers(0, 3000))
def test_it_behaves_as_an_ordered_dict_that_drops_its_first(
    sequence: list[tuple[str, int, int]], limit: int
) -> None:
    """Any sequence of calls gives what a plain dict in order of use gives, within the limit."""
    cache = MemoryCache(limit)
    model: OrderedDict[int, bytes] = OrderedDict()
    for step, key, length in sequence:
        if step == "put":
            cache.put(key, bytes([key]) * length)
            model.pop(key, None)
            if length + OVERHEAD <= limit:
                model[key] = bytes([key]) * length
            while sum(len(data) + OVERHEAD for data in model.values()) > limit:
                model.popitem(last=False)
        elif step == "get":
            assert cache.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        else:
            cache.discard(key)
            model.pop(key, None)
        held = cache.statistics().bytes_held
        assert held == sum(len(data) + OVERHEAD for data in model.values()) <= max(limit, 0)


@pytest.mark.parametrize("data", [b"", b"x" * 50])
def test_the_limit_is_inclusive(data: bytes) -> None:
    """A buffer that with its overhead is exactly as large as the cache is held."""
    cache = MemoryCache(len(data) + OVERHEAD)
    cache.put("a", data)
    assert cache.get("a") == data
