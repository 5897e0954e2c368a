"""`vzfs warm`: chunks into the cache before anybody reads them."""

import functools
import json
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from vzfs.access import Visibility
from vzfs.cli import running
from vzfs.cli.exits import LOSSES
from vzfs.cli.options import (
    access_options,
    configuration,
    limit_options,
    ref_options,
    store_options,
)
from vzfs.cli.terminal import PATIENCE, console, plain, rounded_size
from vzfs.config import Config
from vzfs.errors import ConfigError, ErrorKind, VzfsError
from vzfs.model.snapshot import Array, Snapshot
from vzfs.mount import reading
from vzfs.views.metadata import Unsaid, read_v3_array
from vzfs.warming import Failure, Progress, Region, Share, Warming, selected, whole

REFRESH: Final = 0.2
"""Seconds between two looks at how far it is, for the bar."""
SILENCE: Final = 10.0
"""Seconds between two lines where there is no terminal."""
SHARES_A_WORKER: Final = 4
"""Parts of the work for each worker of a cluster: what some are slow at, others make good."""

_PART: Final = re.compile(
    r"(?P<start>-?\d{0,18})(?P<colon>:(?P<stop>-?\d{0,18}))?(?::(?P<step>\d{0,18}))?\Z"
)


@click.command(short_help="Fill the cache with chunks that will be read.")
@click.argument("source", metavar="SOURCE|MOUNTPOINT")
@click.argument("arrays", nargs=-1, metavar="[ARRAY[SELECTION]]...")
@ref_options
@access_options
@click.option("--cache-dir", metavar="DIR", help="Fill this cache (default: ~/.cache/vzfs).")
@click.option("--cache-size", metavar="SIZE", help="Bytes to keep there (default: 10G).")
@click.option("--memory", metavar="SIZE", help="Bytes of chunks to keep in memory (default: 256M).")
@limit_options
@store_options
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Share the work among the workers of this Dask cluster, which share the cache's folder.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what could not be had.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def warm(
    source: str,
    arrays: tuple[str, ...],
    *,
    dask: str | None,
    quiet: bool,
    as_json: bool,
    **given: Any,  # noqa: ANN401 -- options
) -> None:
    """Get chunks of SOURCE, or of what is mounted on MOUNTPOINT, into the disk cache.

    ARRAY is the path of an array, or of a group for all in it; without any, all arrays are meant. A
    selection takes elements, as numpy does: 'sst[0:31, :, 100:200]'. What the cache has is not fetched
    again, so an interrupted run is resumed by running it again. Exits with 0 if all is there, and with
    10 if some chunks could not be had.
    """
    visibility = Visibility.PRIVATE
    if running.is_mounted(source):
        mounted = running.find(Path(source))
        visibility = mounted.visibility
        config = running.configuration_of(mounted, given)
    else:
        config = configuration(source, given)
    if config.cache_dir is None:
        raise ConfigError(
            ErrorKind.BAD_USAGE, "there is no cache to fill", advice="give --cache-dir"
        )
    try:
        if dask is None:
            found = trio.run(_warm, config, visibility, arrays, quiet)
        else:
            found = _on_cluster(dask, config, visibility, arrays, quiet)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found, quiet=quiet)
    sys.exit(LOSSES if found["failed"] else 0)


async def _warm(
    config: Config,
    visibility: Visibility,
    arrays: Sequence[str],
    quiet: bool,
    share: Share = Share(),  # noqa: B008 -- it is a constant
) -> dict[str, Any]:
    async with reading(config, visibility) as rooms:
        checkout = rooms.opened.checkout
        regions = regions_of(checkout.snapshot, arrays)
        warming = Warming(checkout, rooms.chunks, regions, share)
        async with trio.open_nursery() as nursery:
            if not quiet:
                nursery.start_soon(_show, warming.progress, Console(stderr=True))
            failures = await warming.run()
            nursery.cancel_scope.cancel()
    return _report(warming.progress, failures)


def _report(done: Progress, failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        "chunks": done.total,
        "fetched": done.fetched,
        "cached": done.cached,
        "failed": done.failed,
        "failures": [
            {
                "array": failure.path,
                "chunks": failure.chunks,
                "reason": failure.error.kind,
                "message": str(failure.error),
            }
            for failure in failures
        ],
    }


# -- what is to be got -------------------------------------------------------------------------


def regions_of(snapshot: Snapshot, arrays: Sequence[str]) -> list[Region]:
    """Return what the *arrays* of a command line mean, all of *snapshot* without any. Raises ConfigError."""
    known = {n.path: n for n in snapshot.nodes if isinstance(n, Array) and not n.problem}
    if not arrays:
        return [whole(array) for array in known.values()]
    found: list[Region] = []
    for text in arrays:
        path, selection = _split(text)
        path = "/" + posixpath.normpath("/" + path).strip("/")
        array = known.get(path)
        if array is not None:
            found.append(
                _selected(array, selection, text) if selection is not None else whole(array)
            )
            continue
        below = [a for p, a in known.items() if p.startswith(path.rstrip("/") + "/")]
        if not below or selection is not None:
            raise ConfigError(
                ErrorKind.BAD_USAGE,
                "there is no such array that can be read",
                where=text,
                advice="`vzfs info` lists them",
            )
        found += map(whole, below)
    return found


