"""What the engine refuses by itself, whatever a dialect or a server says."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conformance import authorized, keys_of, whole
from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy, AuthorizedPrefix, AuthorizedRange, StoreOptions
from vzfs.cache import DiskCache, MemoryCache
from vzfs.chunks import Chunks, read_alike
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import (
    ETag,
    LastModified,
    Location,
    Prefix,
    parse_location,
    parse_prefix,
)
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer
from vzfs.repository.storage import NoSource, Remembered, Storage
from vzfs.source import Fetched, Listed, Places, Source, Timing
from vzfs.source import source as source_module
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Request, Trouble
from vzfs.source.credentials import Keyring
from vzfs.source.dialect import Page
from vzfs.source.egress import Egress
from vzfs.source.fetcher import MAX_FETCH
from vzfs.source.hedge import Race, Racer
from vzfs.source.hosts import LONGEST_PAUSE, SILENT_LIMIT
from vzfs.source.http import Http
from vzfs.source.redirect import MAX_TARGET, follow
from vzfs.source.remote import MAX_OFFSET, Remote
from vzfs.source.wire import Tally, Transient

ROOT = "s3://bucket/data"
URL = f"{ROOT}/object"
TAG = {"etag": '"one"'}


class Reply:
    """A reply as the client gives it: its body is *body*, its announced length *length*."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str] = TAG,
        body: bytes = b"",
        length: int | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self.received = 0
        self.came_along = 0
        self.waited = 0.0
        self.is_all_there = False
        self._body = body

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def read(self, limit: int) -> bytes:
        assert len(self._body) <= limit
        self.received = len(self._body)
        return self._body

    async def read_into(self, buffer: memoryview, came: Callable[[int], None]) -> None:
        self.received = len(self._body)
        if len(self._body) != len(buffer):
            raise Trouble(ErrorKind.SOURCE_MISMATCH, "another length", passes=True)
        buffer[:] = self._body
        came(len(buffer))

    async def discard(self) -> None:
        await trio.lowlevel.checkpoint()


class Script:
    """A client and a dialect: requests get *replies* in turn, the last one for ever."""

    def __init__(self, *replies: Reply | Trouble, pages: tuple[Page, ...] = ()) -> None:
        self.requests: list[Request] = []
        self._replies = list(replies)
        self._pages = list(pages)

    async def send(self, request: Request, reach: Reach) -> Reply:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Trouble):
            raise reply
        reply.request = request
        return reply

    async def request(
        self, method: str, place: Location, store: StoreOptions, headers: Mapping[str, str]
    ) -> Request:
        return Request(method, "https", "store.example", f"/{place.key}", headers)

    async def listing(
        self, below: Prefix, store: StoreOptions, after: str, *, deep: bool = True
    ) -> Request:
        return Request("GET", "https", "store.example", f"/?after={after}", {})

    def page(self, below: Prefix, body: bytes) -> Page:
        return self._pages.pop(0) if len(self._pages) > 1 else self._pages[0]

    def reach(self, root: Prefix, store: StoreOptions) -> Reach:
        return reach_of((), ())

    def refused(self, *_: object) -> None:
        return None

    def learn(self, *_: object) -> bool:
        return True

    def forget(self, store: StoreOptions) -> bool:
        return True


def page(*keys: str, after: str = "") -> Page:
    """Make a page of empty objects."""
    return Page([Listed(key) for key in keys], after)


def engine(script: Script, limit: int | None = None) -> Remote:
    return Remote(script, {"s3": script}, Tally(), Egress(limit))


def part(first: int, last: int, total: str, body: bytes, length: int | None) -> Reply:
    """Make the reply to a request for a range; without *length* it comes in chunks."""
    headers = {**TAG, "content-range": f"bytes {first}-{last}/{total}"}
    if length is None:
        headers["transfer-encoding"] = "chunked"
    return Reply(206, headers, body, length)


