"""Consolidated metadata of Zarr: the documents of a whole hierarchy in one. Pure.

Zarr v3 has them in the document of a group, Zarr v2 in a document of its own, `.zmetadata`. What is
taken out is written down again as JSON of the same meaning, since the bytes of the documents
themselves are not there.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

MAX_CONSOLIDATED: Final = 2**25
"""Bytes of a document that is looked into: of an array it has some 1000, and parsed it takes up to
twenty times its text in memory."""

KEY: Final = ".zmetadata"

_DOCUMENTS: Final = (".zgroup", ".zarray", ".zattrs")


def documents_of_v3(document: bytes) -> Mapping[str, Mapping[str, bytes]] | None:
    """Return the documents below a group, by path and name; None if its `zarr.json` does not have them.

    Paths are relative to the group, and as they were written.
    """
    fields = _load(document)
    consolidated = fields.get("consolidated_metadata") if fields else None
    if not isinstance(consolidated, dict) or consolidated.get("kind", "inline") != "inline":
        return None
    metadata = consolidated.get("metadata")
    if not isinstance(metadata, dict):
        return None
    return {path: {"zarr.json": _dump(found)} for path, found in metadata.items()}


def documents_of_v2(document: bytes) -> Mapping[str, Mapping[str, bytes]] | None:
    """Return the documents of a hierarchy, by path ("" is the root) and name; None if `.zmetadata` is none of Zarr.

    That of kerchunk's Parquet references has a size of records, and is of another format.
    """
    fields = _load(document)
    metadata = fields.get("metadata") if fields and "record_size" not in fields else None
    if not isinstance(metadata, dict):
        return None
    found: dict[str, dict[str, bytes]] = {}
    for key, value in metadata.items():
        path, _, name = key.rpartition("/")
        if name in _DOCUMENTS:
            found.setdefault(path, {})[name] = _dump(value)
    return found


def is_of_kerchunk(document: bytes) -> bool:
    """Whether `.zmetadata` is that of Parquet references."""
    return "record_size" in (_load(document) or {})


def _load(document: bytes) -> dict[str, Any] | None:
    if len(document) > MAX_CONSOLIDATED:
        return None
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _dump(value: object) -> bytes:
    # What was parsed is not nested too deeply to be written. Half of a surrogate pair stays escaped.
    return json.dumps(value, separators=(",", ":")).encode()
