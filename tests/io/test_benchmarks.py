"""What `benchmarks` stands on: its object store, and its tables."""

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import obstore
import pytest
from obstore.store import S3Store

from benchmarks import report, targets
from benchmarks.contests import CONTESTS, Contest, Sample
from benchmarks.readers import Reading
from benchmarks.serving import Network, Server, compiled
from benchmarks.workloads import RANDOM, SMALL, random_chunks

DATA = bytes(range(256)) * 16
KEYS = ["a", "b/1", "b/2", "b/ü &", "c/d/e"]


@pytest.fixture(name="program", scope="module")
def _program() -> Iterator[Path]:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    with compiled() as program:
        yield program


@pytest.fixture(name="server")
def _server(program: Path, tmp_path: Path) -> Iterator[Server]:
    for key in KEYS:
        path = tmp_path / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA)
    with Server(program, tmp_path, Network(), 60) as server:
        yield server


@pytest.fixture(name="bucket")
def _bucket(server: Server) -> S3Store:
    return S3Store(
        "bucket",
        endpoint=server.url,
        region="us-east-1",
        virtual_hosted_style_request=False,
        skip_signature=True,
        client_options={"allow_http": True},
    )


@pytest.mark.parametrize("key", KEYS)
def test_the_store_gives_objects_and_ranges_of_them(bucket: S3Store, key: str) -> None:
    """GET gives an object or exactly a range of it, and HEAD its size, whatever its key."""
    assert bucket.head(key)["size"] == len(DATA)
    assert bytes(obstore.get(bucket, key).bytes()) == DATA
    assert bytes(obstore.get_range(bucket, key, start=100, end=4000)) == DATA[100:4000]
    last = obstore.get(bucket, key, options={"range": {"suffix": 7}})
    assert bytes(last.bytes()) == DATA[-7:]


def test_the_store_honours_preconditions(bucket: S3Store) -> None:
    """If-Match with another etag is refused."""
    etag = bucket.head("a")["e_tag"]
    assert bytes(obstore.get(bucket, "a", options={"if_match": etag}).bytes()) == DATA
    with pytest.raises(obstore.exceptions.PreconditionError):
        obstore.get(bucket, "a", options={"if_match": '"other"'})


def test_the_store_lists_keys(bucket: S3Store) -> None:
    """A listing has all keys below a prefix, and with a delimiter their groups."""
    assert [o["path"] for page in bucket.list() for o in page] == KEYS
    below = bucket.list_with_delimiter("b")
    assert [o["path"] for o in below["objects"]] == KEYS[1:4]
    assert bucket.list_with_delimiter()["common_prefixes"] == ["b", "c"]


def test_the_store_pages_its_listings(server: Server, bucket: S3Store, tmp_path: Path) -> None:
    """A listing of more keys than fit on a page is complete, each key once."""
    for n in range(2100):
        (tmp_path / "bucket" / "c" / f"{n:04d}").touch()
    server.reset()
    listed = [o["path"] for page in bucket.list("c") for o in page]
    assert listed == [f"c/{n:04d}" for n in range(2100)] + ["c/d/e"]
    assert server.reset().of("bucket").lists == 3


def test_the_store_counts_what_it_gives(server: Server, bucket: S3Store) -> None:
    """Requests and bytes are counted by bucket, and begin at 0 again when that is asked for."""
    obstore.get_range(bucket, "a", start=0, end=100)
    bucket.head("a")
    with pytest.raises(FileNotFoundError):
        bucket.head("none")
    counts = server.reset().of("bucket")
    assert (counts.gets, counts.heads, counts.errors, counts.bytes) == (1, 1, 1, 100)
    assert server.reset().of("bucket").gets == 0


def test_the_store_gives_nothing_from_outside(server: Server, tmp_path: Path) -> None:
    """A path that leads out of the folder is refused."""
    (tmp_path.parent / "secret").write_bytes(b"secret")
    for path in ("/../secret", "/bucket/../../secret", "/bucket/%2e%2e/%2e%2e/secret"):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(server.url + path, timeout=10)


