"""Plain Zarr as a repository: what is found, by how few requests, and that nothing is taken for absent that is not."""

import gc
import json
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.conformance import plain_environment
from tests.fakes import FakeSource
from tests.io.shown import STORED, arrays_of, digests, files_of, refs_of, truth
from tests.pure.viewing import array_document, group_document
from tests.servers import ObjectServer
from vzfs.access import Access, AuthorizedPrefix, StoreOptions
from vzfs.cache import DiskCache
from vzfs.errors import ErrorKind, FormatError, RepositoryError, SourceError, VzfsError
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.location import ETag, parse_prefix
from vzfs.model.references import Omission
from vzfs.model.snapshot import Array, Extents, Group, Node, RefSpec
from vzfs.repository import Checkout, check_out, zarrstore
from vzfs.repository import zarrnodes as nodes_module
from vzfs.repository.lengths import NEVER
from vzfs.repository.storage import NoSource, Remembered, Storage
from vzfs.repository.zarrchunks import (
    ASKED,
    LISTED,
    MAX_ASKED,
    MAX_REGIONS,
    ChunkKeys,
    chunks_of,
    regions_to_ask,
    regions_to_list,
)
from vzfs.repository.zarrstore import ZarrRepository, open_zarr
from vzfs.source import Fetcher, Listed, Places, Source, Timing
from vzfs.views.view import View, ViewName

S3, WEB = "s3://bucket/data", "https://host.example/data"
STORES = [
    "ome_v2.zarr",
    "titiler_5d.zarr",
    "titiler_pyramid.zarr",
    "titiler_store_v2.zarr",
    "titiler_store_v3.zarr",
    "zarr_implementations.zr",
    "zarrita_v2.zarr",
    "zarrita_v3.zarr",
    "zarrjs_empty.zarr",
    "zarrjs_simple_nested.zarr",
    "zarrs_hierarchy.zarr",
    "zarrs_v2_array_bz2_C.zarr",
    "zarrs_v2_array_none_F.zarr",
    "zarrs_v3_array_blosc_transpose.zarr",
    "zarrs_v3_array_zstd.zarr",
]
JSON2 = {"1d.contiguous.json2.O"}
"""Arrays for whose objects Zarr v3 has no name."""


def access_to(root: str, store: StoreOptions | None = None) -> Access:
    return Access(parse_prefix(root), store or StoreOptions()).with_containers(None)


async def opened(source: Fetcher, root: str) -> ZarrRepository:
    found = await open_zarr(Storage(source, access_to(root)))
    assert found is not None
    return found


async def checked_out(source: Fetcher, root: str) -> Checkout:
    return await check_out(await opened(source, root), RefSpec())


def put(source: FakeSource, root: str, files: Mapping[str, bytes]) -> None:
    for key, data in files.items():
        source.put(f"{root}/{key}", data)


def paths(repository: ZarrRepository) -> list[str]:
    return [node.path for node in repository._snapshot.nodes]


@pytest.fixture
def source() -> FakeSource:
    """Give a source without objects."""
    return FakeSource()


# -- real hierarchies --------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Run a server that speaks S3 and HTTP, and counts."""
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        yield server


def consolidated(folder: Path, copy: Path) -> Path:
    """Return a copy of a hierarchy that has consolidated metadata, unless it is one array."""
    shutil.copytree(folder, copy)
    names = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
    found = {
        str(path.relative_to(copy)): json.loads(path.read_bytes())
        for path in sorted(copy.rglob("*"))
        if path.name in names
    }
    if ".zgroup" in found:
        document = {"zarr_consolidated_format": 1, "metadata": found}
        (copy / ".zmetadata").write_text(json.dumps(document))
    elif found.get("zarr.json", {}).get("node_type") == "group":
        metadata = {key.removesuffix("/zarr.json"): found[key] for key in found if "/" in key}
        consolidated = {"kind": "inline", "must_understand": False, "metadata": metadata}
        document = {**found["zarr.json"], "consolidated_metadata": consolidated}
        (copy / "zarr.json").write_text(json.dumps(document))
    return copy


