"""Files of archives to `References`: authorized like chunks, parsed once, kept in the disk cache.

A file is parsed as it is now: its version is asked first, every range of it must be of that version,
and every ref names it. What was parsed is found again by the file's place, version and length, and by
what parsed it; so a file that is as it was costs one question to its store, and no process.
"""

import functools
import hashlib
import importlib.util
import os
import urllib.parse
from types import TracebackType
from typing import Final, Self

import trio

from vzfs.access import Access, AuthorizedRange
from vzfs.archival.kinds import HEAD, Kind, needs, sniff
from vzfs.archival.processes import Process, no_library, trouble
from vzfs.archival.ranges import BLOCK
from vzfs.archival.wire import Job
from vzfs.cache import DiskCache, EntryKey
from vzfs.errors import ErrorKind, FormatError, SourceError
from vzfs.formats.references import FORMAT_VERSION, decode_references
from vzfs.model.location import Checksum, LastModified, Location
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import References
from vzfs.source import Fetcher

MAX_WORKERS: Final = 2
MEMORY: Final = 2 * 2**30
"""Bytes of address space that a parser may take for one file."""
SECONDS: Final = 120.0
"""How long a parser may take for one file, what it waits for the file not counted."""
SMALL: Final = 2 * 2**20
"""Bytes of a file that is got whole, by one request."""
_AT_ONCE: Final = 64 * 2**10
"""Bytes of references that are decoded on the event loop: a thread takes longer to be asked."""
_DIGITS: Final = 12
_DESCRIBES: Final = ".dmrpp"
"""What the name of a file ends with that describes another, whose name is the rest."""


