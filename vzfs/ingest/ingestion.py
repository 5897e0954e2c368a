"""From parts to a commit: join, give versions, inline, check, write. Nothing is written before the last step.

What comes of it is a `Report`, which says everything that a user has to know, whether or not it was
written.
"""

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import trio

from vzfs.access import Access, StoreOptions
from vzfs.errors import AccessDenied, ErrorKind, RepositoryError
from vzfs.ingest.changes import Changes, changes_for, collisions
from vzfs.ingest.checking import Checked
from vzfs.ingest.parsing import Failure, Heard
from vzfs.ingest.pinning import pinned
from vzfs.ingest.writing import Credentials, Target, Writer
from vzfs.joining import Joined, group_per_file, inline_coordinates, join
from vzfs.joining.inlining import DEFAULT_LIMIT
from vzfs.joining.values import Read
from vzfs.model.location import Prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import Omission, References
from vzfs.source import Fetcher

JOINING: Final = "joining"
WRITING: Final = "writing"

type Check = Callable[[Joined, Sequence[tuple[str, References]]], Awaitable[Checked]]
"""Compares chunks of what was joined with what the libraries of the files' formats read. Raises VzfsError."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the user wants: files end to end along *concat*, appended along *append*, or a group for each.

    *inline* is how many bytes of a coordinate are written into the repository itself.
    """

    concat: str | None = None
    append: str | None = None
    is_grouped: bool = False
    message: str = ""
    is_dry_run: bool = False
    inline: int = DEFAULT_LIMIT


class Existing(NamedTuple):
    """What a branch has: its snapshot's id, all it holds, and the containers of its repository."""

    snapshot: str
    references: References
    declared: Sequence[str]


class Sources(NamedTuple):
    """What reads the objects of parts, as *access* allows, and *read*s chunks of these and of the branch."""

    fetcher: Fetcher
    access: Access
    read: Read


@dataclasses.dataclass(slots=True, kw_only=True)
class Report:
    """What was done, or with a dry run would be. *snapshot* is None if nothing was committed."""

    parts: Sequence[str]
    failures: Sequence[Failure]
    basis: str
    changes: Changes
    omissions: Sequence[Omission]
    rewritten: Sequence[str]
    inlined: Sequence[str]
    unversioned: int
    checked: Checked | None = None
    snapshot: str | None = None
    is_new_repository: bool = False


async def prepare(
    plan: Plan,
    parts: Sequence[tuple[str, References]],
    failures: Sequence[Failure],
    existing: Existing | None,
    sources: Sources,
    heard: Heard,
    check: Check | None = None,
) -> Report:
    """Return what is to be written of *parts*. Raises VzfsError if that cannot be."""
    made, unversioned = await pinned(
        [part for _, part in parts], sources.access, sources.fetcher, heard
    )
    parts = [(name, part) for (name, _), part in zip(parts, made, strict=True)]
    joined = await _joined(plan, parts, existing, sources.read, heard)
    checked = await check(joined, parts) if check is not None else None
    references = joined.references
    inlined: Sequence[str] = ()
    if plan.inline:
        references, inlined = await inline_coordinates(references, sources.read, plan.inline)
    if existing is not None and plan.append is None:
        alike = collisions(references, existing.references)
        if alike:
            raise RepositoryError(
                ErrorKind.NOT_WRITTEN,
                f"the branch has {alike[0]} already",
                advice="append to it with --append DIM, or write to another --branch",
            )
    changes = await trio.to_thread.run_sync(
        changes_for,
        references,
        existing and existing.references,
        existing.declared if existing else (),
        abandon_on_cancel=True,
    )
    return Report(
        parts=[parts[i][0] for i in joined.order],
        failures=failures,
        basis=joined.basis,
        changes=changes,
        omissions=joined.references.omissions,
        rewritten=joined.rewritten,
        inlined=inlined,
        unversioned=unversioned,
        checked=checked,
    )


async def _joined(
    plan: Plan,
    parts: Sequence[tuple[str, References]],
    existing: Existing | None,
    read: Read,
    heard: Heard,
) -> Joined:
    """Return what *parts* are together; when appended, also with what is there, whose number is not among those of its order."""
    heard(JOINING, 0, 1)
    if plan.append is not None:
        if existing is None:
            raise RepositoryError(
                ErrorKind.NOT_WRITTEN,
                "there is nothing to append to",
                advice="write the first files with --concat in the place of --append",
            )
        whole = [("the repository", existing.references), *parts]
        joined = await join(whole, plan.append, read, is_append=True, heard=heard)
        starts = {path: found[1:] for path, found in joined.starts.items()}
        times = {path: (unit, found[1:]) for path, (unit, found) in joined.times.items()}
        order = [i - 1 for i in joined.order[1:]]
        return joined._replace(order=order, starts=starts, times=times)
    if plan.concat is not None:
        return await join(parts, plan.concat, read, heard=heard)
    if plan.is_grouped:
        grouped = await trio.to_thread.run_sync(group_per_file, parts, abandon_on_cancel=True)
        return Joined(grouped, range(len(parts)), "", {}, ())
    [(_, sole)] = parts
    return Joined(sole, range(1), "", {}, ())


async def write(
    plan: Plan,
    report: Report,
    place: Prefix,
    store: StoreOptions,
    credentials: Credentials,
    branch: str,
    existing: Existing | None,
    sources: Sources,
    heard: Heard,
) -> None:
    """Commit what *report* says, which then has the snapshot. Raises VzfsError.

    Whoever cancels before the commit itself has changed nothing on the branch.
    """
    stores = [
        store_for(sources.access, prefix, report.changes) for prefix in report.changes.containers
    ]
    writer = Writer(
        Target(place, store, credentials, branch),
        report.changes,
        stores,
        existing.snapshot if existing is not None else None,
    )
    heard(WRITING, 0, 1)
    await trio.to_thread.run_sync(writer.prepare)
    await trio.lowlevel.checkpoint()
    committed = await trio.to_thread.run_sync(writer.commit, plan.message)
    report.snapshot, report.is_new_repository = committed
    heard(WRITING, 1, 1)


def store_for(access: Access, prefix: Prefix, changes: Changes) -> StoreOptions:
    """Return how the user reaches what lies below *prefix*, as the container there is to say."""
    for change in changes.arrays:
        for text in change.manifest.locations:
            with contextlib.suppress(AccessDenied):
                if prefix.covers(access.resolve(text)):
                    return access.authorize(ChunkRef(ChunkKind.VIRTUAL, 0, text)).store
    return StoreOptions()
