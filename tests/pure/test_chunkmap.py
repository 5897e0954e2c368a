"""Chunk maps: which chunks are drawn, how they are counted, and how they are drawn."""

import struct
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import Color, ColorSystem

from vzfs.cli import blocks, pictures
from vzfs.cli.blocks import Paper
from vzfs.cli.chunkmap import LOOKS, ChunkMap, Plane, Sample, State, choose
from vzfs.cli.lettering import HIGH, WIDE, write
from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.chunkgrid import ChunkGrid

PLAIN = Paper(80, 40, has_colour=False, has_unicode=True)
ASCII = PLAIN._replace(has_unicode=False)
COLOURED = PLAIN._replace(has_colour=True)


def flats(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def filled(
    shape: Sequence[int],
    states: dict[int, State],
    paper: Paper = PLAIN,
    axes: Sequence[int] | None = None,
    at: Sequence[int | None] | None = None,
) -> ChunkMap:
    """Map the chunks of a grid that are there, by their flat indices."""
    chunks = blocks.fit(choose(ChunkGrid(tuple(shape)), axes, at), paper)
    chunks.add(flats(*states))
    told = {flat: state for flat, state in states.items() if state is not State.UNASKED}
    chunks.tell(flats(*told), flats(*told.values()))
    return chunks


def drawn(chunks: ChunkMap, paper: Paper = PLAIN) -> list[str]:
    return [line.plain for line in blocks.draw(chunks, paper)]


# -- which chunks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes", "at", "expected"),
    [
        ((), None, None, ((), (), (1, 1), 1)),
        ((5,), None, None, ((0,), (None,), (1, 5), 1)),
        ((3, 4), None, None, ((0, 1), (None, None), (3, 4), 1)),
        ((2, 3, 4), None, None, ((1, 2), (None,) * 3, (3, 4), 2)),
        ((9, 1, 1), None, None, ((0,), (None,) * 3, (1, 9), 1)),
        ((9, 1, 4), None, None, ((0, 2), (None,) * 3, (9, 4), 1)),
        ((1, 1, 1), None, None, ((1, 2), (None,) * 3, (1, 1), 1)),
        ((2, 3, 4), None, (1,), ((1, 2), (1, None, None), (3, 4), 1)),
        ((2, 3, 4), None, (1, 0), ((2,), (1, 0, None), (1, 4), 1)),
        ((2, 3, 4), (0, 2), None, ((0, 2), (None,) * 3, (2, 4), 3)),
        ((2, 3, 4), (2, 0), (1,), ((2, 0), (None, 1, None), (4, 2), 1)),
        ((2, 3, 4), (-1,), (None, 2), ((2,), (None, 2, None), (1, 4), 2)),
        ((0, 3), None, None, ((1,), (None, None), (1, 3), 0)),
    ],
)
def test_a_plane_is_chosen(
    shape: tuple[int, ...],
    axes: tuple[int, ...] | None,
    at: tuple[int | None, ...] | None,
    expected: tuple[object, ...],
) -> None:
    """The last two axes with several chunks are drawn, or those that are named; others at one place, or all together."""
    plane = choose(ChunkGrid(shape), axes, at)
    assert (plane.axes, plane.at, plane.extents, plane.depth) == expected
    assert plane.size == np.prod(plane.extents) * plane.depth


@pytest.mark.parametrize(
    ("axes", "at", "message"),
    [
        ((0, 0), None, "different axes"),
        ((0, 1, 2), None, "different axes"),
        ((3,), None, "different axes of 3"),
        ((-4,), None, "different axes"),
        (None, (), "--at names 0 places"),
        (None, (1, 1, 1, 1), "--at names 4 places"),
        ((0,), (1,), "--at names one place, and 2 axes"),
        (None, (2,), "no chunk 2 along axis 0"),
        (None, (-1,), "no chunk -1 along axis 0"),
    ],
)
def test_a_wrong_plane_is_named(
    axes: tuple[int, ...] | None, at: tuple[int | None, ...] | None, message: str
) -> None:
    """Axes and places that the grid does not have are wrong usage."""
    with pytest.raises(ConfigError, match=message) as caught:
        choose(ChunkGrid((2, 3, 4)), axes, at)
    assert caught.value.kind is ErrorKind.BAD_USAGE
    assert caught.value.advice


GRIDS = st.lists(st.integers(1, 40), max_size=4).map(tuple)


