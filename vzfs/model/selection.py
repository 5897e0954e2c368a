"""Which objects a source names, where it names more than a place: a pattern below it, or a list. Pure."""

import dataclasses
import re
from typing import Final

from vzfs.model.location import Location

MAX_FILES: Final = 100_000
"""Files of one mount: more are for `vzfs ingest`."""
_SPECIAL = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The objects that a source names, and how they become one hierarchy.

    *pattern* is relative to the place of the source, "" if the place itself is meant. *files* were
    named one by one. *concat* is the dimension along which they are joined, None if each becomes a
    group.
    """

    pattern: str = ""
    files: tuple[Location, ...] = ()
    concat: str | None = None


def is_pattern(text: str) -> bool:
    """Whether *text* has a character that stands for others."""
    return _SPECIAL.search(text) is not None


def split_pattern(text: str) -> tuple[str, str]:
    """Return the part of a path up to the last slash before any such character, and the rest."""
    found = _SPECIAL.search(text)
    at = len(text) if found is None else text.rfind("/", 0, found.start()) + 1
    return text[:at], text[at:]


def is_deep(pattern: str) -> bool:
    """Whether *pattern* can be met below the first level."""
    return "/" in pattern or "**" in pattern


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return what the keys that *pattern* means match.

    `*` stands for any characters but slashes, `**/` for any folders, `?` for one character and
    `[...]` for one of some. A name that begins with a dot is met only by a pattern that does.
    """
    parts = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        is_first = at == 0 or pattern[at - 1] == "/"
        hidden = r"(?!\.)" if is_first else ""
        if pattern.startswith("**/", at) and is_first:
            parts.append(r"(?:(?!\.)[^/]+/)*")
            at += 3
            continue
        at += 1
        if letter == "*":
            while pattern.startswith("*", at):
                at += 1
            parts.append(hidden + "[^/]*")
        elif letter == "?":
            parts.append(hidden + "[^/]")
        elif letter == "[" and (end := pattern.find("]", at + 1)) > 0:
            inside, at = pattern[at:end], end + 1
            negated = inside.startswith(("!", "^"))
            kept = re.sub(r"([\\\]\[&~|^])", r"\\\1", inside[1:] if negated else inside)
            parts.append(f"{hidden}(?!/)[{'^' if negated else ''}{kept}]")
        else:
            parts.append(re.escape(letter))
    return re.compile("".join(parts) + r"\Z", re.DOTALL)
