"""The repo info file: entry point of a spec 2 repository, and its only mutable object.

It names the branches and tags, knows every snapshot and its parent, and carries the configuration.
"""

import dataclasses
import enum
from collections.abc import Mapping

from vzfs.formats.icechunk.containers import containers_of
from vzfs.formats.icechunk.envelope import FileType, corrupt, open_envelope, unsupported
from vzfs.formats.icechunk.flatbuffer import Buffer, Table
from vzfs.formats.icechunk.flexbuffer import decode_flexbuffer
from vzfs.formats.icechunk.ids import OBJECT_ID_LENGTH, encode_id
from vzfs.formats.icechunk.metadata import Allowance, decode_metadata, nanoseconds
from vzfs.model.snapshot import SnapshotInfo, VirtualChunkContainer


class Availability(enum.IntEnum):
    """What the repository's owner lets anybody do with it."""

    ONLINE = 0
    READ_ONLY = 1
    OFFLINE = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RepoInfo:
    """One state of a repository.

    *branches* and *tags* map names to snapshot ids. *snapshots* has every snapshot, in the order of
    ids; parents are resolved and form no cycle. *availability_reason* is "" where the owner gives
    none.
    """

    spec_version: int
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    deleted_tags: frozenset[str]
    snapshots: tuple[SnapshotInfo, ...]
    availability: Availability
    availability_reason: str
    containers: tuple[VirtualChunkContainer, ...]
    metadata: Mapping[str, object]


def decode_repo_info(data: bytes) -> RepoInfo:
    """Decode the file `repo`. Raises FormatError."""
    envelope = open_envelope(data, FileType.REPO_INFO)
    root = Buffer(envelope.payload).root()
    spec_version = root.u8(0)
    if spec_version not in {1, 2}:
        raise unsupported(f"the repository follows Icechunk spec version {spec_version}")
    allowance = Allowance(2)
    snapshots = _snapshots(root, allowance)
    availability, reason = _status(root.required_table(5))
    config = root.blob(9)
    if config:
        allowance.charge(len(config))
    return RepoInfo(
        spec_version=spec_version,
        branches=_refs(root, 2, snapshots),
        tags=_refs(root, 1, snapshots),
        deleted_tags=frozenset(root.required_strings(3)),
        snapshots=snapshots,
        availability=availability,
        availability_reason=reason,
        containers=containers_of(decode_flexbuffer(config)) if config else (),
        metadata=decode_metadata(root.tables(6), allowance),
    )


def _refs(root: Table, field: int, snapshots: tuple[SnapshotInfo, ...]) -> Mapping[str, str]:
    refs: dict[str, str] = {}
    for ref in root.required_tables(field):
        name, index = ref.required_string(0), ref.u32(1)
        if index >= len(snapshots):
            raise corrupt(f"{name[:80]!r} names a snapshot that the repository does not list")
        if name in refs:
            raise corrupt(f"{name[:80]!r} is listed twice")
        refs[name] = snapshots[index].id
    return refs


def _snapshots(root: Table, allowance: Allowance) -> tuple[SnapshotInfo, ...]:
    tables = list(root.required_tables(4))
    ids = [encode_id(table.required_fixed(0, OBJECT_ID_LENGTH)) for table in tables]
    if len(set(ids)) != len(ids):
        raise corrupt("the repository lists a snapshot twice")
    parents = [table.i32(1) for table in tables]
    if not all(-1 <= parent < len(ids) for parent in parents):
        raise corrupt("a snapshot has a parent that the repository does not list")
    _check_ancestry(parents)
    return tuple(
        SnapshotInfo(
            id_,
            ids[parent] if parent >= 0 else None,
            nanoseconds(table.u64(2)),
            table.required_string(3),
            decode_metadata(table.tables(4), allowance),
        )
        for id_, parent, table in zip(ids, parents, tables, strict=True)
    )


def _check_ancestry(parents: list[int]) -> None:
    """Raise FormatError if a snapshot is its own ancestor: a history must end."""
    visited_from = [-1] * len(parents)
    for start in range(len(parents)):
        snapshot = start
        while snapshot >= 0 and visited_from[snapshot] < 0:
            visited_from[snapshot] = start
            snapshot = parents[snapshot]
        if snapshot >= 0 and visited_from[snapshot] == start:
            raise corrupt("a snapshot of the repository is its own ancestor")


def _status(status: Table) -> tuple[Availability, str]:
    value = status.u8(0)
    if value not in Availability:
        raise unsupported(f"the repository's availability has the unknown value {value}")
    return Availability(value), status.string(2) or ""
