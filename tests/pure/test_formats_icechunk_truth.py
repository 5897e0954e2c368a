"""Real repositories, written by several versions of icechunk, against what an independent reader found."""

import contextlib
import datetime
import json
import math
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORIES
from tests.pure import craft
from vzfs.errors import FormatError
from vzfs.formats.icechunk.config import decode_config
from vzfs.formats.icechunk.envelope import FileType, open_envelope
from vzfs.formats.icechunk.flatbuffer import Buffer
from vzfs.formats.icechunk.manifest import decode_manifest
from vzfs.formats.icechunk.refs import decode_ref
from vzfs.formats.icechunk.repo_info import decode_repo_info
from vzfs.formats.icechunk.snapshot import decode_snapshot
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import ETag
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import Array, Extents, Snapshot, WantedArray


@pytest.fixture(params=REPOSITORIES)
def repository(data: Path, request: pytest.FixtureRequest) -> tuple[Path, dict]:
    """Give a repository's folder and the truth about it."""
    truth = json.loads((data / f"truth/icechunk/{request.param}.json").read_bytes())
    return data / truth["path"], truth


def test_every_repository_with_known_truth_is_tested(data: Path) -> None:
    """The list of repositories here is that of the data."""
    assert sorted(REPOSITORIES) == sorted(f.stem for f in (data / "truth/icechunk").iterdir())


def read_snapshot(folder: Path, id_: str) -> Snapshot:
    return decode_snapshot((folder / "snapshots" / id_).read_bytes())


def refs_of(folder: Path, snapshot: Snapshot) -> Iterator[tuple[Array, tuple[int, ...], ChunkRef]]:
    """Iterate over all chunks of all arrays, loading each manifest once for all its arrays."""
    wanted: dict[str, dict[bytes, WantedArray]] = {}
    arrays = {node.id: node for node in snapshot.nodes if isinstance(node, Array)}
    for array in arrays.values():
        for ref in array.manifests:
            wishes = wanted.setdefault(ref.id, {})
            known = wishes[array.id].extents if array.id in wishes else ()
            wishes[array.id] = WantedArray(array.grid, (*known, ref.extents))
    for id_, wishes in wanted.items():
        data = (folder / "manifests" / id_).read_bytes()
        for node, manifest in decode_manifest(data, wishes, expected_id=id_).items():
            for row, flat in enumerate(manifest.index):
                yield arrays[node], arrays[node].grid.unravel(int(flat)), manifest.ref(row)


