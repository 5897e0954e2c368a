"""How requests to S3, Google Cloud Storage and Azure are addressed and signed, and what refusals mean."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import botocore
import pytest

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix, parse_location, parse_prefix
from vzfs.source import Listed, sharedkey
from vzfs.source.azure import VERSION, Azure
from vzfs.source.client import Request
from vzfs.source.credentials import AwsKeys, AzureKey, AzureSas, Bearer, Keyring
from vzfs.source.dialect import Dialect
from vzfs.source.gcs import Gcs
from vzfs.source.s3 import S3, _at_aws
from vzfs.source.sigv4 import Signer

ANYONE = StoreOptions(anonymous=True, account="named")
NONE: Mapping[str, str] = {}
MOMENT = 1_700_000_000.5
SECRET = "AbCdEf/SeCrEt+Key=="


class FakeKeyring:
    """Gives out what a test says, and counts who gave it back."""

    def __init__(self) -> None:
        self.keys: AwsKeys | None = AwsKeys("AKID", SECRET)
        self.home: str | None = None
        self.token: Bearer | None = Bearer(SECRET)
        self.blob: AzureKey | AzureSas | Bearer | None = None
        self.renewable = True
        self.forgotten: list[str] = []
        self.asked = 0

    async def aws(self, store: StoreOptions) -> AwsKeys | None:
        self.asked += 1
        return self.keys

    async def region(self, store: StoreOptions) -> str | None:
        return self.home

    async def google(self, store: StoreOptions) -> Bearer | None:
        self.asked += 1
        return self.token

    async def azure(self, store: StoreOptions, account: str) -> AzureKey | AzureSas | Bearer | None:
        self.asked += 1
        return self.blob

    def forget(self, store: StoreOptions, kind: str | None = None) -> bool:
        self.forgotten.append(kind or "")
        return self.renewable


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> FakeKeyring:
    """Give a keyring, at a moment that stands still."""
    monkeypatch.setattr("time.time", lambda: MOMENT)
    return FakeKeyring()


@pytest.fixture
def s3(keyring: FakeKeyring) -> S3:
    """Give the dialect of S3."""
    return S3(cast(Keyring, keyring))


@pytest.fixture
def gcs(keyring: FakeKeyring) -> Gcs:
    """Give the dialect of Google Cloud Storage."""
    return Gcs(cast(Keyring, keyring))


@pytest.fixture
def azure(keyring: FakeKeyring) -> Azure:
    """Give the dialect of Azure."""
    return Azure(cast(Keyring, keyring))


def url(request: Request) -> str:
    return f"{request.scheme}://{request.authority}{request.target}"


async def address(dialect: Dialect, location: str, store: StoreOptions) -> str:
    """Return the URL that an object is asked for at."""
    return url(await dialect.request("GET", parse_location(location), store, NONE))


# -- S3: addresses -----------------------------------------------------------------------------

AT_S3 = {
    "a bucket of AWS": ("s3://bucket/a/k", {}, "https://bucket.s3.us-east-1.amazonaws.com/a/k"),
    "its region": (
        "s3://bucket/k",
        {"region": "eu-west-1"},
        "https://bucket.s3.eu-west-1.amazonaws.com/k",
    ),
    "China": (
        "s3://bucket/k",
        {"region": "cn-north-1"},
        "https://bucket.s3.cn-north-1.amazonaws.com.cn/k",
    ),
    "a bucket with dots": (
        "s3://my.bucket/k",
        {},
        "https://s3.us-east-1.amazonaws.com/my.bucket/k",
    ),
    "capitals": ("s3://Bucket/k", {}, "https://s3.us-east-1.amazonaws.com/Bucket/k"),
    "an underscore": ("s3://b_u/k", {}, "https://s3.us-east-1.amazonaws.com/b_u/k"),
    "path style": (
        "s3://bucket/k",
        {"path_style": True},
        "https://s3.us-east-1.amazonaws.com/bucket/k",
    ),
    "an endpoint": ("s3://b/k", {"endpoint": "https://minio:9000"}, "https://minio:9000/b/k"),
    "with a path": ("s3://b/k", {"endpoint": "https://Host/s3/"}, "https://host/s3/b/k"),
    "its port": ("s3://b/k", {"endpoint": "https://host:443"}, "https://host/b/k"),
    "IPv6": ("s3://b/k", {"endpoint": "https://[::1]:9000"}, "https://[::1]:9000/b/k"),
    "virtual hosts": (
        "s3://b/k",
        {"endpoint": "https://host:9000/s3", "path_style": False},
        "https://b.host:9000/s3/k",
    ),
    "a bucket called as the endpoint begins": (
        "s3://b/k",
        {"endpoint": "https://b.host", "path_style": False},
        "https://b.b.host/k",
    ),
    "plain http": (
        "s3://b/k",
        {"endpoint": "http://host:80", "allow_http": True},
        "http://host/b/k",
    ),
    "R2": (
        "s3://b/k",
        {"endpoint": "https://0a1b.r2.cloudflarestorage.com"},
        "https://0a1b.r2.cloudflarestorage.com/b/k",
    ),
    "Tigris": ("tigris://b/k", {}, "https://b.t3.storage.dev/k"),
    "Tigris in path style": ("tigris://b/k", {"path_style": True}, "https://t3.storage.dev/b/k"),
    "Tigris elsewhere": ("tigris://b/k", {"endpoint": "https://host"}, "https://host/b/k"),
    "no normalization": (
        "s3://bucket//a//./../%2E%2e/b/",
        {},
        "https://bucket.s3.us-east-1.amazonaws.com//a//./../../b/",
    ),
    "odd characters": (
        "s3://bucket/a b+c%2541?".replace("?", "%3F%23&=~é%01"),
        {},
        "https://bucket.s3.us-east-1.amazonaws.com/a%20b%2Bc%2541%3F%23%26%3D~%C3%A9%01",
    ),
}


@pytest.mark.parametrize(("location", "options", "expected"), AT_S3.values(), ids=AT_S3)
async def test_where_objects_of_s3_are(
    s3: S3, location: str, options: dict[str, object], expected: str
) -> None:
    """A bucket is a host at AWS and a folder at other endpoints, and its keys go verbatim."""
    assert await address(s3, location, dataclasses.replace(ANYONE, **options)) == expected


def test_every_region_of_aws_has_its_domain() -> None:
    """The host of a region is in the domain that AWS says its partition has."""
    data = Path(botocore.__file__).parent / "data" / "partitions.json"
    partitions = json.loads(data.read_text())["partitions"]
    regions = [
        (region, partition["outputs"]["dnsSuffix"])
        for partition in partitions
        for region in partition["regions"]
        if not region.endswith("-global")
    ]
    assert len(regions) > 30
    for region, domain in regions:
        assert _at_aws("bucket", region, None).authority == f"bucket.s3.{region}.{domain}"


async def test_the_region_of_the_environment_is_taken(s3: S3, keyring: FakeKeyring) -> None:
    """Without an option, the region is that of the environment or profile, and us-east-1 at last."""
    keyring.home = "eu-north-1"
    assert "s3.eu-north-1." in await address(s3, "s3://bucket/k", ANYONE)
    assert "s3.eu-west-1." in await address(s3, "s3://bucket/k", StoreOptions("eu-west-1"))


@pytest.mark.parametrize(
    ("location", "endpoint", "region"),
    [
        ("s3://b/k", "https://host", "eu-north-1"),
        ("s3://b/k", "https://a.r2.cloudflarestorage.com", "auto"),
        ("s3://b/k", "https://a.eu.r2.cloudflarestorage.com", "auto"),
        ("s3://b/k", "https://fly.storage.tigris.dev", "auto"),
        ("tigris://b/k", None, "auto"),
        ("tigris://b/k", "https://host", "eu-north-1"),
    ],
)
async def test_the_region_that_is_signed_for(
    s3: S3, keyring: FakeKeyring, location: str, endpoint: str | None, region: str
) -> None:
    """Endpoints without regions are signed for `auto`, whatever region of AWS the environment names."""
    keyring.home = "eu-north-1"
    place = parse_location(location)
    for named, expected in ((None, region), ("wnam", "wnam")):
        store = StoreOptions(region=named, endpoint=endpoint)
        request = await s3.request("GET", place, store, NONE)
        assert f"/20231114/{expected}/s3/aws4_request" in request.headers["authorization"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "host", "ftp://host", "https://", "https://user:pw@host", "https://host?x=1", "https://host#f",
        "https://ho st", "https://host/a b", "https://host//a", "https://[::1", "https://host:x",
        "https://host:99999", "https://host/%0d%0aX: y\r\n", "",
    ],
)  # fmt: skip
async def test_an_endpoint_is_a_url_of_a_host(
    s3: S3, gcs: Gcs, azure: Azure, endpoint: str
) -> None:
    """What is not plainly the URL of a host is a mistake in the configuration, and is not repeated."""
    store = StoreOptions(endpoint=endpoint, anonymous=True, allow_http=True)
    for dialect, location in ((s3, "s3://b/k"), (gcs, "gs://b/k"), (azure, "az://b/k")):
        with pytest.raises(SourceError) as caught:
            await address(dialect, location, store)
        assert caught.value.kind is ErrorKind.BAD_CONFIG
        assert "pw" not in str(caught.value)


async def test_a_plain_endpoint_needs_leave(s3: S3, gcs: Gcs, azure: Azure) -> None:
    """An endpoint without encryption is refused unless the user allows that, before keys are looked for."""
    store = StoreOptions(endpoint="http://host", account="account")
    for dialect, location in ((s3, "s3://b/k"), (gcs, "gs://b/k"), (azure, "az://b/k")):
        with pytest.raises(SourceError, match="--allow-http") as caught:
            await address(dialect, location, store)
        assert caught.value.kind is ErrorKind.SOURCE_DENIED
        with pytest.raises(SourceError, match="--allow-http"):
            dialect.reach(parse_prefix(location), store)


@pytest.mark.parametrize("region", ["us east", "us-east-1.evil.example/", "US-EAST-1", "-x", ""])
async def test_a_region_is_a_name(s3: S3, keyring: FakeKeyring, region: str) -> None:
    """A region is a part of a host's name, and what could be more is a mistake."""
    options = (StoreOptions(region), StoreOptions(region, endpoint="https://host"))
    if region:
        for store in options:
            with pytest.raises(SourceError, match="region") as caught:
                await address(s3, "s3://bucket/k", store)
            assert caught.value.kind is ErrorKind.BAD_CONFIG
    headers = {"x-amz-bucket-region": region}
    keyring.renewable = False
    await address(s3, "s3://bucket/k", ANYONE)
    assert not s3.learn(301, headers, parse_location("s3://bucket/k"), ANYONE)


