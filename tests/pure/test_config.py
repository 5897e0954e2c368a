"""Configuration from files, environment and flags."""

import contextlib
import dataclasses
import os
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.access import StoreOptions, Visibility
from vzfs.cli.mounting import _reloading, mount
from vzfs.cli.options import configuration
from vzfs.config import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_FOLLOW,
    DEFAULT_VIEW,
    Config,
    Egress,
    Flags,
    files,
    load,
    parse_egress,
    parse_size,
    parse_time,
)
from vzfs.config.loading import load_rules
from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.location import parse_prefix
from vzfs.model.manifest import ChunkKind, ChunkRef
from vzfs.model.snapshot import RefSpec

FILE = """
cache-dir = "/fast/cache"
cache-size = "2GB"
memory = 1000
deadline = 5
max-egress = "50G/day"

[[bucket]]
nickname = "noaa"
prefix = "s3://noaa/"
region = "us-east-1"
anonymous = true

[[bucket]]
nickname = "ours"
prefix = "s3://noaa/private/"
endpoint = "https://minio.example.org"
path-style = true

[[policy]]
bucket = "noaa"
subprefix = "oisst/"
public = true

[[policy]]
bucket = "ours"

[[map]]
from = "file:///old/"
to = "/new"
"""


@pytest.fixture(autouse=True)
def _administrator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the tests be the administrator, and their folder the machine's."""
    monkeypatch.setattr(files, "ADMINISTRATOR", os.geteuid())
    monkeypatch.setattr(files, "SYSTEM_FILE", tmp_path / "etc/config.toml")
    monkeypatch.setattr(files, "SYSTEM_FOLDER", tmp_path / "etc/conf.d")


def rule(tmp_path: Path, text: str, name: str = "config.toml") -> Path:
    """Write a file of the administrator."""
    path = tmp_path / "etc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for written in (path, path.parent, tmp_path / "etc"):
        written.chmod(written.stat().st_mode & ~0o022)
    return path


def read(tmp_path: Path, text: str, **flags: object) -> Config:
    path = tmp_path / "vzfs.toml"
    path.write_text(text)
    return load("s3://repos/mine", Flags(config=str(path), **flags), {"HOME": "/home/me"})


def test_a_file_configures_everything(tmp_path: Path) -> None:
    """Values, buckets, allowed prefixes and relocations come from one TOML file."""
    found = read(tmp_path, FILE)

    assert (found.cache_dir, found.cache_size) == (Path("/fast/cache"), 2 * 2**30)
    assert (found.memory, found.deadline) == (1000, 5.0)
    assert [str(p.prefix) for p in found.policies] == ["s3://noaa/oisst/", "s3://noaa/private/"]
    assert [(p.nickname, p.subprefix, p.public) for p in found.policies] == [
        ("noaa", "oisst/", True),
        ("ours", "", False),
    ]
    assert {p.origin for p in found.policies} == {str(tmp_path / "vzfs.toml")}
    assert found.max_egress == Egress(50 * 2**30, per_day=True)
    assert str(found.relocations[0].target) == "file:///new/"


NEAR = StoreOptions(region="us-east-1", anonymous=True)
CLOSER = StoreOptions(endpoint="https://minio.example.org", path_style=True)


def test_a_prefix_gets_the_options_of_the_closest_bucket(tmp_path: Path) -> None:
    """A policy is reached as its bucket says, and what --allow names as the closest [[bucket]] above it."""
    allow = ["s3://noaa/x/", "s3://noaa/private/x/"]
    found = read(tmp_path, FILE, allow=allow).policies

    assert [p.store for p in found] == [NEAR, CLOSER, NEAR, CLOSER]


