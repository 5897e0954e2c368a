"""Which credentials a store's options ask for, and the leases on those that expire.

`StoreOptions.credentials` is `environment`, `profile:NAME` (AWS), `file:/PATH`, or None for the
store's standard chain: the environment first, for which nothing is imported and nobody is asked,
then what the store's own library finds. Web servers have no standard chain: they get nothing unless
the user says so.
"""

import time
from collections.abc import Callable
from typing import Final, Literal, NoReturn

from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials import aws, azure, environment, google
from vzfs.source.credentials.lease import Grant, Lease, Terms
from vzfs.source.credentials.secretfile import Secret, SecretFile, path_of
from vzfs.source.credentials.values import (
    AwsKeys,
    AzureKey,
    AzureSas,
    Basic,
    Bearer,
    authorization,
    bad,
)

type Kind = Literal["aws", "google", "azure", "http"]

PATIENCE: Final = 30.0
"""Seconds that a standard chain may take: programs it runs, servers it asks."""

CHAIN_INTERVAL: Final = 900.0
"""Seconds after which credentials that tell no end are looked up again: files get rewritten."""

CHAIN_PAUSE: Final = 15.0
"""Seconds after a failure in which a chain is left alone: asking machines in vain takes long."""

FILE_INTERVAL: Final = 1.0
"""Seconds for which a secret file is not looked at again."""


