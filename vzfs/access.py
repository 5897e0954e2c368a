"""Who may read what: the only maker of `AuthorizedRange`.

The repository proposes locations and only the person who mounts authorizes them. A virtual chunk is
readable if its location, as the repository wrote it, lies in a container that the repository
declares, *and* an access policy covers the place really read, after relocation. Prefixes are
compared on whole path segments; the longest wins, of equal ones a public one, then the last given.
In a mount that other users may read, a private policy allows nothing, and is not passed over for a
shorter public one. The same parsed `Location` that was checked is the one that is fetched. Options
of a store (endpoint, region, credentials) come from the user's side alone.

What the repository's own storage holds is what the user mounts, and needs no policy. Nor do objects
that the user named as what is to be mounted: files of an archive. References that declare no
containers (they are no repository's) are read where policies allow it.

Pure: no I/O. Decisions are remembered per location text, for the life of an `Access`, which never
changes: other policies make another `Access`.
"""

import dataclasses
import enum
import shlex
from collections.abc import Iterable, Sequence
from typing import Final, Literal, final

from vzfs.errors import AccessDenied, ErrorKind
from vzfs.model.chunkref import ChunkKind, ChunkRef
from vzfs.model.coverage import Coverage, above
from vzfs.model.location import (
    ByteRange,
    Checksum,
    Location,
    Prefix,
    parse_location,
    parse_prefix,
)
from vzfs.model.snapshot import VirtualChunkContainer

MAX_REMEMBERED: Final = 100_000
"""Decisions kept: about 50 MB at worst. A repository with more source objects decides again."""
MAX_CONTAINERS: Final = 10_000
"""Containers of one repository that count, far more than anybody declares; what else it declares
authorizes nothing."""

UNREADABLE: Final = frozenset({"memory"})
"""Schemes whose locations nobody can allow."""

_RELATIVE: Final = "vcc://"
_MAKER: Final = object()


class Visibility(enum.StrEnum):
    """Who may read a mount: whoever mounted it, a group, or all users of the machine."""

    PRIVATE = "private"
    GROUP = "group"
    PUBLIC = "public"


class _Hashed:
    __slots__ = ("_hash",)

    def __reduce__(self) -> tuple[object, ...]:
        # Another process hashes texts in another way.
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return type(self), tuple(values)


