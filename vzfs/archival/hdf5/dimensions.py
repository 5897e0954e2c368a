"""What the dimensions of datasets are called.

Names come from dimension scales, as netCDF4 uses them, else from the labels of dimensions. A dimension
that has neither gets a name that is the same wherever its length is, as netCDF does it: `phony_dim_N`.
A scale that is a dimension of netCDF, and no variable, is not shown: it has no values of its own.
"""

import posixpath
from collections.abc import Sequence
from typing import Any, Final

import h5py  # type: ignore[import-untyped]
import numpy as np
from h5py import h5a, h5d, h5r

from vzfs.archival.hdf5.walk import Address, Found, address_of, text_of

_NO_VARIABLE: Final = b"This is a netCDF dimension but not a netCDF variable"
_NO_COORDINATE: Final = "_nc4_non_coord_"
"""What netCDF puts before the name of a variable that is called like a dimension and is not its scale."""
_PHONY: Final = "phony_dim_"
_SPOILT: Final = (RuntimeError, OSError, ValueError, KeyError, TypeError, NotImplementedError)
"""What h5py raises for an attribute that is not as it should be."""


class Dimensions:
    """The dimensions of a file whose *datasets* are these."""

    def __init__(self, datasets: Sequence[Found]) -> None:
        self._names: dict[Address, str] = {}
        self._by_number: dict[int, str] = {}
        self._hidden: set[Address] = set()
        self._phony: dict[tuple[int, int], str] = {}
        for found in datasets:
            if found.address in self._names or not _is_scale(found.id):
                continue
            name = posixpath.basename(found.path).removeprefix(_NO_COORDINATE)
            self._names[found.address] = name
            number = _read(found.id, b"_Netcdf4Dimid")
            if number is not None and np.size(number) == 1:
                self._by_number.setdefault(int(np.reshape(number, ())), name)
            if _text(_read(found.id, b"NAME")).startswith(_NO_VARIABLE):
                self._hidden.add(found.address)
        self._taken = set(self._names.values())

    def is_scale(self, found: Found) -> bool:
        """Whether a dataset is a dimension scale."""
        return found.address in self._names

    def is_hidden(self, found: Found) -> bool:
        """Whether a dataset is but a dimension of netCDF."""
        return found.address in self._hidden

    def names(self, found: Found, shape: Sequence[int]) -> list[str]:
        """Return what the dimensions of a dataset of that *shape* are called."""
        names = self._numbered(found, len(shape)) or self._scaled(found, len(shape))
        for i, label in enumerate(_labels(found.id, len(shape))):
            names[i] = names[i] or label
        used: dict[int, int] = {}
        for i, length in enumerate(shape):
            if names[i] is None:
                again = used[length] = used.get(length, -1) + 1
                names[i] = self._phony_name(length, again)
        return [name or "" for name in names]

    def _numbered(self, found: Found, ndim: int) -> list[str | None] | None:
        """Return the names of a coordinate of several dimensions, which has the numbers of its dimensions."""
        numbers = _read(found.id, b"_Netcdf4Coordinates")
        if numbers is None or np.size(numbers) != ndim:
            return None
        return [self._by_number.get(int(number)) for number in np.reshape(numbers, -1)]

    def _scaled(self, found: Found, ndim: int) -> list[str | None]:
        names: list[str | None] = [None] * ndim
        if ndim and found.address in self._names:
            names[0] = self._names[found.address]
        scales = _read(found.id, b"DIMENSION_LIST")
        if scales is not None and np.shape(scales) == (ndim,):
            for i, attached in enumerate(scales):
                names[i] = self._of_scale(found.id, attached) or names[i]
        return names

    def _of_scale(self, dataset: h5d.DatasetID, attached: Any) -> str | None:  # noqa: ANN401 -- of h5py
        """Return what the first scale that is *attached* to a dimension is called."""
        try:
            for reference in attached:
                scale = h5r.dereference(reference, dataset)
                if scale is not None:
                    return self._names.get(address_of(scale))
        except _SPOILT:
            return None
        return None

    def _phony_name(self, length: int, again: int) -> str:
        """Return the name of a dimension of that *length*, met *again* so many times in one dataset."""
        name = self._phony.get((length, again))
        if name is None:
            number = len(self._phony)
            while f"{_PHONY}{number}" in self._taken:
                number += 1
            name = self._phony[length, again] = f"{_PHONY}{number}"
            self._taken.add(name)
        return name


def shown_path(path: str, taken: Sequence[str] | set[str]) -> str:
    """Return the path by which netCDF knows the variable at *path*, if no other of those *taken* has it."""
    folder, name = posixpath.split(path)
    known = posixpath.join(folder, name.removeprefix(_NO_COORDINATE))
    return path if known in taken else known


def _is_scale(dataset: h5d.DatasetID) -> bool:
    return _text(_read(dataset, b"CLASS")).rstrip(b"\0") == b"DIMENSION_SCALE"


def _labels(dataset: h5d.DatasetID, ndim: int) -> list[str | None]:
    labels = _read(dataset, b"DIMENSION_LABELS")
    if labels is None or np.shape(labels) != (ndim,):
        return [None] * ndim
    return [text_of(_text(label)) or None for label in labels]


def _read(dataset: h5d.DatasetID, name: bytes) -> Any:  # noqa: ANN401 -- whatever h5py makes of it
    """Return the value of an attribute, None if there is none that can be read."""
    try:
        if not h5a.exists(dataset, name):
            return None
        value = h5py.AttributeManager(_Of(dataset))[name.decode()]
    except _SPOILT:
        return None
    return None if isinstance(value, h5py.Empty) else value


class _Of:
    """What h5py wants of a dataset to manage its attributes."""

    def __init__(self, dataset: h5d.DatasetID) -> None:
        self.id = dataset


def _text(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode("utf-8", "surrogateescape")
        case np.ndarray() if value.size == 1:
            return _text(value.reshape(-1)[0])
    return b""
