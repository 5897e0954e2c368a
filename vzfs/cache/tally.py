"""What the mounts of a repository did with the cache, added up over all of them, for people.

Each mount adds its counts to a small file of its repository's now and then. Two that do so at the
same moment may lose what one of them adds, and a file that is damaged begins anew: nothing but a
figure in `vzfs cache status` depends on it.
"""

import dataclasses
import json
from typing import Final

from vzfs.cache.entry import FORMAT_VERSION, digest, encoded
from vzfs.cache.folder import CacheFolder
from vzfs.cache.sweep import places, stored
from vzfs.errors import FormatError

TALLIES: Final = f"v{FORMAT_VERSION}/tallies"
"""The subfolder of these files."""
_MAX_SIZE: Final = 64 * 2**10
"""Bytes of a file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """What mounts of *owner* did *since* then, in seconds since the epoch."""

    owner: str
    since: int
    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Add up with what others did."""
        return Tally(
            self.owner,
            min(self.since, other.since),
            self.hits + other.hits,
            self.misses + other.misses,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
        )


def tally_name(owner: str) -> str:
    """Return the path in a cache folder of the tally of *owner*."""
    name = digest(b"owner", encoded(owner)).hex()
    return f"{TALLIES}/{name[:2]}/{name[2:]}"


def add(folder: CacheFolder, tally: Tally) -> None:
    """Add *tally* to what is in the folder. Raises OSError."""
    name = tally_name(tally.owner)
    before = _read(folder, name)
    if before is not None and before.owner == tally.owner:
        tally = tally.plus(before)
    folder.write(name, json.dumps(dataclasses.asdict(tally)).encode())


def remove_tally(folder: CacheFolder, owner: str) -> None:
    """Begin to count *owner* anew. Raises OSError."""
    folder.remove(tally_name(owner))


def tallies(folder: CacheFolder) -> dict[str, Tally]:
    """Return all tallies of the folder, by owner. Raises OSError."""
    found = {}
    for place in places(folder, TALLIES):
        for name, _ in stored(folder, place):
            tally = _read(folder, name)
            if tally is not None:
                found[tally.owner] = tally
    return found


def decode_tally(data: bytes) -> Tally | None:
    """Return the tally that *data* are, if they are one."""
    try:
        fields = json.loads(data)
        owner = fields.pop("owner")
        counts = {name: count for name, count in fields.items() if type(count) is int}
        tally = Tally(owner, **counts)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    numbers = dataclasses.astuple(tally)[1:]
    is_sound = isinstance(owner, str) and all(0 <= number < 2**63 for number in numbers)
    return tally if is_sound else None


def _read(folder: CacheFolder, name: str) -> Tally | None:
    try:
        opened = folder.open(name, _MAX_SIZE)
    except FormatError:
        return None
    return None if opened is None else decode_tally(opened.first)
