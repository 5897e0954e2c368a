"""HDF5 and netCDF4: every dataset of a file, or why it is left out. See `vzfs.archival.hdf5`."""

import contextlib
import importlib
from typing import Any, BinaryIO

import h5py  # type: ignore[import-untyped]
from h5py import h5d, h5s

from vzfs.archival.building import ArrayDescription, HierarchyBuilder, Unpresentable
from vzfs.archival.hdf5.attributes import NETCDF, SCALE, attributes
from vzfs.archival.hdf5.chunks import Budget, Dataset, Plan
from vzfs.archival.hdf5.dimensions import Dimensions, shown_path
from vzfs.archival.hdf5.elements import Element, element
from vzfs.archival.hdf5.walk import Found, walk
from vzfs.archival.words import FILL_ATTRIBUTE, data_type, fill_attribute, fill_value


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Build what the file holds. Raises Unpresentable if it cannot be opened."""
    # Filters that the library has not itself; without them less can be decoded, and nothing else.
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")
    try:
        opened = h5py.File(file, "r")
    except (OSError, RuntimeError, ValueError) as problem:
        raise Unpresentable(f"it cannot be opened: {problem}") from None
    with opened:
        found = list(walk(opened, to))
        datasets = [f for f in found if isinstance(f.id, h5d.DatasetID)]
        parser = _Parser(file, size, to, datasets)
        for each in found:
            try:
                if isinstance(each.id, h5d.DatasetID):
                    parser.dataset(each)
                else:
                    parser.group(each)
            except Unpresentable as problem:
                to.drop(each.path, str(problem))
            except MemoryError:
                raise
            except Exception as problem:  # noqa: BLE001 -- one object is not to cost the others
                to.drop(each.path, f"it cannot be read: {type(problem).__name__}: {problem}")


class _Parser:
    def __init__(
        self, file: BinaryIO, size: int, to: HierarchyBuilder, datasets: list[Found]
    ) -> None:
        self._file = file
        self._size = size
        self._to = to
        self._budget = Budget()
        self._dimensions = Dimensions(datasets)
        self._taken = {f.path for f in datasets if not self._dimensions.is_hidden(f)}

    def group(self, found: Found) -> None:
        """Build a group. Raises Unpresentable."""
        said = attributes(found.id, NETCDF, lambda what: self._to.omit(found.path, what))
        self._to.group(found.path, said)

    def dataset(self, found: Found) -> None:
        """Build a dataset. Raises Unpresentable."""
        if self._dimensions.is_hidden(found):
            self._to.omit(found.path, "it is a dimension, without values", is_loss=False)
            return
        if found.id.get_space().get_simple_extent_type() == h5s.NULL:
            raise Unpresentable("it has no values at all, not even a shape (a null dataspace)")
        kind = element(found.id.get_type())
        dataset = Dataset(found.id, kind, self._file, self._size, self._budget)
        plan = dataset.plan()
        path = shown_path(found.path, self._taken)
        shape = dataset.shape
        hidden = NETCDF | SCALE if self._dimensions.is_scale(found) else NETCDF
        said = dict(attributes(found.id, hidden, lambda what: self._to.omit(path, what)))
        if FILL_ATTRIBUTE in said:
            fill = said.pop(FILL_ATTRIBUTE)
            marks = fill if kind.is_text else fill_attribute(fill, plan.dtype)
            if marks is not None:
                said[FILL_ATTRIBUTE] = marks
        names = self._dimensions.names(found, shape)
        described = ArrayDescription(
            shape=shape,
            chunk_shape=plan.chunk_shape,
            attributes={**kind.attributes, **said},
            dimension_names=names,
            **_words(kind, plan, _fill(dataset, plan)),
        )
        plan.build(self._to.array(path, described))


def _words(kind: Element, plan: Plan, fill: object) -> dict[str, Any]:
    """Return data type, fill value and codecs as a document has them."""
    if kind.is_text:
        is_utf8 = all(_is_utf8(data) for data in plan.inline.values())
        name, codec = (
            ("string", "vlen-utf8") if is_utf8 else ("variable_length_bytes", "vlen-bytes")
        )
        return {"data_type": name, "fill_value": "", "codecs": [{"name": codec}]}
    return {
        "data_type": data_type(plan.dtype),
        "fill_value": fill_value(fill, plan.dtype),
        "codecs": plan.codecs,
    }


def _is_utf8(data: bytes) -> bool:
    """Whether every text of a chunk is UTF-8."""
    at = 4
    try:
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            data[at + 4 : end].decode()
            at = end
    except UnicodeDecodeError:
        return False
    return True


def _fill(dataset: Dataset, plan: Plan) -> object:
    """Return what elements hold that were never written; None for zero. Raises Unpresentable."""
    try:
        return dataset.fill()
    except Unpresentable as problem:
        if plan.is_complete(dataset.shape):
            return None
        raise Unpresentable(f"its fill value cannot be shown: {problem}") from None
