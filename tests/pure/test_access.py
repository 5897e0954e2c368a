"""Who may read what."""

import dataclasses
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.access import (
    MAX_CONTAINERS,
    Access,
    AccessPolicy,
    AuthorizedPrefix,
    AuthorizedRange,
    Relocation,
    StoreOptions,
    Visibility,
    in_force,
)
from vzfs.errors import AccessDenied, ErrorKind
from vzfs.model.location import ByteRange, ETag, LastModified, parse_location, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer

REPOSITORY = parse_prefix("s3://repos/mine")


def virtual(location: str) -> ChunkRef:
    return ChunkRef(ChunkKind.VIRTUAL, 10, location, 5, LastModified(7))


def access(
    *allowed: str,
    containers: tuple[str, ...] = ("s3://b/data/",),
    moved: tuple[tuple[str, str], ...] = (),
    public: tuple[str, ...] = (),
    visibility: Visibility = Visibility.PRIVATE,
) -> Access:
    return Access(
        REPOSITORY,
        policies=[
            *(AccessPolicy(parse_prefix(p)) for p in allowed),
            *(AccessPolicy(parse_prefix(p), public=True) for p in public),
        ],
        relocations=[Relocation(parse_prefix(a), parse_prefix(b)) for a, b in moved],
        containers=[VirtualChunkContainer(c) for c in containers],
        visibility=visibility,
    )


def kind_of_refusal(wanted: Access, location: str) -> ErrorKind:
    with pytest.raises(AccessDenied) as caught:
        wanted.authorize(virtual(location))
    return caught.value.kind


def test_container_and_policy_together_authorize() -> None:
    """A location in a container of the repository and below an allowed prefix may be read."""
    wanted = access("s3://b/data/").authorize(virtual("s3://b/data/x"))

    assert wanted.location == parse_location("s3://b/data/x")
    assert wanted.range == ByteRange(5, 10)
    assert wanted.checksum == LastModified(7)


def test_the_container_alone_authorizes_nothing() -> None:
    """What the repository declares is not readable before the user allows it; the error says how."""
    with pytest.raises(AccessDenied) as caught:
        access().authorize(virtual("s3://b/data/x"))

    assert caught.value.kind is ErrorKind.NOT_ALLOWED
    assert "--allow s3://b/data/" in caught.value.advice


def test_the_policy_alone_authorizes_nothing() -> None:
    """What the user allows is not readable where the repository declares no container."""
    assert kind_of_refusal(access("s3://b/"), "s3://b/other/x") is ErrorKind.NO_CONTAINER


@pytest.mark.parametrize("broken", ["s3://", "file:///", "s3", "file", "az", ""])
def test_a_container_without_authority_or_path_authorizes_nothing(broken: str) -> None:
    """A container that would cover everything covers nothing, and is reported."""
    wanted = access("s3://b/", "/etc", containers=(broken,))

    assert kind_of_refusal(wanted, "s3://b/x") is ErrorKind.NO_CONTAINER
    assert kind_of_refusal(wanted, "file:///etc/passwd") is ErrorKind.NO_CONTAINER
    assert wanted.report()[0].problem


def test_the_longest_allowed_prefix_wins() -> None:
    """Store options come from the closest policy."""
    near = AccessPolicy(parse_prefix("s3://b/data/near/"), StoreOptions(region="near"))
    far = AccessPolicy(parse_prefix("s3://b/"), StoreOptions(region="far"))
    container = VirtualChunkContainer("s3://b/")
    wanted = Access(REPOSITORY, policies=[far, near], containers=[container])

    assert wanted.authorize(virtual("s3://b/data/near/x")).store.region == "near"
    assert wanted.authorize(virtual("s3://b/data/nearby/x")).store.region == "far"


@pytest.mark.parametrize(
    "location",
    ["s3://b/data/../secret", "s3://b/data/%2e%2e/secret", "s3://b/data//x", "s3://b/data/./x"],
)
def test_a_key_that_clients_would_alter_is_refused(location: str) -> None:
    """A key with empty or dot segments is refused, never normalized, even below an allowed prefix."""
    assert kind_of_refusal(access("s3://b/data/"), location) is ErrorKind.BAD_LOCATION