async def test_a_version_of_an_object_that_is_too_short_is_a_mismatch() -> None:
    """Asking for the version of an object that ends before the range says so, without reading it."""
    wanted = authorized(URL, 10, 20)
    with pytest.raises(SourceError) as caught:
        await engine(Script(Reply(200, length=29))).version(wanted)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert await engine(Script(Reply(200, length=30))).version(wanted) == '"one"'


@pytest.mark.parametrize("body", [b"", b"x" * 19])
async def test_a_range_that_comes_in_chunks_has_its_length(body: bytes) -> None:
    """A range whose body comes in chunks, and ends before it is whole, is never served, and asked for again."""
    with pytest.raises(Transient) as caught:
        await engine(Script(part(10, 29, "100", body, None))).fetch(authorized(URL, 10, 20), None)
    assert caught.value.error.kind is ErrorKind.SOURCE_MISMATCH


async def test_an_empty_range_is_of_the_pinned_version() -> None:
    """An empty range of an object that is another version than the pinned one is a change."""
    wanted = authorized(URL, 10, 0)
    script = Script(Reply(200, length=100))
    assert (await engine(script).fetch(wanted, '"one"')).data == b""
    assert [request.method for request in script.requests] == ["HEAD"]
    with pytest.raises(SourceError) as caught:
        await engine(script).fetch(wanted, '"other"')
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


@pytest.mark.parametrize("status", [301, 400, 401, 403])
async def test_credentials_and_regions_are_renewed_once(status: int) -> None:
    """A refusal that a dialect hopes to mend is met with one more request and no third."""
    script = Script(Reply(status, {}))
    with pytest.raises(SourceError):
        await engine(script).fetch(authorized(URL, 0, 10), None)
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("offset", "length"), [(0, MAX_FETCH + 1), (MAX_OFFSET, 1), (-1, 10), (10, -1)]
)
async def test_ranges_that_nobody_can_serve_are_not_asked_for(offset: int, length: int) -> None:
    """A range that is negative, too long for one fetch or beyond all offsets costs no request."""
    script = Script(Reply(200))
    for ask in (lambda r, w: r.fetch(w, None), lambda r, w: r.version(w)):
        with pytest.raises(SourceError) as caught:
            await ask(engine(script), authorized(URL, offset, length))
        assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert script.requests == []


async def test_a_reply_without_a_length_is_not_read() -> None:
    """A body that ends with its connection could be cut off unseen, and is refused."""
    reply = Reply(206, {**TAG, "content-range": "bytes 0-9/10"}, bytes(10))
    for wanted, said in (
        (authorized(URL, 0, 10), reply),
        (whole(ROOT, "object"), Reply(200, body=b"x")),
    ):
        with pytest.raises(SourceError) as caught:
            await engine(Script(said)).fetch(wanted, None)
        assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
        assert said.received == 0


async def test_a_part_is_not_a_whole_object() -> None:
    """A 206 that answers a request for a whole object is refused, even if it seems to be all of it."""
    with pytest.raises(SourceError) as caught:
        await engine(Script(part(0, 9, "10", bytes(10), 10))).fetch(whole(ROOT, "object"), None)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH


@pytest.mark.parametrize(
    ("kind", "is_silent"),
    [(ErrorKind.SOURCE_UNREACHABLE, True), (ErrorKind.SOURCE_MISMATCH, False)],
)
async def test_only_who_is_not_reached_is_silent(kind: ErrorKind, is_silent: bool) -> None:
    """A lost connection counts as silence of the host, and a reply that is cut off does not."""
    script = Script(Trouble(kind, "what", passes=True))
    with pytest.raises(Transient) as caught:
        await engine(script).fetch(authorized(URL, 0, 10), None)
    assert caught.value.is_silent is is_silent


