"""Where a redirect says that a repository lies: Icechunk's redirect storage.

A web server answers with a redirect to the storage itself. Redirects between web servers are
followed; the first that names a storage ends the way. Nothing is sent but the questions, and of the
answers only the heads are read. The server is a stranger: where it points to is a proposal, which
counts only where the user has allowed that place, and what it says of the way there (a region, R2's
account) is checked character by character.

The forms are those of Icechunk's `redirect_storage` (icechunk/src/storage/redirect.rs).
"""

import contextlib
import re
import urllib.parse
from typing import Final, NamedTuple

import vzfs
from vzfs.access import StoreOptions
from vzfs.errors import AccessDenied, ErrorKind, SourceError
from vzfs.model.location import Location, Prefix, parse_location, parse_prefix
from vzfs.source.addresses import reach_of
from vzfs.source.client import Client, Request, Trouble
from vzfs.source.dialect import REDIRECTS
from vzfs.source.replies import PASSING
from vzfs.source.wire import Transient

MAX_HOPS: Final = 10
MAX_TARGET: Final = 8192
"""Characters of a Location header."""

_STORAGES: Final = frozenset({"s3", "gs", "gcs", "r2", "tigris"})
_WEB: Final = re.compile(r"(https?)\+(?:icechunk|ic)://", re.IGNORECASE)
_VALUE: Final = re.compile(r"[a-z0-9-]{1,64}\Z")
_PARAMETERS: Final = {"s3": {"region"}, "tigris": {"region"}, "r2": {"account_id", "region"}}


class Target(NamedTuple):
    """A storage that a redirect names, and how it is reached; never with credentials."""

    prefix: Prefix
    store: StoreOptions


async def follow(client: Client, start: Location, store: StoreOptions) -> Target:
    """Ask the web server at *start*, which the user named, where the repository is.

    Raises Transient, SourceError.
    """
    host = urllib.parse.urlsplit(f"//{start.authority}").hostname or ""
    place = start
    named, unnamed = reach_of([host], store.addresses), reach_of([], ())
    for _ in range(MAX_HOPS):
        # Only the server that the user named is the user's own word.
        reach = named if place.authority == start.authority else unnamed
        origin = len(place.scheme) + len("://") + len(place.authority)
        headers = {"user-agent": f"vzfs/{vzfs.__version__}", "accept-encoding": "identity"}
        target = str(place)[origin:]
        request = Request("GET", place.scheme, place.authority, target, headers)
        try:
            with await client.send(request, reach) as response:
                status, said = response.status, response.headers.get("location", "")
                await response.discard()
        except Trouble as trouble:
            error = SourceError(trouble.kind, trouble.what, where=str(place), advice=trouble.advice)
            raise (Transient(error) if trouble.passes else error) from None
        if status in PASSING:
            what = f"the server answers {status}"
            raise Transient(SourceError(ErrorKind.SOURCE_UNREACHABLE, what, where=str(place)))
        if status not in REDIRECTS or not said or len(said) > MAX_TARGET:
            raise SourceError(
                ErrorKind.SOURCE_MISMATCH,
                f"the server does not redirect to a storage (it answers {status})",
                where=str(place),
                advice="leave out redirect+ if the repository itself is here",
            )
        try:
            url = urllib.parse.urljoin(str(place), said)
        except ValueError:
            raise _refused("it leads to an address that is malformed", str(place)) from None
        if not url.lower().startswith(("http://", "https://")):
            return read_target(url, str(start))
        place = _next(place, url)
    raise SourceError(
        ErrorKind.SOURCE_MISMATCH, f"more than {MAX_HOPS} redirects", where=str(start)
    )


def read_target(url: str, where: str) -> Target:
    """Read the URL of a storage that the redirect at *where* gave. Pure. Raises SourceError."""
    web = _WEB.match(url)
    if web:
        url = f"{web[1].lower()}://{url[web.end() :]}"
    address, _, query = url.partition("?")
    scheme = address.partition("://")[0].lower()
    if not web and scheme not in _STORAGES:
        raise _refused("it leads to no storage that is known", where)
    allowed = _PARAMETERS.get(scheme, set())
    parameters: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in allowed or name in parameters or not _VALUE.match(value):
            # Dropping a part of the query could name another place.
            raise _refused("it leads to an address with a query that is not understood", where)
        parameters[name] = value
    if scheme == "r2":
        address = "s3" + address[len("r2") :]
    try:
        prefix = parse_prefix(address)
    except AccessDenied as refusal:
        raise _refused(refusal.what, where) from None
    region, endpoint, path_style = parameters.get("region"), None, None
    if scheme == "r2":
        if "account_id" not in parameters:
            raise _refused("it leads to R2 without an account", where)
        endpoint = f"https://{parameters['account_id']}.r2.cloudflarestorage.com"
        region, path_style = region or "auto", True
    return Target(
        prefix,
        StoreOptions(region=region, endpoint=endpoint, path_style=path_style, anonymous=True),
    )


def _next(place: Location, url: str) -> Location:
    """Return the web server that a hop leads to. Raises SourceError."""
    location = None
    with contextlib.suppress(AccessDenied, ValueError):
        location = parse_location(url)
    if location is None:
        raise _refused("it leads to an address that cannot be read in one way", str(place))
    if place.scheme == "https" and location.scheme != "https":
        raise _refused("it leads from https: to http:", str(place))
    return location


def _refused(what: str, where: str) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_DENIED,
        f"the redirect is not followed: {what}",
        where=where,
        advice="ask whoever runs this server, or mount the repository itself",
    )
