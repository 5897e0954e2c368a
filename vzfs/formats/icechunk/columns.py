"""Many flatbuffers tables of one type at once: a numpy column for each field, checked as a whole.

Tables share few vtables, so where a field lies is worked out once for each distinct vtable; values
are then gathered for all tables together. Integers are read through views that overlap byte by
byte, as nothing obliges a writer to align them.
"""

import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from vzfs.formats.icechunk.envelope import corrupt
from vzfs.formats.icechunk.flatbuffer import Buffer

type Ints = npt.NDArray[np.int64]
type Bools = npt.NDArray[np.bool_]
type Words = npt.NDArray[np.uint64]
type Rows = Ints | Bools | slice
"""Rows of a column, by number or by mask, or a run of them."""

ALL: Final = slice(None)
"""All rows."""
BLOCK: Final = 2**15
"""Rows that are worked on together."""


class Memory:
    """A buffer as numpy sees it: integers of each width at any byte, and strings by position."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer: Final = buffer
        self.bytes: Final = np.frombuffer(buffer.data, np.uint8)
        self._views: Final = {
            width: np.ndarray(
                (max(buffer.size - width + 1, 0),), f"<u{width}", buffer.data, strides=(1,)
            )
            for width in (1, 2, 4, 8)
        }

    def check(self, positions: Ints, length: int | Ints) -> None:
        """Raise FormatError unless *length* bytes lie at each of *positions*."""
        if positions.size and (
            positions.min() < 0 or (positions + length).max() > self.buffer.size
        ):
            raise corrupt("an offset of the file points outside it")

    def integers(self, positions: Ints, width: int) -> Ints:
        """Return the unsigned integers of at most four bytes at *positions*."""
        self.check(positions, width)
        return self._views[width][positions].astype(np.int64)

    def words(self, positions: Ints) -> Words:
        """Return the unsigned 64-bit integers at *positions*."""
        self.check(positions, 8)
        return self._views[8][positions].astype(np.uint64, copy=False)

    def follow(self, positions: Ints) -> Ints:
        """Return where the offsets at *positions* point to."""
        targets = positions + self.integers(positions, 4)
        self.check(targets, 4)
        return targets

    def fixed(self, positions: Ints, length: int) -> npt.NDArray[np.uint8]:
        """Return rows of *length* bytes."""
        self.check(positions, length)
        rows: npt.NDArray[np.uint8] = self.bytes[positions[:, None] + np.arange(length)]
        return rows

    def cut(self, starts: Ints, lengths: Ints) -> memoryview:
        """Return the parts of the buffer that begin at *starts*, one behind the other."""
        self.check(starts, lengths)
        return cut(self.buffer.data, starts, lengths)

    def distinct(self, vectors: Ints, max_length: int) -> tuple[Ints, Ints, Ints]:
        """Return (starts, lengths, codes): the distinct byte vectors among *vectors*, and which each is.

        A vector of more than *max_length* bytes is refused, since comparing takes a pass over all
        for each 8 bytes.

        Vectors at one position are one; others are told apart by a hash of their bytes, and then
        compared byte for byte with the one that stands for them, as a hash may be made to collide.
        """
        # Writers that share no text put one behind the other, before or after those that they have.
        steps = np.sign(np.diff(vectors))
        is_shared = len(vectors) > 1 and (steps[0] == 0 or np.any(steps != steps[0]))
        first, shared = unique(vectors) if is_shared else (ALL, ALL)
        positions = vectors[first]
        hashes = np.empty(len(positions), np.uint64)
        for part in blocks(len(positions)):
            starts, lengths = positions[part] + 4, self.integers(positions[part], 4)
            self.check(starts, lengths)
            if np.any(lengths > max_length):
                raise corrupt(f"a text of the manifest is longer than {max_length} bytes")
            self.buffer.charge(int(lengths.sum()))
            hashes[part] = self._hash(starts, lengths)
        found, codes = unique(hashes)
        del hashes
        if any(
            self._differ(positions[part], positions[found[codes[part]]])
            for part in blocks(len(positions))
        ):
            found, codes = self._sort_out(positions)
        positions = positions[found]
        return positions + 4, self.integers(positions, 4), codes[shared]

    def _word(self, starts: Ints, lengths: Ints, at: int) -> Words:
        """Return bytes [at, at + 8) of each vector that is longer than *at*, zeros behind its end."""
        wanted, last = starts + at, self.buffer.size - 8
        if wanted.max() > last:
            # What lies in the last seven bytes of the buffer is read from before it and shifted down.
            read = np.minimum(wanted, last)
            words = self.words(read) >> (8 * (wanted - read)).astype(np.uint64)
        else:
            words = self.words(wanted)
        if lengths.min() < at + 8:
            spare = (8 * np.maximum(8 - (lengths - at), 0)).astype(np.uint64)
            words = words << spare >> spare
        return words

    def _hash(self, starts: Ints, lengths: Ints) -> Words:
        hashes = lengths.astype(np.uint64)
        for at, rows in _walk(lengths):
            mixed = hashes[rows] ^ self._word(starts[rows], lengths[rows], at)
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            hashes[rows] = mixed
        return hashes

    def _differ(self, vectors: Ints, others: Ints) -> bool:
        """Whether any of *vectors* has other bytes than that of *others* in its row."""
        rows = vectors != others
        vectors, others = vectors[rows], others[rows]
        lengths = self.integers(vectors, 4)
        if np.any(lengths != self.integers(others, 4)):
            return True
        starts, other_starts = vectors + 4, others + 4
        for at, rows in _walk(lengths):
            mine = self._word(starts[rows], lengths[rows], at)
            if np.any(mine != self._word(other_starts[rows], lengths[rows], at)):
                return True
        return False

    def _sort_out(self, vectors: Ints) -> tuple[Ints, Ints]:
        """Tell the vectors apart one by one, for when hashes collide."""
        seen: dict[bytes, int] = {}
        first: list[int] = []
        codes = np.empty(len(vectors), np.int64)
        lengths = self.integers(vectors, 4).tolist()
        for row, (vector, length) in enumerate(zip(vectors.tolist(), lengths, strict=True)):
            text = bytes(self.buffer.data[vector + 4 : vector + 4 + length])
            code = seen.setdefault(text, len(seen))
            if code == len(first):
                first.append(row)
            codes[row] = code
        return np.array(first, np.int64), codes


def _walk(lengths: Ints) -> Iterator[tuple[int, Rows]]:
    """Yield each multiple of 8 below the largest of *lengths*, and the rows of those that are larger."""
    if not len(lengths):
        return
    low, high = int(lengths.min()), int(lengths.max())
    for at in range(0, high, 8):
        yield at, ALL if at < low else np.flatnonzero(lengths > at)


def blocks(count: int) -> Iterator[slice]:
    """Yield slices that cut *count* rows into blocks: what is worked out of one stays in the processor's cache."""
    for first in range(0, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))


