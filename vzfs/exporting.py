"""The references of a snapshot written as kerchunk's: into a JSON file, or a folder of Parquet files.

What readers would see must be what the snapshot has, so an array of which Zarr v2 cannot say the
document, or kerchunk one chunk, is left out as a whole, by name and with the reason. No chunk is
read, and nothing has to be allowed for it. What is written appears by a rename, whole.
"""

import contextlib
import dataclasses
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from vzfs.access import Access
from vzfs.errors import ConfigError, ErrorKind
from vzfs.formats.kerchunk import write
from vzfs.formats.kerchunk.write import Unwritable
from vzfs.formats.kerchunk.writeparquet import Rows, parquet_file
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.manifest import ChunkKind, Manifest
from vzfs.model.references import Omission
from vzfs.model.snapshot import Array
from vzfs.repository import Checkout
from vzfs.views import v2
from vzfs.views.metadata import Unsaid, dump, load
from vzfs.views.presentation import Presentation
from vzfs.views.view import View, ViewName

ZMETADATA: Final = ".zmetadata"
TAIL: Final = 4096
"""Bytes at the end of a document that are looked at to tell whether a folder holds references."""

type Advance = Callable[[int, int], None]
"""Hears how many of how many are done."""


class Part(NamedTuple):
    """Some chunk refs of an array, and what fsspec is to be given for each of their locations."""

    manifest: Manifest
    urls: Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """An array whose refs can be written. *path* is relative and ends in a slash, unless it is empty."""

    path: str
    grid: ChunkGrid
    parts: Sequence[Part]


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """What can be written of a snapshot: *documents* by their keys, and *arrays* with their refs.

    *left_out* is what cannot be. *chunks* counts by kind. *has_checksums* if a ref has one, which kerchunk
    cannot say.
    """

    documents: Mapping[str, bytes]
    arrays: Sequence[Exported]
    left_out: Sequence[Omission]
    chunks: Mapping[ChunkKind, int]
    has_checksums: bool
    is_parquet: bool

    @property
    def total(self) -> int:
        """How many chunks there are."""
        return sum(self.chunks.values())


async def gather(
    checkout: Checkout, access: Access, *, is_parquet: bool, advance: Advance
) -> Export:
    """Load all refs of *checkout*, and find out what can be written. Raises VzfsError where refs cannot be had."""
    view = View(ViewName.STORED, 2, consolidated=False)
    presentation = Presentation(checkout.snapshot, view)
    manifests: dict[int, Sequence[Manifest]] = {}
    for number in range(len(presentation)):
        node = presentation.stored(number)
        if isinstance(node, Array) and not node.problem:
            refs = checkout.refs(node)
            await refs.load(())
            manifests[number] = refs.manifests()
        advance(number + 1, len(presentation))
    presentation.count_as_complete(
        {number for number, found in manifests.items() if _is_complete(presentation, number, found)}
    )
    gathering = _Gathering(presentation, access, is_parquet=is_parquet)
    for number in range(len(presentation)):
        gathering.add(number, manifests.get(number, ()))
        advance(number + 1, len(presentation))
    return gathering.export(checkout.repository.omissions)


def _is_complete(presentation: Presentation, number: int, found: Sequence[Manifest]) -> bool:
    node = presentation.stored(number)
    return isinstance(node, Array) and sum(map(len, found)) == node.grid.size


