"""`mount -t vzfs`, lines of fstab, autofs and service managers, for real."""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from tests.conftest import ROOT
from vzfs import mounthelper, mounttable

HELPER = Path("/sbin/mount.vzfs")
MOUNT_WITHIN = 30
VALUES = np.arange(16, dtype="<i4").reshape(4, 4)


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository with one array, whose chunks are not compressed."""
    path = tmp_path_factory.mktemp("repository") / "repo"
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = repository.writable_session("main")
    group = zarr.create_group(session.store)
    array = group.create_array("a", shape=(4, 4), chunks=(2, 2), dtype="<i4", compressors=None)
    array[:] = VALUES
    session.commit("values")
    return path


@pytest.fixture(scope="module", name="helper")
def _helper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have mount(8) find the helper of this tree, for as long as the tests of this module run."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to put the helper into /sbin")
    if shutil.which("mount") is None:
        pytest.skip("needs mount(8)")
    wrapper = tmp_path_factory.mktemp("helper") / "mount.vzfs"
    wrapper.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m vzfs.mounthelper "$@"\n'
    )
    wrapper.chmod(0o755)
    try:
        HELPER.symlink_to(wrapper)
    except FileExistsError:
        pytest.skip(f"another {HELPER} is installed")
    except OSError as error:
        pytest.skip(f"needs a writable /sbin: {error.strerror}")
    try:
        yield
    finally:
        HELPER.unlink()


@pytest.fixture(name="mnt")
def _mnt(tmp_path: Path) -> Iterator[Path]:
    """Give a mountpoint, and leave neither mount nor daemon behind."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    try:
        yield mnt
    finally:
        while (mounted := mounttable.topmost(mnt)) is not None:
            lazily = ["umount", "-l"] if mounted.fstype == "autofs" else ["fusermount3", "-uz"]
            subprocess.run([*lazily, str(mnt)], check=True)
        for daemon in daemons(mnt):
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGTERM)
        wait_until(lambda: not daemons(mnt), f"the daemon of {mnt} has ended")


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for a condition, and fail if it does not come."""
    deadline = time.monotonic() + MOUNT_WITHIN
    while not is_so():
        assert time.monotonic() < deadline, f"never came: {what}"
        os.sched_yield()


def daemons(mnt: Path) -> list[int]:
    """Give the processes that have *mnt* among their arguments."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdecimal() and os.fsencode(mnt) in (
                (process / "cmdline").read_bytes().split(b"\0")
            ):
                found.append(int(process.name))
    return found


def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=MOUNT_WITHIN,
        cwd=cwd,
    )


def mount_vzfs(source: Path, mnt: Path, options: str = "", *flags: str) -> tuple[int, str, str]:
    """Mount by mount(8), without a cache on disk and with a log beside *mnt*."""
    given = ",".join(filter(None, ["no_cache", f"log_file={mnt.parent / 'log'}", options]))
    result = run("mount", "-t", "vzfs", source, mnt, "-o", given, *flags)
    return result.returncode, result.stdout, result.stderr


def is_mounted(mnt: Path) -> bool:
    mounted = mounttable.topmost(mnt)
    return mounted is not None and mounted.fstype == mounttable.FSTYPE


# -- mount and umount --------------------------------------------------------------------------


def test_mount_8_mounts_and_umount_8_ends_it(helper: None, repository: Path, mnt: Path) -> None:
    """`mount -t vzfs` says nothing and returns when the mount answers; `umount` ends the daemon."""
    assert mount_vzfs(repository, mnt) == (0, "", "")
    assert (mnt / "a" / "c" / "0" / "1").read_bytes() == VALUES[:2, 2:].tobytes()
    found = mounttable.topmost(mnt)
    assert found is not None
    assert (found.source, found.fstype) == (str(repository), "fuse.vzfs")
    assert run("umount", mnt).returncode == 0
    wait_until(lambda: not daemons(mnt), "the daemon has ended")
    assert "unmounted" in (mnt.parent / "log").read_text().splitlines()[-1]


