"""A chunk map as a picture, PNG or SVG. Pure.

A cell is a rectangle in the colour of its state; where it stands for several chunks, the colour is the
fainter the fewer of them are there, but never that of a stale one.
"""

import html
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vzfs.cli.chunkmap import LOOKS, ChunkMap, Plane, State
from vzfs.cli.lettering import HIGH, write

type Pixels = npt.NDArray[np.uint8]
type Key = Sequence[tuple[tuple[int, int, int], str]]
"""Colours and what they say."""

MAX_CELLS: Final = {".png": 512, ".svg": 192}
"""Cells along each side of a picture: more cannot be told apart, or make a file of many MB."""
SHADES: Final = 16
"""Shares that are told apart."""
SIDE: Final = 960
"""Pixels that a side of all cells has at most."""
MAX_PIXELS: Final = 24
"""Pixels of a side of one cell."""
PAPER: Final = (255, 255, 255)
INK: Final = (40, 40, 40)
NOTHING: Final = (228, 228, 228)
"""The colour of what is missing, and of what the fewest that are there fade into."""
FAINTEST: Final = 0.25
"""How much of its colour a cell has in which nearly nothing is there."""
GRID_FROM: Final = 5
"""Pixels of a side of a cell from which on there is a line between two."""
MARGIN: Final = 12


class Picture(NamedTuple):
    """Cells to be painted: their colours, rows of columns of red, green, blue, and the pixels of each."""

    cells: Pixels
    down: int
    across: int

    @property
    def gap(self) -> int:
        """Pixels of paper between two cells."""
        return 1 if min(self.down, self.across) >= GRID_FROM else 0


def fit(plane: Plane, side: int) -> ChunkMap:
    """Return an empty map of *plane* with as many cells as a picture has that has *side* along each side."""
    if len(plane.axes) == 1:
        return ChunkMap.fit(plane, 1, side * side)
    return ChunkMap.fit(plane, side, side)


