"""What FUSE asks, answered without FUSE: names, attributes, listings, bytes, provenance.

Everything is answered from the snapshot and its manifests, except the bytes of a chunk. While a
manifest cannot be loaded, the names that it may hold answer as existing, with the size of a decoded
chunk, and are not to be cached; reading them, and listing their directory, raises why.

What is known is answered at once, by plain functions. Where a manifest has to be loaded first they
raise `NotLoaded`, which can be waited for; then the same function answers. `settle` does both.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from vzfs.access import Access
from vzfs.chunks import Chunks, ReadAhead, near, read_alike
from vzfs.errors import ErrorKind, NameProblem, VzfsError
from vzfs.model.chunkgrid import KeyStyle
from vzfs.model.location import ByteRange, ETag, LastModified
from vzfs.model.manifest import ChunkKind, ChunkRef, Column
from vzfs.model.moment import format_time
from vzfs.model.snapshot import DEFAULT_BRANCH, Array
from vzfs.repository import ArrayRefs, Checkout
from vzfs.tree.inodes import Inodes
from vzfs.tree.tree import Chunk, Document, Entry, KeyDir, NodeDir, Tree

MAX_NAME: Final = 255
"""Bytes of a name, as everywhere on Linux. Longer names are in no listing."""
MAX_COMPANION: Final = 256 * 2**10
"""Bytes of the only chunk of an array that is got along with those of its neighbours."""
MAX_COMPANIONS: Final = 32
MAX_LISTINGS: Final = 16
"""Nodes whose lines are kept for listings under way."""
MAX_KNOWN: Final = 16_384
"""Files of which is remembered what was found out: between looking a name up and reading it, nothing
is looked for again."""
_FIRST_CHUNK: Final = 2**20
"""Where the listing positions of chunk keys begin; documents and child nodes come before."""
XATTR_PREFIX: Final = "user.vzfs."
CACHED: Final = f"{XATTR_PREFIX}cached"
"""The one attribute for which the disk has to be asked."""


class NotLoaded(Exception):
    """What was asked is in a manifest that has to be loaded first, by `load`."""

    def __init__(self, load: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._load = load

    async def load(self) -> None:
        """Load it. Where that fails, whoever asks again is told why."""
        with contextlib.suppress(VzfsError):
            await self._load()


async def settle[**P, R](ask: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what *ask* returns, loading what it needs."""
    while True:
        try:
            return ask(*args, **kwargs)
        except NotLoaded as missing:
            await missing.load()


class Attrs(NamedTuple):
    """What `stat` shows. *is_certain* is False while the manifest that would know is out of reach."""

    inode: int
    is_dir: bool
    size: int
    is_certain: bool = True


class Child(NamedTuple):
    """One line of a listing; *position* is where the listing goes on behind it."""

    name: str
    attrs: Attrs
    position: int


class Run(NamedTuple):
    """Lines of a listing of keys: *numbers* are their names, ascending, and *sizes* their bytes.

    *inode* and *position* are those of number 0, and of n by n more.
    """

    numbers: Column[np.int64]
    sizes: Column[np.int64]
    inode: int
    position: int
    is_dir: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """What `df` shows: bytes and files of the hierarchy that are known without asking anybody."""

    size: int
    files: int


class _Found(NamedTuple):
    """A chunk that is being read."""

    refs: ArrayRefs
    coords: tuple[int, ...]
    ref: ChunkRef


