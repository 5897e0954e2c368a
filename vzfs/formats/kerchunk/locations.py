"""What kerchunk writes as a location, as the URL that names the same object here.

kerchunk hands its locations to fsspec, which takes keys of object stores and local paths as they
are written, and those of web servers percent-encoded. A place that cannot be named by a URL becomes
a location that nobody can read, and that says why: its chunk exists, and reading it fails.
"""

import posixpath
import re
import urllib.parse
from typing import Final

from vzfs.model.location import Prefix, path_to_url

UNREADABLE: Final = "unreadable"
"""How the location of a chunk begins that exists, and of which nobody knows where it is."""

_VERBATIM: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "tigris", "memory"})
_UNENCODED: Final = "/!$&'()*+,;=:@~"
_CACHING = re.compile(r"(?:(?:simplecache|filecache|blockcache|cached)::)+(?=[a-zA-Z0-9+.-]+://)")
"""fsspec's wrappers that keep a copy of the very object that follows, and change nothing."""

_AS_IT_IS = re.compile(r"(?:s3|gs|az|abfs)://[^/]+/[A-Za-z0-9/!$&'()*+,;=:@~._-]+\Z")
"""What means the same to both: most locations, of which there may be as many as chunks."""


def unreadable(reason: str) -> str:
    """Return the location of a chunk that exists and cannot be read, which says the *reason*."""
    return f"{UNREADABLE}: {' '.join(reason.split())[:500]}"


def location_of(text: str, folder: Prefix) -> str:
    """Return the location that kerchunk's *text* means, relative ones in *folder*. Never raises."""
    if _AS_IT_IS.match(text):
        return text
    text = _CACHING.sub("", text, count=1) if "::" in text else text
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    try:
        if not separator or "/" in scheme:
            return _path(text, folder)
        if scheme in {"file", "local"}:
            return path_to_url(rest) if rest.startswith("/") else text
    except (UnicodeEncodeError, ValueError):
        return unreadable("the reference names a path that cannot be written down")
    if "::" in scheme:
        return unreadable("the reference is a chain of fsspec's filesystems")
    if scheme in _VERBATIM:
        return _object(scheme, rest)
    return text


def _path(text: str, folder: Prefix) -> str:
    """Return the place of a local path, or of a name relative to the references."""
    if not text:
        return unreadable("the reference names no object")
    if text.startswith("file:/"):
        text = text.removeprefix("file:")
    if text.startswith("/"):
        return path_to_url(text)
    relative = text
    key = folder.key
    if not {".", ".."}.isdisjoint(text.split("/")):
        relative = posixpath.normpath(text)
        while relative.startswith("../"):
            if not key:
                return unreadable("the reference leads out of the place where references lie")
            relative, key = relative[3:], key.rpartition("/")[0]
        if relative in {".", ".."}:
            return unreadable("the reference names no object")
    place = Prefix(folder.scheme, folder.authority, key)
    # A file system takes any bytes, a store UTF-8 alone.
    relative.encode("utf-8", "surrogateescape" if folder.scheme == "file" else "strict")
    return str(place.join(relative))


def _object(scheme: str, rest: str) -> str:
    authority, _, key = rest.partition("/")
    if "?versionId=" in key:
        return unreadable("the reference names a version of an object")
    try:
        return f"{scheme}://{authority}/{urllib.parse.quote(key, safe=_UNENCODED)}"
    except UnicodeEncodeError:
        return unreadable("the reference names a key that cannot be written down")
