"""Lengths and versions of whole objects: how they are learnt, by how few requests, and what is made of what is not there."""

import pytest
import trio

from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy, AuthorizedRange
from vzfs.chunks.pins import fixed_version
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified, parse_location, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.repository import lengths as module
from vzfs.repository.lengths import AT_ONCE, LIST_FROM, NEVER, Lengths, ask_each, whole_object
from vzfs.source import Stat

ROOT = "s3://b/data"


def make(source: FakeSource, *roots: str) -> Lengths:
    policies = [AccessPolicy(parse_prefix(root)) for root in roots or [ROOT]]
    access = Access(parse_prefix("s3://b/references"), policies=policies).with_containers(None)
    return Lengths(source, access)


def stat(source: FakeSource, url: str) -> Stat:
    seen = source.seen(url)
    return Stat(seen.size, ETag(seen.etag), seen.modified)


def listed(source: FakeSource, urls: list[str]) -> dict[str, Stat]:
    """Return what a listing says of objects, which does not tell when they were modified."""
    return {url: stat(source, url)._replace(modified=None) for url in urls}


@pytest.fixture
def source() -> FakeSource:
    """Give a source of a folder of many objects, and one of few."""
    source = FakeSource()
    for i in range(LIST_FROM):
        source.put(f"{ROOT}/many/{i}", bytes(i))
    for i in range(3):
        source.put(f"{ROOT}/few/{i}", bytes(i))
    return source


async def test_many_objects_of_a_folder_cost_one_listing(source: FakeSource) -> None:
    """Of a folder in which many objects are wanted one listing is asked for, of others each object; once."""
    lengths = make(source)
    many = [f"{ROOT}/many/{i}" for i in range(LIST_FROM)]
    few = [f"{ROOT}/few/{i}" for i in range(3)]
    for _ in range(2):
        found = await lengths.find([*many, *few])
        assert found == listed(source, many) | {url: stat(source, url) for url in few}
        counts = source.statistics()
        assert (counts.lists, counts.heads, counts.gets) == (1, 3, 0)
    assert await lengths.find([few[1]]) == {few[1]: stat(source, few[1])}
    assert source.statistics().heads == 3


async def test_where_nothing_is_listed_each_object_is_asked_for(source: FakeSource) -> None:
    """A folder that cannot be listed, by its kind or by this user, costs one HEAD for each object, so many at a time."""
    web = "https://host.example/data"
    for i in range(LIST_FROM):
        source.put(f"{web}/{i}", bytes(i))
    source.fail(f"{ROOT}/many/", ErrorKind.SOURCE_DENIED)
    source.seconds = 0.001
    for place in (web, f"{ROOT}/many"):
        urls = [f"{place}/{i}" for i in range(LIST_FROM)]
        before = source.statistics().heads
        assert await make(source, ROOT, web).find(urls) == {u: stat(source, u) for u in urls}
        assert source.statistics().heads - before == LIST_FROM
    assert source.most_in_flight == AT_ONCE


async def test_what_is_not_there_is_known_not_to_be(source: FakeSource) -> None:
    """An object that is missing, denied, or that nobody allowed is none, by a listing or asked for."""
    source.put("s3://b/other/x", b"x")
    source.fail(f"{ROOT}/few/1", ErrorKind.SOURCE_DENIED)
    gone = [f"{ROOT}/few/1", f"{ROOT}/few/none", f"{ROOT}/many/none", "s3://b/other/x", "no url"]
    there = [f"{ROOT}/many/{i}" for i in range(LIST_FROM)]
    found = await make(source).find([*gone, *there])
    assert [url for url, stat in found.items() if stat is None] == gone
    assert not any("other" in url for url in source.asked)


