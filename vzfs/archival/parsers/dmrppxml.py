"""The XML of a DMR++ document as elements: read whole, with nothing in it that is looked up elsewhere.

A document type declaration is refused, and with it every entity that a document could make up.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from xml.parsers import expat

from vzfs.archival.building import Unpresentable

MAX_DOCUMENT: Final = 2**28
MAX_ELEMENTS: Final = 2**21
MAX_DEPTH: Final = 64
MAX_TEXT: Final = 2**26
"""Characters of text in one element."""

_STORAGE: Final = "dmrpp"
"""What is in the name of the namespace that says where data lie."""


@dataclasses.dataclass(slots=True)
class Element:
    """An element by its *name* without namespace; *is_storage* if it says where data lie."""

    name: str
    is_storage: bool
    attributes: dict[str, str]
    children: "list[Element]" = dataclasses.field(default_factory=list)
    parts: list[str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        """The text in it, outside of other elements."""
        return "".join(self.parts).strip()

    def named(self, name: str, *, is_storage: bool = False) -> "Iterator[Element]":
        """Yield the elements of that name in it."""
        for child in self.children:
            if child.name == name and child.is_storage is is_storage:
                yield child

    def storage(self, name: str) -> "Element | None":
        """Return the first element of that name in it that says where data lie."""
        return next(self.named(name, is_storage=True), None)


def read(file: BinaryIO, size: int) -> Element:
    """Return the root of the document in *file*, of *size* bytes. Raises Unpresentable if it is none."""
    if size > MAX_DOCUMENT:
        raise Unpresentable(f"it has more than {MAX_DOCUMENT} bytes")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    file.seek(0)
    try:
        while data := file.read(2**20):
            parser.Parse(data, False)
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError) as error:
        raise Unpresentable(f"it is no XML that can be read: {error}") from None
    return reader.root.children[0]


class _Reader:
    def __init__(self) -> None:
        self.root = Element("", is_storage=False, attributes={})
        self._open = [self.root]
        self._count = 0
        self._length = 0

    def refuse(self, *_: Any) -> None:  # noqa: ANN401 -- as the library calls it
        raise Unpresentable("it has a document type declaration")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) > MAX_DEPTH:
            raise Unpresentable(f"it has more than {MAX_ELEMENTS} elements, or too deep ones")
        space, _, local = name.rpartition(" ")
        plain = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        element = Element(local, _STORAGE in space, plain)
        self._open[-1].children.append(element)
        self._open.append(element)
        self._length = 0

    def end(self, name: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_TEXT:
            raise Unpresentable("it has an element with too much text")
        if text.strip() or self._open[-1].parts:
            self._open[-1].parts.append(text)
