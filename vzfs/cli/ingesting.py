"""`vzfs ingest`: files of archives into an Icechunk repository, as references, by one commit."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click
import trio
from rich.console import Console

from vzfs.access import Access
from vzfs.archival.kinds import NAMES
from vzfs.archival.parsing import FileParser
from vzfs.cache import MemoryCache
from vzfs.chunks import Chunks
from vzfs.cli import clusters, ingested
from vzfs.cli.board import Board
from vzfs.cli.exits import NOT_INGESTED, PARTLY_INGESTED
from vzfs.cli.options import access_options, configuration, limit_options, store_options
from vzfs.config import Config
from vzfs.config.values import parse_size
from vzfs.decoding.decoder import Decoder
from vzfs.errors import AccessDenied, ConfigError, ErrorKind, RepositoryError
from vzfs.ingest.checking import Checking
from vzfs.ingest.existing import references_of
from vzfs.ingest.ingestion import Existing, Plan, Report, Sources, prepare, write
from vzfs.ingest.parsing import Parsed, parse_files
from vzfs.ingest.writing import Credentials
from vzfs.joining.inlining import DEFAULT_LIMIT
from vzfs.model.location import Location, Prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.references import References
from vzfs.model.selection import Selection
from vzfs.model.snapshot import DEFAULT_BRANCH, RefSpec
from vzfs.mount import Reached, open_source, reaching
from vzfs.repository import check_out
from vzfs.repository.archive import Archive
from vzfs.repository.icechunk import open_icechunk
from vzfs.repository.storage import Storage
from vzfs.source.credentials import Keyring

_WRITABLE: Final = ("file", "s3", "gs", "az", "abfs")


class _Wish(NamedTuple):
    """What the options say beside the plan."""

    branch: str
    keep_going: bool
    check: int
    seed: int
    jobs: int | None
    dask: str | None


@click.command(short_help="Write files of archives into an Icechunk repository, as references.")
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--to", required=True, metavar="ICECHUNK", help="The repository: a folder, s3://...")
@click.option("--branch", default=DEFAULT_BRANCH, show_default=True, metavar="NAME")
@click.option("--concat", metavar="DIM", help="Put the files end to end along this dimension.")
@click.option(
    "--group-per-file", is_flag=True, help="Give each file a group (default for several)."
)
@click.option("--append", metavar="DIM", help="Put the files behind what the branch has.")
@click.option("-m", "--message", metavar="TEXT", help="The message of the commit.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--keep-going", is_flag=True, help="Commit the rest if files fail.")
@click.option(
    "--check",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Read N random chunks of each array with the library of its format too, and compare.",
)
@click.option("--seed", type=int, metavar="N", help="Choose the same chunks as a run that said so.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Parse in so many processes.")
@click.option(
    "--dask", metavar="ADDRESS", help="Parse on the workers of this Dask cluster instead."
)
@click.option(
    "--inline",
    default=str(DEFAULT_LIMIT),
    metavar="SIZE",
    help="Write coordinates of up to so many bytes into the repository itself (default: 4M).",
)
@access_options
@click.option(
    "--cache-dir", metavar="DIR", help="Keep what was parsed here (default: ~/.cache/vzfs)."
)
@click.option("--cache-size", metavar="SIZE", help="Bytes to keep there (default: 10G).")
@click.option("--no-cache", is_flag=True, help="Keep nothing, so that nothing can be resumed.")
@limit_options
@store_options
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what failed or is left out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def ingest(
    files: tuple[str, ...],
    *,
    to: str,
    branch: str,
    concat: str | None,
    group_per_file: bool,
    append: str | None,
    message: str | None,
    dry_run: bool,
    keep_going: bool,
    check: int,
    seed: int | None,
    jobs: int | None,
    dask: str | None,
    inline: str,
    quiet: bool,
    as_json: bool,
    **given: Any,  # noqa: ANN401 -- options
) -> None:
    """Refer to FILES from an Icechunk repository, which is created if it is not there, by one commit.

    FILES are files of archives, a pattern in quotes, a folder, @LIST, kerchunk references or a Zarr
    hierarchy, local or in a store. Nothing of them is copied but small coordinates. An interrupted run
    has committed nothing, and the next one parses only what is missing. Exits with 0 after a commit,
    12 if --keep-going left files out of it, and 11 if nothing was committed.
    """
    if sum([concat is not None, group_per_file, append is not None]) > 1:
        raise ConfigError(
            ErrorKind.BAD_USAGE, "--concat, --group-per-file and --append exclude each other"
        )
    if "" in (concat, append):
        raise ConfigError(ErrorKind.BAD_USAGE, "no dimension is named", advice="such as time")
    config = configuration(files, dict(given))
    target = configuration(to, dict(given))
    if target.repository.scheme not in _WRITABLE or target.redirect is not None:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "repositories cannot be written there",
            where=to,
            advice="give a local folder, s3://, gs:// or az://",
        )
    plan = Plan(
        concat=concat,
        append=append,
        is_grouped=group_per_file,
        message=message or "",
        is_dry_run=dry_run,
        inline=parse_size(inline),
    )
    wish = _Wish(branch, keep_going, check, ingested.seed(seed), jobs, dask)
    try:
        report = trio.run(_run, config, target, plan, wish, quiet)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    if isinstance(report, Parsed):
        ingested.print_failures(report.failures, as_json=as_json)
        sys.exit(NOT_INGESTED)
    ingested.show(report, target, branch, wish.seed, as_json=as_json, quiet=quiet)
    sys.exit(PARTLY_INGESTED if report.failures else 0)


async def _run(
    config: Config, target: Config, plan: Plan, wish: _Wish, quiet: bool
) -> Report | Parsed:
    """Do it, and return what was done, or only what was parsed if files failed that may not."""
    board = Board()
    async with trio.open_nursery() as showing:
        if not quiet:
            showing.start_soon(board.show, Console(stderr=True))
        async with reaching(config) as reached:
            done = await _ingest(config, target, plan, wish, reached, board)
        showing.cancel_scope.cancel()
    return done


async def _ingest(
    config: Config, target: Config, plan: Plan, wish: _Wish, reached: Reached, board: Board
) -> Report | Parsed:
    files, others = await _meant(config, reached)
    access = reached.access.with_containers(None).with_named([*files, *map(_object, others)])
    chunks = Chunks(
        reached.source, access, MemoryCache(config.memory), reached.disk, reached.buffers
    )
    await reached.nursery.start(chunks.run)
    parsed = await _parsed(config, files, access, wish, reached, board)
    parts = [*parsed.parts, *[await _opened(config, place) for place in others]]
    if not parts or (parsed.failures and not wish.keep_going):
        return parsed
    if len(parts) > 1 and plan.concat is None and plan.append is None:
        plan = dataclasses.replace(plan, is_grouped=True)
    if not plan.message:
        plan = dataclasses.replace(plan, message=ingested.message(plan, len(parts)))
    target_access = target.access()
    existing, target_access = await _existing(target_access, plan, wish.branch, reached)
    read = functools.partial(_read, chunks, reached, target_access)
    sources = Sources(reached.source, access, read)
    check = None
    if wish.check:
        memory = MemoryCache(config.memory)
        decoder = Decoder(chunks, memory, reached.disk, reached.buffers)
        await reached.nursery.start(decoder.run)
        check = Checking(decoder, reached.source, access, wish.check, wish.seed, board.heard).run
    report = await prepare(plan, parts, parsed.failures, existing, sources, board.heard, check)
    if not plan.is_dry_run:
        credentials = await _credentials(target)
        await write(
            plan,
            report,
            target.repository,
            target.store,
            credentials,
            wish.branch,
            existing,
            sources,
            board.heard,
        )
    return report


# -- what is meant ---------------------------------------------------------------------------------


async def _meant(config: Config, reached: Reached) -> tuple[Sequence[Location], Sequence[Prefix]]:
    """Return the files of archives that are meant, and other sources."""
    selection, place = config.selection, config.repository
    archive = Archive(reached.source, reached.source, reached.access, selection, reached.disk)
    if selection.files or selection.pattern:
        named = await archive.named()
        others = [f for f in named if f.key.lower().endswith((".json", ".parq", ".zarr", ".zip"))]
        return [f for f in named if f not in others], [_prefix(f) for f in others]
    if NAMES.search(place.key):
        return [_object(place)], []
    in_folder = await archive.in_folder()
    return (in_folder, []) if in_folder else ([], [place])


def _object(place: Prefix) -> Location:
    return Location(place.scheme, place.authority, place.key)


def _prefix(place: Location) -> Prefix:
    return Prefix(place.scheme, place.authority, place.key)


async def _parsed(
    config: Config,
    files: Sequence[Location],
    access: Access,
    wish: _Wish,
    reached: Reached,
    board: Board,
) -> Parsed:
    if not files:
        return Parsed([], [])
    if wish.dask is not None:
        return await trio.to_thread.run_sync(
            functools.partial(clusters.parse, wish.dask, config, files, board.heard),
            abandon_on_cancel=True,
        )
    workers = wish.jobs or clusters.cores()
    async with FileParser(reached.source, access, reached.disk, workers=workers) as parser:
        return await parse_files(files, parser.parse, board.heard)


async def _opened(config: Config, place: Prefix) -> tuple[str, References]:
    """Return what another source holds, and where."""
    opened = await open_source(
        dataclasses.replace(config, repository=place, selection=Selection(), source=str(place))
    )
    found = await references_of(opened.checkout, opened.access)
    return str(place).removesuffix("/"), found


# -- what is there ---------------------------------------------------------------------------------


async def _existing(
    access: Access, plan: Plan, branch: str, reached: Reached
) -> tuple[Existing | None, Access]:
    """Return what the branch has, or will begin with, None if there is no repository; and what may be read of it."""
    repository = await open_icechunk(Storage(reached.source, access))
    if repository is None:
        return None, access
    try:
        checkout = await check_out(repository, RefSpec(branch=branch))
    except RepositoryError as error:
        if error.kind is not ErrorKind.REF_NOT_FOUND or plan.append is not None:
            raise
        checkout = await check_out(repository, RefSpec(branch=DEFAULT_BRANCH))
    if plan.append is None:
        references = References(checkout.snapshot.nodes, {})
    else:
        references = await references_of(checkout)
    declared = [container.url_prefix for container in repository.containers or ()]
    existing = Existing(checkout.snapshot.id, references, declared)
    return existing, access.with_containers(repository.containers)


async def _read(chunks: Chunks, reached: Reached, target: Access, ref: ChunkRef) -> bytes:
    """Return the bytes of a chunk of the files, or of what the branch has."""
    if ref.kind is ChunkKind.VIRTUAL:
        try:
            return bytes(await chunks.read(ref, 0, ref.length))
        except AccessDenied:
            pass
    return bytes((await reached.source.fetch(target.authorize(ref))).data)


async def _credentials(target: Config) -> Credentials:
    """Return what opens the store of the repository. Raises SourceError."""
    keyring, store = Keyring(), target.store
    match target.repository.scheme:
        case "s3":
            return await keyring.aws(store)
        case "gs":
            return await keyring.google(store)
        case "az" | "abfs":
            return await keyring.azure(store, store.account or "")
    return None
