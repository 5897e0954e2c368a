"""AWS's standard chain, through botocore: profiles, SSO, roles, programs, containers, machines.

Each function blocks, for seconds at worst, and imports botocore, which takes a fifth of a second.
Every time a session of its own looks at the files anew, so that what was rotated or signed in to in
the meantime counts. Nobody is asked for a code: a mount has no terminal.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials.lease import Grant
from vzfs.source.credentials.silence import silence
from vzfs.source.credentials.values import AwsKeys, bad, clean

if TYPE_CHECKING:
    from botocore.session import Session  # type: ignore[import-untyped]

_NOT_SIGNED_IN: Final = frozenset(
    {
        "LoginError",
        "LoginRefreshRequired",
        "LoginTokenLoadError",
        "NoAuthTokenError",
        "SSOError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
_MISCONFIGURED: Final = frozenset(
    {
        "ConfigNotFound",
        "ConfigParseError",
        "InfiniteLoopConfigError",
        "InvalidConfigError",
        "MissingDependencyException",
        "PartialCredentialsError",
        "UnknownCredentialError",
    }
)
_UNREACHABLE: Final = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "MetadataRetrievalError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "SSLError",
    }
)


class _CodeWanted(Exception):
    """The profile wants a code of a second factor."""


def describe(profile: str | None) -> str:
    """Return what the credentials of *profile* are called in errors and in the log."""
    profile = profile or os.environ.get("AWS_PROFILE")
    return f"the AWS credentials of profile {profile!r}" if profile else "the AWS credentials"


def _has_files() -> bool:
    """Whether there is a file of AWS profiles, which is worth importing botocore for."""
    files = (
        ("AWS_CONFIG_FILE", "~/.aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    )
    return any(Path(os.path.expanduser(os.environ.get(n) or usual)).exists() for n, usual in files)  # noqa: PTH111 -- a home that is unknown is no error


def keys(profile: str | None) -> Grant[AwsKeys]:
    """Return the keys of *profile*, or of the profile and chain of the environment.

    Raises SourceError: BAD_CONFIG, SOURCE_DENIED, SOURCE_UNREACHABLE.
    """
    name = describe(profile)
    found: Grant[AwsKeys] | None = None
    failure = ""
    try:
        found = _resolve(profile)
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever a provider raises, by its class alone
        failure = type(error).__name__
    if failure:
        raise _problem(failure, name, profile or os.environ.get("AWS_PROFILE"))
    if found is None:
        raise SourceError(
            ErrorKind.SOURCE_DENIED,
            f"{name} are not to be found"
            if profile
            else "no AWS credentials are found: not in the environment, a profile, or this machine's role",
            advice="set them up with `aws configure`, or read public data with --anonymous",
        )
    return found


def region(profile: str | None) -> str | None:
    """Return the region that *profile*, or that of the environment, has. Raises SourceError."""
    if not _has_files():
        return None
    found: str | None = None
    failure = ""
    try:
        found = _session(profile).get_config_variable("region")
    except Exception as error:  # noqa: BLE001 -- as above
        failure = type(error).__name__
    if failure:
        raise _problem(failure, describe(profile), profile or os.environ.get("AWS_PROFILE"))
    return found


def _session(profile: str | None) -> "Session":
    silence("botocore", "urllib3")
    import botocore.session  # type: ignore[import-untyped]  # imported by those who need it

    return botocore.session.Session(profile=profile)


def _resolve(profile: str | None) -> Grant[AwsKeys] | None:
    import botocore.credentials  # type: ignore[import-untyped]

    session = _session(profile)
    # botocore has no option for this. Its own way would wait for somebody to type.
    session.get_component("credential_provider").get_provider("assume-role")._prompter = _no_code
    credentials = session.get_credentials()
    if credentials is None:
        return None
    frozen = credentials.get_frozen_credentials()
    if not frozen.access_key or not frozen.secret_key:
        return None
    where = "AWS configuration"
    keys = AwsKeys(
        clean(frozen.access_key, "the access key", where),
        clean(frozen.secret_key, "the secret key", where),
        clean(frozen.token, "the session token", where) if frozen.token else None,
    )
    if isinstance(credentials, botocore.credentials.RefreshableCredentials):
        # What they tell only with an underscore; without the end they could not be renewed in time.
        return Grant(keys, credentials._expiry_time.timestamp())
    return Grant(keys)


def _no_code(prompt: str) -> Never:
    raise _CodeWanted


def _problem(failure: str, name: str, profile: str | None) -> SourceError:
    """Return the error for an exception of class *failure*; its text can hold secrets."""
    option = f" --profile {profile}" if profile else ""
    if failure == "ProfileNotFound":
        what = f"there is no AWS profile {profile!r}"
        return bad(what, "AWS configuration", "`aws configure list-profiles` lists those there are")
    if failure == "_CodeWanted":
        return SourceError(
            ErrorKind.SOURCE_DENIED,
            f"{name} ask for the code of a second factor, and nobody is there to type it",
            advice="name a profile that needs none, or put temporary keys into the environment",
        )
    if failure in _NOT_SIGNED_IN:
        return SourceError(
            ErrorKind.SOURCE_DENIED,
            f"{name} need a sign-in ({failure})",
            advice=f"type `aws sso login{option}`; vzfs sees it by itself",
        )
    if failure in _MISCONFIGURED:
        return bad(
            f"{name} are configured in a wrong way ({failure})",
            "AWS configuration",
            f"try `aws sts get-caller-identity{option}`",
        )
    if failure in _UNREACHABLE:
        return SourceError(
            ErrorKind.SOURCE_UNREACHABLE,
            f"what gives out {name} is out of reach ({failure})",
            advice=f"check the network and `aws sts get-caller-identity{option}`",
        )
    return SourceError(
        ErrorKind.SOURCE_DENIED,
        f"{name} cannot be had ({failure})",
        advice=f"try `aws sts get-caller-identity{option}`, or read public data with --anonymous",
    )
