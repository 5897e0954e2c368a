"""A mount that runs: what it shows, and with which options it was made.

The kernel's mount table says that a mount is there, the mount itself what it shows (the extended
attributes of its root), and the command line of its daemon which options it was given. Only a
daemon of the same user counts: options name endpoints, and those of a stranger must not receive
this user's credentials.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from click.core import ParameterSource

from vzfs import mounttable
from vzfs.access import Visibility
from vzfs.cli.mounting import mount
from vzfs.cli.options import configuration
from vzfs.config import Config
from vzfs.config.sources import LIST
from vzfs.errors import ConfigError, ErrorKind, MountError
from vzfs.model.selection import is_pattern

_PROC: Final = Path("/proc")
_STARTED: Final = 19
"""Place of the start time in `/proc/PID/stat`, counted behind the name of the program."""
_REF: Final = frozenset({"branch", "tag", "snapshot", "as_of"})


class RunningMount(NamedTuple):
    """A mount of this user: *repository* is a URL, *snapshot* the id of what is shown, *pid* the daemon.

    *given* is what the options of `vzfs mount` were, relative paths made absolute.
    """

    mountpoint: Path
    pid: int
    repository: str
    snapshot: str
    given: Mapping[str, Any]

    @property
    def visibility(self) -> Visibility:
        """For whom the mount is, which decides whether policies must be public."""
        if self.given.get("allow_other"):
            return Visibility.PUBLIC
        return Visibility.PRIVATE if self.given.get("group") is None else Visibility.GROUP


def is_mounted(text: str) -> bool:
    """Whether *text* names the mountpoint of a vzfs mount. Does not touch the mount."""
    if "://" in text:
        return False
    mounted = mounttable.topmost(mounttable.resolve(text))
    return mounted is not None and mounted.fstype == mounttable.FSTYPE


def find(mountpoint: Path) -> RunningMount:
    """Return the mount at *mountpoint*.

    Raises MountError if there is none, or its daemon has died or is no process of this user, and
    ConfigError if what its options mean is not known.
    """
    place = mounttable.resolve(mountpoint)
    if not is_mounted(str(place)):
        raise MountError(
            ErrorKind.NOT_MOUNTED,
            "no vzfs mount is here",
            where=str(place),
            advice="`findmnt -t fuse.vzfs` lists them",
        )
    try:
        repository, snapshot = (
            os.fsdecode(os.getxattr(place, f"user.vzfs.{name}"))
            for name in ("repository", "snapshot")
        )
    except OSError as error:
        raise MountError(
            ErrorKind.BAD_MOUNTPOINT,
            f"the mount does not say what it shows ({error.strerror})",
            where=str(place),
            advice="its daemon has died, or it belongs to another user",
        ) from None
    # One that was detached may still serve open files; the mount on top is the youngest.
    daemons = [(_age(daemon.pid), daemon) for daemon in daemons_at(place)]
    if not daemons:
        raise MountError(
            ErrorKind.NOT_MOUNTED,
            "the daemon of the mount is none of your processes, so its options are not known",
            where=str(place),
            advice=f"name what it shows instead: {repository} --snapshot {snapshot}",
        )
    _, daemon = max(daemons, key=lambda found: found[0])
    given = _absolute(daemon)
    if given is None:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "the mount was made with relative paths, and in which folder is not known",
            where=str(place),
            advice=f"name what it shows instead: {repository} --snapshot {snapshot}",
        )
    return RunningMount(place, daemon.pid, repository, snapshot, given)


def configuration_of(running: RunningMount, given: dict[str, Any]) -> Config:
    """Return the configuration of a mount, with what the running command was *given* besides.

    Files and the environment count as they are now and here. Options that are repeatable add up; of
    others that of the command wins. Raises ConfigError.
    """
    if any(given[name] is not None for name in _REF & given.keys()):
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "a mount shows one snapshot, and another is asked for",
            where=str(running.mountpoint),
            advice=f"name the repository instead: {running.repository}",
        )
    merged = {name: _merged(name, running.given.get(name), own) for name, own in given.items()}
    shown = dict.fromkeys(_REF) | {"snapshot": running.snapshot}
    if _selects(running.given):
        # Of files it is not a place that names what is shown, and what is shown is what they are.
        return configuration(running.given["sources"], merged | dict.fromkeys(_REF))
    return configuration(running.repository, merged | shown)


def _merged(name: str, theirs: Any, own: Any) -> Any:  # noqa: ANN401 -- values of options
    if isinstance(own, tuple):
        return (*(theirs or ()), *own)
    chosen = click.get_current_context().get_parameter_source(name)
    return theirs if chosen is ParameterSource.DEFAULT else own


# -- processes ---------------------------------------------------------------------------------


class _Daemon(NamedTuple):
    """A process that mounts: what it was given as it stands, and in which folder, if that is known."""

    pid: int
    given: Mapping[str, Any]
    folder: Path | None


def daemons_at(mountpoint: Path) -> Iterator[_Daemon]:
    """Yield this user's processes that were told to mount there."""
    for process in _PROC.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if process.stat().st_uid != os.geteuid():
                continue
            words = _words_of_mount((process / "cmdline").read_bytes())
            given = None if words is None else _parsed(words)
        except (OSError, click.ClickException):
            continue  # gone, or no command of this version
        if given is None:
            continue
        folder = _folder(process, given)
        named = given["mountpoint"] if folder is None else folder / given["mountpoint"]
        if named.is_absolute() and mounttable.resolve(named) == mountpoint:
            yield _Daemon(int(process.name), given, folder)


