"""What FUSE asks, answered without FUSE: one hierarchy at the root, and others below `.vzfs`.

Each hierarchy has an epoch of inode numbers, so that a number says which one it is about. It has one
from when its name is looked up, and is opened when something in it is asked for: to list all snapshots
with their times opens none. It ends when the kernel has forgotten all of its inodes, which it is asked
to do where nobody has used them for a while. Number 1 is the root of whichever
hierarchy is at the root now: `move` puts another one there, in one step. Those who have anything of
the one before open keep it.

`.vzfs` is reachable and not listed, so that who copies a hierarchy copies nothing else.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

from vzfs import control
from vzfs.access import Access
from vzfs.control import Kind, Place
from vzfs.errors import ErrorKind, MountError, NameProblem, VzfsError
from vzfs.filesystem.held import Held, Key, Wanted
from vzfs.filesystem.known import FRESH, Known
from vzfs.filesystem.names import Names
from vzfs.flights import Flights
from vzfs.hierarchy import (
    CACHED,
    XATTR_PREFIX,
    Attrs,
    Child,
    Hierarchy,
    NotLoaded,
    Reading,
    Run,
    Totals,
    check_length,
    no_attribute,
    settle,
)
from vzfs.model.snapshot import RefSpec
from vzfs.repository import Checkout, Timeline
from vzfs.tree.inodes import EPOCH_BITS, epoch_of, first_of
from vzfs.views.presentation import Presentation
from vzfs.views.view import ALL, View, ViewName

ROOT: Final = first_of(0)
FOREVER: Final = 10 * 365 * 86400
"""Seconds that the kernel may keep what it was told: a snapshot does not change."""
PASSING: Final = 1
"""Seconds that the kernel may keep names in control directories: refs come and go."""
IDLE: Final = 300.0
"""Seconds after which a hierarchy below `.vzfs` that nobody uses is ended."""
MAX_OPEN: Final = 256
"""Hierarchies that are open at a time, those included that only open files keep."""
MAX_HELD: Final = 20_000
"""Hierarchies of which the kernel has at least the name."""
MAX_NODES: Final = 400_000
"""Nodes of all of them together, if there are more than two: about 1 GB."""
MAX_BUILDING: Final = 2
"""Threads that open hierarchies at a time."""
_DOCUMENTS: Final = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})

_GONE: Final = frozenset(
    {ErrorKind.REF_NOT_FOUND, ErrorKind.AMBIGUOUS_SNAPSHOT, ErrorKind.NO_SUCH_NAME}
)
"""Kinds of errors that say that a ref does not exist."""


@dataclasses.dataclass(frozen=True, slots=True)
class FilesystemStatistics:
    """Hierarchies *opened* so far, and *moves* of the root; *open* is of the moment."""

    opened: int
    moves: int
    open: int


class Filesystem:
    """A checkout in a view at the root, and what *timeline* has besides, if it is given.

    *decodable* are the names of codecs that the decoder knows, asked for when they are needed.
    """

    def __init__(
        self,
        checkout: Checkout,
        reading: Reading,
        view: View | None = None,
        timeline: Timeline | None = None,
        *,
        decodable: Callable[[], frozenset[str]] | None = None,
        is_following: bool = False,
    ) -> None:
        self.view: Final = View() if view is None else view
        self._reading = reading
        self._timeline = timeline
        self._decodable = decodable
        self._is_following = is_following
        self._ref = checkout.ref
        self._epochs = itertools.cycle(range(1, control.EPOCH))
        self._held: dict[int, Held] = {}
        self._opened_at: dict[Key, tuple[Held, str, float]] = {}
        self._failed: dict[Key, Known[None]] = {}
        self._names = None if timeline is None else Names(timeline, checkout.ref)
        self._flights: Flights[object, None] = Flights()
        self._building = trio.CapacityLimiter(MAX_BUILDING)
        self._opened = self._moves = 0
        self._root = self._hold(_wanted_of(checkout, self.view, self._ref), 0, None)
        self._give(self._root, self._present(checkout, self._root))

    def statistics(self) -> FilesystemStatistics:
        """Return the counts so far."""
        return FilesystemStatistics(self._opened, self._moves, len(self._open_ones()))

    def _open_ones(self) -> Sequence[Hierarchy]:
        return [held.hierarchy for held in self._held.values() if held.hierarchy is not None]

    @property
    def root(self) -> Hierarchy:
        """The hierarchy at the root."""
        return self._root.opened

    @property
    def snapshot_id(self) -> str:
        """The snapshot at the root."""
        return self.root.checkout.snapshot.id

    def _present(self, checkout: Checkout, held: Held) -> Hierarchy:
        snapshot, view = checkout.snapshot, held.wanted.view
        if view.name is ViewName.DECODED and self._decodable is not None:
            presentation = Presentation(snapshot, view, self._decodable())
        else:
            presentation = Presentation(snapshot, view)
        return Hierarchy(checkout, presentation, self._reading, held.wanted.ref, held.epoch)

    def _hold(self, wanted: Wanted, epoch: int, key: Key | None) -> Held:
        held = self._held[epoch] = Held(wanted, epoch, key)
        return held

    def _give(self, held: Held, hierarchy: Hierarchy) -> None:
        held.hierarchy = hierarchy
        self._opened += 1

    def _next_epoch(self) -> int:
        """Return an epoch for one more hierarchy. Raises MountError if there are too many."""
        if len(self._held) >= MAX_HELD:
            raise MountError(
                ErrorKind.TOO_MANY_OPEN,
                f"{len(self._held)} snapshots and views are known to the kernel, and no more can be",
                advice="look at fewer names below .vzfs at a time",
            )
        return next(epoch for epoch in self._epochs if epoch not in self._held)

    async def _build(self, checkout: Checkout, view: View, ref: RefSpec, key: Key | None) -> Held:
        """Hold a hierarchy that is open from the beginning. Raises VzfsError."""
        held = Held(_wanted_of(checkout, view, ref), self._next_epoch(), key)
        await self._open(held, checkout)
        self._held[held.epoch] = held
        return held

    async def _open(self, held: Held, checkout: Checkout) -> None:
        """Open a hierarchy, in a thread: of thousands of nodes it takes long. Raises VzfsError."""
        self._check_room(checkout)
        build = functools.partial(self._present, checkout, held)
        hierarchy = await trio.to_thread.run_sync(
            build, limiter=self._building, abandon_on_cancel=True
        )
        self._check_room(checkout)
        self._give(held, hierarchy)

    def _check_room(self, checkout: Checkout) -> None:
        """Raise MountError if too much is open for *checkout* to be opened."""
        open_ones = self._open_ones()
        nodes = len(checkout.snapshot.nodes)
        nodes += sum(len(hierarchy.presentation) for hierarchy in open_ones)
        if len(open_ones) >= MAX_OPEN or (nodes > MAX_NODES and len(open_ones) > 1):
            raise MountError(
                ErrorKind.TOO_MANY_OPEN,
                f"{len(open_ones)} snapshots and views are in use, and no more can be",
                advice="close files below .vzfs, or leave its directories",
            )

    # -- which hierarchy -----------------------------------------------------------------------

    def _of(self, inode: int) -> tuple[Hierarchy, int]:
        """Return the hierarchy of an inode, and its number there.

        Raises NameProblem for one that has ended, NotLoaded, why it cannot be opened.
        """
        if inode == ROOT:
            return self._root.opened, self._root.first
        found = self._held.get(inode >> EPOCH_BITS)
        if found is None:
            raise NameProblem(
                ErrorKind.STALE_INODE,
                "what this was a part of is not open any more",
                where=f"inode {inode}",
                advice="look the name up again",
            )
        found.uses += 1
        if found.hierarchy is not None:
            return found.hierarchy, inode
        if found.failed is not None and found.failed.is_fresh and found.failed.error is not None:
            raise found.failed.error.with_traceback(None)
        raise NotLoaded(
            functools.partial(self._flights.join, (found.first, ""), lambda: self._fill(found))
        )

    async def _fill(self, held: Held) -> None:
        """Open what the kernel has the name of; whoever asks again finds it, or why that cannot be."""
        assert self._timeline is not None  # noqa: S101 -- else there is no such directory
        try:
            wanted = held.wanted
            await self._open(held, await self._timeline.check_out(wanted.snapshot_id, wanted.ref))
        except VzfsError as error:
            held.failed = Known(None, error)

    def control_name(self, hierarchy: Hierarchy) -> str:
        """Return the name of the control directory at the root of a hierarchy, "" if it has none.

        No node of the snapshot makes way for it.
        """
        names = (control.NAME, control.OTHER_NAME)
        return next((name for name in names if not hierarchy.has_child(name)), "")

    def _is_root(self, hierarchy: Hierarchy, inode: int) -> bool:
        return inode == first_of(hierarchy.epoch)

    def lasts(self, directory: int) -> int:
        """Return for how many seconds the kernel may keep what *directory* says of a name in it."""
        if directory < control.FIRST:
            return 0 if directory == ROOT and self._is_following else FOREVER
        place = control.place_of(directory)
        if place is None:
            return 0
        return 0 if self._is_following and place.owner == 0 else PASSING

    def attrs_last(self, inode: int) -> int:
        """Return for how many seconds the kernel may keep the attributes of an inode."""
        return self.lasts(inode)

    # -- names ---------------------------------------------------------------------------------

    def lookup(self, parent: int, name: str) -> Attrs:
        """Return the attributes of *name* in the directory *parent*. Raises NameProblem, NotLoaded."""
        if parent >= control.FIRST and (place := control.place_of(parent)) is not None:
            check_length(name)
            return self._lookup_control(parent, place, name)
        hierarchy, number = self._of(parent)
        if (
            name.startswith(control.NAME)
            and self._timeline is not None
            and self._is_root(hierarchy, number)
            and name == self.control_name(hierarchy)
        ):
            owner = 0 if hierarchy is self.root else hierarchy.epoch
            return _directory(control.number_of(Place(owner, Kind.CONTROL)))
        return hierarchy.lookup(number, name)

    def _lookup_control(self, parent: int, place: Place, name: str) -> Attrs:
        if place.kind is Kind.CONTROL:
            kind = control.folders_of(place.owner).get(name)
            if kind is None:
                raise _no_such_name(name)
            return _directory(control.number_of(Place(place.owner, kind)))
        return _directory(self._find(parent, place, name).first)

    def attrs(self, inode: int) -> Attrs:
        """Return the attributes of an inode. Raises NameProblem if it is stale, NotLoaded."""
        if inode >= control.FIRST and control.place_of(inode) is not None:
            return _directory(inode)
        held = self._held.get(inode >> EPOCH_BITS)
        if held is not None and inode == held.first:
            held.uses += 1
            return _directory(inode)
        hierarchy, number = self._of(inode)
        return hierarchy.attrs(number)

    def written_at(self, inode: int) -> int | None:
        """Return when what an inode shows was written (nanoseconds), None where it changes all the time."""
        held = self._root if inode == ROOT else self._held.get(inode >> EPOCH_BITS)
        return None if held is None else held.wanted.written_at

    def path(self, inode: int) -> str:
        """Return the path of an inode below the root, for people."""
        place = control.place_of(inode)
        if place is not None:
            return f"/{control.NAME}/{place.kind.name.lower()}"
        held = self._root if inode == ROOT else self._held.get(inode >> EPOCH_BITS)
        if held is None:
            return f"inode {inode}"
        path = ""
        if held.hierarchy is not None:
            path = held.hierarchy.path(held.first if inode == ROOT else inode)
        if held is self._root:
            return path
        about = held.key
        if about is None:
            return f"{path} of snapshot {held.wanted.snapshot_id}"
        folder = control.place_of(about[0])
        kind = "" if folder is None else folder.kind.name.lower()
        return f"/{control.NAME}/{kind}/{about[1]}{path}"

    # -- hierarchies below the control directory -----------------------------------------------

    def _find(self, parent: int, place: Place, name: str) -> Held:
        """Return what *name* leads to in a control directory. Raises NameProblem, NotLoaded, why that is not known."""
        key = parent, name
        opened = self._opened_at.get(key)
        if opened is not None and self._counts(place, *opened):
            opened[0].uses += 1
            return opened[0]
        failed = self._failed.get(key)
        if failed is not None and failed.is_fresh and failed.error is not None:
            if failed.error.kind in _GONE:
                raise _no_such_name(name)
            raise failed.error.with_traceback(None)
        wanted = self._wanted(place, name)
        if wanted is None:
            raise _no_such_name(name)
        raise NotLoaded(
            functools.partial(self._flights.join, key, lambda: self._load(key, *wanted))
        )

    def _counts(self, place: Place, held: Held, snapshot_id: str, since: float) -> bool:
        """Whether a hierarchy that was opened is still what its name means."""
        if place.kind is Kind.VIEW:
            owner = self._root if place.owner == 0 else self._held.get(place.owner)
            return owner is not None and owner.wanted.snapshot_id == snapshot_id
        if place.kind in {Kind.TAG, Kind.SNAPSHOT}:
            return True
        return trio.current_time() < since + FRESH

    def _wanted(self, place: Place, name: str) -> tuple[RefSpec, View, str | None] | None:
        """Return ref, view and, if it is known, snapshot that a name asks for; None if it can be none."""
        if place.kind is Kind.VIEW:
            owner = self._root if place.owner == 0 else self._held.get(place.owner)
            view = control.view_of(name)
            if owner is None:
                raise NameProblem(
                    ErrorKind.STALE_INODE,
                    "what this directory belongs to is not open any more",
                    where=name,
                    advice="look it up again by its path",
                )
            if view is None:
                return None
            view = view._replace(consolidated=self.view.consolidated)
            return owner.wanted.ref, view, owner.wanted.snapshot_id
        ref = control.ref_of(place.kind, name, self._ref.branch)
        return None if ref is None else (ref, self.view, None)

    async def _load(self, key: Key, ref: RefSpec, view: View, snapshot_id: str | None) -> None:
        """Hold what a name means; whoever asks again finds it, or why that is not known.

        Where the snapshot's own file alone says when it was written, it is opened.
        """
        assert self._timeline is not None  # noqa: S101 -- else there is no such directory
        try:
            written_at = None
            if snapshot_id is None:
                snapshot_id = await self._timeline.resolve(ref)
                written_at = self._timeline.written_at(snapshot_id)
            opened = self._opened_at.get(key)
            if opened is not None and opened[1] == snapshot_id and opened[0].wanted.view == view:
                self._opened_at[key] = opened[0], snapshot_id, trio.current_time()
                return
            if written_at is None:
                checkout = await self._timeline.check_out(snapshot_id, ref)
                held = await self._build(checkout, view, ref, key)
            else:
                wanted = Wanted(snapshot_id, ref, view, written_at)
                held = self._hold(wanted, self._next_epoch(), key)
        except VzfsError as error:
            if len(self._failed) >= MAX_OPEN:
                self._failed.clear()
            self._failed[key] = Known(None, error)
            return
        # What was open before may have ended meanwhile.
        before = self._opened_at.get(key)
        self._opened_at[key] = held, snapshot_id, trio.current_time()
        if before is not None:
            self._end_if_forgotten(before[0])

    def looked_up(self, inode: int, count: int = 1) -> None:
        """Hear that the kernel was given an inode *count* times more."""
        held = self._held.get(inode >> EPOCH_BITS) or self._holder(inode)
        if held is not None:
            held.lookups += count

    def forgotten(self, inode: int, count: int) -> None:
        """Hear that the kernel gave an inode back *count* times."""
        held = self._holder(inode)
        if held is not None:
            held.lookups -= count
            self._end_if_forgotten(held)

    def _holder(self, inode: int) -> Held | None:
        """Return what has to stay as long as the kernel has an inode.

        The mount's own control directories need none: the root is whatever it is.
        """
        place = control.place_of(inode)
        if place is None:
            return self._held.get(epoch_of(inode))
        return self._held.get(place.owner) if place.owner else None

    def _end_if_forgotten(self, held: Held) -> None:
        """End a hierarchy that the kernel has nothing of, if it lies nowhere any more."""
        if held.lookups > 0 or held is self._root:
            return
        if held.key is not None:
            opened = self._opened_at.get(held.key)
            if opened is not None and opened[0] is held:
                if not held.is_idle(self._patience):
                    return  # its name was looked up, and is on its way to the kernel
                del self._opened_at[held.key]
        del self._held[held.epoch]

    @property
    def _patience(self) -> float:
        """Seconds without a use after which a hierarchy ends; where many are open, it is next looked for some."""
        are_few = len(self._held) <= MAX_HELD // 2 and len(self._open_ones()) <= MAX_OPEN // 2
        return IDLE if are_few else 0

    def idle(self) -> list[Key]:
        """End what nobody uses, and return the names that the kernel is to forget for it.

        Of a hierarchy that was at the root the kernel may have any name, until it looks that up again.
        """
        found: dict[Key, None] = {}
        for held in list(self._held.values()):
            if held is self._root:
                continue
            if held.uses != held.seen or held.idle_since is None:
                held.seen, held.idle_since = held.uses, trio.current_time()
            elif held.is_idle(self._patience):
                if held.lookups > 0 and held.key is not None:
                    found[held.key] = None
                elif held.lookups > 0:
                    names = itertools.chain(_DOCUMENTS, ["c"], held.opened.child_names())
                    found |= dict.fromkeys((ROOT, name) for name in names)
                self._end_if_forgotten(held)
        return list(found)

    # -- the root ------------------------------------------------------------------------------

    async def news(self) -> Checkout | None:
        """Return what the branch at the root is now, if it is not what is shown. Raises VzfsError."""
        assert self._timeline is not None  # noqa: S101 -- who follows has one
        snapshot_id = await self._timeline.resolve(self._ref, fresh=0)
        if snapshot_id == self.snapshot_id:
            return None
        return await self._timeline.check_out(snapshot_id, self._ref)

    async def move(self, checkout: Checkout) -> None:
        """Show *checkout* at the root as soon as it is opened. Raises VzfsError, and then shows what it did."""
        held = await self._build(checkout, self.view, self._ref, None)
        before, self._root = self._root, held
        self._moves += 1
        self._end_if_forgotten(before)

    # -- listings ------------------------------------------------------------------------------

    def children(self, inode: int, after: int) -> Iterator[Child]:
        """Return the lines of a directory's listing behind the position *after*; 0 is the start.

        Positions are stable, so that a listing can be interrupted and resumed. Memory does not grow
        with the directory. Raises why, where it cannot be listed, and NotLoaded.
        """
        place = control.place_of(inode)
        if place is None and inode == ROOT and self._is_following:
            return self._root_children(after)
        if place is None:
            hierarchy, number = self._of(inode)
            return hierarchy.children(number, after)
        names = self._control_names(place, after)[after:]
        # What is behind a name is found out by who looks it up.
        return (
            Child(name, Attrs(0, is_dir=True, size=0), position)
            for position, name in enumerate(names, start=after + 1)
        )

    def _root_children(self, after: int) -> Iterator[Child]:
        """List a root that may move: positions say what was at the root when the listing began."""
        epoch, after = divmod(after, 2**EPOCH_BITS)
        held = self._root if not after else self._held.get(epoch)
        if held is None:
            raise NameProblem(
                ErrorKind.STALE_INODE,
                "the root has moved while it was listed",
                advice="list it again",
            )
        held.uses += 1
        base = held.epoch << EPOCH_BITS
        lines = held.opened.children(held.first, after)
        return (line._replace(position=base + line.position) for line in lines)

    def run(self, inode: int, after: int, count: int, *, with_sizes: bool = True) -> Run | None:
        """Return the next *count* lines, as `children` does, where they are a directory's of keys; else None.

        Names may be known before sizes are, which are all 0 then.
        """
        if control.place_of(inode) is not None:
            return None
        hierarchy, number = self._of(inode)
        return hierarchy.run(number, after, count, with_sizes=with_sizes)

    def _control_names(self, place: Place, after: int) -> Sequence[str]:
        """Return the names in a control directory. Raises NotLoaded, why they are not known."""
        if place.kind is Kind.CONTROL:
            return list(control.folders_of(place.owner))
        if place.kind is Kind.VIEW or self._names is None:
            return [str(view) for view in ALL]
        return self._names.of(place.kind, after)

    # -- bytes ---------------------------------------------------------------------------------

    def open(self, inode: int) -> Attrs:
        """Return the attributes of a file about to be read. Never fails for a name that exists.

        Raises NotLoaded.
        """
        if control.place_of(inode) is not None:
            raise NameProblem(ErrorKind.IS_A_DIRECTORY, "this is a directory")
        hierarchy, number = self._of(inode)
        return hierarchy.open(number)

    def read_now(self, inode: int, offset: int, size: int) -> bytes | memoryview | None:
        """Return the bytes [offset, offset + size) of a file, fewer at its end, if they are in memory.

        Raises NotLoaded, AccessDenied, or what keeps the manifest from loading.
        """
        hierarchy, number = self._of(inode)
        return hierarchy.read_now(number, offset, size)

    async def read(self, inode: int, offset: int, size: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + size) of a file, fewer at its end.

        Who reads was seen by `read_now`. Raises AccessDenied, SourceError, or what keeps the
        manifest from loading.
        """
        hierarchy, number = self._of(inode)
        return await hierarchy.read(number, offset, size)

    # -- other rules ---------------------------------------------------------------------------

    @property
    def access(self) -> Access:
        """What decides now."""
        return self._reading.access

    def adopt(self, access: Access) -> Access:
        """Let *access* decide from now on, over reads under way too; return what decided before."""
        before = self._reading.access
        self._reading.adopt(access)
        return before

    async def reads_as_under(self, before: Access, inode: int) -> bool:
        """Whether a file may be read, and has the same bytes, as under *before*.

        False for an inode of which that cannot be said.
        """
        try:
            hierarchy, number = self._of(inode)
        except (VzfsError, NotLoaded):
            return False
        return await hierarchy.reads_as_under(before, number)

    @property
    def max_chunk_nbytes(self) -> int:
        """How many bytes the largest decoded chunk at the root has, 0 without arrays."""
        return self.root.max_chunk_nbytes

    # -- totals and provenance -----------------------------------------------------------------

    def totals(self) -> Totals:
        """Return the size and number of the metadata documents at the root: what is known without asking."""
        return self.root.totals()

    def xattrs(self, inode: int) -> list[str]:
        """Return the names of an inode's extended attributes: they say where its bytes come from.

        Raises NotLoaded.
        """
        if control.place_of(inode) is not None:
            return []
        hierarchy, number = self._of(inode)
        return hierarchy.xattrs(number)

    def xattr(self, inode: int, name: str) -> str:
        """Return an extended attribute, other than `CACHED`. Raises NameProblem, NotLoaded."""
        if control.place_of(inode) is not None or not name.startswith(XATTR_PREFIX):
            raise no_attribute(name)
        hierarchy, number = self._of(inode)
        return hierarchy.xattr(number, name)

    async def cached(self, inode: int) -> str:
        """Return the attribute `CACHED` of a chunk, without a request to its source. Raises NameProblem."""
        if control.place_of(inode) is not None:
            raise no_attribute(CACHED)
        hierarchy, number = await settle(self._of, inode)
        return await hierarchy.cached(number)


def _directory(inode: int) -> Attrs:
    return Attrs(inode, is_dir=True, size=0)


def _wanted_of(checkout: Checkout, view: View, ref: RefSpec) -> Wanted:
    return Wanted(checkout.snapshot.id, ref, view, checkout.snapshot.written_at)


def _no_such_name(name: str) -> NameProblem:
    return NameProblem(ErrorKind.NO_SUCH_NAME, "there is no such name", where=name)
