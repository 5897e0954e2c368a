"""What neither a redirect nor a repository can make of the rules of whoever mounts."""

import pytest

from vzfs import access as module
from vzfs.access import Access, AccessPolicy, StoreOptions
from vzfs.config import Config
from vzfs.errors import AccessDenied, ErrorKind
from vzfs.model.location import parse_prefix
from vzfs.model.snapshot import VirtualChunkContainer

START = "https://redirects.example/repo"
ENDPOINT = "https://store.example"


def config(*policies: AccessPolicy) -> Config:
    return Config(
        source=f"redirect+{START}", repository=parse_prefix(START), policies=list(policies)
    )


def policy(prefix: str, **store: object) -> AccessPolicy:
    return AccessPolicy(parse_prefix(prefix), StoreOptions(**store))


@pytest.mark.parametrize(
    ("allowed", "target"),
    [
        ([], "s3://bucket/repo"),
        (["s3://bucket/repository"], "s3://bucket/repo"),
        (["s3://bucket/repo/inside"], "s3://bucket/repo"),
        (["gs://bucket"], "s3://bucket/repo"),
    ],
)
def test_a_redirect_to_what_no_policy_covers_is_refused(allowed: list[str], target: str) -> None:
    """The place that a redirect leads to is opened only if it lies below a policy as a whole."""
    with pytest.raises(AccessDenied) as caught:
        config(*map(policy, allowed)).redirected(parse_prefix(target), StoreOptions(anonymous=True))
    assert caught.value.kind is ErrorKind.NOT_ALLOWED


@pytest.mark.parametrize("own", [None, "https://other.example"])
def test_a_redirect_names_no_endpoint_of_its_own(own: str | None) -> None:
    """An endpoint that a redirect proposes counts only where the policy itself names it."""
    target = parse_prefix("s3://bucket/repo")
    with pytest.raises(AccessDenied) as caught:
        config(policy("s3://bucket", endpoint=own)).redirected(
            target, StoreOptions(endpoint=ENDPOINT)
        )
    assert ENDPOINT in caught.value.what
    same = config(policy("s3://bucket", endpoint=ENDPOINT))
    assert same.redirected(target, StoreOptions(endpoint=ENDPOINT)).store.endpoint == ENDPOINT
    assert same.redirected(target, StoreOptions()).store.endpoint == ENDPOINT


def test_no_credentials_go_where_a_redirect_leads() -> None:
    """What a redirect leads to is read without credentials, with the region of the policy before that of the redirect."""
    target = parse_prefix("s3://bucket/repo")
    proposed = StoreOptions(region="theirs", anonymous=True)
    for own, region in ((None, "theirs"), ("mine", "mine")):
        found = config(policy("s3://bucket", region=own)).redirected(target, proposed)
        assert found.store.anonymous
        assert found.store.region == region
        assert (found.repository, found.redirect) == (target, None)


def test_the_closest_policy_says_how_a_redirect_is_reached() -> None:
    """Of several policies that cover the target of a redirect the longest one's options count."""
    near, far = policy("s3://bucket/repo", endpoint=ENDPOINT), policy("s3://bucket")
    for policies in ((near, far), (far, near)):
        found = config(*policies).redirected(parse_prefix("s3://bucket/repo/x"), StoreOptions())
        assert found.store.endpoint == ENDPOINT


def test_decisions_are_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of any number of locations fills no memory, and every decision stays the same."""
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    access = Access(
        parse_prefix("s3://repos/mine"),
        policies=[policy("s3://bucket/open")],
        containers=[VirtualChunkContainer("s3://bucket/")],
    )
    for _ in range(2):
        for i in range(10):
            assert access.explain(f"s3://bucket/open/{i}")[1] is None
            assert access.explain(f"s3://bucket/closed/{i}")[1] is not None
            assert len(access._decisions) <= 3
