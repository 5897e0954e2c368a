"""What is believed of the cache's disk: good, failed or full, since when, and what the user was told.

A trouble is told once, when it begins, and once more when it is over. In between the disk is left
alone, but for one operation in a while: who claims it tries the disk, and the others go on without
waiting for the outcome.
"""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vzfs.cache.folder import UnsafeFolderError

logger = logging.getLogger("vzfs.cache")

RETRY_AFTER: Final = 60.0
"""Seconds that a failed or full disk is left alone: long enough to be quiet, short enough for a
person who repairs it."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Health:
    """The health of the disk under *path*, by the clock *monotonic* in seconds."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._probe_at: float | None = None
        self._trial_at: float | None = None
        self._is_said_full = False
        self.errors = 0

    @property
    def is_off(self) -> bool:
        """Whether the disk failed, and is not used."""
        return self._probe_at is not None

    @property
    def is_full(self) -> bool:
        """Whether the disk was full, and is not written to."""
        return self._trial_at is not None

    # -- failed --------------------------------------------------------------------------------

    def turn_off(self, problem: OSError) -> None:
        """Leave the disk alone, because of *problem*."""
        self.errors += 1
        if self._probe_at is not None:
            return
        self._probe_at = self._monotonic() + RETRY_AFTER
        logger.warning(
            "the disk cache is off, and sources are read instead: %s [%s]: %s; "
            "it is tried again every %g seconds",
            problem.strerror or problem,
            self._path,
            _advice(problem),
            RETRY_AFTER,
        )

    def claim_probe(self) -> bool:
        """Whether the caller is to find out if the failed disk works again."""
        if self._probe_at is None or self._monotonic() < self._probe_at:
            return False
        self._probe_at = self._monotonic() + RETRY_AFTER
        return True

    def turn_on(self) -> None:
        """Use the disk again."""
        self._probe_at = None
        logger.info("the disk cache is on again [%s]", self._path)

    # -- full ----------------------------------------------------------------------------------

    def stop_writing(self) -> None:
        """Write nothing more for now. Nothing is said yet: there may be something to delete."""
        self._trial_at = self._monotonic() + RETRY_AFTER

    def claim_trial(self) -> bool:
        """Whether the caller is to find out if the full disk has room again."""
        if self._trial_at is None or self._monotonic() < self._trial_at:
            return False
        self._trial_at = self._monotonic() + RETRY_AFTER
        return True

    def say_full(self, problem: OSError) -> None:
        """Say that the disk stays full, whatever was deleted."""
        self.errors += 1
        if self._is_said_full:
            return
        self._is_said_full = True
        logger.warning(
            "nothing more is written to the disk cache: %s [%s]: free some space, or name another "
            "folder with --cache-dir; it is tried again every %g seconds",
            problem.strerror or problem,
            self._path,
            RETRY_AFTER,
        )

    def start_writing(self) -> None:
        """Write again: a write went well."""
        self._trial_at = None
        if self._is_said_full:
            self._is_said_full = False
            logger.info("the disk cache is written to again [%s]", self._path)


def means_full(problem: OSError) -> bool:
    """Whether *problem* says no more than that there is no room."""
    return problem.errno in _FULL


def _advice(problem: OSError) -> str:
    if isinstance(problem, UnsafeFolderError):
        return "chown it to yourself and chmod 700 it, or name another folder with --cache-dir"
    if problem.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "make it writable, or name another folder with --cache-dir"
    return "check the disk, or name another folder with --cache-dir"
