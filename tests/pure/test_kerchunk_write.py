"""References in kerchunk's words: readers of JSON and of Parquet find what was written."""

import base64
import io
import json

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vzfs.formats.kerchunk import write
from vzfs.formats.kerchunk.write import RECORD_SIZE, Unwritable, check_raw, json_chunks, url_of
from vzfs.formats.kerchunk.writeparquet import Rows, parquet_file
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import Location, parse_location
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.references import ManifestBuilder


def manifest(refs: dict[int, ChunkRef]) -> Manifest:
    builder = ManifestBuilder()
    for flat, ref in refs.items():
        builder.add(flat, ref)
    return builder.build()


def virtual(location: str, offset: int, length: int) -> ChunkRef:
    return ChunkRef(ChunkKind.VIRTUAL, length, location, offset)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("file:///data/odd%20names/basin%20%231%20100%25.nc", "file:///data/odd names/basin #1 100%.nc"),
        ("s3://bucket/a%20b/%C3%BC", "s3://bucket/a b/ü"),
        ("https://host:8080/a%20b/c", "https://host:8080/a%20b/c"),
        ("gcs://bucket/key", "gs://bucket/key"),
    ],
)  # fmt: skip
def test_locations_are_written_as_fsspec_reads_them(location: str, url: str) -> None:
    """Keys of stores and paths are written verbatim, and those of web servers percent-encoded."""
    assert url_of(parse_location(location)) == url


@pytest.mark.parametrize("key", ["a\udcff", "a::b"])
def test_locations_that_fsspec_cannot_be_given(key: str) -> None:
    """A name that is not UTF-8, or that fsspec would take for a chain, is refused."""
    with pytest.raises(Unwritable):
        url_of(Location("file", "", key))


def written(grid: ChunkGrid, refs: dict[int, ChunkRef], path: str = "a/") -> dict[str, object]:
    made = manifest(refs)
    urls = [f"<{location}>" for location in made.locations]
    pieces = write.json_file({"a/.zarray": b'{"x": "\xc3\xbc"}'}, iter([json_chunks(path, grid, made, urls)]))  # fmt: skip
    found = json.loads(b"".join(pieces))
    assert found.keys() == {"version", "refs"}
    assert found["version"] == 1
    refs_found: dict[str, object] = found["refs"]
    assert refs_found.pop("a/.zarray") == '{"x": "ü"}'
    return refs_found


def test_json_has_all_refs_by_their_keys() -> None:
    """Refs are ranges of objects, and what was inlined is base64; a chunk without a byte is empty text."""
    refs = {
        0: virtual("s3://b/x", 7, 5),
        4: ChunkRef(ChunkKind.INLINE, 3, inline=b"\xff\x00{"),
        5: virtual("s3://b/x", 7, 0),
        11: ChunkRef(ChunkKind.NATIVE, 2**40, "chunks/A", 2**50),
    }

    assert written(ChunkGrid((3, 4)), refs) == {
        "a/0.0": ["<s3://b/x>", 7, 5],
        "a/1.0": "base64:" + base64.b64encode(b"\xff\x00{").decode(),
        "a/1.1": "",
        "a/2.3": ["<chunks/A>", 2**50, 2**40],
    }


def test_json_of_odd_arrays() -> None:
    """An array without dimensions has the key 0, names may have any character, and the root has no name."""
    refs = {0: virtual('s3://b/"', 0, 5)}

    assert written(ChunkGrid(()), refs, 'ü"\\/') == {'ü"\\/0': ['<s3://b/">', 0, 5]}
    assert written(ChunkGrid((1, 1)), refs, "") == {"0.0": ['<s3://b/">', 0, 5]}
    assert written(ChunkGrid((1,)), {}) == {}


def test_json_of_more_rows_than_are_written_at_a_time() -> None:
    """All refs are there, however many pieces they are written in."""
    count = 2 * write.ROWS + 1
    refs = {n: virtual("s3://b/x", 3 * n, 3) for n in range(count)}

    found = written(ChunkGrid((count,)), refs)

    assert len(found) == count
    assert found[f"a/{count - 1}"] == ["<s3://b/x>", 3 * (count - 1), 3]


