"""The repository's own storage: whole metadata objects and listings, within its prefix."""

from vzfs.access import Access
from vzfs.errors import ErrorKind, SourceError
from vzfs.source import Fetcher


class Storage:
    """Reads the objects of one repository, each whole and bounded."""

    def __init__(self, fetcher: Fetcher, access: Access) -> None:
        self._fetcher = fetcher
        self._access = access

    async def get(self, key: str, max_length: int) -> bytes | None:
        """Return the object *key*, or None if the storage says that there is none."""
        try:
            fetched = await self._fetcher.fetch(self._access.repository_object(key, max_length))
        except SourceError as error:
            if error.kind is ErrorKind.SOURCE_VANISHED:
                return None
            raise
        return fetched.data

    def place(self, key: str) -> str:
        """Return where the object *key* lies, for people."""
        return str(self._access.repository.join(key))

    async def names(self, key: str) -> list[str]:
        """Return the keys below *key*, relative to it.

        Raises SourceError with the kind CANNOT_LIST where the storage cannot enumerate.
        """
        return await self._fetcher.list(self._access.repository_prefix(key))
