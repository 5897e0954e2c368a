"""Listings of stores: what is read from their XML, and what is not."""

import time
import urllib.parse
from collections.abc import Callable
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import ETag, LastModified
from vzfs.source import Listed, listing
from vzfs.source.dialect import Page

WHERE = "s3://bucket/below/"
READERS = {"s3": listing.s3, "azure": listing.azure}

keys_of_xml = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters="\ufffe\uffff"),
    min_size=1,
    max_size=30,
)
keys_of_stores = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def keys_of(page: Page) -> list[str]:
    return [listed.key for listed in page.objects]


def s3_xml(keys: list[str], *more: str) -> bytes:
    """Return a page of ListObjectsV2, as S3 writes it; the keys as they are to be in the XML."""
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        "<ETag>&quot;abc&quot;</ETag><Size>1</Size><Owner><ID>x</ID></Owner></Contents>"
        for key in keys
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
        f"<Prefix>below/</Prefix>{contents}{''.join(more)}</ListBucketResult>"
    ).encode()


def azure_xml(blobs: str, marker: str = "") -> bytes:
    """Return a page of List Blobs, as Azure writes it, its byte order mark included."""
    return (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://'
        'a.blob.core.windows.net/" ContainerName="c"><Prefix>below/</Prefix><MaxResults>2</MaxResults>'
        f"<Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


def blob(name: str, attributes: str = "", properties: str = "") -> str:
    """Return one entry of Azure's listing."""
    return (
        f"<Blob><Name{attributes}>{escape(name)}</Name><Properties><Etag>0x8D</Etag>"
        f"<Content-Length>12</Content-Length>{properties}</Properties></Blob>"
    )


@given(st.lists(keys_of_xml, max_size=5))
@example(["a&b<c>", " lead and trail ", "%41+b", "é\U0001f600"])
def test_keys_of_a_listing_are_read_verbatim(keys: list[str]) -> None:
    """Without an encoding, keys are what the XML says, blanks, percent and plus signs included."""
    assert keys_of(listing.s3(s3_xml(keys), WHERE)) == keys
    assert keys_of(listing.azure(azure_xml("".join(map(blob, keys))), WHERE)) == keys


@pytest.mark.parametrize("quote", [urllib.parse.quote, urllib.parse.quote_plus])
@given(keys=st.lists(keys_of_stores, max_size=5))
@example(keys=["\x01\x1f\ufffe", "a+b c%41", "a//../b"])
def test_encoded_keys_arrive_whole(quote: Callable[[str], str], keys: list[str]) -> None:
    """Where the reply says `url`, any key comes through, blanks as %20 or as plus signs."""
    body = s3_xml([quote(key) for key in keys], "<EncodingType>url</EncodingType>")
    assert keys_of(listing.s3(body, WHERE)) == keys


def test_azure_encodes_single_names() -> None:
    """A name that Azure marks as encoded is decoded, and the others are not."""
    body = azure_xml(blob("a%EF%BF%BEb", ' Encoded="true"') + blob("a%20b", ' Encoded="false"'))
    assert keys_of(listing.azure(body, WHERE)) == ["a\ufffeb", "a%20b"]


def test_folders_of_azure_are_no_keys() -> None:
    """Accounts with directories list them among the blobs; they are left out."""
    folder = blob("below/dir", properties="<ResourceType>directory</ResourceType>")
    file = blob("below/dir/x", properties="<ResourceType>file</ResourceType>")
    assert keys_of(listing.azure(azure_xml(folder + file), WHERE)) == ["below/dir/x"]


def test_a_page_names_the_next() -> None:
    """The token of the next page is taken as it is, and only if there is more."""
    token = "<NextContinuationToken>1/+==&amp;</NextContinuationToken>"
    more, end = "<IsTruncated>true</IsTruncated>", "<IsTruncated>false</IsTruncated>"
    assert listing.s3(s3_xml(["k"], more, token), WHERE).after == "1/+==&"
    assert listing.s3(s3_xml(["k"], end, token), WHERE).after == ""
    assert listing.azure(azure_xml(blob("k"), "2!108!MDA="), WHERE).after == "2!108!MDA="
    assert listing.azure(azure_xml(""), WHERE) == Page([], "")


def test_only_what_lies_below_is_kept() -> None:
    """Keys outside of the prefix that was asked for, and the prefix itself, are left out."""
    keys = ["below/", "below/x", "belowx", "other/x", "Below/x"]
    page = Page([Listed(key, 1) for key in keys], "t")
    assert listing.below(page, "below/") == Page([Listed("below/x", 1)], "t")
    assert listing.below(page, "") == page


def test_one_level_has_objects_and_folders() -> None:
    """Of one level a page has its objects, and folders once, also of a store that lists deeper than asked."""
    keys = ["d/a", "d/b/", "d/b/c", "d/e/f/g", "d//h", "d/"]
    page = Page([Listed(key, 1) for key in keys], "t")
    assert listing.relative(page, "d/", deep=False) == Page(
        [Listed("a", 1), Listed("b/"), Listed("e/")], "t"
    )
    assert keys_of(listing.relative(page, "d/", deep=True)) == ["a", "b/c", "e/f/g", "/h"]


def test_folders_are_told_from_objects() -> None:
    """What stores list as common prefixes are folders, decoded as keys are, with a slash at the end."""
    prefixes = "".join(
        f"<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>" for p in ("a+b%2F", "c/d")
    )
    body = s3_xml(["k"], prefixes, "<EncodingType>url</EncodingType>")
    assert listing.s3(body, WHERE).objects[1:] == [Listed("a b/"), Listed("c/d/")]
    body = azure_xml('<BlobPrefix><Name Encoded="true">a%2F</Name></BlobPrefix>' + blob("x"))
    assert listing.azure(body, WHERE).objects[0] == Listed("a/")


@pytest.mark.parametrize(
    ("said", "listed"),
    [
        ("<Size>0</Size><ETag>&quot;x&quot;</ETag>", Listed("k", 0, ETag('"x"'))),
        ("<Size>7</Size><ETag>W/x</ETag>", Listed("k", 7, ETag("W/x"))),
        ("<Size>7</Size>", Listed("k", 7)),
        ("<Size>7</Size><ETag>&quot;&quot;</ETag>", Listed("k", 7)),
        (
            "<Size>7</Size><LastModified>1970-01-01T00:01:00.900Z</LastModified>",
            Listed("k", 7, LastModified(60)),
        ),
        ("<Size>7</Size><LastModified>1969-01-01T00:00:00Z</LastModified>", Listed("k", 7)),
        ("<Size>7</Size><LastModified>yesterday</LastModified>", Listed("k", 7)),
        (f"<Size>7</Size><ETag>{'x' * 2000}</ETag>", Listed("k", 7)),
    ],
)
def test_an_object_has_its_size_and_version(said: str, listed: Listed) -> None:
    """An object is listed with its size and its version: its etag, else its date, else none."""
    body = s3_xml([]).replace(b"</List", f"<Contents><Key>k</Key>{said}</Contents></List".encode())
    assert listing.s3(body, WHERE).objects == [listed]
    name = said.replace("Size", "Content-Length").replace("ETag", "Etag")
    name = name.replace("LastModified", "Last-Modified")
    body = azure_xml(f"<Blob><Name>k</Name><Properties>{name}</Properties></Blob>")
    assert listing.azure(body, WHERE).objects == [listed]


def test_azure_writes_dates_as_http_does() -> None:
    """Where only the date tells the version, both ways to write it are read."""
    said = "<Content-Length>1</Content-Length><Last-Modified>Thu, 01 Jan 1970 00:02:00 GMT</Last-Modified>"
    body = azure_xml(f"<Blob><Name>k</Name><Properties>{said}</Properties></Blob>")
    assert listing.azure(body, WHERE).objects == [Listed("k", 1, LastModified(120))]


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">'
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)

