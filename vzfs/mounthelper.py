r"""`mount.vzfs`, the helper that mount(8) starts for the file system type `vzfs`.

    mount.vzfs SOURCE MOUNTPOINT [-sfnvrw] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

`parse` turns these arguments into those of `vzfs mount`, and is pure; `main` runs that command as
a process of its own and gives mount(8) one of the exit codes that it knows.

Three things differ from the command line of `vzfs`. Options come as one string, in which `\,` is a
comma and `\\` a backslash; a backslash before anything else is itself, because what generates
systemd units from /etc/fstab halves doubled ones. Options for mount(8) and systemd (`nofail`,
`x-systemd.automount`) are passed over, and whatever a read-only mount does anyway is accepted. And
whoever can list processes or read /etc/fstab can read all options, so a secret is refused.

This module imports neither the commands nor numpy: threads would forbid to enter a namespace.
"""

import argparse
import dataclasses
import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from vzfs.errors import ConfigError, ErrorKind, VzfsError

type Option = tuple[str, str | None]
"""The name of an option as it was written, and what follows its equals sign, if it has one."""

OK: Final = 0
REFUSED: Final = 1
SYSTEM_ERROR: Final = 2
INTERRUPTED: Final = 8
FAILED: Final = 32
"""The exit codes of mount(8): `REFUSED` is for a wrong invocation and for a lack of permission."""

EXIT_CODES: Final = {
    0: OK,
    1: SYSTEM_ERROR,
    2: REFUSED,
    3: FAILED,
    4: REFUSED,
    5: FAILED,
    6: FAILED,
    7: FAILED,
    8: FAILED,
    9: SYSTEM_ERROR,
    10: FAILED,
    11: FAILED,
    12: FAILED,
    13: FAILED,
    130: INTERRUPTED,
}
"""The exit code for mount(8), by that of `vzfs mount`."""

VALUED: Final = frozenset(
    {
        "branch", "tag", "snapshot", "as_of", "follow", "view", "zarr_format", "allow", "map",
        "concat", "cache_dir", "cache_size", "memory", "max_egress",
        "region", "endpoint", "credentials", "account", "billing_project",
        "config", "deadline",
        "uid", "gid", "umask", "group", "log_file",
    }
)  # fmt: skip
"""Options of `vzfs mount` that take a value, with underscores for hyphens. `group` alone is an
option of mount(8), which lets others mount; here `allow_group` is --group, with a value or none, and
`follow` too may have none."""

PLAIN: Final = frozenset(
    {
        "consolidated", "no_consolidated",
        "no_cache", "offline", "anonymous", "requester_pays",
        "path_style", "virtual_host_style", "allow_http",
        "allow_other", "verbose",
    }
)  # fmt: skip
"""Options of `vzfs mount` that take none."""

_MAY_LACK_A_VALUE: Final = frozenset({"group", "follow"})
_OTHER_NAMES: Final = {"allow_group": "group", "noconsolidated": "no_consolidated"}
"""mount(8) has no hyphens in what it negates."""

# mount(8) says rw of every mount that is not ro, so it is no wish of the user. Nothing in a mount
# is executable, a device or a link, and nothing is written or changes its times.
_GRANTED: Final = frozenset(
    {
        "rw", "ro", "nosuid", "nodev", "noexec", "exec", "nosymfollow",
        "noatime", "nodiratime", "relatime", "lazytime", "nolazytime",
        "sync", "async", "dirsync", "silent", "loud",
    }
)  # fmt: skip
_NOT_OURS: Final = frozenset(
    {
        "defaults", "auto", "noauto", "nouser", "users", "nousers", "owner", "noowner",
        "group", "nogroup", "_netdev", "nofail",
    }
)  # fmt: skip
_IMPOSSIBLE: Final = {
    "suid": "the mount is always nosuid",
    "dev": "the mount is always nodev",
    "strictatime": "access times are not kept",
    "remount": "a mount cannot be changed; unmount it and mount it again",
}

_SECRET_NAME: Final = re.compile(
    r"secret|token|passw|passphrase|key|credential|auth|signature", re.IGNORECASE
)
_FILE_NAME: Final = re.compile(r"_(?:file|dir|path)\Z", re.IGNORECASE)
_USER_IN_URL: Final = re.compile(r"://[^/]*@")
_CREDENTIALS: Final = re.compile(r"environment\Z|profile:|file:/")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_ROOT_CACHE: Final = "/var/cache/vzfs"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What mount(8) asks for.

    *arguments* are those of `vzfs`; *environment* is what the mount sees besides its own;
    *namespace* is a process or a file that stands for a mount namespace; *passed_over* are the
    names of options that nobody knows.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    namespace: str | None = None
    is_fake: bool = False
    is_verbose: bool = False
    passed_over: Sequence[str] = ()


