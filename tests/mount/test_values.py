"""What programs read through a mount equals what the repository, and the files behind it, hold."""

import contextlib
import datetime
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import icechunk
import numpy as np
import obstore
import pytest
import tensorstore
import xarray
import zarr
from click.testing import CliRunner
from obspec_utils.registry import ObjectStoreRegistry
from virtualizarr import open_virtual_dataset
from virtualizarr.parsers import HDFParser
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from tests.mount.conftest import Mount, MountFailedError
from tests.mount.outcomes import read, walk, xattrs
from tests.mount.repositories import (
    add_native,
    create,
    key_encoding,
    open_for_writing,
    patch_payload,
)
from vzfs.cli.showing import info

GRID = np.arange(4 * 6, dtype="f4").reshape(4, 6)
CODECS = {
    "bytes": None,
    "gzip": GzipCodec(level=5),
    "zstd": ZstdCodec(level=3),
    "blosc": BloscCodec(cname="lz4", shuffle="shuffle", typesize=4),
}
ENCODINGS = [("default", "/"), ("default", "."), ("v2", "/"), ("v2", ".")]
ODD_NAMES = [
    "with space",
    " leading and trailing ",
    "a:b",
    "température",
    "日本",
    "emoji😀",
    "100%",
    "a%20b",
    "hash#tag",
    "what?",
    "quote\"'",
    "new\nline",
    "-dash",
    "comma,equals=",
    "...",
    ".hidden",
    "c",
    "0",
    "x" * 255,
]


