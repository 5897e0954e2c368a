"""References of kerchunk through a real mount: values in every view, what cannot be read, and what is asked for."""

import errno
import gzip
import json
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from tests.mount.conftest import Mount, MountFailedError

ORIGIN = "file:///srv/vzfs-data/public/"

MOUNTED = ["co2_templates_gen.json", "nemo_concat.json", "soi.parq", "basin_mask_v0.json"]


def digest(values: np.ndarray) -> str:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def options(data: Path) -> list[str]:
    return ["--map", f"{ORIGIN}={data}", "--allow", str(data)]


@pytest.mark.parametrize("name", MOUNTED)
def test_references_hold_their_values_in_every_view(
    data: Path, mount: Callable[..., Mount], name: str
) -> None:
    """Stored, portable and decoded, as Zarr v3 and v2, every array has the values that are known of it."""
    truth = json.loads((data / "truth.json").read_bytes())[f"kerchunk/{name}"]
    mounted = mount(data / "kerchunk" / name, *options(data))
    views = [
        (".", 3),
        (".vzfs/view/stored-v2", 2),
        (".vzfs/view/portable-v3", 3),
        (".vzfs/view/portable-v2", 2),
        (".vzfs/view/decoded-v3", 3),
    ]
    # Thousands of chunks are looked at in two views, others in all.
    for view, version in views[:2] if name == "soi.parq" else views:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group: Any = zarr.open_group(mounted.path / view, mode="r", zarr_format=version)
            for path, known in truth["arrays"].items():
                values = group[path][...]
                assert list(values.shape) == known["shape"]
                assert digest(values) == known["sha256"], f"{path} in {view}"


def test_stored_documents_of_zarr_v2_are_those_of_the_references(
    data: Path, mount: Callable[..., Mount]
) -> None:
    """As stored in Zarr v2, documents are byte for byte what the file of references says."""
    mounted = mount(data / "kerchunk/nemo_concat.json", *options(data))
    said = json.loads((data / "kerchunk/nemo_concat.json").read_bytes())["refs"]
    for key, text in said.items():
        if key.endswith((".zarray", ".zattrs", ".zgroup")):
            assert (mounted.path / ".vzfs/view/stored-v2" / key).read_text() == text


def test_what_cannot_be_read_fails_and_is_never_absent(
    data: Path, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A chunk whose object is not there, not allowed, or not to be named exists, and reading it fails."""
    folder = tmp_path / "refs"
    folder.mkdir()
    said = json.loads((data / "kerchunk/xarray_data_0.json").read_bytes())
    array = json.dumps({"zarr_format": 2, "shape": [4], "chunks": [1], "dtype": "|u1", "order": "C",
                        "fill_value": 0, "filters": None, "compressor": None})  # fmt: skip
    said["refs"] |= {
        "odd/.zarray": array,
        "odd/0": ["/etc/hostname", 0, 1],
        "odd/1": ["simplecache::zip://x::s3://b/k", 0, 1],
        "odd/2": None,
        "odd/9": "stale",
    }
    (folder / "refs.json.gz").write_bytes(gzip.compress(json.dumps(said).encode()))
    mounted = mount(folder / "refs.json.gz", "--allow", str(folder))
    assert (mounted.path / "u10/c/0/0").stat().st_size == 1667
    assert sorted(path.name for path in (mounted.path / "odd/c").iterdir()) == ["0", "1", "2"]
    failed = {}
    for name in ("u10/c/0/0", "odd/c/0", "odd/c/1", "odd/c/2"):
        assert (mounted.path / name).stat().st_size > 0
        with pytest.raises(OSError, match="Errno") as failure:
            (mounted.path / name).read_bytes()
        failed[name] = failure.value.errno
    assert failed.pop("u10/c/0/0") in {errno.EIO, errno.ESTALE}
    assert set(failed.values()) == {errno.EACCES}
    assert not (mounted.path / "odd/c/3").exists()
    assert not (mounted.path / "odd/c/9").exists()
    mounted.expect_log("example.grb")
    mounted.expect_log("/odd")
    for pattern in ("hostname", "simplecache|zip", "malformed"):
        mounted.expect_log(pattern)


def test_nested_groups_are_directories(data: Path, mount: Callable[..., Mount]) -> None:
    """Groups within groups are directories within directories, with their arrays and attributes."""
    name = "kerchunk/kerchunk_hrrr_wrfsubhf_tree.json"
    truth = json.loads((data / "truth.json").read_bytes())[name]
    mounted = mount(data / name, "--view", "portable")
    kinds: dict[str, set[str]] = {"group": set(), "array": set()}
    for path in mounted.path.rglob("zarr.json"):
        node_type = json.loads(path.read_bytes())["node_type"]
        kinds[node_type].add(str(path.parent.relative_to(mounted.path)).removeprefix("."))
    assert kinds == {"group": set(truth["groups"]), "array": truth["arrays"].keys()}
    document = json.loads((mounted.path / "dswrf/avg/zarr.json").read_bytes())
    assert document["attributes"] == {"stepType": "avg"}


def test_references_that_are_none_are_refused_in_a_line(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A file whose generated references cannot be expanded is refused, and says which expression it is."""
    entry = {"key": "a/{{i / 2}}", "url": "s3://b/x", "dimensions": {"i": {"stop": 2}}}
    (tmp_path / "x.json").write_text(json.dumps({"version": 1, "gen": [entry], "refs": {}}))
    with pytest.raises(MountFailedError, match="the operator '/' is not supported"):
        mount(tmp_path / "x.json")


def test_a_million_references_in_parquet_mount_at_once(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A set of a million references shows its names and bytes after reading the partitions that they are in."""
    folder = tmp_path / "big.parq"
    (folder / "v").mkdir(parents=True)
    array = {"zarr_format": 2, "shape": [100] * 3, "chunks": [1] * 3, "dtype": "<u4", "order": "C",
             "fill_value": 0, "filters": None, "compressor": None}  # fmt: skip
    metadata = {".zgroup": {"zarr_format": 2}, "v/.zarray": array}
    (folder / ".zmetadata").write_text(json.dumps({"metadata": metadata, "record_size": 100_000}))
    target = tmp_path / "big.bin"
    target.write_bytes(np.arange(10**6, dtype="<u4").tobytes())
    for p in range(10):
        rows = np.arange(p * 10**5, (p + 1) * 10**5)
        table = pa.table(
            {
                "path": pa.DictionaryArray.from_arrays(np.zeros(10**5, np.int32), [str(target)]),
                "offset": rows * 4,
                "size": np.full(10**5, 4),
                "raw": pa.nulls(10**5),
            }
        )
        pq.write_table(table, folder / f"v/refs.{p}.parq", compression="zstd")
    mounted = mount(folder, "--allow", str(target), "--memory", "16M")
    # What nobody asks for is not read.
    for p in (0, *range(2, 10)):
        (folder / f"v/refs.{p}.parq").unlink()
    name = mounted.path / "v/c/17/4"
    assert {int(path.name) for path in name.iterdir()} == set(range(100))
    assert np.frombuffer((name / "99").read_bytes(), "<u4") == 170_499
    status = Path(f"/proc/{mounted.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 250 * 1024
    with pytest.raises(OSError, match="Errno") as failure:
        (mounted.path / "v/c/20/0/0").read_bytes()
    assert failure.value.errno == errno.ESTALE
    mounted.expect_log("were written anew")
