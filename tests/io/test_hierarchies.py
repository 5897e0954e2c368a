"""Hierarchies that come and go below the control directory, and a root that moves."""

import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.fakes import FakeSource
from vzfs import control, mount
from vzfs.access import Access
from vzfs.cache import MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.control import Kind, Place
from vzfs.errors import ErrorKind, MountError, NameProblem, RepositoryError, SourceError, VzfsError
from vzfs.filesystem import IDLE, RETRY_AFTER, Filesystem, NotLoaded, Reading, filesystem, settle
from vzfs.hierarchy.hierarchy import MAX_AT_ONCE
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import Manifest
from vzfs.model.snapshot import (
    Group,
    RefSpec,
    Snapshot,
    SnapshotInfo,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.repository import Checkout, Refs, Timeline, timeline
from vzfs.views.presentation import Presentation
from vzfs.views.view import View, ViewName

ROOT = 1


class FakeRepository:
    """Snapshots that are one group each; what its refs are may be changed, and asking may fail."""

    is_versioned = True
    named = ()
    omissions = ()

    format = "fake 1"
    notice = ""
    containers: Sequence[VirtualChunkContainer] = ()

    def __init__(self) -> None:
        self.opened = 0
        self.branches = {"main": "S0"}
        self.tags = {f"t{i}": f"S{i}" for i in range(400)}
        self.written: dict[str, int] = {}
        self.error: VzfsError | None = None
        self.asked = 0
        self.read = 0

    async def open(self) -> "FakeRepository":
        await trio.lowlevel.checkpoint()
        self.opened += 1
        return self

    def _fail(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error

    async def resolve(self, ref: RefSpec) -> str:
        await trio.lowlevel.checkpoint()
        self._fail()
        known: Mapping[str, str] = self.tags if ref.tag else self.branches
        name = ref.tag or ref.branch or "main"
        if name not in known:
            raise RepositoryError(ErrorKind.REF_NOT_FOUND, "there is no such ref")
        return known[name]

    async def refs(self) -> Refs:
        await trio.lowlevel.checkpoint()
        self._fail()
        return Refs(self.branches, self.tags)

    async def history(self, snapshot_id: str) -> AsyncIterator[SnapshotInfo]:
        yield SnapshotInfo(snapshot_id, None, 1_500, "", {})

    def written_at(self, snapshot_id: str) -> int | None:
        return self.written.get(snapshot_id)

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        await trio.lowlevel.checkpoint()
        self.read += 1
        return snapshot(snapshot_id)

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        raise AssertionError("there is none")


def snapshot(snapshot_id: str) -> Snapshot:
    root = Group(path="/", documents={"zarr.json": f'{{"id": "{snapshot_id}"}}'.encode()})
    return Snapshot(id=snapshot_id, written_at=7, message="", metadata={}, nodes=(root,))


@pytest.fixture(name="repository")
def _repository() -> FakeRepository:
    return FakeRepository()


def mounted(
    repository: FakeRepository,
    *,
    is_following: bool = False,
    view: View | None = None,
    shown: Snapshot | None = None,
) -> Filesystem:
    access = Access(parse_prefix("s3://repos/mine"))
    chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
    checkout = Checkout(repository, shown or snapshot("S0"), RefSpec())
    return Filesystem(
        checkout,
        Reading(access, chunks, ReadAhead(chunks, 2**20)),
        view,
        timeline=Timeline(repository, checkout),
        is_following=is_following,
    )


async def look_up(fs: Filesystem, path: str, start: int = ROOT) -> int:
    """Look names up as the kernel does, which is given an inode each time."""
    inode = start
    for name in path.split("/"):
        inode = (await settle(fs.lookup, inode, name)).inode
        fs.looked_up(inode)
    return inode


async def document(fs: Filesystem, root: int) -> bytes:
    inode = (await settle(fs.lookup, root, "zarr.json")).inode
    return bytes(await fs.read(inode, 0, 100))


async def test_a_hierarchy_is_opened_once_and_its_snapshot_read_once(
    repository: FakeRepository,
) -> None:
    """However often and by however many names a snapshot is looked up, it is read once."""
    fs = mounted(repository)
    repository.tags["again"] = "S3"
    found: list[int] = []

    async def look() -> None:
        found.append(await look_up(fs, ".vzfs/tag/t3"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(look)
    assert len(set(found)) == 1
    other = await look_up(fs, ".vzfs/tag/again")
    assert other != found[0]
    assert repository.read == 1
    assert await document(fs, found[0]) == await document(fs, other) == b'{"id": "S3"}'


async def test_the_snapshot_at_the_root_is_not_read_again(repository: FakeRepository) -> None:
    """A ref to the snapshot that the root shows costs no reading, and has inodes of its own."""
    fs = mounted(repository)
    assert await look_up(fs, ".vzfs/branch/main") != ROOT
    assert repository.read == 0


async def test_what_nobody_uses_ends(repository: FakeRepository, autojump_clock: MockClock) -> None:
    """A hierarchy that was idle is named to the kernel, ends when that has forgotten it, and is stale then."""
    fs = mounted(repository)
    tag = await look_up(fs, ".vzfs/tag/t1")
    fs.idle()
    await trio.sleep(IDLE)
    names = fs.idle()
    assert names == [(control.number_of(Place(0, Kind.TAG)), "t1")]
    assert await document(fs, tag) == b'{"id": "S1"}'
    fs.idle()
    await trio.sleep(IDLE)
    assert fs.idle() == names
    fs.forgotten(tag, 1)
    assert fs.statistics().open == 1
    with pytest.raises(NameProblem) as caught:
        fs.attrs(tag)
    assert caught.value.kind is ErrorKind.STALE_INODE
    again = await look_up(fs, ".vzfs/tag/t1")
    assert await document(fs, again) == b'{"id": "S1"}'


async def test_what_the_kernel_has_not_got_yet_stays(repository: FakeRepository) -> None:
    """A hierarchy that was opened, and of which the kernel has heard nothing, does not end."""
    fs = mounted(repository)
    tag = (await settle(fs.lookup, await look_up(fs, ".vzfs/tag"), "t1")).inode
    fs.forgotten(tag, 0)
    assert fs.attrs(tag).is_dir


async def test_views_of_a_hierarchy_end_after_it(repository: FakeRepository) -> None:
    """The control directory of a hierarchy keeps it open as long as the kernel has it."""
    fs = mounted(repository)
    tag = await look_up(fs, ".vzfs/tag/t1")
    views = await look_up(fs, ".vzfs/view", tag)
    fs.forgotten(tag, 1)
    view = await look_up(fs, "stored-v3", views)
    assert await document(fs, view) == b'{"id": "S1"}'


async def test_who_is_in_its_control_directory_keeps_a_hierarchy(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """A hierarchy of which the kernel has the control directory alone does not end, however long it is idle."""
    fs = mounted(repository)
    tag = await look_up(fs, ".vzfs/tag/t1")
    views = await look_up(fs, ".vzfs/view", tag)
    fs.forgotten(tag, 1)
    for _ in range(3):
        fs.idle()
        await trio.sleep(IDLE)
    assert await document(fs, await look_up(fs, "stored-v3", views)) == b'{"id": "S1"}'


async def test_to_look_at_all_snapshots_opens_none(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more snapshots than may be open, names and times are given without reading one; what is in one opens it."""
    monkeypatch.setattr(filesystem, "MAX_OPEN", 3)
    repository.written = {id_: 1_000 + n for n, id_ in enumerate(repository.tags.values())}
    fs = mounted(repository)
    tags = await look_up(fs, ".vzfs/tag")
    found = {name: await look_up(fs, name, tags) for name in repository.tags}
    for name, inode in found.items():
        assert fs.attrs(inode).is_dir
        assert fs.written_at(inode) == repository.written[repository.tags[name]]
        assert fs.path(inode) == f"/.vzfs/tag/{name}"
        with pytest.raises(NameProblem) as caught:
            fs.xattr(inode, "system.posix_acl_access")
        assert caught.value.kind is ErrorKind.NO_SUCH_ATTRIBUTE
    assert len(set(found.values())) == len(repository.tags)
    assert (repository.read, fs.statistics().open) == (0, 1)
    assert await document(fs, found["t7"]) == b'{"id": "S7"}'
    assert await settle(fs.xattr, found["t8"], "user.vzfs.snapshot") == "S8"
    with pytest.raises(NameProblem) as caught:
        await fs.cached(found["t8"])
    assert caught.value.kind is ErrorKind.NO_SUCH_ATTRIBUTE
    assert (repository.read, fs.statistics().open) == (2, 3)
    assert fs.written_at(found["t7"]) == repository.written["S7"]
    with pytest.raises(MountError) as full:
        await settle(fs.children, found["t9"], 0)
    assert full.value.kind is ErrorKind.TOO_MANY_OPEN
    assert await look_up(fs, "t9", tags) == found["t9"]


async def test_what_cannot_be_opened_has_a_name_and_fails(
    repository: FakeRepository, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that cannot be read is there, what is in it fails and is not tried each time, and it comes back."""
    repository.written["S1"] = 5
    fs = mounted(repository)
    read = repository.snapshot

    async def fail(snapshot_id: str) -> Snapshot:
        await read(snapshot_id)
        raise SourceError(ErrorKind.SOURCE_UNREACHABLE, "nobody answers")

    monkeypatch.setattr(repository, "snapshot", fail)
    tag = await look_up(fs, ".vzfs/tag/t1")
    for _ in range(3):
        with pytest.raises(SourceError):
            await look_up(fs, "zarr.json", tag)
    assert repository.read == 1
    monkeypatch.setattr(repository, "snapshot", read)
    await trio.sleep(RETRY_AFTER)
    assert await document(fs, tag) == b'{"id": "S1"}'


async def test_what_was_only_looked_at_ends_when_it_is_forgotten(
    repository: FakeRepository, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name without an open hierarchy is named to the kernel when nobody uses it, and there is an end to such names."""
    monkeypatch.setattr(filesystem, "MAX_HELD", 3)
    repository.written = {"S1": 1, "S2": 2, "S3": 3}
    fs = mounted(repository)
    found = [await look_up(fs, f".vzfs/tag/t{i}") for i in (1, 2)]
    with pytest.raises(MountError) as caught:
        await look_up(fs, ".vzfs/tag/t3")
    assert caught.value.kind is ErrorKind.TOO_MANY_OPEN
    fs.idle()
    await trio.sleep(RETRY_AFTER)
    tags = control.number_of(Place(0, Kind.TAG))
    assert fs.idle() == [(tags, "t1"), (tags, "t2")]
    fs.forgotten(found[0], 1)
    with pytest.raises(NameProblem) as stale:
        fs.attrs(found[0])
    assert stale.value.kind is ErrorKind.STALE_INODE
    assert await look_up(fs, ".vzfs/tag/t3")


async def test_there_is_an_end_to_what_is_open(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More hierarchies than may be open at a time are refused with an error, which is not ENOENT."""
    monkeypatch.setattr(filesystem, "MAX_OPEN", 3)
    fs = mounted(repository)
    for i in (1, 2):
        await look_up(fs, f".vzfs/tag/t{i}")
    with pytest.raises(MountError) as caught:
        await look_up(fs, ".vzfs/tag/t3")
    assert caught.value.kind is ErrorKind.TOO_MANY_OPEN
    assert fs.statistics().open == 3


async def test_a_storage_that_is_away_is_not_an_absent_ref(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """While refs cannot be asked for, their names and lists fail, are not asked for each time, and come back."""
    fs = mounted(repository)
    repository.error = SourceError(ErrorKind.SOURCE_UNREACHABLE, "nobody answers")
    tags = await look_up(fs, ".vzfs/tag")
    for _ in range(3):
        with pytest.raises(SourceError):
            await look_up(fs, "t1", tags)
        with pytest.raises(SourceError):
            await settle(fs.children, tags, 0)
    assert repository.asked == 2
    repository.error = None
    await trio.sleep(RETRY_AFTER)
    assert await look_up(fs, "t1", tags)
    assert len(list(await settle(fs.children, tags, 0))) == 400
    with pytest.raises(NameProblem) as caught:
        await look_up(fs, "none", tags)
    assert caught.value.kind is ErrorKind.NO_SUCH_NAME


async def test_a_listing_goes_on_where_it_was(repository: FakeRepository) -> None:
    """Refs are listed in order of their names, from any position on."""
    fs = mounted(repository)
    tags = await look_up(fs, ".vzfs/tag")
    lines = list(await settle(fs.children, tags, 0))
    assert [line.name for line in lines] == sorted(repository.tags)
    assert [line.name for line in await settle(fs.children, tags, lines[100].position)] == [
        line.name for line in lines[101:]
    ]


async def test_the_root_moves_in_one_step(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """After a move every name at the root is the new snapshot's, and inodes of the old one stay as they were."""
    fs = mounted(repository, is_following=True)
    old = await look_up(fs, "zarr.json")
    assert fs.lasts(ROOT) == 0
    assert await fs.news() is None
    repository.branches["main"] = "S9"
    news = await fs.news()
    assert news is not None
    await fs.move(news)
    assert await document(fs, ROOT) == b'{"id": "S9"}'
    assert bytes(await fs.read(old, 0, 100)) == b'{"id": "S0"}'
    assert fs.statistics().open == 2
    fs.forgotten(old, 1)
    assert fs.statistics().open == 1


async def test_views_of_the_root_move_with_it(repository: FakeRepository) -> None:
    """A view of the root shows what the root shows."""
    fs = mounted(repository, is_following=True)
    before = await look_up(fs, ".vzfs/view/stored-v3")
    repository.branches["main"] = "S9"
    news = await fs.news()
    assert news is not None
    await fs.move(news)
    after = await look_up(fs, ".vzfs/view/stored-v3")
    assert await document(fs, after) == b'{"id": "S9"}'
    assert await document(fs, before) == b'{"id": "S0"}'


async def test_commits_without_end_need_no_numbers_without_end(repository: FakeRepository) -> None:
    """Moving the root again and again leaves one hierarchy open if the kernel has nothing of the others."""
    fs = mounted(repository, is_following=True)
    for i in range(1000):
        repository.branches["main"] = f"N{i}"
        news = await fs.news()
        assert news is not None
        await fs.move(news)
    assert fs.statistics().open == 1
    assert fs.statistics().moves == 1000


@pytest.mark.parametrize("name", ["a", "a/b", "100%", "a%2Fb", "%", "a b", "ü/%25"])
def test_ref_names_lead_back(name: str) -> None:
    """The file name of a ref names that ref and no other."""
    written = control.encode_ref(name)
    assert "/" not in written
    assert control.decode_ref(written) == name


def test_what_is_no_number_of_a_directory_is_none() -> None:
    """Numbers between those of control directories, and beyond, are no directory's."""
    first = control.number_of(Place(3, Kind.CONTROL))
    assert [control.place_of(first + i) for i in (6, 7)] == [None, None]
    assert control.place_of(2**63 - 1) is None
    assert control.ref_of(Kind.BRANCH, "", None) is None


@pytest.mark.parametrize("name", ["a%", "a%2f", "a%41", "%2"])
def test_other_spellings_name_nothing(name: str) -> None:
    """A ref has one file name."""
    assert control.decode_ref(name) is None


def test_control_numbers_lead_back() -> None:
    """Each control directory has a number that no hierarchy's inode has."""
    places = [Place(owner, kind) for owner in (0, 1, 77, control.EPOCH - 1) for kind in Kind]
    numbers = list(map(control.number_of, places))
    assert list(map(control.place_of, numbers)) == places
    assert len(set(numbers)) == len(numbers)
    assert control.place_of(ROOT) is None


# -- what is hostile, and what is many ---------------------------------------------------------


def flat(snapshot_id: str, *names: str) -> Snapshot:
    """Return a snapshot with a group of each name at its root."""
    document = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
    paths = ["/", *(f"/{name}" for name in sorted(names))]
    nodes = tuple(Group(path=path, documents={"zarr.json": document}) for path in paths)
    return Snapshot(id=snapshot_id, written_at=7, message="", metadata={}, nodes=nodes)


def showing(
    repository: FakeRepository, shown: Snapshot, view: View | None = None, *, follow: bool = False
) -> Filesystem:
    access = Access(parse_prefix("s3://repos/mine"))
    chunks = Chunks(FakeSource(), access, MemoryCache(2**20), None)
    checkout = Checkout(repository, shown, RefSpec())
    return Filesystem(
        checkout,
        Reading(access, chunks, ReadAhead(chunks, 2**20)),
        view,
        Timeline(repository, checkout),
        is_following=follow,
    )


async def commit(fs: Filesystem, repository: FakeRepository, snapshot_id: str) -> None:
    """Commit a snapshot and have the root show it."""
    repository.branches["main"] = snapshot_id
    news = await fs.news()
    assert news is not None
    await fs.move(news)


async def test_names_of_what_was_at_the_root_are_forgotten(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """A former root of which the kernel still has a name is named to it once nobody uses it, and ends."""
    fs = showing(repository, flat("S0", "a", "b"), follow=True)
    old = await look_up(fs, "a")
    await commit(fs, repository, "S1")
    fs.idle()
    await trio.sleep(IDLE)
    assert {(ROOT, "a"), (ROOT, "b"), (ROOT, "zarr.json")} <= set(fs.idle())
    assert fs.attrs(old).is_dir
    fs.forgotten(old, 1)
    assert fs.statistics().open == 1


async def test_where_many_are_open_they_end_sooner(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half of what may be open, whatever had no use between two looks is named to the kernel."""
    monkeypatch.setattr(filesystem, "MAX_OPEN", 4)
    fs = mounted(repository)
    tags = control.number_of(Place(0, Kind.TAG))
    found = [await look_up(fs, f".vzfs/tag/t{i}") for i in (1, 2)]
    fs.idle()
    await look_up(fs, ".vzfs/tag/t1")
    assert fs.idle() == [(tags, "t2")]
    fs.forgotten(found[1], 1)
    assert fs.statistics().open == 2
    fs.idle()
    assert fs.idle() == []


async def test_the_control_directory_keeps_no_former_root(repository: FakeRepository) -> None:
    """That the kernel knows the mount's control directory keeps no snapshot open."""
    fs = mounted(repository, is_following=True)
    await look_up(fs, ".vzfs/branch")
    await commit(fs, repository, "S1")
    assert fs.statistics().open == 1


async def test_no_node_makes_way_for_the_control_directory(repository: FakeRepository) -> None:
    """In a repository that has nodes of both its names, both are the nodes, and there is none."""
    fs = showing(repository, flat("S0", ".vzfs", ".vzfs-control"))
    for name in (".vzfs", ".vzfs-control"):
        inode = await look_up(fs, f"{name}/zarr.json")
        assert bytes(await fs.read(inode, 0, 17)) == b'{"zarr_format":3,'


async def test_ref_names_that_no_file_can_have_are_not_listed(repository: FakeRepository) -> None:
    """Whatever a repository calls its refs, names in a listing are ones that can be looked up."""
    fs = mounted(repository)
    repository.branches = dict.fromkeys(
        ["", ".", "..", "a\0b", "x" * 300, "main", "a/b", "\udcff", "\n"], "S1"
    )
    branches = await look_up(fs, ".vzfs/branch")
    names = [line.name for line in await settle(fs.children, branches, 0)]
    assert names == ["\n", "a%2Fb", "main", "\udcff"]
    for name in names:
        assert await look_up(fs, name, branches)


async def test_long_names_are_said_so(repository: FakeRepository) -> None:
    """A name over 255 bytes is too long in control directories, also for a ref that is called so."""
    fs = mounted(repository)
    repository.branches["x" * 300] = "S1"
    for folder in (".vzfs", ".vzfs/branch", ".vzfs/view"):
        with pytest.raises(NameProblem) as caught:
            await look_up(fs, "x" * 300, await look_up(fs, folder))
        assert caught.value.kind is ErrorKind.NAME_TOO_LONG


async def test_a_listing_of_refs_goes_on_in_the_names_it_began_with(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """Refs that come and go during a listing neither hide others nor show them twice."""
    fs = mounted(repository)
    tags = await look_up(fs, ".vzfs/tag")
    lines = list(await settle(fs.children, tags, 0))
    del repository.tags["t0"]
    await trio.sleep(60)
    rest = await settle(fs.children, tags, lines[9].position)
    assert [line.name for line in rest] == [line.name for line in lines[10:]]
    assert "t0" not in [line.name for line in await settle(fs.children, tags, 0)]


async def test_a_listing_of_the_root_is_of_one_snapshot(repository: FakeRepository) -> None:
    """A listing that was begun before the root moved goes on in the old one, or fails where that has ended."""
    names = [f"n{i}" for i in range(9)]
    fs = showing(repository, flat("S0", *names), follow=True)
    lines = list(fs.children(ROOT, 0))
    assert [line.name for line in lines] == ["zarr.json", *names]
    held = await look_up(fs, "n1")
    await commit(fs, repository, "S1")
    rest = fs.children(ROOT, lines[3].position)
    assert [line.name for line in rest] == names[3:]
    assert [line.name for line in fs.children(ROOT, 0)] == ["zarr.json"]
    fs.forgotten(held, 1)
    with pytest.raises(NameProblem) as caught:
        fs.children(ROOT, lines[3].position)
    assert caught.value.kind is ErrorKind.STALE_INODE


async def test_what_ends_while_its_name_is_looked_up_ends_once(
    repository: FakeRepository, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hierarchy may end while another is read that its name means now."""
    fs = mounted(repository)
    branch = await look_up(fs, ".vzfs/branch/main")
    fs.forgotten(branch, 1)
    fs.idle()
    await trio.sleep(IDLE)
    repository.branches["main"] = "S1"
    read = repository.snapshot

    async def snapshot_meanwhile(snapshot_id: str) -> Snapshot:
        fs.idle()
        return await read(snapshot_id)

    monkeypatch.setattr(repository, "snapshot", snapshot_meanwhile)
    assert await document(fs, await look_up(fs, ".vzfs/branch/main")) == b'{"id": "S1"}'
    assert fs.statistics().open == 2


async def test_a_root_that_moves_too_fast_is_an_error(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view that is of another snapshot whenever it has been opened is an error, not a wait without end."""
    fs = mounted(repository, is_following=True)
    views = await look_up(fs, ".vzfs/view")
    check_out, count = Timeline.check_out, itertools.count()

    async def move_meanwhile(self: Timeline, snapshot_id: str, ref: RefSpec) -> Checkout:
        found = await check_out(self, snapshot_id, ref)
        await fs.move(await check_out(self, f"M{next(count)}", ref))
        return found

    monkeypatch.setattr(Timeline, "check_out", move_meanwhile)
    with trio.fail_after(60), pytest.raises(SourceError) as caught:
        await look_up(fs, "stored-v3", views)
    assert caught.value.kind is ErrorKind.SOURCE_TIMEOUT


async def test_there_is_an_end_to_nodes(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots of many nodes are refused where others are open, so that memory is bounded."""
    monkeypatch.setattr(filesystem, "MAX_NODES", 3)
    fs = showing(repository, flat("S0", "a", "b", "c"))
    await look_up(fs, ".vzfs/tag/t1")
    with pytest.raises(MountError) as caught:
        await look_up(fs, ".vzfs/tag/t2")
    assert caught.value.kind is ErrorKind.TOO_MANY_OPEN


async def test_many_nodes_are_put_into_words_in_a_thread(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What says something of all nodes waits for a thread; a single node does not wait."""
    threads = []
    prepare = Presentation.prepare

    def note(self: Presentation) -> None:
        threads.append(threading.get_ident())
        prepare(self)

    monkeypatch.setattr(Presentation, "prepare", note)
    names = [f"n{i}" for i in range(MAX_AT_ONCE + 1)]
    for view in (View(ViewName.PORTABLE, 3), View(ViewName.STORED, 2)):
        fs = showing(repository, flat("S0", *names), view)
        assert (await settle(fs.lookup, ROOT, "n1")).is_dir
        assert fs.lookup(ROOT, ".vzfs").is_dir
        own = "zarr.json" if view.zarr_format == 3 else ".zgroup"
        assert not fs.lookup(fs.lookup(ROOT, "n2").inode, own).is_dir
        assert list(fs.children(fs.lookup(ROOT, "n2").inode, 0))
        document = "zarr.json" if view.zarr_format == 3 else ".zmetadata"
        with pytest.raises(NotLoaded):
            fs.lookup(ROOT, document)
        with pytest.raises(NotLoaded):
            fs.children(ROOT, 0)
        size = (await settle(fs.lookup, ROOT, document)).size
        assert size > 40 * len(names)
        assert set(names) < {line.name for line in fs.children(ROOT, 0)}
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_hierarchies_are_opened_in_a_thread(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is opened while the mount serves is opened beside the event loop."""
    fs = mounted(repository, is_following=True)
    threads = []

    class Noted(Presentation):
        def __init__(self, *args: Any) -> None:
            threads.append(threading.get_ident())
            super().__init__(*args)

    monkeypatch.setattr(filesystem, "Presentation", Noted)
    await look_up(fs, ".vzfs/tag/t1")
    await commit(fs, repository, "S1")
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("error", [KeyError("x"), OSError(22, "EINVAL")])
async def test_no_error_ends_following_or_a_mount(
    error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong while a branch is followed, or hierarchies are ended, is told and tried again."""

    class Failing:
        asked = 0

        async def news(self) -> None:
            self.asked += 1
            if self.asked < 4:
                raise error

        def idle(self) -> list[tuple[int, str]]:
            self.asked += 1
            raise error

    fs: Any = Failing()
    with trio.move_on_after(9.5):
        await mount._follow(fs, fs, 1.0)
    assert fs.asked == 9
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == ["ERROR"]
    fs = Failing()
    with trio.move_on_after(mount.LOOK_AFTER * 3.5):
        await mount._end_idle(fs, fs)
    assert fs.asked == 3


# -- what the kernel may keep, and what is in use ----------------------------------------------


async def test_how_long_names_may_be_kept(repository: FakeRepository) -> None:
    """Names in a snapshot are kept for good, those of refs for an instant, and those of what moves not at all."""
    for is_following in (False, True):
        fs = mounted(repository, is_following=is_following)
        control_directory = await look_up(fs, ".vzfs")
        tags = await look_up(fs, "tag", control_directory)
        tag = await look_up(fs, "t1", tags)
        views = await look_up(fs, ".vzfs/view", tag)
        view = await look_up(fs, "stored-v3", views)
        moving = 0 if is_following else filesystem.PASSING
        for inode, expected in (
            (ROOT, 0 if is_following else filesystem.FOREVER),
            (control_directory, moving),
            (tags, moving),
            (tag, filesystem.FOREVER),
            (views, filesystem.PASSING),
            (view, filesystem.FOREVER),
        ):
            assert (fs.lasts(inode), fs.attrs_last(inode)) == (expected, expected)


async def test_the_control_directory_is_at_roots_alone(repository: FakeRepository) -> None:
    """It is found at the root of a hierarchy and nowhere below; all refs are in that of the mount alone."""
    fs = showing(repository, flat("S0", "a"))
    with pytest.raises(NameProblem) as caught:
        fs.lookup(fs.lookup(ROOT, "a").inode, ".vzfs")
    assert caught.value.kind is ErrorKind.NO_SUCH_NAME
    inside = await look_up(fs, ".vzfs/tag/t1/.vzfs")
    assert [line.name for line in fs.children(inside, 0)] == ["view"]
    with pytest.raises(NameProblem):
        fs.lookup(inside, "tag")
    outside = await look_up(fs, ".vzfs")
    folders = [line.name for line in fs.children(outside, 0)]
    assert sorted(folders) == ["at", "branch", "snapshot", "tag", "view"]
    with pytest.raises(NameProblem) as caught:
        fs.open(outside)
    assert caught.value.kind is ErrorKind.IS_A_DIRECTORY


async def test_after_a_move_the_control_directory_is_the_roots(repository: FakeRepository) -> None:
    """A mount that has moved has all refs in its control directory still."""
    fs = mounted(repository, is_following=True)
    await commit(fs, repository, "S1")
    assert await document(fs, await look_up(fs, ".vzfs/tag/t2")) == b'{"id": "S2"}'


async def test_what_is_used_is_not_ended(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """Any request about a hierarchy, its name being looked up included, is a use of it."""
    fs = mounted(repository)
    tags = await look_up(fs, ".vzfs/tag")
    tag = await look_up(fs, "t1", tags)
    asks: list[Callable[[], object]] = [
        lambda: fs.lookup(tags, "t1"),
        lambda: fs.lookup(tag, "zarr.json"),
        lambda: fs.attrs(tag),
    ]
    for ask in asks:
        fs.idle()
        await trio.sleep(IDLE)
        ask()
        assert fs.idle() == []
    await trio.sleep(IDLE)
    assert fs.idle() == [(tags, "t1")]


async def test_an_epoch_in_use_is_not_given_again(repository: FakeRepository) -> None:
    """When numbers of epochs begin anew, those of hierarchies that are open are left out."""
    fs = mounted(repository)
    fs._epochs = itertools.cycle([1, 2, 3])
    first = await look_up(fs, ".vzfs/tag/t1")
    fs._epochs = itertools.cycle([1, 2, 3])
    second = await look_up(fs, ".vzfs/tag/t2")
    assert first != second
    assert await document(fs, first) == b'{"id": "S1"}'
    assert await document(fs, second) == b'{"id": "S2"}'


async def test_what_a_branch_was_ends_when_it_is_forgotten(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """A branch that moved is another hierarchy, and the one before lasts as long as the kernel has it."""
    fs = mounted(repository)
    before = await look_up(fs, ".vzfs/branch/main")
    file = (await settle(fs.lookup, before, "zarr.json")).inode
    fs.looked_up(file, 2)
    repository.branches["main"] = "S1"
    assert await look_up(fs, ".vzfs/branch/main") == before
    await trio.sleep(2 * filesystem.FRESH)
    after = await look_up(fs, ".vzfs/branch/main")
    assert await document(fs, after) == b'{"id": "S1"}'
    fs.forgotten(before, 2)
    fs.forgotten(file, 1)
    assert bytes(await fs.read(file, 0, 100)) == b'{"id": "S0"}'
    fs.forgotten(file, 1)
    assert fs.statistics().open == 2
    await trio.sleep(2 * filesystem.FRESH)
    assert await look_up(fs, ".vzfs/branch/main") == after
    assert fs.statistics().opened == 3


async def test_what_the_kernel_never_had_of_a_branch_ends_at_once(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """A branch that moves again and again leaves nothing behind of which the kernel has nothing."""
    fs = mounted(repository)
    branches = await look_up(fs, ".vzfs/branch")
    for i in range(5):
        repository.branches["main"] = f"S{i}"
        await settle(fs.lookup, branches, "main")
        await trio.sleep(2 * filesystem.FRESH)
    assert fs.statistics().open == 2


async def test_the_root_is_not_ended(repository: FakeRepository, autojump_clock: MockClock) -> None:
    """What is at the root stays, used or not, and whatever is given back of it."""
    fs = mounted(repository)
    fs.forgotten(ROOT, 1)
    fs.looked_up(await look_up(fs, "zarr.json"), 2)
    for _ in range(3):
        assert fs.idle() == []
        await trio.sleep(IDLE)
    assert await document(fs, ROOT) == b'{"id": "S0"}'


async def test_views_below_have_the_mounts_consolidation(repository: FakeRepository) -> None:
    """A mount without consolidated metadata has none in the views below `.vzfs` either."""
    for is_consolidated in (True, False):
        view = View(consolidated=is_consolidated)
        fs = showing(repository, flat("S0", "a"), view)
        root = await look_up(fs, ".vzfs/view/portable-v3")
        inode = (await settle(fs.lookup, root, "zarr.json")).inode
        found = bytes(await fs.read(inode, 0, 10_000))
        assert (b"consolidated_metadata" in found) == is_consolidated


async def test_failures_of_any_number_of_names_are_bounded(repository: FakeRepository) -> None:
    """However many names are looked up that are none, few are remembered."""
    fs = mounted(repository)
    tags = await look_up(fs, ".vzfs/tag")
    for i in range(3 * filesystem.MAX_OPEN):
        with pytest.raises(NameProblem):
            await look_up(fs, f"none{i}", tags)
    assert len(fs._failed) <= filesystem.MAX_OPEN


async def test_refs_are_asked_for_seldom_and_the_followed_branch_each_time(
    repository: FakeRepository, autojump_clock: MockClock
) -> None:
    """The repository is opened anew when what is known of it is old, and whenever a root is to move."""
    fs = mounted(repository, is_following=True)
    for i in range(5):
        await look_up(fs, f".vzfs/tag/t{i}")
    assert not repository.opened
    await trio.sleep(timeline.FRESH)
    for i in range(5, 9):
        await look_up(fs, f".vzfs/tag/t{i}")
    assert repository.opened == 1
    for _ in range(3):
        assert await fs.news() is None
    assert repository.opened == 4
    await look_up(fs, ".vzfs/tag/t9")
    assert repository.opened == 4


async def test_a_history_that_does_not_end_is_listed_in_part(
    repository: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long history the newest snapshots are listed, each name once."""
    monkeypatch.setattr(timeline, "MAX_HISTORY", 4)

    async def history(snapshot_id: str) -> AsyncIterator[SnapshotInfo]:
        for i in itertools.count():
            yield SnapshotInfo(f"H{i}", None, 2_000 * (i // 2), "", {})

    monkeypatch.setattr(repository, "history", history)
    fs = mounted(repository)
    for folder, expected in (("snapshot", 4), ("at", 2)):
        inode = await look_up(fs, f".vzfs/{folder}")
        assert len(list(await settle(fs.children, inode, 0))) == expected
