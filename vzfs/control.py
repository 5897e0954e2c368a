"""The control directory: what its names mean, and the inode numbers of its own directories. Pure.

    .vzfs/view/NAME-vN/     the same snapshot in another view
    .vzfs/branch/NAME/      what a branch is now
    .vzfs/tag/NAME/         a tag
    .vzfs/snapshot/ID/      a snapshot by its id
    .vzfs/at/TIME/          the branch of the mount as it was at a time

The last component of each is the root of a whole hierarchy, which has a `.vzfs/view/` of its own. A
ref's name is one component: `/` is written %2F, and `%` %25.
"""

import enum
from typing import Final, NamedTuple

from vzfs.config import parse_time
from vzfs.errors import VzfsError
from vzfs.model.snapshot import RefSpec
from vzfs.tree.inodes import EPOCHS, first_of
from vzfs.views.view import View

NAME: Final = ".vzfs"
OTHER_NAME: Final = ".vzfs-control"
"""Its name in a hierarchy that has a node of its own called `NAME` at its root."""
EPOCH: Final = EPOCHS - 1
"""Which has the numbers of control directories, and of no hierarchy."""
FIRST: Final = first_of(EPOCH)
"""The first of those numbers, which no other inode reaches."""
_KINDS: Final = 8
"""Numbers for each hierarchy's control directories."""


class Kind(enum.IntEnum):
    """What a control directory holds."""

    CONTROL = 0
    VIEW = 1
    BRANCH = 2
    TAG = 3
    SNAPSHOT = 4
    AT = 5


FOLDERS: Final[dict[str, Kind]] = {
    kind.name.lower(): kind for kind in Kind if kind is not Kind.CONTROL
}
"""The directories in the control directory of a mount; others have that of views alone."""


class Place(NamedTuple):
    """A control directory: of which hierarchy's epoch, and what it holds."""

    owner: int
    kind: Kind


def number_of(place: Place) -> int:
    """Return the inode number of a control directory."""
    return FIRST + place.owner * _KINDS + place.kind


def place_of(number: int) -> Place | None:
    """Return which control directory has a number, if one has."""
    if number < FIRST:
        return None
    owner, kind = divmod(number - FIRST, _KINDS)
    return Place(owner, Kind(kind)) if kind < len(Kind) and owner < EPOCH else None


def folders_of(owner: int) -> dict[str, Kind]:
    """Return the directories in the control directory of the hierarchy of an epoch; 0 is the mount's own."""
    return FOLDERS if owner == 0 else {"view": Kind.VIEW}


def encode_ref(name: str) -> str:
    """Write the name of a ref as a file name."""
    return name.replace("%", "%25").replace("/", "%2F")


def decode_ref(name: str) -> str | None:
    """Read a file name as the name of a ref; exactly the inverse of `encode_ref`, else None."""
    found = name.replace("%2F", "/").replace("%25", "%")
    return found if encode_ref(found) == name else None


def is_name(name: str) -> bool:
    """Whether the name of a ref, as it is written for one, can be that of a file: a repository may use any."""
    return name not in {"", ".", ".."} and "\0" not in name


def ref_of(kind: Kind, name: str, branch: str | None) -> RefSpec | None:
    """Return what a name in a control directory asks for, None if it can be nothing.

    *branch* is that of the mount, which times are of.
    """
    match kind:
        case Kind.BRANCH | Kind.TAG:
            ref = decode_ref(name)
            if not ref:
                return None
            return RefSpec(branch=ref) if kind is Kind.BRANCH else RefSpec(tag=ref)
        case Kind.SNAPSHOT:
            return RefSpec(snapshot=name)
        case Kind.AT:
            try:
                return RefSpec(branch=branch, as_of=parse_time(name))
            except VzfsError:
                return None
    return None


def view_of(name: str) -> View | None:
    """Return the view of that name, None if there is none."""
    try:
        return View.parse(name)
    except ValueError:
        return None
