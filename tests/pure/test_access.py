"""Who may read what."""

import pytest

from vzfs.access import Access, AccessPolicy, AuthorizedRange, Relocation, StoreOptions
from vzfs.errors import AccessDenied, ErrorKind
from vzfs.model.location import ByteRange, LastModified, parse_location, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import VirtualChunkContainer

REPOSITORY = parse_prefix("s3://repos/mine")


def virtual(location: str) -> ChunkRef:
    return ChunkRef(ChunkKind.VIRTUAL, 10, location, 5, LastModified(7))


def access(
    *allowed: str,
    containers: tuple[str, ...] = ("s3://b/data/",),
    moved: tuple[tuple[str, str], ...] = (),
) -> Access:
    return Access(
        REPOSITORY,
        policies=[AccessPolicy(parse_prefix(p)) for p in allowed],
        relocations=[Relocation(parse_prefix(a), parse_prefix(b)) for a, b in moved],
        containers=[VirtualChunkContainer(c) for c in containers],
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
    """An AuthorizedRange cannot be made without asking Access."""
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
