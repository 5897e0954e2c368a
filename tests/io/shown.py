"""Repositories as they are shown, read whole without a mount: for comparison with what is known of them."""

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zarr

from tests.pure.viewing import memory_store
from vzfs.access import Access
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import Array, RefSpec
from vzfs.repository import Checkout, Repository, check_out
from vzfs.source import Fetcher
from vzfs.views.forms import Framed
from vzfs.views.presentation import Presentation
from vzfs.views.view import View, ViewName

STORED = View(ViewName.STORED)


async def bytes_of(ref: ChunkRef, fetcher: Fetcher, access: Access) -> bytes:
    """Return the bytes of a chunk, of the very version that its ref names."""
    if ref.kind is ChunkKind.INLINE:
        return bytes(ref.inline)
    return bytes((await fetcher.fetch(access.authorize(ref))).data)


async def refs_of(checkout: Checkout, path: str) -> dict[tuple[int, ...], ChunkRef]:
    """Return the refs of all chunks of the array at *path*, by their coordinates."""
    array = next(node for node in checkout.snapshot.nodes if node.path == path)
    assert isinstance(array, Array)
    refs = checkout.refs(array)
    await refs.load(())
    found = {}
    for flat, length in refs.all_chunks():
        coords = array.grid.unravel(flat)
        ref = refs.find(coords)
        assert ref is not None
        assert ref.length == length
        found[coords] = ref
    return found


async def files_of(
    repository: Repository, fetcher: Fetcher, access: Access, view: View = STORED
) -> dict[str, bytes]:
    """Return all files of a repository as *view* shows them, by their paths."""
    checkout = await check_out(repository, RefSpec())
    presentation = Presentation(checkout.snapshot, view)
    files: dict[str, bytes] = {}
    for number in range(len(presentation)):
        node = presentation.node(number)
        for name, document in node.documents.items():
            files[f"{node.path}/{name}".lstrip("/")] = bytes(document)
        if not isinstance(node, Array) or not presentation.is_shown(number) or node.problem:
            continue
        form = presentation.form(number)
        for coords, ref in (await refs_of(checkout, node.path)).items():
            data = await bytes_of(ref, fetcher, access)
            assert len(data) == ref.length
            if isinstance(form, Framed):
                frame = form.frame(len(data))
                data = frame.head + data[frame.inner.offset : frame.inner.end] + frame.tail
            else:
                assert form is None
            files[f"{node.path}/{node.key_encoding.encode(coords)}".lstrip("/")] = data
    return files


def arrays_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the arrays that zarr-python finds in *files*, decoded, by their paths."""
    found = {}
    with warnings.catch_warnings(action="ignore"):
        root = zarr.open(memory_store(dict(files)), mode="r")
        if isinstance(root, zarr.Array):
            return {"": np.asarray(root[...])}
        for path, member in root.members(max_depth=None):
            if isinstance(member, zarr.Array):
                found[path] = np.asarray(member[...])
    return found


def truthlib(data: Path) -> ModuleType:
    """Import the digests with which the truth was written."""
    spec = importlib.util.spec_from_file_location("truthlib", data / "truthlib.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def truth(data: Path, name: str) -> dict[str, str]:
    """Return the digests of the decoded arrays of a file of the real data, by their paths."""
    arrays = json.loads((data / "truth.json").read_bytes())[name]["arrays"]
    return {path: array["sha256"] for path, array in arrays.items() if "sha256" in array}


def digests(data: Path, arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of decoded *arrays*, as the truth has them."""
    canonical = truthlib(data).canonical_bytes
    return {path: hashlib.sha256(canonical(a)).hexdigest() for path, a in arrays.items()}
