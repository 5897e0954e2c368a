"""The layout of an array, as its `zarr.json` gives it."""

import itertools
import json
import math

import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from vzfs.formats.zarr import parse_array_document
from vzfs.model.chunkgrid import ChunkKeyEncoding, KeyStyle


def document(**changes: object) -> bytes:
    fields = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [10, 7],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 7]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [],
    }
    return json.dumps(fields | changes).encode()


def rectilinear(*chunk_shapes: object) -> dict[str, object]:
    return {
        "name": "rectilinear",
        "configuration": {"kind": "inline", "chunk_shapes": list(chunk_shapes)},
    }


def test_regular_grid_counts_partial_chunks() -> None:
    """A regular grid has as many chunks as cover the shape, the last one perhaps in part."""
    layout = parse_array_document(document())
    assert layout.grid.shape == (3, 1)
    assert layout.grid.max_chunk_nbytes == 4 * 7 * 4
    assert layout.problem == ""


def test_dimension_of_length_zero_has_no_chunks() -> None:
    """A dimension of length 0 has no chunks, and the array neither."""
    assert parse_array_document(document(shape=[0, 7])).grid.shape == (0, 1)


def test_array_without_dimensions_has_one_chunk() -> None:
    """A 0-d array has one chunk, of one element."""
    grid = {"name": "regular", "configuration": {"chunk_shape": []}}
    layout = parse_array_document(document(shape=[], chunk_grid=grid))
    assert layout.grid.shape == ()
    assert layout.grid.size == 1
    assert layout.grid.max_chunk_nbytes == 4


@pytest.mark.parametrize(
    ("value", "style", "separator"),
    [
        ({"name": "default"}, KeyStyle.DEFAULT, "/"),
        ("default", KeyStyle.DEFAULT, "/"),
        ({"name": "default", "configuration": {"separator": "."}}, KeyStyle.DEFAULT, "."),
        ({"name": "v2"}, KeyStyle.V2, "."),
        ({"name": "v2", "configuration": {"separator": "/"}}, KeyStyle.V2, "/"),
    ],
)
def test_key_encodings_and_their_default_separators(value, style, separator) -> None:
    """Default keys are separated by '/', v2 keys by '.', unless the document says otherwise."""
    layout = parse_array_document(document(chunk_key_encoding=value))
    assert layout.key_encoding == ChunkKeyEncoding(style, separator)
    assert layout.problem == ""


@pytest.mark.parametrize(
    ("shapes", "extents", "counts", "longest"),
    [
        ([[10, 20, 5], 4], [35, 9], (3, 3), 20 * 4),
        ([[[10, 3], 5], [[2, 2]]], [35, 4], (4, 2), 10 * 2),
        ([[5, 5, 5, 5], 1], [11, 0], (3, 0), 5),
        ([[[7, 10**18]], 1], [15, 1], (3, 1), 7),
    ],
)
def test_rectilinear_grid_counts_chunks_that_begin_inside(shapes, extents, counts, longest) -> None:
    """A rectilinear grid counts the edges, run-length encoded or not, up to the array's shape."""
    layout = parse_array_document(document(shape=extents, chunk_grid=rectilinear(*shapes)))
    assert layout.problem == ""
    assert layout.grid.shape == counts
    assert layout.grid.max_chunk_nbytes == longest * 4


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3)),
        min_size=1,
        max_size=3,
    )
)
def test_rectilinear_grid_agrees_with_zarr_python(dimensions) -> None:
    """A rectilinear document that zarr-python writes has the grid that zarr-python gives it."""
    shape = tuple(max(sum(edges) - cut, 0) for edges, cut in dimensions)
    with zarr.config.set({"array.rectilinear_chunks": True}):
        metadata = zarr.core.metadata.v3.RectilinearChunkGridMetadata(
            chunk_shapes=tuple(tuple(edges) for edges, _ in dimensions)
        )
    expected = tuple(
        sum(1 for start in itertools.accumulate([0, *edges[:-1]]) if start < extent)
        for (edges, _), extent in zip(dimensions, shape, strict=True)
    )
    written = document(shape=list(shape), chunk_grid=metadata.to_dict())
    layout = parse_array_document(written)
    assert layout.problem == ""
    assert layout.grid.shape == expected
    longest = math.prod(max(edges) for edges, _ in dimensions)
    assert layout.grid.max_chunk_nbytes == 4 * longest


