"""Every real store: the suite of fetchers, whole repositories, and what one store alone does."""

import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conformance import DATA, FetcherSuite, World, authorized
from tests.io.shown import arrays_of, digests, files_of, truth
from tests.io.stores_fixtures import TIMING, Authority, StoreWorld, prepare
from tests.stores import gcs, sample
from tests.stores.gcs import Gcs
from tests.stores.liar import Liar, small_pages
from tests.stores.store import BUCKET, Store
from vzfs.access import Access, StoreOptions
from vzfs.cache import MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.config import Flags, load
from vzfs.errors import ErrorKind, SourceError
from vzfs.filesystem import Filesystem, Reading, settle
from vzfs.model.location import parse_prefix
from vzfs.mount import open_source
from vzfs.repository.storage import Storage
from vzfs.repository.zarrstore import open_zarr
from vzfs.source import Places, Source

ROOT = 1
"""The inode of a root."""

FIRST_BYTE_ALONE = {"test_range", "test_version", "test_changed_says_how"}
"""Tests that ask for the first byte alone, which s3rver answers with all bytes."""


@pytest.fixture
def known_lies(real_store: Store, request: pytest.FixtureRequest) -> None:
    """Expect a refusal where a store is known not to give what a test asks for."""
    if real_store.name == "s3rver" and request.node.originalname in FIRST_BYTE_ALONE:
        reason = "s3rver sends all bytes for the first one"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


@pytest.fixture
async def world(real_store: Store, known_lies: None, nursery: trio.Nursery) -> StoreWorld:
    """Give a folder of each store."""
    return await StoreWorld(real_store, real_store.url).run_in(nursery)


class TestRealStores(FetcherSuite):
    """The suite, over every real store."""

    async def test_long_listing(
        self, world: World, real_store: Store, liar: Liar, nursery: trio.Nursery
    ) -> None:
        """A listing of more keys than a page has is whole, with as many requests as it has pages."""
        if not world.lists:
            pytest.skip("HTTP has no listings")
        paged = await StoreWorld(real_store, liar.url).run_in(nursery)
        keys = {f"k {i:03}&+%ä" for i in range(25)}
        for key in keys:
            paged.put(f"many/{key}", b"")
        liar.fault(small_pages(real_store.page_parameter, 10), times=9)
        assert await paged.keys("many") == sorted(keys)
        assert liar.count() == 3


# -- repositories ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [1, 2])
async def test_a_repository_is_read_from_any_store(
    real_store: Store, spec: int, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A repository of either spec, and the virtual chunks it refers to, are read from every store, byte for byte."""
    endpoint = real_store.url
    written = sample.write(real_store, endpoint, tmp_path, spec=spec)
    flags = Flags(
        allow=[f"{written.archive}/"],
        no_cache=True,
        tag="v1",
        deadline=30,
        store=real_store.options(endpoint),
    )
    opened = await open_source(load(written.url, flags, {"HOME": str(tmp_path)}))
    await nursery.start(opened.source.run)
    chunks = Chunks(opened.source, opened.access, MemoryCache(2**20), None)
    await nursery.start(chunks.run)
    ahead = ReadAhead(chunks, 2**20)
    files = Filesystem(opened.checkout, Reading(opened.access, chunks, ahead))

    async def read(path: str) -> bytes:
        inode = ROOT
        for name in path.split("/"):
            found = await settle(files.lookup, inode, name)
            inode = found.inode
        return bytes(await files.read(inode, 0, found.size))

    for path, data in written.chunks.items():
        assert await read(path) == data
    assert json.loads(await read("native/zarr.json"))["shape"] == list(sample.VALUES.shape)
    if real_store.lists or spec == 2:
        assert list((await opened.checkout.repository.refs()).tags) == ["v1"]


# -- what one store alone does ---------------------------------------------------------------------


@pytest.fixture
def google(gcs_store: Gcs, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> Gcs:
    """Give the emulator of Google Cloud Storage, with an object in each bucket."""
    prepare(monkeypatch, gcs_store, authority)
    for bucket in (BUCKET, gcs.PAID, gcs.PUBLIC):
        gcs_store.put("data/object", DATA, bucket=bucket)
    return gcs_store


type Read = Callable[..., Awaitable[bytes]]


@pytest.fixture
async def read(nursery: trio.Nursery) -> Read:
    """Give a function that reads ten bytes of an object."""
    source = Source(TIMING, places=Places(8))
    await nursery.start(source.run)

    async def fetch(url: str, **options: Any) -> bytes:
        return (await source.fetch(authorized(url, 10, 10, store=StoreOptions(**options)))).data

    return fetch


async def denial(read: Read, url: str, **options: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await read(url, **options)
    return caught.value


async def test_who_asks_google_pays_if_named(google: Gcs, read: Read) -> None:
    """A bucket whose requesters pay is read with a billing project, and otherwise not, with advice."""
    reach = {"endpoint": google.url, "allow_http": True}
    url = f"gs://{gcs.PAID}/data/object"
    assert await read(url, billing_project=gcs.PROJECT, **reach) == DATA[10:20]
    error = await denial(read, url, **reach)
    assert error.kind is ErrorKind.SOURCE_MISMATCH
    assert "billing-project" in error.advice
    error = await denial(read, url, billing_project="somebody-elses", **reach)
    assert error.kind is ErrorKind.SOURCE_DENIED


async def test_google_is_shown_a_token_or_none(
    google: Gcs, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public bucket is read anonymously; a private one not, and not with a wrong token, which no error shows."""
    anonymous = {"endpoint": google.url, "allow_http": True, "anonymous": True}
    assert await read(f"gs://{gcs.PUBLIC}/data/object", **anonymous) == DATA[10:20]
    error = await denial(read, f"gs://{BUCKET}/data/object", **anonymous)
    assert error.kind is ErrorKind.SOURCE_DENIED
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "ya29.hush")
    error = await denial(read, f"gs://{BUCKET}/data/object", endpoint=google.url, allow_http=True)
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "hush" not in repr(error)


