"""What a verification asks, how often, and what it makes of the answers."""

import io
import itertools
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import trio
from rich.console import Console

from tests.fakes import FakeSource
from vzfs import verify as module
from vzfs.access import Access, AccessPolicy, AuthorizedPrefix, AuthorizedRange
from vzfs.cli.verify import show, verdict
from vzfs.errors import AccessDenied, ErrorKind, FormatError, SourceError, VzfsError
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.location import Checksum, ETag, LastModified, parse_prefix
from vzfs.model.manifest import ChecksumTable, ChunkKind, ChunkRef, Manifest, StringTable
from vzfs.model.snapshot import (
    Array,
    Extents,
    ManifestRef,
    RefSpec,
    Snapshot,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.repository import Checkout
from vzfs.source import Listed
from vzfs.source.remote import check
from vzfs.verify import LIST_FROM, MAX_ASKED, MAX_MANIFESTS, Loss, Report, Unreadable, Verification

DAMAGE = FormatError(ErrorKind.CORRUPT_METADATA, "the manifest is damaged")
ENCODING = ChunkKeyEncoding(KeyStyle.DEFAULT, "/")
BUCKET = "s3://archive/"


def virtual(name: str, offset: int, length: int, checksum: Checksum | None = None) -> ChunkRef:
    return ChunkRef(ChunkKind.VIRTUAL, length, BUCKET + name, offset, checksum)


def native(name: str, length: int = 10) -> ChunkRef:
    return ChunkRef(ChunkKind.NATIVE, length, f"chunks/{name}")


def manifest(refs: Sequence[ChunkRef]) -> Manifest:
    """Return the columns of *refs*, in the order of their indices."""
    locations = sorted({ref.location for ref in refs})
    distinct = dict.fromkeys(ref.checksum for ref in refs if ref.checksum)
    checksums = ChecksumTable.of(list(distinct))
    numbers = {checksum: i for i, checksum in enumerate(checksums, start=1)}
    return Manifest(
        index=np.arange(len(refs), dtype=np.int64),
        kind=np.array([ref.kind for ref in refs], np.uint8),
        location=np.array([locations.index(ref.location) for ref in refs], np.uint32),
        offset=np.array([ref.offset for ref in refs], np.int64),
        length=np.array([ref.length for ref in refs], np.int64),
        checksum=np.array(
            [numbers[ref.checksum] if ref.checksum else 0 for ref in refs], np.uint32
        ),
        locations=StringTable.of(locations),
        checksums=checksums,
        inline=b"",
    )


type File = Manifest | Callable[[], Manifest] | VzfsError


class Repository:
    """A repository of manifest files, each for all the arrays that name it."""

    is_versioned = True
    named = ()
    omissions = ()

    format = "fake 1"
    notice = ""
    containers: Sequence[VirtualChunkContainer] = ()

    def __init__(self, files: Mapping[str, File], seconds: float = 0.0) -> None:
        self.files = files
        self.seconds = seconds
        self.loads: list[str] = []
        self.loading = self.most_loading = 0

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        self.loads.append(manifest_id)
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        await trio.sleep(self.seconds)
        self.loading -= 1
        found = self.files[manifest_id]
        if isinstance(found, VzfsError):
            raise found
        return dict.fromkeys(wanted, found if isinstance(found, Manifest) else found())


class Counting(FakeSource):
    """A source that notes every question. Whatever *answer* raises is the answer."""

    def __init__(
        self, answer: Callable[[str], None] | None = None, *, seconds: float = 0.0
    ) -> None:
        super().__init__(seconds=seconds)
        self.answer = answer
        self.asked: list[AuthorizedRange] = []
        self.can_list = True

    async def version(self, wanted: AuthorizedRange) -> str:
        self.asked.append(wanted)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await trio.sleep(self.seconds)
            if self.answer is None:
                return await super().version(wanted)
            check(wanted)
            self.answer(str(wanted.location))
        finally:
            self.in_flight -= 1
        return "version"

    def places(self) -> list[str]:
        return sorted(str(wanted.location) for wanted in self.asked)

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        if not self.can_list:
            raise SourceError(ErrorKind.CANNOT_LIST, "no")
        return await super().objects(below, deep=deep)


def node(path: str, *manifests: str, size: int = 100, problem: str = "") -> Array:
    """Return an array of one dimension with *size* chunks, for a part of which each manifest speaks."""
    step = -(-size // max(len(manifests), 1))
    return Array(
        path=path,
        documents={},
        id=path.encode(),
        grid=ChunkGrid((size,)),
        key_encoding=ENCODING,
        manifests=tuple(
            ManifestRef(name, Extents(((i * step, (i + 1) * step),)))
            for i, name in enumerate(manifests)
        ),
        problem=problem,
    )


def verification(
    repository: Repository,
    source: FakeSource,
    *arrays: Array,
    allowed: Sequence[str] = (BUCKET,),
) -> Verification:
    snapshot = Snapshot(id="S", written_at=0, message="", metadata={}, nodes=arrays)
    access = Access(
        parse_prefix("s3://repos/mine"),
        policies=[AccessPolicy(parse_prefix(prefix)) for prefix in allowed],
        containers=[VirtualChunkContainer(BUCKET), VirtualChunkContainer("s3://other/")],
    )
    return Verification(Checkout(repository, snapshot, RefSpec()), access, source)


async def verified(refs: Sequence[ChunkRef], source: FakeSource, **options: Any) -> Report:
    """Verify one array with these chunk refs."""
    repository = Repository({"M": manifest(refs)})
    return await verification(repository, source, node("/a", "M"), **options).run()


def archive(**objects: bytes) -> Counting:
    """Return a source that has these objects, by name."""
    source = Counting()
    for name, data in objects.items():
        source.put(BUCKET + name, data, etag=f'"{name}"')
    return source


# -- how much it asks --------------------------------------------------------------------------


async def test_a_million_refs_over_ten_thousand_objects_cost_ten_thousand_heads() -> None:
    """Each distinct object is asked for once, however many refs name it, in memory that does not grow with the refs."""
    files, rows, objects = 16, 62_500, 625

    def load(number: int) -> Manifest:
        rng = np.random.default_rng(number)
        location = np.concatenate([np.arange(objects), rng.integers(0, objects, rows - objects)])
        return Manifest(
            index=np.arange(rows, dtype=np.int64),
            kind=np.full(rows, ChunkKind.VIRTUAL, np.uint8),
            location=location.astype(np.uint32),
            offset=rng.integers(0, 2**40, rows),
            length=np.full(rows, 1000, np.int64),
            checksum=np.ones(rows, np.uint32),
            locations=StringTable.of([f"{BUCKET}{number}/{i:05}.nc" for i in range(objects)]),
            checksums=ChecksumTable.of([ETag('"x"')]),
            inline=b"",
        )

    loads = {f"M{i}": (lambda i=i: load(i)) for i in range(files)}
    source = Counting(lambda place: None)
    asking = verification(Repository(loads), source, node("/a", *loads, size=rows * files))
    tracemalloc.start()
    try:
        report = await asking.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.chunks[ChunkKind.VIRTUAL] == 1_000_000
    assert report.objects == len(source.asked) == len(set(source.places())) == 10_000
    assert source.fetched == []
    assert source.most_in_flight <= MAX_ASKED
    assert peak < 20 * 2**20, f"{peak / 2**20:.1f} MiB"


async def test_a_large_manifest_is_added_up_in_parts() -> None:
    """Adding up a manifest of a million refs takes a fraction of the memory that it takes itself."""
    rows, objects = 1_000_000, 1000
    zeros = np.zeros(rows, np.uint32)
    found = Manifest(
        index=np.arange(rows, dtype=np.int64),
        kind=np.full(rows, ChunkKind.VIRTUAL, np.uint8),
        location=(np.arange(rows) % objects).astype(np.uint32),
        offset=np.arange(rows, dtype=np.int64),
        length=np.ones(rows, np.int64),
        checksum=zeros,
        locations=StringTable.of([f"{BUCKET}{i}" for i in range(objects)]),
        checksums=ChecksumTable.of([]),
        inline=b"",
    )
    source = Counting(lambda place: None)
    asking = verification(Repository({"M": found}), source, node("/a", "M", size=rows))
    tracemalloc.start()
    try:
        report = await asking.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.objects == len(source.asked) == objects
    assert peak < 12 * 2**20, f"{peak / 2**20:.1f} MiB"
    ends = {int(w.location.key): w.range.end for w in source.asked if w.range}
    assert ends == {i: rows - objects + i + 1 for i in range(objects)}


async def test_objects_are_asked_for_side_by_side_and_not_all_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """At most 64 questions are under way at a time, and at least as many while there are more to ask."""
    source = Counting(lambda place: None, seconds=1)
    await verified([virtual(str(i), 0, 10) for i in range(1000)], source)
    assert source.most_in_flight == MAX_ASKED
    assert trio.current_time() == pytest.approx(-(-1000 // MAX_ASKED), abs=0.01)


async def test_manifests_are_read_once_each_and_a_few_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A manifest file that speaks for two arrays is read once, and only some are held at a time."""
    files = {f"M{i}": manifest([virtual("x", 0, 10)]) for i in range(20)}
    repository = Repository(files, seconds=1)
    report = await verification(
        repository, archive(x=bytes(10)), node("/a", *files), node("/b", *files)
    ).run()
    assert sorted(repository.loads) == sorted(files)
    assert repository.most_loading == MAX_MANIFESTS
    assert [(a.path, a.chunks) for a in report.arrays] == [("/a", 20), ("/b", 20)]
    assert report.objects == 1


async def test_inline_and_empty_chunks_are_not_asked_for() -> None:
    """What is in a manifest, or has no bytes, needs no object and no permission."""
    source = Counting()
    refs = [ChunkRef(ChunkKind.INLINE, 5), virtual("gone", 7, 0), native("GONE", 0)]
    report = await verified(refs, source, allowed=())
    assert source.asked == []
    assert report.kinds == set()
    assert report.chunks == {ChunkKind.INLINE: 1, ChunkKind.NATIVE: 1, ChunkKind.VIRTUAL: 1}


async def test_what_is_not_allowed_is_not_asked_for() -> None:
    """A location that is not allowed, in no container or malformed is a loss without a request."""
    source = archive(fine=bytes(10))
    refs = [
        virtual("fine", 0, 10),
        ChunkRef(ChunkKind.VIRTUAL, 10, "s3://other/x"),
        ChunkRef(ChunkKind.VIRTUAL, 10, "s3://strangers/x"),
        ChunkRef(ChunkKind.VIRTUAL, 10, "s3://archive/x?version=1"),
    ]
    report = await verified(refs, source)
    assert source.places() == [BUCKET + "fine"]
    assert {loss.lost.location: loss.error.kind for loss in report.losses} == {
        "s3://other/x": ErrorKind.NOT_ALLOWED,
        "s3://strangers/x": ErrorKind.NO_CONTAINER,
        "s3://archive/x?version=1": ErrorKind.BAD_LOCATION,
    }


# -- what it makes of the answers --------------------------------------------------------------


async def test_a_loss_says_what_it_costs_each_array() -> None:
    """Vanished, changed and shortened objects are named with their reason and their chunks by array, the dearest first."""
    source = archive(fine=bytes(30), changed=bytes(30), short=bytes(29))
    first = [
        *(virtual("fine", i * 10, 10, ETag("fine")) for i in range(3)),
        *(virtual("short", i * 10, 10) for i in range(3)),
        virtual("gone", 0, 10),
    ]
    second = [
        *(virtual("changed", i * 10, 10, ETag("another")) for i in range(2)),
        virtual("short", 0, 10),
        virtual("fine", 0, 10, ETag("fine")),
    ]
    repository = Repository({"A": manifest(first), "B": manifest(second)})
    report = await verification(repository, source, node("/a", "A"), node("/b", "B")).run()
    assert [
        (loss.lost.location.removeprefix(BUCKET), loss.error.kind, loss.chunks)
        for loss in report.losses
    ] == [
        ("short", ErrorKind.SOURCE_MISMATCH, {"/a": 3, "/b": 1}),
        ("changed", ErrorKind.SOURCE_CHANGED, {"/b": 2}),
        ("gone", ErrorKind.SOURCE_VANISHED, {"/a": 1}),
    ]
    assert [(a.path, a.chunks, a.lost) for a in report.arrays] == [
        ("/a", 7, {ErrorKind.SOURCE_MISMATCH: 3, ErrorKind.SOURCE_VANISHED: 1}),
        ("/b", 4, {ErrorKind.SOURCE_CHANGED: 2, ErrorKind.SOURCE_MISMATCH: 1}),
    ]
    assert report.objects == 4


@pytest.mark.parametrize("missing", [0, 1])
async def test_an_object_must_be_long_enough_for_all_refs(missing: int) -> None:
    """An object is long enough if it has the last byte of every ref, and one byte less is too short."""
    refs = [virtual("x", 50, 10), virtual("x", 0, 100), virtual("x", 70, 20)]
    report = await verified(refs, archive(x=bytes(100 - missing)))
    assert report.kinds == ({ErrorKind.SOURCE_MISMATCH} if missing else set())
    assert sum(sum(loss.chunks.values()) for loss in report.losses) == 3 * missing


async def test_objects_of_any_size_are_asked_for() -> None:
    """Refs that reach terabytes into an object are no range too long to ask for."""
    source = Counting(lambda place: None)
    report = await verified([virtual("x", 0, 10), virtual("x", 2**42, 2**20)], source)
    assert report.losses == []
    (asked,) = source.asked
    assert asked.range is not None
    assert asked.range.end == 2**42 + 2**20


async def test_each_version_that_refs_name_is_asked_for() -> None:
    """Refs that expect different versions of one object are verified each, and one may be lost alone."""
    source = archive(x=bytes(10))
    checksums = [None, ETag("x"), ETag("old"), LastModified(1), LastModified(2_000_000_000)]
    report = await verified([virtual("x", 0, 10, checksum) for checksum in checksums], source)
    assert len(source.asked) == 5
    assert {loss.lost.checksum for loss in report.losses} == {ETag("old"), LastModified(1)}


async def test_a_manifest_that_cannot_be_read_is_a_loss() -> None:
    """What a damaged manifest says is unknown, for each of its arrays; everything else is verified."""
    source = archive(x=bytes(10))
    repository = Repository({"good": manifest([virtual("x", 0, 10)]), "bad": DAMAGE})
    report = await verification(
        repository, source, node("/a", "good", "bad"), node("/b", "bad", size=7), node("/c", "good")
    ).run()
    assert report.unreadable == [
        Unreadable("/a", "bad", DAMAGE, 50),
        Unreadable("/b", "bad", DAMAGE, 7),
    ]
    assert [a.chunks for a in report.arrays] == [1, 0, 1]
    assert len(source.asked) == 1


async def test_an_array_whose_chunks_have_no_names_is_a_loss() -> None:
    """An array with a grid or keys that vzfs does not know cannot be verified, and is said so."""
    repository = Repository({})
    array = node("/odd", "M", size=9, problem="an unknown chunk grid")
    report = await verification(repository, Counting(), array).run()
    (part,) = report.unreadable
    assert (part.path, part.at_most) == ("/odd", 9)
    assert "an unknown chunk grid" in str(part.error)
    assert repository.loads == []


async def test_a_repository_without_chunks_is_well() -> None:
    """Nothing to verify is nothing lost."""
    report = await verification(Repository({}), Counting(), node("/a")).run()
    assert report == Report(report.arrays, dict.fromkeys(ChunkKind, 0), 0, [], [])


# -- chunk objects of the repository -----------------------------------------------------------


def keep(source: FakeSource, count: int) -> list[ChunkRef]:
    """Put *count* chunk objects into the repository's storage."""
    refs = [native(f"C{i:05}") for i in range(count)]
    for ref in refs:
        source.put(f"s3://repos/mine/{ref.location}", bytes(10))
    return refs


async def test_few_chunk_objects_are_asked_for() -> None:
    """A handful of native chunks is asked for one by one, and their sizes are checked."""
    source = Counting()
    refs = [*keep(source, 5), native("GONE")]
    source.put("s3://repos/mine/chunks/SHORT", bytes(9))
    report = await verified([*refs, native("SHORT")], source, allowed=())
    assert source.statistics().lists == 0
    assert len(source.asked) == 7
    assert {loss.lost.location: loss.error.kind for loss in report.losses} == {
        "chunks/GONE": ErrorKind.SOURCE_VANISHED,
        "chunks/SHORT": ErrorKind.SOURCE_MISMATCH,
    }
    assert report.objects == 0


async def test_many_chunk_objects_are_looked_up_in_one_listing() -> None:
    """Native chunks in their hundreds, in any number of manifests, cost one listing and no HEAD."""
    source = Counting()
    refs = keep(source, 900)
    parts = [*itertools.batched([*refs, native("GONE")], 100), [refs[0], native("GONE")]]
    files = {f"M{i}": manifest(part) for i, part in enumerate(parts)}
    report = await verification(Repository(files), source, node("/a", *files)).run()
    assert source.statistics().lists == 1
    assert source.asked == []
    (loss,) = report.losses
    assert (loss.lost.location, loss.error.kind, loss.chunks) == (
        "chunks/GONE",
        ErrorKind.SOURCE_VANISHED,
        {"/a": 2},
    )
    assert loss.error.where == "s3://repos/mine/chunks/GONE"


async def test_chunk_objects_of_a_version_are_asked_for() -> None:
    """Native chunks that name a version, as those of plain Zarr do, are each asked for theirs, however many they are."""
    source = Counting()
    refs = []
    for i in range(LIST_FROM + 5):
        url = f"s3://repos/mine/chunks/c/{i}"
        source.put(url, b"0123456789")
        refs.append(ChunkRef(ChunkKind.NATIVE, 10, f"chunks/c/{i}", 0, ETag(source.seen(url).etag)))
    source.put("s3://repos/mine/chunks/c/7", b"9876543210")
    report = await verified(refs, source)
    assert source.statistics().lists == 0
    assert len(source.asked) == len(refs)
    ((lost, error, _),) = [(loss.lost.location, loss.error.kind, loss) for loss in report.losses]
    assert (lost, error) == ("chunks/c/7", ErrorKind.SOURCE_CHANGED)


async def test_a_storage_that_cannot_list_is_asked_for_each_chunk_object() -> None:
    """Where a listing is refused, native chunks are asked for one by one, and none is taken for lost."""
    source = Counting()
    source.can_list = False
    refs = keep(source, 300)
    report = await verified([*refs, native("GONE")], source)
    assert len(source.asked) == 301
    assert [loss.lost.location for loss in report.losses] == ["chunks/GONE"]


# -- while it runs, and how it ends ------------------------------------------------------------


async def test_progress_without_a_terminal_is_a_line_every_ten_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In a log there is a line every ten seconds, with what is done, what is lost and how long it may take."""

    def answer(place: str) -> None:
        if place.endswith("7"):
            raise SourceError(ErrorKind.SOURCE_VANISHED, "gone", where=place)

    source = Counting(answer, seconds=5)
    repository = Repository(
        {"M": manifest([virtual(f"{i:03}", 0, 10) for i in range(4 * MAX_ASKED)])}, seconds=12
    )
    asking = verification(repository, source, node("/a", "M"))
    said = io.StringIO()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show, asking, Console(file=said, width=200))
        await asking.run()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(32, abs=0.01)
    first, second, third = said.getvalue().splitlines()
    assert first == "0 of 1 manifests read"
    assert second == "64 of 256 objects asked for, 6 lost; about 30 s left"
    assert third == "192 of 256 objects asked for, 19 lost; about 7 s left"


@pytest.mark.parametrize(("seconds", "is_shown"), [(1.5, False), (6.0, True)])
async def test_progress_on_a_terminal_is_a_bar_with_an_estimate(
    autojump_clock: trio.testing.MockClock, seconds: float, is_shown: bool
) -> None:
    """On a terminal, what takes over two seconds shows a bar with the time that is left; the rest shows nothing."""
    refs = [virtual(str(i), 0, 10) for i in range(10 * MAX_ASKED)]
    source = Counting(lambda place: None, seconds=seconds / 10)
    asking = verification(Repository({"M": manifest(refs)}), source, node("/a", "M"))
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show, asking, console)
        await asking.run()
        nursery.cancel_scope.cancel()
    assert ("576/640" in said.getvalue()) == is_shown
    assert ("0:00:01" in said.getvalue()) == is_shown
    assert bool(said.getvalue()) == is_shown


def found(*kinds: ErrorKind, damage: bool = False) -> Report:
    """Return a report of objects that are lost for these reasons."""
    losses = [
        Loss(module.SourceObject(ChunkKind.VIRTUAL, kind, None), AccessDenied(kind, "x"), {"/a": 1})
        for kind in kinds
    ]
    return Report([], {}, len(kinds), losses, [Unreadable("/a", "M", DAMAGE, 1)] if damage else [])


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (found(), 0),
        (found(ErrorKind.NOT_ALLOWED, ErrorKind.NO_CONTAINER, ErrorKind.SOURCE_DENIED), 4),
        (found(ErrorKind.NOT_ALLOWED, ErrorKind.SOURCE_UNREACHABLE), 5),
        (found(ErrorKind.SOURCE_TIMEOUT), 5),
        (found(ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_VANISHED), 10),
        (found(ErrorKind.SOURCE_CHANGED), 10),
        (found(ErrorKind.SOURCE_MISMATCH, ErrorKind.NOT_ALLOWED), 10),
        (found(damage=True), 10),
    ],
)
def test_the_exit_code_says_the_worst_that_was_found(report: Report, code: int) -> None:
    """Losses that are certain end with 10, places that did not answer with 5, missing permission alone with 4."""
    assert verdict(report) == code