def sample(
    contest: Contest, who: str, seconds: float, phase: str = "cold", gets: int = 0
) -> Sample:
    return Sample("far", contest, who, phase, Reading(0, 0, seconds, 0, 0, 0, 0), gets, 0, 0, 0)


def contest(workload: str, task: str, engine: str) -> Contest:
    (found,) = [c for c in CONTESTS if (c.workload, c.task, c.engine) == (workload, task, engine)]
    return found


def test_targets_are_judged_by_medians() -> None:
    """A target is met or missed by the ratio of medians; what was not measured is neither."""
    scan = contest("small", "scan", "zarr")
    samples = [sample(scan, "vzfs", seconds, gets=100) for seconds in (1, 2, 100)]
    samples += [sample(scan, "icechunk", seconds) for seconds in (0, 6, 7)]
    samples += [sample(scan, "local", 1)]
    run = targets.Run(report.Results(samples, lambda contest: None), "far", "near", {}, None)
    judged = {(row[0], row[1]): row[3:] for row in targets.judge(run)}
    assert judged["small scan", "times as fast as icechunk"] == ["3.00", "met"]
    assert judged["small scan", "time / local disk"] == ["2.00", "MISSED"]
    assert judged["small scan", "GETs"] == ["100", "met"]
    assert judged["small scan", "times as fast as kerchunk"] == ["not measured", ""]


def test_the_worst_of_all_contests_counts() -> None:
    """A target for every workload is judged by the worst of them, which it names."""
    scan, big = contest("small", "scan", "zarr"), contest("big8", "scan", "zarr")
    samples = [sample(c, who, 1) for c in (scan, big) for who in ("local", "vzfs")]
    samples += [sample(scan, "vzfs", 1, "page"), sample(big, "vzfs", 1.2, "page", gets=1)]
    run = targets.Run(report.Results(samples, lambda contest: None), "far", "near", {}, None)
    judged = {(row[0], row[1]): row[3:] for row in targets.judge(run)}
    assert judged["every workload", "page-cache warm: time / local disk"] == [
        "1.20 (big8 scan, zarr)",
        "MISSED",
    ]
    assert judged["every workload", "page-cache warm: GETs"] == ["1 (big8 scan, zarr)", "MISSED"]


def test_a_section_of_the_results_is_replaced(tmp_path: Path) -> None:
    """Writing results twice leaves one section, and what is around it as it was."""
    file = tmp_path / "RESULTS.md"
    file.write_text("# Results\n\nBefore.\n")
    report.write_section(file, "first")
    file.write_text(file.read_text() + "\n## After\n")
    report.write_section(file, "second")
    report.write_section(file, "second")
    text = file.read_text()
    assert text == f"# Results\n\nBefore.\n\n{report.BEGIN}\nsecond\n{report.END}\n\n## After\n"


def test_random_chunks_are_the_same_each_time() -> None:
    """The chunks of the random task differ from each other, and not between contestants."""
    first = random_chunks(SMALL)
    assert len(np.unique(first, axis=0)) == RANDOM
    assert (first == random_chunks(SMALL)).all()


def test_the_floor_is_read_from_its_table() -> None:
    """Of the table of `fuse_floor` the ratio of a whole mount to C counts, for small files."""
    table = """| what | ours, empty | ours, whole | C, empty |
|---|---|---|---|
| 1 MiB file, us | 949.0 (x1.75) | 960.0 (x1.76) | 543.0 (x1.00) |
| 64 KiB files/s, 4 clients | 11412.0 (x0.74) | 9000.1 (x0.59) | 15322.0 (x1.00) |
"""
    assert targets.floor(table) == 0.59
    assert targets.floor(table.replace("x0.59", "")) is None
    assert targets.floor("no table") is None