def test_allow_can_name_the_bucket(tmp_path: Path) -> None:
    """`--allow PREFIX=NICKNAME` is reached as the bucket of that nickname is, and is private."""
    found = read(tmp_path, FILE, allow=["s3://noaa/private/x/=noaa"]).policies[-1]

    assert (str(found.prefix), found.store, found.public) == ("s3://noaa/private/x/", NEAR, False)
    for wrong, message in {
        "s3://noaa/x/=others": "does not exist.*noaa, ours.*%3D",
        "s3://other/x/=noaa": "does not cover",
        "s3://noaa/x/=a=b": "does not exist",
        "memory:///x": "never read",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read(tmp_path, FILE, allow=[wrong])


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
    '[[allow]]\nprefix = "s3://b/"': r"\[\[bucket\]\] with prefix = \"s3://b/\".*policy set",
    "allow = 3": "not known",
    '[[policy]]\nbucket = "b"\npublik = true': "unknown key 'publik'",
    '[[policy]]\nbucket = "b"\npublic = 1': "true or false",
    "[[policy]]": "needs 'bucket'",
    "policy = 3": "must be written",
    '[[policy]]\nbucket = "b"': "'b', which does not exist",
    '[[policy]]\nbucket = "b c"': "no nickname",
    "[[bucket]]": "needs 'prefix'",
    '[[bucket]]\nprefix = "s3://"': "missing or malformed",
    '[[bucket]]\nprefix = "memory:///x"': "never read",
    '[[bucket]]\nprefix = "s3://b/"\nnickname = "b/c"': "is no nickname",
    '[[bucket]]\nprefix = "s3://b/"\nnickname = ""': "is no nickname",
    f'[[bucket]]\nprefix = "s3://b/"\nnickname = "{65 * "a"}"': "is no nickname",
    '[[bucket]]\nprefix = "s3://b/"\naddresses = "::1"': "a list of strings",
    '[[bucket]]\nprefix = "s3://b/"\naddresses = ["local"]': "not a network",
    '[[bucket]]\nprefix = "s3://b/"\nendpoint = "host:9000"': "not the URL",
    '[[bucket]]\nprefix = "s3://b/"\nendpoint = "https://host:port"': "not the URL",
    '[[bucket]]\nprefix = "az://b/"\naccount = "https://x"': "Azure storage account",
    '[[bucket]]\nprefix = "s3://b/"\nanonymous = true\ncredentials = "environment"': "exclude",
    'max-egress = "50G/week"': "50G/day",
    "users-may-allow = true": "administrator only",
    '[[bucket]]\nprefix = "s3://b/"\nanonymous = "yes"': "true or false",
    '[[bucket]]\nprefix = "s3://b/"\nregion = 3': "a string",
    'cache-size = "lots"': "not a size",
    'view = "plain"': "views are stored, portable, decoded",
    "view = 3": "is no view",
    'zarr-format = "3"': "can be 2 or 3",
    "zarr-format = 3.0": "can be 2 or 3",
    "zarr-format = true": "can be 2 or 3",
    "consolidated = 1": "true or false",
    "follow = 10": "unknown key 'follow'",
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
    """In --allow and --map an equals sign inside a location is %3D."""
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
        read(tmp_path, '[[bucket]]\nprefix = "./data"')


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


# -- what is where -----------------------------------------------------------------------------


def test_a_subprefix_stays_in_its_bucket(tmp_path: Path) -> None:
    """A subprefix is a part of a URL below its bucket, and cannot lead out of it."""
    bucket = '[[bucket]]\nnickname = "b"\nprefix = "file:///d/in/"\n'
    policy = '[[policy]]\nbucket = "b"\nsubprefix = '

    (found,) = read(tmp_path, f'{bucket}{policy}"a%20b"').policies
    assert found.prefix == parse_prefix("/d/in/a b")
    for leaving in ("../out", "x/../../out", "%2e%2e/out", "?x"):
        with pytest.raises(ConfigError):
            read(tmp_path, f'{bucket}{policy}"{leaving}"')
    store = bucket.replace("file:///d/in/", "s3://d/in/")
    for wrong in ("/x", "a//b", "../out", "%2e%2e/out", "./x"):
        with pytest.raises(ConfigError, match="begins with a slash"):
            read(tmp_path, f'{store}{policy}"{wrong}"')


def test_a_nickname_is_unique_among_the_files_of_one_side(tmp_path: Path) -> None:
    """Two buckets of one nickname are an error that names their files, if both are the administrator's, or the user's."""
    bucket = '[[bucket]]\nnickname = "b"\nprefix = "s3://{}/"\n'
    with pytest.raises(ConfigError, match=r"two buckets.*vzfs\.toml"):
        read(tmp_path, bucket.format("b") + bucket.format("c"))
    unnamed = '[[bucket]]\nprefix = "s3://c/"\n'
    assert read(tmp_path, unnamed + unnamed).policies == []
    rule(tmp_path, bucket.format("b"), "conf.d/a.toml")
    rule(tmp_path, bucket.format("c"), "conf.d/b.toml")
    with pytest.raises(ConfigError, match=r"conf\.d/a\.toml and .*conf\.d/b\.toml"):
        read(tmp_path, "")


def test_users_and_the_administrator_may_choose_the_same_nickname(tmp_path: Path) -> None:
    """A policy names the bucket of its own side; a user's names the administrator's where the user has none."""
    bucket = '[[bucket]]\nnickname = "{}"\nprefix = "s3://{}/"\n'
    policy = '[[policy]]\nbucket = "{}"\n'
    theirs = bucket.format("b", "theirs") + bucket.format("shared", "shared") + policy.format("b")
    rule(tmp_path, theirs, "conf.d/a.toml")
    mine = bucket.format("b", "mine") + policy.format("b") + policy.format("shared")
    found = read(tmp_path, mine, allow=["s3://mine/x/=b"]).policies
    assert [str(p.prefix) for p in found] == [
        "s3://theirs/",
        "s3://mine/",
        "s3://shared/",
        "s3://mine/x/",
    ]


def test_what_the_administrator_withdraws_closes_for_users_too(tmp_path: Path) -> None:
    """When a running mount reads its files again, what a user allowed and may allow no more is left out and named, and the rest counts."""
    theirs = '[[bucket]]\nnickname = "b"\nprefix = "s3://b/"\n[[policy]]\nbucket = "b"\nsubprefix = "{}/"\n'
    mine = tmp_path / "vzfs.toml"
    mine.write_text('[[policy]]\nbucket = "b"\nsubprefix = "x/y/"\n')
    given = {"config": str(mine), "allow": ["s3://b/x/z/", "s3://b/w/"], "map_": []}
    rule(tmp_path, "users-may-allow = false\n" + theirs.format("x") + theirs.format("w")[-42:])
    again = _reloading(["s3://repos/mine"], given)
    assert len(again().policies) == 5
    assert not again().left_out
    rule(tmp_path, "users-may-allow = false\n" + theirs.format("w"))
    assert [str(p.prefix) for p in again().policies] == ["s3://b/w/", "s3://b/w/"]
    assert [error.where for error in again().left_out] == ["s3://b/x/y/", "s3://b/x/z/"]
    rule(tmp_path, "")
    assert [str(p.prefix) for p in again().policies] == ["s3://b/x/z/", "s3://b/w/"]
    assert ["does not exist" in error.what for error in again().left_out] == [True]


def test_files_of_the_administrator_come_first_and_in_order(tmp_path: Path) -> None:
    """config.toml, conf.d in the order of names, and the user's file add up; the later value wins."""
    bucket = '[[bucket]]\nnickname = "{0}"\nprefix = "s3://{0}/"\n[[policy]]\nbucket = "{0}"\n'
    rule(tmp_path, 'memory = "1G"\n' + bucket.format("main"))
    rule(tmp_path, 'memory = "3G"\n' + bucket.format("last"), "conf.d/20.toml")
    rule(tmp_path, 'memory = "2G"\n' + bucket.format("first"), "conf.d/10.toml")
    for i in range(11, 20):
        rule(tmp_path, bucket.format(f"b{i}"), f"conf.d/{i}.toml")
    rule(tmp_path, "= nonsense", "conf.d/.hidden.toml")
    rule(tmp_path, "= nonsense", "conf.d/README")
    found = read(tmp_path, bucket.format("mine"))

    assert [p.nickname for p in found.policies] == [
        *("main", "first"),
        *(f"b{i}" for i in range(11, 20)),
        *("last", "mine"),
    ]
    assert found.memory == 3 * 2**30
    assert read(tmp_path, 'memory = "4G"').memory == 4 * 2**30


def test_a_bucket_of_the_administrator_serves_a_users_policy_and_not_the_other_way(
    tmp_path: Path,
) -> None:
    """A user's policy may name an administrator's bucket; an administrator's policy no user's."""
    rule(tmp_path, '[[bucket]]\nnickname = "theirs"\nprefix = "s3://b/"\nregion = "eu"\n')

    (found,) = read(tmp_path, '[[policy]]\nbucket = "theirs"').policies
    assert found.store.region == "eu"
    path = rule(tmp_path, '[[policy]]\nbucket = "mine"\n')
    with pytest.raises(ConfigError, match="does not exist") as caught:
        read(tmp_path, '[[bucket]]\nnickname = "mine"\nprefix = "s3://b/"\n')
    assert caught.value.where == str(path)


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    """An administrator's file that --config names counts as the administrator's."""
    path = rule(tmp_path, 'users-may-allow = true\n[[bucket]]\nnickname = "b"\nprefix = "s3://b/"')

    assert load("/repo", Flags(config=str(path)), {}).policies == []


@pytest.mark.parametrize("name", ["config.toml", "conf.d/a.toml"])
def test_only_root_rules_the_machine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator's file, or its folder, that others can change is an error and not passed over."""
    path = rule(tmp_path, "", name)
    assert read(tmp_path, "").policies == []
    for writable in (path, path.parent):
        for bit in (0o020, 0o002):
            mode = writable.stat().st_mode
            writable.chmod(mode | bit)
            with pytest.raises(ConfigError, match="others than root") as caught:
                read(tmp_path, "")
            assert caught.value.where == str(writable)
            writable.chmod(mode)
    monkeypatch.setattr(files, "ADMINISTRATOR", os.geteuid() + 1)
    with pytest.raises(ConfigError, match="others than root"):
        read(tmp_path, "")


def test_a_rule_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """An administrator's file that is there and cannot be read is not taken for none."""
    path = rule(tmp_path, "")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")

    with pytest.raises(ConfigError, match="No such file") as caught:
        read(tmp_path, "")
    assert caught.value.where == str(path)


# -- an administrator who binds users ----------------------------------------------------------

BOUND = """
users-may-allow = false

[[bucket]]
nickname = "open"
prefix = "s3://open/"
region = "theirs"

[[bucket]]
nickname = "closed"
prefix = "s3://closed/"

[[policy]]
bucket = "open"
subprefix = "data/"
public = true

[[policy]]
bucket = "open"
subprefix = "data/secret/"

[[policy]]
bucket = "closed"
"""
MINE = (
    '[[bucket]]\nnickname = "mine"\nprefix = "{}"\nregion = "mine"\n[[policy]]\nbucket = "mine"\n'
)


@pytest.mark.parametrize(
    "prefix", ["s3://open/", "s3://open/database/", "s3://other/", "/data", "s3://closedness/"]
)
def test_a_bound_user_allows_no_more_than_the_administrator(prefix: str, tmp_path: Path) -> None:
    """With `users-may-allow = false` a policy or --allow beyond the administrator's is an error naming both."""
    path = rule(tmp_path, BOUND)

    for text, allow in ((MINE.format(parse_prefix(prefix)), []), ("", [prefix])):
        with pytest.raises(ConfigError, match="the administrator") as caught:
            read(tmp_path, text, allow=allow)
        assert caught.value.where == str(parse_prefix(prefix))
        assert str(path) in caught.value.advice


def test_a_bound_users_policy_is_reached_as_the_administrator_says(tmp_path: Path) -> None:
    """Inside an administrator's policy a user's has the administrator's options, whatever else is said."""
    rule(tmp_path, BOUND)
    flags = {"allow": ["s3://open/data/x/"], "store": StoreOptions(endpoint="https://mine.example")}
    found = read(tmp_path, MINE.format("s3://open/data/x/y/"), **flags).policies

    assert [str(p.prefix) for p in found[3:]] == ["s3://open/data/x/y/", "s3://open/data/x/"]
    assert {p.store for p in found[3:]} == {StoreOptions(region="theirs")}
    environ = {"AWS_ENDPOINT_URL": "https://mine.example"}
    bound = load("s3://open/repo", Flags(allow=["s3://open/data/x/"]), environ)
    assert {p.store.endpoint for p in bound.policies} == {None}
    assert bound.store == StoreOptions(region="theirs")


def test_a_bound_user_makes_nothing_public(tmp_path: Path) -> None:
    """A bound user's policy is public only inside a public one of the administrator's."""
    path = rule(tmp_path, BOUND)
    public = MINE + "public = true\n"

    assert read(tmp_path, public.format("s3://open/data/x/")).policies[-1].public
    for private in ("s3://closed/x/", "s3://open/data/secret/x/"):
        with pytest.raises(ConfigError, match="makes public what is private") as caught:
            read(tmp_path, public.format(private))
        assert str(path) in str(caught.value)


def test_a_bound_user_does_not_describe_the_administrators_buckets(tmp_path: Path) -> None:
    """A user's bucket counts only where no bucket of an administrator who binds users does."""
    mine = '[[bucket]]\nprefix = "s3://{}"\nregion = "mine"\n'
    text = mine.format("open/repos/") + mine.format("free/")
    path = rule(tmp_path, BOUND)

    def region(repository: str) -> str | None:
        return load(repository, Flags(config=str(tmp_path / "vzfs.toml")), {}).store.region

    rules = load_rules(str(path), {})
    read(tmp_path, text)
    assert (region("s3://open/repos/r"), region("s3://free/r")) == ("theirs", "mine")
    rules = load_rules(str(tmp_path / "vzfs.toml"), {})
    assert [rules.is_overridden(b) for b in rules.buckets] == [False, False, True, False]
    rule(tmp_path, BOUND.replace("users-may-allow = false", ""))
    assert region("s3://open/repos/r") == "mine"


def test_one_file_binds_for_all(tmp_path: Path) -> None:
    """If any of the administrator's files binds users, no other sets them free."""
    rule(tmp_path, BOUND)
    rule(tmp_path, "users-may-allow = true", "conf.d/free.toml")

    with pytest.raises(ConfigError, match="the administrator"):
        read(tmp_path, "", allow=["s3://other/"])


def test_users_who_are_not_bound_add_policies(tmp_path: Path) -> None:
    """Without `users-may-allow = false` what users allow adds to what the administrator does."""
    rule(tmp_path, BOUND.replace("users-may-allow = false", ""))

    assert str(read(tmp_path, "", allow=["s3://other/"]).policies[-1].prefix) == "s3://other/"


# -- secrets, limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"credentials": "AKIAIOSFODNN7EXAMPLE"},
        {"credentials": "profile:AKIAIOSFODNN7EXAMPLE"},
        {"credentials": "hush"},
        {"credentials": "profile:a=hush"},
        {"credentials": "file:"},
        {"account": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1"},
        {"endpoint": "https://ada:hush@host"},
        {"endpoint": "https://host?sig=hush"},
        {"region": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
        {"billing_project": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
    ],
)
def test_a_secret_in_an_option_is_refused_and_not_repeated(
    options: dict[str, str], tmp_path: Path
) -> None:
    """What looks like a secret, or is no known form of credentials, is refused without showing it."""
    (value,) = options.values()
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "", store=StoreOptions(**options))
    assert value.rpartition(":")[2] not in str(caught.value) or value == "file:"
    assert "hush" not in str(caught.value)


def test_credentials_are_named_in_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials come from the environment, from a profile, or from a file, whose path is made absolute."""
    monkeypatch.chdir(tmp_path)
    for named, expected in {
        "environment": "environment",
        "profile:my-work": "profile:my-work",
        "file:keys": f"file:{tmp_path}/keys",
        "file:/run/keys": "file:/run/keys",
    }.items():
        assert read(tmp_path, "", store=StoreOptions(credentials=named)).store.credentials == (
            expected
        )
        bucket = f'[[bucket]]\nprefix = "s3://repos/"\ncredentials = "{named}"\n'
        assert read(tmp_path, bucket).store.credentials == expected


def test_a_bucket_says_all_that_a_store_needs(tmp_path: Path) -> None:
    """Account, requester pays, billing project and addresses can stand in a [[bucket]]."""
    text = """
[[bucket]]
prefix = "s3://repos/"
account = "archive1"
requester-pays = true
billing-project = "my-project"
addresses = ["127.0.0.0/8", "::1"]
allow-http = true
"""
    assert read(tmp_path, text).store == StoreOptions(
        account="archive1",
        requester_pays=True,
        billing_project="my-project",
        addresses=("127.0.0.0/8", "::1"),
        allow_http=True,
    )


def test_the_environments_endpoint_is_of_s3_alone() -> None:
    """AWS_ENDPOINT_URL says nothing of other stores."""
    environ = {"AWS_ENDPOINT_URL": "https://env.example"}

    assert load("gs://b/r", Flags(), environ).store.endpoint is None
    assert load("s3://b/r", Flags(), environ).store.endpoint == "https://env.example"


def test_egress_is_limited_in_all_or_each_day(tmp_path: Path) -> None:
    """`--max-egress SIZE` is for a mount's life and `SIZE/day` for each day; the flag wins over the file."""
    assert parse_egress("50G") == (50 * 2**30, False)
    assert parse_egress("1M/DAY") == (2**20, True)
    assert parse_egress(1000) == (1000, False)
    assert read(tmp_path, FILE, max_egress="0").max_egress == (0, False)
    assert read(tmp_path, "").max_egress is None
    for wrong in ("50G/week", "/day", "50G/", "lots"):
        with pytest.raises(ConfigError):
            parse_egress(wrong)


def test_a_mount_can_be_told_to_stay_offline(tmp_path: Path) -> None:
    """--offline is off unless it is given."""
    assert not read(tmp_path, "").offline
    assert read(tmp_path, "", offline=True).offline


def test_a_mount_shows_a_view(tmp_path: Path) -> None:
    """View, version of Zarr and consolidated documents come from a file; each option wins over it."""
    file = 'view = "decoded"\nzarr-format = 2\nconsolidated = false\n'

    def shown(text: str, **flags: object) -> tuple[object, ...]:
        found = read(tmp_path, text, **flags)
        return found.view_name, found.zarr_format, found.consolidated

    assert shown("") == (DEFAULT_VIEW, 3, True)
    assert shown(file) == ("decoded", 2, False)
    assert shown(file, view="portable") == ("portable", 2, False)
    assert shown(file, zarr_format=3, consolidated=True) == ("decoded", 3, True)
    assert shown("", view="stored", zarr_format=2, consolidated=False) == ("stored", 2, False)
    for wrong in ({"view": "Stored"}, {"view": ""}, {"zarr_format": 4}, {"zarr_format": True}):
        with pytest.raises(ConfigError):
            read(tmp_path, "", **wrong)


def test_a_branch_is_followed_if_asked_for(tmp_path: Path) -> None:
    """--follow looks at the branch every ten seconds, or as often as it says, at most once a second."""
    assert read(tmp_path, "").follow is None
    assert read(tmp_path, "", follow="").follow == DEFAULT_FOLLOW == 10
    assert read(tmp_path, "", follow="30", branch="dev").follow == 30
    assert read(tmp_path, "", follow="1.5").follow == 1.5
    for wrong in ("0", "0.9", "-5", "86401", "nan", "inf", "often", "9" * 30):
        with pytest.raises(ConfigError, match="seconds from 1 to a day"):
            read(tmp_path, "", follow=wrong)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"tag": "v1"}, "a tag stays"),
        ({"snapshot": "1CEC"}, "a snapshot stays"),
        ({"as_of": "2026-01-31"}, "at a time stays"),
        ({"branch": "main", "as_of": "2026-01-31"}, "at a time stays"),
        ({"offline": True}, "nobody is asked"),
    ],
)
def test_what_does_not_move_cannot_be_followed(
    flags: dict[str, object], why: str, tmp_path: Path
) -> None:
    """--follow together with a tag, a snapshot, a time or --offline is wrong usage, and says why."""
    with pytest.raises(ConfigError, match=why) as caught:
        read(tmp_path, "", follow="", **flags)
    assert caught.value.kind is ErrorKind.BAD_USAGE


