"""What a person at a terminal sees while something takes its time."""

import sys
from contextlib import AbstractContextManager, nullcontext


def waiting(message: str) -> AbstractContextManager[object]:
    """Show *message* while a terminal waits; nothing where there is none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(message)
