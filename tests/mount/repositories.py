"""Repositories for mounts to show, written by the official library.

A test names the chunks it needs and where their bytes lie; nothing here knows vzfs. Arrays of
virtual chunks are one row of bytes without compression, one chunk per reference, so that a chunk
file is exactly the bytes at its location.
"""

import datetime
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import icechunk
import numpy as np
import zarr
import zstandard
from zarr.codecs import BytesCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

icechunk.set_logs_filter("error")

ORIGIN_DAY = 1_700_000_000
"""When sources were last modified, unless a test says otherwise: 2023-11-14T22:13:20Z."""


class Ref(NamedTuple):
    """*length* bytes at *location* from *offset* on: an etag, a date in seconds or nothing checks it."""

    location: str
    offset: int
    length: int
    checksum: str | int | None = None


def pattern(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes that differ from place to place and from seed to seed."""
    return np.random.default_rng(seed).bytes(size)


def create(
    path: Path,
    *,
    containers: Mapping[str, Any] | Sequence[str] = (),
    spec: int = 2,
    inline: int = 0,
    **config_options: Any,
) -> icechunk.Repository:
    """Create an empty repository at *path*. Chunks up to *inline* bytes are kept in manifests.

    *containers* are the prefixes that it declares, each with the store that it proposes, if given.
    """
    config = icechunk.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = inline
    for name, value in config_options.items():
        setattr(config, name, value)
    stores = containers if isinstance(containers, Mapping) else dict.fromkeys(containers)
    for prefix, store in stores.items():
        config.set_virtual_chunk_container(
            icechunk.VirtualChunkContainer(prefix, store or store_for(prefix))
        )
    repository = icechunk.Repository.create(
        icechunk.local_filesystem_storage(os.fspath(path)), config=config, spec_version=spec
    )
    if spec == 1:
        repository.save_config()
    return repository


def store_for(prefix: str) -> Any:
    """Return the store that a container with *prefix* usually has."""
    if prefix.startswith("s3:"):
        return icechunk.s3_store(region="us-east-1")
    if prefix.startswith(("http:", "https:")):
        return icechunk.http_store()
    return icechunk.local_filesystem_store(prefix.removeprefix("file://"))


def open_for_writing(path: Path) -> icechunk.Repository:
    """Open the repository at *path* again."""
    return icechunk.Repository.open(icechunk.local_filesystem_storage(os.fspath(path)))


def write_virtual(
    path: Path,
    arrays: Mapping[str, Sequence[Ref]],
    *,
    containers: Mapping[str, Any] | Sequence[str] = (),
    spec: int = 2,
    dtype: str = "u1",
    **options: Any,
) -> Path:
    """Write a repository of virtual *arrays*, each a row of chunks in the order of its refs."""
    repository = create(path, containers=containers, spec=spec, **options)
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    for name, refs in arrays.items():
        add_virtual(session, root, name, refs, dtype)
    session.commit("virtual chunks")
    return path


def add_virtual(
    session: icechunk.Session,
    root: zarr.Group,
    name: str,
    refs: Sequence[Ref],
    dtype: str = "u1",
) -> None:
    """Add one virtual array to a session."""
    length = max(ref.length for ref in refs) // np.dtype(dtype).itemsize
    root.create_array(
        name,
        shape=(length * len(refs),),
        chunks=(length,),
        dtype=dtype,
        serializer=BytesCodec(endian="big" if dtype.startswith(">") else "little"),
        compressors=None,
    )
    session.store.set_virtual_refs(
        f"/{name}",
        [
            icechunk.VirtualChunkSpec(
                [index],
                ref.location,
                ref.offset,
                ref.length,
                ref.checksum if isinstance(ref.checksum, str) else None,
                datetime.datetime.fromtimestamp(ref.checksum, datetime.UTC)
                if isinstance(ref.checksum, int)
                else None,
            )
            for index, ref in enumerate(refs)
        ],
        validate_containers=False,
    )


def add_native(root: zarr.Group, name: str, data: np.ndarray, chunks: Any, **options: Any) -> None:
    """Add an array whose chunks the repository itself keeps."""
    options.setdefault("compressors", None)
    array = root.create_array(name, shape=data.shape, chunks=chunks, dtype=data.dtype, **options)
    array[...] = data


def key_encoding(store: icechunk.IcechunkStore, name: str, style: str, separator: str) -> None:
    """Give an array that was written with default keys another chunk key encoding.

    The library takes no other keys, but stores chunks by their coordinates and documents as they
    come.
    """
    prototype = default_buffer_prototype()
    found = sync(store.get(f"{name}/zarr.json", prototype))
    assert found is not None
    document = json.loads(found.to_bytes())
    document["chunk_key_encoding"] = {"name": style, "configuration": {"separator": separator}}
    content = prototype.buffer.from_bytes(json.dumps(document).encode())
    sync(store.set(f"{name}/zarr.json", content))


# -- changing files of a repository ------------------------------------------------------------

HEADER = 39
"""Bytes of a metadata file before its payload; the last of them says how that is compressed."""


def patch_payload(
    file: Path,
    *,
    field: int = 0,
    subfield: int = 0,
    old: int = 0,
    new: int = 0,
    text: tuple[bytes, bytes] | None = None,
) -> None:
    """Change a metadata file: the byte *subfield* of the table *field*, or the first place of a *text*."""
    content = file.read_bytes()
    payload = bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(content[HEADER:]))
    if text is not None:
        assert text[0] in payload
        assert len(text[0]) == len(text[1])
        payload = payload.replace(*text, 1)
    else:
        (root,) = struct.unpack_from("<I", payload, 0)
        place = _field(payload, root, field)
        table = place + struct.unpack_from("<I", payload, place)[0]
        place = _field(payload, table, subfield)
        assert payload[place] == old
        payload[place] = new
    file.write_bytes(content[: HEADER - 1] + b"\0" + payload)


def _field(payload: bytearray, table: int, index: int) -> int:
    """Return where a field of a flatbuffers table is."""
    vtable = table - struct.unpack_from("<i", payload, table)[0]
    (offset,) = struct.unpack_from("<H", payload, vtable + 4 + 2 * index)
    assert offset, "the field has its default value, and is not in the file"
    return table + offset
