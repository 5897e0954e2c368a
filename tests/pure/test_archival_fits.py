"""FITS files: images and tables as they lie there, and everything else by name."""

import io
import warnings

import numpy as np
import pytest
from astropy.io import fits

from tests.pure.hierarchies import LOCATION, arrays, document, omitted, parsed
from vzfs.archival import words
from vzfs.archival.building import Unpresentable
from vzfs.archival.parsers.fits import parse
from vzfs.model.references import References

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 spec")


def written(*units: object) -> bytes:
    """Return a FITS file of header and data units."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(units)).writeto(file)
    return file.getvalue()


def read(file: bytes) -> tuple[References, dict[str, np.ndarray]]:
    """Return what *file* is said to hold, and the values of its arrays."""
    references = parsed(parse, io.BytesIO(file))
    return references, arrays(references, {LOCATION: file})


def raw(file: bytes, number: int) -> np.ndarray:
    """Return the stored values of a unit, as astropy reads them."""
    with fits.open(io.BytesIO(file), do_not_scale_image_data=True) as units:
        return np.array(units[number].data)


@pytest.mark.parametrize("code", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_images_are_those_of_astropy(code: str) -> None:
    """Images of every type, the first and those in extensions, are what astropy reads."""
    values = (np.arange(2 * 3 * 5).reshape(2, 3, 5) * 7).astype(code)
    file = written(
        fits.PrimaryHDU(values), fits.ImageHDU(values[0], name="SCI"), fits.ImageHDU(values)
    )
    references, found = read(file)

    assert found.keys() == {"/PRIMARY", "/SCI", "/HDU2"}
    np.testing.assert_array_equal(found["/PRIMARY"], values)
    np.testing.assert_array_equal(found["/SCI"], values[0])
    assert found["/SCI"].dtype == np.dtype(code)
    assert document(references, "/PRIMARY")["dimension_names"] == ["NAXIS3", "NAXIS2", "NAXIS1"]
    assert omitted(references) == {}


def test_scaled_values_stay_as_they_are_stored() -> None:
    """What values stand for is said by the attributes that xarray scales and masks by."""
    unit = fits.ImageHDU(np.arange(6, dtype="u2").reshape(2, 3), name="U")
    masked = fits.ImageHDU(np.arange(6, dtype="i2"), name="M")
    masked.header["BLANK"] = 5
    masked.header["BSCALE"] = 0.5
    file = written(fits.PrimaryHDU(), unit, masked)
    references, found = read(file)

    np.testing.assert_array_equal(found["/U"], raw(file, 1))
    attributes = document(references, "/U")["attributes"]
    assert (attributes["add_offset"], found["/U"][0, 1]) == (32768, 1 - 32768)
    attributes = document(references, "/M")["attributes"]
    assert (attributes["_FillValue"], attributes["scale_factor"]) == (5, 0.5)


def test_cards_become_attributes() -> None:
    """Texts, numbers, truth values, long texts, comments and long keywords are said by attributes."""
    unit = fits.PrimaryHDU(np.zeros(3))
    unit.header["OBJECT"] = "M 31's"
    unit.header["EXPTIME"] = 1.5e3
    unit.header["GOOD"] = True
    unit.header["COUNT"] = -7
    unit.header["LONGTEXT"] = "x" * 200
    unit.header["HIERARCH ESO TEL ALT"] = 4.25
    unit.header["HISTORY"] = "made"
    unit.header["EMPTY"] = None
    references, _ = read(written(unit))

    attributes = document(references, "/PRIMARY")["attributes"]
    assert attributes["OBJECT"] == "M 31's"
    assert attributes["EXPTIME"] == 1500.0
    assert attributes["GOOD"] is True
    assert attributes["COUNT"] == -7
    assert attributes["LONGTEXT"] == "x" * 200
    assert attributes["ESO TEL ALT"] == 4.25
    assert attributes["HISTORY"] == [" made"] or attributes["HISTORY"] == ["made"]
    assert "NAXIS" not in attributes


def test_what_is_said_without_data_is_said_by_the_root() -> None:
    """A first header without data is what the root says."""
    unit = fits.PrimaryHDU()
    unit.header["TELESCOP"] = "HST"
    references, found = read(written(unit, fits.ImageHDU(np.zeros(2))))

    assert found.keys() == {"/HDU1"}
    assert document(references, "/")["attributes"]["TELESCOP"] == "HST"


def test_tables_are_arrays_of_structures() -> None:
    """A row of a table is a structure; a column with several values in a row is several fields."""
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("time", "D", unit="s", array=[1.5, 2.5, np.nan]),
            fits.Column("count", "J", array=[1, -2, 3]),
            fits.Column("name", "4A", array=["a", "bcd", ""]),
            fits.Column("pair", "2E", array=[[1, 2], [3, 4], [5, 6]]),
            fits.Column("good", "L", array=[True, False, True]),
        ],
        name="EVENTS",
    )
    references, found = read(written(fits.PrimaryHDU(), table))

    rows = found["/EVENTS"]
    assert rows.dtype.names == ("time", "count", "name", "pair[0]", "pair[1]", "good")
    np.testing.assert_array_equal(rows["time"], [1.5, 2.5, np.nan])
    assert rows["count"].tolist() == [1, -2, 3]
    assert rows["name"].tolist() == [b"a", b"bcd", b""]
    assert rows["pair[1]"].tolist() == [2, 4, 6]
    assert rows["good"].tolist() == [b"T", b"F", b"T"]
    assert document(references, "/EVENTS")["attributes"]["TUNIT1"] == "s"


def test_large_images_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is cut into chunks of one size, each in one piece."""
    monkeypatch.setattr(words, "PIECE", 1000)
    monkeypatch.setattr(words, "_LEAST_PIECE", 100)
    values = np.arange(3 * 10 * 40, dtype="f4").reshape(3, 10, 40)
    references, found = read(written(fits.PrimaryHDU(values)))

    assert document(references, "/PRIMARY")["chunk_grid"]["configuration"]["chunk_shape"] == [
        1,
        5,
        40,
    ]
    np.testing.assert_array_equal(found["/PRIMARY"], values)


