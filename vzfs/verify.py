"""Whether the chunks of a snapshot can still be had: learnt without reading one of them.

Two passes. The first reads every manifest file once and adds up what its refs need: of each distinct
source object (a location as the repository wrote it, with the checksum that goes with it) how far
the refs reach into it, and how many chunks of which array depend on it. The second asks once for
each object whether it is there, is the one that was referred to, and is long enough. What may not be
read is not asked for. Chunk objects of the repository itself are looked up in one listing where they
are many and the storage can list; inline and empty chunks need nothing.

Memory grows with the number of objects and with the largest manifest file, not with the number of
chunk refs: rows of a manifest are added up in numpy, `ROWS` at a time.
"""

import array
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import trio

from vzfs.access import Access
from vzfs.errors import ErrorKind, SourceError, VzfsError
from vzfs.model.location import Checksum
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.snapshot import Array, Extents, WantedArray
from vzfs.repository import Checkout
from vzfs.source import Fetcher

MAX_ASKED: Final = 64
"""Objects asked for at a time; the source limits further how many requests one host gets."""
MAX_MANIFESTS: Final = 4
"""Manifest files held at a time. The largest are some hundred megabytes while they are decoded."""
LIST_FROM: Final = 100
"""Chunk objects of the repository from which on one listing is cheaper than asking for each."""
ROWS: Final = 2**17
"""Rows added up at a time: some 6 MB, and a few milliseconds."""

_CHUNKS: Final = "chunks"

type _File = list[tuple[int, WantedArray]]
"""What a manifest file is asked: for each array, named by its number, the regions of its grid."""


class SourceObject(NamedTuple):
    """An object that chunk refs name: a location as written, or a key in the repository's storage."""

    kind: ChunkKind
    location: str
    checksum: Checksum | None


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """An object whose chunks cannot be read: why, and how many *chunks* of which array that costs."""

    lost: SourceObject
    error: VzfsError
    chunks: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A part of the array *path* of which it is not known where its chunks lie.

    *manifest* is the file that would say so, "" where the array itself is not understood.
    *at_most* is the number of chunks that the part can have.
    """

    path: str
    manifest: str
    error: VzfsError
    at_most: int


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayReport:
    """How many *chunks* the manifests name for an array, and how many of them are lost, by reason."""

    path: str
    chunks: int
    lost: Mapping[ErrorKind, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a verification found: *losses* of *objects* source objects, dearest first.

    *chunks* are those that the manifests name. A lost chunk object of the repository is among
    *losses* too.
    """

    arrays: Sequence[ArrayReport]
    chunks: Mapping[ChunkKind, int]
    objects: int
    losses: Sequence[Loss]
    unreadable: Sequence[Unreadable]

    @property
    def kinds(self) -> set[ErrorKind]:
        """Why anything cannot be read; empty if everything can."""
        lost = {loss.error.kind for loss in self.losses}
        return lost | {part.error.kind for part in self.unreadable}


class Progress(NamedTuple):
    """How far a verification is. *objects* is 0 until all manifests are read."""

    manifests: int
    read: int
    objects: int
    asked: int
    lost: int