class FileParser:
    """Parses files that *access* authorizes, as long as it is entered.

    *disk* keeps what was parsed. *workers* is how many processes there are at most; *memory* is in
    bytes and *seconds* is of time, for one file.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        access: Access,
        disk: DiskCache | None = None,
        *,
        workers: int | None = None,
        memory: int = MEMORY,
        seconds: float = SECONDS,
    ) -> None:
        self._fetcher = fetcher
        self._access = access
        self._disk = disk
        self._memory = memory
        self._seconds = seconds
        cores = len(os.sched_getaffinity(0))
        self._places = trio.CapacityLimiter(workers or min(MAX_WORKERS, cores))
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self.started = 0
        """How many processes were started so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in list(self._all):
            await self._end(process)
        if self._disk is not None:
            await self._disk.written()

    @property
    def processes(self) -> list[int]:
        """The ids of the processes that run."""
        return [process.process.pid for process in self._all]

    async def parse(self, location: Location) -> References:
        """Return what the file at *location* holds; every ref leads there, and names its version.

        Raises AccessDenied, SourceError, and FormatError if it cannot be parsed.
        """
        where = str(location)
        file = _File(self._fetcher, self._access, where)
        try:
            await file.look()
            target = await self._target(location, file)
            name = file.name if target is file else f"{file.name} to {target.name}"
            made = await self._recall(file, name, target.size)
            if made is None:
                made = await self._parse(location, file, target.size, name)
        except FormatError as error:
            raise FormatError(error.kind, error.what, where=where, advice=error.advice) from None
        return made.placed(target.where, target.checksum)

    async def _target(self, location: Location, file: "_File") -> "_File":
        """Return the file that chunks lie in: *file* itself, or the one that it describes."""
        if not location.key.endswith(_DESCRIBES):
            return file
        data = Location(location.scheme, location.authority, location.key.removesuffix(_DESCRIBES))
        target = _File(self._fetcher, self._access, str(data))
        await target.look()
        return target

    async def _parse(self, location: Location, file: "_File", size: int, name: str) -> References:
        head = await file.begin()
        kind = sniff(bytes(head[:HEAD]), location.key)
        if kind is None:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                "it is no kind of file that vzfs knows",
                advice=f"it knows {', '.join(kind.called for kind in Kind)}",
            )
        if kind is Kind.ZIP:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                "it is a ZIP file, which is no file of an archive",
                advice="a hierarchy of Zarr in a ZIP file is a source of its own",
            )
        if (kind is Kind.DMRPP) is not location.key.endswith(_DESCRIBES):
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                f"it is {kind.called} by another name",
                advice=f"what describes the file NAME in DMR++ is called NAME{_DESCRIBES}",
            )
        for module in needs(kind).modules:
            if importlib.util.find_spec(module) is None:
                raise no_library(kind, module)
        job = Job(kind, file.size, self._memory, self._seconds)
        async with self._places:
            made = await self._run(job, file)
        try:
            references = await _decoded(made, size)
        except FormatError as damage:
            raise trouble(f"what parsed it made no sense ({damage.what})") from None
        await self._keep(file, name, made)
        return references

    async def _run(self, job: Job, file: "_File") -> bytearray:
        process = await self._take()
        try:
            return await process.parse(job, file.range)
        finally:
            if process.is_sound:
                self._idle.append(process)
            else:
                await self._end(process)

    async def _take(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.process.poll() is None:
                return process
            await self._end(process)
        process = await Process.start()
        self.started += 1
        self._all.add(process)
        return process

    async def _end(self, process: Process) -> None:
        if process in self._all:
            self._all.remove(process)
            with trio.CancelScope(shield=True):
                await process.end()

    # -- what is kept --------------------------------------------------------------------------

    async def _recall(self, file: "_File", name: str, size: int) -> References | None:
        """Return what was kept under *name*, None if nothing that can be used is."""
        if self._disk is None:
            return None
        length = await self._disk.last_version(name)
        if length is None or not length.isdecimal() or len(length) > _DIGITS:
            return None
        data = await self._disk.get(EntryKey(name, length, 0, int(length)), file.shelf)
        try:
            return None if data is None else await _decoded(data, size)
        except FormatError:
            return None

    async def _keep(self, file: "_File", name: str, made: bytearray) -> None:
        if self._disk is None:
            return
        key = EntryKey(name, str(len(made)), 0, len(made))
        data = memoryview(made).toreadonly()
        if not self._disk.store(key, data, shelf=file.shelf, record=name):
            # Nobody may be writing yet.
            await self._disk.written()
            self._disk.store(key, data, shelf=file.shelf, record=name)


class _File:
    """A file, *size* bytes long, of one version: what it had when it was looked at."""

    checksum: Checksum
    size: int
    name: str
    shelf: str

    def __init__(self, fetcher: Fetcher, access: Access, where: str) -> None:
        self.where: Final = where
        self._fetcher = fetcher
        self._access = access
        self._version: str | None = None
        self._head = memoryview(b"")

    async def look(self) -> None:
        """Learn length and version, and where what it holds is kept. Raises AccessDenied, SourceError."""
        wanted = self._authorized(0, 0, None)
        found = await self._fetcher.stat(wanted)
        if found.checksum is None:
            raise SourceError(
                ErrorKind.SOURCE_MISMATCH,
                "its server does not say which version of the file it has",
                where=self.where,
                advice="without an ETag or a Last-Modified a change of it would not be noticed",
            )
        self.size, self.checksum = found.length, found.checksum
        self.name = _name(wanted, self.size, self.checksum)
        folder, _, _ = self.where.rpartition("/")
        self.shelf = f"parsed {folder}"

    async def begin(self) -> memoryview:
        """Return the beginning of the file, or all of it if it is small."""
        length = self.size if self.size <= SMALL else BLOCK
        self._head = memoryview(await self.range(0, length) if length else b"")
        return self._head

    async def range(self, offset: int, length: int) -> bytes | memoryview:
        """Return a range. Raises AccessDenied, SourceError: also if the file is another by now."""
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        wanted = self._authorized(offset, length, self.checksum)
        data, self._version = await self._fetcher.fetch(wanted, self._version)
        return data

    def _authorized(self, offset: int, length: int, checksum: Checksum | None) -> AuthorizedRange:
        ref = ChunkRef(ChunkKind.VIRTUAL, length, self.where, offset, checksum)
        return self._access.authorize(ref)


def _name(wanted: AuthorizedRange, size: int, checksum: Checksum) -> str:
    """Return what a file of that length and version, parsed by what is installed, is remembered as."""
    store = wanted.store
    if isinstance(checksum, LastModified):
        version = f"modified {checksum.seconds}"
    else:
        version = f"etag {checksum.value}"
    at = f" at {store.endpoint}" if store.endpoint else ""
    of = f" of {store.account}" if store.account else ""
    # What follows the last slash does not say with what a record lies: so no other slash comes there.
    state = urllib.parse.quote(f"{size} {version}{at}{of}", safe=" ")
    return f"parsed {_parsers()} {wanted.location} {state}"


@functools.cache
def _parsers() -> str:
    """Return a name for whatever parses here, which changes where it might make other references."""
    from importlib.metadata import PackageNotFoundError, version

    said = [f"references {FORMAT_VERSION}"]
    for kind in Kind:
        said.append(f"{kind} {needs(kind).version}")
        for package in needs(kind).packages:
            try:
                said.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                said.append(f"no {package}")
    return hashlib.blake2b(" ".join(said).encode(), digest_size=8).hexdigest()


async def _decoded(made: bytes | bytearray | memoryview, size: int) -> References:
    data = memoryview(made)
    if len(data) <= _AT_ONCE:
        return decode_references(data, size)
    return await trio.to_thread.run_sync(decode_references, data, size, abandon_on_cancel=True)