def test_refs_and_history_are_the_true_ones(repository: tuple[Path, dict]) -> None:
    """Branches, tags, deleted tags, ancestry, times, messages and metadata are the true ones."""
    folder, truth = repository
    histories = {}
    if (folder / "repo").exists():
        info = decode_repo_info((folder / "repo").read_bytes())
        assert info.spec_version == truth["spec_version"]
        assert sorted(info.deleted_tags) == sorted(truth["deleted_tags"])
        assert info.metadata == truth["repo_metadata"]
        branches, tags = info.branches, info.tags
        by_id = {s.id: s for s in info.snapshots}
    else:
        found = {f.parent.name: decode_ref(f.read_bytes()) for f in folder.glob("refs/*/ref.json")}
        deleted = {f.parent.name for f in folder.glob("refs/*/ref.json.deleted")}
        live = {name: id_ for name, id_ in found.items() if name not in deleted}
        branches = {
            n.removeprefix("branch."): i for n, i in live.items() if n.startswith("branch.")
        }
        tags = {n.removeprefix("tag."): i for n, i in live.items() if n.startswith("tag.")}
        by_id = {f.name: read_snapshot(folder, f.name) for f in (folder / "snapshots").iterdir()}
    assert branches == truth["branches"]
    assert tags == truth["tags"]
    for name, id_ in [*((f"branch:{n}", i) for n, i in branches.items()), *((f"tag:{n}", i) for n, i in tags.items())]:  # fmt: skip
        history = histories[name] = []
        while id_ is not None:
            snapshot = by_id[id_]
            history.append(
                {
                    "id": id_,
                    "message": snapshot.message,
                    "written_at": snapshot.written_at,
                    "metadata": snapshot.metadata,
                }
            )
            id_ = snapshot.parent
    epoch = datetime.datetime.fromtimestamp(0, datetime.UTC)
    for history in truth["history"].values():
        for entry in history:
            age = datetime.datetime.fromisoformat(entry["written_at"]) - epoch
            entry["written_at"] = 1000 * (age // datetime.timedelta(microseconds=1))
    assert histories == truth["history"]


def test_containers_are_the_true_ones(repository: tuple[Path, dict]) -> None:
    """Names and prefixes of virtual chunk containers are those that the configuration has."""
    folder, truth = repository
    if (folder / "repo").exists():
        containers = decode_repo_info((folder / "repo").read_bytes()).containers
    else:
        containers = decode_config((folder / "config.yaml").read_bytes())
    expected = [
        (c["name"], c["url_prefix"]) for c in (truth["virtual_chunk_containers"] or {}).values()
    ]
    assert sorted((c.name or "", c.url_prefix) for c in containers) == sorted(
        (name or "", prefix) for name, prefix in expected
    )


def test_every_snapshot_has_the_true_nodes_and_refs(repository: tuple[Path, dict]) -> None:
    """Node paths, kinds, documents, and each array's refs by kind, location and checksum are true."""
    folder, truth = repository
    for id_, expected in truth["snapshots"].items():
        snapshot = read_snapshot(folder, id_)
        assert snapshot.id == id_
        assert snapshot.message == expected["message"]
        assert [n.path for n in snapshot.nodes] == [n["path"] for n in expected["nodes"]]
        kinds: dict[str, Counter] = {n.path: Counter() for n in snapshot.nodes}
        checksums: dict[str, Counter] = {n.path: Counter() for n in snapshot.nodes}
        locations: dict[str, set] = {n.path: set() for n in snapshot.nodes}
        for array, _, ref in refs_of(folder, snapshot):
            kinds[array.path][ref.kind.name.lower()] += 1
            if ref.kind is ChunkKind.VIRTUAL:
                locations[array.path].add(ref.location)
                checksums[array.path][describe(ref)] += 1
        for node, true in zip(snapshot.nodes, expected["nodes"], strict=True):
            document = json.loads(node.documents["zarr.json"])
            assert document["node_type"] == true["type"]
            assert document.get("attributes", {}) == true["attributes"]
            assert isinstance(node, Array) == (true["type"] == "array")
            if isinstance(node, Array):
                assert node.problem == ""
                assert document["shape"] == true["shape"]
                assert len(node.manifests) == true["n_manifests"]
                counts = true["chunk_refs"]
                counts.pop("virtual_compressed_location", None)
                assert kinds[node.path] == Counter(counts)
                assert sorted(locations[node.path]) == sorted(true.get("virtual_locations", []))
                assert checksums[node.path] == Counter(true.get("checksums", {}))


def test_full_manifests_have_every_chunk_of_their_regions(
    repository: tuple[Path, dict],
) -> None:
    """What the snapshots of real writers count is what their manifests have, no chunk missing and none more."""
    folder, truth = repository
    for id_ in truth["snapshots"]:
        snapshot = read_snapshot(folder, id_)
        for array in snapshot.nodes:
            for part in array.manifests if isinstance(array, Array) else ():
                data = (folder / "manifests" / part.id).read_bytes()
                wanted = {array.id: WantedArray(array.grid, (part.extents,))}
                has = len(decode_manifest(data, wanted, expected_id=part.id)[array.id])
                inside = zip(part.extents.ranges, array.grid.shape, strict=True)
                room = math.prod(min(high, n) - low for (low, high), n in inside)
                assert (part.id in snapshot.full) == (has == room)


def describe(ref: ChunkRef) -> str:
    match ref.checksum:
        case None:
            return "none"
        case ETag(value):
            return f"etag {value}"
        case checksum:
            return f"last_modified {checksum.seconds}"


def test_keys_of_every_tip_have_the_true_lengths_and_bytes(repository: tuple[Path, dict]) -> None:
    """The tips have exactly the true store keys; documents and chunks kept here the true bytes."""
    folder, truth = repository
    for id_, expected in truth["snapshots"].items():
        if "keys" not in expected:
            continue
        snapshot = read_snapshot(folder, id_)
        found: dict[str, tuple[int, str | None]] = {}
        for node in snapshot.nodes:
            for name, document in node.documents.items():
                digest = sha256(document).hexdigest()
                found[f"{node.path}/{name}".lstrip("/")] = len(document), digest
        for array, coords, ref in refs_of(folder, snapshot):
            key = f"{array.path}/{array.key_encoding.encode(coords)}".lstrip("/")
            digest = None
            if ref.kind is ChunkKind.INLINE:
                digest = sha256(ref.inline).hexdigest()
            elif ref.kind is ChunkKind.NATIVE:
                content = (folder / ref.location).read_bytes()[ref.offset : ref.range.end]
                digest = sha256(content).hexdigest()
            found[key] = ref.length, digest
        assert {key: length for key, (length, _) in found.items()} == {
            key: true[0] for key, true in expected["keys"].items()
        }
        for key, (_, digest) in found.items():
            assert digest in {None, expected["keys"][key][1]}


@pytest.fixture(scope="module")
def files(data: Path) -> dict[str, bytes]:
    """Give the smaller metadata files of all repositories, as they are and unpacked."""
    found: dict[str, bytes] = {}
    for folder in ("icechunk", "icechunk-derived"):
        for path in sorted((data / folder).rglob("*")):
            if path.is_file() and path.stat().st_size < 2**16:
                content = path.read_bytes()
                if content.startswith(b"ICE") and content[37] in {1, 2, 6}:
                    name = str(path.relative_to(data))
                    found[name] = content
                    found[name + " unpacked"] = craft.wrap(
                        craft.unwrap(content), content[37], spec=content[36]
                    )
    return found


@given(st.data())
@settings(max_examples=500, suppress_health_check=[HealthCheck.large_base_example])
def test_damaged_real_files_are_models_or_format_errors(files, data: st.DataObject) -> None:
    """A real file with some bytes changed, or cut off, decodes to a model or to FormatError."""
    damaged = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    content = bytes(damaged)
    with contextlib.suppress(FormatError):
        decode_repo_info(content)
    with contextlib.suppress(FormatError):
        decode_snapshot(content)
    with contextlib.suppress(FormatError):
        decode_manifest(content, every_array(content))


def every_array(content: bytes) -> dict[bytes, WantedArray]:
    """Ask for the arrays that the manifest *content* says it has, with the rank of their first ref."""
    try:
        root = Buffer(open_envelope(content, FileType.MANIFEST).payload).root()
        wanted = {}
        for array in root.tables(1):
            node = array.required_fixed(0, 8)
            first = next(array.required_tables(1), None)
            rank = min(first.required_vector(0, 4)[1], 8) if first else 0
            region = Extents(((0, 1000),) * rank)
            wanted[node] = WantedArray(ChunkGrid((1000,) * rank), (region,))
    except FormatError:
        return {}
    return {node: array for node, array in wanted.items() if array.grid.size < 2**63}
