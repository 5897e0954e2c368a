"""Hierarchies made by hand, shown in a view as a dictionary of files, and opened by real readers."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numcodecs
import numpy as np
import tensorstore
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from vzfs.formats.zarr import parse_array_document
from vzfs.model.snapshot import Array, Group, Node, Snapshot
from vzfs.views.forms import Decoded, Framed
from vzfs.views.presentation import Presentation
from vzfs.views.view import View

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
PLAIN = {"name": "bytes"}


def codec(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def numcodec(id_: str, **configuration: Any) -> dict[str, Any]:
    return codec(f"numcodecs.{id_}", **configuration)


ZLIB = numcodec("zlib", level=5)
ZSTD = numcodec("zstd", level=3)
LZ4 = numcodec("lz4", acceleration=1)
FLETCHER = numcodec("fletcher32")


def shuffle(elementsize: int) -> dict[str, Any]:
    return numcodec("shuffle", elementsize=elementsize)


def group_document(attributes: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    fields = {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}, **more}
    return json.dumps(fields).encode()


def array_document(
    shape: Sequence[int] = (4,),
    chunks: Sequence[int] | None = None,
    data_type: object = "int16",
    codecs: Sequence[object] = (LITTLE,),
    fill_value: object = 0,
    separator: str = "/",
    **more: Any,
) -> bytes:
    fields = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": codec("regular", chunk_shape=list(shape if chunks is None else chunks)),
        "chunk_key_encoding": codec("default", separator=separator),
        "fill_value": fill_value,
        "codecs": list(codecs),
        "attributes": {},
        **more,
    }
    return json.dumps(fields).encode()


def make_node(path: str, document: bytes) -> Node:
    try:
        is_array = json.loads(document).get("node_type") == "array"
    except (ValueError, AttributeError, RecursionError):
        is_array = b"array" in document
    if not is_array:
        return Group(path=path, documents={"zarr.json": document})
    layout = parse_array_document(document)
    return Array(
        path=path,
        documents={"zarr.json": document},
        id=path.encode(),
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=(),
        problem=layout.problem,
        shard_index=layout.shard_index,
    )


def make_snapshot(documents: Mapping[str, bytes]) -> Snapshot:
    """Make a snapshot of documents by path; the root is a plain group if it is not there."""
    whole = {"/": group_document(), **documents}
    nodes = [make_node(path, whole[path]) for path in sorted(whole, key=str.encode)]
    return Snapshot(id="S", written_at=0, message="", metadata={}, nodes=tuple(nodes))


def present(documents: Mapping[str, bytes], view: str, **options: Any) -> Presentation:
    """Present documents by path; of no array is a chunk missing, unless *complete* says else."""
    consolidated = options.pop("consolidated", True)
    options.setdefault("complete", range(len(documents) + 1))
    return Presentation(
        make_snapshot(documents), View.parse(view, consolidated=consolidated), **options
    )


def number_of(presentation: Presentation, path: str) -> int:
    return next(n for n in range(len(presentation)) if presentation.path(n) == path)


def shown(presentation: Presentation, path: str, name: str = "zarr.json") -> Any:
    """Return a document of a node as it is shown, parsed as strictly as any reader may."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    document = presentation.node(number_of(presentation, path)).documents[name]
    return json.loads(document, parse_constant=refuse)


# -- chunks ----------------------------------------------------------------------------------------


def encode(chunk: np.ndarray, codecs: Sequence[Mapping[str, Any]]) -> bytes:
    """Encode a chunk as a writer of virtual data would find it, without zarr."""
    data: Any = chunk
    for item in codecs:
        name, configuration = item["name"], item.get("configuration", {})
        match name:
            case "transpose":
                data = np.transpose(data, configuration["order"])
            case "bytes":
                order = ">" if configuration.get("endian") == "big" else "<"
                data = data.astype(data.dtype.newbyteorder(order)).tobytes()
            case "zstd" | "gzip" | "crc32c":
                location = {"location": "end"} if name == "crc32c" else {}
                data = numcodecs.get_codec({"id": name, **configuration, **location}).encode(data)
            case "imagecodecs_deflate":
                data = numcodecs.Zlib().encode(data)
            case "imagecodecs_zstd":
                data = numcodecs.Zstd().encode(data)
            case _:
                id_ = name.removeprefix("numcodecs.")
                data = numcodecs.get_codec({"id": id_, **configuration}).encode(data)
    return bytes(data)


