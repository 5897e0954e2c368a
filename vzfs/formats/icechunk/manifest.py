"""Manifest files: where each chunk of some arrays is, decoded for all chunks at once.

A manifest may hold refs of arrays and of regions that nobody asked about; they are left out. What
is asked for is checked entirely: each ref has one kind, lies where a 63-bit offset reaches, and is
the only one of its chunk.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from vzfs.formats.icechunk.chunkrefs import INDEX, WIDTHS, Columns, LocationsDecoder
from vzfs.formats.icechunk.columns import ALL, Ints, Memory, Tables, blocks, chosen
from vzfs.formats.icechunk.envelope import (
    MAX_PAYLOAD,
    FileType,
    corrupt,
    open_envelope,
    unsupported,
)
from vzfs.formats.icechunk.flatbuffer import Buffer, Table
from vzfs.formats.icechunk.ids import NODE_ID_LENGTH, OBJECT_ID_LENGTH, encode_id
from vzfs.model.manifest import MAX_FLAT_INDEX, Manifest
from vzfs.model.snapshot import WantedArray

MAX_REGIONS: Final = 16
"""Regions of one array for which one manifest speaks. Writers make one; each costs a pass over its
refs."""

_MAX_COORDINATE: Final = 2**32

_MIN_REF: Final = 24
"""Bytes of a payload that the smallest ref takes: its offset, a table, and a vector for its
coordinates."""


def decode_manifest(
    data: bytes | memoryview,
    wanted: Mapping[bytes, WantedArray],
    *,
    expected_id: str | None = None,
    max_payload: int = MAX_PAYLOAD,
) -> dict[bytes, Manifest]:
    """Decode one file of `manifests/`, for the arrays whose node ids *wanted* has.

    Every wanted array gets a manifest, empty where the file has nothing for it. Where *expected_id*
    is given, the file must say that it has this id. Raises FormatError, also for a grid of more
    than 2**63 - 1 chunks.
    """
    _check_wanted(wanted)
    envelope = open_envelope(data, FileType.MANIFEST, max_payload=max_payload)
    buffer = Buffer(envelope.payload)
    root = buffer.root()
    id_ = encode_id(root.required_fixed(0, OBJECT_ID_LENGTH))
    if expected_id is not None and id_ != expected_id:
        raise corrupt(f"the manifest should be {expected_id} and is {id_}")
    memory = Memory(buffer)
    nodes = list(wanted)
    lattice = _Lattice([wanted[node] for node in nodes])
    columns = Columns(memory, len(nodes))
    for positions, owners in _refs(memory, root, nodes):
        columns.add(*_select(memory, positions, owners, lattice))
    manifests = columns.manifests(_locations_decoder(root))
    return dict(zip(nodes, manifests, strict=True))


def _check_wanted(wanted: Mapping[bytes, WantedArray]) -> None:
    for array in wanted.values():
        if array.grid.size > MAX_FLAT_INDEX:
            raise unsupported("an array has more chunks than 64 bits can count", "")
        if len(array.extents) > MAX_REGIONS:
            raise unsupported(f"a manifest speaks for more than {MAX_REGIONS} regions of an array")
        if any(len(e.ranges) != len(array.grid.shape) for e in array.extents):
            raise corrupt("a manifest covers another number of dimensions than the array has")


def _refs(memory: Memory, root: Table, nodes: Sequence[bytes]) -> Iterator[tuple[Ints, Ints]]:
    """Yield where refs of *nodes* are, and the number of the node of each, block by block; ordered by node."""
    buffer = memory.buffer
    numbers = {node: i for i, node in enumerate(nodes)}
    found: dict[int, tuple[int, int]] = {}
    for array in root.required_tables(1):
        number = numbers.get(array.required_fixed(0, NODE_ID_LENGTH))
        if number is None:
            continue
        if number in found:
            raise corrupt("the manifest lists an array twice")
        start, count = array.required_vector(1, 4)
        if count > buffer.size // _MIN_REF:
            raise corrupt("the manifest says it has more refs than fit into it")
        found[number] = start, count
    owners = np.array(sorted(found), np.int64)
    starts, counts = (np.array([found[i][k] for i in owners.tolist()], np.int64) for k in (0, 1))
    ends = counts.cumsum()
    for block in blocks(int(counts.sum())):
        rows = np.arange(block.start, block.stop)
        owner = ends.searchsorted(rows, "right")
        vectors = starts[owner] + 4 * (rows - (ends - counts)[owner])
        yield vectors + memory.integers(vectors, 4), owners[owner]


class _Lattice:
    """The grids and regions of several arrays as tables with a row for each array."""

    def __init__(self, arrays: Sequence[WantedArray]) -> None:
        ranks = [len(array.grid.shape) for array in arrays]
        self.ndim: Final = max(ranks, default=0)
        self.ranks: Final = np.array(ranks, np.int64)
        regions = max((len(array.extents) for array in arrays), default=0)
        table = (len(arrays), self.ndim)
        self.shapes: Final = np.ones(table, np.int64)
        self.strides: Final = np.zeros(table, np.int64)
        # A region that an array does not have is empty: it holds no coordinate.
        self.lows: Final = np.zeros((regions, *table), np.int64)
        self.highs: Final = np.zeros((regions, *table), np.int64)
        self.exists: Final = np.zeros((regions, len(arrays)), np.bool_)
        for i, array in enumerate(arrays):
            rank = ranks[i]
            # Coordinates have 32 bits. Strides beyond 63 bits occur in grids without chunks only.
            self.shapes[i, :rank] = [min(n, _MAX_COORDINATE) for n in array.grid.shape]
            self.strides[i, :rank] = [min(s, MAX_FLAT_INDEX) for s in array.grid.strides]
            for region, extents in enumerate(array.extents):
                self.exists[region, i] = True
                bounds = [
                    (min(low, _MAX_COORDINATE), min(high, _MAX_COORDINATE))
                    for low, high in extents.ranges
                ]
                self.lows[region, i, :rank] = [low for low, _ in bounds]
                self.highs[region, i, :rank] = [high for _, high in bounds]


def _select(
    memory: Memory, positions: Ints, owners: Ints, lattice: _Lattice
) -> tuple[Tables, Ints, Ints]:
    """Return the refs that are wanted, their owners and flat indices, in the order of the file."""
    refs = Tables(memory, positions, WIDTHS)
    if not refs.has(INDEX).all():
        raise corrupt("a chunk ref of the manifest has no coordinates")
    vectors = refs.vectors(INDEX, ALL)
    ranks = memory.integers(vectors, 4)
    if np.any(ranks != lattice.ranks[owners]):
        raise corrupt("a chunk ref has another number of coordinates than its array dimensions")
    memory.check(vectors, 4 + 4 * ranks)
    memory.buffer.charge(int((4 + 4 * ranks).sum()))
    # Most blocks are of one array, whose row of each table is then taken for all.
    one = int(owners[0]) if owners[0] == owners[-1] else None
    inside = np.ones(len(positions), np.bool_)
    covered = np.empty((len(lattice.exists), len(positions)), np.bool_)
    covered[:] = lattice.exists[:, owners]
    flat = np.zeros(len(positions), np.int64)
    for axis in range(lattice.ndim):
        rows = chosen(ranks > axis)
        owner = owners[rows] if one is None else one
        coordinates = memory.integers(vectors[rows] + 4 + 4 * axis, 4)
        inside[rows] &= coordinates < lattice.shapes[owner, axis]
        for region in range(len(covered)):
            covered[region, rows] &= coordinates >= lattice.lows[region, owner, axis]
            covered[region, rows] &= coordinates < lattice.highs[region, owner, axis]
        # Outside the grid this may wrap around; those refs are dropped.
        flat[rows] += coordinates * lattice.strides[owner, axis]
    keep = inside & covered.any(axis=0)
    if not keep.all():
        refs = Tables(memory, positions[keep], WIDTHS)
        owners, flat = owners[keep], flat[keep]
    return refs, owners, flat


def _locations_decoder(root: Table) -> LocationsDecoder:
    """Return the decoder for the manifest *root*.

    Its `compression_algorithm` says little: the default, 1, stands in manifests that compress
    nothing.
    """
    return LocationsDecoder(root.blob(2), root.u8(3, default=1))
