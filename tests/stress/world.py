"""What a stress run reads: three servers that lie, the truth beside them, and a repository of both.

Everything lies in one folder. Where the run may (as root), it has a view of the mounts of its own,
so that nothing stays mounted whatever becomes of it; there the cache has a small disk of its own,
and the kernel's control of FUSE is mounted, as systemd does it.
"""

import contextlib
import ctypes
import datetime
import os
import ssl
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import trustme

from tests.mount.repositories import Ref, pattern, write_virtual
from tests.servers import ObjectServer
from tests.stress.lying import DAY, Journal, LyingServer, LyingTLS

KINDS: Final = ("etag", "date", "none")
"""What refs record of the version of their object."""
SHARES: Final = {"web": 0.04, "bucket": 0.1, "safe": 0.15}
"""How many of their requests the servers lie to."""
SPARE: Final = 8
DISK: Final = 96
"""MiB of the cache's own disk."""


class Chunk(NamedTuple):
    """A chunk as the mount names it, and where its true bytes are."""

    path: str
    file: str
    offset: int
    length: int


class Size(NamedTuple):
    """How much there is: objects of each kind on each server, chunks of each, and their bytes."""

    objects: int
    chunks: int
    length: int

    @property
    def total(self) -> int:
        return len(SHARES) * len(KINDS) * self.objects * self.chunks * self.length


def isolate() -> bool:
    """Give this process a view of the mounts of its own; return whether that is possible."""
    if os.geteuid() != 0:
        return False
    try:
        os.unshare(os.CLONE_NEWNS)
    except OSError:
        return False
    # MS_REC | MS_PRIVATE: what is mounted from now on is seen by nobody else.
    private = 0x4000 | 0x40000
    return ctypes.CDLL(None).mount(b"none", b"/", None, private, None) == 0


class World:
    """The servers, the repository at *repository*, and its *chunks*.

    *spare* has more of them in rows, one of each server: nobody reads those, so that they are in no
    cache.
    """

    def __init__(self, folder: Path, size: Size, seed: int, *, is_isolated: bool) -> None:
        self.folder = folder
        self.journal = Journal()
        self.truth, others = folder / "truth", folder / "others"
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.cache = self.disk / "cache"
        self.has_disk = is_isolated and _mounts(
            "-t", "tmpfs", "-o", f"size={DISK}m", "none", str(self.disk)
        )
        self._open = contextlib.ExitStack()
        given = (self.truth, others, self.journal)
        web = self._open.enter_context(LyingServer("web", *given, SHARES["web"], seed))
        bucket = self._open.enter_context(LyingServer("bucket", *given, SHARES["bucket"], seed))
        honest = self._open.enter_context(ObjectServer(self.truth))
        authority, stranger = trustme.CA(), trustme.CA()
        safe = self._open.enter_context(
            LyingTLS(
                *("safe", honest.url, _context(authority), _context(stranger)),
                *(self.journal, SHARES["safe"], seed),
            )
        )
        self.servers = (web, bucket, safe)
        self.honest = honest
        trusted = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(trusted))
        self.environment = {"SSL_CERT_FILE": str(trusted)}
        self._prefixes = {
            "web": f"{web.url}/web/",
            "bucket": "s3://bucket/",
            "safe": f"{safe.url}/safe/",
        }
        self.options = [
            *(word for prefix in self._prefixes.values() for word in ("--allow", prefix)),
            *("--endpoint", bucket.url, "--allow-http", "--anonymous"),
        ]
        self.chunks: list[Chunk] = []
        self.spare: list[list[Chunk]] = []
        self.repository = self._write(size)

    def close(self) -> None:
        """Stop the servers, and give the disk back."""
        self._open.close()
        if self.has_disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def _write(self, size: Size) -> Path:
        arrays: dict[str, list[Ref]] = {}
        with contextlib.closing(ObjectServer(self.truth)) as teller:
            for number, (host, kind, n) in enumerate(
                (host, kind, n) for host in SHARES for kind in KINDS for n in range(size.objects)
            ):
                file = f"{host}/{kind}-{n}"
                whole = size.chunks * size.length
                for folder, seed, day in ((self.truth, number, DAY), (None, 1000 + number, 0)):
                    path = (folder or self.truth.with_name("others")) / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(pattern(whole, seed))
                    os.utime(path, (day or DAY + 86400, day or DAY + 86400))
                stored = teller.find(file)
                assert stored is not None
                checksum = {"etag": stored.etag, "date": DAY, "none": None}[kind]
                location = f"{self._prefixes[host]}{kind}-{n}"
                name = f"{host}-{kind}-{n}"
                places = [c * size.length for c in range(size.chunks)]
                arrays[name] = [Ref(location, place, size.length, checksum) for place in places]
                self.chunks += (
                    Chunk(f"{name}/c/{c}", file, place, size.length)
                    for c, place in enumerate(places)
                )
        for n in range(SPARE):
            self.spare.append([])
            for host in SHARES:
                file = f"{host}/etag-0"
                ref = arrays[f"{host}-etag-0"][0]._replace(offset=n * 1000, length=1000)
                arrays.setdefault(f"spare-{host}", []).append(ref)
                self.spare[n].append(Chunk(f"spare-{host}/c/{n}", file, n * 1000, 1000))
        return write_virtual(
            self.folder / "repository", arrays, containers=list(self._prefixes.values())
        )


def _context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    authority.issue_cert("127.0.0.1", not_after=until).configure_cert(context)
    return context


def _mounts(*words: str) -> bool:
    return subprocess.run(["mount", *words], check=False, capture_output=True).returncode == 0
