"""The arrays of files that are to be joined, side by side. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vzfs.joining.described import Documents
from vzfs.joining.refusal import JoinError
from vzfs.model.manifest import Manifest
from vzfs.model.references import Omission, References
from vzfs.model.snapshot import Array, Group, Node
from vzfs.views import v3
from vzfs.views.metadata import ArrayMetadata, Unsaid, dump, read_v3_group


class Piece(NamedTuple):
    """One array in one file, *where*."""

    where: str
    array: Array
    metadata: ArrayMetadata
    manifest: Manifest


def pieces_of(
    parts: Sequence[tuple[str, References]],
) -> tuple[dict[str, list[Piece]], tuple[Omission, ...]]:
    """Return the arrays by path, each as all files have it, and what is left out because one cannot give it.

    Raises JoinError for an array that a file lacks and does not name as left out.
    """
    arrays = [
        {node.path: node for node in part.nodes if isinstance(node, Array)} for _, part in parts
    ]
    omitted: dict[str, Omission] = {}
    for name, part in parts:
        for o in part.omissions:
            known = omitted.setdefault(o.path, o)
            if known is o:
                omitted[o.path] = dataclasses.replace(o, reason=f"{o.reason} (in {name})")
    every: set[str] = set().union(*arrays)
    common = every.intersection(*arrays)
    for path in sorted(every - common - omitted.keys()):
        lacking = next(
            name for (name, _), has in zip(parts, arrays, strict=True) if path not in has
        )
        having = next(name for (name, _), has in zip(parts, arrays, strict=True) if path in has)
        raise JoinError(f"{path} is in {having}, and not in {lacking}", where=lacking)
    documents = Documents()
    pieces = {
        path: [
            Piece(name, has[path], documents.of(has[path], name), part.manifests[has[path].id])
            for (name, part), has in zip(parts, arrays, strict=True)
        ]
        for path in sorted(common)
    }
    return pieces, tuple(omitted[path] for path in sorted(omitted))


def groups_of(parts: Sequence[References]) -> Mapping[str, Node]:
    """Return the groups of all files, each as the first that has it says it, without what it says of others."""
    groups: dict[str, Node] = {}
    for part in parts:
        for node in part.nodes:
            if isinstance(node, Group) and node.path not in groups:
                documents = {v3.DOCUMENT: _alone(node.documents.get(v3.DOCUMENT, b""))}
                groups[node.path] = dataclasses.replace(node, documents=documents, originals={})
    return groups


def _alone(document: bytes) -> bytes:
    try:
        found = read_v3_group(document)
    except Unsaid:
        return document
    return document if found.is_whole else dump(found.fields)
