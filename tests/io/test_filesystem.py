"""A checkout as a file system, without a kernel: names, listings, and manifests out of reach."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeSource
from vzfs.access import Access
from vzfs.cache import MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.errors import ErrorKind, FormatError, NameProblem, VzfsError
from vzfs.filesystem import Attrs, Filesystem, Reading, settle
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChecksumTable, ChunkKind, Manifest, StringTable
from vzfs.model.snapshot import (
    Array,
    Extents,
    Group,
    ManifestRef,
    RefSpec,
    Snapshot,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.repository import Checkout, arrayrefs

ENCODINGS = [ChunkKeyEncoding(style, sep) for style in KeyStyle for sep in ("/", ".")]
DAMAGE = FormatError(ErrorKind.CORRUPT_METADATA, "the manifest is damaged")


def inline(flats: Sequence[int]) -> Manifest:
    """Return a manifest whose chunk with index f is f + 1 bytes of value f % 256."""
    flats = sorted(flats)
    lengths = np.array([f + 1 for f in flats], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(flats)]
    zeros = np.zeros(len(flats), np.uint32)
    return Manifest(
        index=np.array(flats, np.int64),
        kind=np.full(len(flats), ChunkKind.INLINE, np.uint8),
        location=zeros,
        offset=offsets,
        length=lengths,
        checksum=zeros,
        locations=StringTable.of([]),
        checksums=ChecksumTable.of([]),
        inline=b"".join(bytes([f % 256]) * (f + 1) for f in flats),
    )


class FakeRepository:
    """A repository whose manifests are given, or fail."""

    is_versioned = True
    named = ()
    omissions = ()

    format = "fake 1"
    notice = ""
    containers: Sequence[VirtualChunkContainer] = ()

    def __init__(self, files: dict[str, Manifest | VzfsError]) -> None:
        self.files = files
        self.loads: list[str] = []
        self.wanted: Mapping[bytes, WantedArray] = {}

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        self.loads.append(manifest_id)
        self.wanted = wanted
        await trio.lowlevel.checkpoint()
        found = self.files[manifest_id]
        if isinstance(found, VzfsError):
            raise found
        return dict.fromkeys(wanted, found)


def filesystem(
    repository: FakeRepository, *arrays: Array, full: frozenset[str] = frozenset()
) -> Filesystem:
    root = Group(path="/", documents={"zarr.json": b"{}"})
    nodes = (root, *sorted(arrays, key=lambda a: a.path))
    snapshot = Snapshot(id="S", written_at=0, message="", metadata={}, nodes=nodes, full=full)
    access = Access(parse_prefix("s3://repos/mine"))
    chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
    reading = Reading(access, chunks, ReadAhead(chunks, 2**20))
    return Filesystem(Checkout(repository, snapshot, RefSpec()), reading)


def array(
    grid: ChunkGrid,
    encoding: ChunkKeyEncoding,
    parts: Mapping[str, tuple[tuple[int, int], ...]],
    problem: str = "",
) -> Array:
    return Array(
        path="/a",
        documents={"zarr.json": b"[1]"},
        id=b"a",
        grid=grid,
        key_encoding=encoding,
        manifests=tuple(ManifestRef(name, Extents(ranges)) for name, ranges in parts.items()),
        problem=problem,
    )


async def listing(fs: Filesystem, inode: int, step: int = 3) -> dict[str, Attrs]:
    """List a directory as the kernel does: a few lines at a time, resumed at the last position."""
    found: dict[str, Attrs] = {}
    position = 0
    while True:
        lines = [
            line
            for line, _ in zip(
                await settle(fs.children, inode, position), range(step), strict=False
            )
        ]
        if not lines:
            return found
        for line in lines:
            assert line.name not in found
            found[line.name] = line.attrs
        position = lines[-1].position


async def check_run(fs: Filesystem, inode: int, expected: dict[str, Attrs]) -> None:
    """Check that lines which are given together are those that are given one by one."""
    for count in (1, 2, 100):
        position, found = 0, {}
        while (run := await settle(fs.run, inode, position, count)) and len(run.numbers):
            assert len(run.numbers) <= count
            for number, size in zip(run.numbers.tolist(), run.sizes.tolist(), strict=True):
                found[str(number)] = Attrs(run.inode + number, run.is_dir, size)
                position = run.position + number
        assert run is None or list(found.items()) == list(expected.items())


async def walk(fs: Filesystem, inode: int = 1, path: str = "") -> dict[str, bytes]:
    """Read every file below a directory by its path."""
    found: dict[str, bytes] = {}
    lines = await listing(fs, inode)
    await check_run(fs, inode, lines)
    for name, attrs in lines.items():
        assert await settle(fs.lookup, inode, name) == attrs
        assert await settle(fs.attrs, attrs.inode) == attrs
        if attrs.is_dir:
            below = await walk(fs, attrs.inode, f"{path}{name}/")
            assert below, "an empty directory of keys is shown"
            found |= below
        else:
            found[path + name] = bytes(await fs.read(attrs.inode, 0, 2**30))
            assert len(found[path + name]) == attrs.size
    return found


async def descend(fs: Filesystem, inode: int, key: str) -> None:
    """Look up a key name by name."""
    for name in key.split("/"):
        inode = (await settle(fs.lookup, inode, name)).inode


grids = st.lists(st.integers(1, 4), max_size=3).map(lambda shape: ChunkGrid(tuple(shape)))


@given(grids, st.sampled_from(ENCODINGS), st.data())
async def test_a_walk_finds_exactly_the_chunks_that_exist(
    grid: ChunkGrid, encoding: ChunkKeyEncoding, data: st.DataObject
) -> None:
    """Every chunk of every manifest is listed, found and read under its key, and nothing else is."""
    present = data.draw(st.sets(st.integers(0, grid.size - 1)))
    cut = data.draw(st.integers(0, grid.shape[0])) if grid.shape else 0
    rest = tuple((0, n) for n in grid.shape[1:])
    if grid.shape:
        parts = {"low": ((0, cut), *rest), "high": ((cut, grid.shape[0]), *rest)}
        border = cut * grid.strides[0]
    else:
        parts, border = {"low": ()}, 1
    files: dict[str, Manifest | VzfsError] = {
        "low": inline([f for f in present if f < border]),
        "high": inline([f for f in present if f >= border]),
    }
    fs = filesystem(FakeRepository(files), array(grid, encoding, parts))
    expected = {
        f"a/{encoding.encode(grid.unravel(f))}": bytes([f % 256]) * (f + 1) for f in present
    }

    assert await walk(fs) == {"zarr.json": b"{}", "a/zarr.json": b"[1]"} | expected
    a = (await settle(fs.lookup, 1, "a")).inode
    for flat in set(range(grid.size)) - present:
        key = encoding.encode(grid.unravel(flat))
        with pytest.raises(NameProblem) as caught:
            await descend(fs, a, key)
        assert caught.value.kind is ErrorKind.NO_SUCH_NAME, key


SPLIT = {"good": ((0, 2), (0, 2)), "bad": ((2, 4), (0, 2))}
GRID = ChunkGrid((4, 2), max_chunk_nbytes=800)


async def names_in(fs: Filesystem, *names: str) -> Attrs:
    """Look up names one below the other, from the array's directory."""
    attrs = await settle(fs.lookup, 1, "a")
    for name in names:
        attrs = await settle(fs.lookup, attrs.inode, name)
    return attrs


