"""Data types of HDF5 as numpy's: those whose elements lie in the file as Zarr would have them.

What lies there otherwise, such as numbers of 12 bits, can still be converted by the library; an
`Element` says which. What has no equivalent in Zarr at all is `Unpresentable`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from h5py import h5t  # type: ignore[import-untyped]

from vzfs.archival.building import Unpresentable
from vzfs.archival.hdf5.walk import text_of
from vzfs.archival.words import endian

PADDING: Final = "padding_"
"""What the fields are called that stand for bytes of an element which are no part of any field."""
MAX_FLAGS: Final = 10_000
"""Names of an enumeration that are shown."""
_MAX_DEPTH: Final = 16

_FLOATS: Final = tuple(
    (getattr(h5t, f"IEEE_F{8 * size}{order}E"), np.dtype(f"{'<' if order == 'L' else '>'}f{size}"))
    for size in (2, 4, 8)
    for order in "LB"
)
_COMPLEX: Final = tuple(
    (getattr(h5t, f"COMPLEX_IEEE_F{4 * size}{order}E", None), np.dtype(f"{'<' if order == 'L' else '>'}c{size}"))
    for size in (8, 16)
    for order in "LB"
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Element:
    """An element: its *dtype*, or object for text of any length.

    *dims* are those of the array that each element is. *is_exact* says whether the bytes in the file
    are elements of *dtype*; if not, the library converts to it. *attributes* are what an array of it
    has besides.
    """

    dtype: np.dtype[Any]
    dims: tuple[int, ...] = ()
    is_exact: bool = True
    attributes: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether elements are text of any length."""
        return self.dtype.kind == "O"

    @property
    def packed(self) -> np.dtype[Any]:
        """The data type without what is padding: what the library converts to."""
        return _without_padding(self.dtype)


def element(type_id: h5t.TypeID, depth: int = 0) -> Element:
    """Return the element that *type_id* describes. Raises Unpresentable."""
    if depth > _MAX_DEPTH:
        raise Unpresentable("its data type is nested too deeply")
    kind = type_id.get_class()
    if kind in (h5t.INTEGER, h5t.BITFIELD):
        return _integer(type_id)
    if kind == h5t.FLOAT:
        return _float(type_id)
    if kind == getattr(h5t, "COMPLEX", None):
        return _complex(type_id)
    if kind == h5t.STRING:
        is_variable = type_id.is_variable_str()
        return Element(np.dtype(object if is_variable else f"S{type_id.get_size()}"))
    if kind == h5t.ENUM:
        return _enumeration(type_id, depth)
    if kind == h5t.COMPOUND:
        return _compound(type_id, depth)
    if kind == h5t.ARRAY:
        inner = element(type_id.get_super(), depth + 1)
        dims = tuple(type_id.get_array_dims())
        return dataclasses.replace(inner, dims=(*dims, *inner.dims))
    if kind == h5t.OPAQUE:
        return Element(_converted(type_id))
    if kind == h5t.VLEN:
        raise Unpresentable("its elements are lists of any length, for which Zarr has no data type")
    if kind == h5t.REFERENCE:
        raise Unpresentable("its elements are references to objects of the file")
    raise Unpresentable("its data type is of a class that Zarr has not")


def _converted(type_id: h5t.TypeID) -> np.dtype[Any]:
    """Return the data type that the library converts to. Raises Unpresentable."""
    try:
        dtype: np.dtype[Any] = type_id.dtype
    except (TypeError, ValueError, KeyError, NotImplementedError) as problem:
        raise Unpresentable(f"its data type cannot be read: {problem}") from None
    return dtype


def _integer(type_id: h5t.TypeID) -> Element:
    size = type_id.get_size()
    if size not in {1, 2, 4, 8}:
        raise Unpresentable(f"its elements are integers of {size} bytes")
    dtype = _converted(type_id)
    if type_id.get_class() == h5t.BITFIELD:
        return Element(dtype)
    is_whole = type_id.get_precision() == 8 * size and type_id.get_offset() == 0
    return Element(dtype, is_exact=is_whole)


