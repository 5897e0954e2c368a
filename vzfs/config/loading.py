"""The whole configuration of a command: files, then the environment, then flags.

Lists (buckets, policies, relocations) add up; of single values the later wins.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vzfs.access import (
    Access,
    AccessPolicy,
    Relocation,
    StoreOptions,
    Visibility,
    in_force,
)
from vzfs.config.files import read_files
from vzfs.config.rules import Rules, make_rules
from vzfs.config.sources import parse_sources
from vzfs.config.values import (
    Egress,
    ViewName,
    ZarrFormat,
    absolute,
    checked_store,
    parse_egress,
    parse_follow,
    parse_seconds,
    parse_size,
    parse_time,
    parse_view,
    parse_zarr_format,
    prefix_of,
)
from vzfs.errors import AccessDenied, ConfigError, ErrorKind
from vzfs.model.location import Location, Prefix
from vzfs.model.selection import Selection
from vzfs.model.snapshot import RefSpec

DEFAULT_CACHE_SIZE: Final = 10 * 2**30
DEFAULT_MEMORY: Final = 256 * 2**20
"""Bytes of chunks held in memory: a few dozen of the usual size, on machines with a few GB."""
DEFAULT_DEADLINE: Final = 60.0
DEFAULT_VIEW: Final[ViewName] = "portable"
DEFAULT_ZARR_FORMAT: Final[ZarrFormat] = 3
DEFAULT_STORE: Final = StoreOptions()
DEFAULT_REF: Final = RefSpec()
DEFAULT_SELECTION: Final = Selection()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a command needs to know. Sizes are bytes, *deadline* is seconds.

    *selection* says which objects below *repository* are meant, where that is not what lies there
    itself; *named* how those are reached that were named one by one. *offline* asks no source for chunks; *max_egress* is how much may be fetched, None for any
    amount. *redirect* is the web server that is to say where the repository is; until it has,
    *repository* is its own address. *left_out* says which of the users' policies do not count.

    The root shows the snapshot in the view *view_name*, as Zarr of version *zarr_format*; whether a
    group's document has the documents below it in it says *consolidated*. *follow* is how many
    seconds lie between two looks at the branch, None if the snapshot stays.
    """

    source: str
    repository: Prefix
    selection: Selection = DEFAULT_SELECTION
    redirect: Location | None = None
    store: StoreOptions = DEFAULT_STORE
    ref: RefSpec = DEFAULT_REF
    policies: Sequence[AccessPolicy] = ()
    left_out: Sequence[ConfigError] = ()
    relocations: Sequence[Relocation] = ()
    cache_dir: Path | None = None
    cache_size: int = DEFAULT_CACHE_SIZE
    memory: int = DEFAULT_MEMORY
    deadline: float = DEFAULT_DEADLINE
    offline: bool = False
    max_egress: Egress | None = None
    view_name: ViewName = DEFAULT_VIEW
    zarr_format: ZarrFormat = DEFAULT_ZARR_FORMAT
    consolidated: bool = True
    follow: float | None = None
    named: Sequence[AccessPolicy] = ()

    def access(self, visibility: Visibility = Visibility.PRIVATE) -> Access:
        """Return what may be read in a mount of this *visibility*, before containers are known."""
        return Access(
            self.repository,
            self.store,
            policies=self.policies,
            relocations=self.relocations,
            named=self.named,
            visibility=visibility,
        )

    def redirected(
        self,
        prefix: Prefix,
        proposed: StoreOptions,
        visibility: Visibility = Visibility.PRIVATE,
    ) -> "Config":
        """Return the configuration of the repository at *prefix*, to which the redirect leads.

        It counts only below a policy, in a public mount below a public one. Of what is *proposed* an endpoint must be that of the policy,
        and a region counts where the policy names none. Raises AccessDenied.
        """
        covering = [p for p in in_force(self.policies) if p.prefix.covers(prefix)]
        policy = max(covering, key=lambda p: len(p.prefix.key), default=None)
        if policy is None or proposed.endpoint not in {None, policy.store.endpoint}:
            at = f" at {proposed.endpoint}" if proposed.endpoint else ""
            advice = f"to allow it, mount with --allow {prefix}, or mount that directly"
            if proposed.endpoint:
                advice = (
                    f"to allow it, write a [[bucket]] with the prefix {prefix} and the endpoint "
                    f"{proposed.endpoint}, and a [[policy]] for it"
                )
            raise AccessDenied(
                ErrorKind.NOT_ALLOWED,
                f"the redirect leads to {prefix}{at}, which is not allowed",
                where=self.source,
                advice=advice,
            )
        if visibility is Visibility.PUBLIC and not policy.public:
            raise AccessDenied(
                ErrorKind.NOT_ALLOWED,
                f"the redirect leads to {prefix}, which a private policy allows, and the mount is "
                "open to all users",
                where=self.source,
                advice=f"to allow it: vzfs policy set {shlex.quote(str(policy.prefix))} --public",
            )
        store = dataclasses.replace(
            policy.store,
            region=policy.store.region or proposed.region,
            path_style=policy.store.path_style or proposed.path_style,
            anonymous=True,
        )
        return dataclasses.replace(self, repository=prefix, store=store, redirect=None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line said, unparsed; None where it said nothing.

    *follow* is "" where it names no number of seconds.
    """

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
    offline: bool = False
    max_egress: str | None = None
    view: str | None = None
    zarr_format: int | None = None
    consolidated: bool | None = None
    follow: str | None = None
    concat: str | None = None
    store: StoreOptions = DEFAULT_STORE


def load(
    source: str | Sequence[str],
    flags: Flags,
    environ: Mapping[str, str],
    *,
    lenient: bool = False,
) -> Config:
    """Read the files, then the environment, then *flags*. Raises ConfigError.

    *source* is what is to be shown, or several files.

    If *lenient*, what users allow beyond the administrator is left out, and is no error.
    """
    files = read_files(flags.config, environ)
    store = checked_store(flags.store)
    rules = make_rules(files, flags.allow, store, environ, lenient=lenient)
    values: dict[str, Any] = {}
    for file in files:
        values.update(file.values)
    named = parse_sources([source] if isinstance(source, str) else source, flags.concat)
    max_egress = flags.max_egress if flags.max_egress is not None else values.get("max-egress")
    return Config(
        source=named.text,
        repository=named.place,
        selection=named.selection,
        redirect=named.redirect,
        store=rules.store_for(named.place),
        ref=_ref(flags),
        policies=rules.policies,
        left_out=rules.left_out,
        relocations=[
            *(relocation for file in files for relocation in file.relocations),
            *(Relocation(*map(prefix_of, _split_map(pair))) for pair in flags.map),
        ],
        cache_dir=None if flags.no_cache else _cache_dir(flags, values, environ),
        cache_size=_cache_size(flags, values, environ),
        memory=parse_size(_first(flags.memory, values.get("memory"), DEFAULT_MEMORY)),
        deadline=parse_seconds(_first(flags.deadline, values.get("deadline"), DEFAULT_DEADLINE)),
        offline=flags.offline,
        max_egress=None if max_egress is None else parse_egress(max_egress),
        view_name=parse_view(_first(flags.view, values.get("view"), DEFAULT_VIEW)),
        zarr_format=parse_zarr_format(
            _first(flags.zarr_format, values.get("zarr-format"), DEFAULT_ZARR_FORMAT)
        ),
        consolidated=_first(flags.consolidated, values.get("consolidated"), True),
        follow=_follow(flags),
        named=[AccessPolicy(p, rules.store_for(p)) for p in _places(named.selection)],
    )


def _places(selection: Selection) -> list[Prefix]:
    """Return the files that were named one by one, each of which is reached as its bucket says."""
    return [Prefix(file.scheme, file.authority, file.key) for file in selection.files]


def load_cache(flags: Flags, environ: Mapping[str, str]) -> tuple[Path | None, int]:
    """Return the folder of the cache and its limit in bytes, as `load` does. Raises ConfigError."""
    values: dict[str, Any] = {}
    for file in read_files(flags.config, environ):
        values.update(file.values)
    return _cache_dir(flags, values, environ), _cache_size(flags, values, environ)


def load_rules(
    config: str | None,
    environ: Mapping[str, str],
    drafts: Mapping[Path, str] | None = None,
    *,
    lenient: bool = False,
) -> Rules:
    """Return the rules of the files alone; *drafts* are texts that count in the place of files.

    Raises ConfigError.
    """
    files = read_files(config, environ, drafts)
    return make_rules(files, (), DEFAULT_STORE, environ, lenient=lenient)


def parse_source(text: str) -> Prefix:
    """Return the place that *text*, as a command line names a source, means. Raises ConfigError."""
    return parse_sources([text]).place


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


def _follow(flags: Flags) -> float | None:
    """Return how often to look at the branch, which must be one that goes on."""
    if flags.follow is None:
        return None
    for given, stays in (
        (flags.tag, "a tag stays where it is"),
        (flags.snapshot, "a snapshot stays as it is"),
        (flags.as_of, "what a branch was at a time stays as it was"),
        (flags.offline or None, "offline nobody is asked for commits"),
    ):
        if given is not None:
            raise ConfigError(
                ErrorKind.BAD_USAGE,
                f"{stays}, and cannot be followed",
                advice="give --follow with a branch, or leave it out",
            )
    return parse_follow(flags.follow)


def _split_map(text: str) -> tuple[str, str]:
    origin, separator, target = text.partition("=")
    if not separator or "=" in target:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "a relocation is not of the form FROM=TO",
            where=text,
            advice="write an equals sign inside a location as %3D",
        )
    return absolute(origin), absolute(target)


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


def _cache_size(flags: Flags, values: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    size = _first(
        flags.cache_size,
        environ.get("VZFS_CACHE_SIZE"),
        values.get("cache-size"),
        DEFAULT_CACHE_SIZE,
    )
    return parse_size(size)


def _first[T](*values: T | None) -> T:
    """Return the first value that is given."""
    return next(value for value in values if value is not None)
