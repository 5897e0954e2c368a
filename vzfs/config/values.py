"""Values as people write them: sizes, times, prefixes, options of stores. Raises ConfigError."""

import dataclasses
import datetime
import ipaddress
import math
import re
import urllib.parse
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from vzfs.access import UNREADABLE, StoreOptions
from vzfs.errors import ConfigError, ErrorKind, VzfsError
from vzfs.model.location import Prefix, parse_prefix, path_to_url

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?)(i?)b?\Z", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}\Z")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,127}\Z")
_PROFILE = re.compile(r"profile:[^\x00-\x1f/=]{1,64}\Z")
_LOOKS_SECRET = re.compile(r"A[KS]IA[A-Z0-9]{12}|[A-Za-z0-9/+_-]{40}")
"""The id of an access key of AWS, or as many characters as keys of stores have at least."""


type ViewName = Literal["stored", "portable", "decoded"]
type ZarrFormat = Literal[2, 3]

VIEW_NAMES: Final[tuple[ViewName, ...]] = get_args(ViewName.__value__)
ZARR_FORMATS: Final[tuple[ZarrFormat, ...]] = get_args(ZarrFormat.__value__)
DEFAULT_FOLLOW: Final = 10.0
"""Seconds between two looks at a branch, where no other number is given."""
MIN_FOLLOW: Final = 1.0
DAY: Final = 86400
"""Seconds of a day, which nothing is to take."""


class Egress(NamedTuple):
    """How many bytes a mount may fetch: in its life, or each day."""

    limit: int
    per_day: bool


def parse_size(text: str | int) -> int:
    """Parse a number of bytes such as `500M`, `10GB` or `1.5TiB`; units are powers of 1024."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = _SIZE.match(str(text).strip()) if len(str(text)) <= 100 else None
    if found is None:
        raise ConfigError(
            ErrorKind.BAD_CONFIG, f"{text!r} is not a size", advice="write it like 500M or 10G"
        )
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def parse_egress(text: str | int) -> Egress:
    """Parse a number of bytes for the life of a mount, such as `50G`, or for each day: `50G/day`."""
    size, separator, unit = str(text).partition("/")
    if separator and unit.strip().lower() != "day":
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"{text!r} is no limit of bytes",
            advice="write it like 50G or 50G/day",
        )
    return Egress(parse_size(text if isinstance(text, int) else size), bool(separator))


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


def parse_seconds(value: object) -> float:
    """Parse a deadline: a number of seconds up to a day."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= DAY:
        raise ConfigError(
            ErrorKind.BAD_CONFIG, f"the deadline {value!r} is not a number of seconds up to a day"
        )
    return float(value)


def parse_view(value: object) -> ViewName:
    """Parse the name of a view."""
    for name in VIEW_NAMES:
        if value == name:
            return name
    raise ConfigError(
        ErrorKind.BAD_CONFIG,
        f"{value!r} is no view",
        advice=f"the views are {', '.join(VIEW_NAMES)}",
    )


def parse_zarr_format(value: object) -> ZarrFormat:
    """Parse a version of the Zarr format."""
    for version in ZARR_FORMATS:
        if type(value) is type(version) and value == version:
            return version
    raise ConfigError(ErrorKind.BAD_CONFIG, f"'zarr-format' is {value!r}, and can be 2 or 3")


def parse_follow(text: str) -> float:
    """Parse how many seconds lie between two looks at a branch; "" is the usual number."""
    if not text:
        return DEFAULT_FOLLOW
    try:
        seconds = float(text) if len(text) <= 20 else math.nan
    except ValueError:
        seconds = math.nan
    if not MIN_FOLLOW <= seconds <= DAY:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"--follow={text} is not a number of seconds from {MIN_FOLLOW:g} to a day",
            advice="write it like --follow=30, or --follow alone",
        )
    return seconds


def prefix_of(text: str) -> Prefix:
    """Parse a URL or an absolute path."""
    try:
        return parse_prefix(text)
    except VzfsError as error:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            error.what,
            where=error.where,
            advice="write a URL such as s3://bucket/folder/, or an absolute path",
        ) from None


def readable_prefix(text: str) -> Prefix:
    """Parse a prefix that is to be read, or described as such."""
    prefix = prefix_of(text)
    if prefix.scheme in UNREADABLE:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"{prefix.scheme}: locations are never read",
            where=text,
            advice="they were the memory of the program that wrote the repository",
        )
    return prefix


def absolute(text: str) -> str:
    """Make a path absolute that the command line says from here or from home (`~/x`)."""
    if "://" in text:
        return text
    try:
        return path_to_url(Path(text).expanduser())
    except RuntimeError:
        raise ConfigError(
            ErrorKind.BAD_USAGE, "the path begins with a home that is not known", where=text
        ) from None


def checked_store(store: StoreOptions) -> StoreOptions:
    """Return *store* if it can be meant so, the path of its credentials made absolute.

    What looks like a secret is refused, and not repeated: options stand where others can read them.
    """
    for name, value in (("region", store.region), ("billing-project", store.billing_project)):
        if value is not None and _LOOKS_SECRET.search(value):
            raise _secret(name)
    if store.billing_project is not None and not _PROJECT.match(store.billing_project):
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            "'billing-project' is not the id of a project",
            advice="it has letters, digits, hyphens, dots and colons",
        )
    if store.account is not None and not _ACCOUNT.match(store.account):
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            "'account' is not the name of an Azure storage account",
            advice="it has 3 to 24 small letters and digits",
        )
    if store.endpoint is not None:
        _check_endpoint(store.endpoint)
    for network in store.addresses:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ConfigError(
                ErrorKind.BAD_CONFIG,
                f"{network!r} in 'addresses' is not a network",
                advice="write it like 127.0.0.1 or 10.0.0.0/8",
            ) from None
    if store.credentials is None:
        return store
    if store.anonymous:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            "'anonymous' and 'credentials' exclude each other",
            advice="give one of them",
        )
    return dataclasses.replace(store, credentials=_credentials(store.credentials))


def _credentials(text: str) -> str:
    kind, _, rest = text.partition(":")
    if text == "environment" or (_PROFILE.match(text) and not _LOOKS_SECRET.search(text)):
        return text
    if kind == "file" and rest and "\0" not in rest:
        return f"file:{Path(rest).expanduser().absolute()}"
    raise _secret("credentials")


def _check_endpoint(text: str) -> None:
    try:
        parts = urllib.parse.urlsplit(text)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_url = False
    if "@" in text or "?" in text or "#" in text:
        raise _secret("endpoint")
    if not is_url:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            "'endpoint' is not the URL of a server",
            where=text,
            advice="write it like https://store.example.org:9000",
        )


def _secret(name: str) -> ConfigError:
    return ConfigError(
        ErrorKind.BAD_CONFIG,
        f"{name!r} is not of a known form, or seems to hold a secret",
        advice="secrets stand in the environment or in a file of mode 0600: "
        "credentials are `environment`, `profile:NAME` or `file:PATH`",
    )