async def test_a_host_has_no_capital_letters(s3: S3) -> None:
    """A bucket whose name a host cannot have is not asked for under another name."""
    with pytest.raises(SourceError, match="path-style"):
        await address(s3, "tigris://Bucket/k", ANYONE)


# -- S3: signatures ----------------------------------------------------------------------------


async def test_requests_to_s3_are_signed(s3: S3, keyring: FakeKeyring) -> None:
    """A request with keys carries the signature of all that it says."""
    headers = {"Range": "bytes=0-9", "If-Match": '"e"'}
    place = parse_location("s3://bucket/a%20b")
    request = await s3.request("GET", place, StoreOptions(), headers)
    host = "bucket.s3.us-east-1.amazonaws.com"
    keys = AwsKeys("AKID", SECRET)
    signed = Signer().sign("GET", host, "/a%20b", headers, keys, "us-east-1", MOMENT)
    assert request.headers == signed
    assert "range;" in signed["authorization"]


async def test_anonymous_requests_ask_for_no_keys(
    s3: S3, gcs: Gcs, azure: Azure, keyring: FakeKeyring
) -> None:
    """An anonymous store is asked without credentials, and nobody looks for any."""
    keyring.blob = AzureSas("sig=x")
    headers = {"Range": "bytes=0-9"}
    for dialect, location in ((s3, "s3://b/k"), (gcs, "gs://b/k"), (azure, "az://b/k")):
        request = await dialect.request("GET", parse_location(location), ANYONE, headers)
        assert set(request.headers) <= {"Range", "x-ms-version"}
        assert request.headers["Range"] == "bytes=0-9"
        assert "sig" not in request.target
    assert keyring.asked == 0


