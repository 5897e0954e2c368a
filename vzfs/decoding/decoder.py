"""Decoded chunks: authorized like the chunks they are made of, decoded once, kept in the caches.

A decoded chunk is found by what it is made of: the object and its range, the checksum that the ref
records, and the digest of what decodes it. In memory that is all, since the mount pins one version
of an object. On disk the version is part of the name, and so is whatever could decode otherwise: an
entry is used by the rules that count for the stored chunk. Policy is asked on every read, before and
after whatever had to be waited for.

One background task makes each chunk, however many wait for it. If all have given up it ends, unless
a process already decodes: that is finished and kept, as it costs less than another process. How much
is under way is bounded, and who comes first goes first.
"""

import dataclasses
import hashlib
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from vzfs.cache import Buffers, DiskCache, EntryKey, MemoryCache
from vzfs.chunks import Chunks
from vzfs.chunks.pins import Standing
from vzfs.decoding.installed import installed
from vzfs.decoding.room import Room
from vzfs.decoding.wire import DEADLINE, MAX_NBYTES, MAX_SPEC
from vzfs.decoding.workers import IDLE, Workers
from vzfs.errors import ErrorKind, FormatError, VzfsError
from vzfs.model.location import Checksum
from vzfs.model.manifest import ChunkKind, ChunkRef

if TYPE_CHECKING:
    from vzfs.views.forms import Decoded

logger = logging.getLogger("vzfs.decoding")

type Buffer = bytes | memoryview
"""Bytes that do not change any more."""

MAX_UNDER_WAY: Final = 256 * 2**20
"""Bytes of chunks, stored and decoded, that are got and decoded at a time."""
REMEMBER_FAILURE: Final = 5.0
"""Seconds. The kernel asks twice, and programs again; what was fetched in vain is decoded in vain."""
MAX_FAILURES: Final = 10_000
FORMAT: Final = 1
"""Part of the name of what is kept on disk: another number if vzfs itself decodes otherwise."""
INLINE: Final = "inline "
"""What the name of inline content begins with, as no location does."""
SHELF: Final = 26
"""What was made of 64 MiB (2 to this power) of one object lies together in the disk cache."""


@dataclasses.dataclass(frozen=True, slots=True)
class DecodingStatistics:
    """What decoding has cost so far; *processes* is of the moment.

    Reads are answered *from_memory*, or wait for a chunk that is read *from_disk*, *decoded* or
    *failed*. *seconds* were spent in decoder processes, of which some had to be *restarted*.
    """

    decoded: int
    from_memory: int
    from_disk: int
    failed: int
    restarted: int
    seconds: float
    processes: int


class _Identity(NamedTuple):
    """What a decoded chunk is made of, and by what."""

    name: str
    checksum: Checksum | None
    offset: int
    length: int
    digest: str


