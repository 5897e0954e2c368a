"""What `vzfs ingest` did, or would do, for people and for machines."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from rich.table import Table

from vzfs.cli.terminal import console, plain
from vzfs.config import Config
from vzfs.ingest.changes import ArrayChange
from vzfs.ingest.ingestion import Plan, Report
from vzfs.ingest.parsing import Failure
from vzfs.model.manifest import ChunkKind

MAX_SHOWN: Final = 40
"""Lines of one kind for people; machines get all."""


def seed(given: int | None) -> int:
    """Return the seed of a run, which another run can be given."""
    return random.SystemRandom().randrange(2**32) if given is None else given


def message(plan: Plan, count: int) -> str:
    """Return the message of a commit for which none was given."""
    files = "one file" if count == 1 else f"{count} files"
    if plan.append is not None:
        return f"Append {files} along {plan.append}"
    return f"Refer to {files}" + (f" along {plan.concat}" if plan.concat is not None else "")


def print_failures(failures: Sequence[Failure], *, as_json: bool) -> None:
    """Name the files for which nothing was committed."""
    if as_json:
        click.echo(json.dumps({"snapshot": None, "failures": _failures(failures)}, indent=2))
    for failure in failures[:MAX_SHOWN]:
        click.echo(f"vzfs: {failure.error}" + _at(failure), err=True)
    _more(len(failures), err=True)
    click.echo(
        f"vzfs: nothing was committed, as {len(failures)} of the files cannot be ingested; "
        "with --keep-going the rest is",
        err=True,
    )


def show(
    report: Report, target: Config, branch: str, seed: int, *, as_json: bool, quiet: bool
) -> None:
    """Print what was done."""
    if as_json:
        click.echo(json.dumps(_as_json(report, target, branch, seed), indent=2))
        return
    for failure in report.failures[:MAX_SHOWN]:
        click.echo(f"vzfs: left out: {failure.error}" + _at(failure), err=True)
    for omission in [o for o in report.omissions if o.is_loss][:MAX_SHOWN]:
        click.echo(f"vzfs: left out: {omission.path}: {omission.reason}", err=True)
    if not quiet:
        _print(report, target, branch, seed)


def _print(report: Report, target: Config, branch: str, seed: int) -> None:
    out = console()

    def say(line: str) -> None:
        out.print(plain(line), highlight=False)

    if report.snapshot is None:
        say("a dry run: nothing is written")
    if report.basis:
        say(f"{len(report.parts)} files in order {report.basis}")
    table = Table("array", "shape", "chunks written", "", box=None, pad_edge=False)
    for change in report.changes.arrays[:MAX_SHOWN]:
        counts = _counts(change)
        written = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "none"
        table.add_row(plain(change.path), str(_shape(change)), written, _state(change, report))
    if table.row_count:
        out.print(table)
    _more(len(report.changes.arrays))
    for prefix in report.changes.containers:
        say(f"virtual chunks lie below {prefix}")
    if report.unversioned:
        say(
            f"{report.unversioned} objects are not allowed to be read, so their versions are not known"
        )
    if report.checked is not None:
        chunks = report.checked.chunks
        say(f"{chunks} chunks are what the libraries of their formats read (--seed {seed})")
        for path, reason in list(report.checked.skipped.items())[:MAX_SHOWN]:
            say(f"{path} was not checked: {reason}")
    if report.snapshot is not None:
        say(f"{target.repository}  branch {branch}, snapshot {report.snapshot}")


def _state(change: ArrayChange, report: Report) -> str:
    words = []
    if change.is_replaced:
        words.append("written anew")
    elif not change.is_new:
        words.append("longer")
    if change.path in report.rewritten or change.path in report.inlined:
        words.append("within the repository")
    return ", ".join(words)


def _more(count: int, *, err: bool = False) -> None:
    if count > MAX_SHOWN:
        click.echo(f"and {count - MAX_SHOWN} more: --json lists all", err=err)


def _shape(change: ArrayChange) -> Sequence[int]:
    shape: list[int] = json.loads(change.document)["shape"]
    return shape


def _counts(change: ArrayChange) -> Mapping[str, int]:
    kinds = change.manifest.kind[change.rows]
    return {kind.name.lower(): int((kinds == kind).sum()) for kind in ChunkKind}


def _at(failure: Failure) -> str:
    return "" if failure.error.where else f" [{failure.where}]"


def _failures(failures: Sequence[Failure]) -> list[dict[str, str]]:
    return [{"file": f.where, "reason": f.error.kind, "message": str(f.error)} for f in failures]


def _as_json(report: Report, target: Config, branch: str, seed: int) -> dict[str, Any]:
    return {
        "repository": str(target.repository),
        "branch": branch,
        "snapshot": report.snapshot,
        "new_repository": report.is_new_repository,
        "files": list(report.parts),
        "order": report.basis,
        "failures": _failures(report.failures),
        "omissions": [{"path": o.path, "reason": o.reason} for o in report.omissions],
        "arrays": [
            {
                "path": change.path,
                "shape": _shape(change),
                "state": "new" if change.is_new else "replaced" if change.is_replaced else "longer",
                "chunks": _counts(change),
            }
            for change in report.changes.arrays
        ],
        "containers": [str(prefix) for prefix in report.changes.containers],
        "inlined": sorted({*report.inlined, *report.rewritten}),
        "objects_without_version": report.unversioned,
        "checked": report.checked and report.checked.chunks,
        "not_checked": dict(report.checked.skipped) if report.checked else {},
        "seed": seed,
    }
