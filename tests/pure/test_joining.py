"""Files put end to end along a dimension, exactly or not at all."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from tests.pure.joins import DEFLATED, PLAIN, Files, document, node
from vzfs.joining import (
    JoinError,
    concatenate,
    constants,
    group_names,
    group_per_file,
    inline_coordinates,
    join,
)
from vzfs.joining.times import InexactError, converted, parse_units
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import ManifestBuilder, Omission, References

SINCE = "days since 2026-01-01"


def day(number: int, **more: Any) -> dict[str, dict[str, Any]]:
    """Return a file of one day: sst(time, lat, lon) deflated, time, lat, and a grid that all repeat."""
    field = np.random.default_rng(number).integers(-200, 3000, (1, 4, 6))
    arrays: dict[str, dict[str, Any]] = {
        "/sst": {
            "values": field,
            "dims": ["time", "lat", "lon"],
            "codecs": DEFLATED,
            "chunks": [1, 4, 3],
            "scale_factor": 0.01,
            "comment": f"of day {number}",
        },
        "/time": {"values": [number], "dims": ["time"], "dtype": "i4", "units": SINCE},
        "/lat": {"values": np.arange(4), "dims": ["lat"]},
        "/crs": {"values": 7, "dims": []},
    }
    for path, changes in more.items():
        arrays["/" + path] = {**arrays.get("/" + path, {}), **changes}
    return arrays


async def test_days_follow_each_other_by_their_time() -> None:
    """Files come in the order of their coordinate, chunks stay where they lie, and the words of the first file count."""
    files = Files()
    parts = [files.file(f"s3://b/{n}.nc", day(n)) for n in (3, 1, 2)]
    joined = await join(parts, "time", files.read)
    assert list(joined.order) == [1, 2, 0]
    assert joined.basis == "by the values of /time"
    assert joined.starts == {"/sst": [0, 1, 2], "/time": [0, 1, 2]}
    found = joined.references
    assert files.values(found, "/time").tolist() == [1, 2, 3]
    expected = np.concatenate([day(n)["/sst"]["values"] for n in (1, 2, 3)])
    np.testing.assert_array_equal(files.values(found, "/sst"), expected)
    assert document(found, "/sst")["shape"] == [3, 4, 6]
    assert document(found, "/sst")["attributes"]["comment"] == "of day 1"
    assert document(found, "/")["attributes"]["history"] == "made as s3://b/1.nc"
    manifest = found.manifests[node(found, "/sst").id]
    assert manifest.index == range(6)
    assert {manifest.ref(i).location for i in (0, 1)} == {"s3://b/1.nc"}
    assert list(manifest.locations) == ["s3://b/1.nc", "s3://b/2.nc", "s3://b/3.nc"]
    assert manifest.ref(4).checksum is not None
    assert manifest.ref(4).checksum.value == "v s3://b/3.nc"
    assert set(manifest.kind) == {ChunkKind.VIRTUAL}


async def test_along_an_axis_that_is_not_the_first() -> None:
    """Arrays are put together along any axis, with missing chunks missing at their places."""
    files = Files()
    parts = []
    for n in range(3):
        values = np.arange(n * 100, n * 100 + 4 * 6).reshape(4, 6)
        parts.append(
            files.file(
                f"s3://b/{n}", {"/a": {"values": values, "dims": ["y", "x"], "chunks": [2, 3]}}
            )
        )
    name, middle = parts[1]
    (identity,) = middle.manifests
    builder = ManifestBuilder()
    for row in (0, 3):
        builder.add(row, middle.manifests[identity].ref(row))
    parts[1] = name, dataclasses.replace(middle, manifests={identity: builder.build()})
    found = await concatenate(parts, "x", files.read)
    values = files.values(found, "/a")
    expected = np.concatenate([np.arange(n * 100, n * 100 + 24).reshape(4, 6) for n in range(3)], 1)
    expected[:2, 9:12] = expected[2:, 6:9] = 0
    np.testing.assert_array_equal(values, expected)


async def test_a_record_to_a_file_in_chunks_of_many() -> None:
    """A time axis whose one value lies in a chunk of 512 is written anew, as it cannot be put end to end."""
    files = Files()
    time = {"chunks": [512], "codecs": DEFLATED, "dtype": "i2"}
    parts = [files.file(f"s3://b/{n}", day(n, time=time)) for n in range(3)]
    joined = await join(parts, "time", files.read)
    assert joined.rewritten == ["/time"]
    found = joined.references
    assert document(found, "/time")["codecs"] == PLAIN
    assert document(found, "/time")["attributes"] == {"units": SINCE}
    assert files.values(found, "/time").tolist() == [0, 1, 2]
    assert found.manifests[node(found, "/time").id].ref(0).kind is ChunkKind.INLINE


async def test_plain_chunks_are_divided() -> None:
    """Contiguous months of 31 and 28 days become chunks of one day, each within the bytes of its month."""
    files = Files()
    values = [np.random.default_rng(n).integers(0, 9, (n, 8, 600)) for n in (31, 28)]
    parts = [
        files.file(f"s3://b/{i}", {"/a": {"values": v, "dims": ["time", "y", "x"]}})
        for i, v in enumerate(values)
    ]
    found = await concatenate(parts, "time", files.read)
    assert document(found, "/a")["chunk_grid"]["configuration"]["chunk_shape"] == [1, 8, 600]
    assert files.reads == []
    np.testing.assert_array_equal(files.values(found, "/a"), np.concatenate(values))


async def test_padded_plain_chunks_are_divided() -> None:
    """Of a chunk that reaches beyond the end of its file only what is within is taken, along every other chunk."""
    files = Files()
    values = [np.random.default_rng(n).integers(0, 9, (n, 60, 600)) for n in (6, 4)]
    chunks = ([4, 60, 300], [4, 60, 300])
    parts = [
        files.file(f"s3://b/{i}", {"/a": {"values": v, "dims": ["t", "y", "x"], "chunks": c}})
        for i, (v, c) in enumerate(zip(values, chunks, strict=True))
    ]
    found = await concatenate(parts, "t", files.read)
    assert document(found, "/a")["chunk_grid"]["configuration"]["chunk_shape"] == [2, 60, 300]
    np.testing.assert_array_equal(files.values(found, "/a"), np.concatenate(values))


async def test_compressed_chunks_that_do_not_fit() -> None:
    """Compressed months are refused, with the lengths of their chunks, and no byte of them is read."""
    files = Files()
    parts = [
        files.file(
            f"s3://b/{n}",
            {
                "/a": {
                    "values": np.zeros((n, 100, 4000)),
                    "dims": ["t", "y", "x"],
                    "codecs": DEFLATED,
                }
            },
        )
        for n in (31, 28)
    ]
    with pytest.raises(
        JoinError,
        match="has chunks of 31 and 28 along t in s3://b/31 and s3://b/28; it is too large",
    ):
        await concatenate(parts, "t", files.read)
    assert files.reads == []


async def test_only_the_last_file_may_end_within_a_chunk() -> None:
    """A last file of half a chunk is put at the end as it is; before another it is refused."""
    files = Files()
    parts = [
        files.file(
            f"s3://b/{n}",
            {
                "/a": {
                    "values": np.full((n, 100, 2000), n),
                    "dims": ["t", "y", "x"],
                    "chunks": [4, 100, 2000],
                    "codecs": DEFLATED,
                },
            },
        )
        for n in (8, 6)
    ]
    found = await concatenate(parts, "t", files.read)
    assert document(found, "/a")["shape"] == [14, 100, 2000]
    more = [
        *parts,
        *(
            files.file(
                f"s3://b/{n}",
                {
                    "/a": {
                        "values": np.zeros((n, 100, 2000)),
                        "dims": ["t", "y", "x"],
                        "chunks": [4, 100, 2000],
                        "codecs": DEFLATED,
                    }
                },
            )
            for n in (36,)
        ),
    ]
    with pytest.raises(
        JoinError, match="ends within a chunk in s3://b/6: 6 along t are no multiple of 4"
    ):
        await concatenate(more, "t", files.read)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sst": {"scale_factor": 0.1}}, "/sst has the attribute scale_factor 0.01 and 0.1 in"),
        ({"sst": {"scale_factor": 1, "values": np.zeros((1, 4, 6))}}, "attribute scale_factor 0.01 and 1 "),
        ({"sst": {"units": "K"}}, "attribute units none and 'K'"),
        ({"sst": {"dtype": "i4", "codecs": PLAIN}}, "data type 'int16' and 'int32'"),
        ({"sst": {"values": np.zeros((1, 5, 6))}}, r"shape \[1, 4, 6\] and \[1, 5, 6\]"),
        ({"sst": {"dims": ["time", "lon", "lat"]}}, "dimensions"),
        ({"sst": {"dims": ["lat", "time", "lon"]}}, "has the dimensions"),
        ({"more": {"values": [1]}}, "/more is in s3://b/2, and not in s3://b/1"),
        ({"lat": {"values": [0, 1, 2, 9]}}, "/lat does not have the dimension, and has other values"),
        ({"lat": {"values": [0, 1, 2]}}, "/lat does not have the dimension, and has the shape"),
        ({"crs": {"values": 8}}, "/crs does not have the dimension"),
        ({"time": {"calendar": "noleap"}}, "calendar standard in s3://b/1 and noleap"),
        ({"time": {"units": "K"}}, "attribute units"),
        ({"time": {"values": [1]}}, "overlap those in s3://b/1, or repeat them"),
    ],
)  # fmt: skip
async def test_what_differs_is_refused(change: dict[str, Any], message: str) -> None:
    """Files that differ in what gives values their meaning are refused, with what differs and where."""
    files = Files()
    parts = [files.file("s3://b/1", day(1)), files.file("s3://b/2", day(2, **change))]
    with pytest.raises(JoinError, match=message) as caught:
        await concatenate(parts, "time", files.read)
    assert "s3://b/2" in caught.value.where + caught.value.what
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_what_decodes_alike_is_equal() -> None:
    """Other levels of compression are no difference, nor are other codecs of what files repeat, if the values are equal."""
    files = Files()
    codecs = [*DEFLATED[:-1], {"name": "numcodecs.zlib", "configuration": {"level": 9}}]
    lat = {"codecs": DEFLATED, "dtype": "i2", "values": np.arange(4)}
    parts = [
        files.file("s3://b/1", day(1, lat=lat)),
        files.file("s3://b/2", day(2, lat={**lat, "codecs": codecs}, sst={"codecs": codecs})),
        files.file("s3://b/3", day(3, lat={**lat, "codecs": PLAIN, "chunks": [2]})),
    ]
    found = await concatenate(parts, "time", files.read)
    np.testing.assert_array_equal(files.values(found, "/lat"), np.arange(4))
    expected = np.concatenate([day(n)["/sst"]["values"] for n in (1, 2, 3)])
    np.testing.assert_array_equal(files.values(found, "/sst"), expected)


async def test_chunks_that_are_decoded_to_be_compared_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of other bytes and equal values are equal, unless decoding them would take too much memory."""
    files = Files()
    lat = {"codecs": [*PLAIN, DEFLATED[-1]], "values": np.zeros(5000)}
    parts = [files.file(f"s3://b/{n}", day(n, crs={**lat, "dims": ["x"]})) for n in (1, 2)]
    ref = parts[1][1].manifests[b"/crs"].ref(0)
    content = files.content["s3://b/2"]
    assert content[ref.offset] == 0x78
    # What compressed it says that it did so at another level.
    content[ref.offset : ref.offset + 2] = b"\x78\x01"
    assert await concatenate(parts, "time", files.read)
    monkeypatch.setattr(constants, "MAX_COMPARED", 9000)
    with pytest.raises(JoinError, match="crs"):
        await concatenate(parts, "time", files.read)


