"""`vzfs info --view`: how a view shows each array of a repository."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from tests.mount.repositories import add_native, create
from vzfs.cli.showing import info
from vzfs.cli.viewing import Shown, summary

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 5}}
ZLIB = {"name": "numcodecs.zlib", "configuration": {"level": 5}}
ZSTD = {"name": "numcodecs.zstd", "configuration": {"level": 3}}
ODD = {"name": "example.odd", "configuration": {}}
CODECS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "/group/odd": [BYTES, ODD],
    "/group/plain": [BYTES],
    "/gzip": [BYTES, GZIP],
    "/zlib": [BYTES, ZLIB],
    "/zstd": [BYTES, ZSTD],
}


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a repository of arrays whose documents name these codecs."""
    path = tmp_path_factory.mktemp("info") / "repository"
    session = create(path).writable_session("main")
    root = zarr.group(session.store)
    prototype = default_buffer_prototype()
    for name, codecs in CODECS.items():
        add_native(root, name[1:], np.arange(1, 11, dtype="i4"), (5,))
        key = f"{name[1:]}/zarr.json"
        found = sync(session.store.get(key, prototype))
        assert found is not None
        document = json.loads(found.to_bytes()) | {"codecs": list(codecs)}
        content = prototype.buffer.from_bytes(json.dumps(document).encode())
        sync(session.store.set(key, content))
    session.commit("arrays")
    return str(path)


def run(*words: str) -> str:
    result = CliRunner().invoke(info, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(repository: str, *words: str) -> dict[str, str]:
    found = json.loads(run(repository, "--json", *words))
    return {node["path"]: node["shown"] for node in found["nodes"] if node["type"] == "array"}


def test_each_view_says_what_becomes_of_each_array(repository: str) -> None:
    """An array is as stored, has its codecs renamed, is framed as Blosc, decoded, or left out, by the view."""
    as_stored = dict.fromkeys(CODECS, "as-stored")
    portable = {"/zlib": "framed-as-blosc", "/zstd": "renamed"}
    decoded = dict.fromkeys(("/gzip", "/zlib", "/zstd"), "decoded")
    assert shown(repository, "--view", "stored") == as_stored
    assert shown(repository) == as_stored | portable
    assert shown(repository, "--view", "portable") == as_stored | portable
    assert shown(repository, "--view", "decoded")["/group/odd"] == "left-out"
    found = shown(repository, "--view", "decoded")
    assert found == as_stored | decoded | {"/group/odd": "left-out"}
    for view in ("stored", "portable", "decoded"):
        second = shown(repository, "--view", view, "--zarr-format", "2")
        assert second["/group/odd"] == "left-out"
        assert second["/group/plain"] == "as-stored"


def test_what_is_left_out_has_a_remark(repository: str) -> None:
    """`--json` names the view, and says why an array is not shown as the view would; of the others it says nothing."""
    found = json.loads(run(repository, "--json", "--view", "decoded", "--zarr-format", "2"))
    assert found["view"] == "decoded-v2"
    remarks = {node["path"]: node["remark"] for node in found["nodes"]}
    assert "example.odd" in remarks.pop("/group/odd")
    assert set(remarks.values()) == {""}


def test_a_view_is_summed_up_and_marked_in_the_tree(repository: str) -> None:
    """In words there is a line that counts, and behind each array how it is shown; the stored view has neither."""
    lines = run(repository, "--view", "portable").splitlines()
    assert "view portable-v3: 3 as stored, 1 renamed, 1 framed as blosc" in lines
    assert sum("[framed as blosc" in line for line in lines) == 1
    [odd] = [line for line in run(repository, "--view", "decoded").splitlines() if "odd" in line]
    assert "[left out: " in odd
    assert "view" not in run(repository, "--view", "stored")
    assert "[as stored" not in run(repository, "--view", "stored")


def test_a_view_can_come_from_the_configuration(repository: str, tmp_path: Path) -> None:
    """The view of a configuration file is the one that is described."""
    file = tmp_path / "config.toml"
    file.write_text('view = "decoded"\nzarr-format = 2\n')
    assert json.loads(run(repository, "--json", "--config", str(file)))["view"] == "decoded-v2"


def test_a_summary_has_what_there_is() -> None:
    """Only what occurs is counted."""
    assert summary([Shown.DECODED, Shown.LEFT_OUT, Shown.DECODED]) == "2 decoded, 1 left out"
    assert summary([]) == "no arrays"
