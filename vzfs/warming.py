"""Filling the cache with the chunks that will be read, before anybody reads them.

A `Warming` takes regions of arrays, and sends for what the disk cache does not have, neighbours in
one object together and by few requests, as read-ahead does. What is there is not asked for again, so
that one which was ended goes on where it was. No more is under way than `WINDOW` bytes.
"""

import dataclasses
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import trio

from vzfs.chunks import Chunks, near
from vzfs.errors import VzfsError
from vzfs.model.location import ByteRange
from vzfs.model.manifest import ChunkKind, ChunkRef, Column, Manifest
from vzfs.model.snapshot import Array
from vzfs.plan import block_of, pieces
from vzfs.repository import ArrayRefs, Checkout

WINDOW: Final = 64 * 2**20
"""Bytes under way at a time."""
BATCH: Final = 1024
"""Chunks that are looked up in the cache, and sent for, together."""
MAX_FAILURES: Final = 1000
"""Failures of which is remembered why."""


type Rows = Column[np.int64]


class Region(NamedTuple):
    """Chunks of an array: those whose coordinates are among *axes*, one sequence for each dimension."""

    array: Array
    axes: Sequence[range | Sequence[int]]

    def size(self) -> int:
        """Return how many chunks of the grid these are, present or not."""
        count = 1
        for axis in self.axes:
            count *= len(axis)
        return count


class Share(NamedTuple):
    """One part of the work: the one with this *number* of so many *parts*. An object is in one part."""

    number: int = 0
    parts: int = 1

    def has(self, location: str) -> bool:
        """Whether what lies at *location* is for this part."""
        if self.parts == 1:
            return True
        return zlib.crc32(location.encode("utf-8", "surrogateescape")) % self.parts == self.number


@dataclasses.dataclass(slots=True)
class Progress:
    """How far it is: *chunks* of *total* looked at; *fetched* bytes came, *cached* were there before.

    *failed* chunks could not be read, or not be allowed.
    """

    total: int = 0
    chunks: int = 0
    fetched: int = 0
    cached: int = 0
    failed: int = 0


class Failure(NamedTuple):
    """Why *chunks* of the array at *path* are not in the cache."""

    path: str
    error: VzfsError
    chunks: int


class _Due(NamedTuple):
    ref: ChunkRef
    ranges: list[ByteRange]
    near: str
    block: int


