"""Who may read what: the only maker of `AuthorizedRange`.

The repository proposes locations and only the person who mounts authorizes them. A virtual chunk is
readable if its location, as the repository wrote it, lies in a container that the repository
declares, *and* the place really read, after relocation, lies below a prefix that the user allows.
Prefixes are compared on whole path segments, the longest wins, and the same parsed `Location` that
was checked is the one that is fetched. Options of a store (endpoint, region, credentials) come from
the user's side alone.

Pure: no I/O. Decisions are remembered per location text, for the life of an `Access`, which never
changes.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, Literal, final

from vzfs.errors import AccessDenied, ErrorKind, VzfsError
from vzfs.model.location import (
    ByteRange,
    Checksum,
    Location,
    Prefix,
    parse_location,
    parse_prefix,
)
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer

MAX_REMEMBERED: Final = 100_000
"""Decisions kept: about 50 MB at worst. A repository with more source objects decides again."""

_RELATIVE: Final = "vcc://"
_MAKER: Final = object()


@dataclasses.dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to reach a store, as the user said it. Never filled from a repository.

    None means the environment's or the store's own default. Credentials are not here: they come
    from the environment of the process, unless *anonymous*.
    """

    region: str | None = None
    endpoint: str | None = None
    anonymous: bool = False
    path_style: bool | None = None
    allow_http: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class AccessPolicy:
    """A prefix that the user allows to be read, and how to reach the store there."""

    prefix: Prefix
    store: StoreOptions = dataclasses.field(default=StoreOptions())


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