async def test_what_came_is_spent() -> None:
    """Bytes of ranges and of whole objects count against the limit of bytes to fetch, once they have come."""
    for wanted, reply in (
        (authorized(URL, 0, 20), lambda: part(0, 19, "20", bytes(20), 20)),
        (whole(ROOT, "object"), lambda: Reply(200, body=bytes(20), length=20)),
    ):
        reader = engine(Script(reply()), limit=20)
        assert len((await reader.fetch(wanted, None)).data) == 20
        with pytest.raises(SourceError) as caught:
            await reader.fetch(wanted, None)
        assert caught.value.kind is ErrorKind.EGRESS_SPENT


# -- listings ----------------------------------------------------------------------------------


def below(key: str = "data") -> AuthorizedPrefix:
    return Access(parse_prefix("s3://bucket")).repository_prefix(key)


async def refused_listing(
    script: Script, prefix: AuthorizedPrefix, limit: int | None = None
) -> ErrorKind:
    with trio.fail_after(5), pytest.raises(SourceError) as caught:
        await reader(script, limit).objects(prefix)
    return caught.value.kind


def reader(script: Script, limit: int | None = None) -> Source:
    """Make a source whose every server is the script."""
    source = Source(Timing(), places=Places(1))
    source._remote = engine(script, limit)
    return source


async def test_listings_are_spent() -> None:
    """Bytes of listings count against the limit of bytes to fetch."""
    script = Script(Reply(200, body=bytes(20)), pages=(page("data/a"),))
    source = reader(script, limit=20)
    assert await keys_of(source, below()) == ["a"]
    with pytest.raises(SourceError) as caught:
        await source.objects(below())
    assert caught.value.kind is ErrorKind.EGRESS_SPENT


async def test_names_from_elsewhere_are_left_out() -> None:
    """Keys that are not below the prefix that was asked for are no names, whatever a store lists."""
    keys = [
        "data/a",
        "database/b",
        "secret/data/c",
        "data",
        "data/",
        "data/d/e",
        "data/f/",
        "data//g",
    ]
    script = Script(Reply(200), pages=(page(*keys),))
    assert await keys_of(reader(script), below()) == ["/g", "a", "d/e"]
    assert await keys_of(reader(script), below(), deep=False) == ["a", "d/", "f/"]


async def test_a_listing_that_goes_in_circles_ends() -> None:
    """A page that leads to itself is a mismatch."""
    script = Script(Reply(200), pages=(page("data/a", after="again"),))
    assert await refused_listing(script, below()) is ErrorKind.SOURCE_MISMATCH
    assert len(script.requests) == 2


@pytest.mark.parametrize("keys", [["data/a"], []])
async def test_a_listing_without_news_ends(
    monkeypatch: pytest.MonkeyPatch, keys: list[str]
) -> None:
    """Pages that lead to each other, or are empty, are given up after a bounded number."""
    monkeypatch.setattr(source_module, "MAX_LISTED", 1000)
    pages = [page(*keys, after=str(i % 2)) for i in range(100)]
    script = Script(Reply(200), pages=tuple(pages))
    assert await refused_listing(script, below()) is ErrorKind.CANNOT_LIST
    assert len(script.requests) == 1000 // source_module.LEAST_PAGE + 1


async def test_a_page_that_fails_is_asked_for_again_alone() -> None:
    """A failure that may pass costs a listing the page that failed, and none of those before."""
    pages = [page(f"data/{i}", after=str(i + 1) if i < 4 else "") for i in range(5)]
    replies = [Reply(200), Reply(200), Reply(503, {}), Reply(200)]
    script = Script(*replies, pages=tuple(pages))
    source = Source(Timing(backoff=0.001), places=Places(1))
    source._remote = engine(script)
    assert await keys_of(source, below()) == ["0", "1", "2", "3", "4"]
    assert [request.target for request in script.requests] == [
        f"/?after={after}" for after in ("", "1", "2", "2", "3", "4")
    ]


