"""Inode numbers are arithmetic: each node owns a window, and a number is computed, not allocated.

A node's window holds, in this order: its directory, its documents, its directories of chunk keys
(by depth, then in C order) and its chunks (in C order). Number to entry is one `bisect` and some
`divmod`; nothing is stored for a name that was looked at, `forget` does nothing and nothing locks.
Windows are the same whatever words a node is shown in, so that nothing has to be put into words to
be numbered. Each hierarchy has its own epoch of numbers; the first begins at 1, so that its root is
FUSE's root.

An array whose window would be larger than `MAX_WINDOW`, or would not fit into the epoch, has its
keys numbered when they are first looked at, in a table of bounded size from which what was not used
longest leaves; its number is then stale, and the name is looked up again.
"""

import bisect
import functools
import itertools
import math
from collections import OrderedDict
from typing import Final

from vzfs.errors import ErrorKind, NameProblem
from vzfs.model.snapshot import Array
from vzfs.tree.tree import Chunk, Document, Entry, KeyDir, NodeDir, Tree

MAX_DOCUMENTS: Final = 8
"""Documents for which a window has room; no view of a node has more than four."""
MAX_WINDOW: Final = 2**46
"""Numbers that one array may own: seventy thousand billion chunks."""
EPOCH_BITS: Final = 48
EPOCHS: Final = 2 ** (63 - EPOCH_BITS)
"""Hierarchies that have numbers at the same time."""
MAX_TABLE: Final = 1_000_000
"""Entries of oversized arrays remembered at a time: about 200 MB."""
MAX_DECODED: Final = 1024
"""Numbers of which the entry is remembered."""
_TABLE: Final = 2**47
"""Where the numbers of oversized arrays begin in an epoch."""


def first_of(epoch: int) -> int:
    """Return the number of the root directory in *epoch*."""
    return (epoch << EPOCH_BITS) + 1


def epoch_of(number: int) -> int:
    """Return the epoch that a number belongs to."""
    return number >> EPOCH_BITS


class Inodes:
    """The numbers of one tree in its *epoch*."""

    def __init__(self, tree: Tree, epoch: int = 0) -> None:
        self._tree = tree
        self._base = base = first_of(epoch)
        self._starts: list[int] = []
        self._levels: list[list[int] | None] = []
        position = 0
        for number in range(len(tree.nodes)):
            self._starts.append(position)
            levels: list[int] | None = self._measure(number)
            position += 1 + MAX_DOCUMENTS
            if levels and (levels[-1] > MAX_WINDOW or position + levels[-1] > _TABLE):
                levels = None
            self._levels.append(levels)
            position += levels[-1] if levels else 0
        self._end = position
        self._table: OrderedDict[int, Entry] = OrderedDict()
        self._numbers: dict[Entry, int] = {}
        self._counter = itertools.count(base + _TABLE)
        # Names are looked up in the same few directories.
        self._decoded = functools.lru_cache(MAX_DECODED)(self._decode)

    def number(self, entry: Entry) -> int:
        """Return the inode number of *entry*."""
        start = self._base + self._starts[entry.node]
        match entry:
            case NodeDir():
                return start
            case Document(_, ordinal):
                return start + 1 + ordinal
            case KeyDir(node, coords) | Chunk(node, coords):
                levels = self._levels[node]
                if levels is None:
                    return self._intern(entry)
                grid = self._tree.array(node).grid
                level = len(coords) if isinstance(entry, KeyDir) else len(levels) - 2
                position = 0
                for c, n in zip(coords, grid.shape, strict=False):
                    position = position * n + c
                return start + 1 + MAX_DOCUMENTS + levels[level] + position

    def first_below(self, node: int, prefix: tuple[int, ...]) -> int | None:
        """Return the number of the child with coordinate 0 in a directory of keys; the others' follow it.

        None where numbers are not arithmetic.
        """
        levels = self._levels[node]
        if levels is None:
            return None
        is_leaf = len(prefix) + 1 == len(self._tree.array(node).grid.shape)
        return self.number((Chunk if is_leaf else KeyDir)(node, (*prefix, 0)))

    def entry(self, number: int) -> Entry:
        """Return the entry with that inode number. Raises NameProblem if it names none (any more)."""
        is_interned = number >= self._base + _TABLE
        return self._interned(number) if is_interned else self._decoded(number)

    def _decode(self, number: int) -> Entry:
        local = number - self._base
        if not 0 <= local < self._end:
            raise _stale(number)
        node = bisect.bisect_right(self._starts, local) - 1
        local -= self._starts[node]
        if local == 0:
            return NodeDir(node)
        if local <= MAX_DOCUMENTS:
            if local > len(self._tree.node(node).documents):
                raise _stale(number)
            return Document(node, local - 1)
        levels = self._levels[node]
        if not levels:
            raise _stale(number)
        local -= 1 + MAX_DOCUMENTS
        level = bisect.bisect_right(levels, local) - 1
        shape = self._tree.array(node).grid.shape
        is_chunk = level == len(levels) - 2
        coords = _unravel(local - levels[level], shape if is_chunk else shape[:level])
        return Chunk(node, coords) if is_chunk else KeyDir(node, coords)

    def _measure(self, number: int) -> list[int]:
        """Return where each depth of key directories, then the chunks, begin and end in a window.

        Level k < n holds the directories whose prefix has k coordinates, the last level the chunks.
        """
        node = self._tree.nodes.stored(number)
        if not isinstance(node, Array) or node.problem:
            return []
        shape = node.grid.shape
        counts = [math.prod(shape[:k]) for k in range(len(shape))]
        return list(itertools.accumulate([*counts, node.grid.size], initial=0))

    # -- oversized arrays ----------------------------------------------------------------------

    def _intern(self, entry: Entry) -> int:
        number = self._numbers.get(entry)
        if number is not None:
            self._table.move_to_end(number)
            return number
        if len(self._table) >= MAX_TABLE:
            _, oldest = self._table.popitem(last=False)
            del self._numbers[oldest]
        number = next(self._counter)
        self._table[number] = entry
        self._numbers[entry] = number
        return number

    def _interned(self, number: int) -> Entry:
        entry = self._table.get(number)
        if entry is None:
            raise _stale(number)
        self._table.move_to_end(number)
        return entry


def _unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    coords = []
    for n in reversed(shape):
        position, c = divmod(position, n)
        coords.append(c)
    return tuple(reversed(coords))


def _stale(number: int) -> NameProblem:
    return NameProblem(
        ErrorKind.STALE_INODE,
        "this inode is not (or no longer) in the mount",
        where=f"inode {number}",
        advice="look the name up again",
    )