@pytest.mark.parametrize("place", ["local", "s3", "http"])
@pytest.mark.parametrize("name", STORES)
async def test_real_hierarchies(
    data: Path, tmp_path: Path, server: ObjectServer, name: str, place: str
) -> None:
    """Every array equals what is known of it, as stored, and in the portable view, wherever the hierarchy lies."""
    folder = data / "zarr" / name
    source = Source(Timing(deadline=20), places=Places(256))
    access = access_to(str(folder))
    if place != "local":
        if place == "http":
            folder = consolidated(folder, tmp_path / "copy")
        for path in folder.rglob("*"):
            if path.is_file():
                server.put(f"bucket/data/{path.relative_to(folder)}", path.read_bytes())
        store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
        root = S3 if place == "s3" else f"{server.url}/bucket/data"
        access = access_to(root, store if place == "s3" else None)
    repository = await open_zarr(Storage(source, access))
    assert repository is not None
    expected = truth(data, f"zarr/{name}")
    view = STORED if place != "local" else View(ViewName.PORTABLE)
    files = await files_of(repository, source, access, view)
    found = digests(data, arrays_of(files))
    assert {path: found.get(path) for path in expected} == expected
    assert {omission.path[1:] for omission in repository.omissions} <= JSON2
    chunks = sum(node.grid.size for node in repository._snapshot.nodes if isinstance(node, Array))
    assert server.count("HEAD") <= (1 + chunks if place == "http" else 1)


# -- finding nodes -----------------------------------------------------------------------------

V3_ARRAY = array_document(shape=(4, 6), chunks=(2, 2))
V2_ARRAY = json.dumps(
    {
        "zarr_format": 2,
        "shape": [4, 6],
        "chunks": [2, 2],
        "dtype": "<i2",
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
    }
).encode()
V2_GROUP = b'{"zarr_format": 2}'


def array_v3(path: str, chunks: range = range(0)) -> dict[str, bytes]:
    """Return the files of an array of two dimensions, with so many chunks of its first row."""
    return {f"{path}/zarr.json": V3_ARRAY} | {f"{path}/c/0/{i}": bytes(8) for i in chunks}


HIERARCHY = {
    "zarr.json": group_document({"title": "x"}),
    **array_v3("top", range(2)),
    "sub/zarr.json": group_document(),
    **array_v3("sub/a", range(3)),
    **array_v3("sub/b b"),
    "sub/deep/zarr.json": group_document(),
    "unrelated/folder/file": b"x",
}


async def test_groups_are_listed_and_arrays_are_not(source: FakeSource) -> None:
    """Each group costs a listing of one level; of arrays, and of folders that are no nodes, nothing is listed."""
    put(source, S3, HIERARCHY)
    repository = await opened(source, S3)
    assert paths(repository) == ["/", "/sub", "/sub/a", "/sub/b b", "/sub/deep", "/top"]
    assert repository.omissions == ()
    assert repository.format == "Zarr v3"
    assert sorted(source.listed) == [f"{S3}/", f"{S3}/sub/", f"{S3}/sub/deep/"]
    root = repository._snapshot.nodes[0]
    assert root.documents["zarr.json"] == HIERARCHY["zarr.json"]


async def test_consolidated_metadata_says_all(source: FakeSource) -> None:
    """With consolidated metadata no group is listed, and nothing but the root's documents is read."""
    members = {key.removesuffix("/zarr.json"): json.loads(HIERARCHY[key]) for key in HIERARCHY if key.endswith("/zarr.json")}  # fmt: skip
    words = {"kind": "inline", "must_understand": False, "metadata": members}
    put(source, S3, HIERARCHY)
    source.put(f"{S3}/zarr.json", group_document(consolidated_metadata=words))
    repository = await opened(source, S3)
    assert paths(repository) == ["/", "/sub", "/sub/a", "/sub/b b", "/sub/deep", "/top"]
    assert source.listed == [f"{S3}/zarr.json/"]
    assert source.statistics().gets == 5
    assert source.statistics().heads == 1


@pytest.mark.parametrize("root", [S3, WEB])
async def test_consolidated_metadata_of_zarr_v2(source: FakeSource, root: str) -> None:
    """`.zmetadata` says all of a hierarchy of Zarr v2, and groups that it leaves out are there."""
    metadata = {
        ".zgroup": json.loads(V2_GROUP),
        "a/b/.zarray": json.loads(V2_ARRAY),
        "a/b/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]},
        "c/.zgroup": json.loads(V2_GROUP),
        "c/.other": {},
    }
    source.put(f"{root}/.zgroup", V2_GROUP)
    source.put(f"{root}/.zmetadata", json.dumps({"metadata": metadata}).encode())
    source.put(f"{root}/a/b/1.2", bytes(8))
    repository = await opened(source, root)
    assert paths(repository) == ["/", "/a", "/a/b", "/c"]
    assert repository.format == "Zarr v2"
    array = repository._snapshot.nodes[2]
    assert json.loads(array.documents["zarr.json"])["dimension_names"] == ["y", "x"]
    assert json.loads(array.originals[".zarray"]) == json.loads(V2_ARRAY)
    assert repository._snapshot.nodes[1].originals == {}
    refs = await refs_of(await check_out(repository, RefSpec()), "/a/b")
    assert {coords: ref.location for coords, ref in refs.items()} == {(1, 2): "a/b/1.2"}


