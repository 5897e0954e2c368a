"""`vzfs stat` on real mounts: what it says of paths, and how it ends where it can say nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import demo
from tests.mount.conftest import Mount
from tests.mount.outcomes import xattrs
from tests.mount.test_commands import fails, vzfs


@pytest.fixture(scope="session", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the demo's archive and repository."""
    return demo.build(tmp_path_factory.mktemp("demo"))


@pytest.fixture(name="mounted")
def _mounted(built: tuple[Path, Path], mount: Callable[..., Mount]) -> Path:
    archive, repository = built
    return mount(repository, "--allow", str(archive)).path


def block(text: str) -> dict[str, str]:
    """Return the lines of a block below its path."""
    rows = (line.split(maxsplit=1) for line in text.splitlines()[1:])
    return {row[0]: row[1] for row in rows}


def test_stat_says_what_the_attributes_say(mounted: Path, built: tuple[Path, Path]) -> None:
    """Each path has a block with all its attributes, sizes and times for people too, a chunk's source first."""
    chunk = mounted / demo.CHUNK
    result = vzfs("stat", chunk, mounted)
    assert (result.returncode, result.stderr) == (0, "")
    first, second = result.stdout.split("\n\n")
    assert first.splitlines()[0] == str(chunk)
    found, length = block(first), chunk.stat().st_size
    assert found["type"].startswith(f"chunk, {length} bytes")
    assert found["source"] == (built[0] / "tos_201501.nc").as_uri()
    assert found["length"].startswith(f"{length} bytes")
    assert found["cached"] == "no"
    assert found.keys() == xattrs(chunk).keys() | {"type", "written"}
    assert list(found)[:3] == ["type", "kind", "source"]
    assert second.splitlines()[0] == str(mounted)
    assert block(second)["type"] == "directory"
    assert block(second)["branch"] == "main"


def test_stat_as_json_has_every_attribute(mounted: Path) -> None:
    """`vzfs stat --json` is a list in which each path has its mount, its size and its attributes, numbers as numbers."""
    paths = [mounted / demo.CHUNK, mounted / "tos/zarr.json", mounted / "tos"]
    found = json.loads(vzfs("stat", "--json", *paths).stdout)
    assert [report["type"] for report in found] == ["chunk", "file", "directory"]
    for path, report in zip(paths, found, strict=True):
        assert report["path"] == str(path)
        assert report["mountpoint"] == str(mounted)
        assert report["size"] == path.stat().st_size
        said = {name: str(value) for name, value in report["attributes"].items()}
        assert said == xattrs(path)
    assert found[0]["attributes"]["offset"] == int(xattrs(paths[0])["offset"])


def test_stat_asks_no_source_and_sees_the_cache(mounted: Path) -> None:
    """A chunk is said to be cached once it was read, and asking about it does not read it."""
    chunk = mounted / demo.CHUNK
    for _ in range(2):
        assert block(vzfs("stat", chunk).stdout)["cached"] == "no"
    chunk.read_bytes()
    assert block(vzfs("stat", chunk).stdout)["cached"] == "yes"


def test_a_link_and_a_relative_path_lead_into_the_mount(
    mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may be relative and go through links; it is shown as it was given."""
    (tmp_path / "link").symlink_to(mounted / "tos")
    monkeypatch.chdir(tmp_path)
    result = vzfs("stat", "link/zarr.json")
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == "link/zarr.json"


def test_what_is_not_there_or_in_no_mount_is_one_line(mounted: Path, tmp_path: Path) -> None:
    """A path that does not exist ends with 3, one in no vzfs mount with 7; the other paths are said all the same."""
    fails(vzfs("stat", mounted / "nothing"), 3, str(mounted / "nothing"), "no such path")
    fails(vzfs("stat", mounted / "tos/zarr.json/x"), 3, "through a file")
    fails(vzfs("stat", mounted / ("n" * 300)), 3, "too long")
    fails(vzfs("stat", tmp_path / "nothing"), 3, "no such path")
    fails(vzfs("stat", tmp_path), 7, str(tmp_path), "in no vzfs mount")
    fails(vzfs("stat", "/proc"), 7, "/proc")
    result = vzfs("stat", tmp_path, mounted, mounted / "nothing", mounted / "tos")
    assert result.returncode == 7
    assert result.stderr.count("\n") == 2
    assert result.stdout.count("snapshot") == 2
    assert vzfs("stat").returncode == 2


def test_a_dead_mount_is_one_line(built: tuple[Path, Path], mount: Callable[..., Mount]) -> None:
    """In a mount whose daemon was killed nothing is said but that, with exit code 7 and what to do."""
    mounted = mount(built[1])
    mounted.kill()
    for command in ("stat", "map"):
        fails(vzfs(command, mounted.path / "tos"), 7, "daemon", "umount --lazy")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's mount")
def test_attributes_of_files_outside_are_not_believed(tmp_path: Path) -> None:
    """A file that is in no mount is none, whatever attributes somebody gave it."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    try:
        os.setxattr(path, "user.vzfs.snapshot", b"forged")
    except OSError:
        pytest.skip("this file system keeps no attributes")
    fails(vzfs("stat", path), 7, "in no vzfs mount")
