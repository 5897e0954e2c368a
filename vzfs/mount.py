"""The composition root: builds the rooms, supervises them, and takes them down in order.

A mount that answers is announced; one that cannot be made raises before anything is announced.
SIGTERM and SIGINT unmount and leave; requests under way, and what is not yet in the cache, have
twice `GRACE`. SIGHUP has the configuration read again, whose policies then count at once. SIGUSR1
logs the statistics of every room.

A mount is of one visibility for its whole life, and so is the folder of its cache: what is fetched
for a public mount, by public policies alone, lies apart from everything else.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from vzfs import fuse, mounttable
from vzfs.access import Access, AccessPolicy, Visibility, in_force
from vzfs.cache import Buffers, DiskCache, MemoryCache
from vzfs.chunks import Chunks, ReadAhead
from vzfs.config import Config
from vzfs.decoding.decoder import Decoder
from vzfs.decoding.installed import can_decode
from vzfs.errors import ConfigError, ErrorKind, MountError, VzfsError
from vzfs.filesystem import Filesystem, Reading
from vzfs.model.moment import format_time
from vzfs.model.references import Omission
from vzfs.observe import HasStatistics, describe, notify
from vzfs.repository import (
    Checkout,
    Compiled,
    Opening,
    Repository,
    Timeline,
    check_out,
)
from vzfs.repository.storage import NoSource, Remembered
from vzfs.source import Egress, Fetcher, Places, Source, Timing
from vzfs.views.view import View, ViewName

logger = logging.getLogger("vzfs.mount")

_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})

MAX_FETCHES: Final = 256
"""Requests to stores under way at a time, of all readers together; one host gets a quarter of
them."""
MAX_DISK: Final = 8
"""Threads that read and write the cache at a time."""
AHEAD_SHARE: Final = 4
"""One part in so many of the memory for chunks may hold what is read ahead."""
GRACE: Final = 2.0
"""Seconds for requests under way when the mount is told to end, and for what is not yet in the
cache."""
PUBLIC_FOLDER: Final = "public"
"""The folder within the cache's that holds what public mounts have fetched."""
LOOK_AFTER: Final = 60.0
"""Seconds between two times that it is looked for hierarchies that nobody uses."""
MAX_LOGGED: Final = 1000
"""Things left out of which the log says why; `vzfs info` says it of all."""
MAX_NAMED: Final = 4
"""Things left out that are named when the mount is announced."""
ANSWER_WITHIN: Final = 20.0
"""Seconds in which a new mount must answer a stat of its root."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How a mount looks to the machine, whatever it shows.

    *ends_on_hangup* is for a mount in a terminal, which ends with it.
    """

    mountpoint: Path
    ownership: fuse.Ownership
    visibility: Visibility = Visibility.PRIVATE
    ends_on_hangup: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot with all that is needed to read from it."""

    checkout: Checkout
    access: Access
    source: Fetcher


@dataclasses.dataclass(slots=True)
class _Live:
    """A mount that serves: what may be asked of it, and what SIGHUP changes.

    *reload* reads the configuration again; *policies* are those that count now.
    """

    filesystem: Filesystem
    operations: fuse.Operations
    session: fuse.Session
    rooms: dict[str, HasStatistics]
    ends_on_hangup: bool
    reload: Callable[[], Config]
    policies: Sequence[AccessPolicy]


async def _reach(
    config: Config, visibility: Visibility = Visibility.PRIVATE
) -> tuple[Source, Access]:
    """Build what reads the repository, and find it if a redirect says where it is."""
    limit = config.max_egress
    source = Source(
        Timing(deadline=config.deadline),
        places=Places(MAX_FETCHES),
        egress=None if limit is None else Egress(limit.limit, is_daily=limit.per_day),
    )
    if config.redirect is not None:
        if config.offline:
            raise ConfigError(
                ErrorKind.BAD_USAGE,
                "offline nobody can be asked where a redirect leads",
                where=config.source,
                advice="mount the storage itself, which `vzfs mount` names",
            )
        prefix, proposed = await source.follow(config.redirect, config.store)
        config = config.redirected(prefix, proposed, visibility)
    return source, config.access(visibility)


async def open_repository_of(config: Config) -> Repository:
    """Open the repository that *config* names, without choosing a snapshot."""
    source, access = await _reach(config)
    return await Opening(source, source, access, config.selection).open()


async def open_source(config: Config) -> Opened:
    """Open the repository that *config* names and check out the snapshot that it asks for."""
    source, access = await _reach(config)
    disk = _disk_cache(config, Visibility.PRIVATE, Buffers())
    opening = Opening(source, source, access, config.selection, disk)
    return await _open(config, opening, source, access)


async def _open(
    config: Config,
    opening: Opening,
    source: Fetcher,
    access: Access,
    compiled: Compiled | None = None,
) -> Opened:
    """Open what *opening* finds, whose chunks *source* gives."""
    repository = await opening.open()
    checkout = await check_out(repository, config.ref, compiled)
    access = authorized(access, repository)
    if config.follow is not None and not repository.is_versioned:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"{repository.format} has no branch that could be followed",
            where=config.source,
            advice="leave out --follow, or ingest it into an Icechunk repository: vzfs ingest",
        )
    return Opened(checkout, access, source)


def authorized(access: Access, repository: Repository) -> Access:
    """Return *access* with what is known of *repository*: what it declares, and what the user named by naming it."""
    access = access.with_containers(repository.containers)
    return access.with_named(repository.named) if repository.named else access


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """What reads objects of a source, without knowing yet what they are; *nursery* is for what runs meanwhile."""

    source: Fetcher
    access: Access
    disk: DiskCache | None
    buffers: Buffers
    nursery: trio.Nursery


@contextlib.asynccontextmanager
async def reaching(
    config: Config, visibility: Visibility = Visibility.PRIVATE
) -> AsyncGenerator[Reached]:
    """Have the objects of what *config* names readable. What is fetched is in the cache when this is over."""
    buffers = Buffers()
    disk = _disk_cache(config, visibility, buffers)
    reached, access = await _reach(config, visibility)
    source: Fetcher = NoSource() if config.offline else reached
    async with trio.open_nursery() as nursery:
        for run in (reached.run, *([disk.run] if disk else [])):
            await nursery.start(run)
        try:
            yield Reached(source, access, disk, buffers, nursery)
        finally:
            # Who was interrupted begins where this ended.
            with trio.move_on_after(GRACE, shield=True):
                if disk is not None:
                    await disk.written()
        nursery.cancel_scope.cancel()


@dataclasses.dataclass(frozen=True, slots=True)
class ReadingRooms:
    """What reads chunks without a mount: through *disk*, the same cache, if there is one."""

    opened: Opened
    chunks: Chunks
    memory: MemoryCache
    disk: DiskCache | None
    buffers: Buffers


@contextlib.asynccontextmanager
async def reading(
    config: Config, visibility: Visibility = Visibility.PRIVATE
) -> AsyncGenerator[ReadingRooms]:
    """Open what *config* names and have its chunks readable, as a mount of this *visibility* reads them.

    What is fetched is in the cache when this is over.
    """
    async with reaching(config, visibility) as reached:
        source, access, disk = reached.source, reached.access, reached.disk
        storage, compiled = source, None
        if disk is not None:
            compiled = Compiled(disk, access)
            await reached.nursery.start(compiled.run)
            storage = Remembered(source, disk, access.repository, is_offline=config.offline)
        opening = Opening(storage, source, access, config.selection, disk)
        opened = await _open(config, opening, source, access, compiled)
        memory = MemoryCache(config.memory)
        chunks = Chunks(opened.source, opened.access, memory, disk, reached.buffers)
        await reached.nursery.start(chunks.run)
        yield ReadingRooms(opened, chunks, memory, disk, reached.buffers)
        if disk is not None and compiled is not None:
            await compiled.written()
            await disk.written()


async def mount(
    config: Config,
    options: MountOptions,
    announce: Callable[[str, Sequence[str]], None],
    reload: Callable[[], Config],
) -> None:
    """Mount, announce it once it answers, and serve until unmounted or told to end.

    *reload* reads the configuration again, and raises ConfigError as it was read first. Raises
    VzfsError if the mount cannot be made.
    """
    mounttable.check_mountpoint(options.mountpoint)
    buffers = Buffers()
    disk = _disk_cache(config, options.visibility, buffers)
    if config.offline and disk is None:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "a mount without a cache has nothing to serve offline",
            advice="give --cache-dir, or leave out --offline",
        )
    reached, access = await _reach(config, options.visibility)
    source: Fetcher = NoSource() if config.offline else reached
    remembered = compiled = None
    if disk is not None:
        compiled = Compiled(disk, access)
        remembered = Remembered(source, disk, access.repository, is_offline=config.offline)
    opening = Opening(remembered or source, source, access, config.selection, disk)
    opened = await _open(config, opening, source, access, compiled)
    repository = opened.checkout.repository
    memory = MemoryCache(config.memory)
    chunks = Chunks(opened.source, opened.access, memory, disk, buffers)
    ahead = ReadAhead(chunks, config.memory // AHEAD_SHARE)
    decoder = Decoder(chunks, memory, disk, buffers)
    filesystem = Filesystem(
        opened.checkout,
        Reading(opened.access, chunks, ahead, decoder),
        View(ViewName(config.view_name), config.zarr_format, config.consolidated),
        Timeline(opening, opened.checkout, compiled),
        decodable=can_decode,
        is_following=config.follow is not None,
    )
    rooms: dict[str, HasStatistics] = {
        "filesystem": filesystem,
        "decoding": decoder,
        "chunks": chunks,
        "ahead": ahead,
        "memory": memory,
        "source": opened.source,
    }
    if disk is not None and compiled is not None:
        rooms |= {"disk": disk, "compiled": compiled}
    if repository.notice:
        logger.info("%s", repository.notice)
    lost = [omission for omission in repository.omissions if omission.is_loss]
    for omission in lost[:MAX_LOGGED]:
        logger.info("left out: %s: %s", omission.path, omission.reason)
    for report in opened.access.report():
        if report.problem:
            logger.info(
                "a container of the repository authorizes nothing: %s [%s]",
                report.problem,
                report.url_prefix,
            )
    operations = fuse.Operations(filesystem, options.ownership)
    runs: list[Callable[..., Awaitable[None]]] = [
        reached.run,
        chunks.run,
        decoder.run,
        opened.checkout.preload,
    ]
    written: list[Callable[[], Awaitable[None]]] = []
    if disk is not None and remembered is not None and compiled is not None:
        runs += [disk.run, remembered.run, compiled.run]
        written += [compiled.written, disk.written]
    notes = [*opened.access.notes(), *_omitted(lost, config.source)]
    if remembered is not None and remembered.as_of is not None:
        moment = format_time(remembered.as_of * 10**9)
        notes.append(f"offline: the repository is shown as of {moment}, from the cache alone")
    with trio.open_signal_receiver(*_ENDING, signal.SIGHUP, signal.SIGUSR1) as signals:
        session = fuse.mount(
            operations,
            str(options.mountpoint),
            fuse.options(
                _name_of(config), allow_other=options.visibility is not Visibility.PRIVATE
            ),
        )
        rooms["fuse"] = session
        runs.append(functools.partial(_end_idle, filesystem, session))
        if config.follow is not None:
            runs.append(functools.partial(_follow, filesystem, session, config.follow))
        live = _Live(
            filesystem,
            operations,
            session,
            rooms,
            options.ends_on_hangup,
            reload,
            config.policies,
        )
        try:
            await _supervise(
                live,
                runs,
                written,
                signals,
                lambda: _announce(options, opened, notes, announce),
            )
        finally:
            notify("STOPPING=1")
            session.close()


def _disk_cache(config: Config, visibility: Visibility, buffers: Buffers) -> DiskCache | None:
    if config.cache_dir is None:
        return None
    folder = config.cache_dir
    if visibility is Visibility.PUBLIC:
        folder /= PUBLIC_FOLDER
    return DiskCache(
        folder,
        max_bytes=config.cache_size,
        limiter=trio.CapacityLimiter(MAX_DISK),
        owner=str(config.repository),
        buffers=buffers,
    )


def _omitted(omissions: Sequence[Omission], source: str) -> list[str]:
    """Say what the mount does not show, in one line."""
    if not omissions:
        return []
    shown = ", ".join(omission.path for omission in omissions[:MAX_NAMED])
    more = f" and {len(omissions) - MAX_NAMED} more" if len(omissions) > MAX_NAMED else ""
    return [f"left out: {shown}{more}; `vzfs info {shlex.quote(source)}` says why"]


def _name_of(config: Config) -> str:
    """Return the source as mount(8) knows it from fstab, if the kernel can be told it so."""
    is_plain = config.source.isascii() and config.source.isprintable()
    return config.source if is_plain else str(config.repository)


async def _supervise(
    live: _Live,
    runs: Sequence[Callable[..., Awaitable[None]]],
    written: Sequence[Callable[[], Awaitable[None]]],
    signals: AsyncIterator[int],
    announce: Callable[[], Awaitable[None]],
) -> None:
    failure: VzfsError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, signals, nursery, live)
        for run in runs:
            await nursery.start(run)

        async def announce_or_leave() -> None:
            nonlocal failure
            try:
                await announce()
            except VzfsError as error:
                failure = error
                nursery.cancel_scope.cancel()

        nursery.start_soon(announce_or_leave)
        await live.session.serve()
        with trio.move_on_after(GRACE):
            for wait in written:
                await wait()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    logger.info("unmounted; %s", describe(live.rooms))


async def _heed_signals(signals: AsyncIterator[int], nursery: trio.Nursery, live: _Live) -> None:
    reloading = trio.Lock()
    async for number in signals:
        if number in _ENDING or (number == signal.SIGHUP and live.ends_on_hangup):
            logger.info("ending: %s", signal.Signals(number).name)
            live.session.stop()
            scope = nursery.cancel_scope
            scope.deadline = min(scope.deadline, trio.current_time() + 2 * GRACE)
        elif number == signal.SIGHUP:
            nursery.start_soon(_reload, live, reloading)
        else:
            logger.info("%s", describe(live.rooms))


# -- hierarchies that come and go --------------------------------------------------------------


async def _end_idle(
    filesystem: Filesystem,
    session: fuse.Session,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """End hierarchies that nobody uses, now and then, until cancelled."""
    task_status.started()
    while True:
        await trio.sleep(LOOK_AFTER)
        try:
            names = filesystem.idle()
            await session.forget_names(
                [(parent, name.encode("utf-8", "surrogateescape")) for parent, name in names]
            )
        except Exception:
            # Nobody waits for this task, and it must not end a mount.
            logger.exception("nothing was ended: this is a bug in vzfs, please report it")


async def _follow(
    filesystem: Filesystem,
    session: fuse.Session,
    every: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Have the root show what its branch is, every so many seconds, until cancelled.

    Where that cannot be, what is shown stays; one line says so, and another that it is over.
    """
    task_status.started()
    is_told = False
    while True:
        await trio.sleep(every)
        try:
            checkout = await filesystem.news()
            if checkout is not None:
                await filesystem.move(checkout)
                # Names in the root are looked up each time; its listing is what the kernel keeps.
                await session.drop_pages([fuse.ROOT])
                logger.info("the root shows snapshot %s", checkout.snapshot.id)
        except VzfsError as error:
            if not is_told:
                logger.warning("the branch cannot be followed for now: %s", error)
            is_told = True
        except Exception:
            # Nobody waits for this task, and it must not end a mount.
            if not is_told:
                logger.exception("the branch is not followed: this is a bug, please report it")
            is_told = True
        else:
            if is_told:
                logger.info("the branch is followed again")
            is_told = False


