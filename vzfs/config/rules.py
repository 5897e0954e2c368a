"""The buckets and access policies that count: those of all files and of `--allow`, put together.

An administrator may bind users (`users-may-allow = false`). Then what a user allows must lie inside
what an administrator's policy covers, is reached as that policy says, and is public only if it is;
and a place that an administrator's bucket describes is described by nobody else. This guards the
daemon against the wishes and mistakes of who starts it, and is no sandbox: a user's own programs
read what they like.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from vzfs.access import AccessPolicy, BucketConfig, StoreOptions, in_force
from vzfs.config.files import ConfigFile, PolicyEntry, is_nickname
from vzfs.config.values import absolute, checked_store, prefix_of, readable_prefix
from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.coverage import Coverage
from vzfs.model.location import Location, Prefix

OPTION: Final = "--allow"
"""The origin of a policy that the command line made."""

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_OF_ACCOUNTS: Final = frozenset({"az", "abfs"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All buckets and policies, the administrator's first, then the user's, then the options'.

    Those that count are among them: of *policies* `in_force`, of *buckets* `is_overridden` tells.
    *limited_by* is the administrator's file that binds users, "" if none does. *default* are the
    options of stores that no bucket describes. *left_out* says of users' policies why they do not
    count, where that is no reason to count none.
    """

    buckets: Sequence[BucketConfig]
    policies: Sequence[AccessPolicy]
    administrators: frozenset[str]
    limited_by: str
    default: StoreOptions
    environ: Mapping[str, str]
    left_out: Sequence[ConfigError] = ()

    def store_for(self, place: Prefix) -> StoreOptions:
        """Return the options of the closest bucket that covers *place*, else the default ones."""
        bucket = self.bucket_for(place)
        return self.reached(place, self.default) if bucket is None else bucket.store

    def bucket_for(self, place: Prefix) -> BucketConfig | None:
        """Return the bucket that covers *place* most closely; of equal ones the last."""
        covering = [bucket for bucket in self.buckets if bucket.prefix.covers(place)]
        if self.limited_by:
            theirs = [bucket for bucket in covering if bucket.origin in self.administrators]
            covering = theirs or covering
        return max(reversed(covering), key=lambda b: len(b.prefix.key), default=None)

    def is_overridden(self, bucket: BucketConfig) -> bool:
        """Whether no place gets its options from *bucket* because of its prefix."""
        return self.bucket_for(bucket.prefix) is not bucket

    def reached(self, place: Prefix, store: StoreOptions) -> StoreOptions:
        """Fill in the endpoint or account that the environment names: it says which store is meant, as an option does."""
        if store.endpoint is None and store.account is None and place.scheme in _OF_ACCOUNTS:
            account = next(filter(None, map(self.environ.get, _ACCOUNTS)), None)
            return checked_store(dataclasses.replace(store, account=account))
        if store.endpoint is not None or place.scheme != "s3":
            return store
        endpoint = next(filter(None, map(self.environ.get, _ENDPOINTS)), None)
        return checked_store(dataclasses.replace(store, endpoint=endpoint))


def make_rules(
    files: Iterable[ConfigFile],
    allow: Sequence[str],
    default: StoreOptions,
    environ: Mapping[str, str],
    *,
    lenient: bool = False,
) -> Rules:
    """Put together what *files* and the option `--allow` say. Raises ConfigError.

    What users allow must fit what the administrator says; if *lenient*, what does not is left out,
    so that it closes in a mount that runs when the administrator changes their mind.
    """
    files = list(files)
    administrators = frozenset(str(f.path) for f in files if f.is_administrators)
    limited_by = next((str(f.path) for f in files if not f.users_may_allow), "")
    rules = Rules(
        buckets=[bucket for file in files for bucket in file.buckets],
        policies=(),
        administrators=administrators,
        limited_by=limited_by,
        default=default,
        environ=environ,
    )
    for is_theirs in (True, False):
        _check_nicknames(b for b in rules.buckets if (b.origin in administrators) is is_theirs)
    # What binds users must not be sent elsewhere by a variable that they set.
    rules = dataclasses.replace(
        rules,
        buckets=[
            bucket
            if limited_by and bucket.origin in administrators
            else dataclasses.replace(bucket, store=rules.reached(bucket.prefix, bucket.store))
            for bucket in rules.buckets
        ],
    )
    theirs = [
        _policy(entry, file, rules)
        for file in files
        if file.is_administrators
        for entry in file.policies
    ]
    limits = Coverage((policy.prefix, policy) for policy in in_force(theirs))
    makers: list[Callable[[], AccessPolicy]] = [
        *(
            functools.partial(_policy, entry, file, rules)
            for file in files
            if not file.is_administrators
            for entry in file.policies
        ),
        *(functools.partial(_allowed, text, rules) for text in allow),
    ]
    ours = []
    left_out = []
    for make in makers:
        try:
            policy = make()
            ours.append(_limited(policy, limits, limited_by) if limited_by else policy)
        except ConfigError as error:
            if not lenient:
                raise
            left_out.append(error)
    return dataclasses.replace(rules, policies=[*theirs, *ours], left_out=left_out)


