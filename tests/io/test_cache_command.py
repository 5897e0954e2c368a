"""`vzfs cache`: what it says of a folder, and what it leaves of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from tests.io.cachebench import Bench, content, key
from vzfs.cache import DiskCache
from vzfs.cache.census import OLD_AFTER, CachedFile, to_collect
from vzfs.cache.segment import SMALL
from vzfs.cache.sweep import ABANDONED_AFTER
from vzfs.cache.tally import Tally, add, decode_tally, tallies, tally_name
from vzfs.cli.main import vzfs
from vzfs.errors import ConfigError, ErrorKind

LIMIT = 2**30


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(folder: Path, *words: str) -> Result:
    """Run `vzfs cache` on *folder*."""
    environment = {"HOME": str(folder.parent), "VZFS_CONFIG": "", "VZFS_CACHE_SIZE": str(LIMIT)}
    words = ("cache", *words, "--cache-dir", str(folder))
    return CliRunner().invoke(vzfs, words, env=environment, standalone_mode=False)


def said(folder: Path, *words: str) -> str:
    """Run what must go well, and return what it says."""
    result = run(folder, *words)
    assert result.exception is None, result.exception
    return result.output


def status(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(said(folder, "status", "--json"))
    return found


def cache(folder: Path, owner: str) -> DiskCache:
    return DiskCache(folder, max_bytes=LIMIT, limiter=trio.CapacityLimiter(4), owner=owner)


async def use(folder: Path, owner: str, first: int) -> None:
    """Store ten small entries and a large one, read them, and miss one."""
    disk = cache(folder, owner)
    large = key(first, SMALL + 1)
    keys = [key(first + number, 3000) for number in range(10)]
    for of in (*keys, large):
        assert disk.store(of, content(of), shelf="shelf", record=f"s3://b/{owner}")
    await disk.written()
    for of in (*keys, large, key(first + 99)):
        await disk.get(of, "shelf")
    await disk.written()


@pytest.fixture(name="used")
def _used(folder: Path) -> Path:
    """Give a folder that two repositories have used, and one of them for a public mount as well."""
    trio.run(use, folder, "s3://one/", 0)
    trio.run(use, folder, "s3://two/", 100)
    trio.run(use, folder / "public", "s3://one/", 200)
    return folder


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and "tallies" not in p.parts]


def test_status_says_what_is_cached_of_which_repository(used: Path) -> None:
    """Entries, bytes and hit rates stand there by repository, public ones apart, and add up to the files."""
    report = status(used)
    assert (report["folder"], report["limit"]) == (str(used), LIMIT)
    rows = report["repositories"]
    assert [(row["repository"], row["public"]) for row in rows] == [
        ("s3://one/", False),
        ("s3://two/", False),
        ("s3://one/", True),
    ]
    for row in rows:
        assert (row["entries"], row["files"]) == (11, 2)
        assert (row["hits"], row["misses"], row["hit_rate"]) == (11, 1, 0.9167)
        assert row["bytes_read"] == 30_000 + SMALL + 1
        assert row["oldest_use"] <= row["last_use"]
    assert report["versions"]["files"] == 3
    on_disk = sum(max(p.stat().st_size, p.stat().st_blocks * 512) for p in files(used))
    assert report["size"] == on_disk
    text = said(used, "status")
    assert "s3://one/ (public)" in text
    assert "92 %" in text


def test_a_cache_that_is_not_there_is_empty(folder: Path) -> None:
    """No folder, no trouble; and asking makes none."""
    assert status(folder)["size"] == 0
    assert said(folder, "status").startswith(f"{folder}: 0 bytes of 1.0 GiB")
    assert said(folder, "gc") == f"deleted 0 files, 0 bytes from {folder}\n"
    assert said(folder, "clear") == f"deleted 0 files, 0 bytes from {folder}\n"
    assert not folder.exists()


def test_status_counts_whatever_lies_there(used: Path) -> None:
    """Damaged files, those of earlier formats and unfinished ones are counted, and break nothing."""
    (used / "v1/00").mkdir(parents=True)
    (used / "v1/00" / ("0" * 62)).write_bytes(bytes(5000))
    for path in files(used):
        if "entries" in path.parts:
            path.write_bytes(b"what?")
            (path.parent / "tmp-0123456789abcdef").write_bytes(b"half")
            (path.parent / "notes.txt").write_bytes(b"not ours")
    report = status(used)
    assert [row["repository"] for row in report["repositories"]][:2] == [None, "s3://one/"]
    assert report["older_formats"]["files"] == 1
    assert report["unfinished"]["files"] == 3
    assert "(not said)" in said(used, "status")


def test_clear_deletes_everything(used: Path) -> None:
    """Without a repository all goes, the folder of public mounts and the counts too."""
    assert said(used, "clear", "--dry-run").startswith("would delete 9 files")
    assert len(files(used)) == 9
    assert said(used, "clear", "--yes").startswith("deleted 9 files")
    assert [p for p in used.rglob("*") if p.is_file()] == []


def test_clear_deletes_what_one_repository_has_fetched(used: Path) -> None:
    """With a repository, named as for a mount, what was fetched for it goes, and others keep theirs."""
    said(used, "clear", "--yes", "--repository", "s3://one")
    assert [row["repository"] for row in status(used)["repositories"]] == ["s3://two/"]
    disk = cache(used, "s3://two/")
    assert trio.run(disk.get, key(100, 3000), "shelf") == content(key(100, 3000))


def test_clear_asks_somebody_or_deletes_nothing(used: Path) -> None:
    """Without a terminal to ask at, --yes is needed."""
    result = run(used, "clear")
    assert "--yes" in str(result.exception)
    assert len(files(used)) == 9


def test_a_mount_goes_on_after_its_cache_was_cleared(folder: Path) -> None:
    """A cache in use serves right bytes or none after it was cleared, and stores again."""

    async def go_on() -> None:
        disk = cache(folder, "s3://one/")
        await disk.put(key(1, 3000), content(key(1, 3000)), "shelf")
        assert await disk.get(key(1, 3000), "shelf") is not None
        said(folder, "clear", "--yes")
        assert await disk.get(key(1, 3000), "shelf") in (None, content(key(1, 3000)))
        await disk.put(key(2, 3000), content(key(2, 3000)), "shelf")
        assert await disk.get(key(2, 3000), "shelf") == content(key(2, 3000))

    trio.run(go_on)


def test_gc_leaves_what_was_used_last(folder: Path) -> None:
    """Down to the size that is asked for the oldest go; a dry run says the same and deletes nothing."""
    bench = Bench(folder)
    disk = bench.cache()
    for number in range(10):
        bench.now.time += 100
        trio.run(disk.put, key(number, 3000), content(key(number, 3000)))
    before = said(folder, "gc", "--max-size", "20K", "--dry-run")
    assert len(files(folder)) == 10
    after = said(folder, "gc", "--max-size", "20K")
    assert after == before.replace("would delete", "deleted")
    assert [n for n in range(10) if bench.path(key(n, 3000)).exists()] == list(range(5, 10))
    assert said(folder, "gc").startswith("deleted 0 files")


def file(name: str, age: int, size: int = 10, moment: int = 10**12) -> CachedFile:
    return CachedFile(name, size, (moment - age) * 10**9)


def test_gc_deletes_what_nobody_needs() -> None:
    """Abandoned temporary files and earlier formats out of use go first, and young ones stay, whatever the limit."""
    young, old = file("v2/entries/00/tmp-1", 60), file("v2/entries/00/tmp-2", ABANDONED_AFTER + 1)
    used, unused = file("v1/00/a", OLD_AFTER - 1), file("v1/00/b", OLD_AFTER + 1)
    entry = file("v2/entries/00/c", 10**6)
    everything = [young, old, used, unused, entry]
    assert to_collect(everything, 1000, 10**21) == [old, unused]
    assert to_collect(everything, 20, 10**21) == [old, unused, entry]
    assert to_collect(everything, 0, 10**21) == [old, unused, entry, used]


def test_gc_leaves_alone_what_is_used_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody reads between the look and the deletion stays."""
    bench = Bench(folder)
    trio.run(bench.cache().put, key(1), content(key(1)))
    path = bench.path(key(1))

    def collect(*_: object) -> list[CachedFile]:
        seen = path.stat().st_mtime_ns
        os.utime(path)
        return [CachedFile(str(path.relative_to(folder)), 10, seen)]

    monkeypatch.setattr("vzfs.cli.cache.to_collect", collect)
    assert said(folder, "gc").startswith("deleted 0 files")
    assert path.exists()


