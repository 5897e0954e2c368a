"""What a repository can be asked, and one of its snapshots checked out.

A `Repository` gives refs, histories and snapshots, whatever its format. A `Checkout` is one snapshot with its manifests, which load once each, when first needed,
however many names ask for them.
"""

import functools
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, Protocol

import trio

from vzfs.errors import ErrorKind, RepositoryError, VzfsError
from vzfs.flights import Flights
from vzfs.model.location import Location
from vzfs.model.manifest import Manifest
from vzfs.model.references import Omission
from vzfs.model.snapshot import (
    Array,
    Extents,
    RefSpec,
    Snapshot,
    SnapshotInfo,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.repository.arrayrefs import ArrayRefs
from vzfs.repository.compiled import Compiled
from vzfs.repository.refs import Refs

logger = logging.getLogger("vzfs.repository")


class Repository(Protocol):
    """What every format of repository can be asked."""

    @property
    def format(self) -> str:
        """The format's name and version, for people."""

    @property
    def is_versioned(self) -> bool:
        """Whether there are refs and a history, and the ids of manifests mean the same for ever."""

    @property
    def notice(self) -> str:
        """What the user should know before reading (a status of the repository), or ""."""

    @property
    def containers(self) -> Sequence[VirtualChunkContainer] | None:
        """Where the repository declares that its virtual chunks lie; None if its kind declares nothing."""

    @property
    def named(self) -> Sequence[Location]:
        """The objects that the user named by naming the repository, beside what lies below it."""

    @property
    def omissions(self) -> Sequence[Omission]:
        """What was found at the source and is not presented, each with its reason."""

    async def resolve(self, ref: RefSpec) -> str:
        """Return the id of the snapshot that *ref* asks for. Raises RepositoryError."""

    async def refs(self) -> Refs:
        """Return all branches and tags. Raises SourceError where the storage cannot enumerate."""

    def history(self, snapshot_id: str) -> AsyncGenerator[SnapshotInfo]:
        """Yield the snapshot and its ancestors, newest first."""

    def written_at(self, snapshot_id: str) -> int | None:
        """Return when a snapshot was written (nanoseconds), None if its own file alone says so."""

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """Read one snapshot."""

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        """Read one manifest file: the refs of the *wanted* arrays by their ids."""


MAX_PRELOADED: Final = 32
"""Manifest files that are loaded before anybody asks."""
MAX_PRELOADED_REFS: Final = 10_000
"""Chunks, present or not, of which such a file may have the refs: some hundred KB of it."""


class Checkout:
    """One snapshot of a repository, pinned, and the refs of its arrays.

    *compiled* is asked for manifests first, and given those that it did not have, where their ids
    say what they are.
    """

    def __init__(
        self,
        repository: Repository,
        snapshot: Snapshot,
        ref: RefSpec,
        compiled: Compiled | None = None,
    ) -> None:
        self.repository: Final = repository
        self.snapshot: Final = snapshot
        self.ref: Final = ref
        self._compiled = compiled if repository.is_versioned else None
        self._wanted: dict[str, dict[bytes, WantedArray]] = {}
        for node in snapshot.nodes:
            if isinstance(node, Array) and not node.problem:
                for manifest_id, extents in _by_manifest(node).items():
                    wanted = self._wanted.setdefault(manifest_id, {})
                    wanted[node.id] = WantedArray(node.grid, extents)
        self._files: dict[str, Mapping[bytes, Manifest]] = {}
        self._flights: Flights[str, Mapping[bytes, Manifest]] = Flights()
        self._refs: dict[bytes, ArrayRefs] = {}

    def refs(self, array: Array) -> ArrayRefs:
        """Return the chunk refs of *array*, none of its manifests loaded for this call."""
        found = self._refs.get(array.id)
        if found is None:
            load = functools.partial(self._load, array.id)
            found = self._refs[array.id] = ArrayRefs(array, load, self.snapshot.full)
        return found

    async def preload(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Load the manifests of small arrays before anybody asks.

        Opening a dataset reads its coordinates one after another, and would wait for a manifest
        each time. What cannot be loaded is loaded again, or fails, when somebody asks.
        """
        task_status.started()
        sizes = {
            manifest_id: sum(array.grid.size for array in wanted.values())
            for manifest_id, wanted in self._wanted.items()
        }
        arrays = sorted(
            (n for n in self.snapshot.nodes if isinstance(n, Array) and not n.problem),
            key=lambda array: array.grid.size,
        )
        seen: set[str] = set()
        async with trio.open_nursery() as nursery:
            for array in arrays:
                mine = {manifest.id for manifest in array.manifests}
                if sum(sizes[m] for m in mine) > MAX_PRELOADED_REFS:
                    continue
                seen |= mine
                if len(seen) > MAX_PRELOADED:
                    return
                nursery.start_soon(self.refs(array).load, ())

    async def _load(self, array_id: bytes, manifest_id: str) -> Manifest:
        file = self._files.get(manifest_id)
        if file is None:
            file = await self._flights.join(manifest_id, functools.partial(self._read, manifest_id))
        return file[array_id]

    async def _read(self, manifest_id: str) -> Mapping[bytes, Manifest]:
        wanted = self._wanted[manifest_id]
        file = await self._compiled.get(manifest_id, wanted) if self._compiled else None
        is_news = file is None
        if file is None:
            file = await self._ask(manifest_id, wanted)
        self._files[manifest_id] = file
        if self._compiled and is_news:
            replace = functools.partial(self._replace, manifest_id)
            self._compiled.keep(manifest_id, wanted, file, replace)
        return file

    async def _ask(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        try:
            return await self.repository.manifest(manifest_id, wanted)
        except VzfsError:
            raise
        except Exception:
            # What loads before anybody asks would end the mount.
            logger.exception("a manifest was not read: this is a bug in vzfs, please report it")
            raise RepositoryError(
                ErrorKind.BUG,
                f"the manifest {manifest_id} could not be read, for a reason that the log has",
            ) from None

    def _replace(self, manifest_id: str, file: Mapping[bytes, Manifest]) -> None:
        self._files[manifest_id] = file
        for array_id, manifest in file.items():
            if array_id in self._refs:
                self._refs[array_id].replace(manifest_id, manifest)


def _by_manifest(array: Array) -> Mapping[str, Sequence[Extents]]:
    """Group the regions of an array by the manifest that speaks for them."""
    found: dict[str, list[Extents]] = {}
    for manifest in array.manifests:
        found.setdefault(manifest.id, []).append(manifest.extents)
    return found


async def check_out(
    repository: Repository, ref: RefSpec, compiled: Compiled | None = None
) -> Checkout:
    """Resolve *ref* and read its snapshot. Raises RepositoryError if there is no such ref."""
    snapshot = await repository.snapshot(await repository.resolve(ref))
    return Checkout(repository, snapshot, ref, compiled)
