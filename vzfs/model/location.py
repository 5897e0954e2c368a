"""Parsed locations, prefixes, ranges and checksums: one reading of a string at a security boundary.

A location is parsed exactly once; what authorizes it and what fetches it use the same parsed value.
The key of an object store or HTTP location is its percent-decoded path, verbatim: `//`, `.` and
`..` are legal there. A `file:` path is decoded and then normalized, so that what is compared with
an authorized prefix is what will be opened. A location with a query, a fragment or credentials is
refused: dropping any of them could name another object.
"""

import dataclasses
import ipaddress
import os
import posixpath
import re
import urllib.parse
from typing import Final, NamedTuple

from vzfs.errors import AccessDenied, ErrorKind

MAX_LOCATION_LENGTH: Final = 8192
"""Characters. More than servers accept in a URL, and a bound on what one ref can make us hold."""

SCHEMES: Final = frozenset({"s3", "gs", "az", "abfs", "tigris", "http", "https", "file", "memory"})
_ALIASES: Final = {"gcs": "gs", "azure": "az", "s3a": "s3"}
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?\Z")
_PORT = re.compile(r"(.*?)(?::([0-9]+))?")
_BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNENCODED: Final = "/!$&'()*+,;=:@~"


class _Hashed:
    __slots__ = ("_hash",)

    def __reduce__(self) -> tuple[object, ...]:
        # Another process hashes texts in another way.
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return type(self), tuple(values)


