"""What credentials are: values that sign or accompany requests.

None of them shows what it holds: neither `repr` nor `str` says more than the kind. What a header or
a query is made of is checked to be printable ASCII without spaces, so that no secret ends a header.
"""

import base64
import binascii
from typing import NamedTuple

from vzfs.errors import ErrorKind, SourceError


class AwsKeys(NamedTuple):
    """Keys that sign requests to S3; *token* goes with temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return "AwsKeys(...)"


class AzureKey(NamedTuple):
    """The key of a storage account, in base64, that signs requests to Azure Blob Storage."""

    account: str
    key: str

    def __repr__(self) -> str:
        return f"AzureKey({self.account!r}, ...)"


class AzureSas(NamedTuple):
    """A shared access signature: what is added to the query of each URL, without `?`."""

    query: str

    def __repr__(self) -> str:
        return "AzureSas(...)"


class Bearer(NamedTuple):
    """A token that is sent as `Authorization: Bearer`, and that whoever sees it can use."""

    token: str

    def __repr__(self) -> str:
        return "Bearer(...)"


class Basic(NamedTuple):
    """A user name and a password for a web server."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Basic(...)"


type Credentials = AwsKeys | AzureKey | AzureSas | Bearer | Basic


def bad(what: str, where: str, advice: str) -> SourceError:
    """Return the error for credentials that are configured in a wrong way."""
    return SourceError(ErrorKind.BAD_CONFIG, what, where=where, advice=advice)


def clean(value: str, name: str, where: str) -> str:
    """Return *value* without the space around it. Raises SourceError if no header could hold it."""
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        what = f"{name} is empty or has spaces, control characters or letters beyond ASCII"
        raise bad(what, where, "write it exactly as it was issued")
    return value


def account_key(account: str, value: str, name: str, where: str) -> AzureKey:
    """Return the key *value* of *account*. Raises SourceError if it is not base64."""
    key = clean(value, name, where)
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        valid = False
    else:
        valid = True
    if not valid:
        raise bad(f"{name} is not base64", where, "copy the whole key, to its last =")
    return AzureKey(account, key)


def shared_access(value: str, name: str, where: str) -> AzureSas:
    """Return the shared access signature *value*. Raises SourceError if it is not one."""
    query = clean(value, name, where).removeprefix("?")
    if "#" in query or not any(part.startswith("sig=") for part in query.split("&")):
        raise bad(f"{name} is not a shared access signature", where, "copy it from sv= to sig=...")
    return AzureSas(query)


def basic(username: str, password: str, where: str) -> Basic:
    """Return a user name and a password. Raises SourceError if they cannot be sent."""
    if not username or ":" in username or not (username + password).isprintable():
        what = "the user name is empty or has a colon, or there is a control character"
        raise bad(what, where, "HTTP's basic authentication cannot send these; use a bearer token")
    return Basic(username, password)


def authorization(value: Bearer | Basic) -> str:
    """Return what the header `Authorization` says for *value*."""
    if isinstance(value, Bearer):
        return f"Bearer {value.token}"
    pair = f"{value.username}:{value.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()
