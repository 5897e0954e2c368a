"""Files of archives to references: authorized, of one version, parsed once, whatever the parser does."""

import io
import os
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import trio

from tests import archives
from tests.io.hostileparser import build
from tests.io.parsings import PLACE, Files
from vzfs.access import AuthorizedRange
from vzfs.archival import kinds, parsing, processes, worker
from vzfs.archival.building import HierarchyBuilder
from vzfs.archival.kinds import Kind, Needs
from vzfs.archival.wire import Job
from vzfs.cache import DiskCache
from vzfs.confined.process import start
from vzfs.errors import AccessDenied, ErrorKind, FormatError, SourceError
from vzfs.formats.references import encode_references
from vzfs.model.location import ETag, parse_location
from vzfs.model.manifest import ChunkKind
from vzfs.source import Fetched, Sink, Stat, Urgency

TINY = "archival/netcdf3/tiny.nc"


def hdf5(**datasets: np.ndarray) -> bytes:
    """Return a file of *datasets*."""
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
    return made.getvalue()


SMALL = hdf5(x=np.arange(10, dtype="i4"), y=np.arange(3.0))


@pytest.fixture
def disk(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", max_bytes=2**30, limiter=trio.CapacityLimiter(4))


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files parsed as they say themselves."""

    async def other(module: str, descriptors: list[int]) -> trio.Process:
        return await start("tests.io.hostileparser", descriptors)

    monkeypatch.setattr(processes, "start", other)


async def gone(process: int) -> None:
    """Wait until a process has ended; return at once if it has."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    with trio.fail_after(20):
        await trio.lowlevel.wait_readable(descriptor)
    os.close(descriptor)


def bad(what: str) -> bytes:
    return b"CDF\1" + what.encode()


async def test_a_file_becomes_references_into_itself() -> None:
    """Every ref has the file's URL and the version that was parsed; a small file costs one question and one fetch."""
    files = Files()
    place = files.add("f%20%23.nc", SMALL)
    async with files.parser() as parser:
        found = await parser.parse(place)
    assert archives.arrays(found) == ["x", "y"]
    for manifest in found.manifests.values():
        for row in range(len(manifest)):
            ref = manifest.ref(row)
            assert ref.kind is ChunkKind.VIRTUAL
            assert ref.location == str(place) == f"{PLACE}/f%20%23.nc"
            assert ref.checksum == ETag(files.seen(str(place)).etag or "")
    assert archives.opened(found, SMALL)["x"][...].tolist() == list(range(10))
    assert len(files.asked) == 1
    assert len(files.fetched) == 1
    assert parser.processes == []


async def test_one_process_parses_file_after_file() -> None:
    """A process that behaves is used again, and none outlives the parser."""
    files = Files()
    async with files.parser(workers=1) as parser:
        for number in range(5):
            await parser.parse(files.add(f"{number}.h5", SMALL))
        assert parser.started == 1
        [process] = parser.processes
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_a_second_mount_parses_nothing(disk: DiskCache) -> None:
    """A file that is as it was costs one question to its store: no fetch and no process."""
    files = Files()
    place = files.add("f.nc", SMALL)
    async with files.parser(disk) as parser:
        first = await parser.parse(place)
    files.asked.clear()
    files.fetched.clear()
    async with files.parser(disk) as parser:
        second = await parser.parse(place)
        assert parser.started == 0
    assert len(files.asked) == 1
    assert files.fetched == []
    assert second.nodes == first.nodes
    for path, manifest in first.manifests.items():
        assert [manifest.ref(r) for r in range(len(manifest))] == [
            second.manifests[path].ref(r) for r in range(len(manifest))
        ]


async def test_another_version_is_parsed_anew(disk: DiskCache) -> None:
    """What was parsed counts for the version that was parsed, and for no other."""
    files = Files()
    place = files.add("f.nc", SMALL)
    async with files.parser(disk) as parser:
        await parser.parse(place)
        files.add("f.nc", hdf5(z=np.zeros(4)))
        assert archives.arrays(await parser.parse(place)) == ["z"]


async def test_what_is_kept_is_believed_no_more_than_a_process(
    disk: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept references that are damaged are not used; the file is parsed again."""
    files = Files()
    place = files.add("f.nc", SMALL)
    async with files.parser(disk) as parser:
        await parser.parse(place)

        async def damaged(key: object, shelf: str) -> bytes:
            return b"VZFSREFS" + bytes(100)

        monkeypatch.setattr(disk, "get", damaged)
        assert archives.arrays(await parser.parse(place)) == ["x", "y"]
        assert len(files.fetched) == 2


class Replaced(Files):
    """Files that are replaced as soon as something of them was got."""

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Urgency = Urgency.DEMAND,
    ) -> Fetched:
        fetched = await super().fetch(wanted, pinned, sink=sink, urgency=urgency)
        self.put(str(wanted.location), hdf5(other=np.zeros(3 * 2**20)))
        return fetched


async def test_two_versions_never_mix(disk: DiskCache) -> None:
    """A file that is replaced while it is parsed is an error, and nothing of it is kept."""
    files = Replaced()
    place = files.add("f.nc", hdf5(x=np.arange(3 * 2**20, dtype="f8"), y=np.zeros(3)))
    async with files.parser(disk) as parser:
        with pytest.raises(SourceError) as caught:
            await parser.parse(place)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED
        assert parser.processes == []


class ReplacedEarly(Files):
    """Files that are replaced as soon as their version is told."""

    async def stat(self, wanted: AuthorizedRange) -> Stat:
        found = await super().stat(wanted)
        self.put(str(wanted.location), hdf5(other=np.zeros(4)))
        return found


async def test_what_is_parsed_is_the_version_that_was_told(disk: DiskCache) -> None:
    """A file that is replaced before a byte of it was got is an error: its refs would name the version before."""
    files = ReplacedEarly()
    place = files.add("f.nc", SMALL)
    async with files.parser(disk) as parser:
        with pytest.raises(SourceError) as caught:
            await parser.parse(place)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


class Restored(Files):
    """Files without etags, which an older version takes the place of as soon as something was got."""

    async def fetch(
        self,
        wanted: AuthorizedRange,
        pinned: str | None = None,
        *,
        sink: Sink | None = None,
        urgency: Urgency = Urgency.DEMAND,
    ) -> Fetched:
        fetched = await super().fetch(wanted, pinned, sink=sink, urgency=urgency)
        data = self._find(wanted)[0]
        self.put(str(wanted.location), data, etag=None, last_modified=50)
        return fetched


async def test_an_older_version_does_not_mix_either() -> None:
    """A date refuses versions that are younger; all ranges are of one version all the same."""
    files = Restored()
    place = files.add("f.nc", content := hdf5(x=np.zeros(3 * 2**20), y=np.zeros(3)))
    files.put(str(place), content, etag=None, last_modified=100)
    async with files.parser() as parser:
        with pytest.raises(SourceError) as caught:
            await parser.parse(place)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


async def test_kept_references_lead_into_their_file(
    disk: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept references to bytes beyond the end of the file are not used, well made as they are."""
    files = Files()
    place = files.add("f.nc", SMALL)
    to = HierarchyBuilder("")
    build(to).virtual((0,), len(SMALL) - 3, 4)
    made = bytes(encode_references(to.build()))

    async def other(*_: object, **__: object) -> bytes:
        return made

    async with files.parser(disk) as parser:
        await parser.parse(place)
        monkeypatch.setattr(disk, "get", other)
        assert archives.arrays(await parser.parse(place)) == ["x", "y"]


async def test_of_a_large_file_little_is_fetched() -> None:
    """Of a file whose metadata are few, some blocks are fetched, not the values."""
    files = Files()
    content = hdf5(x=np.zeros(5 * 2**20), y=np.zeros(3))
    place = files.add("f.nc", content)
    async with files.parser() as parser:
        await parser.parse(place)
    assert sum(fetch.length or 0 for fetch in files.fetched) < len(content) // 10


async def test_a_place_that_is_not_allowed_is_not_asked() -> None:
    """Policy decides before anything is asked for or started."""
    files = Files()
    async with files.parser() as parser:
        with pytest.raises(AccessDenied):
            await parser.parse(parse_location("s3://other/f.nc"))
        assert parser.started == 0
    assert files.asked == []


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("allocate", ErrorKind.NOT_PARSED, "takes more than 2147483648 bytes of memory"),
        ("abort", ErrorKind.NOT_PARSED, r"died \(SIGABRT\)"),
        ("segfault", ErrorKind.NOT_PARSED, r"died \(SIGSEGV\)"),
        ("kill", ErrorKind.NOT_PARSED, r"died \(SIGKILL\)"),
        ("exit", ErrorKind.NOT_PARSED, r"died \(exit code 3\)"),
        ("panic", ErrorKind.NOT_PARSED, "PanicException: a slice is out of range"),
        ("raise", ErrorKind.NOT_PARSED, r"RuntimeError: line  \[31mbreak x*\.\.\. \["),
        ("unpresentable", ErrorKind.UNSUPPORTED_FORMAT, "there is nothing in it"),
        ("library", ErrorKind.UNSUPPORTED_FORMAT, "eccodes is not installed"),
        ("nonsense", ErrorKind.NOT_PARSED, "made no sense"),
        ("too much", ErrorKind.NOT_PARSED, "it says too much"),
        ("outside", ErrorKind.NOT_PARSED, "it wants more than there is"),
        ("lies", ErrorKind.NOT_PARSED, "made no sense .*a chunk ends at"),
        ("network", ErrorKind.NOT_PARSED, "PermissionError"),
        ("files", ErrorKind.NOT_PARSED, "PermissionError"),
        ("writing", ErrorKind.NOT_PARSED, "PermissionError"),
    ],
)
@pytest.mark.usefixtures("hostile")
async def test_whatever_a_parser_does_costs_one_file(
    what: str, kind: ErrorKind, message: str
) -> None:
    """A parser that dies, lies, allocates or panics is one error that names the file; the next file is parsed."""
    files = Files()
    place = files.add("bad.nc", bad(what))
    async with files.parser(workers=1) as parser:
        with pytest.raises(FormatError, match=message) as caught:
            await parser.parse(place)
        assert caught.value.kind is kind
        assert caught.value.where == str(place)
        assert "\n" not in str(caught.value)
        good = await parser.parse(files.add("good.nc", bad("fine")))
        assert archives.arrays(good) == ["x"]
        assert parser.started <= 2


