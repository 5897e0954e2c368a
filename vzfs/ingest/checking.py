"""Chunks read both ways: by references and codecs, as a mount reads them, and by the library of their format.

Which chunks follows from a seed. A difference is an error, and what cannot be compared is named with
its reason: an array is never passed over in silence.
"""

import bisect
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import trio

from vzfs.access import Access
from vzfs.archival.kinds import HEAD, Kind, sniff
from vzfs.decoding.decoder import Decoder
from vzfs.decoding.installed import can_decode
from vzfs.errors import AccessDenied, ErrorKind, FormatError
from vzfs.ingest.direct import KINDS
from vzfs.ingest.parsing import Heard
from vzfs.joining import Joined, group_names
from vzfs.joining.times import TimeUnits
from vzfs.model.location import Location, parse_location
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.references import References
from vzfs.model.snapshot import Array
from vzfs.source import Fetcher
from vzfs.views.arrays import Asked, show_array
from vzfs.views.metadata import ArrayMetadata, Unsaid, read_v3_array
from vzfs.views.view import View, ViewName

CHECKING: Final = "checking chunks"
PIECE: Final = 64 * 2**20
"""Bytes of a remote file that are got at a time."""
TOLERANCE: Final = 1e-6
"""Relative, of GRIB: libraries calculate its values, each in its own way."""

_BY_PLACE: Final = frozenset({Kind.GRIB, Kind.TIFF})
"""Kinds whose libraries know parts by where they lie in the file, and not by names."""

type Values = np.ndarray[Any, np.dtype[Any]]


class Checked(NamedTuple):
    """How many chunks were compared, and which arrays were not, each with a reason."""

    chunks: int
    skipped: Mapping[str, str]


class _Wanted(NamedTuple):
    """A part of a chunk, which lies in one file: *values* are what vzfs reads there.

    *times* are its units, if it counts time, and those of the file.
    """

    path: str
    inner: str
    region: Sequence[tuple[int, int]]
    ref: ChunkRef
    values: Values
    times: tuple[TimeUnits, TimeUnits] | None = None


class _Asked(NamedTuple):
    """What the library of a *kind* is asked: a part of a local *file*, whose *name* is a URL."""

    name: str
    kind: Kind
    file: Path
    piece: _Wanted


