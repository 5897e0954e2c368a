"""The composition root: builds the rooms, supervises them, and takes them down in order.

A mount that answers is announced; one that cannot be made raises before anything is announced.
SIGTERM, SIGINT and SIGHUP unmount and leave; requests under way, and what is not yet in the cache,
have twice `GRACE`. SIGUSR1 logs the statistics of every room.
"""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from vzfs import fuse, mounttable
from vzfs.access import Access
from vzfs.cache import DiskCache, MemoryCache
from vzfs.chunks import Chunks
from vzfs.config import Config
from vzfs.errors import ErrorKind, MountError, VzfsError
from vzfs.filesystem import Filesystem
from vzfs.observe import HasStatistics, describe, notify
from vzfs.repository import Checkout, Repository, check_out, open_repository
from vzfs.source import Source, Timing

logger = logging.getLogger("vzfs.mount")

_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

MAX_FETCHES: Final = 96
"""Requests to stores under way at a time, of all readers together; one host gets a quarter of
them."""
MAX_DISK: Final = 8
"""Threads that read and write the cache at a time."""
GRACE: Final = 2.0
"""Seconds for requests under way when the mount is told to end, and for what is not yet in the
cache."""
ANSWER_WITHIN: Final = 20.0
"""Seconds in which a new mount must answer a stat of its root."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How a mount looks to the machine, whatever it shows."""

    mountpoint: Path
    ownership: fuse.Ownership
    allow_other: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot with all that is needed to read from it."""

    checkout: Checkout
    access: Access
    source: Source


def _reach(config: Config) -> tuple[Source, Access]:
    source = Source(Timing(deadline=config.deadline), limiter=trio.CapacityLimiter(MAX_FETCHES))
    access = Access(
        config.repository,
        config.store,
        policies=config.policies,
        relocations=config.relocations,
    )
    return source, access


async def open_repository_of(config: Config) -> Repository:
    """Open the repository that *config* names, without choosing a snapshot."""
    return await open_repository(*_reach(config))


async def open_source(config: Config) -> Opened:
    """Open the repository that *config* names and check out the snapshot that it asks for."""
    source, access = _reach(config)
    repository = await open_repository(source, access)
    checkout = await check_out(repository, config.ref)
    return Opened(checkout, access.with_containers(repository.containers), source)


async def mount(
    config: Config, options: MountOptions, announce: Callable[[str, Sequence[str]], None]
) -> None:
    """Mount, announce it once it answers, and serve until unmounted or told to end.

    Raises VzfsError if the mount cannot be made.
    """
    mounttable.check_mountpoint(options.mountpoint)
    opened = await open_source(config)
    disk = None
    if config.cache_dir is not None:
        disk = DiskCache(
            config.cache_dir, max_bytes=config.cache_size, limiter=trio.CapacityLimiter(MAX_DISK)
        )
    memory = MemoryCache(config.memory)
    chunks = Chunks(opened.source, opened.access, memory, disk)
    filesystem = Filesystem(opened.checkout, opened.access, chunks)
    rooms: dict[str, HasStatistics] = {"chunks": chunks, "memory": memory, "source": opened.source}
    if disk is not None:
        rooms["disk"] = disk
    if opened.checkout.repository.notice:
        logger.info("%s", opened.checkout.repository.notice)
    for report in opened.access.report():
        if report.problem:
            logger.info(
                "a container of the repository authorizes nothing: %s [%s]",
                report.problem,
                report.url_prefix,
            )
    with trio.open_signal_receiver(*_ENDING, signal.SIGUSR1) as signals:
        fuse.init(
            fuse.Operations(filesystem, options.ownership),
            str(options.mountpoint),
            fuse.options(_name_of(config), allow_other=options.allow_other),
        )
        try:
            await _supervise(
                chunks, disk, rooms, signals, lambda: _announce(options, opened, announce)
            )
        finally:
            notify("STOPPING=1")
            fuse.close()


def _name_of(config: Config) -> str:
    """Return the source as mount(8) knows it from fstab, if the kernel can be told it so."""
    is_plain = config.source.isascii() and config.source.isprintable()
    return config.source if is_plain else str(config.repository)


async def _supervise(
    chunks: Chunks,
    disk: DiskCache | None,
    rooms: dict[str, HasStatistics],
    signals: AsyncIterator[int],
    announce: Callable[[], Awaitable[None]],
) -> None:
    failure: VzfsError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, signals, nursery.cancel_scope, rooms)
        await nursery.start(chunks.run)
        if disk is not None:
            await nursery.start(disk.run)

        async def announce_or_leave() -> None:
            nonlocal failure
            try:
                await announce()
            except VzfsError as error:
                failure = error
                nursery.cancel_scope.cancel()

        nursery.start_soon(announce_or_leave)
        await fuse.serve()
        with trio.move_on_after(GRACE):
            await chunks.written()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    logger.info("unmounted; %s", describe(rooms))


async def _heed_signals(
    signals: AsyncIterator[int], scope: trio.CancelScope, rooms: dict[str, HasStatistics]
) -> None:
    async for number in signals:
        if number in _ENDING:
            logger.info("ending: %s", signal.Signals(number).name)
            fuse.stop()
            scope.deadline = min(scope.deadline, trio.current_time() + 2 * GRACE)
        else:
            logger.info("%s", describe(rooms))


async def _announce(
    options: MountOptions, opened: Opened, announce: Callable[[str, Sequence[str]], None]
) -> None:
    """Wait until the mount answers, then say so to the service manager and to *announce*."""
    # A process of its own asks: a thread of this one that waited for its own mount could never be
    # ended.
    probe = [sys.executable, "-ISc", "import os, sys; os.stat(sys.argv[1])"]
    with trio.move_on_after(ANSWER_WITHIN):
        result = await trio.run_process(
            [*probe, os.fspath(options.mountpoint)], check=False, stderr=subprocess.DEVNULL
        )
        if result.returncode == 0:
            checkout = opened.checkout
            ref = "" if checkout.ref.snapshot else f"{checkout.ref}, "
            message = (
                f"{opened.access.repository} is mounted at {options.mountpoint} "
                f"({ref}snapshot {checkout.snapshot.id})"
            )
            notes = opened.access.notes()
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
