"""Lengths and versions of whole objects, which references name without saying how long they are.

Where many of them lie in one folder that can be listed, one listing tells; else each is asked for,
`AT_ONCE` at a time. What is known is kept. An object that is not there, or may not be read, is known
to be such: its chunk has a name, and reading it fails. A store that does not answer raises, and
nothing is known then.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

import trio

from vzfs.access import Access, AuthorizedPrefix, AuthorizedRange
from vzfs.errors import AccessDenied, ErrorKind, SourceError, VzfsError
from vzfs.model.location import LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.source import Fetcher, Stat

AT_ONCE: Final = 64
"""Objects asked for at a time; the source limits further how many requests one host gets."""
LIST_FROM: Final = 100
"""Objects of one folder from which on its listing is asked for. A page of one has a thousand."""
MAX_KNOWN: Final = 1_000_000
"""Objects of which lengths are kept: some 400 MB at worst."""

NEVER: Final = LastModified(0)
"""The version of an object that is not there: whatever is there later is another."""

_ABSENT: Final = frozenset(
    {ErrorKind.SOURCE_VANISHED, ErrorKind.SOURCE_DENIED, ErrorKind.BAD_LOCATION}
)


class Lengths:
    """What *fetcher* says of the objects that *access* lets be read."""

    def __init__(self, fetcher: Fetcher, access: Access) -> None:
        self._fetcher = fetcher
        self._access = access
        self._known: dict[str, Stat | None] = {}

    async def find(self, locations: Iterable[str]) -> Mapping[str, Stat | None]:
        """Return length and version of each of the objects at *locations*, None where there is none to read.

        Locations are as the references have them. Raises SourceError where that cannot be told.
        """
        wanted = dict.fromkeys(locations)
        unknown = [location for location in wanted if location not in self._known]
        if len(self._known) + len(unknown) > MAX_KNOWN:
            self._known.clear()
            unknown = list(wanted)
        asked: dict[str, AuthorizedRange] = {}
        for location in unknown:
            try:
                asked[location] = self._access.authorize(ChunkRef(ChunkKind.VIRTUAL, 0, location))
            except AccessDenied:
                self._known[location] = None
        for folder, objects in _by_folder(asked):
            if len(objects) >= LIST_FROM:
                await self._list(folder, objects)
        rest = [location for location in asked if location not in self._known]
        self._known |= await ask_each(rest, lambda location: self._ask(asked[location]))
        return {location: self._known[location] for location in wanted}

    async def _list(self, folder: AuthorizedPrefix, objects: Mapping[str, AuthorizedRange]) -> None:
        """Learn what a listing of *folder* tells of the *objects* in it, nothing where there is none."""
        try:
            listed = await self._fetcher.objects(folder, deep=False)
        except SourceError as error:
            if error.kind in _ABSENT or error.kind is ErrorKind.CANNOT_LIST:
                return
            raise
        found = {o.key: o for o in listed}
        for location, wanted in objects.items():
            o = found.get(wanted.location.key.rpartition("/")[2])
            if o is None:
                self._known[location] = None
            elif o.length is not None and o.checksum is not None:
                self._known[location] = Stat(o.length, o.checksum)

    async def _ask(self, wanted: AuthorizedRange) -> Stat | None:
        try:
            return await self._fetcher.stat(wanted)
        except SourceError as error:
            if error.kind in _ABSENT:
                return None
            raise


def whole_object(kind: ChunkKind, location: str, found: Stat | None, chunk_nbytes: int) -> ChunkRef:
    """Return the ref of a chunk that is a whole object, as it was *found*.

    One that was not gets the size of the decoded chunk, *chunk_nbytes*, and a version that no object has.
    """
    if found is None:
        return ChunkRef(kind, chunk_nbytes, location, 0, NEVER)
    return ChunkRef(kind, found.length, location, 0, found.checksum)


async def ask_each[K, V](
    keys: Iterable[K], ask: Callable[[K], Awaitable[V]], at_once: int = AT_ONCE
) -> dict[K, V]:
    """Return what *ask* returns for each of *keys*, in their order, *at_once* asked at a time.

    Raises the first VzfsError that it raises.
    """
    found: dict[K, V] = {}
    failure: VzfsError | None = None

    async def work(keys: Iterator[K]) -> None:
        nonlocal failure
        for key in keys:
            try:
                found[key] = await ask(key)
            except VzfsError as error:
                failure = failure or error
                nursery.cancel_scope.cancel()
                return

    several = list(keys)
    shared = iter(several)
    async with trio.open_nursery() as nursery:
        for _ in range(min(at_once, len(several))):
            nursery.start_soon(work, shared)
    if failure is not None:
        raise failure.with_traceback(None)
    return {key: found[key] for key in several}


def _by_folder(
    asked: Mapping[str, AuthorizedRange],
) -> Iterable[tuple[AuthorizedPrefix, Mapping[str, AuthorizedRange]]]:
    """Group objects by the folders that they lie in, where those may be listed by the same leave."""
    found: dict[object, tuple[AuthorizedPrefix, dict[str, AuthorizedRange]]] = {}
    for location, wanted in asked.items():
        folder = wanted.folder()
        if folder is not None:
            name = (folder.prefix, folder.root, folder.store)
            found.setdefault(name, (folder, {}))[1][location] = wanted
    return found.values()
