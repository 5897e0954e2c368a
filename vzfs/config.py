"""Configuration: one frozen value from files, environment and flags, in that order of weight.

Files are TOML: `/etc/vzfs/config.toml`, then `~/.config/vzfs/config.toml` or the file that
`--config` or `VZFS_CONFIG` names. Lists (allowed prefixes, buckets, relocations) add up; of single
values the later wins. An unknown key is an error: a misspelt rule must not vanish in silence.
"""

import dataclasses
import datetime
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vzfs.access import AccessPolicy, Relocation, StoreOptions
from vzfs.errors import ConfigError, ErrorKind, VzfsError
from vzfs.model.location import Prefix, parse_prefix, path_to_url
from vzfs.model.snapshot import RefSpec

SYSTEM_FILE: Final = Path("/etc/vzfs/config.toml")
DEFAULT_CACHE_SIZE: Final = 10 * 2**30
DEFAULT_MEMORY: Final = 256 * 2**20
"""Bytes of chunks held in memory: a few dozen of the usual size, on machines with a few GB."""
DEFAULT_DEADLINE: Final = 60.0
DEFAULT_STORE: Final = StoreOptions()
DEFAULT_REF: Final = RefSpec()
SUPPORTED: Final = ("file", "s3", "https", "http")
"""Schemes of repositories that can be read."""
MAX_FILE: Final = 2**20

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\Z", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_STORE_KEYS: Final = frozenset(f.name.replace("_", "-") for f in dataclasses.fields(StoreOptions))
_TOP_KEYS: Final = frozenset({"cache-dir", "cache-size", "memory", "deadline"})
_TABLES: Final = frozenset({"allow", "bucket", "map"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a command needs to know. Sizes are bytes, *deadline* is seconds."""

    source: str
    repository: Prefix
    store: StoreOptions = DEFAULT_STORE
    ref: RefSpec = DEFAULT_REF
    policies: Sequence[AccessPolicy] = ()
    relocations: Sequence[Relocation] = ()
    cache_dir: Path | None = None
    cache_size: int = DEFAULT_CACHE_SIZE
    memory: int = DEFAULT_MEMORY
    deadline: float = DEFAULT_DEADLINE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line said, unparsed; None where it said nothing."""

    branch: str | None = None
    tag: str | None = None
    snapshot: str | None = None
    as_of: str | None = None
    allow: Sequence[str] = ()
    map: Sequence[str] = ()
    config: str | None = None
    cache_dir: str | None = None
    cache_size: str | None = None
    no_cache: bool = False
    memory: str | None = None
    deadline: float | None = None
    store: StoreOptions = DEFAULT_STORE


def load(source: str, flags: Flags, environ: Mapping[str, str]) -> Config:
    """Read the files, then the environment, then *flags*. Raises ConfigError."""
    tables = [_read_file(path, environ) for path in _files(flags, environ)]
    buckets = [bucket for table in tables for bucket in table.buckets]
    allowed = [prefix for table in tables for prefix in table.allowed]
    moved = [relocation for table in tables for relocation in table.moved]
    default = _with_environment(flags.store, environ)
    values: dict[str, Any] = {}
    for table in tables:
        values.update(table.values)
    repository = parse_source(source)
    return Config(
        source=source,
        repository=repository,
        store=_store_for(repository, buckets, default),
        ref=_ref(flags),
        policies=[
            AccessPolicy(prefix, _store_for(prefix, buckets, default))
            for prefix in [*allowed, *(_prefix(_without_nickname(p)) for p in flags.allow)]
        ],
        relocations=[
            *moved,
            *(Relocation(*map(_prefix, _split_map(pair))) for pair in flags.map),
        ],
        cache_dir=None if flags.no_cache else _cache_dir(flags, values, environ),
        cache_size=parse_size(
            _first(
                flags.cache_size,
                environ.get("VZFS_CACHE_SIZE"),
                values.get("cache-size"),
                DEFAULT_CACHE_SIZE,
            )
        ),
        memory=parse_size(_first(flags.memory, values.get("memory"), DEFAULT_MEMORY)),
        deadline=_seconds(_first(flags.deadline, values.get("deadline"), DEFAULT_DEADLINE)),
    )


def parse_source(text: str) -> Prefix:
    """Parse where a repository lies: a URL, or a local path. Raises ConfigError."""
    prefix = _prefix(_absolute(text))
    if prefix.scheme not in SUPPORTED:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"repositories on {prefix.scheme}: are not supported yet",
            where=text,
            advice=f"supported are a local folder and {', '.join(f'{s}://' for s in SUPPORTED)}",
        )
    return prefix


def parse_size(text: str | int) -> int:
    """Parse a number of bytes such as `500M`, `10GB` or `1.5TiB`; units are powers of 1024."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = _SIZE.match(str(text).strip())
    if found is None:
        raise ConfigError(
            ErrorKind.BAD_CONFIG, f"{text!r} is not a size", advice="write it like 500M or 10G"
        )
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def parse_time(text: str) -> int:
    """Parse an ISO 8601 date or time into nanoseconds since the epoch; without a zone it is UTC.

    A date alone means its first instant.
    """
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"{text!r} is not a time",
            advice="write it like 2026-01-31 or 2026-01-31T12:00:00Z",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (moment - epoch) // datetime.timedelta(microseconds=1) * 1000


def _ref(flags: Flags) -> RefSpec:
    named = [n for n in (flags.branch, flags.tag, flags.snapshot) if n is not None]
    if len(named) > 1 or (flags.as_of and (flags.tag or flags.snapshot)):
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "more than one snapshot is asked for",
            advice="give one of --branch (with or without --as-of), --tag and --snapshot",
        )
    as_of = None if flags.as_of is None else parse_time(flags.as_of)
    return RefSpec(flags.branch, flags.tag, flags.snapshot, as_of)


# -- files -------------------------------------------------------------------------------------


def _files(flags: Flags, environ: Mapping[str, str]) -> Iterable[Path]:
    if SYSTEM_FILE.exists():
        yield SYSTEM_FILE
    named = flags.config or environ.get("VZFS_CONFIG")
    if named:
        yield Path(named)
        return
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", ""), ".config")  # noqa: PTH118 -- HOME may be empty
    path = Path(home) / "vzfs" / "config.toml"
    if path.is_absolute() and path.exists():
        yield path


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    """What one file says."""

    values: Mapping[str, Any]
    buckets: Sequence[AccessPolicy]
    allowed: Sequence[Prefix]
    moved: Sequence[Relocation]


def _read_file(path: Path, environ: Mapping[str, str]) -> _File:
    try:
        if path.stat().st_size > MAX_FILE:
            raise _bad_file(path, f"it is larger than {MAX_FILE} bytes")
        return _parse_file(tomllib.loads(path.read_text("utf-8")), environ)
    except OSError as error:
        raise _bad_file(path, error.strerror or "it cannot be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_file(path, str(error)) from None
    except ConfigError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise ConfigError(error.kind, error.what, where=where, advice=error.advice) from None


def _parse_file(table: dict[str, Any], environ: Mapping[str, str]) -> _File:
    if unknown := table.keys() - _TOP_KEYS - _TABLES:
        raise ConfigError(ErrorKind.BAD_CONFIG, f"unknown key {min(unknown)!r}")
    values = {key: value for key, value in table.items() if key in _TOP_KEYS}
    for key in ("cache-size", "memory"):
        parse_size(values.get(key, 0))
    _seconds(values.get("deadline", DEFAULT_DEADLINE))
    if not isinstance(values.get("cache-dir", ""), str):
        raise ConfigError(ErrorKind.BAD_CONFIG, "'cache-dir' must be a string")
    return _File(
        values,
        [_bucket(entry, environ) for entry in _list(table, "bucket")],
        [_prefix(_required(entry, "allow", "prefix")) for entry in _list(table, "allow")],
        [
            Relocation(
                _prefix(_required(entry, "map", "from")), _prefix(_required(entry, "map", "to"))
            )
            for entry in _list(table, "map")
        ],
    )


def _list(table: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = table.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ConfigError(ErrorKind.BAD_CONFIG, f"{name!r} must be written [[{name}]]")
    return found


def _required(table: Mapping[str, Any], name: str, key: str) -> str:
    known = {"allow": {"prefix"}, "map": {"from", "to"}, "bucket": {"prefix"} | _STORE_KEYS}[name]
    if unknown := table.keys() - known:
        raise ConfigError(ErrorKind.BAD_CONFIG, f"unknown key {min(unknown)!r} in [[{name}]]")
    value = table.get(key)
    if not isinstance(value, str):
        raise ConfigError(ErrorKind.BAD_CONFIG, f"[[{name}]] needs {key!r}, a string")
    return value


def _bucket(table: Mapping[str, Any], environ: Mapping[str, str]) -> AccessPolicy:
    prefix = _prefix(_required(table, "bucket", "prefix"))
    options: dict[str, Any] = {}
    for key in _STORE_KEYS & table.keys():
        value = table[key]
        wants_text = key in {"region", "endpoint"}
        if not isinstance(value, str if wants_text else bool):
            kind = "a string" if wants_text else "true or false"
            raise ConfigError(ErrorKind.BAD_CONFIG, f"{key!r} in [[bucket]] must be {kind}")
        options[key.replace("-", "_")] = value
    return AccessPolicy(prefix, _with_environment(StoreOptions(**options), environ))


def _with_environment(store: StoreOptions, environ: Mapping[str, str]) -> StoreOptions:
    """Fill in the endpoint that the environment names: it says which store is meant, as an option does."""
    endpoint = (
        store.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    )
    return dataclasses.replace(store, endpoint=endpoint or None)


def _store_for(
    place: Prefix, buckets: Sequence[AccessPolicy], default: StoreOptions
) -> StoreOptions:
    """Return the options of the closest bucket table that covers *place*, else the flags'."""
    covering = [b for b in buckets if b.prefix.covers(place)]
    return max(covering, key=lambda b: len(b.prefix.key)).store if covering else default


# -- values ------------------------------------------------------------------------------------


def _prefix(text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except VzfsError as error:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            error.what,
            where=error.where,
            advice="write a URL such as s3://bucket/folder/, or an absolute path",
        ) from None


def _without_nickname(text: str) -> str:
    if "=" in text:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "an allowed prefix has an equals sign",
            where=text,
            advice="write it as %3D if it is part of the location",
        )
    return _absolute(text)


