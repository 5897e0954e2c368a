"""The XML of listings: S3's and Google's ListObjectsV2, Azure's List Blobs. Pure.

The text comes from a server that may be anyone's. It is read by expat, event by event, and nothing
is kept but keys, sizes, versions and the token of the next page. A document type, and so any entity, is refused
where it begins; size, depth and the number of keys are bounded; what is not a listing is refused.
Keys that XML cannot hold arrive percent-encoded, if the reply says so.
"""

import datetime
import re
import urllib.parse
import xml.parsers.expat as expat
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified
from vzfs.source.dialect import Page
from vzfs.source.fetcher import Listed
from vzfs.source.replies import seconds_of
from vzfs.source.versions import LAST_DATE, MAX_ETAG_LENGTH

MAX_KEYS_ASKED: Final = 1000
"""Keys that a page is asked to have: what S3 gives at most."""

MAX_KEYS: Final = 10_000
"""Objects and folders that a page may have: some servers do not mind what is asked."""

MAX_BODY: Final = 8 * 2**20
"""Bytes of a page: a thousand keys of 1024 bytes, percent-encoded, and what is said of each, are
some 5 MB."""

MAX_DEPTH: Final = 16
"""Elements in each other. Listings have five."""

MAX_TEXT: Final = 16 * 2**10
"""Characters of one key or token, encoded."""

type _Shape = dict[str, _Shape | str]

_S3_KEY: Final[_Shape] = {"Key": "key", "Size": "size", "ETag": "etag", "LastModified": "date"}
_S3_FOLDER: Final[_Shape] = {"Prefix": "folder"}
_S3: Final[_Shape] = {
    "Contents": _S3_KEY,
    "CommonPrefixes": _S3_FOLDER,
    "EncodingType": "encoding",
    "IsTruncated": "more",
    "NextContinuationToken": "after",
}
_BLOB: Final[_Shape] = {
    "Name": "key",
    "Properties": {
        "ResourceType": "type",
        "Content-Length": "size",
        "Etag": "etag",
        "Last-Modified": "date",
    },
}
_BLOB_PREFIX: Final[_Shape] = {"Name": "folder"}
_AZURE: Final[_Shape] = {
    "Blobs": {"Blob": _BLOB, "BlobPrefix": _BLOB_PREFIX},
    "NextMarker": "after",
}

_SIZE: Final = re.compile(r"[0-9]{1,18}\Z")


def s3(body: bytes, where: str) -> Page:
    """Read a page of ListObjectsV2, *where* it was asked for. Raises SourceError (`SOURCE_MISMATCH`)."""
    found = _Reader(where, "ListBucketResult", _S3, (_S3_KEY, _S3_FOLDER))
    found.read(body)
    encoding = found.values.get("encoding", "")
    if encoding not in {"", "url"}:
        raise _mismatch("the listing is encoded in an unknown way", where)

    def decoded(text: str, _: bool) -> str:
        # As in forms: a space may come as a plus sign, which itself comes as %2B.
        return _decoded(text.replace("+", " "), where) if encoding == "url" else text

    after = ""
    if found.values.get("more", "").strip() == "true":
        after = found.values.get("after", "")
        if not after:
            raise _mismatch("the listing says that there is more, and not how to ask for it", where)
    return Page([_listed(record, decoded, where) for record in found.records], after)


def azure(body: bytes, where: str) -> Page:
    """Read a page of List Blobs, *where* it was asked for. Raises SourceError (`SOURCE_MISMATCH`).

    Accounts with directories list them too; they are left out.
    """
    found = _Reader(where, "EnumerationResults", _AZURE, (_BLOB, _BLOB_PREFIX))
    found.read(body)

    def decoded(text: str, is_encoded: bool) -> str:
        return _decoded(text, where) if is_encoded else text

    records = [record for record in found.records if record.get("type") != "directory"]
    return Page(
        [_listed(record, decoded, where) for record in records], found.values.get("after", "")
    )


def below(page: Page, start: str) -> Page:
    """Keep of a page the keys that begin with *start* and go on."""
    kept = [o for o in page.objects if len(o.key) > len(start) and o.key.startswith(start)]
    return Page(kept, page.after)


