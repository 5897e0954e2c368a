"""`mount.vzfs`: from the arguments of mount(8) to those of `vzfs mount`."""

from unittest.mock import Mock

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs import mounthelper
from vzfs.cli import exits
from vzfs.cli.mounting import mount
from vzfs.errors import ConfigError, ErrorKind
from vzfs.mounthelper import EXIT_CODES, PLAIN, VALUED, Option, parse, split_options, surroundings

HERE = ["s3://bucket/repo", "/mnt/sst"]
NAMES = st.text(st.characters(exclude_characters="=", codec="utf-8"), min_size=1)
VALUES = st.none() | st.text()


def join_options(options: list[Option]) -> str:
    """Write options as a line of fstab does."""
    written = (name if value is None else f"{name}={value}" for name, value in options)
    return ",".join(text.replace("\\", "\\\\").replace(",", "\\,") for text in written)


def flags(options: str) -> list[str]:
    """Give the flags of `vzfs mount` that stand for *options*."""
    command, *found, source, mountpoint = parse([*HERE, "-o", options]).arguments
    assert (command, source, mountpoint) == ("mount", *HERE)
    return found


# -- option strings ----------------------------------------------------------------------------


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_options_survive_being_written_and_read(options: list[Option]) -> None:
    """Any names and values, commas and backslashes included, can be said in one option string."""
    assert split_options(join_options(options)) == options


