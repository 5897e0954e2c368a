"""Configuration from files, environment and flags."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs import config
from vzfs.access import StoreOptions
from vzfs.config import DEFAULT_CACHE_SIZE, Config, Flags, load, parse_size, parse_time
from vzfs.errors import ConfigError
from vzfs.model.location import parse_prefix
from vzfs.model.snapshot import RefSpec

FILE = """
cache-dir = "/fast/cache"
cache-size = "2GB"
memory = 1000
deadline = 5

[[bucket]]
prefix = "s3://noaa/"
region = "us-east-1"
anonymous = true

[[bucket]]
prefix = "s3://noaa/private/"
endpoint = "https://minio.example.org"
path-style = true

[[allow]]
prefix = "s3://noaa/oisst/"

[[allow]]
prefix = "s3://noaa/private/x/"

[[map]]
from = "file:///old/"
to = "/new"
"""


@pytest.fixture(autouse=True)
def _no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "none.toml")


def read(tmp_path: Path, text: str, **flags: object) -> Config:
    path = tmp_path / "vzfs.toml"
    path.write_text(text)
    return load("s3://repos/mine", Flags(config=str(path), **flags), {"HOME": "/home/me"})


def test_a_file_configures_everything(tmp_path: Path) -> None:
    """Values, buckets, allowed prefixes and relocations come from one TOML file."""
    found = read(tmp_path, FILE)

    assert (found.cache_dir, found.cache_size) == (Path("/fast/cache"), 2 * 2**30)
    assert (found.memory, found.deadline) == (1000, 5.0)
    assert [str(p.prefix) for p in found.policies] == ["s3://noaa/oisst/", "s3://noaa/private/x/"]
    assert str(found.relocations[0].target) == "file:///new/"


def test_a_prefix_gets_the_options_of_the_closest_bucket(tmp_path: Path) -> None:
    """Endpoint, region and credentials of a prefix are those of the closest [[bucket]] above it."""
    near, closer = read(tmp_path, FILE).policies

    assert near.store == StoreOptions(region="us-east-1", anonymous=True)
    assert closer.store == StoreOptions(endpoint="https://minio.example.org", path_style=True)


def test_flags_add_prefixes_and_override_values(tmp_path: Path) -> None:
    """Lists add up; of single values the flag wins over the environment, and that over the file."""
    found = read(tmp_path, FILE, allow=["/data"], cache_size="1M", store=StoreOptions(region="eu"))

    assert [str(p.prefix) for p in found.policies][-1] == "file:///data/"
    assert found.cache_size == 2**20
    assert found.store.region == "eu"
    path = tmp_path / "vzfs.toml"
    environ = {"VZFS_CACHE_DIR": "/env", "VZFS_CONFIG": str(path)}
    assert load("/repo", Flags(), environ).cache_dir == Path("/env")
    assert load("/repo", Flags(cache_dir="/flag"), environ).cache_dir == Path("/flag")
    assert load("/repo", Flags(no_cache=True), environ).cache_dir is None


def test_the_environment_names_an_endpoint(tmp_path: Path) -> None:
    """An endpoint of the environment is one like any other, and an option wins over it."""
    environ = {"AWS_ENDPOINT_URL": "https://env.example"}

    assert load("s3://b/r", Flags(), environ).store.endpoint == "https://env.example"
    flags = Flags(store=StoreOptions(endpoint="https://flag.example"))
    assert load("s3://b/r", flags, environ).store.endpoint == "https://flag.example"


def test_zero_is_a_value(tmp_path: Path) -> None:
    """A zero on the command line is refused or used, and never taken for nothing."""
    assert read(tmp_path, FILE, cache_size="0").cache_size == 0
    with pytest.raises(ConfigError, match="not a number of seconds"):
        read(tmp_path, FILE, deadline=0.0)


WRONG = {
    "alow = 1": "unknown key 'alow'",
    '[[allow]]\nprefix = "s3://b/"\npublic = true': "unknown key 'public'",
    "[[allow]]": "needs 'prefix'",
    "allow = 3": "must be written",
    '[[allow]]\nprefix = "s3://"': "missing or malformed",
    '[[bucket]]\nprefix = "s3://b/"\nanonymous = "yes"': "true or false",
    '[[bucket]]\nprefix = "s3://b/"\nregion = 3': "a string",
    'cache-size = "lots"': "not a size",
    "deadline = 0": "not a number of seconds",
    "= nonsense": "Invalid",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_mistake_in_a_file_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    """A misspelt key, a wrong type or a prefix of everything is refused, and named."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A configuration file that is named must exist."""
    with pytest.raises(ConfigError, match="No such file"):
        load("/repo", Flags(config=str(tmp_path / "none")), {})


