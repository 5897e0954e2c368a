"""Whether every failed operation had a cause: a lie that was told about it, in its time.

A lie about a range excuses that chunk, a lie about an object all its chunks, a lie to a connection
and a stall (which takes places from the others) a whole server; each only the errnos that it may
cost. While a server answers nobody, and until it has been tried again, all of it may fail. Nothing
excuses a wrong byte, a short read, a listing with other names, or ENOENT.
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.stress.lying import CONNECTION, ERRNOS, HEAD, OUTAGE, STALLS, Told
from tests.stress.world import Chunk

REMEMBERED: Final = 1.0
"""Seconds in which a failure may still be given to who asks: half a second, on a busy machine."""
LEFT_ALONE: Final = 4.0
"""Times the length of an outage, from its last request on, that a server may be left alone: pauses
between trials double, and the trial that ends them may be lied to."""
NEVER: Final = frozenset({"WRONG", "SHORT", "LISTING", "PRESENT", "ENOENT"})


class Failed(NamedTuple):
    """An operation that failed. *outcome* is an errno, or one of NEVER."""

    began: float
    ended: float
    chunk: Chunk
    offset: int
    size: int
    outcome: str


class Verdict:
    """Judges failures against the lies of a run.

    *deadline* is that of the mounts, *outage* how long servers answered nobody, in seconds.
    """

    def __init__(self, told: Sequence[Told], deadline: float, outage: float) -> None:
        self._back = deadline + REMEMBERED
        self._alone = LEFT_ALONE * outage
        self._by_place: dict[tuple[str, int], list[Told]] = defaultdict(list)
        self._by_host: dict[str, list[Told]] = defaultdict(list)
        for lie in sorted(told):
            self._by_place[lie.key, lie.offset].append(lie)
            if lie.offset == CONNECTION or lie.kind in STALLS or lie.kind == OUTAGE:
                self._by_host[lie.host].append(lie)

    def cause(self, failed: Failed) -> str:
        """Return the kind of the lie that explains a failure, or "" if there is none."""
        if failed.outcome in NEVER:
            return ""
        host = failed.chunk.file.partition("/")[0]
        for place in ((failed.chunk.file, failed.chunk.offset), (failed.chunk.file, HEAD)):
            for lie in self._in_time(self._by_place[place], failed, self._back):
                if failed.outcome in ERRNOS[lie.kind]:
                    return lie.kind
        for lie in self._in_time(self._by_host[host], failed, self._back + self._alone):
            is_recent = lie.until >= failed.began - self._back
            if lie.kind == OUTAGE and failed.outcome in {"EIO", "ETIMEDOUT"}:
                return "outage before"
            if lie.offset == CONNECTION and is_recent and failed.outcome == "EIO":
                return lie.kind
            if lie.kind in STALLS and is_recent and failed.outcome == "ETIMEDOUT":
                return "stall of others"
        return ""

    def _in_time(self, lies: list[Told], failed: Failed, back: float) -> list[Told]:
        end = bisect.bisect_right(lies, failed.ended, key=lambda lie: lie.at)
        return [lie for lie in reversed(lies[:end]) if lie.until >= failed.began - back]


def judge(
    failures: Sequence[Failed], verdict: Verdict
) -> tuple[Counter[tuple[str, str]], list[Failed]]:
    """Return how many failures of each errno had which cause, and those that had none."""
    explained: Counter[tuple[str, str]] = Counter()
    unexplained = []
    for failed in failures:
        cause = verdict.cause(failed)
        if cause:
            explained[failed.outcome, cause] += 1
        else:
            unexplained.append(failed)
    return explained, unexplained
