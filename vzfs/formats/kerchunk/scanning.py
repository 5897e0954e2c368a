"""JSON that is read member by member, so that a file of references is never a tree of objects.

A million references would take several times their text as lists and dictionaries. Here each is
there only while it is looked at. The text itself may be compressed, by gzip or Zstandard.
"""

import gzip
import io
import json
import json.decoder
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from vzfs.errors import ErrorKind, FormatError

MAX_TEXT: Final = 2**29
"""Bytes of JSON: about five million references. More belong into Parquet."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BOM: Final = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")

_scan: Callable[[str, int], tuple[object, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_scan_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]

type Skim = Callable[[int], tuple[int, bool]]
"""Reads members of an object that begin at a place in its text, as many as it can, and returns where
it ended, and whether the object ended there."""


def corrupt(what: str) -> FormatError:
    """Return the error that says that a file is not what its format says."""
    return FormatError(ErrorKind.CORRUPT_METADATA, what)


def text_of(data: bytes, limit: int = MAX_TEXT) -> str:
    """Return the text of a file, unpacked if it is compressed. Raises FormatError.

    *limit* bounds its bytes.
    """
    try:
        if data.startswith(_GZIP):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limit + 1)
        elif data.startswith(_ZSTD):
            unpacker = zstandard.ZstdDecompressor(max_window_size=2**27)
            data = _read(unpacker.stream_reader(data, read_across_frames=True), limit + 1)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise corrupt(f"the compressed file of references is damaged ({error})") from None
    if len(data) > limit:
        raise FormatError(
            ErrorKind.UNSUPPORTED_FORMAT,
            f"the file of references has more than {limit} bytes",
            advice="write it as Parquet: kerchunk.df.refs_to_dataframe",
        )
    try:
        return str(data.removeprefix(_BOM), "utf-8")
    except UnicodeDecodeError:
        raise corrupt("the file of references is not UTF-8") from None


def beginning(head: bytes, length: int = 2**16) -> str:
    """Return what a file that begins with *head* says first, at most *length* bytes of it. Never raises."""
    try:
        if head.startswith(_GZIP):
            head = zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(head, length)
        elif head.startswith(_ZSTD):
            unpacker = zstandard.ZstdDecompressor(max_window_size=2**27)
            head = unpacker.stream_reader(head).read(length)
    except (zlib.error, zstandard.ZstdError):
        return ""
    return str(head[:length].removeprefix(_BOM), "utf-8", "replace")


def _read(stream: zstandard.ZstdDecompressionReader, limit: int) -> bytes:
    """Read to the end, or *limit* bytes: what is asked for at once is allocated at once."""
    pieces, length = [], 0
    while length < limit and (piece := stream.read(min(limit - length, 2**20))):
        pieces.append(piece)
        length += len(piece)
    return b"".join(pieces)


class Scanner:
    """A place in a JSON *text*, which values are read from one after another. Raises FormatError."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.at = _after(_SPACE, text, 0)

    def peek(self) -> str:
        """Return the character that the next value begins with, "" at the end."""
        return self.text[self.at : self.at + 1]

    def value(self) -> object:
        """Read one whole value."""
        try:
            value, self.at = _scan(self.text, self.at)
        # Numbers of more than 4300 digits are a ValueError too.
        except (ValueError, StopIteration, RecursionError):
            raise self._broken() from None
        return value

    def members(self, skim: Skim | None = None) -> Iterator[str]:
        """Yield the keys of an object one by one; who is given one reads its value before the next.

        Those that *skim* reads are not given.
        """
        text = self.text
        if self.peek() != "{":
            raise self._broken()
        self.at = _after(_SPACE, text, self.at + 1)
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if skim is not None:
                self.at, is_end = skim(self.at)
                if is_end:
                    return
            if self.peek() != '"':
                raise self._broken()
            try:
                key, at = _scan_string(text, self.at + 1)
            except ValueError:
                raise self._broken() from None
            self.at = _after(_COLON, text, at)
            if self.at < 0:
                raise self._broken()
            yield key
            found = _NEXT.match(text, self.at)
            if found is None:
                raise self._broken()
            self.at = found.end()
            if found[1] == "}":
                self.at = found.end(1)
                return

    def finish(self) -> None:
        """See that nothing is left."""
        if _after(_SPACE, self.text, self.at) != len(self.text):
            raise self._broken()

    def _broken(self) -> FormatError:
        return corrupt(f"the file of references is not JSON at character {max(self.at, 0)}")


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else -1
