"""DMR++: what an HDF5 or netCDF4 file holds, as a document beside it says, without a look into that file.

The document says for each variable where its chunks lie and what was done to them. What it has of
data in itself is kept. A variable whose chunks lie in other files, some of whose chunks were not
filtered as the others, or that lacks chunks and does not say what those hold, is left out by name.
"""

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np

from vzfs.archival.building import (
    ArrayBuilder,
    ArrayDescription,
    HierarchyBuilder,
    Unpresentable,
)
from vzfs.archival.parsers import dmrppxml
from vzfs.archival.parsers.dmrppxml import Element
from vzfs.archival.words import (
    FILL_ATTRIBUTE,
    bytes_codec,
    data_type,
    fill_attribute,
    fill_value,
    pieces,
)

MAX_NDIM: Final = 64
MAX_INLINE: Final = 2**24
"""Bytes of data in the document of one variable."""
MAX_STRING: Final = 2**16

_TYPES: Final = {
    "Byte": "u1", "Char": "u1", "Int8": "i1", "UInt8": "u1", "Int16": "i2", "UInt16": "u2",
    "Int32": "i4", "UInt32": "u4", "Int64": "i8", "UInt64": "u8", "Float32": "f4", "Float64": "f8",
}  # fmt: skip
_TEXTS: Final = frozenset({"String", "URL", "URI"})
_OTHERS: Final = frozenset({"Structure", "Sequence", "Enum", "Opaque", "Grid"})
_GLOBAL, _OWN = "HDF5_GLOBAL", "build_dmrpp_metadata"


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Say what the DMR++ document *file* says. Raises Unpresentable if it is none."""
    root = dmrppxml.read(file, size)
    if root.name != "Dataset":
        raise Unpresentable("it is no DMR++ document")
    _Parser(root, to).group("/", root)


class _Parser:
    def __init__(self, root: Element, to: HierarchyBuilder) -> None:
        self._to = to
        self._lengths: dict[str, int] = {}
        self._href = root.attributes.get("href", "")
        # Older documents name the filters in any order.
        self._is_ordered = "version" in root.attributes
        self._measure("/", root)

    def _measure(self, path: str, group: Element) -> None:
        """Note the dimensions of *group* and of those below."""
        for dimension in group.named("Dimension"):
            name = dimension.attributes.get("name", "")
            self._lengths[_below(path, name)] = _whole(dimension.attributes.get("size"))
        for inner in group.named("Group"):
            self._measure(_below(path, inner.attributes.get("name", "")), inner)

    def group(self, path: str, group: Element) -> None:
        """Add *group* and all below it."""
        attributes = _attributes(group)
        own = attributes.pop(_GLOBAL, None)
        if isinstance(own, dict):
            attributes = {**own, **attributes}
        self._to.group(path, attributes)
        for child in group.children:
            inner = _below(path, child.attributes.get("name", ""))
            if child.is_storage:
                continue
            try:
                if child.name == "Group":
                    self.group(inner, child)
                elif child.name in _TYPES or child.name in _TEXTS:
                    self._variable(inner, child)
                elif child.name in _OTHERS:
                    self._to.omit(inner, f"it is of the type {child.name}, which is not shown")
            except Unpresentable as why:
                self._to.drop(inner, str(why))

    def _variable(self, path: str, variable: Element) -> None:
        texts = variable.storage("vlsa")
        if texts is not None:
            self._texts(path, variable, texts)
            return
        chunks = variable.storage("chunks")
        dtype = _data_type(variable, chunks)
        shape, axes = self._dimensions(variable)
        kept = _kept(variable, dtype, shape)
        if kept is not None:
            array = self._array(path, variable, dtype, shape, axes, shape)
            if math.prod(shape):
                array.inline((0,) * len(shape), kept)
            return
        holder = chunks if chunks is not None else variable
        if next(holder.named("block", is_storage=True), None) is not None:
            raise Unpresentable("its chunks are scattered over blocks")
        listed = list(holder.named("chunk", is_storage=True))
        if chunks is None and not listed:
            raise Unpresentable("the document does not say where its data are")
        filters = self._filters(chunks, dtype)
        sizes = None if chunks is None else chunks.storage("chunkDimensionSizes")
        if sizes is None:
            self._whole(path, variable, dtype, shape, axes, listed, filters)
            return
        edges = tuple(_whole(word) for word in sizes.text.split())
        if len(edges) != len(shape) or 0 in edges:
            raise Unpresentable("its chunks have another number of dimensions, or no size")
        self._check(listed)
        grid = [-(-n // edge) for n, edge in zip(shape, edges, strict=True)]
        found = {_position(chunk, edges, grid): chunk for chunk in listed}
        fill = self._fill(chunks, dtype, is_needed=len(found) < math.prod(grid))
        array = self._array(path, variable, dtype, shape, axes, edges, filters, fill)
        nbytes = math.prod(edges) * dtype.itemsize
        for coords, chunk in found.items():
            offset, length = _place(chunk)
            if not filters and length != nbytes:
                raise Unpresentable(f"a chunk of it has {length} bytes, not {nbytes}")
            array.virtual(coords, offset, length)

    def _whole(
        self,
        path: str,
        variable: Element,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        axes: Sequence[str | None] | None,
        listed: list[Element],
        filters: list[Mapping[str, object]],
    ) -> None:
        """Add a variable that lies in one piece."""
        self._check(listed)
        if len(listed) > 1:
            raise Unpresentable("it has chunks, and does not say of which size")
        nbytes = math.prod(shape) * dtype.itemsize
        places = [place for chunk in listed if (place := _place(chunk))[1]]
        fill = self._fill(variable.storage("chunks"), dtype, is_needed=bool(nbytes and not places))
        chunk_shape = shape if filters else pieces(shape, dtype.itemsize)
        array = self._array(path, variable, dtype, shape, axes, chunk_shape, filters, fill)
        for offset, length in places if nbytes else ():
            if filters:
                array.virtual((0,) * len(shape), offset, length)
                continue
            if length != nbytes:
                raise Unpresentable(f"it has {length} bytes of data, not {nbytes}")
            step = math.prod(chunk_shape) * dtype.itemsize
            numbers = np.arange(nbytes // step)
            array.run(numbers, offset + numbers * step, np.full(len(numbers), step))

    def _check(self, listed: list[Element]) -> None:
        """Raise Unpresentable if some chunks are not like others, or elsewhere."""
        for chunk in listed:
            if chunk.attributes.get("href", self._href) != self._href:
                raise Unpresentable("its chunks are in other files")
            mask = chunk.attributes.get("fm", chunk.attributes.get("filterMask", "0"))
            if mask not in ("0", ""):
                raise Unpresentable("some of its chunks were not filtered as the others")
            if "LinkedBlockIndex" in chunk.attributes:
                raise Unpresentable("its chunks are scattered over blocks")

    def _filters(self, chunks: Element | None, dtype: np.dtype[Any]) -> list[Mapping[str, object]]:
        names = [] if chunks is None else chunks.attributes.get("compressionType", "").split()
        if not self._is_ordered:
            if "fletcher32" in names or len(names) != len(set(names)):
                raise Unpresentable("the document does not say in which order it was filtered")
            names.sort(key=lambda name: name != "shuffle")
        found: list[Mapping[str, object]] = []
        for name in names:
            match name:
                case "deflate":
                    found.append({"name": "numcodecs.zlib", "configuration": {"level": 6}})
                case "shuffle":
                    words = {"elementsize": dtype.itemsize}
                    found.append({"name": "numcodecs.shuffle", "configuration": words})
                case "fletcher32":
                    found.append({"name": "numcodecs.fletcher32", "configuration": {}})
                case _:
                    raise Unpresentable(f"it was filtered by {name[:40]}, which is not known")
        return found

    def _fill(self, chunks: Element | None, dtype: np.dtype[Any], *, is_needed: bool) -> object:
        """Return what chunks that are not there hold, None if that is not said and does not matter."""
        text = None if chunks is None else chunks.attributes.get("fillValue")
        found = None if text is None else _number(text, dtype)
        if found is None and is_needed:
            raise Unpresentable("it lacks chunks, and the document does not say what they hold")
        return found

    def _array(
        self,
        path: str,
        variable: Element,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        axes: Sequence[str | None] | None,
        chunk_shape: tuple[int, ...],
        filters: Sequence[Mapping[str, object]] = (),
        fill: object = None,
    ) -> ArrayBuilder:
        attributes = _attributes(variable)
        missing = attributes.pop(FILL_ATTRIBUTE, None)
        if missing is not None:
            marked = fill_attribute(missing, dtype) if isinstance(missing, int | float) else None
            attributes |= {} if marked is None else {FILL_ATTRIBUTE: marked}
        return self._to.array(
            path,
            ArrayDescription(
                shape=shape,
                chunk_shape=[max(n, 1) for n in chunk_shape],
                data_type=data_type(dtype),
                fill_value=fill_value(fill, dtype),
                codecs=[bytes_codec(dtype), *filters],
                attributes=attributes,
                dimension_names=axes,
            ),
        )

    def _dimensions(self, variable: Element) -> tuple[tuple[int, ...], Sequence[str | None] | None]:
        shape, names = [], []
        for dimension in variable.named("Dim"):
            name, size = dimension.attributes.get("name"), dimension.attributes.get("size")
            if size is None and name not in self._lengths:
                raise Unpresentable(f"the length of its dimension {name} is not said")
            shape.append(_whole(size) if size is not None else self._lengths[name or ""])
            names.append(None if name is None else name.rpartition("/")[2])
        if len(shape) > MAX_NDIM:
            raise Unpresentable(f"it has {len(shape)} dimensions")
        return tuple(shape), None if all(name is None for name in names) else names

    def _texts(self, path: str, variable: Element, texts: Element) -> None:
        """Add texts of any length, which the document has in itself."""
        shape, axes = self._dimensions(variable)
        count = math.prod(shape)
        found: list[bytes] = []
        for value in texts.children:
            times = _whole(value.attributes.get("c", "1"))
            if len(found) + times > min(count, MAX_INLINE):
                raise Unpresentable("it has another number of texts than its dimensions say")
            text = value.text.encode()
            if "s" in value.attributes:
                text = _inflated(_decoded(value.text), _whole(value.attributes["s"]))
            found += [text] * times
        if len(found) != count:
            raise Unpresentable("it has another number of texts than its dimensions say")
        array = self._to.array(
            path,
            ArrayDescription(
                shape=shape,
                chunk_shape=[max(n, 1) for n in shape],
                data_type="string",
                fill_value="",
                codecs=[{"name": "vlen-utf8"}],
                attributes=_attributes(variable),
                dimension_names=axes,
            ),
        )
        if count:
            packed = b"".join(struct.pack("<I", len(text)) + text for text in found)
            array.inline((0,) * len(shape), struct.pack("<I", count) + packed)


def _below(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


def _whole(text: str | None) -> int:
    if text is None or not text.strip().isascii() or not text.strip().isdigit() or len(text) > 19:
        raise Unpresentable("the document has no number where there should be one")
    return int(text)


def _data_type(variable: Element, chunks: Element | None) -> np.dtype[Any]:
    if variable.name in _TEXTS:
        fixed = variable.storage("FixedLengthStringArray")
        if fixed is None:
            raise Unpresentable("its texts are of variable length, and not in the document")
        length = _whole(fixed.attributes.get("string_length"))
        if not 0 < length <= MAX_STRING:
            raise Unpresentable(f"its texts have {length} bytes")
        return np.dtype(f"S{length}")
    dtype = np.dtype(_TYPES[variable.name])
    order = None if chunks is None else chunks.attributes.get("byteOrder")
    if order not in (None, "LE", "BE"):
        raise Unpresentable("its order of bytes is not known")
    # What is not said is that of the machines that such documents are for.
    return dtype.newbyteorder(">" if order == "BE" else "<")


def _kept(variable: Element, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes | None:
    """Return the data of *variable* that the document has in itself, None if it has none."""
    nbytes = math.prod(shape) * dtype.itemsize
    compact, missing = variable.storage("compact"), variable.storage("missingdata")
    holder = compact if compact is not None else missing
    if holder is None:
        if variable.storage("specialstructuredata") is not None:
            raise Unpresentable("its data are in the document in a way that is not known")
        return None
    if nbytes > MAX_INLINE:
        raise Unpresentable(f"it has more than {MAX_INLINE} bytes in the document")
    data = _decoded(holder.text)
    if holder is missing and len(data) != nbytes:
        data = _inflated(data, nbytes)
    if len(data) != nbytes:
        raise Unpresentable(f"it has {len(data)} bytes in the document, not {nbytes}")
    return data


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Unpresentable("its data in the document are no base64") from None


def _inflated(data: bytes, length: int) -> bytes:
    if length > MAX_INLINE:
        raise Unpresentable(f"it has more than {MAX_INLINE} bytes in the document")
    try:
        made = zlib.decompressobj().decompress(data, length + 1)
    except zlib.error:
        raise Unpresentable("its data in the document cannot be decompressed") from None
    if len(made) != length:
        raise Unpresentable("it has another number of bytes in the document than it says")
    return made


def _place(chunk: Element) -> tuple[int, int]:
    return _whole(chunk.attributes.get("offset")), _whole(chunk.attributes.get("nBytes"))


def _position(chunk: Element, edges: Sequence[int], grid: Sequence[int]) -> tuple[int, ...]:
    """Return where in the grid a chunk is."""
    text = chunk.attributes.get("chunkPositionInArray", "")
    words = text.strip().strip("[]").replace(",", " ").split()
    if not words and math.prod(grid) == 1:
        return (0,) * len(edges)
    if len(words) != len(edges):
        raise Unpresentable("the document does not say where a chunk of it belongs")
    coords = []
    for word, edge, count in zip(words, edges, grid, strict=True):
        at, rest = divmod(_whole(word), edge)
        if rest or at >= count:
            raise Unpresentable("it has a chunk that is beside the grid of its chunks")
        coords.append(at)
    return tuple(coords)


def _number(text: str, dtype: np.dtype[Any]) -> object:
    """Return the value of that type that *text* says, None if it says none."""
    try:
        match dtype.kind:
            case "S":
                return np.array(text.encode(), dtype)[()]
            case "f":
                return np.array(float(text), dtype)[()]
        number = int(text) if text.strip().lstrip("+-").isdigit() else int(float(text))
        limits = np.iinfo(dtype)
    except (ValueError, OverflowError):
        return None
    return np.array(number, dtype)[()] if limits.min <= number <= limits.max else None


def _attributes(holder: Element) -> dict[str, Any]:
    """Return the attributes of a variable or group; a container is a mapping."""
    found: dict[str, Any] = {}
    for attribute in holder.named("Attribute"):
        name, kind = attribute.attributes.get("name", ""), attribute.attributes.get("type", "")
        if kind == "Container":
            if name != _OWN:
                found[name] = _attributes(attribute)
            continue
        values = [_attribute(value, kind) for value in attribute.named("Value")]
        found[name] = values[0] if len(values) == 1 else values
    return found


def _attribute(value: Element, kind: str) -> object:
    text = value.attributes.get("value", value.text)
    try:
        if kind.startswith("Float"):
            return math.nan if text == "*" else float(text)
        if kind in _TYPES:
            return int(text)
    except ValueError:
        return text
    return text
