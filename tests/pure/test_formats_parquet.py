"""Tables of Parquet files, against what pyarrow reads in them."""

import gzip
import io
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.parquet import table, thrift
from vzfs.formats.parquet.table import Table, read_table
from vzfs.formats.parquet.unpacking import unpack

INTEGERS = ("offset", "size")
TEXTS = ("path", "raw")


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def read(data: bytes, max_rows: int = 10**6) -> Table:
    return read_table(data, integers=INTEGERS, texts=TEXTS, max_rows=max_rows)


def as_lists(table: Table) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, values in table.integers.items():
        nulls = table.nulls[name]
        found[name] = [None if n else int(v) for v, n in zip(values, nulls, strict=True)]
    for name, (codes, distinct) in table.texts.items():
        found[name] = [None if code < 0 else distinct[code] for code in codes]
    return found


def expected(data: bytes) -> dict[str, list[Any]]:
    table = pq.read_table(io.BytesIO(data))
    lists = {
        name: table[name].to_pylist() for name in (*INTEGERS, *TEXTS) if name in table.column_names
    }
    return {
        name: [v.encode() if isinstance(v, str) else v for v in values]
        for name, values in lists.items()
    }


def references(rows: int, distinct: int) -> pa.Table:
    """Return a table like kerchunk's, with every third row null and some rows inlined."""
    rng = random.Random(rows)
    paths = [None if i % 3 == 1 else f"s3://bucket/{i % distinct}/\u00fc.nc" for i in range(rows)]
    raws = [bytes([i % 256]) * (i % 40) if i % 3 == 1 and i % 2 else None for i in range(rows)]
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "offset": pa.array([rng.randrange(2**40) for _ in range(rows)], pa.int64()),
            "size": pa.array([rng.randrange(2**31) for _ in range(rows)], pa.int32()),
            "raw": pa.array(raws, pa.binary()),
        }
    )


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("by_dictionary", [True, False])
def test_tables_of_every_kind_are_read(compression: str, version: str, by_dictionary: bool) -> None:
    """Pages of both versions, dictionaries and plain values, in any known compression, give what pyarrow reads."""
    data = written(
        references(3000, 7),
        compression=compression,
        data_page_version=version,
        use_dictionary=by_dictionary,
        row_group_size=1100,
        data_page_size=2000,
    )
    assert as_lists(read(data)) == expected(data)


def test_partitions_of_real_references_are_read(data: Path) -> None:
    """Partitions that fastparquet wrote for kerchunk, plain and by dictionary, give what pyarrow reads."""
    files = sorted((data / "kerchunk").rglob("refs.*.parq"))
    assert len(files) == 12
    for path in files:
        assert as_lists(read(path.read_bytes())) == expected(path.read_bytes()), path


_COLUMNS = st.tuples(
    st.lists(st.none() | st.text(max_size=5)),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
)


@given(_COLUMNS, st.booleans(), st.sampled_from(["1.0", "2.0"]), st.integers(1, 9))
def test_any_columns_are_read(
    columns: tuple[list[str | None], list[int | None]],
    by_dictionary: bool,
    version: str,
    group: int,
) -> None:
    """Whatever values and nulls the columns have, in row groups of any size, they are read."""
    rows = min(map(len, columns))
    table = pa.table(
        {
            "path": pa.array(columns[0][:rows], pa.string()),
            "offset": pa.array(columns[1][:rows], pa.int64()),
        }
    )
    data = written(
        table, use_dictionary=by_dictionary, data_page_version=version, row_group_size=group
    )
    assert as_lists(read(data)) == expected(data)


def test_a_column_of_nulls_is_of_any_type() -> None:
    """A column without a value, which writers give some type, is read as nulls; an absent one is absent."""
    table = pa.table({"raw": pa.nulls(5), "offset": pa.array([1, 2, 3, 4, 5])})
    found = as_lists(read(written(table)))
    assert found == {"raw": [None] * 5, "offset": [1, 2, 3, 4, 5]}