@pytest.mark.usefixtures("hostile")
async def test_a_parser_that_hangs_is_ended() -> None:
    """A parser has a bounded time for a file, of which waiting for the file is no part."""
    files = Files()
    async with files.parser(workers=1, seconds=0.5) as parser:
        with pytest.raises(FormatError, match=r"longer than 0\.5 seconds"):
            await parser.parse(files.add("bad.nc", bad("spin")))
        assert parser.processes == []


def test_a_process_whose_daemon_is_gone_runs_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends a process that takes more time than its file may, and than the daemon needs to end it."""
    resource = worker.resource
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    monkeypatch.setattr(worker.signal, "setitimer", lambda *_: None)  # it would end this process
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = used.ru_utime + used.ru_stime
    worker._limit(Job("hdf5", 1, 2**30, 5.0))
    left = limits[resource.RLIMIT_CPU][0] - before
    assert 5 < left < 5 + worker.PATIENCE + 5
    assert limits[resource.RLIMIT_AS][0] >= 2**30


@pytest.mark.usefixtures("hostile")
async def test_who_gives_up_leaves_no_process() -> None:
    """A parse that is cancelled ends its process."""
    files = Files()
    place = files.add("bad.nc", bad("spin"))
    async with files.parser(workers=1) as parser:
        with trio.move_on_after(0.5) as scope:
            await parser.parse(place)
        assert scope.cancelled_caught
        assert parser.processes == []


async def test_a_process_dies_with_its_daemon() -> None:
    """If the daemon is killed, a process that waits for files ends by itself."""
    program = (
        "import os, signal, trio\n"
        "from vzfs.archival.processes import Process\n"
        "async def main():\n"
        "    started = await Process.start()\n"
        "    print(started.process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "trio.run(main)\n"
    )
    daemon = await trio.run_process(
        [sys.executable, "-c", program], check=False, capture_stdout=True
    )
    assert daemon.returncode == -signal.SIGKILL
    await gone(int(daemon.stdout))


async def test_thousands_of_small_files_are_kept_in_few(disk: DiskCache, tmp_path: Path) -> None:
    """What was parsed of the files of a folder lies together, and none waits to be written at the end."""
    files = Files()
    async with files.parser(disk) as parser:
        places = [files.add(f"{number}.nc", SMALL) for number in range(50)]
        for place in places:
            await parser.parse(place)
    assert disk.statistics().unwritten == 0
    assert disk.statistics().writes >= 50
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) < 25
    again = DiskCache(tmp_path / "cache", max_bytes=2**30, limiter=trio.CapacityLimiter(4))
    async with files.parser(again) as parser:
        for place in places:
            await parser.parse(place)
        assert parser.started == 0


async def test_a_machine_that_starts_no_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be made, for want of memory or open files, the file cannot be parsed, and why is said."""

    async def none(module: str, descriptors: list[int]) -> trio.Process:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "start", none)
    files = Files()
    place = files.add("f.nc", SMALL)
    async with files.parser() as parser:
        with pytest.raises(FormatError, match="temporarily unavailable") as caught:
            await parser.parse(place)
    assert caught.value.where == str(place)


