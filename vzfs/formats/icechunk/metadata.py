"""Metadata of snapshots and repositories: named values, in MessagePack (spec 1) or FlexBuffers (spec 2).

A value is JSON-like whichever way it was written: no bytes, no extension types, no key but strings,
and nesting that any reader can follow.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgpack  # type: ignore[import-untyped]

from vzfs.formats.icechunk.envelope import corrupt
from vzfs.formats.icechunk.flatbuffer import Table
from vzfs.formats.icechunk.flexbuffer import MAX_DEPTH, decode_flexbuffer

MAX_METADATA: Final = 2**24
"""Bytes of all metadata values of one file: a hundred thousand snapshots have as much. As Python
objects they can take thirty times as much, and seventy times in MessagePack."""

MAX_MSGPACK: Final = 2**20
"""Bytes of those of spec 1, where a file has the metadata of one snapshot alone."""

MAX_TIME: Final = (2**63 - 1) // 1000
"""Microseconds since the epoch: beyond it, nanoseconds leave 64 bits."""

_SCALARS: Final = frozenset({type(None), bool, int, float, str})


class Allowance:
    """How many more bytes of metadata a file of *spec_version* may have."""

    def __init__(self, spec_version: int) -> None:
        self.spec_version: Final = spec_version
        self._left = MAX_MSGPACK if spec_version == 1 else MAX_METADATA

    def charge(self, nbytes: int) -> None:
        """Enter *nbytes*. Raises FormatError for more than there may be."""
        self._left -= nbytes
        if self._left < 0:
            raise corrupt("the file has more metadata than any writer makes")


def decode_metadata(items: Iterable[Table], allowance: Allowance) -> Mapping[str, object]:
    """Return the values of a vector of MetadataItem tables by name. Raises FormatError."""
    decode = decode_msgpack if allowance.spec_version == 1 else decode_flexbuffer
    metadata: dict[str, object] = {}
    for item in items:
        name = item.required_string(0)
        data = item.required_blob(1)
        allowance.charge(len(data))
        value = decode(data)
        _check_value(value)
        metadata[name] = value
    return metadata


def decode_msgpack(data: bytes) -> object:
    """Return the value in *data*. Raises FormatError."""
    try:
        # Lengths are believed when memory is allocated for them, so a pass that allocates nothing
        # goes first.
        walker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        walker.feed(data)
        walker.skip()
        if walker.tell() != len(data):
            raise corrupt("a MessagePack value has bytes behind its end")
        value: object = msgpack.unpackb(data, strict_map_key=True, timestamp=0)
    except (msgpack.UnpackException, ValueError, OverflowError, RecursionError) as error:
        raise corrupt(f"a MessagePack value is malformed ({type(error).__name__})") from None
    return value


def nanoseconds(microseconds: int) -> int:
    """Return a time of the file in nanoseconds since the epoch. Raises FormatError."""
    if microseconds > MAX_TIME:
        raise corrupt("a time in the file is later than any clock can say")
    return microseconds * 1000


def _check_value(value: object) -> None:
    """Raise FormatError unless *value* could be written as JSON."""
    pending: list[object] = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[object] = []
        for item in pending:
            match item:
                case list():
                    deeper.extend(child for child in item if type(child) not in _SCALARS)
                case dict():
                    if not all(isinstance(key, str) for key in item):
                        raise corrupt("a metadata value has a key that is not text")
                    deeper.extend(child for child in item.values() if type(child) not in _SCALARS)
                case _ if type(item) not in _SCALARS:
                    raise corrupt(f"a metadata value has the type {type(item).__name__}")
        if not deeper:
            return
        pending = deeper
    raise corrupt(f"a metadata value is nested deeper than {MAX_DEPTH} levels")