def relative(page: Page, start: str, *, deep: bool) -> Page:
    """Return what a page has below *start*, by keys from there on, at every depth or of one level.

    Objects whose keys end in a slash stand for folders. A store that lists deeper than it was asked
    to has what it lists taken for the folders that it is in.
    """
    found: dict[str, Listed] = {}
    for listed in below(page, start).objects:
        key = listed.key[len(start) :]
        level, slash, _ = key.partition("/")
        if not deep and slash:
            if level:
                found[f"{level}/"] = Listed(f"{level}/")
        elif not listed.is_folder:
            found[key] = listed._replace(key=key)
    return Page(list(found.values()), page.after)


def _listed(record: Mapping[str, str], decoded: Callable[[str, bool], str], where: str) -> Listed:
    """Return the object or the folder that a *record* is of. Raises SourceError."""
    folder = decoded(record.get("folder", ""), "folder encoded" in record)
    if folder:
        return Listed(folder if folder.endswith("/") else f"{folder}/")
    key = decoded(record.get("key", ""), "key encoded" in record)
    if not key:
        raise _mismatch("an object in the listing has no key", where)
    size = record.get("size", "")
    if not _SIZE.match(size):
        raise _mismatch("an object in the listing has no size", where)
    return Listed(key, int(size), _version(record))


def _version(record: Mapping[str, str]) -> Checksum | None:
    """Return which version of an object a *record* is of, if it says so."""
    etag = ETag(record.get("etag", ""))
    if etag.opaque and len(etag.value) <= MAX_ETAG_LENGTH:
        return etag
    date = record.get("date", "")
    try:
        seconds: int | None = int(datetime.datetime.fromisoformat(date).timestamp())
    except (ValueError, OverflowError):
        seconds = seconds_of(date)
    return None if seconds is None or not 0 <= seconds <= LAST_DATE else LastModified(seconds)


class _Reader:
    """Takes from a document the texts that a *shape* names, of each of the *records* in it and of the whole.

    A shape says of the elements in an element which are looked into, and what a text is called.
    """

    def __init__(self, where: str, root: str, shape: _Shape, records: Sequence[_Shape]) -> None:
        self.records: list[dict[str, str]] = []
        self.values: dict[str, str] = {}
        self._where = where
        self._root = root
        self._shape = shape
        self._shapes = frozenset(map(id, records))
        self._open: list[_Shape | str | None] = []
        self._into = self.values
        self._pieces: list[str] | None = None
        self._length = 0

    def read(self, body: bytes) -> None:
        if len(body) > MAX_BODY:
            raise _mismatch(f"the listing has more than {MAX_BODY} bytes", self._where)
        # Stores write UTF-8; naming it keeps documents from choosing one of Python's decoders.
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(body, True)
        except expat.ExpatError:
            raise _mismatch("the listing is not XML", self._where) from None

    def _refuse(self, *_: object) -> None:
        raise _mismatch("the listing has a document type", self._where)

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if not self._open:
            if name != self._root:
                raise _mismatch("the reply is not a listing", self._where)
            self._open.append(self._shape)
            return
        if len(self._open) >= MAX_DEPTH:
            raise _mismatch(f"the listing is deeper than {MAX_DEPTH} elements", self._where)
        around = self._open[-1]
        found = around.get(name) if isinstance(around, dict) else None
        self._open.append(found)
        self._pieces = None
        if isinstance(found, str):
            self._pieces = []
            self._length = 0
            if attributes.get("Encoded") == "true":
                self._into[f"{found} encoded"] = ""
        elif id(found) in self._shapes:
            if len(self.records) >= MAX_KEYS:
                raise _mismatch(f"the listing has more than {MAX_KEYS} keys in a page", self._where)
            self._into = {}
            self.records.append(self._into)

    def _end(self, _name: str) -> None:
        found = self._open.pop()
        if isinstance(found, str) and self._pieces is not None:
            self._into[found] = "".join(self._pieces)
        elif id(found) in self._shapes:
            self._into = self.values
        self._pieces = None

    def _text(self, text: str) -> None:
        if self._pieces is None:
            return
        self._length += len(text)
        if self._length > MAX_TEXT:
            raise _mismatch(f"a key has more than {MAX_TEXT} characters", self._where)
        self._pieces.append(text)


def _decoded(key: str, where: str) -> str:
    try:
        return urllib.parse.unquote(key, errors="strict")
    except UnicodeDecodeError:
        raise _mismatch("a key in the listing is not UTF-8", where) from None


def _mismatch(what: str, where: str) -> SourceError:
    return SourceError(ErrorKind.SOURCE_MISMATCH, what, where=where)
