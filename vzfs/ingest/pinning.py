"""Versions as everybody can tell them again: of refs that record none, and of files on web servers.

kerchunk's references have no versions: what their objects are now is asked. Of a file on a web server
the official library compares no entity tag, since it sends tags without their quotes; where the server
says a date, that is what is recorded, if the file still has the tag it had when it was parsed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from vzfs.access import Access
from vzfs.errors import AccessDenied
from vzfs.ingest.parsing import Heard
from vzfs.joining.gathering import each
from vzfs.model.location import Checksum, ETag, LastModified
from vzfs.model.manifest import ChecksumTable, ChunkKind, ChunkRef, Column, Manifest, narrow
from vzfs.model.references import References
from vzfs.source import Fetcher

DOING: Final = "asking for versions"
_WEB: Final = ("http://", "https://")

type Wanted = tuple[str, Checksum | None]
"""A location, and the version that refs to it record."""


async def pinned(
    parts: Sequence[References], access: Access, fetcher: Fetcher, heard: Heard
) -> tuple[list[References], int]:
    """Return *parts* with versions for all refs to objects that may be read, and how many objects have none.

    Costs one question for each object that needs it. Raises SourceError for one that is not there, or
    has changed.
    """
    wanted = sorted(
        {
            want
            for part in parts
            for manifest in part.manifests.values()
            for want in _wanted(manifest)
        },
        key=repr,
    )
    found: dict[Wanted, Checksum] = {}

    async def ask(want: Wanted) -> None:
        text, checksum = want
        try:
            proof = access.authorize(ChunkRef(ChunkKind.VIRTUAL, 0, text, 0, checksum))
        except AccessDenied:
            return
        said = await fetcher.stat(proof)
        if text.startswith(_WEB) and said.modified is not None:
            found[want] = LastModified(said.modified)
        elif said.checksum is not None:
            found[want] = said.checksum

    if wanted:
        await each(wanted, ask, lambda done, total: heard(DOING, done, total))
    made = [
        dataclasses.replace(
            part,
            manifests={n: _versioned(manifest, found) for n, manifest in part.manifests.items()},
        )
        for part in parts
    ]
    unknown = {text for text, checksum in wanted if checksum is None and (text, None) not in found}
    return made, len(unknown)


def _due(manifest: Manifest) -> Column[np.bool_]:
    """Return which rows are to have another version than they record."""
    tags = len(manifest.checksums.etags)
    is_web = np.array([text.startswith(_WEB) for text in manifest.locations] or [False])
    is_virtual = manifest.kind == ChunkKind.VIRTUAL
    is_tagged = (manifest.checksum > 0) & (manifest.checksum <= tags)
    on_web = is_web[np.where(is_virtual, manifest.location, 0)]
    due: Column[np.bool_] = is_virtual & ((manifest.checksum == 0) | (on_web & is_tagged))
    return due


def _wanted(manifest: Manifest) -> set[Wanted]:
    due = _due(manifest)
    pairs = np.unique(
        np.stack([manifest.location[due], manifest.checksum[due]], axis=1).astype(np.int64), axis=0
    )
    return {
        (manifest.locations[i], manifest.checksums[n - 1] if n else None) for i, n in pairs.tolist()
    }


def _versioned(manifest: Manifest, found: Mapping[Wanted, Checksum]) -> Manifest:
    """Return *manifest* with what was *found* for its locations and the versions that it says of them."""
    due = np.flatnonzero(_due(manifest))
    if not len(due):
        return manifest
    known = list(manifest.checksums)
    places = np.stack([manifest.location[due], manifest.checksum[due]], axis=1).astype(np.int64)
    pairs, which = np.unique(places, axis=0, return_inverse=True)
    news: list[Checksum | None] = []
    for i, n in pairs.tolist():
        before = known[n - 1] if n else None
        news.append(found.get((manifest.locations[i], before), before))
    ordered = sorted({*known, *(c for c in news if c is not None)}, key=_order)
    number: dict[Checksum | None, int] = {None: 0}
    number.update((c, i) for i, c in enumerate(ordered, 1))
    checksum = np.array([0, *(number[c] for c in known)])[manifest.checksum]
    checksum[due] = np.array([number[c] for c in news])[which.reshape(-1)]
    return Manifest(
        index=manifest.index,
        kind=manifest.kind,
        location=manifest.location,
        offset=manifest.offset,
        length=manifest.length,
        checksum=narrow(checksum),
        locations=manifest.locations,
        checksums=ChecksumTable.of(ordered),
        inline=manifest.inline,
    )


def _order(checksum: Checksum) -> tuple[bool, str]:
    return not isinstance(checksum, ETag), repr(checksum)