async def test_names_of_a_manifest_out_of_reach_exist() -> None:
    """Names that a damaged manifest may hold answer as existing, uncertain, with a chunk's decoded size."""
    fs = filesystem(
        FakeRepository({"good": inline([0, 3]), "bad": DAMAGE}), array(GRID, ENCODINGS[0], SPLIT)
    )

    assert (await names_in(fs, "c")).is_certain
    certain = await names_in(fs, "c", "1", "1")
    assert (certain.size, certain.is_certain) == (4, True)
    with pytest.raises(NameProblem):
        await names_in(fs, "c", "0", "1")
    uncertain = await names_in(fs, "c", "3", "1")
    assert (uncertain.size, uncertain.is_certain) == (800, False)
    assert not (await names_in(fs, "c", "2")).is_certain
    assert not (await settle(fs.open, uncertain.inode)).is_certain
    with pytest.raises(NameProblem):
        await names_in(fs, "c", "4")


async def test_reading_what_a_manifest_out_of_reach_may_hold_fails() -> None:
    """Reads and listings that need a damaged manifest raise why; others go on."""
    fs = filesystem(
        FakeRepository({"good": inline([0, 3]), "bad": DAMAGE}), array(GRID, ENCODINGS[0], SPLIT)
    )

    with pytest.raises(FormatError, match="damaged"):
        await fs.read((await names_in(fs, "c", "3", "1")).inode, 0, 10)
    assert list(await listing(fs, (await names_in(fs)).inode)) == ["zarr.json", "c"]
    for names in (["c"], ["c", "2"]):
        with pytest.raises(FormatError, match="damaged"):
            await listing(fs, (await names_in(fs, *names)).inode)
    assert list(await listing(fs, (await names_in(fs, "c", "0")).inode)) == ["0"]
    assert bytes(await fs.read((await names_in(fs, "c", "1", "1")).inode, 0, 10)) == b"\3" * 4