async def test_the_requester_pays_by_a_signed_header(s3: S3) -> None:
    """Who pays says so in every request, listings included, and signs it."""
    store = StoreOptions(requester_pays=True)
    request = await s3.request("GET", parse_location("s3://b/k"), store, NONE)
    pages = await s3.listing(parse_prefix("s3://b/k"), store, "")
    for headers in (request.headers, pages.headers):
        assert headers["x-amz-request-payer"] == "requester"
        assert ";x-amz-request-payer" in headers["authorization"]
    without = await s3.request("GET", parse_location("s3://b/k"), StoreOptions(), NONE)
    assert "x-amz-request-payer" not in without.headers


async def test_a_session_token_goes_along(s3: S3, keyring: FakeKeyring) -> None:
    """Temporary keys come with a token that is sent and signed."""
    keyring.keys = AwsKeys("AKID", SECRET, "session/token==")
    request = await s3.request("HEAD", parse_location("s3://b/k"), StoreOptions(), NONE)
    assert request.headers["x-amz-security-token"] == "session/token=="
    assert "x-amz-security-token" in request.headers["authorization"]
    assert SECRET not in str(tuple(request))


# -- listings ----------------------------------------------------------------------------------


async def test_listings_of_s3(s3: S3) -> None:
    """A page of names is asked for below the folder, encoded, after the page before."""
    below = parse_prefix("s3://bucket/a b/")
    first = await s3.listing(below, ANYONE, "")
    assert url(first) == (
        "https://bucket.s3.us-east-1.amazonaws.com/?list-type=2&encoding-type=url&max-keys=1000"
        "&prefix=a%20b%2F"
    )
    second = await s3.listing(below, ANYONE, "1/+=")
    assert second.target == f"{first.target}&continuation-token=1%2F%2B%3D"
    store = StoreOptions(endpoint="https://host/s3", anonymous=True)
    assert (await s3.listing(below, store, "")).target.startswith("/s3/bucket?list-type=2&")
    assert (await s3.listing(Prefix("s3", "bucket", ""), ANYONE, "")).target.endswith("&prefix=")


