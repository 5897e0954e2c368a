"""GRIB files: every field is where its variable says and has the values that eccodes gives, or is left out by name."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import eccodes
import gribberish
import numpy as np
import pytest

from tests.pure.hierarchies import LOCATION, arrays, document, omitted, parsed, truth_of, values
from vzfs.archival.building import Unpresentable
from vzfs.archival.parsers import grib, gribscan
from vzfs.archival.parsers.grib import parse
from vzfs.archival.parsers.gribgroups import Placed, placed, variables
from vzfs.archival.parsers.gribscan import Broken, Field, scan
from vzfs.decoding.installed import can_decode
from vzfs.decoding.pipeline import pipeline_of
from vzfs.model.manifest import ChunkKind
from vzfs.model.references import References
from vzfs.model.snapshot import Array
from vzfs.views.arrays import Asked, show_array
from vzfs.views.codecs import Codec, normalize
from vzfs.views.datatypes import read_data_type
from vzfs.views.view import View, ViewName

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 spec")

LARGEST = 400_000
"""Bytes of a real file that is compared here: decoding larger ones takes seconds."""


def message(sample: str = "GRIB2", numbers: object = None, **keys: object) -> bytes:
    """Return a message made of one of the samples of eccodes."""
    packing = keys.pop("packingType", None)
    handle = eccodes.codes_grib_new_from_samples(sample)
    try:
        for key, value in keys.items():
            eccodes.codes_set(handle, key, value)
        if numbers is not None:
            eccodes.codes_set_values(handle, np.asarray(numbers, "f8").ravel())
        if packing is not None:
            eccodes.codes_set(handle, "packingType", packing)
        return eccodes.codes_get_message(handle)
    finally:
        eccodes.codes_release(handle)


def known(of: bytes) -> np.ndarray:
    """Return the values that eccodes gives, NaN where they are missing."""
    handle = eccodes.codes_new_from_message(of)
    try:
        eccodes.codes_set(handle, "missingValue", 1e300)
        found = eccodes.codes_get_array(handle, "values")
    finally:
        eccodes.codes_release(handle)
    found[found == 1e300] = np.nan
    return found


def read(file: bytes) -> tuple[References, dict[str, np.ndarray]]:
    """Return what *file* is said to hold, and the values of its arrays."""
    references = parsed(parse, io.BytesIO(file))
    return references, arrays(references, {LOCATION: file})


def codec(references: References, path: str) -> str:
    """Return the name of the codec of an array."""
    return document(references, path)["codecs"][0]["name"]


def fields(references: References) -> list[Array]:
    """Return the arrays whose chunks are fields."""
    return [
        node
        for node in references.nodes
        if isinstance(node, Array)
        and "GRIB_edition" in json.loads(node.documents["zarr.json"])["attributes"]
    ]


def small(latitudes: int = 3, longitudes: int = 4, **keys: object) -> dict[str, object]:
    """Return the keys of a regular grid of a few points, with *keys*."""
    return {
        "Ni": longitudes, "Nj": latitudes, "latitudeOfFirstGridPointInDegrees": 2.0,
        "latitudeOfLastGridPointInDegrees": 2.0 - (latitudes - 1),
        "longitudeOfFirstGridPointInDegrees": 0.0,
        "longitudeOfLastGridPointInDegrees": longitudes - 1.0,
        "iDirectionIncrementInDegrees": 1.0, "jDirectionIncrementInDegrees": 1.0, **keys,
    }  # fmt: skip


NUMBERS = np.arange(12.0) ** 2


def test_every_real_message_has_the_values_that_are_known(data: Path) -> None:
    """Each message of each real file is a chunk with exactly its values, or is named; none is passed over."""
    for path, truth in truth_of(data, "grib").items():
        content = (data / path).read_bytes()
        if len(content) > LARGEST:
            continue
        references = parsed(parse, io.BytesIO(content))
        by_offset = {m["offset"]: m for m in truth["messages"]}
        seen = set()
        for node in fields(references):
            array = values(references, node, {LOCATION: content})
            size = array.size // node.grid.size
            manifest = references.manifests[node.id]
            for row in range(len(manifest)):
                offset = manifest.ref(row).offset
                seen.add(offset)
                if offset in by_offset:
                    index = int(manifest.index[row])
                    chunk = array.reshape(-1, size)[index]
                    np.testing.assert_allclose(np.nanmax(chunk), by_offset[offset]["max"], 1e-6)
                    end = offset + by_offset[offset]["length"]
                    np.testing.assert_array_equal(chunk, known(content[offset:end]))
        assert seen >= by_offset.keys(), path
    assert seen


def test_fields_of_one_parameter_are_one_variable(data: Path) -> None:
    """Times, members and levels are axes with their values, and places are those of the grid."""
    content = (data / "archival/grib/era5-levels-members.grib").read_bytes()
    references, found = read(content)

    words = document(references, "/t")
    assert words["dimension_names"] == ["time", "number", "step", "isobaricInhPa", "latitude", "longitude"]  # fmt: skip
    assert words["shape"] == [4, 10, 1, 2, 61, 120]
    assert words["attributes"]["units"] == "K"
    assert words["attributes"]["coordinates"] == "valid_time"
    assert found["/isobaricInhPa"].tolist() == [500, 850]
    assert found["/number"].tolist() == list(range(10))
    np.testing.assert_allclose(found["/latitude"], np.linspace(90, -90, 61))
    np.testing.assert_allclose(found["/longitude"], np.arange(0, 360, 3.0))
    times = found["/time"].astype("M8[s]")
    assert times[0] == np.datetime64("2017-01-01T00:00")
    np.testing.assert_array_equal(found["/valid_time"][:, 0], found["/time"])


def test_an_intact_message_behind_a_broken_one_is_shown(data: Path) -> None:
    """A message that does not end where it says is named by its place, and the next one is found."""
    references, found = read((data / "archival/grib/era5-levels-corrupted.grib").read_bytes())

    assert found["/t"].shape == (1, 1, 61, 120)
    assert "does not end" in omitted(references)["/message at byte 0"]


CASES: Mapping[str, tuple[str, dict[str, object], str, tuple[int, ...]]] = {
    "reduced Gaussian": ("reduced_gg_pl_32_grib2", {}, "grib", (6114,)),
    "reduced Gaussian, edition 1": ("reduced_gg_pl_32_grib1", {}, "grib", (6114,)),
    "regular Gaussian": ("regular_gg_pl_grib2", {}, "any", (64, 128)),
    "spectral": ("sh_pl_grib2", {}, "grib", (4160,)),
    "polar": ("polar_stereographic_pl_grib2", {}, "any", (31, 16)),
    "polar, edition 1": ("polar_stereographic_pl_grib1", {}, "any", (31, 16)),
    "rotated": ("rotated_ll_pl_grib2", {}, "any", (31, 16)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_whatever_eccodes_decodes_is_shown(case: str) -> None:
    """Grids that are no rectangles, and packings that gribberish does not know, are shown by eccodes."""
    sample, keys, wanted, shape = CASES[case]
    file = message(sample, **keys)
    numbers = np.sin(np.arange(known(file).size))
    file = message(sample, numbers, **keys)
    references, found = read(file)

    [node] = fields(references)
    assert found[node.path].shape[-len(shape) :] == shape
    np.testing.assert_array_equal(found[node.path].ravel(), known(file))
    assert codec(references, node.path) in ({wanted} if wanted != "any" else {"grib", "gribberish"})


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize(
    "packing",
    ["grid_simple", "grid_second_order", "grid_ieee", "grid_complex", "grid_ccsds", "grid_png"],
)
def test_every_packing_has_the_values_of_eccodes(edition: int, packing: str) -> None:
    """Whatever values are packed with, also where some are missing, they are those of eccodes."""
    keys = small(30, 40, bitmapPresent=1, missingValue=9999)
    numbers = np.cumsum(np.sin(np.arange(1200.0))) * 100
    numbers[7:50] = 9999
    try:
        file = message(f"GRIB{edition}", numbers, **keys, packingType=packing)
    except eccodes.CodesInternalError:
        pytest.skip("this edition has no such packing")
    references, found = read(file)

    [node] = fields(references)
    array = found[node.path]
    np.testing.assert_array_equal(array.ravel(), known(file))
    assert np.isnan(array).sum() == 43


@pytest.mark.parametrize("flags", range(16))
def test_values_are_in_the_order_of_the_message(flags: int) -> None:
    """However a grid is scanned, axes and coordinates are those of the values as they are, or not said."""
    keys = small(
        iScansNegatively=flags & 1, jScansPositively=flags >> 1 & 1,
        jPointsAreConsecutive=flags >> 2 & 1, alternativeRowScanning=flags >> 3,
    )  # fmt: skip
    if flags & 1:
        keys |= {
            "longitudeOfFirstGridPointInDegrees": 3.0,
            "longitudeOfLastGridPointInDegrees": 0.0,
        }
    if flags & 2:
        keys |= {"latitudeOfFirstGridPointInDegrees": 0.0, "latitudeOfLastGridPointInDegrees": 2.0}
    file = message("GRIB2", NUMBERS, **keys)
    references, found = read(file)

    [node] = fields(references)
    words = document(references, node.path)
    np.testing.assert_array_equal(found[node.path].ravel(), known(file))
    assert words["shape"][-2:] == ([4, 3] if flags & 4 else [3, 4])
    if flags & 8:
        assert words["dimension_names"][-2:] == (["x", "y"] if flags & 4 else ["y", "x"])
        assert "to and fro" in omitted(references)["/latitude"]
        return
    names = ["longitude", "latitude"] if flags & 4 else ["latitude", "longitude"]
    assert words["dimension_names"][-2:] == names
    assert found["/longitude"].tolist() == ([3, 2, 1, 0] if flags & 1 else [0, 1, 2, 3])
    assert found["/latitude"].tolist() == ([0, 1, 2] if flags & 2 else [2, 1, 0])


def test_coordinates_of_every_point_are_made_when_they_are_read() -> None:
    """Where rows and columns have no one latitude and longitude, a message is the chunk of both."""
    file = message("polar_stereographic_pl_grib2")
    handle = eccodes.codes_new_from_message(file)
    truth = eccodes.codes_get_array(handle, "latitudes").reshape(31, 16)
    eccodes.codes_release(handle)
    references, found = read(file)

    [node] = fields(references)
    words = document(references, node.path)
    assert words["dimension_names"][-2:] == ["y", "x"]
    assert words["attributes"]["coordinates"].startswith("latitude longitude")
    np.testing.assert_allclose(found["/latitude"], truth, atol=1e-6)


def test_several_fields_of_one_message_are_kept() -> None:
    """A message with several fields has no chunks of its own: each field is kept as a message."""
    one, two = (message("GRIB2", NUMBERS * k, **small(), typeOfLevel="isobaricInhPa", level=k) for k in (1, 2))  # fmt: skip
    file = both(one, two)
    references, found = read(b"heading" + file)

    [node] = fields(references)
    assert found[node.path].shape == (1, 1, 2, 3, 4)
    np.testing.assert_array_equal(found[node.path][0, 0, 0].ravel(), known(one))
    np.testing.assert_array_equal(found[node.path][0, 0, 1].ravel(), known(two))
    manifest = references.manifests[node.id]
    assert {manifest.ref(row).kind for row in range(2)} == {ChunkKind.INLINE}


def both(one: bytes, two: bytes) -> bytes:
    """Return one message with the fields of two that have the same sections up to their products."""
    at = two.index(next(section for number, section in sections(two) if number == 4))
    body = one[16:-4] + two[at:-4]
    return one[:8] + (16 + len(body) + 4).to_bytes(8) + body + b"7777"


def sections(of: bytes) -> list[tuple[int, bytes]]:
    """Return the sections of a message of edition 2, by their numbers."""
    at, found = 16, []
    while at < len(of) - 4:
        length = int.from_bytes(of[at : at + 4])
        found.append((of[at + 4], of[at : at + length]))
        at += length
    return found


def test_a_bitmap_that_is_said_before_counts_again() -> None:
    """A field may say that its bitmap is that of the field before it in the message."""
    numbers = NUMBERS.copy()
    numbers[3] = 9999
    keys = small(bitmapPresent=1, missingValue=9999, typeOfLevel="isobaricInhPa")
    one, two = (message("GRIB2", numbers, **keys, level=k) for k in (1, 2))
    parts = dict(sections(two))
    parts[6] = (6).to_bytes(4) + bytes([6, 254])
    body = one[16:-4] + b"".join(parts[number] for number in (4, 5, 6, 7))
    file = one[:8] + (16 + len(body) + 4).to_bytes(8) + body + b"7777"
    references, found = read(file)

    assert omitted(references) == {}
    [node] = fields(references)
    np.testing.assert_array_equal(found[node.path][0, 0, 1].ravel(), known(two))
    assert np.isnan(found[node.path][0, 0, 1].ravel()[3])


def test_what_is_between_messages_is_passed_over() -> None:
    """Bulletins, rubbish and beginnings of messages do not hide the messages behind them."""
    one, two = (message("GRIB2", NUMBERS + k, **small(), dataDate=20200101 + k) for k in (0, 1))
    file = b"TTAA00 KWBC\r\r\n" + one + b"GRIB\0\0\0\x02" + bytes(300_000) + two + two[:100]
    references, found = read(file)

    assert found["/t"].shape == (2, 1, 3, 4)
    np.testing.assert_array_equal(found["/t"][1].ravel(), known(two))
    reasons = omitted(references)
    assert reasons.keys() == {
        f"/message at byte {14 + len(one)}",
        f"/message at byte {len(file) - 100}",
    }
    assert "ends in the middle" in reasons[f"/message at byte {len(file) - 100}"]


@pytest.mark.parametrize("file", [b"", b"GRIB", b"GRIB" * 100, b"no such thing", message()[:-4]])
def test_a_file_without_a_message_is_refused(file: bytes) -> None:
    """What has no message that can be read is no GRIB file."""
    with pytest.raises(Unpresentable):
        read(file)


def test_long_messages_of_edition_1_are_found() -> None:
    """A length that does not fit is counted in units of 120 bytes, as ECMWF does."""
    file = message("GRIB1", np.zeros(12), **small())
    length = len(file)
    padded = -(-(length + 4) // 120) * 120
    rest = padded - length + 4
    at = next(i for i in range(8, length) if file[i : i + 3] == (length - 4 - i).to_bytes(3))
    large = bytearray(file[:-4] + bytes(padded - length) + b"7777")
    large[4:7] = (0x800000 | padded // 120).to_bytes(3)
    large[at : at + 3] = (4).to_bytes(3)
    [field] = scan(io.BytesIO(bytes(large)), len(large))
    assert isinstance(field, Field)
    assert field.length == padded
    assert rest > 0


def test_headers_say_what_messages_say(data: Path) -> None:
    """What eccodes says of a header is what it says of the whole message."""
    for name in ("hrrr.wrfsubhf.sample.grib2", "era5-2mt-2019-03-uk.grib", "reduced_gg.grib"):
        content = (data / "archival/grib" / name).read_bytes()
        field = next(iter(scan(io.BytesIO(content), len(content))))
        assert isinstance(field, Field)
        assert len(field.header) < 2000
        said = [
            json.loads(grib.gribmessages.answer(b"H" + text))
            for text in (field.header, content[field.offset : field.offset + field.length])
        ]
        assert said[0] == said[1]


def test_a_library_that_dies_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gribberish ends the process that tries it, eccodes decodes the message."""
    monkeypatch.setattr(gribberish, "parse_grib_array", lambda *_: os.abort())
    file = message("GRIB2", NUMBERS, **small())
    references, found = read(file)

    assert codec(references, "/t") == "grib"
    np.testing.assert_array_equal(found["/t"].ravel(), known(file))


