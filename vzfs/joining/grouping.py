"""A group for each file, named like the file. Pure."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from vzfs.errors import AccessDenied
from vzfs.joining.refusal import JoinError
from vzfs.model.location import parse_location
from vzfs.model.manifest import Manifest
from vzfs.model.references import Omission, References, array_id, whole
from vzfs.model.snapshot import Array, Group, Node

_ROOT: Final = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
MAX_NAME: Final = 255
"""Bytes of a name in a directory."""
_EXTENSIONS: Final = re.compile(
    r"(?:\.(?:nc[34]?|cdf|netcdf|h[45]|hdf[45]?|he[45]|grb[12]?|grib[12]?|gb2|g?tiff?|fits?|fts"
    r"|dmrpp|json|parq(?:uet)?|zarr|zip|gz|bz2|xz|zst))+\Z",
    re.IGNORECASE,
)
"""What says of which kind a file is; a date behind a dot says no such thing."""


def group_per_file(parts: Sequence[tuple[str, References]]) -> References:
    """Return a hierarchy in which each of *parts* is a group below the root.

    A part comes with the path or URL of its file, from which the group has its name, without
    extension. Where names are alike, as many folders above join it as tell them apart, and then a
    number.
    """
    names = group_names([name for name, _ in parts])
    nodes: list[Node] = [Group(path="/", documents={"zarr.json": _ROOT})]
    manifests: dict[bytes, Manifest] = {}
    omissions: list[Omission] = []
    for name, (_, part) in zip(names, parts, strict=True):
        for node in part.nodes:
            path = _below(name, node.path)
            if isinstance(node, Array):
                manifests[array_id(path)] = part.manifests[node.id]
                nodes.append(
                    dataclasses.replace(
                        node, path=path, id=array_id(path), manifests=whole(path, node.grid)
                    )
                )
            else:
                nodes.append(dataclasses.replace(node, path=path))
        omissions += [dataclasses.replace(o, path=_below(name, o.path)) for o in part.omissions]
    nodes.sort(key=lambda node: array_id(node.path))
    return References(tuple(nodes), manifests, tuple(omissions))


def group_names(files: Sequence[str]) -> list[str]:
    """Return a name for each of *files*, paths or URLs, no two of which are the same."""
    most = Counter(files).most_common(1)
    if most and most[0][1] > 1:
        raise JoinError("a file is named twice", where=most[0][0], advice="name it once")
    segments = [_segments(name) for name in files]
    names = ["_".join(s[-1:]) for s in segments]
    for depth in range(2, 1 + max(map(len, segments), default=0)):
        alike = {name for name, count in Counter(names).items() if count > 1}
        if not alike:
            break
        names = [
            "_".join(s[-depth:]) if name in alike else name
            for name, s in zip(names, segments, strict=True)
        ]
    return _numbered([_fitting(name) for name in names])


def _numbered(names: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    found = []
    for name in names:
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        found.append(unique)
    return found


def _segments(name: str) -> list[str]:
    """Return the folders that a file is in, and its name without extension."""
    try:
        path = parse_location(name).key if "://" in name else name
    except AccessDenied:
        path = name
    folders = [s for s in path.split("/") if s not in {"", ".", ".."}] or ["file"]
    return [*folders[:-1], _EXTENSIONS.sub("", folders[-1])]


def _fitting(name: str) -> str:
    """Return *name* as one of a group: no longer than a name can be, and none that Zarr keeps for itself."""
    name = "".join(c if c.isprintable() else "_" for c in name)
    if name.startswith(("__", ".z")) or name in {"", ".", "..", "zarr.json"}:
        name = "file" + name
    encoded = name.encode("utf-8", "surrogateescape")[: MAX_NAME - 10]
    return encoded.decode("utf-8", "ignore")


def _below(name: str, path: str) -> str:
    return f"/{name}" if path == "/" else f"/{name}{path}"
