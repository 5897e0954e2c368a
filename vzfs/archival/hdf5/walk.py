"""The objects of an HDF5 file by their paths, found by going from link to link.

A hard link leads to an object; one that leads back to a group above it is left out. A soft link is
followed within the file, by hand, so that none leads into another file on its way. Whatever cannot be
opened is left out by name.
"""

import posixpath
from collections.abc import Iterator
from typing import Final, NamedTuple

import h5py  # type: ignore[import-untyped]
from h5py import h5d, h5g, h5l, h5o

from vzfs.archival.building import HierarchyBuilder, Unpresentable, name_problem

MAX_OBJECTS: Final = 100_000
"""Groups and datasets by their paths. An object may have several, and a small file very many."""
MAX_DEPTH: Final = 64
MAX_STEPS: Final = 64
"""Soft links that are followed on the way to one object."""

type Address = tuple[int, int]


class Found(NamedTuple):
    """An object: its *path* and *address*, and the group or dataset itself."""

    path: str
    address: Address
    id: h5g.GroupID | h5d.DatasetID


def text_of(name: bytes) -> str:
    """Return a name in a file as text: bytes that are no UTF-8 stay what they are."""
    return name.decode("utf-8", "surrogateescape")


def address_of(object_id: h5g.GroupID | h5d.DatasetID) -> Address:
    """Return what is the same for an object however it was reached."""
    info = h5o.get_info(object_id)
    return info.fileno, info.addr


def walk(file: h5py.File, to: HierarchyBuilder) -> Iterator[Found]:
    """Yield groups, above what is in them, and datasets, in the order of their names; omit the rest.

    Raises Unpresentable if not even the root can be opened.
    """
    try:
        root = h5g.open(file.id, b"/")
        start = address_of(root)
    except (RuntimeError, KeyError, ValueError, OSError) as problem:
        raise Unpresentable(f"its root cannot be opened: {problem}") from None
    count = 0
    pending: list[tuple[Found, tuple[Address, ...]]] = [(Found("/", start, root), (start,))]
    while pending:
        found, above = pending.pop()
        yield found
        if not isinstance(found.id, h5g.GroupID):
            continue
        inside: list[tuple[Found, tuple[Address, ...]]] = []
        try:
            names = sorted(found.id)
        except (RuntimeError, KeyError, ValueError, OSError) as problem:
            to.omit(found.path, f"what is in this group cannot be listed: {problem}")
            continue
        for name in names:
            path = posixpath.join(found.path, text_of(name))
            count += 1
            if count > MAX_OBJECTS:
                to.omit(
                    found.path, f"the file has more than {MAX_OBJECTS} objects: these are left out"
                )
                break
            try:
                child = _open(root, found.id, name)
            except Unpresentable as problem:
                to.omit(path, str(problem))
                continue
            if child is None:
                continue
            address, object_id = child
            if address in above:
                to.omit(path, "it is a link to a group that it is in")
            elif len(above) >= MAX_DEPTH:
                to.omit(path, f"it is more than {MAX_DEPTH} groups deep")
            else:
                inside.append((Found(path, address, object_id), (*above, address)))
        pending += reversed(inside)


def _open(
    root: h5g.GroupID, group: h5g.GroupID, name: bytes
) -> tuple[Address, h5g.GroupID | h5d.DatasetID] | None:
    """Return address and group or dataset called *name*, None for a data type. Raises Unpresentable."""
    problem = name_problem(text_of(name))
    if problem:
        raise Unpresentable(problem)
    try:
        found = _Follower(root).step(group, name)
        if not isinstance(found, h5g.GroupID | h5d.DatasetID):
            return None
        return address_of(found), found
    except (RuntimeError, KeyError, ValueError, OSError, TypeError, NotImplementedError) as error:
        raise Unpresentable(f"it cannot be opened: {error}") from None


class _Follower:
    """Follows links from *root*, a bounded number of soft ones in all."""

    def __init__(self, root: h5g.GroupID) -> None:
        self._root = root
        self._left = MAX_STEPS

    def step(self, group: h5g.GroupID, name: bytes) -> object:
        """Return the object that the link *name* of *group* leads to. Raises Unpresentable."""
        kind = group.links.get_info(name).type
        if kind == h5l.TYPE_HARD:
            return h5o.open(group, name)
        if kind == h5l.TYPE_SOFT:
            return self._follow(group, group.links.get_val(name))
        if kind == h5l.TYPE_EXTERNAL:
            file, _ = group.links.get_val(name)
            raise Unpresentable(f"it is a link into another file, {text_of(file)}")
        raise Unpresentable("it is a link of a kind that its writer has defined")

    def _follow(self, group: h5g.GroupID, target: bytes) -> object:
        self._left -= 1
        if self._left < 0:
            raise Unpresentable("it is a link that leads round in a circle, or through too many")
        here: object = self._root if target.startswith(b"/") else group
        for name in target.split(b"/"):
            if name in {b"", b"."}:
                continue
            if not isinstance(here, h5g.GroupID) or not here.links.exists(name):
                raise Unpresentable(f"it is a link to {text_of(target)}, which is not there")
            here = self.step(here, name)
        return here