@pytest.mark.parametrize("location", ["file:///d/../etc/passwd", "file:///d/%2e%2e/etc/passwd"])
def test_dots_do_not_leave_a_file_prefix(location: str) -> None:
    """A `file:` location is normalized before anything is compared with it."""
    wanted = access("/d", containers=("file:///d/",))

    assert kind_of_refusal(wanted, location) is ErrorKind.NO_CONTAINER


def test_a_relocation_is_checked_at_both_ends() -> None:
    """The container is checked on the location as written, the policy on the place really read."""
    moved = (("file:///old/", "file:///new/place/"),)
    wanted = access("/new", containers=("file:///old/",), moved=moved)

    assert wanted.authorize(virtual("file:///old/a/x")).location == parse_location(
        "file:///new/place/a/x"
    )
    assert kind_of_refusal(wanted, "file:///new/place/x") is ErrorKind.NO_CONTAINER
    only_old = access("/old", containers=("file:///old/",), moved=moved)
    assert kind_of_refusal(only_old, "file:///old/a/x") is ErrorKind.NOT_ALLOWED


def test_a_named_container_resolves_relative_locations() -> None:
    """`vcc://NAME/rest` lies below the prefix of the container with that name."""
    container = VirtualChunkContainer("s3://b/data", name="archive")
    policies = [AccessPolicy(parse_prefix("s3://b/data"))]
    wanted = Access(REPOSITORY, policies=policies, containers=[container])

    assert str(wanted.authorize(virtual("vcc://archive/a/x")).location) == "s3://b/data/a/x"
    assert kind_of_refusal(wanted, "vcc://other/x") is ErrorKind.NO_CONTAINER
    assert kind_of_refusal(wanted, "vcc://archive/../x") is ErrorKind.BAD_LOCATION


def test_native_chunks_lie_in_the_repository() -> None:
    """A native chunk needs no policy: its bytes are the repository's own."""
    native = ChunkRef(ChunkKind.NATIVE, 3, "chunks/ABC", 1)

    wanted = access().authorize(native)

    assert str(wanted.location) == "s3://repos/mine/chunks/ABC"
    assert wanted.root == REPOSITORY


def test_virtual_chunks_in_the_repository_need_a_policy_too() -> None:
    """That a source object lies beside the repository allows nothing."""
    wanted = access(containers=("s3://repos/mine/",))

    assert kind_of_refusal(wanted, "s3://repos/mine/chunks/ABC") is ErrorKind.NOT_ALLOWED


def test_nobody_else_makes_proofs() -> None:
    """An AuthorizedRange or AuthorizedPrefix cannot be made without asking Access."""
    with pytest.raises(TypeError):
        AuthorizedRange(
            object(),
            location=parse_location("s3://b/x"),
            root=REPOSITORY,
            store=StoreOptions(),
            range_=None,
            max_length=1,
            checksum=None,
        )
    with pytest.raises(TypeError):
        AuthorizedPrefix(object(), prefix=REPOSITORY, root=REPOSITORY, store=StoreOptions())


def test_a_part_stays_inside_its_range() -> None:
    """A proof for a range gives proofs for its parts and for nothing outside."""
    wanted = access("s3://b/data/").authorize(virtual("s3://b/data/x"))

    assert wanted.part(ByteRange(2, 3)).range == ByteRange(7, 3)
    for outside in (ByteRange(8, 3), ByteRange(-1, 2), ByteRange(0, -1)):
        with pytest.raises(ValueError, match="not inside"):
            wanted.part(outside)


def test_a_refusal_is_remembered_and_told_again() -> None:
    """Asking twice gives the same answer, as an error of its own."""
    wanted = access()

    assert kind_of_refusal(wanted, "s3://b/data/x") is kind_of_refusal(wanted, "s3://b/data/x")


def test_containers_say_whether_they_are_allowed() -> None:
    """A container is allowed wholly, partly or not at all."""
    wanted = access(
        "s3://b/data/", "s3://c/part/", containers=("s3://b/data/x/", "s3://c/", "s3://d/")
    )

    assert {r.url_prefix: r.allowed for r in wanted.report()} == {
        "s3://b/data/x/": "yes",
        "s3://c/": "partly",
        "s3://d/": "no",
    }


