"""Changing configuration files in place."""

import threading
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.access import BucketConfig
from vzfs.config import files
from vzfs.config.editing import drop_policy, put_bucket, put_policy, rewrite
from vzfs.config.files import PolicyEntry
from vzfs.errors import ConfigError, ErrorKind
from vzfs.model.location import parse_prefix

FILE = """\
# kept
memory = "1G" # kept

# about a
[[ bucket ]] # kept
prefix = "s3://a/"
anonymous = true # kept
# about the policy of a
[[policy]]
bucket = 'a'
# behind a

# about maps
[[map]]
from = "s3://x/"
to = "s3://y/"

# about b
[[policy]]
  bucket = "b"
  public = false # kept"""
A = BucketConfig(parse_prefix("s3://a/"), nickname="a")


def test_what_is_not_meant_stays_byte_for_byte() -> None:
    """Comments, spaces and the order of lines are those of before, but for the lines that change."""
    changed = put_bucket(FILE, A, {"anonymous": False, "region": "eu"})
    changed = put_policy(changed, PolicyEntry("b", public=True))
    changed = drop_policy(changed, PolicyEntry("a"))

    expected = FILE.replace("anonymous = true", "anonymous = false")
    expected = expected.replace("false # kept\n#", 'false # kept\nnickname = "a"\nregion = "eu"\n#')
    expected = expected.replace("public = false", "public = true")
    assert changed == expected.replace("[[policy]]\nbucket = 'a'\n", "")


def test_new_tables_come_last() -> None:
    """What is new stands behind everything else, with an empty line before it."""
    changed = put_policy(FILE, PolicyEntry("b", "x/", public=True))
    assert changed == FILE + '\n\n[[policy]]\nbucket = "b"\nsubprefix = "x/"\npublic = true\n'
    other = BucketConfig(parse_prefix("s3://c/"), nickname="c")
    assert put_bucket("", other, {"addresses": ("::1",)}) == (
        '[[bucket]]\nnickname = "c"\nprefix = "s3://c/"\naddresses = ["::1"]\n'
    )


def test_nothing_changes_what_is_so_already() -> None:
    """A policy that is there is not written again, and one that is not there is not deleted."""
    assert put_policy(FILE, PolicyEntry("b")) == FILE
    for other in (PolicyEntry("b", public=True), PolicyEntry("b", "x/"), PolicyEntry("c")):
        assert drop_policy(FILE, other) == FILE


INLINE = 'policy = [{bucket = "b"}]\n'
HIDDEN = '[[policy]]\nbucket = """\n[[policy]]\n"""\n[[policy]]\nbucket = "b"\n'


@pytest.mark.parametrize("text", [INLINE, HIDDEN])
def test_what_only_a_person_can_change_is_refused(text: str) -> None:
    """A file written in an unusual way is refused with an error, and never spoilt."""
    with pytest.raises(ConfigError, match="only a person"):
        put_policy(text, PolicyEntry("b", public=True))
    with pytest.raises(ConfigError, match="only a person"):
        drop_policy(text, PolicyEntry("b"))
    with pytest.raises(ConfigError, match="only a person"):
        put_policy(INLINE, PolicyEntry("c"))


NAMES = st.sampled_from(["a", "b.c", "x_y-z"])
ENTRIES = st.builds(
    PolicyEntry, NAMES, st.text(st.characters(codec="utf-8"), max_size=5), st.booleans()
)


@given(st.lists(ENTRIES, max_size=5, unique_by=lambda e: e[:2]), st.data())
def test_policies_that_were_written_are_read_and_deleted(
    entries: list[PolicyEntry], data: st.DataObject
) -> None:
    """Whatever policies are written are those that are read, and deleting one leaves the others."""
    text = ""
    try:
        for entry in entries:
            text = put_policy(text, entry)
    except ConfigError:  # a control character that TOML does not take as it is
        return
    found = tomllib.loads(text).get("policy", [])
    assert [
        PolicyEntry(t["bucket"], t.get("subprefix", ""), t.get("public", False)) for t in found
    ] == entries
    if entries:
        gone = data.draw(st.sampled_from(entries))
        left = tomllib.loads(drop_policy(text, gone)).get("policy", [])
        assert left == [t for t, e in zip(found, entries, strict=True) if e != gone]


# -- files -------------------------------------------------------------------------------------


def test_a_new_file_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file has mode 0600 in a folder of 0700; one of the administrator's can be read by all."""
    mine = tmp_path / "home/vzfs/config.toml"
    monkeypatch.setattr(files, "SYSTEM_FOLDER", tmp_path / "conf.d")
    for path, modes in ((mine, (0o600, 0o700)), (tmp_path / "conf.d/x.toml", (0o644, 0o755))):
        rewrite(path, lambda text: text + "# new\r\n")
        assert path.read_bytes() == b"# new\r\n"
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == modes


def test_a_file_keeps_its_mode_its_link_and_its_line_ends(tmp_path: Path) -> None:
    """A file that is there keeps its mode, a link to it stays a link, and no temporary file is left."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real/file", tmp_path / "config.toml"
    real.write_bytes(b"a = 1\r\n")
    real.chmod(0o640)
    link.symlink_to(real)

    rewrite(link, lambda text: text + "b = 2\n")

    assert link.is_symlink()
    assert real.read_bytes() == b"a = 1\r\nb = 2\n"
    assert real.stat().st_mode & 0o777 == 0o640
    assert list(real.parent.iterdir()) == [real]


def test_a_change_that_fails_leaves_the_file_alone(tmp_path: Path) -> None:
    """What raises while it makes the new text, or cannot be written, leaves the old text and nothing else."""
    path = tmp_path / "config.toml"
    path.write_text("old")

    def fail(_text: str) -> str:
        raise ConfigError(ErrorKind.BAD_CONFIG, "no")

    with pytest.raises(ConfigError, match="no"):
        rewrite(path, fail)
    with pytest.raises(ConfigError, match="cannot be written"):
        rewrite(path, lambda _text: "\udcff")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        rewrite(path / "below", lambda text: text)
    assert str(path / "below") in str(caught.value)


def test_changes_at_the_same_time_are_all_made(tmp_path: Path) -> None:
    """Each of those who change a file at once sees what the others have written."""
    path = tmp_path / "config.toml"

    def add(name: str) -> None:
        for i in range(10):
            rewrite(path, lambda text, i=i: text + f"{name}{i}\n")

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_text().splitlines()) == 40
