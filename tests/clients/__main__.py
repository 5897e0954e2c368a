"""`make test-clients`: every reader reads every array of the corpus in every view.

    python -m tests.clients [--only CLIENT,...] [--views FOLDER] [--write]

installs the readers, writes the corpus, mounts it, has them read what lies below `.vzfs/view/`, and
compares what they find with `expected.py`. It ends with 1 if anything is not as predicted. --write
puts the table into docs/CLIENTS.md. --views takes views from a folder instead of a mount.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.clients import report
from tests.clients.clients import CLIENTS, LackingError, install, python_of
from tests.clients.matrix import Truth
from tests.clients.runner import Matrix

ROOT = Path(__file__).parents[2]
MOUNTED_WITHIN = 60


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of clients, with commas between")
    parser.add_argument("--views", type=Path, help="folder with a NAME-vN for each view")
    parser.add_argument("--corpus", type=Path, help="a corpus that has been written")
    parser.add_argument("--write", action="store_true", help="write docs/CLIENTS.md")
    arguments = parser.parse_args()
    data = Path(os.environ.get("VZFS_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "truth.json").exists():
        print("needs the real data: set VZFS_TEST_DATA to their folder")
        return 2
    installed = install()
    only = set(filter(None, arguments.only.split(",")))
    with tempfile.TemporaryDirectory(prefix="vzfs-clients-") as temporary:
        corpus = arguments.corpus or Path(temporary) / "corpus"
        try:
            python = python_of(installed, "archive")
        except LackingError as error:
            print(error)
            return 2
        if arguments.corpus is None:
            write = [python, "-m", "tests.clients.corpus", str(data), str(corpus)]
            subprocess.run(write, cwd=ROOT, check=True)
        truth = Truth(corpus)
        with contextlib.ExitStack() as stack:
            views = arguments.views or stack.enter_context(mounted(python, corpus, Path(temporary)))
            matrix = Matrix(views, installed, truth)
            matrix.run([c for c in CLIENTS if not only or c.name in only])
    text = report.tell(matrix)
    print(text)
    if arguments.write and not only:
        report.write(ROOT / "docs" / "CLIENTS.md", text)
    for line in matrix.surprises:
        print(line)
    print(f"{matrix.passed} passed, {len(matrix.surprises)} failed, {len(matrix.lacking)} skipped")
    return 1 if matrix.surprises else 0


@contextlib.contextmanager
def mounted(python: Path, corpus: Path, folder: Path) -> Iterator[Path]:
    """Mount the corpus with an interpreter that has the codecs of TIFF, and give where views are."""
    place = folder / "mnt"
    place.mkdir()
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            *(python, "-m", "vzfs", "mount", corpus / "repository", place, "--no-cache"),
            *("--allow", corpus / "archive", "--announce-fd", str(writing)),
            *("--log-file", folder / "log"),
        ],
        cwd=ROOT,
        pass_fds=[writing],
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            outcome = json.loads(said.readline() or "{}")
        if "mounted" not in outcome:
            raise SystemExit(f"the corpus cannot be mounted: {outcome}")
        yield place / ".vzfs" / "view"
    finally:
        process.terminate()
        try:
            process.wait(timeout=MOUNTED_WITHIN)
        except subprocess.TimeoutExpired:
            subprocess.run(["fusermount3", "-uz", place], check=False)
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
