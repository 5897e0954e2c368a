"""References in JSON, versions 0 and 1: what a file says, sorted into documents and refs by their keys.

Values are text, which stands for its UTF-8 (what follows `base64:` for the bytes so written), a JSON
object, which stands for its text, or a list that names an object, or bytes of one. Templates and
what is generated are expanded. What is no reference is kept as a chunk that nobody can read.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.kerchunk.generating import MAX_GENERATED, generate, parse_templates
from vzfs.formats.kerchunk.locations import location_of, unreadable
from vzfs.formats.kerchunk.rows import UNKNOWN, WHOLE, Gathered, is_range, malformed, unpacked
from vzfs.formats.kerchunk.scanning import MAX_TEXT, Scanner, beginning, text_of
from vzfs.formats.kerchunk.templates import Rendering, Template, TemplateProblem, Values
from vzfs.model.location import Prefix

DOCUMENTS: Final = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"})

MAX_FOLDERS: Final = 2**18
"""Folders of a file's keys: each takes a hundred times its text in memory, compressed a thousand times."""

_OPENED: Final = "{{"
_TEXT = r'[^"\\\x00-\x1f]*(?:\\/[^"\\\x00-\x1f]*)*'
_NUMBER = "(0|[1-9][0-9]{0,17})"
_COMMON = re.compile(
    rf'"({_TEXT})\\?/(c|(?:c\.)?[0-9.]+)" ?: ?\[_"((?!")(?>{_TEXT}))"_,_{_NUMBER}_,_{_NUMBER}_\]_([,}}])_'.replace(
        "_", r"[ \t\n\r]*"
    )
)
"""A reference to a part of an object, whose key ends like that of a chunk, with what follows it. A
slash may be escaped."""
_MEMBER = re.compile(
    r"""^\{\s*"(?:version"\s*:\s*[01]\s*[,}]|refs"\s*:\s*\{|templates"\s*:\s*\{|gen"\s*:\s*\[)
    |[{,]\s*"[^"]*(?:\.z(?:group|array|attrs)|zarr\.json)"\s*:
    |[{,]\s*"[^"]+"\s*:\s*\[\s*"[^"]+"\s*,\s*[0-9]+\s*,\s*[0-9]+\s*\]""",
    re.VERBOSE,
)
"""What is in no other JSON: members of version 1 first, a Zarr document, or a range of an object."""

type Documents = Mapping[str, Mapping[str, bytes | None]]
"""Zarr documents by folder ("" is the root) and name; None where the file refers to one elsewhere."""


class Found(NamedTuple):
    """What a file says: *documents*, and refs by the folders of their keys.

    *locations* and *inline* are what the refs refer to.
    """

    documents: Documents
    refs: Mapping[str, Gathered]
    locations: Sequence[str]
    inline: bytearray


def decode_references(
    data: bytes, folder: Prefix, *, limit: int = MAX_TEXT, max_generated: int = MAX_GENERATED
) -> Found:
    """Read a file of references that lies in *folder*. Raises FormatError.

    *limit* bounds its text in bytes, *max_generated* the references that it generates.
    """
    scanner = Scanner(text_of(data, limit))
    if scanner.peek() == "[":
        raise FormatError(
            ErrorKind.UNSUPPORTED_FORMAT,
            "the file is a list of reference sets, and not one",
            advice="combine them with kerchunk, or write each into a file of its own",
        )
    return _Reading(scanner, folder).whole(max_generated)


