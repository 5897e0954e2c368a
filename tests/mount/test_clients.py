"""A sample of the matrix of readers: those that the project's environment has, over a small repository."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from tests.clients import canonical, truths, zoo
from tests.clients.clients import SAMPLE
from tests.clients.matrix import Found, Truth
from tests.clients.runner import Matrix
from tests.mount.conftest import Mount
from tests.mount.repositories import add_native, create

VIEWS = ("portable-v3", "decoded-v3", "portable-v2")
AXES = {"time": 4, "lat": 3, "lon": 5}
OPEN = """
import os, sys, warnings
import xarray
warnings.simplefilter("ignore")
opened = []

def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(sys.argv[1]):
        opened.append(str(arguments[0]))

sys.addaudithook(watch)
dataset = xarray.open_dataset(sys.argv[1], engine="zarr", chunks=None)
print(len(dataset.variables), sum(map(os.path.isfile, opened)))
"""


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(canonical.content(values)[2]).hexdigest()


@pytest.fixture(scope="module", name="matrix")
def _matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """Have the readers read views of the zoo, through a mount."""
    folder = tmp_path_factory.mktemp("clients")
    session = create(folder / "repository", inline=64).writable_session("main")
    zarr.open_group(session.store, mode="w")
    values = zoo.write(session.store, "zoo")
    entries = [truths.Entry(path, sha256(array), array) for path, array in values.items()]
    truths.write(folder / "corpus", session.store, entries, sha256)
    session.commit("zoo")
    mounted = Mount(folder / "mount", folder / "repository", "--no-cache")
    try:
        found = Matrix(mounted.path / ".vzfs" / "view", folder, Truth(folder / "corpus"), VIEWS)
        found.run(SAMPLE)
        yield found
        mounted.end()
    finally:
        mounted.tear_down()


def test_every_reader_finds_the_truth_or_what_is_foreseen(matrix: Matrix) -> None:
    """zarr-python, xarray and TensorStore read every array of every view right, or fail as the table says."""
    assert matrix.lacking == {}
    assert matrix.surprises == []
    assert matrix.passed == len(SAMPLE) * len(VIEWS) * len(matrix.stored)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("client", [client.name for client in SAMPLE])
def test_every_reader_has_much_to_read_in_every_view(
    client: str, view: str, matrix: Matrix
) -> None:
    """The comparison is not empty: each reads a good part of the arrays in each view."""
    right = [r for r in matrix.results[client, view].values() if r.found is Found.RIGHT]
    assert len(right) >= 20


def test_what_numcodecs_wrote_is_read_without_numcodecs(matrix: Matrix) -> None:
    """TensorStore knows nothing of numcodecs, and reads what it wrote: most in `portable`, all in `decoded`."""
    foreign = {
        path
        for path, array in matrix.stored.items()
        if any(name.startswith("numcodecs.") for name in array.codecs)
    }

    def refused(view: str) -> set[str]:
        results = matrix.results["tensorstore", view]
        return {
            path.rpartition("/")[2] for path in foreign if results[path].found is not Found.RIGHT
        }

    assert len(foreign) >= 20
    assert refused("portable-v3") == {
        "bz2",
        "lzma",
        "fletcher32_shuffle_zlib",
        "lz4_small",
    }
    assert refused("decoded-v3") == set()


@pytest.mark.parametrize(("zarr_format", "reads"), [("3", 4), ("2", 6)])
def test_opening_a_dataset_reads_few_files(
    zarr_format: str, reads: int, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Opening 14 arrays with xarray, three of them coordinates that it loads, reads four files; six in v2."""
    write_dataset(tmp_path / "repository")
    options = ["--view", "portable", "--zarr-format", zarr_format]
    mounted = mount(tmp_path / "repository", *options)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(mounted.path)], check=True, capture_output=True, text=True
    )
    variables, opened = map(int, done.stdout.split())
    assert variables == 14
    assert opened <= reads


def write_dataset(path: Path) -> None:
    """Write a dataset of eleven variables on three coordinates."""
    session: icechunk.Session = create(path).writable_session("main")
    root = zarr.open_group(session.store, mode="w")
    for name, length in AXES.items():
        add_native(root, name, np.arange(length), (length,), dimension_names=[name])
    shape = tuple(AXES.values())
    for number in range(11):
        values = np.full(shape, number, "f4")
        add_native(root, f"v{number}", values, (1, *shape[1:]), dimension_names=list(AXES))
    session.commit("dataset")
