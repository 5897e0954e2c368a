"""`vzfs info`, `vzfs refs` and `vzfs log`: what a repository holds, without mounting it."""

import dataclasses
import json
from collections import Counter
from typing import Any

import click
import numpy as np
import trio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.tree import Tree as TreeView

from vzfs.access import Access
from vzfs.cli.options import (
    access_options,
    configuration,
    ref_options,
    store_options,
    view_options,
)
from vzfs.cli.terminal import console, plain, waiting
from vzfs.cli.viewing import Shown, how_shown, summary
from vzfs.config import Config
from vzfs.decoding.installed import can_decode
from vzfs.errors import VzfsError
from vzfs.model.manifest import ChunkKind, Manifest
from vzfs.model.moment import format_time
from vzfs.model.snapshot import Array, SnapshotInfo
from vzfs.mount import open_repository_of, open_source
from vzfs.repository import ArrayRefs, Checkout
from vzfs.views.codecs import DECODABLE
from vzfs.views.presentation import Presentation
from vzfs.views.view import View, ViewName

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.command(short_help="Show what a snapshot holds.")
@click.argument("source")
@ref_options
@view_options
@access_options
@store_options
@_JSON
def info(source: str, *, as_json: bool, **given: Any) -> None:  # noqa: ANN401 -- options
    """Show the arrays of SOURCE, how many chunks they have, and which sources may be read.

    With --view or --zarr-format also how each array is shown in that view: as stored, with codecs
    renamed, framed as Blosc or decoded, or that it is left out, and why.
    """
    config = configuration(source, given)
    report = trio.run(_survey, config)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print_info(report)


@click.command(short_help="Show branches and tags.")
@click.argument("source")
@store_options
@_JSON
def refs(source: str, *, as_json: bool, **given: Any) -> None:  # noqa: ANN401 -- options
    """Show the branches and tags of SOURCE with their snapshots."""
    config = configuration(source, given)

    async def read() -> dict[str, dict[str, str]]:
        found = await (await open_repository_of(config)).refs()
        return {"branches": dict(found.branches), "tags": dict(found.tags)}

    with waiting(f"opening {source}"):
        found = trio.run(read)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table("kind", "name", "snapshot", box=None, pad_edge=False)
    for kind, names in (("branch", found["branches"]), ("tag", found["tags"])):
        for name, snapshot in sorted(names.items()):
            table.add_row(kind, plain(name), snapshot)
    console().print(table)