async def test_listings_of_google(gcs: Gcs) -> None:
    """Google's listings are S3's."""
    request = await gcs.listing(parse_prefix("gs://bucket/a b/"), ANYONE, "t=")
    assert url(request) == (
        "https://storage.googleapis.com/bucket?list-type=2&encoding-type=url&max-keys=1000"
        "&prefix=a%20b%2F&continuation-token=t%3D"
    )


async def test_listings_of_azure(azure: Azure) -> None:
    """Azure's listings name the container, and leave out what is empty."""
    request = await azure.listing(parse_prefix("az://box/a b/"), ANYONE, "t=")
    assert url(request) == (
        "https://named.blob.core.windows.net/box?restype=container&comp=list&maxresults=1000"
        "&prefix=a%20b%2F&marker=t%3D"
    )
    whole = await azure.listing(Prefix("az", "box", ""), ANYONE, "")
    assert whole.target == "/box?restype=container&comp=list&maxresults=1000"


async def test_listings_of_one_level(s3: S3, gcs: Gcs, azure: Azure) -> None:
    """One level is asked for by a delimiter."""
    for dialect, place in ((s3, "s3://b/k"), (gcs, "gs://b/k"), (azure, "az://b/k")):
        request = await dialect.listing(parse_prefix(place), ANYONE, "", deep=False)
        assert request.target.endswith("&prefix=k%2F&delimiter=%2F")


def test_pages_have_whole_keys_below_the_prefix(s3: S3, gcs: Gcs, azure: Azure) -> None:
    """A page has the whole keys below the prefix, whatever else the server lists."""
    keys = ("a/", "a/x%20y", "ab", "z/x")
    listed = "".join(f"<Contents><Key>{key}</Key><Size>3</Size></Contents>" for key in keys)
    body = f"<ListBucketResult><EncodingType>url</EncodingType>{listed}</ListBucketResult>".encode()
    assert s3.page(Prefix("s3", "b", "a"), body) == ([Listed("a/x y", 3)], "")
    assert gcs.page(Prefix("gs", "b", "a"), body) == ([Listed("a/x y", 3)], "")
    size = "<Properties><Content-Length>3</Content-Length></Properties>"
    listed = "".join(f"<Blob><Name>{key}</Name>{size}</Blob>" for key in keys)
    body = (
        f"<EnumerationResults><Blobs>{listed}</Blobs><NextMarker>m</NextMarker>"
        "</EnumerationResults>"
    ).encode()
    assert azure.page(Prefix("az", "b", "a"), body) == ([Listed("a/x%20y", 3)], "m")
    for dialect in (s3, gcs, azure):
        with pytest.raises(SourceError) as caught:
            dialect.page(Prefix("s3", "b", "a"), b"<html>SeCrEt</html>")
        assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
        assert "SeCrEt" not in str(caught.value)


