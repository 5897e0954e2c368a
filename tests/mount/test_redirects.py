"""A repository that a web server's redirect leads to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount, MountFailedError
from tests.mount.repositories import add_native, create
from tests.servers import ObjectServer, redirect

VALUES = np.arange(100, dtype="i4")


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[ObjectServer]:
    """Serve a repository, and a redirect to it in the form that Icechunk gives."""
    repository = create(tmp_path / "served" / "bucket" / "repo")
    session = repository.writable_session("main")
    add_native(zarr.group(session.store), "a", VALUES, (10,))
    session.commit("written")
    with ObjectServer(tmp_path / "served") as server:
        target = f"http+icechunk://127.0.0.1:{server.port}/bucket/repo"
        server.fault("latest", redirect(target), times=1000)
        yield server


def test_a_redirect_leads_to_a_repository_that_is_allowed(
    server: ObjectServer, mount: Callable[..., Mount]
) -> None:
    """A redirect to a storage is followed where a policy allows the place that it leads to."""
    allowed = f"{server.url}/bucket"
    mounted = mount(f"redirect+{server.url}/latest", "--allow", allowed)
    np.testing.assert_array_equal(zarr.open_array(mounted.path / "a", mode="r")[...], VALUES)
    assert f"{server.url}/bucket/repo/" in mounted.outcome["mounted"]


@pytest.mark.parametrize("elsewhere", ["bucket/rep", "other"])
def test_a_redirect_allows_nothing_by_itself(
    server: ObjectServer, mount: Callable[..., Mount], elsewhere: str
) -> None:
    """Where nobody allowed the place, the mount fails, names it, and asks nothing there."""
    with pytest.raises(MountFailedError) as caught:
        mount(f"redirect+{server.url}/latest", "--allow", f"{server.url}/{elsewhere}")
    assert f"--allow {server.url}/bucket/repo/" in str(caught.value)
    assert [request.key for request in server.requests] == ["latest"]