def test_bytes_that_would_be_decoded_are_refused() -> None:
    """Bytes that begin as fsspec has base64 begin are refused, where they stand as they are."""
    check_raw(manifest({0: ChunkRef(ChunkKind.INLINE, 6, inline=b"base64")}))
    with pytest.raises(Unwritable, match="base64"):
        check_raw(manifest({0: ChunkRef(ChunkKind.INLINE, 9, inline=b"base64:xx")}))


# -- Parquet ---------------------------------------------------------------------------------------

ROWS = st.lists(
    st.none()
    | st.binary(max_size=5)
    | st.tuples(st.integers(0, 40), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(ROWS)
def test_parquet_is_read_by_pyarrow(items: list[bytes | tuple[int, int, int] | None]) -> None:
    """Each row is read as it was written: an object and a range, bytes, or nothing; columns without a value are left out."""
    ranges = [item if isinstance(item, tuple) else (-1, 0, 0) for item in items]
    numbers = sorted({number for number, _, _ in ranges} - {-1})
    rows = Rows(
        np.array([numbers.index(n) if n >= 0 else -1 for n, _, _ in ranges], np.int64),
        [f"s3://b/ü{number}" for number in numbers],
        np.array([offset for _, offset, _ in ranges], np.int64),
        np.array([size for _, _, size in ranges], np.int64),
        [item if isinstance(item, bytes) else None for item in items],
    )

    table = pyarrow.parquet.read_table(io.BytesIO(parquet_file(rows)))

    found = [table[c].to_pylist() if c in table.column_names else [None] * len(items) for c in ("path", "offset", "size", "raw")]  # fmt: skip
    for item, path, offset, size, raw in zip(items, *found, strict=True):
        if isinstance(item, tuple):
            assert (path, offset, size, raw) == (f"s3://b/ü{item[0]}", *item[1:], None)
        else:
            assert (path, offset or 0, size or 0, raw) == (None, 0, 0, item)
    has_path, has_raw = bool(numbers), any(isinstance(item, bytes) for item in items)
    expected = (["path", "offset", "size"] if has_path else []) + (["raw"] if has_raw or not has_path else [])  # fmt: skip
    assert table.column_names == expected


def test_pandas_takes_numbers_for_integers() -> None:
    """Offsets are integers for pandas, and objects text."""
    rows = Rows(np.array([0, 1, 0]), ["a", "b"], np.array([1, 2, 3]), np.array([4, 5, 2**40]), [None] * 3)  # fmt: skip

    frame = pyarrow.parquet.read_table(io.BytesIO(parquet_file(rows))).to_pandas()

    assert frame["size"].dtype == np.int64
    assert frame["path"].tolist() == ["a", "b", "a"]


def test_files_of_parquet_of_an_array() -> None:
    """Each file has its part of the rows, and files without refs are written unless they are very many."""
    refs = {n: virtual("s3://b/x", 0, 1) for n in (0, 1, 2 * RECORD_SIZE)}
    parts = [manifest(refs), manifest({2 * RECORD_SIZE - 1: virtual("s3://b/y", 0, 1)})]

    assert list(write.records(parts, ChunkGrid((3 * RECORD_SIZE,)))) == [
        (0, [slice(0, 2), slice(0, 0)]),
        (1, [slice(2, 2), slice(0, 1)]),
        (2, [slice(2, 3), slice(1, 1)]),
    ]
    assert [n for n, _ in write.records(parts, ChunkGrid((2**60,)))] == [0, 1, 2]
    assert [n for n, _ in write.records([], ChunkGrid((1,)))] == [0]
    assert list(write.records(parts[:0], ChunkGrid((0, 5)))) == []


def test_documents_of_a_folder() -> None:
    """All documents are in one, as they are, with the number of rows of a file."""
    documents = {".zgroup": b'{"zarr_format": 2}', 'a"/.zattrs': '{"ü": NaN}'.encode("utf-16")}

    found = json.loads(b"".join(write.zmetadata(documents)))

    assert found["record_size"] == RECORD_SIZE
    assert found["metadata"][".zgroup"] == {"zarr_format": 2}
    assert list(found["metadata"]['a"/.zattrs']) == ["ü"]
