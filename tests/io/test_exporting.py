"""References written from a snapshot: what can be said, what is left out, and how a file comes to be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numcodecs
import numpy as np
import pytest
import zarr
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem

from vzfs.access import Access, Relocation, StoreOptions
from vzfs.archival.building import ArrayDescription, HierarchyBuilder
from vzfs.errors import ConfigError
from vzfs.exporting import Export, gather, write_json, write_parquet
from vzfs.formats.zarr import parse_array_document
from vzfs.model.location import LastModified, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import ManifestBuilder, Omission, References, array_id, whole
from vzfs.model.snapshot import Array, Group, Node, RefSpec, VirtualChunkContainer
from vzfs.repository import check_out
from vzfs.repository.fixed import FixedRepository
from vzfs.views.fromv2 import array_from_v2, group_from_v2

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

LITTLE = [{"name": "bytes", "configuration": {"endian": "little"}}]
VALUES = np.arange(12, dtype="<i2").reshape(4, 3)


def described(**more: Any) -> ArrayDescription:
    fields = {
        "shape": [4, 3],
        "chunk_shape": [2, 3],
        "data_type": "int16",
        "fill_value": 7,
        "codecs": LITTLE,
        "dimension_names": ["y", "x"],
    }
    return ArrayDescription(**{**fields, **more})


def said(*_: int) -> None:
    """Hear of progress."""


async def export(
    references: References, *, is_parquet: bool = False, where: str = "/repository", **options: Any
) -> Export:
    repository = FixedRepository(references, format="test", where=where, state="AA", written_at=0)
    access = Access(parse_prefix(where), StoreOptions(), policies=(), **options)
    checkout = await check_out(repository, RefSpec())
    return await gather(checkout, access, is_parquet=is_parquet, advance=said)


def read(path: Path, array: str) -> np.ndarray:
    """Return what zarr-python and fsspec read of an array of references."""
    options: dict[str, Any] = {"fo": str(path)}
    if path.is_dir():
        options["fo"] = LazyReferenceMapper(str(path), fsspec.filesystem("file"), engine="pyarrow")
    system = ReferenceFileSystem(**options, remote_protocol="file", asynchronous=True, skip_instance_cache=True)  # fmt: skip
    store = zarr.storage.FsspecStore(system, read_only=True, path="")
    return np.asarray(zarr.open_array(store, path=array, mode="r", zarr_format=2)[...])


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(found: Export, path: Path, *, replace: bool = False) -> None:
    put = write_parquet if found.is_parquet else write_json
    put(found, path, said, replace=replace)


# -- what is read of what was written --------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "parq"])
async def test_references_are_read_by_fsspec(tmp_path: Path, suffix: str) -> None:
    """Chunks in files, inlined ones and missing ones are read as they are, of arrays of any dimension, at any depth."""
    data = VALUES.tobytes()
    source = tmp_path / "odd #1 100%.bin"
    source.write_bytes(b"head" + data)
    builder = HierarchyBuilder(source.as_uri(), LastModified(2**32))
    array = builder.array("/g/a", described())
    array.virtual((0, 0), 4, 12)
    array.virtual((1, 0), 16, 12)
    array = builder.array("/g/ü h/gaps", described())
    array.inline((1, 0), data[12:])
    scalar = builder.array("/scalar", described(shape=[], chunk_shape=[], dimension_names=[]))
    scalar.inline((), data[2:4])
    builder.array("/never", described())
    found = await export(builder.build(), is_parquet=suffix == "parq")

    write(found, path := tmp_path / f"refs.{suffix}")

    assert not found.left_out
    assert found.has_checksums
    assert found.chunks[ChunkKind.VIRTUAL] == 2
    assert np.array_equal(read(path, "g/a"), VALUES)
    expected = np.concatenate([np.full((2, 3), 7), VALUES[2:]])
    assert np.array_equal(read(path, "g/ü h/gaps"), expected)
    assert read(path, "scalar") == 1
    assert np.array_equal(read(path, "never"), np.full((4, 3), 7))


@pytest.mark.parametrize("suffix", ["json", "parq"])
async def test_zarr_v2_is_written_as_it_was_found(tmp_path: Path, suffix: str) -> None:
    """Documents of Zarr v2 stay what they were, filters that Zarr v3 does not know included, but keys have dots."""
    values = VALUES[::2]
    zarray = {
        "zarr_format": 2, "shape": [2, 3], "chunks": [1, 3], "dtype": "<i2", "fill_value": None, "order": "C",
        "filters": [{"id": "delta", "dtype": "<i2"}], "compressor": {"id": "zlib", "level": 1},
        "dimension_separator": "/", "mine": 1,
    }  # fmt: skip
    unknown = {**zarray, "filters": [{"id": "unheard-of"}], "dimension_separator": "."}
    originals = {
        "/a": {".zarray": json.dumps(zarray).encode(), ".zattrs": b'{ "units": "K" }'},
        "/b": {".zarray": json.dumps(unknown, indent=2).encode()},
    }
    nodes: list[Node] = [
        Group(path="/", documents={"zarr.json": group_from_v2(None)}, originals={".zgroup": b'{"zarr_format":2} '}),
        *(_array(path, found) for path, found in originals.items()),
    ]  # fmt: skip
    encode = numcodecs.Zlib(1).encode
    chunks = [encode(numcodecs.Delta("<i2").encode(row)) for row in values]
    manifests = {array_id(path): _inlined(chunks) for path in originals}

    found = await export(References(tuple(nodes), manifests), is_parquet=suffix == "parq")
    write(found, path := tmp_path / f"refs.{suffix}")

    assert found.documents[".zgroup"] == b'{"zarr_format":2} '
    assert found.documents["a/.zattrs"] == originals["/a"][".zattrs"]
    assert found.documents["b/.zarray"] == originals["/b"][".zarray"]
    assert json.loads(found.documents["a/.zarray"]) == {**zarray, "dimension_separator": "."}
    assert np.array_equal(read(path, "a"), values)


def _array(path: str, originals: Mapping[str, bytes]) -> Array:
    document = array_from_v2(originals[".zarray"], originals.get(".zattrs"))
    layout = parse_array_document(document)
    return Array(
        path=path,
        documents={"zarr.json": document},
        originals=originals,
        id=array_id(path),
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=whole(path, layout.grid),
    )


def _inlined(chunks: list[bytes]) -> Any:
    builder = ManifestBuilder()
    for flat, chunk in enumerate(chunks):
        builder.add(flat, ChunkRef(ChunkKind.INLINE, len(chunk), inline=chunk))
    return builder.build()


# -- where chunks are ------------------------------------------------------------------------------


def refs_at(kind: ChunkKind, location: str, length: int = 12) -> References:
    builder = HierarchyBuilder("file:///nowhere")
    refs = builder.array("/a", described()).refs
    refs.add(0, ChunkRef(kind, length, location, 5))
    return builder.build()


async def test_chunks_of_a_repository_are_its_files() -> None:
    """A chunk that the repository itself has is named by its file."""
    found = await export(refs_at(ChunkKind.NATIVE, "chunks/A"), where="s3://bucket/a%20repo")

    assert found.arrays[0].parts[0].urls == ["s3://bucket/a repo/chunks/A"]


async def test_chunks_lie_where_the_user_says() -> None:
    """Locations are resolved and mapped; whether they may be read does not matter."""
    container = VirtualChunkContainer("s3://old/archive/", "archive")
    moved = Relocation(parse_prefix("s3://old/archive"), parse_prefix("/new"))

    found = await export(
        refs_at(ChunkKind.VIRTUAL, "vcc://archive/x%20y"),
        containers=[container],
        relocations=[moved],
    )

    assert found.arrays[0].parts[0].urls == ["file:///new/x y"]


async def test_a_chunk_without_bytes_is_no_range() -> None:
    """A chunk of no length would be a whole object to fsspec, so it is given as no bytes."""
    found = await export(refs_at(ChunkKind.VIRTUAL, "s3://b/x", length=0), is_parquet=True)

    assert not found.left_out
    assert found.arrays[0].parts[0].urls == [""]


@pytest.mark.parametrize("suffix", ["json", "parq"])
async def test_an_object_that_is_not_there_is_whole(tmp_path: Path, suffix: str) -> None:
    """An object of which nobody knew the length is named without one, so that whatever is there later is read whole."""
    later = tmp_path / "later"
    builder = HierarchyBuilder("file:///nowhere")
    refs = builder.array("/a", described()).refs
    refs.add(0, ChunkRef(ChunkKind.VIRTUAL, 7, later.as_uri(), 0, LastModified(0)))
    refs.add(1, ChunkRef(ChunkKind.VIRTUAL, 12, later.as_uri(), 0, LastModified(5)))
    found = await export(builder.build(), is_parquet=suffix == "parq")

    write(found, path := tmp_path / f"refs.{suffix}")
    later.write_bytes(VALUES[:2].tobytes())

    assert np.array_equal(read(path, "a"), np.concatenate([VALUES[:2]] * 2))
    if suffix == "json":
        said = json.loads(path.read_bytes())["refs"]
        assert said["a/0.0"] == [later.as_uri()]
        assert said["a/1.0"] == [later.as_uri(), 0, 12]


# -- what is left out ------------------------------------------------------------------------------


async def test_what_cannot_be_said_is_left_out_whole_and_named() -> None:
    """An array with one chunk that cannot be said, or that Zarr v2 cannot say, is left out, and so named, as is what its source left out."""
    builder = HierarchyBuilder("s3://b/f")
    builder.array("/good", described()).virtual((0, 0), 0, 12)
    refs = builder.array("/lost", described()).refs
    refs.add(0, ChunkRef(ChunkKind.INLINE, 12, inline=bytes(12)))
    refs.add(1, ChunkRef(ChunkKind.VIRTUAL, 12, "unreadable: nobody knows"))
    shards = {
        "chunk_shape": [1, 3],
        "codecs": LITTLE,
        "index_codecs": [*LITTLE, {"name": "crc32c"}],
    }
    sharding = {"name": "sharding_indexed", "configuration": shards}
    builder.array("/sharded", described(codecs=[sharding]))
    builder.omit("/before", "it never was")

    found = await export(builder.build())

    assert [array.path for array in found.arrays] == ["good/"]
    assert [name for name in found.documents if name.endswith(".zarray")] == ["good/.zarray"]
    assert found.left_out[0] == Omission("/before", "it never was")
    reasons = {left.path: left.reason for left in found.left_out}
    assert reasons.keys() == {"/before", "/lost", "/sharded"}
    assert "nobody can read it" in reasons["/lost"]
    assert "shards" in reasons["/sharded"]


async def test_parquet_says_less() -> None:
    """In Parquet there is no array at the root, and no chunk that looks like base64."""
    builder = HierarchyBuilder("s3://b/f")
    builder.array("/a", described()).inline((0, 0), b"base64:AAAAA")
    for_json = await export(builder.build())
    for_parquet = await export(builder.build(), is_parquet=True)
    assert [left.path for left in for_json.left_out] == []
    assert [left.path for left in for_parquet.left_out] == ["/a"]

    (node,) = (n for n in builder.build().nodes if isinstance(n, Array))
    root = References((_array("/", {".zarray": b'{"zarr_format":2,"shape":[1],"chunks":[1],"dtype":"|u1","fill_value":0,"order":"C","filters":null,"compressor":null}'}),), {array_id("/"): _inlined([b"x"])})  # fmt: skip
    assert node.path == "/a"
    assert not (await export(root)).left_out
    assert [left.path for left in (await export(root, is_parquet=True)).left_out] == ["/"]


async def test_a_group_without_sound_attributes() -> None:
    """Attributes that are no JSON are left out by their name; the group is there."""
    originals = {".zgroup": b'{"zarr_format":2}', ".zattrs": b"{"}
    group = Group(path="/", documents={"zarr.json": group_from_v2(None)}, originals=originals)

    found = await export(References((group,), {}))

    assert list(found.documents) == [".zgroup"]
    assert [left.path for left in found.left_out] == ["/.zattrs"]


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "parq"])
async def test_references_are_replaced_only_if_told(tmp_path: Path, suffix: str) -> None:
    """What is there stays unless it is to be replaced, and then it is references; nothing else is left behind."""
    one = await export(refs_at(ChunkKind.VIRTUAL, "s3://b/one"), is_parquet=suffix == "parq")
    two = await export(refs_at(ChunkKind.VIRTUAL, "s3://b/two"), is_parquet=suffix == "parq")
    path = tmp_path / f"refs.{suffix}"

    write(one, path)
    with pytest.raises(ConfigError, match="it exists"):
        write(two, path)
    assert _mentions(path, b"s3://b/one")
    write(two, path, replace=True)

    assert _mentions(path, b"s3://b/two")
    assert not _mentions(path, b"s3://b/one")
    assert entries(tmp_path) == [path.name]


def _mentions(path: Path, text: bytes) -> bool:
    if not path.is_dir():
        return text in path.read_bytes()
    mapper = LazyReferenceMapper(str(path), fsspec.filesystem("file"), engine="pyarrow")
    return bool(mapper["a/0.0"][0] == text.decode())


async def test_nothing_but_references_is_replaced(tmp_path: Path) -> None:
    """A folder that holds no references is never removed, nor a folder for a file, or a link."""
    json_export = await export(refs_at(ChunkKind.VIRTUAL, "s3://b/x"))
    parquet = await export(refs_at(ChunkKind.VIRTUAL, "s3://b/x"), is_parquet=True)
    folder = tmp_path / "precious.parq"
    folder.mkdir()
    (folder / ".zmetadata").write_bytes(b"{}")
    references = tmp_path / "references.parq"
    write(parquet, references)
    link = tmp_path / "link.parq"
    link.symlink_to(references)

    for found, path in ((parquet, folder), (json_export, folder), (parquet, link)):
        with pytest.raises(ConfigError, match="not written"):
            write(found, path, replace=True)

    assert (folder / ".zmetadata").read_bytes() == b"{}"
    assert (references / "a" / "refs.0.parq").exists()


@pytest.mark.parametrize("suffix", ["json", "parq"])
async def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    """Where writing fails, there is an error in one line, and no part of what was to be written."""
    found = await export(refs_at(ChunkKind.VIRTUAL, "s3://b/x"), is_parquet=suffix == "parq")

    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write(found, tmp_path / "missing" / f"refs.{suffix}")

    def interrupted(*_: int) -> None:
        raise KeyboardInterrupt

    put = write_parquet if found.is_parquet else write_json
    with pytest.raises(KeyboardInterrupt):
        put(found, tmp_path / f"refs.{suffix}", interrupted, replace=False)
    assert entries(tmp_path) == []
