"""What is done with a model once it is decoded: names, inodes, listings, refs, authorization.

A model that decodes must be safe to use, so all of this raises nothing but what `contract` expects,
which each function here lets through only where it may come, and asserts what must hold.
"""

import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping

import trio

from vzfs.access import Access, AccessPolicy, Relocation
from vzfs.errors import AccessDenied, FormatError, NameProblem
from vzfs.formats.icechunk.repo_info import RepoInfo
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import MAX_LOCATION_LENGTH, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.moment import format_time
from vzfs.model.snapshot import Array, Snapshot, SnapshotInfo, VirtualChunkContainer
from vzfs.plan import pieces
from vzfs.repository.arrayrefs import ArrayRefs
from vzfs.tree.inodes import MAX_DOCUMENTS, Inodes
from vzfs.tree.tree import AsStored, Chunk, Document, Entry, KeyDir, NodeDir, Tree

NAMES = [
    "", ".", "..", "/", "a/b", "\0", "c", "c/0", "c.0.0", "0", "00", "-0", "1", "0.0", "zarr.json", "x" * 300,
    "4294967295", "9223372036854775807", "9223372036854775808", "9" * 19, "9" * 40, "٣", "0\n", "\udcff",
]  # fmt: skip

SOME = 40
"""Nodes, rows or names that are looked at, from the beginning and from the end."""

CONTAINERS = [
    VirtualChunkContainer("s3://testbucket", "vcc"),
    VirtualChunkContainer("file:///data/"),
    VirtualChunkContainer("http://host/data", "data"),
    VirtualChunkContainer("az"),
]


def some[T](items: Iterable[T]) -> list[T]:
    """Return the first and the last few of *items*."""
    listed = list(items)
    return listed if len(listed) <= 2 * SOME else listed[:SOME] + listed[-SOME:]


def use_repo_info(info: RepoInfo) -> None:
    """Follow every ref to the beginning of its history, and look at the containers."""
    known = {snapshot.id: snapshot for snapshot in info.snapshots}
    for target in {*info.branches.values(), *info.tags.values()}:
        seen: set[str] = set()
        following: str | None = target
        while following is not None:
            assert following not in seen
            seen.add(following)
            following = known[following].parent
    for snapshot in some(info.snapshots):
        use_history(snapshot)
    json.dumps(info.metadata)
    use_containers(info.containers)


def use_history(info: SnapshotInfo | Snapshot) -> None:
    """Show one line of a history."""
    format_time(info.written_at)
    json.dumps([info.message, info.metadata]).encode()


def use_containers(containers: Iterable[VirtualChunkContainer]) -> None:
    """Ask about locations that these *containers* declare."""
    declared = list(containers)
    use_locations(
        [
            f"{c.url_prefix[:MAX_LOCATION_LENGTH]}{end}"
            for c in some(declared)
            for end in ("", "/x", "/../x")
        ]
        + [f"vcc://{c.name}/x" for c in some(declared)],
        declared,
    )


def use_locations(texts: Iterable[str], containers: Iterable[VirtualChunkContainer]) -> None:
    """Ask about *texts*: what they mean, whether they may be read, and why not."""
    everywhere = [
        AccessPolicy(parse_prefix(p))
        for p in ("s3://testbucket", "http://host", "file:///data", "gs://b")
    ]
    moved = [Relocation(parse_prefix("s3://testbucket/old"), parse_prefix("gs://b/new"))]
    empty = Access(parse_prefix("file:///repository"), policies=everywhere, relocations=moved)
    access = empty.with_containers(containers)
    for text in texts:
        _, refusal = access.explain(text)
        try:
            place = access.resolve(text)
        except AccessDenied:
            assert refusal is not None
            continue
        str(place).encode("utf-8", "surrogateescape")
        access.container_of(place)
    access.report()
    access.notes()


# -- snapshots -----------------------------------------------------------------------------------


def use_snapshot(snapshot: Snapshot) -> None:
    """Walk the tree of *snapshot*, and go from every entry to its number and back."""
    use_history(snapshot)
    tree = Tree(AsStored(snapshot))
    inodes = Inodes(tree)
    for number in some(range(len(tree.nodes))):
        _use_node(tree, inodes, number)
    starts = [inodes.number(NodeDir(number)) for number in some(range(len(tree.nodes)))]
    for start in starts:
        for beside in (-1, 1, MAX_DOCUMENTS, MAX_DOCUMENTS + 1, MAX_DOCUMENTS + 2):
            _check_number(tree, inodes, start + beside)
    for far in (0, -1, 2**47, 2**48, 2**62, 2**63, 2**64 - 1):
        _check_number(tree, inodes, far)