# -- visibility --------------------------------------------------------------------------------


def test_a_public_mount_serves_public_policies_only() -> None:
    """In a mount that is open to all users a private policy allows nothing, and the error says how to change it."""
    wanted = access("s3://b/data/", visibility=Visibility.PUBLIC)

    with pytest.raises(AccessDenied) as caught:
        wanted.authorize(virtual("s3://b/data/x"))

    assert caught.value.kind is ErrorKind.NOT_ALLOWED
    assert "private" in caught.value.what
    assert "vzfs policy set s3://b/data/ --public" in caught.value.advice
    opened = access(public=("s3://b/data/",), visibility=Visibility.PUBLIC)
    assert opened.authorize(virtual("s3://b/data/x")).root == parse_prefix("s3://b/data")


@pytest.mark.parametrize("visibility", [Visibility.PRIVATE, Visibility.GROUP])
def test_other_mounts_serve_private_and_public_policies(visibility: Visibility) -> None:
    """A mount of its owner, or of a group, serves what private and public policies allow."""
    containers = ("s3://b/data/", "s3://c/")
    wanted = access(
        "s3://b/data/", public=("s3://c/",), containers=containers, visibility=visibility
    )

    assert wanted.authorize(virtual("s3://b/data/x"))
    assert wanted.authorize(virtual("s3://c/x"))


def test_a_private_policy_is_not_passed_over_for_a_shorter_public_one() -> None:
    """A private policy inside a public one closes its part to a public mount."""
    wanted = access("s3://b/data/secret/", public=("s3://b/data/",), visibility=Visibility.PUBLIC)

    assert wanted.authorize(virtual("s3://b/data/x"))
    assert kind_of_refusal(wanted, "s3://b/data/secret/x") is ErrorKind.NOT_ALLOWED


def test_the_repositorys_own_chunks_are_served_in_every_mount() -> None:
    """A native chunk is what the user mounts, and is served in a public mount too."""
    native = ChunkRef(ChunkKind.NATIVE, 3, "chunks/ABC", 1)

    assert access(visibility=Visibility.PUBLIC).authorize(native).root == REPOSITORY


def test_of_equal_prefixes_a_public_one_counts_and_then_the_last() -> None:
    """Of policies with the same prefix a public one counts, wherever it stands, and else the last."""
    prefix = parse_prefix("s3://b/data/")
    first, last = (AccessPolicy(prefix, StoreOptions(region=r)) for r in ("first", "last"))
    public = AccessPolicy(prefix, StoreOptions(region="public"), public=True)
    other = dataclasses.replace(public, store=StoreOptions(region="other"))

    assert in_force([first, last]) == [last]
    assert in_force([public, last]) == in_force([last, public]) == [public]
    assert in_force([public, other, last]) == [other]
    wanted = Access(
        REPOSITORY, policies=[first, last], containers=[VirtualChunkContainer("s3://b/")]
    )
    assert wanted.authorize(virtual("s3://b/data/x")).store.region == "last"


def test_containers_say_what_a_public_mount_can_read() -> None:
    """In a public mount a container counts as allowed as far as public policies reach."""
    wanted = access(
        "s3://a/",
        "s3://b/x/",
        "s3://d/y/",
        public=("s3://b/", "s3://c/", "s3://d/"),
        containers=("s3://a/", "s3://b/", "s3://c/", "s3://d/y/"),
        visibility=Visibility.PUBLIC,
    )

    found = {r.url_prefix: r.allowed for r in wanted.report()}
    assert found == {"s3://a/": "no", "s3://b/": "partly", "s3://c/": "yes", "s3://d/y/": "no"}
    assert any("vzfs policy set s3://a/ --public" in note for note in wanted.notes())


# -- what must be named ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "container", "other"),
    [
        ("http://host/d/x", "http://host/d/", "https://host/d/"),
        ("file:///d/x", "file:///d/", "s3://d/"),
    ],
)
def test_file_and_http_are_read_where_a_policy_names_them(
    location: str, container: str, other: str
) -> None:
    """`file:` and `http:` places are refused unless a policy's own prefix has that scheme."""
    assert (
        kind_of_refusal(access(other, containers=(container,)), location) is ErrorKind.NOT_ALLOWED
    )
    assert access(container, containers=(container,)).authorize(virtual(location))


