"""Files of archives into an Icechunk repository, and what everybody else reads of it."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributed
import netCDF4
import numpy as np
import pytest
import zarr

from tests.conftest import ROOT
from tests.daily import NAMES, write_day, write_days
from tests.ingesting import (
    RAW,
    assert_close,
    assert_same,
    messages,
    originals,
    read,
    repository,
    run,
)
from vzfs.access import StoreOptions
from vzfs.archival.parsing import FileParser
from vzfs.cli.exits import DAMAGED, NOT_INGESTED, PARTLY_INGESTED, USAGE
from vzfs.errors import ErrorKind, VzfsError
from vzfs.ingest.changes import Changes
from vzfs.ingest.writing import Target, Writer
from vzfs.model.location import Prefix


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the files of January."""
    folder = tmp_path_factory.mktemp("archive") / "sst"
    write_days(folder, range(31))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the cache that the tests of this module share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of files that are parsed, and not found in the cache."""
    files: list[str] = []
    parse = FileParser._parse

    async def noted(self: Any, location: Any, *rest: Any) -> Any:
        files.append(str(location))
        return await parse(self, location, *rest)

    monkeypatch.setattr(FileParser, "_parse", noted)
    return files


def test_a_month_of_days_and_then_a_day(
    month: Path, tmp_path: Path, cache: Path, parsed: list[str]
) -> None:
    """A month is put end to end and checked, a day appended, each by one commit, and all is what xarray reads of the files."""
    to = tmp_path / "repository"
    pattern = f"{month}/*.nc"
    done = run([pattern], to, "--concat", "time", "--check", "1", cache=cache)
    assert done.code == 0
    assert done.said["order"] == "by the values of /time"
    assert done.said["containers"] == [f"file://{month}/"]
    assert done.said["inlined"] == ["/lat", "/lon", "/time", "/zlev"]
    assert done.said["checked"] >= 8
    assert done.said["not_checked"] == {}
    assert messages(to) == ["Refer to 31 files along time"]
    files = sorted(month.glob("*.nc"))
    before = read(to, **RAW)
    assert_close(read(to).isel(time=slice(3)), originals(files[:3], "time"))
    states = {array["path"]: array for array in done.said["arrays"]}
    assert states["/sst"]["chunks"] == {"inline": 0, "native": 0, "virtual": 31}
    assert len(parsed) == 31

    tomorrow = write_day(tmp_path, 31)
    done = run([tomorrow], to, "--append", "time", "-m", "tomorrow", "--check", "1", cache=cache)
    assert done.code == 0
    states = {array["path"]: array for array in done.said["arrays"]}
    assert states["/sst"]["state"] == "longer"
    assert states["/sst"]["chunks"] == {"inline": 0, "native": 0, "virtual": 1}
    assert done.said["containers"] == [f"file://{tmp_path}/"]
    assert messages(to) == ["Refer to 31 files along time", "tomorrow"]
    wanted = originals([*files, tomorrow], "time", **RAW)
    assert_same(before, wanted.isel(time=slice(31)))
    assert_same(read(to, **RAW), wanted)
    assert len(parsed) == 32

    again = run([tomorrow], to, "--append", "time", cache=cache)
    assert again.code == NOT_INGESTED
    assert "overlap those in the repository, or repeat them" in again.stderr
    assert len(messages(to)) == 2
    assert len(parsed) == 32


def test_a_dry_run_writes_nothing(month: Path, tmp_path: Path, cache: Path) -> None:
    """--dry-run says which arrays, chunks and containers there would be, and leaves no trace."""
    to = tmp_path / "repository"
    done = run([month], to, "--concat", "time", "--dry-run", cache=cache)
    assert done.code == 0
    assert done.said["snapshot"] is None
    assert [a["path"] for a in done.said["arrays"] if a["shape"][0] == 31] == [
        "/anom",
        "/err",
        "/ice",
        "/sst",
        "/time",
    ]
    assert not to.exists()


def test_nemo(data: Path, tmp_path: Path) -> None:
    """Months of a real model, whose records are numbered from 0 in each file, are joined, appended to, and what xarray reads."""
    files = sorted((data / "archival" / "hdf5").glob("nemo_1m_*.nc"))
    to, cache = tmp_path / "repository", tmp_path / "cache"
    done = run(files[:2], to, "--concat", "time_counter", "--check", "1", cache=cache)
    assert done.code == 0
    assert done.said["checked"] > 0
    done = run(files[2:], to, "--append", "time_counter", "--check", "1", cache=cache)
    assert done.code == 0
    assert_same(read(to, **RAW), originals(files, "time_counter", **RAW))


def test_a_group_for_each_file(month: Path, tmp_path: Path, cache: Path) -> None:
    """Several files without --concat are a group each, named like the file; more can be added later."""
    to = tmp_path / "repository"
    files = sorted(month.glob("*.nc"))
    assert run(files[:2], to, "--check", "1", cache=cache).said["checked"] == 16
    assert run(files[2:4], to, "--group-per-file", cache=cache).code == 0
    group = zarr.open_group(repository(to).readonly_session("main").store, mode="r")
    assert sorted(group.group_keys()) == [f"oisst-avhrr-v02r01.2026010{n}" for n in (1, 2, 3, 4)]
    with netCDF4.Dataset(files[3]) as wanted:
        wanted.set_auto_maskandscale(False)
        np.testing.assert_array_equal(group[f"{files[3].stem}/sst"][:], wanted["sst"][:])
    twice = run(files[:2], to, cache=cache)
    assert twice.code == NOT_INGESTED
    assert "the branch has /oisst-avhrr-v02r01.20260101 already" in twice.stderr


def test_one_file_on_a_new_branch(month: Path, tmp_path: Path, cache: Path) -> None:
    """One file has its arrays at the root; a branch that is not there begins at the tip of main, which stays."""
    to = tmp_path / "repository"
    files = sorted(month.glob("*.nc"))
    assert run(files[:1], to, "--branch", "trial", cache=cache).code == 0
    assert messages(to) == []
    assert messages(to, "trial") == ["Refer to one file"]
    assert_same(read(to, "trial", **RAW), originals(files[:1], "time", **RAW))


# -- failures --------------------------------------------------------------------------------------


def test_a_damaged_file(month: Path, tmp_path: Path, cache: Path) -> None:
    """A file that cannot be parsed is named, and nothing committed; with --keep-going the rest is, and the exit code says so."""
    folder = tmp_path / "files"
    folder.mkdir()
    for path in sorted(month.glob("*.nc"))[:3]:
        shutil.copy2(path, folder)
    (folder / "bad.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    to = tmp_path / "repository"
    done = run([folder], to, "--concat", "time", cache=cache)
    assert done.code == NOT_INGESTED
    assert f"file://{folder}/bad.nc" in done.stderr
    assert "nothing was committed" in done.stderr
    assert [f["file"] for f in done.said["failures"]] == [f"file://{folder}/bad.nc"]
    assert not to.exists()
    done = run([folder], to, "--concat", "time", "--keep-going", cache=cache)
    assert done.code == PARTLY_INGESTED
    assert [f["file"] for f in done.said["failures"]] == [f"file://{folder}/bad.nc"]
    assert read(to).sizes["time"] == 3


def test_files_that_differ(month: Path, tmp_path: Path, cache: Path) -> None:
    """Files that cannot be put end to end exactly are refused with what differs, and nothing is committed."""
    files = [sorted(month.glob("*.nc"))[0], write_day(tmp_path, 1)]
    with netCDF4.Dataset(files[1], "a") as file:
        file["sst"].scale_factor = np.float32(0.1)
    to = tmp_path / "repository"
    done = run(files, to, "--concat", "time", cache=cache)
    assert done.code == NOT_INGESTED
    assert "/sst has the attribute scale_factor" in done.stderr
    assert not to.exists()


def test_days_that_count_from_themselves(tmp_path: Path, cache: Path) -> None:
    """Times that count from each file's own day are said exactly in the units of the first, checked, and dated alike."""
    files = [
        write_day(tmp_path, day, units=f"days since 1978-01-{day + 1:02d} 12:00:00")
        for day in range(3)
    ]
    to = tmp_path / "repository"
    done = run(files, to, "--concat", "time", "--check", "1", cache=cache)
    assert done.code == 0
    assert done.said["not_checked"] == {}
    assert_close(read(to), originals(files, "time"))
    assert read(to, **RAW)["time"].values.tolist() == [17532, 17534, 17536]


