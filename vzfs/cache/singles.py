"""Entries with a file each: those that are large, and those that belong to nothing else.

The file is named by the entry's digest, so it is found without a table; reading it is one call in a
thread, since a large one takes longer to read than a thread takes to be asked.
"""

import contextlib
import functools
from collections.abc import Callable

from vzfs.cache.buffers import Buffers
from vzfs.cache.entry import EntryKey, check_entry, encode_entry, entry_digest
from vzfs.cache.folder import CacheFolder
from vzfs.cache.guard import Guard
from vzfs.cache.segment import MAX_HEAD, encode_segment, entry_name, only_entry
from vzfs.cache.unwritten import Data
from vzfs.errors import FormatError


class Singles:
    """Files of one entry in *folder*; what is added is of *owner*, and has at most *max_bytes*.

    *buffers* are what they are read into.
    """

    def __init__(
        self, folder: CacheFolder, guard: Guard, owner: str, max_bytes: int, buffers: Buffers
    ) -> None:
        self._folder = folder
        self._buffers = buffers
        self._guard = guard
        self._owner = owner
        self._max_bytes = max_bytes

    async def read(self, key: EntryKey) -> Data | None:
        """Return the bytes of *key*, None if there are none.

        Raises OSError, and FormatError if they were damaged: then their file is deleted.
        """
        return await self._guard.call(self._load, key, size=key.length)

    async def map(self, key: EntryKey) -> Data | None:
        """Do as `read` does, with bytes that are shared with all who map them."""
        return await self._guard.call(self._map, key, size=key.length)

    async def has(self, key: EntryKey) -> bool:
        """Whether there is a file for *key*, unread. Raises OSError."""
        return await self._guard.call(self._folder.has, entry_name(key), key.length, MAX_HEAD)

    async def write(self, key: EntryKey, data: Data) -> int:
        """Write the file of *key*; return its size, 0 for every trouble."""
        return await self._guard.writing(key.length, self._save, key, data) or 0

    # -- in the threads ------------------------------------------------------------------------

    def _load(self, key: EntryKey) -> Data | None:
        return self._proven(key, functools.partial(self._folder.read, take=self._buffers.take))

    def _map(self, key: EntryKey) -> Data | None:
        return self._proven(key, self._folder.map)

    def _proven(
        self, key: EntryKey, read: Callable[[str, int, int], tuple[bytes, Data] | None]
    ) -> Data | None:
        name = entry_name(key)
        try:
            found = read(name, key.length, MAX_HEAD)
            if found is None:
                return None
            before, data = found
            check_entry(key, only_entry(key, name, before), data)
        except FormatError:
            # Left in place it would be found again; what cannot be deleted is replaced by the next
            # write.
            with contextlib.suppress(OSError):
                self._folder.remove(name)
            raise
        return data

    def _save(self, key: EntryKey, data: Data) -> int:
        name = entry_name(key)
        parts = encode_segment(self._owner, name, [(entry_digest(key), encode_entry(key, data))])
        size = sum(map(len, parts))
        if size > self._max_bytes:
            return 0
        self._folder.write(name, *parts)
        return size
