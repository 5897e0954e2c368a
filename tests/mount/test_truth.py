"""Every real repository, every branch and tag, through a real mount: names, lengths, bytes, values."""

import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import boto3
import pytest
import tensorstore
import xarray as xr
import zarr
from moto.server import ThreadedMotoServer

from tests.conftest import REPOSITORIES
from tests.mount.conftest import Mount
from vzfs import control

type Digest = Callable[[Any], str]

ORIGIN = "file:///srv/vzfs-data/public/"
ACCESS_OM2_ORIGIN = "file:///Users/u1166368/catalog/intake-virtual-icechunk/tests/data/access-om2/"
JANUARY_2026 = 1_767_225_600


@pytest.fixture(scope="session", name="copy")
def _copy(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the real data, every file last modified before any checksum's date."""
    copy = tmp_path_factory.mktemp("data") / "copy"
    shutil.copytree(data, copy)
    for folder, _, names in os.walk(copy):
        for name in names:
            os.utime(Path(folder, name), (JANUARY_2026, JANUARY_2026))
    return copy


@pytest.fixture(scope="session", name="truthlib")
def _truthlib(data: Path) -> ModuleType:
    """Import the digests with which the truth was written."""
    spec = importlib.util.spec_from_file_location("truthlib", data / "truthlib.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", name="s3")
def _s3(data: Path) -> Iterator[str]:
    """Serve the S3 objects of the real data, to who has credentials, and give the endpoint's URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="testbucket")
        folder = data / "s3-objects" / "testbucket"
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            key = str(path.relative_to(folder))
            client.put_object(Bucket="testbucket", Key=key, Body=path.read_bytes())
        client.close()
        yield endpoint
    finally:
        server.stop()


def options_for(name: str, copy: Path, endpoint: str) -> list[str]:
    """Return what a user of that repository must allow."""
    if name == "access-om2":
        moved = copy / "icechunk" / "access-om2"
        return ["--map", f"{ACCESS_OM2_ORIGIN}={moved}", "--allow", str(moved)]
    if name.startswith("test-repo"):
        return ["--allow", "s3://testbucket/", "--endpoint", endpoint, "--allow-http"]
    return ["--map", f"{ORIGIN}={copy}", "--allow", str(copy / "archival")]


def files_below(root: Path) -> dict[str, Path]:
    """Walk a mount and return its files by their paths below the root."""
    return {
        str(Path(folder, name).relative_to(root)): Path(folder, name)
        for folder, _, names in os.walk(root, onerror=_raise)
        for name in names
    }


def _raise(error: OSError) -> None:
    raise error


@functools.cache
def truth_of(data: Path, name: str) -> dict[str, Any]:
    return json.loads((data / "truth" / "icechunk" / f"{name}.json").read_text())


class Real(NamedTuple):
    """A real repository, mounted at its first branch, and what is true of it."""

    name: str
    root: Path
    truth: dict[str, Any]


@pytest.fixture(scope="module", params=REPOSITORIES, name="real")
def _real(
    request: pytest.FixtureRequest,
    data: Path,
    copy: Path,
    s3: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Real]:
    truth = truth_of(data, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        options = ["--no-cache", "--branch", next(iter(truth["branches"]))]
        options += options_for(request.param, copy, s3)
        mounted = Mount(tmp_path_factory.mktemp("real"), copy / truth["path"], *options)
    try:
        yield Real(request.param, mounted.path, truth)
        mounted.end()
    finally:
        mounted.tear_down()


def test_every_ref_of_every_real_repository_equals_its_truth(
    real: Real, truthlib: ModuleType
) -> None:
    """At every branch and tag, names, lengths, bytes and values are the snapshot's, all and only."""
    truth, root = real.truth, real.root
    first, *others = truth["branches"]
    places = [(root, truth["branches"][first])]
    for kind, names in (("branch", others), ("tag", truth["tags"])):
        known = truth["tags" if kind == "tag" else "branches"]
        places += [(root / ".vzfs" / kind / control.encode_ref(n), known[n]) for n in names]
    for place, snapshot in places:
        expected = truth["snapshots"][snapshot]
        files = files_below(place)
        assert sorted(files) == sorted(expected["keys"])
        for key, (length, digest) in expected["keys"].items():
            assert files[key].stat().st_size == length, key
            assert hashlib.sha256(files[key].read_bytes()).hexdigest() == digest, key
        values = {n["path"]: n["values"]["sha256"] for n in expected["nodes"] if "values" in n}
        nodes = {n["path"]: n for n in expected["nodes"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            digest = functools.partial(sha256_of, truthlib)
            assert read_with_zarr(place, values, digest) == values
            for read in (read_with_xarray, read_with_tensorstore):
                found = read(place, nodes, digest)
                assert found == {path: values[path] for path in found}
                assert found.keys() == (readable_by(read, nodes) & values.keys())


def test_every_view_of_every_real_repository_has_its_values(
    real: Real, truthlib: ModuleType
) -> None:
    """In any view an array has the values of the truth, or is left out with a reason; what TensorStore opens, too."""
    expected = real.truth["snapshots"][next(iter(real.truth["branches"].values()))]
    values = {n["path"]: n["values"]["sha256"] for n in expected["nodes"] if "values" in n}
    digest = functools.partial(sha256_of, truthlib)
    view = VIEWS[REPOSITORIES.index(real.name) % len(VIEWS)]
    root = real.root / ".vzfs" / "view" / view
    shown = [path for path in values if (root / path.lstrip("/")).exists()]
    assert view.startswith("portable-v3") <= (shown == list(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_with_zarr(root, shown, digest) == {path: values[path] for path in shown}
        for path in shown:
            found = try_tensorstore(root / path.lstrip("/"), "zarr3" if "v3" in view else "zarr")
            if found is not None and is_number(nodes_of(expected)[path]):
                assert digest(found) == values[path], (view, path)


VIEWS = ["portable-v3", "decoded-v3", "stored-v2", "portable-v2", "decoded-v2"]


def nodes_of(snapshot: dict[str, Any]) -> dict[str, Any]:
    return {n["path"]: n for n in snapshot["nodes"]}


def try_tensorstore(array: Path, driver: str) -> Any:
    """Read an array with TensorStore, or return None if it refuses it."""
    try:
        store = {"driver": "file", "path": f"{array}/"}
        opened = tensorstore.open({"driver": driver, "kvstore": store}, read=True).result()
        return opened.read().result()
    except ValueError:
        return None


def is_number(node: dict[str, Any]) -> bool:
    return isinstance(node["data_type"], str) and bool(
        re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)", node["data_type"])
    )


def sha256_of(truthlib: ModuleType, values: Any) -> str:
    return truthlib.digest(values)["sha256"]


def read_with_zarr(root: Path, paths: Iterable[str], digest: Digest) -> dict[str, str]:
    """Read all arrays with zarr-python."""
    return {path: digest(zarr.open_array(root / path.lstrip("/"), mode="r")[...]) for path in paths}


def read_with_xarray(root: Path, nodes: dict[str, Any], digest: Digest) -> dict[str, str]:
    """Read every group with xarray in which arrays have names for their dimensions."""
    found = {}
    for path in {parent(p) for p in readable_by(read_with_xarray, nodes)}:
        dataset = xr.open_zarr(
            root / path.lstrip("/"), consolidated=False, decode_cf=False, chunks=None
        )
        for name, variable in dataset.variables.items():
            found[f"{path.rstrip('/')}/{name}"] = digest(variable.values)
    return found


def read_with_tensorstore(root: Path, nodes: dict[str, Any], digest: Digest) -> dict[str, str]:
    """Read the arrays whose codecs TensorStore knows."""
    found = {}
    for path in readable_by(read_with_tensorstore, nodes):
        store = {"driver": "file", "path": str(root / path.lstrip("/")) + "/"}
        array = tensorstore.open({"driver": "zarr3", "kvstore": store}, read=True).result()
        found[path] = digest(array.read().result())
    return found


def readable_by(reader: Callable[..., Any], nodes: dict[str, Any]) -> set[str]:
    """Return the paths of the arrays that *reader* is known to read."""
    arrays = {path: n for path, n in nodes.items() if n["type"] == "array"}
    if reader is read_with_tensorstore:
        return {p for p, n in arrays.items() if is_known_to_tensorstore(n)}
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, node in arrays.items():
        if path != "/":
            groups.setdefault(parent(path), []).append(node)
    return {n["path"] for members in groups.values() if are_a_dataset(members) for n in members}


def is_known_to_tensorstore(node: dict[str, Any]) -> bool:
    known = {"bytes", "zstd", "gzip", "blosc", "crc32c", "transpose", "sharding_indexed"}
    codecs = {codec["name"] for codec in node["codecs"]}
    return is_number(node) and codecs <= known


def are_a_dataset(arrays: list[dict[str, Any]]) -> bool:
    """Whether all arrays of a group name their dimensions, and agree on their lengths."""
    lengths: dict[str, int] = {}
    for array in arrays:
        names = array["dimension_names"]
        if names is None or None in names or len(set(names)) < len(names):
            return False
        for name, length in zip(names, array["shape"], strict=True):
            if lengths.setdefault(name, length) != length:
                return False
    return True


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def test_each_reader_has_many_arrays_to_read(data: Path) -> None:
    """The comparison is not empty: xarray and TensorStore each know dozens of the real arrays."""
    counts = dict.fromkeys((read_with_xarray, read_with_tensorstore), 0)
    for name in REPOSITORIES:
        truth = truth_of(data, name)
        for snapshot in {*truth["branches"].values(), *truth["tags"].values()}:
            nodes = {n["path"]: n for n in truth["snapshots"][snapshot]["nodes"]}
            for reader in counts:
                counts[reader] += len(readable_by(reader, nodes))

    assert min(counts.values()) >= 60
