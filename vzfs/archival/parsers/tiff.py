"""TIFF, GeoTIFF, COG and BigTIFF: an array for each directory, its chunks the strips and tiles as they lie there.

Arrays are named by the number of their directory, `0`, `1` and so on, and those below a directory
`0.0`, `0.1`. Axes are `y`, `x` and `band`, in the order in which the file has them: pixels with
their samples, or a plane for each sample. Coordinates are said by the attributes of the tags.
"""

import dataclasses
import math
from typing import Any, BinaryIO, Final

import numpy as np

from vzfs.archival.building import ArrayBuilder, ArrayDescription, HierarchyBuilder, Unpresentable
from vzfs.archival.parsers.axes import Axes
from vzfs.archival.parsers.tiffattributes import attributes_of, missing_value
from vzfs.archival.parsers.tiffcodecs import Encoding, Stored, encoding_of
from vzfs.archival.parsers.tifftags import Directory, TagReader
from vzfs.archival.words import fill_value

MAX_STRIP: Final = 2**22
"""Bytes of a last strip that is padded and kept, as it is stored."""
MAX_PADDED: Final = 2**26
"""Bytes of a last strip that is padded, decoded."""
MAX_KEPT: Final = 2**24
"""Bytes of all strips of a file that are kept."""
PLAIN_STRIP: Final = 2**16
"""Bytes of a last strip without compression that is padded: longer chunks are divided instead."""
PLAIN_CHUNK: Final = 2**23
"""Bytes of a chunk without compression beyond which it is divided where it can be."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _SAMPLES, _STRIP_ROWS, _PLANAR, _PREDICTOR = 266, 277, 278, 284, 317
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_WIDTH, _TILE_HEIGHT = 273, 279, 322, 323
_TILE_OFFSETS, _TILE_COUNTS, _BELOW, _EXTRA, _FORMAT = 324, 325, 330, 338, 339
_TABLES, _SUBSAMPLING, _LERC = 347, 530, 50674
_DEPTHS: Final = (32997, 32998)
_YCBCR, _JPEG, _LERC_COMPRESSION = 6, 7, 34887


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Say what the TIFF *file* holds. Raises Unpresentable if it is none."""
    reader = TagReader(file, size)
    parser = _Parser(reader, size, to)
    number = 0
    try:
        for directory in reader.directories():
            parser.add(str(number), directory)
            number += 1
    except Unpresentable as why:
        if not number:
            raise
        to.omit(f"/{number}", f"its directory cannot be read: {why}")
    if not number:
        raise Unpresentable("it has no directory")


