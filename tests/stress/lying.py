"""Servers that lie with a given probability, and write down each lie: when, to whom, of which kind.

Which request is lied to is drawn from the seed, the object, the range and how often that was asked
for before, so that a run with the same seed lies alike. A lie that changes what comes sends bytes
of another version: were it believed, the bytes would be wrong.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tests import servers
from tests.servers import Fault, ObjectServer, Request, Stored
from tests.stores import liar

DAY: Final = 1_700_000_000
"""When the sources were last modified, in seconds: the true ones; the others are a day younger."""
HELD: Final = 8.0
"""Seconds that a stalled reply is held back: longer than any deadline here."""
OUTAGE: Final = "outage"
SILENT: Final = frozenset({"reset", OUTAGE, "plain-text", "distrusted", "garbage", "cut", "torn"})
"""Lies that may pass for a server that is not there."""
STALLS: Final = frozenset({"stall", "stall-in-body"})

CONNECTION: Final = -1
HEAD: Final = -2
"""In the place of an offset: a lie to a connection, or about the object as a whole."""

FINAL_EIO: Final = frozenset({"EIO"})
PASSING: Final = frozenset({"EIO", "ETIMEDOUT"})

ERRNOS: Final[Mapping[str, frozenset[str]]] = {
    "403": frozenset({"EACCES"}),
    "404": frozenset({"ESTALE"}),
    "412": frozenset({"EIO", "ESTALE"}),
    "416": FINAL_EIO,
    "429": PASSING,
    "429-after": PASSING,
    "500": PASSING,
    "503": PASSING,
    "503-after": PASSING,
    "reset": PASSING,
    OUTAGE: PASSING,
    "cut": PASSING,
    "stall": PASSING,
    "stall-in-body": PASSING,
    "short": FINAL_EIO,
    "overlong": FINAL_EIO,
    "overlong-chunked": FINAL_EIO,
    "wrong-range": FINAL_EIO,
    "whole-object": FINAL_EIO,
    "no-version": FINAL_EIO,
    "weak-etag": frozenset({"EIO", "ESTALE"}),
    "replaced": frozenset({"EIO", "ESTALE"}),
    "other-bytes": frozenset({"EIO", "ESTALE"}),
    "garbage": PASSING,
    "torn": PASSING,
    "surplus": frozenset(),
    "plain-text": FINAL_EIO,
    "distrusted": FINAL_EIO,
}
"""The errnos that each kind of lie may cost a reader."""


class Told(NamedTuple):
    """A lie, told at *at* and of effect until *until*, in seconds of the monotonic clock.

    *offset* is that of the range that was asked for, HEAD, or CONNECTION.
    """

    at: float
    until: float
    kind: str
    host: str
    key: str
    offset: int


class Journal:
    """Every lie that was told, by anybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: list[Told] = []
        self.is_honest = True

    def write(self, told: Told) -> None:
        with self._lock:
            self._told.append(told)

    def read(self) -> list[Told]:
        with self._lock:
            return list(self._told)


class _Draw:
    """Decides of each request whether it is lied to, and how."""

    def __init__(self, host: str, journal: Journal, share: float, seed: int) -> None:
        self.host = host
        self.journal = journal
        self.share = share
        self.down_until = 0.0
        self._seed = seed
        self._asked: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def kind(self, key: str, offset: int, kinds: Mapping[str, int]) -> tuple[str, Random]:
        """Return the kind of lie for a request, "" for none, and what to draw its details from."""
        with self._lock:
            self._asked[key, offset] += 1
            count = self._asked[key, offset]
        rng = Random(f"{self._seed} {self.host} {key} {offset} {count}")
        if self.journal.is_honest or rng.random() >= self.share:
            return "", rng
        return rng.choices(list(kinds), list(kinds.values()))[0], rng

    def note(self, kind: str, key: str, offset: int, lasts: float = 0.0) -> None:
        now = time.monotonic()
        self.journal.write(Told(now, now + lasts, kind, self.host, key, offset))


