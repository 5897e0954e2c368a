"""`docs/ERRORS.md` says what the tables in the code say."""

import errno
import re

import pytest

from tests.conftest import ROOT
from vzfs import mounthelper
from vzfs.cli import exits
from vzfs.errors import ErrorKind, VzfsError
from vzfs.fuse import ERRNO

NONE = "—"
ONLY_COMMANDS = {
    ErrorKind.NOT_A_REPOSITORY,
    ErrorKind.REPOSITORY_OFFLINE,
    ErrorKind.REF_NOT_FOUND,
    ErrorKind.AMBIGUOUS_SNAPSHOT,
    ErrorKind.CANNOT_LIST,
    ErrorKind.BAD_USAGE,
    ErrorKind.BAD_MOUNTPOINT,
    ErrorKind.MOUNT_BUSY,
    ErrorKind.NOT_MOUNTED,
    ErrorKind.FUSE_UNAVAILABLE,
    ErrorKind.NOT_JOINED,
    ErrorKind.COMMIT_CONFLICT,
    ErrorKind.CHECK_FAILED,
    ErrorKind.NOT_WRITTEN,
}
ONLY_MOUNTS = {
    ErrorKind.IS_A_DIRECTORY,
    ErrorKind.NO_SUCH_ATTRIBUTE,
    ErrorKind.READ_ONLY,
    ErrorKind.TOO_MANY_OPEN,
    ErrorKind.STALE_INODE,
}


def rows(heading: str) -> list[list[str]]:
    """Give the cells of the one table below *heading*, without its head."""
    text = (ROOT / "docs" / "ERRORS.md").read_text("utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)[2:]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_every_kind_has_one_row_in_order() -> None:
    """The table has each kind of error once, in the order in which they were added."""
    codes = [row[0] for row in rows("Kinds of errors")]
    assert codes == [f"`{kind}`" for kind in ErrorKind]


@pytest.mark.parametrize("kind", ErrorKind)
def test_a_row_says_errno_and_exit_code(kind: ErrorKind) -> None:
    """A row has the errno and the exit code of its kind, a meaning, and advice."""
    [row] = [row for row in rows("Kinds of errors") if row[0] == f"`{kind}`"]
    _, number, code, meaning, advice = row
    if kind in ONLY_COMMANDS:
        assert number == NONE
        assert kind not in ERRNO
    else:
        assert number == errno.errorcode[ERRNO.get(kind, errno.EIO)]
    exit_code = exits.exit_code(VzfsError(kind, "something"))
    if kind in ONLY_MOUNTS:
        assert code == NONE
        assert exit_code == exits.UNEXPECTED
    else:
        assert code == str(exit_code)
    assert meaning.endswith(".")
    assert advice.endswith(".")


def test_the_exit_codes_are_documented() -> None:
    """The table of exit codes has those of the commands, and no others."""
    codes = {value for name, value in vars(exits).items() if name.isupper() and name[0] != "_"}
    assert [int(row[0]) for row in rows("Exit codes of `vzfs`")] == sorted({0, *codes})


def test_the_exit_codes_of_the_mount_helper_are_documented() -> None:
    """The helper's table says which exit code of `vzfs mount` becomes which for mount(8)."""
    documented = {
        int(digits): int(row[0])
        for row in rows("Exit codes of `mount.vzfs`")
        for digits in re.findall(r"\d+", row[2])
    }
    assert documented == mounthelper.EXIT_CODES
    assert {int(row[0]) for row in rows("Exit codes of `mount.vzfs`")} == {
        mounthelper.OK,
        mounthelper.REFUSED,
        mounthelper.SYSTEM_ERROR,
        mounthelper.INTERRUPTED,
        mounthelper.FAILED,
    }
