"""Azure's standard chain, through azure-identity, which `vzfs[azure]` installs.

A service principal or workload identity of the environment, the managed identity of the machine, or
who is signed in to the Azure CLI. `token` blocks: the tools that are asked take seconds to start.
"""

from typing import Final

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials.lease import Grant
from vzfs.source.credentials.silence import silence
from vzfs.source.credentials.values import Bearer, bad, clean

NAME: Final = "the Azure credentials"

_SCOPE: Final = "https://storage.azure.com/.default"


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
    silence("azure", "msal", "requests", "urllib3")
    import azure.identity  # an extra, which those who need it pay for alone

    with azure.identity.DefaultAzureCredential() as credential:
        access = credential.get_token(_SCOPE)
    return Grant(Bearer(clean(access.token, "the access token", NAME)), float(access.expires_on))


def _problem(failure: str) -> SourceError:
    if failure in {"ModuleNotFoundError", "ImportError"}:
        return bad(
            "Azure's credentials need the library azure-identity, which is not installed",
            "az:",
            "pip install 'vzfs[azure]', set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or read "
            "public data with --anonymous",
        )
    if failure in {"ServiceRequestError", "ServiceResponseError"}:
        return SourceError(
            ErrorKind.SOURCE_UNREACHABLE,
            f"what gives out {NAME} is out of reach ({failure})",
            advice="check the network",
        )
    return SourceError(
        ErrorKind.SOURCE_DENIED,
        f"{NAME} cannot be had ({failure})",
        advice="type `az login`, set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or read public "
        "data with --anonymous",
    )
