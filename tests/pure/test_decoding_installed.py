"""Which codecs there are, found out without importing one."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vzfs.decoding import installed as module
from vzfs.decoding.installed import _look, can_decode, installed, package_of
from vzfs.errors import ConfigError


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    _look.cache_clear()
    yield
    _look.cache_clear()


def test_what_is_asked_for_needs_no_import() -> None:
    """Finding out what can be decoded imports neither zarr nor numcodecs."""
    program = (
        "import sys; from vzfs.decoding.installed import can_decode\n"
        "assert 'numcodecs.zlib' in can_decode()\n"
        "assert not {'zarr', 'numcodecs'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("version", ["", "2.18.7", "3.3.9"])
def test_without_zarr_it_is_said_what_to_install(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without zarr, or with one that is too old, one line says what the view needs and how to get it."""
    monkeypatch.setattr(module, "_version", lambda package: version if package == "zarr" else "1")

    with pytest.raises(ConfigError, match=r"^the decoded view needs zarr.*'vzfs") as caught:
        can_decode()

    assert str(caught.value).endswith(": pip install 'vzfs[decoded]'")


class Point:
    """An entry point."""

    def __init__(self, group: str, name: str, version: str) -> None:
        self.group = group
        self.name = name
        self.dist = type("Package", (), {"name": "a-package", "version": version})


def test_packages_declare_their_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs of other packages are found in both ways in which zarr finds them; their versions count."""
    tags = set()
    for version in "12":
        points = [Point("zarr.codecs", "one", version), Point("zarr.codecs.two", "x", version)]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda points=points: points)
        _look.cache_clear()
        assert {"one", "two"} <= can_decode()
        tags.add(installed().tag)

    assert len(tags) == 2


def test_a_codec_without_its_library_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What zarr has by name alone can be decoded if the library that it needs is there."""
    there: set[str] = set()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: find("zarr") if name in there else None
    )
    assert not {"numcodecs.zfpy", "HorizontalDeltaCodec"} & can_decode()

    there |= {"zfpy", "virtual_tiff"}
    _look.cache_clear()
    assert {"numcodecs.zfpy", "HorizontalDeltaCodec"} <= can_decode()


@pytest.mark.parametrize(
    ("codec", "package"),
    [
        ("imagecodecs_lzw", "imagecodecs"),
        ("grib", "eccodes"),
        ("HorizontalDeltaCodec", "virtual-tiff"),
        ("gribberish", "gribberish"),
        ("numcodecs.zfpy", "numcodecs[zfpy]"),
        ("something.else", ""),
    ],
)
def test_packages_of_codecs_are_known(codec: str, package: str) -> None:
    """For a codec that is missing, the package is known that has it."""
    assert package_of(codec) == package
