"""The chunks of plain Zarr: whole objects, found by their keys; and the regions in which they are looked for.

Where a store lists, one listing of an array's folder tells which chunks there are, how long they are
and which version each is of. Of very large arrays each folder of chunks is a region of its own.
Where a store does not list, each chunk of a region is asked for, and regions are small, so that who
reads one chunk asks for few. That an object does not exist is then for the store to say, by a 404:
where it denies an object instead, as buckets do that may not be listed, the name exists and reading
it fails.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from vzfs.errors import ErrorKind, SourceError
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.manifest import ChunkKind, Manifest
from vzfs.model.references import ManifestBuilder
from vzfs.model.snapshot import Array, Extents, ManifestRef, Node
from vzfs.repository.lengths import ask_each, whole_object
from vzfs.repository.storage import Storage
from vzfs.source import Listed, Stat

LISTED: Final = 50_000
"""Chunks up to which an array is one region where the store lists: 50 pages."""
MAX_FOLDERS: Final = 4096
"""Regions of one array, each a folder with its own listing."""
ASKED: Final = 16
"""Chunks of a region where each is asked for: one round of questions for who reads one of them."""
MAX_REGIONS: Final = 2**16
"""Such regions of all arrays together, some 40 MB. If there were more, each has more chunks."""
MAX_ASKED: Final = 100_000
"""Chunks of a region that are asked for: beyond that, nobody would wait for the answers."""

_AT_ONCE: Final = 1000
"""Objects of a listing that are parsed on the event loop: a thread takes longer to be asked."""


class ChunkKeys(NamedTuple):
    """How the keys of an array's chunks are written: below *folder*, in this *encoding*."""

    folder: str
    encoding: ChunkKeyEncoding
    grid: ChunkGrid

    def key(self, coords: tuple[int, ...]) -> str:
        """Return the key of the chunk at *coords*."""
        return _join(self.folder, self.encoding.encode(coords))

    def listed(self, extents: Extents) -> tuple[str, bool]:
        """Return which folder below the array's to list for the chunks in *extents*, and whether deeply."""
        ndim = len(self.grid.shape)
        if self.encoding.separator == "." or not ndim:
            return "", False
        ones = itertools.takewhile(lambda span: span[1] - span[0] == 1, extents.ranges[:-1])
        prefix = [str(low) for low, _ in ones]
        first = ["c"] if self.encoding.style is KeyStyle.DEFAULT else []
        return "/".join([*first, *prefix]), ndim - len(prefix) > 1


def keys_of(
    nodes: Iterable[Node], encodings: Mapping[bytes, ChunkKeyEncoding]
) -> dict[bytes, ChunkKeys]:
    """Return how the keys of each array are written, by its id."""
    return {
        node.id: ChunkKeys(node.path[1:], encodings[node.id], node.grid)
        for node in nodes
        if isinstance(node, Array)
    }


def manifests_of(path: str, regions: Sequence[Extents]) -> tuple[ManifestRef, ...]:
    """Return what the array at *path* says that has a manifest for each of its *regions*."""
    return tuple(ManifestRef(f"{path}#{n}", extents) for n, extents in enumerate(regions))


def regions_to_list(keys: ChunkKeys) -> Sequence[Extents]:
    """Return the regions of an array whose folders are listed apart."""
    shape = keys.grid.shape
    if keys.encoding.separator == "/" and keys.grid.size > LISTED:
        for axis in range(1, len(shape)):
            if math.prod(shape[:axis]) > MAX_FOLDERS:
                break
            if math.prod(shape[axis:]) <= LISTED or axis == len(shape) - 1:
                return _boxes(shape, [1] * axis + list(shape[axis:]))
    return _boxes(shape, shape)


def regions_to_ask(grids: Sequence[ChunkGrid]) -> Sequence[Sequence[Extents]]:
    """Return the regions of each of the arrays with these *grids*, whose chunks are asked for one by one."""
    most = ASKED
    while sum(_count(grid.shape, _edges(grid.shape, most)) for grid in grids) > MAX_REGIONS:
        most *= 2
        if most > 2**63:
            break
    return [_boxes(grid.shape, _edges(grid.shape, most)) for grid in grids]


def _edges(shape: Sequence[int], most: int) -> list[int]:
    """Return the shape of a box of at most so many chunks: whole rows, and then as many of them as fit."""
    edges = []
    for count in reversed(shape):
        edge = max(min(count, most), 1)
        edges.append(edge)
        most //= edge
    return edges[::-1]


