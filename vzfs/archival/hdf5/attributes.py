"""Attributes of HDF5 objects as JSON has them.

What HDF5 and netCDF4 keep in attributes for themselves is not shown. An attribute of one value is that
value: netCDF makes no difference, and readers of Zarr want no list. A reference to an object is the
object's path. What has no value at all is text that is empty, if it would be text.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import h5py  # type: ignore[import-untyped]
import numpy as np
from h5py import h5d, h5g, h5r, h5t

from vzfs.archival.building import Unpresentable, plain

MAX_NBYTES: Final = 2**20
"""Bytes of one attribute that is shown."""
MAX_ATTRIBUTES: Final = 10_000
"""Attributes of one object that are shown."""

NETCDF: Final = frozenset(
    {
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "_NCProperties",
        "_Netcdf4Coordinates",
        "_Netcdf4Dimid",
        "_nc3_strict",
    }
)
"""What dimension scales and netCDF4 keep for themselves,"""
SCALE: Final = frozenset({"CLASS", "NAME"})
"""and what an object has besides that is a dimension scale."""

type Tell = Callable[[str], None]
"""Says what is left out."""


def attributes(
    object_id: h5g.GroupID | h5d.DatasetID, hidden: frozenset[str], tell: Tell
) -> Mapping[str, object]:
    """Return the attributes of an object but those *hidden*, as they are in the file; those that cannot be shown are told of."""
    found: dict[str, object] = {}
    for name, value in _all(object_id, hidden, tell):
        try:
            # What cannot be said is found here, not when the whole document is made.
            plain(value)
        except Unpresentable as problem:
            tell(f"its attribute {name}: {problem}")
        else:
            found[name] = value
    return found


def _all(
    object_id: h5g.GroupID | h5d.DatasetID, hidden: frozenset[str], tell: Tell
) -> Iterator[tuple[str, object]]:
    manager = h5py.AttributeManager(_Of(object_id))
    try:
        names = list(manager)
    except (RuntimeError, OSError, ValueError, KeyError) as problem:
        tell(f"its attributes cannot be listed: {problem}")
        return
    for count, name in enumerate(names):
        if name in hidden:
            continue
        if count >= MAX_ATTRIBUTES:
            tell(f"it has more than {MAX_ATTRIBUTES} attributes: the others")
            return
        try:
            yield name, _value(manager, name, object_id)
        except Unpresentable as problem:
            tell(f"its attribute {name}: {problem}")
        except Exception as problem:  # noqa: BLE001 -- h5py raises whatever it likes
            tell(f"its attribute {name} cannot be read: {problem}")


class _Of:
    """What h5py wants of an object to manage its attributes."""

    def __init__(self, object_id: h5g.GroupID | h5d.DatasetID) -> None:
        self.id = object_id
        self._id = object_id


def _value(
    manager: h5py.AttributeManager, name: str, object_id: h5g.GroupID | h5d.DatasetID
) -> object:
    attribute = manager.get_id(name)
    space, kind = attribute.get_space(), attribute.get_type()
    if space.get_simple_extent_npoints() * kind.get_size() > MAX_NBYTES:
        raise Unpresentable(f"it has more than {MAX_NBYTES} bytes")
    if kind.get_class() == h5t.REFERENCE:
        return _single(_paths(manager[name], object_id))
    value = manager[name]
    if isinstance(value, h5py.Empty):
        return "" if kind.get_class() == h5t.STRING else None
    return _single(value)


def _single(value: object) -> object:
    """Return the one value that *value* has, if it is one."""
    if isinstance(value, np.ndarray) and value.shape == (1,):
        inner: object = value[0]
        return inner
    return value


def _paths(value: Any, object_id: h5g.GroupID | h5d.DatasetID) -> object:  # noqa: ANN401 -- of h5py
    """Return the paths of the objects that references lead to. Raises Unpresentable."""
    references = np.asarray(value, object)
    paths = []
    for reference in references.reshape(-1):
        if not isinstance(reference, h5r.Reference) or isinstance(reference, h5r.RegionReference):
            raise Unpresentable("it refers to a part of an object")
        name = h5r.get_name(reference, object_id) if reference else None
        paths.append(name or b"")
    return np.array(paths, object).reshape(references.shape)
