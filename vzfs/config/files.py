"""Configuration files: which there are, whose they are, and what each says by itself.

Files are TOML. The administrator's are `/etc/vzfs/config.toml` and then `/etc/vzfs/conf.d/*.toml`
in the order of their names; they count only if nobody but root can change them. The user's is
`~/.config/vzfs/config.toml`, or the file that `--config` or `VZFS_CONFIG` names. An unknown key is
an error: a misspelt rule must not vanish in silence.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from vzfs.access import BucketConfig, Relocation, StoreOptions
from vzfs.config.values import (
    checked_store,
    parse_egress,
    parse_seconds,
    parse_size,
    parse_view,
    parse_zarr_format,
    prefix_of,
    readable_prefix,
)
from vzfs.errors import ConfigError, ErrorKind

SYSTEM_FILE: Final = Path("/etc/vzfs/config.toml")
SYSTEM_FOLDER: Final = Path("/etc/vzfs/conf.d")
ADMINISTRATOR: Final = 0
"""The user whose files rule the machine."""
MAX_FILE: Final = 2**20
USERS_MAY_ALLOW: Final = "users-may-allow"

_VALUES: Final = frozenset(
    {
        "cache-dir", "cache-size", "memory", "deadline", "max-egress",
        "view", "zarr-format", "consolidated",
    }
)  # fmt: skip
_TABLES: Final = frozenset({"bucket", "policy", "map"})
_STORE_KEYS: Final = {f.name.replace("_", "-"): f for f in dataclasses.fields(StoreOptions)}
_KEYS: Final = {
    "bucket": {"nickname", "prefix", *_STORE_KEYS},
    "policy": {"bucket", "subprefix", "public"},
    "map": {"from", "to"},
}
_NICKNAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class PolicyEntry(NamedTuple):
    """What one `[[policy]]` says: the nickname of a bucket, a part of it, and who may read it."""

    bucket: str
    subprefix: str = ""
    public: bool = False

    def __str__(self) -> str:
        """Say it as a user reads it."""
        part = f", subprefix {self.subprefix!r}" if self.subprefix else ""
        return f"{self.bucket!r}{part}, {'public' if self.public else 'private'}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What one file says. *is_administrators* tells whether it binds users."""

    path: Path
    is_administrators: bool
    users_may_allow: bool
    values: Mapping[str, Any]
    buckets: Sequence[BucketConfig]
    policies: Sequence[PolicyEntry]
    relocations: Sequence[Relocation]


def user_file(named: str | None, environ: Mapping[str, str]) -> Path | None:
    """Return where the user's file is or would be; None without a home."""
    if named := named or environ.get("VZFS_CONFIG"):
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", ""), ".config")  # noqa: PTH118 -- HOME may be empty
    path = Path(home) / "vzfs" / "config.toml"
    return path if path.is_absolute() else None


def read_files(
    named: str | None, environ: Mapping[str, str], drafts: Mapping[Path, str] | None = None
) -> list[ConfigFile]:
    """Read all files, the administrator's first. Raises ConfigError.

    *named* is the file that an option names in the place of the user's own. *drafts* are texts that
    count in the place of what stands in a file, or would.
    """
    drafts = drafts or {}
    found = []
    for path in _administrators(drafts):
        text = drafts[path] if path in drafts else _read(path, is_administrators=True)
        found.append(_parse(path, text, is_administrators=True))
    user = user_file(named, environ)
    if user is None or user.absolute() in {file.path for file in found}:
        return found
    if user in drafts:
        found.append(_parse(user, drafts[user], is_administrators=False))
    elif named or environ.get("VZFS_CONFIG") or _is_there(user):
        text = _read(user, is_administrators=False)
        found.append(_parse(user, text, is_administrators=False))
    return found


def _administrators(drafts: Collection[Path]) -> Iterator[Path]:
    for folder in dict.fromkeys((SYSTEM_FILE.parent, SYSTEM_FOLDER)):
        if _is_there(folder):
            _check_owner(folder, folder.stat())
    if SYSTEM_FILE in drafts or _is_there(SYSTEM_FILE):
        yield SYSTEM_FILE
    try:
        listed = [path for path in SYSTEM_FOLDER.iterdir() if path.suffix == ".toml"]
    except FileNotFoundError:
        listed = []
    except OSError as error:
        raise _bad(SYSTEM_FOLDER, error.strerror or "it cannot be listed") from None
    listed = [path for path in listed if not path.name.startswith(".")]
    yield from sorted({*listed, *(path for path in drafts if path.parent == SYSTEM_FOLDER)})


def _is_there(path: Path) -> bool:
    """Whether *path* has a name; a file that cannot be looked at is no file that is not there."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _bad(path, error.strerror or "it cannot be read") from None
    return True


def _read(path: Path, *, is_administrators: bool) -> str:
    """Return the text of *path*; of the administrator's only if nobody else can change it."""
    try:
        with path.open("rb") as opened:
            if is_administrators:
                _check_owner(path, os.fstat(opened.fileno()))
            data = opened.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise _bad(path, f"it is larger than {MAX_FILE} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise _bad(path, error.strerror or "it cannot be read") from None
    except UnicodeDecodeError as error:
        raise _bad(path, str(error)) from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != ADMINISTRATOR or status.st_mode & 0o022:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            "others than root can change the administrator's configuration",
            where=str(path),
            advice=f"correct it with: chown root {path}; chmod go-w {path}",
        )