@given(GRIDS, st.data())
def test_every_chunk_is_counted_once_in_its_cell(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    """Cells cover the plane: their chunks add up to it, each chunk is in the one of its place, and none is lost."""
    grid = ChunkGrid(shape)
    plane = choose(grid, None, None)
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    chunks = ChunkMap.fit(plane, rows, columns)
    chosen = data.draw(st.sets(st.integers(0, grid.size - 1), max_size=20))
    chunks.add(flats(*chosen))
    expected = np.zeros_like(chunks.present)
    for flat in chosen:
        coords = grid.unravel(flat)
        down, across = [0, 0, *(coords[axis] for axis in plane.axes)][-2:]
        expected[down // chunks.down, across // chunks.across] += 1
    assert (chunks.present == expected).all()
    assert chunks.present.shape[0] <= rows
    assert chunks.present.shape[1] <= columns
    assert chunks.totals.shape == chunks.present.shape
    assert chunks.totals.sum() == grid.size
    assert (chunks.present <= chunks.totals).all()
    assert chunks.missing == grid.size - len(chosen)


def test_memory_is_that_of_the_drawing() -> None:
    """A grid of as many chunks as 63 bits count has no more cells than were asked for."""
    chunks = ChunkMap.fit(choose(ChunkGrid((2**31, 2**31)), None, None), 20, 70)
    chunks.add(flats(0, 2**62 - 1))
    assert chunks.counts.shape[1] <= 20
    assert chunks.counts.shape[2] <= 70
    assert (chunks.present[0, 0], chunks.present[-1, -1]) == (1, 1)
    assert chunks.missing == 2**62 - 2


def test_a_cell_shows_what_most_of_it_is_and_stale_before_all() -> None:
    """What most chunks that were asked are is shown, one stale one before any number, and the rest only if nothing else is known."""
    states = [State.VIRTUAL] * 2 + [State.NATIVE] + [State.UNASKED] * 3
    states += [State.VIRTUAL] * 5 + [State.STALE] + [State.UNASKED] * 6
    chunks = ChunkMap.fit(choose(ChunkGrid((18,)), None, None), 1, 3)
    known = [(flat, state) for flat, state in enumerate(states) if state is not State.UNASKED]
    chunks.add(flats(*range(18)))
    chunks.tell(flats(*(flat for flat, _ in known)), flats(*(state for _, state in known)))
    assert chunks.dominant.tolist() == [[State.VIRTUAL, State.STALE, State.UNASKED]]
    assert chunks.sums()[State.VIRTUAL] == 7
    assert sum(chunks.sums().values()) == 18


@given(st.sets(st.integers(0, 2**63 - 1), max_size=60), st.integers(1, 20), st.randoms())
def test_a_sample_is_the_same_in_any_order(chosen: set[int], limit: int, random: object) -> None:
    """At most so many are chosen, all if there are no more, and the same ones however they come."""
    first, second = Sample(limit), Sample(limit)
    mixed = sorted(chosen)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    first.add(flats(*sorted(chosen)))
    for begin in range(0, len(mixed), 7):
        second.add(flats(*mixed[begin : begin + 7]))
    assert first.chosen().tolist() == second.chosen().tolist()
    assert len(first.chosen()) == min(limit, len(chosen))
    assert set(first.chosen().tolist()) <= chosen


def test_a_sample_is_not_in_step_with_the_grid() -> None:
    """Of a million chunks in rows of 64, each row of a hundredth and each column has its share of the sample."""
    sample = Sample(20_000)
    for begin in range(0, 2**20, 2**16):
        sample.add(np.arange(begin, begin + 2**16))
    chosen = sample.chosen()
    assert len(chosen) == 20_000
    for shares in (np.bincount(chosen % 64), np.bincount(chosen // 2**13)):
        assert shares.min() > 0.6 * shares.mean()
        assert shares.max() < 1.4 * shares.mean()


# -- in a terminal -----------------------------------------------------------------------------


def test_one_chunk_is_one_letter_without_colours() -> None:
    """Two axes are drawn as they are, with numbers before the rows and above the columns."""
    states = dict(enumerate([*State, *State]))
    del states[9]
    chunks = filled((2, 7), states)
    assert drawn(chunks) == [
        "   0 1 2 3 4 5 6",
        "0  ? i n N v V !",
        "1  ? i \N{MIDDLE DOT} N v V !",
    ]
    assert drawn(chunks, ASCII)[2] == "1  ? i . N v V !"


def test_one_chunk_is_a_block_in_its_colour() -> None:
    """On a terminal a chunk is a block in the colour of its state, and nothing else is coloured."""
    chunks = filled((1, 3), {0: State.VIRTUAL, 2: State.STALE}, COLOURED, axes=(0, 1))
    _, line = blocks.draw(chunks, COLOURED)
    assert line.plain == "0  ██\N{MIDDLE DOT} ██"
    colours = {
        line.plain[span.start : span.end]: str(span.style)
        for span in line.spans
        if "#" in str(span.style)
    }
    assert colours == {"█": "#{:02x}{:02x}{:02x}".format(*LOOKS[State.STALE].colour)}
    assert len({look.colour for look in LOOKS.values()}) == len(State)
    assert len({look.letter for look in LOOKS.values()}) == len(State)


@pytest.mark.parametrize("system", [ColorSystem.STANDARD, ColorSystem.EIGHT_BIT])
def test_colours_differ_on_every_terminal(system: ColorSystem) -> None:
    """On a terminal of sixteen colours too each state has one of its own."""
    colours = [Color.from_rgb(*look.colour).downgrade(system).number for look in LOOKS.values()]
    assert len(set(colours)) == len(State)


def test_one_axis_is_wrapped_into_rows_of_tens() -> None:
    """What has one axis goes on in the next row, which begins with the number of its first chunk."""
    paper = PLAIN._replace(width=26)
    chunks = filled((45,), dict.fromkeys(range(45), State.NATIVE), paper)
    assert drawn(chunks, paper) == [f" 0  {'n' * 20}", f"20  {'n' * 20}", f"40  {'n' * 5}"]


def test_a_cell_of_several_chunks_is_as_high_as_many_of_them_are_there() -> None:
    """A cell is full only if nothing is missing, empty only if all is, and else as high as its share."""
    paper = PLAIN._replace(width=23, height=2)
    present = [*range(20), *range(20, 30), *range(40, 59), 60]
    chunks = filled((400,), dict.fromkeys(present, State.VIRTUAL), paper)
    assert chunks.across == 20
    assert drawn(chunks, paper) == [
        "  0  █▄▇▁" + "\N{MIDDLE DOT}" * 6,
        "200  " + "\N{MIDDLE DOT}" * 10,
    ]
    assert drawn(chunks, paper._replace(has_unicode=False))[0] == "  0  #471......"


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 3), (500, 700), (9, 30, 30), (100_000,)])
@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_drawing_fits_the_terminal(shape: tuple[int, ...], width: int) -> None:
    """No line is wider than the terminal, and there are no more than were asked for, but for the ruler."""
    paper = Paper(width, 15, has_colour=False, has_unicode=True)
    lines = drawn(filled(shape, {0: State.NATIVE}, paper), paper)
    assert max(map(len, lines)) <= width
    assert len(lines) <= paper.height + (len(shape) > 1)


def test_the_ruler_stands_above_its_cells() -> None:
    """Each number of the ruler begins above the cell whose first chunk it numbers."""
    chunks = filled((2, 300), {0: State.NATIVE})
    ruler, first, *_ = drawn(chunks)
    numbers = {ruler.index(f" {word}") + 1: int(word) for word in ruler.split()}
    assert len(numbers) > 3
    begin = len(first) - len(first.lstrip("0 "))
    for place, number in numbers.items():
        assert number == (place - begin) * chunks.across


def test_nothing_is_drawn_of_a_grid_without_chunks() -> None:
    """An array without elements has no cells; one without dimensions has one."""
    assert drawn(filled((0, 3), {})) == []
    assert drawn(filled((), {0: State.INLINE})) == ["i"]
    assert drawn(filled((), {})) == ["\N{MIDDLE DOT}"]


# -- as pictures -------------------------------------------------------------------------------


def decode_png(data: bytes) -> tuple[np.ndarray, dict[bytes, bytes]]:
    """Read a PNG without filters, by its specification."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, place + 8 + length)
        assert checksum == zlib.crc32(kind + content)
        found[kind] = content
        place += 12 + length
    assert next(iter(found)) == b"IHDR"
    assert list(found)[-1] == b"IEND"
    width, height, *rest = struct.unpack(">IIBBBBB", found[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3), found


def picture_of(shape: Sequence[int], states: dict[int, State], side: int = 64) -> pictures.Picture:
    chunks = pictures.fit(choose(ChunkGrid(tuple(shape)), None, None), side)
    chunks.add(flats(*states))
    chunks.tell(flats(*states), flats(*states.values()))
    return pictures.paint(chunks)


KEY = [((1, 2, 3), "4 virtual, cached")]


def test_a_png_has_every_cell_in_its_colour() -> None:
    """In the middle of each cell is the colour of its state, and below the cells are those of the key."""
    image, found = decode_png(
        pictures.png(picture_of((2, 3), {0: State.VIRTUAL, 5: State.STALE}), "A & b", KEY)
    )
    side, margin = pictures.MAX_PIXELS, pictures.MARGIN
    middles = image[margin + side // 2 :: side, margin + side // 2 :: side][:2, :3]
    expected = np.full((2, 3, 3), pictures.NOTHING)
    expected[0, 0], expected[1, 2] = LOOKS[State.VIRTUAL].colour, LOOKS[State.STALE].colour
    assert (middles == expected).all()
    assert (image[margin + 2 * side :] == KEY[0][0]).all(axis=2).any()
    assert found[b"iTXt"].endswith(b"A & b")


def test_a_cell_of_a_picture_fades_with_what_is_missing() -> None:
    """The fewer chunks of a cell are there the nearer it is to the colour of nothing; stale ones never fade."""
    present = dict.fromkeys((*range(25), 45), State.VIRTUAL) | {70: State.STALE}
    cells = picture_of((80,), present, side=2).cells.astype(int)
    distances = np.abs(cells.reshape(-1, 3) - pictures.NOTHING).sum(axis=1)
    assert len(distances) == 4
    assert distances[0] > distances[1] > distances[2] > 0
    assert cells.reshape(-1, 3)[3].tolist() == list(LOOKS[State.STALE].colour)


@pytest.mark.parametrize("shape", [(1,), (7,), (1000,), (1, 500), (500, 1), (300, 400), (0, 4), ()])
def test_pictures_have_a_size_to_look_at(shape: tuple[int, ...]) -> None:
    """Whatever the grid, a PNG decodes, an SVG parses, and neither is larger than a screen or a few MB."""
    for name, side in pictures.MAX_CELLS.items():
        picture = picture_of(shape, {}, side)
        if name == ".png":
            image, _ = decode_png(pictures.png(picture, "", KEY))
            assert max(image.shape[:2]) <= 1200
        else:
            data = pictures.svg(picture, "", KEY)
            assert len(data) < 4 * 2**20
            assert ET.fromstring(data).tag.endswith("svg")


def test_an_svg_has_every_cell_and_foreign_text_as_text() -> None:
    """An SVG is XML: cells are rectangles in their colours, and a title with markup and control characters is text."""
    title = 'x<script>"&\x1b[31m\udc80'
    data = pictures.svg(picture_of((2, 3), {0: State.VIRTUAL, 5: State.STALE}), title, KEY)
    root = ET.fromstring(data)
    space = "{http://www.w3.org/2000/svg}"
    cells = root.findall(f"{space}g/{space}rect")
    fills = [cell.get("fill") for cell in cells]
    assert len(fills) == 6
    assert fills[0] == "#{:02x}{:02x}{:02x}".format(*LOOKS[State.VIRTUAL].colour)
    assert fills[5] == "#{:02x}{:02x}{:02x}".format(*LOOKS[State.STALE].colour)
    text = root.findtext(f"{space}text")
    assert text == 'x<script>"&\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}'
    assert root.findall(f".//{space}script") == []
    assert KEY[0][1] in {found.text for found in root.iter(f"{space}text")}


def test_letters_are_written_in_pixels() -> None:
    """Each letter of a key has pixels of its own and a blank column behind it; what is unknown is blank."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    masks = {letter: write(letter, 1) for letter in letters}
    assert all(mask.shape == (HIGH, WIDE) and mask.any() for mask in masks.values())
    assert len({mask.tobytes() for mask in masks.values()}) == len(letters)
    assert (write("A", 1) == masks["a"]).all()
    assert not write("\x00é ", 2).any()
    line = write("i?i", 3)
    assert line.shape == (3 * HIGH, 3 * (3 * (WIDE + 1) - 1))
    assert (line[:, : 3 * WIDE] == line[:, -3 * WIDE :]).all()
    assert write("", 1).shape == (HIGH, 0)


def test_a_plane_says_what_is_drawn_together() -> None:
    """Axes with one chunk are not said to be summed up."""
    assert choose(ChunkGrid((5, 1, 3, 4)), None, None).summed == (0,)
    assert choose(ChunkGrid((5, 2, 3, 4)), (2, 3), (None, 1)).summed == (0,)
    assert Plane(ChunkGrid(()), (), ()).summed == ()