async def test_originals_are_kept_byte_for_byte(source: FakeSource) -> None:
    """Without consolidated metadata the documents of Zarr v2 are kept as they are."""
    spaced = V2_ARRAY.replace(b":", b" : ")
    put(source, S3, {".zgroup": V2_GROUP, ".zattrs": b'{"a": 1}', "x/.zarray": spaced})
    root, array = (await opened(source, S3))._snapshot.nodes
    assert root.originals == {".zgroup": V2_GROUP, ".zattrs": b'{"a": 1}'}
    assert array.originals == {".zarray": spaced}


async def test_zarr_v3_counts_where_both_are(source: FakeSource) -> None:
    """Where a node has documents of both versions, those of Zarr v3 count, and their chunk keys."""
    both = {"zarr.json": array_document((4, 6), (2, 2)), ".zarray": V2_ARRAY}
    put(source, S3, {**both, "0.0": bytes(8), "c/1/1": bytes(8)})
    checkout = await checked_out(source, S3)
    assert [ref.location for ref in (await refs_of(checkout, "/")).values()] == ["c/1/1"]
    assert checkout.snapshot.nodes[0].originals == {}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"data.nc": b"x"},
        {"repo": b"ICE", "snapshots/A": b"x"},
        {".zattrs": b"{}"},
        {".zmetadata": b"{}"},
        {".zmetadata": json.dumps({"metadata": {".zgroup": {}}, "record_size": 10}).encode()},
    ],
    ids=["nothing", "a file", "Icechunk", "attributes alone", "something else", "kerchunk"],
)
async def test_what_is_no_zarr(source: FakeSource, files: dict[str, bytes]) -> None:
    """A place without documents of Zarr, or with references of kerchunk, is no Zarr hierarchy."""
    put(source, S3, files)
    assert await open_zarr(Storage(source, access_to(S3))) is None


async def test_what_cannot_be_said_is_left_out(source: FakeSource) -> None:
    """A node that is not understood is left out with its reason, and the rest is there."""
    put(
        source,
        S3,
        {
            **HIERARCHY,
            "bad/zarr.json": b"{",
            "worse/zarr.json": b'{"zarr_format": 3, "node_type": "tree"}',
            "other/zarr.json": b'{"zarr_format": 4}',
            "v2/.zarray": V2_ARRAY.replace(b'"<i2"', b'"|O"'),
            "separated/.zarray": V2_ARRAY.replace(b"}", b', "dimension_separator": "-"}'),
            "good/.zarray": V2_ARRAY,
            "grid/zarr.json": V3_ARRAY.replace(b'"regular"', b'"odd"'),
        },
    )
    source.fail(f"{S3}/sub/b%20b/zarr.json", ErrorKind.SOURCE_DENIED)
    repository = await opened(source, S3)
    left_out = {omission.path: omission.reason for omission in repository.omissions}
    assert left_out.keys() == {"/bad", "/worse", "/other", "/v2", "/separated", "/sub/b b"}
    assert all(left_out.values())
    assert {"/good", "/grid", "/sub/a"} <= set(paths(repository))
    grid = next(node for node in repository._snapshot.nodes if node.path == "/grid")
    assert isinstance(grid, Array)
    assert "odd" in grid.problem


@pytest.mark.parametrize(
    "files",
    [
        dict.fromkeys(["zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"], b"<html>"),
        {".zarray": V2_ARRAY.replace(b'"<i2"', b'"|O"')},
        {"zarr.json": b'{"zarr_format": 4}'},
    ],
)
async def test_a_root_that_is_not_understood(source: FakeSource, files: dict[str, bytes]) -> None:
    """Where the root is not understood, and is all there is, that is an error which says where and why."""
    put(source, WEB, files)
    with pytest.raises(FormatError) as caught:
        await opened(source, WEB)
    assert caught.value.where == f"{WEB}/{next(iter(files))}"


async def test_hostile_consolidated_metadata(source: FakeSource) -> None:
    """Paths that no directory can have, and nodes within arrays, are left out with the reason."""
    array = json.loads(V3_ARRAY)
    names = [
        "a",
        "a/b",
        "../x",
        "x/../y",
        "",
        "x//y",
        "/z",
        "zarr.json",
        "q/.zattrs",
        "n\0",
        "\ud800",
    ]
    words = {"kind": "inline", "metadata": dict.fromkeys(names, array) | {"w": 7, "ok/deep": array}}
    source.put(f"{S3}/zarr.json", group_document(consolidated_metadata=words))
    repository = await opened(source, S3)
    assert paths(repository) == ["/", "/a", "/ok", "/ok/deep"]
    assert len(repository.omissions) == len(names) - 2 + 1
    assert all(o.path.encode() and len(o.reason) < 501 for o in repository.omissions)
    assert isinstance(repository._snapshot.nodes[0], Group)


