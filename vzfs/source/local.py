"""Objects that are local files.

A file is opened beneath the authorized root: no `..` and no link leads out of it (the root itself
may be reached through links: the user named it). Only regular files are read, and a file that
changes while it is read gives an error, not a mix of old and new.

What the kernel has in memory is read at once (`nowait`), the rest in threads.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from vzfs.access import AuthorizedPrefix, AuthorizedRange
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import ETag, LastModified, Location, Prefix
from vzfs.source import nowait, openat, remote, versions
from vzfs.source.fetcher import MAX_LISTED, Listed, Stat
from vzfs.source.wire import Transient, remaining, too_many

MAX_DEPTH: Final = 128
"""Folders within folders in a listing. Repositories have three, arrays one for each dimension."""

_VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_IRREGULAR: Final = frozenset({errno.ENXIO, errno.ENODEV})
"""What opening a socket, or a device without a driver, gives."""

_LED_OUT: Final = frozenset({errno.EXDEV, errno.ELOOP})


class Read(NamedTuple):
    """Bytes of a file, and its version; the seconds until it was open, and those that reading took."""

    data: bytes | memoryview
    version: str
    waited: float
    took: float


class LocalFiles:
    """Attempts for `file:` locations. Safe to use from many threads at once."""

    def __init__(self) -> None:
        self._disks = nowait.Disks()

    def glance(self, wanted: AuthorizedRange, pinned: str | None) -> Read | None:
        """Return the bytes of *wanted* if they can be had without waiting, and else None.

        What it gives is checked as in `fetch`. What is wrong, whatever it is, is for `fetch` to say.
        """
        span = wanted.range
        if span is None or not 0 < span.length <= nowait.MOST:
            return None
        began = time.monotonic()
        try:
            remote.check(wanted)
            folder, path, named = _way(wanted)
            file = self._disks.open(folder, path, links=not named)
            try:
                before = os.fstat(file)
                if not stat.S_ISREG(before.st_mode):
                    return None
                version = _verify(wanted, before, pinned)
                opened = time.monotonic()
                data = nowait.read(file, before, span.offset, span.length)
                came = time.monotonic()
                if not _is_same(os.fstat(file), before):
                    return None
            finally:
                os.close(file)
        except (OSError, SourceError):
            return None
        return Read(data, version, opened - began, came - opened)

    def fetch(self, wanted: AuthorizedRange, pinned: str | None, until: float) -> Read:
        """Return the bytes of *wanted*. Raises Transient, SourceError."""
        remote.check(wanted)
        where = str(wanted.location)
        began = time.monotonic()
        remaining(until, where)
        with _problems(where, wanted.root), _opened(wanted) as file:
            before = os.fstat(file)
            self._disks.learn(before.st_dev)
            version = _verify(wanted, before, pinned)
            span = wanted.range
            offset, length = (span.offset, span.length) if span else (0, before.st_size)
            if length > wanted.max_length:
                raise _mismatch(f"{length} bytes, of at most {wanted.max_length}", where)
            _check_end(offset + length, before.st_size, where)
            opened = time.monotonic()
            data = _read(file, offset, length)
            came = time.monotonic()
            after = os.fstat(file)
            if not _is_same(after, before):
                raise versions.changed(_version(before), _version(after), where)
        if len(data) != length:
            raise _mismatch(f"the file ends after {len(data)} of {length} bytes", where)
        return Read(data, version, opened - began, came - opened)

    def version(self, wanted: AuthorizedRange, until: float) -> str:
        """Return the version that the file has now. Raises Transient, SourceError."""
        remote.check(wanted)
        where = str(wanted.location)
        remaining(until, where)
        with _problems(where, wanted.root), _opened(wanted) as file:
            found = os.fstat(file)
            version = _verify(wanted, found)
        if wanted.range is not None:
            _check_end(wanted.range.end, found.st_size, where)
        return version

    def stat(self, wanted: AuthorizedRange, until: float) -> Stat:
        """Return length and version of the file. Raises Transient, SourceError."""
        remote.check(wanted)
        where = str(wanted.location)
        remaining(until, where)
        with _problems(where, wanted.root), _opened(wanted) as file:
            found = os.fstat(file)
            _verify(wanted, found)
        return Stat(found.st_size, ETag(_etag(found)), max(found.st_mtime_ns // 10**9, 0))

    def objects(self, below: AuthorizedPrefix, until: float, *, deep: bool) -> Sequence[Listed]:
        """Return the files below a prefix, at every depth or of one level. Raises Transient, SourceError."""
        where = str(below.prefix)
        found: list[Listed] = []
        root, start = below.root, below.prefix
        beneath = root.relative(Location(start.scheme, start.authority, start.key))
        with _problems(where, root):
            try:
                top = os.open(_path(root.key), openat.FOLDER)
            except (FileNotFoundError, NotADirectoryError):
                return []
            try:
                for listed in _walk(top, beneath, deep=deep):
                    remaining(until, where)
                    found.append(listed)
                    if len(found) > MAX_LISTED:
                        raise too_many(start)
            finally:
                os.close(top)
        return found


@contextlib.contextmanager
def _opened(wanted: AuthorizedRange) -> Iterator[int]:
    """Open the file of *wanted*, beneath its root, if it is a regular one."""
    folder, path, named = _way(wanted)
    top = os.open(folder, openat.PLACE | os.O_DIRECTORY)
    try:
        file = openat.open_beneath(top, path, openat.READ, links=not named)
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise _mismatch("it is not a regular file", str(wanted.location))
        yield file
    finally:
        os.close(file)


def _way(wanted: AuthorizedRange) -> tuple[str, str, bool]:
    """Return the folder that is not left, the path of the file in it, and whether the user named that very file.

    Raises SourceError.
    """
    location, root = wanted.location, wanted.root
    if not root.covers(location):
        raise SourceError(
            ErrorKind.SOURCE_DENIED, f"the file is not below {root}", where=str(location)
        )
    path, folder = root.relative(location), _path(root.key)
    if path:
        return folder, path, False
    return *os.path.split(folder), True


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether nothing was written to a file between *one* and *other*."""
    return (one.st_mtime_ns, one.st_size) == (other.st_mtime_ns, other.st_size)