class _Held(threading.Event):
    """Is set by itself after *seconds*."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._until = time.monotonic() + seconds

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout) or time.monotonic() >= self._until


def _offset(method: str, headers: Mapping[str, str]) -> int:
    """Return where the range of a request begins."""
    asked = headers.get("range", "").removeprefix("bytes=")
    first, dash, _ = asked.partition("-")
    return int(first) if method == "GET" and dash else HEAD


_SOON: Final = {"Retry-After": "1"}

_SIMPLE: Final[Mapping[str, Callable[[Random], Fault]]] = {
    "403": lambda _: servers.status(403),
    "404": lambda _: servers.status(404),
    "412": lambda _: servers.status(412),
    "416": lambda _: servers.status(416),
    "429": lambda _: servers.status(429),
    "429-after": lambda _: servers.status(429, _SOON),
    "500": lambda _: servers.status(500),
    "503": lambda _: servers.status(503),
    "503-after": lambda _: servers.status(503, _SOON),
    "reset": lambda _: servers.reset(),
    "cut": lambda rng: servers.truncate(rng.randrange(5000)),
    "short": lambda rng: servers.short(rng.randrange(1, 5000)),
    "overlong": lambda rng: servers.overlong(rng.randrange(1, 5000)),
    "overlong-chunked": lambda rng: servers.overlong(rng.randrange(1, 5000), chunked=True),
    "wrong-range": lambda rng: servers.wrong_range(rng.randrange(1, 100)),
    "whole-object": lambda _: servers.whole_object(),
    "no-version": lambda _: servers.no_validators(),
    "stall": lambda _: servers.stall(_Held(HELD)),
    "stall-in-body": lambda _: servers.stall_in_body(_Held(HELD)),
}
_OTHERS: Final[Mapping[str, Fault]] = {
    "replaced": Fault(),
    "other-bytes": Fault(ignore_conditions=True),
    "weak-etag": Fault(ignore_conditions=True),
}
"""Lies for which another object stands in."""

KINDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(_SIMPLE, 3),
    **dict.fromkeys(_OTHERS, 4),
    "403": 1,
    "stall": 1,
    "stall-in-body": 1,
}
"""How often each kind is told, against the others."""


class LyingServer(ObjectServer):
    """Serves the files below *truth*, and sometimes those of the same names below *others*.

    It lies to one request in 1/*share*. *down* makes it reset every connection for a while.
    """

    def __init__(
        self, name: str, truth: Path, others: Path, journal: Journal, share: float, seed: int
    ) -> None:
        super().__init__(truth)
        self.draw = _Draw(name, journal, share, seed)
        self._others = others
        self._now = threading.local()

    def take(self, request: Request) -> Fault:
        """Write down *request* and return how to answer it."""
        super().take(request)
        self._now.kind = ""
        if request.method not in {"GET", "HEAD"} or "list-type" in request.query:
            return Fault()
        key, offset = request.key, _offset(request.method, request.headers)
        if time.monotonic() < self.draw.down_until:
            self.draw.note(OUTAGE, key, offset)
            return servers.reset()
        kind, rng = self.draw.kind(key, offset, KINDS)
        if not kind:
            return Fault()
        self.draw.note(kind, key, offset, HELD if kind in STALLS else 0.0)
        if kind in _OTHERS:
            self._now.kind = kind
            return _OTHERS[kind]
        return _SIMPLE[kind](rng)

    def find(self, key: str) -> Stored | None:
        """Return the object named *key*, or the one that stands in for it in this reply."""
        true = super().find(key)
        kind = getattr(self._now, "kind", "")
        if true is None or not kind:
            return true
        etag = f"W/{true.etag}" if kind == "weak-etag" else '"of another version"'
        return Stored(self._others / key, etag, DAY + 86400)

    def down(self, seconds: float) -> None:
        """Answer nobody for some *seconds*."""
        self.draw.down_until = time.monotonic() + seconds

    def hang_up(self) -> None:
        """End every connection, and go on listening."""
        hang_up(self._server.connections)


def hang_up(connections: set[socket.socket]) -> None:
    for connection in list(connections):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


_TLS_SIMPLE: Final[Mapping[str, Callable[[Random], liar.Fault]]] = {
    "500": lambda _: liar.status(500),
    "503-after": lambda _: liar.status(503, _SOON),
    "404": lambda _: liar.status(404),
    "reset": lambda rng: liar.reset_in_body(rng.randrange(5000)),
    "cut": lambda rng: liar.cut_chunked(rng.randrange(1, 5000)),
    "torn": lambda rng: liar.torn(rng.randrange(5000)),
    "garbage": lambda _: liar.garbage(),
    "surplus": lambda _: liar.surplus(),
    "short": lambda rng: liar.shortened(rng.randrange(1, 5000)),
    "overlong-chunked": lambda rng: liar.overlong_chunked(rng.randrange(1, 5000)),
    "whole-object": lambda _: liar.whole_object(),
    "weak-etag": lambda _: liar.reply_header("ETag", lambda old: f"W/{old}"),
    "other-bytes": lambda _: liar.both(
        liar.no_preconditions(), liar.Fault(edit=lambda reply: _flipped(reply))
    ),
    "stall": lambda _: liar.stall(_Held(HELD)),
    "stall-in-body": lambda _: liar.stall_in_body(_Held(HELD)),
}
TLS_KINDS: Final[Mapping[str, int]] = {**dict.fromkeys(_TLS_SIMPLE, 3), "stall": 1}


def _flipped(reply: liar.Reply) -> liar.Reply:
    """Return a reply with other bytes, and the etag of another version."""
    headers = [(n, '"of another version"' if n == "ETag" else v) for n, v in reply.headers]
    return reply._replace(body=bytes(b ^ 0xFF for b in reply.body), headers=headers)


class LyingTLS(liar.Liar):
    """Speaks TLS before an honest server, and lies of requests and connections.

    Connections are lied to with *strange*, the context of a server that nobody trusts, or without
    TLS.
    """

    def __init__(
        self,
        name: str,
        target: str,
        context: ssl.SSLContext,
        strange: ssl.SSLContext,
        journal: Journal,
        share: float,
        seed: int,
    ) -> None:
        self.draw = _Draw(name, journal, share, seed)
        self._strange = strange
        super().__init__(target, context=context)

    def _take(self, *, of_connections: bool, method: str = "") -> liar.Fault:
        if of_connections:
            kind, _ = self.draw.kind("", CONNECTION, {"plain-text": 1, "distrusted": 1})
            if not kind:
                return liar.Fault()
            self.draw.note(kind, "", CONNECTION)
            return liar.plain_text() if kind == "plain-text" else liar.certificate(self._strange)
        # The request has just been written down, under the lock that is still held.
        request = self._requests[-1]
        offset = _offset(request.method, request.headers)
        if time.monotonic() < self.draw.down_until:
            self.draw.note(OUTAGE, request.key, offset)
            return liar.reset()
        kind, rng = self.draw.kind(request.key, offset, TLS_KINDS)
        if not kind:
            return liar.Fault()
        self.draw.note(kind, request.key, offset, HELD if kind in STALLS else 0.0)
        return _TLS_SIMPLE[kind](rng)

    def down(self, seconds: float) -> None:
        """Answer nobody for some *seconds*."""
        self.draw.down_until = time.monotonic() + seconds

    def hang_up(self) -> None:
        """End every connection, and go on listening."""
        hang_up(self._connections)
