"""Real repositories in every view: documents that zarr-python opens, and chunks of the sizes that are said."""

import functools
import json
import urllib.parse
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.conftest import REPOSITORIES
from tests.pure import test_formats_icechunk_truth as icechunk
from tests.pure.viewing import memory_store
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import Array, Snapshot
from vzfs.views.forms import Decoded, Framed
from vzfs.views.presentation import Presentation
from vzfs.views.view import ALL, View, ViewName

SHOWN = [view for view in ALL if not view.is_verbatim]


@pytest.fixture(scope="module", params=REPOSITORIES)
def repository(data: Path, request: pytest.FixtureRequest) -> tuple[Path, list[Snapshot]]:
    """Give a repository's folder and all of its snapshots but the first, which has no nodes."""
    truth = json.loads((data / f"truth/icechunk/{request.param}.json").read_bytes())
    folder = data / truth["path"]
    found = [icechunk.read_snapshot(folder, id_) for id_ in truth["snapshots"]]
    return folder, [snapshot for snapshot in found if snapshot.nodes]


NUMBERS = {f"{kind}{8 * n}" for kind in ("int", "uint") for n in (1, 2, 4, 8)} | {
    "float32",
    "float64",
}
PLACES = {
    "file:///srv/vzfs-data/public/": "",
    "file:///Users/u1166368/catalog/intake-virtual-icechunk/tests/data/access-om2/": "icechunk/access-om2/",
}
"""Where the files lie that repositories refer to, below the folder of the data."""


def bytes_of(data: Path, folder: Path, ref: ChunkRef) -> bytes | None:
    """Return the bytes of a chunk as they are stored, None if they are not here."""
    match ref.kind:
        case ChunkKind.INLINE:
            return bytes(ref.inline)
        case ChunkKind.NATIVE:
            return (folder / ref.location).read_bytes()[ref.offset : ref.range.end]
    for prefix, place in PLACES.items():
        if ref.location.startswith(prefix):
            path = data / place / urllib.parse.unquote(ref.location.removeprefix(prefix))
            return read(path)[ref.offset : ref.range.end]
    return None


@functools.lru_cache(8)
def read(path: Path) -> bytes:
    return path.read_bytes()


def layout(array: zarr.Array) -> tuple:
    """Return shape, data type without its order of bytes, and the shape of what a key holds."""
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind != "T" else array.dtype
    return array.shape, dtype, tuple(array.shards or array.chunks)


def expected(layout: tuple, view: View) -> tuple:
    """Return the layout that *view* shows: chunks are cut to their array where netCDF-C 4.9 reads."""
    shape, dtype, chunks = layout
    if str(view) == "decoded-v2":
        chunks = tuple(min(pair) for pair in zip(shape, chunks, strict=True))
    return shape, dtype, chunks


@pytest.mark.parametrize("view", SHOWN, ids=str)
def test_real_arrays_are_opened_as_they_are_stored(repository, view: View) -> None:
    """By the root's document alone, zarr-python finds every array that is shown, of its shape, type and attributes."""
    _, snapshots = repository
    for snapshot in snapshots:
        presentation = Presentation(snapshot, view)
        root = {name: bytes(content) for name, content in presentation.node(0).documents.items()}
        stored = {
            f"{node.path}/{name}".lstrip("/"): content
            for node in snapshot.nodes
            for name, content in node.documents.items()
        }
        with warnings.catch_warnings(action="ignore"):
            group = zarr.open_group(memory_store(root), mode="r", use_consolidated=True)
            truth = zarr.open_group(memory_store(stored), mode="r", use_consolidated=False)
            for n in range(1, len(presentation)):
                assert presentation.remark(n) == "" or not presentation.is_shown(n)
                path = presentation.path(n)[1:]
                assert (path in group) == presentation.is_shown(n)
                if isinstance(presentation.node(n), Array) and presentation.is_shown(n):
                    found, true = group[path], truth[path]
                    assert layout(found) == expected(layout(true), view)
                    own = {"_ARRAY_DIMENSIONS", "_FillValue"}
                    assert found.attrs.asdict().keys() - own == true.attrs.asdict().keys() - own


@pytest.mark.parametrize("view", SHOWN, ids=str)
def test_real_arrays_that_are_left_out(repository, view: View) -> None:
    """Of real arrays nothing is left out but what has no fixed size, where chunks are decoded, and shards in Zarr v2.

    Decoded in Zarr v2, there are only numbers of netCDF, and arrays that have some.
    """
    _, snapshots = repository
    for snapshot in snapshots:
        presentation = Presentation(snapshot, view)
        for n in range(len(presentation)):
            words = presentation.stored(n).documents["zarr.json"]
            is_string = view.name is ViewName.DECODED and b'"string"' in words
            is_shard = (
                view.zarr_format == 2
                and view.name is not ViewName.DECODED
                and b"sharding_indexed" in words
            )
            is_left_out = is_string or is_shard
            if str(view) == "decoded-v2" and isinstance(presentation.stored(n), Array):
                fields = json.loads(words)
                is_left_out = str(fields["data_type"]) not in NUMBERS or 0 in fields["shape"]
            assert presentation.is_shown(n) != is_left_out


def test_real_chunks_are_framed_and_read(data: Path, repository) -> None:
    """Chunks of the repository and of the files it refers to are read by zarr-python from the portable view as from the stored one."""
    folder, snapshots = repository
    forms = 0
    for snapshot in snapshots:
        presentation = Presentation(snapshot, View(ViewName.PORTABLE))
        numbers = {presentation.path(n): n for n in range(len(presentation))}
        files: dict[str, dict[str, bytes]] = {"stored": {}, "portable": {}}
        for n in range(len(presentation)):
            for kind, node in (("stored", presentation.stored(n)), ("portable", presentation.node(n))):  # fmt: skip
                for name, content in node.documents.items():
                    files[kind][f"{node.path}/{name}".lstrip("/")] = content
        whole: dict[str, bool] = {}
        for array, coords, ref in icechunk.refs_of(folder, snapshot):
            content = bytes_of(data, folder, ref)
            if content is None:
                whole[array.path] = False
                continue
            whole.setdefault(array.path, True)
            form = presentation.form(numbers[array.path])
            forms += form is not None
            key = f"{array.path}/{array.key_encoding.encode(coords)}".lstrip("/")
            files["stored"][key] = content
            files["portable"][key] = framed(form, content)
        with warnings.catch_warnings(action="ignore"):
            groups = {
                kind: zarr.open_group(memory_store(found), mode="r")
                for kind, found in files.items()
            }
            for path in (path for path, is_whole in whole.items() if is_whole):
                one, other = (np.asarray(group[path[1:]][...]) for group in groups.values())
                np.testing.assert_array_equal(one, other)
    assert (forms > 0) == (folder.name in {"icecat.icechunk", "virt-file-v1", "virt-file-v2"})


def framed(form: Framed | Decoded | None, content: bytes) -> bytes:
    if not isinstance(form, Framed):
        assert form is None
        return content
    frame = form.frame(len(content))
    return frame.head + content[frame.inner.offset : frame.inner.end] + frame.tail