@dataclasses.dataclass(frozen=True, slots=True)
class Location(_Hashed):
    """Where an object lies: *scheme*, *authority* (bucket or host, "" for `file`) and *key*.

    The slash between authority and key belongs to neither: `file:///a/b` has the key `a/b`.
    """

    scheme: str
    authority: str
    key: str

    def __post_init__(self) -> None:
        # What is known of an object is looked up by its location, several times for each read.
        object.__setattr__(self, "_hash", hash((self.scheme, self.authority, self.key)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __str__(self) -> str:
        """Give the URL that parses to this value."""
        key = urllib.parse.quote(self.key, safe=_UNENCODED, errors="surrogateescape")
        return f"{self.scheme}://{self.authority}/{key}"

    @property
    def is_verbatim(self) -> bool:
        """Whether any client can ask for exactly this key: no empty, `.` or `..` segment, no control character."""
        segments = self.key.split("/")
        return not _CONTROL.search(self.key) and not any(s in {"", ".", ".."} for s in segments)


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """A place below which locations lie, compared on whole path segments.

    `s3://b/data` and `s3://b/data/` are the same prefix; it covers `s3://b/data/x` and not
    `s3://b/database`.
    """

    scheme: str
    authority: str
    key: str

    def __str__(self) -> str:
        """Give the URL of the prefix, ending in a slash."""
        return str(Location(self.scheme, self.authority, self.key and self.key + "/"))

    def covers(self, place: "Location | Prefix") -> bool:
        """Whether *place* is this prefix or lies below it."""
        if (self.scheme, self.authority) != (place.scheme, place.authority):
            return False
        return not self.key or place.key == self.key or place.key.startswith(self.key + "/")

    def relative(self, location: Location) -> str:
        """Return the part of *location*'s key below this prefix, which covers it."""
        return location.key[len(self.key) :].removeprefix("/") if self.key else location.key

    def join(self, relative: str) -> Location:
        """Return the location of the key *relative* below this prefix."""
        key = "/".join(part for part in (self.key, relative) if part)
        return Location(self.scheme, self.authority, key)


class ByteRange(NamedTuple):
    """*length* bytes of an object from *offset* on."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the first byte behind the range."""
        return self.offset + self.length


@dataclasses.dataclass(frozen=True, slots=True)
class ETag:
    """The entity tag that an object must have, as the repository recorded it, quoted or not."""

    value: str

    @property
    def is_weak(self) -> bool:
        """Whether two objects with this tag may differ in bytes (RFC 9110, 8.8.1)."""
        return self.value.startswith("W/")

    @property
    def opaque(self) -> str:
        """The tag without its quotes and weakness: what two spellings of one tag share."""
        return self.value.removeprefix("W/").removeprefix('"').removesuffix('"')


@dataclasses.dataclass(frozen=True, slots=True)
class LastModified:
    """The object must not have been modified after *seconds* since the Unix epoch."""

    seconds: int


type Checksum = ETag | LastModified


def parse_location(text: str) -> Location:
    """Parse an absolute URL into the object that it names.

    Raises AccessDenied for what cannot be read in exactly one way, or names no object.
    """
    location = _parse(text)
    if not location.key:
        raise _refusal(text, "it names no object")
    return location


def parse_prefix(text: str) -> Prefix:
    """Parse an absolute URL or an absolute local path into a prefix.

    Raises AccessDenied where there is no bucket or host, or, for `file:`, no path: such a prefix
    would authorize everything.
    """
    if text.startswith("/"):
        text = path_to_url(text)
    location = _parse(text)
    if not location.authority and not location.key:
        raise _refusal(text, "a prefix needs a bucket, a host or a path")
    return Prefix(location.scheme, location.authority, location.key.removesuffix("/"))


def path_to_url(path: str | os.PathLike[str]) -> str:
    """Return the `file:` URL of a local path, made absolute."""
    quoted = urllib.parse.quote(os.path.abspath(path), safe=_UNENCODED, errors="surrogateescape")  # noqa: PTH100 -- lexical: a link is not followed
    return "file://" + quoted


def _parse(text: str) -> Location:
    if len(text) > MAX_LOCATION_LENGTH:
        raise _refusal(text[:64] + "...", f"it is longer than {MAX_LOCATION_LENGTH} characters")
    scheme, separator, rest = text.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    if not separator or scheme not in SCHEMES:
        raise _refusal(text, "it is not a URL of a known scheme")
    if "?" in rest or "#" in rest:
        # Queries hold signatures, and credentials may stand before them.
        shown = f"{scheme}://..." if "@" in rest else re.split(r"[?#]", text, maxsplit=1)[0]
        raise _refusal(
            shown, "it has a query or a fragment (write %3F for ? and %23 for # in a key)"
        )
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise _refusal(scheme + "://...", "it carries credentials")
    return Location(scheme, _authority(text, scheme, authority), _key(text, scheme, path))


def _authority(text: str, scheme: str, authority: str) -> str:
    if scheme in {"file", "memory"}:
        if authority not in {"", "localhost"}:
            raise _refusal(text, f"a {scheme}: location has no host")
        return ""
    if scheme in _DEFAULT_PORTS:
        authority = authority.lower().removesuffix(_DEFAULT_PORTS[scheme])
    is_host = scheme in _DEFAULT_PORTS
    if not (_HOST if is_host else _BUCKET).match(authority) or (
        is_host and not _is_server(authority)
    ):
        # What has a slash in its password looks like this too.
        shown = f"{scheme}://..." if "@" in text else text
        raise _refusal(shown, "its bucket or host is missing or malformed")
    return authority


def _is_server(authority: str) -> bool:
    """Whether the address in brackets, and the port, are such."""
    host, port = _PORT.fullmatch(authority).groups()  # type: ignore[union-attr]  # anything matches
    if port and not 0 < int(port) < 65536:
        return False
    try:
        return not host.startswith("[") or bool(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        return False


def _key(text: str, scheme: str, path: str) -> str:
    try:
        errors = "surrogateescape" if scheme == "file" else "strict"
        key = urllib.parse.unquote(path, errors=errors)
        key.encode(errors=errors)
    except UnicodeError:
        raise _refusal(text, "its path is not UTF-8") from None
    if "\0" in key:
        raise _refusal(text, "its path has a NUL")
    if scheme == "file":
        key = posixpath.normpath("/" + key).lstrip("/")
    return key


def _refusal(text: str, reason: str) -> AccessDenied:
    # Half of a surrogate pair cannot be written down.
    text = text.encode("utf-8", "backslashreplace").decode()
    return AccessDenied(ErrorKind.BAD_LOCATION, f"the location is refused: {reason}", where=text)