def test_somebody_else_commits_meanwhile(month: Path, tmp_path: Path, cache: Path) -> None:
    """A commit by somebody else since the branch was read, or since all was prepared, is a conflict, and changes nothing."""
    to = tmp_path / "repository"
    files = sorted(month.glob("*.nc"))
    first = run(files[:1], to, "--concat", "time", cache=cache).said["snapshot"]
    target = Target(Prefix("file", "", str(to)[1:]), StoreOptions(), None, "main")
    changes = Changes({"/more": b'{"zarr_format":3,"node_type":"group"}'}, [], [])
    prepared, late = (Writer(target, changes, [], first) for _ in range(2))
    prepared.prepare()
    session = repository(to).writable_session("main")
    zarr.create_group(session.store, path="other")
    session.commit("somebody else")
    for writing in (lambda: prepared.commit("too late"), late.prepare):
        with pytest.raises(VzfsError, match="run the command again") as caught:
            writing()
        assert caught.value.kind is ErrorKind.COMMIT_CONFLICT
    assert messages(to) == ["Refer to one file along time", "somebody else"]


_INTERRUPTED = """
import os, sys, trio
from vzfs.archival.parsing import FileParser
keep, count = FileParser._keep, 0
async def counted(self, *rest):
    global count
    await keep(self, *rest)
    count += 1
    if count == {written}:
        await self._disk.written()
    if count == {number}:
        os.kill(os.getpid(), {signal})
        await trio.sleep_forever()
FileParser._keep = counted
from vzfs.cli.main import main
sys.argv = ["vzfs", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_in_the_middle(
    month: Path, tmp_path: Path, parsed: list[str], number: signal.Signals
) -> None:
    """A run that is interrupted or killed has committed nothing, and the next one parses only what is missing."""
    to, cache = tmp_path / "repository", tmp_path / "cache"
    words = ["ingest", str(month), "--to", str(to), "--concat", "time", "--cache-dir", str(cache)]
    # What was parsed less than half a second before it is killed need not be on the disk.
    written = 31 if number is signal.SIGINT else 10
    program = _INTERRUPTED.format(number=20, signal=int(number), written=written)
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == (130 if number is signal.SIGINT else -number)
    assert not to.exists()
    done = run([month], to, "--concat", "time", cache=cache)
    assert done.code == 0
    assert 0 < len(parsed) <= 31 - min(written, 20)
    assert read(to).sizes["time"] == 31


def test_a_difference_is_not_committed(
    month: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a reference leads to other bytes than the file's own library reads, --check commits nothing."""
    files = sorted(month.glob("*.nc"))[:2]
    parse = FileParser.parse

    async def wrong(self: Any, location: Any) -> Any:
        found = await parse(self, location)
        names = {node.path: node for node in found.nodes}
        swapped = dict(found.manifests)
        swapped[names["/sst"].id] = found.manifests[names["/anom"].id]
        return type(found)(found.nodes, swapped, found.omissions)

    monkeypatch.setattr(FileParser, "parse", wrong)
    to = tmp_path / "repository"
    done = run(files, to, "--concat", "time", "--check", "1", cache=cache)
    assert done.code == NOT_INGESTED
    assert "/sst[" in done.stderr
    assert "is not what the library of its format reads" in done.stderr
    assert not to.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--concat", "time", "--append", "time"], "exclude each other"),
        (["--concat", ""], "no dimension is named"),
        (["--append", "time"], "there is nothing to append to"),
        (["--concat", "depth"], "no variable of the files has a dimension 'depth'"),
        (["--inline", "much"], "is not a size"),
    ],
)
def test_what_makes_no_sense(
    month: Path, tmp_path: Path, cache: Path, options: list[str], message: str
) -> None:
    """Options that contradict each other or the files are refused in a line."""
    done = run(sorted(month.glob("*.nc"))[:2], tmp_path / "repository", *options, cache=cache)
    assert done.code in {USAGE, NOT_INGESTED, DAMAGED}
    assert message in done.stderr
    assert not (tmp_path / "repository").exists()


