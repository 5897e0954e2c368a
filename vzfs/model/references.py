"""A hierarchy with all its chunk refs in memory: what a file of references says, or what files were found to hold.

Readers of such files make `References`; a hierarchy joined of several is one again. What could not
be presented is among the *omissions*, by name and with its reason, and nowhere else: nothing is lost
in silence.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Final

import numpy as np

from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import Checksum, ETag
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    ChunkRef,
    Column,
    Manifest,
    StringTable,
    ascending,
    narrow,
)
from vzfs.model.snapshot import Extents, ManifestRef, Node


@dataclasses.dataclass(frozen=True, slots=True)
class Omission:
    """What is not shown, by its *path* ("/" for all), and the *reason*, for people.

    It *is_loss* unless it has nothing that could be shown.
    """

    path: str
    reason: str
    is_loss: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class References:
    """Nodes sorted by the UTF-8 bytes of their paths, and a manifest for each array, by its id.

    Every array has the one manifest `whole` names; an array without a chunk has an empty one.
    """

    nodes: tuple[Node, ...]
    manifests: Mapping[bytes, Manifest]
    omissions: tuple[Omission, ...] = ()

    def placed(self, location: str, checksum: Checksum | None) -> "References":
        """Return the same with every virtual ref into *location*, of the version *checksum*."""
        manifests = {
            id_: _placed(found, location, checksum) for id_, found in self.manifests.items()
        }
        return dataclasses.replace(self, manifests=manifests)


def _placed(found: Manifest, location: str, checksum: Checksum | None) -> Manifest:
    if not len(found):
        return found
    of_row = narrow((found.kind == ChunkKind.VIRTUAL).astype(np.uint8))
    return Manifest(
        index=found.index,
        kind=found.kind,
        location=narrow(np.zeros(len(found), np.uint8)),
        offset=found.offset,
        length=found.length,
        checksum=of_row if checksum else narrow(np.zeros(len(found), np.uint8)),
        locations=StringTable.of([location]),
        checksums=ChecksumTable.of([checksum] if checksum else []),
        inline=found.inline,
    )


def array_id(path: str) -> bytes:
    """Return the id of the array at *path*, where a format has no ids of its own."""
    return path.encode("utf-8", "surrogateescape")


def whole(name: str, grid: ChunkGrid) -> tuple[ManifestRef, ...]:
    """Return what an array says that has one manifest, *name*, which speaks for its whole grid."""
    return (ManifestRef(name, Extents(tuple((0, count) for count in grid.shape))),)


class ManifestBuilder:
    """Gathers the chunk refs of one array, in any order, into a `Manifest`. Of equal indices the last counts."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._blocks: list[Column[np.int64]] = []
        self._count = 0
        self._locations: dict[str, int] = {}
        self._checksums: dict[Checksum, int] = {}
        self._inline: list[bytes | memoryview] = []
        self._at = 0

    def __len__(self) -> int:
        """Return how many refs were added."""
        return self._count + len(self._rows)

    def add(self, flat: int, ref: ChunkRef) -> None:
        """Add the *ref* of the chunk with the flat index *flat*."""
        if ref.kind is ChunkKind.INLINE:
            self._rows.append((flat, ref.kind, 0, self._at, len(ref.inline), 0))
            self._inline.append(ref.inline)
            self._at += len(ref.inline)
            return
        location, checksum = self._names(ref.location, ref.checksum)
        self._rows.append((flat, ref.kind, location, ref.offset, ref.length, checksum))

    def extend(
        self,
        flat: Column[np.int64],
        offset: Column[np.int64],
        length: Column[np.int64],
        *,
        location: str,
        checksum: Checksum | None,
    ) -> None:
        """Add virtual refs into one object, whose flat indices, offsets and lengths are columns."""
        if not len(flat):
            return
        self._gather()
        block = np.empty((len(flat), 6), np.int64)
        block[:, 0], block[:, 3], block[:, 4] = flat, offset, length
        block[:, 1] = ChunkKind.VIRTUAL
        block[:, 2], block[:, 5] = self._names(location, checksum)
        self._add(block)

    def _names(self, location: str, checksum: Checksum | None) -> tuple[int, int]:
        number = self._locations.setdefault(location, len(self._locations))
        if checksum is None:
            return number, 0
        return number, 1 + self._checksums.setdefault(checksum, len(self._checksums))

    def _gather(self) -> None:
        """Make a block of the rows that were added one by one."""
        flat = itertools.chain.from_iterable(self._rows)
        self._add(np.fromiter(flat, np.int64, 6 * len(self._rows)).reshape(-1, 6))
        self._rows = []

    def _add(self, block: Column[np.int64]) -> None:
        self._blocks.append(block)
        self._count += len(block)

    def build(self) -> Manifest:
        """Return the manifest of all that was added."""
        order = sorted(self._checksums, key=lambda c: not isinstance(c, ETag))
        renumbered = np.zeros(len(order) + 1, np.int64)
        for number, checksum in enumerate(order, 1):
            renumbered[self._checksums[checksum] + 1] = number
        self._gather()
        rows = np.concatenate(self._blocks)
        self._blocks = [rows]
        # A stable sort keeps the order of equal indices, of which the last is to count.
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        if len(rows):
            rows = rows[np.append(rows[1:, 0] != rows[:-1, 0], True)]
        index, kind, location, offset, length, checksum_rows = (
            np.ascontiguousarray(rows[:, i]) for i in range(6)
        )
        return Manifest(
            index=ascending(index),
            kind=narrow(kind),
            location=narrow(location),
            offset=narrow(offset),
            length=narrow(length),
            checksum=narrow(renumbered[checksum_rows]),
            locations=StringTable.of(list(self._locations)),
            checksums=ChecksumTable.of(order),
            inline=b"".join(self._inline),
        )


EMPTY: Final = ManifestBuilder().build()
"""The manifest of an array of which no chunk is there."""