# -- regions that a bucket names ---------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 307, 400])
async def test_a_bucket_says_which_region_it_is_in(
    s3: S3, keyring: FakeKeyring, status: int
) -> None:
    """A bucket that names its region is asked there from then on, and signed for it."""
    keyring.renewable = False
    place = parse_location("s3://bucket/k")
    headers = {"x-amz-bucket-region": "eu-west-1", "location": "https://evil.example/"}
    for store in (StoreOptions("us-west-2"), StoreOptions()):
        await s3.request("GET", place, store, NONE)
        assert s3.learn(status, headers, place, store)
        request = await s3.request("GET", place, store, NONE)
        assert request.authority == "bucket.s3.eu-west-1.amazonaws.com"
        assert "/eu-west-1/s3/" in request.headers["authorization"]
        pages = await s3.listing(parse_prefix("s3://bucket"), store, "")
        assert pages.authority == request.authority
    other = await address(s3, "s3://other/k", ANYONE)
    assert "us-east-1" in other


async def test_requests_under_way_are_sent_again_too(s3: S3, keyring: FakeKeyring) -> None:
    """Each of many requests that went to the wrong region at once is worth another attempt."""
    keyring.renewable = False
    place, headers = parse_location("s3://bucket/k"), {"x-amz-bucket-region": "eu-west-1"}
    for _ in range(3):
        await s3.request("GET", place, ANYONE, NONE)
    assert [s3.learn(301, headers, place, ANYONE) for _ in range(3)] == [True] * 3


async def test_a_bucket_may_come_back(s3: S3, keyring: FakeKeyring) -> None:
    """A bucket that is made anew in the region that the user names is found there again."""
    keyring.renewable = False
    place = parse_location("s3://bucket/k")
    await s3.request("GET", place, ANYONE, NONE)
    for region in ("eu-west-1", "us-east-1"):
        assert s3.learn(301, {"x-amz-bucket-region": region}, place, ANYONE)
        assert f".{region}." in await address(s3, "s3://bucket/k", ANYONE)


async def test_a_region_that_is_known_is_no_news(s3: S3, keyring: FakeKeyring) -> None:
    """A refusal that names the region that was asked is no reason to try again."""
    keyring.renewable = False
    place, headers = parse_location("s3://bucket/k"), {"x-amz-bucket-region": "us-east-1"}
    await s3.request("GET", place, ANYONE, NONE)
    assert not s3.learn(400, headers, place, ANYONE)
    assert not s3.learn(301, NONE, place, ANYONE)


@pytest.mark.parametrize(
    ("location", "endpoint"), [("s3://b/k", "https://host"), ("tigris://b/k", None)]
)
async def test_only_aws_moves_a_request(
    s3: S3, keyring: FakeKeyring, location: str, endpoint: str | None
) -> None:
    """No endpoint but AWS' own can have a request sent elsewhere."""
    keyring.renewable = False
    place, store = parse_location(location), StoreOptions(endpoint=endpoint, anonymous=True)
    before = await s3.request("GET", place, store, NONE)
    if endpoint is None:
        await s3.request("GET", parse_location("s3://b/k"), store, NONE)
    assert not s3.learn(301, {"x-amz-bucket-region": "eu-west-1"}, place, store)
    assert await s3.request("GET", place, store, NONE) == before


async def test_buckets_that_are_remembered_are_bounded(s3: S3) -> None:
    """A repository that refers to very many buckets does not fill the memory."""
    store = StoreOptions(anonymous=True)
    for number in range(10_050):
        await s3.request("GET", Location("s3", f"bucket{number}", "k"), store, NONE)
    assert len(s3._homes) <= 10_000


