"""Manifest files: where each chunk of some arrays is, decoded for all chunks at once.

A manifest may hold refs of arrays and of regions that nobody asked about; they are left out. What
is asked for is checked entirely: each ref has one kind, lies where a 63-bit offset reaches, and is
the only one of its chunk.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import zstandard

from vzfs.errors import FormatError
from vzfs.formats.icechunk.columns import Bools, Ints, Memory, Tables, cut
from vzfs.formats.icechunk.envelope import (
    MAX_PAYLOAD,
    FileType,
    corrupt,
    open_envelope,
    unsupported,
)
from vzfs.formats.icechunk.flatbuffer import Buffer, Table
from vzfs.formats.icechunk.ids import NODE_ID_LENGTH, OBJECT_ID_LENGTH, encode_id, encode_ids
from vzfs.model.location import MAX_LOCATION_LENGTH, Checksum, ETag, LastModified
from vzfs.model.manifest import (
    MAX_FLAT_INDEX,
    ChunkKind,
    Manifest,
    StringTable,
    ascending,
    narrow,
)
from vzfs.model.snapshot import WantedArray

CHUNKS: Final = b"chunks/"
"""Where native chunks lie in a repository."""

MAX_REGIONS: Final = 16
"""Regions of one array for which one manifest speaks. Writers make one; each costs a pass over its
refs."""

_MAX_COORDINATE: Final = 2**32

_MAX_TEXT: Final = 4 * MAX_LOCATION_LENGTH
"""Bytes of a location or an etag: a character takes up to four, and what is compressed is hardly
ever longer."""

_MIN_REF: Final = 24
"""Bytes of a payload that the smallest ref takes: its offset, a table, and a vector for its
coordinates."""

_INDEX, _INLINE, _OFFSET, _LENGTH, _CHUNK_ID, _LOCATION, _ETAG, _MODIFIED, _COMPRESSED = range(9)
_WIDTHS: Final = (4, 4, 8, 8, OBJECT_ID_LENGTH, 4, 4, 4, 4)


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
    positions, owners = _ref_positions(memory, root, nodes)
    lattice = _Lattice([wanted[node] for node in nodes])
    positions, owners, index = _select(memory, positions, owners, lattice)
    columns = _Columns(Tables(memory, positions, _WIDTHS), index, _locations_decoder(root))
    bounds = np.searchsorted(owners, np.arange(len(nodes) + 1)).tolist()
    return {node: columns.manifest(slice(bounds[i], bounds[i + 1])) for i, node in enumerate(nodes)}


def _check_wanted(wanted: Mapping[bytes, WantedArray]) -> None:
    for array in wanted.values():
        if array.grid.size > MAX_FLAT_INDEX:
            raise unsupported("an array has more chunks than 64 bits can count", "")
        if len(array.extents) > MAX_REGIONS:
            raise unsupported(f"a manifest speaks for more than {MAX_REGIONS} regions of an array")
        if any(len(e.ranges) != len(array.grid.shape) for e in array.extents):
            raise corrupt("a manifest covers another number of dimensions than the array has")


def _ref_positions(memory: Memory, root: Table, nodes: Sequence[bytes]) -> tuple[Ints, Ints]:
    """Return where the refs of *nodes* are, and the number of the node of each; ordered by node."""
    buffer = memory.buffer
    numbers = {node: i for i, node in enumerate(nodes)}
    found: dict[int, Ints] = {}
    for array in root.required_tables(1):
        number = numbers.get(array.required_fixed(0, NODE_ID_LENGTH))
        if number is None:
            continue
        if number in found:
            raise corrupt("the manifest lists an array twice")
        start, count = array.required_vector(1, 4)
        if count > buffer.size // _MIN_REF:
            raise corrupt("the manifest says it has more refs than fit into it")
        offsets = np.frombuffer(buffer.data, "<u4", count, start).astype(np.int64)
        found[number] = start + 4 * np.arange(count, dtype=np.int64) + offsets
    order = sorted(found)
    empty = np.empty(0, np.int64)
    positions = np.concatenate([empty, *(found[number] for number in order)])
    owners = np.repeat(np.array(order, np.int64), [len(found[number]) for number in order])
    return positions, owners


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
) -> tuple[Ints, Ints, Ints]:
    """Return positions, owners and flat indices of the refs that are wanted, sorted."""
    refs = Tables(memory, positions, _WIDTHS)
    if not refs.has(_INDEX).all():
        raise corrupt("a chunk ref of the manifest has no coordinates")
    vectors = refs.vectors(_INDEX, np.ones(len(positions), np.bool_))
    ranks = memory.integers(vectors, 4)
    if np.any(ranks != lattice.ranks[owners]):
        raise corrupt("a chunk ref has another number of coordinates than its array dimensions")
    memory.check(vectors, 4 + 4 * ranks)
    memory.buffer.charge(int((4 + 4 * ranks).sum()))
    inside = np.ones(len(positions), np.bool_)
    covered = lattice.exists[:, owners]
    flat = np.zeros(len(positions), np.int64)
    for axis in range(lattice.ndim):
        rows = np.nonzero(ranks > axis)[0]
        owner = owners[rows]
        coordinates = memory.integers(vectors[rows] + 4 + 4 * axis, 4)
        inside[rows] &= coordinates < lattice.shapes[owner, axis]
        for region in range(len(covered)):
            covered[region, rows] &= coordinates >= lattice.lows[region, owner, axis]
            covered[region, rows] &= coordinates < lattice.highs[region, owner, axis]
        # Outside the grid this may wrap around; those refs are dropped.
        flat[rows] += coordinates * lattice.strides[owner, axis]
    keep = inside & covered.any(axis=0)
    if not keep.all():
        positions, owners, flat = positions[keep], owners[keep], flat[keep]
    if not _ascending(owners, flat):
        order = np.lexsort((flat, owners))
        positions, owners, flat = positions[order], owners[order], flat[order]
        if not _ascending(owners, flat):
            raise corrupt("the manifest has two refs for one chunk")
    return positions, owners, flat


def _ascending(owners: Ints, flat: Ints) -> bool:
    same_array = owners[1:] == owners[:-1]
    return not np.any(same_array & (flat[1:] <= flat[:-1]))


class _LocationsDecoder:
    """Unpacks compressed locations, with the dictionary that the manifest has for them."""

    def __init__(self, dictionary: bytes | None, algorithm: int) -> None:
        self._dictionary = dictionary
        self._algorithm = algorithm

    def decode(self, memory: Memory, starts: Ints, lengths: Ints) -> list[bytes]:
        """Return the locations packed in the given byte vectors."""
        if self._algorithm not in {0, 1}:
            raise unsupported(f"locations are compressed by method {self._algorithm}")
        frames = bytes(memory.cut(starts, lengths))
        ends = np.cumsum(lengths)
        content_size = zstandard.frame_content_size
        unpacked = []
        try:
            decompressor = zstandard.ZstdDecompressor(
                dict_data=zstandard.ZstdCompressionDict(self._dictionary)
                if self._dictionary
                else None
            )
            for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
                frame = frames[start:end]
                # Memory is allocated for what a frame says that it holds.
                if content_size(frame) > MAX_LOCATION_LENGTH:
                    raise _too_long()
                unpacked.append(
                    decompressor.decompress(
                        frame, max_output_size=MAX_LOCATION_LENGTH, allow_extra_data=False
                    )
                )
        except zstandard.ZstdError as error:
            raise corrupt(f"a compressed location is damaged ({error})") from None
        return unpacked


def _locations_decoder(root: Table) -> _LocationsDecoder:
    """Return the decoder for the manifest *root*.

    Its `compression_algorithm` says little: the default, 1, stands in manifests that compress
    nothing.
    """
    return _LocationsDecoder(root.blob(2), root.u8(3, default=1))


class _Columns:
    """The columns of the refs of all wanted arrays, one array after another."""

    def __init__(self, refs: Tables, index: Ints, decoder: _LocationsDecoder) -> None:
        self._memory = refs.memory
        self._index = index
        n = len(index)
        inline, native = refs.has(_INLINE), refs.has(_CHUNK_ID)
        plain, packed = refs.has(_LOCATION), refs.has(_COMPRESSED)
        kinds = inline.astype(np.int8) + native + plain + packed
        if np.any(kinds != 1):
            raise corrupt("a chunk ref of the manifest has no kind, or several")
        self._kind = np.full(n, ChunkKind.VIRTUAL, np.uint8)
        self._kind[inline] = ChunkKind.INLINE
        self._kind[native] = ChunkKind.NATIVE
        self._offset, self._length = _ranges(refs)
        self._read_inline(refs, inline)
        self._location = np.zeros(n, np.int64)
        self._strings = _Strings()
        self._read_native(refs, native)
        self._read_plain(refs, plain)
        self._read_packed(refs, packed, decoder)
        self._checksum = np.zeros(n, np.int64)
        self._checksums: list[Checksum] = []
        self._read_checksums(refs, plain | packed)

    def _read_inline(self, refs: Tables, rows: Bools) -> None:
        vectors = refs.vectors(_INLINE, rows)
        lengths = self._memory.integers(vectors, 4)
        self._memory.check(vectors + 4, lengths)
        self._memory.buffer.charge(int(lengths.sum()))
        self._offset[rows] = vectors + 4
        self._length[rows] = lengths

    def _read_native(self, refs: Tables, rows: Bools) -> None:
        ids = self._memory.fixed(refs.places(_CHUNK_ID, rows), OBJECT_ID_LENGTH)
        text = encode_ids(ids)
        prefix = np.broadcast_to(np.frombuffer(CHUNKS, np.uint8), (len(text), len(CHUNKS)))
        keys = np.concatenate([prefix, text], axis=1)
        first = self._strings.add(keys.tobytes(), np.full(len(keys), keys.shape[1], np.int64))
        self._location[rows] = first + np.arange(len(keys))

    def _read_plain(self, refs: Tables, rows: Bools) -> None:
        starts, lengths, codes = self._memory.distinct(refs.vectors(_LOCATION, rows), _MAX_TEXT)
        text = self._memory.cut(starts, lengths)
        self._location[rows] = self._strings.add(text, lengths) + codes

    def _read_packed(self, refs: Tables, rows: Bools, decoder: _LocationsDecoder) -> None:
        starts, lengths, codes = self._memory.distinct(refs.vectors(_COMPRESSED, rows), _MAX_TEXT)
        if not len(starts):
            return
        unpacked = decoder.decode(self._memory, starts, lengths)
        sizes = np.array([len(text) for text in unpacked], np.int64)
        self._location[rows] = self._strings.add(b"".join(unpacked), sizes) + codes

    def _read_checksums(self, refs: Tables, virtual: Bools) -> None:
        tagged = virtual & refs.has(_ETAG)
        starts, lengths, codes = self._memory.distinct(refs.vectors(_ETAG, tagged), _MAX_TEXT)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            raw = self._memory.buffer.data[start : start + length]
            try:
                self._checksums.append(ETag(str(raw, "utf-8")))
            except UnicodeDecodeError:
                raise _not_utf8() from None
        self._checksum[tagged] = codes + 1
        dated = np.nonzero(virtual & ~tagged & refs.has(_MODIFIED))[0]
        seconds = refs.integers(_MODIFIED, dated, 4)
        dated, seconds = dated[seconds > 0], seconds[seconds > 0]
        distinct, codes = np.unique(seconds, return_inverse=True)
        self._checksum[dated] = codes + 1 + len(self._checksums)
        self._checksums.extend(map(LastModified, distinct.tolist()))

    def manifest(self, rows: slice) -> Manifest:
        """Return the manifest of the array whose refs are in *rows*."""
        kind = self._kind[rows]
        offset, length = self._offset[rows].copy(), self._length[rows].copy()
        inline = kind == ChunkKind.INLINE
        inline_bytes = self._memory.cut(offset[inline], length[inline])
        offset[inline] = np.cumsum(length[inline]) - length[inline]
        location = np.zeros(len(kind), np.uint32)
        used, codes = np.unique(self._location[rows][~inline], return_inverse=True)
        location[~inline] = codes
        checksum = self._checksum[rows]
        marked = checksum > 0
        marks, codes = np.unique(checksum[marked], return_inverse=True)
        checksum_column = np.zeros(len(kind), np.uint32)
        checksum_column[marked] = codes + 1
        return Manifest(
            index=ascending(self._index[rows]),
            kind=narrow(kind),
            location=narrow(location),
            offset=narrow(offset),
            length=narrow(length),
            checksum=narrow(checksum_column),
            locations=self._strings.table(used),
            checksums=tuple(self._checksums[mark - 1] for mark in marks.tolist()),
            inline=inline_bytes,
        )


def _ranges(refs: Tables) -> tuple[Ints, Ints]:
    """Return offsets and lengths, whose sums stay below 2**63."""
    offset, length = refs.words(_OFFSET), refs.words(_LENGTH)
    limit = np.uint64(2**63 - 1)
    if np.any(offset > limit) or np.any(length > limit - np.minimum(offset, limit)):
        raise corrupt("a chunk ref ends beyond any object")
    return offset.astype(np.int64), length.astype(np.int64)


class _Strings:
    """Locations as they are found: UTF-8 text and where each begins."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self._sizes: list[Ints] = []
        self._count = 0

    def add(self, text: bytes | memoryview, sizes: Ints) -> int:
        """Add strings of the given *sizes*; return the number of the first."""
        starts = np.cumsum(sizes) - sizes
        heads = np.frombuffer(text, np.uint8)[starts[sizes > 0]]
        try:
            str(text, "utf-8")
        except UnicodeDecodeError:
            raise _not_utf8() from None
        # Text that is valid as a whole is valid in parts if none begins inside a character.
        if np.any(heads & 0xC0 == 0x80):
            raise _not_utf8()
        first = self._count
        self._parts.append(text)
        self._sizes.append(sizes)
        self._count += len(sizes)
        return first

    def table(self, rows: Ints) -> StringTable:
        """Return a table of the strings in *rows*, ascending."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
            self._sizes = [np.concatenate(self._sizes)]
        sizes = self._sizes[0]
        starts = np.cumsum(sizes) - sizes
        chosen = sizes[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(chosen, out=offsets[1:])
        whole = self._parts[0]
        text = whole if len(rows) == self._count else cut(whole, starts[rows], chosen)
        return StringTable(ascending(offsets), text)


def _too_long() -> FormatError:
    return corrupt(f"a compressed location is longer than {MAX_LOCATION_LENGTH} bytes")


def _not_utf8() -> FormatError:
    return corrupt("a location or etag of the manifest is not UTF-8")
