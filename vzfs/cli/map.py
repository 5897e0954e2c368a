"""`vzfs map`: which chunks of an array in a mount are there, where their bytes lie, and what is cached."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console
from rich.text import Text

from vzfs.cli import blocks, pictures
from vzfs.cli.arraypath import MountedArray, open_array, present, state_of
from vzfs.cli.chunkmap import LOOKS, MISSING, ChunkMap, Ints, Sample, State, choose
from vzfs.cli.terminal import Bar, console, plain
from vzfs.errors import ConfigError, ErrorKind

MAX_ASKED: Final = 20_000
"""Chunks whose attributes are asked for, unless all are wanted: some seconds."""
ASKED_AT_ONCE: Final = 500
"""Chunks between two looks at the clock."""
JSON_CELLS: Final = 256
"""Cells along each axis of what is printed as JSON."""
KEY_LINES: Final = 14
"""Lines of a terminal that are not for cells."""
LEAST_LINES: Final = 12
USUAL_SIZE: Final = (80, 54)
"""Columns and lines where there is no terminal."""
PICTURES: Final = {".png": pictures.png, ".svg": pictures.svg}

type Key = Sequence[tuple[State | None, int]]
"""States and how many chunks are in each; None is what is missing."""


class _Numbers(click.ParamType[Any]):
    """Integers separated by commas; with *may_be_all*, `*` stands for None."""

    name = "numbers"

    def __init__(self, *, may_be_all: bool) -> None:
        self._may_be_all = may_be_all

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 -- click's signature
        """Parse *value*."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(self._number(text.strip()) for text in value.split(","))
        except ValueError:
            self.fail(f"{value!r} are not numbers separated by commas", param, ctx)

    def _number(self, text: str) -> int | None:
        if self._may_be_all and text == "*":
            return None
        if len(text) > 19 or not text.isascii() or not text.removeprefix("-").isdigit():
            raise ValueError(text)
        return int(text)


class _PictureFile(click.ParamType[Path]):
    """The name of a picture."""

    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:  # noqa: ANN401 -- click's signature
        """Parse *value*."""
        path = Path(value)
        if path.suffix.lower() not in PICTURES:
            self.fail(f"{value!r} is the name of neither a .png nor a .svg", param, ctx)
        return path