async def test_what_is_the_same_is_not_read() -> None:
    """A variable that is inline in all files, or refers to the same bytes, is compared without reading."""
    files = Files()
    lat = {"is_inline": True}
    parts = [files.file(f"s3://b/{n}", day(n, lat=lat, crs=lat, time=lat)) for n in range(3)]
    await concatenate(parts, "time", files.read)
    assert files.reads == []


async def test_what_one_file_cannot_give_is_left_out() -> None:
    """A variable that is left out of one file is left out of all, by name and reason."""
    files = Files()

    def drop(builder: Any) -> None:
        builder.drop("/lat", "it is szip")

    parts = [files.file("s3://b/1", day(1)), files.file("s3://b/2", day(2), drop)]
    found = await concatenate(parts, "time", files.read)
    assert found.omissions == (Omission("/lat", "it is szip (in s3://b/2)"),)
    assert "/lat" not in [n.path for n in found.nodes]


@pytest.mark.parametrize("dims", [["t", "lat", "lon"], None])
async def test_a_dimension_that_is_not_there(dims: list[str] | None) -> None:
    """A dimension that no variable has is refused, and what there is is named."""
    files = Files()
    arrays = {"/sst": {"values": np.zeros((1, 2, 3)), "dims": dims}}
    parts = [files.file(f"s3://b/{n}", arrays) for n in range(2)]
    with pytest.raises(
        JoinError, match="no variable of the files has a dimension 'time'"
    ) as caught:
        await concatenate(parts, "time", files.read)
    assert ("lat, lon, t" if dims else "none") in caught.value.what
    assert "leave out --concat" in caught.value.advice


