"""nginx: static files over HTTP and HTTPS, with locations where it behaves as some servers do.

Below `/bucket/` files are served plainly. The same files are below `/no-etag/` without etags, below
`/no-ranges/` without ranges, and below `/encoded/` with a Content-Encoding. Folders are not listed.
"""

import contextlib
import email.utils
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import trustme

from tests.stores import programs
from tests.stores.programs import NotStartedError, Program
from tests.stores.store import BUCKET, Store
from vzfs.access import StoreOptions

TRIES: Final = 5
_FIRST_SECOND: Final = 1_700_000_000
_CONFIGURATION: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr notice;
events {{}}
http {{
  access_log off;
  default_type application/octet-stream;
  client_body_temp_path {folder}/t1;
  proxy_temp_path {folder}/t2;
  fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4;
  scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    root {folder}/files;
    autoindex off;
    location /no-etag/ {{ alias {folder}/files/bucket/; etag off; }}
    location /no-ranges/ {{ alias {folder}/files/bucket/; max_ranges 0; }}
    location /encoded/ {{ alias {folder}/files/bucket/; add_header Content-Encoding gzip; }}
  }}
}}
"""


class Nginx(Store):
    """A folder that nginx serves at *url*."""

    name = "nginx"
    scheme = "http"
    lists: ClassVar[bool] = False

    def __init__(self, url: str, files: Path) -> None:
        self.url = url
        self.environment = {}
        self._files = files
        self._written = 0

    def put(self, key: str, data: bytes) -> None:
        path = self._files / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole versions alone are to be seen, each with a date of its own.
        new = self._files.parent / "new"
        new.write_bytes(data)
        self._written += 1
        os.utime(new, (_FIRST_SECOND + self._written,) * 2)
        new.replace(path)

    def delete(self, key: str) -> None:
        (self._files / BUCKET / key).unlink()

    def etag(self, key: str) -> str:
        return self._head(key)["ETag"]

    def modified(self, key: str) -> int:
        date = self._head(key)["Last-Modified"]
        return int(email.utils.parsedate_to_datetime(date).timestamp())

    def options(self, endpoint: str) -> StoreOptions:
        return StoreOptions()

    def flags(self, endpoint: str) -> list[str]:
        return []

    def place(self, folder: str, endpoint: str) -> str:
        return f"{endpoint}/{BUCKET}/{folder}"

    def _head(self, key: str) -> dict[str, str]:
        plain = urllib.parse.quote(f"{BUCKET}/{key}")
        request = urllib.request.Request(f"{self.plain_url}/{plain}", method="HEAD")
        with contextlib.closing(_DIRECT.open(request, timeout=30)) as reply:
            return dict(reply.headers)

    plain_url: str


class NginxTls(Nginx):
    """The same folder over TLS. The certificate's authority is in the file that the environment names."""

    name = "nginx-tls"
    scheme = "https"


_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def serve(folder: Path, authority: trustme.CA) -> Iterator[tuple[Nginx, NginxTls]]:
    """Run nginx, with its files and all that it writes in *folder*, while the context lasts."""
    nginx = programs.find("nginx", "nginx-light")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(str(folder / "certificate.pem"), append=number > 0)
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    files = folder / "files"
    (files / BUCKET).mkdir(parents=True)
    program, plain, tls = _start(nginx, folder)
    with program:
        first, second = (
            Nginx(f"http://127.0.0.1:{plain}", files),
            NginxTls(f"https://127.0.0.1:{tls}", files),
        )
        first.plain_url = second.plain_url = first.url
        yield first, second


def _start(nginx: str, folder: Path) -> tuple[Program, int, int]:
    """Start nginx on two free ports, others if somebody takes them meanwhile."""
    for left in reversed(range(TRIES)):
        plain, tls = programs.free_port(), programs.free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, plain=plain, tls=tls))
        words = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
        try:
            return Program(words, r"using the \"\w+\" event method", folder=folder), plain, tls
        except NotStartedError:
            if not left:
                raise
    raise AssertionError