@dataclasses.dataclass(frozen=True, slots=True)
class StoreOptions(_Hashed):
    """How to reach a store, as the user said it. Never filled from a repository.

    None means the environment's or the store's own default. Credentials themselves are not here,
    only where they are to be had: *credentials* is `environment`, `profile:NAME` or `file:PATH`;
    None is the store's standard chain (for HTTP: none), and *anonymous* means that none are sent.
    *account* is Azure's; *billing_project* is who pays for requests to Google Cloud Storage, where
    *requester_pays* says so to S3. *addresses* are networks (CIDR) into which names may resolve,
    though they are loopback, link-local or of cloud metadata.
    """

    region: str | None = None
    endpoint: str | None = None
    anonymous: bool = False
    path_style: bool | None = None
    allow_http: bool = False
    credentials: str | None = None
    account: str | None = None
    requester_pays: bool = False
    billing_project: str | None = None
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Connections are looked up by these options at each fetch: a third of the time.
        object.__setattr__(self, "_hash", hash(dataclasses.astuple(self)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]


@dataclasses.dataclass(frozen=True, slots=True)
class BucketConfig:
    """How to reach what lies below *prefix*; it allows nothing.

    Policies call it by its *nickname*, "" if it has none. *origin* is the file that says so.
    """

    prefix: Prefix
    store: StoreOptions = dataclasses.field(default=StoreOptions())
    nickname: str = ""
    origin: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class AccessPolicy:
    """A prefix that may be read, and how to reach the store there.

    Only a *public* one counts in a mount that other users may read. *nickname* and *subprefix* are
    what a file says of it: a bucket and a part of it; *origin* is that file, or the option.
    """

    prefix: Prefix
    store: StoreOptions = dataclasses.field(default=StoreOptions())
    public: bool = False
    nickname: str = ""
    subprefix: str = ""
    origin: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Relocation:
    """Sources that moved: what the repository calls *origin* is really read at *target*."""

    origin: Prefix
    target: Prefix


@final
class AuthorizedRange:
    """Proof that policy was asked about exactly these bytes. Only this module makes one.

    *root* is the authorized prefix that covers *location*; whoever fetches must not leave it.
    *range* is None for a whole object, which may have at most *max_length* bytes.
    """

    __slots__ = ("checksum", "location", "max_length", "range", "root", "store")

    def __init__(
        self,
        maker: object,
        *,
        location: Location,
        root: Prefix,
        store: StoreOptions,
        range_: ByteRange | None,
        max_length: int,
        checksum: Checksum | None,
    ) -> None:
        if maker is not _MAKER:
            raise TypeError("an AuthorizedRange is made by Access only")
        self.location: Final = location
        self.root: Final = root
        self.store: Final = store
        self.range: Final = range_
        self.max_length: Final = max_length
        self.checksum: Final = checksum

    def __repr__(self) -> str:
        span = f"{self.range.offset}+{self.range.length}" if self.range else "whole"
        return f"<AuthorizedRange {self.location} {span}>"

    def part(self, part: ByteRange) -> "AuthorizedRange":
        """Return the proof for *part*, counted from the start of this range and inside it."""
        whole = self.range
        if whole is None or part.offset < 0 or part.length < 0 or part.end > whole.length:
            raise ValueError(f"{part} is not inside {self!r}")
        return AuthorizedRange(
            _MAKER,
            location=self.location,
            root=self.root,
            store=self.store,
            range_=ByteRange(whole.offset + part.offset, part.length),
            max_length=part.length,
            checksum=self.checksum,
        )

    def folder(self) -> "AuthorizedPrefix | None":
        """Return the proof for listing the folder that the object lies in, None where that is not below *root*."""
        key = self.location.key.rpartition("/")[0]
        folder = Prefix(self.location.scheme, self.location.authority, key)
        if not self.root.covers(folder):
            return None
        return AuthorizedPrefix(_MAKER, prefix=folder, root=self.root, store=self.store)

    def through(self, last: "AuthorizedRange") -> "AuthorizedRange":
        """Return the proof for all bytes from the start of this range to the end of *last*, of the same object."""
        first, end = self.range, last.range
        is_same = (self.location, self.root, self.store, self.checksum) == (
            last.location,
            last.root,
            last.store,
            last.checksum,
        )
        if not is_same or first is None or end is None or end.end < first.end:
            raise ValueError(f"{last!r} does not follow {self!r} in one object")
        length = end.end - first.offset
        return AuthorizedRange(
            _MAKER,
            location=self.location,
            root=self.root,
            store=self.store,
            range_=ByteRange(first.offset, length),
            max_length=length,
            checksum=self.checksum,
        )


@final
class AuthorizedPrefix:
    """Proof that the names below *prefix* may be listed.

    *root* is the authorized prefix that covers it; whoever lists must not leave it.
    """

    __slots__ = ("prefix", "root", "store")

    def __init__(self, maker: object, *, prefix: Prefix, root: Prefix, store: StoreOptions) -> None:
        if maker is not _MAKER:
            raise TypeError("an AuthorizedPrefix is made by Access only")
        self.prefix: Final = prefix
        self.root: Final = root
        self.store: Final = store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is decided about one location, and by which rules.

    *location* is what the repository means, None if that cannot be read; *place* is what is really
    read. *container* and *policy* are those that cover them most closely, None if none does.
    *refusal* says why the place is not read, None if it is.
    """

    location: Location | None = None
    place: Location | None = None
    container: VirtualChunkContainer | None = None
    policy: AccessPolicy | None = None
    refusal: AccessDenied | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ContainerReport:
    """What `vzfs info` says of one container: is it usable, and does the user allow it."""

    url_prefix: str
    name: str | None
    place: str
    allowed: Literal["yes", "partly", "no"]
    problem: str = ""


class Access:
    """What may be read for one repository."""

    def __init__(
        self,
        repository: Prefix,
        store: StoreOptions = StoreOptions(),
        *,
        policies: Iterable[AccessPolicy] = (),
        relocations: Iterable[Relocation] = (),
        containers: Iterable[VirtualChunkContainer] | None = (),
        named: Iterable[AccessPolicy] = (),
        visibility: Visibility = Visibility.PRIVATE,
    ) -> None:
        self._repository = AccessPolicy(repository, store)
        self._given_named = tuple(named)
        self._of_user = Coverage((policy.prefix, policy) for policy in self._given_named)
        self._declares = containers is not None
        self._given_policies = tuple(policies)
        self._given_relocations = tuple(relocations)
        self._visibility = visibility
        self._given_containers = tuple(containers or ())
        self._usable, self._broken = _parse_containers(self._given_containers)
        self._named = {c.name: c for _, c in self._usable if c.name is not None}
        self._containers = Coverage((pair[0], pair) for pair in self._usable)
        self._policies = in_force(self._given_policies)
        self._covering = Coverage((policy.prefix, policy) for policy in self._policies)
        self._relocations = Coverage((r.origin, r) for r in self._given_relocations)
        self._decisions: dict[str, tuple[Location, AccessPolicy] | AccessDenied] = {}

    @property
    def repository(self) -> Prefix:
        """Where the repository itself lies."""
        return self._repository.prefix

    @property
    def visibility(self) -> Visibility:
        """Who may read what is authorized here."""
        return self._visibility

    def with_containers(self, containers: Iterable[VirtualChunkContainer] | None) -> "Access":
        """Return the same policies over the *containers* that a repository declares; None if its kind declares none."""
        return self._but(containers=containers, is_other=True)

    def with_named(self, objects: Iterable[Location]) -> "Access":
        """Return the same policies, and leave to read the *objects* that the user named as what is to be read.

        One is reached as was said of it by name; else as the repository is, if it lies in the same bucket
        or on the same host. No other gets to see what opens the repository.
        """
        return self._but(named=[self._named_policy(o) for o in objects])

    def _named_policy(self, location: Location) -> AccessPolicy:
        prefix = Prefix(location.scheme, location.authority, location.key)
        known = self._of_user.find(prefix)
        if known is not None and known.prefix == prefix:
            return known
        own = self._repository.prefix
        is_near = (prefix.scheme, prefix.authority) == (own.scheme, own.authority)
        return AccessPolicy(prefix, self._repository.store if is_near else StoreOptions())

    def with_policies(self, policies: Iterable[AccessPolicy]) -> "Access":
        """Return other *policies* over the same repository: what a changed configuration makes."""
        return self._but(policies=tuple(policies))

    def _but(
        self,
        *,
        policies: Sequence[AccessPolicy] | None = None,
        containers: Iterable[VirtualChunkContainer] | None = None,
        is_other: bool = False,
        named: Sequence[AccessPolicy] | None = None,
    ) -> "Access":
        """Return a copy with other *policies* or *named* objects if given, and other *containers* if *is_other*."""
        if not is_other:
            containers = self._given_containers if self._declares else None
        return Access(
            self._repository.prefix,
            self._repository.store,
            policies=self._given_policies if policies is None else policies,
            relocations=self._given_relocations,
            containers=containers,
            named=self._given_named if named is None else named,
            visibility=self._visibility,
        )

    def authorize(self, ref: ChunkRef) -> AuthorizedRange:
        """Return the proof for the bytes of a native or virtual *ref*. Raises AccessDenied."""
        if ref.kind is ChunkKind.NATIVE:
            policy = self._repository
            place = policy.prefix.join(ref.location)
        else:
            place, policy = self._decide(ref.location)
        return AuthorizedRange(
            _MAKER,
            location=place,
            root=policy.prefix,
            store=policy.store,
            range_=ref.range,
            max_length=ref.length,
            checksum=ref.checksum,
        )

    def repository_object(
        self, key: str, max_length: int, checksum: Checksum | None = None
    ) -> AuthorizedRange:
        """Return the proof for a whole metadata object of the repository itself, of that version."""
        return AuthorizedRange(
            _MAKER,
            location=self._repository.prefix.join(key),
            root=self._repository.prefix,
            store=self._repository.store,
            range_=None,
            max_length=max_length,
            checksum=checksum,
        )

    def repository_part(self, key: str, part: ByteRange) -> AuthorizedRange:
        """Return the proof for a part of an object of the repository itself."""
        return AuthorizedRange(
            _MAKER,
            location=self._repository.prefix.join(key),
            root=self._repository.prefix,
            store=self._repository.store,
            range_=part,
            max_length=part.length,
            checksum=None,
        )

    def repository_prefix(self, key: str) -> AuthorizedPrefix:
        """Return the proof for listing below *key* in the repository itself."""
        place = self._repository.prefix.join(key)
        prefix = Prefix(place.scheme, place.authority, place.key)
        return AuthorizedPrefix(
            _MAKER, prefix=prefix, root=self._repository.prefix, store=self._repository.store
        )

    def resolve(self, text: str) -> Location:
        """Return the place that the repository means by *text*, whether it may be read or not.

        Raises AccessDenied where *text* names no place.
        """
        return parse_location(self._absolute(text))

    def container_of(self, location: Location) -> VirtualChunkContainer | None:
        """Return the container that covers *location* most closely."""
        found = self._containers.find(location)
        return found and found[1]

    def explain(self, text: str) -> tuple[str, str | None]:
        """Say under which prefix the location *text* counts, and why it is refused, if it is."""
        try:
            location = self.resolve(text)
        except AccessDenied as refusal:
            return text, refusal.what
        container = self.container_of(location)
        around = location.key.rpartition("/")[0] if not self._declares else ""
        prefix = (
            container.url_prefix
            if container
            else str(Prefix(location.scheme, location.authority, around))
        )
        try:
            self._decide(text)
        except AccessDenied as refusal:
            return prefix, f"{refusal.what} ({prefix}): {refusal.advice}"
        return prefix, None

    def notes(self) -> Sequence[str]:
        """Say what a user who mounts should know: which virtual chunks cannot be read, and which rule is in vain."""
        reports = [report for report in self.report() if not report.problem]
        places = [parse_prefix(report.place) for report in reports]
        within = Coverage((place, place) for place in places)
        above = {policy.prefix for place in places for policy in self._covering.all(place)}
        in_vain = [
            policy.prefix
            for policy in self._policies
            if policy.prefix not in above and within.find(policy.prefix) is None
        ]
        return [
            *(
                f"virtual chunks below {r.place} cannot be read; {self._remedy(parse_prefix(r.place))}"
                for r in reports
                if r.allowed == "no"
            ),
            *(f"the repository declares no virtual chunks below {prefix}" for prefix in in_vain),
        ]

    def report(self) -> Sequence[ContainerReport]:
        """Say of each container where it really lies and whether the user allows it."""
        opening = above(p.prefix for p in self._policies if self._counts(p))
        closing = above(p.prefix for p in self._policies if not self._counts(p))
        reports = []
        for prefix, container in self._usable:
            target = self._place(prefix)
            policy = self._covering.find(target)
            is_open = policy is not None and self._counts(policy)
            allowed: Literal["yes", "partly", "no"] = "yes" if is_open else "no"
            if target in (closing if is_open else opening):
                allowed = "partly"
            reports.append(
                ContainerReport(container.url_prefix, container.name, str(target), allowed)
            )
        for container, problem in self._broken:
            reports.append(
                ContainerReport(
                    container.url_prefix, container.name, "", allowed="no", problem=problem
                )
            )
        return reports

    # -- deciding ------------------------------------------------------------------------------

    def examine(self, text: str) -> Verdict:
        """Decide whether the virtual location *text* may be read, and say by which rules.

        What is found here is what `authorize` heeds.
        """
        try:
            location = self.resolve(text)
        except AccessDenied as refusal:
            return Verdict(refusal=refusal.with_traceback(None))
        found = self._containers.find(location)
        place = self._relocate(location)
        policy = self._of_user.find(location)
        if policy is not None:
            # What the user named is read where it was named, whatever else is said of its place.
            altered = None if location.is_verbatim else _not_verbatim(location)
            return Verdict(location=location, place=location, policy=policy, refusal=altered)
        policy = self._covering.find(place)
        return Verdict(
            location=location,
            place=place,
            container=found and found[1],
            policy=policy,
            refusal=self._refusal(location, place, found and found[0], policy),
        )

    def _decide(self, text: str) -> tuple[Location, AccessPolicy]:
        decision = self._decisions.get(text)
        if decision is None:
            verdict = self.examine(text)
            if verdict.refusal is not None:
                decision = verdict.refusal
            else:
                assert verdict.place is not None  # noqa: S101 -- nothing was refused
                assert verdict.policy is not None  # noqa: S101
                decision = verdict.place, verdict.policy
            if len(self._decisions) >= MAX_REMEMBERED:
                self._decisions.clear()
            self._decisions[text] = decision
        if isinstance(decision, AccessDenied):
            raise AccessDenied(
                decision.kind, decision.what, where=decision.where, advice=decision.advice
            )
        return decision

    def _refusal(
        self,
        location: Location,
        place: Location,
        container: Prefix | None,
        policy: AccessPolicy | None,
    ) -> AccessDenied | None:
        if container is None and self._declares:
            return AccessDenied(
                ErrorKind.NO_CONTAINER,
                "the location lies in no virtual chunk container of the repository",
                where=str(location),
                advice="the repository's owner must declare a container for it",
            )
        if not place.is_verbatim:
            return _not_verbatim(place)
        around = self._place(container) if container else _folder(place)
        if place.scheme in UNREADABLE:
            return AccessDenied(
                ErrorKind.NOT_ALLOWED,
                f"{place.scheme}: locations are never read",
                where=str(place),
                advice=self._remedy(around),
            )
        if policy is None:
            return AccessDenied(
                ErrorKind.NOT_ALLOWED,
                "reading here is not allowed",
                where=str(place),
                advice=self._remedy(around),
            )
        if not self._counts(policy):
            return AccessDenied(
                ErrorKind.NOT_ALLOWED,
                "the policy that allows this is private, and the mount is open to all users",
                where=str(place),
                advice=self._remedy(policy.prefix),
            )
        return None

    def _counts(self, policy: AccessPolicy) -> bool:
        return policy.public or self._visibility is not Visibility.PUBLIC

    def _remedy(self, prefix: Prefix) -> str:
        """Say how *prefix* is allowed; a shell takes it as it stands, whatever the repository wrote."""
        if prefix.scheme in UNREADABLE:
            return "they were the memory of the program that wrote the repository"
        if self._visibility is Visibility.PUBLIC:
            return f"to allow it: vzfs policy set {shlex.quote(str(prefix))} --public"
        # An equals sign would begin a nickname.
        place = shlex.quote(str(prefix).replace("=", "%3D"))
        return f"to allow it, mount with --allow {place}, or for good: vzfs policy set {place}"

    def _absolute(self, text: str) -> str:
        """Resolve `vcc://NAME/rest` through the container of that name."""
        if not text.lower().startswith(_RELATIVE):
            return text
        name, _, rest = text[len(_RELATIVE) :].partition("/")
        container = self._named.get(name)
        if container is None:
            raise AccessDenied(
                ErrorKind.NO_CONTAINER,
                f"the repository declares no virtual chunk container named {name!r}",
                where=text,
                advice="the repository's owner must declare it",
            )
        return container.url_prefix.removesuffix("/") + "/" + rest

    def _place(self, prefix: Prefix) -> Prefix:
        """Return where *prefix* really lies."""
        place = self._relocate(Location(prefix.scheme, prefix.authority, prefix.key))
        return Prefix(place.scheme, place.authority, place.key)

    def _relocate(self, location: Location) -> Location:
        relocation = self._relocations.find(location)
        if relocation is None:
            return location
        return relocation.target.join(relocation.origin.relative(location))


def _not_verbatim(place: Location) -> AccessDenied:
    return AccessDenied(
        ErrorKind.BAD_LOCATION,
        "the location is refused: its key has an empty, '.' or '..' segment, or a control "
        "character, which no client can ask for verbatim",
        where=str(place),
    )


def _folder(place: Location) -> Prefix:
    """Return the folder that *place* lies in, or *place* itself where there is none that could be allowed."""
    folder = place.key.rpartition("/")[0]
    has_root = bool(place.authority or folder)
    return Prefix(place.scheme, place.authority, folder if has_root else place.key)


def in_force(policies: Iterable[AccessPolicy]) -> list[AccessPolicy]:
    """Return those of *policies* that count: of equal prefixes a public one, then the last."""
    found: dict[Prefix, AccessPolicy] = {}
    for policy in policies:
        if policy.public or policy.prefix not in found or not found[policy.prefix].public:
            found[policy.prefix] = policy
    return list(found.values())


def _parse_containers(
    containers: Sequence[VirtualChunkContainer],
) -> tuple[list[tuple[Prefix, VirtualChunkContainer]], list[tuple[VirtualChunkContainer, str]]]:
    """Sort *containers* into usable ones, and those that authorize nothing and why."""
    usable = []
    broken = []
    for container in containers[:MAX_CONTAINERS]:
        try:
            usable.append((parse_prefix(container.url_prefix), container))
        except AccessDenied as refusal:
            broken.append((container, refusal.what))
    if (left := len(containers) - MAX_CONTAINERS) > 0:
        problem = f"{left} containers, from this one on, are beyond the first {MAX_CONTAINERS}"
        broken.append((containers[MAX_CONTAINERS], problem))
    return usable, broken
