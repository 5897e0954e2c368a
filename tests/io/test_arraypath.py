"""Arrays found by their paths: which chunks are there, and what they are, on directories that stand for a mount."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from vzfs.cli import arraypath
from vzfs.cli.arraypath import open_array, present, state_of
from vzfs.cli.chunkmap import State, choose
from vzfs.cli.map import map as map_command
from vzfs.errors import ErrorKind, VzfsError
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle

ENCODINGS = [ChunkKeyEncoding(style, separator) for style in KeyStyle for separator in ("/", ".")]


@pytest.fixture(autouse=True)
def _mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every directory be in a mount."""
    monkeypatch.setattr(arraypath, "mount_of", lambda path: None)


def document(
    shape: tuple[int, ...], encoding: ChunkKeyEncoding = ENCODINGS[0], **more: Any
) -> dict[str, Any]:
    """Return a `zarr.json` of chunks of one element."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}},
        "chunk_key_encoding": {
            "name": encoding.style,
            "configuration": {"separator": encoding.separator},
        },
        **more,
    }


def make(
    folder: Path, encoding: ChunkKeyEncoding, shape: tuple[int, ...], chosen: set[int], version: int
) -> str:
    """Write an array of which the chunks *chosen* are there."""
    folder.mkdir(parents=True)
    if version == 3:
        (folder / "zarr.json").write_text(json.dumps(document(shape, encoding)))
    else:
        fields = {"zarr_format": 2, "shape": shape, "chunks": [1] * len(shape), "dtype": "<f4"}
        if encoding.separator == "/":
            fields["dimension_separator"] = "/"
        (folder / ".zarray").write_text(json.dumps(fields))
    grid = ChunkGrid(shape)
    for flat in chosen:
        path = folder / encoding.encode(grid.unravel(flat))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3), (3, 1, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: f"{e.style}{e.separator}")
def test_chunks_are_found_under_every_kind_of_key(
    encoding: ChunkKeyEncoding, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """All chunks that are there are found, in all and at each place of an axis, whatever their keys and the version of Zarr."""
    grid = ChunkGrid(shape)
    chosen = {flat for flat in range(grid.size) if flat % 3 != 1}
    for version in (3, 2) if encoding.style is KeyStyle.V2 else (3,):
        array = open_array(make(tmp_path / f"v{version}", encoding, shape, chosen, version))
        assert array.layout.grid.shape == shape
        planes = [choose(grid, None, None)]
        for axis, count in enumerate(shape):
            others = [None, *[0] * len(shape)][: len(shape) - 1]
            planes.append(choose(grid, (axis,), others))
            one = [count - 1 if other == axis else None for other in range(len(shape))]
            planes.append(choose(grid, (), one))
        for plane in planes:
            wanted = {
                flat
                for flat in chosen
                if all(at in {None, c} for at, c in zip(plane.at, grid.unravel(flat), strict=True))
            }
            found = np.concatenate(list(present(array, plane))).tolist()
            assert sorted(found) == sorted(wanted)
            assert all(os.path.exists(array.key(flat)) for flat in found)  # noqa: PTH110 -- text


def test_chunks_come_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks there are, only so many are held at once."""
    monkeypatch.setattr(arraypath, "BATCH", 10)
    array = open_array(make(tmp_path / "a", ENCODINGS[0], (5, 7), set(range(35)), 3))
    sizes = [len(flats) for flats in present(array, choose(array.layout.grid, None, None))]
    assert max(sizes) == 10
    assert sum(sizes) == 35