# -- another configuration ---------------------------------------------------------------------


async def _reload(live: _Live, lock: trio.Lock) -> None:
    """Read the configuration again and have its policies count, or keep to the old one."""
    async with lock:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = await trio.to_thread.run_sync(live.reload, abandon_on_cancel=True)
            access = live.filesystem.access.with_policies(config.policies)
            before, live.policies = live.policies, config.policies
            outdated = await live.operations.adopt(access)
            await live.session.drop_pages(outdated)
            for error in config.left_out:
                logger.warning("this does not count any more: %s", error)
            logger.info(
                "the configuration was read again: %s; files that the kernel had to drop: %d",
                _difference(*(_prefixes(p, access.visibility) for p in (before, live.policies))),
                len(outdated),
            )
        except VzfsError as error:
            logger.error("the configuration stays as it was: %s", error)  # noqa: TRY400 -- no bug
        except Exception:
            logger.exception("the configuration stays as it was: this is a bug, please report it")
        finally:
            notify("READY=1")


def _prefixes(policies: Sequence[AccessPolicy], visibility: Visibility) -> set[str]:
    """Return what *policies* open to a mount."""
    is_public = visibility is Visibility.PUBLIC
    return {str(p.prefix) for p in in_force(policies) if p.public or not is_public}


def _difference(before: set[str], after: set[str]) -> str:
    parts = [
        f"{what} {', '.join(sorted(prefixes))}"
        for what, prefixes in (("opened", after - before), ("closed", before - after))
        if prefixes
    ]
    return ", ".join(parts) or "the same prefixes are open"


