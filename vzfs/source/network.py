"""What the environment says of the way to servers: proxies, and whom to trust.

The variables are those that other programs read. Bundles of certificates add to the system's own.
"""

import os
import urllib.parse
from pathlib import Path
from typing import Final

from vzfs.errors import ErrorKind, SourceError

CA_BUNDLES: Final = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables that name a file of PEM certificates."""

MAX_BUNDLE: Final = 16 * 2**20
"""Bytes. The certificates that the world's systems trust take some 250 KB."""


def ca_bundles() -> list[Path]:
    """Return the files of certificates that the environment names, each once."""
    named = (os.environ.get(name, "") for name in CA_BUNDLES)
    paths = (Path(name) for name in dict.fromkeys(named) if name)
    return [path for path in paths if not path.is_dir()]


def read_bundles() -> bytes:
    """Return the certificates of every bundle. Raises SourceError if one cannot be read."""
    texts = []
    for path in ca_bundles():
        try:
            with path.open("rb") as file:
                texts.append(file.read(MAX_BUNDLE))
        except OSError as problem:
            raise unusable(path, problem.strerror or "unreadable") from None
    return b"\n".join(texts)


def unusable(path: Path, reason: str) -> SourceError:
    """Return the error for a bundle that gives no certificates."""
    return SourceError(
        ErrorKind.BAD_CONFIG,
        f"the file of certificates cannot be used ({reason})",
        where=str(path),
        advice=f"one of {', '.join(CA_BUNDLES)} names it",
    )


def proxy_for(scheme: str, authority: str) -> str | None:
    """Return the URL of the proxy for a server, or None to go there directly."""
    # It brings a mail program's worth of modules along, which a mount of files does without.
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(authority):
        return None
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy:
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urllib.parse.urlsplit(url)
        is_whole = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        # What is wrong is not repeated: a password with a slash in it looks like a port.
        raise SourceError(
            ErrorKind.BAD_CONFIG,
            "the proxy's URL is malformed",
            where=f"{scheme}://{authority}/",
            advice="percent-encode the name and the password in HTTP_PROXY and HTTPS_PROXY",
        ) from None
    if parts.scheme not in {"http", "https"} or not is_whole:
        raise SourceError(
            ErrorKind.BAD_CONFIG,
            f"a proxy of this kind is not supported ({parts.scheme}:)",
            where=f"{scheme}://{authority}/",
            advice="name an http: or https: proxy in HTTP_PROXY and HTTPS_PROXY, or use NO_PROXY",
        )
    return url