def paint(chunks: ChunkMap) -> Picture:
    """Give every cell its colour. What has one axis is cut into rows."""
    looks = np.array([LOOKS[state].colour for state in State], np.float64)
    totals = chunks.totals
    share = np.ceil(chunks.present / np.maximum(totals, 1) * SHADES) / SHADES
    strength = np.where(share > 0, FAINTEST + (1 - FAINTEST) * share, 0)
    strength[chunks.counts[State.STALE] > 0] = 1
    nothing = np.array(NOTHING, np.float64)
    mixed = nothing + (looks[chunks.dominant] - nothing) * strength[..., None]
    mixed[totals == 0] = PAPER
    cells: Pixels = np.rint(mixed).astype(np.uint8)
    if len(chunks.plane.axes) == 1:
        cells = _wrapped(cells)
    down, across = (min(max(SIDE // max(n, 1), 1), MAX_PIXELS) for n in cells.shape[:2])
    return Picture(cells, down, across)


def _wrapped(row: Pixels) -> Pixels:
    """Cut one row into several, twice as wide as high, and fill the last with paper."""
    count = row.shape[1]
    wide = max(math.ceil(math.sqrt(2 * count) / 10) * 10, 10)
    rows = max(-(-count // wide), 1)
    wide = min(wide, max(count, 1))
    cells = np.full((rows * wide, 3), PAPER, np.uint8)
    cells[:count] = row[0]
    return cells.reshape(rows, wide, 3)


# -- PNG ---------------------------------------------------------------------------------------

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_SCALE: Final = 2
"""How many times as large as they are drawn letters are written."""
_LINE: Final = (HIGH + 4) * _SCALE
_SWATCH: Final = HIGH * _SCALE


def png(picture: Picture, title: str, key: Key) -> bytes:
    """Write a picture as PNG with what the colours say below; *title* is in its metadata."""
    pixels = _pixels(picture)
    lines = [(colour, write(words, _SCALE)) for colour, words in key]
    widest = max((mask.shape[1] for _, mask in lines), default=0) + 2 * _SWATCH
    height = MARGIN + len(pixels) + MARGIN + len(lines) * _LINE + MARGIN
    width = max(pixels.shape[1], widest) + 2 * MARGIN
    image = np.full((height, width, 3), PAPER, np.uint8)
    image[MARGIN : MARGIN + len(pixels), MARGIN : MARGIN + pixels.shape[1]] = pixels
    for number, (colour, mask) in enumerate(lines):
        top = MARGIN + len(pixels) + MARGIN + number * _LINE
        image[top : top + _SWATCH, MARGIN : MARGIN + _SWATCH] = colour
        left = MARGIN + 2 * _SWATCH
        image[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = INK
    # Each row says first how it is filtered: not at all.
    rows = np.zeros((height, 1 + width * 3), np.uint8)
    rows[:, 1:] = image.reshape(height, width * 3)
    said = b"Title\0\0\0\0\0" + _printable(title).encode("utf-8", "replace")
    return b"".join(
        (
            _SIGNATURE,
            _block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _block(b"iTXt", said),
            _block(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _block(b"IEND", b""),
        )
    )


def _pixels(picture: Picture) -> Pixels:
    cells, down, across = picture
    pixels: Pixels = cells.repeat(down, axis=0).repeat(across, axis=1)
    if picture.gap:
        pixels[down - 1 :: down] = PAPER
        pixels[:, across - 1 :: across] = PAPER
    return pixels


def _block(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


# -- SVG ---------------------------------------------------------------------------------------

_SVG_LINE: Final = 18
_SVG_SWATCH: Final = 12
_SVG_LETTER: Final = 8
"""Pixels of a line, of a sample of a colour, and of the widest letters."""


def svg(picture: Picture, title: str, key: Key) -> bytes:
    """Write a picture as SVG with *title* above it and what the colours say below."""
    cells, down, across = picture
    rows, columns = cells.shape[:2]
    longest = max(len(title), *(len(words) + 3 for _, words in key), 0)
    width = max(columns * across, longest * _SVG_LETTER) + 2 * MARGIN
    top = MARGIN + _SVG_LINE
    below = top + rows * down + MARGIN
    height = below + _SVG_LINE * len(key) + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f"<title>{_escaped(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{_hex(PAPER)}"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 6}">{_escaped(title)}</text>',
        f'<g transform="translate({MARGIN} {top})" shape-rendering="crispEdges">',
    ]
    for number, row in enumerate(cells):
        for begin, end in _runs(row, are_apart=picture.gap > 0):
            out.append(
                f'<rect x="{begin * across}" y="{number * down}" '
                f'width="{(end - begin) * across - picture.gap}" height="{down - picture.gap}" '
                f'fill="{_hex(row[begin].tolist())}"/>'
            )
    out.append("</g>")
    for number, (colour, words) in enumerate(key):
        y = below + number * _SVG_LINE
        out.append(
            f'<rect x="{MARGIN}" y="{y}" width="{_SVG_SWATCH}" height="{_SVG_SWATCH}" '
            f'fill="{_hex(colour)}"/>'
            f'<text x="{MARGIN + 20}" y="{y + 10}">{_escaped(words)}</text>'
        )
    out.append("</svg>\n")
    return "\n".join(out).encode("utf-8")


def _runs(row: Pixels, *, are_apart: bool) -> list[tuple[int, int]]:
    """Return the half-open ranges of cells of one colour, or one by one if they *are_apart*; none of paper."""
    is_new = np.ones(len(row), bool)
    if not are_apart:
        is_new[1:] = (row[1:] != row[:-1]).any(axis=1)
    begins = np.flatnonzero(is_new).tolist()
    runs = zip(begins, [*begins[1:], len(row)], strict=True)
    return [(begin, end) for begin, end in runs if tuple(row[begin].tolist()) != PAPER]


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _escaped(text: str) -> str:
    return html.escape(_printable(text))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