class Keyring:
    """The credentials of one `Source`. Its methods are for the tasks of one trio loop.

    Each raises SourceError: BAD_CONFIG where the user must change something, SOURCE_DENIED where
    there are no credentials, SOURCE_UNREACHABLE where what gives them out does not answer.
    """

    def __init__(
        self,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._steady = steady
        self._aws: dict[str | None, Lease[AwsKeys]] = {}
        self._google: dict[None, Lease[Bearer]] = {}
        self._azure: dict[None, Lease[Bearer]] = {}
        self._files: dict[str, Lease[Secret]] = {}
        self._regions: dict[str | None, Lease[str | None]] = {}

    async def aws(self, store: StoreOptions) -> AwsKeys | None:
        """Return the keys that sign requests to S3; None for anonymous ones."""
        if store.anonymous:
            return None
        source = _source(store)
        if source.startswith("file:"):
            wanted = "access-key-id and secret-access-key"
            return _expect(await self._file(source), AwsKeys, wanted, source)
        profile = source.removeprefix("profile:") or None
        if source in {"", "environment"}:
            keys = environment.aws()
            if keys is not None:
                return keys
            if source:
                _nothing("AWS", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return await self._lease(
            self._aws, profile, aws.describe(profile), lambda: aws.keys(profile)
        ).get()

    async def region(self, store: StoreOptions) -> str | None:
        """Return the region that the environment or the AWS profile names, if one does.

        `StoreOptions.region` is not looked at: it goes before.
        """
        named = environment.aws_region()
        source = _source(store)
        if named or store.anonymous or source == "environment" or source.startswith("file:"):
            return named
        profile = source.removeprefix("profile:") or None
        return await self._lease(
            self._regions, profile, aws.describe(profile), lambda: Grant(aws.region(profile))
        ).get()

    async def google(self, store: StoreOptions) -> Bearer | None:
        """Return the token for Google Cloud Storage; None for anonymous requests."""
        if store.anonymous:
            return None
        source = _source(store)
        _no_profile(source)
        if source.startswith("file:"):
            return _expect(await self._file(source), Bearer, "bearer-token", source)
        token = environment.google()
        if token is not None:
            return token
        if source:
            _nothing("Google", " or ".join(environment.GOOGLE_TOKENS))
        return await self._lease(self._google, None, google.NAME, google.token).get()

    async def azure(self, store: StoreOptions, account: str) -> AzureKey | AzureSas | Bearer | None:
        """Return what opens the storage *account*; None for anonymous requests."""
        if store.anonymous:
            return None
        source = _source(store)
        _no_profile(source)
        if source.startswith("file:"):
            secret = await self._file(source)
            if isinstance(secret, AzureKey):
                return AzureKey(account, secret.key)
            if isinstance(secret, AzureSas):
                return secret
            return _expect(secret, Bearer, "account-key, sas-token or bearer-token", source)
        found = environment.azure(account)
        if found is not None:
            return found
        if source:
            _nothing(f"Azure (account {account})", "AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN")
        return await self._lease(self._azure, None, azure.NAME, azure.token).get()

    async def http(self, store: StoreOptions, authority: str) -> str | None:
        """Return what the header `Authorization` says to the web server *authority*, if anything."""
        if store.anonymous or store.credentials is None:
            return None
        source = _source(store)
        _no_profile(source)
        found: Secret | None
        if source.startswith("file:"):
            found = await self._file(source)
        else:
            found = environment.http()
            if found is None:
                _nothing(authority, "VZFS_HTTP_TOKEN, or VZFS_HTTP_USER and VZFS_HTTP_PASSWORD")
        if isinstance(found, Basic):
            return authorization(found)
        wanted = "bearer-token, or username and password"
        return authorization(_expect(found, Bearer, wanted, source))

    def forget(self, store: StoreOptions, kind: Kind | None = None) -> bool:
        """Take note that the credentials of *store* were refused (401, 403, an expired token).

        With *kind* only those of that kind of store. Return whether it makes sense to ask for them
        and to try again: not for those of the environment, and not more than once a minute, since
        most refusals are not about credentials.
        """
        source = store.credentials or ""
        if store.anonymous or source == "environment":
            return False
        if source.startswith("file:"):
            leases: list[Lease[Secret] | Lease[AwsKeys] | Lease[Bearer] | None]
            leases = [self._files.get(source.removeprefix("file:"))]
        else:
            profile = source.removeprefix("profile:") or None
            leases = [
                self._aws.get(profile) if kind in {None, "aws"} else None,
                self._google.get(None) if kind in {None, "google"} else None,
                self._azure.get(None) if kind in {None, "azure"} else None,
            ]
        doubts = [lease.doubt() for lease in leases if lease is not None]
        return any(doubts)

    # -- leases --------------------------------------------------------------------------------

    async def _file(self, source: str) -> Secret:
        path = path_of(source)
        lease = self._files.get(path)
        if lease is None:
            terms = Terms(
                f"the secrets in {path}",
                FILE_INTERVAL,
                patience=None,
                pause=FILE_INTERVAL,
                outlives=False,
            )
            lease = self._files[path] = self._make(terms, SecretFile(path).get)
        return await lease.get()

    def _lease[K, V](
        self, leases: dict[K, Lease[V]], key: K, name: str, get: Callable[[], Grant[V]]
    ) -> Lease[V]:
        lease = leases.get(key)
        if lease is None:
            terms = Terms(
                name, CHAIN_INTERVAL, patience=self._patience, pause=CHAIN_PAUSE, outlives=True
            )
            lease = leases[key] = self._make(terms, get)
        return lease

    def _make[V](self, terms: Terms, get: Callable[[], Grant[V]]) -> Lease[V]:
        return Lease(terms, get, clock=self._clock, steady=self._steady)


def _source(store: StoreOptions) -> str:
    """Return where the user says the credentials are; empty for the standard chain."""
    source = store.credentials or ""
    kind, colon, name = source.partition(":")
    if source in {"", "environment"} or (colon and name and kind in {"profile", "file"}):
        return source
    what = f"credentials = {source!r} is not a place where credentials are"
    raise bad(what, "configuration", "write environment, profile:NAME or file:/PATH")


def _expect[V](secret: object, kind: type[V], wanted: str, source: str) -> V:
    if isinstance(secret, kind):
        return secret
    what = "the secret file is for another kind of store"
    raise bad(what, source.removeprefix("file:"), f"name one that has {wanted}")


def _no_profile(source: str) -> None:
    if source.startswith("profile:"):
        what = f"credentials = {source!r} is for S3 only"
        raise bad(what, "configuration", "write environment or file:/PATH, or leave it out")


def _nothing(store: str, names: str) -> NoReturn:
    raise SourceError(
        ErrorKind.SOURCE_DENIED,
        f"the environment has no credentials for {store}",
        advice=f"set {names}, or read public data with --anonymous",
    )
