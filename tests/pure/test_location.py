"""Locations and prefixes: one reading of a string."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.access import StoreOptions
from vzfs.errors import AccessDenied
from vzfs.model.location import ETag, Location, parse_location, parse_prefix, path_to_url

PARSED = {
    "s3://b/data/x": ("s3", "b", "data/x"),
    "S3://b/data/x": ("s3", "b", "data/x"),
    "s3a://b/x": ("s3", "b", "x"),
    "gcs://b/x": ("gs", "b", "x"),
    "s3://b/a//b/../c": ("s3", "b", "a//b/../c"),
    "s3://b//leading": ("s3", "b", "/leading"),
    "s3://b/trailing/": ("s3", "b", "trailing/"),
    "s3://b/a%20b%23%3F%25": ("s3", "b", "a b#?%"),
    "s3://b/%2520": ("s3", "b", "%20"),
    "s3://b/100%": ("s3", "b", "100%"),
    "file:///a/b": ("file", "", "a/b"),
    "file://localhost/a/b": ("file", "", "a/b"),
    "file:///a/../b": ("file", "", "b"),
    "file:///a/%2e%2e/b": ("file", "", "b"),
    "file:///../../b": ("file", "", "b"),
    "file:///a//b/./c": ("file", "", "a/b/c"),
    "http://Host:80/x": ("http", "host", "x"),
    "https://host:443/x": ("https", "host", "x"),
    "https://host:8443/x": ("https", "host:8443", "x"),
    "http://[::1]:9000/x": ("http", "[::1]:9000", "x"),
}
REFUSED = [
    "",
    "/a/b",
    "b/data",
    "s3:/b/x",
    "s3://",
    "s3:///x",
    "s3://b",
    "s3://b/",
    "s3://b/x?versionId=7",
    "s3://b/x#part",
    "s3://key:secret@b/x",
    "http:///x",
    "http://user:pass@host/x",
    "http://host:port/x",
    "http://ho st/x",
    "ftp://host/x",
    "mailto:someone",
    "file://host/a",
    "file:///",
    "file:///a/..",
    "s3://b/%ff",
    "s3://b/a%00b",
    "s3://b/" + "x" * 9000,
]


@pytest.mark.parametrize(("text", "parts"), PARSED.items())
def test_a_location_is_read_in_one_way(text: str, parts: tuple[str, str, str]) -> None:
    """Scheme and host are normalized, `file:` paths too, and keys of other stores stay verbatim."""
    assert parse_location(text) == Location(*parts)


@pytest.mark.parametrize("text", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(text: str) -> None:
    """A location without an object, or with a query, a fragment or credentials, names nothing."""
    with pytest.raises(AccessDenied):
        parse_location(text)


def test_a_refusal_does_not_repeat_credentials() -> None:
    """A secret in a location does not reach a log through the error."""
    with pytest.raises(AccessDenied) as caught:
        parse_location("http://user:hunter2@host/x")

    assert "hunter2" not in str(caught.value)


@given(st.sampled_from(["s3", "http", "gs"]), st.text(min_size=1).filter(lambda k: "\0" not in k))
def test_the_text_of_a_location_parses_to_it(scheme: str, key: str) -> None:
    """`str` and `parse_location` are inverse for every key that a store can have."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    location = Location(scheme, "b", key)

    assert parse_location(str(location)) == location


COVERED = {
    ("s3://b/data/", "s3://b/data/x"): True,
    ("s3://b/data", "s3://b/data/x"): True,
    ("s3://b/data/", "s3://b/data"): True,
    ("s3://b/data/", "s3://b/database/x"): False,
    ("s3://b/data", "s3://b/datax"): False,
    ("s3://b/data/", "s3://b/other/x"): False,
    ("s3://b", "s3://b/x"): True,
    ("s3://b/", "s3://bb/x"): False,
    ("s3://b/", "gs://b/x"): False,
    ("http://h/", "https://h/x"): False,
    ("http://h/", "http://h:8080/x"): False,
    ("file:///a/", "file:///a/../b"): False,
    ("file:///a/", "file:///a/%2e%2e/b"): False,
    ("/a", "file:///a/b"): True,
    ("s3://b/data//", "s3://b/data/x"): False,
    ("s3://b/da%74a/", "s3://b/data/x"): True,
}


@pytest.mark.parametrize(("pair", "is_covered"), COVERED.items())
def test_a_prefix_covers_whole_path_segments(pair: tuple[str, str], *, is_covered: bool) -> None:
    """What lies below a prefix is decided on segments of the decoded path, per scheme and authority."""
    prefix, location = pair

    assert parse_prefix(prefix).covers(parse_location(location)) == is_covered


@pytest.mark.parametrize("text", ["s3://", "file:///", "file://", "http://", "s3", "file", "/"])
def test_a_prefix_of_everything_is_no_prefix(text: str) -> None:
    """A prefix without a bucket, host or path is refused, since it would authorize everything."""
    with pytest.raises(AccessDenied):
        parse_prefix(text)


def test_a_local_path_becomes_a_url_that_means_it() -> None:
    """A path with any characters survives the way through a URL."""
    path = "/odd names/basin #1 100%?.nc"

    assert "/" + parse_location(path_to_url(path)).key == path


@pytest.mark.parametrize("spelling", ['"abc"', "abc", 'W/"abc"'])
def test_spellings_of_an_etag_share_their_opaque_part(spelling: str) -> None:
    """Quotes and weakness are not part of what two spellings of one tag share."""
    assert ETag(spelling).opaque == "abc"
    assert ETag(spelling).is_weak == spelling.startswith("W/")


VERBATIM = {"a/b": True, "a//b": False, "/a": False, "a/": False, "a/../b": False, ".": False}


@pytest.mark.parametrize(("key", "is_verbatim"), {**VERBATIM, "a\tb": False}.items())
def test_keys_that_clients_would_alter_are_recognized(key: str, *, is_verbatim: bool) -> None:
    """An empty, `.` or `..` segment and control characters do not pass through HTTP clients."""
    assert Location("s3", "b", key).is_verbatim == is_verbatim


def test_values_go_to_other_processes() -> None:
    """A location and the options of a store are the same value in another process, where texts hash otherwise."""
    for value in (Location("s3", "b", "k"), StoreOptions(region="x")):
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert hash(again) == hash(value)
