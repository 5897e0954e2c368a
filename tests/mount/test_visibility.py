"""Whose mount it is decides who may look in, and what of the sources anybody gets."""

import contextlib
import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount
from tests.mount.outcomes import cached_chunks, read, wait_until
from tests.mount.repositories import Ref, add_native, add_virtual, create, pattern
from vzfs import mounttable

NOBODY = 65534
STRANGER = 54321
"""A user who is in no group of anybody."""
OURS = 43210
"""A group that needs no name."""
LENGTH = 1000
DATA = pattern(2 * LENGTH)
NOT_ROOT = "needs the right to become another user"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    """Give a folder that every user can walk into."""
    folder = Path(tempfile.mkdtemp(prefix="vzfs-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(name="mount_here")
def _mount_here(folder: Path) -> Iterator[Callable[..., Mount]]:
    """Mount below a folder that everybody can walk into."""
    with contextlib.ExitStack() as stack:

        def make(name: str, *words: str | Path) -> Mount:
            made = Mount(folder / name, *words)
            (folder / name).chmod(0o755)
            stack.callback(made.tear_down)
            made_here.append(made)
            return made

        made_here: list[Mount] = []
        yield make
        for made in made_here:
            made.end()


@pytest.fixture(name="repository")
def _repository(tmp_path: Path) -> Path:
    """Write a repository with a native chunk, one below `open/` and one below `closed/`."""
    prefix = f"file://{tmp_path}/archive/"
    for name in ("open", "closed"):
        place = tmp_path / "archive" / name / "x"
        place.parent.mkdir(parents=True)
        place.write_bytes(DATA)
    session = create(tmp_path / "repository", containers=[prefix]).writable_session("main")
    root = zarr.group(session.store)
    add_native(root, "native", np.frombuffer(DATA[:LENGTH], "u1"), (LENGTH,))
    for name in ("open", "closed"):
        add_virtual(session, root, name, [Ref(f"{prefix}{name}/x", 0, LENGTH)])
    session.commit("one chunk of each kind")
    return tmp_path / "repository"


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Path:
    """Write a configuration with a public policy for `open/` and a private one for `closed/`."""
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
        [[bucket]]
        nickname = "archive"
        prefix = "file://{tmp_path}/archive/"
        [[policy]]
        bucket = "archive"
        subprefix = "open/"
        public = true
        [[policy]]
        bucket = "archive"
        subprefix = "closed/"
        """
    )
    return path


BECOME = """
import os, sys
user, group = int(sys.argv.pop(1)), int(sys.argv.pop(1))
def become():
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
"""
"""Becomes another user, who may not be able to start this Python."""


def read_as(user: int, path: Path, group: int | None = None) -> bytes | str:
    """Return what a user gets of a file: its bytes, or the name of the errno."""
    code = BECOME + (
        "become()\n"
        "try:\n    data = open(sys.argv[1], 'rb').read()\n"
        "except OSError as error:\n    print(error.errno, file=sys.stderr)\n"
        "else:\n    os.write(1, data)"
    )
    who = [str(user), str(user if group is None else group)]
    words = [sys.executable, "-ISc", code, *who, str(path)]
    found = subprocess.run(words, capture_output=True, check=True, cwd="/")
    return errno.errorcode[int(found.stderr)] if found.stderr else found.stdout


def test_a_public_mount_serves_what_public_policies_allow_and_nothing_else(
    repository: Path, config: Path, folder: Path, mount_here: Callable[..., Mount]
) -> None:
    """With --allow-other all users read what a public policy allows; the rest is EACCES, for root too."""
    words = ["--no-cache", "--allow-other", "--config", str(config)]
    mounted = mount_here("public", repository, *words)
    mounted.expect_log("the policy that allows this is private")
    for user in (0, NOBODY):
        assert read_as(user, mounted.path / "native/c/0") == DATA[:LENGTH]
        assert read_as(user, mounted.path / "open/c/0") == DATA[:LENGTH]
        assert read_as(user, mounted.path / "closed/c/0") == "EACCES"
    assert (mounted.path / "closed/c/0").stat().st_size == LENGTH


def test_allow_makes_a_policy_that_is_private(
    repository: Path, tmp_path: Path, mount_here: Callable[..., Mount]
) -> None:
    """What --allow alone allows is not served in a public mount, and a note says so when it is made."""
    words = ["--no-cache", "--allow-other", "--allow", f"{tmp_path}/archive"]
    mounted = mount_here("public", repository, *words)
    mounted.expect_log("the policy that allows this is private")
    assert read(mounted.path / "open/c/0") == "EACCES"
    assert any("archive" in note and "public" in note for note in mounted.outcome["notes"])


def test_a_private_mount_is_for_its_user_alone(
    repository: Path, config: Path, mount_here: Callable[..., Mount]
) -> None:
    """Without a flag the user reads what private policies allow too, and nobody else gets past the root."""
    mounted = mount_here("private", repository, "--no-cache", "--config", str(config))
    for name in ("native", "open", "closed"):
        assert read_as(0, mounted.path / name / "c/0") == DATA[:LENGTH]
        assert read_as(NOBODY, mounted.path / name / "c/0") == "EACCES"


def test_a_group_mount_is_for_its_group_alone(
    repository: Path, config: Path, mount_here: Callable[..., Mount]
) -> None:
    """With --group its members read what private policies allow too; others get EACCES at the root."""
    words = ["--no-cache", f"--group={OURS}", "--config", str(config)]
    mounted = mount_here("group", repository, *words)
    status = mounted.path.stat()
    assert stat.filemode(status.st_mode) == "drwxr-x---"
    assert status.st_gid == OURS
    for name in ("native", "open", "closed"):
        path = mounted.path / name / "c/0"
        assert read_as(NOBODY, path, OURS) == DATA[:LENGTH]
        assert read_as(STRANGER, path) == "EACCES"
        assert path.stat().st_mode & 0o007 == 0
        assert path.parent.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(("words", "gid"), [(["--group"], 0), (["--group", "--gid", "12"], 12)])
def test_the_group_is_by_default_the_users_own(
    words: list[str], gid: int, repository: Path, mount_here: Callable[..., Mount]
) -> None:
    """--group without a name means the user's primary group, or that of --gid; what follows is no name."""
    mounted = mount_here("group", repository, "--no-cache", *words, "--memory", "1M")
    assert mounted.path.stat().st_gid == gid


@pytest.mark.parametrize(
    "words",
    [
        ["--allow-other", "--group"],
        ["--group=7", "--gid=8"],
        ["--group=no-such-group"],
    ],
)
def test_a_mount_is_of_one_visibility(words: list[str], repository: Path, folder: Path) -> None:
    """Contradicting flags, and a group that does not exist, are an error of usage."""
    where = folder / "mnt"
    where.mkdir()
    command = [sys.executable, "-m", "vzfs", "mount", str(repository), str(where), *words]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said.returncode == 2
        assert "group" in said.stderr
        assert mounttable.topmost(where) is None
    finally:
        if mounttable.topmost(where) is not None:
            subprocess.run(["fusermount3", "-uz", str(where)], check=False)


@pytest.mark.parametrize("flag", ["--allow-other", "--group"])
def test_a_user_needs_leave_to_let_others_in(flag: str, repository: Path, folder: Path) -> None:
    """Where /etc/fuse.conf does not let users let others in, a mount that does fails, and the error says so."""
    said_so = Path("/etc/fuse.conf")
    if said_so.exists() and "\nuser_allow_other" in "\n" + said_so.read_text():
        pytest.skip("/etc/fuse.conf has user_allow_other")
    home = folder / "home"
    where = folder / "mnt"
    for place in (home, where):
        place.mkdir()
        os.chown(place, NOBODY, NOBODY)
    shutil.copytree(repository, folder / "repository")
    code = BECOME + (
        "import difflib, vzfs.cli.mounting, vzfs.mount\n"
        "from vzfs.cli.main import main\nbecome()\nmain()"
    )
    mounting = ["mount", "-f", "--no-cache", str(folder / "repository"), str(where), flag]
    said = subprocess.run(
        [sys.executable, "-c", code, str(NOBODY), str(NOBODY), *mounting],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(home)},
    )
    assert said.returncode == 9
    assert "user_allow_other" in said.stderr
    assert not where.is_mount()


def test_caches_of_public_and_other_mounts_are_apart(
    repository: Path, config: Path, tmp_path: Path, mount_here: Callable[..., Mount]
) -> None:
    """A public mount neither gives from, nor fills, the cache of the others; both are their user's alone."""
    cache = tmp_path / "cache"
    words = ["--cache-dir", str(cache), "--config", str(config)]
    private = mount_here("private", repository, *words)
    assert read(private.path / "closed/c/0") == DATA[:LENGTH]
    what = "the chunk is cached, and so are its neighbours'"
    wait_until(lambda: cached_chunks(cache, LENGTH) == 3, what)
    public = mount_here("public", repository, *words, "--allow-other")
    public.expect_log("the policy that allows this is private")
    assert read(public.path / "closed/c/0") == "EACCES"
    assert read(public.path / "open/c/0") == DATA[:LENGTH]
    wait_until(lambda: cached_chunks(cache / "public", LENGTH) == 2, what)
    assert cached_chunks(cache, LENGTH) == 5
    found = [cache, *cache.rglob("*")]
    assert {p.stat().st_mode & 0o777 for p in found if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in found if p.is_file()} == {0o600}


def test_a_daemon_leaves_no_core_dump(repository: Path, mount_here: Callable[..., Mount]) -> None:
    """The daemon's limit for core dumps is 0, and it cannot raise it."""
    mounted = mount_here("private", repository, "--no-cache")
    limits = Path(f"/proc/{mounted.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


def test_nobody_but_root_looks_into_the_memory_of_a_process_with_secrets() -> None:
    """What the kernel has of a process that forbids core dumps belongs to root, not to its user."""
    code = BECOME + (
        "import ctypes\nfrom vzfs.observe import forbid_core_dumps\n"
        "owner = lambda: print(os.stat('/proc/self/environ').st_uid)\n"
        "become()\nctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\nowner()\n"
        "forbid_core_dumps()\nowner()"
    )
    words = [sys.executable, "-c", code, str(NOBODY), str(NOBODY)]
    said = subprocess.run(words, capture_output=True, check=True, text=True)
    assert said.stdout.split() == [str(NOBODY), "0"]
