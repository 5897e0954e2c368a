"""`vzfs cache`: what the cache on disk holds, how much it helps, and making it smaller.

All of it works on the folder alone, beside any number of mounts: they go on, and fetch again what
they miss. The folder of public mounts within it is part of it.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from vzfs.cache.census import CachedFile, delete, take_census, to_collect
from vzfs.cache.folder import CacheFolder, UnsafeFolderError
from vzfs.cache.tally import Tally, remove_tally, tallies
from vzfs.cli.terminal import console, plain, rounded_size, waiting
from vzfs.config import Flags, load_cache, parse_size, parse_source
from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.moment import format_time
from vzfs.mount import PUBLIC_FOLDER

type Command = Callable[..., Any]
type Found = tuple[CacheFolder, CachedFile]
"""A file of the cache, and the folder that it was found in."""


def _folder_options(command: Command) -> Command:
    for option in (
        click.option("--config", metavar="FILE", help="Read this file instead of the user's own."),
        click.option("--cache-dir", metavar="DIR", help="The cache (default: ~/.cache/vzfs)."),
    ):
        command = option(command)
    return command


_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")


@click.group(short_help="Show and clear the cache on disk.")
def cache() -> None:
    """Show what the cache on disk holds and how much it helps, and make it smaller.

    Mounts may be running: they fetch again what they miss.
    """


# -- status ------------------------------------------------------------------------------------


@cache.command(short_help="Show what is cached of which repository.")
@_folder_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def status(*, cache_dir: str | None, config: str | None, as_json: bool) -> None:
    """Show how much is cached of each repository, when it was used, and how often it was of use."""
    path, limit = _cache_of(cache_dir, config)
    with _told_as_errors(path), waiting(f"looking through {path}"):
        report = _report(path, limit)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print_status(report)


def _report(path: Path, limit: int) -> dict[str, Any]:
    repositories: list[dict[str, Any]] = []
    found: list[CachedFile] = []
    for folder in _folders(path):
        files = take_census(folder, with_owners=True)
        found += files
        told = tallies(folder)
        chunks = [f for f in files if not (f.is_record or f.is_older or f.is_unfinished)]
        for owner in sorted({f.owner for f in chunks} | told.keys()):
            own = [f for f in chunks if f.owner == owner]
            repositories.append(
                {
                    "repository": owner or None,
                    "public": folder.path != path,
                    "entries": sum(f.entries for f in own),
                    **_sums(own),
                    **_rates(told.get(owner)),
                }
            )
    return {
        "folder": str(path),
        "limit": limit,
        "size": sum(f.size for f in found),
        "repositories": repositories,
        "versions": _sums([f for f in found if f.is_record]),
        "older_formats": _sums([f for f in found if f.is_older]),
        "unfinished": _sums([f for f in found if f.is_unfinished]),
    }


def _sums(files: Sequence[CachedFile]) -> dict[str, Any]:
    times = [f.used_at for f in files]
    return {
        "files": len(files),
        "size": sum(f.size for f in files),
        "oldest_use": _moment(min(times, default=None)),
        "last_use": _moment(max(times, default=None)),
    }


def _rates(tally: Tally | None) -> dict[str, Any]:
    if tally is None:
        return {"hits": 0, "misses": 0, "hit_rate": None, "bytes_read": 0, "counted_since": None}
    reads = tally.hits + tally.misses
    return {
        "hits": tally.hits,
        "misses": tally.misses,
        "hit_rate": round(tally.hits / reads, 4) if reads else None,
        "bytes_read": tally.bytes_read,
        "counted_since": _moment(tally.since * 10**9),
    }


def _moment(used_at: int | None) -> str | None:
    """Write a time that a clock may have got wrong."""
    if used_at is None:
        return None
    return format_time(min(max(used_at, 0), time.time_ns()))


def _print_status(report: dict[str, Any]) -> None:
    out = console()
    size, limit = report["size"], report["limit"]
    share = f", {100 * size // limit} %" if limit else ""
    out.print(
        plain(f"{report['folder']}: {rounded_size(size)} of {rounded_size(limit)}{share}"),
        highlight=False,
    )
    if report["repositories"]:
        table = Table(
            "repository", "entries", "size", "oldest use", "last use", "hits", "read from it",
            box=None, pad_edge=False,
        )  # fmt: skip
        for row in report["repositories"]:
            rate = row["hit_rate"]
            table.add_row(
                plain(row["repository"] or "(not said)") + (" (public)" if row["public"] else ""),
                str(row["entries"]),
                rounded_size(row["size"]),
                row["oldest_use"] or "-",
                row["last_use"] or "-",
                "-" if rate is None else f"{100 * rate:.0f} %",
                rounded_size(row["bytes_read"]),
            )
        out.print(table)
    for name, what in (
        ("versions", "versions of source objects"),
        ("older_formats", "formats of earlier versions of vzfs"),
        ("unfinished", "unfinished files"),
    ):
        if report[name]["files"]:
            out.print(f"{what}: {rounded_size(report[name]['size'])}", highlight=False)


# -- clear -------------------------------------------------------------------------------------


@cache.command(short_help="Delete what is cached.")
@_folder_options
@click.option(
    "--repository",
    "sources",
    metavar="SOURCE",
    multiple=True,
    help="Delete what was fetched for this repository only, named as for `vzfs mount`. Repeatable.",
)
@_DRY_RUN
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def clear(
    *,
    cache_dir: str | None,
    config: str | None,
    sources: tuple[str, ...],
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete what is cached, of all repositories or of some.

    Where repositories refer to the same sources, what one of them fetched serves the others too.
    """
    path, _ = _cache_of(cache_dir, config)
    owners = {str(parse_source(source)) for source in sources}
    with _told_as_errors(path), waiting(f"looking through {path}"):
        found = [
            (folder, file)
            for folder, file in _census(path, with_owners=bool(owners))
            if not owners or file.owner in owners
        ]
    if found and not dry_run and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody is there to be asked: give --yes or --dry-run")
        click.confirm(f"Delete {_amount(found)} from {path}?", abort=True)
    with _told_as_errors(path):
        _carry_out(found, path, dry_run=dry_run)
        for folder in () if dry_run else _folders(path):
            for owner in tallies(folder):
                if not owners or owner in owners:
                    remove_tally(folder, owner)