class _Reading:
    """What was read so far. Templates may stand behind the references that use them."""

    def __init__(self, scanner: Scanner, folder: Prefix) -> None:
        self._scanner = scanner
        self._folder = folder
        self._documents: dict[str, dict[str, bytes | None]] = {}
        self._refs: dict[str, Gathered] = {}
        self._locations: list[str] = []
        self._known: dict[str, int] = {}
        self._unrendered: dict[str, int] = {}
        self._inline = bytearray()

    def whole(self, max_generated: int) -> Found:
        scanner = self._scanner
        version: object = None
        templates: Values = {}
        generated: object = []
        verbatim = functools.partial(self._skim, self._verbatim, {})
        templated = functools.partial(self._skim, self._templated, {})
        for key in scanner.members(verbatim):
            if key == "refs" and scanner.peek() == "{":
                for inner in scanner.members(templated):
                    self._read(inner, self._templated)
            elif key == "version" and scanner.peek() not in {'"', "[", "{"}:
                version = scanner.value()
            elif key == "templates" and scanner.peek() in {"{", "n"}:
                templates = parse_templates(scanner.value() or {})
            elif key == "gen" and scanner.peek() in {"[", "n"}:
                generated = scanner.value() or []
            else:
                self._read(key, self._verbatim)
        scanner.finish()
        if version not in {None, 0, 1}:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                f"the references are of version {str(version)[:20]!a}; 0 and 1 are known",
            )
        rendering = Rendering()
        self._render(templates, rendering)
        for key, url, offset, length in generate(generated, templates, rendering, max_generated):
            if offset is None or length is None:
                self._place(key, self._verbatim(url), 0, WHOLE)
            else:
                self._place(key, self._verbatim(url), offset, length)
        return Found(self._documents, self._refs, self._locations, self._inline)

    def _skim(
        self, locate: Callable[[str], int], known: dict[str, int], at: int
    ) -> tuple[int, bool]:
        """Read references in the commonest form that follow each other, as `Skim` says.

        It takes a third of the time that each alone would. *known* are numbers of locations by the
        way they are written.
        """
        text, match = self._scanner.text, _COMMON.match
        last: str | None = None
        while (found := match(text, at)) is not None:
            folder, name, url, offset, length, sign = found.groups()
            if folder != last:
                last = folder
                gathered = self._gathered(parted(folder.replace("\\/", "/") + "/")[0])
                add = gathered.add
            location = known.get(url)
            if location is None:
                location = known[url] = locate(url.replace("\\/", "/"))
            add(name, location, int(offset), int(length))
            at = found.end()
            if sign == "}":
                return found.end(6), True
        return at, False

    # -- references ----------------------------------------------------------------------------

    def _read(self, key: str, locate: Callable[[str], int]) -> None:
        """Read the reference *key*, whose location *locate* numbers."""
        start = self._scanner.at
        value = self._scanner.value()
        match value:
            case [str(url), int(offset), int(length)] if url and is_range(offset, length):
                self._place(key, locate(url), offset, length)
            case [str(url)] | [str(url), None] | [str(url), None | 0, None] if url:
                self._place(key, locate(url), 0, WHOLE)
            case str():
                self._give(key, value)
            case dict():
                self._give(key, self._scanner.text[start : self._scanner.at])
            case _:
                self._place(key, self._number(malformed(value)), 0, UNKNOWN)

    def _give(self, key: str, text: str) -> None:
        """Keep the bytes that *text* stands for as those of *key*."""
        try:
            data = unpacked(text.encode())
        except UnicodeEncodeError:
            data = None
        if data is None:
            self._place(key, self._number(malformed(text)), 0, UNKNOWN)
            return
        folder, name = parted(key)
        if name in DOCUMENTS:
            document(self._documents, folder, name, data)
            return
        self._gathered(folder).add(name, -1, len(self._inline), len(data))
        self._inline += data

    def _place(self, key: str, location: int, offset: int, length: int) -> None:
        folder, name = parted(key)
        if name in DOCUMENTS:
            document(self._documents, folder, name, None)
            return
        self._gathered(folder).add(name, location, offset, length)

    def _gathered(self, folder: str) -> Gathered:
        found = self._refs.get(folder)
        if found is None:
            _check_count(self._refs)
            found = self._refs[folder] = Gathered()
        return found

    # -- locations -----------------------------------------------------------------------------

    def _number(self, location: str) -> int:
        self._locations.append(location)
        return len(self._locations) - 1

    def _verbatim(self, url: str) -> int:
        """Return the number of the location *url*."""
        found = self._known.get(url)
        if found is None:
            found = self._known[url] = self._number(location_of(url, self._folder))
        return found

    def _templated(self, url: str) -> int:
        """Return the number of the location that *url* is rendered to, once all templates are known."""
        if _OPENED not in url:
            return self._verbatim(url)
        found = self._unrendered.get(url)
        if found is None:
            found = self._unrendered[url] = self._number("")
        return found

    def _render(self, templates: Values, rendering: Rendering) -> None:
        for text, number in self._unrendered.items():
            try:
                rendered = rendering.render(Template(text), templates)
                self._locations[number] = location_of(rendered, self._folder)
            except TemplateProblem as problem:
                self._locations[number] = unreadable(f"its location cannot be expanded: {problem}")


def document(
    documents: dict[str, dict[str, bytes | None]], folder: str, name: str, data: bytes | None
) -> None:
    """Add one to *documents*. Raises FormatError if they are in too many folders."""
    if folder not in documents:
        _check_count(documents)
        documents[folder] = {}
    documents[folder][name] = data


def _check_count(folders: Collection[str]) -> None:
    if len(folders) >= MAX_FOLDERS:
        raise FormatError(
            ErrorKind.UNSUPPORTED_FORMAT,
            f"the references are of more than {MAX_FOLDERS} groups and arrays",
            advice="write them into several files",
        )


def parted(key: str) -> tuple[str, str]:
    """Return the folder of a key, and its name in there."""
    folder, _, name = key.rpartition("/")
    # Keys are relative: what begins with a slash is nowhere.
    return ("/" + folder if key.startswith("/") else folder), name


def looks_like_kerchunk(head: bytes) -> bool:
    """Whether a file that begins with *head* may be one of references: a JSON object with such members."""
    text = beginning(head).lstrip()
    return text.startswith("{") and _MEMBER.search(text) is not None
