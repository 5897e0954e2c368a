"""Azurite: Azure Blob Storage with shared keys, whose signatures it checks."""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.stores import npm
from tests.stores.liar import Headers
from tests.stores.programs import Program
from tests.stores.store import BUCKET, Store
from vzfs.access import StoreOptions

ACCOUNT = "vzfstests"
KEY = base64.b64encode(hashlib.sha512(b"the key of the tests' account").digest()).decode()
VERSION = "2021-12-02"
_SIGNED = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
]


class Azurite(Store):
    """A container of Azurite."""

    name = "azurite"
    scheme = "az"
    page_parameter = "maxresults"

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment = {"AZURE_STORAGE_ACCOUNT_KEY": KEY}
        self._authority = urllib.parse.urlsplit(url).netloc
        self._ask("PUT", f"/{ACCOUNT}/{BUCKET}?restype=container")

    def put(self, key: str, data: bytes) -> None:
        self._ask("PUT", _target(key), data, {"x-ms-blob-type": "BlockBlob"})

    def delete(self, key: str) -> None:
        self._ask("DELETE", _target(key))

    def etag(self, key: str) -> str:
        return self._ask("HEAD", _target(key))["etag"]

    def modified(self, key: str) -> int:
        date = self._ask("HEAD", _target(key))["last-modified"]
        return int(email.utils.parsedate_to_datetime(date).timestamp())

    def options(self, endpoint: str) -> StoreOptions:
        return StoreOptions(
            endpoint=f"{endpoint}/{ACCOUNT}",
            allow_http=endpoint.startswith("http:"),
            account=ACCOUNT,
        )

    def flags(self, endpoint: str) -> list[str]:
        return [*super().flags(f"{endpoint}/{ACCOUNT}"), "--account", ACCOUNT]

    def sign(self, method: str, target: str, headers: Headers) -> Headers:
        kept = [(n, v) for n, v in headers if n.lower() != "authorization"]
        return [*kept, ("Authorization", _authorization(method, target, kept))]

    def _ask(
        self, method: str, target: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Send a request, and return the headers of its reply, which must be of success."""
        given: Headers = [
            ("Host", self._authority),
            ("x-ms-version", VERSION),
            ("x-ms-date", email.utils.formatdate(usegmt=True)),
            ("Content-Length", str(len(data))),
            *(headers or {}).items(),
        ]
        connection = http.client.HTTPConnection(self._authority, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.sign(method, target, given):
                connection.putheader(name, value)
            connection.endheaders(data or None)
            reply = connection.getresponse()
            said = reply.read()
            assert reply.status < 300, f"{method} {target}: {reply.status} {said[:500]!r}"
            return {name.lower(): value for name, value in reply.getheaders()}


def _target(key: str) -> str:
    return f"/{ACCOUNT}/{BUCKET}/{urllib.parse.quote(key, safe='/')}"


def _authorization(method: str, target: str, headers: Headers) -> str:
    """Sign a request as "Authorize with Shared Key" of the Blob service has it."""
    lower = {name.lower(): value for name, value in headers}
    plain = [lower.get(name, "") for name in _SIGNED]
    if lower.get("content-length") == "0":
        plain[_SIGNED.index("content-length")] = ""
    special = sorted((n, v) for n, v in lower.items() if n.startswith("x-ms-"))
    path, _, query = target.partition("?")
    wanted = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
    text = "\n".join(
        [method, *plain, *(f"{n}:{v}" for n, v in special), f"/{ACCOUNT}{path}"]
        + [f"{name.lower()}:{value}" for name, value in wanted]
    )
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    return f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Azurite]:
    """Run Azurite in *folder*, with its objects in memory, while the context lasts."""
    words = npm.program("azurite/dist/src/blob/main.js")
    words += ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--silent"]
    words += ["--skipApiVersionCheck", "--disableTelemetry"]
    environment = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with Program(
        words, r"listens on (http://127\.0\.0\.1:\d+)", folder=folder, environment=environment
    ) as program:
        assert program.match is not None
        yield Azurite(program.match[1])
