"""What has to be written so that a branch has what files hold: documents, refs and containers. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vzfs.archival.building import plain
from vzfs.formats.zarr import parse_array_document
from vzfs.ingest.containers import containers_for
from vzfs.joining import JoinError
from vzfs.model.location import Prefix
from vzfs.model.manifest import ChunkKind, Column, Manifest
from vzfs.model.references import References, array_id
from vzfs.model.snapshot import Array, Group
from vzfs.views.metadata import Unsaid, dump, read_v3_array, read_v3_group

_KEYS = {"name": "default", "configuration": {"separator": "/"}}


class ArrayChange(NamedTuple):
    """An array that is written: its *document*, and those *rows* of its manifest that the branch does not have.

    *grid* is the shape of its chunk grid. With *is_replaced* what the branch has of it goes first.
    """

    path: str
    document: bytes
    grid: tuple[int, ...]
    manifest: Manifest
    rows: Column[np.int64]
    is_new: bool
    is_replaced: bool


class Changes(NamedTuple):
    """All that one commit changes. *containers* have to be declared for it."""

    groups: Mapping[str, bytes]
    arrays: Sequence[ArrayChange]
    containers: Sequence[Prefix]

    @property
    def chunks(self) -> Mapping[ChunkKind, int]:
        """How many refs of each kind are written."""
        counts = dict.fromkeys(ChunkKind, 0)
        for change in self.arrays:
            kinds, numbers = np.unique(change.manifest.kind[change.rows], return_counts=True)
            for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True):
                counts[ChunkKind(kind)] += number
        return counts


def changes_for(
    wanted: References, existing: References | None = None, declared: Sequence[str] = ()
) -> Changes:
    """Return what makes *wanted* of *existing*, which stays but for what is longer in it, or other.

    *declared* are the containers of the repository. Raises JoinError for what cannot be written.
    """
    old = {} if existing is None else {node.path: node for node in existing.nodes}
    groups: dict[str, bytes] = {}
    arrays: list[ArrayChange] = []
    for node in wanted.nodes:
        if isinstance(node, Group):
            if node.path not in old:
                groups[node.path] = _group_document(node)
            continue
        manifest = wanted.manifests[node.id]
        before = old.get(node.path)
        if existing is not None and isinstance(before, Array):
            change = _changed(node, manifest, before, existing.manifests[before.id])
        else:
            change = _written(node, manifest)
        if change is not None:
            arrays.append(change)
    locations: set[str] = set()
    for change in arrays:
        rows = change.rows[change.manifest.kind[change.rows] == ChunkKind.VIRTUAL]
        numbers = np.unique(change.manifest.location[rows]).tolist()
        locations |= {change.manifest.locations[i] for i in numbers}
    return Changes(groups, arrays, containers_for(sorted(locations), declared))


def _changed(array: Array, manifest: Manifest, before: Array, old: Manifest) -> ArrayChange | None:
    """Return what is to be written of an *array* that was there *before*, None if nothing is."""
    whole = _written(array, manifest)
    was = _array_document(before)
    if manifest is old and whole.document == was:
        return None
    now_fields, old_fields = (dict(read_v3_array(d).fields) for d in (whole.document, was))
    shape, old_shape = now_fields.pop("shape"), old_fields.pop("shape")
    is_longer = all(n >= m for n, m in zip(shape, old_shape, strict=True))
    is_extended = now_fields == old_fields and is_longer and len(shape) > 0 and shape != old_shape
    if not is_extended:
        if np.any(manifest.kind == ChunkKind.NATIVE):
            raise JoinError(
                f"{array.path} would have to be written anew, and the repository has chunks of it "
                "itself",
                where=array.path,
                advice="write a repository anew, from all files",
            )
        return whole._replace(is_new=False, is_replaced=True)
    coords = np.unravel_index(manifest.indices(0, len(manifest)), array.grid.shape)
    is_behind = np.zeros(len(manifest), bool)
    for along, count in zip(coords, before.grid.shape, strict=True):
        is_behind |= along >= count
    return whole._replace(is_new=False, rows=np.flatnonzero(is_behind))


def _written(array: Array, manifest: Manifest) -> ArrayChange:
    document = _array_document(array)
    layout = parse_array_document(document)
    if layout.problem or layout.grid.shape != array.grid.shape:
        raise JoinError(f"{array.path} cannot be written: {layout.problem}", where=array.path)
    return ArrayChange(
        array.path,
        document,
        array.grid.shape,
        manifest,
        np.arange(len(manifest)),
        is_new=True,
        is_replaced=False,
    )


def _array_document(array: Array) -> bytes:
    """Return the `zarr.json` of an array as strict JSON, with the chunk keys that Icechunk has."""
    try:
        fields = read_v3_array(array.documents.get("zarr.json", b"")).fields
    except Unsaid as why:
        raise JoinError(
            f"{array.path} cannot be written: {why}", where=array.path, advice=""
        ) from None
    return dump(plain({**fields, "chunk_key_encoding": _KEYS}))


def _group_document(group: Group) -> bytes:
    try:
        return dump(plain(dict(read_v3_group(group.documents.get("zarr.json", b"")).fields)))
    except Unsaid as why:
        raise JoinError(
            f"{group.path} cannot be written: {why}", where=group.path, advice=""
        ) from None


def collisions(wanted: References, existing: References) -> Sequence[str]:
    """Return the paths of nodes, other than the root, that both have."""
    old = {node.path for node in existing.nodes}
    both = [node.path for node in wanted.nodes if node.path != "/" and node.path in old]
    return sorted(both, key=array_id)
