"""Manifests as they were decoded once, kept in the disk cache: another mount fetches and decodes none.

A manifest file never changes, and its id is random; so what it says of the regions of some arrays
holds for ever, and is found by the repository's place, the id, and what was asked. What is kept is
small or a file of its own, which memory is mapped to: mounts share it, and the system takes back
what nobody looks at. Whatever goes wrong with the cache, the manifest is fetched and decoded again.

Large manifests are written by `run`, while those who asked go on with what was decoded; then they are
handed what was mapped, so that memory falls.
"""

import ctypes
import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import trio

from vzfs.access import Access
from vzfs.cache import SMALL, DiskCache, EntryKey
from vzfs.errors import FormatError
from vzfs.formats.compiled import FORMAT_VERSION, decode_compiled, encode_compiled, wanted_digest
from vzfs.model.location import Location
from vzfs.model.manifest import Manifest
from vzfs.model.snapshot import WantedArray
from vzfs.repository.storage import USE_AGAIN_AFTER, name_of

logger = logging.getLogger("vzfs.repository")

MAX_MAPPED: Final = 128
"""Files mapped at a time, each of which holds a descriptor; what lies in others is read into memory."""
MAX_USED: Final = 10_000
"""Files, loaded last, that are kept from being evicted: who follows a branch loads ever more."""
_AT_ONCE: Final = 16 * 2**10
"""Bytes that are decoded on the event loop: a thread takes longer to be asked."""
_OF_A_ROW: Final = 32
"""Bytes that a row takes at most, but for its texts."""

_LENGTH: Final = re.compile(r"[0-9]{1,12}\Z")
_threads = trio.CapacityLimiter(1)
"""The thread that encodes and decodes, at the speed of memory."""

type File = Mapping[bytes, Manifest]
"""The manifests of a file by the ids of their arrays."""
type Wanted = Mapping[bytes, WantedArray]


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledStatistics:
    """Manifest files *loaded* from the cache and *kept* there, and bytes of them that are *mapped*."""

    loaded: int
    kept: int
    mapped: int


class _Waiting(NamedTuple):
    """What is to be compiled, and who is told once that is mapped."""

    name: str
    wanted: Wanted
    file: File
    replace: Callable[[File], None]


class Compiled:
    """The compiled manifests of the repository that *access* reaches, in *disk*."""

    def __init__(self, disk: DiskCache, access: Access) -> None:
        self._disk = disk
        below = access.repository_prefix("manifests")
        place = Location(below.prefix.scheme, below.prefix.authority, below.prefix.key)
        self._shelf = name_of(f"compiled {FORMAT_VERSION}", place, below.store)
        self._waiting: list[_Waiting] = []
        self._has_changed = trio.Event()
        self._used: dict[EntryKey, None] = {}
        self._mappings = self._loaded = self._kept = self._mapped = 0

    def statistics(self) -> CompiledStatistics:
        """Return the counts so far."""
        return CompiledStatistics(self._loaded, self._kept, self._mapped)

    async def get(self, manifest_id: str, wanted: Wanted) -> File | None:
        """Return the manifests of the *wanted* arrays, None where they are not kept. Never raises."""
        name = self._name(manifest_id, wanted)
        length = await self._disk.last_version(name)
        if length is None or not _LENGTH.match(length):
            return None
        file = await self._load(EntryKey(name, length, 0, int(length)), wanted)
        self._loaded += file is not None
        return file

    def keep(
        self, manifest_id: str, wanted: Wanted, file: File, replace: Callable[[File], None]
    ) -> None:
        """Keep *file*, as it was decoded; a large one soon, whose mapped like *replace* is then called with."""
        name = self._name(manifest_id, wanted)
        if sum(map(_size, file.values())) > SMALL:
            self._waiting.append(_Waiting(name, wanted, file, replace))
            self._changed()
            return
        data = encode_compiled(file)
        key = EntryKey(name, str(len(data)), 0, len(data))
        self._kept += self._disk.store(key, data, shelf=self._shelf, record=name)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compile what is to be kept, and keep what is used from being evicted, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._use_again)
            task_status.started()
            while True:
                while self._waiting:
                    await self._compile(self._waiting[0])
                    del self._waiting[0]
                    self._changed()
                    if not self._waiting:
                        await trio.to_thread.run_sync(_trim, limiter=_threads)
                await self._has_changed.wait()

    async def written(self) -> None:
        """Wait until nothing waits to be compiled."""
        while self._waiting:
            await self._has_changed.wait()

    def _changed(self) -> None:
        self._has_changed.set()
        self._has_changed = trio.Event()

    def _name(self, manifest_id: str, wanted: Wanted) -> str:
        return f"{self._shelf}/{manifest_id} {wanted_digest(wanted)}"

    async def _load(self, key: EntryKey, wanted: Wanted) -> File | None:
        is_own = key.length > SMALL and self._mappings < MAX_MAPPED
        found = self._disk.mapped(key) if is_own else self._disk.get(key, self._shelf)
        data = await found
        if data is None:
            return None
        try:
            if key.length <= _AT_ONCE:
                file = decode_compiled(data, wanted)
            else:
                file = await trio.to_thread.run_sync(
                    decode_compiled, data, wanted, limiter=_threads, abandon_on_cancel=True
                )
        except FormatError as damage:
            logger.warning("a compiled manifest is not used: %s [%s]", damage.what, key.location)
            return None
        self._used[key] = None
        if len(self._used) > MAX_USED:
            del self._used[next(iter(self._used))]
        self._mappings += is_own
        self._mapped += is_own * key.length
        return file

    async def _compile(self, waiting: _Waiting) -> None:
        try:
            data = await trio.to_thread.run_sync(
                encode_compiled, waiting.file, limiter=_threads, abandon_on_cancel=True
            )
            key = EntryKey(waiting.name, str(len(data)), 0, len(data))
            await self._disk.put(key, data, self._shelf)
            await self._disk.remember_version(waiting.name, key.version)
            del data
            file = await self._load(key, waiting.wanted)
            if file is not None:
                self._kept += 1
                waiting.replace(file)
        except Exception:
            # Nobody waits for this task, and a cache must not end a mount.
            logger.exception("a manifest was not kept: this is a bug in vzfs, please report it")

    async def _use_again(self) -> None:
        while True:
            await trio.sleep(USE_AGAIN_AFTER)
            for key in list(self._used):
                # To read marks as used; what is mapped is mapped a second time, for a moment.
                is_own = key.length > SMALL
                await (self._disk.mapped(key) if is_own else self._disk.get(key, self._shelf))


def _trim() -> None:
    """Give the system back what decoding took: the C library would keep most of it for what is to come."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _size(manifest: Manifest) -> int:
    """Return how many bytes *manifest* takes at most, compiled."""
    texts = manifest.locations.data, manifest.checksums.etags.data, manifest.inline
    strings = len(manifest.locations) + len(manifest.checksums)
    return _OF_A_ROW * len(manifest) + sum(map(len, texts)) + 8 * strings