def test_memory_is_never_read() -> None:
    """A `memory:` place is refused whatever a policy says, and a relocation can name another."""
    place = "memory:///d"

    wanted = access(place, containers=(place,))

    assert kind_of_refusal(wanted, "memory:///d/x") is ErrorKind.NOT_ALLOWED
    moved = access("s3://b/", containers=(place,), moved=((place, "s3://b/"),))
    assert str(moved.authorize(virtual("memory:///d/x")).location) == "s3://b/x"


@pytest.mark.parametrize("odd", ["s3://b/$(touch x);y/", "s3://b/a=b/", "s3://b/it's/"])
def test_advice_can_be_given_to_a_shell_as_it_stands(odd: str) -> None:
    """What a repository wrote is quoted where a user is told what to type, and means the same place."""
    with pytest.raises(AccessDenied) as caught:
        access(containers=(odd,)).authorize(virtual(odd + "x"))

    words = shlex.split(caught.value.advice.partition("mount with ")[2].replace(", or", " , or"))
    assert words[0] == "--allow"
    assert "=" not in words[1]
    assert parse_prefix(words[1]) == parse_prefix(odd)


# -- other policies, many containers -----------------------------------------------------------


def test_other_policies_make_another_access() -> None:
    """A policy that is withdrawn closes what was read before; containers, maps and visibility stay."""
    moved = (("s3://old/", "s3://b/data/"),)
    before = access(
        public=("s3://b/data/",),
        containers=("s3://old/",),
        moved=moved,
        visibility=Visibility.PUBLIC,
    )
    assert before.authorize(virtual("s3://old/x"))

    after = before.with_policies([])
    private = before.with_policies([AccessPolicy(parse_prefix("s3://b/"))])
    again = after.with_policies([AccessPolicy(parse_prefix("s3://b/"), public=True)])

    assert kind_of_refusal(after, "s3://old/x") is ErrorKind.NOT_ALLOWED
    assert kind_of_refusal(private, "s3://old/x") is ErrorKind.NOT_ALLOWED
    assert str(again.authorize(virtual("s3://old/x")).location) == "s3://b/data/x"
    assert before.authorize(virtual("s3://old/x"))
    assert again.visibility is Visibility.PUBLIC


def test_containers_beyond_a_limit_authorize_nothing() -> None:
    """A repository that declares containers without end has the first ten thousand, and the rest is reported."""
    containers = tuple(f"s3://b/{i}/" for i in range(MAX_CONTAINERS + 2))

    wanted = access("s3://b/", containers=containers)

    assert wanted.authorize(virtual(f"s3://b/{MAX_CONTAINERS - 1}/x"))
    assert kind_of_refusal(wanted, f"s3://b/{MAX_CONTAINERS}/x") is ErrorKind.NO_CONTAINER
    (problem,) = [r.problem for r in wanted.report() if r.problem]
    assert problem.startswith("2 containers")


def test_a_verdict_names_its_rules() -> None:
    """What is decided about a location comes with the container and the policy that decide it."""
    container = VirtualChunkContainer("s3://old/")
    policy = AccessPolicy(parse_prefix("s3://b/data/"), origin="file")
    wanted = Access(
        REPOSITORY,
        policies=[policy],
        relocations=[Relocation(parse_prefix("s3://old/"), parse_prefix("s3://b/data/"))],
        containers=[container],
    )

    verdict = wanted.examine("s3://old/x")
    assert (verdict.container, verdict.policy, verdict.refusal) == (container, policy, None)
    assert str(verdict.place) == "s3://b/data/x"
    refused = wanted.examine("s3://b/data/x")
    assert refused.policy == policy
    assert refused.refusal is not None
    assert refused.refusal.kind is ErrorKind.NO_CONTAINER


def test_a_listing_knows_the_prefix_that_it_must_not_leave() -> None:
    """The proof for a listing carries the repository's own prefix."""
    below = access().repository_prefix("refs")

    assert str(below.prefix) == "s3://repos/mine/refs/"
    assert below.root == REPOSITORY


