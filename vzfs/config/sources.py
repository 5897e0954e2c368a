"""What a command line calls its source: a place, a pattern of files, several files, or a list of them."""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from vzfs.config.values import absolute, prefix_of
from vzfs.errors import AccessDenied, ConfigError, ErrorKind
from vzfs.model.location import Location, Prefix, parse_location, path_to_url
from vzfs.model.selection import MAX_FILES, Selection, compile_pattern, is_pattern, split_pattern

SUPPORTED: Final = ("file", "s3", "gs", "az", "abfs", "tigris", "http", "https")
"""Schemes of sources that can be read."""
REDIRECT: Final = "redirect+"
"""Before the URL of a web server that redirects to the repository's storage."""
LIST: Final = "@"
"""Before the path of a file that lists sources."""
MAX_LIST: Final = 64 * 2**20
"""Bytes of such a file."""


class Named(NamedTuple):
    """What a command line names: all lies below *place*, and *text* says it again in one line."""

    text: str
    place: Prefix
    redirect: Location | None = None
    selection: Selection = Selection()


def parse_sources(texts: Sequence[str], concat: str | None = None) -> Named:
    """Parse what is to be mounted. Raises ConfigError.

    *concat* is the dimension along which files are to be joined.
    """
    if concat is not None and not concat:
        raise ConfigError(
            ErrorKind.BAD_USAGE, "--concat names no dimension", advice="write it like --concat time"
        )
    if len(texts) == 1 and texts[0].startswith(LIST):
        return _named(texts[0], _read_list(Path(texts[0][len(LIST) :])), concat)
    if len(texts) == 1:
        return _one(texts[0], concat)
    if not texts:
        raise ConfigError(ErrorKind.BAD_USAGE, "no source is named")
    return _named(f"{texts[0]} and {len(texts) - 1} more", texts, concat)


def _one(text: str, concat: str | None) -> Named:
    pattern = ""
    whole = text
    if _means_a_pattern(text):
        text, pattern = split_pattern(text)
        if "://" in text:
            pattern = urllib.parse.unquote(pattern)
        try:
            compile_pattern(pattern)
        except ValueError:
            raise ConfigError(
                ErrorKind.BAD_USAGE, "the pattern cannot be understood", where=whole
            ) from None
        text = text or "."
    is_redirect = text.lower().startswith(REDIRECT)
    if is_redirect and pattern:
        raise ConfigError(
            ErrorKind.BAD_USAGE, "a redirect leads to a repository, not to files", where=whole
        )
    place = prefix_of(_meant(text[len(REDIRECT) :] if is_redirect else text))
    if place.scheme not in ({"http", "https"} if is_redirect else SUPPORTED):
        raise _unsupported(place.scheme, whole)
    redirect = Location(place.scheme, place.authority, place.key) if is_redirect else None
    return Named(whole, place, redirect, Selection(pattern, concat=concat))


def _meant(text: str) -> str:
    """Return what *text* names as a URL: a link to a file is the file that it leads to, whoever named it."""
    url = absolute(text)
    if "://" in text:
        return url
    path = os.path.expanduser(text)  # noqa: PTH111 -- it may be no path at all
    is_link = os.path.islink(path) and os.path.isfile(path)  # noqa: PTH113, PTH114
    return path_to_url(os.path.realpath(path)) if is_link else url


def _means_a_pattern(text: str) -> bool:
    """Whether *text* is a pattern. A file may have such a name; a URL has no question mark but for a query."""
    if "://" in text:
        _, _, path = text.partition("://")
        return is_pattern(path.replace("?", "").partition("/")[2])
    return is_pattern(text) and not os.path.exists(os.path.expanduser(text))  # noqa: PTH110, PTH111


def _read_list(path: Path) -> list[str]:
    """Return the lines of a list, but for empty ones and comments; relative paths are from its folder."""
    try:
        with path.expanduser().open(encoding="utf-8", errors="surrogateescape") as file:
            content = file.read(MAX_LIST + 1)
    except OSError as error:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the list of files cannot be read ({error.strerror})",
            where=str(path),
        ) from None
    if len(content) > MAX_LIST:
        raise ConfigError(
            ErrorKind.BAD_USAGE, f"the list has more than {MAX_LIST} characters", where=str(path)
        )
    lines = [line.strip() for line in content.splitlines()]
    folder = path.expanduser().absolute().parent
    found = [line for line in lines if line and not line.startswith("#")]
    return [line if "://" in line or line[0] in "/~" else str(folder / line) for line in found]


def _named(text: str, lines: Sequence[str], concat: str | None) -> Named:
    if not lines:
        raise ConfigError(ErrorKind.BAD_USAGE, "the list names no file", where=text)
    if len(lines) > MAX_FILES:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"more than {MAX_FILES} files are named",
            where=text,
            advice="make a repository of them: vzfs ingest",
        )
    files = []
    for line in lines:
        try:
            location = parse_location(_meant(line))
        except AccessDenied as refusal:
            raise ConfigError(ErrorKind.BAD_USAGE, refusal.what, where=refusal.where) from None
        if location.scheme not in SUPPORTED:
            raise _unsupported(location.scheme, line)
        files.append(location)
    return Named(text, _around(files), None, Selection(files=tuple(files), concat=concat))


def _around(files: Sequence[Location]) -> Prefix:
    """Return the folder that all *files* lie in, that of the first if there is none."""
    first = files[0]
    same = [f for f in files if (f.scheme, f.authority) == (first.scheme, first.authority)]
    folders = [f.key.split("/")[:-1] for f in (same if len(same) == len(files) else files[:1])]
    shared = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return Prefix(first.scheme, first.authority, "/".join(shared))


def _unsupported(scheme: str, text: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_USAGE,
        f"sources on {scheme}: cannot be read",
        where=text,
        advice=f"supported are local files and {', '.join(f'{s}://' for s in SUPPORTED)}",
    )
