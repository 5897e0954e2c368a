"""Repositories that the official library writes here, read back by both."""

import asyncio
import contextlib
import datetime
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure import craft
from vzfs.errors import FormatError
from vzfs.formats.icechunk.config import decode_config
from vzfs.formats.icechunk.manifest import decode_manifest
from vzfs.formats.icechunk.refs import decode_ref
from vzfs.formats.icechunk.repo_info import Availability, decode_repo_info
from vzfs.formats.icechunk.snapshot import decode_snapshot
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import Array, Snapshot, VirtualChunkContainer, WantedArray

MODIFIED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
METADATA = {"a": [1, -2.5, {"b": None, "c": [True, False], "é": "ü" * 40}], "n": 2**40, "t": ""}


def create(folder: Path, spec: int, **options: object) -> icechunk.Repository:
    config = icechunk.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 16
    store = icechunk.s3_store(region="eu", endpoint_url="http://localhost:1", anonymous=True)
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer("s3://bucket/data/", store, name="archive")
    )
    for name, value in options.items():
        setattr(config, name, value)
    repository = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(folder)), config, spec_version=spec
    )
    repository.save_config()
    return repository


def fill(repository: icechunk.Repository) -> None:
    session = repository.writable_session("main")
    store = session.store
    root = zarr.group(store)
    root.create_group("sub group").create_array("é:0", shape=(), dtype="f8", compressors=None)[
        ...
    ] = 3
    wide = root.create_array("wide", shape=(5, 9), chunks=(2, 4), dtype="i8", compressors=None)
    wide[:4, :5] = np.arange(20).reshape(4, 5)
    root.create_array("small", shape=(7,), chunks=(2,), dtype="u1", compressors=None)[3:] = 1
    root.create_array("virtual", shape=(5,), chunks=(1,), dtype="i4", compressors=None)
    place = "s3://bucket/data/"
    store.set_virtual_ref("virtual/c/0", place + "plain.nc", offset=0, length=4)
    store.set_virtual_ref("virtual/c/1", place + "x.nc", offset=5, length=4, checksum='"tag"')
    store.set_virtual_ref("virtual/c/3", place + "y.nc", offset=2**40, length=4, checksum=MODIFIED)
    session.commit("first", metadata=METADATA)


