"""Which entries have to go: arithmetic on ages and sizes. Pure.

A folder may hold millions of entries, so a pass keeps 16 bytes for each and no names: it measures,
finds the age from which on entries go, and walks the folder again to delete them. An entry used in
between is younger by then, and stays.
"""

import dataclasses
from collections.abc import Iterable
from typing import Final

import numpy as np

from vzfs.model.manifest import Column

TRIGGER_SHARE: Final = 20
"""One part in 20 of the limit: writing this much makes a pass due, and a pass leaves at least this much room.
So the limit holds between passes while one process writes, and is soon restored when several do."""
TARGET_SHARE: Final = 10
"""A pass that deletes leaves one part in 10 of the limit free, so that not every pass has to."""
RECORD_SHARE: Final = 16
"""Version records may take one part in 16 of the limit: each makes many entries usable without a
network."""


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """The files of a kind: *used_at* in nanoseconds since the epoch, *sizes* in bytes, as equal columns.

    *others* are the bytes of unfinished files, which take room and are not to be deleted.
    """

    used_at: Column[np.int64]
    sizes: Column[np.int64]
    others: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return int(self.sizes.sum()) + self.others

    @classmethod
    def joined(cls, surveys: Iterable["Survey"]) -> "Survey":
        """Put *surveys* one behind another."""
        parts = [cls(np.empty(0, np.int64), np.empty(0, np.int64)), *surveys]
        return cls(
            np.concatenate([part.used_at for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            sum(part.others for part in parts),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """What goes: everything used before *before* (nanoseconds), and *at* bytes of what was used just then."""

    before: int
    at: int


def choose(survey: Survey, need: int) -> Cut:
    """Return the cut that frees at least *need* bytes, those used longest ago, or else everything."""
    order = np.argsort(survey.used_at, kind="stable")
    freed = np.cumsum(survey.sizes[order])
    last = int(np.searchsorted(freed, need))
    if last == len(order):
        return Cut(np.iinfo(np.int64).max, 0)
    before = int(survey.used_at[order[last]])
    older = int(survey.sizes[survey.used_at < before].sum())
    return Cut(before, need - older)


def excess(total: int, max_bytes: int) -> int:
    """Return how many of *total* bytes have to go so that a cache of *max_bytes* is in order."""
    if total + max_bytes // TRIGGER_SHARE <= max_bytes:
        return 0
    return total - (max_bytes - max_bytes // TARGET_SHARE)
