"""A snapshot in a view: other documents, other chunk keys, and the forms of chunks.

Everything is found out when it is asked for, once for each node. What is hostile or not understood
is shown as stored, or left out by name where the view has no words for it, with a remark; nothing
here raises for what a document says.
"""

import bisect
import functools
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from vzfs.model.snapshot import Array, Group, Node, Snapshot
from vzfs.views import consolidated, v2, v3
from vzfs.views.arrays import Asked, Shown, show_array
from vzfs.views.codecs import DECODABLE
from vzfs.views.forms import Form
from vzfs.views.metadata import GroupMetadata, Unsaid, read_v3_group
from vzfs.views.view import View, ViewName


class Presentation:
    """The nodes of *snapshot* in *view*, numbered in the order of their paths; 0 is the root.

    *decodable* are the names of codecs that the decoded view can rely on. *complete* are the numbers
    of the arrays of which no chunk is missing, as far as that is known before they are shown.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        view: View,
        decodable: AbstractSet[str] = DECODABLE,
        complete: AbstractSet[int] = frozenset(),
    ) -> None:
        self.snapshot: Final = snapshot
        self.view: Final = view
        nodes = list(snapshot.nodes)
        if not nodes or nodes[0].path != "/":
            nodes.insert(0, Group(path="/", documents={}))
        self._is_verbatim = view.is_verbatim
        self._nodes = nodes
        self._decodable = decodable
        self._complete = complete
        self._shown: dict[int, Shown] = {}
        self._bases: dict[int, Mapping[str, bytes]] = {}
        self._consolidated = consolidated.Recent()

    def __len__(self) -> int:
        return len(self._nodes)

    def path(self, number: int) -> str:
        """Return the path of a node."""
        return self._nodes[number].path

    def stored(self, number: int) -> Node:
        """Return a node as the repository has it."""
        return self._nodes[number]

    @property
    def needs_counts(self) -> bool:
        """Whether it matters to how arrays are shown that no chunk is missing."""
        return self.view.zarr_format == 2

    def count_as_complete(self, numbers: AbstractSet[int]) -> None:
        """Hear of which arrays no chunk is missing, before any is shown."""
        self._complete = numbers

    def node(self, number: int) -> Node:
        """Return a node as it is shown. The documents of a group are made when they are asked for."""
        return self._nodes[number] if self._is_verbatim else self._show(number).node

    def is_shown(self, number: int) -> bool:
        """Whether the view can say the node. A group is shown, unless its name is one of a document."""
        return self._is_verbatim or self._show(number).is_shown

    def form(self, number: int) -> Form | None:
        """Return what is done to the chunks of an array, None if they are as they are."""
        return None if self._is_verbatim else self._show(number).form

    def remark(self, number: int) -> str:
        """Say why an array is left out, or shown as stored although the view would rather not; "" if neither."""
        return "" if self._is_verbatim else self._show(number).remark

    def prepare(self) -> None:
        """Put all nodes into words: for a thread, since that takes seconds where there are thousands."""
        for number in range(1, len(self)):
            self._show(number)
        for document in self.node(0).documents.values():
            len(document)

    def _show(self, number: int) -> Shown:
        shown = self._shown.get(number)
        if shown is None:
            node = self._nodes[number]
            if self.view.zarr_format == 2 and not v2.NAMES.isdisjoint(node.path.split("/")):
                shown = Shown(node, is_shown=False, remark="it is named like a document of Zarr v2")
            elif isinstance(node, Array):
                asked = Asked(self.view, self._decodable, number in self._complete)
                shown = show_array(node, asked)
            else:
                shown = self._show_group(number, node)
            self._shown[number] = shown
        return shown

    # -- groups --------------------------------------------------------------------------------

    def _show_group(self, number: int, node: Group) -> Shown:
        stored = node.documents.get(v3.DOCUMENT)
        if stored is None:
            self._bases[number] = node.documents
            return Shown(node, is_sound=False)
        metadata: GroupMetadata | None = None
        try:
            metadata = read_v3_group(stored)
            remark = metadata.problem
        except Unsaid as why:
            remark = str(why)
        documents: Mapping[str, bytes]
        if self.view.zarr_format == 2:
            documents, is_sound = v2.group_documents(metadata), True
            if self.view.name is ViewName.STORED and node.originals:
                documents, _, is_sound = v2.original_group(node.originals)
            extra = v2.CONSOLIDATED if number == 0 and is_sound else ""
        else:
            documents = {**node.documents, v3.DOCUMENT: v3.group_document(metadata, stored)}
            is_sound = metadata is not None and metadata.is_strict and not remark
            extra = v3.DOCUMENT if is_sound else ""
        self._bases[number] = documents
        if self.view.consolidated and extra:
            make = functools.partial(self._consolidate, number)
            documents = _Documents(documents, extra, make)
        return Shown(Group(path=node.path, documents=documents), remark=remark, is_sound=is_sound)

    def _consolidate(self, number: int) -> bytes | None:
        """Return the document of a group that has those of all nodes below it, None if there is to be none."""
        is_known, document = self._consolidated.get(number)
        if not is_known:
            try:
                if self.view.zarr_format == 2:
                    document = consolidated.v2_document(self._v2_members(number))
                else:
                    base = self._bases[number][v3.DOCUMENT]
                    document = consolidated.v3_document(base, self._v3_members(number))
            except _Unsound:
                document = None
            self._consolidated.keep(number, document)
        return document

    def _v3_members(self, number: int) -> Iterator[tuple[str, bytes]]:
        for name, documents in self._members(number):
            yield name, documents[v3.DOCUMENT]

    def _v2_members(self, number: int) -> Iterator[tuple[str, bytes]]:
        yield from self._bases[number].items()
        for name, documents in self._members(number):
            for document, content in documents.items():
                yield f"{name}/{document}", content

    def _members(self, number: int) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        """Yield relative paths and documents of the nodes below a group. Raises _Unsound at one that a reader may not know."""
        begin = len(self._nodes[number].path.rstrip("/")) + 1
        for below in self.below(number):
            shown = self._show(below)
            if shown.is_shown:
                if not shown.is_sound:
                    raise _Unsound
                yield shown.node.path[begin:], self._bases.get(below, shown.node.documents)

    def below(self, number: int) -> range:
        """Return the numbers of all nodes below a group, which lie together."""
        if number == 0:
            return range(1, len(self._nodes))
        prefix = self._keys[number] + b"/"
        # "0" is what follows "/".
        low, high = (bisect.bisect_left(self._keys, p) for p in (prefix, prefix[:-1] + b"0"))
        return range(low, high)

    @functools.cached_property
    def _keys(self) -> list[bytes]:
        return [node.path.encode("utf-8", "surrogateescape") for node in self._nodes]


class _Unsound(Exception):
    """Below a group is a node that a common reader may not know."""


class _Documents(Mapping[str, bytes]):
    """Documents of a group, one of which is made when it is asked for."""

    def __init__(
        self, base: Mapping[str, bytes], made: str, make: Callable[[], bytes | None]
    ) -> None:
        self._base = base
        self._made = made
        self._make = make

    def __getitem__(self, name: str) -> bytes:
        if name == self._made:
            document = self._make()
            if document is not None:
                return document
        return self._base[name]

    def __contains__(self, name: object) -> bool:
        return name in self._base or (name == self._made and self._make() is not None)

    def __iter__(self) -> Iterator[str]:
        yield from self._base
        if self._made not in self._base and self._make() is not None:
            yield self._made

    def __len__(self) -> int:
        return sum(1 for _ in self)
