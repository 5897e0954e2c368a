"""What every `Fetcher` does, whatever is behind it: one suite, run against each.

A `World` is a fetcher with the store behind it. A test module gives a fixture `world` and derives
its test class from `FetcherSuite`.
"""

import abc
import os
from typing import ClassVar

import pytest
import trio

from vzfs.access import (
    Access,
    AccessPolicy,
    AuthorizedPrefix,
    AuthorizedRange,
    StoreOptions,
)
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer
from vzfs.source import Fetched, Fetcher, Urgency

ENVIRONMENT = StoreOptions()
DATA = bytes(range(256)) * 4
NAMES_OF_THE_ENVIRONMENT = ("PROXY", "AWS_", "SSL_CERT", "CA_BUNDLE")


def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take proxies, certificates and AWS settings of the machine out of the environment."""
    for name in list(os.environ):
        if any(part in name.upper() for part in NAMES_OF_THE_ENVIRONMENT):
            monkeypatch.delenv(name)


def authorized(
    url: str,
    offset: int,
    length: int,
    *,
    root: str = "",
    checksum: Checksum | None = None,
    store: StoreOptions = ENVIRONMENT,
) -> AuthorizedRange:
    """Authorize a virtual chunk at *url* below *root* (by default, the folder that it lies in)."""
    root = root or url.rpartition("/")[0]
    access = Access(
        parse_prefix("file:///nothing/here"),
        policies=[AccessPolicy(parse_prefix(root), store)],
        containers=[VirtualChunkContainer(root)],
    )
    return access.authorize(ChunkRef(ChunkKind.VIRTUAL, length, url, offset, checksum))


def whole(
    root: str, key: str, max_length: int = 10_000, *, store: StoreOptions = ENVIRONMENT
) -> AuthorizedRange:
    """Authorize a whole object of a repository at *root*."""
    return Access(parse_prefix(root), store).repository_object(key, max_length)


async def keys_of(fetcher: Fetcher, below: AuthorizedPrefix, *, deep: bool = True) -> list[str]:
    """Return the keys that a listing has, sorted, each as often as it is listed."""
    return sorted(listed.key for listed in await fetcher.objects(below, deep=deep))


class Basin:
    """A sink for *length* bytes. *versions* are those of the attempts, *counts* what came of each.

    *refusal* is raised when an attempt begins. Each count is compared with what is in the buffer.
    """

    def __init__(self, expected: bytes, refusal: SourceError | None = None) -> None:
        self.buffer = memoryview(bytearray(len(expected)))
        self.versions: list[str] = []
        self.counts: list[list[int]] = []
        self._expected = expected
        self._refusal = refusal

    def begin(self, version: str) -> memoryview:
        self.versions.append(version)
        self.counts.append([])
        if self._refusal is not None:
            raise self._refusal
        return self.buffer

    def came(self, count: int) -> None:
        assert self.buffer[:count] == self._expected[:count]
        self.counts[-1].append(count)


class World(abc.ABC):
    """A fetcher, and the objects that it can read below *root* (a URL)."""

    root: str
    fetcher: Fetcher
    store: StoreOptions = ENVIRONMENT
    lists: ClassVar[bool] = True

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object, or replace it by another version."""

    @abc.abstractmethod
    def etag(self, key: str) -> str:
        """Return the etag that a repository would record, as the store says it."""

    @abc.abstractmethod
    def modified(self, key: str) -> int:
        """Return when the object was modified, in seconds since the Unix epoch."""

    def url(self, key: str) -> str:
        return str(parse_prefix(self.root).join(key))

    def part(
        self, key: str, offset: int, length: int, checksum: Checksum | None = None
    ) -> AuthorizedRange:
        return authorized(
            self.url(key), offset, length, root=self.root, checksum=checksum, store=self.store
        )

    def whole(self, key: str, max_length: int = 10_000) -> AuthorizedRange:
        return whole(self.root, key, max_length, store=self.store)

    def below(self, key: str) -> AuthorizedPrefix:
        return Access(parse_prefix(self.root), self.store).repository_prefix(key)

    async def keys(self, key: str, *, deep: bool = True) -> list[str]:
        """Return the keys below *key*, as `keys_of` does."""
        return await keys_of(self.fetcher, self.below(key), deep=deep)

    async def refusal(self, wanted: AuthorizedRange, pinned: str | None = None) -> SourceError:
        """Return the error that a fetch of *wanted* ends in."""
        with pytest.raises(SourceError) as caught:
            await self.fetcher.fetch(wanted, pinned)
        return caught.value


