"""An array as a mount shows it: its document, its chunk grid, which chunks are there and what they are.

Nothing is known but what the mount says: names, which are listed without looking at files, and
extended attributes. No chunk is read.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from vzfs.cli.chunkmap import Ints, Plane, State
from vzfs.cli.mounted import PREFIX, attribute, mount_of, names, telling
from vzfs.cli.terminal import printable
from vzfs.errors import ConfigError, ErrorKind, FormatError
from vzfs.formats.zarr import MAX_DOCUMENT, ArrayLayout, parse_array_document
from vzfs.model.chunkgrid import KeyStyle, parse_coordinate

BATCH: Final = 65_536
"""Chunks that are handed on at once."""
MAX_WORD: Final = 60
"""Characters of a data type or a dimension's name that are shown."""
MAX_NAMED: Final = 8
"""Nodes that are named to who did not name an array."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MountedArray:
    """An array at *path*: *layout* is its grid and its keys.

    *shape* and *dtype* are what its document says, "" where it says nothing; *names* are those of
    its dimensions, () where they have none.
    """

    path: str
    layout: ArrayLayout
    shape: str
    dtype: str
    names: tuple[str, ...] = ()

    def key(self, flat: int) -> str:
        """Return the path of the chunk with that flat index."""
        coords = self.layout.grid.unravel(flat)
        return os.path.join(self.path, self.layout.key_encoding.encode(coords))  # noqa: PTH118 -- many


def open_array(path: str) -> MountedArray:
    """Read the document of the array at *path* in a mount.

    Raises ConfigError if there is no array, FormatError if its chunks cannot be named, and as
    `mount_of` does.
    """
    mount_of(path)
    fields: Mapping[str, Any]
    if (document := _read(path, "zarr.json")) is not None:
        fields = _fields(document)
        if fields.get("node_type") == "group":
            raise _no_array(path)
        layout = parse_array_document(document)
        problem = layout.problem
    elif (document := _read(path, ".zarray")) is not None:
        fields = _fields(document)
        layout = parse_array_document(_as_v3(fields))
        problem = layout.problem.replace("zarr.json", ".zarray")
    else:
        raise _no_array(path)
    if problem:
        raise FormatError(
            ErrorKind.UNSUPPORTED_FORMAT,
            f"the chunks of this array cannot be named: {problem}",
            where=path,
            advice="a newer vzfs may know it",
        )
    return MountedArray(
        path=path,
        layout=layout,
        shape=_shape(fields.get("shape")),
        dtype=_dtype(fields),
        names=_names(fields.get("dimension_names"), len(layout.grid.shape)),
    )


def _read(folder: str, name: str) -> bytes | None:
    path = Path(folder, name)
    with telling(str(path)):
        try:
            with path.open("rb") as opened:
                return opened.read(MAX_DOCUMENT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _fields(document: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _as_v3(fields: Mapping[str, Any]) -> bytes:
    """Say in words of Zarr v3 what a `.zarray` says of chunks and their keys."""
    separator = fields.get("dimension_separator", ".")
    said = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": fields.get("shape"),
        "data_type": "uint8",
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": fields.get("chunks")},
        },
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": separator}},
    }
    return json.dumps(said).encode()


def _no_array(path: str) -> ConfigError:
    nodes: list[str] = []
    if Path(path).is_dir():
        with telling(path), os.scandir(path) as listing:
            for entry in listing:
                if entry.is_dir() and len(nodes) <= MAX_NAMED:
                    nodes.append(entry.name)
    named = printable(", ".join(sorted(nodes[:MAX_NAMED])))
    named += ", ..." if len(nodes) > MAX_NAMED else ""
    return ConfigError(
        ErrorKind.BAD_USAGE,
        "this is no array",
        where=path,
        advice=f"in it are {named}" if nodes else "name the directory of an array",
    )


def _shape(value: object) -> str:
    if not isinstance(value, list):
        return ""
    return "x".join(map(str, value)) or "scalar"


def _dtype(fields: Mapping[str, Any]) -> str:
    value = fields.get("data_type", fields.get("dtype", ""))
    if isinstance(value, dict):
        value = value.get("name", "")
    return value[:MAX_WORD] if isinstance(value, str) else "structure"


def _names(value: object, ndim: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) != ndim:
        return ()
    return tuple(name[:MAX_WORD] if isinstance(name, str) else "" for name in value)


# -- which chunks are there --------------------------------------------------------------------


def present(array: MountedArray, plane: Plane) -> Iterator[Ints]:
    """Yield the flat indices of the chunks of *plane* that are there, some at a time.

    Directories of keys are listed, and no file is looked at. Raises as `telling` does.
    """
    waiting: list[int] = []
    for flat in _flats(array, plane):
        waiting.append(flat)
        if len(waiting) == BATCH:
            yield np.array(waiting, np.int64)
            waiting.clear()
    yield np.array(waiting, np.int64)


def _flats(array: MountedArray, plane: Plane) -> Iterator[int]:
    encoding, grid = array.layout.key_encoding, array.layout.grid
    if not grid.shape:
        if _is_there(array.key(0)):
            yield 0
    elif encoding.separator == ".":
        yield from _flat_keys(array, plane)
    else:
        top = Path(array.path, "c") if encoding.style is KeyStyle.DEFAULT else Path(array.path)
        yield from _below(str(top), plane, 0, 0)


def _flat_keys(array: MountedArray, plane: Plane) -> Iterator[int]:
    encoding, grid = array.layout.key_encoding, array.layout.grid
    fixed = [(axis, at) for axis, at in enumerate(plane.at) if at is not None]
    for name in _listed(array.path):
        coords = encoding.decode(name, len(grid.shape))
        if coords is None or not grid.contains(coords):
            continue
        if all(coords[axis] == at for axis, at in fixed):
            yield grid.ravel(coords)


def _below(folder: str, plane: Plane, axis: int, base: int) -> Iterator[int]:
    """Yield what is below the directory of the keys whose chunks begin at the flat index *base*."""
    grid = plane.grid
    stride, count, at = grid.strides[axis], grid.shape[axis], plane.at[axis]
    is_leaf = axis + 1 == len(grid.shape)
    if at is None:
        numbers = (parse_coordinate(name) for name in _listed(folder))
        found = (n for n in numbers if n is not None and n < count)
    else:
        found = (n for n in [at] if not is_leaf or _is_there(f"{folder}/{n}"))
    for number in found:
        if is_leaf:
            yield base + number
        else:
            yield from _below(f"{folder}/{number}", plane, axis + 1, base + number * stride)


def _listed(folder: str) -> Iterator[str]:
    """Yield the names in a directory; none if it is not there, as it is not without chunks."""
    with telling(folder):
        try:
            listing = os.scandir(folder)
        except FileNotFoundError:
            return
        with listing:
            for entry in listing:
                yield entry.name


def _is_there(path: str) -> bool:
    with telling(path):
        try:
            os.stat(path)  # noqa: PTH116 -- many
        except FileNotFoundError:
            return False
    return True


# -- what they are -----------------------------------------------------------------------------

_KINDS: Final = {
    "inline": (State.INLINE, State.INLINE),
    "native": (State.NATIVE, State.NATIVE_CACHED),
    "virtual": (State.VIRTUAL, State.VIRTUAL_CACHED),
}
"""The states of chunks that are not cached, and of those that are."""
_STALE: Final = f"{PREFIX}stale"


def state_of(path: str) -> State:
    """Ask the mount what the chunk at *path* is; UNASKED if it does not know. Raises as `telling` does."""
    with telling(path):
        kinds = _KINDS.get(attribute(path, f"{PREFIX}kind") or "")
        if kinds is None:
            return State.UNASKED
        if kinds[0] is kinds[1]:
            return kinds[0]
        # To ask for one that is not there takes the mount as long as two others.
        if _STALE in names(path) and attribute(path, _STALE) not in {None, "", "no"}:
            return State.STALE
        return kinds[attribute(path, f"{PREFIX}cached") == "yes"]