class Verification:
    """One verification of a checked-out snapshot; `run` is called once."""

    def __init__(self, checkout: Checkout, access: Access, fetcher: Fetcher) -> None:
        self._checkout = checkout
        self._access = access
        self._fetcher = fetcher
        self._arrays = [node for node in checkout.snapshot.nodes if isinstance(node, Array)]
        self._files = _by_file(self._arrays)
        self._chunks = np.zeros((len(self._arrays), len(ChunkKind)), np.int64)
        self._unreadable: list[Unreadable] = []
        # What refs need: the number of each object, the end of the last byte needed by number, and
        # rows of (number of the object, number of the array, chunks).
        self._numbers: dict[SourceObject, int] = {}
        self._ends = array.array("q")
        self._costs = array.array("q")
        self._natives = 0
        self._listed: frozenset[str] | None = None
        self._may_list = True
        self._errors: dict[int, VzfsError] = {}
        self._read = 0
        self._asked = 0
        self._is_asking = False

    def progress(self) -> Progress:
        """Return how far `run` is."""
        objects = len(self._numbers) if self._is_asking else 0
        return Progress(len(self._files), self._read, objects, self._asked, len(self._errors))

    async def run(self) -> Report:
        """Read all manifests, ask for all objects, and say what was found."""
        for node in self._arrays:
            if node.problem:
                unknown = VzfsError(ErrorKind.UNSUPPORTED_FORMAT, node.problem, where=node.path)
                self._unreadable.append(Unreadable(node.path, "", unknown, node.grid.size))
        files = iter(self._files.items())
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_MANIFESTS):
                nursery.start_soon(self._read_each, files)
        self._is_asking = True
        objects = iter(self._numbers.items())
        async with trio.open_nursery() as nursery:
            for _ in range(min(MAX_ASKED, len(self._numbers))):
                nursery.start_soon(self._ask_each, objects)
        return self._report()

    # -- what refs need ------------------------------------------------------------------------

    async def _read_each(self, files: Iterator[tuple[str, _File]]) -> None:
        for manifest_id, file in files:
            try:
                wanted = {self._arrays[number].id: array for number, array in file}
                found = await self._checkout.repository.manifest(manifest_id, wanted)
            except VzfsError as error:
                self._unreadable += [
                    Unreadable(self._arrays[number].path, manifest_id, error, _size(array))
                    for number, array in file
                ]
            else:
                for number, _ in file:
                    await self._add(number, found[self._arrays[number].id])
            self._read += 1

    async def _add(self, number: int, manifest: Manifest) -> None:
        """Add up what the refs of one array in one manifest need."""
        self._chunks[number] += np.bincount(manifest.kind, minlength=len(ChunkKind))
        for first in range(0, len(manifest), ROWS):
            for kind in (ChunkKind.NATIVE, ChunkKind.VIRTUAL):
                self._add_rows(number, manifest, kind, slice(first, first + ROWS))
            await trio.lowlevel.checkpoint()
        if self._may_list and self._natives >= LIST_FROM:
            self._may_list = False
            await self._list()

    def _add_rows(self, number: int, manifest: Manifest, kind: ChunkKind, part: slice) -> None:
        for row, checksum, end, count in _needs(manifest, kind, part):
            location = manifest.locations[row]
            named = SourceObject(
                kind, location, manifest.checksums[checksum - 1] if checksum else None
            )
            if self._is_listed(named):
                continue
            known = self._numbers.setdefault(named, len(self._ends))
            if known == len(self._ends):
                self._ends.append(end)
                self._natives += _is_unique(named)
            self._ends[known] = max(self._ends[known], end)
            self._costs.extend((known, number, count))

    async def _list(self) -> None:
        """Learn which chunk objects the repository has; without a listing each is asked for."""
        try:
            objects = await self._fetcher.objects(self._access.repository_prefix(_CHUNKS))
        except SourceError:
            return
        self._listed = frozenset(f"{_CHUNKS}/{listed.key}" for listed in objects)
        for found in [o for o in self._numbers if self._is_listed(o)]:
            del self._numbers[found]

    def _is_listed(self, named: SourceObject) -> bool:
        return _is_unique(named) and self._listed is not None and named.location in self._listed

    # -- asking --------------------------------------------------------------------------------

    async def _ask_each(self, objects: Iterator[tuple[SourceObject, int]]) -> None:
        for wanted, number in objects:
            try:
                await self._ask(wanted, self._ends[number])
            except VzfsError as error:
                self._errors[number] = error.with_traceback(None)
                await trio.lowlevel.checkpoint()
            self._asked += 1

    async def _ask(self, wanted: SourceObject, end: int) -> None:
        """Raise AccessDenied or SourceError if the bytes of *wanted* before *end* cannot be had."""
        if _is_unique(wanted) and self._listed is not None:
            raise SourceError(
                ErrorKind.SOURCE_VANISHED,
                "the storage of the repository does not have the object",
                where=str(self._access.repository.join(wanted.location)),
                advice="the repository is damaged, or was garbage-collected",
            )
        # The last byte that is needed, for all of them may be more than one range can be.
        last = ChunkRef(wanted.kind, 1, wanted.location, end - 1, wanted.checksum)
        await self._fetcher.version(self._access.authorize(last))

    # -- what was found ------------------------------------------------------------------------

    def _report(self) -> Report:
        costs = np.frombuffer(self._costs, np.int64).reshape(-1, 3)
        failed = np.fromiter(self._errors, np.int64, len(self._errors))
        chunks: dict[int, Counter[str]] = {number: Counter() for number in self._errors}
        lost: list[Counter[ErrorKind]] = [Counter() for _ in self._arrays]
        for number, where, count in costs[np.isin(costs[:, 0], failed)].tolist():
            chunks[number][self._arrays[where].path] += count
            lost[where][self._errors[number].kind] += count
        losses = [
            Loss(named, self._errors[number], chunks[number])
            for named, number in self._numbers.items()
            if number in self._errors
        ]
        losses.sort(key=lambda loss: (-sum(loss.chunks.values()), loss.lost.location))
        totals = self._chunks.sum(axis=0).tolist()
        return Report(
            [
                ArrayReport(node.path, int(named), by_kind)
                for node, named, by_kind in zip(
                    self._arrays, self._chunks.sum(axis=1), lost, strict=True
                )
            ],
            {kind: totals[kind] for kind in ChunkKind},
            sum(named.kind is ChunkKind.VIRTUAL for named in self._numbers),
            losses,
            sorted(self._unreadable, key=lambda part: (part.path, part.manifest)),
        )


