"""What a metadata document says, in one normal form whatever it was written in.

`ArrayMetadata` and `GroupMetadata` are in the words of Zarr v3. Documents are hostile: what is not
understood raises `Unsaid`, which says why, and nothing else is raised.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from vzfs.formats.zarr import MAX_DOCUMENT, MAX_NDIM
from vzfs.views.codecs import Codec, read_codecs
from vzfs.views.datatypes import DataType, named, read_data_type

MAX_DEPTH: Final = 64
"""Lists and objects within each other. Parsers of readers go no deeper than a hundred or so."""

CONSOLIDATED: Final = "consolidated_metadata"

_MAX_LENGTH: Final = 2**63 - 1
_ARRAY_FIELDS: Final = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "attributes",
        "storage_transformers",
        "dimension_names",
    }
)
_GROUP_FIELDS: Final = frozenset({"zarr_format", "node_type", "attributes", CONSOLIDATED})


class Unsaid(Exception):
    """Why something cannot be said in a view, for people."""


class ArrayMetadata(NamedTuple):
    """An array. *fields* are the whole document in the words of Zarr v3, unknown ones included.

    *is_strict* says that the document is JSON that every parser takes: UTF-8 and without NaN.
    """

    fields: Mapping[str, Any]
    shape: Sequence[int]
    chunk_shape: Sequence[int]
    data_type: DataType
    fill_value: object
    codecs: tuple[Codec, ...]
    attributes: Mapping[str, Any]
    dimension_names: Sequence[str | None] | None
    is_strict: bool

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk; 0 if they vary or are not known."""
        return math.prod(self.chunk_shape) * self.data_type.itemsize


class GroupMetadata(NamedTuple):
    """A group. *fields* are its document without consolidated metadata.

    *is_whole* says that this is all the document has, and *is_strict* what it says of arrays.
    *problem* is "" or says why readers may not take it for a group.
    """

    fields: Mapping[str, Any]
    attributes: Mapping[str, Any]
    is_whole: bool
    is_strict: bool
    problem: str = ""


def read_v3_array(document: bytes) -> ArrayMetadata:
    """Read the `zarr.json` of an array. Raises Unsaid."""
    fields, is_strict = load(document)
    _check_node(fields, "array", _ARRAY_FIELDS)
    shape = lengths(fields.get("shape"), "shape", 0)
    chunk_shape = _chunk_shape(fields.get("chunk_grid"), len(shape))
    codecs = read_codecs(fields.get("codecs"))
    if not codecs:
        raise Unsaid("it has a malformed list of codecs")
    if fields.get("storage_transformers"):
        raise Unsaid("it has storage transformers")
    if "fill_value" not in fields:
        raise Unsaid("it has no fill value")
    return ArrayMetadata(
        fields=fields,
        shape=shape,
        chunk_shape=chunk_shape,
        data_type=read_data_type(fields.get("data_type")),
        fill_value=fields["fill_value"],
        codecs=codecs,
        attributes=_attributes(fields),
        dimension_names=_dimension_names(fields.get("dimension_names"), len(shape)),
        is_strict=is_strict,
    )


def read_v3_group(document: bytes) -> GroupMetadata:
    """Read the `zarr.json` of a group. Raises Unsaid if it is no JSON object."""
    fields, is_strict = load(document)
    is_whole = CONSOLIDATED not in fields
    kept = fields if is_whole else {k: v for k, v in fields.items() if k != CONSOLIDATED}
    attributes: Mapping[str, Any] = {}
    problem = ""
    try:
        attributes = _attributes(fields)
        _check_node(fields, "group", _GROUP_FIELDS)
    except Unsaid as why:
        problem = str(why)
    return GroupMetadata(kept, attributes, is_whole, is_strict, problem)


def dump(value: object) -> bytes:
    """Return *value* as compact JSON, in UTF-8, or in ASCII if it has text that UTF-8 has not.

    Text is not escaped without need: netCDF-C takes an escaped character for its digits.
    """
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def canonical(value: object) -> bytes:
    """Return *value* as JSON that is the same for the same value."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


# -- JSON, strictly bounded ------------------------------------------------------------------------


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _refuse(word: str) -> float:
    raise _NotStrict(word)


class _NotStrict(Exception):
    """There is a word for a number that JSON does not have."""


_STRICT: Final = json.JSONDecoder(parse_float=_number, parse_constant=_refuse)
_LENIENT: Final = json.JSONDecoder(parse_float=_number)


def load(document: bytes) -> tuple[dict[str, Any], bool]:
    """Return the object that *document* is, and whether any parser takes it. Raises Unsaid."""
    if len(document) > MAX_DOCUMENT:
        raise Unsaid(f"its document is larger than {MAX_DOCUMENT} bytes")
    encoding = json.detect_encoding(document)
    is_strict = encoding == "utf-8"
    try:
        text = str(document, encoding)
        try:
            fields = _STRICT.decode(text)
        except _NotStrict:
            fields, is_strict = _LENIENT.decode(text), False
        # Where there are few brackets, none can be deep.
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(fields)
    # Numbers of more than 4300 digits are a ValueError too.
    except (ValueError, RecursionError):
        raise Unsaid("its document is not JSON that can be understood") from None
    if not isinstance(fields, dict):
        raise Unsaid("its document is not a JSON object")
    return fields, is_strict


def _check_depth(value: object) -> None:
    """Raise ValueError if *value* is nested too deeply."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[object] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            if isinstance(children, str | int | float | None):
                continue
            deeper.extend(c for c in children if isinstance(c, dict | list))  # type: ignore[attr-defined]
        if not deeper:
            return
        level = deeper
    raise ValueError("a document is nested too deeply")


def _check_node(fields: Mapping[str, Any], node_type: str, known: frozenset[str]) -> None:
    version = fields.get("zarr_format")
    if type(version) is not int or version != 3 or fields.get("node_type") != node_type:
        raise Unsaid(f"its document does not describe a Zarr v3 {node_type}")
    for name in fields.keys() - known:
        value = fields[name]
        if not isinstance(value, dict) or value.get("must_understand") is not False:
            raise Unsaid(f"its document has the unknown field {name[:40]!r}")


def _attributes(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    attributes = fields.get("attributes", {})
    if not isinstance(attributes, dict):
        raise Unsaid("its attributes are not a JSON object")
    return attributes


def _chunk_shape(grid: object, ndim: int) -> Sequence[int]:
    parts = named(grid)
    if parts is None or parts[0] != "regular":
        raise Unsaid("its chunk grid is not a regular one")
    chunk_shape = lengths(parts[1].get("chunk_shape"), "chunk shape", 1)
    if len(chunk_shape) != ndim:
        raise Unsaid("its shape and its chunk grid differ in dimensions")
    return chunk_shape


def lengths(value: object, what: str, least: int) -> Sequence[int]:
    """Return *value* if it is a list of integers, one for each dimension, none below *least*. Raises Unsaid."""
    if (
        not isinstance(value, list)
        or len(value) > MAX_NDIM
        or not all(type(n) is int and least <= n <= _MAX_LENGTH for n in value)
    ):
        raise Unsaid(f"it has a malformed {what}")
    return value


def _dimension_names(value: object, ndim: int) -> Sequence[str | None] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != ndim
        or not all(name is None or isinstance(name, str) for name in value)
    ):
        raise Unsaid("it has malformed dimension names")
    return value
