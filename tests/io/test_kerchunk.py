"""References of kerchunk as repositories: what they refuse, leave out, ask for, and how much it takes."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio

from tests.fakes import FakeSource
from tests.io.kerchunking import (
    FILE,
    SET,
    Opened,
    open_json,
    open_set,
    partition,
    put_set,
    zarray,
)
from vzfs.access import Access
from vzfs.errors import AccessDenied, ErrorKind, FormatError, RepositoryError, SourceError
from vzfs.formats.kerchunk.partitions import decode_partition
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import LastModified, parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import RefSpec
from vzfs.repository import kerchunk
from vzfs.repository.kerchunk import open_kerchunk_json, open_kerchunk_parquet, read_json
from vzfs.repository.repository import MAX_PRELOADED_REFS
from vzfs.repository.storage import Storage

X = "s3://b/x.nc"
GROUP = '{"zarr_format": 2}'


def v3_array(shape: list[int], chunks: list[int], encoding: object) -> dict[str, object]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": encoding,
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }


# -- hierarchies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        ({".zarray": zarray([2, 3], [1, 1])}, ("0.0", "1.2")),
        ({".zarray": zarray([2, 3], [1, 1], dimension_separator="/")}, ("0/0", "1/2")),
        ({"zarr.json": v3_array([2, 3], [1, 1], "default")}, ("c/0/0", "c/1/2")),
        ({"zarr.json": v3_array([2, 3], [1, 1], "v2")}, ("0.0", "1.2")),
        (
            {
                "zarr.json": v3_array(
                    [2, 3], [1, 1], {"name": "default", "configuration": {"separator": "."}}
                )
            },
            ("c.0.0", "c.1.2"),
        ),
    ],
)
@pytest.mark.parametrize("path", ["", "deep/in/0"])
async def test_keys_are_read_as_the_array_writes_them(
    document: dict[str, object], keys: tuple[str, str], path: str
) -> None:
    """Chunk keys are those of the array's own encoding, at any depth; others are left out in one line."""
    head = path and path + "/"
    first, last = keys
    values = {
        **{head + name: value for name, value in document.items()},
        head + first: "a",
        head + last: [X, 5, 7],
        head + "2.9": "z",
        head + "0/9/9": "z",
        head + "x": "z",
    }
    opened = await open_json(values)
    found = await opened.refs("/" + path)
    assert found == {
        (0, 0): ChunkRef(ChunkKind.INLINE, 1, inline=b"a"),
        (1, 2): ChunkRef(ChunkKind.VIRTUAL, 7, X, 5),
    }
    assert opened.omissions.keys() == {"/" + path}
    (reason,) = opened.omissions["/" + path]
    assert reason.startswith("3 references belong (the first: ")
    assert reason.endswith(") to no chunk of its grid")
    above = ["/", "/deep", "/deep/in"]
    assert opened.groups == (above if path else [])


async def test_one_bad_node_costs_itself_alone() -> None:
    """What cannot be shown is left out by name and with the reason; the rest is served."""
    opened = await open_json(
        {
            "good/.zarray": zarray([2], [1]),
            "good/0": "a",
            "dtype/.zarray": zarray([2], [1], dtype="<q9"),
            "dtype/0": "a",
            "broken/.zarray": "{",
            "elsewhere/.zarray": [X, 0, 10],
            "good/below/.zarray": zarray([2], [1]),
            "a/../b/.zarray": zarray([2], [1]),
            "a//b/.zarray": zarray([2], [1]),
            "/abs/.zarray": zarray([2], [1]),
            "c/zarr.json/.zgroup": GROUP,
            "\ud800/.zgroup": GROUP,
            "d" * 5000 + "/.zgroup": GROUP,
            "e/" * 100 + ".zgroup": GROUP,
            "grid/zarr.json": v3_array([2], [1], "unknown"),
            "group/.zgroup": GROUP,
            "group/.zattrs": "[",
            "group/inner/.zarray": zarray([], []),
            "group/inner/0": "b",
        }
    )
    assert opened.arrays.keys() == {"/good", "/group/inner"}
    assert opened.groups == ["/", "/group"]
    assert await opened.refs("/group/inner") == {(): ChunkRef(ChunkKind.INLINE, 1, inline=b"b")}
    reasons = {path: " ".join(found) for path, found in opened.omissions.items()}
    for path, words in [
        ("/dtype", "q9"),
        ("/broken", "JSON"),
        ("/elsewhere", "is not in the source itself"),
        ("/good/below", "within"),
        ("/a/../b", "canonical"),
        ("/a//b", "canonical"),
        ("/abs", "canonical"),
        ("/c/zarr.json", "named like"),
        ("/\\ud800", "UTF-8"),
        ("/" + "d" * 4096, "too long"),
        ("/" + "e/" * 99 + "e", "too deep"),
        ("/grid", "unknown"),
        ("/group", "JSON"),
    ]:
        assert words in reasons.pop(path), path
    assert reasons == {}