async def test_refused_credentials_are_dropped(
    s3: S3, gcs: Gcs, azure: Azure, keyring: FakeKeyring
) -> None:
    """A refusal gives the credentials of its own store back, and says whether others can be had."""
    for renewable in (True, False):
        keyring.renewable = renewable
        for dialect in (s3, gcs, azure):
            assert dialect.forget(StoreOptions()) is renewable
        assert keyring.forgotten == ["aws", "google", "azure"]
        keyring.forgotten.clear()
        # AWS says 400 to a token that has expired.
        place = parse_location("s3://b/k")
        await s3.request("GET", place, StoreOptions(), NONE)
        assert s3.learn(400, NONE, place, StoreOptions()) is renewable
        assert keyring.forgotten == ["aws"]
        keyring.forgotten.clear()
        for dialect in (gcs, azure):
            assert not dialect.learn(400, NONE, place, StoreOptions())
        assert not s3.learn(301, NONE, place, StoreOptions())
        assert keyring.forgotten == []


# -- Google ------------------------------------------------------------------------------------


async def test_objects_of_google(gcs: Gcs) -> None:
    """Objects are asked for by the XML interface, each key one segment of the path, with a token."""
    place = parse_location("gs://bucket/a//../b c")
    request = await gcs.request("GET", place, StoreOptions(), {"If-Match": '"e"'})
    assert url(request) == "https://storage.googleapis.com/bucket/a%2F%2F..%2Fb%20c"
    assert request.headers == {"If-Match": '"e"', "authorization": f"Bearer {SECRET}"}
    store = StoreOptions(endpoint="https://host:4443/gcs/")
    assert await address(gcs, "gs://b/k", store) == "https://host:4443/gcs/b/k"


async def test_a_project_pays_at_google(gcs: Gcs) -> None:
    """Where the reader pays, each request names the project, listings included."""
    store = StoreOptions(billing_project="my-project")
    request = await gcs.request("GET", parse_location("gs://b/k"), store, NONE)
    pages = await gcs.listing(parse_prefix("gs://b/k"), store, "")
    assert request.headers["x-goog-user-project"] == "my-project"
    assert pages.headers == request.headers


# -- Azure -------------------------------------------------------------------------------------

EMULATOR = "http://127.0.0.1:10000/devstoreaccount1"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "https://named.blob.core.windows.net/box/a//b%20c"),
        ({"account": "mine"}, "https://mine.blob.core.windows.net/box/a//b%20c"),
        ({"endpoint": EMULATOR, "allow_http": True}, f"{EMULATOR}/box/a//b%20c"),
        (
            {"endpoint": "https://acc.blob.core.chinacloudapi.cn/"},
            "https://acc.blob.core.chinacloudapi.cn/box/a//b%20c",
        ),
    ],
)
@pytest.mark.parametrize("scheme", ["az", "abfs", "azure"])
async def test_where_blobs_are(
    azure: Azure, scheme: str, options: dict[str, object], expected: str
) -> None:
    """A location's container is in the account that the user names, at the endpoint that they name."""
    store = dataclasses.replace(ANYONE, **options)
    assert await address(azure, f"{scheme}://box/a//b%20c", store) == expected


@pytest.mark.parametrize(
    ("options", "account"),
    [
        ({"account": "mine"}, "mine"),
        ({"endpoint": EMULATOR, "allow_http": True}, "devstoreaccount1"),
        ({"endpoint": EMULATOR, "allow_http": True, "account": "mine"}, "mine"),
        ({"endpoint": "https://acc.blob.core.windows.net"}, "acc"),
        ({"endpoint": "https://acc.z01.blob.storage.azure.net"}, "acc"),
    ],
)
async def test_which_account_signs(
    azure: Azure, keyring: FakeKeyring, options: dict[str, object], account: str
) -> None:
    """The account is the option's, or else the endpoint's."""
    key = keyring.blob = AzureKey(account, "QUJD")
    store = dataclasses.replace(StoreOptions(), **options)
    asked = []
    original = keyring.azure

    async def ask(store: StoreOptions, named: str) -> AzureKey | AzureSas | Bearer | None:
        asked.append(named)
        return await original(store, named)

    keyring.azure = ask  # type: ignore[method-assign]
    headers = {"Range": "bytes=0-9"}
    request = await azure.request("GET", parse_location("az://box/k"), store, headers)
    assert asked == [account]
    expected = {**headers, "x-ms-version": VERSION}
    assert request.headers == sharedkey.sign("GET", request.target, expected, key, MOMENT)
    pages = await azure.listing(parse_prefix("az://box/k"), store, "")
    signed = sharedkey.sign("GET", pages.target, {"x-ms-version": VERSION}, key, MOMENT)
    assert pages.headers == signed


