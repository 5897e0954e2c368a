"""Where credentials come from: the environment, secret files, and the stores' standard chains.

Nothing here sends a credential to a data source, writes one down or shows one. A `Keyring` gives
them out as values, takes new ones before they expire, and says what to do where there are none.

| module | owns |
|---|---|
| `values` | what credentials are, and how they look in a header |
| `keyring` | which way a store's options ask for |
| `environment` | variables, read without a library |
| `secretfile` | files that only their owner can read, read again when they change |
| `lease` | renewal: in time, once for all who wait, and what a failure means |
| `aws`, `google`, `azure` | the standard chains, through the stores' own libraries, in threads |
"""

from vzfs.source.credentials.keyring import Keyring
from vzfs.source.credentials.values import AwsKeys, AzureKey, AzureSas, Basic, Bearer

__all__ = ["AwsKeys", "AzureKey", "AzureSas", "Basic", "Bearer", "Keyring"]
