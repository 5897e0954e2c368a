"""Read-ahead: what readers will ask for next is got before they do.

Two habits are followed. Who walks through an array chunk by chunk gets the chunks that come next
(`Walks` knows which). Who reads on through one large chunk, or a shard, gets what comes next in it,
twice as far each time, until a jump. Nothing is got ahead of who reads here and there.

How far ahead: not further than it takes that nobody waits. It begins small, grows when a reader
finds what was predicted still on its way, and shrinks when what was got ahead is dropped unread.
What is got ahead and not read yet takes at most *budget* bytes of memory in all.
"""

import dataclasses
from collections import OrderedDict
from typing import Final, NamedTuple

import trio

from vzfs.chunks.chunks import Chunks
from vzfs.chunks.orders import Piece
from vzfs.errors import VzfsError
from vzfs.model.location import ByteRange
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.plan import block_of, pieces
from vzfs.repository import ArrayRefs
from vzfs.walks import Walks

FIRST_REACH: Final = 8 * 2**20
"""Bytes ahead of a walk at first."""
FEWEST: Final = 4
"""Chunks ahead of a walk at first, if that is more."""
MOST: Final = 2048
"""Chunks ahead of a walk."""
BATCH: Final = 16
"""Chunks for which there is to be room again before those that waited for it are sent for: together
they may come by one request."""
ANOTHER: Final = 16
"""Chunks that are got at the first touch of an array, if it is at its beginning and an array of the
same grid was walked through before."""
SAMPLE: Final = 3
"""Chunks that are looked at to see whether the disk cache still has all at hand, as of those before: the
first, one in the middle and the last of those that come next."""
LEARNING: Final = 1 / 16
"""How much one chunk's length says of the others'."""
MAX_ARRAYS: Final = 256
"""Arrays whose walks are followed at a time; those touched last."""
UNREAD_AFTER: Final = 15.0
"""Seconds after which what was got ahead makes way for other predictions."""

MAX_STREAMS: Final = 256
"""Large chunks through which reads are followed at a time."""
MAX_SHARDS: Final = 10_000
"""Shards of which is known how they are read."""
SLACK: Final = 2**20
"""Bytes that a read may lie before or behind where the one before it ended: the kernel asks for the
pieces of one read in any order."""
LONGEST_STRIDE: Final = 32 * 2**20
"""Bytes ahead of who reads on through one chunk."""

type Key = tuple[bytes, tuple[int, ...]]
"""A chunk: its array's id, and its coordinates."""


@dataclasses.dataclass(frozen=True, slots=True)
class AheadStatistics:
    """Pieces *sent* for, how many of them were *read*, and *awaited* (read before they had come).

    *dropped* are those that nobody read for long. *unread* (bytes), *walks* and *streams* are of
    the moment.
    """

    sent: int
    read: int
    awaited: int
    dropped: int
    unread: int
    walks: int
    streams: int


class _Course:
    """The walks through one array, and how many bytes they may be ahead of their readers.

    *length* is that of its chunks, about; *read* counts what was got ahead and read. *waiting* are
    chunks for which there was no room yet. *is_at_hand* if the disk cache had all that came last.
    """

    __slots__ = ("is_at_hand", "length", "reach", "read", "shape", "unread", "waiting", "walks")

    def __init__(self, shape: tuple[int, ...], length: int) -> None:
        self.shape = shape
        self.walks = Walks(shape)
        self.read = 0
        self.reach = FIRST_REACH
        self.unread = 0
        self.length = float(length)
        self.waiting: dict[tuple[int, ...], None] = {}
        self.is_at_hand = False


class _Unread(NamedTuple):
    """A piece that was got ahead of the walks of *course*, *since* a time of trio's clock."""

    piece: Piece
    length: int
    since: float
    course: _Course


class _Stream:
    """Reading on through one chunk: where it has come to, and up to where was sent for."""

    __slots__ = ("got", "position", "stride")

    def __init__(self) -> None:
        self.position = 0
        self.got = 0
        self.stride = 0