class _Parser:
    def __init__(self, reader: TagReader, size: int, to: HierarchyBuilder) -> None:
        self._reader = reader
        self._size = size
        self._to = to
        self._kept = 0
        self._axes = Axes()

    def add(self, name: str, directory: Directory) -> None:
        """Add the array of *directory*, and those below it."""
        path = f"/{name}"
        try:
            self._add(path, directory)
        except Unpresentable as why:
            self._to.drop(path, str(why))
        try:
            for number, below in enumerate(self._reader.below(directory, _BELOW)):
                self.add(f"{name}.{number}", below)
        except Unpresentable as why:
            self._to.omit(f"{path}.0", f"a directory below it cannot be read: {why}")

    def _add(self, path: str, directory: Directory) -> None:
        layout = _layout_of(directory, self._reader.order)
        offsets, lengths = _places(directory, layout, self._size)
        present = np.flatnonzero(lengths)
        first = b""
        if present.size:
            at = int(present[0])
            first = self._reader.read(int(offsets[at]), min(int(lengths[at]), 64))
        encoding = encoding_of(layout.stored, first)
        layout = _divided(layout, encoding, offsets, lengths)
        missing = missing_value(directory, layout.dtype)
        attributes, problems = attributes_of(directory, layout.dtype, missing)
        described = ArrayDescription(
            shape=layout.shape,
            chunk_shape=layout.chunk_shape,
            data_type=layout.dtype.name,
            fill_value=fill_value(None if layout.dtype.kind == "c" else missing, layout.dtype),
            codecs=encoding.codecs,
            attributes=attributes,
            dimension_names=self._axes.names(layout.axes, layout.shape, path[1:]),
        )
        array = self._to.array(path, described)
        self._fill(array, layout, encoding, offsets, lengths)
        for problem in problems:
            self._to.omit(path, problem)

    def _fill(
        self,
        array: ArrayBuilder,
        layout: "_Layout",
        encoding: Encoding,
        offsets: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        """Add the chunks: strips and tiles are numbered as the chunks of the grid are."""
        present = np.flatnonzero(lengths)
        if layout.parts > 1:
            flat, offsets, lengths = layout.divided(present, offsets)
            array.run(flat, offsets, lengths)
            return
        is_looked_at = layout.is_short(present)
        # Where the tags do not say what a chunk decodes to, one is decoded to know.
        is_looked_at[:1] |= not encoding.is_checked
        whole = present[~is_looked_at]
        array.run(whole, offsets[whole], lengths[whole])
        for number in present[is_looked_at].tolist():
            self._look(array, layout, encoding, number, int(offsets[number]), int(lengths[number]))

    def _look(
        self,
        array: ArrayBuilder,
        layout: "_Layout",
        encoding: Encoding,
        number: int,
        offset: int,
        length: int,
    ) -> None:
        """Add one chunk, padded if it is a strip with fewer rows."""
        nbytes = layout.stored.nbytes
        if max(length, nbytes) > MAX_PADDED:
            raise Unpresentable("a strip or tile of it is too large to be looked into")
        data = _expanded(encoding, self._reader.read(offset, length), nbytes)
        if len(data) > nbytes:
            raise Unpresentable("a strip or tile of it has more than its tags say")
        coords = layout.coordinates(number)
        if len(data) == nbytes:
            array.virtual(coords, offset, length)
            return
        if len(data) < nbytes * layout.rows_in(number) // layout.rows:
            raise Unpresentable("a strip or tile of it has less than its tags say")
        self._keep(array, coords, encoding, data.ljust(nbytes, b"\0"))

    def _keep(
        self, array: ArrayBuilder, coords: tuple[int, ...], encoding: Encoding, data: bytes
    ) -> None:
        if encoding.compress is None:
            raise Unpresentable(
                "its last strip has fewer rows, and compressing it again would lose something"
            )
        padded = encoding.compress(data)
        self._kept += len(padded)
        if len(padded) > MAX_STRIP or self._kept > MAX_KEPT:
            raise Unpresentable("its last strip has fewer rows, and is too large to be padded")
        array.inline(coords, padded)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """An image and its strips or tiles: *rows* by *columns* pixels each, *parts* chunks in one."""

    width: int
    height: int
    samples: int
    rows: int
    columns: int
    is_planar: bool
    dtype: np.dtype[Any]
    stored: Stored
    is_tiled: bool
    parts: int = 1

    @property
    def down(self) -> int:
        return -(-self.height // self.rows)

    @property
    def across(self) -> int:
        return -(-self.width // self.columns)

    @property
    def count(self) -> int:
        """Strips or tiles of the image."""
        return self.down * self.across * (self.samples if self.is_planar else 1)

    @property
    def axes(self) -> tuple[str, ...]:
        if self.samples == 1:
            return ("y", "x")
        return ("band", "y", "x") if self.is_planar else ("y", "x", "band")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._ordered(self.height, self.width, self.samples)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        bands = 1 if self.is_planar else self.samples
        return self._ordered(self.rows // self.parts, self.columns, bands)

    def coordinates(self, number: int) -> tuple[int, ...]:
        """Return where in the grid of chunks the strip or tile with this number is."""
        rest, column = divmod(number, self.across)
        plane, row = divmod(rest, self.down)
        return self._ordered(row, column, plane)

    def rows_in(self, number: int) -> int:
        """Return the rows that a strip or tile has."""
        row = number // self.across % self.down
        return self.rows if self.is_tiled else min(self.rows, self.height - row * self.rows)

    def is_short(self, numbers: np.ndarray) -> np.ndarray:
        """Return whether these strips or tiles have fewer rows than others; a tile at the edge has all."""
        if self.is_tiled or self.height % self.rows == 0:
            return np.zeros(len(numbers), np.bool_)
        return np.asarray(numbers // self.across % self.down == self.down - 1)

    def divided(
        self, numbers: np.ndarray, offsets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return index in the grid, offset and length of the parts of these strips."""
        rows = self.rows // self.parts
        nbytes = self.stored.nbytes // self.parts
        parts = np.arange(self.parts)
        planes, strips = np.divmod(numbers, self.down)
        at = strips[:, None] * self.parts + parts
        count = self.height // rows
        flat = planes[:, None] * count + at
        places = offsets[numbers][:, None] + parts * nbytes
        is_there = at < count
        found = flat[is_there]
        return found, places[is_there], np.full(found.size, nbytes)

    def _ordered(self, y: int, x: int, band: int) -> tuple[int, ...]:
        if self.samples == 1:
            return (y, x)
        return (band, y, x) if self.is_planar else (y, x, band)


def _layout_of(directory: Directory, order: str) -> _Layout:
    width, height = directory.whole(_WIDTH, 0), directory.whole(_HEIGHT, 0)
    samples = directory.whole(_SAMPLES, 1)
    if not (0 < width < 2**31 and 0 < height < 2**31 and 0 < samples < 2**16):
        raise Unpresentable("its directory does not say a size")
    if any(directory.whole(tag, 1) > 1 for tag in _DEPTHS):
        raise Unpresentable("it is an image of three dimensions")
    compression = directory.whole(_COMPRESSION, 1)
    photometric = directory.whole(_PHOTOMETRIC, 1)
    if directory.whole(_FILL_ORDER, 1) != 1 and compression != _JPEG:
        raise Unpresentable("its bits are in reverse order")
    subsampling = directory.integers(_SUBSAMPLING).tolist() or [2, 2]
    if photometric == _YCBCR and compression != _JPEG and subsampling != [1, 1]:
        raise Unpresentable("its colours have fewer pixels than its brightness")
    dtype = _data_type(directory).newbyteorder(order)  # type: ignore[arg-type]
    is_tiled = _TILE_OFFSETS in directory.tags
    rows, columns = min(directory.whole(_STRIP_ROWS, height), height), width
    if is_tiled:
        rows, columns = directory.whole(_TILE_HEIGHT, 0), directory.whole(_TILE_WIDTH, 0)
    if not (0 < rows < 2**31 and 0 < columns < 2**31):
        raise Unpresentable("its directory does not say a size of strips or tiles")
    is_planar = samples > 1 and directory.whole(_PLANAR, 1) == 2
    axis = None if samples == 1 else 0 if is_planar else 2
    shape = (rows, columns) if axis is None else (1, rows, columns) if is_planar else (rows, columns, samples)  # fmt: skip
    stored = Stored(
        compression=compression,
        predictor=directory.whole(_PREDICTOR, 1),
        photometric=photometric,
        dtype=dtype,
        shape=shape,
        sample_axis=axis,
        has_extra_samples=_EXTRA in directory.tags,
        tables=_tables(directory, compression),
    )
    return _Layout(
        width=width, height=height, samples=samples, rows=rows, columns=columns,
        is_planar=is_planar, dtype=dtype.newbyteorder("="), stored=stored, is_tiled=is_tiled,
    )  # fmt: skip


def _tables(directory: Directory, compression: int) -> bytes:
    """Return what all chunks have in common: tables of JPEG, or the parameters of LERC."""
    if compression == _LERC_COMPRESSION:
        return directory.integers(_LERC).astype("<u4").tobytes()
    return directory.raw(_TABLES) if compression == _JPEG else b""


def _data_type(directory: Directory) -> np.dtype[Any]:
    bits = set(directory.integers(_BITS).tolist()) or {1}
    formats = set(directory.integers(_FORMAT).tolist()) or {1}
    if len(bits) > 1 or len(formats) > 1:
        raise Unpresentable("its samples are of several types")
    (width,), (format_,) = bits, formats
    # A format that is not said or not defined is that of whole numbers without sign.
    kind = {1: "u", 2: "i", 3: "f", 4: "u", 6: "c"}.get(format_)
    if kind is None:
        raise Unpresentable("its samples are complex whole numbers, which Zarr has not")
    widths = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64), "c": (64, 128)}[kind]
    if width not in widths:
        raise Unpresentable(f"its samples have {width} bits")
    return np.dtype(f"{kind}{width // 8}")


def _places(directory: Directory, layout: _Layout, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and length of each strip or tile; the length of one that is not there is 0."""
    tags = (_TILE_OFFSETS, _TILE_COUNTS) if layout.is_tiled else (_STRIP_OFFSETS, _STRIP_COUNTS)
    offsets, lengths = (directory.integers(tag) for tag in tags)
    if not lengths.size and layout.stored.compression == 1 and layout.count == 1 == offsets.size:
        lengths = np.array([layout.stored.nbytes])
    if min(offsets.size, lengths.size) < layout.count:
        raise Unpresentable("its directory does not say where all of its strips or tiles lie")
    offsets, lengths = offsets[: layout.count], lengths[: layout.count]
    if max(offsets.max(), lengths.max()) >= 2**62:
        raise Unpresentable("the file ends before its strips or tiles")
    offsets, lengths = offsets.astype("i8"), lengths.astype("i8")
    lengths[offsets == 0] = 0
    beyond = int(np.count_nonzero(offsets + lengths > size))
    if beyond:
        raise Unpresentable(f"the file ends before {beyond} of its {layout.count} strips or tiles")
    if layout.stored.compression != 1:
        return offsets, lengths
    pixel = layout.stored.nbytes // layout.rows
    wanted = np.full(layout.count, layout.stored.nbytes)
    if not layout.is_tiled:
        last = layout.is_short(np.arange(layout.count))
        wanted[last] = pixel * layout.rows_in(layout.across * layout.down - 1)
    if np.any((lengths < wanted) & (lengths > 0)):
        raise Unpresentable("a strip or tile of it has less than its tags say")
    return offsets, np.where(lengths > 0, wanted, 0)


def _divided(
    layout: _Layout, encoding: Encoding, offsets: np.ndarray, lengths: np.ndarray
) -> _Layout:
    """Return *layout* with smaller chunks, if there is no compression and whole strips will not do."""
    if layout.is_tiled or not encoding.is_plain:
        return layout
    last = layout.rows_in(layout.across * layout.down - 1)
    nbytes = layout.stored.nbytes
    rows = layout.rows
    if last != layout.rows and nbytes > PLAIN_STRIP:
        rows = math.gcd(layout.rows, last)
    if nbytes // layout.rows * rows > PLAIN_CHUNK:
        most = max(PLAIN_CHUNK * layout.rows // nbytes, 1)
        rows = next(n for n in range(min(most, rows), 0, -1) if rows % n == 0)
    return dataclasses.replace(layout, parts=layout.rows // rows)


def _expanded(encoding: Encoding, stored: bytes, nbytes: int) -> bytes:
    try:
        return encoding.expand(stored, nbytes)
    except Unpresentable:
        raise
    except Exception as error:  # noqa: BLE001 -- codecs raise whatever they like
        raise Unpresentable(f"a strip or tile of it cannot be decoded: {error}") from None
