"""What servers and stores say: heads and chunks of replies, what replies mean, listings, secrets in files."""

import base64
import contextlib
from collections.abc import Iterable

from tests.fuzz import mutations
from vzfs.access import Access
from vzfs.errors import SourceError
from vzfs.model.location import ETag, LastModified, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.source import listing, messages, replies, versions
from vzfs.source.credentials import secretfile
from vzfs.source.wire import PreconditionFailed, Transient

SECRET = "hunter2-hunter2-hunter2"
WHERE = "s3://bucket/"


def run_head(data: bytes) -> None:
    """Read the head of a reply, what it means, and its body if that comes in chunks."""
    end = data.find(b"\r\n\r\n") + 4
    if not 4 <= end <= messages.MAX_HEAD:
        return
    for method in ("GET", "HEAD"):
        try:
            head = messages.Head(data[:end], method)
        except messages.Malformed:
            continue
        assert 100 <= head.status <= 999
        assert head.length is None or 0 <= head.length < 10**18
        assert len(head.headers) <= messages.MAX_HEADERS
        assert not any("\n" in value or "\r" in value for value in head.headers.values())
        use_head(head)
        if head.chunks is not None:
            read_chunks(head.chunks, data[end:])


def read_chunks(chunks: messages.Chunks, data: bytes) -> None:
    """Feed *data* in pieces of a few sizes, and count what comes out."""
    come, at = 0, 0
    while at < len(data) and not chunks.is_complete:
        step = 1 + at % 700
        try:
            come += sum(map(len, chunks.feed(data[at : at + step])))
        except messages.Malformed:
            return
        at += step
    assert come <= len(data)


def use_head(head: messages.Head) -> None:
    """Ask what a reply means for ranges with and without a checksum, and for a whole object."""
    access = Access(parse_prefix("file:///repository"))
    wanted = [access.repository_object("key", 100)]
    for checksum in (None, ETag('"tag"'), ETag('W/"tag"'), LastModified(10**9)):
        for offset, length in ((0, 100), (5, 7), (2**62, 2**40)):
            ref = ChunkRef(ChunkKind.NATIVE, length, "chunks/KEY", offset, checksum)
            wanted.append(access.authorize(ref))
    with contextlib.suppress(SourceError, Transient, PreconditionFailed):
        replies.judge(head, WHERE)
    size = replies.size(head)
    assert size is None or size >= 0
    for proof in wanted:
        with contextlib.suppress(SourceError):
            seen, length = replies.describe(head, proof)
            assert length == (proof.range.length if proof.range else proof.max_length)
            version = versions.verify(proof, seen)
            assert version
            assert versions.verify(proof, seen, version) == version


def heads() -> Iterable[bytes]:
    """Yield replies of stores."""
    for status, headers in (
        (
            "200 OK",
            ["Content-Length: 100", 'ETag: "tag"', "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"],
        ),
        (
            "206 Partial Content",
            ["Content-Length: 7", 'ETag: "tag"', "Content-Range: bytes 5-11/100"],
        ),
        (
            "206 Partial Content",
            ["content-range: bytes 0-99/*", 'etag: W/"tag"', "transfer-encoding: chunked"],
        ),
        (
            "503 Slow Down",
            [
                "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",
                "Connection: close",
                "Content-Length: 0",
            ],
        ),
        ("301 Moved", ["Location: http://[::1]/x", "Retry-After: 120", "Content-Encoding: gzip"]),
        ("416 Range Not Satisfiable", ["Content-Range: bytes */100", "Content-Length: 0"]),
    ):
        body = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n"
        yield "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def run_listing(data: bytes) -> None:
    """Read a page of a listing, as each store writes it."""
    problem = None
    for read in (listing.s3, listing.azure):
        try:
            page = read(data, WHERE)
        except SourceError as error:
            problem = error
            continue
        assert len(page.objects) <= listing.MAX_KEYS
        assert all(listed.key and 0 <= listed.length < 10**18 for listed in page.objects)
        for deep in (True, False):
            below = listing.relative(page, "a/", deep=deep).objects
            assert deep or not any("/" in listed.key[:-1] for listed in below)
        return
    assert problem is not None
    raise problem


