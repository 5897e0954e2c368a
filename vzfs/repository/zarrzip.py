"""Plain Zarr in a ZIP file: chunks are parts of it, where they are stored as they are.

The directory at the end of the file is read by ranges, and a few bytes before each chunk when its
region is first looked at. A chunk that the ZIP file compresses (with DEFLATE, raw) is the beginning
of no stream that a reader of Zarr knows, and how it goes on depends on all of its bytes. So those of
small arrays are unpacked and held in memory, and large arrays of such chunks are left out.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from vzfs.errors import ErrorKind, FormatError, RepositoryError, SourceError
from vzfs.formats.zip import (
    DEFLATED,
    MAX_MEMBERS,
    STORED,
    TAIL,
    Directory,
    Member,
    data_offset,
    find_directory,
    read_directory,
    unpack,
)
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.references import ManifestBuilder, Omission, References
from vzfs.model.snapshot import Array, Extents, Node, WantedArray
from vzfs.repository.fixed import FixedRepository
from vzfs.repository.lengths import ask_each
from vzfs.repository.storage import Storage
from vzfs.repository.zarrchunks import ChunkKeys, keys_of, manifests_of, regions_to_ask
from vzfs.repository.zarrnodes import Hierarchy, find_hierarchy, omission
from vzfs.source import Listed, Stat

MAX_INLINED: Final = 2**24
"""Bytes of an array whose compressed chunks are held in memory, unpacked."""
MAX_INLINED_TOGETHER: Final = 2**26
"""Bytes of all such arrays; small ones come first."""
MAX_HEADERS: Final = 2**17
"""Bytes that are read at a time for the headers of chunks which lie close together."""

MAX_NAMES: Final = 2**28
"""Characters of the paths of all folders."""

_EXTRA: Final = 64
"""Bytes that are read along with a document, for what may stand before it."""


async def open_zarr_zip(storage: Storage) -> "ZippedRepository":
    """Open the hierarchy in the ZIP file at the storage's place. Raises SourceError, FormatError, RepositoryError."""
    try:
        store = await _ZipStore.open(storage)
    except FormatError as error:
        where = storage.place("").removesuffix("/")
        raise FormatError(error.kind, error.what, where=where, advice=error.advice) from None
    found = await find_hierarchy(store)
    folder = store.sole_folder()
    if found is None and folder:
        store = store.below(folder)
        found = await find_hierarchy(store)
    if found is None:
        raise RepositoryError(
            ErrorKind.NOT_A_REPOSITORY,
            "the ZIP file holds no Zarr hierarchy",
            where=storage.place("").removesuffix("/"),
        )
    chunks, omissions = await trio.to_thread.run_sync(_chunks, store, found)
    return await trio.to_thread.run_sync(ZippedRepository, store, found, chunks, omissions)


class ZippedRepository(FixedRepository):
    """The hierarchy *found* in a ZIP file: of its arrays those that *chunks* knows; *omissions* are the others."""

    def __init__(
        self,
        store: "_ZipStore",
        found: Hierarchy,
        chunks: "Mapping[bytes, Chunks]",
        omissions: Sequence[Omission],
    ) -> None:
        self._store: Final = store
        self._keys: Final = keys_of(found.nodes, found.encodings)
        self._chunks: Final = chunks
        nodes = [n for n in found.nodes if not isinstance(n, Array) or n.id in chunks]
        super().__init__(
            References(_divided(nodes), {}, (*found.omissions, *omissions)),
            format=f"Zarr v{found.version} in a ZIP file",
            where=store.place("").removesuffix("/"),
            state=hashlib.sha256(f"{found.state} {store.state}".encode()).hexdigest()[:40],
            written_at=(store.stat.modified or 0) * 10**9,
        )

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Return where the chunks are that the *wanted* arrays have in their one region. Raises VzfsError."""
        return {array: await self._region(array, *asked.extents) for array, asked in wanted.items()}

    async def _region(self, array: bytes, extents: Extents) -> Manifest:
        keys, chunks = self._keys[array], self._chunks[array]
        members = dict(_within(chunks, extents))
        offsets = await self._store.offsets(list(members.values()))
        unpacked = await ask_each(
            [(flat, m) for flat, m in _flat(keys, members) if m.method == DEFLATED],
            lambda chunk: self._store.read(chunk[1], MAX_INLINED),
        )
        found = ManifestBuilder()
        for flat, member in _flat(keys, members):
            data = unpacked.get((flat, member))
            if data is not None:
                found.add(flat, ChunkRef(ChunkKind.INLINE, len(data), inline=data))
            else:
                ref = self._store.ref(offsets[member.local], member.compressed)
                found.add(flat, ref)
        return found.build()


type Chunks = Mapping[tuple[int, ...], Member]
"""The members that are the chunks of an array, by their coordinates."""


def _flat(
    keys: ChunkKeys, members: Mapping[tuple[int, ...], Member]
) -> Iterator[tuple[int, Member]]:
    return ((keys.grid.ravel(coords), member) for coords, member in members.items())


def _within(chunks: Chunks, extents: Extents) -> Iterator[tuple[tuple[int, ...], Member]]:
    """Yield the *chunks* in *extents*, in time of whichever are fewer."""
    ranges = extents.ranges
    if math.prod(high - low for low, high in ranges) <= len(chunks):
        for coords in itertools.product(*(range(low, high) for low, high in ranges)):
            if coords in chunks:
                yield coords, chunks[coords]
        return
    for coords, member in chunks.items():
        if all(low <= c < high for c, (low, high) in zip(coords, ranges, strict=True)):
            yield coords, member


def _divided(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return *nodes*, their arrays divided into small regions: each chunk's header is read for its place."""
    arrays = [node for node in nodes if isinstance(node, Array) and not node.problem]
    regions = regions_to_ask([array.grid for array in arrays])
    divided = {
        array.path: dataclasses.replace(array, manifests=manifests_of(array.path, extents))
        for array, extents in zip(arrays, regions, strict=True)
    }
    return tuple(divided.get(node.path, node) for node in nodes)