async def test_no_files() -> None:
    """To join nothing is refused."""
    with pytest.raises(JoinError, match="no files"):
        await concatenate([], "time", Files().read)


# -- order -----------------------------------------------------------------------------------------


def series(name: str, values: Any, files: Files, **time: Any) -> tuple[str, References]:
    time = {"dims": ["time"], "dtype": "f8", "chunks": [1], "fill": "NaN", **time}
    return files.file(name, {"/time": {"values": values, **time}})


@pytest.mark.parametrize(
    ("values", "order", "basis"),
    [
        ([[3, 4], [1, 2]], [1, 0], "by the values of /time"),
        ([[2, 1], [4, 3]], [1, 0], "by the values of /time"),
        ([[5], [2, 3], [4]], [1, 2, 0], "by the values of /time"),
        ([[], [2], [1]], [2, 1, 0], "by the values of /time"),
        ([[3, 1], [4, 5]], [0, 1], "ascend in some files, and not in others"),
        ([[3, 1, 2], [4, 5]], [0, 1], "are in no order in a"),
        ([[3, np.nan], [1, 2]], [0, 1], "are in no order in a"),
    ],
)
async def test_order(values: Any, order: list[int], basis: str) -> None:
    """Files follow each other as their values ascend or descend; where they do neither, as given."""
    files = Files()
    parts = [series("abc"[i], v, files) for i, v in enumerate(values)]
    joined = await join(parts, "time", files.read)
    assert list(joined.order) == order
    assert basis in joined.basis
    expected = np.concatenate([np.array(values[i], "f8") for i in order])
    np.testing.assert_array_equal(files.values(joined.references, "/time"), expected)


