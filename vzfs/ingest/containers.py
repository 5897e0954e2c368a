"""The virtual chunk containers that references need: no broader than the folders that files are in. Pure."""

from collections.abc import Iterable, Sequence

from vzfs.errors import AccessDenied, ErrorKind
from vzfs.model.location import Location, Prefix, parse_location, parse_prefix


def containers_for(locations: Iterable[str], declared: Iterable[str] = ()) -> Sequence[Prefix]:
    """Return the prefixes that have to be declared for all *locations*, beside those *declared* already.

    Files of one bucket, host or disk have one: the folder that all are in. Where they share none,
    each top folder has its own, since a bucket is more than was asked for, and a disk can be none.
    Raises AccessDenied for files right below the root of a disk.
    """
    covering = list(_prefixes(declared))
    places: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for text in locations:
        place = parse_location(text)
        if not any(prefix.covers(place) for prefix in covering):
            folders = tuple(place.key.split("/")[:-1])
            places.setdefault((place.scheme, place.authority), set()).add(folders)
    found: list[Prefix] = []
    for (scheme, authority), folders_of in sorted(places.items()):
        for folders in _shared(folders_of):
            if not authority and not folders:
                raise AccessDenied(
                    ErrorKind.BAD_LOCATION,
                    "files right below the root of the disk cannot be in a container",
                    where=str(Location(scheme, authority, "")),
                    advice="move them into a folder",
                )
            found.append(Prefix(scheme, authority, "/".join(folders)))
    return found


def _shared(folders: set[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the folder that all are in, or those of each top folder where they share none."""
    shared = _common(folders)
    if shared or () in folders:
        return [shared]
    tops = sorted({path[0] for path in folders})
    return [_common({path for path in folders if path[0] == top}) for top in tops]


def _common(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    shared = []
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)


def _prefixes(texts: Iterable[str]) -> Iterable[Prefix]:
    for text in texts:
        try:
            yield parse_prefix(text)
        except AccessDenied:
            continue  # It authorizes nothing, whoever declared it.