@pytest.mark.parametrize("wrong", ["values", "shape", "error"])
def test_what_gribberish_gets_wrong_is_left_to_eccodes(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec is taken only if it gives the very values of every message that is tried."""
    right = gribberish.parse_grib_array

    def decode(text: bytes, *rest: object) -> np.ndarray:
        made = np.array(right(text, *rest))
        if text != second:
            return made
        if wrong == "error":
            raise KeyboardInterrupt
        return made + 1e-9 if wrong == "values" else made[1:]

    first, second = (
        message("GRIB2", NUMBERS + 1, **small(), dataDate=20200101 + k) for k in (0, 1)
    )
    monkeypatch.setattr(gribberish, "parse_grib_array", decode)
    references, found = read(first + second)

    assert codec(references, "/t") == "grib"
    np.testing.assert_array_equal(found["/t"][1].ravel(), known(second))


def test_one_message_that_cannot_be_decoded_costs_itself() -> None:
    """A message with damaged values is named; those beside it are shown."""
    good = message("GRIB2", NUMBERS, **small(), dataDate=20200101)
    parts = dict(sections(message("GRIB2", NUMBERS, **small(), bitsPerValue=24)))
    parts[7] = (9).to_bytes(4) + parts[7][4:9]
    body = b"".join(parts[number] for number in sorted(parts))
    bad = good[:8] + (20 + len(body)).to_bytes(8) + body + b"7777"
    references, found = read(good + bad)

    assert found["/t"].shape == (1, 1, 3, 4)
    assert "t: eccodes cannot decode it" in omitted(references)[f"/message at byte {len(good)}"]


def test_large_files_are_tried_by_kinds_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file with many values one message of each kind is decoded, not all."""
    monkeypatch.setattr(grib, "MAX_TRIED", 10)
    tried = []
    real = grib.Guard.__call__
    monkeypatch.setattr(
        grib.Guard, "__call__", lambda self, data: (tried.append(data[:1]), real(self, data))[1]
    )
    file = b"".join(message("GRIB2", NUMBERS, **small(), dataDate=20200101 + k) for k in range(5))
    _, found = read(file)

    assert found["/t"].shape == (5, 1, 3, 4)
    assert sorted(tried) == [b"H", b"L", b"V"]


def test_grids_are_told_apart(data: Path) -> None:
    """Fields of one parameter on two grids are two variables, each with the coordinates of its own."""
    content = (data / "archival/grib/tp_on_different_grid_resolutions.grib").read_bytes()
    references, found = read(content)

    assert found["/tp"].shape == (1, 1, 37, 72)
    assert found["/tp_2"].shape == (1, 1, 46, 90)
    assert document(references, "/tp_2")["dimension_names"][-2:] == ["latitude_1", "longitude_1"]


@pytest.mark.parametrize("dtype", ["float64", "float32", None])
def test_messages_in_references_of_kerchunk_are_decoded(dtype: str | None) -> None:
    """What kerchunk calls `grib` is decoded by eccodes, under the names that it has in Zarr v2 and v3."""
    stored = message("GRIB2", NUMBERS, **small())
    said = {"var": "t"} | ({} if dtype is None else {"dtype": dtype})
    [words] = normalize([Codec("numcodecs.grib", said)], read_data_type("float64"))
    assert words.name == "grib" in can_decode()
    spec = {"shape": [3, 4], "data_type": "float64", "codecs": [words.words], "fill_value": 0}
    pipeline = pipeline_of(json.dumps(spec).encode())
    out = bytearray(pipeline.nbytes)
    pipeline.decode(memoryview(stored), memoryview(out))
    expected = known(stored).astype(dtype or "float64")
    np.testing.assert_array_equal(np.frombuffer(out), expected)


@pytest.mark.parametrize("of", ["regular_ll_sfc_grib2", "reduced_gg_pl_32_grib2"])
def test_the_portable_view_has_messages_as_they_are(of: str) -> None:
    """The portable view cannot say messages in core codecs: it shows them as stored, and says so."""
    references, _ = read(message(of))
    [node] = fields(references)
    asked = Asked(View(ViewName.PORTABLE, 3), can_decode(), is_complete=True)
    shown = show_array(node, asked)
    assert shown.is_shown
    assert shown.form is None
    assert shown.node.documents == node.documents
    assert "cannot be said in core codecs" in shown.remark


# -- variables -------------------------------------------------------------------------------------


def field(index: int, moment: tuple[int, ...] = (2020, 1, 1, 0, 0, 0), **keys: object) -> Placed:
    """Return a field of temperature with other *keys*."""
    said = {
        "cfVarName": "t", "paramId": 130, "typeOfLevel": "isobaricInhPa", "level": 500,
        "stepType": "instant", "startStep": "0", "endStep": "0", **keys,
    }  # fmt: skip
    return placed(index, said, moment)


def shapes(*given: Placed) -> dict[str, dict[str, int]]:
    """Return how long the axes of each variable are."""
    found = variables(given, dict.fromkeys(range(len(given)), ""))
    assert sorted(f.index for v in found for f in v.fields.values()) == list(range(len(given)))
    return {v.name: {axis: len(values) for axis, values in v.axes} for v in found}


def test_a_full_grid_of_fields_is_an_array() -> None:
    """Levels and members are axes where there are several; time and step always are."""
    assert shapes(field(0)) == {"t": {"time": 1, "step": 1}}
    assert shapes(field(0), field(1, level=850)) == {"t": {"time": 1, "step": 1, "level": 2}}
    assert shapes(field(0, number=0), field(1, number=1)) == {
        "t": {"time": 1, "number": 2, "step": 1}
    }


def test_a_grid_that_is_half_full_has_missing_chunks() -> None:
    """An array may lack as many fields as it has; with fewer, its fields are a list."""
    diagonal = [field(k, (2020, 1, 1 + k, 0, 0, 0), level=k) for k in range(3)]
    assert shapes(*diagonal[:2]) == {"t": {"time": 2, "step": 1, "level": 2}}
    assert shapes(*diagonal) == {"t": {"message": 3}}


def test_fields_at_one_place_are_told_apart_by_what_differs() -> None:
    """Accumulations over different times are different variables; what nothing tells apart is a list."""
    assert shapes(field(0, startStep="0", endStep="6"), field(1, startStep="3", endStep="6")) == {
        "t_length_6": {"time": 1, "step": 1},
        "t_length_3": {"time": 1, "step": 1},
    }
    assert shapes(field(0), field(1)) == {"t": {"message": 2}}


def test_names_say_as_much_as_is_needed() -> None:
    """A parameter on several kinds of levels, or of several kinds of steps, says which."""
    assert shapes(
        field(0), field(1, typeOfLevel="surface", level=0), field(2, stepType="max")
    ).keys() == {"t_isobaricInhPa_instant", "t_surface_instant", "t_isobaricInhPa_max"}


def test_parameters_without_a_name_have_their_numbers() -> None:
    """Unknown parameters are told apart, by the numbers that the message has for them."""
    unknown = {"cfVarName": "unknown", "shortName": "unknown", "paramId": 0, "discipline": 209}
    assert shapes(
        field(0, **unknown, parameterCategory=10, parameterNumber=0),
        field(1, **unknown, parameterCategory=10, parameterNumber=1),
    ).keys() == {"p209_10_0", "p209_10_1"}


@pytest.mark.parametrize(
    ("text", "hours"),
    [("6", 6), ("15m", 0.25), ("30s", 1 / 120), ("2D", 48), ("4294967296", None), ("x", None)],
)
def test_steps_are_hours(text: str, hours: float | None) -> None:
    """A step is said in hours, whatever its unit; one that makes no sense is none."""
    assert field(0, endStep=text).step == hours


def test_a_date_that_is_none_leaves_a_list() -> None:
    """Climatologies have dates that no calendar has: their fields are in the order of the file."""
    assert shapes(field(0), field(1, (2020, 13, 0, 0, 0, 0))) == {"t": {"message": 2}}


def test_what_only_begins_like_a_message_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is passed over in silence, whatever there is too much of."""
    monkeypatch.setattr(gribscan, "MAX_MESSAGES", 2)
    file = message() * 3
    found = list(scan(io.BytesIO(file), len(file)))
    assert [type(item) for item in found] == [Field, Field, Broken]
