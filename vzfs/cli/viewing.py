"""How a view shows the arrays of a snapshot, in words. Pure."""

import enum
import json
from collections import Counter
from collections.abc import Iterable
from typing import Final

from vzfs.model.snapshot import Node
from vzfs.views.forms import Decoded, Framed
from vzfs.views.presentation import Presentation

_DOCUMENT: Final = "zarr.json"


class Shown(enum.StrEnum):
    """What a view does to an array."""

    AS_STORED = "as-stored"
    RENAMED = "renamed"
    FRAMED = "framed-as-blosc"
    DECODED = "decoded"
    LEFT_OUT = "left-out"

    @property
    def words(self) -> str:
        """Say it in a sentence."""
        return self.replace("-", " ")


def how_shown(presentation: Presentation, number: int) -> Shown:
    """Return what becomes of the chunks of an array, and of the names of its codecs."""
    if not presentation.is_shown(number):
        return Shown.LEFT_OUT
    match presentation.form(number):
        case Framed():
            return Shown.FRAMED
        case Decoded():
            return Shown.DECODED
    stored, shown = presentation.stored(number), presentation.node(number)
    is_renamed = _DOCUMENT in shown.documents and _codecs(stored) != _codecs(shown)
    return Shown.RENAMED if is_renamed else Shown.AS_STORED


def _codecs(node: Node) -> object:
    try:
        found = json.loads(node.documents.get(_DOCUMENT, b""))
    except (ValueError, RecursionError):
        return None
    return found.get("codecs") if isinstance(found, dict) else None


def summary(shown: Iterable[Shown]) -> str:
    """Count what a view does to arrays: `3 as stored, 1 left out`."""
    counts = Counter(shown)
    return ", ".join(f"{counts[how]} {how.words}" for how in Shown if counts[how]) or "no arrays"