@final
class AuthorizedPrefix:
    """Proof that the names below *prefix* may be listed."""

    __slots__ = ("prefix", "store")

    def __init__(self, maker: object, *, prefix: Prefix, store: StoreOptions) -> None:
        if maker is not _MAKER:
            raise TypeError("an AuthorizedPrefix is made by Access only")
        self.prefix: Final = prefix
        self.store: Final = store


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
        containers: Iterable[VirtualChunkContainer] = (),
    ) -> None:
        self._repository = AccessPolicy(repository, store)
        self._policies = sorted(policies, key=lambda p: len(p.prefix.key), reverse=True)
        self._relocations = sorted(relocations, key=lambda r: len(r.origin.key), reverse=True)
        self._containers, self._broken = _parse_containers(containers)
        self._decisions: dict[str, tuple[Location, AccessPolicy] | VzfsError] = {}

    @property
    def repository(self) -> Prefix:
        """Where the repository itself lies."""
        return self._repository.prefix

    def with_containers(self, containers: Iterable[VirtualChunkContainer]) -> "Access":
        """Return the same policies over the *containers* that a repository declares."""
        return Access(
            self._repository.prefix,
            self._repository.store,
            policies=self._policies,
            relocations=self._relocations,
            containers=containers,
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

    def repository_object(self, key: str, max_length: int) -> AuthorizedRange:
        """Return the proof for a whole metadata object of the repository itself."""
        return AuthorizedRange(
            _MAKER,
            location=self._repository.prefix.join(key),
            root=self._repository.prefix,
            store=self._repository.store,
            range_=None,
            max_length=max_length,
            checksum=None,
        )

    def repository_prefix(self, key: str) -> AuthorizedPrefix:
        """Return the proof for listing below *key* in the repository itself."""
        place = self._repository.prefix.join(key)
        prefix = Prefix(place.scheme, place.authority, place.key)
        return AuthorizedPrefix(_MAKER, prefix=prefix, store=self._repository.store)

    def resolve(self, text: str) -> Location:
        """Return the place that the repository means by *text*, whether it may be read or not.

        Raises AccessDenied where *text* names no place.
        """
        return parse_location(self._absolute(text))

    def container_of(self, location: Location) -> VirtualChunkContainer | None:
        """Return the container that covers *location* most closely."""
        found = self._container(location)
        return found and found[1]

    def explain(self, text: str) -> tuple[str, str | None]:
        """Say under which prefix the location *text* counts, and why it is refused, if it is."""
        try:
            location = self.resolve(text)
        except AccessDenied as refusal:
            return text, refusal.what
        container = self.container_of(location)
        prefix = (
            container.url_prefix
            if container
            else str(Prefix(location.scheme, location.authority, ""))
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
        allowed = dict.fromkeys(policy.prefix for policy in self._policies)
        in_vain = [p for p in allowed if not any(p.covers(q) or q.covers(p) for q in places)]
        return [
            *(
                f"virtual chunks below {r.place} cannot be read; to allow it, mount with "
                f"--allow {r.place}"
                for r in reports
                if r.allowed == "no"
            ),
            *(f"the repository declares no virtual chunks below {prefix}" for prefix in in_vain),
        ]

    def report(self) -> Sequence[ContainerReport]:
        """Say of each container where it really lies and whether the user allows it."""
        reports = []
        for prefix, container in self._containers:
            target = self._place(prefix)
            allowed: Literal["yes", "partly", "no"] = "no"
            if any(p.prefix.covers(target) for p in self._policies):
                allowed = "yes"
            elif any(target.covers(p.prefix) for p in self._policies):
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

    def _decide(self, text: str) -> tuple[Location, AccessPolicy]:
        decision = self._decisions.get(text)
        if decision is None:
            try:
                decision = self._decide_anew(text)
            except VzfsError as refusal:
                decision = refusal.with_traceback(None)
            if len(self._decisions) >= MAX_REMEMBERED:
                self._decisions.clear()
            self._decisions[text] = decision
        if isinstance(decision, VzfsError):
            raise AccessDenied(
                decision.kind, decision.what, where=decision.where, advice=decision.advice
            )
        return decision

    def _decide_anew(self, text: str) -> tuple[Location, AccessPolicy]:
        location = self.resolve(text)
        found = self._container(location)
        if found is None:
            raise AccessDenied(
                ErrorKind.NO_CONTAINER,
                "the location lies in no virtual chunk container of the repository",
                where=str(location),
                advice="the repository's owner must declare a container for it",
            )
        place = self._relocate(location)
        if not place.is_verbatim:
            raise AccessDenied(
                ErrorKind.BAD_LOCATION,
                "the location is refused: its key has an empty, '.' or '..' segment, or a control "
                "character, which no client can ask for verbatim",
                where=str(place),
            )
        policy = next((p for p in self._policies if p.prefix.covers(place)), None)
        if policy is None:
            raise AccessDenied(
                ErrorKind.NOT_ALLOWED,
                "reading here is not allowed",
                where=str(place),
                advice=f"to allow it, mount with --allow {self._place(found[0])}",
            )
        return place, policy

    def _absolute(self, text: str) -> str:
        """Resolve `vcc://NAME/rest` through the container of that name."""
        if not text.lower().startswith(_RELATIVE):
            return text
        name, _, rest = text[len(_RELATIVE) :].partition("/")
        for _, container in self._containers:
            if container.name == name:
                return container.url_prefix.removesuffix("/") + "/" + rest
        raise AccessDenied(
            ErrorKind.NO_CONTAINER,
            f"the repository declares no virtual chunk container named {name!r}",
            where=text,
            advice="the repository's owner must declare it",
        )

    def _container(self, location: Location) -> tuple[Prefix, VirtualChunkContainer] | None:
        return next((pair for pair in self._containers if pair[0].covers(location)), None)

    def _place(self, prefix: Prefix) -> Prefix:
        """Return where *prefix* really lies."""
        place = self._relocate(Location(prefix.scheme, prefix.authority, prefix.key))
        return Prefix(place.scheme, place.authority, place.key)

    def _relocate(self, location: Location) -> Location:
        for relocation in self._relocations:
            if relocation.origin.covers(location):
                return relocation.target.join(relocation.origin.relative(location))
        return location


def _parse_containers(
    containers: Iterable[VirtualChunkContainer],
) -> tuple[list[tuple[Prefix, VirtualChunkContainer]], list[tuple[VirtualChunkContainer, str]]]:
    """Sort *containers* into usable ones, longest prefix first, and those that authorize nothing."""
    usable = []
    broken = []
    for container in containers:
        try:
            usable.append((parse_prefix(container.url_prefix), container))
        except AccessDenied as refusal:
            broken.append((container, refusal.what))
    usable.sort(key=lambda pair: len(pair[0].key), reverse=True)
    return usable, broken