def test_what_is_no_key_is_passed_over(tmp_path: Path) -> None:
    """Documents, child nodes, and names that are no keys of the grid are not taken for chunks."""
    for encoding in ENCODINGS:
        folder = tmp_path / f"{encoding.style}{ord(encoding.separator)}"
        path = make(folder, encoding, (3, 3), {0, 4}, 3)
        inside = folder / "c" if encoding == ENCODINGS[0] else folder
        for name in ("00", "3", "-1", "x", "1.5", "c.9.9", "0.0.0", "c.1"):
            (inside / name).mkdir(exist_ok=True)
        array = open_array(path)
        (found,) = present(array, choose(array.layout.grid, None, None))
        assert sorted(found.tolist()) == [0, 4]


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({}, State.UNASKED),
        ({"kind": "odd"}, State.UNASKED),
        ({"kind": "inline", "cached": "yes"}, State.INLINE),
        ({"kind": "native", "cached": "no"}, State.NATIVE),
        ({"kind": "native", "cached": "yes"}, State.NATIVE_CACHED),
        ({"kind": "virtual"}, State.VIRTUAL),
        ({"kind": "virtual", "cached": "yes", "stale": "no"}, State.VIRTUAL_CACHED),
        ({"kind": "virtual", "cached": "yes", "stale": "yes"}, State.STALE),
    ],
)
def test_attributes_say_what_a_chunk_is(
    attributes: dict[str, str], state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind, cached and stale make one state, in which stale weighs most."""
    whole = {f"user.vzfs.{name}": text for name, text in attributes.items()}
    monkeypatch.setattr(arraypath, "names", lambda path: list(whole))
    monkeypatch.setattr(arraypath, "attribute", lambda path, name: whole.get(name))
    assert state_of("x") is state


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("zarr.json", "{}", ErrorKind.UNSUPPORTED_FORMAT, "does not describe"),
        ("zarr.json", "[" * 100_000, ErrorKind.UNSUPPORTED_FORMAT, "not JSON"),
        (
            "zarr.json",
            json.dumps({"zarr_format": 3, "node_type": "group"}),
            ErrorKind.BAD_USAGE,
            "this is no array",
        ),
        (
            "zarr.json",
            json.dumps(document((2**40, 2**40))),
            ErrorKind.UNSUPPORTED_FORMAT,
            "more chunks",
        ),
        (".zarray", "{}", ErrorKind.UNSUPPORTED_FORMAT, ".zarray has a malformed shape"),
        (
            ".zarray",
            json.dumps({"shape": [1], "chunks": [0]}),
            ErrorKind.UNSUPPORTED_FORMAT,
            ".zarray has a malformed chunk_shape",
        ),
        (
            ".zarray",
            json.dumps({"shape": [1], "chunks": [1], "dimension_separator": "-"}),
            ErrorKind.UNSUPPORTED_FORMAT,
            "separator",
        ),
        (".zgroup", "{}", ErrorKind.BAD_USAGE, "in it are child"),
    ],
)
def test_what_is_no_array_is_an_error_of_one_line(
    name: str, content: str, kind: ErrorKind, said: str, tmp_path: Path
) -> None:
    """A group, a document that says nothing and a hostile one are told apart, and named."""
    (tmp_path / "child").mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(VzfsError) as caught:
        open_array(str(tmp_path))
    assert caught.value.kind is kind
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_in_an_error_are_harmless(tmp_path: Path) -> None:
    """A few of the nodes of a group are named, without what would break the line or command the terminal."""
    for number in range(20):
        (tmp_path / f"{number:02}\n\x1b[31m").mkdir()
    with pytest.raises(VzfsError) as caught:
        open_array(str(tmp_path))
    assert str(caught.value).isprintable()
    assert caught.value.advice.count("[31m") == arraypath.MAX_NAMED
    assert caught.value.advice.endswith(", ...")


def test_a_file_is_no_array(tmp_path: Path) -> None:
    """The path of a chunk or a document is none of an array."""
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(VzfsError, match="this is no array"):
        open_array(str(tmp_path / "zarr.json"))


def test_a_directory_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the mount fails to list, the map fails, and shows nothing as missing."""

    def fail(path: str) -> None:
        raise OSError(5, "Input/output error")

    array = open_array(make(tmp_path / "a", ENCODINGS[0], (3,), {0}, 3))
    monkeypatch.setattr(arraypath.os, "scandir", fail)
    with pytest.raises(VzfsError) as caught:
        list(present(array, choose(array.layout.grid, None, None)))
    assert caught.value.kind is ErrorKind.SOURCE_UNREACHABLE
    assert "Input/output error" in str(caught.value)


# -- the command -------------------------------------------------------------------------------


@pytest.fixture(name="run")
def _run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run `vzfs map`; of the chunks that are there, every second one is virtual, the others are native."""

    def attribute(path: str, name: str) -> str | None:
        last = int(Path(path).name.rpartition(".")[2])
        found = {"kind": ("virtual", "native")[last % 2], "cached": "no"}
        return found.get(name.removeprefix("user.vzfs."))

    monkeypatch.setattr(arraypath, "names", lambda path: [])
    monkeypatch.setattr(arraypath, "attribute", attribute)

    def run(*words: str) -> str:
        result = CliRunner().invoke(map_command, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_a_map_is_drawn_with_what_it_shows(tmp_path: Path, run: Callable[..., str]) -> None:
    """`vzfs map` says which array and which axes, draws them, and counts what it drew."""
    path = make(tmp_path / "a", ENCODINGS[0], (2, 3), {0, 1, 3}, 3)
    assert run(path).splitlines() == [
        f"{path}  float32 2x3, 2 x 3 chunks",
        "axis 0 down, axis 1 across",
        "   0 1 2",
        "0  v n \N{MIDDLE DOT}",
        "1  v \N{MIDDLE DOT} \N{MIDDLE DOT}",
        "v 2 virtual",
        "n 1 native",
        "\N{MIDDLE DOT} 3 missing",
    ]
    assert run(path, "--axes=1", "--at=1").splitlines()[1:3] == [
        "axis 1 across, axis 0 at 1",
        "0  v\N{MIDDLE DOT}\N{MIDDLE DOT}",
    ]


def test_names_of_axes_and_shards_are_said(tmp_path: Path, run: Callable[..., str]) -> None:
    """Where dimensions have names they are said, without what a terminal would obey; of a sharded array a chunk is a shard."""
    path = Path(make(tmp_path / "a", ENCODINGS[0], (2, 3), {0}, 3))
    codecs = [{"name": "sharding_indexed", "configuration": {}}]
    names = ["t\x1b[31m[red]", None]
    (path / "zarr.json").write_text(
        json.dumps(document((2, 3), dimension_names=names, codecs=codecs))
    )
    first, second, *_ = run(str(path), "--axes=1").splitlines()
    assert first.endswith("2 x 3 shards")
    assert second == "axis 1 across, all 2 of axis 0 (t\\x1b[31m[red])"


def test_a_sample_is_asked_and_said(
    tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more chunks than can be asked in a moment a sample is, and that is said; --all asks of every one."""
    monkeypatch.setattr("vzfs.cli.map.MAX_ASKED", 10)
    path = make(tmp_path / "a", ENCODINGS[1], (30,), set(range(25)), 3)
    found = json.loads(run(path, "--json"))
    assert (found["chunks"], found["present"], found["missing"], found["asked"]) == (30, 25, 5, 10)
    assert found["states"]["unasked"] == 15
    assert "10 chunks were asked" in run(path)
    found = json.loads(run(path, "--json", "--all"))
    assert found["asked"] == 25
    assert found["states"] == {
        **dict.fromkeys(found["states"], 0),
        "virtual": 13,
        "native": 12,
    }
    assert "were asked" not in run(path, "--all")


def test_json_has_every_cell(tmp_path: Path, run: Callable[..., str]) -> None:
    """`vzfs map --json` has the grid, what is drawn of it, and the counts of each cell."""
    path = make(tmp_path / "a", ENCODINGS[0], (2, 2, 3), {0, 1, 3, 6}, 3)
    found = json.loads(run(path, "--json"))
    assert (found["grid"], found["axes"], found["at"]) == ([2, 2, 3], [1, 2], [None] * 3)
    assert found["cell"] == {"down": 1, "across": 1, "deep": 2}
    assert found["cells"] == {
        "chunks": [[2, 2, 2], [2, 2, 2]],
        "present": [[2, 1, 0], [1, 0, 0]],
        "virtual": [[2, 0, 0], [1, 0, 0]],
        "native": [[0, 1, 0], [0, 0, 0]],
    }


@pytest.mark.parametrize(("name", "begin"), [("m.png", b"\x89PNG"), ("m.SVG", b"<svg")])
def test_a_picture_is_written(
    name: str, begin: bytes, tmp_path: Path, run: Callable[..., str]
) -> None:
    """`-o` writes a picture by the end of its name, and what the drawing says but for the cells is printed."""
    path = make(tmp_path / "a", ENCODINGS[0], (2, 3), {0, 1, 3}, 3)
    said = run(path, "-o", str(tmp_path / name)).splitlines()
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert said[2:] == [
        "v 2 virtual",
        "n 1 native",
        "\N{MIDDLE DOT} 3 missing",
        f"written to {tmp_path / name}",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "map.jpg"], "neither a .png nor a .svg"),
        (["--axes", "x"], "not numbers"),
        (["--axes", "*"], "not numbers"),
        (["--axes", ""], "not numbers"),
        (["--at", "1,,2"], "not numbers"),
        (["--at", "9" * 5000], "not numbers"),
    ],
)
def test_wrong_options_are_named(words: list[str], said: str, tmp_path: Path) -> None:
    """What is no picture and no list of numbers is wrong usage."""
    result = CliRunner().invoke(map_command, [str(tmp_path), *words])
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_picture_that_cannot_be_written_is_an_error(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    """A picture in a folder that does not exist ends the command with one line."""
    path = make(tmp_path / "a", ENCODINGS[0], (2,), {0}, 3)
    with pytest.raises(VzfsError, match="cannot be written") as caught:
        run(path, "-o", str(tmp_path / "no/m.png"))
    assert caught.value.kind is ErrorKind.BAD_USAGE