def test_options_reach_the_mount(helper: None, repository: Path, mnt: Path) -> None:
    """Owner, permissions and variables of the environment are those that the options say."""
    options = "uid=1234,gid=4321,umask=077,rw,nofail,x-test=1,env.VZFS_TEST=a\\,b"
    assert mount_vzfs(repository, mnt, options)[0] == 0
    status = (mnt / "zarr.json").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 4321, 0o400)
    [daemon] = daemons(mnt)
    environment = Path(f"/proc/{daemon}/environ").read_bytes().split(b"\0")
    assert b"VZFS_TEST=a,b" in environment
    assert b"CACHE_DIRECTORY=/var/cache/vzfs" in environment


def test_being_verbose_says_what_is_run(helper: None, repository: Path, mnt: Path) -> None:
    """With `-v` the command is shown, and what became of it; unknown options pass with `-s`."""
    code, stdout, stderr = mount_vzfs(repository, mnt, "odd=1", "-v", "-s")
    assert code == 0
    assert "-m vzfs mount --no-cache" in stderr
    assert "unknown options: odd" in stderr
    assert f"is mounted at {mnt}" in stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("branch=nowhere", mounthelper.FAILED, "no branch 'nowhere'"),
        ("colour=red", mounthelper.REFUSED, "'colour' is unknown"),
        ("umask=9", mounthelper.REFUSED, "not an octal number"),
        ("remount", mounthelper.REFUSED, "unmount it"),
        ("env.AWS_SECRET_ACCESS_KEY=hush", mounthelper.REFUSED, "EnvironmentFile="),
    ],
)
def test_a_failure_is_told_with_a_code_of_mount_8(
    helper: None, repository: Path, mnt: Path, options: str, code: int, message: str
) -> None:
    """A mount that fails says why on standard error, and ends with a code of mount(8)."""
    found, _, stderr = mount_vzfs(repository, mnt, options)
    assert (found, is_mounted(mnt)) == (code, False)
    assert message in stderr


def test_a_mountpoint_in_use_is_a_failure(helper: None, repository: Path, mnt: Path) -> None:
    """What is mounted or not empty is not mounted over."""
    assert mount_vzfs(repository, mnt)[0] == 0
    code, _, stderr = mount_vzfs(repository, mnt, "ro")
    assert code == mounthelper.FAILED
    assert "mounted" in stderr
    code, _, stderr = mount_vzfs(repository, mnt.parent)
    assert code == mounthelper.FAILED
    assert "not empty" in stderr


def test_faking_checks_and_does_not_mount(helper: None, repository: Path, mnt: Path) -> None:
    """`mount -f` checks options, configuration and mountpoint, and mounts nothing."""
    assert mount_vzfs(repository, mnt, "", "-f") == (0, "", "")
    assert not is_mounted(mnt)
    for options, code, message in (
        ("umask=9", mounthelper.REFUSED, "octal"),
        ("deadline=-1", mounthelper.REFUSED, "deadline"),
        (f"config={mnt}/none", mounthelper.REFUSED, "configuration file"),
        ("branch=a,tag=b", mounthelper.REFUSED, "more than one snapshot"),
    ):
        found, _, stderr = mount_vzfs(repository, mnt, options, "-f")
        assert found == code
        assert message in stderr
    found, _, stderr = mount_vzfs(repository, mnt.parent, "", "-f")
    assert found == mounthelper.FAILED
    assert "not empty" in stderr


def test_modules_in_the_working_directory_are_not_run(
    helper: None, repository: Path, mnt: Path, tmp_path: Path
) -> None:
    """A folder `vzfs` where root happens to be is never imported, by helper or daemon."""
    trap = tmp_path / "trap" / "vzfs"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    options = f"no_cache,log_file={tmp_path / 'log'}"
    done = run("mount", "-t", "vzfs", repository, mnt, "-o", options, cwd=trap.parent)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


def test_a_mount_can_be_made_in_another_namespace(
    helper: None, repository: Path, mnt: Path
) -> None:
    """`mount -N PID` mounts where that process sees it, and this one does not."""
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; read end"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        if other.stdout.readline() != b"ready\n":
            pytest.skip("needs leave to make a mount namespace")
        try:
            code, _, stderr = mount_vzfs(repository, mnt, "", "-N", str(other.pid))
            assert code == 0, stderr
            there = Path(f"/proc/{other.pid}/mountinfo").read_bytes()
            assert str(mnt) in [m.mountpoint for m in mounttable.parse(there)]
            assert not is_mounted(mnt)
        finally:
            run("nsenter", "-m", "-t", str(other.pid), "umount", "-l", mnt)
            other.stdin.write(b"\n")
            other.stdin.close()