@pytest.mark.parametrize(
    ("root", "kind", "is_loss"),
    [
        (S3, ErrorKind.SOURCE_DENIED, True),
        (WEB, ErrorKind.SOURCE_MISMATCH, True),
        (WEB, ErrorKind.SOURCE_DENIED, False),
    ],
)
async def test_attributes_of_the_root_are_not_lost_in_silence(
    source: FakeSource, root: str, kind: ErrorKind, is_loss: bool
) -> None:
    """A root whose attributes cannot be read is shown, and they are named as left out; where nothing is listed, a denial is no loss for certain."""
    zarray = {
        "zarr_format": 2,
        "shape": [2],
        "chunks": [2],
        "dtype": "<i4",
        "compressor": None,
        "filters": None,
        "order": "C",
        "fill_value": 0,
    }
    source.put(f"{root}/.zarray", json.dumps(zarray).encode())
    source.put(f"{root}/.zattrs", b'{"units": "K"}')
    source.fail(f"{root}/.zattrs", kind)
    repository = await opened(source, root)
    assert paths(repository) == ["/"]
    assert [(o.path, o.is_loss) for o in repository.omissions] == [("/.zattrs", is_loss)]


async def test_groups_that_only_paths_name_are_bounded(
    source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of consolidated metadata is as deep and long as one that is walked, and there are not more groups above than nodes may be."""
    monkeypatch.setattr(nodes_module, "MAX_DEPTH", 4)
    monkeypatch.setattr(nodes_module, "MAX_NODES", 13)
    array = json.loads(V3_ARRAY)
    deep, long = "/".join("abcdef"), "l" * (nodes_module.MAX_PATH + 1)
    kept = "/".join("abcde")
    many = [f"g{i}/a" for i in range(9)]
    metadata = dict.fromkeys([deep, long, kept, *many], array)
    words = {"kind": "inline", "metadata": metadata}
    source.put(f"{S3}/zarr.json", group_document(consolidated_metadata=words))
    repository = await opened(source, S3)
    assert "/" + kept in paths(repository)
    left_out = [o.path for o in repository.omissions]
    assert {"/" + deep, ("/" + long)[: nodes_module.MAX_PATH + 1]} < set(left_out)
    assert f"/{many[0]}" in paths(repository)
    assert [path for path in left_out if path.startswith("/g")] == [f"/{m}" for m in many[4:]]


@pytest.mark.parametrize(
    "words", [None, 7, {"kind": "remote", "metadata": {}}, {"metadata": None}, {"metadata": []}]
)
async def test_what_is_no_consolidated_metadata(source: FakeSource, words: object) -> None:
    """What is not consolidated metadata as it is known is passed over, and groups are listed."""
    put(source, S3, HIERARCHY)
    source.put(f"{S3}/zarr.json", group_document(consolidated_metadata=words))
    assert "/sub/a" in paths(await opened(source, S3))


async def test_bounds_of_a_hierarchy(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hierarchy with more folders or metadata than anybody needs is refused, with what to do; a deep one is cut, and says so."""
    put(source, S3, HIERARCHY)
    for name, value in (("MAX_NODES", 3), ("MAX_METADATA", 300)):
        with monkeypatch.context() as patch:
            patch.setattr(nodes_module, name, value)
            with pytest.raises(RepositoryError, match="more than") as caught:
                await opened(source, S3)
            assert "consolidate" in caught.value.advice
    words = {"kind": "inline", "metadata": {f"{i}/{i}": json.loads(V3_ARRAY) for i in range(4)}}
    source.put("s3://bucket/other/zarr.json", group_document(consolidated_metadata=words))
    with monkeypatch.context() as patch:
        patch.setattr(nodes_module, "MAX_NODES", 4)
        with pytest.raises(RepositoryError, match="more than 4 nodes"):
            await opened(source, "s3://bucket/other")
    put(source, S3, {f"a{i}/zarr.json": V3_ARRAY for i in range(500)})
    with monkeypatch.context() as patch:
        patch.setattr(nodes_module, "MAX_METADATA", 3000)
        source.fetched.clear()
        with pytest.raises(RepositoryError, match="bytes of metadata"):
            await opened(source, S3)
    # It is not read first and refused then.
    assert len(source.fetched) < 1000
    for i in range(500):
        source.delete(f"{S3}/a{i}/zarr.json")
    monkeypatch.setattr(nodes_module, "MAX_DEPTH", 1)
    put(source, S3, {f"{'g/' * i}zarr.json": group_document() for i in range(1, 4)})
    repository = await opened(source, S3)
    assert sorted(o.path for o in repository.omissions) == ["/g/g", "/sub/deep"]
    assert "/g/g/g" not in paths(repository)


async def test_links_that_lead_out_are_named(tmp_path: Path) -> None:
    """A local folder that is a link out of the hierarchy is left out with the reason; one within it is a group."""
    root = tmp_path / "root"
    for key, content in HIERARCHY.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "zarr.json").write_bytes(V3_ARRAY)
    (root / "out").symlink_to(tmp_path / "secret", target_is_directory=True)
    (root / "alias").symlink_to("sub", target_is_directory=True)
    (root / "top" / "c" / "0" / "2").symlink_to(tmp_path / "secret" / "zarr.json")
    source = Source(Timing(), places=Places(64))
    repository = await opened(source, str(root))
    assert "/alias/a" in paths(repository)
    reason = "it is a link that leads out of the hierarchy, or nowhere"
    assert Omission("/out", reason) in repository.omissions
    refs = await refs_of(await check_out(repository, RefSpec()), "/top")
    assert refs.keys() == {(0, 0), (0, 1), (0, 2)}
    assert refs[0, 2].checksum == NEVER
    with pytest.raises(SourceError) as caught:
        await source.fetch(access_to(str(root)).authorize(refs[0, 2]))
    assert caught.value.kind is ErrorKind.SOURCE_DENIED


