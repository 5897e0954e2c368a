"""What lies at a place is found out by few questions, whatever store it is in."""

import io
import json
import zipfile
from pathlib import Path

import netCDF4
import pytest
import zarr

from tests.fakes import FakeSource
from vzfs.access import Access
from vzfs.config import parse_sources
from vzfs.errors import ConfigError, ErrorKind, RepositoryError, SourceError
from vzfs.model.snapshot import RefSpec
from vzfs.repository import Opening, Repository

PLACE = "s3://b/obs"


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> FakeSource:
    """Return a bucket with files, a hierarchy, the same in a ZIP file, and references."""
    source = FakeSource()
    for day in range(2):
        with netCDF4.Dataset(tmp_path / "f.nc", "w", format="NETCDF3_CLASSIC") as file:
            file.createDimension("time")
            file.createVariable("time", "f8", ("time",))[:] = [day]
            file.createVariable("x", "i2", ("time",))[:] = [day]
        source.put(f"{PLACE}/20{day}.nc", (tmp_path / "f.nc").read_bytes())
    source.put(f"{PLACE}/more/3.nc", (tmp_path / "f.nc").read_bytes())
    source.put(f"{PLACE}/README", b"what this is")
    store: dict[str, bytes] = {}
    with zarr.storage.ZipStore(tmp_path / "s.zip", mode="w") as packed:
        zarr.create_array(packed, name="a", shape=(4,), chunks=(2,), dtype="i2")[:] = 7
    source.put("s3://b/s.zarr.zip", (tmp_path / "s.zip").read_bytes())
    with zipfile.ZipFile(io.BytesIO((tmp_path / "s.zip").read_bytes())) as packed_file:
        store = {name: packed_file.read(name) for name in packed_file.namelist()}
    for name, data in store.items():
        source.put(f"s3://b/s.zarr/{name}", data)
    refs = {".zgroup": '{"zarr_format": 2}', "a/0": ["s3://b/x", 0, 2]}
    source.put("s3://b/refs.json", json.dumps({"version": 1, "refs": refs}).encode())
    return source


async def opened(source: FakeSource, *texts: str, concat: str | None = None) -> Repository:
    named = parse_sources(texts, concat)
    access = Access(named.place)
    return await Opening(source, source, access, named.selection).open()


async def nodes(repository: Repository) -> list[str]:
    snapshot = await repository.snapshot(await repository.resolve(RefSpec()))
    return [node.path for node in snapshot.nodes]


@pytest.mark.parametrize(
    ("texts", "concat", "expected"),
    [
        ([f"{PLACE}/20*.nc"], None, ["/", "/200", "/200/time", "/200/x", "/201", "/201/time", "/201/x"]),
        ([f"{PLACE}/20*.nc"], "time", ["/", "/time", "/x"]),
        ([PLACE], "time", ["/", "/time", "/x"]),
        ([f"{PLACE}/**/3.nc"], None, ["/", "/3", "/3/time", "/3/x"]),
        ([f"{PLACE}/more/3.nc"], None, ["/", "/time", "/x"]),
        (["s3://b/s.zarr"], None, ["/", "/a"]),
        (["s3://b/s.zarr.zip"], None, ["/", "/a"]),
        (["s3://b/refs.json"], None, ["/"]),
    ],
)  # fmt: skip
async def test_what_lies_at_a_place(
    source: FakeSource, texts: list[str], concat: str | None, expected: list[str]
) -> None:
    """Patterns, folders, files, hierarchies, ZIP files and references are known for what they are."""
    repository = await opened(source, *texts, concat=concat)
    assert await nodes(repository) == expected
    assert not repository.is_versioned


async def test_a_pattern_lists_its_level_alone(source: FakeSource) -> None:
    """A pattern without folders costs the listing of one level; files that were named cost none."""
    await opened(source, f"{PLACE}/20*.nc")
    assert source.listed == [f"{PLACE}/"]
    source.listed.clear()
    await opened(source, f"{PLACE}/200.nc", f"{PLACE}/more/3.nc")
    assert source.listed == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{PLACE}/none.nc", "there is no Icechunk repository here"),
        (f"{PLACE}/README", "of no kind that is known"),
        ("s3://b/none", "there is no Icechunk repository here"),
        (f"{PLACE}/*.grib", "no file is meant"),
    ],
)
async def test_what_is_nothing_that_is_known(source: FakeSource, text: str, said: str) -> None:
    """What is not there, or of no known kind, is said in one line."""
    with pytest.raises(RepositoryError, match=said):
        await opened(source, text)


async def test_what_joins_nothing_is_refused(source: FakeSource) -> None:
    """--concat is for files: a hierarchy or references are one thing already."""
    for text in ("s3://b/s.zarr", "s3://b/refs.json"):
        with pytest.raises(ConfigError, match="--concat joins files"):
            await opened(source, text, concat="time")


async def test_a_store_that_is_away_is_not_an_empty_one(source: FakeSource) -> None:
    """A place that cannot be asked is an error of its store, and never one where nothing lies."""
    for key in ("repo", "zarr.json", ""):
        source.fail(f"{PLACE}/{key}".rstrip("/"), ErrorKind.SOURCE_UNREACHABLE)
    with pytest.raises(SourceError) as caught:
        await opened(source, PLACE)
    assert caught.value.kind is ErrorKind.SOURCE_UNREACHABLE


async def test_a_pattern_on_a_server_without_listings_says_what_to_do(source: FakeSource) -> None:
    """Where names cannot be listed, files have to be named."""
    source.fail(f"{PLACE}/", ErrorKind.CANNOT_LIST)
    with pytest.raises(SourceError) as caught:
        await opened(source, f"{PLACE}/*.nc")
    assert "@FILE" in caught.value.advice
