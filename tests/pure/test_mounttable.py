"""The kernel's mount table, and what may become a mountpoint."""

import errno
import os
from pathlib import Path

import pytest

from vzfs import mounttable
from vzfs.errors import ErrorKind, MountError
from vzfs.mounttable import Mounted, check_mountpoint, parse, topmost

ROOT_LINE = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard"


def autofs(path: Path | str) -> str:
    """Give the line of an automount trigger."""
    return f"42 27 0:39 / {path} rw,relatime shared:9 - autofs systemd-1 rw,fd=4,pgrp=1,direct"


def vzfs(path: Path | str) -> str:
    """Give the line of a mount of ours."""
    return f"63 42 0:40 / {path} ro,nosuid,nodev - fuse.vzfs s3://b/r\\040x ro,user_id=0"


@pytest.fixture(name="table")
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the kernel's table; empty at first."""
    table = tmp_path / "mountinfo"
    table.write_text("")
    monkeypatch.setattr(mounttable, "_MOUNTINFO", table)
    return table


@pytest.fixture(name="mountpoint")
def _mountpoint(tmp_path: Path) -> Path:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    return mountpoint


def test_the_table_is_parsed() -> None:
    """Optional fields are skipped, escapes undone, and lines that are no mounts passed over."""
    text = "\n".join([ROOT_LINE, autofs("/data\\040sst"), "", "1 2 3", "a b c d e f - ext4"])
    assert parse(text.encode()) == [
        Mounted("/", "ext4", "/dev/vda", "254:0"),
        Mounted("/data sst", "autofs", "systemd-1", "0:39"),
    ]
    assert parse(vzfs("/mnt").encode()) == [Mounted("/mnt", "fuse.vzfs", "s3://b/r x", "0:40")]


def test_the_last_mount_at_a_place_is_the_topmost(table: Path, mountpoint: Path) -> None:
    """Of several mounts at one place, that counts which was made last."""
    assert topmost(mountpoint) is None
    table.write_text("\n".join([ROOT_LINE, autofs(mountpoint), vzfs(mountpoint)]))
    found = topmost(mountpoint)
    assert found is not None
    assert found.fstype == "fuse.vzfs"


def test_an_automount_trigger_is_no_mount_and_is_never_listed(
    table: Path, mountpoint: Path
) -> None:
    """Where there is only a trigger one can mount, and its directory is not looked into."""
    table.write_text("\n".join([ROOT_LINE, autofs(mountpoint)]))
    (mountpoint / "would-be-seen-by-listing").touch()
    check_mountpoint(mountpoint)


def test_a_mount_on_a_trigger_is_a_mount(table: Path, mountpoint: Path) -> None:
    """What is mounted on a trigger already is not mounted over."""
    table.write_text("\n".join([autofs(mountpoint), vzfs(mountpoint)]))
    with pytest.raises(MountError, match="something is mounted here already") as caught:
        check_mountpoint(mountpoint)
    assert caught.value.kind is ErrorKind.BAD_MOUNTPOINT
    assert "vzfs umount" in caught.value.advice


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "does not exist"), ("file", "not a directory"), ("full", "not empty")],
)
def test_only_an_empty_directory_is_a_mountpoint(
    table: Path, tmp_path: Path, name: str, message: str
) -> None:
    """What does not exist, is no directory, or has files that would be hidden, is refused."""
    table.write_text(ROOT_LINE)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "inside").touch()
    with pytest.raises(MountError, match=message):
        check_mountpoint(tmp_path / name)


def test_a_mountpoint_is_found_without_touching_it(tmp_path: Path) -> None:
    """Links are followed, on the way and at its end."""
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "end").symlink_to(tmp_path / "real" / "mnt")
    assert mounttable.resolve(tmp_path / "link" / "mnt") == tmp_path / "real" / "mnt"
    assert mounttable.resolve(tmp_path / "link" / "end") == tmp_path / "real" / "mnt"
    assert mounttable.resolve(tmp_path / "link" / ".." / "x") == tmp_path / "x"


def test_a_mountpoint_that_may_not_be_looked_at_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount of somebody else, which does not even say whether it is a link, has its own path."""

    def refuse(path: object, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "lstat", refuse)
    assert mounttable.resolve(Path("/mnt/theirs")) == Path("/mnt/theirs")


def test_a_path_lies_in_the_deepest_mount_above_it(table: Path, tmp_path: Path) -> None:
    """What a path lies in is the deepest mount above it, of two at one place the later; links are followed."""
    (tmp_path / "share" / "cache").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "share")
    share = f"40 27 0:50 / {tmp_path}/share rw - nfs4 server:/x rw"
    hidden = f"39 27 0:49 / {tmp_path}/share rw - tmpfs tmpfs rw"
    table.write_text("\n".join([ROOT_LINE, hidden, share, ""]))
    for path, fstype in (
        (tmp_path / "share" / "cache", "nfs4"),
        (tmp_path / "link" / "not" / "there", "nfs4"),
        (tmp_path / "shared", "ext4"),
        (Path("/"), "ext4"),
    ):
        found = mounttable.containing(path)
        assert found is not None
        assert found.fstype == fstype
    table.write_text("")
    assert mounttable.containing(tmp_path) is None