async def test_a_source_that_fails_is_said_as_it_is() -> None:
    """What a store says while a file is parsed is the error, and no process is left in the middle."""
    files = Files()
    place = files.add("f.nc", hdf5(x=np.zeros(5 * 2**20), y=np.zeros(3)))
    files.fail(str(place), None, ErrorKind.SOURCE_UNREACHABLE)
    async with files.parser() as parser:
        with pytest.raises(SourceError) as caught:
            await parser.parse(place)
        assert caught.value.kind is ErrorKind.SOURCE_UNREACHABLE
        assert parser.processes == []


async def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose library is missing says what to install, and starts nothing."""
    monkeypatch.setitem(kinds._NEEDS, Kind.HDF5, Needs("HDF5", 1, ("no_such_module",), "hdf5"))
    files = Files()
    async with files.parser() as parser:
        with pytest.raises(FormatError, match=r"pip install 'vzfs\[hdf5\]'") as caught:
            await parser.parse(files.add("f.nc", SMALL))
        assert caught.value.kind is ErrorKind.UNSUPPORTED_FORMAT
        assert parser.started == 0


@pytest.mark.parametrize("content", [b"", b"some text", b"<html></html>"])
async def test_what_is_no_such_file_is_said(content: bytes) -> None:
    """A file of no known kind is an error that names it and the kinds."""
    files = Files()
    async with files.parser() as parser:
        with pytest.raises(FormatError, match=r"no kind of file that vzfs knows .*f\.nc\].*GRIB"):
            await parser.parse(files.add("f.nc", content))
        assert parser.started == 0


async def test_a_zip_file_is_no_file_of_an_archive() -> None:
    """What a ZIP file is for is said; nothing is started for it."""
    files = Files()
    async with files.parser() as parser:
        with pytest.raises(FormatError, match="ZIP file"):
            await parser.parse(files.add("f.zip", b"PK\3\4"))
        assert parser.started == 0


async def test_what_describes_another_file_is_called_like_it() -> None:
    """A file that describes another leads to that, which is looked at too; by another name it is refused."""
    files = Files()
    async with files.parser() as parser:
        with pytest.raises(FormatError, match=r"called NAME\.dmrpp"):
            await parser.parse(files.add("f.xml", b"<Dataset xmlns:dmrpp='x'/>"))
        with pytest.raises(SourceError) as caught:
            await parser.parse(files.add("f.nc.dmrpp", b"<Dataset xmlns:dmrpp='x'/>"))
    assert caught.value.kind is ErrorKind.SOURCE_VANISHED
    assert caught.value.where == f"{PLACE}/f.nc"


async def test_real_files_are_parsed_in_processes(data: Path, disk: DiskCache) -> None:
    """What a process makes of a real file is what its parser makes."""
    files = Files()
    async with files.parser(disk) as parser:
        for name, kind in [(TINY, "netcdf3"), ("archival/hdf5/chunked_v4_datasets.hdf5", "hdf5")]:
            content = (data / name).read_bytes()
            found = await parser.parse(files.add(Path(name).name, content))
            direct = archives.parsed(content, kind)
            assert found.nodes == direct.nodes
            for path, manifest in direct.manifests.items():
                assert np.array_equal(manifest.offset, found.manifests[path].offset)
                assert np.array_equal(manifest.length, found.manifests[path].length)
        assert parsing._parsers() == parsing._parsers()
