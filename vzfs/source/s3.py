"""S3 and what speaks like it: AWS, and every endpoint that the user names.

At AWS a bucket is a host of its own, in its region. A bucket that says it is in another region is
asked there; where a redirect points otherwise is not read. At an endpoint of the user's, the
bucket is the first part of the path, unless the user says otherwise. `tigris:` locations are of
Tigris' own endpoint, if the user names no other, and there buckets are hosts too.

Requests are signed unless the store is anonymous. Keys go as they are, `//` and `..` among them.
"""

import functools
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Location, Prefix
from vzfs.source import listing
from vzfs.source.addresses import Reach, reach_of
from vzfs.source.client import Request
from vzfs.source.dialect import REDIRECTS, Endpoint, Page, encode, endpoint_of, folder, query
from vzfs.source.sigv4 import Signer

if TYPE_CHECKING:
    from vzfs.source.credentials import Keyring

DEFAULT_REGION: Final = "us-east-1"
TIGRIS: Final = Endpoint("https", "t3.storage.dev", "")

_PARTITIONS: Final = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "us-isof-": "csp.hci.ic.gov",
}
"""Domains of the regions that are not under amazonaws.com, by how their names begin."""

_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")
_HOST_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\Z")
_REGIONLESS: Final = (".r2.cloudflarestorage.com", ".t3.storage.dev", ".fly.storage.tigris.dev")
_MAX_HOMES: Final = 10_000
_ADVICE_REGION: Final = "name the bucket's region: AWS_REGION, or region in the configuration"


class _Home(NamedTuple):
    """The region of a bucket, as the user *told* it and as the bucket said."""

    told: str
    learned: str | None


