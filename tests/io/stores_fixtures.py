"""Fixtures of the real stores, and the worlds that the suites see them as.

Servers are started when a test first asks for one, and live as long as its test process. What is
not installed skips its tests with a reason.
"""

import datetime
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import pytest
import trio
import trustme

from tests.conformance import World, plain_environment
from tests.stores import azurite, gcs, moto, nginx, s3rver
from tests.stores.liar import Liar
from tests.stores.store import Store
from vzfs.source import Places, Source, Timing

__all__ = [
    "authority",
    "azurite_store",
    "gcs_store",
    "liar",
    "moto_store",
    "nginx_stores",
    "real_store",
    "s3rver_store",
]

STORES: Final = ("moto", "s3rver", "azurite", "gcs", "nginx", "nginx-tls")
CREDENTIALS: Final = ("AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_")
TIMING: Final = Timing(deadline=20, backoff=0.01)


class StoreWorld(World):
    """A folder of a real store, read at *endpoint*: the store's own, or that of a liar before it."""

    def __init__(self, store: Store, endpoint: str, timing: Timing = TIMING) -> None:
        self.real = store
        self.folder = store.folder()
        self.root = store.place(f"{self.folder}/data", endpoint)
        self.store = store.options(endpoint)
        self.lists = store.lists
        self.fetcher = self._source = Source(timing, places=Places(32))

    async def run_in(self, nursery: trio.Nursery) -> Self:
        """Let the source do what it does beside fetches, and close its connections at the end."""
        await nursery.start(self._source.run)
        return self

    def put(self, key: str, data: bytes) -> None:
        self.real.put(f"{self.folder}/data/{key}", data)

    def etag(self, key: str) -> str:
        return self.real.etag(f"{self.folder}/data/{key}")

    def modified(self, key: str) -> int:
        return self.real.modified(f"{self.folder}/data/{key}")


class Authority(trustme.CA):
    """A private authority whose certificate is in the file *path*."""

    path: Path

    def context(self, name: str, until: datetime.datetime | None = None) -> ssl.SSLContext:
        """Return the context of a server that has a certificate for *name*, valid *until* then."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issue_cert(name, not_after=until).configure_cert(made)
        return made

    def trust(self) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.path))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority for the servers that speak TLS."""
    made = Authority()
    made.path = tmp_path_factory.mktemp("authority") / "ca.pem"
    made.cert_pem.write_to_path(str(made.path))
    return made


@pytest.fixture(scope="session")
def moto_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Run moto's S3 server."""
    with moto.serve(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture(scope="session")
def s3rver_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Run s3rver."""
    with s3rver.serve(tmp_path_factory.mktemp("s3rver")) as store:
        yield store


@pytest.fixture(scope="session")
def azurite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Run Azurite."""
    with azurite.serve(tmp_path_factory.mktemp("azurite")) as store:
        yield store


@pytest.fixture(scope="session")
def gcs_store() -> Iterator[Store]:
    """Run the emulator of Google Cloud Storage."""
    with gcs.serve() as store:
        yield store


@pytest.fixture(scope="session")
def nginx_stores(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[tuple[Store, Store]]:
    """Run nginx, and give its plain and its TLS side."""
    with nginx.serve(tmp_path_factory.mktemp("nginx"), authority) as stores:
        yield stores


@pytest.fixture(params=STORES)
def real_store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> Store:
    """Give each store in turn, with what its reader needs in the environment."""
    name: str = request.param
    if name.startswith("nginx"):
        found: Store = request.getfixturevalue("nginx_stores")[name == "nginx-tls"]
    else:
        found = request.getfixturevalue(f"{name}_store")
    prepare(monkeypatch, found, authority)
    return found


@pytest.fixture
def liar(real_store: Store, authority: Authority) -> Iterator[Liar]:
    """Put a liar before the store. It speaks TLS if the store does."""
    is_tls = real_store.url.startswith("https:")
    with Liar(
        real_store.url,
        context=authority.context("127.0.0.1") if is_tls else None,
        trust=authority.trust(),
        sign=real_store.sign,
    ) as made:
        yield made


def prepare(monkeypatch: pytest.MonkeyPatch, store: Store, authority: Authority) -> None:
    """Make the environment that of a reader of *store*, and of nothing else."""
    plain_environment(monkeypatch)
    for name in list(os.environ):
        if name.startswith(CREDENTIALS):
            monkeypatch.delenv(name)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