@pytest.mark.parametrize(
    ("data_type", "nbytes"),
    [
        ("bool", 1),
        ("int8", 1),
        ("uint64", 8),
        ("float16", 2),
        ("complex128", 16),
        ("r24", 3),
        ("float8_e4m3fn", 1),
        ("bfloat16", 2),
        ({"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 1}}, 8),
        ({"name": "fixed_length_utf32", "configuration": {"length_bytes": 40}}, 40),
        ({"name": "structured", "configuration": {"fields": [["a", "int8"], ["b", "r16"]]}}, 3),
        (
            {
                "name": "struct",
                "configuration": {"fields": [{"name": "a", "data_type": "float64"}]},
            },
            8,
        ),
    ],
)
def test_largest_chunk_follows_from_data_type(data_type, nbytes) -> None:
    """A chunk's decoded size is that of its elements times their number."""
    assert parse_array_document(document(data_type=data_type)).grid.max_chunk_nbytes == 28 * nbytes


@pytest.mark.parametrize(
    "data_type",
    ["string", "variable_length_bytes", "of the future", None, {"name": 3}, ["int8"]],
)
def test_unknown_element_size_is_no_problem(data_type) -> None:
    """Elements of variable or unknown size leave the chunk at least one byte, and no problem."""
    layout = parse_array_document(document(data_type=data_type))
    assert layout.grid.max_chunk_nbytes == 1
    assert layout.problem == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_grid": {"name": "hexagonal"}}, "'hexagonal' is unknown"),
        ({"chunk_key_encoding": {"name": "suffix"}}, "'suffix' is unknown"),
        ({"chunk_key_encoding": None}, "malformed chunk_key_encoding"),
        (
            {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "-"}}},
            "separator",
        ),
        ({"shape": [10]}, "differ in dimensions"),
        ({"shape": [10, -1]}, "malformed shape"),
        ({"shape": [10, True]}, "malformed shape"),
        ({"shape": [10, 2**70]}, "malformed shape"),
        ({"shape": "10"}, "malformed shape"),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 1]}}},
            "malformed chunk_shape",
        ),
        ({"chunk_grid": rectilinear([3, 3], 7)}, "do not cover"),
        ({"chunk_grid": rectilinear([[3, 0]], 7)}, "malformed chunk_shapes"),
        ({"chunk_grid": rectilinear([[3, 1, 2]], 7)}, "malformed chunk_shapes"),
        ({"chunk_grid": {"name": "rectilinear", "configuration": {}}}, "kind"),
        ({"zarr_format": 2}, "Zarr v3 array"),
        ({"node_type": "group"}, "Zarr v3 array"),
        ({"shape": [0] * 65}, "more than 64 dimensions"),
    ],
)
def test_what_cannot_be_named_is_a_problem_and_keeps_the_fallback(changes, words) -> None:
    """A document that does not say how chunks are named sets the problem and keeps the given grid."""
    layout = parse_array_document(document(**changes), (2, 5))
    assert words in layout.problem
    assert layout.grid.shape == (2, 5)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"shape": ' + b"9" * 5000 + b"}",
        b" " * (2**24 + 1),
    ],
)
def test_document_that_is_not_json_is_a_problem(raw) -> None:
    """A document that is not JSON, or is JSON to exhaust a parser, is a problem and no exception."""
    layout = parse_array_document(raw, (3,))
    assert layout.problem
    assert layout.grid.shape == (3,)


def test_contradicting_dimensions_are_a_problem() -> None:
    """The repository and the document must agree on the number of dimensions."""
    assert (
        "2 dimensions and the repository 3" in parse_array_document(document(), (1, 1, 1)).problem
    )


def test_grid_beyond_64_bits_is_a_problem() -> None:
    """A grid with more chunks than a flat index can number is a problem."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}
    layout = parse_array_document(document(shape=[2**40, 2**40], chunk_grid=grid))
    assert "64 bits" in layout.problem


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    ),
    st.sampled_from(["shape", "data_type", "chunk_grid", "chunk_key_encoding", "zarr_format"]),
)
def test_any_value_anywhere_gives_a_layout(value, name) -> None:
    """Whatever JSON stands where, parsing gives a layout whose grid is sane."""
    grid = parse_array_document(document(**{name: value})).grid
    assert grid.max_chunk_nbytes >= 1
    assert all(n >= 0 for n in grid.shape)