def _chunks(
    store: "_ZipStore", found: Hierarchy
) -> tuple[Mapping[bytes, Chunks], Sequence[Omission]]:
    """Return the chunks of each array, and which arrays are left out for how their chunks are packed."""
    chunks: dict[bytes, Chunks] = {}
    packed: list[tuple[int, bytes, str]] = []
    omissions: list[Omission] = []
    for array, keys in keys_of(found.nodes, found.encodings).items():
        own = dict(store.chunks(keys))
        methods = {member.method for member in own.values()}
        if methods - {STORED, DEFLATED}:
            method = min(methods - {STORED, DEFLATED})
            reason = f"the ZIP file compresses its chunks by method {method}, which is not known"
            omissions.append(omission(keys.folder, reason))
            continue
        chunks[array] = own
        if DEFLATED in methods:
            size = sum(member.size for member in own.values() if member.method == DEFLATED)
            packed.append((size, array, keys.folder))
    together = 0
    for size, array, path in sorted(packed):
        together += size
        if size > MAX_INLINED or together > MAX_INLINED_TOGETHER:
            reason = (
                f"the ZIP file compresses its chunks ({size} bytes), so that they cannot be read from "
                "within it: write it without compression (zip -0)"
            )
            omissions.append(omission(path, reason))
            del chunks[array]
    return chunks, omissions


class _Archive(NamedTuple):
    """A ZIP file as it was when it was opened."""

    storage: Storage
    stat: Stat
    directory: Directory
    state: str


