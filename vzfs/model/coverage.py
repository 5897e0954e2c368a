"""Values under prefixes: what the longest prefix says that covers a place. Pure."""

import dataclasses
from collections.abc import Iterable, Iterator

from vzfs.model.location import Location, Prefix


class Coverage[T]:
    """Values under prefixes, found by the longest prefix that covers a place.

    Of equal prefixes the one that comes last counts. A look costs one hash for each length that
    prefixes of the same bucket or host have.
    """

    __slots__ = ("_keys", "_lengths")

    def __init__(self, entries: Iterable[tuple[Prefix, T]]) -> None:
        self._keys: dict[tuple[str, str], dict[str, T]] = {}
        for prefix, value in entries:
            self._keys.setdefault((prefix.scheme, prefix.authority), {})[prefix.key] = value
        self._lengths = {
            group: sorted({len(key) for key in keys}, reverse=True)
            for group, keys in self._keys.items()
        }

    def find(self, place: Location | Prefix) -> T | None:
        """Return the value under the longest prefix that covers *place*, None if none does."""
        return next(self.all(place), None)

    def all(self, place: Location | Prefix) -> Iterator[T]:
        """Yield the value under every prefix that covers *place*, that of the longest first."""
        group = (place.scheme, place.authority)
        key = place.key
        for length in self._lengths.get(group, ()):
            is_whole = not length or length == len(key) or key[length : length + 1] == "/"
            if is_whole and (found := self._keys[group].get(key[:length])) is not None:
                yield found


def above(prefixes: Iterable[Prefix]) -> set[Prefix]:
    """Return every prefix that covers one of *prefixes* and is none of them itself."""
    found = set()
    for prefix in prefixes:
        ends = [i for i, letter in enumerate(prefix.key) if letter == "/"]
        if prefix.key:
            found.add(dataclasses.replace(prefix, key=""))
        found |= {dataclasses.replace(prefix, key=prefix.key[:end]) for end in ends}
    return found