class _Gathering:
    """Documents and refs that can be written, node by node."""

    def __init__(self, presentation: Presentation, access: Access, *, is_parquet: bool) -> None:
        self._presentation = presentation
        self._access = access
        self._is_parquet = is_parquet
        self._documents: dict[str, bytes] = {}
        self._arrays: list[Exported] = []
        self._left_out: list[Omission] = []
        self._chunks: Counter[ChunkKind] = Counter()
        self._has_checksums = False
        self._urls: dict[str, str] = {}

    def export(self, omissions: Sequence[Omission]) -> Export:
        return Export(
            self._documents,
            self._arrays,
            [*(o for o in omissions if o.is_loss), *self._left_out],
            self._chunks,
            self._has_checksums,
            self._is_parquet,
        )

    def add(self, number: int, manifests: Sequence[Manifest]) -> None:
        path = self._presentation.path(number)
        if not self._presentation.is_shown(number):
            self._leave_out(path, self._presentation.remark(number))
            return
        node = self._presentation.node(number)
        folder = path.strip("/") + "/" if path.strip("/") else ""
        try:
            self._check_name(folder)
            if isinstance(node, Array):
                self._add_array(node, folder, manifests)
                return
        except Unwritable as why:
            self._leave_out(path, str(why))
            return
        if remark := self._presentation.remark(number):
            self._leave_out(path, remark)
        for name, document in node.documents.items():
            try:
                load(document)
            except Unsaid as why:
                self._leave_out(f"/{folder}{name}", str(why))
            else:
                self._documents[folder + name] = document

    def _add_array(self, node: Array, folder: str, manifests: Sequence[Manifest]) -> None:
        if self._is_parquet and not folder:
            raise Unwritable("references in Parquet have no array at the root; write JSON")
        parts = [Part(manifest, self._urls_of(manifest)) for manifest in manifests]
        for manifest in manifests:
            if self._is_parquet:
                write.check_raw(manifest)
        for name, document in _with_dots(node.documents).items():
            self._documents[folder + name] = document
        self._arrays.append(Exported(folder, node.grid, parts))
        for manifest in manifests:
            counts = np.bincount(manifest.kind, minlength=len(ChunkKind)).tolist()
            self._chunks.update(dict(zip(ChunkKind, counts, strict=True)))
            self._has_checksums |= bool(np.any(manifest.checksum))

    def _leave_out(self, path: str, reason: str) -> None:
        self._left_out.append(Omission(path, reason))

    def _check_name(self, folder: str) -> None:
        segments = folder.split("/")[:-1]
        if not write.is_text(folder) or any(s in {"", ".", ".."} or "\0" in s for s in segments):
            raise Unwritable("its name is none that a path can have")

    # -- where chunks are ----------------------------------------------------------------------

    def _urls_of(self, manifest: Manifest) -> Sequence[str]:
        """Return a URL for each location of *manifest* that a chunk lies at, "" for others."""
        urls = [""] * len(manifest.locations)
        for kind in (ChunkKind.NATIVE, ChunkKind.VIRTUAL):
            is_somewhere = (manifest.length > 0) | write.are_whole(manifest, slice(None))
            rows = manifest.location[(manifest.kind == kind) & is_somewhere]
            for row in np.unique(rows).tolist():
                text = manifest.locations[row]
                url = self._native(text) if kind is ChunkKind.NATIVE else self._virtual(text)
                if urls[row] not in ("", url):
                    raise Unwritable("its references name one location in two ways")
                urls[row] = url
        return urls

    def _native(self, key: str) -> str:
        return write.url_of(self._access.repository.join(key))

    def _virtual(self, text: str) -> str:
        url = self._urls.get(text)
        if url is None:
            verdict = self._access.examine(text)
            if verdict.place is None:
                why = verdict.refusal.what if verdict.refusal is not None else "it names no place"
                raise Unwritable(f"a chunk lies where nobody can read it: {why}")
            url = self._urls[text] = write.url_of(verdict.place)
        return url