async def test_references_of_no_array_are_named_in_one_line() -> None:
    """References that belong to no array are counted, and the first is named; those of one left out are its own."""
    opened = await open_json(
        {
            ".zgroup": GROUP,
            "x/0": "a",
            "x/1": "a",
            "y": "b",
            "z/.zarray": "{",
            "z/0": "a",
            "z/0/0": "",
        }
    )
    assert opened.omissions["/"] == ["3 references belong (the first: 'x/0') to no array"]
    assert opened.omissions.keys() == {"/", "/z"}


async def test_an_array_at_the_root_is_one() -> None:
    """References of a single array at the root are that array."""
    opened = await open_json({".zarray": zarray([3], [1]), "1": [X, 0, 5]})
    assert await opened.refs("/") == {(1,): ChunkRef(ChunkKind.VIRTUAL, 5, X, 0)}


async def test_equal_keys_and_generated_ones_count_last() -> None:
    """Of references with equal keys the last counts."""
    data = b"""{"version": 1, "refs": {"a/.zarray": %s, "a/0": "x", "a/1": "y", "a/0": "zz"},
        "gen": [{"key": "a/{{i}}", "url": "s3://b/{{i}}", "offset": "1", "length": "2", "dimensions": {"i": [1, 2]}}]}"""
    opened = await open_json(data % json.dumps(zarray([3], [1])).encode())
    assert await opened.refs("/a") == {
        (0,): ChunkRef(ChunkKind.INLINE, 2, inline=b"zz"),
        (1,): ChunkRef(ChunkKind.VIRTUAL, 2, "s3://b/1", 1),
        (2,): ChunkRef(ChunkKind.VIRTUAL, 2, "s3://b/2", 1),
    }


async def test_a_chunk_that_nobody_can_read_exists() -> None:
    """A malformed reference is a chunk as long as one can be; reading it is refused, and a line says so."""
    opened = await open_json(
        {"a/.zarray": zarray([9], [3]), "a/0": None, "a/1": ["zip://x::s3://b/z"]}
    )
    for coords in ((0,), (1,)):
        ref = await opened.find("/a", coords)
        assert ref is not None
        assert ref.length == 3
        with pytest.raises(AccessDenied):
            await opened.read(ref)
    assert await opened.find("/a", (2,)) is None
    assert opened.omissions["/a"] == ["1 chunk cannot be read: the reference is malformed: 'None'"]


async def test_a_file_without_metadata_is_no_repository() -> None:
    """JSON without a Zarr document is refused as no references, with where it lies."""
    with pytest.raises(FormatError, match="no Zarr metadata") as refused:
        await open_json({"type": "Feature"})
    assert refused.value.kind is ErrorKind.NOT_A_REPOSITORY
    assert refused.value.where == FILE


async def test_an_absent_file_is_no_repository() -> None:
    """A file that is not there is said to be absent."""
    access = Access(parse_prefix(FILE), containers=None)
    with pytest.raises(RepositoryError, match="no such file"):
        await open_kerchunk_json(Storage(FakeSource(), access))