def _use_node(tree: Tree, inodes: Inodes, number: int) -> None:
    node, folder = tree.node(number), NodeDir(number)
    _check_entry(tree, inodes, folder)
    for ordinal, name in enumerate(node.documents):
        document = Document(number, ordinal)
        _check_entry(tree, inodes, document)
        assert tree.lookup(folder, name) == document
        tree.document(document)
    for name, child in itertools.islice(tree.children(number).items(), SOME):
        assert tree.lookup(folder, name) == NodeDir(child)
        assert "/" not in name
        assert name not in {"", ".", ".."}
    pending: list[Entry] = [folder]
    looked = 0
    while pending and looked < 20:
        looked += 1
        parent = pending.pop()
        with contextlib.suppress(FormatError):
            for name in NAMES:
                found = tree.lookup(parent, name)
                if isinstance(found, KeyDir | Chunk):
                    _check_entry(tree, inodes, found)
                    if isinstance(found, KeyDir) and len(pending) < 3:
                        pending.append(found)
    if isinstance(node, Array) and not node.problem:
        shape, encoding = node.grid.shape, node.key_encoding
        for coords in _corners(shape):
            chunk = Chunk(number, coords)
            _check_entry(tree, inodes, chunk)
            assert encoding.decode(encoding.encode(coords), len(shape)) == coords
            assert node.grid.unravel(node.grid.ravel(coords)) == coords


def _corners(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    if 0 in shape:
        return []
    return [tuple(0 for _ in shape), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)]


def _check_entry(tree: Tree, inodes: Inodes, entry: Entry) -> None:
    number = inodes.number(entry)
    assert inodes.entry(number) == entry
    assert 0 < number < 2**64
    tree.path(entry)


def _check_number(tree: Tree, inodes: Inodes, number: int) -> None:
    try:
        entry = inodes.entry(number)
    except NameProblem:
        return
    assert inodes.number(entry) == number
    tree.path(entry)


# -- manifests -----------------------------------------------------------------------------------


def use_manifest(manifest: Manifest, grid: ChunkGrid) -> None:
    """Look up rows of *manifest* and ask whether what they refer to may be read."""
    columns = (
        manifest.kind,
        manifest.location,
        manifest.offset,
        manifest.length,
        manifest.checksum,
    )
    assert {len(column) for column in columns} == {len(manifest)}
    index = manifest.indices(0, len(manifest))
    assert (index[1:] > index[:-1]).all()
    assert not manifest.has_any(0, 0)
    assert manifest.has_any(0, grid.size) == bool(len(manifest))
    locations = set()
    access = Access(parse_prefix("file:///repository"))
    for row in some(range(len(manifest))):
        flat = int(index[row])
        assert manifest.row(flat) == row
        assert grid.contains(grid.unravel(flat))
        ref = manifest.ref(row)
        assert 0 <= ref.range.offset <= ref.range.end < 2**63
        assert ref.kind is not ChunkKind.INLINE or len(ref.inline) == ref.length
        if ref.kind is ChunkKind.VIRTUAL:
            locations.add(ref.location)
        elif ref.kind is ChunkKind.NATIVE:
            access.authorize(ref)
        for offset in (0, max(ref.length - 1, 0), ref.length):
            assert all(p.length > 0 for p in pieces(ref.length, offset, 2**17))
    for table in (manifest.locations, manifest.checksums):
        some(table)
    use_locations(sorted(locations), CONTAINERS)


def refs(manifest: Manifest) -> list[ChunkRef]:
    """Return some refs of *manifest*."""
    return [manifest.ref(row) for row in some(range(len(manifest)))]


def use_array_refs(array: Array, files: Mapping[str, Manifest]) -> None:
    """Find and list the chunks of *array*, whose manifests are in *files* or cannot be loaded."""
    trio.run(_use_array_refs, array, files)


async def _use_array_refs(array: Array, files: Mapping[str, Manifest]) -> None:
    async def load(manifest_id: str) -> Manifest:
        await trio.lowlevel.checkpoint()
        if manifest_id not in files:
            raise FormatError(kind="corrupt-metadata", what="gone")  # type: ignore[arg-type]
        return files[manifest_id]

    refs = ArrayRefs(array, load)
    await refs.load(())
    for coords in _corners(array.grid.shape):
        for depth in range(len(coords)):
            with contextlib.suppress(FormatError):
                has_any = await refs.has_any(coords[:depth])
                children = list(itertools.islice(refs.children(coords[:depth]), SOME))
                assert has_any == bool(children)
                assert all(c < array.grid.shape[depth] for c, _ in children)
        with contextlib.suppress(FormatError):
            found = refs.find(coords)
            assert refs.length_of(coords) == (None if found is None else found.length)
    with contextlib.suppress(FormatError):
        for flat, length in itertools.islice(refs.all_chunks(), SOME):
            found = refs.find(array.grid.unravel(flat))
            assert found is not None
            assert found.length == length
