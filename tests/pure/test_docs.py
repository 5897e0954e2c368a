"""What the documents say, as far as it can be checked without reading: names, links, commands."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from vzfs.cli.main import vzfs
from vzfs.config import Flags, load
from vzfs.mounthelper import parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "docs/SEMANTICS.md",
    "docs/DESIGN.md",
    "docs/ERRORS.md",
    "docs/SECURITY.md",
]
TESTS = set(
    re.findall(
        r"^ *(?:async )?def (test_\w+)",
        "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py")),
        re.MULTILINE,
    )
)
PROOF = re.compile(r"\((`test_\w+`(?:,\s+`test_\w+`)*)\)\Z")


def paragraphs(document: str) -> list[str]:
    """Return the blocks of a document that are prose: no headings, tables, lists or code."""
    text = re.sub(
        r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE
    )
    blocks = [block.rstrip() for block in re.split(r"\n\s*\n", text)]
    return [block for block in blocks if block and not block.startswith(("#", "|", "*", "    "))]


def promises() -> list[str]:
    """Return the paragraphs of SEMANTICS.md behind its introduction."""
    return paragraphs("docs/SEMANTICS.md")[2:]


def commands(document: str) -> list[list[str]]:
    """Return the indented command lines of a document, split into words."""
    lines = re.findall(r"^    (\S.*)$", (ROOT / document).read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def command(name: str) -> click.Command:
    """Return a subcommand of `vzfs`."""
    found = vzfs.get_command(click.Context(vzfs), name)
    assert found is not None
    return found


def test_the_semantics_are_all_there() -> None:
    """SEMANTICS.md has the seven promises, numbered, and more paragraphs than promises."""
    headings = re.findall(r"^### (\d)\. ", (ROOT / "docs/SEMANTICS.md").read_text(), re.MULTILINE)
    assert headings == ["1", "2", "3", "4", "5", "6", "7"]
    assert len(promises()) > 30


@pytest.mark.parametrize("paragraph", promises(), ids=lambda p: " ".join(p.split()[:6]))
def test_every_promise_has_a_test(paragraph: str) -> None:
    """Each paragraph of SEMANTICS.md ends with the names of tests, and all of them exist."""
    proof = PROOF.search(paragraph)
    assert proof is not None
    named = set(re.findall(r"test_\w+", proof[1]))
    assert named - TESTS == set()


def threats() -> list[list[str]]:
    """Return the rows of the table of threats in SECURITY.md: threat, guard, tests."""
    text = (ROOT / "docs/SECURITY.md").read_text().partition("## Threats")[2]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_threat_has_a_guard_and_tests() -> None:
    """Each row of the table in SECURITY.md names a guard, and tests that exist."""
    rows = threats()
    assert len(rows) > 15
    for threat, guard, tests in rows:
        assert threat
        assert guard
        named = set(re.findall(r"`(test_\w+)`", tests))
        assert named
        assert named - TESTS == set(), threat


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link of a document leads to a file of the project."""
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    broken = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert broken == []


def test_commands_of_the_readme_are_understood() -> None:
    """Each `vzfs` command line of the README has a known command and valid options."""
    given = [words for words in commands("README.md") if words[0] == "vzfs"]
    assert {words[1] for words in given} == set(vzfs.list_commands(click.Context(vzfs)))
    for _, name, *words in given:
        with command(name).make_context(name, words):
            pass


def test_a_wrong_command_would_be_found() -> None:
    """The check of command lines sees an option that does not exist."""
    with pytest.raises(click.UsageError):
        command("mount").make_context("mount", ["s3://bucket/repo", "sst", "--alow", "x"])


def test_mount_commands_of_the_readme_are_understood() -> None:
    """What the README tells mount(8) to do is what the mount helper takes."""
    given = [
        words for words in commands("README.md") if words[:4] == ["sudo", "mount", "-t", "vzfs"]
    ]
    assert given
    for words in given:
        assert parse(words[4:]).arguments[0] == "mount"


def test_make_targets_of_the_readme_exist() -> None:
    """Each `make` command of the README names a target of the Makefile."""
    targets = {words[1] for words in commands("README.md") if words[0] == "make"}
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets <= known


def test_the_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    """The README's configuration file is read, and does what the README says of it."""
    found = re.search(
        r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    file = tmp_path / "config.toml"
    file.write_text(found[1])

    config = load("s3://ours/repo", Flags(config=str(file)), {"HOME": str(tmp_path)})

    written = tomllib.loads(found[1])
    assert str(config.cache_dir) == written["cache-dir"]
    assert config.cache_size == 50 * 2**30
    assert config.store.endpoint == "https://store.example.org"
    assert config.policies[0].store.anonymous
    assert [str(r.target) for r in config.relocations] == ["s3://archive/"]


def test_the_design_names_every_room() -> None:
    """The table of rooms in DESIGN.md has every module and package of the project, and no other."""
    text = (ROOT / "docs/DESIGN.md").read_text()
    table = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    named = {
        name.rstrip("/")
        for line in table
        for name in re.findall(r"`([\w/.]+)`", line.split("|")[2])
    }
    package = ROOT / "vzfs"
    rooms = {p.name for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert named == rooms - {"__init__.py"}


def test_the_package_is_licensed_as_it_says() -> None:
    """LICENSE is the text of the Apache License 2.0, and the samples say whose they are."""
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
    samples = (ROOT / "tests/data/README.md").read_text()
    missing = [p.name for p in (ROOT / "tests/data").glob("*.nc") if p.name not in samples]
    assert missing == []
