"""Buffers: memory for large pieces is used again, and never while somebody looks into it."""

import pytest

from vzfs.cache import LARGE, Buffers, MemoryCache
from vzfs.cache.buffers import MAX_IDLE


def base(view: memoryview) -> int:
    return id(view.obj)


def test_a_buffer_is_used_again_once_nobody_looks_into_it() -> None:
    """A buffer whose last view is gone is the next one; while a view of a view is left, it is not."""
    buffers = Buffers()
    first = buffers.take(2 * LARGE)
    kept, where = first[10:20].toreadonly(), base(first)
    del first
    second = buffers.take(2 * LARGE)
    assert base(second) != where
    del kept
    assert base(buffers.take(2 * LARGE - LARGE // 16)) == where


def test_what_looks_into_a_buffer_never_changes() -> None:
    """Whatever is taken and filled meanwhile, bytes that somebody holds stay what they were."""
    buffers = Buffers()
    held = []
    for number in range(40):
        view = buffers.take(LARGE + number)
        view[:] = bytes([number]) * len(view)
        if number % 3 == 0:
            held.append((number, view.toreadonly()))
        del view
    assert all(set(view[:: 2**16]) == {number} for number, view in held)


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, 3 * LARGE + 5])
def test_a_buffer_has_the_size_that_was_asked_for(size: int) -> None:
    """A view is writable and as long as it should be, however long its memory is."""
    view = Buffers().take(size)
    assert len(view) == size
    assert not view.readonly


def test_few_buffers_wait_for_their_next_use() -> None:
    """After a rush, memory beyond a bound is given back at the next take."""
    buffers = Buffers()
    rush = [buffers.take(4 * LARGE) for _ in range(40)]
    del rush
    buffers.take(LARGE)
    assert sum(map(len, buffers._kept)) <= MAX_IDLE + 5 * LARGE


def test_the_memory_cache_counts_the_whole_buffer() -> None:
    """A view of nearly all of a buffer is held as it is, at the cost of all of it; one of a part is copied."""
    cache = MemoryCache(10 * LARGE)
    view = Buffers().take(LARGE)
    cache.put("most", view.toreadonly())
    assert cache.get("most").obj is view.obj
    assert cache.statistics().bytes_held >= len(view.obj)
    cache.put("part", view[: LARGE // 2].toreadonly())
    assert isinstance(cache.get("part"), bytes)
    cache.discard("most")
    cache.discard("part")
    assert cache.statistics().bytes_held == 0
