"""The chunk refs of a manifest file as columns: gathered block by block, told apart, narrowed.

Which refs are wanted, and in which order, is for `manifest`. A ref is a table that has one field to
say where its chunk is, and may have another for the checksum of the object.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from vzfs.errors import FormatError
from vzfs.formats.icechunk.columns import (
    Bools,
    Ints,
    Memory,
    Rows,
    Tables,
    blocks,
    chosen,
    cut,
    unique,
)
from vzfs.formats.icechunk.envelope import corrupt, unsupported
from vzfs.formats.icechunk.ids import OBJECT_ID_LENGTH, encode_ids
from vzfs.model.location import MAX_LOCATION_LENGTH
from vzfs.model.manifest import (
    ChecksumTable,
    ChunkKind,
    Manifest,
    Narrow,
    StringTable,
    ascending,
    narrow,
)

CHUNKS: Final = b"chunks/"
"""Where native chunks lie in a repository."""

INDEX, _INLINE, _OFFSET, _LENGTH, _CHUNK_ID, _LOCATION, _ETAG, _MODIFIED, _COMPRESSED = range(9)
WIDTHS: Final = (4, 4, 8, 8, OBJECT_ID_LENGTH, 4, 4, 4, 4)
"""Bytes of each field of a ref in its table."""

_KIND_OF: Final = {
    _INLINE: ChunkKind.INLINE,
    _CHUNK_ID: ChunkKind.NATIVE,
    _LOCATION: ChunkKind.VIRTUAL,
    _COMPRESSED: ChunkKind.VIRTUAL,
}
"""The fields of which a ref has one."""
_KINDS: Final = np.array([_KIND_OF.get(field, 0) for field in range(len(WIDTHS))], np.uint8)

_MAX_TEXT: Final = 4 * MAX_LOCATION_LENGTH
"""Bytes of a location or an etag: a character takes up to four, and what is compressed is hardly
ever longer."""


class LocationsDecoder:
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


class _Pieces:
    """A column that grows block by block, each as narrow as it can be."""

    def __init__(self) -> None:
        self._pieces: list[Narrow] = []

    def add(self, values: npt.NDArray[np.integer]) -> None:
        """Add *values*, which are not negative."""
        self._pieces.append(narrow(values))

    def joined(self) -> Narrow:
        """Return the whole column, and hold it no longer."""
        joined: Narrow = np.concatenate([np.empty(0, np.uint8), *self._pieces])
        self._pieces = []
        return joined


class Columns:
    """The columns of the refs of *arrays* arrays, gathered block by block, one array after another."""

    def __init__(self, memory: Memory, arrays: int) -> None:
        self._memory = memory
        self._counts = np.zeros(arrays, np.int64)
        self._index, self._offset, self._length = _Pieces(), _Pieces(), _Pieces()
        # By which field a ref says where its chunk is, and by which its checksum (0 for none); then
        # what these fields hold: where a vector or an id is, or a date.
        self._source, self._mark = _Pieces(), _Pieces()
        self._held = {
            field: _Pieces() for field in (_CHUNK_ID, _LOCATION, _COMPRESSED, _ETAG, _MODIFIED)
        }

    def add(self, refs: Tables, owners: Ints, index: Ints) -> None:
        """Add *refs*, behind those of the block before."""
        source, kinds = np.zeros(len(index), np.uint8), np.zeros(len(index), np.uint8)
        for field in _KIND_OF:
            rows = chosen(refs.has(field))
            source[rows] = field
            kinds[rows] += 1
        if np.any(kinds != 1):
            raise corrupt("a chunk ref of the manifest has no kind, or several")
        offset, length = _ranges(refs)
        inline = source == _INLINE
        if inline.any():
            offset[inline], length[inline] = self._inline(refs, inline)
        virtual = (source == _LOCATION) | (source == _COMPRESSED)
        tagged = virtual & refs.has(_ETAG)
        dated = np.flatnonzero(virtual & ~tagged & refs.has(_MODIFIED))
        seconds = refs.integers(_MODIFIED, dated, 4)
        mark = np.zeros(len(index), np.uint8)
        mark[tagged] = _ETAG
        mark[dated[seconds > 0]] = _MODIFIED
        for field in (_LOCATION, _COMPRESSED):
            self._held[field].add(refs.vectors(field, chosen(source == field)))
        self._held[_CHUNK_ID].add(refs.places(_CHUNK_ID, chosen(source == _CHUNK_ID)))
        self._held[_ETAG].add(refs.vectors(_ETAG, chosen(tagged)))
        self._held[_MODIFIED].add(seconds[seconds > 0])
        self._index.add(index)
        self._offset.add(offset)
        self._length.add(length)
        self._source.add(source)
        self._mark.add(mark)
        self._counts += np.bincount(owners, minlength=len(self._counts))

    def _inline(self, refs: Tables, rows: Bools) -> tuple[Ints, Ints]:
        """Return where inline bytes are in the file, and how many."""
        vectors = refs.vectors(_INLINE, rows)
        lengths = self._memory.integers(vectors, 4)
        self._memory.check(vectors + 4, lengths)
        self._memory.buffer.charge(int(lengths.sum()))
        return vectors + 4, lengths

    def manifests(self, decoder: LocationsDecoder) -> Iterator[Manifest]:
        """Yield the manifest of each array."""
        source, mark = self._source.joined(), self._mark.joined()
        strings = _Strings()
        location = self._locations(source, strings, decoder)
        etags = _Strings()
        checksum, dates = self._checksums(mark, etags)
        index, offset, length = (p.joined() for p in (self._index, self._offset, self._length))
        ends = self._counts.cumsum().tolist()
        for start, end in itertools.pairwise([0, *ends]):
            rows: Rows = slice(start, end)
            part = index[rows]
            if not np.all(part[1:] > part[:-1]):
                order = part.argsort(kind="stable")
                part, rows = part[order], start + order
                if not np.all(part[1:] > part[:-1]):
                    raise corrupt("the manifest has two refs for one chunk")
            # The only array has all there is, numbered as it is.
            is_all = end - start == len(index)
            inline, marked = source[rows] == _INLINE, mark[rows] > 0
            offsets, contents = self._own_inline(inline, offset[rows], length[rows])
            locations, used = _renumbered(location[rows], ~inline, is_all=is_all)
            marks, known = _renumbered(checksum[rows], marked, is_all=is_all)
            yield Manifest(
                index=ascending(part),
                kind=narrow(_KINDS[source[rows]]),
                location=narrow(locations),
                offset=narrow(offsets),
                length=narrow(length[rows]),
                checksum=narrow(np.where(marked, marks + np.uint32(1), np.uint32(0))),
                locations=strings.table(used),
                checksums=_checksums(etags, dates, known),
                inline=contents,
            )

    def _own_inline(
        self, inline: Bools, offset: Narrow, length: Narrow
    ) -> tuple[Narrow | Ints, bytes | memoryview]:
        """Return offsets in which those of inline chunks count in their own bytes, and these bytes."""
        if not inline.any():
            return offset, b""
        own, lengths = offset.astype(np.int64), length[inline].astype(np.int64)
        contents = self._memory.cut(own[inline], lengths)
        own[inline] = lengths.cumsum() - lengths
        return own, contents

    def _locations(
        self, source: Narrow, strings: "_Strings", decoder: LocationsDecoder
    ) -> npt.NDArray[np.uint32]:
        """Return for each ref the number of its location, which goes into *strings*."""
        location = np.zeros(len(source), np.uint32)
        places = self._held[_CHUNK_ID].joined()
        natives = np.arange(len(places))
        location[source == _CHUNK_ID] = natives
        for block in blocks(len(places)):
            text = encode_ids(self._memory.fixed(places[block].astype(np.int64), OBJECT_ID_LENGTH))
            prefix = np.broadcast_to(np.frombuffer(CHUNKS, np.uint8), (len(text), len(CHUNKS)))
            keys = np.concatenate([prefix, text], axis=1)
            strings.add(keys.tobytes(), np.full(len(keys), keys.shape[1], np.int64))
        starts, lengths, codes = self._texts(_LOCATION)
        location[source == _LOCATION] = strings.count + codes
        strings.add(self._memory.cut(starts, lengths), lengths)
        starts, lengths, codes = self._texts(_COMPRESSED)
        location[source == _COMPRESSED] = strings.count + codes
        for block in blocks(len(starts)):
            unpacked = decoder.decode(self._memory, starts[block], lengths[block])
            strings.add(b"".join(unpacked), np.array([len(text) for text in unpacked], np.int64))
        return location

    def _checksums(self, mark: Narrow, etags: "_Strings") -> tuple[npt.NDArray[np.uint32], Narrow]:
        """Return for each ref the number of its checksum, where it has one, and all dates.

        Their numbers follow those of the etags, which go into *etags*.
        """
        checksum = np.zeros(len(mark), np.uint32)
        starts, lengths, codes = self._texts(_ETAG)
        etags.add(self._memory.cut(starts, lengths), lengths)
        checksum[mark == _ETAG] = codes
        seconds = self._held[_MODIFIED].joined()
        first, codes = unique(seconds)
        checksum[mark == _MODIFIED] = codes + etags.count
        return checksum, seconds[first]

    def _texts(self, field: int) -> tuple[Ints, Ints, Ints]:
        """Return what `Memory.distinct` says of the vectors of *field*."""
        return self._memory.distinct(self._held[field].joined().astype(np.int64), _MAX_TEXT)


def _checksums(etags: "_Strings", dates: Narrow, used: list[int] | None) -> ChecksumTable:
    """Return a table of the checksums with the numbers *used*, ascending; of all for None."""
    if used is None:
        return ChecksumTable(etags.table(None), narrow(dates))
    first = bisect.bisect_left(used, etags.count)
    kept = np.array(used[first:], np.int64) - etags.count
    return ChecksumTable(etags.table(used[:first]), narrow(dates[kept]))


def _renumbered(
    codes: npt.NDArray[np.uint32], counted: Bools, *, is_all: bool
) -> tuple[npt.NDArray[np.uint32], list[int] | None]:
    """Return *codes* without gaps, where they are *counted*, and which of them they are; None for all."""
    if is_all:
        return codes, None
    used, without_gaps = np.unique(codes[counted], return_inverse=True)
    renumbered = np.zeros(len(codes), np.uint32)
    renumbered[counted] = without_gaps
    return renumbered, used.tolist()


def _ranges(refs: Tables) -> tuple[Ints, Ints]:
    """Return offsets and lengths, whose sums stay below 2**63."""
    offset, length = refs.words(_OFFSET), refs.words(_LENGTH)
    limit = np.uint64(2**63 - 1)
    if np.any(offset > limit) or np.any(length > limit - np.minimum(offset, limit)):
        raise corrupt("a chunk ref ends beyond any object")
    return offset.astype(np.int64), length.astype(np.int64)


class _Strings:
    """Locations as they are found: UTF-8 text, and the size of each."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self._sizes: list[Ints] = [np.empty(0, np.int64)]
        self.count = 0

    def add(self, text: bytes | memoryview, sizes: Ints) -> None:
        """Add strings of the given *sizes*, numbered from *count* on."""
        heads = np.frombuffer(text, np.uint8)[(sizes.cumsum() - sizes)[sizes > 0]]
        try:
            str(text, "utf-8")
        except UnicodeDecodeError:
            raise _not_utf8() from None
        # Text that is valid as a whole is valid in parts if none begins inside a character.
        if np.any(heads & 0xC0 == 0x80):
            raise _not_utf8()
        self._parts.append(text)
        self._sizes.append(sizes)
        self.count += len(sizes)

    def table(self, used: Sequence[int] | None) -> StringTable:
        """Return a table of the strings with the numbers *used*, ascending; of all for None."""
        if len(self._sizes) > 1:
            self._parts, self._sizes = [b"".join(self._parts)], [np.concatenate(self._sizes)]
        text, sizes = self._parts[0], self._sizes[0]
        if used is not None:
            starts = sizes.cumsum() - sizes
            sizes = sizes[used]
            text = cut(text, starts[used], sizes)
        return StringTable(ascending(np.concatenate(([0], sizes.cumsum()))), text)


def _too_long() -> FormatError:
    return corrupt(f"a compressed location is longer than {MAX_LOCATION_LENGTH} bytes")


def _not_utf8() -> FormatError:
    return corrupt("a location or etag of the manifest is not UTF-8")
