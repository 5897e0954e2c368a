"""What parsed files hold, read as the decoded view shows it: each array from its refs alone."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vzfs.archival.building import HierarchyBuilder
from vzfs.decoding.installed import can_decode
from vzfs.decoding.pipeline import pipeline_of
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References
from vzfs.model.snapshot import Array
from vzfs.views.arrays import Asked, show_array
from vzfs.views.datatypes import read_data_type
from vzfs.views.fillvalues import read_fill_value
from vzfs.views.forms import Decoded
from vzfs.views.view import View, ViewName

LOCATION = "s3://b/file"

type Parse = Callable[[BinaryIO, int, HierarchyBuilder], None]


def parsed(parse: Parse, file: BinaryIO, location: str = LOCATION) -> References:
    """Return what *parse* says that *file* holds."""
    builder = HierarchyBuilder(location)
    size = file.seek(0, 2)
    parse(file, size, builder)
    return builder.build()


def omitted(references: References) -> dict[str, str]:
    """Return the reasons of what is left out, by path."""
    return {omission.path: omission.reason for omission in references.omissions}


def document(references: References, path: str) -> dict:
    """Return the `zarr.json` of the node at *path*."""
    [node] = [node for node in references.nodes if node.path == path]
    return json.loads(node.documents["zarr.json"])


def arrays(
    references: References, files: Mapping[str, bytes], most: int = 2**62
) -> dict[str, np.ndarray]:
    """Return every array of at most *most* bytes by its path, its chunks read from *files*, by location."""
    return {
        node.path: values(references, node, files)
        for node in references.nodes
        if isinstance(node, Array) and node.grid.size * node.grid.max_chunk_nbytes <= most
    }


def values(references: References, node: Array, files: Mapping[str, bytes]) -> np.ndarray:
    """Return one array, as a reader of the decoded view gets it."""
    shown = show_array(node, Asked(View(ViewName.DECODED, 3), can_decode(), is_complete=False))
    assert shown.is_shown, shown.remark
    words = json.loads(shown.node.documents["zarr.json"])
    shape, chunk = words["shape"], words["chunk_grid"]["configuration"]["chunk_shape"]
    spec = {"shape": chunk, **{key: words[key] for key in ("data_type", "codecs", "fill_value")}}
    whole = pipeline_of(json.dumps(spec).encode())
    form = shown.form
    assert form is None or isinstance(form, Decoded)
    grid = [-(-extent // edge) for extent, edge in zip(shape, chunk, strict=True)]
    fill = read_fill_value(words["fill_value"], read_data_type(words["data_type"]))
    assert fill is not None
    made = np.full([n * edge for n, edge in zip(grid, chunk, strict=True)], fill)
    manifest = references.manifests[node.id]
    for row in range(len(manifest)):
        ref = manifest.ref(row)
        stored = ref.inline if ref.kind is ChunkKind.INLINE else files[ref.location]
        if ref.kind is not ChunkKind.INLINE:
            stored = stored[ref.offset : ref.offset + ref.length]
        out = bytearray(whole.nbytes)
        pipeline = whole if form is None else pipeline_of(form.spec)
        pipeline.decode(memoryview(bytes(stored)), memoryview(out))
        index = int(manifest.index[row])
        assert 0 <= index < max(math.prod(grid), 1)
        at = np.unravel_index(index, grid) if grid else ()
        where = tuple(slice(i * edge, (i + 1) * edge) for i, edge in zip(at, chunk, strict=True))
        made[where] = np.frombuffer(out, whole.dtype).reshape(chunk)
    return made[tuple(slice(0, extent) for extent in shape)]


def truth_of(data: Path, kind: str) -> dict[str, dict]:
    """Return what is known of the files of a *kind*, by the paths that they have in *data*."""
    known = json.loads((data / "truth.json").read_text())
    files = known.get("files", known)
    return {path: truth for path, truth in files.items() if truth.get("kind") == kind}


def digest(array: np.ndarray) -> tuple[list[int], str, str]:
    """Return shape, data type and hash of the values of *array*, as `truth.json` has them."""
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    name = str(array.dtype.newbyteorder("="))
    return list(array.shape), name, hashlib.sha256(plain.tobytes()).hexdigest()
