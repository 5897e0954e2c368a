"""What stores differ in: how an object is addressed, how a request is signed, how names are listed.

A `Dialect` puts requests into words and takes refusals apart. It sends nothing: the engine does,
and judges status, range, length and version alike for all of them. Keys are verbatim: what is
percent-encoded here is decoded once by the server and by nobody before.

An endpoint comes from the user's side alone. It is read here, once for all dialects, so that one
reading decides where credentials go.
"""

import functools
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source.addresses import Reach, split_authority
from vzfs.source.client import Request
from vzfs.source.fetcher import Listed

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
"""Statuses that send a client elsewhere."""

_PORTS: Final = {"https": ":443", "http": ":80"}
_HOST: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?\Z"
)
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*\Z")


class Page(NamedTuple):
    """One page of a listing: objects and folders by whole keys, and what asks for the page *after* it ("" at the end)."""

    objects: list[Listed]
    after: str


class Dialect(Protocol):
    """How one kind of store is spoken to. Holds no connection, and is shared by all requests."""

    async def request(
        self, method: str, place: Location, store: StoreOptions, headers: Mapping[str, str]
    ) -> Request:
        """Address a request for an object, and sign it with its *headers*.

        Raises SourceError: `BAD_CONFIG` or `SOURCE_DENIED` where options or credentials do not do,
        `BAD_LOCATION` for a key that this store cannot be asked for.
        """

    async def listing(
        self, below: Prefix, store: StoreOptions, after: str, *, deep: bool = True
    ) -> Request:
        """Address a request for one page of what lies below a prefix, and sign it.

        All of it, or one level if not *deep*. *after* is what the page before said, "" at first. Raises SourceError as `request` does, and
        `CANNOT_LIST` where there are no listings.
        """

    def page(self, below: Prefix, body: bytes) -> Page:
        """Read the reply to `listing`, of what lies below the prefix. Raises SourceError (`SOURCE_MISMATCH`)."""

    def reach(self, root: Prefix, store: StoreOptions) -> Reach:
        """Return which addresses the user opened by naming hosts and networks for this store."""

    def refused(
        self, status: int, headers: Mapping[str, str], where: str, store: StoreOptions
    ) -> SourceError | None:
        """Say what a status means to this store, and what the user can do; None: what it means to all."""

    def learn(
        self,
        status: int,
        headers: Mapping[str, str],
        place: Location | Prefix,
        store: StoreOptions,
    ) -> bool:
        """Take in what a redirect or a 400 says. Return whether another attempt makes sense.

        To be asked once for one request: a server could send it from region to region for ever.
        """

    def forget(self, store: StoreOptions) -> bool:
        """After a 401 or 403, drop credentials that can be had anew; whether there were any."""


class Endpoint(NamedTuple):
    """Where a store is: *authority* is host and perhaps port, *path* is "" or begins with a slash."""

    scheme: str
    authority: str
    path: str

    @property
    def host(self) -> str:
        """The host alone, an IPv6 address without its brackets."""
        return split_authority(self.authority)[0]


def endpoint_of(store: StoreOptions, place: Location | Prefix) -> Endpoint | None:
    """Read the endpoint that the user names, if any.

    Raises SourceError: `BAD_CONFIG` if it is none, `SOURCE_DENIED` for plain http: without leave.
    """
    if store.endpoint is None:
        return None
    endpoint = _parse_endpoint(store.endpoint)
    if endpoint is None:
        raise SourceError(
            ErrorKind.BAD_CONFIG,
            "the endpoint is not an http: or https: URL of a host",
            where=str(place),
            advice="write it as https://HOST or http://HOST:PORT",
        )
    if endpoint.scheme == "http" and not store.allow_http:
        raise SourceError(
            ErrorKind.SOURCE_DENIED,
            "the endpoint is plain http:, which is not allowed",
            where=str(place),
            advice="allow it with --allow-http, or allow-http in its [[bucket]], if the network can be trusted",
        )
    return endpoint


@functools.lru_cache(256)
def _parse_endpoint(text: str) -> Endpoint | None:
    try:
        parts = urllib.parse.urlsplit(text)
        authority, path = parts.netloc.lower(), parts.path.rstrip("/")
        usable = parts.scheme in _PORTS and _HOST.match(authority) and _PATH.match(path)
        split_authority(authority)
    except ValueError:
        usable = None
    if not usable or parts.query or parts.fragment:
        return None
    return Endpoint(parts.scheme, authority.removesuffix(_PORTS[parts.scheme]), path)


@functools.lru_cache(4096)
def encode(text: str, safe: str = "") -> str:
    """Percent-encode all but letters, digits, `-._~` and what is *safe*."""
    return urllib.parse.quote(text, safe=safe, errors="surrogateescape")


def query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a query, percent-encoded so that no server reads it in another way."""
    return "&".join(f"{encode(name)}={encode(value)}" for name, value in pairs)


def folder(below: Prefix) -> str:
    """Return what the keys below a prefix begin with."""
    return f"{below.key}/" if below.key else ""
