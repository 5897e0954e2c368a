"""Lines of directory listings as bytes: those of one directory of keys all at once. Pure.

Names that are numbers are as long as their digits, and ascend with them: so all lines of equal
length follow one another, and are the rows of one table.
"""

import enum
import stat
from typing import Final

import numpy as np
import numpy.typing as npt

from vzfs.filesystem import Run
from vzfs.fuse import protocol
from vzfs.fuse.protocol import Attributes

_DIRENT: Final = [("ino", "=u8"), ("off", "=u8"), ("namelen", "=u4"), ("type", "=u4")]
_ENTRY: Final = [
    ("nodeid", "=u8"),
    ("_", "V32"),
    ("attr_ino", "=u8"),
    ("size", "=u8"),
    ("blocks", "=u8"),
    ("rest", "V64"),
]
MAX_DIGITS: Final = 19
"""Of a coordinate below 2**63."""
MAX_LINE: Final = protocol.ENTRY_SIZE + protocol.DIRENT_SIZE + 24
"""Bytes of a line at most."""
PROBE: Final = 16
"""Listings of chunks with attributes after which one without shows whether they are still wanted."""


class Form(enum.Enum):
    """What a line has: that of READDIR, that of READDIRPLUS, and that without attributes.

    The kernel makes an inode of every line with attributes, which takes it far longer than the line.
    """

    PLAIN = enum.auto()
    PLUS = enum.auto()
    PLUS_NAMES = enum.auto()


def lines(run: Run, form: Form, room: int, of: Attributes, valid: int) -> tuple[bytes, int]:
    """Return as many lines of *run* as there is *room* for, and how many they are.

    *of* is what all have in common, and *valid* the seconds for which it may be kept.
    """
    parts = []
    bounds = run.numbers.searchsorted(np.array([10**d for d in range(1, MAX_DIGITS)]))
    start = total = 0
    for digits, end in enumerate([*bounds.tolist(), len(run.numbers)], start=1):
        if end == start:
            continue
        row = _row(digits, form)
        count = min(end - start, room // row.itemsize)
        table = _table(run, slice(start, start + count), digits, row, of)
        if form is Form.PLUS:
            _give_attributes(table, run, slice(start, start + count), of, valid)
        parts.append(table.tobytes())
        room -= count * row.itemsize
        total += count
        if start + count < end:
            break
        start = end
    return b"".join(parts), total


def _row(digits: int, form: Form) -> np.dtype[np.void]:
    name = [("name", "u1", digits + -digits % 8)]
    return np.dtype([*([] if form is Form.PLAIN else _ENTRY), *_DIRENT, *name])


def _table(
    run: Run, rows: slice, digits: int, row: np.dtype[np.void], of: Attributes
) -> npt.NDArray[np.void]:
    numbers = run.numbers[rows]
    table: npt.NDArray[np.void] = np.zeros(len(numbers), row)
    table["ino"] = numbers + run.inode
    table["off"] = numbers + run.position
    table["namelen"] = digits
    table["type"] = stat.S_IFMT(of.mode) >> 12
    names = table["name"]
    rest = numbers
    for place in range(digits - 1, -1, -1):
        rest, digit = np.divmod(rest, 10)
        names[:, place] = digit + ord("0")
    return table


def _give_attributes(
    table: npt.NDArray[np.void], run: Run, rows: slice, of: Attributes, valid: int
) -> None:
    common = np.frombuffer(protocol.entry_reply(0, 0, of, valid), np.dtype(_ENTRY))
    for name, _ in _ENTRY:
        table[name] = common[name]
    sizes = run.sizes[rows]
    table["nodeid"] = table["attr_ino"] = table["ino"]
    table["size"] = sizes
    table["blocks"] = (sizes + 511) // 512


class Habit:
    """Whether who lists chunks looks each of them up then, as `ls -l` and `du` do, or not, as `find` does.

    The kernel asks for attributes at the beginning of every listing, whoever lists, and makes an inode
    of each line that has them: 1 KB, and several times what the line takes. A line without is a
    request more for whoever looks it up. What the last ones did, the next one is taken to do.
    """

    def __init__(self) -> None:
        self._left = 0
        self._named = 0
        self._looked_up = 0

    @property
    def looks_up(self) -> bool:
        """Whether a listing that begins now is to have attributes."""
        return self._left_behind_next > 0

    @property
    def _left_behind_next(self) -> int:
        is_found = self._left == 0 and 2 * self._looked_up > self._named > 0
        return max((PROBE if is_found else self._left) - 1, 0)

    def begins(self) -> None:
        """Hear that a listing has begun, as `looks_up` said that it would."""
        self._left = self._left_behind_next
        self._named = self._looked_up = 0

    def gave_names(self, count: int) -> None:
        """Hear how many names were given without attributes."""
        self._named += count

    def looked_up(self) -> None:
        """Hear that a name was looked up."""
        self._looked_up += 1
