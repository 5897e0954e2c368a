"""Google Cloud Storage, through its XML API: `gs:` locations.

That interface speaks HTTP as the others do: ranges, ETags and If-Match hold for it, and its
listings are S3's. Requests carry a token, unless the store is anonymous, and name the project that
pays, where the user names one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source import listing
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Request
from vzfs.source.dialect import REDIRECTS, Endpoint, Page, encode, endpoint_of, folder, query

if TYPE_CHECKING:
    from vzfs.source.credentials import Keyring

GOOGLE: Final = Endpoint("https", "storage.googleapis.com", "")


class Gcs:
    """A `Dialect` for `gs:` locations."""

    def __init__(self, keyring: "Keyring") -> None:
        self._keyring = keyring

    async def request(
        self, method: str, place: Location, store: StoreOptions, headers: Mapping[str, str]
    ) -> Request:
        """Address a request for an object, with a token. Raises SourceError."""
        # Slashes too: a name with .. in it stays one segment of the path, whoever tidies that up.
        path = f"/{place.authority}/{encode(place.key)}"
        return await self._sent(method, path, store, place, headers)

    async def listing(
        self, below: Prefix, store: StoreOptions, after: str, *, deep: bool = True
    ) -> Request:
        """Address a request for one page of names, with a token. Raises SourceError."""
        pairs = [
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", str(listing.MAX_KEYS_ASKED)),
            ("prefix", folder(below)),
        ]
        if not deep:
            pairs.append(("delimiter", "/"))
        if after:
            pairs.append(("continuation-token", after))
        return await self._sent("GET", f"/{below.authority}?{query(pairs)}", store, below, {})

    def page(self, below: Prefix, body: bytes) -> Page:
        """Read one page of names. Raises SourceError."""
        return listing.below(listing.s3(body, str(below)), folder(below))

    def reach(self, root: Prefix, store: StoreOptions) -> Reach:
        """Return what the user opened: the endpoint's host, and networks."""
        endpoint = endpoint_of(store, root)
        return reach_of({endpoint.host} if endpoint else (), store.addresses)

    def refused(
        self, status: int, headers: Mapping[str, str], where: str, store: StoreOptions
    ) -> SourceError | None:
        """Say what a refusal of Google's means, and what can be done."""
        said = f"the server answers {status}"
        if status in REDIRECTS:
            return SourceError(
                ErrorKind.SOURCE_MISMATCH,
                f"the bucket is not at this endpoint: {said}",
                where=where,
                advice="correct or take out the endpoint in its [[bucket]]",
            )
        if status == 400:
            return SourceError(
                ErrorKind.SOURCE_MISMATCH,
                said,
                where=where,
                advice="set billing-project in its [[bucket]], if the reader pays for this bucket",
            )
        if status in {401, 403}:
            return SourceError(ErrorKind.SOURCE_DENIED, said, where=where, advice=_advice(store))
        return None

    def learn(
        self,
        status: int,
        headers: Mapping[str, str],
        place: Location | Prefix,
        store: StoreOptions,
    ) -> bool:
        """Nothing is to be learned: buckets are wherever Google has them."""
        return False

    def forget(self, store: StoreOptions) -> bool:
        """Drop a token that can be had anew."""
        return self._keyring.forget(store, "google")

    async def _sent(
        self,
        method: str,
        path: str,
        store: StoreOptions,
        place: Location | Prefix,
        headers: Mapping[str, str],
    ) -> Request:
        endpoint = endpoint_of(store, place) or GOOGLE
        said = dict(headers)
        token = None if store.anonymous else await self._keyring.google(store)
        if token is not None:
            said["authorization"] = f"Bearer {token.token}"
        if store.billing_project is not None:
            said["x-goog-user-project"] = store.billing_project
        return Request(method, endpoint.scheme, endpoint.authority, f"{endpoint.path}{path}", said)


def _advice(store: StoreOptions) -> str:
    if store.anonymous:
        return "not everybody may read it, or it does not exist: read it with credentials"
    payer = (
        f"; they must be allowed to use the project {store.billing_project}"
        if store.billing_project is not None
        else ""
    )
    return (
        "check the credentials (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default "
        f"login){payer}, or read a public bucket with --anonymous; a missing object looks like this "
        "too, to who may not list"
    )
