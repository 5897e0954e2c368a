"""Source objects: authorized ranges in, exact bytes of one version out.

This room alone talks to object stores, servers and source files. It promises that the bytes it
returns are those that were asked for, of the version that the reference names and of a version that
it reports; that it reads nothing but what an `AuthorizedRange` proves, at addresses that may be
connected to; and that each call ends within its time budget, with a `SourceError` that says what to
do if it failed.

| module | owns |
|---|---|
| `fetcher` | the protocol and its values |
| `source` | dispatch by scheme, attempts, the time budget |
| `hosts`, `hedge`, `egress` | places for requests, dead and slow servers, their pace; races; how much may be fetched |
| `remote`, `replies`, `versions` | one engine for all servers: preconditions, what replies must be, versions |
| `dialect`; `http`, `s3`, `gcs`, `azure` | what stores differ in |
| `sigv4`, `sharedkey`, `listing` | signatures and listings. Pure |
| `credentials/` | where credentials come from |
| `client`, `messages`, `streams` | HTTP/1.1 over byte streams, plain and encrypted |
| `transport`, `addresses` | connections, and where they may lead |
| `network` | proxies and certificates of the environment |
| `local`, `nowait`, `openat` | files, beneath a root that is not left; at once where the kernel has them in memory |
| `wire` | what these have between them |
"""

from vzfs.source.egress import Egress
from vzfs.source.fetcher import (
    DEFAULT_PACE,
    Fetched,
    Fetcher,
    Haste,
    Listed,
    Pace,
    Pressing,
    Sink,
    SourceStatistics,
    Stat,
    Timing,
    Urgency,
)
from vzfs.source.hosts import Places
from vzfs.source.source import Source

__all__ = [
    "DEFAULT_PACE", "Egress", "Fetched", "Fetcher", "Haste", "Listed", "Pace", "Places", "Pressing",
    "Sink", "Source", "SourceStatistics", "Stat", "Timing", "Urgency",
]  # fmt: skip