def test_where_nothing_can_be_written(month: Path, tmp_path: Path, cache: Path) -> None:
    """A web server is no place for a repository, and a folder of other things is left alone."""
    file = sorted(month.glob("*.nc"))[:1]
    done = run(file, "https://example.org/repository", cache=cache)
    assert done.code == USAGE
    assert "cannot be written" in done.stderr
    done = run(file, month, cache=cache)
    assert done.code == NOT_INGESTED
    assert len(list(month.iterdir())) == 31


# -- a cluster -------------------------------------------------------------------------------------


def test_on_a_cluster(month: Path, tmp_path: Path, parsed: list[str]) -> None:
    """The workers of a Dask cluster parse, each file once, and a second run finds all of it in their cache."""
    cache = tmp_path / "cache"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        for name in ("one", "two"):
            done = run(
                [month],
                tmp_path / name,
                "--concat",
                "time",
                "--dask",
                cluster.scheduler_address,
                cache=cache,
            )
            assert done.code == 0
            assert len(parsed) == 31
    one, two = (read(tmp_path / name, **RAW) for name in ("one", "two"))
    assert one.identical(two)
    assert {*NAMES} < {*one.variables}
    assert_same(one.isel(time=slice(2)), originals(sorted(month.glob("*.nc"))[:2], "time", **RAW))


