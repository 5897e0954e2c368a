"""What every parser builds: groups, arrays and omissions of one file, as `References`. Pure.

Documents are strict JSON that every reader of Zarr v3 takes, whatever attributes a file has.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from vzfs.formats.zarr import parse_array_document
from vzfs.model.location import Checksum
from vzfs.model.manifest import ChunkKind, ChunkRef, Column
from vzfs.model.references import ManifestBuilder, Omission, References, array_id, whole
from vzfs.model.snapshot import Array, Group, Node

MAX_DEPTH: Final = 32
"""Lists within each other in an attribute."""

MAX_NAME: Final = 255
"""Bytes that the name of a directory may have."""
RESERVED: Final = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
"""Names of documents, in whichever view."""


class Unpresentable(Exception):
    """Why an object of a file cannot be presented exactly, for people."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrayDescription:
    """An array in the words of Zarr v3: *data_type*, *fill_value* and *codecs* are as in its document.

    *dimension_names* are None where the file has none.
    """

    shape: Sequence[int]
    chunk_shape: Sequence[int]
    data_type: object
    fill_value: object
    codecs: Sequence[Mapping[str, object]]
    attributes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    dimension_names: Sequence[str | None] | None = None

    def document(self) -> bytes:
        """Return its `zarr.json`."""
        fields: dict[str, object] = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.data_type,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.chunk_shape)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill_value,
            "codecs": list(self.codecs),
            "attributes": plain_attributes(self.attributes),
        }
        if self.dimension_names is not None:
            fields["dimension_names"] = [
                None if name is None else _text(name) for name in self.dimension_names
            ]
        return _dump(fields)


class ArrayBuilder:
    """The chunk refs of one array of a file, all into that file unless inlined."""

    def __init__(self, location: str, checksum: Checksum | None, strides: Sequence[int]) -> None:
        self._location = location
        self._checksum = checksum
        self._strides = strides
        self.refs: Final = ManifestBuilder()

    def virtual(self, coords: Sequence[int], offset: int, length: int) -> None:
        """Say where in the file the chunk at *coords* lies, in bytes."""
        if offset < 0 or length < 0:
            raise Unpresentable("the place of a chunk in the file is not known")
        ref = ChunkRef(ChunkKind.VIRTUAL, length, self._location, offset, self._checksum)
        self.refs.add(self._flat(coords), ref)

    def run(
        self, flat: Column[np.int64], offset: Column[np.int64], length: Column[np.int64]
    ) -> None:
        """Say where many chunks lie, by their flat indices in the grid, in C order."""
        if len(flat) and (int(offset.min()) < 0 or int(length.min()) < 0):
            raise Unpresentable("the place of a chunk in the file is not known")
        self.refs.extend(flat, offset, length, location=self._location, checksum=self._checksum)

    def inline(self, coords: Sequence[int], data: bytes) -> None:
        """Give the bytes of the chunk at *coords* themselves, encoded as its array's codecs say."""
        self.refs.add(self._flat(coords), ChunkRef(ChunkKind.INLINE, len(data), inline=data))

    def _flat(self, coords: Sequence[int]) -> int:
        return sum(c * s for c, s in zip(coords, self._strides, strict=True))


