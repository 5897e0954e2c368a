"""What a directory shows, and how to wait for it: names, attributes, lines of listings, totals."""

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import numpy as np

from vzfs.errors import ErrorKind, NameProblem, SourceError, VzfsError
from vzfs.model.manifest import Column

MAX_NAME: Final = 255
"""Bytes of a name, as everywhere on Linux. Longer names are in no listing."""
MAX_LOADS: Final = 16
"""Times that something is loaded for one question; it takes two or three."""


class NotLoaded(Exception):
    """What was asked is in a manifest that has to be loaded first, by `load`."""

    def __init__(self, load: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._load = load

    async def load(self) -> None:
        """Load it. Where that fails, whoever asks again is told why."""
        with contextlib.suppress(VzfsError):
            await self._load()


async def settle[**P, R](ask: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what *ask* returns, loading what it needs.

    Raises SourceError (`SOURCE_TIMEOUT`) where that is something else each time.
    """
    for _ in range(MAX_LOADS):
        try:
            return ask(*args, **kwargs)
        except NotLoaded as missing:
            await missing.load()
    raise SourceError(
        ErrorKind.SOURCE_TIMEOUT,
        "the repository changes faster than it can be opened",
        advice="read .vzfs/snapshot/ID, which stays what it is",
    )


class Attrs(NamedTuple):
    """What `stat` shows. *is_certain* is False while the manifest that would know is out of reach.

    An *inode* of 0 is in listings alone: what it takes to know it is found out when the name is
    looked up.
    """

    inode: int
    is_dir: bool
    size: int
    is_certain: bool = True


class Child(NamedTuple):
    """One line of a listing; *position* is where the listing goes on behind it."""

    name: str
    attrs: Attrs
    position: int


class Run(NamedTuple):
    """Lines of a listing of keys: *numbers* are their names, ascending, and *sizes* their bytes.

    *inode* and *position* are those of number 0, and of n by n more.
    """

    numbers: Column[np.int64]
    sizes: Column[np.int64]
    inode: int
    position: int
    is_dir: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """What `df` shows: bytes and files of the hierarchy that are known without asking anybody."""

    size: int
    files: int


def nbytes_of(name: str) -> int:
    """Return how long a name is for the kernel."""
    return len(name.encode("utf-8", "surrogateescape"))


def check_length(name: str) -> None:
    """Raise NameProblem for a name that no directory can have."""
    if nbytes_of(name) > MAX_NAME:
        raise NameProblem(ErrorKind.NAME_TOO_LONG, "the name is too long", where=name[:32])
