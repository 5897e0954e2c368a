"""`vzfs verify`: whether what a snapshot refers to is still there, and still the same."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from vzfs.access import Visibility
from vzfs.cli import running
from vzfs.cli.exits import DENIED, LOSSES, UNREACHABLE, USAGE, exit_code
from vzfs.cli.options import access_options, configuration, ref_options, store_options
from vzfs.cli.terminal import PATIENCE, console, plain, waiting
from vzfs.config import Config
from vzfs.errors import ErrorKind, VzfsError
from vzfs.model.location import Checksum, ETag, LastModified
from vzfs.model.manifest import ChunkKind
from vzfs.model.moment import format_time
from vzfs.mount import Opened, authorized, open_source
from vzfs.verify import Loss, Progress, Report, Verification

REFRESH: Final = 0.2
"""Seconds between two looks at how far it is, for the bar."""
SILENCE: Final = 10.0
"""Seconds between two lines where there is no terminal."""
MAX_NAMED: Final = 4
"""Arrays named for one lost object, so that a line stays a line."""

_WORDS: Final = {
    ErrorKind.SOURCE_VANISHED: "vanished",
    ErrorKind.SOURCE_CHANGED: "changed",
    ErrorKind.SOURCE_MISMATCH: "too short, or a wrong reply",
    ErrorKind.SOURCE_DENIED: "denied",
    ErrorKind.SOURCE_UNREACHABLE: "unreachable",
    ErrorKind.SOURCE_TIMEOUT: "no answer in time",
    ErrorKind.NO_CONTAINER: "in no container",
    ErrorKind.CORRUPT_METADATA: "damaged",
}
_PASSING: Final = frozenset(
    {
        ErrorKind.SOURCE_UNREACHABLE,
        ErrorKind.SOURCE_TIMEOUT,
        ErrorKind.OFFLINE,
        ErrorKind.EGRESS_SPENT,
    }
)
"""What says nothing of the object: another time it may be there."""


@click.command(short_help="Check that what a snapshot refers to is still there and the same.")
@click.argument("source", metavar="SOURCE|MOUNTPOINT")
@ref_options
@access_options
@store_options
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what is lost.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Name at most so many lost objects.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines, with all objects.")
def verify(source: str, *, quiet: bool, limit: int, as_json: bool, **given: Any) -> None:  # noqa: ANN401 -- options
    """Ask for each object that a snapshot refers to, once, whether it is there and unchanged.

    No chunk is read, and nothing is asked for that may not be read. A mount is verified as it was made: with its snapshot and its options. Exits
    with 0 if every chunk can be had, 10 if some are lost, 5 if some places could not be reached,
    and 4 if nothing but permission is missing.
    """
    visibility = Visibility.PRIVATE
    if running.is_mounted(source):
        mounted = running.find(Path(source))
        visibility = mounted.visibility
        config = running.configuration_of(mounted, given)
    else:
        config = configuration(source, given)
    try:
        opened, report = trio.run(_verify, config, visibility, quiet)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    code = verdict(report)
    if as_json:
        click.echo(json.dumps(_as_json(opened, report), indent=2))
    elif code or not quiet:
        _print(opened, report, limit)
    sys.exit(code)


def verdict(report: Report) -> int:
    """Return the exit code that *report* deserves: certain losses weigh most, permissions least."""
    kinds = report.kinds
    denied = {kind for kind in kinds if exit_code(VzfsError(kind, "")) in {DENIED, USAGE}}
    if kinds - denied - _PASSING:
        return LOSSES
    if kinds & _PASSING:
        return UNREACHABLE
    return DENIED if denied else 0


# -- while it runs -----------------------------------------------------------------------------


async def _verify(config: Config, visibility: Visibility, quiet: bool) -> tuple[Opened, Report]:
    with waiting(f"opening {config.source}"):
        opened = await open_source(config)
    access = authorized(config.access(visibility), opened.checkout.repository)
    verification = Verification(opened.checkout, access, opened.source)
    async with trio.open_nursery() as nursery:
        if not quiet:
            nursery.start_soon(show, verification, Console(stderr=True))
        report = await verification.run()
        nursery.cancel_scope.cancel()
    return opened, report


async def show(verification: Verification, console: Console) -> None:
    """Show how far a verification is, until cancelled: as bars on a terminal, else as lines."""
    if console.is_terminal:
        await trio.sleep(PATIENCE)
        await _show_bars(verification, console)
    start = trio.current_time()
    while True:
        await trio.sleep(SILENCE)
        now = verification.progress()
        console.print(_line(now, trio.current_time() - start), markup=False, highlight=False)
        if not now.objects:
            start = trio.current_time()


async def _show_bars(verification: Verification, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[lost]}"),
    )
    with Bars(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        get_time=trio.current_time,
    ) as bars:
        manifests = bars.add_task("reading manifests", lost="")
        objects = bars.add_task("asking for objects", lost="", visible=False)
        while True:
            now = verification.progress()
            bars.update(manifests, total=now.manifests, completed=now.read)
            lost = f"{now.lost} lost" if now.lost else ""
            bars.update(
                objects,
                total=now.objects or None,
                completed=now.asked,
                lost=lost,
                visible=now.objects > 0,
            )
            bars.refresh()
            await trio.sleep(REFRESH)


def _line(now: Progress, seconds: float) -> str:
    """Say how far it is. The objects have been asked for since *seconds*."""
    if not now.objects:
        return f"{now.read} of {now.manifests} manifests read"
    line = f"{now.asked} of {now.objects} objects asked for, {now.lost} lost"
    if not now.asked:
        return line
    return f"{line}; about {(now.objects - now.asked) * seconds / now.asked:.0f} s left"


# -- what was found ----------------------------------------------------------------------------


def _as_json(opened: Opened, report: Report) -> dict[str, Any]:
    return {
        "repository": str(opened.access.repository),
        "ref": str(opened.checkout.ref),
        "snapshot": opened.checkout.snapshot.id,
        "chunks": {kind.name.lower(): report.chunks[kind] for kind in ChunkKind},
        "objects": report.objects,
        "arrays": [
            {"path": found.path, "chunks": found.chunks, "lost": _by_name(found.lost)}
            for found in report.arrays
        ],
        "unreadable": [
            {
                "array": part.path,
                "manifest": part.manifest,
                "reason": part.error.kind,
                "message": str(part.error),
                "chunks_at_most": part.at_most,
            }
            for part in report.unreadable
        ],
        "lost": [
            {
                "location": loss.lost.location,
                "place": loss.error.where,
                "expected": _expected(loss.lost.checksum),
                "reason": loss.error.kind,
                "message": loss.error.what,
                "advice": loss.error.advice,
                "chunks": dict(loss.chunks),
            }
            for loss in report.losses
        ],
    }


def _by_name(lost: Mapping[ErrorKind, int]) -> dict[str, int]:
    return {str(kind): count for kind, count in sorted(lost.items())}


def _expected(checksum: Checksum | None) -> str | None:
    match checksum:
        case ETag(value):
            return f"etag {value}"
        case LastModified(seconds):
            return f"unmodified since {format_time(seconds * 10**9)}"
        case None:
            return None


def _print(opened: Opened, report: Report, limit: int) -> None:
    out = console()

    def say(line: str) -> None:
        out.print(plain(line), highlight=False)

    ref = "" if opened.checkout.ref.snapshot else f"{opened.checkout.ref}, "
    say(f"{opened.access.repository}  ({ref}snapshot {opened.checkout.snapshot.id})")
    counts = [f"{report.chunks[k]} {k.name.lower()}" for k in ChunkKind if report.chunks[k]]
    say(f"chunks: {', '.join(counts) or 'none'}; source objects: {report.objects}")
    if not report.kinds:
        say("all chunks can be had")
        return
    lost = sum(sum(found.lost.values()) for found in report.arrays)
    say(f"{lost} of {sum(report.chunks.values())} chunks cannot be had")
    table = Table("array", "chunks", "lost", "why", box=None, pad_edge=False)
    for found in report.arrays:
        if found.lost:
            table.add_row(
                plain(found.path),
                str(found.chunks),
                str(sum(found.lost.values())),
                _why(found.lost),
            )
    if table.row_count:
        out.print(table)
    for part in report.unreadable:
        say(f"{part.path}: where up to {part.at_most} chunks lie is not known: {part.error}")
    _print_objects(out, report.losses[:limit])
    if len(report.losses) > limit:
        say(f"and {len(report.losses) - limit} objects more: see --limit and --json")
    shown = report.losses[:limit]
    for advice in dict.fromkeys(loss.error.advice for loss in shown if loss.error.advice):
        say(advice)


def _print_objects(out: Console, losses: Iterable[Loss]) -> None:
    table = Table("lost object", "chunks", "in", "why", box=None, pad_edge=False)
    for loss in losses:
        table.add_row(
            plain(loss.lost.location),
            str(sum(loss.chunks.values())),
            plain(_some(sorted(loss.chunks))),
            plain(loss.error.what),
        )
    if table.row_count:
        out.print(table)


def _some(paths: Sequence[str]) -> str:
    """Name a few arrays; an object may hold chunks of hundreds."""
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(paths[:MAX_NAMED]) + more


def _why(lost: Mapping[ErrorKind, int]) -> str:
    ordered = Counter(lost).most_common()
    return ", ".join(
        f"{count} {_WORDS.get(kind, kind.replace('-', ' '))}" for kind, count in ordered
    )
