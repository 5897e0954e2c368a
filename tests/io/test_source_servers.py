"""HTTP and S3 sources against servers that misbehave: each fault has one outcome, and never wrong bytes."""

from collections.abc import Iterator

import pytest

from tests.conformance import authorized, plain_environment, whole
from tests.servers import (
    Fault,
    ObjectServer,
    no_validators,
    other_etag,
    overlong,
    reset,
    short,
    status,
    truncate,
    whole_object,
    wrong_range,
)
from vzfs.access import AuthorizedRange, StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified
from vzfs.source import Places, Source, Timing

KEY = "bucket/data/object"
DATA = bytes(range(200))
MODIFIED = 1_700_000_000
HTTP_AND_S3 = pytest.mark.parametrize("scheme", ["http", "s3"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Run a server with one object."""
    plain_environment(monkeypatch)
    with ObjectServer() as server:
        server.put(KEY, DATA, etag='"tag"', last_modified=MODIFIED)
        yield server


@pytest.fixture
def source() -> Source:
    """Give a source that tries three times, fast."""
    return Source(Timing(deadline=20, attempts=3, backoff=0.001), places=Places(8))


def options(server: ObjectServer) -> StoreOptions:
    return StoreOptions(endpoint=server.url, anonymous=True, allow_http=True)


def part(
    server: ObjectServer, scheme: str, checksum: Checksum | None = None, length: int = 20
) -> AuthorizedRange:
    """Authorize 20 bytes from 10 on."""
    url = f"{server.url}/{KEY}" if scheme == "http" else f"s3://{KEY}"
    return authorized(url, 10, length, checksum=checksum, store=options(server))


async def refusal(source: Source, wanted: AuthorizedRange) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await source.fetch(wanted)
    return caught.value


@HTTP_AND_S3
@pytest.mark.parametrize(
    "fault",
    [
        status(500),
        status(502),
        status(503),
        status(504),
        status(429),
        status(408),
        reset(),
        truncate(0),
        truncate(5),
    ],
)
async def test_what_passes_is_tried_again(
    server: ObjectServer, source: Source, scheme: str, fault: Fault
) -> None:
    """Overload, resets and truncated bodies are tried again, and counted."""
    server.fault(KEY, fault, times=2)
    assert (await source.fetch(part(server, scheme))).data == DATA[10:30]
    assert server.count("GET", KEY) == 3
    assert source.statistics().retries == 2
    assert source.statistics().errors == 0


@HTTP_AND_S3
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(503), ErrorKind.SOURCE_UNREACHABLE),
        (status(429), ErrorKind.SOURCE_UNREACHABLE),
        (reset(), ErrorKind.SOURCE_UNREACHABLE),
        (truncate(5), ErrorKind.SOURCE_MISMATCH),
    ],
)
async def test_what_does_not_pass_ends(
    server: ObjectServer, source: Source, scheme: str, fault: Fault, kind: ErrorKind
) -> None:
    """After the last attempt the error says what happened, and how often."""
    server.fault(KEY, fault, times=9)
    error = await refusal(source, part(server, scheme))
    assert error.kind is kind
    assert "3 times" in error.what
    assert server.count("GET", KEY) == 3


@HTTP_AND_S3
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(400), ErrorKind.SOURCE_MISMATCH),
        (status(304), ErrorKind.SOURCE_MISMATCH),
        (status(401), ErrorKind.SOURCE_DENIED),
        (status(403), ErrorKind.SOURCE_DENIED),
        (status(404), ErrorKind.SOURCE_VANISHED),
        (status(410), ErrorKind.SOURCE_VANISHED),
        (status(412), ErrorKind.SOURCE_MISMATCH),
        (status(416), ErrorKind.SOURCE_MISMATCH),
        (status(204), ErrorKind.SOURCE_MISMATCH),
        (overlong(), ErrorKind.SOURCE_MISMATCH),
        (overlong(chunked=True), ErrorKind.SOURCE_MISMATCH),
        (whole_object(), ErrorKind.SOURCE_MISMATCH),
        (wrong_range(), ErrorKind.SOURCE_MISMATCH),
        (wrong_range(-1), ErrorKind.SOURCE_MISMATCH),
        (no_validators(), ErrorKind.SOURCE_MISMATCH),
        (Fault(etag='""', last_modified=None), ErrorKind.SOURCE_MISMATCH),
    ],
)
async def test_what_is_final(
    server: ObjectServer, source: Source, scheme: str, fault: Fault, kind: ErrorKind
) -> None:
    """A denial, an absence or a reply that is not what was asked for ends the fetch at once."""
    server.fault(KEY, fault)
    error = await refusal(source, part(server, scheme))
    assert (error.kind, server.count()) == (kind, 1)
    assert error.where.endswith(KEY)


@HTTP_AND_S3
async def test_short_bodies(server: ObjectServer, source: Source, scheme: str) -> None:
    """A body that is announced shorter than its range never comes out as fewer bytes."""
    server.fault(KEY, short(), times=9)
    assert (await refusal(source, part(server, scheme))).kind is ErrorKind.SOURCE_MISMATCH


@HTTP_AND_S3
async def test_errors_have_no_foreign_text(
    server: ObjectServer, source: Source, scheme: str
) -> None:
    """What a server says in its body, which may repeat a signature, does not get into errors."""
    for code in (400, 401, 403, 404, 409, 500):
        server.fault(KEY, status(code, {"X-Secret": "hush"}, b"<Signature>hush</Signature>"), 3)
        error = await refusal(source, part(server, scheme))
        assert "hush" not in repr(error)
        assert error.__cause__ is None or "hush" not in repr(error.__cause__)
        server.clear_faults()


# -- versions ----------------------------------------------------------------------------------


@HTTP_AND_S3
@pytest.mark.parametrize("value", ["tag", '"tag"'])
async def test_strong_etag(server: ObjectServer, source: Source, scheme: str, value: str) -> None:
    """A strong etag goes into If-Match, quoted, however the repository spelt it."""
    assert (await source.fetch(part(server, scheme, ETag(value)))).data == DATA[10:30]
    (request,) = server.requests
    assert request.headers["if-match"] == '"tag"'


@HTTP_AND_S3
async def test_weak_etag(server: ObjectServer, source: Source, scheme: str) -> None:
    """A weak etag is not sent, since it never matches; the reply's is compared."""
    server.put(KEY, DATA, etag='W/"tag"')
    assert (await source.fetch(part(server, scheme, ETag('W/"tag"')))).data == DATA[10:30]
    (request,) = server.requests
    assert "if-match" not in request.headers
    server.put(KEY, DATA, etag='W/"other"')
    error = await refusal(source, part(server, scheme, ETag('W/"tag"')))
    assert error.kind is ErrorKind.SOURCE_CHANGED


@HTTP_AND_S3
async def test_weak_etag_in_the_reply(server: ObjectServer, source: Source, scheme: str) -> None:
    """A weak etag does not vouch for the bytes that a strong one in the reference means."""
    server.put(KEY, DATA, etag='W/"tag"')
    error = await refusal(source, part(server, scheme, ETag('"tag"')))
    assert error.kind is ErrorKind.SOURCE_CHANGED


@HTTP_AND_S3
async def test_precondition_is_not_trusted(
    server: ObjectServer, source: Source, scheme: str
) -> None:
    """A server that ignores If-Match and serves another version is found out by the reply."""
    server.fault(KEY, other_etag('"newer"'))
    error = await refusal(source, part(server, scheme, ETag("tag")))
    assert error.kind is ErrorKind.SOURCE_CHANGED
    assert "tag" in error.what
    assert "newer" in error.what
    assert server.count() == 1


@HTTP_AND_S3
async def test_reply_without_etag(server: ObjectServer, source: Source, scheme: str) -> None:
    """Where the reference has an etag and the reply has none, the bytes cannot be verified."""
    server.fault(KEY, other_etag(None))
    error = await refusal(source, part(server, scheme, ETag("tag")))
    assert error.kind is ErrorKind.SOURCE_MISMATCH


@HTTP_AND_S3
async def test_changed_object(server: ObjectServer, source: Source, scheme: str) -> None:
    """After a 412, one HEAD tells the etag that the object has now, for the error."""
    server.put(KEY, DATA, etag='"newer"')
    error = await refusal(source, part(server, scheme, ETag("tag")))
    assert error.kind is ErrorKind.SOURCE_CHANGED
    assert "newer" in error.what
    assert [r.method for r in server.requests] == ["GET", "HEAD"]


@HTTP_AND_S3
async def test_server_that_compares_wrongly(
    server: ObjectServer, source: Source, scheme: str
) -> None:
    """A server that compares etags without quotes refuses ours: its replies decide from then on."""
    server.put(KEY, DATA, etag="tag")
    wanted = part(server, scheme, ETag('"tag"'))
    assert (await source.fetch(wanted)).data == DATA[10:30]
    assert [r.method for r in server.requests] == ["GET", "HEAD", "GET"]
    server.forget_requests()
    assert (await source.fetch(wanted)).data == DATA[10:30]
    (request,) = server.requests
    assert "if-match" not in request.headers
    server.put(KEY, DATA[::-1], etag="newer")
    assert (await refusal(source, wanted)).kind is ErrorKind.SOURCE_CHANGED


@HTTP_AND_S3
async def test_last_modified(server: ObjectServer, source: Source, scheme: str) -> None:
    """A recorded date goes into If-Unmodified-Since, and the reply's date must not be later."""
    assert (await source.fetch(part(server, scheme, LastModified(MODIFIED)))).data == DATA[10:30]
    assert server.requests[-1].headers["if-unmodified-since"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    error = await refusal(source, part(server, scheme, LastModified(MODIFIED - 1)))
    assert error.kind is ErrorKind.SOURCE_CHANGED
    server.fault(KEY, Fault(last_modified=MODIFIED + 5, ignore_conditions=True))
    error = await refusal(source, part(server, scheme, LastModified(MODIFIED)))
    assert error.kind is ErrorKind.SOURCE_CHANGED


@HTTP_AND_S3
async def test_reply_without_date(server: ObjectServer, source: Source, scheme: str) -> None:
    """Where the reference has a date and the reply has none, the bytes cannot be verified."""
    server.fault(KEY, Fault(last_modified=None, ignore_conditions=True))
    error = await refusal(source, part(server, scheme, LastModified(MODIFIED)))
    assert error.kind is ErrorKind.SOURCE_MISMATCH


@HTTP_AND_S3
async def test_version_without_etag(server: ObjectServer, source: Source, scheme: str) -> None:
    """Without an etag, date and size make the version; a change of either is seen when pinned."""
    server.put(KEY, DATA, etag=None)
    wanted = part(server, scheme)
    pinned = (await source.fetch(wanted)).version
    assert await source.version(wanted) == pinned
    assert (await source.fetch(wanted, pinned)).data == DATA[10:30]
    for data, date in ((DATA, MODIFIED + 1), (DATA + b"!", MODIFIED)):
        server.put(KEY, data, etag=None, last_modified=date)
        with pytest.raises(SourceError) as caught:
            await source.fetch(wanted, pinned)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED


@HTTP_AND_S3
async def test_weak_version(server: ObjectServer, source: Source, scheme: str) -> None:
    """A weak etag alone does not make the version: date and size join it."""
    server.put(KEY, DATA, etag='W/"tag"')
    pinned = (await source.fetch(part(server, scheme))).version
    server.put(KEY, DATA, etag='W/"tag"', last_modified=MODIFIED + 1)
    with pytest.raises(SourceError) as caught:
        await source.fetch(part(server, scheme), pinned)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


@HTTP_AND_S3
async def test_version_is_checked(server: ObjectServer, source: Source, scheme: str) -> None:
    """Asking for the version costs one HEAD, which is checked and tried again as a GET is."""
    assert await source.version(part(server, scheme, ETag("tag"))) == '"tag"'
    assert [r.method for r in server.requests] == ["HEAD"]
    server.fault(KEY, status(503), times=2)
    assert await source.version(part(server, scheme)) == '"tag"'
    server.fault(KEY, status(412))
    with pytest.raises(SourceError) as caught:
        await source.version(part(server, scheme))
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    server.fault(KEY, no_validators())
    with pytest.raises(SourceError) as caught:
        await source.version(part(server, scheme))
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH


@HTTP_AND_S3
async def test_whole_objects_are_whole(server: ObjectServer, source: Source, scheme: str) -> None:
    """A whole object that is cut off on the way is tried again; a part of it is no whole."""
    root = f"{server.url}/bucket" if scheme == "http" else "s3://bucket"
    wanted = whole(root, "data/object", store=options(server))
    server.fault(KEY, truncate(50))
    assert (await source.fetch(wanted)).data == DATA
    server.fault(KEY, truncate(50), times=3)
    assert (await refusal(source, wanted)).kind is ErrorKind.SOURCE_MISMATCH
    assert "range" not in server.requests[-1].headers


@HTTP_AND_S3
async def test_whole_objects_are_bounded_before_reading(
    server: ObjectServer, source: Source, scheme: str
) -> None:
    """An announced length above what is allowed ends the fetch before a byte is read."""
    root = f"{server.url}/bucket" if scheme == "http" else "s3://bucket"
    error = await refusal(source, whole(root, "data/object", 50, store=options(server)))
    assert error.kind is ErrorKind.SOURCE_MISMATCH
    assert source.statistics().bytes_read == 0