def _with_dots(documents: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the documents of an array whose chunks have names with dots, which all readers of references know."""
    fields, _ = load(documents[v2.ARRAY])
    if fields.get("dimension_separator", ".") == ".":
        return documents
    return {**documents, v2.ARRAY: dump({**fields, "dimension_separator": "."})}


# -- a file of JSON --------------------------------------------------------------------------------


def write_json(export: Export, path: Path, advance: Advance, *, replace: bool) -> None:
    """Write *export* as a file of version 1 at *path*, which may be there if *replace*. Raises ConfigError."""
    done = 0

    def chunks(array: Exported) -> Iterator[str]:
        nonlocal done
        for manifest, urls in array.parts:
            yield from write.json_chunks(array.path, array.grid, manifest, urls)
            done += len(manifest)
            advance(done, export.total)

    if path.is_dir():
        raise _in_the_way(path, "it is a folder")
    with _told(path):
        temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                for piece in write.json_file(export.documents, map(chunks, export.arrays)):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if not replace and os.path.lexists(path):
                raise _in_the_way(path, "it exists")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


# -- a folder of Parquet ---------------------------------------------------------------------------


def write_parquet(export: Export, path: Path, advance: Advance, *, replace: bool) -> None:
    """Write *export* as a folder at *path*, which may hold references if *replace*. Raises ConfigError."""
    done = 0
    with _told(path):
        temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
        try:
            temporary.mkdir()
            for array in export.arrays:
                folder = temporary / array.path
                folder.mkdir(parents=True, exist_ok=True)
                manifests = [part.manifest for part in array.parts]
                for number, slices in write.records(manifests, array.grid):
                    data = parquet_file(_rows(array, number, slices))
                    (folder / f"refs.{number}.parq").write_bytes(data)
                    done += sum(part.stop - part.start for part in slices)
                    advance(done, export.total)
            with (temporary / ZMETADATA).open("xb") as file:
                file.writelines(write.zmetadata(export.documents))
            _put(temporary, path, replace=replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _rows(array: Exported, number: int, slices: Sequence[slice]) -> Rows:
    """Return the refs of file *number* of an array, of which each part has those in its slice."""
    low = number * write.RECORD_SIZE
    count = min(write.RECORD_SIZE, array.grid.size - low)
    path = np.full(count, -1, np.int64)
    offset, size = np.zeros(count, np.int64), np.zeros(count, np.int64)
    raw: list[bytes | None] = [None] * count
    paths: list[str] = []
    for (manifest, urls), part in zip(array.parts, slices, strict=True):
        at = manifest.indices(part.start, part.stop) - low
        kind, length = manifest.kind[part], manifest.length[part].astype(np.int64)
        is_whole = write.are_whole(manifest, part)
        is_given = ((kind == ChunkKind.INLINE) | (length == 0)) & ~is_whole
        for row in np.flatnonzero(is_given).tolist():
            raw[int(at[row])] = bytes(manifest.ref(part.start + row).inline) if length[row] else b""
        at, lies = at[~is_given], ~is_given
        used, numbers = np.unique(manifest.location[part][lies], return_inverse=True)
        path[at] = numbers + len(paths)
        paths += [urls[row] for row in used.tolist()]
        offset[at] = manifest.offset[part][lies]
        size[at] = np.where(is_whole[lies], 0, length[lies])
    return Rows(path, paths, offset, size, raw)


def _put(temporary: Path, path: Path, *, replace: bool) -> None:
    """Have *temporary* appear as *path*, in the place of other references if *replace*."""
    if not os.path.lexists(path):
        temporary.rename(path)
        return
    if not replace:
        raise _in_the_way(path, "it exists")
    if not _holds_references(path):
        raise _in_the_way(path, "it is no folder of references")
    aside = temporary.with_name(temporary.name + ".old")
    path.rename(aside)
    temporary.rename(path)
    shutil.rmtree(aside)


def _holds_references(path: Path) -> bool:
    """Whether *path* is a folder that such a command has written: nothing else is removed."""
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        with (path / ZMETADATA).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
            return b'"record_size"' in file.read(TAIL)
    except OSError:
        return False


# -- errors ----------------------------------------------------------------------------------------


def _in_the_way(path: Path, why: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_USAGE,
        f"the references are not written: {why}",
        where=str(path),
        advice="choose another name, or replace references with --force",
    )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the references cannot be written: {error.strerror or error}",
            where=str(path),
        ) from None