class Unversioned(FakeSource):
    """A store whose listings say of no object which version it is of."""

    async def objects(self, below: AuthorizedPrefix, *, deep: bool = True) -> Sequence[Listed]:
        found = await super().objects(below, deep=deep)
        return [Listed(o.key, o.length) for o in found]


async def test_a_version_that_no_listing_tells_is_asked_for() -> None:
    """Where a listing tells no versions, each chunk is asked for, since a ref without one is of any."""
    source = Unversioned()
    long_array(S3, source, 8, range(4))
    checkout = await checked_out(source, S3)
    refs = await refs_of(checkout, "/")
    assert {i: refs[i,].checksum for i in range(4)} == {
        i: ETag(source.seen(f"{S3}/c/{i}").etag or "") for i in range(4)
    }
    assert sorted(refs) == [(i,) for i in range(4)]


# -- where nothing can be listed ---------------------------------------------------------------


async def test_a_group_that_cannot_be_listed_says_what_to_do(source: FakeSource) -> None:
    """On a web server a group without consolidated metadata is refused, and the error says what to do."""
    put(source, WEB, HIERARCHY)
    with pytest.raises(RepositoryError, match="consolidated metadata") as caught:
        await opened(source, WEB)
    assert caught.value.kind is ErrorKind.CANNOT_LIST
    assert "zarr.consolidate_metadata" in caught.value.advice
    put(source, S3, HIERARCHY)
    source.fail(f"{S3}/", ErrorKind.SOURCE_DENIED)
    with pytest.raises(RepositoryError, match="script"):
        await opened(source, S3)


def long_array(root: str, source: FakeSource, length: int, chunks: range) -> None:
    source.put(f"{root}/zarr.json", array_document((length,), (1,)))
    for i in chunks:
        source.put(f"{root}/c/{i}", bytes([i % 256, 0]))


async def test_one_chunk_costs_few_questions(source: FakeSource) -> None:
    """Where nothing is listed, who reads one chunk has its neighbours asked for, and no others."""
    long_array(WEB, source, 1000, range(0, 1000, 2))
    checkout = await checked_out(source, WEB)
    refs = checkout.refs(checkout.snapshot.nodes[0])
    source.asked.clear()
    await refs.load((500,))
    assert refs.find((500,)) is not None
    assert refs.find((501,)) is None
    assert source.asked == [f"{WEB}/c/{i}" for i in range(496, 512)]
    assert len(source.asked) == ASKED


async def test_a_listing_costs_a_question_for_each_chunk(source: FakeSource) -> None:
    """Where nothing is listed, a listing asks for every chunk once, many at a time, and then never again."""
    long_array(WEB, source, 100, range(50))
    source.seconds = 0.01
    checkout = await checked_out(source, WEB)
    source.asked.clear()
    source.most_in_flight = 0
    for _ in range(2):
        assert list(await refs_of(checkout, "/")) == [(i,) for i in range(50)]
        assert sorted(source.asked) == sorted(f"{WEB}/c/{i}" for i in range(100))
    assert source.most_in_flight > 32