def test_only_as_many_rows_are_read_as_are_wanted() -> None:
    """Rows beyond those that are wanted are counted, and not read."""
    data = written(references(3000, 7), row_group_size=700, data_page_size=500)
    found = read(data, 1000)
    assert found.rows == 3000
    assert as_lists(found) == {name: values[:1000] for name, values in expected(data).items()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "lz4"}, "LZ4"),
        ({"compression": "brotli"}, "Brotli"),
        ({"use_dictionary": False, "column_encoding": {"offset": "DELTA_BINARY_PACKED"}}, "DELTA"),
        ({"use_dictionary": False, "column_encoding": {"path": "DELTA_BYTE_ARRAY"}}, "DELTA"),
    ],
)
def test_what_no_writer_of_references_uses_is_refused_by_name(
    options: dict[str, Any], words: str
) -> None:
    """Another compression or encoding is refused, with what to write instead."""
    with pytest.raises(FormatError, match=words) as refused:
        read(written(references(50, 3), **options))
    assert refused.value.kind is ErrorKind.UNSUPPORTED_FORMAT
    assert refused.value.advice


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"offset": pa.array([1.5, 2.5])}, "'offset' is not one of integers"),
        ({"path": pa.array([1, 2])}, "'path' is not one of bytes"),
        ({"path": pa.array([["a"], ["b"]])}, "nested"),
        ({"path": pa.array([{"x": "a"}, {"x": "b"}])}, "nested"),
    ],
)
def test_columns_of_other_types_are_refused(columns: dict[str, pa.Array], words: str) -> None:
    """A column that is not of the type that references have, or nested, is refused."""
    with pytest.raises(FormatError, match=words):
        read(written(pa.table(columns)))


def test_nested_columns_beside_those_wanted_are_passed_over() -> None:
    """A file may have other columns, nested ones too."""
    table = references(10, 3).append_column("more", pa.array([[{"a": [1]}]] * 10))
    table = table.append_column("size2", pa.array(range(10)))
    assert as_lists(read(written(table))).keys() == {"path", "offset", "size", "raw"}


def test_a_damaged_file_is_refused_wherever_it_ends() -> None:
    """A file that ends early is refused as damaged, at whatever byte."""
    data = written(references(40, 3))
    for end in range(0, len(data), 7):
        with pytest.raises(FormatError):
            read(data[:end])


def test_a_file_that_claims_much_is_refused_before_memory_is_taken() -> None:
    """A page that says to be larger than a file may be is refused."""
    for claim in damaged_lengths(written(references(40, 3), compression="zstd")):
        with pytest.raises(FormatError):
            read(claim)


def damaged_lengths(data: bytes) -> Sequence[bytes]:
    """Return *data* with another length of its first page, far too large."""
    # The first header: a structure of type, unpacked and packed length, as zigzag varints.
    assert data[4] == 0x15
    head = data[:7]
    at = 7
    while data[at] & 128:
        at += 1
    return [head + claim + data[at + 1 :] for claim in (b"\xfe\xff\xff\xff\x0f", b"\x01")]


@pytest.mark.parametrize(
    ("where", "bound", "words"),
    [
        (table, "MAX_PAGES", "pages"),
        (table, "MAX_UNPACKED", "unpack to more"),
        (thrift, "MAX_VALUES", "too many values"),
    ],
)
def test_files_are_bounded(
    monkeypatch: pytest.MonkeyPatch, where: ModuleType, bound: str, words: str
) -> None:
    """Pages, what they unpack to, and values of headers are bounded for a whole file."""
    target = io.BytesIO()
    pq.write_table(pa.table({"x": range(10), "y": range(10)}), target)
    data = target.getvalue()
    assert read_table(data, integers=("x", "y"), texts=()).rows == 10
    monkeypatch.setattr(where, bound, 1)
    with pytest.raises(FormatError, match=words):
        read_table(data, integers=("x", "y"), texts=())


@pytest.mark.parametrize(
    ("codec", "packed"),
    [(2, gzip.compress(bytes(2**26), mtime=0)), (6, zstandard.compress(bytes(2**26)))],
    ids=["gzip", "zstd"],
)
def test_no_more_is_unpacked_than_a_page_says(codec: int, packed: bytes) -> None:
    """A page that unpacks to more than it says is refused without the memory that all of it takes."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="length that it says"):
            unpack(codec, memoryview(packed), 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
