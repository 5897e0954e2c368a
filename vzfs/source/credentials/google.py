"""Google's application default credentials, through google-auth, which `vzfs[gcs]` installs.

A service account's key or a workload identity (GOOGLE_APPLICATION_CREDENTIALS), what `gcloud auth
application-default login` left, or the metadata server of the machine. `token` blocks, and a machine
that is not Google's takes some ten seconds to find that out.
"""

import datetime
from typing import Final

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials.lease import Grant
from vzfs.source.credentials.silence import silence
from vzfs.source.credentials.values import Bearer, bad, clean

NAME: Final = "the Google credentials"

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_only"


def token() -> Grant[Bearer]:
    """Return an access token. Raises SourceError: BAD_CONFIG, SOURCE_DENIED, SOURCE_UNREACHABLE."""
    found: Grant[Bearer] | None = None
    failure = ""
    try:
        found = _resolve()
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever the library raises, by its class alone
        failure = type(error).__name__
    if found is not None:
        return found
    raise _problem(failure)


def _resolve() -> Grant[Bearer]:
    silence("google", "requests", "urllib3")
    import google.auth  # an extra, which those who need it pay for alone
    import google.auth.transport.requests

    request = google.auth.transport.requests.Request()
    credentials, _ = google.auth.default(scopes=[_SCOPE], request=request)
    credentials.refresh(request)  # type: ignore[no-untyped-call]  # half of the library has types
    bearer = Bearer(clean(credentials.token or "", "the access token", NAME))
    if credentials.expiry is None:
        return Grant(bearer)
    # It is in UTC and does not say so.
    return Grant(bearer, credentials.expiry.replace(tzinfo=datetime.UTC).timestamp())


def _problem(failure: str) -> SourceError:
    if failure in {"ModuleNotFoundError", "ImportError"}:
        return bad(
            "Google's credentials need the library google-auth, which is not installed",
            "gs:",
            "pip install 'vzfs[gcs]', or read public data with --anonymous",
        )
    if failure == "DefaultCredentialsError":
        return SourceError(
            ErrorKind.SOURCE_DENIED,
            "no Google credentials are found, or those that are cannot be used",
            advice="type `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or read public data with --anonymous",
        )
    if failure in {"TransportError", "TimeoutError", "ConnectionError"}:
        return SourceError(
            ErrorKind.SOURCE_UNREACHABLE,
            f"what gives out {NAME} is out of reach ({failure})",
            advice="check the network",
        )
    if failure in {"MalformedError", "InvalidValue", "InvalidType", "ValueError"}:
        return bad(
            f"{NAME} are configured in a wrong way ({failure})",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "have the file made anew",
        )
    return SourceError(
        ErrorKind.SOURCE_DENIED,
        f"{NAME} cannot be had ({failure})",
        advice="type `gcloud auth application-default login`, or read public data with --anonymous",
    )