@pytest.mark.parametrize(
    "kind", [ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_TIMEOUT, ErrorKind.SOURCE_MISMATCH]
)
async def test_what_is_not_answered_is_not_absent(
    source: FakeSource, nursery: trio.Nursery, kind: ErrorKind
) -> None:
    """A chunk of which the server does not say that there is none is unknown, with its region, and asked for again."""
    long_array(WEB, source, 20, range(20))
    checkout = await checked_out(source, WEB)
    refs = checkout.refs(checkout.snapshot.nodes[0])
    source.fail(f"{WEB}/c/3", kind)
    await refs.load(())
    for coords in ((3,), (4,)):
        with pytest.raises(SourceError) as caught:
            refs.find(coords)
        assert caught.value.kind is kind
    assert refs.find((17,)) is not None
    repository = checkout.repository
    again = (await check_out(repository, RefSpec())).refs(checkout.snapshot.nodes[0])
    await again.load((3,))
    assert again.find((3,)) is not None


async def test_a_denied_chunk_has_a_name(source: FakeSource) -> None:
    """A bucket that may not be listed denies what it does not have: the name exists, and reading it is denied."""
    long_array(S3, source, 4, range(2))
    source.fail(f"{S3}/zarr.json/", ErrorKind.SOURCE_DENIED)
    source.fail(f"{S3}/c/3", ErrorKind.SOURCE_DENIED)
    checkout = await checked_out(source, S3)
    refs = await refs_of(checkout, "/")
    assert refs.keys() == {(0,), (1,), (3,)}
    assert (refs[3,].length, refs[3,].checksum) == (2, NEVER)
    assert source.listed == [f"{S3}/zarr.json/"]


# -- chunks --------------------------------------------------------------------------------------


async def test_the_chunks_of_an_array_cost_one_listing(source: FakeSource) -> None:
    """Which chunks there are, how long and of which version, one listing of the array's folder says."""
    put(source, S3, HIERARCHY)
    checkout = await checked_out(source, S3)
    before = source.statistics()
    source.listed.clear()
    for _ in range(2):
        refs = await refs_of(checkout, "/sub/a")
        assert refs.keys() == {(0, 0), (0, 1), (0, 2)}
    assert source.listed == [f"{S3}/sub/a/c/"]
    assert source.statistics().heads == before.heads
    assert all(
        ref.checksum == ETag(source.seen(f"{S3}/{ref.location}").etag) for ref in refs.values()
    )
    assert await refs_of(checkout, "/sub/b b") == {}


async def test_keys_that_are_no_chunks_are_ignored(source: FakeSource) -> None:
    """Objects beside the chunks, or with keys that only look like theirs, are no chunks."""
    odd = [
        "c/0",
        "c/0/0/0",
        "c/00/0",
        "c/0/-1",
        "c/0/ 1",
        "c/2/0",
        "c/0/3",
        "c/0/1.tmp",
        "d/0/0",
        "0/0",
    ]
    put(source, S3, {"zarr.json": V3_ARRAY, "c/1/2": b"x" * 8, "c/.DS_Store": b"x"})
    put(source, S3, dict.fromkeys(odd, b"x" * 8))
    assert list(await refs_of(await checked_out(source, S3), "/")) == [(1, 2)]


ENCODINGS = [
    (ChunkKeyEncoding(style, separator), shape)
    for style in KeyStyle
    for separator in ("/", ".")
    for shape in ((), (3,), (2, 3), (1, 2, 2))
]


@pytest.mark.parametrize("root", [S3, WEB])
@pytest.mark.parametrize(("encoding", "shape"), ENCODINGS, ids=str)
async def test_every_way_to_write_keys(
    source: FakeSource, root: str, encoding: ChunkKeyEncoding, shape: tuple[int, ...]
) -> None:
    """However an array writes its keys, and of however many dimensions, its chunks are found, listed or not."""
    name = {"name": encoding.style.value, "configuration": {"separator": encoding.separator}}
    document = array_document(shape, (1,) * len(shape), chunk_key_encoding=name)
    source.put(f"{root}/zarr.json", document)
    grid = ChunkGrid(shape)
    every = [grid.unravel(i) for i in range(grid.size)]
    for coords in every:
        source.put(f"{root}/{encoding.encode(coords)}", bytes(coords) or b"x")
    refs = await refs_of(await checked_out(source, root), "/")
    assert {coords: ref.location for coords, ref in refs.items()} == {
        coords: encoding.encode(coords) for coords in every
    }


async def test_a_chunk_that_changed_is_not_read(source: FakeSource) -> None:
    """Chunks are those that were there when their names were first asked for, until it is mounted again."""
    put(source, S3, HIERARCHY)
    repository = await opened(source, S3)
    checkout = await check_out(repository, RefSpec())
    refs = await refs_of(checkout, "/top")
    source.put(f"{S3}/top/c/0/0", bytes(8))
    source.put(f"{S3}/top/c/1/1", bytes(8))
    assert await refs_of(checkout, "/top") == refs
    with pytest.raises(SourceError) as caught:
        await source.fetch(access_to(S3).authorize(refs[0, 0]))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert (1, 1) in await refs_of(await checked_out(source, S3), "/top")