# -- what stands in a file ---------------------------------------------------------------------


def _parse(path: Path, text: str, *, is_administrators: bool) -> ConfigFile:
    import tomllib  # nobody needs it who has no such file

    try:
        table = tomllib.loads(text)
    # Numbers of more than 4300 digits are a ValueError too.
    except (ValueError, RecursionError) as error:
        raise _bad(path, str(error)) from None
    try:
        return _parse_table(path, table, is_administrators=is_administrators)
    except ConfigError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise ConfigError(error.kind, error.what, where=where, advice=error.advice) from None
    except ValueError:
        # Hexadecimal ones have no limit until an error says what they are.
        raise _bad(path, "it has a number that is too long") from None


def _parse_table(path: Path, table: dict[str, Any], *, is_administrators: bool) -> ConfigFile:
    if "allow" in table:
        raise _not_allow(table["allow"])
    if USERS_MAY_ALLOW in table and not is_administrators:
        raise _wrong(f"{USERS_MAY_ALLOW!r} counts in files of the administrator only")
    if unknown := table.keys() - _VALUES - _TABLES - {USERS_MAY_ALLOW}:
        raise _wrong(f"unknown key {min(unknown)!r}; known are {_listed(_VALUES | _TABLES)}")
    values = {key: value for key, value in table.items() if key in _VALUES}
    for key in ("cache-size", "memory"):
        parse_size(values.get(key, 0))
    parse_egress(values.get("max-egress", 0))
    parse_seconds(values.get("deadline", 1))
    if "view" in values:
        parse_view(values["view"])
    if "zarr-format" in values:
        parse_zarr_format(values["zarr-format"])
    _typed(table, "consolidated", bool)
    _typed(table, "cache-dir", str)
    return ConfigFile(
        path=path,
        is_administrators=is_administrators,
        users_may_allow=USERS_MAY_ALLOW not in table or _typed(table, USERS_MAY_ALLOW, bool),
        values=values,
        buckets=[_bucket(entry, str(path)) for entry in _list(table, "bucket")],
        policies=[_policy(entry) for entry in _list(table, "policy")],
        relocations=[
            Relocation(
                prefix_of(_required(entry, "map", "from")), prefix_of(_required(entry, "map", "to"))
            )
            for entry in _list(table, "map")
        ],
    )


def _list(table: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = table.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise _wrong(f"{name!r} must be written [[{name}]]")
    for entry in found:
        if unknown := entry.keys() - _KEYS[name]:
            known = _listed(_KEYS[name])
            raise _wrong(f"unknown key {min(unknown)!r} in [[{name}]]; known are {known}")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _required(table: Mapping[str, Any], name: str, key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise _wrong(f"[[{name}]] needs {key!r}, a string")
    return value


def _typed[T: str | bool](table: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return the value of *key*, "" or False where there is none."""
    value = table.get(key, kind())
    if not isinstance(value, kind):
        raise _wrong(f"{key!r} must be {'a string' if kind is str else 'true or false'}")
    return value


def _bucket(table: Mapping[str, Any], origin: str) -> BucketConfig:
    prefix = readable_prefix(_required(table, "bucket", "prefix"))
    nickname = _typed(table, "nickname", str)
    if "nickname" in table and not is_nickname(nickname):
        raise _wrong(
            f"{nickname!r} is no nickname",
            "it has 1 to 64 letters, digits, dots, hyphens and underscores",
        )
    options: dict[str, Any] = {}
    for key, field in _STORE_KEYS.items():
        if key not in table:
            continue
        if isinstance(field.default, tuple):
            listed = table[key]
            if not isinstance(listed, list) or not all(isinstance(x, str) for x in listed):
                raise _wrong(f"{key!r} must be a list of strings")
            options[field.name] = tuple(listed)
        else:
            is_text = field.type == str | None
            options[field.name] = _typed(table, key, str if is_text else bool)
    return BucketConfig(prefix, checked_store(StoreOptions(**options)), nickname, origin)


def _policy(table: Mapping[str, Any]) -> PolicyEntry:
    nickname = _required(table, "policy", "bucket")
    if not is_nickname(nickname):
        raise _wrong(f"{nickname!r} is no nickname of a bucket")
    subprefix = _typed(table, "subprefix", str)
    return PolicyEntry(nickname, subprefix, _typed(table, "public", bool))


def in_system_folders(path: Path) -> bool:
    """Whether *path* is, or would be, a file of the administrator."""
    return path == SYSTEM_FILE or path.parent == SYSTEM_FOLDER


def is_nickname(text: str) -> bool:
    """Whether a bucket can be called *text*."""
    return _NICKNAME.fullmatch(text) is not None


def _not_allow(entries: object) -> ConfigError:
    prefix = "PREFIX"
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        prefix = str(entries[0].get("prefix", prefix))
    return _wrong(
        "[[allow]] is not known",
        f'write [[bucket]] with prefix = "{prefix}" and a nickname, and [[policy]] with '
        "bucket = that nickname; `vzfs policy set PREFIX` writes both",
    )


def _wrong(what: str, advice: str = "") -> ConfigError:
    return ConfigError(ErrorKind.BAD_CONFIG, what, advice=advice)


def _bad(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_CONFIG, f"the configuration file is wrong: {reason}", where=str(path)
    )
