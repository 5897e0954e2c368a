"""Reading an Icechunk repository: which objects to get, in which order, and what to make of them.

Spec 2: `repo` names everything. Spec 1: `refs/branch.NAME/ref.json`, `refs/tag.NAME/ref.json` and
`config.yaml`; a history is a walk along the parents. What the bytes mean is for `formats.icechunk`.
"""

import functools
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final

import trio

from vzfs.errors import ErrorKind, FormatError, RepositoryError, SourceError, VzfsError
from vzfs.formats.icechunk.manifest import decode_manifest
from vzfs.formats.icechunk.refs import MAX_REF_SIZE, decode_ref
from vzfs.formats.icechunk.repo_info import Availability, RepoInfo, decode_repo_info
from vzfs.formats.icechunk.snapshot import decode_snapshot
from vzfs.model.manifest import Manifest
from vzfs.model.snapshot import (
    DEFAULT_BRANCH,
    RefSpec,
    Snapshot,
    SnapshotInfo,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.repository.refs import (
    Refs,
    choose_snapshot,
    latest_by,
    missing_ref,
    normalize_id,
)
from vzfs.repository.storage import Storage

MAX_METADATA: Final = 2**30
"""Bytes, compressed, of a repo info, snapshot or manifest file: about 150 million chunk refs."""

_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{20}\Z")
_ID_START = re.compile(r"[0-9A-HJKMNP-TV-Z]{1,20}\Z")

_decoders = trio.CapacityLimiter(2)
"""Threads that decode metadata at a time: numpy and zstd release the GIL for most of it."""


async def open_icechunk(storage: Storage) -> "IcechunkV2 | IcechunkV1 | None":
    """Open the Icechunk repository in *storage*, or return None if there is none.

    Raises RepositoryError for a repository that its owner has taken offline.
    """
    data, denial = await _probe(storage, "repo", MAX_METADATA)
    if data is not None:
        info = await _decode(storage, "repo", decode_repo_info, data)
        if info.availability is Availability.OFFLINE:
            raise RepositoryError(
                ErrorKind.REPOSITORY_OFFLINE,
                "the repository has been taken offline by its owner",
                where=info.availability_reason,
                advice="ask them, or mount another copy",
            )
        return IcechunkV2(storage, info)
    main, denial_too = await _probe(storage, _branch_key(DEFAULT_BRANCH), MAX_REF_SIZE)
    if main is None:
        if denial is not None and denial_too is not None:
            raise denial
        return None
    # Who mounts a repository of spec 2 does not wait for a YAML parser.
    from vzfs.formats.icechunk.config import MAX_CONFIG_SIZE, decode_config

    config, _ = await _probe(storage, "config.yaml", MAX_CONFIG_SIZE)
    if config is None:
        return IcechunkV1(storage, ())
    return IcechunkV1(storage, await _decode(storage, "config.yaml", decode_config, config))


async def _probe(
    storage: Storage, key: str, max_length: int
) -> tuple[bytes | None, SourceError | None]:
    """Get an object that may be absent.

    A bucket that may not be listed denies what it does not have, so a denial is not yet an error.
    """
    try:
        return await storage.get(key, max_length), None
    except SourceError as error:
        if error.kind is not ErrorKind.SOURCE_DENIED:
            raise
        return None, error


class _Files:
    """What both specs share: snapshot and manifest files. All is presented, or cannot be opened."""

    is_versioned: Final = True
    named: Final = ()
    omissions: Final = ()

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """Read one snapshot."""
        key = f"snapshots/{snapshot_id}"
        decode = functools.partial(decode_snapshot, expected_id=snapshot_id)
        return await _decode(self._storage, key, decode, await self._file(key))

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Read one manifest file."""
        key = f"manifests/{manifest_id}"
        decode = functools.partial(decode_manifest, expected_id=manifest_id)
        return await _decode(self._storage, key, decode, await self._file(key), wanted)

    async def _file(self, key: str) -> bytes:
        data = await self._storage.get(key, MAX_METADATA)
        if data is None:
            raise RepositoryError(
                ErrorKind.CORRUPT_METADATA,
                "a file of the repository is missing",
                where=self._storage.place(key),
                advice="the repository is damaged, or was garbage-collected under this mount",
            )
        return data


class IcechunkV2(_Files):
    """A repository of spec 2 or 2.1, as its `repo` object was when it was opened."""

    def __init__(self, storage: Storage, info: RepoInfo) -> None:
        super().__init__(storage)
        self._info = info
        self._snapshots = {snapshot.id: snapshot for snapshot in info.snapshots}

    @property
    def format(self) -> str:
        """The format's name and version."""
        return f"icechunk {self._info.spec_version}"

    @property
    def notice(self) -> str:
        """Say so if the owner has made the repository read-only."""
        if self._info.availability is Availability.READ_ONLY:
            reason = self._info.availability_reason
            return "the repository is read-only" + (f": {reason}" if reason else "")
        return ""

    @property
    def containers(self) -> Sequence[VirtualChunkContainer]:
        """The containers of the repository's configuration."""
        return self._info.containers

    async def refs(self) -> Refs:
        """Return all branches and tags."""
        return Refs(self._info.branches, self._info.tags)

    async def resolve(self, ref: RefSpec) -> str:
        """Return the id of the snapshot that *ref* asks for."""
        if ref.tag is not None:
            return self._named("tag", ref.tag, self._info.tags)
        if ref.snapshot is not None:
            return choose_snapshot(normalize_id(ref.snapshot, _ID_START), self._snapshots)
        tip = self._named("branch", ref.branch or DEFAULT_BRANCH, self._info.branches)
        return tip if ref.as_of is None else await latest_by(self.history(tip), ref.as_of)

    def written_at(self, snapshot_id: str) -> int | None:
        """Return when a snapshot was written (nanoseconds), as the repository has it."""
        found = self._snapshots.get(snapshot_id)
        return None if found is None else found.written_at

    def _named(self, kind: str, name: str, known: Mapping[str, str]) -> str:
        if name not in known:
            raise missing_ref(kind, name, known)
        return known[name]

    async def history(self, snapshot_id: str) -> AsyncGenerator[SnapshotInfo]:
        """Yield the snapshot and its ancestors, newest first."""
        seen = set()
        following: str | None = snapshot_id
        while following is not None and following not in seen:
            seen.add(following)
            info = self._snapshots[following]
            yield info
            following = info.parent


class IcechunkV1(_Files):
    """A repository of spec 1: a ref is an object, and a snapshot names its parent."""

    format = "icechunk 1"
    notice = ""

    def __init__(self, storage: Storage, containers: Sequence[VirtualChunkContainer]) -> None:
        super().__init__(storage)
        self._containers = containers

    @property
    def containers(self) -> Sequence[VirtualChunkContainer]:
        """The containers of `config.yaml`."""
        return self._containers

    async def refs(self) -> Refs:
        """Return all branches and tags that are not deleted."""
        found: dict[str, dict[str, str]] = {"branch": {}, "tag": {}}
        for kind, name in await self._names():
            target = await self._target(f"refs/{kind}.{name}/ref.json")
            if target is not None:
                found[kind][name] = target
        return Refs(found["branch"], found["tag"])

    async def _names(self) -> list[tuple[str, str]]:
        """Return kind and name of all refs that are not deleted."""
        keys = set(await self._storage.names("refs"))
        found = []
        for key in sorted(keys):
            kind, _, name = key.removesuffix("/ref.json").partition(".")
            is_ref = key.endswith("/ref.json") and key + ".deleted" not in keys
            if is_ref and kind in {"branch", "tag"}:
                found.append((kind, name))
        return found

    async def resolve(self, ref: RefSpec) -> str:
        """Return the id of the snapshot that *ref* asks for."""
        if ref.snapshot is not None:
            wanted = normalize_id(ref.snapshot, _ID_START)
            if _ID.match(wanted):
                if await self._storage.lacks(f"snapshots/{wanted}"):
                    raise missing_ref("snapshot", wanted, ())
                return wanted
            return choose_snapshot(wanted, await self._storage.names("snapshots"))
        if ref.tag is not None:
            key = _tag_key(ref.tag)
            is_deleted = await self._storage.get(key + ".deleted", MAX_REF_SIZE) is not None
            target = None if is_deleted else await self._target(key)
            if target is None:
                raise missing_ref("tag", ref.tag, await self._known("tag"))
            return target
        branch = ref.branch or DEFAULT_BRANCH
        tip = await self._target(_branch_key(branch))
        if tip is None:
            raise missing_ref("branch", branch, await self._known("branch"))
        return tip if ref.as_of is None else await latest_by(self.history(tip), ref.as_of)

    async def history(self, snapshot_id: str) -> AsyncGenerator[SnapshotInfo]:
        """Yield the snapshot and its ancestors, newest first; each costs one file."""
        seen = set()
        following: str | None = snapshot_id
        while following is not None and following not in seen:
            seen.add(following)
            snapshot = await self.snapshot(following)
            yield SnapshotInfo(
                snapshot.id,
                snapshot.parent,
                snapshot.written_at,
                snapshot.message,
                snapshot.metadata,
            )
            following = snapshot.parent

    def written_at(self, snapshot_id: str) -> int | None:
        """Return None: a snapshot's own file says when it was written."""
        return None

    async def _target(self, key: str) -> str | None:
        data = await self._storage.get(key, MAX_REF_SIZE)
        return None if data is None else await _decode(self._storage, key, decode_ref, data)

    async def _known(self, kind: str) -> Sequence[str]:
        """Return what to suggest instead, if the storage can say."""
        try:
            return [name for of, name in await self._names() if of == kind]
        except VzfsError:
            return ()


def _branch_key(name: str) -> str:
    return f"refs/branch.{_ref_name(name)}/ref.json"


def _tag_key(name: str) -> str:
    return f"refs/tag.{_ref_name(name)}/ref.json"


def _ref_name(name: str) -> str:
    if not name or "/" in name:
        raise missing_ref("ref", name, ())
    return name


async def _decode[*A, R](storage: Storage, key: str, decode: Callable[[*A], R], *args: *A) -> R:
    """Call *decode* in a thread. Raises FormatError that names the file *key*."""
    try:
        return await trio.to_thread.run_sync(
            decode, *args, limiter=_decoders, abandon_on_cancel=True
        )
    except FormatError as error:
        raise FormatError(
            error.kind,
            error.what,
            where=", ".join(filter(None, [storage.place(key), error.where])),
            advice=error.advice or "the file is damaged; restore it or ask the repository's owner",
        ) from None
