"""Where the values of a dataset lie in the file, or the values themselves.

A `Plan` is how a dataset is said in Zarr: the shape of its chunks, its codecs, and its chunks, which lie
in the file or are given. Values are given where the file has them in no form that a codec of Zarr
undoes, and where they are few; that costs the file some room, which is bounded for all of it.
"""

import contextlib
import dataclasses
import functools
import io
import math
from array import array as machine_array
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import h5py  # type: ignore[import-untyped]
import numpy as np
from h5py import h5d, h5s, h5t, h5z

from vzfs.archival.building import ArrayBuilder, Unpresentable
from vzfs.archival.hdf5.elements import Element
from vzfs.archival.hdf5.filters import Filter, codecs, encoded, without
from vzfs.archival.words import bytes_codec, pieces
from vzfs.model.manifest import Column

MAX_INLINE: Final = 2**20
"""Bytes of values that are given for one array,"""
MAX_INLINE_OF_FILE: Final = 16 * 2**20
"""and for all arrays of a file."""
MAX_DECODED: Final = 2**26
"""Bytes of a chunk that is decoded here: the library makes all of it, however few are wanted."""
_SAMPLES: Final = 64
"""Chunks at the edge that are looked at to learn whether they are filtered."""


@dataclasses.dataclass
class Budget:
    """How many bytes of values may still be given."""

    left: int = MAX_INLINE_OF_FILE

    def spend(self, nbytes: int, why: str) -> None:
        """Take note of *nbytes* that are to be given. Raises Unpresentable, saying *why* they would be, if they are too many."""
        if nbytes > MAX_INLINE:
            raise Unpresentable(f"{why}, and it has more than {MAX_INLINE} bytes")
        if nbytes > self.left:
            raise Unpresentable(f"{why}, and the file has had too much of that")
        self.left -= nbytes


