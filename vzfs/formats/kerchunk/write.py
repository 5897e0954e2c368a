"""References in kerchunk's words: the text of a JSON file, and what a folder of Parquet says of it.

What kerchunk has no words for raises `Unwritable`. Checksums are among that, and are left to whoever
writes to say so.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import Location
from vzfs.model.manifest import ChunkKind, Column, Manifest

RECORD_SIZE: Final = 100_000
"""Chunks, present or not, of an array that one file of Parquet speaks of."""
MAX_EMPTY: Final = 1000
"""Files of Parquet of an array of which those without refs are written too: fsspec looks into all."""
ROWS: Final = 2**14
"""Refs put into words at a time: some 2 MB of text."""

_ENCODED: Final = frozenset({"http", "https"})
_BASE64: Final = b"base64:"


class Unwritable(Exception):
    """Why references cannot say something, for people."""


def url_of(place: Location) -> str:
    """Return what fsspec is to be given for *place*: keys are verbatim, but for web servers. Raises Unwritable."""
    url = str(place)
    if place.scheme not in _ENCODED:
        url = f"{place.scheme}://{place.authority}/{place.key}"
    if not is_text(url):
        raise Unwritable("the name of a file is not UTF-8")
    if "::" in url:
        raise Unwritable("a location has '::', which fsspec takes for a chain of filesystems")
    return url


def is_text(text: str) -> bool:
    """Whether UTF-8 can say *text*."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_of(document: bytes) -> str:
    """Return the text of a JSON *document*, whatever it is encoded in."""
    return str(document, json.detect_encoding(document))


def are_whole(manifest: Manifest, part: slice) -> npt.NDArray[np.bool_]:
    """Return which rows of *part* are whole objects of which nobody knows how long they are.

    Objects that were not there when their lengths were asked for have such a checksum: their refs
    are true for none.
    """
    rows = np.flatnonzero(manifest.checksums.dates == 0) + len(manifest.checksums.etags) + 1
    is_whole: npt.NDArray[np.bool_] = np.isin(manifest.checksum[part], rows)
    is_whole &= manifest.offset[part] == 0
    return is_whole


# -- JSON ------------------------------------------------------------------------------------------


def json_file(documents: Mapping[str, bytes], chunks: Iterator[Iterator[str]]) -> Iterator[bytes]:
    """Yield the pieces of a file of version 1: *documents* by their keys, and the *chunks* of each array.

    Those are as `json_chunks` gives them.
    """
    yield b'{"version":1,"refs":{'
    separator = ""
    for key, document in documents.items():
        yield f"{separator}{_quoted(key)}:{_quoted(text_of(document))}".encode()
        separator = ",\n"
    for array in chunks:
        for text in array:
            yield f"{separator}{text}".encode()
            separator = ",\n"
    yield b"}}\n"


def json_chunks(
    path: str, grid: ChunkGrid, manifest: Manifest, urls: Sequence[str]
) -> Iterator[str]:
    """Yield members of JSON, some at a time: the refs of *manifest*, of the array at *path*.

    *path* is relative and ends in a slash unless it is empty. *urls* are those of the manifest's
    locations.
    """
    quoted = [_quoted(url) for url in urls]
    head = _quoted(path)[1:-1]
    for first in range(0, len(manifest), ROWS):
        last = min(first + ROWS, len(manifest))
        keys = _keys(manifest.indices(first, last), grid)
        columns = (manifest.kind, manifest.location, manifest.offset, manifest.length)
        is_whole = are_whole(manifest, slice(first, last)).tolist()
        rows = zip(*(column[first:last].tolist() for column in columns), is_whole, strict=True)
        lines = []
        for key, (kind, location, offset, length, whole) in zip(keys, rows, strict=True):
            if whole:
                said = f"[{quoted[location]}]"
            elif kind == ChunkKind.INLINE or not length:
                data = manifest.inline[offset : offset + length] if length else b""
                said = f'"{(_BASE64 + base64.b64encode(data)).decode()}"' if length else '""'
            else:
                said = f"[{quoted[location]},{offset},{length}]"
            lines.append(f'"{head}{key}":{said}')
        yield ",\n".join(lines)


def _keys(flat: Column[np.int64], grid: ChunkGrid) -> Iterator[str]:
    if not grid.shape:
        return iter(["0"] * len(flat))
    columns = [(flat // stride) % count for stride, count in zip(grid.strides, grid.shape, strict=True)]  # fmt: skip
    return map(".".join, zip(*(map(str, column.tolist()) for column in columns), strict=True))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- Parquet ---------------------------------------------------------------------------------------


def zmetadata(documents: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield the pieces of the document that a folder of Parquet has all *documents* in."""
    yield b'{"metadata":{'
    for number, (key, document) in enumerate(documents.items()):
        yield f"{',' if number else ''}{_quoted(key)}:{text_of(document)}".encode()
    yield b'},"record_size":%d}' % RECORD_SIZE


def records(
    manifests: Sequence[Manifest], grid: ChunkGrid
) -> Iterator[tuple[int, Sequence[slice]]]:
    """Yield the number of each file of Parquet of an array, and which rows of each of *manifests* it has.

    Where they are too many, those without refs are left out.
    """
    count = -(-grid.size // RECORD_SIZE)
    numbers = [np.arange(count if count <= MAX_EMPTY else 0)]
    numbers += [np.unique(m.indices(0, len(m)) // RECORD_SIZE) for m in manifests]
    for number in np.unique(np.concatenate(numbers)).tolist():
        low = number * RECORD_SIZE
        yield number, [slice(m.first(low), m.first(low + RECORD_SIZE)) for m in manifests]


def check_raw(manifest: Manifest) -> None:
    """Raise Unwritable if fsspec would take the bytes of a chunk for something else."""
    for row in np.flatnonzero(manifest.kind == ChunkKind.INLINE).tolist():
        if manifest.ref(row).inline[: len(_BASE64)] == _BASE64:
            raise Unwritable("the bytes of a chunk begin with 'base64:', which would be decoded")
