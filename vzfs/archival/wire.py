"""What the daemon and a process that parses say to each other, over a stream.

Each message is a head and a body. The daemon says which file to parse (`PARSE`, JSON), and gives the
ranges that the process asks for (`BYTES`); the process is ready (`READY`), wants a range (`WANTS`), and
in the end has made references (`MADE`, see `formats.references`) or failed (`FAILED`, an `Outcome` and
a reason). The daemon believes no length that a process says: all are bounded.
"""

import enum
import json
import struct
from typing import Final, NamedTuple

from vzfs.confined.text import MAX_TEXT, one_line

MAX_MADE: Final = 256 * 2**20
"""Bytes of the references of one file: some eight million chunks."""
MAX_ASKED: Final = 8 * 2**20
"""Bytes of one range."""
MAX_BODY: Final = 4096
"""Bytes of every other message."""
WAITING: Final = 5
"""How many times the seconds of a parser it may take with all its waiting for the file."""

HEAD: Final = struct.Struct("<BBQ")
"""What is said, whether the process takes no other file, and how long the body is."""
RANGE: Final = struct.Struct("<QQ")
"""Offset and length."""


class Said(enum.IntEnum):
    """What a message is."""

    PARSE = 0
    BYTES = 1
    READY = 2
    WANTS = 3
    MADE = 4
    FAILED = 5


class Outcome(enum.IntEnum):
    """How a parser failed: nothing can be presented, its libraries are not there, it needs too much memory, or anything else."""

    UNPRESENTABLE = 0
    NO_LIBRARY = 1
    TOO_LARGE = 2
    WRONG = 3


class Job(NamedTuple):
    """A file to parse: its *kind* and *size*; with how many more bytes of memory, and seconds."""

    kind: str
    size: int
    memory: int
    seconds: float

    def encode(self) -> bytes:
        """Return the body of the message."""
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Job":
        """Return what *body* says."""
        return cls(*json.loads(body))


def message(said: Said, body: bytes | memoryview = b"", *, is_last: bool = False) -> bytes:
    """Return the message, but for a body that is long."""
    return HEAD.pack(said, is_last, len(body)) + body


def failure(outcome: Outcome, reason: str) -> bytes:
    """Return the body of FAILED."""
    return bytes([outcome]) + one_line(reason).encode("utf-8", "backslashreplace")


def read_failure(body: bytes) -> tuple[Outcome, str]:
    """Return what a body of FAILED says. Raises ValueError."""
    if not 1 <= len(body) <= 1 + 4 * (MAX_TEXT + 3):
        raise ValueError("a reason has no such length")
    return Outcome(body[0]), one_line(body[1:].decode("utf-8", "replace"))
