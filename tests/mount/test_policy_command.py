"""`vzfs policy`: who may read what, shown, changed and explained."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from click.testing import CliRunner, Result

from tests.mount.conftest import Mount
from tests.mount.outcomes import read
from tests.mount.repositories import Ref, add_virtual, create, pattern
from vzfs.cli.policy import policy
from vzfs.config import files
from vzfs.errors import ConfigError, ErrorKind

DATA = pattern(1000)


class Machine:
    """A repository over an archive, and the configuration of a machine and of a user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.source = self.archive / "source"
        self.source.write_bytes(DATA)
        self.repository = folder / "repository"
        repository = create(self.repository, containers=[f"{self.archive.as_uri()}/"])
        session = repository.writable_session("main")
        root = zarr.group(session.store)
        add_virtual(session, root, "virtual", [Ref(self.source.as_uri(), 0, 1000)])
        session.commit("one chunk")
        self.file = folder / "home/vzfs/config.toml"
        self.system = folder / "etc/conf.d"

    def run(self, *words: str | Path) -> Result:
        """Run `vzfs policy` in this process."""
        return CliRunner().invoke(policy, list(map(str, words)), standalone_mode=False)

    def done(self, *words: str | Path) -> str:
        result = self.run(*words)
        assert result.exception is None, result.exception
        return result.output

    def refused(self, *words: str | Path) -> ConfigError:
        """Return the error with which a command ends; nothing was written."""
        before = self.file.read_text() if self.file.exists() else None
        result = self.run(*words)
        assert isinstance(result.exception, ConfigError), (result.exception, result.output)
        assert (self.file.read_text() if self.file.exists() else None) == before
        return result.exception

    def listed(self) -> Any:
        return json.loads(self.done("list", "--json"))

    def checked(self, *words: str | Path) -> tuple[int, Any]:
        """Return exit code and report of `vzfs policy check`."""
        result = self.run("check", "--json", *words)
        assert result.exception is None, result.exception
        return result.return_value, json.loads(result.output)

    def rule(self, text: str) -> Path:
        """Write a file of the administrator."""
        self.system.mkdir(parents=True, exist_ok=True)
        path = self.system / "rule.toml"
        path.write_text(text)
        for written in (path, self.system, self.system.parent):
            written.chmod(0o755)
        return path


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(files, "ADMINISTRATOR", os.geteuid())
    monkeypatch.setattr(files, "SYSTEM_FILE", tmp_path / "etc/config.toml")
    monkeypatch.setattr(files, "SYSTEM_FOLDER", machine.system)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VZFS_CONFIG", raising=False)
    return machine


# -- set, list, delete -------------------------------------------------------------------------


def test_a_policy_is_set_listed_and_deleted(machine: Machine) -> None:
    """What `policy set` allows stands in the user's file and is listed with it, until `policy delete`."""
    out = machine.done("set", "s3://noaa/sst/", "--nickname", "noaa", "--region", "us-east-1")
    assert str(machine.file) in out
    assert "HUP" in out
    assert tomllib.loads(machine.file.read_text()) == {
        "bucket": [{"nickname": "noaa", "prefix": "s3://noaa/sst/", "region": "us-east-1"}],
        "policy": [{"bucket": "noaa"}],
    }
    assert machine.file.stat().st_mode & 0o777 == 0o600
    listed = machine.listed()
    assert listed["buckets"][0]["options"] == {"region": "us-east-1"}
    assert listed["policies"] == [
        {
            "bucket": "noaa",
            "subprefix": "",
            "public": False,
            "prefix": "s3://noaa/sst/",
            "file": str(machine.file),
            "effective": True,
        }
    ]
    text = machine.done("list")
    for word in ("noaa", "s3://noaa/sst/", "region=us-east-1", "yourself", str(machine.file)):
        assert word in text
    machine.done("delete", "noaa")
    assert machine.listed()["policies"] == []
    assert len(machine.listed()["buckets"]) == 1