def _count(shape: Sequence[int], edges: Sequence[int]) -> int:
    return math.prod(-(-count // edge) for count, edge in zip(shape, edges, strict=True))


def _boxes(shape: Sequence[int], edges: Sequence[int]) -> Sequence[Extents]:
    axes = [
        [(low, min(low + edge, count)) for low in range(0, count, edge)] if edge else [(0, count)]
        for count, edge in zip(shape, edges, strict=True)
    ]
    return [Extents(ranges) for ranges in itertools.product(*axes)]


# -- looking -----------------------------------------------------------------------------------


async def list_chunks(store: Storage, keys: ChunkKeys, extents: Extents) -> Manifest:
    """Return the chunks in *extents* by a listing. Raises SourceError."""
    folder, deep = keys.listed(extents)
    place = _join(keys.folder, folder)
    listed = await store.objects(place, deep=deep)
    if any(o.checksum is None and o.length is not None for o in listed):
        listed = await _versioned(store, place, listed)
    if len(listed) <= _AT_ONCE:
        return chunks_of(listed, keys, extents, folder)
    return await trio.to_thread.run_sync(chunks_of, listed, keys, extents, folder)


async def _versioned(store: Storage, place: str, listed: Sequence[Listed]) -> Sequence[Listed]:
    """Return the objects *listed* below *place*, having asked for those of which no version is listed.

    Without one, bytes of another version would be taken for theirs. Raises SourceError.
    """
    untold = [o.key for o in listed if o.checksum is None and o.length is not None]
    if len(untold) > MAX_ASKED:
        raise _too_many(store, place, len(untold))
    answers = await ask_each(untold, lambda key: _ask(store, _join(place, key)))
    found = [o for o in listed if o.key not in answers]
    for key, answer in answers.items():
        if answer is not None:
            found.append(Listed(key, *(answer[0] or (None, None))[:2]))
    return found


def chunks_of(
    listed: Iterable[Listed], keys: ChunkKeys, extents: Extents, folder: str = ""
) -> Manifest:
    """Return those of the objects *listed* below *folder* that are chunks in *extents*; others are ignored."""
    found = ManifestBuilder()
    grid, ndim, ranges = keys.grid, len(keys.grid.shape), extents.ranges
    for key, length, checksum in listed:
        relative = _join(folder, key)
        coords = keys.encoding.decode(relative, ndim)
        if coords is None or not all(
            low <= c < high for c, (low, high) in zip(coords, ranges, strict=True)
        ):
            continue
        stat = None if length is None else Stat(length, checksum)
        place = _join(keys.folder, relative)
        found.add(
            grid.ravel(coords), whole_object(ChunkKind.NATIVE, place, stat, grid.max_chunk_nbytes)
        )
    return found.build()


async def ask_for_chunks(store: Storage, keys: ChunkKeys, extents: Extents) -> Manifest:
    """Return the chunks in *extents*, each of which is asked for. Raises SourceError."""
    size = math.prod(high - low for low, high in extents.ranges)
    if size > MAX_ASKED:
        raise _too_many(store, keys.folder, size)
    coordinates = itertools.product(*(range(low, high) for low, high in extents.ranges))
    answers = await ask_each(coordinates, lambda coords: _ask(store, keys.key(coords)))
    found = ManifestBuilder()
    for coords, answer in answers.items():
        if answer is not None:
            ref = whole_object(
                ChunkKind.NATIVE, keys.key(coords), answer[0], keys.grid.max_chunk_nbytes
            )
            found.add(keys.grid.ravel(coords), ref)
    return found.build()


async def _ask(store: Storage, key: str) -> tuple[Stat | None] | None:
    """Return what an object is, (None,) if that is denied, and None if there is none. Raises SourceError."""
    try:
        stat = await store.stat(key)
    except SourceError as error:
        if error.kind is not ErrorKind.SOURCE_DENIED:
            raise
        return (None,)
    return None if stat is None else (stat,)


def _too_many(store: Storage, key: str, count: int) -> SourceError:
    return SourceError(
        ErrorKind.CANNOT_LIST,
        f"{count} chunks would have to be asked for one by one",
        where=store.place(key),
        advice="read it from a store that can be listed, with versions",
    )


def _join(folder: str, key: str) -> str:
    return f"{folder}/{key}" if folder and key else folder or key
