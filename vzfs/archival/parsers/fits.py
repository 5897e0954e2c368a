"""FITS: an array for each image and each binary table, in their own order of bytes.

The headers are read here, from the standard. An image is cut into chunks of equal size. A table is an
array of structures, a row each; a column with several values in a row is as many fields. What the
values stand for is said by attributes: all cards of the header, and for images what xarray scales and
masks by. An extension is called by its EXTNAME, the first array `PRIMARY`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import numpy as np

from vzfs.archival.building import ArrayDescription, HierarchyBuilder, Unpresentable
from vzfs.archival.parsers.axes import Axes
from vzfs.archival.words import (
    FILL_ATTRIBUTE,
    bytes_codec,
    data_type,
    fill_attribute,
    fill_value,
    pieces,
)

MAX_UNITS: Final = 16384
"""Header and data units of a file."""
MAX_HEADER: Final = 2**22
MAX_FIELDS: Final = 1000
"""Fields of a row of a table."""
MAX_AXES: Final = 32

_BLOCK, _CARD = 2880, 80
_TYPES: Final = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_COLUMNS: Final = {
    "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16",
    "L": "S1",
}  # fmt: skip
_FORM: Final = re.compile(r"([0-9]{0,9})([LXBIJKAEDCMPQ])")
_STRUCTURE: Final = frozenset({"SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "END"})
_REPEATED: Final = frozenset({"COMMENT", "HISTORY", ""})
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[EDed][+-]?[0-9]+)?\Z")

type Cards = Mapping[str, Any]


def parse(file: BinaryIO, size: int, to: HierarchyBuilder) -> None:
    """Say what the FITS *file* holds. Raises Unpresentable if it is none."""
    parser = _Parser(to)
    offset = 0
    for number in range(MAX_UNITS):
        try:
            cards, begin = _header(file, offset, size)
            nbytes = _data_size(cards)
        except Unpresentable as why:
            if not number:
                raise
            to.omit(f"/HDU{number}", f"the file cannot be read from byte {offset} on: {why}")
            return
        parser.add(number, cards, begin, size)
        offset = begin + -(-nbytes // _BLOCK) * _BLOCK
        if offset >= size:
            return
    to.omit(f"/HDU{MAX_UNITS}", f"the file has more than {MAX_UNITS} parts")


class _Parser:
    def __init__(self, to: HierarchyBuilder) -> None:
        self._to = to
        self._axes = Axes()
        self._names: set[str] = set()

    def add(self, number: int, cards: Cards, begin: int, size: int) -> None:
        """Add the array whose data *begin* there, in a file of *size* bytes."""
        path = "/" + self._name(number, cards)
        if not number and (cards.get("NAXIS") == 0 or cards.get("GROUPS") is True):
            self._to.group("/", _attributes(cards))
        try:
            self._add(path, cards, begin, size)
        except Unpresentable as why:
            self._to.drop(path, str(why))

    def _add(self, path: str, cards: Cards, begin: int, size: int) -> None:
        if cards.get("GROUPS") is True:
            raise Unpresentable("it has random groups")
        match _text(cards.get("XTENSION", "IMAGE")):
            case "IMAGE" | "IUEIMAGE":
                if cards.get("NAXIS"):
                    self._image(path, cards, begin, size)
            case "BINTABLE" | "A3DTABLE":
                self._table(path, cards, begin, size)
            case kind:
                raise Unpresentable(f"it is an extension of the kind {kind[:40]}")

    def _name(self, number: int, cards: Cards) -> str:
        name = _text(cards.get("EXTNAME", "")).replace("/", "_") or f"HDU{number}"
        if not number:
            name = "PRIMARY"
        if name in (".", "..") or name.startswith("__") or name in self._names:
            name = f"{name.strip('.')}_{number}"
        self._names.add(name)
        return name

    def _image(self, path: str, cards: Cards, begin: int, size: int) -> None:
        shape = _shape(cards)
        dtype = np.dtype(_TYPES[_whole(cards, "BITPIX")])
        attributes = _attributes(cards)
        for name, key, plain in (("scale_factor", "BSCALE", 1), ("add_offset", "BZERO", 0)):
            value = cards.get(key, plain)
            if isinstance(value, int | float) and value != plain:
                attributes[name] = value
        blank = cards.get("BLANK")
        if isinstance(blank, int) and dtype.kind in "iu":
            marked = fill_attribute(blank, dtype)
            if marked is not None:
                attributes[FILL_ATTRIBUTE] = marked
        axes = [f"NAXIS{len(shape) - i}" for i in range(len(shape))]
        self._contiguous(path, shape, dtype, attributes, axes, begin, size)

    def _table(self, path: str, cards: Cards, begin: int, size: int) -> None:
        if cards.get("ZIMAGE") is True:
            raise Unpresentable("it is a compressed image, whose tiles are in a table")
        shape = _shape(cards)
        dtype = _row(cards)
        if len(shape) != 2:
            raise Unpresentable(f"it is a table of {len(shape)} axes")
        if dtype.itemsize != shape[1]:
            raise Unpresentable(f"its rows have {shape[1]} bytes, and its columns {dtype.itemsize}")
        self._contiguous(path, shape[:1], dtype, _attributes(cards), ["row"], begin, size)

    def _contiguous(
        self,
        path: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        attributes: Mapping[str, object],
        axes: list[str],
        begin: int,
        size: int,
    ) -> None:
        nbytes = math.prod(shape) * dtype.itemsize
        if begin + nbytes > size:
            raise Unpresentable("the file ends before its data do")
        chunk = pieces(shape, dtype.itemsize)
        array = self._to.array(
            path,
            ArrayDescription(
                shape=shape,
                chunk_shape=chunk,
                data_type=data_type(dtype),
                fill_value=fill_value(None, dtype),
                codecs=[bytes_codec(dtype)],
                attributes=attributes,
                dimension_names=self._axes.names(axes, shape, path[1:]),
            ),
        )
        step = math.prod(chunk) * dtype.itemsize
        count = nbytes // step
        array.run(np.arange(count), begin + np.arange(count) * step, np.full(count, step))


# -- headers ---------------------------------------------------------------------------------------


def _header(file: BinaryIO, offset: int, size: int) -> tuple[Cards, int]:
    """Return the cards of the header at *offset*, and where the data behind it begin."""
    cards: dict[str, Any] = {}
    begin = offset
    last = ""
    while begin < min(size, offset + MAX_HEADER):
        file.seek(begin)
        block = file.read(_BLOCK)
        if len(block) != _BLOCK:
            break
        begin += _BLOCK
        for at in range(0, _BLOCK, _CARD):
            card = block[at : at + _CARD].decode("latin-1")
            if not at and begin == offset + _BLOCK:
                _check_first(card, is_first=not offset)
            if card.rstrip() == "END":
                return cards, begin
            last = _add(cards, card, last)
    raise Unpresentable("its header does not end")


def _check_first(card: str, *, is_first: bool) -> None:
    wanted = "SIMPLE  = " if is_first else "XTENSION= "
    if not card.startswith(wanted):
        raise Unpresentable(f"it does not begin with {wanted.split('=')[0].strip()}")


def _add(cards: dict[str, Any], card: str, last: str) -> str:
    """Add what *card* says to *cards*; return its keyword. A long text goes on in the next card."""
    name, rest = card[:8].rstrip(), card[8:]
    if name == "CONTINUE" and isinstance(cards.get(last), str) and cards[last].endswith("&"):
        more = _value(rest)
        if isinstance(more, str):
            cards[last] = cards[last][:-1] + more
        return last
    if name == "HIERARCH" and "=" in rest:
        name, _, rest = rest.partition("=")
        name, rest = name.strip(), "= " + rest
    if name in _REPEATED:
        if card.strip():
            cards.setdefault(name or "COMMENT", []).append(rest.rstrip())
        return name
    if rest.startswith("= "):
        value = _value(rest[2:])
        if value is not None:
            cards.setdefault(name, value)
    return name


def _value(text: str) -> object:
    """Return the value that a card has, None if it has none that is known."""
    text = text.strip()
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        return None if match is None else match[1].replace("''", "'").rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    if not _NUMBER.match(text):
        return None
    if text.lstrip("+-").isdigit():
        return int(text)
    number = float(text.replace("D", "E").replace("d", "e"))
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _whole(cards: Cards, name: str) -> int:
    value = cards.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not -64 <= value < 2**62:
        raise Unpresentable(f"its header has no {name}")
    return value


def _shape(cards: Cards) -> tuple[int, ...]:
    """Return the lengths of the axes, the fastest last."""
    count = _whole(cards, "NAXIS")
    if not 0 <= count <= MAX_AXES:
        raise Unpresentable(f"it has {count} axes")
    shape = tuple(_whole(cards, f"NAXIS{i}") for i in range(count, 0, -1))
    if min(shape, default=0) < 0:
        raise Unpresentable("its header says a negative length")
    return shape


def _data_size(cards: Cards) -> int:
    """Return the bytes of the data behind a header, without what fills their last block."""
    if _whole(cards, "BITPIX") not in _TYPES:
        raise Unpresentable(f"its elements have {cards['BITPIX']} bits")
    shape = _shape(cards)
    if not shape:
        return 0
    if cards.get("GROUPS") is True:
        shape = shape[:-1]
    beside = cards.get("PCOUNT", 0)
    groups = cards.get("GCOUNT", 1)
    if not (isinstance(beside, int) and isinstance(groups, int)) or min(beside, groups) < 0:
        raise Unpresentable("its header does not say how long its data are")
    return abs(cards["BITPIX"]) // 8 * groups * (beside + math.prod(shape))  # type: ignore[no-any-return]


def _attributes(cards: Cards) -> dict[str, object]:
    return {
        name: value
        for name, value in cards.items()
        if name not in _STRUCTURE and not re.fullmatch(r"NAXIS[0-9]+", name)
    }


def _row(cards: Cards) -> np.dtype[Any]:
    """Return the data type of a row of a table."""
    count = _whole(cards, "TFIELDS")
    if not 0 < count <= MAX_FIELDS:
        raise Unpresentable(f"it is a table of {count} columns")
    fields: list[tuple[str, str]] = []
    taken: set[str] = set()
    for number in range(1, count + 1):
        name = _text(cards.get(f"TTYPE{number}", "")) or f"column{number}"
        match = _FORM.match(_text(cards.get(f"TFORM{number}", "")))
        if match is None:
            raise Unpresentable(f"its column {name} is of a form that is not known")
        repeat, kind = int(match[1] or 1), match[2]
        if kind in "PQ":
            raise Unpresentable(f"its column {name} has values of variable length")
        if not repeat:
            continue
        if name in taken:
            name = f"{name}_{number}"
        taken.add(name)
        if kind in "AX":
            fields.append((name, f"S{repeat}" if kind == "A" else f"V{-(-repeat // 8)}"))
        elif repeat == 1:
            fields.append((name, _COLUMNS[kind]))
        else:
            if len(fields) + repeat > MAX_FIELDS:
                raise Unpresentable(f"its column {name} has {repeat} values in a row")
            fields += [(f"{name}[{i}]", _COLUMNS[kind]) for i in range(repeat)]
    if not fields or len(fields) > MAX_FIELDS:
        raise Unpresentable("it is a table without columns, or with too many")
    try:
        return np.dtype(fields)
    except ValueError:
        raise Unpresentable("two of its columns have one name") from None
