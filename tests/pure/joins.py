"""Hierarchies to be joined, described in a line, over files that are dictionaries."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vzfs.archival.building import ArrayDescription, HierarchyBuilder
from vzfs.joining.values import check, decoded
from vzfs.model.location import ETag
from vzfs.model.manifest import ChunkRef
from vzfs.model.references import References, array_id
from vzfs.model.snapshot import Array
from vzfs.views.metadata import read_v3_array

PLAIN = [{"name": "bytes", "configuration": {"endian": "little"}}]
DEFLATED = [
    *PLAIN,
    {"name": "numcodecs.shuffle", "configuration": {"elementsize": 2}},
    {"name": "numcodecs.zlib", "configuration": {"level": 4}},
]


class Files:
    """Files that are written array by array, and what `read` was asked for of them."""

    def __init__(self) -> None:
        self.content: dict[str, bytearray] = {}
        self.reads: list[ChunkRef] = []

    async def read(self, ref: ChunkRef) -> bytes:
        self.reads.append(ref)
        return bytes(self.content[ref.location][ref.offset : ref.offset + ref.length])

    def file(
        self,
        name: str,
        arrays: Mapping[str, Mapping[str, Any]],
        edit: Callable[[HierarchyBuilder], object] = lambda builder: None,
    ) -> tuple[str, References]:
        """Write a file, and return it as a part.

        An array is its `values`, `dims`, `chunks` (default: the whole of it), `codecs` and
        attributes.
        """
        content = self.content[name] = bytearray(b"\x89HDF")
        builder = HierarchyBuilder(name, ETag(f"v {name}"))
        builder.group("/", {"history": f"made as {name}"})
        for path, described in arrays.items():
            self._write(builder, content, path, **described)
        edit(builder)
        return name, builder.build()

    def _write(
        self,
        builder: HierarchyBuilder,
        content: bytearray,
        path: str,
        *,
        values: Any,
        dims: Sequence[str] | None = None,
        chunks: Sequence[int] | None = None,
        codecs: Sequence[Mapping[str, Any]] = PLAIN,
        dtype: str = "i2",
        is_inline: bool = False,
        fill: object = 0,
        **attributes: Any,
    ) -> None:
        values = np.asarray(values, dtype)
        shape = chunks or [max(n, 1) for n in values.shape]
        array = builder.array(
            path,
            ArrayDescription(
                shape=values.shape,
                chunk_shape=shape,
                data_type=values.dtype.name,
                fill_value=fill,
                codecs=codecs,
                attributes=attributes,
                dimension_names=dims,
            ),
        )
        grid = [-(-n // c) for n, c in zip(values.shape, shape, strict=True)]
        for coords in np.ndindex(*grid):
            begin = [c * n for c, n in zip(coords, shape, strict=True)]
            part = values[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))]
            chunk = np.zeros(shape, values.dtype)
            chunk[tuple(slice(n) for n in part.shape)] = part
            data = encoded(chunk, codecs)
            if is_inline:
                array.inline(coords, data)
            else:
                array.virtual(coords, len(content), len(data))
                content += data + b"gap"

    def values(self, references: References, path: str) -> np.ndarray:
        """Return the values of an array of joined references, decoded chunk by chunk."""
        array = node(references, path)
        metadata = read_v3_array(array.documents["zarr.json"])
        dtype = metadata.data_type.numpy
        assert dtype is not None
        made = np.full(tuple(metadata.shape), metadata.fill_value, dtype)
        manifest = references.manifests[array.id]
        for row, flat in enumerate(manifest.indices(0, len(manifest)).tolist()):
            ref = manifest.ref(row)
            data = ref.inline
            if not data:
                data = self.content[ref.location][ref.offset : ref.offset + ref.length]
            chunk = decoded(bytes(data), metadata, check(metadata))
            coords = array.grid.unravel(flat)
            target = tuple(
                slice(c * n, min(c * n + n, s))
                for c, n, s in zip(coords, metadata.chunk_shape, metadata.shape, strict=True)
            )
            made[target] = chunk[tuple(slice(t.stop - t.start) for t in target)]
        return made


def encoded(chunk: np.ndarray, codecs: Sequence[Mapping[str, Any]]) -> bytes:
    data = chunk.tobytes()
    for codec in codecs:
        match codec["name"]:
            case "bytes" if codec["configuration"]["endian"] == "big":
                data = chunk.astype(chunk.dtype.newbyteorder(">")).tobytes()
            case "numcodecs.shuffle":
                size = codec["configuration"]["elementsize"]
                data = np.frombuffer(data, np.uint8).reshape(-1, size).T.tobytes()
            case "numcodecs.zlib":
                data = zlib.compress(data, codec["configuration"]["level"])
    return data


def node(references: References, path: str) -> Array:
    [found] = [n for n in references.nodes if n.path == path]
    assert isinstance(found, Array)
    assert found.id == array_id(path)
    return found


def document(references: References, path: str) -> dict[str, Any]:
    [found] = [n for n in references.nodes if n.path == path]
    return json.loads(found.documents["zarr.json"])
