"""Which views there are, and how they are named."""

import enum
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Self


class ViewName(enum.StrEnum):
    """What is done to the chunks, and to the words that describe them."""

    STORED = "stored"
    """Nothing."""
    PORTABLE = "portable"
    """Codecs in the core vocabulary of Zarr v3, as far as that needs no decompression."""
    DECODED = "decoded"
    """Chunks are plain little-endian bytes in C order."""


class View(NamedTuple):
    """A way to show a snapshot: *consolidated* metadata are left out if it is False.

    The stored view in Zarr v3 shows documents byte for byte, so *consolidated* has no effect there.
    """

    name: ViewName = ViewName.STORED
    zarr_format: Literal[2, 3] = 3
    consolidated: bool = True

    def __str__(self) -> str:
        """Name it as a path does: `portable-v3`."""
        return f"{self.name}-v{self.zarr_format}"

    @property
    def is_verbatim(self) -> bool:
        """Whether everything is shown as the repository has it."""
        return self.name is ViewName.STORED and self.zarr_format == 3

    @classmethod
    def parse(cls, text: str, *, consolidated: bool = True) -> Self:
        """Return the view that *text* names. Raises ValueError, whose message lists the names."""
        for view in ALL:
            if str(view) == text:
                return cls(view.name, view.zarr_format, consolidated)
        raise ValueError(f"{text!r} is no view: there are {', '.join(map(str, ALL))}")


_FORMATS: Final[tuple[Literal[3], Literal[2]]] = (3, 2)

ALL: Final[Sequence[View]] = tuple(View(name, number) for number in _FORMATS for name in ViewName)