def write_features(path: Path, spec: int) -> dict[str, np.ndarray]:
    """Write a repository with arrays of every kind; return their values by path."""
    arrays: dict[str, np.ndarray] = {}
    repository = create(path, spec=spec, inline=16)
    session = repository.writable_session("main")
    root = zarr.group(session.store, attributes={"title": "features"})

    def add(name: str, data: np.ndarray, chunks: object, **options: object) -> None:
        arrays[name] = data
        add_native(root, name, data, chunks, **options)

    for name, codec in CODECS.items():
        add(f"codecs/{name}", GRID, (3, 4), compressors=codec)
    for style, separator in ENCODINGS:
        name = f"keys/{style} {'slash' if separator == '/' else 'dot'}"
        for suffix, data, chunks in (
            ("", GRID, (1, 2)),
            (" scalar", np.array(2.5), ()),
            (" cube", np.arange(60).reshape(3, 4, 5), (2, 2, 2)),
        ):
            add(name + suffix, data, chunks)
            key_encoding(session.store, name + suffix, style, separator)
    for name in ODD_NAMES:
        add(f"odd/{name}", GRID, (2, 3))
        root.create_group(f"odd groups/{name}", attributes={"name": name})
    add("/".join(f"d{n}" for n in range(40)), GRID, (2, 3))
    add("sharded", np.arange(100).reshape(10, 10), (1, 5), shards=(4, 10))
    add("big endian", GRID.astype(">f8"), (2, 6))
    add("longer chunks", GRID, (64, 4))
    add("text", np.array(["a", "", "日本"], dtype=np.dtypes.StringDType()), (2,))
    add("flags", np.array([True, False, True]), (2,))
    if spec > 1:
        add("rectilinear", GRID, [[1, 3], [2, 1, 3]])
        add("rectilinear long", np.arange(1000, dtype="i2"), [[10, 20, 300, 670]])
    for name, shape in (("never written", (4, 4)), ("nothing", (0, 4))):
        root.create_array(name, shape=shape, chunks=(2, 2), dtype="f8", fill_value=np.nan)
        arrays[name] = np.full(shape, np.nan)
    partly = root.create_array("partly", shape=(10,), chunks=(2,), dtype="i4", fill_value=-1)
    partly[4:6] = 7
    arrays["partly"] = np.array([-1, -1, -1, -1, 7, 7, -1, -1, -1, -1], dtype="i4")
    session.commit("features")
    return arrays


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Let zarr-python use what it warns about: grids and types that are not in the core of Zarr v3."""
    with warnings.catch_warnings(), zarr.config.set({"array.rectilinear_chunks": True}):
        warnings.simplefilter("ignore")
        yield


class Features:
    """The repository of all features, its values, and a mount of it."""

    def __init__(self, folder: Path, spec: int) -> None:
        self.repository = folder / "repository"
        with experimental():
            self.arrays = write_features(self.repository, spec)
        self.mount = Mount(folder / "mount", self.repository, "--no-cache")
        self.path = self.mount.path


@pytest.fixture(scope="module", params=[1, 2], name="features")
def _features(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Features]:
    features = Features(tmp_path_factory.mktemp("features"), request.param)
    try:
        yield features
        features.mount.end()
    finally:
        features.mount.tear_down()


def test_zarr_python_reads_every_feature(features: Features) -> None:
    """Codecs, shards, 0-d arrays, rectilinear grids, all key encodings and odd names: zarr-python reads the values written."""
    with experimental():
        for name, expected in features.arrays.items():
            found = zarr.open_array(features.path / name, mode="r")[...]
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_zarr_python_finds_the_same_hierarchy(features: Features) -> None:
    """Walked by zarr-python, the mount has the nodes and attributes of the repository, all and only."""
    with experimental():
        group = zarr.open_group(features.path, mode="r")
        store = open_for_writing(features.repository).readonly_session("main").store
        oracle = zarr.open_group(store, mode="r")
        found = {path: dict(node.attrs) for path, node in group.members(max_depth=None)}
        expected = {path: dict(node.attrs) for path, node in oracle.members(max_depth=None)}
    assert found == expected
    assert found["odd groups/日本"] == {"name": "日本"}
    assert dict(group.attrs) == {"title": "features"}


@pytest.mark.parametrize(
    "name", [f"codecs/{name}" for name in CODECS] + ["sharded", "partly", "keys/default dot"]
)
def test_tensorstore_reads_what_it_knows(name: str, features: Features) -> None:
    """TensorStore's zarr3 driver reads arrays of the core's codecs, shards and missing chunks."""
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(features.path / name) + "/"},
    }
    found = tensorstore.open(spec, read=True).result().read().result()
    np.testing.assert_array_equal(found, features.arrays[name])


def test_chunk_keys_are_those_of_the_encoding(features: Features) -> None:
    """The files of an array are named by its chunk key encoding, and a 0-d array has its one file."""
    keys = {name: walk(features.path / "keys" / name) for name in features_below(features, "keys")}
    rows = [(i, j) for i in range(4) for j in range(3)]
    document = "zarr.json"
    assert keys["default slash"] == sorted(
        [document, "c", *{f"c/{i}" for i, _ in rows}, *(f"c/{i}/{j}" for i, j in rows)]
    )
    assert keys["default dot"] == sorted([document, *(f"c.{i}.{j}" for i, j in rows)])
    assert keys["v2 slash"] == sorted(
        [document, *{f"{i}" for i, _ in rows}, *(f"{i}/{j}" for i, j in rows)]
    )
    assert keys["v2 dot"] == sorted([document, *(f"{i}.{j}" for i, j in rows)])
    assert keys["default slash scalar"] == keys["default dot scalar"] == ["c", document]
    assert keys["v2 slash scalar"] == keys["v2 dot scalar"] == ["0", document]


def features_below(features: Features, group: str) -> list[str]:
    return [n.removeprefix(f"{group}/") for n in features.arrays if n.startswith(f"{group}/")]


def test_every_file_is_the_oracles_byte_for_byte(features: Features) -> None:
    """The bytes of every document and default-keyed chunk are those that the official library gives for its key."""
    store = open_for_writing(features.repository).readonly_session("main").store

    async def everything() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            value = await store.get(key, default_buffer_prototype())
            assert value is not None
            found[key] = value.to_bytes()
        return found

    def is_comparable(key: str) -> bool:
        """Whether the key is spelt alike by the library, which knows the default key encoding only."""
        return not key.startswith("keys/") or key.endswith("zarr.json")

    expected = {key: data for key, data in sync(everything()).items() if is_comparable(key)}
    files = {n: features.path / n for n in walk(features.path) if (features.path / n).is_file()}
    found = {name: file.read_bytes() for name, file in files.items() if is_comparable(name)}
    assert found == expected


def test_a_chunk_that_was_never_written_is_absent(features: Features) -> None:
    """An array without chunks shows its document only; a partly written one just the chunks that exist."""
    assert walk(features.path / "never written") == ["zarr.json"]
    assert walk(features.path / "nothing") == ["zarr.json"]
    assert walk(features.path / "partly") == ["c", "c/2", "zarr.json"]


def test_a_name_that_linux_cannot_have_hides_nothing_else(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A node whose name has more than 255 bytes is in no listing; its neighbours are all there."""
    path = tmp_path / "repository"
    session = create(path).writable_session("main")
    root = zarr.group(session.store)
    for name in ("a", "é" * 128, "z"):
        add_native(root, name, GRID, (4, 6))
    session.commit("long")
    mounted = mount(path)
    assert sorted(p.name for p in mounted.path.iterdir()) == ["a", "z", "zarr.json"]
    assert np.array_equal(zarr.open_array(mounted.path / "z", mode="r")[...], GRID)