class S3:
    """A `Dialect` for `s3:` and `tigris:` locations."""

    def __init__(self, keyring: "Keyring") -> None:
        self._keyring = keyring
        self._signer = Signer()
        self._homes: dict[tuple[str, StoreOptions], _Home] = {}

    async def request(
        self, method: str, place: Location, store: StoreOptions, headers: Mapping[str, str]
    ) -> Request:
        """Address and sign a request for an object. Raises SourceError."""
        endpoint, region = await self._find(place, store)
        target = f"{endpoint.path}/{encode(place.key, '/')}"
        return await self._signed(method, endpoint, target, store, region, headers)

    async def listing(
        self, below: Prefix, store: StoreOptions, after: str, *, deep: bool = True
    ) -> Request:
        """Address and sign a request for one page of names. Raises SourceError."""
        endpoint, region = await self._find(below, store)
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
        target = f"{endpoint.path or '/'}?{query(pairs)}"
        return await self._signed("GET", endpoint, target, store, region, {})

    def page(self, below: Prefix, body: bytes) -> Page:
        """Read one page of names. Raises SourceError."""
        return listing.below(listing.s3(body, str(below)), folder(below))

    def reach(self, root: Prefix, store: StoreOptions) -> Reach:
        """Return what the user opened: the endpoint, with the bucket before it and without, and networks."""
        endpoint = endpoint_of(store, root)
        hosts = {endpoint.host, f"{root.authority}.{endpoint.host}".lower()} if endpoint else set()
        return reach_of(hosts, store.addresses)

    def refused(
        self, status: int, headers: Mapping[str, str], where: str, store: StoreOptions
    ) -> SourceError | None:
        """Say what a refusal of S3 means, and what can be done."""
        said = f"the server answers {status}"
        if status in REDIRECTS:
            region = _named(headers)
            advice = f"set region to {region} in its [[bucket]]" if region else _ADVICE_REGION
            what = f"the bucket is not at this endpoint or in this region: {said}"
            return SourceError(ErrorKind.SOURCE_MISMATCH, what, where=where, advice=advice)
        if status == 400:
            return SourceError(
                ErrorKind.SOURCE_MISMATCH,
                said,
                where=where,
                advice=f"{_ADVICE_REGION}; or take new credentials, if these have expired",
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
        """Remember the region that AWS names for a bucket; after a 400, drop old credentials too."""
        region = _named(headers)
        home = self._homes.get((place.authority, store))
        moved = False
        if place.scheme == "s3" and home and region and (status in REDIRECTS or status == 400):
            # A request that was under way when another one learned this is to be sent again too.
            moved = home.learned is not None or region != home.told
            self._homes[place.authority, store] = home._replace(learned=region)
        # AWS says 400 to tokens that have expired.
        renewed = status == 400 and self.forget(store)
        return moved or renewed

    def forget(self, store: StoreOptions) -> bool:
        """Drop credentials that can be had anew."""
        return self._keyring.forget(store, "aws")

    # -- addresses -----------------------------------------------------------------------------

    async def _find(self, place: Location | Prefix, store: StoreOptions) -> tuple[Endpoint, str]:
        """Return where the bucket is, the bucket included, and the region to sign for."""
        bucket = place.authority
        endpoint = endpoint_of(store, place)
        if endpoint is None and place.scheme == "s3":
            region = await self._home(place, store)
            return _at_aws(bucket, region, store.path_style), region
        path_style = store.path_style is not False
        if endpoint is None:
            endpoint, path_style = TIGRIS, bool(store.path_style)
        if not path_style and bucket != bucket.lower():
            raise SourceError(
                ErrorKind.BAD_CONFIG,
                "a bucket with capital letters in its name cannot be a host",
                where=str(place),
                advice="set path-style = true in its [[bucket]]",
            )
        return _at(endpoint, bucket, path_style), await self._region(endpoint, store, place)

    async def _home(self, place: Location | Prefix, store: StoreOptions) -> str:
        """Return the region of a bucket of AWS: what it said itself, or else what the user says."""
        told = store.region or await self._keyring.region(store) or DEFAULT_REGION
        home = self._homes.get((place.authority, store))
        if home is None or home.told != told:
            if len(self._homes) >= _MAX_HOMES:
                self._homes.clear()
            home = self._homes[place.authority, store] = _Home(_checked(told, place), None)
        return home.learned or home.told

    async def _region(
        self, endpoint: Endpoint, store: StoreOptions, place: Location | Prefix
    ) -> str:
        """Return the region to sign for at an endpoint that is not AWS' own."""
        if store.region is not None:
            return _checked(store.region, place)
        if store.anonymous:
            return ""
        if f".{endpoint.host}".endswith(_REGIONLESS):
            # A region of AWS, which the environment may name, would be refused there.
            return "auto"
        return _checked(await self._keyring.region(store) or DEFAULT_REGION, place)

    async def _signed(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        store: StoreOptions,
        region: str,
        headers: Mapping[str, str],
    ) -> Request:
        said = dict(headers)
        if store.requester_pays:
            said["x-amz-request-payer"] = "requester"
        keys = None if store.anonymous else await self._keyring.aws(store)
        if keys is not None:
            said = self._signer.sign(
                method, endpoint.authority, target, said, keys, region, time.time()
            )
        return Request(method, endpoint.scheme, endpoint.authority, target, said)


@functools.lru_cache(1024)
def _at(endpoint: Endpoint, bucket: str, path_style: bool) -> Endpoint:
    if path_style:
        return endpoint._replace(path=f"{endpoint.path}/{bucket}")
    return endpoint._replace(authority=f"{bucket}.{endpoint.authority}")


@functools.lru_cache(1024)
def _at_aws(bucket: str, region: str, path_style: bool | None) -> Endpoint:
    domain = next(
        (domain for start, domain in _PARTITIONS.items() if region.startswith(start)),
        "amazonaws.com",
    )
    host = f"s3.{region}.{domain}"
    # The certificate of AWS is for one label before its host.
    if path_style or not _HOST_LABEL.match(bucket):
        return Endpoint("https", host, f"/{bucket}")
    return Endpoint("https", f"{bucket}.{host}", "")


def _checked(region: str, place: Location | Prefix) -> str:
    if not _REGION.match(region):
        raise SourceError(
            ErrorKind.BAD_CONFIG,
            "the region is not a name of small letters, digits and hyphens",
            where=str(place),
            advice="correct AWS_REGION, or region in the configuration",
        )
    return region


def _named(headers: Mapping[str, str]) -> str | None:
    """Return the region that a reply names, if it is one."""
    region = headers.get("x-amz-bucket-region", "")
    return region if _REGION.match(region) else None


def _advice(store: StoreOptions) -> str:
    if store.anonymous:
        return (
            "not everybody may read it, or it does not exist, or the requester pays: "
            "read it with credentials"
        )
    payer = "" if store.requester_pays else ", set requester-pays where the reader pays"
    return (
        "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile) and the "
        f"machine's clock{payer}, or read a public bucket with --anonymous; a missing object looks "
        "like this too, to who may not list"
    )