def split_options(text: str) -> list[Option]:
    r"""Split *text* at commas, each part at its first equals sign, and undo `\,` and `\\`."""
    parts: list[list[str]] = [[]]
    characters = iter(text)
    for character in characters:
        if character == ",":
            parts.append([])
        elif character == "\\":
            escaped = next(characters, "")
            parts[-1].append(escaped if escaped in {",", "\\"} else "\\" + escaped)
        else:
            parts[-1].append(character)
    return [_option("".join(part)) for part in parts if part]


def _option(text: str) -> Option:
    name, separator, value = text.partition("=")
    return name, value if separator else None


def parse(arguments: Sequence[str]) -> Invocation:
    """Turn the *arguments* of the helper into those of `vzfs mount`. Raises ConfigError."""
    given = _parser().parse_args(arguments)
    if given.type not in {None, "vzfs", "fuse.vzfs"}:
        raise _refusal(f"{given.type!r} is not a type of file system known here", "-t vzfs")
    if given.w:
        raise _refusal("the mount is always read-only", "leave out -w")
    if _USER_IN_URL.search(given.source):
        raise _secret("the source")
    if "" in {given.source, given.mountpoint}:
        raise _refusal("the source or the mountpoint is empty", "name both")
    command = ["mount"]
    environment: dict[str, str] = {}
    passed_over: list[str] = []
    for name, value in (option for text in given.options for option in split_options(text)):
        if name.startswith("env."):
            environment.update([_variable(name, value)])
        elif (known := _known(name, value)) in VALUED | PLAIN:
            command.append(_flag(name, known, value))
        elif not _is_passed_over(name, value):
            if not given.s:
                raise _unknown(name)
            passed_over.append(name)
    return Invocation(
        arguments=[*command, _not_a_flag(given.source), _not_a_flag(given.mountpoint)],
        environment=environment,
        namespace=given.namespace,
        is_fake=given.f,
        is_verbose=given.v,
        passed_over=passed_over,
    )


def _known(written: str, value: str | None) -> str:
    """Return the name under which an option is known here, if it is; "" for mount(8)'s `group`."""
    name = written.replace("-", "_")
    if name == "group" and value is None:
        return ""
    return _OTHER_NAMES.get(name, name)