REFUSED = {
    "nothing": b"",
    "text": b"Access denied",
    "a page of HTML": b"<html><body>Sign in</body></html>",
    "an error": b"<Error><Code>AccessDenied</Code></Error>",
    "cut short": s3_xml(["k"])[:-10],
    "followed by more": s3_xml(["k"]) + b"<x/>",
    "a bomb of entities": BOMB.encode() + s3_xml(["k"])[39:].replace(b">k<", b">&i;<"),
    "an unused document type": b"<!DOCTYPE ListBucketResult>" + s3_xml(["k"])[39:],
    "an external document type": b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + s3_xml(["k"])[39:],
    "an undeclared entity": s3_xml(["k"]).replace(b">k<", b">&k;<"),
    "another encoding than UTF-8": s3_xml(["é"])
    .replace(b"\xc3\xa9", b"\xe9")
    .replace(b"UTF-8", b"latin1"),
    "too deep": b"<ListBucketResult>" + b"<a>" * 20 + b"</a>" * 20 + b"</ListBucketResult>",
    "far too deep": b"<ListBucketResult>" + b"<a>" * 10**6,
    "too many keys": s3_xml(["k"] * 10_001),
    "a key too long": s3_xml(["k" * 20_000]),
    "too many bytes": s3_xml([], " " * 2**23),
    "an object without a key": s3_xml([]).replace(b"</List", b"<Contents/></List"),
    "an empty key": s3_xml([""]),
    "an object without a size": s3_xml(["k"]).replace(b"<Size>1</Size>", b""),
    "a size that is none": s3_xml(["k"]).replace(b"<Size>1", b"<Size>-1"),
    "a size beyond all objects": s3_xml(["k"]).replace(b"<Size>1", b"<Size>1" + b"0" * 18),
    "a key with elements in it": s3_xml(["k"]).replace(b">k<", b">k<b/>k<"),
    "an unknown encoding of keys": s3_xml(["k"], "<EncodingType>base64</EncodingType>"),
    "encoded keys that are no text": s3_xml(["%ff"], "<EncodingType>url</EncodingType>"),
    "more, without a way to it": s3_xml(["k"], "<IsTruncated>true</IsTruncated>"),
}

