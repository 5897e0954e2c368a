"""`vzfs stat`: where the bytes of a path in a mount come from, for people and for machines."""

import datetime
import json
import os
import stat as modes
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from vzfs.cli.exits import exit_code
from vzfs.cli.mounted import attributes_of, mount_of
from vzfs.cli.terminal import age, console, plain, size
from vzfs.errors import VzfsError
from vzfs.model.moment import format_time

_ORDER: Final = (
    "kind", "source", "offset", "length", "container", "etag", "last_modified", "cached", "stale",
    "form", "remark",
    "view", "repository", "format", "branch", "tag", "snapshot",
)  # fmt: skip
"""What attributes say: of a chunk, of its array, of the whole mount. Others come behind."""
_NUMBERS: Final = frozenset({"offset", "length"})
_MAX_DIGITS: Final = 20


@click.command(short_help="Say where the bytes of a path in a mount come from.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines: a list.")
def stat(paths: Sequence[str], *, as_json: bool) -> None:
    """Say what a mount knows of each PATH in it, from its extended attributes.

    A chunk has its source, the place and length of its bytes there, the version that is expected,
    and whether it is cached; every path has its repository, snapshot and view. No source is asked.
    """
    reports = []
    code = 0
    for path in paths:
        try:
            reports.append(_report(path))
        except VzfsError as error:
            click.echo(f"vzfs: {error}", err=True)
            code = code or exit_code(error)
    if as_json:
        click.echo(json.dumps(reports, indent=2))
    else:
        out = console()
        for number, report in enumerate(reports):
            if number:
                out.print()
            out.print(f"[bold]{plain(report['path'])}[/]", highlight=False)
            for name, value in lines(report, time.time_ns()):
                out.print(f"  [dim]{plain(name):<14}[/]{plain(value)}", highlight=False)
    sys.exit(code)


def _report(path: str) -> dict[str, Any]:
    mounted, status = mount_of(path)
    found = attributes_of(path)
    return {
        "path": path,
        "mountpoint": mounted.mountpoint,
        "type": _type(status, found),
        "size": status.st_size,
        "written_at": format_time(status.st_mtime_ns),
        "attributes": {name: _value(name, found[name]) for name in _ordered(found)},
    }


def _type(status: os.stat_result, attributes: Mapping[str, str]) -> str:
    if modes.S_ISDIR(status.st_mode):
        return "directory"
    return "chunk" if "kind" in attributes else "file"


def _ordered(names: Mapping[str, object]) -> list[str]:
    return [name for name in _ORDER if name in names] + sorted(names.keys() - set(_ORDER))


def _value(name: str, text: str) -> str | int:
    is_number = name in _NUMBERS and text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else text


def lines(report: Mapping[str, Any], now: int) -> list[tuple[str, str]]:
    """Return the lines of a block: names, and values as people read them.

    *now* is in nanoseconds since the Unix epoch.
    """
    kind = report["type"]
    found = [("type", kind if kind == "directory" else f"{kind}, {size(report['size'])}")]
    for name, value in report["attributes"].items():
        text = str(value)
        if isinstance(value, int):
            text = size(value)
        elif name == "last_modified":
            text = _with_age(value, now)
        found.append((name, text))
    found.append(("written", _with_age(report["written_at"], now)))
    return found


def _with_age(text: str, now: int) -> str:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    if moment.tzinfo is None:
        return text
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return f"{text} ({age(now / 10**9 - (moment - epoch).total_seconds())})"
