"""Signatures of requests to Azure Blob Storage: Shared Key, for requests without a body. Pure.

The path is taken as it is sent, the values of the query decoded. Range and preconditions are signed
too.
"""

import base64
import hmac
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vzfs.model.moment import http_date

if TYPE_CHECKING:
    from vzfs.source.credentials.values import AzureKey

_STANDARD: Final = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
"""Headers whose values are signed without their names, in this order."""


def sign(
    method: str, target: str, headers: Mapping[str, str], key: "AzureKey", moment: float
) -> dict[str, str]:
    """Return the *headers* with those that sign the request at *moment*, in seconds since the epoch.

    *target* is path and query, as they are sent.
    """
    signed = {name.lower(): value for name, value in headers.items()}
    signed["x-ms-date"] = http_date(moment)
    own = sorted(name for name in signed if name.startswith("x-ms-"))
    path, _, asked = target.partition("?")
    text = "\n".join(
        (
            method,
            *(signed.get(name, "") for name in _STANDARD),
            *(f"{name}:{signed[name].strip()}" for name in own),
            f"/{key.account}{path}",
            *_parameters(asked),
        )
    )
    digest = hmac.digest(base64.b64decode(key.key), text.encode(), "sha256")
    signed["authorization"] = f"SharedKey {key.account}:{base64.b64encode(digest).decode()}"
    return signed


def _parameters(asked: str) -> list[str]:
    """Return a line for each parameter of an encoded query, sorted by name, its values decoded."""
    values: dict[str, list[str]] = {}
    for pair in filter(None, asked.split("&")):
        name, _, value = pair.partition("=")
        decoded = urllib.parse.unquote(value)
        values.setdefault(urllib.parse.unquote(name).lower(), []).append(decoded)
    return [f"{name}:{','.join(sorted(values[name]))}" for name in sorted(values)]