@click.command(short_help="Show the history of a ref.")
@click.argument("source")
@ref_options
@store_options
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Show at most so many snapshots.")
@_JSON
def log(source: str, *, limit: int | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401 -- options
    """Show the snapshots of SOURCE that led to a ref, newest first."""
    config = configuration(source, given)

    async def read() -> list[SnapshotInfo]:
        repository = await open_repository_of(config)
        found: list[SnapshotInfo] = []
        async for snapshot in repository.history(await repository.resolve(config.ref)):
            found.append(snapshot)
            if len(found) == limit:
                break
        return found

    with waiting(f"reading the history of {source}"):
        history = trio.run(read)
    if as_json:
        lines = [
            {
                "id": s.id,
                "written_at": format_time(s.written_at),
                "message": s.message,
                "metadata": dict(s.metadata),
            }
            for s in history
        ]
        click.echo(json.dumps(lines, indent=2, default=str))
        return
    table = Table("snapshot", "written", "message", box=None, pad_edge=False)
    for s in history:
        table.add_row(s.id, format_time(s.written_at), plain(s.message))
    console().print(table)


# -- surveying ---------------------------------------------------------------------------------


async def _survey(config: Config) -> dict[str, Any]:
    """Load every manifest of a snapshot and count what it refers to."""
    with waiting(f"opening {config.source}"):
        opened = await open_source(config)
    checkout = opened.checkout
    sources: dict[str, _SourceCount] = {}
    nodes = []
    view = View(ViewName(config.view_name), config.zarr_format, config.consolidated)
    decodable = can_decode() if view.name is ViewName.DECODED else DECODABLE
    presentation = Presentation(checkout.snapshot, view, decodable)
    # The root is a node even where the snapshot has none.
    first = len(presentation) - len(checkout.snapshot.nodes)
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        found = progress.track(checkout.snapshot.nodes, description="reading manifests")
        for number, node in enumerate(found, first):
            remark = {"remark": presentation.remark(number)}
            if isinstance(node, Array):
                shown = {"shown": how_shown(presentation, number)} | remark
                nodes.append(await _survey_array(node, checkout, opened.access, sources) | shown)
            else:
                nodes.append({"path": node.path, "type": "group"} | remark)
    return {
        "repository": str(opened.access.repository),
        "format": checkout.repository.format,
        "notice": checkout.repository.notice,
        "ref": str(checkout.ref) if checkout.repository.is_versioned else None,
        "snapshot": checkout.snapshot.id,
        "written_at": format_time(checkout.snapshot.written_at),
        "message": checkout.snapshot.message,
        "view": str(view),
        "nodes": nodes,
        "left_out": [dataclasses.asdict(omission) for omission in checkout.repository.omissions],
        "containers": [dataclasses.asdict(report) for report in opened.access.report()],
        "sources": [
            {"prefix": p, **dataclasses.asdict(s), "objects": len(s.objects)}
            for p, s in sorted(sources.items())
        ],
    }


@dataclasses.dataclass
class _SourceCount:
    """What lies below one prefix: *readable* of *chunks* may be read, or *refusal* says why not."""

    objects: set[str] = dataclasses.field(default_factory=set)
    chunks: int = 0
    readable: int = 0
    refusal: str = ""


async def _survey_array(
    array: Array, checkout: Checkout, access: Access, sources: dict[str, _SourceCount]
) -> dict[str, Any]:
    metadata = _metadata(array)
    found: dict[str, Any] = {
        "path": array.path,
        "type": "array",
        "shape": metadata.get("shape"),
        "dtype": metadata.get("data_type"),
        "grid": list(array.grid.shape),
        "problem": array.problem,
    }
    if array.problem:
        return found
    refs: ArrayRefs = checkout.refs(array)
    await refs.load(())
    try:
        manifests = refs.manifests()
    except VzfsError as error:
        return found | {"problem": str(error)}
    kinds: Counter[str] = Counter()
    for manifest in manifests:
        counts = np.bincount(manifest.kind, minlength=len(ChunkKind))
        kinds.update({kind.name.lower(): int(counts[kind]) for kind in ChunkKind})
        _survey_sources(manifest, access, sources)
    return found | {"chunks": dict(kinds), "missing": array.grid.size - kinds.total()}


def _survey_sources(manifest: Manifest, access: Access, sources: dict[str, _SourceCount]) -> None:
    rows = manifest.location[manifest.kind == ChunkKind.VIRTUAL]
    for row, count in zip(*np.unique(rows, return_counts=True), strict=True):
        text = manifest.locations[int(row)]
        prefix, refusal = access.explain(text)
        source = sources.setdefault(prefix, _SourceCount())
        source.objects.add(text)
        source.chunks += int(count)
        if refusal is None:
            source.readable += int(count)
        else:
            source.refusal = source.refusal or refusal


def _metadata(array: Array) -> dict[str, Any]:
    """Return the array's metadata document, {} if it is not the JSON of an object."""
    try:
        found = json.loads(next(iter(array.documents.values()), b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# -- printing ----------------------------------------------------------------------------------


def _print_info(report: dict[str, Any]) -> None:
    out = console()
    out.print(plain(f"{report['repository']}  ({report['format']})"), highlight=False)
    words = [f"snapshot {report['snapshot']}"]
    if report["ref"] is not None:
        words = [report["ref"], *words, f"written {report['written_at']}"]
    out.print(plain(", ".join(words)), highlight=False)
    if report["notice"]:
        out.print(plain(report["notice"]))
    is_verbatim = report["view"] == str(View())
    if not is_verbatim:
        counts = summary(node["shown"] for node in report["nodes"] if node["type"] == "array")
        out.print(f"view {report['view']}: {counts}", highlight=False)
    view = TreeView("/")
    branches = {"/": view}
    for node in report["nodes"]:
        if node["path"] == "/":
            if node["type"] == "array":
                view.label = plain(_array_line("/", node) + _shown(node, is_verbatim=is_verbatim))
            continue
        parent, _, name = node["path"].rpartition("/")
        label = name + "/" if node["type"] == "group" else _array_line(name, node)
        label += _shown(node, is_verbatim=is_verbatim)
        branches[node["path"]] = branches[parent or "/"].add(plain(label))
    out.print(view, highlight=False)
    if report["sources"]:
        table = Table(
            "virtual chunks below", "objects", "chunks", "readable", box=None, pad_edge=False
        )
        for source in report["sources"]:
            table.add_row(
                plain(source["prefix"]),
                str(source["objects"]),
                str(source["chunks"]),
                _share(source["readable"], source["chunks"]),
            )
        out.print(table)
        for refusal in dict.fromkeys(s["refusal"] for s in report["sources"] if s["refusal"]):
            out.print(plain(refusal), highlight=False)
    for omission in report["left_out"]:
        out.print(plain(f"left out: {omission['path']}: {omission['reason']}"), highlight=False)
    for container in report["containers"]:
        if container["problem"]:
            out.print(
                plain(
                    f"container {container['url_prefix']} authorizes nothing: {container['problem']}"
                ),
                highlight=False,
            )


def _array_line(name: str, node: dict[str, Any]) -> str:
    shape = "x".join(map(str, node["shape"])) if isinstance(node["shape"], list) else "?"
    shape = shape or "scalar"
    dtype = node["dtype"] if isinstance(node["dtype"], str) else "?"
    if node["problem"]:
        return f"{name}  {dtype} {shape}  NOT READABLE: {node['problem']}"
    counts = [f"{n} {kind}" for kind, n in node["chunks"].items() if n]
    counts += [f"{node['missing']} missing"] if node["missing"] else []
    return f"{name}  {dtype} {shape}  chunks: {', '.join(counts) or 'none'}"


def _shown(node: dict[str, Any], *, is_verbatim: bool) -> str:
    """Say how a view shows a node, and why so."""
    if is_verbatim:
        return ""
    words = [Shown(node["shown"]).words] if "shown" in node else []
    words += [node["remark"]] if node["remark"] else []
    return f"  [{': '.join(words)}]" if words else ""


def _share(part: int, whole: int) -> str:
    """Say how many of *whole* things are so: all, some or none."""
    if part == whole:
        return "yes"
    return f"{part} of {whole}" if part else "no"
