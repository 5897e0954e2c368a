"""Programs of the npm registry, in the versions of `package-lock.json`.

They are installed once, when a test first needs one, into a folder of the checkout that git
ignores and that is named after the lock file. No install script of any package runs.
"""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.stores import programs

HERE: Final = Path(__file__).parent
INSTALLED: Final = HERE.parents[1] / ".venv-npm"
LISTS: Final = ("package.json", "package-lock.json")
INSTALL_WITHIN: Final = 600.0


def program(script: str, *options: str) -> list[str]:
    """Return the words that start *script*, a path below `node_modules`; install it if need be.

    *options* are node's.
    """
    node = programs.find("node", "nodejs")
    return [node, *options, str(_installed() / "node_modules" / script)]


def _installed() -> Path:
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LISTS)).hexdigest()
    folder = INSTALLED / digest[:16]
    if folder.exists():
        return folder
    npm = programs.find("npm", "npm")
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        # Several test processes may come here at once: one installs, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(npm, folder)
    return folder


def _install(npm: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=INSTALLED) as temporary:
        made = Path(temporary, "made")
        made.mkdir()
        for name in LISTS:
            shutil.copy(HERE / name, made)
        words = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            words, cwd=made, capture_output=True, text=True, timeout=INSTALL_WITHIN, check=False
        )
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            programs.lacking(f"npm cannot install what the tests need: {' '.join(said[:3])}")
        made.rename(folder)