@dataclasses.dataclass
class Plan:
    """How a dataset is said: *inline* chunks by their coordinates, and the others as three columns."""

    chunk_shape: tuple[int, ...]
    codecs: list[dict[str, object]]
    dtype: np.dtype[Any]
    flat: Column[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    offset: Column[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    length: Column[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    inline: dict[tuple[int, ...], bytes] = dataclasses.field(default_factory=dict)

    def build(self, to: ArrayBuilder) -> None:
        """Give the chunks to *to*."""
        to.run(self.flat, self.offset, self.length)
        for coords, data in self.inline.items():
            to.inline(coords, data)

    def is_complete(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of that *shape* has every chunk."""
        grid = (-(-n // edge) for n, edge in zip(shape, self.chunk_shape, strict=True))
        return len(self.flat) + len(self.inline) == math.prod(grid)


class Dataset:
    """A dataset *id* of *file*, which is *size* bytes long, of elements *element*.

    *shape* has the dimensions of the elements themselves at its end.
    """

    def __init__(
        self, id_: h5d.DatasetID, element: Element, file: BinaryIO, size: int, budget: Budget
    ) -> None:
        self._id = id_
        self._element = element
        self._file = file
        self._size = size
        self._budget = budget
        self._extent: tuple[int, ...] = tuple(id_.shape)
        self.shape: Final = (*self._extent, *element.dims)
        self.plist: Final = id_.get_create_plist()

    @property
    def _nbytes(self) -> int:
        return math.prod(self.shape) * self._element.dtype.itemsize

    def plan(self) -> Plan:
        """Return how the dataset is said. Raises Unpresentable."""
        layout = self.plist.get_layout()
        if self.plist.get_external_count():
            raise Unpresentable("its values lie in another file")
        if layout == h5d.VIRTUAL:
            raise Unpresentable("it is a virtual dataset, whose values are those of others")
        if self._element.is_text:
            return self._text()
        if not self._nbytes:
            return self._plain(pieces(self.shape, 1))
        if not self._element.is_exact:
            return self._given("its elements lie in the file in a form that Zarr has not")
        if layout == h5d.COMPACT:
            return self._compact()
        if layout == h5d.CONTIGUOUS:
            return self._contiguous()
        if layout == h5d.CHUNKED:
            return self._chunked()
        raise Unpresentable("its layout is not known")

    def _plain(self, chunk_shape: tuple[int, ...]) -> Plan:
        dtype = self._element.dtype
        return Plan(chunk_shape, [bytes_codec(dtype)], dtype)

    def fill(self) -> np.ndarray[Any, Any] | None:
        """Return what an element holds that was never written, None for zero. Raises Unpresentable."""
        if self.plist.fill_value_defined() != h5d.FILL_VALUE_USER_DEFINED or self._element.is_text:
            return None
        element = self._element
        if not element.is_exact:
            value = np.zeros((), element.packed)
            _attempt(lambda: self.plist.get_fill_value(value))
            return value
        values = np.frombuffer(_attempt(self._raw_fill), element.dtype)
        if any(one.tobytes() != values[0].tobytes() for one in values):
            raise Unpresentable("its fill value is an array of different values")
        return values[:1].reshape(())

    def _raw_fill(self) -> bytes:
        """Return the fill value as it is in the file: as a dataset has it into which nothing was written."""
        if self._element.dtype.kind in "iuf" and not self._element.dims:
            value = np.zeros((), self._element.dtype)
            with contextlib.suppress(TypeError, ValueError, OSError, RuntimeError):
                self.plist.get_fill_value(value)
                return value.tobytes()
        plist, kind = self.plist.copy(), self._id.get_type()
        if plist.get_nfilters():
            plist.remove_filter(h5z.FILTER_ALL)
        plist.set_layout(h5d.CONTIGUOUS)
        with h5py.File(io.BytesIO(), "w") as empty:
            space = h5s.create_simple((1,))
            made = h5d.create(empty.id, b"x", kind.copy(), space, plist)
            values = np.empty(1, np.dtype(f"V{kind.get_size()}"))
            made.read(h5s.ALL, h5s.ALL, values, kind)
        return values.tobytes()

    # -- in one piece --------------------------------------------------------------------------

    def _compact(self) -> Plan:
        plan = self._plain(self.shape)
        if self._id.get_storage_size():
            self._budget.spend(self._nbytes, "its values lie in the header of the dataset")
            plan.inline[(0,) * len(self.shape)] = self._raw()
        return plan

    def _contiguous(self) -> Plan:
        plan = self._plain(pieces(self.shape, self._element.dtype.itemsize))
        offset = self._id.get_offset()
        if offset is None:
            if self._id.get_storage_size():
                raise Unpresentable("where its values lie in the file cannot be learned")
            return plan
        if self._id.get_storage_size() != self._nbytes or offset + self._nbytes > self._size:
            raise Unpresentable("the file has not all of its values")
        length = math.prod(plan.chunk_shape) * self._element.dtype.itemsize
        plan.flat = np.arange(self._nbytes // length, dtype=np.int64)
        plan.offset = offset + plan.flat * length
        plan.length = np.full(len(plan.flat), length, np.int64)
        return plan

    # -- in chunks -----------------------------------------------------------------------------

    def _chunked(self) -> Plan:
        chunk = tuple(self.plist.get_chunk())
        size = math.prod(self._element.dims) * self._element.dtype.itemsize
        filters = self._filters()
        found = _Chunks.of(self._id, self._extent, chunk, self._size)
        if self._edges_are_bare(found, filters, size):
            found.mask[found.is_partial] = (1 << len(filters)) - 1
        usual = found.usual_mask()
        try:
            return self._referred(found, filters, usual, size)
        except Unpresentable as problem:
            return self._given(str(problem))

    def _referred(self, found: "_Chunks", filters: Sequence[Filter], usual: int, size: int) -> Plan:
        """Return a plan whose chunks lie in the file, but for those with another mask than *usual*."""
        dtype = self._element.dtype
        used = without(filters, usual)
        said = codecs(used, size)
        is_usual = found.mask == usual
        whole = math.prod(found.chunk) * size
        if not used and np.any(found.length[is_usual] != whole):
            raise Unpresentable("a chunk is not as long as it has to be")
        self._budget.spend(
            whole * int((~is_usual).sum()), "its chunks went through different filters"
        )
        plan = Plan((*found.chunk, *self._element.dims), [bytes_codec(dtype), *said], dtype)
        plan.flat, plan.offset, plan.length = (
            column[is_usual] for column in (found.flat, found.offset, found.length)
        )
        bare = (1 << len(filters)) - 1
        for row in np.flatnonzero(~is_usual).tolist():
            coords = (*map(int, found.coords[row]), *(0 for _ in self._element.dims))
            is_bare = found.mask[row] & bare == bare
            chunk = self._stored(found, row) if is_bare else self._decoded(found, row)
            if len(chunk) != whole:
                raise Unpresentable("a chunk is not as long as it has to be")
            plan.inline[coords] = encoded(chunk, used, size)
        return plan

    def _stored(self, found: "_Chunks", row: int) -> bytes:
        self._file.seek(int(found.offset[row]))
        return self._file.read(int(found.length[row]))

    def _decoded(self, found: "_Chunks", row: int) -> bytes:
        """Return the values of a chunk as they are without filters; beyond the dataset there are zeros."""
        self._check_decodable("its chunks went through different filters")
        start = found.coords[row] * np.array(found.chunk)
        count = tuple(np.minimum(found.chunk, np.array(self._extent) - start).tolist())
        kind = self._id.get_type()
        part = np.empty(count, np.dtype(f"V{kind.get_size()}"))
        space = self._id.get_space()
        space.select_hyperslab(tuple(start.tolist()), count)
        _read(self._id, h5s.create_simple(count), space, part, kind)
        values = np.zeros(found.chunk, part.dtype)
        values[tuple(slice(n) for n in count)] = part
        return values.tobytes()

    def _filters(self) -> list[Filter]:
        count = self.plist.get_nfilters()
        found = (self.plist.get_filter(i) for i in range(count))
        return [Filter(number, tuple(values)) for number, _, values, _ in found]

    def _edges_are_bare(self, found: "_Chunks", filters: Sequence[Filter], size: int) -> bool:
        """Whether chunks that reach beyond the dataset went without filters, as a dataset may ask for.

        No mask says so. If they did, all of them are as long as the values are. One whose bytes
        differ then shows whether its bytes are the values.
        """
        rows = np.flatnonzero(found.is_partial & (found.mask == 0))
        whole = math.prod(found.chunk) * size
        if not filters or not len(rows) or np.any(found.length[rows] != whole):
            return False
        for row in rows[:_SAMPLES].tolist():
            stored = self._stored(found, row)
            if len(set(stored)) > 1:
                return self._is_bare(found, row, stored)
        if len(rows) > _SAMPLES:
            raise Unpresentable("whether the chunks at its edge are filtered cannot be learned")
        return False

    def _is_bare(self, found: "_Chunks", row: int, stored: bytes) -> bool:
        element = np.dtype(f"V{self._id.get_type().get_size()}")
        count = np.minimum(found.chunk, self._extent - found.coords[row] * np.array(found.chunk))
        inside = tuple(slice(n) for n in count.tolist())
        parts = [
            np.frombuffer(data, element).reshape(found.chunk)[inside].tobytes()
            for data in (stored, self._decoded(found, row))
        ]
        return parts[0] == parts[1]

    # -- values --------------------------------------------------------------------------------

    def _given(self, why: str) -> Plan:
        """Return a plan that has all values itself, which is *why*. Raises Unpresentable."""
        self._budget.spend(self._nbytes, why)
        self._check_decodable(why)
        if self._element.is_exact:
            data, dtype = self._raw(), self._element.dtype
        else:
            dtype = self._element.packed
            values = np.empty(self.shape, dtype)
            kind = h5t.py_create(dtype)
            if self._element.dims:
                kind = h5t.array_create(kind, self._element.dims)
            _read(self._id, h5s.ALL, h5s.ALL, values, kind)
            data = values.tobytes()
        plan = Plan(self.shape, [bytes_codec(dtype)], dtype)
        plan.inline[(0,) * len(self.shape)] = data
        return plan

    def _raw(self) -> bytes:
        """Return all values as they are in the file, but for filters."""
        kind = self._id.get_type()
        values = np.empty(self._extent, np.dtype(f"V{kind.get_size()}"))
        _read(self._id, h5s.ALL, h5s.ALL, values, kind)
        return values.tobytes()

    def _text(self) -> Plan:
        """Return a plan that has all texts itself."""
        why = "its elements are text of any length, which lies here and there in the file"
        plan = Plan(tuple(max(n, 1) for n in self.shape), [], self._element.dtype)
        if self._element.dims:
            raise Unpresentable("its elements are arrays of text of any length")
        count = math.prod(self.shape)
        if not count or not self._id.get_storage_size():
            return plan
        self._budget.spend(4 * count, why)
        self._check_decodable(why)
        found = np.asarray(_attempt(lambda: h5py.Dataset(self._id)[()]), object).reshape(-1)
        texts = [t if isinstance(t, bytes) else str(t).encode() for t in found]
        parts = [len(texts).to_bytes(4, "little")]
        for text in texts:
            parts += [len(text).to_bytes(4, "little"), text]
        data = b"".join(parts)
        self._budget.spend(len(data) - 4 * count, why)
        plan.inline[(0,) * len(self.shape)] = data
        return plan

    def _check_decodable(self, why: str) -> None:
        """Raise Unpresentable where the library would make much more than is wanted."""
        if self.plist.get_layout() != h5d.CHUNKED:
            return
        nbytes = math.prod(self.plist.get_chunk()) * self._id.get_type().get_size()
        if nbytes > MAX_DECODED:
            raise Unpresentable(f"{why}, and a chunk has more than {MAX_DECODED} bytes")


@dataclasses.dataclass
class _Chunks:
    """The chunks of a dataset as columns: *coords* in the grid, *flat* index, place and *mask*."""

    chunk: tuple[int, ...]
    coords: Column[np.int64]
    flat: Column[np.int64]
    offset: Column[np.int64]
    length: Column[np.int64]
    mask: Column[np.int64]
    is_partial: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(
        cls, id_: h5d.DatasetID, extent: tuple[int, ...], chunk: tuple[int, ...], size: int
    ) -> "_Chunks":
        """Return the chunks of a dataset in a file of *size* bytes. Raises Unpresentable."""
        starts, rest = machine_array("q"), machine_array("q")

        def take(info: h5d.StoreInfo) -> None:
            starts.extend(info.chunk_offset)
            rest.extend((info.byte_offset, info.size, info.filter_mask))

        _attempt(lambda: id_.chunk_iter(take))
        begins = np.array(starts, np.int64).reshape(-1, len(extent))
        offset, length, mask = np.array(rest, np.int64).reshape(-1, 3).T
        if int(length.sum()) != id_.get_storage_size():
            raise Unpresentable("the file does not have as many bytes of it as it says")
        edges = np.array(chunk, np.int64)
        if np.any(begins % edges):
            raise Unpresentable("a chunk lies beside its place in the grid")
        # A dataset that was made smaller may keep chunks that are no part of it any more.
        is_inside = np.all(begins < np.array(extent), axis=1)
        begins, offset, length, mask = (
            column[is_inside] for column in (begins, offset, length, mask)
        )
        offset = offset + _base(id_)
        if np.any(length <= 0) or np.any(offset < 0) or np.any(offset + length > size):
            raise Unpresentable("a chunk lies beyond the end of the file")
        coords = begins // edges
        grid = [-(-n // edge) for n, edge in zip(extent, chunk, strict=True)]
        if math.prod(grid) >= 2**63:
            raise Unpresentable("it has more chunks than 64 bits can count")
        strides = [math.prod(grid[i + 1 :]) for i in range(len(grid))]
        flat = coords @ np.array(strides, np.int64)
        if len(np.unique(flat)) != len(flat):
            raise Unpresentable("the file has a chunk of it twice")
        is_partial = np.any(begins + edges > np.array(extent), axis=1)
        return cls(chunk, coords, flat, offset, length, mask.copy(), is_partial)

    def usual_mask(self) -> int:
        """Return the mask of most chunks, by their bytes."""
        masks = np.unique(self.mask)
        if not len(masks):
            return 0
        return int(max(masks, key=lambda mask: (int(self.length[self.mask == mask].sum()), -mask)))


def _attempt(work: Any) -> Any:  # noqa: ANN401 -- whatever h5py makes
    try:
        return work()
    except MemoryError:
        raise
    except Exception as problem:  # noqa: BLE001 -- h5py raises whatever it likes
        raise Unpresentable(f"the library cannot read it: {problem}") from None


def _read(
    id_: h5d.DatasetID, memory: Any, space: Any, into: np.ndarray[Any, Any], kind: h5t.TypeID  # noqa: ANN401
) -> None:  # fmt: skip
    """Read values as elements of *kind*. Raises Unpresentable."""
    _attempt(lambda: id_.read(memory, space, into, kind))


def _base(id_: h5d.DatasetID) -> int:
    """Return what has to be added to the place of a chunk, as the library gives it."""
    block: int = h5py.File(h5py.h5i.get_file_id(id_)).userblock_size
    return block if block and _leaves_block_out() else 0


@functools.cache
def _leaves_block_out() -> bool:
    """Whether this version of the library counts from behind what a file has before HDF5 begins."""
    mark = bytes(range(64))
    made = io.BytesIO()
    with h5py.File(made, "w", userblock_size=512) as file:
        values = np.frombuffer(mark, np.uint8)
        file.create_dataset("x", data=values, chunks=(len(mark),))
    with h5py.File(made, "r") as file:
        place: int = file["x"].id.get_chunk_info(0).byte_offset
    return place != made.getvalue().find(mark)
