"""Files in stores, and repositories written to them."""

from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr

from tests.daily import write_days
from tests.ingesting import RAW, assert_same, originals, run
from tests.io.stores_fixtures import *  # noqa: F403 -- fixtures
from tests.io.stores_fixtures import Authority, prepare
from tests.servers import ObjectServer
from tests.stores.store import BUCKET, Store


def opened(store: Any) -> xr.Dataset:
    return xr.open_zarr(store, consolidated=False, **RAW).load()


def test_from_a_bucket_into_a_bucket(
    moto_store: Store, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files below a pattern in S3 become a repository in S3, whose container says how to reach them and no secret; a day is appended."""
    prepare(monkeypatch, moto_store, authority)
    folder = moto_store.folder()
    files = write_days(tmp_path / "sst", range(4))
    for path in files[:3]:
        moto_store.put(f"{folder}/sst/{path.name}", path.read_bytes())
    place = moto_store.place(folder, moto_store.url)
    to, flags, cache = f"{place}/repository", moto_store.flags(moto_store.url), tmp_path / "cache"
    done = run([f"{place}/sst/*.nc"], to, "--concat", "time", "--check", "1", *flags, cache=cache)
    assert done.code == 0, done.stderr
    assert done.said["containers"] == [f"{place}/sst/"]
    assert done.said["not_checked"] == {}
    moto_store.put(f"{folder}/sst/{files[3].name}", files[3].read_bytes())
    done = run([f"{place}/sst/{files[3].name}"], to, "--append", "time", *flags, cache=cache)
    assert done.code == 0, done.stderr

    reach: dict[str, Any] = {"region": "us-east-1", "endpoint_url": moto_store.url, "allow_http": True, "force_path_style": True}  # fmt: skip
    storage = icechunk.s3_storage(
        bucket=BUCKET, prefix=f"{folder}/repository", from_env=True, **reach
    )
    keys = icechunk.containers_credentials(
        {f"{place}/sst/": icechunk.s3_credentials(from_env=True)}
    )
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=keys)
    assert moto_store.environment["AWS_SECRET_ACCESS_KEY"] not in str(repository.config)
    found = opened(repository.readonly_session("main").store)
    assert_same(found, originals(files, "time", **RAW))

    moto_store.put(f"{folder}/sst/{files[0].name}", files[1].read_bytes())
    with pytest.raises(icechunk.IcechunkError, match="has changed"):
        np.asarray(xr.open_zarr(repository.readonly_session("main").store, consolidated=False).sst)


def test_from_a_web_server(tmp_path: Path) -> None:
    """Files on a web server become a repository that the official library reads; each is got once."""
    files = write_days(tmp_path / "sst", range(3))
    to, cache = tmp_path / "repository", tmp_path / "cache"
    with ObjectServer(tmp_path) as server:
        urls = [f"{server.url}/sst/{path.name}" for path in files]
        done = run(urls, to, "--concat", "time", "--allow-http", cache=cache)
        assert done.code == 0, done.stderr
        assert done.said["containers"] == [f"{server.url}/sst/"]
        prefix = f"{server.url}/sst/"
        storage = icechunk.local_filesystem_storage(str(to))
        repository = icechunk.Repository.open(
            storage, authorize_virtual_chunk_access={prefix: icechunk.Credentials.HttpAccess()}
        )
        found = opened(repository.readonly_session("main").store)
    assert_same(found, originals(files, "time", **RAW))