class HierarchyBuilder:
    """Builds what a file at *location* holds; every ref names its version, *checksum*.

    Groups above what is added are there by themselves, without attributes.
    """

    def __init__(self, location: str, checksum: Checksum | None = None) -> None:
        self._location = location
        self._checksum = checksum
        self._nodes: dict[str, Node] = {}
        self._refs: dict[bytes, ManifestBuilder] = {}
        self._omissions: list[Omission] = []
        self.group("/")

    def group(self, path: str, attributes: Mapping[str, object] | None = None) -> None:
        """Add a group by its absolute path. Attributes given later count. Raises Unpresentable."""
        if path in self._nodes and not attributes and isinstance(self._nodes[path], Group):
            return
        self._admit(path, Group)
        document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": plain_attributes(attributes or {}),
        }
        self._nodes[path] = Group(path=path, documents={"zarr.json": _dump(document)})

    def array(self, path: str, described: ArrayDescription) -> ArrayBuilder:
        """Add an array by its absolute path, and return what takes its chunk refs. Raises Unpresentable."""
        document = described.document()
        layout = parse_array_document(document)
        if layout.problem:
            raise Unpresentable(layout.problem)
        self._admit(path, Array)
        name = array_id(path)
        self._nodes[path] = Array(
            path=path,
            documents={"zarr.json": document},
            id=name,
            grid=layout.grid,
            key_encoding=layout.key_encoding,
            manifests=whole(path, layout.grid),
            shard_index=layout.shard_index,
        )
        builder = ArrayBuilder(self._location, self._checksum, layout.grid.strides)
        self._refs[name] = builder.refs
        return builder

    def drop(self, path: str, reason: str) -> None:
        """Take an array back that turned out not to be presentable, and say why."""
        self._nodes.pop(path, None)
        self._refs.pop(array_id(path), None)
        self.omit(path, reason)

    def omit(self, path: str, reason: str, *, is_loss: bool = True) -> None:
        """Say that what is at *path* in the file is left out, and why; if it has nothing to show, it is no loss."""
        self._omissions.append(Omission(path, _text(" ".join(reason.split())[:500]), is_loss))

    def build(self) -> References:
        """Return all that was added."""
        nodes = sorted(self._nodes.values(), key=lambda node: array_id(node.path))
        manifests = {name: refs.build() for name, refs in self._refs.items()}
        return References(tuple(nodes), manifests, tuple(self._omissions))

    def _admit(self, path: str, kind: type[Node]) -> None:
        """Raise Unpresentable unless a node of that *kind* can be at *path*; have the groups above it."""
        if not isinstance(self._nodes.get(path), kind | None):
            raise Unpresentable("there is a group and an array of this name")
        if path == "/":
            if kind is Array:
                raise Unpresentable("the root is a group")
            return
        folder, _, name = path.rpartition("/")
        problem = name_problem(name)
        if folder.endswith("/") or not path.startswith("/"):
            problem = "its path is not canonical"
        if problem:
            raise Unpresentable(problem)
        self.group(folder or "/")


def name_problem(name: str) -> str:
    """Say why a node cannot be called *name*, "" if it can."""
    if name in {"", ".", ".."} or "\0" in name or "/" in name:
        return f"no directory can be called {name!r}"
    if name in RESERVED:
        return f"a metadata document is called {name}"
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        return f"its name has more than {MAX_NAME} bytes"
    return ""


def plain_attributes(attributes: Mapping[str, object]) -> dict[str, object]:
    """Return *attributes* as strict JSON has them: see `plain`."""
    return {_text(name): plain(value) for name, value in attributes.items()}


def plain(value: object, depth: int = 0) -> object:
    """Return a value of an attribute as strict JSON has it.

    Numbers that JSON has not are the words of Zarr v3 for them ("NaN", "Infinity", "-Infinity"), a
    complex number is a pair, bytes are text (UTF-8, else Latin-1, which loses none of them), a list of
    one element stays a list. Raises Unpresentable for what has no value: references, callables.
    """
    if depth > MAX_DEPTH:
        raise Unpresentable("an attribute is nested too deeply")
    match value:
        case None | bool() | int() | str():
            return _text(value) if isinstance(value, str) else value
        case float():
            return value if math.isfinite(value) else _word(value)
        case complex():
            return [plain(value.real), plain(value.imag)]
        case bytes():
            return _decoded(value)
        case np.datetime64():
            return str(value)
        case np.ndarray() if value.dtype.kind == "M":
            return plain(value.astype(str).tolist(), depth + 1)
        case np.ndarray() if value.dtype.names is None:
            return plain(value.tolist(), depth + 1)
        case np.ndarray():
            return [plain(item, depth + 1) for item in value] if value.shape else plain(value[()])
        case np.void() if value.dtype.names is None:
            return _decoded(value.tobytes())
        case np.void():
            return {_text(name): plain(value[name], depth + 1) for name in value.dtype.names or ()}
        case np.generic():
            return plain(value.item(), depth + 1)
        case Mapping():
            return {_text(str(k)): plain(v, depth + 1) for k, v in value.items()}
        case list() | tuple():
            return [plain(item, depth + 1) for item in value]
    raise Unpresentable(f"an attribute is of the type {type(value).__name__}, which JSON has not")


def _word(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _text(text: str) -> str:
    """Return *text* so that UTF-8 can say it: bytes that were no UTF-8 are taken as Latin-1."""
    for errors in ("strict", "surrogateescape"):
        try:
            data = text.encode("utf-8", errors)
        except UnicodeEncodeError:
            continue
        return text if errors == "strict" else data.decode("latin-1")
    return text.encode("utf-8", "backslashreplace").decode()


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
