"""`vzfs mount` and `vzfs umount`.

What serves a mount is imported by the daemon alone, so that the commands themselves start at once.
"""

import faulthandler
import grp
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Final

import click

from vzfs import mounttable
from vzfs.cli.exits import error_in, exit_code
from vzfs.cli.options import (
    access_options,
    configuration,
    limit_options,
    ref_options,
    show_options,
    store_options,
)
from vzfs.cli.starting import importing
from vzfs.cli.terminal import waiting
from vzfs.config import Config
from vzfs.config.sources import LIST
from vzfs.errors import ErrorKind, MountError
from vzfs.observe import default_log_file, forbid_core_dumps, set_up_logging, unwritable

_URL = re.compile(r"[a-z0-9]+:/")


class _Umask(click.ParamType[int]):
    """Permission bits in octal."""

    name = "octal"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:  # noqa: ANN401 -- click's signature
        """Parse *value*."""
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"0?[0-7]{1,3}", value):
            self.fail(f"{value!r} is not an octal number such as 022", param, ctx)
        return int(value, 8)


class _Group(click.ParamType[int]):
    """A group of the machine by name or number; "" is the user's own, for which None stands."""

    name = "group"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:  # noqa: ANN401 -- click's signature
        """Parse *value*."""
        if isinstance(value, int):
            return value
        if value == "":
            return _OWN
        try:
            return int(value) if re.fullmatch(r"\d{1,9}", value) else grp.getgrnam(value).gr_gid
        except KeyError:
            self.fail(f"there is no group {value!r}", param, ctx)


_OWN = -1
"""The group that --group means if it names none."""


_MAY_LACK_A_VALUE: Final = frozenset({"--group", "--follow"})