REASONS = {
    "nothing": "not XML",
    "text": "not XML",
    "a page of HTML": "not a listing",
    "an error": "not a listing",
    "cut short": "not XML",
    "followed by more": "not XML",
    "a bomb of entities": "document type",
    "an unused document type": "document type",
    "an external document type": "document type",
    "an undeclared entity": "not XML",
    "another encoding than UTF-8": "not XML",
    "too deep": "deeper than 16",
    "far too deep": "deeper than 16",
    "too many keys": "more than 10000 keys",
    "a key too long": "more than 16384 characters",
    "too many bytes": "more than 8388608 bytes",
    "an object without a key": "no key",
    "an empty key": "no key",
    "an object without a size": "no size",
    "a size that is none": "no size",
    "a size beyond all objects": "no size",
    "a key with elements in it": "no key",
    "an unknown encoding of keys": "unknown way",
    "encoded keys that are no text": "not UTF-8",
    "more, without a way to it": "not how to ask",
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_a_listing_is_refused(case: str) -> None:
    """A reply that is no listing, or wants too much, is one error that quotes nothing, and at once."""
    began = time.process_time()
    with pytest.raises(SourceError, match=REASONS[case]) as caught:
        listing.s3(REFUSED[case], WHERE)
    assert REFUSED.keys() == REASONS.keys()
    assert time.process_time() - began < 2
    assert caught.value.kind is ErrorKind.SOURCE_MISMATCH
    assert caught.value.where == WHERE
    assert "passwd" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        s3_xml(["k"]),
        azure_xml("<Blob/>"),
        azure_xml(blob("%ff", ' Encoded="true"')),
        b"<!DOCTYPE x>" + azure_xml(blob("k"))[41:],
    ],
    ids=["another store's", "without a name", "encoded wrongly", "document type"],
)
def test_what_is_not_a_listing_of_azure_is_refused(body: bytes) -> None:
    """Azure's listings are read as strictly as the others."""
    with pytest.raises(SourceError, match="listing"):
        listing.azure(body, WHERE)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@given(data=st.data())
def test_a_damaged_listing_is_a_listing_or_an_error(
    read: Callable[[bytes, str], Page], data: st.DataObject
) -> None:
    """Any bytes give keys or SourceError, and nothing else."""
    body = bytearray(
        s3_xml(["a", "b"], "<EncodingType>url</EncodingType>")
        if read is listing.s3
        else azure_xml(blob("a", ' Encoded="true"') + blob("b"))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(body) - 1))
        body[where : where + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        page = read(bytes(body), WHERE)
    except SourceError:
        return
    assert all(listed.key for listed in page.objects)