@pytest.mark.parametrize("account", [None, "UPPER", "a", "evil.example/", "a" * 25])
async def test_an_account_is_named(keyring: FakeKeyring, account: str | None) -> None:
    """Without an account, or with what cannot be one, no request is made."""
    azure = Azure(cast(Keyring, keyring))
    with pytest.raises(SourceError, match="AZURE_STORAGE_ACCOUNT") as caught:
        await address(azure, "az://box/k", StoreOptions(account=account))
    assert caught.value.kind is ErrorKind.BAD_CONFIG
    assert keyring.asked == 0


@pytest.mark.parametrize("key", ["..", "a/../b", "a/./b", "a/..", "a\\..\\b"])
async def test_azure_is_not_asked_for_keys_that_it_reads_otherwise(azure: Azure, key: str) -> None:
    """A key with `.` or `..` would be another blob to Azure, perhaps of another container: it is refused."""
    with pytest.raises(SourceError) as caught:
        await azure.request("GET", Location("az", "box", key), ANYONE, NONE)
    assert caught.value.kind is ErrorKind.BAD_LOCATION
    assert await address(azure, "az://box/a../.b/...", ANYONE)


async def test_a_shared_access_signature_is_sent_and_not_said(
    azure: Azure, keyring: FakeKeyring
) -> None:
    """A shared access signature goes at the end of the query, as it was issued, and into no error."""
    keyring.blob = AzureSas("sv=2021&sig=SeC%2BrEt%3D")
    place = parse_location("az://box/k")
    request = await azure.request("GET", place, StoreOptions(account="named"), NONE)
    assert request.target == "/box/k?sv=2021&sig=SeC%2BrEt%3D"
    assert request.headers == {"x-ms-version": VERSION}
    pages = await azure.listing(parse_prefix("az://box/k"), StoreOptions(account="named"), "")
    assert pages.target.endswith("&prefix=k%2F&sv=2021&sig=SeC%2BrEt%3D")
    for status in (301, 401, 403, 404, 409):
        problem = azure.refused(
            status, {"x-ms-error-code": "ContainerNotFound"}, str(place), ANYONE
        )
        assert problem is not None
        assert "sig=" not in str(problem)


async def test_a_token_opens_azure(azure: Azure, keyring: FakeKeyring) -> None:
    """A token is sent as a bearer's."""
    keyring.blob = Bearer("ToKeN")
    request = await azure.request(
        "GET", parse_location("az://box/k"), StoreOptions(account="named"), NONE
    )
    assert request.headers == {"authorization": "Bearer ToKeN", "x-ms-version": VERSION}


# -- what the user opened, and what refusals mean ------------------------------------------------


def test_only_named_hosts_are_opened(s3: S3, gcs: Gcs, azure: Azure) -> None:
    """The host of an endpoint that the user names may be in their own network; the stores' own may not."""
    places = ((s3, "s3://b/"), (s3, "tigris://b/"), (gcs, "gs://b/"), (azure, "az://b/"))
    for dialect, prefix in places:
        root = parse_prefix(prefix)
        assert dialect.reach(root, StoreOptions()) == (frozenset(), ())
        store = StoreOptions(
            endpoint="http://Localhost:9000", allow_http=True, addresses=("10.0.0.0/8",)
        )
        reach = dialect.reach(root, store)
        assert "localhost" in reach.hosts
        assert [str(network) for network in reach.networks] == ["10.0.0.0/8"]
        assert reach.hosts <= {"localhost", "b.localhost"}
        literal = dialect.reach(root, dataclasses.replace(store, endpoint="http://[::1]:9000"))
        assert "::1" in literal.hosts