class _Parser(argparse.ArgumentParser):
    """A parser that raises where argparse would end the process with a code that is not ours."""

    def error(self, message: str) -> NoReturn:
        raise _refusal(message, "see: mount.vzfs --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog="mount.vzfs",
        allow_abbrev=False,
        description="Mount a virtual Zarr repository, as mount(8) asks for it: "
        "mount -t vzfs SOURCE MOUNTPOINT -o OPTIONS",
        epilog="The options are those of `vzfs mount`, with commas between them.",
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-s", action="store_true", help="pass over unknown options")
    parser.add_argument("-f", action="store_true", help="check everything, but do not mount")
    parser.add_argument("-v", action="store_true", help="say what is done")
    parser.add_argument("-n", action="store_true", help="nothing: there is no mtab to write")
    parser.add_argument("-r", action="store_true", help="nothing: mounts are read-only")
    parser.add_argument("-w", action="store_true", help="refused: mounts are read-only")
    parser.add_argument("-N", dest="namespace", help="mount in this mount namespace")
    parser.add_argument("-o", dest="options", action="append", default=[], help="options")
    parser.add_argument("-t", dest="type", help="vzfs")
    return parser


def _not_a_flag(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


def _flag(written: str, name: str, value: str | None) -> str:
    flag = "--" + name.replace("_", "-")
    if name in PLAIN:
        if value is not None:
            raise _refusal(f"the option {written!r} takes no value", f"write {written} alone")
        return flag
    if name in _MAY_LACK_A_VALUE and value is None:
        return flag
    if not value:
        raise _refusal(f"the option {written!r} needs a value", f"write {written}=VALUE")
    if _USER_IN_URL.search(value) or (name == "credentials" and not _CREDENTIALS.match(value)):
        raise _secret(f"the option {written!r}")
    return f"{flag}={value}"


def _is_passed_over(name: str, value: str | None) -> bool:
    # mount(8) writes user=NAME for whoever mounts by a line of fstab with `user`.
    if name.startswith(("x-", "X-")) or name in {"comment", "user"}:
        return True
    if value is not None:
        return False
    if name in _IMPOSSIBLE:
        raise _refusal(f"the option {name!r} is refused", _IMPOSSIBLE[name])
    return name in _GRANTED | _NOT_OURS


def _variable(written: str, value: str | None) -> tuple[str, str]:
    name = written.removeprefix("env.")
    if value is None or not _VARIABLE.match(name):
        raise _refusal(f"{written!r} sets no variable", "write env.NAME=VALUE")
    is_secret = _SECRET_NAME.search(name) and not _FILE_NAME.search(name)
    if is_secret or _USER_IN_URL.search(value):
        raise _secret(f"the option {written!r}")
    return name, value


def _unknown(name: str) -> ConfigError:
    if name in _GRANTED | _NOT_OURS:
        return _refusal(f"the option {name!r} takes no value", f"write {name} alone")
    if _SECRET_NAME.search(name):
        return _secret(f"the option {name!r}")
    return _refusal(
        f"the option {name!r} is unknown", "the options are those of: vzfs mount --help"
    )


def _secret(where: str) -> ConfigError:
    return _refusal(
        f"{where} seems to hold a secret, which everybody on this machine could read",
        "write it into a file that only you may read, and have systemd read that: EnvironmentFile=",
    )


def _refusal(what: str, advice: str) -> ConfigError:
    return ConfigError(ErrorKind.BAD_USAGE, what, advice=advice)


# -- running it --------------------------------------------------------------------------------


def surroundings(
    invocation: Invocation, environ: Mapping[str, str], *, home: str | None
) -> dict[str, str]:
    """Return the environment of `vzfs mount`: *environ*, what options set, and what is missing.

    mount(8) removes HOME and PATH, and systemd gives a mount of the system no HOME. A user gets
    back *home*, and with it a cache, a configuration and a log. None is for root, whose cache is in
    /var/cache/vzfs whoever starts the mount, unless an option, a configuration file or the
    environment names another folder.
    """
    environment = {"PATH": _PATH, **environ, **invocation.environment}
    if home is not None:
        environment.setdefault("HOME", home)
    elif "XDG_CACHE_HOME" not in environment:
        environment.setdefault("CACHE_DIRECTORY", _ROOT_CACHE)
    # Root may mount from anywhere, and must not run a folder `vzfs` that lies there.
    environment["PYTHONSAFEPATH"] = "1"
    return environment


def _home() -> str | None:
    """Return the home of whoever runs this, "" if there is none; None for root."""
    uid = os.geteuid()
    try:
        return None if uid == 0 else pwd.getpwuid(uid).pw_dir
    except KeyError:
        return ""


def main() -> int:
    """Mount as the command line says, and return an exit code for mount(8)."""
    try:
        invocation = parse(sys.argv[1:])
    except VzfsError as error:
        _say(str(error))
        return REFUSED
    os.environ.update(surroundings(invocation, os.environ, home=_home()))
    command = [sys.executable, "-m", "vzfs", *invocation.arguments]
    if invocation.is_verbose:
        _say(shlex.join(command))
        if invocation.passed_over:
            _say(f"unknown options: {', '.join(invocation.passed_over)}")
    try:
        if invocation.namespace is not None:
            _enter(invocation.namespace)
        if invocation.is_fake:
            return _rehearse(invocation)
        return _run(command, is_verbose=invocation.is_verbose)
    except OSError as error:
        _say(str(error))
        return SYSTEM_ERROR


def _enter(namespace: str) -> None:
    """Become part of a mount namespace, and stay in the working directory."""
    folder = Path.cwd()
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdecimal() else namespace
    with Path(path).open("rb") as opened:
        os.setns(opened.fileno(), os.CLONE_NEWNS)
    os.chdir(folder)


def _run(command: Sequence[str], *, is_verbose: bool) -> int:
    # In our process group: autofs lets the group of the automounter through, and no other.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=None if is_verbose else subprocess.DEVNULL
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        return INTERRUPTED
    return EXIT_CODES.get(code, SYSTEM_ERROR)


def _rehearse(invocation: Invocation) -> int:
    """Check the options, the configuration and the mountpoint, and mount nothing."""
    import click

    from vzfs import mounttable
    from vzfs.access import StoreOptions
    from vzfs.cli.exits import exit_code
    from vzfs.cli.mounting import mount
    from vzfs.cli.options import configuration
    from vzfs.config import Flags

    configured = {
        field.name for made in (Flags, StoreOptions) for field in dataclasses.fields(made)
    }
    try:
        with mount.make_context("mount", list(invocation.arguments[1:])) as context:
            given = context.params
            configuration(
                given["sources"], {n: given[n] for n in given if n.removesuffix("_") in configured}
            )
            mounttable.check_mountpoint(mounttable.resolve(given["mountpoint"]))
    except click.ClickException as error:
        _say(error.format_message())
        return REFUSED
    except VzfsError as error:
        _say(str(error))
        return EXIT_CODES[exit_code(error)]
    return OK


def _say(line: str) -> None:
    sys.stderr.write(f"mount.vzfs: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