def test_a_policy_uses_the_bucket_that_is_there(machine: Machine) -> None:
    """`policy set` below a bucket adds a policy with a subprefix, and options make a bucket of their own."""
    machine.done("set", "s3://noaa/", "--anonymous")
    machine.done("set", "s3://noaa/a=b/", "--public")
    machine.done("set", "s3://noaa/other/", "--region", "eu")
    listed = machine.listed()

    assert [(p["bucket"], p["subprefix"], p["public"]) for p in listed["policies"]] == [
        ("noaa", "", False),
        ("noaa", "a=b/", True),
        ("noaa-other", "", False),
    ]
    assert listed["policies"][1]["prefix"] == "s3://noaa/a=b/"
    assert [b["options"] for b in listed["buckets"]] == [{"anonymous": True}, {"region": "eu"}]


def test_a_bucket_of_another_file_is_used_and_not_changed(machine: Machine) -> None:
    """A policy may name a bucket of another file; options for it are refused, and its place is named."""
    rule = machine.rule('[[bucket]]\nnickname = "noaa"\nprefix = "s3://noaa/"\n')

    machine.done("set", "s3://noaa/sst/", "--nickname", "noaa")
    assert tomllib.loads(machine.file.read_text()) == {
        "policy": [{"bucket": "noaa", "subprefix": "sst/"}]
    }
    error = machine.refused("set", "s3://noaa/sst/", "--nickname", "noaa", "--region", "eu")
    assert error.where == str(rule)


def test_a_path_of_credentials_is_written_as_an_absolute_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was meant from here is written so that it means the same from anywhere."""
    monkeypatch.chdir(machine.folder)
    machine.done("set", "s3://noaa/", "--credentials", "file:keys")

    (bucket,) = tomllib.loads(machine.file.read_text())["bucket"]
    assert bucket["credentials"] == f"file:{machine.folder}/keys"


def test_setting_again_changes_what_is_said_and_nothing_else(machine: Machine) -> None:
    """`policy set` of what is there changes who may read it if that is said, and the bucket's options."""
    machine.file.parent.mkdir(parents=True)
    machine.file.write_text(
        '# mine\n[[bucket]]\nprefix = "/data" # the disk\n\n# why\n[[map]]\nfrom = "/a"\nto = "/b"\n'
    )
    machine.done("set", "/data", "--public")
    assert machine.listed()["policies"][0]["public"]
    machine.done("set", "/data")
    assert machine.listed()["policies"][0]["public"]
    machine.done("set", "/data", "--private")
    machine.done("set", "s3://b/", "--address", "127.0.0.1", "--address", "::1")
    machine.done("set", "s3://b/", "--region", "eu")
    text = machine.file.read_text()

    assert '# mine\n[[bucket]]\nprefix = "/data" # the disk\nnickname = "data"\n\n# why\n' in text
    assert [p["public"] for p in machine.listed()["policies"]] == [False, False]
    assert machine.listed()["buckets"][1]["options"] == {
        "region": "eu",
        "addresses": ["127.0.0.1", "::1"],
    }


def test_deleting_needs_all_three_attributes(machine: Machine) -> None:
    """`policy delete` of another subprefix or publicness deletes nothing, and shows what there is."""
    machine.done("set", "s3://noaa/", "--nickname", "noaa")
    machine.done("set", "s3://noaa/sst/", "--public")

    for words in (
        ["noaa", "--public"],
        ["noaa", "--subprefix", "sst/"],
        ["noaa", "--subprefix", "sst", "--public"],
        ["other"],
    ):
        error = machine.refused("delete", *words)
        assert error.kind is ErrorKind.BAD_USAGE
        assert "'noaa', subprefix 'sst/', public" in error.advice
        assert "'noaa', private" in error.advice
    machine.done("delete", "noaa", "--subprefix", "sst/", "--public")
    assert [p["subprefix"] for p in machine.listed()["policies"]] == [""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["memory:///x"], "never read"),
        (["s3://"], "missing or malformed"),
        (["s3://b/", "--credentials", "AKIAIOSFODNN7EXAMPLE"], "secret"),
        (["s3://b/", "--anonymous", "--credentials", "environment"], "exclude"),
        (["s3://b/", "--address", "here"], "not a network"),
        (["s3://other/", "--nickname", "noaa"], "does not cover"),
    ],
)
def test_what_makes_no_sense_is_not_written(
    words: list[str], message: str, machine: Machine
) -> None:
    """`policy set` refuses what could not be read back, before it writes."""
    machine.done("set", "s3://noaa/", "--nickname", "noaa")

    error = machine.refused("set", *words)
    assert message in str(error)
    assert "AKIA" not in str(error)