def _words_of_mount(command_line: bytes) -> list[str] | None:
    """Return what follows `vzfs mount` in a command line, None if it does not mount."""
    words = [os.fsdecode(word) for word in command_line.split(b"\0")[:-1]]
    for i, word in enumerate(words[1:-1], 1):
        if word == "mount" and Path(words[i - 1]).name == "vzfs":
            return None if {"-h", "--help"} & {*words[i:]} else words[i + 1 :]
    return None


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    with mount.make_context("mount", list(words)) as context:
        return dict(context.params)


def _folder(process: Path, given: Mapping[str, Any]) -> Path | None:
    """Return the folder that a process was started in, None if that cannot be told.

    A daemon leaves it, but is told it. Of a mount in the foreground the kernel tells root alone
    where it is, as it holds secrets.
    """
    if given.get("started_in"):
        return Path(given["started_in"])
    try:
        return None if given["announce_fd"] is not None else (process / "cwd").readlink()
    except OSError:
        return None


def _absolute(daemon: _Daemon) -> Mapping[str, Any] | None:
    """Return what a daemon was given with its paths made absolute, None where that cannot be done."""
    given, folder = daemon.given, daemon.folder
    credentials = given.get("credentials") or ""
    paths = [
        *given["allow"],
        *(half for pair in given["map_"] for half in pair.split("=")),
        *(source.removeprefix(LIST) for source in given["sources"] if _selects(given)),
        *([given["config"]] if given["config"] else []),
        *([credentials.removeprefix("file:")] if credentials.startswith("file:") else []),
    ]
    if folder is None:
        return None if any(_is_relative(path) for path in paths) else given
    base = folder

    def at(text: str) -> str:
        return str(base / text) if _is_relative(text) else text

    return {
        **given,
        "sources": tuple(
            LIST + at(s[1:]) if s.startswith(LIST) else at(s) for s in given["sources"]
        ),
        "allow": tuple(map(at, given["allow"])),
        "map_": tuple("=".join(map(at, pair.split("="))) for pair in given["map_"]),
        "config": given["config"] and at(given["config"]),
        "credentials": "file:" + at(credentials.removeprefix("file:"))
        if credentials.startswith("file:")
        else given.get("credentials"),
    }


def _selects(given: Mapping[str, Any]) -> bool:
    """Whether a mount was given files, and not one place."""
    sources = given["sources"]
    return len(sources) > 1 or sources[0].startswith(LIST) or is_pattern(sources[0])


def _is_relative(text: str) -> bool:
    return "://" not in text and not text.startswith(("/", "~"))


def _age(pid: int) -> int:
    """Return when a process was started, in ticks since the machine was; 0 if it is gone."""
    try:
        said = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return 0
    return int(said.rpartition(b")")[2].split()[_STARTED])
