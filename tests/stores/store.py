"""What a `Store` is to a test: objects on a real server, and how vzfs is told to read them.

A store is reached directly, at its *url*, or through a `Liar` before it; methods take the endpoint
that is meant. Objects have keys in the one bucket (or container, or folder) `bucket`. Tests share a
server and keep to a `folder` of their own, so that nothing has to be emptied between them.
"""

import abc
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final

from tests.stores.liar import Headers
from vzfs.access import StoreOptions

BUCKET: Final = "bucket"
_NUMBERS: Final = itertools.count(1)


class Store(abc.ABC):
    """Objects on a server that listens at *url*. *environment* holds what a reader's shell would."""

    name: ClassVar[str]
    scheme: ClassVar[str]
    lists: ClassVar[bool] = True
    honours_preconditions: ClassVar[bool] = True
    page_parameter: ClassVar[str] = "max-keys"
    url: str
    environment: Mapping[str, str]

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object, or replace it by another version."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object."""

    @abc.abstractmethod
    def etag(self, key: str) -> str:
        """Return the etag of an object, as the server says it."""

    @abc.abstractmethod
    def modified(self, key: str) -> int:
        """Return when an object was modified, in seconds since the Unix epoch."""

    def options(self, endpoint: str) -> StoreOptions:
        """Return how to reach the store at *endpoint*."""
        return StoreOptions(
            endpoint=endpoint, allow_http=endpoint.startswith("http:"), path_style=True
        )

    def flags(self, endpoint: str) -> list[str]:
        """Return what `options` says in the words of a command line."""
        plain = ["--allow-http"] if endpoint.startswith("http:") else []
        return ["--endpoint", endpoint, *plain]

    def place(self, folder: str, endpoint: str) -> str:
        """Return the URL of the prefix *folder* at *endpoint*."""
        return f"{self.scheme}://{BUCKET}/{folder}"

    def sign(self, method: str, target: str, headers: Headers) -> Headers:
        """Sign a request anew whose headers were changed on the way."""
        return headers

    def folder(self) -> str:
        """Return the name of a folder that no other test has."""
        return f"t{next(_NUMBERS)}"

    def put_all(self, folder: Path, under: str) -> None:
        """Copy every file below *folder* to the prefix *under*."""
        for path, key in files(folder):
            self.put(f"{under}/{key}", path.read_bytes())


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file below *folder*, and its name relative to it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.relative_to(folder).as_posix()
