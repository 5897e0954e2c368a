"""Plain Zarr: ZIP files with what is in them, and consolidated metadata."""

import io
import json
import struct
import zipfile
from collections.abc import Iterable
from typing import Final

from tests.fuzz import mutations
from vzfs.errors import ErrorKind, FormatError
from vzfs.formats import zip
from vzfs.formats.consolidated import documents_of_v2, documents_of_v3, is_of_kerchunk
from vzfs.model.snapshot import Array
from vzfs.repository.zarrnodes import Hierarchy, build

_V2_ARRAY: Final = {
    "zarr_format": 2,
    "shape": [4, 6],
    "chunks": [2, 2],
    "dtype": "<i2",
    "fill_value": 0,
    "order": "C",
    "filters": None,
    "compressor": {"id": "zlib", "level": 1},
}


def run_zip(data: bytes) -> None:
    """Read a ZIP file and unpack its members; none reaches beyond what it says."""
    directory = zip.find_directory(data[-zip.TAIL :], len(data))
    assert 0 <= directory.offset <= directory.offset + directory.size <= len(data)
    members = zip.read_directory(data[directory.offset :][: directory.size], directory)
    problem: FormatError | None = None
    for name, member in members.items():
        assert name
        assert not name.endswith("/")
        assert member.local + member.header + member.compressed <= directory.offset
        try:
            start = zip.data_offset(data[member.local :][: member.header], member, directory)
            assert start + member.compressed <= directory.offset
            if member.size <= 2**20:
                unpacked = zip.unpack(data[start : start + member.compressed], member)
                assert len(unpacked) == member.size
        except FormatError as error:
            problem = error
    if problem is not None:
        raise problem


def zips() -> Iterable[bytes]:
    """Yield ZIP files: stored, compressed, of unknown length, with a comment, with 64 bits."""
    files = {"zarr.json": b'{"zarr_format": 3}', "a/c/0/1": bytes(100), "é": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for is_large in (False, True):
            target = io.BytesIO()
            with zipfile.ZipFile(target, "w", method) as archive:
                archive.comment = b"a comment" * is_large
                for name, data in files.items():
                    with archive.open(name, "w", force_zip64=is_large) as member:
                        member.write(data)
            yield target.getvalue()


ZIP_DAMAGE: Final = mutations.with_tokens(
    b"PK\1\2",
    b"PK\3\4",
    b"PK\5\6",
    b"PK\6\6",
    b"PK\6\7",
    b"\xff\xff\xff\xff",
    b"\1\0\x18\0" + b"\xff" * 24,
    struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1),
    struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0),
)


def run_consolidated(data: bytes) -> Hierarchy:
    """Read consolidated metadata of either version, and make nodes of it: a tree, and nothing in arrays."""
    is_of_kerchunk(data)
    below = documents_of_v3(data) or documents_of_v2(data)
    if below is None:
        raise FormatError(ErrorKind.CORRUPT_METADATA, "this is no consolidated metadata")
    found = build({**below, "": {"zarr.json": b'{"zarr_format":3,"node_type":"group"}'}}, [])
    paths = [node.path for node in found.nodes]
    groups = {node.path for node in found.nodes if not isinstance(node, Array)}
    assert len(set(paths)) == len(paths)
    for path in paths[1:]:
        assert (path.rpartition("/")[0] or "/") in groups
    assert len(found.state) == 40
    return found


def consolidated() -> Iterable[bytes]:
    """Yield consolidated metadata of both versions."""
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": "int16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    words = {"kind": "inline", "metadata": {"a": array, "g": group, "g/b": array}}
    yield json.dumps({**group, "consolidated_metadata": words}).encode()
    metadata = {
        ".zgroup": {"zarr_format": 2},
        "a/.zarray": _V2_ARRAY,
        "a/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]},
        "g/.zgroup": {"zarr_format": 2},
        "g/b/.zarray": {**_V2_ARRAY, "dimension_separator": "/"},
    }
    yield json.dumps({"zarr_consolidated_format": 1, "metadata": metadata}).encode()