class _Making:
    """A chunk that is being made, and those who wait for it."""

    __slots__ = ("data", "error", "has_ended", "is_decoding", "readers", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.has_ended = trio.Event()
        self.is_decoding = False
        self.readers = 0
        self.data: Buffer | None = None
        self.error: VzfsError | None = None


class _Wanted(NamedTuple):
    """A decoded chunk, and how the mount sees what it is made of: None for what is inline."""

    identity: _Identity
    standing: Standing | None
    ref: ChunkRef
    form: "Decoded"
    near: str

    def version(self) -> str | None:
        """Return the version that is known; what is inline is named by its content."""
        return "inline" if self.standing is None else self.standing.version()

    def entry(self, version: str) -> EntryKey:
        """Return under what it is in the disk cache."""
        name, _, offset, length, digest = self.identity
        made = f"decoded {FORMAT} by {installed().tag} as {digest} from {length} bytes of {name}"
        return EntryKey(made, version, offset, self.form.nbytes)

    def shelf(self, version: str) -> str:
        """Return what it lies with: what is made alike of its neighbours in the object, or in the array."""
        name, _, offset, _, digest = self.identity
        if self.ref.kind is not ChunkKind.VIRTUAL:
            # What is inline has no neighbours; any division will do.
            return f"decoded {digest} {self.near or name[: len(INLINE) + 2]}"
        return f"decoded {digest} {name} {version} {offset >> SHELF}"

    def may_be_served(self, version: str) -> bool:
        """Whether what was made of *version* may be handed out, which then stays the version."""
        return self.standing is None or self.standing.serve(version)


class Decoder:
    """Reads decoded chunks for everybody who shares this mount, while `run` runs.

    *workers* is how many processes there are at most; *idle* and *deadline* are in seconds: after
    how long an unused one ends, and how long one may take for a chunk.
    """

    def __init__(
        self,
        chunks: Chunks,
        memory: MemoryCache,
        disk: DiskCache | None,
        buffers: Buffers,
        *,
        workers: int | None = None,
        idle: float = IDLE,
        deadline: float = DEADLINE,
    ) -> None:
        self._chunks = chunks
        self._memory = memory
        self._disk = disk
        self._idle = idle
        self._workers = Workers(buffers, count=workers, idle=idle, deadline=deadline)
        self._room = Room(MAX_UNDER_WAY)
        self._making: dict[_Identity, _Making] = {}
        self._failures: dict[_Identity, tuple[float, VzfsError]] = {}
        self._outsize: tuple[_Identity, Buffer] | None = None
        self._background: trio.Nursery | None = None
        self._decoded = self._from_memory = self._from_disk = self._failed = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Decode what is asked for, until cancelled; no process is left then."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._workers.run)
            self._background = nursery
            task_status.started()

    def statistics(self) -> DecodingStatistics:
        """Return the counts so far."""
        return DecodingStatistics(
            decoded=self._decoded,
            from_memory=self._from_memory,
            from_disk=self._from_disk,
            failed=self._failed,
            restarted=self._workers.restarted,
            seconds=self._workers.seconds,
            processes=len(self._workers.processes),
        )

    # -- reading -------------------------------------------------------------------------------

    def peek(
        self, ref: ChunkRef, form: "Decoded", offset: int, size: int, *, near: str = ""
    ) -> Buffer | None:
        """Return what `read` would, if it can be had without waiting; else None.

        Raises AccessDenied, and ConfigError if nothing can be decoded.
        """
        wanted = self._wanted(ref, form, near)
        data = self._have(wanted.identity)
        if data is None:
            data = self._peek_disk(wanted)
        else:
            self._from_memory += 1
        return None if data is None else self._part(wanted.identity, data, offset, size)

    async def read(
        self, ref: ChunkRef, form: "Decoded", offset: int, size: int, *, near: str = ""
    ) -> Buffer:
        """Return the bytes [offset, offset + size) of a decoded chunk, fewer at its end.

        *near* is what `Chunks.read` takes. Raises AccessDenied and SourceError as that does,
        FormatError if the chunk cannot be decoded, and ConfigError if nothing can.
        """
        while True:
            wanted = self._wanted(ref, form, near)
            identity = wanted.identity
            data = self._have(identity)
            if data is not None:
                self._from_memory += 1
                return self._part(identity, data, offset, size)
            making = self._making.get(identity) or self._make(wanted)
            await self._wait(identity, making)
            # Policy may have changed meanwhile, also to another place.
            if not self._is_still(wanted):
                continue
            if making.error is not None:
                # Each reader raises one of its own: what is raised collects the frames of all.
                raise _bare(making.error)
            if making.data is not None:
                return self._part(identity, making.data, offset, size)

    async def _wait(self, identity: _Identity, making: _Making) -> None:
        making.readers += 1
        try:
            await making.has_ended.wait()
        finally:
            making.readers -= 1
            if not making.readers and not making.has_ended.is_set() and not making.is_decoding:
                self._forget(identity, making)
                making.scope.cancel()

    def _have(self, identity: _Identity) -> Buffer | None:
        if self._outsize is not None and self._outsize[0] == identity:
            return self._outsize[1]
        return self._memory.get(identity)

    def _part(self, identity: _Identity, data: Buffer, offset: int, size: int) -> Buffer:
        outsize = self._outsize
        if outsize is not None and outsize[0] == identity and offset + size >= len(data):
            self._outsize = None
        return memoryview(data)[offset : offset + size]

    def _wanted(self, ref: ChunkRef, form: "Decoded", near: str) -> _Wanted:
        """Return what a reader wants. Raises AccessDenied."""
        if ref.kind is ChunkKind.INLINE:
            content = hashlib.blake2b(ref.inline, digest_size=32).hexdigest()
            identity = _Identity(f"{INLINE}{content}", None, 0, ref.length, form.digest)
            return _Wanted(identity, None, ref, form, near)
        standing = self._chunks.standing(ref)
        identity = _Identity(standing.name, ref.checksum, ref.offset, ref.length, form.digest)
        return _Wanted(identity, standing, ref, form, near)

    def _is_still(self, wanted: _Wanted) -> bool:
        """Whether policy leads to the same place as before. Raises AccessDenied where it leads nowhere."""
        return self._wanted(wanted.ref, wanted.form, wanted.near).identity == wanted.identity

    # -- making --------------------------------------------------------------------------------

    def _make(self, wanted: _Wanted) -> _Making:
        if self._background is None:
            raise RuntimeError("chunks are decoded while run() runs")
        failure = self._failures.get(wanted.identity)
        if failure is not None and failure[0] > trio.current_time():
            raise _bare(failure[1])
        making = self._making[wanted.identity] = _Making()
        self._background.start_soon(self._run, wanted, making)
        return making

    def _forget(self, identity: _Identity, making: _Making) -> None:
        if self._making.get(identity) is making:
            del self._making[identity]

    async def _run(self, wanted: _Wanted, making: _Making) -> None:
        """Make a chunk; whatever comes of it, those who wait are told."""
        try:
            with making.scope:
                making.data = await self._get(wanted, making)
        except VzfsError as error:
            self._fail(wanted, making, error)
        except Exception:
            # Nobody waits for this task alone, and it must not end a mount.
            logger.exception("a chunk was not decoded: this is a bug in vzfs, please report it")
            what = "a chunk could not be decoded, for a reason that the log has"
            self._fail(wanted, making, FormatError(ErrorKind.BUG, what))
        finally:
            self._forget(wanted.identity, making)
            making.has_ended.set()

    def _fail(self, wanted: _Wanted, making: _Making, error: VzfsError) -> None:
        self._failed += 1
        making.error = error
        if isinstance(error, FormatError):
            if len(self._failures) >= MAX_FAILURES:
                self._failures.clear()
            self._failures[wanted.identity] = trio.current_time() + REMEMBER_FAILURE, _bare(error)
            if not making.readers:
                logger.warning("nobody waits any more for a chunk that was not decoded: %s", error)

    async def _get(self, wanted: _Wanted, making: _Making) -> Buffer | None:
        """Return a chunk from the disk, or made anew; None if policy now leads to another place."""
        identity, _, ref, form, near = wanted
        _check(ref, form)
        if not self._is_still(wanted):
            return None
        data = await self._from_disk_of(wanted)
        if data is None:
            async with self._room.of(ref.length + form.nbytes):
                stored = await self._chunks.read(ref, 0, ref.length, near=near)
                if not self._is_still(wanted):
                    return None
                version = wanted.version()
                async with self._workers.place() as decode:
                    making.is_decoding = True
                    try:
                        data = await decode(form.spec, stored, form.nbytes)
                    except FormatError as error:
                        raise _at(error, ref) from None
                self._decoded += 1
                if self._disk is not None and version is not None:
                    self._disk.store(wanted.entry(version), data, shelf=wanted.shelf(version))
        self._memory.put(identity, data)
        if identity not in self._memory and self._background is not None:
            # Who reads it does so piece by piece: it is not decoded anew for each.
            self._outsize = identity, data
            self._background.start_soon(self._let_go, identity)
        return data

    async def _let_go(self, identity: _Identity) -> None:
        """Forget a chunk that the memory cache does not hold, if its end is not read in time."""
        await trio.sleep(self._idle)
        if self._outsize is not None and self._outsize[0] is identity:
            self._outsize = None

    # -- the disk ------------------------------------------------------------------------------

    def _peek_disk(self, wanted: _Wanted) -> Buffer | None:
        version = wanted.version()
        if self._disk is None or version is None or wanted.identity in self._making:
            return None
        data = self._disk.peek(wanted.entry(version), wanted.shelf(version))
        if data is None or not wanted.may_be_served(version):
            return None
        self._from_disk += 1
        self._memory.put(wanted.identity, data)
        return data

    async def _from_disk_of(self, wanted: _Wanted) -> Buffer | None:
        """Return a chunk as the disk has it, if it may be used. Raises SourceError as reading the chunk does."""
        if self._disk is None:
            return None
        if wanted.standing is not None:
            await wanted.standing.find()
        version = wanted.version()
        if version is None:
            return None
        data = await self._disk.get(wanted.entry(version), wanted.shelf(version))
        if data is None or not wanted.may_be_served(version):
            return None
        self._from_disk += 1
        return data


def _check(ref: ChunkRef, form: "Decoded") -> None:
    """Raise FormatError if a chunk is not one that is decoded, and ConfigError if nothing can be."""
    installed()
    if not 0 < form.nbytes <= MAX_NBYTES or ref.length > MAX_NBYTES or len(form.spec) > MAX_SPEC:
        what = f"a chunk of {ref.length} bytes, {form.nbytes} when decoded, is not decoded"
        raise FormatError(
            ErrorKind.NOT_DECODED,
            what,
            where=_place(ref),
            advice="read it in another view",
        )


def _place(ref: ChunkRef) -> str:
    """Say where a stored chunk is."""
    return f"{ref.location or 'inline'}, bytes {ref.offset} to {ref.offset + ref.length}"


def _at(error: FormatError, ref: ChunkRef) -> FormatError:
    return FormatError(error.kind, error.what, where=_place(ref), advice=error.advice)


def _bare(error: VzfsError) -> VzfsError:
    """Return *error* to keep: what was raised holds on to the frames it came through."""
    return type(error)(error.kind, error.what, where=error.where, advice=error.advice)
