"""What tests of credentials share: an environment without any, a clock, and ears for secrets."""

import logging
import os
import time
import traceback
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from vzfs.access import StoreOptions
from vzfs.errors import SourceError
from vzfs.source.credentials import Keyring

SECRET = "hushhushhush"
"""A part of every secret of these tests."""

STANDARD = StoreOptions()
ENVIRONMENT = StoreOptions(credentials="environment")
PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "GCE_", "VZFS_", "IDENTITY_", "MSI_")


@pytest.fixture(autouse=True)
def alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[None]:
    """Have no credentials from outside, and fail the test if a secret is logged or printed."""
    for name in os.environ:
        if name.startswith(PREFIXES) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    caplog.set_level(logging.DEBUG)
    yield
    said = [record.getMessage() + str(record.exc_info) for record in caplog.get_records("call")]
    said += capfd.readouterr()
    assert [text for text in said if "hush" in text] == []


async def refusal(asking: Awaitable[object]) -> SourceError:
    """Return the error with which *asking* ends, which says nothing secret."""
    with pytest.raises(SourceError) as caught:
        await asking
    error = caught.value
    shown = [str(error), repr(error), *traceback.format_exception(error), repr(error.__context__)]
    assert [text for text in shown if "hush" in text] == []
    return error


class Clock:
    """Both clocks of a keyring, moved on by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def keyring(self, patience: float = 30.0) -> Keyring:
        return Keyring(
            patience=patience,
            clock=lambda: time.time() + self.ahead,
            steady=lambda: time.monotonic() + self.ahead,
        )