class Warming:
    """Fills the cache behind *chunks*, which runs, with *regions* of *checkout*'s arrays; `run` is called once."""

    def __init__(
        self,
        checkout: Checkout,
        chunks: Chunks,
        regions: Sequence[Region],
        share: Share = Share(),  # noqa: B008 -- it is a constant
    ) -> None:
        self._checkout = checkout
        self._chunks = chunks
        self._regions = regions
        self._share = share
        self._failures: Counter[tuple[str, str]] = Counter()
        self._errors: dict[tuple[str, str], VzfsError] = {}
        self.progress: Final = Progress()

    async def run(self) -> Sequence[Failure]:
        """Get what is not there. Returns why some chunks are not, those of which there are most first."""
        plan: list[tuple[Region, ArrayRefs, Manifest, Rows]] = []
        for region in self._regions:
            refs = self._checkout.refs(region.array)
            await refs.load(())
            try:
                manifests = refs.manifests()
            except VzfsError as error:
                self.progress.total += region.size()
                self.progress.chunks += region.size()
                self._fail(region.array, error, region.size())
                continue
            for manifest in manifests:
                rows = await trio.to_thread.run_sync(_rows, region, manifest)
                self.progress.total += len(rows)
                plan.append((region, refs, manifest, rows))
        for region, refs, manifest, rows in plan:
            await self._warm(region.array, refs, manifest, rows)
        return [
            Failure(path, self._errors[path, kind], count)
            for (path, kind), count in self._failures.most_common()
        ]

    async def _warm(self, array: Array, refs: ArrayRefs, manifest: Manifest, rows: Rows) -> None:
        for first in range(0, len(rows), BATCH):
            due: list[_Due] = []
            for row in rows[first : first + BATCH].tolist():
                found = await self._missing(array, refs, manifest, row)
                if found is None:
                    self.progress.chunks += 1
                else:
                    due.append(found)
            for together in _windows(due):
                await self._get(array, together)

    async def _missing(
        self, array: Array, refs: ArrayRefs, manifest: Manifest, row: int
    ) -> _Due | None:
        """Return what the cache lacks of a chunk; None if that is nothing, or is for others."""
        ref = manifest.ref(row)
        if ref.kind is ChunkKind.INLINE or not ref.length or not self._share.has(ref.location):
            return None
        coords = array.grid.unravel(int(manifest.index[row]))
        beside = near(refs, coords, ref)
        block = block_of(ref.length, is_shard=array.shard_index is not None)
        found = pieces(ref.length, 0, ref.length, block)
        try:
            lacking = await self._chunks.lacking(ref, found, near=beside)
        except VzfsError as error:
            self._fail(array, error, 1)
            return None
        self.progress.cached += ref.length - sum(piece.length for piece in lacking)
        return _Due(ref, lacking, beside, block) if lacking else None

    async def _get(self, array: Array, together: Sequence[_Due]) -> None:
        """Send for all of *together*, and wait until they have come."""
        self._chunks.ahead((due.ref, due.ranges, due.near) for due in together)
        async with trio.open_nursery() as nursery:
            for due in together:
                nursery.start_soon(self._wait_for, array, due)

    async def _wait_for(self, array: Array, due: _Due) -> None:
        try:
            for piece in due.ranges:
                await self._chunks.read(
                    due.ref, piece.offset, piece.length, near=due.near, block=due.block
                )
                self.progress.fetched += piece.length
        except VzfsError as error:
            self._fail(array, error, 1)
        self.progress.chunks += 1

    def _fail(self, array: Array, error: VzfsError, count: int) -> None:
        key = array.path, error.kind.value
        if key in self._errors or len(self._errors) < MAX_FAILURES:
            self._errors.setdefault(key, error)
            self._failures[key] += count
        self.progress.failed += count


def _windows(due: Sequence[_Due]) -> Iterator[list[_Due]]:
    """Yield *due* in parts of about `WINDOW` bytes."""
    together: list[_Due] = []
    size = 0
    for each in due:
        together.append(each)
        size += sum(piece.length for piece in each.ranges)
        if size >= WINDOW:
            yield together
            together, size = [], 0
    if together:
        yield together


def _rows(region: Region, manifest: Manifest) -> Rows:
    """Return the rows of *manifest* that *region* means, ordered by object and place in it."""
    rows = np.arange(len(manifest), dtype=np.int64)
    grid = region.array.grid
    flats = manifest.indices(0, len(manifest))
    for axis, wanted in enumerate(region.axes):
        if len(wanted) == grid.shape[axis]:
            continue
        here = flats[rows] // grid.strides[axis] % grid.shape[axis]
        rows = rows[np.isin(here, np.fromiter(wanted, np.int64, len(wanted)))]
    order = np.lexsort((manifest.offset[rows], manifest.location[rows]))
    return rows[order]


def whole(array: Array) -> Region:
    """Return all chunks of *array*."""
    return Region(array, [range(count) for count in array.grid.shape])


def selected(array: Array, chunk_shape: Sequence[int], wanted: Sequence[range]) -> Region:
    """Return the chunks of *array* that have an element with its indices in *wanted*, one for each dimension."""
    return Region(
        array,
        [
            _chunks_of(r, edge, n)
            for r, edge, n in zip(wanted, chunk_shape, array.grid.shape, strict=True)
        ],
    )


def _chunks_of(wanted: range, edge: int, count: int) -> Sequence[int]:
    if not wanted:
        return range(0)
    if wanted.step <= edge:
        return range(wanted[0] // edge, min(wanted[-1] // edge + 1, count))
    return [index // edge for index in wanted]