async def test_a_listing_that_fails_leaves_names_unknown(source: FakeSource) -> None:
    """Where an array's folder cannot be listed any more, its chunks are unknown, and not absent."""
    put(source, S3, HIERARCHY)
    checkout = await checked_out(source, S3)
    for kind in (ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_DENIED):
        source.fail(f"{S3}/top/c/", kind)
        array = next(node for node in checkout.snapshot.nodes if node.path == "/top")
        refs = (await check_out(checkout.repository, RefSpec())).refs(array)
        await refs.load(())
        with pytest.raises(VzfsError) as caught:
            refs.find((0, 0))
        assert caught.value.kind is kind


async def test_a_large_array_is_listed_folder_by_folder(source: FakeSource) -> None:
    """Of an array with very many chunks, who reads one has only the folder of its neighbours listed."""
    shape = (LISTED // 1000 + 1, 1000)
    source.put(f"{S3}/zarr.json", array_document(shape, (1, 1)))
    for i in (0, 7):
        source.put(f"{S3}/c/7/{i}", b"12")
    checkout = await checked_out(source, S3)
    source.listed.clear()
    refs = checkout.refs(checkout.snapshot.nodes[0])
    await refs.load((7, 3))
    assert refs.find((7, 3)) is None
    assert refs.find((7, 7)) is not None
    assert source.listed == [f"{S3}/c/7/"]


# -- regions -------------------------------------------------------------------------------------

SHAPES = [(), (0,), (1,), (17,), (5, 0), (100, 3), (3, 100), (7, 11, 13), (300, 200), (70_000,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("is_listed", [True, False])
def test_regions_divide_the_grid(shape: tuple[int, ...], is_listed: bool) -> None:
    """Every chunk of a grid lies in exactly one region."""
    grid = ChunkGrid(shape)
    regions = (
        regions_to_list(ChunkKeys("", ChunkKeyEncoding(), grid))
        if is_listed
        else regions_to_ask([grid])[0]
    )
    covered = np.zeros(shape, np.int8)
    for region in regions:
        covered[tuple(slice(*r) for r in region.ranges)] += 1
    assert (covered == 1).all()
    if not is_listed:
        sizes = [np.prod([high - low for low, high in r.ranges], dtype=int) for r in regions]
        assert max(sizes, default=0) <= ASKED


def test_regions_are_bounded() -> None:
    """However large the grids are, there are boundedly many regions in all."""
    grids = [ChunkGrid((10**9, 10**9)), ChunkGrid((10**6, 3)), ChunkGrid((5,))] + [ChunkGrid((1000,))] * 1000  # fmt: skip
    assert sum(map(len, regions_to_ask(grids))) <= MAX_REGIONS
    for shape in ((10**6, 10**6), (10**9,), (10**9, 2), (5000, 5000)):
        assert len(regions_to_list(ChunkKeys("", ChunkKeyEncoding(), ChunkGrid(shape)))) <= 4096
    dotted = ChunkKeys("", ChunkKeyEncoding(KeyStyle.V2, "."), ChunkGrid((300, 1000)))
    assert len(regions_to_list(dotted)) == 1


async def test_too_many_chunks_to_ask_for(source: FakeSource) -> None:
    """A region with more chunks than can be asked for one by one is unknown, and the error says what to do."""
    source.put(f"{WEB}/zarr.json", array_document((MAX_ASKED * MAX_REGIONS * 2,), (1,)))
    checkout = await checked_out(source, WEB)
    refs = checkout.refs(checkout.snapshot.nodes[0])
    source.asked.clear()
    await refs.load((5,))
    with pytest.raises(SourceError, match="one by one"):
        refs.find((5,))
    assert source.asked == []


def test_chunks_are_kept_in_little_memory() -> None:
    """A manifest made of a long listing takes some hundred bytes for each chunk, and while it is made a few times as many."""
    count = 5_000
    keys = ChunkKeys("folder/array", ChunkKeyEncoding(KeyStyle.V2, "."), ChunkGrid((20, 250)))
    listed = [Listed(f"{i // 250}.{i % 250}", 10**6 + i, ETag(f'"{i:032x}"')) for i in range(count)]
    gc.collect()
    tracemalloc.start()
    try:
        manifest = chunks_of(listed, keys, Extents(((0, 20), (0, 250))))
        gc.collect()
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(manifest) == count
    assert manifest.ref(2_345).location == "folder/array/9.95"
    assert kept < 150 * count
    assert most < 1000 * count


# -- the repository --------------------------------------------------------------------------------


async def test_the_snapshot_is_named_after_the_metadata(source: FakeSource) -> None:
    """The same metadata is the same snapshot, wherever it lies; other metadata another, and chunks make no difference."""
    put(source, S3, HIERARCHY)
    put(source, "s3://other/place", HIERARCHY)
    first = await opened(source, S3)
    identity = await first.resolve(RefSpec())
    assert await (await opened(source, "s3://other/place")).resolve(RefSpec()) == identity
    source.put(f"{S3}/top/c/0/1", b"news")
    assert await (await opened(source, S3)).resolve(RefSpec()) == identity
    source.put(f"{S3}/sub/deep/zarr.json", group_document({"a": 1}))
    assert await (await opened(source, S3)).resolve(RefSpec()) != identity
    assert (await first.snapshot(identity)).written_at == 1_700_000_000 * 10**9
    assert [line.id async for line in first.history(identity)] == [identity]
    assert first.containers is None
    with pytest.raises(RepositoryError):
        await first.resolve(RefSpec(tag="v1"))


async def test_metadata_that_is_denied(source: FakeSource) -> None:
    """A place of which every document is denied is denied, rather than no hierarchy."""
    for name in ("zarr.json", ".zmetadata", ".zgroup", ".zarray", ".zattrs"):
        source.fail(f"{S3}/{name}", ErrorKind.SOURCE_DENIED)
    with pytest.raises(SourceError) as caught:
        await opened(source, S3)
    assert caught.value.kind is ErrorKind.SOURCE_DENIED


@pytest.mark.parametrize("root", [S3, WEB])
async def test_a_hierarchy_is_opened_offline(source: FakeSource, tmp_path: Path, root: str) -> None:
    """What a mount has found out of a hierarchy, another finds in the cache: nodes, chunks, and which there are not."""
    disk = DiskCache(tmp_path / "cache", max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    words = {"kind": "inline", "metadata": {"top": json.loads(V3_ARRAY)}}
    put(source, root, HIERARCHY)
    source.put(f"{root}/zarr.json", group_document(consolidated_metadata=words))
    prefix = parse_prefix(root)
    online = await checked_out(Remembered(source, disk, prefix), root)
    refs = await refs_of(online, "/top")
    assert refs.keys() == {(0, 0), (0, 1)}
    away = Remembered(NoSource(), disk, prefix, is_offline=True)
    offline = await checked_out(away, root)
    assert offline.snapshot == online.snapshot
    assert await refs_of(offline, "/top") == refs
    assert away.as_of is not None


async def test_what_was_listed_is_not_kept_as_manifests_are(source: FakeSource) -> None:
    """Manifests of plain Zarr hold for one mount alone, so the cache of decoded ones is neither asked nor given them."""

    class Untouched:
        def __getattr__(self, name: str) -> Callable[..., None]:
            raise AssertionError(name)

    put(source, S3, HIERARCHY)
    checkout = await check_out(await opened(source, S3), RefSpec(), Untouched())
    assert len(await refs_of(checkout, "/top")) == 2


async def test_thousands_of_chunks(server: ObjectServer) -> None:
    """An array of many chunks costs one listing of as many pages as there are, and no question for any of them."""
    rows, columns = 4, 1000
    name = {"name": "v2", "configuration": {"separator": "."}}
    document = array_document((rows, columns), (1, 1), chunk_key_encoding=name)
    server.put("bucket/data/zarr.json", document)
    for i in range(rows):
        for j in range(columns):
            server.put(f"bucket/data/{i}.{j}", b"12")
    source = Source(Timing(deadline=60), places=Places(8))
    store = StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)
    repository = await open_zarr(Storage(source, access_to(S3, store)))
    assert repository is not None
    before = server.count()
    checkout = await check_out(repository, RefSpec())
    refs = checkout.refs(checkout.snapshot.nodes[0])
    await refs.load((3, 5))
    assert await refs.is_complete()
    assert server.count() - before == rows * columns // 1000 + 1


async def test_regions_are_told_apart_from_the_event_loop(
    source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dividing very many arrays into regions takes seconds, which nothing else waits for."""
    threads: list[threading.Thread] = []

    def divided(nodes: tuple[Node, ...], *_: object) -> tuple[Node, ...]:
        threads.append(threading.current_thread())
        return nodes

    monkeypatch.setattr(zarrstore, "_divided", divided)
    put(source, S3, HIERARCHY)
    await opened(source, S3)
    assert threading.main_thread() not in threads
    assert len(threads) == 1
