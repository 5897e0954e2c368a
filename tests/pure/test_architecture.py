"""What `docs/DESIGN.md` says of the layout, checked on the source itself."""

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vzfs"

RANKS = {
    "vzfs": 0, "errors": 0,
    "model": 1,
    "access": 2, "confined": 2, "flights": 2, "plan": 2, "tree": 2, "walks": 2,
    "config": 3, "formats": 3, "mounttable": 3,
    "source": 4, "cache": 4, "views": 4,
    "archival": 5, "control": 5, "joining": 5,
    "repository": 6,
    "chunks": 7,
    "decoding": 8, "exporting": 8, "verify": 8, "warming": 8,
    "hierarchy": 9,
    "filesystem": 10,
    "fuse": 11, "observe": 11,
    "ingest": 12, "mount": 12,
    "cli": 13,
    "mounthelper": 14, "__main__": 14,
}  # fmt: skip
"""How high each room lies: it may use what lies lower, and itself. "vzfs" is the version alone."""

OWNERS = {
    "httptools": {"source"}, "ssl": {"source"},
    "botocore": {"source"}, "google": {"source"}, "azure": {"source"}, "click": {"cli"},
    "zarr": {"decoding", "ingest"}, "numcodecs": {"decoding"}, "icechunk": {"ingest"},
    "h5py": {"archival", "ingest"},
}  # fmt: skip
"""Which rooms may use a library that nobody else may use; mounthelper borrows click's errors."""

WITHOUT_IO = {"errors", "model", "access", "plan", "tree", "walks", "config", "formats", "views"}
IO = {"trio", "socket", "subprocess", "threading", "asyncio"}

MAX_LINES = 650

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the name of the room that a module belongs to."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "vzfs" if first == "__init__" else first


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> Sequence[tuple[int, str]]:
    """Return line and dotted name of whatever a module imports, at its head or anywhere in it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found += ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    return found


def used_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and room of whatever a module imports from this package."""
    for line, name in imports(path):
        head, _, rest = name.partition(".")
        if head == "vzfs":
            first = rest.partition(".")[0]
            yield line, first if first in RANKS else "vzfs"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """A module imports from rooms of a lower rank and from its own, and from nowhere else."""
    room = room_of(path)
    upward = [
        (line, used)
        for line, used in used_rooms(path)
        if used != room and RANKS[used] >= RANKS[room] and used != "vzfs"
    ]
    assert upward == []


def test_every_room_has_a_rank() -> None:
    """No room is without a rank, and none of the ranks is of a room that is gone."""
    assert {room_of(path) for path in MODULES} == RANKS.keys()


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_one_owner(library: str) -> None:
    """Only vzfs/source talks to stores and servers, only vzfs/decoding to codecs, only vzfs/ingest writes repositories, only vzfs/archival parses HDF5 (vzfs/ingest checks it), and only the command line knows click."""
    users = {
        room_of(path)
        for path in MODULES
        for _, name in imports(path)
        if name.partition(".")[0] == library
    }
    assert users - {"mounthelper"} == OWNERS[library]
    assert library == "click" or "mounthelper" not in users


def test_what_is_pure_stays_pure() -> None:
    """Rooms that decide and decode start no threads, tasks or processes and open no sockets."""
    impure = [
        (path.relative_to(PACKAGE), name)
        for path in MODULES
        if room_of(path) in WITHOUT_IO
        for _, name in imports(path)
        if name.partition(".")[0] in IO
    ]
    assert impure == []


@pytest.mark.parametrize("proof", ["AuthorizedRange", "AuthorizedPrefix"])
def test_only_access_makes_proofs(proof: str) -> None:
    """A proof of authorization is made in access.py and nowhere else."""
    makers = {
        room_of(path)
        for path in MODULES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and _called(node.func) == proof
    }
    assert makers == {"access"}


def _called(function: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_are_of_a_size_to_read(path: Path) -> None:
    """No module has more than 650 lines, each says first what it is, and none is a drawer."""
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text))
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}


def test_every_test_says_what_it_shows() -> None:
    """Every test function has a docstring: a sentence of the specification."""
    silent = [
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
