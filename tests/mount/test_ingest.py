"""The daily job: files become a commit, and the mount that follows the branch shows it."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from tests.conftest import ROOT
from tests.daily import write_day, write_days
from tests.ingesting import RAW, assert_close, assert_same, originals
from tests.mount.conftest import Mount
from tests.mount.outcomes import wait_until, xattrs


def shown(folder: Path, **options: object) -> xr.Dataset:
    """Return what xarray reads of a folder in a mount."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_zarr(str(folder), **options).load()  # type: ignore[arg-type]


def test_each_day_is_a_commit_that_the_mount_shows(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A week is ingested and mounted; when the next day is appended, the root that follows shows it, equal to the files, and the week is there by its snapshot."""
    archive, to, cache = tmp_path / "archive", tmp_path / "repository", tmp_path / "cache"
    files = write_days(archive, range(7))

    def ingest(*words: str) -> None:
        words = ("ingest", *words, "--to", str(to), "--cache-dir", str(cache), "--check", "1")
        program = [sys.executable, "-m", "vzfs", *words]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "chunks are what the libraries of their formats read" in done.stdout

    ingest(f"{archive}/*.nc", "--concat", "time")
    root = mount(to, "--view", "portable", "--follow=1", "--allow", str(archive)).path
    week = xattrs(root)["snapshot"]
    assert_same(shown(root, **RAW), originals(files, "time", **RAW))
    tomorrow = write_day(archive, 7)
    ingest(str(tomorrow), "--append", "time")
    wait_until(lambda: xattrs(root)["snapshot"] != week, "the root moves")
    assert_same(shown(root, **RAW), originals([*files, tomorrow], "time", **RAW))
    assert_close(shown(root), originals([*files, tomorrow], "time"))
    before = shown(root / f".vzfs/snapshot/{week}", **RAW)
    assert_same(before, originals(files, "time", **RAW))
