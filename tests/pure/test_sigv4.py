"""Signatures of requests to S3, compared with botocore's."""

import datetime
from collections.abc import Mapping
from unittest import mock

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given
from hypothesis import strategies as st

from vzfs.source.credentials.values import AwsKeys
from vzfs.source.dialect import encode, query
from vzfs.source.sigv4 import NO_BODY, Signer

KEYS = AwsKeys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MOMENT = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC).timestamp()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


def oracle(
    method: str,
    url: str,
    headers: Mapping[str, str],
    keys: AwsKeys,
    region: str,
    moment: float,
) -> dict[str, str]:
    """Return the headers that botocore would send, their names in small letters."""
    request = AWSRequest(method=method, url=url, headers=dict(headers))
    auth = S3SigV4Auth(Credentials(*keys), "s3", region)
    now = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        auth.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def test_the_documented_request_gets_the_documented_signature() -> None:
    """The example that AWS gives for a ranged GET is signed as AWS says."""
    signed = Signer().sign(
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        {"Range": "bytes=0-9"},
        KEYS,
        "us-east-1",
        MOMENT,
    )
    assert signed["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@given(
    key=texts,
    token=st.none() | tokens,
    secret=tokens,
    region=st.sampled_from(["us-east-1", "auto", "cn-north-1"]),
    moment=st.integers(0, 4_000_000_000),
    method=st.sampled_from(["GET", "HEAD"]),
    headers=st.dictionaries(
        st.sampled_from(["Range", "If-Match", "x-amz-request-payer"]), tokens, max_size=3
    ),
)
@example("a b+c~é//./../%41?#&=", None, "s/+=", "auto", 0, "GET", {"If-Match": '"a  b"'})
@example("/", "t/+==", "s", "auto", 0, "HEAD", {"x-amz-request-payer": "requester"})
def test_objects_are_signed_as_botocore_signs(
    key: str,
    token: str | None,
    secret: str,
    region: str,
    moment: int,
    method: str,
    headers: dict[str, str],
) -> None:
    """Any key, session token, region, moment and header gives the signature that botocore gives."""
    keys = AwsKeys("AKID", secret, token)
    target = f"/bucket/{encode(key, '/')}"
    signed = Signer().sign(method, "host:9000", target, headers, keys, region, moment)
    assert signed == oracle(method, f"https://host:9000{target}", headers, keys, region, moment)


@given(prefix=texts, token=tokens)
@example("a b/+&=", "1/+== ")
def test_listings_are_signed_as_botocore_signs(prefix: str, token: str) -> None:
    """The parameters of a listing are signed as botocore signs them, in whatever order they are."""
    pairs = [("prefix", prefix), ("list-type", "2"), ("continuation-token", token), ("acl", "")]
    target = f"/bucket?{query(pairs)}"
    signed = Signer().sign("GET", "host", target, {}, KEYS, "us-east-1", MOMENT)
    assert signed == oracle("GET", f"https://host{target}", {}, KEYS, "us-east-1", MOMENT)


def test_a_signer_keeps_the_days_and_regions_apart() -> None:
    """One signer gives what a new one gives, whichever secret, day and region went before."""
    signer = Signer()
    for _ in range(2):
        for secret in ("one", "two"):
            for region in ("us-east-1", "eu-west-1"):
                for moment in (MOMENT, MOMENT + 86400):
                    keys = AwsKeys("AKID", secret)
                    signed = signer.sign("GET", "host", "/b/k", {}, keys, region, moment)
                    expected = oracle("GET", "https://host/b/k", {}, keys, region, moment)
                    assert signed == expected


def test_signing_keys_are_bounded_and_not_shown() -> None:
    """However many secrets come by, few signing keys are kept, and none is shown."""
    signer = Signer()
    for number in range(1000):
        keys = AwsKeys("AKID", f"secret{number}")
        signer.sign("GET", "host", "/b/k", {}, keys, "us-east-1", MOMENT)
    assert len(signer._keys) <= 64
    assert "secret" not in repr(signer)


@pytest.mark.parametrize("name", ["Accept-Encoding", "User-Agent", "Connection"])
def test_what_proxies_change_is_not_signed(name: str) -> None:
    """Headers that proxies rewrite on the way are sent and not signed."""
    signed = Signer().sign("GET", "host", "/b/k", {name: "x"}, KEYS, "us-east-1", MOMENT)
    assert signed[name.lower()] == "x"
    assert name.lower() not in signed["authorization"]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "HEAD"},
        {"authority": "other"},
        {"target": "/b/other"},
        {"target": "/b/k?versionId=1"},
        {"headers": {"range": "bytes=0-1"}},
        {"region": "eu-west-1"},
        {"moment": MOMENT + 1},
    ],
    ids=str,
)
def test_whatever_decides_what_comes_is_signed(change: dict[str, object]) -> None:
    """Another method, host, path, query, header, region or second is another signature."""
    request: dict[str, object] = {
        "method": "GET",
        "authority": "host",
        "target": "/b/k",
        "headers": {"range": "bytes=0-9"},
        "keys": KEYS,
        "region": "us-east-1",
        "moment": MOMENT,
    }
    signer = Signer()
    one, other = signer.sign(**request), signer.sign(**(request | change))  # type: ignore[arg-type]
    assert one["authorization"][-64:] != other["authorization"][-64:]
    assert one["x-amz-content-sha256"] == NO_BODY