class Filesystem:
    """One checkout as a read-only file system."""

    def __init__(
        self, checkout: Checkout, access: Access, chunks: Chunks, ahead: ReadAhead
    ) -> None:
        self.snapshot: Final = checkout.snapshot
        self._checkout = checkout
        self._access = access
        self._chunks = chunks
        self._ahead = ahead
        self._tree = Tree(checkout.snapshot)
        self._inodes = Inodes(self._tree)
        self._accompanied: set[int] = set()
        self._known: dict[int, Attrs] = {}
        self._found: dict[int, _Found] = {}
        # A listing comes in many pages; its lines are made once.
        self._entries = functools.lru_cache(MAX_LISTINGS)(self._list_entries)

    # -- names ---------------------------------------------------------------------------------

    def lookup(self, parent: int, name: str) -> Attrs:
        """Return the attributes of *name* in the directory *parent*. Raises NameProblem, NotLoaded."""
        if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
            raise NameProblem(ErrorKind.NAME_TOO_LONG, "the name is too long", where=name[:32])
        entry = self._tree.lookup(self._inodes.entry(parent), name)
        attrs = None if entry is None else self._attrs_of(entry)
        if attrs is None:
            raise NameProblem(ErrorKind.NO_SUCH_NAME, "the snapshot has no such name", where=name)
        return attrs

    def attrs(self, inode: int) -> Attrs:
        """Return the attributes of an inode. Raises NameProblem if it is stale, NotLoaded."""
        attrs = self._known.get(inode)
        if attrs is None:
            attrs = self._attrs_of(self._inodes.entry(inode))
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
                    size = refs.array.grid.max_chunk_nbytes
                    return Attrs(inode, is_dir=False, size=size, is_certain=False)
                if length is None:
                    return None
                attrs = Attrs(inode, is_dir=False, size=length)
                _remember(self._known, inode, attrs)
                return attrs

    def _refs(self, node: int, prefix: tuple[int, ...]) -> ArrayRefs:
        """Return the chunk refs of an array, which know those below *prefix*. Raises NotLoaded."""
        refs = self._checkout.refs(self._tree.array(node))
        if not refs.is_loaded(prefix):
            raise NotLoaded(functools.partial(refs.load, prefix))
        return refs

    def _has_any(self, node: int, prefix: tuple[int, ...]) -> bool:
        """Whether there are chunks below *prefix*. Raises NotLoaded, and as `ArrayRefs.has_any` does."""
        refs = self._checkout.refs(self._tree.array(node))
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
        entry = self._inodes.entry(inode)
        match entry:
            case NodeDir(node):
                keys = self._keys_of(node, after)
                return itertools.chain(self._node_children(node, after), keys)
            case KeyDir(node, prefix):
                refs = self._refs(node, prefix)
                return self._key_children(refs, node, prefix, max(after - _FIRST_CHUNK, 0))
            case _:
                raise NameProblem(ErrorKind.NOT_A_DIRECTORY, "this is a file")

    def run(self, inode: int, after: int, count: int) -> Run | None:
        """Return the next *count* lines, as `children` does, where they are a directory's of keys; else None."""
        entry = self._inodes.entry(inode)
        if not isinstance(entry, KeyDir):
            return None
        first = self._inodes.first_below(entry.node, entry.prefix)
        if first is None:
            return None
        refs = self._refs(entry.node, entry.prefix)
        is_leaf = len(entry.prefix) + 1 == len(refs.array.grid.shape)
        begin = max(after - _FIRST_CHUNK, 0)
        numbers, sizes = refs.children_arrays(entry.prefix, begin, count)
        if not is_leaf:
            sizes = np.zeros_like(numbers)
        return Run(numbers, sizes, first, _FIRST_CHUNK + 1, not is_leaf)

    def _node_children(self, node: int, after: int) -> Iterator[Child]:
        """List the documents and child nodes of a node."""
        for position, (name, attrs) in enumerate(self._entries(node)[after:], start=after + 1):
            yield Child(name, attrs, position)

    def _list_entries(self, node: int) -> Sequence[tuple[str, Attrs]]:
        documents = self._tree.nodes[node].documents
        number = self._inodes.number
        entries = [
            (name, Attrs(number(Document(node, ordinal)), is_dir=False, size=len(content)))
            for ordinal, (name, content) in enumerate(documents.items())
        ]
        entries += [
            (name, Attrs(number(NodeDir(child)), is_dir=True, size=0))
            for name, child in self._tree.children(node).items()
            if len(name.encode("utf-8", "surrogateescape")) <= MAX_NAME
        ]
        return entries

    def _keys_of(self, node: int, after: int) -> Iterator[Child]:
        """List what the chunk keys of a node, if it is an array, show in its own directory."""
        if not isinstance(self._tree.nodes[node], Array):
            return iter(())
        array = self._tree.array(node)
        encoding, shape = array.key_encoding, array.grid.shape
        first = max(after - _FIRST_CHUNK, 0)
        if encoding.separator == "/" and shape:
            if encoding.style is KeyStyle.V2:
                return self._key_children(self._refs(node, ()), node, (), first)
            if first or not self._has_any(node, ()):
                return iter(())
            keys = Attrs(self._inodes.number(KeyDir(node, ())), is_dir=True, size=0)
            return iter([Child("c", keys, _FIRST_CHUNK + 1)])
        return self._flat_children(self._refs(node, ()), node, first)

    def _flat_children(self, refs: ArrayRefs, node: int, first: int) -> Iterator[Child]:
        """List chunks whose keys have no directories."""
        encode, unravel = refs.array.key_encoding.encode, refs.array.grid.unravel
        number = self._inodes.number
        for flat, length in refs.all_chunks(first):
            coords = unravel(flat)
            attrs = Attrs(number(Chunk(node, coords)), is_dir=False, size=length)
            yield Child(encode(coords), attrs, _FIRST_CHUNK + flat + 1)

    def _key_children(
        self, refs: ArrayRefs, node: int, prefix: tuple[int, ...], first: int
    ) -> Iterator[Child]:
        is_leaf = len(prefix) + 1 == len(refs.array.grid.shape)
        make: Callable[[int, tuple[int, ...]], Entry] = Chunk if is_leaf else KeyDir
        number = self._inodes.number
        for coordinate, length in refs.children(prefix, first):
            inode = number(make(node, (*prefix, coordinate)))
            attrs = Attrs(inode, not is_leaf, length if is_leaf else 0)
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
            entry = self._inodes.entry(inode)
            if not isinstance(entry, Chunk):
                return self._document(entry)[offset : offset + size]
            found = self._chunk(entry)
            _remember(self._found, inode, found)
            if found.refs.array.grid.size == 1:
                self._accompany(self._tree.parent(entry.node))
        refs, coords, ref = found
        block = self._ahead.block(refs, coords, ref, offset)
        beside = near(refs, coords, ref)
        data = self._chunks.peek(ref, offset, size, near=beside, block=block)
        self._ahead.follow(refs, coords, ref, offset, size, block)
        return data

    async def read(self, inode: int, offset: int, size: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + size) of a file, fewer at its end.

        Who reads was seen by `read_now`. Raises AccessDenied, SourceError, or what keeps the
        manifest from loading.
        """
        entry = self._inodes.entry(inode)
        if not isinstance(entry, Chunk):
            return self._document(entry)[offset : offset + size]
        refs, coords, ref = await settle(self._chunk, entry)
        block = self._ahead.block(refs, coords, ref, offset)
        beside = near(refs, coords, ref)
        return await self._chunks.read(ref, offset, size, near=beside, block=block)

    def _accompany(self, group: int) -> None:
        """Have the small single chunks of the arrays in *group* got: who reads one coordinate reads all."""
        if group in self._accompanied:
            return
        self._accompanied.add(group)
        found = []
        for number in self._tree.children(group).values():
            array = self._tree.nodes[number]
            if not isinstance(array, Array) or array.problem or array.grid.size != 1:
                continue
            refs, coords = self._checkout.refs(array), (0,) * len(array.grid.shape)
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
        return _Found(refs, entry.coords, ref)

    # -- other rules ---------------------------------------------------------------------------

    @property
    def access(self) -> Access:
        """What decides now."""
        return self._access

    def adopt(self, access: Access) -> Access:
        """Let *access* decide from now on, over reads under way too; return what decided before."""
        before, self._access = self._access, access
        self._chunks.adopt(access)
        return before

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
        return read_alike(ref, before, self._access)

    @property
    def max_chunk_nbytes(self) -> int:
        """How many bytes the largest decoded chunk of the snapshot has, 0 without arrays."""
        arrays = (node for node in self.snapshot.nodes if isinstance(node, Array))
        return max((array.grid.max_chunk_nbytes for array in arrays), default=0)

    # -- totals --------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """Return the size and number of the metadata documents: what is known without asking."""
        sizes = [len(d) for node in self._tree.nodes for d in node.documents.values()]
        return Totals(sum(sizes), len(sizes) + len(self._tree.nodes))

    # -- provenance ----------------------------------------------------------------------------

    def xattrs(self, inode: int) -> list[str]:
        """Return the names of an inode's extended attributes: they say where its bytes come from.

        Raises NotLoaded.
        """
        ref = self._ref_of(inode)
        names = [XATTR_PREFIX + name for name in self._about_node]
        if ref is not None:
            names += [XATTR_PREFIX + name for name in self._about(ref)] + [CACHED]
        return names

    def xattr(self, inode: int, name: str) -> str:
        """Return an extended attribute, other than `CACHED`. Raises NameProblem, NotLoaded."""
        found = None
        if name.startswith(XATTR_PREFIX):
            short = name.removeprefix(XATTR_PREFIX)
            ref = self._ref_of(inode)
            found = self._about_node.get(short)
            if ref is not None and found is None:
                found = self._about(ref).get(short)
        if found is None:
            raise _no_attribute(name)
        return found

    async def cached(self, inode: int) -> str:
        """Return the attribute `CACHED` of a chunk, without a request to its source. Raises NameProblem."""
        entry = self._inodes.entry(inode)
        if not isinstance(entry, Chunk):
            raise _no_attribute(CACHED)
        try:
            refs, coords, ref = await settle(self._chunk, entry)
        except VzfsError:
            raise _no_attribute(CACHED) from None
        block = self._ahead.block(refs, coords, ref)
        beside = near(refs, coords, ref)
        try:
            is_cached = await self._chunks.is_cached(ref, near=beside, block=block)
        except VzfsError:
            is_cached = False
        return "yes" if is_cached else "no"

    def _ref_of(self, inode: int) -> ChunkRef | None:
        """Return the chunk ref of an inode, None if it is no chunk or its manifest is out of reach."""
        entry = self._inodes.entry(inode)
        if not isinstance(entry, Chunk):
            return None
        refs = self._refs(entry.node, entry.coords)
        try:
            return refs.find(entry.coords)
        except VzfsError:
            return None

    @functools.cached_property
    def _about_node(self) -> dict[str, str]:
        ref = self._checkout.ref
        about = {
            "snapshot": self.snapshot.id,
            "repository": str(self._access.repository),
            "format": self._checkout.repository.format,
        }
        if ref.tag is not None:
            about["tag"] = ref.tag
        elif ref.snapshot is None:
            about["branch"] = ref.branch or DEFAULT_BRANCH
        return about

    def _about(self, ref: ChunkRef) -> dict[str, str]:
        about = {"kind": ref.kind.name.lower(), "length": str(ref.length)}
        if ref.kind is ChunkKind.INLINE:
            return about
        about["offset"] = str(ref.offset)
        match ref.checksum:
            case ETag(value):
                about["etag"] = value
            case LastModified(seconds):
                about["last_modified"] = format_time(seconds * 10**9)
        if ref.kind is ChunkKind.NATIVE:
            about["source"] = str(self._access.repository.join(ref.location))
            return about
        try:
            location = self._access.resolve(ref.location)
        except VzfsError:
            about["source"] = ref.location
            return about
        about["source"] = str(location)
        container = self._access.container_of(location)
        if container is not None:
            about["container"] = container.name or container.url_prefix
        return about


def _remember[V](table: dict[int, V], inode: int, value: V) -> None:
    if len(table) >= MAX_KNOWN:
        table.clear()
    table[inode] = value


def _no_attribute(name: str) -> NameProblem:
    return NameProblem(ErrorKind.NO_SUCH_ATTRIBUTE, "there is no such attribute", where=name)
