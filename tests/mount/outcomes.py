"""What a program gets from a path: bytes, or an errno, always through system calls of its own."""

import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vzfs.cache.segment import decode_contents, head_size
from vzfs.errors import FormatError

_LOCATION = 40
"""Where the location begins in a cache entry."""
PATIENCE = 15.0
"""Seconds after which something that should have come to pass counts as never coming."""


def read(path: str | os.PathLike[str], offset: int = 0, size: int = -1) -> bytes | str:
    """Return the bytes of a file, or the name of the errno that READ gives.

    OPEN and STAT must succeed: what fails there raises.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        wanted = os.fstat(descriptor).st_size - offset if size < 0 else size
        data = b""
        while len(data) < wanted:
            try:
                more = os.pread(descriptor, wanted - len(data), offset + len(data))
            except OSError as error:
                return errno_name(error)
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


def errno_of(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """Return the name of the errno that a call gives, "" if it succeeds."""
    try:
        call(*arguments, **options)
    except OSError as error:
        return errno_name(error)
    return ""


def errno_name(error: OSError) -> str:
    assert error.errno is not None
    return errno.errorcode[error.errno]


def xattrs(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """Return all extended attributes of a path, without their common prefix."""
    return {
        name.removeprefix("user.vzfs."): os.getxattr(path, name).decode()
        for name in os.listxattr(path)
    }


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as *condition* holds; fail if it never does."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.02)


def walk(root: Path) -> list[str]:
    """List every path below *root*, relative to it; a directory that cannot be listed raises."""
    found = []
    for folder, folders, files in os.walk(root, onerror=_raise):
        found += [str(Path(folder, name).relative_to(root)) for name in folders + files]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def cached_chunks(cache: Path, length: int) -> int:
    """Count the *length* bytes of a chunk that the files of a cache hold, under their final names."""
    found = (path for path in cache.rglob("*") if not path.name.startswith("tmp"))
    return sum(_chunks_in(path, length) for path in found if path.is_file())


def _chunks_in(path: Path, length: int) -> int:
    """Count what is of that length, and not what was remembered of a repository's metadata."""
    try:
        data = path.read_bytes()
        shelf = path.name.partition("-")[0]
        contents = decode_contents(data[: head_size(data)], shelf, len(data))
    except (OSError, FormatError):
        return 0
    entries = zip(contents.offset.tolist(), contents.size.tolist(), strict=True)
    return sum(
        length <= size < length + 4096
        and not data[offset + _LOCATION :].startswith((b"object ", b"listing ", b"compiled "))
        for offset, size in entries
    )
