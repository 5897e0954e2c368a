"""The unit files and lines of fstab that are shipped, as systemd and the mount helper see them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vzfs.cli.mounting import mount
from vzfs.mounthelper import parse

UNITS = ROOT / "systemd"
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GENERATOR = Path("/usr/lib/systemd/system-generators/systemd-fstab-generator")


def settings(unit: str) -> dict[str, list[str]]:
    """Give the settings of a unit file, each with all of its values."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def verify(folder: Path, *units: str) -> list[str]:
    """Give what systemd has to say against units, which lie in *folder*."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    result = subprocess.run(
        [program, "verify", "--man=no", *(str(folder / unit) for unit in units)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_COLORS": "0"},
    )
    said = [line for line in result.stderr.splitlines() if re.search(r"vzfs|data-sst", line)]
    return said or [result.stderr] * (result.returncode != 0)


def with_programs(text: str) -> str:
    """Put a program that exists in the place of `vzfs`, if systemd would not find that."""
    if shutil.which("vzfs", path=SEARCHED):
        return text
    return re.sub(r"^(Exec\w+=-?)vzfs ", rf"\1{sys.executable} -m vzfs ", text, flags=re.MULTILINE)


def test_systemd_accepts_the_service(tmp_path: Path) -> None:
    """There is nothing that systemd has to say against `vzfs@.service`."""
    text = with_programs((UNITS / "vzfs@.service").read_text())
    (tmp_path / "vzfs@.service").write_text(text)
    assert verify(tmp_path, "vzfs@.service") == []


def test_systemd_accepts_the_mount_units() -> None:
    """There is nothing that systemd has to say against the mount unit and its automount."""
    assert verify(UNITS, "data-sst.mount", "data-sst.automount") == []


def test_a_misspelt_setting_would_be_found(tmp_path: Path) -> None:
    """The check of the units sees a setting that systemd does not know."""
    text = with_programs((UNITS / "vzfs@.service").read_text())
    (tmp_path / "vzfs@.service").write_text(text.replace("KillMode=", "KilMode="))
    assert any("KilMode" in line for line in verify(tmp_path, "vzfs@.service"))


def test_the_service_mounts_what_its_comment_says() -> None:
    """The variables in the comment make a command line that `vzfs mount` accepts."""
    [start] = settings("vzfs@.service")["ExecStart"]
    shown = re.findall(r"^#     (\w+)=(.*)$", (UNITS / "vzfs@.service").read_text(), re.MULTILINE)
    for name, value in shown:
        start = start.replace(f"${{{name}}}", shlex.quote(value)).replace(f"${name}", value)
    program, command, *arguments = shlex.split(start)
    assert (program, command) == ("vzfs", "mount")
    with mount.make_context("mount", arguments) as context:
        assert context.params["foreground"] is True
        assert context.params["sources"] == ("s3://bucket/repository",)
        assert context.params["mountpoint"] == Path("/data/sst")
        assert context.params["allow"] == ("s3://archive/sst/",)


def test_the_service_shares_the_file_systems_of_the_machine() -> None:
    """No setting gives the service a mount namespace, in which nobody else would see the mount."""
    isolating = re.compile(
        r"Protect(System|Home|Kernel\w+|ControlGroups|Proc|Hostname|Clock)|Private\w+|ProcSubset"
        r"|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem"
        r"|RootDirectory|RootImage|DynamicUser|MountFlags|MountAPIVFS|User"
    )
    assert [name for name in settings("vzfs@.service") if isolating.fullmatch(name)] == []


def test_the_mount_helper_accepts_the_mount_unit() -> None:
    """The options of the mount unit are the helper's, and its automount is of the same place."""
    unit = settings("data-sst.mount")
    [options] = unit["Options"]
    invocation = parse([*unit["What"], *unit["Where"], "-o", options.replace("%%", "%")])
    assert "--allow=s3://archive/sst/" in invocation.arguments
    assert settings("data-sst.automount")["Where"] == unit["Where"]
    assert unit["Type"] == ["vzfs"]


def test_the_mount_helper_accepts_the_lines_of_fstab_in_the_readme() -> None:
    """Each line of fstab that the README shows has six fields, and options that exist."""
    lines = [
        line.split()
        for line in (UNITS / "README.md").read_text().splitlines()
        if re.match(r"    \S+ +/\S+ +vzfs ", line)
    ]
    assert len(lines) == 2
    for source, mountpoint, _, options, *numbers in lines:
        assert numbers == ["0", "0"]
        parse([source, mountpoint, "-o", options])


def test_a_line_of_fstab_means_the_same_to_mount_8_and_to_systemd(tmp_path: Path) -> None:
    """Escapes in fstab, of which systemd undoes more than mount(8), come to the same options."""
    if not GENERATOR.exists():
        pytest.skip("needs systemd-fstab-generator")
    written = r"cache_dir=/a\040b\\c\,d,allow=s3://b/x%3Dy,region=e"
    fstab = tmp_path / "fstab"
    fstab.write_text(f"s3://b/r /mnt/nowhere vzfs {written} 0 0\n")
    subprocess.run(
        [GENERATOR, *[tmp_path] * 3], env={**os.environ, "SYSTEMD_FSTAB": str(fstab)}, check=True
    )
    unit = (tmp_path / "mnt-nowhere.mount").read_text()
    [by_systemd] = re.findall(r"^Options=(.*)$", unit, re.MULTILINE)
    by_mount = written.replace(r"\040", " ")
    expected = [r"--cache-dir=/a b\c,d", "--allow=s3://b/x%3Dy", "--region=e"]
    for options in (by_systemd.replace("%%", "%"), by_mount):
        assert parse(["s3://b/r", "/mnt", "-o", options]).arguments[1:4] == expected
