"""What a command line can name: places, patterns, lists of files."""

from pathlib import Path

import pytest

from vzfs.config import ConfigError, parse_sources
from vzfs.model.location import parse_location, parse_prefix, path_to_url
from vzfs.model.selection import compile_pattern, is_deep


@pytest.mark.parametrize(
    ("pattern", "met", "not_met"),
    [
        ("*.nc", ["a.nc", "b c.nc"], [".hidden.nc", "x/a.nc", "a.nc4", "nc"]),
        ("**/*.nc", ["a.nc", "x/a.nc", "x/y/a.nc"], [".x/a.nc", "x/.a.nc", "a.txt"]),
        ("20??/d[0-3]*.nc", ["2001/d1.nc", "2020/d3x.nc"], ["2001/d4.nc", "201/d1.nc"]),
        ("x[!a]y", ["xby", "x!y"], ["xay", "x/y", "xy"]),
        ("a+b(1).n*", ["a+b(1).nc"], ["aab(1).nc"]),
        ("[", ["["], ["x"]),
        ("x[]]y", ["x]y"], ["xy"]),
    ],
)
def test_a_pattern_means_names_as_in_a_shell(
    pattern: str, met: list[str], not_met: list[str]
) -> None:
    """Stars stay within a folder, two of them go through folders, and hidden names are met only when asked for."""
    compiled = compile_pattern(pattern)
    assert [name for name in met + not_met if compiled.match(name)] == met


def test_how_deep_a_pattern_reaches() -> None:
    """A pattern of one level needs that level listed and no other."""
    assert not is_deep("*.nc")
    assert is_deep("*/*.nc")
    assert is_deep("**.nc")


def test_a_pattern_begins_behind_its_folder(tmp_path: Path) -> None:
    """What lies before the first special character is the place, and what comes behind its last slash the pattern."""
    named = parse_sources(["s3://b/obs/20*/x%20y*.nc"], "time")
    assert named.place == parse_prefix("s3://b/obs/")
    assert (named.selection.pattern, named.selection.concat) == ("20*/x y*.nc", "time")
    named = parse_sources([f"{tmp_path}/a?.nc"])
    assert named.place == parse_prefix(str(tmp_path))
    assert named.selection.pattern == "a?.nc"


def test_a_file_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    """A local name that is there is meant itself."""
    (tmp_path / "a[1].nc").write_bytes(b"")
    named = parse_sources([f"{tmp_path}/a[1].nc"])
    assert named.place == parse_prefix(path_to_url(tmp_path / "a[1].nc"))
    assert not named.selection.pattern


def test_several_files_lie_in_their_common_folder() -> None:
    """Files that are named one by one are all meant, in that order, and no others."""
    named = parse_sources(["s3://b/x/2.nc", "s3://b/x/y/1.nc"])
    assert named.place == parse_prefix("s3://b/x")
    assert named.selection.files == tuple(map(parse_location, ["s3://b/x/2.nc", "s3://b/x/y/1.nc"]))
    assert named.text == "s3://b/x/2.nc and 1 more"
    assert parse_sources(["s3://b/x/2.nc", "s3://c/x/1.nc"]).place == parse_prefix("s3://b/x")


def test_a_list_of_files(tmp_path: Path) -> None:
    """A list has a source in each line, but for comments; relative paths are from the folder of the list."""
    (tmp_path / "list.txt").write_text("# the files\n\na.nc\ns3://b/x.nc\n/data/y.nc\n")
    named = parse_sources([f"@{tmp_path}/list.txt"])
    assert [str(file) for file in named.selection.files] == [
        path_to_url(tmp_path / "a.nc"),
        "s3://b/x.nc",
        "file:///data/y.nc",
    ]


@pytest.mark.parametrize(
    "sources",
    [["@/none/such"], ["redirect+https://x.org/*.nc"], [], ["s3://b/x?versionId=1"], ["s4://b/*"]],
)
def test_what_cannot_be_meant_is_refused(sources: list[str]) -> None:
    """A list that is not there, a pattern behind a redirect, no source or an unknown scheme is an error of usage."""
    with pytest.raises(ConfigError):
        parse_sources(sources)
