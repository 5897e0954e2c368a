"""Chunk reads: authorize, join the same bytes on their way or send for them, look in the caches.

Each source byte of a cold chunk is got once: readers of a piece share one arrival, and what was got
is kept in memory and on disk. What is read ahead comes the same way, only less urgently, and
several pieces by one request where they lie near each other. A failure is remembered for an
instant, because the kernel asks twice (read-ahead, then the read itself).

Policy is asked before any cache is, and bytes that were under way when it changed are handed out
only if it still allows them.

Pieces are got by background tasks, so that a reader who gives up does not take the others along;
what nobody wants any more is given up too. Everything between two `await`s is atomic; the tables
here are touched only from the event loop.
"""

import functools
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import trio

from vzfs.access import Access, AuthorizedRange
from vzfs.cache import LARGE, Buffers, DiskCache, EntryKey, MemoryCache
from vzfs.chunks.arrivals import AbandonedError, Arrival, Buffer, Span, bare
from vzfs.chunks.orders import Order, Piece, Wanted, all_of, range_of, room, wanted_of
from vzfs.chunks.pins import (
    Object,
    Pin,
    Pins,
    Standing,
    fixed_version,
    object_of,
    read_alike,
)
from vzfs.chunks.statistics import ChunksStatistics
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import ByteRange
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.plan import gaps, parts, pieces, spans
from vzfs.source import Fetcher, Urgency

logger = logging.getLogger("vzfs.chunks")

REMEMBER_FAILURE: Final = 0.5
"""Seconds. Longer than the kernel needs to ask again, shorter than a person needs to retry."""
MAX_FAILURES: Final = 10_000
MAX_CONSUMED: Final = 64 * 2**20
"""Bytes of large pieces that are kept in memory after they were read to their end."""
AT_ONCE: Final = 32
"""Pieces that are looked for in the disk cache before others have their turn."""
SHELF: Final = 26
"""Pieces from 64 MiB (2 to this power) of one object lie together in the disk cache."""

_ITS_OWN: Final = frozenset({ErrorKind.SOURCE_MISMATCH, ErrorKind.EGRESS_SPENT})
"""Troubles of one range, which say nothing of another in the same object."""
_STALE: Final = frozenset({ErrorKind.SOURCE_CHANGED, ErrorKind.SOURCE_VANISHED})


class _Reading:
    """A read under way, and what ends it should policy change."""

    __slots__ = ("ref", "scope")

    def __init__(self, ref: ChunkRef) -> None:
        self.ref = ref
        self.scope = trio.CancelScope()


