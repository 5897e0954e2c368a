"""What the daemon and a worker process say to each other.

Bytes go through two files in memory that both have open, as that is two copies of a chunk and no
more, and takes no turn of the event loop for each 200 KiB. The daemon writes into one the stored
chunk and, behind it, the spec; the worker writes the decoded chunk into the other. Short messages
over a socket that keeps their bounds say when: a request, and one reply for each. The first message
of a worker is a reply without a request: that it is ready, or why not.

The daemon believes no length that a worker says: it reads as many bytes as it asked for.
"""

import enum
import struct
from typing import Final, NamedTuple

from vzfs.confined.text import one_line

MAX_NBYTES: Final = 2**30
"""Bytes of a chunk, stored or decoded, beyond which none is decoded."""
MAX_SPEC: Final = 2**16
"""Bytes of the description of what is to be decoded."""
MAX_REPLY: Final = 4096
"""Bytes of a reply."""
DEADLINE: Final = 60.0
"""Seconds that one chunk may take."""

_REQUEST: Final = struct.Struct("<QQQ")


class Request(NamedTuple):
    """How long the chunk, the spec and the decoded chunk are, in bytes."""

    chunk: int
    spec: int
    nbytes: int

    def encode(self) -> bytes:
        """Return the message."""
        return _REQUEST.pack(*self)

    @classmethod
    def decode(cls, message: bytes) -> "Request":
        """Return what *message* says."""
        return cls(*_REQUEST.unpack(message))


class Outcome(enum.IntEnum):
    """What became of a chunk: done, or its bytes are wrong, or no codec is there, or it takes too much memory."""

    DONE = 0
    WRONG = 1
    NO_CODEC = 2
    TOO_LARGE = 3


class Reply(NamedTuple):
    """An outcome and its reason; for NO_CODEC, that is the name of the codec. *is_last* of this worker."""

    outcome: Outcome
    is_last: bool = False
    text: str = ""

    def encode(self) -> bytes:
        """Return the message."""
        text = one_line(self.text).encode("utf-8", "backslashreplace")
        return bytes([self.outcome, self.is_last]) + text

    @classmethod
    def decode(cls, message: bytes) -> "Reply":
        """Return what *message* says. Raises ValueError if it is no reply."""
        if not 2 <= len(message) <= MAX_REPLY or message[1] > 1:
            raise ValueError("a worker made no sense")
        text = message[2:].decode("utf-8", "replace")
        return cls(Outcome(message[0]), bool(message[1]), one_line(text))
