"""One commit into an Icechunk repository, with the official library. Blocks: for a thread.

The repository is created if it is not there, and the branch if it has no such. All is written into a
session, which nobody sees, and `commit` is the one step that shows it; whoever leaves before has
changed nothing but perhaps created an empty repository, or declared containers that nothing needs
yet.
"""

import asyncio
import contextlib
import datetime
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vzfs.access import StoreOptions
from vzfs.errors import ConfigError, ErrorKind, RepositoryError, VzfsError
from vzfs.ingest.changes import ArrayChange, Changes
from vzfs.model.location import Checksum, ETag, LastModified, Prefix
from vzfs.model.manifest import ChunkKind, Column
from vzfs.source.credentials import AwsKeys, AzureKey, AzureSas, Bearer

if TYPE_CHECKING:
    from icechunk import Repository, Session

_OF_FILE: Final = re.compile(r"[0-9a-f]{1,16}-([0-9a-f]{1,15})-[0-9a-f]{1,16}")
"""The tag of a local file: inode, microseconds since the Unix epoch, length."""

type Credentials = AwsKeys | AzureKey | AzureSas | Bearer | None

BLOCK: Final = 256
"""Refs from which on they are given as columns, and not one by one."""
MAX_HOLES: Final = 4
"""How many times as large as the refs in it a block of the grid may be that is given as columns."""


class Target(NamedTuple):
    """A repository to write: its place, how it is reached, and a branch."""

    place: Prefix
    store: StoreOptions
    credentials: Credentials
    branch: str


class Committed(NamedTuple):
    """The commit that was made."""

    snapshot: str
    is_new_repository: bool


class Writer:
    """Writes *changes* to *target*: `prepare`, then `commit`.

    *base* is the id of the snapshot that the changes were made for, None if the branch is to be
    empty or new. Raises VzfsError.
    """

    def __init__(
        self, target: Target, changes: Changes, stores: Sequence[StoreOptions], base: str | None
    ) -> None:
        self._target = target
        self._changes = changes
        self._stores = stores
        self._base = base
        self._session: Session | None = None
        self._is_new = False

    def prepare(self) -> None:
        """Open or create the repository, and write all but the commit."""
        with _problems(self._target):
            repository = self._open()
            repository = self._declared(repository)
            branch = self._target.branch
            if branch not in repository.list_branches():
                repository.create_branch(branch, repository.lookup_branch("main"))
            session = repository.writable_session(branch)
            if self._base is not None and session.snapshot_id != self._base:
                raise _conflict(self._target)
            asyncio.run(self._write(session))
            self._session = session

    def commit(self, message: str) -> Committed:
        """Commit what was prepared. Raises VzfsError (`COMMIT_CONFLICT`) if somebody else did before."""
        if self._session is None:
            raise RuntimeError("nothing is prepared")
        with _problems(self._target):
            return Committed(self._session.commit(message), self._is_new)

    def _open(self) -> "Repository":
        icechunk = _library()
        storage = storage_of(self._target)
        if icechunk.Repository.exists(storage):
            found: Repository = icechunk.Repository.open(storage)
            return found
        self._is_new = True
        created: Repository = icechunk.Repository.create(storage)
        return created

    def _declared(self, repository: "Repository") -> "Repository":
        """Return the repository, which declares the containers that it needs."""
        import icechunk

        if not self._changes.containers:
            return repository
        config = repository.config
        for prefix, store in zip(self._changes.containers, self._stores, strict=True):
            config.set_virtual_chunk_container(
                icechunk.VirtualChunkContainer(str(prefix), container_store(prefix, store))
            )
        repository = icechunk.Repository.open(storage_of(self._target), config=config)
        repository.save_config()
        return repository

    async def _write(self, session: "Session") -> None:
        from zarr.core.buffer import default_buffer_prototype

        make = default_buffer_prototype().buffer.from_bytes
        store = session.store
        for path, document in self._changes.groups.items():
            await store.set(f"{path}/zarr.json".lstrip("/"), make(document))
        for change in self._changes.arrays:
            name = change.path.lstrip("/")
            if change.is_replaced:
                await store.delete_dir(name)
            await store.set(f"{name}/zarr.json".lstrip("/"), make(change.document))
            for row in _rows_of(change, ChunkKind.INLINE).tolist():
                ref = change.manifest.ref(row)
                flat = int(change.manifest.index[row])
                coords = "/".join(str(c) for c in np.unravel_index(flat, change.grid or (1,)))
                key = f"{name}/c/{coords}" if change.grid else f"{name}/c"
                await store.set(key.lstrip("/"), make(bytes(ref.inline)))
            self._refer(store, change)

    def _refer(self, store: Any, change: ArrayChange) -> None:  # noqa: ANN401 -- icechunk is imported late
        import icechunk

        rows = _rows_of(change, ChunkKind.VIRTUAL)
        few: list[icechunk.VirtualChunkSpec] = []
        for checksum, group in _by_checksum(change, rows):
            said = said_checksum(checksum, change.manifest.ref(int(group[0])).location)
            block = _block(change, group)
            if block is not None:
                _refer_block(store, change, group, block, said)
                continue
            is_etag = isinstance(said, str)
            indices = change.manifest.indices(0, len(change.manifest))[group]
            coords = np.unravel_index(indices, change.grid) if change.grid else ()
            places = np.stack(coords, axis=-1).tolist() if change.grid else [[]] * len(group)
            for place, row in zip(places, group.tolist(), strict=True):
                ref = change.manifest.ref(row)
                few.append(
                    icechunk.VirtualChunkSpec(
                        place,
                        ref.location,
                        ref.offset,
                        ref.length,
                        said if is_etag else None,  # type: ignore[arg-type]
                        None if is_etag else said,  # type: ignore[arg-type]
                    )
                )
        if few:
            _check(store.set_virtual_refs(change.path, few), change.path)


