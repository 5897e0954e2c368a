"""Plain Zarr as a repository: a hierarchy of Zarr v2 or v3 in a folder, an object store or on a web server.

It has one snapshot, named after the metadata that was found, and its chunks are whole objects. Which
there are is found out when their names are first asked for, and holds from then on: a chunk that
is written anew is another version, and is not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import trio

from vzfs.model.manifest import Manifest
from vzfs.model.references import References
from vzfs.model.snapshot import Array, Node, WantedArray
from vzfs.repository.fixed import FixedRepository
from vzfs.repository.storage import Storage
from vzfs.repository.zarrchunks import (
    ChunkKeys,
    ask_for_chunks,
    keys_of,
    list_chunks,
    manifests_of,
    regions_to_ask,
    regions_to_list,
)
from vzfs.repository.zarrnodes import Hierarchy, find_hierarchy
from vzfs.repository.zarrzip import open_zarr_zip

__all__ = ["ZarrRepository", "open_zarr", "open_zarr_zip"]


async def open_zarr(storage: Storage) -> "ZarrRepository | None":
    """Open the hierarchy at the storage's place, None if there is none. Raises VzfsError."""
    found = await find_hierarchy(storage)
    if found is None:
        return None
    root = await storage.stat(found.root)
    modified = 0 if root is None else root.modified or 0
    # The regions of many large arrays take seconds to tell.
    return await trio.to_thread.run_sync(ZarrRepository, storage, found, modified)


class ZarrRepository(FixedRepository):
    """The hierarchy that was *found* in *storage*; its root was written at *modified*, in seconds since the Unix epoch."""

    def __init__(self, storage: Storage, found: Hierarchy, modified: int) -> None:
        self._storage: Final = storage
        self._keys: Final = keys_of(found.nodes, found.encodings)
        self._look = list_chunks if found.is_listed else ask_for_chunks
        super().__init__(
            References(_divided(found.nodes, self._keys, found.is_listed), {}, found.omissions),
            format=f"Zarr v{found.version}",
            where=storage.place(""),
            state=found.state,
            written_at=modified * 10**9,
        )

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Find out which chunks the *wanted* arrays have in their one region. Raises SourceError."""
        return {
            array: await self._look(self._storage, self._keys[array], *asked.extents)
            for array, asked in wanted.items()
        }


def _divided(
    nodes: tuple[Node, ...], keys: Mapping[bytes, ChunkKeys], is_listed: bool
) -> tuple[Node, ...]:
    """Return the nodes with arrays that have a manifest for each region in which chunks are looked for."""
    arrays = [node for node in nodes if isinstance(node, Array) and not node.problem]
    if is_listed:
        regions = [regions_to_list(keys[array.id]) for array in arrays]
    else:
        regions = list(regions_to_ask([array.grid for array in arrays]))
    divided = {
        array.path: dataclasses.replace(array, manifests=manifests_of(array.path, extents))
        for array, extents in zip(arrays, regions, strict=True)
    }
    return tuple(divided.get(node.path, node) for node in nodes)