def test_a_file_that_is_wrong_is_not_changed(machine: Machine) -> None:
    """A file with a mistake is named, with what to do, and left as it is."""
    machine.file.parent.mkdir(parents=True)
    machine.file.write_text('[[allow]]\nprefix = "s3://b/"\n')

    error = machine.refused("set", "s3://c/")
    assert str(machine.file) in error.where
    assert 'prefix = "s3://b/"' in error.advice
    assert "vzfs policy set" in error.advice


def test_the_administrator_sets_policies_for_all(machine: Machine) -> None:
    """`--system NAME` writes a file of conf.d that all users can read, over the administrator's buckets alone."""
    machine.done("set", "s3://noaa/", "--nickname", "mine", "--anonymous")
    machine.done("set", "s3://noaa/sst/", "--system", "sst", "--public")
    path = machine.system / "sst.toml"
    text = tomllib.loads(path.read_text())

    assert path.stat().st_mode & 0o777 == 0o644
    assert text["bucket"] == [{"nickname": "noaa-sst", "prefix": "s3://noaa/sst/"}]
    assert text["policy"] == [{"bucket": "noaa-sst", "public": True}]
    machine.done("delete", "noaa-sst", "--public", "--system", "sst")
    assert [p["bucket"] for p in machine.listed()["policies"]] == ["mine"]
    for words in (["--system", "a/b"], ["--system", ".x"]):
        assert "name of a file" in str(machine.run("set", "s3://b/", *words).exception)
    both = machine.run("set", "s3://b/", "--system", "sst", "--config", machine.file)
    assert "exclude each other" in str(both.exception)
    assert list(machine.system.iterdir()) == [path]


def test_a_bound_user_sets_nothing_beyond(machine: Machine) -> None:
    """Where the administrator binds users, `policy set` writes what is inside and refuses the rest."""
    rule = machine.rule(
        "users-may-allow = false\n"
        '[[bucket]]\nnickname = "open"\nprefix = "s3://open/"\n[[policy]]\nbucket = "open"\n'
    )
    machine.done("set", "s3://open/x/")
    machine.done("set", "s3://open/x/y/", "--region", "mine")
    error = machine.refused("set", "s3://other/")
    assert str(rule) in error.advice
    listed = machine.listed()
    assert listed["limited_by"] == str(rule)
    assert [b["effective"] for b in listed["buckets"]] == [True, False]
    assert "overridden" in machine.done("list")
    code, report = machine.checked("s3://other/x")
    assert code == 4
    assert str(rule) in report["advice"]


def test_of_equal_policies_one_is_overridden(machine: Machine) -> None:
    """A policy that is not in force, since another of the same prefix is public, is listed as overridden."""
    machine.rule(
        '[[bucket]]\nnickname = "open"\nprefix = "s3://open/"\n'
        '[[policy]]\nbucket = "open"\npublic = true\n'
    )
    machine.done("set", "s3://open/", "--nickname", "mine", "--region", "mine")

    listed = machine.listed()
    assert [(p["bucket"], p["effective"]) for p in listed["policies"]] == [
        ("open", True),
        ("mine", False),
    ]
    assert [(b["nickname"], b["effective"]) for b in listed["buckets"]] == [
        ("open", False),
        ("mine", True),
    ]


# -- check -------------------------------------------------------------------------------------


