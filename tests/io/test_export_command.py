"""`vzfs export` as a person runs it: of an Icechunk repository, read again by xarray and fsspec."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray
import zarr
from click.testing import CliRunner, Result
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem

from tests.mount.repositories import Ref, add_native, add_virtual, create, pattern
from vzfs.cli.exits import PARTLY_EXPORTED
from vzfs.cli.exporting import export
from vzfs.errors import ConfigError

DATA = pattern(3000)
GRID = np.arange(20, dtype="<f4").reshape(4, 5)


@pytest.fixture(scope="module", name="archive")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository of virtual, native and inline chunks beside its archive, and one with shards too."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "old").mkdir()
    source = folder / "old" / "a file"
    source.write_bytes(DATA)
    location = f"file://{folder}/old/a%20file"
    for name in ("whole", "sharded"):
        repository = create(folder / name, containers=[f"file://{folder}/old/"], inline=16)
        session = repository.writable_session("main")
        root = zarr.group(session.store, attributes={"title": "all kinds"})
        add_virtual(session, root, "virtual", [Ref(location, n * 1000, 1000, 2**31) for n in (2, 0, 1)])  # fmt: skip
        add_native(root, "deep/native", GRID, (2, 5), dimension_names=("y", "x"), fill_value=np.nan, attributes={"units": "K"})  # fmt: skip
        add_native(root, "deep/inline", GRID[0, :3], (3,), dimension_names=("z",))
        if name == "sharded":
            add_native(root, "shards", GRID, (2, 5), shards=(4, 5))
        session.commit("all kinds")
    return folder


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(export, [str(word) for word in words])


def opened(path: Path, *, is_parquet: bool) -> Any:
    fo: Any = str(path)
    if is_parquet:
        fo = LazyReferenceMapper(fo, fsspec.filesystem("file"), engine="pyarrow")
    system = ReferenceFileSystem(fo, remote_protocol="file", asynchronous=True, skip_instance_cache=True)  # fmt: skip
    return zarr.storage.FsspecStore(system, read_only=True, path="")


@pytest.mark.parametrize("suffix", ["json", "parq"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_exported_repository_is_read_without_vzfs(archive: Path, tmp_path: Path, suffix: str) -> None:  # fmt: skip
    """zarr-python and xarray read virtual, native and inlined chunks of the references that were written."""
    path = tmp_path / f"refs.{suffix}"

    result = run(archive / "whole", "--to", path, "--json")

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["arrays"] == ["/deep/inline", "/deep/native", "/virtual"]
    assert report["chunks"] == {"native": 2, "inline": 1, "virtual": 3}
    assert report["left_out"] == []
    assert "checksums" in report["notes"][0]
    store = opened(path, is_parquet=suffix == "parq")
    root = zarr.open_group(store, mode="r", zarr_format=2)
    assert root.attrs["title"] == "all kinds"
    assert root["virtual"][...].tobytes() == DATA[2000:] + DATA[:2000]
    with xarray.open_zarr(
        store, group="deep", consolidated=False, zarr_format=2, chunks=None
    ) as found:
        assert np.array_equal(found["native"], GRID)
        assert found["native"].attrs == {"units": "K"}
        assert np.array_equal(found["inline"], GRID[0, :3])


def test_what_is_left_out_is_said(archive: Path, tmp_path: Path) -> None:
    """What cannot be said is named with the reason, and the exit code says that something is; the rest is written."""
    path = tmp_path / "refs.json"

    result = run(archive / "sharded", "--to", path)

    assert result.exit_code == PARTLY_EXPORTED
    assert "left out: /shards: Zarr v2 has no shards" in result.stdout
    assert "note: kerchunk has no words for checksums" in result.stderr
    assert "virtual/.zarray" in json.loads(path.read_bytes())["refs"]


def test_references_name_where_sources_are_now(archive: Path, tmp_path: Path) -> None:
    """Where --map says that sources have moved, the references say where they are; the same file is replaced if told."""
    path = tmp_path / "refs.json"
    words = (archive / "whole", "--to", path, "--map", f"{archive}/old=s3://bucket/new")
    assert run(*words).exit_code == 0

    assert json.loads(path.read_bytes())["refs"]["virtual/1"] == ["s3://bucket/new/a file", 0, 1000]
    refused = run(*words)
    assert isinstance(refused.exception, ConfigError)
    assert "--force" in str(refused.exception)
    assert run(*words, "--force").exit_code == 0


@pytest.mark.parametrize("destination", ["refs.txt", "refs", "s3://bucket/refs.json"])
def test_it_must_be_known_what_to_write(archive: Path, destination: str) -> None:
    """A destination that is neither JSON nor Parquet on this machine is wrong usage, before anything is read."""
    refused = run(archive / "nowhere", "--to", destination)

    assert isinstance(refused.exception, ConfigError)
    assert "not known what to write" in str(refused.exception)


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    """Where no array can be written, nothing is, and the reason is said."""
    session = create(tmp_path / "shards").writable_session("main")
    add_native(zarr.group(session.store), "shards", GRID, (2, 5), shards=(4, 5))
    session.commit("shards")

    refused = run(tmp_path / "shards", "--to", tmp_path / "refs.json")

    assert isinstance(refused.exception, ConfigError)
    assert "/shards: Zarr v2 has no shards" in str(refused.exception)
    assert not (tmp_path / "refs.json").exists()
