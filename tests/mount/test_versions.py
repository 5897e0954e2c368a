"""Every byte is of the version that the snapshot refers to, or the read fails."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.archive import LENGTH, NEW, OLD, Archive
from tests.mount.conftest import Mount
from tests.mount.outcomes import cached_chunks, read, wait_until, walk
from tests.mount.repositories import ORIGIN_DAY, Ref, pattern, write_virtual
from tests.servers import ObjectServer, no_validators, other_etag

CHANGED = r"changed|does not exist|ends"


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture(name="archive", params=["file", "http", "s3"])
def _archive(request: pytest.FixtureRequest, tmp_path: Path, server: ObjectServer) -> Archive:
    return Archive(request.param, tmp_path / "archive", server)


def write_repository(folder: Path, archive: Archive, kinds: list[str], names: list[str]) -> Path:
    """Write one array `KIND-NAME` of four chunks for each kind of checksum and each source."""
    arrays = {}
    for kind in kinds:
        for name in names:
            location = archive.write(f"{kind}-{name}")
            checksum = archive.checksum(f"{kind}-{name}", kind)
            arrays[f"{kind}-{name}"] = [
                Ref(location, n * LENGTH, LENGTH, checksum) for n in range(4)
            ]
    return write_virtual(folder / "repository", arrays, containers=[archive.prefix])


WAYS = ["overwritten", "truncated", "halved", "grown", "deleted"]


def test_a_source_changed_since_it_was_referenced_gives_no_byte_and_heals(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """With an etag or a last-modified checksum, a source changed before the first read gives ESTALE or EIO, until it is restored."""
    path = write_repository(tmp_path, archive, ["etag", "last-modified"], WAYS)
    for kind in ("etag", "last-modified"):
        for how in WAYS:
            archive.change(f"{kind}-{how}", how)
    mounted = mount(path, *archive.options)
    mounted.expect_log(CHANGED)
    arrays = [f"{kind}-{how}" for kind in ("etag", "last-modified") for how in WAYS]
    for array in arrays:
        chunks = [mounted.path / array / "c" / str(n) for n in range(4)]
        assert {read(chunk) for chunk in chunks} <= {"ESTALE", "EIO"}, array
        assert [chunk.stat().st_size for chunk in chunks] == [LENGTH] * 4
        assert walk(chunks[0].parent) == ["0", "1", "2", "3"]
    for array in arrays:
        archive.restore(array)
    for array in arrays:
        for n in range(4):
            chunk = mounted.path / array / "c" / str(n)
            wait_until(lambda c=chunk: not isinstance(read(c), str), f"{array} heals")
            assert read(chunk) == OLD[n * LENGTH : (n + 1) * LENGTH]


def test_a_source_changed_since_its_first_read_gives_no_byte_and_heals(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Whatever the refs record, a source changed after this mount's first read gives ESTALE or EIO for what was not read yet."""
    kinds = ["none", "etag", "last-modified"]
    path = write_repository(tmp_path, archive, kinds, WAYS)
    mounted = mount(path, *archive.options)
    mounted.expect_log(CHANGED)
    arrays = {f"{kind}-{how}": how for kind in kinds for how in WAYS}
    for array in arrays:
        assert read(mounted.path / array / "c/0") == OLD[:LENGTH]
    for array, how in arrays.items():
        archive.change(array, how)
    for array in arrays:
        for n in (1, 2, 3):
            assert read(mounted.path / array / "c" / str(n)) in {"ESTALE", "EIO"}, array
        assert read(mounted.path / array / "c/0") in {OLD[:LENGTH], "ESTALE", "EIO"}
    for array in arrays:
        archive.restore(array)
        chunk = mounted.path / array / "c/3"
        wait_until(lambda c=chunk: not isinstance(read(c), str), f"{array} heals")
        assert read(chunk) == OLD[3 * LENGTH :]


def test_a_source_without_checksum_too_short_for_its_refs_gives_no_byte(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Without a checksum, a source shortened or deleted before the first read fails the chunks it no longer has."""
    path = write_repository(tmp_path, archive, ["none"], ["truncated", "halved", "deleted"])
    for how in ("truncated", "halved", "deleted"):
        archive.change(f"none-{how}", how)
    mounted = mount(path, *archive.options)
    mounted.expect_log(CHANGED)
    for array in ("none-truncated", "none-deleted"):
        for n in range(4):
            assert read(mounted.path / array / "c" / str(n)) in {"ESTALE", "EIO"}, array
    for n in (2, 3):
        assert read(mounted.path / "none-halved/c" / str(n)) in {"ESTALE", "EIO"}


def test_a_range_across_the_new_end_is_not_served_short(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A chunk of which only the first bytes are left is an error, not a short file."""
    location = archive.write("x", OLD[:1500])
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(location, 1000, LENGTH), Ref(location, 1500, LENGTH), Ref(location, 0, LENGTH)]},
        containers=[archive.prefix],
    )
    mounted = mount(path, *archive.options)
    mounted.expect_log("ends|bytes")
    assert read(mounted.path / "a/c/0") in {"ESTALE", "EIO"}
    assert read(mounted.path / "a/c/1") in {"ESTALE", "EIO"}
    assert read(mounted.path / "a/c/2") == OLD[:LENGTH]