@pytest.mark.parametrize(
    "values", [[[1, 2], [2, 3]], [[1, 5], [3, 4]], [[4, 3], [3, 1]], [[3, 1, 2], [5, 1]]]
)
async def test_overlaps_are_refused(values: Any) -> None:
    """Values that come twice, or files that reach into each other, are refused."""
    files = Files()
    parts = [series("ab"[i], v, files) for i, v in enumerate(values)]
    with pytest.raises(JoinError, match=r"overlap|more than once"):
        await join(parts, "time", files.read)


async def test_an_order_that_cannot_be_seen() -> None:
    """Where the coordinate cannot be decoded, or is not there, the order is as given, and that is said."""
    files = Files()
    codecs = [*PLAIN, {"name": "numcodecs.lzma", "configuration": {}}]
    parts = [series(name, [1], files, codecs=codecs) for name in "ba"]
    joined = await join(parts, "time", files.read)
    assert joined.basis == (
        "as given: /time cannot be looked into, as the codec 'numcodecs.lzma' is not decoded here"
    )
    assert list(joined.order) == [0, 1]
    bare = [files.file(n, {"/a": {"values": [1], "dims": ["time"]}}) for n in "ba"]
    assert (await join(bare, "time", files.read)).basis == "as given: there is no variable time"


