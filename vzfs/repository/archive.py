"""Archival files as a repository: a group for each, or one hierarchy joined along a dimension.

Which files they are is found out once, when they are opened; what they hold is parsed in processes
of their own, once for each version of a file. The snapshot is named after what was found. A file that
cannot be parsed costs itself, by name, unless it is the only one, or all are to be joined.
"""

import functools
import hashlib
import logging
import re
from collections.abc import Sequence
from typing import Final

import trio

from vzfs.access import Access
from vzfs.archival.parsing import FileParser
from vzfs.cache import DiskCache
from vzfs.errors import ErrorKind, RepositoryError, SourceError, VzfsError
from vzfs.joining import concatenate, group_per_file
from vzfs.model.location import Location
from vzfs.model.manifest import ChunkRef
from vzfs.model.references import Omission, References
from vzfs.model.selection import MAX_FILES, Selection, compile_pattern, is_deep, split_pattern
from vzfs.repository.fixed import FixedRepository
from vzfs.repository.repository import Repository
from vzfs.source import Fetcher

logger = logging.getLogger("vzfs.repository")

MAX_PARSED: Final = 16
"""Files that are parsed, or looked up in the cache, at a time."""

_LIKE_AN_ARCHIVE: Final = re.compile(
    r"(?!\.).*\.(?:nc|nc3|nc4|cdf|h5|he5|hdf|hdf4|hdf5|grib|grib2|grb|grb2|tif|tiff|fits|fit|fts|dmrpp)\Z",
    re.IGNORECASE,
)
"""Names of files that make a folder one of archival files."""


