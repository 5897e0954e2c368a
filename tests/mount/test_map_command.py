"""`vzfs map` on real mounts: the chunk grid of native, inline and virtual arrays, whatever their keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount
from tests.mount.outcomes import errno_of
from tests.mount.repositories import Ref, add_native, add_virtual, create, key_encoding, pattern
from tests.mount.test_commands import fails, vzfs

KEYS = [("default", "/"), ("default", "."), ("v2", "/"), ("v2", ".")]
DATA = pattern(4000)


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a repository with arrays of every kind of chunk and key, and gaps; return it and its archive."""
    folder = tmp_path_factory.mktemp("map")
    archive = folder / "archive"
    archive.mkdir()
    (archive / "source").write_bytes(DATA)
    (archive / "other").write_bytes(DATA)
    repository = create(folder / "repository", containers=[f"{archive.as_uri()}/"], inline=16)
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    for style, separator in KEYS:
        name = f"{style}{'-dots' if separator == '.' else ''}"
        data = np.zeros((4, 6), "i8")
        data[0, :] = data[3, 0] = 1
        add_native(root, name, data, (1, 2))
        if (style, separator) != KEYS[0]:
            key_encoding(session.store, name, style, separator)
    native = np.zeros(1000, "u1")
    native[:400] = 1
    add_native(root, "group/native", native, (100,))
    deep = np.zeros((3, 2, 2), "u1")
    deep[0] = deep[1, 0, 0] = 1
    add_native(root, "group/deep", deep, (1, 1, 1))
    add_native(root, "group/scalar", np.array(5, "u1"), ())
    add_native(root, "group/shards", np.ones((8, 8), "u1"), (2, 2), shards=(4, 4))
    refs = [Ref((archive / "source").as_uri(), 1000 * n, 1000) for n in range(4)]
    add_virtual(session, root, "virtual", refs)
    session.commit("chunks")
    return folder / "repository", archive


@pytest.fixture(name="mounted")
def _mounted(built: tuple[Path, Path], mount: Callable[..., Mount]) -> Path:
    repository, archive = built
    return mount(repository, "--allow", str(archive)).path


def mapped(path: Path, *words: str) -> dict[str, Any]:
    result = vzfs("map", "--json", path, *words)
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def states(path: Path, *words: str) -> dict[str, int]:
    found = mapped(path, *words)
    return {name: count for name, count in found["states"].items() if count} | {
        "missing": found["missing"]
    }


@pytest.mark.parametrize(("style", "separator"), KEYS)
def test_every_key_encoding_is_mapped(style: str, separator: str, mounted: Path) -> None:
    """Chunks that are there and missing are counted in their places, under all four kinds of keys."""
    found = mapped(mounted / f"{style}{'-dots' if separator == '.' else ''}")
    assert found["grid"] == [4, 3]
    assert found["cells"]["present"] == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert found["cells"]["inline"] == found["cells"]["present"]


def test_kinds_and_the_cache_are_mapped(mounted: Path) -> None:
    """Inline, native and virtual chunks are told apart, and become cached ones when they are read."""
    native, virtual = mounted / "group/native", mounted / "virtual"
    assert states(native) == {"native": 4, "missing": 6}
    assert states(virtual) == {"virtual": 4, "missing": 0}
    for path in (native / "c/1", virtual / "c/0"):
        path.read_bytes()
    found = mapped(native)
    assert found["cells"]["native_cached"][0][1] == 1
    assert mapped(virtual)["cells"]["virtual_cached"][0][0] == 1
    # A second read of neighbours may have been foreseen; nothing else was asked for.
    assert states(native)["missing"] == 6


def test_a_map_is_drawn_for_people(mounted: Path) -> None:
    """Without a terminal there are letters, no colours, and a key with counts."""
    result = vzfs("map", mounted / "default", COLUMNS="60")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{mounted / 'default'}  int64 4x6, 4 x 3 chunks",
        "axis 0 down, axis 1 across",
        "   0 1 2",
        "0  i i i",
        "1  · · ·",
        "2  · · ·",
        "3  i · ·",
        "i 4 inline",
        "· 8 missing",
    ]


def test_planes_of_an_array_of_three_axes(mounted: Path) -> None:
    """By default the last axes are drawn over all of the others; --at and --axes choose."""
    deep = mounted / "group/deep"
    assert mapped(deep)["cells"]["present"] == [[2, 1], [1, 1]]
    assert mapped(deep, "--at", "1")["cells"]["present"] == [[1, 0], [0, 0]]
    assert mapped(deep, "--axes", "0,2", "--at", "1")["cells"]["present"] == [
        [1, 1],
        [0, 0],
        [0, 0],
    ]
    assert mapped(deep, "--axes", "0", "--at", "*,0")["cells"]["present"] == [[2, 1, 0]]
    fails(vzfs("map", deep, "--at", "3"), 2, "no chunk 3")
    fails(vzfs("map", deep, "--axes", "0,3"), 2, "--axes=0,3")


def test_arrays_without_axes_and_with_shards(mounted: Path) -> None:
    """An array without dimensions has one chunk; of a sharded array a chunk is a shard."""
    found = mapped(mounted / "group/scalar")
    assert (found["grid"], found["present"]) == ([], 1)
    found = mapped(mounted / "group/shards")
    assert (found["grid"], found["present"]) == ([2, 2], 4)
    assert "2 x 2 shards" in vzfs("map", mounted / "group/shards").stdout


def test_a_picture_of_a_mount(mounted: Path, tmp_path: Path) -> None:
    """`-o` writes PNG and SVG files."""
    for name, begin in (("m.png", b"\x89PNG"), ("m.svg", b"<svg")):
        result = vzfs("map", mounted / "virtual", "-o", tmp_path / name)
        assert result.returncode == 0
        assert (tmp_path / name).read_bytes().startswith(begin)
        assert str(tmp_path / name) in result.stdout


def test_what_is_no_array_is_refused(mounted: Path, tmp_path: Path) -> None:
    """A group ends with 2 and names what is in it, a path that is not there with 3, one in no mount with 7."""
    fails(vzfs("map", mounted / "group"), 2, "no array", "deep, native, scalar, shards")
    fails(vzfs("map", mounted / "virtual/c/0"), 2, "no array")
    fails(vzfs("map", mounted / "nothing"), 3, "no such path")
    fails(vzfs("map", tmp_path), 7, "in no vzfs mount")


def test_a_map_asks_no_source(built: tuple[Path, Path], mount: Callable[..., Mount]) -> None:
    """Where virtual chunks may not be read they are mapped all the same, and nothing is refused or logged."""
    mounted = mount(built[0])
    assert states(mounted.path / "virtual") == {"virtual": 4, "missing": 0}
    mounted.expect_log("not-allowed")
    assert errno_of((mounted.path / "virtual/c/0").read_bytes) == "EACCES"
