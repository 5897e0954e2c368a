"""What every decoder promises: a model or an error that says so, in bounded time and memory."""

import contextlib
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator

from vzfs.errors import AccessDenied, ConfigError, FormatError, NameProblem, SourceError, VzfsError

EXPECTED = (FormatError, AccessDenied, ConfigError, SourceError, NameProblem)
"""What foreign bytes may be answered with. A `BUG` among them is one."""

SECONDS_PER_MIB = 1.0
LEAST_SECONDS = 1.0
"""Processor seconds of this thread that an input may take: others on the machine do not count."""

MAX_WHAT = 1000
"""Characters of what an error says happened: a log line is for people."""

MAX_WHERE = 40_000
"""Characters of where it happened: a location of 8192 characters may need four or five for each."""


class BrokenContractError(Exception):
    """A decoder took too long, or its error is none that can be shown."""


def check(
    run: Callable[[bytes], object], data: bytes, *, patience: float = 1.0
) -> VzfsError | None:
    """Decode *data* and return the error that the decoder gave, if it did.

    *patience* is for decoders that are measured while they run, and so take longer. Raises whatever
    else was raised, and BrokenContractError.
    """
    started = time.thread_time()
    failure: VzfsError | None = None
    try:
        run(data)
    except EXPECTED as error:
        failure = error
    took = time.thread_time() - started
    allowed = patience * max(LEAST_SECONDS, SECONDS_PER_MIB * len(data) / 2**20)
    if took > allowed:
        raise BrokenContractError(f"{len(data)} bytes take {took:.1f} s")
    if failure is not None:
        _check_error(failure)
    return failure


def _check_error(error: VzfsError) -> None:
    if error.kind == "bug":
        raise BrokenContractError(f"foreign bytes count as a bug: {error}") from error
    if isinstance(error, ConfigError):
        return  # The user's own words, however long.
    if not 0 < len(error.what) <= MAX_WHAT:
        raise BrokenContractError(f"{len(error.what)} characters say what happened") from error
    if len(error.where) + len(error.advice) > MAX_WHERE:
        raise BrokenContractError(f"{len(error.where)} characters say where") from error
    if not error.what.isprintable():
        raise BrokenContractError(f"what happened is not one line: {error.what!r}") from error


@contextlib.contextmanager
def memory(limit: int) -> Iterator[None]:
    """Raise BrokenContractError if what is inside holds more than *limit* bytes at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > limit:
        raise BrokenContractError(f"{peak / 2**20:.0f} MiB are held, of {limit / 2**20:.0f}")
