"""Views through a real mount: the same values in other words."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from tests import demo
from tests.mount.conftest import Mount
from tests.mount.outcomes import errno_of, read, walk, xattrs
from tests.mount.repositories import create
from tests.mount.test_requests import drop_pages
from tests.mount.test_values import Features, experimental

NOT_IN_V2 = {"sharded", "rectilinear", "rectilinear long"}
NOT_DECODED = {"text", "rectilinear", "rectilinear long"}
NOT_FOR_NETCDF = {"flags", "nothing"}
ABSENT: dict[str, set[str]] = {
    "stored-v3": set(),
    "portable-v3": set(),
    "decoded-v3": NOT_DECODED,
    "stored-v2": NOT_IN_V2,
    "portable-v2": NOT_IN_V2,
    "decoded-v2": NOT_DECODED | NOT_FOR_NETCDF,
}
VIEWS = list(ABSENT)


@pytest.fixture(scope="module", name="features")
def _features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Features]:
    features = Features(tmp_path_factory.mktemp("features"), 2)
    try:
        yield features
        features.mount.end()
    finally:
        features.mount.tear_down()


def test_every_view_has_the_values(features: Features) -> None:
    """In each view zarr-python reads the values written, of all arrays but those that the view has no words for."""
    absent: dict[str, set[str]] = {view: set() for view in VIEWS}
    for view, (name, expected) in itertools.product(VIEWS, features.arrays.items()):
        path = features.path / ".vzfs/view" / view / name
        if not path.exists():
            absent[view].add(name)
            continue
        with experimental():
            found = zarr.open_array(path, mode="r")[...]
        if view.endswith("v2") and found.dtype == object:
            found = found.astype(str)
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} in {view}")
    assert absent == ABSENT


def test_a_directory_is_of_one_version_of_zarr(features: Features) -> None:
    """No directory of a view has documents of Zarr v2 and of v3, and every one of a node has some."""
    for view in VIEWS:
        documents = {"zarr.json"} if view.endswith("v3") else {".zgroup", ".zarray"}
        for folder, _, names in os.walk(features.path / ".vzfs/view" / view):
            found = {n for n in names if n in {"zarr.json", ".zgroup", ".zarray"}}
            assert found <= documents, folder
            assert len(found) <= 1


def test_sizes_in_views_are_exact(features: Features) -> None:
    """In every view the size of a file, looked up or listed, is the number of its bytes."""
    for view in VIEWS:
        root = features.path / ".vzfs/view" / view / "codecs"
        files = [root / name for name in walk(root) if (root / name).is_file()]
        assert len(files) > 4
        for path in files:
            assert path.stat().st_size == len(path.read_bytes()), path


def test_what_is_left_out_says_why(features: Features) -> None:
    """An array that a view leaves out is ENOENT there, and the stored view still has it."""
    root = features.path / ".vzfs/view"
    assert errno_of(os.stat, root / "portable-v2/sharded") == "ENOENT"
    assert (root / "stored-v3/sharded/zarr.json").exists()


def test_null_is_said_only_where_no_chunk_is_missing(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """In Zarr v2 a fill value of zero is null if every chunk is there, and zero if one is missing."""
    session = create(tmp_path / "repository").writable_session("main")
    root = zarr.group(session.store)
    for name, written in (("whole", 6), ("holes", 4)):
        array = root.create_array(name, shape=(6,), chunks=(2,), dtype="i4", fill_value=0)
        array[:written] = 1
    session.commit("two arrays")
    view = mount(tmp_path / "repository").path / ".vzfs/view/portable-v2"
    found = {n: json.loads((view / n / ".zarray").read_bytes()) for n in ("whole", "holes")}
    assert found["whole"]["fill_value"] is None
    assert found["holes"]["fill_value"] == 0
    assert np.asarray(zarr.open_array(view / "holes", mode="r")).tolist() == [1, 1, 1, 1, 0, 0]


# -- virtual chunks ----------------------------------------------------------------------------


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return demo.build(tmp_path_factory.mktemp("demo"))


def tos(root: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(root / "tos", mode="r")[...])


def check_view(root: Path, view: str, expected: np.ndarray) -> None:
    """Check that *root* is that view: what zarr-python and, but for the stored one, TensorStore read, and what it says."""
    name, version = view.split("-v")
    np.testing.assert_array_equal(tos(root), expected)
    if view != "stored-v3":
        driver = "zarr3" if version == "3" else "zarr"
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{root}/tos/"}}
        found = tensorstore.open(spec, read=True).result().read().result()
        np.testing.assert_array_equal(found, expected)
    about = xattrs(root / "tos")
    assert about["view"] == view
    assert about["form"] == {"portable": "blosc"}.get(name, name)


def test_every_view_is_there_by_its_path(
    built: tuple[Path, Path], mount: Callable[..., Mount]
) -> None:
    """Each view is below `.vzfs/view` of every mount, whatever its root shows."""
    archive, repository = built
    views = mount(repository, "--allow", str(archive)).path / ".vzfs/view"
    expected = tos(views / "stored-v3")
    for view in VIEWS:
        check_view(views / view, view, expected)


@pytest.mark.parametrize("view", ["portable-v3", "decoded-v2"])
def test_a_view_is_chosen_for_the_root(
    view: str, built: tuple[Path, Path], mount: Callable[..., Mount]
) -> None:
    """The root has the view that --view and --zarr-format name."""
    archive, repository = built
    name, version = view.split("-v")
    options = ["--view", name, "--zarr-format", version]
    root = mount(repository, "--allow", str(archive), *options).path
    check_view(root, view, tos(root / ".vzfs/view/stored-v3"))


def test_a_framed_chunk_is_its_source_behind_a_head(
    built: tuple[Path, Path], mount: Callable[..., Mount]
) -> None:
    """Any range of a framed chunk, read at any offset, is that of the frame around the stored bytes."""
    archive, repository = built
    mounted = mount(repository, "--allow", str(archive)).path
    path = mounted / ".vzfs/view/portable-v3/tos/c/0/0/0"
    stored = (mounted / ".vzfs/view/stored-v3/tos/c/0/0/0").read_bytes()
    whole = path.read_bytes()
    assert whole[24:] == stored
    assert whole[:2] == b"\x02\x01"
    for offset, size in ((0, 1), (0, 24), (3, 40), (23, 2), (24, 10), (100, 10**6)):
        drop_pages(path)
        assert read(path, offset, size) == whole[offset : offset + size]


def test_xarray_opens_consolidated_metadata(
    built: tuple[Path, Path], mount: Callable[..., Mount]
) -> None:
    """Views but the stored one have consolidated metadata, which xarray takes; --no-consolidated leaves them out."""
    archive, repository = built
    mounted = mount(repository, "--allow", str(archive), "--view", "portable").path
    with xarray.open_dataset(mounted, engine="zarr", consolidated=True, chunks=None) as dataset:
        assert set(dataset.variables) == {"tos", "nav_lat", "nav_lon", "time"}
    without = mount(repository, "--allow", str(archive), "--view", "portable", "--no-consolidated")
    document = json.loads((without.path / "zarr.json").read_bytes())
    assert "consolidated_metadata" not in document


def test_decoded_chunks_are_cached(
    built: tuple[Path, Path], tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """What was decoded once is not decoded again by a second mount with the same cache."""
    archive, repository = built
    options = ["--allow", str(archive), "--view", "decoded"]
    cache = tmp_path / "cache"
    first = mount(repository, *options, cache=cache)
    expected = tos(first.path)
    first.end()
    second = mount(repository, *options, cache=cache)
    np.testing.assert_array_equal(tos(second.path), expected)
    second.end()
    assert "decoding.decoded=" in first.log()[-1]
    assert "decoding.decoded=" not in second.log()[-1]
