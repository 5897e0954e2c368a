"""A repository over time: it is asked again for what may have changed, and not more often than that.

Of one snapshot there is one `Checkout`, however many hierarchies show it, as long as any does.
"""

import contextlib
import functools
import weakref
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from vzfs.flights import Flights
from vzfs.model.snapshot import RefSpec, SnapshotInfo
from vzfs.repository.compiled import Compiled
from vzfs.repository.refs import Refs
from vzfs.repository.repository import Checkout, Repository

FRESH: Final = 5.0
"""Seconds for which what was read of a repository's refs counts as what they are."""
MAX_HISTORY: Final = 10_000
"""Snapshots of a history that are enumerated."""


class Opens(Protocol):
    """What opens a repository anew."""

    async def open(self) -> Repository:
        """Return the repository as it is now. Raises VzfsError."""


class Timeline:
    """The refs, histories and snapshots of the repository that *opening* opens, opened first as that of *checkout*."""

    def __init__(
        self, opening: Opens, checkout: Checkout, compiled: Compiled | None = None
    ) -> None:
        self._opening = opening
        self._compiled = compiled
        self._repository = checkout.repository
        self._asked_at = trio.current_time()
        self._flights: Flights[str, Repository] = Flights()
        self._openings: Flights[str, Checkout] = Flights()
        self._checkouts: weakref.WeakValueDictionary[str, Checkout] = weakref.WeakValueDictionary()
        self._checkouts[checkout.snapshot.id] = checkout
        self._written: dict[str, int] = {}

    async def current(self, fresh: float = FRESH) -> Repository:
        """Return the repository as it was at most *fresh* seconds ago, or first, if it has no history. Raises VzfsError."""
        if not self._repository.is_versioned or trio.current_time() < self._asked_at + fresh:
            return self._repository
        return await self._flights.join("repository", self._ask)

    async def _ask(self) -> Repository:
        asked_at = trio.current_time()
        self._repository = await self._opening.open()
        self._asked_at = asked_at
        return self._repository

    async def resolve(self, ref: RefSpec, fresh: float = FRESH) -> str:
        """Return the id of the snapshot that *ref* asks for. Raises VzfsError."""
        if ref.snapshot is not None and ref.snapshot in self._written:
            return ref.snapshot  # it was listed, and never changes
        return await (await self.current(fresh)).resolve(ref)

    async def refs(self) -> Refs:
        """Return all branches and tags. Raises SourceError where the storage cannot enumerate."""
        return await (await self.current()).refs()

    async def history(self, ref: RefSpec) -> Sequence[SnapshotInfo]:
        """Return the snapshot that *ref* asks for and its ancestors, newest first. Raises VzfsError."""
        repository = await self.current()
        found: list[SnapshotInfo] = []
        history = repository.history(await repository.resolve(ref))
        async with contextlib.aclosing(history):
            async for info in history:
                found.append(info)
                if len(found) == MAX_HISTORY:
                    break
        self._written = {info.id: info.written_at for info in found}
        return found

    def written_at(self, snapshot_id: str) -> int | None:
        """Return when a snapshot was written (nanoseconds), None if nothing that was read says so."""
        found = self._written.get(snapshot_id)
        return self._repository.written_at(snapshot_id) if found is None else found

    async def check_out(self, snapshot_id: str, ref: RefSpec) -> Checkout:
        """Return the checkout of a snapshot, which is read if nobody shows it. Raises VzfsError."""
        found = self._checkouts.get(snapshot_id)
        if found is not None:
            return found

        async def read() -> Checkout:
            repository = self._repository
            snapshot = await repository.snapshot(snapshot_id)
            # Of thousands of arrays it takes a while.
            make = functools.partial(Checkout, repository, snapshot, ref, self._compiled)
            return await trio.to_thread.run_sync(make, abandon_on_cancel=True)

        found = await self._openings.join(snapshot_id, read)
        return self._checkouts.setdefault(snapshot_id, found)