def _split_map(text: str) -> tuple[str, str]:
    origin, separator, target = text.partition("=")
    if not separator or "=" in target:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "a relocation is not of the form FROM=TO",
            where=text,
            advice="write an equals sign inside a location as %3D",
        )
    return _absolute(origin), _absolute(target)


def _absolute(text: str) -> str:
    """Make a path absolute that the command line says from here or from home (`~/x`)."""
    return text if "://" in text else path_to_url(Path(text).expanduser())


def _cache_dir(flags: Flags, values: Mapping[str, Any], environ: Mapping[str, str]) -> Path | None:
    named = flags.cache_dir or environ.get("VZFS_CACHE_DIR") or values.get("cache-dir")
    if named:
        return Path(named).expanduser().absolute()
    for variable, below in (
        ("CACHE_DIRECTORY", ""),
        ("XDG_CACHE_HOME", "vzfs"),
        ("HOME", ".cache/vzfs"),
    ):
        folder = environ.get(variable, "").partition(":")[0]
        if folder.startswith("/"):
            return Path(folder) / below
    return None


def _first[T](*values: T | None) -> T:
    """Return the first value that is given."""
    return next(value for value in values if value is not None)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86400:
        raise ConfigError(
            ErrorKind.BAD_CONFIG, f"the deadline {value!r} is not a number of seconds up to a day"
        )
    return float(value)


def _bad_file(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_CONFIG, f"the configuration file is wrong: {reason}", where=str(path)
    )
