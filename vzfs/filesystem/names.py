"""What there is below the control directory to be looked up: branches, tags, snapshots and times."""

import functools
from collections.abc import Awaitable, Callable, Sequence

from vzfs import control
from vzfs.control import Kind
from vzfs.errors import VzfsError
from vzfs.filesystem.known import Known
from vzfs.flights import Flights
from vzfs.hierarchy import MAX_NAME, NotLoaded, nbytes_of
from vzfs.model.moment import format_microseconds
from vzfs.model.snapshot import RefSpec
from vzfs.repository import Timeline


class Names:
    """The names that *timeline* has; snapshots and times are those of *ref*."""

    def __init__(self, timeline: Timeline, ref: RefSpec) -> None:
        self._timeline = timeline
        self._ref = ref
        self._known: dict[Kind, Known[Sequence[str]]] = {}
        self._flights: Flights[Kind, None] = Flights()

    def of(self, kind: Kind, after: int) -> Sequence[str]:
        """Return all names of a kind; a listing under way goes on in the names that it began with.

        *after* is how many of them it has had. Raises NotLoaded, why they are not known.
        """
        known = self._known.get(kind)
        if known is None or not (known.is_fresh or (after and known.error is None)):
            load: Callable[[], Awaitable[object]] = functools.partial(
                self._flights.join, kind, lambda: self._list(kind)
            )
            raise NotLoaded(load)
        if known.error is not None:
            raise known.error.with_traceback(None)
        return known.value or ()

    async def _list(self, kind: Kind) -> None:
        """Find out what there is of a kind; whoever asks again finds it, or why it is not known."""
        try:
            if kind in {Kind.BRANCH, Kind.TAG}:
                refs = await self._timeline.refs()
                found = refs.branches if kind is Kind.BRANCH else refs.tags
                names = sorted(map(control.encode_ref, found))
            else:
                history = await self._timeline.history(self._ref)
                if kind is Kind.SNAPSHOT:
                    names = [info.id for info in history]
                else:
                    names = [format_microseconds(info.written_at) for info in history]
        except VzfsError as error:
            self._known[kind] = Known(None, error)
        else:
            fitting = [n for n in names if control.is_name(n) and nbytes_of(n) <= MAX_NAME]
            self._known[kind] = Known(list(dict.fromkeys(fitting)))