# -- fstab -------------------------------------------------------------------------------------


def test_a_line_of_fstab_is_mounted_once(
    helper: None, repository: Path, mnt: Path, tmp_path: Path
) -> None:
    """`mount DIR` and `mount -a` mount what fstab says, and `mount -a` not a second time."""
    fstab = tmp_path / "fstab"
    log = f"{tmp_path}/a\\040log"
    options = f"_netdev,nofail,x-systemd.automount,comment=x,no_cache,log_file={log}"
    fstab.write_text(f"{repository} {mnt} vzfs {options} 0 0\n")
    for words in (["--fstab", fstab, mnt], ["-a", "-T", fstab]):
        assert run("mount", *words).returncode == 0
        assert (mnt / "a" / "zarr.json").exists()
        assert run("mount", "-a", "-T", fstab).returncode == 0
        here = [
            m
            for m in mounttable.parse(Path("/proc/self/mountinfo").read_bytes())
            if m.mountpoint == str(mnt)
        ]
        assert len(here) == 1
        assert run("umount", mnt).returncode == 0
        wait_until(lambda: not daemons(mnt), "the daemon has ended")
    assert (tmp_path / "a log").exists()


# -- autofs ------------------------------------------------------------------------------------

IOC_READY, IOC_FAIL, IOC_CATATONIC = 0x9360, 0x9361, 0x9362


@contextmanager
def automounter(mnt: Path) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Be what systemd is for an automount unit: our process group is the one that may mount.

    The function given waits until somebody looks into *mnt*, mounts, and tells the kernel whether
    that worked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    reading, writing = os.pipe()
    options = f"fd={writing},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    failed = libc.mount(b"vzfs-test", os.fsencode(mnt), b"autofs", 0, options.encode())
    os.close(writing)
    if failed:
        os.close(reading)
        pytest.skip(f"needs autofs: {os.strerror(ctypes.get_errno())}")
    trigger = os.open(mnt, os.O_RDONLY | os.O_DIRECTORY)

    def serve(make_mount: Callable[[], bool]) -> None:
        _, _, token = struct.unpack_from("=iiI", os.read(reading, 4096))
        has_mounted = False
        try:
            has_mounted = make_mount()
        finally:
            fcntl.ioctl(trigger, IOC_READY if has_mounted else IOC_FAIL, token)

    try:
        yield serve
    finally:
        fcntl.ioctl(trigger, IOC_CATATONIC, 0)
        os.close(trigger)
        os.close(reading)


def test_a_mount_is_made_on_demand(helper: None, repository: Path, mnt: Path) -> None:
    """Under autofs, who looks into the directory waits for the mount, and finds it."""
    with automounter(mnt) as serve:
        words = [sys.executable, "-ISc", "import os, sys; print(*sorted(os.listdir(sys.argv[1])))"]
        reader = subprocess.Popen(
            [*words, str(mnt)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            serve(lambda: mount_vzfs(repository, mnt)[0] == 0)
            assert reader.communicate(timeout=MOUNT_WITHIN)[0].split() == ["a", "zarr.json"]
        finally:
            reader.kill()
            reader.communicate()


# -- service managers --------------------------------------------------------------------------


def test_a_service_manager_is_told(repository: Path, mnt: Path) -> None:
    """In the foreground, readiness is told once the mount answers, and the end when it ends."""
    # An abstract address: that of a file would have to be shorter than temporary folders are.
    address = f"vzfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address)
        listening.settimeout(MOUNT_WITHIN)
        service = subprocess.Popen(
            [sys.executable, "-m", "vzfs", "mount", "-f", "--no-cache", repository, mnt],
            env={**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": f"@{address}"},
            stderr=subprocess.DEVNULL,
        )
        try:
            ready, status = listening.recv(4096).decode().splitlines()
            assert ready == "READY=1"
            assert status.startswith("STATUS=")
            assert f"is mounted at {mnt}" in status
            assert (mnt / "zarr.json").exists()
            assert run("umount", mnt).returncode == 0
            assert listening.recv(4096) == b"STOPPING=1"
            assert service.wait(MOUNT_WITHIN) == 0
        finally:
            service.kill()
            service.wait()