def test_store_options_are_equal_by_what_they_say() -> None:
    """Options that say the same are one key, and those that differ anywhere are two."""
    options = StoreOptions(region="eu", addresses=("10.0.0.0/8",))

    assert {options: 1}[StoreOptions(region="eu", addresses=("10.0.0.0/8",))] == 1
    for field in dataclasses.fields(StoreOptions):
        value = "x" if isinstance(field.default, bool | None) else ("::1",)
        assert dataclasses.replace(options, **{field.name: value}) not in {options}


# -- the decision, against a naive reference ---------------------------------------------------

SEGMENTS = st.sampled_from(["a", "b", "ab", "a.b", "é", "="])
PATHS = st.lists(SEGMENTS, max_size=4)
PLACES = st.tuples(st.sampled_from(["s3", "gs", "https"]), st.sampled_from(["h1", "h2"]), PATHS)
type Place = tuple[str, str, list[str]]


def covers(prefix: Place, place: Place) -> bool:
    """Say naively whether *prefix* covers *place*: it is the beginning of its names."""
    return prefix[:2] == place[:2] and prefix[2] == place[2][: len(prefix[2])]


def url(place: Place) -> str:
    return f"{place[0]}://{place[1]}/" + "/".join(place[2])


@given(
    location=PLACES.filter(lambda place: bool(place[2])),
    containers=st.lists(PLACES, max_size=4),
    policies=st.lists(st.tuples(PLACES, st.booleans()), max_size=6),
    moved=st.lists(st.tuples(PLACES, PLACES), max_size=2, unique_by=lambda pair: url(pair[0])),
    visibility=st.sampled_from(Visibility),
)
def test_the_decision_is_that_of_a_naive_reader(
    location: Place,
    containers: list[Place],
    policies: list[tuple[Place, bool]],
    moved: list[tuple[Place, Place]],
    visibility: Visibility,
) -> None:
    """For any rules a location is read exactly if a container has it and the closest policy lets it."""
    place = location
    for origin, target in sorted(moved, key=lambda pair: len(pair[0][2])):
        if covers(origin, location):
            place = (target[0], target[1], target[2] + location[2][len(origin[2]) :])
    closest = max(
        (
            (len(prefix[2]), public, i)
            for i, (prefix, public) in enumerate(policies)
            if covers(prefix, place)
        ),
        default=None,
    )
    is_open = closest is not None and (closest[1] or visibility is not Visibility.PUBLIC)
    expected = bool(place[2]) and is_open and any(covers(c, location) for c in containers)

    wanted = Access(
        REPOSITORY,
        policies=[
            AccessPolicy(parse_prefix(url(prefix)), StoreOptions(region=str(i)), public=public)
            for i, (prefix, public) in enumerate(policies)
        ],
        relocations=[
            Relocation(parse_prefix(url(origin)), parse_prefix(url(target)))
            for origin, target in moved
        ],
        containers=[VirtualChunkContainer(url(c)) for c in containers],
        visibility=visibility,
    )

    try:
        found = wanted.authorize(virtual(url(location)))
    except AccessDenied:
        assert not expected
        return
    assert expected
    assert closest is not None
    assert found.location == parse_location(url(place))
    assert found.store.region == str(closest[2])
    assert found.root == parse_prefix(url(policies[closest[2]][0]))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (("s3://b/data/x", 0, None), ("s3://b/data/y", 100, None)),
        (("s3://b/data/x", 0, ETag('"one"')), ("s3://b/data/x", 100, ETag('"two"'))),
        (("s3://b/data/x", 0, None), ("s3://b/data/sub/x", 100, None)),
        (("s3://b/data/x", 100, None), ("s3://b/data/x", 0, None)),
    ],
)
def test_a_proof_is_stretched_within_one_object_only(first: tuple, last: tuple) -> None:
    """The bytes between two ranges are authorized if both are of one object, one version and one policy."""
    access = Access(
        parse_prefix("s3://repos/mine"),
        policies=[
            AccessPolicy(parse_prefix("s3://b/data/")),
            AccessPolicy(parse_prefix("s3://b/data/sub/"), StoreOptions(region="other")),
        ],
        containers=[VirtualChunkContainer("s3://b/data/")],
    )

    def proof(url: str, offset: int, checksum: object) -> AuthorizedRange:
        return access.authorize(ChunkRef(ChunkKind.VIRTUAL, 10, url, offset, checksum))

    with pytest.raises(ValueError, match="does not follow"):
        proof(*first).through(proof(*last))
    whole = proof("s3://b/data/x", 5, None).through(proof("s3://b/data/x", 50, None))
    assert (whole.range, whole.max_length) == (ByteRange(5, 55), 55)
    assert whole.root == parse_prefix("s3://b/data/")