def test_a_changed_source_is_not_served_from_the_cache_under_its_new_version(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """After a change, a new mount with the old cache never mixes versions: it shows one of them, whole, or fails."""
    path = write_repository(tmp_path, archive, ["none"], ["overwritten"])
    cache = tmp_path / "cache"
    first = mount(path, *archive.options, cache=cache)
    assert read(first.path / "none-overwritten/c/0") == OLD[:LENGTH]
    wait_until(lambda: cached_chunks(cache, LENGTH) == 1, "the chunk is cached")
    first.end()
    archive.change("none-overwritten", "overwritten")
    second = mount(path, *archive.options, cache=cache)
    found = [read(second.path / "none-overwritten/c" / str(n)) for n in range(4)]
    whole = [[data[n * LENGTH : (n + 1) * LENGTH] for n in range(4)] for data in (OLD, NEW)]
    allowed = [
        all(part in {version[n], "ESTALE", "EIO"} for n, part in enumerate(found))
        for version in whole
    ]
    assert any(allowed)
    assert found[1] == NEW[LENGTH : 2 * LENGTH]
    assert found[0] == NEW[:LENGTH]


def test_pages_of_an_open_file_are_of_one_version(
    archive: Archive, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A file that is open while its source changes gives old bytes or an error, never new bytes."""
    big = [pattern(40 * 2**20, seed) for seed in (2, 3)]
    location = archive.write("big", big[0])
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(location, 0, len(big[0]))]},
        containers=[archive.prefix],
    )
    mounted = mount(path, *archive.options)
    descriptor = os.open(mounted.path / "a/c/0", os.O_RDONLY)
    try:
        assert os.pread(descriptor, 100, 0) == big[0][:100]
        archive.write("big", big[1])
        if archive.scheme == "file":
            os.utime(archive.folder / "big", (ORIGIN_DAY + 1, ORIGIN_DAY + 1))
        for offset in range(0, len(big[0]), 5 * 2**20):
            found: bytes | str
            try:
                found = os.pread(descriptor, 100, offset)
            except OSError as error:
                found = os.strerror(error.errno or 0)
            assert found in {
                big[0][offset : offset + 100],
                "Stale file handle",
                "Input/output error",
            }
        assert found != big[0][offset : offset + 100]
    finally:
        os.close(descriptor)
    mounted.expect_log(CHANGED)


@pytest.mark.parametrize("checksum", ['"abc"', "abc"])
def test_etags_are_compared_whatever_their_quotes(
    checksum: str, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """An etag that the repository wrote with or without quotes matches the server's, and is sent quoted."""
    archive = Archive("http", tmp_path / "archive", server)
    server.put("b/x", OLD, etag='"abc"')
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(archive.prefix + "x", 0, LENGTH, checksum)]},
        containers=[archive.prefix],
    )
    mounted = mount(path, *archive.options)
    assert read(mounted.path / "a/c/0") == OLD[:LENGTH]
    gets = [r for r in server.requests if r.method == "GET"]
    assert [r.headers.get("if-match") for r in gets] == ['"abc"']


def test_the_reply_is_checked_when_a_server_ignores_preconditions(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A server that ignores If-Match and sends other bytes under another etag gives no byte."""
    archive = Archive("http", tmp_path / "archive", server)
    location = archive.write("x")
    checksum = archive.checksum("x", "etag")
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(location, 0, LENGTH, checksum)]},
        containers=[archive.prefix],
    )
    server.fault("b/x", other_etag('"else"'), 99)
    mounted = mount(path, *archive.options)
    assert read(mounted.path / "a/c/0") in {"ESTALE", "EIO"}
    mounted.expect_log("changed")


def test_a_server_that_tells_no_version_gives_no_byte(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Where a reply has neither ETag nor Last-Modified, versions could mix: the read fails and says why."""
    archive = Archive("http", tmp_path / "archive", server)
    location = archive.write("x")
    path = write_virtual(
        tmp_path / "repository", {"a": [Ref(location, 0, LENGTH)]}, containers=[archive.prefix]
    )
    server.fault("b/x", no_validators(), 99)
    mounted = mount(path, *archive.options)
    assert read(mounted.path / "a/c/0") == "EIO"
    mounted.expect_log("ETag|version")
