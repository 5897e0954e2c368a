"""The refs of a repository, and choosing among snapshots."""

import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Final

from vzfs.errors import ErrorKind, RepositoryError
from vzfs.model.moment import format_time
from vzfs.model.snapshot import SnapshotInfo

MAX_SUGGESTIONS: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Refs:
    """The names of a repository's snapshots: name -> snapshot id."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


def missing_ref(kind: str, name: str, known: Iterable[str]) -> RepositoryError:
    """Return the error for a *kind* ("branch", "tag") of ref that does not exist."""
    names = sorted(known)
    shown = ", ".join(names[:MAX_SUGGESTIONS]) + (", ..." if len(names) > MAX_SUGGESTIONS else "")
    return RepositoryError(
        ErrorKind.REF_NOT_FOUND,
        f"there is no {kind} {name!r} in the repository",
        advice=f"it has {shown}" if names else _where_to_look(kind),
    )


def _where_to_look(kind: str) -> str:
    command = "log" if kind == "snapshot" else "refs"
    return f"`vzfs {command} SOURCE` lists what it has"


def choose_snapshot(beginning: str, known: Iterable[str]) -> str:
    """Return the one id among *known* that begins so. Raises RepositoryError for none or several."""
    found = sorted(k for k in known if k.startswith(beginning))
    if len(found) == 1:
        return found[0]
    if not found:
        raise missing_ref("snapshot", beginning, ())
    raise RepositoryError(
        ErrorKind.AMBIGUOUS_SNAPSHOT,
        f"{len(found)} snapshots begin with {beginning!r}",
        advice="give more of the id: " + ", ".join(found[:MAX_SUGGESTIONS]),
    )


def normalize_id(text: str, pattern: re.Pattern[str]) -> str:
    """Return a snapshot id, or the beginning of one, in upper case. Raises RepositoryError."""
    wanted = text.strip().upper()
    if not pattern.match(wanted):
        raise RepositoryError(
            ErrorKind.REF_NOT_FOUND,
            f"{text!r} is not a snapshot id",
            advice="an id has up to 20 letters and digits; `vzfs log SOURCE` shows them",
        )
    return wanted


async def latest_by(history: AsyncGenerator[SnapshotInfo], moment: int) -> str:
    """Return the id of the newest snapshot of *history* written by *moment* (nanoseconds).

    Raises RepositoryError if the whole history is younger.
    """
    oldest = None
    async with contextlib.aclosing(history):
        async for info in history:
            if info.written_at <= moment:
                return info.id
            oldest = info.written_at
    first = "" if oldest is None else f"its history begins at {format_time(oldest)}"
    raise RepositoryError(
        ErrorKind.REF_NOT_FOUND,
        f"the branch had no snapshot yet at {format_time(moment)}",
        advice=first,
    )