class Archive:
    """The archival files that *selection* and *access* name."""

    def __init__(
        self,
        storage: Fetcher,
        source: Fetcher,
        access: Access,
        selection: Selection,
        disk: DiskCache | None,
    ) -> None:
        self._storage = storage
        self._source = source
        self._access = access
        self._selection = selection
        self._disk = disk

    async def open(self) -> Repository:
        """Open the files that were named, or that the pattern means. Raises RepositoryError if there are none."""
        return await self.open_files(await self.named())

    async def named(self) -> Sequence[Location]:
        """Return the files that were named, or that the pattern means. Raises RepositoryError if there are none."""
        files: Sequence[Location] = self._selection.files or await self._matching()
        if not files:
            raise RepositoryError(
                ErrorKind.NOT_A_REPOSITORY,
                "no file is meant by the pattern",
                where=f"{self._access.repository}{self._selection.pattern}",
                advice="put it into quotes, so that the shell leaves it alone, and check it with ls",
            )
        return files

    async def open_folder(self) -> Repository | None:
        """Open the files of the folder that was named, None if none of them is called like an archival file."""
        files = await self.in_folder()
        return await self.open_files(files) if files else None

    async def in_folder(self) -> Sequence[Location]:
        """Return the files of the folder that was named that are called like archival files."""
        try:
            keys = await self._list("", deep=False)
        except SourceError as error:
            if error.kind in {ErrorKind.CANNOT_LIST, ErrorKind.SOURCE_VANISHED}:
                return []
            raise
        files = [self._access.repository.join(key) for key in keys if _LIKE_AN_ARCHIVE.match(key)]
        return sorted(files, key=str)

    async def open_files(self, files: Sequence[Location], *, is_sole: bool = False) -> Repository:
        """Open *files* as one repository; one that *is_sole* has its arrays at the root.

        Raises VzfsError for a file that cannot be parsed, where it is the only one or all are to be joined.
        """
        access = self._access.with_containers(None).with_named(files)
        concat = self._selection.concat
        is_sole = is_sole and concat is None
        found: list[References | VzfsError] = [RepositoryError(ErrorKind.BUG, "not parsed")] * len(
            files
        )
        limiter = trio.CapacityLimiter(MAX_PARSED)

        async def parse(number: int, parser: FileParser) -> None:
            async with limiter:
                try:
                    found[number] = await parser.parse(files[number])
                except VzfsError as error:
                    if is_sole or concat is not None:
                        raise
                    found[number] = error

        try:
            async with (
                FileParser(self._source, access, self._disk) as parser,
                trio.open_nursery() as nursery,
            ):
                for number in range(len(files)):
                    nursery.start_soon(parse, number, parser)
        except* VzfsError as group:
            raise _first(group) from None
        parts = [(str(file), _whole(part)) for file, part in zip(files, found, strict=True)]
        lost = [part for part in found if isinstance(part, VzfsError)]
        if len(lost) == len(files):
            raise lost[0]
        for error in lost:
            logger.warning("a file is left out: %s", error)
        if concat is not None:
            references = await concatenate(
                parts, concat, functools.partial(_read, self._source, access)
            )
        elif is_sole:
            references = parts[0][1]
        else:
            references = await trio.to_thread.run_sync(group_per_file, parts)
        return FixedRepository(
            references,
            format=_format(files, concat),
            where=str(self._access.repository),
            state=await trio.to_thread.run_sync(_state, files, references),
            written_at=0,
            named=files,
        )

    async def _matching(self) -> list[Location]:
        pattern = self._selection.pattern
        # What lies before the last folder that stands for no others need not be listed.
        folder, _ = split_pattern(pattern)
        wanted = compile_pattern(pattern)
        try:
            keys = await self._list(folder, deep=is_deep(pattern[len(folder) :]))
        except SourceError as error:
            if error.kind is not ErrorKind.CANNOT_LIST:
                raise
            raise SourceError(
                error.kind,
                error.what,
                where=error.where,
                advice="name the files one by one, or in a list: @FILE",
            ) from None
        found = [folder + key for key in keys if wanted.match(folder + key)]
        if len(found) > MAX_FILES:
            raise RepositoryError(
                ErrorKind.NOT_A_REPOSITORY,
                f"the pattern means more than {MAX_FILES} files",
                where=f"{self._access.repository}{pattern}",
                advice="make a repository of them: vzfs ingest",
            )
        return [self._access.repository.join(key) for key in sorted(found)]

    async def _list(self, folder: str, *, deep: bool) -> list[str]:
        below = self._access.repository_prefix(folder.removesuffix("/"))
        return [o.key for o in await self._storage.objects(below, deep=deep) if not o.is_folder]


def _whole(part: References | VzfsError) -> References:
    """Return what a file holds; of one that cannot be parsed, that it is left out."""
    if isinstance(part, VzfsError):
        return References((), {}, (Omission("/", str(part)),))
    return part


async def _read(source: Fetcher, access: Access, ref: ChunkRef) -> bytes:
    return bytes((await source.fetch(access.authorize(ref))).data)


def _first(group: BaseExceptionGroup[VzfsError]) -> VzfsError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _format(files: Sequence[Location], concat: str | None) -> str:
    if len(files) == 1:
        return "a file"
    return f"{len(files)} files" + (f", joined along {concat}" if concat else "")


def _state(files: Sequence[Location], references: References) -> str:
    """Return 80 bits of a digest of all that is shown, in hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file).encode("utf-8", "surrogateescape") + b"\0")
    for node in references.nodes:
        digest.update(node.path.encode("utf-8", "surrogateescape") + b"\0")
        for document in node.documents.values():
            digest.update(document + b"\0")
    for name, manifest in references.manifests.items():
        digest.update(name + b"\0")
        digest.update(manifest.indices(0, len(manifest)).tobytes())
        for column in (
            manifest.kind,
            manifest.location,
            manifest.offset,
            manifest.length,
            manifest.checksum,
        ):
            digest.update(column.tobytes() + b"\0")
        digest.update(manifest.locations.data)
        digest.update(manifest.inline)
        for checksum in manifest.checksums:
            digest.update(repr(checksum).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:20]
