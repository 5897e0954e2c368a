"""What every reader of the matrix says, and in which words. Needs nothing but Python 3.11.

A reader is a program that is started with the folder of a view and its Zarr format, and is asked on
standard input, in JSON, for arrays: `[[group, [name, ...]], ...]`. It answers in lines of JSON: first
`{"version": ...}`; of each array `{"begin": path}`, and then its shape, data type and the SHA-256 of
its values, or the error. An array that was begun and never answered is one at which it crashed.

The digest is that of the real data's `truthlib`: C order, little-endian; of text of any length, each
element's length in 4 bytes and its UTF-8.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable


class NotShownError(Exception):
    """The reader opened the group, and has no array of that name in it."""


def run(version: str, read: Callable[[str, str], tuple[Iterable[int], str, bytes]]) -> None:
    """Answer for all arrays; *read* takes a group's folder and a name."""
    say(version=version)
    root = sys.argv[1]
    for group, names in json.load(sys.stdin):
        for name in names:
            path = f"{group}/{name}".lstrip("/")
            say(begin=path)
            try:
                shape, dtype, content = read(f"{root}/{group}".rstrip("/"), name)
            except MemoryError:
                raise
            except BaseException as error:  # a panic of Rust is no Exception
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                say(path=path, error=brief(error))
            else:
                digest = hashlib.sha256(content).hexdigest()
                say(path=path, shape=list(shape), dtype=dtype, sha256=digest)


def brief(error: BaseException) -> str:
    """Return the first line of what an error says."""
    said = str(error).strip() or repr(error)
    return f"{type(error).__name__}: {said.splitlines()[0][:200]}"


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)