class _Block(NamedTuple):
    """A part of a chunk grid: where it begins, its shape, and where in it each ref is."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    inside: Column[np.int64]


def _block(change: ArrayChange, rows: Column[np.int64]) -> _Block | None:
    """Return the block that *rows* fill, None if they are few, or far apart."""
    if len(rows) < BLOCK or not change.grid:
        return None
    flat = change.manifest.indices(0, len(change.manifest))[rows]
    coords = np.unravel_index(flat, change.grid)
    start = tuple(int(c.min()) for c in coords)
    shape = tuple(int(c.max()) - s + 1 for c, s in zip(coords, start, strict=True))
    if np.prod(shape, dtype=object) > MAX_HOLES * len(rows):
        return None
    within = tuple(c - s for c, s in zip(coords, start, strict=True))
    return _Block(start, shape, np.ravel_multi_index(within, shape).astype(np.int64))


def _refer_block(
    store: Any,  # noqa: ANN401 -- as above
    change: ArrayChange,
    rows: Column[np.int64],
    block: _Block,
    checksum: str | datetime.datetime | None,
) -> None:
    size = int(np.prod(block.shape))
    manifest = change.manifest
    table = list(manifest.locations)
    locations = [""] * size
    for at, number in zip(block.inside.tolist(), manifest.location[rows].tolist(), strict=True):
        locations[at] = table[number]
    offsets, lengths = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    offsets[block.inside] = manifest.offset[rows]
    lengths[block.inside] = manifest.length[rows]
    refused = store.set_virtual_refs_arr(
        change.path,
        block.shape,
        locations,
        offsets,
        lengths,
        arr_offset=block.start,
        checksum=checksum,
    )
    _check(refused, change.path)


def _check(refused: object, path: str) -> None:
    if refused:
        raise RepositoryError(
            ErrorKind.NOT_WRITTEN, "the repository takes some references for outside its containers", where=path
        )  # fmt: skip


def _rows_of(change: ArrayChange, kind: ChunkKind) -> Column[np.int64]:
    is_so: Column[np.bool_] = change.manifest.kind[change.rows] == kind
    return change.rows[is_so]


def _by_checksum(
    change: ArrayChange, rows: Column[np.int64]
) -> Iterator[tuple[Checksum | None, Column[np.int64]]]:
    """Yield rows by the version that they name, the rows of each together."""
    numbers = change.manifest.checksum[rows].astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    for group in np.split(order, ends):
        if len(group):
            number = int(numbers[group[0]])
            yield (change.manifest.checksums[number - 1] if number else None), rows[group]


def said_checksum(checksum: Checksum | None, location: str) -> str | datetime.datetime | None:
    """Return the version of the object at *location* as the library takes it, and can tell again.

    It sends entity tags without their quotes, and of a local file that is none that it has: there the
    date in the tag stands for it, in whole seconds that are not before it.
    """
    match checksum:
        case ETag(value):
            found = _OF_FILE.fullmatch(value) if location.startswith("file:") else None
            return value if found is None else _date(-(-int(found[1], 16) // 10**6))
        case LastModified(seconds):
            return _date(seconds)
    return None


def _date(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


# -- stores ----------------------------------------------------------------------------------------


def storage_of(target: Target) -> Any:  # noqa: ANN401 -- icechunk is imported late
    """Return the storage of a repository, reached as vzfs itself reaches it. Raises ConfigError."""
    icechunk = _library()
    place, store, credentials = target.place, target.store, target.credentials
    prefix = place.key or None
    match place.scheme, credentials:
        case "file", _:
            return icechunk.local_filesystem_storage(f"/{place.key}")
        case "s3", _:
            keys = {}
            if isinstance(credentials, AwsKeys):
                keys = {
                    "access_key_id": credentials.access_key,
                    "secret_access_key": credentials.secret_key,
                    "session_token": credentials.token,
                }
            return icechunk.s3_storage(
                bucket=place.authority,
                prefix=prefix,
                region=store.region or "us-east-1",
                endpoint_url=store.endpoint,
                allow_http=store.allow_http,
                anonymous=credentials is None,
                force_path_style=_path_style(store),
                requester_pays=store.requester_pays,
                **keys,
            )
        case "gs", Bearer():
            return icechunk.gcs_storage(
                bucket=place.authority, prefix=prefix, bearer_token=credentials.token
            )
        case "az" | "abfs", AzureKey() | AzureSas() | Bearer() if store.account:
            said = {
                AzureKey: ("access_key", "key"),
                AzureSas: ("sas_token", "query"),
                Bearer: ("bearer_token", "token"),
            }
            name, attribute = said[type(credentials)]
            return icechunk.azure_storage(
                account=store.account,
                container=place.authority,
                prefix=place.key,
                **{name: getattr(credentials, attribute)},
            )
    raise ConfigError(
        ErrorKind.BAD_USAGE,
        f"repositories on {place.scheme}: cannot be written like that",
        where=str(place),
        advice="give a local folder, s3://, gs:// or az:// (with --account), and credentials",
    )


def container_store(prefix: Prefix, store: StoreOptions) -> Any:  # noqa: ANN401 -- as above
    """Return what a container says of the store that files are in. Credentials are never part of it."""
    icechunk = _library()
    match prefix.scheme:
        case "file":
            return icechunk.local_filesystem_store(f"/{prefix.key}")
        case "s3":
            return icechunk.s3_store(
                region=store.region or "us-east-1",
                endpoint_url=store.endpoint,
                allow_http=store.allow_http,
                anonymous=store.anonymous,
                s3_compatible=store.endpoint is not None,
                force_path_style=_path_style(store),
                requester_pays=store.requester_pays,
            )
        case "gs":
            return icechunk.gcs_store()
        case "az" | "abfs":
            options = {"account": store.account} if store.account else {}
            return icechunk.ObjectStoreConfig.Azure(options)
        case "tigris":
            return icechunk.s3_store(region=store.region, endpoint_url=store.endpoint)
    return icechunk.http_store()


def _path_style(store: StoreOptions) -> bool:
    return store.endpoint is not None if store.path_style is None else store.path_style


def _library() -> Any:  # noqa: ANN401 -- as above
    try:
        import icechunk
    except ImportError:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "writing Icechunk repositories needs a library that is not installed",
            advice="pip install 'vzfs[ingest]'",
        ) from None
    # What it has to say of each storage that it opens is no news to the user of a command.
    icechunk.set_logs_filter("error")
    return icechunk


@contextlib.contextmanager
def _problems(target: Target) -> Iterator[None]:
    """Make what the library raises an error of ours."""
    icechunk = _library()
    try:
        yield
    except icechunk.ConflictError:
        raise _conflict(target) from None
    except icechunk.IcechunkError as error:
        reason = " ".join(str(error).split())[:300]
        raise RepositoryError(
            ErrorKind.NOT_WRITTEN,
            f"the repository cannot be written ({reason})",
            where=str(target.place),
            advice="check the place, permissions and credentials",
        ) from None


def _conflict(target: Target) -> VzfsError:
    return RepositoryError(
        ErrorKind.COMMIT_CONFLICT,
        f"somebody else has committed to the branch {target.branch} meanwhile; nothing was committed",
        where=str(target.place),
        advice="run the command again: what was parsed is in the cache",
    )