async def test_a_listing_that_changes_between_two_pages() -> None:
    """What a later page says of a key counts, and each key is listed once."""
    first = Page([Listed("data/a", 1), Listed("data/b", 2)], "next")
    second = Page([Listed("data/b", 3), Listed("data/c", 4)], "")
    found = await reader(Script(Reply(200), pages=(first, second))).objects(below())
    assert found == [Listed("a", 1), Listed("b", 3), Listed("c", 4)]


async def test_a_listing_has_a_bounded_number_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing with more names than anybody needs is given up, before the next page."""
    monkeypatch.setattr(source_module, "MAX_LISTED", 300)
    pages = [page(*(f"data/{i}/{j}" for j in range(200)), after=str(i)) for i in range(100)]
    script = Script(Reply(200), pages=tuple(pages))
    assert await refused_listing(script, below()) is ErrorKind.CANNOT_LIST
    assert len(script.requests) == 2


@pytest.mark.parametrize("key", ["data/../secret", "data//x", "./data", "data/\x01"])
async def test_a_prefix_that_could_be_altered_is_not_listed(key: str) -> None:
    """Names below a key that somebody on the way might alter are not asked for."""
    script = Script(Reply(200), pages=(page(),))
    assert await refused_listing(script, below(key)) is ErrorKind.BAD_LOCATION
    assert script.requests == []


async def test_a_listing_is_renewed_once() -> None:
    """A listing that is refused is asked for once more with new credentials, and not a third time."""
    script = Script(Reply(403, {}), pages=(Page([], ""),))
    assert await refused_listing(script, below()) is ErrorKind.SOURCE_DENIED
    assert len(script.requests) == 2


# -- replies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, body=bytes(11), length=11),
        Reply(200, body=bytes(9), length=9),
        part(0, 9, "9", bytes(10), 10),
        part(0, 9, "10", bytes(10), 11),
        part(0, 9, "10", bytes(9), 9),
        part(0, 8, "10", bytes(9), 9),
        part(1, 10, "11", bytes(10), 10),
    ],
)
async def test_a_reply_that_contradicts_the_range_is_not_read(reply: Reply) -> None:
    """A reply whose range, total or length is not that of the range asked for is refused by its head alone."""
    with pytest.raises(SourceError) as caught:
        await engine(Script(reply)).fetch(authorized(URL, 0, 10), None)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert reply.received == 0


async def test_a_whole_object_that_announces_too_much_is_not_read() -> None:
    """An object that says to be longer than it may be is refused before its body is read."""
    reply = Reply(200, body=bytes(11), length=11)
    with pytest.raises(SourceError) as caught:
        await engine(Script(reply)).fetch(whole(ROOT, "object", 10), None)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert reply.received == 0


@pytest.mark.parametrize("etag", ["", '"' + 1024 * "x" + '"'])
async def test_an_entity_tag_of_no_or_any_length_is_none(etag: str) -> None:
    """An empty entity tag, and one longer than any store's, name no version."""
    reply = Reply(206, {"etag": etag, "content-range": "bytes 0-9/10"}, bytes(10), 10)
    with pytest.raises(SourceError) as caught:
        await engine(Script(reply)).fetch(authorized(URL, 0, 10), None)
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert "ETag" in caught.value.what


# -- what caches know --------------------------------------------------------------------------


