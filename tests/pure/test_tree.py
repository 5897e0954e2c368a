"""Names, nodes and inodes agree with a naive reading of the same snapshot."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import FormatError, NameProblem
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.snapshot import Array, Group, Snapshot
from vzfs.tree import inodes
from vzfs.tree.inodes import EPOCHS, Inodes, first_of
from vzfs.tree.tree import AsStored, Chunk, Document, Entry, KeyDir, NodeDir, Tree

ENCODINGS = [ChunkKeyEncoding(style, sep) for style in KeyStyle for sep in ("/", ".")]
DEFAULT = ChunkKeyEncoding()
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
grids = st.builds(ChunkGrid, shapes)


def snapshot(*nodes: Array | Group) -> Snapshot:
    root = Group(path="/", documents={"zarr.json": b"{}"})
    return Snapshot(id="S", written_at=0, message="", metadata={}, nodes=(root, *nodes))


def array(
    path: str, grid: ChunkGrid, encoding: ChunkKeyEncoding = DEFAULT, problem: str = ""
) -> Array:
    return Array(
        path=path,
        documents={"zarr.json": json.dumps({"path": path}).encode()},
        id=path.encode(),
        grid=grid,
        key_encoding=encoding,
        manifests=(),
        problem=problem,
    )


def walk(tree: Tree, path: str) -> Entry | None:
    """Look up *path* name by name."""
    entry: Entry | None = NodeDir(0)
    for name in path.split("/"):
        if entry is None:
            return None
        entry = tree.lookup(entry, name)
    return entry


@given(grids)
def test_flat_indices_are_c_order(grid: ChunkGrid) -> None:
    """Coordinates in C order have the flat indices 0, 1, 2, ... and back."""
    every = list(itertools.product(*map(range, grid.shape)))

    assert [grid.ravel(coords) for coords in every] == list(range(grid.size))
    assert [grid.unravel(flat) for flat in range(grid.size)] == every


@given(grids, st.sampled_from(ENCODINGS))
def test_chunk_keys_decode_to_what_they_encode(grid: ChunkGrid, encoding: ChunkKeyEncoding) -> None:
    """Every key names its own coordinates, in every encoding."""
    for coords in itertools.product(*map(range, grid.shape)):
        assert encoding.decode(encoding.encode(coords), len(grid.shape)) == coords


@pytest.mark.parametrize(
    "key", ["c/00", "c/+1", "c/ 1", "c/1/", "c//1", "c/-1", "c/1_0", "c/٣", "c", "d/1"]
)
def test_only_canonical_keys_are_keys(key: str) -> None:
    """A coordinate has one spelling; no other name reaches a chunk."""
    assert ChunkKeyEncoding().decode(key, 1) is None


@given(grids, st.sampled_from(ENCODINGS))
def test_walking_finds_each_chunk_by_its_key(grid: ChunkGrid, encoding: ChunkKeyEncoding) -> None:
    """Looking up a chunk's key name by name ends at that chunk, and its path is that key."""
    tree = Tree(AsStored(snapshot(array("/a", grid, encoding))))
    for coords in itertools.product(*map(range, grid.shape)):
        found = walk(tree, "a/" + encoding.encode(coords))

        assert found == Chunk(1, coords)
        assert tree.path(found) == "/a/" + encoding.encode(coords)


@given(grids, st.sampled_from(ENCODINGS))
def test_keys_outside_the_grid_are_no_names(grid: ChunkGrid, encoding: ChunkKeyEncoding) -> None:
    """A key whose coordinates lie outside the grid is not in the tree."""
    tree = Tree(AsStored(snapshot(array("/a", grid, encoding))))
    if grid.shape:
        outside = encoding.encode((*[0] * (len(grid.shape) - 1), grid.shape[-1]))

        assert not isinstance(walk(tree, "a/" + outside), Chunk)