async def test_the_same_file_is_the_same_snapshot() -> None:
    """A snapshot's id says what the references are: the same again, and another of another file."""
    first, again = [await open_json({".zgroup": GROUP}) for _ in range(2)]
    other = await open_json({".zgroup": GROUP, "a/.zarray": zarray([1], [1])})
    ids = [opened.checkout.snapshot.id for opened in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert first.repository.format == "kerchunk JSON"
    with pytest.raises(RepositoryError):
        await first.repository.resolve(RefSpec(tag="v1"))


async def test_when_a_file_was_written_is_known_where_its_storage_dates_it() -> None:
    """The snapshot has the time of the file, if that is how its versions are told apart."""
    fetcher = FakeSource()
    fetcher.put(
        FILE, json.dumps({".zgroup": GROUP}).encode(), etag=None, last_modified=1_600_000_000
    )
    storage = Storage(fetcher, Access(parse_prefix(FILE), containers=None))
    repository = await open_kerchunk_json(storage)
    snapshot = await repository.snapshot(await repository.resolve(RefSpec()))
    assert snapshot.written_at == 1_600_000_000 * 10**9


# -- whole objects -------------------------------------------------------------------------------


def whole(count: int) -> dict[str, object]:
    return {
        "a/.zarray": zarray([count], [1]),
        **{f"a/{i}": [f"s3://b/o/{i}"] for i in range(count)},
    }


async def test_whole_objects_have_the_length_and_version_that_they_have() -> None:
    """A reference without a range is as long as its object, which is pinned; one that is not there cannot be read."""
    fetcher = FakeSource()
    fetcher.put("s3://b/o/0", b"abc", etag='"e0"')
    fetcher.put("s3://b/o/1", b"", etag='"e1"')
    values = {**whole(3), "a/3": ["s3://c/denied"], "a/.zarray": zarray([20], [5])}
    opened = await open_json(values, fetcher)
    assert fetcher.statistics().heads == 1, "the lengths of objects are asked for with the manifest"
    found = await opened.refs("/a")
    assert [ref.length for ref in found.values()] == [3, 0, 5, 5]
    assert await opened.read(found[0,]) == b"abc"
    assert found[2,].checksum == LastModified(0)
    for coords in ((2,), (3,)):
        with pytest.raises((SourceError, AccessDenied)):
            await opened.read(found[coords])
    fetcher.put("s3://b/o/0", b"abd")
    fetcher.put("s3://b/o/2", b"12345")
    for coords in ((0,), (2,)):
        with pytest.raises(SourceError) as changed:
            await opened.read(found[coords])
        assert changed.value.kind is ErrorKind.SOURCE_CHANGED


async def test_many_whole_objects_of_a_folder_cost_one_listing() -> None:
    """Lengths of many objects in one folder come by one listing, and no request for each."""
    fetcher = FakeSource()
    for i in range(200):
        fetcher.put(f"s3://b/o/{i}", bytes(i))
    opened = await open_json(whole(200), fetcher)
    before = fetcher.statistics()
    assert [ref.length for ref in (await opened.refs("/a")).values()] == list(range(200))
    after = fetcher.statistics()
    assert (after.lists - before.lists, after.heads - before.heads) == (1, 0)


async def test_lengths_that_nobody_tells_are_no_absent_chunks() -> None:
    """While the store of whole objects does not answer, it is not known which chunks there are."""
    fetcher = FakeSource()
    fetcher.fail("s3://b/o/0", ErrorKind.SOURCE_UNREACHABLE)
    fetcher.put("s3://b/o/0", b"abc")
    opened = await open_json(whole(1), fetcher)
    with pytest.raises(SourceError):
        await opened.refs("/a")


# -- Parquet -------------------------------------------------------------------------------------


async def opened_set(
    shape: list[int],
    record_size: int,
    partitions: dict[str, bytes],
    fetcher: FakeSource | None = None,
    where: str = SET,
) -> tuple[Opened, FakeSource]:
    fetcher = fetcher or FakeSource()
    metadata = {".zgroup": {"zarr_format": 2}, "g/a/.zarray": zarray(shape, [1] * len(shape))}
    put_set(fetcher, metadata, record_size, partitions, where)
    opened = await open_set(fetcher, where, ("s3://b", "https://h"))
    return opened, fetcher


async def test_partitions_are_read_when_they_are_asked_for() -> None:
    """Opening reads no partition, a chunk the one that speaks for it, and each is read once."""
    parts = {
        f"g/a/refs.{p}.parq": partition([(X, p * 4 + r + 1, 9, None) for r in range(4)])
        for p in range(3)
    }
    opened, fetcher = await opened_set([2, 5], 4, parts)
    names = [f"{SET}/g/a/refs.{p}.parq" for p in range(3)]

    def loaded() -> list[int]:
        return [sum(fetch.url == name for fetch in fetcher.fetched) for name in names]

    assert loaded() == [0, 0, 0]
    found = await opened.find("/g/a", (1, 0))
    assert found == ChunkRef(ChunkKind.VIRTUAL, 9, X, 6)
    assert loaded() == [0, 1, 0]
    refs = await opened.refs("/g/a")
    assert [ref.offset for ref in refs.values()] == list(range(1, 11))
    assert list(refs) == [(i, j) for i in range(2) for j in range(5)]
    assert loaded() == [1, 1, 1]


async def test_rows_are_what_kerchunk_means() -> None:
    """A row is bytes, a part of an object, a whole one, nothing, or what nobody can read; bytes go first."""
    rows = [
        (X, 3, 4, None),
        (None, 0, 0, b"raw"),
        (X, 3, 4, b"base64:AAE="),
        ("o", 0, 0, None),
        (None, 0, 0, None),
        ("/data/y z", 0, 2, None),
        (X, 3, 0, None),
        (X, -1, 5, None),
        (X, None, 5, None),
        ("zip://x::s3://b/z", 0, 5, None),
        ("", 0, 5, None),
        (None, 0, 0, b"base64:A"),
    ]
    fetcher = FakeSource()
    fetcher.put("s3://b/refs/o", b"whole", etag='"e"')
    opened, _ = await opened_set(
        [12], 100, {"g/a/refs.0.parq": partition(rows + [(None, 0, 0, None)] * 88)}, fetcher
    )
    found = {coords[0]: ref for coords, ref in (await opened.refs("/g/a")).items()}
    assert found.keys() == set(range(12)) - {4}
    assert found[0] == ChunkRef(ChunkKind.VIRTUAL, 4, X, 3)
    assert found[1] == ChunkRef(ChunkKind.INLINE, 3, inline=b"raw")
    assert found[2] == ChunkRef(ChunkKind.INLINE, 2, inline=b"\0\1")
    assert (found[3].location, found[3].length) == ("s3://b/refs/o", 5)
    assert found[5].location == "file:///data/y%20z"
    for bad in (6, 7, 8, 9, 10, 11):
        assert found[bad].length > 0
        with pytest.raises(AccessDenied):
            await opened.read(found[bad])


async def test_an_absent_partition_has_no_chunks_and_a_denied_one_is_unknown() -> None:
    """Chunks of a partition that is not there are missing; of one that is not given nothing is known."""
    there = partition([(X, 1, 1, None)] * 2)
    opened, fetcher = await opened_set([6], 2, {"g/a/refs.0.parq": there, "g/a/refs.2.parq": there})
    assert list(await opened.refs("/g/a")) == [(0,), (1,), (4,), (5,)]
    assert f"{SET}/g/a/refs.1.parq" not in [fetch.url for fetch in fetcher.fetched]
    opened, fetcher = await opened_set([6], 2, {"g/a/refs.0.parq": there})
    fetcher.fail(f"{SET}/g/a/refs.0.parq", ErrorKind.SOURCE_DENIED)
    with pytest.raises(SourceError):
        await opened.find("/g/a", (0,))


async def test_a_partition_of_another_state_is_refused() -> None:
    """A partition that was written anew, or removed, since the set was opened is refused."""
    one, other = partition([(X, 1, 1, None)] * 2), partition([(X, 2, 2, None)] * 2)
    parts = {"g/a/refs.0.parq": one, "g/a/refs.1.parq": one}
    opened, fetcher = await opened_set([4], 2, parts)
    fetcher.put(f"{SET}/g/a/refs.0.parq", other)
    fetcher.delete(f"{SET}/g/a/refs.1.parq")
    for coords in ((0,), (2,)):
        with pytest.raises(SourceError) as changed:
            await opened.find("/g/a", coords)
        assert changed.value.kind is ErrorKind.SOURCE_CHANGED


async def test_without_listings_the_metadata_tells_whether_a_set_is_the_same() -> None:
    """Where nothing can be listed, partitions are refused once `.zmetadata` is another."""
    where = "https://h/x.parq"
    one = partition([(X, 1, 1, None)] * 2)
    opened, fetcher = await opened_set([6], 2, {"g/a/refs.0.parq": one}, where=where)
    assert await opened.find("/g/a", (0,)) is not None
    assert await opened.find("/g/a", (2,)) is None
    put_set(fetcher, {".zgroup": {"zarr_format": 2}}, 2, {}, where)
    with pytest.raises(SourceError) as changed:
        await opened.find("/g/a", (4,))
    assert changed.value.kind is ErrorKind.SOURCE_CHANGED


async def test_a_state_has_a_name_of_its_own() -> None:
    """A snapshot's id changes with any partition."""
    ids = set()
    fetcher = FakeSource()
    for offset in (1, 2):
        part = partition([(X, offset, 1, None)] * 2)
        metadata = {".zarray": zarray([2], [1])}
        put_set(fetcher, metadata, 2, {"refs.0.parq": part})
        opened = await open_set(fetcher)
        assert [ref.offset for ref in (await opened.refs("/")).values()] == [offset] * 2
        ids.add(opened.checkout.snapshot.id)
    assert len(ids) == 2


async def test_partitions_that_speak_for_many_regions_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An array whose partitions fall into very many boxes, as many dimensions make them, is left out by name."""
    monkeypatch.setattr(kerchunk, "MAX_SPANS", 1000)
    fetcher = FakeSource()
    metadata = {
        "a/.zarray": zarray([3] * 6, [1] * 6),
        "b/.zarray": zarray([100], [1]),
    }
    put_set(fetcher, metadata, 7, {})
    opened = await open_set(fetcher)
    assert opened.arrays.keys() == {"/b"}
    (left_out,) = opened.checkout.repository.omissions
    assert left_out.path == "/a"
    assert "6 dimensions" in left_out.reason


@pytest.mark.parametrize("rows", [1, 3])
def test_a_partition_of_another_size_is_refused(rows: int) -> None:
    """Where a partition has not as many rows as the record size says, rows are not the chunks that they seem to be."""
    data = partition([(X, 1, 1, None)] * rows)
    with pytest.raises(FormatError, match=f"has {rows} rows"):
        decode_partition(data, 0, 2, ChunkGrid((10,)), parse_prefix("s3://b/r"))


async def test_an_array_in_too_many_files_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of references are bounded for a whole set; an array beyond that is left out by name."""
    monkeypatch.setattr(kerchunk, "MAX_PARTITIONS", 10)
    fetcher = FakeSource()
    metadata = {
        "a/.zarray": zarray([6], [1]),
        "b/.zarray": zarray([5], [1]),
        "c/.zarray": zarray([4, 0], [1, 1]),
        "d/.zarray": zarray([2**62], [1]),
        "e/0": "x",
    }
    put_set(fetcher, metadata, 1, {})
    opened = await open_set(fetcher)
    assert opened.arrays.keys() == {"/a", "/c"}
    assert await opened.refs("/c") == {}
    assert "in 5 files of 1" in opened.omissions["/b"][0]
    assert str(2**62) in opened.omissions["/d"][0]
    assert opened.omissions["/"] == ["1 reference belongs ('e/0') to no document"]


async def test_consolidated_zarr_is_no_set_of_references() -> None:
    """A folder without `.zmetadata`, or with Zarr's own, is no set of references; nothing is listed for that."""
    fetcher = FakeSource()
    storage = Storage(fetcher, Access(parse_prefix(SET), containers=None))
    assert await open_kerchunk_parquet(storage) is None
    fetcher.put(f"{SET}/.zmetadata", b'{"metadata": {}, "zarr_consolidated_format": 1}')
    assert await open_kerchunk_parquet(storage) is None
    assert fetcher.statistics().lists == 0


# -- how much it takes ---------------------------------------------------------------------------


def million(record_size: int) -> tuple[FakeSource, int]:
    """Return a set of a million references in an array of 100 x 100 x 100 chunks, and how many partitions it has."""
    fetcher = FakeSource()
    count = 10**6 // record_size
    parts = {}
    for p in range(count):
        rows = np.arange(p * record_size, (p + 1) * record_size)
        paths = pa.DictionaryArray.from_arrays(
            pa.array(rows // 1000 - rows[0] // 1000, pa.int32()),
            pa.array([f"s3://b/{i:05d}.nc" for i in range(rows[0] // 1000, rows[-1] // 1000 + 1)]),
        )
        columns = {"path": paths, "offset": rows * 4000, "size": np.full(record_size, 4000)}
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table({**columns, "raw": pa.nulls(record_size)}), sink, compression="zstd"
        )
        parts[f"v/refs.{p}.parq"] = sink.getvalue().to_pybytes()
    put_set(fetcher, {"v/.zarray": zarray([100, 100, 100], [1, 1, 1])}, record_size, parts)
    return fetcher, count


@pytest.fixture(scope="module", name="many")
def _many() -> tuple[FakeSource, int]:
    return million(100_000)


async def test_a_million_references_in_parquet_load_as_they_are_needed(
    many: tuple[FakeSource, int],
) -> None:
    """A set of a million references opens by a listing and `.zmetadata`; a row of chunks costs one partition."""
    fetcher, count = many
    before = len(fetcher.fetched)
    opened = await open_set(fetcher)
    assert len(fetcher.fetched) - before == 2
    assert opened.arrays["/v"].grid.size == 10**6 > MAX_PRELOADED_REFS
    refs = opened.checkout.refs(opened.arrays["/v"])
    await refs.load((42, 17))
    assert len(fetcher.fetched) - before == 3
    assert refs.find((42, 17, 5)) == ChunkRef(
        ChunkKind.VIRTUAL, 4000, "s3://b/00421.nc", 421_705 * 4000
    )
    assert [c for c, _ in refs.children((42, 17))] == list(range(100))
    await refs.load(())
    assert len(fetcher.fetched) - before == 2 + count
    assert await refs.is_complete()
    assert [c for c, _ in refs.children(())] == list(range(100))


async def test_a_million_references_in_parquet_take_bounded_memory(
    many: tuple[FakeSource, int],
) -> None:
    """A partition takes some tens of bytes for each reference while it is decoded, and a dozen after."""
    fetcher, _ = many
    opened = await open_set(fetcher)
    refs = opened.checkout.refs(opened.arrays["/v"])
    await refs.load((0, 0, 0))
    tracemalloc.start()
    try:
        await refs.load((15,))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000 * 20
    assert peak < 100_000 * 250


def test_references_in_json_take_bounded_memory() -> None:
    """References in JSON take little more than their text while they are read, and no object each."""
    count = 20_000
    refs = {
        f"v/{i // 100}.{i % 100}": [f"s3://b/{i // 10}.nc", i * 4000, 4000] for i in range(count)
    }
    data = json.dumps(
        {"version": 1, "refs": {"v/.zarray": zarray([200, 100], [1, 1]), **refs}}
    ).encode()
    del refs
    tracemalloc.start()
    try:
        found = read_json(data, parse_prefix("s3://b/r"))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.references.manifests[b"/v"]) == count
    assert kept < count * 40
    assert peak < len(data) + count * 250


async def test_a_thousand_arrays_of_references_load_nothing_before_they_are_asked() -> None:
    """Regions of partitions are made for every array at once, and no partition is asked for."""
    fetcher = FakeSource()
    metadata = {f"a{i}/.zarray": zarray([10, 7], [1, 1]) for i in range(300)}
    put_set(fetcher, metadata, 3, {})
    opened = await open_set(fetcher)
    assert len(opened.arrays) == 300
    assert len(fetcher.fetched) == 2
    await trio.lowlevel.checkpoint()
    assert await opened.find("/a7", (9, 6)) is None
