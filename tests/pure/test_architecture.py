"""What `docs/DESIGN.md` says of the layout, checked on the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vzfs"

RANKS = {
    "vzfs": 0, "errors": 0,
    "model": 1,
    "access": 2, "flights": 2, "plan": 2, "tree": 2, "walks": 2,
    "config": 3, "formats": 3, "mounttable": 3,
    "source": 4, "cache": 4, "views": 4,
    "repository": 5, "control": 5,
    "chunks": 6,
    "decoding": 7, "verify": 7,
    "hierarchy": 8,
    "filesystem": 9,
    "fuse": 10, "observe": 10,
    "mount": 11,
    "cli": 12,
    "mounthelper": 13, "__main__": 13,
}  # fmt: skip
"""How high each room lies: it may use what lies lower, and itself. "vzfs" is the version alone."""

OWNERS = {
    "httptools": {"source"}, "ssl": {"source"},
    "botocore": {"source"}, "google": {"source"}, "azure": {"source"}, "click": {"cli"},
    "zarr": {"decoding"}, "numcodecs": {"decoding"},
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


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of whatever a module imports, at its head or anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


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
    """Only vzfs/source talks to stores and servers, only vzfs/decoding to codecs, and only the command line knows click."""
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
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == proof
    }
    assert makers == {"access"}


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
