"""Signatures of requests to S3: AWS Signature Version 4, for requests without a body. Pure.

The path is taken as it is sent: S3 wants keys percent-encoded once and never normalized. Everything
that decides what comes back is signed: method, host, path, query and the headers given, so that
nobody on the way can ask for something else under the user's name.
"""

import functools
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vzfs.source.credentials.values import AwsKeys

NO_BODY: Final = hashlib.sha256(b"").hexdigest()
"""What is signed in place of a body."""

_UNSIGNED: Final = frozenset({"accept-encoding", "connection", "user-agent"})
"""Proxies may change these without changing what comes back."""

_MAX_KEYS: Final = 64
"""Signing keys kept: one for each secret, region and day. A mount has a handful."""


class Signer:
    """Signs requests, and keeps the keys of the day: deriving one takes four times a signature's time."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keys)} keys>"

    def sign(
        self,
        method: str,
        authority: str,
        target: str,
        headers: Mapping[str, str],
        keys: "AwsKeys",
        region: str,
        moment: float,
    ) -> dict[str, str]:
        """Return the *headers* with those that sign the request at *moment*, in seconds since the epoch.

        *target* is path and query, as they are sent; *authority* is what the Host header says.
        """
        stamp = _stamp(int(moment))
        day = stamp[:8]
        signed = {name.lower(): value for name, value in headers.items()}
        signed["x-amz-date"] = stamp
        signed["x-amz-content-sha256"] = NO_BODY
        if keys.token is not None:
            signed["x-amz-security-token"] = keys.token
        lines = {name: value for name, value in signed.items() if name not in _UNSIGNED}
        lines["host"] = authority
        names = sorted(lines)
        path, _, asked = target.partition("?")
        canonical = "\n".join(
            (
                method,
                path,
                _canonical_query(asked),
                *(f"{name}:{' '.join(lines[name].split())}" for name in names),
                "",
                ";".join(names),
                NO_BODY,
            )
        )
        scope = f"{day}/{region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = _hmac(self._key(keys.secret_key, day, region), text).hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return signed

    def _key(self, secret: str, day: str, region: str) -> bytes:
        key = self._keys.get((secret, day, region))
        if key is None:
            key = f"AWS4{secret}".encode()
            for part in (day, region, "s3", "aws4_request"):
                key = _hmac(key, part)
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[secret, day, region] = key
        return key


@functools.lru_cache(4)
def _stamp(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


def _canonical_query(asked: str) -> str:
    """Sort the parameters of an encoded query by name, then value."""
    if not asked:
        return ""
    pairs = sorted(pair.partition("=")[::2] for pair in asked.split("&"))
    return "&".join(f"{name}={value}" for name, value in pairs)


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