# -- other sources ---------------------------------------------------------------------------------


def test_a_zarr_hierarchy(data: Path, tmp_path: Path, cache: Path) -> None:
    """Plain Zarr of version 2 is referred to, with the versions of its chunks, and read as Zarr 3."""
    source = data / "zarr" / "titiler_store_v2.zarr"
    to = tmp_path / "repository"
    done = run([source], to, "--check", "1", cache=cache)
    assert done.code == 0
    assert done.said["not_checked"]["/CDD0"]
    assert done.said["objects_without_version"] == 0
    found = zarr.open_group(repository(to).readonly_session("main").store, mode="r")
    for name, wanted in zarr.open_group(source, mode="r", zarr_format=2).arrays():
        np.testing.assert_array_equal(found[name][:], wanted[:], name)


def test_kerchunk_references(data: Path, tmp_path: Path, cache: Path) -> None:
    """References become those of a repository, where they say that files are; what may not be read has no version, and that is said."""
    source = data / "kerchunk" / "soi.parq"
    done = run([source], tmp_path / "one", "--inline", "0", cache=cache)
    assert done.code == 0
    assert done.said["objects_without_version"] == 1
    moved = ["--map", f"/srv/vzfs-data/public={data}", "--allow", str(data)]
    done = run([source], tmp_path / "two", *moved, cache=cache)
    assert done.said["objects_without_version"] == 0
    assert done.said["inlined"] == ["/time"]
    assert done.said["containers"] == ["file:///srv/vzfs-data/public/archival/hdf5/"]
    with netCDF4.Dataset(data / "archival" / "hdf5" / "SOI_Darwin.nc") as file:
        file.set_auto_maskandscale(False)
        found = zarr.open_group(
            repository(tmp_path / "two").readonly_session("main").store, mode="r"
        )
        np.testing.assert_array_equal(found["time"][:], file["time"][:])
