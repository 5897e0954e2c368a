"""Opening references of kerchunk: a file of JSON, or a folder of Parquet, as a repository of one snapshot.

What a file of JSON says is all known when it is opened. Of a folder, `.zmetadata` is read then, and
each partition when somebody asks for one of its chunks. Where the storage can list, it says at once
which version each partition has, and another is refused later: partitions of two states would make
one array. Where it cannot, `.zmetadata` must still be the one that was opened.

Lengths of whole objects, which references do not say, are asked for with the manifest.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import trio

from vzfs.errors import ErrorKind, FormatError, RepositoryError, SourceError
from vzfs.formats.kerchunk.generating import MAX_GENERATED
from vzfs.formats.kerchunk.jsonfile import Found, decode_references
from vzfs.formats.kerchunk.locations import UNREADABLE
from vzfs.formats.kerchunk.partitions import (
    MAX_METADATA,
    MAX_PARTITION,
    ReferenceSet,
    count_partitions,
    decode_metadata,
    decode_partition,
    regions,
)
from vzfs.formats.kerchunk.rows import Draft, Gathered, draft, flat_indices, joined, picked
from vzfs.formats.kerchunk.scanning import MAX_TEXT
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import Checksum, ETag, LastModified, Prefix, parse_location
from vzfs.model.manifest import ChecksumTable, ChunkKind, Manifest, narrow
from vzfs.model.references import EMPTY, Omission, References, whole
from vzfs.model.snapshot import Array, ManifestRef, WantedArray
from vzfs.repository.documents import Nodes, StoredKeys, read_nodes
from vzfs.repository.fixed import FixedRepository
from vzfs.repository.lengths import NEVER, Lengths
from vzfs.repository.storage import Storage
from vzfs.source import Listed, Stat
from vzfs.views.metadata import Unsaid

METADATA: Final = ".zmetadata"

MAX_PARTITIONS: Final = 2**16
"""Partitions of all arrays of a set: each is a few regions, of some hundred bytes."""
MAX_SPANS: Final = 2**22
"""Spans of all those regions, one for each dimension: some 70 bytes each."""

_decoders = trio.CapacityLimiter(2)
"""Threads that decode references at a time."""


async def open_kerchunk_json(storage: Storage) -> "KerchunkJson":
    """Open the file of references that *storage* is: its key is "". Raises FormatError, RepositoryError."""
    where = storage.place("")
    data = await storage.get("", MAX_TEXT)
    if data is None:
        raise RepositoryError(
            ErrorKind.NOT_A_REPOSITORY, "there is no such file of references", where=where
        )
    written_at = await _written_at(storage)
    lengths = storage.lengths()

    def read() -> KerchunkJson:
        state = hashlib.sha256(data).hexdigest()
        return KerchunkJson(read_json(data, _folder(where)), lengths, where, state, written_at)

    return await in_thread(read, where=where)


async def open_kerchunk_parquet(storage: Storage) -> "KerchunkParquet | None":
    """Open the folder of references that *storage* is, or return None if it is none. Raises FormatError."""
    data = await storage.get(METADATA, MAX_METADATA)
    if data is None or await _decoded(storage, data) is None:
        return None
    files = await Files.open(storage)
    # What was listed counts, and not what was there before.
    data = await files.metadata()
    found = await _decoded(storage, data)
    if found is None:
        return None
    where = storage.place(METADATA).removesuffix(METADATA)
    state = files.state(data)
    return await in_thread(
        KerchunkParquet, found, files, storage.lengths(), where, state, where=where
    )


async def _decoded(storage: Storage, data: bytes) -> ReferenceSet | None:
    return await in_thread(decode_metadata, data, where=storage.place(METADATA))


def _folder(where: str) -> Prefix:
    """Return the folder in which the file or folder *where* lies: relative locations begin there."""
    place = parse_location(where)
    key = place.key.removesuffix("/").rpartition("/")[0]
    return Prefix(place.scheme, place.authority, key)


async def _written_at(storage: Storage) -> int:
    """Return when the file was written, in nanoseconds since the Unix epoch, 0 if nobody says."""
    try:
        found = await storage.stat("")
    except SourceError:
        return 0
    checksum = found and found.checksum
    return checksum.seconds * 10**9 if isinstance(checksum, LastModified) else 0


async def in_thread[*A, R](decode: Callable[[*A], R], *args: *A, where: str) -> R:
    """Call *decode* in a thread. Raises FormatError that names the file at *where*."""
    try:
        return await trio.to_thread.run_sync(
            decode, *args, limiter=_decoders, abandon_on_cancel=True
        )
    except FormatError as error:
        raise FormatError(
            error.kind,
            error.what,
            where=where,
            advice=error.advice or "the file is damaged; make it again, or ask who made it",
        ) from None


# -- JSON ----------------------------------------------------------------------------------------


class KerchunkJson(FixedRepository):
    """The references of one file, *read* at *where*."""

    def __init__(
        self, read: "ReadJson", lengths: Lengths, where: str, state: str, written_at: int
    ) -> None:
        super().__init__(
            read.references, format="kerchunk JSON", where=where, state=state, written_at=written_at
        )
        self._drafts = read.drafts
        self._lengths = lengths

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Return the manifests of the *wanted* arrays. Raises SourceError where lengths are not to be had."""
        return {
            array: await measured(self._drafts[array], self._lengths, asked.grid)
            for array, asked in wanted.items()
        }


