"""Small coordinates of a hierarchy within it, so that opening it asks no file, and comparing with it neither."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from vzfs.joining.described import Documents
from vzfs.joining.gathering import each
from vzfs.joining.refusal import JoinError
from vzfs.joining.values import Read, Undecodable, bytes_of, nbytes_of, rewritten, values_of
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.references import ManifestBuilder, References
from vzfs.model.snapshot import Array, Node
from vzfs.views.metadata import ArrayMetadata

DEFAULT_LIMIT: Final = 4 * 2**20
"""Bytes of a coordinate that is inlined: the corners of a grid of a quarter of a million cells."""
_NAMING: Final = ("coordinates", "bounds", "climatology", "grid_mapping")
"""Attributes that name the variables without which others mean nothing."""


async def inline_coordinates(
    references: References, read: Read, limit: int = DEFAULT_LIMIT
) -> tuple[References, list[str]]:
    """Return *references* with coordinates of at most *limit* bytes inlined, and the paths of these.

    Coordinates are variables named like their one dimension, those without dimensions, and those that
    others name as their coordinates, bounds or grid mapping. One that is one chunk is inlined as it is,
    others as plain numbers in one chunk, where their codecs are decoded here. Raises what *read* raises.
    """
    documents = Documents()
    arrays: dict[str, tuple[Array, ArrayMetadata]] = {}
    for node in references.nodes:
        if isinstance(node, Array):
            try:
                arrays[node.path] = node, documents.of(node, "")
            except JoinError:
                continue  # What cannot be understood stays as it is.
    wanted = sorted(_coordinates({path: metadata for path, (_, metadata) in arrays.items()}))
    nodes: dict[str, Node] = {}
    manifests = dict(references.manifests)

    async def look(path: str) -> None:
        array, metadata = arrays[path]
        manifest = references.manifests[array.id]
        if not (manifest.kind == ChunkKind.VIRTUAL).any():
            return
        if int(manifest.length.sum(dtype="u8")) > limit:
            return
        made, inlined = array, None
        if len(manifest) > 1 and nbytes_of(metadata) <= limit:
            try:
                values = await values_of(array, metadata, manifest, read)
            except Undecodable:
                pass  # It is inlined as it is.
            else:
                made, inlined = rewritten(path, metadata, values, "")
        nodes[path] = made
        manifests[array.id] = inlined or await _as_it_is(manifest, read)

    await each(wanted, look)
    kept = tuple(nodes.get(node.path, node) for node in references.nodes)
    return dataclasses.replace(references, nodes=kept, manifests=manifests), sorted(nodes)


def _coordinates(arrays: Mapping[str, ArrayMetadata]) -> Iterable[str]:
    """Return the paths of the coordinates among *arrays*."""
    found: set[str] = set()
    for path, metadata in arrays.items():
        folder, _, name = path.rpartition("/")
        if not metadata.shape or metadata.dimension_names == [name]:
            found.add(path)
        for attribute in _NAMING:
            named = metadata.attributes.get(attribute)
            if isinstance(named, str):
                found |= {f"{folder}/{word}" for word in named.replace(":", " ").split()}
    return found & arrays.keys()


async def _as_it_is(manifest: Manifest, read: Read) -> Manifest:
    builder = ManifestBuilder()
    for row, flat in enumerate(manifest.indices(0, len(manifest)).tolist()):
        data = bytes(await bytes_of(manifest.ref(row), read))
        builder.add(flat, ChunkRef(ChunkKind.INLINE, len(data), inline=data))
    return builder.build()
