"""Opening references of kerchunk as the mount does, and reading all that they hold."""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy, Relocation
from vzfs.errors import VzfsError
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import Array, Group, RefSpec
from vzfs.repository import Checkout
from vzfs.repository.fixed import FixedRepository
from vzfs.repository.kerchunk import open_kerchunk_json, open_kerchunk_parquet
from vzfs.repository.repository import check_out
from vzfs.repository.storage import Storage
from vzfs.source import Fetcher, Places, Source

PUBLISHED = "file:///srv/vzfs-data/public"
"""Where references of the real data say that it lies."""


@dataclasses.dataclass
class Opened:
    """References that were opened, and what they are read through."""

    repository: FixedRepository
    checkout: Checkout
    access: Access
    fetcher: Fetcher

    @property
    def arrays(self) -> Mapping[str, Array]:
        nodes = self.checkout.snapshot.nodes
        return {node.path: node for node in nodes if isinstance(node, Array)}

    @property
    def groups(self) -> list[str]:
        return [node.path for node in self.checkout.snapshot.nodes if isinstance(node, Group)]

    @property
    def omissions(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for omission in self.repository.omissions:
            found.setdefault(omission.path, []).append(omission.reason)
        return found

    async def refs(self, path: str) -> Mapping[tuple[int, ...], ChunkRef]:
        """Return all refs of an array by their coordinates."""
        array = self.arrays[path]
        refs = self.checkout.refs(array)
        await refs.load(())
        coords = [array.grid.unravel(flat) for flat, _ in refs.all_chunks()]
        found = {c: refs.find(c) for c in coords}
        return {c: ref for c, ref in found.items() if ref is not None}

    async def find(self, path: str, coords: tuple[int, ...]) -> ChunkRef | None:
        refs = self.checkout.refs(self.arrays[path])
        await refs.load(coords)
        return refs.find(coords)

    async def read(self, ref: ChunkRef) -> bytes:
        """Return the bytes of a chunk. Raises VzfsError."""
        if ref.kind is ChunkKind.INLINE:
            return bytes(ref.inline)
        return bytes((await self.fetcher.fetch(self.access.authorize(ref))).data)

    async def files(self) -> tuple[dict[str, bytes], Counter[str]]:
        """Return all as the files of a Zarr v3 hierarchy, and how many chunks of which array cannot be read."""
        files: dict[str, bytes] = {}
        failed: Counter[str] = Counter()
        for node in self.checkout.snapshot.nodes:
            head = node.path.lstrip("/")
            for name, document in node.documents.items():
                files[f"{head}/{name}".lstrip("/")] = document
        for path, array in self.arrays.items():
            for coords, ref in (await self.refs(path)).items():
                key = f"{path}/{array.key_encoding.encode(coords)}".lstrip("/")
                try:
                    files[key] = await self.read(ref)
                except VzfsError:
                    failed[path] += 1
        return files, failed


async def open_path(path: Path, data: Path | None = None) -> Opened:
    """Open a local file or folder of references, and let them lead anywhere; *data* is where real data lie."""
    moved = [Relocation(parse_prefix(PUBLISHED), parse_prefix(str(data)))] if data else []
    allowed = [AccessPolicy(parse_prefix(str(folder))) for folder in (data, path.parent) if folder]
    access = Access(parse_prefix(str(path)), policies=allowed, relocations=moved, containers=None)
    return await open_with(Source(places=Places(8)), access, is_folder=path.suffix == ".parq")


async def open_with(fetcher: Fetcher, access: Access, *, is_folder: bool) -> Opened:
    storage = Storage(fetcher, access)
    opening = open_kerchunk_parquet(storage) if is_folder else open_kerchunk_json(storage)
    repository = await opening
    assert repository is not None
    return Opened(repository, await check_out(repository, RefSpec()), access, fetcher)


FILE = "s3://b/refs/x.json"
"""Where references lie that a test makes."""


async def open_json(
    value: object, fetcher: FakeSource | None = None, allowed: Iterable[str] = ("s3://b",)
) -> Opened:
    """Open references that say *value*."""
    fetcher = fetcher or FakeSource()
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    fetcher.put(FILE, data)
    policies = [AccessPolicy(parse_prefix(prefix)) for prefix in allowed]
    access = Access(parse_prefix(FILE), policies=policies, containers=None)
    return await open_with(fetcher, access, is_folder=False)


def zarray(shape: Sequence[int], chunks: Sequence[int], **fields: Any) -> dict[str, Any]:
    """Return a `.zarray` of bytes."""
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": "|u1",
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
        **fields,
    }


SET = "s3://b/refs/x.parq"
"""Where a folder of references lies that a test makes."""

type Row = tuple[str | None, int | None, int | None, bytes | None]


def partition(rows: Sequence[Row], **options: Any) -> bytes:
    """Return a partition with these paths, offsets, sizes and inlined bytes."""
    file = io.BytesIO()
    columns = list(zip(*rows, strict=True))
    types = (pa.string(), pa.int64(), pa.int64(), pa.binary())
    arrays = [pa.array(column, type_) for column, type_ in zip(columns, types, strict=True)]
    table = pa.Table.from_arrays(arrays, names=["path", "offset", "size", "raw"])
    pq.write_table(table, file, **{"compression": "zstd", **options})
    return file.getvalue()


def put_set(
    fetcher: FakeSource,
    metadata: Mapping[str, object],
    record_size: int,
    partitions: Mapping[str, bytes],
    where: str = SET,
) -> None:
    """Store a folder of references: documents by their keys, partitions by theirs."""
    fetcher.put(
        f"{where}/.zmetadata",
        json.dumps({"metadata": metadata, "record_size": record_size}).encode(),
    )
    for key, data in partitions.items():
        fetcher.put(f"{where}/{key}", data)


async def open_set(
    fetcher: FakeSource, where: str = SET, allowed: Iterable[str] = ("s3://b",)
) -> Opened:
    """Open the folder of references at *where*."""
    policies = [AccessPolicy(parse_prefix(prefix)) for prefix in allowed]
    access = Access(parse_prefix(where), policies=policies, containers=None)
    return await open_with(fetcher, access, is_folder=True)