def subprefix_of(bucket: Prefix, prefix: Prefix) -> str:
    """Return what a policy writes as `subprefix` to mean *prefix*, which *bucket* covers."""
    return str(prefix)[len(str(bucket)) :]


def _check_nicknames(buckets: Iterable[BucketConfig]) -> None:
    seen: dict[str, BucketConfig] = {}
    for bucket in buckets:
        other = seen.setdefault(bucket.nickname, bucket)
        if bucket.nickname and other is not bucket:
            raise ConfigError(
                ErrorKind.BAD_CONFIG,
                f"two buckets have the nickname {bucket.nickname!r}",
                where=f"{other.origin} and {bucket.origin}"
                if other.origin != bucket.origin
                else bucket.origin,
                advice="give one of them another",
            )


def _bucket_named(nickname: str, rules: Rules) -> BucketConfig | None:
    """Return the user's own bucket of that name, or else the administrator's."""
    own_first = sorted(rules.buckets, key=lambda b: b.origin in rules.administrators)
    return next((b for b in own_first if b.nickname == nickname), None)


def _policy(entry: PolicyEntry, file: ConfigFile, rules: Rules) -> AccessPolicy:
    known = [
        b for b in rules.buckets if not file.is_administrators or b.origin in rules.administrators
    ]
    bucket = _bucket_named(entry.bucket, dataclasses.replace(rules, buckets=known))
    if bucket is None:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"a policy names the bucket {entry.bucket!r}, which does not exist",
            where=str(file.path),
            advice=_known(known),
        )
    return AccessPolicy(
        _below(bucket.prefix, entry.subprefix, str(file.path)),
        bucket.store,
        public=entry.public,
        nickname=entry.bucket,
        subprefix=entry.subprefix,
        origin=str(file.path),
    )


def _below(prefix: Prefix, subprefix: str, origin: str) -> Prefix:
    """Return the prefix *subprefix*, written as in a URL, below *prefix*."""
    if not subprefix:
        return prefix
    found = prefix_of(str(prefix) + subprefix)
    place = Location(found.scheme, found.authority, found.key)
    # The key of a file: location is normalized, and may have left.
    if not (place.is_verbatim and prefix.covers(place)):
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"the subprefix {subprefix!r} begins with a slash, or has an empty, '.' or '..' segment",
            where=origin,
            advice="write it like sst/daily/",
        )
    return found


def _allowed(text: str, rules: Rules) -> AccessPolicy:
    """Make the private policy that `--allow PREFIX[=NICKNAME]` means."""
    place, separator, nickname = text.partition("=")
    prefix = readable_prefix(absolute(place))
    if not separator:
        return AccessPolicy(prefix, rules.store_for(prefix), origin=OPTION)
    bucket = _bucket_named(nickname, rules) if is_nickname(nickname) else None
    if bucket is None:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"{OPTION} names a bucket that does not exist",
            where=text,
            advice=f"{_known(rules.buckets)}; an equals sign inside a location is written %3D",
        )
    if not bucket.prefix.covers(prefix):
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the bucket {nickname!r} does not cover what {OPTION} names",
            where=text,
            advice=f"it describes {bucket.prefix}",
        )
    return AccessPolicy(prefix, bucket.store, nickname=nickname, origin=OPTION)


def _known(buckets: Iterable[BucketConfig]) -> str:
    names = ", ".join(bucket.nickname for bucket in buckets if bucket.nickname)
    return f"the nicknames are {names}" if names else "no bucket has a nickname"


def _limited(policy: AccessPolicy, limits: Coverage[AccessPolicy], limited_by: str) -> AccessPolicy:
    limit = limits.find(policy.prefix)
    if limit is None:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"{policy.origin} allows what the administrator does not let users allow",
            where=str(policy.prefix),
            advice=f"leave it out, or ask for a policy beside {limited_by}",
        )
    if policy.public and not limit.public:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"{policy.origin} makes public what is private in {limit.origin}",
            where=str(policy.prefix),
            advice=f"make it private; users are bound by {limited_by}",
        )
    return dataclasses.replace(policy, store=limit.store)