class _Mount(click.Command):
    """Options of which some take their value only behind an equals sign, as they may have none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        for option, following in itertools.pairwise(args):
            if option in _MAY_LACK_A_VALUE and following.isdigit():
                # It would be taken for the mountpoint.
                raise click.UsageError(f"write {option}={following}", ctx)
        return super().parse_args(ctx, [f"{a}=" if a in _MAY_LACK_A_VALUE else a for a in args])


@click.command(short_help="Mount a repository or files on a directory.", cls=_Mount)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@ref_options
@show_options
@access_options
@click.option("--cache-dir", metavar="DIR", help="Keep chunks here (default: ~/.cache/vzfs).")
@click.option("--cache-size", metavar="SIZE", help="Bytes to keep there (default: 10G).")
@click.option("--no-cache", is_flag=True, help="Keep no chunks on disk.")
@click.option("--memory", metavar="SIZE", help="Bytes of chunks to keep in memory (default: 256M).")
@limit_options
@store_options
@click.option("--uid", type=click.IntRange(min=0), help="Owner of what is shown (default: you).")
@click.option("--gid", type=click.IntRange(min=0), help="Group of what is shown (default: yours).")
@click.option(
    "--umask", type=_Umask(), default=0o022, help="Permissions to take away (default: 022)."
)
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let all users of the machine read the mount, and of sources what public policies allow.",
)
@click.option(
    "--group",
    type=_Group(),
    metavar="[GROUP]",
    help="Let a group read the mount, written --group=GROUP (default: yours, or that of --gid).",
)
@click.option(
    "-f", "--foreground", is_flag=True, help="Stay in the foreground and log to the terminal."
)
@click.option(
    "--log-file", metavar="FILE", type=click.Path(path_type=Path), help="Log to this file."
)
@click.option("-v", "--verbose", count=True, help="Log every failure, repeated ones too.")
@click.option("--announce-fd", type=int, hidden=True)
def mount(sources: tuple[str, ...], mountpoint: Path, **given: Any) -> None:  # noqa: ANN401 -- options
    """Mount SOURCE on the directory MOUNTPOINT.

    SOURCE is a place (s3://..., https://..., a folder or file): an Icechunk repository, kerchunk
    references, a Zarr hierarchy, or a netCDF, HDF5, GRIB or TIFF file or a folder of them; or a pattern
    ('obs/*.nc'), several files, or @FILE, which lists them. Files become a group each, or one
    hierarchy by --concat.

    The command returns when the mount answers, and leaves a daemon behind that serves it;
    `vzfs umount MOUNTPOINT` ends it. Virtual chunks are readable below the prefixes that --allow
    or a configuration file names, and nowhere else. SIGHUP has the daemon read the files again.
    """
    if _URL.match(str(mountpoint)):
        raise click.UsageError("the source comes first, then the mountpoint")
    mountpoint = mounttable.resolve(mountpoint)
    run = {name: given.pop(name) for name in ("foreground", "log_file", "verbose", "announce_fd")}
    names = ("uid", "gid", "umask", "allow_other", "group")
    look = {name: given.pop(name) for name in names}
    _check_look(look)
    reload = _reloading(sources, given)
    config = configuration(sources, given)
    if run["announce_fd"] is not None:
        with os.fdopen(run["announce_fd"], "w", encoding="utf-8") as pipe:
            _serve_in_background(config, mountpoint, look, run, pipe, reload)
    elif run["foreground"]:
        set_up_logging(run["log_file"], run["verbose"])
        _serve(config, mountpoint, look, lambda message, notes: None, reload)
    else:
        mounttable.check_mountpoint(mountpoint)
        log_file = run["log_file"] or default_log_file(mountpoint, os.environ)
        _start_daemon(config.source, mountpoint, log_file)


def _check_look(look: dict[str, Any]) -> None:
    if look["group"] is None:
        return
    if look["allow_other"]:
        raise click.UsageError("a mount is for all (--allow-other) or for a group (--group)")
    if look["group"] != _OWN and look["gid"] not in {None, look["group"]}:
        raise click.UsageError("--gid and --group name different groups")


def _reloading(sources: Sequence[str], given: dict[str, Any]) -> Callable[[], Config]:
    """Return what reads the configuration again, by the same options, wherever the process is then."""

    def from_here(text: str) -> str:
        is_relative = "://" not in text and not text.startswith(("/", "~", LIST))
        if text.startswith(LIST):
            return LIST + from_here(text.removeprefix(LIST))
        return str(Path.cwd() / text) if is_relative else text

    same = {**given, "allow": [from_here(text) for text in given["allow"]]}
    same["map_"] = ["=".join(map(from_here, text.split("="))) for text in given["map_"]]
    environ = dict(os.environ)
    if environ.get("VZFS_CONFIG"):
        environ["VZFS_CONFIG"] = os.path.abspath(environ["VZFS_CONFIG"])  # noqa: PTH100 -- of a name
    if given["config"]:
        same["config"] = os.path.abspath(given["config"])  # noqa: PTH100 -- of a name
    credentials = given.get("credentials") or ""
    if credentials.startswith("file:"):
        same["credentials"] = "file:" + from_here(credentials.removeprefix("file:"))
    origins = [from_here(source) for source in sources]
    return lambda: configuration(origins, dict(same), environ, lenient=True)


def _serve(
    config: Config,
    mountpoint: Path,
    look: dict[str, Any],
    announce: Callable[[str, Sequence[str]], None],
    reload: Callable[[], Config],
) -> None:
    """Mount, and serve until unmounted."""
    with importing():
        import trio

        from vzfs.access import Visibility
        from vzfs.fuse import Ownership
        from vzfs.mount import MountOptions, mount

    faulthandler.enable()
    forbid_core_dumps()
    uid = os.getuid() if look["uid"] is None else look["uid"]
    gid = os.getgid() if look["gid"] is None else look["gid"]
    visibility = Visibility.PUBLIC if look["allow_other"] else Visibility.PRIVATE
    ownership = Ownership(uid, gid, look["umask"])
    if look["group"] is not None:
        visibility = Visibility.GROUP
        gid = gid if look["group"] == _OWN else look["group"]
        ownership = Ownership(uid, gid, look["umask"] | 0o007, root_mode=0o750)
    options = MountOptions(
        mountpoint=mountpoint,
        ownership=ownership,
        visibility=visibility,
        ends_on_hangup=os.isatty(0),
    )
    trio.run(mount, config, options, announce, reload)


def _start_daemon(source: str, mountpoint: Path, log_file: Path | None) -> None:
    """Start this command again as a daemon and wait until it says what became of the mount."""
    set_up = [] if log_file is None else ["--log-file", str(log_file.absolute())]
    reading, writing = os.pipe()
    with ExitStack() as stack:
        said = stack.enter_context(os.fdopen(reading, encoding="utf-8"))
        errors = stack.enter_context(_stderr_of_daemon(log_file))
        command = [sys.executable, "-P", "-m", "vzfs", "mount"]
        daemon = subprocess.Popen(
            [*command, *set_up, "--announce-fd", str(writing), *sys.argv[2:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[writing],
        )
        os.close(writing)
        try:
            with waiting(f"opening {source}"):
                line = said.readline()
        except KeyboardInterrupt:
            daemon.send_signal(signal.SIGTERM)
            raise
    outcome = json.loads(line) if line else None
    if outcome is None:
        raise MountError(
            ErrorKind.BUG,
            f"the daemon died with exit code {daemon.wait()}",
            where=str(mountpoint),
            advice=f"the log may say why: {log_file or 'the journal'}",
        )
    if "error" in outcome:
        click.echo(f"vzfs: {outcome['error']}", err=True)
        sys.exit(outcome["exit"])
    click.echo(outcome["mounted"])
    for note in outcome["notes"]:
        click.echo(f"note: {note}")
    if log_file is not None:
        click.echo(f"log: {log_file}")


def _stderr_of_daemon(log_file: Path | None) -> IO[bytes]:
    """Open where a crash of the daemon is written: the log file, or what the journal listens to."""
    if log_file is None:
        return os.fdopen(os.dup(2), "wb")
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.fdopen(os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb")
    except OSError as error:
        raise unwritable(log_file, error) from None


def _serve_in_background(
    config: Config,
    mountpoint: Path,
    look: dict[str, Any],
    run: dict[str, Any],
    pipe: IO[str],
    reload: Callable[[], Config],
) -> None:
    """Be the daemon: say once to *pipe* what became of the mount, and serve it."""

    def announce(message: str, notes: Sequence[str]) -> None:
        # Not before: autofs lets only the process group of the automounter make the mount.
        with suppress(PermissionError):  # a group of its own already
            os.setsid()
        _say(pipe, {"mounted": message, "notes": list(notes)})

    try:
        set_up_logging(run["log_file"], run["verbose"])
        os.chdir("/")
        _serve(config, mountpoint, look, announce, reload)
    except Exception as failure:
        error = error_in(failure)
        if error is None:
            raise
        _say(pipe, {"error": str(error), "exit": exit_code(error)})
        sys.exit(exit_code(error))


def _say(pipe: IO[str], outcome: dict[str, Any]) -> None:
    # Whoever started the daemon may be gone; the mount does not depend on it.
    with suppress(OSError, ValueError):
        pipe.write(json.dumps(outcome) + "\n")
        pipe.close()


@click.command(short_help="End a mount.")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option(
    "-z", "--lazy", is_flag=True, help="Detach it now, even if it is in use or its daemon is dead."
)
def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount MOUNTPOINT; its daemon ends."""
    mountpoint = mounttable.resolve(mountpoint)
    mounted = mounttable.topmost(mountpoint)
    if mounted is None or mounted.fstype != mounttable.FSTYPE:
        raise MountError(
            ErrorKind.NOT_MOUNTED,
            "no vzfs mount is here",
            where=str(mountpoint),
            advice="`findmnt -t fuse.vzfs` lists them",
        )
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError(
            ErrorKind.FUSE_UNAVAILABLE,
            "fusermount3 is not installed",
            advice="install the package fuse3",
        )
    options = ["-u", "-z"] if lazy else ["-u"]
    result = subprocess.run(
        [program, *options, "--", str(mountpoint)], capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        return
    if "busy" in result.stderr.lower():
        raise MountError(
            ErrorKind.MOUNT_BUSY,
            "the mount is in use",
            where=str(mountpoint),
            advice="end what uses it (fuser -vm shows it), or detach it with --lazy",
        )
    reason = result.stderr.strip().splitlines()[-1:] or ["fusermount3 failed"]
    raise MountError(ErrorKind.NOT_MOUNTED, reason[0], where=str(mountpoint))