def _by_file(arrays: Sequence[Array]) -> dict[str, _File]:
    """Return the manifest files that speak for *arrays*."""
    files: dict[str, _File] = {}
    for number, node in enumerate(arrays):
        regions: dict[str, list[Extents]] = {}
        for manifest in node.manifests if not node.problem else ():
            regions.setdefault(manifest.id, []).append(manifest.extents)
        for manifest_id, extents in regions.items():
            wanted = WantedArray(node.grid, extents)
            files.setdefault(manifest_id, []).append((number, wanted))
    return files


def _size(wanted: WantedArray) -> int:
    """Return how many chunks the regions of an array have room for."""
    total = 0
    for extents in wanted.extents:
        size = 1
        for (low, high), length in zip(extents.ranges, wanted.grid.shape, strict=True):
            size *= max(min(high, length) - low, 0)
        total += size
    return total


def _is_unique(named: SourceObject) -> bool:
    """Whether an object is one of those whose names mean one version for ever: to be there is enough."""
    is_native = named.kind is ChunkKind.NATIVE
    return is_native and named.checksum is None and named.location.startswith(f"{_CHUNKS}/")


def _needs(manifest: Manifest, kind: ChunkKind, part: slice) -> Iterator[tuple[int, int, int, int]]:
    """Yield row of the location, row of the checksum + 1, the end of the last byte, and how many chunks."""
    rows = np.flatnonzero((manifest.kind[part] == kind) & (manifest.length[part] > 0))
    if not len(rows):
        return
    location, checksum = manifest.location[part][rows], manifest.checksum[part][rows]
    keys = location.astype(np.uint64) << np.uint64(32) | checksum
    order = keys.argsort()
    keys, rows = keys[order], rows[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    ends = manifest.offset[part][rows].astype(np.int64) + manifest.length[part][rows].astype(
        np.int64
    )
    counts = np.diff(starts, append=len(rows))
    for key, end, count in zip(
        keys[starts].tolist(),
        np.maximum.reduceat(ends, starts).tolist(),
        counts.tolist(),
        strict=True,
    ):
        yield key >> 32, key & 0xFFFF_FFFF, end, count