@pytest.fixture(scope="module", params=[1, 2])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Give the folder of a repository with chunks of every kind, its spec version, and the oracle."""
    folder = tmp_path_factory.mktemp(f"spec{request.param}")
    repository = create(folder, request.param)
    fill(repository)
    return folder, request.param, repository


def tip(folder: Path) -> Snapshot:
    if (folder / "repo").exists():
        id_ = decode_repo_info((folder / "repo").read_bytes()).branches["main"]
    else:
        id_ = decode_ref((folder / "refs/branch.main/ref.json").read_bytes())
    return decode_snapshot((folder / "snapshots" / id_).read_bytes())


def contents(folder: Path, snapshot: Snapshot) -> dict[str, bytes | ChunkRef]:
    """Return every store key: documents and chunks kept here as bytes, virtual ones as refs."""
    found: dict[str, bytes | ChunkRef] = {}
    for node in snapshot.nodes:
        base = node.path.strip("/")
        prefix = base + "/" if base else ""
        found[prefix + "zarr.json"] = node.documents["zarr.json"]
        if not isinstance(node, Array):
            continue
        assert node.problem == ""
        for part in node.manifests:
            data = (folder / "manifests" / part.id).read_bytes()
            wanted = {node.id: WantedArray(node.grid, (part.extents,))}
            manifest = decode_manifest(data, wanted, expected_id=part.id)[node.id]
            for row, flat in enumerate(manifest.index):
                key = prefix + node.key_encoding.encode(node.grid.unravel(int(flat)))
                assert key not in found
                ref = manifest.ref(row)
                match ref.kind:
                    case ChunkKind.INLINE:
                        found[key] = ref.inline
                    case ChunkKind.NATIVE:
                        stored = (folder / ref.location).read_bytes()
                        found[key] = stored[ref.offset : ref.range.end]
                    case ChunkKind.VIRTUAL:
                        found[key] = ref
    return found


async def everything(store: icechunk.IcechunkStore, virtual: set[str]) -> dict[str, bytes | None]:
    """Return what the oracle has at every key, None for the *virtual* ones."""
    prototype = zarr.core.buffer.default_buffer_prototype()
    found: dict[str, bytes | None] = {}
    async for key in store.list():
        content = None if key in virtual else await store.get(key, prototype)
        found[key] = content.to_bytes() if content is not None else None
    return found


def check_against(repository: icechunk.Repository, folder: Path) -> dict[str, bytes | ChunkRef]:
    ours = contents(folder, tip(folder))
    virtual = {key for key, value in ours.items() if isinstance(value, ChunkRef)}
    store = repository.readonly_session("main").store
    theirs = asyncio.run(everything(store, virtual))
    assert {k: None if k in virtual else v for k, v in ours.items()} == theirs
    return ours


def test_every_key_and_byte_is_the_oracles(written) -> None:
    """Keys, documents and the bytes of inline and native chunks are those of the library."""
    folder, _, repository = written
    ours = check_against(repository, folder)
    assert {k: v for k, v in ours.items() if isinstance(v, ChunkRef)} == {
        "virtual/c/0": ChunkRef(ChunkKind.VIRTUAL, 4, "s3://bucket/data/plain.nc"),
        "virtual/c/1": ChunkRef(ChunkKind.VIRTUAL, 4, "s3://bucket/data/x.nc", 5, ETag('"tag"')),
        "virtual/c/3": ChunkRef(
            ChunkKind.VIRTUAL,
            4,
            "s3://bucket/data/y.nc",
            2**40,
            LastModified(int(MODIFIED.timestamp())),
        ),
    }


def test_history_is_the_oracles(written) -> None:
    """Ids, messages, times, parents and metadata are those of the library."""
    folder, spec, repository = written
    theirs = list(repository.ancestry(branch="main"))
    if spec == 2:
        known = {s.id: s for s in decode_repo_info((folder / "repo").read_bytes()).snapshots}
    else:
        files = (folder / "snapshots").iterdir()
        known = {f.name: decode_snapshot(f.read_bytes()) for f in files}
    id_: str | None = tip(folder).id
    for expected in theirs:
        ours = known[id_]
        assert (ours.id, ours.message, ours.parent) == (
            expected.id,
            expected.message,
            expected.parent_id,
        )
        since = expected.written_at - datetime.datetime.fromtimestamp(0, datetime.UTC)
        assert ours.written_at == 1000 * (since // datetime.timedelta(microseconds=1))
        assert ours.metadata == expected.metadata
        id_ = ours.parent
    assert id_ is None
    assert tip(folder).metadata == METADATA


def test_containers_are_the_configured_ones(written) -> None:
    """A container is read with its name, prefix, endpoint and anonymity in both spec versions."""
    folder, spec, _ = written
    if spec == 2:
        containers = decode_repo_info((folder / "repo").read_bytes()).containers
    else:
        containers = decode_config((folder / "config.yaml").read_bytes())
    assert containers == (
        VirtualChunkContainer("s3://bucket/data/", "archive", "http://localhost:1", anonymous=True),
    )


def test_rectilinear_array_is_the_oracles(tmp_path: Path) -> None:
    """Chunks of a rectilinear grid that the library writes have the library's keys and bytes."""
    repository = create(tmp_path, 2)
    session = repository.writable_session("main")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        zarr.create_array(
            session.store,
            name="r",
            shape=(35, 9),
            chunks=[[10, 10, 10, 5], [4, 5]],
            dtype="i4",
            compressors=None,
        )[:] = np.arange(35 * 9).reshape(35, 9)
    session.commit("rectilinear")
    check_against(repository, tmp_path)
    array = next(n for n in tip(tmp_path).nodes if isinstance(n, Array))
    assert b"rectilinear" in array.documents["zarr.json"]
    assert array.grid.shape == (4, 2)
    assert array.grid.max_chunk_nbytes == 10 * 5 * 4


@pytest.mark.parametrize("spec", [1, 2])
def test_split_manifests_speak_for_parts_of_an_array(tmp_path: Path, spec: int) -> None:
    """An array split over many manifests is whole again, and their extents keep apart."""
    split = icechunk.ManifestSplittingConfig.from_dict(
        {
            icechunk.ManifestSplitCondition.AnyArray(): {
                icechunk.ManifestSplitDimCondition.Axis(0): 2,
                icechunk.ManifestSplitDimCondition.Axis(1): 3,
            }
        }
    )
    repository = create(tmp_path, spec, manifest=icechunk.ManifestConfig(splitting=split))
    session = repository.writable_session("main")
    array = zarr.create_array(session.store, shape=(7, 8), chunks=(1, 1), dtype="i8")
    array[:] = np.arange(56).reshape(7, 8)
    session.commit("one")
    session = repository.writable_session("main")
    zarr.open_array(session.store)[0, 0] = 99
    session.commit("two")
    (node,) = tip(tmp_path).nodes
    assert isinstance(node, Array)
    assert len(node.manifests) == 4 * 3
    check_against(repository, tmp_path)


