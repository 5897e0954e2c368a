"""One snapshot in one view, as a directory: names, attributes, listings, bytes, provenance.

Everything is answered from the snapshot and its manifests, except the bytes of a chunk. While a
manifest cannot be loaded, the names that it may hold answer as existing, with the size of a decoded
chunk, and are not to be cached; reading them, and listing their directory, raises why.

What is known is answered at once, by plain functions. Where a manifest has to be loaded first they
raise `NotLoaded`, which can be waited for; then the same function answers. `settle` does both.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import trio

from vzfs.access import Access
from vzfs.chunks import Chunks, ReadAhead, near, read_alike
from vzfs.decoding.decoder import Decoder
from vzfs.errors import ErrorKind, NameProblem, VzfsError
from vzfs.flights import Flights
from vzfs.hierarchy.entries import (
    MAX_NAME,
    Attrs,
    Child,
    NotLoaded,
    Run,
    Totals,
    check_length,
    nbytes_of,
    settle,
)
from vzfs.hierarchy.provenance import (
    CACHED,
    XATTR_PREFIX,
    about_chunk,
    about_snapshot,
    no_attribute,
)
from vzfs.model.chunkgrid import KeyStyle
from vzfs.model.location import ByteRange
from vzfs.model.manifest import ChunkRef
from vzfs.model.snapshot import Array, RefSpec
from vzfs.repository import ArrayRefs, Checkout
from vzfs.tree.inodes import Inodes
from vzfs.tree.tree import Chunk, Document, Entry, KeyDir, NodeDir, Tree
from vzfs.views.forms import Decoded, Form, Frame, Framed
from vzfs.views.presentation import Presentation

MAX_COMPANION: Final = 256 * 2**10
"""Bytes of the only chunk of an array that is got along with those of its neighbours."""
MAX_COMPANIONS: Final = 32
MAX_AT_ONCE: Final = 64
"""Nodes that are put into words at once, which takes up to a third of a millisecond each."""
MAX_COUNTED: Final = 2**20
"""Chunks of an array of which it is found out whether any is missing, where that matters to a view."""
MAX_COUNTING: Final = 8
"""Arrays of which that is found out at a time."""
MAX_LISTINGS: Final = 16
"""Nodes whose lines are kept for listings under way."""
MAX_KNOWN: Final = 16_384
"""Files of which is remembered what was found out: between looking a name up and reading it, nothing
is looked for again."""
_FIRST_CHUNK: Final = 2**20
"""Where the listing positions of chunk keys begin; documents and child nodes come before."""


_SURELY_SHORT: Final = MAX_NAME // 4
_OF_ALL: Final = frozenset({"zarr.json", ".zmetadata"})
"""Documents that may say what is below."""


class _Found(NamedTuple):
    """A chunk that is being read."""

    refs: ArrayRefs
    coords: tuple[int, ...]
    ref: ChunkRef
    form: Form | None


class Reading:
    """What bytes are read with, by all hierarchies of a mount; *access* decides now."""

    def __init__(
        self, access: Access, chunks: Chunks, ahead: ReadAhead, decoder: Decoder | None = None
    ) -> None:
        self.access = access
        self.chunks: Final = chunks
        self.ahead: Final = ahead
        self.decoder: Final = decoder

    def adopt(self, access: Access) -> None:
        """Let *access* decide from now on, over reads under way too."""
        self.access = access
        self.chunks.adopt(access)


class Hierarchy:
    """A checkout, as *presentation* shows it, with the inode numbers of *epoch*.

    *ref* is what it was asked for as.
    """

    def __init__(
        self,
        checkout: Checkout,
        presentation: Presentation,
        reading: Reading,
        ref: RefSpec | None = None,
        epoch: int = 0,
    ) -> None:
        self.checkout: Final = checkout
        self.presentation: Final = presentation
        self.epoch: Final = epoch
        self.ref: Final = checkout.ref if ref is None else ref
        self._reading = reading
        self._chunks = reading.chunks
        self._ahead = reading.ahead
        self._tree = Tree(presentation)
        self._inodes = Inodes(self._tree, epoch)
        self._has_words = presentation.view.is_verbatim or len(presentation) <= MAX_AT_ONCE
        self._wording: Flights[str, None] = Flights()
        self._is_counted = not presentation.needs_counts
        self._accompanied: set[int] = set()
        self._known: dict[int, tuple[Attrs, Chunk]] = {}
        self._array_refs: dict[int, ArrayRefs] = {}
        self._found: dict[int, _Found] = {}
        # A listing comes in many pages; its lines are made once.
        self._entries = functools.lru_cache(MAX_LISTINGS)(self._list_entries)

    # -- names ---------------------------------------------------------------------------------

    def lookup(self, parent: int, name: str) -> Attrs:
        """Return the attributes of *name* in the directory *parent*. Raises NameProblem, NotLoaded."""
        if len(name) > _SURELY_SHORT:
            check_length(name)
        folder = self._inodes.entry(parent)
        if not self._is_counted:
            raise NotLoaded(self._count)
        if name in _OF_ALL and isinstance(folder, NodeDir):
            self._need_words(folder.node)
        entry = self._tree.lookup(folder, name)
        attrs = None if entry is None else self._attrs_of(entry)
        if attrs is None:
            raise NameProblem(ErrorKind.NO_SUCH_NAME, "the snapshot has no such name", where=name)
        return attrs

    def has_child(self, name: str) -> bool:
        """Whether the snapshot has a node of that name at its root, shown or not."""
        return name in self._tree.all_children(0)

    def child_names(self) -> Iterable[str]:
        """Return the names of all nodes that the snapshot has at its root."""
        return self._tree.all_children(0)

    # -- words ---------------------------------------------------------------------------------

    def _need_words(self, node: int) -> None:
        """Raise NotLoaded where many nodes have to be put into words first.

        What a group's document and its listing have depends on all that is below.
        """
        if self._has_words or isinstance(self.presentation.stored(node), Array):
            return
        if len(self.presentation.below(node)) > MAX_AT_ONCE:
            raise NotLoaded(self._put_into_words)

    async def _count(self) -> None:
        """Find out of which arrays no chunk is missing; of one that cannot be counted some may be."""
        await self._wording.join("count", self._find_complete)

    async def _find_complete(self) -> None:
        found: set[int] = set()
        limit = trio.Semaphore(MAX_COUNTING)

        async def look(number: int, array: Array) -> None:
            async with limit:
                with contextlib.suppress(VzfsError):
                    if await self.checkout.refs(array).is_complete():
                        found.add(number)

        async with trio.open_nursery() as nursery:
            for number in range(len(self.presentation)):
                array = self.presentation.stored(number)
                if (
                    isinstance(array, Array)
                    and not array.problem
                    and array.grid.size <= MAX_COUNTED
                ):
                    nursery.start_soon(look, number, array)
        self.presentation.count_as_complete(found)
        self._is_counted = True

    async def _put_into_words(self) -> None:
        await self._wording.join("words", self._prepare)

    async def _prepare(self) -> None:
        await trio.to_thread.run_sync(self.presentation.prepare, abandon_on_cancel=True)
        self._has_words = True

    def attrs(self, inode: int) -> Attrs:
        """Return the attributes of an inode. Raises NameProblem if it is stale, NotLoaded."""
        known = self._known.get(inode)
        attrs = self._attrs_of(self._inodes.entry(inode)) if known is None else known[0]
        if attrs is None:
            raise NameProblem(ErrorKind.STALE_INODE, "this inode is not in the mount")
        return attrs

    def _attrs_of(self, entry: Entry) -> Attrs | None:
        """Return the attributes of *entry*, or None if the manifests say that it does not exist."""
        match entry:
            case NodeDir():
                return Attrs(self._inodes.number(entry), is_dir=True, size=0)
            case Document():
                size = len(self._tree.document(entry))
                return Attrs(self._inodes.number(entry), is_dir=False, size=size)
            case KeyDir(node, prefix):
                try:
                    exists, is_certain = self._has_any(node, prefix), True
                except VzfsError:
                    exists, is_certain = True, False
                return (
                    Attrs(self._inodes.number(entry), is_dir=True, size=0, is_certain=is_certain)
                    if exists
                    else None
                )
            case Chunk(node, coords):
                inode, refs = self._inodes.number(entry), self._refs(node, coords)
                try:
                    length = refs.length_of(coords)
                except VzfsError:
                    size = _size(self._form(node), refs.array.grid.max_chunk_nbytes)
                    return Attrs(inode, is_dir=False, size=size, is_certain=False)
                if length is None:
                    return None
                attrs = Attrs(inode, is_dir=False, size=_size(self._form(node), length))
                _remember(self._known, inode, (attrs, entry))
                return attrs

    def _refs(self, node: int, prefix: tuple[int, ...]) -> ArrayRefs:
        """Return the chunk refs of an array, which know those below *prefix*. Raises NotLoaded."""
        refs = self._all_refs(node)
        if not refs.is_loaded(prefix):
            raise NotLoaded(functools.partial(refs.load, prefix))
        return refs

    def _listed_refs(
        self, node: int, prefix: tuple[int, ...], *, with_sizes: bool = True
    ) -> ArrayRefs:
        """Return the chunk refs of an array, which know all lines of a directory, or its names. Raises NotLoaded."""
        refs = self._all_refs(node)
        if with_sizes and len(prefix) + 1 == len(refs.array.grid.shape):
            return self._refs(node, prefix)
        if not refs.has_names(prefix):
            raise NotLoaded(functools.partial(refs.load_names, prefix))
        return refs

    def _all_refs(self, node: int) -> ArrayRefs:
        """Return the chunk refs of an array, which depend on no view. Raises as `Tree.array` does."""
        refs = self._array_refs.get(node)
        if refs is None:
            self._tree.array(node)
            array = self.presentation.stored(node)
            assert isinstance(array, Array)  # noqa: S101 -- as it is shown, so it is stored
            refs = self._array_refs[node] = self.checkout.refs(array)
        return refs

    def _form(self, node: int) -> Form | None:
        return self.presentation.form(node)

    def _has_any(self, node: int, prefix: tuple[int, ...]) -> bool:
        """Whether there are chunks below *prefix*. Raises NotLoaded, and as `ArrayRefs.has_any` does."""
        refs = self._all_refs(node)
        exists = refs.known_any(prefix)
        if exists is None:
            raise NotLoaded(functools.partial(refs.has_any, prefix))
        return exists

    def path(self, inode: int) -> str:
        """Return the path of an inode below the root, for people."""
        try:
            return self._tree.path(self._inodes.entry(inode))
        except VzfsError:
            return f"inode {inode}"

    # -- listings ------------------------------------------------------------------------------

    def children(self, inode: int, after: int) -> Iterator[Child]:
        """Return the lines of a directory's listing behind the position *after*; 0 is the start.

        Positions are stable, so that a listing can be interrupted and resumed. Memory does not grow
        with the directory. Raises why, where a manifest that would be needed cannot be loaded, and
        NotLoaded.
        """
        if not self._is_counted:
            raise NotLoaded(self._count)
        entry = self._inodes.entry(inode)
        match entry:
            case NodeDir(node):
                self._need_words(node)
                keys = self._keys_of(node, after)
                return itertools.chain(self._node_children(node, after), keys)
            case KeyDir(node, prefix):
                refs = self._listed_refs(node, prefix)
                return self._key_children(refs, node, prefix, max(after - _FIRST_CHUNK, 0))
            case _:
                raise NameProblem(ErrorKind.NOT_A_DIRECTORY, "this is a file")

    def run(self, inode: int, after: int, count: int, *, with_sizes: bool = True) -> Run | None:
        """Return the next *count* lines, as `children` does, where they are a directory's of keys; else None.

        Names may be known before sizes are, which are all 0 then.
        """
        entry = self._inodes.entry(inode)
        if not isinstance(entry, KeyDir):
            return None
        first = self._inodes.first_below(entry.node, entry.prefix)
        if first is None:
            return None
        refs = self._listed_refs(entry.node, entry.prefix, with_sizes=with_sizes)
        is_leaf = len(entry.prefix) + 1 == len(refs.array.grid.shape)
        begin = max(after - _FIRST_CHUNK, 0)
        if is_leaf and with_sizes:
            numbers, sizes = refs.children_arrays(entry.prefix, begin, count)
            form = self._form(entry.node)
            sizes = sizes if form is None else form.sizes(sizes)
        else:
            numbers = refs.names_arrays(entry.prefix, begin, count)
            sizes = np.zeros_like(numbers)
        return Run(numbers, sizes, first, _FIRST_CHUNK + 1, not is_leaf)

    def _node_children(self, node: int, after: int) -> Iterator[Child]:
        """List the documents and child nodes of a node."""
        for position, (name, attrs) in enumerate(self._entries(node)[after:], start=after + 1):
            yield Child(name, attrs, position)

    def _list_entries(self, node: int) -> Sequence[tuple[str, Attrs]]:
        documents = self._tree.node(node).documents
        number = self._inodes.number
        entries = [
            (name, Attrs(number(Document(node, ordinal)), is_dir=False, size=len(content)))
            for ordinal, (name, content) in enumerate(documents.items())
        ]
        entries += [
            (name, Attrs(number(NodeDir(child)), is_dir=True, size=0))
            for name, child in self._tree.children(node).items()
            if nbytes_of(name) <= MAX_NAME
        ]
        return entries

    def _keys_of(self, node: int, after: int) -> Iterator[Child]:
        """List what the chunk keys of a node, if it is an array, show in its own directory."""
        if not isinstance(self._tree.node(node), Array):
            return iter(())
        array = self._tree.array(node)
        encoding, shape = array.key_encoding, array.grid.shape
        first = max(after - _FIRST_CHUNK, 0)
        if encoding.separator == "/" and shape:
            if encoding.style is KeyStyle.V2:
                return self._key_children(self._listed_refs(node, ()), node, (), first)
            if first or not self._has_any(node, ()):
                return iter(())
            keys = Attrs(self._inodes.number(KeyDir(node, ())), is_dir=True, size=0)
            return iter([Child("c", keys, _FIRST_CHUNK + 1)])
        return self._flat_children(self._refs(node, ()), node, first)

    def _flat_children(self, refs: ArrayRefs, node: int, first: int) -> Iterator[Child]:
        """List chunks whose keys have no directories."""
        array, form = self._tree.array(node), self._form(node)
        encode, unravel = array.key_encoding.encode, array.grid.unravel
        number = self._inodes.number
        for flat, length in refs.all_chunks(first):
            coords = unravel(flat)
            size = _size(form, length)
            attrs = Attrs(number(Chunk(node, coords)), is_dir=False, size=size)
            yield Child(encode(coords), attrs, _FIRST_CHUNK + flat + 1)

    def _key_children(
        self, refs: ArrayRefs, node: int, prefix: tuple[int, ...], first: int
    ) -> Iterator[Child]:
        is_leaf = len(prefix) + 1 == len(refs.array.grid.shape)
        make: Callable[[int, tuple[int, ...]], Entry] = Chunk if is_leaf else KeyDir
        number, form = self._inodes.number, self._form(node)
        for coordinate, length in refs.children(prefix, first):
            inode = number(make(node, (*prefix, coordinate)))
            attrs = Attrs(inode, not is_leaf, _size(form, length) if is_leaf else 0)
            yield Child(str(coordinate), attrs, _FIRST_CHUNK + coordinate + 1)

    # -- bytes ---------------------------------------------------------------------------------

    def open(self, inode: int) -> Attrs:
        """Return the attributes of a file about to be read. Never fails for a name that exists.

        Raises NotLoaded.
        """
        attrs = self.attrs(inode)
        if attrs.is_dir:
            raise NameProblem(ErrorKind.IS_A_DIRECTORY, "this is a directory")
        return attrs

    def read_now(self, inode: int, offset: int, size: int) -> bytes | memoryview | None:
        """Return the bytes [offset, offset + size) of a file, fewer at its end, if they are in memory.

        Raises NotLoaded, AccessDenied, or what keeps the manifest from loading.
        """
        found = self._found.get(inode)
        if found is None:
            known = self._known.get(inode)
            entry = self._inodes.entry(inode) if known is None else known[1]
            if not isinstance(entry, Chunk):
                return self._document(entry)[offset : offset + size]
            found = self._chunk(entry)
            _remember(self._found, inode, found)
            if found.refs.array.grid.size == 1:
                self._accompany(self._tree.parent(entry.node))
        refs, coords, ref, form = found
        beside = near(refs, coords, ref)
        if form is None:
            block = self._ahead.block(refs, coords, ref, offset)
            data = self._chunks.peek(ref, offset, size, near=beside, block=block)
            self._ahead.follow(refs, coords, ref, offset, size, block)
            return data
        if isinstance(form, Decoded):
            decoded = self._decoder.peek(ref, form, offset, size, near=beside)
            # It is fetched whole, however large: no blocks of it are got ahead.
            self._ahead.follow(refs, coords, ref, offset, size, 0)
            return decoded
        frame = form.frame(ref.length)
        begin, count = _inside(frame, offset, size)
        block = self._ahead.block(refs, coords, ref, begin)
        # Policy counts for who reads nothing but the frame, too.
        inner = self._chunks.peek(ref, frame.inner.offset + begin, count, near=beside, block=block)
        if count:
            self._ahead.follow(refs, coords, ref, begin, count, block)
        return None if inner is None else _framed(frame, offset, size, inner)

    async def read(self, inode: int, offset: int, size: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + size) of a file, fewer at its end.

        Who reads was seen by `read_now`. Raises AccessDenied, SourceError, or what keeps the
        manifest from loading.
        """
        entry = self._inodes.entry(inode)
        if not isinstance(entry, Chunk):
            return self._document(entry)[offset : offset + size]
        refs, coords, ref, form = await settle(self._chunk, entry)
        self._ahead.was_awaited(refs)
        beside = near(refs, coords, ref)
        if form is None:
            block = self._ahead.block(refs, coords, ref, offset)
            return await self._chunks.read(ref, offset, size, near=beside, block=block)
        if isinstance(form, Decoded):
            return await self._decoder.read(ref, form, offset, size, near=beside)
        frame = form.frame(ref.length)
        begin, count = _inside(frame, offset, size)
        block = self._ahead.block(refs, coords, ref, begin)
        inner = await self._chunks.read(
            ref, frame.inner.offset + begin, count, near=beside, block=block
        )
        return _framed(frame, offset, size, inner)

    @property
    def _decoder(self) -> Decoder:
        if self._reading.decoder is None:
            raise RuntimeError("a decoded view has a decoder")
        return self._reading.decoder

    def _accompany(self, group: int) -> None:
        """Have the small single chunks of the arrays in *group* got: who reads one coordinate reads all."""
        if group in self._accompanied or not self._has_words:
            return
        self._accompanied.add(group)
        found = []
        for number in self._tree.children(group).values():
            array = self.presentation.stored(number)
            if not isinstance(array, Array) or array.problem or array.grid.size != 1:
                continue
            refs, coords = self.checkout.refs(array), (0,) * len(array.grid.shape)
            if not refs.is_loaded(coords):
                continue
            with contextlib.suppress(VzfsError):
                ref = refs.find(coords)
                if ref is not None and ref.length <= MAX_COMPANION:
                    found.append((ref, [ByteRange(0, ref.length)], near(refs, coords, ref)))
        self._chunks.ahead(found[:MAX_COMPANIONS])

    def _document(self, entry: Entry) -> bytes:
        if isinstance(entry, Document):
            return self._tree.document(entry)
        raise NameProblem(ErrorKind.IS_A_DIRECTORY, "this is a directory")

    def _chunk(self, entry: Chunk) -> "_Found":
        """Return a chunk that was found by its name. Raises NotLoaded, and as `find` does."""
        refs = self._refs(entry.node, entry.coords)
        ref = refs.find(entry.coords)
        if ref is None:
            raise NameProblem(ErrorKind.STALE_INODE, "the snapshot has no such chunk")
        return _Found(refs, entry.coords, ref, self._form(entry.node))

    # -- other rules ---------------------------------------------------------------------------

    async def reads_as_under(self, before: Access, inode: int) -> bool:
        """Whether a file may be read, and has the same bytes, as under *before*.

        False for an inode of which that cannot be said.
        """
        try:
            entry = self._inodes.entry(inode)
            if not isinstance(entry, Chunk):
                return True
            ref = (await settle(self._chunk, entry)).ref
        except VzfsError:
            return False
        return read_alike(ref, before, self._reading.access)

    @property
    def max_chunk_nbytes(self) -> int:
        """How many bytes the largest decoded chunk of the snapshot has, 0 without arrays."""
        arrays = (node for node in self.checkout.snapshot.nodes if isinstance(node, Array))
        return max((array.grid.max_chunk_nbytes for array in arrays), default=0)

    # -- totals --------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """Return the size and number of the stored metadata documents: what is known without asking."""
        nodes = self.checkout.snapshot.nodes
        sizes = [len(d) for node in nodes for d in node.documents.values()]
        return Totals(sum(sizes), len(sizes) + len(nodes))

    # -- provenance ----------------------------------------------------------------------------

    def xattrs(self, inode: int) -> list[str]:
        """Return the names of an inode's extended attributes: they say where its bytes come from.

        Raises NotLoaded.
        """
        found = self._chunk_of(inode)
        names = [XATTR_PREFIX + name for name in self._about_entry(inode)]
        if found is not None:
            names += [XATTR_PREFIX + name for name in self._about_chunk(found)] + [CACHED]
        return names

    def xattr(self, inode: int, name: str) -> str:
        """Return an extended attribute, other than `CACHED`. Raises NameProblem, NotLoaded."""
        value = None
        if name.startswith(XATTR_PREFIX):
            short = name.removeprefix(XATTR_PREFIX)
            found = self._chunk_of(inode)
            value = self._about_entry(inode).get(short)
            if found is not None and value is None:
                value = self._about_chunk(found).get(short)
        if value is None:
            raise no_attribute(name)
        return value

    def _about_chunk(self, found: _Found) -> dict[str, str]:
        """Return what is said of a chunk, besides whether it is cached."""
        refs, coords, ref, _ = found
        about = about_chunk(ref, self._reading.access)
        with contextlib.suppress(VzfsError):
            block = self._ahead.block(refs, coords, ref)
            if self._chunks.is_stale(ref, near=near(refs, coords, ref), block=block):
                about["stale"] = "yes"
        return about

    async def cached(self, inode: int) -> str:
        """Return the attribute `CACHED` of a chunk, without a request to its source. Raises NameProblem."""
        entry = self._inodes.entry(inode)
        if not isinstance(entry, Chunk):
            raise no_attribute(CACHED)
        try:
            refs, coords, ref, _ = await settle(self._chunk, entry)
        except VzfsError:
            raise no_attribute(CACHED) from None
        block = self._ahead.block(refs, coords, ref)
        beside = near(refs, coords, ref)
        try:
            is_cached = await self._chunks.is_cached(ref, near=beside, block=block)
        except VzfsError:
            is_cached = False
        return "yes" if is_cached else "no"

    def _chunk_of(self, inode: int) -> _Found | None:
        """Return the chunk of an inode, None if it is none or its manifest is out of reach."""
        entry = self._inodes.entry(inode)
        if not isinstance(entry, Chunk):
            return None
        try:
            return self._chunk(entry)
        except VzfsError:
            return None

    def _about_entry(self, inode: int) -> dict[str, str]:
        """Return what is said of the node of an inode."""
        node = self._inodes.entry(inode).node
        form = self.presentation.form(node)
        remark = self.presentation.remark(node)
        about = dict(self._about_snapshot)
        if isinstance(self.presentation.stored(node), Array):
            about["form"] = _name_of(form)
        if remark:
            about["remark"] = remark
        return about

    @functools.cached_property
    def _about_snapshot(self) -> dict[str, str]:
        return about_snapshot(self.checkout, self._reading.access, self.ref) | {
            "view": str(self.presentation.view)
        }