@pytest.mark.parametrize(
    ("status", "store", "kind", "advice"),
    [
        (301, ANYONE, ErrorKind.SOURCE_MISMATCH, "AWS_REGION"),
        (307, ANYONE, ErrorKind.SOURCE_MISMATCH, "AWS_REGION"),
        (400, ANYONE, ErrorKind.SOURCE_MISMATCH, "AWS_REGION"),
        (401, ANYONE, ErrorKind.SOURCE_DENIED, "with credentials"),
        (403, ANYONE, ErrorKind.SOURCE_DENIED, "with credentials"),
        (403, StoreOptions(), ErrorKind.SOURCE_DENIED, "clock"),
        (403, StoreOptions(), ErrorKind.SOURCE_DENIED, "--anonymous"),
        (403, StoreOptions(), ErrorKind.SOURCE_DENIED, "requester-pays"),
    ],
)
def test_what_refusals_of_s3_mean(
    s3: S3, status: int, store: StoreOptions, kind: ErrorKind, advice: str
) -> None:
    """A refusal of S3 says in one line what the user can do."""
    problem = s3.refused(status, NONE, "s3://b/k", store)
    assert problem is not None
    assert problem.kind is kind
    assert advice in problem.advice
    assert str(status) in problem.what
    assert problem.where == "s3://b/k"


def test_a_refusal_names_the_region(s3: S3) -> None:
    """Where a bucket says which region it is in, the advice repeats a name, and nothing else."""
    problem = s3.refused(301, {"x-amz-bucket-region": "eu-west-1"}, "s3://b/k", ANYONE)
    assert problem is not None
    assert "eu-west-1" in problem.advice
    problem = s3.refused(301, {"x-amz-bucket-region": "x\nSeCrEt"}, "s3://b/k", ANYONE)
    assert problem is not None
    assert "SeCrEt" not in str(problem)


@pytest.mark.parametrize(
    ("status", "store", "kind", "advice"),
    [
        (307, ANYONE, ErrorKind.SOURCE_MISMATCH, "endpoint"),
        (400, StoreOptions(), ErrorKind.SOURCE_MISMATCH, "billing-project"),
        (401, ANYONE, ErrorKind.SOURCE_DENIED, "with credentials"),
        (403, StoreOptions(), ErrorKind.SOURCE_DENIED, "GOOGLE_APPLICATION_CREDENTIALS"),
        (403, StoreOptions(billing_project="p-1"), ErrorKind.SOURCE_DENIED, "project p-1"),
    ],
)
def test_what_refusals_of_google_mean(
    gcs: Gcs, status: int, store: StoreOptions, kind: ErrorKind, advice: str
) -> None:
    """A refusal of Google's says in one line what the user can do."""
    problem = gcs.refused(status, NONE, "gs://b/k", store)
    assert problem is not None
    assert problem.kind is kind
    assert advice in problem.advice


@pytest.mark.parametrize(
    ("status", "code", "store", "kind", "advice"),
    [
        (301, "", ANYONE, ErrorKind.SOURCE_MISMATCH, "account"),
        (401, "", StoreOptions(), ErrorKind.SOURCE_DENIED, "az login"),
        (403, "", StoreOptions(), ErrorKind.SOURCE_DENIED, "clock"),
        (409, "", ANYONE, ErrorKind.SOURCE_DENIED, "with credentials"),
        (404, "ContainerNotFound", ANYONE, ErrorKind.SOURCE_VANISHED, "container"),
        (404, "ResourceNotFound", ANYONE, ErrorKind.SOURCE_VANISHED, "credentials"),
    ],
)
def test_what_refusals_of_azure_mean(
    azure: Azure, status: int, code: str, store: StoreOptions, kind: ErrorKind, advice: str
) -> None:
    """A refusal of Azure's says in one line what the user can do."""
    problem = azure.refused(status, {"x-ms-error-code": code}, "az://b/k", store)
    assert problem is not None
    assert problem.kind is kind
    assert advice in problem.advice


def test_what_is_said_alike_by_all_is_left_to_all(s3: S3, gcs: Gcs, azure: Azure) -> None:
    """Statuses that mean the same everywhere are not a dialect's to explain."""
    for dialect in (s3, gcs, azure):
        for status in (404, 412, 416, 429, 500, 503):
            headers = {"x-ms-error-code": "BlobNotFound"}
            assert dialect.refused(status, headers, "s3://b/k", ANYONE) is None