async def test_one_container_at_two_accounts_is_two_objects(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Chunks that were cached of a container in one account are not served for its namesake in another."""
    url = "az://data/object"
    source = FakeSource()
    source.put(url, bytes(100))
    for checksum in (LastModified(1_700_000_100), ETag(source.seen(url).etag)):
        source.fetched.clear()
        for account in ("one", "two", "one"):
            disk = DiskCache(tmp_path, max_bytes=2**30, limiter=trio.CapacityLimiter(4))
            policy = AccessPolicy(parse_prefix("az://data/"), StoreOptions(account=account))
            access = Access(
                parse_prefix("s3://repos/mine"),
                policies=[policy],
                containers=[VirtualChunkContainer("az://data/")],
            )
            chunks = Chunks(source, access, MemoryCache(2**20), disk)
            await nursery.start(disk.run)
            await nursery.start(chunks.run)
            await chunks.read(ChunkRef(ChunkKind.VIRTUAL, 100, url, 0, checksum), 0, 100)
            with trio.fail_after(5):
                await disk.written()
        assert len(source.fetched) == 2


async def test_a_policy_that_says_another_account_means_another_object(
    nursery: trio.Nursery,
) -> None:
    """Bytes that a mount holds of one account are not served once its policy names another."""
    url = "az://data/object"
    source = FakeSource()
    source.put(url, bytes(100))
    accesses = [
        Access(
            parse_prefix("s3://repos/mine"),
            policies=[AccessPolicy(parse_prefix("az://data/"), StoreOptions(account=account))],
            containers=[VirtualChunkContainer("az://data/")],
        )
        for account in ("one", "two")
    ]
    chunks = Chunks(source, accesses[0], MemoryCache(2**20), None)
    await nursery.start(chunks.run)
    ref = ChunkRef(ChunkKind.VIRTUAL, 100, url, 0, ETag(source.seen(url).etag))
    for access, fetches in ((accesses[0], 1), (accesses[1], 2), (accesses[0], 2)):
        chunks.adopt(access)
        await chunks.read(ref, 0, 100)
        assert len(source.fetched) == fetches
    assert not read_alike(ref, *accesses)


@pytest.mark.parametrize(
    "kind", [ErrorKind.SOURCE_DENIED, ErrorKind.SOURCE_MISMATCH, ErrorKind.SOURCE_VANISHED]
)
async def test_the_cache_is_no_answer_to_a_refusal(
    kind: ErrorKind, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that answers, if only to refuse, is not away: nothing is served from an earlier mount's cache."""
    url = "s3://bucket/data/object"
    source = FakeSource()
    source.put(url, bytes(100))
    access = Access(
        parse_prefix("s3://repos/mine"),
        policies=[AccessPolicy(parse_prefix(ROOT))],
        containers=[VirtualChunkContainer(ROOT)],
    )
    ref = ChunkRef(ChunkKind.VIRTUAL, 100, url, 0, None)

    async def mounted() -> Chunks:
        disk = DiskCache(tmp_path, max_bytes=2**30, limiter=trio.CapacityLimiter(4))
        chunks = Chunks(source, access, MemoryCache(2**20), disk)
        await nursery.start(disk.run)
        await nursery.start(chunks.run)
        return chunks

    first = await mounted()
    await first.read(ref, 0, 100)
    with trio.fail_after(5):
        await first._disk.written()

    async def version(wanted: object) -> str:
        await trio.lowlevel.checkpoint()
        raise SourceError(kind, "refused")

    monkeypatch.setattr(source, "version", version)
    with pytest.raises(SourceError) as caught:
        await (await mounted()).read(ref, 0, 100)
    assert caught.value.kind is kind


async def test_one_bucket_at_two_endpoints_is_two_repositories(tmp_path: Path) -> None:
    """What was remembered of a repository at one endpoint is not given offline for one at another."""
    root = parse_prefix("s3://bucket/repository")
    disk = DiskCache(tmp_path, max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    source = FakeSource()
    source.put(f"{root}repo", b"of one")

    def storage(fetcher: object, endpoint: str | None) -> Storage:
        remembered = Remembered(fetcher, disk, root, is_offline=isinstance(fetcher, NoSource))
        return Storage(remembered, Access(root, StoreOptions(endpoint=endpoint)))

    assert await storage(source, "https://one.example").get("repo", 100) == b"of one"
    assert await storage(source, "https://one.example").names("") == ["repo"]
    for endpoint in ("https://two.example", None):
        with pytest.raises(SourceError) as caught:
            await storage(NoSource(), endpoint).get("repo", 100)
        assert caught.value.kind is ErrorKind.OFFLINE
        with pytest.raises(SourceError):
            await storage(NoSource(), endpoint).names("")


# -- servers that are silent -------------------------------------------------------------------


class Outcomes:
    """A backend whose attempts end as told; *made* counts them."""

    def __init__(self) -> None:
        self.made = 0
        self.outcome: Exception | None = None

    async def fetch(
        self, wanted: object, pinned: str | None, sink: object, meter: object
    ) -> Fetched:
        self.made += 1
        await trio.lowlevel.checkpoint()
        if self.outcome is not None:
            raise self.outcome
        return Fetched(b"x", "1")


def passing(*, is_silent: bool, after: float = 0.0) -> Transient:
    error = SourceError(ErrorKind.SOURCE_UNREACHABLE, "what")
    return Transient(error, after, is_silent=is_silent)


def scripted(attempts: int = SILENT_LIMIT) -> tuple[Source, Outcomes]:
    source = Source(Timing(attempts=attempts, backoff=0.001), places=Places(8))
    outcomes = Outcomes()
    source._remote = outcomes
    return source, outcomes


async def kind_of(source: Source, wanted: AuthorizedRange) -> ErrorKind | None:
    try:
        await source.fetch(wanted)
    except SourceError as error:
        return error.kind
    return None


async def test_who_never_answers_is_left_alone(autojump_clock: object) -> None:
    """After a fetch whose attempts were all met with silence nobody is asked, and then one attempt is made in each pause."""
    source, outcomes = scripted()
    wanted = authorized(URL, 0, 1)
    outcomes.outcome = passing(is_silent=True)
    assert await kind_of(source, wanted) is ErrorKind.SOURCE_UNREACHABLE
    for made in (SILENT_LIMIT, SILENT_LIMIT + 1, SILENT_LIMIT + 2):
        assert outcomes.made == made
        assert await kind_of(source, wanted) is ErrorKind.OFFLINE
        assert outcomes.made == made
        await trio.sleep(LONGEST_PAUSE)
        assert await kind_of(source, wanted) is ErrorKind.SOURCE_UNREACHABLE
    await trio.sleep(LONGEST_PAUSE)
    outcomes.outcome = None
    assert await kind_of(source, wanted) is None
    assert await kind_of(source, wanted) is None


@pytest.mark.parametrize(
    "answer",
    [
        passing(is_silent=False),
        SourceError(ErrorKind.SOURCE_VANISHED, "what"),
        SourceError(ErrorKind.SOURCE_DENIED, "what"),
        None,
    ],
)
async def test_any_answer_between_silences_counts(
    answer: Exception | None, autojump_clock: object
) -> None:
    """A host that answers, if only with an error, is there, however often it is silent otherwise."""
    source, outcomes = scripted(attempts=1)
    for _ in range(3 * SILENT_LIMIT):
        for outcome in (passing(is_silent=True), answer):
            outcomes.outcome = outcome
            assert await kind_of(source, authorized(URL, 0, 1)) is not ErrorKind.OFFLINE


async def test_a_bucket_at_a_dead_endpoint_says_nothing_of_another(autojump_clock: object) -> None:
    """A bucket that is silent at one endpoint is asked at another."""
    source, outcomes = scripted()
    outcomes.outcome = passing(is_silent=True)
    one, two = (
        authorized(URL, 0, 1, store=StoreOptions(endpoint=f"https://{name}.example"))
        for name in ("one", "two")
    )
    await kind_of(source, one)
    assert await kind_of(source, one) is ErrorKind.OFFLINE
    assert await kind_of(source, two) is ErrorKind.SOURCE_UNREACHABLE


async def test_a_server_is_waited_for_as_it_asks(autojump_clock: object) -> None:
    """A server that says when to come again is not asked before, and not at all if that is after the deadline."""
    source, outcomes = scripted(attempts=3)
    outcomes.outcome = passing(is_silent=False, after=7)
    began = trio.current_time()
    await kind_of(source, authorized(URL, 0, 1))
    assert (outcomes.made, trio.current_time() - began) == (3, 14)
    outcomes.outcome = passing(is_silent=False, after=1000)
    await kind_of(source, authorized(URL, 0, 1))
    assert (outcomes.made, trio.current_time() - began) == (4, 14)


async def test_a_source_spends_what_its_mount_allows() -> None:
    """A limit of bytes to fetch that a source is given is that of all its servers."""
    source = Source(places=Places(8), egress=Egress(5))
    for url in (URL, "https://server.example/data/x", "gs://bucket/data/x", "az://box/data/x"):
        assert await kind_of(source, authorized(url, 0, 10)) is ErrorKind.EGRESS_SPENT


async def test_credentials_do_not_go_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of a web server are sent over http: only with the leave of the user."""
    monkeypatch.setenv("VZFS_HTTP_TOKEN", "hush")
    place = parse_location("http://server.example/data/x")
    web = Http(Keyring())
    store = StoreOptions(credentials="environment")
    with pytest.raises(SourceError) as caught:
        await web.request("GET", place, store, {})
    assert caught.value.kind is ErrorKind.SOURCE_DENIED
    leave = dataclasses.replace(store, allow_http=True)
    assert (await web.request("GET", place, leave, {})).headers["authorization"] == "Bearer hush"


# -- redirects to a repository -----------------------------------------------------------------


@pytest.mark.parametrize("target", ["http://server.example/x", "s3://b/" + "x" * MAX_TARGET])
async def test_redirects_that_are_not_followed(target: str) -> None:
    """A redirect from https: to http:, and one of any length, is refused."""
    script = Script(Reply(302, {"location": target}))
    with pytest.raises(SourceError):
        await follow(script, parse_location("https://server.example/repo"), StoreOptions())
    assert len(script.requests) == 1


async def test_a_redirecting_server_in_trouble_is_asked_again() -> None:
    """A server that is to redirect and is overloaded may do so at the next attempt."""
    with pytest.raises(Transient):
        await follow(
            Script(Reply(503, {})), parse_location("https://server.example/repo"), StoreOptions()
        )


# -- what ends, and what goes on ---------------------------------------------------------------


async def test_a_source_that_ends_closes_its_connections() -> None:
    """When a source's run ends, its client is closed and gives no connection any more."""
    source = Source(places=Places(8))
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        nursery.cancel_scope.cancel()
    request = Request("GET", "http", "server.example", "/", {})
    with pytest.raises(trio.ClosedResourceError):  # noqa: SIM117 -- it is the sending that raises
        with await source._client.send(request, reach_of((), ())):
            raise AssertionError("a closed client gave a reply")


async def test_a_bug_in_a_second_request_ends_nothing(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody expects in a second request is logged, and the first one's result counts."""
    begun = 0

    async def work() -> str:
        nonlocal begun
        begun += 1
        if begun == 2:
            raise LookupError
        await trio.sleep(10)
        return "first"

    racer = Racer(Tally())
    async with trio.open_nursery() as nursery:
        await nursery.start(racer.run)
        with trio.CancelScope() as scope:
            assert await racer.first(Race(scope, work), 0.0, 1.0, work) == "first"
        nursery.cancel_scope.cancel()
    assert begun == 2
    assert "a second request failed" in caplog.text


def test_what_was_set_aside_yesterday_is_not_given_back_today() -> None:
    """A request that goes over midnight neither adds to the new day's bytes nor gives any back to it."""
    now = 0.0
    egress = Egress(10, is_daily=True, now=lambda: now)
    with egress.spending("x", 10) as yesterday:
        now = 86400.0
        with egress.spending("x", 10) as today:
            today.came = 10
        assert yesterday.came == 0
    with pytest.raises(SourceError), egress.spending("x", 1):
        pass