async def _announce(
    options: MountOptions,
    opened: Opened,
    notes: Sequence[str],
    announce: Callable[[str, Sequence[str]], None],
) -> None:
    """Wait until the mount answers, then say so to the service manager and to *announce*."""
    # A process of its own asks: a thread of this one that waited for its own mount could never be
    # ended. An interpreter would take longer to start than all else that is left to do.
    probe = ["/bin/sh", "-c", 'test -d "$1"', "sh"]
    with trio.move_on_after(ANSWER_WITHIN):
        result = await trio.run_process(
            [*probe, os.fspath(options.mountpoint)], check=False, stderr=subprocess.DEVNULL
        )
        if result.returncode == 0:
            mounted = mounttable.topmost(options.mountpoint)
            if mounted is not None:
                fuse.read_further_ahead(mounted.device)
            checkout = opened.checkout
            is_plain = checkout.ref.snapshot or not checkout.repository.is_versioned
            ref = "" if is_plain else f"{checkout.ref}, "
            place = str(opened.access.repository)
            if not checkout.repository.is_versioned:
                place = place.removesuffix("/")
            message = (
                f"{place} is mounted at {options.mountpoint} ({ref}snapshot {checkout.snapshot.id})"
            )
            for line in (message, *notes):
                logger.info("%s", line)
            notify(f"READY=1\nSTATUS={message}")
            announce(message, notes)
            return
    raise MountError(
        ErrorKind.FUSE_UNAVAILABLE,
        "the mount does not answer",
        where=str(options.mountpoint),
        advice="the log may say why",
    )
