"""Credentials that stand in environment variables, for which no library is needed.

Each function returns None where the environment names none, and raises SourceError where it names
half of them, or something that cannot be any. The variables are those that the stores' own tools
read; for web servers, which have none, they are ours.
"""

import os
import urllib.parse
from typing import Final

from vzfs.source.credentials.values import (
    AwsKeys,
    AzureKey,
    AzureSas,
    Basic,
    Bearer,
    account_key,
    bad,
    basic,
    clean,
    shared_access,
)

GOOGLE_TOKENS: Final = ("GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN")
AZURE_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
AZURE_KEYS: Final = (
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
)
AZURE_SAS: Final = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
AZURE_CONNECTION: Final = "AZURE_STORAGE_CONNECTION_STRING"

_DEVELOPMENT: Final = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)
"""Account and key of every storage emulator: published, and no secret."""


def aws() -> AwsKeys | None:
    """Return the keys of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."""
    access, secret = _get("AWS_ACCESS_KEY_ID"), _get("AWS_SECRET_ACCESS_KEY")
    if not access and not secret:
        return None
    if not access or not secret:
        given, missing = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
        if secret:
            given, missing = missing, given
        raise bad(f"{given} is set and {missing} is not", "environment", "set both, or neither")
    token = _get("AWS_SESSION_TOKEN")
    return AwsKeys(
        clean(access, "AWS_ACCESS_KEY_ID", "environment"),
        clean(secret, "AWS_SECRET_ACCESS_KEY", "environment"),
        clean(token, "AWS_SESSION_TOKEN", "environment") if token else None,
    )


def aws_region() -> str | None:
    """Return the region of AWS_REGION or AWS_DEFAULT_REGION."""
    return _get("AWS_REGION") or _get("AWS_DEFAULT_REGION") or None


def google() -> Bearer | None:
    """Return the access token of GOOGLE_OAUTH_ACCESS_TOKEN or CLOUDSDK_AUTH_ACCESS_TOKEN."""
    name, value = _first(GOOGLE_TOKENS)
    return Bearer(clean(value, name, "environment")) if value else None


def azure(account: str) -> AzureKey | AzureSas | None:
    """Return what opens the storage *account*; nothing that is named for another account.

    An account key is preferred to a shared access signature, and both to a connection string.
    """
    _, named = _first(AZURE_ACCOUNTS)
    if not named or named == account:
        name, value = _first(AZURE_KEYS)
        if value:
            return account_key(account, value, name, "environment")
        name, value = _first(AZURE_SAS)
        if value:
            return shared_access(value, name, "environment")
    return _connection(_get(AZURE_CONNECTION), account)


def http() -> Bearer | Basic | None:
    """Return the token of VZFS_HTTP_TOKEN, or VZFS_HTTP_USER and VZFS_HTTP_PASSWORD."""
    token = _get("VZFS_HTTP_TOKEN")
    user, password = os.environ.get("VZFS_HTTP_USER"), os.environ.get("VZFS_HTTP_PASSWORD")
    if token and (user or password):
        what = "VZFS_HTTP_TOKEN and VZFS_HTTP_USER are both set"
        raise bad(what, "environment", "set one of them")
    if token:
        return Bearer(clean(token, "VZFS_HTTP_TOKEN", "environment"))
    if not user and not password:
        return None
    if not user or password is None:
        what = "of VZFS_HTTP_USER and VZFS_HTTP_PASSWORD one is not set"
        raise bad(what, "environment", "set both, or VZFS_HTTP_TOKEN")
    return basic(user, password, "environment")


def _connection(text: str, account: str) -> AzureKey | AzureSas | None:
    """Return what a connection string has for *account*: `AccountName=...;AccountKey=...`.

    One with a shared access signature can name the account in `BlobEndpoint` alone.
    """
    fields = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        fields[name.strip().lower()] = value.strip()
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        fields["accountname"], fields["accountkey"] = _DEVELOPMENT
    if (fields.get("accountname") or _host_of(fields.get("blobendpoint", ""))) != account:
        return None
    if fields.get("accountkey"):
        return account_key(account, fields["accountkey"], AZURE_CONNECTION, "environment")
    if fields.get("sharedaccesssignature"):
        return shared_access(fields["sharedaccesssignature"], AZURE_CONNECTION, "environment")
    return None


def _host_of(url: str) -> str:
    """Return the first label of the host of *url*, which is the account; empty if there is none."""
    try:
        host = urllib.parse.urlsplit(url).hostname
    except ValueError:
        host = None
    return (host or "").partition(".")[0]


def _get(name: str) -> str:
    return os.environ.get(name, "").strip()


def _first(names: tuple[str, ...]) -> tuple[str, str]:
    """Return the first of *names* that is set, and its value; two empty strings if none is."""
    return next(((name, value) for name in names if (value := _get(name))), ("", ""))
