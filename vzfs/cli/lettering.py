"""A few letters in pixels, for what is written into a PNG. Pure.

There are small letters, digits, commas and full stops: what the words of a key need. Capitals are
written small, and anything else leaves a blank.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

type Mask = npt.NDArray[np.bool_]

WIDE: Final = 5
HIGH: Final = 7
"""Pixels of a letter, before it is enlarged."""

_LETTERS: Final = (
    ("abcdefghijklm", """
..... #.... ..... ....# ..... ..##. ..... #.... ..#.. ...#. #.... .##.. .....
..... #.... ..... ....# ..... .#... .#### #.... ..... ..... #..#. ..#.. .....
.###. ####. .#### .#### .###. ####. #...# ####. .##.. ..##. #.#.. ..#.. ##.#.
....# #...# #.... #...# #...# .#... #...# #...# ..#.. ...#. ##... ..#.. #.#.#
.#### #...# #.... #...# ##### .#... .#### #...# ..#.. ...#. #.#.. ..#.. #.#.#
#...# #...# #.... #...# #.... .#... ....# #...# ..#.. #..#. #..#. ..#.. #.#.#
.#### ####. .#### .#### .###. .#... .###. #...# .###. .##.. #...# .###. #.#.#
"""),
    ("nopqrstuvwxyz", """
..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... .....
..... ..... ####. .#### ..... ..... .#... ..... ..... ..... ..... #...# .....
####. .###. #...# #...# #.##. .#### ####. #...# #...# #.#.# #...# #...# #####
#...# #...# #...# #...# ##... #.... .#... #...# #...# #.#.# .#.#. .#### ...#.
#...# #...# ####. .#### #.... .###. .#... #...# #...# #.#.# ..#.. ....# ..#..
#...# #...# #.... ....# #.... ....# .#... #...# .#.#. #.#.# .#.#. #...# .#...
#...# .###. #.... ....# #.... ####. ..##. .#### ..#.. .#.#. #...# .###. #####
"""),
    ("0123456789,.", """
.###. ..#.. .###. .###. ...#. ##### .###. ##### .###. .###. ..... .....
#...# .##.. #...# #...# ..##. #.... #.... ....# #...# #...# ..... .....
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...# ..... .....
#.#.# ..#.. ..##. ..##. #..#. ....# ####. ..#.. .###. .#### ..... .....
##..# ..#.. .#... ....# ##### ....# #...# .#... #...# ....# ..... .....
#...# ..#.. #.... #...# ...#. #...# #...# .#... #...# ....# ..#.. .....
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .###. .#... ..#..
"""),
)  # fmt: skip
"""Letters side by side, each as wide as `WIDE`, with a column between two."""


def write(text: str, scale: int) -> Mask:
    """Return the pixels of one line, each *scale* times as large."""
    mask = np.zeros((HIGH, max(len(text) * (WIDE + 1) - 1, 0)), bool)
    for number, character in enumerate(text.lower()):
        if character in _MASKS:
            begin = number * (WIDE + 1)
            mask[:, begin : begin + WIDE] = _MASKS[character]
    enlarged: Mask = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    return enlarged


def _masks() -> dict[str, Mask]:
    found = {}
    for letters, drawing in _LETTERS:
        rows = np.array([list(row) for row in drawing.split("\n")[1:-1]]) == "#"
        for number, letter in enumerate(letters):
            begin = number * (WIDE + 1)
            found[letter] = rows[:, begin : begin + WIDE]
    return found


_MASKS: Final = _masks()