def test_an_equals_sign_in_a_location_is_written_encoded(tmp_path: Path) -> None:
    """In --allow and --map an equals sign of the location is %3D; a bare one is refused."""
    found = read(tmp_path, "", allow=["s3://b/day%3D1/"], map=["s3://b/a%3Db/=s3://c/d%3De/"])

    assert found.policies[0].prefix == parse_prefix("s3://b/day=1/")
    assert found.relocations[0].origin.key == "a=b"
    assert found.relocations[0].target.key == "d=e"
    for wrong in ({"allow": ["s3://b/day=1/"]}, {"map": ["s3://b/"]}, {"map": ["a=b=c"]}):
        with pytest.raises(ConfigError):
            read(tmp_path, "", **wrong)


def test_flags_may_name_paths_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the command line an allowed or relocated path may begin with a dot or a tilde."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = read(tmp_path, "", allow=["./data", "~/more"], map=["s3://b/=../moved"])

    assert [p.prefix for p in found.policies] == [
        parse_prefix(f"{tmp_path}/data"),
        parse_prefix("/home/me/more"),
    ]
    assert found.relocations[0].target == parse_prefix(str(tmp_path.parent / "moved"))
    with pytest.raises(ConfigError):
        read(tmp_path, '[[allow]]\nprefix = "./data"')


def test_one_snapshot_is_asked_for(tmp_path: Path) -> None:
    """--branch (also with --as-of), --tag and --snapshot exclude each other."""
    assert read(tmp_path, "").ref == RefSpec()
    assert read(tmp_path, "", branch="b", as_of="1970-01-01T00:00:01Z").ref == RefSpec(
        branch="b", as_of=10**9
    )
    for wrong in ({"tag": "t", "branch": "b"}, {"tag": "t", "as_of": "2026-01-01"}):
        with pytest.raises(ConfigError, match="more than one"):
            read(tmp_path, "", **wrong)


SIZES = {
    "0": 0,
    "500": 500,
    "500M": 500 * 2**20,
    "10GB": 10 * 2**30,
    "1.5 TiB": 3 * 2**39,
    "1kb": 1024,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes_have_units(text: str, size: int) -> None:
    """A size is a number of bytes with a unit of powers of 1024, however it is spelt."""
    assert parse_size(text) == size


@given(st.text())
def test_any_text_is_a_size_a_time_or_an_error(text: str) -> None:
    """Values that cannot be read raise ConfigError and nothing else."""
    for parse in (parse_size, parse_time):
        with contextlib.suppress(ConfigError):
            assert isinstance(parse(text), int)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    """A date alone is its first instant in UTC; an offset counts."""
    assert parse_time("1970-01-02") == 86400 * 10**9
    assert parse_time("1970-01-01T01:00:00.000001+01:00") == 1000


def test_without_a_home_nothing_is_cached() -> None:
    """A daemon without HOME keeps no cache unless told where; systemd's cache directory is used."""
    assert load("/repo", Flags(), {}).cache_dir is None
    assert load("/repo", Flags(), {"HOME": "/h"}).cache_dir == Path("/h/.cache/vzfs")
    assert load("/repo", Flags(), {"CACHE_DIRECTORY": "/var/cache/vzfs"}).cache_dir == Path(
        "/var/cache/vzfs"
    )
    assert load("/repo", Flags(), {}).cache_size == DEFAULT_CACHE_SIZE


def test_a_source_is_a_url_or_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A repository is named by a URL or by a path, which may be relative."""
    monkeypatch.chdir(tmp_path)

    assert load("./my repo", Flags(), {}).repository == parse_prefix(str(tmp_path / "my repo"))
    assert load("s3://b/r/", Flags(), {}).repository == parse_prefix("s3://b/r")
    with pytest.raises(ConfigError):
        load("s4://b/r", Flags(), {})