def test_what_cannot_be_said_is_left_out_with_its_reason() -> None:
    """Compressed images, columns of variable length and other extensions are named."""
    file = written(
        fits.PrimaryHDU(),
        fits.CompImageHDU(np.zeros((64, 64), "i2"), name="PACKED"),
        fits.BinTableHDU.from_columns(
            [fits.Column("v", "PJ()", array=np.array([[1], [1, 2]], dtype=object))], name="VARIABLE"
        ),
        fits.TableHDU.from_columns([fits.Column("a", "I4", array=[1, 2])], name="TEXT"),
        fits.ImageHDU(np.ones(3), name="GOOD"),
    )
    references, found = read(file)

    assert found.keys() == {"/GOOD"}
    reasons = omitted(references)
    assert "compressed image" in reasons["/PACKED"]
    assert "variable length" in reasons["/VARIABLE"]
    assert "kind TABLE" in reasons["/TEXT"]


def test_units_of_one_name_are_told_apart() -> None:
    """A name that was there before has the number of its unit behind it; slashes are none in a name."""
    units = [fits.ImageHDU(np.full(k, k), name="A/B") for k in (1, 2)]
    _, found = read(written(fits.PrimaryHDU(), *units))

    assert sorted(found) == ["/A_B", "/A_B_2"]


def test_a_file_that_ends_early_loses_what_it_lacks() -> None:
    """An image whose data are not all there is named; what is before it is shown."""
    file = written(fits.PrimaryHDU(np.zeros(3)), fits.ImageHDU(np.zeros(10_000), name="CUT"))
    references, found = read(file[:-20_000])
    assert found.keys() == {"/PRIMARY"}
    assert "ends before" in omitted(references)["/CUT"]

    references, found = read(file[: 2880 * 2] + b"rubbish")
    assert found.keys() == {"/PRIMARY"}
    assert "cannot be read" in omitted(references)["/HDU1"]


def cards(*lines: str) -> bytes:
    """Return a header of these cards."""
    text = b"".join(line.ljust(80).encode() for line in (*lines, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"SIMPLE  = T",
        cards("SIMPLE  = T")[:-1],
        cards("XTENSION= 'IMAGE'"),
        cards("SIMPLE  = T", "BITPIX  = 7", "NAXIS   = 0"),
        cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 99"),
        cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = -5"),
        cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1"),
        cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 1", "GCOUNT  = -1"),
    ],
)
def test_no_fits_is_refused(file: bytes) -> None:
    """What has no first header that can be read is no FITS file."""
    with pytest.raises(Unpresentable):
        read(file)


def test_lengths_that_no_file_has_cost_nothing() -> None:
    """An image that is said to be larger than any file is named, and nothing is reserved for it."""
    huge = [f"NAXIS{i}  = 4000000000" for i in (1, 2, 3)]
    references, found = read(cards("SIMPLE  = T", "BITPIX  = -64", "NAXIS   = 3", *huge))
    assert found == {}
    assert "ends before" in omitted(references)["/PRIMARY"]