@click.command(short_help="Draw which chunks of an array in a mount are there.")
@click.argument("path", metavar="ARRAY")
@click.option(
    "--axes",
    type=_Numbers(may_be_all=False),
    metavar="I[,J]",
    help="Draw these axes, the first downwards (default: the last two with more than one chunk).",
)
@click.option(
    "--at",
    type=_Numbers(may_be_all=True),
    metavar="N,...",
    help="Draw the chunks at these places of the other axes, in their order; * is all of them "
    "together (default).",
)
@click.option(
    "--all",
    "wants_all",
    is_flag=True,
    help=f"Ask of every chunk what it is, and not of {MAX_ASKED} at most.",
)
@click.option(
    "-o",
    "--output",
    type=_PictureFile(),
    metavar="FILE.png|FILE.svg",
    help="Write a picture in the place of a drawing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def map(
    path: str,
    *,
    axes: tuple[int, ...] | None,
    at: tuple[int | None, ...] | None,
    wants_all: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw the chunk grid of the ARRAY in a mount: which chunks are there, and where their bytes lie.

    Chunks are inline, native or virtual, cached or not, stale, or missing. No chunk is read and no
    source is asked. Of a large grid a cell of the drawing stands for several chunks.
    """
    array = open_array(path)
    plane = choose(array.layout.grid, axes, at)
    out = console()
    paper = _paper(out)
    if output is not None:
        chunks = pictures.fit(plane, pictures.MAX_CELLS[output.suffix.lower()])
    elif as_json:
        chunks = pictures.fit(plane, JSON_CELLS)
    else:
        chunks = blocks.fit(plane, paper)
    asked = _survey(array, chunks, None if wants_all else MAX_ASKED)
    if output is not None:
        _write(output, array, chunks)
    if as_json:
        click.echo(json.dumps(_as_json(array, chunks, asked), indent=2))
        return
    for line in _heading(array, chunks):
        out.print(plain(line), highlight=False)
    if output is None:
        for drawn in blocks.draw(chunks, paper):
            out.print(drawn)
    for entry in _key_lines(chunks, paper):
        out.print(entry)
    if sum(chunks.sums().values()) > asked:
        out.print(f"{asked} chunks were asked what they are: --all asks every one", highlight=False)
    if output is not None:
        out.print(plain(f"written to {output}"), highlight=False)


def _paper(out: Console) -> blocks.Paper:
    width, height = shutil.get_terminal_size(USUAL_SIZE)
    has_colour = out.is_terminal and out.color_system is not None and not out.no_color
    lines = max(height - KEY_LINES, LEAST_LINES)
    return blocks.Paper(width, lines, has_colour, (out.encoding or "").startswith("utf"))


# -- finding out -------------------------------------------------------------------------------


def _survey(array: MountedArray, chunks: ChunkMap, limit: int | None) -> int:
    """Count what is there, and ask of at most *limit* chunks what they are; return of how many."""
    sample = None if limit is None else Sample(limit)
    asked = found = 0
    with Bar("looking for chunks") as bar:
        for flats in present(array, chunks.plane):
            chunks.add(flats)
            found += len(flats)
            if sample is not None:
                sample.add(flats)
                bar.show(found)
            else:
                asked += _ask(array, chunks, flats, bar, asked)
    if sample is None:
        return asked
    chosen = sample.chosen()
    with Bar("asking what they are") as bar:
        return _ask(array, chunks, chosen, bar, 0, len(chosen))


def _ask(
    array: MountedArray,
    chunks: ChunkMap,
    flats: Ints,
    bar: Bar,
    before: int,
    total: int | None = None,
) -> int:
    """Ask of chunks what they are, after *before* others, of *total*; return how many they are."""
    for begin in range(0, len(flats), ASKED_AT_ONCE):
        some = flats[begin : begin + ASKED_AT_ONCE]
        states = [state_of(array.key(flat)) for flat in some.tolist()]
        chunks.tell(some, np.array(states, np.int64))
        bar.show(before + begin + len(some), total)
    return len(flats)


# -- showing -----------------------------------------------------------------------------------


def _heading(array: MountedArray, chunks: ChunkMap) -> Iterator[str]:
    plane = chunks.plane
    what = "shards" if array.layout.shard_index else "chunks"
    counts = " x ".join(str(count) for count in plane.grid.shape) or "1"
    yield f"{array.path}  {array.dtype} {array.shape}, {counts} {what}".replace("  ,", ",")
    said = [
        f"{_axis(array, axis)} {way}"
        for axis, way in zip(plane.axes, ("down", "across")[-len(plane.axes) :], strict=False)
    ]
    said += [
        f"{_axis(array, axis)} at {place}"
        for axis, place in enumerate(plane.at)
        if place is not None
    ]
    said += [f"all {plane.grid.shape[axis]} of {_axis(array, axis)}" for axis in plane.summed]
    if said:
        yield ", ".join(said)
    if chunks.per_cell > 1:
        yield f"each cell stands for up to {chunks.per_cell} {what} and shows how many are there"


def _axis(array: MountedArray, axis: int) -> str:
    name = array.names[axis] if array.names else ""
    return f"axis {axis} ({name})" if name else f"axis {axis}"


def _key(chunks: ChunkMap) -> Key:
    """Return the states that there are, and what is missing."""
    found = [(state, count) for state, count in chunks.sums().items() if count]
    return [*sorted(found, reverse=True), (None, chunks.missing)]


def _key_lines(chunks: ChunkMap, paper: blocks.Paper) -> Iterator[Text]:
    key = _key(chunks)
    widest = max(len(str(count)) for _, count in key)
    for state, count in key:
        words = MISSING.words if state is None else LOOKS[state].words
        yield Text.assemble(
            blocks.missing(paper) if state is None else blocks.one(state, paper),
            f" {count:>{widest}} {words}",
        )


def _write(output: Path, array: MountedArray, chunks: ChunkMap) -> None:
    key = [
        (pictures.NOTHING, f"{count} {MISSING.words}")
        if state is None
        else (LOOKS[state].colour, f"{count} {LOOKS[state].words}")
        for state, count in _key(chunks)
    ]
    title = "; ".join(_heading(array, chunks))
    data = PICTURES[output.suffix.lower()](pictures.paint(chunks), title, key)
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the picture cannot be written: {error.strerror}",
            where=str(output),
            advice="name a file elsewhere",
        ) from None


def _as_json(array: MountedArray, chunks: ChunkMap, asked: int) -> dict[str, Any]:
    plane, sums = chunks.plane, chunks.sums()
    return {
        "path": array.path,
        "grid": list(plane.grid.shape),
        "axes": list(plane.axes),
        "at": list(plane.at),
        "chunks": plane.size,
        "present": sum(sums.values()),
        "missing": chunks.missing,
        "asked": asked,
        "states": {state.name.lower(): count for state, count in sums.items()},
        "cell": {"down": chunks.down, "across": chunks.across, "deep": plane.depth},
        "cells": {
            "chunks": chunks.totals.tolist(),
            "present": chunks.present.tolist(),
            **{state.name.lower(): chunks.counts[state].tolist() for state in State if sums[state]},
        },
    }
