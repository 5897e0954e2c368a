"""The entry points of a spec 1 repository: `ref.json` of each branch and tag."""

import json
from typing import Final

from vzfs.formats.icechunk.envelope import corrupt
from vzfs.formats.icechunk.ids import decode_id

MAX_REF_SIZE: Final = 4096
"""Bytes of a `ref.json`, which has about forty."""


def decode_ref(data: bytes) -> str:
    """Return the snapshot id that a `ref.json` names. Raises FormatError."""
    if len(data) > MAX_REF_SIZE:
        raise corrupt("the ref file is too large to be one")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise corrupt("the ref file is not JSON") from None
    snapshot = document.get("snapshot") if isinstance(document, dict) else None
    if not isinstance(snapshot, str):
        raise corrupt("the ref file names no snapshot")
    decode_id(snapshot)
    return snapshot