class Chunks:
    """Reads chunks for everybody who shares this mount, while `run` runs."""

    def __init__(
        self,
        fetcher: Fetcher,
        access: Access,
        memory: MemoryCache,
        disk: DiskCache | None,
        buffers: Buffers | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._access = access
        self._memory = memory
        self._disk = disk
        self._buffers = buffers or Buffers()
        self._consumed: OrderedDict[Piece, int] = OrderedDict()
        self._consumed_size = 0
        self._pins = Pins(fetcher, disk)
        self._reading: set[_Reading] = set()
        self._arrivals: dict[Piece, tuple[Arrival, Order]] = {}
        self._failures: dict[Piece, tuple[float, SourceError]] = {}
        self._background: trio.Nursery | None = None
        self._counts = dict.fromkeys(
            (
                "reads",
                "from_memory",
                "from_disk",
                "fetched",
                "ahead",
                "joined",
                "in_vain",
                "failed",
            ),
            0,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Get what is asked for, until cancelled."""
        async with trio.open_nursery() as self._background:
            task_status.started()
            await trio.sleep_forever()

    def statistics(self) -> ChunksStatistics:
        """Return the counts so far."""
        return ChunksStatistics(**self._counts, in_flight=len(self._arrivals))

    # -- reading -------------------------------------------------------------------------------

    def peek(
        self, ref: ChunkRef, offset: int, size: int, *, near: str = "", block: int = 0
    ) -> Buffer | None:
        """Return what `read` would, if it can be had without waiting; else None.

        Raises AccessDenied where the location is not allowed.
        """
        if ref.kind is ChunkKind.INLINE:
            self._counts["reads"] += 1
            return ref.inline[offset : offset + size]
        whole = self._access.authorize(ref)
        found = pieces(ref.length, offset, size, block)
        if len(found) != 1:
            return None if found else b""
        wanted = wanted_of(whole, ref, found[0], near)
        low = offset - found[0].offset
        high = min(low + size, found[0].length)
        data = self._have(wanted, low, high)
        if data is not None:
            self._counts["reads"] += 1
            self._counts["from_memory"] += 1
            return data
        if wanted.identity in self._arrivals or self._disk is None:
            return None
        where = self._cached_as(wanted)
        data = None if where is None else self._disk.peek(*where)
        if data is None:
            return None
        self._serve_pinned(wanted)
        self._counts["reads"] += 1
        self._counts["from_disk"] += 1
        if len(data) > high - low:
            self._memory.put(wanted.identity, data)
        return memoryview(data)[low:high]

    async def read(
        self, ref: ChunkRef, offset: int, size: int, *, near: str = "", block: int = 0
    ) -> Buffer:
        """Return the bytes [offset, offset + size) of a chunk, fewer at its end.

        *block* is the length of its pieces, 0 for a chunk that is one. *near* names chunks of the
        repository's own that are read together. Raises AccessDenied where the location is not
        allowed, SourceError where the source fails.
        """
        self._counts["reads"] += 1
        if ref.kind is ChunkKind.INLINE:
            return ref.inline[offset : offset + size]
        while True:
            whole = self._access.authorize(ref)
            reading = _Reading(ref)
            self._reading.add(reading)
            try:
                with reading.scope:
                    data = await self._pieces(whole, ref, offset, size, near, block)
                    if not reading.scope.cancel_called:
                        return data
            finally:
                self._reading.remove(reading)

    def adopt(self, access: Access) -> None:
        """Let *access* decide from now on; a read under way that it decides otherwise begins anew."""
        before, self._access = self._access, access
        for reading in self._reading:
            if not read_alike(reading.ref, before, access):
                reading.scope.cancel()
        # Nobody has asked for these, so nobody has to be told.
        for _, order in list(self._arrivals.values()):
            if not order.has_readers():
                self._give_up(order)

    async def _pieces(
        self, whole: AuthorizedRange, ref: ChunkRef, offset: int, size: int, near: str, block: int
    ) -> Buffer:
        found = pieces(ref.length, offset, size, block)
        several = [wanted_of(whole, ref, piece, near) for piece in found]
        if len(several) > 1:
            self._send_for_together(several)
        read = []
        for piece, wanted in zip(found, several, strict=True):
            low = max(offset - piece.offset, 0)
            high = min(offset + size - piece.offset, piece.length)
            read.append(await self._piece(wanted, low, high))
        return read[0] if len(read) == 1 else b"".join(read)

    async def _piece(self, wanted: Wanted, low: int, high: int) -> Buffer:
        while True:
            data = self._have(wanted, low, high)
            if data is not None:
                self._counts["from_memory"] += 1
                return data
            coming = self._arrivals.get(wanted.identity)
            if coming is None:
                arrival, order = self._send_for_one(wanted)
            else:
                arrival, order = coming
                order.haste.hurry()
            try:
                return await arrival.reach(low, high)
            except AbandonedError:
                continue
            except SourceError as error:
                # Each reader raises one of its own: what is raised collects the frames of all.
                raise bare(error) from None
            except trio.Cancelled:
                is_unwanted = not arrival.has_ended and not order.has_readers()
                if is_unwanted and order.urgency is Urgency.DEMAND:
                    self._give_up(order)
                raise

    def _have(self, wanted: Wanted, low: int, high: int) -> Buffer | None:
        data = self._memory.get(wanted.identity)
        if data is not None:
            if high == len(data) >= LARGE and self._disk is not None:
                self._consume(wanted.identity, high)
            return memoryview(data)[low:high]
        coming = self._arrivals.get(wanted.identity)
        if coming is None:
            return None
        coming[0].was_wanted = True
        return coming[0].have(low, high)

    def _consume(self, piece: Piece, size: int) -> None:
        """Hear that the end of a large piece was read: of such ones few are kept, so that their memory is used again."""
        consumed = self._consumed
        self._consumed_size += size - consumed.pop(piece, 0)
        consumed[piece] = size
        while self._consumed_size > MAX_CONSUMED:
            oldest, size = consumed.popitem(last=False)
            self._consumed_size -= size
            self._memory.discard(oldest)

    def standing(self, ref: ChunkRef) -> Standing:
        """Return how this mount sees the object of a chunk that is not inline. Raises AccessDenied."""
        return Standing(self._pins, self._access.authorize(ref), ref.kind)

    async def is_cached(self, ref: ChunkRef, *, near: str = "", block: int = 0) -> bool:
        """Whether the beginning of a chunk would be served without a request to its source."""
        if ref.kind is ChunkKind.INLINE or ref.length == 0:
            return True
        whole = self._access.authorize(ref)
        wanted = wanted_of(whole, ref, pieces(ref.length, 0, 1, block)[0], near)
        return self._memory.get(wanted.identity) is not None or await self._is_on_disk(wanted)

    async def lacking(
        self, ref: ChunkRef, ranges: Sequence[ByteRange], *, near: str = ""
    ) -> list[ByteRange]:
        """Return those of the pieces *ranges* of a chunk that the disk cache does not have.

        Of an object whose version nothing fixes, the source is asked once for the one it has. Raises
        AccessDenied and SourceError.
        """
        whole = self._access.authorize(ref)
        if fixed_version(whole, ref.kind) is None:
            await self._pins.find(whole)
        several = [wanted_of(whole, ref, piece, near) for piece in ranges]
        return [
            piece
            for piece, wanted in zip(ranges, several, strict=True)
            if not await self._is_on_disk(wanted)
        ]

    async def _is_on_disk(self, wanted: Wanted) -> bool:
        if self._disk is None:
            return False
        where = self._cached_as(wanted)
        if where is None and self._pins.known(object_of(wanted.proof)) is None:
            version = await self._disk.last_version(self._pins.name(wanted.proof))
            where = None if version is None else self._cached_as(wanted, version)
        return where is not None and await self._disk.has(*where)

    def is_stale(self, ref: ChunkRef, *, near: str = "", block: int = 0) -> bool:
        """Whether reading a chunk failed last because its source changed or vanished. Asks nobody."""
        if ref.kind is ChunkKind.INLINE or not self._failures:
            return False
        whole = self._access.authorize(ref)
        for piece in pieces(ref.length, 0, ref.length, block):
            failure = self._failures.get(wanted_of(whole, ref, piece, near).identity)
            if failure is not None and failure[1].kind in _STALE:
                return True
        return False

    # -- sending for pieces --------------------------------------------------------------------

    def ahead(
        self, chunks: Iterable[tuple[ChunkRef, Sequence[ByteRange], str]]
    ) -> list[tuple[int, Piece]]:
        """Get pieces of *chunks* before anybody asks: (ref, its pieces, near) each.

        Returns the number, in *chunks*, and the identity of each piece that is sent for: what is
        there, on its way or not allowed is left out.
        """
        objects: dict[Object, list[Wanted]] = {}
        sent: dict[Piece, int] = {}
        now = trio.current_time()
        for number, (ref, ranges, near) in enumerate(chunks):
            if ref.kind is ChunkKind.INLINE:
                continue
            try:
                whole = self._access.authorize(ref)
            except AccessDenied:
                continue
            for piece in ranges:
                wanted = wanted_of(whole, ref, piece, near)
                identity = wanted.identity
                failure = self._failures.get(identity) if self._failures else None
                if (
                    identity in sent
                    or identity in self._memory
                    or identity in self._arrivals
                    or (failure is not None and failure[0] > now)
                    or self._is_at_hand(wanted)
                ):
                    continue
                sent[identity] = number
                objects.setdefault(object_of(wanted.proof), []).append(wanted)
        for several in objects.values():
            self._counts["ahead"] += len(several)
            self._send_for(several, [self._arrival(w) for w in several], Urgency.AHEAD)
        return [(number, identity) for identity, number in sent.items()]

    def has_room(self, size: int) -> bool:
        """Whether the disk keeps up, so that *size* bytes more would be cached."""
        return self._disk is None or self._disk.has_room(size)

    def is_at_hand(self, ref: ChunkRef, *, near: str = "") -> bool:
        """Whether a chunk of one piece, if it may be read, is read from the disk cache at once."""
        try:
            whole = self._access.authorize(ref)
        except AccessDenied:
            return False
        return self._is_at_hand(wanted_of(whole, ref, ByteRange(0, ref.length), near))

    def _is_at_hand(self, wanted: Wanted) -> bool:
        """Whether the disk cache gives a piece as soon as it is asked for."""
        if self._disk is None:
            return False
        where = self._cached_as(wanted)
        return where is not None and self._disk.holds(*where)

    def state(self, piece: Piece) -> Literal["here", "coming", "gone"]:
        """Say where a piece is that was sent for: in memory, on its way, or neither any more."""
        if piece in self._memory:
            return "here"
        return "coming" if piece in self._arrivals else "gone"

    def drop(self, piece: Piece) -> None:
        """Forget a piece that was got ahead, or give it up on its way, as nobody reads it."""
        self._memory.discard(piece)

    def _arrival(self, wanted: Wanted) -> Arrival:
        return Arrival(wanted.proof.max_length, self._buffers.take)

    def _send_for_one(self, wanted: Wanted) -> tuple[Arrival, Order]:
        failure = self._failures.get(wanted.identity)
        if failure is not None and failure[0] > trio.current_time():
            raise bare(failure[1])
        arrival = self._arrival(wanted)
        return arrival, self._send_for([wanted], [arrival], Urgency.DEMAND)

    def _send_for_together(self, several: Sequence[Wanted]) -> None:
        """Send for those pieces of one chunk that are neither here nor coming: they lie side by side."""
        absent = [
            wanted
            for wanted in several
            if wanted.identity not in self._memory
            and wanted.identity not in self._arrivals
            and wanted.identity not in self._failures
        ]
        if len(absent) > 1:
            self._send_for(absent, [self._arrival(w) for w in absent], Urgency.DEMAND)

    def _send_for(
        self, wanted: Sequence[Wanted], arrivals: Sequence[Arrival], urgency: Urgency
    ) -> Order:
        if self._background is None:
            raise RuntimeError("chunks are read while run() runs")
        order = Order(wanted, arrivals, urgency)
        for each, arrival in zip(wanted, arrivals, strict=True):
            self._arrivals[each.identity] = arrival, order
        self._background.start_soon(self._fill, order)
        return order

    def _give_up(self, order: Order) -> None:
        """Stop getting *order*; who asks from now on sends for it anew."""
        self._forget(order)
        order.scope.cancel()

    def _forget(self, order: Order) -> None:
        for wanted, arrival in zip(order.wanted, order.arrivals, strict=True):
            coming = self._arrivals.get(wanted.identity)
            if coming is not None and coming[0] is arrival:
                del self._arrivals[wanted.identity]

    async def _fill(self, order: Order) -> None:
        """Get the pieces of *order*; whatever comes of it, those who wait are told."""
        try:
            with order.scope:
                await self._get(order)
        except SourceError as error:
            self._fail(order, error)
        except Exception:
            # Nobody waits for this task alone, and it must not end a mount.
            logger.exception("a chunk was not read: this is a bug in vzfs, please report it")
            what = "a chunk could not be read, for a reason that the log has"
            self._fail(order, SourceError(ErrorKind.BUG, what))
        finally:
            self._forget(order)
            for _, arrival in order.missing():
                arrival.fail(AbandonedError())

    def _fail(self, order: Order, error: SourceError) -> None:
        missing = order.missing()
        if error.kind in _ITS_OWN and len(order.wanted) > 1:
            return  # whoever waits asks for what it wants alone
        until = trio.current_time() + REMEMBER_FAILURE
        for wanted, arrival in missing:
            if arrival.was_wanted:
                self._counts["failed"] += 1
                if len(self._failures) >= MAX_FAILURES:
                    self._failures.clear()
                self._failures[wanted.identity] = until, bare(error)
            arrival.fail(bare(error))

    # -- getting -------------------------------------------------------------------------------

    async def _get(self, order: Order) -> None:
        """Get what is missing of *order*, of one version.

        Another task may pin a version, or give up a pin, at each `await`; what is not there by then
        is got under the pin that counts.
        """
        first = order.wanted[0].proof
        key = object_of(first)
        fixed = fixed_version(first, order.wanted[0].kind)
        while missing := order.missing():
            pin = None if fixed is not None else await self._pins.find(first)
            version = fixed if pin is None else pin.version
            if version is not None and not order.was_sought:
                missing = await self._from_disk(missing, version, pin)
                if pin is not None and self._pins.known(key) is not pin:
                    continue
                if not missing:
                    return
                if pin is not None and pin.trouble is not None:
                    # It has just been waited for; the next read asks again.
                    trouble, pin.trouble = pin.trouble, None
                    raise trouble
            ranges = [range_of(wanted) for wanted, _ in missing]
            groups = list(spans(ranges, *self._fetcher.pace(first)))
            if len(groups) > 1:
                self._divide(order, missing, groups)
                return
            together = [missing[i] for i in groups[0]]
            try:
                async with room(self._disk, order, together):
                    await self._fetch(order, together, pin, fixed)
            except SourceError as error:
                if (
                    error.kind is ErrorKind.SOURCE_CHANGED
                    and pin
                    and self._pins.gives_way(key, pin)
                ):
                    order.was_sought = False
                    continue
                raise

    async def _from_disk(
        self, missing: Sequence[tuple[Wanted, Arrival]], version: str, pin: Pin | None
    ) -> list[tuple[Wanted, Arrival]]:
        """Land what the disk cache has of *version*, as long as *pin* counts; return what it has not."""
        if self._disk is None:
            return list(missing)
        rest: list[tuple[Wanted, Arrival]] = []
        for number, (wanted, arrival) in enumerate(missing):
            if number % AT_ONCE == AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            where = self._cached_as(wanted, version)
            assert where is not None  # noqa: S101 -- the version is known
            data: Buffer | None = await self._disk.get(*where)
            if pin is not None and self._pins.known(object_of(wanted.proof)) is not pin:
                return rest
            if data is None:
                rest.append((wanted, arrival))
                continue
            if pin is not None:
                pin.is_served, pin.trouble = True, None
            self._counts["from_disk"] += 1
            arrival.land(data)
            self._keep(wanted, arrival)
        return rest

    def _divide(
        self,
        order: Order,
        missing: Sequence[tuple[Wanted, Arrival]],
        groups: Iterable[Sequence[int]],
    ) -> None:
        """Make an order of each group, as they come by requests of their own."""
        for group in groups:
            some = [missing[i] for i in group]
            part = self._send_for([w for w, _ in some], [a for _, a in some], order.urgency)
            part.was_sought = True
            if part.has_readers():
                part.haste.hurry()
        divided = {id(arrival) for _, arrival in missing}
        kept = [
            p for p in zip(order.wanted, order.arrivals, strict=True) if id(p[1]) not in divided
        ]
        order.wanted, order.arrivals = [w for w, _ in kept], [a for _, a in kept]

    async def _fetch(
        self,
        order: Order,
        missing: Sequence[tuple[Wanted, Arrival]],
        pin: Pin | None,
        fixed: str | None,
    ) -> None:
        """Get *missing*, which lie near each other and are sorted by offset, by one request or in parts."""
        first = missing[0][0].proof
        versions: set[str] = set()

        def admit(version: str) -> None:
            """Take *version* for that of the object, or refuse it."""
            versions.add(version)
            if fixed is None:
                self._pins.see(first, version)
            elif len(versions) > 1:
                # What the ref fixes does not change, but two tags for it may mean two objects.
                raise SourceError(
                    ErrorKind.SOURCE_CHANGED,
                    "two versions of one object are given at the same time",
                    where=str(first.location),
                )

        ask = functools.partial(
            self._fetcher.fetch,
            pinned=None if pin is None else pin.version,
            urgency=Urgency.DEMAND if order.urgency is Urgency.DEMAND else order.haste,
        )
        if len(missing) > 1:
            last = max((wanted for wanted, _ in missing), key=lambda wanted: range_of(wanted).end)
            whole = first.through(last.proof)
            start = range_of(missing[0][0]).offset
            places = [(range_of(w).offset - start, arrival) for w, arrival in missing]
            by_arrival = {id(arrival): wanted for wanted, arrival in missing}
            self._counts["joined"] += len(missing)
            self._counts["in_vain"] += gaps([range_of(w) for w, _ in missing])
            self._counts["fetched"] += len(missing)
            span = Span(
                whole.max_length,
                places,
                self._buffers.take,
                admit,
                lambda a: self._keep_new(by_arrival[id(a)], a),
            )
            await ask(whole, sink=span)
            return
        wanted, arrival = missing[0]
        arrival.begin_again()
        shares = parts(arrival.length, self._fetcher.pace(first).bandwidth)
        self._counts["fetched"] += 1
        if len(shares) == 1:
            await ask(first, sink=arrival.part(0, arrival.length, admit))
        else:
            sinks = [arrival.part(share.offset, share.length, admit) for share in shares]
            await all_of(
                functools.partial(ask, first.part(share), sink=sink)
                for share, sink in zip(shares, sinks, strict=True)
            )
        arrival.landed()
        self._keep_new(wanted, arrival)

    # -- keeping -------------------------------------------------------------------------------

    def _keep(self, wanted: Wanted, arrival: Arrival) -> None:
        """Have what has landed served from memory."""
        self._memory.put(wanted.identity, arrival.landed())
        if self._failures:
            self._failures.pop(wanted.identity, None)
        coming = self._arrivals.get(wanted.identity)
        if coming is not None and coming[0] is arrival:
            del self._arrivals[wanted.identity]

    def _keep_new(self, wanted: Wanted, arrival: Arrival) -> None:
        """Have what was fetched served from memory and written to the disk cache."""
        self._keep(wanted, arrival)
        if self._disk is None:
            return
        where = self._cached_as(wanted)
        if where is None:
            return
        entry, shelf = where
        pin = self._pins.known(object_of(wanted.proof))
        record = None
        if pin is not None and not pin.is_recorded:
            record, pin.is_recorded = entry.location, True
        self._disk.store(entry, arrival.landed(), shelf=shelf, record=record)

    def _serve_pinned(self, wanted: Wanted) -> None:
        pin = self._pins.known(object_of(wanted.proof))
        if pin is not None:
            pin.is_served, pin.trouble = True, None

    def _cached_as(self, wanted: Wanted, version: str | None = None) -> tuple[EntryKey, str] | None:
        """Return under what, and on which shelf, a piece is in the disk cache, None if its version is not known.

        It lies with its neighbours in the object, or in the array.
        """
        place, offset, length, checksum = wanted.identity
        key = place, checksum
        if version is None:
            version = fixed_version(wanted.proof, wanted.kind)
        if version is None:
            pin = self._pins.known(key)
            if pin is None:
                return None
            version = pin.version
        name = self._pins.name_of(key, wanted.proof)
        is_native = wanted.kind is ChunkKind.NATIVE
        shelf = wanted.near if is_native else f"{name} {version} {offset >> SHELF}"
        return EntryKey(name, version, offset, length), shelf
