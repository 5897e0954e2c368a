"""What must not happen when servers, repositories and environments are hostile or unlucky."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.conformance import authorized, plain_environment
from tests.fakes import FakeSource
from tests.servers import ObjectServer, redirect, reset
from vzfs.access import Access, AccessPolicy, StoreOptions, Visibility
from vzfs.cache import DiskCache, MemoryCache
from vzfs.chunks import Chunks
from vzfs.config import Config, Flags, load
from vzfs.errors import AccessDenied, ConfigError, ErrorKind, SourceError, VzfsError
from vzfs.model.location import ETag, parse_location, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer
from vzfs.plan import BLOCK, WHOLE_LIMIT
from vzfs.repository.storage import NoSource, Remembered, Storage
from vzfs.source import Places, Source, Timing
from vzfs.source.addresses import reach_of
from vzfs.source.client import Client, Request
from vzfs.source.hosts import SILENT_LIMIT, Host
from vzfs.source.redirect import follow
from vzfs.source.replies import seconds_of
from vzfs.source.transport import route_to
from vzfs.source.versions import dates


async def test_one_container_name_in_two_accounts_is_two_repositories(tmp_path: Path) -> None:
    """What was remembered of a repository in one storage account is not given for one in another."""
    root = parse_prefix("az://data/repository")
    disk = DiskCache(tmp_path / "cache", max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    source = FakeSource()
    source.put("az://data/repository/repo", b"of one")

    def storage(fetcher: object, account: str) -> Storage:
        remembered = Remembered(fetcher, disk, root, is_offline=isinstance(fetcher, NoSource))
        return Storage(remembered, Access(root, StoreOptions(account=account)))

    assert await storage(source, "one").get("repo", 1000) == b"of one"
    assert await storage(NoSource(), "one").get("repo", 1000) == b"of one"
    with pytest.raises(SourceError) as caught:
        await storage(NoSource(), "two").get("repo", 1000)
    assert caught.value.kind is ErrorKind.OFFLINE


def test_the_environments_account_tells_containers_apart() -> None:
    """An account that the environment names is an option of the store, as caches have to know it."""
    environ = {"AZURE_STORAGE_ACCOUNT": "fromenv", "HOME": ""}
    config = load("az://data/repo", Flags(allow=["az://data/", "s3://data/"]), environ)
    assert config.store.account == "fromenv"
    assert [policy.store.account for policy in config.policies] == ["fromenv", None]
    named = load("az://data/repo", Flags(store=StoreOptions(account="named")), environ)
    assert named.store.account == "named"
    endpoint = StoreOptions(endpoint="https://other.blob.core.windows.net")
    assert load("az://data/repo", Flags(store=endpoint), environ).store.account is None


@pytest.mark.parametrize("public", [True, False])
def test_a_redirect_in_a_public_mount_counts_below_public_policies(public: bool) -> None:
    """Where a stranger's redirect leads is shown to all users only if a public policy covers it."""
    target = parse_prefix("https://intranet.example/repo")
    config = Config(
        source="redirect+https://stranger.example/x",
        repository=parse_prefix("https://stranger.example/x"),
        policies=[
            AccessPolicy(parse_prefix("https://intranet.example/"), public=True),
            AccessPolicy(target, public=public),
        ],
    )
    assert config.redirected(target, StoreOptions(), Visibility.GROUP).repository == target
    if public:
        assert config.redirected(target, StoreOptions(), Visibility.PUBLIC).repository == target
        return
    with pytest.raises(AccessDenied) as caught:
        config.redirected(target, StoreOptions(), Visibility.PUBLIC)
    assert caught.value.kind is ErrorKind.NOT_ALLOWED


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(Timing(connect=2, stall=2))
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    "target",
    [
        "http://[::1",
        "//[bad/x",
        "s3://[x",
        "http://host.example:99999/x",
        "http://host.example:0/x",
        "http://[::::]/x",
        "https+icechunk://[::::]/x",
        "https+icechunk://host.example:99999/x",
    ],
)
async def test_a_redirect_to_a_malformed_address_is_an_error(
    target: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect to what is no address is refused in one line, and is no crash."""
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        server.fault("repo", redirect(target))
        with trio.fail_after(10), pytest.raises(SourceError) as caught:
            await follow(client, parse_location(f"{server.url}/repo"), StoreOptions())
    assert caught.value.kind is ErrorKind.SOURCE_DENIED


@pytest.mark.parametrize(
    "text",
    [
        "http://host:0/x",
        "http://host:65536/x",
        "https://host:99999/x",
        "http://[::::]/x",
        "http://[1]/x",
        "http://[::1]:0/x",
        "http://[127.0.0.1]/x",
    ],
)
def test_a_server_has_an_address_and_a_port(text: str) -> None:
    """A location at a port or an address that cannot be is refused when it is read."""
    with pytest.raises(AccessDenied) as caught:
        parse_location(text)
    assert caught.value.kind is ErrorKind.BAD_LOCATION


@pytest.mark.parametrize(
    "authority", ["host:65535", "[::1]", "[::1]:1", "[fe80::1]:8080", "10.0.0.1"]
)
def test_servers_that_can_be_are_read(authority: str) -> None:
    """Addresses with and without a port are read as they are."""
    assert parse_location(f"http://{authority}/x").authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hu/sh@host.example/x",
        "s3://AKIAEXAMPLE:se/hush@bucket/x",
        "https://user:hush@host.example/x?y",
        "https://user:hu/hush@host.example/x?y#z",
        "https://account.example/c/x?sv=1&sig=hush",
        "s3://bucket/x#hush",
    ],
)
def test_secrets_in_locations_are_not_repeated(text: str) -> None:
    """A location that is refused for a password or a signature in it is not repeated with them."""
    with pytest.raises(AccessDenied) as caught:
        parse_location(text)
    assert "hu" not in str(caught.value).replace("https", "")


def test_half_a_character_is_no_location() -> None:
    """A location with half of a surrogate pair, which no URL can have, is refused and can be printed."""
    for text in ("s3://bucket/\ud800x", "file:///\udc00\ud800", "vcc\ud800://x", "s3://\ud800/x"):
        with pytest.raises(AccessDenied) as caught:
            parse_location(text)
        str(caught.value).encode()
    assert str(parse_location("file:///\udcff")) == "file:///%FF"


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:hu/sh@proxy.example:80",
        "user:hu/sh@proxy.example:80",
        "http://user:pw@proxy.example:hush",
        "http://[hush",
        "http://proxy.example:99999",
        "http://proxy.example:0",
    ],
)
def test_a_malformed_proxy_is_an_error_that_does_not_repeat_it(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that cannot be read is one line of advice, without its password."""
    plain_environment(monkeypatch)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(SourceError) as caught:
        route_to("https", "example.org", reach_of([], ()))
    assert caught.value.kind is ErrorKind.BAD_CONFIG
    assert "hu" not in str(caught.value)


@pytest.mark.parametrize(
    "date", ["Fri, 31 Dec 9999 23:59:59 -2359", "Thu, 01 Jan 1970 00:00:00 +0001"]
)
def test_dates_beyond_all_years_are_none(date: str) -> None:
    """A date whose zone leads out of the years that there are is no date, and any other can be said."""
    assert seconds_of(date) is None
    last = seconds_of("Fri, 31 Dec 9999 23:59:59 GMT")
    assert dates(0, last)[1] == "modified at 9999-12-31T23:59:59Z"


async def test_connections_that_break_at_once_are_one_silence(autojump_clock: object) -> None:
    """Many attempts that break together do not make a host dead; attempts one after another do."""
    host = Host("https://host", Places(96))
    began = trio.current_time()
    await trio.sleep(0.1)
    for _ in range(24):
        host.was_silent(began)
    assert host.admit("x") is False
    for _ in range(SILENT_LIMIT - 1):
        began = trio.current_time()
        await trio.sleep(0.1)
        host.was_silent(began)
    with pytest.raises(VzfsError):
        host.admit("x")


async def test_a_server_that_drops_all_connections_once_fails_no_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While fetches whose connections broke together are tried again, a new one is admitted."""
    plain_environment(monkeypatch)
    key = "data/object"
    with ObjectServer() as server:
        server.put(key, bytes(100))
        server.fault(key, reset(), times=8)
        source = Source(Timing(attempts=5, backoff=0.3, deadline=10), places=Places(96))
        wanted = authorized(f"{server.url}/{key}", 0, 10)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(source.fetch, wanted)
            with trio.fail_after(5):
                while source.statistics().retries < 8:  # noqa: ASYNC110 -- counted elsewhere
                    await trio.sleep(0.005)
            assert (await source.fetch(wanted)).data == bytes(10)


async def test_two_accounts_are_two_hosts() -> None:
    """A storage account that does not answer says nothing of a container of the same name in another."""
    source = Source(places=Places(8))
    place = parse_location("az://data/x")
    one, two = (source._host(place, StoreOptions(account=name)) for name in ("one", "two"))
    assert one is not two
    assert one is source._host(place, StoreOptions(account="one"))


async def test_a_weak_etag_does_not_let_two_versions_mix(nursery: trio.Nursery) -> None:
    """Blocks of a chunk whose ref names a weak etag are of one object, though others have that etag too."""
    url, tag = "s3://b/data/x", 'W/"same"'
    source = FakeSource()
    source.put(url, bytes(2 * WHOLE_LIMIT), etag=tag, last_modified=1_700_000_000)
    access = Access(
        parse_prefix("s3://repos/mine"),
        policies=[AccessPolicy(parse_prefix("s3://b/"))],
        containers=[VirtualChunkContainer("s3://b/data/")],
    )
    chunks = Chunks(source, access, MemoryCache(2**26), None)
    await nursery.start(chunks.run)
    ref = ChunkRef(ChunkKind.VIRTUAL, 2 * WHOLE_LIMIT, url, 0, ETag(tag))
    assert bytes(await chunks.read(ref, 0, 1, block=BLOCK)) == b"\0"
    source.put(url, b"\1" * (2 * WHOLE_LIMIT), etag=tag, last_modified=1_700_000_001)
    with pytest.raises(SourceError) as caught:
        await chunks.read(ref, 2 * WHOLE_LIMIT - 1, 1, block=BLOCK)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


@pytest.mark.parametrize(
    "key", ["..;/secret", "x/..;y=1/secret", r"..\secret", r"x\..\secret", ".;"]
)
async def test_a_web_server_is_not_asked_for_ways_out(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that some web servers resolve as dots is not asked for, as it could leave its prefix."""
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        source = Source(places=Places(8))
        with pytest.raises(SourceError) as caught:
            await source.fetch(authorized(f"{server.url}/data/{key}", 0, 10))
        assert server.count() == 0
    assert caught.value.kind is ErrorKind.BAD_LOCATION


@pytest.mark.parametrize("project", ["a\nb", "a\r\nx-evil: 1", "", "a b", "é"])
def test_a_billing_project_can_be_sent(project: str) -> None:
    """A billing project that no header could hold is an error of the configuration."""
    with pytest.raises(ConfigError):
        load("gs://b/r", Flags(store=StoreOptions(billing_project=project)), {})


def test_requests_do_not_show_what_signs_them() -> None:
    """The representation of a request has neither its query nor its headers."""
    request = Request("GET", "https", "host", "/x?sig=hush", {"authorization": "Bearer hush"})
    assert repr(request) == "<Request GET https://host/x>"