def test_a_check_names_the_rules_and_their_files(machine: Machine) -> None:
    """`policy check` says which policy of which file allows a location, or what to write to allow it."""
    assert machine.checked(machine.source) == (
        4,
        {
            "location": machine.source.as_uri(),
            "place": machine.source.as_uri(),
            "visibility": "private",
            "allowed": False,
            "container": None,
            "container_asked": False,
            "policy": None,
            "reason": "not-allowed",
            "message": "reading here is not allowed",
            "advice": f"to allow it, mount with --allow {machine.archive.as_uri()}/, "
            f"or for good: vzfs policy set {machine.archive.as_uri()}/",
        },
    )
    machine.done("set", machine.archive)
    code, report = machine.checked(machine.source)
    assert (code, report["allowed"], report["advice"]) == (0, True, None)
    assert report["policy"]["file"] == str(machine.file)
    code, report = machine.checked(machine.source, "--public")
    assert (code, report["visibility"], report["reason"]) == (4, "public", "not-allowed")
    assert report["advice"].endswith(f"vzfs policy set {machine.archive.as_uri()}/ --public")
    text = machine.done("check", machine.source)
    for word in (machine.source.as_uri(), str(machine.file), "private", "it may be read"):
        assert word in text


def test_a_check_asks_the_containers_of_a_repository(machine: Machine) -> None:
    """With --source the location must lie in a container of that repository too."""
    source = ("--source", machine.repository)
    allowed = ("--allow", machine.folder)

    code, report = machine.checked(machine.source, *source, *allowed)
    assert (code, report["container"]) == (0, f"{machine.archive.as_uri()}/")
    assert report["policy"]["file"] == "--allow"
    code, report = machine.checked(machine.folder / "other", *source, *allowed)
    assert (code, report["reason"], report["container"]) == (4, "no-container", None)
    assert report["policy"]["file"] == "--allow"
    code, report = machine.checked("vcc://nobody/x", *source)
    assert (code, report["reason"]) == (4, "no-container")
    code, report = machine.checked("s3://b/../x", *source)
    assert code == 4
    assert machine.run("check", "vcc://nobody/x").exception is not None
    both = machine.run("check", "s3://b/x", *source, "--mount", machine.folder)
    assert "exclude each other" in str(both.exception)


def test_a_check_shows_where_a_location_is_really_read(machine: Machine) -> None:
    """A location that --map moves is checked, and shown, where it is read."""
    moved = ("--map", f"s3://old/={machine.archive}", "--allow", machine.archive)

    code, report = machine.checked("s3://old/source", *moved)
    assert (code, report["place"]) == (0, machine.source.as_uri())
    assert f"read at    {machine.source.as_uri()}" in machine.done(
        "check", "s3://old/source", *moved
    )


def vzfs(machine: Machine, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as the user whose home this is."""
    return subprocess.run(
        [sys.executable, "-m", "vzfs", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "XDG_CONFIG_HOME": str(machine.folder / "home")},
    )


def test_a_check_of_a_mount_says_what_its_readers_meet(
    machine: Machine, mount: Callable[..., Mount]
) -> None:
    """`policy check --mount` answers for the options of the running mount, and ends with 4 where reads fail."""
    open_one = mount(machine.repository, "--allow", machine.archive)
    closed = mount(machine.repository)
    closed.expect_log("not allowed")

    assert read(open_one.path / "virtual/c/0") == DATA
    assert read(closed.path / "virtual/c/0") == "EACCES"
    allowed = vzfs(machine, "policy", "check", machine.source, "--mount", open_one.path)
    assert (allowed.returncode, allowed.stderr) == (0, "")
    assert "--allow" in allowed.stdout
    assert f"{machine.archive.as_uri()}/" in allowed.stdout
    denied = vzfs(machine, "policy", "check", "--json", machine.source, "--mount", closed.path)
    assert denied.returncode == 4
    assert json.loads(denied.stdout)["container"] == f"{machine.archive.as_uri()}/"
    nothing = vzfs(machine, "policy", "check", machine.source, "--mount", machine.folder)
    assert nothing.returncode == 7


def test_who_changes_a_policy_is_told_which_mounts_to_tell(
    machine: Machine, mount: Callable[..., Mount]
) -> None:
    """After a change the processes of the user's mounts are named, which read it on SIGHUP."""
    running = mount(machine.repository)

    result = vzfs(machine, "policy", "set", machine.archive)
    assert result.returncode == 0, result.stderr
    assert str(running.pid) in result.stdout.split("kill -HUP ")[1].split()
    assert str(running.path) in result.stdout
