"""Azure Blob Storage: `az:` and `abfs:` locations, whose authority is the container.

Which storage account it is in, the user says: as an option, or in the endpoint.
A shared access signature is a part of the URL that is sent, and of nothing that is said.
"""

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source import listing, sharedkey
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Request
from vzfs.source.credentials.values import AzureKey, AzureSas
from vzfs.source.dialect import REDIRECTS, Endpoint, Page, encode, endpoint_of, folder, query

if TYPE_CHECKING:
    from vzfs.source.credentials import Keyring

VERSION: Final = "2021-12-02"
"""Of the interface. Since 2021-02-12 listings encode the names that XML cannot hold."""

DOMAIN: Final = "blob.core.windows.net"

_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}\Z")
_SEGMENTS: Final = re.compile(r"[/\\]")


class Azure:
    """A `Dialect` for `az:` and `abfs:` locations."""

    def __init__(self, keyring: "Keyring") -> None:
        self._keyring = keyring

    async def request(
        self, method: str, place: Location, store: StoreOptions, headers: Mapping[str, str]
    ) -> Request:
        """Address and sign a request for an object. Raises SourceError."""
        if any(segment in {".", ".."} for segment in _SEGMENTS.split(place.key)):
            raise SourceError(
                ErrorKind.BAD_LOCATION,
                "Azure takes . and .. in a key as folders, so another object would be read",
                where=str(place),
                advice="the repository must refer to it by its own name",
            )
        path = f"/{place.authority}/{encode(place.key, '/')}"
        return await self._signed(method, path, [], store, place, headers)

    async def listing(
        self, below: Prefix, store: StoreOptions, after: str, *, deep: bool = True
    ) -> Request:
        """Address and sign a request for one page of names. Raises SourceError."""
        pairs = [
            ("restype", "container"),
            ("comp", "list"),
            ("maxresults", str(listing.MAX_KEYS_ASKED)),
        ]
        # Parameters without a value are signed by some servers and left out by others.
        optional = ("prefix", folder(below)), ("delimiter", "" if deep else "/"), ("marker", after)
        pairs += [(name, value) for name, value in optional if value]
        return await self._signed("GET", f"/{below.authority}", pairs, store, below, {})

    def page(self, below: Prefix, body: bytes) -> Page:
        """Read one page of names. Raises SourceError."""
        return listing.below(listing.azure(body, str(below)), folder(below))

    def reach(self, root: Prefix, store: StoreOptions) -> Reach:
        """Return what the user opened: the endpoint's host, and networks."""
        endpoint = endpoint_of(store, root)
        return reach_of({endpoint.host} if endpoint else (), store.addresses)

    def refused(
        self, status: int, headers: Mapping[str, str], where: str, store: StoreOptions
    ) -> SourceError | None:
        """Say what a refusal of Azure's means, and what can be done."""
        said = f"the server answers {status}"
        if status in REDIRECTS:
            return SourceError(
                ErrorKind.SOURCE_MISMATCH,
                f"the container is not at this endpoint: {said}",
                where=where,
                advice="correct account and endpoint in its [[bucket]]",
            )
        if status in {401, 403, 409}:
            return SourceError(ErrorKind.SOURCE_DENIED, said, where=where, advice=_advice(store))
        if status == 404:
            return _missing(headers.get("x-ms-error-code", ""), where, said)
        return None

    def learn(
        self,
        status: int,
        headers: Mapping[str, str],
        place: Location | Prefix,
        store: StoreOptions,
    ) -> bool:
        """Nothing is to be learned: an account is at one place."""
        return False

    def forget(self, store: StoreOptions) -> bool:
        """Drop credentials that can be had anew."""
        return self._keyring.forget(store, "azure")

    # -- addresses -----------------------------------------------------------------------------

    async def _signed(
        self,
        method: str,
        path: str,
        pairs: list[tuple[str, str]],
        store: StoreOptions,
        place: Location | Prefix,
        headers: Mapping[str, str],
    ) -> Request:
        account, endpoint = self._find(store, place)
        target = f"{endpoint.path}{path}" + (f"?{query(pairs)}" if pairs else "")
        said = {**headers, "x-ms-version": VERSION}
        credentials = None if store.anonymous else await self._keyring.azure(store, account)
        if isinstance(credentials, AzureKey):
            said = sharedkey.sign(method, target, said, credentials, time.time())
        elif isinstance(credentials, AzureSas):
            target += ("&" if pairs else "?") + credentials.query
        elif credentials is not None:
            said["authorization"] = f"Bearer {credentials.token}"
        return Request(method, endpoint.scheme, endpoint.authority, target, said)

    def _find(self, store: StoreOptions, place: Location | Prefix) -> tuple[str, Endpoint]:
        """Return the account's name, and where its containers are."""
        endpoint = endpoint_of(store, place)
        account = store.account or (endpoint and _account_in(endpoint))
        if not account:
            raise SourceError(
                ErrorKind.BAD_CONFIG,
                "the storage account is not known",
                where=str(place),
                advice="name it: --account, account in its [[bucket]], or AZURE_STORAGE_ACCOUNT",
            )
        if not _ACCOUNT.match(account):
            raise SourceError(
                ErrorKind.BAD_CONFIG,
                "the storage account is not a name of 3 to 24 small letters and digits",
                where=str(place),
                advice="correct account in its [[bucket]], or AZURE_STORAGE_ACCOUNT",
            )
        return account, endpoint or Endpoint("https", f"{account}.{DOMAIN}", "")


def _account_in(endpoint: Endpoint) -> str | None:
    """Return the account that an endpoint names: before `.blob.`, or, of an emulator, as its path."""
    account, dot, _ = endpoint.host.partition(".blob.")
    if dot:
        # Some accounts are in a zone: ACCOUNT.z01.blob.storage.azure.net.
        return account.partition(".")[0]
    return endpoint.path[1:].partition("/")[0] or None


def _missing(code: str, where: str, said: str) -> SourceError | None:
    """Tell a missing container from a missing blob, by the word that Azure has for it."""
    if code not in {"ContainerNotFound", "ResourceNotFound", "ContainerBeingDeleted"}:
        return None
    return SourceError(
        ErrorKind.SOURCE_VANISHED,
        f"the container does not exist, or not everybody may read it: {said}",
        where=where,
        advice="check the container's name and the account, or read it with credentials",
    )


def _advice(store: StoreOptions) -> str:
    if store.anonymous:
        return "the account does not let everybody read: read it with credentials"
    return (
        "check the credentials (AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN and its dates, or "
        "az login with a role that reads blobs), the account and the machine's clock, or read a "
        "public container with --anonymous"
    )