@pytest.mark.parametrize("spec", [1, 2])
def test_thousands_of_virtual_refs_are_what_was_written(tmp_path: Path, spec: int) -> None:
    """Locations, packed with a dictionary in spec 2, offsets, lengths and etags are as written."""
    repository = create(tmp_path, spec)
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    root.create_array("v", shape=(50, 60), chunks=(1, 1), dtype="i4", compressors=None)
    names = [f"s3://bucket/data/{i % 977:04d}/a file.nc" if i % 5 else "" for i in range(3000)]
    offsets = np.arange(3000, dtype=np.uint64) ** 3
    lengths = np.arange(3000, dtype=np.uint64) % 91 + 1
    session.store.set_virtual_refs_arr(
        "/v", (50, 60), names, offsets, lengths, checksum="etag of all"
    )
    session.commit("many")
    found = contents(tmp_path, tip(tmp_path))
    assert sum(isinstance(ref, ChunkRef) for ref in found.values()) == 2400
    for i, name in enumerate(names):
        ref = found.get(f"v/c/{i // 60}/{i % 60}")
        if not name:
            assert ref is None
        else:
            expected = ChunkRef(ChunkKind.VIRTUAL, i % 91 + 1, name, i**3, ETag("etag of all"))
            assert ref == expected
    array = next(n for n in tip(tmp_path).nodes if isinstance(n, Array))
    payload = craft.unwrap((tmp_path / "manifests" / array.manifests[0].id).read_bytes())
    assert (names[1].encode() in payload) == (spec == 1)


def test_status_and_refs_change_with_the_repository(tmp_path: Path) -> None:
    """Tags, deleted tags, branches with odd names, repository metadata and status are read."""
    repository = create(tmp_path, 2)
    fill(repository)
    id_ = tip(tmp_path).id
    repository.create_branch("feature/x", id_)
    repository.create_tag("it works!", id_)
    repository.create_tag("gone", id_)
    repository.delete_tag("gone")
    repository.set_metadata({"title": "test", "n": [1, 2.5, None]})
    repository.set_status(
        icechunk.RepoStatus(
            icechunk.RepoAvailability.read_only, limited_availability_reason="moving house"
        )
    )
    info = decode_repo_info((tmp_path / "repo").read_bytes())
    assert info.branches == {"main": id_, "feature/x": id_}
    assert info.tags == {"it works!": id_}
    assert info.deleted_tags == {"gone"}
    assert info.metadata == {"title": "test", "n": [1, 2.5, None]}
    assert info.availability is Availability.READ_ONLY
    assert info.availability_reason == "moving house"


# -- damage


def decode_whatever(name: str, data: bytes, wanted: dict[bytes, WantedArray]) -> None:
    match name.split("/")[0]:
        case "repo":
            decode_repo_info(data)
        case "snapshots":
            decode_snapshot(data)
        case "manifests":
            decode_manifest(data, wanted)
        case "config.yaml":
            decode_config(data)
        case _:
            decode_ref(data)


@pytest.fixture(scope="module")
def files(written) -> tuple[dict[str, bytes], dict[bytes, WantedArray]]:
    """Give every metadata file of the repository, packed and unpacked, and what to ask manifests."""
    folder, _, _ = written
    kinds = ("repo", "config.yaml", "refs/*/ref.json", "snapshots/*", "manifests/*")
    paths = [p for kind in kinds for p in sorted(folder.glob(kind))]
    found = {str(p.relative_to(folder)): p.read_bytes() for p in paths}
    for name, data in list(found.items()):
        if data.startswith(b"ICE"):
            found[name + " unpacked"] = craft.wrap(craft.unwrap(data), data[37], spec=data[36])
    arrays = [n for n in tip(folder).nodes if isinstance(n, Array)]
    wanted = {
        a.id: WantedArray(a.grid, [m.extents for m in a.manifests]) for a in arrays if a.manifests
    }
    return found, wanted


def survives(name: str, data: bytes, wanted: dict[bytes, WantedArray]) -> None:
    """Let no exception pass but FormatError."""
    with contextlib.suppress(FormatError):
        decode_whatever(name, data, wanted)


def test_every_truncation_is_a_model_or_a_format_error(files) -> None:
    """A file cut off anywhere decodes to a model or to FormatError; a packed one never to a model."""
    found, wanted = files
    for name, data in found.items():
        for length in range(len(data)):
            survives(name, data[:length], wanted)
        if data.startswith(b"ICE") and not name.endswith("unpacked"):
            with pytest.raises(FormatError):
                decode_whatever(name, data[:-1], wanted)


@given(st.data())
@settings(max_examples=500)
def test_flipped_bits_are_a_model_or_a_format_error(files, data: st.DataObject) -> None:
    """A file with some bytes changed decodes to a model or to FormatError."""
    found, wanted = files
    name = data.draw(st.sampled_from(sorted(found)))
    damaged = bytearray(found[name])
    places = st.integers(0, len(damaged) - 1)
    changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)
    for place, value in data.draw(changes):
        damaged[place] = value
    survives(name, bytes(damaged), wanted)


def test_every_single_byte_changed_is_a_model_or_a_format_error(files) -> None:
    """The highest bit of each byte of each unpacked file may be wrong: every offset, length and type."""
    found, wanted = files
    for name, data in found.items():
        if name.endswith("unpacked"):
            for place in range(39, len(data)):
                damaged = bytearray(data)
                damaged[place] ^= 0x80
                survives(name, bytes(damaged), wanted)
