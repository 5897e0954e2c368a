"""What may befall the folder of a cache, and how it is mended.

Each harm is done at once and returns what mends it. None of them may cost a read.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

type Mend = Callable[[], None]

SOME: Final = 40
"""Files that are damaged at a time."""


def nothing() -> None:
    """Mend what mends itself."""


def files(cache: Path) -> list[Path]:
    """Return the files of a cache, which may vanish meanwhile."""
    return sorted(Path(folder, name) for folder, _, names in os.walk(cache) for name in names)


def flip(cache: Path, rng: Random) -> Mend:
    """Flip a bit of some entries."""
    return _edit(cache, rng, lambda size: (rng.randrange(size), bytes([1 << rng.randrange(8)])))


def truncate(cache: Path, rng: Random) -> Mend:
    """Cut some entries short."""
    return _edit(cache, rng, lambda size: (rng.randrange(size), b""))


def swap(cache: Path, rng: Random) -> Mend:
    """Put some entries in the place of others."""
    found = files(cache)
    for path in rng.sample(found, min(SOME, len(found))):
        with contextlib.suppress(OSError):
            path.write_bytes(rng.choice(found).read_bytes())
    return nothing


def _edit(cache: Path, rng: Random, change: Callable[[int], tuple[int, bytes]]) -> Mend:
    found = files(cache)
    for path in rng.sample(found, min(SOME, len(found))):
        with contextlib.suppress(OSError, ValueError), path.open("r+b") as file:
            place, mask = change(path.stat().st_size)
            if not mask:
                file.truncate(place)
                continue
            file.seek(place)
            old = file.read(1)
            file.seek(place)
            file.write(bytes([old[0] ^ mask[0]]))
    return nothing


def empty(cache: Path, _: Random) -> Mend:
    """Delete every file."""
    for path in files(cache):
        path.unlink(missing_ok=True)
    return nothing


def remove(cache: Path, _: Random) -> Mend:
    """Delete the folder."""
    shutil.rmtree(cache, ignore_errors=True)
    return nothing


def replace(cache: Path, _: Random) -> Mend:
    """Have a file in the place of the folder."""
    aside = cache.with_name(f"{cache.name}-aside")
    with contextlib.suppress(OSError):
        cache.rename(aside)
        cache.write_bytes(b"")

    def mend() -> None:
        if cache.is_file():
            cache.unlink()
        if aside.exists() and not cache.exists():
            aside.rename(cache)

    return mend


def fill(cache: Path, _: Random) -> Mend:
    """Fill the file system, which must be a small one."""
    filler = cache.with_name("filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    return lambda: filler.unlink(missing_ok=True)


def forbid(cache: Path, _: Random) -> Mend:
    """Take the permissions of the folder away, which root does not notice."""
    with contextlib.suppress(OSError):
        cache.chmod(0)

    def mend() -> None:
        if cache.is_dir():
            cache.chmod(0o700)

    return mend


def read_only(cache: Path, _: Random) -> Mend:
    """Make the file system, which must be mounted at the parent of the folder, read-only."""

    def remount(how: str) -> None:
        words = ["mount", "-o", f"remount,{how}", str(cache.parent)]
        subprocess.run(words, check=False, capture_output=True)

    remount("ro")
    return lambda: remount("rw")


type Harm = Callable[[Path, Random], Mend]

GENTLE: Final[dict[str, Harm]] = {
    "flipped": flip,
    "truncated": truncate,
    "swapped": swap,
    "emptied": empty,
    "removed": remove,
}
"""After these a cache goes on."""
HARD: Final[dict[str, Harm]] = {"replaced": replace, "forbidden": forbid}
"""After these it may be off for a minute."""
OF_A_DISK: Final[dict[str, Harm]] = {"full": fill, "read-only": read_only}
"""These need a file system that has nothing but the cache."""
