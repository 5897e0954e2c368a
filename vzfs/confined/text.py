"""What a confined process says, for people: short, and nothing but text."""

from typing import Final

MAX_TEXT: Final = 300
"""Characters of a reason."""


def one_line(text: str) -> str:
    """Return *text*, shortened, with nothing in it that a terminal or a log takes for more than text."""
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
    return "".join(c if c.isprintable() else " " for c in cut).strip()