class Checking:
    """Compares *count* chunks of each array, chosen by *seed*."""

    def __init__(
        self,
        decoder: Decoder,
        fetcher: Fetcher,
        access: Access,
        count: int,
        seed: int,
        heard: Heard,
    ) -> None:
        self._decoder = decoder
        self._fetcher = fetcher
        self._access = access
        self._count = count
        self._seed = seed
        self._heard = heard

    async def run(self, joined: Joined, parts: Sequence[tuple[str, References]]) -> Checked:
        """Compare chunks of what was *joined* of *parts*. Raises FormatError (`CHECK_FAILED`) for a difference."""
        skipped: dict[str, str] = {}
        wanted: dict[int, list[_Wanted]] = {}
        chosen = list(self._chosen(joined, parts, skipped))
        for done, (number, array, metadata, flat, ref) in enumerate(chosen):
            self._heard(CHECKING, done, len(chosen))
            try:
                values = await self._decoded(array, metadata, ref)
            except Unsaid as why:
                skipped[array.path] = str(why)
                continue
            found = _pieces(joined, parts, number, array, metadata, flat, ref, values)
            for part, piece in found:
                wanted.setdefault(part, []).append(piece)
        compared = 0
        for piece, reason in await self._compared(parts, wanted):
            if reason:
                skipped.setdefault(piece.path, reason)
            else:
                compared += 1
        return Checked(compared, skipped)

    def _chosen(
        self,
        joined: Joined,
        parts: Sequence[tuple[str, References]],
        skipped: dict[str, str],
    ) -> Iterator[tuple[int | None, Array, ArrayMetadata, int, ChunkRef]]:
        """Yield chunks to compare: the group of a file if it has one, and what is known of the chunk."""
        groups = _groups(joined, parts)
        names = {name for name, _ in parts}
        for node in joined.references.nodes:
            if not isinstance(node, Array):
                continue
            try:
                metadata = read_v3_array(node.documents["zarr.json"])
            except Unsaid as why:
                skipped[node.path] = str(why)
                continue
            manifest = joined.references.manifests[node.id]
            rows = _rows(node, metadata, manifest, joined, names)
            if not len(rows):
                skipped[node.path] = "no chunk of it is in the files"
                continue
            draw = random.Random(f"{self._seed} {node.path}")  # noqa: S311 -- a sample, not a secret
            index = manifest.indices(0, len(manifest))
            number = groups.get(node.path.split("/")[1]) if groups else None
            for row in sorted(draw.sample(rows.tolist(), min(self._count, len(rows)))):
                yield number, node, metadata, int(index[row]), manifest.ref(row)

    async def _decoded(self, array: Array, metadata: ArrayMetadata, ref: ChunkRef) -> Values:
        """Return the values of a chunk as a mount decodes them. Raises Unsaid if none can be."""
        view = View(ViewName.DECODED, 3, consolidated=False)
        shown = show_array(array, Asked(view, can_decode(), is_complete=False))
        dtype = metadata.data_type.numpy
        if not shown.is_shown or dtype is None or shown.remark:
            raise Unsaid(shown.remark or "it has no fixed data type")
        if shown.form is not None:
            data = await self._decoder.read(ref, shown.form, 0, metadata.nbytes)  # type: ignore[arg-type]
        else:
            data = ref.inline
            if ref.kind is not ChunkKind.INLINE:
                data = (await self._fetcher.fetch(self._access.authorize(ref))).data
        return np.frombuffer(data, dtype).reshape(metadata.chunk_shape)

    # -- the other way -------------------------------------------------------------------------

    async def _compared(
        self, parts: Sequence[tuple[str, References]], wanted: Mapping[int, Sequence[_Wanted]]
    ) -> list[tuple[_Wanted, str]]:
        """Return all that is *wanted*, each with why it could not be compared, "" if it is equal. Raises FormatError."""
        compared: list[tuple[_Wanted, str]] = []
        asked: list[_Asked] = []
        folder = Path(tempfile.mkdtemp(prefix="vzfs-check-"))
        try:
            for number, pieces in sorted(wanted.items()):
                name = parts[number][0]
                try:
                    location = parse_location(name)
                    kind = await self._kind(location)
                except AccessDenied as denial:
                    compared += [(piece, denial.what) for piece in pieces]
                    continue
                if kind is None or kind not in KINDS:
                    said = "what it is" if kind is None else kind.called
                    compared += [(piece, f"no library is asked about {said}") for piece in pieces]
                    continue
                if kind in _BY_PLACE:
                    inline = [p for p in pieces if p.ref.kind is ChunkKind.INLINE]
                    compared += [
                        (p, f"{kind.called} has no such numbers in one place") for p in inline
                    ]
                    pieces = [p for p in pieces if p.ref.kind is not ChunkKind.INLINE]
                file = await self._local(location, folder / f"file-{number}")
                asked += [_Asked(name, kind, file, piece) for piece in pieces]
            await self._ask(folder, asked)
            for i, (name, kind, _, piece) in enumerate(asked):
                compared.append((piece, _verdict(name, kind, piece, folder / str(i))))
            return compared
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _ask(self, folder: Path, asked: Sequence[_Asked]) -> None:
        """Have the libraries read all that is *asked*; behind what one dies of, another process goes on."""
        job = folder / "job.json"
        begin = 0
        while begin < len(asked):
            items = [
                {
                    "number": i,
                    "kind": kind,
                    "file": str(file),
                    "path": piece.inner,
                    "region": piece.region,
                    "offset": piece.ref.offset,
                    "length": piece.ref.length,
                }
                for i, (_, kind, file, piece) in enumerate(asked[begin:], begin)
            ]
            job.write_text(json.dumps(items))
            await trio.run_process(
                [sys.executable, "-P", "-m", "vzfs.ingest.direct", str(job)],
                check=False,
                stdin=b"",
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            while begin < len(asked) and _is_made(folder / str(begin)):
                begin += 1
            begin += 1

    async def _kind(self, location: Location) -> Kind | None:
        length = (await self._fetcher.stat(self._proof(location, 0, 0))).length
        head = await self._fetcher.fetch(self._proof(location, 0, min(length, HEAD)))
        return sniff(bytes(head.data), location.key)

    async def _local(self, location: Location, copy: Path) -> Path:
        """Return the file at *location* as one of this machine: itself, or a copy."""
        if location.scheme == "file":
            return Path("/" + location.key)
        length = (await self._fetcher.stat(self._proof(location, 0, 0))).length
        version = None
        with copy.open("wb") as file:
            for at in range(0, length, PIECE):
                wanted = self._proof(location, at, min(PIECE, length - at))
                data, version = await self._fetcher.fetch(wanted, version)
                file.write(data)
        return copy

    def _proof(self, location: Location, offset: int, length: int) -> Any:  # noqa: ANN401 -- a proof
        return self._access.authorize(ChunkRef(ChunkKind.VIRTUAL, length, str(location), offset))


def _rows(
    array: Array, metadata: ArrayMetadata, manifest: Manifest, joined: Joined, names: set[str]
) -> Values:
    """Return the rows of chunks that are in the files, and not only in what they were appended to."""
    of_files = [text in names for text in manifest.locations] or [False]
    is_inline = manifest.kind == ChunkKind.INLINE
    rows = is_inline | np.array(of_files)[np.where(is_inline, 0, manifest.location)]
    rows &= manifest.kind != ChunkKind.NATIVE
    starts = joined.starts.get(array.path)
    if starts:
        axis = (metadata.dimension_names or ()).index(joined.dimension)
        coords = np.unravel_index(manifest.indices(0, len(manifest)), array.grid.shape)
        rows &= (coords[axis] + 1) * metadata.chunk_shape[axis] > starts[0]
    return np.flatnonzero(rows)


def _groups(joined: Joined, parts: Sequence[tuple[str, References]]) -> Mapping[str, int]:
    """Return which file each group stands for, if each has one."""
    if joined.starts or len(parts) == 1:
        return {}
    return {name: i for i, name in enumerate(group_names([name for name, _ in parts]))}


def _pieces(
    joined: Joined,
    parts: Sequence[tuple[str, References]],
    number: int | None,
    array: Array,
    metadata: ArrayMetadata,
    flat: int,
    ref: ChunkRef,
    values: Values,
) -> Iterator[tuple[int, _Wanted]]:
    """Yield the parts of a chunk that lie in one file each, and the number of that file."""
    coords = array.grid.unravel(flat)
    begin = [c * n for c, n in zip(coords, metadata.chunk_shape, strict=True)]
    end = [
        min(b + n, s) for b, n, s in zip(begin, metadata.chunk_shape, metadata.shape, strict=True)
    ]
    whole = values[tuple(slice(e - b) for b, e in zip(begin, end, strict=True))]
    region = list(zip(begin, end, strict=True))
    starts = joined.starts.get(array.path)
    if starts is None:
        inner = "/" + array.path.split("/", 2)[2] if number is not None else array.path
        of = number if number is not None else joined.order[0]
        yield of, _Wanted(array.path, inner, region, ref, whole)
        return
    axis = (metadata.dimension_names or ()).index(joined.dimension)
    low, high = region[axis]
    ends = [*starts[1:], metadata.shape[axis]]
    for at in range(max(bisect.bisect_right(starts, low) - 1, 0), len(starts)):
        first, last = max(low, starts[at]), min(high, ends[at])
        if first < last:
            inside = [slice(None)] * whole.ndim
            inside[axis] = slice(first - low, last - low)
            local = list(region)
            local[axis] = (first - starts[at], last - starts[at])
            of = joined.order[at]
            part = whole[tuple(inside)]
            counted = joined.times.get(array.path)
            times = counted and (counted[0], counted[1][at])
            yield of, _Wanted(array.path, array.path, local, ref, part, times)


def _is_made(made: Path) -> bool:
    return made.with_suffix(".npy").exists() or made.with_suffix(".txt").exists()


def _verdict(name: str, kind: Kind, piece: _Wanted, made: Path) -> str:
    """Return why *piece* could not be compared, "" if it is equal. Raises FormatError if it is not."""
    reason = made.with_suffix(".txt")
    if reason.exists():
        return reason.read_text()
    try:
        values = np.load(made.with_suffix(".npy"), allow_pickle=False)
    except (OSError, ValueError):
        return f"the library that reads {kind.called} died of it, or took too long"
    if _is_equal(piece, values, kind):
        return ""
    places = ", ".join(f"{b}:{e}" for b, e in piece.region)
    raise FormatError(
        ErrorKind.CHECK_FAILED,
        f"{piece.path}[{places}] is not what the library of its format reads; nothing was committed",
        where=name,
        advice="report it, with the file",
    )


def _is_equal(piece: _Wanted, values: Values, kind: Kind) -> bool:
    ours = piece.values
    if kind is Kind.GRIB:
        ours, values = ours.astype("f8").reshape(-1), values.reshape(-1)
        return ours.shape == values.shape and np.allclose(
            ours, values, rtol=TOLERANCE, atol=0, equal_nan=True
        )
    if kind is Kind.TIFF:
        ours, values = np.squeeze(ours), np.squeeze(values)
        if ours.ndim != values.ndim:
            return False
        common = tuple(slice(min(n, m)) for n, m in zip(ours.shape, values.shape, strict=True))
        ours, values = ours[common], values[common]
    if ours.shape != values.shape:
        return False
    if ours.dtype.kind != values.dtype.kind and ours.dtype.itemsize != values.dtype.itemsize:
        return False
    if piece.times is not None and piece.times[0] != piece.times[1]:
        return _are_same_moments(ours, values, *piece.times)
    return ours.tobytes() == values.astype(values.dtype.newbyteorder("<")).tobytes()


def _are_same_moments(ours: Values, values: Values, mine: TimeUnits, theirs: TimeUnits) -> bool:
    """Whether numbers in two units stand for the same moments; what stands for none is the same number."""
    return all(
        one == two or (math.isfinite(one) and mine.moment(one) == theirs.moment(two))
        for one, two in zip(ours.reshape(-1).tolist(), values.reshape(-1).tolist(), strict=True)
    )
