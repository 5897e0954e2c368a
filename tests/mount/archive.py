"""Source objects in their three homes: files of a folder, and objects of a server over HTTP and S3."""

import os
from pathlib import Path

import obstore

from tests.mount.repositories import ORIGIN_DAY, pattern
from tests.servers import ObjectServer

LENGTH = 1000
OLD = pattern(4 * LENGTH)
NEW = pattern(4 * LENGTH, 1)


class Archive:
    """Where sources lie: in a folder, or on a server as HTTP or S3 objects."""

    def __init__(self, scheme: str, folder: Path, server: ObjectServer) -> None:
        self.scheme = scheme
        self.folder = folder
        self.server = server
        folder.mkdir()
        self.prefix = {
            "file": f"{folder.as_uri()}/",
            "http": f"{server.url}/b/",
            "s3": "s3://b/",
        }[scheme]
        self.options = ["--allow", self.prefix]
        if scheme == "s3":
            self.options += ["--endpoint", server.url, "--allow-http", "--anonymous"]

    def write(self, name: str, data: bytes = OLD) -> str:
        """Write a source and return its location."""
        if self.scheme == "file":
            path = self.folder / name
            path.write_bytes(data)
            os.utime(path, (ORIGIN_DAY, ORIGIN_DAY))
        else:
            self.server.put(f"b/{name}", data, last_modified=ORIGIN_DAY)
        return self.prefix + name

    def checksum(self, name: str, kind: str) -> str | int | None:
        """Return what a repository written now would record of the version of a source."""
        if kind == "none":
            return None
        if kind == "last-modified":
            return ORIGIN_DAY
        if self.scheme == "file":
            store = obstore.store.LocalStore(self.folder)
            etag = obstore.head(store, name)["e_tag"]
        else:
            stored = self.server.find(f"b/{name}")
            etag = stored and stored.etag
        assert etag
        return etag

    def change(self, name: str, how: str) -> None:
        """Replace a source by another version, a shorter one, or nothing."""
        data = {
            "overwritten": NEW,
            "truncated": b"",
            "halved": OLD[: len(OLD) // 2],
            "grown": NEW + NEW,
            "deleted": None,
        }[how]
        if self.scheme == "file":
            path = self.folder / name
            path.rename(self.folder / f"{name}.kept")
            if data is not None:
                path.write_bytes(data)
        elif data is None:
            self.server.delete(f"b/{name}")
        else:
            self.server.put(f"b/{name}", data, last_modified=ORIGIN_DAY + 86400)

    def restore(self, name: str) -> None:
        """Put back the very version that was there before `change`."""
        if self.scheme == "file":
            (self.folder / f"{name}.kept").replace(self.folder / name)
        else:
            self.server.put(f"b/{name}", OLD, last_modified=ORIGIN_DAY)