class ReadJson(NamedTuple):
    """What a file of references holds: manifests in *references* are those of *drafts*, by the ids of arrays."""

    references: References
    drafts: Mapping[bytes, Draft]


def read_json(
    data: bytes, folder: Prefix, *, limit: int = MAX_TEXT, max_generated: int = MAX_GENERATED
) -> ReadJson:
    """Read a file of references that lies in *folder*. Raises FormatError. No I/O.

    *limit* bounds its text in bytes, *max_generated* the references that it generates.
    """
    found = decode_references(data, folder, limit=limit, max_generated=max_generated)
    if not found.documents:
        raise FormatError(
            ErrorKind.NOT_A_REPOSITORY,
            "the file has no Zarr metadata",
            advice="references of kerchunk have keys like '.zgroup' and 'a/.zarray'",
        )
    nodes = read_nodes(found.documents, whole)
    keys, lost = _by_array(found, nodes)
    omissions = [*nodes.omissions]
    drafts = {}
    for name, stored in nodes.arrays.items():
        drafts[stored.array.id], stray = _drafted(found, stored, keys.get(name, ()))
        omissions += _omitted(stored.array, drafts[stored.array.id].manifest, stray)
    if lost.count:
        omissions.append(Omission("/", f"{lost} to no array"))
    manifests = {name: drafted.manifest for name, drafted in drafts.items()}
    return ReadJson(References(nodes.nodes, manifests, tuple(omissions)), drafts)


@dataclasses.dataclass(slots=True)
class _Stray:
    """References that lead nowhere: how many, and the key of the first."""

    count: int = 0
    first: str = ""

    def add(self, count: int, key: str) -> None:
        self.first = self.first or key
        self.count += count

    def __str__(self) -> str:
        what = "reference belongs" if self.count == 1 else "references belong"
        return f"{self.count} {what} ({'the first: ' * (self.count > 1)}{self.first[:80]!a})"


type _Part = tuple[str, Gathered]
"""Refs, and what stands before the names of their keys within an array."""


def _by_array(found: Found, nodes: Nodes) -> tuple[Mapping[str, Sequence[_Part]], _Stray]:
    """Return the refs of each array by its folder, and what belongs to no array."""
    parts: dict[str, list[_Part]] = {}
    lost = _Stray()
    for folder, gathered in found.refs.items():
        above = folder
        while above and above not in nodes.arrays and above not in nodes.left_out:
            above = above.rpartition("/")[0]
        if above in nodes.arrays:
            before = folder[len(above) :].removeprefix("/")
            parts.setdefault(above, []).append((before and before + "/", gathered))
        elif above not in nodes.left_out:
            lost.add(len(gathered.names), f"{folder}/{gathered.names[0]}".removeprefix("/"))
    return parts, lost