@pytest.mark.parametrize("kind", [ErrorKind.SOURCE_UNREACHABLE, ErrorKind.SOURCE_TIMEOUT])
async def test_a_store_that_does_not_answer_tells_nothing(
    source: FakeSource, kind: ErrorKind
) -> None:
    """Where an object or a listing is out of reach, that is the error, and it is asked for again the next time."""
    lengths = make(source)
    many = [f"{ROOT}/many/{i}" for i in range(LIST_FROM)]
    for failing, wanted in ((f"{ROOT}/few/1", [f"{ROOT}/few/1"]), (f"{ROOT}/many/", many)):
        source.fail(failing, kind)
        with pytest.raises(SourceError) as caught:
            await lengths.find(wanted)
        assert caught.value.kind is kind
        found = await lengths.find(wanted)
        assert [o[:2] for o in found.values()] == [stat(source, url)[:2] for url in wanted]


async def test_a_folder_is_listed_by_the_leave_of_its_objects(source: FakeSource) -> None:
    """A folder around what is allowed is not listed, and objects allowed otherwise are asked for."""
    source.put(f"{ROOT}/top", b"12")
    urls = [f"{ROOT}/many/{i}" for i in range(LIST_FROM)]
    found = await make(source, *urls, f"{ROOT}/top").find([*urls, f"{ROOT}/top"])
    assert found == {url: stat(source, url) for url in [*urls, f"{ROOT}/top"]}
    assert source.statistics().lists == 0


async def test_what_is_kept_is_bounded(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no more objects than a bound lengths are kept; beyond it they are asked for again."""
    monkeypatch.setattr(module, "MAX_KNOWN", 2)
    lengths = make(source)
    for urls in ([0, 1], [0, 1], [2], [0, 1]):
        await lengths.find([f"{ROOT}/few/{i}" for i in urls])
    assert source.asked == [f"{ROOT}/few/{i}" for i in (0, 1, 2, 0, 1)]


def test_the_ref_of_a_whole_object() -> None:
    """A chunk is its object, in the version found; one that was not found is of a version that no object has."""
    location = f"{ROOT}/few/1"
    found = whole_object(ChunkKind.VIRTUAL, location, Stat(7, ETag("x")), 100)
    assert (found.offset, found.length, found.checksum) == (0, 7, ETag("x"))
    missing = whole_object(ChunkKind.VIRTUAL, location, None, 100)
    assert (missing.length, missing.checksum) == (100, NEVER)
    assert parse_location(missing.location) == parse_location(location)


async def test_an_object_that_comes_later_is_not_read(source: FakeSource) -> None:
    """What is put where nothing was does not become the chunk, whatever its length is."""
    location = f"{ROOT}/few/later"
    lengths = make(source)
    ref = whole_object(ChunkKind.VIRTUAL, location, (await lengths.find([location]))[location], 3)
    source.put(location, b"abc")
    access = Access(parse_prefix("s3://b/r"), policies=[AccessPolicy(parse_prefix(ROOT))])
    with pytest.raises(SourceError) as caught:
        await source.fetch(access.with_containers(None).authorize(ref))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert LastModified(0) == NEVER


async def test_the_first_failure_ends_what_is_asked() -> None:
    """Once one question has failed, no other is asked, and those under way are given up."""
    asked: list[int] = []

    async def ask(number: int) -> AuthorizedRange:
        asked.append(number)
        if number == 5:
            raise SourceError(ErrorKind.SOURCE_UNREACHABLE, "away")
        await trio.sleep_forever()

    with pytest.raises(SourceError):
        await ask_each(range(1000), ask, 10)
    assert len(asked) <= 10


@pytest.mark.parametrize(
    ("checksum", "version"),
    [
        (None, "native"),
        (ETag('"a"'), "etag a"),
        (ETag('W/"a"'), None),
        (LastModified(7), None),
    ],
)
def test_which_refs_of_a_repository_fix_a_version(
    checksum: Checksum | None, version: str | None
) -> None:
    """A ref into a repository that names a date, or a weak tag, is of whatever version was seen with it, and not of one for ever."""
    ref = ChunkRef(ChunkKind.NATIVE, 1, "c/0", 0, checksum)
    wanted = Access(parse_prefix("s3://b/x")).authorize(ref)
    assert fixed_version(wanted, ChunkKind.NATIVE) == version
