"""A chunk map in the characters of a terminal. Pure.

Where a cell is one chunk it is a block in the colour of its state, or without colours a letter.
Where it stands for several, its height is the share of them that is there.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from rich.style import Style
from rich.text import Text

from vzfs.cli.chunkmap import LOOKS, MISSING, ChunkMap, Plane, State

FULL: Final = "\N{FULL BLOCK}"
HEIGHTS: Final = (
    "\N{LOWER ONE EIGHTH BLOCK}\N{LOWER ONE QUARTER BLOCK}\N{LOWER THREE EIGHTHS BLOCK}"
    "\N{LOWER HALF BLOCK}\N{LOWER FIVE EIGHTHS BLOCK}\N{LOWER THREE QUARTERS BLOCK}"
    "\N{LOWER SEVEN EIGHTHS BLOCK}" + FULL
)
DIGITS: Final = "1234567#"
"""The heights where there is nothing but ASCII: eighths, and all of it."""
GAP: Final = 2
"""Columns between the numbers of the rows and the cells."""
LEAST: Final = 10
"""Cells across, however narrow the terminal says it is."""


class Paper(NamedTuple):
    """What is drawn on: *width* columns and *height* lines for the cells, and what it can show."""

    width: int
    height: int
    has_colour: bool
    has_unicode: bool


def fit(plane: Plane, paper: Paper) -> ChunkMap:
    """Return an empty map of *plane* that has as many cells as go on *paper*."""
    columns = _columns(plane, paper)
    if len(plane.axes) == 1:
        return ChunkMap.fit(plane, 1, _wrap(columns) * paper.height)
    return ChunkMap.fit(plane, paper.height, columns)


def _columns(plane: Plane, paper: Paper) -> int:
    return max(paper.width - _margin(plane), LEAST)


def _wrap(columns: int) -> int:
    """Return how many cells of one axis a row has: tens, so that a chunk is found by counting."""
    return columns // 10 * 10


def _margin(plane: Plane) -> int:
    """Return how many columns the numbers of the rows take."""
    if not plane.axes:
        return 0
    down, across = plane.extents
    last = (across if len(plane.axes) == 1 else down) - 1
    return len(str(max(last, 0))) + GAP


def draw(chunks: ChunkMap, paper: Paper) -> Iterator[Text]:
    """Yield the lines of a drawing: a ruler where there are two axes, and the cells behind their numbers."""
    plane = chunks.plane
    if not plane.size:
        return
    margin, columns = _margin(plane), _columns(plane, paper)
    cells = _cells(chunks, paper)
    if len(plane.axes) == 1:
        (row,) = cells
        wrap = _wrap(columns)
        for begin in range(0, len(row), wrap):
            yield _numbered(begin * chunks.across, margin, row[begin : begin + wrap])
        return
    width = 2 if chunks.counts.shape[2] * 2 <= columns else 1
    if len(plane.axes) == 2:
        yield Text(" " * margin + _ruler(chunks, width).rstrip(), style="dim")
    for number, row in enumerate(cells):
        yield _numbered(number * chunks.down, margin, row, width)


def _numbered(number: int, margin: int, cells: list[Text], width: int = 1) -> Text:
    label = f"{number:>{margin - GAP}}".ljust(margin) if margin else ""
    line = Text.assemble((label, "dim"))
    for cell in cells:
        is_solid = cell.plain in HEIGHTS
        second = cell if is_solid else Text(" ")
        line.append_text(cell)
        if width == 2:
            line.append_text(second)
    line.rstrip()
    return line


def _ruler(chunks: ChunkMap, width: int) -> str:
    """Return numbers of chunks above their cells, as many as do not touch."""
    cells, across = chunks.counts.shape[2], chunks.across
    widest = len(str((cells - 1) * across)) + 1 if cells else 1
    step = next(s for s in _steps() if s * width >= widest)
    return "".join(f"{n * across:<{step * width}}" for n in range(0, cells, step))


def _steps() -> Iterator[int]:
    """Yield 1, 2, 5, 10, 20, 50 and so on."""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _cells(chunks: ChunkMap, paper: Paper) -> list[list[Text]]:
    is_one = chunks.per_cell == 1
    totals, present, dominant = chunks.totals, chunks.present, chunks.dominant
    return [
        [
            _cell(int(here), int(total), State(int(state)), paper, is_one=is_one)
            for here, total, state in zip(*row, strict=True)
        ]
        for row in zip(present.tolist(), totals.tolist(), dominant.tolist(), strict=True)
    ]


def _cell(here: int, total: int, state: State, paper: Paper, *, is_one: bool) -> Text:
    """Draw a cell of which *here* of *total* chunks are there."""
    if not here:
        return missing(paper)
    if is_one:
        return one(state, paper)
    # Full is all of them and nothing less, and one chunk can be seen.
    eighths = 8 if here == total else min(max(math.floor(here / total * 8), 1), 7)
    heights = HEIGHTS if paper.has_unicode else DIGITS
    return Text(heights[eighths - 1], style=_style(state, paper))


def one(state: State, paper: Paper) -> Text:
    """Draw one chunk that is there."""
    if paper.has_colour and paper.has_unicode:
        return Text(FULL, style=_style(state, paper))
    return Text(LOOKS[state].letter, style=_style(state, paper))


def missing(paper: Paper) -> Text:
    """Draw what is not there."""
    letter = MISSING.letter if paper.has_unicode else "."
    return Text(letter, style="dim" if paper.has_colour else "")


def _style(state: State, paper: Paper) -> Style:
    if not paper.has_colour:
        return Style.null()
    return Style(color="#{:02x}{:02x}{:02x}".format(*LOOKS[state].colour))
