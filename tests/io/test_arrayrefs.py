"""The refs of an array over several manifests, against a set of the chunks that exist."""

from collections.abc import Collection

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.io.test_filesystem import DAMAGE, ENCODINGS, array, inline
from vzfs.errors import FormatError, VzfsError
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.manifest import Manifest
from vzfs.repository import ArrayRefs
from vzfs.repository.arrayrefs import RETRY_AFTER

GRID = ChunkGrid((4, 3, 5))
HALVES = {"low": ((0, 4), (0, 3), (0, 2)), "high": ((0, 4), (0, 3), (2, 5))}


class Files:
    """Manifest files that load, or fail; *loaded* says which were asked for."""

    def __init__(self, files: dict[str, Manifest | VzfsError]) -> None:
        self.files = files
        self.loaded: list[str] = []

    async def load(self, manifest_id: str) -> Manifest:
        self.loaded.append(manifest_id)
        await trio.lowlevel.checkpoint()
        found = self.files[manifest_id]
        if isinstance(found, VzfsError):
            raise found
        return found


def split_along(
    axis: int, present: set[int], full: Collection[int] = ()
) -> tuple[ArrayRefs, Files]:
    """Return the refs of the chunks *present*, with a manifest for each coordinate along *axis*.

    The snapshot says that those of the coordinates *full* are.
    """
    whole = tuple((0, n) for n in GRID.shape)
    parts = {
        str(i): (*whole[:axis], (i, i + 1), *whole[axis + 1 :]) for i in range(GRID.shape[axis])
    }
    files = Files(
        {str(i): inline([f for f in present if GRID.unravel(f)[axis] == i]) for i in range(5)}
    )
    refs = ArrayRefs(array(GRID, ENCODINGS[0], parts), files.load, frozenset(map(str, full)))
    return refs, files


@given(
    st.sets(st.integers(0, GRID.size - 1)),
    st.integers(0, 2),
    st.integers(0, 60),
    st.integers(1, 70),
)
async def test_listings_are_those_of_a_set(
    present: set[int], axis: int, first: int, count: int
) -> None:
    """However manifests are split, directories list each child once, in order, from anywhere on."""
    refs, _ = split_along(axis, present)
    await refs.load(())
    coords = {f: GRID.unravel(f) for f in present}
    for prefix in [(), *((i,) for i in range(4)), *((i, j) for i in range(4) for j in range(3))]:
        depth = len(prefix)
        below = [(c, f) for f, c in coords.items() if c[:depth] == prefix and c[depth] >= first]
        expected = sorted({(c[depth], f + 1 if depth == 2 else 0) for c, f in below})
        found = refs.children_arrays(prefix, first, count)
        assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == expected[:count]
        assert list(refs.children(prefix, first)) == expected
        assert await refs.has_any(prefix) == any(c[:depth] == prefix for c in coords.values())
    chunks = [(f, f + 1) for f in sorted(present) if f >= first]
    found = refs.all_chunks_arrays(first, count)
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == chunks[:count]
    assert list(refs.all_chunks(first)) == chunks


@given(st.sets(st.integers(0, GRID.size - 1)), st.integers(0, 2))
async def test_a_chunk_is_found_with_its_length(present: set[int], axis: int) -> None:
    """A chunk is found by its coordinates, or its length alone, and what is absent is not."""
    refs, _ = split_along(axis, present)
    await refs.load(())
    for flat in range(GRID.size):
        found = refs.find(GRID.unravel(flat))
        length = refs.length_of(GRID.unravel(flat))
        assert length == (flat + 1 if flat in present else None)
        assert length == (None if found is None else found.length)
        assert found is None or bytes(found.inline) == bytes([flat % 256]) * (flat + 1)


@given(
    st.sets(st.integers(0, GRID.size - 1)),
    st.integers(0, 2),
    st.sets(st.integers(0, 4)),
    st.integers(0, 6),
    st.integers(1, 6),
)
async def test_names_in_full_manifests_are_known_without_them(
    present: set[int], axis: int, full: set[int], first: int, count: int
) -> None:
    """Names are those of a set, though no manifest is loaded of which the snapshot says that it is full."""
    whole = {f for f in range(GRID.size) if GRID.unravel(f)[axis] in full}
    present |= whole
    refs, files = split_along(axis, present, full)
    await refs.load_names(())
    assert refs.has_names(())
    assert full.isdisjoint(map(int, files.loaded))
    assert not refs.is_loaded(()) or full.isdisjoint(range(GRID.shape[axis]))
    for prefix in [(), *((i,) for i in range(4)), *((i, j) for i in range(4) for j in range(3))]:
        depth = len(prefix)
        below = {c[depth] for c in map(GRID.unravel, present) if c[:depth] == prefix}
        expected = sorted(c for c in below if c >= first)
        assert refs.names_arrays(prefix, first, count).tolist() == expected[:count]
        assert refs.known_any(prefix) == bool(below)
        assert await refs.has_any(prefix) == bool(below)
        if depth < 2:
            assert list(refs.children(prefix, first)) == [(c, 0) for c in expected]
    assert full.isdisjoint(map(int, files.loaded))
    await refs.load(())
    assert (
        refs.names_arrays((), first, count).tolist()
        == sorted({c for c, *_ in map(GRID.unravel, present) if c >= first})[:count]
    )