NO_CONTAINERS = Access(
    parse_prefix("s3://refs/a.json"),
    policies=[AccessPolicy(parse_prefix("s3://data/x/"))],
    relocations=[Relocation(parse_prefix("s3://old/"), parse_prefix("s3://data/x/"))],
    containers=None,
)


def test_references_without_containers_are_read_where_policies_allow_it() -> None:
    """A file of references declares no containers: policies alone decide, after relocation."""
    for text, place in (
        ("s3://data/x/1", "s3://data/x/1"),
        ("s3://old/1", "s3://data/x/1"),
    ):
        ref = ChunkRef(ChunkKind.VIRTUAL, 5, text)
        assert str(NO_CONTAINERS.authorize(ref).location) == place
    with pytest.raises(AccessDenied) as denied:
        NO_CONTAINERS.authorize(ChunkRef(ChunkKind.VIRTUAL, 5, "s3://data/y/z/1"))
    assert denied.value.kind is ErrorKind.NOT_ALLOWED
    assert "--allow s3://data/y/z/" in denied.value.advice
    assert NO_CONTAINERS.with_policies([]).explain("s3://data/x/1")[0] == "s3://data/x/"


def test_files_that_the_user_named_need_no_policy() -> None:
    """What was named to be mounted may be read, in a public mount too, where it was named; nothing beside it may."""
    for visibility in Visibility:
        access = Access(
            parse_prefix("s3://data/obs"),
            relocations=[Relocation(parse_prefix("s3://data/"), parse_prefix("s3://moved/"))],
            containers=None,
            visibility=visibility,
        ).with_named([parse_location("s3://data/obs/a.nc")])
        found = access.authorize(ChunkRef(ChunkKind.VIRTUAL, 5, "s3://data/obs/a.nc", 3))
        assert str(found.location) == str(found.root).removesuffix("/") == "s3://data/obs/a.nc"
        for beside in ("s3://data/obs/b.nc", "s3://data/obs/a.ncx", "file:///etc/passwd"):
            with pytest.raises(AccessDenied):
                access.authorize(ChunkRef(ChunkKind.VIRTUAL, 5, beside))
        assert access.with_policies([]).authorize(
            ChunkRef(ChunkKind.VIRTUAL, 1, "s3://data/obs/a.nc")
        )


def test_what_opens_one_host_is_not_shown_to_another() -> None:
    """Files that were named on several hosts are reached each by its own options: credentials stay with their host."""
    secret = StoreOptions(credentials="profile:mine")
    access = Access(parse_prefix("https://ours.example/a"), secret, containers=None)
    named = access.with_named(
        map(parse_location, ["https://ours.example/a/1.nc", "https://theirs.example/2.nc"])
    )

    def store(text: str) -> StoreOptions:
        return named.authorize(ChunkRef(ChunkKind.VIRTUAL, 1, text)).store

    assert store("https://ours.example/a/1.nc") == secret
    assert store("https://theirs.example/2.nc") == StoreOptions()


def test_keys_that_a_client_would_alter_are_refused_if_named_too() -> None:
    """Whoever names a file, its key is asked for verbatim or not at all."""
    location = parse_location("s3://b/x//1.nc")
    access = Access(parse_prefix("s3://b/x"), containers=None).with_named([location])
    with pytest.raises(AccessDenied) as denied:
        access.authorize(ChunkRef(ChunkKind.VIRTUAL, 1, str(location)))
    assert denied.value.kind is ErrorKind.BAD_LOCATION