async def test_records_that_are_numbered_from_0_in_each_file() -> None:
    """Where the coordinate is a number of records that each file repeats, the time beside it decides."""
    files = Files()
    dims = {"dims": ["time"], "dtype": "f8"}
    parts = [
        files.file(
            name,
            {
                "/time": {"values": [0] * len(days), **dims},
                "/centred": {"values": days, "units": SINCE, **dims},
            },
        )
        for name, days in (("c", [4]), ("a", [1, 2]), ("b", [3]))
    ]
    joined = await join(parts, "time", files.read)
    assert list(joined.order) == [1, 2, 0]
    assert joined.basis == "by the values of /centred, as /time repeats its own"
    assert files.values(joined.references, "/centred").tolist() == [1, 2, 3, 4]
    assert files.values(joined.references, "/time").tolist() == [0, 0, 0, 0]
    parts.append(
        files.file(
            "d",
            {"/time": {"values": [0], **dims}, "/centred": {"values": [3], "units": SINCE, **dims}},
        )
    )
    with pytest.raises(JoinError, match="of /centred in d overlap those in b"):
        await join(parts, "time", files.read)


async def test_what_is_appended_comes_after() -> None:
    """What is appended to stays the first, and what comes before it is refused."""
    files = Files()
    parts = [series("repository", [1, 2], files), series("a", [4], files), series("b", [3], files)]
    joined = await join(parts, "time", files.read, is_append=True)
    assert list(joined.order) == [0, 2, 1]
    parts[1] = series("a", [0], files)
    with pytest.raises(JoinError, match="a comes before what it is to be appended to"):
        await join(parts, "time", files.read, is_append=True)


# -- units of time ---------------------------------------------------------------------------------


async def test_times_that_count_from_their_own_day() -> None:
    """Times and their bounds that count from another day in each file are said in the units of the first, in its order."""
    files = Files()
    parts = []
    for n in (2, 1):
        time = {"values": [0], "units": f"hours since 2026-01-0{n}", "bounds": "time_bnds"}
        bounds = {"values": [[-12, 12]], "dims": ["time", "nv"], "dtype": "i4"}
        parts.append(files.file(f"s3://b/{n}", day(n, time=time, time_bnds=bounds)))
    joined = await join(parts, "time", files.read)
    found = joined.references
    assert joined.rewritten == ["/time", "/time_bnds"]
    assert document(found, "/time")["attributes"]["units"] == "hours since 2026-01-01"
    assert files.values(found, "/time").tolist() == [0, 24]
    assert files.values(found, "/time_bnds").tolist() == [[-12, 12], [12, 36]]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ({"units": "days since 2026-01-01 12:00"}, "cannot be said exactly"),
        ({"units": "days since 2026-01-03", "scale_factor": 2}, "they are packed"),
        ({"units": "months since 2026-01-01"}, "attribute units"),
    ],
)
async def test_times_that_cannot_be_converted(time: dict[str, Any], message: str) -> None:
    """Half a day is no integer of days, and a month has no length: such times are refused."""
    files = Files()
    first = {"scale_factor": time["scale_factor"]} if "scale_factor" in time else {}
    parts = [
        files.file("s3://b/1", day(1, time=first)),
        files.file("s3://b/2", day(2, time=time)),
    ]
    with pytest.raises(JoinError, match=message):
        await join(parts, "time", files.read)


