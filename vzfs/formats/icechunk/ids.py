"""Object ids: Crockford's base 32, upper case, zero bits filled in on the right, no padding.

Ids of snapshots, manifests and chunks have 12 bytes and 20 characters, ids of nodes 8 bytes and 13
characters. An id becomes part of a key in storage, so nothing but its one spelling is accepted.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from vzfs.errors import FormatError
from vzfs.formats.icechunk.envelope import corrupt

OBJECT_ID_LENGTH: Final = 12
NODE_ID_LENGTH: Final = 8

_ALPHABET: Final = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS: Final = {chr(c): i for i, c in enumerate(_ALPHABET)}
_TABLE: Final = np.frombuffer(_ALPHABET, np.uint8)


def encode_id(raw: bytes) -> str:
    """Return *raw* as text."""
    bits = 8 * len(raw)
    count = -(-bits // 5)
    number = int.from_bytes(raw) << (5 * count - bits)
    return "".join(chr(_ALPHABET[number >> 5 * k & 31]) for k in reversed(range(count)))


def decode_id(text: str, length: int = OBJECT_ID_LENGTH) -> bytes:
    """Return the *length* bytes that *text* spells. Raises FormatError."""
    count = -(-8 * length // 5)
    try:
        if len(text) != count:
            raise _not_an_id(text)
        number = 0
        for character in text:
            number = number << 5 | _DIGITS[character]
    except KeyError:
        raise _not_an_id(text) from None
    spare = 5 * count - 8 * length
    if number & ((1 << spare) - 1):
        raise _not_an_id(text)
    return (number >> spare).to_bytes(length)


def encode_ids(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the ASCII text of many ids: n rows of 12 bytes give n rows of 20 characters."""
    n, length = raw.shape
    padded = np.zeros((n, length + 1), np.uint16)
    padded[:, :length] = raw
    text = np.empty((n, -(-8 * length // 5)), np.uint8)
    for k in range(text.shape[1]):
        byte, bit = divmod(5 * k, 8)
        pair = padded[:, byte] << 8 | padded[:, byte + 1]
        text[:, k] = _TABLE[pair >> (11 - bit) & 31]
    return text


def _not_an_id(text: str) -> FormatError:
    return corrupt(f"{text[:40]!r} is not an object id")