def _split(text: str) -> tuple[str, str | None]:
    if not text.endswith("]"):
        return text, None
    path, bracket, selection = text[:-1].rpartition("[")
    return (path, selection) if bracket else (text, None)


def _selected(array: Array, selection: str, text: str) -> Region:
    try:
        metadata = read_v3_array(array.documents.get("zarr.json", b""))
    except Unsaid as why:
        raise _bad(text, f"nothing can be selected in it: {why}") from None
    parts = [part.strip() for part in selection.split(",")]
    ndim = len(metadata.shape)
    if parts.count("...") > 1 or len(parts) - parts.count("...") > ndim:
        raise _bad(text, f"the array has {ndim} dimensions")
    if "..." in parts:
        at = parts.index("...")
        parts[at : at + 1] = [":"] * (ndim - len(parts) + 1)
    parts += [":"] * (ndim - len(parts))
    wanted = [_range(part, n, text) for part, n in zip(parts, metadata.shape, strict=True)]
    return selected(array, metadata.chunk_shape, wanted)


def _range(part: str, length: int, text: str) -> range:
    found = _PART.match(part)
    if found is None or part == "":
        raise _bad(text, f"{part!r} is neither an index nor a slice")
    if found["colon"] is None:
        index = int(found["start"])
        if not -length <= index < length:
            raise _bad(text, f"the index {index} is out of a dimension of length {length}")
        return range(index % length, index % length + 1)
    start, stop, step = (int(found[n]) if found[n] else None for n in ("start", "stop", "step"))
    if step == 0:
        raise _bad(text, "a step is 0")
    return range(*slice(start, stop, step).indices(length))


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_USAGE,
        f"the selection cannot be understood: {why}",
        where=text,
        advice="write it like sst[0:31, :, 5]",
    )


# -- on a cluster ------------------------------------------------------------------------------


def _on_cluster(
    address: str, config: Config, visibility: Visibility, arrays: Sequence[str], quiet: bool
) -> dict[str, Any]:
    """Have the workers of a Dask cluster do it, each object one of them."""
    from vzfs.cli.clusters import connected

    client = connected(address, config.deadline)
    from distributed import as_completed

    with client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise VzfsError(
                ErrorKind.SOURCE_UNREACHABLE, "the Dask cluster has no workers", where=address
            )
        count = workers * SHARES_A_WORKER
        work = functools.partial(warm_share, config, visibility, tuple(arrays), count)
        found: dict[str, Any] = {}
        futures = client.map(work, range(count), pure=False, retries=1)
        said = Console(stderr=True)
        for done, future in enumerate(as_completed(futures), 1):  # type: ignore[no-untyped-call]
            found = _added(found, future.result())
            if not quiet:
                size = rounded_size(found["fetched"])
                said.print(f"{done} of {count} parts done, {size} fetched", highlight=False)
        return found


def warm_share(
    config: Config, visibility: Visibility, arrays: Sequence[str], count: int, number: int
) -> dict[str, Any]:
    """Do one of *count* parts of the work, on whatever machine this runs."""
    return trio.run(_warm, config, visibility, arrays, True, Share(number, count))


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Add up what parts of the work report. Each part looks at all chunks."""
    if not one:
        return dict(other)
    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    for failure in (*one["failures"], *other["failures"]):
        key = failure["array"], failure["reason"]
        counts[key] += failure["chunks"]
        messages.setdefault(key, failure["message"])
    sums = {name: one[name] + other[name] for name in ("fetched", "cached", "failed")}
    failures = [
        {"array": array, "chunks": chunks, "reason": reason, "message": messages[array, reason]}
        for (array, reason), chunks in counts.most_common()
    ]
    return {"chunks": max(one["chunks"], other["chunks"]), **sums, "failures": failures}


# -- while it runs, and what was found ---------------------------------------------------------


async def _show(progress: Progress, console: Console) -> None:
    """Show how far it is, until cancelled: as a bar on a terminal, else as lines."""
    if not console.is_terminal:
        while True:
            await trio.sleep(SILENCE)
            console.print(_line(progress), markup=False, highlight=False)
    await trio.sleep(PATIENCE)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Bars(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        get_time=trio.current_time,
    ) as bars:
        task = bars.add_task("chunks", said="", total=None)
        while True:
            said = f"{rounded_size(progress.fetched)} fetched"
            bars.update(task, total=progress.total, completed=progress.chunks, said=said)
            bars.refresh()
            await trio.sleep(REFRESH)


def _line(progress: Progress) -> str:
    fetched = rounded_size(progress.fetched)
    line = f"{progress.chunks} of {progress.total} chunks, {fetched} fetched"
    return f"{line}, {progress.failed} failed" if progress.failed else line


def _print(found: Mapping[str, Any], *, quiet: bool) -> None:
    out = console()
    if not quiet:
        fetched, cached = rounded_size(found["fetched"]), rounded_size(found["cached"])
        out.print(f"{found['chunks']} chunks: {fetched} fetched, {cached} were there")
    for failure in found["failures"]:
        words = f"{failure['array']}: {failure['chunks']} chunks not had: {failure['message']}"
        out.print(plain(words), highlight=False)