async def test_who_waits_for_manifests_that_fail_one_after_the_other_hears_why(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Manifests that take longer than a failure is remembered to fail are tried once for each who asks."""
    repository = FakeRepository({"good": DAMAGE, "bad": DAMAGE})
    fail = repository.manifest

    async def slowly(manifest_id: str, wanted: Mapping[bytes, WantedArray]) -> object:
        await trio.sleep(1 if manifest_id == "good" else 10 * arrayrefs.RETRY_AFTER)
        return await fail(manifest_id, wanted)

    monkeypatch.setattr(repository, "manifest", slowly)
    fs = filesystem(repository, array(GRID, ENCODINGS[0], SPLIT))
    keys = await names_in(fs, "c")
    assert not keys.is_certain
    await trio.sleep(arrayrefs.RETRY_AFTER)
    with pytest.raises(FormatError, match="damaged"):
        await listing(fs, keys.inode)
    assert sorted(repository.loads) == ["bad", "bad", "good", "good"]


async def test_a_manifest_is_tried_again_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A manifest that could not be loaded is not asked for at every name, and heals by itself."""
    repository = FakeRepository({"good": inline([0]), "bad": DAMAGE})
    fs = filesystem(repository, array(GRID, ENCODINGS[0], SPLIT))
    for _ in range(3):
        await names_in(fs, "c", "3", "1")
    assert repository.loads.count("bad") == 1
    repository.files["bad"] = inline([7])
    await trio.sleep(arrayrefs.RETRY_AFTER)

    healed = await names_in(fs, "c", "3", "1")
    assert (healed.size, healed.is_certain) == (8, True)


async def test_a_lookup_loads_only_the_manifest_of_its_region() -> None:
    """Manifests load by extents, once each, however many names ask for them."""
    repository = FakeRepository({"good": inline([0, 3]), "bad": inline([7])})
    fs = filesystem(repository, array(GRID, ENCODINGS[1], SPLIT))
    await names_in(fs, "c.0.0")
    await names_in(fs, "c.1.1")
    assert repository.loads == ["good"]

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(names_in, fs, "c.3.1")
    assert repository.loads == ["good", "bad"]


async def test_a_directory_of_keys_loads_no_more_manifests_than_it_takes() -> None:
    """That `c` exists is known from one manifest that has chunks; the others wait until they are needed."""
    parts = {f"m{i}": ((i, i + 1), (0, 2)) for i in range(4)}
    files: dict[str, Manifest | VzfsError] = {"m0": inline([]), "m1": inline([2]), "m2": DAMAGE}
    repository = FakeRepository({**files, "m3": inline([7])})
    fs = filesystem(repository, array(GRID, ENCODINGS[0], parts))

    assert (await names_in(fs, "c")).is_certain
    assert list(await listing(fs, (await names_in(fs)).inode)) == ["zarr.json", "c"]
    assert repository.loads == ["m0", "m1"]
    assert (await names_in(fs, "c", "3", "1")).size == 8
    assert repository.loads == ["m0", "m1", "m3"]


@pytest.mark.parametrize("style", KeyStyle)
async def test_directories_in_full_manifests_are_listed_without_them(style: KeyStyle) -> None:
    """Directories of keys are there and listed without loading a manifest that is full; chunks take theirs."""
    parts = {f"m{i}": ((i, i + 1), (0, 2)) for i in range(4)}
    files: dict[str, Manifest | VzfsError] = {"m0": inline([1]), "m1": inline([2, 3]), "m2": DAMAGE}
    repository = FakeRepository({**files, "m3": inline([6, 7])})
    shown = array(GRID, ChunkKeyEncoding(style, "/"), parts)
    fs = filesystem(repository, shown, full=frozenset({"m1", "m2", "m3"}))
    above = ["c"] if style is KeyStyle.DEFAULT else []

    for i in ("1", "2", "3"):
        assert (await names_in(fs, *above, i)).is_certain
    assert repository.loads == []
    keys = (await names_in(fs, *above)).inode
    assert [n for n in await listing(fs, keys) if n != "zarr.json"] == ["0", "1", "2", "3"]
    assert repository.loads == ["m0"]
    row = (await names_in(fs, *above, "2")).inode
    run = await settle(fs.run, row, 0, 9, with_sizes=False)
    assert run is not None
    assert run.numbers.tolist() == [0, 1]
    assert repository.loads == ["m0"]
    with pytest.raises(FormatError):
        await settle(fs.run, row, 0, 9)
    assert not (await names_in(fs, *above, "2", "0")).is_certain
    assert (await names_in(fs, *above, "3", "1")).size == 8
    assert repository.loads == ["m0", "m2", "m3"]


async def test_a_listing_begins_without_walking_all_manifests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page of a listing looks into the manifests that it shows, however many there are."""
    parts = {f"m{i}": ((i, i + 1), (0, 2)) for i in range(4)}
    files = {f"m{i}": inline([2 * i, 2 * i + 1]) for i in range(4)}
    fs = filesystem(FakeRepository(dict(files)), array(GRID, ENCODINGS[1], parts))
    a = (await names_in(fs)).inode
    looked: list[Manifest] = []
    chunks = Manifest.chunks
    monkeypatch.setattr(
        Manifest, "chunks", lambda part, *rest: looked.append(part) or chunks(part, *rest)
    )
    lines = await settle(fs.children, a, 0)

    assert [next(lines).name for _ in range(4)] == ["zarr.json", "c.0.0", "c.0.1", "c.1.0"]
    assert list(dict.fromkeys(looked)) == [files["m0"], files["m1"]]
    looked.clear()
    assert [line.name for line in await settle(fs.children, a, 2**20 + 6)] == ["c.3.0", "c.3.1"]
    assert set(looked) == {files["m3"]}


async def test_an_array_of_unknown_keys_never_says_absent() -> None:
    """Where chunk keys cannot be known, its document is read and every other name fails."""
    fs = filesystem(FakeRepository({}), array(GRID, ENCODINGS[0], {}, problem="an unknown grid"))
    a = (await settle(fs.lookup, 1, "a")).inode

    assert bytes(await fs.read((await settle(fs.lookup, a, "zarr.json")).inode, 0, 10)) == b"[1]"
    with pytest.raises(FormatError):
        await settle(fs.lookup, a, "c")
    with pytest.raises(FormatError):
        await listing(fs, a)


async def test_names_that_are_too_long_are_said_so() -> None:
    """A name over 255 bytes is an error of its own, counted in UTF-8."""
    fs = filesystem(FakeRepository({}))

    with pytest.raises(NameProblem) as caught:
        await settle(fs.lookup, 1, "é" * 128)
    assert caught.value.kind is ErrorKind.NAME_TOO_LONG


async def test_ten_million_names_are_listed_as_they_are_asked_for() -> None:
    """The first lines of a huge directory come without walking it, and it resumes anywhere."""
    count = 10_000_000
    flats = np.arange(count, dtype=np.int64)
    zeros = np.broadcast_to(np.zeros(1, np.int64), count)
    manifest = Manifest(
        index=flats,
        kind=zeros.astype(np.uint8),
        location=zeros,
        offset=zeros,
        length=zeros,
        checksum=zeros,
        locations=StringTable.of([]),
        checksums=ChecksumTable.of([]),
        inline=b"",
    )
    part = {"all": ((0, count),)}
    fs = filesystem(
        FakeRepository({"all": manifest}), array(ChunkGrid((count,)), ENCODINGS[0], part)
    )
    keys = (await names_in(fs, "c")).inode
    first = next(await settle(fs.children, keys, 0))
    late = next(await settle(fs.children, keys, 2**20 + count - 1))

    assert (first.name, late.name) == ("0", str(count - 1))
    assert next(await settle(fs.children, keys, late.position), None) is None


async def test_a_resumed_listing_of_keys_looks_at_no_earlier_manifest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page of a directory of keys begins with the manifest that it resumes in."""
    parts = {f"m{i}": ((i, i + 1), (0, 2)) for i in range(4)}
    files = {f"m{i}": inline([2 * i, 2 * i + 1]) for i in range(4)}
    fs = filesystem(FakeRepository(dict(files)), array(GRID, ENCODINGS[0], parts))
    keys = (await names_in(fs, "c")).inode
    looked: list[Manifest] = []
    heads = Manifest.heads
    monkeypatch.setattr(
        Manifest, "heads", lambda part, *rest: looked.append(part) or heads(part, *rest)
    )

    assert [line.name for line in await settle(fs.children, keys, 2**20 + 3)] == ["3"]
    assert set(looked) == {files["m3"]}


async def test_an_array_that_cannot_be_named_spoils_no_neighbour() -> None:
    """Of a manifest that two arrays share, only the one whose chunks can be named is asked for."""
    part = {"all": ((0, 4), (0, 2))}
    good = array(GRID, ENCODINGS[0], part)
    bad = dataclasses.replace(good, path="/b", id=b"b", problem="an unknown grid")
    repository = FakeRepository({"all": inline([0])})
    fs = filesystem(repository, good, bad)

    assert (await names_in(fs, "c", "0", "0")).size == 1
    assert list(repository.wanted) == [b"a"]


async def test_an_inode_of_a_chunk_that_does_not_exist_is_stale() -> None:
    """A number that was never given out reads as no file, and not as an empty one."""
    fs = filesystem(
        FakeRepository({"good": inline([0]), "bad": inline([7])}), array(GRID, ENCODINGS[0], SPLIT)
    )
    present = (await names_in(fs, "c", "0", "0")).inode
    for call in (fs.read(present + 1, 0, 10), settle(fs.attrs, present + 1)):
        with pytest.raises(NameProblem) as caught:
            await call
        assert caught.value.kind is ErrorKind.STALE_INODE
