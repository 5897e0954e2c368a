"""A repository of one snapshot that is known whole: references in a file, or files of an archive.

It has neither branches nor tags. Its snapshot has an id that says what it was made of, so that the
same source as it is now has the same id, and another state of it another.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from vzfs.errors import AccessDenied, ErrorKind, RepositoryError
from vzfs.model.location import Location, Prefix, parse_location
from vzfs.model.manifest import Manifest
from vzfs.model.references import Omission, References
from vzfs.model.snapshot import (
    DEFAULT_BRANCH,
    RefSpec,
    Snapshot,
    SnapshotInfo,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.repository.refs import Refs, choose_snapshot

MAX_FOLDERS: Final = 64
"""Folders that are told apart when it is said what has to be allowed."""


class FixedRepository:
    """The *references* found at *where*, as a repository of the *format* with one snapshot.

    *state* names what they were made of, as hexadecimal digits; *written_at* is when, in nanoseconds
    since the Unix epoch. *named* are the objects that the user named, to which the references lead; other
    references lie in containers that are made of them, so that the user hears what has to be allowed.
    """

    is_versioned = False
    notice = ""

    def __init__(
        self,
        references: References,
        *,
        format: str,
        where: str,
        state: str,
        written_at: int,
        named: Sequence[Location] = (),
    ) -> None:
        self.format = format
        self.named = named
        self._where = where
        self._manifests = references.manifests
        self._snapshot = Snapshot(
            id=state.upper(),
            written_at=written_at,
            message="",
            metadata={},
            nodes=references.nodes,
        )
        self.omissions: Sequence[Omission] = references.omissions
        self.containers = None if named else containers_of(references)

    async def resolve(self, ref: RefSpec) -> str:
        """Return the id of the one snapshot, if that is what *ref* asks for."""
        if ref.snapshot is not None:
            return choose_snapshot(ref.snapshot.upper(), [self._snapshot.id])
        if ref.tag is not None or ref.as_of is not None or ref.branch not in {None, DEFAULT_BRANCH}:
            raise RepositoryError(
                ErrorKind.REF_NOT_FOUND,
                f"there is no {ref if ref.as_of is None else 'history'}: {self.format} has one state alone",
                where=self._where,
                advice="leave out --branch, --tag and --as-of",
            )
        return self._snapshot.id

    async def refs(self) -> Refs:
        """Return that there are no branches and tags."""
        return Refs({}, {})

    async def history(self, snapshot_id: str) -> AsyncGenerator[SnapshotInfo]:
        """Yield the one snapshot."""
        snapshot = await self.snapshot(snapshot_id)
        yield SnapshotInfo(snapshot.id, None, snapshot.written_at, "", {})

    def written_at(self, snapshot_id: str) -> int | None:
        """Return when the one snapshot was made."""
        return self._snapshot.written_at if snapshot_id == self._snapshot.id else None

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """Return the one snapshot. Raises RepositoryError for any other."""
        if snapshot_id != self._snapshot.id:
            raise RepositoryError(
                ErrorKind.REF_NOT_FOUND, f"there is no snapshot {snapshot_id}", where=self._where
            )
        return self._snapshot

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Return the manifests of the *wanted* arrays."""
        return {array: self._manifests[array] for array in wanted}


def containers_of(references: References) -> Sequence[VirtualChunkContainer] | None:
    """Return the folders that all *references* lead to, or their buckets and hosts where these are many.

    None where they lead nowhere, to too many places, or to all of the machine's files.
    """
    folders: set[Prefix] = set()
    for manifest in references.manifests.values():
        for text in manifest.locations:
            with contextlib.suppress(AccessDenied):
                place = parse_location(text)
                folders.add(Prefix(place.scheme, place.authority, place.key.rpartition("/")[0]))
    places = folders
    if len(folders) > MAX_FOLDERS:
        places = {
            Prefix(f.scheme, f.authority, "" if f.authority else f.key.partition("/")[0])
            for f in folders
        }
    if not 0 < len(places) <= MAX_FOLDERS or not all(
        place.authority or place.key for place in places
    ):
        return None
    return [VirtualChunkContainer(str(place)) for place in sorted(places, key=str)]