@dataclasses.dataclass
class Stored:
    """One array at `/a` with its chunks as they are stored, by coordinates."""

    document: bytes
    values: np.ndarray
    chunks: dict[tuple[int, ...], bytes]

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        codecs: Sequence[Mapping[str, Any]],
        chunks: Sequence[int] | None = None,
        **more: Any,
    ) -> "Stored":
        """Cut *values* into chunks, the last of which are filled up with 0, and encode them."""
        chunk_shape = tuple(values.shape if chunks is None else chunks)
        more.setdefault("data_type", values.dtype.name)
        more.setdefault("fill_value", 0)
        document = array_document(values.shape, chunk_shape, codecs=codecs, **more)
        found = {}
        for coords in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunk_shape, strict=True))):  # fmt: skip
            chunk = np.zeros(chunk_shape, values.dtype)
            part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(coords, chunk_shape, strict=True))]  # fmt: skip
            chunk[tuple(slice(n) for n in part.shape)] = part
            found[coords] = encode(chunk, codecs)
        return cls(document, values, found)

    def files(self, view: str, **options: Any) -> dict[str, bytes]:
        """Return all files of the view; chunks of a form are framed or decoded here."""
        presentation = present({"/a": self.document}, view, **options)
        number = number_of(presentation, "/a")
        assert presentation.is_shown(number), presentation.remark(number)
        found = {}
        for n in range(len(presentation)):
            folder = presentation.path(n).strip("/")
            for name, document in presentation.node(n).documents.items():
                found[f"{folder}/{name}".lstrip("/")] = document
        node, form = presentation.node(number), presentation.form(number)
        assert isinstance(node, Array)
        for coords, content in self.chunks.items():
            found["a/" + node.key_encoding.encode(coords)] = self._shown(coords, content, form)
        return found

    def _shown(self, coords: tuple[int, ...], content: bytes, form: Any) -> bytes:
        match form:
            case Framed():
                frame = form.frame(len(content))
                whole = frame.head + content[frame.inner.offset : frame.inner.end] + frame.tail
                assert len(whole) == form.size(len(content))
                return whole
            case Decoded():
                whole = self._decoded(coords, form)
                assert len(whole) == form.size(len(content))
                return whole
        return content

    def _decoded(self, coords: tuple[int, ...], form: Decoded) -> bytes:
        fields = json.loads(self.document)
        chunk_shape = fields["chunk_grid"]["configuration"]["chunk_shape"]
        chunk = np.zeros(chunk_shape, self.values.dtype.newbyteorder("<"))
        part = self.values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(coords, chunk_shape, strict=True))]  # fmt: skip
        chunk[tuple(slice(n) for n in part.shape)] = part
        kept = json.loads(form.spec).get("kept", chunk_shape)
        return chunk[tuple(map(slice, kept))].tobytes()


# -- readers ---------------------------------------------------------------------------------------


def memory_store(files: Mapping[str, bytes]) -> MemoryStore:
    return MemoryStore({k: cpu.Buffer.from_bytes(v) for k, v in files.items()}, read_only=True)


def read_zarr(files: Mapping[str, bytes], path: str = "a") -> np.ndarray:
    store = memory_store(files)
    array = zarr.open_array(store, path=path, mode="r")
    return np.asarray(array[...])


def read_tensorstore(files: Mapping[str, bytes], driver: str, path: str = "a") -> np.ndarray:
    context = tensorstore.Context()
    spec = {"driver": "memory", "path": f"{path}/"}
    kvstore = tensorstore.KvStore.open(spec, context=context).result()
    for name, content in files.items():
        if name.startswith(f"{path}/"):
            kvstore.write(name.removeprefix(f"{path}/"), content).result()
    opened = tensorstore.open({"driver": driver, "kvstore": spec}, context=context, open=True)
    return np.asarray(opened.result().read().result())


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether values are the same to the bit, whatever their order of bytes."""
    little = [np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for a in (one, other)]
    return little[0].shape == little[1].shape and little[0].tobytes() == little[1].tobytes()
