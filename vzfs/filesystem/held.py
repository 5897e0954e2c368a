"""A hierarchy below the control directory: from the moment its name was looked up until nobody has it.

Looking its name up takes what is said of its directory, and no more. It is opened when something in
it is asked for.
"""

from typing import Final, NamedTuple

import trio

from vzfs.filesystem.known import Known
from vzfs.hierarchy import Hierarchy
from vzfs.model.snapshot import RefSpec
from vzfs.tree.inodes import first_of
from vzfs.views.view import View

type Key = tuple[int, str]
"""A control directory's number, and a name in it."""


class Wanted(NamedTuple):
    """What a name asks for: a snapshot, as *ref* and in a *view*. *written_at* is when, in nanoseconds."""

    snapshot_id: str
    ref: RefSpec
    view: View
    written_at: int


class Held:
    """A hierarchy that is *wanted*, how often the kernel has its inodes, and where it lies.

    *hierarchy* is None until it is opened, and *failed* says why it could not be. *uses* counts
    requests, so that it is seen whether there were any since it was looked for some.
    """

    __slots__ = (
        "epoch",
        "failed",
        "first",
        "hierarchy",
        "idle_since",
        "key",
        "lookups",
        "seen",
        "uses",
        "wanted",
    )

    def __init__(self, wanted: Wanted, epoch: int, key: Key | None) -> None:
        self.wanted: Final = wanted
        self.epoch: Final = epoch
        self.key: Final = key
        self.first: Final = first_of(epoch)
        self.hierarchy: Hierarchy | None = None
        self.failed: Known[None] | None = None
        self.lookups = 0
        self.uses = 0
        self.seen = 0
        self.idle_since: float | None = None

    @property
    def opened(self) -> Hierarchy:
        """The hierarchy, which has been opened."""
        if self.hierarchy is None:
            raise RuntimeError("a hierarchy is used that was not opened")
        return self.hierarchy

    def is_idle(self, patience: float) -> bool:
        """Whether nobody has used it for *patience* seconds."""
        if self.uses != self.seen or self.idle_since is None:
            return False
        return trio.current_time() >= self.idle_since + patience
