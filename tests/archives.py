"""What a file is shown as, read with zarr: its arrays decoded, to be compared with what is known of it."""

import hashlib
import importlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tests.conftest import ROOT
from vzfs.archival.building import HierarchyBuilder
from vzfs.archival.hdf5.elements import PADDING
from vzfs.formats.references import decode_references, encode_references
from vzfs.model.location import ETag
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References, array_id
from vzfs.model.snapshot import Array


def store_of(references: References, data: bytes) -> dict[str, bytes]:
    """Return the store that *references* into a file of those *data* are: key -> bytes."""
    store: dict[str, bytes] = {}
    for node in references.nodes:
        folder = node.path.strip("/") + "/" if node.path != "/" else ""
        for name, document in node.documents.items():
            store[folder + name] = document
        if isinstance(node, Array):
            manifest = references.manifests[array_id(node.path)]
            for row in range(len(manifest)):
                ref = manifest.ref(row)
                key = node.key_encoding.encode(node.grid.unravel(manifest.index[row]))
                if ref.kind is ChunkKind.INLINE:
                    store[folder + key] = bytes(ref.inline)
                else:
                    store[folder + key] = data[ref.offset : ref.offset + ref.length]
                    assert len(store[folder + key]) == ref.length
    return store


def memory(references: References, data: bytes) -> MemoryStore:
    """Return the same for zarr."""
    make = default_buffer_prototype().buffer.from_bytes
    return MemoryStore({key: make(value) for key, value in store_of(references, data).items()})


def opened(references: References, data: bytes) -> zarr.Group:
    """Return what zarr makes of *references* into *data*."""
    group = zarr.open_group(memory(references, data), mode="r", zarr_format=3)
    assert isinstance(group, zarr.Group)
    return group


def arrays(references: References) -> list[str]:
    """Return the paths of all arrays, without a slash before them."""
    return [node.path[1:] for node in references.nodes if isinstance(node, Array)]


def digest(values: Any) -> str:
    """Return the hash that the truth of the real files has, of the values without what is padding."""
    array = np.asarray(values, object if isinstance(values, str) else None)
    if array.dtype.names is not None:
        array = array[[name for name in array.dtype.names if not name.startswith(PADDING)]]
    return hashlib.sha256(_truthlib().canonical_bytes(array)).hexdigest()


def _truthlib() -> Any:
    path = Path(ROOT).parent / "shared" / "data" / "truthlib.py"
    spec = importlib.util.spec_from_file_location("truthlib", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(data: bytes, kind: str = "hdf5") -> References:
    """Return what the parser of a *kind* makes of a file, in this process."""
    to = HierarchyBuilder("s3://b/file", ETag("v"))
    parser = importlib.import_module(f"vzfs.archival.parsers.{kind}")
    parser.parse(io.BytesIO(data), len(data), to)
    return decode_references(encode_references(to.build()), len(data))


def omitted(references: References) -> dict[str, str]:
    """Return the reasons by the paths of what was left out."""
    return {omission.path: omission.reason for omission in references.omissions}


def attributes(references: References, path: str) -> Any:
    """Return the attributes of a node."""
    [node] = [node for node in references.nodes if node.path == path]
    return json.loads(node.documents["zarr.json"])["attributes"]


def document(references: References, path: str) -> Any:
    """Return the document of a node."""
    [node] = [node for node in references.nodes if node.path == path]
    return json.loads(node.documents["zarr.json"])