def _float(type_id: h5t.TypeID) -> Element:
    for known, dtype in _FLOATS:
        if type_id.equal(known):
            return Element(dtype)
    dtype = _converted(type_id)
    if dtype.kind != "f" or dtype.itemsize not in {2, 4, 8} or type_id.get_size() > dtype.itemsize:
        raise Unpresentable(f"its elements are floats of {type_id.get_size()} bytes of a rare kind")
    return Element(dtype.newbyteorder("<"), is_exact=False)


def _complex(type_id: h5t.TypeID) -> Element:
    for known, dtype in _COMPLEX:
        if known is not None and type_id.equal(known):
            return Element(dtype)
    raise Unpresentable("its elements are complex numbers of a rare kind")


def _enumeration(type_id: h5t.TypeID, depth: int) -> Element:
    inner = element(type_id.get_super(), depth + 1)
    count = type_id.get_nmembers()
    if inner.dtype.kind not in "iu" or count > MAX_FLAGS:
        return inner
    names = [text_of(type_id.get_member_name(i)) for i in range(count)]
    values = [int(type_id.get_member_value(i)) for i in range(count)]
    flags = {"flag_values": values, "flag_meanings": " ".join("_".join(n.split()) for n in names)}
    return dataclasses.replace(inner, attributes=flags)


def _compound(type_id: h5t.TypeID, depth: int) -> Element:
    plain = _complex_of_two(type_id)
    if plain is not None:
        return plain
    numbers = sorted(range(type_id.get_nmembers()), key=type_id.get_member_offset)
    members: list[tuple[str, Element]] = []
    at = 0
    for number in numbers:
        name = text_of(type_id.get_member_name(number))
        member = element(type_id.get_member_type(number), depth + 1)
        if member.dims or member.is_text:
            what = "an array" if member.dims else "text of any length"
            raise Unpresentable(f"the field {name} of its elements is {what}, which Zarr has not")
        gap = type_id.get_member_offset(number) - at
        if gap < 0:
            raise Unpresentable("the fields of its elements overlap")
        if gap:
            members.append(_padding(at, gap))
        members.append((name, member))
        at += gap + type_id.get_member_type(number).get_size()
    if at < type_id.get_size():
        members.append(_padding(at, type_id.get_size() - at))
    try:
        dtype = np.dtype([(name, member.dtype) for name, member in members])
    except (ValueError, TypeError) as problem:
        raise Unpresentable(f"its data type cannot be said: {problem}") from None
    if all(member.is_exact for _, member in members) and _has_one_order(dtype):
        return Element(dtype)
    return Element(_without_padding(dtype).newbyteorder("<"), is_exact=False)


def _padding(at: int, size: int) -> tuple[str, Element]:
    return f"{PADDING}{at}", Element(np.dtype(f"V{size}"))


def _has_one_order(dtype: np.dtype[Any]) -> bool:
    try:
        endian(dtype)
    except Unpresentable:
        return False
    return True


def _complex_of_two(type_id: h5t.TypeID) -> Element | None:
    """Return the complex number that a compound of a real and an imaginary part is, None if it is none."""
    if type_id.get_nmembers() != 2:
        return None
    names = [type_id.get_member_name(i) for i in range(2)]
    first, second = (type_id.get_member_type(i) for i in range(2))
    if names != [b"r", b"i"] or not first.equal(second):
        return None
    size = first.get_size()
    offsets = [type_id.get_member_offset(i) for i in range(2)]
    if offsets != [0, size] or type_id.get_size() != 2 * size:
        return None
    for known, dtype in _FLOATS:
        if first.equal(known) and size > 2:
            return Element(np.dtype(f"{dtype.str[0]}c{2 * size}"))
    return None


def _without_padding(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.names is None:
        return dtype
    return np.dtype(
        [
            (name, _without_padding(dtype[name]))
            for name in dtype.names
            if not (
                name.startswith(PADDING) and dtype[name].kind == "V" and dtype[name].names is None
            )
        ]
    )