@pytest.mark.parametrize(
    ("units", "calendar", "origin"),
    [
        ("days since 2000-03-01", None, "days since 2000-02-28"),
        ("seconds since 1999-12-31T23:59:59.5Z", "standard", "seconds since 2000-01-01 00:00:00"),
        ("hours since 2000-01-01 00:00:00 +01:00", "gregorian", "hours since 2000-01-01 00:00"),
        ("days since 2000-03-01", "noleap", "days since 2000-02-28"),
        ("days since 2001-01-01", "all_leap", "days since 2000-01-01"),
        ("days since 2000-03-01", "360_day", "days since 2000-02-30"),
        ("days since 1500-03-01", "julian", "days since 1500-02-29"),
        ("days since 0001-01-01", "proleptic_gregorian", "days since 1900-03-01"),
    ],
)
def test_units_mean_what_cftime_takes_them_for(
    units: str, calendar: str | None, origin: str
) -> None:
    """Epochs of all calendars lie as far apart as cftime says."""
    import cftime

    named = calendar or "standard"
    one, two = parse_units(units, calendar), parse_units(origin, calendar)
    assert one is not None
    assert two is not None
    dates = [cftime.num2date(0, text, named) for text in (units, origin)]
    difference = dates[0] - dates[1]
    assert one.epoch - two.epoch == round(difference.total_seconds() * 10**6)


@pytest.mark.parametrize(
    ("units", "calendar"),
    [
        ("days since 1582-10-04", "standard"),
        ("days since 2001-02-29", None),
        ("days since 2000-02-31", "360_day"),
        ("years since 2000-01-01", None),
        ("days since 2000-01-01 25:00", None),
        ("days since 2000-01-01", "of the moon"),
        ("days", None),
        (7, None),
    ],
)
def test_units_that_are_not_certain(units: Any, calendar: Any) -> None:
    """Units that are ambiguous, or days that their calendar has not, are no units."""
    assert parse_units(units, calendar) is None


def test_conversion_is_exact_or_refused() -> None:
    """Values in other units are exactly the same moments, missing ones stay, and what would be rounded is refused."""
    days, hours = parse_units("days since 2000-01-02"), parse_units("hours since 2000-01-01")
    assert days is not None
    assert hours is not None
    values = np.array([0.5, 2.25, -999])
    made = converted(values, days, hours, values == -999)
    assert made.tolist() == [36, 78, -999]
    assert made.dtype == values.dtype
    for wrong in (np.array([0.1]), np.array([7], "i1") * 18, np.array([2**24 + 1], "f4") / 3):
        with pytest.raises(InexactError):
            converted(wrong, days, hours, np.zeros(1, bool))
    with pytest.raises(InexactError):
        converted(np.array([7]), hours, days, np.zeros(1, bool))


# -- many ------------------------------------------------------------------------------------------


async def test_thousands_of_files() -> None:
    """Columns are put together whole: 2000 files of 500 chunks each take a second or two, and no read of a chunk."""
    files = Files()
    name, first = files.file(
        "s3://b/0",
        {"/a": {"values": np.zeros((1, 20, 25)), "dims": ["t", "y", "x"], "chunks": [1, 1, 1]}},
    )
    found = await concatenate([(f"{name}{i}", first) for i in range(2000)], "t", files.read)
    manifest = found.manifests[node(found, "/a").id]
    assert manifest.index == range(1_000_000)
    assert files.reads == []


