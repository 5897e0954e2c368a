"""What an array's document says that matters to joining, and how two of them differ. Pure."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from vzfs.formats.zarr import parse_array_document
from vzfs.joining.refusal import JoinError
from vzfs.model.references import array_id, whole
from vzfs.model.snapshot import Array
from vzfs.views import v3
from vzfs.views.codecs import Codec, normalize
from vzfs.views.metadata import ArrayMetadata, Unsaid, canonical, dump, read_v3_array

MEANING: Final = (
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "units", "calendar",
    "valid_min", "valid_max", "valid_range", "flag_values", "flag_masks", "flag_meanings",
    "standard_name", "positive", "grid_mapping", "formula_terms", "compress", "dtype",
)  # fmt: skip
"""Attributes that say what the values are. In all others that of the first file stands for all."""

TIME: Final = frozenset({"units", "calendar"})
"""Attributes whose difference an exact conversion may mend."""

_SELF_DESCRIBING: Final = frozenset({"blosc", "gzip", "zstd", "numcodecs.zlib", "numcodecs.bz2"})
"""Codecs whose bytes say all that it takes to decode them: settings say how they were made."""


class Difference(NamedTuple):
    """How two arrays differ. *is_of_layout*: values are not concerned, only how chunks have them."""

    what: str
    is_of_layout: bool = False


class Documents:
    """Reads documents, each once: thousands of files say the same."""

    def __init__(self) -> None:
        self._known: dict[bytes, ArrayMetadata] = {}

    def of(self, array: Array, where: str) -> ArrayMetadata:
        """Return what *array*, of the file *where*, says. Raises JoinError."""
        document = array.documents.get(v3.DOCUMENT, b"")
        found = self._known.get(document)
        if found is None:
            problem = array.problem
            try:
                found = read_v3_array(document)
            except Unsaid as why:
                problem = problem or str(why)
            if found is None or problem:
                raise JoinError(f"{array.path} cannot be joined: {problem}", where=where)
            self._known[document] = found
        return found


def axis_of(metadata: ArrayMetadata, dimension: str) -> int | None:
    """Return which axis of an array is *dimension*, None if it has no such."""
    names = metadata.dimension_names or ()
    return names.index(dimension) if dimension in names else None


def difference(
    first: ArrayMetadata, other: ArrayMetadata, axis: int | None, *, of_time: bool = False
) -> Difference | None:
    """Return what keeps two arrays from being one along *axis* (None: from being the same), None if nothing does.

    The lengths of arrays and chunks along *axis* are not compared, nor with *of_time* what `TIME`
    names.
    """
    if first.data_type.words != other.data_type.words:
        return Difference(_both("data type", first.data_type.words, other.data_type.words))
    if first.dimension_names != other.dimension_names or len(first.shape) != len(other.shape):
        return Difference(_both("dimensions", first.dimension_names, other.dimension_names))
    if _without(first.shape, axis) != _without(other.shape, axis):
        return Difference(_both("shape", list(first.shape), list(other.shape)))
    for name in MEANING:
        if of_time and name in TIME:
            continue
        one, two = first.attributes.get(name), other.attributes.get(name)
        if one != two or type(one) is not type(two):
            return Difference(_both(f"attribute {name}", one, two))
    if _without(first.chunk_shape, axis) != _without(other.chunk_shape, axis):
        what = _both("chunks", list(first.chunk_shape), list(other.chunk_shape))
        return Difference(what, is_of_layout=True)
    if first.fields["codecs"] != other.fields["codecs"] and _essence(first) != _essence(other):
        return Difference(_both("codecs", _names(first), _names(other)), is_of_layout=True)
    if canonical(first.fill_value) != canonical(other.fill_value):
        what = _both("fill value", first.fill_value, other.fill_value)
        return Difference(what, is_of_layout=True)
    return None


def _both(what: str, one: object, two: object) -> str:
    return f"{what} {_short(one)} and {_short(two)}"


def _short(value: object) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _without(lengths: Sequence[int], axis: int | None) -> list[int]:
    return [n for i, n in enumerate(lengths) if i != axis]


def _names(metadata: ArrayMetadata) -> str:
    return ", ".join(codec.name for codec in metadata.codecs)


def _essence(metadata: ArrayMetadata) -> bytes:
    """Return what decides how bytes are decoded, the same for codecs that decode alike."""
    return canonical([_essential(c) for c in normalize(metadata.codecs, metadata.data_type)])


def _essential(codec: Codec) -> object:
    return codec.name if codec.name in _SELF_DESCRIBING else [codec.name, dict(codec.configuration)]


@functools.cache
def _key_encoding() -> Mapping[str, Any]:
    return {"name": "default", "configuration": {"separator": "/"}}


def changed(path: str, metadata: ArrayMetadata, where: str, **fields: object) -> Array:
    """Return the array at *path* that *metadata* describes, but for *fields* of its document.

    Its chunks have the keys of Zarr v3. Raises JoinError if there can be no such array.
    """
    document = dump({**metadata.fields, "chunk_key_encoding": _key_encoding(), **fields})
    layout = parse_array_document(document)
    if layout.problem:
        raise JoinError(f"{path} cannot be joined: {layout.problem}", where=where)
    return Array(
        path=path,
        documents={v3.DOCUMENT: document},
        id=array_id(path),
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=whole(path, layout.grid),
        shard_index=layout.shard_index,
    )


def grid_of(chunk_shape: Sequence[int]) -> Mapping[str, Any]:
    """Return the words of a regular chunk grid."""
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}
