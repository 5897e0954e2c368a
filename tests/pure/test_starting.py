"""What starting does without: modules that nothing needs before a mount answers, and dates without their parser."""

import datetime
import email.utils
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.model.moment import http_date, parse_http_date

LATER = {
    "PIL", "asyncio", "azure", "boto3", "botocore", "concurrent.futures", "difflib", "email",
    "google", "http.client", "icechunk", "multiprocessing", "numcodecs", "obstore", "rich",
    "statistics", "tomllib", "urllib.request", "xarray", "yaml", "zarr",
}  # fmt: skip
"""What takes long to import, or brings much along, and is for few mounts, or for later."""
FOR_THE_DAEMON = {"numpy", "ssl", "trio", "zstandard"}


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("vzfs.cli.main", LATER | FOR_THE_DAEMON | {"vzfs.access"}),
        ("vzfs.cli.mounting", LATER | FOR_THE_DAEMON),
        ("vzfs.cli.mounting, vzfs.mount, vzfs.fuse", LATER),
    ],
    ids=["any command", "mount and umount", "the daemon"],
)
def test_what_is_needed_later_is_imported_later(imported: str, absent: set[str]) -> None:
    """Commands import nothing that serves a mount, and who serves one imports nothing that it may never need."""
    program = f"import sys, {imported}; print(*sorted({absent!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "\n"


@given(st.integers(0, 2**32 - 1))
def test_dates_of_http_are_what_others_write_and_read(seconds: int) -> None:
    """A date is written, and read, as the standard library does both."""
    date = http_date(seconds)
    assert date == email.utils.formatdate(seconds, usegmt=True)
    moment = parse_http_date(date)
    assert moment == email.utils.parsedate_to_datetime(date)
    assert moment == datetime.datetime.fromtimestamp(seconds, datetime.UTC)


@pytest.mark.parametrize(
    "date",
    [
        "",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Wed, 30 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_other_dates_are_left_to_others(date: str) -> None:
    """What is not written as HTTP has it now, or is no moment, is not read."""
    assert parse_http_date(date) is None