def _size(form: Form | None, length: int) -> int:
    """Return the size of the file that shows a stored chunk of *length* bytes."""
    return length if form is None else form.size(length)


def _name_of(form: Form | None) -> str:
    match form:
        case None:
            return "stored"
        case Framed():
            return "blosc"
        case Decoded():
            return "decoded"


def _inside(frame: Frame, offset: int, size: int) -> tuple[int, int]:
    """Return which of the framed bytes [offset, offset + size) are stored ones: where they begin there, and how many."""
    begin = min(max(offset - len(frame.head), 0), frame.inner.length)
    end = min(max(offset + size - len(frame.head), 0), frame.inner.length)
    return begin, end - begin


def _framed(frame: Frame, offset: int, size: int, inner: bytes | memoryview) -> bytes | memoryview:
    """Return the framed bytes [offset, offset + size), those of them that are stored being *inner*."""
    head = frame.head[offset : offset + size]
    behind = len(frame.head) + frame.inner.length
    tail = frame.tail[max(offset - behind, 0) : max(offset + size - behind, 0)]
    return b"".join((head, inner, tail)) if head or tail else inner


def _remember[V](table: dict[int, V], inode: int, value: V) -> None:
    if len(table) >= MAX_KNOWN:
        table.clear()
    table[inode] = value