def unique(values: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return the rows in which the distinct *values* stand first, in this order, and which of them each is.

    It is quickest where equal values stand side by side.
    """
    heads = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))[: len(values)])
    if len(heads) == 1:
        return heads, np.zeros(len(values), np.int64)
    _, first, codes = np.unique(values[heads], return_index=True, return_inverse=True)
    order = first.argsort()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    codes = ranks[codes]
    if len(heads) < len(values):
        codes = np.repeat(codes, np.diff(heads, append=len(values)))
    return heads[first[order]], codes


def cut(data: bytes | memoryview, starts: Ints, lengths: Ints) -> memoryview:
    """Return the parts of *data* that begin at *starts* and lie inside, one behind the other.

    Parts of one length are copied together, as items of a type of that length.
    """
    ends = np.cumsum(lengths)
    parts = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    order = np.argsort(lengths, kind="stable")
    in_order = lengths[order]
    bounds = np.nonzero(np.diff(in_order, prepend=-1))[0].tolist()
    for low, high in itertools.pairwise([*bounds, len(order)]):
        length = int(in_order[low])
        if length:
            rows = order[low:high]
            _sliding(parts.data, length)[ends[rows] - length] = _sliding(data, length)[starts[rows]]
    parts.flags.writeable = False
    return parts.data


def _sliding(data: bytes | memoryview, width: int) -> npt.NDArray[np.void]:
    """Return the items of *width* bytes at every byte of *data*."""
    return np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))


class Tables:
    """Tables of one type at *positions*, with *widths* bytes for each field that the type declares."""

    def __init__(self, memory: Memory, positions: Ints, widths: tuple[int, ...]) -> None:
        self.memory: Final = memory
        self.positions: Final = positions
        backwards = memory.integers(positions, 4).astype(np.uint32).view(np.int32)
        places = positions - backwards
        first, vtable = unique(places)
        vtables = places[first]
        # Where all tables share a vtable, a field is at one place in all of them.
        self._vtable: Ints | int = 0 if len(vtables) == 1 else vtable
        lengths = memory.integers(vtables, 2)
        ends = memory.integers(vtables + 2, 2)
        memory.check(vtables, np.maximum(lengths, 4))
        memory.check(positions, ends[self._vtable])
        if lengths.size and lengths.min() < 4:
            raise corrupt("a table of the file has no room for its own length")
        self._offsets = np.zeros((len(vtables), len(widths)), np.int64)
        for field, width in enumerate(widths):
            has = lengths >= 6 + 2 * field
            self._offsets[has, field] = memory.integers(vtables[has] + 4 + 2 * field, 2)
            offsets = self._offsets[:, field]
            if np.any((offsets > 0) & ((offsets < 4) | (offsets + width > ends))):
                raise corrupt("a field of the file lies outside its table")

    def has(self, field: int) -> Bools:
        """Return which tables have *field*."""
        present = self._offsets[self._vtable, field] > 0
        return np.broadcast_to(present, self.positions.shape)

    def places(self, field: int, rows: Rows) -> Ints:
        """Return the positions of *field* in *rows*, which all have it."""
        vtable = self._vtable if isinstance(self._vtable, int) else self._vtable[rows]
        places: Ints = self.positions[rows] + self._offsets[vtable, field]
        return places

    def integers(self, field: int, rows: Rows, width: int) -> Ints:
        """Return integers of at most four bytes, of *rows* that all have *field*."""
        return self.memory.integers(self.places(field, rows), width)

    def words(self, field: int) -> Words:
        """Return 64-bit integers of all tables, 0 where *field* is absent."""
        present = chosen(self.has(field))
        if isinstance(present, slice):
            return self.memory.words(self.places(field, present))
        values = np.zeros(len(self.positions), np.uint64)
        values[present] = self.memory.words(self.places(field, present))
        return values

    def vectors(self, field: int, rows: Rows) -> Ints:
        """Return where the vectors of *field* are, of *rows* that all have it."""
        return self.memory.follow(self.places(field, rows))


def chosen(mask: Bools) -> Rows:
    """Return the rows that *mask* has, as a slice where it has them all."""
    return ALL if mask.all() else np.flatnonzero(mask)