def test_a_folder_that_others_control_is_not_touched(used: Path) -> None:
    """The commands refuse what the cache refuses, in one line."""
    used.chmod(0o777)
    for words in (["status"], ["gc"], ["clear", "--yes"]):
        failure = run(used, *words).exception
        assert isinstance(failure, ConfigError)
        assert failure.kind is ErrorKind.BAD_USAGE
        assert "chmod 700" in failure.advice
    assert len(files(used)) == 9


# -- tallies -------------------------------------------------------------------------------------


def test_counts_of_several_mounts_add_up(folder: Path) -> None:
    """What one mount tells after another is one tally for each repository, since the first of them."""
    trio.run(use, folder, "s3://one/", 0)
    trio.run(use, folder, "s3://one/", 0)
    (row,) = status(folder)["repositories"]
    assert (row["hits"], row["misses"]) == (22, 2)


async def test_counts_are_told_once(bench: Bench) -> None:
    """What was told is not told again, and a cache without an owner tells nothing."""
    disk = cache(bench.folder, "s3://one/")
    await disk.get(key(1))
    for _ in range(3):
        await disk.written()
    await bench.cache().get(key(1))
    assert [t.misses for t in tallies(disk._folder).values()] == [1]


def test_a_damaged_tally_begins_anew(bench: Bench) -> None:
    """Whatever stands in the place of a tally is no tally, or one with sound numbers."""
    disk = bench.cache()
    tally = Tally("s3://one/", 100, 1, 2, 3, 4)
    add(disk._folder, tally)
    path = bench.folder / tally_name("s3://one/")
    blob = path.read_bytes()
    assert decode_tally(blob) == tally
    for data in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        blob[:-1],
        blob.replace(b"100", b"-1"),
        b'{"owner": 1, "since": 1}',
    ):
        assert decode_tally(data) is None
        path.write_bytes(data)
        assert tallies(disk._folder) == {}
        add(disk._folder, tally)
        assert tallies(disk._folder) == {"s3://one/": tally}


async def test_a_disk_that_takes_no_counts_is_no_trouble(
    bench: Bench, told: Callable[[], list[str]]
) -> None:
    """Telling the counts is a write like any other: what fails is said once, and nobody waits."""
    disk = cache(bench.folder, "s3://one/")
    await disk.get(key(1))
    bench.folder.write_bytes(b"")
    await disk.written()
    assert disk.statistics().is_off
    assert len(told()) == 1
