"""What a person at a terminal sees: whole lines, tables, and that something takes its time."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def waiting(message: str) -> AbstractContextManager[object]:
    """Show *message* while a terminal waits; nothing where there is none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(message)


def console() -> "Console":
    """Return what prints tables to a terminal's width, and whole lines to anything else."""
    from rich.console import Console

    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 4096)


def plain(text: str) -> str:
    """Return foreign *text* without control characters and with rich's markup escaped."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))
