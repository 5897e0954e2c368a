"""`vzfs export`: the references of a snapshot as a file that kerchunk's readers take."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import click
import trio

from vzfs.cli.exits import PARTLY_EXPORTED
from vzfs.cli.options import access_options, configuration, ref_options, store_options
from vzfs.cli.terminal import Bar, console, plain, waiting
from vzfs.config import Config
from vzfs.errors import ConfigError, ErrorKind
from vzfs.exporting import Advance, Export, gather, write_json, write_parquet
from vzfs.model.manifest import ChunkKind
from vzfs.mount import Opened, open_source

SILENCE: Final = 10.0
"""Seconds between two lines where there is no terminal."""
UNCHECKED: Final = (
    "kerchunk has no words for checksums: its readers do not notice that a source has changed"
)

_PARQUET: Final = frozenset({".parq", ".parquet"})


@click.command(short_help="Write references for kerchunk's readers.")
@click.argument("source")
@click.option(
    "--to",
    "destination",
    metavar="FILE.json|FOLDER.parq",
    required=True,
    help="Write JSON of version 1, or a folder of Parquet files, as the name ends.",
)
@click.option("--force", is_flag=True, help="Replace references that are there.")
@ref_options
@access_options
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def export(source: str, *, destination: str, force: bool, as_json: bool, **given: Any) -> None:  # noqa: ANN401 -- options
    """Write the references of SOURCE, whatever it is, so that fsspec, xarray and others read it without vzfs.

    No chunk is read. Documents are those of Zarr v2; chunks lie where --map says, and those that a
    repository itself has are named by their files. An array that cannot be said so is left out
    whole, and named with the reason. Exits with 0 if all is written, and with 13 if something had to
    be left out.
    """
    path, is_parquet = _destination(destination)
    config = configuration(source, given)
    with _Progress("reading references") as progress:
        opened, found = trio.run(_gather, config, is_parquet, progress.advance)
    if found.left_out and not found.arrays:
        first = found.left_out[0]
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"no array can be written as references: {first.path}: {first.reason}",
            where=source,
        )
    put = write_parquet if is_parquet else write_json
    with _Progress("writing references") as progress:
        put(found, path, progress.advance, replace=force)
    if as_json:
        click.echo(json.dumps(_as_json(opened, found, path), indent=2))
    else:
        _print(found, path)
    sys.exit(PARTLY_EXPORTED if found.left_out else 0)


def _destination(text: str) -> tuple[Path, bool]:
    """Return where to write, and whether as Parquet. Raises ConfigError."""
    path = Path(text)
    if "://" in text or path.suffix.lower() not in {".json", *_PARQUET}:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "it is not known what to write there",
            where=text,
            advice="name a local file that ends in .json, or a folder that ends in .parq",
        )
    return path, path.suffix.lower() in _PARQUET


async def _gather(config: Config, is_parquet: bool, advance: Advance) -> tuple[Opened, Export]:
    with waiting(f"opening {config.source}"):
        opened = await open_source(config)
    found = await gather(opened.checkout, opened.access, is_parquet=is_parquet, advance=advance)
    return opened, found


class _Progress(Bar):
    """A bar on a terminal, and a line now and then where there is none."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self._line = words
        self._said = time.monotonic()

    def advance(self, done: int, total: int) -> None:
        """Say that so many of so many are done."""
        self.show(done, total)
        if not sys.stderr.isatty() and time.monotonic() >= self._said + SILENCE:
            self._said = time.monotonic()
            click.echo(f"{self._line}: {done} of {total}", err=True)


# -- what was written ------------------------------------------------------------------------------


def _as_json(opened: Opened, found: Export, path: Path) -> dict[str, Any]:
    return {
        "repository": str(opened.access.repository),
        "snapshot": opened.checkout.snapshot.id,
        "written": str(path),
        "format": "kerchunk-parquet" if found.is_parquet else "kerchunk-json",
        "arrays": ["/" + array.path.removesuffix("/") for array in found.arrays],
        "chunks": {kind.name.lower(): found.chunks.get(kind, 0) for kind in ChunkKind},
        "left_out": [{"path": left.path, "reason": left.reason} for left in found.left_out],
        "notes": _notes(found),
    }


def _notes(found: Export) -> list[str]:
    return [UNCHECKED] if found.has_checksums else []


def _print(found: Export, path: Path) -> None:
    out = console()
    counts = [f"{n} {kind.name.lower()}" for kind in ChunkKind if (n := found.chunks.get(kind, 0))]
    arrays = f"{len(found.arrays)} array{'' if len(found.arrays) == 1 else 's'}"
    out.print(plain(f"{path}: {arrays}, chunks: {', '.join(counts) or 'none'}"), highlight=False)
    for left in found.left_out:
        out.print(plain(f"left out: {left.path}: {left.reason}"), highlight=False)
    for note in _notes(found):
        click.echo(f"note: {note}", err=True)