# -- gc ----------------------------------------------------------------------------------------


@cache.command(short_help="Bring the cache down to its limit now.")
@_folder_options
@click.option("--max-size", metavar="SIZE", help="Leave so much (default: the cache's limit).")
@_DRY_RUN
def gc(*, cache_dir: str | None, config: str | None, max_size: str | None, dry_run: bool) -> None:
    """Delete what nobody needs, and then what was used longest ago, down to the limit.

    Nobody needs temporary files whose writer died, and files of earlier formats that were not used
    for a week. Mounts keep to the limit by themselves; this is for when none is running, or for less.
    """
    path, limit = _cache_of(cache_dir, config)
    limit = limit if max_size is None else parse_size(max_size)
    with _told_as_errors(path):
        with waiting(f"looking through {path}"):
            # The caches within one folder have a limit each.
            found = [
                (folder, file)
                for folder in _folders(path)
                for file in to_collect(
                    take_census(folder, with_owners=False), limit, time.time_ns()
                )
            ]
        _carry_out(found, path, dry_run=dry_run)


# -- what they share ---------------------------------------------------------------------------


def _cache_of(cache_dir: str | None, config: str | None) -> tuple[Path, int]:
    path, limit = load_cache(Flags(cache_dir=cache_dir, config=config), os.environ)
    if path is None:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "there is no home directory for a cache",
            advice="name the folder with --cache-dir",
        )
    return path, limit


def _folders(path: Path) -> list[CacheFolder]:
    """Return the cache folder, and that of public mounts within it."""
    return [CacheFolder(place, time.time) for place in (path, path / PUBLIC_FOLDER)]


def _census(path: Path, *, with_owners: bool) -> Iterator[Found]:
    for folder in _folders(path):
        for file in take_census(folder, with_owners=with_owners):
            yield folder, file


def _carry_out(found: Sequence[Found], path: Path, *, dry_run: bool) -> None:
    """Delete what was *found*, or do not, and say so."""
    if dry_run:
        click.echo(f"would delete {_amount(found)} from {path}")
        return
    gone: list[Found] = []
    for folder in {id(folder): folder for folder, _ in found}.values():
        files = [file for within, file in found if within is folder]
        gone += [(folder, file) for file in delete(folder, files)]
    click.echo(f"deleted {_amount(gone)} from {path}")


def _amount(found: Sequence[Found]) -> str:
    files = "1 file" if len(found) == 1 else f"{len(found)} files"
    return f"{files}, {rounded_size(sum(file.size for _, file in found))}"


@contextlib.contextmanager
def _told_as_errors(path: Path) -> Iterator[None]:
    """Make of what the system says of the folder at *path* an error of one line."""
    try:
        yield
    except OSError as problem:
        advice = "name another folder with --cache-dir"
        if isinstance(problem, UnsafeFolderError):
            advice = "chown it to yourself and chmod 700 it, or name another with --cache-dir"
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the cache cannot be used: {problem.strerror or problem}",
            where=str(path),
            advice=advice,
        ) from None
