"""What is remembered of a repository's metadata, and when it counts."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.fakes import FakeSource
from vzfs.access import Access
from vzfs.cache import DiskCache, EntryKey
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import ETag, LastModified, parse_prefix
from vzfs.repository import storage
from vzfs.repository.storage import NoSource, Remembered, Storage
from vzfs.source import Listed

ROOT = parse_prefix("s3://b/repository")
URL = "s3://b/repository/"


class Away(NoSource):
    """A source of which nobody knows whether it is there."""

    async def fetch(self, wanted: object, pinned: str | None = None, **options: object) -> object:
        raise SourceError(ErrorKind.SOURCE_UNREACHABLE, "away")

    async def stat(self, wanted: object) -> object:
        raise SourceError(ErrorKind.SOURCE_UNREACHABLE, "away")

    async def objects(self, below: object, *, deep: bool = True) -> object:
        raise SourceError(ErrorKind.SOURCE_TIMEOUT, "away")


type Make = Callable[..., Storage]


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", max_bytes=2**30, limiter=trio.CapacityLimiter(4))


@pytest.fixture(name="source")
def _source() -> FakeSource:
    source = FakeSource()
    for key in ("repo", "snapshots/A", "manifests/B", "refs/branch.main/ref.json"):
        source.put(URL + key, key.encode() * 10)
    return source


@pytest.fixture(name="new_storage")
def _new_storage(disk: DiskCache) -> Make:
    """Give a function that makes a storage over a source, which remembers in one and the same cache."""

    def make(source: object, **options: object) -> Storage:
        return Storage(Remembered(source, disk, ROOT, **options), Access(ROOT))

    return make


async def kind_of(asked: Awaitable[object]) -> ErrorKind | None:
    try:
        await asked
    except SourceError as error:
        return error.kind
    return None


async def test_what_was_seen_is_given_offline(source: FakeSource, new_storage: Make) -> None:
    """Objects, absences and listings that the storage gave once are given offline, with the time of the oldest."""
    for moment, keys in ((200, ["repo", "nothing"]), (100, ["refs/branch.main/ref.json"])):
        online = new_storage(source, now=lambda: moment)  # noqa: B023 -- called in this round
        for key in keys:
            await online.get(key, 1000)
    names = await online.names("refs")
    offline = new_storage(NoSource(), is_offline=True)
    assert offline._fetcher.as_of is None
    assert await offline.get("repo", 1000) == b"repo" * 10
    assert await offline.get("nothing", 1000) is None
    assert offline._fetcher.as_of == 200
    assert await offline.names("refs") == names == ["branch.main/ref.json"]
    assert offline._fetcher.as_of == 100
    assert await kind_of(offline.get("snapshots/A", 1000)) is ErrorKind.OFFLINE
    assert await kind_of(offline.names("snapshots")) is ErrorKind.OFFLINE


async def test_lengths_and_versions_are_given_offline(
    source: FakeSource, new_storage: Make
) -> None:
    """What listings and single objects said of lengths and versions is said offline, and which were not there."""
    source.put(URL + "dated", b"1234", etag=None, last_modified=7)
    source.put(URL + "tagged", b"12", etag='W/"a b"')
    online = new_storage(source)
    keys = ("dated", "tagged", "repo", "nothing")
    stats = [await online.stat(key) for key in keys]
    assert stats[:2] == [
        (4, LastModified(7), 7),
        (2, ETag('W/"a b"'), 1_700_000_000),
    ]
    assert stats[3] is None
    deep, level = await online.objects(""), await online.objects("", deep=False)
    assert Listed("refs/") in level
    assert Listed("dated", 4, LastModified(7)) in deep
    offline = new_storage(NoSource(), is_offline=True)
    assert [await offline.stat(key) for key in keys] == stats
    assert set(await offline.objects("")) == set(deep)
    assert set(await offline.objects("", deep=False)) == set(level)
    assert await kind_of(offline.stat("snapshots/A")) is ErrorKind.OFFLINE
    assert await kind_of(offline.objects("snapshots", deep=False)) is ErrorKind.OFFLINE
    mounted = new_storage(Away())
    assert await kind_of(mounted.stat("repo")) is ErrorKind.SOURCE_UNREACHABLE
    assert await kind_of(mounted.objects("")) is ErrorKind.SOURCE_TIMEOUT


async def test_the_last_that_was_seen_counts(source: FakeSource, new_storage: Make) -> None:
    """A ref that changed is given offline as it was seen last, and one that vanished is absent."""
    online = new_storage(source)
    await online.get("repo", 1000)
    source.put(URL + "repo", b"new")
    await online.get("repo", 1000)
    assert await new_storage(NoSource(), is_offline=True).get("repo", 1000) == b"new"
    source.delete(URL + "repo")
    await online.get("repo", 1000)
    assert await new_storage(NoSource(), is_offline=True).get("repo", 1000) is None


async def test_a_version_that_is_asked_for_is_the_one_that_is_given(
    source: FakeSource, new_storage: Make
) -> None:
    """What was seen of another version is not given for the one that is wanted, whole or in part."""
    online = new_storage(source)
    found = await online.stat("repo")
    assert found is not None
    assert await online.get("repo", 1000, found.checksum) == b"repo" * 10
    assert await online.part("repo", 4, 4, found.checksum) == b"repo"
    offline = new_storage(NoSource(), is_offline=True)
    assert await offline.get("repo", 1000, found.checksum) == b"repo" * 10
    assert await offline.part("repo", 4, 4, found.checksum) == b"repo"
    other = ETag("another")
    assert await kind_of(offline.get("repo", 1000, other)) is ErrorKind.OFFLINE
    assert await kind_of(offline.part("repo", 4, 4, other)) is ErrorKind.OFFLINE


async def test_only_what_never_changes_is_given_while_the_storage_is_away(
    source: FakeSource, new_storage: Make
) -> None:
    """Without --offline, snapshots come from the cache if need be; refs and listings do not."""
    online = new_storage(source)
    for key in ("repo", "snapshots/A", "refs/branch.main/ref.json"):
        await online.get(key, 1000)
    await online.names("refs")
    mounted = new_storage(Away())
    assert await mounted.get("snapshots/A", 1000) == b"snapshots/A" * 10
    assert await kind_of(mounted.get("repo", 1000)) is ErrorKind.SOURCE_UNREACHABLE
    assert await kind_of(mounted.names("refs")) is ErrorKind.SOURCE_TIMEOUT
    assert mounted._fetcher.as_of is None


async def test_a_hierarchy_may_have_names_like_a_repository(
    source: FakeSource, new_storage: Make
) -> None:
    """Documents of groups that are called snapshots or manifests may change, and are remembered like all others."""
    keys = ("snapshots/zarr.json", "manifests/zarr.json", "manifests/A/zarr.json")
    online = new_storage(source)
    for key in keys:
        source.put(URL + key, b"{}")
        await online.get(key, 1000)
    mounted, offline = new_storage(Away()), new_storage(NoSource(), is_offline=True)
    for key in keys:
        assert await kind_of(mounted.get(key, 1000)) is ErrorKind.SOURCE_UNREACHABLE
        assert await offline.get(key, 1000) == b"{}"


async def test_the_storage_is_asked_first(source: FakeSource, new_storage: Make) -> None:
    """While the storage answers, nothing is given from the cache, whatever is in there."""
    online = new_storage(source)
    await online.get("snapshots/A", 1000)
    source.put(URL + "snapshots/A", b"other")
    assert await new_storage(source).get("snapshots/A", 1000) == b"other"
    source.fail(URL + "snapshots/A", ErrorKind.SOURCE_MISMATCH)
    assert await kind_of(new_storage(source).get("snapshots/A", 1000)) is ErrorKind.SOURCE_MISMATCH


async def test_a_manifest_is_not_remembered_as_it_was_fetched(
    source: FakeSource, new_storage: Make
) -> None:
    """A manifest takes room in the cache once, as it was decoded."""
    await new_storage(source).get("manifests/B", 1000)
    assert (
        await kind_of(new_storage(Away()).get("manifests/B", 1000)) is ErrorKind.SOURCE_UNREACHABLE
    )


async def test_a_denial_is_remembered_of_what_was_never_given(
    source: FakeSource, new_storage: Make
) -> None:
    """A bucket that denies what it does not have does so offline; credentials that expired lose nothing."""
    online = new_storage(source)
    await online.get("repo", 1000)
    for key in ("repo", "config.yaml"):
        source.fail(URL + key, ErrorKind.SOURCE_DENIED)
        assert await kind_of(online.get(key, 1000)) is ErrorKind.SOURCE_DENIED
    offline = new_storage(NoSource(), is_offline=True)
    assert await offline.get("repo", 1000) == b"repo" * 10
    assert await kind_of(offline.get("config.yaml", 1000)) is ErrorKind.SOURCE_DENIED


@pytest.mark.parametrize(
    "record",
    ["", "1", "x sha256 00 1", f"1 sha256 {'0' * 64} 40", "1 source-unreachable", "1 nonsense"],
)
async def test_what_is_not_what_its_digest_says_is_not_given(
    record: str, source: FakeSource, new_storage: Make, disk: DiskCache
) -> None:
    """A record that is none, or an object with another digest, is as good as nothing remembered."""
    name = f"object {URL}repo"
    await disk.put(EntryKey(name, f"sha256 {'0' * 64}", 0, 40), b"repo" * 10)
    await disk.remember_version(name, record)
    offline = new_storage(NoSource(), is_offline=True)
    assert await kind_of(offline.get("repo", 1000)) is ErrorKind.OFFLINE


async def test_what_is_too_long_is_not_given(source: FakeSource, new_storage: Make) -> None:
    """The bound of an object holds for what is remembered of it too."""
    await new_storage(source).get("repo", 1000)
    offline = new_storage(NoSource(), is_offline=True)
    assert await kind_of(offline.get("repo", 39)) is ErrorKind.OFFLINE
    assert await offline.get("repo", 40) is not None


async def test_what_a_mount_uses_stays_in_use(
    source: FakeSource,
    new_storage: Make,
    disk: DiskCache,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mount uses what it has read again from time to time, so that chunks do not drive it out of the cache."""
    mounted = new_storage(source)
    await mounted.get("snapshots/A", 1000)
    before = disk.statistics().hits
    used = trio.Event()
    get = disk.get

    async def watched(key: EntryKey) -> bytes | None:
        try:
            return await get(key)
        finally:
            used.set()

    monkeypatch.setattr(storage, "USE_AGAIN_AFTER", 0.01)
    monkeypatch.setattr(disk, "get", watched)
    await nursery.start(mounted._fetcher.run)
    with trio.fail_after(10):
        await used.wait()
    assert disk.statistics().hits > before


async def test_what_is_used_again_is_what_is_now(
    source: FakeSource, new_storage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often an object changes, its last state is used again, and of many objects those read last."""
    monkeypatch.setattr(storage, "MAX_USED", 2)
    mounted = new_storage(source)
    for i in range(5):
        source.put(URL + "repo", b"%d" % i)
        await mounted.get("repo", 1000)
    used = mounted._fetcher._used
    assert len(used) == 1
    assert await mounted._fetcher._disk.get(*used.values()) == b"4"
    for key in ("snapshots/A", "snapshots/B", "snapshots/C"):
        source.put(URL + key, key.encode())
        await mounted.get(key, 1000)
    assert [bytes(await mounted._fetcher._disk.get(entry)) for entry in used.values()] == [
        b"snapshots/B",
        b"snapshots/C",
    ]