class ReadAhead:
    """Gets ahead of everybody who reads *chunks*."""

    def __init__(self, chunks: Chunks, budget: int) -> None:
        self._chunks = chunks
        self._budget = budget
        # An array has other shapes in other snapshots.
        self._courses: OrderedDict[tuple[bytes, tuple[int, ...]], _Course] = OrderedDict()
        self._unread: OrderedDict[Key, _Unread] = OrderedDict()
        self._held = self._busy = 0
        self._streams: OrderedDict[Key, _Stream] = OrderedDict()
        self._is_whole: OrderedDict[Key, bool] = OrderedDict()
        self._scanned: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._sent = self._read = self._awaited = self._dropped = 0

    def statistics(self) -> AheadStatistics:
        """Return the counts so far."""
        return AheadStatistics(
            sent=self._sent,
            read=self._read,
            awaited=self._awaited,
            dropped=self._dropped,
            unread=self._held,
            walks=sum(len(course.walks.statistics().windows) for course in self._courses.values()),
            streams=len(self._streams),
        )

    def block(
        self, refs: ArrayRefs, coords: tuple[int, ...], ref: ChunkRef, offset: int | None = None
    ) -> int:
        """Return the length of the pieces in which the chunk at *coords* is read, 0 for the whole.

        A shard is read by ranges, unless its beginning is read first: who wants inner chunks looks
        into its index before, which lies at its end. One with the index in front is always read by
        ranges. *offset* is where is being read; without it nothing is learned.
        """
        index = refs.array.shard_index
        if index is None:
            return block_of(ref.length)
        key = refs.array.id, coords
        is_whole = self._is_whole.get(key)
        if is_whole is None and offset is not None:
            is_whole = offset == 0 and index == "end"
            self._is_whole[key] = is_whole
            if len(self._is_whole) > MAX_SHARDS:
                self._is_whole.popitem(last=False)
        return block_of(ref.length, is_shard=not is_whole)

    def follow(
        self,
        refs: ArrayRefs,
        coords: tuple[int, ...],
        ref: ChunkRef,
        offset: int,
        size: int,
        block: int,
    ) -> None:
        """Take note that *size* bytes from *offset* of a chunk are being read, and get what comes next."""
        if ref.kind is ChunkKind.INLINE:
            return
        if block:
            self._read_on(refs, coords, ref, offset, size, block)
        elif not offset:
            self._walk_on(refs, coords, ref)

    def was_awaited(self, refs: ArrayRefs) -> None:
        """Take note that somebody has to wait for a chunk: not all that comes next can be at hand."""
        course = self._courses.get((refs.array.id, refs.array.grid.shape))
        if course is not None:
            course.is_at_hand = False

    # -- from chunk to chunk -------------------------------------------------------------------

    def _walk_on(self, refs: ArrayRefs, coords: tuple[int, ...], ref: ChunkRef) -> None:
        array = refs.array
        key = array.id, array.grid.shape
        course = self._courses.get(key)
        is_new = course is None
        if course is None:
            course = self._courses[key] = _Course(array.grid.shape, ref.length)
            if len(self._courses) > MAX_ARRAYS:
                self._courses.popitem(last=False)
        else:
            self._courses.move_to_end(key)
        unread = self._unread.pop((array.id, coords), None)
        if unread is not None:
            self._arrive(unread)
        waiting = course.waiting
        waiting.pop(coords, None)
        course.length += (ref.length - course.length) * LEARNING
        length = max(int(course.length), 1)
        limit = min(
            max(course.reach // length, FEWEST), self._budget // max(self._busy, 1) // length, MOST
        )
        following = course.walks.touch(coords, limit)
        if is_new and not any(coords) and array.grid.shape in self._scanned:
            # Variables are read one after the other, and this one is like one before.
            count = min(limit, ANOTHER, array.grid.size - 1)
            following = [array.grid.unravel(flat) for flat in range(1, count + 1)]
        if following:
            waiting.update(dict.fromkeys(following))
        if waiting and (following or self._budget - self._held >= BATCH * length):
            self._send_for(refs, course)

    def _arrive(self, unread: _Unread) -> None:
        """Learn from a reader who has come to what was got for it."""
        course = unread.course
        self._read += 1
        course.read += 1
        if course.read == ANOTHER // 2:
            self._scanned[course.shape] = None
            if len(self._scanned) > MAX_ARRAYS:
                self._scanned.popitem(last=False)
        self._hold(course, -unread.length)
        state = self._chunks.state(unread.piece)
        if state == "coming":
            self._awaited += 1
            # A walk that has not yet got as far as it may grows by itself.
            if course.unread * 2 >= course.reach:
                course.reach = min(course.reach * 2, self._budget)
        elif state == "gone":
            # It was got too early: it had to make way before it was read.
            course.reach = max(course.reach // 2, FIRST_REACH)

    def _hold(self, course: _Course, size: int) -> None:
        """Count *size* bytes more that are ahead of an array's walks."""
        was_busy = course.unread > 0
        self._held += size
        course.unread += size
        self._busy += (course.unread > 0) - was_busy

    def _send_for(self, refs: ArrayRefs, course: _Course) -> None:
        """Send for as much of what waits as there is room for."""
        if not self._chunks.has_room(int(course.length)):
            return
        if course.is_at_hand and self._are_at_hand(refs, list(course.waiting)):
            course.waiting.clear()
            return
        found: list[tuple[tuple[int, ...], ChunkRef]] = []
        room = self._budget - self._held
        for coords in list(course.waiting):
            ref = _of_use(refs, coords)
            if ref is not None and ref.length > room:
                room += self._make_room(ref.length - room)
                if ref.length > room:
                    break
            del course.waiting[coords]
            if ref is not None:
                room -= ref.length
                found.append((coords, ref))
        now = trio.current_time()
        wanted = [
            (ref, [ByteRange(0, ref.length)], near(refs, coords, ref)) for coords, ref in found
        ]
        sent = self._chunks.ahead(wanted)
        course.is_at_hand = not sent and len(found) > SAMPLE
        for number, piece in sent:
            coords, ref = found[number]
            self._unread[refs.array.id, coords] = _Unread(piece, ref.length, now, course)
            self._sent += 1
            self._hold(course, ref.length)

    def _are_at_hand(self, refs: ArrayRefs, waiting: list[tuple[int, ...]]) -> bool:
        """Whether some of the chunks *waiting*, which stand for all, are in the disk cache or absent."""
        for coords in {waiting[0], waiting[len(waiting) // 2], waiting[-1]}:
            ref = _of_use(refs, coords)
            if ref is not None and not self._chunks.is_at_hand(ref, near=near(refs, coords, ref)):
                return False
        return True

    def _make_room(self, size: int) -> int:
        """Drop what nobody has read for long, *size* bytes of it; return how many were dropped."""
        dropped = 0
        until = trio.current_time() - UNREAD_AFTER
        while dropped < size and self._unread:
            key, unread = next(iter(self._unread.items()))
            if unread.since > until:
                break
            del self._unread[key]
            course = unread.course
            self._hold(course, -unread.length)
            dropped += unread.length
            self._dropped += 1
            self._chunks.drop(unread.piece)
            course.reach = max(course.reach // 2, FIRST_REACH)
            course.walks.waste(key[1])
        return dropped

    # -- on through one chunk ------------------------------------------------------------------

    def _read_on(
        self,
        refs: ArrayRefs,
        coords: tuple[int, ...],
        ref: ChunkRef,
        offset: int,
        size: int,
        block: int,
    ) -> None:
        key = refs.array.id, coords
        stream = self._streams.get(key)
        end = min(offset + size, ref.length)
        if stream is None:
            stream = self._streams[key] = _Stream()
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
        else:
            self._streams.move_to_end(key)
        if not -SLACK <= offset - stream.position <= SLACK or (not stream.got and offset):
            stream.position, stream.got, stream.stride = end, -(-end // block) * block, 0
            return
        stream.position = max(stream.position, end)
        # A read need not end where a block does: one that goes into the next has used up this one.
        is_due = stream.got - stream.position <= stream.stride // 2
        stream.got = max(stream.got, -(-stream.position // block) * block)
        if not is_due:
            return
        most = max(min(LONGEST_STRIDE, self._budget), block)
        stream.stride = min(max(2 * stream.stride, block), most)
        until = min(stream.position + stream.stride, ref.length)
        following = pieces(ref.length, stream.got, until - stream.got, block)
        if following:
            stream.got = following[-1].end
            self._sent += len(self._chunks.ahead([(ref, following, near(refs, coords, ref))]))


def _of_use(refs: ArrayRefs, coords: tuple[int, ...]) -> ChunkRef | None:
    """Return the ref of a chunk that can be got ahead, None if there is none or it is not known."""
    if not refs.is_loaded(coords):
        return None
    try:
        ref = refs.find(coords)
    except VzfsError:
        return None
    if ref is None or not ref.length or ref.kind is ChunkKind.INLINE or block_of(ref.length):
        return None
    return ref


def near(refs: ArrayRefs, coords: tuple[int, ...], ref: ChunkRef) -> str:
    """Return what the chunk at *coords* lies with, if it is an object of its own: a thousand neighbours."""
    if ref.kind is not ChunkKind.NATIVE:
        return ""
    return f"{refs.array.id.hex()} {refs.array.grid.ravel(coords) >> 10}"