@given(st.text())
def test_any_text_is_an_option_string(text: str) -> None:
    """Splitting never fails, and what was split can be written and split again."""
    options = split_options(text)
    assert split_options(join_options(options)) == [o for o in options if o != ("", None)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", []),
        (",,", []),
        ("ro", [("ro", None)]),
        ("a=", [("a", "")]),
        ("map=s3://a/=s3://b/", [("map", "s3://a/=s3://b/")]),
        (r"a=1\,2,b", [("a", "1,2"), ("b", None)]),
        (r"a=1\\,b", [("a", "1\\"), ("b", None)]),
        (r"a=1\\\,b", [("a", "1\\,b")]),
        (r"a=C:\new", [("a", r"C:\new")]),
        ("a=1\\", [("a", "1\\")]),
    ],
)
def test_a_backslash_escapes_only_commas_and_backslashes(text: str, options: list[Option]) -> None:
    r"""`\,` is a comma, `\\` a backslash, and a backslash before anything else is itself."""
    assert split_options(text) == options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("branch=dev", ["--branch=dev"]),
        ("tag=v1", ["--tag=v1"]),
        ("snapshot=1CECHNKREP0F1RSTCMT0", ["--snapshot=1CECHNKREP0F1RSTCMT0"]),
        ("as_of=2026-01-31T12:00:00Z", ["--as-of=2026-01-31T12:00:00Z"]),
        ("as-of=2026-01-31", ["--as-of=2026-01-31"]),
        ("allow=s3://a/,allow=s3://b/", ["--allow=s3://a/", "--allow=s3://b/"]),
        ("allow=s3://a/x%3D1", ["--allow=s3://a/x%3D1"]),
        ("allow=s3://a/x@y", ["--allow=s3://a/x@y"]),
        ("map=s3://a/=file:///b", ["--map=s3://a/=file:///b"]),
        (r"cache_dir=/a b\,c,cache-size=1G", ["--cache-dir=/a b,c", "--cache-size=1G"]),
        ("no_cache,no-cache", ["--no-cache", "--no-cache"]),
        ("memory=1G,deadline=5", ["--memory=1G", "--deadline=5"]),
        ("region=eu-west-1", ["--region=eu-west-1"]),
        ("endpoint=https://host:9000", ["--endpoint=https://host:9000"]),
        ("anonymous,path_style", ["--anonymous", "--path-style"]),
        ("virtual_host_style,allow_http", ["--virtual-host-style", "--allow-http"]),
        ("config=/etc/vzfs/sst.toml", ["--config=/etc/vzfs/sst.toml"]),
        ("uid=1000,gid=1000,umask=027", ["--uid=1000", "--gid=1000", "--umask=027"]),
        ("allow_other,log_file=/l,verbose", ["--allow-other", "--log-file=/l", "--verbose"]),
        ("max_egress=50G/day,offline", ["--max-egress=50G/day", "--offline"]),
        ("credentials=environment", ["--credentials=environment"]),
        ("credentials=profile:work", ["--credentials=profile:work"]),
        ("credentials=file:/etc/vzfs/keys", ["--credentials=file:/etc/vzfs/keys"]),
        ("account=archive1,billing_project=p", ["--account=archive1", "--billing-project=p"]),
        ("requester-pays", ["--requester-pays"]),
        ("allow=s3://a/=ours", ["--allow=s3://a/=ours"]),
        ("group=ocean,allow_group=ocean", ["--group=ocean", "--group=ocean"]),
        ("allow_group,allow-group", ["--group", "--group"]),
        ("view=portable,zarr_format=2", ["--view=portable", "--zarr-format=2"]),
        ("noconsolidated,no_consolidated", ["--no-consolidated", "--no-consolidated"]),
        ("consolidated", ["--consolidated"]),
        ("follow,follow=30", ["--follow", "--follow=30"]),
        ("branch=--help", ["--branch=--help"]),
        ("rw", []),
        ("ro,nosuid,nodev,noexec,noatime,relatime,sync,async", []),
        ("defaults,auto,noauto,user,user=ada,nouser,users,owner,group,_netdev,nofail", []),
        ("comment=why not,x-systemd.automount,x-systemd.idle-timeout=10min,X-mount.mkdir", []),
    ],
)
def test_options_become_flags(options: str, expected: list[str]) -> None:
    """Options of `vzfs mount` become its flags; those for others, and what is so anyway, vanish."""
    assert flags(options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("colour=red", "'colour' is unknown"),
        ("=red", "'' is unknown"),
        ("foreground", "'foreground' is unknown"),
        ("announce_fd=3", "'announce_fd' is unknown"),
        ("branch", "'branch' needs a value"),
        ("branch=", "'branch' needs a value"),
        ("allow_group=", "'allow_group' needs a value"),
        ("follow=", "'follow' needs a value"),
        ("noconsolidated=1", "'noconsolidated' takes no value"),
        ("no_cache=yes", "'no_cache' takes no value"),
        ("ro=1", "'ro' takes no value"),
        ("nofail=1", "'nofail' takes no value"),
        ("suid", "always nosuid"),
        ("dev", "always nodev"),
        ("strictatime", "access times are not kept"),
        ("remount", "unmount it and mount it again"),
        ("env.A B=1", "sets no variable"),
        ("env.=1", "sets no variable"),
        ("env.REGION", "sets no variable"),
    ],
)
def test_a_wrong_option_is_named(options: str, message: str) -> None:
    """An unknown, incomplete or impossible option is an error that names it."""
    with pytest.raises(ConfigError, match=message) as caught:
        flags(options)
    assert caught.value.kind is ErrorKind.BAD_USAGE


def test_every_option_of_the_command_can_be_given() -> None:
    """Whatever `vzfs mount` takes can be said to mount(8), but for what decides how it runs."""
    names: set[str] = set()
    plain: set[str] = set()
    for parameter in mount.params:
        if isinstance(parameter, click.Option):
            written = {
                name.removeprefix("--").replace("-", "_")
                for name in (*parameter.opts, *parameter.secondary_opts)
                if name.startswith("--")
            }
            names |= written
            plain |= written if parameter.is_flag or parameter.count else set()
    assert names - {"foreground", "announce_fd"} == VALUED | PLAIN
    assert plain - {"foreground"} == PLAIN


