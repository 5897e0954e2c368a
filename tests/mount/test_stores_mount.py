"""A repository and its virtual chunks on each real store, through a real mount."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from tests.io.stores_fixtures import *  # noqa: F403 -- fixtures
from tests.mount.conftest import Mount
from tests.mount.outcomes import read, walk
from tests.mount.repositories import pattern
from tests.stores import sample
from tests.stores.store import Store


def test_a_repository_and_its_sources_are_mounted_from_any_store(
    real_store: Store, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """On every store, a mount shows each chunk of a repository and its sources byte for byte, and refuses a source that changed."""
    written = sample.write(real_store, real_store.url, tmp_path)
    flags = real_store.flags(real_store.url)
    mounted = mount(written.url, *flags, "--allow", f"{written.archive}/")

    assert set(written.chunks) < set(walk(mounted.path))
    for path, data in written.chunks.items():
        assert read(mounted.path / path) == data
    array = zarr.open_array(mounted.path / "native", mode="r")
    np.testing.assert_array_equal(array[...], sample.VALUES)

    real_store.put(f"{written.folder}/archive/{sample.ODD_NAME}", pattern(4 * sample.LENGTH, 1))
    mounted = mount(written.url, *flags, "--allow", f"{written.archive}/")
    mounted.expect_log("the object has changed")
    assert read(mounted.path / "etag/c/1") == errno.errorcode[errno.ESTALE]
    assert read(mounted.path / "etag/c/0") == written.chunks["etag/c/0"]
    for name in real_store.environment:
        secret = os.environ[name]
        assert name == "AWS_REGION" or secret not in mounted.log_file.read_text()
