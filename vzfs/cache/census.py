"""What a cache folder holds, file by file, for the commands that show and clear it.

Unlike the cache itself these read the whole folder, and whose each file is from its head. They may
run beside any number of mounts: a file that was used in the meantime is left alone.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Final

from vzfs.cache.folder import CacheFolder
from vzfs.cache.segment import OLDER, RECORDS, decode_owner
from vzfs.cache.sweep import ABANDONED_AFTER, EVICTED, places, size_of, stored
from vzfs.errors import FormatError

OLD_AFTER: Final = 7 * 86400
"""Seconds after which a file of an earlier format that nobody used has no user any more."""

_HEAD: Final = 4096
"""Bytes of a file that say whose it is, but for very long names."""
_UNFINISHED: Final = re.compile(r"tmp-[^/]*\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of the cache: its path *name*, what it takes, when it was used last (ns), and whose it is.

    *owner* is "" where it does not say, *entries* is how many it holds.
    """

    name: str
    size: int
    used_at: int
    owner: str = ""
    entries: int = 0

    @property
    def is_unfinished(self) -> bool:
        """Whether it is being written, or was."""
        return _UNFINISHED.search(self.name) is not None

    @property
    def is_older(self) -> bool:
        """Whether it is of an earlier format."""
        return self.name.startswith(tuple(f"{subfolder}/" for subfolder in OLDER))

    @property
    def is_record(self) -> bool:
        """Whether it holds versions, and no chunks."""
        return self.name.startswith(f"{RECORDS}/")


def take_census(folder: CacheFolder, *, with_owners: bool) -> list[CachedFile]:
    """Return the files of the cache in *folder*, with their owners if asked for. Raises OSError."""
    found = []
    for subfolder in (RECORDS, *EVICTED):
        for place in places(folder, subfolder):
            for name, status in stored(folder, place, unfinished=True):
                file = CachedFile(name, size_of(status), status.st_mtime_ns)
                found.append(_with_owner(folder, file) if with_owners else file)
    return found


def to_collect(files: Iterable[CachedFile], max_bytes: int, moment: int) -> list[CachedFile]:
    """Return which *files* should go at *moment* (ns), so that *max_bytes* are left.

    First what nobody needs: abandoned temporary files, earlier formats out of use. Then what was used
    longest ago.
    """
    kept: list[CachedFile] = []
    going: list[CachedFile] = []
    for file in files:
        age = (moment - file.used_at) / 10**9
        is_abandoned = file.is_unfinished and age > ABANDONED_AFTER
        is_out_of_use = file.is_older and age > OLD_AFTER
        (going if is_abandoned or is_out_of_use else kept).append(file)
    surplus = sum(file.size for file in kept) - max_bytes
    for file in sorted(kept, key=lambda file: file.used_at):
        if surplus <= 0:
            break
        if not file.is_unfinished:
            going.append(file)
            surplus -= file.size
    return going


def delete(folder: CacheFolder, files: Sequence[CachedFile]) -> list[CachedFile]:
    """Delete *files* but for those used since they were seen; return which are gone. Raises OSError."""
    return [file for file in files if folder.remove_unused(file.name, file.used_at)]


def _with_owner(folder: CacheFolder, file: CachedFile) -> CachedFile:
    if file.is_unfinished or file.is_older:
        return file
    try:
        opened = folder.open(file.name, _HEAD)
        if opened is None:
            return file
        owner, entries = decode_owner(opened.first)
    except FormatError:
        return file
    return dataclasses.replace(file, owner=owner, entries=entries)