class _ZipStore:
    """The members of an *archive* as a store of objects, below *folder*."""

    def __init__(
        self, archive: _Archive, folders: Mapping[str, Mapping[str, Member | None]], folder: str
    ) -> None:
        self._archive = archive
        self._folders = folders
        self._folder = folder

    @classmethod
    async def open(cls, storage: Storage) -> "_ZipStore":
        """Read the directory of the file at the storage's place. Raises SourceError, FormatError."""
        stat = await storage.stat("")
        if stat is None:
            raise SourceError(
                ErrorKind.SOURCE_VANISHED, "the file does not exist", where=storage.place("")
            )
        length = min(stat.length, TAIL)
        tail = await storage.part("", stat.length - length, length, stat.checksum)
        directory = find_directory(tail, stat.length)
        start = directory.offset - (stat.length - length)
        if start >= 0:
            data = tail[start : start + directory.size]
        else:
            data = await storage.part("", directory.offset, directory.size, stat.checksum)
        state = hashlib.sha256(data).hexdigest()
        folders = await trio.to_thread.run_sync(_folders, data, directory)
        return cls(_Archive(storage, stat, directory, state), folders, "")

    def below(self, folder: str) -> "_ZipStore":
        """Return the members below *folder* as a store of their own."""
        return _ZipStore(self._archive, self._folders, folder)

    def sole_folder(self) -> str:
        """Return the one folder that all members are in, "" if there is none."""
        names = list(self._folders.get("", ()))
        return names[0].removesuffix("/") if len(names) == 1 and names[0].endswith("/") else ""

    @property
    def stat(self) -> Stat:
        """Length and version of the file."""
        return self._archive.stat

    @property
    def state(self) -> str:
        """A digest of the directory."""
        return self._archive.state

    def place(self, key: str) -> str:
        """Return where *key* is, for people."""
        return self._archive.storage.place("").removesuffix("/") + (f"/{key}" if key else "")

    async def get(self, key: str, max_length: int) -> bytes | None:
        """Return a member unpacked, None if there is none. Raises SourceError, FormatError."""
        folder, _, name = _join(self._folder, key).rpartition("/")
        member = self._folders.get(folder, {}).get(name)
        return None if member is None else await self.read(member, max_length)

    async def objects(self, key: str, *, deep: bool = True) -> Sequence[Listed]:
        """Return the members and folders right below *key*. It is never asked for more."""
        if deep:
            raise ValueError("members are listed one level at a time")
        members = self._folders.get(_join(self._folder, key), {})
        return [Listed(name, 0 if m is None else m.size) for name, m in members.items()]

    def chunks(self, keys: ChunkKeys) -> Iterator[tuple[tuple[int, ...], Member]]:
        """Yield the members that are chunks of an array, with their coordinates."""
        inner, deep = keys.listed(Extents(tuple((0, count) for count in keys.grid.shape)))
        pending = [inner]
        while pending:
            folder = pending.pop()
            members = self._folders.get(_join(self._folder, _join(keys.folder, folder)), {})
            for name, member in members.items():
                if member is None:
                    pending += [_join(folder, name[:-1])] if deep else []
                    continue
                coords = keys.encoding.decode(_join(folder, name), len(keys.grid.shape))
                if coords is not None and keys.grid.contains(coords):
                    yield coords, member

    def ref(self, offset: int, length: int) -> ChunkRef:
        """Return the ref of a part of the file."""
        return ChunkRef(ChunkKind.NATIVE, length, "", offset, self._archive.stat.checksum)

    async def read(self, member: Member, max_length: int) -> bytes:
        """Return a member unpacked, of at most so many bytes. Raises SourceError, FormatError."""
        if max(member.size, member.compressed) > max_length:
            raise SourceError(
                ErrorKind.SOURCE_MISMATCH,
                f"{member.size} bytes, of at most {max_length}",
                where=self._place(member),
            )
        limit = self._archive.directory.offset - member.local
        length = min(member.header + _EXTRA + member.compressed, limit)
        data = await self._part(member.local, length)
        start = self._start(data, member) - member.local
        end = start + member.compressed
        if end > length:
            data += await self._part(member.local + length, end - length)
        try:
            return await trio.to_thread.run_sync(unpack, data[start:end], member)
        except FormatError as error:
            raise self._damaged(error, member) from None

    async def offsets(self, members: Sequence[Member]) -> dict[int, int]:
        """Return where the bytes of *members* begin, by where their headers are. Raises SourceError, FormatError."""
        groups: list[list[Member]] = []
        for member in sorted(members, key=lambda m: m.local):
            end = member.local + member.header
            if not groups or end - groups[-1][0].local > MAX_HEADERS:
                groups.append([])
            groups[-1].append(member)
        found: dict[int, int] = {}

        async def look(number: int) -> None:
            group = groups[number]
            start = group[0].local
            end = max(member.local + member.header for member in group)
            data = await self._part(start, end - start)
            for member in group:
                header = data[member.local - start :][: member.header]
                found[member.local] = self._start(header, member)

        await ask_each(range(len(groups)), look)
        return found

    def _start(self, header: bytes, member: Member) -> int:
        """Return where the bytes of *member* begin. Raises FormatError."""
        try:
            return data_offset(header, member, self._archive.directory)
        except FormatError as error:
            raise self._damaged(error, member) from None

    def _place(self, member: Member) -> str:
        archive = self._archive.storage.place("").removesuffix("/")
        return f"{archive}/{member.raw.decode('utf-8', 'replace')}"

    def _damaged(self, error: FormatError, member: Member) -> FormatError:
        return FormatError(error.kind, error.what, where=self._place(member))

    async def _part(self, offset: int, length: int) -> bytes:
        archive = self._archive
        return await archive.storage.part("", offset, length, archive.stat.checksum)


def _folders(data: bytes, directory: Directory) -> Mapping[str, Mapping[str, Member | None]]:
    """Return what is in each folder, by names; those of folders end in a slash and have no member."""
    folders: dict[str, dict[str, Member | None]] = {"": {}}
    for path, member in read_directory(data, directory).items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = member
    length = sum(map(len, folders))
    for folder in list(folders):
        while folder:
            above, _, name = folder.rpartition("/")
            within = folders.setdefault(above, {})
            if f"{name}/" in within:
                break
            within[f"{name}/"] = None
            folder = above
            # Each is in memory with its whole path.
            length += len(above)
        if len(folders) > MAX_MEMBERS or length > MAX_NAMES:
            raise FormatError(
                ErrorKind.CORRUPT_METADATA,
                f"the ZIP file has more than {MAX_MEMBERS} folders, or {MAX_NAMES} characters of their paths",
            )
    return folders


def _join(folder: str, key: str) -> str:
    return f"{folder}/{key}" if folder and key else folder or key
