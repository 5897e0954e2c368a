"""Parsing on the workers of a Dask cluster: files go out as URLs, and references come back as bytes.

A worker needs vzfs, the libraries of the formats, and credentials of its own, if any are needed. What
comes back is checked as what a cache has: a cluster is no more trusted than a disk.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import trio

from vzfs.archival.parsing import FileParser
from vzfs.config import Config
from vzfs.errors import ConfigError, ErrorKind, FormatError, VzfsError
from vzfs.formats.references import decode_references, encode_references
from vzfs.ingest.parsing import DOING, Failure, Parsed, parse_files
from vzfs.model.location import Location, parse_location
from vzfs.model.references import References
from vzfs.mount import reaching

TASKS_A_WORKER: Final = 8
"""Tasks for each worker: what some are slow at, others make good."""
MAX_TASK: Final = 64
"""Files of one task, which starts its processes anew."""


class Answer(NamedTuple):
    """What a worker made of a file: references as bytes, or an error in words."""

    url: str
    references: bytes | None
    kind: str = ""
    what: str = ""
    advice: str = ""


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def parse_urls(config: Config, urls: Sequence[str]) -> list[Answer]:
    """Parse files, on whatever machine this runs."""
    return trio.run(_parse_urls, config, urls)


async def _parse_urls(config: Config, urls: Sequence[str]) -> list[Answer]:
    files = [parse_location(url) for url in urls]
    async with reaching(config) as reached:
        access = reached.access.with_containers(None).with_named(files)
        async with FileParser(reached.source, access, reached.disk, workers=1) as parser:
            parsed = await parse_files(files, parser.parse, lambda what, done, total: None)
    made = [Answer(url, bytes(encode_references(part))) for url, part in parsed.parts]
    failed = [
        Answer(where, None, error.kind, error.what, error.advice)
        for where, error in parsed.failures
    ]
    return [*made, *failed]


def parse(
    address: str,
    config: Config,
    files: Sequence[Location],
    heard: Callable[[str, int, int], object],
) -> Parsed:
    """Have the workers of the cluster at *address* parse *files*. Blocks. Raises VzfsError."""
    from distributed import as_completed

    urls = [str(file) for file in files]
    found: dict[str, References | VzfsError] = {}
    with connected(address, config.deadline) as client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise VzfsError(
                ErrorKind.SOURCE_UNREACHABLE, "the Dask cluster has no workers", where=address
            )
        size = min(max(-(-len(urls) // (workers * TASKS_A_WORKER)), 1), MAX_TASK)
        tasks = [urls[i : i + size] for i in range(0, len(urls), size)]
        work = functools.partial(parse_urls, config)
        heard(DOING, 0, len(urls))
        for future in as_completed(client.map(work, tasks, pure=False, retries=1)):  # type: ignore[no-untyped-call]
            found |= {answer.url: _read(answer) for answer in map(_answer, future.result())}
            heard(DOING, len(found), len(urls))
    lost = FormatError(ErrorKind.BUG, "a worker did not answer for it")
    answers = [(url, found.get(url, lost)) for url in urls]
    parts = [(url, made) for url, made in answers if isinstance(made, References)]
    failures = [Failure(url, made) for url, made in answers if isinstance(made, VzfsError)]
    return Parsed(parts, failures)


def _answer(value: Any) -> Answer:  # noqa: ANN401 -- whatever a worker says
    return Answer(*value)


def _read(answer: Answer) -> References | VzfsError:
    if answer.references is None:
        return VzfsError(
            ErrorKind(answer.kind), answer.what, where=answer.url, advice=answer.advice
        )
    try:
        return decode_references(answer.references)
    except FormatError as damage:
        return damage


def connected(address: str, deadline: float) -> Any:  # noqa: ANN401 -- distributed is imported late
    """Return a client of the cluster at *address*. Raises VzfsError if there is none within *deadline* seconds."""
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "--dask needs a library that is not installed",
            advice="pip install 'vzfs[dask]'",
        ) from None
    try:
        return Client(address, timeout=deadline)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise VzfsError(
            ErrorKind.SOURCE_UNREACHABLE,
            f"the Dask cluster does not answer ({type(error).__name__})",
            where=address,
            advice="check the address of its scheduler",
        ) from None