class FetcherSuite:
    """The conformance tests."""

    async def test_range(self, world: World) -> None:
        """A range gives exactly its bytes, from a first, a middle and a last byte on."""
        world.put("a/object", DATA)
        for offset, length in ((0, 1), (100, 300), (len(DATA) - 5, 5), (0, len(DATA))):
            fetched = await world.fetcher.fetch(world.part("a/object", offset, length))
            assert fetched.data == DATA[offset : offset + length]
            assert memoryview(fetched.data).readonly

    @pytest.mark.parametrize(("offset", "length"), [(1, 1), (5, 1000), (3, 300_000), (7, 0)])
    async def test_a_range_into_a_sink(self, world: World, offset: int, length: int) -> None:
        """The bytes of a range go into the sink's buffer, which is told the version first and counts that grow."""
        data = DATA * 300
        world.put("object", data)
        basin = Basin(data[offset : offset + length])
        fetched = await world.fetcher.fetch(world.part("object", offset, length), sink=basin)
        assert fetched.data is basin.buffer
        assert basin.buffer == data[offset : offset + length]
        assert basin.versions == [fetched.version]
        assert basin.counts[0] == sorted(set(basin.counts[0]))
        assert basin.counts[0][-1] == length

    async def test_a_sink_gets_what_a_fetch_gives(self, world: World) -> None:
        """With and without a sink, and ahead of anybody's asking, a fetch gives the same bytes and version."""
        data = DATA * 300
        world.put("object", data)
        wanted = world.part("object", 9, 290_000, ETag(world.etag("object")))
        plain = await world.fetcher.fetch(wanted, urgency=Urgency.AHEAD)
        poured = await world.fetcher.fetch(
            wanted, plain.version, sink=Basin(data[9:290_009]), urgency=Urgency.AHEAD
        )
        assert plain == poured
        assert memoryview(plain.data).readonly

    async def test_a_sink_that_refuses_a_version_ends_the_fetch(self, world: World) -> None:
        """What the sink raises when told the version is the outcome; nothing is tried again."""
        world.put("object", DATA)
        refusal = SourceError(ErrorKind.SOURCE_CHANGED, "not this one")
        basin = Basin(DATA, refusal)
        before = world.fetcher.statistics()
        with pytest.raises(SourceError) as caught:
            await world.fetcher.fetch(world.part("object", 0, len(DATA)), sink=basin)
        assert caught.value is refusal
        assert len(basin.versions) == 1
        after = world.fetcher.statistics()
        assert (after.gets - before.gets, after.retries) == (1, before.retries)
        assert basin.counts == [[]]

    async def test_a_sink_sees_nothing_of_another_version(self, world: World) -> None:
        """For an object that is missing, too short or not of the version named, no sink is begun."""
        world.put("object", DATA)
        basin = Basin(DATA[:4])
        for wanted, pinned in (
            (world.part("missing", 0, 4), None),
            (world.part("object", len(DATA) - 2, 4), None),
            (world.part("object", 0, 4, ETag('"another"')), None),
            (world.part("object", 0, 4, LastModified(5)), None),
            (world.part("object", 0, 4), '"another"'),
        ):
            with pytest.raises(SourceError):
                await world.fetcher.fetch(wanted, pinned, sink=basin)
        assert basin.versions == []

    async def test_a_sink_of_another_size(self, world: World) -> None:
        """A sink whose buffer is not exactly as long as the range is a mistake, and no byte goes into it."""
        world.put("object", DATA)
        for length in (3, 5):
            basin = Basin(DATA[:length])
            with pytest.raises(ValueError, match="sink"):
                await world.fetcher.fetch(world.part("object", 0, 4), sink=basin)
            assert not any(basin.buffer)
        with pytest.raises(ValueError, match="sink"):
            await world.fetcher.fetch(world.whole("object"), sink=Basin(DATA))

    async def test_pace(self, world: World) -> None:
        """A host has a pace before anything was fetched, and after."""
        world.put("object", DATA * 300)
        for _ in range(2):
            latency, bandwidth = world.fetcher.pace(world.part("object", 0, 1))
            assert 0 < latency < 10
            assert 0 < bandwidth < 1e13
            await world.fetcher.fetch(world.part("object", 0, 300_000))

    async def test_whole(self, world: World) -> None:
        """A whole object comes whole, an empty one as no bytes."""
        world.put("repo", DATA)
        world.put("empty", b"")
        assert (await world.fetcher.fetch(world.whole("repo", len(DATA)))).data == DATA
        assert (await world.fetcher.fetch(world.whole("empty"))).data == b""

    async def test_whole_is_bounded(self, world: World) -> None:
        """A whole object of more bytes than were allowed is refused."""
        world.put("repo", DATA)
        error = await world.refusal(world.whole("repo", len(DATA) - 1))
        assert error.kind is ErrorKind.SOURCE_MISMATCH

    async def test_no_bytes(self, world: World) -> None:
        """A range of no bytes gives none, and still the version."""
        world.put("object", DATA)
        fetched = await world.fetcher.fetch(world.part("object", 7, 0))
        assert fetched == Fetched(b"", await world.fetcher.version(world.part("object", 0, 1)))

    @pytest.mark.parametrize("offset", [len(DATA) - 1, len(DATA), 10 * len(DATA)])
    async def test_past_the_end(self, world: World, offset: int) -> None:
        """A range that the object does not have is an error, not fewer bytes."""
        world.put("object", DATA)
        error = await world.refusal(world.part("object", offset, 2))
        assert error.kind is ErrorKind.SOURCE_MISMATCH

    @pytest.mark.parametrize(("offset", "length"), [(0, 2**40), (2**63 - 1, 10), (2**64, 1)])
    async def test_hostile_ranges(self, world: World, offset: int, length: int) -> None:
        """A range that no machine can hold or no client can ask for is refused before any request."""
        world.put("object", DATA)
        error = await world.refusal(world.part("object", offset, length))
        assert error.kind is ErrorKind.SOURCE_MISMATCH

    async def test_missing(self, world: World) -> None:
        """An object that is not there has vanished, for a part, the whole and its version."""
        world.put("other", DATA)
        for wanted in (world.part("object", 0, 1), world.whole("object")):
            error = await world.refusal(wanted)
            assert error.kind is ErrorKind.SOURCE_VANISHED
            assert error.where == world.url("object")
            with pytest.raises(SourceError) as caught:
                await world.fetcher.version(wanted)
            assert caught.value.kind is ErrorKind.SOURCE_VANISHED

    async def test_etag(self, world: World) -> None:
        """An object with the recorded etag is read, however the etag is quoted."""
        world.put("object", DATA)
        bare = ETag(world.etag("object")).opaque
        for value in (bare, f'"{bare}"', f'W/"{bare}"'):
            wanted = world.part("object", 3, 4, ETag(value))
            fetched = await world.fetcher.fetch(wanted)
            assert fetched.data == DATA[3:7]
            assert await world.fetcher.version(wanted) == fetched.version

    @pytest.mark.parametrize(
        "value", ['"another"', "another", 'W/"another"', "", "*", '"a\r\nX-Bad: 1"', "é" * 2000]
    )
    async def test_another_etag(self, world: World, value: str) -> None:
        """An object with another etag has changed: no byte of it is given, nor its version."""
        world.put("object", DATA)
        wanted = world.part("object", 3, 4, ETag(value))
        assert (await world.refusal(wanted)).kind is ErrorKind.SOURCE_CHANGED
        with pytest.raises(SourceError) as caught:
            await world.fetcher.version(wanted)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED

    async def test_changed_says_how(self, world: World) -> None:
        """The error for a changed object names the etag expected and the one found, and advises."""
        world.put("object", DATA)
        error = await world.refusal(world.part("object", 0, 1, ETag("another")))
        assert "another" in error.what
        assert ETag(world.etag("object")).opaque in error.what
        assert error.advice

    async def test_last_modified(self, world: World) -> None:
        """An object not modified after the recorded second is read; one that was has changed."""
        world.put("object", DATA)
        at = world.modified("object")
        for seconds in (at, at + 1, 2**60):
            wanted = world.part("object", 0, 2, LastModified(seconds))
            assert (await world.fetcher.fetch(wanted)).data == DATA[:2]
            assert await world.fetcher.version(wanted)
        for seconds in (at - 1, 0, -5):
            wanted = world.part("object", 0, 2, LastModified(seconds))
            assert (await world.refusal(wanted)).kind is ErrorKind.SOURCE_CHANGED

    async def test_version(self, world: World) -> None:
        """The version is the same for every part, for the whole and without bytes."""
        world.put("object", DATA)
        versions = {
            (await world.fetcher.fetch(world.part("object", 0, 1))).version,
            (await world.fetcher.fetch(world.part("object", 9, 9))).version,
            (await world.fetcher.fetch(world.whole("object"))).version,
            await world.fetcher.version(world.part("object", 0, 1)),
        }
        assert len(versions) == 1
        assert versions != {""}

    async def test_pinned(self, world: World) -> None:
        """A fetch that is pinned to a version fails when the object was replaced."""
        world.put("object", DATA)
        part = world.part("object", 0, 4)
        pinned = (await world.fetcher.fetch(part)).version
        assert (await world.fetcher.fetch(part, pinned)).data == DATA[:4]
        world.put("object", DATA[::-1] + b"!")
        assert (await world.refusal(part, pinned)).kind is ErrorKind.SOURCE_CHANGED
        assert (await world.fetcher.fetch(part)).version != pinned

    @pytest.mark.parametrize(
        "key",
        [
            "a b",
            "a%20b",
            "a+b",
            "a#b?c=d",
            "ä/ö/\U0001f600",
            "a\\b",
            "x:y@z=1&2,3;$",
            "%2e%2e/a",
            "~",
        ],
    )
    async def test_keys_are_verbatim(self, world: World, key: str) -> None:
        """A key is asked for exactly as it is, whatever characters it has."""
        world.put("a/b", b"decoy")
        world.put(key, DATA)
        assert (await world.fetcher.fetch(world.part(key, 1, 3))).data == DATA[1:4]
        assert (await world.fetcher.fetch(world.whole(key))).data == DATA

    @pytest.mark.parametrize("key", ["a//b", "a/../b", "../b", "a/./b", "b/", "a\nb", "a/b\x7f"])
    async def test_keys_that_clients_alter(self, world: World, key: str) -> None:
        """A key that a client would normalize is refused, not altered."""
        world.put("a/b", DATA)
        world.put("b", DATA)
        error = await world.refusal(world.whole(key))
        assert error.kind is ErrorKind.BAD_LOCATION

    async def test_list(self, world: World) -> None:
        """A listing has every key below the prefix, at every depth, relative to it, and no other."""
        if not world.lists:
            for deep in (True, False):
                with pytest.raises(SourceError) as caught:
                    await world.fetcher.objects(world.below("refs"), deep=deep)
                assert caught.value.kind is ErrorKind.CANNOT_LIST
            return
        for key in ("refs/branch.main/ref.json", "refs/tag.a b/ref.json", "refs/x", "refs2/y"):
            world.put(key, DATA)
        assert await world.keys("refs") == ["branch.main/ref.json", "tag.a b/ref.json", "x"]
        assert "refs2/y" in await world.keys("")
        assert await world.keys("no/such") == []

    async def test_level(self, world: World) -> None:
        """Of one level a listing has the objects right below the prefix, and each folder once, with a slash."""
        if not world.lists:
            pytest.skip("HTTP has no listings")
        for key in ("top/a b/x", "top/a b/y/z", "top/a", "top/c+ä/x", "topper/d", "e"):
            world.put(key, DATA)
        assert await world.keys("top", deep=False) == ["a", "a b/", "c+ä/"]
        assert {"top/", "topper/", "e"} <= set(await world.keys("", deep=False))
        assert await world.keys("top/c+ä", deep=False) == ["x"]
        assert await world.keys("no/such", deep=False) == []

    @pytest.mark.parametrize("deep", [True, False])
    async def test_listings_tell_lengths_and_versions(self, world: World, deep: bool) -> None:
        """A listed object has its length, and a version under which it is read until it is replaced."""
        if not world.lists:
            pytest.skip("HTTP has no listings")
        for length in (0, 7, 300):
            world.put(f"objects/o{length}", DATA[:length])
        found = await world.fetcher.objects(world.below("objects"), deep=deep)
        assert sorted((o.key, o.length) for o in found) == [("o0", 0), ("o300", 300), ("o7", 7)]
        for listed in found:
            checksum = listed.checksum
            assert isinstance(checksum, ETag)
            assert checksum.opaque == ETag(world.etag(f"objects/{listed.key}")).opaque
            wanted = world.part(f"objects/{listed.key}", 0, listed.length, checksum)
            assert (await world.fetcher.fetch(wanted)).data == DATA[: listed.length]
            world.put(f"objects/{listed.key}", DATA[1 : listed.length + 1] or b"x")
            assert (await world.refusal(wanted)).kind is ErrorKind.SOURCE_CHANGED

    async def test_stat(self, world: World) -> None:
        """An object has its length and version by one HEAD, whatever part of it is wanted."""
        for key, length in (("empty", 0), ("folder/a+b c%20ä", 1000)):
            world.put(key, DATA[:length])
            for wanted in (world.whole(key, 0), world.part(key, 10**6, 9)):
                before = world.fetcher.statistics()
                found = await world.fetcher.stat(wanted)
                after = world.fetcher.statistics()
                assert found.length == length
                assert isinstance(found.checksum, ETag)
                assert found.checksum.opaque == ETag(world.etag(key)).opaque
                assert found.modified == world.modified(key)
                assert (after.gets - before.gets, after.heads - before.heads) == (0, 1)

    async def test_stat_of_what_is_not_there(self, world: World) -> None:
        """An object that is missing has vanished; one of another version than is named has changed."""
        world.put("object", DATA)
        for wanted, kind in (
            (world.whole("no-such"), ErrorKind.SOURCE_VANISHED),
            (world.part("object", 0, 1, ETag('"another"')), ErrorKind.SOURCE_CHANGED),
            (world.whole("a//b"), ErrorKind.BAD_LOCATION),
        ):
            errors = world.fetcher.statistics().errors
            with pytest.raises(SourceError) as caught:
                await world.fetcher.stat(wanted)
            assert caught.value.kind is kind
            assert world.fetcher.statistics().errors == errors + 1

    async def test_long_listing(self, world: World) -> None:
        """A listing of more keys than a page has is whole."""
        if not world.lists:
            pytest.skip("HTTP has no listings")
        keys = [f"k{i:04}" for i in range(1205)]
        for key in keys:
            world.put(f"many/{key}", b"")
        assert await world.keys("many") == keys
        assert await world.keys("many", deep=False) == keys
        assert await world.keys("", deep=False) == ["many/"]

    async def test_one_request(self, world: World) -> None:
        """A fetch costs one GET and no HEAD, with a checksum too; a version costs one HEAD."""
        world.put("object", DATA)
        checksum = ETag(world.etag("object"))
        before = world.fetcher.statistics()
        await world.fetcher.fetch(world.part("object", 0, 10, checksum))
        await world.fetcher.version(world.part("object", 0, 10, checksum))
        after = world.fetcher.statistics()
        assert (after.gets - before.gets, after.heads - before.heads) == (1, 1)
        assert after.bytes_read - before.bytes_read == 10
        assert (after.retries, after.errors) == (before.retries, before.errors)

    async def test_errors_are_counted(self, world: World) -> None:
        """A failed fetch counts as an error."""
        before = world.fetcher.statistics().errors
        await world.refusal(world.whole("no-such-object"))
        assert world.fetcher.statistics().errors == before + 1

    async def test_many_at_once(self, world: World) -> None:
        """Fetches at the same time each get their own bytes."""
        world.put("object", DATA)
        results: dict[int, bytes] = {}

        async def fetch(offset: int) -> None:
            results[offset] = (await world.fetcher.fetch(world.part("object", offset, 8))).data

        async with trio.open_nursery() as nursery:
            for offset in range(40):
                nursery.start_soon(fetch, offset)
        assert results == {offset: DATA[offset : offset + 8] for offset in range(40)}
