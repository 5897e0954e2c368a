"""Changing a configuration file in place: every line that is not meant stays as it is.

The text is changed line by line by pure functions, and what comes out is parsed and compared with
what was meant. A file that is written in a way that this does not understand (`bucket = [{...}]`)
is refused, never spoilt. `rewrite` puts a text into a file at once or not at all, and one at a time
of those who do so.
"""

import contextlib
import fcntl
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from vzfs.access import BucketConfig
from vzfs.config.files import PolicyEntry, in_system_folders
from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.location import parse_prefix

USER_MODE: Final = 0o600
SYSTEM_MODE: Final = 0o644
"""Mounts of all users read the administrator's files."""

type Document = dict[str, Any]

_HEADER = re.compile(r"[ \t]*\[")
_STRING = r'"(?:[^"\\]|\\.)*"|\'[^\']*\''
_VALUE: Final = rf"(?:{_STRING}|true|false|\[(?:[ \t]*(?:{_STRING})[ \t]*,?)*[ \t]*\])"


def put_bucket(text: str, bucket: BucketConfig, options: Mapping[str, Any]) -> str:
    """Return *text* with *bucket*, which gets *options* besides those that it has.

    It is found by its nickname, or else is one of the same prefix that has none, and gets it.
    *options* have the names that stand in files. Raises ConfigError.
    """
    tables = tomllib.loads(text).get("bucket", [])
    numbers = [i for i, t in enumerate(tables) if t.get("nickname") == bucket.nickname] or [
        i
        for i, t in enumerate(tables)
        if "nickname" not in t and parse_prefix(t["prefix"]) == bucket.prefix
    ]
    named = {"nickname": bucket.nickname}
    if not numbers:
        return _append(text, "bucket", named | {"prefix": str(bucket.prefix)} | dict(options))
    return _update(text, "bucket", numbers[0], named | dict(options))


def put_policy(text: str, entry: PolicyEntry) -> str:
    """Return *text* with the policy *entry*, in the place of one of the same bucket and subprefix.

    Raises ConfigError.
    """
    tables = tomllib.loads(text).get("policy", [])
    for number, table in enumerate(tables):
        found = _entry(table)
        if found[:2] == entry[:2]:
            is_so = found.public == entry.public
            return text if is_so else _update(text, "policy", number, {"public": entry.public})
    said: dict[str, Any] = {"bucket": entry.bucket}
    if entry.subprefix:
        said["subprefix"] = entry.subprefix
    if entry.public:
        said["public"] = True
    return _append(text, "policy", said)


def drop_policy(text: str, entry: PolicyEntry) -> str:
    """Return *text* without the policies that are exactly *entry*. Raises ConfigError."""
    tables = tomllib.loads(text).get("policy", [])
    for number in reversed([i for i, table in enumerate(tables) if _entry(table) == entry]):
        text = _drop(text, "policy", number)
    return text


def _entry(table: Mapping[str, Any]) -> PolicyEntry:
    return PolicyEntry(table["bucket"], table.get("subprefix", ""), table.get("public", False))


# -- lines -------------------------------------------------------------------------------------


def _append(text: str, name: str, said: Mapping[str, Any]) -> str:
    meant = tomllib.loads(text)
    meant.setdefault(name, []).append(dict(said))
    lines = [f"[[{name}]]", *(f"{key} = {_written(value)}" for key, value in said.items())]
    before = text if not text or text.endswith("\n") else text + "\n"
    return _checked(before + ("\n" if before else "") + "\n".join(lines) + "\n", meant)


def _update(text: str, name: str, number: int, said: Mapping[str, Any]) -> str:
    meant = tomllib.loads(text)
    meant[name][number].update(said)
    for key, value in said.items():
        lines = text.splitlines(keepends=True)
        start, end = _span(lines, name, number)
        pattern = re.compile(rf"([ \t]*{re.escape(key)}[ \t]*=[ \t]*){_VALUE}(?=[ \t]*(?:#|\r?$))")
        for i in range(start + 1, end):
            if found := pattern.match(lines[i]):
                lines[i] = found[1] + _written(value) + lines[i][found.end() :]
                break
        else:
            lines[end - 1] = lines[end - 1].rstrip("\r\n") + "\n"
            lines.insert(end, f"{key} = {_written(value)}\n")
        text = "".join(lines)
    return _checked(text, meant)


def _drop(text: str, name: str, number: int) -> str:
    meant = tomllib.loads(text)
    del meant[name][number]
    if not meant[name]:
        del meant[name]
    lines = text.splitlines(keepends=True)
    start, end = _span(lines, name, number)
    # One of two empty lines around goes with it.
    if start and not lines[start - 1].strip() and not "".join(lines[end : end + 1]).strip():
        end += 1
    return _checked("".join(lines[:start] + lines[end:]), meant)


def _span(lines: list[str], name: str, number: int) -> tuple[int, int]:
    """Return the lines of a table: its header, and the one behind its last key."""
    header = re.compile(rf"[ \t]*\[\[[ \t]*{name}[ \t]*\]\][ \t]*(?:#|\r?$)")
    starts = [i for i, line in enumerate(lines) if header.match(line)]
    if number >= len(starts):
        raise _not_understood()
    start = starts[number]
    end = next(
        (i for i in range(start + 1, len(lines)) if _HEADER.match(lines[i])),
        len(lines),
    )
    # What stands behind the last key may be about the table that follows.
    while lines[end - 1].strip().startswith("#") or not lines[end - 1].strip():
        end -= 1
    return start, end


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    raise TypeError(value)


def _checked(text: str, meant: Document) -> str:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise _not_understood() from None
    # A tuple was meant as the list that comes back.
    if json.dumps(found, default=str, sort_keys=True) != json.dumps(
        meant, default=str, sort_keys=True
    ):
        raise _not_understood()
    return text


def _not_understood() -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_CONFIG,
        "the configuration file is written in a way that only a person can change",
        advice="change it by hand: `vzfs policy list` shows whether it was right",
    )


# -- files -------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Replace what stands in *path*, "" if it is not there, by what *change* makes of it.

    A reader sees the old text or the new one. A file that is there keeps its owner and mode, and
    stays where a link leads; a new one is the user's alone, but for the administrator's. Raises
    ConfigError; what *change* raises leaves the file alone.
    """
    is_system = in_system_folders(path)
    try:
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if is_system else 0o700)
        with _locked(real.parent):
            try:
                with real.open(encoding="utf-8", newline="") as opened:
                    old, status = opened.read(), os.fstat(opened.fileno())
            except FileNotFoundError:
                old, status = "", None
            new = change(old)
            if new == old and status is not None:
                return
            mode = SYSTEM_MODE if is_system else USER_MODE
            _replace(real, new, mode if status is None else status.st_mode & 0o7777, status)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"the configuration file cannot be written: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            advice="only root may change files of the administrator" if is_system else "",
        ) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only one who rewrites files in *folder*."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str, mode: int, status: os.stat_result | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as opened:
            if status is not None and (status.st_uid, status.st_gid) != (
                os.geteuid(),
                os.getegid(),
            ):
                os.fchown(opened.fileno(), status.st_uid, status.st_gid)
            os.fchmod(opened.fileno(), mode)
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