def test_an_empty_repository_is_an_empty_directory(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A repository that was only created mounts, and has no names."""
    for spec in (1, 2):
        create(tmp_path / str(spec), spec=spec)
        mounted = mount(tmp_path / str(spec))
        assert walk(mounted.path) == []
        assert not (mounted.path / "zarr.json").exists()
        assert not (mounted.path / "a").exists()


# -- real files --------------------------------------------------------------------------------

NETCDF = ["nemo_1m_20150101-20150201_grid-T.nc", "A1B_north_america.nc"]


class Virtual:
    """A netCDF4 file, a repository of virtual chunks in it, and a mount of that."""

    def __init__(self, folder: Path, source: Path) -> None:
        archive = folder / "archive"
        archive.mkdir()
        self.source = archive / source.name
        shutil.copyfile(source, self.source)
        registry = ObjectStoreRegistry({archive.as_uri(): obstore.store.LocalStore(prefix=archive)})
        repository = create(folder / "repository", containers=[f"{archive.as_uri()}/"])
        session = repository.writable_session("main")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = open_virtual_dataset(
                self.source.as_uri(),
                registry=registry,
                parser=HDFParser(),
                loadable_variables=[],
                decode_times=False,
            )
            later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
            dataset.vz.to_icechunk(session.store, last_updated_at=later)
        self.names = list(dataset.variables)
        session.commit("virtual")
        self.mount = Mount(
            folder / "mount", folder / "repository", "--no-cache", "--allow", str(archive)
        )
        self.path = self.mount.path


@pytest.fixture(scope="module", params=NETCDF, name="virtual")
def _virtual(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Virtual]:
    source = data / "archival" / "hdf5" / request.param
    virtual = Virtual(tmp_path_factory.mktemp("virtual"), source)
    try:
        yield virtual
        virtual.mount.end()
    finally:
        virtual.mount.tear_down()


def test_zarr_python_reads_virtual_chunks_as_h5py_reads_the_file(virtual: Virtual) -> None:
    """Every variable, read by zarr-python through the mount, equals what h5py finds in the netCDF4 file."""
    with h5py.File(virtual.source) as file, experimental():
        for name in virtual.names:
            array = zarr.open_array(virtual.path / name, mode="r")
            np.testing.assert_array_equal(array[...], file[name][...], err_msg=name)
        assert len(virtual.names) >= 8


def test_xarray_opens_a_mount_as_a_dataset(virtual: Virtual) -> None:
    """The mount opens in xarray as a Zarr dataset, and reads what it reads from the netCDF4 file itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            xarray.open_dataset(
                virtual.path, engine="zarr", consolidated=False, chunks=None
            ) as found,
            xarray.open_dataset(virtual.source, engine="h5netcdf") as expected,
        ):
            assert set(expected.variables) <= set(found.variables)
            for name in expected.variables:
                xarray.testing.assert_equal(found[name].variable, expected[name].variable)