def test_a_followed_branch_is_said_to_mount_8() -> None:
    """What follows from options of mount(8) is what `vzfs mount` is told: a bare `follow` has no value there either."""
    for text, expected in (("follow", ""), ("follow=30", "30")):
        words = list(parse([*HERE, "-o", text]).arguments)[1:]
        with mount.make_context("mount", words) as context:
            assert context.params["follow"] == expected
            assert context.params["sources"] == (HERE[0],)


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        "env.AWS_SECRET_ACCESS_KEY=hush",
        "env.AWS_SESSION_TOKEN=hush",
        "env.AWS_ACCESS_KEY_ID=hush",
        "env.my_password=hush",
        "env.HTTPS_PROXY=http://ada:hush@proxy:3128",
        "endpoint=https://ada:hush@host",
        "credentials=hush",
        "credentials=environment hush",
        "aws_secret_access_key=hush",
        "password=hush",
    ],
)
def test_a_secret_is_refused_and_not_repeated(option: str) -> None:
    """What looks like a secret is refused, with advice, and without showing it once more."""
    with pytest.raises(ConfigError, match="EnvironmentFile=") as caught:
        flags(option)
    assert "hush" not in str(caught.value)


def test_a_secret_in_the_source_is_refused() -> None:
    """A source with a user and a password is refused."""
    with pytest.raises(ConfigError, match="the source seems to hold a secret") as caught:
        parse(["https://ada:hush@host/repo", "/mnt"])
    assert "hush" not in str(caught.value)


def test_variables_of_the_environment_can_be_set() -> None:
    """`env.NAME=VALUE` sets a variable; a name of a file that holds a secret is no secret."""
    file = "env.AWS_WEB_IDENTITY_TOKEN_FILE=/run/token"
    text = rf"env.AWS_REGION=eu,{file},env.A=1\,2=3,env.AWS_REGION=us"
    assert parse([*HERE, "-o", text]).environment == {
        "AWS_REGION": "us",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token",
        "A": "1,2=3",
    }


# -- the command line --------------------------------------------------------------------------


def test_the_arguments_of_mount_8_are_understood() -> None:
    """All that mount(8) may pass to a helper is taken, options before or after the rest."""
    invocation = parse(
        [*HERE, "-sfnvr", "-N", "/proc/7/ns/mnt", "-o", "rw,odd=1", "-t", "vzfs", "-o", "tag=v1"]
    )
    assert invocation == mounthelper.Invocation(
        arguments=["mount", "--tag=v1", *HERE],
        environment={},
        namespace="/proc/7/ns/mnt",
        is_fake=True,
        is_verbose=True,
        passed_over=["odd"],
    )
    assert parse(["-o", "tag=v1", *HERE]).arguments == ["mount", "--tag=v1", *HERE]


def test_sloppiness_has_limits() -> None:
    """`-s` passes over what is unknown, and over nothing that is refused or wrong."""
    for wrong in ("remount", "branch", "env.TOKEN=1"):
        with pytest.raises(ConfigError):
            parse([*HERE, "-s", "-o", wrong])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        HERE[:1],
        [*HERE, "more"],
        [*HERE, "-x"],
        [*HERE, "-w"],
        [*HERE, "-o"],
        [*HERE, "-t", "ext4"],
        ["", "/mnt"],
        ["/repo", ""],
    ],
)
def test_a_wrong_command_line_is_an_error(arguments: list[str]) -> None:
    """Whatever cannot be understood, or cannot be had, is refused as wrong usage."""
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert caught.value.kind is ErrorKind.BAD_USAGE


def test_paths_are_never_taken_for_flags() -> None:
    """A source or a mountpoint that begins with a hyphen stays what it is."""
    assert parse(["--", "--help", "-v"]).arguments == ["mount", "./--help", "./-v"]


# -- surroundings and exit codes ---------------------------------------------------------------

PLAINLY = parse(HERE)


