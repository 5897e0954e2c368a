"""`make test-formats`: mount every real file there is, compare what is shown, and write docs/FORMATS.md.

    python -m tests.formats [--write] [--only WORDS]

All archival files are mounted as one, each is a group; references and Zarr hierarchies are mounted
one by one. It ends with 1 if any array is wrong or silently missing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.formats import report
from tests.formats.matrix import Found, Outcome, Shown, compare, survey
from tests.mount.conftest import Mount
from vzfs.joining import group_names
from vzfs.model.location import path_to_url

ROOT = Path(__file__).parents[2]
ORIGIN = "file:///srv/vzfs-data/public/"
"""Where the references of the real data lead."""


def main() -> int:
    """Compare, tell, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/FORMATS.md")
    parser.add_argument("--only", default="", help="files whose paths have this in them")
    arguments = parser.parse_args()
    data = Path(os.environ.get("VZFS_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not (data / "truth.json").exists():
        print("needs the real data: set VZFS_TEST_DATA to their folder")
        return 2
    with tempfile.TemporaryDirectory(prefix="vzfs-formats-") as folder:
        os.environ["VZFS_CACHE_DIR"] = f"{folder}/cache"
        found = list(everything(data, Path(folder), lambda name: arguments.only in name))
    text = report.tell(found, json.loads((data / "virtualizarr-2.8-results.json").read_bytes()))
    print(text)
    for row in found:
        if row.outcome in {Outcome.WRONG, Outcome.MISSING, Outcome.AWAY}:
            print(f"{row.outcome}: {row.file} {row.array}: {row.reason}")
    if arguments.write and not arguments.only:
        (ROOT / "docs" / "FORMATS.md").write_text(text)
    return int(any(row.outcome in {Outcome.WRONG, Outcome.MISSING} for row in found))


def everything(data: Path, folder: Path, is_wanted: Callable[[str], bool]) -> Iterator[Found]:
    """Yield what became of every array of every file of which something is known, of those that are wanted."""
    truths: dict[str, Any] = json.loads((data / "truth.json").read_bytes())
    digest = _library(data).digest
    files = {name: truth for name, truth in truths.items() if is_wanted(name)}
    archival = [name for name in files if name.startswith("archival/")]
    if archival:
        names = group_names([path_to_url(data / name) for name in archival])
        listed = folder / "archival.txt"
        listed.write_text("".join(f"{data / name}\n" for name in archival))
        with mounted(folder / "archival", f"@{listed}") as (mount, left_out):
            for name, group in zip(archival, names, strict=True):
                yield from compare(name, files[name], Shown(mount.path, group, left_out), digest)
    moved = ["--map", f"{ORIGIN}={path_to_url(data)}/", "--allow", f"{path_to_url(data)}/"]
    for number, name in enumerate(n for n in files if not n.startswith("archival/")):
        options = moved if name.startswith("kerchunk/") else []
        source = str(data / name)
        with mounted(folder / str(number), source, *options) as (mount, left_out):
            yield from compare(name, files[name], Shown(mount.path, "", left_out), digest)


@contextlib.contextmanager
def mounted(
    folder: Path, source: str, *options: str
) -> Iterator[tuple[Mount, list[dict[str, str]]]]:
    """Mount *source*, and say what `vzfs info` says is left out."""
    made = Mount(folder, source, "--view", "portable", *options)
    try:
        yield made, survey(source, *options)
    finally:
        made.tear_down()


def _library(data: Path) -> Any:
    spec = importlib.util.spec_from_file_location("truthlib", data / "truthlib.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