async def test_what_a_full_manifest_lacks_is_not_there_once_it_is_loaded() -> None:
    """A count is good for names; what is there is for the manifest to say, and where it is read it counts."""
    files = Files({"low": inline([0]), "high": DAMAGE})
    refs = ArrayRefs(array(GRID, ENCODINGS[0], HALVES), files.load, {"low", "high"})
    assert refs.names_arrays((3, 2), 0, 9).tolist() == [0, 1, 2, 3, 4]
    assert not refs.is_loaded((3, 2, 0))
    with pytest.raises(FormatError):
        await refs.is_complete()
    assert refs.names_arrays((3, 2), 0, 9).tolist() == [2, 3, 4]
    assert refs.find((3, 2, 0)) is None
    with pytest.raises(FormatError):
        refs.find((3, 2, 2))


async def test_a_region_beyond_the_grid_is_full_of_nothing() -> None:
    """Of a region that reaches out of the grid only what is inside has names."""
    parts = {"m": ((3, 9), (0, 9), (1, 2)), "n": ((4, 5), (0, 3), (0, 5))}
    refs = ArrayRefs(array(GRID, ENCODINGS[0], parts), Files({}).load, {"m", "n"})
    assert refs.names_arrays((), 0, 9).tolist() == [3]
    assert refs.names_arrays((3,), 0, 9).tolist() == [0, 1, 2]
    assert [refs.known_any((i,)) for i in range(4)] == [False, False, False, True]


async def test_many_chunks_that_alternate_between_manifests_are_listed() -> None:
    """A listing that takes many pages has all chunks, though neighbours lie in different manifests."""
    grid = ChunkGrid((5000, 4))
    parts = {str(i): ((0, 5000), (i, i + 1)) for i in range(4)}
    empty = inline([])
    files = Files({})
    for i in range(4):
        index = range(i, 4 * (5000 if i else 100), 4)
        zeros = np.broadcast_to(np.uint8(i), len(index))
        files.files[str(i)] = Manifest(
            index=index, kind=zeros, location=zeros, offset=zeros, length=zeros, checksum=zeros,
            locations=empty.locations, checksums=empty.checksums, inline=b"",
        )  # fmt: skip
    refs = ArrayRefs(array(grid, ENCODINGS[1], parts), files.load)
    await refs.load(())
    expected = [f for f in range(20_000) if f % 4 or f < 400]
    assert [flat for flat, _ in refs.all_chunks()] == expected
    flats, lengths = refs.all_chunks_arrays(0, 10**6)
    assert flats.tolist() == expected
    assert (lengths == flats % 4).all()
    assert [c for c, _ in refs.children(())] == list(range(5000))


async def test_what_is_loaded_is_known_without_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A part of the names is loaded once its manifests are, or have failed a short while ago."""
    files = Files({"low": inline([0, 1]), "high": DAMAGE})
    refs = ArrayRefs(array(GRID, ENCODINGS[0], HALVES), files.load)
    assert not refs.is_loaded((0, 0, 1))
    await refs.load((0, 0, 1))
    assert refs.is_loaded((0, 0, 1))
    assert not refs.is_loaded((0, 0, 2))
    assert not refs.is_loaded(())
    await refs.load(())
    assert refs.is_loaded(())
    assert files.loaded == ["low", "high"]
    with pytest.raises(FormatError):
        refs.length_of((0, 0, 2))
    await trio.sleep(RETRY_AFTER)
    assert not refs.is_loaded(())
    assert refs.is_loaded((0, 0, 0))
    files.files["high"] = inline([2])
    await refs.load((3, 2))
    assert refs.is_loaded(())
    assert refs.length_of((0, 0, 2)) == 3
    await trio.sleep(RETRY_AFTER)
    assert refs.is_loaded(())


async def test_what_a_loaded_array_is_asked_for_takes_no_checkpoint() -> None:
    """Once manifests are loaded, questions are answered before any other task runs."""
    refs, files = split_along(0, {0, 20})
    await refs.load(())
    with trio.CancelScope() as scope:
        scope.cancel()
        await refs.load((0,))
        assert await refs.has_any((0,))
        assert refs.find((0, 0, 0)) is not None
    assert not scope.cancelled_caught
    assert len(files.loaded) == 4


async def test_outside_the_region_of_a_manifest_nothing_is_asked_of_it() -> None:
    """A chunk for which no manifest speaks is absent, whether the manifests can be loaded or not."""
    files = Files({"low": DAMAGE})
    refs = ArrayRefs(array(GRID, ENCODINGS[0], {"low": HALVES["low"]}), files.load)
    assert refs.is_loaded((0, 0, 2))
    await refs.load((0, 0, 2))
    assert refs.find((0, 0, 2)) is None
    assert refs.length_of((0, 0, 4)) is None
    assert files.loaded == []
