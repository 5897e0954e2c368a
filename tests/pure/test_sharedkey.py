"""Signatures of requests to Azure Blob Storage, compared with its own client's."""

import base64
import datetime
from collections.abc import Mapping

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy
from hypothesis import example, given
from hypothesis import strategies as st

from vzfs.source import sharedkey
from vzfs.source.credentials.values import AzureKey
from vzfs.source.dialect import encode, query

KEY = AzureKey("devstoreaccount1", base64.b64encode(bytes(range(64))).decode())
MOMENT = datetime.datetime(2023, 1, 2, 3, 4, 5, tzinfo=datetime.UTC).timestamp()
VERSIONED = {"x-ms-version": "2021-12-02"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


def oracle(method: str, target: str, headers: Mapping[str, str], key: AzureKey) -> str:
    """Return the Authorization that Azure's client would send with these headers.

    Where Azure's own description says Range, the client looks for a header `byte_range`.
    """
    renamed = {"byte_range" if name == "range" else name: text for name, text in headers.items()}
    renamed.pop("authorization", None)
    request = HttpRequest(method, f"https://host{target}", headers=renamed)
    context = PipelineContext(None)
    SharedKeyCredentialPolicy(key.account, key.key).on_request(PipelineRequest(request, context))
    return str(request.headers["Authorization"])


@given(
    key=texts,
    method=st.sampled_from(["GET", "HEAD"]),
    headers=st.dictionaries(
        st.sampled_from(["Range", "If-Match", "If-Unmodified-Since"]), values, max_size=3
    ),
)
@example("a b+c~é//%41?#&=", "GET", {"Range": "bytes=0-9", "If-Match": '"0x8D"'})
def test_blobs_are_signed_as_azure_signs(key: str, method: str, headers: dict[str, str]) -> None:
    """Any key, range and precondition gives the signature that Azure's own client gives."""
    target = f"/devstoreaccount1/container/{encode(key, '/')}"
    signed = sharedkey.sign(method, target, {**headers, **VERSIONED}, KEY, MOMENT)
    assert signed["authorization"] == oracle(method, target, signed, KEY)
    assert {name.lower() for name in headers} < signed.keys()


@given(prefix=texts.filter(bool), marker=values)
@example("a b/+&=é", "2!108!MDA=")
def test_blob_listings_are_signed_as_azure_signs(prefix: str, marker: str) -> None:
    """The parameters of a listing are signed decoded and sorted, as Azure's own client does."""
    pairs = [("restype", "container"), ("comp", "list"), ("prefix", prefix), ("marker", marker)]
    target = f"/container?{query(pairs)}"
    signed = sharedkey.sign("GET", target, VERSIONED, KEY, MOMENT)
    assert signed["authorization"] == oracle("GET", target, signed, KEY)


def test_the_date_of_a_signature_is_of_its_moment() -> None:
    """The request says when it was signed, to the second, in Greenwich."""
    signed = sharedkey.sign("GET", "/container/k", VERSIONED, KEY, MOMENT)
    assert signed["x-ms-date"] == "Mon, 02 Jan 2023 03:04:05 GMT"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "HEAD"},
        {"target": "/container/other"},
        {"target": "/container/k?snapshot=1"},
        {"headers": {**VERSIONED, "range": "bytes=0-1"}},
        {"headers": {**VERSIONED, "range": "bytes=0-9", "if-match": "x"}},
        {"headers": {"x-ms-version": "2019-12-12", "range": "bytes=0-9"}},
        {"moment": MOMENT + 1},
        {"key": AzureKey("devstoreaccount1", "QUJD")},
    ],
    ids=range(8),
)
def test_whatever_decides_which_bytes_come_is_signed_for_azure(change: dict[str, object]) -> None:
    """Another method, path, query, range, precondition, version, second or key is another signature."""
    request: dict[str, object] = {
        "method": "GET",
        "target": "/container/k",
        "headers": {**VERSIONED, "range": "bytes=0-9"},
        "key": KEY,
        "moment": MOMENT,
    }
    one = sharedkey.sign(**request)  # type: ignore[arg-type]
    other = sharedkey.sign(**(request | change))  # type: ignore[arg-type]
    assert one["authorization"] != other["authorization"]
