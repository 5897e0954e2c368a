"""The decoders of kerchunk's references: JSON, Parquet, and what stands beside it."""

import io
import json
import random
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import corpus, mutations, use
from vzfs.formats.kerchunk import looks_like_kerchunk
from vzfs.formats.kerchunk.jsonfile import Documents
from vzfs.formats.kerchunk.partitions import (
    count_partitions,
    decode_metadata,
    decode_partition,
    regions,
)
from vzfs.formats.parquet.table import MAX_ROWS, read_table
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import parse_prefix
from vzfs.model.snapshot import ManifestRef, Snapshot
from vzfs.repository.documents import read_nodes
from vzfs.repository.kerchunk import read_json

FOLDER = parse_prefix("s3://bucket/refs")
LIMIT = 2**24
"""Bytes that a compressed file may unpack to here: a mebibyte may take a second."""
GENERATED = 20_000


def run_json(data: bytes) -> None:
    """Read references, and use the hierarchy and the manifests that they make."""
    looks_like_kerchunk(data[:1000])
    read = read_json(data, FOLDER, limit=LIMIT, max_generated=GENERATED)
    nodes = read.references.nodes
    use.use_snapshot(Snapshot(id="", written_at=0, message="", metadata={}, nodes=nodes))
    assert all(o.path.isprintable() or o.path for o in read.references.omissions)
    assert all(len(o.reason) <= 600 for o in read.references.omissions)
    grids = {array.id: array.grid for array in nodes if hasattr(array, "grid")}
    for name in use.some(grids):
        use.use_manifest(read.references.manifests[name], grids[name])
        assert all(row < len(read.drafts[name].manifest) for row in read.drafts[name].whole)


def jsons() -> Iterable[bytes]:
    """Yield references in JSON."""
    array = {"zarr_format": 2, "shape": [3, 4], "chunks": [1, 2], "dtype": "<f4", "order": "C",
             "fill_value": None, "filters": None, "compressor": None}  # fmt: skip
    refs = {
        ".zgroup": '{"zarr_format":2}',
        "a/.zarray": json.dumps(array),
        "a/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]},
        "a/0.0": ["s3://b/x", 0, 10],
        "a/0.1": ["{{u}}/y"],
        "a/1.0": ["{{f(c='t')}}", 5, 6],
        "a/1.1": "base64:AAEC",
        "g/b/zarr.json": corpus.DOCUMENT,
        "g/b/c/0": "text",
    }
    entry = {"key": "a/2.{{i}}", "url": "{{u}}_{{'%02d' % i}}", "offset": "{{i * 4 + 1}}",
             "length": "4", "dimensions": {"i": {"stop": 2}, "j": [1, 2]}}  # fmt: skip
    templates = {"u": "s3://bucket/path", "f": "{{c}}"}
    yield json.dumps({"version": 1, "templates": templates, "gen": [entry], "refs": refs}).encode()
    yield json.dumps(refs).encode()
    yield from corpus.files("kerchunk/*.json")


def damage_json(rng: random.Random, data: bytes) -> bytes:
    """Damage references as a tree, or as text: expressions too."""
    if rng.randrange(3):
        return mutations.json_value(rng, data)
    words = [b"{{", b"}}", b"{{i", b"|format(", b" % ", b"~", b"'%05d'", b"::", b"base64:", b".zarray",
             b"/0/0", b"{{" + b"(" * 50, b"9" * 30]  # fmt: skip
    return mutations.havoc(rng, data, words)


def run_parquet(data: bytes) -> None:
    """Read a table, and the manifest that it makes if its size is right."""
    rows = read_table(data, integers=("offset", "size"), texts=("path", "raw")).rows
    record_size = min(max(rows, 1), MAX_ROWS)
    grid = ChunkGrid((2, record_size))
    for partition in (0, 1):
        found = decode_partition(data, partition, record_size, grid, FOLDER)
        use.use_manifest(found.manifest, grid)


def parquets() -> Iterable[bytes]:
    """Yield partitions of references, most of them not compressed, so that damage reaches what they say."""
    paths = ["s3://b/x", None, "y.nc", "s3://b/x", "/z", None] * 4
    table = pa.table(
        {
            "path": paths,
            "offset": pa.array(range(24), pa.int64()),
            "size": pa.array([7] * 12 + [0] * 12, pa.int32()),
            "raw": pa.array([None, b"data"] * 12, pa.binary()),
        }
    )
    for compression in ("none", "none", "snappy", "gzip", "zstd"):
        for version in ("1.0", "2.0"):
            file = io.BytesIO()
            options = {"compression": compression, "data_page_version": version}
            pq.write_table(table, file, row_group_size=15, **options)
            yield file.getvalue()
    yield from corpus.files("kerchunk/*.parq/**/refs.*.parq")


def run_metadata(data: bytes) -> None:
    """Read the documents of a set, and say which regions its partitions speak for."""
    found = decode_metadata(data, LIMIT)
    if found is None:
        return

    def manifests(path: str, grid: ChunkGrid) -> list[ManifestRef]:
        count = count_partitions(grid, found.record_size)
        return [
            ManifestRef(f"{path}/{partition}", extents)
            for partition in {0, count // 2, max(count - 1, 0)}
            for extents in regions(grid, found.record_size, partition)
        ]

    documents: Documents = found.documents
    nodes = read_nodes(documents, manifests).nodes
    use.use_snapshot(Snapshot(id="", written_at=0, message="", metadata={}, nodes=nodes))


def metadatas() -> Iterable[bytes]:
    """Yield `.zmetadata` of sets of references."""
    array = {"zarr_format": 2, "shape": [30, 4, 5], "chunks": [1, 2, 1], "dtype": "<f4", "order": "C",
             "fill_value": None, "filters": None, "compressor": None}  # fmt: skip
    metadata = {
        ".zgroup": {"zarr_format": 2},
        "a/.zarray": array,
        "b/.zarray": {**array, "chunks": [1]},
    }
    yield json.dumps({"metadata": metadata, "record_size": 7}).encode()
    yield from corpus.files("kerchunk/*.parq/.zmetadata")