def listings() -> Iterable[bytes]:
    """Yield pages of listings."""
    yield (
        b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        b"<NextContinuationToken>token</NextContinuationToken>"
        b"<Contents><Key>a/b%20c+d</Key><Size>1</Size></Contents><Contents><Key>a/&amp;&#233;</Key>"
        b"<LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>&quot;abc&quot;</ETag><Size>10</Size></Contents>"
        b"<CommonPrefixes><Prefix>a/folder/</Prefix></CommonPrefixes>"
        b"</ListBucketResult>"
    )
    yield (
        b'\xef\xbb\xbf<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name Encoded="true">a%2Fb</Name>'
        b"<Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified><Etag>0x8D</Etag>"
        b"<Content-Length>3</Content-Length><ResourceType>file</ResourceType></Properties></Blob>"
        b"<Blob><Name>d</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>"
        b"<BlobPrefix><Name>a/e/</Name></BlobPrefix></Blobs>"
        b"<NextMarker>m</NextMarker></EnumerationResults>"
    )


def run_secret(data: bytes) -> None:
    """Read a file of credentials; an error says nothing that stands in it."""
    said = ""
    try:
        said = repr(secretfile.parse(data, WHERE))
    except SourceError as error:
        said = str(error)
        raise
    finally:
        assert SECRET not in said


def secrets() -> Iterable[bytes]:
    """Yield files of credentials."""
    for fields in (
        {"access-key-id": "AKIA", "secret-access-key": SECRET},
        {"access-key-id": "AKIA", "secret-access-key": SECRET, "session-token": SECRET},
        {"account-key": base64.b64encode(SECRET.encode()).decode()},
        {"sas-token": f"?sv=2024-01-01&sig={SECRET}"},
        {"bearer-token": SECRET},
        {"username": "me", "password": SECRET},
    ):
        yield "".join(f'{key} = "{value}"\n' for key, value in fields.items()).encode()


HEAD_DAMAGE = mutations.with_tokens(
    "\r\n", "\n", "\r", "\0", " ", ":", "HTTP/1.1 206 X\r\n", "HTTP/1.0", "Transfer-Encoding: chunked\r\n",
    "Content-Length: 18446744073709551616\r\n", "Content-Length: 7\r\n", "Content-Range: bytes 5-11/100\r\n",
    "bytes 9999999999999999999-9999999999999999999/9999999999999999999", "ffffffffffffffff\r\n", "\r\n\r\n", "٣",
    "Retry-After: 999999\r\n", "Last-Modified: Mon, 99 Foo 99999 25:61:61 +9999\r\n", "ETag: \"\"\r\n", "W/", ",", "x" * 2000,
    "Sat, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Connection: Upgrade\r\nUpgrade: x\r\n",
)  # fmt: skip

LISTING_DAMAGE = mutations.with_tokens(
    "<Contents>", "</Contents>", "<Contents><Key>k</Key></Contents>", "<Key>", "</Key>", "<Name>", '<!DOCTYPE a [<!ENTITY b "c">]>',
    "&b;", "&#0;", "&#xD800;", "<![CDATA[x]]>", "<!-- -->", "<?x y?>", "%ff", "%00", "%", "<a>", '<a xmlns:b="c"/>',
    '<?xml version="1.0" encoding="UTF-16"?>', "\xff", "\ud800", "<IsTruncated>true</IsTruncated>", 'Encoded="true"', "x" * 20_000,
)  # fmt: skip

SECRET_DAMAGE = mutations.with_tokens(
    *mutations.NAMES, SECRET, "\n", "=", "[", "]", "{", '"', "bearer-token", "password", "username", "account-key", "sas-token", "9" * 5000, ":", "\r",
)  # fmt: skip