@given(
    st.lists(st.tuples(grids, st.sampled_from(ENCODINGS)), max_size=4), st.integers(0, EPOCHS - 1)
)
def test_inode_numbers_are_distinct_and_lead_back(
    arrays: list[tuple[ChunkGrid, ChunkKeyEncoding]], epoch: int
) -> None:
    """Every entry has a number of its own, and the number leads back to the entry."""
    nodes = [array(f"/a{i}", grid, encoding) for i, (grid, encoding) in enumerate(arrays)]
    tree = Tree(AsStored(snapshot(*nodes)))
    numbers = Inodes(tree, epoch)
    every: list[Entry] = [NodeDir(n) for n in range(len(tree.nodes))]
    every += [Document(n, 0) for n in range(len(tree.nodes))]
    for n, (grid, encoding) in enumerate(arrays, start=1):
        every += [Chunk(n, c) for c in itertools.product(*map(range, grid.shape))]
        if encoding.separator == "/" and grid.shape:
            first = 0 if encoding.style is KeyStyle.DEFAULT else 1
            for depth in range(first, len(grid.shape)):
                prefixes = itertools.product(*map(range, grid.shape[:depth]))
                every += [KeyDir(n, prefix) for prefix in prefixes]
    found = [numbers.number(entry) for entry in every]

    assert len(set(found)) == len(found)
    assert min(found) == first_of(epoch)
    assert [numbers.entry(number) for number in found] == every


def test_numbers_outside_every_window_are_stale() -> None:
    """An inode that no entry has is stale, not another file."""
    numbers = Inodes(Tree(AsStored(snapshot(array("/a", ChunkGrid((2,)))))))

    for number in (0, 3, 9, 10_000, 2**62, 2**63):
        with pytest.raises(NameProblem):
            numbers.entry(number)


def test_an_oversized_grid_is_numbered_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid too large for a window is served all the same, with a bounded table of numbers."""
    monkeypatch.setattr(inodes, "MAX_TABLE", 2)
    huge = ChunkGrid((2**32, 2**32))
    numbers = Inodes(Tree(AsStored(snapshot(array("/a", huge), array("/b", ChunkGrid((2,)))))))
    entries = [Chunk(1, (i, 2**32 - 1)) for i in range(3)]
    found = [numbers.number(entry) for entry in entries]

    assert len(set(found)) == 3
    assert numbers.entry(found[2]) == entries[2]
    assert numbers.entry(numbers.number(Chunk(2, (1,)))) == Chunk(2, (1,))
    with pytest.raises(NameProblem):
        numbers.entry(found[0])


def test_an_empty_repository_is_an_empty_directory() -> None:
    """The first snapshot of a repository has no nodes; its root is a directory without names."""
    empty = Snapshot(id="S", written_at=0, message="", metadata={}, nodes=())
    tree = Tree(AsStored(empty))

    assert Inodes(tree).number(NodeDir(0)) == 1
    assert tree.lookup(NodeDir(0), "zarr.json") is None
    assert dict(tree.children(0)) == {}


def test_a_node_without_its_parent_is_damage() -> None:
    """A hierarchy with a hole in it is refused."""
    with pytest.raises(FormatError):
        Tree(AsStored(snapshot(array("/nowhere/a", ChunkGrid((1,))))))


def test_an_array_of_unknown_keys_shows_its_document_only() -> None:
    """Where chunk keys cannot be known, a chunk is never said to be absent."""
    tree = Tree(AsStored(snapshot(array("/a", ChunkGrid((1,)), problem="an unknown grid"))))

    assert tree.lookup(NodeDir(1), "zarr.json") == Document(1, 0)
    with pytest.raises(FormatError, match="unknown grid"):
        tree.lookup(NodeDir(1), "c")


def test_no_path_leads_through_a_file() -> None:
    """Looking something up in a chunk or a document is an error of its own, not an absent name."""
    tree = Tree(AsStored(snapshot(array("/a", ChunkGrid((1,))))))

    for file in (Chunk(1, (0,)), Document(1, 0)):
        with pytest.raises(NameProblem, match="this is a file"):
            tree.lookup(file, "x")


def test_a_number_in_use_outlives_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an oversized array's numbers the one that was not used longest goes, not the one made first."""
    monkeypatch.setattr(inodes, "MAX_TABLE", 2)
    numbers = Inodes(Tree(AsStored(snapshot(array("/a", ChunkGrid((2**32, 2**32)))))))
    chunks = [Chunk(1, (i, 0)) for i in range(5)]
    first, second = (numbers.number(chunk) for chunk in chunks[:2])
    assert numbers.number(chunks[0]) == first
    third = numbers.number(chunks[2])
    with pytest.raises(NameProblem):
        numbers.entry(second)

    assert numbers.entry(first) == chunks[0]
    numbers.number(chunks[3])
    assert numbers.entry(first) == chunks[0]
    with pytest.raises(NameProblem):
        numbers.entry(third)