def test_root_has_one_cache_whoever_starts_the_mount() -> None:
    """Root's cache is in /var/cache/vzfs, whatever HOME is, unless a variable names another."""
    for environ in ({}, {"HOME": "/root"}, {"HOME": "/home/ada"}):
        assert surroundings(PLAINLY, environ, home=None)["CACHE_DIRECTORY"] == "/var/cache/vzfs"
    named = {"CACHE_DIRECTORY": "/var/cache/other"}
    assert surroundings(PLAINLY, named, home=None)["CACHE_DIRECTORY"] == "/var/cache/other"
    assert "CACHE_DIRECTORY" not in surroundings(PLAINLY, {"XDG_CACHE_HOME": "/c"}, home=None)


def test_a_user_gets_back_the_home_that_mount_8_removed() -> None:
    """Without HOME, a user's mount has that of the user database, and no cache of root's."""
    assert surroundings(PLAINLY, {}, home="/home/ada")["HOME"] == "/home/ada"
    assert surroundings(PLAINLY, {"HOME": "/h"}, home="/home/ada")["HOME"] == "/h"
    assert "CACHE_DIRECTORY" not in surroundings(PLAINLY, {}, home="")


def test_the_mount_finds_programs_and_only_installed_modules() -> None:
    """PATH is never missing, and modules in the working directory are never imported."""
    assert "/usr/bin" in surroundings(PLAINLY, {}, home=None)["PATH"].split(":")
    assert surroundings(PLAINLY, {"PATH": "/p"}, home=None)["PATH"] == "/p"
    assert surroundings(PLAINLY, {}, home=None)["PYTHONSAFEPATH"] == "1"


def test_options_overrule_the_environment() -> None:
    """A variable that an option sets has the option's value."""
    invocation = parse([*HERE, "-o", "env.A=new"])
    assert surroundings(invocation, {"A": "old", "B": "kept"}, home="")["A"] == "new"
    assert surroundings(invocation, {"A": "old", "B": "kept"}, home="")["B"] == "kept"


def test_every_exit_code_has_a_meaning_for_mount_8() -> None:
    """Each exit code of `vzfs` becomes one that mount(8) documents."""
    codes = {value for name, value in vars(exits).items() if name.isupper() and name[0] != "_"}
    assert EXIT_CODES.keys() == codes | {0}
    assert {EXIT_CODES[exits.USAGE], EXIT_CODES[exits.DENIED]} == {mounthelper.REFUSED}
    assert {EXIT_CODES[exits.UNEXPECTED], EXIT_CODES[exits.NO_FUSE]} == {mounthelper.SYSTEM_ERROR}
    assert EXIT_CODES[exits.INTERRUPTED] == mounthelper.INTERRUPTED
    named = {exits.USAGE, exits.DENIED, exits.UNEXPECTED, exits.NO_FUSE, exits.INTERRUPTED}
    others = codes - named
    assert {EXIT_CODES[code] for code in others} == {mounthelper.FAILED}


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([0], mounthelper.OK),
        ([exits.USAGE], mounthelper.REFUSED),
        ([exits.DAMAGED], mounthelper.FAILED),
        ([-9], mounthelper.SYSTEM_ERROR),
        ([KeyboardInterrupt(), exits.UNEXPECTED], mounthelper.INTERRUPTED),
    ],
)
def test_how_the_command_ends_is_translated(
    monkeypatch: pytest.MonkeyPatch, ends: list[int | BaseException], code: int
) -> None:
    """A killed command is a system error; after an interrupt the command is still waited for."""
    started = Mock()
    started.return_value.wait.side_effect = ends
    monkeypatch.setattr(mounthelper.subprocess, "Popen", started)
    monkeypatch.setattr(mounthelper.sys, "argv", ["mount.vzfs", *HERE, "-o", "tag=v1"])
    monkeypatch.setattr(mounthelper.os, "environ", {})
    assert mounthelper.main() == code
    assert started.return_value.wait.call_count == len(ends)
    [command] = started.call_args.args
    assert command[1:] == ["-m", "vzfs", "mount", "--tag=v1", *HERE]