async def test_objects_that_google_unpacks_are_refused(google: Gcs, read: Read) -> None:
    """An object stored as gzip, which Google unpacks on the way, gives an error and no byte."""
    google.put("data/packed", gzip.compress(DATA), encoding="gzip")
    error = await denial(read, f"gs://{BUCKET}/data/packed", endpoint=google.url, allow_http=True)
    assert error.kind is ErrorKind.SOURCE_MISMATCH


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("bucket", None),
        ("no-etag", None),
        ("no-ranges", ErrorKind.SOURCE_MISMATCH),
        ("encoded", ErrorKind.SOURCE_MISMATCH),
        ("nowhere", ErrorKind.SOURCE_VANISHED),
    ],
)
async def test_web_servers_are_as_they_are_set_up(
    nginx_stores: tuple[Store, Store],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    read: Read,
    location: str,
    kind: ErrorKind | None,
) -> None:
    """A web server with dates alone is read; without ranges, or with an encoding, it gives an error and no byte."""
    for web in nginx_stores:
        prepare(monkeypatch, web, authority)
        folder = web.folder()
        web.put(f"{folder}/object", DATA)
        url = f"{web.url}/{location}/{folder}/object"
        if kind is None:
            assert await read(url) == DATA[10:20]
        else:
            assert (await denial(read, url)).kind is kind


async def test_all_bytes_are_not_taken_for_the_first(
    s3rver_store: Store,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    """s3rver answers the request for the first byte alone with all of them, and is refused."""
    prepare(monkeypatch, s3rver_store, authority)
    world = await StoreWorld(s3rver_store, s3rver_store.url).run_in(nursery)
    world.put("object", DATA)
    error = await world.refusal(world.part("object", 0, 1))
    assert error.kind is ErrorKind.SOURCE_MISMATCH
    assert (await world.fetcher.fetch(world.part("object", 0, 2))).data == DATA[:2]


async def test_a_wrong_key_is_a_denial(
    moto_store: Store,
    azurite_store: Store,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    """A store that checks signatures denies another key, and the error does not show it."""
    wrong = {
        "AWS_SECRET_ACCESS_KEY": "hushhush",
        "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaGh1c2g=",
    }
    for real in (moto_store, azurite_store):
        prepare(monkeypatch, real, authority)
        for name in wrong.keys() & real.environment.keys():
            monkeypatch.setenv(name, wrong[name])
        world = await StoreWorld(real, real.url).run_in(nursery)
        world.put("object", DATA)
        error = await world.refusal(world.part("object", 0, 2))
        assert error.kind is ErrorKind.SOURCE_DENIED
        assert "hush" not in repr(error)
        assert "aHVza" not in repr(error)


async def test_plain_zarr_is_read_from_any_store(
    real_store: Store, data: Path, nursery: trio.Nursery
) -> None:
    """A plain Zarr hierarchy is found and read on every store: by listings where there are any, else by asking.

    An array costs one listing, or one question for each chunk of its grid.
    """
    world = await StoreWorld(real_store, real_store.url).run_in(nursery)
    name = "zarrs_v2_array_bz2_C.zarr"
    for path in (data / "zarr" / name).iterdir():
        world.put(path.name, path.read_bytes())
    access = Access(parse_prefix(world.root), world.store).with_containers(None)
    repository = await open_zarr(Storage(world.fetcher, access))
    assert repository is not None
    before = world.fetcher.statistics()
    found = arrays_of(await files_of(repository, world.fetcher, access))
    after = world.fetcher.statistics()
    assert digests(data, found) == truth(data, f"zarr/{name}")
    asked = after.lists - before.lists, after.heads - before.heads
    assert asked == ((1, 0) if world.lists else (0, 4))
