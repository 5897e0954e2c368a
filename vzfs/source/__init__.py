"""Source objects: authorized ranges in, exact bytes of one version out.

This room alone talks to object stores, servers and source files. It promises that the bytes it
returns are those that were asked for, of the version that the reference names and of a version that
it reports; that it reads nothing but what an `AuthorizedRange` proves; and that each call ends
within its time budget, with a `SourceError` that says what to do if it failed.

| module | owns |
|---|---|
| `fetcher` | the protocol and its values |
| `source` | dispatch by scheme, retries, the time budget |
| `remote`, `versions` | preconditions and the comparison of versions |
| `http`, `replies` | what is said to HTTP servers, and what they say |
| `s3`, `s3errors` | the same of S3, through obstore |
| `local`, `openat` | files, beneath a root that is not left |
| `network` | proxies and certificates of the environment |
| `wire` | what these have between them |
"""

from vzfs.source.fetcher import Fetched, Fetcher, SourceStatistics, Timing
from vzfs.source.source import Source

__all__ = ["Fetched", "Fetcher", "Source", "SourceStatistics", "Timing"]