def test_virtual_chunks_are_ranges_of_the_file(virtual: Virtual) -> None:
    """The extended attributes of a chunk name the bytes of the source that READ gives."""
    content = virtual.source.read_bytes()
    seen = 0
    for name in walk(virtual.path):
        path = virtual.path / name
        if not path.is_file() or path.name == "zarr.json":
            continue
        about = xattrs(path)
        assert about["source"] == virtual.source.as_uri()
        start, length = int(about["offset"]), int(about["length"])
        assert path.stat().st_size == length
        assert read(path) == content[start : start + length]
        seen += 1
    assert seen >= 8


# -- refs --------------------------------------------------------------------------------------


class History:
    """A repository with a history: *snapshots* by message, on main, with the branch `dev` and the tag `v1`."""

    def __init__(self, path: Path, spec: int = 2) -> None:
        self.path = path
        repository = create(path, spec=spec)
        self.snapshots = {}
        for value in (1, 2, 3):
            self.snapshots[value] = self.write(repository, "main", value)
        repository.create_tag("v1", snapshot_id=self.snapshots[1])
        repository.create_branch("dev", snapshot_id=self.snapshots[2])
        self.snapshots[4] = self.write(repository, "dev", 4)
        self.times = {
            value: next(iter(repository.ancestry(snapshot_id=snapshot))).written_at
            for value, snapshot in self.snapshots.items()
        }

    @staticmethod
    def write(repository: icechunk.Repository, branch: str, value: int) -> str:
        session = repository.writable_session(branch)
        root = zarr.open_group(session.store, mode="a")
        if "a" not in root:
            root.create_array("a", shape=(2,), chunks=(2,), dtype="u1", compressors=None)
        root["a"][:] = value
        return session.commit(f"value {value}")


@pytest.fixture(scope="module", params=[1, 2], name="history")
def _history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    return History(tmp_path_factory.mktemp("history") / "repository", request.param)


def test_each_way_to_name_a_snapshot_shows_that_snapshot(
    history: History, mount: Callable[..., Mount]
) -> None:
    """--branch, --tag, --snapshot (in full, or by a unique beginning, in either case) and --as-of choose the snapshot.

    They mean the same to every command: `vzfs info` tells of all of them, and some are mounted.
    """
    ids, times = history.snapshots, history.times
    unique = next(
        ids[2][:n]
        for n in range(1, 21)
        if sum(i.startswith(ids[2][:n]) for i in all_ids(history)) == 1
    )
    between = times[1] + (times[2] - times[1]) / 2
    cases = {
        (): 3,
        ("--branch", "dev"): 4,
        ("--tag", "v1"): 1,
        ("--snapshot", ids[2]): 2,
        ("--snapshot", unique): 2,
        ("--snapshot", ids[1].lower()): 1,
        ("--as-of", between.isoformat()): 1,
        ("--as-of", times[2].isoformat()): 2,
        ("--branch", "dev", "--as-of", times[2].isoformat()): 2,
    }
    for options, value in cases.items():
        said = CliRunner().invoke(info, [str(history.path), "--json", *options])
        assert json.loads(said.stdout)["snapshot"] == ids[value], options
    for options in (
        (),
        ("--snapshot", unique),
        ("--branch", "dev", "--as-of", times[2].isoformat()),
    ):
        value = cases[options]
        mounted = mount(history.path, *options)
        assert read(mounted.path / "a/c/0") == bytes([value] * 2), options
        assert xattrs(mounted.path)["snapshot"] == ids[value]
        mounted.end()


def all_ids(history: History) -> set[str]:
    repository = open_for_writing(history.path)
    return {
        snapshot.id for branch in ("main", "dev") for snapshot in repository.ancestry(branch=branch)
    }


