"""Where bytes come from, in words: the extended attributes of nodes and chunks."""

from typing import Final

from vzfs.access import Access
from vzfs.errors import ErrorKind, NameProblem, VzfsError
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.moment import format_time
from vzfs.model.snapshot import DEFAULT_BRANCH, RefSpec
from vzfs.repository import Checkout

XATTR_PREFIX: Final = "user.vzfs."
CACHED: Final = f"{XATTR_PREFIX}cached"
"""The one attribute for which the disk has to be asked."""


def about_snapshot(checkout: Checkout, access: Access, ref: RefSpec) -> dict[str, str]:
    """Say which snapshot it is, and what it was asked for as: *ref*."""
    about = {
        "snapshot": checkout.snapshot.id,
        "repository": str(access.repository),
        "format": checkout.repository.format,
    }
    if not checkout.repository.is_versioned:
        return about
    if ref.tag is not None:
        about["tag"] = ref.tag
    elif ref.snapshot is None:
        about["branch"] = ref.branch or DEFAULT_BRANCH
    return about


def about_chunk(ref: ChunkRef, access: Access) -> dict[str, str]:
    """Say what a chunk ref refers to, as *access* takes it."""
    about = {"kind": ref.kind.name.lower(), "length": str(ref.length)}
    if ref.kind is ChunkKind.INLINE:
        return about
    about["offset"] = str(ref.offset)
    match ref.checksum:
        case ETag(value):
            about["etag"] = value
        case LastModified(seconds):
            about["last_modified"] = format_time(seconds * 10**9)
    if ref.kind is ChunkKind.NATIVE:
        about["source"] = str(access.repository.join(ref.location))
        return about
    try:
        location = access.resolve(ref.location)
    except VzfsError:
        about["source"] = ref.location
        return about
    about["source"] = str(location)
    container = access.container_of(location)
    if container is not None:
        about["container"] = container.name or container.url_prefix
    return about


def no_attribute(name: str) -> NameProblem:
    """Return the error for an attribute that is not there."""
    return NameProblem(ErrorKind.NO_SUCH_ATTRIBUTE, "there is no such attribute", where=name)