# -- a group for each ------------------------------------------------------------------------------


def test_a_group_for_each_file() -> None:
    """Each file is a group of its name, with its refs and what is left out of it."""
    files = Files()

    def edit(builder: Any) -> None:
        builder.omit("/bad", "it is szip")

    parts = [files.file("s3://b/x/1.nc", day(1)), files.file("s3://b/x/2.nc", day(2), edit)]
    found = group_per_file(parts)
    assert [n.path for n in found.nodes if n.path.count("/") == 1] == ["/", "/1", "/2"]
    np.testing.assert_array_equal(files.values(found, "/2/sst"), day(2)["/sst"]["values"])
    assert document(found, "/1")["attributes"] == {"history": "made as s3://b/x/1.nc"}
    assert found.omissions == (Omission("/2/bad", "it is szip"),)
    assert found.nodes[0].documents["zarr.json"]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["a.nc", "b.nc4"], ["a", "b"]),
        (["s3://b/2026/01/sst.nc", "s3://b/2026/02/sst.nc"], ["01_sst", "02_sst"]),
        (["s3://b/x/sst.nc", "s3://b/x/sst.grib", "s3://b/x/t.nc"], ["x_sst", "x_sst-2", "t"]),
        (["file:///d/basin%20%231%20100%25.nc"], ["basin #1 100%"]),
        (["/d/a.nc.gz", "/d/.nc", "/d/__x.nc"], ["a", "file", "file__x"]),
        (["/d/a\x1bb.nc", "/d/" + "x" * 300], ["a_b", "x" * 245]),
        (["/d/v2.19810901.nc", "/d/v2.19810902.NC4"], ["v2.19810901", "v2.19810902"]),
        (["/d/a-2.nc", "/d/a.nc", "/e/d/a.nc"], ["a-2", "d_a", "e_d_a"]),
    ],
)
def test_names_of_groups(names: list[str], groups: list[str]) -> None:
    """Groups are named like files, with as many folders as tell them apart, and never alike."""
    assert group_names(names) == groups
    assert group_names(groups) == groups


def test_a_file_named_twice() -> None:
    """The same file twice is refused."""
    with pytest.raises(JoinError, match="named twice"):
        group_names(["a.nc", "a.nc"])


# -- coordinates within ----------------------------------------------------------------------------


async def test_small_coordinates_are_inlined() -> None:
    """Coordinates, bounds and scalars are inlined: one chunk as it is, several as plain numbers in one; large ones and data stay."""
    files = Files()
    changes: dict[str, Any] = {
        "lat": {"codecs": DEFLATED, "values": np.arange(4), "chunks": [3], "bounds": "corners"},
        "lon": {"values": np.arange(6), "dims": ["lon"], "codecs": DEFLATED},
        "corners": {"values": np.zeros((4, 2)), "dims": ["lat", "nv"]},
        "area": {"values": np.zeros((4, 6)), "dims": ["lat", "lon"]},
        "big": {"values": np.arange(99), "dims": ["big"]},
        "sst": {"coordinates": "area nowhere"},
    }
    _, part = files.file("s3://b/1", day(1, **changes))
    found, inlined = await inline_coordinates(part, files.read, 64)
    assert inlined == ["/area", "/corners", "/crs", "/lat", "/lon", "/time"]
    np.testing.assert_array_equal(files.values(found, "/lat"), np.arange(4))
    assert document(found, "/lat")["codecs"] == PLAIN
    assert document(found, "/lon") == document(part, "/lon")
    for path in inlined:
        manifest = found.manifests[node(found, path).id]
        assert len(manifest) == 1
        assert manifest.ref(0).kind is ChunkKind.INLINE
    for path in ("/big", "/sst"):
        assert found.manifests[node(found, path).id].ref(0).kind is ChunkKind.VIRTUAL
    assert (await inline_coordinates(found, files.read, 64))[1] == []
