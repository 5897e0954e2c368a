"""Consolidated metadata: the documents of all nodes below a group in one, joined as they are.

Documents are joined as bytes, without being parsed: whoever gives them has found that they are JSON
that any parser takes.
"""

import collections
from collections.abc import Iterable
from typing import Final

from vzfs.formats.zarr import MAX_DOCUMENT
from vzfs.views.metadata import dump

KEPT: Final = 4 * MAX_DOCUMENT
"""Bytes of documents that are kept; others are made anew when they are asked for again."""

_V3 = b'"consolidated_metadata":{"kind":"inline","must_understand":false,"metadata":{'
_V2 = b'{"metadata":{'


def v3_document(group: bytes, members: Iterable[tuple[str, bytes]]) -> bytes | None:
    """Return the document *group* with those of *members*, by their paths relative to it.

    None if it would be larger than what is looked into.
    """
    # The object is not empty, since it says that it is a group.
    head = group.rstrip()[:-1] + b"," + _V3
    return _join(head, members, b"}}}")


def v2_document(members: Iterable[tuple[str, bytes]]) -> bytes | None:
    """Return a `.zmetadata` with *members*, by their keys; None if it would be too large."""
    return _join(_V2, members, b'},"zarr_consolidated_format":1}')


def _join(head: bytes, members: Iterable[tuple[str, bytes]], tail: bytes) -> bytes | None:
    parts, size = [head], len(head) + len(tail)
    for key, document in members:
        part = b"%b%b:%b" % (b"," if len(parts) > 1 else b"", dump(key), document)
        size += len(part)
        if size > MAX_DOCUMENT:
            return None
        parts.append(part)
    parts.append(tail)
    return b"".join(parts)


class Recent:
    """The documents that were asked for last, by the number of their group."""

    def __init__(self, nbytes: int = KEPT) -> None:
        self._nbytes = nbytes
        self._documents: collections.OrderedDict[int, bytes | None] = collections.OrderedDict()

    def get(self, number: int) -> tuple[bool, bytes | None]:
        """Return whether it is known what a group has, and what it has."""
        try:
            self._documents.move_to_end(number)
            return True, self._documents[number]
        except KeyError:
            return False, None

    def keep(self, number: int, document: bytes | None) -> None:
        """Remember what a group has, and forget what was asked for longest ago."""
        self._documents[number] = document
        while sum(len(kept or b"") for kept in list(self._documents.values())) > self._nbytes:
            self._documents.popitem(last=False)