def test_options_of_the_command_say_what_is_shown(tmp_path: Path) -> None:
    """What `vzfs mount` is told of views and of following is what the configuration has; --follow needs no value."""
    names = {field.name for field in dataclasses.fields(Flags)}

    def configured(*words: str) -> Config:
        with mount.make_context("mount", ["/repo", "/mnt", *words]) as context:
            given = {n: v for n, v in context.params.items() if n.removesuffix("_") in names}
            return configuration("/repo", given, {})

    words = ["--view", "decoded", "--zarr-format", "2", "--no-consolidated", "--follow"]
    found = configured(*words)
    assert (found.view_name, found.zarr_format) == ("decoded", 2)
    assert (found.consolidated, found.follow) == (False, 10)
    assert configured("--follow=3", "--branch", "dev").follow == 3
    assert configured() == configured("--consolidated")
    for wrong in (["--view", "plain"], ["--zarr-format", "4"], ["--follow", "30"]):
        with pytest.raises(click.UsageError):
            configured(*wrong)


def test_a_configuration_makes_the_access_of_its_mount(tmp_path: Path) -> None:
    """Policies and relocations of the files decide for the repository, in the mount's visibility."""
    access = read(tmp_path, FILE).access(Visibility.PUBLIC)

    assert access.visibility is Visibility.PUBLIC
    assert access.repository == parse_prefix("s3://repos/mine")
    verdict = access.examine("file:///old/x")
    assert str(verdict.place) == "file:///new/x"
    assert access.examine("s3://noaa/oisst/x").policy == read(tmp_path, FILE).policies[0]


@pytest.mark.parametrize("scheme", ["file", "s3", "gs", "az", "abfs", "tigris", "http", "https"])
def test_repositories_can_lie_in_every_store(scheme: str) -> None:
    """A repository can be a folder, or lie in any store that can be read."""
    assert load(f"{scheme}:///d/r" if scheme == "file" else f"{scheme}://b/r", Flags(), {})
    with pytest.raises(ConfigError, match="memory: cannot be read"):
        load("memory:///r", Flags(), {})


def test_files_of_several_buckets_are_reached_each_as_its_own_says(tmp_path: Path) -> None:
    """Of files that are named one by one, each has the options of the bucket that covers it, and no other's."""
    path = tmp_path / "vzfs.toml"
    path.write_text('[[bucket]]\nprefix = "s3://ours/"\ncredentials = "profile:mine"\n')
    config = load(["s3://ours/a.nc", "s3://theirs/b.nc"], Flags(config=str(path)), {})
    files = list(config.selection.files)
    access = config.access().with_containers(None).with_named(files)
    found = [access.authorize(ChunkRef(ChunkKind.VIRTUAL, 1, str(f))).store for f in files]
    assert [store.credentials for store in found] == ["profile:mine", None]
