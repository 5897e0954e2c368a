"""The dialect of plain web servers: a location is its own URL.

Credentials are sent only where the configuration names some for this very prefix; by default there
are none. Servers have no common way to list.
"""

import functools
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Request
from vzfs.source.credentials import Keyring
from vzfs.source.dialect import Page

_SEGMENTS: Final = re.compile(r"[/\\]")
_DENIED: Final = frozenset({401, 403, 407})


class Http:
    """The `Dialect` of `http:` and `https:` locations."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def request(
        self, method: str, place: Location, store: StoreOptions, headers: Mapping[str, str]
    ) -> Request:
        """Address a request for an object. Raises SourceError."""
        target = _target(place)
        if target is None:
            raise SourceError(
                ErrorKind.BAD_LOCATION,
                "some servers take this key for a way out of its folder",
                where=str(place),
                advice="the repository must refer to it by its own name",
            )
        if store.credentials is not None:
            if place.scheme == "http" and not store.allow_http:
                raise SourceError(
                    ErrorKind.SOURCE_DENIED,
                    "credentials are not sent in the clear",
                    where=str(place),
                    advice="use https:, or allow it with --allow-http, or allow-http in its [[bucket]], "
                    "if the network can be trusted",
                )
            secret = await self._keyring.http(store, place.authority)
            if secret is not None:
                headers = {**headers, "authorization": secret}
        return Request(method, place.scheme, place.authority, target, headers)

    async def listing(
        self, below: Prefix, store: StoreOptions, after: str, *, deep: bool = True
    ) -> Request:
        """Raise SourceError: HTTP has no listings."""
        raise _unlisted(below)

    def page(self, below: Prefix, body: bytes) -> Page:
        """Raise SourceError: there are no listings to read."""
        raise _unlisted(below)

    def reach(self, root: Prefix, store: StoreOptions) -> Reach:
        """Say which addresses the user named: the host of the allowed prefix is one of them."""
        host = urllib.parse.urlsplit(f"//{root.authority}").hostname or ""
        return reach_of([host], store.addresses)

    def refused(
        self, status: int, headers: Mapping[str, str], where: str, store: StoreOptions
    ) -> SourceError | None:
        """Say what to do about credentials."""
        if status not in _DENIED:
            return None
        advice = (
            "name the credentials of this server in a [[bucket]]"
            if store.credentials is None
            else f"check the credentials that the [[bucket]] names ({store.credentials})"
        )
        return SourceError(
            ErrorKind.SOURCE_DENIED, f"the server answers {status}", where=where, advice=advice
        )

    def learn(
        self, status: int, headers: Mapping[str, str], place: Location | Prefix, store: StoreOptions
    ) -> bool:
        """Learn nothing: redirects are not of this dialect alone."""
        return False

    def forget(self, store: StoreOptions) -> bool:
        """Forget the credentials of *store*; True if another attempt may have others."""
        return store.credentials is not None and self._keyring.forget(store, "http")


@functools.lru_cache(4096)
def _target(place: Location) -> str | None:
    """Return what is asked for of its server; None for a key that leads out of its folder."""
    if any(part.partition(";")[0] in {".", ".."} for part in _SEGMENTS.split(place.key)):
        return None
    return str(place)[len(place.scheme) + len("://") + len(place.authority) :]


def _unlisted(below: Prefix) -> SourceError:
    return SourceError(
        ErrorKind.CANNOT_LIST,
        "names on an HTTP server cannot be listed",
        where=str(below),
        advice="name a branch, a tag or a snapshot exactly",
    )
