"""What lies at a source: asked as few questions as tell it, and opened as a `Repository`.

A place whose name ends like that of a file is looked at as one first; another place first as an
Icechunk repository, then as a Zarr hierarchy, as kerchunk's Parquet references, as a file, and as a
folder of files. What a file is, its first bytes say, and not its name.
"""

# What most mounts are not of is imported when it is met: it takes longer to import than to mount.
import functools
import re
from typing import TYPE_CHECKING, Final

from vzfs.access import Access
from vzfs.cache import DiskCache
from vzfs.errors import ConfigError, ErrorKind, RepositoryError, SourceError
from vzfs.model.location import ByteRange, Location
from vzfs.model.selection import Selection
from vzfs.repository.icechunk import open_icechunk
from vzfs.repository.repository import Repository
from vzfs.repository.storage import Storage
from vzfs.source import Fetcher

if TYPE_CHECKING:
    from vzfs.repository.archive import Archive

_ADVICE: Final = {
    "file": "check the path",
    "s3": "check bucket and path, and --region, --endpoint and credentials",
}
_LIKE_A_FILE: Final = re.compile(
    r"\.(?:json|zip|nc|nc3|nc4|cdf|h5|he5|hdf|hdf5|hdf4|grib|grib2|grb|grb2|tif|tiff|fits|fit|fts|dmrpp)"
    r"(?:\.(?:gz|zst|zstd))?\Z",
    re.IGNORECASE,
)
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_ABSENT: Final = frozenset(
    {ErrorKind.SOURCE_VANISHED, ErrorKind.SOURCE_DENIED, ErrorKind.SOURCE_MISMATCH}
)
"""Answers of a store that has no such object, or does not say whether it has."""


class Opening:
    """Opens what *access* and *selection* name, as often as it is asked to.

    *storage* gives metadata, from memory if it must; *source* the bytes of files. Files are parsed
    once, as *disk* remembers.
    """

    def __init__(
        self,
        storage: Fetcher,
        source: Fetcher,
        access: Access,
        selection: Selection,
        disk: DiskCache | None = None,
    ) -> None:
        self._storage = Storage(storage, access)
        self._fetcher = source
        self._access = access
        self._selection = selection
        self._make = functools.partial(_archive, storage, source, access, selection, disk)

    async def open(self) -> Repository:
        """Open it. Raises RepositoryError if it is nothing that is known here."""
        if self._selection.files or self._selection.pattern:
            return await self._make().open()
        place = self._access.repository
        looks_like_file = _LIKE_A_FILE.search(place.key) is not None
        repository = await self._open_file() if looks_like_file else None
        repository = repository or await self._open_folder(is_last=looks_like_file)
        if repository is None and not looks_like_file:
            repository = await self._open_file() or await self._make().open_folder()
        if repository is None:
            raise RepositoryError(
                ErrorKind.NOT_A_REPOSITORY,
                "there is no Icechunk repository here, no Zarr hierarchy, no reference file and no "
                "archival file",
                where=str(place).removesuffix("/"),
                advice=_ADVICE.get(place.scheme, "check the address"),
            )
        if self._selection.concat is not None and not repository.named:
            raise _not_files(repository, str(place))
        return repository

    async def _open_folder(self, *, is_last: bool) -> Repository | None:
        """Open a repository, hierarchy or Parquet references that lie in a folder.

        A bucket that may not be listed denies what it does not have: that is an error only if there
        is nothing else to try.
        """
        denial: SourceError | None = None
        for attempt in (self._open_icechunk, self._open_zarr, self._open_parquet):
            try:
                repository = await attempt()
            except SourceError as error:
                if error.kind not in _ABSENT:
                    raise
                denial = denial or error
            else:
                if repository is not None:
                    return repository
        if denial is not None and is_last:
            raise denial
        return None

    async def _open_icechunk(self) -> Repository | None:
        return await open_icechunk(self._storage)

    async def _open_zarr(self) -> Repository | None:
        from vzfs.repository.zarrstore import open_zarr

        return await open_zarr(self._storage)

    async def _open_parquet(self) -> Repository | None:
        from vzfs.repository.kerchunk import open_kerchunk_parquet

        return await open_kerchunk_parquet(self._storage)

    async def _open_file(self) -> Repository | None:
        """Open the one object that is named itself, None if there is none."""
        from vzfs.archival.kinds import HEAD, sniff
        from vzfs.formats.kerchunk import looks_like_kerchunk
        from vzfs.repository.kerchunk import open_kerchunk_json

        place = self._access.repository
        if not place.key:
            return None
        try:
            found = await self._fetcher.stat(self._access.repository_object("", 0))
        except SourceError as error:
            if error.kind in _ABSENT:
                return None
            raise
        head = b""
        if found.length:
            wanted = self._access.repository_part("", ByteRange(0, min(found.length, HEAD)))
            head = bytes((await self._fetcher.fetch(wanted)).data)
        if looks_like_kerchunk(head):
            return await open_kerchunk_json(self._storage)
        name = place.key.rpartition("/")[2]
        if head.startswith(_ZIP):
            from vzfs.repository.zarrzip import open_zarr_zip

            return await open_zarr_zip(self._storage)
        if sniff(head, name) is None:
            raise RepositoryError(
                ErrorKind.NOT_A_REPOSITORY,
                "the file is of no kind that is known here",
                where=str(place).removesuffix("/"),
                advice="known are kerchunk references (JSON, Parquet), Zarr (also in a ZIP), HDF5, netCDF, "
                "GRIB, TIFF, FITS, HDF4 and DMR++",
            )
        return await self._make().open_files(
            [Location(place.scheme, place.authority, place.key)], is_sole=True
        )


def _archive(
    storage: Fetcher,
    source: Fetcher,
    access: Access,
    selection: Selection,
    disk: DiskCache | None,
) -> "Archive":
    from vzfs.repository.archive import Archive

    return Archive(storage, source, access, selection, disk)


def _not_files(repository: Repository, where: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_USAGE,
        f"--concat joins files, and this is {repository.format}",
        where=where,
        advice="leave it out",
    )
