"""What was found out of something that may change, for some seconds."""

from typing import Final

import trio

from vzfs.errors import VzfsError

FRESH: Final = 5.0
"""Seconds for which a ref that was looked up is not looked up again."""
RETRY_AFTER: Final = 5.0
"""Seconds for which what could not be opened or listed is not tried again."""


class Known[T]:
    """What was found out of something that may change, or why not, and since when."""

    __slots__ = ("at", "error", "value")

    def __init__(self, value: T | None, error: VzfsError | None = None) -> None:
        self.value = value
        self.error = error
        self.at = trio.current_time()

    @property
    def is_fresh(self) -> bool:
        """Whether it counts still."""
        lasts = FRESH if self.error is None else RETRY_AFTER
        return trio.current_time() < self.at + lasts