@contextlib.contextmanager
def _problems(where: str, root: Prefix) -> Iterator[None]:
    """Turn what the operating system says into errors of a source."""
    try:
        yield
    except OSError as problem:
        code = problem.errno or 0
        reason = os.strerror(code)
        if code in _VANISHED:
            raise SourceError(
                ErrorKind.SOURCE_VANISHED,
                f"the file does not exist ({reason})",
                where=where,
                advice="it was moved or deleted since it was referred to; --map says where it is now",
            ) from None
        if code in _LED_OUT:
            raise SourceError(
                ErrorKind.SOURCE_DENIED,
                f"a link leads out of {root}, or is one that is not followed",
                where=where,
                advice="allow the place that the link leads to, and point --map there",
            ) from None
        if code in _DENIED:
            raise SourceError(
                ErrorKind.SOURCE_DENIED, f"the file may not be read ({reason})", where=where
            ) from None
        if code in _IRREGULAR:
            raise _mismatch("it is not a regular file", where) from None
        raise Transient(
            SourceError(
                ErrorKind.SOURCE_UNREACHABLE, f"the file cannot be read ({reason})", where=where
            )
        ) from None


def _path(key: str) -> str:
    return "/" + key


def _read(file: int, offset: int, length: int) -> bytes:
    """Read *length* bytes, or as many as there are."""
    data = os.pread(file, length, offset)
    pieces = [data]
    size = len(data)
    while data and size < length:
        data = os.pread(file, length - size, offset + size)
        pieces.append(data)
        size += len(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _verify(wanted: AuthorizedRange, found: os.stat_result, pinned: str | None = None) -> str:
    """Return the version of a file, if it is what *wanted* refers to, and the *pinned* one."""
    where = str(wanted.location)
    checksum = wanted.checksum
    if isinstance(checksum, ETag) and checksum.opaque != _etag(found):
        raise versions.changed(f"etag {checksum.value!r}", repr(_etag(found)), where)
    if isinstance(checksum, LastModified):
        seconds = found.st_mtime_ns // 10**9
        if seconds > checksum.seconds:
            raise versions.changed(*versions.dates(checksum.seconds, seconds), where)
    version = _version(found)
    if pinned is not None and version != pinned:
        raise versions.changed(f"version {pinned}", version, where)
    return version


def _version(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


def _etag(found: os.stat_result) -> str:
    """Return the etag that object_store gives a file: inode, microseconds (no dates before 1970), size."""
    return f"{found.st_ino:x}-{max(found.st_mtime_ns // 1000, 0):x}-{found.st_size:x}"


def _walk(top: int, start: str, *, deep: bool) -> Iterator[Listed]:
    """Yield the regular files below *start*, through links too as long as they stay beneath *top*.

    If not *deep*, yield those right below it, and the folders. Raises OSError, SourceError.
    """
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        folder, above = pending.pop()
        path = "/".join(part for part in (start, folder) if part)
        try:
            here = openat.open_beneath(top, path, openat.FOLDER)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone since it was named
        try:
            above = (*above, _identity(os.fstat(here)))
            with os.scandir(here) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    try:
                        found = _look(top, path, entry)
                    except FileNotFoundError:
                        continue
                    if found is None:
                        yield Listed(name, None)
                    elif stat.S_ISREG(found.st_mode):
                        yield Listed(name, found.st_size, ETag(_etag(found)))
                    elif not stat.S_ISDIR(found.st_mode) or _identity(found) in above:
                        continue
                    elif not deep:
                        yield Listed(f"{name}/")
                    elif len(above) > MAX_DEPTH:
                        raise SourceError(
                            ErrorKind.CANNOT_LIST,
                            f"it is deeper than {MAX_DEPTH} folders",
                            where=name,
                        )
                    else:
                        pending.append((name, above))
        finally:
            os.close(here)


def _look(top: int, folder: str, entry: "os.DirEntry[str]") -> os.stat_result | None:
    """Return what is behind a name in *folder*, None behind a link that is not followed, or leads nowhere."""
    if not entry.is_symlink():
        return entry.stat(follow_symlinks=False)
    try:
        target = openat.open_beneath(
            top, f"{folder}/{entry.name}" if folder else entry.name, openat.PLACE
        )
    except OSError:
        return None
    try:
        return os.fstat(target)
    finally:
        os.close(target)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _check_end(end: int, size: int, where: str) -> None:
    """Raise SourceError if a file of *size* bytes has not all of those before *end*."""
    if end > size:
        raise _mismatch(f"the file ends at {size}, before {end}", where)


def _mismatch(what: str, where: str) -> SourceError:
    return SourceError(ErrorKind.SOURCE_MISMATCH, what, where=where)