def _drafted(found: Found, stored: StoredKeys, parts: Sequence[_Part]) -> tuple[Draft, _Stray]:
    """Return the draft of an array's manifest, and the keys that are no chunks of its."""
    if not parts:
        return Draft(EMPTY, np.empty(0, np.int64)), _Stray()
    keys = [before + name if before else name for before, refs in parts for name in refs.names]
    grid = stored.array.grid
    flat = flat_indices(keys, grid, stored.encoding)
    columns = joined([refs.columns() for _, refs in parts])
    stray = _Stray()
    inside = np.flatnonzero(flat >= 0)
    if len(inside) < len(flat):
        stray.add(len(flat) - len(inside), keys[int(np.argmax(flat < 0))])
        flat, columns = flat[inside], picked(columns, inside)
    return draft(flat, columns, found.locations, found.inline, grid), stray


def _omitted(array: Array, manifest: Manifest, stray: _Stray) -> Iterator[Omission]:
    """Say which references of an *array* are not shown, and which of its chunks nobody can read."""
    if stray.count:
        yield Omission(array.path, f"{stray} to no chunk of its grid")
    reasons = {i: text for i, text in enumerate(manifest.locations) if text.startswith(UNREADABLE)}
    if reasons:
        is_virtual = manifest.kind == ChunkKind.VIRTUAL
        count = int((np.isin(manifest.location, list(reasons)) & is_virtual).sum())
        reason = next(iter(reasons.values())).removeprefix(f"{UNREADABLE}: ")
        what = "chunk cannot" if count == 1 else "chunks cannot"
        yield Omission(array.path, f"{count} {what} be read: {reason}")


# -- Parquet -------------------------------------------------------------------------------------


class Files:
    """The files of a folder of references, as they were when it was opened.

    *listed* are they by their names, None where the storage cannot list; *metadata* is the version
    of `.zmetadata` then.
    """

    def __init__(
        self,
        storage: Storage,
        listed: Mapping[str, Listed] | None,
        metadata: Checksum | None,
    ) -> None:
        self._storage = storage
        self._listed = listed
        self._metadata = metadata

    @classmethod
    async def open(cls, storage: Storage) -> "Files":
        """Look at what is there. Raises SourceError."""
        try:
            listed = {found.key: found for found in await storage.objects("")}
        except SourceError as error:
            if error.kind is not ErrorKind.CANNOT_LIST:
                raise
            listed = {}
        if METADATA in listed:
            return cls(storage, listed, listed[METADATA].checksum)
        stat = await storage.stat(METADATA)
        return cls(storage, None, stat and stat.checksum)

    async def metadata(self) -> bytes:
        """Return `.zmetadata`. Raises SourceError if it is another by now."""
        return await self._get(METADATA, MAX_METADATA, self._metadata)

    async def partition(self, key: str) -> bytes | None:
        """Return a file, None if there is none. Raises SourceError if it is another by now."""
        if self._listed is not None:
            listed = self._listed.get(key)
            return listed and await self._get(key, MAX_PARTITION, listed.checksum)
        data = await self._storage.get(key, MAX_PARTITION)
        now = await self._storage.stat(METADATA)
        if now is None or now.checksum != self._metadata:
            raise self._changed(METADATA)
        return data

    def state(self, metadata: bytes) -> str:
        """Return the name of the state that these files are in, with this `.zmetadata`."""
        digest = hashlib.sha256(metadata)
        for key, found in sorted((self._listed or {}).items()):
            digest.update(f"{key!a} {found.length} {found.checksum}\n".encode())
        return digest.hexdigest()

    async def _get(self, key: str, max_length: int, checksum: Checksum | None) -> bytes:
        data = await self._storage.get(key, max_length, checksum)
        if data is None:
            raise self._changed(key)
        return data

    def _changed(self, key: str) -> SourceError:
        return SourceError(
            ErrorKind.SOURCE_CHANGED,
            "the references were written anew since they were opened",
            where=self._storage.place(key),
            advice="mount them again",
        )