@pytest.mark.parametrize(
    ("options", "exit_code", "said"),
    [
        (["--branch", "nope"], 3, "nope"),
        (["--tag", "nope"], 3, "nope"),
        (["--snapshot", "0" * 20], 3, "0" * 20),
        (["--snapshot", "not an id!"], 3, "not an id!"),
        (["--as-of", "1999-01-01"], 3, "1999"),
        (["--snapshot", "AMBIGUOUS"], 3, "more"),
    ],
    ids=["branch", "tag", "snapshot", "nonsense", "too early", "ambiguous"],
)
def test_a_snapshot_that_cannot_be_chosen_is_said_so(
    options: list[str], exit_code: int, said: str, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A ref that does not exist, a time before the history, and an ambiguous id end with one clear line and exit code 3."""
    path = tmp_path / "repository"
    repository = create(path)
    if options[-1] == "AMBIGUOUS":
        ids: list[str] = []
        while len({i[0] for i in ids}) == len(ids):
            session = repository.writable_session("main")
            zarr.group(session.store, attributes={"n": len(ids)}, overwrite=True)
            ids.append(session.commit("another"))
        options = ["--snapshot", ids[-1][0]]
    with pytest.raises(MountFailedError) as caught:
        mount(path, *options)
    outcome = caught.value.args[0]
    assert outcome["exit"] == exit_code
    assert said in outcome["error"]
    assert "\n" not in outcome["error"]


# -- states of a repository --------------------------------------------------------------------


def test_a_read_only_repository_is_mounted_like_any_other(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A repository whose owner made it read-only is readable, and the log mentions it."""
    path = tmp_path / "repository"
    history = History(path)
    open_for_writing(path).set_status(
        icechunk.RepoStatus(
            icechunk.RepoAvailability.read_only, limited_availability_reason="moving house"
        )
    )
    mounted = mount(history.path)
    assert read(mounted.path / "a/c/0") == bytes([3, 3])
    assert any("moving house" in line for line in mounted.log())


def test_a_repository_that_is_offline_is_not_mounted(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A repository that its owner has taken offline is refused with exit code 6 and the owner's reason."""
    path = tmp_path / "repository"
    History(path)
    open_for_writing(path).set_status(
        icechunk.RepoStatus(
            icechunk.RepoAvailability.read_only, limited_availability_reason="moving house"
        )
    )
    patch_payload(path / "repo", field=5, subfield=0, old=1, new=2)
    with pytest.raises(MountFailedError) as caught:
        mount(path)
    outcome = caught.value.args[0]
    assert outcome["exit"] == 6
    assert "offline" in outcome["error"]
    assert "moving house" in outcome["error"]


@pytest.mark.parametrize("file", ["repo", "snapshots"])
def test_an_unknown_version_of_the_format_is_refused(
    file: str, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A file of a later specification ends `vzfs mount` with exit code 6 and a line that names the version."""
    path = tmp_path / "repository"
    history = History(path)
    target = path / "repo" if file == "repo" else path / "snapshots" / history.snapshots[3]
    content = bytearray(target.read_bytes())
    assert content[36] == 2
    content[36] = 9
    target.write_bytes(content)
    with pytest.raises(MountFailedError) as caught:
        mount(path)
    outcome = caught.value.args[0]
    assert outcome["exit"] == 6
    assert "9" in outcome["error"]
    assert "version" in outcome["error"]


def test_an_array_with_an_unknown_grid_shows_its_document_and_denies_nothing(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """An array of a grid that vzfs does not know has its zarr.json; a possible chunk of it is EIO, never absent."""
    path = tmp_path / "repository"
    session = create(path).writable_session("main")
    root = zarr.group(session.store)
    add_native(root, "a", GRID, (2, 3))
    add_native(root, "b", GRID, (2, 3))
    session.commit("known")
    tip = open_for_writing(path).lookup_branch("main")
    snapshot = path / "snapshots" / tip
    patch_payload(snapshot, text=(b'"regular"', b'"regulas"'))
    mounted = mount(path)
    for name in ("a", "b"):
        document = json.loads((mounted.path / name / "zarr.json").read_bytes())
        is_known = document["chunk_grid"]["name"] == "regular"
        chunk = mounted.path / name / "c/0/0"
        if is_known:
            assert read(chunk) == GRID[:2, :3].tobytes()
        else:
            with pytest.raises(OSError, match="Input/output error"):
                chunk.read_bytes()
    mounted.expect_log("regulas")
