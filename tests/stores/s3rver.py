"""s3rver: it lies by nature.

It ignores preconditions on reading, answers a request for the first byte alone with all bytes, and
believes every signature of a key that it knows.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.stores import npm
from tests.stores.programs import Program
from tests.stores.s3client import S3Store


class S3rver(S3Store):
    """A bucket of s3rver, with the one pair of keys that it knows."""

    name = "s3rver"
    honours_preconditions = False


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[S3rver]:
    """Run s3rver, with its objects in *folder*, while the context lasts."""
    # It makes continuation tokens with a cipher that OpenSSL keeps in its legacy provider.
    words = npm.program("s3rver/bin/s3rver.js", "--openssl-legacy-provider")
    words += ["--directory", str(folder)]
    words += ["--address", "127.0.0.1", "--port", "0", "--no-vhost-buckets", "--silent"]
    with Program(words, r"listening on (127\.0\.0\.1:\d+)", folder=folder) as program:
        assert program.match is not None
        yield S3rver(f"http://{program.match[1]}", "S3RVER", "S3RVER")