class KerchunkParquet(FixedRepository):
    """A set of references in the *files* of the folder *where*; each partition is a manifest."""

    def __init__(
        self,
        found: ReferenceSet,
        files: Files,
        lengths: Lengths,
        where: str,
        state: str,
    ) -> None:
        self._left = MAX_PARTITIONS
        self._spans_left = MAX_SPANS
        self._record_size = found.record_size
        nodes = read_nodes(found.documents, self._partitions)
        omissions = list(nodes.omissions)
        if found.others:
            stray = _Stray(len(found.others), found.others[0])
            omissions.append(Omission("/", f"{stray} to no document"))
        super().__init__(
            References(nodes.nodes, {}, tuple(omissions)),
            format="kerchunk Parquet",
            where=where,
            state=state,
            written_at=0,
        )
        self.containers = None
        self._folder = _folder(where)
        self._files = files
        self._lengths = lengths

    def _partitions(self, path: str, grid: ChunkGrid) -> Sequence[ManifestRef]:
        """Return the partitions of an array, and what each speaks for. Raises Unsaid if they are too many."""
        count = count_partitions(grid, self._record_size)
        if count > self._left:
            raise Unsaid(
                f"its references are in {count} files of {self._record_size}: "
                f"a set may have {MAX_PARTITIONS} files; write it with a larger record size"
            )
        found, spans_left = [], self._spans_left
        for partition in range(count):
            for extents in regions(grid, self._record_size, partition):
                found.append(ManifestRef(f"{path}/refs.{partition}", extents))
                spans_left -= len(extents.ranges)
            if spans_left < 0:
                raise Unsaid(
                    f"what its {count} partitions speak for takes too much memory, with "
                    f"{len(grid.shape)} dimensions; write it with a larger record size"
                )
        self._left -= count
        self._spans_left = spans_left
        return found

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Read one partition. It belongs to one array."""
        ((array, asked),) = wanted.items()
        key = f"{manifest_id.lstrip('/')}.parq"
        data = await self._files.partition(key)
        if data is None:
            return {array: EMPTY}
        partition = int(manifest_id.rpartition(".")[2])
        found = await in_thread(
            decode_partition,
            data,
            partition,
            self._record_size,
            asked.grid,
            self._folder,
            where=f"{self._where}{key}",
        )
        return {array: await measured(found, self._lengths, asked.grid)}


# -- whole objects -------------------------------------------------------------------------------


async def measured(found: Draft, lengths: Lengths, grid: ChunkGrid) -> Manifest:
    """Return the manifest of which *found* is a draft, with the lengths of whole objects.

    Such a ref gets the version that was measured; one to an object that is not there, a version that
    none has, and the size of a decoded chunk. Raises SourceError where nobody can tell.
    """
    manifest, rows = found
    if not len(rows):
        return manifest
    codes = manifest.location[rows].astype(np.int64)
    used, numbers = np.unique(codes, return_inverse=True)
    texts = [manifest.locations[int(i)] for i in used]
    known = await lengths.find(texts)
    stats = [known[text] or Stat(grid.max_chunk_nbytes, NEVER) for text in texts]
    told = {stat.checksum for stat in stats if stat.checksum is not None}
    versions = sorted(told, key=lambda c: not isinstance(c, ETag))
    order: dict[Checksum | None, int] = {None: 0}
    order |= {version: number for number, version in enumerate(versions, 1)}
    length, checksum = (column.astype(np.int64) for column in (manifest.length, manifest.checksum))
    length[rows] = np.array([stat.length for stat in stats], np.int64)[numbers]
    checksum[rows] = np.array([order[stat.checksum] for stat in stats], np.int64)[numbers]
    return Manifest(
        index=manifest.index,
        kind=manifest.kind,
        location=manifest.location,
        offset=manifest.offset,
        length=narrow(length),
        checksum=narrow(checksum),
        locations=manifest.locations,
        checksums=ChecksumTable.of(versions),
        inline=manifest.inline,
    )
