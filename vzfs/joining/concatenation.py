"""Arrays of several files put end to end along one dimension, exactly, or not at all.

Every variable must be in every file, with the same data type, the same attributes that say what its
values are, and the same shape but along the dimension. Chunks are referred to where they lie, so all
files but the last must hold whole ones. Where they do not, chunks of plain numbers are divided along
the first axis, and small arrays (times of one record to a file) are written anew, inline, as are
times that count from another day in each file. Variables without the dimension must be equal in all
files. Of attributes that say nothing of values, such as a history, those of the first file stand.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from vzfs.joining.columns import MAX_ROWS, Merger, divided, moved
from vzfs.joining.constants import Constant
from vzfs.joining.described import axis_of, changed, difference, grid_of
from vzfs.joining.gathering import each
from vzfs.joining.ordering import (
    Order,
    as_given,
    check_unique,
    missing_in,
    order_of,
    times_of,
)
from vzfs.joining.pieces import Piece, groups_of, pieces_of
from vzfs.joining.refusal import JoinError
from vzfs.joining.times import InexactError, TimeUnits, converted
from vzfs.joining.values import (
    MAX_NBYTES,
    Read,
    Undecodable,
    Values,
    check,
    nbytes_of,
    rewritten,
    values_of,
)
from vzfs.model.manifest import Manifest
from vzfs.model.references import Omission, References, array_id, whole
from vzfs.model.snapshot import Array, Node
from vzfs.views.codecs import normalize

type Heard = Callable[[str, int, int], object]
"""Is told what is being done, how much of it is done, and of how much."""

SMALL: Final = 2**16
"""Bytes of an array that is rather written anew than divided, as all arrays of one dimension are."""
_MAX_NAMED: Final = 5


class Joined(NamedTuple):
    """What files make together.

    *order* has their numbers, as they follow each other, and *basis* says why so. *starts* are where
    each of them begins along the dimension, in that order, for each array that has it; *rewritten*
    are the paths of arrays that were written anew as plain numbers. *times* are the units of arrays
    that count time: what they have together, and what each file has, in that order.
    """

    references: References
    order: Sequence[int]
    basis: str
    starts: Mapping[str, Sequence[int]]
    rewritten: Sequence[str]
    dimension: str = ""
    times: Mapping[str, tuple[TimeUnits, Sequence[TimeUnits]]] = {}


class _Along(NamedTuple):
    """An array that is put together: its *pieces* in order, and their units if these are of time."""

    path: str
    axis: int
    dimension: str
    pieces: Sequence[Piece]
    times: Sequence[TimeUnits] | None

    @property
    def first(self) -> Piece:
        """The piece whose words count."""
        return self.pieces[0]

    @property
    def extents(self) -> list[int]:
        """How long each piece is along the dimension."""
        return [piece.metadata.shape[self.axis] for piece in self.pieces]

    @property
    def solid(self) -> list[Piece]:
        """The pieces that hold anything."""
        return [piece for piece in self.pieces if piece.metadata.shape[self.axis]]

    def chunk(self, piece: Piece) -> int:
        """Return how long the chunks of *piece* are along the dimension."""
        return piece.metadata.chunk_shape[self.axis]

    @property
    def shape(self) -> list[int]:
        """The shape of all pieces together."""
        shape = list(self.first.metadata.shape)
        shape[self.axis] = sum(self.extents)
        return shape


async def concatenate(
    parts: Sequence[tuple[str, References]], dimension: str, read: Read
) -> References:
    """Return *parts*, each with the name of its file, as one hierarchy along *dimension*.

    *read* gets the bytes of chunks that are not inline. Raises JoinError, which says what differs
    and where, and whatever *read* raises.
    """
    return (await join(parts, dimension, read)).references


async def join(
    parts: Sequence[tuple[str, References]],
    dimension: str,
    read: Read,
    *,
    is_append: bool = False,
    heard: Heard = lambda what, done, total: None,
) -> Joined:
    """Return *parts* as one hierarchy, and how it came about. Raises as `concatenate` does.

    With *is_append* the first part must come first.
    """
    if not parts:
        raise JoinError("there are no files to join", advice="name some")
    pieces, omissions = pieces_of(parts)
    if is_append:
        _check_whole(parts[0][1], pieces, omissions)
    axes = {path: _axis(found, dimension) for path, found in pieces.items()}
    along = [path for path, axis in axes.items() if axis is not None]
    if not along:
        raise _no_dimension(pieces, dimension)
    times = times_of(pieces, along)
    order = await _order(pieces, along, times, dimension, read, heard)
    if is_append and order.numbers[0] != 0:
        where = parts[order.numbers[0]][0]
        raise JoinError(
            f"{where} comes before what it is to be appended to, along {dimension}",
            where=where,
            advice="append only what follows; write a repository anew to put something before",
        )
    nodes = dict(groups_of([parts[i][1] for i in order.numbers]))
    manifests: dict[bytes, Manifest] = {}
    starts, anew = {}, []
    units: dict[str, tuple[TimeUnits, Sequence[TimeUnits]]] = {}
    for path in along:
        axis = axes[path]
        assert axis is not None  # noqa: S101 -- it is along
        counted = times.get(path)
        joint = _Along(
            path,
            axis,
            dimension,
            [pieces[path][i] for i in order.numbers],
            counted and [counted[i] for i in order.numbers],
        )
        array, manifest, is_anew = await _end_to_end(joint, read, heard)
        nodes[path] = array
        manifests[array.id] = manifest
        starts[path] = np.cumsum([0, *joint.extents])[:-1].tolist()
        if is_anew:
            anew.append(path)
        if joint.times is not None:
            units[path] = joint.times[0], joint.times
    fixed = {
        path: [pieces[path][i] for i in order.numbers] for path in pieces if path not in starts
    }
    await _check_constants(fixed, read, heard)
    for path, (first, *_) in fixed.items():
        name = array_id(path)
        nodes[path] = dataclasses.replace(
            first.array, id=name, manifests=whole(path, first.array.grid), originals={}
        )
        manifests[name] = first.manifest
    ordered: list[Node] = sorted(nodes.values(), key=lambda node: array_id(node.path))
    references = References(tuple(ordered), manifests, omissions)
    return Joined(references, order.numbers, order.basis, starts, anew, dimension, units)


def _check_whole(
    first: References, pieces: Mapping[str, Sequence[Piece]], omissions: Sequence[Omission]
) -> None:
    """Raise JoinError for what is there and would not grow with the rest."""
    reasons = {omission.path: omission.reason for omission in omissions}
    for node in first.nodes:
        if isinstance(node, Array) and node.path not in pieces:
            raise JoinError(
                f"{node.path} cannot be appended to: {reasons.get(node.path)}", where=node.path
            )


def _axis(pieces: Sequence[Piece], dimension: str) -> int | None:
    """Return which axis of an array is *dimension* in all files. Raises JoinError if it is not the same."""
    axes = [axis_of(piece.metadata, dimension) for piece in pieces]
    for axis, piece in zip(axes, pieces, strict=True):
        if axis != axes[0]:
            raise JoinError(
                f"{piece.array.path} has the dimensions {_names(pieces[0])} in {pieces[0].where} "
                f"and {_names(piece)} in {piece.where}",
                where=piece.where,
            )
    return axes[0]


def _names(piece: Piece) -> str:
    names = piece.metadata.dimension_names
    return "of no name" if names is None else f"({', '.join(str(name) for name in names)})"


def _no_dimension(pieces: Mapping[str, Sequence[Piece]], dimension: str) -> JoinError:
    names = {n for found in pieces.values() for n in found[0].metadata.dimension_names or () if n}
    has = ", ".join(sorted(names)[:_MAX_NAMED]) or "none"
    return JoinError(
        f"no variable of the files has a dimension {dimension!r} (they have: {has})",
        advice="files that are each one step without such a dimension cannot be put end to end: "
        "leave out --concat, and each is a group of its own",
    )


# -- order -----------------------------------------------------------------------------------------


async def _order(
    pieces: Mapping[str, Sequence[Piece]],
    along: Sequence[str],
    times: Mapping[str, Sequence[TimeUnits]],
    dimension: str,
    read: Read,
    heard: Heard,
) -> Order:
    """Return the order of files by the coordinate of the dimension, that of the highest group if there are several."""
    count = len(next(iter(pieces.values())))
    coordinates = [path for path in along if path.rpartition("/")[2] == dimension]
    if not coordinates:
        return as_given(count, f"there is no variable {dimension}")
    path = min(coordinates, key=lambda p: (p.count("/"), p))
    try:
        return await _order_by(path, pieces[path], times.get(path), read, heard)
    except JoinError:
        # Some models number the records of each file from 0, and say the time beside it.
        beside = [p for p in times if p != path and _is_beside(p, path, pieces)]
        if any("units" in piece.metadata.attributes for piece in pieces[path]) or not beside:
            raise
    order = await _order_by(beside[0], pieces[beside[0]], times[beside[0]], read, heard)
    return order._replace(basis=f"{order.basis}, as {path} repeats its own")


def _is_beside(path: str, coordinate: str, pieces: Mapping[str, Sequence[Piece]]) -> bool:
    is_same_group = path.rpartition("/")[0] == coordinate.rpartition("/")[0]
    return is_same_group and len(pieces[path][0].metadata.shape) == 1


async def _order_by(
    path: str,
    pieces: Sequence[Piece],
    times: Sequence[TimeUnits] | None,
    read: Read,
    heard: Heard,
) -> Order:
    """Return the order of files by the values of *path*. Raises JoinError where one comes twice."""
    if sum(nbytes_of(piece.metadata) for piece in pieces) > MAX_NBYTES:
        return as_given(len(pieces), f"{path} is too large to be looked into")
    try:
        values = await _values(path, pieces, read, heard)
    except Undecodable as why:
        return as_given(len(pieces), f"{path} cannot be looked into, as {why}")
    order = order_of(path, pieces, values, times)
    if not order.is_sorted and (times is None or len(set(times)) == 1):
        missing = [missing_in(v, piece.metadata) for v, piece in zip(values, pieces, strict=True)]
        check_unique(path, np.concatenate(values), np.concatenate(missing))
    return order


async def _values(path: str, pieces: Sequence[Piece], read: Read, heard: Heard) -> list[Values]:
    values: dict[int, Values] = {}

    async def look(i: int) -> None:
        piece = pieces[i]
        values[i] = await values_of(piece.array, piece.metadata, piece.manifest, read)

    await each(range(len(pieces)), look, lambda done, total: heard(f"reading {path}", done, total))
    return [values[i] for i in range(len(pieces))]


# -- one array -------------------------------------------------------------------------------------


async def _end_to_end(joint: _Along, read: Read, heard: Heard) -> tuple[Array, Manifest, bool]:
    """Return an array with its refs, and whether it was written anew."""
    obstacle = _obstacle(joint)
    units = _other_units(joint)
    if units or (obstacle and (len(joint.shape) == 1 or _nbytes(joint) <= SMALL)):
        return *await _anew(joint, units or obstacle, read, heard), True
    if not obstacle:
        return *_merged(joint), False
    if (found := _split(joint)) is not None:
        return *found, False
    return *await _anew(joint, obstacle, read, heard), True


def _nbytes(joint: _Along) -> int:
    return sum(nbytes_of(piece.metadata) for piece in joint.pieces)


def _obstacle(joint: _Along) -> str:
    """Say why chunks cannot be referred to as they are, "" if they can. Raises JoinError for other values."""
    first = joint.first
    obstacle = ""
    for piece in joint.pieces[1:]:
        found = difference(
            first.metadata, piece.metadata, joint.axis, of_time=joint.times is not None
        )
        if found is not None:
            what = f"has the {found.what} in {first.where} and {piece.where}"
            if not found.is_of_layout:
                raise JoinError(f"{joint.path} {what}", where=piece.where)
            obstacle = obstacle or what
    solid = joint.solid
    for piece in solid:
        length = joint.chunk(solid[0])
        if joint.chunk(piece) != length:
            what = f"has chunks of {length} and {joint.chunk(piece)} along {joint.dimension}"
            obstacle = obstacle or f"{what} in {solid[0].where} and {piece.where}"
        elif piece is not solid[-1] and piece.metadata.shape[joint.axis] % length:
            extent = piece.metadata.shape[joint.axis]
            what = f"ends within a chunk in {piece.where}: {extent} along {joint.dimension}"
            obstacle = obstacle or f"{what} are no multiple of {length}"
    return obstacle


def _other_units(joint: _Along) -> str:
    """Say that files count time from another moment or in other steps, "" if they do not."""
    for units, piece in zip(joint.times or (), joint.pieces, strict=False):
        if joint.times and units != joint.times[0]:
            return f"counts time otherwise in {joint.first.where} and {piece.where}"
    return ""


def _merged(joint: _Along) -> tuple[Array, Manifest]:
    """Return all pieces by the refs that they have."""
    metadata = joint.first.metadata
    chunk_shape = list((joint.solid or joint.pieces)[0].metadata.chunk_shape)
    array = changed(
        joint.path,
        metadata,
        joint.first.where,
        shape=joint.shape,
        chunk_grid=grid_of(chunk_shape),
    )
    merger = Merger()
    start = 0
    for piece in joint.solid:
        index = piece.manifest.indices(0, len(piece.manifest))
        grid, count = piece.array.grid.shape, array.grid.shape[joint.axis]
        merger.add(piece.manifest, moved(index, grid, joint.axis, start, count))
        start += grid[joint.axis]
    return array, merger.build()


def _split(joint: _Along) -> tuple[Array, Manifest] | None:
    """Return all pieces with their chunks divided so that they fit, None if they cannot be."""
    metadata = joint.first.metadata
    solid = joint.solid
    codecs = normalize(metadata.codecs, metadata.data_type)
    item = metadata.data_type.itemsize
    if joint.axis or [codec.name for codec in codecs] != ["bytes"] or not item:
        return None
    if any(difference(metadata, p.metadata, 0, of_time=joint.times is not None) for p in solid):
        return None
    rows = math.gcd(*(n for p in solid for n in (joint.chunk(p), p.metadata.shape[0])))
    chunk_shape = [rows, *metadata.chunk_shape[1:]]
    array = changed(
        joint.path, metadata, joint.first.where, shape=joint.shape, chunk_grid=grid_of(chunk_shape)
    )
    if array.grid.size > MAX_ROWS:
        return None
    row = math.prod(chunk_shape[1:]) * item
    inner = math.prod(array.grid.shape[1:])
    merger = Merger()
    start = 0
    for piece in solid:
        extent = piece.metadata.shape[0]
        found = divided(piece.manifest, extent, joint.chunk(piece), rows, inner, row)
        if found is None:
            return None
        index, of, skip = found
        merger.add(piece.manifest, index + start * inner, rows=of, skip=skip, length=rows * row)
        start += extent // rows
    return array, merger.build()


async def _anew(joint: _Along, why: str, read: Read, heard: Heard) -> tuple[Array, Manifest]:
    """Return all pieces as plain numbers in one chunk. Raises JoinError, which says *why* that would be needed."""
    first = joint.first
    metadata = first.metadata
    refusal = f"{joint.path} {why}"
    if _nbytes(joint) > MAX_NBYTES:
        raise JoinError(f"{refusal}; it is too large to be written anew", where=first.where)
    try:
        for piece in joint.pieces:
            check(piece.metadata)
        values = await _values(joint.path, joint.pieces, read, heard)
    except Undecodable as reason:
        raise JoinError(
            f"{refusal}; it is not written anew, as {reason}", where=first.where
        ) from None
    if joint.times is not None:
        values = [
            _in_units(joint, piece, found, units)
            for piece, found, units in zip(joint.pieces, values, joint.times, strict=True)
        ]
    together = np.concatenate(values, axis=joint.axis)
    is_coordinate = joint.path.rpartition("/")[2] == joint.dimension and together.ndim == 1
    if is_coordinate and joint.times is not None:
        check_unique(joint.path, together, missing_in(together, metadata))
    return rewritten(joint.path, metadata, together, first.where)


def _in_units(joint: _Along, piece: Piece, values: Values, units: TimeUnits) -> Values:
    assert joint.times is not None  # noqa: S101 -- checked by the caller
    attributes = piece.metadata.attributes
    is_packed = not attributes.keys().isdisjoint({"scale_factor", "add_offset"})
    why: object = "they are packed"
    try:
        if units == joint.times[0] or not is_packed:
            return converted(values, units, joint.times[0], missing_in(values, piece.metadata))
    except InexactError as reason:
        why = reason
    said = joint.first.metadata.attributes.get("units")
    raise JoinError(
        f"the values of {joint.path} in {piece.where} cannot be said exactly in the units of "
        f"{joint.first.where}, {said!r}: {why}",
        where=piece.where,
    )


# -- variables that files repeat -------------------------------------------------------------------


async def _check_constants(fixed: Mapping[str, Sequence[Piece]], read: Read, heard: Heard) -> None:
    """Raise JoinError if a variable without the dimension is not equal in all files."""
    pairs = [
        (constant, other)
        for path, (first, *others) in fixed.items()
        for constant in (Constant(path, first, read),)
        for other in others
    ]

    async def look(pair: tuple[Constant, Piece]) -> None:
        await pair[0].check(pair[1])

    await each(pairs, look, lambda done, total: heard("comparing what files repeat", done, total))
