"""`vzfs ingest` in this process, and what icechunk and xarray read of what it wrote."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import xarray as xr
from click.testing import CliRunner

from vzfs.cli.exits import error_in, exit_code
from vzfs.cli.ingesting import ingest

icechunk.set_logs_filter("error")

RAW = {"mask_and_scale": False, "decode_times": False}


class Outcome:
    """How a command ended: its exit code, what it printed as JSON, and what it said on stderr."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stderr = stderr
        self.said: dict[str, Any] = json.loads(stdout) if stdout.startswith("{") else {}


def run(files: Iterable[str | Path], to: str | Path, *options: str, cache: Path) -> Outcome:
    """Ingest *files*; what the command raises is what the command line makes of it."""
    words = [*map(str, files), "--to", str(to), "--cache-dir", str(cache), "--json", "-q", *options]
    result = CliRunner().invoke(ingest, words)
    raised = result.exception
    error = None if raised is None else error_in(raised)
    if error is not None:
        return Outcome(exit_code(error), result.stdout, f"{result.stderr}vzfs: {error}")
    if raised is not None and not isinstance(raised, SystemExit):
        raise raised
    return Outcome(result.exit_code, result.stdout, result.stderr)


def repository(path: Path) -> icechunk.Repository:
    """Open a repository with all its local containers authorized."""
    storage = icechunk.local_filesystem_storage(str(path))
    containers = icechunk.Repository.open(storage).config.virtual_chunk_containers or {}
    allowed = dict.fromkeys(containers, icechunk.Credentials.LocalFileSystemAccess())
    return icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)


def messages(path: Path, branch: str = "main") -> list[str]:
    """Return the messages of the commits of a branch, oldest first, without the first of all."""
    return [info.message for info in repository(path).ancestry(branch=branch)][-2::-1]


def read(path: Path, branch: str = "main", **options: Any) -> xr.Dataset:
    """Return what xarray reads of a branch through icechunk."""
    store = repository(path).readonly_session(branch).store
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_zarr(store, consolidated=False, **options).load()


def originals(files: Iterable[Path], dimension: str, **options: Any) -> xr.Dataset:
    """Return what xarray makes of the files themselves, put end to end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        days = [xr.open_dataset(path, engine="netcdf4", **options).load() for path in files]
        alike: Any = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
        return xr.concat(days, dim=dimension, **alike)


def assert_same(found: xr.Dataset, wanted: xr.Dataset) -> None:
    """Check that all values, dimensions and data types are the same, as they are stored."""
    assert set(found.variables) == set(wanted.variables)
    for name in wanted.variables:
        assert found[name].dims == wanted[name].dims
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name].values, wanted[name].values, str(name))


def assert_close(found: xr.Dataset, wanted: xr.Dataset) -> None:
    """Check that values are the same when they are unpacked and dated, but for the precision of a packed number."""
    assert set(found.variables) == set(wanted.variables)
    for name in wanted.variables:
        if wanted[name].dtype.kind == "M":
            np.testing.assert_array_equal(found[name].values, wanted[name].values, str(name))
        else:
            np.testing.assert_allclose(found[name].values, wanted[name].values, rtol=1e-6)
